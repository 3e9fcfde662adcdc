/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Convolutions. The core form is Conv of the domain "tendon": strides, dilations, pads and group
 * are all set, auto_pad is resolved; the bias stays an optional third input.
 */
#include <string.h>

#include "ops/emit.h"
#include "ref/window.h"

static const tdn_dtype floats[] = {TDN_F32, TDN_F16, TDN_BF16, TDN_F64, TDN_DTYPE_NONE};

/* What all convolutions ask of x and w, and the window. */
static tdn_status conv_window(tdn_infer *io, tdn_window *window)
{
    TDN_TRY(tdn_infer_rank(io, 0, 3, 5));
    TDN_TRY(tdn_infer_rank(io, 1, 3, 5));
    TDN_TRY(tdn_infer_dtype(io, 0, floats));
    const tdn_value *x = io->node->in[0], *w = io->node->in[1];
    TDN_NEED(io, w->dtype == x->dtype && w->shape.rank == x->shape.rank,
             "weights of another rank or type than the input");
    int n;
    const int spatial = x->shape.rank - 2;
    const int64_t *kernel = tdn_attr_ints(&io->node->attrs, "kernel_shape", &n);
    TDN_NEED(io,
             !kernel ||
                 (n == spatial && !memcmp(kernel, w->shape.dims + 2, (size_t)n * sizeof *kernel)),
             "attribute 'kernel_shape' is not the weights' shape");
    const char *wrong =
        tdn_window_read(window, &io->node->attrs, spatial, x->shape.dims + 2, w->shape.dims + 2);
    return wrong ? tdn_fail(io->error, TDN_E_MODEL, "%s", wrong) : TDN_OK;
}

static tdn_status check_bias(tdn_infer *io, int input, int64_t m)
{
    const tdn_value *b = tdn_in(io->node, input);
    if (!b)
        return TDN_OK;
    TDN_NEED(io, b->shape.rank == 1 && b->shape.dims[0] == m && b->dtype == io->node->in[0]->dtype,
             "the bias has not one element an output channel");
    return TDN_OK;
}

/* Shape of the output of a plain or deformable convolution. */
static tdn_status conv_shape(tdn_infer *io, tdn_window *window, tdn_shape *y)
{
    TDN_TRY(conv_window(io, window));
    const tdn_shape *x = &io->node->in[0]->shape, *w = &io->node->in[1]->shape;
    const int64_t group = tdn_attr_int(&io->node->attrs, "group", 1);
    TDN_NEED(io,
             group > 0 && group <= x->dims[1] && x->dims[1] % group == 0 && w->dims[0] % group == 0,
             "attribute 'group' does not divide the channels");
    if (w->dims[1] != x->dims[1] / group)
        return tdn_fail(io->error, TDN_E_MODEL,
                        "weights for %lld channels a group, where the input has %lld",
                        (long long)w->dims[1], (long long)(x->dims[1] / group));
    *y = *x;
    y->dims[1] = w->dims[0];
    for (int i = 0; i < window->n; i++) {
        y->dims[2 + i] = tdn_window_positions(window, i, x->dims[2 + i], false);
        TDN_NEED(io, y->dims[2 + i] >= 0, "the kernel is longer than the padded input");
    }
    return TDN_OK;
}

