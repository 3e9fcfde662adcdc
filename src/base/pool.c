/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread pool: loops over independent tiles, without a lock.
 *
 * One 64-bit word, `work`, holds the loop's number (upper half) and how many of its tiles are still
 * to be taken (lower half). A thread takes a tile by compare-and-swap from (loop, left) to (loop,
 * left - 1). It reads the loop's function and user beforehand: where the swap succeeds, the loop
 * was not over, so they were this loop's; a thread that comes late, from an older loop, fails the
 * swap because the number has changed. A loop ends when all tiles are counted in `n_done`, so
 * nothing of it is touched afterwards.
 *
 * Sleeping workers: a worker sets `may_sleep`, looks at `work` once more and waits on the futex
 * `wake`; the main thread publishes `work`, then looks at `may_sleep`. In the one total order of
 * these four at least one sees the other, so no wake is lost; and a loop that finds everybody awake
 * makes no system call. A woken worker wakes two more, so that waking sixty of them does not wait
 * on one thread.
 */
#include "base/pool.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"

#define MAX_THREADS 1024
#define DEFAULT_SPIN_US 100
#define STACK_SIZE ((size_t)512 << 10)
#define PAUSES_PER_LOOK 32 /* between two looks at the clock: about a microsecond */
/* How long the main thread spins for the last tiles before it sleeps. Where every thread has a core
 * of its own a tile is soon done; where not, the spinning may be what keeps the worker from doing
 * it. */
#define MAIN_SPIN_NS 20000000u
#define MAIN_SPIN_SHARED_NS 50000u
#define MAX_TILES_A_LOOP ((size_t)1 << 30)

typedef struct worker {
    tdn_pool *pool;
    pthread_t thread;
    int index;
    int32_t core; /* -1: any */
} worker;

struct tdn_pool {
    tdn_allocator allocator;
    int n_threads;
    int n_started;
    uint64_t spin_ns;
    uint64_t main_spin_ns;
    worker *workers;
    atomic_bool busy;
    atomic_bool stop;
    /* The loop: written by the main thread between loops only, valid to whoever then takes a tile
     * of it. */
    _Alignas(TDN_ALIGN) _Atomic(tdn_tile_fn *) fn;
    _Atomic(void *) user;
    atomic_size_t first, n_tiles; /* tiles first .. first + n_tiles - 1 */
    _Alignas(TDN_ALIGN) _Atomic uint64_t work;
    _Alignas(TDN_ALIGN) _Atomic uint32_t n_done; /* tiles; a futex when main_sleeps */
    atomic_bool main_sleeps;
    _Alignas(TDN_ALIGN) _Atomic uint32_t wake; /* the workers' futex */
    atomic_bool may_sleep;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void pause_cpu(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory");
#endif
}

static uint32_t tiles_left(uint64_t work) { return (uint32_t)work; }

static uint32_t loop_number(uint64_t work) { return (uint32_t)(work >> 32); }

/* Takes and does tiles until none is left. Returns how many it did. */
static uint32_t do_tiles(tdn_pool *pool, int thread)
{
    uint32_t n_did = 0;
    uint64_t work = atomic_load_explicit(&pool->work, memory_order_acquire);
    while (tiles_left(work) > 0) {
        tdn_tile_fn *fn = atomic_load_explicit(&pool->fn, memory_order_relaxed);
        void *user = atomic_load_explicit(&pool->user, memory_order_relaxed);
        const size_t first = atomic_load_explicit(&pool->first, memory_order_relaxed);
        const size_t n_tiles = atomic_load_explicit(&pool->n_tiles, memory_order_relaxed);
        /* Release keeps the loads above before the swap. On failure `work` is the new value. */
        if (!atomic_compare_exchange_weak_explicit(&pool->work, &work, work - 1,
                                                   memory_order_acq_rel, memory_order_acquire))
            continue;
        fn(user, first + n_tiles - tiles_left(work), thread);
        n_did++;
        work = atomic_load_explicit(&pool->work, memory_order_acquire);
    }
    return n_did;
}

/* ---- Workers --------------------------------------------------------------------------------- */

/* Spins until there is work or the pool ends; false when spin_ns passed since the last loop was
 * seen. */
static bool spin_for_work(tdn_pool *pool)
{
    uint64_t since = tdn_now_ns();
    uint32_t seen = loop_number(atomic_load_explicit(&pool->work, memory_order_relaxed));
    for (;;) {
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            const uint64_t work = atomic_load_explicit(&pool->work, memory_order_relaxed);
            if (tiles_left(work) > 0 || atomic_load_explicit(&pool->stop, memory_order_relaxed))
                return true;
            if (loop_number(work) != seen) { /* others did a whole loop meanwhile */
                seen = loop_number(work);
                since = tdn_now_ns();
            }
            pause_cpu();
        }
        if (tdn_now_ns() - since >= pool->spin_ns)
            return false;
    }
}

