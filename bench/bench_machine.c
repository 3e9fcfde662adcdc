/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this machine can do at most, as JSON by number of threads: fp32 arithmetic at each level of
 * instructions (the highest is `fp32_gflops`), reads from the second cache, reads from memory.
 * Threads measure at the same time and their rates are added up; the best of many runs counts.
 *
 *     bench_machine [THREADS...]
 */
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "peak.h"

enum { MAX_THREADS = 64, MEMORY = 256 << 20, LINE = 64 };

typedef struct job {
    pthread_barrier_t *start;
    double (*measure)(size_t size);
    size_t size;
    double rate;
} job;

/* Sums of integers, which any level of instructions adds as fast as it loads. */
#define LANES 8
typedef uint64_t lanes __attribute__((vector_size(LANES * sizeof(uint64_t)), may_alias));

#define READ(name, attribute)                                                                      \
    attribute static uint64_t name(const char *data, size_t size)                                  \
    {                                                                                              \
        lanes a = {0}, b = {0}, c = {0}, d = {0};                                                  \
        for (const lanes *p = (const lanes *)data, *end = (const lanes *)(data + size); p < end;   \
             p += 4) {                                                                             \
            a += p[0];                                                                             \
            b += p[1];                                                                             \
            c += p[2];                                                                             \
            d += p[3];                                                                             \
        }                                                                                          \
        a += b + c + d;                                                                            \
        uint64_t total = 0;                                                                        \
        for (int i = 0; i < LANES; i++)                                                            \
            total += a[i];                                                                         \
        return total;                                                                              \
    }
READ(read_base, )
#if defined(__x86_64__)
READ(read_avx2, __attribute__((target("avx2"))))
READ(read_avx512, __attribute__((target("avx512f"))))
#endif

static uint64_t read_all(const char *data, size_t size)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return read_avx512(data, size);
    if (__builtin_cpu_supports("avx2"))
        return read_avx2(data, size);
#endif
    return read_base(data, size);
}

/* GB/s of reading so many bytes over and over; each run long enough that the clock costs nothing.
 */
static double bandwidth(size_t size)
{
    char *data = aligned_alloc(4096, size);
    if (!data)
        exit(1);
    memset(data, 1, size);
    double best = 0;
    const uint64_t end = tdn_now_ns() + 500000000;
    while (tdn_now_ns() < end) {
        const uint64_t start = tdn_now_ns();
        uint64_t n = 0, sum = 0;
        do {
            sum += read_all(data, size);
            n++;
        } while (tdn_now_ns() - start < 1000000);
        const double rate = (double)(n * size) / (double)(tdn_now_ns() - start);
        best = rate > best ? rate : best;
        sink = (float)sum;
    }
    free(data);
    return best;
}

static void *work(void *argument)
{
    job *j = argument;
    pthread_barrier_wait(j->start);
    j->rate = j->measure(j->size);
    return NULL;
}

/* The sum over n threads that measure at once. */
static double together(int n, double (*measure)(size_t size), size_t size)
{
    pthread_barrier_t start;
    pthread_t threads[MAX_THREADS];
    job jobs[MAX_THREADS];
    double sum = 0;
    pthread_barrier_init(&start, NULL, (unsigned)n);
    for (int i = 0; i < n; i++) {
        jobs[i] = (job){&start, measure, size, 0};
        if (pthread_create(&threads[i], NULL, work, &jobs[i]))
            exit(1);
    }
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        sum += jobs[i].rate;
    }
    pthread_barrier_destroy(&start);
    return sum;
}

static double peak_at(size_t level) { return peaks[level].measure(); }

static size_t l2_size(void)
{
    const long size = sysconf(_SC_LEVEL2_CACHE_SIZE);
    return size > 0 ? (size_t)size : 512 << 10;
}

static void print(const char *name, const int *threads, int n, double (*measure)(size_t size),
                  size_t size, const char *end)
{
    printf("\"%s\": {", name);
    for (int i = 0; i < n; i++)
        printf("%s\"%d\": %.2f", i ? ", " : "", threads[i], together(threads[i], measure, size));
    printf("}%s", end);
}

int main(int argc, char **argv)
{
    int threads[MAX_THREADS] = {1}, n = argc > 1 ? 0 : 1;
    for (int i = 1; i < argc && n < MAX_THREADS; i++, n++) {
        threads[n] = atoi(argv[i]);
        if (threads[n] < 1 || threads[n] > MAX_THREADS) {
            fprintf(stderr, "usage: bench_machine [THREADS...], 1 to %d each\n", MAX_THREADS);
            return 2;
        }
    }
    const uint64_t isa = tdn_backends[0]->detect();
    size_t best = 0;
    printf("{");
    for (size_t i = 0; i < N_PEAKS; i++) {
        char name[32];
        if (peaks[i].isa & ~isa)
            continue;
        best = i;
        snprintf(name, sizeof name, "fp32_gflops%s", peaks[i].suffix);
        print(name, threads, n, peak_at, i, ",\n ");
    }
    print("fp32_gflops", threads, n, peak_at, best, ",\n ");
    print("l2_gbs", threads, n, bandwidth, l2_size() / 2 & ~(size_t)4095, ",\n ");
    print("memory_gbs", threads, n, bandwidth, MEMORY, "}\n");
    return 0;
}
