/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The interpreter of expressions: a region is cut into chunks of some hundred elements, and each
 * instruction runs over a whole chunk, so that its dispatch costs little and the chunk's registers
 * stay in L1. Dense F32 inputs are read in place and dense F32 outputs written in place; others
 * pass through a register. A scalar is a vector of equal lanes that is read again and again: its
 * register's step is 0.
 */
#include "backend/cpu/halves.h"
#include "backend/cpu/ints.h"
#include "backend/cpu/lif.h"
#include "backend/cpu/map.h"
#include "backend/cpu/vmath.h"

enum { CHUNK = TDN_MAP_CHUNK, SCALAR_FLOATS = TDN_ALIGN / 4 };

/* Where a register's elements are: element i at p[i & step], step -1; or, of a scalar, 0. */
typedef struct reg {
    const float *p;
    intptr_t step;
} reg;

typedef void op_fn(float *d, int n, reg a, reg b, reg c);

TDN_INLINE vf fetch(reg r, int i) { return vf_load(r.p + (i & r.step)); }

TDN_INLINE vf fetch_n(reg r, int i, int n) { return r.step ? vf_load_n(r.p + i, n) : vf_load(r.p); }

/* One vector of an operation, then all that are left of n elements. */
#define VECTOR(whole, expression)                                                                  \
    {                                                                                              \
        whole;                                                                                     \
        vf_store(d + i, expression);                                                               \
        i += TDN_LANES;                                                                            \
    }
#define REST(whole, part, expression)                                                              \
    while (i + TDN_LANES <= n)                                                                     \
        VECTOR(whole, expression)                                                                  \
    if (i < n) {                                                                                   \
        part;                                                                                      \
        vf_store_n(d + i, expression, n - i);                                                      \
    }
/* An operation of one, two or three arguments. */
#define LOOP(whole, part, expression)                                                              \
    int i = 0;                                                                                     \
    REST(whole, part, expression)
/* The same, four vectors in each turn: few turns are better predicted than many. */
#define LOOP4(whole, part, expression)                                                             \
    int i = 0;                                                                                     \
    while (i + 4 * TDN_LANES <= n) {                                                               \
        VECTOR(whole, expression)                                                                  \
        VECTOR(whole, expression)                                                                  \
        VECTOR(whole, expression)                                                                  \
        VECTOR(whole, expression)                                                                  \
    }                                                                                              \
    REST(whole, part, expression)
#define UNARY(name, expression)                                                                    \
    static void name(float *d, int n, reg ra, reg rb, reg rc)                                      \
    {                                                                                              \
        (void)rb, (void)rc;                                                                        \
        LOOP(const vf a = fetch(ra, i), const vf a = fetch_n(ra, i, n - i), expression)            \
    }
#define BINARY(name, expression)                                                                   \
    static void name(float *d, int n, reg ra, reg rb, reg rc)                                      \
    {                                                                                              \
        (void)rc;                                                                                  \
        LOOP4(const vf a = fetch(ra, i);                                                           \
              const vf b = fetch(rb, i), const vf a = fetch_n(ra, i, n - i);                       \
              const vf b = fetch_n(rb, i, n - i), expression)                                      \
    }
#define TERNARY(name, expression)                                                                  \
    static void name(float *d, int n, reg ra, reg rb, reg rc)                                      \
    {                                                                                              \
        LOOP(const vf a = fetch(ra, i); const vf b = fetch(rb, i);                                 \
             const vf c = fetch(rc, i), const vf a = fetch_n(ra, i, n - i);                        \
             const vf b = fetch_n(rb, i, n - i); const vf c = fetch_n(rc, i, n - i), expression)   \
    }

#define ZERO ((vf){0})
#define TRUTH(x) vm_ne(x, ZERO)