static void sleep_for_work(tdn_pool *pool)
{
    const uint32_t seen = atomic_load(&pool->wake);
    atomic_store(&pool->may_sleep, true);
    if (tiles_left(atomic_load(&pool->work)) > 0 || atomic_load(&pool->stop))
        return;
    futex_wait(&pool->wake, seen);
    if (atomic_load(&pool->wake) != seen && pool->n_threads > 3)
        futex_wake(&pool->wake, 2);
}

static void count_done(tdn_pool *pool, uint32_t n)
{
    atomic_fetch_add(&pool->n_done, n);
    if (atomic_load(&pool->main_sleeps))
        futex_wake(&pool->n_done, 1);
}

static void *worker_main(void *arg)
{
    const worker *self = arg;
    tdn_pool *pool = self->pool;
    while (!atomic_load_explicit(&pool->stop, memory_order_acquire)) {
        if (!spin_for_work(pool))
            sleep_for_work(pool);
        const uint32_t n = do_tiles(pool, self->index);
        if (n > 0)
            count_done(pool, n);
    }
    return NULL;
}

/* ---- The main thread ------------------------------------------------------------------------- */

static void publish(tdn_pool *pool, size_t first, size_t n_tiles, tdn_tile_fn *fn, void *user)
{
    atomic_store_explicit(&pool->n_done, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&pool->user, user, memory_order_relaxed);
    atomic_store_explicit(&pool->first, first, memory_order_relaxed);
    atomic_store_explicit(&pool->n_tiles, n_tiles, memory_order_relaxed);
    const uint64_t work = atomic_load_explicit(&pool->work, memory_order_relaxed);
    const uint64_t next = (uint64_t)(loop_number(work) + 1) << 32 | n_tiles;
    atomic_store(&pool->work, next);
    if (atomic_load(&pool->may_sleep)) {
        atomic_store(&pool->may_sleep, false);
        atomic_fetch_add(&pool->wake, 1);
        futex_wake(&pool->wake, pool->n_threads > 3 ? 2 : INT_MAX);
    }
}

static void sleep_until_done(tdn_pool *pool, uint32_t n_tiles)
{
    atomic_store(&pool->main_sleeps, true);
    for (uint32_t n; (n = atomic_load(&pool->n_done)) != n_tiles;)
        futex_wait(&pool->n_done, n);
    atomic_store(&pool->main_sleeps, false);
}

static void wait_until_done(tdn_pool *pool, uint32_t n_tiles)
{
    uint64_t since = 0;
    for (unsigned i = 1; atomic_load_explicit(&pool->n_done, memory_order_acquire) != n_tiles;
         i++) {
        pause_cpu();
        if (i % PAUSES_PER_LOOK != 0)
            continue;
        const uint64_t now = tdn_now_ns();
        if (since == 0)
            since = now;
        else if (now - since >= pool->main_spin_ns)
            sleep_until_done(pool, n_tiles);
    }
}

