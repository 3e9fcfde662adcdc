/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The matrix kernel for a left operand of spikes, 0 or 1 and mostly 0: of each row the places of
 * the ones are listed, then the rows of the panels at these are added up. The panels are those of
 * the dense kernel, so that it can take over: ones are counted at one tap of some of the tile's
 * rows first (all of them are, with stride 1, nearly all there is of a convolution), and where they
 * are too many nothing is done.
 *
 * Few terms or few rows: each row passes all terms, with as many columns in registers as there is
 * room for. Otherwise a part of the panels, some terms of some columns, stays near while all rows
 * pass it, and their sums wait in scratch meanwhile: a weight comes from L2 once a tile instead of
 * once a row. Rows with as many ones follow each other, since the end of a loop whose length is
 * random is mispredicted each time, which takes as long as ten additions.
 *
 * Terms are added in the order of the sum, each row by itself: the bits depend on the operands
 * alone. What is left out is 0 times a weight; weights that are not finite never come here.
 */
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
    MANY_ROWS = 16,    /* for a part to be read again */
    MANY_TERMS = 4,    /* of a row in a part: for its sums to be fetched and stored */
    SAMPLED = 4,       /* one row in so many is asked how sparse it is */
    MOST_SORTED = 128, /* rows of more terms in a part are not sorted */
    MEMO_BITS = 7
};

/* A list that was made of the row at p. */
typedef struct memo {
    const float *p;
    int32_t list;
} memo;

/* The terms of a row in a part: n from `begin` on. */
typedef struct run {
    int32_t row, begin, n;
} run;

/* Some rows of a tile, listed. Places are those of weights in a panel: of a list from the tap's
 * first on, of a run from the panel's. */
typedef struct group {
    const tdn_block *b;
    const tdn_tiling *t;
    const float *panels;
    tdn_sparse_sizes sizes;
    int64_t first, n; /* rows */
    int32_t n_lists, n_listed;
    int64_t n_terms; /* of all rows */
    int32_t *listed; /* list by list */
    int32_t *begins; /* [list][split of a tap], and the end of the last */
    int32_t *lists;  /* [row][tap]: rows of a convolution share them */
    int32_t *terms;  /* run by run */
    run *runs;       /* [part][row], by the number of terms */
    int64_t n_parts;
    float *sums; /* [row][column of a part] */
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
    const vm m = vm_ne(vf_load(p), (vf){0});
    const vi at =
        (vi_set((int32_t)first) + (vi){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}) *
        TDN_NR;
    _mm512_storeu_si512(g->listed + n, _mm512_maskz_compress_epi32(m, (__m512i)at));
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
        g->listed[n + q] = (int32_t)(first + at) * TDN_NR;
        bits &= bits - 1;
    }
    for (n += QUICK; bits; bits &= bits - 1, n++)
        g->listed[n] = (int32_t)(first + __builtin_ctz(bits)) * TDN_NR;
    return end;
}

#endif

static int32_t make_list(group *g, const float *p)
{
    int64_t n = g->n_listed;
    for (int64_t split = 0; split < g->sizes.splits; split++) {
        int64_t i = split * g->sizes.split_terms;
        const int64_t end = tdn_cpu_min(i + g->sizes.split_terms, g->t->k);
        g->begins[g->n_lists * g->sizes.splits + split] = (int32_t)n;
        for (; i + TDN_LANES <= end; i += TDN_LANES)
            n = list_vector(g, n, p + i, i);
        for (; i < end; i++) {
            g->listed[n] = (int32_t)i * TDN_NR;
            n += p[i] != 0;
        }
    }
    g->n_listed = g->begins[(g->n_lists + 1) * g->sizes.splits] = (int32_t)n;
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
        g->n_terms += g->begins[(list + 1) * g->sizes.splits] - g->begins[list * g->sizes.splits];
    }
    g->n++;
}

/* ---- Runs ------------------------------------------------------------------------------------ */

/* Splits are counted through all taps. */
TDN_INLINE const int32_t *split_of(const group *g, int64_t row, int64_t split)
{
    const int64_t splits = g->sizes.splits;
    return g->begins + g->lists[row * g->t->n_taps + split / splits] * splits + split % splits;
}

