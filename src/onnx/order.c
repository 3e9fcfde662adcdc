/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The order of nodes. ONNX asks for sorted nodes and single producers, and files break both; every
 * name must be made once, and nodes in another order are sorted here. A node reads what its inputs
 * name and what the graphs inside of it read from outside.
 *
 * The sort is a depth-first walk that takes nodes as they come, so that a file that is sorted keeps
 * its order. It has a stack of its own: a chain may be as long as the file.
 */
#include "onnx/model.h"

typedef struct sorter {
    tdn_onnx *model;
    const onnx_body *body;
    tdn_names *makers; /* name -> onnx_node of this body, or &outside for inputs and initializers */
    int32_t *first;    /* of node i: its reads are deps[first[i]] .. deps[first[i + 1]] */
    int32_t *deps;
    int32_t n_deps;
    tdn_error *error;
} sorter;

static const char outside;

static tdn_status nomem(tdn_error *error) { return tdn_fail_nomem(error, "the order of nodes"); }

static tdn_status add_maker(sorter *s, const char *name, const void *maker)
{
    if (tdn_names_find(s->makers, name))
        return tdn_fail(s->error, TDN_E_MODEL, "'%s' is made twice", name);
    return tdn_names_put(s->makers, name, (void *)(uintptr_t)maker) ? TDN_OK : nomem(s->error);
}

static tdn_status add_nodes(sorter *s)
{
    for (int32_t i = 0; i < s->body->n_nodes; i++) {
        const onnx_node *node = &s->body->nodes[i];
        for (int32_t k = 0; k < node->n_out; k++) {
            const tdn_status status = node->out[k][0] ? add_maker(s, node->out[k], node) : TDN_OK;
            if (status != TDN_OK)
                return tdn_fail_while(s->error, status, "reading node %d '%s' (%s)", i, node->name,
                                      node->op);
        }
    }
    return TDN_OK;
}

/* ---- What each node reads -------------------------------------------------------------------- */

static bool add_read(sorter *s, const char *name)
{
    const void *maker = name[0] ? tdn_names_find(s->makers, name) : NULL;
    if (!maker || maker == &outside)
        return true;
    int32_t *deps = tdn_onnx_grow(s->model->arena, s->deps, s->n_deps, sizeof *deps);
    if (!deps)
        return false;
    s->deps = deps;
    s->deps[s->n_deps++] = (int32_t)((const onnx_node *)maker - s->body->nodes);
    return true;
}

static bool add_reads(sorter *s, const onnx_node *node)
{
    for (int32_t k = 0; k < node->n_in; k++)
        if (!add_read(s, node->in[k]))
            return false;
    for (int32_t a = 0; a < node->n_attrs; a++) {
        const onnx_graph *inner = node->attrs[a].graph;
        if (!inner)
            continue;
        for (int32_t i = 0; i < inner->body.n_nodes; i++)
            if (!add_reads(s, &inner->body.nodes[i]))
                return false;
        for (int32_t i = 0; i < inner->n_outputs; i++)
            if (!add_read(s, inner->outputs[i].name))
                return false;
    }
    return true;
}

static bool find_reads(sorter *s)
{
    const int32_t n = s->body->n_nodes;
    s->first = tdn_arena_alloc(s->model->arena, (size_t)n + 1, sizeof *s->first);
    if (!s->first)
        return false;
    for (int32_t i = 0; i < n; i++) {
        s->first[i] = s->n_deps;
        if (!add_reads(s, &s->body->nodes[i]))
            return false;
    }
    s->first[n] = s->n_deps;
    return true;
}

/* ---- The walk -------------------------------------------------------------------------------- */

enum { FRESH, OPEN, DONE };

typedef struct visit {
    int32_t node, next; /* the next of its reads to look at */
} visit;

static tdn_status sort_from(const sorter *s, int32_t start, visit *stack, uint8_t *colour,
                            int32_t *order, int32_t *n)
{
    int32_t depth = 0;
    stack[depth++] = (visit){start, s->first[start]};
    colour[start] = OPEN;
    while (depth > 0) {
        visit *v = &stack[depth - 1];
        if (v->next == s->first[v->node + 1]) {
            colour[v->node] = DONE;
            order[(*n)++] = v->node;
            depth--;
            continue;
        }
        const int32_t dep = s->deps[v->next++];
        if (colour[dep] == OPEN)
            return tdn_fail(s->error, TDN_E_MODEL,
                            "node %d '%s' (%s) reads its own result, through a cycle", dep,
                            s->body->nodes[dep].name, s->body->nodes[dep].op);
        if (colour[dep] == FRESH) {
            colour[dep] = OPEN;
            stack[depth++] = (visit){dep, s->first[dep]};
        }
    }
    return TDN_OK;
}

