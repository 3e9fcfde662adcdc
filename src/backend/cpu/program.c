/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Expressions compiled for the interpreter: dead code dropped, constants first and in registers
 * that live on, others in as few registers as their last uses allow, so that a chunk's registers
 * stay in L1. A result that is an output is stored by the instruction that makes it, straight into
 * the output where that is dense. A step of spiking neurons is one instruction.
 */
#include <string.h>

#include "backend/cpu/cpu.h"

static size_t size_of(size_t n_instr)
{
    return sizeof(tdn_map_program) + n_instr * sizeof(tdn_map_instr);
}

size_t tdn_map_program_size(const tdn_map_program *program) { return size_of(program->n_instr); }

size_t tdn_map_scratch_size(const tdn_map_program *p)
{
    return (size_t)(p->n_const + p->n_in) * TDN_ALIGN +
           (size_t)(p->n_regs - p->n_const) * TDN_MAP_CHUNK * sizeof(float);
}

int64_t tdn_map_cost(const tdn_map_program *p)
{
    int64_t cost = 1;
    for (int i = p->n_const; i < p->n_instr; i++) {
        const int op = p->code[i].op;
        const bool slow =
            op == TDN_X_POW || op == TDN_X_MOD || (op >= TDN_X_TAN && op <= TDN_X_ATANH);
        const bool middling = op >= TDN_X_EXP && op <= TDN_X_COS;
        const int n_steps = op == TDN_MAP_LIF ? 3 : 1;
        cost += slow ? 200 : middling ? 16 : op == TDN_X_DIV || op == TDN_X_SQRT ? 4 : n_steps;
    }
    return cost;
}

/* Which instructions a step of neurons is made of; `u` is the potential before it. */
typedef struct neurons {
    int u, x, threshold, leak, fires, store;
    float reset;
} neurons;

typedef struct allocation {
    int32_t last_use[TDN_EXPR_MAX]; /* -1: dead */
    uint8_t reg[TDN_EXPR_MAX];
    neurons lif[TDN_EXPR_MAX];   /* of an instruction that ends such a step; u < 0: it does not */
    bool absorbed[TDN_EXPR_MAX]; /* in such a step that ends later */
    bool busy[256];
    int n_regs;
} allocation;

/* The value behind register `i`: a store, used as a register, is its argument. */
static int value_of(const tdn_expr *e, int i)
{
    while (e->code[i].op == TDN_X_STORE)
        i = e->code[i].a;
    return i;
}

/* ---- Products that are only added to something: one instruction, rounded once ---------------- */

static bool is_sole_product(const tdn_expr *e, const int *uses, int v)
{
    return e->code[v].op == TDN_X_MUL && uses[v] == 1;
}

/* A register before `at` that holds -c; instruction `at`, which is not needed any more, at worst.
 */
static uint8_t negative(tdn_expr *e, int at, float c)
{
    for (int i = 0; i < at; i++)
        if (e->code[i].op == TDN_X_CONST && e->code[i].imm == -c)
            return (uint8_t)i;
    e->code[at] = (tdn_instr){.op = TDN_X_CONST, .imm = -c};
    return (uint8_t)at;
}

static void contract_one(tdn_expr *e, const int *uses, tdn_instr *in)
{
    const int a = value_of(e, in->a), b = value_of(e, in->b);
    const int v = is_sole_product(e, uses, b) ? b : a, other = v == b ? a : b;
    const tdn_instr product = e->code[v];
    if (!is_sole_product(e, uses, v))
        return;
    if (in->op == TDN_X_ADD) {
        *in = (tdn_instr){.op = TDN_X_FMA, .a = product.a, .b = product.b, .c = (uint8_t)other};
    } else if (in->op == TDN_X_SUB && v == b) {
        const bool second = e->code[product.b].op == TDN_X_CONST;
        if (!second && e->code[product.a].op != TDN_X_CONST)
            return;
        const float c = e->code[second ? product.b : product.a].imm;
        *in = (tdn_instr){.op = TDN_X_FMA,
                          .a = second ? product.a : product.b,
                          .b = negative(e, v, c),
                          .c = (uint8_t)a};
    }
}

