/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Expressions of the element-wise operators over fp32 and booleans (0 and 1): a table of operators
 * that are one instruction, and of builders for those that are several.
 *
 * Builders chain registers without looking: a register is -1 once something did not fit, and stays
 * so (tdn_expr_add), which is found when the result is stored.
 */
#include "ops/elementwise_expr.h"

#include <math.h>
#include <string.h>

typedef struct builder {
    const tdn_node *node;
    tdn_expr *expr;
    tdn_value **in;
    int n_in;
} builder;

/* ---- Registers ------------------------------------------------------------------------------- */

/* The node's input i as a register. */
static int input(builder *b, int i)
{
    tdn_value *v = tdn_in(b->node, i);
    if (!v || (v->dtype != TDN_F32 && v->dtype != TDN_BOOL))
        return -1;
    for (int k = 0; k < b->n_in; k++)
        if (b->in[k] == v)
            return tdn_expr_input(b->expr, k);
    if (b->n_in == TDN_EXPR_MAX_IN)
        return -1;
    b->in[b->n_in] = v;
    return tdn_expr_input(b->expr, b->n_in++);
}

static int number(builder *b, double x) { return tdn_expr_const(b->expr, (float)x); }
static int op1(builder *b, tdn_expr_op op, int x) { return tdn_expr_add(b->expr, op, x, 0, 0); }
static int op2(builder *b, tdn_expr_op op, int x, int y)
{
    return tdn_expr_add(b->expr, op, x, y, 0);
}
static int add(builder *b, int x, int y) { return op2(b, TDN_X_ADD, x, y); }
static int sub(builder *b, int x, int y) { return op2(b, TDN_X_SUB, x, y); }
static int mul(builder *b, int x, int y) { return op2(b, TDN_X_MUL, x, y); }
static int divide(builder *b, int x, int y) { return op2(b, TDN_X_DIV, x, y); }
static int larger(builder *b, int x, int y) { return op2(b, TDN_X_MAX, x, y); }
static int smaller(builder *b, int x, int y) { return op2(b, TDN_X_MIN, x, y); }
static int less(builder *b, int x, int y) { return op2(b, TDN_X_LT, x, y); }
static int either(builder *b, int condition, int x, int y)
{
    return tdn_expr_add(b->expr, TDN_X_SELECT, condition, x, y);
}
static double attr(const builder *b, const char *name, double absent)
{
    return (double)tdn_attr_float(&b->node->attrs, name, (float)absent);
}

/* A constant of one element that does not widen the result, of any dtype. */
static bool is_scalar(const tdn_node *node, int i, double *x)
{
    const tdn_value *v = tdn_in(node, i);
    if (!v || v->kind != TDN_VALUE_CONST || !v->data || tdn_shape_count(&v->shape) != 1 ||
        !node->in[0] || v->shape.rank > node->in[0]->shape.rank)
        return false;
    const tdn_view view = tdn_value_view(v);
    *x = tdn_view_get(&view, 0);
    return true;
}

/* ---- Builders -------------------------------------------------------------------------------- */

static int clamp_unit(builder *b, int x)
{
    return smaller(b, larger(b, x, number(b, 0)), number(b, 1));
}
static int relu(builder *b) { return larger(b, input(b, 0), number(b, 0)); }

static int leaky(builder *b, int x, int slope)
{
    return either(b, less(b, x, number(b, 0)), mul(b, x, slope), x);
}
static int leaky_relu(builder *b)
{
    return leaky(b, input(b, 0), number(b, attr(b, "alpha", 0.01)));
}
static int prelu(builder *b) { return leaky(b, input(b, 0), input(b, 1)); }

/* scale * (exp(x) - 1) where x < 0, else 0; x is cut at 0 so that exp stays finite. */
static int exp_below(builder *b, int x, double scale)
{
    const int e = op1(b, TDN_X_EXP, smaller(b, x, number(b, 0)));
    return mul(b, sub(b, e, number(b, 1)), number(b, scale));
}

static int elu(builder *b)
{
    const int x = input(b, 0);
    return either(b, less(b, x, number(b, 0)), exp_below(b, x, attr(b, "alpha", 1)), x);
}

static int selu(builder *b)
{
    const int x = input(b, 0);
    const double alpha = attr(b, "alpha", 1.67326319217681884765625),
                 gamma = attr(b, "gamma", 1.05070102214813232421875);
    const int below = exp_below(b, x, alpha * gamma);
    return either(b, less(b, x, number(b, 0)), below, mul(b, x, number(b, gamma)));
}

static int celu(builder *b)
{
    const int x = input(b, 0);
    const double alpha = attr(b, "alpha", 1);
    if (!(alpha > 0))
        return -1;
    return add(b, larger(b, x, number(b, 0)), exp_below(b, divide(b, x, number(b, alpha)), alpha));
}

static int thresholded_relu(builder *b)
{
    const int x = input(b, 0);
    const int cut = op2(b, TDN_X_LE, x, number(b, attr(b, "alpha", 1))); /* a NaN is not cut */
    return either(b, cut, number(b, 0), x);
}

