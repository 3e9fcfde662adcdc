/* SPDX-License-Identifier: Apache-2.0 */
/* Passes, by the text of the graph before and after. Graphs are built by hand
 * from core operators. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "graph_fixture.h"

static void add_line(void *user, const char *line)
{
    fixture *f = user;
    size_t used = strlen(f->text);
    snprintf(f->text + used, sizeof f->text - used, "%s\n", line);
}

static void assert_graph(fixture *f, const char *expected)
{
    f->text[0] = 0;
    tdn_graph_dump(f->g, add_line, f);
    assert_string_equal(f->text, expected);
}

static void run(fixture *f, tdn_status (*pass)(tdn_graph *, tdn_error *))
{
    f->error.text[0] = 0;
    if (pass(f->g, &f->error) != TDN_OK || tdn_graph_verify(f->g, &f->error) != TDN_OK)
        fail_msg("%s", f->error.text);
}

static tdn_value *input(fixture *f, const char *name, int rank, const int64_t *dims)
{
    tdn_shape s = tdn_shape_make(rank, dims);
    return tdn_graph_add_input(f->g, name, TDN_F32, &s);
}

static tdn_value *constant(fixture *f, const char *name, int rank, const int64_t *dims,
                           const float *data)
{
    tdn_shape s = tdn_shape_make(rank, dims);
    return tdn_graph_const(f->g, name, TDN_F32, &s, data);
}

static tdn_value *node(fixture *f, const char *domain, const char *op, const char *out,
                       tdn_value **in, int n_in, const tdn_expr *expr, const tdn_shape *shape)
{
    tdn_value *v = tdn_graph_value(f->g, out);
    tdn_node *n = tdn_graph_node(f->g, NULL, tdn_op_find(domain, op, 17), out, in, n_in, &v, 1);
    assert_non_null(n);
    if (expr) {
        n->expr = tdn_arena_alloc(f->arena, 1, sizeof *expr);
        *n->expr = *expr;
    }
    v->dtype = TDN_F32;
    v->shape = *shape;
    return v;
}

/* op(in0, in1) or op(in0) */
static tdn_expr unary(tdn_expr_op op)
{
    tdn_expr e = {0};
    tdn_expr_store(&e, tdn_expr_add(&e, op, tdn_expr_input(&e, 0), 0, 0), 0);
    return e;
}

static tdn_expr binary(tdn_expr_op op)
{
    tdn_expr e = {0};
    int a = tdn_expr_input(&e, 0), b = tdn_expr_input(&e, 1);
    tdn_expr_store(&e, tdn_expr_add(&e, op, a, b, 0), 0);
    return e;
}

static int count_nodes(const fixture *f)
{
    int n = 0;
    for (const tdn_node *p = f->g->first; p; p = p->next)
        n++;
    return n;
}

static void test_fuse_maps_joins_a_chain(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 2, (int64_t[]){2, 3});
    tdn_expr neg = unary(TDN_X_NEG), root = unary(TDN_X_SQRT);
    tdn_value *a = node(f, "tendon", "Map", "a", &x, 1, &neg, &x->shape);
    tdn_value *b = node(f, "tendon", "Map", "b", &a, 1, &root, &x->shape);
    tdn_graph_set_output(f->g, b);
    run(f, tdn_pass_fuse_maps);
    assert_int_equal(count_nodes(f), 1);
    float out, in = -16;
    tdn_expr_eval(f->g->first->expr, &in, &out);
    assert_true(out == 4);
}

/* A value with two readers becomes a second output of the first of them. */
static void test_fuse_maps_keeps_a_shared_value(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 1, (int64_t[]){4});
    tdn_expr neg = unary(TDN_X_NEG), root = unary(TDN_X_SQRT), add = binary(TDN_X_ADD);
    tdn_value *a = node(f, "tendon", "Map", "a", &x, 1, &neg, &x->shape);
    tdn_value *b = node(f, "tendon", "Map", "b", &a, 1, &root, &x->shape);
    tdn_graph_set_output(f->g, a);
    tdn_graph_set_output(f->g, b);
    run(f, tdn_pass_fuse_maps);
    assert_int_equal(count_nodes(f), 1);
    assert_int_equal(f->g->first->n_out, 2);
    assert_ptr_equal(a->producer, f->g->first);
    tdn_value *sum = node(f, "tendon", "Map", "sum", (tdn_value *[]){a, b}, 2, &add, &x->shape);
    tdn_graph_set_output(f->g, sum);
    run(f, tdn_pass_fuse_maps);
    assert_int_equal(count_nodes(f), 1);
    float out[3], in = -9;
    tdn_expr_eval(f->g->first->expr, &in, out);
    for (int i = 0; i < 3; i++) {
        const tdn_value *v = f->g->first->out[i];
        assert_true(out[i] == (v == a ? 9.0f : v == b ? 3.0f : 12.0f));
    }
}

/* A map is not moved past another reader of its value. */
static void test_fuse_maps_respects_earlier_readers(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 2, (int64_t[]){2, 2});
    tdn_expr neg = unary(TDN_X_NEG), add = binary(TDN_X_ADD);
    tdn_value *a = node(f, "tendon", "Map", "a", &x, 1, &neg, &x->shape);
    tdn_value *m = node(f, "", "MatMul", "m", (tdn_value *[]){a, a}, 2, NULL, &x->shape);
    tdn_value *c = node(f, "tendon", "Map", "c", (tdn_value *[]){a, m}, 2, &add, &x->shape);
    tdn_graph_set_output(f->g, c);
    run(f, tdn_pass_fuse_maps);
    assert_int_equal(count_nodes(f), 3);
}

static void test_fuse_epilogues_moves_a_map_into_matmul(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 2, (int64_t[]){2, 2}), *r = input(f, "r", 2, (int64_t[]){2, 2});
    tdn_expr sub = binary(TDN_X_SUB);
    tdn_value *m = node(f, "", "MatMul", "m", (tdn_value *[]){x, x}, 2, NULL, &x->shape);
    tdn_value *y = node(f, "tendon", "Map", "y", (tdn_value *[]){r, m}, 2, &sub, &x->shape);
    tdn_graph_set_output(f->g, y);
    run(f, tdn_pass_fuse_epilogues);
    assert_int_equal(count_nodes(f), 1);
    const tdn_node *n = f->g->first;
    assert_string_equal(n->op->name, "MatMul");
    assert_int_equal(n->n_own_in, 2);
    assert_int_equal(n->n_in, 3);
    assert_ptr_equal(n->in[2], r);
    float in[2] = {10, 3}, out; /* input 0 is the product: r - m */
    tdn_expr_eval(n->expr, in, &out);
    assert_true(out == -7);
}

