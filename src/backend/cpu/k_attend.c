/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tile of attention: all keys and values of its batch are packed, then block by block of queries
 * their products with the keys, the exponentials of those, and the products of these with the
 * values, divided by their sum at last (the softmax of Vaswani et al., "Attention is all you need",
 * 2017, section 3.2.1, with the division moved behind the sum).
 */
#include "backend/cpu/attend.h"
#include "backend/cpu/softrow.h"
#include "backend/cpu/vmath.h"

#define LOG2_E 1.44269504f

enum { SUM_BLOCK = 384 }; /* keys in one pass, as in tiling.c */

typedef struct tile {
    const tdn_attend_args *args;
    tdn_attend_scratch s;
    int64_t step;
    const float *queries; /* of the batch */
    float *out;
    int64_t query_stride, out_stride;
    const float *mask; /* NULL: none */
    int64_t mask_row, mask_col;
} tile;

static float *at_batch(const tdn_view *v, int64_t batch)
{
    const int64_t i = batch / v->dims[1], j = batch % v->dims[1];
    return (float *)v->data + i * v->strides[0] + j * v->strides[1];
}

static void pack(float *to, const tdn_view *v, int64_t batch)
{
    tdn_panels_fn *const panels_pack = TDN_KERNEL(tdn_panels_pack);
    panels_pack(to, at_batch(v, batch), v->strides[2], v->strides[3], v->dims[2], v->dims[3]);
}

/* A product of n rows with packed columns. */
static void multiply(const tile *t, const void **rows, void **to, int64_t n, const float *panels,
                     int64_t k, int64_t cols)
{
    tdn_block block = {.a = rows,
                       .c = to,
                       .b_panel = k * TDN_NR,
                       .rows = n,
                       .cols = cols,
                       .n_blocks = tdn_cpu_div_up(n, TDN_MR),
                       .a_taps = 1,
                       .lo = -INFINITY,
                       .hi = INFINITY,
                       .spare = t->s.spare};
    for (int64_t k0 = 0; k0 < k; k0 += SUM_BLOCK) {
        const int64_t now = tdn_cpu_min(SUM_BLOCK, k - k0);
        block.b = panels + k0 * TDN_NR;
        TDN_KERNEL(tdn_block_f32)(&block, 0, 1, k0, now, k0 == 0, k0 + now == k);
    }
}

static void add_mask(float *x, const tile *t, int64_t row)
{
    const float *mask = t->mask + row * t->mask_row;
    const vf scale = vf_set(t->args->scale);
    for (int64_t i = 0; i < t->args->n_keys; i += TDN_LANES) {
        const int left = (int)tdn_cpu_min(TDN_LANES, t->args->n_keys - i);
        const vf m = t->mask_col ? vf_load_n(mask + i, left) : vf_set(*mask);
        vf_store_n(x + i, vf_load_n(x + i, left) * scale + m, left);
    }
}

/* x = 2^(scale * x - shift); the sum. */
static float powers(float *x, int64_t n, float scale, float shift)
{
    vf sum[2] = {{0}, {0}};
    const vf s = vf_set(scale), t = vf_set(shift);
    int64_t i = 0;
    for (; i + 2 * TDN_LANES <= n; i += 2 * TDN_LANES)
        TDN_UNROLLED (int v = 0; v < 2; v++) {
            const vf e = vf_exp2(vf_load(x + i + v * TDN_LANES) * s - t);
            sum[v] += e;
            vf_store(x + i + v * TDN_LANES, e);
        }
    for (; i < n; i += TDN_LANES) {
        const int left = (int)tdn_cpu_min(TDN_LANES, n - i);
        const vf e = vf_first(vf_exp2(vf_load_n(x + i, left) * s - t), left, 0);
        sum[0] += e;
        vf_store_n(x + i, e, left);
    }
    return vf_sum(sum[0] + sum[1]);
}

/* The exponentials of each row of products, in place, and the inverse of their sum. The rows'
 * shifts come first: a row's exponentials need not wait for its own. */
