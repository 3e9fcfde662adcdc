/* SPDX-License-Identifier: Apache-2.0 */
/* Windows of convolutions and pools: attributes to numbers, by ONNX's rules. All numbers stay below
 * 2^31, so that sums and products of two of them fit. */
#include "ref/window.h"

#include <string.h>

#define LIMIT ((int64_t)1 << 31)

/* n numbers in [low, 2^31), or `absent` where the attribute is not there. */
static bool read_numbers(const tdn_attrs *attrs, const char *name, int n, int64_t low,
                         int64_t absent, int64_t *out)
{
    int count;
    const int64_t *v = tdn_attr_ints(attrs, name, &count);
    if (v && count != n)
        return false;
    for (int i = 0; i < n; i++) {
        out[i] = v ? v[i] : absent;
        if (out[i] < low || out[i] >= LIMIT)
            return false;
    }
    return true;
}

static void pad_same(tdn_window *w, const int64_t *in, bool upper)
{
    w->same = true;
    for (int i = 0; i < w->n; i++) {
        const int64_t out = (in[i] + w->stride[i] - 1) / w->stride[i];
        int64_t total = (out - 1) * w->stride[i] + (w->kernel[i] - 1) * w->dilation[i] + 1 - in[i];
        total = total < 0 ? 0 : total;
        w->before[i] = upper ? total / 2 : total - total / 2;
        w->after[i] = total - w->before[i];
    }
}

const char *tdn_window_read(tdn_window *w, const tdn_attrs *attrs, int n, const int64_t *in,
                            const int64_t *kernel)
{
    int64_t pads[2 * TDN_WINDOW_MAX];
    *w = (tdn_window){.n = n};
    if (n < 1 || n > TDN_WINDOW_MAX)
        return "windows have one to three spatial axes";
    for (int i = 0; i < n; i++) {
        if (kernel[i] < 1 || kernel[i] >= LIMIT || in[i] < 0 || in[i] >= LIMIT)
            return "kernel or input out of range";
        w->kernel[i] = kernel[i];
    }
    if (!read_numbers(attrs, "strides", n, 1, 1, w->stride))
        return "attribute 'strides' is wrong";
    if (!read_numbers(attrs, "dilations", n, 1, 1, w->dilation))
        return "attribute 'dilations' is wrong";
    const char *mode = tdn_attr_string(attrs, "auto_pad", "NOTSET");
    if (!strcmp(mode, "VALID"))
        return NULL;
    if (!strcmp(mode, "SAME_UPPER") || !strcmp(mode, "SAME_LOWER")) {
        pad_same(w, in, mode[5] == 'U');
        return NULL;
    }
    if (strcmp(mode, "NOTSET") && mode[0])
        return "attribute 'auto_pad' is unknown";
    if (!read_numbers(attrs, "pads", 2 * n, 0, 0, pads))
        return "attribute 'pads' is wrong";
    memcpy(w->before, pads, (size_t)n * sizeof *pads);
    memcpy(w->after, pads + n, (size_t)n * sizeof *pads);
    return NULL;
}

int64_t tdn_window_positions(const tdn_window *w, int axis, int64_t in, bool ceil_mode)
{
    const int64_t stride = w->stride[axis], reach = (w->kernel[axis] - 1) * w->dilation[axis] + 1;
    if (w->same)
        return (in + stride - 1) / stride;
    const int64_t room = in + w->before[axis] + w->after[axis] - reach;
    if (room < 0)
        return -1;
    int64_t out = room / stride + 1;
    if (ceil_mode && room % stride && out * stride < in + w->before[axis])
        out++;
    return out;
}
