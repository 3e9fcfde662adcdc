/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values that are marked to be kept in 8 bits or in halves (a tdn_quant of one float value) are
 * made so right where they are made, and products, maps and what moves elements read them as floats
 * again. Passes behind it turn that into products of integers or halves, and what makes them such
 * into their epilogues.
 */
#include "base/status.h"
#include "ops/dequantized.h"
#include "passes/passes.h"

static bool reads_bytes(const tdn_node *n)
{
    switch (n->op->core) {
    case TDN_CORE_CONV:
    case TDN_CORE_MATMUL: return n->in[1]->quant != NULL;
    case TDN_CORE_MAP: return true;
    default: return tdn_node_moves_elements(n);
    }
}

static tdn_value *map_after(tdn_graph *g, tdn_node *before, tdn_value *x, const tdn_expr *expr,
                            tdn_dtype dtype, const char *origin)
{
    tdn_value *v = tdn_graph_value(g, NULL);
    tdn_node *n =
        v ? tdn_graph_node(g, before, tdn_op_find("tendon", "Map", 1), NULL, &x, 1, &v, 1) : NULL;
    tdn_expr *copy = tdn_arena_alloc(g->arena, 1, sizeof *copy);
    if (!n || !copy)
        return NULL;
    *copy = *expr;
    n->expr = copy;
    n->origin = origin;
    v->dtype = dtype;
    v->shape = x->shape;
    return v;
}

/* clamp(round(x / scale) + zero). */
static void quantize_expr(tdn_expr *e, float scale, float zero)
{
    int r = tdn_expr_add(e, TDN_X_MUL, tdn_expr_input(e, 0), tdn_expr_const(e, 1 / scale), 0);
    r = tdn_expr_add(e, TDN_X_ROUND, r, 0, 0);
    if (zero != 0)
        r = tdn_expr_add(e, TDN_X_ADD, r, tdn_expr_const(e, zero), 0);
    r = tdn_expr_add(e, TDN_X_MAX, r, tdn_expr_const(e, 0), 0);
    tdn_expr_store(e, tdn_expr_add(e, TDN_X_MIN, r, tdn_expr_const(e, 255), 0), 0);
}

/* x as bytes, or as halves, then as floats again. */
static tdn_value *quantized(tdn_graph *g, tdn_node *before, tdn_value *x, const tdn_quant *quant)
{
    const bool halves = quant->n == 0;
    const float scale = halves ? 1 : quant->scale[0],
                zero = halves ? 0 : (float)quant->zero_point[0];
    const char *origin = x->producer ? x->producer->origin : x->name;
    tdn_expr to = {.n_in = 1}, from = {0};
    if (halves)
        tdn_expr_store(&to, tdn_expr_input(&to, 0), 0);
    else
        quantize_expr(&to, scale, zero);
    tdn_expr_dequantize(&from, scale, zero);
    tdn_value *q = map_after(g, before, x, &to, halves ? quant->half : TDN_U8, origin);
    return q ? map_after(g, before, q, &from, TDN_F32, origin) : NULL;
}

/* From `first` on, readers of x that read bytes read y. */
static void hand_over(tdn_node *first, tdn_value *x, tdn_value *y)
{
    for (tdn_node *n = first; n; n = n->next)
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i] == x && reads_bytes(n) && n != y->producer->in[0]->producer)
                tdn_node_set_input(n, i, y);
}

static tdn_status quantize(tdn_graph *g, tdn_node *before, tdn_value *x, tdn_error *error)
{
    const tdn_quant *quant = x->quant;
    if (!quant || x->kind == TDN_VALUE_CONST || x->dtype != TDN_F32)
        return TDN_OK;
    x->quant = NULL;
    tdn_value *y = quantized(g, before, x, quant);
    if (!y)
        return tdn_fail_nomem(error, "a quantised value");
    hand_over(before, x, y);
    return TDN_OK;
}

tdn_status tdn_pass_quantize(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->last, *prev; n; n = prev) {
        prev = n->prev;
        for (int i = 0; i < n->n_out && n->next; i++)
            if (n->out[i])
                TDN_TRY(quantize(g, n->next, n->out[i], error));
    }
    for (int i = 0; i < g->n_inputs && g->first; i++)
        TDN_TRY(quantize(g, g->first, g->inputs[i], error));
    return TDN_OK;
}
