/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operators of the caller's own: seen by the importer, compiled, evaluated by the reference and run
 * by the engine; operands that lie in views and parts of others' places; what rows and calls may
 * get wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "protobuf.h"
#include "tendon/build.h"
#include "tendon/operator.h"

/* ---- An operator: y = factor * x + offsets along the last axis, through scratch -------------- */

static tdn_status affine_infer(const tdn_operator_call *call, tdn_error *error)
{
    int n;
    const tdn_tensor *x = &call->in[0];
    tdn_operator_ints(call, "offsets", &n);
    if (call->n_in > 1 && call->in[1].dtype != TDN_DTYPE_NONE && !call->in[1].data)
        return tdn_operator_fail(error, TDN_E_MODEL, "input 1 is no constant");
    if (x->rank < 1 || x->dims[x->rank - 1] != n)
        return tdn_operator_fail(error, TDN_E_MODEL, "%d offsets do not fit", n);
    call->out[0].dtype = x->dtype;
    call->out[0].rank = x->rank;
    memcpy(call->out[0].dims, x->dims, sizeof x->dims);
    return TDN_OK;
}

static int64_t count(const tdn_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->rank; i++)
        n *= t->dims[i];
    return n;
}

static size_t affine_scratch(const tdn_operator_call *call)
{
    assert_null(call->in[0].data);
    return (size_t)count(&call->in[0]) * sizeof(float);
}

static tdn_status affine_run(const tdn_operator_call *call, tdn_error *error)
{
    int n;
    const int64_t *offsets = tdn_operator_ints(call, "offsets", &n);
    const float factor = tdn_operator_float(call, "factor", 1), *x = call->in[0].data;
    const int64_t size = count(&call->in[0]);
    float *copy = call->scratch, *y = call->out[0].data;
    assert_int_equal((uintptr_t)copy % 64, 0);
    assert_string_equal(tdn_operator_string(call, "mode", "absent"), "plain");
    assert_int_equal(tdn_operator_int(call, "nothing", 7), 7);
    assert_null(tdn_operator_floats(call, "mode", &n));
    n = (int)call->in[0].dims[call->in[0].rank - 1];
    if (call->user)
        return tdn_operator_fail(error, TDN_E_MODEL, "the operator said so");
    memcpy(copy, x, (size_t)size * sizeof *x);
    for (int64_t i = 0; i < size; i++)
        y[i] = factor * copy[i] + (float)offsets[i % n];
    return TDN_OK;
}

static const tdn_operator affine = {
    .struct_size = sizeof(tdn_operator),
    .domain = "acme",
    .name = "Affine",
    .n_in_min = 1,
    .n_in_max = 2,
    .n_out_min = 1,
    .n_out_max = 1,
    .infer = affine_infer,
    .scratch_size = affine_scratch,
    .run = affine_run,
};

/* ---- A model: its operand is a view, its result a part of a concatenation -------------------- */

static pb attr_ints(const char *name, const int64_t *v, int n)
{
    pb m = onnx_attr(name, 7);
    for (int i = 0; i < n; i++)
        pb_int(&m, 8, v[i]);
    return m;
}

static pb model_of(int n_offsets)
{
    static const int64_t x_dims[] = {2, 3}, y_dims[] = {3, 4}, offsets[] = {10, 20, 30};
    pb g = {0}, node = onnx_node("Affine", "own", "t", "p"), concat, factor, mode;
    pb_text(&node, 7, "acme");
    pb_message(&node, 5, attr_ints("offsets", offsets, n_offsets));
    factor = onnx_attr("factor", 1);
    pb_float(&factor, 2, 2);
    pb_message(&node, 5, factor);
    mode = onnx_attr("mode", 3);
    pb_text(&mode, 4, "plain");
    pb_message(&node, 5, mode);
    concat = onnx_node("Concat", "concat", "p t", "y");
    pb axis = onnx_attr("axis", 2);
    pb_int(&axis, 3, 1);
    pb_message(&concat, 5, axis);
    pb_message(&g, 1, onnx_node("Transpose", "transpose", "x", "t"));
    pb_message(&g, 1, node);
    pb_message(&g, 1, concat);
    pb_message(&g, 11, onnx_io("x", FLOAT, 2, x_dims));
    pb_message(&g, 12, onnx_io("y", FLOAT, 2, y_dims));
    pb m = onnx_model(g);
    pb_message(&m, 8, onnx_opset("acme", 1));
    return m;
}

static const int64_t x_dims[] = {2, 3}, y_dims[] = {3, 4};
static float x_data[] = {1, 2, 3, 4, 5, 6};
static const float y_data[] = {12, 28, 1, 4, 14, 30, 2, 5, 16, 32, 3, 6};

static tdn_status load_model(tdn_model **model, pb bytes, const tdn_operator *op, tdn_error *error)
{
    tdn_model_options options = TDN_MODEL_OPTIONS_INIT;
    options.operators = op;
    options.n_operators = op != NULL;
    return tdn_model_load_memory(model, bytes.data, bytes.n, NULL, &options, error);
}

