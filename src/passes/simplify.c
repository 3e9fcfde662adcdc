/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Drops nodes that move nothing (reshape to the same shape, identity permutation, whole slice,
 * concat of one or of all slices, pad of nothing), biases of zeros, and joins chains: a reshape of
 * a reshape, a transpose of a transpose.
 */
#include <string.h>

#include "base/status.h"
#include "passes/passes.h"

static bool is_identity_perm(const tdn_node *n)
{
    int rank;
    const int64_t *perm = tdn_attr_ints(&n->attrs, "perm", &rank);
    for (int i = 0; i < rank; i++)
        if (perm[i] != i)
            return false;
    return rank > 0;
}

static bool does_nothing(const tdn_node *n)
{
    const tdn_value *x = tdn_in(n, 0), *y = tdn_out(n, 0);
    if (!x || !y || x->dtype != y->dtype || x->shape.bounded || y->shape.bounded)
        return false;
    bool same = tdn_shape_equal(&x->shape, &y->shape);
    switch (n->op->core) {
    case TDN_CORE_TRANSPOSE: return is_identity_perm(n);
    case TDN_CORE_RESHAPE:
    case TDN_CORE_EXPAND:
    case TDN_CORE_PAD: return same;
    case TDN_CORE_SLICE: { /* the same extents forwards are the whole */
        int rank;
        const int64_t *steps = tdn_attr_ints(&n->attrs, "steps", &rank);
        for (int i = 0; i < rank; i++)
            same &= steps[i] > 0 || x->shape.dims[i] <= 1;
        return same;
    }
    case TDN_CORE_CONCAT: return n->n_in == 1;
    default: return !strcmp(n->op->name, "Identity") && same;
    }
}

/* May readers of the node's output read `v` instead? An input or another output cannot take an
 * output's name. */
static bool can_replace(const tdn_value *out, const tdn_value *v)
{
    return out->output < 0 || (v->kind == TDN_VALUE_NODE && v->output < 0);
}

static tdn_node *same_core_before(const tdn_node *n)
{
    tdn_node *p = n->in[0]->producer;
    return p && p->op == n->op ? p : NULL;
}

/* transpose(transpose(x)): the permutations compose. */
static bool join_transpose(tdn_graph *g, tdn_node *n)
{
    tdn_node *p = same_core_before(n);
    if (!p)
        return true;
    int rank, rank_p;
    const int64_t *outer = tdn_attr_ints(&n->attrs, "perm", &rank),
                  *inner = tdn_attr_ints(&p->attrs, "perm", &rank_p);
    if (rank != rank_p || rank > TDN_MAX_RANK)
        return true;
    int64_t perm[TDN_MAX_RANK];
    for (int i = 0; i < rank; i++)
        perm[i] = inner[outer[i]];
    tdn_node_set_input(n, 0, p->in[0]);
    return tdn_node_set_ints(g, n, "perm", perm, rank);
}

/* The value whose consecutive slices along the axis the concatenation puts together again. */
static tdn_value *whole_of(const tdn_node *n)
{
    const int64_t axis = tdn_attr_int(&n->attrs, "axis", 0);
    tdn_value *whole = NULL, *of;
    int64_t at = 0, start;
    for (int i = 0; i < n->n_in; i++) {
        if (!tdn_trace_slice(n->in[i], axis, &of, &start) || start != at || (whole && whole != of))
            return NULL;
        whole = of;
        at += n->in[i]->shape.dims[axis];
    }
    return whole && tdn_shape_equal(&whole->shape, &n->out[0]->shape) ? whole : NULL;
}

static bool is_zero(const tdn_value *v)
{
    if (v->kind != TDN_VALUE_CONST || v->dtype != TDN_F32)
        return false;
    const int64_t n = tdn_shape_count(&v->shape);
    for (int64_t i = 0; i < n; i++)
        if (((const float *)v->data)[i] != 0)
            return false;
    return true;
}

/* A product, where the node adds zeros to it: a sum that began with 0 is no -0, which that would
 * change. */
static tdn_value *unbiased(const tdn_node *n)
{
    if (n->op->core != TDN_CORE_MAP || n->n_in != 2 || !tdn_expr_is_sum(n->expr) ||
        n->out[0]->dtype != TDN_F32)
        return NULL;
    for (int i = 0; i < 2; i++) {
        tdn_value *x = n->in[i];
        const bool is_product = x->producer && (x->producer->op->core == TDN_CORE_MATMUL ||
                                                x->producer->op->core == TDN_CORE_CONV);
        if (is_product && is_zero(n->in[1 - i]) && tdn_shape_equal(&x->shape, &n->out[0]->shape))
            return x;
    }
    return NULL;
}

/* What the node's result is already; NULL: it does something. */
static tdn_value *same_as(const tdn_node *n)
{
    if (n->op->core == TDN_CORE_CONCAT && n->n_in > 1)
        return whole_of(n);
    return does_nothing(n) ? n->in[0] : unbiased(n);
}

tdn_status tdn_pass_simplify(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        if (n->op->core == TDN_CORE_TRANSPOSE && !join_transpose(g, n))
            return tdn_fail_nomem(error, "a permutation");
        if (n->op->core == TDN_CORE_RESHAPE && n->in[0]->producer &&
            n->in[0]->producer->op->core == TDN_CORE_RESHAPE &&
            n->in[0]->dtype == n->in[0]->producer->in[0]->dtype)
            tdn_node_set_input(n, 0, n->in[0]->producer->in[0]);
        tdn_value *same = same_as(n);
        if (same && can_replace(n->out[0], same)) {
            tdn_graph_replace(g, n->out[0], same);
            tdn_graph_remove(g, n);
        }
    }
    return TDN_OK;
}
