/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Is a batch axis independent? Walks the graph after the passes, and follows where the axis goes in
 * each value. An operator without a rule here, or one that mixes along the axis, ends the proof
 * with its name.
 */
#include "base/status.h"
#include "passes/passes.h"

enum { NONE = -1, MIXED = -2 };

/* The axis counted from the right, so that broadcasting keeps it. */
static int map_axis(const tdn_node *n, const int32_t *axes)
{
    int found = NONE;
    for (int i = 0; i < n->n_in; i++) {
        int a = axes[n->in[i]->id];
        if (a == NONE)
            continue;
        int right = n->in[i]->shape.rank - a;
        if (found != NONE && found != right)
            return MIXED;
        found = right;
    }
    if (found == NONE)
        return NONE;
    for (int i = 0; i < n->n_in;
         i++) { /* a value without a batch may not have that many elements there */
        const tdn_shape *s = &n->in[i]->shape;
        if (axes[n->in[i]->id] == NONE && s->rank >= found && s->dims[s->rank - found] != 1)
            return MIXED;
    }
    return n->out[0]->shape.rank - found;
}

static bool extras_agree(const tdn_node *n, const int32_t *axes, int out_axis)
{
    for (int i = n->n_own_in; i < n->n_in; i++) {
        const tdn_shape *s = &n->in[i]->shape;
        int a = axes[n->in[i]->id], at = s->rank - (n->out[0]->shape.rank - out_axis);
        if (a != NONE ? a != at : at >= 0 && s->dims[at] != 1)
            return false;
    }
    return true;
}

static int matmul_axis(const tdn_node *n, const int32_t *axes)
{
    int a = axes[n->in[0]->id], b = axes[n->in[1]->id], rank = n->out[0]->shape.rank;
    int rank_a = n->in[0]->shape.rank, rank_b = n->in[1]->shape.rank;
    if (rank_a < 2 || rank_b < 2 || a == rank_a - 1 || b >= rank_b - 2)
        return MIXED;
    int out_a = a == NONE ? NONE : a + rank - rank_a, out_b = b == NONE ? NONE : b + rank - rank_b;
    if (a == rank_a - 2)
        return b == NONE && rank_b == 2 ? out_a : MIXED;
    if (out_a != NONE && out_b != NONE)
        return out_a == out_b ? out_a : MIXED;
    const tdn_shape *other = out_a == NONE ? &n->in[0]->shape : &n->in[1]->shape;
    int out = out_a == NONE ? out_b : out_a, at = other->rank - (rank - out);
    return at >= 0 && other->dims[at] != 1 ? MIXED : out;
}

static int reduce_axis(const tdn_node *n, int a)
{
    int n_axes, below = 0;
    const int64_t *list = tdn_attr_ints(&n->attrs, "axes", &n_axes);
    for (int i = 0; i < n_axes; i++) {
        if (list[i] == a)
            return MIXED;
        below += list[i] < a;
    }
    return tdn_attr_int(&n->attrs, "keepdims", 1) ? a : a - below;
}

/* The axis stays whole where the product of the extents before it and its own extent are found
 * again. */
static int reshape_axis(const tdn_node *n, int a)
{
    const tdn_shape *x = &n->in[0]->shape, *y = &n->out[0]->shape;
    int64_t before = 1, at = 1;
    for (int i = 0; i < a; i++)
        before *= x->dims[i];
    for (int i = 0; i < y->rank; i++) {
        if (at == before && y->dims[i] == x->dims[a])
            return i;
        at *= y->dims[i];
    }
    return MIXED;
}

static int slice_axis(const tdn_node *n, int a)
{
    int rank;
    const int64_t *steps = tdn_attr_ints(&n->attrs, "steps", &rank);
    return a < rank && steps[a] == 1 && n->in[0]->shape.dims[a] == n->out[0]->shape.dims[a] ? a
                                                                                            : MIXED;
}

