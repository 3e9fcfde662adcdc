/* SPDX-License-Identifier: Apache-2.0 */
/*
 * src/base but for the pool: sizes, arenas under failing allocators, half types against arithmetic
 * in double, views, expressions (with hostile bytes), hashes against published vectors, and files
 * that are whole or as they were.
 */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/attr.h"
#include "base/expr.h"
#include "base/file.h"
#include "base/half.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/reader.h"
#include "base/view.h"

/* xorshift64*: the same numbers on every machine. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1du;
}

/* ---- Status ---------------------------------------------------------------------------------- */

static void names_of_statuses_and_dtypes(void **state)
{
    (void)state;
    assert_string_equal(tdn_version(), "0.1.0");
    assert_string_equal(tdn_status_name(TDN_E_SHAPE), "TDN_E_SHAPE");
    assert_string_equal(tdn_status_name(TDN_E_INTERNAL), "TDN_E_INTERNAL");
    assert_string_equal(tdn_status_name((tdn_status)-12), "TDN_E_?");
    assert_string_equal(tdn_status_name((tdn_status)1), "TDN_E_?");
    assert_string_equal(tdn_dtype_name(TDN_BF16), "bfloat16");
    assert_string_equal(tdn_dtype_name((tdn_dtype)99), "unknown");
    assert_string_equal(tdn_dtype_name((tdn_dtype)-1), "unknown");
}

static void dtype_sizes(void **state)
{
    (void)state;
    assert_int_equal(tdn_dtype_size(TDN_F64, 3), 24);
    assert_int_equal(tdn_dtype_size(TDN_BOOL, 3), 3);
    assert_int_equal(tdn_dtype_size(TDN_U4, 3), 2);
    assert_int_equal(tdn_dtype_size(TDN_S4, SIZE_MAX), SIZE_MAX / 2 + 1);
    assert_int_equal(tdn_dtype_size(TDN_STRING, 3), 0);
    assert_int_equal(tdn_dtype_size((tdn_dtype)77, 3), 0);
    assert_true(tdn_dtype_size(TDN_F32, SIZE_MAX / 2) == SIZE_MAX);
}

static void error_text_is_cause_first(void **state)
{
    (void)state;
    tdn_error error;
    assert_int_equal(tdn_fail(&error, TDN_E_MODEL, "axis %d outside rank %d", 5, 2), TDN_E_MODEL);
    assert_int_equal(tdn_fail_while(&error, TDN_E_MODEL, "importing '%s'", "probs"), TDN_E_MODEL);
    assert_string_equal(error.text, "axis 5 outside rank 2; while importing 'probs'");
    assert_int_equal(tdn_fail(NULL, TDN_E_IO, "nobody reads this"), TDN_E_IO);
    assert_int_equal(tdn_fail_nomem(&error, "a graph"), TDN_E_NOMEM);
    assert_string_equal(error.text, "out of memory for a graph");
}

static void long_error_text_is_cut(void **state)
{
    (void)state;
    tdn_error error;
    tdn_fail(&error, TDN_E_MODEL, "cause");
    for (int i = 0; i < 300; i++)
        tdn_fail_while(&error, TDN_E_MODEL, "number %d of many circumstances", i);
    assert_non_null(memchr(error.text, 0, sizeof error.text));
    assert_memory_equal(error.text, "cause; while number 0 of", 24);
    assert_in_range(strlen(error.text), sizeof error.text - 64, sizeof error.text - 1);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static void sizes_are_checked(void **state)
{
    (void)state;
    size_t size = 7;
    assert_false(tdn_size_mul(SIZE_MAX / 2, 3, &size));
    assert_false(tdn_size_add(SIZE_MAX, 1, &size));
    assert_int_equal(size, 7);
    assert_true(tdn_size_mul(SIZE_MAX, 1, &size));
    assert_true(size == SIZE_MAX);
    assert_true(tdn_size_add(SIZE_MAX - 1, 1, &size));
    int64_t count = 7;
    assert_false(tdn_dims_count((int64_t[]){INT64_MAX, 2}, 2, &count));
    assert_false(tdn_dims_count((int64_t[]){3, -1}, 2, &count));
    assert_false(tdn_dims_count((int64_t[]){0, -1}, 2, &count));
    assert_int_equal(count, 7);
    assert_true(tdn_dims_count((int64_t[]){INT64_MAX, INT64_MAX, 0}, 3, &count));
    assert_int_equal(count, 0);
    assert_true(tdn_dims_count(NULL, 0, &count));
    assert_int_equal(count, 1);
}

/* An allocator that fails its Nth call and counts what is out. */
typedef struct failing {
    int fail_at, n_calls, n_out;
} failing;

static void *failing_alloc(void *user, size_t size, size_t align)
{
    failing *f = user;
    if (f->n_calls++ == f->fail_at)
        return NULL;
    f->n_out++;
    return tdn_allocator_libc.alloc(NULL, size, align);
}

static void failing_free(void *user, void *memory)
{
    failing *f = user;
    f->n_out -= memory != NULL;
    tdn_allocator_libc.free(NULL, memory);
}

static bool is_zero(const uint8_t *bytes, size_t size)
{
    return size == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0);
}

