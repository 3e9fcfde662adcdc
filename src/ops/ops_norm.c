/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What normalises along axes. Softmax and LayerNormalization have core forms (Softmax and Norm of
 * the domain "tendon"); the other norms are rewritten into reductions and maps, in fp32 only, since
 * a map computes in fp32 and a sum of squares in half overflows.
 */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"

static int64_t times(const tdn_node *node, int64_t n)
{
    const tdn_value *y = tdn_out(node, 0);
    return y ? n * tdn_shape_count(&y->shape) : 0;
}
static int64_t softmax_flops(const tdn_node *node) { return times(node, 5); }
static int64_t norm_flops(const tdn_node *node) { return times(node, 8); }

/* ---- Softmaxes ------------------------------------------------------------------------------- */

static tdn_status softmax_axis(tdn_infer *io, int *axis)
{
    TDN_TRY(tdn_infer_rank(io, 0, 1, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    return tdn_infer_axis(io, tdn_attr_int(&io->node->attrs, "axis", -1),
                          io->node->in[0]->shape.rank, axis);
}

static tdn_status softmax_infer(tdn_infer *io)
{
    int axis;
    TDN_TRY(softmax_axis(io, &axis));
    return tdn_infer_same(io);
}

static tdn_status softmax_decompose(tdn_infer *io)
{
    int axis;
    TDN_TRY(softmax_axis(io, &axis));
    const bool log = !strcmp(io->node->op->name, "LogSoftmax");
    return tdn_emit_end(io, tdn_emit_softmax(io, io->node->in[0], axis, log));
}

/* Until opset 12: over this axis and all after it; the axis may be the rank. */
static tdn_status flat_axis(tdn_infer *io, int *axis)
{
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    const int rank = io->node->in[0]->shape.rank;
    const int64_t given = tdn_attr_int(&io->node->attrs, "axis", 1);
    TDN_NEED(io, given >= -rank && given <= rank, "axis outside of the input's rank");
    *axis = (int)(given < 0 ? given + rank : given);
    return TDN_OK;
}

static tdn_status flat_infer(tdn_infer *io)
{
    int axis;
    TDN_TRY(flat_axis(io, &axis));
    return tdn_infer_same(io);
}

static tdn_status flat_decompose(tdn_infer *io)
{
    int axis;
    TDN_TRY(flat_axis(io, &axis));
    tdn_value *x = io->node->in[0];
    const tdn_shape shape = x->shape;
    const bool log = !strcmp(io->node->op->name, "LogSoftmax");
    if (axis == shape.rank)
        return TDN_OK;
    int long_axis = axis; /* the only one that is longer than 1, or -1 */
    for (int i = axis + 1; i < shape.rank && long_axis >= 0; i++)
        if (shape.dims[i] != 1)
            long_axis = shape.dims[long_axis] == 1 ? i : -1;
    if (long_axis >= 0)
        return tdn_emit_end(io, tdn_emit_softmax(io, x, long_axis, log));
    tdn_shape flat = {.rank = axis + 1, .dims = {0}};
    memcpy(flat.dims, shape.dims, (size_t)axis * sizeof *flat.dims);
    flat.dims[axis] = 1;
    for (int i = axis; i < shape.rank; i++)
        flat.dims[axis] *= shape.dims[i];
    x = tdn_emit_softmax(io, tdn_emit_reshape(io, x, &flat), axis, log);
    return tdn_emit_end(io, tdn_emit_reshape(io, x, &shape));
}

/* ---- Layer norm ------------------------------------------------------------------------------ */

static tdn_status layer_norm_infer(tdn_infer *io)
{
    int axis;
    TDN_TRY(softmax_axis(io, &axis));
    const tdn_shape *x = &io->node->in[0]->shape;
    for (int i = 1; i < 3; i++) {
        tdn_shape wide;
        if (!tdn_in(io->node, i))
            continue;
        TDN_TRY(tdn_infer_broadcast(io, x, &io->node->in[i]->shape, &wide));
        TDN_NEED(io, tdn_shape_equal(x, &wide), "scale or bias is larger than the input");
    }
    TDN_TRY(tdn_infer_set(io, 0, io->node->in[0]->dtype, x));
    tdn_shape reduced = *x;
    for (int i = axis; i < x->rank; i++)
        reduced.dims[i] = 1;
    for (int i = 1; i < io->node->n_out; i++)
        TDN_TRY(tdn_infer_set(io, i, TDN_F32, &reduced));
    return TDN_OK;
}

static tdn_status layer_norm_decompose(tdn_infer *io)
{
    const tdn_node *node = io->node;
    int axis;
    if (node->in[0]->dtype != TDN_F32 || node->in[1]->dtype != TDN_F32 || tdn_out(node, 1) ||
        tdn_out(node, 2))
        return TDN_OK;
    TDN_TRY(softmax_axis(io, &axis));
    tdn_value *bias = tdn_in(node, 2) ? node->in[2] : tdn_emit_full(io, &node->in[1]->shape, 0);
    const tdn_attr attrs[2] = {
        tdn_attr_of_int("axis", axis),
        tdn_attr_of_float("epsilon", tdn_attr_float(&node->attrs, "epsilon", 1e-5f)),
    };
    tdn_value *const in[3] = {node->in[0], node->in[1], bias};
    return tdn_emit_end(io, bias ? tdn_emit(io, "tendon", "Norm", in, 3, attrs, 2) : NULL);
}

/* ---- Norms as reductions and maps ------------------------------------------------------------ */

/* x without its mean over the axes. */
static tdn_value *centre(tdn_infer *io, tdn_value *x, const int64_t *axes, int n)
{
    return tdn_emit_binary(io, TDN_X_SUB, x, tdn_emit_reduce(io, x, "mean", axes, n, true));
}

/* How x is divided by the root of its mean square, and what follows. */
typedef struct rooted {
    float epsilon, epsilon_root; /* added before and after the root */
    tdn_value *scale, *bias;     /* NULL: none */
} rooted;

/* x / (sqrt(mean(x * x) + epsilon) + epsilon_root) * scale + bias, the mean over the axes. */
static tdn_value *divide_by_rms(tdn_infer *io, tdn_value *x, const int64_t *axes, int n,
                                const rooted *r)
{
    if (!x)
        return NULL;
    int64_t count = 1;
    for (int i = 0; i < n; i++)
        count *= x->shape.dims[axes[i]];
    tdn_value *in[4] = {x, tdn_emit_reduce(io, x, "sumsq", axes, n, true), r->scale, r->bias};
    if (!in[1])
        return NULL;
    tdn_expr e = {.n_in = 2, .n_out = 1};
    int t = tdn_expr_add(&e, TDN_X_MUL, tdn_expr_input(&e, 1),
                         tdn_expr_const(&e, (float)(1 / (double)count)), 0);
    if (r->epsilon != 0)
        t = tdn_expr_add(&e, TDN_X_ADD, t, tdn_expr_const(&e, r->epsilon), 0);
    t = tdn_expr_add(&e, TDN_X_SQRT, t, 0, 0);
    if (r->epsilon_root != 0)
        t = tdn_expr_add(&e, TDN_X_ADD, t, tdn_expr_const(&e, r->epsilon_root), 0);
    t = tdn_expr_add(&e, TDN_X_DIV, tdn_expr_input(&e, 0), t, 0);
    if (r->scale)
        t = tdn_expr_add(&e, TDN_X_MUL, t, tdn_expr_input(&e, e.n_in++), 0);
    if (r->bias)
        t = tdn_expr_add(&e, TDN_X_ADD, t, tdn_expr_input(&e, e.n_in++), 0);
    tdn_expr_store(&e, t, 0);
    return tdn_emit_map(io, in, e.n_in, &e, TDN_F32);
}

/* A vector with one number a channel, along axis 1 of a rank. */
static tdn_value *along_channels(tdn_infer *io, tdn_value *v, int rank)
{
    tdn_shape shape = {.rank = rank - 1, .dims = {tdn_shape_count(&v->shape)}};
    for (int i = 1; i < shape.rank; i++)
        shape.dims[i] = 1;
    return tdn_emit_reshape(io, v, &shape);
}

static tdn_status channel_norm_infer(tdn_infer *io, int64_t n_scale, int64_t n_scale_or)
{
    for (int i = 1; i < 3; i++) {
        TDN_TRY(tdn_infer_rank(io, i, 1, 1));
        const int64_t n = io->node->in[i]->shape.dims[0];
        TDN_NEED(io, n == n_scale || n == n_scale_or, "scale or bias has not one number a channel");
        TDN_NEED(io, n == io->node->in[1]->shape.dims[0], "scale and bias have different lengths");
    }
    return tdn_infer_same(io);
}

static tdn_status instance_norm_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 3, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    const int64_t channels = io->node->in[0]->shape.dims[1];
    return channel_norm_infer(io, channels, channels);
}

static bool all_f32(const tdn_node *node)
{
    for (int i = 0; i < node->n_in; i++)
        if (!node->in[i] || node->in[i]->dtype != TDN_F32)
            return false;
    return true;
}

static tdn_status instance_norm_decompose(tdn_infer *io)
{
    const tdn_node *node = io->node;
    tdn_value *x = node->in[0];
    const int rank = x->shape.rank;
    if (!all_f32(node))
        return TDN_OK;
    static const int64_t axes[] = {2, 3, 4, 5, 6, 7};
    const rooted r = {
        .epsilon = tdn_attr_float(&node->attrs, "epsilon", 1e-5f),
        .scale = along_channels(io, node->in[1], rank),
        .bias = along_channels(io, node->in[2], rank),
    };
    if (!r.scale || !r.bias)
        return TDN_E_NOMEM;
    return tdn_emit_end(io, divide_by_rms(io, centre(io, x, axes, rank - 2), axes, rank - 2, &r));
}

static tdn_status group_norm_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 2, TDN_MAX_RANK - 1));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    const int64_t groups = tdn_attr_int(&io->node->attrs, "num_groups", 0),
                  channels = io->node->in[0]->shape.dims[1];
    TDN_NEED(io, groups > 0 && groups <= channels && channels % groups == 0,
             "attribute 'num_groups' does not divide the channels");
    return channel_norm_infer(io, channels, io->node->op->since < 21 ? groups : channels);
}

