/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model part of build.h: loading from file and memory, what a model declares, its description,
 * and the reference evaluation with values by name, on any number of threads and with extents that
 * only the data decides.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <unistd.h>

#include <cmocka.h>

#include "build/model.h"
#include "protobuf.h"

static const int64_t dims_2[] = {2}, dims_23[] = {2, 3};
static const float one_two[] = {1, 2};

/* y = relu(x + w), w = {1, 2}; dead = abs(x). */
static pb small_model(void)
{
    pb g = {0};
    pb_message(&g, 1, onnx_node("Add", "add", "x w", "sum"));
    pb_message(&g, 1, onnx_node("Relu", "relu", "sum", "y"));
    pb_message(&g, 1, onnx_node("Abs", "abs", "x", "dead"));
    pb_message(&g, 5, onnx_raw_tensor("w", FLOAT, 1, dims_2, one_two, sizeof one_two));
    pb_message(&g, 11, onnx_io("x", FLOAT, 1, dims_2));
    pb_message(&g, 12, onnx_io("y", FLOAT, 1, dims_2));
    return onnx_model(g);
}

static tdn_model *load(pb bytes)
{
    tdn_model *model;
    tdn_error error;
    if (tdn_model_load_memory(&model, bytes.data, bytes.n, NULL, NULL, &error) != TDN_OK)
        fail_msg("%s", error.text);
    return model;
}

static tdn_tensor tensor(const float *data, int rank, const int64_t *dims)
{
    return tdn_tensor_make((void *)(uintptr_t)data, TDN_F32, rank, dims);
}

/* ---- Loading --------------------------------------------------------------------------------- */

static void from_a_file(void **state)
{
    (void)state;
    char path[256];
    const char *tmp = getenv("TDN_TEST_TMP");
    snprintf(path, sizeof path, "%s/model-XXXXXX", tmp ? tmp : "/tmp");
    const int fd = mkstemp(path);
    const pb bytes = small_model();
    assert_int_equal(write(fd, bytes.data, bytes.n), bytes.n);
    close(fd);
    tdn_model *model, *same;
    tdn_error error;
    assert_int_equal(tdn_model_load(&model, path, NULL, &error), TDN_OK);
    assert_string_equal(tdn_model_name(model), strrchr(path, '/') + 1);
    same = load(bytes);
    assert_string_equal(tdn_model_name(same), "model");
    assert_int_equal(strlen(tdn_model_digest(model)), 64);
    assert_string_equal(tdn_model_digest(model), tdn_model_digest(same));
    tdn_model_free(model);
    tdn_model_free(same);
    remove(path);
    assert_int_equal(tdn_model_load(&model, path, NULL, &error), TDN_E_IO);
    assert_null(model);
    assert_non_null(strstr(error.text, path));
    free(bytes.data);
}

static void what_is_refused(void **state)
{
    (void)state;
    tdn_model *model;
    tdn_error error;
    tdn_model_options options = TDN_MODEL_OPTIONS_INIT;
    options.struct_size = 4;
    assert_int_equal(tdn_model_load_memory(&model, "x", 1, NULL, &options, &error), TDN_E_ARG);
    assert_int_equal(tdn_model_load_memory(&model, NULL, 1, NULL, NULL, &error), TDN_E_ARG);
    assert_int_equal(tdn_model_load_memory(&model, "x", 1, NULL, NULL, &error), TDN_E_MODEL);
    assert_null(model);
    assert_int_equal(tdn_model_load(&model, NULL, NULL, NULL), TDN_E_ARG);
    tdn_model_free(NULL);
}

static void inputs_and_outputs(void **state)
{
    (void)state;
    const pb bytes = small_model();
    tdn_model *model = load(bytes);
    tdn_model_io io = {.struct_size = sizeof io};
    assert_int_equal(tdn_model_n_inputs(model), 1);
    assert_int_equal(tdn_model_n_outputs(model), 1);
    assert_int_equal(tdn_model_input(model, 0, &io), TDN_OK);
    assert_string_equal(io.name, "x");
    assert_int_equal(io.dtype, TDN_F32);
    assert_true(io.rank == 1 && io.dims[0] == 2 && !io.symbols[0]);
    assert_int_equal(tdn_model_input(model, 1, &io), TDN_E_ARG);
    assert_int_equal(tdn_model_output(model, -1, &io), TDN_E_ARG);
    assert_int_equal(tdn_model_output(model, 0, &io), TDN_OK);
    assert_string_equal(io.name, "y");
    tdn_model_free(model);
    free(bytes.data);
}

