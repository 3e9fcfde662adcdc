/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An element-wise expression: straight-line code over fp32 registers, each written once (register i
 * is instruction i's result). It is the whole of a `map` and the epilogue of conv, matmul, reduce
 * and pool. Booleans are 0 and 1. Part of the plan format: the layout and the numbers below never
 * change, only grow.
 */
#ifndef TDN_BASE_EXPR_H
#define TDN_BASE_EXPR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define TDN_EXPR_MAX 128    /* instructions */
#define TDN_EXPR_MAX_IN 32  /* inputs */
#define TDN_EXPR_MAX_OUT 24 /* outputs */

typedef enum tdn_expr_op {
    TDN_X_INPUT = 0, /* input number `index` */
    TDN_X_CONST,     /* imm */
    TDN_X_STORE,     /* output number `index` takes register a; as a register it is a */
    TDN_X_ADD,
    TDN_X_SUB,
    TDN_X_MUL,
    TDN_X_DIV,
    TDN_X_MIN,
    TDN_X_MAX, /* MIN, MAX: NaN if either is */
    TDN_X_POW,
    TDN_X_MOD,    /* MOD: C's fmodf */
    TDN_X_FMA,    /* a * b + c */
    TDN_X_SELECT, /* a != 0 ? b : c */
    TDN_X_EQ,
    TDN_X_LT,
    TDN_X_LE,
    TDN_X_GT,
    TDN_X_GE,
    TDN_X_AND,
    TDN_X_OR,
    TDN_X_XOR,
    TDN_X_NOT,
    TDN_X_NEG,
    TDN_X_ABS,
    TDN_X_SIGN,
    TDN_X_RECIP,
    TDN_X_SQRT,
    TDN_X_EXP,
    TDN_X_LOG,
    TDN_X_TANH,
    TDN_X_SIGMOID,
    TDN_X_ERF,
    TDN_X_SIN,
    TDN_X_COS,
    TDN_X_TAN,
    TDN_X_ASIN,
    TDN_X_ACOS,
    TDN_X_ATAN,
    TDN_X_SINH,
    TDN_X_COSH,
    TDN_X_ASINH,
    TDN_X_ACOSH,
    TDN_X_ATANH,
    TDN_X_FLOOR,
    TDN_X_CEIL,
    TDN_X_ROUND, /* ROUND: half to even */
    TDN_X_TRUNC,
    TDN_X_ISNAN,
    TDN_X_ISINF,
    TDN_X_COUNT
} tdn_expr_op;

typedef struct tdn_instr {
    uint8_t op;
    uint8_t a, b, c; /* registers, all below this instruction's number */
    uint16_t index;  /* INPUT, STORE */
    uint16_t zero;
    float imm; /* CONST */
} tdn_instr;
_Static_assert(sizeof(tdn_instr) == 12, "part of the plan format");

typedef struct tdn_expr {
    uint16_t n_in, n_out, n_instr, zero;
    tdn_instr code[TDN_EXPR_MAX];
} tdn_expr;

/* One row an operation: its name and how many of a, b, c it reads. */
typedef struct tdn_expr_op_def {
    const char *name;
    int n_args;
} tdn_expr_op_def;
extern const tdn_expr_op_def tdn_expr_ops[TDN_X_COUNT];

/* Bytes of the used part, for comparing, hashing and storing. */
size_t tdn_expr_size(const tdn_expr *expr);
/* Are all numbers in range, every output stored exactly once, and `size` enough? Anything may be
 * behind the pointer. */
tdn_status tdn_expr_check(const void *expr, size_t size, tdn_error *error);
/* Appends and returns the new register, or -1 when full. Equal instructions are shared. */
int tdn_expr_add(tdn_expr *expr, tdn_expr_op op, int a, int b, int c);
int tdn_expr_input(tdn_expr *expr, int index);
int tdn_expr_const(tdn_expr *expr, float imm);
bool tdn_expr_store(tdn_expr *expr, int reg, int output);
/* Is it the sum of inputs 0 and 1, and nothing else? */
bool tdn_expr_is_sum(const tdn_expr *expr);
/* Appends `from` to `to`: from's input i becomes register map[i] of `to`; results[k] is the
 * register of from's output k. STOREs are not copied. False when full (`to` is then as before). */
bool tdn_expr_inline(tdn_expr *to, const tdn_expr *from, const int *map, int *results);
/* The plain evaluation of one element, in libm: the reference of map. out has n_out floats. */
void tdn_expr_eval(const tdn_expr *expr, const float *in, float *out);
/* "t0 = max(in0, 0)": for dumps and profiles. Truncates to size. */
void tdn_expr_print(const tdn_expr *expr, char *text, size_t size);

#endif
