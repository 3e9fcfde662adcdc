/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments of conv and gemm steps, and what their kernels share: the layout of scratch, and the
 * epilogue's operands for a run of rows.
 */
#ifndef TDN_BACKEND_CPU_MATRIX_H
#define TDN_BACKEND_CPU_MATRIX_H

#include <string.h>

#include "backend/cpu/cpu.h"

/* Behind it: the epilogue's program, if any. */
typedef struct tdn_conv_args {
    tdn_conv_desc desc;
    int32_t kernel[3];
    int32_t merged;   /* taps along w are one tap of kw * c: they are contiguous, and c is small */
    int32_t n_border; /* merged: rows that may need padding in one tile, each copied */
    int32_t is_half;  /* the packed weights are */
    tdn_tiling tiling;
    tdn_epilogue epilogue;
} tdn_conv_args;

/* Neighbouring pixels, and vectors of channels, that a depthwise kernel has at a time. */
enum { TDN_DW_PIXELS = 4, TDN_DW_VECTORS = 2 };

typedef struct tdn_dwconv_args {
    tdn_conv_desc desc;
    int32_t kernel[3];
    int32_t n_row_tiles;
    int64_t n_rows; /* n * d * h of out */
    tdn_epilogue epilogue;
} tdn_dwconv_args;

typedef struct tdn_gemm_args {
    int32_t packed;    /* in[1] is: [batch][panel][k][nr], 1: of floats, 2: of halves */
    int32_t shared;    /* one right operand for all batches: rows are (b0, b1, m) */
    int64_t b_dims[2]; /* batch axes of the right operand: 1, or as out's */
    tdn_tiling tiling;
    tdn_epilogue epilogue;
} tdn_gemm_args;

/* What a block has beside tdn_block where its sums are not of the output's type. */
typedef struct tdn_sums {
    void
        *partial; /* [row] of whole panels, `step` apart: sums, of 4 bytes, that are not complete */
    int64_t step;
    tdn_dtype out, residual;
    /* Of integers: */
    const int32_t *start; /* at the tile's first column, of whole panels */
    const struct tdn_requant *requant;
    const float *scale; /* at the tile's first column; NULL: none */
} tdn_sums;

/* Floats of scratch for sums that are not complete, or for those that a program takes. */
static inline int64_t tdn_conv_sums(const tdn_conv_args *args)
{
    const tdn_tiling *t = &args->tiling;
    const bool whole = t->tap_block == t->n_taps && t->k_block == t->k;
    return whole && !args->epilogue.has_program ? 0 : (int64_t)t->max_rows * t->max_panels * t->nr;
}

/* ---- What convolutions of floats and of integers share (conv_plan.c) ------------------------- */

/* Operations in the time that a byte of weights costs a tile of rows, mostly hidden; and that one
 * of halves does, which become floats: measured, with an instruction for that and without. */
enum { TDN_WEIGHT_BYTE_COST = 2, TDN_HALF_BYTE_COST = 3, TDN_HALF_BYTE_COST_BASE = 7 };
static inline int64_t tdn_weights_cost(const tdn_kernel *kernel, size_t packed_size, bool is_half)
{
    const bool widens = (kernel->isa & (TDN_ISA_AVX2 | TDN_ISA_ARM)) != 0;
    return (int64_t)packed_size * (!is_half ? TDN_WEIGHT_BYTE_COST
                                   : widens ? TDN_HALF_BYTE_COST
                                            : TDN_HALF_BYTE_COST_BASE);
}

/* Ranks, dtypes (of `out` any, where its dtype is TDN_DTYPE_NONE), dims and parameters. */
tdn_status tdn_conv_check_desc(const tdn_conv_desc *desc, const int32_t kernel[3],
                               const tdn_view *x, tdn_dtype x_dtype, const tdn_view *out,
                               tdn_dtype out_dtype, tdn_error *error);
/* Constant, dense, and fit x and out; they may cover only the first channels of each group. */
tdn_status tdn_conv_check_weights(const tdn_group *group, const tdn_conv_desc *desc,
                                  tdn_dtype dtype, tdn_error *error);
bool tdn_conv_is_depthwise(const tdn_conv_desc *desc, const tdn_view *x, const tdn_view *out);
/* Derives all that follows from desc, kernel, the tiling's shape and operands. `n_in_term`:
 * channels that are one term of the sum; it divides those of a group. */
tdn_status tdn_conv_plan(tdn_conv_args *args, const tdn_kernel *kernel, const tdn_view *x,
                         const tdn_view *out, int n_in_term, tdn_error *error);
/* Are these the arguments that make would have derived? */
tdn_status tdn_conv_check_plan(const tdn_conv_args *args, const tdn_kernel *kernel,
                               const tdn_view *x, const tdn_view *out, int n_in_term,
                               tdn_error *error);
