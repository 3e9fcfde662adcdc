/* SPDX-License-Identifier: Apache-2.0 */
/* The rows of a convolution's tile, of elements of any size. */
#ifndef TDN_BACKEND_CPU_ROWS_H
#define TDN_BACKEND_CPU_ROWS_H

#include "backend/cpu/matrix.h"

/* Fills scratch's lists of pointers. `padding` is as long as a tap, and all of its bytes are equal;
 * `own` has tdn_conv_extra floats. */
void tdn_rows_set(const tdn_call *call, const tdn_conv_args *args, const tdn_tile *tile,
                  const tdn_matrix_scratch *s, const void *padding, float *own);
/* The epilogue's program over a tile; its input 0 is the output itself, or rows of floats, `step`
 * apart, where `sums` is not NULL. */
void tdn_rows_run_epilogue(const tdn_call *call, const tdn_conv_args *args, const tdn_tile *tile,
                           float *sums, int64_t step, tdn_map_region_fn *region_fn, void *scratch);

#endif
