/* SPDX-License-Identifier: Apache-2.0 */
/* Finding forms: through sums, concatenations of steps, and 1x1 convolutions. */
#include "passes/spike_form.h"

#include <math.h>
#include <string.h>

#include "base/status.h"
#include "ops/signs.h"
#include "passes/passes.h"

enum {
    MAX_DEPTH = 16, /* sums within sums */
    MIN_STEPS = 4   /* for what is done once to cost little */
};
#define MAX_PRODUCTS ((int64_t)1 << 28) /* of weights with weights */

/* ---- What nodes are -------------------------------------------------------------------------- */

static bool is_sum(const tdn_node *n)
{
    return n && n->op->core == TDN_CORE_MAP && n->n_in == 2 && n->n_out == 1 &&
           tdn_expr_is_sum(n->expr) && n->out[0]->dtype == TDN_F32;
}

/* The operand that is a constant; NULL: none, or both. */
static const tdn_value *constant_of(const tdn_node *sum)
{
    const bool a = sum->in[0]->kind == TDN_VALUE_CONST, b = sum->in[1]->kind == TDN_VALUE_CONST;
    return a == b ? NULL : sum->in[a ? 0 : 1];
}

bool tdn_spike_is_finite(const tdn_value *w)
{
    const int64_t n = tdn_shape_count(&w->shape);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(((const float *)w->data)[i]))
            return false;
    return true;
}

bool tdn_spike_takes_conv(const tdn_node *n)
{
    return n && n->op->core == TDN_CORE_CONV && n->n_in == 2 && !n->expr &&
           n->in[0]->dtype == TDN_F32 && n->out[0]->dtype == TDN_F32 && !n->in[0]->shape.bounded &&
           n->in[1]->kind == TDN_VALUE_CONST && n->in[1]->dtype == TDN_F32 &&
           tdn_attr_int(&n->attrs, "group", 1) == 1 && tdn_shape_count(&n->out[0]->shape) > 0;
}

int64_t tdn_spike_taps(const tdn_node *conv)
{
    const tdn_shape *w = &conv->in[1]->shape;
    return tdn_shape_count(w) / (w->dims[0] * w->dims[1]);
}

static bool is_concat_of_steps(const tdn_node *n)
{
    return n && n->op->core == TDN_CORE_CONCAT && tdn_attr_int(&n->attrs, "axis", 0) == 0;
}

bool tdn_spikes_is_binary(const tdn_spikes *s, const tdn_value *v)
{
    return v->id < s->n_ids && s->binary[v->id] && v->dtype == TDN_F32;
}

/* ---- Lists of steps -------------------------------------------------------------------------- */

typedef struct list {
    const tdn_node *concat;
    int operand; /* of the sums that are concatenated; -1: these themselves */
} list;

static tdn_value *at(const list *l, int i)
{
    tdn_value *v = l->concat->in[i];
    return l->operand < 0 ? v : v->producer->in[l->operand];
}

static bool are_one(const list *l)
{
    for (int i = 1; i < l->concat->n_in; i++)
        if (at(l, i) != at(l, 0))
            return false;
    return at(l, 0)->shape.dims[0] == 1;
}

static bool are_binary(const tdn_spikes *s, const list *l)
{
    for (int i = 0; i < l->concat->n_in; i++)
        if (!tdn_spikes_is_binary(s, at(l, i)))
            return false;
    return true;
}

/* The value of which they are all slices along axis 0, in order, or NULL. */
static tdn_value *whole_of(const list *l)
{
    tdn_value *whole = NULL, *of;
    int64_t end = 0, start;
    for (int i = 0; i < l->concat->n_in; i++) {
        const tdn_value *v = at(l, i);
        if (!tdn_trace_slice(v, 0, &of, &start) || start != end || (whole && whole != of))
            return NULL;
        whole = of;
        end += v->shape.dims[0];
    }
    return whole && whole->shape.dims[0] == end ? whole : NULL;
}

static bool are_sums(const tdn_node *concat)
{
    for (int i = 0; i < concat->n_in; i++) {
        const tdn_node *n = concat->in[i]->producer;
        if (!is_sum(n) || !tdn_shape_equal(&n->in[0]->shape, &n->out[0]->shape) ||
            !tdn_shape_equal(&n->in[1]->shape, &n->out[0]->shape))
            return false;
    }
    return true;
}

