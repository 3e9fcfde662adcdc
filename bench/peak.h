/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A core's peak of fused multiply-adds, for each level of instructions that is built here: chains
 * long enough that neither latency nor memory plays a part. The best of many short runs counts.
 */
#ifndef TENDON_BENCH_PEAK_H
#define TENDON_BENCH_PEAK_H

#include "backend/backend.h"
#include "base/clock.h"

/* HOLD: x is in its register here, not earlier and not later. */
#if defined(__x86_64__)
#include <immintrin.h>
#define HOLD(x) __asm__ volatile("" : "+v"(x))
#elif defined(__aarch64__)
#include <arm_neon.h>
#define HOLD(x) __asm__ volatile("" : "+w"(x))
#endif

enum { CHAINS = 12 };

static _Thread_local volatile float sink;

/* ---- The core's peak ------------------------------------------------------------------------- */

#define EACH_CHAIN(i) _Pragma("GCC unroll 12") for (int i = 0; i < CHAINS; i++)
#define PEAK(name, attribute, type, set, fma, lanes, first)                                        \
    attribute static double name(void)                                                             \
    {                                                                                              \
        enum { N = 20000 };                                                                        \
        double best = 0;                                                                           \
        for (int run = 0; run < 300; run++) {                                                      \
            type acc[CHAINS], a = set(0.999f), b = set(1e-3f);                                     \
            EACH_CHAIN (i)                                                                         \
                acc[i] = set((float)i);                                                            \
            EACH_CHAIN (i)                                                                         \
                HOLD(acc[i]);                                                                      \
            const uint64_t start = tdn_now_ns();                                                   \
            for (int n = 0; n < N; n++)                                                            \
                EACH_CHAIN (i)                                                                     \
                    acc[i] = fma(acc[i], a, b);                                                    \
            EACH_CHAIN (i)                                                                         \
                HOLD(acc[i]);                                                                      \
            const double rate = 2.0 * CHAINS * (lanes)*N / (double)(tdn_now_ns() - start);         \
            best = rate > best ? rate : best;                                                      \
            EACH_CHAIN (i)                                                                         \
                sink = first(acc[i]);                                                              \
        }                                                                                          \
        return best;                                                                               \
    }

#if defined(__x86_64__)
static inline __m128 multiply_add(__m128 a, __m128 b, __m128 c)
{
    return _mm_add_ps(_mm_mul_ps(a, b), c);
}
PEAK(peak_base, , __m128, _mm_set1_ps, multiply_add, 4, _mm_cvtss_f32)
PEAK(peak_avx2, __attribute__((target("avx2,fma"))), __m256, _mm256_set1_ps, _mm256_fmadd_ps, 8,
     _mm256_cvtss_f32)
PEAK(peak_avx512, __attribute__((target("avx512f"))), __m512, _mm512_set1_ps, _mm512_fmadd_ps, 16,
     _mm512_cvtss_f32)
#elif defined(__aarch64__)
#define NEON_FMA(a, b, c) vfmaq_f32(c, a, b)
#define NEON_FIRST(a) vgetq_lane_f32(a, 0)
PEAK(peak_neon, , float32x4_t, vdupq_n_f32, NEON_FMA, 4, NEON_FIRST)
#endif

static const struct {
    const char *suffix;
    uint64_t isa;
    double (*measure)(void);
} peaks[] = {
#if defined(__x86_64__)
    {"_base", TDN_ISA_X86, peak_base},
    {"_avx2", TDN_ISA_X86 | TDN_ISA_AVX2, peak_avx2},
    {"_avx512", TDN_ISA_X86 | TDN_ISA_AVX2 | TDN_ISA_AVX512, peak_avx512},
#elif defined(__aarch64__)
    {"_neon", TDN_ISA_ARM, peak_neon},
#endif
};
enum { N_PEAKS = sizeof peaks / sizeof peaks[0] };

#endif