/* Fills an arena with all kinds of allocations, checking each; false when one failed. */
static bool fill_arena(tdn_arena *arena)
{
    static const size_t sizes[] = {1, 100, 5000, 20000, 16, 0, 300000, 3, 1200000, 64};
    for (int round = 0; round < 6; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            uint8_t *a = tdn_arena_alloc(arena, sizes[i], 1);
            uint8_t *b = a ? tdn_arena_alloc_data(arena, sizes[i]) : NULL;
            if (!b)
                return false;
            assert_int_equal((uintptr_t)a % 16, 0);
            assert_int_equal((uintptr_t)b % TDN_ALIGN, 0);
            assert_true(is_zero(a, sizes[i]) && is_zero(b, sizes[i]));
            memset(a, 0xff, sizes[i]);
            memset(b, 0xff, sizes[i]);
        }
        const char *text = tdn_arena_printf(arena, "round %d of %s", round, "many");
        if (!text)
            return false;
        assert_memory_equal(text, "round ", 6);
    }
    return true;
}

static void arena_survives_each_failing_allocation(void **state)
{
    (void)state;
    bool done = false;
    int fail_at = 0;
    for (; !done; fail_at++) {
        failing f = {.fail_at = fail_at};
        const tdn_allocator allocator = {failing_alloc, failing_free, &f};
        tdn_arena *arena = tdn_arena_create(&allocator);
        done = arena && fill_arena(arena);
        assert_true(done || f.n_calls > fail_at);
        tdn_arena_free(arena);
        assert_int_equal(f.n_out, 0);
    }
    assert_in_range(fail_at, 10, 300);
}

static void arena_refuses_absurd_sizes(void **state)
{
    (void)state;
    tdn_arena *arena = tdn_arena_create(NULL);
    assert_non_null(arena);
    assert_null(tdn_arena_alloc(arena, SIZE_MAX / 2, 3));
    assert_null(tdn_arena_alloc(arena, SIZE_MAX, 1));
    assert_null(tdn_arena_alloc_data(arena, SIZE_MAX - 10));
    assert_null(tdn_arena_strndup(arena, "x", SIZE_MAX));
    assert_string_equal(tdn_arena_strndup(arena, "abcdef", 3), "abc");
    assert_string_equal(tdn_arena_strdup(arena, ""), "");
    tdn_arena_free(arena);
    tdn_arena_free(NULL);
    assert_null(tdn_alloc(NULL, SIZE_MAX, 64));
    void *nothing = tdn_alloc(NULL, 0, 64);
    assert_non_null(nothing);
    tdn_free(NULL, nothing);
    tdn_free(NULL, NULL);
}

static void reader_stays_inside(void **state)
{
    (void)state;
    const uint8_t bytes[11] = {1, 0, 0, 0, 2};
    tdn_reader r = {bytes, bytes + sizeof bytes};
    uint32_t u32 = 0;
    uint64_t u64 = 9;
    assert_true(tdn_reader_u32(&r, &u32));
    assert_int_equal(u32, 1);
    assert_false(tdn_reader_u64(&r, &u64));
    assert_int_equal(u64, 9);
    assert_int_equal(tdn_reader_left(&r), 7);
    assert_null(tdn_reader_take(&r, 8));
    assert_null(tdn_reader_take(&r, SIZE_MAX));
    assert_ptr_equal(tdn_reader_take(&r, 7), bytes + 4);
    assert_non_null(tdn_reader_take(&r, 0));
}

/* ---- Half types ------------------------------------------------------------------------------ */

/* What the bits of a binary16 mean, in double arithmetic. */
static double meaning_of_f16(uint16_t h)
{
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double sign = h >> 15 ? -1 : 1;
    if (exponent == 31)
        return fraction ? (double)NAN : sign * (double)INFINITY;
    return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

static void f16_all_values(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 65536; i++) {
        const uint16_t h = (uint16_t)i;
        const float f = tdn_f16_to_f32(h);
        const double meaning = meaning_of_f16(h);
        const uint16_t back = tdn_f32_to_f16(f);
        if (isnan(meaning)) {
            assert_true(isnan(f));
            assert_int_equal(back, h | 0x200); /* quiet, payload kept */
        } else {
            assert_true((double)f == meaning && !signbit(f) == !signbit(meaning));
            assert_int_equal(back, h);
        }
    }
}

