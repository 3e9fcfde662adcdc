/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vectors of half precision for kernels: loads and stores of binary16 (TDN_F16) and bfloat16
 * (TDN_BF16) as floats, at any level; and, where a level multiplies binary16, vectors of it.
 */
#ifndef TDN_BACKEND_CPU_HALVES_H
#define TDN_BACKEND_CPU_HALVES_H

#include "backend/cpu/vec.h"
#include "base/half.h"
#include "tendon/tendon.h"

/* ---- As floats ------------------------------------------------------------------------------- */

/* F16 that may be infinite or NaN, too. */
TDN_INLINE vf vf_load_f16(const uint16_t *p)
{
    vf x = vf_load_half(p);
#if TDN_LANES == 4 && !defined(__ARM_NEON)
    const vi bits = __builtin_convertvector(*(const vh_unaligned *)p, vi);
    const vi special = (bits & 0x7c00) == 0x7c00;
    x = vf_select(special, (vf)((vi)x | 0x7f800000), x);
#endif
    return x;
}

TDN_INLINE void vf_store_f16(uint16_t *p, vf x)
{
#if TDN_LANES == 16
    _mm256_storeu_si256((__m256i *)(void *)p,
                        _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
#elif TDN_LANES == 8
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__ARM_NEON)
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32((float32x4_t)x)));
#else
    for (int i = 0; i < TDN_LANES; i++)
        p[i] = tdn_f32_to_f16(x[i]);
#endif
}

TDN_INLINE vf vf_load_bf16(const uint16_t *p)
{
    return (vf)(__builtin_convertvector(*(const vh_unaligned *)p, vi) << 16);
}

TDN_INLINE void vf_store_bf16(uint16_t *p, vf x)
{
    typedef uint32_t bits_of __attribute__((vector_size(TDN_LANES * 4)));
    const bits_of bits = (bits_of)x, odd = (bits >> 16) & 1;
    const bits_of rounded =
        (bits_of)vf_select(vm_eq(x, x), (vf)(bits + odd + 0x7fff), (vf)(bits | 0x400000));
    *(vh_unaligned *)p = __builtin_convertvector(rounded >> 16, vh_unaligned);
}

/* The first n lanes of what is at element `at`, the others 0; dtype is a constant: F32, F16, BF16.
 * Nothing beyond the n is read or written. */
TDN_INLINE vf tdn_load(const void *from, int64_t at, const tdn_dtype dtype, const int n)
{
    if (dtype == TDN_F32)
        return n == TDN_LANES ? vf_load((const float *)from + at)
                              : vf_load_n((const float *)from + at, n);
    uint16_t part[TDN_LANES] = {0};
    const uint16_t *p = (const uint16_t *)from + at;
    if (n < TDN_LANES) {
        memcpy(part, p, (size_t)n * sizeof *p);
        p = part;
    }
    return dtype == TDN_F16 ? vf_load_f16(p) : vf_load_bf16(p);
}

TDN_INLINE void tdn_store(void *to, int64_t at, const tdn_dtype dtype, vf x, const int n)
{
    if (dtype == TDN_F32) {
        if (n == TDN_LANES)
            vf_store((float *)to + at, x);
        else
            vf_store_n((float *)to + at, x, n);
        return;
    }
    uint16_t part[TDN_LANES], *p = n < TDN_LANES ? part : (uint16_t *)to + at;
    if (dtype == TDN_F16)
        vf_store_f16(p, x);
    else
        vf_store_bf16(p, x);
    if (n < TDN_LANES)
        memcpy((uint16_t *)to + at, part, (size_t)n * sizeof *part);
}

/* ---- Products of binary16 -------------------------------------------------------------------- */

#if defined(__AVX512FP16__) || defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)

enum { TDN_HALF_LANES = 2 * TDN_LANES };
typedef _Float16 vh __attribute__((vector_size(TDN_LANES * 4)));
typedef _Float16 vh_any __attribute__((vector_size(TDN_LANES * 4), aligned(2), may_alias));
typedef _Float16 f16 __attribute__((may_alias));

TDN_INLINE vh vh_load(const f16 *p) { return *(const vh_any *)p; }
TDN_INLINE vh vh_set(_Float16 x) { return x - (vh){0}; }
/* sum + x[k] * b, the same x[k] in all lanes. On x86 within one instruction, from memory: a
 * broadcast of 16 bits by itself takes a turn of a port that multiplies. Compilers would share one
 * between sums, and keep addresses that can be part of the instruction; so it is spelled out. */
TDN_INLINE vh vh_add_product(vh sum, const f16 *x, int64_t k, vh b)
{
#if defined(__AVX512FP16__)
    __asm__("vfmadd231ph (%2,%3,2)%{1to32%}, %1, %0" : "+v"(sum) : "v"(b), "r"(x), "r"(k));
    return sum;
#else
    return sum + vh_set(x[k]) * b;
#endif
}
/* The lower or upper half of the lanes. */
TDN_INLINE vf vf_from_halves(vh x, const int upper)
{
#if defined(__AVX512FP16__)
    const __m512i bits = (__m512i)x;
    return (vf)_mm512_cvtph_ps(upper ? _mm512_extracti64x4_epi64(bits, 1)
                                     : _mm512_castsi512_si256(bits));
#else
    return (vf)(upper ? vcvt_high_f32_f16((float16x8_t)x)
                      : vcvt_f32_f16(vget_low_f16((float16x8_t)x)));
#endif
}

#endif
#endif
