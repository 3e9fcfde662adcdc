/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Vectors of integers for kernels over bytes. A dot product takes 4 unsigned bytes of x, the same
 * in all lanes, and 4 signed ones of w in each lane, and adds up exactly. Levels without an
 * instruction for it take it in halves of 2 products of 16 bits. Those of ARM multiply signed by
 * signed: they see x - TDN_DOT_OFFSET, and whoever packs w makes up for it.
 */
#ifndef TDN_BACKEND_CPU_INTS_H
#define TDN_BACKEND_CPU_INTS_H

#include "backend/cpu/vec.h"

typedef int32_t word __attribute__((aligned(1), may_alias)); /* 4 bytes, anywhere */
typedef int16_t vs __attribute__((vector_size(TDN_LANES * 4)));
typedef uint16_t vus __attribute__((vector_size(TDN_LANES * 4)));
typedef uint8_t vb __attribute__((vector_size(TDN_LANES)));
typedef uint8_t vb_unaligned __attribute__((vector_size(TDN_LANES), aligned(1), may_alias));

#if defined(__SSE2__)
/* Products of 16 bits, neighbours added. */
TDN_INLINE vi vs_madd(vs a, vs b)
{
#if TDN_LANES == 16
    return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif TDN_LANES == 8
    return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#else
    return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#endif
}
#endif

/* ---- Dot products ---------------------------------------------------------------------------- */

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)

enum { DOT_HALVES = 1 };
typedef vi dot_x;
typedef vi dot_w;
TDN_INLINE dot_x dot_set(const word *p, int half) { return vi_set(*p + half); }
TDN_INLINE dot_w dot_load(const int32_t *p, int half) { return vi_load(p + half); }
TDN_INLINE vi dot_add(vi sum, dot_x x, dot_w w)
{
#if TDN_LANES == 16
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
#else
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)x, (__m256i)w);
#endif
}

#elif defined(__ARM_FEATURE_DOTPROD)

enum { DOT_HALVES = 1 };
typedef vi dot_x;
typedef vi dot_w;
TDN_INLINE dot_x dot_set(const word *p, int half)
{
    return vi_set((int32_t)((uint32_t)*p ^ 0x80808080u) + half);
}
TDN_INLINE dot_w dot_load(const int32_t *p, int half) { return vi_load(p + half); }
TDN_INLINE vi dot_add(vi sum, dot_x x, dot_w w)
{
    return (vi)vdotq_s32((int32x4_t)sum, (int8x16_t)w, (int8x16_t)x);
}
/* Four words of x, one of which is multiplied: a word in all lanes costs an instruction. */
#define DOT_BY_LANE 1
TDN_INLINE dot_x dot_set_four(const word *p)
{
    return (vi)veorq_u8(vld1q_u8((const uint8_t *)p), vdupq_n_u8(0x80));
}
TDN_INLINE vi dot_add_lane(vi sum, dot_x x, const int lane, dot_w w)
{
    const int32x4_t s = (int32x4_t)sum;
    const int8x16_t a = (int8x16_t)w, b = (int8x16_t)x;
    switch (lane) {
    case 0: return (vi)vdotq_laneq_s32(s, a, b, 0);
    case 1: return (vi)vdotq_laneq_s32(s, a, b, 1);
    case 2: return (vi)vdotq_laneq_s32(s, a, b, 2);
    default: return (vi)vdotq_laneq_s32(s, a, b, 3);
    }
}

#elif defined(__ARM_NEON)

enum { DOT_HALVES = 2 };
typedef int8x8_t dot_x;
typedef int8x8_t dot_w;
/* A half is 2 neighbours of the 4 bytes. */
TDN_INLINE dot_x dot_set(const word *p, int half)
{
    const uint32_t bytes = (uint32_t)*p ^ 0x80808080u;
    return vreinterpret_s8_u16(vdup_n_u16((uint16_t)(half ? bytes >> 16 : bytes)));
}
TDN_INLINE dot_w dot_load(const int32_t *p, int half)
{
    const int16x8_t w = (int16x8_t)vi_load(p);
    return vreinterpret_s8_s16(vget_low_s16(half ? vuzp2q_s16(w, w) : vuzp1q_s16(w, w)));
}
TDN_INLINE vi dot_add(vi sum, dot_x x, dot_w w)
{
    return (vi)vpadalq_s16((int32x4_t)sum, vmull_s8(w, x));
}

