/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What does not vary along an axis is computed once: an operator behind an Expand is done on the
 * smaller value, and the Expand comes after it. A static input that is repeated for every time step
 * of an unrolled network costs its first layers once that way: the slices of the expanded result,
 * one a step, are all the same value.
 *
 * Exact: an axis is moved past an operator only where every element along it comes from equal
 * operands by the same operations. A mean, minimum or maximum of equal elements is the element; a
 * sum is the element times their number.
 */
#include <string.h>

#include "base/status.h"
#include "ops/emit.h"
#include "passes/passes.h"

/* Axes along which a value was expanded: of extent 1 in its source. */
typedef struct axes {
    bool on[TDN_MAX_RANK];
} axes;

static tdn_value *source(const tdn_value *v)
{
    const tdn_node *p = v ? v->producer : NULL;
    if (!p || p->op->core != TDN_CORE_EXPAND || v->shape.bounded || p->in[0]->shape.bounded)
        return NULL;
    tdn_value *x = p->in[0];
    return tdn_shape_count(&x->shape) < tdn_shape_count(&v->shape) ? x : NULL;
}

static axes expanded_axes(const tdn_value *v)
{
    const tdn_shape *x = &source(v)->shape;
    const int lead = v->shape.rank - x->rank;
    axes a = {{false}};
    for (int i = 0; i < v->shape.rank; i++)
        a.on[i] = v->shape.dims[i] != 1 && (i < lead || x->dims[i - lead] == 1);
    return a;
}

/* The source, with v's rank. */
static tdn_value *leaded_source(tdn_infer *io, const tdn_value *v)
{
    tdn_value *x = source(v);
    const int lead = v->shape.rank - x->shape.rank;
    if (lead == 0)
        return x;
    tdn_shape s = {.rank = v->shape.rank};
    for (int i = 0; i < s.rank; i++)
        s.dims[i] = i < lead ? 1 : x->shape.dims[i - lead];
    return tdn_emit_reshape(io, x, &s);
}

/* ---- Which axes of the result do not vary ---------------------------------------------------- */

static bool through_slice(const tdn_node *n, const axes *a, axes *to)
{
    for (int i = 0; i < n->out[0]->shape.rank; i++)
        to->on[i] = a->on[i] && n->out[0]->shape.dims[i] > 1;
    return true;
}

static bool through_transpose(const tdn_node *n, const axes *a, axes *to)
{
    int rank;
    const int64_t *perm = tdn_attr_ints(&n->attrs, "perm", &rank);
    for (int i = 0; i < rank; i++)
        to->on[i] = a->on[perm[i]];
    return rank == n->in[0]->shape.rank;
}

/* The shortest groups of axes of equal products, from the left: one is expanded whole, or not. */
static bool through_reshape(const tdn_node *n, const axes *a, axes *to)
{
    const tdn_shape *x = &n->in[0]->shape, *y = &n->out[0]->shape;
    for (int i = 0, k = 0; i < x->rank || k < y->rank;) {
        const int i0 = i, k0 = k;
        if (!tdn_shape_group(x, y, &i, &k))
            return false;
        int n_on = 0, n_all = 0;
        for (int j = i0; j < i; j++) {
            n_on += a->on[j];
            n_all += x->dims[j] != 1;
        }
        if (n_on != 0 && n_on != n_all)
            return false;
        for (int j = k0; j < k; j++)
            to->on[j] = n_on != 0 && y->dims[j] != 1;
    }
    return true;
}

static bool through_pad(const tdn_node *n, const axes *a, axes *to)
{
    const int rank = n->out[0]->shape.rank;
    for (int i = 0; i < rank; i++) {
        to->on[i] = a->on[i];
        if (a->on[i] && n->in[0]->shape.dims[i] != n->out[0]->shape.dims[i])
            return false;
    }
    return true;
}

/* `repeats` is how often each element counts in a sum. */
static bool through_reduce(const tdn_node *n, const axes *a, axes *to, int64_t *repeats)
{
    int n_axes, at = 0;
    const int64_t *list = tdn_attr_ints(&n->attrs, "axes", &n_axes);
    const char *kind = tdn_attr_string(&n->attrs, "kind", "");
    const bool keep = tdn_attr_int(&n->attrs, "keepdims", 1) != 0;
    bool reduced[TDN_MAX_RANK] = {false};
    *repeats = 1;
    for (int i = 0; i < n_axes; i++) {
        reduced[list[i]] = true;
        if (a->on[list[i]])
            *repeats *= n->in[0]->shape.dims[list[i]];
    }
    for (int i = 0; i < n->in[0]->shape.rank; i++)
        if (keep || !reduced[i])
            to->on[at++] = a->on[i] && !reduced[i];
    if (*repeats == 1 || !strcmp(kind, "mean") || !strcmp(kind, "max") || !strcmp(kind, "min")) {
        *repeats = 1;
        return true;
    }
    return !strcmp(kind, "sum") && n->in[0]->dtype == TDN_F32;
}

