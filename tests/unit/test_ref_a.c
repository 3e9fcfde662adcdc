/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of element-wise, reducing, casting and quantised operators on cases worked out by hand
 * or by plain loops, over strided views and in any number of parts; and decompositions: every
 * operator's reference against the reference of the core operator that it becomes.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/op.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define DIMS(...) (sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), ((int64_t[]){__VA_ARGS__})
#define INT(name_, value) ((tdn_attr){.name = name_, .kind = TDN_ATTR_INT, .i = value})
#define FLOAT(name_, value) ((tdn_attr){.name = name_, .kind = TDN_ATTR_FLOAT, .f = value})
#define INTS(name_, ...)                                                                           \
    ((tdn_attr){.name = name_,                                                                     \
                .kind = TDN_ATTR_INTS,                                                             \
                .n = (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)),                    \
                .ints = (int64_t[]){__VA_ARGS__}})

static tdn_view view(void *data, tdn_dtype dtype, size_t rank, const int64_t *dims)
{
    return tdn_view_make(data, dtype, (int)rank, dims);
}

static tdn_view scalar(void *data, tdn_dtype dtype) { return tdn_view_make(data, dtype, 0, NULL); }

/* Runs a reference in n_parts parts, or in as many as it wants (0). */
static tdn_status run_ref(const char *name, const tdn_expr *expr, const tdn_attr *attrs,
                          int n_attrs, tdn_view *in, int n_in, tdn_view *out, int n_out,
                          int n_parts, tdn_error *error)
{
    const tdn_ref_def *ref = tdn_ref_find(name);
    const tdn_attrs list = {attrs, n_attrs};
    tdn_ref_call call = {.in = in,
                         .n_in = n_in,
                         .out = out,
                         .n_out = n_out,
                         .attrs = &list,
                         .expr = expr,
                         .error = error};
    if (!ref)
        fail_msg("there is no reference '%s'", name);
    call.n_parts = n_parts ? n_parts : ref->n_parts ? ref->n_parts(&call) : 1;
    const size_t size = ref->scratch_size ? ref->scratch_size(&call) : 0;
    tdn_status status = TDN_OK;
    for (call.part = call.n_parts - 1; call.part >= 0 && status == TDN_OK; call.part--) {
        call.scratch = tdn_alloc(NULL, size, 64);
        assert_non_null(call.scratch);
        status = ref->run(&call);
        tdn_free(NULL, call.scratch);
    }
    return status;
}

static void ref(const char *name, const tdn_attr *attrs, int n_attrs, tdn_view *in, int n_in,
                tdn_view *out, int n_out)
{
    tdn_error error = {""};
    if (run_ref(name, NULL, attrs, n_attrs, in, n_in, out, n_out, 0, &error) != TDN_OK)
        fail_msg("%s: %s", name, error.text);
}

static void assert_near(const char *what, double a, double b, double tolerance)
{
    if (isnan(a) ? isnan(b) : a == b)
        return;
    if (!(fabs(a - b) <= tolerance + tolerance * fabs(b)))
        fail_msg("%s: %.9g, expected %.9g", what, a, b);
}

static void assert_floats(const float *a, const float *b, int n)
{
    for (int i = 0; i < n; i++)
        assert_near("element", (double)a[i], (double)b[i], 1e-6);
}

static uint32_t random_state = 12345;
static double random_in(double low, double high)
{
    random_state = random_state * 1664525u + 1013904223u;
    return low + (high - low) * (double)(random_state >> 8) / (double)(1 << 24);
}

/* ---- Decompositions -------------------------------------------------------------------------- */

/* What an operator's case needs beyond the usual: two attributes, and a range of inputs. */
typedef struct special {
    const char *name;
    tdn_attr attrs[2];
    double low, high;
} special;

static const special specials[] = {
    {"Gelu", {{.name = "approximate", .kind = TDN_ATTR_STRING, .n = 4, .s = "tanh"}}, -4, 4},
    {"Gelu", {{0}}, -4, 4},
    {"Mod", {{.name = "fmod", .kind = TDN_ATTR_INT, .i = 1}}, -4, 4},
    {"Mod", {{0}}, -4, 4},
    {"Pow", {{0}}, 0.1, 4},
    {"Log", {{0}}, 0.1, 4},
    {"Sqrt", {{0}}, 0, 4},
    {"Asin", {{0}}, -1, 1},
    {"Acos", {{0}}, -1, 1},
    {"Atanh", {{0}}, -0.9, 0.9},
    {"Acosh", {{0}}, 1, 9},
    {"Tan", {{0}}, -1, 1},
    {"LeakyRelu", {{.name = "alpha", .kind = TDN_ATTR_FLOAT, .f = 0.3f}}, -4, 4},
    {"LeakyRelu", {{0}}, -4, 4},
    {"Elu", {{.name = "alpha", .kind = TDN_ATTR_FLOAT, .f = 1.5f}}, -4, 4},
    {"Celu", {{.name = "alpha", .kind = TDN_ATTR_FLOAT, .f = 0.5f}}, -4, 4},
    {"Swish", {{.name = "alpha", .kind = TDN_ATTR_FLOAT, .f = 1.7f}}, -4, 4},
    {"SwiGLU", {{.name = "alpha", .kind = TDN_ATTR_FLOAT, .f = 1.7f}}, -4, 4},
    {"HardSigmoid",
     {{.name = "alpha", .kind = TDN_ATTR_FLOAT, .f = 0.3f},
      {.name = "beta", .kind = TDN_ATTR_FLOAT, .f = 0.6f}},
     -4,
     4},
    {"Shrink",
     {{.name = "lambd", .kind = TDN_ATTR_FLOAT, .f = 1.5f},
      {.name = "bias", .kind = TDN_ATTR_FLOAT, .f = 0.4f}},
     -4,
     4},
    {"IsInf", {{.name = "detect_positive", .kind = TDN_ATTR_INT, .i = 0}}, -4, 4},
    {"IsInf", {{.name = "detect_negative", .kind = TDN_ATTR_INT, .i = 0}}, -4, 4},
};

