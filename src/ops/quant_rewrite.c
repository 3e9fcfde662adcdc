/* SPDX-License-Identifier: Apache-2.0 */
/* Rewrites of quantised operators: see quant_rewrite.h. */
#include "ops/quant_rewrite.h"

#include <string.h>

#include "ops/dequantized.h"
#include "ref/window.h"

/* ---- Quantising and dequantising ------------------------------------------------------------- */

static bool is_8(const tdn_value *v) { return v && (v->dtype == TDN_U8 || v->dtype == TDN_S8); }

/* A parameter so that it broadcasts to rank axes: a scalar, or one number along the axis. */
static tdn_value *along(tdn_infer *io, tdn_value *v, int axis, int rank)
{
    tdn_shape shape = tdn_shape_make(0, NULL);
    if (tdn_shape_count(&v->shape) != 1) {
        int64_t dims[TDN_MAX_RANK] = {v->shape.dims[0], 1, 1, 1, 1, 1, 1, 1};
        shape = tdn_shape_make(rank - axis, dims);
    }
    return tdn_shape_equal(&shape, &v->shape) ? v : tdn_emit_reshape(io, v, &shape);
}

/* Sets *scale and *zero (NULL where there is none) to broadcast; false where they are by blocks. */
static bool grain(tdn_infer *io, tdn_value **scale, tdn_value **zero)
{
    const tdn_node *n = io->node;
    const int rank = n->in[0]->shape.rank;
    int64_t axis = tdn_attr_int(&n->attrs, "axis", 1);
    axis += axis < 0 ? rank : 0;
    if (tdn_attr_int(&n->attrs, "block_size", 0) != 0 && tdn_shape_count(&n->in[1]->shape) != 1)
        return false;
    *scale = along(io, n->in[1], (int)axis, rank);
    *zero = tdn_in(n, 2) ? along(io, n->in[2], (int)axis, rank) : NULL;
    return true;
}

/* The numbers of q on another zero: U8 and S8 are 128 apart. */
static tdn_value *shifted(tdn_infer *io, tdn_value *q, float by, tdn_dtype dtype)
{
    tdn_expr e = {.n_in = 1};
    tdn_expr_store(
        &e, tdn_expr_add(&e, TDN_X_ADD, tdn_expr_input(&e, 0), tdn_expr_const(&e, by), 0), 0);
    return q ? tdn_emit_map(io, &q, 1, &e, dtype) : NULL;
}

/* S8 is made as U8 first: kernels take no other, and where nobody else reads the S8 it goes. */
tdn_value *tdn_emit_quantize(tdn_infer *io, tdn_value *x, tdn_value *scale, tdn_value *zero,
                             tdn_dtype dtype)
{
    tdn_expr e = {.n_in = zero ? 3 : 2};
    int r = tdn_expr_add(&e, TDN_X_DIV, tdn_expr_input(&e, 0), tdn_expr_input(&e, 1), 0);
    r = tdn_expr_add(&e, TDN_X_ROUND, r, 0, 0);
    if (zero)
        r = tdn_expr_add(&e, TDN_X_ADD, r, tdn_expr_input(&e, 2), 0);
    if (dtype == TDN_S8)
        r = tdn_expr_add(&e, TDN_X_ADD, r, tdn_expr_const(&e, 128), 0);
    r = tdn_expr_add(&e, TDN_X_MAX, r, tdn_expr_const(&e, 0), 0);
    r = tdn_expr_add(&e, TDN_X_MIN, r, tdn_expr_const(&e, 255), 0);
    tdn_expr_store(&e, r, 0);
    tdn_value *q =
        scale ? tdn_emit_map(io, (tdn_value *[]){x, scale, zero}, e.n_in, &e, TDN_U8) : NULL;
    return dtype == TDN_S8 ? shifted(io, q, -128, TDN_S8) : q;
}

