/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Facts about values, followed through the graph: expressions are followed register by register,
 * and what only moves elements keeps a fact.
 *
 * Binary: 0 or 1 everywhere, the results of comparisons. Such values are spikes, masks and one-hot
 * vectors, and mostly zeros as a rule. Not negative: what a rectifier, a sigmoid or a root makes.
 */
#include "ops/signs.h"

#include <string.h>

typedef struct fact {
    bool (*of_instr)(const tdn_instr *k, const bool *regs);
    bool (*of_number)(double x);
    tdn_dtype dtype; /* values of it have the fact */
    bool of_means;   /* sums, means and products of what has it have it */
    int64_t look_at; /* constants of at most so many numbers */
} fact;

/* ---- Expressions ----------------------------------------------------------------------------- */

static bool is_truth(int op)
{
    return (op >= TDN_X_EQ && op <= TDN_X_NOT) || op == TDN_X_ISNAN || op == TDN_X_ISINF;
}

static bool stays_binary(const tdn_instr *k, const bool *regs)
{
    switch (k->op) {
    case TDN_X_STORE:
    case TDN_X_ABS: return regs[k->a];
    case TDN_X_MUL:
    case TDN_X_MIN:
    case TDN_X_MAX: return regs[k->a] && regs[k->b];
    case TDN_X_SELECT: return regs[k->b] && regs[k->c];
    default: return is_truth(k->op);
    }
}

static bool stays_not_negative(const tdn_instr *k, const bool *regs)
{
    switch (k->op) {
    case TDN_X_ABS:
    case TDN_X_EXP:
    case TDN_X_SIGMOID:
    case TDN_X_ACOS:
    case TDN_X_COSH: return true;
    case TDN_X_SQRT:
    case TDN_X_STORE:
    case TDN_X_RECIP:
    case TDN_X_FLOOR:
    case TDN_X_CEIL:
    case TDN_X_ROUND:
    case TDN_X_TRUNC:
    case TDN_X_SIGN:
    case TDN_X_TANH:
    case TDN_X_ERF:
    case TDN_X_MOD: return regs[k->a];
    case TDN_X_MAX: return regs[k->a] || regs[k->b];
    case TDN_X_MUL: return k->a == k->b || (regs[k->a] && regs[k->b]);
    case TDN_X_ADD:
    case TDN_X_DIV:
    case TDN_X_POW:
    case TDN_X_MIN: return regs[k->a] && regs[k->b];
    case TDN_X_FMA: return (k->a == k->b || (regs[k->a] && regs[k->b])) && regs[k->c];
    case TDN_X_SELECT: return regs[k->b] && regs[k->c];
    default: return is_truth(k->op);
    }
}

static bool is_binary(double x) { return x == 0 || x == 1; }
static bool is_not_negative(double x) { return x >= 0; }

static const fact binary = {stays_binary, is_binary, TDN_BOOL, false, 1 << 16};
static const fact not_negative = {stays_not_negative, is_not_negative, TDN_U8, true, 0};

/* ---- Nodes ----------------------------------------------------------------------------------- */

/* A map's results, or those of an epilogue, whose input 0 is a sum. */
static void mark_by_expr(const fact *f, const tdn_node *n, bool *has)
{
    bool regs[TDN_EXPR_MAX];
    const bool is_map = n->op->core == TDN_CORE_MAP;
    for (int i = 0; i < n->expr->n_instr; i++) {
        const tdn_instr *k = &n->expr->code[i];
        const int operand = is_map ? k->index : n->n_own_in + k->index - 1;
        if (k->op == TDN_X_INPUT)
            regs[i] = (is_map || k->index > 0) && operand < n->n_in && has[n->in[operand]->id];
        else
            regs[i] = k->op == TDN_X_CONST ? f->of_number((double)k->imm) : f->of_instr(k, regs);
        if (k->op == TDN_X_STORE && k->index < n->n_out && n->out[k->index])
            has[n->out[k->index]->id] = regs[i];
    }
}

static bool all_inputs(const tdn_node *n, const bool *has)
{
    for (int i = 0; i < n->n_in; i++)
        if (!n->in[i] || !has[n->in[i]->id])
            return false;
    return n->n_in > 0;
}

static bool of_node(const fact *f, const tdn_node *n, const bool *has)
{
    const bool of_x = has[n->in[0]->id];
    switch (n->op->core) {
    case TDN_CORE_TRANSPOSE:
    case TDN_CORE_SLICE:
    case TDN_CORE_RESHAPE:
    case TDN_CORE_EXPAND: return of_x;
    case TDN_CORE_CONCAT: return all_inputs(n, has);
    case TDN_CORE_POOL:
        return of_x && (f->of_means || !strcmp(tdn_attr_string(&n->attrs, "kind", ""), "max"));
    case TDN_CORE_REDUCE:
        return of_x && f->of_means && strncmp(tdn_attr_string(&n->attrs, "kind", "log"), "log", 3);
    case TDN_CORE_SOFTMAX: return f->of_means && !tdn_attr_int(&n->attrs, "log", 0);
    case TDN_CORE_PAD: return of_x && f->of_number((double)tdn_attr_float(&n->attrs, "value", 0));
    default: return false;
    }
}

static void mark(const fact *f, const tdn_node *n, bool *has)
{
    if (n->expr)
        mark_by_expr(f, n, has);
    else if (tdn_in(n, 0) && tdn_out(n, 0))
        has[n->out[0]->id] = of_node(f, n, has);
}

static bool is_constant_with(const fact *f, const tdn_value *v)
{
    const int64_t n = tdn_shape_count(&v->shape);
    bool has = v->kind == TDN_VALUE_CONST && v->dtype == TDN_F32 && n <= f->look_at;
    for (int64_t i = 0; i < n && has; i++)
        has = f->of_number((double)((const float *)v->data)[i]);
    return has;
}

static bool *values_with(const fact *f, const tdn_graph *g, tdn_arena *arena)
{
    bool *has = tdn_arena_alloc(arena, (size_t)g->n_values + 1, sizeof *has);
    if (!has)
        return NULL;
    for (const tdn_node *n = g->first; n; n = n->next) {
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i] && (n->in[i]->dtype == f->dtype || is_constant_with(f, n->in[i])))
                has[n->in[i]->id] = true;
        mark(f, n, has);
    }
    return has;
}

bool *tdn_binary_values(const tdn_graph *g, tdn_arena *arena)
{
    return values_with(&binary, g, arena);
}

bool *tdn_not_negative_values(const tdn_graph *g, tdn_arena *arena)
{
    return values_with(&not_negative, g, arena);
}
