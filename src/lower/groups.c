/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One function a core operator: places in, the canonical form of its kernel family, a step out.
 * What no family takes is run by the operator's reference (with its epilogue as a map after it),
 * and the build says so.
 */
#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "lower/lowering.h"

enum { MAX_IN = TDN_EXPR_MAX_IN + 4 };

bool tdn_lower_is_f32(const tdn_node *n)
{
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] && n->in[i]->dtype != TDN_F32)
            return false;
    return n->out[0]->dtype == TDN_F32;
}

static int last_axis_unit(const tdn_place *p)
{
    int k = p->view.rank - 1;
    return p->view.strides[k] == 1 || p->view.dims[k] == 1;
}

/* ---- References ------------------------------------------------------------------------------ */

static void warn_reference(tdn_lowering *l, const tdn_node *n, const char *why)
{
    if (!l->options->log || n->op->custom || tdn_node_flops(n) < 100000)
        return;
    char line[512];
    snprintf(line, sizeof line, "node '%s' (%s) runs by its reference: %s", n->name, n->op->name,
             why);
    l->options->log(l->options->log_user, TDN_LOG_WARNING, line);
}

tdn_status tdn_lower_reference(tdn_lowering *l, const tdn_node *n, const char *why)
{
    tdn_place in[256], out[32];
    const tdn_ref_def *ref = tdn_op_reference(n->op);
    if (!ref)
        return tdn_fail(l->error, TDN_E_UNSUPPORTED, "operator %s has no kernel here: %s",
                        n->op->name, why);
    if (n->n_in > 256 || n->n_out > 32)
        return tdn_fail(l->error, TDN_E_UNSUPPORTED, "%d inputs and %d outputs", n->n_in, n->n_out);
    warn_reference(l, n, why);
    bool epilogue = n->expr && n->op->core != TDN_CORE_MAP;
    int n_own = epilogue ? n->n_own_in : n->n_in;
    for (int i = 0; i < n->n_in; i++)
        TDN_TRY(tdn_place_of(l, n->in[i], &in[i]));
    for (int i = 0; i < n->n_out; i++) {
        out[i] = (tdn_place){.storage = -1};
        if (n->out[i] && (n->out[i]->n_uses > 0 || l->io_index[n->out[i]->id] >= 0))
            TDN_TRY(tdn_place_result(l, n->out[i], NULL, &out[i]));
    }
    tdn_place result = out[0];
    if (epilogue) {
        const tdn_dtype dtype = tdn_node_is_of_integers(n) ? TDN_S32 : TDN_F32;
        TDN_TRY(tdn_place_new(l, dtype, out[0].view.rank, out[0].view.dims, NULL, &out[0]));
    }
    TDN_TRY(tdn_step_reference(l, ref->name, &n->attrs, epilogue ? NULL : n->expr, in, n_own, out,
                               n->n_out));
    if (epilogue) {
        in[n_own - 1] = out[0];
        TDN_TRY(tdn_step_map(l, n->expr, in + n_own - 1, n->n_in - n_own + 1, &result, 1));
        out[0] = result;
    }
    for (int i = 0; i < n->n_out; i++)
        if (out[i].storage >= 0)
            TDN_TRY(tdn_step_value(l, n->out[i], &out[i]));
    return TDN_OK;
}

/* A step made by a family, or the reference where the family says that it does not take it.
 * `result` is where the value is to be; where the kernel had to write elsewhere (`out`), a copy
 * follows. */
tdn_status tdn_lower_finish(tdn_lowering *l, const tdn_node *n, tdn_status status,
                            const tdn_place *out, const tdn_place *result)
{
    if (status == TDN_E_UNSUPPORTED) {
        char why[256];
        snprintf(why, sizeof why, "%s", l->error ? l->error->text : "no kernel takes it");
        return tdn_lower_reference(l, n, why);
    }
    TDN_TRY(status);
    if (out && out->storage != result->storage)
        TDN_TRY(tdn_step_copy(l, out, result));
    return tdn_step_value(l, n->out[0], result);
}

/* ---- Maps ------------------------------------------------------------------------------------ */

/* The order of the largest input that lies in one of its own; natural otherwise. */
static void order_like_inputs(const tdn_place *in, int n_in, const tdn_shape *shape, int *order)
{
    int64_t best = 0;
    tdn_order_natural(shape->rank, order);
    for (int i = 0; i < n_in; i++) {
        int64_t count = tdn_view_count(&in[i].view);
        if (in[i].storage < 0 || in[i].view.rank != shape->rank || count <= best)
            continue;
        best = count;
        tdn_order_of(&in[i], order);
    }
}

