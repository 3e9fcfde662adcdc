/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments of pool, reduce, softmax and norm steps. All are derived from the operands and a few
 * numbers, by the same code in make and in check. */
#ifndef TDN_BACKEND_CPU_ALONG_H
#define TDN_BACKEND_CPU_ALONG_H

#include "backend/cpu/cpu.h"

typedef struct tdn_pool_args {
    tdn_pool_desc desc;
    int32_t n_tiles, zero[2];
    int64_t n_lines; /* n * d * h of out */
} tdn_pool_args;
_Static_assert(sizeof(tdn_pool_args) == sizeof(tdn_pool_desc) + 20,
               "no padding: compared as bytes");

/* Axes of the input in two lists, each with its innermost last: those that stay, and those that are
 * reduced. */
typedef struct tdn_reduce_args {
    int32_t kind;
    int32_t along; /* 1: vectors lie along the last reduced axis, 0: along the last kept one */
    int32_t n_kept, n_reduced; /* at least 1 */
    int32_t row_tiles, col_tiles;
    int64_t n_rows; /* product of the kept axes but the last */
    int64_t count;  /* elements that make one */
    int64_t kept[TDN_MAX_RANK], kept_in[TDN_MAX_RANK], kept_out[TDN_MAX_RANK]; /* dims, strides */
    int64_t reduced[TDN_MAX_RANK], reduced_in[TDN_MAX_RANK];
} tdn_reduce_args;

/* Rows along one axis: softmax, and norm, whose row is all axes from one on. */
typedef struct tdn_softmax_args {
    int32_t axis, log;
    int32_t rank, n_tiles; /* rank of the outer axes */
    int64_t n_rows, length;
    int64_t in_step, out_step; /* along the axis */
    int64_t dims[TDN_MAX_RANK], in[TDN_MAX_RANK], out[TDN_MAX_RANK];
} tdn_softmax_args;

enum { TDN_NORM_X, TDN_NORM_SCALE, TDN_NORM_BIAS, TDN_NORM_OUT, TDN_NORM_OPERANDS };
typedef struct tdn_norm_args {
    int32_t axis;
    float epsilon;
    int32_t n_tiles, outer_rank, inner_rank, zero;
    int64_t n_rows, length;
    int64_t outer[TDN_MAX_RANK], inner[TDN_MAX_RANK];
    int64_t outer_strides[TDN_NORM_OPERANDS][TDN_MAX_RANK],
        inner_strides[TDN_NORM_OPERANDS][TDN_MAX_RANK];
} tdn_norm_args;

TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_pool_f32);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_pool_u8);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_pool_half);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_reduce_f32);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_softmax_f32);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_norm_f32);

#endif
