/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Element-wise operators. Over fp32 and booleans each becomes one Map, the core operator, whose
 * expression says what it computes (elementwise_expr.c); other dtypes are run by the operators' own
 * references.
 *
 * BatchNormalization with constant parameters is one of them: a scale and an offset a channel.
 */
#include <math.h>
#include <string.h>

#include "ops/dtype.h"
#include "ops/elementwise_expr.h"
#include "ops/emit.h"

/* ---- Shape rules ----------------------------------------------------------------------------- */

static tdn_status unary(tdn_infer *io, const tdn_dtype *allowed)
{
    TDN_TRY(tdn_infer_dtype(io, 0, allowed));
    return tdn_infer_same(io);
}
static tdn_status float_infer(tdn_infer *io) { return unary(io, tdn_dtypes_floats); }
static tdn_status number_infer(tdn_infer *io) { return unary(io, tdn_dtypes_numbers); }
static tdn_status integer_infer(tdn_infer *io) { return unary(io, tdn_dtypes_integers); }
static tdn_status not_infer(tdn_infer *io) { return unary(io, tdn_dtypes_bool); }

static tdn_status float_test_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    return tdn_infer_set(io, 0, TDN_BOOL, &io->node->in[0]->shape);
}

/* Inputs from `first` on have one dtype. */
static tdn_status same_dtypes(tdn_infer *io, int first)
{
    const tdn_node *n = io->node;
    for (int i = first + 1; i < n->n_in; i++)
        if (n->in[i] && n->in[i]->dtype != n->in[first]->dtype)
            return tdn_fail(io->error, TDN_E_MODEL, "input %d is %s, but input %d is %s", first,
                            tdn_dtype_name(n->in[first]->dtype), i,
                            tdn_dtype_name(n->in[i]->dtype));
    return TDN_OK;
}

static tdn_status many(tdn_infer *io, const tdn_dtype *allowed)
{
    TDN_TRY(tdn_infer_dtype(io, 0, allowed));
    TDN_TRY(same_dtypes(io, 0));
    return tdn_infer_broadcast_all(io);
}
static tdn_status numbers_infer(tdn_infer *io) { return many(io, tdn_dtypes_numbers); }
static tdn_status floats_infer(tdn_infer *io) { return many(io, tdn_dtypes_floats); }
static tdn_status integers_infer(tdn_infer *io) { return many(io, tdn_dtypes_integers); }
static tdn_status logic_infer(tdn_infer *io) { return many(io, tdn_dtypes_bool); }

static tdn_status equal_infer(tdn_infer *io)
{
    TDN_TRY(many(io, tdn_dtypes_all));
    if (tdn_out(io->node, 0))
        io->node->out[0]->dtype = TDN_BOOL;
    return TDN_OK;
}

static tdn_status compare_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    return equal_infer(io);
}

/* The gate and what it scales are not broadcast. */
static tdn_status swiglu_infer(tdn_infer *io)
{
    TDN_TRY(floats_infer(io));
    TDN_NEED(io, tdn_shape_equal(&io->node->in[0]->shape, &io->node->in[1]->shape),
             "the two inputs have different shapes");
    return TDN_OK;
}

/* The exponent's dtype may be another. */
static tdn_status pow_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    TDN_TRY(tdn_infer_dtype(io, 1, tdn_dtypes_numbers));
    return tdn_infer_broadcast_all(io);
}

static tdn_status where_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_bool));
    TDN_TRY(tdn_infer_dtype(io, 1, tdn_dtypes_all));
    TDN_TRY(same_dtypes(io, 1));
    TDN_TRY(tdn_infer_broadcast_all(io));
    if (tdn_out(io->node, 0))
        io->node->out[0]->dtype = io->node->in[1]->dtype;
    return TDN_OK;
}

