/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Family copy: elements from one strided view to another, by size, whatever their type. Rows that
 * are contiguous on both sides are memmove; where the two sides have different axes contiguous, it
 * is a transpose, done in squares so that both sides move whole cache lines. Limited by memory, so
 * it is built once, without levels.
 */
#include <string.h>

#include "backend/cpu/cpu.h"

typedef struct copy_args {
    int32_t rank, element_size;
    int32_t row_tiles, col_tiles;
    int64_t n_rows;
    int64_t dims[TDN_MAX_RANK];
    int64_t from[TDN_MAX_RANK], to[TDN_MAX_RANK]; /* strides in elements */
} copy_args;

enum { TILE_BYTES = 1 << 17, TILES_WANTED = 32, SQUARE = 16, LINE = 64, COLUMNS_A_TILE = 4096 };

/* ---- Making ---------------------------------------------------------------------------------- */

static void move_axis(copy_args *a, int axis, int to)
{
    const int64_t dim = a->dims[axis], from_stride = a->from[axis], to_stride = a->to[axis];
    for (int i = axis; i < to; i++) {
        a->dims[i] = a->dims[i + 1];
        a->from[i] = a->from[i + 1];
        a->to[i] = a->to[i + 1];
    }
    a->dims[to] = dim;
    a->from[to] = from_stride;
    a->to[to] = to_stride;
}

/* The source's contiguous axis becomes the second last, so that a square of the two
 * can be turned. */
static void pair_axes(copy_args *a)
{
    const int last = a->rank - 1;
    for (int i = 0; i < last && a->from[last] != 1; i++)
        if (a->from[i] == 1) {
            move_axis(a, i, last - 1);
            return;
        }
}

/* Lines are long enough to be moved as they are, or both sides of squares are. */
static bool pays_as_it_is(const copy_args *a)
{
    const int last = a->rank - 1;
    const int64_t run = a->dims[last];
    if (last == 0)
        return true;
    if (a->from[last] == 1 && a->to[last] == 1)
        return run * a->element_size >= LINE;
    return a->from[last - 1] == 1 && a->to[last] == 1 && run >= SQUARE / 2 &&
           a->dims[last - 1] >= SQUARE / 2;
}

/* Else the longest axis is the innermost: as pixels of few channels are best moved a line of one
 * channel at a time. */
static bool take_longest(copy_args *a)
{
    int longest = a->rank - 1;
    for (int i = 0; i < a->rank; i++)
        if (a->dims[i] > a->dims[longest])
            longest = i;
    if (pays_as_it_is(a) || longest == a->rank - 1)
        return false;
    move_axis(a, longest, a->rank - 1);
    return true;
}

/* By rows first, unless the longest axis was made the innermost: then its parts are tiles, of which
 * each writes what lies together. */
static void cut_tiles(copy_args *a, bool is_longest)
{
    const int64_t cols = a->dims[a->rank - 1];
    const int64_t wanted =
        tdn_cpu_min(TILES_WANTED, a->n_rows * cols * a->element_size / TILE_BYTES + 1);
    const int64_t most_cols = tdn_cpu_max(1, cols / COLUMNS_A_TILE);
    int64_t by_rows = tdn_cpu_max(1, tdn_cpu_min(a->n_rows, wanted));
    int64_t by_cols = tdn_cpu_min(wanted / by_rows, most_cols);
    if (is_longest) {
        by_cols = tdn_cpu_min(wanted, most_cols);
        by_rows = tdn_cpu_min(a->n_rows, wanted / by_cols);
    }
    a->row_tiles = a->n_rows > 0 && cols > 0 ? (int32_t)by_rows : 0;
    a->col_tiles = (int32_t)by_cols;
}