static void build(pb bytes, void **plan, size_t *size)
{
    tdn_model *model;
    tdn_error error;
    if (load_model(&model, bytes, &affine, &error) != TDN_OK ||
        tdn_build(model, NULL, plan, size, &error) != TDN_OK)
        fail_msg("%s", error.text);
    tdn_model_free(model);
}

static tdn_status load_engine(tdn_engine **engine, const void *plan, size_t size,
                              const tdn_operator *op, tdn_error *error)
{
    tdn_engine_options options = TDN_ENGINE_OPTIONS_INIT;
    options.operators = op;
    options.n_operators = op != NULL;
    return tdn_engine_load_memory(engine, plan, size, &options, error);
}

static tdn_status run(const void *plan, size_t size, const tdn_operator *op, float *out,
                      tdn_error *error)
{
    tdn_engine *engine;
    tdn_context *context;
    assert_int_equal(load_engine(&engine, plan, size, op, error), TDN_OK);
    assert_int_equal(tdn_context_create(&context, engine, NULL, error), TDN_OK);
    const tdn_tensor x = tdn_tensor_make(x_data, TDN_F32, 2, x_dims);
    const tdn_tensor y = tdn_tensor_make(out, TDN_F32, 2, y_dims);
    assert_int_equal(tdn_context_bind(context, "x", &x), TDN_OK);
    assert_int_equal(tdn_context_bind(context, "y", &y), TDN_OK);
    const tdn_status status = tdn_context_run(context);
    snprintf(error->text, sizeof error->text, "%s", tdn_context_error(context));
    tdn_context_free(context);
    tdn_engine_free(engine);
    return status;
}

/* ---- Tests ----------------------------------------------------------------------------------- */

static void compiled_and_run(void **state)
{
    (void)state;
    void *plan;
    size_t size;
    float out[12] = {0};
    tdn_error error;
    const pb bytes = model_of(2);
    build(bytes, &plan, &size);
    assert_int_equal(run(plan, size, &affine, out, &error), TDN_OK);
    assert_memory_equal(out, y_data, sizeof out);
    tdn_plan_free(plan);
    free(bytes.data);
}

static void evaluated_by_the_reference(void **state)
{
    (void)state;
    tdn_model *model;
    tdn_reference *r;
    tdn_error error;
    tdn_tensor y;
    const pb bytes = model_of(2);
    const tdn_tensor x = tdn_tensor_make(x_data, TDN_F32, 2, x_dims);
    assert_int_equal(load_model(&model, bytes, &affine, &error), TDN_OK);
    assert_int_equal(tdn_reference_create(&r, model, NULL, 1, &error), TDN_OK);
    assert_int_equal(tdn_reference_run(r, &x, 1, &error), TDN_OK);
    assert_int_equal(tdn_reference_value(r, "y", &y), TDN_OK);
    assert_memory_equal(y.data, y_data, sizeof y_data);
    tdn_reference_free(r);
    tdn_model_free(model);
    free(bytes.data);
}

static void missing(void **state)
{
    (void)state;
    tdn_model *model;
    tdn_engine *engine;
    tdn_error error;
    void *plan;
    size_t size;
    const pb bytes = model_of(2);
    assert_int_equal(load_model(&model, bytes, NULL, &error), TDN_OK);
    assert_int_equal(tdn_build(model, NULL, &plan, &size, &error), TDN_E_UNSUPPORTED);
    assert_non_null(strstr(error.text, "Affine 'own'"));
    tdn_model_free(model);
    build(bytes, &plan, &size);
    assert_int_equal(load_engine(&engine, plan, size, NULL, &error), TDN_E_UNSUPPORTED);
    assert_non_null(strstr(error.text, "'acme::Affine'"));
    tdn_operator other = affine;
    other.domain = "acme2";
    assert_int_equal(load_engine(&engine, plan, size, &other, &error), TDN_E_UNSUPPORTED);
    tdn_plan_free(plan);
    free(bytes.data);
}

static void failures_have_the_operators_words(void **state)
{
    (void)state;
    tdn_model *model;
    tdn_error error;
    void *plan;
    size_t size;
    float out[12];
    pb bytes = model_of(3); /* offsets that do not fit */
    assert_int_equal(load_model(&model, bytes, &affine, &error), TDN_OK);
    assert_int_equal(tdn_build(model, NULL, &plan, &size, &error), TDN_E_MODEL);
    assert_non_null(strstr(error.text, "3 offsets do not fit"));
    assert_non_null(strstr(error.text, "'own'"));
    tdn_model_free(model);
    free(bytes.data);

    bytes = model_of(2);
    build(bytes, &plan, &size);
    tdn_operator failing = affine;
    failing.user = &failing;
    assert_int_equal(run(plan, size, &failing, out, &error), TDN_E_MODEL);
    assert_non_null(strstr(error.text, "the operator said so"));
    assert_non_null(strstr(error.text, "'own'"));
    tdn_plan_free(plan);
    free(bytes.data);
}

