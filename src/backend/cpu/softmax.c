/* SPDX-License-Identifier: Apache-2.0 */
/* Family softmax, and its logarithm, along any axis: a row at a time. A row that is not contiguous
 * is gathered into scratch, where its three passes stay in L1 or L2. */
#include <string.h>

#include "backend/cpu/along.h"

enum { TILES_WANTED = 32, TILE_ELEMENTS = 1 << 13 };

static tdn_status plan(tdn_softmax_args *a, int axis, int log, const tdn_view *in, int n_in,
                       const tdn_view *out, int n_out, tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_counts(n_in, 1, n_out, 1, error));
    TDN_TRY(tdn_cpu_check_view(in, out->rank, TDN_F32, "the input of softmax", error));
    TDN_TRY(tdn_cpu_check_view(out, out->rank, TDN_F32, "the output of softmax", error));
    if (axis < 0 || axis >= out->rank || !tdn_view_same_dims(in, out) || (log != 0 && log != 1))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "softmax whose axis or dims do not fit");
    memset(a, 0, sizeof *a);
    a->axis = axis;
    a->log = log;
    a->length = in->dims[axis];
    a->in_step = in->strides[axis];
    a->out_step = out->strides[axis];
    a->n_rows = 1;
    for (int i = 0; i < in->rank; i++)
        if (i != axis) {
            a->dims[a->rank] = in->dims[i];
            a->in[a->rank] = in->strides[i];
            a->out[a->rank++] = out->strides[i];
            a->n_rows *= in->dims[i];
        }
    const int64_t wanted = tdn_cpu_min(TILES_WANTED, tdn_view_count(in) / TILE_ELEMENTS + 1);
    a->n_tiles = a->length > 0 ? (int32_t)tdn_cpu_min(a->n_rows, wanted) : 0;
    return TDN_OK;
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = -1;
    made->kernel = tdn_kernel_best(tdn_family_softmax.kernels, isa);
    const tdn_softmax_desc *desc = g->desc;
    if (!made->kernel || !desc || g->expr)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "softmax with an epilogue, or for no such CPU");
    tdn_softmax_args *a = made->args = tdn_arena_alloc(arena, 1, sizeof *a);
    made->args_size = sizeof *a;
    if (!a)
        return tdn_fail_nomem(error, "softmax");
    return plan(a, desc->axis, desc->log != 0, g->in, g->n_in, g->out, g->n_out, error);
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    (void)kernel;
    const tdn_softmax_args *a = args;
    tdn_softmax_args wanted;
    if (args_size != sizeof *a)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of softmax are cut");
    TDN_TRY(plan(&wanted, a->axis, a->log, in, n_in, out, n_out, error));
    if (memcmp(&wanted, a, sizeof wanted) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of softmax do not fit its operands");
    *work = (tdn_work){.n_tiles = (size_t)a->n_tiles, .flops = 4 * tdn_view_count(in)};
    if (a->in_step != 1 || a->out_step != 1)
        work->scratch_size = (size_t)a->length * sizeof(float);
    return TDN_OK;
}

static const tdn_kernel kernels[] = {
    TDN_LANE_ROWS("softmax_f32", tdn_softmax_f32),
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_softmax = {
    .name = "softmax", .kernels = kernels, .make = make, .check = check};
