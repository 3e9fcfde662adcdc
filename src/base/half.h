/* SPDX-License-Identifier: Apache-2.0 */
/* IEEE 754 binary16 and bfloat16, by bits; rounding to nearest even. */
#ifndef TDN_BASE_HALF_H
#define TDN_BASE_HALF_H
#include <stdint.h>
float tdn_f16_to_f32(uint16_t h);
uint16_t tdn_f32_to_f16(float f);
float tdn_bf16_to_f32(uint16_t h);
uint16_t tdn_f32_to_bf16(float f);
#endif
