/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the machine can do at most, measured. Every thread of a pool takes one tile, waits there for
 * the others, and then repeats a loop that does nothing but multiply-adds or reads. The best of its
 * runs counts, since other work on the machine only ever adds; the rates of the threads are added
 * up. Each thread reads a part of its own, which it wrote first: pages lie where that thread is.
 */
#include "runtime/machine.h"

#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/pool.h"

enum {
    RUN_NS = 100000, /* the clock's own cost does not show */
    N_RUNS_MIN = 3,
    SHORT_NS = 10000000,
    L2_USUAL = 512 << 10,
    MEMORY_MIN = 64 << 20,
    MEMORY_MAX = 256 << 20,
    L2_TIMES = 4 /* a thread's part of the memory: so many second-level caches */
};

typedef struct job {
    size_t (*work)(const void *data, size_t size);
    char *data;
    size_t part_size; /* bytes of a thread; 0: none */
    uint64_t ns;
    double *rates; /* by tile */
    int n_threads;
    atomic_int n_waiting;
} job;

/* No thread takes a second tile before all have one. */
static void wait_for_all(job *j)
{
    atomic_fetch_add(&j->n_waiting, 1);
    while (atomic_load(&j->n_waiting) < j->n_threads)
        sched_yield();
}

static void measure_tile(void *user, size_t tile, int thread)
{
    (void)thread;
    job *j = user;
    char *part = j->part_size ? j->data + tile * j->part_size : NULL;
    if (part)
        memset(part, 1, j->part_size);
    wait_for_all(j);
    const uint64_t begin = tdn_now_ns();
    uint64_t now = begin;
    for (int run = 0; run < N_RUNS_MIN || now - begin < j->ns; run++) {
        const uint64_t start = now;
        size_t amount = 0;
        do {
            amount += j->work(part, j->part_size);
            now = tdn_now_ns();
        } while (now - start < RUN_NS);
        const double rate = (double)amount / (double)(now - start);
        j->rates[tile] = rate > j->rates[tile] ? rate : j->rates[tile];
    }
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

static size_t cache_size(int name, size_t usual)
{
    const long size = sysconf(name);
    return size > 0 ? (size_t)size : usual;
}

/* Half of a second-level cache; or what no cache holds: twice the last one, which systems without
 * knowledge of their machine may say is of any size. */
static size_t part_size(tdn_rate rate, int n_threads)
{
    const size_t l2 = cache_size(_SC_LEVEL2_CACHE_SIZE, L2_USUAL);
    size_t size = l2 / 2;
    if (rate == TDN_RATE_FP32)
        return 0;
    if (rate == TDN_RATE_MEMORY) {
        const size_t l3 = cache_size(_SC_LEVEL3_CACHE_SIZE, 0);
        size = l3 > MEMORY_MAX / 2 ? MEMORY_MAX : l3 < MEMORY_MIN / 2 ? MEMORY_MIN : 2 * l3;
        size /= (size_t)n_threads;
        size = size < L2_TIMES * l2 ? L2_TIMES * l2 : size;
    }
    return tdn_round_up(size, TDN_PEAK_BLOCK);
}

/* ---- Measuring ------------------------------------------------------------------------------- */

/* Large pages, as an engine's weights have them. */
static char *map_pages(size_t size)
{
    char *data = mmap(NULL, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED)
        return NULL;
    madvise(data, size, MADV_HUGEPAGE);
    return data;
}

/* The pool is this call's, or NULL. */
static tdn_status measure(double *giga, tdn_rate rate, const tdn_peak *peak, tdn_pool *pool,
                          uint64_t ns, tdn_error *error)
{
    job j = {.work = rate == TDN_RATE_FP32 ? peak->flops : peak->read,
             .ns = ns,
             .n_threads = tdn_pool_threads(pool)};
    const size_t n = (size_t)j.n_threads;
    size_t size;
    j.part_size = part_size(rate, j.n_threads);
    j.rates = tdn_alloc_zero(NULL, n * sizeof *j.rates, TDN_ALIGN);
    if (j.part_size && tdn_size_mul(n, j.part_size, &size))
        j.data = map_pages(size);
    const bool ready = j.rates && (j.data || !j.part_size);
    *giga = 0;
    if (ready)
        tdn_pool_for(pool, n, measure_tile, &j);
    for (size_t i = 0; ready && i < n; i++)
        *giga += j.rates[i];
    if (j.data)
        munmap(j.data, size);
    tdn_free(NULL, j.rates);
    return ready ? TDN_OK : tdn_fail_nomem(error, "measuring the machine");
}

tdn_status tdn_machine_rate(double *giga, tdn_rate rate, const tdn_peak *peak, tdn_pool *pool,
                            uint64_t ns, tdn_error *error)
{
    if (pool && !tdn_pool_acquire(pool))
        return tdn_fail(error, TDN_E_ARG, "a run has the pool whose threads are to be measured");
    const tdn_status status = measure(giga, rate, peak, pool, ns, error);
    if (pool)
        tdn_pool_release(pool);
    return status;
}

const tdn_peak *tdn_machine_peak(void)
{
    const tdn_backend *backend = tdn_backends[0];
    const tdn_peak *best = NULL;
    const uint64_t isa = backend->detect();
    for (const tdn_peak *p = backend->peaks; p->level; p++)
        if (!(p->isa & ~isa))
            best = p;
    return best;
}

tdn_status tdn_machine_measure(tdn_machine *machine, tdn_pool *pool, tdn_error *error)
{
    if (!machine)
        return tdn_fail(error, TDN_E_ARG, "no struct for what the machine can do");
    const tdn_peak *peak = tdn_machine_peak();
    tdn_machine all = {.struct_size = machine->struct_size, .n_threads = tdn_pool_threads(pool)};
    all.l2_size = (uint64_t)all.n_threads * cache_size(_SC_LEVEL2_CACHE_SIZE, L2_USUAL);
    TDN_TRY(tdn_machine_rate(&all.fp32_gflops, TDN_RATE_FP32, peak, pool, SHORT_NS, error));
    TDN_TRY(tdn_machine_rate(&all.l2_gbs, TDN_RATE_L2, peak, pool, SHORT_NS, error));
    TDN_TRY(tdn_machine_rate(&all.memory_gbs, TDN_RATE_MEMORY, peak, pool, SHORT_NS, error));
    memcpy(machine, &all, all.struct_size < sizeof all ? all.struct_size : sizeof all);
    return TDN_OK;
}
