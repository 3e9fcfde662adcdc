/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The quantised operators of onnxruntime's domain "com.microsoft", which its quantiser writes
 * beside ONNX's own (its "QOperator" format). Each is the plain operator between dequantising and
 * quantising; operands are groups of three: value, scale, zero point. Products become those of
 * integers, as in models that say it by pairs.
 */
#include <string.h>

#include "ops/quant_rewrite.h"
#include "ref/window.h"

enum { GROUP = 3, MAX_OPERANDS = 64 };

static const tdn_dtype bytes[] = {TDN_S8, TDN_U8, TDN_DTYPE_NONE};

/* What an operator is made of. */
typedef struct form {
    const char *name, *plain;
    int n_operands; /* groups of three at the beginning; 0: all behind the result's scale and zero
                     */
    tdn_status (*shape)(tdn_infer *io, tdn_shape *y);
} form;

/* ---- Shapes ---------------------------------------------------------------------------------- */

static tdn_status shape_of_two(tdn_infer *io, tdn_shape *y)
{
    TDN_TRY(tdn_infer_dtype(io, GROUP, bytes));
    return tdn_infer_broadcast(io, &io->node->in[0]->shape, &io->node->in[GROUP]->shape, y);
}

static tdn_status shape_as_input(tdn_infer *io, tdn_shape *y)
{
    *y = io->node->in[0]->shape;
    return TDN_OK;
}

static tdn_status shape_of_average(tdn_infer *io, tdn_shape *y)
{
    TDN_TRY(tdn_infer_rank(io, 0, 3, TDN_MAX_RANK));
    TDN_NEED(io, tdn_attr_int(&io->node->attrs, "channels_last", 0) == 0,
             "channels_last is not supported");
    *y = io->node->in[0]->shape;
    for (int i = 2; i < y->rank; i++)
        y->dims[i] = 1;
    return TDN_OK;
}

static tdn_status shape_of_pool(tdn_infer *io, tdn_shape *y)
{
    tdn_window w;
    int n;
    const int64_t *kernel = tdn_attr_ints(&io->node->attrs, "kernel_shape", &n);
    const bool ceil = tdn_attr_int(&io->node->attrs, "ceil_mode", 0) != 0;
    TDN_TRY(tdn_infer_rank(io, 0, 3, 2 + TDN_WINDOW_MAX));
    *y = io->node->in[0]->shape;
    TDN_NEED(io, kernel && n == y->rank - 2, "attribute 'kernel_shape' has not one number an axis");
    TDN_NEED(io, tdn_attr_int(&io->node->attrs, "channels_last", 0) == 0,
             "channels_last is not supported");
    const char *wrong = tdn_window_read(&w, &io->node->attrs, n, y->dims + 2, kernel);
    TDN_NEED(io, !wrong, wrong);
    for (int i = 0; i < n; i++) {
        y->dims[2 + i] = tdn_window_positions(&w, i, y->dims[2 + i], ceil);
        TDN_NEED(io, y->dims[2 + i] >= 0, "the kernel is longer than the padded input");
    }
    return TDN_OK;
}

static tdn_status shape_of_concat(tdn_infer *io, tdn_shape *y)
{
    const tdn_node *n = io->node;
    int axis;
    TDN_NEED(io,
             n->n_in >= 2 + GROUP && (n->n_in - 2) % GROUP == 0 &&
                 (n->n_in - 2) / GROUP <= MAX_OPERANDS,
             "its inputs are no groups of three behind scale and zero point");
    for (int i = 2; i < n->n_in; i += GROUP) {
        TDN_TRY(tdn_infer_dtype(io, i, bytes));
        const tdn_shape *x = &n->in[i]->shape;
        if (i == 2) {
            *y = *x;
            TDN_TRY(tdn_infer_axis(io, tdn_attr_int(&n->attrs, "axis", 0), x->rank, &axis));
            continue;
        }
        TDN_NEED(io, x->rank == y->rank, "inputs of different ranks");
        for (int k = 0; k < y->rank; k++)
            TDN_NEED(io, k == axis || x->dims[k] == y->dims[k], "extents of inputs differ");
        y->dims[axis] += x->dims[axis];
    }
    TDN_NEED(io, tdn_shape_fits(y), "the result is too large");
    return TDN_OK;
}

