/* SPDX-License-Identifier: Apache-2.0 */
/* IEEE 754 binary16 and bfloat16, by bits; rounding to nearest even. */
#ifndef TDN_BASE_HALF_H
#define TDN_BASE_HALF_H
#include <stdbool.h>
#include <stdint.h>

#include "tendon/tendon.h"

float tdn_f16_to_f32(uint16_t h);
uint16_t tdn_f32_to_f16(float f);
float tdn_bf16_to_f32(uint16_t h);
uint16_t tdn_f32_to_bf16(float f);

static inline bool tdn_is_half(tdn_dtype dtype) { return dtype == TDN_F16 || dtype == TDN_BF16; }
/* As the one of the two that `half` says. */
static inline uint16_t tdn_f32_to_half(float f, tdn_dtype half)
{
    return half == TDN_F16 ? tdn_f32_to_f16(f) : tdn_f32_to_bf16(f);
}

#endif
