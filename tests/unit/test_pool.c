/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread pool: every tile exactly once, whatever the number of threads and however the loops
 * follow each other; scratch that no two threads share; pools side by side; contention for one
 * pool; failures at creation.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/pool.h"

#define MAX_TILES 200
#define MAX_POOL 4

/* What a loop counts. `scratch_busy` is not atomic: the thread sanitizer sees it when a number is
 * given twice. */
typedef struct counts {
    atomic_int tiles[MAX_TILES];
    int scratch_busy[MAX_POOL];
    int n_threads;
    atomic_int bad;
} counts;

static void count_tile(void *user, size_t tile, int thread)
{
    counts *c = user;
    if (tile >= MAX_TILES || thread < 0 || thread >= c->n_threads ||
        c->scratch_busy[thread]++ != 0) {
        atomic_fetch_add(&c->bad, 1);
        return;
    }
    atomic_fetch_add(&c->tiles[tile], 1);
    c->scratch_busy[thread]--;
}

/* Returns how many tiles were not done exactly once, or done beyond n_tiles. */
static int run_and_check(tdn_pool *pool, counts *c, size_t n_tiles)
{
    int wrong = 0;
    tdn_pool_for(pool, n_tiles, count_tile, c);
    for (size_t i = 0; i < MAX_TILES; i++)
        wrong += atomic_exchange(&c->tiles[i], 0) != (i < n_tiles);
    return wrong + atomic_load(&c->bad);
}

static tdn_pool *make_pool(int n_threads, int spin_us)
{
    tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
    options.n_threads = n_threads;
    options.spin_us = spin_us;
    tdn_pool *pool = NULL;
    tdn_error error;
    if (tdn_pool_create(&pool, &options, &error) != TDN_OK)
        fail_msg("%s", error.text);
    assert_int_equal(tdn_pool_threads(pool), n_threads);
    return pool;
}

static void each_tile_once(void **state)
{
    (void)state;
    for (int n = 1; n <= MAX_POOL; n++) {
        for (int spin_us = 0; spin_us <= 100; spin_us += 50) {
            tdn_pool *pool = make_pool(n, spin_us);
            counts c = {.n_threads = n};
            assert_true(tdn_pool_acquire(pool));
            for (size_t loop = 0; loop < 3000; loop++)
                assert_int_equal(run_and_check(pool, &c, loop % MAX_TILES), 0);
            tdn_pool_release(pool);
            tdn_pool_free(pool);
        }
    }
}

/* Pauses between loops around the time after which workers sleep: where a wake could get lost. */
static void no_wake_is_lost(void **state)
{
    (void)state;
    tdn_pool *pool = make_pool(3, 20);
    counts c = {.n_threads = 3};
    assert_true(tdn_pool_acquire(pool));
    for (int i = 0; i < 2000; i++) {
        const struct timespec pause = {0, (i * 7919) % 60000};
        if (i % 3)
            nanosleep(&pause, NULL);
        assert_int_equal(run_and_check(pool, &c, 2 + (size_t)i % 9), 0);
    }
    tdn_pool_release(pool);
    tdn_pool_free(pool);
}

static void wait_for_another(void *user, size_t tile, int thread)
{
    (void)tile;
    atomic_uint *threads = user;
    atomic_fetch_or(threads, 1u << thread);
    /* Tile 0 goes on only when some other thread has a tile too: a sleeping pool that is not woken
     * hangs here. */
    while (__builtin_popcount(atomic_load(threads)) < 2)
        sched_yield();
}

static void sleeping_workers_are_woken(void **state)
{
    (void)state;
    tdn_pool *pool = make_pool(4, 0);
    assert_true(tdn_pool_acquire(pool));
    for (int i = 0; i < 20; i++) {
        const struct timespec pause = {0, 2000000};
        nanosleep(&pause, NULL);
        atomic_uint threads = 0;
        tdn_pool_for(pool, 2, wait_for_another, &threads);
        assert_int_equal(__builtin_popcount(threads), 2);
    }
    tdn_pool_release(pool);
    tdn_pool_free(pool);
}

static void slow_tile(void *user, size_t tile, int thread)
{
    (void)thread;
    const struct timespec pause = {0, tile == 0 ? 0 : 1000000};
    nanosleep(&pause, NULL);
    atomic_fetch_add((atomic_int *)user, 1);
}

/* More threads than cores: the main thread gives up spinning and sleeps for the last tiles. */
static void main_thread_sleeps_for_late_tiles(void **state)
{
    (void)state;
    const int n_threads = (int)sysconf(_SC_NPROCESSORS_ONLN) + 2;
    tdn_pool *pool = make_pool(n_threads, 10);
    assert_true(tdn_pool_acquire(pool));
    for (int i = 0; i < 50; i++) {
        atomic_int n = 0;
        tdn_pool_for(pool, (size_t)n_threads, slow_tile, &n);
        assert_int_equal(n, n_threads);
    }
    tdn_pool_release(pool);
    tdn_pool_free(pool);
}