/* ---- Description ----------------------------------------------------------------------------- */

static void a_description(void **state)
{
    (void)state;
    const pb bytes = small_model();
    tdn_model *model = load(bytes);
    char *json;
    tdn_error error;
    assert_int_equal(tdn_model_describe(&json, model, NULL, &error), TDN_OK);
    assert_non_null(strstr(json, "\"parameters\": 2"));
    assert_non_null(strstr(json, "\"op\": \"Relu\""));
    assert_non_null(strstr(json, "\"unsupported\": []"));
    assert_non_null(strstr(json, tdn_model_digest(model)));
    tdn_text_free(json);
    const tdn_shape_spec spec = {"x", 1, {3}};
    const tdn_shape_set set = {&spec, 1};
    assert_int_equal(tdn_model_describe(&json, model, &set, &error), TDN_E_SHAPE);
    assert_null(json);
    tdn_model_free(model);
    free(bytes.data);
}

static void count_lines(void *user, tdn_log_level level, const char *line)
{
    assert_int_equal(level, TDN_LOG_ERROR);
    assert_non_null(strstr(line, "Unknown"));
    ++*(int *)user;
}

static void more_issues_than_the_text_holds(void **state)
{
    (void)state;
    enum { N = 300 };
    pb g = {0};
    char out[16];
    for (int i = 0; i < N; i++) {
        snprintf(out, sizeof out, "y%d", i);
        pb_message(&g, 1, onnx_node("Unknown", out, "x", out));
    }
    pb_message(&g, 11, onnx_io("x", FLOAT, 1, dims_2));
    pb_message(&g, 12, onnx_io("y0", FLOAT, 1, dims_2));
    const pb bytes = onnx_model(g);
    int n_lines = 0;
    tdn_model_options options = TDN_MODEL_OPTIONS_INIT;
    options.log = count_lines;
    options.log_user = &n_lines;
    tdn_model *model;
    tdn_reference *reference;
    tdn_error error;
    assert_int_equal(tdn_model_load_memory(&model, bytes.data, bytes.n, NULL, &options, &error),
                     TDN_OK);
    assert_int_equal(tdn_reference_create(&reference, model, NULL, 1, &error), TDN_E_UNSUPPORTED);
    assert_null(reference);
    assert_int_equal(strncmp(error.text, "300 nodes of model not supported: Unknown 'y0' (", 48),
                     0);
    assert_non_null(strstr(error.text, " more"));
    assert_int_equal(n_lines, N);
    char *json;
    assert_int_equal(tdn_model_describe(&json, model, NULL, &error), TDN_OK);
    assert_non_null(strstr(json, "\"node\": \"y299\""));
    tdn_text_free(json);
    tdn_model_free(model);
    free(bytes.data);
}

/* ---- Reference ------------------------------------------------------------------------------- */

static const float *value(const tdn_reference *r, const char *name, tdn_tensor *t)
{
    if (tdn_reference_value(r, name, t) != TDN_OK)
        fail_msg("no value '%s'", name);
    return t->data;
}

static void values_by_name(void **state)
{
    (void)state;
    const pb bytes = small_model();
    tdn_model *model = load(bytes);
    tdn_reference *r;
    tdn_error error;
    tdn_tensor t;
    assert_int_equal(tdn_reference_create(&r, model, NULL, 1, &error), TDN_OK);
    assert_int_equal(tdn_reference_value(r, "y", &t), TDN_E_ARG); /* nothing ran yet */
    const float data[][2] = {{-3, 4}, {5, -6}};
    const float want[][6] = {{-2, 6, 0, 6, 3, 4}, {6, -4, 6, 0, 5, 6}};
    for (int i = 0; i < 2; i++) {
        const tdn_tensor x = tensor(data[i], 1, dims_2);
        assert_int_equal(tdn_reference_run(r, &x, 1, &error), TDN_OK);
        assert_memory_equal(value(r, "sum", &t), &want[i][0], 8);
        assert_memory_equal(value(r, "y", &t), &want[i][2], 8);
        assert_memory_equal(value(r, "dead", &t), &want[i][4], 8);
        assert_memory_equal(value(r, "x", &t), data[i], 8);
    }
    assert_memory_equal(value(r, "w", &t), one_two, sizeof one_two);
    assert_true(t.dtype == TDN_F32 && t.rank == 1 && t.dims[0] == 2);
    assert_int_equal(tdn_reference_value(r, "nothing", &t), TDN_E_ARG);
    tdn_reference_free(r);
    tdn_model_free(model);
    free(bytes.data);
}

