/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which nodes are in which arm of an Either: those that one of its two values alone needs. A node
 * is in the innermost arm that all its readers are in, so nothing is computed twice, and nothing
 * that the other arm or what follows reads is left out.
 */
#include "base/status.h"
#include "lower/lowering.h"

enum { NOBODY = -1 }; /* reads it, as far as was seen */

/* The innermost arm that both are in. */
static int32_t common_arm(const tdn_lowering *l, int32_t a, int32_t b)
{
    if (a == NOBODY || b == NOBODY)
        return a == NOBODY ? b : a;
    while (a != b) /* an outer arm has a smaller number */
        *(a > b ? &a : &b) = l->arms[a > b ? a : b].outer;
    return a;
}

static void read_in(tdn_lowering *l, const tdn_value *v, int32_t arm)
{
    if (v)
        l->arm_of[v->id] = common_arm(l, l->arm_of[v->id], arm);
}

/* The arm of a node all of whose readers were seen. */
static int32_t arm_of_node(const tdn_lowering *l, const tdn_node *n)
{
    int32_t arm = NOBODY;
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i])
            arm = common_arm(l, arm, l->arm_of[n->out[i]->id]);
    return arm == NOBODY ? 0 : arm;
}

static bool put_first(tdn_lowering *l, const tdn_node *n, int32_t arm)
{
    tdn_arm_node *at = tdn_arena_alloc(l->arena, 1, sizeof *at);
    if (!at)
        return false;
    *at = (tdn_arm_node){n, l->arms[arm].first};
    l->arms[arm].first = at;
    return true;
}

/* Behind the node n, an Either in `arm`. */
static void add_arms(tdn_lowering *l, const tdn_node *n, int32_t arm)
{
    l->first_arm[n->out[0]->id] = l->n_arms;
    for (int i = 1; i < 3; i++) {
        l->arms[l->n_arms] = (tdn_arm){.either = n, .outer = arm};
        read_in(l, n->in[i], l->n_arms++);
    }
}

tdn_status tdn_arms_find(tdn_lowering *l)
{
    const tdn_graph *g = l->g;
    const size_t n_values = (size_t)g->n_values + 1;
    size_t most = 1;
    for (const tdn_node *n = g->first; n; n = n->next)
        most += n->op->core == TDN_CORE_EITHER ? 2 : 0;
    l->arms = tdn_arena_alloc(l->arena, most, sizeof *l->arms);
    l->arm_of = tdn_arena_alloc(l->arena, n_values, sizeof *l->arm_of);
    l->first_arm = tdn_arena_alloc(l->arena, n_values, sizeof *l->first_arm);
    if (!l->arms || !l->arm_of || !l->first_arm)
        return tdn_fail_nomem(l->error, "arms");
    for (size_t i = 0; i < n_values; i++)
        l->arm_of[i] = NOBODY;
    for (int i = 0; i < g->n_outputs; i++)
        l->arm_of[g->outputs[i]->id] = 0;
    l->n_arms = 1;
    for (const tdn_node *n = g->last; n; n = n->prev) {
        const bool is_either = n->op->core == TDN_CORE_EITHER;
        const int32_t arm = arm_of_node(l, n);
        if (!put_first(l, n, arm))
            return tdn_fail_nomem(l->error, "arms");
        for (int i = 0; i < n->n_in && !(is_either && i > 0); i++)
            read_in(l, n->in[i], arm);
        if (is_either)
            add_arms(l, n, arm);
    }
    return TDN_OK;
}

bool tdn_arm_is_done(const tdn_lowering *l, int32_t arm)
{
    return common_arm(l, l->arm, arm) == arm;
}

int64_t tdn_arms_flops(const tdn_lowering *l)
{
    int64_t flops = 0;
    for (int32_t i = 0; i < l->n_arms; i++) {
        bool counts = true;
        for (int32_t arm = i; arm > 0; arm = l->arms[arm].outer)
            counts &= l->first_arm[l->arms[arm].either->out[0]->id] != arm;
        for (const tdn_arm_node *at = l->arms[i].first; counts && at; at = at->next)
            flops += tdn_node_flops(at->node);
    }
    return flops;
}
