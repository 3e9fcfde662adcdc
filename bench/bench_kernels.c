/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Speed of every kernel that this CPU runs, on shapes that networks have: GFLOP/s and GB/s on one
 * core, beside the core's own peak of fused multiply-adds, measured here too; products of bytes
 * beside four times that, and of halves beside twice, what an instruction for four or two of them
 * in place of one can reach. The best of many short runs counts, since other work on the machine
 * only ever adds.
 *
 *     bench_kernels [PART OF A NAME]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/half.h"
#include "runtime/machine.h"

enum { MAX_PEAKS = 8, PEAK_NS = 12000000 };

static double peak_rates[MAX_PEAKS]; /* of the backend's rows */

static double peak_of(const tdn_kernel *k)
{
    const tdn_peak *peaks = tdn_backends[0]->peaks;
    double peak = 0;
    for (int i = 0; i < MAX_PEAKS && peaks[i].level; i++)
        if (!(peaks[i].isa & ~k->isa))
            peak = peak_rates[i];
    return peak * (strstr(k->name, "_u8_") ? 4 : strstr(k->name, "hconv_") ? 2 : 1);
}

static void measure_peaks(uint64_t isa)
{
    const tdn_peak *peaks = tdn_backends[0]->peaks;
    for (int i = 0; i < MAX_PEAKS && peaks[i].level; i++) {
        tdn_error error;
        if (peaks[i].isa & ~isa)
            continue;
        if (tdn_machine_rate(&peak_rates[i], TDN_RATE_FP32, &peaks[i], NULL, PEAK_NS, &error)) {
            fprintf(stderr, "%s\n", error.text);
            exit(1);
        }
        printf("peak of a core_%-9s %8.1f GFLOP/s\n", peaks[i].level, peak_rates[i]);
    }
}

/* ---- Steps ----------------------------------------------------------------------------------- */

typedef struct bench {
    tdn_arena *arena;
    tdn_group group;
    tdn_view in[6], out[1], extra[4];
    tdn_conv_desc conv;
    tdn_iconv_desc iconv;
    tdn_pool_desc pool;
    tdn_reduce_desc reduce;
    tdn_softmax_desc softmax;
    tdn_attend_desc attend;
    tdn_norm_desc norm;
    tdn_pad_desc pad;
    tdn_expr expr;
    tdn_dtype narrow; /* of products of bytes or halves */
    int64_t bytes;
} bench;

static tdn_view tensor(bench *b, int rank, const int64_t *dims)
{
    tdn_view v = tdn_view_make(NULL, TDN_F32, rank, dims);
    const int64_t n = tdn_view_count(&v);
    float *data = tdn_arena_alloc_data(b->arena, (size_t)n * sizeof *data);
    if (!data)
        exit(1);
    for (int64_t i = 0; i < n; i++)
        data[i] = (float)((i * 7919) % 1000) / 1000 - 0.5f;
    v.data = data;
    b->bytes += n * (int64_t)sizeof *data;
    return v;
}
#define DIMS(...)                                                                                  \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]) { __VA_ARGS__ }

static tdn_view transposed(tdn_view v, int a, int b)
{
    const int64_t dim = v.dims[a], stride = v.strides[a];
    v.dims[a] = v.dims[b];
    v.strides[a] = v.strides[b];
    v.dims[b] = dim;
    v.strides[b] = stride;
    return v;
}

/* Bias and relu. */
static void set_epilogue(bench *b)
{
    tdn_view bias = b->out[0];
    for (int i = 0; i + 1 < bias.rank; i++)
        bias.strides[i] = 0;
    bias.data = tensor(b, DIMS(bias.dims[bias.rank - 1])).data;
    b->extra[0] = bias;
    const int sum = tdn_expr_add(&b->expr, TDN_X_ADD, tdn_expr_input(&b->expr, 0),
                                 tdn_expr_input(&b->expr, 1), 0);
    tdn_expr_store(&b->expr, tdn_expr_add(&b->expr, TDN_X_MAX, sum, tdn_expr_const(&b->expr, 0), 0),
                   0);
    b->group.expr = &b->expr;
    b->group.n_extra = 1;
}

