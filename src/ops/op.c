/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What shape rules and decompositions are written with: checks of inputs and axes that fail in
 * words, broadcasting, and the insertion of new nodes. Every extent that a model can choose passes
 * tdn_infer_set, which bounds the count of elements, so that later arithmetic on sizes cannot
 * overflow.
 */
#include "ops/op.h"

#include <limits.h>
#include <stddef.h>
#include <string.h>

#include "base/status.h"

_Static_assert(offsetof(tdn_op_def, name) == 0, "tdn_node_op_name reads the first field");

const tdn_ref_def *tdn_op_reference(const tdn_op_def *op)
{
    return op->custom ? &op->custom->ref : tdn_ref_find(op->reference ? op->reference : op->name);
}

int64_t tdn_flops_none(const tdn_node *node)
{
    (void)node;
    return 0;
}

bool tdn_node_moves_elements(const tdn_node *node)
{
    switch (node->op->core) {
    case TDN_CORE_TRANSPOSE:
    case TDN_CORE_RESHAPE:
    case TDN_CORE_SLICE: return true;
    case TDN_CORE_POOL: return !strcmp(tdn_attr_string(&node->attrs, "kind", ""), "max");
    default: return false;
    }
}

int64_t tdn_node_flops(const tdn_node *node)
{
    if (node->op->flops)
        return node->op->flops(node);
    int64_t n = 0;
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i] && node->out[i]->shape.rank >= 0)
            n += tdn_shape_count(&node->out[i]->shape);
    return n;
}

/* ---- Shape rules ----------------------------------------------------------------------------- */

tdn_status tdn_infer_set(tdn_infer *io, int out, tdn_dtype dtype, const tdn_shape *shape)
{
    char text[192];
    if (shape->rank < 0 || shape->rank > TDN_MAX_RANK)
        return tdn_fail(io->error, TDN_E_UNSUPPORTED,
                        "output %d has rank %d; at most %d is supported", out, shape->rank,
                        TDN_MAX_RANK);
    for (int i = 0; i < shape->rank; i++)
        if (shape->dims[i] < 0)
            return tdn_fail(io->error, TDN_E_MODEL, "output %d has extent %lld on axis %d", out,
                            (long long)shape->dims[i], i);
    if (!tdn_shape_fits(shape))
        return tdn_fail(io->error, TDN_E_MODEL, "output %d of shape %s is too large", out,
                        tdn_shape_print(shape, text, sizeof text));
    tdn_value *v = tdn_out(io->node, out);
    if (v) {
        v->dtype = dtype;
        v->shape = *shape;
    }
    return TDN_OK;
}

/* A constant with data, or words that it is not there or not one. */
static tdn_status constant_input(tdn_infer *io, int input, const tdn_value **v)
{
    *v = tdn_in(io->node, input);
    if (!*v)
        return tdn_fail(io->error, TDN_E_MODEL, "input %d is missing", input);
    if ((*v)->kind != TDN_VALUE_CONST)
        return tdn_fail(io->error, TDN_E_UNSUPPORTED, "input %d '%s' must be a constant", input,
                        (*v)->name);
    if ((*v)->dtype == TDN_STRING)
        return tdn_fail(io->error, TDN_E_MODEL, "input %d '%s' must be numbers", input, (*v)->name);
    return TDN_OK;
}

tdn_status tdn_infer_ints(tdn_infer *io, int input, int64_t *v, int max, int *n)
{
    *n = 0;
    if (!tdn_in(io->node, input))
        return TDN_OK;
    const tdn_value *c;
    TDN_TRY(constant_input(io, input, &c));
    const int64_t count = tdn_shape_count(&c->shape);
    if (c->dtype != TDN_S64 && c->dtype != TDN_S32)
        return tdn_fail(io->error, TDN_E_MODEL, "input %d '%s' is %s; it must be int64 or int32",
                        input, c->name, tdn_dtype_name(c->dtype));
    if (c->shape.rank > 1 || count > max)
        return tdn_fail(io->error, TDN_E_MODEL,
                        "input %d '%s' has %lld elements in %d dimensions; at most %d in one fit",
                        input, c->name, (long long)count, c->shape.rank, max);
    const tdn_view view = tdn_value_view(c);
    for (int64_t i = 0; i < count; i++)
        v[i] = tdn_view_get_int(&view, i);
    *n = (int)count;
    return TDN_OK;
}

