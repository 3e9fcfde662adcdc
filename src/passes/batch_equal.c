/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Re-rolling: nodes that do the same with the same weights to inputs of the same shape, none of
 * which depends on another, become one node on the inputs' concatenation along axis 0, and slices
 * of its result. The layers of an unrolled recurrent or spiking network, the branches of a siamese
 * one and a head that is applied to each time step are one product each that way.
 *
 * Only operators that commute with a concatenation along axis 0 are taken. What the concatenation
 * costs decides: nothing where the inputs are consecutive slices of one value (then it is that
 * value), nothing where steps make them, which then write into their place, a copy otherwise.
 * Views and maps are taken in the first case only: they follow the products.
 *
 * Depth: d(n) is the largest number of nodes of one family on a path that ends before n. Members of
 * equal depth have no path between them, and the order by (d, is a member) is a topological order
 * in which they are neighbours. It is found in one sweep over the nodes between the first and the
 * last member; all sweeps together are bounded.
 */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "ops/signs.h"
#include "ops/emit.h"
#include "passes/passes.h"

enum {
    MAX_MEMBERS = 4096,  /* of one batch */
    MAX_COPIED_ROWS = 8, /* a product of so few is bound by its weights, not by its rows */
    MAX_MEMBER_BYTES =
        1 << 20, /* of operand and result: beyond it, the whole would leave the cache */
    SWEEPS = 64, /* nodes visited: so often all of them, */
    VISITS = 20 * 1000 * 1000 /* or these */
};

typedef struct member {
    tdn_node *node;
    int64_t key, start; /* what members are sorted by, before their order in the graph */
} member;

typedef struct family {
    member *members;
    int32_t n, capacity;
    uint64_t hash;
} family;

/* Where a value lies along axis 0 of another. */
typedef struct part {
    tdn_value *of;
    int64_t start;
} part;

typedef struct batcher {
    tdn_graph *g;
    tdn_error *error;
    family *families;
    int32_t n_families, families_capacity;
    part *joined;       /* by value id: its part of a concatenation made here */
    bool *taken;        /* by value id: a part of a concatenation */
    const bool *binary; /* by value id: 0 or 1 everywhere */
    int32_t n_ids;
    int64_t visits;
} batcher;

/* ---- Which operators ------------------------------------------------------------------------- */

typedef enum role {
    NO,
    FOLLOWS, /* a view or a map: where its inputs lie side by side already */
    LEADS    /* where its inputs can be made to */
} role;

static bool keeps_axis_0(const tdn_node *n)
{
    const tdn_shape *x = &n->in[0]->shape, *y = &n->out[0]->shape;
    return x->rank > 0 && y->rank > 0 && x->dims[0] == y->dims[0];
}

static bool reduces_axis_0(const tdn_node *n)
{
    int n_axes;
    const int64_t *axes = tdn_attr_ints(&n->attrs, "axes", &n_axes);
    for (int i = 0; i < n_axes; i++)
        if (axes[i] == 0)
            return true;
    return false;
}

static bool slices_axis_0(const tdn_node *n)
{
    int rank, rank_steps;
    const int64_t *starts = tdn_attr_ints(&n->attrs, "starts", &rank);
    const int64_t *steps = tdn_attr_ints(&n->attrs, "steps", &rank_steps);
    return rank < 1 || rank_steps < 1 || starts[0] != 0 || steps[0] != 1;
}

/* One result of some elements, and a first input, each with an axis 0. */
static bool has_axis_0(const tdn_node *n)
{
    const tdn_value *x = tdn_in(n, 0), *y = tdn_out(n, 0);
    return x && y && n->n_out == 1 && n->n_in <= TDN_EXPR_MAX_IN && !x->shape.bounded &&
           !y->shape.bounded && y->shape.rank > 0 && tdn_shape_count(&y->shape) > 0 &&
           (n->op->core == TDN_CORE_MAP || (x->shape.rank > 0 && !n->expr && x->dtype == y->dtype));
}

