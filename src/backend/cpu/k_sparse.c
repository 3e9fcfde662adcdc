/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The matrix kernel for a left operand that is mostly zeros: of each row the terms that are not 0
 * are listed, then their rows of the panels are added up. The panels are those of the dense kernel,
 * so that it can take over: zeros are counted at one tap of the tile's rows first (which of a
 * convolution with stride 1 are nearly all there is), and where they are too few nothing is done.
 *
 * Few terms or few rows: each row passes all terms, with as many columns in registers as there is
 * room for. Otherwise a part of the panels, some terms of some columns, stays in L1 while all rows
 * pass it, and their sums wait in scratch meanwhile: a weight comes from L2 once a tile instead of
 * once a row.
 *
 * Terms are added in the order of the sum, each row by itself: the bits depend on the operands
 * alone. What is left out is 0 times a weight; weights that are not finite never come here.
 */
#include <math.h>

#include "backend/cpu/matrix.h"
#include "backend/cpu/vec.h"

/* Panels at a time, of 2 vectors each: all terms (half of the registers where there are 32), or a
 * part of them (TDN_SPARSE_COLS, if there are registers for it). */
#if TDN_LANES == 16 || defined(__ARM_NEON)
enum { WIDE = 8 };
#else
enum { WIDE = 4 };
#endif
enum { PART_PANELS = TDN_SPARSE_COLS / TDN_NR < WIDE ? TDN_SPARSE_COLS / TDN_NR : WIDE };

enum {
    MANY_ROWS = 16,  /* for a part to be read again */
    MANY_TERMS = 10, /* of a row in a part: for its sums to be fetched and stored */
    MEMO_BITS = 7
};

/* A list that was made of the row at p. */
typedef struct memo {
    const float *p;
    int32_t list;
} memo;

/* Some rows of a tile, listed. */
typedef struct group {
    const tdn_block *b;
    const tdn_tiling *t;
    const float *panels;
    int64_t first, n; /* rows */
    int64_t parts;    /* of a tap */
    int32_t n_lists, n_listed;
    int64_t n_terms; /* of all rows */
    float *value;
    int32_t *at;     /* with each value: its weights in a panel, from the tap's first */
    int32_t *begins; /* [list][part], and the end of the last */
    int32_t *lists;  /* [row][tap]: rows of a convolution share them */
    float *sums;     /* [row][column of a part] */
    memo memos[1 << MEMO_BITS];
} group;

/* ---- Terms ----------------------------------------------------------------------------------- */

static int64_t count_terms(const float *p, int64_t k)
{
    int64_t n = 0, i = 0;
    for (; i + TDN_LANES <= k; i += TDN_LANES)
        n += __builtin_popcount(vm_bits(vm_ne(vf_load(p + i), (vf){0})));
    for (; i < k; i++)
        n += p[i] != 0;
    return n;
}

/* Appends the lanes of the vector at p that are not 0, without a branch on each: bits that are
 * random are mispredicted. What is written beyond them the next vector overwrites. */
#if TDN_LANES == 16

TDN_INLINE int64_t list_vector(const group *g, int64_t n, const float *p, int64_t first)
{
    const vf x = vf_load(p);
    const vm m = vm_ne(x, (vf){0});
    const vi at =
        (vi_set((int32_t)first) + (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}) *
        TDN_NR;
    _mm512_storeu_si512(g->at + n, _mm512_maskz_compress_epi32(m, (__m512i)at));
    vf_store(g->value + n, (vf)_mm512_maskz_compress_ps(m, (__m512)x));
    return n + __builtin_popcount(vm_bits(m));
}

#else

enum { QUICK = TDN_LANES / 4 + 1 }; /* more are rare, and take a branch */

TDN_INLINE int64_t list_vector(const group *g, int64_t n, const float *p, int64_t first)
{
    uint32_t bits = vm_bits(vm_ne(vf_load(p), (vf){0}));
    const int64_t end = n + __builtin_popcount(bits);
    TDN_UNROLLED (int q = 0; q < QUICK; q++) {
        const int at = __builtin_ctz(bits | 1u << TDN_LANES) & (TDN_LANES - 1);
        g->at[n + q] = (int32_t)(first + at) * TDN_NR;
        g->value[n + q] = p[at];
        bits &= bits - 1;
    }
    for (n += QUICK; bits; bits &= bits - 1, n++) {
        g->at[n] = (int32_t)(first + __builtin_ctz(bits)) * TDN_NR;
        g->value[n] = p[__builtin_ctz(bits)];
    }
    return end;
}

