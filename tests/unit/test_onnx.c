/* SPDX-License-Identifier: Apache-2.0 */
/*
 * src/onnx on models written byte by byte: every encoding of a tensor, Constant in all its forms,
 * functions, branches, nodes in any order, external files; and the hostile ones, each of which is
 * refused in words. No file is vouched for, so a model cut off anywhere, and one whose allocations
 * fail anywhere, must come to an end without harm.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/status.h"
#include "onnx/onnx.h"
#include "protobuf.h"

typedef struct fixture {
    pb bytes;
    tdn_onnx *model;
    tdn_arena *arena;
    tdn_graph *g;
    tdn_onnx_issues issues;
    tdn_error error;
} fixture;

static int setup(void **state)
{
    static fixture f;
    memset(&f, 0, sizeof f);
    f.arena = tdn_arena_create(NULL);
    *state = &f;
    return f.arena ? 0 : -1;
}

static int teardown(void **state)
{
    fixture *f = *state;
    tdn_arena_free(f->arena);
    tdn_onnx_free(f->model);
    free(f->bytes.data);
    return 0;
}

/* Takes the graph message, wraps it in a model, and parses it. */
static tdn_status parse(fixture *f, pb graph)
{
    tdn_onnx_free(f->model);
    free(f->bytes.data);
    f->model = NULL;
    f->bytes = onnx_model(graph);
    return tdn_onnx_parse(&f->model, f->bytes.data, f->bytes.n, "m.onnx", NULL, NULL, &f->error);
}

static tdn_status build(fixture *f, const tdn_onnx_shape *shapes, int n)
{
    return tdn_onnx_graph(&f->g, f->model, f->arena, shapes, n, &f->issues, &f->error);
}

static void import(fixture *f, pb graph)
{
    if (parse(f, graph) != TDN_OK || build(f, NULL, 0) != TDN_OK)
        fail_msg("%s", f->error.text);
}

static void assert_words(const fixture *f, const char *words)
{
    if (!strstr(f->error.text, words))
        fail_msg("'%s' is not in '%s'", words, f->error.text);
}

/* The model is refused with these words, while parsing or while building its graph. */
static void assert_refused(fixture *f, pb graph, const char *words)
{
    tdn_status status = parse(f, graph);
    if (status == TDN_OK)
        status = build(f, NULL, 0);
    assert_int_equal(status, TDN_E_MODEL);
    assert_words(f, words);
    assert_words(f, "m.onnx");
}

static const int64_t dims_2[] = {2};
static const float one_two[] = {1, 2};

static pb io_2(const char *name) { return onnx_io(name, FLOAT, 1, dims_2); }

/* y = x + w, w = {1, 2}. */
static pb add_graph(void)
{
    pb g = {0};
    pb_message(&g, 1, onnx_node("Add", "add", "x w", "y"));
    pb_message(&g, 5, onnx_raw_tensor("w", FLOAT, 1, dims_2, one_two, sizeof one_two));
    pb_message(&g, 11, io_2("x"));
    pb_message(&g, 12, io_2("y"));
    return g;
}

static const tdn_value *find(const fixture *f, const char *name)
{
    const tdn_value *v = tdn_graph_find(f->g, name);
    if (!v)
        fail_msg("no value '%s'", name);
    return v;
}

/* ---- What a model says ----------------------------------------------------------------------- */

static void a_small_model(void **state)
{
    fixture *f = *state;
    import(f, add_graph());
    assert_int_equal(f->issues.n, 0);
    assert_int_equal(f->g->n_nodes, 1);
    assert_int_equal(f->g->opset, 17);
    assert_string_equal(f->g->first->name, "add");
    assert_string_equal(f->g->outputs[0]->name, "y");
    assert_int_equal(f->g->outputs[0]->shape.dims[0], 2);
    assert_int_equal(tdn_onnx_n_inputs(f->model), 1);
    assert_string_equal(tdn_onnx_input(f->model, 0)->name, "x");
    const tdn_onnx_info info = tdn_onnx_get_info(f->model);
    assert_int_equal(info.ir_version, 8);
    assert_int_equal(info.n_parameters, 2);
    assert_int_equal(info.n_opsets, 1);
    assert_memory_equal(find(f, "w")->data, one_two, sizeof one_two);
}

static void an_initializer_is_no_input(void **state)
{
    fixture *f = *state;
    pb g = add_graph();
    pb_message(&g, 11, io_2("w")); /* as IR versions before 4 have it */
    import(f, g);
    assert_int_equal(tdn_onnx_n_inputs(f->model), 1);
    assert_int_equal(find(f, "w")->kind, TDN_VALUE_CONST);
}

static void symbols_take_what_another_input_has(void **state)
{
    fixture *f = *state;
    pb g = {0};
    const int64_t dims[] = {-1, 3}, bad[] = {2, 4};
    pb_message(&g, 1, onnx_node("Add", "add", "a b", "y"));
    pb_message(&g, 11, onnx_io("a", FLOAT, 2, dims));
    pb_message(&g, 11, onnx_io("b", FLOAT, 2, dims));
    pb_message(&g, 12, onnx_io("y", FLOAT, -1, NULL));
    import(f, g);
    assert_string_equal(tdn_onnx_input(f->model, 0)->symbols[0], "N");
    assert_int_equal(tdn_onnx_input(f->model, 0)->dims[0], -1);
    assert_int_equal(f->g->outputs[0]->shape.dims[0], 1);
    tdn_onnx_shape given = {"a", tdn_shape_make(2, (int64_t[]){5, 3})};
    assert_int_equal(build(f, &given, 1), TDN_OK);
    assert_int_equal(find(f, "b")->shape.dims[0], 5);
    assert_int_equal(f->g->outputs[0]->shape.dims[0], 5);
    given.shape = tdn_shape_make(2, bad);
    assert_int_equal(build(f, &given, 1), TDN_E_SHAPE);
    assert_words(f, "input 'a' of m.onnx takes the shape ?x3, not 2x4");
    given.input = "c";
    assert_int_equal(build(f, &given, 1), TDN_E_ARG);
    assert_words(f, "no input 'c'");
}