#else

enum { DOT_HALVES = 2 };
typedef vi dot_x;
typedef vs dot_w;
/* x is in its register here: compilers know that additions may be in any order, and use more
 * registers than there are. */
#define DOT_HOLD(x) __asm__("" : "+v"(x))

/* A half is every other of the 4 bytes. */
TDN_INLINE dot_x dot_set(const word *p, int half)
{
    vi x = vi_set(*p);
    DOT_HOLD(x);
    return half ? (vi)((vus)x >> 8) : x & vi_set(0x00ff00ff);
}
TDN_INLINE dot_w dot_load(const int32_t *p, int half)
{
    const vs w = (vs)vi_load(p);
    return half ? w >> 8 : (vs)((vus)w << 8) >> 8;
}
TDN_INLINE vi dot_add(vi sum, dot_x x, dot_w w)
{
    sum += vs_madd((vs)x, w);
    DOT_HOLD(sum);
    return sum;
}

#endif

/* x * w, where x is 0..255 and w a signed byte: the upper 16 bits of x are 0. */
#if defined(__SSE2__)
TDN_INLINE vi vi_mul_bytes(vi x, vi w) { return vs_madd((vs)x, (vs)w); }
#else
TDN_INLINE vi vi_mul_bytes(vi x, vi w) { return x * w; }
#endif

/* ---- Bytes and floats ------------------------------------------------------------------------ */

/* Half to even; meaningless beyond the range of int32_t. */
TDN_INLINE vi vf_round_int(vf x)
{
#if TDN_LANES == 16
    return (vi)_mm512_cvtps_epi32((__m512)x);
#elif TDN_LANES == 8
    return (vi)_mm256_cvtps_epi32((__m256)x);
#elif defined(__ARM_NEON)
    return (vi)vcvtnq_s32_f32((float32x4_t)x);
#else
    return (vi)_mm_cvtps_epi32((__m128)x);
#endif
}

/* Numbers of 32 bits from bytes; and back, of numbers that a byte holds. */
#if TDN_LANES == 16
TDN_INLINE vi vi_from_bytes(vb x) { return (vi)_mm512_cvtepu8_epi32((__m128i)x); }
TDN_INLINE vb vi_to_bytes(vi x) { return (vb)_mm512_cvtepi32_epi8((__m512i)x); }
#elif TDN_LANES == 8
TDN_INLINE vi vi_from_bytes(vb x)
{
    return (vi)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)x));
}
TDN_INLINE vb vi_to_bytes(vi x)
{
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128((__m256i)x),
                                           _mm256_extracti128_si256((__m256i)x, 1));
    return (vb)_mm_cvtsi128_si64(_mm_packus_epi16(words, words));
}
#elif defined(__SSE2__)
TDN_INLINE vi vi_from_bytes(vb x)
{
    const __m128i zero = _mm_setzero_si128(), bytes = _mm_cvtsi32_si128((int32_t)x);
    return (vi)_mm_unpacklo_epi16(_mm_unpacklo_epi8(bytes, zero), zero);
}
TDN_INLINE vb vi_to_bytes(vi x)
{
    const __m128i words = _mm_packs_epi32((__m128i)x, (__m128i)x);
    return (vb)_mm_cvtsi128_si32(_mm_packus_epi16(words, words));
}
#else
TDN_INLINE vi vi_from_bytes(vb x)
{
    const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32((uint32_t)x));
    return (vi)vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
}
TDN_INLINE vb vi_to_bytes(vi x)
{
    const uint16x4_t words = vmovn_u32((uint32x4_t)x);
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(words, words));
    return (vb)vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
}
#endif
TDN_INLINE vb vb_load(const uint8_t *p) { return *(const vb_unaligned *)p; }
TDN_INLINE void vb_store(uint8_t *p, vb x) { *(vb_unaligned *)p = x; }
/* The first n lanes, the others 0. The compiler is told of the lanes, or it warns of more. */
TDN_INLINE vb vb_load_n(const uint8_t *p, int n)
{
    vb x = {0};
    if (n > TDN_LANES)
        __builtin_unreachable();
    memcpy(&x, p, (size_t)n);
    return x;
}
TDN_INLINE void vb_store_n(uint8_t *p, vb x, int n)
{
    if (n > TDN_LANES)
        __builtin_unreachable();
    memcpy(p, &x, (size_t)n);
}

#endif
