/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The matrix kernel for a left operand that is mostly zeros: of each row the terms that are not 0
 * are listed once, then their rows of the panels are added up, some panels at a time in registers.
 * The panels are those of the dense kernel, so that it can take over: zeros are counted at one tap
 * of the tile's rows first (which of a convolution with stride 1 are nearly all there is), and
 * where they are too few nothing is done here.
 *
 * Terms are added in the order of the sum, each row by itself: the bits depend on the operands
 * alone. What is left out is 0 times a weight; weights that are not finite never come here.
 */
#include <math.h>

#include "backend/cpu/matrix.h"
#include "backend/cpu/vec.h"

/* Panels at a time: 2 vectors each, in half of the registers where there are 32. */
#if TDN_LANES == 16 || defined(__ARM_NEON)
enum { WIDE = 8 };
#else
enum { WIDE = 4 };
#endif

/* The terms of a row that are not 0. */
typedef struct terms {
    int32_t *at; /* tap * k + term */
    float *value;
    int64_t n;
} terms;

static int64_t count_terms(const float *p, int64_t k)
{
    int64_t n = 0, i = 0;
    for (; i + TDN_LANES <= k; i += TDN_LANES)
        n += __builtin_popcount(vm_bits(vm_ne(vf_load(p + i), (vf){0})));
    for (; i < k; i++)
        n += p[i] != 0;
    return n;
}

static bool is_sparse(const tdn_block *b, const tdn_tiling *t)
{
    const int64_t tap = t->n_taps / 2, most = b->rows * t->k * TDN_SPARSE_PERCENT / 100;
    int64_t n = 0;
    for (int64_t block = 0; block < b->n_blocks && n <= most; block++) {
        int64_t row0, row1;
        tdn_cpu_share(b->rows, block, b->n_blocks, &row0, &row1);
        const float **a = b->a + row0 * b->a_taps + tap * (row1 - row0);
        for (int64_t row = row0; row < row1; row++)
            n += count_terms(*a++, t->k);
    }
    return n <= most;
}

/* Appends the lanes of the vector at p that are not 0, without a branch on each: bits that are
 * random are mispredicted. What is written beyond them the next vector overwrites. */
#if TDN_LANES == 16

TDN_INLINE int64_t list_vector(const terms *list, int64_t n, const float *p, int64_t first)
{
    const vf x = vf_load(p);
    const vm m = vm_ne(x, (vf){0});
    const vi at =
        vi_set((int32_t)first) + (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    _mm512_storeu_si512(list->at + n, _mm512_maskz_compress_epi32(m, (__m512i)at));
    vf_store(list->value + n, (vf)_mm512_maskz_compress_ps(m, (__m512)x));
    return n + __builtin_popcount(vm_bits(m));
}

#else

enum { QUICK = TDN_LANES / 4 + 1 }; /* more are rare, and take a branch */

TDN_INLINE int64_t list_vector(const terms *list, int64_t n, const float *p, int64_t first)
{
    uint32_t bits = vm_bits(vm_ne(vf_load(p), (vf){0}));
    const int64_t end = n + __builtin_popcount(bits);
    TDN_UNROLLED (int q = 0; q < QUICK; q++) {
        const int at = __builtin_ctz(bits | 1u << TDN_LANES) & (TDN_LANES - 1);
        list->at[n + q] = (int32_t)(first + at);
        list->value[n + q] = p[at];
        bits &= bits - 1;
    }
    for (n += QUICK; bits; bits &= bits - 1, n++) {
        list->at[n] = (int32_t)(first + __builtin_ctz(bits));
        list->value[n] = p[__builtin_ctz(bits)];
    }
    return end;
}

#endif

static void list_terms(terms *list, const float *p, int64_t k, int64_t first)
{
    int64_t n = list->n, i = 0;
    for (; i + TDN_LANES <= k; i += TDN_LANES)
        n = list_vector(list, n, p + i, first + i);
    for (; i < k; i++) {
        list->at[n] = (int32_t)(first + i);
        list->value[n] = p[i];
        n += p[i] != 0;
    }
    list->n = n;
}

/* What follows the sum, as the dense kernel has it, for up to 2 vectors of one row. */
TDN_INLINE void finish(const tdn_block *b, int64_t row, int64_t col, const vf acc[2])
{
    for (int j = 0; j < 2; j++, col += TDN_LANES) {
        const int n = (int)tdn_cpu_min(TDN_LANES, b->cols - col);
        vf sum = acc[j];
        if (n <= 0)
            return;
        if (b->bias)
            sum += vf_load_n(b->bias + col, n);
        if (b->residual)
            sum += vf_load_n(b->residual[row] + col, n);
        sum = vf_min(vf_set(b->hi), vf_max(vf_set(b->lo), sum));
        vf_store_n(b->c[row] + col, sum, n);
    }
}

/* `wide` panels from `panel` on: a constant. */
TDN_INLINE void add_up(const tdn_block *b, const float *panels, int64_t panel, int64_t row,
                       const terms *list, const int wide)
{
    vf acc[WIDE][2];
    const float *from[WIDE];
    TDN_UNROLLED (int p = 0; p < wide; p++) {
        from[p] = panels + (panel + p) * b->b_panel;
        acc[p][0] = acc[p][1] = (vf){0};
    }
    for (int64_t i = 0; i < list->n; i++) {
        const vf x = vf_set(list->value[i]);
        const int64_t at = (int64_t)list->at[i] * TDN_NR;
        TDN_UNROLLED (int p = 0; p < wide; p++) {
            acc[p][0] += x * vf_load(from[p] + at);
            acc[p][1] += x * vf_load(from[p] + at + TDN_LANES);
        }
    }
    TDN_UNROLLED (int p = 0; p < wide; p++)
        finish(b, row, (panel + p) * TDN_NR, acc[p]);
}

static void run_row(const tdn_block *b, const float *panels, int64_t row, const terms *list)
{
    const int64_t n_panels = tdn_cpu_div_up(b->cols, TDN_NR);
    int64_t panel = 0;
    for (; panel + WIDE <= n_panels; panel += WIDE)
        add_up(b, panels, panel, row, list, WIDE);
    if (WIDE > 4 && panel + 4 <= n_panels) {
        add_up(b, panels, panel, row, list, 4);
        panel += 4;
    }
    if (panel + 2 <= n_panels) {
        add_up(b, panels, panel, row, list, 2);
        panel += 2;
    }
    if (panel < n_panels)
        add_up(b, panels, panel, row, list, 1);
}

bool TDN_KERNEL(tdn_sparse_f32)(const tdn_block *b, const tdn_tiling *t, const float *panels,
                                float *scratch)
{
    terms list = {(int32_t *)(void *)(scratch + tdn_sparse_floats(t) / 2), scratch, 0};
    if (!is_sparse(b, t))
        return false;
    for (int64_t block = 0; block < b->n_blocks; block++) {
        int64_t row0, row1;
        tdn_cpu_share(b->rows, block, b->n_blocks, &row0, &row1);
        const float **a = b->a + row0 * b->a_taps;
        for (int64_t row = row0; row < row1; row++, a++) {
            list.n = 0;
            for (int64_t tap = 0; tap < t->n_taps; tap++)
                list_terms(&list, a[tap * (row1 - row0)], t->k, tap * t->k);
            run_row(b, panels, row, &list);
        }
    }
    return true;
}