static void an_undeclared_shape_must_be_given(void **state)
{
    fixture *f = *state;
    pb g = {0};
    pb_message(&g, 1, onnx_node("Relu", "r", "x", "y"));
    pb_message(&g, 11, onnx_io("x", FLOAT, -1, NULL));
    pb_message(&g, 12, io_2("y"));
    assert_int_equal(parse(f, g), TDN_OK);
    assert_int_equal(build(f, NULL, 0), TDN_E_SHAPE);
    const tdn_onnx_shape given = {"x", tdn_shape_make(1, dims_2)};
    assert_int_equal(build(f, &given, 1), TDN_OK);
}

static void outputs_that_no_node_makes_get_one(void **state)
{
    fixture *f = *state;
    pb g = add_graph();
    pb_message(&g, 12, io_2("w"));
    pb_message(&g, 12, io_2("x"));
    import(f, g);
    assert_int_equal(f->g->n_outputs, 3);
    assert_string_equal(f->g->outputs[1]->name, "w");
    for (int i = 0; i < 3; i++)
        assert_int_equal(f->g->outputs[i]->kind, TDN_VALUE_NODE);
}

static void unknown_fields_and_groups_are_skipped(void **state)
{
    fixture *f = *state;
    pb g = add_graph();
    pb_text(&g, 999, "a field of tomorrow");
    pb_double(&g, 998, 1);
    pb_int(&g, 10, 7);            /* doc_string, but as a number */
    pb_varint(&g, 500u << 3 | 3); /* a group with a group in it */
    pb_varint(&g, 501u << 3 | 3);
    pb_text(&g, 1, "not a node");
    pb_varint(&g, 501u << 3 | 4);
    pb_varint(&g, 500u << 3 | 4);
    import(f, g);
    assert_int_equal(f->g->n_nodes, 1);
}

/* ---- Tensors --------------------------------------------------------------------------------- */

static tdn_value *import_tensor(fixture *f, pb tensor, int type)
{
    pb g = {0};
    pb_message(&g, 1, onnx_node("Identity", "i", "w", "y"));
    pb_message(&g, 5, tensor);
    pb_message(&g, 12, onnx_io("y", type, -1, NULL));
    import(f, g);
    return f->g->first->in[0];
}

static void raw_data_stays_where_it_is_when_aligned(void **state)
{
    fixture *f = *state;
    for (size_t shift = 0; shift < 8; shift++) {
        pb g = {0};
        pb_bytes(&g, 10, "12345678", shift); /* a doc_string moves what follows */
        pb_message(&g, 1, onnx_node("Identity", "i", "w", "y"));
        pb_message(&g, 5, onnx_raw_tensor("w", FLOAT, 1, dims_2, one_two, sizeof one_two));
        pb_message(&g, 12, io_2("y"));
        import(f, g);
        const uint8_t *data = f->g->first->in[0]->data;
        const bool inside = data >= f->bytes.data && data < f->bytes.data + f->bytes.n;
        const uint8_t *at = f->bytes.data;
        while (memcmp(at, one_two, sizeof one_two) != 0)
            at++;
        assert_int_equal((uintptr_t)data % 4, 0);
        assert_int_equal(inside, (uintptr_t)at % 4 == 0);
        assert_memory_equal(data, one_two, sizeof one_two);
    }
}

typedef struct encoding {
    int type;
    uint32_t field;
    int64_t dim;
    int64_t entries[4]; /* varints */
    int n_entries;
    uint64_t bytes; /* of the dense elements, little-endian */
} encoding;

static const encoding encodings[] = {
    {INT32, 5, 2, {-2, 3}, 2, 0x00000003fffffffeu},
    {INT16, 5, 2, {-2, 3}, 2, 0x0003fffeu},
    {INT8, 5, 2, {-2, 3}, 2, 0x03feu},
    {UINT8, 5, 2, {200, 3}, 2, 0x03c8u},
    {BOOL, 5, 2, {5, 0}, 2, 0x0001u},
    {FLOAT16, 5, 2, {0x3c00, 0xc000}, 2, 0xc0003c00u},
    {BFLOAT16, 5, 2, {0x3f80, 0x4000}, 2, 0x40003f80u},
    {INT4, 5, 3, {0x21, 0x0f}, 2, 0x0f21u},
    {UINT4, 5, 2, {0xf1}, 1, 0xf1u},
    {INT64, 7, 1, {-5}, 1, 0xfffffffffffffffbu},
    {UINT32, 11, 2, {4000000000, 1}, 2, 0x00000001ee6b2800u},
    {UINT64, 11, 1, {-1}, 1, UINT64_MAX},
};

