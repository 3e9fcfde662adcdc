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

#include "passes/passes.h"

typedef struct fixture {
    tdn_arena *arena;
    tdn_graph *g;
    tdn_error error;
    char text[8192];
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->arena = tdn_arena_create(NULL);
    f->g = tdn_graph_create(f->arena, "test");
    f->g->opset = 17;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    tdn_arena_free(f->arena);
    free(f);
    return 0;
}

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
        TEST(test_expand_late_leaves_one_layer),
        TEST(test_expand_late_and_reductions),
        TEST(test_expand_late_in_a_map_that_varies),
        TEST(test_batch_axes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