tdn_value *tdn_emit_dequantize(tdn_infer *io, tdn_value *q, tdn_value *scale, tdn_value *zero)
{
    tdn_expr e = {.n_in = zero ? 3 : 2};
    int r = tdn_expr_input(&e, 0);
    const int s = tdn_expr_input(&e, 1);
    if (zero)
        r = tdn_expr_add(&e, TDN_X_SUB, r, tdn_expr_input(&e, 2), 0);
    tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_MUL, r, s, 0), 0);
    return q && scale ? tdn_emit_map(io, (tdn_value *[]){q, scale, zero}, e.n_in, &e, TDN_F32)
                      : NULL;
}

tdn_status tdn_quantize_decompose(tdn_infer *io)
{
    const tdn_node *n = io->node;
    tdn_value *scale, *zero;
    const tdn_dtype dtype = n->out[0] ? n->out[0]->dtype : TDN_DTYPE_NONE;
    const int64_t precision = tdn_attr_int(&n->attrs, "precision", 0); /* 1: ONNX's fp32 */
    if ((dtype != TDN_U8 && dtype != TDN_S8) || n->in[0]->dtype != TDN_F32 ||
        n->in[1]->dtype != TDN_F32 || precision > 1 || !grain(io, &scale, &zero))
        return TDN_OK;
    return tdn_emit_end(io, tdn_emit_quantize(io, n->in[0], scale, zero, dtype));
}

/* Scale and zero point of a constant, kept with its real numbers. */
static const tdn_quant *quant_of(tdn_infer *io, const tdn_node *n)
{
    const tdn_value *scale = n->in[1], *zero = tdn_in(n, 2);
    const int64_t count = tdn_shape_count(&scale->shape);
    int64_t axis = tdn_attr_int(&n->attrs, "axis", 1);
    tdn_arena *arena = io->graph->arena;
    tdn_quant *q = tdn_arena_alloc(arena, 1, sizeof *q);
    int32_t *zeros = tdn_arena_alloc(arena, (size_t)count + 1, sizeof *zeros);
    if (!q || !zeros || (tdn_attr_int(&n->attrs, "block_size", 0) != 0 && count != 1) ||
        scale->dtype != TDN_F32 || count > INT32_MAX)
        return NULL;
    for (int64_t i = 0; zero && i < count; i++) {
        const tdn_view view = tdn_value_view(zero);
        zeros[i] = (int32_t)tdn_view_get_int(&view, i);
    }
    axis += axis < 0 ? n->in[0]->shape.rank : 0;
    *q = (tdn_quant){.n = (int32_t)count,
                     .axis = count == 1 ? 0 : (int32_t)axis,
                     .scale = scale->data,
                     .zero_point = zeros};
    return q;
}

tdn_status tdn_dequantize_decompose(tdn_infer *io)
{
    tdn_node *n = io->node;
    tdn_value *scale, *zero, *y = n->out[0];
    if (!y)
        return TDN_OK;
    if (n->in[0]->kind == TDN_VALUE_CONST && n->in[1]->kind == TDN_VALUE_CONST &&
        (!tdn_in(n, 2) || n->in[2]->kind == TDN_VALUE_CONST)) {
        const tdn_quant *quant = quant_of(io, n);
        TDN_TRY(tdn_node_fold(io->graph, n, io->error));
        if (y->kind == TDN_VALUE_CONST)
            y->quant = quant;
        return TDN_OK;
    }
    if ((!is_8(n->in[0]) && n->in[0]->dtype != TDN_S32) || y->dtype != TDN_F32 ||
        n->in[1]->dtype != TDN_F32 || !grain(io, &scale, &zero))
        return TDN_OK;
    return tdn_emit_end(io, tdn_emit_dequantize(io, n->in[0], scale, zero));
}

static tdn_value *unary(tdn_infer *io, tdn_value *x, const tdn_expr *e)
{
    return x ? tdn_emit_map(io, &x, 1, e, TDN_F32) : NULL;
}

/* The least of x and 0, or the greatest. */
static tdn_value *extreme(tdn_infer *io, const char *kind, tdn_expr_op op)
{
    tdn_value *x = io->node->in[0];
    int64_t axes[TDN_MAX_RANK];
    for (int i = 0; i < x->shape.rank; i++)
        axes[i] = i;
    tdn_value *v = x->shape.rank ? tdn_emit_reduce(io, x, kind, axes, x->shape.rank, false) : x;
    tdn_expr e = {.n_in = 1};
    tdn_expr_store(&e, tdn_expr_add(&e, op, tdn_expr_input(&e, 0), tdn_expr_const(&e, 0), 0), 0);
    return unary(io, v, &e);
}

