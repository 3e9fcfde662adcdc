/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tile of a convolution of bytes: pointers to its rows, then block by block of the sum all panels
 * of the weights. An epilogue that is a program takes the sums as floats, from scratch.
 */
#include "backend/cpu/iconv.h"
#include "backend/cpu/rows.h"

void TDN_KERNEL(tdn_iconv_u8)(const tdn_call *call, size_t number)
{
    const tdn_iconv_args *args = call->args;
    const tdn_conv_args *conv = &args->conv;
    const tdn_tiling *t = &conv->tiling;
    const tdn_epilogue *ep = &conv->epilogue;
    const tdn_tile tile = tdn_tiling_tile(t, number);
    const char *packed = call->in[1].data;
    const int64_t n_sums = tdn_conv_sums(conv), col = tile.outer * t->cols + tile.col0;
    tdn_matrix_scratch s;
    tdn_matrix_scratch_set(&s, call->scratch, t, n_sums + tdn_conv_extra(conv, false));
    tdn_rows_set(call, conv, &tile, &s, packed + tdn_iconv_padding_offset(conv), s.extra + n_sums);
    tdn_sums sums = {.start =
                         (const int32_t *)(const void *)(packed + tdn_iconv_start_offset(conv)) +
                         (tile.outer * t->n_panels + tile.panel0) * TDN_NR,
                     .partial = s.extra,
                     .step = (int64_t)t->max_panels * TDN_NR,
                     .requant = &args->requant,
                     .out = ep->has_program ? TDN_F32 : call->out[0].dtype};
    tdn_block block = tdn_rows_block(call, conv, &tile, &s);
    block.sums = &sums;
    if (args->requant.scale >= 0)
        sums.scale = (const float *)call->in[args->requant.scale].data + col;
    if (ep->residual >= 0)
        sums.residual = call->in[ep->residual].dtype;
    tdn_rows_run_sums(call, conv, &tile, &s, &block, TDN_KERNEL(tdn_block_u8), packed,
                      TDN_F32_KERNEL(tdn_map_region));
}