/* Between each two neighbours: below, at and above the middle. */
static void f16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 0x7c00; i++) {
        const double low = meaning_of_f16((uint16_t)i);
        const double high = i == 0x7bff
                                ? 65536.0
                                : meaning_of_f16((uint16_t)(i + 1)); /* infinity stands for 2^16 */
        const float middle = (float)((low + high) / 2);
        const unsigned even = i % 2 ? i + 1 : i;
        assert_int_equal(tdn_f32_to_f16(middle), even);
        assert_int_equal(tdn_f32_to_f16(-middle), even | 0x8000);
        assert_int_equal(tdn_f32_to_f16(nextafterf(middle, 0)), i);
        assert_int_equal(tdn_f32_to_f16(nextafterf(middle, INFINITY)), i + 1);
    }
    assert_int_equal(tdn_f32_to_f16(3e38f), 0x7c00);
    assert_int_equal(tdn_f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(tdn_f32_to_f16(1e-40f), 0);
}

static void bf16_rounds_to_nearest_even(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 65536; i++) {
        const float f = tdn_bf16_to_f32((uint16_t)i);
        assert_int_equal(tdn_f32_to_bf16(f), isnan(f) ? i | 0x40 : i);
    }
    for (unsigned i = 0; i < 0x7f80; i++) {
        const uint32_t low_bits = i << 16, middle_bits = low_bits | 0x8000;
        float middle;
        memcpy(&middle, &middle_bits, 4);
        assert_int_equal(tdn_f32_to_bf16(middle), i + (i & 1));
        assert_int_equal(tdn_f32_to_bf16(nextafterf(middle, 0)), i);
        assert_int_equal(tdn_f32_to_bf16(nextafterf(middle, INFINITY)), i + 1);
    }
}

/* ---- Views ----------------------------------------------------------------------------------- */

static void views_make_and_broadcast(void **state)
{
    (void)state;
    float data[12];
    const tdn_view v = tdn_view_make(data, TDN_F32, 3, (int64_t[]){2, 1, 6});
    assert_int_equal(tdn_view_count(&v), 12);
    assert_true(tdn_view_is_dense(&v));
    assert_int_equal(v.strides[0], 6);
    assert_int_equal(tdn_view_offset(&v, 7), 7);
    tdn_view wide;
    assert_true(tdn_view_broadcast(&v, 4, (int64_t[]){5, 2, 3, 6}, &wide));
    const int64_t strides[4] = {0, 6, 0, 1};
    assert_memory_equal(wide.strides, strides, sizeof strides);
    assert_int_equal(tdn_view_offset(&wide, 36 + 6 * 3 + 2), 6 + 2);
    assert_false(tdn_view_is_dense(&wide));
    assert_false(tdn_view_broadcast(&v, 3, (int64_t[]){2, 3, 5}, &wide));
    assert_false(tdn_view_broadcast(&v, 2, (int64_t[]){1, 6}, &wide));
    assert_false(tdn_view_broadcast(&v, TDN_MAX_RANK + 1, (int64_t[TDN_MAX_RANK + 1]){0}, &wide));
    const tdn_view scalar = tdn_view_make(data, TDN_F32, 0, NULL);
    assert_int_equal(tdn_view_count(&scalar), 1);
    assert_true(tdn_view_broadcast(&scalar, 2, (int64_t[]){3, 0}, &wide));
    assert_int_equal(tdn_view_count(&wide), 0);
    assert_true(tdn_view_same_dims(&v, &v));
    assert_false(tdn_view_same_dims(&v, &wide));
}

static void walks_visit_each_element_once(void **state)
{
    (void)state;
    const tdn_view v = tdn_view_make(NULL, TDN_F32, 3, (int64_t[]){2, 3, 4});
    int64_t n = 0;
    for (tdn_walk w = tdn_walk_begin(3, v.dims); w.more; tdn_walk_next(&w))
        assert_int_equal(tdn_walk_offset(&w, &v), n++);
    assert_int_equal(n, 24);
    n = 0;
    for (tdn_walk w = tdn_walk_begin(0, NULL); w.more; tdn_walk_next(&w))
        n++;
    assert_int_equal(n, 1);
    for (tdn_walk w = tdn_walk_begin(2, (int64_t[]){3, 0}); w.more; tdn_walk_next(&w))
        fail();
}

/* Writes x and reads it back, in both ways. */
typedef struct conversion {
    tdn_dtype dtype;
    double in, out;
} conversion;

