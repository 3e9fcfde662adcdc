/* SPDX-License-Identifier: Apache-2.0 */
/* Operators that hold subgraphs have no references: what they hold is evaluated node by node. What
 * is left of the family asks whether a tensor is there, and takes one of two. */
#include "ref/ref_util.h"

static tdn_status has_element(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, tdn_ref_out(call, 0) && call->out[0].rank == 0);
    tdn_view_set_int(&call->out[0], 0, tdn_ref_in(call, 0) != NULL);
    return TDN_OK;
}

static tdn_status either(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in == 3 && tdn_ref_out(call, 0) && tdn_ref_in(call, 0) &&
                           call->in[0].dtype == TDN_BOOL && tdn_view_count(&call->in[0]) == 1);
    const tdn_view *x = &call->in[tdn_view_get_int(&call->in[0], 0) ? 1 : 2], *y = &call->out[0];
    TDN_REF_NEED(call, x->dtype == y->dtype && tdn_view_same_dims(x, y));
    const tdn_place to = tdn_place_of(y), from = tdn_place_of(x);
    tdn_ref_copy(&to, &from, call->part, call->n_parts);
    return TDN_OK;
}

extern const tdn_ref_def tdn_refs_control[];
const tdn_ref_def tdn_refs_control[] = {
    {.name = "OptionalHasElement", .run = has_element},
    {.name = "Either", .run = either},
    {0},
};