tdn_status tdn_dwconv_plan(tdn_dwconv_args *args, const tdn_view *out, tdn_error *error);
tdn_status tdn_dwconv_check_plan(const tdn_dwconv_args *args, const tdn_view *x,
                                 const tdn_view *out, int64_t *n_weights, tdn_error *error);

_Static_assert(sizeof(tdn_conv_args) == 64 + sizeof(tdn_tiling) + sizeof(tdn_epilogue),
               "no padding: compared as bytes");
_Static_assert(sizeof(tdn_dwconv_args) == 64 + sizeof(tdn_epilogue),
               "no padding: compared as bytes");
_Static_assert(sizeof(tdn_gemm_args) == 24 + sizeof(tdn_tiling) + sizeof(tdn_epilogue),
               "no padding: compared as bytes");

TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_conv_f32);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_conv_f32h);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_dwconv_f32);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_gemm_f32);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_gemm_f32h);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_spconv_f32);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_spgemm_f32);

/* Packs k rows and `cols` columns, one of whose strides is 1, as [panel][k][nr]; columns beyond the
 * last are 0. */
typedef void tdn_panels_fn(float *to, const float *from, int64_t k_stride, int64_t col_stride,
                           int64_t k, int64_t cols);
TDN_DECLARE_LEVELS(tdn_panels_fn, tdn_panels_pack);

/* ---- A left operand that is mostly zeros ----------------------------------------------------- */

/* Kernels spconv and spgemm have the arguments and panels of conv and gemm. Their left operand
 * is 0 or 1: they add up the rows of the panels at the ones where these are at most so many in a
 * hundred, and are the dense kernel otherwise. Measured over 10 rows, the two are even at 39 %;
 * over 200 of a convolution at 53 (AVX2) to 64 % (AVX-512). A core that multiplies faster than it
 * reads L2 is so earlier. */
#define TDN_SPARSE_PERCENT 35

/* A part of the panels that stays near: 64 KiB of floats, in L1 or read early from L2. */
enum { TDN_SPARSE_TERMS = 256, TDN_SPARSE_COLS = 64 };

/* What is listed at a time, and words of scratch for it, in this order (terms twice). A tap's terms
 * are split where they are more than a part has; a part may have several taps. */
typedef struct tdn_sparse_sizes {
    int64_t splits, split_terms; /* of a tap */
    int64_t parts, splits_in_part;
    int64_t rows;
    int64_t terms, sums, begins, lists, runs;
} tdn_sparse_sizes;
static inline tdn_sparse_sizes tdn_sparse_sizes_of(const tdn_tiling *t)
{
    enum { MOST_TERMS = 1 << 16, WORDS_OF_RUN = 3 };
    const int64_t of_row = t->n_taps * t->k;
    tdn_sparse_sizes s = {.splits = tdn_cpu_div_up(t->k, TDN_SPARSE_TERMS)};
    s.split_terms = tdn_cpu_row_floats(tdn_cpu_div_up(t->k, s.splits));
    s.splits = tdn_cpu_div_up(t->k, s.split_terms);
    s.splits_in_part = tdn_cpu_max(1, TDN_SPARSE_TERMS / s.split_terms);
    s.parts = tdn_cpu_div_up(t->n_taps * s.splits, s.splits_in_part);
    s.rows = tdn_cpu_max(1, tdn_cpu_min(t->max_rows, MOST_TERMS / of_row));
    s.terms = tdn_cpu_row_floats(s.rows * of_row) + 16; /* whole vectors are written */
    s.sums = s.rows * TDN_SPARSE_COLS;
    s.begins = s.rows * t->n_taps * s.splits + 1;
    s.lists = s.rows * t->n_taps;
    s.runs = (s.parts + 1) * s.rows * WORDS_OF_RUN;
    return s;
}
static inline int64_t tdn_sparse_floats(const tdn_tiling *t)
{
    const tdn_sparse_sizes s = tdn_sparse_sizes_of(t);
    return tdn_cpu_row_floats(2 * s.terms + s.sums + s.begins + s.lists + s.runs);
}
/* All of the tile, epilogue's compiled part included; `panels` are the tile's. False, with nothing
 * done, where too few factors are 0. */
typedef bool tdn_sparse_fn(const tdn_block *block, const tdn_tiling *t, const float *panels,
                           float *scratch);
TDN_DECLARE_LEVELS(tdn_sparse_fn, tdn_sparse_f32);
/* Are all weights finite, so that 0 times one is 0? */
bool tdn_sparse_suits(const tdn_view *weights);

