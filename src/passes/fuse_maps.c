/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Joins a map with the maps that feed it, where all have the same extents: one pass over memory
 * instead of two. The joined map stands where the reader stood; a value that others read too
 * becomes one more output, which is allowed when the reader is the first of them. A leaky
 * integrator's membrane and spike are joined that way.
 *
 * A map of one product's result and constants (its bias) is left to that product's epilogue, where
 * the reader has more than that: of two products that are added, each keeps its own bias.
 */
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "passes/passes.h"

enum { MAX_INSTR = TDN_EXPR_MAX, MAX_IN = TDN_EXPR_MAX_IN };

typedef struct fuser {
    tdn_graph *g;
    int32_t *first_use; /* of each value id: the smallest number of a node that reads it */
} fuser;

static bool reads(const tdn_node *n, const tdn_value *v)
{
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] == v)
            return true;
    return false;
}

/* How many inputs but `v` are no constants? */
static int n_others(const tdn_node *n, const tdn_value *v)
{
    int count = 0;
    for (int i = 0; i < n->n_in; i++)
        count += n->in[i] != v && n->in[i]->kind != TDN_VALUE_CONST;
    return count;
}

/* Is p the only reader of a product, and reads constants beside? */
static bool is_bias(const tdn_node *p)
{
    const tdn_value *x = NULL;
    for (int i = 0; i < p->n_in; i++)
        if (p->in[i]->producer && tdn_core_takes_epilogue(p->in[i]->producer))
            x = p->in[i];
    return x && x->n_uses == 1 && x->output < 0 && n_others(p, x) == 0 && p->n_out == 1 &&
           tdn_shape_equal(&x->shape, &p->out[0]->shape);
}

static bool can_join(const fuser *f, const tdn_node *p, const tdn_node *c)
{
    if (p->op->core != TDN_CORE_MAP || !tdn_shape_equal(&p->out[0]->shape, &c->out[0]->shape))
        return false;
    if (p->out[0]->shape.bounded || p->n_in + c->n_in > MAX_IN ||
        p->expr->n_instr + c->expr->n_instr > MAX_INSTR)
        return false;
    if (is_bias(p) && n_others(c, p->out[0]) > 0)
        return false;
    int n_kept = 0;
    for (int i = 0; i < p->n_out; i++) {
        if (f->first_use[p->out[i]->id] < c->mark)
            return false;
        const bool is_kept = p->out[i]->output >= 0 || p->out[i]->n_uses > reads(c, p->out[i]);
        if (is_kept && p->out[i]->dtype != TDN_F32 && p->out[i]->dtype != TDN_BOOL)
            return false; /* alone, its map can be a product's epilogue, and it is read fast */
        if (tdn_is_half(p->out[i]->dtype) && reads(c, p->out[i]))
            return false; /* what is rounded stays so */
        n_kept += is_kept;
    }
    return n_kept + c->n_out <= TDN_EXPR_MAX_OUT;
}

/* The joined expression over p's inputs, then c's that p does not make. in[] gets them. */
static tdn_expr *join_exprs(fuser *f, const tdn_node *p, const tdn_node *c, tdn_value **in,
                            tdn_value **out, int *n_in, int *n_out)
{
    tdn_expr *e = tdn_arena_alloc(f->g->arena, 1, sizeof *e);
    int map[TDN_EXPR_MAX_IN], made[TDN_EXPR_MAX_OUT], results[TDN_EXPR_MAX_OUT];
    if (!e)
        return NULL;
    *n_in = *n_out = 0;
    for (int i = 0; i < p->n_in; i++) {
        in[*n_in] = p->in[i];
        map[i] = tdn_expr_input(e, (*n_in)++);
    }
    if (!tdn_expr_inline(e, p->expr, map, made))
        return NULL;
    for (int i = 0; i < c->n_in; i++) {
        int k = 0;
        while (k < p->n_out && p->out[k] != c->in[i])
            k++;
        if (k < p->n_out) {
            map[i] = made[k];
            continue;
        }
        for (k = 0; k < *n_in && in[k] != c->in[i]; k++)
            ;
        in[k] = c->in[i];
        *n_in += k == *n_in;
        map[i] = tdn_expr_input(e, k);
    }
    if (!tdn_expr_inline(e, c->expr, map, results))
        return NULL;
    bool ok = true;
    for (int i = 0; i < c->n_out; i++, (*n_out)++) {
        out[*n_out] = c->out[i];
        ok &= tdn_expr_store(e, results[i], *n_out);
    }
    for (int i = 0; i < p->n_out; i++)
        if (p->out[i]->output >= 0 || p->out[i]->n_uses > reads(c, p->out[i])) {
            out[*n_out] = p->out[i];
            ok &= tdn_expr_store(e, made[i], (*n_out)++);
        }
    e->n_in = (uint16_t)*n_in;
    return ok ? e : NULL;
}

