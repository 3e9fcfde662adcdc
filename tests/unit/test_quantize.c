/* SPDX-License-Identifier: Apache-2.0 */
/* Quantisation of a graph: what is marked, what passes make of it, and what of models that carry
 * their own scales. Graphs are built by hand from core operators. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "graph_fixture.h"
#include "ops/dequantized.h"
#include "ops/emit.h"
#include "quant/annotate.h"

static tdn_value *constant(fixture *f, const char *name, tdn_dtype dtype, int rank,
                           const int64_t *dims, const void *data)
{
    tdn_shape s = tdn_shape_make(rank, dims);
    return tdn_graph_const(f->g, name, dtype, &s, data);
}

static tdn_value *node(fixture *f, const char *domain, const char *op, const char *out,
                       tdn_value *const *in, int n_in)
{
    tdn_value *v = tdn_graph_value(f->g, out);
    tdn_node *n = tdn_graph_node(f->g, NULL, tdn_op_find(domain, op, 17), out, in, n_in, &v, 1);
    assert_non_null(n);
    if (tdn_node_infer(f->g, n, &f->error) != TDN_OK)
        fail_msg("%s", f->error.text);
    return v;
}

/* Of one attribute. */
static tdn_value *moved(fixture *f, const char *op, const char *out, tdn_value *x, const char *attr,
                        const int64_t *ints, int n)
{
    tdn_value *v = tdn_graph_value(f->g, out);
    tdn_node *made = tdn_graph_node(f->g, NULL, tdn_op_find("", op, 17), out, &x, 1, &v, 1);
    tdn_node_set_ints(f->g, made, attr, ints, n);
    assert_int_equal(tdn_node_infer(f->g, made, &f->error), TDN_OK);
    return v;
}

static tdn_value *relu(fixture *f, const char *out, tdn_value *x)
{
    tdn_value *v = tdn_graph_value(f->g, out);
    tdn_node *n = tdn_graph_node(f->g, NULL, tdn_op_find("tendon", "Map", 1), out, &x, 1, &v, 1);
    n->expr = tdn_arena_alloc(f->arena, 1, sizeof *n->expr);
    const int zero = tdn_expr_const(n->expr, 0);
    tdn_expr_store(n->expr, tdn_expr_add(n->expr, TDN_X_MAX, tdn_expr_input(n->expr, 0), zero, 0),
                   0);
    v->dtype = TDN_F32;
    v->shape = x->shape;
    return v;
}

static bool range_of(void *user, const char *name, float *amax)
{
    const char *unknown = user;
    *amax = strcmp(name, "x") ? 2.55f : 1.27f;
    return !unknown || strcmp(name, unknown) != 0;
}

static tdn_status annotate(void *user, tdn_graph *g, tdn_error *error)
{
    const tdn_annotate_options o = {
        .precision = TDN_PRECISION_INT8, .range = range_of, .range_user = user};
    return tdn_quant_annotate(g, &o, error);
}

static void run_all(fixture *f, const char *unknown, bool quantizes)
{
    const tdn_pass_options o = {.before_quantizing = quantizes ? annotate : NULL,
                                .quantizing_user = (void *)(uintptr_t)unknown};
    if (tdn_passes_run(f->g, &o, &f->error) != TDN_OK)
        fail_msg("%s", f->error.text);
}

static int count(const fixture *f, const char *op)
{
    int n = 0;
    for (const tdn_node *p = f->g->first; p; p = p->next)
        n += strcmp(p->op->name, op) == 0;
    return n;
}

static const float weights[16] = {1,      -2,   0.5f, 4,    -0.25f, 8,      3,     -1,
                                  0.125f, 0.5f, -4,   -0.5, 2,      -0.75f, 0.25f, 6};