static void contract(tdn_expr *e)
{
    int uses[TDN_EXPR_MAX] = {0};
    for (int i = 0; i < e->n_instr; i++) {
        const uint8_t args[3] = {e->code[i].a, e->code[i].b, e->code[i].c};
        for (int k = 0; k < tdn_expr_ops[e->code[i].op].n_args; k++)
            uses[value_of(e, args[k])]++;
    }
    for (int i = 0; i < e->n_instr; i++)
        if (e->code[i].op == TDN_X_ADD || e->code[i].op == TDN_X_SUB)
            contract_one(e, uses, &e->code[i]);
}

/* ---- Registers ------------------------------------------------------------------------------- */

/* The values that instruction `at` reads; how many. */
static int args_of(const allocation *s, const tdn_expr *e, int at, int args[4])
{
    const tdn_instr *in = &e->code[at];
    const neurons *lif = &s->lif[at];
    const uint8_t all[3] = {in->a, in->b, in->c};
    if (lif->u >= 0) {
        memcpy(args, (int[]){lif->u, lif->x, lif->threshold, lif->leak}, 4 * sizeof *args);
        return 4;
    }
    const int n = tdn_expr_ops[in->op].n_args;
    for (int i = 0; i < n; i++)
        args[i] = value_of(e, all[i]);
    return n;
}

static void use_args(allocation *s, const tdn_expr *e, int at)
{
    int args[4];
    for (int i = args_of(s, e, at, args) - 1; i >= 0; i--)
        if (s->last_use[args[i]] < at)
            s->last_use[args[i]] = at;
}

/* From the stores backwards: what nobody reads stays dead. */
static void find_uses(allocation *s, const tdn_expr *e)
{
    for (int i = 0; i < e->n_instr; i++)
        s->last_use[i] = -1;
    for (int i = e->n_instr - 1; i >= 0; i--)
        if (!s->absorbed[i] && (e->code[i].op == TDN_X_STORE || s->last_use[i] >= 0))
            use_args(s, e, i);
}

/* ---- Steps of spiking neurons: fires = u > threshold, u' = u * leak + x - fires * amount ------- */

/* Of an instruction a * b or a * b + c, one factor of which is a constant: that one, and the other.
 */
static bool scaled(const tdn_expr *e, const tdn_instr *in, int *number, int *other)
{
    const int a = value_of(e, in->a), b = value_of(e, in->b);
    *number = e->code[a].op == TDN_X_CONST ? a : b;
    *other = *number == a ? b : a;
    return e->code[*number].op == TDN_X_CONST;
}

/* The only store of a value; -1: there is none. */
static int store_of(const tdn_expr *e, int v)
{
    for (int i = v + 1; i < e->n_instr; i++)
        if (e->code[i].op == TDN_X_STORE && value_of(e, i) == v)
            return i;
    return -1;
}

static bool is_lif(const tdn_expr *e, const int *uses, int at, neurons *n, int *sum)
{
    const tdn_instr *in = &e->code[at];
    int reset = -1;
    *sum = value_of(e, in->op == TDN_X_SUB ? in->a : in->c);
    if (in->op == TDN_X_SUB)
        n->fires = value_of(e, in->b);
    else if (in->op != TDN_X_FMA || !scaled(e, in, &reset, &n->fires))
        return false;
    n->reset = reset < 0 ? -1 : e->code[reset].imm;
    const tdn_instr *fires = &e->code[n->fires], *w = &e->code[*sum];
    if (fires->op != TDN_X_GT || uses[n->fires] != 2 || w->op != TDN_X_FMA || uses[*sum] != 1 ||
        !scaled(e, w, &n->leak, &n->u))
        return false;
    n->x = value_of(e, w->c);
    n->threshold = value_of(e, fires->b);
    n->store = store_of(e, n->fires);
    return value_of(e, fires->a) == n->u && e->code[n->threshold].op == TDN_X_CONST &&
           e->code[n->u].op != TDN_X_CONST && e->code[n->x].op != TDN_X_CONST && n->store >= 0;
}

