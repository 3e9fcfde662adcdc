/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What follows sums of integers: rows of int32, from spare memory that is still in L1, become
 * floats or bytes, or stay as they are. The usual cases have a loop each, so that nothing is asked
 * within. One function serves all shapes of register tiles: inlined into each, it would be most of
 * the library.
 */
#ifndef TDN_BACKEND_CPU_SUMS_H
#define TDN_BACKEND_CPU_SUMS_H

#include "backend/cpu/iconv.h"
#include "backend/cpu/ints.h"

/* Where sums come from and go to: n_rows rows, columns `col` to `col + n_cols` of the tile. */
typedef struct tdn_sums_to {
    const tdn_block *block;
    const int32_t *from; /* at the first of those columns, in whole vectors; `step` apart */
    int64_t step;
    void **c;
    const void **residual; /* NULL: none */
    int64_t n_rows, col, n_cols;
} tdn_sums_to;

TDN_INLINE vf tdn_sums_load(const float *p, int n)
{
    return n == TDN_LANES ? vf_load(p) : vf_load_n(p, n);
}

/* A vector of columns, from `at` of those of the rows: n lanes; dtypes are constants, of no
 * residual NONE. All of y is `times` as much where it becomes bytes: one product less. */
TDN_INLINE void tdn_sums_column(const tdn_sums_to *m, int64_t at, const int n, const tdn_dtype out,
                                const tdn_dtype residual)
{
    const tdn_block *b = m->block;
    const tdn_sums *s = b->sums;
    const int64_t col = m->col + at;
    const vf times = vf_set(out == TDN_U8 ? s->requant->out_scale : 1);
    const vf factor =
        times * (s->scale ? tdn_sums_load(s->scale + col, n) : vf_set(s->requant->factor));
    const vf add = times * ((b->bias ? tdn_sums_load(b->bias + col, n) : (vf){0}) +
                            vf_set(s->requant->r_offset));
    const vf r_scale = times * vf_set(s->requant->r_scale), lo = vf_set(b->lo), hi = vf_set(b->hi);
    const vi zero = vi_set(s->requant->out_zero);
    for (int64_t i = 0; i < m->n_rows; i++) {
        vf y = vf_from_int(vi_load(m->from + i * m->step + at)) * factor + add;
        if (residual == TDN_F32)
            y += r_scale * tdn_sums_load((const float *)m->residual[i] + col, n);
        if (residual == TDN_U8)
            y += r_scale *
                 vf_from_int(vi_from_bytes(vb_load_n((const uint8_t *)m->residual[i] + col, n)));
        y = vf_min(hi, vf_max(lo, y));
        if (out == TDN_U8)
            vb_store_n((uint8_t *)m->c[i] + col, vi_to_bytes(vf_round_int(y) + zero), n);
        else if (n == TDN_LANES)
            vf_store((float *)m->c[i] + col, y);
        else
            vf_store_n((float *)m->c[i] + col, y, n);
    }
}

TDN_INLINE void tdn_sums_columns(const tdn_sums_to *m, const tdn_dtype out,
                                 const tdn_dtype residual)
{
    int64_t at = 0;
    for (; at + TDN_LANES <= m->n_cols; at += TDN_LANES)
        tdn_sums_column(m, at, TDN_LANES, out, residual);
    if (at < m->n_cols)
        tdn_sums_column(m, at, (int)(m->n_cols - at), out, residual);
}

static void tdn_sums_finish(const tdn_sums_to *m)
{
    const tdn_sums *s = m->block->sums;
    const tdn_dtype residual = m->residual ? s->residual : TDN_DTYPE_NONE;
    if (s->out == TDN_S32)
        for (int64_t i = 0; i < m->n_rows; i++)
            memcpy((int32_t *)m->c[i] + m->col, m->from + i * m->step,
                   (size_t)m->n_cols * sizeof(int32_t));
    else if (s->out == TDN_F32 && residual == TDN_DTYPE_NONE)
        tdn_sums_columns(m, TDN_F32, TDN_DTYPE_NONE);
    else if (s->out == TDN_F32 && residual == TDN_F32)
        tdn_sums_columns(m, TDN_F32, TDN_F32);
    else if (s->out == TDN_F32)
        tdn_sums_columns(m, TDN_F32, TDN_U8);
    else if (residual == TDN_DTYPE_NONE)
        tdn_sums_columns(m, TDN_U8, TDN_DTYPE_NONE);
    else if (residual == TDN_F32)
        tdn_sums_columns(m, TDN_U8, TDN_F32);
    else
        tdn_sums_columns(m, TDN_U8, TDN_U8);
}

#endif
