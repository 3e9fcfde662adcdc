/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reductions. Over fp32 each becomes the core operator Reduce, whose attributes say everything:
 * kind, axes (sorted, not negative, at least one) and keepdims. Other dtypes, and reductions over
 * no axis at all, run by their references.
 */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"

/* ---- Axes ------------------------------------------------------------------------------------ */

/* Marks the axes that the node reduces: from input 1 or the attribute; none means all, unless the
 * node says noop. */
static tdn_status reduced_axes(tdn_infer *io, bool *reduced)
{
    const int rank = io->node->in[0]->shape.rank;
    int64_t axes[TDN_MAX_RANK];
    int n, axis;
    TDN_TRY(tdn_infer_ints_either(io, "axes", 1, axes, TDN_MAX_RANK, &n));
    const bool all = n == 0 && tdn_attr_int(&io->node->attrs, "noop_with_empty_axes", 0) == 0;
    for (int i = 0; i < rank; i++)
        reduced[i] = all;
    for (int i = 0; i < n; i++) {
        TDN_TRY(tdn_infer_axis(io, axes[i], rank, &axis));
        reduced[axis] = true;
    }
    return TDN_OK;
}

static tdn_status set_reduced(tdn_infer *io, tdn_dtype dtype, const bool *reduced, bool keepdims)
{
    const tdn_shape *x = &io->node->in[0]->shape;
    tdn_shape y = {.rank = 0};
    for (int i = 0; i < x->rank; i++)
        if (!reduced[i] || keepdims)
            y.dims[y.rank++] = reduced[i] ? 1 : x->dims[i];
    return tdn_infer_set(io, 0, dtype, &y);
}

static bool keeps_dims(const tdn_infer *io)
{
    return tdn_attr_int(&io->node->attrs, "keepdims", 1) != 0;
}

/* ---- Reduce* --------------------------------------------------------------------------------- */

static tdn_status reduce_infer(tdn_infer *io)
{
    bool reduced[TDN_MAX_RANK];
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK));
    TDN_TRY(reduced_axes(io, reduced));
    return set_reduced(io, io->node->in[0]->dtype, reduced, keeps_dims(io));
}

static tdn_status number_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    return reduce_infer(io);
}

static tdn_status order_infer(tdn_infer *io) /* of numbers and booleans */
{
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_all));
    return reduce_infer(io);
}

static tdn_status to_reduce(tdn_infer *io, const char *kind, const bool *reduced, bool keepdims)
{
    tdn_value *x = io->node->in[0];
    int64_t axes[TDN_MAX_RANK];
    int n = 0;
    for (int i = 0; i < x->shape.rank; i++)
        if (reduced[i])
            axes[n++] = i;
    if (n == 0 || x->dtype != TDN_F32)
        return TDN_OK;
    return tdn_emit_end(io, tdn_emit_reduce(io, x, kind, axes, n, keepdims));
}