static void typed_fields_packed_and_not(void **state)
{
    fixture *f = *state;
    for (size_t i = 0; i < sizeof encodings / sizeof *encodings; i++)
        for (int packed = 0; packed < 2; packed++) {
            const encoding *e = &encodings[i];
            pb t = onnx_tensor("w", e->type, 1, &e->dim);
            if (packed)
                pb_packed(&t, e->field, e->entries, e->n_entries);
            for (int k = 0; !packed && k < e->n_entries; k++)
                pb_int(&t, e->field, e->entries[k]);
            const tdn_value *w = import_tensor(f, t, e->type);
            const size_t size = tdn_dtype_size(w->dtype, (size_t)e->dim);
            if (memcmp(w->data, &e->bytes, size) != 0)
                fail_msg("encoding %zu of %s, packed %d", i, tdn_dtype_name(w->dtype), packed);
        }
}

static void floats_packed_and_not(void **state)
{
    fixture *f = *state;
    pb t = onnx_tensor("w", FLOAT, 1, dims_2);
    pb_float(&t, 4, 1);
    pb_float(&t, 4, 2);
    assert_memory_equal(import_tensor(f, t, FLOAT)->data, one_two, sizeof one_two);
    t = onnx_tensor("w", FLOAT, 1, dims_2);
    pb_bytes(&t, 4, one_two, sizeof one_two);
    assert_memory_equal(import_tensor(f, t, FLOAT)->data, one_two, sizeof one_two);
    t = onnx_tensor("w", FLOAT, 1, dims_2); /* in two parts, as protobuf allows */
    pb_bytes(&t, 4, &one_two[0], 4);
    pb_float(&t, 4, 2);
    assert_memory_equal(import_tensor(f, t, FLOAT)->data, one_two, sizeof one_two);
    const double d[] = {1.5, -2};
    t = onnx_tensor("w", DOUBLE, 1, dims_2);
    pb_double(&t, 10, d[0]);
    pb_double(&t, 10, d[1]);
    assert_memory_equal(import_tensor(f, t, DOUBLE)->data, d, sizeof d);
}

static void raw_bools_become_0_and_1(void **state)
{
    fixture *f = *state;
    const uint8_t raw[] = {0, 255}, want[] = {0, 1};
    const tdn_value *w = import_tensor(f, onnx_raw_tensor("w", BOOL, 1, dims_2, raw, 2), BOOL);
    assert_memory_equal(w->data, want, 2);
}

static void empty_and_scalar_tensors(void **state)
{
    fixture *f = *state;
    const float x = 3;
    const tdn_value *w =
        import_tensor(f, onnx_raw_tensor("w", FLOAT, 0, NULL, &x, sizeof x), FLOAT);
    assert_int_equal(w->shape.rank, 0);
    assert_memory_equal(w->data, &x, sizeof x);
    w = import_tensor(f, onnx_tensor("w", FLOAT, 2, (int64_t[]){3, 0}), FLOAT);
    assert_int_equal(tdn_shape_count(&w->shape), 0);
}

static pb with_tensor(pb tensor)
{
    pb g = {0};
    pb_message(&g, 1, onnx_node("Identity", "i", "w", "y"));
    pb_message(&g, 5, tensor);
    pb_message(&g, 12, io_2("y"));
    return g;
}

static void tensors_whose_data_does_not_fit(void **state)
{
    fixture *f = *state;
    const int64_t ints[] = {1, 2, 3}, huge[] = {INT64_MAX, INT64_MAX}, tera[] = {1 << 29, 1 << 10};
    const int64_t negative[] = {-3};
    pb t = onnx_raw_tensor("w", FLOAT, 1, dims_2, one_two, 7);
    assert_refused(f, with_tensor(t), "tensor 'w' of shape 2 and type float32 has 7 bytes, not 8");
    assert_words(f, "importing node 0 'i' (Identity) of m.onnx");
    t = onnx_tensor("w", INT64, 1, dims_2);
    pb_packed(&t, 7, ints, 3);
    assert_refused(f, with_tensor(t), "more elements than its shape");
    t = onnx_tensor("w", INT64, 1, dims_2);
    pb_packed(&t, 7, ints, 1);
    assert_refused(f, with_tensor(t), "has 8 bytes, not 16");
    t = onnx_tensor("w", FLOAT, 1, dims_2);
    pb_bytes(&t, 4, one_two, 7);
    assert_refused(f, with_tensor(t), "has 7 bytes, not 8");
    assert_refused(f, with_tensor(onnx_tensor("w", FLOAT, 1, dims_2)), "has 0 bytes, not 8");
    assert_refused(f, with_tensor(onnx_tensor("w", FLOAT, 2, huge)), "too large");
    assert_refused(f, with_tensor(onnx_tensor("w", INT8, 2, tera)), "bytes, not 549755813888");
    assert_refused(f, with_tensor(onnx_tensor("w", FLOAT, 1, negative)), "extent -3");
}

static void tensors_of_types_that_are_not_supported(void **state)
{
    fixture *f = *state;
    import(f, with_tensor(onnx_raw_tensor("w", FLOAT8, 1, dims_2, one_two, 2)));
    assert_int_equal(f->issues.n, 1);
    assert_string_equal(f->issues.items[0].op, "Initializer");
    assert_string_equal(f->issues.items[0].node, "w");
    assert_non_null(strstr(f->issues.items[0].reason, "float8e4m3fn"));
    pb t = onnx_tensor("w", STRING, 1, dims_2);
    pb_text(&t, 6, "a");
    pb_text(&t, 6, "b");
    import(f, with_tensor(t));
    assert_int_equal(f->issues.n, 1);
    const int64_t nine[9] = {1, 1, 1, 1, 1, 1, 1, 1, 2};
    import(f, with_tensor(onnx_raw_tensor("w", FLOAT, 9, nine, one_two, 8)));
    assert_int_equal(f->issues.n, 1);
    assert_non_null(strstr(f->issues.items[0].reason, "rank 9"));
}