static tdn_status plan(copy_args *a, const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                       tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_counts(n_in, 1, n_out, 1, error));
    TDN_TRY(tdn_cpu_check_view(in, out->rank, out->dtype, "the source of a copy", error));
    TDN_TRY(tdn_cpu_check_view(out, out->rank, TDN_DTYPE_NONE, "the target of a copy", error));
    if (!tdn_view_same_dims(in, out))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a copy between different dims");
    const size_t size = tdn_dtype_size(in->dtype, 1);
    if (tdn_dtype_size(in->dtype, 8) != 8 * size ||
        (size != 1 && size != 2 && size != 4 && size != 8))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a copy of %s", tdn_dtype_name(in->dtype));
    tdn_layout l;
    tdn_layout_collapse(&l, (const tdn_view *const[]){in, out}, 2, 1, 0, out->rank);
    memset(a, 0, sizeof *a);
    a->rank = l.rank;
    a->element_size = (int32_t)size;
    memcpy(a->dims, l.dims, (size_t)l.rank * sizeof *l.dims);
    memcpy(a->from, l.strides[0], (size_t)l.rank * sizeof *l.dims);
    memcpy(a->to, l.strides[1], (size_t)l.rank * sizeof *l.dims);
    pair_axes(a);
    const bool is_longest = take_longest(a);
    a->n_rows = 1;
    for (int i = 0; i + 1 < a->rank; i++)
        a->n_rows *= a->dims[i];
    cut_tiles(a, is_longest);
    return TDN_OK;
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = -1;
    made->kernel = tdn_kernel_best(tdn_family_copy.kernels, isa);
    copy_args a;
    if (g->expr)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a copy with an epilogue");
    TDN_TRY(plan(&a, g->in, g->n_in, g->out, g->n_out, error));
    made->args_size = sizeof a;
    made->args = tdn_arena_alloc(arena, 1, sizeof a);
    if (!made->args)
        return tdn_fail_nomem(error, "a copy");
    memcpy(made->args, &a, sizeof a);
    return TDN_OK;
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    (void)kernel;
    copy_args wanted;
    TDN_TRY(plan(&wanted, in, n_in, out, n_out, error));
    if (args_size != sizeof wanted || memcmp(&wanted, args, sizeof wanted) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a copy do not fit its operands");
    *work = (tdn_work){.n_tiles = (size_t)wanted.row_tiles * (size_t)wanted.col_tiles};
    return TDN_OK;
}

/* ---- Running --------------------------------------------------------------------------------- */

/* A rectangle; strides in elements. */
typedef struct patch {
    const char *from;
    char *to;
    int64_t rows, cols;
    int64_t from_row, from_col, to_row, to_col;
} patch;

#define STRIDED(name, type)                                                                        \
    static void name(const patch *p)                                                               \
    {                                                                                              \
        for (int64_t i = 0; i < p->rows; i++) {                                                    \
            const type *from = (const type *)(const void *)p->from + i * p->from_row;              \
            type *to = (type *)(void *)p->to + i * p->to_row;                                      \
            if (p->to_col == 1)                                                                    \
                for (int64_t j = 0; j < p->cols; j++)                                              \
                    to[j] = from[j * p->from_col];                                                 \
            else                                                                                   \
                for (int64_t j = 0; j < p->cols; j++)                                              \
                    to[j * p->to_col] = from[j * p->from_col];                                     \
        }                                                                                          \
    }
STRIDED(strided_1, uint8_t)
STRIDED(strided_2, uint16_t)
STRIDED(strided_4, uint32_t)
STRIDED(strided_8, uint64_t)

static void copy_strided(const patch *p, int element_size)
{
    switch (element_size) {
    case 1: strided_1(p); break;
    case 2: strided_2(p); break;
    case 4: strided_4(p); break;
    default: strided_8(p); break;
    }
}

typedef uint32_t quad __attribute__((vector_size(16), aligned(4), may_alias));