static void wrong_tensors(void **state)
{
    (void)state;
    const pb bytes = small_model();
    tdn_model *model = load(bytes);
    tdn_reference *r;
    tdn_error error;
    const float data[6] = {0};
    assert_int_equal(tdn_reference_create(&r, model, NULL, 1, &error), TDN_OK);
    tdn_tensor x = tensor(data, 2, dims_23);
    assert_int_equal(tdn_reference_run(r, &x, 1, &error), TDN_E_SHAPE);
    assert_non_null(strstr(error.text, "'x' takes the shape 2, not 2x3"));
    x = tensor(data, 1, dims_2);
    x.dtype = TDN_F64;
    assert_int_equal(tdn_reference_run(r, &x, 1, &error), TDN_E_ARG);
    x = tensor(NULL, 1, dims_2);
    assert_int_equal(tdn_reference_run(r, &x, 1, &error), TDN_E_ARG);
    assert_int_equal(tdn_reference_run(r, NULL, 0, &error), TDN_E_ARG);
    tdn_reference_free(r);
    tdn_model_free(model);
    free(bytes.data);
}

/* Composites are rewritten where they have no reference; the names stay. */
static void the_same_on_any_number_of_threads(void **state)
{
    (void)state;
    enum { M = 37, K = 29, N = 41 };
    static float x[M * K], w[K * N], first[M * N];
    for (int i = 0; i < M * K; i++)
        x[i] = (float)(i % 17) / 7 - 1;
    for (int i = 0; i < K * N; i++)
        w[i] = (float)(i % 23) / 11 - 1;
    pb g = {0};
    pb_message(&g, 1, onnx_node("Gemm", "gemm", "x w", "h"));
    pb_message(&g, 1, onnx_node("HardSwish", "act", "h", "a"));
    pb_message(&g, 1, onnx_node("Softmax", "soft", "a", "y"));
    pb_message(&g, 5, onnx_raw_tensor("w", FLOAT, 2, (int64_t[]){K, N}, w, sizeof w));
    pb_message(&g, 11, onnx_io("x", FLOAT, 2, (int64_t[]){M, K}));
    pb_message(&g, 12, onnx_io("y", FLOAT, 2, (int64_t[]){M, N}));
    const pb bytes = onnx_model(g);
    tdn_model *model = load(bytes);
    for (int threads = 1; threads <= 5; threads++) {
        tdn_reference *r;
        tdn_error error;
        tdn_tensor t;
        if (tdn_reference_create(&r, model, NULL, threads, &error) != TDN_OK)
            fail_msg("%s", error.text);
        const tdn_tensor in = tensor(x, 2, (int64_t[]){M, K});
        assert_int_equal(tdn_reference_run(r, &in, 1, &error), TDN_OK);
        const float *y = value(r, "y", &t);
        if (threads == 1)
            memcpy(first, y, sizeof first);
        assert_memory_equal(y, first, sizeof first);
        const float *h = value(r, "h", &t), *a = value(r, "a", &t);
        double want = 0;
        for (int k = 0; k < K; k++)
            want += (double)x[k] * (double)w[k * N];
        assert_true(h[0] - want < 1e-4 && want - h[0] < 1e-4);
        const double gate = want / 6 + 0.5, clamped = gate < 0 ? 0 : gate > 1 ? 1 : gate;
        assert_true(a[0] - want * clamped < 1e-4 && want * clamped - a[0] < 1e-4);
        tdn_reference_free(r);
    }
    tdn_model_free(model);
    free(bytes.data);
}