/* Sorts the rows by their number of terms in splits first .. end. */
static void sort_rows(const group *g, int64_t first, int64_t end, run *runs)
{
    int32_t at[MOST_SORTED + 1] = {0}; /* by number: rows, then where the next one goes */
    run *aside = g->runs + g->n_parts * g->n;
    for (int64_t row = 0; row < g->n; row++) {
        int32_t n = 0;
        for (int64_t split = first; split < end; split++) {
            const int32_t *begins = split_of(g, row, split);
            n += begins[1] - begins[0];
        }
        aside[row] = (run){.row = (int32_t)row, .n = n};
        at[tdn_cpu_min(n, MOST_SORTED)]++;
    }
    for (int32_t i = 0, before = 0; i <= MOST_SORTED; i++) {
        const int32_t n = at[i];
        at[i] = before;
        before += n;
    }
    for (int64_t row = 0; row < g->n; row++)
        runs[at[tdn_cpu_min(aside[row].n, MOST_SORTED)]++] = aside[row];
}

/* Writes a row's terms in these splits behind each other, in whole vectors. Returns their end. */
static int64_t copy_terms(const group *g, int64_t first, int64_t end, int64_t row, int64_t n)
{
    for (int64_t split = first; split < end; split++) {
        const int32_t *begins = split_of(g, row, split);
        const vi more = vi_set((int32_t)(split / g->sizes.splits * g->t->k * TDN_NR));
        for (int64_t i = begins[0]; i < begins[1]; i += TDN_LANES)
            vi_store(g->terms + n + i - begins[0], vi_load(g->listed + i) + more);
        n += begins[1] - begins[0];
    }
    return n;
}