static void test_fuse_epilogues_leaves_a_product_that_is_read_twice(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 2, (int64_t[]){2, 2});
    tdn_expr neg = unary(TDN_X_NEG);
    tdn_value *m = node(f, "", "MatMul", "m", (tdn_value *[]){x, x}, 2, NULL, &x->shape);
    tdn_value *y = node(f, "tendon", "Map", "y", &m, 1, &neg, &x->shape);
    tdn_graph_set_output(f->g, m);
    tdn_graph_set_output(f->g, y);
    run(f, tdn_pass_fuse_epilogues);
    assert_int_equal(count_nodes(f), 2);
}

/* ((x W + b) * s) + t becomes x (W s) + (b s + t). */
static void test_fold_scale_into_weights(void **state)
{
    fixture *f = *state;
    static const float w[] = {1, 2, 3, 4}, b[] = {1, -1}, s[] = {2, 3}, t[] = {10, 20};
    const int64_t square[] = {2, 2}, two[] = {2};
    tdn_value *x = input(f, "x", 2, (int64_t[]){1, 2});
    tdn_value *vw = constant(f, "w", 2, square, w), *vb = constant(f, "b", 1, two, b);
    tdn_value *vs = constant(f, "s", 1, two, s), *vt = constant(f, "t", 1, two, t);
    tdn_value *m = node(f, "", "MatMul", "m", (tdn_value *[]){x, vw}, 2, NULL, &x->shape);
    tdn_expr e = {0};
    int sum = tdn_expr_add(&e, TDN_X_ADD, tdn_expr_input(&e, 0), tdn_expr_input(&e, 1), 0);
    int scaled = tdn_expr_add(&e, TDN_X_MUL, tdn_expr_input(&e, 2), sum, 0);
    int shifted = tdn_expr_add(&e, TDN_X_ADD, scaled, tdn_expr_input(&e, 3), 0);
    tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_MAX, shifted, tdn_expr_const(&e, 0), 0), 0);
    tdn_value *y = node(f, "tendon", "Map", "y", (tdn_value *[]){m, vb, vs, vt}, 4, &e, &x->shape);
    tdn_graph_set_output(f->g, y);
    run(f, tdn_pass_fold_scale);
    const float *folded = f->g->first->in[1]->data;
    assert_true(folded[0] == 2 && folded[1] == 6 && folded[2] == 6 && folded[3] == 12);
    const tdn_node *map = f->g->last;
    const float *shift = map->in[map->n_in - 1]->data;
    assert_true(shift[0] == 12 && shift[1] == 17);
    float in[5] = {5, 1, 2, 10, 12}, out;
    tdn_expr_eval(map->expr, in, &out);
    assert_true(out == 17);
    assert_true(w[0] == 1); /* the model's own weights are untouched */
}

static void test_merge_equal(void **state)
{
    fixture *f = *state;
    static const float one[] = {1, 2}, same[] = {1, 2}, other[] = {1, 3};
    tdn_value *x = input(f, "x", 1, (int64_t[]){2});
    tdn_expr add = binary(TDN_X_ADD);
    tdn_value *c[3] = {constant(f, "c0", 1, (int64_t[]){2}, one),
                       constant(f, "c1", 1, (int64_t[]){2}, same),
                       constant(f, "c2", 1, (int64_t[]){2}, other)};
    tdn_value *y[3];
    for (int i = 0; i < 3; i++)
        y[i] = node(f, "tendon", "Map", NULL, (tdn_value *[]){x, c[i]}, 2, &add, &x->shape);
    tdn_expr fma = {0};
    int a = tdn_expr_input(&fma, 0), b = tdn_expr_input(&fma, 1), d = tdn_expr_input(&fma, 2);
    tdn_expr_store(&fma, tdn_expr_add(&fma, TDN_X_FMA, a, b, d), 0);
    tdn_graph_set_output(f->g, node(f, "tendon", "Map", "z", y, 3, &fma, &x->shape));
    run(f, tdn_pass_merge_equal);
    assert_int_equal(count_nodes(f), 3); /* c0 and c1 hold the same bytes */
    assert_ptr_equal(f->g->last->in[0], f->g->last->in[1]);
    assert_ptr_not_equal(f->g->last->in[0], f->g->last->in[2]);
}

/* Copies of a layer read one constant, whatever its names; another shape of the same bytes is
 * another constant. */
static void test_merge_equal_constants(void **state)
{
    fixture *f = *state;
    static const float one[] = {1, 2, 3, 4}, same[] = {1, 2, 3, 4};
    tdn_value *x[2], *y[3];
    const int64_t square[] = {2, 2};
    tdn_value *w[2] = {constant(f, "w", 2, square, one), constant(f, "v", 2, square, same)};
    tdn_value *row = constant(f, "row", 2, (int64_t[]){1, 4}, one);
    for (int i = 0; i < 2; i++) {
        x[i] = input(f, i ? "x1" : "x0", 2, (int64_t[]){1, 2});
        y[i] = node(f, "", "MatMul", NULL, (tdn_value *[]){x[i], w[i]}, 2, NULL, &x[i]->shape);
        tdn_graph_set_output(f->g, y[i]);
    }
    tdn_expr neg = unary(TDN_X_NEG);
    y[2] = node(f, "tendon", "Map", NULL, &row, 1, &neg, &row->shape);
    tdn_graph_set_output(f->g, y[2]);
    run(f, tdn_pass_merge_equal);
    assert_int_equal(count_nodes(f), 3);
    assert_ptr_equal(f->g->first->in[1], w[0]);
    assert_ptr_equal(f->g->first->next->in[1], w[0]);
    assert_ptr_equal(f->g->last->in[0], row);
    assert_int_equal(w[0]->n_uses, 2);
    assert_int_equal(w[1]->n_uses, 0);
}