static int hard_sigmoid(builder *b)
{
    const int x = mul(b, input(b, 0), number(b, attr(b, "alpha", 0.2)));
    return clamp_unit(b, add(b, x, number(b, attr(b, "beta", 0.5))));
}

static int hard_swish(builder *b)
{
    const int x = input(b, 0);
    return mul(b, x, clamp_unit(b, add(b, mul(b, x, number(b, 1.0 / 6)), number(b, 0.5))));
}

/* max(x, 0) + log(1 + exp(-|x|)): neither part overflows. */
static int softplus_of(builder *b, int x)
{
    const int e = op1(b, TDN_X_EXP, op1(b, TDN_X_NEG, op1(b, TDN_X_ABS, x)));
    return add(b, larger(b, x, number(b, 0)), op1(b, TDN_X_LOG, add(b, e, number(b, 1))));
}
static int softplus(builder *b) { return softplus_of(b, input(b, 0)); }

static int mish(builder *b)
{
    const int x = input(b, 0);
    return mul(b, x, op1(b, TDN_X_TANH, softplus_of(b, x)));
}

static int softsign(builder *b)
{
    const int x = input(b, 0);
    return divide(b, x, add(b, op1(b, TDN_X_ABS, x), number(b, 1)));
}

static int swish(builder *b)
{
    const int x = input(b, 0);
    const double alpha = attr(b, "alpha", 1);
    return mul(b, x, op1(b, TDN_X_SIGMOID, alpha == 1 ? x : mul(b, x, number(b, alpha))));
}

static int swiglu(builder *b) { return mul(b, swish(b), input(b, 1)); }

static int gelu(builder *b)
{
    const int x = input(b, 0);
    int inner;
    if (tdn_attr_string(&b->node->attrs, "approximate", "none")[0] == 't') {
        const int cube = mul(b, mul(b, x, x), x);
        const int sum = add(b, x, mul(b, cube, number(b, 0.044715)));
        inner = op1(b, TDN_X_TANH, mul(b, sum, number(b, M_2_SQRTPI * M_SQRT1_2)));
    } else {
        inner = op1(b, TDN_X_ERF, mul(b, x, number(b, M_SQRT1_2)));
    }
    return mul(b, mul(b, x, number(b, 0.5)), add(b, inner, number(b, 1)));
}

static int shrink(builder *b)
{
    const int x = input(b, 0);
    const double lambd = attr(b, "lambd", 0.5), bias = attr(b, "bias", 0);
    const int above =
        either(b, less(b, number(b, lambd), x), sub(b, x, number(b, bias)), number(b, 0));
    return either(b, less(b, x, number(b, -lambd)), add(b, x, number(b, bias)), above);
}

/* One bound: a constant, an input, or the attribute of old models. */
static int bound(builder *b, int i, const char *name)
{
    double x;
    if (is_scalar(b->node, i, &x))
        return number(b, x);
    if (tdn_in(b->node, i))
        return b->node->in[i]->shape.rank <= b->node->in[0]->shape.rank ? input(b, i) : -1;
    return number(b, attr(b, name, 0));
}

static int clip(builder *b)
{
    const tdn_attrs *attrs = &b->node->attrs;
    int x = input(b, 0);
    if (tdn_in(b->node, 1) || tdn_attr_find(attrs, "min"))
        x = larger(b, x, bound(b, 1, "min"));
    if (tdn_in(b->node, 2) || tdn_attr_find(attrs, "max"))
        x = smaller(b, x, bound(b, 2, "max"));
    return x;
}

/* Exponents that models use instead of operators of their own; a general power is slow. */
static int power(builder *b)
{
    double y;
    const int x = input(b, 0);
    if (!is_scalar(b->node, 1, &y))
        return op2(b, TDN_X_POW, x, input(b, 1));
    if (y == 0.5)
        return op1(b, TDN_X_SQRT, x);
    if (y == 1)
        return x;
    if (y == 2)
        return mul(b, x, x);
    if (y == 3)
        return mul(b, mul(b, x, x), x);
    return y == -1 ? op1(b, TDN_X_RECIP, x) : op2(b, TDN_X_POW, x, number(b, y));
}

/* fmod says C's remainder; without it, the remainder has the divisor's sign. */
static int mod(builder *b)
{
    const int x = input(b, 0), y = input(b, 1), zero = number(b, 0);
    const int r = op2(b, TDN_X_MOD, x, y);
    if (tdn_attr_int(&b->node->attrs, "fmod", 0) != 0)
        return r;
    const int differ = op2(b, TDN_X_XOR, less(b, r, zero), less(b, y, zero));
    const int is_zero = op2(b, TDN_X_EQ, r, zero);
    return either(b, op2(b, TDN_X_AND, differ, op1(b, TDN_X_NOT, is_zero)), add(b, r, y), r);
}

static int is_inf(builder *b)
{
    const int x = input(b, 0);
    const bool negative = tdn_attr_int(&b->node->attrs, "detect_negative", 1) != 0;
    const bool positive = tdn_attr_int(&b->node->attrs, "detect_positive", 1) != 0;
    if (negative && positive)
        return op1(b, TDN_X_ISINF, x);
    if (negative || positive)
        return op2(b, TDN_X_EQ, x, number(b, negative ? -INFINITY : INFINITY));
    return less(b, x, x); /* never, and yet of x's shape */
}

