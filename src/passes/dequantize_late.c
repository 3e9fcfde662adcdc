/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes are moved instead of the real numbers that they stand for: a transpose, reshape or slice of
 * a dequantised value, or the largest in a window of it, is dequantised behind it. What quantises
 * such a value again, by the same scale, does nothing and goes. So with halves, which are bytes
 * here.
 */
#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "ops/dequantized.h"
#include "ops/emit.h"
#include "passes/passes.h"

static tdn_status move_behind(tdn_graph *g, tdn_node *n, const tdn_dequantized *d, tdn_error *error)
{
    tdn_infer io = tdn_infer_at(g, n, error);
    tdn_value *q = tdn_node_copy(g, n, n, &d->q, &n->out[0]->shape);
    if (!q)
        return tdn_fail_nomem(error, "a moved value");
    q->dtype = d->q->dtype;
    tdn_expr e = {0};
    tdn_expr_dequantize(&e, d->scale, (float)d->zero);
    return tdn_emit_end(&io, tdn_emit_map(&io, &q, 1, &e, TDN_F32));
}

/* Takes off an operation of x and a constant; returns the constant, and x in *at. */
static bool peel(const tdn_expr *e, int *at, tdn_expr_op op, float *c)
{
    const tdn_instr *in = &e->code[*at];
    if (in->op != op || e->code[in->b].op != TDN_X_CONST)
        return false;
    *c = e->code[in->b].imm;
    *at = in->a;
    return true;
}

/* Is the map clamp(round(in0 / scale) + zero) to bytes, as quantising makes it? */
static bool is_quantizing(const tdn_node *n, float *scale, float *zero)
{
    const tdn_expr *e = n->expr;
    float lo, hi, more;
    if (n->op->core != TDN_CORE_MAP || n->n_in != 1 || n->n_out != 1 ||
        n->out[0]->dtype != TDN_U8 || n->in[0]->dtype != TDN_F32)
        return false;
    int at = e->n_instr - 1;
    *zero = 0;
    at = e->code[at].op == TDN_X_STORE ? e->code[at].a : at;
    if (!peel(e, &at, TDN_X_MIN, &hi) || !peel(e, &at, TDN_X_MAX, &lo) || hi != 255 || lo != 0)
        return false;
    while (peel(e, &at, TDN_X_ADD, &more))
        *zero += more;
    if (e->code[at].op != TDN_X_ROUND)
        return false;
    at = e->code[at].a;
    return peel(e, &at, TDN_X_DIV, scale) && e->code[at].op == TDN_X_INPUT;
}

/* Is the map in0 as it is, in halves? */
static bool is_halving(const tdn_node *n)
{
    const tdn_expr *e = n->expr;
    return n->op->core == TDN_CORE_MAP && n->n_in == 1 && n->n_out == 1 &&
           n->in[0]->dtype == TDN_F32 && tdn_is_half(n->out[0]->dtype) && e->n_instr == 2 &&
           e->code[0].op == TDN_X_INPUT && e->code[1].op == TDN_X_STORE;
}

/* Does n make again what d is made of? */
static bool makes_again(const tdn_node *n, const tdn_dequantized *d)
{
    float scale, zero;
    const bool same = d->q->dtype == TDN_U8 ? is_quantizing(n, &scale, &zero) &&
                                                  scale == d->scale && zero == (float)d->zero
                                            : is_halving(n) && n->out[0]->dtype == d->q->dtype;
    return same && tdn_shape_equal(&d->q->shape, &n->out[0]->shape);
}

tdn_status tdn_pass_dequantize_late(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        tdn_dequantized d;
        if (n->n_in == 0 || !n->in[0] || !n->out[0] || !tdn_value_is_dequantized(n->in[0], &d))
            continue;
        if (tdn_node_moves_elements(n) && n->out[0]->output < 0)
            TDN_TRY(move_behind(g, n, &d, error));
        else if (makes_again(n, &d))
            tdn_graph_replace(g, n->out[0], d.q);
    }
    return TDN_OK;
}