static tdn_status lower_map(tdn_lowering *l, const tdn_node *n)
{
    tdn_place in[MAX_IN], out[TDN_EXPR_MAX_OUT];
    int order[TDN_MAX_RANK];
    if (n->n_in > MAX_IN || n->n_out > TDN_EXPR_MAX_OUT)
        return tdn_fail(l->error, TDN_E_INTERNAL, "a map of %d inputs", n->n_in);
    for (int i = 0; i < n->n_in; i++)
        TDN_TRY(tdn_place_of(l, n->in[i], &in[i]));
    order_like_inputs(in, n->n_in, &n->out[0]->shape, order);
    for (int i = 0; i < n->n_out; i++)
        TDN_TRY(tdn_place_result(l, n->out[i], order, &out[i]));
    TDN_TRY(tdn_step_map(l, n->expr, in, n->n_in, out, n->n_out));
    for (int i = 0; i < n->n_out; i++)
        TDN_TRY(tdn_step_value(l, n->out[i], &out[i]));
    return TDN_OK;
}

/* ---- Convolution and pooling ----------------------------------------------------------------- */

void tdn_lower_channels_last(tdn_place *p)
{
    tdn_view v = p->view;
    int n_spatial = v.rank - 2;
    p->view.rank = 5;
    p->view.dims[4] = v.dims[1];
    p->view.strides[4] = v.dims[1] == 1 ? 1 : v.strides[1];
    for (int i = 0; i < 3; i++) {
        int axis = i - (3 - n_spatial) + 2;
        p->view.dims[1 + i] = axis >= 2 ? v.dims[axis] : 1;
        p->view.strides[1 + i] = axis >= 2 ? v.strides[axis] : 0;
    }
}

/* The last three of an attribute with n_spatial numbers; what is missing is `absent`. */
static void spatial_attr(const tdn_node *n, const char *name, int n_spatial, int32_t absent,
                         int from, int32_t out[3])
{
    int count;
    const int64_t *v = tdn_attr_ints(&n->attrs, name, &count);
    for (int i = 0; i < 3; i++) {
        int k = i - (3 - n_spatial);
        out[i] = k >= 0 && from + k < count ? (int32_t)v[from + k] : absent;
    }
}

void tdn_lower_window(const tdn_node *n, int32_t stride[3], int32_t dilation[3], int32_t pad[3])
{
    const int n_spatial = n->out[0]->shape.rank - 2;
    spatial_attr(n, "strides", n_spatial, 1, 0, stride);
    spatial_attr(n, "dilations", n_spatial, 1, 0, dilation);
    spatial_attr(n, "pads", n_spatial, 0, 0, pad);
}

tdn_status tdn_lower_channels_result(tdn_lowering *l, const tdn_node *n, tdn_place *out,
                                     tdn_place *result)
{
    const tdn_shape *s = &n->out[0]->shape;
    int order[TDN_MAX_RANK];
    tdn_order_channels_last(s->rank, order);
    TDN_TRY(tdn_place_result(l, n->out[0], order, result));
    *out = *result;
    if (result->view.strides[1] == 1 || s->dims[1] == 1)
        return TDN_OK;
    return tdn_place_new(l, n->out[0]->dtype, s->rank, s->dims, order, out);
}

/* The epilogue's operands, broadcast to the result's own axes. */
tdn_status tdn_lower_extras(tdn_lowering *l, const tdn_node *n, tdn_place *extra, int *n_extra)
{
    const tdn_shape *s = &n->out[0]->shape;
    *n_extra = n->n_in - n->n_own_in;
    if (*n_extra > TDN_EXPR_MAX_IN)
        return tdn_fail(l->error, TDN_E_INTERNAL, "an epilogue of %d operands", *n_extra);
    for (int i = 0; i < *n_extra; i++) {
        TDN_TRY(tdn_place_of(l, n->in[n->n_own_in + i], &extra[i]));
        if (!tdn_place_broadcast(&extra[i], s->rank, s->dims))
            return tdn_fail(l->error, TDN_E_INTERNAL,
                            "operand %d of an epilogue does not broadcast", i);
    }
    return TDN_OK;
}

