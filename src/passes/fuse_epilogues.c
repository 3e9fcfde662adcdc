/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A map that is the only reader of a convolution's or matmul's result becomes its epilogue: the
 * result never goes to memory without it. The joined node stands where the map stood, since the
 * map's other inputs are made before that. The scales of sums of integers go first: joined with
 * another product's, they could be no one's epilogue.
 */
#include "base/status.h"
#include "passes/passes.h"

bool tdn_core_takes_epilogue(const tdn_node *n)
{
    return n->op->core == TDN_CORE_CONV || n->op->core == TDN_CORE_MATMUL ||
           n->op->core == TDN_CORE_MIX || n->op->core == TDN_CORE_GRAPHCONV ||
           tdn_node_is_of_integers(n) || tdn_node_is_of_halves(n);
}

static bool takes_epilogue(const tdn_node *n)
{
    return tdn_core_takes_epilogue(n) && n->n_out == 1 &&
           n->out[0]->dtype == (tdn_node_is_of_integers(n) && !n->expr ? TDN_S32 : TDN_F32) &&
           n->out[0]->output < 0 && n->out[0]->n_uses == 1 && !n->out[0]->shape.bounded;
}

static tdn_node *reader(const tdn_node *n)
{
    for (tdn_node *u = n->next; u; u = u->next)
        for (int i = 0; i < u->n_in; i++)
            if (u->in[i] == n->out[0])
                return u;
    return NULL;
}

/* Of an operand of its epilogue, or of the result. */
static bool takes_dtype(const tdn_node *n, tdn_dtype dtype)
{
    return dtype == TDN_F32 || (dtype == TDN_U8 && tdn_node_is_of_integers(n)) ||
           (dtype == n->in[0]->dtype && tdn_node_is_of_halves(n));
}

static bool makes_dtype(const tdn_node *n, tdn_dtype dtype)
{
    return takes_dtype(n, dtype) || (n->op->core == TDN_CORE_GRAPHCONV && dtype != TDN_BOOL);
}

static bool fits(const tdn_node *n, const tdn_node *map)
{
    if (!map || map->op->core != TDN_CORE_MAP || map->n_out != 1 ||
        !makes_dtype(n, map->out[0]->dtype))
        return false;
    for (int i = 0; i < map->n_in; i++)
        if (map->in[i] != n->out[0] && !takes_dtype(n, map->in[i]->dtype))
            return false;
    return tdn_shape_equal(&map->out[0]->shape, &n->out[0]->shape);
}

/* The expression of n, or its result as it is, then the map's; extra[] gets its operands. */
static tdn_expr *joined(tdn_graph *g, const tdn_node *n, const tdn_node *map, tdn_value **extra,
                        int *n_extra)
{
    tdn_expr *e = tdn_arena_alloc(g->arena, 1, sizeof *e);
    int order[TDN_EXPR_MAX_IN], result, made;
    *n_extra = n->n_in - n->n_own_in;
    if (!e || map->n_in + *n_extra >= TDN_EXPR_MAX_IN)
        return NULL;
    made = order[0] = tdn_expr_input(e, 0);
    for (int i = 0; i < *n_extra; i++) {
        extra[i] = n->in[n->n_own_in + i];
        order[1 + i] = tdn_expr_input(e, 1 + i);
    }
    if (n->expr && !tdn_expr_inline(e, n->expr, order, &made))
        return NULL;
    for (int i = 0; i < map->n_in; i++) {
        if (map->in[i] == n->out[0]) {
            order[i] = made;
            continue;
        }
        extra[(*n_extra)++] = map->in[i];
        order[i] = tdn_expr_input(e, *n_extra);
    }
    if (!tdn_expr_inline(e, map->expr, order, &result) || !tdn_expr_store(e, result, 0))
        return NULL;
    e->n_in = (uint16_t)(1 + *n_extra);
    return e;
}

/* Turns `map` into the operator of n with the map as its epilogue, behind the one that it may have.
 * False: out of memory, or too long. */
static bool fuse(tdn_graph *g, tdn_node *n, tdn_node *map)
{
    tdn_value *extra[TDN_EXPR_MAX_IN];
    int n_extra;
    tdn_expr *e = joined(g, n, map, extra, &n_extra);
    if (!e)
        return false;
    for (int i = 0; i < map->n_in; i++)
        tdn_node_set_input(map, i, NULL);
    map->n_in = 0;
    bool ok = true;
    for (int i = 0; i < n->n_own_in && ok; i++)
        ok = tdn_node_append_input(g, map, n->in[i]);
    map->n_own_in = map->n_in;
    for (int i = 0; i < n_extra && ok; i++)
        ok = tdn_node_append_input(g, map, extra[i]);
    map->op = n->op;
    map->attrs = n->attrs;
    map->expr = e;
    map->origin = tdn_origin_join(g, n->origin, map->origin);
    tdn_graph_remove(g, n);
    return ok;
}

/* Only of constants beside the sums of integers: their scale, the bias, what follows these. */
static bool is_scale(const tdn_node *n, const tdn_node *map)
{
    for (int i = 0; i < map->n_in; i++)
        if (map->in[i] != n->out[0] && map->in[i]->kind != TDN_VALUE_CONST)
            return false;
    return tdn_node_is_of_integers(n);
}

static tdn_status fuse_all(tdn_graph *g, bool scales_only, tdn_error *error)
{
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        if (!takes_epilogue(n))
            continue;
        tdn_node *map = reader(n);
        if (fits(n, map) && (!scales_only || is_scale(n, map)) && !fuse(g, n, map) &&
            tdn_arena_failed(g->arena))
            return tdn_fail_nomem(error, "an epilogue");
    }
    return TDN_OK;
}

tdn_status tdn_pass_fuse_epilogues(tdn_graph *g, tdn_error *error)
{
    return fuse_all(g, false, error);
}

tdn_status tdn_pass_fuse_scales(tdn_graph *g, tdn_error *error) { return fuse_all(g, true, error); }