static void test_map_constants(void **state)
{
    fixture *f = *state;
    static const float two[] = {2};
    tdn_value *x = input(f, "x", 1, (int64_t[]){3}), *c = constant(f, "c", 0, NULL, two);
    tdn_expr mul = binary(TDN_X_MUL);
    tdn_graph_set_output(f->g,
                         node(f, "tendon", "Map", "y", (tdn_value *[]){x, c}, 2, &mul, &x->shape));
    run(f, tdn_pass_map_constants);
    assert_int_equal(f->g->first->n_in, 1);
    float in = 21, out;
    tdn_expr_eval(f->g->first->expr, &in, &out);
    assert_true(out == 42);
}

static void test_simplify_joins_transposes(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 3, (int64_t[]){2, 3, 4});
    tdn_shape s = tdn_shape_make(3, (int64_t[]){4, 2, 3});
    tdn_value *a = node(f, "", "Transpose", "a", &x, 1, NULL, &s);
    tdn_node_set_ints(f->g, f->g->last, "perm", (int64_t[]){2, 0, 1}, 3);
    tdn_value *b = node(f, "", "Transpose", "b", &a, 1, NULL, &x->shape);
    tdn_node_set_ints(f->g, f->g->last, "perm", (int64_t[]){1, 2, 0}, 3);
    tdn_expr neg = unary(TDN_X_NEG);
    tdn_graph_set_output(f->g, node(f, "tendon", "Map", "y", &b, 1, &neg, &x->shape));
    run(f, tdn_pass_simplify);
    run(f, tdn_pass_drop_dead);
    assert_graph(f, "input %x:float32[2x3x4]\n"
                    "%y:float32[2x3x4] = Map(%x) : t0 = neg(in0); out0 = t0  ; y\n"
                    "output %y:float32[2x3x4]\n");
}

/* One query over four positions, whose values are columns 2 and 3 of a product; the others are
 * read, too. */