/* in h, w, c -> m, kernel, stride, pad, group. */
static void conv(bench *b, int64_t h, int64_t w, int64_t c, int64_t m, int kh, int kw, int stride_h,
                 int stride_w, int pad_h, int pad_w, int group)
{
    b->conv = (tdn_conv_desc){.stride = {1, stride_h, stride_w},
                              .dilation = {1, 1, 1},
                              .pad = {0, pad_h, pad_w},
                              .group = group};
    b->in[0] = tensor(b, DIMS(1, 1, h, w, c));
    b->in[1] = tensor(b, DIMS(m, c / group, 1, kh, kw));
    b->out[0] = tensor(
        b, DIMS(1, 1, (h + 2 * pad_h - kh) / stride_h + 1, (w + 2 * pad_w - kw) / stride_w + 1, m));
    b->group.desc = &b->conv;
    b->group.n_in = 2;
    set_epilogue(b);
}
static void conv_3x3_64_56(bench *b) { conv(b, 56, 56, 64, 64, 3, 3, 1, 1, 1, 1, 1); }
static void conv_3x3_256_14(bench *b) { conv(b, 14, 14, 256, 256, 3, 3, 1, 1, 1, 1, 1); }
static void conv_3x3_512_7(bench *b) { conv(b, 7, 7, 512, 512, 3, 3, 1, 1, 1, 1, 1); }
static void conv_1x1_256_64_56(bench *b) { conv(b, 56, 56, 256, 64, 1, 1, 1, 1, 0, 0, 1); }
static void conv_1x1_64_256_56(bench *b) { conv(b, 56, 56, 64, 256, 1, 1, 1, 1, 0, 0, 1); }
static void conv_1x1_1024_256_14(bench *b) { conv(b, 14, 14, 1024, 256, 1, 1, 1, 1, 0, 0, 1); }
static void conv_1x1_256_1024_14(bench *b) { conv(b, 14, 14, 256, 1024, 1, 1, 1, 1, 0, 0, 1); }
static void conv_1x1_2048_512_7(bench *b) { conv(b, 7, 7, 2048, 512, 1, 1, 1, 1, 0, 0, 1); }
static void conv_1x1_512_2048_7(bench *b) { conv(b, 7, 7, 512, 2048, 1, 1, 1, 1, 0, 0, 1); }
static void conv_2x2_256_56(bench *b) { conv(b, 56, 56, 256, 256, 2, 2, 1, 1, 0, 0, 1); }
static void conv_9x1_64(bench *b) { conv(b, 150, 33, 64, 64, 9, 1, 1, 1, 4, 0, 1); }
static void conv_9x1_256_s2(bench *b) { conv(b, 76, 33, 256, 256, 9, 1, 2, 1, 4, 0, 1); }
static void conv_7x7_s2_rgb(bench *b) { conv(b, 224, 224, 3, 64, 7, 7, 2, 2, 3, 3, 1); }
static void conv_3x3_rgb_300(bench *b) { conv(b, 300, 300, 3, 64, 3, 3, 1, 1, 1, 1, 1); }
static void conv_1d_5_128(bench *b) { conv(b, 1, 200, 128, 128, 1, 5, 1, 1, 0, 2, 1); }
static void conv_1d_3_8_64(bench *b) { conv(b, 1, 200, 8, 64, 1, 3, 1, 1, 0, 1, 1); }
static void conv_grouped(bench *b) { conv(b, 28, 28, 128, 128, 3, 3, 1, 1, 1, 1, 4); }
static void dwconv_3x3_144(bench *b) { conv(b, 56, 56, 144, 144, 3, 3, 1, 1, 1, 1, 144); }
static void dwconv_5x5_240_s2(bench *b) { conv(b, 28, 28, 240, 240, 5, 5, 2, 2, 2, 2, 240); }

/* ---- Products of bytes and of halves ---- */

static tdn_view bytes(bench *b, tdn_dtype dtype, int rank, const int64_t *dims)
{
    tdn_view v = tdn_view_make(NULL, dtype, rank, dims);
    const int64_t n = tdn_view_count(&v);
    uint8_t *data = tdn_arena_alloc_data(b->arena, (size_t)n);
    if (!data)
        exit(1);
    for (int64_t i = 0; i < n; i++)
        data[i] = (uint8_t)(i * 7919 >> 3);
    v.data = data;
    b->bytes += n;
    return v;
}

static tdn_view halves(bench *b, int rank, const int64_t *dims)
{
    tdn_view v = tdn_view_make(NULL, b->narrow, rank, dims);
    const int64_t n = tdn_view_count(&v);
    uint16_t *data = tdn_arena_alloc_data(b->arena, (size_t)n * sizeof *data);
    if (!data)
        exit(1);
    for (int64_t i = 0; i < n; i++) {
        const float x = (float)((i * 7919) % 1000) / 1000 - 0.5f;
        data[i] = tdn_f32_to_half(x, b->narrow);
    }
    v.data = data;
    b->bytes += n * (int64_t)sizeof *data;
    return v;
}

