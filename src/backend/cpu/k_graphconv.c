/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tile of a graph convolution, by products of floats or of halves: some rows of the outer axes,
 * all nodes of each. Sums over neighbours go to scratch; one neighbour of weight 1 is read where it
 * lies. Nodes are taken in groups that have the same kinds of neighbours, and each group is a
 * matrix product over those.
 */
#include <math.h>

#include "backend/cpu/graphconv.h"
#include "backend/cpu/halves.h"
#include "backend/cpu/hconv.h"

#define FACTOR TDN_PASTE(TDN_FACTOR, TDN_LEVEL)

typedef struct work {
    const tdn_graphconv_args *args;
    const tdn_call *call;
    tdn_columns columns;
    tdn_graphconv_scratch s;
    int64_t row0, n_rows, n_nodes;
} work;

static const float *input_row(const work *w, int64_t row)
{
    const tdn_view *x = &w->call->in[0];
    int64_t at[4] = {0};
    tdn_matrix_outer(x, row, at);
    return (const float *)x->data + tdn_matrix_offset(x, at, 0);
}

/* out = the sum over the column's neighbours, of the type of factors; room up to a whole vector. */
static void add_neighbours(const work *w, int64_t column, const float *in, void *out)
{
    enum { WIDE = 4 };
    const int64_t c = w->call->in[0].dims[4], stride = w->call->in[0].strides[3];
    const int32_t begin = w->columns.begins[column], end = w->columns.begins[column + 1];
    int64_t at = 0;
    for (; at + WIDE * TDN_LANES <= c; at += WIDE * TDN_LANES) {
        vf sum[WIDE];
        TDN_UNROLLED (int i = 0; i < WIDE; i++)
            sum[i] = (vf){0};
        for (int32_t e = begin; e < end; e++) {
            const float *from = in + w->columns.entries[e].row * stride + at;
            const vf weight = vf_set(w->columns.entries[e].weight);
            TDN_UNROLLED (int i = 0; i < WIDE; i++)
                sum[i] += weight * vf_load(from + i * TDN_LANES);
        }
        TDN_UNROLLED (int i = 0; i < WIDE; i++)
            tdn_store(out, at + i * TDN_LANES, FACTOR, sum[i], TDN_LANES);
    }
    for (; at < c; at += TDN_LANES) {
        const int n = (int)tdn_cpu_min(TDN_LANES, c - at);
        vf sum = {0};
        for (int32_t e = begin; e < end; e++)
            sum += vf_set(w->columns.entries[e].weight) *
                   vf_load_n(in + w->columns.entries[e].row * stride + at, n);
        tdn_store(out, at, FACTOR, sum, TDN_LANES);
    }
}

/* What is known of the columns: their slots, the nodes' kinds, and the nodes of equal kinds
 * together. */
static void set_nodes(const work *w)
{
    int32_t slot = 0, n = 0;
    memset(w->s.kinds, 0, (size_t)w->n_nodes * sizeof *w->s.kinds);
    for (int64_t column = 0; column < w->args->n_kinds * w->n_nodes; column++) {
        const bool has_any = w->columns.begins[column] < w->columns.begins[column + 1];
        w->s.kinds[column % w->n_nodes] |= (uint32_t)has_any << (column / w->n_nodes);
        w->s.slots[column] = slot;
        slot += has_any;
    }
    for (int32_t first = 0; first < w->n_nodes; first++) {
        bool is_placed = false;
        for (int32_t i = 0; i < n && !is_placed; i++)
            is_placed = w->s.kinds[w->s.order[i]] == w->s.kinds[first];
        for (int32_t node = first; node < w->n_nodes && !is_placed; node++)
            if (w->s.kinds[node] == w->s.kinds[first])
                w->s.order[n++] = node;
    }
}

static float *sum_at(const work *w, int64_t row, int64_t column)
{
    return w->s.sums +
           (row * w->args->n_sums + w->s.slots[column]) * tdn_graphconv_sum_floats(w->args);
}

