/* SPDX-License-Identifier: Apache-2.0 */
/* Precisions by name, and which of them the CPUs of a target multiply. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tendon/build.h"

static void names(void **state)
{
    (void)state;
    assert_string_equal(tdn_precision_name(TDN_PRECISION_FP32), "fp32");
    assert_string_equal(tdn_precision_name(TDN_PRECISION_FP16), "fp16");
    assert_string_equal(tdn_precision_name(TDN_PRECISION_INT8), "int8");
    assert_string_equal(tdn_precision_name(TDN_PRECISION_BF16), "bf16");
    assert_null(tdn_precision_name((tdn_precision)4));
    assert_null(tdn_precision_name((tdn_precision)-1));
}

static void what_targets_multiply(void **state)
{
    static const struct {
        const char *target;
        int by_precision[4]; /* in the order of tdn_precision */
    } rows[] = {
        {"no such target", {0, 0, 0, 0}}, {"", {0, 0, 0, 0}},
        {"x86-64", {1, 0, 1, 0}},         {"x86-64-v3", {1, 0, 1, 0}},
        {"avx512-vnni", {1, 0, 1, 0}},    {"avx512-bf16", {1, 0, 1, 1}},
        {"avx512-fp16", {1, 1, 1, 1}},    {"armv8-a", {1, 0, 1, 0}},
        {"armv8.2-fp16", {1, 1, 1, 0}},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (int p = 0; p < 4; p++)
            if (tdn_target_multiplies(rows[i].target, (tdn_precision)p) != rows[i].by_precision[p])
                fail_msg("%s, %s", rows[i].target, tdn_precision_name((tdn_precision)p));
}

static void what_this_machine_multiplies(void **state)
{
    (void)state;
    for (int p = 0; p < 4; p++)
        assert_int_equal(tdn_target_multiplies(NULL, (tdn_precision)p),
                         tdn_target_multiplies("native", (tdn_precision)p));
    assert_int_equal(tdn_target_multiplies(NULL, TDN_PRECISION_FP32), 1);
    assert_int_equal(tdn_target_multiplies(NULL, (tdn_precision)4), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(what_targets_multiply),
        cmocka_unit_test(what_this_machine_multiplies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
