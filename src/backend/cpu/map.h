/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Arguments of a map step: the collapsed loop over its elements. Behind the struct: strides[n_in +
 * n_out][rank], then the program. The last axis is the columns of a region, the one before it the
 * rows; all but the last, flattened, are shared among tiles.
 */
#ifndef TDN_BACKEND_CPU_MAP_H
#define TDN_BACKEND_CPU_MAP_H

#include "backend/cpu/cpu.h"

typedef struct tdn_map_args {
    int32_t rank, n_in, n_out;
    int32_t row_tiles, col_tiles, zero;
    int64_t n_rows; /* product of all dims but the last */
    int64_t dims[TDN_MAX_RANK];
    int64_t strides[]; /* [operand][rank] */
} tdn_map_args;

static inline const tdn_map_program *tdn_map_args_program(const tdn_map_args *args)
{
    return (const tdn_map_program *)(args->strides + (args->n_in + args->n_out) * args->rank);
}

TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_map_f32);

#endif