/* The result has x's shape: the other inputs broadcast to it, never the other way round. */
static tdn_status like_x(tdn_infer *io)
{
    const tdn_shape *x = &io->node->in[0]->shape;
    for (int i = 1; i < io->node->n_in; i++) {
        tdn_shape wide;
        if (!io->node->in[i])
            continue;
        TDN_TRY(tdn_infer_broadcast(io, x, &io->node->in[i]->shape, &wide));
        if (!tdn_shape_equal(x, &wide))
            return tdn_fail(io->error, TDN_E_MODEL, "input %d is larger than input 0", i);
    }
    return tdn_infer_same(io);
}

static tdn_status prelu_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    TDN_TRY(same_dtypes(io, 0));
    return like_x(io);
}

static tdn_status clip_infer(tdn_infer *io)
{
    TDN_TRY(prelu_infer(io));
    for (int i = 1; i < io->node->n_in; i++)
        if (io->node->in[i] && tdn_shape_count(&io->node->in[i]->shape) != 1)
            return tdn_fail(io->error, TDN_E_MODEL, "input %d, a bound, is not a scalar", i);
    return TDN_OK;
}

static tdn_status bit_shift_infer(tdn_infer *io)
{
    const char *direction = tdn_attr_string(&io->node->attrs, "direction", "");
    if (strcmp(direction, "LEFT") != 0 && strcmp(direction, "RIGHT") != 0)
        return tdn_fail(io->error, TDN_E_MODEL, "direction '%s' is neither LEFT nor RIGHT",
                        direction);
    return integers_infer(io);
}

static tdn_status gelu_infer(tdn_infer *io)
{
    const char *approximate = tdn_attr_string(&io->node->attrs, "approximate", "none");
    if (strcmp(approximate, "none") != 0 && strcmp(approximate, "tanh") != 0)
        return tdn_fail(io->error, TDN_E_MODEL, "approximate '%s' is neither none nor tanh",
                        approximate);
    return float_infer(io);
}

/* ---- To a map -------------------------------------------------------------------------------- */

static tdn_status to_map(tdn_infer *io)
{
    const tdn_value *out = tdn_out(io->node, 0);
    tdn_value *in[TDN_EXPR_MAX_IN];
    tdn_expr expr;
    int n_in = 0;
    if (!out || (out->dtype != TDN_F32 && out->dtype != TDN_BOOL) ||
        !tdn_elementwise_expr(io->node, &expr, in, &n_in))
        return TDN_OK;
    return tdn_emit_end(io, tdn_emit_map(io, in, n_in, &expr, out->dtype));
}

/* ---- Dropout: inference only ----------------------------------------------------------------- */

static tdn_status dropout(tdn_infer *io, tdn_dtype mask)
{
    TDN_TRY(float_infer(io));
    return tdn_infer_set(io, 1, mask, &io->node->in[0]->shape);
}
static tdn_status dropout_7_infer(tdn_infer *io)
{
    return dropout(io, io->node->in[0] ? io->node->in[0]->dtype : TDN_BOOL);
}
static tdn_status dropout_10_infer(tdn_infer *io) { return dropout(io, TDN_BOOL); }

static tdn_status dropout_12_infer(tdn_infer *io)
{
    double training = 0, ratio = 0;
    TDN_TRY(tdn_infer_scalar(io, 2, 0, &training));
    if (training != 0)
        TDN_TRY(tdn_infer_scalar(io, 1, 0.5, &ratio));
    if (ratio != 0)
        return tdn_fail(io->error, TDN_E_UNSUPPORTED, "training mode drops elements at random");
    return dropout(io, TDN_BOOL);
}

/* Nothing is dropped; a mask that somebody reads is left to the reference. */
static tdn_status dropout_decompose(tdn_infer *io)
{
    const tdn_value *mask = tdn_out(io->node, 1);
    if (!mask || mask->n_uses == 0)
        tdn_emit_replace(io, 0, io->node->in[0]);
    return TDN_OK;
}

/* ---- BatchNormalization ---------------------------------------------------------------------- */