BINARY(op_add, a + b)
BINARY(op_sub, a - b)
BINARY(op_mul, a *b)
BINARY(op_div, a / b)
BINARY(op_min, vf_min_nan(a, b))
BINARY(op_max, vf_max_nan(a, b))
TERNARY(op_fma, a *b + c)
TERNARY(op_select, vf_select(TRUTH(a), b, c))
BINARY(op_eq, vf_from_mask(vm_eq(a, b)))
BINARY(op_lt, vf_from_mask(vm_lt(a, b)))
BINARY(op_le, vf_from_mask(vm_le(a, b)))
BINARY(op_gt, vf_from_mask(vm_lt(b, a)))
BINARY(op_ge, vf_from_mask(vm_le(b, a)))
BINARY(op_and, vf_from_mask(vm_and(TRUTH(a), TRUTH(b))))
BINARY(op_or, vf_from_mask(vm_or(TRUTH(a), TRUTH(b))))
BINARY(op_xor, vf_from_mask(vm_xor(TRUTH(a), TRUTH(b))))
UNARY(op_not, vf_from_mask(vm_eq(a, ZERO)))
UNARY(op_neg, -a)
UNARY(op_abs, vf_abs(a))
UNARY(op_sign, vf_select(vm_lt(ZERO, a), vf_set(1), vf_select(vm_lt(a, ZERO), vf_set(-1), a)))
UNARY(op_recip, vf_set(1) / a)
UNARY(op_sqrt, vf_sqrt(a))
UNARY(op_exp, vf_exp(a))
UNARY(op_log, vf_log(a))
UNARY(op_tanh, vf_tanh(a))
UNARY(op_sigmoid, vf_sigmoid(a))
UNARY(op_erf, vf_erf(a))
UNARY(op_sin, vf_sin(a))
UNARY(op_cos, vf_cos(a))
UNARY(op_floor, vf_floor(a))
UNARY(op_ceil, vf_ceil(a))
UNARY(op_round, vf_round(a))
UNARY(op_trunc, vf_trunc(a))
UNARY(op_isnan, vf_from_mask(vm_ne(a, a)))
UNARY(op_isinf, vf_from_mask(vm_eq(vf_abs(a), vf_set(INFINITY))))
UNARY(op_copy, a)

/* What is rare runs in libm. */
#define EACH(name, function)                                                                       \
    static void name(float *d, int n, reg ra, reg rb, reg rc)                                      \
    {                                                                                              \
        (void)rb, (void)rc;                                                                        \
        for (int i = 0; i < n; i++)                                                                \
            d[i] = function(ra.p[i & ra.step]);                                                    \
    }
#define EACH_PAIR(name, function)                                                                  \
    static void name(float *d, int n, reg ra, reg rb, reg rc)                                      \
    {                                                                                              \
        (void)rc;                                                                                  \
        for (int i = 0; i < n; i++)                                                                \
            d[i] = function(ra.p[i & ra.step], rb.p[i & rb.step]);                                 \
    }

EACH_PAIR(op_pow, powf)
EACH_PAIR(op_mod, fmodf)
EACH(op_tan, tanf)
EACH(op_asin, asinf)
EACH(op_acos, acosf)
EACH(op_atan, atanf)
EACH(op_sinh, sinhf)
EACH(op_cosh, coshf)
EACH(op_asinh, asinhf)
EACH(op_acosh, acoshf)
EACH(op_atanh, atanhf)