/* Floats of scratch for a panel of halves: a block of the sum. */
static inline int64_t tdn_wide_floats(const tdn_tiling *t, bool is_half)
{
    return is_half ? (int64_t)t->tap_block * t->k_block * t->nr : 0;
}

/* Floats of scratch that are the family's own: a panel of halves, padded rows, offsets of taps,
 * terms of a row. */
static inline int64_t tdn_conv_extra(const tdn_conv_args *args, bool sparse)
{
    const tdn_tiling *t = &args->tiling;
    return tdn_wide_floats(t, args->is_half) + args->n_border * t->n_taps * t->k + t->n_taps * 2 +
           (sparse ? tdn_sparse_floats(t) : 0);
}

static inline const tdn_map_program *tdn_epilogue_program(const tdn_epilogue *epilogue)
{
    return epilogue->has_program ? (const tdn_map_program *)(epilogue + 1) : NULL;
}

/* Scratch of a tile, in this order; `extra` floats are the family's own. */
typedef struct tdn_matrix_scratch {
    const void **a;
    void **c;
    const void **residual;
    float *spare;
    const void **near; /* where rows are gathered: pointers to the copies */
    float *copies;
    float *extra;
    void *program;
} tdn_matrix_scratch;

/* Terms from one gathered row to the next: an odd number of cache lines, mostly. */
static inline int64_t tdn_matrix_copy_floats(const tdn_tiling *t)
{
    return tdn_cpu_row_floats(t->k_block) + 16;
}

static inline size_t tdn_matrix_scratch_set(tdn_matrix_scratch *s, void *memory,
                                            const tdn_tiling *t, int64_t n_extra)
{
    const size_t rows = (size_t)t->max_rows, pointer = sizeof(void *);
    const size_t a = tdn_round_up(rows * (size_t)t->n_taps * pointer, TDN_ALIGN);
    const size_t c = tdn_round_up(rows * pointer, TDN_ALIGN);
    const size_t spare = (size_t)(t->mr * t->nr) * sizeof(float);
    const size_t n_near = t->gathers ? rows * (size_t)t->tap_block : 0;
    const size_t near = tdn_round_up(n_near * pointer, TDN_ALIGN);
    const size_t copies = n_near * (size_t)tdn_matrix_copy_floats(t) * sizeof(float);
    const size_t extra = tdn_round_up((size_t)n_extra * sizeof(float), TDN_ALIGN);
    if (s) {
        char *p = memory;
        s->a = (const void **)(void *)p;
        s->c = (void **)(void *)(p += a);
        s->residual = (const void **)(void *)(p += c);
        s->spare = (float *)(void *)(p += c);
        s->near = (const void **)(void *)(p += spare);
        s->copies = (float *)(void *)(p += near);
        s->extra = (float *)(void *)(p += copies);
        s->program = p + extra;
    }
    return a + 2 * c + spare + near + copies + extra;
}

/* The rows' pieces of one block of the sum, copied together. */
static inline tdn_block tdn_gather_rows(const tdn_tiling *t, const tdn_block *block,
                                        const tdn_matrix_scratch *s, int64_t tap0, int64_t n_taps,
                                        int64_t k0, int64_t k)
{
    tdn_block near = *block;
    const void **to = near.a = s->near;
    float *copy = s->copies;
    near.a_taps = n_taps;
    for (int64_t i = 0; i < block->n_blocks; i++) {
        int64_t row0, row1;
        tdn_cpu_share(block->rows, i, block->n_blocks, &row0, &row1);
        const void **from = block->a + row0 * block->a_taps + tap0 * (row1 - row0);
        for (int64_t n = n_taps * (row1 - row0); n > 0; n--, copy += tdn_matrix_copy_floats(t)) {
            memcpy(copy, (const char *)*from++ + k0 * TDN_TERM_SIZE, (size_t)k * TDN_TERM_SIZE);
            *to++ = copy;
        }
    }
    return near;
}

/* One block of the sum, for which block->b is set. */
static inline void tdn_run_block(const tdn_tiling *t, const tdn_block *block,
                                 const tdn_matrix_scratch *s, tdn_block_fn *block_fn, int64_t tap,
                                 int64_t n_taps, int64_t k0, int64_t k)
{
    const bool first = tap + k0 == 0, last = tap + n_taps == t->n_taps && k0 + k == t->k;
    if (t->gathers) {
        const tdn_block near = tdn_gather_rows(t, block, s, tap, n_taps, k0, k);
        block_fn(&near, 0, n_taps, 0, k, first, last);
    } else {
        block_fn(block, tap, n_taps, k0, k, first, last);
    }
}

/* What comes after the tile's packed `panels`, of n such products: the panels behind them, or they
 * themselves, for other rows. NULL where L2 keeps all from tile to tile. */
