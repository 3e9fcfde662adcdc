/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Around the register tiles of products of halves: which tile is next, and what follows its sums.
 * Those are rows of floats, in spare memory that is still in L1; they get their bias, residual and
 * clamp, and become floats or halves. As in sums.h, one function serves all shapes of tiles.
 */
#ifndef TDN_BACKEND_CPU_HSUMS_H
#define TDN_BACKEND_CPU_HSUMS_H

#include "backend/cpu/ahead.h"
#include "backend/cpu/halves.h"
#include "backend/cpu/hconv.h"

typedef int32_t tdn_word __attribute__((aligned(2), may_alias)); /* two halves, anywhere */

/* A register tile's operands; k0 and k count what the kernel takes at a time. */
typedef struct tdn_hmicro {
    const void **a; /* [tap][row] */
    int64_t n_taps, k0, k;
    const tdn_word *b;
    tdn_ahead ahead;
    const float *from; /* what the sums of a row start with, from_step to the next; NULL: 0 */
    int64_t from_step;
    float *to; /* where they go */
    int64_t to_step;
} tdn_hmicro;
typedef void tdn_hmicro_fn(const tdn_hmicro *m);

/* Where sums come from and go to: n_rows rows, columns `col` to `col + n_cols` of the tile. */
typedef struct tdn_hsums_to {
    const tdn_block *block;
    const float *from; /* at the first of those columns, in whole vectors; `step` apart */
    int64_t step;
    void **c;
    const void **residual; /* NULL: none */
    int64_t n_rows, col, n_cols;
} tdn_hsums_to;

/* A vector of columns, from `at` of those of the rows: n lanes; dtypes are constants, of no
 * residual NONE. */
TDN_INLINE void tdn_hsums_column(const tdn_hsums_to *m, int64_t at, const int n,
                                 const tdn_dtype out, const tdn_dtype residual)
{
    const tdn_block *b = m->block;
    const int64_t col = m->col + at;
    const vf bias = b->bias ? tdn_load(b->bias, col, TDN_F32, n) : (vf){0};
    const vf lo = vf_set(b->lo), hi = vf_set(b->hi);
    for (int64_t i = 0; i < m->n_rows; i++) {
        vf y = vf_load(m->from + i * m->step + at) + bias;
        if (residual != TDN_DTYPE_NONE)
            y += tdn_load(m->residual[i], col, residual, n);
        tdn_store(m->c[i], col, out, vf_min(hi, vf_max(lo, y)), n);
    }
}

TDN_INLINE void tdn_hsums_columns(const tdn_hsums_to *m, const tdn_dtype out,
                                  const tdn_dtype residual)
{
    int64_t at = 0;
    for (; at + TDN_LANES <= m->n_cols; at += TDN_LANES)
        tdn_hsums_column(m, at, TDN_LANES, out, residual);
    if (at < m->n_cols)
        tdn_hsums_column(m, at, (int)(m->n_cols - at), out, residual);
}

/* Halves are those of the level. */
TDN_INLINE void tdn_hsums_finish(const tdn_hsums_to *m, const tdn_dtype half)
{
    const tdn_sums *s = m->block->sums;
    const tdn_dtype residual = m->residual ? s->residual : TDN_DTYPE_NONE;
    if (s->out == TDN_F32 && residual == TDN_DTYPE_NONE)
        tdn_hsums_columns(m, TDN_F32, TDN_DTYPE_NONE);
    else if (s->out == TDN_F32 && residual == TDN_F32)
        tdn_hsums_columns(m, TDN_F32, TDN_F32);
    else if (s->out == TDN_F32)
        tdn_hsums_columns(m, TDN_F32, half);
    else if (residual == TDN_DTYPE_NONE)
        tdn_hsums_columns(m, half, TDN_DTYPE_NONE);
    else if (residual == TDN_F32)
        tdn_hsums_columns(m, half, TDN_F32);
    else
        tdn_hsums_columns(m, half, half);
}

/* All register tiles of a block of the sum; m has what they share, `tap0` is its first tap.
 * `instances` by rows - 1 and vectors - 1, vectors of `lanes` columns. */
TDN_INLINE void tdn_hsums_block(const tdn_block *t, tdn_hmicro m, int64_t tap0, bool first,
                                bool last, tdn_hmicro_fn *const (*instances)[2], const int lanes,
                                const tdn_dtype half)
{
    enum { TWO_VECTORS = 2 * TDN_LANES * sizeof(float) }; /* of the panel, at a time */
    const tdn_sums *s = t->sums;
    tdn_hsums_to end = {.block = t, .from = t->spare, .step = TDN_NR};
    m.from_step = s->step;
    m.to_step = last ? TDN_NR : s->step;
    for (int64_t panel = 0, col = 0; col < t->cols; panel++, col += TDN_NR) {
        const int64_t n_cols = tdn_cpu_min(TDN_NR, t->cols - col);
        m.b = (const tdn_word *)t->b + panel * t->b_panel;
        end.col = col;
        end.n_cols = n_cols;
        for (int64_t block = 0, row0, row1; block < t->n_blocks; block++) {
            tdn_cpu_share(t->rows, block, t->n_blocks, &row0, &row1);
            float *partial = (float *)s->partial + row0 * s->step + col;
            m.a = t->a + row0 * t->a_taps + tap0 * (row1 - row0);
            m.from = first ? NULL : partial;
            m.to = last ? t->spare : partial;
            m.ahead = tdn_ahead_of(t, m.b, col, block, m.n_taps * m.k, TWO_VECTORS);
            instances[row1 - row0 - 1][n_cols > lanes](&m);
            if (!last)
                continue;
            end.c = t->c + row0;
            end.residual = t->residual ? t->residual + row0 : NULL;
            end.n_rows = row1 - row0;
            tdn_hsums_finish(&end, half);
        }
    }
}

#endif