static int concat_axis(const tdn_node *n, const int32_t *axes)
{
    int found = axes[n->in[0]->id];
    for (int i = 1; i < n->n_in; i++)
        if (axes[n->in[i]->id] != found)
            return MIXED;
    return found == tdn_attr_int(&n->attrs, "axis", 0) ? MIXED : found;
}

static int transpose_axis(const tdn_node *n, int a)
{
    int rank;
    const int64_t *perm = tdn_attr_ints(&n->attrs, "perm", &rank);
    for (int i = 0; i < rank; i++)
        if (perm[i] == a)
            return i;
    return MIXED;
}

static int pad_axis(const tdn_node *n, int a)
{
    return n->in[0]->shape.dims[a] == n->out[0]->shape.dims[a] ? a : MIXED;
}

static int node_axis(const tdn_node *n, const int32_t *axes)
{
    bool any = false;
    for (int i = 0; i < n->n_in; i++)
        any |= n->in[i] && axes[n->in[i]->id] != NONE;
    if (!any)
        return NONE;
    int a = n->n_in && n->in[0] ? axes[n->in[0]->id] : NONE, out = MIXED;
    switch (n->op->core) {
    case TDN_CORE_MAP: return map_axis(n, axes);
    case TDN_CORE_CONCAT: return concat_axis(n, axes);
    case TDN_CORE_HALF_MATMUL:
    case TDN_CORE_INTEGER_MATMUL:
    case TDN_CORE_MATMUL: out = matmul_axis(n, axes); break;
    case TDN_CORE_MIX: out = a >= 0 && a < n->out[0]->shape.rank - 1 ? a : MIXED; break;
    case TDN_CORE_GRAPHCONV:
    case TDN_CORE_CONV:
    case TDN_CORE_HALF_CONV:
    case TDN_CORE_INTEGER_CONV:
    case TDN_CORE_POOL: out = a == 0 ? 0 : MIXED; break;
    case TDN_CORE_REDUCE: out = a < 0 ? MIXED : reduce_axis(n, a); break;
    case TDN_CORE_SOFTMAX:
        out = a >= 0 && a != tdn_attr_int(&n->attrs, "axis", 0) ? a : MIXED;
        break;
    case TDN_CORE_NORM: out = a >= 0 && a < tdn_attr_int(&n->attrs, "axis", 0) ? a : MIXED; break;
    case TDN_CORE_TRANSPOSE: out = a < 0 ? MIXED : transpose_axis(n, a); break;
    case TDN_CORE_RESHAPE: out = a < 0 ? MIXED : reshape_axis(n, a); break;
    case TDN_CORE_SLICE: out = a < 0 ? MIXED : slice_axis(n, a); break;
    case TDN_CORE_EXPAND:
        out = a < 0 ? MIXED : n->out[0]->shape.rank - (n->in[0]->shape.rank - a);
        break;
    case TDN_CORE_PAD: out = a < 0 ? MIXED : pad_axis(n, a); break;
    default: return MIXED;
    }
    return out >= 0 && !extras_agree(n, axes, out) ? MIXED : out;
}

bool tdn_graph_batch_axes(const tdn_graph *g, int axis, int32_t *axes, const char **where)
{
    for (int i = 0; i < g->n_values; i++)
        axes[i] = NONE;
    for (int i = 0; i < g->n_inputs; i++)
        axes[g->inputs[i]->id] = axis;
    for (const tdn_node *n = g->first; n; n = n->next) {
        int a = node_axis(n, axes);
        if (a == MIXED) {
            *where = n->name;
            return false;
        }
        for (int i = 0; i < n->n_out; i++)
            if (n->out[i])
                axes[n->out[i]->id] = a;
    }
    for (int i = 0; i < g->n_outputs; i++)
        if (axes[g->outputs[i]->id] == NONE) {
            *where = g->outputs[i]->name;
            return false;
        }
    return true;
}