static inline const void *tdn_next_panel(const tdn_tiling *t, const tdn_tile *tile,
                                         const tdn_block *block, const void *panels, int64_t n)
{
    enum { NEAR = 512 << 10 };
    const int64_t size = block->b_panel * tdn_weight_size(block->wide);
    if (n * t->n_panels * size <= NEAR)
        return NULL;
    return tile->row1 < t->rows ? panels
                                : (const char *)panels + (tile->panel1 - tile->panel0) * size;
}

/* A tile's product, block by block of the sum: some taps whole, or a piece of one. `panels` is the
 * tile's first packed panel; `next`: tdn_next_panel. */
static inline void tdn_run_blocks(const tdn_tiling *t, tdn_block *block,
                                  const tdn_matrix_scratch *s, tdn_block_fn *block_fn,
                                  const void *panels, const void *next)
{
    const int64_t all = t->n_taps * t->k, size = t->nr * tdn_weight_size(block->wide);
    for (int64_t tap = 0; tap < t->n_taps; tap += t->tap_block) {
        const int64_t taps = tdn_cpu_min(t->tap_block, t->n_taps - tap);
        for (int64_t k0 = 0; k0 < t->k; k0 += t->k_block) {
            const int64_t k = tdn_cpu_min(t->k_block, t->k - k0);
            const int64_t begin = tap * t->k + k0, end = begin + (taps - 1) * t->k + k;
            block->b = (const char *)panels + begin * size;
            block->next = next && end < all ? (const char *)panels + end * size : next;
            tdn_run_block(t, block, s, block_fn, tap, taps, k0, k);
        }
    }
}

/* Offset of element (at[0], ..., at[rank - 2], col), in elements. */
static inline int64_t tdn_matrix_offset(const tdn_view *v, const int64_t *at, int64_t col)
{
    int64_t offset = col * v->strides[v->rank - 1];
    for (int i = 0; i + 1 < v->rank; i++)
        offset += at[i] * v->strides[i];
    return offset;
}

/* Where row `row` of the first three axes is, taken as one. */
static inline void tdn_matrix_outer(const tdn_view *v, int64_t row, int64_t at[3])
{
    at[2] = row % v->dims[2];
    at[1] = row / v->dims[2] % v->dims[1];
    at[0] = row / v->dims[2] / v->dims[1];
}

/* Where that element is. */
static inline void *tdn_matrix_at(const tdn_view *v, const int64_t *at, int64_t col)
{
    return (char *)v->data + tdn_matrix_offset(v, at, col) * (int64_t)tdn_dtype_size(v->dtype, 1);
}

/* The operands of the epilogue's program, for n_rows rows from `at` along the second last axis,
 * columns col0..col1: in place. */
static inline void tdn_epilogue_set(tdn_map_region *region, const tdn_call *call,
                                    const tdn_epilogue *epilogue, const int64_t *at, int64_t n_rows,
                                    int64_t col0, int64_t col1)
{
    const tdn_view *out = &call->out[0];
    const int last = out->rank - 1;
    region->rows = n_rows;
    region->cols = col1 - col0;
    for (int i = 0; i <= epilogue->n_extra; i++) {
        const tdn_view *v = i ? &call->in[epilogue->first + i - 1] : out;
        region->in[i] = (tdn_map_operand){.data = tdn_matrix_at(v, at, col0),
                                          .row = v->strides[last - 1],
                                          .col = v->strides[last],
                                          .dtype = v->dtype};
    }
    region->out[0] = region->in[0];
}

/* The epilogue's program over these rows; its input 0 is the output itself, or rows of floats,
 * `step` apart, where `sums` is not NULL. */
static inline void tdn_epilogue_run_from(const tdn_call *call, const tdn_epilogue *epilogue,
                                         const int64_t *at, int64_t n_rows, int64_t col0,
                                         int64_t col1, float *sums, int64_t step,
                                         tdn_map_region_fn *region_fn, void *scratch)
{
    tdn_map_region region;
    tdn_epilogue_set(&region, call, epilogue, at, n_rows, col0, col1);
    if (sums)
        region.in[0] = (tdn_map_operand){.data = sums, .row = step, .col = 1, .dtype = TDN_F32};
    region_fn(tdn_epilogue_program(epilogue), &region, scratch);
}

/* In place. */
static inline void tdn_epilogue_run(const tdn_call *call, const tdn_epilogue *epilogue,
                                    const int64_t *at, int64_t n_rows, int64_t col0, int64_t col1,
                                    tdn_map_region_fn *region_fn, void *scratch)
{
    tdn_epilogue_run_from(call, epilogue, at, n_rows, col0, col1, NULL, 0, region_fn, scratch);
}

#endif