static tdn_status lower_conv(tdn_lowering *l, const tdn_node *n)
{
    int n_spatial = n->out[0]->shape.rank - 2, n_extra = 0;
    const tdn_value *w = n->in[1];
    if (!tdn_lower_is_f32(n) || n_spatial < 1 || n_spatial > 3 || w->kind != TDN_VALUE_CONST ||
        n->n_own_in > 2)
        return tdn_lower_reference(
            l, n, "a convolution needs float32, one to three spatial axes and constant weights");
    tdn_place in[2], extra[TDN_EXPR_MAX_IN], out, result, canonical;
    TDN_TRY(tdn_place_unit(l, n->in[0], 1, &in[0]));
    TDN_TRY(tdn_place_of(l, w, &in[1]));
    in[1].view.data = (void *)w->data;
    TDN_TRY(tdn_lower_channels_result(l, n, &out, &result));
    if (n->expr)
        TDN_TRY(tdn_lower_extras(l, n, extra, &n_extra));
    tdn_conv_desc desc = {.group = (int32_t)tdn_attr_int(&n->attrs, "group", 1)};
    tdn_lower_window(n, desc.stride, desc.dilation, desc.pad);
    tdn_lower_channels_last(&in[0]);
    canonical = out;
    tdn_lower_channels_last(&canonical);
    for (int i = 0; i < n_extra; i++)
        tdn_lower_channels_last(&extra[i]);
    int64_t dims[5] = {w->shape.dims[0], w->shape.dims[1], 1, 1, 1};
    for (int i = 0; i < n_spatial; i++)
        dims[5 - n_spatial + i] = w->shape.dims[2 + i];
    in[1].view = tdn_view_make((void *)w->data, TDN_F32, 5, dims);
    tdn_status status =
        tdn_step_make(l, "conv", &desc, in, 2, extra, n_extra, &canonical, 1, n->expr);
    return tdn_lower_finish(l, n, status, &out, &result);
}

static tdn_status lower_pool(tdn_lowering *l, const tdn_node *n)
{
    int n_spatial = n->out[0]->shape.rank - 2;
    const char *kind = tdn_attr_string(&n->attrs, "kind", "");
    const tdn_dtype dtype = n->in[0]->dtype;
    const bool narrow = (dtype == TDN_U8 || tdn_is_half(dtype)) && n->out[0]->dtype == dtype &&
                        !strcmp(kind, "max");
    if ((!narrow && !tdn_lower_is_f32(n)) || n_spatial < 1 || n_spatial > 3)
        return tdn_lower_reference(l, n, "pooling needs float32 and one to three spatial axes");
    tdn_place in, out, result, canonical;
    TDN_TRY(tdn_place_unit(l, n->in[0], 1, &in));
    TDN_TRY(tdn_lower_channels_result(l, n, &out, &result));
    tdn_pool_desc desc = {.kind = !strcmp(kind, "average") ? TDN_POOL_AVERAGE : TDN_POOL_MAX,
                          .count_include_pad =
                              (int32_t)tdn_attr_int(&n->attrs, "count_include_pad", 0)};
    spatial_attr(n, "kernel_shape", n_spatial, 1, 0, desc.kernel);
    tdn_lower_window(n, desc.stride, desc.dilation, desc.pad);
    spatial_attr(n, "pads", n_spatial, 0, n_spatial, desc.pad_end);
    tdn_lower_channels_last(&in);
    canonical = out;
    tdn_lower_channels_last(&canonical);
    tdn_status status = tdn_step_make(l, "pool", &desc, &in, 1, NULL, 0, &canonical, 1, NULL);
    return tdn_lower_finish(l, n, status, &out, &result);
}

/* ---- Matmul ---------------------------------------------------------------------------------- */

/* Joins axes k and k + 1 of all views; false where one of them does not lie so. */
static bool can_join(tdn_place *const *p, int n, int k)
{
    for (int i = 0; i < n; i++) {
        const tdn_view *v = &p[i]->view;
        if (v->dims[k] != 1 && v->dims[k + 1] != 1 &&
            v->strides[k] != v->strides[k + 1] * v->dims[k + 1])
            return false;
    }
    return true;
}

static void join_axes(tdn_place *p, int k)
{
    tdn_view *v = &p->view;
    if (v->dims[k + 1] == 1)
        v->strides[k + 1] = v->strides[k];
    v->dims[k + 1] *= v->dims[k];
    for (int i = k; i + 1 < v->rank; i++) {
        v->dims[i] = v->dims[i + 1];
        v->strides[i] = v->strides[i + 1];
    }
    v->rank--;
}