typedef struct one_node {
    tdn_arena *arena;
    tdn_graph *g;
    tdn_node *node;
    tdn_view in[3], out;
} one_node;

static bool is_logic(const char *name)
{
    return !strcmp(name, "And") || !strcmp(name, "Or") || !strcmp(name, "Xor") ||
           !strcmp(name, "Not");
}

/* Later inputs are smaller, to be broadcast, where the operator does that. */
static tdn_value *random_input(one_node *t, int i, bool is_bool, const special *s)
{
    const int smaller = s->name && !strcmp(s->name, "SwiGLU") ? 0 : i;
    static const int64_t dims[3][3] = {{2, 3, 5}, {3, 1}, {5}};
    static const float odd[] = {0, -0.0f, INFINITY, -INFINITY, NAN};
    const tdn_shape shape = tdn_shape_make(3 - smaller, dims[smaller]);
    const int64_t count = tdn_shape_count(&shape);
    float *data = tdn_arena_alloc_data(t->arena, (size_t)count * sizeof *data);
    tdn_value *v = tdn_graph_add_input(t->g, NULL, is_bool ? TDN_BOOL : TDN_F32, &shape);
    assert_non_null(v);
    assert_non_null(data);
    for (int64_t k = 0; k < count; k++) {
        double x = random_in(s->low, s->high);
        if (k % 2)
            x = nearbyint(x * 2) / 2; /* so that some are equal */
        if (is_bool)
            ((uint8_t *)data)[k] = x > 0;
        else
            data[k] = k < COUNT(odd) && i == 0 ? odd[k] : (float)x;
    }
    t->in[i] = tdn_view_make(data, v->dtype, shape.rank, shape.dims);
    return v;
}

static void make_node(one_node *t, const tdn_op_def *op, int n_in, const special *s)
{
    tdn_value *in[3];
    tdn_error error = {""};
    t->arena = tdn_arena_create(NULL);
    t->g = tdn_graph_create(t->arena, "one");
    t->g->opset = 28;
    for (int i = 0; i < n_in; i++)
        in[i] = random_input(t, i, is_logic(op->name) || (i == 0 && !strcmp(op->name, "Where")), s);
    tdn_value *out = tdn_graph_value(t->g, "y");
    t->node = tdn_graph_node(t->g, NULL, op, "n", in, n_in, &out, 1);
    assert_non_null(t->node);
    for (int i = 0; i < 2; i++)
        if (s->attrs[i].name)
            assert_true(tdn_node_set_attr(t->g, t->node, &s->attrs[i]));
    assert_true(tdn_graph_set_output(t->g, out));
    if (tdn_graph_infer(t->g, &error) != TDN_OK)
        fail_msg("%s", error.text);
    void *y = tdn_arena_alloc_data(t->arena, 4 * (size_t)tdn_shape_count(&out->shape));
    t->out = tdn_view_make(y, out->dtype, out->shape.rank, out->shape.dims);
}

/* The operator's reference against that of the single node that it becomes. False where it
 * declines. */
static bool check_decomposition(const tdn_op_def *op, int n_in, const special *s, double tolerance)
{
    one_node t;
    tdn_error error = {""};
    make_node(&t, op, n_in, s);
    tdn_view in[3], got = t.out;
    if (run_ref(op->name, NULL, t.node->attrs.items, t.node->attrs.n, t.in, n_in, &t.out, 1, 0,
                &error) != TDN_OK)
        fail_msg("%s: %s", op->name, error.text);
    tdn_infer io = {t.g, t.node, t.g->opset, &error};
    if (op->decompose(&io) != TDN_OK)
        fail_msg("%s: %s", op->name, error.text);
    tdn_node *core = t.g->first;
    const bool done = core->op->core != TDN_CORE_NONE;
    if (done) {
        tdn_graph_remove(t.g, t.node);
        if (tdn_graph_verify(t.g, &error) != TDN_OK)
            fail_msg("%s: %s", op->name, error.text);
        assert_ptr_equal(core, t.g->last);
        assert_int_equal(core->out[0]->dtype, t.out.dtype);
        for (int i = 0; i < core->n_in; i++)
            for (int k = 0; k < n_in; k++)
                if (core->in[i] == t.g->inputs[k])
                    in[i] = t.in[k];
        got.data = tdn_arena_alloc_data(t.arena, 4 * (size_t)tdn_view_count(&got));
        if (run_ref(core->op->name, core->expr, core->attrs.items, core->attrs.n, in, core->n_in,
                    &got, 1, 0, &error))
            fail_msg("%s: %s", op->name, error.text);
        for (int64_t i = 0; i < tdn_view_count(&got); i++)
            assert_near(op->name, tdn_view_get(&got, i), tdn_view_get(&t.out, i), tolerance);
    }
    tdn_arena_free(t.arena);
    return done;
}

/* Every element-wise operator that takes fp32 or booleans becomes a map. */
static void elementwise_decompositions(void **state)
{
    (void)state;
    int n_done = 0;
    const tdn_op_def *op;
    const tdn_op_def *add = tdn_op_find("", "Add", 28);
    for (int i = 0; (op = tdn_op_row(i)) != NULL; i++) {
        if (op->decompose != add->decompose || op->domain[0])
            continue;
        if (!strncmp(op->name, "Bit", 3)) /* integers only */
            continue;
        const int n_in = op->n_in_max < 0 ? 3 : op->n_in_min;
        bool had = false;
        for (int k = 0; k < COUNT(specials); k++)
            if (!strcmp(specials[k].name, op->name)) {
                had = true;
                assert_true(check_decomposition(op, n_in, &specials[k], 3e-6));
            }
        const special usual = {.low = -4, .high = 4};
        if (!had && !check_decomposition(op, n_in, &usual, 3e-6))
            fail_msg("%s is not rewritten", op->name);
        n_done++;
    }
    assert_true(n_done >= 60);
}

