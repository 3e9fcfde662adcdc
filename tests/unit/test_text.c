/* SPDX-License-Identifier: Apache-2.0 */
/* src/base/text: JSON that stays valid whatever the names hold, layout, numbers, and growth. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/text.h"

static void assert_text(tdn_text *t, const char *want)
{
    char *text = tdn_text_take(t);
    assert_string_equal(text, want);
    tdn_text_free(text);
    assert_null(t->data);
}

static void layout(void **state)
{
    (void)state;
    tdn_text t = {0};
    tdn_json_begin(&t, NULL, '{');
    tdn_json_string(&t, "name", "a");
    tdn_json_begin(&t, "empty", '[');
    tdn_json_end(&t, ']');
    tdn_json_begin(&t, "list", '[');
    tdn_json_int(&t, NULL, INT64_MIN);
    tdn_json_uint(&t, NULL, UINT64_MAX);
    tdn_json_begin(&t, NULL, '{');
    tdn_json_end(&t, '}');
    tdn_json_end(&t, ']');
    tdn_json_dims(&t, "dims", (const int64_t[]){1, -2}, 2);
    tdn_json_dims(&t, "scalar", NULL, 0);
    tdn_json_bool(&t, "yes", true);
    tdn_json_string(&t, "nothing", NULL);
    tdn_json_end(&t, '}');
    assert_text(
        &t, "{\n  \"name\": \"a\",\n  \"empty\": [],\n  \"list\": [\n    -9223372036854775808,\n"
            "    18446744073709551615,\n    {}\n  ],\n  \"dims\": [1, -2],\n  \"scalar\": [],\n"
            "  \"yes\": true,\n  \"nothing\": null\n}\n");
}

static void numbers(void **state)
{
    (void)state;
    tdn_text t = {0};
    tdn_json_double(&t, NULL, 0.1);
    assert_text(&t, "0.1");
    tdn_json_double(&t, NULL, (double)NAN);
    assert_text(&t, "null");
    tdn_json_double(&t, NULL, (double)-INFINITY);
    assert_text(&t, "null");
}

static void escapes(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"plain", "\"plain\""},
        {"a\"b\\c", "\"a\\\"b\\\\c\""},
        {"\n\t\x01\x7f", "\"\\u000a\\u0009\\u0001\\u007f\""},
        {"\xc2\xb5 \xe2\x82\xac \xf0\x9f\x98\x80", "\"\xc2\xb5 \xe2\x82\xac \xf0\x9f\x98\x80\""},
        {"\xff", "\"\\ufffd\""},                                  /* no start of a sequence */
        {"\xc2", "\"\\ufffd\""},                                  /* cut off */
        {"\xe2\x82", "\"\\ufffd\\ufffd\""},                       /* cut off */
        {"\xc0\xaf", "\"\\ufffd\\ufffd\""},                       /* too long a form */
        {"\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\""},            /* half of a surrogate pair */
        {"\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""}, /* beyond Unicode */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        tdn_text t = {0};
        tdn_json_string(&t, NULL, rows[i][0]);
        assert_text(&t, rows[i][1]);
    }
}

static void growth(void **state)
{
    (void)state;
    tdn_text t = {0};
    for (int i = 0; i < 10000; i++)
        tdn_text_put(&t, "%d,", i % 10);
    assert_int_equal(t.n, 20000);
    assert_int_equal(strlen(t.data), 20000);
    assert_memory_equal(t.data + 19996, "8,9,", 5);
    tdn_text_discard(&t);
    assert_text(&t, ""); /* nothing put is an empty text, not none */
}

static void too_deep(void **state)
{
    (void)state;
    tdn_text t = {0};
    for (int i = 0; i < 100; i++)
        tdn_json_begin(&t, NULL, '[');
    assert_null(tdn_text_take(&t));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout), cmocka_unit_test(numbers),  cmocka_unit_test(escapes),
        cmocka_unit_test(growth), cmocka_unit_test(too_deep),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