static void rows_that_are_none(void **state)
{
    (void)state;
    tdn_model *model;
    tdn_error error;
    const pb bytes = model_of(2);
    tdn_operator rows[8];
    for (int i = 0; i < 8; i++)
        rows[i] = affine;
    rows[0].struct_size--;
    rows[1].name = NULL;
    rows[2].run = NULL;
    rows[3].infer = NULL;
    rows[4].n_in_max = TDN_OPERATOR_MAX_IN + 1;
    rows[5].n_in_min = 3;
    rows[6].n_out_min = 0;
    rows[7].n_out_max = TDN_OPERATOR_MAX_OUT + 1;
    for (int i = 0; i < 8; i++)
        assert_int_equal(load_model(&model, bytes, &rows[i], &error), TDN_E_ARG);
    tdn_model_options options = TDN_MODEL_OPTIONS_INIT;
    options.n_operators = 1;
    assert_int_equal(tdn_model_load_memory(&model, bytes.data, bytes.n, NULL, &options, &error),
                     TDN_E_ARG);
    free(bytes.data);
}

static tdn_status forgetful(const tdn_operator_call *call, tdn_error *error)
{
    (void)call, (void)error;
    return TDN_OK;
}

static tdn_status huge(const tdn_operator_call *call, tdn_error *error)
{
    (void)error;
    call->out[0].dtype = TDN_F32;
    call->out[0].rank = 2;
    call->out[0].dims[0] = call->out[0].dims[1] = INT64_MAX / 2;
    return TDN_OK;
}

static void shape_rules_that_are_none(void **state)
{
    (void)state;
    tdn_model *model;
    tdn_error error;
    void *plan;
    size_t size;
    const pb bytes = model_of(2);
    tdn_operator op = affine;
    tdn_status (*const rules[])(const tdn_operator_call *, tdn_error *) = {forgetful, huge};
    for (int i = 0; i < 2; i++) {
        op.infer = rules[i];
        assert_int_equal(load_model(&model, bytes, &op, &error), TDN_OK);
        assert_int_not_equal(tdn_build(model, NULL, &plan, &size, &error), TDN_OK);
        assert_non_null(strstr(error.text, "'own'"));
        tdn_model_free(model);
    }
    free(bytes.data);
}

/* ONNX's own Transpose, replaced by one that negates, too. */
static tdn_status negate_infer(const tdn_operator_call *call, tdn_error *error)
{
    (void)error;
    call->out[0].dtype = TDN_F32;
    call->out[0].rank = 2;
    call->out[0].dims[0] = call->in[0].dims[1];
    call->out[0].dims[1] = call->in[0].dims[0];
    return TDN_OK;
}

static tdn_status negate_run(const tdn_operator_call *call, tdn_error *error)
{
    (void)error;
    const int64_t rows = call->in[0].dims[0], columns = call->in[0].dims[1];
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < columns; k++)
            ((float *)call->out[0].data)[k * rows + i] =
                -((const float *)call->in[0].data)[i * columns + k];
    return TDN_OK;
}

static void in_place_of_one_of_onnx(void **state)
{
    (void)state;
    tdn_operator rows[2] = {affine, affine};
    rows[1].domain = NULL;
    rows[1].name = "Transpose";
    rows[1].infer = negate_infer;
    rows[1].run = negate_run;
    rows[1].scratch_size = NULL;
    tdn_model_options options = TDN_MODEL_OPTIONS_INIT;
    options.operators = rows;
    options.n_operators = 2;
    tdn_model *model;
    tdn_reference *r;
    tdn_error error;
    tdn_tensor y;
    const pb bytes = model_of(2);
    const tdn_tensor x = tdn_tensor_make(x_data, TDN_F32, 2, x_dims);
    assert_int_equal(tdn_model_load_memory(&model, bytes.data, bytes.n, NULL, &options, &error),
                     TDN_OK);
    assert_int_equal(tdn_reference_create(&r, model, NULL, 1, &error), TDN_OK);
    assert_int_equal(tdn_reference_run(r, &x, 1, &error), TDN_OK);
    assert_int_equal(tdn_reference_value(r, "t", &y), TDN_OK);
    const float want[] = {-1, -4, -2, -5, -3, -6};
    assert_memory_equal(y.data, want, sizeof want);
    tdn_reference_free(r);
    tdn_model_free(model);
    free(bytes.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compiled_and_run),
        cmocka_unit_test(evaluated_by_the_reference),
        cmocka_unit_test(missing),
        cmocka_unit_test(failures_have_the_operators_words),
        cmocka_unit_test(rows_that_are_none),
        cmocka_unit_test(shape_rules_that_are_none),
        cmocka_unit_test(in_place_of_one_of_onnx),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
