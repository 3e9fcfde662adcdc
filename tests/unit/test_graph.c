/* SPDX-License-Identifier: Apache-2.0 */
/*
 * src/graph and the shape inference of src/ops: names stay unique, counts of uses hold through
 * every rewrite, the verifier finds each kind of broken graph, folding gives what the operators say
 * and stops at its bounds.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#include "graph/graph.h"
#include "graph/names.h"
#include "ops/op.h"

typedef struct fixture {
    tdn_arena *arena;
    tdn_graph *g;
    tdn_error error;
} fixture;

static int setup(void **state)
{
    static fixture f;
    f.arena = tdn_arena_create(NULL);
    f.g = tdn_graph_create(f.arena, "test");
    f.g->opset = 17;
    *state = &f;
    return f.g ? 0 : -1;
}

static int teardown(void **state)
{
    tdn_arena_free(((fixture *)*state)->arena);
    return 0;
}

static tdn_status infer_like_first(tdn_infer *io) { return tdn_infer_same(io); }
static const tdn_op_def test_op = {
    .name = "Test",
    .domain = "test",
    .since = 1,
    .n_in_min = 1,
    .n_in_max = -1,
    .n_out_min = 1,
    .n_out_max = -1,
    .infer = infer_like_first,
};

static tdn_value *input(fixture *f, const char *name, int64_t n)
{
    const tdn_shape shape = tdn_shape_make(1, &n);
    tdn_value *v = tdn_graph_add_input(f->g, name, TDN_F32, &shape);
    assert_non_null(v);
    return v;
}

static tdn_value *make(fixture *f, const tdn_op_def *op, const char *name, tdn_value *const *in,
                       int n_in, const char *out)
{
    tdn_value *y = tdn_graph_value(f->g, out);
    assert_non_null(y);
    assert_non_null(tdn_graph_node(f->g, NULL, op, name, in, n_in, &y, 1));
    return y;
}

static void assert_sound(fixture *f)
{
    if (tdn_graph_verify(f->g, &f->error) != TDN_OK)
        fail_msg("%s", f->error.text);
}

/* ---- Names ----------------------------------------------------------------------------------- */

static void names_grow_and_replace(void **state)
{
    const fixture *f = *state;
    tdn_names *names = tdn_names_create(f->arena);
    char text[1000][16];
    for (int i = 0; i < 1000; i++) {
        snprintf(text[i], sizeof text[i], "n%d", i);
        assert_null(tdn_names_find(names, text[i]));
        assert_true(tdn_names_put(names, text[i], text[i]));
    }
    for (int i = 0; i < 1000; i++)
        assert_ptr_equal(tdn_names_find(names, text[i]), text[i]);
    assert_true(tdn_names_put(names, "n7", text[8]));
    assert_ptr_equal(tdn_names_find(names, "n7"), text[8]);
    assert_null(tdn_names_find(names, ""));
    assert_null(tdn_names_find(names, "a name of more than eight bytes"));
}

static void taken_names_get_a_suffix(void **state)
{
    fixture *f = *state;
    const tdn_value *a = tdn_graph_value(f->g, "x"), *b = tdn_graph_value(f->g, "x"),
                    *c = tdn_graph_value(f->g, NULL);
    assert_string_equal(a->name, "x");
    assert_string_not_equal(b->name, "x");
    assert_int_equal(strncmp(b->name, "x~", 2), 0);
    assert_int_equal(c->name[0], '~');
    assert_ptr_equal(tdn_graph_find(f->g, "x"), a);
    assert_ptr_equal(tdn_graph_find(f->g, b->name), b);
    assert_null(tdn_graph_find(f->g, "y"));
}

/* ---- Rewriting ------------------------------------------------------------------------------- */