static void reduce_decompositions(void **state)
{
    (void)state;
    static const char *const names[] = {"ReduceSum",       "ReduceMean",        "ReduceMax",
                                        "ReduceMin",       "ReduceProd",        "ReduceL1",
                                        "ReduceL2",        "ReduceSumSquare",   "ReduceLogSum",
                                        "ReduceLogSumExp", "GlobalAveragePool", "GlobalMaxPool"};
    for (int i = 0; i < COUNT(names); i++)
        for (int keep = 0; keep < 2; keep++) {
            const special s = {
                .low = 0.1, .high = 2, .attrs = {INTS("axes", -1, 0), INT("keepdims", keep)}};
            assert_true(check_decomposition(tdn_op_find("", names[i], 13), 1, &s, 1e-12));
        }
}

/* ---- Element-wise ---------------------------------------------------------------------------- */

static void strides_and_broadcast(void **state)
{
    (void)state;
    float x[] = {1, 2, 3, 4, 5, 6}, y[] = {10, 20}, out[12] = {0};
    tdn_view in[2] = {view(x, TDN_F32, DIMS(3, 2)), view(y, TDN_F32, DIMS(2, 1))};
    tdn_view z = view(out, TDN_F32, DIMS(2, 3));
    in[0].dims[0] = 2; /* x transposed */
    in[0].dims[1] = 3;
    in[0].strides[0] = 1;
    in[0].strides[1] = 2;
    z.strides[0] = 6; /* every second element of every second row */
    z.strides[1] = 2;
    ref("Add", NULL, 0, in, 2, &z, 1);
    assert_floats(out, (float[]){11, 0, 13, 0, 15, 0, 22, 0, 24, 0, 26, 0}, 12);
}

static void parts_do_not_matter(void **state)
{
    (void)state;
    enum { N = 3 * 7 * 401 };
    float x[N], y[7 * 401], one[N], many[N];
    tdn_error error;
    for (int i = 0; i < N; i++)
        x[i] = (float)random_in(-9, 9);
    for (int i = 0; i < COUNT(y); i++)
        y[i] = (float)random_in(-9, 9);
    tdn_view in[2] = {view(x, TDN_F32, DIMS(3, 7, 401)), view(y, TDN_F32, DIMS(7, 401))};
    in[1].strides[0] = 1;
    in[1].strides[1] = 7;
    for (int n = 2; n < 50; n += 9) {
        tdn_view a = view(one, TDN_F32, DIMS(3, 7, 401)), b = view(many, TDN_F32, DIMS(3, 7, 401));
        memset(many, 0, sizeof many);
        assert_int_equal(run_ref("Sub", NULL, NULL, 0, in, 2, &a, 1, 1, &error), TDN_OK);
        assert_int_equal(run_ref("Sub", NULL, NULL, 0, in, 2, &b, 1, n, &error), TDN_OK);
        assert_memory_equal(one, many, sizeof one);
        tdn_view sum_a = view(one, TDN_F32, DIMS(3, 7)), sum_b = view(many, TDN_F32, DIMS(3, 7));
        const tdn_attr attrs[] = {INTS("axes", 2), INT("keepdims", 0)};
        assert_int_equal(run_ref("ReduceSum", NULL, attrs, 2, in, 1, &sum_a, 1, 1, &error), TDN_OK);
        assert_int_equal(run_ref("ReduceSum", NULL, attrs, 2, in, 1, &sum_b, 1, n, &error), TDN_OK);
        assert_memory_equal(one, many, 21 * sizeof(float));
    }
}

static void integers(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        tdn_attr attr;
        tdn_dtype dtype;
        int64_t x, y, expected;
    } rows[] = {
        {"Add", {0}, TDN_S32, INT32_MAX, 1, INT32_MIN},
        {"Add", {0}, TDN_U8, 250, 10, 4},
        {"Sub", {0}, TDN_U16, 1, 2, 65535},
        {"Mul", {0}, TDN_S64, INT64_MAX, 3, INT64_MAX - 2},
        {"Div", {0}, TDN_S32, -7, 2, -3},
        {"Div", {0}, TDN_S64, INT64_MIN, -1, INT64_MIN},
        {"Div", {0}, TDN_U64, -1, 2, INT64_MAX},
        {"Div", {0}, TDN_S8, 5, 0, 0},
        {"Mod", {0}, TDN_S32, -7, 3, 2},
        {"Mod", {0}, TDN_S32, 7, -3, -2},
        {"Mod", {.name = "fmod", .kind = TDN_ATTR_INT, .i = 1}, TDN_S32, -7, 3, -1},
        {"Pow", {0}, TDN_S32, -3, 3, -27},
        {"Pow", {0}, TDN_S64, 2, 62, (int64_t)1 << 62},
        {"Max", {0}, TDN_U64, -1, 1, -1},
        {"Max", {0}, TDN_S64, -1, 1, 1},
        {"Min", {0}, TDN_U64, -1, 1, 1},
        {"PRelu", {0}, TDN_S32, -4, 5, -20},
        {"BitwiseAnd", {0}, TDN_U8, 12, 10, 8},
        {"BitwiseOr", {0}, TDN_S16, 12, -16, -4},
        {"BitwiseXor", {0}, TDN_U32, 12, 10, 6},
        {"BitShift",
         {.name = "direction", .kind = TDN_ATTR_STRING, .n = 4, .s = "LEFT"},
         TDN_U8,
         129,
         1,
         2},
        {"BitShift",
         {.name = "direction", .kind = TDN_ATTR_STRING, .n = 5, .s = "RIGHT"},
         TDN_U64,
         -1,
         63,
         1},
        {"BitShift",
         {.name = "direction", .kind = TDN_ATTR_STRING, .n = 5, .s = "RIGHT"},
         TDN_S8,
         -128,
         99,
         -1},
        {"BitShift",
         {.name = "direction", .kind = TDN_ATTR_STRING, .n = 5, .s = "RIGHT"},
         TDN_U8,
         255,
         8,
         0},
    };
    for (int i = 0; i < COUNT(rows); i++) {
        int64_t x = rows[i].x, y = rows[i].y, z = 0;
        tdn_view in[2] = {scalar(&x, rows[i].dtype), scalar(&y, rows[i].dtype)},
                 out = scalar(&z, rows[i].dtype);
        ref(rows[i].name, &rows[i].attr, rows[i].attr.name != NULL, in, 2, &out, 1);
        if (tdn_view_get_int(&out, 0) != rows[i].expected)
            fail_msg("row %d, %s: %lld", i, rows[i].name, (long long)tdn_view_get_int(&out, 0));
    }
}