static int fold(builder *b, tdn_expr_op op)
{
    int x = input(b, 0);
    for (int i = 1; i < b->node->n_in; i++)
        x = op2(b, op, x, input(b, i));
    return x;
}
static int fold_max(builder *b) { return fold(b, TDN_X_MAX); }
static int fold_min(builder *b) { return fold(b, TDN_X_MIN); }
static int sum(builder *b) { return fold(b, TDN_X_ADD); }
static int mean(builder *b) { return divide(b, fold(b, TDN_X_ADD), number(b, b->node->n_in)); }

/* ---- The table ------------------------------------------------------------------------------- */

/* An operator that is one instruction over its inputs (`op`), or whose builder returns the result's
 * register. */
typedef struct row {
    const char *name;
    tdn_expr_op op;
    int (*build)(builder *b);
} row;

static const row rows[] = {
    {"Add", TDN_X_ADD, NULL},
    {"Sub", TDN_X_SUB, NULL},
    {"Mul", TDN_X_MUL, NULL},
    {"Div", TDN_X_DIV, NULL},
    {"Pow", 0, power},
    {"Mod", 0, mod},
    {"Max", 0, fold_max},
    {"Min", 0, fold_min},
    {"Sum", 0, sum},
    {"Mean", 0, mean},
    {"And", TDN_X_AND, NULL},
    {"Or", TDN_X_OR, NULL},
    {"Xor", TDN_X_XOR, NULL},
    {"Not", TDN_X_NOT, NULL},
    {"Equal", TDN_X_EQ, NULL},
    {"Greater", TDN_X_GT, NULL},
    {"Less", TDN_X_LT, NULL},
    {"GreaterOrEqual", TDN_X_GE, NULL},
    {"LessOrEqual", TDN_X_LE, NULL},
    {"IsNaN", TDN_X_ISNAN, NULL},
    {"IsInf", 0, is_inf},
    {"Where", TDN_X_SELECT, NULL},
    {"Abs", TDN_X_ABS, NULL},
    {"Neg", TDN_X_NEG, NULL},
    {"Sign", TDN_X_SIGN, NULL},
    {"Reciprocal", TDN_X_RECIP, NULL},
    {"Sqrt", TDN_X_SQRT, NULL},
    {"Exp", TDN_X_EXP, NULL},
    {"Log", TDN_X_LOG, NULL},
    {"Sin", TDN_X_SIN, NULL},
    {"Cos", TDN_X_COS, NULL},
    {"Tan", TDN_X_TAN, NULL},
    {"Asin", TDN_X_ASIN, NULL},
    {"Acos", TDN_X_ACOS, NULL},
    {"Atan", TDN_X_ATAN, NULL},
    {"Sinh", TDN_X_SINH, NULL},
    {"Cosh", TDN_X_COSH, NULL},
    {"Asinh", TDN_X_ASINH, NULL},
    {"Acosh", TDN_X_ACOSH, NULL},
    {"Atanh", TDN_X_ATANH, NULL},
    {"Erf", TDN_X_ERF, NULL},
    {"Floor", TDN_X_FLOOR, NULL},
    {"Ceil", TDN_X_CEIL, NULL},
    {"Round", TDN_X_ROUND, NULL},
    {"Relu", 0, relu},
    {"PRelu", 0, prelu},
    {"LeakyRelu", 0, leaky_relu},
    {"Elu", 0, elu},
    {"Selu", 0, selu},
    {"Celu", 0, celu},
    {"ThresholdedRelu", 0, thresholded_relu},
    {"Sigmoid", TDN_X_SIGMOID, NULL},
    {"HardSigmoid", 0, hard_sigmoid},
    {"HardSwish", 0, hard_swish},
    {"Tanh", TDN_X_TANH, NULL},
    {"Softplus", 0, softplus},
    {"Softsign", 0, softsign},
    {"Gelu", 0, gelu},
    {"Mish", 0, mish},
    {"Swish", 0, swish},
    {"SwiGLU", 0, swiglu},
    {"Shrink", 0, shrink},
    {"Clip", 0, clip},
};

static int build_op(builder *b, tdn_expr_op op)
{
    int reg[3] = {0};
    for (int i = 0; i < tdn_expr_ops[op].n_args; i++)
        reg[i] = input(b, i);
    return tdn_expr_add(b->expr, op, reg[0], reg[1], reg[2]);
}

bool tdn_elementwise_expr(const tdn_node *node, tdn_expr *expr, tdn_value **in, int *n_in)
{
    const char *name = node->op->name;
    builder b = {.node = node, .expr = expr, .in = in};
    *expr = (tdn_expr){0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (rows[i].name[0] != name[0] || strcmp(rows[i].name, name) != 0)
            continue;
        const int result = rows[i].build ? rows[i].build(&b) : build_op(&b, rows[i].op);
        *n_in = b.n_in;
        return tdn_expr_store(expr, result, 0);
    }
    return false;
}