/* As (n, groups, channels of a group, the rest): scale and bias have an axis for each or for the
 * groups alone. */
static tdn_status group_norm_decompose(tdn_infer *io)
{
    const tdn_node *node = io->node;
    const tdn_shape shape = node->in[0]->shape;
    if (!all_f32(node) || tdn_shape_count(&shape) == 0)
        return TDN_OK;
    const int64_t groups = tdn_attr_int(&node->attrs, "num_groups", 0),
                  in_group = shape.dims[1] / groups;
    const int64_t dims[4] = {shape.dims[0], groups, in_group,
                             tdn_shape_count(&shape) / shape.dims[0] / shape.dims[1]};
    const tdn_shape split = tdn_shape_make(4, dims);
    const bool a_channel = node->in[1]->shape.dims[0] == shape.dims[1];
    const tdn_shape scale = tdn_shape_make(3, (int64_t[]){groups, a_channel ? in_group : 1, 1});
    static const int64_t axes[2] = {2, 3};
    const rooted r = {
        .epsilon = tdn_attr_float(&node->attrs, "epsilon", 1e-5f),
        .scale = tdn_emit_reshape(io, node->in[1], &scale),
        .bias = tdn_emit_reshape(io, node->in[2], &scale),
    };
    if (!r.scale || !r.bias)
        return TDN_E_NOMEM;
    tdn_value *d = centre(io, tdn_emit_reshape(io, node->in[0], &split), axes, 2);
    return tdn_emit_end(io, tdn_emit_reshape(io, divide_by_rms(io, d, axes, 2, &r), &shape));
}

