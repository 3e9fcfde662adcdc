/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Family map: an expression over broadcast, strided operands. Axes that are contiguous for all
 * operands together are joined; the innermost is the one that most operands have contiguous, so
 * that the interpreter reads them in place. An output may lie exactly on an input (same address,
 * dims and strides) when there is one output; other overlaps are not allowed.
 */
#include "backend/cpu/map.h"

#include <math.h>
#include <string.h>

/* ---- Elements of any type and stride, one by one --------------------------------------------- */

static float read_number(const void *from, tdn_dtype dtype, int64_t i)
{
    switch (dtype) {
    case TDN_F32: return ((const float *)from)[i];
    case TDN_S32: return (float)((const int32_t *)from)[i];
    case TDN_F16: return tdn_f16_to_f32(((const uint16_t *)from)[i]);
    case TDN_BF16: return tdn_bf16_to_f32(((const uint16_t *)from)[i]);
    case TDN_S8: return ((const int8_t *)from)[i];
    case TDN_U8: return ((const uint8_t *)from)[i];
    default: return ((const uint8_t *)from)[i] != 0;
    }
}

/* The nearest integer, ties to even, from lo to hi; 0 for NaN. */
static int32_t nearest(float x, float lo, float hi)
{
    return isnan(x) ? 0 : (int32_t)nearbyintf(x < lo ? lo : x > hi ? hi : x);
}

static void write_number(void *to, tdn_dtype dtype, int64_t i, float x)
{
    switch (dtype) {
    case TDN_F32: ((float *)to)[i] = x; break;
    case TDN_F16: ((uint16_t *)to)[i] = tdn_f32_to_f16(x); break;
    case TDN_BF16: ((uint16_t *)to)[i] = tdn_f32_to_bf16(x); break;
    case TDN_S32: ((int32_t *)to)[i] = nearest(x, -2147483648.0f, 2147483520.0f); break;
    case TDN_S8: ((int8_t *)to)[i] = (int8_t)nearest(x, -128, 127); break;
    case TDN_U8: ((uint8_t *)to)[i] = (uint8_t)nearest(x, 0, 255); break;
    default: ((uint8_t *)to)[i] = x != 0; break;
    }
}

void tdn_map_gather(float *d, const void *from, tdn_dtype dtype, int64_t step, int n)
{
    for (int i = 0; i < n; i++)
        d[i] = read_number(from, dtype, i * step);
}

void tdn_map_scatter(void *to, tdn_dtype dtype, int64_t step, const float *from, intptr_t mask,
                     int n)
{
    for (int i = 0; i < n; i++)
        write_number(to, dtype, i * step, from[i & mask]);
}

/* ---- The family ------------------------------------------------------------------------------ */

enum { TILES_WANTED = 64, TILE_COST = 1 << 16 /* adds: some 5 us */, COLUMNS_A_TILE = 1024 };

static tdn_status collapse(tdn_layout *l, const tdn_view *in, int n_in, const tdn_view *out,
                           int n_out, tdn_error *error)
{
    if (n_in < 0 || n_in > TDN_EXPR_MAX_IN || n_out < 1 || n_out > TDN_EXPR_MAX_OUT)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "%d inputs and %d outputs of a map", n_in, n_out);
    const tdn_view *views[TDN_MAP_OPERANDS];
    for (int i = 0; i < n_in + n_out; i++) {
        const tdn_view *v = views[i] = i < n_in ? &in[i] : &out[i - n_in];
        TDN_TRY(tdn_cpu_check_view(v, out[0].rank, TDN_DTYPE_NONE, "an operand of a map", error));
        if (!tdn_map_takes(v->dtype))
            return tdn_fail(error, TDN_E_UNSUPPORTED, "a map over %s", tdn_dtype_name(v->dtype));
        if (!tdn_view_same_dims(v, &out[0]))
            return tdn_fail(error, TDN_E_UNSUPPORTED, "operands of a map with different dims");
    }
    tdn_layout_collapse(l, views, n_in + n_out, n_in, 0, out[0].rank);
    return TDN_OK;
}

static size_t head_size(int n_operands, int rank)
{
    return sizeof(tdn_map_args) + (size_t)(n_operands * rank) * sizeof(int64_t);
}

/* Writes the head and the strides; `args` has room for them. */
static void fill(tdn_map_args *args, const tdn_layout *l, int n_in, const tdn_map_program *program)
{
    const int64_t n_rows = tdn_layout_rows(l), cols = l->dims[l->rank - 1];
    const int64_t wanted =
        tdn_cpu_min(TILES_WANTED, n_rows * cols / (TILE_COST / tdn_map_cost(program) + 1) + 1);
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

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = -1;
    made->kernel = tdn_kernel_best(tdn_family_map.kernels, isa);
    if (!made->kernel || !g->expr || g->n_extra)
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "a map without an expression, or for no such CPU");
    if (g->expr->n_in > g->n_in || g->expr->n_out != g->n_out)
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "an expression of other inputs and outputs than its map");
    tdn_layout l;
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

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    (void)kernel;
    tdn_layout l;
    TDN_TRY(collapse(&l, in, n_in, out, n_out, error));
    const size_t head = head_size(l.n, l.rank);
    if (args_size < head)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a map are cut");
    const tdn_map_program *program = (const void *)((const char *)args + head);
    TDN_TRY(tdn_map_program_check(program, args_size - head, error));
    if (program->n_in != n_in || program->n_out != n_out)
        return tdn_fail(error, TDN_E_FORMAT,
                        "an expression of other inputs and outputs than its map");
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
