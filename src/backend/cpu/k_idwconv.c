/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Depthwise convolution of bytes: what a piece of a line (dwlines.h) is. The zero point is taken
 * off once for all of a piece's pixels, as the same taps are inside for them. Sums wait in scratch
 * until all channels of these pixels are there.
 */
#include "backend/cpu/dwlines.h"
#include "backend/cpu/sums.h"

TDN_INLINE void multiply(const tdn_dwline *l, int64_t w, int64_t c, int n, const int vectors,
                         int64_t t0, int64_t t1, const int pixels)
{
    const tdn_view *x = &l->call->in[0];
    const tdn_conv_desc *d = &l->args->desc;
    const vi x_zero = vi_set(((const tdn_idwconv_args *)l->call->args)->requant.x_zero);
    const int64_t channels = x->dims[4], pixel_step = d->stride[2] * x->strides[3];
    const int64_t tap_step = d->dilation[2] * x->strides[3];
    const int n_acc = vectors ? vectors : 1;
    vi acc[TDN_DW_PIXELS][TDN_DW_VECTORS], of_zero[TDN_DW_VECTORS];
    TDN_UNROLLED (int v = 0; v < n_acc; v++) {
        of_zero[v] = (vi){0};
        TDN_UNROLLED (int p = 0; p < pixels; p++)
            acc[p][v] = (vi){0};
    }
    for (int64_t i = l->taps[0][0]; i < l->taps[0][1]; i++)
        for (int64_t j = l->taps[1][0]; j < l->taps[1][1]; j++) {
            const uint8_t *from = (const uint8_t *)x->data + tdn_dwline_offset(l, i, j, t0, w, c);
            const float *weight = /* bits, not numbers */
                (const float *)l->call->in[1].data + tdn_dwline_weight(l, i, j, t0, c);
            for (int64_t k = t0; k < t1; k++, from += tap_step, weight += channels)
                TDN_UNROLLED (int v = 0; v < n_acc; v++) {
                    const vi wv =
                        (vi)(vectors ? vf_load(weight + v * TDN_LANES) : vf_load_n(weight, n));
                    const uint8_t *q = from + v * TDN_LANES;
                    of_zero[v] += vi_mul_bytes(x_zero, wv);
                    TDN_UNROLLED (int p = 0; p < pixels; p++, q += pixel_step)
                        acc[p][v] +=
                            vi_mul_bytes(vi_from_bytes(vectors ? vb_load(q) : vb_load_n(q, n)), wv);
                }
        }
    int32_t *to = (int32_t *)l->call->scratch + c;
    const int64_t step = tdn_idwconv_step(&l->call->out[0]);
    TDN_UNROLLED (int p = 0; p < pixels; p++)
        TDN_UNROLLED (int v = 0; v < n_acc; v++)
            vi_store(to + p * step + v * TDN_LANES, acc[p][v] - of_zero[v]);
}

/* A program takes a line's sums as floats. */
static float *line_of(const tdn_dwline *l)
{
    return (float *)l->call->scratch + TDN_DW_PIXELS * tdn_idwconv_step(&l->call->out[0]);
}

static void finish(const tdn_dwline *l, int64_t w, int pixels)
{
    const tdn_call *call = l->call;
    const tdn_requant *q = &((const tdn_idwconv_args *)call->args)->requant;
    const tdn_epilogue *ep = &l->args->epilogue;
    const tdn_view *out = &call->out[0], *r = ep->residual >= 0 ? &call->in[ep->residual] : NULL;
    const int64_t step = tdn_idwconv_step(out);
    const tdn_sums sums = {.requant = q,
                           .scale = q->scale >= 0 ? call->in[q->scale].data : NULL,
                           .out = ep->has_program ? TDN_F32 : out->dtype,
                           .residual = r ? r->dtype : TDN_DTYPE_NONE};
    const tdn_block block = {.bias = ep->bias >= 0 ? call->in[ep->bias].data : NULL,
                             .lo = ep->lo,
                             .hi = ep->hi,
                             .sums = &sums};
    void *to[TDN_DW_PIXELS];
    const void *more[TDN_DW_PIXELS];
    for (int p = 0; p < pixels; p++) {
        const int64_t at[4] = {l->at[0], l->at[1], l->at[2], w + p};
        to[p] = ep->has_program ? line_of(l) + (w + p) * step : tdn_matrix_at(out, at, 0);
        more[p] = r ? tdn_matrix_at(r, at, 0) : NULL;
    }
    tdn_sums_finish(&(tdn_sums_to){.block = &block,
                                   .from = call->scratch,
                                   .step = step,
                                   .c = to,
                                   .residual = r ? more : NULL,
                                   .n_rows = pixels,
                                   .n_cols = out->dims[4]});
}

void TDN_KERNEL(tdn_idwconv_u8)(const tdn_call *call, size_t tile)
{
    const tdn_dwconv_args *args = &((const tdn_idwconv_args *)call->args)->conv;
    const tdn_view *out = &call->out[0];
    int64_t row, end;
    tdn_cpu_share(args->n_rows, (int64_t)tile, args->n_row_tiles, &row, &end);
    for (; row < end; row++) {
        const tdn_dwline l = tdn_dwline_at(call, args, row);
        tdn_dwline_run(&l, multiply, finish);
        if (args->epilogue.has_program)
            tdn_epilogue_run_from(call, &args->epilogue, l.at, out->dims[3], 0, out->dims[4],
                                  line_of(&l), tdn_idwconv_step(out), TDN_KERNEL(tdn_map_region),
                                  (float *)call->scratch + tdn_idwconv_sums(args, out));
    }
}
