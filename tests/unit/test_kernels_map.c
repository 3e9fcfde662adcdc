/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels map: each operation over its whole range against libm in double precision, in units of
 * the last place; then random expressions over random strides, dtypes and broadcasts against
 * tdn_expr_eval.
 */
#include "backend/cpu/cpu.h"
#include "kernels.h"

/* ---- Operations ------------------------------------------------------------------------------ */

typedef struct op_case {
    tdn_expr_op op;
    double (*function)(double);
    double low,
        high; /* sampled evenly over the bits of floats between, both signs where low is negative */
    double ulp;
} op_case;

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double recip(double x) { return 1 / x; }
static double neg(double x) { return -x; }
static double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : x; }

static const op_case ops[] = {
    {TDN_X_EXP, exp, -INFINITY, INFINITY, 2},
    {TDN_X_LOG, log, -INFINITY, INFINITY, 2},
    {TDN_X_TANH, tanh, -INFINITY, INFINITY, 3},
    {TDN_X_SIGMOID, sigmoid, -87, INFINITY, 4},
    {TDN_X_ERF, erf, -INFINITY, INFINITY, 3},
    {TDN_X_SQRT, sqrt, -INFINITY, INFINITY, 0.6},
    {TDN_X_RECIP, recip, -INFINITY, INFINITY, 0.6},
    {TDN_X_NEG, neg, -INFINITY, INFINITY, 0},
    {TDN_X_ABS, fabs, -INFINITY, INFINITY, 0},
    {TDN_X_SIGN, sign, -INFINITY, INFINITY, 0},
    {TDN_X_FLOOR, floor, -INFINITY, INFINITY, 0},
    {TDN_X_CEIL, ceil, -INFINITY, INFINITY, 0},
    {TDN_X_ROUND, nearbyint, -INFINITY, INFINITY, 0},
    {TDN_X_TRUNC, trunc, -INFINITY, INFINITY, 0},
    {TDN_X_TAN, tan, -100, 100, 2},
    {TDN_X_ASIN, asin, -1, 1, 2},
    {TDN_X_ACOS, acos, -1, 1, 2},
    {TDN_X_ATAN, atan, -INFINITY, INFINITY, 2},
    {TDN_X_SINH, sinh, -INFINITY, INFINITY, 3},
    {TDN_X_COSH, cosh, -INFINITY, INFINITY, 3},
    {TDN_X_ASINH, asinh, -INFINITY, INFINITY, 3},
    {TDN_X_ACOSH, acosh, 1, INFINITY, 3},
    {TDN_X_ATANH, atanh, -1, 1, 3},
};