/* How many elements NonZero finds depends on the data; what reads it follows. */
static void extents_that_the_data_decides(void **state)
{
    (void)state;
    pb g = {0};
    pb_message(&g, 1, onnx_node("NonZero", "nz", "x", "n"));
    pb_message(&g, 1, onnx_node("Neg", "neg", "n", "p"));
    pb_message(&g, 11, onnx_io("x", FLOAT, 2, dims_23));
    pb_message(&g, 12, onnx_io("p", INT64, -1, NULL));
    const pb bytes = onnx_model(g);
    tdn_model *model = load(bytes);
    tdn_reference *r;
    tdn_error error;
    tdn_tensor t;
    if (tdn_reference_create(&r, model, NULL, 1, &error) != TDN_OK)
        fail_msg("%s", error.text);
    const float data[][6] = {{0, 1, 0, 2, 0, 3}, {0, 0, 0, 0, 0, 0}, {1, 1, 1, 1, 1, 1}};
    const int64_t n[] = {3, 0, 6}, places[] = {0, -1, -1, -1, 0, -2};
    for (int i = 0; i < 3; i++) {
        const tdn_tensor x = tensor(data[i], 2, dims_23);
        if (tdn_reference_run(r, &x, 1, &error) != TDN_OK)
            fail_msg("%s", error.text);
        value(r, "p", &t);
        assert_true(t.rank == 2 && t.dims[0] == 2 && t.dims[1] == n[i]);
        if (i == 0)
            assert_memory_equal(t.data, places, sizeof places);
    }
    tdn_reference_free(r);
    tdn_model_free(model);
    free(bytes.data);
}

/* An index in the data that leads outside fails with the node's name, and the reference stays
 * usable. */
static void data_out_of_range(void **state)
{
    (void)state;
    pb g = {0};
    pb_message(&g, 1, onnx_node("Gather", "pick", "w i", "y"));
    pb_message(&g, 5, onnx_raw_tensor("w", FLOAT, 1, dims_2, one_two, sizeof one_two));
    pb_message(&g, 11, onnx_io("i", INT64, 1, (int64_t[]){1}));
    pb_message(&g, 12, onnx_io("y", FLOAT, 1, (int64_t[]){1}));
    const pb bytes = onnx_model(g);
    tdn_model *model = load(bytes);
    tdn_reference *r;
    tdn_error error;
    tdn_tensor t;
    assert_int_equal(tdn_reference_create(&r, model, NULL, 1, &error), TDN_OK);
    int64_t index = 5;
    const tdn_tensor i = tdn_tensor_make(&index, TDN_S64, 1, (int64_t[]){1});
    assert_int_equal(tdn_reference_run(r, &i, 1, &error), TDN_E_MODEL);
    assert_non_null(strstr(error.text, "; while evaluating node 'pick' (Gather)"));
    assert_int_equal(tdn_reference_value(r, "y", &t), TDN_E_ARG);
    index = -1;
    assert_int_equal(tdn_reference_run(r, &i, 1, &error), TDN_OK);
    assert_true(value(r, "y", &t)[0] == 2);
    tdn_reference_free(r);
    tdn_model_free(model);
    free(bytes.data);
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

static tdn_status load_and_run(pb bytes, const tdn_allocator *allocator)
{
    const tdn_model_options options = {.struct_size = sizeof options, .allocator = allocator};
    const float data[] = {-3, 4};
    const tdn_tensor x = tensor(data, 1, dims_2);
    tdn_model *model;
    tdn_reference *r = NULL;
    tdn_error error;
    char *json = NULL;
    tdn_status status = tdn_model_load_memory(&model, bytes.data, bytes.n, NULL, &options, &error);
    if (status == TDN_OK)
        status = tdn_model_describe(&json, model, NULL, &error);
    tdn_text_free(json);
    if (status == TDN_OK)
        status = tdn_reference_create(&r, model, NULL, 2, &error);
    if (status == TDN_OK)
        status = tdn_reference_run(r, &x, 1, &error);
    tdn_reference_free(r);
    tdn_model_free(model);
    return status;
}

static void every_allocation_may_fail(void **state)
{
    (void)state;
    const pb bytes = small_model();
    tdn_status status = TDN_E_NOMEM;
    int n = 0;
    for (; status != TDN_OK; n++) {
        faulty faults = {n, 0};
        const tdn_allocator allocator = {faulty_alloc, faulty_free, &faults};
        status = load_and_run(bytes, &allocator);
        assert_true(status == TDN_OK || status == TDN_E_NOMEM);
        assert_int_equal(faults.live, 0);
    }
    assert_true(n > 10);
    free(bytes.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_a_file),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(inputs_and_outputs),
        cmocka_unit_test(a_description),
        cmocka_unit_test(more_issues_than_the_text_holds),
        cmocka_unit_test(values_by_name),
        cmocka_unit_test(wrong_tensors),
        cmocka_unit_test(the_same_on_any_number_of_threads),
        cmocka_unit_test(extents_that_the_data_decides),
        cmocka_unit_test(data_out_of_range),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