static tdn_status sort(sorter *s, int32_t **out)
{
    const size_t n = (size_t)s->body->n_nodes;
    int32_t *order = tdn_arena_alloc(s->model->arena, n + 1, sizeof *order), n_sorted = 0;
    visit *stack = tdn_arena_alloc(s->model->arena, n + 1, sizeof *stack);
    uint8_t *colour = tdn_arena_alloc(s->model->arena, n + 1, sizeof *colour);
    if (!order || !stack || !colour || !find_reads(s))
        return nomem(s->error);
    for (int32_t i = 0; i < s->body->n_nodes; i++)
        if (colour[i] == FRESH)
            TDN_TRY(sort_from(s, i, stack, colour, order, &n_sorted));
    *out = order;
    return TDN_OK;
}

static tdn_status order_inner(tdn_onnx *model, const onnx_body *body, tdn_error *error)
{
    for (int32_t i = 0; i < body->n_nodes; i++) {
        const onnx_node *node = &body->nodes[i];
        for (int32_t a = 0; a < node->n_attrs; a++) {
            if (!node->attrs[a].graph)
                continue;
            const tdn_status status = tdn_onnx_order_graph(model, node->attrs[a].graph, error);
            if (status != TDN_OK)
                return tdn_fail_while(error, status, "reading '%s' of node %d '%s' (%s)",
                                      node->attrs[a].name, i, node->name, node->op);
        }
    }
    return TDN_OK;
}

/* ---- Graphs and functions -------------------------------------------------------------------- */

/* The initializers by name. That one is an input too is no contradiction: it is the input's
 * default. */
static tdn_status add_initializers(sorter *s, onnx_graph *g)
{
    g->initializer_names = tdn_names_create(s->model->arena);
    g->sparse_names = tdn_names_create(s->model->arena);
    if (!g->initializer_names || !g->sparse_names)
        return nomem(s->error);
    for (int32_t i = 0; i < g->n_initializers + g->n_sparse; i++) {
        const bool is_sparse = i >= g->n_initializers;
        void *item =
            is_sparse ? (void *)&g->sparse[i - g->n_initializers] : (void *)&g->initializers[i];
        const char *name =
            is_sparse ? g->sparse[i - g->n_initializers].values.name : g->initializers[i].name;
        if (!name[0])
            return tdn_fail(s->error, TDN_E_MODEL, "initializer %d has no name", i);
        TDN_TRY(add_maker(s, name, &outside));
        if (!tdn_names_put(is_sparse ? g->sparse_names : g->initializer_names, name, item))
            return nomem(s->error);
    }
    return TDN_OK;
}

static tdn_status add_inputs(sorter *s, const onnx_graph *g)
{
    tdn_names *seen = tdn_names_create(s->model->arena);
    if (!seen)
        return nomem(s->error);
    for (int32_t i = 0; i < g->n_inputs; i++) {
        const char *name = g->inputs[i].name;
        if (!name[0])
            return tdn_fail(s->error, TDN_E_MODEL, "input %d has no name", i);
        if (tdn_names_find(seen, name))
            return tdn_fail(s->error, TDN_E_MODEL, "two inputs are named '%s'", name);
        if (!tdn_names_put(seen, name, (void *)(uintptr_t)name))
            return nomem(s->error);
        if (!tdn_names_find(g->initializer_names, name) && !tdn_names_find(g->sparse_names, name))
            TDN_TRY(add_maker(s, name, &outside));
    }
    return TDN_OK;
}

static tdn_status check_outputs(const sorter *s, const onnx_graph *g)
{
    tdn_names *seen = tdn_names_create(s->model->arena);
    if (!seen)
        return nomem(s->error);
    for (int32_t i = 0; i < g->n_outputs; i++) {
        const char *name = g->outputs[i].name;
        if (!name[0])
            return tdn_fail(s->error, TDN_E_MODEL, "output %d has no name", i);
        if (tdn_names_find(seen, name))
            return tdn_fail(s->error, TDN_E_MODEL, "two outputs are named '%s'", name);
        if (!tdn_names_put(seen, name, (void *)(uintptr_t)name))
            return nomem(s->error);
    }
    return TDN_OK;
}

tdn_status tdn_onnx_order_graph(tdn_onnx *model, onnx_graph *g, tdn_error *error)
{
    sorter s = {
        .model = model, .body = &g->body, .makers = tdn_names_create(model->arena), .error = error};
    if (!s.makers)
        return nomem(error);
    TDN_TRY(add_initializers(&s, g));
    TDN_TRY(add_inputs(&s, g));
    TDN_TRY(check_outputs(&s, g));
    TDN_TRY(add_nodes(&s));
    TDN_TRY(sort(&s, &g->body.order));
    return order_inner(model, &g->body, error);
}

tdn_status tdn_onnx_order_function(tdn_onnx *model, onnx_function *fn, tdn_error *error)
{
    sorter s = {.model = model,
                .body = &fn->body,
                .makers = tdn_names_create(model->arena),
                .error = error};
    if (!s.makers)
        return nomem(error);
    for (int32_t i = 0; i < fn->n_in; i++)
        TDN_TRY(add_maker(&s, fn->in[i], &outside));
    TDN_TRY(add_nodes(&s));
    TDN_TRY(sort(&s, &fn->body.order));
    return order_inner(model, &fn->body, error);
}
