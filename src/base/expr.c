/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Expressions: building with sharing, joining, checking bytes of unknown origin, the plain
 * evaluation, and text.
 *
 * An expression has one form only: unused fields are 0, equal instructions are one, so equal
 * expressions are equal bytes. tdn_expr_check insists on it; evaluation then trusts every number.
 */
#include "base/expr.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const tdn_expr_op_def tdn_expr_ops[TDN_X_COUNT] = {
    [TDN_X_INPUT] = {"in", 0},        [TDN_X_CONST] = {"const", 0}, [TDN_X_STORE] = {"store", 1},
    [TDN_X_ADD] = {"add", 2},         [TDN_X_SUB] = {"sub", 2},     [TDN_X_MUL] = {"mul", 2},
    [TDN_X_DIV] = {"div", 2},         [TDN_X_MIN] = {"min", 2},     [TDN_X_MAX] = {"max", 2},
    [TDN_X_POW] = {"pow", 2},         [TDN_X_MOD] = {"mod", 2},     [TDN_X_FMA] = {"fma", 3},
    [TDN_X_SELECT] = {"select", 3},   [TDN_X_EQ] = {"eq", 2},       [TDN_X_LT] = {"lt", 2},
    [TDN_X_LE] = {"le", 2},           [TDN_X_GT] = {"gt", 2},       [TDN_X_GE] = {"ge", 2},
    [TDN_X_AND] = {"and", 2},         [TDN_X_OR] = {"or", 2},       [TDN_X_XOR] = {"xor", 2},
    [TDN_X_NOT] = {"not", 1},         [TDN_X_NEG] = {"neg", 1},     [TDN_X_ABS] = {"abs", 1},
    [TDN_X_SIGN] = {"sign", 1},       [TDN_X_RECIP] = {"recip", 1}, [TDN_X_SQRT] = {"sqrt", 1},
    [TDN_X_EXP] = {"exp", 1},         [TDN_X_LOG] = {"log", 1},     [TDN_X_TANH] = {"tanh", 1},
    [TDN_X_SIGMOID] = {"sigmoid", 1}, [TDN_X_ERF] = {"erf", 1},     [TDN_X_SIN] = {"sin", 1},
    [TDN_X_COS] = {"cos", 1},         [TDN_X_TAN] = {"tan", 1},     [TDN_X_ASIN] = {"asin", 1},
    [TDN_X_ACOS] = {"acos", 1},       [TDN_X_ATAN] = {"atan", 1},   [TDN_X_SINH] = {"sinh", 1},
    [TDN_X_COSH] = {"cosh", 1},       [TDN_X_ASINH] = {"asinh", 1}, [TDN_X_ACOSH] = {"acosh", 1},
    [TDN_X_ATANH] = {"atanh", 1},     [TDN_X_FLOOR] = {"floor", 1}, [TDN_X_CEIL] = {"ceil", 1},
    [TDN_X_ROUND] = {"round", 1},     [TDN_X_TRUNC] = {"trunc", 1}, [TDN_X_ISNAN] = {"isnan", 1},
    [TDN_X_ISINF] = {"isinf", 1},
};

#define HEAD_SIZE offsetof(tdn_expr, code)

size_t tdn_expr_size(const tdn_expr *expr)
{
    return HEAD_SIZE + expr->n_instr * sizeof expr->code[0];
}

/* ---- Checking -------------------------------------------------------------------------------- */

static bool is_zero_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u == 0;
}

static tdn_status check_instr(const tdn_expr *head, const tdn_instr *in, int at, unsigned *stored,
                              tdn_error *error)
{
    if (in->op >= TDN_X_COUNT)
        return tdn_fail(error, TDN_E_FORMAT, "expression instruction %d has unknown operation %d",
                        at, in->op);
    const uint8_t args[3] = {in->a, in->b, in->c};
    for (int i = 0; i < 3; i++)
        if (i < tdn_expr_ops[in->op].n_args ? args[i] >= at : args[i] != 0)
            return tdn_fail(error, TDN_E_FORMAT, "expression instruction %d reads register %d", at,
                            args[i]);
    const int limit = in->op == TDN_X_INPUT ? head->n_in : in->op == TDN_X_STORE ? head->n_out : 1;
    if (in->index >= limit || in->zero != 0 || (in->op != TDN_X_CONST && !is_zero_bits(in->imm)))
        return tdn_fail(error, TDN_E_FORMAT, "expression instruction %d has index %d out of range",
                        at, in->index);
    if (in->op == TDN_X_STORE) {
        if (*stored >> in->index & 1)
            return tdn_fail(error, TDN_E_FORMAT, "expression stores output %d twice", in->index);
        *stored |= 1u << in->index;
    }
    return TDN_OK;
}