/* Those whose potential is read; last uses are known. What is dead is no use of anything. */
static void find_neurons(allocation *s, const tdn_expr *e)
{
    int uses[TDN_EXPR_MAX] = {0}, args[4], sum;
    for (int i = 0; i < e->n_instr; i++)
        if (e->code[i].op == TDN_X_STORE || s->last_use[i] >= 0)
            for (int k = args_of(s, e, i, args) - 1; k >= 0; k--)
                uses[args[k]]++;
    for (int i = 0; i < e->n_instr; i++) {
        neurons n;
        if (s->last_use[i] < 0 || !is_lif(e, uses, i, &n, &sum))
            continue;
        s->lif[i] = n;
        s->absorbed[n.fires] = s->absorbed[n.store] = s->absorbed[sum] = true;
    }
}

/* ---- Code ---- */

static uint8_t take(allocation *s, int from)
{
    int r = from;
    while (s->busy[r])
        r++;
    s->busy[r] = true;
    if (r >= s->n_regs)
        s->n_regs = r + 1;
    return (uint8_t)r;
}

static void release(allocation *s, const tdn_expr *e, int at, int n_const)
{
    int args[4];
    for (int i = args_of(s, e, at, args) - 1; i >= 0; i--)
        if (s->last_use[args[i]] <= at && s->reg[args[i]] >= n_const)
            s->busy[s->reg[args[i]]] = false;
}

/* The last instruction of the program that wrote `reg`, to store its result as well; NULL where it
 * cannot. */
static tdn_map_instr *maker(tdn_map_program *p, uint8_t reg)
{
    for (int i = p->n_instr - 1; i >= p->n_const; i--)
        if (p->code[i].dst == reg && p->code[i].op != TDN_X_STORE)
            return p->code[i].op != TDN_X_INPUT && !p->code[i].store ? &p->code[i] : NULL;
    return NULL;
}

static void compile_lif(tdn_map_program *p, allocation *s, const tdn_expr *e, int at)
{
    const neurons *n = &s->lif[at];
    tdn_map_instr m = {.op = TDN_MAP_LIF, .index = s->reg[n->leak], .imm = n->reset};
    m.a = s->reg[n->u];
    m.b = s->reg[n->x];
    m.c = s->reg[n->threshold];
    m.store = (uint8_t)(e->code[n->store].index + 1);
    m.index |= s->last_use[n->u] <= at ? TDN_LIF_LAST_A : 0;
    m.index |= s->last_use[n->x] <= at ? TDN_LIF_LAST_B : 0;
    release(s, e, at, p->n_const);
    m.dst = s->reg[at] = take(s, p->n_const);
    p->code[p->n_instr++] = m;
}

static void compile_one(tdn_map_program *p, allocation *s, const tdn_expr *e, int at)
{
    const tdn_instr *in = &e->code[at];
    tdn_map_instr m = {.op = in->op, .index = in->index, .imm = in->imm};
    const int n_args = tdn_expr_ops[in->op].n_args;
    m.a = n_args > 0 ? s->reg[value_of(e, in->a)] : 0;
    m.b = n_args > 1 ? s->reg[value_of(e, in->b)] : 0;
    m.c = n_args > 2 ? s->reg[value_of(e, in->c)] : 0;
    if (in->op == TDN_X_STORE) {
        tdn_map_instr *from = maker(p, m.a);
        release(s, e, at, p->n_const);
        if (from) {
            from->store = (uint8_t)(in->index + 1);
            return;
        }
        m.store = (uint8_t)(in->index + 1);
    } else {
        release(s, e, at, p->n_const);
        m.dst = s->reg[at] = take(s, p->n_const);
    }
    p->code[p->n_instr++] = m;
}