/* Which kind of Reduce each operator is. */
static const struct {
    const char *name, *kind;
} kinds[] = {
    {"ReduceSum", "sum"},
    {"ReduceMean", "mean"},
    {"ReduceMax", "max"},
    {"ReduceMin", "min"},
    {"ReduceProd", "prod"},
    {"ReduceL1", "l1"},
    {"ReduceL2", "l2"},
    {"ReduceSumSquare", "sumsq"},
    {"ReduceLogSum", "logsum"},
    {"ReduceLogSumExp", "logsumexp"},
    {"GlobalAveragePool", "mean"},
    {"GlobalMaxPool", "max"},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static const char *kind_of(const tdn_infer *io)
{
    for (int i = 0; i < N_KINDS; i++)
        if (strcmp(kinds[i].name, io->node->op->name) == 0)
            return kinds[i].kind;
    return NULL;
}

static tdn_status reduce_decompose(tdn_infer *io)
{
    bool reduced[TDN_MAX_RANK];
    TDN_TRY(reduced_axes(io, reduced));
    return to_reduce(io, kind_of(io), reduced, keeps_dims(io));
}

static int64_t reduce_flops(const tdn_node *node) { return tdn_shape_count(&node->in[0]->shape); }

/* ---- Global pools: over all axes after the channels ------------------------------------------ */

static void spatial_axes(const tdn_infer *io, bool *reduced)
{
    for (int i = 0; i < io->node->in[0]->shape.rank; i++)
        reduced[i] = i >= 2;
}

static tdn_status global_infer(tdn_infer *io)
{
    bool reduced[TDN_MAX_RANK];
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    TDN_TRY(tdn_infer_rank(io, 0, 2, TDN_MAX_RANK));
    spatial_axes(io, reduced);
    return set_reduced(io, io->node->in[0]->dtype, reduced, true);
}

static tdn_status global_decompose(tdn_infer *io)
{
    bool reduced[TDN_MAX_RANK];
    spatial_axes(io, reduced);
    return to_reduce(io, kind_of(io), reduced, true);
}

/* ---- The core operator ----------------------------------------------------------------------- */

static tdn_status core_infer(tdn_infer *io)
{
    const char *kind = tdn_attr_string(&io->node->attrs, "kind", "");
    bool reduced[TDN_MAX_RANK], known = false;
    for (int i = 0; i < N_KINDS; i++)
        known = known || strcmp(kinds[i].kind, kind) == 0;
    if (!known)
        return tdn_fail(io->error, TDN_E_MODEL, "there is no reduction '%s'", kind);
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    TDN_TRY(tdn_infer_rank(io, 0, 1, TDN_MAX_RANK));
    int n_axes;
    tdn_attr_ints(&io->node->attrs, "axes", &n_axes);
    TDN_NEED(io, n_axes > 0, "the axes to reduce are missing");
    TDN_TRY(reduced_axes(io, reduced));
    return set_reduced(io, io->node->in[0]->dtype, reduced,
                       tdn_attr_int(&io->node->attrs, "keepdims", 0) != 0);
}

/* ---- ArgMax, ArgMin, running sums ------------------------------------------------------------ */

static tdn_status arg_infer(tdn_infer *io)
{
    bool reduced[TDN_MAX_RANK] = {false};
    int axis;
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    TDN_TRY(tdn_infer_rank(io, 0, 1, TDN_MAX_RANK));
    const tdn_shape *x = &io->node->in[0]->shape;
    TDN_TRY(tdn_infer_axis(io, tdn_attr_int(&io->node->attrs, "axis", 0), x->rank, &axis));
    TDN_NEED(io, x->dims[axis] > 0, "the axis to search is empty");
    reduced[axis] = true;
    return set_reduced(io, TDN_S64, reduced, keeps_dims(io));
}

/* The axis may be known at run time only: it does not change the shape. */
static tdn_status cumulate_infer(tdn_infer *io)
{
    static const tdn_dtype axis_dtypes[] = {TDN_S32, TDN_S64, TDN_DTYPE_NONE};
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    TDN_TRY(tdn_infer_dtype(io, 1, axis_dtypes));
    TDN_TRY(tdn_infer_rank(io, 0, 1, TDN_MAX_RANK));
    TDN_NEED(io, tdn_shape_count(&io->node->in[1]->shape) == 1, "the axis is not a scalar");
    return tdn_infer_same(io);
}

/* ---- The rows -------------------------------------------------------------------------------- */

#define ROW(name_, since_, max_in_, infer_, decompose_)                                            \
    {                                                                                              \
        .name = name_, .domain = "", .since = since_, .n_in_min = 1, .n_in_max = max_in_,          \
        .n_out_min = 1, .n_out_max = 1, .infer = infer_, .decompose = decompose_,                  \
        .flops = reduce_flops                                                                      \
    }

/* Axes are an attribute or an input; which one depends on the opset, and the rule takes either. */
const tdn_op_def tdn_ops_reduce[] = {
    ROW("ReduceSum", 1, 2, number_infer, reduce_decompose),
    ROW("ReduceMean", 1, 2, number_infer, reduce_decompose),
    ROW("ReduceMax", 1, 2, order_infer, reduce_decompose),
    ROW("ReduceMin", 1, 2, order_infer, reduce_decompose),
    ROW("ReduceProd", 1, 2, number_infer, reduce_decompose),
    ROW("ReduceL1", 1, 2, number_infer, reduce_decompose),
    ROW("ReduceL2", 1, 2, number_infer, reduce_decompose),
    ROW("ReduceSumSquare", 1, 2, number_infer, reduce_decompose),
    ROW("ReduceLogSum", 1, 2, number_infer, reduce_decompose),
    ROW("ReduceLogSumExp", 1, 2, number_infer, reduce_decompose),
    ROW("GlobalAveragePool", 1, 1, global_infer, global_decompose),
    ROW("GlobalMaxPool", 1, 1, global_infer, global_decompose),
    ROW("ArgMax", 1, 1, arg_infer, NULL),
    ROW("ArgMin", 1, 1, arg_infer, NULL),
    {.name = "CumSum",
     .domain = "",
     .since = 11,
     .n_in_min = 2,
     .n_in_max = 2,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = cumulate_infer},
    {.name = "CumProd",
     .domain = "",
     .since = 26,
     .n_in_min = 2,
     .n_in_max = 2,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = cumulate_infer},
    {.name = "Reduce",
     .domain = "tendon",
     .since = 1,
     .n_in_min = 1,
     .n_in_max = 1,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = core_infer,
     .core = TDN_CORE_REDUCE,
     .flops = reduce_flops},
    {.name = NULL},
};