static op_fn *const operations[TDN_X_COUNT] = {
    [TDN_X_STORE] = op_copy,  [TDN_X_ADD] = op_add,         [TDN_X_SUB] = op_sub,
    [TDN_X_MUL] = op_mul,     [TDN_X_DIV] = op_div,         [TDN_X_MIN] = op_min,
    [TDN_X_MAX] = op_max,     [TDN_X_POW] = op_pow,         [TDN_X_MOD] = op_mod,
    [TDN_X_FMA] = op_fma,     [TDN_X_SELECT] = op_select,   [TDN_X_EQ] = op_eq,
    [TDN_X_LT] = op_lt,       [TDN_X_LE] = op_le,           [TDN_X_GT] = op_gt,
    [TDN_X_GE] = op_ge,       [TDN_X_AND] = op_and,         [TDN_X_OR] = op_or,
    [TDN_X_XOR] = op_xor,     [TDN_X_NOT] = op_not,         [TDN_X_NEG] = op_neg,
    [TDN_X_ABS] = op_abs,     [TDN_X_SIGN] = op_sign,       [TDN_X_RECIP] = op_recip,
    [TDN_X_SQRT] = op_sqrt,   [TDN_X_EXP] = op_exp,         [TDN_X_LOG] = op_log,
    [TDN_X_TANH] = op_tanh,   [TDN_X_SIGMOID] = op_sigmoid, [TDN_X_ERF] = op_erf,
    [TDN_X_SIN] = op_sin,     [TDN_X_COS] = op_cos,         [TDN_X_TAN] = op_tan,
    [TDN_X_ASIN] = op_asin,   [TDN_X_ACOS] = op_acos,       [TDN_X_ATAN] = op_atan,
    [TDN_X_SINH] = op_sinh,   [TDN_X_COSH] = op_cosh,       [TDN_X_ASINH] = op_asinh,
    [TDN_X_ACOSH] = op_acosh, [TDN_X_ATANH] = op_atanh,     [TDN_X_FLOOR] = op_floor,
    [TDN_X_CEIL] = op_ceil,   [TDN_X_ROUND] = op_round,     [TDN_X_TRUNC] = op_trunc,
    [TDN_X_ISNAN] = op_isnan, [TDN_X_ISINF] = op_isinf,
};

/* ---- Inputs and outputs that are not dense --------------------------------------------------- */

typedef struct chunk {
    int64_t row, col; /* of its first element, in the region */
    int rows, cols;
} chunk;

static bool in_place(const tdn_map_operand *o, const chunk *c)
{
    return o->dtype == TDN_F32 && (o->col == 1 || c->cols == 1) &&
           (c->rows == 1 || o->row == c->cols);
}

static char *start(const tdn_map_operand *o, const chunk *c)
{
    return (char *)o->data + (c->row * o->row + c->col * o->col) * tdn_map_dtype_size(o->dtype);
}

TDN_INLINE void gather_halves(float *d, const void *from, const tdn_dtype dtype, int n)
{
    for (int i = 0; i < n; i += TDN_LANES) {
        const int rest = n - i < TDN_LANES ? n - i : TDN_LANES;
        tdn_store(d, i, TDN_F32, tdn_load(from, i, dtype, rest), rest);
    }
}

static void gather_row(float *d, const void *from, tdn_dtype dtype, int64_t step, int n)
{
    const float *floats = from;
    const uint8_t *bytes = from;
    if (dtype == TDN_F32 && step == 1)
        memcpy(d, floats, (size_t)n * sizeof *d);
    else if (dtype == TDN_F32)
        for (int i = 0; i < n; i++)
            d[i] = floats[i * step];
    else if (dtype == TDN_U8 && step == 1)
        for (int i = 0; i < n; i++)
            d[i] = bytes[i];
    else if (dtype == TDN_F16 && step == 1)
        gather_halves(d, from, TDN_F16, n);
    else if (dtype == TDN_BF16 && step == 1)
        gather_halves(d, from, TDN_BF16, n);
    else
        tdn_map_gather(d, from, dtype, step, n);
}

/* Bytes, side by side; `from` is whole vectors, or a scalar's. */
static void scatter_bytes(uint8_t *to, const float *from, intptr_t mask, int n)
{
    const vf most = vf_set(255);
    for (int i = 0; i < n; i += TDN_LANES) {
        const int rest = n - i < TDN_LANES ? n - i : TDN_LANES;
        vf x = vf_load_n(from + (i & mask), mask ? rest : TDN_LANES);
        x = vf_min(most, vf_max(vf_select(vm_eq(x, x), x, (vf){0}), (vf){0}));
        const vb bytes = vi_to_bytes(vf_round_int(x));
        if (rest == TDN_LANES)
            vb_store(to + i, bytes);
        else
            vb_store_n(to + i, bytes, rest);
    }
}

/* Bytes, `step` apart. */
static void spread_bytes(uint8_t *to, int64_t step, const float *from, intptr_t mask, int n)
{
    uint8_t bytes[CHUNK];
    scatter_bytes(bytes, from, mask, n);
    for (int i = 0; i < n; i++)
        to[i * step] = bytes[i];
}