static void elements_convert(void **state)
{
    (void)state;
    static const conversion rows[] = {
        {TDN_F32, 0.1, 0.1f},
        {TDN_F64, 0.1, 0.1},
        {TDN_F16, 65519, 65504},
        {TDN_F16, 65520, INFINITY},
        {TDN_BF16, 1.00390625, 1},
        {TDN_S8, 127.6, 127},
        {TDN_S8, -1e30, -128},
        {TDN_S8, 2.5, 2},
        {TDN_S8, 3.5, 4},
        {TDN_U8, -3, 0},
        {TDN_U8, 255.5, 255},
        {TDN_U8, NAN, 0},
        {TDN_S16, 40000, 32767},
        {TDN_U16, 40000, 40000},
        {TDN_S32, 1e10, 2147483647.0},
        {TDN_U32, 1e10, 4294967295.0},
        {TDN_S64, 0x1p70, 0x1p63},
        {TDN_U64, 0x1p63, 0x1p63},
        {TDN_U64, 0x1p70, 0x1p64},
        {TDN_U64, -5, 0},
        {TDN_BOOL, 0.25, 1},
        {TDN_BOOL, 0, 0},
        {TDN_S4, -9, -8},
        {TDN_S4, 7, 7},
        {TDN_U4, 16, 15},
        /* Just above a tie: rounding to fp32 first would fall on it, and then down to even. */
        {TDN_F16, 1 + 0x1p-11 + 0x1p-40, 1 + 0x1p-10},
        {TDN_BF16, 1 + 0x1p-8 + 0x1p-40, 1 + 0x1p-7},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint64_t data[3] = {0};
        const tdn_view v = tdn_view_make(data, rows[i].dtype, 1, (int64_t[]){3});
        for (int64_t at = 0; at < 3; at++) {
            tdn_view_set(&v, at, rows[i].in);
            if (tdn_view_get(&v, at) != rows[i].out)
                fail_msg("%s: %.17g became %.17g", tdn_dtype_name(v.dtype), rows[i].in,
                         tdn_view_get(&v, at));
        }
    }
}

static void neighbours_in_a_byte_stay(void **state)
{
    (void)state;
    uint8_t data[2] = {0};
    const tdn_view v = tdn_view_make(data, TDN_S4, 1, (int64_t[]){4});
    for (int64_t i = 0; i < 4; i++)
        tdn_view_set_int(&v, i, i - 2);
    tdn_view_set_int(&v, 1, 7);
    assert_int_equal(data[0], 0x7e); /* the first element is the low half */
    assert_int_equal(data[1], 0x10);
    assert_int_equal(tdn_view_get_int(&v, 0), -2);
}

static void wide_integers_are_exact(void **state)
{
    (void)state;
    uint64_t data[2] = {0, UINT64_MAX - 1};
    const tdn_view s = tdn_view_make(data, TDN_S64, 1, (int64_t[]){2});
    tdn_view_set_int(&s, 0, INT64_MAX - 1);
    assert_int_equal(tdn_view_get_int(&s, 0), INT64_MAX - 1);
    const tdn_view u = tdn_view_make(data, TDN_U64, 1, (int64_t[]){2});
    tdn_view_set_int(&u, 0, tdn_view_get_int(&u, 1));
    assert_true(data[0] == UINT64_MAX - 1);
    const tdn_view b = tdn_view_make(data, TDN_BOOL, 1, (int64_t[]){2});
    tdn_view_set_int(&b, 0, 256);
    assert_int_equal(tdn_view_get_int(&b, 0), 1);
}

/* ---- Attributes ------------------------------------------------------------------------------ */

static void attributes_by_name_and_kind(void **state)
{
    (void)state;
    const int64_t pads[2] = {1, 2};
    const tdn_attr items[] = {
        {.name = "axis", .kind = TDN_ATTR_INT, .i = -1},
        {.name = "alpha", .kind = TDN_ATTR_FLOAT, .f = 0.5f},
        {.name = "pads", .kind = TDN_ATTR_INTS, .n = 2, .ints = pads},
        {.name = "mode", .kind = TDN_ATTR_STRING, .n = 4, .s = "edge"},
    };
    const tdn_attrs attrs = {items, 4};
    int n = 9;
    assert_int_equal(tdn_attr_int(&attrs, "axis", 3), -1);
    assert_int_equal(tdn_attr_int(&attrs, "alpha", 3), 3);
    assert_int_equal(tdn_attr_int(NULL, "axis", 3), 3);
    assert_true(tdn_attr_float(&attrs, "alpha", 0) == 0.5f);
    assert_string_equal(tdn_attr_string(&attrs, "mode", "none"), "edge");
    assert_string_equal(tdn_attr_string(&attrs, "axis", "none"), "none");
    assert_ptr_equal(tdn_attr_ints(&attrs, "pads", &n), pads);
    assert_int_equal(n, 2);
    assert_null(tdn_attr_floats(&attrs, "pads", &n));
    assert_int_equal(n, 0);
    assert_null(tdn_attr_find(&attrs, "pad"));
}

/* ---- Expressions ----------------------------------------------------------------------------- */

/* relu(in0 * 2 + in1) to output 0, in0 > in1 to output 1. */
static tdn_expr sample_expr(void)
{
    tdn_expr e = {0};
    const int a = tdn_expr_input(&e, 0), b = tdn_expr_input(&e, 1);
    const int sum = tdn_expr_add(&e, TDN_X_FMA, a, tdn_expr_const(&e, 2), b);
    assert_true(tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_MAX, sum, tdn_expr_const(&e, 0), 0), 0));
    assert_true(tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_GT, a, b, 0), 1));
    return e;
}

