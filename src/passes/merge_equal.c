/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Common subexpressions: two nodes with the same operator, attributes, expression and inputs are
 * one. Constants count as equal when their bytes are. Nodes are found through a hash table that
 * chains by `mark`, so the pass is linear.
 */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "passes/passes.h"

static uint64_t mix(uint64_t h, const void *data, size_t size)
{
    const uint8_t *p = data;
    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 0x100000001b3u; /* FNV-1a */
    return h;
}

static bool attr_equal(const tdn_attr *a, const tdn_attr *b)
{
    if (a->kind != b->kind || a->n != b->n || strcmp(a->name, b->name))
        return false;
    switch (a->kind) {
    case TDN_ATTR_INT: return a->i == b->i;
    case TDN_ATTR_FLOAT: return !memcmp(&a->f, &b->f, sizeof a->f);
    case TDN_ATTR_STRING: return !strcmp(a->s, b->s);
    case TDN_ATTR_INTS: return !memcmp(a->ints, b->ints, (size_t)a->n * sizeof *a->ints);
    case TDN_ATTR_FLOATS: return !memcmp(a->floats, b->floats, (size_t)a->n * sizeof *a->floats);
    default: return false; /* strings, tensors and graphs: rare, not worth the care */
    }
}

static bool value_equal(const tdn_value *a, const tdn_value *b)
{
    if (a == b)
        return true;
    if (!a || !b || a->kind != TDN_VALUE_CONST || b->kind != TDN_VALUE_CONST)
        return false;
    if (a->dtype != b->dtype || !tdn_shape_equal(&a->shape, &b->shape))
        return false;
    size_t size = tdn_dtype_size(a->dtype, (size_t)tdn_shape_count(&a->shape));
    return size <= 1 << 20 && !memcmp(a->data, b->data, size);
}

static bool node_equal(const tdn_node *a, const tdn_node *b)
{
    if (a->op != b->op || a->n_in != b->n_in || a->n_out != b->n_out || a->attrs.n != b->attrs.n)
        return false;
    if (!a->expr != !b->expr)
        return false;
    if (a->expr && (tdn_expr_size(a->expr) != tdn_expr_size(b->expr) ||
                    memcmp(a->expr, b->expr, tdn_expr_size(a->expr))))
        return false;
    for (int i = 0; i < a->n_in; i++)
        if (!value_equal(a->in[i], b->in[i]))
            return false;
    for (int i = 0; i < a->n_out; i++) {
        if (!a->out[i] != !b->out[i])
            return false;
        if (a->out[i] && (a->out[i]->dtype != b->out[i]->dtype ||
                          !tdn_shape_equal(&a->out[i]->shape, &b->out[i]->shape)))
            return false;
    }
    for (int i = 0; i < a->attrs.n; i++)
        if (!attr_equal(&a->attrs.items[i], &b->attrs.items[i]))
            return false;
    return true;
}

static uint64_t node_hash(const tdn_node *n)
{
    uint64_t h = 0xcbf29ce484222325u;
    h = mix(h, &n->op, sizeof n->op);
    h = mix(h, &n->n_in, sizeof n->n_in);
    for (int i = 0; i < n->n_in; i++) {
        bool is_const =
            n->in[i] && n->in[i]->kind == TDN_VALUE_CONST; /* may equal another constant */
        h = is_const ? mix(h, &n->in[i]->shape.dims, sizeof n->in[i]->shape.dims)
                     : mix(h, &n->in[i], sizeof n->in[i]);
    }
    return h;
}

tdn_status tdn_pass_merge_equal(tdn_graph *g, tdn_error *error)
{
    size_t n_slots = 16;
    while (n_slots < (size_t)g->n_nodes * 2)
        n_slots *= 2;
    tdn_node **slots = calloc(n_slots, sizeof *slots);
    if (!slots)
        return tdn_fail_nomem(error, "merging equal nodes");
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        if (n->op->random)
            continue;
        size_t at = (size_t)node_hash(n) & (n_slots - 1);
        while (slots[at] && !node_equal(slots[at], n))
            at = (at + 1) & (n_slots - 1);
        if (!slots[at]) {
            slots[at] = n;
            continue;
        }
        bool blocked = false; /* two graph outputs cannot become one value */
        for (int i = 0; i < n->n_out; i++)
            blocked |= n->out[i] && n->out[i]->output >= 0;
        if (blocked)
            continue;
        for (int i = 0; i < n->n_out; i++)
            if (n->out[i])
                tdn_graph_replace(g, n->out[i], slots[at]->out[i]);
        tdn_graph_remove(g, n);
    }
    free(slots);
    return TDN_OK;
}
