/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this machine can do at most, as JSON by number of threads: fp32 arithmetic at each level of
 * instructions (the highest is `fp32_gflops`), reads from the second cache, reads from memory. And
 * how evenly: the p99 of calls that are nothing but arithmetic, by their median (`fp32_p99`).
 *
 *     bench_machine [THREADS...]
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/pool.h"
#include "cli/stats.h"
#include "runtime/machine.h"

enum { MAX_COUNTS = 64, MAX_THREADS = 1024, ARITHMETIC_NS = 20000000, READ_NS = 500000000 };
/* Calls of some milliseconds, as those of networks are, for so long that a slow spell shows. */
enum { CALL_NS = 4000000, N_CALLS = 1000 };

static void check(tdn_status status, const tdn_error *error)
{
    if (!status)
        return;
    fprintf(stderr, "bench_machine: %s\n", error->text);
    exit(1);
}

static tdn_pool *open_pool(int n_threads)
{
    tdn_pool *pool;
    tdn_error error;
    tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
    options.n_threads = n_threads;
    check(tdn_pool_create(&pool, &options, &error), &error);
    return pool;
}

static double rate_of(tdn_rate rate, const tdn_peak *peak, int n_threads)
{
    tdn_pool *pool = open_pool(n_threads);
    tdn_error error;
    double giga;
    check(tdn_machine_rate(&giga, rate, peak, pool, rate == TDN_RATE_FP32 ? ARITHMETIC_NS : READ_NS,
                           &error),
          &error);
    tdn_pool_free(pool);
    return giga;
}

typedef struct work {
    const tdn_peak *peak;
    double flops; /* of a thread */
} work;

static void multiply(void *user, size_t tile, int thread)
{
    (void)tile, (void)thread;
    const work *w = user;
    for (double done = 0; done < w->flops;)
        done += (double)w->peak->flops(NULL, 0);
}

static double p99_of(const tdn_peak *peak, int n_threads)
{
    static double ns[N_CALLS];
    work w = {peak, rate_of(TDN_RATE_FP32, peak, n_threads) / n_threads * CALL_NS};
    tdn_pool *pool = open_pool(n_threads);
    if (!tdn_pool_acquire(pool))
        exit(1); /* nobody else knows it */
    for (int i = 0; i < N_CALLS; i++) {
        const uint64_t start = tdn_now_ns();
        tdn_pool_for(pool, (size_t)n_threads, multiply, &w);
        ns[i] = (double)(tdn_now_ns() - start);
    }
    tdn_pool_release(pool);
    tdn_pool_free(pool);
    const tdn_latency latency = tdn_latency_of(ns, N_CALLS);
    return tdn_latency_percentile(&latency, 99) / latency.median;
}

static double fp32_of(const tdn_peak *peak, int n) { return rate_of(TDN_RATE_FP32, peak, n); }
static double l2_of(const tdn_peak *peak, int n) { return rate_of(TDN_RATE_L2, peak, n); }
static double memory_of(const tdn_peak *peak, int n) { return rate_of(TDN_RATE_MEMORY, peak, n); }

static void print(const char *name, const char *level, const int *threads, int n,
                  double (*figure)(const tdn_peak *, int n_threads), const tdn_peak *peak,
                  const char *end)
{
    printf("\"%s%s%s\": {", name, *level ? "_" : "", level);
    for (int i = 0; i < n; i++)
        printf("%s\"%d\": %.2f", i ? ", " : "", threads[i], figure(peak, threads[i]));
    printf("}%s", end);
}

int main(int argc, char **argv)
{
    int threads[MAX_COUNTS] = {1}, n = argc > 1 ? 0 : 1;
    for (int i = 1; i < argc && n < MAX_COUNTS; i++, n++) {
        threads[n] = atoi(argv[i]);
        if (threads[n] < 1 || threads[n] > MAX_THREADS) {
            fprintf(stderr, "usage: bench_machine [THREADS...], 1 to %d each\n", MAX_THREADS);
            return 2;
        }
    }
    const uint64_t isa = tdn_backends[0]->detect();
    const tdn_peak *best = tdn_machine_peak();
    printf("{");
    for (const tdn_peak *p = tdn_backends[0]->peaks; p->level; p++)
        if (!(p->isa & ~isa))
            print("fp32_gflops", p->level, threads, n, fp32_of, p, ",\n ");
    print("fp32_gflops", "", threads, n, fp32_of, best, ",\n ");
    print("l2_gbs", "", threads, n, l2_of, best, ",\n ");
    print("memory_gbs", "", threads, n, memory_of, best, ",\n ");
    print("fp32_p99", "", threads, n, p99_of, best, "}\n");
    return 0;
}