/* scale = (high - low) / 255, or 1; zero = round(-low / scale). */
tdn_status tdn_dynamic_quantize_decompose(tdn_infer *io)
{
    tdn_value *low = extreme(io, "min", TDN_X_MIN), *high = extreme(io, "max", TDN_X_MAX);
    if (!low || !high || tdn_shape_count(&io->node->in[0]->shape) == 0)
        return low && high ? TDN_OK : TDN_E_NOMEM;
    tdn_expr e = {.n_in = 2};
    int s = tdn_expr_add(&e, TDN_X_SUB, tdn_expr_input(&e, 1), tdn_expr_input(&e, 0), 0);
    s = tdn_expr_add(&e, TDN_X_DIV, s, tdn_expr_const(&e, 255), 0);
    const int some = tdn_expr_add(&e, TDN_X_GT, s, tdn_expr_const(&e, 0), 0);
    tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_SELECT, some, s, tdn_expr_const(&e, 1)), 0);
    tdn_value *scale = tdn_emit_map(io, (tdn_value *[]){low, high}, 2, &e, TDN_F32);
    tdn_expr z = {.n_in = 2};
    int r = tdn_expr_add(&z, TDN_X_DIV, tdn_expr_input(&z, 0), tdn_expr_input(&z, 1), 0);
    r = tdn_expr_add(&z, TDN_X_ROUND, tdn_expr_add(&z, TDN_X_NEG, r, 0, 0), 0, 0);
    tdn_expr_store(&z, r, 0);
    tdn_value *zero = scale ? tdn_emit_map(io, (tdn_value *[]){low, scale}, 2, &z, TDN_U8) : NULL;
    tdn_value *q = zero ? tdn_emit_quantize(io, io->node->in[0], scale, zero, TDN_U8) : NULL;
    if (!q)
        return TDN_E_NOMEM;
    tdn_emit_replace(io, 0, q);
    tdn_emit_replace(io, 1, scale);
    tdn_emit_replace(io, 2, zero);
    return TDN_OK;
}

/* ---- Products of integers -------------------------------------------------------------------- */

/* A product, of a convolution or of matrices. Zero points may be NULL. */
typedef struct product {
    bool is_conv;
    tdn_value *x, *x_zero, *w, *w_zero;
} product;

static int outputs_axis(const product *p) { return p->is_conv ? 0 : 1; }

static int64_t int_at(const tdn_value *v, int64_t i)
{
    const tdn_view view = tdn_value_view(v);
    return tdn_view_get_int(&view, tdn_shape_count(&v->shape) == 1 ? 0 : i);
}

/* Which output the weight's element i belongs to. */
static int64_t output_of(const product *p, int64_t i)
{
    const tdn_shape *s = &p->w->shape;
    return p->is_conv ? i / (tdn_shape_count(s) / s->dims[0]) : i % s->dims[1];
}

/* The weights less `zero` each, or NULL where that does not fit S8. */
static tdn_value *weights_less(tdn_infer *io, const product *p, const tdn_value *zero, int64_t by)
{
    const int64_t n = tdn_shape_count(&p->w->shape);
    int8_t *data = tdn_arena_alloc_data(io->graph->arena, (size_t)n + 1);
    for (int64_t i = 0; data && i < n; i++) {
        const int64_t q = int_at(p->w, i) - by - (zero ? int_at(zero, output_of(p, i)) : 0);
        if (q < -128 || q > 127)
            return NULL;
        data[i] = (int8_t)q;
    }
    return data ? tdn_graph_const(io->graph, NULL, TDN_S8, &p->w->shape, data) : NULL;
}