void tdn_place_lead(tdn_place *p, int rank)
{
    int64_t dims[TDN_MAX_RANK], strides[TDN_MAX_RANK];
    int add = rank - p->view.rank;
    for (int i = 0; i < rank; i++) {
        dims[i] = i < add ? 1 : p->view.dims[i - add];
        strides[i] = i < add ? 0 : p->view.strides[i - add];
    }
    memcpy(p->view.dims, dims, sizeof dims);
    memcpy(p->view.strides, strides, sizeof strides);
    p->view.rank = rank;
}

/* Broadcasts the batch axes of an operand (all but its last two) to the result's. */
static void broadcast_batch(tdn_place *p, const tdn_view *out)
{
    tdn_place_lead(p, out->rank);
    for (int i = 0; i + 2 < out->rank; i++)
        if (p->view.dims[i] == 1 && out->dims[i] != 1) {
            p->view.dims[i] = out->dims[i];
            p->view.strides[i] = 0;
        }
}

/*
 * Brings (batch..., m, k) x (batch..., k, n) to two batch axes. Where B has no batch, batch axes
 * join m first, since one large product beats many small ones. all: A, B, out, then the extras.
 * False where the axes do not lie so.
 */
static bool collapse(tdn_place **all, int n_all)
{
    tdn_place *a = all[0], *b = all[1], *out = all[2];
    tdn_place *rows[TDN_EXPR_MAX_IN + 2];
    rows[0] = a;
    for (int i = 2; i < n_all; i++)
        rows[i - 1] = all[i];
    while (out->view.rank > 2) { /* the innermost batch axis into m */
        int k = out->view.rank - 3;
        bool free_of_batch = b->view.strides[k] == 0 || b->view.dims[k] == 1;
        if (!free_of_batch || !can_join(rows, n_all - 1, k))
            break;
        for (int i = 0; i < n_all - 1; i++)
            join_axes(rows[i], k);
        for (int i = k; i + 1 < b->view.rank; i++) { /* B just loses the axis */
            b->view.dims[i] = b->view.dims[i + 1];
            b->view.strides[i] = b->view.strides[i + 1];
        }
        b->view.rank--;
    }
    for (int k = 0; out->view.rank > 4 && k + 3 < out->view.rank;) {
        if (can_join(all, n_all, k))
            for (int i = 0; i < n_all; i++)
                join_axes(all[i], k);
        else
            k++;
    }
    if (out->view.rank > 4)
        return false;
    for (int i = 0; i < n_all; i++)
        tdn_place_lead(all[i], 4);
    return true;
}

/* numpy's rule for vectors: a leading 1 for A, a trailing 1 for B; the result has those axes too
 * here. */
static void matrices(tdn_place *a, tdn_place *b, tdn_place *out, tdn_place *extra, int n_extra)
{
    bool a_vector = a->view.rank == 1, b_vector = b->view.rank == 1;
    if (a_vector)
        tdn_place_lead(a, 2);
    if (b_vector) {
        b->view.rank = 2;
        b->view.dims[1] = 1;
        b->view.strides[1] = 1;
    }
    for (int i = -1; i < n_extra; i++) {
        tdn_view *v = i < 0 ? &out->view : &extra[i].view;
        if (a_vector) {
            int at = v->rank - !b_vector;
            for (int k = v->rank; k > at; k--) {
                v->dims[k] = v->dims[k - 1];
                v->strides[k] = v->strides[k - 1];
            }
            v->dims[at] = 1;
            v->strides[at] = i < 0 ? 1 : 0;
            v->rank++;
        }
        if (b_vector) {
            v->dims[v->rank] = 1;
            v->strides[v->rank] = i < 0 ? 1 : 0;
            v->rank++;
        }
    }
}

/* The right operand of a product: one of its last two axes has stride 1. */
static tdn_status right_operand(tdn_lowering *l, const tdn_value *v, tdn_place *p)
{
    const int rank = v->shape.rank;
    TDN_TRY(tdn_place_of(l, v, p));
    if (rank > 1 && p->view.strides[rank - 2] != 1)
        TDN_TRY(tdn_place_unit(l, v, rank - 1, p));
    return TDN_OK;
}