static void uses_are_counted(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 4);
    tdn_value *y = make(f, &test_op, "n", (tdn_value *[]){x, NULL, x}, 3, "y");
    assert_int_equal(x->n_uses, 2);
    assert_ptr_equal(tdn_value_only_user(f->g, x), y->producer);
    assert_null(tdn_value_only_user(f->g, y));
    assert_true(tdn_graph_set_output(f->g, y));
    assert_false(tdn_graph_set_output(f->g, y)); /* it is one already */
    assert_int_equal(y->n_uses, 1);
    assert_sound(f);
    tdn_node_set_input(y->producer, 1, x);
    assert_int_equal(x->n_uses, 3);
    assert_true(tdn_node_append_input(f->g, y->producer, x));
    assert_int_equal(x->n_uses, 4);
    assert_int_equal(y->producer->n_own_in, 3);
    assert_sound(f);
    make(f, &test_op, "m", &x, 1, "z");
    assert_null(tdn_value_only_user(f->g, x));
    tdn_graph_remove(f->g, f->g->last);
    assert_int_equal(x->n_uses, 4);
    assert_int_equal(f->g->n_nodes, 1);
    assert_sound(f);
}

static void nodes_stand_where_they_are_put(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 4);
    tdn_value *b = make(f, &test_op, "b", &x, 1, "vb");
    tdn_value *va = tdn_graph_value(f->g, "va");
    const tdn_node *a = tdn_graph_node(f->g, b->producer, &test_op, "a", &x, 1, &va, 1);
    assert_ptr_equal(f->g->first, a);
    assert_ptr_equal(a->next, b->producer);
    assert_ptr_equal(f->g->last, b->producer);
    tdn_node_set_input(b->producer, 0, va);
    assert_sound(f);
    tdn_node_set_input(b->producer, 0, x);
    tdn_graph_remove(f->g, f->g->first);
    assert_ptr_equal(f->g->first, b->producer);
    assert_null(b->producer->prev);
}

static void replacing_moves_readers_and_keeps_names(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 4);
    tdn_value *y = make(f, &test_op, "n", &x, 1, "y");
    make(f, &test_op, "r", &y, 1, "z");
    tdn_graph_set_output(f->g, y);
    tdn_value *w = tdn_graph_value(f->g, NULL);
    tdn_graph_node(f->g, y->producer->next, &test_op, "after", &y, 1, &w, 1);
    tdn_graph_replace(f->g, y, w); /* the node that makes w goes on reading y */
    assert_ptr_equal(w->producer->in[0], y);
    assert_ptr_equal(f->g->last->in[0], w);
    assert_ptr_equal(f->g->outputs[0], w);
    assert_int_equal(w->n_uses, 2);
    assert_int_equal(y->n_uses, 1);
    assert_int_equal(y->output, -1);
    assert_string_equal(w->name, "y");
    assert_ptr_equal(tdn_graph_find(f->g, "y"), w);
    assert_sound(f);
}

static void an_output_is_not_replaced_by_a_constant(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 1);
    tdn_value *y = make(f, &test_op, "n", &x, 1, "y");
    make(f, &test_op, "r", &y, 1, "z");
    tdn_graph_set_output(f->g, y);
    tdn_value *c = tdn_graph_const_f32(f->g, 2);
    tdn_graph_replace(f->g, y, c);
    assert_ptr_equal(f->g->outputs[0], y);
    assert_string_equal(y->name, "y");
    assert_ptr_equal(f->g->last->in[0], c);
    assert_sound(f);
}

static void attributes_are_added_and_replaced(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 4);
    tdn_node *n = make(f, &test_op, "n", &x, 1, "y")->producer;
    int64_t pads[] = {1, 2};
    assert_true(tdn_node_set_ints(f->g, n, "pads", pads, 2));
    assert_true(tdn_node_set_int(f->g, n, "group", 3));
    assert_true(tdn_node_set_string(f->g, n, "mode", "constant"));
    pads[0] = 9; /* it was copied */
    int count;
    assert_int_equal(tdn_attr_ints(&n->attrs, "pads", &count)[0], 1);
    assert_int_equal(count, 2);
    assert_true(tdn_node_set_int(f->g, n, "group", 4));
    assert_int_equal(n->attrs.n, 3);
    assert_int_equal(tdn_attr_int(&n->attrs, "group", 0), 4);
    assert_string_equal(tdn_attr_string(&n->attrs, "mode", ""), "constant");
    assert_true(tdn_node_set_ints(f->g, n, "none", NULL, 0));
    assert_int_equal(tdn_attr_find(&n->attrs, "none")->n, 0);
}

