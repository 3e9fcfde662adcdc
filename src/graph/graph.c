/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making and rewriting graphs. Values and nodes live in the graph's arena and are never freed
 * singly: a removed node is unlinked, a value that nobody reads is simply no longer reached.
 *
 * Kept at every moment: the list of nodes and its count; n_uses of each value (reads by nodes and
 * graph outputs); producer of each value; both name maps. The order of nodes is the caller's duty
 * and is checked by the verifier.
 */
#include "graph/graph.h"

#include <string.h>

#include "graph/names.h"

tdn_graph *tdn_graph_create(tdn_arena *arena, const char *name)
{
    tdn_graph *g = tdn_arena_alloc(arena, 1, sizeof *g);
    if (!g)
        return NULL;
    g->arena = arena;
    g->name = tdn_arena_strdup(arena, name ? name : "");
    g->value_names = tdn_names_create(arena);
    g->node_names = tdn_names_create(arena);
    return g->name && g->value_names && g->node_names ? g : NULL;
}

/* A copy of `name` that is not taken: with "~0", "~1", ... behind it where it is. A suffix is tried
 * once in a graph's life, so that names chosen to collide cost no quadratic search. */
static const char *unique_name(tdn_graph *g, const tdn_names *names, const char *name)
{
    if (name && name[0] && !tdn_names_find(names, name))
        return tdn_arena_strdup(g->arena, name);
    for (;;) {
        const char *tried = tdn_arena_printf(g->arena, "%s~%d", name ? name : "", g->n_suffixes++);
        if (!tried || !tdn_names_find(names, tried))
            return tried;
    }
}

/* ---- Values ---------------------------------------------------------------------------------- */

tdn_value *tdn_graph_value(tdn_graph *g, const char *name)
{
    tdn_value *v = tdn_arena_alloc(g->arena, 1, sizeof *v);
    if (!v)
        return NULL;
    v->id = g->n_values;
    v->name = unique_name(g, g->value_names, name);
    v->shape.rank = -1;
    v->output = -1;
    v->time_axis = -1;
    if (!v->name || !tdn_names_put(g->value_names, v->name, v))
        return NULL;
    g->n_values++;
    return v;
}

tdn_value *tdn_graph_find(const tdn_graph *g, const char *name)
{
    return tdn_names_find(g->value_names, name);
}

/* Makes room for one more pointer in an array that doubles at powers of two. */
static bool grow(tdn_graph *g, tdn_value ***items, int n)
{
    if (n & (n - 1))
        return true;
    tdn_value **more = tdn_arena_alloc(g->arena, n ? 2 * (size_t)n : 1, sizeof *more);
    if (!more)
        return false;
    if (n)
        memcpy(more, *items, (size_t)n * sizeof *more);
    *items = more;
    return true;
}

tdn_value *tdn_graph_add_input(tdn_graph *g, const char *name, tdn_dtype dtype,
                               const tdn_shape *shape)
{
    tdn_value *v = tdn_graph_value(g, name);
    if (!v || !grow(g, &g->inputs, g->n_inputs))
        return NULL;
    v->kind = TDN_VALUE_INPUT;
    v->dtype = dtype;
    v->shape = *shape;
    g->inputs[g->n_inputs++] = v;
    return v;
}

tdn_value *tdn_graph_const(tdn_graph *g, const char *name, tdn_dtype dtype, const tdn_shape *shape,
                           const void *data)
{
    tdn_value *v = tdn_graph_value(g, name);
    if (!v)
        return NULL;
    v->kind = TDN_VALUE_CONST;
    v->dtype = dtype;
    v->shape = *shape;
    v->data = data;
    g->const_size += tdn_dtype_size(dtype, (size_t)tdn_shape_count(shape));
    return v;
}

tdn_value *tdn_graph_const_f32(tdn_graph *g, float x)
{
    float *data = tdn_arena_alloc_data(g->arena, sizeof x);
    if (!data)
        return NULL;
    *data = x;
    return tdn_graph_const(g, NULL, TDN_F32, &(tdn_shape){.rank = 0}, data);
}

tdn_value *tdn_graph_const_ints(tdn_graph *g, const int64_t *x, int n)
{
    int64_t *data = tdn_arena_alloc_data(g->arena, (size_t)n * sizeof *x);
    if (!data)
        return NULL;
    if (n)
        memcpy(data, x, (size_t)n * sizeof *x);
    const tdn_shape shape = {.rank = 1, .dims = {n}};
    return tdn_graph_const(g, NULL, TDN_S64, &shape, data);
}

bool tdn_graph_set_output(tdn_graph *g, tdn_value *v)
{
    if (v->output >= 0 || !grow(g, &g->outputs, g->n_outputs))
        return false;
    v->output = g->n_outputs;
    v->n_uses++;
    g->outputs[g->n_outputs++] = v;
    return true;
}

/* ---- Nodes ----------------------------------------------------------------------------------- */

static tdn_value **copy_values(tdn_graph *g, tdn_value *const *values, int n)
{
    tdn_value **copy = tdn_arena_alloc(g->arena, n > 0 ? (size_t)n : 1, sizeof *copy);
    if (copy && n > 0)
        memcpy(copy, values, (size_t)n * sizeof *copy);
    return copy;
}

