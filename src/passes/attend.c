/* SPDX-License-Identifier: Apache-2.0 */
/*
 * softmax(scale * q k + mask) v becomes one Attend, whose weights are never stored; so does a mean
 * of the weights over the queries, which is what is left where a mean over positions was taken
 * before the product with the values. Scales may be written at the scores, the queries or the keys.
 */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "ops/emit.h"
#include "passes/passes.h"

enum {
    MAX_RANK = 4,    /* two batch axes, as kernels have them */
    MEAN_BATCHES = 4 /* a mean is one thread's work a batch: fewer are faster step by step */
};

typedef struct attention {
    tdn_value *q, *k, *v, *mask; /* v NULL: the mean of the weights; mask NULL: none */
    const tdn_node *parts[6];    /* whose work it is */
    int n_parts;
    double scale;
} attention;

/* scale * x + other * y + number, for x and y the inputs of an expression of two. */
typedef struct linear {
    double x, y, number;
} linear;

static bool is_number(const linear *f) { return f->x == 0 && f->y == 0; }

/* One instruction of a linear expression; false: it is none. */
static bool step(const tdn_instr *c, const linear *f, int input, linear *r)
{
    const linear a = f[c->a], b = f[c->b];
    switch (c->op) {
    case TDN_X_INPUT: *r = (linear){c->index == input, c->index != input, 0}; return true;
    case TDN_X_CONST: *r = (linear){0, 0, (double)c->imm}; return true;
    case TDN_X_STORE: *r = a; return true;
    case TDN_X_ADD: *r = (linear){a.x + b.x, a.y + b.y, a.number + b.number}; return true;
    case TDN_X_MUL:
        *r = is_number(&a) ? (linear){a.number * b.x, a.number * b.y, a.number * b.number}
                           : (linear){a.x * b.number, a.y * b.number, a.number * b.number};
        return is_number(&a) || is_number(&b);
    case TDN_X_DIV:
        *r = (linear){a.x / b.number, a.y / b.number, a.number / b.number};
        return is_number(&b);
    default: return false;
    }
}

/* Is the map scale * its input + the other one, if any? */
static bool is_scaled(const tdn_node *map, int input, double *scale)
{
    const tdn_expr *e = map->expr;
    linear f[TDN_EXPR_MAX] = {{0}}, end = {0};
    if (map->n_out != 1)
        return false;
    for (int i = 0; i < e->n_instr; i++) {
        if (!step(&e->code[i], f, input, &f[i]))
            return false;
        end = f[i];
    }
    *scale = end.x;
    return e->n_instr > 0 && e->code[e->n_instr - 1].op == TDN_X_STORE && end.number == 0 &&
           end.y == (map->n_in == 2 ? 1 : 0) && end.x > 0 && isfinite(end.x);
}

static bool is_f32_matmul(const tdn_node *n)
{
    return n && n->op->core == TDN_CORE_MATMUL && !n->expr && n->out[0]->dtype == TDN_F32 &&
           n->in[0]->shape.rank >= 2 && n->in[1]->shape.rank >= 2;
}

/* Read by one node alone. */
static bool is_private(const tdn_value *v)
{
    return v->n_uses == 1 && v->output < 0 && v->dtype == TDN_F32 && !v->shape.bounded &&
           v->shape.rank >= 2 && v->shape.rank <= MAX_RANK && tdn_shape_count(&v->shape) > 0;
}

static void add_part(attention *a, const tdn_node *n) { a->parts[a->n_parts++] = n; }

/* v, or what v is times a number, which goes to the scale. */
static tdn_value *unscaled(tdn_value *v, attention *a)
{
    const tdn_node *map = v->producer;
    double own;
    if (!map || map->op->core != TDN_CORE_MAP || map->n_in != 1 || map->in[0]->dtype != TDN_F32 ||
        !is_scaled(map, 0, &own))
        return v;
    a->scale *= own;
    add_part(a, map);
    return map->in[0];
}