static void without_a_pool_this_thread_does_all(void **state)
{
    (void)state;
    counts c = {.n_threads = 1};
    assert_int_equal(run_and_check(NULL, &c, MAX_TILES), 0);
    assert_int_equal(run_and_check(NULL, &c, 0), 0);
    assert_false(tdn_pool_acquire(NULL));
    assert_int_equal(tdn_pool_threads(NULL), 1);
    tdn_pool_free(NULL);
}

/* ---- Several threads ------------------------------------------------------------------------- */

/* A thread that takes the pool where it can and works alone where it cannot, as a context does. */
typedef struct runner {
    tdn_pool *pool;
    int n_threads, n_loops;
    int n_wrong, n_acquired;
    pthread_t thread;
} runner;

static void *run_loops(void *arg)
{
    runner *r = arg;
    for (int i = 0; i < r->n_loops; i++) {
        const bool acquired = tdn_pool_acquire(r->pool);
        counts c = {.n_threads = acquired ? r->n_threads : 1};
        r->n_acquired += acquired;
        r->n_wrong += run_and_check(acquired ? r->pool : NULL, &c, (size_t)(i % 50));
        if (acquired)
            tdn_pool_release(r->pool);
    }
    return NULL;
}

static void run_together(runner *runners, int n)
{
    for (int i = 0; i < n; i++)
        assert_int_equal(pthread_create(&runners[i].thread, NULL, run_loops, &runners[i]), 0);
    for (int i = 0; i < n; i++)
        pthread_join(runners[i].thread, NULL);
}

static void two_pools_side_by_side(void **state)
{
    (void)state;
    runner runners[2] = {
        {.pool = make_pool(2, 50), .n_threads = 2, .n_loops = 2000},
        {.pool = make_pool(3, 50), .n_threads = 3, .n_loops = 2000},
    };
    run_together(runners, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(runners[i].n_wrong, 0);
        assert_int_equal(runners[i].n_acquired, 2000);
        tdn_pool_free(runners[i].pool);
    }
}

static void one_pool_wanted_by_many(void **state)
{
    (void)state;
    tdn_pool *pool = make_pool(2, 50);
    runner runners[3];
    for (int i = 0; i < 3; i++)
        runners[i] = (runner){.pool = pool, .n_threads = 2, .n_loops = 2000};
    run_together(runners, 3);
    int n_acquired = 0;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(runners[i].n_wrong, 0);
        n_acquired += runners[i].n_acquired;
    }
    assert_true(n_acquired > 0);
    assert_true(tdn_pool_acquire(pool)); /* everybody gave it back */
    assert_false(tdn_pool_acquire(pool));
    tdn_pool_release(pool);
    tdn_pool_free(pool);
}

/* ---- Creation -------------------------------------------------------------------------------- */

static void options_are_checked(void **state)
{
    (void)state;
    tdn_error error;
    tdn_pool *pool = (tdn_pool *)&error;
    tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
    options.n_threads = -1;
    assert_int_equal(tdn_pool_create(&pool, &options, &error), TDN_E_ARG);
    assert_null(pool);
    options.n_threads = 100000;
    assert_int_equal(tdn_pool_create(&pool, &options, &error), TDN_E_ARG);
    options = (tdn_pool_options){.n_threads = 1};
    assert_int_equal(tdn_pool_create(&pool, &options, &error), TDN_E_ARG);
    assert_int_equal(tdn_pool_create(NULL, NULL, &error), TDN_E_ARG);
    assert_int_equal(tdn_pool_create(&pool, NULL, &error), TDN_OK);
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    assert_int_equal(tdn_pool_threads(pool), CPU_COUNT(&set));
    tdn_pool_free(pool);
}

/* ---- Cores ----------------------------------------------------------------------------------- */

/* The cores that this process may use, at most 4 of them; the last first, so that the order of a
 * list tells from the system's. */
static int32_t usable_cores(int32_t cores[4])
{
    cpu_set_t set;
    int32_t n = 0;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    for (int32_t core = CPU_SETSIZE - 1; core >= 0 && n < 4; core--)
        if (CPU_ISSET((size_t)core, &set))
            cores[n++] = core;
    return n;
}

typedef struct seen_cores {
    cpu_set_t sets[MAX_POOL];
    atomic_uint threads;
    int n_threads;
} seen_cores;

/* Each tile waits until every thread has one. */
static void see_cores(void *user, size_t tile, int thread)
{
    (void)tile;
    seen_cores *s = user;
    sched_getaffinity(0, sizeof s->sets[thread], &s->sets[thread]);
    atomic_fetch_or(&s->threads, 1u << thread);
    while (__builtin_popcount(atomic_load(&s->threads)) < s->n_threads)
        sched_yield();
}

