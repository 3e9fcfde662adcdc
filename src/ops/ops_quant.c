/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Quantised operators: shape rules. What they become is quant_rewrite.h's; what that leaves runs by
 * their references. Element types are integers of 4, 8 and 16 bits; floats of 8 bits and fewer have
 * no dtype here and are refused where the model is read.
 */
#include "ops/dtype.h"
#include "ops/emit.h"
#include "ops/quant_rewrite.h"
#include "ref/window.h"

static const tdn_dtype eight_bits[] = {TDN_S8, TDN_U8, TDN_DTYPE_NONE};
static const tdn_dtype scales[] = {TDN_F32, TDN_F16, TDN_BF16, TDN_DTYPE_NONE};

/* ---- QuantizeLinear, DequantizeLinear -------------------------------------------------------- */

/* Scale and zero point (inputs 1 and 2) have one shape: a scalar, one number along the axis, or one
 * a block. */
static tdn_status check_grain(tdn_infer *io)
{
    const tdn_node *n = io->node;
    const tdn_shape *x = &n->in[0]->shape, *s = &n->in[1]->shape;
    const int64_t block = tdn_attr_int(&n->attrs, "block_size", 0);
    const bool is_scalar = tdn_shape_count(s) == 1;
    int axis;
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK));
    if (tdn_in(n, 2) && !tdn_shape_equal(&n->in[2]->shape, s) &&
        !(is_scalar && tdn_shape_count(&n->in[2]->shape) == 1))
        return tdn_fail(io->error, TDN_E_MODEL, "scale and zero point differ in shape");
    if (is_scalar)
        return TDN_OK;
    TDN_NEED(io, block >= 0, "block_size is negative");
    TDN_TRY(tdn_infer_axis(io, tdn_attr_int(&n->attrs, "axis", 1), x->rank, &axis));
    if (block == 0) {
        TDN_NEED(io, s->rank == 1 && s->dims[0] == x->dims[axis],
                 "the scale has not one number for each along the axis");
        return TDN_OK;
    }
    TDN_NEED(io, s->rank == x->rank, "a scale by blocks has not the input's rank");
    for (int i = 0; i < x->rank; i++)
        TDN_NEED(io,
                 s->dims[i] ==
                     (i == axis ? x->dims[i] / block + (x->dims[i] % block != 0) : x->dims[i]),
                 "the scale's shape does not fit the input's blocks");
    return TDN_OK;
}

static tdn_status quantize_infer(tdn_infer *io)
{
    static const tdn_dtype from[] = {TDN_F32, TDN_F16, TDN_BF16, TDN_S32, TDN_DTYPE_NONE};
    static const tdn_dtype by[] = {TDN_F32, TDN_F16, TDN_BF16, TDN_S32, TDN_DTYPE_NONE};
    static const tdn_dtype to[] = {TDN_S8, TDN_U8, TDN_S16,       TDN_U16,
                                   TDN_S4, TDN_U4, TDN_DTYPE_NONE};
    tdn_dtype dtype;
    TDN_TRY(tdn_infer_dtype(io, 0, from));
    TDN_TRY(tdn_infer_dtype(io, 1, by));
    TDN_TRY(tdn_infer_dtype_named(io, "output_dtype", TDN_U8, &dtype));
    if (tdn_in(io->node, 2)) {
        TDN_TRY(tdn_infer_dtype(io, 2, to));
        dtype = io->node->in[2]->dtype;
    }
    TDN_NEED(io, dtype != TDN_BOOL && dtype != TDN_STRING,
             "output_dtype is not one to quantise to");
    TDN_TRY(check_grain(io));
    return tdn_infer_set(io, 0, dtype, &io->node->in[0]->shape);
}

static tdn_status dequantize_infer(tdn_infer *io)
{
    static const tdn_dtype from[] = {TDN_S8,  TDN_U8, TDN_S16, TDN_U16,
                                     TDN_S32, TDN_S4, TDN_U4,  TDN_DTYPE_NONE};
    tdn_dtype dtype;
    TDN_TRY(tdn_infer_dtype(io, 0, from));
    TDN_TRY(tdn_infer_dtype(io, 1, scales));
    TDN_TRY(tdn_infer_dtype_named(io, "output_dtype", io->node->in[1]->dtype, &dtype));
    if (tdn_in(io->node, 2) && io->node->in[2]->dtype != io->node->in[0]->dtype)
        return tdn_fail(io->error, TDN_E_MODEL, "the zero point is %s, but the input %s",
                        tdn_dtype_name(io->node->in[2]->dtype),
                        tdn_dtype_name(io->node->in[0]->dtype));
    TDN_NEED(io, dtype == TDN_F32 || dtype == TDN_F16 || dtype == TDN_BF16,
             "output_dtype is not a float");
    TDN_TRY(check_grain(io));
    return tdn_infer_set(io, 0, dtype, &io->node->in[0]->shape);
}

