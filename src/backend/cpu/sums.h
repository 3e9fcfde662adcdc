/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What follows sums of integers, while they are in registers: rows x vectors of int32 become
 * floats, bytes, or stay as they are. Stage by stage over all registers, so that each question is
 * asked once.
 */
#ifndef TDN_BACKEND_CPU_SUMS_H
#define TDN_BACKEND_CPU_SUMS_H

#include <math.h>

#include "backend/cpu/iconv.h"
#include "backend/cpu/ints.h"

/* Where sums go: rows c and residual, from column `col` on. */
typedef struct tdn_sums_to {
    const tdn_block *block;
    void **c;
    const void **residual; /* NULL: none */
    int64_t col;
} tdn_sums_to;

#define EACH_ROW TDN_UNROLLED (int i = 0; i < rows; i++)
#define EACH_VECTOR TDN_UNROLLED (int j = 0; j < vectors; j++)

/* n lanes; a constant where it is all of them. */
TDN_INLINE vf tdn_sums_load(const float *p, int n)
{
    return n == TDN_LANES ? vf_load(p) : vf_load_n(p, n);
}
TDN_INLINE void tdn_sums_store(float *p, vf x, int n)
{
    if (n == TDN_LANES)
        vf_store(p, x);
    else
        vf_store_n(p, x, n);
}
TDN_INLINE vf tdn_sums_load_bytes(const uint8_t *p, int n)
{
    return vf_from_int(vi_from_bytes(n == TDN_LANES ? vb_load(p) : vb_load_n(p, n)));
}
TDN_INLINE void tdn_sums_store_bytes(uint8_t *p, vi x, int n)
{
    if (n == TDN_LANES)
        vb_store(p, vi_to_bytes(x));
    else
        vb_store_n(p, vi_to_bytes(x), n);
}

TDN_INLINE void tdn_sums_add_residual(const tdn_sums_to *m, vf y[TDN_MR_MAX][2], float times,
                                      const int rows, const int vectors, int n)
{
    const tdn_sums *s = m->block->sums;
    const vf scale = vf_set(s->requant->r_scale * times);
    if (s->residual == TDN_U8)
        EACH_ROW
            EACH_VECTOR
                y[i][j] += scale * tdn_sums_load_bytes(
                                       (const uint8_t *)m->residual[i] + m->col + j * TDN_LANES, n);
    else
        EACH_ROW
            EACH_VECTOR
                y[i][j] += scale *
                           tdn_sums_load((const float *)m->residual[i] + m->col + j * TDN_LANES, n);
}

/* Scale, bias and residual, all of it `times` as much. */
TDN_INLINE void tdn_sums_to_floats(const tdn_sums_to *m, vf y[TDN_MR_MAX][2], vi sum[TDN_MR_MAX][2],
                                   float times, const int rows, const int vectors, int n)
{
    const tdn_sums *s = m->block->sums;
    const float *scale = s->scale, *bias = m->block->bias;
    vf factor[2], add[2];
    EACH_VECTOR {
        const int64_t at = m->col + j * TDN_LANES;
        factor[j] =
            vf_set(times) * (scale ? tdn_sums_load(scale + at, n) : vf_set(s->requant->factor));
        add[j] = vf_set(times * s->requant->r_offset) +
                 (bias ? vf_set(times) * tdn_sums_load(bias + at, n) : (vf){0});
    }
    EACH_ROW
        EACH_VECTOR
            y[i][j] = vf_from_int(sum[i][j]) * factor[j] + add[j];
    if (m->residual)
        tdn_sums_add_residual(m, y, times, rows, vectors, n);
}

TDN_INLINE void tdn_sums_clamp(const tdn_sums_to *m, vf y[TDN_MR_MAX][2], const int rows,
                               const int vectors)
{
    const vf lo = vf_set(m->block->lo), hi = vf_set(m->block->hi);
    if (m->block->lo > -INFINITY)
        EACH_ROW
            EACH_VECTOR
                y[i][j] = vf_max(lo, y[i][j]);
    if (m->block->hi < INFINITY)
        EACH_ROW
            EACH_VECTOR
                y[i][j] = vf_min(hi, y[i][j]);
}

TDN_INLINE void tdn_sums_finish(const tdn_sums_to *m, vi sum[TDN_MR_MAX][2], const int rows,
                                const int vectors, int n)
{
    const tdn_sums *s = m->block->sums;
    const int64_t col = m->col;
    if (s->out == TDN_S32) {
        EACH_ROW
            EACH_VECTOR /* bits, not numbers */
                tdn_sums_store((float *)m->c[i] + col + j * TDN_LANES, (vf)sum[i][j], n);
        return;
    }
    vf y[TDN_MR_MAX][2];
    tdn_sums_to_floats(m, y, sum, s->out == TDN_U8 ? s->requant->out_scale : 1, rows, vectors, n);
    tdn_sums_clamp(m, y, rows, vectors);
    if (s->out == TDN_F32) {
        EACH_ROW
            EACH_VECTOR
                tdn_sums_store((float *)m->c[i] + col + j * TDN_LANES, y[i][j], n);
        return;
    }
    const vi zero = vi_set(s->requant->out_zero);
    EACH_ROW
        EACH_VECTOR
            tdn_sums_store_bytes((uint8_t *)m->c[i] + col + j * TDN_LANES,
                                 vf_round_int(y[i][j]) + zero, n);
}

#endif
