/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operators that hold subgraphs. What can be decided while importing (an If whose condition is a
 * constant) never gets here; for the rest the rows exist so that the model's report says why they
 * do not run, not that they are unknown.
 *
 * Either, which passes make, is a choice among two values that are computed only where they are
 * chosen.
 *
 * And optionals, as far as they are tensors: one that is there, or an input that is left out.
 */
#include "ops/emit.h"

static tdn_status if_infer(tdn_infer *io)
{
    return tdn_fail(io->error, TDN_E_UNSUPPORTED,
                    "a condition that is not a constant: plans have no branches yet");
}

static tdn_status loop_infer(tdn_infer *io)
{
    return tdn_fail(io->error, TDN_E_UNSUPPORTED,
                    "plans have no loops yet: export the model with the loop unrolled");
}

static tdn_status either_infer(tdn_infer *io)
{
    const tdn_node *n = io->node;
    for (int i = 0; i < 3; i++)
        TDN_NEED(io, n->in[i], "an operand is missing");
    const tdn_value *flag = n->in[0], *a = n->in[1], *b = n->in[2];
    TDN_NEED(io, flag->dtype == TDN_BOOL && tdn_shape_count(&flag->shape) == 1,
             "the flag is no single boolean");
    TDN_NEED(io, a->dtype == b->dtype && tdn_shape_equal(&a->shape, &b->shape),
             "the two values differ in type or shape");
    return tdn_infer_set(io, 0, a->dtype, &a->shape);
}

static tdn_status has_element_infer(tdn_infer *io)
{
    const tdn_shape scalar = {.rank = 0};
    return tdn_infer_set(io, 0, TDN_BOOL, &scalar);
}

#define ROW(name_, infer_)                                                                         \
    {                                                                                              \
        .name = name_, .domain = "", .since = 1, .n_in_min = 0, .n_in_max = -1, .n_out_min = 0,    \
        .n_out_max = -1, .infer = infer_                                                           \
    }

const tdn_op_def tdn_ops_control[] = {
    ROW("If", if_infer),
    ROW("Loop", loop_infer),
    ROW("Scan", loop_infer),
    {.name = "Either",
     .domain = "tendon",
     .since = 1,
     .n_in_min = 3,
     .n_in_max = 3,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = either_infer,
     .core = TDN_CORE_EITHER,
     .flops = tdn_flops_none},
    {.name = "OptionalHasElement",
     .domain = "",
     .since = 18,
     .n_in_min = 0,
     .n_in_max = 1,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = has_element_infer},
    {.name = "OptionalGetElement",
     .domain = "",
     .since = 18,
     .n_in_min = 1,
     .n_in_max = 1,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = tdn_infer_same,
     .core = TDN_CORE_RESHAPE,
     .reference = "Identity"},
    {0},
};