tdn_status tdn_infer_scalar(tdn_infer *io, int input, double absent, double *x)
{
    *x = absent;
    if (!tdn_in(io->node, input))
        return TDN_OK;
    const tdn_value *c;
    TDN_TRY(constant_input(io, input, &c));
    if (tdn_shape_count(&c->shape) != 1)
        return tdn_fail(io->error, TDN_E_MODEL,
                        "input %d '%s' has %lld elements; it must be a scalar", input, c->name,
                        (long long)tdn_shape_count(&c->shape));
    const tdn_view view = tdn_value_view(c);
    *x = tdn_view_get(&view, 0);
    return TDN_OK;
}

tdn_status tdn_infer_axis(tdn_infer *io, int64_t axis, int rank, int *out)
{
    if (axis < -(int64_t)rank || axis >= rank)
        return tdn_fail(io->error, TDN_E_MODEL, "axis %lld outside rank %d", (long long)axis, rank);
    *out = (int)(axis < 0 ? axis + rank : axis);
    return TDN_OK;
}

tdn_status tdn_infer_broadcast(tdn_infer *io, const tdn_shape *a, const tdn_shape *b,
                               tdn_shape *out)
{
    tdn_shape result = {.rank = a->rank > b->rank ? a->rank : b->rank};
    for (int i = 0; i < result.rank; i++) {
        const int ia = i - (result.rank - a->rank), ib = i - (result.rank - b->rank);
        const int64_t da = ia < 0 ? 1 : a->dims[ia], db = ib < 0 ? 1 : b->dims[ib];
        if (da != db && da != 1 && db != 1) {
            char ta[192], tb[192];
            return tdn_fail(io->error, TDN_E_MODEL, "shapes %s and %s do not broadcast",
                            tdn_shape_print(a, ta, sizeof ta), tdn_shape_print(b, tb, sizeof tb));
        }
        result.dims[i] = da == 1 ? db : da;
        const bool bounded = (ia >= 0 && a->bounded >> ia & 1) || (ib >= 0 && b->bounded >> ib & 1);
        result.bounded |= (uint32_t)bounded << i;
    }
    *out = result;
    return TDN_OK;
}

tdn_status tdn_infer_dtype(tdn_infer *io, int input, const tdn_dtype *allowed)
{
    const tdn_value *v = tdn_in(io->node, input);
    if (!v)
        return tdn_fail(io->error, TDN_E_MODEL, "input %d is missing", input);
    for (const tdn_dtype *d = allowed; *d != TDN_DTYPE_NONE; d++)
        if (*d == v->dtype)
            return TDN_OK;
    return tdn_fail(io->error, TDN_E_UNSUPPORTED, "input %d '%s' of type %s is not supported",
                    input, v->name, tdn_dtype_name(v->dtype));
}

tdn_status tdn_infer_same(tdn_infer *io)
{
    const tdn_value *x = tdn_in(io->node, 0);
    if (!x)
        return tdn_fail(io->error, TDN_E_MODEL, "input 0 is missing");
    return tdn_infer_set(io, 0, x->dtype, &x->shape);
}

tdn_status tdn_infer_broadcast_all(tdn_infer *io)
{
    tdn_shape shape = {.rank = 0};
    for (int i = 0; i < io->node->n_in; i++) {
        if (!io->node->in[i])
            return tdn_fail(io->error, TDN_E_MODEL, "input %d is missing", i);
        TDN_TRY(tdn_infer_broadcast(io, &shape, &io->node->in[i]->shape, &shape));
    }
    if (io->node->n_in == 0)
        return tdn_fail(io->error, TDN_E_MODEL, "there are no inputs");
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &shape);
}

/* ---- Decompositions -------------------------------------------------------------------------- */

static tdn_value *no_value(tdn_infer *io)
{
    tdn_fail_nomem(io->error, "a rewritten node");
    return NULL;
}

/* Attributes with their texts and arrays copied into the graph: the caller's may be
 * on its stack. */
static bool copy_attr(tdn_graph *g, tdn_node *node, const tdn_attr *a)
{
    switch (a->kind) {
    case TDN_ATTR_INT: return tdn_node_set_int(g, node, a->name, a->i);
    case TDN_ATTR_INTS: return tdn_node_set_ints(g, node, a->name, a->ints, a->n);
    case TDN_ATTR_STRING: return tdn_node_set_string(g, node, a->name, a->s);
    case TDN_ATTR_FLOATS: {
        float *floats = tdn_arena_alloc(g->arena, (size_t)a->n + 1, sizeof *floats);
        tdn_attr copy = *a;
        copy.floats = floats;
        if (floats && a->n)
            memcpy(floats, a->floats, (size_t)a->n * sizeof *floats);
        return floats && tdn_node_set_attr(g, node, &copy);
    }
    default: return tdn_node_set_attr(g, node, a);
    }
}