static pb sparse(const int64_t *indices, int rank, const int64_t *index_dims)
{
    pb s = {0};
    pb_message(&s, 1, onnx_raw_tensor("w", FLOAT, 1, dims_2, one_two, sizeof one_two));
    pb_message(&s, 2, onnx_raw_tensor("", INT64, rank, index_dims, indices, rank == 1 ? 16 : 32));
    pb_packed(&s, 3, (int64_t[]){2, 3}, 2);
    return s;
}

static pb with_sparse(pb s)
{
    pb g = {0};
    pb_message(&g, 1, onnx_node("Identity", "i", "w", "y"));
    pb_message(&g, 15, s);
    pb_message(&g, 12, io_2("y"));
    return g;
}

static void sparse_initializers_become_dense(void **state)
{
    fixture *f = *state;
    const float want[] = {0, 1, 0, 0, 0, 2};
    const int64_t flat[] = {1, 5}, places[] = {0, 1, 1, 2}, outside[] = {1, 6},
                  negative[] = {0, 1, 0, -1};
    import(f, with_sparse(sparse(flat, 1, dims_2)));
    assert_memory_equal(find(f, "w")->data, want, sizeof want);
    import(f, with_sparse(sparse(places, 2, (int64_t[]){2, 2})));
    assert_memory_equal(find(f, "w")->data, want, sizeof want);
    assert_refused(f, with_sparse(sparse(outside, 1, dims_2)), "out of range");
    assert_refused(f, with_sparse(sparse(negative, 2, (int64_t[]){2, 2})), "out of range");
}

/* ---- Constant nodes -------------------------------------------------------------------------- */

static const tdn_value *import_constant(fixture *f, pb attr)
{
    pb g = {0}, node = onnx_node("Constant", "c", "", "c");
    pb_message(&node, 5, attr);
    pb_message(&g, 1, node);
    pb_message(&g, 1, onnx_node("Identity", "i", "c", "y"));
    pb_message(&g, 12, io_2("y"));
    import(f, g);
    return f->issues.n ? NULL : find(f, "c");
}

static void constants_of_every_kind(void **state)
{
    fixture *f = *state;
    const int64_t ints[] = {7, -8};
    pb a = onnx_attr("value", 4);
    pb_message(&a, 5, onnx_raw_tensor("", FLOAT, 1, dims_2, one_two, sizeof one_two));
    assert_memory_equal(import_constant(f, a)->data, one_two, sizeof one_two);
    a = onnx_attr("value_float", 1);
    pb_float(&a, 2, 2);
    const tdn_value *v = import_constant(f, a);
    assert_true(v->shape.rank == 0 && v->dtype == TDN_F32 && *(const float *)v->data == 2);
    a = onnx_attr("value_floats", 6);
    pb_float(&a, 7, 1);
    pb_float(&a, 7, 2);
    v = import_constant(f, a);
    assert_true(v->shape.rank == 1 && v->shape.dims[0] == 2);
    assert_memory_equal(v->data, one_two, sizeof one_two);
    a = onnx_attr("value_int", 2);
    pb_int(&a, 3, -8);
    v = import_constant(f, a);
    assert_true(v->shape.rank == 0 && v->dtype == TDN_S64 && *(const int64_t *)v->data == -8);
    a = onnx_attr("value_ints", 7);
    pb_packed(&a, 8, ints, 2);
    assert_memory_equal(import_constant(f, a)->data, ints, sizeof ints);
    a = onnx_attr("sparse_value", 11);
    pb_message(&a, 22, sparse((int64_t[]){1, 5}, 1, dims_2));
    assert_int_equal(import_constant(f, a)->shape.dims[1], 3);
    a = onnx_attr("value_string", 3);
    pb_text(&a, 4, "text");
    assert_null(import_constant(f, a));
    assert_int_equal(f->issues.n, 1);
}

/* ---- Order ----------------------------------------------------------------------------------- */

static void nodes_in_any_order(void **state)
{
    fixture *f = *state;
    pb g = {0};
    pb_message(&g, 1, onnx_node("Relu", "third", "b", "y"));
    pb_message(&g, 1, onnx_node("Abs", "second", "a", "b"));
    pb_message(&g, 1, onnx_node("Neg", "first", "x", "a"));
    pb_message(&g, 11, io_2("x"));
    pb_message(&g, 12, io_2("y"));
    import(f, g);
    assert_string_equal(f->g->first->name, "first");
    assert_string_equal(f->g->last->name, "third");
}

static void a_long_chain_backwards(void **state)
{
    fixture *f = *state;
    enum { N = 3000 };
    pb g = {0};
    char in[16], out[16];
    for (int i = N; i > 0; i--) {
        snprintf(in, sizeof in, "v%d", i - 1);
        snprintf(out, sizeof out, "v%d", i);
        pb_message(&g, 1, onnx_node("Relu", "", in, out));
    }
    pb_message(&g, 11, io_2("v0"));
    snprintf(out, sizeof out, "v%d", N);
    pb_message(&g, 12, io_2(out));
    import(f, g);
    assert_int_equal(f->g->n_nodes, N);
}

static void cycles_name_a_node(void **state)
{
    fixture *f = *state;
    pb g = {0};
    pb_message(&g, 1, onnx_node("Add", "one", "x b", "a"));
    pb_message(&g, 1, onnx_node("Relu", "two", "a", "b"));
    pb_message(&g, 11, io_2("x"));
    pb_message(&g, 12, io_2("a"));
    assert_refused(f, g, "node 0 'one' (Add) reads its own result");
}

