/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of budget.h beyond what the command shows: options, failing callers, look-ups. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#include "protobuf.h"
#include "tendon/budget.h"

enum { N = 16, N_BATCHES = 50 };

typedef struct fixture {
    pb bytes;
    tdn_model *model;
    tdn_calibration *calibration;
    tdn_calibrate_options samples;
    float x[N * N];
    tdn_tensor tensor;
    int n_calls;
    int64_t seen[2 * N_BATCHES], fails_at;
} fixture;

static tdn_status next(void *user, int64_t batch, const tdn_tensor **inputs, tdn_error *error)
{
    fixture *f = user;
    if (batch == f->fails_at)
        return tdn_fail(error, TDN_E_CHECK, "the caller's own words");
    if (f->n_calls < 2 * N_BATCHES)
        f->seen[f->n_calls] = batch;
    f->n_calls++;
    for (int i = 0; i < N * N; i++)
        f->x[i] = (float)((i * 31 + (int)batch * 17) % 101 - 50) / 50;
    f->tensor = tdn_tensor_make(f->x, TDN_F32, 2, (int64_t[]){N, N});
    *inputs = &f->tensor;
    return TDN_OK;
}

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    f->fails_at = -1;
    f->bytes = onnx_two_products();
    f->samples = (tdn_calibrate_options)TDN_CALIBRATE_OPTIONS_INIT;
    f->samples.method = TDN_CALIBRATION_MINMAX;
    f->samples.n_batches = N_BATCHES;
    f->samples.n_threads = 1;
    f->samples.next = next;
    f->samples.next_user = f;
    const bool made =
        tdn_model_load_memory(&f->model, f->bytes.data, f->bytes.n, NULL, NULL, NULL) == TDN_OK &&
        tdn_calibrate(&f->calibration, f->model, &f->samples, NULL) == TDN_OK;
    f->n_calls = 0;
    return made ? 0 : -1;
}

static int teardown(void **state)
{
    fixture *f = *state;
    tdn_calibration_free(f->calibration);
    tdn_model_free(f->model);
    free(f->bytes.data);
    free(f);
    return 0;
}

/* Of 50 batches 32, evenly spread; the same ones in 8 bits as in float32. */
static void batches_are_spread(void **state)
{
    fixture *f = *state;
    tdn_budget_options o = TDN_BUDGET_OPTIONS_INIT;
    tdn_budget_info info = {.struct_size = sizeof info};
    tdn_budget *b;
    o.budget = 1;
    assert_int_equal(tdn_budget_choose(&b, f->model, f->calibration, &f->samples, &o, NULL),
                     TDN_OK);
    assert_int_equal(f->n_calls, 2 * 32);
    for (int i = 0; i < 32; i++) {
        assert_true(i == 0 || (f->seen[i] > f->seen[i - 1] && f->seen[i] <= f->seen[i - 1] + 2));
        assert_int_equal(f->seen[i], f->seen[32 + i]);
    }
    assert_true(f->seen[0] <= 1 && f->seen[31] == N_BATCHES - 1);
    assert_int_equal(tdn_budget_get_info(b, &info), TDN_OK);
    assert_true(info.error > 0 && info.error < 0.05 && info.error == info.error_int8);
    assert_true(info.n_products == 2 && info.n_int8 == 2 && info.n_builds == 1);
    tdn_budget_free(b);
    o.max_batches = 3;
    f->n_calls = 0;
    assert_int_equal(tdn_budget_choose(&b, f->model, f->calibration, &f->samples, &o, NULL),
                     TDN_OK);
    assert_int_equal(f->n_calls, 2 * 3);
    tdn_budget_free(b);
}