static tdn_status batch_norm_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    TDN_TRY(tdn_infer_rank(io, 0, 1, TDN_MAX_RANK));
    const tdn_shape *x = &io->node->in[0]->shape;
    const int64_t channels = x->rank > 1 ? x->dims[1] : 1;
    const tdn_shape c = tdn_shape_make(1, &channels);
    for (int i = 1; i < 5; i++) {
        TDN_TRY(tdn_infer_dtype(io, i, tdn_dtypes_floats));
        if (!tdn_shape_equal(&io->node->in[i]->shape, &c))
            return tdn_fail(io->error, TDN_E_MODEL,
                            "input %d is not one number for each of %lld channels", i,
                            (long long)channels);
    }
    for (int i = 1; i < io->node->n_out; i++)
        TDN_TRY(tdn_infer_set(io, i, io->node->in[3]->dtype, &c));
    return tdn_infer_same(io);
}

/* Before opset 14 the further outputs, not an attribute, ask for training. */
static tdn_status batch_norm_7_infer(tdn_infer *io)
{
    if (tdn_attr_int(&io->node->attrs, "spatial", 1) == 0)
        return tdn_fail(io->error, TDN_E_UNSUPPORTED, "attribute 'spatial' of 0 is not supported");
    for (int i = 1; i < io->node->n_out; i++)
        if (io->node->out[i] && io->node->out[i]->n_uses > 0)
            return tdn_fail(io->error, TDN_E_UNSUPPORTED,
                            "output %d, a training statistic, is not supported", i);
    return batch_norm_infer(io);
}

static bool is_const_f32(const tdn_value *v)
{
    return v->kind == TDN_VALUE_CONST && v->dtype == TDN_F32 && v->data;
}

/* y = x * factor + offset, with the parameters folded in double and laid along axis 1. */
static bool fold_batch_norm(const tdn_infer *io, int64_t channels, float *factor, float *offset)
{
    const float *p[4]; /* scale, bias, mean, variance */
    const double epsilon = (double)tdn_attr_float(&io->node->attrs, "epsilon", 1e-5f);
    for (int i = 0; i < 4; i++) {
        if (!is_const_f32(io->node->in[1 + i]))
            return false;
        p[i] = io->node->in[1 + i]->data;
    }
    for (int64_t c = 0; c < channels; c++) {
        const double f = (double)p[0][c] / sqrt((double)p[3][c] + epsilon);
        factor[c] = (float)f;
        offset[c] = (float)((double)p[1][c] - (double)p[2][c] * f);
    }
    return true;
}

static tdn_status batch_norm_decompose(tdn_infer *io)
{
    tdn_value *x = io->node->in[0];
    if (x->dtype != TDN_F32 || tdn_attr_int(&io->node->attrs, "training_mode", 0) != 0)
        return TDN_OK;
    const int64_t channels = x->shape.rank > 1 ? x->shape.dims[1] : 1;
    float *data[2];
    for (int i = 0; i < 2; i++) {
        data[i] = tdn_arena_alloc_data(io->graph->arena, (size_t)channels * sizeof(float));
        if (!data[i])
            return tdn_fail_nomem(io->error, "folded normalisation");
    }
    if (!fold_batch_norm(io, channels, data[0], data[1]))
        return TDN_OK;
    tdn_shape shape = {.rank = x->shape.rank > 1 ? x->shape.rank - 1 : 1, .dims = {channels}};
    for (int i = 1; i < shape.rank; i++)
        shape.dims[i] = 1;
    tdn_value *in[3] = {x, tdn_graph_const(io->graph, NULL, TDN_F32, &shape, data[0]),
                        tdn_graph_const(io->graph, NULL, TDN_F32, &shape, data[1])};
    if (!in[1] || !in[2])
        return tdn_fail_nomem(io->error, "folded normalisation");
    tdn_expr e = {0};
    const int scaled = tdn_expr_add(&e, TDN_X_MUL, tdn_expr_input(&e, 0), tdn_expr_input(&e, 1), 0);
    tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_ADD, scaled, tdn_expr_input(&e, 2), 0), 0);
    return tdn_emit_end(io, tdn_emit_map(io, in, 3, &e, TDN_F32));
}

/* ---- Map ------------------------------------------------------------------------------------- */

/* All outputs have the shape that the inputs have together. Attribute "dtypes" says the outputs'
 * (ints, as tdn_dtype); without it they keep what they were made with, F32 where that is nothing.
 */
