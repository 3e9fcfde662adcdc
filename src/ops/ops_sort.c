/* SPDX-License-Identifier: Apache-2.0 */
/* What sorts: the largest or smallest elements, and the different ones. By reference. */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"

static tdn_status top_k_infer(tdn_infer *io)
{
    double k = 0;
    int axis;
    const tdn_attr *attr = tdn_attr_find(&io->node->attrs, "k");
    TDN_TRY(tdn_infer_rank(io, 0, 1, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    tdn_shape y = io->node->in[0]->shape;
    TDN_TRY(tdn_infer_axis(io, tdn_attr_int(&io->node->attrs, "axis", -1), y.rank, &axis));
    TDN_NEED(io, attr || tdn_in(io->node, 1), "k is missing");
    if (attr)
        k = (double)attr->i;
    else
        TDN_TRY(tdn_infer_scalar(io, 1, 0, &k));
    if (!(k >= 0 && k <= (double)y.dims[axis]))
        return tdn_fail(io->error, TDN_E_MODEL, "k is %g, of an axis of %lld", k,
                        (long long)y.dims[axis]);
    y.dims[axis] = (int64_t)k;
    TDN_TRY(tdn_infer_set(io, 0, io->node->in[0]->dtype, &y));
    return tdn_infer_set(io, 1, TDN_S64, &y);
}

/* n log n comparisons. */
static int64_t top_k_flops(const tdn_node *node)
{
    int64_t flops;
    return __builtin_mul_overflow(tdn_shape_count(&node->in[0]->shape), 20, &flops) ? INT64_MAX
                                                                                    : flops;
}

static tdn_status unique_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_all));
    const tdn_attr *attr = tdn_attr_find(&io->node->attrs, "axis");
    tdn_shape y = io->node->in[0]->shape;
    int axis = 0;
    if (attr)
        TDN_TRY(tdn_infer_axis(io, attr->i, y.rank, &axis));
    else
        y = (tdn_shape){.rank = 1, .dims = {tdn_shape_count(&y)}};
    y.bounded = 1u << axis;
    const tdn_shape inverse = {.rank = 1, .dims = {y.dims[axis]}};
    tdn_shape each = inverse;
    each.bounded = 1;
    TDN_TRY(tdn_infer_set(io, 0, io->node->in[0]->dtype, &y));
    TDN_TRY(tdn_infer_set(io, 1, TDN_S64, &each));
    TDN_TRY(tdn_infer_set(io, 2, TDN_S64, &inverse));
    return tdn_infer_set(io, 3, TDN_S64, &each);
}

const tdn_op_def tdn_ops_sort[] = {
    {.name = "TopK",
     .domain = "",
     .since = 1,
     .n_in_min = 1,
     .n_in_max = 2,
     .n_out_min = 1,
     .n_out_max = 2,
     .infer = top_k_infer,
     .flops = top_k_flops},
    {.name = "Unique",
     .domain = "",
     .since = 11,
     .n_in_min = 1,
     .n_in_max = 1,
     .n_out_min = 1,
     .n_out_max = 4,
     .infer = unique_infer,
     .flops = top_k_flops},
    {0},
};
