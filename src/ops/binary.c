/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which values are 0 or 1 everywhere: results of comparisons, through what only moves elements or
 * keeps them so. Such values are spikes, masks and one-hot vectors, and mostly zeros as a rule.
 */
#include "ops/binary.h"

#include <string.h>

static bool is_kept(const tdn_instr *k, const bool *regs)
{
    switch (k->op) {
    case TDN_X_CONST: return k->imm == 0 || k->imm == 1;
    case TDN_X_EQ:
    case TDN_X_LT:
    case TDN_X_LE:
    case TDN_X_GT:
    case TDN_X_GE:
    case TDN_X_AND:
    case TDN_X_OR:
    case TDN_X_XOR:
    case TDN_X_NOT:
    case TDN_X_ISNAN:
    case TDN_X_ISINF: return true;
    case TDN_X_STORE:
    case TDN_X_ABS: return regs[k->a];
    case TDN_X_MUL:
    case TDN_X_MIN:
    case TDN_X_MAX: return regs[k->a] && regs[k->b];
    case TDN_X_SELECT: return regs[k->b] && regs[k->c];
    default: return false;
    }
}

/* A map's results, or those of an epilogue, whose input 0 is a sum. */
static void mark_by_expr(const tdn_node *n, bool *binary)
{
    bool regs[TDN_EXPR_MAX];
    const bool is_map = n->op->core == TDN_CORE_MAP;
    for (int i = 0; i < n->expr->n_instr; i++) {
        const tdn_instr *k = &n->expr->code[i];
        const int operand = is_map ? k->index : n->n_own_in + k->index - 1;
        if (k->op == TDN_X_INPUT)
            regs[i] = (is_map || k->index > 0) && operand < n->n_in && binary[n->in[operand]->id];
        else
            regs[i] = is_kept(k, regs);
        if (k->op == TDN_X_STORE && k->index < n->n_out && n->out[k->index])
            binary[n->out[k->index]->id] = regs[i];
    }
}

static bool all_inputs(const tdn_node *n, const bool *binary)
{
    for (int i = 0; i < n->n_in; i++)
        if (!n->in[i] || !binary[n->in[i]->id])
            return false;
    return n->n_in > 0;
}

static void mark(const tdn_node *n, bool *binary)
{
    if (n->expr) {
        mark_by_expr(n, binary);
        return;
    }
    const tdn_value *x = tdn_in(n, 0), *y = tdn_out(n, 0);
    if (!x || !y)
        return;
    switch (n->op->core) {
    case TDN_CORE_TRANSPOSE:
    case TDN_CORE_SLICE:
    case TDN_CORE_RESHAPE:
    case TDN_CORE_EXPAND: binary[y->id] = binary[x->id]; break;
    case TDN_CORE_CONCAT: binary[y->id] = all_inputs(n, binary); break;
    case TDN_CORE_POOL:
        binary[y->id] = binary[x->id] && !strcmp(tdn_attr_string(&n->attrs, "kind", ""), "max");
        break;
    case TDN_CORE_PAD: {
        const float value = tdn_attr_float(&n->attrs, "value", 0);
        binary[y->id] = binary[x->id] && (value == 0 || value == 1);
        break;
    }
    default: break;
    }
}

bool *tdn_binary_values(const tdn_graph *g, tdn_arena *arena)
{
    bool *binary = tdn_arena_alloc(arena, (size_t)g->n_values + 1, sizeof *binary);
    if (!binary)
        return NULL;
    for (const tdn_node *n = g->first; n; n = n->next) {
        for (int i = 0; i < n->n_in; i++)
            if (n->in[i] && n->in[i]->dtype == TDN_BOOL)
                binary[n->in[i]->id] = true;
        mark(n, binary);
    }
    return binary;
}