static void comparisons(void **state)
{
    (void)state;
    float x[] = {1, 2, NAN, 2}, y[] = {2, 2, 2, NAN};
    uint8_t z[4];
    static const struct {
        const char *name;
        uint8_t expected[4];
    } rows[] = {{"Less", {1, 0, 0, 0}},
                {"LessOrEqual", {1, 1, 0, 0}},
                {"Greater", {0, 0, 0, 0}},
                {"GreaterOrEqual", {0, 1, 0, 0}},
                {"Equal", {0, 1, 0, 0}}};
    tdn_view in[2] = {view(x, TDN_F32, DIMS(4)), view(y, TDN_F32, DIMS(4))},
             out = view(z, TDN_BOOL, DIMS(4));
    for (int i = 0; i < COUNT(rows); i++) {
        ref(rows[i].name, NULL, 0, in, 2, &out, 1);
        assert_memory_equal(z, rows[i].expected, 4);
    }
    int64_t big[] = {INT64_MIN, 1}, one[] = {1, 1};
    tdn_view unsigned_in[2] = {view(big, TDN_U64, DIMS(2)), view(one, TDN_U64, DIMS(2))};
    out = view(z, TDN_BOOL, DIMS(2));
    ref("Greater", NULL, 0, unsigned_in, 2, &out, 1);
    assert_int_equal(z[0], 1);
    assert_int_equal(z[1], 0);
}

static void clips(void **state)
{
    (void)state;
    float x[] = {-5, 0.5f, 5, NAN}, low = -1, high = 2, y[4];
    tdn_view in[3] = {view(x, TDN_F32, DIMS(4)), scalar(&low, TDN_F32), scalar(&high, TDN_F32)};
    tdn_view out = view(y, TDN_F32, DIMS(4));
    ref("Clip", NULL, 0, in, 3, &out, 1);
    assert_floats(y, (float[]){-1, 0.5f, 2, NAN}, 4);
    in[1].dtype = TDN_DTYPE_NONE;
    ref("Clip", NULL, 0, in, 3, &out, 1);
    assert_floats(y, (float[]){-5, 0.5f, 2, NAN}, 4);
    const tdn_attr attrs[] = {FLOAT("min", 0), FLOAT("max", 1)};
    ref("Clip", attrs, 2, in, 1, &out, 1);
    assert_floats(y, (float[]){0, 0.5f, 1, NAN}, 4);
    int8_t i8[] = {-100, 3, 100}, lo8 = -2, o8[3];
    tdn_view in8[2] = {view(i8, TDN_S8, DIMS(3)), scalar(&lo8, TDN_S8)},
             out8 = view(o8, TDN_S8, DIMS(3));
    ref("Clip", NULL, 0, in8, 2, &out8, 1);
    assert_memory_equal(o8, ((int8_t[]){-2, 3, 100}), 3);
}

static void variadic(void **state)
{
    (void)state;
    float a[] = {1, 5}, b[] = {3}, c[] = {2, 9}, y[2];
    tdn_view in[3] = {view(a, TDN_F32, DIMS(2)), view(b, TDN_F32, DIMS(1)),
                      view(c, TDN_F32, DIMS(2))};
    tdn_view out = view(y, TDN_F32, DIMS(2));
    ref("Max", NULL, 0, in, 3, &out, 1);
    assert_floats(y, (float[]){3, 9}, 2);
    ref("Mean", NULL, 0, in, 3, &out, 1);
    assert_floats(y, (float[]){2, 17.0f / 3}, 2);
    ref("Sum", NULL, 0, in, 1, &out, 1);
    assert_floats(y, a, 2);
}

static void batch_normalization(void **state)
{
    (void)state;
    float x[] = {1, 2, 3, 4, 5, 6, 7, 8}, scale[] = {1, 2}, bias[] = {0, 1}, mean[] = {1, 2},
          variance[] = {1, 4};
    float y[8], expected[8];
    tdn_view in[5] = {view(x, TDN_F32, DIMS(2, 2, 2)), view(scale, TDN_F32, DIMS(2)),
                      view(bias, TDN_F32, DIMS(2)), view(mean, TDN_F32, DIMS(2)),
                      view(variance, TDN_F32, DIMS(2))};
    tdn_view out[3] = {view(y, TDN_F32, DIMS(2, 2, 2))};
    for (int i = 0; i < 8; i++) {
        const int c = i / 2 % 2;
        expected[i] = (x[i] - mean[c]) / sqrtf(variance[c] + 1e-5f) * scale[c] + bias[c];
    }
    ref("BatchNormalization", NULL, 0, in, 5, out, 1);
    assert_floats(y, expected, 8);
    float new_mean[2], new_variance[2];
    const tdn_attr attrs[] = {INT("training_mode", 1), FLOAT("momentum", 0.5f)};
    out[1] = view(new_mean, TDN_F32, DIMS(2));
    out[2] = view(new_variance, TDN_F32, DIMS(2));
    ref("BatchNormalization", attrs, 2, in, 5, out, 3);
    assert_floats(new_mean, (float[]){0.5f * 1 + 0.5f * 3.5f, 0.5f * 2 + 0.5f * 5.5f}, 2);
    assert_floats(new_variance, (float[]){0.5f * 1 + 0.5f * 4.25f, 0.5f * 4 + 0.5f * 4.25f}, 2);
    assert_near("training", (double)y[0], -2.5 / sqrt(4.25 + 1e-5), 1e-6);
}