static void link_before(tdn_graph *g, tdn_node *node, tdn_node *before)
{
    node->next = before;
    node->prev = before ? before->prev : g->last;
    *(node->prev ? &node->prev->next : &g->first) = node;
    *(before ? &before->prev : &g->last) = node;
    g->n_nodes++;
}

tdn_node *tdn_graph_node(tdn_graph *g, tdn_node *before, const struct tdn_op_def *op,
                         const char *name, tdn_value *const *in, int n_in, tdn_value *const *out,
                         int n_out)
{
    tdn_node *node = tdn_arena_alloc(g->arena, 1, sizeof *node);
    if (!node)
        return NULL;
    node->op = op;
    node->name = node->origin = unique_name(g, g->node_names, name);
    node->in = copy_values(g, in, n_in);
    node->out = copy_values(g, out, n_out);
    if (!node->name || !node->in || !node->out || !tdn_names_put(g->node_names, node->name, node))
        return NULL;
    node->n_in = node->n_own_in = n_in;
    node->n_out = n_out;
    for (int i = 0; i < n_in; i++)
        if (in[i])
            in[i]->n_uses++;
    for (int i = 0; i < n_out; i++)
        if (out[i])
            out[i]->producer = node;
    link_before(g, node, before);
    return node;
}

/* A subgraph reads the values of its outer graphs: their counts go with the node that holds the
 * subgraph. */
static void drop_subgraph_uses(const tdn_node *node)
{
    for (int k = 0; k < node->attrs.n; k++) {
        if (node->attrs.items[k].kind != TDN_ATTR_GRAPH)
            continue;
        for (const tdn_node *inner = node->attrs.items[k].graph->first; inner;
             inner = inner->next) {
            for (int i = 0; i < inner->n_in; i++)
                if (inner->in[i])
                    inner->in[i]->n_uses--;
            drop_subgraph_uses(inner);
        }
    }
}

void tdn_graph_remove(tdn_graph *g, tdn_node *node)
{
    *(node->prev ? &node->prev->next : &g->first) = node->next;
    *(node->next ? &node->next->prev : &g->last) = node->prev;
    node->prev = node->next = NULL;
    g->n_nodes--;
    for (int i = 0; i < node->n_in; i++)
        tdn_node_set_input(node, i, NULL);
    drop_subgraph_uses(node);
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i])
            node->out[i]->producer = NULL;
}

void tdn_node_set_input(tdn_node *node, int i, tdn_value *v)
{
    if (v)
        v->n_uses++;
    if (node->in[i])
        node->in[i]->n_uses--;
    node->in[i] = v;
}

bool tdn_node_append_input(tdn_graph *g, tdn_node *node, tdn_value *v)
{
    tdn_value **more = tdn_arena_alloc(g->arena, (size_t)node->n_in + 1, sizeof *more);
    if (!more)
        return false;
    memcpy(more, node->in, (size_t)node->n_in * sizeof *more);
    node->in = more;
    node->in[node->n_in++] = NULL;
    tdn_node_set_input(node, node->n_in - 1, v);
    return true;
}

/* ---- Rewriting ------------------------------------------------------------------------------- */

static int n_reads(const tdn_node *node, const tdn_value *v)
{
    int n = 0;
    for (int i = 0; node && i < node->n_in; i++)
        n += node->in[i] == v;
    return n;
}

/* From `node` on, until no read is left. */
static void replace_reads(tdn_node *node, const tdn_value *from, tdn_value *to, int *left)
{
    for (; node && *left > 0; node = node->next) {
        if (node == to->producer)
            continue;
        for (int i = 0; i < node->n_in; i++)
            if (node->in[i] == from) {
                tdn_node_set_input(node, i, to);
                --*left;
            }
        for (int k = 0; k < node->attrs.n; k++)
            if (node->attrs.items[k].kind == TDN_ATTR_GRAPH)
                replace_reads(node->attrs.items[k].graph->first, from, to, left);
    }
}

static void swap_names(tdn_graph *g, tdn_value *a, tdn_value *b)
{
    const char *name = a->name;
    a->name = b->name;
    b->name = name;
    /* Both names are in the map, so that storing needs no memory and cannot fail. */
    tdn_names_put(g->value_names, a->name, a);
    tdn_names_put(g->value_names, b->name, b);
}

void tdn_graph_replace(tdn_graph *g, tdn_value *from, tdn_value *to)
{
    if (from == to)
        return;
    /* Readers stand behind the producer, near it as a rule: a look at all nodes for each value
     * would be quadratic. */
    int left = from->n_uses - (from->output >= 0) - n_reads(to->producer, from);
    if (from->producer)
        replace_reads(from->producer, from, to, &left);
    replace_reads(g->first, from, to, &left);
    const bool moves = from->output >= 0 && to->output < 0 && to->kind == TDN_VALUE_NODE;
    if (moves) {
        g->outputs[from->output] = to;
        for (int i = 0; i < g->n_states; i++)
            if (g->states[i].output == from)
                g->states[i].output = to;
        to->output = from->output;
        from->output = -1;
        to->n_uses++;
        from->n_uses--;
    }
    if (moves || (from->output < 0 && from->kind == TDN_VALUE_NODE && to->name[0] == '~'))
        swap_names(g, from, to);
}