static float from_bits(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* A float of random bits within the range; zeros, infinities, NaN and the smallest among them. */
static float sample(double low, double high)
{
    static const uint32_t special[] = {0,          0x80000000, 0x7f800000, 0xff800000, 0x7fc00000,
                                       1,          0x80000001, 0x007fffff, 0x00800000, 0x7f7fffff,
                                       0xff7fffff, 0x3f800000, 0xbf800000};
    for (;;) {
        const float f = from_bits(
            random_bits() % 16 ? random_bits() ^ random_bits() << 16
                               : special[random_bits() % (sizeof special / sizeof *special)]);
        if (isnan(f) || (f >= low && f <= high))
            return f;
    }
}

/* The distance in units of the last place of fp32 at `wanted`. */
static double ulps(double got, double wanted)
{
    if (isnan(wanted))
        return isnan(got) ? 0 : INFINITY;
    if ((float)wanted == (float)got)
        return 0;
    int e;
    frexp(wanted, &e);
    return fabs(got - wanted) / ldexp(1, (e < -125 ? -125 : e) - 24);
}

/* Runs one operation over n floats. */
static void run_unary(const tdn_kernel *k, tdn_expr_op op, const float *x, float *y, int64_t n)
{
    scene *s = new_scene();
    tdn_expr e = {0};
    assert_true(tdn_expr_store(&e, tdn_expr_add(&e, op, tdn_expr_input(&e, 0), 0, 0), 0));
    const tdn_view in = tdn_view_make((void *)(uintptr_t)x, TDN_F32, 1, &n),
                   out = tdn_view_make(y, TDN_F32, 1, &n);
    const tdn_group g = {.in = &in, .n_in = 1, .out = &out, .n_out = 1, .expr = &e};
    step st;
    assert_true(make_step(&st, tdn_family_find("map"), k, &g, s->arena));
    run_step(&st);
    end_scene(s);
}

static void test_operations(void **state)
{
    (void)state;
    enum { N = 20011 };
    static float x[N], y[N];
    for (const tdn_kernel *k = tdn_family_find("map")->kernels; k->name; k++)
        for (size_t c = 0; runs_here(k) && c < sizeof ops / sizeof *ops; c++) {
            for (int i = 0; i < N; i++)
                x[i] = sample(ops[c].low, ops[c].high);
            run_unary(k, ops[c].op, x, y, N);
            for (int i = 0; i < N; i++) {
                const double wanted = ops[c].function(x[i]);
                if (!(ulps(y[i], wanted) <= ops[c].ulp))
                    fail_msg("%s: %s(%.9g) is %.9g, not %.9g: %.1f ulp", k->name,
                             tdn_expr_ops[ops[c].op].name, (double)x[i], (double)y[i], wanted,
                             ulps(y[i], wanted));
            }
        }
}

/* Sine and cosine are held to an absolute error: near a multiple of pi the last place is
 * of no use. */
static void test_sine_and_cosine(void **state)
{
    (void)state;
    enum { N = 20011 };
    static float x[N], y[N];
    for (const tdn_kernel *k = tdn_family_find("map")->kernels; k->name; k++)
        for (int cosine = 0; runs_here(k) && cosine < 2; cosine++) {
            const double reach = random_bits() % 2 ? 8000 : 1e6;
            for (int i = 0; i < N; i++)
                x[i] = (float)(random_float() * reach);
            run_unary(k, cosine ? TDN_X_COS : TDN_X_SIN, x, y, N);
            for (int i = 0; i < N; i++)
                expect_near(k, y[i], cosine ? cos(x[i]) : sin(x[i]), 1.2e-7, i);
        }
}

/* ---- Expressions ----------------------------------------------------------------------------- */

/* Operations on which a rounding has no great effect, and those that turn on it: they get exact
 * registers only. */
static const tdn_expr_op smooth_ops[] = {TDN_X_ADD,    TDN_X_SUB,     TDN_X_MUL, TDN_X_MIN,
                                         TDN_X_MAX,    TDN_X_FMA,     TDN_X_NEG, TDN_X_ABS,
                                         TDN_X_SELECT, TDN_X_SIGMOID, TDN_X_TANH};
static const tdn_expr_op sharp_ops[] = {TDN_X_LT,    TDN_X_GE,  TDN_X_EQ,  TDN_X_LE,  TDN_X_GT,
                                        TDN_X_AND,   TDN_X_OR,  TDN_X_XOR, TDN_X_NOT, TDN_X_FLOOR,
                                        TDN_X_ISNAN, TDN_X_MIN, TDN_X_MAX};

typedef struct registers {
    int all[TDN_EXPR_MAX], exact[TDN_EXPR_MAX];
    unsigned n_all, n_exact;
} registers;

static void add_register(registers *r, int reg, bool is_exact)
{
    assert_true(reg >= 0);
    r->all[r->n_all++] = reg;
    if (is_exact)
        r->exact[r->n_exact++] = reg;
}

static int any_of(const registers *r) { return r->all[random_bits() % r->n_all]; }
static int exact_of(const registers *r) { return r->exact[random_bits() % r->n_exact]; }

static void random_expression(tdn_expr *e, int n_in, const tdn_view *out, int n_out)
{
    registers r = {.n_all = 0};
    for (int i = 0; i < n_in; i++)
        add_register(&r, tdn_expr_input(e, i), true);
    for (int64_t i = random_between(1, 3); i > 0; i--)
        add_register(&r, tdn_expr_const(e, random_float()), true);
    for (int64_t i = random_between(1, 14); i > 0; i--) {
        const bool sharp = random_bits() % 3 == 0;
        const tdn_expr_op op =
            sharp ? sharp_ops[random_bits() % (sizeof sharp_ops / sizeof *sharp_ops)]
                  : smooth_ops[random_bits() % (sizeof smooth_ops / sizeof *smooth_ops)];
        const int a = sharp || op == TDN_X_SELECT ? exact_of(&r) : any_of(&r);
        const int b = sharp ? exact_of(&r) : any_of(&r), c = any_of(&r);
        add_register(&r, tdn_expr_add(e, op, a, b, c), sharp);
    }
    for (int i = 0; i < n_out; i++) {
        const int last = r.all[r.n_all - 1];
        const int reg = out[i].dtype == TDN_BOOL ? exact_of(&r)
                        : random_bits() % 3      ? last
                                                 : any_of(&r);
        assert_true(tdn_expr_store(e, reg, i));
    }
}

/* How far an output may be off: by what it moves when its inputs move a hundred roundings, where
 * that is little; an expression that cancels most of its digits is not compared. */
static bool is_steady(const tdn_expr *e, const float *in, int n_in, const float *out, int n_out,
                      double *bound)
{
    float moved[TDN_EXPR_MAX_IN], other[TDN_EXPR_MAX_OUT];
    bool steady = true;
    for (int turn = 0; turn < 4; turn++) {
        for (int i = 0; i < n_in; i++)
            moved[i] = in[i] == 0 || in[i] == 1
                           ? in[i]
                           : in[i] * (1 + (random_bits() % 2 ? 1e-5f : -1e-5f));
        tdn_expr_eval(e, moved, other);
        for (int i = 0; i < n_out; i++)
            steady &= fabsf(other[i] - out[i]) <= 1e-3f * (1 + fabsf(out[i]));
    }
    for (int i = 0; i < n_out; i++)
        bound[i] = 1e-3 * (1 + fabs(out[i]));
    return steady;
}

static tdn_dtype random_dtype(void)
{
    static const tdn_dtype others[] = {TDN_BOOL, TDN_BOOL, TDN_U8,  TDN_S8,
                                       TDN_S32,  TDN_F16,  TDN_F16, TDN_BF16};
    return random_bits() % 4 ? TDN_F32 : others[random_bits() % 8];
}

static bool is_integer(const tdn_view *v)
{
    return v->dtype != TDN_F32 && v->dtype != TDN_BOOL && !tdn_is_half(v->dtype);
}

/* What an element holds after a result went there; an integer may be one off beside a tie. */
static double held(const tdn_view *v, double x, double *bound)
{
    union {
        int32_t whole;
        uint16_t half;
        uint8_t byte;
    } room;
    tdn_view one = tdn_view_make(&room, v->dtype, 0, NULL);
    if (v->dtype == TDN_BOOL)
        return x != 0;
    if (tdn_is_half(v->dtype)) {
        *bound += fabs(x) * (v->dtype == TDN_F16 ? 0x1p-10 : 0x1p-7);
        tdn_view_set(&one, 0, x);
        return tdn_view_get(&one, 0);
    }
    if (!is_integer(v))
        return x;
    const bool near_tie = fabs(fabs(x - floor(x)) - 0.5) <= *bound;
    *bound = near_tie || fabs(x) > 1e6 ? 1 + *bound : 0;
    tdn_view_set(&one, 0, x);
    return tdn_view_get(&one, 0);
}

static tensor *random_operand(scene *s, int rank, const int64_t *dims)
{
    const tdn_dtype dtype = random_dtype();
    uint32_t broadcast = 0;
    if (random_bits() % 2)
        for (int i = 0; i < rank; i++)
            broadcast |= (random_bits() % 2) << i;
    return new_tensor(s, dtype, rank, dims, (layout)(random_bits() % 3), broadcast);
}

/* Elements as they are, from one type to another. */
static void run_same(const tdn_kernel *k, const tdn_view *x, const tdn_view *y)
{
    scene *s = new_scene();
    tdn_expr e = {.n_in = 1};
    assert_true(tdn_expr_store(&e, tdn_expr_input(&e, 0), 0));
    const tdn_group g = {.in = x, .n_in = 1, .out = y, .n_out = 1, .expr = &e};
    step st;
    assert_true(make_step(&st, tdn_family_find("map"), k, &g, s->arena));
    run_step(&st);
    end_scene(s);
}

/* Every half as a float, and floats as the nearest half, to the bit. */
static void test_halves(void **state)
{
    (void)state;
    enum { N = 1 << 16, ODD = 7 };
    static uint16_t halves[N];
    static float floats[N];
    for (const tdn_kernel *k = tdn_family_find("map")->kernels; k->name; k++)
        for (int type = 0; runs_here(k) && type < 4; type++) {
            const tdn_dtype dtype = type % 2 ? TDN_BF16 : TDN_F16;
            const int64_t n = type < 2 ? N : N - ODD;
            const tdn_view h = tdn_view_make(halves, dtype, 1, &n),
                           f = tdn_view_make(floats, TDN_F32, 1, &n);
            for (int i = 0; i < n; i++)
                halves[i] = (uint16_t)i;
            run_same(k, &h, &f);
            for (int i = 0; i < n; i++) {
                const float wanted =
                    dtype == TDN_F16 ? tdn_f16_to_f32((uint16_t)i) : tdn_bf16_to_f32((uint16_t)i);
                if (memcmp(&floats[i], &wanted, 4) && !(isnan(floats[i]) && isnan(wanted)))
                    fail_msg("%s: half %04x is %a, not %a", k->name, (unsigned)i, (double)floats[i],
                             (double)wanted);
            }
            for (int i = 0; i < n; i++)
                floats[i] = random_bits() % 2 ? sample(-INFINITY, INFINITY)
                                              : random_float() * (random_bits() % 2 ? 1e5f : 1e-5f);
            run_same(k, &f, &h);
            for (int i = 0; i < n; i++) {
                const uint16_t wanted =
                    dtype == TDN_F16 ? tdn_f32_to_f16(floats[i]) : tdn_f32_to_bf16(floats[i]);
                const double got = tdn_view_get(&h, i);
                if (halves[i] != wanted && !(isnan(got) && isnan(floats[i])))
                    fail_msg("%s: %a is half %04x, not %04x", k->name, (double)floats[i],
                             (unsigned)halves[i], (unsigned)wanted);
            }
        }
}

static void map_once(const tdn_kernel *k)
{
    scene *s = new_scene();
    const int rank = (int)random_between(0, 5), n_in = (int)random_between(0, 4),
              n_out = (int)random_between(1, 3);
    int64_t dims[TDN_MAX_RANK];
    for (int i = 0; i < rank; i++)
        dims[i] = rank == 1 ? random_between(1, 3000) : random_between(1, rank == 2 ? 90 : 12);
    tdn_view in[4], out[3];
    tensor *outs[3];
    for (int i = 0; i < n_in; i++)
        in[i] = random_operand(s, rank, dims)->view;
    for (int i = 0; i < n_out; i++) {
        outs[i] = new_output(s, random_dtype(), rank, dims, (layout)(random_bits() % 3));
        out[i] = outs[i]->view;
    }
    tdn_expr e = {0};
    random_expression(&e, n_in, out, n_out);
    e.n_in = (uint16_t)n_in;
    const tdn_group g = {.in = in, .n_in = n_in, .out = out, .n_out = n_out, .expr = &e};
    step st;
    assert_true(make_step(&st, tdn_family_find("map"), k, &g, s->arena));
    run_step(&st);
    for (tdn_walk w = tdn_walk_begin(rank, dims); w.more; tdn_walk_next(&w)) {
        float args[TDN_EXPR_MAX_IN], wanted[TDN_EXPR_MAX_OUT];
        double bound[TDN_EXPR_MAX_OUT];
        for (int i = 0; i < n_in; i++)
            args[i] = (float)tdn_view_get(&in[i], tdn_walk_offset(&w, &in[i]));
        tdn_expr_eval(&e, args, wanted);
        if (!is_steady(&e, args, n_in, wanted, n_out, bound))
            continue;
        for (int i = 0; i < n_out; i++) {
            const int64_t at = tdn_walk_offset(&w, &out[i]);
            const double got = tdn_view_get(&out[i], at);
            const double kept = held(&out[i], (double)wanted[i], &bound[i]);
            expect_near(k, got, kept, bound[i], at);
        }
    }
    for (int i = 0; i < n_out; i++)
        check_gaps(outs[i], k->name);
    if (random_bits() % 8 == 0)
        expect_checked(tdn_family_find("map"), &st);
    end_scene(s);
}

static void test_expressions(void **state)
{
    (void)state;
    for (const tdn_kernel *k = tdn_family_find("map")->kernels; k->name; k++)
        for (int i = 0; runs_here(k) && i < 600; i++)
            map_once(k);
}

/* One output exactly on an input, as the memory plan may place it. */
static void test_in_place(void **state)
{
    (void)state;
    for (const tdn_kernel *k = tdn_family_find("map")->kernels; k->name; k++) {
        if (!runs_here(k))
            continue;
        scene *s = new_scene();
        const int64_t n = random_between(1, 2000);
        tensor *t = new_tensor(s, TDN_F32, 1, &n, LAYOUT_DENSE, 0);
        float *before = tdn_arena_alloc(s->arena, (size_t)n, sizeof *before);
        assert_non_null(before);
        memcpy(before, t->view.data, (size_t)n * sizeof *before);
        tdn_expr e = {0};
        const int x = tdn_expr_input(&e, 0), twice = tdn_expr_add(&e, TDN_X_ADD, x, x, 0);
        assert_true(tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_MUL, twice, x, 0), 0));
        const tdn_group g = {.in = &t->view, .n_in = 1, .out = &t->view, .n_out = 1, .expr = &e};
        step st;
        assert_true(make_step(&st, tdn_family_find("map"), k, &g, s->arena));
        run_step(&st);
        for (int64_t i = 0; i < n; i++)
            expect_near(k, ((float *)t->view.data)[i], (before[i] + before[i]) * before[i], 0, i);
        end_scene(s);
    }
}