/* Bias and relu; with a residual of halves, or not. */
static void set_half_epilogue(bench *b, bool residual)
{
    tdn_expr *e = &b->expr;
    b->extra[0] = b->out[0];
    b->extra[0].dtype = TDN_F32;
    memset(b->extra[0].strides, 0, 4 * sizeof b->extra[0].strides[0]);
    b->extra[0].data = tensor(b, DIMS(b->out[0].dims[4])).data;
    int y = tdn_expr_add(e, TDN_X_ADD, tdn_expr_input(e, 0), tdn_expr_input(e, 1), 0);
    if (residual) {
        b->extra[1] = halves(b, 5, b->out[0].dims);
        y = tdn_expr_add(e, TDN_X_ADD, y, tdn_expr_input(e, 2), 0);
    }
    tdn_expr_store(e, tdn_expr_add(e, TDN_X_MAX, y, tdn_expr_const(e, 0), 0), 0);
    b->group.expr = e;
    b->group.n_extra = residual ? 2 : 1;
}

/* Scale, bias, relu and requantisation; with a residual of bytes, or not. */
static void set_requant(bench *b, bool residual)
{
    tdn_expr *e = &b->expr;
    for (int i = 0; i < 2; i++) {
        b->extra[i] = b->out[0];
        b->extra[i].dtype = TDN_F32;
        memset(b->extra[i].strides, 0, 4 * sizeof b->extra[i].strides[0]);
        b->extra[i].data = tensor(b, DIMS(b->out[0].dims[4])).data;
    }
    int y = tdn_expr_add(e, TDN_X_MUL, tdn_expr_input(e, 0), tdn_expr_input(e, 1), 0);
    y = tdn_expr_add(e, TDN_X_ADD, y, tdn_expr_input(e, 2), 0);
    if (residual) {
        b->extra[2] = bytes(b, TDN_U8, 5, b->out[0].dims);
        const int r = tdn_expr_add(e, TDN_X_MUL, tdn_expr_input(e, 3), tdn_expr_const(e, 2), 0);
        y = tdn_expr_add(e, TDN_X_ADD, y, r, 0);
    }
    y = tdn_expr_add(e, TDN_X_MAX, y, tdn_expr_const(e, 0), 0);
    y = tdn_expr_add(e, TDN_X_MUL, y, tdn_expr_const(e, 1e-3f), 0);
    tdn_expr_store(e, tdn_expr_add(e, TDN_X_ROUND, y, 0, 0), 0);
    b->group.expr = e;
    b->group.n_extra = residual ? 3 : 2;
}

static void narrow_conv(bench *b, int64_t h, int64_t w, int64_t c, int64_t m, int kh, int kw,
                        int stride, int pad_h, int pad_w, int group, bool residual)
{
    const int64_t x[] = {1, 1, h, w, c}, weights[] = {m, c / group, 1, kh, kw};
    const int64_t y[] = {1, 1, (h + 2 * pad_h - kh) / stride + 1, (w + 2 * pad_w - kw) / stride + 1,
                         m};
    const bool of_bytes = b->narrow == TDN_U8;
    b->conv = (tdn_conv_desc){.stride = {1, stride, stride},
                              .dilation = {1, 1, 1},
                              .pad = {0, pad_h, pad_w},
                              .group = group};
    b->iconv = (tdn_iconv_desc){.conv = b->conv, .x_zero = 128};
    b->group.desc = of_bytes ? (const void *)&b->iconv : &b->conv;
    b->group.n_in = 2;
    b->in[0] = of_bytes ? bytes(b, TDN_U8, 5, x) : halves(b, 5, x);
    b->in[1] = of_bytes ? bytes(b, TDN_S8, 5, weights) : halves(b, 5, weights);
    b->out[0] = of_bytes ? bytes(b, TDN_U8, 5, y) : halves(b, 5, y);
    if (of_bytes)
        set_requant(b, residual);
    else
        set_half_epilogue(b, residual);
}
static void narrow_3x3_64_56(bench *b) { narrow_conv(b, 56, 56, 64, 64, 3, 3, 1, 1, 1, 1, false); }
static void narrow_3x3_256_14(bench *b)
{
    narrow_conv(b, 14, 14, 256, 256, 3, 3, 1, 1, 1, 1, false);
}
static void narrow_3x3_512_7(bench *b) { narrow_conv(b, 7, 7, 512, 512, 3, 3, 1, 1, 1, 1, false); }
static void narrow_1x1_256_64_56(bench *b)
{
    narrow_conv(b, 56, 56, 256, 64, 1, 1, 1, 0, 0, 1, false);
}
static void narrow_1x1_64_256_56(bench *b)
{
    narrow_conv(b, 56, 56, 64, 256, 1, 1, 1, 0, 0, 1, true);
}
static void narrow_1x1_512_2048_7(bench *b)
{
    narrow_conv(b, 7, 7, 512, 2048, 1, 1, 1, 0, 0, 1, true);
}
static void narrow_9x1_64(bench *b) { narrow_conv(b, 150, 33, 64, 64, 9, 1, 1, 4, 0, 1, false); }
static void narrow_7x7_s2_rgb(bench *b)
{
    narrow_conv(b, 224, 224, 4, 64, 7, 7, 2, 3, 3, 1, false);
}
static void narrow_1d_3_8_64(bench *b) { narrow_conv(b, 1, 200, 8, 64, 1, 3, 1, 0, 1, 1, false); }
static void narrow_grouped(bench *b) { narrow_conv(b, 28, 28, 128, 128, 3, 3, 1, 1, 1, 4, false); }
static void narrow_dw_3x3_144(bench *b)
{
    narrow_conv(b, 56, 56, 144, 144, 3, 3, 1, 1, 1, 144, false);
}
static void narrow_dw_5x5_240_s2(bench *b)
{
    narrow_conv(b, 28, 28, 240, 240, 5, 5, 2, 2, 2, 240, false);
}
static void narrow_product_200_256_256(bench *b)
{
    narrow_conv(b, 1, 200, 256, 256, 1, 1, 1, 0, 0, 1, false);
}
static void narrow_product_1_4096_1000(bench *b)
{
    narrow_conv(b, 1, 1, 4096, 1000, 1, 1, 1, 0, 0, 1, false);
}
static void narrow_product_1_256_256(bench *b)
{
    narrow_conv(b, 1, 1, 256, 256, 1, 1, 1, 0, 0, 1, false);
}
static void narrow_product_4_512_512(bench *b)
{
    narrow_conv(b, 1, 4, 512, 512, 1, 1, 1, 0, 0, 1, false);
}
static void narrow_product_10_64_128(bench *b)
{
    narrow_conv(b, 1, 10, 64, 128, 1, 1, 1, 0, 0, 1, false);
}