static bool find_scores(tdn_value *v, attention *a)
{
    *a = (attention){.scale = 1};
    const tdn_node *n = v->producer;
    if (n && n->op->core == TDN_CORE_MAP && n->n_in <= 2) {
        const int input = !is_f32_matmul(n->in[0]->producer);
        if (input >= n->n_in || !is_scaled(n, input, &a->scale) ||
            !tdn_shape_equal(&n->in[input]->shape, &v->shape))
            return false;
        a->mask = n->n_in == 2 ? n->in[1 - input] : NULL;
        add_part(a, n);
        v = n->in[input];
        n = v->producer;
    }
    if (!is_f32_matmul(n) || !is_private(v) || (a->mask && a->mask->dtype != TDN_F32))
        return false;
    add_part(a, n);
    a->q = unscaled(n->in[0], a);
    a->k = unscaled(n->in[1], a);
    return a->scale > 0 && (float)a->scale > 0 && isfinite((float)a->scale);
}

/* Does the reader multiply the weights with values, or take their mean over the queries? */
static bool find_reader(const tdn_node *reader, const tdn_value *weights, attention *a)
{
    if (!reader)
        return false;
    if (is_f32_matmul(reader)) {
        a->v = reader->in[1];
        const tdn_shape *y = &reader->out[0]->shape;
        return reader->in[0] == weights && y->rank <= MAX_RANK && tdn_shape_count(y) > 0 &&
               tdn_shape_batches(y) == tdn_shape_batches(&weights->shape);
    }
    int n_axes;
    const int64_t *axes = tdn_attr_ints(&reader->attrs, "axes", &n_axes);
    return reader->op->core == TDN_CORE_REDUCE && !reader->expr &&
           !strcmp(tdn_attr_string(&reader->attrs, "kind", ""), "mean") && n_axes == 1 &&
           axes[0] == weights->shape.rank - 2 && tdn_shape_batches(&weights->shape) >= MEAN_BATCHES;
}

static tdn_status rewrite(tdn_graph *g, const tdn_node *softmax, tdn_node *reader,
                          const attention *a, tdn_error *error)
{
    tdn_infer io = tdn_infer_at(g, reader, error);
    tdn_value *in[4] = {a->q, a->k};
    int n_in = 2;
    if (a->v)
        in[n_in++] = a->v;
    if (a->mask)
        in[n_in++] = a->mask;
    const tdn_attr attrs[] = {tdn_attr_of_float("scale", (float)a->scale),
                              tdn_attr_of_int("mean", !a->v)};
    const tdn_shape y = reader->out[0]->shape;
    tdn_value *v = tdn_emit(&io, "tendon", "Attend", in, n_in, attrs, 2);
    if (v && v->producer) {
        const char *origin = NULL;
        for (int i = a->n_parts; i > 0; i--) /* found from the softmax up */
            origin = tdn_origin_join(g, origin, a->parts[i - 1]->origin);
        origin = tdn_origin_join(g, origin, softmax->origin);
        v->producer->origin = tdn_origin_join(g, origin, reader->origin);
        if (!tdn_shape_equal(&v->shape, &y))
            v = tdn_emit_reshape(&io, v, &y);
    }
    TDN_TRY(tdn_emit_end(&io, v));
    tdn_graph_remove(g, reader);
    return TDN_OK;
}

tdn_status tdn_pass_attend(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first; n; n = n->next) {
        if (n->op->core != TDN_CORE_SOFTMAX || !is_private(n->out[0]) || !is_private(n->in[0]) ||
            tdn_attr_int(&n->attrs, "log", 0) ||
            tdn_attr_int(&n->attrs, "axis", 0) != n->out[0]->shape.rank - 1)
            continue;
        attention a;
        tdn_node *reader = tdn_value_only_user(g, n->out[0]);
        if (find_scores(n->in[0], &a) && find_reader(reader, n->out[0], &a))
            TDN_TRY(rewrite(g, n, reader, &a, error));
    }
    return TDN_OK;
}
