/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Depthwise convolutions, channels last: vectors over channels, several neighbouring pixels at a
 * time so that a weight is loaded once for all of them. Taps outside of the input are skipped, so
 * there is no padding. What is done with a piece of a line, of floats or of bytes, is the kernel's.
 */
#ifndef TDN_BACKEND_CPU_DWLINES_H
#define TDN_BACKEND_CPU_DWLINES_H

#include "backend/cpu/matrix.h"
#include "backend/cpu/vec.h"
#include "backend/cpu/window.h"

typedef struct tdn_dwline {
    const tdn_call *call;
    const tdn_dwconv_args *args;
    int64_t at[4];      /* of the line's first pixel */
    int64_t first[2];   /* where its window begins in x along d and h */
    int64_t taps[2][2]; /* which of its taps are inside */
} tdn_dwline;

/* `pixels` outputs from column w, `vectors` vectors of channels from c (both constants; n lanes
 * where vectors is 0), taps [t0, t1) along w being inside for all of them. */
typedef void tdn_dwline_fn(const tdn_dwline *l, int64_t w, int64_t c, int n, const int vectors,
                           int64_t t0, int64_t t1, const int pixels);

static inline tdn_dwline tdn_dwline_at(const tdn_call *call, const tdn_dwconv_args *args,
                                       int64_t row)
{
    tdn_dwline l = {.call = call, .args = args};
    tdn_matrix_outer(&call->out[0], row, l.at);
    l.first[0] = l.at[1] * args->desc.stride[0] - args->desc.pad[0];
    l.first[1] = l.at[2] * args->desc.stride[1] - args->desc.pad[1];
    for (int i = 0; i < 2; i++)
        tdn_taps_inside(l.first[i], args->kernel[i], args->desc.dilation[i],
                        call->in[0].dims[i + 1], &l.taps[i][0], &l.taps[i][1]);
    return l;
}

/* Elements of x before channel c of the window of pixel `w`, at taps (i, j, k). */
static inline int64_t tdn_dwline_offset(const tdn_dwline *l, int64_t i, int64_t j, int64_t k,
                                        int64_t w, int64_t c)
{
    const tdn_conv_desc *d = &l->args->desc;
    const int64_t *s = l->call->in[0].strides;
    return l->at[0] * s[0] + (l->first[0] + i * d->dilation[0]) * s[1] +
           (l->first[1] + j * d->dilation[1]) * s[2] +
           (w * d->stride[2] - d->pad[2] + k * d->dilation[2]) * s[3] + c;
}

/* Weights before that channel's at those taps. */
static inline int64_t tdn_dwline_weight(const tdn_dwline *l, int64_t i, int64_t j, int64_t k,
                                        int64_t c)
{
    const int32_t *kernel = l->args->kernel;
    return ((i * kernel[1] + j) * kernel[2] + k) * l->call->in[0].dims[4] + c;
}

/* Of all channels, for four pixels or one. */
TDN_INLINE void tdn_dwline_channels(const tdn_dwline *l, tdn_dwline_fn *multiply, int64_t w,
                                    int64_t t0, int64_t t1, const int pixels)
{
    const int64_t channels = l->call->out[0].dims[4];
    int64_t c = 0;
    for (; c + TDN_DW_VECTORS * TDN_LANES <= channels; c += TDN_DW_VECTORS * TDN_LANES)
        multiply(l, w, c, TDN_LANES, TDN_DW_VECTORS, t0, t1, pixels);
    for (; c + TDN_LANES <= channels; c += TDN_LANES)
        multiply(l, w, c, TDN_LANES, 1, t0, t1, pixels);
    if (c < channels)
        multiply(l, w, c, (int)(channels - c), 0, t0, t1, pixels);
}

/* What is done when all channels of some pixels are. */
typedef void tdn_dwline_end_fn(const tdn_dwline *l, int64_t w, int pixels);

/* `multiply` is always inlined; `end` may be NULL. */
TDN_INLINE void tdn_dwline_run(const tdn_dwline *l, tdn_dwline_fn *multiply, tdn_dwline_end_fn *end)
{
    const int64_t width = l->call->out[0].dims[3], extent = l->call->in[0].dims[3];
    const tdn_conv_desc *d = &l->args->desc;
    const int64_t kernel = l->args->kernel[2];
    for (int64_t w = 0; w < width;) {
        const int64_t first = w * d->stride[2] - d->pad[2];
        const int64_t last =
            first + (TDN_DW_PIXELS - 1) * d->stride[2] + (kernel - 1) * d->dilation[2];
        const bool four = w + TDN_DW_PIXELS <= width && first >= 0 && last < extent;
        int64_t t0, t1;
        tdn_taps_inside(first, kernel, d->dilation[2], extent, &t0, &t1);
        if (four)
            tdn_dwline_channels(l, multiply, w, t0, t1, TDN_DW_PIXELS);
        else
            tdn_dwline_channels(l, multiply, w, t0, t1, 1);
        if (end)
            end(l, w, four ? TDN_DW_PIXELS : 1);
        w += four ? TDN_DW_PIXELS : 1;
    }
}

#endif