static void gemm(bench *b, int64_t b0, int64_t b1, int64_t m, int64_t k, int64_t n, bool constant,
                 bool turned)
{
    b->in[0] = tensor(b, DIMS(b0, b1, m, k));
    b->in[1] =
        turned ? transposed(tensor(b, DIMS(b0, b1, n, k)), 2, 3) : tensor(b, DIMS(b0, b1, k, n));
    b->out[0] = tensor(b, DIMS(b0, b1, m, n));
    b->group.n_in = 2;
    if (constant)
        set_epilogue(b);
}
static void gemm_200_256_256(bench *b) { gemm(b, 1, 1, 200, 256, 256, true, false); }
static void gemm_1_4096_1000(bench *b) { gemm(b, 1, 1, 1, 4096, 1000, true, false); }
static void gemm_1_256_256(bench *b) { gemm(b, 1, 1, 1, 256, 256, true, false); }
static void gemm_4_512_512(bench *b) { gemm(b, 1, 1, 4, 512, 512, true, false); }
static void gemm_10_64_128(bench *b) { gemm(b, 1, 1, 10, 64, 128, true, false); }
static void gemm_qk(bench *b) { gemm(b, 1, 8, 200, 32, 200, false, true); }
static void gemm_av(bench *b) { gemm(b, 1, 8, 200, 200, 32, false, false); }

/* The left operand 1 in so many of a hundred places, 0 elsewhere. */
static void set_spikes(bench *b, int percent)
{
    const int64_t n = tdn_view_count(&b->in[0]);
    uint32_t random = 12345;
    for (int64_t i = 0; i < n; i++) {
        random = random * 1664525 + 1013904223;
        ((float *)b->in[0].data)[i] = (random >> 8) % 100 < (uint32_t)percent;
    }
    b->group.is_sparse = true;
}
static void conv_1d_3_256(bench *b) { conv(b, 1, 200, 256, 256, 1, 3, 1, 1, 0, 1, 1); }
static void conv_10_3_256(bench *b) { conv(b, 10, 200, 256, 256, 1, 3, 1, 1, 0, 1, 1); }
static void conv_10_3_64(bench *b) { conv(b, 10, 200, 64, 256, 1, 3, 1, 1, 0, 1, 1); }
static void gemm_10_128_256(bench *b) { gemm(b, 1, 1, 10, 128, 256, true, false); }
static void spconv(bench *b, int percent)
{
    conv_1d_3_256(b);
    set_spikes(b, percent);
}
static void spgemm(bench *b, int percent)
{
    gemm_10_128_256(b);
    set_spikes(b, percent);
}
static void spconv_steps_256(bench *b)
{
    conv_10_3_256(b);
    set_spikes(b, 12);
}
static void spconv_steps_64(bench *b)
{
    conv_10_3_64(b);
    set_spikes(b, 12);
}
static void spconv_2(bench *b) { spconv(b, 2); }
static void spgemm_2(bench *b) { spgemm(b, 2); }
static void spconv_5(bench *b) { spconv(b, 5); }
static void spgemm_5(bench *b) { spgemm(b, 5); }
static void spconv_10(bench *b) { spconv(b, 10); }
static void spgemm_10(bench *b) { spgemm(b, 10); }
static void spconv_20(bench *b) { spconv(b, 20); }
static void spgemm_20(bench *b) { spgemm(b, 20); }
static void spconv_50(bench *b) { spconv(b, 50); }
static void spgemm_50(bench *b) { spgemm(b, 50); }
static void spconv_100(bench *b) { spconv(b, 100); }
static void spgemm_100(bench *b) { spgemm(b, 100); }