static void names_made_twice(void **state)
{
    fixture *f = *state;
    pb g = add_graph();
    pb_message(&g, 1, onnx_node("Relu", "again", "x", "y"));
    assert_refused(f, g, "'y' is made twice; while reading node 1 'again' (Relu)");
    g = add_graph();
    pb_message(&g, 1, onnx_node("Relu", "r", "x", "w"));
    assert_refused(f, g, "'w' is made twice");
    g = add_graph();
    pb_message(&g, 11, io_2("x"));
    assert_refused(f, g, "two inputs are named 'x'");
    g = add_graph();
    pb_message(&g, 12, io_2("y"));
    assert_refused(f, g, "two outputs are named 'y'");
    g = add_graph();
    pb_message(&g, 5, onnx_raw_tensor("w", FLOAT, 1, dims_2, one_two, sizeof one_two));
    assert_refused(f, g, "'w' is made twice");
}

static void names_that_nobody_makes(void **state)
{
    fixture *f = *state;
    pb g = {0};
    pb_message(&g, 1, onnx_node("Relu", "r", "nowhere", "y"));
    pb_message(&g, 12, io_2("y"));
    assert_refused(f, g, "'nowhere' is made by no node");
    assert_words(f, "; while importing node 0 'r' (Relu) of m.onnx");
    g = add_graph();
    pb_message(&g, 12, io_2("z"));
    assert_int_equal(parse(f, g), TDN_OK);
    assert_int_equal(build(f, NULL, 0), TDN_E_MODEL);
    assert_words(f, "'z' is made by no node");
}

/* ---- What is not supported ------------------------------------------------------------------- */

static void all_issues_at_once(void **state)
{
    fixture *f = *state;
    pb g = {0}, foreign = onnx_node("Bar", "b", "x", "b");
    pb_text(&foreign, 7, "some.domain");
    pb_message(&g, 1, onnx_node("Foo", "", "x", "a"));
    pb_message(&g, 1, foreign);
    pb_message(&g, 1, onnx_node("Add", "left out", "a b", "c"));
    pb_message(&g, 1, onnx_node("Baz", "d", "c", "y"));
    pb_message(&g, 1, onnx_node("Relu", "kept", "x", "k"));
    pb_message(&g, 11, io_2("x"));
    pb_message(&g, 12, io_2("y"));
    import(f, g);
    assert_int_equal(f->issues.n, 3);
    assert_string_equal(f->issues.items[0].node, "Foo_0");
    assert_string_equal(f->issues.items[1].domain, "some.domain");
    assert_string_equal(f->issues.items[2].op, "Baz");
    assert_string_equal(f->issues.items[2].reason, "the operator is not supported");
    assert_int_equal(f->g->n_nodes, 1);
}

/* A rule that needs a constant makes an issue, not a failure. */
static void shapes_that_depend_on_data(void **state)
{
    fixture *f = *state;
    pb g = {0};
    pb_message(&g, 1, onnx_node("Reshape", "r", "x s", "y"));
    pb_message(&g, 11, io_2("x"));
    pb_message(&g, 11, onnx_io("s", INT64, 1, dims_2));
    pb_message(&g, 12, io_2("y"));
    import(f, g);
    assert_int_equal(f->issues.n, 1);
    assert_non_null(strstr(f->issues.items[0].reason, "'s' must be a constant"));
}

/* ---- Functions and branches ------------------------------------------------------------------ */

static pb attr_ref(const char *name, const char *ref, int type)
{
    pb a = onnx_attr(name, type);
    pb_text(&a, 21, ref);
    return a;
}

static pb int_attr(const char *name, int64_t i)
{
    pb a = onnx_attr(name, 2);
    pb_int(&a, 3, i);
    return a;
}

/* f(p, q; axis) = Softmax(p + q, axis), in two nodes of the wrong order. axis is
 * -1 unless given. */
static pb function(const char *name, const char *inner_op)
{
    pb fn = {0}, softmax = onnx_node(inner_op, "sm", "sum", "r");
    pb_message(&softmax, 5, attr_ref("axis", "axis", 2));
    pb_text(&fn, 1, name);
    pb_names(&fn, 4, "p q");
    pb_names(&fn, 5, "r");
    pb_message(&fn, 7, softmax);
    pb_message(&fn, 7, onnx_node("Add", "", "p q", "sum"));
    pb_message(&fn, 9, onnx_opset("", 13));
    pb_message(&fn, 9, onnx_opset("mine", 1));
    pb_message(&fn, 11, int_attr("axis", -1));
    pb_text(&fn, 10, "mine");
    return fn;
}

static void functions_are_written_out(void **state)
{
    fixture *f = *state;
    pb g = {0}, call = onnx_node("F", "first", "x x", "a"),
       last = onnx_node("F", "last", "a x", "y");
    const int64_t dims[] = {2, 3};
    pb_text(&call, 7, "mine");
    pb_text(&last, 7, "mine");
    pb_message(&last, 5, int_attr("axis", 0));
    pb_message(&g, 1, call);
    pb_message(&g, 1, last);
    pb_message(&g, 11, onnx_io("x", FLOAT, 2, dims));
    pb_message(&g, 12, onnx_io("y", FLOAT, 2, dims));
    f->bytes = onnx_model(g);
    pb_message(&f->bytes, 25, function("F", "Softmax"));
    assert_int_equal(
        tdn_onnx_parse(&f->model, f->bytes.data, f->bytes.n, "m.onnx", NULL, NULL, &f->error),
        TDN_OK);
    if (build(f, NULL, 0) != TDN_OK)
        fail_msg("%s", f->error.text);
    assert_int_equal(f->g->n_nodes, 4);
    assert_string_equal(f->g->first->name, "first/Add_1");
    assert_string_equal(f->g->first->out[0]->name, "first/sum");
    assert_string_equal(f->g->first->next->out[0]->name, "a"); /* the caller's name */
    assert_int_equal(tdn_attr_int(&f->g->first->next->attrs, "axis", 9), -1);
    assert_int_equal(tdn_attr_int(&f->g->last->attrs, "axis", 9), 0);
    assert_string_equal(f->g->last->out[0]->name, "y");
}