static void expressions_evaluate(void **state)
{
    (void)state;
    const tdn_expr e = sample_expr();
    assert_int_equal(tdn_expr_check(&e, tdn_expr_size(&e), NULL), TDN_OK);
    float out[2];
    tdn_expr_eval(&e, (float[]){3, -1}, out);
    assert_true(out[0] == 5 && out[1] == 1);
    tdn_expr_eval(&e, (float[]){-3, -1}, out);
    assert_true(out[0] == 0 && out[1] == 0);
    tdn_expr_eval(&e, (float[]){NAN, 0}, out);
    assert_true(isnan(out[0]) && out[1] == 0);
    char text[200];
    tdn_expr_print(&e, text, sizeof text);
    assert_string_equal(
        text, "t0 = fma(in0, 2, in1); t1 = max(t0, 0); out0 = t1; t2 = gt(in0, in1); out1 = t2");
    char brief[12];
    tdn_expr_print(&e, brief, sizeof brief);
    assert_string_equal(brief, "t0 = fma(in");
}

/* One row an operation: what it gives for a, b, c. */
static void each_operation(void **state)
{
    (void)state;
    static const struct {
        tdn_expr_op op;
        float a, b, c, out;
    } rows[] = {
        {TDN_X_ADD, 1, 2, 0, 3},        {TDN_X_SUB, 1, 2, 0, -1},
        {TDN_X_MUL, 3, 2, 0, 6},        {TDN_X_DIV, 3, 2, 0, 1.5f},
        {TDN_X_MIN, 3, 2, 0, 2},        {TDN_X_MAX, 3, 2, 0, 3},
        {TDN_X_MIN, NAN, 2, 0, NAN},    {TDN_X_MAX, 3, NAN, 0, NAN},
        {TDN_X_POW, 3, 2, 0, 9},        {TDN_X_MOD, -7, 3, 0, -1},
        {TDN_X_FMA, 3, 2, 1, 7},        {TDN_X_SELECT, 0, 2, 1, 1},
        {TDN_X_SELECT, -1, 2, 1, 2},    {TDN_X_EQ, 2, 2, 0, 1},
        {TDN_X_LT, 2, 2, 0, 0},         {TDN_X_LE, 2, 2, 0, 1},
        {TDN_X_GT, 3, 2, 0, 1},         {TDN_X_GE, 1, 2, 0, 0},
        {TDN_X_AND, 3, 0, 0, 0},        {TDN_X_OR, 3, 0, 0, 1},
        {TDN_X_XOR, 3, 2, 0, 0},        {TDN_X_NOT, 3, 0, 0, 0},
        {TDN_X_NEG, 3, 0, 0, -3},       {TDN_X_ABS, -3, 0, 0, 3},
        {TDN_X_SIGN, -3, 0, 0, -1},     {TDN_X_SIGN, NAN, 0, 0, NAN},
        {TDN_X_RECIP, 4, 0, 0, 0.25f},  {TDN_X_SQRT, 9, 0, 0, 3},
        {TDN_X_EXP, 0, 0, 0, 1},        {TDN_X_LOG, 1, 0, 0, 0},
        {TDN_X_TANH, 0, 0, 0, 0},       {TDN_X_SIGMOID, 0, 0, 0, 0.5f},
        {TDN_X_SIGMOID, -200, 0, 0, 0}, {TDN_X_ERF, 0, 0, 0, 0},
        {TDN_X_SIN, 0, 0, 0, 0},        {TDN_X_COS, 0, 0, 0, 1},
        {TDN_X_TAN, 0, 0, 0, 0},        {TDN_X_ASIN, 0, 0, 0, 0},
        {TDN_X_ACOS, 1, 0, 0, 0},       {TDN_X_ATAN, 0, 0, 0, 0},
        {TDN_X_SINH, 0, 0, 0, 0},       {TDN_X_COSH, 0, 0, 0, 1},
        {TDN_X_ASINH, 0, 0, 0, 0},      {TDN_X_ACOSH, 1, 0, 0, 0},
        {TDN_X_ATANH, 0, 0, 0, 0},      {TDN_X_FLOOR, -1.5f, 0, 0, -2},
        {TDN_X_CEIL, -1.5f, 0, 0, -1},  {TDN_X_ROUND, 2.5f, 0, 0, 2},
        {TDN_X_ROUND, 3.5f, 0, 0, 4},   {TDN_X_TRUNC, -1.5f, 0, 0, -1},
        {TDN_X_ISNAN, NAN, 0, 0, 1},    {TDN_X_ISINF, -INFINITY, 0, 0, 1},
    };
    bool seen[TDN_X_COUNT] = {[TDN_X_INPUT] = true, [TDN_X_CONST] = true, [TDN_X_STORE] = true};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        tdn_expr e = {0};
        const int a = tdn_expr_input(&e, 0), b = tdn_expr_input(&e, 1), c = tdn_expr_input(&e, 2);
        assert_true(tdn_expr_store(&e, tdn_expr_add(&e, rows[i].op, a, b, c), 0));
        float out;
        tdn_expr_eval(&e, (float[]){rows[i].a, rows[i].b, rows[i].c}, &out);
        if (!(out == rows[i].out || (isnan(out) && isnan(rows[i].out))))
            fail_msg("%s gave %g", tdn_expr_ops[rows[i].op].name, (double)out);
        seen[rows[i].op] = true;
    }
    for (int op = 0; op < TDN_X_COUNT; op++)
        assert_true(seen[op] && tdn_expr_ops[op].name);
}