static tdn_status dynamic_quantize_infer(tdn_infer *io)
{
    static const tdn_dtype from[] = {TDN_F32, TDN_DTYPE_NONE};
    const tdn_shape scalar = tdn_shape_make(0, NULL);
    TDN_TRY(tdn_infer_dtype(io, 0, from));
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_set(io, 0, TDN_U8, &io->node->in[0]->shape));
    TDN_TRY(tdn_infer_set(io, 1, TDN_F32, &scalar));
    return tdn_infer_set(io, 2, TDN_U8, &scalar);
}

/* ---- Matrix products ------------------------------------------------------------------------- */

/* numpy's matmul of inputs a and b. */
static tdn_status product_shape(tdn_infer *io, int a, int b, tdn_shape *y)
{
    TDN_TRY(tdn_infer_rank(io, a, 1, TDN_MAX_RANK - 1));
    TDN_TRY(tdn_infer_rank(io, b, 1, TDN_MAX_RANK - 1));
    tdn_shape l = io->node->in[a]->shape, r = io->node->in[b]->shape;
    const int64_t m = l.rank > 1 ? l.dims[l.rank - 2] : 1, n = r.rank > 1 ? r.dims[r.rank - 1] : 1;
    const bool has_m = l.rank > 1, has_n = r.rank > 1;
    TDN_NEED(io, l.dims[l.rank - 1] == r.dims[has_n ? r.rank - 2 : 0],
             "the inner extents of the product differ");
    l.rank = l.rank > 2 ? l.rank - 2 : 0;
    r.rank = r.rank > 2 ? r.rank - 2 : 0;
    TDN_TRY(tdn_infer_broadcast(io, &l, &r, y));
    if (has_m)
        y->dims[y->rank++] = m;
    if (has_n)
        y->dims[y->rank++] = n;
    return TDN_OK;
}

static tdn_status matmul_integer_infer(tdn_infer *io)
{
    tdn_shape y;
    TDN_TRY(tdn_infer_dtype(io, 0, eight_bits));
    TDN_TRY(tdn_infer_dtype(io, 1, eight_bits));
    TDN_TRY(product_shape(io, 0, 1, &y));
    return tdn_infer_set(io, 0, TDN_S32, &y);
}

static tdn_status qlinear_matmul_infer(tdn_infer *io)
{
    tdn_shape y;
    for (int i = 0; i < 8; i++)
        TDN_TRY(tdn_infer_dtype(io, i, i == 1 || i == 4 || i == 6 ? scales : eight_bits));
    TDN_TRY(product_shape(io, 0, 3, &y));
    return tdn_infer_set(io, 0, io->node->in[7]->dtype, &y);
}

/* 2 * m * n * k, for the operand whose last axis is k. */
static int64_t product_flops(const tdn_node *node)
{
    const tdn_shape *a = &node->in[0]->shape;
    int64_t flops;
    if (!node->out[0] || a->rank == 0)
        return 0;
    return __builtin_mul_overflow(tdn_shape_count(&node->out[0]->shape), 2 * a->dims[a->rank - 1],
                                  &flops)
               ? INT64_MAX
               : flops;
}

/* ---- Convolutions ---------------------------------------------------------------------------- */

static tdn_status conv_shape(tdn_infer *io, int w_input, tdn_shape *y)
{
    TDN_TRY(tdn_infer_rank(io, 0, 3, 2 + TDN_WINDOW_MAX));
    const tdn_shape *x = &io->node->in[0]->shape;
    TDN_TRY(tdn_infer_rank(io, w_input, x->rank, x->rank));
    const tdn_shape *w = &io->node->in[w_input]->shape;
    const int64_t group = tdn_attr_int(&io->node->attrs, "group", 1);
    tdn_window window;
    TDN_NEED(io,
             group >= 1 && w->dims[0] % group == 0 && x->dims[1] % group == 0 &&
                 x->dims[1] / group == w->dims[1],
             "the channels do not fit the groups");
    const char *wrong =
        tdn_window_read(&window, &io->node->attrs, x->rank - 2, x->dims + 2, w->dims + 2);
    TDN_NEED(io, !wrong, wrong);
    *y = (tdn_shape){.rank = x->rank, .dims = {x->dims[0], w->dims[0]}};
    for (int i = 0; i < window.n; i++) {
        y->dims[2 + i] = tdn_window_positions(&window, i, x->dims[2 + i], false);
        TDN_NEED(io, y->dims[2 + i] >= 0, "the kernel is longer than the padded input");
    }
    return TDN_OK;
}

