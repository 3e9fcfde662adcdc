/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of what normalises along axes: softmaxes, and the family of mean and variance.
 *
 * All see their operands as lines: the axes that are normalised over, moved to the end and joined
 * where their strides allow, and one line for each position on the other axes. Sums are in double,
 * two passes for a variance.
 */
#include <math.h>
#include <string.h>

#include "ref/ref_util.h"

/* ---- Lines ----------------------------------------------------------------------------------- */

typedef struct lines {
    tdn_view view;         /* dtype and data */
    tdn_view outer, inner; /* one line an element of outer; inner of rank 1 where the axes join */
} lines;

/* Splits a view into the axes in `mask` and the others. */
static lines lines_make(const tdn_view *v, uint32_t mask)
{
    lines l = {.view = *v};
    for (int i = 0; i < v->rank; i++) {
        tdn_view *to = mask >> i & 1 ? &l.inner : &l.outer;
        const int last = to->rank - 1;
        if (to == &l.inner && last >= 0 && to->strides[last] == v->strides[i] * v->dims[i]) {
            to->dims[last] *= v->dims[i];
            to->strides[last] = v->strides[i];
            continue;
        }
        to->dims[to->rank] = v->dims[i];
        to->strides[to->rank++] = v->strides[i];
    }
    if (l.inner.rank == 0)
        l.inner = (tdn_view){.rank = 1, .dims = {1}};
    return l;
}

static int64_t line_at(const lines *l, int64_t line) { return tdn_view_offset(&l->outer, line); }
static int64_t place_in(const lines *l, int64_t k)
{
    return l->inner.rank == 1 ? k * l->inner.strides[0] : tdn_view_offset(&l->inner, k);
}
static double line_get(const lines *l, int64_t at, int64_t k)
{
    return tdn_ref_get(&l->view, at + place_in(l, k));
}

static uint32_t axes_from(int axis, int rank) { return ((1u << rank) - 1) & ~((1u << axis) - 1); }

/* ---- Softmaxes ------------------------------------------------------------------------------- */

typedef enum softmax_kind { SOFT, LOG_SOFT, HARD } softmax_kind;

static void softmax_line(const lines *x, const lines *y, int64_t line, softmax_kind kind, int64_t n)
{
    const int64_t from = line_at(x, line), to = line_at(y, line);
    double max = -INFINITY, sum = 0;
    int64_t best = 0;
    for (int64_t k = 0; k < n; k++) {
        const double v = line_get(x, from, k);
        best = v > max ? k : best;
        max = v > max || isnan(v) ? v : max;
    }
    if (kind == HARD) {
        for (int64_t k = 0; k < n; k++)
            tdn_ref_set(&y->view, to + place_in(y, k), k == best);
        return;
    }
    for (int64_t k = 0; k < n; k++)
        sum += exp(line_get(x, from, k) - max);
    const double log_sum = log(sum);
    for (int64_t k = 0; k < n; k++) {
        const double v = line_get(x, from, k) - max;
        tdn_ref_set(&y->view, to + place_in(y, k), kind == LOG_SOFT ? v - log_sum : exp(v) / sum);
    }
}

static tdn_status softmax_over(const tdn_ref_call *call, uint32_t mask, softmax_kind kind)
{
    TDN_REF_NEED(call, tdn_view_same_dims(&call->in[0], &call->out[0]));
    const lines x = lines_make(&call->in[0], mask), y = lines_make(&call->out[0], mask);
    const int64_t n = tdn_view_count(&x.inner);
    int64_t i, end;
    if (tdn_view_count(&call->in[0]) == 0)
        return TDN_OK;
    tdn_ref_share(tdn_view_count(&x.outer), call->part, call->n_parts, &i, &end);
    for (; i < end; i++)
        softmax_line(&x, &y, i, kind, n);
    return TDN_OK;
}

/* Along one axis. */
static tdn_status softmax_along(const tdn_ref_call *call, softmax_kind kind)
{
    int axis;
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    TDN_REF_NEED(call,
                 tdn_ref_axis(tdn_attr_int(call->attrs, "axis", -1), call->in[0].rank, &axis));
    return softmax_over(call, 1u << axis, kind);
}

/* As it was until opset 12: over this axis and all after it. */
static tdn_status softmax_flat(const tdn_ref_call *call, softmax_kind kind)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    const int rank = call->in[0].rank;
    const int64_t given = tdn_attr_int(call->attrs, "axis", 1);
    TDN_REF_NEED(call, given >= -rank && given <= rank);
    return softmax_over(call, axes_from((int)(given < 0 ? given + rank : given), rank), kind);
}

static tdn_status softmax(const tdn_ref_call *call) { return softmax_along(call, SOFT); }
static tdn_status log_softmax(const tdn_ref_call *call) { return softmax_along(call, LOG_SOFT); }
static tdn_status hardmax(const tdn_ref_call *call) { return softmax_along(call, HARD); }
static tdn_status softmax_1(const tdn_ref_call *call) { return softmax_flat(call, SOFT); }
static tdn_status log_softmax_1(const tdn_ref_call *call) { return softmax_flat(call, LOG_SOFT); }
static tdn_status hardmax_1(const tdn_ref_call *call) { return softmax_flat(call, HARD); }
static tdn_status core_softmax(const tdn_ref_call *call)
{
    return softmax_along(call, tdn_attr_int(call->attrs, "log", 0) ? LOG_SOFT : SOFT);
}