/* The same of floats. */
static void scatter_floats(float *to, const float *from, intptr_t mask, int n)
{
    const reg x = {from, mask};
    int i = 0;
    for (; i + TDN_LANES <= n; i += TDN_LANES)
        vf_store(to + i, fetch(x, i));
    if (i < n)
        vf_store_n(to + i, fetch_n(x, i, n - i), n - i);
}

/* The same of halves. */
TDN_INLINE void scatter_halves(void *to, const tdn_dtype dtype, const float *from, intptr_t mask,
                               int n)
{
    for (int i = 0; i < n; i += TDN_LANES) {
        const int rest = n - i < TDN_LANES ? n - i : TDN_LANES;
        const vf x = mask ? tdn_load(from, i, TDN_F32, rest) : vf_load(from);
        tdn_store(to, i, dtype, x, rest);
    }
}

static void gather(float *d, const tdn_map_operand *o, const chunk *c)
{
    const char *from = start(o, c);
    const int64_t row = o->row * tdn_map_dtype_size(o->dtype);
    for (int r = 0; r < c->rows; r++, d += c->cols)
        gather_row(d, from + r * row, o->dtype, o->col, c->cols);
}

static void scatter(const tdn_map_operand *o, const chunk *c, const float *from, intptr_t mask)
{
    char *to = start(o, c);
    const int64_t row = o->row * tdn_map_dtype_size(o->dtype);
    for (int r = 0; r < c->rows; r++) {
        const float *part = from + (r * c->cols & mask);
        if (o->dtype == TDN_F32 && o->col == 1)
            scatter_floats((float *)(void *)to + r * o->row, part, mask, c->cols);
        else if (o->dtype == TDN_U8 && o->col == 1)
            scatter_bytes((uint8_t *)to + r * row, part, mask, c->cols);
        else if (o->dtype == TDN_U8)
            spread_bytes((uint8_t *)to + r * row, o->col, part, mask, c->cols);
        else if (o->dtype == TDN_F16 && o->col == 1)
            scatter_halves(to + r * row, TDN_F16, part, mask, c->cols);
        else if (o->dtype == TDN_BF16 && o->col == 1)
            scatter_halves(to + r * row, TDN_BF16, part, mask, c->cols);
        else
            tdn_map_scatter(to + r * row, o->dtype, o->col, part, mask, c->cols);
    }
}

static void fill_scalar(float *d, float x)
{
    for (int i = 0; i < SCALAR_FLOATS; i++)
        d[i] = x;
}

/* ---- The interpreter ------------------------------------------------------------------------- */

typedef struct machine {
    const tdn_map_program *program;
    const tdn_map_region *region;
    float *scalars; /* of constants, then of inputs */
    float *slots;
    reg *regs;
} machine;

static float *slot(const machine *m, uint8_t number)
{
    return m->slots + (number - m->program->n_const) * CHUNK;
}

static void read_input(const machine *m, const tdn_map_instr *in, const chunk *c)
{
    const tdn_map_operand *o = &m->region->in[in->index];
    if ((o->col == 0 || c->cols == 1) && (o->row == 0 || c->rows == 1)) {
        float x, *d = m->scalars + (m->program->n_const + in->index) * SCALAR_FLOATS;
        gather_row(&x, start(o, c), o->dtype, 1, 1);
        fill_scalar(d, x);
        m->regs[in->dst] = (reg){d, 0};
    } else if (in_place(o, c)) {
        m->regs[in->dst] = (reg){(const float *)(void *)start(o, c), -1};
    } else {
        float *d = slot(m, in->dst);
        gather(d, o, c);
        m->regs[in->dst] = (reg){d, -1};
    }
}

/* ---- Steps of neurons ---- */