static tdn_status rms_norm_decompose(tdn_infer *io)
{
    const tdn_node *node = io->node;
    int axis, n = 0;
    int64_t axes[TDN_MAX_RANK];
    if (!all_f32(node) || tdn_shape_count(&node->in[0]->shape) == 0)
        return TDN_OK;
    TDN_TRY(softmax_axis(io, &axis));
    for (int i = axis; i < node->in[0]->shape.rank; i++)
        axes[n++] = i;
    const rooted r = {.epsilon = tdn_attr_float(&node->attrs, "epsilon", 1e-5f),
                      .scale = node->in[1]};
    return tdn_emit_end(io, divide_by_rms(io, node->in[0], axes, n, &r));
}

static tdn_status mean_variance_axes(tdn_infer *io, int64_t *axes, int *n)
{
    static const int64_t usual[3] = {0, 2, 3};
    TDN_TRY(tdn_infer_rank(io, 0, 1, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    const int64_t *given = tdn_attr_ints(&io->node->attrs, "axes", n);
    if (!given) {
        given = usual;
        *n = 3;
    }
    TDN_NEED(io, *n >= 1 && *n <= TDN_MAX_RANK, "attribute 'axes' has too many or no integers");
    for (int i = 0; i < *n; i++) {
        int axis;
        TDN_TRY(tdn_infer_axis(io, given[i], io->node->in[0]->shape.rank, &axis));
        axes[i] = axis;
    }
    return TDN_OK;
}

static tdn_status mean_variance_infer(tdn_infer *io)
{
    int64_t axes[TDN_MAX_RANK];
    int n;
    TDN_TRY(mean_variance_axes(io, axes, &n));
    return tdn_infer_same(io);
}

static tdn_status mean_variance_decompose(tdn_infer *io)
{
    int64_t axes[TDN_MAX_RANK];
    int n;
    if (!all_f32(io->node) || tdn_shape_count(&io->node->in[0]->shape) == 0)
        return TDN_OK;
    TDN_TRY(mean_variance_axes(io, axes, &n));
    const rooted r = {.epsilon_root = 1e-9f};
    return tdn_emit_end(io, divide_by_rms(io, centre(io, io->node->in[0], axes, n), axes, n, &r));
}

/* Where the norm is 0 so is every element: 0, not 0 / 0. */
static tdn_status lp_norm_decompose(tdn_infer *io)
{
    int axis;
    if (!all_f32(io->node))
        return TDN_OK;
    TDN_TRY(softmax_axis(io, &axis));
    const char *kind = tdn_attr_int(&io->node->attrs, "p", 2) == 1 ? "l1" : "l2";
    tdn_value *x = io->node->in[0],
              *length = tdn_emit_reduce(io, x, kind, &(int64_t){axis}, 1, true);
    tdn_expr e = {.n_in = 2, .n_out = 1};
    const int in = tdn_expr_input(&e, 0), by = tdn_expr_input(&e, 1);
    const int quotient = tdn_expr_add(&e, TDN_X_DIV, in, by, 0);
    tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_SELECT, by, quotient, in), 0);
    return tdn_emit_end(io, length ? tdn_emit_map(io, (tdn_value *[]){x, length}, 2, &e, TDN_F32)
                                   : NULL);
}

