/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the CPU families share: checks of operands, the epilogue of a matrix kernel, and the split
 * of a matrix product into tiles. Arguments in a plan hold resolved numbers (tiles, strides of
 * collapsed axes); a family's check derives them again from the operands and compares, so no number
 * from a file is used that was not computed here.
 */
#ifndef TDN_BACKEND_CPU_CPU_H
#define TDN_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "backend/cpu/levels.h"
#include "base/half.h"

extern const tdn_backend tdn_backend_cpu;
extern const tdn_family tdn_family_conv, tdn_family_gemm, tdn_family_map, tdn_family_pool,
    tdn_family_reduce, tdn_family_softmax, tdn_family_norm, tdn_family_copy, tdn_family_pad,
    tdn_family_mix, tdn_family_graphconv, tdn_family_iconv, tdn_family_hconv, tdn_family_attend;

/* ---- Checks ---------------------------------------------------------------------------------- */

/* The largest extent and product of extents that kernels take: sums of a few such never overflow
 * int64_t. */
#define TDN_CPU_MAX_COUNT ((int64_t)1 << 40)

/* Rank, dtype (TDN_DTYPE_NONE: any of whole bytes), dims not negative, their product within
 * TDN_CPU_MAX_COUNT. */
tdn_status tdn_cpu_check_view(const tdn_view *view, int rank, tdn_dtype dtype, const char *what,
                              tdn_error *error);
/* A dense blob of at least `size` bytes. */
tdn_status tdn_cpu_check_blob(const tdn_view *view, size_t size, tdn_error *error);
tdn_status tdn_cpu_check_counts(int n_in, int n_in_wanted, int n_out, int n_out_wanted,
                                tdn_error *error);
/* Finds `name` of this family's list that fits `isa` ("dwconv_f32" finds dwconv_f32_avx2). */
const tdn_kernel *tdn_cpu_kernel(const tdn_kernel *kernels, const char *stem, uint64_t isa);
bool tdn_cpu_kernel_is(const tdn_kernel *kernel, const char *stem);

/* The half-open share [begin, end) of n that part `part` of n_parts has. */
static inline void tdn_cpu_share(int64_t n, int64_t part, int64_t n_parts, int64_t *begin,
                                 int64_t *end)
{
    const int64_t each = n / n_parts, rest = n % n_parts;
    *begin = each * part + (part < rest ? part : rest);
    *end = *begin + each + (part < rest);
}
static inline int64_t tdn_cpu_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t tdn_cpu_max(int64_t a, int64_t b) { return a > b ? a : b; }
/* Floats of a row that has room for whole vectors of any level. */
static inline int64_t tdn_cpu_row_floats(int64_t n) { return (n + 15) / 16 * 16; }
static inline int64_t tdn_cpu_div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* ---- Loops over strided operands ------------------------------------------------------------- */

#define TDN_MAP_OPERANDS (TDN_EXPR_MAX_IN + TDN_EXPR_MAX_OUT)

typedef struct tdn_layout {
    int rank, n; /* rank at least 1 */
    int64_t dims[TDN_MAX_RANK];
    int64_t strides[TDN_MAP_OPERANDS][TDN_MAX_RANK];
} tdn_layout;

/* Of axes first_axis .. of n views with the dims of views[main]; main counts twice in the choice of
 * the innermost. */
void tdn_layout_collapse(tdn_layout *layout, const tdn_view *const *views, int n, int main,
                         int first_axis, int n_axes);
/* Product of all dims but the last. */
int64_t tdn_layout_rows(const tdn_layout *layout);

/* ---- Map programs: expressions with registers allocated -------------------------------------- */

#define TDN_MAP_CHUNK 512 /* elements a register holds */

/* One instruction. Registers are written in order; `dst` may be a register whose value is not
 * needed any more. */
typedef struct tdn_map_instr {
    uint8_t op; /* tdn_expr_op, or TDN_MAP_LIF */
    uint8_t dst, a, b, c;
    uint8_t store; /* 0, or the output + 1 that takes the result as well */
    uint16_t index;
    float imm;
} tdn_map_instr;

/*
 * A step of leaky integrate-and-fire neurons: they fire where their potential a is above c, which
 * output store - 1 says as 1 or 0; then dst = a * leak + b, and imm more where they fired. leak is
 * the constant register in the low byte of index. Bits above: nobody reads a, or b, any more, so
 * that steps in a row keep the potential to themselves.
 */
enum { TDN_MAP_LIF = 255, TDN_LIF_LEAK = 255, TDN_LIF_LAST_A = 256, TDN_LIF_LAST_B = 512 };

typedef struct tdn_map_program {
    uint16_t n_in, n_out, n_instr;
    uint16_t n_const; /* the first instructions: constants, in registers of their own, written once
                         a region */
    uint16_t n_regs, zero[3];
    tdn_map_instr code[];
} tdn_map_program;
_Static_assert(sizeof(tdn_map_instr) == 12 && sizeof(tdn_map_program) == 16,
               "part of the plan format");

