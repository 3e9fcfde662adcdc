/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments and packed constants of graphconv steps.
 *
 * The packed operand: panels [panel][kind][c][nr], or of halves [panel][kind][word] as hconv.h has
 * them, then one table of columns: where each (kind, w)'s entries begin (kinds * w + 1 numbers),
 * then the entries. Halves are inside alone: the left operand becomes such as its sums are made.
 */
#ifndef TDN_BACKEND_CPU_GRAPHCONV_H
#define TDN_BACKEND_CPU_GRAPHCONV_H

#include "backend/cpu/columns.h"
#include "backend/cpu/matrix.h"

enum { TDN_GRAPHCONV_MAX_KINDS = 16, TDN_GRAPHCONV_MAX_COLUMNS = 1 << 14 };

/* Behind it: the epilogue's program, if any. */
typedef struct tdn_graphconv_args {
    int64_t n_rows;            /* of outer axes together */
    int32_t n_tiles, max_rows; /* of one tile */
    int32_t n_kinds, n_entries;
    int32_t n_sums;    /* columns (kind, w) that are not empty */
    int32_t half;      /* tdn_dtype: what products are of, TDN_F32 or halves */
    tdn_tiling tiling; /* for its panels and blocks of the sum: taps are kinds */
    tdn_epilogue epilogue;
} tdn_graphconv_args;
_Static_assert(sizeof(tdn_graphconv_args) == 32 + sizeof(tdn_tiling) + sizeof(tdn_epilogue),
               "no padding: compared as bytes");

TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_graphconv);
TDN_DECLARE_HALF_LEVELS(tdn_kernel_fn, tdn_graphconv);

static inline tdn_columns tdn_graph_columns(const tdn_graphconv_args *a, const void *packed,
                                            int64_t n_nodes)
{
    return tdn_columns_at((const float *)packed + tdn_tiling_packed(&a->tiling),
                          a->n_kinds * n_nodes);
}
/* An entry alone, of weight 1, is the input's row itself. */
static inline bool tdn_graph_is_row(const tdn_columns *c, int64_t column)
{
    return c->begins[column + 1] - c->begins[column] == 1 &&
           c->entries[c->begins[column]].weight == 1;
}

/* Scratch, in this order. */
typedef struct tdn_graphconv_scratch {
    const void **a; /* pointers of a group: rows of the left operand, of the output, of the bias */
    void **c;
    const void **bias;
    float *spare, *sums; /* [row][sum][c, rounded up] */
    float *partial;      /* of halves: products that are not complete, [row] of whole panels */
    float *results;      /* those that a program turns into another type, [row][node] the same */
    int32_t *order;      /* nodes, those of one set of kinds together */
    uint32_t *kinds;     /* by node: of its neighbours, a bit each */
    int32_t *slots;      /* by column: its number among the sums */
    void *program;
    size_t size;
} tdn_graphconv_scratch;

static inline int64_t tdn_graphconv_sum_floats(const tdn_graphconv_args *a)
{
    return tdn_cpu_row_floats(a->tiling.k);
}

/* Floats of a row of partial products. */
static inline int64_t tdn_graphconv_step(const tdn_graphconv_args *a)
{
    return (int64_t)a->tiling.n_panels * a->tiling.nr;
}

static inline tdn_graphconv_scratch tdn_graphconv_scratch_at(const tdn_graphconv_args *a,
                                                             const tdn_view *out, void *memory)
{
    const int64_t n_nodes = out->dims[3];
    const size_t rows = (size_t)(a->max_rows * n_nodes), pointer = sizeof(void *);
    const size_t list = tdn_round_up(rows * (size_t)a->n_kinds * pointer, TDN_ALIGN);
    const size_t line = tdn_round_up(rows * pointer, TDN_ALIGN);
    const size_t spare = (size_t)(a->tiling.mr * a->tiling.nr) * sizeof(float);
    const size_t sums = (size_t)a->max_rows * (size_t)a->n_sums *
                        (size_t)tdn_graphconv_sum_floats(a) * sizeof(float);
    const size_t panels = rows * (size_t)tdn_graphconv_step(a) * sizeof(float);
    const size_t partial = a->half == TDN_F32 ? 0 : panels;
    const size_t results = out->dtype == TDN_F32 ? 0 : panels;
    const size_t order = tdn_round_up((size_t)n_nodes * sizeof(int32_t), TDN_ALIGN);
    const size_t slots = tdn_round_up((size_t)(n_nodes * a->n_kinds) * sizeof(int32_t), TDN_ALIGN);
    char *p = memory;
    tdn_graphconv_scratch s = {.size = list + 2 * line + spare + sums + partial + results +
                                       2 * order + slots};
    if (p) {
        s.a = (const void **)(void *)p;
        s.c = (void **)(void *)(p += list);
        s.bias = (const void **)(void *)(p += line);
        s.spare = (float *)(void *)(p += line);
        s.sums = (float *)(void *)(p += spare);
        s.partial = (float *)(void *)(p += sums);
        s.results = (float *)(void *)(p += partial);
        s.order = (int32_t *)(void *)(p += results);
        s.kinds = (uint32_t *)(void *)(p += order);
        s.slots = (int32_t *)(void *)(p += order);
        s.program = p + slots;
    }
    return s;
}

#endif