/* Rows and batches of the left operand; the right one may not vary along them. */
static bool through_matmul(const tdn_node *n, const axes *a, axes *to)
{
    const tdn_shape *p = &n->in[0]->shape, *q = &n->in[1]->shape, *y = &n->out[0]->shape;
    if (p->rank < 2 || q->rank < 2 || a->on[p->rank - 1])
        return false;
    for (int i = 0; i < p->rank - 1; i++) {
        const int from_end = p->rank - i;
        if (!a->on[i])
            continue;
        if (from_end > 2 && from_end <= q->rank && q->dims[q->rank - from_end] != 1)
            return false;
        to->on[y->rank - from_end] = true;
    }
    return true;
}

/* Only axes before `end` may be expanded, and they stay where they are. */
static bool through_leading(const tdn_node *n, const axes *a, axes *to, int64_t end)
{
    for (int i = 0; i < n->in[0]->shape.rank; i++) {
        if (a->on[i] && i >= end)
            return false;
        if (i < end)
            to->on[i] = a->on[i];
    }
    return true;
}

static bool through(const tdn_node *n, const axes *a, axes *to, int64_t *repeats)
{
    const tdn_attrs *attrs = &n->attrs;
    *to = (axes){{false}};
    *repeats = 1;
    switch (n->op->core) {
    case TDN_CORE_SLICE: return through_slice(n, a, to);
    case TDN_CORE_TRANSPOSE: return through_transpose(n, a, to);
    case TDN_CORE_RESHAPE: return n->in[0]->dtype == n->out[0]->dtype && through_reshape(n, a, to);
    case TDN_CORE_PAD: return through_pad(n, a, to);
    case TDN_CORE_REDUCE: return through_reduce(n, a, to, repeats);
    case TDN_CORE_MATMUL: return through_matmul(n, a, to);
    case TDN_CORE_CONV:
    case TDN_CORE_POOL: return through_leading(n, a, to, 1);
    case TDN_CORE_NORM: return through_leading(n, a, to, tdn_attr_int(attrs, "axis", 0));
    case TDN_CORE_SOFTMAX:
        for (int i = 0; i < n->out[0]->shape.rank; i++)
            to->on[i] = a->on[i];
        return !a->on[tdn_attr_int(attrs, "axis", 0)];
    default: return false;
    }
}

/* ---- The rewrites ---------------------------------------------------------------------------- */

static tdn_shape narrowed(const tdn_shape *shape, const axes *a)
{
    tdn_shape s = *shape;
    for (int i = 0; i < s.rank; i++)
        s.dims[i] = a->on[i] ? 1 : s.dims[i];
    return s;
}

static tdn_value *emit_slice(tdn_infer *io, const tdn_node *n, tdn_value *x, const axes *a)
{
    int rank, rank_steps;
    int64_t starts[TDN_MAX_RANK], steps[TDN_MAX_RANK], extents[TDN_MAX_RANK];
    const int64_t *old_starts = tdn_attr_ints(&n->attrs, "starts", &rank);
    const int64_t *old_steps = tdn_attr_ints(&n->attrs, "steps", &rank_steps);
    for (int i = 0; i < rank && i < rank_steps; i++) {
        starts[i] = a->on[i] ? 0 : old_starts[i];
        steps[i] = a->on[i] ? 1 : old_steps[i];
        extents[i] = a->on[i] ? 1 : n->out[0]->shape.dims[i];
    }
    return tdn_emit_slice(io, x, starts, steps, extents);
}

/* n on the source of its first input; its other inputs stay. */
static tdn_value *emit_narrow(tdn_infer *io, tdn_node *n, const axes *a, const axes *to,
                              int64_t repeats)
{
    tdn_value *x = leaded_source(io, n->in[0]);
    const tdn_shape shape = narrowed(&n->out[0]->shape, to);
    if (!x)
        return NULL;
    if (n->op->core == TDN_CORE_SLICE)
        return emit_slice(io, n, x, a);
    if (n->op->core == TDN_CORE_RESHAPE)
        return tdn_emit_reshape(io, x, &shape);
    tdn_value *in[TDN_EXPR_MAX_IN];
    memcpy(in, n->in, (size_t)n->n_in * sizeof *in);
    in[0] = x;
    tdn_value *y = tdn_node_copy(io->graph, n, n, in, &shape);
    if (!y)
        tdn_fail_nomem(io->error, "an operator before its expansion");
    return repeats == 1 ? y : tdn_emit_scaled(io, y, (float)repeats);
}

