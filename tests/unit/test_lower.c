/* SPDX-License-Identifier: Apache-2.0 */
/* Lowering: places by arithmetic on strides, and the memory plan. The programs as a whole are
 * tested through the command, against the reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lower/lowering.h"

static tdn_place dense(int rank, const int64_t *dims)
{
    return (tdn_place){.view = tdn_view_make(NULL, TDN_F32, rank, dims)};
}

/* Offset of the row-major element `index` of a place. */
static int64_t at(const tdn_place *p, int64_t index)
{
    return p->offset + tdn_view_offset(&p->view, index);
}

static void test_reshape_keeps_the_order_of_elements(void **state)
{
    (void)state;
    tdn_place p = dense(3, (int64_t[]){4, 6, 5}), q = p;
    assert_true(tdn_place_reshape(&q, 4, (int64_t[]){2, 2, 3, 10}));
    for (int64_t i = 0; i < 120; i++)
        assert_int_equal(at(&q, i), at(&p, i));
}

/* A transposed place reshapes only where the axes that join lie as one. */
static void test_reshape_of_a_transposed_place(void **state)
{
    (void)state;
    tdn_place p = dense(3, (int64_t[]){4, 6, 5});
    tdn_place_permute(&p, (int64_t[]){2, 0, 1});
    tdn_place q = p;
    assert_true(tdn_place_reshape(&q, 2, (int64_t[]){5, 24}));
    for (int64_t i = 0; i < 120; i++)
        assert_int_equal(at(&q, i), at(&p, i));
    q = p;
    assert_false(tdn_place_reshape(&q, 2, (int64_t[]){20, 6}));
    assert_true(tdn_place_reshape(&q, 5, (int64_t[]){5, 1, 2, 2, 6}));
    for (int64_t i = 0; i < 120; i++)
        assert_int_equal(at(&q, i), at(&p, i));
}

static void test_slice_with_negative_step(void **state)
{
    (void)state;
    tdn_place p = dense(2, (int64_t[]){4, 6});
    tdn_place_slice(&p, (int64_t[]){3, 1}, (int64_t[]){-1, 2}, (int64_t[]){4, 3});
    assert_int_equal(at(&p, 0), 19);
    assert_int_equal(at(&p, 4), 15);
    assert_int_equal(at(&p, 11), 5);
}

static void test_broadcast(void **state)
{
    (void)state;
    tdn_place p = dense(2, (int64_t[]){3, 1});
    assert_true(tdn_place_broadcast(&p, 3, (int64_t[]){2, 3, 4}));
    assert_int_equal(at(&p, 0), at(&p, 3));
    assert_int_equal(at(&p, 4), 1);
    assert_int_equal(at(&p, 12), 0);
    p = dense(1, (int64_t[]){3});
    assert_false(tdn_place_broadcast(&p, 2, (int64_t[]){3, 4}));
}

static void test_order_of(void **state)
{
    (void)state;
    tdn_place p = dense(4, (int64_t[]){1, 8, 8, 16});
    tdn_place_permute(&p, (int64_t[]){0, 3, 1, 2}); /* channels-last, seen as NCHW */
    int order[4];
    tdn_order_of(&p, order);
    assert_int_equal(order[3], 1);
    assert_int_equal(order[1], 2);
    assert_int_equal(order[2], 3);
}

/* Storages alive at the same time never overlap, and the plan is no larger than all of them
 * together. */
static void test_memory_plan(void **state)
{
    (void)state;
    enum { N = 200 };
    unsigned seed = 7;
    tdn_storage s[N];
    for (int round = 0; round < 50; round++) {
        size_t total = 0, largest_step = 0, step_size[64] = {0};
        for (int i = 0; i < N; i++) {
            int64_t first = rand_r(&seed) % 60;
            s[i] = (tdn_storage){.cls = TDN_BUFFER_ARENA,
                                 .size = (size_t)(rand_r(&seed) % 5000),
                                 .first = first,
                                 .last = first + rand_r(&seed) % 4};
            total += tdn_round_up(s[i].size, TDN_ALIGN);
            for (int64_t k = s[i].first; k <= s[i].last; k++)
                step_size[k] += tdn_round_up(s[i].size, TDN_ALIGN);
        }
        for (int k = 0; k < 64; k++)
            largest_step = step_size[k] > largest_step ? step_size[k] : largest_step;
        tdn_arena *arena = tdn_arena_create(NULL);
        size_t size = tdn_memory_plan(s, N, arena);
        tdn_arena_free(arena);
        assert_true(size <= total);
        assert_true(size < largest_step * 2);
        for (int i = 0; i < N; i++) {
            assert_int_equal(s[i].offset % TDN_ALIGN, 0);
            assert_true(s[i].offset + s[i].size <= size);
            for (int k = 0; k < i; k++) {
                bool together = s[i].first <= s[k].last && s[k].first <= s[i].last;
                bool apart = s[i].offset + s[i].size <= s[k].offset ||
                             s[k].offset + s[k].size <= s[i].offset;
                assert_true(!together || apart || s[i].size == 0 || s[k].size == 0);
            }
        }
    }
}

static void test_blobs_store_equal_content_once(void **state)
{
    (void)state;
    tdn_arena *arena = tdn_arena_create(NULL);
    tdn_blobs blobs = {.arena = arena};
    const char a[] = "0123456789", b[] = "0123456789", c[] = "0123456788";
    assert_int_equal(tdn_blobs_add(&blobs, a, sizeof a), 0);
    assert_int_equal(tdn_blobs_add(&blobs, c, sizeof c), 1);
    assert_int_equal(tdn_blobs_add(&blobs, b, sizeof b), 0);
    assert_int_equal(tdn_blobs_add(&blobs, b, sizeof b - 1), 2);
    tdn_arena_free(arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reshape_keeps_the_order_of_elements),
        cmocka_unit_test(test_reshape_of_a_transposed_place),
        cmocka_unit_test(test_slice_with_negative_step),
        cmocka_unit_test(test_broadcast),
        cmocka_unit_test(test_order_of),
        cmocka_unit_test(test_memory_plan),
        cmocka_unit_test(test_blobs_store_equal_content_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