static void weigh(const tile *t, int64_t row0, int64_t rows)
{
    const int64_t n = t->args->n_keys;
    const float scale = LOG2_E * (t->mask ? 1 : t->args->scale);
    float *x = t->s.weights, *sums = t->s.sums;
    for (int64_t i = 0; i < rows; i++) {
        if (t->mask)
            add_mask(x + i * t->step, t, row0 + i);
        sums[i] = scale * tdn_row_largest(x + i * t->step, n);
    }
    for (int64_t i = 0; i < rows; i++)
        sums[i] = 1 / powers(x + i * t->step, n, scale, sums[i]);
}

/* sum += each row times its own scale. */
static void add_rows(float *sum, const float *x, int64_t step, const float *scale, int64_t rows,
                     int64_t n)
{
    for (; rows > 0; rows -= 4, x += 4 * step, scale += 4) {
        const int now = (int)tdn_cpu_min(4, rows);
        for (int64_t i = 0; i < n; i += TDN_LANES) {
            vf y = vf_load(sum + i);
            if (now == 4) {
                TDN_UNROLLED (int r = 0; r < 4; r++)
                    y += vf_load(x + r * step + i) * vf_set(scale[r]);
            } else {
                for (int r = 0; r < now; r++)
                    y += vf_load(x + r * step + i) * vf_set(scale[r]);
            }
            vf_store(sum + i, y);
        }
    }
}

static void do_block(const tile *t, int64_t row0, int64_t rows)
{
    const tdn_attend_args *a = t->args;
    const tdn_attend_scratch *s = &t->s;
    for (int64_t i = 0; i < rows; i++) {
        s->queries[i] = t->queries + (row0 + i) * t->query_stride;
        s->weights_at[i] = s->weights + i * t->step;
        s->out[i] = t->out + (row0 + i) * t->out_stride;
    }
    multiply(t, s->queries, s->weights_at, rows, s->keys, a->depth,
             tdn_cpu_div_up(a->n_keys, TDN_NR) * TDN_NR);
    weigh(t, row0, rows);
    if (a->is_mean) {
        add_rows(s->mean, s->weights, t->step, s->sums, rows, a->n_keys);
        return;
    }
    multiply(t, (const void **)s->weights_at, s->out, rows, s->values, a->n_keys, a->width);
    for (int64_t i = 0; i < rows; i++)
        tdn_row_scale(s->out[i], a->width, s->sums[i]);
}

void TDN_KERNEL(tdn_attend_f32)(const tdn_call *call, size_t number)
{
    const tdn_attend_args *a = call->args;
    const tdn_view *q = &call->in[TDN_ATTEND_QUERIES], *out = &call->out[0];
    const int64_t batch = (int64_t)number / a->n_row_tiles, n_rows = q->dims[2];
    tile t = {.args = a,
              .step = tdn_attend_step(a),
              .queries = at_batch(q, batch),
              .out = at_batch(out, batch),
              .query_stride = q->strides[2],
              .out_stride = out->strides[2]};
    tdn_attend_scratch_set(&t.s, call->scratch, a);
    if (call->n_in > tdn_attend_mask(a)) {
        const tdn_view *mask = &call->in[tdn_attend_mask(a)];
        t.mask = at_batch(mask, batch);
        t.mask_row = mask->strides[2];
        t.mask_col = mask->strides[3];
    }
    pack(t.s.keys, &call->in[TDN_ATTEND_KEYS], batch);
    if (a->is_mean)
        memset(t.s.mean, 0, (size_t)t.step * sizeof *t.s.mean);
    else
        pack(t.s.values, &call->in[TDN_ATTEND_VALUES], batch);
    int64_t row, end;
    tdn_cpu_share(tdn_cpu_div_up(n_rows, TDN_MR), (int64_t)number % a->n_row_tiles, a->n_row_tiles,
                  &row, &end);
    end = tdn_cpu_min(end * TDN_MR, n_rows);
    for (row *= TDN_MR; row < end; row += a->block_rows)
        do_block(&t, row, tdn_cpu_min(a->block_rows, end - row));
    if (a->is_mean) {
        tdn_row_scale(t.s.mean, t.step, 1 / (float)n_rows);
        memcpy(t.out, t.s.mean, (size_t)a->n_keys * sizeof *t.out);
    }
}