/* Their concatenation that is there before, or a new one where l's is. */
static tdn_value *gather(tdn_spikes *s, const list *l)
{
    for (const tdn_node *n = s->g->first; n; n = n == l->concat ? NULL : n->next) {
        bool same = is_concat_of_steps(n) && n->n_in == l->concat->n_in;
        for (int i = 0; i < n->n_in && same; i++)
            same = n->in[i] == at(l, i);
        if (same)
            return n->out[0];
    }
    tdn_value **parts = tdn_arena_alloc(s->g->arena, (size_t)l->concat->n_in, sizeof(tdn_value *));
    for (int i = 0; parts && i < l->concat->n_in; i++)
        parts[i] = at(l, i);
    return parts ? tdn_node_copy(s->g, (tdn_node *)l->concat, l->concat, parts,
                                 &l->concat->out[0]->shape)
                 : NULL;
}

/* ---- Forms ----------------------------------------------------------------------------------- */

bool tdn_spikes_give_up(tdn_spikes *s, const char *what)
{
    if (s->status == TDN_OK)
        s->status = tdn_fail_nomem(s->error, what);
    return false;
}

static const tdn_spike_form *form_of(tdn_spikes *s, tdn_value *v, int depth);

/* to += weights (channels, c), or 1 on the diagonal where these are NULL. */
static void add_weights(float *to, const float *weights, int64_t channels, int64_t c)
{
    for (int64_t i = 0; i < channels; i++)
        for (int64_t k = 0; k < c; k++)
            to[i * c + k] += weights ? weights[i * c + k] : (float)(i == k);
}

/* Two terms of the same spikes are one. */
static bool add_term(tdn_spikes *s, tdn_spike_form *to, tdn_spike_term t)
{
    tdn_spike_term *old = to->terms;
    while (old < to->terms + to->n && old->train->spikes != t.train->spikes)
        old++;
    if (old == to->terms + TDN_SPIKE_MAX_TERMS)
        return false;
    if (old == to->terms + to->n) {
        to->terms[to->n++] = t;
        return true;
    }
    const int64_t c = t.train->spikes->shape.dims[1];
    float *sum = tdn_arena_alloc(s->g->arena, (size_t)(to->channels * c), sizeof *sum);
    if (!sum)
        return tdn_spikes_give_up(s, "weights");
    add_weights(sum, old->weights, to->channels, c);
    add_weights(sum, t.weights, to->channels, c);
    old->weights = sum;
    return true;
}

/* once += v, at `where`. */
static bool add_once(tdn_spikes *s, tdn_spike_form *to, tdn_value *v, tdn_node *where)
{
    tdn_infer io = tdn_infer_at(s->g, where, s->error);
    to->once = to->once ? tdn_emit_binary(&io, TDN_X_ADD, to->once, v) : v;
    return to->once || tdn_spikes_give_up(s, "a sum");
}

static bool add_spikes(tdn_spikes *s, tdn_spike_form *to, tdn_value *v)
{
    tdn_spike_train *t = v ? tdn_arena_alloc(s->g->arena, 1, sizeof *t) : NULL;
    if (!t)
        return tdn_spikes_give_up(s, "spikes");
    t->spikes = v;
    return add_term(s, to, (tdn_spike_term){t, NULL});
}

static bool add_form(tdn_spikes *s, tdn_spike_form *to, const tdn_spike_form *from, tdn_node *where)
{
    if (!from)
        return false;
    for (int i = 0; i < from->n; i++)
        if (!add_term(s, to, from->terms[i]))
            return false;
    return !from->once || add_once(s, to, from->once, where);
}

static bool add_list(tdn_spikes *s, tdn_spike_form *to, const list *l, int depth)
{
    tdn_node *where = (tdn_node *)l->concat;
    if (are_one(l)) {
        const tdn_spike_form *one = form_of(s, at(l, 0), depth);
        return l->concat->n_in >= MIN_STEPS &&
               (one ? add_form(s, to, one, where) : add_once(s, to, at(l, 0), where));
    }
    if (are_binary(s, l)) {
        tdn_value *spikes = gather(s, l);
        return spikes && spikes->id < s->n_ids ? add_form(s, to, form_of(s, spikes, depth), where)
                                               : add_spikes(s, to, spikes);
    }
    tdn_value *whole = whole_of(l);
    if (whole)
        return add_form(s, to, form_of(s, whole, depth), where);
    if (l->operand >= 0 || !are_sums(l->concat))
        return false;
    const list a = {l->concat, 0}, b = {l->concat, 1};
    return add_list(s, to, &a, depth) && add_list(s, to, &b, depth);
}

