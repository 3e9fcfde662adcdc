/* SPDX-License-Identifier: Apache-2.0 */
/* The contract of calibrate.h beyond what the command shows: options, failing callers, look-ups. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "protobuf.h"
#include "quant/calibration.h"
#include "quant/threshold.h"
#include "tendon/calibrate.h"

enum { N = 4 };

/* y = relu(x) + x */
static tdn_model *make_model(pb *bytes)
{
    static const int64_t dims[] = {N};
    tdn_model *model;
    pb g = {0};
    pb_message(&g, 1, onnx_node("Relu", "relu", "x", "r"));
    pb_message(&g, 1, onnx_node("Add", "add", "r x", "y"));
    pb_message(&g, 11, onnx_io("x", FLOAT, 1, dims));
    pb_message(&g, 12, onnx_io("r", FLOAT, 1, dims));
    pb_message(&g, 12, onnx_io("y", FLOAT, 1, dims));
    *bytes = onnx_model(g);
    assert_int_equal(tdn_model_load_memory(&model, bytes->data, bytes->n, NULL, NULL, NULL),
                     TDN_OK);
    return model;
}

/* Batch b is b + 1 and so on, every other number negative. */
typedef struct source {
    int64_t fails_at; /* -1: never */
    tdn_dtype dtype;
    int64_t n;
    int n_calls;
    float x[2 * N];
    tdn_tensor tensor;
} source;

static tdn_status next(void *user, int64_t batch, const tdn_tensor **inputs, tdn_error *error)
{
    source *s = user;
    s->n_calls++;
    if (batch == s->fails_at)
        return tdn_fail(error, TDN_E_CHECK, "the caller's own words");
    for (int i = 0; i < N; i++)
        s->x[i] = (float)(batch + 1) * (float)(i + 1) * (i % 2 ? -1 : 1);
    s->tensor = tdn_tensor_make(s->x, s->dtype, 1, &s->n);
    *inputs = &s->tensor;
    return TDN_OK;
}

static tdn_calibrate_options options_of(source *s)
{
    tdn_calibrate_options o = TDN_CALIBRATE_OPTIONS_INIT;
    *s = (source){.fails_at = -1, .dtype = TDN_F32, .n = N};
    o.method = TDN_CALIBRATION_MINMAX;
    o.n_batches = 3;
    o.n_threads = 1;
    o.next = next;
    o.next_user = s;
    return o;
}

static void ranges_by_name_and_by_index(void **state)
{
    (void)state;
    pb bytes;
    source s;
    tdn_model *model = make_model(&bytes);
    tdn_calibrate_options o = options_of(&s);
    tdn_calibration *c;
    tdn_calibration_range r = {.struct_size = sizeof r};
    assert_int_equal(tdn_calibrate(&c, model, &o, NULL), TDN_OK);
    assert_int_equal(s.n_calls, 2 * o.n_batches);
    assert_int_equal(tdn_calibration_n_ranges(c), 3);
    assert_int_equal(tdn_calibration_range_at(c, 0, &r), TDN_OK);
    assert_string_equal(r.name, "x");
    assert_true(r.min == -12 && r.max == 9 && !r.is_unsigned && r.clipped == 0);
    assert_int_equal(tdn_calibration_find(c, "r", &r), TDN_OK);
    assert_true(r.min == 0 && r.max == 9 && r.is_unsigned);
    assert_true(r.amax == 127 * (double)(9.0f / 127));
    assert_int_equal(tdn_calibration_find(c, "z", &r), TDN_E_ARG);
    assert_int_equal(tdn_calibration_find(c, "", &r), TDN_E_ARG);
    assert_int_equal(tdn_calibration_find(NULL, "x", &r), TDN_E_ARG);
    assert_int_equal(tdn_calibration_range_at(c, 3, &r), TDN_E_ARG);
    assert_int_equal(tdn_calibration_range_at(c, -1, &r), TDN_E_ARG);
    assert_int_equal(tdn_calibration_check(c, model, &o, NULL), TDN_OK);
    assert_false(tdn_model_has_scales(model));
    tdn_calibration_free(c);
    tdn_calibration_free(NULL);
    tdn_model_free(model);
    free(bytes.data);
}