#endif

static int32_t make_list(group *g, const float *p)
{
    int64_t n = g->n_listed;
    for (int64_t k0 = 0, part = 0; k0 < g->t->k; k0 += TDN_SPARSE_TERMS, part++) {
        const int64_t k = tdn_cpu_min(TDN_SPARSE_TERMS, g->t->k - k0);
        int64_t i = 0;
        g->begins[g->n_lists * g->parts + part] = (int32_t)n;
        for (; i + TDN_LANES <= k; i += TDN_LANES)
            n = list_vector(g, n, p + k0 + i, k0 + i);
        for (; i < k; i++) {
            g->at[n] = (int32_t)(k0 + i) * TDN_NR;
            g->value[n] = p[k0 + i];
            n += p[k0 + i] != 0;
        }
    }
    g->n_listed = g->begins[(g->n_lists + 1) * g->parts] = (int32_t)n;
    return g->n_lists++;
}

static int32_t find_list(group *g, const float *p)
{
    if (g->t->n_taps == 1)
        return make_list(g, p);
    const uint64_t hash = (uint64_t)(uintptr_t)p * 0x9e3779b97f4a7c15u;
    memo *m = &g->memos[hash >> (64 - MEMO_BITS)];
    if (m->p != p)
        *m = (memo){p, make_list(g, p)};
    return m->list;
}

/* `step` pointers from one tap to the next. */
static void list_row(group *g, const void *const *a, int64_t step)
{
    for (int64_t tap = 0; tap < g->t->n_taps; tap++) {
        const int32_t list = find_list(g, a[tap * step]);
        g->lists[g->n * g->t->n_taps + tap] = list;
        g->n_terms += g->begins[(list + 1) * g->parts] - g->begins[list * g->parts];
    }
    g->n++;
}

/* ---- Sums ------------------------------------------------------------------------------------ */

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
            sum += vf_load_n((const float *)b->residual[row] + col, n);
        sum = vf_min(vf_set(b->hi), vf_max(vf_set(b->lo), sum));
        vf_store_n((float *)b->c[row] + col, sum, n);
    }
}

/* Listed terms begin .. end of a tap whose first weights are at `from`; `wide` panels: a constant.
 */
TDN_INLINE void add_terms(vf acc[WIDE][2], const group *g, int64_t begin, int64_t end,
                          const float *from, const int wide)
{
    for (int64_t i = begin; i < end; i++) {
        const vf x = vf_set(g->value[i]);
        const float *row = from + g->at[i];
        TDN_UNROLLED (int p = 0; p < wide; p++) {
            acc[p][0] += x * vf_load(row + p * g->b->b_panel);
            acc[p][1] += x * vf_load(row + p * g->b->b_panel + TDN_LANES);
        }
    }
}

static const float *weights_at(const group *g, int64_t panel, int64_t tap)
{
    return g->panels + panel * g->b->b_panel + tap * g->t->k * TDN_NR;
}

/* All terms, row by row. */
TDN_INLINE void sum_rows(const group *g, int64_t panel, const int wide)
{
    for (int64_t row = 0; row < g->n; row++) {
        const int32_t *lists = g->lists + row * g->t->n_taps;
        vf acc[WIDE][2];
        TDN_UNROLLED (int p = 0; p < wide; p++)
            acc[p][0] = acc[p][1] = (vf){0};
        for (int64_t tap = 0; tap < g->t->n_taps; tap++) {
            const int32_t *begins = g->begins + lists[tap] * g->parts;
            add_terms(acc, g, begins[0], begins[g->parts], weights_at(g, panel, tap), wide);
        }
        TDN_UNROLLED (int p = 0; p < wide; p++)
            finish(g->b, g->first + row, (panel + p) * TDN_NR, acc[p]);
    }
}