tdn_status tdn_expr_check(const void *expr, size_t size, tdn_error *error)
{
    tdn_expr head; /* its first bytes only: what is checked may be shorter than the struct, and
                      unaligned */
    if (size < HEAD_SIZE)
        return tdn_fail(error, TDN_E_FORMAT, "expression of %zu bytes has no header", size);
    memcpy(&head, expr, HEAD_SIZE);
    if (head.n_in > TDN_EXPR_MAX_IN || head.n_out > TDN_EXPR_MAX_OUT || head.n_out == 0 ||
        head.n_instr > TDN_EXPR_MAX || head.zero != 0)
        return tdn_fail(error, TDN_E_FORMAT,
                        "expression with %d inputs, %d outputs and %d instructions is out of range",
                        head.n_in, head.n_out, head.n_instr);
    if (tdn_expr_size(&head) > size)
        return tdn_fail(error, TDN_E_FORMAT, "expression of %d instructions is cut at %zu bytes",
                        head.n_instr, size);
    unsigned stored = 0;
    for (int i = 0; i < head.n_instr; i++) {
        tdn_instr in;
        memcpy(&in, (const char *)expr + HEAD_SIZE + (size_t)i * sizeof in, sizeof in);
        TDN_TRY(check_instr(&head, &in, i, &stored, error));
    }
    if (stored != (1u << head.n_out) - 1)
        return tdn_fail(error, TDN_E_FORMAT, "expression does not store all of its %d outputs",
                        head.n_out);
    return TDN_OK;
}

/* ---- Building -------------------------------------------------------------------------------- */

static int add_instr(tdn_expr *expr, const tdn_instr *in)
{
    for (int i = 0; i < expr->n_instr; i++)
        if (memcmp(&expr->code[i], in, sizeof *in) == 0)
            return i;
    if (expr->n_instr == TDN_EXPR_MAX)
        return -1;
    expr->code[expr->n_instr] = *in;
    return expr->n_instr++;
}

static bool is_const(const tdn_expr *e, int at, float imm)
{
    return e->code[at].op == TDN_X_CONST && memcmp(&e->code[at].imm, &imm, sizeof imm) == 0;
}

/* The argument that the operation leaves as it is, or -1: x * 1, x / 1, x - 0, x + -0. */
static int unchanged(const tdn_expr *e, tdn_expr_op op, const int args[3])
{
    const float neutral = op == TDN_X_MUL || op == TDN_X_DIV ? 1 : op == TDN_X_ADD ? -0.f : 0;
    if (op != TDN_X_MUL && op != TDN_X_DIV && op != TDN_X_ADD && op != TDN_X_SUB)
        return -1;
    if (is_const(e, args[1], neutral))
        return args[0];
    return (op == TDN_X_MUL || op == TDN_X_ADD) && is_const(e, args[0], neutral) ? args[1] : -1;
}

int tdn_expr_add(tdn_expr *expr, tdn_expr_op op, int a, int b, int c)
{
    if ((unsigned)op >= TDN_X_COUNT || op <= TDN_X_STORE)
        return -1;
    int args[3] = {a, b, c};
    for (int i = 0; i < 3; i++) {
        if (i >= tdn_expr_ops[op].n_args)
            args[i] = 0;
        else if (args[i] < 0 ||
                 args[i] >= expr->n_instr) /* so that a -1 of an earlier call stays -1 */
            return -1;
    }
    const int same = unchanged(expr, op, args);
    if (same >= 0)
        return same;
    return add_instr(expr, &(tdn_instr){.op = (uint8_t)op,
                                        .a = (uint8_t)args[0],
                                        .b = (uint8_t)args[1],
                                        .c = (uint8_t)args[2]});
}