static void a_function_that_calls_itself(void **state)
{
    fixture *f = *state;
    pb g = {0}, call = onnx_node("F", "c", "x x", "y"), fn = function("F", "Softmax");
    pb inner = onnx_node("F", "again", "p q", "t");
    pb_text(&call, 7, "mine");
    pb_text(&inner, 7, "mine");
    pb_message(&fn, 7, inner);
    pb_message(&g, 1, call);
    pb_message(&g, 11, io_2("x"));
    pb_message(&g, 12, io_2("y"));
    f->bytes = onnx_model(g);
    pb_message(&f->bytes, 25, fn);
    assert_int_equal(
        tdn_onnx_parse(&f->model, f->bytes.data, f->bytes.n, "m.onnx", NULL, NULL, &f->error),
        TDN_OK);
    assert_int_equal(build(f, NULL, 0), TDN_E_MODEL);
    assert_words(f, "does it call itself?");
    assert_words(f, "importing node 0 'c' (F) of m.onnx");
}

static pb branch(const char *op)
{
    pb g = {0};
    pb_message(&g, 1, onnx_node(op, op, "x", "result"));
    pb_message(&g, 12, io_2("result"));
    return g;
}

static pb if_graph(const char *condition)
{
    pb g = {0}, node = onnx_node("If", "if", condition, "y"), then = onnx_attr("then_branch", 5);
    pb other = onnx_attr("else_branch", 5);
    pb_message(&then, 6, branch("Neg"));
    pb_message(&other, 6, branch("Abs"));
    pb_message(&node, 5, then);
    pb_message(&node, 5, other);
    pb_message(&g, 1, node);
    pb_message(&g, 1, onnx_node("Not", "not", "no", "yes"));
    pb_message(&g, 5, onnx_raw_tensor("no", BOOL, 0, NULL, "\0", 1));
    pb_message(&g, 11, io_2("x"));
    pb_message(&g, 11, onnx_io("data", BOOL, 0, NULL));
    pb_message(&g, 12, io_2("y"));
    return g;
}

static void an_if_with_a_constant_condition_is_its_branch(void **state)
{
    fixture *f = *state;
    import(f, if_graph("no"));
    assert_string_equal(tdn_node_op_name(f->g->outputs[0]->producer), "Abs");
    import(f, if_graph("yes")); /* constant once Not is folded */
    assert_string_equal(tdn_node_op_name(f->g->outputs[0]->producer), "Neg");
    assert_string_equal(f->g->outputs[0]->name, "y");
    import(f, if_graph("data"));
    assert_int_equal(f->issues.n, 1);
    assert_string_equal(f->issues.items[0].op, "If");
}

/* ---- Hostile bytes --------------------------------------------------------------------------- */

static pb rich_graph(void)
{
    pb g = if_graph("yes"), constant = onnx_node("Constant", "", "", "k"),
       value = onnx_attr("value", 4);
    pb_message(&value, 5, onnx_raw_tensor("", FLOAT, 1, dims_2, one_two, sizeof one_two));
    pb_message(&constant, 5, value);
    pb_message(&g, 1, constant);
    pb_message(&g, 1, onnx_node("Mul", "mul", "y k", "z"));
    pb_message(&g, 15, sparse((int64_t[]){1, 5}, 1, dims_2));
    pb_message(&g, 12, io_2("z"));
    return g;
}

static void cut_off_anywhere(void **state)
{
    fixture *f = *state;
    const pb whole = onnx_model(rich_graph());
    for (size_t n = 0; n <= whole.n; n++) {
        uint8_t *part = malloc(n ? n : 1);
        memcpy(part, whole.data, n);
        tdn_onnx *model;
        tdn_status status = tdn_onnx_parse(&model, part, n, "m.onnx", NULL, NULL, &f->error);
        if (status == TDN_OK) {
            status = tdn_onnx_graph(&f->g, model, f->arena, NULL, 0, &f->issues, &f->error);
            assert_int_equal(n, whole.n); /* the graph is the last field */
        }
        assert_true(status == (n == whole.n ? TDN_OK : TDN_E_MODEL));
        tdn_onnx_free(model);
        free(part);
    }
    free(whole.data);
}