bool tdn_node_has_subgraph(const tdn_node *node)
{
    for (int i = 0; i < node->attrs.n; i++)
        if (node->attrs.items[i].kind == TDN_ATTR_GRAPH)
            return true;
    return false;
}

bool tdn_graph_has_subgraph(const tdn_graph *g)
{
    for (const tdn_node *n = g->first; n; n = n->next)
        if (tdn_node_has_subgraph(n))
            return true;
    return false;
}

tdn_node *tdn_value_only_user(const tdn_graph *g, const tdn_value *v)
{
    if (v->output >= 0 || v->n_uses == 0)
        return NULL;
    for (tdn_node *node = g->first; node; node = node->next) {
        int n = 0;
        for (int i = 0; i < node->n_in; i++)
            n += node->in[i] == v;
        if (n)
            return n == v->n_uses ? node : NULL;
    }
    return NULL;
}

/* ---- Attributes ------------------------------------------------------------------------------ */

bool tdn_node_set_attr(tdn_graph *g, tdn_node *node, const tdn_attr *attr)
{
    const int32_t n = node->attrs.n;
    tdn_attr *items = tdn_arena_alloc(g->arena, (size_t)n + 1, sizeof *items);
    if (!items)
        return false;
    if (n)
        memcpy(items, node->attrs.items, (size_t)n * sizeof *items);
    int32_t at = 0;
    while (at < n && strcmp(items[at].name, attr->name) != 0)
        at++;
    items[at] = *attr;
    node->attrs = (tdn_attrs){items, at < n ? n : n + 1};
    return true;
}

bool tdn_node_set_int(tdn_graph *g, tdn_node *node, const char *name, int64_t i)
{
    const tdn_attr attr = {.name = tdn_arena_strdup(g->arena, name), .kind = TDN_ATTR_INT, .i = i};
    return attr.name && tdn_node_set_attr(g, node, &attr);
}

bool tdn_node_set_ints(tdn_graph *g, tdn_node *node, const char *name, const int64_t *v, int n)
{
    int64_t *copy = tdn_arena_alloc(g->arena, n > 0 ? (size_t)n : 1, sizeof *copy);
    const tdn_attr attr = {
        .name = tdn_arena_strdup(g->arena, name), .kind = TDN_ATTR_INTS, .n = n, .ints = copy};
    if (!copy || !attr.name)
        return false;
    if (n > 0)
        memcpy(copy, v, (size_t)n * sizeof *copy);
    return tdn_node_set_attr(g, node, &attr);
}

bool tdn_node_set_string(tdn_graph *g, tdn_node *node, const char *name, const char *s)
{
    const tdn_attr attr = {
        .name = tdn_arena_strdup(g->arena, name),
        .kind = TDN_ATTR_STRING,
        .n = (int32_t)strlen(s),
        .s = tdn_arena_strdup(g->arena, s),
    };
    return attr.name && attr.s && tdn_node_set_attr(g, node, &attr);
}

/* ---- Shapes ---------------------------------------------------------------------------------- */

bool tdn_shape_fits(const tdn_shape *shape)
{
    int64_t product = 1;
    if (shape->rank < 0 || shape->rank > TDN_MAX_RANK)
        return false;
    for (int i = 0; i < shape->rank; i++) {
        const int64_t d = shape->dims[i];
        if (d < 0 || d > TDN_MAX_EXTENT || (d > 0 && product > TDN_MAX_ELEMENTS / d))
            return false;
        product *= d ? d : 1;
    }
    return true;
}

int64_t tdn_shape_count(const tdn_shape *shape)
{
    int64_t count = 1;
    for (int i = 0; i < shape->rank; i++)
        count *= shape->dims[i];
    return count;
}

bool tdn_shape_equal(const tdn_shape *a, const tdn_shape *b)
{
    if (a->rank != b->rank || a->bounded != b->bounded)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dims[i] != b->dims[i])
            return false;
    return true;
}

bool tdn_shape_group(const tdn_shape *x, const tdn_shape *y, int *i, int *k)
{
    int64_t left = *i < x->rank ? x->dims[(*i)++] : 1;
    int64_t right = *k < y->rank ? y->dims[(*k)++] : 1;
    while (left != right) {
        if (left < right ? *i == x->rank : *k == y->rank)
            return false;
        if (left < right)
            left *= x->dims[(*i)++];
        else
            right *= y->dims[(*k)++];
    }
    return true;
}

tdn_shape tdn_shape_make(int rank, const int64_t *dims)
{
    tdn_shape shape = {.rank = rank};
    for (int i = 0; i < rank && i < TDN_MAX_RANK; i++)
        shape.dims[i] = dims[i];
    return shape;
}

tdn_view tdn_value_view(const tdn_value *v)
{
    return tdn_view_make((void *)(uintptr_t)v->data, v->dtype, v->shape.rank, v->shape.dims);
}