static role role_of(const tdn_node *n)
{
    int rank;
    const int64_t *perm;
    if (!has_axis_0(n))
        return NO;
    switch (n->op->core) {
    case TDN_CORE_MAP: return FOLLOWS;
    case TDN_CORE_RESHAPE: return FOLLOWS;
    case TDN_CORE_TRANSPOSE:
        perm = tdn_attr_ints(&n->attrs, "perm", &rank);
        return rank > 0 && perm[0] == 0 ? FOLLOWS : NO;
    case TDN_CORE_SLICE: return keeps_axis_0(n) && !slices_axis_0(n) ? FOLLOWS : NO;
    case TDN_CORE_PAD: return keeps_axis_0(n) ? LEADS : NO;
    case TDN_CORE_REDUCE: return reduces_axis_0(n) ? NO : LEADS;
    case TDN_CORE_SOFTMAX:
    case TDN_CORE_NORM: return tdn_attr_int(&n->attrs, "axis", 0) > 0 ? LEADS : NO;
    case TDN_CORE_CONV:
    case TDN_CORE_POOL: return LEADS;
    case TDN_CORE_MATMUL: return n->in[0]->shape.rank > 1 && n->in[1]->shape.rank == 2 ? LEADS : NO;
    default: return NO;
    }
}

/* May input i differ from member to member? All may in a map; else the first alone. */
static bool may_vary(const tdn_node *n, int i)
{
    return n->in[i] && n->in[i]->kind != TDN_VALUE_CONST && (i == 0 || n->op->core == TDN_CORE_MAP);
}

/* ---- Families -------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0xff51afd7ed558ccdu;
    return h ^ h >> 32;
}

static uint64_t hash_of(const tdn_node *n)
{
    uint64_t h = tdn_node_alike_hash(n);
    for (int i = 0; i < n->n_in; i++)
        if (!may_vary(n, i))
            h = mix(h, (uintptr_t)n->in[i]);
    for (int i = 0; i < n->out[0]->shape.rank; i++)
        h = mix(h, (uint64_t)n->out[0]->shape.dims[i]);
    return h;
}

static bool same_family(const tdn_node *a, const tdn_node *b)
{
    if (!tdn_node_alike(a, b))
        return false;
    for (int i = 0; i < a->n_in; i++) {
        if (may_vary(a, i) != may_vary(b, i))
            return false;
        if (may_vary(a, i) ? a->in[i]->dtype != b->in[i]->dtype ||
                                 !tdn_shape_equal(&a->in[i]->shape, &b->in[i]->shape)
                           : a->in[i] != b->in[i])
            return false;
    }
    return true;
}

static bool add_member(batcher *b, family *f, tdn_node *n)
{
    if (f->n == f->capacity) {
        const int32_t capacity = f->capacity ? f->capacity * 2 : 2;
        member *more = tdn_arena_alloc(b->g->arena, (size_t)capacity, sizeof *more);
        if (!more)
            return false;
        if (f->n)
            memcpy(more, f->members, (size_t)f->n * sizeof *more);
        f->members = more;
        f->capacity = capacity;
    }
    f->members[f->n++] = (member){.node = n};
    return true;
}

/* All families, in the order of their first members. */
static bool find_families(batcher *b)
{
    size_t n_slots = 16;
    while (n_slots < (size_t)b->g->n_nodes * 2)
        n_slots *= 2;
    int32_t *slots = calloc(n_slots, sizeof *slots);
    b->families = calloc((size_t)b->g->n_nodes + 1, sizeof *b->families);
    bool ok = slots && b->families;
    for (tdn_node *n = ok ? b->g->first : NULL; n && ok; n = n->next) {
        if (role_of(n) == NO)
            continue;
        const uint64_t h = hash_of(n);
        size_t at = (size_t)h & (n_slots - 1);
        for (; slots[at]; at = (at + 1) & (n_slots - 1)) {
            const family *f = &b->families[slots[at] - 1];
            if (f->hash == h && same_family(f->members[0].node, n))
                break;
        }
        if (!slots[at]) {
            b->families[b->n_families].hash = h;
            slots[at] = ++b->n_families;
        }
        ok = add_member(b, &b->families[slots[at] - 1], n);
    }
    free(slots);
    return ok;
}

/* ---- How inputs lie -------------------------------------------------------------------------- */

