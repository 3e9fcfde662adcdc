/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Levels of instruction sets. Files k_*.c are compiled once a level, with
 * -DTDN_LEVEL=base|avx2|avx512 on x86-64 and -DTDN_LEVEL=neon on AArch64, and name what they export
 * TDN_KERNEL(stem): "tdn_conv_f32" becomes "tdn_conv_f32_avx512". A kernel list has a row for every
 * level of every architecture, so that plans for other machines can be made anywhere; the rows of
 * the other architecture have no function.
 *
 * Products of bytes have more levels: avxvnni, avx512vnni and dotprod are avx2, avx512 and neon
 * with instructions for dot products of bytes. Only files of such products are compiled for them;
 * what else those call is of the level below (TDN_F32_KERNEL). So have products of halves:
 * avx512fp16 and armfp16 multiply binary16, avx512bf16 bfloat16.
 */
#ifndef TDN_BACKEND_CPU_LEVELS_H
#define TDN_BACKEND_CPU_LEVELS_H

#include "backend/backend.h"

#define TDN_ISA_BITS_base TDN_ISA_X86
#define TDN_ISA_BITS_avx2 (TDN_ISA_X86 | TDN_ISA_AVX2)
#define TDN_ISA_BITS_avx512 (TDN_ISA_X86 | TDN_ISA_AVX2 | TDN_ISA_AVX512)
#define TDN_ISA_BITS_avxvnni (TDN_ISA_BITS_avx2 | TDN_ISA_AVXVNNI)
#define TDN_ISA_BITS_avx512vnni (TDN_ISA_BITS_avx512 | TDN_ISA_VNNI)
#define TDN_ISA_BITS_neon TDN_ISA_ARM
#define TDN_ISA_BITS_dotprod (TDN_ISA_ARM | TDN_ISA_DOTPROD)
#define TDN_ISA_BITS_avx512fp16 (TDN_ISA_BITS_avx512 | TDN_ISA_AVX512FP16)
#define TDN_ISA_BITS_avx512bf16 (TDN_ISA_BITS_avx512 | TDN_ISA_AVX512BF16)
#define TDN_ISA_BITS_armfp16 (TDN_ISA_ARM | TDN_ISA_ARMFP16)

#define TDN_F32_LEVEL_base base
#define TDN_F32_LEVEL_avx2 avx2
#define TDN_F32_LEVEL_avx512 avx512
#define TDN_F32_LEVEL_avxvnni avx2
#define TDN_F32_LEVEL_avx512vnni avx512
#define TDN_F32_LEVEL_neon neon
#define TDN_F32_LEVEL_dotprod neon
#define TDN_F32_LEVEL_avx512fp16 avx512
#define TDN_F32_LEVEL_avx512bf16 avx512
#define TDN_F32_LEVEL_armfp16 neon

/* The register tile of matrix kernels: rows x columns. 2 vectors of columns; rows x 2 + 3 registers
 * at most. 12x32 fills 24 of 32 zmm registers, and its 12 row pointers leave an index and a pointer
 * of the general ones. */
#define TDN_MR_base 4
#define TDN_NR_base 8
#define TDN_MR_avx2 6
#define TDN_NR_avx2 16
#define TDN_MR_avx512 12
#define TDN_NR_avx512 32
#define TDN_MR_avxvnni TDN_MR_avx2
#define TDN_NR_avxvnni TDN_NR_avx2
#define TDN_MR_avx512vnni TDN_MR_avx512
#define TDN_NR_avx512vnni TDN_NR_avx512
#define TDN_MR_neon 8
#define TDN_NR_neon 8
#define TDN_MR_dotprod TDN_MR_neon
#define TDN_NR_dotprod TDN_NR_neon
#define TDN_MR_avx512fp16 TDN_MR_avx512
#define TDN_NR_avx512fp16 64
#define TDN_MR_avx512bf16 TDN_MR_avx512
#define TDN_NR_avx512bf16 TDN_NR_avx512
#define TDN_MR_armfp16 TDN_MR_neon
#define TDN_NR_armfp16 16
#define TDN_MR_MAX 12
#define TDN_NR_MAX 64