static tdn_status lower_matmul(tdn_lowering *l, const tdn_node *n)
{
    const tdn_value *va = n->in[0], *vb = n->in[1];
    const tdn_shape *s = &n->out[0]->shape;
    if (!tdn_lower_is_f32(n) || s->rank > TDN_MAX_RANK - 2)
        return tdn_lower_reference(l, n, "a matrix product needs float32");
    tdn_place in[2], extra[TDN_EXPR_MAX_IN], out, result;
    int n_extra = 0;
    TDN_TRY(tdn_place_unit(l, va, va->shape.rank - 1, &in[0]));
    TDN_TRY(vb->kind == TDN_VALUE_CONST ? tdn_place_of(l, vb, &in[1])
                                        : right_operand(l, vb, &in[1]));
    TDN_TRY(tdn_place_result(l, n->out[0], NULL, &result));
    out = result;
    if (s->rank > 0 && !last_axis_unit(&out))
        TDN_TRY(tdn_place_new(l, TDN_F32, s->rank, s->dims, NULL, &out));
    if (n->expr)
        TDN_TRY(tdn_lower_extras(l, n, extra, &n_extra));
    if (vb->kind == TDN_VALUE_CONST)
        in[1].view.data = (void *)vb->data;
    tdn_place canonical = out, *all[TDN_EXPR_MAX_IN + 3] = {&in[0], &in[1], &canonical};
    matrices(&in[0], &in[1], &canonical, extra, n_extra);
    broadcast_batch(&in[0], &canonical.view);
    broadcast_batch(&in[1], &canonical.view);
    for (int i = 0; i < n_extra; i++)
        all[3 + i] = &extra[i];
    if (!collapse(all, 3 + n_extra))
        return tdn_lower_reference(l, n, "its batch axes do not join");
    tdn_status status =
        tdn_step_make(l, "gemm", NULL, in, 2, extra, n_extra, &canonical, 1, n->expr);
    return tdn_lower_finish(l, n, status, &out, &result);
}

static tdn_status attention_mask(tdn_lowering *l, const tdn_value *v, const tdn_view *queries,
                                 int64_t n_keys, tdn_place *p)
{
    int64_t dims[TDN_MAX_RANK];
    const int last = v->shape.rank - 1;
    memcpy(dims, queries->dims, sizeof dims);
    dims[queries->rank - 1] = n_keys;
    TDN_TRY(tdn_place_of(l, v, p));
    if (last >= 0 && v->shape.dims[last] != 1)
        TDN_TRY(tdn_place_unit(l, v, last, p));
    return tdn_place_broadcast(p, queries->rank, dims)
               ? TDN_OK
               : tdn_fail(l->error, TDN_E_INTERNAL, "a mask that does not broadcast");
}

/* Of at most two batch axes: the pass that makes it sees to that. */
static tdn_status lower_attend(tdn_lowering *l, const tdn_node *n)
{
    const tdn_attend_desc desc = {tdn_attr_float(&n->attrs, "scale", 1),
                                  (int32_t)tdn_attr_int(&n->attrs, "mean", 0)};
    const tdn_shape *s = &n->out[0]->shape, *k = &n->in[1]->shape;
    const int n_own = desc.is_mean ? 2 : 3;
    tdn_place in[4], out, result;
    TDN_TRY(tdn_place_unit(l, n->in[0], n->in[0]->shape.rank - 1, &in[0]));
    for (int i = 1; i < n_own; i++)
        TDN_TRY(right_operand(l, n->in[i], &in[i]));
    TDN_TRY(tdn_place_result(l, n->out[0], NULL, &result));
    out = result;
    if (!last_axis_unit(&out))
        TDN_TRY(tdn_place_new(l, TDN_F32, s->rank, s->dims, NULL, &out));
    for (int i = 0; i < n_own; i++)
        broadcast_batch(&in[i], &out.view);
    tdn_place canonical = out;
    if (n->n_in > n_own) {
        const tdn_view *queries = &in[0].view;
        TDN_TRY(attention_mask(l, n->in[n_own], queries, k->dims[k->rank - 1], &in[n_own]));
    }
    for (int i = 0; i < n->n_in; i++)
        tdn_place_lead(&in[i], 4);
    tdn_place_lead(&canonical, 4);
    const tdn_status status =
        tdn_step_make(l, "attend", &desc, in, n->n_in, NULL, 0, &canonical, 1, NULL);
    return tdn_lower_finish(l, n, status, &out, &result);
}

/* ---- Along axes ------------------------------------------------------------------------------ */