/* The operator with constant parameters becomes a map of one factor and one offset a channel. */
static void batch_normalization_decomposition(void **state)
{
    (void)state;
    static const float params[4][3] = {{1, -2, 0.5f}, {0.1f, 0.2f, 0.3f}, {1, 2, 3}, {0.5f, 1, 2}};
    float x[12], y[12], expected[12];
    tdn_error error = {""};
    tdn_arena *arena = tdn_arena_create(NULL);
    tdn_graph *g = tdn_graph_create(arena, "norm");
    g->opset = 15;
    const tdn_shape shape = tdn_shape_make(3, (int64_t[]){2, 3, 2}),
                    c = tdn_shape_make(1, (int64_t[]){3});
    tdn_value *in[5] = {tdn_graph_add_input(g, "x", TDN_F32, &shape)},
              *out = tdn_graph_value(g, "y");
    tdn_view views[5] = {view(x, TDN_F32, DIMS(2, 3, 2))},
             result = view(expected, TDN_F32, DIMS(2, 3, 2));
    for (int i = 0; i < 4; i++) {
        in[1 + i] = tdn_graph_const(g, NULL, TDN_F32, &c, params[i]);
        views[1 + i] = tdn_value_view(in[1 + i]);
    }
    for (int i = 0; i < 12; i++)
        x[i] = (float)random_in(-3, 3);
    tdn_node *node =
        tdn_graph_node(g, NULL, tdn_op_find("", "BatchNormalization", 15), "bn", in, 5, &out, 1);
    assert_true(tdn_graph_set_output(g, out));
    assert_int_equal(tdn_graph_infer(g, &error), TDN_OK);
    ref("BatchNormalization", NULL, 0, views, 5, &result, 1);
    tdn_infer io = {g, node, 15, &error};
    assert_int_equal(node->op->decompose(&io), TDN_OK);
    tdn_node *map = g->first;
    assert_int_equal(map->op->core, TDN_CORE_MAP);
    assert_int_equal(map->n_in, 3);
    for (int i = 1; i < 3; i++)
        views[i] = tdn_value_view(map->in[i]);
    result.data = y;
    assert_int_equal(run_ref("Map", map->expr, NULL, 0, views, 3, &result, 1, 0, &error), TDN_OK);
    for (int i = 0; i < 12; i++)
        assert_near("folded", (double)y[i], (double)expected[i], 1e-6);
    tdn_arena_free(arena);
}

static void misfits_fail(void **state)
{
    (void)state;
    float x[6] = {0}, y[6] = {0}, z[6] = {0};
    tdn_error error;
    tdn_view in[2] = {view(x, TDN_F32, DIMS(3)), view(y, TDN_F32, DIMS(2))},
             out = view(z, TDN_F32, DIMS(3));
    assert_int_equal(run_ref("Add", NULL, NULL, 0, in, 2, &out, 1, 1, &error), TDN_E_MODEL);
    in[1] = view(y, TDN_F32, DIMS(6)); /* wider than the output */
    in[0] = view(x, TDN_F32, DIMS(1));
    assert_int_equal(run_ref("Add", NULL, NULL, 0, in, 2, &out, 1, 1, &error), TDN_E_MODEL);
    in[0] = view(x, TDN_F32, DIMS(2, 3));
    const tdn_attr far = INTS("axes", 7);
    assert_int_equal(run_ref("ReduceSum", NULL, &far, 1, in, 1, &out, 1, 1, &error), TDN_E_MODEL);
    const tdn_attr rows = INTS("axes", 1); /* would give 2 x 1 */
    assert_int_equal(run_ref("ReduceSum", NULL, &rows, 1, in, 1, &out, 1, 1, &error), TDN_E_MODEL);
}

/* An output that nobody reads may be absent, also the only one. */
static void absent_outputs(void **state)
{
    (void)state;
    static const char *const names[] = {"Add",       "Neg",    "Clip",   "Cast",
                                        "ReduceSum", "ArgMax", "CumSum", "QuantizeLinear"};
    static const int n_in[] = {2, 1, 1, 1, 1, 1, 2, 2};
    float x[3] = {1, 2, 3};
    int32_t axis = 0;
    for (int i = 0; i < COUNT(names); i++) {
        tdn_error error = {""};
        tdn_view in[2] = {view(x, TDN_F32, DIMS(3)), scalar(x, TDN_F32)},
                 out = {.dtype = TDN_DTYPE_NONE};
        if (!strcmp(names[i], "CumSum"))
            in[1] = scalar(&axis, TDN_S32);
        if (run_ref(names[i], NULL, NULL, 0, in, n_in[i], &out, 1, 0, &error) != TDN_OK)
            fail_msg("%s: %s", names[i], error.text);
    }
}

/* ---- Reductions ------------------------------------------------------------------------------ */