static int count(const tdn_map_program *p, tdn_expr_op op)
{
    int n = 0;
    for (int i = 0; i < p->n_instr; i++)
        n += p->code[i].op == op;
    return n;
}

/* A product that only a sum needs becomes a part of it: a leaky integrator's step is two sums and a
 * comparison. One that is needed twice does not. */
static void test_products_in_sums(void **state)
{
    (void)state;
    tdn_arena *arena = tdn_arena_create(NULL);
    tdn_expr e = {0};
    const int v = tdn_expr_input(&e, 0), y = tdn_expr_input(&e, 1), s = tdn_expr_input(&e, 2);
    const int half = tdn_expr_const(&e, 0.5f);
    const int leak = tdn_expr_add(&e, TDN_X_MUL, v, tdn_expr_const(&e, 0.9f), 0);
    const int reset = tdn_expr_add(&e, TDN_X_MUL, half, s, 0);
    const int sum = tdn_expr_add(&e, TDN_X_SUB, tdn_expr_add(&e, TDN_X_ADD, leak, y, 0), reset, 0);
    tdn_expr_store(&e, sum, 0);
    tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_GT, sum, half, 0), 1);
    tdn_map_program *p;
    assert_int_equal(tdn_map_compile(&p, &e, arena, NULL), TDN_OK);
    assert_int_equal(count(p, TDN_X_FMA), 2);
    assert_int_equal(count(p, TDN_X_MUL) + count(p, TDN_X_ADD) + count(p, TDN_X_SUB), 0);
    tdn_expr_store(&e, leak, 2);
    assert_int_equal(tdn_map_compile(&p, &e, arena, NULL), TDN_OK);
    assert_int_equal(count(p, TDN_X_FMA), 1);
    assert_int_equal(count(p, TDN_X_MUL), 1);
    tdn_arena_free(arena);
}

