/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resize and Upsample. Repeating elements a whole number of times is a view (reshape, expand,
 * reshape). Interpolation along the last two axes, in fp32, is a product with a constant matrix an
 * axis: far more multiplications than its few taps need, but in the fastest kernel there is. The
 * rest runs by reference.
 */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"
#include "ref/resize.h"

static tdn_status constant_view(tdn_infer *io, int input, tdn_view *view, const tdn_view **out)
{
    const tdn_value *v = tdn_in(io->node, input);
    *out = NULL;
    if (!v || tdn_shape_count(&v->shape) == 0)
        return TDN_OK;
    if (v->kind != TDN_VALUE_CONST)
        return tdn_fail(io->error, TDN_E_UNSUPPORTED, "input %d '%s' must be a constant", input,
                        v->name);
    *view = tdn_value_view(v);
    *out = view;
    return TDN_OK;
}

/* Upsample, and Resize of opset 10, have the scales in attribute or input 1. */
static bool is_old(const tdn_node *node) { return node->op->since < 11; }

static tdn_status read(tdn_infer *io, tdn_resize *r)
{
    tdn_view views[4];
    const tdn_node *node = io->node;
    TDN_TRY(tdn_infer_rank(io, 0, 1, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    views[0] = tdn_value_view(node->in[0]);
    tdn_resize_args args = {.attrs = &node->attrs, .old = is_old(node), .x = &views[0]};
    if (is_old(node)) {
        TDN_TRY(constant_view(io, 1, &views[1], &args.scales));
    } else {
        TDN_TRY(constant_view(io, 1, &views[1], &args.roi));
        TDN_TRY(constant_view(io, 2, &views[2], &args.scales));
        TDN_TRY(constant_view(io, 3, &views[3], &args.sizes));
    }
    const char *wrong = tdn_resize_read(r, &args);
    TDN_NEED(io, !wrong, wrong);
    return TDN_OK;
}

static tdn_status resize_infer(tdn_infer *io)
{
    tdn_resize r;
    TDN_TRY(read(io, &r));
    const tdn_shape y = tdn_shape_make(r.rank, r.out);
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

/* ---- As views -------------------------------------------------------------------------------- */

/* Does output o of every axis take element o / n, n the whole number that the axis grows by? */
static bool repeats(const tdn_resize *r)
{
    const bool half = r->transform == TDN_RESIZE_HALF_PIXEL ||
                      r->transform == TDN_RESIZE_HALF_PIXEL_SYMMETRIC ||
                      r->transform == TDN_RESIZE_PYTORCH_HALF_PIXEL;
    const bool rounds = r->nearest == TDN_RESIZE_ROUND_FLOOR || r->nearest == TDN_RESIZE_ROUND_CEIL;
    const bool floors = r->nearest == TDN_RESIZE_FLOOR || r->nearest == TDN_RESIZE_OLD;
    if (r->mode != TDN_RESIZE_NEAREST)
        return false;
    if (!(half && rounds) && !(r->transform == TDN_RESIZE_ASYMMETRIC && floors))
        return false;
    for (int i = 0; i < r->rank; i++)
        if (r->in[i] == 0 || r->out[i] % r->in[i] || r->scale[i] != (double)(r->out[i] / r->in[i]))
            return false;
    return true;
}

static tdn_status as_views(tdn_infer *io, const tdn_resize *r)
{
    tdn_shape split = {0}, wide = {0};
    for (int i = 0; i < r->rank; i++) {
        const bool grows = r->out[i] != r->in[i];
        if (split.rank + grows >= TDN_MAX_RANK)
            return TDN_OK;
        split.dims[split.rank++] = wide.dims[wide.rank] = r->in[i];
        wide.rank++;
        if (grows) {
            split.dims[split.rank++] = 1;
            wide.dims[wide.rank++] = r->out[i] / r->in[i];
        }
    }
    const tdn_shape y = tdn_shape_make(r->rank, r->out);
    tdn_value *v = tdn_emit_expand(io, tdn_emit_reshape(io, io->node->in[0], &split), &wide);
    return tdn_emit_end(io, tdn_emit_reshape(io, v, &y));
}

/* ---- As products ----------------------------------------------------------------------------- */

#define MAX_MATRIX ((int64_t)1 << 22)

static bool can_multiply(const tdn_resize *r)
{
    if (r->mode == TDN_RESIZE_NEAREST || r->rank < 2)
        return false;
    if (r->transform == TDN_RESIZE_TF_CROP || r->transform == TDN_RESIZE_TF_HALF_PIXEL_FOR_NN)
        return false; /* these move elements even along an axis that stays */
    for (int i = 0; i < r->rank; i++) {
        if (r->in[i] == 0 || r->out[i] == 0 || (i < r->rank - 2 && r->in[i] != r->out[i]))
            return false;
        if (r->in[i] != r->out[i] &&
            (r->in[i] > MAX_MATRIX / r->out[i] || tdn_resize_taps(r, i) > 4 * MAX_MATRIX))
            return false;
    }
    return true;
}

/* The taps of an axis as a matrix (out, in), or (in, out) where it is applied from the right. */
static tdn_value *tap_matrix(tdn_infer *io, const tdn_resize *r, int axis, bool right)
{
    tdn_arena *arena = io->graph->arena;
    const int64_t in = r->in[axis], out = r->out[axis];
    const size_t n_taps = (size_t)tdn_resize_taps(r, axis);
    int64_t *index = tdn_arena_alloc(arena, n_taps, sizeof *index);
    double *weight = tdn_arena_alloc(arena, n_taps, sizeof *weight);
    float *m = tdn_arena_alloc_data(arena, (size_t)(in * out) * sizeof *m);
    if (!index || !weight || !m) {
        tdn_fail_nomem(io->error, "a constant");
        return NULL;
    }
    memset(m, 0, (size_t)(in * out) * sizeof *m);
    for (int64_t o = 0; o < out; o++) {
        const int64_t n = tdn_resize_weights(r, axis, o, index, weight);
        for (int64_t k = 0; k < n; k++)
            m[right ? index[k] * out + o : o * in + index[k]] += (float)weight[k];
    }
    const tdn_shape shape = tdn_shape_make(2, (int64_t[]){right ? in : out, right ? out : in});
    tdn_value *v = tdn_graph_const(io->graph, NULL, TDN_F32, &shape, m);
    if (!v)
        tdn_fail_nomem(io->error, "a constant");
    return v;
}

static tdn_status as_products(tdn_infer *io, const tdn_resize *r)
{
    const int w = r->rank - 1, h = r->rank - 2;
    tdn_value *v = io->node->in[0];
    if (r->in[w] != r->out[w])
        v = tdn_emit_matmul(io, v, tap_matrix(io, r, w, true));
    if (r->in[h] != r->out[h])
        v = tdn_emit_matmul(io, tap_matrix(io, r, h, false), v);
    if (v == io->node->in[0]) /* extents stay, but elements may move: a scale near 1 */
        return TDN_OK;
    return tdn_emit_end(io, v);
}

static tdn_status resize_decompose(tdn_infer *io)
{
    tdn_resize r;
    TDN_TRY(read(io, &r));
    if (repeats(&r))
        return as_views(io, &r);
    for (int i = 0; i < r.rank;
         i++) /* an extent that stays is a copy only where the scale says so */
        if (r.in[i] == r.out[i] && r.scale[i] != 1)
            return TDN_OK;
    return io->node->in[0]->dtype == TDN_F32 && can_multiply(&r) ? as_products(io, &r) : TDN_OK;
}

/* The taps of each output. */
static int64_t resize_flops(const tdn_node *node)
{
    const char *mode = tdn_attr_string(&node->attrs, "mode", "nearest");
    int64_t flops;
    const int64_t taps = strstr(mode, "cubic") ? 32 : strstr(mode, "linear") ? 8 : 1;
    return __builtin_mul_overflow(tdn_shape_count(&node->out[0]->shape), taps, &flops) ? INT64_MAX
                                                                                       : flops;
}

#define ROW(name_, since_, max_in_, reference_)                                                    \
    {                                                                                              \
        .name = name_, .domain = "", .since = since_, .n_in_min = 1, .n_in_max = max_in_,          \
        .n_out_min = 1, .n_out_max = 1, .infer = resize_infer, .decompose = resize_decompose,      \
        .reference = reference_, .flops = resize_flops, .unfolded = true                           \
    }

const tdn_op_def tdn_ops_resize[] = {
    ROW("Upsample", 7, 1, NULL),
    ROW("Upsample", 9, 2, NULL),
    ROW("Resize", 10, 2, "Resize-10"),
    ROW("Resize", 11, 4, NULL),
    {0},
};
