/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Family map: an expression over broadcast, strided operands. Axes that are contiguous for all operands together are
 * joined; the innermost is the one that most operands have contiguous, so that the interpreter reads them in place.
 * An output may lie exactly on an input (same address, dims and strides) when there is one output; other overlaps are
 * not allowed.
 */
#include "backend/cpu/map.h"

#include <string.h>

enum { TILES_WANTED = 64, TILE_COST = 1 << 16 /* adds: some 5 us */, COLUMNS_A_TILE = 1024 };

typedef struct layout {
    int rank, n;
    int64_t dims[TDN_MAX_RANK];
    int64_t strides[TDN_MAP_OPERANDS][TDN_MAX_RANK];
} layout;

static void swap_axes(layout *l, int a, int b)
{
    const int64_t d = l->dims[a];
    l->dims[a] = l->dims[b];
    l->dims[b] = d;
    for (int i = 0; i < l->n; i++) {
        const int64_t s = l->strides[i][a];
        l->strides[i][a] = l->strides[i][b];
        l->strides[i][b] = s;
    }
}

static int64_t length(int64_t stride)
{
    return stride < 0 ? -stride : stride;
}

/* Is axis a better innermost than b? By operands that are contiguous along it, then by those that are at least
 * broadcast; operand `out` counts twice. */
static int innermost_score(const layout *l, int axis, int out)
{
    int score = 0;
    for (int i = 0; i < l->n; i++) {
        const int64_t s = l->strides[i][axis];
        score += (s == 1 ? 4 : s == 0 ? 1 : 0) * (i >= out ? 2 : 1);
    }
    return score;
}

/* Innermost last; the others by the stride of the first output, longest first. */
static void order_axes(layout *l, int out)
{
    if (l->rank < 2)
        return;
    int best = l->rank - 1;
    for (int i = l->rank - 2; i >= 0; i--)
        if (innermost_score(l, i, out) > innermost_score(l, best, out))
            best = i;
    swap_axes(l, best, l->rank - 1);
    for (int i = 1; i < l->rank - 1; i++)
        for (int j = i; j > 0 && length(l->strides[out][j - 1]) < length(l->strides[out][j]); j--)
            swap_axes(l, j - 1, j);
}

static bool joins(const layout *l, int axis)
{
    for (int i = 0; i < l->n; i++)
        if (l->strides[i][axis] != l->strides[i][axis + 1] * l->dims[axis + 1])
            return false;
    return true;
}

static void join_axes(layout *l)
{
    for (int axis = l->rank - 2; axis >= 0; axis--) {
        if (!joins(l, axis))
            continue;
        l->dims[axis + 1] *= l->dims[axis];
        for (int j = axis; j + 1 < l->rank; j++) {
            l->dims[j] = l->dims[j + 1];
            for (int i = 0; i < l->n; i++)
                l->strides[i][j] = l->strides[i][j + 1];
        }
        l->rank--;
    }
}

static tdn_status collapse(layout *l, const tdn_view *in, int n_in, const tdn_view *out, int n_out, tdn_error *error)
{
    if (n_in < 0 || n_in > TDN_EXPR_MAX_IN || n_out < 1 || n_out > TDN_EXPR_MAX_OUT)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "%d inputs and %d outputs of a map", n_in, n_out);
    memset(l, 0, sizeof *l);
    l->n = n_in + n_out;
    for (int i = 0; i < l->n; i++) {
        const tdn_view *v = i < n_in ? &in[i] : &out[i - n_in];
        TDN_TRY(tdn_cpu_check_view(v, out[0].rank, TDN_DTYPE_NONE, "an operand of a map", error));
        if (v->dtype != TDN_F32 && v->dtype != TDN_BOOL)
            return tdn_fail(error, TDN_E_UNSUPPORTED, "a map over %s", tdn_dtype_name(v->dtype));
        if (!tdn_view_same_dims(v, &out[0]))
            return tdn_fail(error, TDN_E_UNSUPPORTED, "operands of a map with different dims");
    }
    for (int axis = 0; axis < out[0].rank; axis++) {
        if (out[0].dims[axis] == 1)
            continue;
        l->dims[l->rank] = out[0].dims[axis];
        for (int i = 0; i < l->n; i++)
            l->strides[i][l->rank] = i < n_in ? in[i].strides[axis] : out[i - n_in].strides[axis];
        l->rank++;
    }
    if (l->rank == 0) {
        l->rank = 1;
        l->dims[0] = 1;
    }
    order_axes(l, n_in);
    join_axes(l);
    return TDN_OK;
}

