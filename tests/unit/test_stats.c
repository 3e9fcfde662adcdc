/* SPDX-License-Identifier: Apache-2.0 */
/* Percentiles by trtexec's rule, and when two tensors are near enough. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/difference.h"
#include "cli/stats.h"

static void percentiles(void **state)
{
    (void)state;
    double ten[] = {7, 1, 10, 3, 5, 9, 2, 8, 4, 6}, three[] = {3, 1, 2}, one[] = {5};
    tdn_latency l = tdn_latency_of(ten, 10);
    assert_true(l.min == 1 && l.max == 10 && l.mean == 5.5 && l.median == 5.5);
    assert_true(fabs(l.deviation - sqrt(8.25)) < 1e-12);
    /* Number 10 - 1 - floor(0.5 * 10) = 4 of 0..9, and so on. */
    assert_true(tdn_latency_percentile(&l, 50) == 5);
    assert_true(tdn_latency_percentile(&l, 75) == 8);
    assert_true(tdn_latency_percentile(&l, 99.9) == 10);
    assert_true(tdn_latency_percentile(&l, 100) == 10);
    assert_true(tdn_latency_percentile(&l, 0) == 1);
    assert_true(tdn_latency_of(three, 3).median == 2);
    l = tdn_latency_of(one, 1);
    assert_true(tdn_latency_percentile(&l, 1) == 5 && l.median == 5 && l.deviation == 0);
    l = tdn_latency_of(one, 0);
    assert_true(tdn_latency_percentile(&l, 50) == 0 && l.mean == 0);
}

static tdn_difference compare(const float *a, const float *b, int64_t n)
{
    tdn_difference d = {0};
    tdn_view va = tdn_view_make((void *)(uintptr_t)a, TDN_F32, 1, &n), vb = va;
    vb.data = (void *)(uintptr_t)b;
    tdn_difference_add(&d, &va, &vb, (tdn_tolerance){0.01, 0.1});
    return d;
}

static void near_enough(void **state)
{
    (void)state;
    const float a[] = {1, 2, -3, 0.005f, 100}, b[] = {1, 2.2f, -3, 0, 109};
    tdn_difference d = compare(a, b, 5);
    assert_int_equal(d.n_outside, 0);
    assert_true(d.max == 9 && fabs(tdn_difference_mean(&d) - (0.2 + 0.005 + 9) / 5) < 1e-6);
    /* Nearest to its limit: 0.005 of 0.01 allowed, while 9 of 10.91 and 0.2 of 0.23 are farther
     * away. */
    assert_int_equal(d.worst, 3);
    const float c[] = {1, 2, -3, 0.012f, 100};
    d = compare(c, b, 5);
    assert_int_equal(d.n_outside, 1);
    assert_true(d.worst == 3 && d.worst_a == (double)c[3] && d.worst_b == 0);
    d = compare(a, a, 5);
    assert_true(d.max == 0 && isinf(tdn_difference_sqnr(&d)) &&
                fabs(tdn_difference_cosine(&d) - 1) < 1e-15);
}

static void sqnr_and_cosine(void **state)
{
    (void)state;
    const float b[] = {10, 0}, a[] = {10, 1}, zero[] = {0, 0};
    tdn_difference d = compare(a, b, 2);
    assert_true(fabs(tdn_difference_sqnr(&d) - 20) < 1e-12);
    assert_true(fabs(tdn_difference_cosine(&d) - 10 / sqrt(101)) < 1e-12);
    d = compare(zero, b, 2);
    assert_true(tdn_difference_cosine(&d) == 0);
    d = compare(zero, zero, 2);
    assert_true(tdn_difference_cosine(&d) == 1);
}

static void what_is_not_finite(void **state)
{
    (void)state;
    const float i = INFINITY, n = NAN;
    const struct {
        float a, b;
        bool equal;
    } rows[] = {{i, i, true},  {-i, -i, true}, {n, n, true},  {i, -i, false}, {1, i, false},
                {i, 1, false}, {n, 1, false},  {1, n, false}, {n, i, false},  {i, n, false}};
    for (size_t k = 0; k < sizeof rows / sizeof rows[0]; k++) {
        tdn_difference d = compare(&rows[k].a, &rows[k].b, 1);
        assert_int_equal(d.n_outside, !rows[k].equal);
        assert_true(d.max == (rows[k].equal ? 0 : INFINITY));
    }
}

static void integers_are_exact(void **state)
{
    (void)state;
    int64_t n = 2, a[] = {INT64_MAX, 5}, b[] = {INT64_MAX - 1, 5};
    tdn_view va = tdn_view_make(a, TDN_S64, 1, &n), vb = tdn_view_make(b, TDN_S64, 1, &n);
    tdn_difference d = {0};
    tdn_difference_add(&d, &va, &vb, (tdn_tolerance){0, 0});
    assert_true(d.n_outside == 1 && d.max == 1 && d.worst == 0);
}

static void strides_and_types(void **state)
{
    (void)state;
    /* a is stored with its axes swapped and a gap; b is dense and of another type. */
    const float a[] = {1, 4, 0, 2, 5, 0, 3, 6, 0};
    int8_t b[] = {1, 2, 3, 4, 5, 7};
    const int64_t dims[] = {2, 3};
    tdn_view va = tdn_view_make((void *)(uintptr_t)a, TDN_F32, 2, dims),
             vb = tdn_view_make(b, TDN_S8, 2, dims);
    va.strides[0] = 1;
    va.strides[1] = 3;
    tdn_difference d = {0};
    tdn_difference_add(&d, &va, &vb, (tdn_tolerance){0, 0});
    assert_true(d.n == 6 && d.n_outside == 1 && d.worst == 5 && d.max == 1);
}

static void argmax(void **state)
{
    (void)state;
    const float x[] = {9, 1, 3, 3, -1, NAN, -2};
    int64_t n = 7;
    tdn_view v = tdn_view_make((void *)(uintptr_t)x, TDN_F32, 1, &n);
    assert_int_equal(tdn_argmax(&v, 1, 3), 1);
    assert_int_equal(tdn_argmax(&v, 4, 3), 0);
    assert_int_equal(tdn_argmax(&v, 5, 2), 1);
    assert_int_equal(tdn_argmax(&v, 0, 0), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(percentiles),
        cmocka_unit_test(near_enough),
        cmocka_unit_test(sqnr_and_cosine),
        cmocka_unit_test(what_is_not_finite),
        cmocka_unit_test(integers_are_exact),
        cmocka_unit_test(strides_and_types),
        cmocka_unit_test(argmax),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