/* Ones at all positions of a value's shape. */
static tdn_spike_train *ones_of(tdn_spikes *s, const tdn_shape *shape)
{
    tdn_shape one = *shape;
    one.dims[0] = one.dims[1] = 1;
    if (s->ones && tdn_shape_equal(&s->ones->spikes->shape, &one))
        return s->ones;
    const int64_t n = tdn_shape_count(&one);
    float *data = tdn_arena_alloc_data(s->g->arena, (size_t)n * sizeof *data);
    for (int64_t i = 0; data && i < n; i++)
        data[i] = 1;
    tdn_spike_train *t = data ? tdn_arena_alloc(s->g->arena, 1, sizeof *t) : NULL;
    if (t)
        t->spikes = tdn_graph_const(s->g, NULL, TDN_F32, &one, data);
    s->ones = t && t->spikes ? t : NULL;
    return s->ones;
}

/* A number for each channel. */
static bool add_constant(tdn_spikes *s, tdn_spike_form *to, const tdn_shape *shape,
                         const tdn_value *constant)
{
    const int64_t channels = shape->dims[1], n = tdn_shape_count(&constant->shape);
    const int axis = constant->shape.rank - (shape->rank - 1);
    if (n != 1 && (axis < 0 || n != channels || constant->shape.dims[axis] != n))
        return false;
    float *weights = tdn_arena_alloc_data(s->g->arena, (size_t)channels * sizeof *weights);
    tdn_spike_train *ones = weights ? ones_of(s, shape) : NULL;
    if (!ones)
        return tdn_spikes_give_up(s, "a constant");
    for (int64_t i = 0; i < channels; i++)
        weights[i] = ((const float *)constant->data)[n == 1 ? 0 : i];
    return tdn_spike_is_finite(constant) && add_term(s, to, (tdn_spike_term){ones, weights});
}

static bool add_sum(tdn_spikes *s, tdn_spike_form *to, tdn_node *n, int depth)
{
    const tdn_value *constant = constant_of(n);
    for (int i = 0; i < 2; i++) {
        if (n->in[i] == constant) {
            if (!add_constant(s, to, &n->out[0]->shape, constant))
                return false;
        } else if (!tdn_shape_equal(&n->in[i]->shape, &n->out[0]->shape) ||
                   !add_form(s, to, form_of(s, n->in[i], depth), n)) {
            return false;
        }
    }
    return true;
}

/* w (m, c, taps), u (c, k) or NULL: their product (m, k, taps); w's own where u is NULL. */
const float *tdn_spike_weights(tdn_spikes *s, const tdn_value *w, const float *u, int64_t k)
{
    const int64_t m = w->shape.dims[0], c = w->shape.dims[1];
    const int64_t taps = tdn_shape_count(&w->shape) / (m * c);
    const float *from = w->data;
    if (!u)
        return from;
    float *to = tdn_arena_alloc_data(s->g->arena, (size_t)(m * k * taps) * sizeof *to);
    double *sums = tdn_arena_alloc(s->g->arena, (size_t)(k * taps), sizeof *sums);
    if (!to || !sums) {
        tdn_spikes_give_up(s, "weights");
        return NULL;
    }
    for (int64_t row = 0; row < m; row++) {
        memset(sums, 0, (size_t)(k * taps) * sizeof *sums);
        for (int64_t i = 0; i < c; i++)
            for (int64_t j = 0; j < k; j++)
                for (int64_t tap = 0; tap < taps; tap++)
                    sums[j * taps + tap] +=
                        (double)from[(row * c + i) * taps + tap] * (double)u[i * k + j];
        for (int64_t j = 0; j < k * taps; j++)
            to[row * k * taps + j] = (float)sums[j];
    }
    return to;
}

/* Does the term differ from step to step? */
bool tdn_spike_varies(const tdn_spike_term *t, int64_t steps)
{
    return t->train->spikes->shape.dims[0] == steps && t->train->spikes->kind != TDN_VALUE_CONST;
}

/* Of the spikes that do, or of the others. */
int64_t tdn_spike_channels(const tdn_spike_form *x, int64_t steps, bool varying)
{
    int64_t n = 0;
    for (int i = 0; i < x->n; i++)
        if (tdn_spike_varies(&x->terms[i], steps) == varying)
            n += x->terms[i].train->spikes->shape.dims[1];
    return n;
}

bool tdn_spike_products_suit(const tdn_node *conv, const tdn_spike_form *x)
{
    int64_t n = 0;
    for (int i = 0; i < x->n; i++)
        n += x->terms[i].weights
                 ? tdn_shape_count(&conv->in[1]->shape) * x->terms[i].train->spikes->shape.dims[1]
                 : 0;
    return n <= MAX_PRODUCTS;
}

