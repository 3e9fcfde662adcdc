/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operators that hold subgraphs. What can be decided while importing (an If whose condition is a
 * constant) never gets here; for the rest the rows exist so that the model's report says why they
 * do not run, not that they are unknown.
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

#define ROW(name_, infer_)                                                                         \
    {                                                                                              \
        .name = name_, .domain = "", .since = 1, .n_in_min = 0, .n_in_max = -1, .n_out_min = 0,    \
        .n_out_max = -1, .infer = infer_                                                           \
    }

const tdn_op_def tdn_ops_control[] = {
    ROW("If", if_infer),
    ROW("Loop", loop_infer),
    ROW("Scan", loop_infer),
    {0},
};