/* x w1, rectified, w2, where x has k columns: what is between may become bytes or halves. */
static void layers_of(fixture *f, int64_t k, const float *first_weights)
{
    const tdn_shape s = tdn_shape_make(2, (int64_t[]){4, k});
    tdn_value *x = tdn_graph_add_input(f->g, "x", TDN_F32, &s);
    tdn_value *w1 = constant(f, "w1", TDN_F32, 2, (int64_t[]){k, 2}, first_weights);
    tdn_value *w2 = constant(f, "w2", TDN_F32, 2, (int64_t[]){2, 3}, weights);
    tdn_value *a = node(f, "", "MatMul", "a", (tdn_value *[]){x, w1}, 2);
    tdn_value *b = relu(f, "b", a);
    tdn_graph_set_output(f->g, node(f, "", "MatMul", "c", (tdn_value *[]){b, w2}, 2));
    f->g->has_shapes = true;
}
static void two_layers(fixture *f) { layers_of(f, 3, weights); }

static void test_two_layers_of_bytes(void **state)
{
    fixture *f = *state;
    two_layers(f);
    run_all(f, NULL, true);
    assert_int_equal(count(f, "IntegerMatMul"), 2);
    assert_int_equal(count(f, "MatMul"), 0);
    assert_int_equal(count(f, "Map"), 1); /* the input's; the other is an epilogue */
    const tdn_node *first = f->g->first->next, *second = first->next;
    assert_int_equal(first->out[0]->dtype, TDN_U8);
    assert_int_equal(first->n_own_in, 3); /* the input may be negative: a zero point */
    assert_int_equal(*(const uint8_t *)first->in[2]->data, 128);
    assert_int_equal(second->n_own_in, 2);
    assert_int_equal(second->out[0]->dtype, TDN_F32);
    const int8_t *w = first->in[1]->data; /* each output by its own scale */
    const int8_t expected[6] = {127, -32, 64, 64, -32, 127};
    assert_memory_equal(w, expected, sizeof expected);
}

static void test_what_has_no_range_stays(void **state)
{
    fixture *f = *state;
    two_layers(f);
    run_all(f, "b", true);
    assert_int_equal(count(f, "IntegerMatMul"), 1);
    assert_int_equal(count(f, "MatMul"), 1);
}

static void test_nothing_without_marks(void **state)
{
    fixture *f = *state;
    two_layers(f);
    run_all(f, NULL, false);
    assert_int_equal(count(f, "IntegerMatMul"), 0);
}

/* The product that reads x is two of the model's nodes. */
static tdn_status annotate_layers(void *user, tdn_graph *g, tdn_error *error)
{
    const tdn_annotate_options o = {
        .precision = TDN_PRECISION_INT8, .range = range_of, .layers = user, .n_layers = 2};
    for (tdn_node *n = g->first; n; n = n->next)
        if (strcmp(n->op->name, "MatMul") == 0 && n->in[0]->kind == TDN_VALUE_INPUT)
            n->origin = "net/one + net/[two]";
    return tdn_quant_annotate(g, &o, error);
}

static tdn_status run_layers(fixture *f, tdn_layer_precision first, tdn_layer_precision second)
{
    const tdn_layer_precision rows[] = {first, second};
    const tdn_pass_options o = {.before_quantizing = annotate_layers,
                                .quantizing_user = (void *)(uintptr_t)rows};
    two_layers(f);
    return tdn_passes_run(f->g, &o, &f->error);
}

static void test_layers_by_name(void **state)
{
    static const struct {
        const char *first, *second; /* float32, then int8 */
        int n_int8;
    } rows[] = {{"c", "c", 2},          {"c", "*", 2},       {"c", "net*", 1},
                {"*", "c", 1},          {"net/two", "c", 0}, {"net/one", "c", 1},
                {"net/[two]", "c", 1},  {"*/one", "c", 1},   {"net/\\[tw?\\]", "c", 1},
                {"net/[abt]", "c", 0},  {"one", "c", 0},     {"net/one + net/[two]", "c", 1},
                {"*", "net/one + *", 1}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        void *fresh;
        assert_int_equal(setup(&fresh), 0);
        fixture *f = fresh;
        const tdn_status status =
            run_layers(f, (tdn_layer_precision){rows[i].first, TDN_PRECISION_FP32},
                       (tdn_layer_precision){rows[i].second, TDN_PRECISION_INT8});
        assert_int_equal(status, rows[i].n_int8 ? TDN_OK : TDN_E_ARG);
        if (rows[i].n_int8)
            assert_int_equal(count(f, "IntegerMatMul"), rows[i].n_int8);
        else
            assert_non_null(strstr(f->error.text, "there are: net/one + net/[two], c"));
        teardown(&fresh);
    }
    (void)state;
}