/* Each wrong option on its own. */
static void options_that_break_a_rule(void **state)
{
    (void)state;
    pb bytes;
    source s;
    tdn_model *model = make_model(&bytes);
    const char *const words[] = {"TDN_CALIBRATE_OPTIONS_INIT",
                                 "method",
                                 "percentile",
                                 "percentile",
                                 "0 batches",
                                 "next",
                                 "state"};
    static const tdn_state_spec no_state = {"x", "nowhere"};
    for (int i = 0; i < 7; i++) {
        tdn_calibrate_options o = options_of(&s);
        tdn_calibration *c = (tdn_calibration *)&s;
        tdn_error error = {""};
        o.struct_size -= i == 0;
        o.method = i == 1 ? (tdn_calibration_method)7 : o.method;
        o.percentile = i == 2 ? 101 : i == 3 ? NAN : 0;
        o.n_batches = i == 4 ? 0 : 3;
        o.next = i == 5 ? NULL : next;
        o.states = &no_state;
        o.n_states = i == 6;
        assert_int_equal(tdn_calibrate(&c, model, &o, &error), TDN_E_ARG);
        assert_non_null(strstr(error.text, words[i]));
        assert_null(c);
    }
    assert_int_equal(tdn_calibrate(NULL, model, NULL, NULL), TDN_E_ARG);
    tdn_model_free(model);
    free(bytes.data);
}

/* A caller's failure is passed on; tensors that are not the model's are refused. */
static void data_that_fails(void **state)
{
    (void)state;
    pb bytes;
    source s;
    tdn_model *model = make_model(&bytes);
    tdn_calibrate_options o = options_of(&s);
    tdn_calibration *c;
    tdn_error error;
    s.fails_at = 1;
    assert_int_equal(tdn_calibrate(&c, model, &o, &error), TDN_E_CHECK);
    assert_string_equal(error.text, "the caller's own words");
    assert_null(c);
    options_of(&s);
    s.dtype = TDN_S32;
    assert_int_equal(tdn_calibrate(&c, model, &o, &error), TDN_E_ARG);
    assert_non_null(strstr(error.text, "x"));
    options_of(&s);
    s.n = 2 * N;
    assert_int_equal(tdn_calibrate(&c, model, &o, &error), TDN_E_SHAPE);
    tdn_model_free(model);
    free(bytes.data);
}

/* Strided in any way, the same numbers are the same. */
static void views_of_every_layout(void **state)
{
    (void)state;
    float x[2 * 3 * 5];
    uint64_t bins[2][TDN_OBSERVED_BINS] = {{0}};
    tdn_observed seen[2] = {{.name = "a"}, {.name = "b"}};
    tdn_view views[2];
    for (int i = 0; i < 30; i++)
        x[i] = (float)((i * 7) % 30) - 12;
    x[4] = NAN;
    x[11] = INFINITY;
    views[0] = tdn_view_make(x, TDN_F32, 3, (int64_t[]){2, 3, 5});
    views[1] = (tdn_view){x, TDN_F32, 3, {5, 2, 3}, {1, 15, 5}};
    for (int k = 0; k < 2; k++) {
        tdn_observe_range(&seen[k], &views[k]);
        seen[k].bins = bins[k];
        tdn_observe_bins(&seen[k], &views[k]);
        assert_int_equal(seen[k].n, 28);
        assert_int_equal(seen[k].n_odd, 2);
        assert_int_equal(seen[k].n_binned, 28);
    }
    assert_true(seen[0].min == seen[1].min && seen[0].max == seen[1].max);
    assert_memory_equal(bins[0], bins[1], sizeof bins[0]);
    assert_int_equal(bins[0][TDN_OBSERVED_BINS - 1], 1); /* the largest */
}

/* Ranges at the ends of float32 stay ones that a file can hold. */
static void extreme_ranges(void **state)
{
    (void)state;
    static const double amax[] = {0, 1e-300, 1e-45, FLT_MIN, 1, FLT_MAX, 1e39, 1e300};
    for (size_t i = 0; i < sizeof amax / sizeof *amax; i++) {
        const float scale = tdn_calibration_scale(amax[i]);
        assert_true(scale > 0 && scale <= FLT_MAX);
        const double rounded = tdn_calibration_round(amax[i]);
        assert_true(rounded > 0 && tdn_calibration_scale(rounded) == scale);
    }
    uint64_t bins[TDN_OBSERVED_BINS] = {0};
    float tiny[3] = {1e-45f, -1e-45f, 0}, huge[3] = {FLT_MAX, -FLT_MAX, 1};
    for (int k = 0; k < 2; k++) {
        tdn_observed o = {.name = "x"};
        const int64_t n = 3;
        const tdn_view view = tdn_view_make(k ? huge : tiny, TDN_F32, 1, &n);
        memset(bins, 0, sizeof bins);
        tdn_observe_range(&o, &view);
        o.bins = bins;
        tdn_observe_bins(&o, &view);
        for (int m = 0; m < 3; m++) {
            const double found = tdn_threshold(&o, (tdn_calibration_method)m, 99.99);
            assert_true(found > 0 && found <= tdn_observed_largest(&o));
            assert_true(tdn_threshold_clipped(&o, found) == 0);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_by_name_and_by_index),
        cmocka_unit_test(options_that_break_a_rule),
        cmocka_unit_test(data_that_fails),
        cmocka_unit_test(views_of_every_layout),
        cmocka_unit_test(extreme_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