static void map_add_relu(bench *b)
{
    for (int i = 0; i < 2; i++)
        b->in[i] = tensor(b, DIMS(200 * 256));
    b->out[0] = tensor(b, DIMS(200 * 256));
    b->group.n_in = 2;
    const int sum = tdn_expr_add(&b->expr, TDN_X_ADD, tdn_expr_input(&b->expr, 0),
                                 tdn_expr_input(&b->expr, 1), 0);
    tdn_expr_store(&b->expr, tdn_expr_add(&b->expr, TDN_X_MAX, sum, tdn_expr_const(&b->expr, 0), 0),
                   0);
    b->group.expr = &b->expr;
}
static void map_unary(bench *b, tdn_expr_op op)
{
    b->in[0] = tensor(b, DIMS(4096));
    b->out[0] = tensor(b, DIMS(4096));
    b->group.n_in = 1;
    tdn_expr_store(&b->expr, tdn_expr_add(&b->expr, op, tdn_expr_input(&b->expr, 0), 0, 0), 0);
    b->group.expr = &b->expr;
}
static void map_abs(bench *b) { map_unary(b, TDN_X_ABS); }
static void map_exp(bench *b) { map_unary(b, TDN_X_EXP); }
static void map_log(bench *b) { map_unary(b, TDN_X_LOG); }
static void map_tanh(bench *b) { map_unary(b, TDN_X_TANH); }
static void map_erf(bench *b) { map_unary(b, TDN_X_ERF); }
static void map_sin(bench *b) { map_unary(b, TDN_X_SIN); }
static void map_gelu(bench *b)
{
    b->in[0] = tensor(b, DIMS(200 * 256));
    b->out[0] = tensor(b, DIMS(200 * 256));
    b->group.n_in = 1;
    tdn_expr *e = &b->expr;
    const int x = tdn_expr_input(e, 0);
    const int scaled = tdn_expr_add(e, TDN_X_MUL, x, tdn_expr_const(e, 0.70710678f), 0);
    const int one = tdn_expr_add(e, TDN_X_ADD, tdn_expr_add(e, TDN_X_ERF, scaled, 0, 0),
                                 tdn_expr_const(e, 1), 0);
    const int half = tdn_expr_add(e, TDN_X_MUL, x, tdn_expr_const(e, 0.5f), 0);
    tdn_expr_store(e, tdn_expr_add(e, TDN_X_MUL, half, one, 0), 0);
    b->group.expr = e;
}
static void map_broadcast_rows(bench *b)
{
    map_add_relu(b);
    for (int i = 0; i < 2; i++)
        b->in[i] = tdn_view_make(b->in[i].data, TDN_F32, DIMS(800, 64));
    b->out[0] = tdn_view_make(b->out[0].data, TDN_F32, DIMS(800, 64));
    b->in[1].strides[0] = 0;
}

static void pool_max_3x3_s2(bench *b)
{
    b->pool = (tdn_pool_desc){.kind = TDN_POOL_MAX,
                              .kernel = {1, 3, 3},
                              .stride = {1, 2, 2},
                              .dilation = {1, 1, 1},
                              .pad = {0, 1, 1},
                              .pad_end = {0, 1, 1}};
    b->in[0] = tensor(b, DIMS(1, 1, 112, 112, 64));
    b->out[0] = tensor(b, DIMS(1, 1, 56, 56, 64));
    b->group.desc = &b->pool;
    b->group.n_in = 1;
}
static void reduce_along(bench *b, int64_t rows, int64_t cols, int axis)
{
    b->in[0] = tensor(b, DIMS(rows, cols));
    b->out[0] = tensor(b, DIMS(axis == 0 ? 1 : rows, axis == 1 ? 1 : cols));
    b->reduce.kind = TDN_REDUCE_MEAN;
    b->group.desc = &b->reduce;
    b->group.n_in = 1;
}
static void reduce_rows(bench *b) { reduce_along(b, 200, 256, 1); }
static void reduce_columns(bench *b) { reduce_along(b, 200, 256, 0); }
/* 8 heads of 32, of 200 positions. */
static void set_attend(bench *b, bool is_mean)
{
    b->attend = (tdn_attend_desc){.scale = 0.17f, .is_mean = is_mean};
    b->in[0] = tensor(b, DIMS(1, 8, 200, 32));
    b->in[1] = transposed(tensor(b, DIMS(1, 8, 200, 32)), 2, 3);
    if (!is_mean)
        b->in[2] = tensor(b, DIMS(1, 8, 200, 32));
    b->out[0] = is_mean ? tensor(b, DIMS(1, 8, 1, 200)) : tensor(b, DIMS(1, 8, 200, 32));
    b->group.desc = &b->attend;
    b->group.n_in = is_mean ? 2 : 3;
}
static void attend_8x200x32(bench *b) { set_attend(b, false); }
static void attend_mean_8x200x32(bench *b) { set_attend(b, true); }

