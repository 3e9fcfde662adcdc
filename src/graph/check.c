/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verifier: how a pass is judged.
 *
 * It walks inputs, nodes and outputs once, notes which values have been made so far, counts every
 * read anew and compares with n_uses. Its notes are in memory of its own, so the graph and its
 * arena stay as they were.
 */
#include <string.h>

#include "base/status.h"
#include "graph/graph.h"
#include "graph/names.h"

typedef struct note {
    const tdn_value *value; /* made (input, constant met, or output of a node passed) */
    int32_t n_reads;
} note;

typedef struct check {
    const tdn_graph *g;
    note *notes; /* by value id */
    tdn_error *error;
} check;

#define BROKEN(c, ...) tdn_fail((c)->error, TDN_E_INTERNAL, __VA_ARGS__)

static tdn_status check_value(const check *c, const tdn_value *v)
{
    if (v->id < 0 || v->id >= c->g->n_values)
        return BROKEN(c, "value '%s' has id %d of %d", v->name, v->id, c->g->n_values);
    if (tdn_graph_find(c->g, v->name) != v)
        return BROKEN(c, "value '%s' is not the one of that name", v->name);
    if (v->shape.rank < -1 || v->shape.rank > TDN_MAX_RANK)
        return BROKEN(c, "value '%s' has rank %d", v->name, v->shape.rank);
    if (v->shape.rank >= 0 && !tdn_shape_fits(&v->shape))
        return BROKEN(c, "value '%s' has a shape that is too large", v->name);
    if (c->g->has_shapes && (v->shape.rank < 0 || v->dtype == TDN_DTYPE_NONE))
        return BROKEN(c, "value '%s' has no shape", v->name);
    if ((v->kind == TDN_VALUE_NODE) != (v->producer != NULL))
        return BROKEN(c, "value '%s' has %s producer", v->name, v->producer ? "a" : "no");
    if (v->kind == TDN_VALUE_CONST && !v->data && tdn_shape_count(&v->shape) != 0)
        return BROKEN(c, "constant '%s' has no data", v->name);
    return TDN_OK;
}

static tdn_status check_made(check *c, const tdn_value *v)
{
    TDN_TRY(check_value(c, v));
    if (c->notes[v->id].value)
        return BROKEN(c, "value '%s' is made twice", v->name);
    c->notes[v->id].value = v;
    return TDN_OK;
}

/* Is v of this graph? A subgraph reads values of its outer graphs too. */
static bool is_own(const check *c, const tdn_value *v)
{
    return tdn_graph_find(c->g, v->name) == v;
}

static tdn_status check_read(check *c, const tdn_value *v, const char *reader)
{
    if (!is_own(c, v) && c->g->outer)
        return TDN_OK;
    TDN_TRY(check_value(c, v));
    if (v->kind == TDN_VALUE_CONST)
        c->notes[v->id].value = v;
    if (c->notes[v->id].value != v)
        return BROKEN(c, "'%s' reads '%s' before it is made", reader, v->name);
    c->notes[v->id].n_reads++;
    return TDN_OK;
}

/* Reads of this graph's values by the subgraphs that a node holds. */
static tdn_status check_subgraphs(check *c, const tdn_node *node)
{
    for (int k = 0; k < node->attrs.n; k++) {
        if (node->attrs.items[k].kind != TDN_ATTR_GRAPH)
            continue;
        for (const tdn_node *inner = node->attrs.items[k].graph->first; inner;
             inner = inner->next) {
            for (int i = 0; i < inner->n_in; i++)
                if (inner->in[i] && is_own(c, inner->in[i]))
                    TDN_TRY(check_read(c, inner->in[i], inner->name));
            TDN_TRY(check_subgraphs(c, inner));
        }
    }
    return TDN_OK;
}

static tdn_status check_node(check *c, const tdn_node *node)
{
    if (!node->op)
        return BROKEN(c, "node '%s' has no operator", node->name);
    if (tdn_names_find(c->g->node_names, node->name) != node)
        return BROKEN(c, "node '%s' is not the one of that name", node->name);
    if (node->n_own_in < 0 || node->n_own_in > node->n_in)
        return BROKEN(c, "node '%s' has %d of %d inputs as its own", node->name, node->n_own_in,
                      node->n_in);
    if (node->next && node->next->prev != node)
        return BROKEN(c, "the list is broken behind node '%s'", node->name);
    for (int i = 0; i < node->n_in; i++)
        if (node->in[i])
            TDN_TRY(check_read(c, node->in[i], node->name));
    TDN_TRY(check_subgraphs(c, node));
    for (int i = 0; i < node->n_out; i++) {
        if (!node->out[i])
            continue;
        TDN_TRY(check_made(c, node->out[i]));
        if (node->out[i]->producer != node || node->out[i]->kind != TDN_VALUE_NODE)
            return BROKEN(c, "output '%s' of node '%s' has another producer", node->out[i]->name,
                          node->name);
    }
    return TDN_OK;
}

static tdn_status check_outputs(check *c)
{
    for (int i = 0; i < c->g->n_outputs; i++) {
        const tdn_value *v = c->g->outputs[i];
        TDN_TRY(check_read(c, v, "the graph's output"));
        if (!is_own(c, v))
            continue;
        if (v->output != i)
            return BROKEN(c, "output %d '%s' believes to be output %d", i, v->name, v->output);
        if (v->kind != TDN_VALUE_NODE)
            return BROKEN(c, "output '%s' has no producer", v->name);
    }
    return TDN_OK;
}

static tdn_status check_graph(check *c)
{
    for (int i = 0; i < c->g->n_inputs; i++)
        TDN_TRY(check_made(c, c->g->inputs[i]));
    int n_nodes = 0;
    for (const tdn_node *node = c->g->first; node; node = node->next, n_nodes++)
        TDN_TRY(check_node(c, node));
    if (n_nodes != c->g->n_nodes)
        return BROKEN(c, "the graph has %d nodes, not %d", n_nodes, c->g->n_nodes);
    TDN_TRY(check_outputs(c));
    for (int i = 0; i < c->g->n_states; i++)
        TDN_TRY(check_value(c, c->g->states[i].input));
    for (int id = 0; id < c->g->n_values; id++) {
        const tdn_value *v = c->notes[id].value;
        if (v && v->n_uses != c->notes[id].n_reads)
            return BROKEN(c, "value '%s' counts %d uses, but has %d", v->name, v->n_uses,
                          c->notes[id].n_reads);
    }
    return TDN_OK;
}

tdn_status tdn_graph_verify(const tdn_graph *g, tdn_error *error)
{
    check c = {.g = g, .error = error};
    c.notes = tdn_alloc_zero(NULL, ((size_t)g->n_values + 1) * sizeof *c.notes, TDN_ALIGN);
    if (!c.notes)
        return tdn_fail_nomem(error, "the verifier");
    const tdn_status status = check_graph(&c);
    tdn_free(NULL, c.notes);
    return status;
}