/* Can the step that makes v write it anywhere? */
static bool is_placeable(const batcher *b, const tdn_value *v)
{
    const tdn_node *n = v->producer;
    if (v->kind != TDN_VALUE_NODE || v->output >= 0 || v->id >= b->n_ids || b->taken[v->id])
        return false;
    switch (n->op->core) {
    case TDN_CORE_MAP:
    case TDN_CORE_CONV:
    case TDN_CORE_MATMUL:
    case TDN_CORE_REDUCE:
    case TDN_CORE_POOL:
    case TDN_CORE_SOFTMAX:
    case TDN_CORE_NORM:
    case TDN_CORE_PAD: return true;
    case TDN_CORE_RESHAPE:
    case TDN_CORE_TRANSPOSE: return n->in[0]->n_uses == 1 && is_placeable(b, n->in[0]);
    default: return false;
    }
}

typedef enum lie { SHARED, SIDE_BY_SIDE, JOINED, PLACEABLE, SCATTERED } lie;

typedef bool part_fn(const batcher *b, const tdn_value *v, part *p);

static bool part_of_slice(const batcher *b, const tdn_value *v, part *p)
{
    (void)b;
    return tdn_trace_slice(v, 0, &p->of, &p->start);
}

static bool part_of_joined(const batcher *b, const tdn_value *v, part *p)
{
    if (v->id < b->n_ids)
        *p = b->joined[v->id];
    return v->id < b->n_ids && p->of;
}

/* Are the members' inputs i consecutive parts of one value? */
static bool is_run(const batcher *b, const member *members, int n, int i, part_fn *part_at)
{
    part first = {NULL, 0}, p;
    for (int m = 0; m < n; m++) {
        const tdn_value *v = members[m].node->in[i];
        if (!part_at(b, v, &p))
            return false;
        if (m == 0)
            first = p;
        if (p.of != first.of || p.start != first.start + m * v->shape.dims[0])
            return false;
    }
    return true;
}

static lie lie_of(const batcher *b, const member *members, int n, int i)
{
    int m = 1;
    while (m < n && members[m].node->in[i] == members[0].node->in[i])
        m++;
    if (m == n)
        return SHARED;
    if (is_run(b, members, n, i, part_of_slice))
        return SIDE_BY_SIDE;
    if (is_run(b, members, n, i, part_of_joined))
        return JOINED;
    for (m = 0; m < n && is_placeable(b, members[m].node->in[i]); m++)
        ;
    return m == n ? PLACEABLE : SCATTERED;
}

/* A shared operand of a map may not vary along axis 0 itself. */
static bool is_flat_along_0(const tdn_node *n, int i)
{
    const tdn_shape *s = &n->in[i]->shape, *y = &n->out[0]->shape;
    return s->rank < y->rank || s->dims[0] == 1;
}

static bool varies_along_0(const tdn_node *n, int i)
{
    const tdn_shape *s = &n->in[i]->shape, *y = &n->out[0]->shape;
    return s->rank == y->rank && s->dims[0] == y->dims[0];
}

/* May the members become one, once their inputs lie so? */
static bool operands_fit(const member *members, int i, lie how)
{
    const tdn_node *n = members[0].node;
    if (n->op->core != TDN_CORE_MAP)
        return how != SHARED || i > 0;
    return how == SHARED ? is_flat_along_0(n, i) : varies_along_0(n, i);
}

/* ---- Making a batch -------------------------------------------------------------------------- */

static tdn_value *rows(tdn_infer *io, tdn_value *v, int64_t start, int64_t n)
{
    int64_t starts[TDN_MAX_RANK] = {0}, steps[TDN_MAX_RANK], extents[TDN_MAX_RANK];
    if (!v)
        return NULL;
    for (int i = 0; i < v->shape.rank; i++) {
        steps[i] = 1;
        extents[i] = v->shape.dims[i];
    }
    if (start == 0 && n == v->shape.dims[0])
        return v;
    starts[0] = start;
    extents[0] = n;
    return tdn_emit_slice(io, v, starts, steps, extents);
}