static void softmax_8x200x200(bench *b)
{
    b->in[0] = tensor(b, DIMS(8, 200, 200));
    b->out[0] = tensor(b, DIMS(8, 200, 200));
    b->softmax.axis = 2;
    b->group.desc = &b->softmax;
    b->group.n_in = 1;
}
static void norm_200_256(bench *b)
{
    for (int i = 0; i < 3; i++) {
        b->in[i] = tensor(b, DIMS(200, 256));
        b->in[i].strides[0] = i ? 0 : 256;
    }
    b->out[0] = tensor(b, DIMS(200, 256));
    b->norm = (tdn_norm_desc){.axis = 1, .epsilon = 1e-5f};
    b->group.desc = &b->norm;
    b->group.n_in = 3;
}
static void copy_dense(bench *b)
{
    b->in[0] = tensor(b, DIMS(200 * 256));
    b->out[0] = tensor(b, DIMS(200 * 256));
    b->group.n_in = 1;
}
static void copy_transpose(bench *b)
{
    b->in[0] = tensor(b, DIMS(200, 256));
    b->out[0] = transposed(tensor(b, DIMS(256, 200)), 0, 1);
    b->group.n_in = 1;
}
static void copy_nchw_to_nhwc(bench *b)
{
    b->in[0] = transposed(transposed(tensor(b, DIMS(1, 3, 224, 224)), 1, 2), 2, 3);
    b->out[0] = tensor(b, DIMS(1, 224, 224, 3));
    b->group.n_in = 1;
}
static void pad_1(bench *b)
{
    b->in[0] = tensor(b, DIMS(1, 56, 56, 64));
    b->out[0] = tensor(b, DIMS(1, 58, 58, 64));
    b->pad = (tdn_pad_desc){.before = {0, 1, 1, 0}};
    b->group.desc = &b->pad;
    b->group.n_in = 1;
}

