/* SPDX-License-Identifier: Apache-2.0 */
/* Either: a branch of its two arms, which write to one place. A value that is read elsewhere, too,
 * is copied there. */
#include "base/status.h"
#include "lower/lowering.h"

tdn_status tdn_lower_arm(tdn_lowering *l, int32_t arm)
{
    const int32_t outer = l->arm;
    l->arm = arm;
    for (const tdn_arm_node *at = l->arms[arm].first; at; at = at->next) {
        const tdn_node *n = at->node;
        l->node = n;
        l->step_name = n->origin ? n->origin : n->name;
        const tdn_status status = tdn_lower_node(l, n);
        if (status != TDN_OK)
            return tdn_fail_while(l->error, status, "lowering node '%s' (%s)", n->name,
                                  n->op->name);
    }
    l->arm = outer;
    return TDN_OK;
}

/* An arm and, where it did not write there, a copy of its value to the result. */
static tdn_status lower_into(tdn_lowering *l, int32_t arm, const tdn_value *v,
                             const tdn_value *result)
{
    tdn_place from, to;
    int order[TDN_MAX_RANK];
    TDN_TRY(tdn_lower_arm(l, arm));
    TDN_TRY(tdn_place_of(l, v, &from));
    tdn_order_of(&from, order);
    TDN_TRY(tdn_place_result(l, result, order, &to));
    return from.storage == to.storage && from.offset == to.offset ? TDN_OK
                                                                  : tdn_step_copy(l, &from, &to);
}

tdn_status tdn_lower_either(tdn_lowering *l, const tdn_node *n)
{
    const tdn_value *result = n->out[0];
    const int32_t arm = l->first_arm[result->id];
    const uint32_t at = l->n_steps, n_values = l->n_values;
    const char *name = l->step_name;
    tdn_place flag, place;
    TDN_TRY(tdn_place_of(l, n->in[0], &flag));
    TDN_TRY(tdn_step_branch(l, &flag));
    TDN_TRY(lower_into(l, arm, n->in[1], result));
    const uint32_t n_then = l->n_steps - at - 1;
    l->node = n;
    l->step_name = name;
    TDN_TRY(lower_into(l, arm + 1, n->in[2], result));
    l->steps[at].n_then = n_then;
    l->steps[at].n_else = l->n_steps - at - 1 - n_then;
    TDN_TRY(tdn_place_of(l, result, &place));
    return tdn_step_value_after(l, result, &place, at, n_values);
}
