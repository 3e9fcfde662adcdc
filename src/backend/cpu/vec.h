/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vectors of fp32 for kernels, written once and compiled once per instruction set level. The width
 * follows the compiler's flags: 16 lanes with AVX-512, 8 with AVX2, 4 otherwise (SSE2, NEON). GCC
 * and Clang vector extensions; intrinsics only where those cannot say it: masks, selection, min and
 * max, square root, partial loads and stores.
 *
 * No function here reads or writes outside the elements it is told to: user tensors are bound in
 * place.
 */
#ifndef TDN_BACKEND_CPU_VEC_H
#define TDN_BACKEND_CPU_VEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define TDN_LANES 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define TDN_LANES 8
#elif defined(__SSE2__)
#include <emmintrin.h>
#define TDN_LANES 4
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#define TDN_LANES 4
#else
#define TDN_LANES 4
#endif

/* Whether multiplying by one lane of a vector, taken as vf_set(x[i]), costs no instruction more. */
#if defined(__ARM_NEON)
#define TDN_BY_LANE 1
#else
#define TDN_BY_LANE 0
#endif

/* A loop that is unrolled completely: its bounds are constants after inlining, so that arrays of
 * vectors become registers. Clang does it by itself, before it places arrays; told to, too late.
 * TDN_ROLLED: one that is not, though its array is short. */
