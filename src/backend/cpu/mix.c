/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Family mix: a sparse constant matrix along one or two axes, where another axis is contiguous, as
 * the adjacency of a graph's nodes is along the nodes of channels-last features. Each output is a
 * few scaled inputs, whole vectors of them; what is zero costs nothing.
 */
#include "backend/cpu/mix.h"

#include <string.h>

enum { MAX_ENTRIES = 1 << 20, TILES_WANTED = 32, TILE_FLOPS = 1 << 17 };

static tdn_status check_views(const tdn_view *in, const tdn_view *out, tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_view(in, 6, TDN_F32, "the input of a sparse product", error));
    TDN_TRY(tdn_cpu_check_view(out, 5, TDN_F32, "the output of a sparse product", error));
    for (int i = 0; i < 3; i++)
        if (in->dims[i] != out->dims[i])
            return tdn_fail(error, TDN_E_UNSUPPORTED, "a sparse product whose dims do not fit");
    if (in->dims[5] != out->dims[4] || (in->strides[5] != 1 && in->dims[5] != 1) ||
        (out->strides[4] != 1 && out->dims[4] != 1))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a sparse product over rows with gaps");
    return TDN_OK;
}

static tdn_status plan(tdn_mix_args *a, const tdn_view *in, const tdn_view *out, tdn_error *error)
{
    TDN_TRY(check_views(in, out, error));
    a->n_rows = out->dims[0] * out->dims[1] * out->dims[2];
    if (a->n_entries < 0 || a->n_entries > MAX_ENTRIES || out->dims[3] > INT32_MAX - 1 ||
        in->dims[3] * in->dims[4] > INT32_MAX ||
        tdn_view_count(out) > TDN_CPU_MAX_COUNT / (a->n_entries + 1))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a sparse product that is too large");
    const int64_t flops = 2 * a->n_rows * a->n_entries * out->dims[4];
    const int64_t wanted = tdn_cpu_min(TILES_WANTED, flops / TILE_FLOPS + 1);
    a->n_tiles = (int32_t)tdn_cpu_min(a->n_rows, wanted);
    return TDN_OK;
}

static tdn_status pack(tdn_made *made, const tdn_stack *matrix, int64_t n_entries, tdn_arena *arena,
                       tdn_error *error)
{
    made->packed_size = tdn_columns_size(matrix->n_columns, n_entries);
    made->packed = tdn_arena_alloc_data(arena, made->packed_size);
    if (!made->packed)
        return tdn_fail_nomem(error, "a sparse matrix");
    memset(made->packed, 0, made->packed_size);
    tdn_columns_pack(made->packed, matrix);
    return TDN_OK;
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = 1;
    made->kernel = tdn_kernel_best(tdn_family_mix.kernels, isa);
    const tdn_view *m = &g->in[1];
    if (!made->kernel || g->n_in != 2 || g->n_out != 1 || !m->data || m->rank != 2 ||
        m->dtype != TDN_F32 || !tdn_view_is_dense(m) || g->in[0].rank != 6 || g->out[0].rank != 5 ||
        m->dims[0] != g->in[0].dims[3] * g->in[0].dims[4] || m->dims[1] != g->out[0].dims[3])
        return tdn_fail(error, TDN_E_UNSUPPORTED, "no product with a sparse constant matrix");
    const tdn_stack matrix = {m->data, 1, m->dims[0], m->dims[1]};
    int64_t n_filled;
    const int64_t n_entries = tdn_columns_count(&matrix, &n_filled);
    tdn_mix_args a = {.n_entries = (int32_t)tdn_cpu_min(n_entries, INT32_MAX)};
    TDN_TRY(plan(&a, &g->in[0], &g->out[0], error));
    tdn_map_program *program;
    TDN_TRY(tdn_epilogue_make(&a.epilogue, &program, g, 2, arena, error));
    TDN_TRY(pack(made, &matrix, n_entries, arena, error));
    return tdn_epilogue_store(made, &a, sizeof a, program, arena, error);
}

static tdn_status check_matrix(const tdn_view *packed, int64_t n, int64_t k, int32_t n_entries,
                               tdn_error *error)
{
    int64_t n_filled;
    TDN_TRY(tdn_cpu_check_blob(packed, tdn_columns_size(n, n_entries), error));
    return tdn_columns_check(packed->data, n, k, n_entries, &n_filled)
               ? TDN_OK
               : tdn_fail(error, TDN_E_FORMAT, "a damaged sparse matrix");
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    (void)kernel;
    const tdn_mix_args *a = args;
    if (args_size < sizeof *a || n_in < 2 || n_out != 1)
        return tdn_fail(error, TDN_E_FORMAT,
                        "a sparse product of %d inputs and %zu bytes of arguments", n_in,
                        args_size);
    tdn_mix_args wanted = *a;
    TDN_TRY(plan(&wanted, &in[0], out, error));
    if (memcmp(&wanted, a, sizeof wanted) != 0 || a->epilogue.first != 2)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a sparse product do not fit");
    TDN_TRY(tdn_epilogue_check(&a->epilogue, a + 1, args_size - sizeof *a, in, n_in, out, error));
    TDN_TRY(check_matrix(&in[1], out->dims[3], in->dims[3] * in->dims[4], a->n_entries, error));
    work->n_tiles = (size_t)a->n_tiles;
    work->scratch_size = tdn_round_up((size_t)a->n_entries * sizeof(int64_t), TDN_ALIGN);
    work->flops = 2 * a->n_rows * a->n_entries * out->dims[4];
    if (a->epilogue.has_program)
        work->scratch_size += tdn_map_scratch_size(tdn_epilogue_program(&a->epilogue));
    return TDN_OK;
}

static const tdn_kernel kernels[] = {
    TDN_LANE_ROWS("mix_f32", tdn_mix_f32),
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_mix = {.name = "mix", .kernels = kernels, .make = make, .check = check};