size_t tdn_map_program_size(const tdn_map_program *program);
/* Scratch that a region needs. */
size_t tdn_map_scratch_size(const tdn_map_program *program);
tdn_status tdn_map_compile(tdn_map_program **program, const tdn_expr *expr, tdn_arena *arena,
                           tdn_error *error);
/* Anything may be behind the pointer. */
tdn_status tdn_map_program_check(const void *program, size_t size, tdn_error *error);
/* A guess of the cost of an element, in adds. */
int64_t tdn_map_cost(const tdn_map_program *program);

/* Element types of operands: an integer or half is the number that it holds, as a float, and takes
 * the nearest that it can hold. */
static inline bool tdn_map_takes(tdn_dtype dtype)
{
    return dtype == TDN_F32 || dtype == TDN_BOOL || dtype == TDN_U8 || dtype == TDN_S8 ||
           dtype == TDN_S32 || tdn_is_half(dtype);
}
static inline int64_t tdn_map_dtype_size(tdn_dtype dtype)
{
    return dtype == TDN_F32 || dtype == TDN_S32 ? 4 : tdn_is_half(dtype) ? 2 : 1;
}

/* n elements that lie `step` apart, as floats; and back: element i is from[i & mask]. */
void tdn_map_gather(float *d, const void *from, tdn_dtype dtype, int64_t step, int n);
void tdn_map_scatter(void *to, tdn_dtype dtype, int64_t step, const float *from, intptr_t mask,
                     int n);

/* A rectangle of elements; strides in elements. */
typedef struct tdn_map_operand {
    void *data;
    int64_t row, col;
    tdn_dtype dtype;
} tdn_map_operand;
typedef struct tdn_map_region {
    int64_t rows, cols;
    tdn_map_operand in[TDN_EXPR_MAX_IN], out[TDN_EXPR_MAX_OUT];
} tdn_map_region;
typedef void tdn_map_region_fn(const tdn_map_program *program, const tdn_map_region *region,
                               void *scratch);
TDN_DECLARE_LEVELS(tdn_map_region_fn, tdn_map_region);

/* ---- Epilogue of conv and gemm --------------------------------------------------------------- */

/* Common epilogues are clamp(x + bias + residual, lo, hi), compiled in. Any other expression is a
 * program, run over the tile: its input 0 is the result, its input i step input first + i - 1. */
typedef struct tdn_epilogue {
    int32_t first; /* the step's first epilogue input */
    int32_t n_extra;
    int32_t bias, residual; /* step inputs, -1: none */
    float lo, hi;
    int32_t has_program; /* it follows the arguments */
    int32_t zero;
} tdn_epilogue;

/* Chooses; *program is NULL where the epilogue is compiled in. Checks the extras against out. */
tdn_status tdn_epilogue_make(tdn_epilogue *epilogue, tdn_map_program **program,
                             const tdn_group *group, int first, tdn_arena *arena, tdn_error *error);
/* A step's arguments: the fixed ones, which end with the epilogue, and its program behind them. */
tdn_status tdn_epilogue_store(tdn_made *made, const void *fixed, size_t fixed_size,
                              const tdn_map_program *program, tdn_arena *arena, tdn_error *error);
/* `rest` are the bytes behind the fixed arguments. */
tdn_status tdn_epilogue_check(const tdn_epilogue *epilogue, const void *rest, size_t rest_size,
                              const tdn_view *in, int n_in, const tdn_view *out, tdn_error *error);

/* ---- Tiles of a matrix product --------------------------------------------------------------- */

/* rows x cols, over n_taps * k products, `outer` times (groups or batches). */
typedef struct tdn_tiling {
    int64_t outer, rows, cols, k;
    int32_t n_taps;
    int32_t mr, nr;
    int32_t n_panels; /* of nr columns */
    int32_t n_row_tiles, n_col_tiles;
    int32_t max_rows, max_panels; /* of one tile */
    int32_t tap_block,
        k_block;     /* one block of the sum: tap_block taps of k, or of one tap k_block */
    int32_t shape;   /* 0: tiles for any number of threads; up to TDN_TILING_SHAPES: fewer ones */
    int32_t gathers; /* rows that share cache sets are copied together first */
} tdn_tiling;
enum { TDN_TILING_SHAPES = 2 };
_Static_assert(sizeof(tdn_tiling) == 80, "no padding: compared as bytes");

/* Derives all from the numbers and tiling->shape. False when one is out of range, or the shape is
 * no other than 0. */
bool tdn_tiling_make(tdn_tiling *tiling, int64_t outer, int64_t rows, int64_t cols, int64_t n_taps,
                     int64_t k, const tdn_kernel *kernel);