static int line_parts(const tdn_ref_call *call)
{
    return call->n_out ? tdn_ref_parts_of(&call->out[0], 8) : 1;
}

/* ---- Mean and variance ----------------------------------------------------------------------- */

typedef struct norm {
    tdn_view x, y;
    tdn_view scale, bias; /* broadcast to x's dims; dtype NONE: 1 and 0 */
    tdn_view *mean,
        *inverse;        /* outputs, one an element of the outer axes; NULL: nobody reads them */
    uint32_t mask;       /* the axes */
    double epsilon;      /* added to the variance */
    double epsilon_root; /* added to its root */
    bool centred;        /* subtract the mean */
} norm;

static void norm_line(const norm *p, const lines *x, const lines *y, const lines *scale,
                      const lines *bias, int64_t line)
{
    const int64_t n = tdn_view_count(&x->inner), from = line_at(x, line), to = line_at(y, line);
    const int64_t scale_at = line_at(scale, line), bias_at = line_at(bias, line);
    double mean = 0, sum = 0;
    for (int64_t k = 0; p->centred && k < n; k++)
        mean += line_get(x, from, k);
    mean /= (double)n;
    for (int64_t k = 0; k < n; k++) {
        const double d = line_get(x, from, k) - mean;
        sum += d * d;
    }
    const double inverse = 1 / (sqrt(sum / (double)n + p->epsilon) + p->epsilon_root);
    for (int64_t k = 0; k < n; k++) {
        const double s = p->scale.dtype ? line_get(scale, scale_at, k) : 1;
        const double b = p->bias.dtype ? line_get(bias, bias_at, k) : 0;
        tdn_ref_set(&y->view, to + place_in(y, k), (line_get(x, from, k) - mean) * inverse * s + b);
    }
    if (p->mean)
        tdn_view_set(p->mean, tdn_view_offset(p->mean, line), mean);
    if (p->inverse)
        tdn_view_set(p->inverse, tdn_view_offset(p->inverse, line), inverse);
}

static tdn_status norm_run(const tdn_ref_call *call, const norm *p)
{
    TDN_REF_NEED(call, tdn_view_same_dims(&p->x, &p->y));
    if (tdn_view_count(&p->x) == 0)
        return TDN_OK;
    const lines x = lines_make(&p->x, p->mask), y = lines_make(&p->y, p->mask);
    const lines scale = lines_make(p->scale.dtype ? &p->scale : &p->x, p->mask);
    const lines bias = lines_make(p->bias.dtype ? &p->bias : &p->x, p->mask);
    const int64_t n_lines = tdn_view_count(&x.outer);
    TDN_REF_NEED(call, !p->mean || tdn_view_count(p->mean) == n_lines);
    TDN_REF_NEED(call, !p->inverse || tdn_view_count(p->inverse) == n_lines);
    int64_t i, end;
    tdn_ref_share(n_lines, call->part, call->n_parts, &i, &end);
    for (; i < end; i++)
        norm_line(p, &x, &y, &scale, &bias, i);
    return TDN_OK;
}

static norm norm_of(const tdn_ref_call *call)
{
    return (norm){
        .x = call->in[0],
        .y = call->out[0],
        .epsilon = (double)tdn_attr_float(call->attrs, "epsilon", 1e-5f),
        .centred = true,
    };
}

static tdn_status layer_or_rms(const tdn_ref_call *call, bool centred)
{
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out >= 1);
    norm p = norm_of(call);
    int axis;
    TDN_REF_NEED(call, tdn_ref_axis(tdn_attr_int(call->attrs, "axis", -1), p.x.rank, &axis));
    TDN_REF_NEED(call, tdn_view_broadcast(&call->in[1], p.x.rank, p.x.dims, &p.scale));
    if (tdn_ref_in(call, 2))
        TDN_REF_NEED(call, tdn_view_broadcast(&call->in[2], p.x.rank, p.x.dims, &p.bias));
    p.centred = centred;
    p.mask = axes_from(axis, p.x.rank);
    p.mean = tdn_ref_out(call, 1);
    p.inverse = tdn_ref_out(call, 2);
    return norm_run(call, &p);
}

static tdn_status layer_norm(const tdn_ref_call *call) { return layer_or_rms(call, true); }
static tdn_status rms_norm(const tdn_ref_call *call) { return layer_or_rms(call, false); }

/* A vector along axis `at` of x's dims. */
static bool along(const tdn_view *v, const tdn_view *x, int at, tdn_view *out)
{
    if (v->rank != 1 || v->dims[0] != x->dims[at])
        return false;
    *out = *x;
    out->data = v->data;
    out->dtype = v->dtype;
    memset(out->strides, 0, sizeof out->strides);
    out->strides[at] = v->strides[0];
    return true;
}