/* Leaky integrate-and-fire neurons over some steps: inputs of their own or one, a reset by 1 or by
 * another amount; outputs: whether they fire, the last potential, and one in between where `peek`
 * is a step. */
static void neurons(tdn_expr *e, int n_steps, bool shared, bool by_one, int peek)
{
    const int threshold = tdn_expr_const(e, 1.25f), leak = tdn_expr_const(e, 0.5f);
    const int amount = tdn_expr_const(e, 0.75f);
    int u = tdn_expr_input(e, 0), n_out = 0;
    for (int t = 0; t < n_steps; t++) {
        const int fires = tdn_expr_add(e, TDN_X_GT, u, threshold, 0);
        tdn_expr_store(e, fires, n_out++);
        const int x = tdn_expr_input(e, shared ? 1 : 1 + t);
        const int kept =
            t % 2 ? tdn_expr_add(e, TDN_X_MUL, u, leak, 0) : tdn_expr_add(e, TDN_X_MUL, leak, u, 0);
        const int sum = tdn_expr_add(e, TDN_X_ADD, kept, x, 0);
        const int by = by_one ? fires : tdn_expr_add(e, TDN_X_MUL, fires, amount, 0);
        u = tdn_expr_add(e, TDN_X_SUB, sum, by, 0);
        if (t == peek)
            tdn_expr_store(e, u, n_out++);
    }
    assert_true(tdn_expr_store(e, u, n_out));
    e->n_in = (uint16_t)(shared ? 2 : 1 + n_steps);
}

