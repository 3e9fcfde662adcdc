/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operators that hold subgraphs. What can be decided while importing (an If whose condition is a
 * constant) never gets here; for the rest the rows exist so that the model's report says why they
 * do not run, not that they are unknown.
 *
 * And optionals, as far as they are tensors: one that is there, or an input that is left out.
 */
#include "ops/op.h"

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
