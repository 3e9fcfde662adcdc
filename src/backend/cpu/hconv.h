/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments of hconv steps are those of convolutions of floats, tdn_conv_args. Two channels are one
 * term of a sum, a word. Sums are floats, and wait outside of the output until they are complete.
 *
 * Packed weights: [group][panel][tap][word] of binary16 [2][nr], of bfloat16 [nr][2]; then a tap of
 * zeros, padding.
 */
#ifndef TDN_BACKEND_CPU_HCONV_H
#define TDN_BACKEND_CPU_HCONV_H

#include "backend/cpu/matrix.h"

enum { TDN_HALVES_IN_TERM = 2 };

/* Where in nr columns' word half `i` of column `j` is. */
static inline int64_t tdn_hconv_slot(tdn_dtype half, int64_t i, int64_t j, int64_t nr)
{
    return half == TDN_BF16 ? j * TDN_HALVES_IN_TERM + i : i * nr + j;
}

TDN_DECLARE_HALF_LEVELS(tdn_block_fn, tdn_block_half);
TDN_DECLARE_HALF_LEVELS(tdn_kernel_fn, tdn_hconv);

static inline size_t tdn_hconv_padding_offset(const tdn_conv_args *args)
{
    return (size_t)(args->desc.group * tdn_tiling_packed(&args->tiling)) * TDN_TERM_SIZE;
}
static inline size_t tdn_hconv_packed_size(const tdn_conv_args *args)
{
    return tdn_round_up(tdn_hconv_padding_offset(args) + (size_t)args->tiling.k * TDN_TERM_SIZE,
                        TDN_ALIGN);
}

#endif