static void every_bit_flipped(void **state)
{
    fixture *f = *state;
    pb whole = onnx_model(rich_graph());
    for (size_t bit = 0; bit < 8 * whole.n; bit++) {
        whole.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        tdn_onnx *model;
        tdn_status status =
            tdn_onnx_parse(&model, whole.data, whole.n, "m.onnx", NULL, NULL, &f->error);
        if (status == TDN_OK) {
            tdn_arena *arena = tdn_arena_create(NULL);
            status = tdn_onnx_graph(&f->g, model, arena, NULL, 0, &f->issues, &f->error);
            tdn_arena_free(arena);
        }
        assert_true(status == TDN_OK || status == TDN_E_MODEL || status == TDN_E_SHAPE);
        tdn_onnx_free(model);
        whole.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    free(whole.data);
}

static void graphs_in_graphs_in_graphs(void **state)
{
    fixture *f = *state;
    pb g = branch("Relu");
    for (int i = 0; i < 10000; i += 1) {
        pb node = {0}, attr = {0}, outer = {0};
        pb_message(&attr, 6, g);
        pb_message(&node, 5, attr);
        pb_message(&outer, 1, node);
        g = outer;
    }
    assert_refused(f, g, "messages nest more than");
}

static void deep_groups(void **state)
{
    fixture *f = *state;
    pb g = add_graph();
    for (int i = 0; i < 10000; i++)
        pb_varint(&g, 500u << 3 | 3);
    assert_refused(f, g, "damaged or cut off");
}

static void what_is_no_model(void **state)
{
    fixture *f = *state;
    static const uint8_t jpeg[] = {0xff, 0xd8, 0xff, 0xe0, 0, 0x10, 'J', 'F', 'I', 'F'};
    assert_int_equal(tdn_onnx_parse(&f->model, NULL, 0, "m.onnx", NULL, NULL, &f->error),
                     TDN_E_MODEL);
    assert_words(f, "the file is empty; while reading m.onnx");
    assert_null(f->model);
    assert_int_equal(tdn_onnx_parse(&f->model, jpeg, sizeof jpeg, "m.onnx", NULL, NULL, &f->error),
                     TDN_E_MODEL);
    assert_words(f, "damaged or cut off at byte 0");
    assert_int_equal(tdn_onnx_parse(&f->model, jpeg, 0, "m.onnx", NULL, NULL, NULL),
                     TDN_E_MODEL); /* no text wanted */
    pb other = {0};
    pb_text(&other, 200, "a message of another kind");
    assert_int_equal(
        tdn_onnx_parse(&f->model, other.data, other.n, "m.onnx", NULL, NULL, &f->error),
        TDN_E_MODEL);
    assert_words(f, "is it an ONNX model?");
    free(other.data);
}

static void names_with_nuls_and_missing_opsets(void **state)
{
    fixture *f = *state;
    pb g = add_graph();
    pb node = {0};
    pb_bytes(&node, 1, "x\0y", 3);
    pb_message(&g, 1, node);
    assert_refused(f, g, "holds a NUL");
    pb bare = {0};
    pb_message(&bare, 7, add_graph());
    tdn_onnx_free(f->model);
    free(f->bytes.data);
    f->bytes = bare;
    assert_int_equal(tdn_onnx_parse(&f->model, bare.data, bare.n, "m.onnx", NULL, NULL, &f->error),
                     TDN_OK);
    assert_int_equal(build(f, NULL, 0), TDN_E_MODEL);
    assert_words(f, "does not say which opset");
}

/* ---- Failing allocations --------------------------------------------------------------------- */

typedef struct faulty {
    int left, live; /* allocations until one fails; blocks that are out */
} faulty;

static void *faulty_alloc(void *user, size_t size, size_t align)
{
    faulty *a = user;
    if (a->left-- <= 0)
        return NULL;
    a->live++;
    return tdn_alloc(NULL, size, align);
}

static void faulty_free(void *user, void *memory)
{
    if (memory)
        ((faulty *)user)->live--;
    tdn_free(NULL, memory);
}

static void every_allocation_may_fail(void **state)
{
    fixture *f = *state;
    const pb whole = onnx_model(rich_graph());
    tdn_status status = TDN_E_NOMEM;
    int n = 0;
    for (; status != TDN_OK; n++) {
        faulty faults = {n, 0};
        const tdn_allocator allocator = {faulty_alloc, faulty_free, &faults};
        tdn_onnx *model;
        status = tdn_onnx_parse(&model, whole.data, whole.n, "m.onnx", NULL, &allocator, &f->error);
        tdn_arena *arena = status == TDN_OK ? tdn_arena_create(&allocator) : NULL;
        if (status == TDN_OK)
            status = arena ? tdn_onnx_graph(&f->g, model, arena, NULL, 0, &f->issues, &f->error)
                           : TDN_E_NOMEM;
        assert_true(status == TDN_OK || status == TDN_E_NOMEM);
        tdn_arena_free(arena);
        tdn_onnx_free(model);
        assert_int_equal(faults.live, 0);
    }
    assert_true(n > 3);
    free(whole.data);
}

/* ---- External data --------------------------------------------------------------------------- */

static char folder[256];

static int setup_folder(void **state)
{
    const char *tmp = getenv("TDN_TEST_TMP");
    snprintf(folder, sizeof folder, "%s/onnx-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder))
        return -1;
    char path[300], target[300];
    snprintf(path, sizeof path, "%s/model", folder);
    if (mkdir(path, 0700) != 0)
        return -1;
    snprintf(path, sizeof path, "%s/model/data.bin", folder);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite("....\0\0\x80\x3f\0\0\0\x40", 1, 12, file) != 12 || fclose(file) != 0)
        return -1;
    snprintf(path, sizeof path, "%s/secret.bin", folder);
    file = fopen(path, "wb");
    if (!file || fwrite("01234567", 1, 8, file) != 8 || fclose(file) != 0)
        return -1;
    snprintf(path, sizeof path, "%s/model/link.bin", folder);
    snprintf(target, sizeof target, "../secret.bin");
    if (symlink(target, path) != 0)
        return -1;
    snprintf(path, sizeof path, "%s/model/inner.bin", folder);
    if (symlink("data.bin", path) != 0)
        return -1;
    return setup(state);
}

static int teardown_folder(void **state)
{
    static const char *const names[] = {"model/data.bin",  "secret.bin", "model/link.bin",
                                        "model/inner.bin", "model",      ""};
    char path[300];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        remove(path);
    }
    return teardown(state);
}