static const struct {
    const char *family, *name;
    void (*set)(bench *b);
} cases[] = {
    {"conv", "3x3 64-64 56x56", conv_3x3_64_56},
    {"conv", "3x3 256-256 14x14", conv_3x3_256_14},
    {"conv", "3x3 512-512 7x7", conv_3x3_512_7},
    {"conv", "1x1 256-64 56x56", conv_1x1_256_64_56},
    {"conv", "1x1 64-256 56x56", conv_1x1_64_256_56},
    {"conv", "1x1 1024-256 14x14", conv_1x1_1024_256_14},
    {"conv", "1x1 256-1024 14x14", conv_1x1_256_1024_14},
    {"conv", "1x1 2048-512 7x7", conv_1x1_2048_512_7},
    {"conv", "1x1 512-2048 7x7", conv_1x1_512_2048_7},
    {"conv", "2x2 256-256 56x56", conv_2x2_256_56},
    {"conv", "9x1 64-64 150x33", conv_9x1_64},
    {"conv", "9x1/2 256-256 76x33", conv_9x1_256_s2},
    {"conv", "7x7/2 3-64 224x224", conv_7x7_s2_rgb},
    {"conv", "3x3 3-64 300x300", conv_3x3_rgb_300},
    {"conv", "1-D 5 128-128 200", conv_1d_5_128},
    {"conv", "1-D 3 8-64 200", conv_1d_3_8_64},
    {"conv", "1-D 3 256-256 200", conv_1d_3_256},
    {"conv", "10 steps, 1-D 3 256-256 200, 12 % spikes", spconv_steps_256},
    {"conv", "10 steps, 1-D 3 64-256 200, 12 % spikes", spconv_steps_64},
    {"conv", "1-D 3 256-256 200, 2 % spikes", spconv_2},
    {"conv", "1-D 3 256-256 200, 5 % spikes", spconv_5},
    {"conv", "1-D 3 256-256 200, 10 % spikes", spconv_10},
    {"conv", "1-D 3 256-256 200, 20 % spikes", spconv_20},
    {"conv", "1-D 3 256-256 200, 50 % spikes", spconv_50},
    {"conv", "1-D 3 256-256 200, 100 % spikes", spconv_100},
    {"conv", "3x3 128/4-128 28x28", conv_grouped},
    {"conv", "depthwise 3x3 144 56x56", dwconv_3x3_144},
    {"conv", "depthwise 5x5/2 240 28x28", dwconv_5x5_240_s2},
    {"iconv", "3x3 64-64 56x56", narrow_3x3_64_56},
    {"iconv", "3x3 256-256 14x14", narrow_3x3_256_14},
    {"iconv", "3x3 512-512 7x7", narrow_3x3_512_7},
    {"iconv", "1x1 256-64 56x56", narrow_1x1_256_64_56},
    {"iconv", "1x1 64-256 56x56 + residual", narrow_1x1_64_256_56},
    {"iconv", "1x1 512-2048 7x7 + residual", narrow_1x1_512_2048_7},
    {"iconv", "9x1 64-64 150x33", narrow_9x1_64},
    {"iconv", "7x7/2 4-64 224x224", narrow_7x7_s2_rgb},
    {"iconv", "1-D 3 8-64 200", narrow_1d_3_8_64},
    {"iconv", "3x3 128/4-128 28x28", narrow_grouped},
    {"iconv", "depthwise 3x3 144 56x56", narrow_dw_3x3_144},
    {"iconv", "depthwise 5x5/2 240 28x28", narrow_dw_5x5_240_s2},
    {"iconv", "200x256x256", narrow_product_200_256_256},
    {"iconv", "1x4096x1000", narrow_product_1_4096_1000},
    {"iconv", "1x256x256", narrow_product_1_256_256},
    {"iconv", "4x512x512", narrow_product_4_512_512},
    {"iconv", "10x64x128", narrow_product_10_64_128},
    {"hconv", "3x3 64-64 56x56", narrow_3x3_64_56},
    {"hconv", "3x3 256-256 14x14", narrow_3x3_256_14},
    {"hconv", "3x3 512-512 7x7", narrow_3x3_512_7},
    {"hconv", "1x1 256-64 56x56", narrow_1x1_256_64_56},
    {"hconv", "1x1 64-256 56x56 + residual", narrow_1x1_64_256_56},
    {"hconv", "1x1 512-2048 7x7 + residual", narrow_1x1_512_2048_7},
    {"hconv", "9x1 64-64 150x33", narrow_9x1_64},
    {"hconv", "7x7/2 4-64 224x224", narrow_7x7_s2_rgb},
    {"hconv", "1-D 3 8-64 200", narrow_1d_3_8_64},
    {"hconv", "3x3 128/4-128 28x28", narrow_grouped},
    {"hconv", "200x256x256", narrow_product_200_256_256},
    {"hconv", "1x4096x1000", narrow_product_1_4096_1000},
    {"hconv", "1x256x256", narrow_product_1_256_256},
    {"hconv", "4x512x512", narrow_product_4_512_512},
    {"hconv", "10x64x128", narrow_product_10_64_128},
    {"gemm", "200x256x256", gemm_200_256_256},
    {"gemm", "1x4096x1000", gemm_1_4096_1000},
    {"gemm", "1x256x256", gemm_1_256_256},
    {"gemm", "4x512x512", gemm_4_512_512},
    {"gemm", "10x64x128", gemm_10_64_128},
    {"gemm", "10x128x256", gemm_10_128_256},
    {"gemm", "10x128x256, 2 % spikes", spgemm_2},
    {"gemm", "10x128x256, 5 % spikes", spgemm_5},
    {"gemm", "10x128x256, 10 % spikes", spgemm_10},
    {"gemm", "10x128x256, 20 % spikes", spgemm_20},
    {"gemm", "10x128x256, 50 % spikes", spgemm_50},
    {"gemm", "10x128x256, 100 % spikes", spgemm_100},
    {"gemm", "8 x 200x32x200, turned", gemm_qk},
    {"gemm", "8 x 200x200x32", gemm_av},
    {"map", "add + relu 51200", map_add_relu},
    {"map", "add row + relu 800x64", map_broadcast_rows},
    {"map", "abs 4096", map_abs},
    {"map", "exp 4096", map_exp},
    {"map", "log 4096", map_log},
    {"map", "tanh 4096", map_tanh},
    {"map", "erf 4096", map_erf},
    {"map", "sin 4096", map_sin},
    {"map", "gelu 51200", map_gelu},
    {"pool", "max 3x3/2 64 112x112", pool_max_3x3_s2},
    {"reduce", "mean of 200 rows of 256", reduce_rows},
    {"reduce", "mean of 256 columns of 200", reduce_columns},
    {"softmax", "8x200x200", softmax_8x200x200},
    {"attend", "8x200x32", attend_8x200x32},
    {"attend", "8x200x32, mean", attend_mean_8x200x32},
    {"norm", "200x256", norm_200_256},
    {"copy", "51200", copy_dense},
    {"copy", "transpose 200x256", copy_transpose},
    {"copy", "3x224x224 to channels last", copy_nchw_to_nhwc},
    {"pad", "1 around 56x56x64", pad_1},
};