static tdn_value *emit(tdn_infer *io, const tdn_op_def *op, tdn_value *const *in, int n_in,
                       const tdn_attr *attrs, int n_attrs, const tdn_expr *expr, tdn_dtype dtype)
{
    tdn_graph *g = io->graph;
    tdn_value *out = tdn_graph_value(g, NULL);
    const char *name = tdn_arena_printf(g->arena, "%s/%s", io->node->name, op->name);
    tdn_node *node = out && name ? tdn_graph_node(g, io->node, op, name, in, n_in, &out, 1) : NULL;
    if (!node)
        return no_value(io);
    node->origin = io->node->origin;
    for (int i = 0; i < n_attrs; i++)
        if (!copy_attr(g, node, &attrs[i]))
            return no_value(io);
    if (expr) {
        node->expr = tdn_arena_alloc(g->arena, 1, sizeof *expr);
        if (!node->expr)
            return no_value(io);
        *node->expr = *expr;
    }
    out->dtype = dtype; /* a rule that has no other source for it keeps this */
    const tdn_status status = tdn_node_infer(g, node, io->error);
    if (status == TDN_OK)
        return out;
    tdn_fail_while(io->error, status, "rewriting it with %s", op->name);
    return NULL;
}

tdn_value *tdn_emit(tdn_infer *io, const char *domain, const char *op, tdn_value *const *in,
                    int n_in, const tdn_attr *attrs, int n_attrs)
{
    const tdn_op_def *row = tdn_op_find(domain, op, INT_MAX);
    if (!row) {
        tdn_fail(io->error, TDN_E_INTERNAL, "there is no operator '%s' in domain '%s'", op, domain);
        return NULL;
    }
    return emit(io, row, in, n_in, attrs, n_attrs, NULL, TDN_DTYPE_NONE);
}

tdn_value *tdn_emit_map(tdn_infer *io, tdn_value *const *in, int n_in, const tdn_expr *expr,
                        tdn_dtype dtype)
{
    const tdn_op_def *row = tdn_op_find("tendon", "Map", INT_MAX);
    if (!row) {
        tdn_fail(io->error, TDN_E_INTERNAL, "there is no operator 'Map'");
        return NULL;
    }
    return emit(io, row, in, n_in, NULL, 0, expr, dtype);
}

/* `from` becomes the constant that `v` is, so that whoever holds `from` sees it. */
static void become_constant(tdn_node *node, int out, tdn_value *from, const tdn_value *v)
{
    node->out[out] = NULL;
    from->producer = NULL;
    from->kind = TDN_VALUE_CONST;
    from->dtype = v->dtype;
    from->shape = v->shape;
    from->data = v->data;
    from->quant = v->quant;
}

/* The output's value stays, made by a copy of v: a graph output has a node of its own, even where v
 * is a constant (the copy is not inferred here, or it would fold). */
static void make_by_copy(tdn_infer *io, int out, tdn_value *v)
{
    tdn_graph *g = io->graph;
    tdn_value *to = io->node->out[out];
    const tdn_op_def *op = tdn_op_find("", "Identity", INT_MAX);
    const char *name = tdn_arena_printf(g->arena, "%s/Identity", io->node->name);
    tdn_node *node = op && name ? tdn_graph_node(g, io->node, op, name, &v, 1, &to, 1) : NULL;
    if (!node)
        return; /* the old node still makes the output */
    node->origin = io->node->origin;
    io->node->out[out] = NULL;
}

void tdn_emit_replace(tdn_infer *io, int out, tdn_value *v)
{
    tdn_value *from = tdn_out(io->node, out);
    if (!from || from == v || !v)
        return;
    if (v->kind == TDN_VALUE_CONST && from->output < 0) {
        become_constant(io->node, out, from, v);
        return;
    }
    if (from->output >= 0 && (v->kind != TDN_VALUE_NODE || v->output >= 0))
        make_by_copy(io, out, v);
    else
        tdn_graph_replace(io->graph, from, v);
}