static void update_first_use(fuser *f, tdn_value *v, const tdn_node *from)
{
    f->first_use[v->id] = INT32_MAX;
    for (const tdn_node *n = from; n; n = n->next)
        if (reads(n, v)) {
            f->first_use[v->id] = n->mark;
            return;
        }
}

/* Makes p part of c: c keeps its place and its outputs. False: too long, and nothing changed; or
 * out of memory. */
static bool join(fuser *f, tdn_node *p, tdn_node *c)
{
    tdn_value *in[TDN_EXPR_MAX_IN], *out[TDN_EXPR_MAX_OUT * 2];
    int n_in, n_out;
    tdn_expr *e = join_exprs(f, p, c, in, out, &n_in, &n_out);
    tdn_value **outs = tdn_arena_alloc(f->g->arena, (size_t)TDN_EXPR_MAX_OUT * 2, sizeof *outs);
    if (!e || !outs)
        return false;
    for (int i = 0; i < c->n_in; i++)
        tdn_node_set_input(c, i, NULL);
    c->n_in = 0;
    for (int i = 0; i < n_in; i++)
        if (!tdn_node_append_input(f->g, c, in[i]))
            return false;
    c->n_own_in = n_in;
    memcpy(outs, out, (size_t)n_out * sizeof *outs);
    for (int i = 0; i < n_out; i++)
        outs[i]->producer = c;
    for (int i = 0; i < p->n_out; i++)
        if (p->out[i]->producer == c)
            p->out[i] = NULL; /* moved */
    c->out = outs;
    c->n_out = n_out;
    c->expr = e;
    c->origin = tdn_origin_join(f->g, p->origin, c->origin);
    tdn_node *after = p->next;
    int32_t mark = p->mark;
    tdn_graph_remove(f->g, p);
    for (int i = 0; i < n_in; i++)
        if (f->first_use[in[i]->id] == mark)
            update_first_use(f, in[i], after);
    for (int i = 0; i < n_out; i++) /* c itself reads them no more */
        if (f->first_use[out[i]->id] == c->mark)
            update_first_use(f, out[i], c->next);
    return true;
}

tdn_status tdn_pass_fuse_maps(tdn_graph *g, tdn_error *error)
{
    fuser f = {g, malloc(((size_t)g->n_values + 1) * sizeof(int32_t))};
    if (!f.first_use)
        return tdn_fail_nomem(error, "fusing maps");
    for (int i = 0; i < g->n_values; i++)
        f.first_use[i] = INT32_MAX;
    tdn_graph_number(g);
    for (tdn_node *n = g->last; n; n = n->prev)
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i])
                f.first_use[n->in[i]->id] = n->mark;
    for (tdn_node *c = g->first; c && !tdn_arena_failed(g->arena); c = c->next) {
        if (c->op->core != TDN_CORE_MAP)
            continue;
        for (int i = 0; i < c->n_in && !tdn_arena_failed(g->arena); i++) {
            tdn_node *p = c->in[i]->producer;
            if (p && can_join(&f, p, c) && join(&f, p, c))
                i = -1; /* the inputs are others now */
        }
    }
    free(f.first_use);
    return TDN_OK;
}