tdn_status tdn_map_compile(tdn_map_program **program, const tdn_expr *source, tdn_arena *arena,
                           tdn_error *error)
{
    TDN_TRY(tdn_expr_check(source, tdn_expr_size(source), error));
    tdn_expr contracted, *expr = &contracted;
    memcpy(expr, source, tdn_expr_size(source));
    contract(expr);
    tdn_map_program *p = tdn_arena_alloc(arena, 1, size_of(expr->n_instr));
    if (!p)
        return tdn_fail_nomem(error, "an expression");
    allocation s = {.n_regs = 0};
    for (int i = 0; i < TDN_EXPR_MAX; i++)
        s.lif[i].u = -1;
    find_uses(&s, expr);
    find_neurons(&s, expr);
    find_uses(&s, expr);
    p->n_in = expr->n_in;
    p->n_out = expr->n_out;
    for (int i = 0; i < expr->n_instr; i++)
        if (expr->code[i].op == TDN_X_CONST && s.last_use[i] >= 0) {
            s.reg[i] = take(&s, 0);
            p->code[p->n_instr++] =
                (tdn_map_instr){.op = TDN_X_CONST, .dst = s.reg[i], .imm = expr->code[i].imm};
        }
    p->n_const = p->n_instr;
    for (int i = 0; i < expr->n_instr; i++)
        if (s.lif[i].u >= 0)
            compile_lif(p, &s, expr, i);
        else if (!s.absorbed[i] && expr->code[i].op != TDN_X_CONST &&
                 (expr->code[i].op == TDN_X_STORE || s.last_use[i] >= 0))
            compile_one(p, &s, expr, i);
    p->n_regs = (uint16_t)s.n_regs;
    *program = p;
    return TDN_OK;
}

static bool check_instr(const tdn_map_program *p, int at, bool written[256],
                        int n_stores[TDN_EXPR_MAX_OUT])
{
    const tdn_map_instr *m = &p->code[at];
    const bool is_lif = m->op == TDN_MAP_LIF;
    if (is_lif && (m->c >= p->n_const || (m->index & TDN_LIF_LEAK) >= p->n_const || !m->store))
        return false;
    if ((m->op >= TDN_X_COUNT && !is_lif) || m->store > p->n_out ||
        (m->op == TDN_X_CONST) != (at < p->n_const))
        return false;
    const uint8_t args[3] = {m->a, m->b, m->c};
    for (int i = 0; i < 3; i++)
        if (i < (is_lif ? 3 : tdn_expr_ops[m->op].n_args)
                ? args[i] >= p->n_regs || !written[args[i]]
                : args[i] != 0)
            return false;
    if (m->op == TDN_X_INPUT && m->index >= p->n_in)
        return false;
    if ((m->op == TDN_X_STORE && !m->store) ||
        ((m->op == TDN_X_INPUT || m->op == TDN_X_CONST) && m->store))
        return false;
    if (m->store)
        n_stores[m->store - 1]++;
    if (m->op == TDN_X_CONST)
        return m->dst == at && (written[m->dst] = true);
    if (m->op == TDN_X_STORE)
        return true;
    return m->dst >= p->n_const && m->dst < p->n_regs && (written[m->dst] = true);
}

tdn_status tdn_map_program_check(const void *program, size_t size, tdn_error *error)
{
    const tdn_map_program *p = program;
    if (size < sizeof *p || size != size_of(p->n_instr))
        return tdn_fail(error, TDN_E_FORMAT, "an expression of the wrong size");
    if (p->n_in > TDN_EXPR_MAX_IN || p->n_out < 1 || p->n_out > TDN_EXPR_MAX_OUT ||
        p->n_const > p->n_instr || p->n_regs < p->n_const || p->n_regs > 256)
        return tdn_fail(error, TDN_E_FORMAT, "an expression with counts out of range");
    bool written[256] = {false};
    int n_stores[TDN_EXPR_MAX_OUT] = {0};
    for (int i = 0; i < p->n_instr; i++)
        if (!check_instr(p, i, written, n_stores))
            return tdn_fail(error, TDN_E_FORMAT, "instruction %d of an expression is damaged", i);
    for (int i = 0; i < p->n_out; i++)
        if (n_stores[i] != 1)
            return tdn_fail(error, TDN_E_FORMAT, "output %d of an expression is written %d times",
                            i, n_stores[i]);
    return TDN_OK;
}
