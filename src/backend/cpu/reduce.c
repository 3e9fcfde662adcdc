/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Family reduce: any axes, any strides. Kept axes and reduced axes each collapse by themselves.
 * Vectors lie along the last reduced axis or along the last kept one, whichever is contiguous in
 * the input; where neither is, along the reduced one, gathered.
 */
#include <string.h>

#include "backend/cpu/along.h"

enum { TILES_WANTED = 32, TILE_ELEMENTS = 1 << 15, COLUMNS_A_TILE = 64 };

static void move_axis_last(tdn_layout *l, int axis)
{
    const int last = l->rank - 1;
    const int64_t dim = l->dims[axis], s0 = l->strides[0][axis], s1 = l->strides[1][axis];
    for (int i = axis; i < last; i++) {
        l->dims[i] = l->dims[i + 1];
        l->strides[0][i] = l->strides[0][i + 1];
        l->strides[1][i] = l->strides[1][i + 1];
    }
    l->dims[last] = dim;
    l->strides[0][last] = s0;
    l->strides[1][last] = s1;
}

/* The axes (kept or reduced) of in and out as a layout of their own, the input's contiguous one
 * last. */
static void split_axes(tdn_layout *l, const tdn_view *in, const tdn_view *out, bool kept)
{
    tdn_view a = {.rank = 0}, b = {.rank = 0};
    for (int i = 0; i < in->rank; i++) {
        const bool is_kept = in->dims[i] == out->dims[i];
        if (is_kept != kept)
            continue;
        a.dims[a.rank] = b.dims[a.rank] = in->dims[i];
        a.strides[a.rank] = in->strides[i];
        b.strides[a.rank] = kept ? out->strides[i] : in->strides[i];
        a.rank++;
    }
    b.rank = a.rank;
    tdn_layout_collapse(l, (const tdn_view *const[]){&a, &b}, 2, 0, 0, a.rank);
    for (int i = 0; i + 1 < l->rank; i++)
        if (l->strides[0][i] == 1 && l->strides[0][l->rank - 1] != 1) {
            move_axis_last(l, i);
            break;
        }
}

static tdn_status check_views(const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                              int kind, tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_counts(n_in, 1, n_out, 1, error));
    if (kind < 0 || kind > TDN_REDUCE_LOGSUMEXP)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a reduction of kind %d", kind);
    TDN_TRY(tdn_cpu_check_view(in, out->rank, TDN_F32, "the input of a reduction", error));
    TDN_TRY(tdn_cpu_check_view(out, out->rank, TDN_F32, "the output of a reduction", error));
    for (int i = 0; i < in->rank; i++)
        if ((in->dims[i] != out->dims[i] && out->dims[i] != 1) || in->dims[i] < 1)
            return tdn_fail(error, TDN_E_UNSUPPORTED,
                            "a reduction over nothing, or whose dims do not fit");
    return TDN_OK;
}

static tdn_status plan(tdn_reduce_args *a, int kind, const tdn_view *in, int n_in,
                       const tdn_view *out, int n_out, tdn_error *error)
{
    TDN_TRY(check_views(in, n_in, out, n_out, kind, error));
    tdn_layout kept, reduced;
    split_axes(&kept, in, out, true);
    split_axes(&reduced, in, out, false);
    memset(a, 0, sizeof *a);
    a->kind = kind;
    a->n_kept = kept.rank;
    a->n_reduced = reduced.rank;
    const int64_t cols = kept.dims[kept.rank - 1], last = reduced.dims[reduced.rank - 1];
    /* A vector of columns needs no sum over lanes; but a long line beats few columns. */
    const bool by_columns = kept.strides[0][kept.rank - 1] == 1 && cols > 1;
    const bool by_line = reduced.strides[0][reduced.rank - 1] == 1 && last > 1;
    a->along = !by_columns || (by_line && last >= cols);
    a->n_rows = tdn_layout_rows(&kept);
    a->count = tdn_layout_rows(&reduced) * last;
    const int64_t wanted = tdn_cpu_min(TILES_WANTED, tdn_view_count(in) / TILE_ELEMENTS + 1);
    a->row_tiles = (int32_t)tdn_cpu_min(a->n_rows, wanted);
    a->col_tiles = (int32_t)tdn_cpu_max(
        1, tdn_cpu_min(wanted / a->row_tiles, cols / (a->along ? 1 : COLUMNS_A_TILE)));
    memcpy(a->kept, kept.dims, (size_t)kept.rank * sizeof(int64_t));
    memcpy(a->kept_in, kept.strides[0], (size_t)kept.rank * sizeof(int64_t));
    memcpy(a->kept_out, kept.strides[1], (size_t)kept.rank * sizeof(int64_t));
    memcpy(a->reduced, reduced.dims, (size_t)reduced.rank * sizeof(int64_t));
    memcpy(a->reduced_in, reduced.strides[0], (size_t)reduced.rank * sizeof(int64_t));
    return TDN_OK;
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = -1;
    made->kernel = tdn_kernel_best(tdn_family_reduce.kernels, isa);
    const tdn_reduce_desc *desc = g->desc;
    if (!made->kernel || !desc || g->expr)
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "a reduction with an epilogue, or for no such CPU");
    tdn_reduce_args *a = made->args = tdn_arena_alloc(arena, 1, sizeof *a);
    made->args_size = sizeof *a;
    return a ? plan(a, desc->kind, g->in, g->n_in, g->out, g->n_out, error)
             : tdn_fail_nomem(error, "a reduction");
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    (void)kernel;
    const tdn_reduce_args *a = args;
    tdn_reduce_args wanted;
    if (args_size != sizeof *a)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a reduction are cut");
    TDN_TRY(plan(&wanted, a->kind, in, n_in, out, n_out, error));
    if (memcmp(&wanted, a, sizeof wanted) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a reduction do not fit its operands");
    *work = (tdn_work){.n_tiles = (size_t)a->row_tiles * (size_t)a->col_tiles,
                       .flops = tdn_view_count(in)};
    return TDN_OK;
}

static const tdn_kernel kernels[] = {
    TDN_LANE_ROWS("reduce_f32", tdn_reduce_f32),
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_reduce = {
    .name = "reduce", .kernels = kernels, .make = make, .check = check};