static const form forms[] = {
    {"QLinearAdd", "Add", 2, shape_of_two},
    {"QLinearMul", "Mul", 2, shape_of_two},
    {"QLinearSigmoid", "Sigmoid", 1, shape_as_input},
    {"QLinearLeakyRelu", "LeakyRelu", 1, shape_as_input},
    {"QLinearSoftmax", "Softmax", 1, shape_as_input},
    {"QLinearAveragePool", "AveragePool", 1, shape_of_pool},
    {"QLinearGlobalAveragePool", "GlobalAveragePool", 1, shape_of_average},
    {"QLinearConcat", "Concat", 0, shape_of_concat},
};

static const form *form_of(const tdn_node *n)
{
    const form *f = forms;
    while (strcmp(f->name, n->op->name) != 0)
        f++; /* each row below has one */
    return f;
}

static int y_at(const form *f) { return f->n_operands * GROUP; }

static tdn_status form_infer(tdn_infer *io)
{
    const form *f = form_of(io->node);
    const tdn_value *zero = tdn_in(io->node, y_at(f) + 1);
    tdn_shape y;
    if (f->n_operands > 0)
        TDN_TRY(tdn_infer_dtype(io, 0, bytes));
    TDN_TRY(f->shape(io, &y));
    TDN_NEED(io, !zero || zero->dtype == TDN_S8 || zero->dtype == TDN_U8,
             "the zero point of the result is no byte");
    const tdn_value *x = io->node->in[f->n_operands > 0 ? 0 : 2];
    return tdn_infer_set(io, 0, zero ? zero->dtype : x->dtype, &y);
}

/* ---- Rewrites -------------------------------------------------------------------------------- */

/* Scale or zero point as a scalar; NULL where it is absent or has more numbers. */
static tdn_value *scalar(tdn_infer *io, int input)
{
    const tdn_shape shape = tdn_shape_make(0, NULL);
    tdn_value *v = tdn_in(io->node, input);
    if (!v || tdn_shape_count(&v->shape) != 1)
        return NULL;
    return v->shape.rank ? tdn_emit_reshape(io, v, &shape) : v;
}

static tdn_value *real(tdn_infer *io, int input)
{
    tdn_value *scale = scalar(io, input + 1);
    return scale ? tdn_emit_dequantize(io, io->node->in[input], scale, scalar(io, input + 2))
                 : NULL;
}

static tdn_status end(tdn_infer *io, tdn_value *y, int y_input)
{
    tdn_value *scale = scalar(io, y_input);
    return tdn_emit_end(io, y && scale ? tdn_emit_quantize(io, y, scale, scalar(io, y_input + 1),
                                                           io->node->out[0]->dtype)
                                       : NULL);
}

static bool are_scalars(const tdn_node *n, int first, int n_operands)
{
    for (int i = 0; i < n_operands; i++) {
        const tdn_value *scale = tdn_in(n, first + i * GROUP + 1);
        if (!scale || scale->dtype != TDN_F32 || tdn_shape_count(&scale->shape) != 1)
            return false;
    }
    return true;
}

static tdn_status form_decompose(tdn_infer *io)
{
    const tdn_node *n = io->node;
    const form *f = form_of(n);
    const int first = f->n_operands ? 0 : 2,
              count = f->n_operands ? f->n_operands : (n->n_in - 2) / GROUP;
    tdn_value *x[MAX_OPERANDS];
    const tdn_value *y_scale = tdn_in(n, y_at(f));
    if (!are_scalars(n, first, count) || !y_scale || y_scale->dtype != TDN_F32 ||
        tdn_shape_count(&y_scale->shape) != 1)
        return tdn_fail(io->error, TDN_E_UNSUPPORTED,
                        "scales that are not one float32 number each");
    for (int i = 0; i < count; i++)
        if (!(x[i] = real(io, first + i * GROUP)))
            return TDN_E_NOMEM;
    return end(io, tdn_emit(io, "", f->plain, x, count, n->attrs.items, n->attrs.n), y_at(f));
}

/* ---- QGemm: A and B in groups of three, C in units of alpha * a_scale * b_scale, [y] --------- */