static int reduce_kind(const char *kind)
{
    static const struct {
        const char *name;
        int kind;
    } kinds[] = {{"sum", TDN_REDUCE_SUM},       {"mean", TDN_REDUCE_MEAN},
                 {"max", TDN_REDUCE_MAX},       {"min", TDN_REDUCE_MIN},
                 {"prod", TDN_REDUCE_PROD},     {"l1", TDN_REDUCE_L1},
                 {"l2", TDN_REDUCE_L2},         {"sumsq", TDN_REDUCE_SUMSQ},
                 {"logsum", TDN_REDUCE_LOGSUM}, {"logsumexp", TDN_REDUCE_LOGSUMEXP}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, kind))
            return kinds[i].kind;
    return -1;
}

static tdn_status lower_reduce(tdn_lowering *l, const tdn_node *n)
{
    tdn_place in, out, canonical;
    int n_axes, order_in[TDN_MAX_RANK], order[TDN_MAX_RANK], at[TDN_MAX_RANK];
    const int64_t *axes = tdn_attr_ints(&n->attrs, "axes", &n_axes);
    bool keep = tdn_attr_int(&n->attrs, "keepdims", 1) != 0;
    tdn_reduce_desc desc = {reduce_kind(tdn_attr_string(&n->attrs, "kind", ""))};
    if (!tdn_lower_is_f32(n) || desc.kind < 0)
        return tdn_lower_reference(l, n, "a reduction needs float32");
    TDN_TRY(tdn_place_of(l, n->in[0], &in));
    tdn_order_of(&in, order_in);
    int rank = in.view.rank, n_kept = 0, n_order = 0;
    bool reduced[TDN_MAX_RANK] = {false};
    for (int i = 0; i < n_axes; i++)
        reduced[axes[i]] = true;
    for (int i = 0; i < rank; i++)
        at[i] = keep || !reduced[i] ? n_kept++ : -1;
    for (int i = 0; i < rank; i++) /* the result lies as the input does */
        if (at[order_in[i]] >= 0)
            order[n_order++] = at[order_in[i]];
    TDN_TRY(tdn_place_result(l, n->out[0], order, &out));
    canonical = out;
    canonical.view.rank = rank;
    for (int i = 0; i < rank; i++) {
        canonical.view.dims[i] = reduced[i] ? 1 : in.view.dims[i];
        canonical.view.strides[i] = at[i] >= 0 ? out.view.strides[at[i]] : 0;
    }
    tdn_status status = tdn_step_make(l, "reduce", &desc, &in, 1, NULL, 0, &canonical, 1, NULL);
    return tdn_lower_finish(l, n, status, NULL, &out);
}

static tdn_status lower_softmax(tdn_lowering *l, const tdn_node *n)
{
    tdn_place in, out;
    int order[TDN_MAX_RANK];
    tdn_softmax_desc desc = {(int32_t)tdn_attr_int(&n->attrs, "axis", 0),
                             (int32_t)tdn_attr_int(&n->attrs, "log", 0)};
    if (!tdn_lower_is_f32(n))
        return tdn_lower_reference(l, n, "softmax needs float32");
    TDN_TRY(tdn_place_of(l, n->in[0], &in));
    tdn_order_of(&in, order);
    TDN_TRY(tdn_place_result(l, n->out[0], order, &out));
    tdn_status status = tdn_step_make(l, "softmax", &desc, &in, 1, NULL, 0, &out, 1, NULL);
    return tdn_lower_finish(l, n, status, NULL, &out);
}

static tdn_status lower_norm(tdn_lowering *l, const tdn_node *n)
{
    tdn_place in[3], out;
    int order[TDN_MAX_RANK];
    if (!tdn_lower_is_f32(n) || n->n_in < 3 || !n->in[1] || !n->in[2] || n->n_out != 1)
        return tdn_lower_reference(l, n, "a normalisation needs float32, a scale and a bias");
    for (int i = 0; i < 3; i++) {
        TDN_TRY(tdn_place_of(l, n->in[i], &in[i]));
        if (i && !tdn_place_broadcast(&in[i], in[0].view.rank, in[0].view.dims))
            return tdn_fail(l->error, TDN_E_INTERNAL, "a scale that does not broadcast");
    }
    tdn_order_of(&in[0], order);
    TDN_TRY(tdn_place_result(l, n->out[0], order, &out));
    tdn_norm_desc desc = {(int32_t)tdn_attr_int(&n->attrs, "axis", 0),
                          tdn_attr_float(&n->attrs, "epsilon", 1e-5f)};
    tdn_status status = tdn_step_make(l, "norm", &desc, in, 3, NULL, 0, &out, 1, NULL);
    return tdn_lower_finish(l, n, status, NULL, &out);
}