/* Part by part, all rows. */
TDN_INLINE void sum_parts(const group *g, int64_t panel, const int wide)
{
    const int64_t n = g->t->n_taps * g->parts;
    for (int64_t i = 0; i < n; i++) {
        const int64_t tap = i / g->parts, part = i % g->parts;
        const float *from = weights_at(g, panel, tap);
        for (int64_t row = 0; row < g->n; row++) {
            float *sums = g->sums + row * TDN_SPARSE_COLS;
            vf acc[WIDE][2];
            TDN_UNROLLED (int v = 0; v < 2 * wide; v++)
                acc[v / 2][v % 2] = i ? vf_load(sums + v * TDN_LANES) : (vf){0};
            const int32_t *begins =
                g->begins + g->lists[row * g->t->n_taps + tap] * g->parts + part;
            add_terms(acc, g, begins[0], begins[1], from, wide);
            if (i + 1 < n)
                TDN_UNROLLED (int v = 0; v < 2 * wide; v++)
                    vf_store(sums + v * TDN_LANES, acc[v / 2][v % 2]);
            else
                TDN_UNROLLED (int p = 0; p < wide; p++)
                    finish(g->b, g->first + row, (panel + p) * TDN_NR, acc[p]);
        }
    }
}

typedef void sum_fn(const group *g, int64_t panel);
#define INSTANCE(wide)                                                                             \
    static void rows_##wide(const group *g, int64_t panel) { sum_rows(g, panel, wide); }           \
    static void parts_##wide(const group *g, int64_t panel)                                        \
    {                                                                                              \
        if (wide <= PART_PANELS) /* others are never asked for */                                  \
            sum_parts(g, panel, wide);                                                             \
    }
INSTANCE(1)
INSTANCE(2)
INSTANCE(4)
#if TDN_LANES == 16 || defined(__ARM_NEON)
INSTANCE(8)
#endif

static const struct {
    int64_t wide;
    sum_fn *rows, *parts;
} instances[] = {
#if TDN_LANES == 16 || defined(__ARM_NEON)
    {8, rows_8, parts_8},
#endif
    {4, rows_4, parts_4},
    {2, rows_2, parts_2},
    {1, rows_1, parts_1}};

static void sum_group(const group *g)
{
    const int64_t n_panels = tdn_cpu_div_up(g->b->cols, TDN_NR);
    const bool by_parts =
        g->n >= MANY_ROWS && g->n_terms >= MANY_TERMS * g->n * g->t->n_taps * g->parts;
    for (int64_t panel = 0, i = 0; panel < n_panels; panel += instances[i].wide) {
        while (instances[i].wide > n_panels - panel ||
               (by_parts && instances[i].wide > PART_PANELS))
            i++;
        (by_parts ? instances[i].parts : instances[i].rows)(g, panel);
    }
}

static void begin_group(group *g, int64_t first)
{
    g->first = first;
    g->n = g->n_terms = 0;
    g->n_lists = g->n_listed = 0;
    if (g->t->n_taps > 1)
        memset(g->memos, 0, sizeof g->memos);
}

/* ---- A tile ---------------------------------------------------------------------------------- */

static bool is_sparse(const tdn_block *b, const tdn_tiling *t)
{
    const int64_t tap = t->n_taps / 2, most = b->rows * t->k * TDN_SPARSE_PERCENT / 100;
    int64_t n = 0;
    for (int64_t block = 0; block < b->n_blocks && n <= most; block++) {
        int64_t row0, row1;
        tdn_cpu_share(b->rows, block, b->n_blocks, &row0, &row1);
        const void **a = b->a + row0 * b->a_taps + tap * (row1 - row0);
        for (int64_t row = row0; row < row1; row++)
            n += count_terms(*a++, t->k);
    }
    return n <= most;
}

bool TDN_KERNEL(tdn_sparse_f32)(const tdn_block *b, const tdn_tiling *t, const float *panels,
                                float *scratch)
{
    if (!is_sparse(b, t))
        return false;
    const tdn_sparse_sizes sizes = tdn_sparse_sizes_of(t);
    group g;
    g.b = b;
    g.t = t;
    g.panels = panels;
    g.parts = sizes.parts;
    g.value = scratch;
    g.at = (int32_t *)(void *)(scratch + sizes.terms);
    g.sums = scratch + 2 * sizes.terms;
    g.begins = (int32_t *)(void *)(g.sums + sizes.sums);
    g.lists = g.begins + sizes.begins;
    begin_group(&g, 0);
    for (int64_t block = 0; block < b->n_blocks; block++) {
        int64_t row0, row1;
        tdn_cpu_share(b->rows, block, b->n_blocks, &row0, &row1);
        for (int64_t row = row0; row < row1; row++) {
            list_row(&g, b->a + row0 * b->a_taps + (row - row0), row1 - row0);
            if (g.n < sizes.rows && row + 1 < b->rows)
                continue;
            sum_group(&g);
            begin_group(&g, row + 1);
        }
    }
    return true;
}