static void what_is_kept(void **state)
{
    fixture *f = *state;
    tdn_budget_options o = TDN_BUDGET_OPTIONS_INIT;
    tdn_budget_product p = {.struct_size = sizeof p};
    tdn_budget *b;
    int32_t n = 7;
    assert_int_equal(tdn_budget_choose(&b, f->model, f->calibration, &f->samples, &o, NULL),
                     TDN_OK);
    const tdn_layer_precision *rows = tdn_budget_layers(b, &n);
    assert_int_equal(n, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tdn_budget_product_at(b, i, &p), TDN_OK);
        assert_true(p.precision == TDN_PRECISION_FP32 && !p.is_forced && fabs(p.work - 0.5) < 1e-12);
        assert_true(p.sqnr > 20 && p.sqnr < 80);
        assert_int_equal(rows[i].precision, TDN_PRECISION_FP32);
        assert_string_equal(rows[i].layer, p.name);
    }
    assert_int_equal(tdn_budget_product_at(b, 2, &p), TDN_E_ARG);
    assert_int_equal(tdn_budget_product_at(b, -1, &p), TDN_E_ARG);
    assert_int_equal(tdn_budget_product_at(b, 0, NULL), TDN_E_ARG);
    assert_int_equal(tdn_budget_get_info(b, NULL), TDN_E_ARG);
    assert_int_equal(tdn_budget_get_info(NULL, NULL), TDN_E_ARG);
    assert_null(tdn_budget_layers(NULL, &n));
    assert_int_equal(n, 0);
    tdn_budget_free(b);
    tdn_budget_free(NULL);
}

static void options_that_break_a_rule(void **state)
{
    fixture *f = *state;
    static const int64_t labels[3] = {0};
    const char *const words[] = {"TDN_BUDGET_OPTIONS_INIT",
                                 "measure 9",
                                 "budget of -1",
                                 "budget of nan",
                                 "labels",
                                 "next",
                                 "3 labels",
                                 "halves that this machine multiplies"};
    for (int i = 0; i < 8; i++) {
        tdn_budget_options o = TDN_BUDGET_OPTIONS_INIT;
        tdn_calibrate_options samples = f->samples;
        tdn_budget *b = (tdn_budget *)f;
        tdn_error error = {""};
        o.struct_size -= i == 0;
        o.measure = i == 1 ? (tdn_budget_measure)9 : i == 4 || i == 6 ? TDN_BUDGET_ACCURACY : 0;
        o.budget = i == 2 ? -1 : i == 3 ? NAN : 0;
        samples.next = i == 5 ? NULL : next;
        o.labels = i == 6 ? labels : NULL;
        o.n_labels = i == 6 ? 3 : 0;
        o.kept = i == 7 ? TDN_PRECISION_INT8 : TDN_PRECISION_FP32;
        assert_int_equal(tdn_budget_choose(&b, f->model, f->calibration, &samples, &o, &error),
                         i == 6 ? TDN_E_FORMAT : TDN_E_ARG);
        assert_non_null(strstr(error.text, words[i]));
        assert_null(b);
    }
    assert_int_equal(tdn_budget_choose(NULL, NULL, NULL, NULL, NULL, NULL), TDN_E_ARG);
}

/* A caller's failure is passed on, in float32 and in 8 bits; so is one of a build. */
static void what_fails(void **state)
{
    fixture *f = *state;
    tdn_budget_options o = TDN_BUDGET_OPTIONS_INIT;
    tdn_budget *b;
    tdn_error error;
    f->fails_at = 1;
    o.max_batches = N_BATCHES;
    assert_int_equal(tdn_budget_choose(&b, f->model, f->calibration, &f->samples, &o, &error),
                     TDN_E_CHECK);
    assert_string_equal(error.text, "the caller's own words");
    assert_null(b);
    f->fails_at = -1;
    o.layer_precisions = &(tdn_layer_precision){"third", TDN_PRECISION_FP32};
    o.n_layer_precisions = 1;
    assert_int_equal(tdn_budget_choose(&b, f->model, f->calibration, &f->samples, &o, &error),
                     TDN_E_ARG);
    assert_non_null(strstr(error.text, "'third'; there are: first, second"));
    o.layer_precisions = &(tdn_layer_precision){"*", TDN_PRECISION_INT8};
    assert_int_equal(tdn_budget_choose(&b, f->model, f->calibration, &f->samples, &o, &error),
                     TDN_E_CHECK);
    assert_non_null(strstr(error.text, "by --layerPrecisions: 'first', 'second'"));
    assert_null(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(batches_are_spread, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(options_that_break_a_rule, setup, teardown),
        cmocka_unit_test_setup_teardown(what_fails, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