static tdn_value *emit_product(tdn_infer *io, const product *p, tdn_value *w)
{
    tdn_value *in[3] = {p->x, w, p->x_zero};
    const int n_in = p->x_zero ? 3 : 2;
    if (!p->is_conv)
        return tdn_emit(io, "tendon", "IntegerMatMul", in, n_in, NULL, 0);
    tdn_window window;
    const tdn_shape *x = &p->x->shape;
    if (tdn_window_read(&window, &io->node->attrs, x->rank - 2, x->dims + 2, w->shape.dims + 2))
        return NULL; /* the rule of its shape has checked that */
    return tdn_emit_conv(io, "IntegerConv", in, n_in, &window);
}

/* Numbers, one for each output, so that they broadcast to the product's result. */
static tdn_value *per_output(tdn_infer *io, const product *p, const float *x, int64_t n)
{
    int64_t dims[TDN_MAX_RANK] = {n, 1, 1, 1, 1, 1, 1, 1};
    const tdn_shape shape = tdn_shape_make(p->is_conv ? p->x->shape.rank - 1 : 1, dims);
    return tdn_graph_const(io->graph, NULL, TDN_F32, &shape, x);
}

/* Ones, as many as s says. */
static tdn_value *ones(tdn_infer *io, const tdn_shape *s, tdn_dtype dtype)
{
    const size_t n = (size_t)tdn_shape_count(s);
    uint8_t *data = tdn_arena_alloc_data(io->graph->arena, n + 1);
    if (!data)
        return NULL;
    memset(data, 1, n);
    return tdn_graph_const(io->graph, NULL, dtype, s, data);
}

/* sum - factor * weights, all of them numbers. */
static tdn_value *less_product(tdn_infer *io, tdn_value *sum, tdn_value *factor, tdn_value *weights)
{
    tdn_expr e = {.n_in = 3};
    int r = tdn_expr_add(&e, TDN_X_MUL, tdn_expr_input(&e, 1), tdn_expr_input(&e, 2), 0);
    r = tdn_expr_add(&e, TDN_X_SUB, tdn_expr_input(&e, 0), r, 0);
    tdn_expr_store(&e, r, 0);
    return sum && factor && weights
               ? tdn_emit_map(io, (tdn_value *[]){sum, factor, weights}, 3, &e, TDN_S32)
               : NULL;
}

/* Where the zero point of x is known at run time only: sum - zero * (sum of the weights), which is
 * the product of ones; of those weights that lie over the input, since padding adds nothing. */
static tdn_value *less_dynamic_zero(tdn_infer *io, const product *p, tdn_value *w, tdn_value *sum,
                                    tdn_value *zero)
{
    const tdn_shape scalar = tdn_shape_make(0, NULL);
    tdn_shape s = p->x->shape;
    s.dims[0] = p->is_conv ? 1 : s.dims[0];
    if (!p->is_conv)
        s = tdn_shape_make(1, &s.dims[s.rank - 1]);
    product of_ones = {.is_conv = p->is_conv, .x = ones(io, &s, TDN_U8)};
    tdn_value *sums = of_ones.x ? emit_product(io, &of_ones, w) : NULL;
    zero = zero->shape.rank ? tdn_emit_reshape(io, zero, &scalar) : zero;
    return less_product(io, sum, zero, sums);
}

/* Weights that are bytes but for a zero point of their own: each output's less a common `by`, and
 * (zero - by) times the sum of what the weights lie over is taken off the sums. x_zero: of x, where
 * it is known at run time only. */
static tdn_value *less_weights_zero(tdn_infer *io, const product *p, tdn_value *sum,
                                    tdn_value *x_zero, int64_t by)
{
    tdn_shape s = p->w->shape;
    const int64_t n = s.dims[outputs_axis(p)];
    float *rest = tdn_arena_alloc(io->graph->arena, (size_t)n + 1, sizeof *rest);
    if (!rest || tdn_attr_int(&io->node->attrs, "group", 1) != 1)
        return NULL;
    for (int64_t i = 0; i < n; i++)
        rest[i] = (float)(int_at(p->w_zero, i) - by);
    s.dims[outputs_axis(p)] = 1;
    tdn_value *w = ones(io, &s, TDN_S8);
    tdn_value *over = w ? emit_product(io, p, w) : NULL;
    if (over && x_zero)
        over = less_dynamic_zero(io, p, w, over, x_zero);
    return less_product(io, sum, over, per_output(io, p, rest, n));
}