static void reductions(void **state)
{
    (void)state;
    float x[] = {1, 2, 3, 4, 5, 6}, y[3];
    int64_t axes[] = {-2};
    tdn_view in[2] = {view(x, TDN_F32, DIMS(2, 3)), view(axes, TDN_S64, DIMS(1))},
             out = view(y, TDN_F32, DIMS(1, 3));
    ref("ReduceSum", NULL, 0, in, 2, &out, 1);
    assert_floats(y, (float[]){5, 7, 9}, 3);
    const tdn_attr drop = INT("keepdims", 0);
    out = view(y, TDN_F32, DIMS(3));
    ref("ReduceMean", &drop, 1, in, 2, &out, 1);
    assert_floats(y, (float[]){2.5f, 3.5f, 4.5f}, 3);
    out = scalar(y, TDN_F32);
    ref("ReduceProd", &drop, 1, in, 1, &out, 1);
    assert_floats(y, (float[]){720}, 1);
    ref("ReduceL2", &drop, 1, in, 1, &out, 1);
    assert_floats(y, (float[]){sqrtf(91)}, 1);
    ref("ReduceLogSumExp", &drop, 1, in, 1, &out, 1);
    assert_floats(y, (float[]){6.4561934f}, 1);
    float y6[6];
    const tdn_attr noop = INT("noop_with_empty_axes", 1);
    out = view(y6, TDN_F32, DIMS(2, 3));
    ref("ReduceSumSquare", &noop, 1, in, 1, &out, 1);
    assert_floats(y6, (float[]){1, 4, 9, 16, 25, 36}, 6);
}

static void reductions_of_odd_values(void **state)
{
    (void)state;
    float x[] = {-INFINITY, -INFINITY, 1000, 1000, INFINITY, 1, NAN, 1}, y[4];
    const tdn_attr last[] = {INTS("axes", 1), INT("keepdims", 0)};
    tdn_view in = view(x, TDN_F32, DIMS(4, 2)), out = view(y, TDN_F32, DIMS(4));
    ref("ReduceLogSumExp", last, 2, &in, 1, &out, 1);
    assert_floats(y, (float[]){-INFINITY, 1000 + logf(2), INFINITY, NAN}, 4);
    ref("ReduceMax", last, 2, &in, 1, &out, 1);
    assert_floats(y, (float[]){-INFINITY, 1000, INFINITY, NAN}, 4);
    in = view(x, TDN_F32, DIMS(2, 0)); /* of nothing */
    out = view(y, TDN_F32, DIMS(2));
    ref("ReduceMin", last, 2, &in, 1, &out, 1);
    assert_floats(y, (float[]){INFINITY, INFINITY}, 2);
    ref("ReduceProd", last, 2, &in, 1, &out, 1);
    assert_floats(y, (float[]){1, 1}, 2);
    uint64_t u[] = {1, UINT64_MAX}, top;
    tdn_view u_in = view(u, TDN_U64, DIMS(2)), u_out = scalar(&top, TDN_U64);
    ref("ReduceMax", &last[1], 1, &u_in, 1, &u_out, 1);
    assert_true(top == UINT64_MAX);
    int32_t i32[] = {-7, 2}, mean;
    tdn_view i_in = view(i32, TDN_S32, DIMS(2)), i_out = scalar(&mean, TDN_S32);
    ref("ReduceMean", &last[1], 1, &i_in, 1, &i_out, 1);
    assert_int_equal(mean, -2);
}

static void arg_and_cumulative(void **state)
{
    (void)state;
    float x[] = {2, 7, 7, 1, 3, 3};
    int64_t y[3];
    const tdn_attr attrs[] = {INT("axis", -1), INT("keepdims", 0), INT("select_last_index", 1)};
    tdn_view in[2] = {view(x, TDN_F32, DIMS(2, 3))}, out = view(y, TDN_S64, DIMS(2));
    ref("ArgMax", attrs, 2, in, 1, &out, 1);
    assert_memory_equal(y, ((int64_t[]){1, 1}), sizeof(int64_t[2]));
    ref("ArgMax", attrs, 3, in, 1, &out, 1);
    assert_memory_equal(y, ((int64_t[]){2, 2}), sizeof(int64_t[2]));
    ref("ArgMin", attrs, 2, in, 1, &out, 1);
    assert_memory_equal(y, ((int64_t[]){0, 0}), sizeof(int64_t[2]));
    int32_t axis = 1;
    float sums[6];
    tdn_view running = view(sums, TDN_F32, DIMS(2, 3));
    in[1] = scalar(&axis, TDN_S32);
    ref("CumSum", NULL, 0, in, 2, &running, 1);
    assert_floats(sums, (float[]){2, 9, 16, 1, 4, 7}, 6);
    const tdn_attr backwards[] = {INT("reverse", 1), INT("exclusive", 1)};
    ref("CumSum", backwards, 2, in, 2, &running, 1);
    assert_floats(sums, (float[]){14, 7, 0, 6, 3, 0}, 6);
    ref("CumProd", backwards, 1, in, 2, &running, 1);
    assert_floats(sums, (float[]){98, 49, 7, 9, 9, 3}, 6);
    tdn_error error;
    axis = 2;
    assert_int_equal(run_ref("CumSum", NULL, NULL, 0, in, 2, &running, 1, 1, &error), TDN_E_MODEL);
}

/* ---- Casts ----------------------------------------------------------------------------------- */

static void casts_between_all_dtypes(void **state)
{
    (void)state;
    for (int from = TDN_F32; from <= TDN_U4; from++)
        for (int to = TDN_F32; to <= TDN_U4; to++) {
            uint64_t x[8] = {0}, y[8] = {0};
            tdn_view in = view(x, (tdn_dtype)from, DIMS(7)), out = view(y, (tdn_dtype)to, DIMS(7));
            for (int i = 0; i < 7; i++)
                tdn_view_set_int(&in, i, i);
            ref("Cast", NULL, 0, &in, 1, &out, 1);
            for (int i = 0; i < 7; i++)
                assert_int_equal(tdn_view_get_int(&out, i),
                                 from == TDN_BOOL || to == TDN_BOOL ? i != 0 : i);
        }
}