/* ---- The verifier: each break is found, and its mending accepted ----------------------------- */

static void assert_broken(fixture *f, const char *words)
{
    assert_int_equal(tdn_graph_verify(f->g, &f->error), TDN_E_INTERNAL);
    if (!strstr(f->error.text, words))
        fail_msg("'%s' is not in '%s'", words, f->error.text);
}

static void the_verifier_finds_what_is_broken(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 4);
    tdn_value *y = make(f, &test_op, "n", &x, 1, "y"), *z = make(f, &test_op, "m", &y, 1, "z");
    tdn_graph_set_output(f->g, z);
    assert_sound(f);
    x->n_uses++;
    assert_broken(f, "'x' counts 2 uses");
    x->n_uses--;
    y->producer->in[0] = z; /* what is made later */
    assert_broken(f, "before it is made");
    y->producer->in[0] = x;
    const char *name = y->name;
    y->name = "z";
    assert_broken(f, "'z'");
    y->name = name;
    y->kind = TDN_VALUE_CONST;
    assert_broken(f, "producer");
    y->kind = TDN_VALUE_NODE;
    z->producer->out[0] = y;
    assert_broken(f, "'y' is made twice");
    z->producer->out[0] = z;
    f->g->n_nodes++;
    assert_broken(f, "2 nodes, not 3");
    f->g->n_nodes--;
    z->output = 5;
    assert_broken(f, "output 0 'z'");
    z->output = 0;
    y->shape = tdn_shape_make(2, (int64_t[]){1 << 21, 1 << 21});
    assert_broken(f, "too large");
    y->shape.rank = -1;
    assert_sound(f); /* before inference that is how it is */
    f->g->has_shapes = true;
    assert_broken(f, "no shape");
    f->g->has_shapes = false;
    tdn_graph_set_output(f->g, x);
    assert_broken(f, "output 'x' has no producer");
}