static void run_loop(tdn_pool *pool, size_t first, size_t n_tiles, tdn_tile_fn *fn, void *user)
{
    publish(pool, first, n_tiles, fn, user);
    atomic_fetch_add_explicit(&pool->n_done, do_tiles(pool, 0), memory_order_relaxed);
    wait_until_done(pool, (uint32_t)n_tiles);
}

void tdn_pool_for(tdn_pool *pool, size_t n_tiles, tdn_tile_fn *fn, void *user)
{
    if (!pool || pool->n_threads == 1 || n_tiles == 1) {
        for (size_t tile = 0; tile < n_tiles; tile++)
            fn(user, tile, 0);
        return;
    }
    for (size_t first = 0; first < n_tiles;) {
        const size_t n = n_tiles - first < MAX_TILES_A_LOOP ? n_tiles - first : MAX_TILES_A_LOOP;
        run_loop(pool, first, n, fn, user);
        first += n;
    }
}

bool tdn_pool_acquire(tdn_pool *pool)
{
    return pool && !atomic_exchange_explicit(&pool->busy, true, memory_order_acquire);
}

void tdn_pool_release(tdn_pool *pool)
{
    atomic_store_explicit(&pool->busy, false, memory_order_release);
}

/* ---- Cores ----------------------------------------------------------------------------------- */

tdn_status tdn_cores_check(const int32_t *cores, int32_t n_cores, tdn_error *error)
{
    if (n_cores < 0 || n_cores > MAX_THREADS || (n_cores > 0) != (cores != NULL))
        return tdn_fail(error, TDN_E_ARG, "a list of %d cores is none", n_cores);
    const long configured = sysconf(_SC_NPROCESSORS_CONF);
    const int n = configured < 1 || configured > CPU_SETSIZE ? CPU_SETSIZE : (int)configured;
    for (int32_t i = 0; i < n_cores; i++) {
        if (cores[i] < 0 || cores[i] >= n)
            return tdn_fail(error, TDN_E_ARG, "core %d is not there: cores are 0 to %d", cores[i],
                            n - 1);
        for (int32_t k = 0; k < i; k++)
            if (cores[k] == cores[i])
                return tdn_fail(error, TDN_E_ARG, "core %d is named twice", cores[i]);
    }
    return TDN_OK;
}

tdn_status tdn_cores_fail(int32_t core, tdn_error *error)
{
    return tdn_fail(error, TDN_E_ARG, "core %d is offline, or not one that this process may use",
                    core);
}

/* From outside: a thread that cannot be moved is then a failure of creating the pool. */
static tdn_status pin_worker(const worker *w, tdn_error *error)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (w->core < 0)
        return TDN_OK;
    CPU_SET((size_t)w->core, &set);
    return pthread_setaffinity_np(w->thread, sizeof set, &set) == 0
               ? TDN_OK
               : tdn_cores_fail(w->core, error);
}

/* ---- Life ------------------------------------------------------------------------------------ */

static int n_usable_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
    const long online = sysconf(_SC_NPROCESSORS_ONLN); /* more than 1,024 cores */
    return online < 1 ? 1 : online > MAX_THREADS ? MAX_THREADS : (int)online;
}

static tdn_status read_options(tdn_pool_options *out, const tdn_pool_options *options,
                               tdn_error *error)
{
    *out = (tdn_pool_options)TDN_POOL_OPTIONS_INIT;
    if (options) {
        if (options->struct_size < sizeof options->struct_size)
            return tdn_fail(error, TDN_E_ARG,
                            "tdn_pool_options is not initialised: struct_size is %u",
                            options->struct_size);
        memcpy(out, options,
               options->struct_size < sizeof *out ? options->struct_size : sizeof *out);
    }
    if (out->n_threads < 0 || out->n_threads > MAX_THREADS)
        return tdn_fail(error, TDN_E_ARG, "%d threads are not in 0..%d", out->n_threads,
                        MAX_THREADS);
    if (out->spin_us < -1)
        return tdn_fail(error, TDN_E_ARG, "cannot spin for %d microseconds", out->spin_us);
    return tdn_cores_check(out->cores, out->n_cores, error);
}