int tdn_expr_input(tdn_expr *expr, int index)
{
    if (index < 0 || index >= TDN_EXPR_MAX_IN)
        return -1;
    const int reg = add_instr(expr, &(tdn_instr){.op = TDN_X_INPUT, .index = (uint16_t)index});
    if (reg >= 0 && expr->n_in <= index)
        expr->n_in = (uint16_t)(index + 1);
    return reg;
}

int tdn_expr_const(tdn_expr *expr, float imm)
{
    return add_instr(expr, &(tdn_instr){.op = TDN_X_CONST, .imm = imm});
}

bool tdn_expr_store(tdn_expr *expr, int reg, int output)
{
    if (reg < 0 || reg >= expr->n_instr || output < 0 || output >= TDN_EXPR_MAX_OUT)
        return false;
    for (int i = 0; i < expr->n_instr; i++)
        if (expr->code[i].op == TDN_X_STORE && expr->code[i].index == output)
            return false;
    if (add_instr(expr, &(tdn_instr){
                            .op = TDN_X_STORE, .a = (uint8_t)reg, .index = (uint16_t)output}) < 0)
        return false;
    if (expr->n_out <= output)
        expr->n_out = (uint16_t)(output + 1);
    return true;
}

bool tdn_expr_inline(tdn_expr *to, const tdn_expr *from, const int *map, int *results)
{
    const uint16_t before = to->n_instr;
    const int n = from->n_instr; /* fixed here, because `from` may be `to` */
    int moved[TDN_EXPR_MAX];
    for (int i = 0; i < n; i++) {
        const tdn_instr in = from->code[i];
        if (in.op == TDN_X_INPUT)
            moved[i] = map[in.index];
        else if (in.op == TDN_X_CONST)
            moved[i] = tdn_expr_const(to, in.imm);
        else if (in.op == TDN_X_STORE)
            moved[i] = results[in.index] = moved[in.a];
        else
            moved[i] = tdn_expr_add(to, (tdn_expr_op)in.op, moved[in.a], moved[in.b], moved[in.c]);
        if (moved[i] < 0) {
            memset(to->code + before, 0, (size_t)(to->n_instr - before) * sizeof to->code[0]);
            to->n_instr = before;
            return false;
        }
    }
    return true;
}

/* ---- Evaluation ------------------------------------------------------------------------------ */

static float with_nan(float a, float b, float chosen)
{
    return isnan(a) || isnan(b) ? a + b : chosen;
}

/* One operation in libm, one row each. */
static float eval_op(tdn_expr_op op, float a, float b, float c)
{
    switch (op) {
    case TDN_X_ADD: return a + b;
    case TDN_X_SUB: return a - b;
    case TDN_X_MUL: return a * b;
    case TDN_X_DIV: return a / b;
    case TDN_X_MIN: return with_nan(a, b, a < b ? a : b);
    case TDN_X_MAX: return with_nan(a, b, a > b ? a : b);
    case TDN_X_POW: return powf(a, b);
    case TDN_X_MOD: return fmodf(a, b);
    case TDN_X_FMA: return fmaf(a, b, c);
    case TDN_X_SELECT: return a != 0 ? b : c;
    case TDN_X_EQ: return a == b;
    case TDN_X_LT: return a < b;
    case TDN_X_LE: return a <= b;
    case TDN_X_GT: return a > b;
    case TDN_X_GE: return a >= b;
    case TDN_X_AND: return a != 0 && b != 0;
    case TDN_X_OR: return a != 0 || b != 0;
    case TDN_X_XOR: return (a != 0) != (b != 0);
    case TDN_X_NOT: return a == 0;
    case TDN_X_NEG: return -a;
    case TDN_X_ABS: return fabsf(a);
    case TDN_X_SIGN: return a > 0 ? 1.0f : a < 0 ? -1.0f : a;
    case TDN_X_RECIP: return 1.0f / a;
    case TDN_X_SQRT: return sqrtf(a);
    case TDN_X_EXP: return expf(a);
    case TDN_X_LOG: return logf(a);
    case TDN_X_TANH: return tanhf(a);
    case TDN_X_SIGMOID: return 1.0f / (1.0f + expf(-a));
    case TDN_X_ERF: return erff(a);
    case TDN_X_SIN: return sinf(a);
    case TDN_X_COS: return cosf(a);
    case TDN_X_TAN: return tanf(a);
    case TDN_X_ASIN: return asinf(a);
    case TDN_X_ACOS: return acosf(a);
    case TDN_X_ATAN: return atanf(a);
    case TDN_X_SINH: return sinhf(a);
    case TDN_X_COSH: return coshf(a);
    case TDN_X_ASINH: return asinhf(a);
    case TDN_X_ACOSH: return acoshf(a);
    case TDN_X_ATANH: return atanhf(a);
    case TDN_X_FLOOR: return floorf(a);
    case TDN_X_CEIL: return ceilf(a);
    case TDN_X_ROUND: return nearbyintf(a);
    case TDN_X_TRUNC: return truncf(a);
    case TDN_X_ISNAN: return isnan(a) ? 1.0f : 0.0f;
    case TDN_X_ISINF: return isinf(a) ? 1.0f : 0.0f;
    default: return a; /* STORE */
    }
}

