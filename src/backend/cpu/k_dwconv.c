/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Depthwise convolution, channels last: vectors over channels, several neighbouring pixels at a time so that a weight
 * is loaded once for all of them. Taps outside of the input are skipped, so there is no padding.
 */
#include "backend/cpu/matrix.h"
#include "backend/cpu/vec.h"
#include "backend/cpu/window.h"

enum { PIXELS = 4 };

typedef struct line {
    const tdn_call *call;
    const tdn_dwconv_args *args;
    int64_t at[4];    /* of the line's first pixel */
    int64_t first[2]; /* where its window begins in x along d and h */
} line;

/* n lanes of channel c of `pixels` (a constant) outputs from column w, taps [t0, t1) along w being inside for all. */
TDN_INLINE void pixels_of(const line *l, int64_t w, int64_t c, int n, int64_t t0, int64_t t1, const int pixels)
{
    const tdn_view *x = &l->call->in[0], *out = &l->call->out[0];
    const tdn_dwconv_args *a = l->args;
    const tdn_conv_desc *d = &a->desc;
    const int64_t channels = x->dims[4];
    const float *weights = (const float *)l->call->in[1].data + c;
    const int64_t first = w * d->stride[2] - d->pad[2];
    const bool whole = n == TDN_LANES;
    int64_t i0, i1, j0, j1;
    tdn_taps_inside(l->first[0], a->kernel[0], d->dilation[0], x->dims[1], &i0, &i1);
    tdn_taps_inside(l->first[1], a->kernel[1], d->dilation[1], x->dims[2], &j0, &j1);
    vf acc[PIXELS];
    TDN_UNROLL for (int p = 0; p < pixels; p++)
        acc[p] = (vf){0};
    for (int64_t i = i0; i < i1; i++)
        for (int64_t j = j0; j < j1; j++) {
            const float *q = (const float *)x->data + l->at[0] * x->strides[0] +
                             (l->first[0] + i * d->dilation[0]) * x->strides[1] +
                             (l->first[1] + j * d->dilation[1]) * x->strides[2] + c;
            for (int64_t k = t0; k < t1; k++) {
                const float *v = weights + ((i * a->kernel[1] + j) * a->kernel[2] + k) * channels;
                const vf weight = whole ? vf_load(v) : vf_load_n(v, n);
                const float *from = q + (first + k * d->dilation[2]) * x->strides[3];
                TDN_UNROLL for (int p = 0; p < pixels; p++, from += d->stride[2] * x->strides[3])
                    acc[p] += weight * (whole ? vf_load(from) : vf_load_n(from, n));
            }
        }
    const tdn_epilogue *ep = &a->epilogue;
    int64_t at[4] = {l->at[0], l->at[1], l->at[2], w};
    TDN_UNROLL for (int p = 0; p < pixels; p++, at[3]++) {
        vf sum = acc[p];
        if (ep->bias >= 0)
            sum += vf_load_n((const float *)l->call->in[ep->bias].data + c, n);
        if (ep->residual >= 0) {
            const tdn_view *r = &l->call->in[ep->residual];
            sum += vf_load_n((const float *)r->data + tdn_matrix_offset(r, at, c), n);
        }
        sum = vf_min(vf_set(ep->hi), vf_max(vf_set(ep->lo), sum));
        vf_store_n((float *)out->data + tdn_matrix_offset(out, at, c), sum, n);
    }
}

static void channels_of(const line *l, int64_t w, bool four, int64_t t0, int64_t t1)
{
    const int64_t channels = l->call->out[0].dims[4];
    for (int64_t c = 0; c < channels; c += TDN_LANES) {
        const int n = (int)tdn_cpu_min(TDN_LANES, channels - c);
        if (four)
            pixels_of(l, w, c, n, t0, t1, PIXELS);
        else
            pixels_of(l, w, c, n, t0, t1, 1);
    }
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
        channels_of(l, w, four, t0, t1);
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
        run_line(&l);
        if (args->epilogue.has_program)
            tdn_epilogue_run(call, &args->epilogue, l.at, out->dims[3], 0, out->dims[4], TDN_KERNEL(tdn_map_region),
                             call->scratch);
    }
}