static tdn_status instance_norm(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 3 && call->n_out >= 1 && call->in[0].rank >= 2);
    norm p = norm_of(call);
    TDN_REF_NEED(call,
                 along(&call->in[1], &p.x, 1, &p.scale) && along(&call->in[2], &p.x, 1, &p.bias));
    p.mask = axes_from(2, p.x.rank);
    return norm_run(call, &p);
}

/* Axis 1 as (groups, channels of a group). */
static void split_channels(tdn_view *v, int64_t groups)
{
    for (int i = v->rank; i > 2; i--) {
        v->dims[i] = v->dims[i - 1];
        v->strides[i] = v->strides[i - 1];
    }
    v->rank++;
    v->dims[2] = v->dims[1] / groups;
    v->strides[2] = v->strides[1];
    v->dims[1] = groups;
    v->strides[1] *= v->dims[2];
}

/* Scale and bias hold one number a channel, or (opset 18) one a group. */
static tdn_status group_norm(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 3 && call->n_out >= 1 && call->in[0].rank >= 2);
    norm p = norm_of(call);
    const int64_t groups = tdn_attr_int(call->attrs, "num_groups", 0), channels = p.x.dims[1];
    TDN_REF_NEED(call, groups > 0 && channels % groups == 0 && p.x.rank < TDN_MAX_RANK);
    TDN_REF_NEED(call, p.y.rank == p.x.rank && p.y.dims[1] == channels);
    const bool a_channel = call->in[1].rank == 1 && call->in[1].dims[0] == channels;
    if (a_channel)
        TDN_REF_NEED(call, along(&call->in[1], &p.x, 1, &p.scale) &&
                               along(&call->in[2], &p.x, 1, &p.bias));
    split_channels(&p.x, groups);
    split_channels(&p.y, groups);
    if (a_channel) {
        split_channels(&p.scale, groups);
        split_channels(&p.bias, groups);
    } else {
        TDN_REF_NEED(call, along(&call->in[1], &p.x, 1, &p.scale) &&
                               along(&call->in[2], &p.x, 1, &p.bias));
    }
    p.mask = axes_from(2, p.x.rank);
    return norm_run(call, &p);
}

static tdn_status mean_variance(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    static const int64_t usual[3] = {0, 2, 3};
    norm p = norm_of(call);
    int n;
    const int64_t *axes = tdn_attr_ints(call->attrs, "axes", &n);
    p.epsilon = 0;
    p.epsilon_root = 1e-9;
    for (int i = 0; i < (axes ? n : 3); i++) {
        int axis;
        TDN_REF_NEED(call, tdn_ref_axis(axes ? axes[i] : usual[i], p.x.rank, &axis));
        p.mask |= 1u << axis;
    }
    return norm_run(call, &p);
}

static tdn_status lp_norm(const tdn_ref_call *call)
{
    int axis;
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 &&
                           tdn_view_same_dims(&call->in[0], &call->out[0]));
    TDN_REF_NEED(call,
                 tdn_ref_axis(tdn_attr_int(call->attrs, "axis", -1), call->in[0].rank, &axis));
    const lines x = lines_make(&call->in[0], 1u << axis), y = lines_make(&call->out[0], 1u << axis);
    const bool ones = tdn_attr_int(call->attrs, "p", 2) == 1;
    const int64_t n = tdn_view_count(&x.inner), n_lines = tdn_view_count(&x.outer);
    for (int64_t i = 0; n > 0 && i < n_lines; i++) {
        const int64_t from = line_at(&x, i), to = line_at(&y, i);
        double sum = 0;
        for (int64_t k = 0; k < n; k++)
            sum += ones ? fabs(line_get(&x, from, k)) : pow(line_get(&x, from, k), 2);
        const double length = ones ? sum : sqrt(sum);
        for (int64_t k = 0; k < n; k++)
            tdn_ref_set(&y.view, to + place_in(&y, k),
                        length == 0 ? 0 : line_get(&x, from, k) / length);
    }
    return TDN_OK;
}

const tdn_ref_def tdn_refs_norm[] = {
    {"Softmax", softmax, NULL, line_parts},
    {"LogSoftmax", log_softmax, NULL, line_parts},
    {"Hardmax", hardmax, NULL, line_parts},
    {"Softmax-1", softmax_1, NULL, line_parts},
    {"LogSoftmax-1", log_softmax_1, NULL, line_parts},
    {"Hardmax-1", hardmax_1, NULL, line_parts},
    {"tendon.Softmax", core_softmax, NULL, line_parts},
    {"LayerNormalization", layer_norm, NULL, line_parts},
    {"RMSNormalization", rms_norm, NULL, line_parts},
    {"InstanceNormalization", instance_norm, NULL, line_parts},
    {"GroupNormalization", group_norm, NULL, line_parts},
    {"MeanVarianceNormalization", mean_variance, NULL, line_parts},
    {"LpNormalization", lp_norm, NULL, NULL},
    {0},
};
