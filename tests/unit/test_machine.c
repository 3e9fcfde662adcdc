/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the machine can do at best, which only another measurement could check: figures are finite
 * and ordered as any machine orders them, and the pool they were taken on still works. And the
 * share of it that a step reaches, which is arithmetic.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>
#include <string.h>

#include <cmocka.h>

#include "base/pool.h"
#include "cli/ceiling.h"
#include "runtime/machine.h"

static tdn_pool *make_pool(int n_threads)
{
    tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
    options.n_threads = n_threads;
    tdn_pool *pool;
    assert_int_equal(tdn_pool_create(&pool, &options, NULL), TDN_OK);
    return pool;
}

static void assert_plausible(const tdn_machine *m)
{
    assert_true(isfinite(m->fp32_gflops) && m->fp32_gflops > 0);
    assert_true(isfinite(m->l2_gbs) && m->l2_gbs > 0);
    assert_true(isfinite(m->memory_gbs) && m->memory_gbs > 0);
    assert_true(m->l2_size >= (uint64_t)m->n_threads * 1024);
}

static void count_tile(void *user, size_t tile, int thread)
{
    (void)thread;
    atomic_fetch_add((atomic_int *)user, 1 << tile);
}

/* Four threads, also where there are fewer cores: they wait for each other. */
static void measures_and_leaves_the_pool_usable(void **state)
{
    (void)state;
    for (int n = 1; n <= 4; n += 3) {
        tdn_pool *pool = make_pool(n);
        tdn_machine m = {.struct_size = sizeof m};
        assert_int_equal(tdn_machine_measure(&m, pool, NULL), TDN_OK);
        assert_int_equal(m.n_threads, n);
        assert_plausible(&m);
        atomic_int seen = 0;
        assert_true(tdn_pool_acquire(pool));
        tdn_pool_for(pool, 10, count_tile, &seen);
        tdn_pool_release(pool);
        assert_int_equal(atomic_load(&seen), (1 << 10) - 1);
        tdn_pool_free(pool);
    }
}

static void no_pool_is_one_thread(void **state)
{
    (void)state;
    tdn_machine m = {.struct_size = sizeof m};
    assert_int_equal(tdn_machine_measure(&m, NULL, NULL), TDN_OK);
    assert_int_equal(m.n_threads, 1);
    assert_plausible(&m);
}

static void keeps_to_the_struct_of_its_caller(void **state)
{
    (void)state;
    tdn_machine m;
    memset(&m, 0x55, sizeof m);
    m.struct_size = offsetof(tdn_machine, l2_gbs);
    assert_int_equal(tdn_machine_measure(&m, NULL, NULL), TDN_OK);
    assert_true(m.n_threads == 1 && m.fp32_gflops > 0);
    for (size_t i = offsetof(tdn_machine, l2_gbs); i < sizeof m; i++)
        assert_int_equal(((unsigned char *)&m)[i], 0x55);
}

static void refuses_a_pool_that_runs(void **state)
{
    (void)state;
    tdn_pool *pool = make_pool(2);
    tdn_machine m = {.struct_size = sizeof m};
    tdn_error error;
    assert_true(tdn_pool_acquire(pool));
    assert_int_equal(tdn_machine_measure(&m, pool, &error), TDN_E_ARG);
    assert_non_null(strstr(error.text, "pool"));
    tdn_pool_release(pool);
    assert_int_equal(tdn_machine_measure(NULL, pool, &error), TDN_E_ARG);
    tdn_pool_free(pool);
}

/* A run counts what its loop did: the loops do and read as much as they say. */
static void loops_count_what_they_do(void **state)
{
    (void)state;
    static _Alignas(TDN_PEAK_BLOCK) const char data[2 * TDN_PEAK_BLOCK];
    const uint64_t isa = tdn_backends[0]->detect();
    int n = 0;
    for (const tdn_peak *p = tdn_backends[0]->peaks; p->level; p++) {
        if (p->isa & ~isa)
            continue;
        assert_true(p->flops(NULL, 0) >= 100000);
        assert_int_equal(p->read(data, sizeof data), sizeof data);
        assert_int_equal(p->read(data, 0), 0);
        n++;
    }
    assert_true(n > 0);
}

/* ---- Shares ---------------------------------------------------------------------------------- */

static tdn_ceiling ceiling(int64_t flops, int64_t bytes, uint64_t n_runs, uint64_t total_ns)
{
    const tdn_machine m = {sizeof m, 2, 200, 100, 10, 1000000};
    const tdn_step_info step = {
        .flops = flops, .bytes = bytes, .n_runs = n_runs, .total_ns = total_ns};
    return tdn_ceiling_of(&m, &step);
}

static void assert_ceiling(tdn_ceiling c, double share, tdn_bound bound, const char *text)
{
    char got[32];
    assert_true(fabs(c.share - share) < 1e-9 * (1 + share));
    assert_int_equal(c.bound, bound);
    assert_string_equal(tdn_ceiling_text(c, got), text);
}

static void the_longer_time_is_the_ceiling(void **state)
{
    (void)state;
    /* 1000 ns at 200 GFLOP/s, 500 ns at 100 GB/s; 4000 ns taken, four times. */
    assert_ceiling(ceiling(200000, 50000, 4, 16000), 25, TDN_BOUND_COMPUTE, "25 % fma");
    assert_ceiling(ceiling(200000, 300000, 4, 16000), 75, TDN_BOUND_L2, "75 % L2");
    assert_ceiling(ceiling(200000, 1000000, 1, 20000), 50, TDN_BOUND_L2, "50 % L2");
    assert_ceiling(ceiling(200000, 1000010, 1, 200002), 50, TDN_BOUND_MEMORY, "50 % mem");
    assert_ceiling(ceiling(0, 1000, 1, 1000), 1, TDN_BOUND_L2, "1.0 % L2");
    assert_ceiling(ceiling(200000, 0, 1, 500), 200, TDN_BOUND_COMPUTE, "200 % fma");
    assert_string_equal(tdn_bound_name(TDN_BOUND_COMPUTE), "compute");
    assert_string_equal(tdn_bound_name(TDN_BOUND_L2), "memory");
    assert_string_equal(tdn_bound_name(TDN_BOUND_MEMORY), "memory");
}

static void nothing_known_is_no_share(void **state)
{
    (void)state;
    const tdn_machine none = {0};
    const tdn_step_info step = {.flops = 100, .bytes = 100, .n_runs = 1, .total_ns = 100};
    assert_ceiling(ceiling(0, 0, 1, 100), 0, TDN_BOUND_NONE, "-");
    assert_ceiling(ceiling(100, 100, 0, 0), 0, TDN_BOUND_NONE, "-");
    assert_ceiling(ceiling(100, 100, 1, 0), 0, TDN_BOUND_NONE, "-");
    assert_ceiling(tdn_ceiling_of(&none, &step), 0, TDN_BOUND_NONE, "-");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measures_and_leaves_the_pool_usable),
        cmocka_unit_test(no_pool_is_one_thread),
        cmocka_unit_test(keeps_to_the_struct_of_its_caller),
        cmocka_unit_test(refuses_a_pool_that_runs),
        cmocka_unit_test(loops_count_what_they_do),
        cmocka_unit_test(the_longer_time_is_the_ceiling),
        cmocka_unit_test(nothing_known_is_no_share),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