static void test_regroup_and_split_product(void **state)
{
    fixture *f = *state;
    static const float weights[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    const tdn_shape whole = tdn_shape_make(2, (int64_t[]){40, 4}),
                    half = tdn_shape_make(2, (int64_t[]){40, 2}),
                    one = tdn_shape_make(2, (int64_t[]){1, 2});
    tdn_value *x = input(f, "x", 2, (int64_t[]){40, 3}), *a = input(f, "a", 2, (int64_t[]){1, 40});
    tdn_value *w = constant(f, "w", 2, (int64_t[]){3, 4}, weights);
    tdn_value *p = node(f, "", "MatMul", "p", (tdn_value *[]){x, w}, 2, NULL, &whole), *s[2];
    for (int i = 0; i < 2; i++) {
        s[i] = node(f, "tendon", "Slice", i ? "v" : "q", &p, 1, NULL, &half);
        tdn_node_set_ints(f->g, f->g->last, "starts", (int64_t[]){0, 2 * i}, 2);
        tdn_node_set_ints(f->g, f->g->last, "steps", (int64_t[]){1, 1}, 2);
    }
    tdn_expr neg = unary(TDN_X_NEG);
    tdn_graph_set_output(f->g, node(f, "tendon", "Map", "r", &s[0], 1, &neg, &half));
    tdn_graph_set_output(f->g, node(f, "", "MatMul", "y", (tdn_value *[]){a, s[1]}, 2, NULL, &one));
    f->g->has_shapes = true;
    run(f, tdn_pass_regroup_product);
    run(f, tdn_pass_drop_dead);
    run(f, tdn_pass_split_product);
    run(f, tdn_pass_simplify);
    run(f, tdn_pass_drop_dead);
    assert_graph(f, "input %x:float32[40x3]\n"
                    "input %a:float32[1x40]\n"
                    "%q:float32[40x2] = MatMul(%x, @~7)  ; p + q\n"
                    "%r:float32[40x2] = Map(%q) : t0 = neg(in0); out0 = t0  ; r\n"
                    "%~1:float32[1x3] = MatMul(%a, %x)  ; y\n"
                    "%y:float32[1x2] = MatMul(%~1, @~2)  ; p + y\n"
                    "output %r:float32[40x2]\n"
                    "output %y:float32[1x2]\n");
}

/* softmax(2 * (q / 4) k + mask) v, and the mean of such weights where there are batches enough. */
static void test_attend(void **state)
{
    fixture *f = *state;
    const tdn_shape s = tdn_shape_make(3, (int64_t[]){4, 6, 5}),
                    y = tdn_shape_make(3, (int64_t[]){4, 6, 2}),
                    mean = tdn_shape_make(2, (int64_t[]){4, 5});
    tdn_value *q = input(f, "q", 3, (int64_t[]){4, 6, 3}),
              *k = input(f, "k", 3, (int64_t[]){4, 3, 5});
    tdn_value *v = input(f, "v", 3, (int64_t[]){4, 5, 2}), *m = input(f, "m", 1, (int64_t[]){5});
    tdn_expr quarter = {0}, masked = {0};
    tdn_expr_store(&quarter,
                   tdn_expr_add(&quarter, TDN_X_DIV, tdn_expr_input(&quarter, 0),
                                tdn_expr_const(&quarter, 4), 0),
                   0);
    const int twice =
        tdn_expr_add(&masked, TDN_X_MUL, tdn_expr_const(&masked, 2), tdn_expr_input(&masked, 1), 0);
    tdn_expr_store(&masked, tdn_expr_add(&masked, TDN_X_ADD, tdn_expr_input(&masked, 0), twice, 0),
                   0);
    quarter.n_in = quarter.n_out = masked.n_out = 1;
    masked.n_in = 2;
    tdn_value *small = node(f, "tendon", "Map", "small", &q, 1, &quarter, &q->shape);
    for (int i = 0; i < 2; i++) {
        tdn_value *p =
            node(f, "", "MatMul", i ? "p1" : "p0", (tdn_value *[]){small, k}, 2, NULL, &s);
        if (!i)
            p = node(f, "tendon", "Map", "pm", (tdn_value *[]){m, p}, 2, &masked, &s);
        p = node(f, "tendon", "Softmax", i ? "w1" : "w0", &p, 1, NULL, &s);
        tdn_node_set_int(f->g, f->g->last, "axis", 2);
        if (!i) {
            tdn_graph_set_output(f->g,
                                 node(f, "", "MatMul", "y", (tdn_value *[]){p, v}, 2, NULL, &y));
            continue;
        }
        tdn_graph_set_output(f->g, node(f, "tendon", "Reduce", "mean", &p, 1, NULL, &mean));
        tdn_node_set_string(f->g, f->g->last, "kind", "mean");
        tdn_node_set_ints(f->g, f->g->last, "axes", (int64_t[]){1}, 1);
        tdn_node_set_int(f->g, f->g->last, "keepdims", 0);
    }
    f->g->has_shapes = true;
    run(f, tdn_pass_attend);
    run(f, tdn_pass_drop_dead);
    assert_graph(f,
                 "input %q:float32[4x6x3]\n"
                 "input %k:float32[4x3x5]\n"
                 "input %v:float32[4x5x2]\n"
                 "input %m:float32[5]\n"
                 "%y:float32[4x6x2] = Attend(%q, %k, %v, %m) {scale=0.5, mean=0}  ; small + p0 + "
                 "pm + w0 + y\n"
                 "%~1:float32[4x1x5] = Attend(%q, %k) {scale=0.25, mean=1}  ; small + p1 + w1 + "
                 "mean\n"
                 "%mean:float32[4x5] = Reshape(%~1) {shape=[4, 5]}  ; mean\n"
                 "output %y:float32[4x6x2]\n"
                 "output %mean:float32[4x5]\n");
}

static tdn_value *conv_3(fixture *f, tdn_value *x, const tdn_shape *y)
{
    static float weights[64 * 64 * 3];
    tdn_value *w = constant(f, "w", 3, (int64_t[]){64, 64, 3}, weights);
    tdn_value *v = node(f, "tendon", "Conv", "y", (tdn_value *[]){x, w}, 2, NULL, y);
    tdn_node_set_ints(f->g, f->g->last, "strides", (int64_t[]){1}, 1);
    tdn_node_set_ints(f->g, f->g->last, "pads", (int64_t[]){1, 1}, 2);
    tdn_node_set_int(f->g, f->g->last, "group", 1);
    return v;
}

static tdn_expr fires(void)
{
    tdn_expr e = {0};
    tdn_expr_store(
        &e, tdn_expr_add(&e, TDN_X_GT, tdn_expr_input(&e, 0), tdn_expr_const(&e, 0.5f), 0), 0);
    return e;
}

/* Four steps of spikes, and what is added to each. */
static void test_spikes(void **state)
{
    fixture *f = *state;
    const tdn_shape one = tdn_shape_make(3, (int64_t[]){1, 64, 600}),
                    all = tdn_shape_make(3, (int64_t[]){4, 64, 600});
    const tdn_expr fire = fires(), sum = binary(TDN_X_ADD);
    tdn_value *same = input(f, "same", 3, one.dims), *steps[4];
    for (int i = 0; i < 4; i++) {
        const char name[2] = {(char)('a' + i), 0}, spikes[3] = {'s', (char)('a' + i), 0};
        tdn_value *x = input(f, name, 3, one.dims);
        tdn_value *s = node(f, "tendon", "Map", spikes, &x, 1, &fire, &one);
        steps[i] = node(f, "tendon", "Map", NULL, (tdn_value *[]){s, same}, 2, &sum, &one);
    }
    tdn_value *x = node(f, "", "Concat", "x", steps, 4, NULL, &all);
    tdn_node_set_int(f->g, f->g->last, "axis", 0);
    tdn_graph_set_output(f->g, conv_3(f, x, &all));
    f->g->has_shapes = true;
    run(f, tdn_pass_spikes);
    run(f, tdn_pass_drop_dead);
    assert_graph(f, "input %same:float32[1x64x600]\n"
                    "input %a:float32[1x64x600]\n"
                    "input %b:float32[1x64x600]\n"
                    "input %c:float32[1x64x600]\n"
                    "input %d:float32[1x64x600]\n"
                    "%sa:float32[1x64x600] = Map(%a) : t0 = gt(in0, 0.5); out0 = t0  ; sa\n"
                    "%sb:float32[1x64x600] = Map(%b) : t0 = gt(in0, 0.5); out0 = t0  ; sb\n"
                    "%sc:float32[1x64x600] = Map(%c) : t0 = gt(in0, 0.5); out0 = t0  ; sc\n"
                    "%sd:float32[1x64x600] = Map(%d) : t0 = gt(in0, 0.5); out0 = t0  ; sd\n"
                    "%~8:float32[4x64x600] = Concat(%sa, %sb, %sc, %sd) {axis=0}  ; x\n"
                    "%~10:float32[4x64x67] = Slice(%~8) {starts=[0, 0, 2], steps=[1, 1, 9], "
                    "extents=[4, 64, 67]}  ; x\n"
                    "%~11:float32[scalar] = Reduce(%~10) {kind=\"mean\", axes=[0, 1, 2], "
                    "keepdims=0}  ; x\n"
                    "%~12:bool[scalar] = Map(%~11) : t0 = le(in0, 0.324000031); out0 = t0  ; y\n"
                    "%~13:float32[1x64x600] = Conv(%same, @w) {strides=[1], pads=[1, 1], group=1}"
                    "  ; y\n"
                    "%~15:float32[4x64x600] = Conv(%~8, @w) {strides=[1], pads=[1, 1], group=1}"
                    "  ; y\n"
                    "%~17:float32[4x64x600] = Map(%~15, %~13) : t0 = add(in0, in1); out0 = t0  ; "
                    "y\n"
                    "%~19:float32[4x64x600] = Map(%~8, %same) : t0 = add(in0, in1); out0 = t0  ; "
                    "y\n"
                    "%~21:float32[4x64x600] = Conv(%~19, @w) {strides=[1], pads=[1, 1], group=1, "
                    "dense=1}  ; y\n"
                    "%y:float32[4x64x600] = Either(%~12, %~17, %~21)  ; y\n"
                    "output %y:float32[4x64x600]\n");
}

/* Three edges among three nodes; features (1, 2, 3) gathered from a transpose. */
static void test_sparse_product(void **state)
{
    fixture *f = *state;
    static const float edges[] = {0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0};
    tdn_value *x = input(f, "x", 3, (int64_t[]){2, 4, 3});
    tdn_value *w = constant(f, "w", 2, (int64_t[]){6, 3}, edges);
    const tdn_shape turned = tdn_shape_make(3, (int64_t[]){4, 2, 3}),
                    rows = tdn_shape_make(2, (int64_t[]){4, 6}),
                    shape = tdn_shape_make(2, (int64_t[]){4, 3});
    tdn_value *t = node(f, "", "Transpose", "t", &x, 1, NULL, &turned);
    tdn_node_set_ints(f->g, f->g->last, "perm", (int64_t[]){1, 0, 2}, 3);
    tdn_value *r = node(f, "tendon", "Reshape", "r", &t, 1, NULL, &rows);
    tdn_graph_set_output(f->g, node(f, "", "MatMul", "y", (tdn_value *[]){r, w}, 2, NULL, &shape));
    f->g->has_shapes = true;
    run(f, tdn_pass_sparse_product);
    run(f, tdn_pass_simplify);
    run(f, tdn_pass_drop_dead);
    assert_graph(f, "input %x:float32[2x4x3]\n"
                    "%t:float32[4x2x3] = Transpose(%x) {perm=[1, 0, 2]}  ; t\n"
                    "%y:float32[4x3] = Mix(%t, @w) {n_axes=2}  ; y\n"
                    "output %y:float32[4x3]\n");
}

/* A causal convolution: padding of 2 on both sides, and the last two samples cut off. */
static void test_narrow_conv(void **state)
{
    fixture *f = *state;
    static const float w[3];
    tdn_value *x = input(f, "x", 3, (int64_t[]){1, 1, 8}),
              *vw = constant(f, "w", 3, (int64_t[]){1, 1, 3}, w);
    tdn_shape wide = tdn_shape_make(3, (int64_t[]){1, 1, 10}),
              narrow = tdn_shape_make(3, (int64_t[]){1, 1, 8});
    tdn_value *c = node(f, "tendon", "Conv", "c", (tdn_value *[]){x, vw}, 2, NULL, &wide);
    tdn_node *conv = f->g->last;
    tdn_node_set_ints(f->g, conv, "strides", (int64_t[]){1}, 1);
    tdn_node_set_ints(f->g, conv, "dilations", (int64_t[]){1}, 1);
    tdn_node_set_ints(f->g, conv, "pads", (int64_t[]){2, 2}, 2);
    tdn_value *y = node(f, "tendon", "Slice", "y", &c, 1, NULL, &narrow);
    tdn_node_set_ints(f->g, f->g->last, "starts", (int64_t[]){0, 0, 0}, 3);
    tdn_node_set_ints(f->g, f->g->last, "steps", (int64_t[]){1, 1, 1}, 3);
    tdn_graph_set_output(f->g, y);
    run(f, tdn_pass_narrow_conv);
    assert_int_equal(count_nodes(f), 1);
    int n;
    const int64_t *pads = tdn_attr_ints(&conv->attrs, "pads", &n);
    assert_true(n == 2 && pads[0] == 2 && pads[1] == 0);
    assert_ptr_equal(conv->out[0], y);
}

/* x expanded to a matrix. */
static tdn_value *expand(fixture *f, tdn_value *x, int64_t rows, int64_t cols)
{
    tdn_shape s = tdn_shape_make(2, (int64_t[]){rows, cols});
    tdn_value *dims = tdn_graph_const_ints(f->g, s.dims, 2);
    return node(f, "", "Expand", NULL, (tdn_value *[]){x, dims}, 2, NULL, &s);
}

static tdn_value *rows_of(fixture *f, const char *name, tdn_value *x, int64_t first, int64_t n)
{
    tdn_shape s = tdn_shape_make(2, (int64_t[]){n, x->shape.dims[1]});
    tdn_value *y = node(f, "tendon", "Slice", name, &x, 1, NULL, &s);
    tdn_node_set_ints(f->g, f->g->last, "starts", (int64_t[]){first, 0}, 2);
    tdn_node_set_ints(f->g, f->g->last, "steps", (int64_t[]){1, 1}, 2);
    tdn_node_set_ints(f->g, f->g->last, "extents", s.dims, 2);
    return y;
}

/* One input for three steps: the layer is computed once, and its steps are the same value. */
static void test_expand_late_leaves_one_layer(void **state)
{
    fixture *f = *state;
    static const float w[] = {1, 2, 3, 4};
    tdn_value *x = input(f, "x", 2, (int64_t[]){1, 2}), *y[3];
    tdn_value *vw = constant(f, "w", 2, (int64_t[]){2, 2}, w), *e = expand(f, x, 3, 2);
    tdn_expr neg = unary(TDN_X_NEG), add = binary(TDN_X_ADD);
    tdn_value *m = node(f, "tendon", "Map", "m", &e, 1, &neg, &e->shape);
    for (int i = 0; i < 3; i++) {
        tdn_value *step = rows_of(f, NULL, m, i, 1);
        y[i] = node(f, "", "MatMul", NULL, (tdn_value *[]){step, vw}, 2, NULL, &step->shape);
    }
    tdn_value *s = node(f, "tendon", "Map", "s", y, 2, &add, &y[0]->shape);
    tdn_graph_set_output(
        f->g, node(f, "tendon", "Map", "t", (tdn_value *[]){s, y[2]}, 2, &add, &s->shape));
    run(f, tdn_pass_expand_late);
    run(f, tdn_pass_simplify);
    run(f, tdn_pass_merge_equal);
    run(f, tdn_pass_drop_dead);
    assert_int_equal(count_nodes(f), 4); /* neg, MatMul, two sums */
    assert_ptr_equal(f->g->first->in[0], x);
    assert_string_equal(f->g->first->next->op->name, "MatMul");
    assert_ptr_equal(f->g->last->in[1], f->g->first->next->out[0]);
}

static tdn_value *reduce_rows(fixture *f, const char *name, const char *kind, tdn_value *x)
{
    tdn_shape s = tdn_shape_make(1, (int64_t[]){x->shape.dims[1]});
    tdn_value *y = node(f, "tendon", "Reduce", name, &x, 1, NULL, &s);
    tdn_node_set_string(f->g, f->g->last, "kind", kind);
    tdn_node_set_ints(f->g, f->g->last, "axes", (int64_t[]){0}, 1);
    tdn_node_set_int(f->g, f->g->last, "keepdims", 0);
    return y;
}

/* The mean of equal rows is the row, their sum three times it; a product of them is left alone. */
static void test_expand_late_and_reductions(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 2, (int64_t[]){1, 2}), *e = expand(f, x, 3, 2);
    tdn_value *sum = reduce_rows(f, "sum", "sum", e), *prod = reduce_rows(f, "prod", "prod", e);
    tdn_graph_set_output(f->g, reduce_rows(f, "mean", "mean", e));
    tdn_graph_set_output(f->g, sum);
    tdn_graph_set_output(f->g, prod);
    run(f, tdn_pass_expand_late);
    run(f, tdn_pass_drop_dead);
    tdn_value *const *out = f->g->outputs;
    assert_ptr_equal(out[0]->producer->in[0], x);
    const tdn_node *scale = out[1]->producer;
    float in = 5, scaled;
    assert_int_equal(scale->op->core, TDN_CORE_MAP);
    tdn_expr_eval(scale->expr, &in, &scaled);
    assert_true(scaled == 15);
    assert_ptr_equal(scale->in[0]->producer->in[0], x);
    assert_ptr_equal(out[2]->producer->in[0], e);
}