/* QuantizeLinear, DequantizeLinear, a transpose between two pairs of one scale, a product: bytes
 * all the way, and one map that quantises. */
static void test_model_with_scales(void **state)
{
    static const float x_scale = 0.5f, w_scale[2] = {0.25f, 2};
    static const int8_t x_zero = 3, q[6] = {1, -2, 3, -4, 127, -128}, w_zero[2] = {0, 0};
    fixture *f = *state;
    const tdn_shape s = tdn_shape_make(2, (int64_t[]){3, 4});
    tdn_value *x = tdn_graph_add_input(f->g, "x", TDN_F32, &s);
    tdn_value *xs = constant(f, "xs", TDN_F32, 0, NULL, &x_scale);
    tdn_value *xz = constant(f, "xz", TDN_S8, 0, NULL, &x_zero);
    tdn_value *w = constant(f, "w", TDN_S8, 2, (int64_t[]){3, 2}, q);
    tdn_value *ws = constant(f, "ws", TDN_F32, 1, (int64_t[]){2}, w_scale);
    tdn_value *wz = constant(f, "wz", TDN_S8, 1, (int64_t[]){2}, w_zero);
    tdn_value *a = node(f, "", "QuantizeLinear", "a", (tdn_value *[]){x, xs, xz}, 3);
    tdn_value *b = node(f, "", "DequantizeLinear", "b", (tdn_value *[]){a, xs, xz}, 3);
    tdn_value *t = moved(f, "Transpose", "t", b, "perm", (int64_t[]){1, 0}, 2);
    tdn_value *c = node(f, "", "QuantizeLinear", "c", (tdn_value *[]){t, xs, xz}, 3);
    tdn_value *d = node(f, "", "DequantizeLinear", "d", (tdn_value *[]){c, xs, xz}, 3);
    tdn_value *e = node(f, "", "DequantizeLinear", "e", (tdn_value *[]){w, ws, wz}, 3);
    tdn_graph_set_output(f->g, node(f, "", "MatMul", "y", (tdn_value *[]){d, e}, 2));
    f->g->has_shapes = true;
    run_all(f, NULL, false);
    assert_int_equal(count(f, "Map"), 1);
    assert_int_equal(count(f, "Transpose"), 1);
    assert_int_equal(count(f, "IntegerMatMul"), 1);
    const tdn_node *product = f->g->last;
    assert_int_equal(product->in[0]->dtype, TDN_U8);
    assert_int_equal(*(const uint8_t *)product->in[2]->data, 131);
    assert_memory_equal(product->in[1]->data, q, sizeof q);
    const float in[2] = {10, 0.125f};
    float out;
    tdn_expr_eval(product->expr, in, &out);
    assert_true(out == 1.25f);
}

/* Of maps from bytes to bytes only the one that takes 128 off is known. */
static void test_the_bytes_behind_signed_ones(void **state)
{
    fixture *f = *state;
    const tdn_shape s = tdn_shape_make(1, (int64_t[]){4});
    tdn_value *u = tdn_graph_add_input(f->g, "u", TDN_U8, &s);
    tdn_value *v[2];
    for (int i = 0; i < 2; i++) {
        v[i] = relu(f, i ? "other" : "shifted", u);
        tdn_expr e = {.n_in = 1};
        const int by = tdn_expr_const(&e, i ? -127 : -128);
        tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_ADD, tdn_expr_input(&e, 0), by, 0), 0);
        *v[i]->producer->expr = e;
        v[i]->dtype = TDN_S8;
    }
    assert_ptr_equal(tdn_value_unsigned(v[0]), u);
    assert_null(tdn_value_unsigned(v[1]));
    assert_null(tdn_value_unsigned(u));
}

/* ---- Halves ---------------------------------------------------------------------------------- */

/* A build in halves, where one value reaches so far, and all others 1. */
typedef struct halving {
    tdn_precision precision;
    const char *name; /* NULL: no range is known */
    float amax;
    char warning[512]; /* what was said */
} halving;