static void shapes_that_fit(void **state)
{
    (void)state;
    const int64_t most = TDN_MAX_EXTENT, rest = TDN_MAX_ELEMENTS / most;
    const tdn_shape good[] = {tdn_shape_make(0, NULL), tdn_shape_make(1, &most),
                              tdn_shape_make(2, (int64_t[]){0, most}),
                              tdn_shape_make(2, (int64_t[]){most, rest})};
    const tdn_shape bad[] = {
        tdn_shape_make(1, (int64_t[]){most + 1}),
        tdn_shape_make(2, (int64_t[]){most, rest + 1}),
        tdn_shape_make(3, (int64_t[]){0, INT64_MAX, 2}), /* nothing in it, but products overflow */
        tdn_shape_make(1, (int64_t[]){-1}),
        {.rank = -1},
        {.rank = TDN_MAX_RANK + 1},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_true(tdn_shape_fits(&good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(tdn_shape_fits(&bad[i]));
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void shapes_print(void **state)
{
    (void)state;
    char text[64];
    tdn_shape s = tdn_shape_make(3, (int64_t[]){1, -1, 5});
    s.bounded = 4;
    assert_string_equal(tdn_shape_print(&s, text, sizeof text), "1x?x<=5");
    s.rank = 0;
    assert_string_equal(tdn_shape_print(&s, text, sizeof text), "scalar");
    s.rank = -1;
    assert_string_equal(tdn_shape_print(&s, text, sizeof text), "?");
    const tdn_shape wide = tdn_shape_make(4, (int64_t[]){1, 3, 224, 224});
    assert_string_equal(tdn_shape_print(&wide, text, 6), "1x3x2");
}

static void collect(void *user, const char *text)
{
    char *all = user;
    strcat(strcat(all, text), "\n");
}

static void graphs_print(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 4), *two = tdn_graph_const_f32(f->g, 2);
    tdn_value *y = make(f, &test_op, "n", (tdn_value *[]){x, NULL, two}, 3, "y");
    tdn_node_set_int(f->g, y->producer, "axis", -1);
    tdn_node_set_ints(f->g, y->producer, "pads", (int64_t[]){1, 2}, 2);
    tdn_graph_set_output(f->g, y);
    assert_int_equal(tdn_graph_infer(f->g, &f->error), TDN_OK);
    char all[1024] = "", want[1024];
    tdn_graph_dump(f->g, collect, all);
    snprintf(want, sizeof want,
             "input %%x:float32[4]\n%%y:float32[4] = Test(%%x, _, @%s) {axis=-1, pads=[1, 2]}  ; "
             "n\noutput "
             "%%y:float32[4]\n",
             two->name);
    assert_string_equal(all, want);
}

/* ---- Inference and folding ------------------------------------------------------------------- */

static tdn_value *constant(fixture *f, const char *name, int rank, const int64_t *dims,
                           const float *data)
{
    const tdn_shape shape = tdn_shape_make(rank, dims);
    return tdn_graph_const(f->g, name, TDN_F32, &shape, data);
}

static void constants_fold_in_place(void **state)
{
    fixture *f = *state;
    static const float a[] = {1, 2, 3}, b[] = {10, 20, 30};
    tdn_value *va = constant(f, "a", 1, (int64_t[]){3}, a),
              *vb = constant(f, "b", 1, (int64_t[]){3}, b);
    tdn_value *x = input(f, "x", 3);
    const tdn_op_def *add = tdn_op_find("", "Add", 17);
    tdn_value *sum = make(f, add, "sum", (tdn_value *[]){va, vb}, 2, "s");
    tdn_value *twice = make(f, add, "twice", (tdn_value *[]){sum, sum}, 2, "t");
    tdn_value *y = make(f, add, "y", (tdn_value *[]){x, twice}, 2, "y");
    tdn_graph_set_output(f->g, y);
    assert_int_equal(tdn_graph_infer(f->g, &f->error), TDN_OK);
    assert_int_equal(f->g->n_nodes, 1);
    assert_int_equal(twice->kind, TDN_VALUE_CONST);
    assert_ptr_equal(tdn_graph_find(f->g, "t"), twice);
    const float *data = twice->data;
    assert_true(data[0] == 22 && data[1] == 44 && data[2] == 66);
    assert_int_equal(y->shape.dims[0], 3);
    assert_sound(f);
}

static void shapes_fold_without_data(void **state)
{
    fixture *f = *state;
    const tdn_shape shape = tdn_shape_make(3, (int64_t[]){2, 3, 5});
    tdn_value *x = tdn_graph_add_input(f->g, "x", TDN_F32, &shape);
    tdn_value *dims = make(f, tdn_op_find("", "Shape", 17), "shape", &x, 1, "dims");
    tdn_value *y =
        make(f, tdn_op_find("", "Reshape", 17), "same", (tdn_value *[]){x, dims}, 2, "y");
    tdn_graph_set_output(f->g, y);
    assert_int_equal(tdn_graph_infer(f->g, &f->error), TDN_OK);
    assert_int_equal(dims->kind, TDN_VALUE_CONST);
    assert_int_equal(((const int64_t *)dims->data)[2], 5);
    assert_true(tdn_shape_equal(&y->shape, &shape));
}

static void outputs_keep_their_node(void **state)
{
    fixture *f = *state;
    static const float a[] = {1, 2, 3};
    tdn_value *va = constant(f, "a", 1, (int64_t[]){3}, a);
    tdn_value *y = make(f, tdn_op_find("", "Add", 17), "n", (tdn_value *[]){va, va}, 2, "y");
    tdn_graph_set_output(f->g, y);
    assert_int_equal(tdn_graph_infer(f->g, &f->error), TDN_OK);
    assert_int_equal(f->g->n_nodes, 1);
    assert_int_equal(y->kind, TDN_VALUE_NODE);
    assert_sound(f);
}

/* A small constant that expands to much stays a node: neither one fold nor many take the memory. */
static void folding_is_bounded(void **state)
{
    fixture *f = *state;
    static const float one[] = {1};
    static const int64_t large[] = {4097, 1024},
                         fair[] = {1024, 1024}; /* 16 MiB and a bit; 4 MiB */
    const tdn_op_def *expand = tdn_op_find("", "Expand", 17);
    tdn_value *a = constant(f, "a", 1, (int64_t[]){1}, one);
    tdn_value *to_large = tdn_graph_const_ints(f->g, large, 2),
              *to_fair = tdn_graph_const_ints(f->g, fair, 2);
    const tdn_value *y = make(f, expand, "large", (tdn_value *[]){a, to_large}, 2, "large");
    for (int i = 0; i < 100; i++)
        make(f, expand, NULL, (tdn_value *[]){a, to_fair}, 2, NULL);
    assert_int_equal(tdn_graph_infer(f->g, &f->error), TDN_OK);
    assert_int_equal(y->kind, TDN_VALUE_NODE);
    assert_int_equal(y->shape.dims[0], 4097);
    assert_int_equal(f->g->n_nodes,
                     1 + 100 - 64); /* 256 MiB of folds, plus four times the few constants */
    assert_sound(f);
}

static void failures_name_the_node(void **state)
{
    fixture *f = *state;
    tdn_value *x = input(f, "x", 3), *y = input(f, "y", 4);
    make(f, tdn_op_find("", "Add", 17), "bad", (tdn_value *[]){x, y}, 2, "z");
    assert_int_equal(tdn_graph_infer(f->g, &f->error), TDN_E_MODEL);
    assert_non_null(strstr(f->error.text, "3"));
    assert_non_null(strstr(f->error.text, "; while inferring node 'bad' (Add)"));
    tdn_graph_remove(f->g, f->g->first);
    make(f, tdn_op_find("", "Add", 17), "few", &x, 1, "w");
    assert_int_equal(tdn_graph_infer(f->g, &f->error), TDN_E_MODEL);
    assert_non_null(strstr(f->error.text, "1 inputs, where Add takes 2"));
}

/* ---- The table ------------------------------------------------------------------------------- */

static void rows_are_found_by_opset(void **state)
{
    (void)state;
    assert_null(tdn_op_find("", "NoSuchOperator", 17));
    assert_null(tdn_op_find("no.such.domain", "Add", 17));
    assert_ptr_equal(tdn_op_find("ai.onnx", "Add", 17), tdn_op_find("", "Add", 17));
    assert_ptr_not_equal(tdn_op_find("", "Softmax", 12), tdn_op_find("", "Softmax", 13));
    for (int i = 0; tdn_op_row(i); i++) {
        const tdn_op_def *op = tdn_op_row(i);
        const char *domain = op->domain ? op->domain : "";
        assert_non_null(op->infer);
        assert_ptr_equal(tdn_op_find(domain, op->name, op->since), op); /* no row stands twice */
        assert_true(op->n_in_max < 0 || op->n_in_min <= op->n_in_max);
        assert_true(op->n_out_max < 0 || op->n_out_min <= op->n_out_max);
    }
}

/* Everything runs from its first day: by a reference, or by what it is rewritten into. */
static void rows_have_a_way_to_run(void **state)
{
    (void)state;
    static const char *const control[] = {"If", "Loop", "Scan"};
    for (int i = 0; tdn_op_row(i); i++) {
        const tdn_op_def *op = tdn_op_row(i);
        bool is_control = false;
        for (size_t k = 0; k < sizeof control / sizeof *control; k++)
            is_control |= strcmp(op->name, control[k]) == 0;
        if (!is_control && !tdn_op_reference(op) && !op->decompose)
            fail_msg("%s-%d has neither a reference nor a decomposition", op->name, op->since);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(names_grow_and_replace),
        TEST(taken_names_get_a_suffix),
        TEST(uses_are_counted),
        TEST(nodes_stand_where_they_are_put),
        TEST(replacing_moves_readers_and_keeps_names),
        TEST(an_output_is_not_replaced_by_a_constant),
        TEST(attributes_are_added_and_replaced),
        TEST(the_verifier_finds_what_is_broken),
        TEST(shapes_that_fit),
        TEST(shapes_print),
        TEST(graphs_print),
        TEST(constants_fold_in_place),
        TEST(shapes_fold_without_data),
        TEST(outputs_keep_their_node),
        TEST(folding_is_bounded),
        TEST(failures_name_the_node),
        TEST(rows_are_found_by_opset),
        TEST(rows_have_a_way_to_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