/* The same tiles' rows with all columns in each: for kernels that read a row once for all of its
 * columns. */
void tdn_tiling_join_columns(tdn_tiling *tiling);
/* Rows of the left operand are `row_stride` terms apart: says whether they must be gathered. */
void tdn_tiling_set_stride(tdn_tiling *tiling, int64_t row_stride);
static inline int64_t tdn_tiling_n_tiles(const tdn_tiling *t)
{
    return t->outer * t->n_row_tiles * t->n_col_tiles;
}
/* Terms of one outer index's packed panels: [panel][tap][k][nr]. */
static inline int64_t tdn_tiling_packed(const tdn_tiling *t)
{
    return (int64_t)t->n_panels * t->n_taps * t->k * t->nr;
}

/* Which part of the product a tile is. */
typedef struct tdn_tile {
    int64_t outer, row0, row1;
    int64_t panel0, panel1, col0, col1;
    int64_t n_blocks; /* of rows: block i has the share i of row0..row1 */
} tdn_tile;
static inline tdn_tile tdn_tiling_tile(const tdn_tiling *t, size_t tile)
{
    tdn_tile r;
    const int64_t row_tile = (int64_t)tile % t->n_row_tiles, rest = (int64_t)tile / t->n_row_tiles;
    r.outer = rest / t->n_col_tiles;
    tdn_cpu_share(tdn_cpu_div_up(t->rows, t->mr), row_tile, t->n_row_tiles, &r.row0, &r.row1);
    r.row0 *= t->mr;
    r.row1 = tdn_cpu_min(r.row1 * t->mr, t->rows);
    tdn_cpu_share(t->n_panels, rest % t->n_col_tiles, t->n_col_tiles, &r.panel0, &r.panel1);
    r.col0 = r.panel0 * t->nr;
    r.col1 = tdn_cpu_min(r.panel1 * t->nr, t->cols);
    r.n_blocks = tdn_cpu_div_up(r.row1 - r.row0, t->mr);
    return r;
}

/* A term of the sum takes 4 bytes: a float, or 4 bytes whose products are added at once. Weights
 * may be kept as halves beside floats. */
enum { TDN_TERM_SIZE = 4 };
static inline int64_t tdn_weight_size(bool is_half) { return is_half ? 2 : TDN_TERM_SIZE; }

/* A tile's operands. Rows come as pointers, so the rows of a convolution need not be copied
 * together. */
typedef struct tdn_block {
    const void **a; /* [block][tap][row of the block]: a block's list begins at its row0 * a_taps */
    void **c;       /* [row], at the tile's first column */
    const void **residual; /* the same; NULL: none */
    const float *bias;     /* at the tile's first column; NULL: none */
    const void *b;         /* the tile's first panel, at the block of the sum */
    int64_t b_panel;       /* terms from one panel to the next */
    const void *next;      /* what comes after the last panel, where L2 does not keep all; NULL */
    int64_t rows, cols;
    int64_t n_blocks, a_taps;
    float lo, hi;
    float *spare; /* mr * nr floats, aligned */
    float *wide;  /* b holds halves: a panel's block of the sum as floats; NULL: b holds floats */
    const struct tdn_sums *sums; /* of bytes and halves: what they have beside (matrix.h) */
} tdn_block;
/* One block of the sum for all of the tile: taps tap0.. of n_taps, elements k0.. of k. `first`
 * starts the sum, otherwise c holds it; `last` applies the epilogue. */
typedef void tdn_block_fn(const tdn_block *block, int64_t tap0, int64_t n_taps, int64_t k0,
                          int64_t k, bool first, bool last);
TDN_DECLARE_LEVELS(tdn_block_fn, tdn_block_f32);

/* ---- Packing: portable, at build ------------------------------------------------------------- */

/* Packs cols columns over dims[0..3] of the sum as [panel][...][nr]; strides in elements. */
void tdn_pack_panels(void *to, bool is_half, const float *from, int64_t cols, int64_t col_stride,
                     const int64_t dims[4], const int64_t strides[4], int nr);

/*
 * May a product's weights be kept in half precision? `col_stride` and `stride` are of its columns
 * and of the terms of a column's sum. Each is in range, and the largest of a column, unless all are
 * 0, is a normal half: so no weight changes by more than 2^-11 of its column's largest. What is
 * stored are sums of weights times factors: `least` and `most` are how large those come to be.
 */
tdn_status tdn_halves_check(const float *weights, int64_t cols, int64_t col_stride, int64_t n,
                            int64_t stride, double least, double most, tdn_error *error);
static inline void tdn_weight_put(void *to, int64_t at, float weight, bool is_half)
{
    if (is_half)
        ((uint16_t *)to)[at] = tdn_f32_to_f16(weight);
    else
        ((float *)to)[at] = weight;
}

#endif
