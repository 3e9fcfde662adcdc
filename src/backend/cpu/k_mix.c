/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tile of a sparse product: for each row of the outer axes and each column, the sum of a few
 * scaled vectors. Four vectors at a time, so that their sums do not wait for each other; entries
 * are added in the order of k.
 */
#include "backend/cpu/mix.h"
#include "backend/cpu/vec.h"

typedef struct work {
    tdn_columns columns;
    const int64_t *offsets; /* of each entry's input, in elements */
    const float *bias, *residual;
    float lo, hi;
} work;

enum { WIDE = 4 };

/* Column j of `vectors` whole vectors, or of n lanes of one. */
TDN_INLINE void column(const work *w, int64_t j, const float *in, float *out, int64_t at,
                       int64_t residual, const int vectors, const int n)
{
    vf sum[WIDE];
    TDN_UNROLLED (int i = 0; i < vectors; i++)
        sum[i] = (vf){0};
    for (int32_t e = w->columns.begins[j]; e < w->columns.begins[j + 1]; e++) {
        const vf weight = vf_set(w->columns.entries[e].weight);
        const float *from = in + w->offsets[e] + at;
        TDN_UNROLLED (int i = 0; i < vectors; i++)
            sum[i] += weight * (n ? vf_load_n(from, n) : vf_load(from + i * TDN_LANES));
    }
    TDN_UNROLLED (int i = 0; i < vectors; i++) {
        const int64_t to = at + i * TDN_LANES;
        if (w->bias)
            sum[i] += n ? vf_load_n(w->bias + to, n) : vf_load(w->bias + to);
        if (w->residual)
            sum[i] += n ? vf_load_n(w->residual + residual + to, n)
                        : vf_load(w->residual + residual + to);
        sum[i] = vf_min(vf_set(w->hi), vf_max(vf_set(w->lo), sum[i]));
        if (n)
            vf_store_n(out + to, sum[i], n);
        else
            vf_store(out + to, sum[i]);
    }
}

static void row(const work *w, const tdn_call *call, const float *in, float *out,
                int64_t residual_stride)
{
    const tdn_view *o = &call->out[0];
    const int64_t m = o->dims[4];
    for (int64_t j = 0; j < o->dims[3]; j++) {
        float *to = out + j * o->strides[3];
        const int64_t residual = j * residual_stride;
        int64_t at = 0;
        for (; at + WIDE * TDN_LANES <= m; at += WIDE * TDN_LANES)
            column(w, j, in, to, at, residual, WIDE, 0);
        for (; at + TDN_LANES <= m; at += TDN_LANES)
            column(w, j, in, to, at, residual, 1, 0);
        if (at < m)
            column(w, j, in, to, at, residual, 1, (int)(m - at));
    }
}

void TDN_KERNEL(tdn_mix_f32)(const tdn_call *call, size_t tile)
{
    const tdn_mix_args *args = call->args;
    const tdn_epilogue *ep = &args->epilogue;
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    const tdn_view *residual = ep->residual >= 0 ? &call->in[ep->residual] : NULL;
    int64_t *offsets = call->scratch;
    void *program =
        (char *)call->scratch + tdn_round_up((size_t)args->n_entries * sizeof *offsets, TDN_ALIGN);
    work w = {.columns = tdn_columns_at(call->in[1].data, y->dims[3]),
              .offsets = offsets,
              .bias = ep->bias >= 0 ? call->in[ep->bias].data : NULL,
              .lo = ep->lo,
              .hi = ep->hi};
    for (int32_t e = 0; e < args->n_entries; e++)
        offsets[e] = w.columns.entries[e].row / x->dims[4] * x->strides[3] +
                     w.columns.entries[e].row % x->dims[4] * x->strides[4];
    int64_t begin, end;
    tdn_cpu_share(args->n_rows, (int64_t)tile, args->n_tiles, &begin, &end);
    for (int64_t r = begin; r < end; r++) {
        int64_t at[4] = {0};
        tdn_matrix_outer(y, r, at);
        const float *in = (const float *)x->data + at[0] * x->strides[0] + at[1] * x->strides[1] +
                          at[2] * x->strides[2];
        if (residual)
            w.residual = (const float *)residual->data + tdn_matrix_offset(residual, at, 0);
        row(&w, call, in, (float *)y->data + tdn_matrix_offset(y, at, 0),
            residual ? residual->strides[3] : 0);
        if (ep->has_program)
            tdn_epilogue_run(call, ep, at, y->dims[3], 0, y->dims[4], TDN_KERNEL(tdn_map_region),
                             program);
    }
}