/* An axis that another operand varies along stays; the map reads the smaller value all the same. */
static void test_expand_late_in_a_map_that_varies(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 2, (int64_t[]){1, 2}), *z = input(f, "z", 2, (int64_t[]){3, 2});
    tdn_value *e = expand(f, x, 3, 2);
    tdn_expr add = binary(TDN_X_ADD);
    tdn_graph_set_output(f->g,
                         node(f, "tendon", "Map", "y", (tdn_value *[]){e, z}, 2, &add, &z->shape));
    run(f, tdn_pass_expand_late);
    run(f, tdn_pass_drop_dead);
    assert_graph(f, "input %x:float32[1x2]\ninput %z:float32[3x2]\n"
                    "%y:float32[3x2] = Map(%x, %z) : t0 = add(in0, in1); out0 = t0  ; y\n"
                    "output %y:float32[3x2]\n");
}

/* ---- Copies of a layer ----------------------------------------------------------------------- */

static tdn_value *product(fixture *f, const char *name, tdn_value *x, tdn_value *w)
{
    tdn_shape s = tdn_shape_make(2, (int64_t[]){x->shape.dims[0], w->shape.dims[1]});
    return node(f, "", "MatMul", name, (tdn_value *[]){x, w}, 2, NULL, &s);
}

static tdn_value *map1(fixture *f, const char *name, tdn_expr_op op, tdn_value *x)
{
    tdn_expr e = unary(op);
    return node(f, "tendon", "Map", name, &x, 1, &e, &x->shape);
}

