/* SPDX-License-Identifier: Apache-2.0 */
/* Pooling, channels last: vectors over channels, four at a time so that their chains of maxima or
 * sums overlap. The largest of bytes and halves needs no such care: a vector of them is more. */
#include <math.h>

#include "backend/cpu/along.h"
#include "backend/cpu/vec.h"
#include "backend/cpu/window.h"

enum { VECTORS = 4 };

/* The taps of one output pixel that lie inside, and the divisor of an average. */
typedef struct window {
    const char *from;      /* of the first tap inside */
    int64_t size;          /* of an element */
    int64_t n[3], step[3]; /* in bytes */
    float scale;
} window;

/* Sets axis i for output index `at`; returns how many taps count. */
static int64_t set_axis(window *w, const tdn_pool_desc *d, const tdn_view *x, int i, int64_t at)
{
    const int64_t first = at * d->stride[i] - d->pad[i], extent = x->dims[i + 1];
    int64_t begin, end, padded_begin, padded_end;
    tdn_taps_inside(first, d->kernel[i], d->dilation[i], extent, &begin, &end);
    w->n[i] = end - begin;
    w->step[i] = d->dilation[i] * x->strides[i + 1] * w->size;
    if (end > begin)
        w->from += (first + begin * d->dilation[i]) * x->strides[i + 1] * w->size;
    tdn_taps_inside(first + d->pad[i], d->kernel[i], d->dilation[i],
                    extent + d->pad[i] + d->pad_end[i], &padded_begin, &padded_end);
    return d->count_include_pad ? padded_end - padded_begin : end - begin;
}

TDN_INLINE void pool_channels(const window *w, float *to, int64_t c, int n, const int vectors,
                              const bool is_max)
{
    vf acc[VECTORS];
    TDN_UNROLLED (int v = 0; v < vectors; v++)
        acc[v] = vf_set(is_max ? -INFINITY : 0);
    for (int64_t i = 0; i < w->n[0]; i++)
        for (int64_t j = 0; j < w->n[1]; j++) {
            const char *tap = w->from + i * w->step[0] + j * w->step[1];
            for (int64_t k = 0; k < w->n[2]; k++, tap += w->step[2])
                TDN_UNROLLED (int v = 0; v < vectors; v++) {
                    const float *p = (const float *)(const void *)tap + c;
                    const vf x = vectors == 1 ? vf_load_n(p, n) : vf_load(p + v * TDN_LANES);
                    acc[v] = is_max ? vf_max(acc[v], x) : acc[v] + x;
                }
        }
    TDN_UNROLLED (int v = 0; v < vectors; v++) {
        const vf y = is_max ? acc[v] : acc[v] * vf_set(w->scale);
        if (vectors == 1)
            vf_store_n(to + c, y, n);
        else
            vf_store(to + c + v * TDN_LANES, y);
    }
}

TDN_INLINE void pool_pixel(const window *w, float *to, int64_t channels, const bool is_max)
{
    int64_t c = 0;
    for (; c + VECTORS * TDN_LANES <= channels; c += VECTORS * TDN_LANES)
        pool_channels(w, to, c, TDN_LANES, VECTORS, is_max);
    for (; c < channels; c += TDN_LANES)
        pool_channels(w, to, c, (int)tdn_cpu_min(TDN_LANES, channels - c), 1, is_max);
}

static void largest_bytes(const window *w, uint8_t *restrict to, int64_t channels)
{
    memset(to, 0, (size_t)channels);
    for (int64_t i = 0; i < w->n[0]; i++)
        for (int64_t j = 0; j < w->n[1]; j++)
            for (int64_t k = 0; k < w->n[2]; k++) {
                const uint8_t *p =
                    (const uint8_t *)w->from + i * w->step[0] + j * w->step[1] + k * w->step[2];
                for (int64_t c = 0; c < channels; c++)
                    to[c] = to[c] > p[c] ? to[c] : p[c];
            }
}

/* Halves of either type are ordered as these integers; doing it again leads back. */
TDN_INLINE int16_t order(int16_t x) { return (int16_t)(x ^ ((x >> 15) & 0x7fff)); }

static void largest_halves(const window *w, int16_t *restrict to, int64_t channels, int16_t least)
{
    for (int64_t c = 0; c < channels; c++)
        to[c] = order(least);
    for (int64_t i = 0; i < w->n[0]; i++)
        for (int64_t j = 0; j < w->n[1]; j++)
            for (int64_t k = 0; k < w->n[2]; k++) {
                const int16_t *p = (const int16_t *)(const void *)(w->from + i * w->step[0] +
                                                                   j * w->step[1] + k * w->step[2]);
                for (int64_t c = 0; c < channels; c++) {
                    const int16_t x = order(p[c]);
                    to[c] = to[c] > x ? to[c] : x;
                }
            }
    for (int64_t c = 0; c < channels; c++)
        to[c] = order(to[c]);
}

TDN_INLINE void pool_line(const tdn_call *call, const int64_t at[3], const int64_t size)
{
    const tdn_pool_args *a = call->args;
    const tdn_view *x = &call->in[0], *out = &call->out[0];
    window line = {.from = (const char *)x->data + at[0] * x->strides[0] * size, .size = size};
    int64_t count = set_axis(&line, &a->desc, x, 0, at[1]);
    count *= set_axis(&line, &a->desc, x, 1, at[2]);
    char *to = (char *)out->data +
               (at[0] * out->strides[0] + at[1] * out->strides[1] + at[2] * out->strides[2]) * size;
    for (int64_t i = 0; i < out->dims[3]; i++, to += out->strides[3] * size) {
        window w = line;
        w.scale = 1.0f / (float)(count * set_axis(&w, &a->desc, x, 2, i));
        if (size == 1)
            largest_bytes(&w, (uint8_t *)to, out->dims[4]);
        else if (size == 2) /* the least is minus infinity */
            largest_halves(&w, (int16_t *)(void *)to, out->dims[4],
                           (int16_t)(x->dtype == TDN_F16 ? 0xfc00 : 0xff80));
        else if (a->desc.kind == TDN_POOL_MAX)
            pool_pixel(&w, (float *)(void *)to, out->dims[4], true);
        else
            pool_pixel(&w, (float *)(void *)to, out->dims[4], false);
    }
}

TDN_INLINE void pool_tile(const tdn_call *call, size_t tile, const int64_t size)
{
    const tdn_pool_args *a = call->args;
    const tdn_view *out = &call->out[0];
    int64_t line, end;
    tdn_cpu_share(a->n_lines, (int64_t)tile, a->n_tiles, &line, &end);
    for (; line < end; line++)
        pool_line(call,
                  (const int64_t[3]){line / out->dims[2] / out->dims[1],
                                     line / out->dims[2] % out->dims[1], line % out->dims[2]},
                  size);
}

void TDN_KERNEL(tdn_pool_f32)(const tdn_call *call, size_t tile)
{
    pool_tile(call, tile, sizeof(float));
}

void TDN_KERNEL(tdn_pool_u8)(const tdn_call *call, size_t tile) { pool_tile(call, tile, 1); }

void TDN_KERNEL(tdn_pool_half)(const tdn_call *call, size_t tile) { pool_tile(call, tile, 2); }