static void casts_of_odd_values(void **state)
{
    (void)state;
    static const struct {
        tdn_dtype from, to;
        double x, expected;
    } rows[] = {
        {TDN_S16, TDN_S8, 200, -56},
        {TDN_S32, TDN_U8, -1, 255},
        {TDN_F32, TDN_U8, 300.7, 44},
        {TDN_F32, TDN_S32, -2.9, -2},
        {TDN_F32, TDN_S32, NAN, 0},
        {TDN_F32, TDN_S32, 3e9, INT32_MAX},
        {TDN_F32, TDN_S4, -9, 7},
        {TDN_F32, TDN_BOOL, NAN, 1},
        {TDN_F32, TDN_BOOL, 0.5, 1},
        {TDN_F64, TDN_F32, 1e300, INFINITY},
        {TDN_F32, TDN_F16, 70000, INFINITY},
        {TDN_F64, TDN_F16, 1.00048828125000001, 1.0},
        {TDN_F64, TDN_F16, 1.000488281250001, 1.0009765625},
        {TDN_F32, TDN_BF16, 1.00390625, 1},
        {TDN_S32, TDN_S4, 9, -7},
        {TDN_S32, TDN_U4, 17, 1},
        {TDN_S64, TDN_BOOL, 256, 1},
    };
    for (int i = 0; i < COUNT(rows); i++) {
        uint64_t x = 0, y = 0;
        tdn_view in = scalar(&x, rows[i].from), out = scalar(&y, rows[i].to);
        tdn_view_set(&in, 0, rows[i].x);
        ref("Cast", NULL, 0, &in, 1, &out, 1);
        char what[32];
        snprintf(what, sizeof what, "row %d", i);
        assert_near(what, tdn_view_get(&out, 0), rows[i].expected, 0);
    }
    uint64_t big = UINT64_MAX;
    double wide;
    tdn_view in = scalar(&big, TDN_U64), out = scalar(&wide, TDN_F64);
    ref("Cast", NULL, 0, &in, 1, &out, 1);
    assert_near("uint64", wide, 0x1p64, 0);
    float f = -1.5f;
    uint32_t bits;
    in = scalar(&f, TDN_F32);
    out = scalar(&bits, TDN_U32);
    ref("BitCast", NULL, 0, &in, 1, &out, 1);
    assert_int_equal(bits, 0xbfc00000u);
}

/* ---- Quantisation ---------------------------------------------------------------------------- */

static void quantise(void **state)
{
    (void)state;
    float x[] = {0, 2, 3, 1000, -254, -1000}, scale = 2;
    uint8_t zero = 128, y[8] = {0};
    tdn_view in[3] = {view(x, TDN_F32, DIMS(6)), scalar(&scale, TDN_F32), scalar(&zero, TDN_U8)};
    tdn_view out = view(y, TDN_U8, DIMS(6));
    ref("QuantizeLinear", NULL, 0, in, 3, &out, 1);
    assert_memory_equal(y, ((uint8_t[]){128, 129, 130, 255, 1, 0}), 6);
    float back[6];
    tdn_view q[3] = {out, in[1], in[2]}, real = view(back, TDN_F32, DIMS(6));
    ref("DequantizeLinear", NULL, 0, q, 3, &real, 1);
    assert_floats(back, (float[]){0, 2, 4, 254, -254, -256}, 6);
    float axis_scale[] = {1, 10};
    int8_t y8[6];
    const tdn_attr axis = INT("axis", 0);
    tdn_view by_axis[2] = {view(x, TDN_F32, DIMS(2, 3)), view(axis_scale, TDN_F32, DIMS(2))};
    tdn_view out8 = view(y8, TDN_S8, DIMS(2, 3));
    ref("QuantizeLinear", &axis, 1, by_axis, 2, &out8, 1);
    assert_memory_equal(y8, ((int8_t[]){0, 2, 3, 100, -25, -100}), 6);
    float blocks[] = {1, 2, 10, 100}; /* 2 x 2: blocks of two along axis 1 of 2 x 3 */
    uint8_t nibbles[3] = {0};
    const tdn_attr blocked[] = {INT("axis", 1), INT("block_size", 2)};
    tdn_view by_block[2] = {view(x, TDN_F32, DIMS(2, 3)), view(blocks, TDN_F32, DIMS(2, 2))};
    tdn_view out4 = view(nibbles, TDN_S4, DIMS(2, 3));
    ref("QuantizeLinear", blocked, 2, by_block, 2, &out4, 1);
    const int64_t expected[] = {0, 2, 2, 7, -8, -8}; /* 3 / 2 = 1.5 goes to even */
    for (int i = 0; i < 6; i++)
        assert_int_equal(tdn_view_get_int(&out4, i), expected[i]);
}

static void dynamic_quantise(void **state)
{
    (void)state;
    float x[] = {0, 2, -3, -2.5f, 1.34f, 0.5f}, scale;
    uint8_t y[6], zero;
    tdn_view in = view(x, TDN_F32, DIMS(6));
    tdn_view out[3] = {view(y, TDN_U8, DIMS(6)), scalar(&scale, TDN_F32), scalar(&zero, TDN_U8)};
    ref("DynamicQuantizeLinear", NULL, 0, &in, 1, out, 3);
    assert_near("scale", (double)scale, 5.0 / 255, 1e-7);
    assert_int_equal(zero, 153);
    assert_memory_equal(y, ((uint8_t[]){153, 255, 0, 26, 221, 179}), 6); /* ONNX's own example */
}

