/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Spectra and what belongs to them. By reference: a window or a mel matrix of constants is folded,
 * and a transform is a sum over all positions, for signals of hundreds of samples.
 */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"

/* A constant scalar that must be a whole number from `least` on. */
static tdn_status whole(tdn_infer *io, int input, int64_t least, int64_t absent, int64_t *out)
{
    double x;
    TDN_TRY(tdn_infer_scalar(io, input, (double)absent, &x));
    TDN_NEED(io, x >= (double)least && x < 0x1p40 && x == (double)(int64_t)x,
             "a length, step or number is out of range");
    *out = (int64_t)x;
    return TDN_OK;
}

/* ---- DFT ------------------------------------------------------------------------------------- */

static tdn_status dft_infer(tdn_infer *io)
{
    const tdn_node *node = io->node;
    const bool inverse = tdn_attr_int(&node->attrs, "inverse", 0) != 0,
               onesided = tdn_attr_int(&node->attrs, "onesided", 0) != 0;
    double given = (double)tdn_attr_int(&node->attrs, "axis", 1);
    int axis;
    TDN_TRY(tdn_infer_rank(io, 0, 2, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    if (node->op->since >= 20)
        TDN_TRY(tdn_infer_scalar(io, 2, -2, &given));
    TDN_TRY(tdn_infer_axis(io, (int64_t)given, node->in[0]->shape.rank, &axis));
    tdn_shape y = node->in[0]->shape;
    const int last = y.rank - 1;
    TDN_NEED(io, axis < last, "the axis is that of real and imaginary parts");
    TDN_NEED(io, y.dims[last] == 1 || y.dims[last] == 2,
             "the last extent is neither 1, real numbers, nor 2, complex ones");
    TDN_NEED(io, y.dims[last] == 2 || !inverse || !onesided,
             "half of a spectrum must have complex numbers");
    const int64_t usual = inverse && onesided ? 2 * (y.dims[axis] - 1) : y.dims[axis];
    int64_t length;
    TDN_TRY(whole(io, 1, 1, usual, &length));
    y.dims[axis] = onesided && !inverse ? length / 2 + 1 : length;
    y.dims[last] = onesided && inverse ? 1 : 2;
    return tdn_infer_set(io, 0, node->in[0]->dtype, &y);
}

/* Each result is a sum over the axis, at most the longest there is; half a spectrum is mirrored
 * first. */
static int64_t dft_flops(const tdn_node *node)
{
    const tdn_shape *x = &node->in[0]->shape, *y = &node->out[0]->shape;
    const bool half = tdn_attr_int(&node->attrs, "inverse", 0) != 0 &&
                      tdn_attr_int(&node->attrs, "onesided", 0) != 0;
    const tdn_shape *summed = half ? y : x;
    int64_t length = 1, flops;
    for (int i = 0; i < summed->rank - 1; i++)
        length = summed->dims[i] > length ? summed->dims[i] : length;
    return __builtin_mul_overflow(tdn_shape_count(y), 4 * length, &flops) ? INT64_MAX : flops;
}

/* ---- STFT ------------------------------------------------------------------------------------ */

static tdn_status stft_infer(tdn_infer *io)
{
    const tdn_node *node = io->node;
    TDN_TRY(tdn_infer_rank(io, 0, 3, 3));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    const tdn_shape *x = &node->in[0]->shape;
    int64_t step, length, usual = x->dims[1];
    if (tdn_in(node, 2)) {
        TDN_TRY(tdn_infer_rank(io, 2, 1, 1));
        TDN_TRY(tdn_infer_dtype(io, 2, tdn_dtypes_floats));
        usual = node->in[2]->shape.dims[0];
    }
    TDN_TRY(whole(io, 1, 1, 1, &step));
    TDN_TRY(whole(io, 3, 1, usual, &length));
    TDN_NEED(io, !tdn_in(node, 2) || length == usual, "the window has not the frame's length");
    TDN_NEED(io, length <= x->dims[1], "a frame is longer than the signal");
    const bool onesided = tdn_attr_int(&node->attrs, "onesided", 1) != 0;
    TDN_NEED(io, x->dims[2] == 1 || (x->dims[2] == 2 && !onesided),
             "the last extent is neither 1, real numbers, nor 2, complex ones of both sides");
    const tdn_shape y = tdn_shape_make(4, (int64_t[]){x->dims[0], (x->dims[1] - length) / step + 1,
                                                      onesided ? length / 2 + 1 : length, 2});
    return tdn_infer_set(io, 0, node->in[0]->dtype, &y);
}

static int64_t stft_flops(const tdn_node *node)
{
    const tdn_shape *y = &node->out[0]->shape;
    int64_t flops;
    return __builtin_mul_overflow(tdn_shape_count(y), 8 * y->dims[2], &flops) ? INT64_MAX : flops;
}

/* ---- Windows and the mel scale --------------------------------------------------------------- */

static tdn_status window_infer(tdn_infer *io)
{
    tdn_dtype dtype;
    tdn_shape y = {.rank = 1};
    TDN_TRY(whole(io, 0, 0, 0, &y.dims[0]));
    TDN_TRY(tdn_infer_dtype_named(io, "output_datatype", TDN_F32, &dtype));
    return tdn_infer_set(io, 0, dtype, &y);
}

static tdn_status mel_infer(tdn_infer *io)
{
    tdn_dtype dtype;
    int64_t n_bins, length, rate;
    double low, high;
    TDN_TRY(whole(io, 0, 1, 0, &n_bins));
    TDN_TRY(whole(io, 1, 1, 0, &length));
    TDN_TRY(whole(io, 2, 1, 0, &rate));
    TDN_TRY(tdn_infer_scalar(io, 3, 0, &low));
    TDN_TRY(tdn_infer_scalar(io, 4, 0, &high));
    TDN_NEED(io, low >= 0 && high > low && high <= (double)rate / 2,
             "edges that are not 0 <= lower < upper <= half the sample rate");
    TDN_TRY(tdn_infer_dtype_named(io, "output_datatype", TDN_F32, &dtype));
    const tdn_shape y = tdn_shape_make(2, (int64_t[]){length / 2 + 1, n_bins});
    return tdn_infer_set(io, 0, dtype, &y);
}

#define ROW(name_, since_, min_in_, max_in_, infer_, flops_, reference_)                           \
    {                                                                                              \
        .name = name_, .domain = "", .since = since_, .n_in_min = min_in_, .n_in_max = max_in_,    \
        .n_out_min = 1, .n_out_max = 1, .infer = infer_, .flops = flops_, .reference = reference_  \
    }

const tdn_op_def tdn_ops_signal[] = {
    ROW("DFT", 17, 1, 2, dft_infer, dft_flops, "DFT-17"),
    ROW("DFT", 20, 1, 3, dft_infer, dft_flops, NULL),
    ROW("STFT", 17, 2, 4, stft_infer, stft_flops, NULL),
    ROW("HannWindow", 17, 1, 1, window_infer, NULL, NULL),
    ROW("HammingWindow", 17, 1, 1, window_infer, NULL, NULL),
    ROW("BlackmanWindow", 17, 1, 1, window_infer, NULL, NULL),
    ROW("MelWeightMatrix", 17, 5, 5, mel_infer, NULL, NULL),
    {0},
};