static bool reach_of(void *user, const char *name, float *amax)
{
    const halving *h = user;
    *amax = strcmp(name, h->name) ? 1 : h->amax;
    return true;
}

static void keep_warning(void *user, tdn_log_level level, const char *line)
{
    halving *h = user;
    if (level == TDN_LOG_WARNING)
        snprintf(h->warning, sizeof h->warning, "%s", line);
}

static tdn_status annotate_halves(void *user, tdn_graph *g, tdn_error *error)
{
    const halving *h = user;
    const tdn_annotate_options o = {.precision = h->precision,
                                    .range = h->name ? reach_of : NULL,
                                    .range_user = user,
                                    .log = keep_warning,
                                    .log_user = user};
    return tdn_quant_annotate(g, &o, error);
}

static void run_halves(fixture *f, halving *h)
{
    const tdn_pass_options o = {.before_quantizing = annotate_halves, .quantizing_user = h};
    if (tdn_passes_run(f->g, &o, &f->error) != TDN_OK)
        fail_msg("%s", f->error.text);
}

/* Products of halves in a graph of its own, of two layers. */
static int n_halved(halving *h, int64_t k, const float *first_weights)
{
    void *fresh;
    assert_int_equal(setup(&fresh), 0);
    fixture *f = fresh;
    layers_of(f, k, first_weights);
    run_halves(f, h);
    const int n = count(f, "HalfMatMul");
    assert_int_equal(count(f, "MatMul"), 2 - n);
    teardown(&fresh);
    return n;
}

static void check_two_layers(fixture *f, tdn_precision precision, tdn_dtype half,
                             const uint16_t expected[4])
{
    layers_of(f, 4, weights);
    run_halves(f, &(halving){.precision = precision});
    assert_int_equal(count(f, "HalfMatMul"), 2);
    assert_int_equal(count(f, "MatMul"), 0);
    assert_int_equal(count(f, "Map"), 1); /* the input's; the other is an epilogue */
    const tdn_node *first = f->g->first->next, *second = first->next;
    assert_int_equal(first->in[0]->dtype, half);
    assert_int_equal(first->in[1]->dtype, half);
    assert_int_equal(first->out[0]->dtype, half);
    assert_ptr_equal(second->in[0], first->out[0]);
    assert_int_equal(second->out[0]->dtype, TDN_F32);
    assert_memory_equal(first->in[1]->data, expected, 4 * sizeof *expected);
    const float sums[2] = {-3, 5};
    float out[2];
    for (int i = 0; i < 2; i++)
        tdn_expr_eval(first->expr, &sums[i], &out[i]);
    assert_true(out[0] == 0 && out[1] == 5); /* still rectified */
}

static void test_two_layers_of_binary16(void **state)
{
    const uint16_t expected[4] = {0x3C00, 0xC000, 0x3800, 0x4400};
    check_two_layers(*state, TDN_PRECISION_FP16, TDN_F16, expected);
}

static void test_two_layers_of_bfloat16(void **state)
{
    const uint16_t expected[4] = {0x3F80, 0xC000, 0x3F00, 0x4080};
    check_two_layers(*state, TDN_PRECISION_BF16, TDN_BF16, expected);
}

/* Twice the magnitude is to be below 65504, of a value that a product in binary16 reads. */
static void test_what_would_overflow_stays(void **state)
{
    static const struct {
        tdn_precision precision;
        const char *name;
        float amax;
        int n_halved;
    } rows[] = {{TDN_PRECISION_FP16, "b", 32752, 2}, {TDN_PRECISION_FP16, "b", 32753, 1},
                {TDN_PRECISION_FP16, "x", 1e5f, 1},  {TDN_PRECISION_FP16, "b", INFINITY, 1},
                {TDN_PRECISION_FP16, "c", 1e5f, 2}, /* nothing reads it */
                {TDN_PRECISION_BF16, "b", 1e5f, 2}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        halving h = {.precision = rows[i].precision, .name = rows[i].name, .amax = rows[i].amax};
        char quoted[8];
        snprintf(quoted, sizeof quoted, "'%s'", rows[i].name);
        assert_int_equal(n_halved(&h, 4, weights), rows[i].n_halved);
        if (rows[i].n_halved == 2)
            assert_string_equal(h.warning, "");
        else if (!strstr(h.warning, "overflow") || !strstr(h.warning, quoted))
            fail_msg("row %zu: '%s'", i, h.warning);
    }
    (void)state;
}