void tdn_expr_eval(const tdn_expr *expr, const float *in, float *out)
{
    float reg[TDN_EXPR_MAX];
    for (int i = 0; i < expr->n_instr; i++) {
        const tdn_instr *at = &expr->code[i];
        if (at->op == TDN_X_INPUT) {
            reg[i] = in[at->index];
        } else if (at->op == TDN_X_CONST) {
            reg[i] = at->imm;
        } else {
            const int n_args = tdn_expr_ops[at->op].n_args;
            reg[i] = eval_op((tdn_expr_op)at->op, reg[at->a], n_args > 1 ? reg[at->b] : 0,
                             n_args > 2 ? reg[at->c] : 0);
            if (at->op == TDN_X_STORE)
                out[at->index] = reg[i];
        }
    }
}

/* ---- Text ------------------------------------------------------------------------------------ */

typedef struct line {
    char *text;
    size_t size, used;
} line;

__attribute__((format(printf, 2, 3))) static void put(line *l, const char *format, ...)
{
    if (l->used + 1 >= l->size)
        return;
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(l->text + l->used, l->size - l->used, format, args);
    va_end(args);
    if (n > 0)
        l->used += (size_t)n < l->size - l->used ? (size_t)n : l->size - l->used - 1;
}

/* A register as an operand: inputs and constants by themselves, stores as what they stored. */
static void put_operand(line *l, const tdn_expr *expr, const int *number, int reg)
{
    while (expr->code[reg].op == TDN_X_STORE)
        reg = expr->code[reg].a;
    const tdn_instr *in = &expr->code[reg];
    if (in->op == TDN_X_INPUT)
        put(l, "in%d", in->index);
    else if (in->op == TDN_X_CONST)
        put(l, "%.9g", (double)in->imm);
    else
        put(l, "t%d", number[reg]);
}

void tdn_expr_print(const tdn_expr *expr, char *text, size_t size)
{
    line l = {.text = text, .size = size};
    int number[TDN_EXPR_MAX] = {0}, n_temps = 0;
    if (size > 0)
        text[0] = 0;
    for (int i = 0; i < expr->n_instr; i++) {
        const tdn_instr *in = &expr->code[i];
        if (in->op == TDN_X_INPUT || in->op == TDN_X_CONST)
            continue;
        const char *separator = l.used ? "; " : "";
        if (in->op == TDN_X_STORE) {
            put(&l, "%sout%d = ", separator, in->index);
            put_operand(&l, expr, number, in->a);
            continue;
        }
        number[i] = n_temps++;
        put(&l, "%st%d = %s(", separator, number[i], tdn_expr_ops[in->op].name);
        const uint8_t args[3] = {in->a, in->b, in->c};
        for (int k = 0; k < tdn_expr_ops[in->op].n_args; k++) {
            put(&l, "%s", k ? ", " : "");
            put_operand(&l, expr, number, args[k]);
        }
        put(&l, ")");
    }
}

bool tdn_expr_is_sum(const tdn_expr *expr)
{
    int n_adds = 0;
    for (int i = 0; i < expr->n_instr; i++) {
        const tdn_instr *k = &expr->code[i];
        n_adds += k->op == TDN_X_ADD && k->a != k->b;
        if (k->op != TDN_X_ADD && k->op != TDN_X_INPUT && k->op != TDN_X_STORE)
            return false;
    }
    return n_adds == 1 && expr->n_in == 2 && expr->n_out == 1;
}