static void put_entry(pb *t, const char *key, const char *value)
{
    pb entry = {0};
    pb_text(&entry, 1, key);
    pb_text(&entry, 2, value);
    pb_message(t, 13, entry);
}

/* Parses and builds a model whose tensor of two floats lies elsewhere. NULL: the entry is not
 * there. */
static tdn_status external(fixture *f, const char *location, const char *offset, const char *length)
{
    char path[300];
    pb t = onnx_tensor("w", FLOAT, 1, dims_2);
    snprintf(path, sizeof path, "%s/model", folder);
    if (location)
        put_entry(&t, "location", location);
    if (offset)
        put_entry(&t, "offset", offset);
    if (length)
        put_entry(&t, "length", length);
    put_entry(&t, "checksum", "whatever");
    pb_int(&t, 14, 1);
    tdn_onnx_free(f->model);
    free(f->bytes.data);
    f->bytes = onnx_model(with_tensor(t));
    tdn_status status =
        tdn_onnx_parse(&f->model, f->bytes.data, f->bytes.n, "m.onnx", path, NULL, &f->error);
    return status == TDN_OK ? build(f, NULL, 0) : status;
}

static void external_data_is_found(void **state)
{
    fixture *f = *state;
    assert_int_equal(external(f, "data.bin", "4", "8"), TDN_OK);
    assert_memory_equal(find(f, "w")->data, one_two, sizeof one_two);
    const tdn_map *file = tdn_onnx_file(f->model, 0, NULL);
    assert_ptr_equal(find(f, "w")->data, file->data + 4); /* in place */
    assert_null(tdn_onnx_file(f->model, 1, NULL));
    assert_int_equal(external(f, "./data.bin", "4", NULL), TDN_OK);
    assert_int_equal(external(f, "inner.bin", "4", NULL), TDN_OK);
    assert_memory_equal(find(f, "w")->data, one_two, sizeof one_two);
    assert_int_equal(external(f, "data.bin", "3", NULL), TDN_OK); /* unaligned: copied */
    assert_int_equal((uintptr_t)find(f, "w")->data % 4, 0);
}

static void external_data_that_is_not_there(void **state)
{
    fixture *f = *state;
    assert_int_equal(external(f, "missing.bin", NULL, NULL), TDN_E_IO);
    assert_words(f, "missing.bin");
    assert_words(f, "reading tensor 'w'");
    assert_int_equal(external(f, NULL, NULL, NULL), TDN_E_MODEL);
    assert_words(f, "without a location");
    assert_int_equal(external(f, ".", NULL, NULL), TDN_E_MODEL);
    static const char *const offsets[] = {
        "-4", "5", "12", "18446744073709551615", "18446744073709551616", "4x", "", " 4"};
    for (size_t i = 0; i < sizeof offsets / sizeof *offsets; i++)
        assert_int_equal(external(f, "data.bin", offsets[i], NULL), TDN_E_MODEL);
    static const char *const lengths[] = {"-8", "7", "9", "99999999999999999999"};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        assert_int_equal(external(f, "data.bin", "4", lengths[i]), TDN_E_MODEL);
}

static void external_data_stays_in_the_folder(void **state)
{
    fixture *f = *state;
    char absolute[300];
    snprintf(absolute, sizeof absolute, "%s/model/data.bin", folder);
    const char *const locations[] = {
        "../secret.bin", "x/../../secret.bin", "..", "", "/etc/passwd", absolute, "link.bin"};
    for (size_t i = 0; i < sizeof locations / sizeof *locations; i++) {
        assert_int_equal(external(f, locations[i], NULL, NULL), TDN_E_MODEL);
        assert_words(f, "leaves the model's folder");
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_FILES(name) cmocka_unit_test_setup_teardown(name, setup_folder, teardown_folder)
    const struct CMUnitTest tests[] = {
        TEST(a_small_model),
        TEST(an_initializer_is_no_input),
        TEST(symbols_take_what_another_input_has),
        TEST(an_undeclared_shape_must_be_given),
        TEST(outputs_that_no_node_makes_get_one),
        TEST(unknown_fields_and_groups_are_skipped),
        TEST(raw_data_stays_where_it_is_when_aligned),
        TEST(typed_fields_packed_and_not),
        TEST(floats_packed_and_not),
        TEST(raw_bools_become_0_and_1),
        TEST(empty_and_scalar_tensors),
        TEST(tensors_whose_data_does_not_fit),
        TEST(tensors_of_types_that_are_not_supported),
        TEST(sparse_initializers_become_dense),
        TEST(constants_of_every_kind),
        TEST(nodes_in_any_order),
        TEST(a_long_chain_backwards),
        TEST(cycles_name_a_node),
        TEST(names_made_twice),
        TEST(names_that_nobody_makes),
        TEST(all_issues_at_once),
        TEST(shapes_that_depend_on_data),
        TEST(functions_are_written_out),
        TEST(a_function_that_calls_itself),
        TEST(an_if_with_a_constant_condition_is_its_branch),
        TEST(cut_off_anywhere),
        TEST(every_bit_flipped),
        TEST(graphs_in_graphs_in_graphs),
        TEST(deep_groups),
        TEST(what_is_no_model),
        TEST(names_with_nuls_and_missing_opsets),
        TEST(every_allocation_may_fail),
        TEST_FILES(external_data_is_found),
        TEST_FILES(external_data_that_is_not_there),
        TEST_FILES(external_data_stays_in_the_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
