/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Common subexpressions. Constants with the same dtype, shape and bytes become one first, so that
 * copies of a layer share their weights whatever they are called; then two nodes with the same
 * operator, attributes, expression and inputs are one. Both are found through hash tables, so the
 * pass is linear in nodes and in bytes; a constant that no other has the dtype and shape of is not
 * looked at.
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

bool tdn_node_alike(const tdn_node *a, const tdn_node *b)
{
    if (a->op != b->op || a->n_in != b->n_in || a->n_own_in != b->n_own_in ||
        a->n_out != b->n_out || a->attrs.n != b->attrs.n || !a->expr != !b->expr)
        return false;
    if (a->expr && (tdn_expr_size(a->expr) != tdn_expr_size(b->expr) ||
                    memcmp(a->expr, b->expr, tdn_expr_size(a->expr)) != 0))
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

static uint64_t attr_hash(uint64_t h, const tdn_attr *a)
{
    switch (a->kind) {
    case TDN_ATTR_INT: return mix(h, &a->i, sizeof a->i);
    case TDN_ATTR_FLOAT: return mix(h, &a->f, sizeof a->f);
    case TDN_ATTR_STRING: return mix(h, a->s, strlen(a->s));
    case TDN_ATTR_INTS: return mix(h, a->ints, (size_t)a->n * sizeof *a->ints);
    default: return h;
    }
}

uint64_t tdn_node_alike_hash(const tdn_node *n)
{
    uint64_t h = 0xcbf29ce484222325u ^ (uintptr_t)n->op;
    h = mix(h, &n->n_in, sizeof n->n_in);
    for (int i = 0; i < n->attrs.n; i++)
        h = attr_hash(h, &n->attrs.items[i]);
    return n->expr ? mix(h, n->expr, tdn_expr_size(n->expr)) : h;
}

static bool node_equal(const tdn_node *a, const tdn_node *b)
{
    return tdn_node_alike(a, b) &&
           (a->n_in == 0 || !memcmp(a->in, b->in, (size_t)a->n_in * sizeof *a->in));
}

static uint64_t node_hash(const tdn_node *n)
{
    const uint64_t h = mix(tdn_node_alike_hash(n), n->in, (size_t)n->n_in * sizeof *n->in);
    return h ^ h >> 32;
}

/* ---- Constants ------------------------------------------------------------------------------- */

/* A constant and the hash of its bytes, taken when the first of its kind meets a second. */
typedef struct entry {
    tdn_value *v;
    uint64_t kind, bytes;
    tdn_value *same; /* what stands for it */
} entry;

typedef struct pool {
    entry *entries; /* by the order of their first reading */
    int32_t n;
    int32_t *of_value;           /* by value id: entry + 1 */
    int32_t *by_kind, *by_bytes; /* hash tables: entry + 1 */
    size_t n_slots;
} pool;

static size_t byte_size(const tdn_value *v)
{
    return tdn_dtype_size(v->dtype, (size_t)tdn_shape_count(&v->shape));
}

static uint64_t hash_bytes(const void *data, size_t size)
{
    const uint8_t *p = data;
    uint64_t h = 0x9e3779b97f4a7c15u ^ size, w;
    for (; size >= sizeof w; size -= sizeof w, p += sizeof w) {
        memcpy(&w, p, sizeof w);
        h = (h ^ w) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    h = mix(h, p, size);
    return h ^ h >> 29;
}

static bool same_kind(const tdn_value *a, const tdn_value *b)
{
    return a->dtype == b->dtype && a->quant == b->quant && tdn_shape_equal(&a->shape, &b->shape);
}

/* Puts entry i among those of the same bytes; the first of them stands for all. */
static void place_by_bytes(pool *p, int32_t i)
{
    entry *e = &p->entries[i];
    const size_t size = byte_size(e->v);
    e->bytes = hash_bytes(e->v->data, size) ^ e->kind;
    for (size_t at = (size_t)e->bytes & (p->n_slots - 1);; at = (at + 1) & (p->n_slots - 1)) {
        if (!p->by_bytes[at]) {
            p->by_bytes[at] = i + 1;
            return;
        }
        const entry *o = &p->entries[p->by_bytes[at] - 1];
        if (o->bytes == e->bytes && same_kind(o->v, e->v) &&
            !memcmp(o->v->data, e->v->data, size)) {
            e->same = o->v;
            return;
        }
    }
}

static void add_constant(pool *p, tdn_value *v)
{
    const int32_t i = p->n++;
    entry *e = &p->entries[i];
    e->v = e->same = v;
    e->kind = mix(mix(0xcbf29ce484222325u, &v->dtype, sizeof v->dtype), v->shape.dims,
                  (size_t)v->shape.rank * sizeof *v->shape.dims);
    p->of_value[v->id] = i + 1;
    for (size_t at = (size_t)e->kind & (p->n_slots - 1);; at = (at + 1) & (p->n_slots - 1)) {
        if (!p->by_kind[at]) {
            p->by_kind[at] = i + 1;
            return;
        }
        const int32_t first = p->by_kind[at] - 1;
        if (!same_kind(p->entries[first].v, v))
            continue;
        if (!p->entries[first].bytes)
            place_by_bytes(p, first);
        place_by_bytes(p, i);
        return;
    }
}

static bool is_plain_constant(const tdn_value *v)
{
    return v && v->kind == TDN_VALUE_CONST && v->data && v->dtype != TDN_STRING && v->output < 0 &&
           !v->shape.bounded;
}

static bool merge_constants(tdn_graph *g)
{
    pool p = {.n_slots = 16};
    const size_t n_values = (size_t)g->n_values;
    while (p.n_slots < n_values * 2)
        p.n_slots *= 2;
    p.entries = calloc(n_values + 1, sizeof *p.entries);
    p.of_value = calloc(n_values + 1, sizeof *p.of_value);
    p.by_kind = calloc(p.n_slots, sizeof *p.by_kind);
    p.by_bytes = calloc(p.n_slots, sizeof *p.by_bytes);
    const bool ok = p.entries && p.of_value && p.by_kind && p.by_bytes;
    for (tdn_node *n = ok ? g->first : NULL; n; n = n->next)
        for (int i = 0; i < n->n_in; i++) {
            tdn_value *v = n->in[i];
            if (!is_plain_constant(v))
                continue;
            if (!p.of_value[v->id])
                add_constant(&p, v);
            tdn_value *same = p.entries[p.of_value[v->id] - 1].same;
            if (same != v)
                tdn_node_set_input(n, i, same);
        }
    free(p.entries);
    free(p.of_value);
    free(p.by_kind);
    free(p.by_bytes);
    return ok;
}

/* ---- Nodes ----------------------------------------------------------------------------------- */

tdn_status tdn_pass_merge_equal(tdn_graph *g, tdn_error *error)
{
    size_t n_slots = 16;
    while (n_slots < (size_t)g->n_nodes * 2)
        n_slots *= 2;
    tdn_node **slots = merge_constants(g) ? calloc(n_slots, sizeof *slots) : NULL;
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