/* ---- Movement -------------------------------------------------------------------------------- */

/* The value lies at `view`: nothing moves, unless it was already given a place elsewhere. */
static tdn_status settle(tdn_lowering *l, const tdn_node *n, const tdn_place *view)
{
    const tdn_value *v = n->out[0];
    tdn_place *p = &l->places[v->id];
    if (p->storage == view->storage)
        return TDN_OK; /* its input was written through it */
    if (p->storage < 0 && !l->target[v->id] && l->io_index[v->id] < 0) {
        *p = *view;
        return TDN_OK;
    }
    tdn_place out;
    TDN_TRY(tdn_place_result(l, v, NULL, &out));
    TDN_TRY(tdn_step_copy(l, view, &out));
    return tdn_step_value(l, v, &out);
}

static tdn_status lower_reshape(tdn_lowering *l, const tdn_node *n)
{
    tdn_place p;
    const tdn_shape *s = &n->out[0]->shape;
    TDN_TRY(tdn_place_of(l, n->in[0], &p));
    if (tdn_dtype_size(p.view.dtype, 8) < 8 || n->in[0]->dtype != n->out[0]->dtype)
        return tdn_lower_reference(l, n, "a dtype below a byte");
    if (!tdn_place_reshape(&p, s->rank, s->dims)) {
        tdn_place dense;
        const tdn_value *x = n->in[0];
        TDN_TRY(tdn_place_result(l, n->out[0], NULL,
                                 &dense)); /* dense, so the copy can write through the old shape */
        tdn_place through = dense;
        if (!tdn_place_reshape(&through, x->shape.rank, x->shape.dims)) {
            TDN_TRY(tdn_place_new(l, x->dtype, x->shape.rank, x->shape.dims, NULL, &through));
            TDN_TRY(tdn_step_copy(l, &p, &through));
            tdn_place_reshape(&through, s->rank, s->dims);
            TDN_TRY(tdn_step_copy(l, &through, &dense));
        } else {
            TDN_TRY(tdn_step_copy(l, &p, &through));
        }
        return tdn_step_value(l, n->out[0], &dense);
    }
    return settle(l, n, &p);
}

static tdn_status lower_transpose(tdn_lowering *l, const tdn_node *n)
{
    tdn_place p;
    int rank;
    const int64_t *perm = tdn_attr_ints(&n->attrs, "perm", &rank);
    TDN_TRY(tdn_place_of(l, n->in[0], &p));
    if (tdn_dtype_size(p.view.dtype, 8) < 8 || rank != p.view.rank)
        return tdn_lower_reference(l, n, "a dtype below a byte, or no permutation");
    tdn_place_permute(&p, perm);
    return settle(l, n, &p);
}

static tdn_status lower_slice(tdn_lowering *l, const tdn_node *n)
{
    tdn_place p;
    int rank, rank_steps;
    const int64_t *starts = tdn_attr_ints(&n->attrs, "starts", &rank);
    const int64_t *steps = tdn_attr_ints(&n->attrs, "steps", &rank_steps);
    TDN_TRY(tdn_place_of(l, n->in[0], &p));
    if (tdn_dtype_size(p.view.dtype, 8) < 8 || rank != p.view.rank || rank_steps != rank)
        return tdn_lower_reference(l, n, "a dtype below a byte");
    tdn_place_slice(&p, starts, steps, n->out[0]->shape.dims);
    return settle(l, n, &p);
}

static tdn_status lower_expand(tdn_lowering *l, const tdn_node *n)
{
    tdn_place p;
    const tdn_shape *s = &n->out[0]->shape;
    TDN_TRY(tdn_place_of(l, n->in[0], &p));
    if (tdn_dtype_size(p.view.dtype, 8) < 8 || !tdn_place_broadcast(&p, s->rank, s->dims))
        return tdn_lower_reference(l, n, "a dtype below a byte");
    return settle(l, n, &p);
}