#if defined(__clang__)
#define TDN_UNROLLED(...) for (__VA_ARGS__)
#define TDN_ROLLED(...) for (__VA_ARGS__)
#else
#define TDN_ROLLED(...) _Pragma("GCC unroll 1") for (__VA_ARGS__)
#define TDN_UNROLLED(...) _Pragma("GCC unroll 32") for (__VA_ARGS__)
#endif
#define TDN_INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(TDN_LANES * 4)));
typedef float vf_unaligned __attribute__((vector_size(TDN_LANES * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(TDN_LANES * 4)));
typedef uint16_t vh_unaligned __attribute__((vector_size(TDN_LANES * 2), aligned(2), may_alias));
typedef int32_t vi_unaligned __attribute__((vector_size(TDN_LANES * 4), aligned(4), may_alias));

TDN_INLINE vf vf_load(const float *p) { return *(const vf_unaligned *)p; }
TDN_INLINE void vf_store(float *p, vf x) { *(vf_unaligned *)p = x; }
TDN_INLINE vf vf_set(float x) { return x - (vf){0}; }
TDN_INLINE vi vi_load(const int32_t *p) { return *(const vi_unaligned *)p; }
TDN_INLINE void vi_store(int32_t *p, vi x) { *(vi_unaligned *)p = x; }
TDN_INLINE vi vi_set(int32_t x) { return x - (vi){0}; }
TDN_INLINE vf vf_from_int(vi x) { return __builtin_convertvector(x, vf); }
/* Towards zero; meaningless beyond the range of int32_t. */
TDN_INLINE vi vf_to_int(vf x) { return __builtin_convertvector(x, vi); }

#if TDN_LANES == 16

typedef __mmask16 vm; /* one bit a lane */
TDN_INLINE vm vm_lt(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
TDN_INLINE vm vm_le(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ); }
TDN_INLINE vm vm_eq(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ); }
TDN_INLINE vm vm_ne(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NEQ_UQ); }
TDN_INLINE vm vm_and(vm a, vm b) { return a & b; }
TDN_INLINE vm vm_or(vm a, vm b) { return a | b; }
TDN_INLINE vm vm_xor(vm a, vm b) { return a ^ b; }
TDN_INLINE vm vm_not(vm a) { return (vm)~a; }
TDN_INLINE bool vm_any(vm a) { return a != 0; }
/* One bit a lane. */
/* Not by conversion: gcc 12 spills 16 bits of a mask and counts 32. */
TDN_INLINE uint32_t vm_bits(vm a) { return _cvtmask16_u32(a); }
TDN_INLINE vf vf_select(vm m, vf a, vf b)
{
    return (vf)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a);
}
/* The larger (smaller); b where b is NaN; either where only a is. */
TDN_INLINE vf vf_max(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
TDN_INLINE vf vf_min(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
TDN_INLINE vf vf_sqrt(vf x) { return (vf)_mm512_sqrt_ps((__m512)x); }
TDN_INLINE vm vm_first(int n) { return (vm)((1u << n) - 1); }
/* The first n lanes, the others 0; n in 0..TDN_LANES. */
TDN_INLINE vf vf_load_n(const float *p, int n) { return (vf)_mm512_maskz_loadu_ps(vm_first(n), p); }
TDN_INLINE void vf_store_n(float *p, vf x, int n)
{
    _mm512_mask_storeu_ps(p, vm_first(n), (__m512)x);
}

#else

typedef vi vm; /* all bits of a lane */
TDN_INLINE vm vm_lt(vf a, vf b) { return a < b; }
TDN_INLINE vm vm_le(vf a, vf b) { return a <= b; }
TDN_INLINE vm vm_eq(vf a, vf b) { return a == b; }
TDN_INLINE vm vm_ne(vf a, vf b) { return a != b; }
TDN_INLINE vm vm_and(vm a, vm b) { return a & b; }
TDN_INLINE vm vm_or(vm a, vm b) { return a | b; }
TDN_INLINE vm vm_xor(vm a, vm b) { return a ^ b; }
TDN_INLINE vm vm_not(vm a) { return ~a; }

#if TDN_LANES == 8

TDN_INLINE bool vm_any(vm a) { return _mm256_movemask_ps((__m256)a) != 0; }
TDN_INLINE uint32_t vm_bits(vm a) { return (uint32_t)_mm256_movemask_ps((__m256)a); }
TDN_INLINE vf vf_select(vm m, vf a, vf b)
{
    return (vf)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)m);
}
TDN_INLINE vf vf_max(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
TDN_INLINE vf vf_min(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
TDN_INLINE vf vf_sqrt(vf x) { return (vf)_mm256_sqrt_ps((__m256)x); }
TDN_INLINE vm vm_first(int n) { return vi_set(n) > (vi){0, 1, 2, 3, 4, 5, 6, 7}; }
TDN_INLINE vf vf_load_n(const float *p, int n)
{
    return (vf)_mm256_maskload_ps(p, (__m256i)vm_first(n));
}
TDN_INLINE void vf_store_n(float *p, vf x, int n)
{
    _mm256_maskstore_ps(p, (__m256i)vm_first(n), (__m256)x);
}

#else

TDN_INLINE vm vm_first(int n) { return vi_set(n) > (vi){0, 1, 2, 3}; }
#if defined(__ARM_NEON)
TDN_INLINE vf vf_select(vm m, vf a, vf b)
{
    return (vf)vbslq_f32((uint32x4_t)m, (float32x4_t)a, (float32x4_t)b);
}
#else
TDN_INLINE vf vf_select(vm m, vf a, vf b) { return (vf)((m & (vi)a) | (~m & (vi)b)); }
#endif
#if defined(__SSE2__)
TDN_INLINE bool vm_any(vm a) { return _mm_movemask_ps((__m128)a) != 0; }
TDN_INLINE uint32_t vm_bits(vm a) { return (uint32_t)_mm_movemask_ps((__m128)a); }
TDN_INLINE vf vf_max(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
TDN_INLINE vf vf_min(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
TDN_INLINE vf vf_sqrt(vf x) { return (vf)_mm_sqrt_ps((__m128)x); }
#elif defined(__ARM_NEON)
TDN_INLINE bool vm_any(vm a) { return vmaxvq_u32((uint32x4_t)a) != 0; }
TDN_INLINE uint32_t vm_bits(vm a) { return vaddvq_u32((uint32x4_t)(a & (vi){1, 2, 4, 8})); }
TDN_INLINE vf vf_max(vf a, vf b) { return (vf)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
TDN_INLINE vf vf_min(vf a, vf b) { return (vf)vminq_f32((float32x4_t)a, (float32x4_t)b); }
TDN_INLINE vf vf_sqrt(vf x) { return (vf)vsqrtq_f32((float32x4_t)x); }
#else
TDN_INLINE bool vm_any(vm a) { return (a[0] | a[1] | a[2] | a[3]) != 0; }
TDN_INLINE uint32_t vm_bits(vm a)
{
    return (uint32_t)((a[0] & 1) | (a[1] & 2) | (a[2] & 4) | (a[3] & 8));
}
TDN_INLINE vf vf_max(vf a, vf b) { return vf_select(a > b, a, b); }
TDN_INLINE vf vf_min(vf a, vf b) { return vf_select(a < b, a, b); }
TDN_INLINE vf vf_sqrt(vf x)
{
    return (vf){__builtin_sqrtf(x[0]), __builtin_sqrtf(x[1]), __builtin_sqrtf(x[2]),
                __builtin_sqrtf(x[3])};
}
#endif
#if defined(__ARM_NEON)
TDN_INLINE vf vf_load_n(const float *p, int n)
{
    float32x2_t low = vdup_n_f32(0), high = low;
    if (n >= TDN_LANES)
        return vf_load(p);
    if (n >= 2)
        low = vld1_f32(p);
    if (n == 1)
        low = vld1_lane_f32(p, low, 0);
    else if (n == 3)
        high = vld1_lane_f32(p + 2, high, 0);
    return (vf)vcombine_f32(low, high);
}
TDN_INLINE void vf_store_n(float *p, vf x, int n)
{
    if (n >= TDN_LANES)
        vf_store(p, x);
    else if (n >= 2)
        vst1_f32(p, vget_low_f32((float32x4_t)x));
    if (n == 1)
        vst1q_lane_f32(p, (float32x4_t)x, 0);
    else if (n == 3)
        vst1q_lane_f32(p + 2, (float32x4_t)x, 2);
}
#else
TDN_INLINE vf vf_load_n(const float *p, int n)
{
    vf x = {0};
    for (int i = 0; i < n; i++)
        x[i] = p[i];
    return x;
}
TDN_INLINE void vf_store_n(float *p, vf x, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = x[i];
}

#endif
#endif
#endif

/* Halves, which are finite, as floats. */
#if TDN_LANES == 16
TDN_INLINE vf vf_load_half(const uint16_t *p)
{
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
#elif TDN_LANES == 8
TDN_INLINE vf vf_load_half(const uint16_t *p)
{
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
#elif defined(__ARM_NEON)
TDN_INLINE vf vf_load_half(const uint16_t *p)
{
    return (vf)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
#else
/* Exponents differ by 112; a multiplication adds that to subnormal ones too. */
TDN_INLINE vf vf_load_half(const uint16_t *p)
{
    const vi bits = __builtin_convertvector(*(const vh_unaligned *)p, vi);
    const vf magnitude = (vf)((bits & 0x7fff) << 13) * 0x1p112f;
    return (vf)((vi)magnitude | (bits & 0x8000) << 16);
}
#endif

TDN_INLINE vf vf_abs(vf x) { return (vf)((vi)x & vi_set(0x7fffffff)); }
TDN_INLINE vf vf_sign_of(vf magnitude, vf sign)
{
    return (vf)(((vi)magnitude & vi_set(0x7fffffff)) | ((vi)sign & vi_set(INT32_MIN)));
}
/* NaN where either is. */
TDN_INLINE vf vf_max_nan(vf a, vf b) { return vf_select(vm_ne(a, a), a, vf_max(a, b)); }
TDN_INLINE vf vf_min_nan(vf a, vf b) { return vf_select(vm_ne(a, a), a, vf_min(a, b)); }
/* 1 where set. */
TDN_INLINE vf vf_from_mask(vm m) { return vf_select(m, vf_set(1), vf_set(0)); }

typedef float vf4 __attribute__((vector_size(16)));

/* join(a, b) over all lanes, halving: a fixed order. The result is in every lane. */
#if TDN_LANES == 16
#define TDN_FOLD(join, x)                                                                          \
    do {                                                                                           \
        x = join(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5,  \
                                            6, 7));                                                \
        x = join(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9,    \
                                            10, 11));                                              \
        x = join(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15,    \
                                            12, 13));                                              \
        x = join(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12,    \
                                            15, 14));                                              \
    } while (0)
#elif TDN_LANES == 8
#define TDN_FOLD(join, x)                                                                          \
    do {                                                                                           \
        x = join(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3));                        \
        x = join(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5));                        \
        x = join(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6));                        \
    } while (0)
#else
#define TDN_FOLD(join, x)                                                                          \
    do {                                                                                           \
        x = join(x, __builtin_shufflevector(x, x, 2, 3, 0, 1));                                    \
        x = join(x, __builtin_shufflevector(x, x, 1, 0, 3, 2));                                    \
    } while (0)
#endif
TDN_INLINE vf vf_add(vf a, vf b) { return a + b; }
TDN_INLINE vf vf_mul(vf a, vf b) { return a * b; }
TDN_INLINE float vf_sum(vf x)
{
    TDN_FOLD(vf_add, x);
    return x[0];
}
/* NaN where any is. */
TDN_INLINE float vf_max_of(vf x)
{
    TDN_FOLD(vf_max_nan, x);
    return x[0];
}
TDN_INLINE float vf_min_of(vf x)
{
    TDN_FOLD(vf_min_nan, x);
    return x[0];
}
TDN_INLINE float vf_product_of(vf x)
{
    TDN_FOLD(vf_mul, x);
    return x[0];
}

/* The first n lanes of x, the others `rest`. */
TDN_INLINE vf vf_first(vf x, int n, float rest) { return vf_select(vm_first(n), x, vf_set(rest)); }

#endif
