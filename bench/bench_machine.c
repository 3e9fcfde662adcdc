/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this machine can do at most, as JSON by number of threads: fp32 arithmetic at each level of
 * instructions (the highest is `fp32_gflops`), reads from the second cache, reads from memory.
 *
 *     bench_machine [THREADS...]
 */
#include <stdio.h>
#include <stdlib.h>

#include "runtime/machine.h"

enum { MAX_COUNTS = 64, MAX_THREADS = 1024, ARITHMETIC_NS = 20000000, READ_NS = 500000000 };

static double rate_of(tdn_rate rate, const tdn_peak *peak, int n_threads)
{
    tdn_pool *pool;
    tdn_error error;
    tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
    double giga;
    options.n_threads = n_threads;
    if (tdn_pool_create(&pool, &options, &error) ||
        tdn_machine_rate(&giga, rate, peak, pool, rate == TDN_RATE_FP32 ? ARITHMETIC_NS : READ_NS,
                         &error)) {
        fprintf(stderr, "bench_machine: %s\n", error.text);
        exit(1);
    }
    tdn_pool_free(pool);
    return giga;
}

static void print(const char *name, const char *level, const int *threads, int n, tdn_rate rate,
                  const tdn_peak *peak, const char *end)
{
    printf("\"%s%s%s\": {", name, *level ? "_" : "", level);
    for (int i = 0; i < n; i++)
        printf("%s\"%d\": %.2f", i ? ", " : "", threads[i], rate_of(rate, peak, threads[i]));
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
            print("fp32_gflops", p->level, threads, n, TDN_RATE_FP32, p, ",\n ");
    print("fp32_gflops", "", threads, n, TDN_RATE_FP32, best, ",\n ");
    print("l2_gbs", "", threads, n, TDN_RATE_L2, best, ",\n ");
    print("memory_gbs", "", threads, n, TDN_RATE_MEMORY, best, "}\n");
    return 0;
}
