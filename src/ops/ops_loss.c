/* SPDX-License-Identifier: Apache-2.0 */
/* Losses, which models exported together with their training loss end in. By reference. */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"

static tdn_status check_target(tdn_infer *io, tdn_shape *target)
{
    const tdn_shape *x = &io->node->in[0]->shape;
    *target = tdn_shape_make(x->rank - 1, x->dims + 1);
    target->dims[0] = x->dims[0];
    TDN_NEED(io, tdn_shape_equal(&io->node->in[1]->shape, target),
             "the target has not one class an element");
    if (!tdn_in(io->node, 2))
        return TDN_OK;
    TDN_TRY(tdn_infer_rank(io, 2, 1, 1));
    TDN_TRY(tdn_infer_dtype(io, 2, tdn_dtypes_floats));
    TDN_NEED(io, io->node->in[2]->shape.dims[0] == x->dims[1], "not one weight a class");
    return TDN_OK;
}

static tdn_status loss_infer(tdn_infer *io)
{
    tdn_shape target;
    TDN_TRY(tdn_infer_rank(io, 0, 2, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_rank(io, 1, 1, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    TDN_TRY(tdn_infer_dtype(io, 1, tdn_dtypes_integers));
    TDN_TRY(check_target(io, &target));
    const tdn_value *x = io->node->in[0];
    const char *reduction = tdn_attr_string(&io->node->attrs, "reduction", "mean");
    const bool none = strcmp(reduction, "none") == 0;
    TDN_NEED(io, none || strcmp(reduction, "mean") == 0 || strcmp(reduction, "sum") == 0,
             "attribute 'reduction' is neither none, sum nor mean");
    if (!none)
        target.rank = 0;
    TDN_TRY(tdn_infer_set(io, 1, x->dtype, &x->shape));
    return tdn_infer_set(io, 0, x->dtype, &target);
}

/* An exponential counts as one operation. */
static int64_t loss_flops(const tdn_node *node)
{
    int64_t flops;
    return __builtin_mul_overflow(tdn_shape_count(&node->in[0]->shape), 3, &flops) ? INT64_MAX
                                                                                   : flops;
}

#define ROW(name_, since_, n_out_)                                                                 \
    {                                                                                              \
        .name = name_, .domain = "", .since = since_, .n_in_min = 2, .n_in_max = 3,                \
        .n_out_min = 1, .n_out_max = n_out_, .infer = loss_infer, .flops = loss_flops              \
    }

const tdn_op_def tdn_ops_loss[] = {
    ROW("NegativeLogLikelihoodLoss", 12, 1),
    ROW("SoftmaxCrossEntropyLoss", 12, 2),
    {0},
};
