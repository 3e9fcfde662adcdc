/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments of iconv steps, and what the kernels of integers have beside those of floats. Four
 * bytes of x are one term of a sum, a word; panels hold words of four weights.
 *
 * Packed weights: [group][panel][tap][word][nr] of 4 bytes each; then, per group and column of
 * whole panels, the int32 that a sum starts with: what makes up for the zero point of x, and for
 * the offset at which the level multiplies; then a tap of padding, the zero point in every byte.
 * Depthwise: int32 [tap][c].
 */
#ifndef TDN_BACKEND_CPU_ICONV_H
#define TDN_BACKEND_CPU_ICONV_H

#include "backend/cpu/matrix.h"

enum { TDN_WORD = 4 /* bytes of a term */ };

/* y = sum * scale[m] (or factor) + bias[m] + residual * r_scale + r_offset; a U8 result is
 * out_zero + the rounded clamp(y * out_scale, lo, hi), a F32 one clamp(y, lo, hi). */
typedef struct tdn_requant {
    int32_t x_zero;
    int32_t scale; /* step input, -1: none */
    float factor, r_scale, r_offset, out_scale;
    int32_t out_zero, zero;
} tdn_requant;

/* Each ends with an epilogue, whose lo, hi, bias and residual are those above. */
typedef struct tdn_iconv_args {
    tdn_requant requant;
    tdn_conv_args conv;
} tdn_iconv_args;

typedef struct tdn_idwconv_args {
    tdn_requant requant;
    tdn_dwconv_args conv;
} tdn_idwconv_args;

TDN_DECLARE_DOT_LEVELS(tdn_block_fn, tdn_block_u8);
TDN_DECLARE_DOT_LEVELS(tdn_kernel_fn, tdn_iconv_u8);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_idwconv_u8);

/* As tdn_epilogue_make, for sums of integers. */
tdn_status tdn_requant_make(tdn_requant *requant, tdn_epilogue *epilogue, tdn_map_program **program,
                            const tdn_group *group, tdn_arena *arena, tdn_error *error);
tdn_status tdn_requant_check(const tdn_requant *requant, const tdn_epilogue *epilogue,
                             const void *rest, size_t rest_size, const tdn_view *in, int n_in,
                             const tdn_view *out, tdn_error *error);

/* Depthwise: those of some pixels, then of a line where a program takes them. */
static inline int64_t tdn_idwconv_step(const tdn_view *out)
{
    return tdn_cpu_row_floats(out->dims[4]);
}
static inline int64_t tdn_idwconv_sums(const tdn_dwconv_args *args, const tdn_view *out)
{
    const int64_t line = args->epilogue.has_program ? out->dims[3] : 0;
    return (TDN_DW_PIXELS + line) * tdn_idwconv_step(out);
}

/* Where in packed weights the start values are, and the padding behind them. */
static inline size_t tdn_iconv_start_offset(const tdn_conv_args *args)
{
    return (size_t)(args->desc.group * tdn_tiling_packed(&args->tiling)) * TDN_WORD;
}
static inline size_t tdn_iconv_padding_offset(const tdn_conv_args *args)
{
    const tdn_tiling *t = &args->tiling;
    return tdn_iconv_start_offset(args) +
           (size_t)((int64_t)args->desc.group * t->n_panels * t->nr) * sizeof(int32_t);
}
static inline size_t tdn_iconv_packed_size(const tdn_conv_args *args)
{
    return tdn_round_up(tdn_iconv_padding_offset(args) + (size_t)args->tiling.k * TDN_WORD,
                        TDN_ALIGN);
}

#endif