static tdn_value *map2(fixture *f, const char *name, tdn_expr_op op, tdn_value *x, tdn_value *y)
{
    tdn_expr e = binary(op);
    return node(f, "tendon", "Map", name, (tdn_value *[]){x, y}, 2, &e, &x->shape);
}

static void batch(fixture *f)
{
    run(f, tdn_pass_batch_equal);
    run(f, tdn_pass_simplify);
    run(f, tdn_pass_merge_equal);
    run(f, tdn_pass_drop_dead);
}

static int count_op(const fixture *f, tdn_core core)
{
    int n = 0;
    for (const tdn_node *p = f->g->first; p; p = p->next)
        n += p->op->core == core;
    return n;
}

static tdn_node *find_op(const fixture *f, tdn_core core)
{
    tdn_node *p = f->g->first;
    while (p && p->op->core != core)
        p = p->next;
    assert_non_null(p);
    return p;
}

static const float weights[] = {1, 2, 3, 4};

/* A layer on each row of x, in another order than the rows': one layer on x, its map with it. */
static void test_batch_equal_on_slices(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 2, (int64_t[]){3, 2}), *y[3];
    tdn_value *w = constant(f, "w", 2, (int64_t[]){2, 2}, weights);
    for (int i = 0; i < 3; i++)
        y[i] = map1(f, NULL, TDN_X_NEG, product(f, NULL, rows_of(f, NULL, x, 2 - i, 1), w));
    tdn_graph_set_output(f->g, map2(f, "y", TDN_X_SUB, map2(f, "s", TDN_X_SUB, y[0], y[1]), y[2]));
    batch(f);
    const tdn_node *m = f->g->first;
    assert_int_equal(count_op(f, TDN_CORE_MATMUL), 1);
    assert_ptr_equal(m->in[0], x);
    assert_int_equal(m->next->op->core, TDN_CORE_MAP);
    assert_ptr_equal(m->next->in[0], m->out[0]);
    const tdn_node *first = find_op(f, TDN_CORE_SLICE); /* y[0] is row 2 */
    int n;
    const tdn_node *s = f->g->last->in[0]->producer;
    assert_int_equal(first->out[0]->shape.dims[0], 1);
    assert_int_equal(tdn_attr_ints(&s->in[0]->producer->attrs, "starts", &n)[0], 2);
    assert_int_equal(tdn_attr_ints(&s->in[1]->producer->attrs, "starts", &n)[0], 1);
    assert_int_equal(count_nodes(f), 7);
}

/* Each product reads the one before: nothing to be done. */
static void test_batch_equal_leaves_a_chain(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 2, (int64_t[]){1, 2});
    tdn_value *w = constant(f, "w", 2, (int64_t[]){2, 2}, weights);
    tdn_graph_set_output(f->g, product(f, "b", product(f, "a", x, w), w));
    batch(f);
    assert_int_equal(count_op(f, TDN_CORE_MATMUL), 2);
    assert_int_equal(count_nodes(f), 2);
}

/* Two layers of a recurrence, step by step: the second one's products wait for all of the first. */
static void test_batch_equal_rolls_a_second_layer(void **state)
{
    fixture *f = *state;
    tdn_value *h = input(f, "h", 2, (int64_t[]){1, 2}), *x = input(f, "x", 2, (int64_t[]){1, 2});
    tdn_value *w = constant(f, "w", 2, (int64_t[]){2, 2}, weights), *y = x;
    for (int i = 0; i < 3; i++) {
        h = map2(f, NULL, TDN_X_SUB, x, h);
        y = map2(f, NULL, TDN_X_MAX, product(f, NULL, h, w), y);
    }
    tdn_graph_set_output(f->g, y);
    batch(f);
    const tdn_node *m = find_op(f, TDN_CORE_MATMUL), *joined = m->in[0]->producer;
    assert_int_equal(count_op(f, TDN_CORE_MATMUL), 1);
    assert_int_equal(joined->op->core, TDN_CORE_CONCAT);
    assert_int_equal(joined->n_in, 3);
    assert_ptr_equal(joined->in[2], h);
    assert_int_equal(m->out[0]->shape.dims[0], 3);
}