static tdn_status qgemm_infer(tdn_infer *io)
{
    const tdn_node *n = io->node;
    TDN_TRY(tdn_infer_rank(io, 0, 2, 2));
    TDN_TRY(tdn_infer_rank(io, GROUP, 2, 2));
    TDN_TRY(tdn_infer_dtype(io, 0, bytes));
    TDN_TRY(tdn_infer_dtype(io, GROUP, bytes));
    const int ta = tdn_attr_int(&n->attrs, "transA", 0) != 0,
              tb = tdn_attr_int(&n->attrs, "transB", 0) != 0;
    const tdn_shape *a = &n->in[0]->shape, *b = &n->in[GROUP]->shape;
    TDN_NEED(io, a->dims[!ta] == b->dims[tb], "the inner extents of A and B differ");
    const tdn_shape y = tdn_shape_make(2, (int64_t[]){a->dims[ta], b->dims[!tb]});
    const tdn_value *zero = tdn_in(n, 8), *scale = tdn_in(n, 7);
    return tdn_infer_set(io, 0, zero ? zero->dtype : scale ? TDN_U8 : TDN_F32, &y);
}

static bool is_constant(const tdn_value *v, tdn_dtype dtype)
{
    return v && v->kind == TDN_VALUE_CONST && v->dtype == dtype;
}

/* C as real numbers, or NULL with *failed where it is not to be had. */
static tdn_value *bias_of(tdn_infer *io, bool *failed)
{
    const tdn_node *n = io->node;
    const tdn_value *c = tdn_in(n, 6), *as = n->in[1], *bs = n->in[4];
    const int64_t outputs = n->out[0]->shape.dims[1], n_scales = tdn_shape_count(&bs->shape);
    *failed = c && !(is_constant(c, TDN_S32) && is_constant(as, TDN_F32) &&
                     is_constant(bs, TDN_F32) && tdn_shape_count(&c->shape) == outputs);
    if (!c || *failed)
        return NULL;
    float *data = tdn_arena_alloc_data(io->graph->arena, ((size_t)outputs + 1) * sizeof *data);
    const float alpha = tdn_attr_float(&n->attrs, "alpha", 1) * *(const float *)as->data;
    for (int64_t i = 0; data && i < outputs; i++)
        data[i] = alpha * ((const float *)bs->data)[n_scales == 1 ? 0 : i] *
                  (float)((const int32_t *)c->data)[i];
    const tdn_shape shape = tdn_shape_make(1, &outputs);
    tdn_value *v = data ? tdn_graph_const(io->graph, NULL, TDN_F32, &shape, data) : NULL;
    *failed = !v;
    return v;
}

static tdn_status qgemm_decompose(tdn_infer *io)
{
    const tdn_node *n = io->node;
    const bool tb = tdn_attr_int(&n->attrs, "transB", 0) != 0;
    bool failed;
    tdn_value *bias = bias_of(io, &failed);
    if (failed || !are_scalars(n, 0, 1) || n->in[4]->dtype != TDN_F32)
        return tdn_fail(io->error, TDN_E_UNSUPPORTED,
                        "a QGemm whose scales or C are not constants of one row");
    const tdn_attr axis = tdn_attr_of_int("axis", tb ? 0 : 1);
    tdn_value *in[3] = {real(io, 0), NULL, bias};
    in[1] = tdn_emit(io, "", "DequantizeLinear", n->in + GROUP, tdn_in(n, 5) ? 3 : 2, &axis, 1);
    if (!in[0] || !in[1])
        return TDN_E_NOMEM;
    tdn_value *y = tdn_emit(io, "", "Gemm", in, bias ? 3 : 2, n->attrs.items, n->attrs.n);
    return tdn_in(n, 7) ? end(io, y, 7) : tdn_emit_end(io, y);
}

/* ---- The rows -------------------------------------------------------------------------------- */

#define FORM(name_, min_in_, max_in_)                                                              \
    {                                                                                              \
        .name = name_, .domain = "com.microsoft", .since = 1, .n_in_min = min_in_,                 \
        .n_in_max = max_in_, .n_out_min = 1, .n_out_max = 1, .infer = form_infer,                  \
        .decompose = form_decompose                                                                \
    }

const tdn_op_def tdn_ops_qlinear[] = {
    FORM("QLinearAdd", 7, 8),
    FORM("QLinearMul", 7, 8),
    FORM("QLinearSigmoid", 4, 5),
    FORM("QLinearLeakyRelu", 4, 5),
    FORM("QLinearSoftmax", 4, 5),
    FORM("QLinearAveragePool", 4, 5),
    FORM("QLinearGlobalAveragePool", 4, 5),
    FORM("QLinearConcat", 5, -1),
    {.name = "QGemm",
     .domain = "com.microsoft",
     .since = 1,
     .n_in_min = 6,
     .n_in_max = 9,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = qgemm_infer,
     .decompose = qgemm_decompose},
    {.name = NULL},
};