static void equal_instructions_are_shared(void **state)
{
    (void)state;
    tdn_expr e = {0};
    const int a = tdn_expr_input(&e, 0);
    const int x = tdn_expr_add(&e, TDN_X_NEG, a, 5, 9); /* unused arguments do not matter */
    assert_int_equal(tdn_expr_add(&e, TDN_X_NEG, a, 0, 0), x);
    assert_int_equal(tdn_expr_input(&e, 0), a);
    assert_true(tdn_expr_const(&e, 0.0f) != tdn_expr_const(&e, -0.0f));
    assert_int_equal(tdn_expr_const(&e, NAN), tdn_expr_const(&e, NAN));
    assert_int_equal(e.n_instr, 5);
    assert_int_equal(tdn_expr_add(&e, TDN_X_ADD, a, -1, 0), -1);
    assert_int_equal(tdn_expr_add(&e, TDN_X_ADD, a, 99, 0), -1);
    assert_int_equal(tdn_expr_input(&e, TDN_EXPR_MAX_IN), -1);
    assert_true(tdn_expr_store(&e, x, 0));
    assert_false(tdn_expr_store(&e, a, 0));
    assert_false(tdn_expr_store(&e, x, TDN_EXPR_MAX_OUT));
}

static void operations_that_change_nothing_are_left_out(void **state)
{
    (void)state;
    tdn_expr e = {0};
    const int x = tdn_expr_input(&e, 0), one = tdn_expr_const(&e, 1), zero = tdn_expr_const(&e, 0);
    const int minus_zero = tdn_expr_const(&e, -0.f);
    assert_int_equal(tdn_expr_add(&e, TDN_X_MUL, x, one, 0), x);
    assert_int_equal(tdn_expr_add(&e, TDN_X_MUL, one, x, 0), x);
    assert_int_equal(tdn_expr_add(&e, TDN_X_DIV, x, one, 0), x);
    assert_int_equal(tdn_expr_add(&e, TDN_X_SUB, x, zero, 0), x);
    assert_int_equal(tdn_expr_add(&e, TDN_X_ADD, x, minus_zero, 0), x);
    assert_int_equal(e.n_instr, 4);
    assert_int_equal(tdn_expr_add(&e, TDN_X_ADD, x, zero, 0), 4); /* of -0 it is 0 */
    assert_int_equal(tdn_expr_add(&e, TDN_X_SUB, x, minus_zero, 0), 5);
    assert_int_equal(tdn_expr_add(&e, TDN_X_DIV, one, x, 0), 6);
    assert_int_equal(tdn_expr_add(&e, TDN_X_SUB, zero, x, 0), 7);
}

static void inlining_joins_expressions(void **state)
{
    (void)state;
    tdn_expr outer = {0};
    const tdn_expr inner = sample_expr();
    const int a = tdn_expr_input(&outer, 4), minus = tdn_expr_add(&outer, TDN_X_NEG, a, 0, 0);
    int results[TDN_EXPR_MAX_OUT];
    assert_true(tdn_expr_inline(&outer, &inner, (int[]){a, minus}, results));
    assert_true(tdn_expr_store(&outer, results[0], 0));
    assert_true(tdn_expr_store(&outer, results[1], 1));
    assert_int_equal(tdn_expr_check(&outer, tdn_expr_size(&outer), NULL), TDN_OK);
    float out[2];
    tdn_expr_eval(&outer, (float[]){0, 0, 0, 0, 3}, out);
    assert_true(out[0] == 3 && out[1] == 1);
}

static void a_full_expression_stays_as_it_was(void **state)
{
    (void)state;
    tdn_expr full = {0};
    int last = tdn_expr_input(&full, 0);
    while (full.n_instr < TDN_EXPR_MAX - 2)
        last = tdn_expr_add(&full, TDN_X_EXP, last, 0, 0);
    const tdn_expr before = full, inner = sample_expr();
    int results[TDN_EXPR_MAX_OUT];
    assert_false(tdn_expr_inline(&full, &inner, (int[]){last, last}, results));
    assert_memory_equal(&full, &before, sizeof full);
    assert_true(tdn_expr_const(&full, 1) >= 0);
    assert_true(tdn_expr_store(&full, last, 0));
    assert_int_equal(tdn_expr_const(&full, 2), -1);
    assert_int_equal(tdn_expr_check(&full, sizeof full, NULL), TDN_OK);
}

