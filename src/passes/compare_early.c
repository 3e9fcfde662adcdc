/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A function that rises everywhere, compared with a constant, is its argument compared with
 * another: sigmoid(x) > 0.5 is x >= the smallest x for which it is so. That number is searched for
 * with the function as its reference computes it, so that the answer is the reference's for every
 * x; NaN compares as false on both sides.
 */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "passes/passes.h"

static bool rises(int op)
{
    return op == TDN_X_SIGMOID || op == TDN_X_TANH || op == TDN_X_EXP || op == TDN_X_ERF;
}

static float apply(tdn_expr_op op, float x)
{
    tdn_expr e = {0};
    float y;
    tdn_expr_store(&e, tdn_expr_add(&e, op, tdn_expr_input(&e, 0), 0, 0), 0);
    tdn_expr_eval(&e, &x, &y);
    return y;
}

/* All floats from -inf to +inf, in order. */
static float nth_float(int64_t n)
{
    const uint32_t bits = n >= 0 ? (uint32_t)n : 0x80000000u | (uint32_t)(-n);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The smallest x with f(x) > c, or >= c where `or_equal`; NaN where there is none, or all are. */
static float smallest(tdn_expr_op f, float c, bool or_equal)
{
    const int64_t infinity = 0x7f800000;
    int64_t low = -infinity, high = infinity; /* not at low, at high */
    const float least = apply(f, -INFINITY), most = apply(f, INFINITY);
    if (!(or_equal ? most >= c : most > c) || !(or_equal ? least < c : least <= c))
        return NAN;
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        const float y = apply(f, nth_float(middle));
        if (or_equal ? y >= c : y > c)
            high = middle;
        else
            low = middle;
    }
    return nth_float(high);
}

static int count_uses(const tdn_expr *e, int reg)
{
    int n = 0;
    for (int i = 0; i < e->n_instr; i++) {
        const tdn_instr *k = &e->code[i];
        const int n_args = tdn_expr_ops[k->op].n_args;
        n +=
            (n_args > 0 && k->a == reg) + (n_args > 1 && k->b == reg) + (n_args > 2 && k->c == reg);
    }
    return n;
}

/* Instruction i as a comparison of the argument of instruction f with `bound`: op, or -1 where it
 * is none. */
static int early(const tdn_expr *e, int i, int *f, float *bound)
{
    static const uint8_t turned[] = {TDN_X_GT, TDN_X_GE, TDN_X_LT, TDN_X_LE}; /* of LT LE GT GE */
    const tdn_instr *k = &e->code[i];
    if (k->op < TDN_X_LT || k->op > TDN_X_GE)
        return -1;
    const bool swapped = e->code[k->a].op == TDN_X_CONST;
    const int c = swapped ? k->a : k->b;
    *f = swapped ? k->b : k->a;
    const int op = swapped ? turned[k->op - TDN_X_LT] : k->op;
    if (e->code[c].op != TDN_X_CONST || !rises(e->code[*f].op) || count_uses(e, *f) != 1)
        return -1;
    *bound =
        smallest((tdn_expr_op)e->code[*f].op, e->code[c].imm, op == TDN_X_GE || op == TDN_X_LT);
    if (isnan(*bound))
        return -1;
    return op == TDN_X_GT || op == TDN_X_GE ? TDN_X_GE : TDN_X_LT;
}
_Static_assert(TDN_X_LE == TDN_X_LT + 1 && TDN_X_GT == TDN_X_LT + 2 && TDN_X_GE == TDN_X_LT + 3,
               "comparisons are neighbours");

static bool rewrite(tdn_expr *to, const tdn_expr *e)
{
    int regs[TDN_EXPR_MAX], ops[TDN_EXPR_MAX], functions[TDN_EXPR_MAX];
    float bounds[TDN_EXPR_MAX];
    bool is_dead[TDN_EXPR_MAX] = {false};
    for (int i = 0; i < e->n_instr; i++) {
        ops[i] = early(e, i, &functions[i], &bounds[i]);
        if (ops[i] >= 0)
            is_dead[functions[i]] = true;
    }
    for (int i = 0; i < e->n_instr; i++) {
        const tdn_instr *k = &e->code[i];
        if (is_dead[i])
            regs[i] = regs[k->a];
        else if (ops[i] >= 0)
            regs[i] = tdn_expr_add(to, (tdn_expr_op)ops[i], regs[functions[i]],
                                   tdn_expr_const(to, bounds[i]), 0);
        else if (k->op == TDN_X_INPUT)
            regs[i] = tdn_expr_input(to, k->index);
        else if (k->op == TDN_X_CONST)
            regs[i] = tdn_expr_const(to, k->imm);
        else if (k->op == TDN_X_STORE)
            regs[i] = tdn_expr_store(to, regs[k->a], k->index) ? regs[k->a] : -1;
        else
            regs[i] = tdn_expr_add(to, (tdn_expr_op)k->op, regs[k->a], regs[k->b], regs[k->c]);
        if (regs[i] < 0)
            return false;
    }
    to->n_in = e->n_in;
    return true;
}

tdn_status tdn_pass_compare_early(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first; n; n = n->next) {
        bool found = false;
        int f;
        float bound;
        for (int i = 0; n->expr && i < n->expr->n_instr && !found; i++)
            found = early(n->expr, i, &f, &bound) >= 0;
        if (!found)
            continue;
        tdn_expr *e = tdn_arena_alloc(g->arena, 1, sizeof *e);
        if (!e)
            return tdn_fail_nomem(error, "a comparison");
        if (rewrite(e, n->expr))
            n->expr = e;
    }
    return TDN_OK;
}
