/* SPDX-License-Identifier: Apache-2.0 */
/* Operators that hold subgraphs have no references: what they hold is evaluated node by node. What
 * is left of the family asks whether a tensor is there. */
#include "ref/ref_util.h"

static tdn_status has_element(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, tdn_ref_out(call, 0) && call->out[0].rank == 0);
    tdn_view_set_int(&call->out[0], 0, tdn_ref_in(call, 0) != NULL);
    return TDN_OK;
}

extern const tdn_ref_def tdn_refs_control[];
const tdn_ref_def tdn_refs_control[] = {
    {.name = "OptionalHasElement", .run = has_element},
    {0},
};
