/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Indexed reads and writes. A Gather whose indices are a constant progression (most are one number)
 * is a slice, so a view; all others run by reference.
 */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"

static const tdn_dtype index_dtypes[] = {TDN_S64, TDN_S32, TDN_DTYPE_NONE};

/* Data of any rank from `min` on, and integer indices. */
static tdn_status check_operands(tdn_infer *io, int min, int min_indices)
{
    TDN_TRY(tdn_infer_rank_open(io, 0, min, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_rank_open(io, 1, min_indices, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_all));
    return tdn_infer_dtype(io, 1, index_dtypes);
}

static tdn_status axis_of(tdn_infer *io, int *axis)
{
    return tdn_infer_axis(io, tdn_attr_int(&io->node->attrs, "axis", 0),
                          io->node->in[0]->shape.rank, axis);
}

/* ---- Gather ---------------------------------------------------------------------------------- */

static tdn_status gather_infer(tdn_infer *io)
{
    int axis;
    TDN_TRY(check_operands(io, 1, 0));
    TDN_TRY(axis_of(io, &axis));
    const tdn_shape *x = &io->node->in[0]->shape, *indices = &io->node->in[1]->shape;
    tdn_shape y = {.rank = x->rank - 1 + indices->rank};
    TDN_NEED(io, y.rank <= TDN_MAX_RANK, "the result has too many axes");
    for (int i = 0, at = 0; i < x->rank; i++) {
        if (i != axis) {
            y.bounded |= (x->bounded >> i & 1) << at;
            y.dims[at++] = x->dims[i];
            continue;
        }
        y.bounded |= indices->bounded << at;
        for (int k = 0; k < indices->rank; k++)
            y.dims[at++] = indices->dims[k];
    }
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

/* Are the indices start, start + step, ...? */
static tdn_status progression(tdn_infer *io, int64_t dim, int64_t *start, int64_t *step, int64_t *n,
                              bool *is)
{
    const tdn_value *indices = io->node->in[1];
    *n = tdn_shape_count(&indices->shape);
    *is = indices->kind == TDN_VALUE_CONST && *n > 0;
    *step = 1;
    if (!*is)
        return TDN_OK;
    const tdn_view view = tdn_value_view(indices);
    int64_t last = 0;
    for (int64_t i = 0; i < *n; i++) {
        int64_t index = tdn_view_get_int(&view, i);
        if (index < -dim || index >= dim)
            return tdn_fail(io->error, TDN_E_MODEL, "index %lld outside an axis of %lld",
                            (long long)index, (long long)dim);
        index += index < 0 ? dim : 0;
        if (i == 0)
            *start = index;
        if (i == 1)
            *step = index - last;
        if (i > 0 && (index - last != *step || *step == 0))
            *is = false;
        last = index;
    }
    return TDN_OK;
}

static tdn_status gather_decompose(tdn_infer *io)
{
    int axis;
    bool is;
    int64_t start = 0, step, n, starts[TDN_MAX_RANK] = {0}, steps[TDN_MAX_RANK],
            extents[TDN_MAX_RANK];
    if (io->node->in[0]->shape.bounded)
        return TDN_OK;
    TDN_TRY(axis_of(io, &axis));
    const tdn_shape *x = &io->node->in[0]->shape;
    TDN_TRY(progression(io, x->dims[axis], &start, &step, &n, &is));
    if (!is)
        return TDN_OK;
    for (int i = 0; i < x->rank; i++) {
        steps[i] = i == axis ? step : 1;
        extents[i] = i == axis ? n : x->dims[i];
        starts[i] = i == axis ? start : 0;
    }
    const tdn_shape y = io->node->out[0]->shape;
    tdn_value *v = tdn_emit_slice(io, io->node->in[0], starts, steps, extents);
    return tdn_emit_end(io, io->node->in[1]->shape.rank == 1 ? v : tdn_emit_reshape(io, v, &y));
}

static tdn_status gather_elements_infer(tdn_infer *io)
{
    int axis;
    TDN_TRY(check_operands(io, 1, 1));
    TDN_TRY(axis_of(io, &axis));
    const tdn_shape *x = &io->node->in[0]->shape, *indices = &io->node->in[1]->shape;
    TDN_NEED(io, x->rank == indices->rank, "indices of another rank than the data");
    for (int i = 0; i < x->rank; i++)
        TDN_NEED(io, i == axis || indices->dims[i] <= x->dims[i],
                 "indices with a larger extent than the data");
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, indices);
}

static tdn_status gather_nd_infer(tdn_infer *io)
{
    TDN_TRY(check_operands(io, 1, 1));
    const tdn_shape *x = &io->node->in[0]->shape, *indices = &io->node->in[1]->shape;
    const int64_t batch = tdn_attr_int(&io->node->attrs, "batch_dims", 0),
                  depth = indices->dims[indices->rank - 1];
    const int lead = indices->rank - 1;
    TDN_NEED(io, batch >= 0 && batch <= lead && batch < x->rank,
             "attribute 'batch_dims' out of range");
    TDN_NEED(io, depth <= x->rank - batch, "index tuples longer than the data has axes");
    for (int64_t i = 0; i < batch; i++)
        TDN_NEED(io, x->dims[i] == indices->dims[i], "data and indices have different batches");
    TDN_NEED(io, !(indices->bounded >> lead & 1),
             "index tuples of a length that is known at run time only");
    tdn_shape y = {.bounded = indices->bounded};
    TDN_NEED(io, lead + x->rank - batch - depth <= TDN_MAX_RANK, "the result has too many axes");
    for (int i = 0; i < lead; i++)
        y.dims[y.rank++] = indices->dims[i];
    for (int64_t i = batch + depth; i < x->rank; i++) {
        y.bounded |= (x->bounded >> i & 1) << y.rank;
        y.dims[y.rank++] = x->dims[i];
    }
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

/* ---- Scatter --------------------------------------------------------------------------------- */

static tdn_status check_updates(tdn_infer *io, int input)
{
    static const char *const known[] = {"none", "add", "mul", "min", "max"};
    const char *reduction = tdn_attr_string(&io->node->attrs, "reduction", "none");
    bool found = false;
    for (int i = 0; i < 5; i++)
        found = found || !strcmp(known[i], reduction);
    TDN_NEED(io, found, "attribute 'reduction' is unknown");
    TDN_TRY(tdn_infer_rank_open(io, input, 0, TDN_MAX_RANK));
    TDN_NEED(io, io->node->in[input]->dtype == io->node->in[0]->dtype,
             "updates of another type than the data");
    return TDN_OK;
}

static tdn_status scatter_elements_infer(tdn_infer *io)
{
    int axis;
    TDN_TRY(check_operands(io, 1, 1));
    TDN_TRY(check_updates(io, 2));
    TDN_TRY(axis_of(io, &axis));
    const tdn_shape *x = &io->node->in[0]->shape, *indices = &io->node->in[1]->shape;
    TDN_NEED(io, x->rank == indices->rank, "indices of another rank than the data");
    TDN_NEED(io, tdn_shape_equal(indices, &io->node->in[2]->shape),
             "updates of another shape than the indices");
    for (int i = 0; i < x->rank; i++)
        TDN_NEED(io, i == axis || indices->dims[i] <= x->dims[i],
                 "indices with a larger extent than the data");
    return tdn_infer_same(io);
}

static tdn_status scatter_nd_infer(tdn_infer *io)
{
    TDN_TRY(check_operands(io, 1, 1));
    TDN_TRY(check_updates(io, 2));
    const tdn_shape *x = &io->node->in[0]->shape, *indices = &io->node->in[1]->shape,
                    *u = &io->node->in[2]->shape;
    const int lead = indices->rank - 1;
    const int64_t depth = indices->dims[lead];
    TDN_NEED(io, depth <= x->rank && u->rank == lead + x->rank - depth,
             "updates do not have the rank that indices ask");
    for (int i = 0; i < u->rank; i++)
        TDN_NEED(io, u->dims[i] == (i < lead ? indices->dims[i] : x->dims[depth + i - lead]),
                 "updates do not have the shape that indices ask");
    return tdn_infer_same(io);
}

static tdn_status tensor_scatter_infer(tdn_infer *io)
{
    int axis;
    TDN_TRY(tdn_infer_rank(io, 0, 2, TDN_MAX_RANK));
    TDN_TRY(check_updates(io, 1));
    const tdn_shape *x = &io->node->in[0]->shape, *u = &io->node->in[1]->shape;
    TDN_TRY(tdn_infer_axis(io, tdn_attr_int(&io->node->attrs, "axis", -2), x->rank, &axis));
    TDN_NEED(io, axis > 0 && u->rank == x->rank,
             "the sequence's axis is the batch's, or the ranks differ");
    for (int i = 0; i < x->rank; i++)
        TDN_NEED(io, i == axis ? u->dims[i] <= x->dims[i] : u->dims[i] == x->dims[i],
                 "the update does not fit the cache");
    const tdn_value *first = tdn_in(io->node, 2);
    TDN_NEED(io, !first || (first->shape.rank == 1 && first->shape.dims[0] == x->dims[0]),
             "write_indices has not one position a batch");
    return tdn_infer_same(io);
}

/* ---- One-hot --------------------------------------------------------------------------------- */

static tdn_status one_hot_infer(tdn_infer *io)
{
    double depth;
    int axis;
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK - 1));
    TDN_TRY(tdn_infer_rank(io, 2, 1, 1));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    TDN_NEED(io, io->node->in[2]->shape.dims[0] == 2, "values are not two");
    const tdn_value *d = io->node->in[1];
    if (d->shape.rank > 1 || d->kind != TDN_VALUE_CONST || tdn_shape_count(&d->shape) != 1)
        return tdn_fail(io->error, TDN_E_UNSUPPORTED, "input 1 'depth' must be a constant scalar");
    TDN_TRY(tdn_infer_scalar(io, 1, 0, &depth));
    TDN_NEED(io, depth >= 0 && depth < 0x1p40, "depth out of range");
    const tdn_shape *x = &io->node->in[0]->shape;
    TDN_TRY(tdn_infer_axis(io, tdn_attr_int(&io->node->attrs, "axis", -1), x->rank + 1, &axis));
    tdn_shape y = {.rank = x->rank + 1};
    for (int i = 0; i < y.rank; i++)
        y.dims[i] = i == axis ? (int64_t)depth : x->dims[i - (i > axis)];
    return tdn_infer_set(io, 0, io->node->in[2]->dtype, &y);
}

#define ROW(name_, since_, min_in_, max_in_)                                                       \
    .name = name_, .domain = "", .since = since_, .n_in_min = min_in_, .n_in_max = max_in_,        \
    .n_out_min = 1, .n_out_max = 1, .flops = tdn_flops_none

const tdn_op_def tdn_ops_gather[] = {
    {ROW("Gather", 1, 2, 2), .infer = gather_infer, .decompose = gather_decompose},
    {ROW("GatherElements", 11, 2, 2), .infer = gather_elements_infer},
    {ROW("GatherND", 11, 2, 2), .infer = gather_nd_infer},
    {ROW("Scatter", 9, 3, 3), .infer = scatter_elements_infer},
    {ROW("ScatterElements", 11, 3, 3), .infer = scatter_elements_infer},
    {ROW("ScatterND", 11, 3, 3), .infer = scatter_nd_infer},
    {ROW("TensorScatter", 24, 2, 3), .infer = tensor_scatter_infer},
    {ROW("OneHot", 9, 3, 3), .infer = one_hot_infer},
    {0},
};