tdn_value *tdn_spike_conv(tdn_spikes *s, tdn_node *where, const tdn_node *conv, tdn_value *x,
                          tdn_value *w)
{
    tdn_value *in[2] = {x, w};
    tdn_shape y = conv->out[0]->shape;
    if (x)
        y.dims[0] = x->shape.dims[0];
    tdn_value *v = x && w ? tdn_node_copy(s->g, where, conv, in, &y) : NULL;
    if (!v)
        tdn_spikes_give_up(s, "a convolution");
    return v;
}

static bool add_pointwise(tdn_spikes *s, tdn_spike_form *to, tdn_node *n, int depth)
{
    const tdn_spike_form *x = form_of(s, n->in[0], depth);
    if (!x || !tdn_spike_products_suit(n, x) || !tdn_spike_is_finite(n->in[1]))
        return false;
    for (int i = 0; i < x->n; i++) {
        tdn_spike_term t = x->terms[i];
        t.weights = tdn_spike_weights(s, n->in[1], t.weights, t.train->spikes->shape.dims[1]);
        if (!t.weights || !add_term(s, to, t))
            return false;
    }
    tdn_value *once = x->once ? tdn_spike_conv(s, n, n, x->once, n->in[1]) : NULL;
    return !x->once || (once && add_once(s, to, once, n));
}

static bool find_form(tdn_spikes *s, tdn_spike_form *to, tdn_value *v, int depth)
{
    tdn_node *n = v->producer;
    if (tdn_spikes_is_binary(s, v))
        return add_spikes(s, to, v);
    if (is_sum(n))
        return add_sum(s, to, n, depth);
    if (tdn_spike_takes_conv(n) && tdn_conv_is_pointwise(n))
        return add_pointwise(s, to, n, depth);
    if (is_concat_of_steps(n)) {
        const list l = {n, -1};
        return add_list(s, to, &l, depth);
    }
    return false;
}

/* NULL: v is no such sum. */
static const tdn_spike_form *form_of(tdn_spikes *s, tdn_value *v, int depth)
{
    if (v->id >= s->n_ids || v->shape.rank < 3 || v->shape.bounded || depth == MAX_DEPTH)
        return NULL;
    tdn_spike_form *f = s->forms[v->id];
    if (!f) {
        f = s->forms[v->id] = tdn_arena_alloc(s->g->arena, 1, sizeof *f);
        if (!f) {
            tdn_spikes_give_up(s, "a sum of spikes");
            return NULL;
        }
        f->channels = v->shape.dims[1];
        f->holds = find_form(s, f, v, depth + 1);
    }
    return f->holds ? f : NULL;
}

const tdn_spike_form *tdn_spike_form_of(tdn_spikes *s, tdn_value *v) { return form_of(s, v, 0); }

/* ---- Values with a form, anew ---------------------------------------------------------------- */

static tdn_value *dense_list(tdn_spikes *s, tdn_infer *io, const list *l)
{
    if (are_one(l))
        return at(l, 0);
    if (are_binary(s, l))
        return gather(s, l);
    tdn_value *whole = whole_of(l);
    if (whole)
        return tdn_spike_rebuild(s, io, whole);
    const list a = {l->concat, 0}, b = {l->concat, 1};
    tdn_value *x = dense_list(s, io, &a), *y = x ? dense_list(s, io, &b) : NULL;
    return y ? tdn_emit_binary(io, TDN_X_ADD, x, y) : NULL;
}

/* A value that has a form, computed anew from spikes and what is the same in all steps, so that
 * nobody else reads what is between. */
tdn_value *tdn_spike_rebuild(tdn_spikes *s, tdn_infer *io, tdn_value *v)
{
    const tdn_node *n = v->producer;
    if (tdn_spikes_is_binary(s, v))
        return v;
    if (is_concat_of_steps(n)) {
        const list l = {n, -1};
        tdn_value *x = dense_list(s, io, &l);
        const bool all = x && x->shape.dims[0] == v->shape.dims[0];
        return all ? x : tdn_emit_expand(io, x, &v->shape);
    }
    tdn_value *in[2] = {n->in[0], n->in[1]};
    for (int i = 0; i < 2; i++)
        if (in[i]->kind != TDN_VALUE_CONST && !(in[i] = tdn_spike_rebuild(s, io, in[i])))
            return NULL;
    return tdn_node_copy(s->g, io->node, n, in, &v->shape);
}

tdn_status tdn_spikes_begin(tdn_spikes *s, tdn_graph *g, tdn_error *error)
{
    *s = (tdn_spikes){
        .g = g,
        .error = error,
        .n_ids = g->n_values,
        .binary = tdn_binary_values(g, g->arena),
        .forms = tdn_arena_alloc(g->arena, (size_t)g->n_values + 1, sizeof(tdn_spike_form *))};
    return s->binary && s->forms ? TDN_OK : tdn_fail_nomem(error, "spikes");
}
