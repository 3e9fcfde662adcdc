/* SPDX-License-Identifier: Apache-2.0 */
/* The rows of a convolution's tile, of elements of any size. */
#ifndef TDN_BACKEND_CPU_ROWS_H
#define TDN_BACKEND_CPU_ROWS_H

#include "backend/cpu/matrix.h"

/* Fills scratch's lists of pointers. `padding` is as long as a tap, and all of its bytes are equal;
 * `own` has tdn_conv_extra floats. */
void tdn_rows_set(const tdn_call *call, const tdn_conv_args *args, const tdn_tile *tile,
                  const tdn_matrix_scratch *s, const void *padding, float *own);
/* The tile's operands, whose rows are set; what follows from the kind of terms is left out. */
static inline tdn_block tdn_rows_block(const tdn_call *call, const tdn_conv_args *args,
                                       const tdn_tile *tile, const tdn_matrix_scratch *s)
{
    const tdn_tiling *t = &args->tiling;
    const tdn_epilogue *ep = &args->epilogue;
    const int64_t col = tile->outer * t->cols + tile->col0;
    return (tdn_block){.a = s->a,
                       .c = s->c,
                       .residual = ep->residual >= 0 ? s->residual : NULL,
                       .bias = ep->bias >= 0 ? (const float *)call->in[ep->bias].data + col : NULL,
                       .b_panel = t->n_taps * t->k * t->nr,
                       .rows = tile->row1 - tile->row0,
                       .cols = tile->col1 - tile->col0,
                       .n_blocks = tile->n_blocks,
                       .a_taps = t->n_taps,
                       .lo = ep->lo,
                       .hi = ep->hi,
                       .spare = s->spare};
}

/* The epilogue's program over a tile; its input 0 is the output itself, or rows of floats, `step`
 * apart, where `sums` is not NULL. */
void tdn_rows_run_epilogue(const tdn_call *call, const tdn_conv_args *args, const tdn_tile *tile,
                           float *sums, int64_t step, tdn_map_region_fn *region_fn, void *scratch);

/* A tile whose sums wait outside of the output: `packed` are all weights, and a program takes the
 * sums from s->extra. */
static inline void tdn_rows_run_sums(const tdn_call *call, const tdn_conv_args *args,
                                     const tdn_tile *tile, const tdn_matrix_scratch *s,
                                     tdn_block *block, tdn_block_fn *block_fn, const char *packed,
                                     tdn_map_region_fn *region_fn)
{
    const tdn_tiling *t = &args->tiling;
    const int64_t step = block->sums->step;
    const bool has_program = args->epilogue.has_program;
    for (int64_t row = 0; has_program && row < block->rows; row++)
        s->c[row] = s->extra + row * step;
    const void *panels =
        packed +
        (tile->outer * tdn_tiling_packed(t) + tile->panel0 * block->b_panel) * TDN_TERM_SIZE;
    tdn_run_blocks(t, block, s, block_fn, panels, tdn_next_panel(t, tile, block, panels, 1));
    if (has_program)
        tdn_rows_run_epilogue(call, args, tile, s->extra, step, region_fn, s->program);
}

#endif