/* What a level's products are of, where a kernel has more than one kind. */
#define TDN_FACTOR_base TDN_F32
#define TDN_FACTOR_avx2 TDN_F32
#define TDN_FACTOR_avx512 TDN_F32
#define TDN_FACTOR_neon TDN_F32
#define TDN_FACTOR_avx512fp16 TDN_F16
#define TDN_FACTOR_avx512bf16 TDN_BF16
#define TDN_FACTOR_armfp16 TDN_F16

#define TDN_PASTE_(a, b) a##_##b
#define TDN_PASTE(a, b) TDN_PASTE_(a, b)
#define TDN_KERNEL(stem) TDN_PASTE(stem, TDN_LEVEL)
#define TDN_F32_KERNEL(stem) TDN_PASTE(stem, TDN_PASTE(TDN_F32_LEVEL, TDN_LEVEL))
#define TDN_MR TDN_PASTE(TDN_MR, TDN_LEVEL)
#define TDN_NR TDN_PASTE(TDN_NR, TDN_LEVEL)

#if defined(__x86_64__)
#define TDN_ON_X86(function) function
#define TDN_ON_ARM(function) NULL
#elif defined(__aarch64__)
#define TDN_ON_X86(function) NULL
#define TDN_ON_ARM(function) function
#else
#define TDN_ON_X86(function) NULL
#define TDN_ON_ARM(function) NULL
#endif

/* Declares all levels of something; `type` is a function type. */
#define TDN_DECLARE_LEVELS(type, stem)                                                             \
    extern type stem##_base, stem##_avx2, stem##_avx512, stem##_neon
#define TDN_DECLARE_DOT_LEVELS(type, stem)                                                         \
    TDN_DECLARE_LEVELS(type, stem);                                                                \
    extern type stem##_avxvnni, stem##_avx512vnni, stem##_dotprod
#define TDN_DECLARE_HALF_LEVELS(type, stem)                                                        \
    extern type stem##_avx512fp16, stem##_avx512bf16, stem##_armfp16

typedef void tdn_kernel_fn(const tdn_call *call, size_t tile);

/* Rows of a kernel list, best last within an architecture: with the register tile, or with the
 * vector's lanes. */
#define TDN_TILE_ROW(text, stem, level, on)                                                        \
    {                                                                                              \
        text "_" #level, TDN_ISA_BITS_##level, TDN_MR_##level, TDN_NR_##level, on(stem##_##level)  \
    }
#define TDN_TILE_ROWS(text, stem)                                                                  \
    TDN_TILE_ROW(text, stem, neon, TDN_ON_ARM), TDN_TILE_ROW(text, stem, base, TDN_ON_X86),        \
        TDN_TILE_ROW(text, stem, avx2, TDN_ON_X86), TDN_TILE_ROW(text, stem, avx512, TDN_ON_X86)
#define TDN_DOT_TILE_ROWS(text, stem)                                                              \
    TDN_TILE_ROW(text, stem, neon, TDN_ON_ARM), TDN_TILE_ROW(text, stem, dotprod, TDN_ON_ARM),     \
        TDN_TILE_ROW(text, stem, base, TDN_ON_X86), TDN_TILE_ROW(text, stem, avx2, TDN_ON_X86),    \
        TDN_TILE_ROW(text, stem, avxvnni, TDN_ON_X86),                                             \
        TDN_TILE_ROW(text, stem, avx512vnni, TDN_ON_X86)
#define TDN_LANE_ROWS(text, stem)                                                                  \
    {text "_neon", TDN_ISA_BITS_neon, 0, 4, TDN_ON_ARM(stem##_neon)},                              \
        {text "_base", TDN_ISA_BITS_base, 0, 4, TDN_ON_X86(stem##_base)},                          \
        {text "_avx2", TDN_ISA_BITS_avx2, 0, 8, TDN_ON_X86(stem##_avx2)},                          \
    {                                                                                              \
        text "_avx512", TDN_ISA_BITS_avx512, 0, 16, TDN_ON_X86(stem##_avx512)                      \
    }

#endif
