/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tile of a batched matrix product: pointers to its rows, then block by block of the sum the
 * panels of the right operand, packed here where they were not at build.
 */
#include "backend/cpu/matrix.h"
#include "backend/cpu/vec.h"

/* Batch indices and row of row number `row`. */
static void locate(const tdn_gemm_args *args, const tdn_view *out, int64_t outer, int64_t row,
                   int64_t at[3])
{
    const int64_t batch = args->shared ? row / out->dims[2] : outer;
    at[0] = batch / out->dims[1];
    at[1] = batch % out->dims[1];
    at[2] = args->shared ? row % out->dims[2] : row;
}

static void advance(const tdn_view *out, int64_t at[3])
{
    if (++at[2] < out->dims[2])
        return;
    at[2] = 0;
    if (++at[1] < out->dims[1])
        return;
    at[1] = 0;
    at[0]++;
}

static void set_rows(const tdn_call *call, const tdn_tile *tile, const tdn_matrix_scratch *s)
{
    const tdn_gemm_args *args = call->args;
    const tdn_view *out = &call->out[0];
    const int residual = args->epilogue.residual;
    int64_t at[3];
    locate(args, out, tile->outer, tile->row0, at);
    for (int64_t i = 0; i < tile->row1 - tile->row0; i++, advance(out, at)) {
        s->a[i] = (const float *)call->in[0].data + tdn_matrix_offset(&call->in[0], at, 0);
        s->c[i] = (float *)out->data + tdn_matrix_offset(out, at, tile->col0);
        if (residual >= 0)
            s->residual[i] = (const float *)call->in[residual].data +
                             tdn_matrix_offset(&call->in[residual], at, tile->col0);
    }
}

/* The tile's panels at terms k0.. of the sum. */
static void pack(float *to, const tdn_call *call, const tdn_tile *tile, const int64_t at[3],
                 int64_t k0, int64_t k)
{
    const tdn_view *b = &call->in[1];
    const int64_t first = at[0] * b->strides[0] + at[1] * b->strides[1] + k0 * b->strides[2] +
                          tile->col0 * b->strides[3];
    tdn_panels_fn *const panels_pack = TDN_KERNEL(tdn_panels_pack);
    panels_pack(to, (const float *)b->data + first, b->strides[2], b->strides[3], k,
                tile->col1 - tile->col0);
}

static void run_epilogue(const tdn_call *call, const tdn_tile *tile, void *scratch)
{
    const tdn_gemm_args *args = call->args;
    const tdn_view *out = &call->out[0];
    for (int64_t row = tile->row0; row < tile->row1;) {
        int64_t at[3];
        locate(args, out, tile->outer, row, at);
        const int64_t n = tdn_cpu_min(tile->row1 - row, out->dims[2] - at[2]);
        tdn_epilogue_run(call, &args->epilogue, at, n, tile->col0, tile->col1,
                         TDN_KERNEL(tdn_map_region), scratch);
        row += n;
    }
}

TDN_INLINE void run(const tdn_call *call, size_t number, const bool sparse)
{
    const tdn_gemm_args *args = call->args;
    const tdn_tiling *t = &args->tiling;
    const tdn_epilogue *ep = &args->epilogue;
    const tdn_tile tile = tdn_tiling_tile(t, number);
    tdn_matrix_scratch s;
    const bool is_half = args->packed == 2;
    const int64_t own = sparse         ? tdn_sparse_floats(t)
                        : args->packed ? tdn_wide_floats(t, is_half)
                                       : (int64_t)t->max_panels * t->k_block * TDN_NR;
    tdn_matrix_scratch_set(&s, call->scratch, t, own);
    set_rows(call, &tile, &s);
    tdn_block block = {.a = s.a,
                       .c = s.c,
                       .residual = ep->residual >= 0 ? s.residual : NULL,
                       .bias = ep->bias >= 0 ? (const float *)call->in[ep->bias].data + tile.col0
                                             : NULL,
                       .rows = tile.row1 - tile.row0,
                       .cols = tile.col1 - tile.col0,
                       .n_blocks = tile.n_blocks,
                       .a_taps = 1,
                       .lo = ep->lo,
                       .hi = ep->hi,
                       .spare = s.spare,
                       .wide = is_half ? s.extra : NULL};
    const int64_t w_size = tdn_weight_size(is_half);
    int64_t at[3];
    locate(args, &call->out[0], tile.outer, args->shared ? 0 : tile.row0, at);
    const int64_t batch =
        (args->b_dims[0] > 1 ? at[0] * args->b_dims[1] : 0) + (args->b_dims[1] > 1 ? at[1] : 0);
    block.b_panel = t->k * TDN_NR;
    const char *panels = (const char *)call->in[1].data +
                         (batch * tdn_tiling_packed(t) + tile.panel0 * block.b_panel) * w_size;
    const void *next = tdn_next_panel(t, &tile, &block, panels, 1);
    const bool is_done =
        sparse && TDN_KERNEL(tdn_sparse_f32)(&block, t, (const void *)panels, s.extra);
    for (int64_t k0 = 0; k0 < t->k && !is_done; k0 += t->k_block) {
        const int64_t k = tdn_cpu_min(t->k_block, t->k - k0);
        if (args->packed) {
            block.b = panels + k0 * TDN_NR * w_size;
            block.next = next && k0 + k < t->k ? panels + (k0 + k) * TDN_NR * w_size : next;
        } else {
            pack(s.extra, call, &tile, at, k0, k);
            block.b = s.extra;
            block.b_panel = k * TDN_NR;
        }
        tdn_run_block(t, &block, &s, TDN_KERNEL(tdn_block_f32), 0, 1, k0, k);
    }
    if (ep->has_program)
        run_epilogue(call, &tile, s.program);
}

void TDN_KERNEL(tdn_gemm_f32)(const tdn_call *call, size_t number) { run(call, number, false); }
void TDN_KERNEL(tdn_gemm_f32h)(const tdn_call *call, size_t number) { run(call, number, false); }
void TDN_KERNEL(tdn_spgemm_f32)(const tdn_call *call, size_t number) { run(call, number, true); }