/* a1 -> b1 and b2 -> a2: either pair can be one, both cannot. */
static void test_batch_equal_makes_no_cycle(void **state)
{
    fixture *f = *state;
    static const float others[] = {5, 6, 7, 8};
    tdn_value *p = input(f, "p", 2, (int64_t[]){1, 2}), *q = input(f, "q", 2, (int64_t[]){1, 2});
    tdn_value *wa = constant(f, "wa", 2, (int64_t[]){2, 2}, weights);
    tdn_value *wb = constant(f, "wb", 2, (int64_t[]){2, 2}, others);
    tdn_value *a1 = product(f, "a1", p, wa);
    tdn_value *b1 = product(f, "b1", map1(f, "n1", TDN_X_NEG, a1), wb);
    tdn_value *b2 = product(f, "b2", q, wb);
    tdn_value *a2 = product(f, "a2", map1(f, "n2", TDN_X_NEG, b2), wa);
    tdn_graph_set_output(f->g, map2(f, "y", TDN_X_ADD, b1, a2));
    batch(f);
    assert_int_equal(count_op(f, TDN_CORE_MATMUL), 3);
}

/* Many rows that would have to be copied together: left; the same rows made by maps: taken. */
static void test_batch_equal_weighs_copies(void **state)
{
    fixture *f = *state;
    const int64_t dims[] = {64, 2};
    tdn_value *w = constant(f, "w", 2, (int64_t[]){2, 2}, weights);
    tdn_value *x[2] = {input(f, "x0", 2, dims), input(f, "x1", 2, dims)};
    tdn_graph_set_output(
        f->g, map2(f, "y", TDN_X_SUB, product(f, "a", x[0], w), product(f, "b", x[1], w)));
    batch(f);
    assert_int_equal(count_op(f, TDN_CORE_MATMUL), 2);
    for (int i = 0; i < 2; i++)
        x[i] = product(f, NULL, map1(f, NULL, TDN_X_ABS, x[i]), w);
    tdn_graph_set_output(f->g, map2(f, "z", TDN_X_SUB, x[0], x[1]));
    batch(f);
    assert_int_equal(count_op(f, TDN_CORE_MATMUL), 3);
    assert_int_equal(count_op(f, TDN_CORE_CONCAT), 1);
}

/* What is 0 or 1 is not put beside what is not: its zeros could not be left out any more. */
static void test_batch_equal_keeps_spikes_apart(void **state)
{
    fixture *f = *state;
    tdn_value *w = constant(f, "w", 2, (int64_t[]){2, 2}, weights);
    tdn_value *x = input(f, "x", 2, (int64_t[]){64, 2}), *y[4];
    for (int i = 0; i < 4; i++) {
        tdn_value *v = map2(f, NULL, i % 2 ? TDN_X_GT : TDN_X_SUB,
                            i < 2 ? x : map1(f, NULL, TDN_X_ABS, x), map1(f, NULL, TDN_X_NEG, x));
        y[i] = product(f, NULL, v, w);
    }
    for (int i = 1; i < 4; i++)
        y[0] = map2(f, NULL, TDN_X_SUB, y[0], y[i]);
    tdn_graph_set_output(f->g, y[0]);
    batch(f);
    assert_int_equal(count_op(f, TDN_CORE_MATMUL), 2);
    for (const tdn_node *n = f->g->first; n; n = n->next)
        if (n->op->core == TDN_CORE_CONCAT) {
            const tdn_instr *a = &n->in[0]->producer->expr->code[2];
            const tdn_instr *b = &n->in[1]->producer->expr->code[2];
            assert_true(n->n_in == 2 && a->op == b->op);
        }
}

/* Zeros to the left of a convolution's input, as a causal one is exported. */
static void test_pad_conv(void **state)
{
    fixture *f = *state;
    static const float w[3];
    tdn_value *x = input(f, "x", 3, (int64_t[]){1, 1, 8}),
              *vw = constant(f, "w", 3, (int64_t[]){1, 1, 3}, w);
    for (int i = 0; i < 2; i++) { /* ones around it are no padding */
        tdn_shape wide = tdn_shape_make(3, (int64_t[]){1, 1, 10});
        tdn_value *p = node(f, "tendon", "Pad", NULL, &x, 1, NULL, &wide);
        tdn_node_set_ints(f->g, f->g->last, "pads", (int64_t[]){0, 0, 2, 0, 0, 0}, 6);
        const tdn_attr value = {.name = "value", .kind = TDN_ATTR_FLOAT, .f = (float)i};
        tdn_node_set_attr(f->g, f->g->last, &value);
        tdn_value *c = node(f, "tendon", "Conv", NULL, (tdn_value *[]){p, vw}, 2, NULL, &wide);
        tdn_node_set_ints(f->g, f->g->last, "strides", (int64_t[]){1}, 1);
        tdn_node_set_ints(f->g, f->g->last, "dilations", (int64_t[]){1}, 1);
        tdn_node_set_ints(f->g, f->g->last, "pads", (int64_t[]){1, 1}, 2);
        tdn_graph_set_output(f->g, c);
    }
    run(f, tdn_pass_pad_conv);
    run(f, tdn_pass_drop_dead);
    int n;
    const tdn_node *conv = f->g->outputs[0]->producer;
    const int64_t *pads = tdn_attr_ints(&conv->attrs, "pads", &n);
    assert_true(n == 2 && pads[0] == 3 && pads[1] == 1);
    assert_ptr_equal(conv->in[0], x);
    assert_int_equal(count_op(f, TDN_CORE_PAD), 1);
}