static void make_runs(group *g)
{
    const int64_t n_splits = g->t->n_taps * g->sizes.splits;
    const bool by_parts = g->n >= MANY_ROWS && g->n_terms >= MANY_TERMS * g->n * g->sizes.parts;
    g->n_parts = by_parts ? g->sizes.parts : 1;
    const int64_t step = by_parts ? g->sizes.splits_in_part : n_splits;
    for (int64_t part = 0, n = 0; part < g->n_parts; part++) {
        run *runs = g->runs + part * g->n;
        const int64_t first = part * step, end = tdn_cpu_min(n_splits, first + step);
        sort_rows(g, first, end, runs);
        for (int64_t i = 0; i < g->n; i++) {
            runs[i].begin = (int32_t)n;
            n = copy_terms(g, first, end, runs[i].row, n);
        }
    }
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

/* A part of the terms, of columns from `panel` on; `wide` panels of them, a constant. */
typedef struct sweep {
    const group *g;
    const float *from;
    int64_t panel, part;
} sweep;

TDN_INLINE void begin_sums(vf acc[WIDE][2], const sweep *s, int64_t row, const int wide)
{
    const float *sums = s->g->sums + row * TDN_SPARSE_COLS;
    TDN_UNROLLED (int v = 0; v < 2 * wide; v++)
        acc[v / 2][v % 2] = s->part == 0 ? (vf){0} : vf_load(sums + v * TDN_LANES);
}

TDN_INLINE void end_sums(const vf acc[WIDE][2], const sweep *s, int64_t row, const int wide)
{
    float *sums = s->g->sums + row * TDN_SPARSE_COLS;
    if (s->part + 1 == s->g->n_parts)
        TDN_UNROLLED (int p = 0; p < wide; p++)
            finish(s->g->b, s->g->first + row, (s->panel + p) * TDN_NR, acc[p]);
    else
        TDN_UNROLLED (int v = 0; v < 2 * wide; v++)
            vf_store(sums + v * TDN_LANES, acc[v / 2][v % 2]);
}

TDN_INLINE void add_term(vf acc[WIDE][2], const sweep *s, int32_t at, const int wide)
{
    const float *row = s->from + at;
    TDN_UNROLLED (int p = 0; p < wide; p++) {
        acc[p][0] += vf_load(row + p * s->g->b->b_panel);
        acc[p][1] += vf_load(row + p * s->g->b->b_panel + TDN_LANES);
    }
}

/* The terms of a run from number k on. */
TDN_INLINE void add_run(vf acc[WIDE][2], const sweep *s, const run *r, int32_t k, const int wide)
{
    const int32_t *terms = s->g->terms + r->begin;
    for (; k < r->n; k++)
        add_term(acc, s, terms[k], wide);
}

/* Two rows at once where registers suffice: more sums that do not wait for each other. */
TDN_INLINE void sum_runs(const sweep *s, const int wide)
{
    const group *g = s->g;
    const run *runs = g->runs + s->part * g->n;
    int64_t i = 0;
    for (; wide <= 2 && i + 2 <= g->n; i += 2) {
        const run *r = &runs[i];
        const int32_t *t0 = g->terms + r[0].begin, *t1 = g->terms + r[1].begin;
        const int32_t both = r[0].n < r[1].n ? r[0].n : r[1].n;
        vf acc0[WIDE][2], acc1[WIDE][2];
        begin_sums(acc0, s, r[0].row, wide);
        begin_sums(acc1, s, r[1].row, wide);
        for (int32_t k = 0; k < both; k++) {
            add_term(acc0, s, t0[k], wide);
            add_term(acc1, s, t1[k], wide);
        }
        add_run(acc0, s, &r[0], both, wide);
        add_run(acc1, s, &r[1], both, wide);
        end_sums(acc0, s, r[0].row, wide);
        end_sums(acc1, s, r[1].row, wide);
    }
    for (; i < g->n; i++) {
        vf acc[WIDE][2];
        begin_sums(acc, s, runs[i].row, wide);
        add_run(acc, s, &runs[i], 0, wide);
        end_sums(acc, s, runs[i].row, wide);
    }
}

typedef void sum_fn(const sweep *s);
#define INSTANCE(wide)                                                                             \
    static void sum_##wide(const sweep *s) { sum_runs(s, wide); }
INSTANCE(1)
INSTANCE(2)
INSTANCE(4)
#if TDN_LANES == 16 || defined(__ARM_NEON)
INSTANCE(8)
#endif

static const struct {
    int64_t wide;
    sum_fn *sum;
} instances[] = {
#if TDN_LANES == 16 || defined(__ARM_NEON)
    {8, sum_8},
#endif
    {4, sum_4},
    {2, sum_2},
    {1, sum_1}};

static void sum_group(group *g)
{
    const int64_t n_panels = tdn_cpu_div_up(g->b->cols, TDN_NR);
    make_runs(g);
    for (int64_t panel = 0, i = 0; panel < n_panels; panel += instances[i].wide) {
        while (instances[i].wide > n_panels - panel ||
               (g->n >= MANY_ROWS && instances[i].wide > PART_PANELS))
            i++;
        for (int64_t part = 0; part < g->n_parts; part++) {
            const sweep s = {g, g->panels + panel * g->b->b_panel, panel, part};
            instances[i].sum(&s);
        }
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
    const int64_t tap = t->n_taps / 2;
    int64_t n = 0, n_seen = 0;
    for (int64_t block = 0; block < b->n_blocks; block++) {
        int64_t row0, row1;
        tdn_cpu_share(b->rows, block, b->n_blocks, &row0, &row1);
        const void **a = b->a + row0 * b->a_taps + tap * (row1 - row0);
        for (int64_t row = row0; row < row1; row += SAMPLED, n_seen++)
            n += count_terms(a[row - row0], t->k);
    }
    return n * 100 <= n_seen * t->k * TDN_SPARSE_PERCENT;
}

bool TDN_KERNEL(tdn_sparse_f32)(const tdn_block *b, const tdn_tiling *t, const float *panels,
                                float *scratch)
{
    if (!is_sparse(b, t))
        return false;
    group g;
    g.b = b;
    g.t = t;
    g.panels = panels;
    g.sizes = tdn_sparse_sizes_of(t);
    g.listed = (int32_t *)(void *)scratch;
    g.terms = g.listed + g.sizes.terms;
    g.sums = scratch + 2 * g.sizes.terms;
    g.begins = (int32_t *)(void *)(g.sums + g.sizes.sums);
    g.lists = g.begins + g.sizes.begins;
    g.runs = (run *)(void *)(g.lists + g.sizes.lists);
    begin_group(&g, 0);
    for (int64_t block = 0; block < b->n_blocks; block++) {
        int64_t row0, row1;
        tdn_cpu_share(b->rows, block, b->n_blocks, &row0, &row1);
        for (int64_t row = row0; row < row1; row++) {
            list_row(&g, b->a + row0 * b->a_taps + (row - row0), row1 - row0);
            if (g.n < g.sizes.rows && row + 1 < b->rows)
                continue;
            sum_group(&g);
            begin_group(&g, row + 1);
        }
    }
    return true;
}