static tdn_status map_infer(tdn_infer *io)
{
    const tdn_node *n = io->node;
    int n_dtypes = 0;
    const int64_t *dtypes = tdn_attr_ints(&n->attrs, "dtypes", &n_dtypes);
    tdn_shape shape = {.rank = 0};
    if (!n->expr || n->expr->n_in != n->n_in || n->expr->n_out != n->n_out)
        return tdn_fail(io->error, TDN_E_INTERNAL, "the expression does not fit the operands");
    for (int i = 0; i < n->n_in; i++)
        TDN_TRY(tdn_infer_broadcast(io, &shape, &n->in[i]->shape, &shape));
    for (int i = 0; i < n->n_out; i++) {
        const tdn_dtype made =
            n->out[i] && n->out[i]->dtype != TDN_DTYPE_NONE ? n->out[i]->dtype : TDN_F32;
        TDN_TRY(tdn_infer_set(io, i, i < n_dtypes ? (tdn_dtype)dtypes[i] : made, &shape));
    }
    return TDN_OK;
}

static int64_t map_flops(const tdn_node *node)
{
    int64_t n_ops = 0, total = 0;
    for (int i = 0; node->expr && i < node->expr->n_instr; i++)
        n_ops += node->expr->code[i].op > TDN_X_STORE;
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i])
            return __builtin_mul_overflow(n_ops, tdn_shape_count(&node->out[i]->shape), &total)
                       ? INT64_MAX
                       : total;
    return 0;
}

/* ---- The rows -------------------------------------------------------------------------------- */

#define ROW(name_, since_, min_in_, max_in_, infer_)                                               \
    {                                                                                              \
        .name = name_, .domain = "", .since = since_, .n_in_min = min_in_, .n_in_max = max_in_,    \
        .n_out_min = 1, .n_out_max = 1, .infer = infer_, .decompose = to_map                       \
    }