/* ---- Measuring ------------------------------------------------------------------------------- */

/* Short steps are repeated until the clock's own cost does not show; of long ones the best time of
 * each tile is added up, since a time slice ends somewhere in every run of them. */
static double measure(const tdn_kernel *k, const tdn_call *call, size_t n_tiles)
{
    double best = INFINITY, *tiles = malloc((n_tiles + 1) * sizeof *tiles), sum = 0;
    if (!tiles)
        exit(1);
    for (size_t i = 0; i < n_tiles; i++)
        tiles[i] = INFINITY;
    const uint64_t end = tdn_now_ns() + 200000000;
    for (int run = 0; run < 24 || tdn_now_ns() < end; run++) {
        const uint64_t start = tdn_now_ns();
        uint64_t n = 0, before = start;
        do {
            for (size_t i = 0; i < n_tiles; i++) {
                k->run(call, i);
                if (run % 2 == 0)
                    continue;
                const uint64_t now = tdn_now_ns();
                const double ns = (double)(now - before);
                tiles[i] = ns < tiles[i] ? ns : tiles[i];
                before = now;
            }
            n++;
        } while (tdn_now_ns() - start < 20000);
        const double ns = (double)(tdn_now_ns() - start) / (double)n;
        if (run % 2 == 0)
            best = ns < best ? ns : best;
    }
    for (size_t i = 0; i < n_tiles; i++)
        sum += tiles[i];
    free(tiles);
    return sum < best ? sum : best;
}

/* What a kernel's products are of, where not of floats. */
static tdn_dtype narrow_of(const tdn_kernel *k)
{
    return strstr(k->name, "_bf16") ? TDN_BF16 : strstr(k->name, "_f16") ? TDN_F16 : TDN_U8;
}

static void run_case(size_t c, const tdn_family *family, const tdn_kernel *k, int variant)
{
    tdn_error error;
    bench b = {.arena = tdn_arena_create(NULL), .narrow = narrow_of(k)};
    b.group = (tdn_group){.in = b.in,
                          .out = b.out,
                          .extra = b.extra,
                          .n_out = 1,
                          .variant = variant,
                          .takes_halves = true};
    cases[c].set(&b);
    tdn_made made;
    if (!family->make(&made, &b.group, k->isa, b.arena, &error) && made.kernel == k) {
        tdn_view in[8];
        int n_in = 0;
        for (int i = 0; i < b.group.n_in; i++)
            in[n_in++] = b.in[i];
        for (int i = 0; i < b.group.n_extra; i++)
            in[n_in++] = b.extra[i];
        const int64_t packed = (int64_t)made.packed_size;
        if (made.packed_input >= 0)
            in[made.packed_input] = tdn_view_make(made.packed, TDN_U8, 1, &packed);
        tdn_work work;
        if (family->check(k, made.args, made.args_size, in, n_in, b.out, 1, &work, &error)) {
            printf("%s: %s\n", k->name, error.text);
            exit(1);
        }
        void *scratch = tdn_alloc(NULL, work.scratch_size, TDN_ALIGN);
        const tdn_call call = {made.args, in, b.out, n_in, 1, scratch};
        const double ns = measure(k, &call, work.n_tiles), rate = (double)work.flops / ns,
                     peak = peak_of(k);
        char name[64];
        snprintf(name, sizeof name, variant ? "%s/%d" : "%s", k->name, variant);
        printf("%-24s %-28s %10.2f us %5zu tiles %8.1f GFLOP/s %5.1f %% %8.1f GB/s\n", name,
               cases[c].name, ns / 1e3, work.n_tiles, rate, peak > 0 ? 100 * rate / peak : 0,
               (double)b.bytes / ns);
        fflush(stdout);
        tdn_free(NULL, scratch);
    }
    tdn_arena_free(b.arena);
}

int main(int argc, char **argv)
{
    const char *part = argc > 1 ? argv[1] : "";
    const uint64_t isa = tdn_backends[0]->detect();
    measure_peaks(isa);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        const tdn_family *family = tdn_family_find(cases[c].family);
        for (const tdn_kernel *k = family->kernels; k->name; k++)
            if (k->run && !(k->isa & ~isa) &&
                (strstr(k->name, part) || strstr(cases[c].name, part)))
                for (int v = 0; v == 0 || v < family->n_variants; v++)
                    run_case(c, family, k, v);
    }
    return 0;
}