/* Input i of all members, as one value before io->node. */
static tdn_value *join_inputs(batcher *b, tdn_infer *io, const member *members, int n, int i)
{
    tdn_value **in = tdn_arena_alloc(b->g->arena, (size_t)n, sizeof *in);
    const lie how = lie_of(b, members, n, i);
    part p = {NULL, 0};
    if (!in) {
        tdn_fail_nomem(b->error, "a batch");
        return NULL;
    }
    for (int m = 0; m < n; m++)
        in[m] = members[m].node->in[i];
    if (how == SHARED)
        return in[0];
    const int64_t each = in[0]->shape.dims[0];
    if ((how == SIDE_BY_SIDE && part_of_slice(b, in[0], &p)) ||
        (how == JOINED && part_of_joined(b, in[0], &p)))
        return rows(io, p.of, p.start, each * n);
    tdn_value *all = tdn_emit_concat(io, in, n, 0);
    for (int m = 0; m < n && all; m++)
        if (in[m]->id < b->n_ids) {
            b->joined[in[m]->id] = (part){all, m * each};
            b->taken[in[m]->id] = true;
        }
    return all;
}

/* The members, neighbours in a valid order or fed by slices of one value, become one, before the
 * first of them. */
static tdn_status make_batch(batcher *b, const member *members, int n)
{
    tdn_graph *g = b->g;
    tdn_node *first = members[0].node;
    for (int m = 1; m < n; m++)
        if (members[m].node->mark < first->mark)
            first = members[m].node;
    tdn_infer io = {g, first, g->opset, b->error};
    tdn_value *in[TDN_EXPR_MAX_IN];
    for (int i = 0; i < first->n_in; i++) {
        in[i] = may_vary(first, i) ? join_inputs(b, &io, members, n, i) : first->in[i];
        if (!in[i] && first->in[i])
            return TDN_E_NOMEM;
    }
    tdn_shape shape = first->out[0]->shape;
    const int64_t each = shape.dims[0];
    shape.dims[0] *= n;
    tdn_value *all = tdn_node_copy(g, first, first, in, &shape);
    if (!all || (first->op->core == TDN_CORE_RESHAPE &&
                 !tdn_node_set_ints(g, all->producer, "shape", shape.dims, shape.rank)))
        return tdn_fail_nomem(b->error, "a batch");
    for (int m = 0; m < n; m++) {
        tdn_node *own = members[m].node;
        tdn_value *y = rows(&io, all, m * each, each);
        if (!y)
            return TDN_E_NOMEM;
        all->producer->origin = tdn_origin_join(g, all->producer->origin, own->origin);
        y->producer->origin = own->origin;
        tdn_graph_replace(g, own->out[0], y);
    }
    for (int m = 0; m < n; m++)
        tdn_graph_remove(g, members[m].node);
    return TDN_OK;
}

/* ---- Side by side ---------------------------------------------------------------------------- */

static int by_key(const void *x, const void *y)
{
    const member *a = x, *c = y;
    if (a->key != c->key)
        return a->key < c->key ? -1 : 1;
    if (a->start != c->start)
        return a->start < c->start ? -1 : 1;
    return a->node->mark < c->node->mark ? -1 : a->node->mark > c->node->mark;
}

/* Sorts the members by the slices that input i is; false where it is none, or the same for all. */
static bool sort_by_slices(batcher *b, family *f, int i)
{
    bool differ = false;
    for (int m = 0; m < f->n; m++) {
        part p;
        if (!part_of_slice(b, f->members[m].node->in[i], &p))
            return false;
        f->members[m].key = p.of->id;
        f->members[m].start = p.start;
        differ |= f->members[m].node->in[i] != f->members[0].node->in[i];
    }
    if (differ)
        qsort(f->members, (size_t)f->n, sizeof *f->members, by_key);
    return differ;
}

static bool is_side_by_side(const batcher *b, const member *members, int n)
{
    const tdn_node *first = members[0].node;
    for (int i = 0; i < first->n_in; i++) {
        if (!may_vary(first, i))
            continue;
        const lie how = lie_of(b, members, n, i);
        if ((how != SHARED && how != SIDE_BY_SIDE) || !operands_fit(members, i, how))
            return false;
    }
    return true;
}

/* Batches runs of slices, and leaves the other members in the family. Members that read slices of
 * one value, and besides only what all of them read, cannot depend on each other. */