/* Kernels read rows in pairs; of 3 the first product stays. */
static void test_odd_rows_stay(void **state)
{
    for (int64_t k = 3; k < 7; k++) {
        halving of_16 = {.precision = TDN_PRECISION_FP16}, bf = {.precision = TDN_PRECISION_BF16};
        assert_int_equal(n_halved(&of_16, k, weights), k % 2 ? 1 : 2);
        assert_int_equal(n_halved(&bf, k, weights), k % 2 ? 1 : 2);
    }
    (void)state;
}

/* An output whose weights are all below the normal numbers loses most of them. */
static void test_weights_out_of_reach_stay(void **state)
{
    static const struct {
        float column[2]; /* of the weights' first, by turns */
        int n_halved;
    } rows[] = {{{65504, 1}, 2},      {{65505, 1}, 1},        {{1, -70000}, 1},
                {{1e-5f, -1e-5f}, 1}, {{1e-5f, 0x1p-14f}, 2}, {{0, 0}, 2}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        float w[8];
        memcpy(w, weights, sizeof w);
        for (int k = 0; k < 4; k++)
            w[2 * k] = rows[i].column[k % 2];
        halving of_16 = {.precision = TDN_PRECISION_FP16}, bf = {.precision = TDN_PRECISION_BF16};
        assert_int_equal(n_halved(&of_16, 4, w), rows[i].n_halved);
        assert_int_equal(n_halved(&bf, 4, w), 2);
    }
    (void)state;
}

static void assert_moves(const fixture *f, const char *op, tdn_dtype dtype)
{
    assert_int_equal(count(f, op), 1);
    for (const tdn_node *n = f->g->first; n; n = n->next)
        if (strcmp(n->op->name, op) == 0) {
            assert_int_equal(n->in[0]->dtype, dtype);
            assert_int_equal(n->out[0]->dtype, dtype);
        }
}

/* A convolution, the largest of windows, a transpose, a product: the input's map alone is left. */
static void test_halves_are_moved(void **state)
{
    fixture *f = *state;
    const tdn_shape s = tdn_shape_make(4, (int64_t[]){1, 4, 5, 5});
    tdn_value *x = tdn_graph_add_input(f->g, "x", TDN_F32, &s);
    tdn_value *v = constant(f, "v", TDN_F32, 4, (int64_t[]){4, 4, 1, 1}, weights);
    tdn_value *w = constant(f, "w", TDN_F32, 2, (int64_t[]){4, 3}, weights);
    tdn_value *c = node(f, "", "Conv", "c", (tdn_value *[]){x, v}, 2);
    tdn_value *p = moved(f, "MaxPool", "p", c, "kernel_shape", (int64_t[]){2, 2}, 2);
    tdn_value *t = moved(f, "Transpose", "t", p, "perm", (int64_t[]){0, 2, 3, 1}, 4);
    tdn_graph_set_output(f->g, node(f, "", "MatMul", "y", (tdn_value *[]){t, w}, 2));
    f->g->has_shapes = true;
    run_halves(f, &(halving){.precision = TDN_PRECISION_FP16});
    assert_int_equal(count(f, "HalfConv"), 1);
    assert_int_equal(count(f, "HalfMatMul"), 1);
    assert_int_equal(count(f, "Map"), 1);
    assert_moves(f, "Pool", TDN_F16);
    assert_moves(f, "Transpose", TDN_F16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_two_layers_of_bytes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_has_no_range_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_nothing_without_marks, setup, teardown),
        cmocka_unit_test(test_layers_by_name),
        cmocka_unit_test_setup_teardown(test_model_with_scales, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_bytes_behind_signed_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_layers_of_binary16, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_layers_of_bfloat16, setup, teardown),
        cmocka_unit_test(test_what_would_overflow_stays),
        cmocka_unit_test(test_odd_rows_stay),
        cmocka_unit_test(test_weights_out_of_reach_stay),
        cmocka_unit_test_setup_teardown(test_halves_are_moved, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