/* Numbers of few bits, so that no order of sums rounds. */
static tdn_view eighths(scene *s, int rank, const int64_t *dims)
{
    tdn_view v = new_tensor(s, TDN_F32, rank, dims, (layout)(random_bits() % 3),
                            random_bits() % 4 ? 0 : random_bits() % (1u << rank))
                     ->view;
    for (tdn_walk w = tdn_walk_begin(rank, dims); w.more; tdn_walk_next(&w))
        ((float *)v.data)[tdn_walk_offset(&w, &v)] = (float)random_between(-8, 24) / 8;
    return v;
}

static void neurons_once(const tdn_kernel *k)
{
    scene *s = new_scene();
    const int n_steps = (int)random_between(1, 17), rank = (int)random_between(1, 3);
    const bool shared = random_bits() % 3 == 0, by_one = n_steps > 14 || random_bits() % 2;
    const int peek = random_bits() % 4 ? -1 : (int)random_between(0, n_steps - 1);
    tdn_expr e = {0};
    neurons(&e, n_steps, shared, by_one, peek);
    int64_t dims[3];
    for (int i = 0; i < rank; i++)
        dims[i] = rank == 1 ? random_between(1, 1200) : random_between(1, rank == 2 ? 60 : 12);
    tdn_view in[TDN_EXPR_MAX_IN], out[TDN_EXPR_MAX_OUT];
    tensor *outs[TDN_EXPR_MAX_OUT];
    for (int i = 0; i < e.n_in; i++)
        in[i] = eighths(s, rank, dims);
    for (int i = 0; i < e.n_out; i++) {
        const bool is_potential = i + 1 == e.n_out || i == peek + 1;
        const tdn_dtype dtype =
            is_potential || random_bits() % 8 ? TDN_F32 : (tdn_dtype)RANDOM_OF(TDN_U8, TDN_BOOL);
        outs[i] = new_output(s, dtype, rank, dims, (layout)(random_bits() % 3));
        out[i] = outs[i]->view;
    }
    const tdn_group g = {.in = in, .n_in = e.n_in, .out = out, .n_out = e.n_out, .expr = &e};
    step st;
    assert_true(make_step(&st, tdn_family_find("map"), k, &g, s->arena));
    run_step(&st);
    for (tdn_walk w = tdn_walk_begin(rank, dims); w.more; tdn_walk_next(&w)) {
        float args[TDN_EXPR_MAX_IN], wanted[TDN_EXPR_MAX_OUT];
        for (int i = 0; i < e.n_in; i++)
            args[i] = (float)tdn_view_get(&in[i], tdn_walk_offset(&w, &in[i]));
        tdn_expr_eval(&e, args, wanted);
        for (int i = 0; i < e.n_out; i++) {
            const int64_t at = tdn_walk_offset(&w, &out[i]);
            expect_near(k, tdn_view_get(&out[i], at), (double)wanted[i], 0, at);
        }
    }
    for (int i = 0; i < e.n_out; i++)
        check_gaps(outs[i], k->name);
    if (random_bits() % 4 == 0)
        expect_checked(tdn_family_find("map"), &st);
    end_scene(s);
}

/* Each step is one instruction: nothing is left of it in others. */
static void test_neurons(void **state)
{
    (void)state;
    tdn_arena *arena = tdn_arena_create(NULL);
    for (int form = 0; form < 4; form++) {
        tdn_expr e = {0};
        tdn_map_program *p;
        neurons(&e, 10, form % 2, form / 2, -1);
        assert_int_equal(tdn_map_compile(&p, &e, arena, NULL), TDN_OK);
        assert_int_equal(p->n_instr - p->n_const, e.n_in + 10 + 1); /* a store of the potential */
    }
    tdn_arena_free(arena);
    for (const tdn_kernel *k = tdn_family_find("map")->kernels; k->name; k++)
        for (int i = 0; runs_here(k) && i < 400; i++)
            neurons_once(k);
}

int main(int argc, char **argv)
{
    set_seed(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_operations), cmocka_unit_test(test_sine_and_cosine),
        cmocka_unit_test(test_halves),     cmocka_unit_test(test_expressions),
        cmocka_unit_test(test_in_place),   cmocka_unit_test(test_products_in_sums),
        cmocka_unit_test(test_neurons)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
