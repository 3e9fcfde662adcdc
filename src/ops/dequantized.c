/* SPDX-License-Identifier: Apache-2.0 */
/* See dequantized.h. A map is followed instruction by instruction: other passes may have put its
 * constants in any order. */
#include "ops/dequantized.h"

#include <math.h>

#include "base/half.h"
#include "ops/op.h"

/* The next step of (q - zero) * scale; false where it is no such one. */
static bool take(const tdn_expr *e, const tdn_instr *in, int q, tdn_dequantized *d, double *zero)
{
    const bool first = in->a == q, scaled = d->scale != 1;
    const tdn_instr *other = &e->code[first ? in->b : in->a];
    if (tdn_expr_ops[in->op].n_args != 2 || (!first && in->b != q) || other->op != TDN_X_CONST)
        return false;
    switch (in->op) {
    case TDN_X_ADD: *zero -= (double)other->imm; return !scaled;
    case TDN_X_SUB: *zero += (double)other->imm; return !scaled && first;
    case TDN_X_MUL: d->scale *= other->imm; return !scaled;
    default: return false;
    }
}

static bool is_of_one(const tdn_node *n)
{
    return n && n->op->core == TDN_CORE_MAP && n->n_in == 1 && n->n_out == 1 &&
           tdn_shape_equal(&n->in[0]->shape, &n->out[0]->shape);
}

static bool is_of_bytes(const tdn_node *n)
{
    return is_of_one(n) && (n->in[0]->dtype == TDN_U8 || n->in[0]->dtype == TDN_S8);
}

static bool is_of_halves(const tdn_node *n) { return is_of_one(n) && tdn_is_half(n->in[0]->dtype); }

static bool follow(const tdn_node *n, tdn_dequantized *d)
{
    double zero = 0;
    int q = -1;
    for (int i = 0; i < n->expr->n_instr; i++) {
        const tdn_instr *in = &n->expr->code[i];
        if (in->op == TDN_X_CONST)
            continue;
        if (in->op == TDN_X_STORE) {
            d->zero += (int32_t)zero;
            return in->a == q && zero == rint(zero) && fabs(zero) < 256;
        }
        if (in->op != TDN_X_INPUT && !take(n->expr, in, q, d, &zero))
            return false;
        q = i;
    }
    return false;
}

tdn_value *tdn_value_unsigned(const tdn_value *q)
{
    const tdn_node *n = q->producer;
    tdn_dequantized d = {.scale = 1};
    const bool shifts = q->dtype == TDN_S8 && is_of_bytes(n) && n->in[0]->dtype == TDN_U8 &&
                        follow(n, &d) && d.scale == 1 && d.zero == 128;
    return shifts ? n->in[0] : NULL;
}

bool tdn_value_is_dequantized(const tdn_value *v, tdn_dequantized *d)
{
    const tdn_node *n = v->producer;
    if ((!is_of_bytes(n) && !is_of_halves(n)) || v->dtype != TDN_F32)
        return false;
    *d = (tdn_dequantized){.q = n->in[0], .scale = 1};
    if (!follow(n, d))
        return false;
    if (is_of_halves(n))
        return d->scale == 1 && d->zero == 0;
    tdn_value *u = tdn_value_unsigned(d->q);
    if (u) {
        d->q = u;
        d->zero += 128;
    }
    return true;
}

void tdn_expr_dequantize(tdn_expr *e, float scale, float zero)
{
    int r = tdn_expr_input(e, 0);
    if (zero != 0)
        r = tdn_expr_add(e, TDN_X_SUB, r, tdn_expr_const(e, zero), 0);
    if (scale != 1)
        r = tdn_expr_add(e, TDN_X_MUL, r, tdn_expr_const(e, scale), 0);
    tdn_expr_store(e, r, 0);
    e->n_in = 1;
}