/* 4 x 4 elements of 4 bytes: rows of `from` are columns of `to`. */
static inline void turn_4x4(char *to, int64_t to_step, const char *from, int64_t from_step)
{
    const quad r0 = *(const quad *)(const void *)from,
               r1 = *(const quad *)(const void *)(from + from_step);
    const quad r2 = *(const quad *)(const void *)(from + 2 * from_step);
    const quad r3 = *(const quad *)(const void *)(from + 3 * from_step);
    const quad a = __builtin_shufflevector(r0, r1, 0, 4, 1, 5),
               b = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
    const quad c = __builtin_shufflevector(r0, r1, 2, 6, 3, 7),
               d = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
    *(quad *)(void *)to = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    *(quad *)(void *)(to + to_step) = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    *(quad *)(void *)(to + 2 * to_step) = __builtin_shufflevector(c, d, 0, 1, 4, 5);
    *(quad *)(void *)(to + 3 * to_step) = __builtin_shufflevector(c, d, 2, 3, 6, 7);
}

/* from_row and to_col are 1: squares of whole cache lines. What is left over at the edges moves one
 * by one. */
static void transpose(const patch *p, int element_size)
{
    const int64_t from_step = p->from_col * element_size, to_step = p->to_row * element_size;
    for (int64_t i = 0; i < p->rows; i += SQUARE)
        for (int64_t j = 0; j < p->cols; j += SQUARE) {
            patch s = *p;
            s.rows = tdn_cpu_min(SQUARE, p->rows - i);
            s.cols = tdn_cpu_min(SQUARE, p->cols - j);
            s.from += i * element_size + j * from_step;
            s.to += i * to_step + j * element_size;
            if (element_size != 4 || s.rows != SQUARE || s.cols != SQUARE) {
                copy_strided(&s, element_size);
                continue;
            }
            for (int y = 0; y < SQUARE; y += 4)
                for (int x = 0; x < SQUARE; x += 4)
                    turn_4x4(s.to + y * to_step + x * 4, to_step, s.from + y * 4 + x * from_step,
                             from_step);
        }
}

static void run_patch(const patch *p, int element_size)
{
    if (p->from_col == 1 && p->to_col == 1) {
        for (int64_t i = 0; i < p->rows; i++)
            memmove(p->to + i * p->to_row * element_size, p->from + i * p->from_row * element_size,
                    (size_t)(p->cols * element_size));
    } else if (p->from_row == 1 && p->to_col == 1 && p->rows > 1) {
        transpose(p, element_size);
    } else {
        copy_strided(p, element_size);
    }
}

static void copy_any(const tdn_call *call, size_t tile)
{
    const copy_args *a = call->args;
    const int rank = a->rank, size = a->element_size;
    int64_t row, end, col, col_end;
    tdn_cpu_share(a->n_rows, (int64_t)tile / a->col_tiles, a->row_tiles, &row, &end);
    tdn_cpu_share(a->dims[rank - 1], (int64_t)tile % a->col_tiles, a->col_tiles, &col, &col_end);
    patch p = {.cols = col_end - col, .from_col = a->from[rank - 1], .to_col = a->to[rank - 1]};
    if (rank > 1) {
        p.from_row = a->from[rank - 2];
        p.to_row = a->to[rank - 2];
    }
    while (row < end) {
        int64_t from = col * p.from_col, to = col * p.to_col, rest = row, at = 0;
        for (int i = rank - 2; i >= 0; i--) {
            const int64_t index = rest % a->dims[i];
            rest /= a->dims[i];
            from += index * a->from[i];
            to += index * a->to[i];
            at = i == rank - 2 ? index : at;
        }
        p.rows = rank > 1 ? tdn_cpu_min(end - row, a->dims[rank - 2] - at) : 1;
        p.from = (const char *)call->in[0].data + from * size;
        p.to = (char *)call->out[0].data + to * size;
        run_patch(&p, size);
        row += p.rows;
    }
}

static const tdn_kernel kernels[] = {
    {"copy_any", 0, 0, 0, copy_any},
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_copy = {
    .name = "copy", .kernels = kernels, .make = make, .check = check};