static size_t head_size(int n_operands, int rank)
{
    return sizeof(tdn_map_args) + (size_t)(n_operands * rank) * sizeof(int64_t);
}

/* Writes the head and the strides; `args` has room for them. */
static void fill(tdn_map_args *args, const layout *l, int n_in, const tdn_map_program *program)
{
    int64_t n_rows = 1;
    for (int i = 0; i + 1 < l->rank; i++)
        n_rows *= l->dims[i];
    const int64_t cols = l->dims[l->rank - 1];
    const int64_t wanted = tdn_cpu_min(TILES_WANTED, n_rows * cols / (TILE_COST / tdn_map_cost(program) + 1) + 1);
    const int64_t by_rows = tdn_cpu_max(1, tdn_cpu_min(n_rows, wanted));
    const int64_t by_cols = tdn_cpu_max(1, tdn_cpu_min(wanted / by_rows, cols / COLUMNS_A_TILE));
    *args = (tdn_map_args){.rank = l->rank,
                           .n_in = n_in,
                           .n_out = l->n - n_in,
                           .row_tiles = n_rows > 0 && cols > 0 ? (int32_t)by_rows : 0,
                           .col_tiles = (int32_t)by_cols,
                           .n_rows = n_rows};
    memcpy(args->dims, l->dims, sizeof args->dims);
    for (int i = 0; i < l->n; i++)
        memcpy(args->strides + i * l->rank, l->strides[i], (size_t)l->rank * sizeof(int64_t));
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena, tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = -1;
    made->kernel = tdn_kernel_best(tdn_family_map.kernels, isa);
    if (!made->kernel || !g->expr || g->n_extra)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a map without an expression, or for no such CPU");
    if (g->expr->n_in > g->n_in || g->expr->n_out != g->n_out)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "an expression of other inputs and outputs than its map");
    layout l;
    TDN_TRY(collapse(&l, g->in, g->n_in, g->out, g->n_out, error));
    tdn_map_program *program;
    TDN_TRY(tdn_map_compile(&program, g->expr, arena, error));
    program->n_in = (uint16_t)g->n_in;
    const size_t head = head_size(l.n, l.rank), size = tdn_map_program_size(program);
    made->args_size = head + size;
    made->args = tdn_arena_alloc(arena, 1, made->args_size);
    if (!made->args)
        return tdn_fail_nomem(error, "a map");
    fill(made->args, &l, g->n_in, program);
    memcpy((char *)made->args + head, program, size);
    return TDN_OK;
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size, const tdn_view *in, int n_in,
                        const tdn_view *out, int n_out, tdn_work *work, tdn_error *error)
{
    (void)kernel;
    layout l;
    TDN_TRY(collapse(&l, in, n_in, out, n_out, error));
    const size_t head = head_size(l.n, l.rank);
    if (args_size < head)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a map are cut");
    const tdn_map_program *program = (const void *)((const char *)args + head);
    TDN_TRY(tdn_map_program_check(program, args_size - head, error));
    if (program->n_in != n_in || program->n_out != n_out)
        return tdn_fail(error, TDN_E_FORMAT, "an expression of other inputs and outputs than its map");
    union {
        tdn_map_args args;
        char room[sizeof(tdn_map_args) + TDN_MAP_OPERANDS * TDN_MAX_RANK * sizeof(int64_t)];
    } wanted;
    fill(&wanted.args, &l, n_in, program);
    if (memcmp(&wanted, args, head) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a map do not fit its operands");
    work->n_tiles = (size_t)wanted.args.row_tiles * (size_t)wanted.args.col_tiles;
    work->scratch_size = tdn_map_scratch_size(program);
    work->flops = wanted.args.n_rows * l.dims[l.rank - 1] * (program->n_instr - program->n_const);
    return TDN_OK;
}

static const tdn_kernel kernels[] = {
    TDN_LANE_ROWS("map_f32", tdn_map_f32),
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_map = {.name = "map", .kernels = kernels, .make = make, .check = check};
