/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The matrix kernel of gemm and conv: a register tile of rows x 2 vectors, rows given by pointers,
 * columns packed in panels. Every count of rows up to the tile's has an instance of its own, so
 * that a remainder wastes nothing; one vector of columns has too. Few rows sum several terms of k
 * side by side: one chain of additions would wait for itself.
 *
 * A panel of halves becomes floats as it is loaded. The first block of rows that passes keeps
 * those, for the blocks that follow: its stores cost nothing beside the products, as a pass of its
 * own would.
 *
 * The inner loop counts up to zero with the row pointers moved to the end of the block: that saves
 * the register which 12 row pointers, the index and the panel leave none of.
 */
#include <math.h>

#include "backend/cpu/ahead.h"
#include "backend/cpu/instances.h"
#include "backend/cpu/vec.h"

/* Rows that sum several terms side by side, in instances.h. The first of several blocks has more.
 */
enum { FEW = 2 };
_Static_assert(TDN_MR / 2 >= FEW, "a first block of several keeps what it widens");

typedef struct micro {
    const void **a; /* [tap][row] */
    int64_t n_taps, k0, k;
    const void *b;
    tdn_ahead ahead;
    float *kept; /* b holds halves: where more than FEW rows leave them as floats */
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

TDN_INLINE vf load_b(const char *b, const int vector, const bool half)
{
    const int at = vector * TDN_LANES;
    return half ? vf_load_half((const uint16_t *)(const void *)b + at)
                : vf_load((const float *)(const void *)b + at);
}

/* The next row of a panel that was halves. */
TDN_INLINE float *keep(float *kept, const vf bv[2], const int vectors)
{
    EACH_VECTOR
        vf_store(kept + j * TDN_LANES, bv[j]);
    return kept + TDN_NR;
}

/* rows <= TDN_MR, vectors 1 or 2, terms of k `wide` side by side, b of halves or not: constants.
 * Where a lane is as good a factor as a vector, a row's next terms are loaded together: a third of
 * the loads. */
TDN_INLINE void sum_up(const micro *m, const int rows, const int vectors, const int wide,
                       const bool half)
{
    const int b_size = (int)tdn_weight_size(half), step = TDN_NR * b_size; /* bytes */
    vf acc[TDN_MR_MAX][2],
        more[TDN_MR_MAX][2]; /* `more`: the chains beside the first of few rows */
    TDN_UNROLLED (int i = 0; i < TDN_MR_MAX; i++)
        EACH_VECTOR
            acc[i][j] = more[i][j] = (vf){0};
    const void **list = m->a;
    const char *b = m->b, *ahead = m->ahead.at;
    float *kept = m->kept;
    const int64_t end = m->k0 + m->k;
    for (int64_t tap = 0; tap < m->n_taps; tap++, list += rows) {
        const float *a[TDN_MR_MAX];
        EACH_ROW
            a[i] = (const float *)list[i] + end;
        int64_t k = -m->k;
        for (; wide > 1 && k + wide <= 0; k += wide) {
            TDN_UNROLLED (int w = 0; w < wide; w++, b += step)
                EACH_ROW
                    EACH_VECTOR {
                        vf *sum = w ? &more[i * (wide - 1) + w - 1][j] : &acc[i][j];
                        *sum += vf_set(a[i][k + w]) * load_b(b, j, half);
                    }
        }
        for (; TDN_BY_LANE && wide == 1 && k + TDN_LANES <= 0; k += TDN_LANES) {
            vf av[TDN_MR_MAX];
            EACH_ROW
                av[i] = vf_load(a[i] + k);
            TDN_UNROLLED (int w = 0; w < TDN_LANES; w++, b += step) {
                vf bv[2];
                EACH_VECTOR
                    bv[j] = load_b(b, j, half);
                if (half)
                    kept = keep(kept, bv, vectors);
                EACH_ROW
                    EACH_VECTOR
                        acc[i][j] += vf_set(av[i][w]) * bv[j];
            }
        }
        /* Where terms are multiplied by lanes, these are the last few: nothing is asked for. */
        for (; k != 0; k++, b += step, ahead += m->ahead.rate) {
            tdn_ahead_ask(ahead, TDN_BY_LANE ? 0 : vectors * TDN_LANES * b_size);
            vf bv[2];
            EACH_VECTOR
                bv[j] = load_b(b, j, half);
            if (half && wide == 1)
                kept = keep(kept, bv, vectors);
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

TDN_INLINE void multiply(const micro *m, const int rows, const int vectors, const int wide)
{
    sum_up(m, rows, vectors, wide, false);
}
TDN_INLINE void widen(const micro *m, const int rows, const int vectors, const int wide)
{
    sum_up(m, rows, vectors, wide, true);
}
TDN_INSTANCES(of_floats, multiply);
TDN_INSTANCES(of_halves, widen);
typedef void micro_fn(const micro *m);

/* Columns that do not fill their vectors: the sums go through spare memory, so that nothing beyond
 * the last column is read or written. */
static void multiply_narrow(const micro *m, micro_fn *fn, int64_t rows, int n_cols, float *spare)
{
    void *to[TDN_MR];
    for (int64_t i = 0; i < rows; i++)
        to[i] = spare + i * TDN_NR;
    micro own = *m;
    own.c = to;
    own.col = 0;
    own.first = true;
    own.last = false;
    fn(&own);
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
    micro m = {.n_taps = n_taps,
               .k0 = k0,
               .k = k,
               .lo = t->lo,
               .hi = t->hi,
               .first = first,
               .last = last,
               .kept = t->wide};
    const uint64_t n_blocks = (uint64_t)t->n_blocks, n_rows = (uint64_t)t->rows;
    const uint64_t each = n_rows / n_blocks, rest = n_rows % n_blocks; /* as in tdn_cpu_share */
    for (int64_t panel = 0, col = 0; col < t->cols; panel++, col += TDN_NR) {
        const int n_cols = (int)tdn_cpu_min(TDN_NR, t->cols - col);
        const int64_t size = tdn_weight_size(t->wide);
        const void *b = (const char *)t->b + panel * t->b_panel * size;
        m.col = col;
        m.bias = t->bias ? t->bias + col : NULL;
        for (uint64_t block = 0, row0 = 0; block < n_blocks; block++) {
            const uint64_t rows = each + (block < rest);
            const bool is_wide = t->wide && block > 0; /* the first block kept it */
            micro_fn *const(*of)[2] = t->wide && !is_wide ? of_halves : of_floats;
            micro_fn *fn = of[rows - 1][n_cols > TDN_LANES];
            m.b = is_wide ? t->wide : b;
            m.ahead = tdn_ahead_of(t, b, col, (int64_t)block, n_taps * k, TDN_NR * size);
            m.a = t->a + row0 * (uint64_t)t->a_taps + (uint64_t)tap0 * rows;
            m.c = t->c + row0;
            m.residual = t->residual ? t->residual + row0 : NULL;
            if (n_cols % TDN_LANES == 0)
                fn(&m);
            else
                multiply_narrow(&m, fn, (int64_t)rows, n_cols, t->spare);
            row0 += rows;
        }
    }
}