/* Inputs that were not written into their place are copied there. */
static tdn_status lower_concat(tdn_lowering *l, const tdn_node *n)
{
    int64_t axis = tdn_attr_int(&n->attrs, "axis", 0), at = 0;
    tdn_place first, out;
    int order[TDN_MAX_RANK];
    TDN_TRY(tdn_place_of(l, n->in[0], &first));
    if (tdn_dtype_size(n->out[0]->dtype, 8) < 8)
        return tdn_lower_reference(l, n, "a dtype below a byte");
    tdn_order_of(&first, order);
    TDN_TRY(tdn_place_result(l, n->out[0], order, &out));
    bool copied = false;
    for (int i = 0; i < n->n_in; i++) {
        tdn_place from, to = out;
        TDN_TRY(tdn_place_of(l, n->in[i], &from));
        to.offset += at * out.view.strides[axis];
        to.view.dims[axis] = n->in[i]->shape.dims[axis];
        at += to.view.dims[axis];
        if (from.storage == to.storage && from.offset == to.offset)
            continue;
        if (tdn_view_count(&to.view) == 0)
            continue;
        TDN_TRY(tdn_step_copy(l, &from, &to));
        copied = true;
    }
    return copied ? tdn_step_value(l, n->out[0], &out) : TDN_OK;
}

static tdn_status lower_pad(tdn_lowering *l, const tdn_node *n)
{
    tdn_place in, out;
    int rank, order[TDN_MAX_RANK];
    const int64_t *pads = tdn_attr_ints(&n->attrs, "pads", &rank);
    tdn_pad_desc desc = {.value = tdn_attr_float(&n->attrs, "value", 0)};
    if (!tdn_lower_is_f32(n))
        return tdn_lower_reference(l, n, "padding needs float32");
    TDN_TRY(tdn_place_of(l, n->in[0], &in));
    for (int i = 0; i < in.view.rank; i++)
        desc.before[i] = (int32_t)pads[i];
    tdn_order_of(&in, order);
    TDN_TRY(tdn_place_result(l, n->out[0], order, &out));
    tdn_status status = tdn_step_make(l, "pad", &desc, &in, 1, NULL, 0, &out, 1, NULL);
    return tdn_lower_finish(l, n, status, NULL, &out);
}

/* ---- The table ------------------------------------------------------------------------------- */

static tdn_status (*const lower_core[])(tdn_lowering *l, const tdn_node *n) = {
    [TDN_CORE_MAP] = lower_map,
    [TDN_CORE_CONV] = lower_conv,
    [TDN_CORE_MATMUL] = lower_matmul,
    [TDN_CORE_REDUCE] = lower_reduce,
    [TDN_CORE_POOL] = lower_pool,
    [TDN_CORE_ATTEND] = lower_attend,
    [TDN_CORE_SOFTMAX] = lower_softmax,
    [TDN_CORE_NORM] = lower_norm,
    [TDN_CORE_TRANSPOSE] = lower_transpose,
    [TDN_CORE_SLICE] = lower_slice,
    [TDN_CORE_RESHAPE] = lower_reshape,
    [TDN_CORE_EXPAND] = lower_expand,
    [TDN_CORE_CONCAT] = lower_concat,
    [TDN_CORE_PAD] = lower_pad,
    [TDN_CORE_INTEGER_CONV] = tdn_lower_narrow_conv,
    [TDN_CORE_INTEGER_MATMUL] = tdn_lower_narrow_matmul,
    [TDN_CORE_HALF_CONV] = tdn_lower_narrow_conv,
    [TDN_CORE_HALF_MATMUL] = tdn_lower_narrow_matmul,
    [TDN_CORE_MIX] = tdn_lower_mix,
    [TDN_CORE_GRAPHCONV] = tdn_lower_graphconv,
    [TDN_CORE_EITHER] = tdn_lower_either,
};

static bool is_empty_or_bounded(const tdn_node *n)
{
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] && n->in[i]->shape.bounded)
            return true;
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i] && (n->out[i]->shape.bounded || tdn_shape_count(&n->out[i]->shape) == 0))
            return true;
    return false;
}

tdn_status tdn_lower_node(tdn_lowering *l, const tdn_node *n)
{
    size_t core = (size_t)n->op->core;
    if (core >= sizeof lower_core / sizeof *lower_core || !lower_core[core])
        return tdn_lower_reference(l, n, "it has no kernel");
    if (is_empty_or_bounded(n))
        return tdn_lower_reference(l, n, "it has no elements, or an extent known at run time only");
    return lower_core[core](l, n);
}