/* Floats that lie ready as a row of the input are read there. */
static bool is_there(const work *w, int64_t column)
{
    return FACTOR == TDN_F32 && tdn_graph_is_row(&w->columns, column);
}

static void make_sums(const work *w)
{
    for (int64_t row = 0; row < w->n_rows; row++) {
        const float *in = input_row(w, w->row0 + row);
        for (int64_t column = 0; column < w->args->n_kinds * w->n_nodes; column++)
            if (w->columns.begins[column] < w->columns.begins[column + 1] && !is_there(w, column))
                add_neighbours(w, column, in, sum_at(w, row, column));
    }
}

/* The left operand of a row and node, kind by kind, `step` pointers apart. */
static void set_left(const work *w, int64_t row, int64_t node, const void **to, int64_t step)
{
    const float *in = input_row(w, w->row0 + row);
    for (int k = 0; k < w->args->n_kinds; k++) {
        const int64_t column = k * w->n_nodes + node;
        if (!(w->s.kinds[node] >> k & 1))
            continue;
        *to = is_there(w, column) ? in + w->columns.entries[w->columns.begins[column]].row *
                                             w->call->in[0].strides[3]
                                  : sum_at(w, row, column);
        to += step;
    }
}

static int64_t output_offset(const tdn_view *v, int64_t row, int64_t node)
{
    int64_t at[4] = {0, 0, 0, node};
    tdn_matrix_outer(v, row, at);
    return tdn_matrix_offset(v, at, 0);
}

/* Where the products of a row and node go: to the output, or where its program finds them. */
static float *result_at(const work *w, int64_t row, int64_t node)
{
    const tdn_view *y = &w->call->out[0];
    return y->dtype == TDN_F32
               ? (float *)y->data + output_offset(y, w->row0 + row, node)
               : w->s.results + (row * w->n_nodes + node) * tdn_graphconv_step(w->args);
}

/* Nodes order[first ..] of all rows, n of them, whose kinds are the same. */
static void set_group(const work *w, int64_t first, int64_t n, int n_kinds, int64_t n_blocks)
{
    const tdn_view *y = &w->call->out[0];
    for (int64_t block = 0; block < n_blocks; block++) {
        int64_t row0, row1;
        tdn_cpu_share(w->n_rows * n, block, n_blocks, &row0, &row1);
        for (int64_t i = row0; i < row1; i++) {
            const int64_t row = i / n, node = w->s.order[first + i % n];
            set_left(w, row, node, w->s.a + row0 * n_kinds + (i - row0), row1 - row0);
            w->s.c[i] = result_at(w, row, node);
            w->s.bias[i] = (const float *)w->call->in[2].data + node * y->dims[4];
        }
    }
}

#if defined(__AVX512FP16__) || defined(__AVX512BF16__) ||                                          \
    defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
#define multiply_block TDN_KERNEL(tdn_block_half)
#else
#define multiply_block TDN_KERNEL(tdn_block_f32)
#endif

/* Kinds that follow each other are one block of the sum, where they are short enough. */
static void multiply(const work *w, tdn_block *block, uint32_t kinds)
{
    const tdn_tiling *t = &w->args->tiling;
    const float *panels = w->call->in[1].data;
    const int n_kinds = __builtin_popcount(kinds);
    for (int tap = 0, n; tap < n_kinds; tap += n) {
        const int kind = __builtin_ctz(kinds);
        for (n = 0; n < t->tap_block && (kinds >> (kind + n) & 1); n++)
            kinds &= ~(1u << (kind + n));
        for (int64_t k0 = 0; k0 < t->k; k0 += t->k_block) {
            const int64_t k = tdn_cpu_min(t->k_block, t->k - k0);
            block->b = panels + (kind * t->k + k0) * TDN_NR;
            multiply_block(block, tap, n, k0, k, tap + k0 == 0,
                           tap + n == n_kinds && k0 + k == t->k);
        }
    }
}

