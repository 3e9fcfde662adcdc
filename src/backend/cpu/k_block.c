/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The matrix kernel of gemm and conv: a register tile of rows x 2 vectors, rows given by pointers,
 * columns packed in panels. Every count of rows up to the tile's has an instance of its own, so
 * that a remainder wastes nothing; one vector of columns has too. Few rows sum several terms of k
 * side by side: one chain of additions would wait for itself.
 *
 * The inner loop counts up to zero with the row pointers moved to the end of the block: that saves
 * the register which 12 row pointers, the index and the panel leave none of.
 */
#include <math.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/instances.h"
#include "backend/cpu/vec.h"

/* Terms of the sum that the panel is asked for before they are needed, some 300 ns: weights that
 * come from memory arrive in time, others are not held up. Not where terms are multiplied by lanes:
 * the loop here is that of the last few. */
enum { AHEAD = 64, LINE = 16 /* floats of a cache line */ };

typedef struct micro {
    const void **a; /* [tap][row] */
    int64_t n_taps, k0, k;
    const float *b;
    void **c;
    int64_t col;
    const float *bias;
    const void **residual;
    float lo, hi;
    bool first, last;
} micro;

#define EACH_ROW TDN_UNROLLED (int i = 0; i < rows; i++)
#define EACH_VECTOR TDN_UNROLLED (int j = 0; j < vectors; j++)

/* What follows the sum: stage by stage over all registers, so that each question is asked once. */
TDN_INLINE void finish(const micro *m, vf acc[TDN_MR_MAX][2], const int rows, const int vectors)
{
    if (!m->first)
        EACH_ROW
            EACH_VECTOR
                acc[i][j] += vf_load((float *)m->c[i] + m->col + j * TDN_LANES);
    if (m->last && m->bias) {
        vf bias[2];
        EACH_VECTOR
            bias[j] = vf_load(m->bias + j * TDN_LANES);
        EACH_ROW
            EACH_VECTOR
                acc[i][j] += bias[j];
    }
    if (m->last && m->residual)
        EACH_ROW
            EACH_VECTOR
                acc[i][j] += vf_load((const float *)m->residual[i] + m->col + j * TDN_LANES);
    if (m->last && m->lo > -INFINITY) {
        const vf lo = vf_set(m->lo);
        EACH_ROW
            EACH_VECTOR
                acc[i][j] = vf_max(lo, acc[i][j]);
    }
    if (m->last && m->hi < INFINITY) {
        const vf hi = vf_set(m->hi);
        EACH_ROW
            EACH_VECTOR
                acc[i][j] = vf_min(hi, acc[i][j]);
    }
    EACH_ROW
        EACH_VECTOR
            vf_store((float *)m->c[i] + m->col + j * TDN_LANES, acc[i][j]);
}

/* rows <= TDN_MR, vectors 1 or 2, terms of k `wide` side by side: constants. Where a lane is as
 * good a factor as a vector, a row's next terms are loaded together: a third of the loads. */