/* y, expanded, in the place of n's result. */
static tdn_status expand_after(tdn_infer *io, tdn_node *n, tdn_value *y)
{
    const tdn_shape wanted = n->out[0]->shape;
    if (y && !tdn_shape_equal(&y->shape, &wanted))
        y = tdn_emit_expand(io, y, &wanted);
    TDN_TRY(tdn_emit_end(io, y));
    tdn_graph_remove(io->graph, n);
    return TDN_OK;
}

static tdn_status move_past_one(tdn_infer *io, tdn_node *n)
{
    axes a, to;
    int64_t repeats;
    if (n->n_in < 1 || n->n_in > TDN_EXPR_MAX_IN || n->n_out != 1 || n->expr || !source(n->in[0]) ||
        tdn_shape_count(&n->out[0]->shape) == 0)
        return TDN_OK;
    a = expanded_axes(n->in[0]);
    if (!through(n, &a, &to, &repeats))
        return TDN_OK;
    return expand_after(io, n, emit_narrow(io, n, &a, &to, repeats));
}

/* A map broadcasts by itself: it reads the sources. What no input varies along any more is left to
 * an Expand behind it. */
static tdn_status move_past_map(tdn_infer *io, tdn_node *n)
{
    tdn_value *in[TDN_EXPR_MAX_IN];
    tdn_shape shape = {.rank = n->out[0]->shape.rank};
    bool any = false;
    if (n->n_in > TDN_EXPR_MAX_IN)
        return TDN_OK;
    for (int i = 0; i < shape.rank; i++)
        shape.dims[i] = 1;
    for (int i = 0; i < n->n_in; i++) {
        tdn_value *x = source(n->in[i]);
        in[i] = x ? x : n->in[i];
        any |= x != NULL;
        const tdn_shape *s = &in[i]->shape;
        for (int k = 0; k < s->rank; k++)
            if (s->dims[k] != 1)
                shape.dims[k + shape.rank - s->rank] = s->dims[k];
    }
    if (!any || n->out[0]->shape.bounded)
        return TDN_OK;
    if (tdn_shape_equal(&shape, &n->out[0]->shape)) {
        for (int i = 0; i < n->n_in; i++)
            tdn_node_set_input(n, i, in[i]);
        return TDN_OK;
    }
    if (n->n_out != 1)
        return TDN_OK;
    tdn_value *y = tdn_node_copy(io->graph, n, n, in, &shape);
    if (!y)
        tdn_fail_nomem(io->error, "a map before its expansion");
    return expand_after(io, n, y);
}

/* All parts expanded along the same axes, and not the one they are joined along. */
static tdn_status move_past_concat(tdn_infer *io, tdn_node *n)
{
    const int64_t axis = tdn_attr_int(&n->attrs, "axis", 0);
    axes a = {{false}};
    for (int i = 0; i < n->n_in; i++) {
        if (!source(n->in[i]))
            return TDN_OK;
        const axes own = expanded_axes(n->in[i]);
        if (own.on[axis] || (i && memcmp(&own, &a, sizeof a) != 0))
            return TDN_OK;
        a = own;
    }
    tdn_value **in = tdn_arena_alloc(io->graph->arena, (size_t)n->n_in + 1, sizeof *in);
    if (!in || n->n_in == 0)
        return in ? TDN_OK : tdn_fail_nomem(io->error, "parts");
    for (int i = 0; i < n->n_in; i++) {
        in[i] = leaded_source(io, n->in[i]);
        if (!in[i])
            return TDN_E_NOMEM;
    }
    const tdn_shape shape = narrowed(&n->out[0]->shape, &a);
    tdn_value *y = tdn_node_copy(io->graph, n, n, in, &shape);
    if (!y)
        tdn_fail_nomem(io->error, "a concatenation before its expansion");
    return expand_after(io, n, y);
}

tdn_status tdn_pass_expand_late(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        tdn_infer io = {g, n, g->opset, error};
        tdn_status status = TDN_OK;
        switch (n->op->core) {
        case TDN_CORE_NONE: continue;
        case TDN_CORE_MAP: status = move_past_map(&io, n); break;
        case TDN_CORE_CONCAT: status = move_past_concat(&io, n); break;
        case TDN_CORE_EXPAND:
            if (source(n->in[0]))
                tdn_node_set_input(n, 0, source(n->in[0]));
            break;
        default: status = move_past_one(&io, n); break;
        }
        if (status != TDN_OK)
            return tdn_fail_while(error, status, "at node '%s'", n->name);
    }
    return TDN_OK;
}