static void workers_stay_on_their_cores(void **state)
{
    (void)state;
    int32_t cores[4];
    const int32_t n_cores = usable_cores(cores);
    cpu_set_t before, after;
    sched_getaffinity(0, sizeof before, &before);
    for (int n = 1; n <= MAX_POOL; n++) {
        tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
        options.n_threads = n;
        options.cores = cores;
        options.n_cores = n_cores;
        tdn_pool *pool;
        assert_int_equal(tdn_pool_create(&pool, &options, NULL), TDN_OK);
        assert_int_equal(tdn_pool_threads(pool), n);
        seen_cores s = {.n_threads = n};
        assert_true(tdn_pool_acquire(pool));
        tdn_pool_for(pool, (size_t)n, see_cores, &s);
        tdn_pool_release(pool);
        for (int i = 1; i < n; i++) {
            assert_int_equal(CPU_COUNT(&s.sets[i]), 1);
            assert_true(CPU_ISSET((size_t)cores[i % n_cores], &s.sets[i]));
        }
        tdn_pool_free(pool);
    }
    sched_getaffinity(0, sizeof after, &after);
    assert_true(CPU_EQUAL(&before, &after)); /* the caller's is its own */
}

static void as_many_threads_as_cores(void **state)
{
    (void)state;
    int32_t cores[4];
    tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
    options.cores = cores;
    for (options.n_cores = usable_cores(cores); options.n_cores > 0; options.n_cores--) {
        tdn_pool *pool;
        assert_int_equal(tdn_pool_create(&pool, &options, NULL), TDN_OK);
        assert_int_equal(tdn_pool_threads(pool), options.n_cores);
        tdn_pool_free(pool);
    }
}

static void check_refused(const int32_t *cores, int32_t n_cores, const char *words)
{
    tdn_error error;
    tdn_pool *pool = (tdn_pool *)&error;
    tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
    options.n_threads = 2;
    options.cores = cores;
    options.n_cores = n_cores;
    assert_int_equal(tdn_pool_create(&pool, &options, &error), TDN_E_ARG);
    assert_null(pool);
    if (!strstr(error.text, words))
        fail_msg("'%s' does not say '%s'", error.text, words);
}

static void lists_of_cores_are_checked(void **state)
{
    (void)state;
    check_refused((int32_t[]){0, 0}, 2, "core 0 is named twice");
    check_refused((int32_t[]){-1, 0}, 2, "core -1 is not there: cores are 0 to ");
    check_refused((int32_t[]){0, 100000}, 2, "core 100000 is not there");
    check_refused((int32_t[]){0}, -1, "a list of -1 cores");
    check_refused((int32_t[]){0}, 0, "a list of 0 cores");
    check_refused(NULL, 1, "a list of 1 cores");
}

/* A caller built against an older header: fields beyond its struct_size are not there
 * to be read. */
static void older_options_are_taken(void **state)
{
    (void)state;
    const size_t size = offsetof(tdn_pool_options, spin_us);
    const tdn_pool_options whole = {.struct_size = (uint32_t)size, .n_threads = 2};
    void *old = malloc(size);
    assert_non_null(old);
    memcpy(old, &whole, size);
    tdn_pool *pool;
    assert_int_equal(tdn_pool_create(&pool, old, NULL), TDN_OK);
    assert_int_equal(tdn_pool_threads(pool), 2);
    tdn_pool_free(pool);
    free(old);
}

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
    f->n_out--;
    tdn_allocator_libc.free(NULL, memory);
}

static void creation_survives_each_failing_allocation(void **state)
{
    (void)state;
    tdn_status status = TDN_E_NOMEM;
    int fail_at = 0;
    for (; status != TDN_OK; fail_at++) {
        failing f = {.fail_at = fail_at};
        const tdn_allocator allocator = {failing_alloc, failing_free, &f};
        tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
        options.n_threads = 3;
        options.allocator = &allocator;
        tdn_pool *pool;
        status = tdn_pool_create(&pool, &options, NULL);
        assert_true(status == TDN_OK || (status == TDN_E_NOMEM && !pool));
        tdn_pool_free(pool);
        assert_int_equal(f.n_out, 0);
    }
    assert_true(fail_at > 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_tile_once),
        cmocka_unit_test(no_wake_is_lost),
        cmocka_unit_test(sleeping_workers_are_woken),
        cmocka_unit_test(main_thread_sleeps_for_late_tiles),
        cmocka_unit_test(without_a_pool_this_thread_does_all),
        cmocka_unit_test(two_pools_side_by_side),
        cmocka_unit_test(one_pool_wanted_by_many),
        cmocka_unit_test(workers_stay_on_their_cores),
        cmocka_unit_test(as_many_threads_as_cores),
        cmocka_unit_test(lists_of_cores_are_checked),
        cmocka_unit_test(options_are_checked),
        cmocka_unit_test(older_options_are_taken),
        cmocka_unit_test(creation_survives_each_failing_allocation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