static tdn_status batch_slices(batcher *b, family *f)
{
    const tdn_node *first = f->members[0].node;
    int input = 0, kept = 0;
    while (input < first->n_in && !(may_vary(first, input) && sort_by_slices(b, f, input)))
        input++;
    if (input == first->n_in)
        return TDN_OK;
    for (int m = 0, n; m < f->n; m += n) {
        const member *run = f->members + m;
        const int64_t each = run->node->in[input]->shape.dims[0];
        for (n = 1; m + n < f->n && n < MAX_MEMBERS && run[n].key == run->key &&
                    run[n].start == run->start + n * each;
             n++)
            ;
        if (n > 1 && is_side_by_side(b, run, n)) {
            TDN_TRY(make_batch(b, run, n));
            continue;
        }
        for (int k = 0; k < n; k++)
            f->members[kept++] = run[k];
    }
    f->n = kept;
    return TDN_OK;
}

/* ---- Made by steps --------------------------------------------------------------------------- */

static int64_t row_count(const tdn_node *n)
{
    const tdn_shape *y = &n->out[0]->shape;
    const int64_t cols = n->op->core == TDN_CORE_CONV ? y->dims[1] : y->dims[y->rank - 1];
    return tdn_shape_count(y) / cols;
}

static bool is_small(const tdn_node *n)
{
    const int64_t count = tdn_shape_count(&n->in[0]->shape) + tdn_shape_count(&n->out[0]->shape);
    return count <= MAX_MEMBER_BYTES / (int64_t)sizeof(float);
}

static bool bears_a_copy(const tdn_node *n)
{
    const bool is_product = n->op->core == TDN_CORE_CONV || n->op->core == TDN_CORE_MATMUL;
    return is_product && row_count(n) <= MAX_COPIED_ROWS;
}

static bool pays(const batcher *b, const member *members, int n)
{
    const tdn_node *first = members[0].node;
    for (int i = 1; i < first->n_in; i++)
        if (may_vary(first, i))
            return false;
    switch (lie_of(b, members, n, 0)) {
    case SIDE_BY_SIDE:
    case JOINED: return true;
    case PLACEABLE: return is_small(first);
    case SCATTERED: return bears_a_copy(first);
    default: return false;
    }
}

/* Numbers the nodes in `mark` and gives each its class, 2 d + (is a member): classes[mark]. */
static int32_t *find_classes(batcher *b, const family *f)
{
    tdn_graph *g = b->g;
    int32_t *classes = calloc((size_t)g->n_nodes + 1, sizeof *classes);
    if (!classes)
        return NULL;
    tdn_graph_number(g);
    for (int m = 0; m < f->n; m++)
        classes[f->members[m].node->mark] = 1;
    for (const tdn_node *n = g->first; n; n = n->next) {
        int32_t d = 0;
        for (int i = 0; i < n->n_in; i++) {
            const tdn_node *p = n->in[i] ? n->in[i]->producer : NULL;
            const int32_t after = p ? (classes[p->mark] + 1) / 2 : 0;
            d = after > d ? after : d;
        }
        classes[n->mark] += 2 * d;
    }
    b->visits += 2 * (int64_t)g->n_nodes;
    return classes;
}

/* The nodes in the order of their classes, and of `mark` within one. */
static bool reorder(batcher *b, const int32_t *classes)
{
    tdn_graph *g = b->g;
    const int32_t n_nodes = g->n_nodes;
    int32_t n_classes = 0;
    for (int32_t i = 0; i < n_nodes; i++)
        n_classes = classes[i] >= n_classes ? classes[i] + 1 : n_classes;
    int32_t *at = calloc((size_t)n_classes + 1, sizeof *at);
    tdn_node **order = malloc(((size_t)n_nodes + 1) * sizeof *order);
    const bool ok = at && order;
    for (int32_t i = 0; i < n_nodes && ok; i++)
        at[classes[i] + 1]++;
    for (int32_t i = 0; i < n_classes && ok; i++)
        at[i + 1] += at[i];
    for (tdn_node *n = ok ? g->first : NULL; n; n = n->next)
        order[at[classes[n->mark]]++] = n;
    for (int32_t i = 0; i < n_nodes && ok; i++) {
        order[i]->prev = i ? order[i - 1] : NULL;
        order[i]->next = i + 1 < n_nodes ? order[i + 1] : NULL;
        order[i]->mark = i;
    }
    if (ok && n_nodes) {
        g->first = order[0];
        g->last = order[n_nodes - 1];
    }
    free(at);
    free(order);
    return ok;
}