static bool is_rows(const tdn_map_operand *o, const chunk *c)
{
    return o->dtype == TDN_F32 && (o->col == 1 || c->cols == 1);
}
static tdn_lif_rows rows_of(const tdn_map_operand *o, const chunk *c)
{
    return (tdn_lif_rows){(float *)(void *)start(o, c), o->row, -1};
}
static tdn_lif_rows rows_in(reg r, const chunk *c)
{
    return (tdn_lif_rows){(float *)(uintptr_t)r.p, r.step ? c->cols : 0, r.step};
}

/* The step after `at`, where it goes on with that one's potential alone and its x lies in rows: its
 * number and its x. -1: there is none. An input between the two is not read on its own then. */
static int next_lif(const machine *m, const chunk *c, int at, tdn_lif_rows *x)
{
    const tdn_map_program *p = m->program;
    const tdn_map_instr *now = &p->code[at], *input = NULL;
    int next = at + 1;
    if (next < p->n_instr && p->code[next].op == TDN_X_INPUT)
        input = &p->code[next++];
    const tdn_map_instr *in = &p->code[next];
    if (next >= p->n_instr || in->op != TDN_MAP_LIF || in->a != now->dst || in->c != now->c ||
        in->imm != now->imm || (in->index & TDN_LIF_LEAK) != (now->index & TDN_LIF_LEAK) ||
        !(in->index & TDN_LIF_LAST_A) || !is_rows(&m->region->out[in->store - 1], c))
        return -1;
    if (!input) {
        *x = rows_in(m->regs[in->b], c);
        return in->b != in->a ? next : -1;
    }
    const tdn_map_operand *o = &m->region->in[input->index];
    if (input->dst != in->b || !(in->index & TDN_LIF_LAST_B) || !is_rows(o, c))
        return -1;
    *x = rows_of(o, c);
    m->regs[input->dst] = (reg){slot(m, input->dst), -1};
    return next;
}

/* From instruction `at` on as many steps as go together; the last one's number. */
static int run_lif(const machine *m, const chunk *c, int at)
{
    const tdn_map_instr *in = &m->program->code[at];
    const tdn_map_operand *out = &m->region->out[in->store - 1];
    const bool is_spread = !is_rows(out, c);
    float fires[CHUNK];
    tdn_lif l = {.before = rows_in(m->regs[in->a], c),
                 .threshold = m->regs[in->c].p[0],
                 .leak = m->regs[in->index & TDN_LIF_LEAK].p[0],
                 .reset = in->imm};
    tdn_lif_rows x = rows_in(m->regs[in->b], c);
    for (int next = at; next >= 0; next = l.n_steps < TDN_LIF_STEPS ? next_lif(m, c, at, &x) : -1) {
        at = next;
        in = &m->program->code[at];
        l.x[l.n_steps] = x;
        l.fires[l.n_steps++] = is_spread ? (tdn_lif_rows){fires, c->cols, -1}
                                         : rows_of(&m->region->out[in->store - 1], c);
        m->regs[in->dst] = (reg){slot(m, in->dst), -1};
        if (is_spread)
            break;
    }
    l.after = rows_in(m->regs[in->dst], c);
    tdn_lif_run(&l, c->rows, c->cols);
    if (is_spread)
        scatter(out, c, fires, -1);
    return at;
}

static void run_chunk(const machine *m, const chunk *c)
{
    const tdn_map_program *p = m->program;
    const int n = c->rows * c->cols;
    const reg none = {NULL, 0};
    for (int i = p->n_const; i < p->n_instr; i++) {
        const tdn_map_instr *in = &p->code[i];
        if (in->op == TDN_X_INPUT) {
            read_input(m, in, c);
            continue;
        }
        if (in->op == TDN_MAP_LIF) {
            i = run_lif(m, c, i);
            continue;
        }
        const tdn_map_operand *out = in->store ? &m->region->out[in->store - 1] : NULL;
        const bool direct = out && in_place(out, c);
        if (in->op == TDN_X_STORE && !direct) {
            scatter(out, c, m->regs[in->a].p, m->regs[in->a].step);
            continue;
        }
        float *d = direct ? (float *)(void *)start(out, c) : slot(m, in->dst);
        const int n_args = tdn_expr_ops[in->op].n_args;
        operations[in->op](d, n, m->regs[in->a], n_args > 1 ? m->regs[in->b] : none,
                           n_args > 2 ? m->regs[in->c] : none);
        if (in->op == TDN_X_STORE)
            continue;
        m->regs[in->dst] = (reg){d, -1};
        if (out && !direct)
            scatter(out, c, d, -1);
    }
}

