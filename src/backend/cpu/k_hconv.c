/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tile of a convolution of halves: pointers to its rows, then block by block of the sum all
 * panels of the weights. An epilogue that is a program takes the sums from scratch.
 */
#include "backend/cpu/hconv.h"
#include "backend/cpu/rows.h"

void TDN_KERNEL(tdn_hconv)(const tdn_call *call, size_t number)
{
    const tdn_conv_args *args = call->args;
    const tdn_tiling *t = &args->tiling;
    const tdn_epilogue *ep = &args->epilogue;
    const tdn_tile tile = tdn_tiling_tile(t, number);
    const char *packed = call->in[1].data;
    const int64_t n_sums = tdn_conv_sums(args);
    tdn_matrix_scratch s;
    tdn_matrix_scratch_set(&s, call->scratch, t, n_sums + tdn_conv_extra(args, false));
    tdn_rows_set(call, args, &tile, &s, packed + tdn_hconv_padding_offset(args), s.extra + n_sums);
    const tdn_sums sums = {.partial = s.extra,
                           .step = (int64_t)t->max_panels * TDN_NR,
                           .out = ep->has_program ? TDN_F32 : call->out[0].dtype,
                           .residual =
                               ep->residual >= 0 ? call->in[ep->residual].dtype : TDN_DTYPE_NONE};
    tdn_block block = tdn_rows_block(call, args, &tile, &s);
    block.sums = &sums;
    tdn_rows_run_sums(call, args, &tile, &s, &block, TDN_KERNEL(tdn_block_half), packed,
                      TDN_F32_KERNEL(tdn_map_region));
}