static void integer_products(void **state)
{
    (void)state;
    enum { B = 2, M = 6, K = 9, N = 300 };
    static uint8_t a[B * M * K];
    static int8_t b[K * N];
    static int32_t y[B * M * N];
    uint8_t a_zero = 7;
    int8_t b_zero[N];
    for (int i = 0; i < COUNT(a); i++)
        a[i] = (uint8_t)random_in(0, 256);
    for (int i = 0; i < COUNT(b); i++)
        b[i] = (int8_t)random_in(-128, 128);
    for (int i = 0; i < N; i++)
        b_zero[i] = (int8_t)random_in(-9, 9);
    tdn_view in[4] = {view(a, TDN_U8, DIMS(B, M, K)), view(b, TDN_S8, DIMS(K, N)),
                      scalar(&a_zero, TDN_U8), view(b_zero, TDN_S8, DIMS(N))};
    tdn_view out = view(y, TDN_S32, DIMS(B, M, N));
    ref("MatMulInteger", NULL, 0, in, 4, &out, 1);
    for (int i = 0; i < B * M; i++)
        for (int j = 0; j < N; j++) {
            int32_t sum = 0;
            for (int k = 0; k < K; k++)
                sum += (a[i * K + k] - a_zero) * (b[k * N + j] - b_zero[j]);
            assert_int_equal(y[i * N + j], sum);
        }
    int8_t q[B * M * N], y_zero = 3;
    float a_scale = 0.01f, b_scale = 0.02f, y_scale = 0.5f;
    tdn_view qin[8] = {in[0],
                       scalar(&a_scale, TDN_F32),
                       in[2],
                       in[1],
                       scalar(&b_scale, TDN_F32),
                       in[3],
                       scalar(&y_scale, TDN_F32),
                       scalar(&y_zero, TDN_S8)};
    tdn_view qout = view(q, TDN_S8, DIMS(B, M, N));
    ref("QLinearMatMul", NULL, 0, qin, 8, &qout, 1);
    for (int i = 0; i < COUNT(q); i++) {
        const double wanted = nearbyint((double)((float)y[i] * (a_scale * b_scale / y_scale))) + 3;
        assert_int_equal(q[i], wanted > 127 ? 127 : wanted < -128 ? -128 : (int)wanted);
    }
}

static void integer_convolutions(void **state)
{
    (void)state;
    enum {
        C = 4,
        H = 5,
        W = 300,
        M = 10,
        KH = 2,
        KW = 3,
        G = 2,
        SH = 2,
        D = 2,
        OH = 3,
        OW = W + 2 - 4
    };
    static uint8_t x[C * H * W];
    static int8_t w[M * C / G * KH * KW];
    static int32_t y[M * OH * OW];
    uint8_t x_zero = 100;
    int8_t w_zero[M];
    for (int i = 0; i < COUNT(x); i++)
        x[i] = (uint8_t)random_in(0, 256);
    for (int i = 0; i < COUNT(w); i++)
        w[i] = (int8_t)random_in(-128, 128);
    for (int i = 0; i < M; i++)
        w_zero[i] = (int8_t)i;
    const tdn_attr attrs[] = {INT("group", G), INTS("strides", SH, 1), INTS("dilations", 1, D),
                              INTS("pads", 1, 1, 0, 1)};
    tdn_view in[4] = {view(x, TDN_U8, DIMS(1, C, H, W)), view(w, TDN_S8, DIMS(M, C / G, KH, KW)),
                      scalar(&x_zero, TDN_U8), view(w_zero, TDN_S8, DIMS(M))};
    tdn_view out = view(y, TDN_S32, DIMS(1, M, OH, OW));
    ref("ConvInteger", attrs, 4, in, 4, &out, 1);
    for (int m = 0; m < M; m++)
        for (int oy = 0; oy < OH; oy++)
            for (int ox = 0; ox < OW; ox++) {
                int32_t sum = 0;
                for (int i = 0; i < C / G * KH * KW; i++) {
                    const int c = m / (M / G) * (C / G) + i / (KH * KW);
                    const int iy = oy * SH - 1 + i / KW % KH, ix = ox - 1 + i % KW * D;
                    if (iy >= 0 && iy < H && ix >= 0 && ix < W)
                        sum += (x[(c * H + iy) * W + ix] - x_zero) *
                               (w[m * (C / G * KH * KW) + i] - w_zero[m]);
                }
                assert_int_equal(y[(m * OH + oy) * OW + ox], sum);
            }
    static uint8_t q[M * OH * OW];
    uint8_t y_zero = 9;
    float x_scale = 0.02f, w_scale[M], y_scale = 3;
    int32_t bias[M];
    for (int i = 0; i < M; i++) {
        w_scale[i] = 0.1f + 0.02f * (float)i;
        bias[i] = 1000 * i;
    }
    tdn_view qin[9] = {in[0],
                       scalar(&x_scale, TDN_F32),
                       in[2],
                       in[1],
                       view(w_scale, TDN_F32, DIMS(M)),
                       in[3],
                       scalar(&y_scale, TDN_F32),
                       scalar(&y_zero, TDN_U8),
                       view(bias, TDN_S32, DIMS(M))};
    tdn_view qout = view(q, TDN_U8, DIMS(1, M, OH, OW));
    ref("QLinearConv", attrs, 4, qin, 9, &qout, 1);
    for (int i = 0; i < COUNT(q); i++) {
        const int m = i / (OH * OW);
        const double wanted =
            nearbyint((double)((float)(y[i] + bias[m]) * (x_scale * w_scale[m] / y_scale))) + 9;
        assert_int_equal(q[i], wanted > 255 ? 255 : wanted < 0 ? 0 : (int)wanted);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elementwise_decompositions),
        cmocka_unit_test(reduce_decompositions),
        cmocka_unit_test(strides_and_broadcast),
        cmocka_unit_test(parts_do_not_matter),
        cmocka_unit_test(integers),
        cmocka_unit_test(comparisons),
        cmocka_unit_test(clips),
        cmocka_unit_test(variadic),
        cmocka_unit_test(batch_normalization),
        cmocka_unit_test(batch_normalization_decomposition),
        cmocka_unit_test(misfits_fail),
        cmocka_unit_test(absent_outputs),
        cmocka_unit_test(reductions),
        cmocka_unit_test(reductions_of_odd_values),
        cmocka_unit_test(arg_and_cumulative),
        cmocka_unit_test(casts_between_all_dtypes),
        cmocka_unit_test(casts_of_odd_values),
        cmocka_unit_test(quantise),
        cmocka_unit_test(dynamic_quantise),
        cmocka_unit_test(integer_products),
        cmocka_unit_test(integer_convolutions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