static bool is_number(const tdn_value *v)
{
    return !v || (is_8(v) && v->kind == TDN_VALUE_CONST && tdn_shape_count(&v->shape) == 1);
}

/* S8 becomes U8, its zero point with it. A map that made U8 into S8 is undone. */
static bool make_unsigned(tdn_infer *io, product *p)
{
    if (p->x->dtype == TDN_U8)
        return true;
    tdn_value *undone = tdn_value_unsigned(p->x);
    p->x = undone ? undone : shifted(io, p->x, 128, TDN_U8);
    if (p->x_zero && p->x_zero->kind != TDN_VALUE_CONST) {
        p->x_zero = shifted(io, p->x_zero, 128, TDN_U8);
    } else {
        uint8_t *zero = tdn_arena_alloc(io->graph->arena, 1, 1);
        const tdn_shape scalar = tdn_shape_make(0, NULL);
        if (!zero)
            return false;
        *zero = (uint8_t)(128 + (p->x_zero ? int_at(p->x_zero, 0) : 0));
        p->x_zero = tdn_graph_const(io->graph, NULL, TDN_U8, &scalar, zero);
    }
    return p->x && p->x_zero;
}

static bool has_constant_weights(const product *p)
{
    const tdn_value *z = p->w_zero;
    const bool one = !z || tdn_shape_count(&z->shape) == 1,
               each =
                   z && z->shape.rank == 1 && z->shape.dims[0] == p->w->shape.dims[outputs_axis(p)];
    return p->w->kind == TDN_VALUE_CONST && (p->is_conv || p->w->shape.rank == 2) &&
           (!z || z->kind == TDN_VALUE_CONST) && (one || each) &&
           (!p->x_zero || tdn_shape_count(&p->x_zero->shape) == 1) &&
           tdn_shape_count(&p->w->shape) > 0;
}

/* Weights that fit S8: less their zero points, else less `*by`, and *rest says that zero points are
 * left. NULL: neither, or no memory. */
static tdn_value *s8_weights(tdn_infer *io, const product *p, int64_t *by, bool *rest)
{
    tdn_value *w = weights_less(io, p, p->w_zero, 0);
    *by = 0;
    *rest = !w && p->w_zero && tdn_attr_int(&io->node->attrs, "group", 1) == 1;
    if (!*rest)
        return w;
    w = weights_less(io, p, NULL, 0);
    *by = w ? 0 : 128;
    return w ? w : weights_less(io, p, NULL, 128);
}

/* The sums as S32; NULL with TDN_OK where the product does not come to the core form. */
static tdn_status sum_of(tdn_infer *io, product *p, tdn_value **sum)
{
    int64_t by;
    bool rest;
    *sum = NULL;
    if (!has_constant_weights(p))
        return TDN_OK;
    tdn_value *w = s8_weights(io, p, &by, &rest);
    if (!w)
        return tdn_arena_failed(io->graph->arena) ? TDN_E_NOMEM : TDN_OK;
    if (!make_unsigned(io, p))
        return TDN_E_NOMEM;
    tdn_value *zero = is_number(p->x_zero) ? NULL : p->x_zero;
    if (zero)
        p->x_zero = NULL;
    *sum = emit_product(io, p, w);
    if (zero)
        *sum = less_dynamic_zero(io, p, w, *sum, zero);
    if (rest)
        *sum = less_weights_zero(io, p, *sum, zero, by);
    return *sum ? TDN_OK : TDN_E_NOMEM;
}

tdn_status tdn_emit_integer_sum(tdn_infer *io, bool is_conv, tdn_value *x, tdn_value *x_zero,
                                tdn_value *w, tdn_value *w_zero, tdn_value **sum)
{
    product p = {is_conv, x, x_zero, w, w_zero};
    return sum_of(io, &p, sum);
}

static tdn_status integer_decompose(tdn_infer *io, bool is_conv)
{
    tdn_node *n = io->node;
    tdn_value *sum;
    TDN_TRY(
        tdn_emit_integer_sum(io, is_conv, n->in[0], tdn_in(n, 2), n->in[1], tdn_in(n, 3), &sum));
    return sum ? tdn_emit_end(io, sum) : TDN_OK;
}

