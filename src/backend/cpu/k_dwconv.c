/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Depthwise convolution, channels last: vectors over channels, several neighbouring pixels at a
 * time so that a weight is loaded once for all of them. Taps outside of the input are skipped, so
 * there is no padding.
 */
#include "backend/cpu/matrix.h"
#include "backend/cpu/vec.h"
#include "backend/cpu/window.h"

enum { PIXELS = 4, VECTORS = 2 };

typedef struct line {
    const tdn_call *call;
    const tdn_dwconv_args *args;
    int64_t at[4];      /* of the line's first pixel */
    int64_t first[2];   /* where its window begins in x along d and h */
    int64_t taps[2][2]; /* which of its taps are inside */
} line;

/* The epilogue of vector v of each pixel, and its store. */
TDN_INLINE void finish(const line *l, int64_t w, int64_t c, int n, const int vectors,
                       vf acc[PIXELS][VECTORS], const int pixels)
{
    const tdn_epilogue *ep = &l->args->epilogue;
    const tdn_view *out = &l->call->out[0],
                   *r = ep->residual >= 0 ? &l->call->in[ep->residual] : NULL;
    const int64_t at[4] = {l->at[0], l->at[1], l->at[2], w};
    const float *bias = ep->bias >= 0 ? (const float *)l->call->in[ep->bias].data + c : NULL;
    const float *residual = r ? (const float *)r->data + tdn_matrix_offset(r, at, c) : NULL;
    float *to = (float *)out->data + tdn_matrix_offset(out, at, c);
    const vf lo = vf_set(ep->lo), hi = vf_set(ep->hi);
    const int n_acc = vectors ? vectors : 1;
    TDN_UNROLLED (int v = 0; v < n_acc; v++) {
        const vf b = !bias ? (vf){0} : vectors ? vf_load(bias + v * TDN_LANES) : vf_load_n(bias, n);
        TDN_UNROLLED (int p = 0; p < pixels; p++) {
            vf y = acc[p][v] + b;
            const float *q = r ? residual + p * r->strides[3] + v * TDN_LANES : NULL;
            if (q)
                y += vectors ? vf_load(q) : vf_load_n(q, n);
            y = vf_min(hi, vf_max(lo, y));
            if (vectors)
                vf_store(to + p * out->strides[3] + v * TDN_LANES, y);
            else
                vf_store_n(to + p * out->strides[3], y, n);
        }
    }
}

/*
 * `pixels` outputs from column w, `vectors` vectors of channels from c (both constants; n lanes
 * where vectors is 0), taps [t0, t1) along w being inside for all of them.
 */
TDN_INLINE void multiply(const line *l, int64_t w, int64_t c, int n, const int vectors, int64_t t0,
                         int64_t t1, const int pixels)
{
    const tdn_view *x = &l->call->in[0];
    const tdn_dwconv_args *a = l->args;
    const tdn_conv_desc *d = &a->desc;
    const int64_t channels = x->dims[4], pixel_step = d->stride[2] * x->strides[3];
    const int64_t tap_step = d->dilation[2] * x->strides[3];
    const int n_acc = vectors ? vectors : 1;
    const float *image = (const float *)x->data + l->at[0] * x->strides[0] + c +
                         (w * d->stride[2] - d->pad[2] + t0 * d->dilation[2]) * x->strides[3];
    vf acc[PIXELS][VECTORS];
    TDN_UNROLLED (int p = 0; p < pixels; p++)
        TDN_UNROLLED (int v = 0; v < n_acc; v++)
            acc[p][v] = (vf){0};
    for (int64_t i = l->taps[0][0]; i < l->taps[0][1]; i++)
        for (int64_t j = l->taps[1][0]; j < l->taps[1][1]; j++) {
            const float *from = image + (l->first[0] + i * d->dilation[0]) * x->strides[1] +
                                (l->first[1] + j * d->dilation[1]) * x->strides[2];
            const float *weight = (const float *)l->call->in[1].data + c +
                                  ((i * a->kernel[1] + j) * a->kernel[2] + t0) * channels;
            for (int64_t k = t0; k < t1; k++, from += tap_step, weight += channels)
                TDN_UNROLLED (int v = 0; v < n_acc; v++) {
                    const vf wv = vectors ? vf_load(weight + v * TDN_LANES) : vf_load_n(weight, n);
                    const float *q = from + v * TDN_LANES;
                    TDN_UNROLLED (int p = 0; p < pixels; p++, q += pixel_step)
                        acc[p][v] += wv * (vectors ? vf_load(q) : vf_load_n(q, n));
                }
        }
    finish(l, w, c, n, vectors, acc, pixels);
}

/* Of all channels, for four pixels or one. */
TDN_INLINE void multiply_channels(const line *l, int64_t w, int64_t t0, int64_t t1,
                                  const int pixels)
{
    const int64_t channels = l->call->out[0].dims[4];
    int64_t c = 0;
    for (; c + VECTORS * TDN_LANES <= channels; c += VECTORS * TDN_LANES)
        multiply(l, w, c, TDN_LANES, VECTORS, t0, t1, pixels);
    for (; c + TDN_LANES <= channels; c += TDN_LANES)
        multiply(l, w, c, TDN_LANES, 1, t0, t1, pixels);
    if (c < channels)
        multiply(l, w, c, (int)(channels - c), 0, t0, t1, pixels);
}

static void run_line(const line *l)
{
    const int64_t width = l->call->out[0].dims[3], extent = l->call->in[0].dims[3];
    const tdn_conv_desc *d = &l->args->desc;
    const int64_t kernel = l->args->kernel[2];
    for (int64_t w = 0; w < width;) {
        const int64_t first = w * d->stride[2] - d->pad[2];
        const int64_t last = first + (PIXELS - 1) * d->stride[2] + (kernel - 1) * d->dilation[2];
        const bool four = w + PIXELS <= width && first >= 0 && last < extent;
        int64_t t0, t1;
        tdn_taps_inside(first, kernel, d->dilation[2], extent, &t0, &t1);
        if (four)
            multiply_channels(l, w, t0, t1, PIXELS);
        else
            multiply_channels(l, w, t0, t1, 1);
        w += four ? PIXELS : 1;
    }
}

void TDN_KERNEL(tdn_dwconv_f32)(const tdn_call *call, size_t tile)
{
    const tdn_dwconv_args *args = call->args;
    const tdn_view *out = &call->out[0];
    int64_t row, end;
    tdn_cpu_share(args->n_rows, (int64_t)tile, args->n_row_tiles, &row, &end);
    for (; row < end; row++) {
        line l = {.call = call, .args = args};
        l.at[2] = row % out->dims[2];
        l.at[1] = row / out->dims[2] % out->dims[1];
        l.at[0] = row / out->dims[2] / out->dims[1];
        l.first[0] = l.at[1] * args->desc.stride[0] - args->desc.pad[0];
        l.first[1] = l.at[2] * args->desc.stride[1] - args->desc.pad[1];
        for (int i = 0; i < 2; i++)
            tdn_taps_inside(l.first[i], args->kernel[i], args->desc.dilation[i],
                            call->in[0].dims[i + 1], &l.taps[i][0], &l.taps[i][1]);
        run_line(&l);
        if (args->epilogue.has_program)
            tdn_epilogue_run(call, &args->epilogue, l.at, out->dims[3], 0, out->dims[4],
                             TDN_KERNEL(tdn_map_region), call->scratch);
    }
}
