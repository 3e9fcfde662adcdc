/* SPDX-License-Identifier: Apache-2.0 */
/* Depthwise convolution of floats: what a piece of a line (dwlines.h) is. */
#include "backend/cpu/dwlines.h"

/* The epilogue of vector v of each pixel, and its store. */
TDN_INLINE void finish(const tdn_dwline *l, int64_t w, int64_t c, int n, const int vectors,
                       vf acc[TDN_DW_PIXELS][TDN_DW_VECTORS], const int pixels)
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

TDN_INLINE void multiply(const tdn_dwline *l, int64_t w, int64_t c, int n, const int vectors,
                         int64_t t0, int64_t t1, const int pixels)
{
    const tdn_view *x = &l->call->in[0];
    const tdn_conv_desc *d = &l->args->desc;
    const int64_t channels = x->dims[4], pixel_step = d->stride[2] * x->strides[3];
    const int64_t tap_step = d->dilation[2] * x->strides[3];
    const int n_acc = vectors ? vectors : 1;
    vf acc[TDN_DW_PIXELS][TDN_DW_VECTORS];
    TDN_UNROLLED (int p = 0; p < pixels; p++)
        TDN_UNROLLED (int v = 0; v < n_acc; v++)
            acc[p][v] = (vf){0};
    for (int64_t i = l->taps[0][0]; i < l->taps[0][1]; i++)
        for (int64_t j = l->taps[1][0]; j < l->taps[1][1]; j++) {
            const float *from = (const float *)x->data + tdn_dwline_offset(l, i, j, t0, w, c);
            const float *weight =
                (const float *)l->call->in[1].data + tdn_dwline_weight(l, i, j, t0, c);
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

void TDN_KERNEL(tdn_dwconv_f32)(const tdn_call *call, size_t tile)
{
    const tdn_dwconv_args *args = call->args;
    const tdn_view *out = &call->out[0];
    int64_t row, end;
    tdn_cpu_share(args->n_rows, (int64_t)tile, args->n_row_tiles, &row, &end);
    for (; row < end; row++) {
        const tdn_dwline l = tdn_dwline_at(call, args, row);
        tdn_dwline_run(&l, multiply, NULL);
        if (args->epilogue.has_program)
            tdn_epilogue_run(call, &args->epilogue, l.at, out->dims[3], 0, out->dims[4],
                             TDN_KERNEL(tdn_map_region), call->scratch);
    }
}