/* By class, what need not be copied first, spikes by themselves since kernels leave their zeros
 * out, then as the inputs lie in what was joined before. A concatenation that comes too late for
 * its readers is none to them. */
static void sort_by_class(batcher *b, family *f, const int32_t *classes)
{
    for (int m = 0; m < f->n; m++) {
        member *own = &f->members[m];
        const tdn_value *v = own->node->in[0];
        part p;
        const int32_t depth = classes[own->node->mark];
        if (part_of_joined(b, v, &p) && classes[p.of->producer->mark] >= depth)
            b->joined[v->id] = (part){NULL, 0};
        const bool is_joined = part_of_joined(b, v, &p);
        const bool is_good = is_joined || is_placeable(b, v) || bears_a_copy(own->node);
        const bool is_binary = v->id < b->n_ids && b->binary[v->id];
        own->key = 4 * (int64_t)depth + 2 * !is_good + is_binary;
        own->start = is_joined ? p.start : 0;
    }
    qsort(f->members, (size_t)f->n, sizeof *f->members, by_key);
}

static int next_group(const family *f, int from)
{
    int n = 1;
    while (from + n < f->n && n < MAX_MEMBERS && f->members[from + n].key == f->members[from].key)
        n++;
    return n;
}

static tdn_status batch_groups(batcher *b, family *f)
{
    int32_t *classes = find_classes(b, f);
    if (!classes)
        return tdn_fail_nomem(b->error, "classes of nodes");
    sort_by_class(b, f, classes);
    bool any = false;
    for (int m = 0, n; m < f->n; m += n) {
        n = next_group(f, m);
        any |= n > 1 && pays(b, f->members + m, n);
    }
    const bool ok = !any || reorder(b, classes);
    free(classes);
    if (!ok)
        return tdn_fail_nomem(b->error, "an order of nodes");
    for (int m = 0, n; m < f->n && any; m += n) {
        n = next_group(f, m);
        if (n > 1 && pays(b, f->members + m, n))
            TDN_TRY(make_batch(b, f->members + m, n));
    }
    return TDN_OK;
}

/* Is it worth a sweep? */
static bool may_pay(const batcher *b, const family *f)
{
    int n_good = 0;
    for (int m = 0; m < f->n; m++) {
        const tdn_node *n = f->members[m].node;
        part p;
        n_good += bears_a_copy(n) || part_of_joined(b, n->in[0], &p) ||
                  (is_small(n) && is_placeable(b, n->in[0]));
    }
    return n_good > 1 && b->visits < VISITS + SWEEPS * (int64_t)b->g->n_nodes;
}

/* ---- The pass -------------------------------------------------------------------------------- */

static bool start(batcher *b)
{
    b->n_ids = b->g->n_values;
    b->joined = calloc((size_t)b->n_ids + 1, sizeof *b->joined);
    b->taken = calloc((size_t)b->n_ids + 1, sizeof *b->taken);
    b->binary = tdn_binary_values(b->g, b->g->arena);
    if (!b->joined || !b->taken || !b->binary || !find_families(b))
        return false;
    for (const tdn_node *n = b->g->first; n; n = n->next)
        for (int i = 0; i < n->n_in && n->op->core == TDN_CORE_CONCAT; i++)
            b->taken[n->in[i]->id] = true;
    tdn_graph_number(b->g);
    return true;
}

static tdn_status batch_all(batcher *b)
{
    for (int32_t i = 0; i < b->n_families; i++) {
        family *f = &b->families[i];
        if (f->n < 2)
            continue;
        TDN_TRY(batch_slices(b, f));
        if (f->n > 1 && role_of(f->members[0].node) == LEADS && may_pay(b, f))
            TDN_TRY(batch_groups(b, f));
    }
    return TDN_OK;
}

tdn_status tdn_pass_batch_equal(tdn_graph *g, tdn_error *error)
{
    batcher b = {.g = g, .error = error};
    if (tdn_graph_has_subgraph(g)) /* the order is then not ours to change */
        return TDN_OK;
    const tdn_status status = start(&b) ? batch_all(&b) : tdn_fail_nomem(error, "batches of nodes");
    free(b.families);
    free(b.joined);
    free(b.taken);
    return status;
}