tdn_status tdn_conv_integer_decompose(tdn_infer *io) { return integer_decompose(io, true); }
tdn_status tdn_matmul_integer_decompose(tdn_infer *io) { return integer_decompose(io, false); }

/* sum * (x_scale * w_scale), then the bias in those units. */
static tdn_value *scaled_sum(tdn_infer *io, const product *p, tdn_value *sum, int64_t n)
{
    const tdn_value *xs = io->node->in[1], *ws = io->node->in[4], *bias = tdn_in(io->node, 8);
    float *scale = tdn_arena_alloc(io->graph->arena, (size_t)n + 1, sizeof *scale);
    float *add = tdn_arena_alloc(io->graph->arena, (size_t)n + 1, sizeof *add);
    if (!scale || !add)
        return NULL;
    const bool one = tdn_shape_count(&ws->shape) == 1;
    for (int64_t i = 0; i < n; i++) {
        scale[i] = *(const float *)xs->data * ((const float *)ws->data)[one ? 0 : i];
        add[i] = bias ? (float)int_at(bias, i) * scale[i] : 0;
    }
    tdn_value *scales = per_output(io, p, scale, n), *adds = per_output(io, p, add, n);
    tdn_expr e = {.n_in = 3};
    int r = tdn_expr_add(&e, TDN_X_MUL, tdn_expr_input(&e, 0), tdn_expr_input(&e, 1), 0);
    r = tdn_expr_add(&e, TDN_X_ADD, r, tdn_expr_input(&e, 2), 0);
    tdn_expr_store(&e, r, 0);
    return scales && adds && sum
               ? tdn_emit_map(io, (tdn_value *[]){sum, scales, adds}, 3, &e, TDN_F32)
               : NULL;
}

static bool is_float_constant(const tdn_value *v)
{
    return v->kind == TDN_VALUE_CONST && v->dtype == TDN_F32;
}

/* x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero[, bias]. A product of two activations is
 * one of real numbers. */
static tdn_status qlinear_decompose(tdn_infer *io, bool is_conv)
{
    tdn_node *n = io->node;
    tdn_value **in = n->in, *y = NULL, *sum;
    const tdn_shape scalar = tdn_shape_make(0, NULL);
    for (int i = 1; i < 8; i += i == 1 ? 3 : 2) /* the scales */
        if (!is_float_constant(in[i]) || (i != 4 && tdn_shape_count(&in[i]->shape) != 1))
            return TDN_OK;
    if (tdn_shape_count(&in[7]->shape) != 1)
        return TDN_OK;
    product p = {is_conv, in[0], in[2], in[3], in[5]};
    TDN_TRY(sum_of(io, &p, &sum));
    if (sum)
        y = scaled_sum(io, &p, sum, p.w->shape.dims[outputs_axis(&p)]);
    else if (is_conv || tdn_shape_count(&in[4]->shape) != 1 ||
             tdn_shape_count(&in[2]->shape) != 1 || tdn_shape_count(&in[5]->shape) != 1)
        return TDN_OK;
    else
        y = tdn_emit_matmul(
            io, tdn_emit_dequantize(io, in[0], along(io, in[1], 0, 0), along(io, in[2], 0, 0)),
            tdn_emit_dequantize(io, in[3], along(io, in[4], 0, 0), along(io, in[5], 0, 0)));
    if (!y)
        return TDN_E_NOMEM;
    tdn_value *y_scale = tdn_emit_reshape(io, in[6], &scalar),
              *y_zero = tdn_emit_reshape(io, in[7], &scalar);
    return tdn_emit_end(
        io, y_scale && y_zero ? tdn_emit_quantize(io, y, y_scale, y_zero, in[7]->dtype) : NULL);
}

tdn_status tdn_qlinear_conv_decompose(tdn_infer *io) { return qlinear_decompose(io, true); }
tdn_status tdn_qlinear_matmul_decompose(tdn_infer *io) { return qlinear_decompose(io, false); }