static int start_worker(worker *w)
{
    pthread_attr_t attr;
    int code = pthread_attr_init(&attr);
    if (code != 0)
        return code;
    pthread_attr_setstacksize(&attr, STACK_SIZE);
    code = pthread_create(&w->thread, &attr, worker_main, w);
    pthread_attr_destroy(&attr);
    if (code == 0) {
        char name[16];
        snprintf(name, sizeof name, "tendon-%d", w->index);
        pthread_setname_np(w->thread, name);
    }
    return code;
}

/* Signals are the application's: workers are born with all of them blocked. */
static tdn_status start_workers(tdn_pool *pool, const tdn_pool_options *o, tdn_error *error)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = 0;
    tdn_status pinned = TDN_OK;
    for (int i = 0; i < pool->n_threads - 1 && code == 0 && pinned == TDN_OK; i++) {
        const int32_t core = o->n_cores > 0 ? o->cores[(i + 1) % o->n_cores] : -1;
        pool->workers[i] = (worker){.pool = pool, .index = i + 1, .core = core};
        code = start_worker(&pool->workers[i]);
        pool->n_started += code == 0;
        if (code == 0)
            pinned = pin_worker(&pool->workers[i], error);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code == 0)
        return pinned;
    return tdn_fail(error, code == ENOMEM ? TDN_E_NOMEM : TDN_E_IO,
                    "cannot start thread %d of %d: %s", pool->n_started + 2, pool->n_threads,
                    strerror(code));
}

tdn_status tdn_pool_create(tdn_pool **out, const tdn_pool_options *options, tdn_error *error)
{
    if (!out)
        return tdn_fail(error, TDN_E_ARG, "tdn_pool_create needs a place for the pool");
    *out = NULL;
    tdn_pool_options o;
    TDN_TRY(read_options(&o, options, error));
    const int n_cores = o.n_cores > 0 ? o.n_cores : n_usable_cores();
    const int n_threads = o.n_threads ? o.n_threads : n_cores;
    tdn_pool *pool = tdn_alloc_zero(o.allocator, sizeof *pool, TDN_ALIGN);
    if (!pool)
        return tdn_fail_nomem(error, "a thread pool");
    pool->allocator = o.allocator ? *o.allocator : tdn_allocator_libc;
    pool->n_threads = n_threads;
    pool->spin_ns = (uint64_t)(o.spin_us < 0 ? DEFAULT_SPIN_US : o.spin_us) * 1000;
    pool->main_spin_ns = n_threads > n_cores ? MAIN_SPIN_SHARED_NS : MAIN_SPIN_NS;
    pool->workers =
        tdn_alloc_zero(o.allocator, (size_t)n_threads * sizeof *pool->workers, TDN_ALIGN);
    const tdn_status status = pool->workers ? start_workers(pool, &o, error)
                                            : tdn_fail_nomem(error, "the workers of a thread pool");
    if (status != TDN_OK) {
        tdn_pool_free(pool);
        return status;
    }
    *out = pool;
    return TDN_OK;
}

void tdn_pool_free(tdn_pool *pool)
{
    if (!pool)
        return;
    atomic_store(&pool->stop, true);
    atomic_fetch_add(&pool->wake, 1);
    futex_wake(&pool->wake, INT_MAX);
    for (int i = 0; i < pool->n_started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    const tdn_allocator allocator = pool->allocator;
    tdn_free(&allocator, pool->workers);
    tdn_free(&allocator, pool);
}

int tdn_pool_threads(const tdn_pool *pool) { return pool ? pool->n_threads : 1; }
