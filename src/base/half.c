/* SPDX-License-Identifier: Apache-2.0 */
/*
 * binary16 and bfloat16 by bits, so that every compiler, level and machine gives the same result.
 *
 * Rounding is to nearest, ties to even; a finite value beyond the range becomes infinity; NaN stays
 * NaN and keeps the upper bits of its payload, made quiet.
 */
#include "base/half.h"

#include <string.h>

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

float tdn_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 0x1fu, fraction = h & 0x3ffu;
    if (exponent == 0) { /* zero or subnormal: fraction * 2^-24 is exact in fp32 */
        const float magnitude = (float)fraction * 0x1p-24f;
        return float_of(sign | bits_of(magnitude));
    }
    if (exponent == 31)
        return float_of(sign | 0x7f800000u | fraction << 13);
    return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t tdn_f32_to_f16(float f)
{
    const uint32_t u = bits_of(f), magnitude = u & 0x7fffffffu;
    const uint16_t sign = (uint16_t)((u >> 16) & 0x8000u);
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
    if (magnitude >= 0x47800000u) /* 2^16 and infinity; 65520..65536 rounds up to infinity below */
        return sign | 0x7c00u;
    if (magnitude < 0x33000000u) /* below 2^-25: nearer to zero than to the smallest subnormal */
        return sign;
    if (magnitude < 0x38800000u) {                      /* below 2^-14: subnormal, unit 2^-24 */
        const uint32_t shift = 126 - (magnitude >> 23); /* 14..24 */
        const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
        const uint32_t kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1),
                       half = 1u << (shift - 1);
        return (uint16_t)(sign | (kept + (rest > half || (rest == half && (kept & 1)))));
    }
    /* Adding half a unit less one, plus the last kept bit, carries exactly when
     * rounding goes up. */
    const uint32_t rebased = magnitude - (112u << 23);
    return (uint16_t)(sign | ((rebased + 0xfffu + ((rebased >> 13) & 1)) >> 13));
}

float tdn_bf16_to_f32(uint16_t h) { return float_of((uint32_t)h << 16); }

uint16_t tdn_f32_to_bf16(float f)
{
    const uint32_t u = bits_of(f);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}