/* Whatever the check lets through must evaluate and print without a wrong access (sanitizers
 * watch), and must be rejected when cut. */
static void hostile_expressions_are_refused_or_harmless(void **state)
{
    (void)state;
    uint64_t seed = 20240917;
    int n_good = 0, n_bad = 0;
    for (int i = 0; i < 200000; i++) {
        tdn_expr e = sample_expr();
        const size_t size = tdn_expr_size(&e);
        const int n_flips = (int)(next_random(&seed) % 4);
        for (int k = 0; k < n_flips; k++)
            ((uint8_t *)&e)[next_random(&seed) % size] ^= (uint8_t)(1u << next_random(&seed) % 8);
        uint8_t *exact = malloc(size);
        assert_non_null(exact);
        memcpy(exact, &e, size);
        tdn_error error = {{0}};
        const tdn_status status = tdn_expr_check(exact, size, &error);
        if (status == TDN_OK) {
            const float in[TDN_EXPR_MAX_IN] = {1, 2};
            float out[TDN_EXPR_MAX_OUT];
            char text[64];
            tdn_expr_eval(&e, in, out);
            tdn_expr_print(&e, text, sizeof text);
            assert_int_equal(tdn_expr_check(exact, tdn_expr_size(&e) - 1, NULL), TDN_E_FORMAT);
            n_good++;
        } else {
            assert_int_equal(status, TDN_E_FORMAT);
            assert_true(error.text[0] != 0);
            n_bad++;
        }
        free(exact);
    }
    assert_true(n_good > 1000 && n_bad > 1000);
    assert_int_equal(tdn_expr_check(&seed, 0, NULL), TDN_E_FORMAT);
}

/* ---- Hashes ---------------------------------------------------------------------------------- */