/* sigmoid(x) > 0.5, 0.25 >= tanh(x): the same answers for every x near the bound, and far. */
static void test_compare_early(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 1, (int64_t[]){4});
    tdn_expr e = {0};
    const int s = tdn_expr_add(&e, TDN_X_SIGMOID, tdn_expr_input(&e, 0), 0, 0);
    const int t = tdn_expr_add(&e, TDN_X_TANH, tdn_expr_input(&e, 0), 0, 0);
    const int above = tdn_expr_add(&e, TDN_X_GT, s, tdn_expr_const(&e, 0.5f), 0);
    const int below = tdn_expr_add(&e, TDN_X_GE, tdn_expr_const(&e, 0.25f), t, 0);
    const int beyond = tdn_expr_add(&e, TDN_X_GT, t, tdn_expr_const(&e, 2), 0); /* never: left */
    const int chosen = tdn_expr_add(&e, TDN_X_SELECT, above, below, tdn_expr_const(&e, 3));
    tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_SUB, chosen, beyond, 0), 0);
    const tdn_expr before = e;
    tdn_value *y = node(f, "tendon", "Map", "y", &x, 1, &e, &x->shape);
    tdn_graph_set_output(f->g, y);
    run(f, tdn_pass_compare_early);
    const tdn_expr *after = f->g->first->expr;
    int n_sigmoids = 0;
    for (int i = 0; i < after->n_instr; i++)
        n_sigmoids += after->code[i].op == TDN_X_SIGMOID;
    assert_int_equal(n_sigmoids, 0);
    for (int i = -4000; i <= 4000; i++) {
        const float around[] = {0, 0.25541281f};
        for (int k = 0; k < 2; k++) {
            const float in = around[k] + (float)i * (i % 2 ? 3e-8f : 1e-2f);
            float wanted, got;
            tdn_expr_eval(&before, &in, &wanted);
            tdn_expr_eval(after, &in, &got);
            assert_true(wanted == got);
        }
    }
    const float nan = (float)strtod("nan", NULL);
    float wanted, got;
    tdn_expr_eval(&before, &nan, &wanted);
    tdn_expr_eval(after, &nan, &got);
    assert_true(wanted == got);
}

static void test_map_constants_that_repeat(void **state)
{
    fixture *f = *state;
    static const float zeros[2], rising[] = {0, 1};
    const int64_t dims[] = {2};
    tdn_value *x = input(f, "x", 1, dims), *z = constant(f, "z", 1, dims, zeros);
    map2(f, "a", TDN_X_SUB, z, x);
    map2(f, "b", TDN_X_SUB, constant(f, "r", 1, dims, rising), x);
    map2(f, "c", TDN_X_SUB, z, input(f, "one", 1, (int64_t[]){1})); /* z gives it its extent */
    run(f, tdn_pass_map_constants);
    float in = 3, out;
    tdn_expr_eval(f->g->first->expr, &in, &out);
    assert_true(f->g->first->n_in == 1 && out == -3);
    assert_int_equal(f->g->first->next->n_in, 2);
    assert_int_equal(f->g->last->n_in, 2);
}

/* mean(x + conv(y)) over positions is mean(x) + conv(mean(y)), for a kernel of 1. */
static void test_reduce_early_through_a_convolution(void **state)
{
    fixture *f = *state;
    static const float w[2] = {2, 3};
    const int64_t dims[] = {1, 2, 8}, wide[] = {1, 1, 8};
    tdn_value *x = input(f, "x", 3, wide), *y = input(f, "y", 3, dims);
    tdn_value *vw = constant(f, "w", 3, (int64_t[]){1, 2, 1}, w);
    tdn_value *c = node(f, "tendon", "Conv", "c", (tdn_value *[]){y, vw}, 2, NULL, &x->shape);
    tdn_node_set_ints(f->g, f->g->last, "strides", (int64_t[]){1}, 1);
    tdn_node_set_ints(f->g, f->g->last, "dilations", (int64_t[]){1}, 1);
    tdn_node_set_ints(f->g, f->g->last, "pads", (int64_t[]){0, 0}, 2);
    tdn_value *s = map2(f, "s", TDN_X_ADD, x, c);
    tdn_shape one = tdn_shape_make(2, (int64_t[]){1, 1});
    tdn_value *m = node(f, "tendon", "Reduce", "m", &s, 1, NULL, &one);
    tdn_node_set_string(f->g, f->g->last, "kind", "mean");
    tdn_node_set_ints(f->g, f->g->last, "axes", (int64_t[]){2}, 1);
    tdn_node_set_int(f->g, f->g->last, "keepdims", 0);
    tdn_graph_set_output(f->g, m);
    run(f, tdn_pass_reduce_early);
    run(f, tdn_pass_drop_dead);
    const tdn_node *conv = find_op(f, TDN_CORE_CONV);
    assert_int_equal(count_op(f, TDN_CORE_REDUCE), 2);
    assert_int_equal(conv->in[0]->producer->op->core, TDN_CORE_REDUCE);
    assert_ptr_equal(conv->in[0]->producer->in[0], y);
    assert_int_equal(conv->out[0]->shape.dims[2], 1);
}

static void test_batch_axes(void **state)
{
    fixture *f = *state;
    static const float w[] = {1, 2, 3, 4};
    tdn_value *x = input(f, "x", 2, (int64_t[]){5, 2}),
              *vw = constant(f, "w", 2, (int64_t[]){2, 2}, w);
    tdn_value *m = node(f, "", "MatMul", "m", (tdn_value *[]){x, vw}, 2, NULL, &x->shape);
    tdn_graph_set_output(f->g, m);
    int32_t axes[64];
    const char *where = NULL;
    assert_true(tdn_graph_batch_axes(f->g, 0, axes, &where));
    assert_int_equal(axes[m->id], 0);
    assert_false(tdn_graph_batch_axes(f->g, 1, axes, &where)); /* summed over */
    assert_string_equal(where, "m");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_fuse_maps_joins_a_chain),
        TEST(test_fuse_maps_keeps_a_shared_value),
        TEST(test_fuse_maps_respects_earlier_readers),
        TEST(test_fuse_epilogues_moves_a_map_into_matmul),
        TEST(test_fuse_epilogues_leaves_a_product_that_is_read_twice),
        TEST(test_fold_scale_into_weights),
        TEST(test_merge_equal),
        TEST(test_merge_equal_constants),
        TEST(test_map_constants),
        TEST(test_simplify_joins_transposes),
        TEST(test_narrow_conv),
        TEST(test_sparse_product),
        TEST(test_spikes),
        TEST(test_regroup_and_split_product),
        TEST(test_attend),
        TEST(test_expand_late_leaves_one_layer),
        TEST(test_expand_late_and_reductions),
        TEST(test_expand_late_in_a_map_that_varies),
        TEST(test_batch_equal_on_slices),
        TEST(test_batch_equal_leaves_a_chain),
        TEST(test_batch_equal_rolls_a_second_layer),
        TEST(test_batch_equal_makes_no_cycle),
        TEST(test_batch_equal_weighs_copies),
        TEST(test_batch_equal_keeps_spikes_apart),
        TEST(test_pad_conv),
        TEST(test_map_constants_that_repeat),
        TEST(test_compare_early),
        TEST(test_reduce_early_through_a_convolution),
        TEST(test_batch_axes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
