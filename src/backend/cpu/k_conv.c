/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tile of a convolution: pointers to its rows (rows.h), then block by block of the sum all
 * panels of the weights.
 */
#include "backend/cpu/rows.h"
#include "backend/cpu/vec.h"

TDN_INLINE void run(const tdn_call *call, size_t number, const bool sparse)
{
    const tdn_conv_args *args = call->args;
    const tdn_tiling *t = &args->tiling;
    const tdn_epilogue *ep = &args->epilogue;
    const tdn_tile tile = tdn_tiling_tile(t, number);
    const char *packed = call->in[1].data;
    const int64_t w_size = tdn_weight_size(args->is_half);
    tdn_matrix_scratch s;
    tdn_matrix_scratch_set(&s, call->scratch, t, tdn_conv_extra(args, sparse));
    float *terms = s.extra, *wide = terms + (sparse ? tdn_sparse_floats(t) : 0);
    float *own = wide + tdn_wide_floats(t, args->is_half);
    tdn_rows_set(call, args, &tile, &s, packed + args->desc.group * tdn_tiling_packed(t) * w_size,
                 own);
    tdn_block block = tdn_rows_block(call, args, &tile, &s);
    block.wide = args->is_half ? wide : NULL;
    const void *panels =
        packed + (tile.outer * tdn_tiling_packed(t) + tile.panel0 * block.b_panel) * w_size;
    if (!sparse || !TDN_KERNEL(tdn_sparse_f32)(&block, t, panels, terms))
        tdn_run_blocks(t, &block, &s, TDN_KERNEL(tdn_block_f32), panels,
                       tdn_next_panel(t, &tile, &block, panels, 1));
    if (ep->has_program)
        tdn_rows_run_epilogue(call, args, &tile, NULL, 0, TDN_KERNEL(tdn_map_region), s.program);
}

void TDN_KERNEL(tdn_conv_f32)(const tdn_call *call, size_t number) { run(call, number, false); }
void TDN_KERNEL(tdn_conv_f32h)(const tdn_call *call, size_t number) { run(call, number, false); }
void TDN_KERNEL(tdn_spconv_f32)(const tdn_call *call, size_t number) { run(call, number, true); }