static tdn_status conv_infer(tdn_infer *io)
{
    tdn_window window;
    tdn_shape y;
    TDN_TRY(conv_shape(io, &window, &y));
    TDN_TRY(check_bias(io, 2, y.dims[1]));
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

/* Products of halves, whose sums are float32. */
static tdn_status half_conv_infer(tdn_infer *io)
{
    tdn_window window;
    tdn_shape y;
    TDN_TRY(conv_shape(io, &window, &y));
    return tdn_infer_set(io, 0, TDN_F32, &y);
}

static tdn_status conv_decompose(tdn_infer *io)
{
    tdn_window window;
    tdn_shape y;
    TDN_TRY(conv_shape(io, &window, &y));
    const int n_in = tdn_in(io->node, 2) ? 3 : 2;
    return tdn_emit_end(io, tdn_emit_conv(io, "Conv", io->node->in, n_in, &window));
}

static int64_t conv_flops(const tdn_node *node)
{
    const tdn_shape *w = &node->in[1]->shape;
    const int64_t per_output = w->dims[0] > 0 ? tdn_shape_count(w) / w->dims[0] : 0;
    int64_t flops;
    const bool over =
        __builtin_mul_overflow(2 * per_output, tdn_shape_count(&node->out[0]->shape), &flops);
    return over ? INT64_MAX : flops;
}

/* ---- Transposed ------------------------------------------------------------------------------ */

static tdn_status transposed_extent(tdn_infer *io, const tdn_window *w, int i, int64_t extra,
                                    int64_t *out)
{
    const int64_t in = io->node->in[0]->shape.dims[2 + i];
    const char *mode = tdn_attr_string(&io->node->attrs, "auto_pad", "NOTSET");
    int n;
    const int64_t *shape = tdn_attr_ints(&io->node->attrs, "output_shape", &n);
    TDN_NEED(io, extra >= 0 && extra < (int64_t)1 << 31, "attribute 'output_padding' out of range");
    if (shape) {
        TDN_NEED(io, n == w->n || n == w->n + 2,
                 "attribute 'output_shape' has not one integer an axis");
        *out = shape[n - w->n + i];
    } else if (!strncmp(mode, "SAME", 4)) {
        *out = in * w->stride[i];
    } else {
        *out = w->stride[i] * (in - 1) + extra + (w->kernel[i] - 1) * w->dilation[i] + 1 -
               w->before[i] - w->after[i];
    }
    TDN_NEED(io, *out >= 0 && *out < (int64_t)1 << 31, "the output's extent is out of range");
    return TDN_OK;
}

static tdn_status conv_transpose_infer(tdn_infer *io)
{
    tdn_window window;
    TDN_TRY(conv_window(io, &window));
    const tdn_shape *x = &io->node->in[0]->shape, *w = &io->node->in[1]->shape;
    const int64_t group = tdn_attr_int(&io->node->attrs, "group", 1);
    TDN_NEED(io,
             group > 0 && group <= x->dims[1] && x->dims[1] % group == 0 &&
                 w->dims[1] <= INT64_MAX / group,
             "attribute 'group' does not divide the channels");
    TDN_NEED(io, w->dims[0] == x->dims[1],
             "weights for another number of channels than the input has");
    int n;
    const int64_t *extra = tdn_attr_ints(&io->node->attrs, "output_padding", &n);
    TDN_NEED(io, !extra || n == window.n, "attribute 'output_padding' has not one integer an axis");
    tdn_shape y = *x;
    y.dims[1] = w->dims[1] * group;
    for (int i = 0; i < window.n; i++)
        TDN_TRY(transposed_extent(io, &window, i, extra ? extra[i] : 0, &y.dims[2 + i]));
    TDN_TRY(check_bias(io, 2, y.dims[1]));
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

static int64_t conv_transpose_flops(const tdn_node *node)
{
    const tdn_shape *x = &node->in[0]->shape, *w = &node->in[1]->shape;
    const int64_t per_input = w->dims[0] > 0 ? tdn_shape_count(w) / w->dims[0] : 0;
    int64_t flops;
    return __builtin_mul_overflow(2 * per_input, tdn_shape_count(x), &flops) ? INT64_MAX : flops;
}

/* ---- Deformable ------------------------------------------------------------------------------ */

static tdn_status deform_conv_infer(tdn_infer *io)
{
    tdn_window window;
    tdn_shape y;
    TDN_TRY(tdn_infer_rank(io, 0, 4, 4));
    TDN_TRY(conv_shape(io, &window, &y));
    TDN_TRY(check_bias(io, 3, y.dims[1]));
    const int64_t channels = io->node->in[0]->shape.dims[1];
    const int64_t groups = tdn_attr_int(&io->node->attrs, "offset_group", 1);
    TDN_NEED(io, groups > 0 && groups <= channels && channels % groups == 0,
             "attribute 'offset_group' does not divide the channels");
    for (int i = 2; i <= 4; i += 2) {
        const tdn_value *v = tdn_in(io->node, i);
        const int64_t expected = groups * window.kernel[0] * window.kernel[1] * (i == 2 ? 2 : 1);
        TDN_NEED(io, v || i == 4, "input 2 'offset' is missing");
        TDN_NEED(io,
                 !v || (v->shape.rank == 4 && v->shape.dims[0] == y.dims[0] &&
                        v->shape.dims[1] == expected && v->shape.dims[2] == y.dims[2] &&
                        v->shape.dims[3] == y.dims[3]),
                 "offset or mask have not one number a kernel position and output");
    }
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

#define ROW(name_, domain_, since_, min_in_, max_in_)                                              \
    .name = name_, .domain = domain_, .since = since_, .n_in_min = min_in_, .n_in_max = max_in_,   \
    .n_out_min = 1, .n_out_max = 1

const tdn_op_def tdn_ops_conv[] = {
    {ROW("Conv", "", 1, 2, 3), .infer = conv_infer, .decompose = conv_decompose,
     .flops = conv_flops},
    {ROW("Conv", "tendon", 1, 2, 3), .infer = conv_infer, .core = TDN_CORE_CONV,
     .flops = conv_flops},
    {ROW("HalfConv", "tendon", 1, 2, 2), .infer = half_conv_infer, .core = TDN_CORE_HALF_CONV,
     .reference = "Conv", .flops = conv_flops},
    {ROW("ConvTranspose", "", 1, 2, 3), .infer = conv_transpose_infer,
     .flops = conv_transpose_flops},
    {ROW("DeformConv", "", 19, 3, 5), .infer = deform_conv_infer, .flops = conv_flops},
    {0},
};