const tdn_op_def tdn_ops_elementwise[] = {
    ROW("Add", 7, 2, 2, numbers_infer),
    ROW("Sub", 7, 2, 2, numbers_infer),
    ROW("Mul", 7, 2, 2, numbers_infer),
    ROW("Div", 7, 2, 2, numbers_infer),
    ROW("Pow", 7, 2, 2, pow_infer),
    ROW("Mod", 10, 2, 2, numbers_infer),
    ROW("Max", 6, 1, -1, numbers_infer),
    ROW("Min", 6, 1, -1, numbers_infer),
    ROW("Sum", 6, 1, -1, floats_infer),
    ROW("Mean", 6, 1, -1, floats_infer),
    ROW("And", 7, 2, 2, logic_infer),
    ROW("Or", 7, 2, 2, logic_infer),
    ROW("Xor", 7, 2, 2, logic_infer),
    ROW("Not", 1, 1, 1, not_infer),
    ROW("BitwiseAnd", 18, 2, 2, integers_infer),
    ROW("BitwiseOr", 18, 2, 2, integers_infer),
    ROW("BitwiseXor", 18, 2, 2, integers_infer),
    ROW("BitwiseNot", 18, 1, 1, integer_infer),
    ROW("BitShift", 11, 2, 2, bit_shift_infer),
    ROW("Equal", 7, 2, 2, equal_infer),
    ROW("Greater", 7, 2, 2, compare_infer),
    ROW("Less", 7, 2, 2, compare_infer),
    ROW("GreaterOrEqual", 12, 2, 2, compare_infer),
    ROW("LessOrEqual", 12, 2, 2, compare_infer),
    ROW("IsNaN", 9, 1, 1, float_test_infer),
    ROW("IsInf", 10, 1, 1, float_test_infer),
    ROW("Where", 9, 3, 3, where_infer),
    ROW("Abs", 6, 1, 1, number_infer),
    ROW("Neg", 6, 1, 1, number_infer),
    ROW("Sign", 9, 1, 1, number_infer),
    ROW("Reciprocal", 6, 1, 1, float_infer),
    ROW("Sqrt", 6, 1, 1, float_infer),
    ROW("Exp", 6, 1, 1, float_infer),
    ROW("Log", 6, 1, 1, float_infer),
    ROW("Sin", 7, 1, 1, float_infer),
    ROW("Cos", 7, 1, 1, float_infer),
    ROW("Tan", 7, 1, 1, float_infer),
    ROW("Asin", 7, 1, 1, float_infer),
    ROW("Acos", 7, 1, 1, float_infer),
    ROW("Atan", 7, 1, 1, float_infer),
    ROW("Sinh", 9, 1, 1, float_infer),
    ROW("Cosh", 9, 1, 1, float_infer),
    ROW("Asinh", 9, 1, 1, float_infer),
    ROW("Acosh", 9, 1, 1, float_infer),
    ROW("Atanh", 9, 1, 1, float_infer),
    ROW("Erf", 9, 1, 1, float_infer),
    ROW("Floor", 6, 1, 1, float_infer),
    ROW("Ceil", 6, 1, 1, float_infer),
    ROW("Round", 11, 1, 1, float_infer),
    ROW("Relu", 6, 1, 1, number_infer),
    ROW("PRelu", 7, 2, 2, prelu_infer),
    ROW("LeakyRelu", 6, 1, 1, float_infer),
    ROW("Elu", 6, 1, 1, float_infer),
    ROW("Selu", 6, 1, 1, float_infer),
    ROW("Celu", 12, 1, 1, float_infer),
    ROW("ThresholdedRelu", 10, 1, 1, float_infer),
    ROW("Sigmoid", 6, 1, 1, float_infer),
    ROW("HardSigmoid", 6, 1, 1, float_infer),
    ROW("HardSwish", 14, 1, 1, float_infer),
    ROW("Tanh", 6, 1, 1, float_infer),
    ROW("Softplus", 1, 1, 1, float_infer),
    ROW("Softsign", 1, 1, 1, float_infer),
    ROW("Gelu", 20, 1, 1, gelu_infer),
    ROW("Mish", 18, 1, 1, float_infer),
    ROW("Swish", 24, 1, 1, float_infer),
    ROW("SwiGLU", 28, 2, 2, swiglu_infer),
    ROW("Shrink", 9, 1, 1, number_infer),
    ROW("Clip", 6, 1, 3, clip_infer),
    {.name = "Dropout",
     .domain = "",
     .since = 7,
     .n_in_min = 1,
     .n_in_max = 1,
     .n_out_min = 1,
     .n_out_max = 2,
     .infer = dropout_7_infer,
     .decompose = dropout_decompose},
    {.name = "Dropout",
     .domain = "",
     .since = 10,
     .n_in_min = 1,
     .n_in_max = 1,
     .n_out_min = 1,
     .n_out_max = 2,
     .infer = dropout_10_infer,
     .decompose = dropout_decompose},
    {.name = "Dropout",
     .domain = "",
     .since = 12,
     .n_in_min = 1,
     .n_in_max = 3,
     .n_out_min = 1,
     .n_out_max = 2,
     .infer = dropout_12_infer,
     .decompose = dropout_decompose},
    {.name = "BatchNormalization",
     .domain = "",
     .since = 7,
     .n_in_min = 5,
     .n_in_max = 5,
     .n_out_min = 1,
     .n_out_max = 5,
     .infer = batch_norm_7_infer,
     .decompose = batch_norm_decompose},
    {.name = "BatchNormalization",
     .domain = "",
     .since = 14,
     .n_in_min = 5,
     .n_in_max = 5,
     .n_out_min = 1,
     .n_out_max = 3,
     .infer = batch_norm_infer,
     .decompose = batch_norm_decompose},
    {.name = "Map",
     .domain = "tendon",
     .since = 1,
     .n_in_min = 0,
     .n_in_max = TDN_EXPR_MAX_IN,
     .n_out_min = 1,
     .n_out_max = TDN_EXPR_MAX_OUT,
     .infer = map_infer,
     .core = TDN_CORE_MAP,
     .flops = map_flops},
    {.name = NULL},
};