/* Zero points and scales of the weights: one number, or one for each output channel. */
static tdn_status check_per_channel(tdn_infer *io, int input, int64_t channels)
{
    const tdn_value *v = tdn_in(io->node, input);
    TDN_NEED(io,
             !v || tdn_shape_count(&v->shape) == 1 ||
                 (v->shape.rank == 1 && v->shape.dims[0] == channels),
             "a scale or zero point has not one number for each output channel");
    return TDN_OK;
}

static tdn_status conv_integer_infer(tdn_infer *io)
{
    tdn_shape y;
    TDN_TRY(tdn_infer_dtype(io, 0, eight_bits));
    TDN_TRY(tdn_infer_dtype(io, 1, eight_bits));
    TDN_TRY(conv_shape(io, 1, &y));
    TDN_TRY(check_per_channel(io, 3, y.dims[1]));
    return tdn_infer_set(io, 0, TDN_S32, &y);
}

static tdn_status qlinear_conv_infer(tdn_infer *io)
{
    tdn_shape y;
    for (int i = 0; i < 8; i++)
        TDN_TRY(tdn_infer_dtype(io, i, i == 1 || i == 4 || i == 6 ? scales : eight_bits));
    TDN_TRY(conv_shape(io, 3, &y));
    TDN_TRY(check_per_channel(io, 4, y.dims[1]));
    TDN_TRY(check_per_channel(io, 5, y.dims[1]));
    return tdn_infer_set(io, 0, io->node->in[7]->dtype, &y);
}

static int64_t conv_flops(const tdn_node *node, const tdn_shape *w)
{
    int64_t flops;
    if (!node->out[0] || w->dims[0] == 0)
        return 0;
    return __builtin_mul_overflow(tdn_shape_count(&node->out[0]->shape),
                                  2 * (tdn_shape_count(w) / w->dims[0]), &flops)
               ? INT64_MAX
               : flops;
}
static int64_t conv_integer_flops(const tdn_node *node)
{
    return conv_flops(node, &node->in[1]->shape);
}
static int64_t qlinear_conv_flops(const tdn_node *node)
{
    return conv_flops(node, &node->in[3]->shape);
}

/* ---- The rows -------------------------------------------------------------------------------- */

#define ROW(name_, since_, min_in_, max_in_, stem_)                                                \
    .name = name_, .domain = "", .since = since_, .n_in_min = min_in_, .n_in_max = max_in_,        \
    .n_out_min = 1, .n_out_max = 1, .infer = stem_##_infer, .decompose = tdn_##stem_##_decompose

const tdn_op_def tdn_ops_quant[] = {
    {ROW("QuantizeLinear", 10, 2, 3, quantize)},
    /* its rewrite folds it, and keeps the scales of a constant */
    {ROW("DequantizeLinear", 10, 2, 3, dequantize), .unfolded = true},
    {.name = "DynamicQuantizeLinear",
     .domain = "",
     .since = 11,
     .n_in_min = 1,
     .n_in_max = 1,
     .n_out_min = 3,
     .n_out_max = 3,
     .infer = dynamic_quantize_infer,
     .decompose = tdn_dynamic_quantize_decompose},
    {ROW("MatMulInteger", 10, 2, 4, matmul_integer), .flops = product_flops},
    {ROW("QLinearMatMul", 10, 8, 8, qlinear_matmul), .flops = product_flops},
    {ROW("ConvInteger", 10, 2, 4, conv_integer), .flops = conv_integer_flops},
    {ROW("QLinearConv", 10, 8, 9, qlinear_conv), .flops = qlinear_conv_flops},
    {.name = "IntegerConv",
     .domain = "tendon",
     .since = 1,
     .n_in_min = 2,
     .n_in_max = 3,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = conv_integer_infer,
     .core = TDN_CORE_INTEGER_CONV,
     .reference = "ConvInteger",
     .flops = conv_integer_flops},
    {.name = "IntegerMatMul",
     .domain = "tendon",
     .since = 1,
     .n_in_min = 2,
     .n_in_max = 3,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = matmul_integer_infer,
     .core = TDN_CORE_INTEGER_MATMUL,
     .reference = "MatMulInteger",
     .flops = product_flops},
    {.name = NULL},
};
