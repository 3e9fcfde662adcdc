/* SPDX-License-Identifier: Apache-2.0 */
/* Family norm: layer normalisation, a row (all axes from one on) at a time. Operands of a row that
 * are not contiguous are gathered into scratch. */
#include <string.h>

#include "backend/cpu/along.h"

enum { TILES_WANTED = 32, TILE_ELEMENTS = 1 << 13 };

static tdn_status check_views(int axis, const tdn_view *in, int n_in, const tdn_view *out,
                              int n_out, tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_counts(n_in, 3, n_out, 1, error));
    if (out->rank < 1 || axis < 0 || axis >= out->rank)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a normalisation from axis %d of %d", axis,
                        out->rank);
    TDN_TRY(tdn_cpu_check_view(out, out->rank, TDN_F32, "the output of a normalisation", error));
    for (int i = 0; i < 3; i++) {
        TDN_TRY(
            tdn_cpu_check_view(&in[i], out->rank, TDN_F32, "an input of a normalisation", error));
        if (!tdn_view_same_dims(&in[i], out))
            return tdn_fail(error, TDN_E_UNSUPPORTED, "a normalisation whose dims do not fit");
    }
    return TDN_OK;
}

static tdn_status plan(tdn_norm_args *a, int axis, float epsilon, const tdn_view *in, int n_in,
                       const tdn_view *out, int n_out, tdn_error *error)
{
    TDN_TRY(check_views(axis, in, n_in, out, n_out, error));
    const tdn_view *const views[TDN_NORM_OPERANDS] = {&in[0], &in[1], &in[2], out};
    tdn_layout outer, inner;
    tdn_layout_collapse(&outer, views, TDN_NORM_OPERANDS, TDN_NORM_OUT, 0, axis);
    tdn_layout_collapse(&inner, views, TDN_NORM_OPERANDS, TDN_NORM_OUT, axis, out->rank - axis);
    memset(a, 0, sizeof *a);
    a->axis = axis;
    a->epsilon = epsilon;
    a->outer_rank = outer.rank;
    a->inner_rank = inner.rank;
    a->n_rows = tdn_layout_rows(&outer) * outer.dims[outer.rank - 1];
    a->length = tdn_layout_rows(&inner) * inner.dims[inner.rank - 1];
    memcpy(a->outer, outer.dims, sizeof a->outer);
    memcpy(a->inner, inner.dims, sizeof a->inner);
    for (int i = 0; i < TDN_NORM_OPERANDS; i++) {
        memcpy(a->outer_strides[i], outer.strides[i], sizeof a->outer_strides[i]);
        memcpy(a->inner_strides[i], inner.strides[i], sizeof a->inner_strides[i]);
    }
    const int64_t wanted = tdn_cpu_min(TILES_WANTED, tdn_view_count(out) / TILE_ELEMENTS + 1);
    a->n_tiles = a->length > 0 ? (int32_t)tdn_cpu_min(a->n_rows, wanted) : 0;
    return TDN_OK;
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = -1;
    made->kernel = tdn_kernel_best(tdn_family_norm.kernels, isa);
    const tdn_norm_desc *desc = g->desc;
    if (!made->kernel || !desc || g->expr)
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "a normalisation with an epilogue, or for no such CPU");
    tdn_norm_args *a = made->args = tdn_arena_alloc(arena, 1, sizeof *a);
    made->args_size = sizeof *a;
    if (!a)
        return tdn_fail_nomem(error, "a normalisation");
    return plan(a, desc->axis, desc->epsilon, g->in, g->n_in, g->out, g->n_out, error);
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    (void)kernel;
    const tdn_norm_args *a = args;
    tdn_norm_args wanted;
    if (args_size != sizeof *a)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a normalisation are cut");
    TDN_TRY(plan(&wanted, a->axis, a->epsilon, in, n_in, out, n_out, error));
    if (memcmp(&wanted, a, sizeof wanted) != 0)
        return tdn_fail(error, TDN_E_FORMAT,
                        "arguments of a normalisation do not fit its operands");
    *work = (tdn_work){.n_tiles = (size_t)a->n_tiles,
                       .scratch_size = (size_t)a->length * sizeof(float) * TDN_NORM_OPERANDS,
                       .flops = 8 * tdn_view_count(out)};
    return TDN_OK;
}

static const tdn_kernel kernels[] = {
    TDN_LANE_ROWS("norm_f32", tdn_norm_f32),
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_norm = {
    .name = "norm", .kernels = kernels, .make = make, .check = check};