static void sha256_vectors(void **state)
{
    (void)state;
    static const struct {
        const char *piece;
        int n_pieces;
        const char *digest;
    } rows[] = {
        {"", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
         "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
        {"aaaaaaaaaa", 100000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        tdn_sha256 s;
        uint8_t digest[32];
        char text[65];
        tdn_sha256_begin(&s);
        for (int k = 0; k < rows[i].n_pieces; k++)
            tdn_sha256_add(&s, rows[i].piece, strlen(rows[i].piece));
        tdn_sha256_end(&s, digest);
        for (int k = 0; k < 32; k++)
            snprintf(text + 2 * k, 3, "%02x", digest[k]);
        assert_string_equal(text, rows[i].digest);
    }
}

/* Long blocks may take another way (the CPU's instructions) than short pieces. */
static void sha256_of_long_blocks(void **state)
{
    (void)state;
    static uint8_t bytes[1000];
    uint64_t seed = 3;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)next_random(&seed);
    for (size_t size = 300; size <= sizeof bytes; size += 7) {
        tdn_sha256 whole, pieces;
        uint8_t digest[2][32];
        tdn_sha256_begin(&whole);
        tdn_sha256_add(&whole, bytes, size);
        tdn_sha256_end(&whole, digest[0]);
        tdn_sha256_begin(&pieces);
        for (size_t at = 0; at < size; at++)
            tdn_sha256_add(&pieces, bytes + at, 1);
        tdn_sha256_end(&pieces, digest[1]);
        assert_memory_equal(digest[0], digest[1], 32);
    }
}

/* RFC 3720, B.4; and long blocks, which take another way, against the same bytes
 * in short pieces. */
static void crc32c_vectors(void **state)
{
    (void)state;
    uint8_t bytes[5000] = {0};
    assert_int_equal(tdn_crc32c(0, bytes, 32), 0x8a9136aa);
    memset(bytes, 0xff, 32);
    assert_int_equal(tdn_crc32c(0, bytes, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(tdn_crc32c(0, bytes, 32), 0x46dd794e);
    assert_int_equal(tdn_crc32c(0, "123456789", 9), 0xe3069283);
    uint64_t seed = 7;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)next_random(&seed);
    for (size_t size = 500; size < 540; size++) {
        uint32_t pieces = 0;
        for (size_t at = 0; at < size; at++)
            pieces = tdn_crc32c(pieces, bytes + at + 3, 1);
        assert_int_equal(tdn_crc32c(0, bytes + 3, size), pieces);
    }
}

/* ---- Files ----------------------------------------------------------------------------------- */

static char folder[] = "/tmp/tendon-test-XXXXXX";

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static int n_entries(void)
{
    DIR *dir = opendir(".");
    int n = -2; /* . and .. */
    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink("file");
    unlink("empty");
    unlink("link");
    return chdir("/") == 0 && rmdir(folder) == 0 ? 0 : -1;
}

static void assert_file(const char *path, const char *text)
{
    tdn_map map;
    assert_int_equal(tdn_map_open(&map, path, NULL), TDN_OK);
    assert_int_equal(map.size, strlen(text));
    if (map.size > 0)
        assert_memory_equal(map.data, text, map.size);
    tdn_map_close(&map);
    assert_int_equal(map.size, 0);
}

static void files_are_written_and_mapped(void **state)
{
    (void)state;
    assert_int_equal(tdn_file_write("file", "old", 3, NULL), TDN_OK);
    assert_file("file", "old");
    assert_int_equal(tdn_file_write("file", "newer", 5, NULL), TDN_OK);
    assert_file("file", "newer");
    assert_int_equal(tdn_file_write("empty", "", 0, NULL), TDN_OK);
    assert_file("empty", "");
    assert_int_equal(symlink("file", "link"), 0);
    assert_int_equal(tdn_file_write("link", "through", 7, NULL), TDN_OK);
    assert_file("file", "through");
    assert_int_equal(n_entries(), 3);
}

static void an_open_map_keeps_the_old_bytes(void **state)
{
    (void)state;
    tdn_map map;
    assert_int_equal(tdn_file_write("file", "old", 3, NULL), TDN_OK);
    assert_int_equal(tdn_map_open(&map, "file", NULL), TDN_OK);
    assert_int_equal(tdn_file_write("file", "new", 3, NULL), TDN_OK);
    assert_memory_equal(map.data, "old", 3);
    tdn_map_close(&map);
    assert_file("file", "new");
}

static void a_failed_write_leaves_the_old_file(void **state)
{
    (void)state;
    static const char large[100000];
    tdn_error error;
    assert_int_equal(tdn_file_write("file", "old", 3, NULL), TDN_OK);
    const int before = n_entries();
    struct rlimit limit, small;
    getrlimit(RLIMIT_FSIZE, &limit);
    small = limit;
    small.rlim_cur = 50000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    const tdn_status status = tdn_file_write("file", large, sizeof large, &error);
    setrlimit(RLIMIT_FSIZE, &limit);
    assert_int_equal(status, TDN_E_IO);
    assert_string_equal(error.text, "cannot write 'file': File too large");
    assert_file("file", "old");
    assert_int_equal(n_entries(), before);
}

static void failures_say_path_and_reason(void **state)
{
    (void)state;
    tdn_error error;
    tdn_map map;
    assert_int_equal(tdn_map_open(&map, "absent", &error), TDN_E_IO);
    assert_string_equal(error.text, "cannot open 'absent': No such file or directory");
    assert_int_equal(tdn_map_open(&map, ".", &error), TDN_E_IO);
    assert_string_equal(error.text, "cannot read '.': it is not a regular file");
    assert_int_equal(tdn_file_write("absent/file", "x", 1, &error), TDN_E_IO);
    assert_int_equal(tdn_file_write(".", "x", 1, &error), TDN_E_IO);
    assert_string_equal(error.text, "cannot write '.': Is a directory");
    assert_int_equal(tdn_file_write("/dev/null", "x", 1, &error), TDN_OK);
    struct stat info;
    assert_int_equal(stat("/dev/null", &info), 0);
    assert_true(S_ISCHR(info.st_mode));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_statuses_and_dtypes),
        cmocka_unit_test(dtype_sizes),
        cmocka_unit_test(error_text_is_cause_first),
        cmocka_unit_test(long_error_text_is_cut),
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(arena_survives_each_failing_allocation),
        cmocka_unit_test(arena_refuses_absurd_sizes),
        cmocka_unit_test(reader_stays_inside),
        cmocka_unit_test(f16_all_values),
        cmocka_unit_test(f16_rounds_to_nearest_even),
        cmocka_unit_test(bf16_rounds_to_nearest_even),
        cmocka_unit_test(views_make_and_broadcast),
        cmocka_unit_test(walks_visit_each_element_once),
        cmocka_unit_test(elements_convert),
        cmocka_unit_test(neighbours_in_a_byte_stay),
        cmocka_unit_test(wide_integers_are_exact),
        cmocka_unit_test(attributes_by_name_and_kind),
        cmocka_unit_test(expressions_evaluate),
        cmocka_unit_test(each_operation),
        cmocka_unit_test(equal_instructions_are_shared),
        cmocka_unit_test(operations_that_change_nothing_are_left_out),
        cmocka_unit_test(inlining_joins_expressions),
        cmocka_unit_test(a_full_expression_stays_as_it_was),
        cmocka_unit_test(hostile_expressions_are_refused_or_harmless),
        cmocka_unit_test(sha256_vectors),
        cmocka_unit_test(sha256_of_long_blocks),
        cmocka_unit_test(crc32c_vectors),
        cmocka_unit_test(files_are_written_and_mapped),
        cmocka_unit_test(an_open_map_keeps_the_old_bytes),
        cmocka_unit_test(a_failed_write_leaves_the_old_file),
        cmocka_unit_test(failures_say_path_and_reason),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