TDN_INLINE void multiply(const micro *m, const int rows, const int vectors, const int wide)
{
    vf acc[TDN_MR_MAX][2],
        more[TDN_MR_MAX][2]; /* `more`: the chains beside the first of few rows */
    TDN_UNROLLED (int i = 0; i < TDN_MR_MAX; i++)
        EACH_VECTOR
            acc[i][j] = more[i][j] = (vf){0};
    const void **list = m->a;
    const float *b = m->b;
    const int64_t end = m->k0 + m->k;
    for (int64_t tap = 0; tap < m->n_taps; tap++, list += rows) {
        const float *a[TDN_MR_MAX];
        EACH_ROW
            a[i] = (const float *)list[i] + end;
        int64_t k = -m->k;
        for (; wide > 1 && k + wide <= 0; k += wide) {
            TDN_UNROLLED (int w = 0; w < wide; w++, b += TDN_NR)
                EACH_ROW
                    EACH_VECTOR {
                        vf *sum = w ? &more[i * (wide - 1) + w - 1][j] : &acc[i][j];
                        *sum += vf_set(a[i][k + w]) * vf_load(b + j * TDN_LANES);
                    }
        }
        for (; TDN_BY_LANE && wide == 1 && k + TDN_LANES <= 0; k += TDN_LANES) {
            vf av[TDN_MR_MAX];
            EACH_ROW
                av[i] = vf_load(a[i] + k);
            TDN_UNROLLED (int w = 0; w < TDN_LANES; w++, b += TDN_NR) {
                vf bv[2];
                EACH_VECTOR
                    bv[j] = vf_load(b + j * TDN_LANES);
                EACH_ROW
                    EACH_VECTOR
                        acc[i][j] += vf_set(av[i][w]) * bv[j];
            }
        }
        for (; k != 0; k++, b += TDN_NR) {
            TDN_UNROLLED (int j = 0; !TDN_BY_LANE && j < vectors * TDN_LANES; j += LINE)
                __builtin_prefetch(b + AHEAD * TDN_NR + j, 0, 2); /* into L2 */
            vf bv[2];
            EACH_VECTOR
                bv[j] = vf_load(b + j * TDN_LANES);
            EACH_ROW {
                const vf av = vf_set(a[i][k]);
                EACH_VECTOR
                    acc[i][j] += av * bv[j];
            }
        }
    }
    EACH_ROW
        TDN_UNROLLED (int w = 0; w < wide - 1; w++)
            EACH_VECTOR
                acc[i][j] += more[i * (wide - 1) + w][j];
    finish(m, acc, rows, vectors);
}

TDN_INSTANCES(instances);

/* Columns that do not fill their vectors: the sums go through spare memory, so that nothing beyond
 * the last column is read or written. */
static void multiply_narrow(const micro *m, int64_t rows, int n_cols, float *spare)
{
    const int vectors = n_cols > TDN_LANES ? 2 : 1;
    void *to[TDN_MR];
    for (int64_t i = 0; i < rows; i++)
        to[i] = spare + i * TDN_NR;
    micro own = *m;
    own.c = to;
    own.col = 0;
    own.first = true;
    own.last = false;
    instances[rows - 1][vectors - 1](&own);
    for (int64_t i = 0; i < rows; i++)
        for (int j = 0; j < n_cols; j += TDN_LANES) {
            const int n = n_cols - j < TDN_LANES ? n_cols - j : TDN_LANES;
            float *c = (float *)m->c[i] + m->col + j;
            vf sum = vf_load((float *)to[i] + j);
            if (!m->first)
                sum += vf_load_n(c, n);
            if (m->last) {
                if (m->bias)
                    sum += vf_load_n(m->bias + j, n);
                if (m->residual)
                    sum += vf_load_n((const float *)m->residual[i] + m->col + j, n);
                sum = vf_min(vf_set(m->hi), vf_max(vf_set(m->lo), sum));
            }
            vf_store_n(c, sum, n);
        }
}

void TDN_KERNEL(tdn_block_f32)(const tdn_block *t, int64_t tap0, int64_t n_taps, int64_t k0,
                               int64_t k, bool first, bool last)
{
    micro m = {
        .n_taps = n_taps, .k0 = k0, .k = k, .lo = t->lo, .hi = t->hi, .first = first, .last = last};
    const int64_t each = t->rows / t->n_blocks,
                  rest = t->rows % t->n_blocks; /* the share of tdn_cpu_share */
    for (int64_t panel = 0, col = 0; col < t->cols; panel++, col += TDN_NR) {
        const int n_cols = (int)tdn_cpu_min(TDN_NR, t->cols - col);
        m.b = (const float *)t->b + panel * t->b_panel;
        m.col = col;
        m.bias = t->bias ? t->bias + col : NULL;
        for (int64_t block = 0, row0 = 0; block < t->n_blocks; block++) {
            const int64_t rows = each + (block < rest);
            m.a = t->a + row0 * t->a_taps + tap0 * rows;
            m.c = t->c + row0;
            m.residual = t->residual ? t->residual + row0 : NULL;
            if (n_cols == TDN_NR || n_cols == TDN_LANES)
                instances[rows - 1][n_cols / TDN_LANES - 1](&m);
            else
                multiply_narrow(&m, rows, n_cols, t->spare);
            row0 += rows;
        }
    }
}