static tdn_status lp_norm_infer(tdn_infer *io)
{
    const int64_t p = tdn_attr_int(&io->node->attrs, "p", 2);
    TDN_NEED(io, p == 1 || p == 2, "attribute 'p' is neither 1 nor 2");
    return softmax_infer(io);
}

#define ROW(name_, domain_, since_, min_in_, max_in_, max_out_)                                    \
    .name = name_, .domain = domain_, .since = since_, .n_in_min = min_in_, .n_in_max = max_in_,   \
    .n_out_min = 1, .n_out_max = max_out_
#define SOFTMAX(name_, since_, infer_, decompose_, reference_)                                     \
    {                                                                                              \
        ROW(name_, "", since_, 1, 1, 1), .infer = infer_, .decompose = decompose_,                 \
                                         .reference = reference_, .flops = softmax_flops           \
    }
#define NORM(name_, since_, inputs_, infer_, decompose_)                                           \
    {                                                                                              \
        ROW(name_, "", since_, inputs_, inputs_, 1), .infer = infer_, .decompose = decompose_,     \
                                                     .flops = norm_flops                           \
    }

const tdn_op_def tdn_ops_norm[] = {
    SOFTMAX("Softmax", 1, flat_infer, flat_decompose, "Softmax-1"),
    SOFTMAX("Softmax", 13, softmax_infer, softmax_decompose, NULL),
    SOFTMAX("LogSoftmax", 1, flat_infer, flat_decompose, "LogSoftmax-1"),
    SOFTMAX("LogSoftmax", 13, softmax_infer, softmax_decompose, NULL),
    SOFTMAX("Hardmax", 1, flat_infer, NULL, "Hardmax-1"),
    SOFTMAX("Hardmax", 13, softmax_infer, NULL, NULL),
    {ROW("Softmax", "tendon", 1, 1, 1, 1), .infer = softmax_infer, .core = TDN_CORE_SOFTMAX,
     .reference = "tendon.Softmax", .flops = softmax_flops},
    {ROW("LayerNormalization", "", 17, 2, 3, 3), .infer = layer_norm_infer,
     .decompose = layer_norm_decompose, .flops = norm_flops},
    {ROW("Norm", "tendon", 1, 3, 3, 1), .infer = layer_norm_infer, .core = TDN_CORE_NORM,
     .reference = "LayerNormalization", .flops = norm_flops},
    NORM("InstanceNormalization", 1, 3, instance_norm_infer, instance_norm_decompose),
    NORM("GroupNormalization", 18, 3, group_norm_infer, group_norm_decompose),
    NORM("GroupNormalization", 21, 3, group_norm_infer, group_norm_decompose),
    NORM("RMSNormalization", 23, 2, layer_norm_infer, rms_norm_decompose),
    NORM("MeanVarianceNormalization", 9, 1, mean_variance_infer, mean_variance_decompose),
    NORM("LpNormalization", 1, 1, lp_norm_infer, lp_norm_decompose),
    {0},
};