static void run_groups(const work *w)
{
    const tdn_tiling *t = &w->args->tiling;
    const tdn_epilogue *ep = &w->args->epilogue;
    const bool clamps = ep->residual < 0;
    for (int64_t first = 0, n; first < w->n_nodes; first += n) {
        const uint32_t kinds = w->s.kinds[w->s.order[first]];
        for (n = 1; first + n < w->n_nodes && w->s.kinds[w->s.order[first + n]] == kinds;)
            n++;
        const int64_t rows = w->n_rows * n, n_blocks = tdn_cpu_div_up(rows, t->mr);
        const int n_kinds = __builtin_popcount(kinds);
        set_group(w, first, n, n_kinds, n_blocks);
        const tdn_sums sums = {.partial = w->s.partial,
                               .step = tdn_graphconv_step(w->args),
                               .out = TDN_F32,
                               .residual = TDN_F32};
        tdn_block block = {.a = w->s.a,
                           .c = w->s.c,
                           .residual = w->s.bias,
                           .bias = ep->bias >= 0 ? w->call->in[ep->bias].data : NULL,
                           .b_panel = t->n_taps * t->k * TDN_NR,
                           .rows = rows,
                           .cols = t->cols,
                           .n_blocks = n_blocks,
                           .a_taps = n_kinds,
                           .lo = clamps ? ep->lo : -INFINITY,
                           .hi = clamps ? ep->hi : INFINITY,
                           .spare = w->s.spare,
                           .sums = &sums};
        if (kinds)
            multiply(w, &block, kinds);
        else /* the sum of nothing */
            multiply_block(&block, 0, 0, 0, 0, true, true);
    }
}

/* The epilogue's residual, beside that of the bias a node. */
static void add_residual(const work *w)
{
    const tdn_epilogue *ep = &w->args->epilogue;
    const tdn_view *y = &w->call->out[0], *r = &w->call->in[ep->residual];
    for (int64_t i = 0; i < w->n_rows * w->n_nodes; i++) {
        const int64_t row = w->row0 + i / w->n_nodes, node = i % w->n_nodes;
        float *to = (float *)y->data + output_offset(y, row, node);
        const float *from = (const float *)r->data + output_offset(r, row, node);
        for (int64_t c = 0; c < y->dims[4]; c += TDN_LANES) {
            const int n = (int)tdn_cpu_min(TDN_LANES, y->dims[4] - c);
            const vf sum = vf_load_n(to + c, n) + vf_load_n(from + c, n);
            vf_store_n(to + c, vf_min(vf_set(ep->hi), vf_max(vf_set(ep->lo), sum)), n);
        }
    }
}

static void run_program(const work *w)
{
    const tdn_view *y = &w->call->out[0];
    for (int64_t row = 0; row < w->n_rows; row++) {
        int64_t at[4] = {0};
        tdn_matrix_outer(y, w->row0 + row, at);
        tdn_epilogue_run_from(w->call, &w->args->epilogue, at, y->dims[3], 0, y->dims[4],
                              y->dtype == TDN_F32 ? NULL : result_at(w, row, 0),
                              tdn_graphconv_step(w->args), TDN_F32_KERNEL(tdn_map_region),
                              w->s.program);
    }
}

void TDN_KERNEL(tdn_graphconv)(const tdn_call *call, size_t tile)
{
    const tdn_graphconv_args *args = call->args;
    const int64_t n_nodes = call->out[0].dims[3];
    work w = {.args = args,
              .call = call,
              .columns = tdn_graph_columns(args, call->in[1].data, n_nodes),
              .s = tdn_graphconv_scratch_at(args, &call->out[0], call->scratch),
              .n_nodes = n_nodes};
    int64_t end;
    tdn_cpu_share(args->n_rows, (int64_t)tile, args->n_tiles, &w.row0, &end);
    w.n_rows = end - w.row0;
    set_nodes(&w);
    make_sums(&w);
    run_groups(&w);
    if (args->epilogue.residual >= 0)
        add_residual(&w);
    if (args->epilogue.has_program)
        run_program(&w);
}