/* Long rows are cut evenly, short ones taken several at a time. */
static void run_region(const machine *m)
{
    const tdn_map_region *r = m->region;
    if (r->cols > CHUNK) {
        const int64_t n = tdn_cpu_div_up(r->cols, CHUNK);
        const int64_t each = tdn_cpu_div_up(tdn_cpu_div_up(r->cols, n), TDN_LANES) * TDN_LANES;
        for (int64_t row = 0; row < r->rows; row++)
            for (int64_t col = 0; col < r->cols; col += each)
                run_chunk(m, &(chunk){row, col, 1, (int)tdn_cpu_min(each, r->cols - col)});
        return;
    }
    const int64_t most = tdn_cpu_max(1, CHUNK / tdn_cpu_max(1, r->cols));
    for (int64_t row = 0; row < r->rows; row += most)
        run_chunk(m, &(chunk){row, 0, (int)tdn_cpu_min(most, r->rows - row), (int)r->cols});
}

void TDN_KERNEL(tdn_map_region)(const tdn_map_program *program, const tdn_map_region *region,
                                void *scratch)
{
    reg regs[256];
    machine m = {.program = program, .region = region, .scalars = scratch, .regs = regs};
    m.slots = m.scalars + (program->n_const + program->n_in) * SCALAR_FLOATS;
    for (int i = 0; i < program->n_const; i++) {
        fill_scalar(m.scalars + i * SCALAR_FLOATS, program->code[i].imm);
        regs[i] = (reg){m.scalars + i * SCALAR_FLOATS, 0};
    }
    run_region(&m);
}

/* ---- The step -------------------------------------------------------------------------------- */

static void set_operand(tdn_map_operand *o, const tdn_view *view, const tdn_map_args *args,
                        int index, const int64_t *at, int64_t col)
{
    const int64_t *strides = args->strides + index * args->rank;
    int64_t offset = col * strides[args->rank - 1];
    for (int i = 0; i + 1 < args->rank; i++)
        offset += at[i] * strides[i];
    o->dtype = view->dtype;
    o->data = (char *)view->data + offset * tdn_map_dtype_size(view->dtype);
    o->row = args->rank > 1 ? strides[args->rank - 2] : 0;
    o->col = strides[args->rank - 1];
}

/* Rows row0..row1 of the flattened outer axes: a region for every run along the second last. */
void TDN_KERNEL(tdn_map_f32)(const tdn_call *call, size_t tile)
{
    const tdn_map_args *args = call->args;
    const tdn_map_program *program = tdn_map_args_program(args);
    const int rank = args->rank;
    int64_t row, end, col0, col1;
    tdn_cpu_share(args->n_rows, (int64_t)tile / args->col_tiles, args->row_tiles, &row, &end);
    tdn_cpu_share(args->dims[rank - 1], (int64_t)tile % args->col_tiles, args->col_tiles, &col0,
                  &col1);
    tdn_map_region region;
    region.cols = col1 - col0;
    while (row < end) {
        int64_t at[TDN_MAX_RANK] = {0}, rest = row;
        for (int i = rank - 2; i >= 0; i--) {
            at[i] = rest % args->dims[i];
            rest /= args->dims[i];
        }
        region.rows = rank > 1 ? tdn_cpu_min(end - row, args->dims[rank - 2] - at[rank - 2]) : 1;
        for (int i = 0; i < args->n_in; i++)
            set_operand(&region.in[i], &call->in[i], args, i, at, col0);
        for (int i = 0; i < args->n_out; i++)
            set_operand(&region.out[i], &call->out[i], args, args->n_in + i, at, col0);
        TDN_KERNEL(tdn_map_region)(program, &region, call->scratch);
        row += region.rows;
    }
}
