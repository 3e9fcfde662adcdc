/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of operators that make tensors from shapes, numbers or nothing.
 *
 * Random numbers come from a counter: number i of a node is a hash of (seed, i). So they do not
 * depend on parts or threads, and each run of a program draws the same ones.
 */
#include <math.h>
#include <string.h>

#include "ref/ref_util.h"

/* ---- Shapes ---------------------------------------------------------------------------------- */

static int64_t clamp(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

static tdn_status shape(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 && call->out[0].rank == 1);
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    const int64_t rank = x->rank, start = tdn_attr_int(call->attrs, "start", 0);
    const int64_t end = tdn_attr_int(call->attrs, "end", rank);
    const int64_t first = clamp(start < 0 ? start + rank : start, 0, rank);
    const int64_t last = clamp(end < 0 ? end + rank : end, first, rank);
    TDN_REF_NEED(call, y->dims[0] == last - first);
    for (int64_t i = first; i < last; i++)
        tdn_view_set_int(y, (i - first) * y->strides[0], x->dims[i]);
    return TDN_OK;
}

static tdn_status size(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 && call->out[0].rank == 0);
    tdn_view_set_int(&call->out[0], 0, tdn_view_count(&call->in[0]));
    return TDN_OK;
}

/* ---- Constants ------------------------------------------------------------------------------- */

static tdn_status constant_of_shape(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_out >= 1);
    const tdn_place y = tdn_place_of(&call->out[0]);
    const tdn_attr *value = tdn_attr_find(call->attrs, "value");
    if (!value) {
        tdn_ref_fill(&y, 0, 0);
        return TDN_OK;
    }
    TDN_REF_NEED(call, value->kind == TDN_ATTR_TENSOR && tdn_view_count(value->tensor) == 1);
    tdn_ref_fill(&y, tdn_view_get(value->tensor, 0), tdn_view_get_int(value->tensor, 0));
    return TDN_OK;
}

static tdn_status constant(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_out >= 1);
    const tdn_view *y = &call->out[0];
    const tdn_attr *tensor = tdn_attr_find(call->attrs, "value");
    int n_ints, n_floats;
    const int64_t *ints = tdn_attr_ints(call->attrs, "value_ints", &n_ints);
    const float *floats = tdn_attr_floats(call->attrs, "value_floats", &n_floats);
    const int64_t count = tdn_view_count(y);
    if (tensor) {
        TDN_REF_NEED(call, tensor->kind == TDN_ATTR_TENSOR &&
                               tdn_view_same_dims(tensor->tensor, y) &&
                               tensor->tensor->dtype == y->dtype);
        const tdn_place from = tdn_place_of(tensor->tensor), to = tdn_place_of(y);
        tdn_ref_copy(&to, &from, 0, 1);
        return TDN_OK;
    }
    TDN_REF_NEED(call, count == (ints ? n_ints : floats ? n_floats : 1));
    for (int64_t i = 0; i < count; i++) {
        const int64_t at = tdn_view_offset(y, i);
        if (y->dtype == TDN_S64)
            tdn_view_set_int(y, at, ints ? ints[i] : tdn_attr_int(call->attrs, "value_int", 0));
        else
            tdn_view_set(
                y, at,
                (double)(floats ? floats[i] : tdn_attr_float(call->attrs, "value_float", 0)));
    }
    return TDN_OK;
}

static tdn_status range(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 3 && call->n_out >= 1 && call->out[0].rank == 1);
    const tdn_view *start = &call->in[0], *delta = &call->in[2], *y = &call->out[0];
    TDN_REF_NEED(call, tdn_view_count(start) == 1 && tdn_view_count(delta) == 1);
    for (int64_t i = 0; i < y->dims[0]; i++) {
        const int64_t at = i * y->strides[0];
        if (tdn_ref_is_float(y->dtype))
            tdn_view_set(y, at, tdn_view_get(start, 0) + (double)i * tdn_view_get(delta, 0));
        else
            tdn_view_set_int(y, at,
                             (int64_t)((uint64_t)tdn_view_get_int(start, 0) +
                                       (uint64_t)i * (uint64_t)tdn_view_get_int(delta, 0)));
    }
    return TDN_OK;
}

/* ---- What is not zero ------------------------------------------------------------------------ */

static bool is_set(const tdn_view *x, int64_t at)
{
    return tdn_ref_is_float(x->dtype) ? tdn_view_get(x, at) != 0 : tdn_view_get_int(x, at) != 0;
}

/* Indices as columns, in row-major order; how many there are is known now. */
static tdn_status non_zero(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 && call->out[0].rank == 2);
    const tdn_view *x = &call->in[0];
    tdn_view *y = &call->out[0];
    TDN_REF_NEED(call, y->dims[0] == (x->rank ? x->rank : 1));
    int64_t n = 0, at = 0;
    for (tdn_walk w = tdn_walk_begin(x->rank, x->dims); w.more; tdn_walk_next(&w))
        n += is_set(x, tdn_walk_offset(&w, x));
    TDN_REF_NEED(call, n <= y->dims[1]);
    y->dims[1] = n;
    *y = tdn_view_make(y->data, y->dtype, 2, y->dims);
    for (tdn_walk w = tdn_walk_begin(x->rank, x->dims); w.more; tdn_walk_next(&w)) {
        if (!is_set(x, tdn_walk_offset(&w, x)))
            continue;
        for (int64_t i = 0; i < y->dims[0]; i++)
            tdn_view_set_int(y, i * y->strides[0] + at, x->rank ? w.index[i] : 0);
        at++;
    }
    return TDN_OK;
}

/* ---- Random numbers -------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x) /* the finaliser of splitmix64 */
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Number i of the stream, in [0, 1). */
static double uniform(const tdn_ref_call *call, uint64_t i)
{
    const float seed = tdn_attr_float(call->attrs, "seed", 0);
    uint32_t bits;
    memcpy(&bits, &seed, sizeof bits);
    return (double)(mix(mix(bits) ^ i) >> 11) * 0x1p-53;
}

/* Box and Muller's transform. */
static double normal(const tdn_ref_call *call, uint64_t i)
{
    const double u = 1 - uniform(call, 2 * i), v = uniform(call, 2 * i + 1),
                 two_pi = 6.283185307179586;
    return sqrt(-2 * log(u)) * cos(two_pi * v);
}

static tdn_status random_by(const tdn_ref_call *call,
                            double (*draw)(const tdn_ref_call *, uint64_t), double base,
                            double scale)
{
    TDN_REF_NEED(call, call->n_out >= 1);
    const tdn_view *y = &call->out[0];
    const int64_t n = tdn_view_count(y);
    for (int64_t i = 0; i < n; i++)
        tdn_view_set(y, tdn_view_offset(y, i), base + scale * draw(call, (uint64_t)i));
    return TDN_OK;
}

static tdn_status random_normal(const tdn_ref_call *call)
{
    return random_by(call, normal, (double)tdn_attr_float(call->attrs, "mean", 0),
                     (double)tdn_attr_float(call->attrs, "scale", 1));
}

static tdn_status random_uniform(const tdn_ref_call *call)
{
    const double low = (double)tdn_attr_float(call->attrs, "low", 0);
    return random_by(call, uniform, low, (double)tdn_attr_float(call->attrs, "high", 1) - low);
}

static tdn_status bernoulli(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 &&
                           tdn_view_same_dims(&call->in[0], &call->out[0]));
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    const int64_t n = tdn_view_count(y);
    for (int64_t i = 0; i < n; i++)
        tdn_view_set(y, tdn_view_offset(y, i),
                     uniform(call, (uint64_t)i) < tdn_view_get(x, tdn_view_offset(x, i)));
    return TDN_OK;
}

/* Classes drawn by unnormalised log-probabilities. */
static tdn_status multinomial(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 && call->in[0].rank == 2 &&
                           call->out[0].rank == 2);
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    TDN_REF_NEED(call, x->dims[0] == y->dims[0]);
    for (tdn_walk w = tdn_walk_begin(2, y->dims); w.more; tdn_walk_next(&w)) {
        const int64_t row = w.index[0] * x->strides[0];
        double max = -INFINITY, sum = 0;
        for (int64_t c = 0; c < x->dims[1]; c++)
            max = fmax(max, tdn_view_get(x, row + c * x->strides[1]));
        for (int64_t c = 0; c < x->dims[1]; c++)
            sum += exp(tdn_view_get(x, row + c * x->strides[1]) - max);
        double left = uniform(call, (uint64_t)(w.index[0] * y->dims[1] + w.index[1])) * sum;
        int64_t c = 0;
        for (; c < x->dims[1] - 1; c++) {
            left -= exp(tdn_view_get(x, row + c * x->strides[1]) - max);
            if (left < 0)
                break;
        }
        tdn_view_set_int(y, tdn_walk_offset(&w, y), c);
    }
    return TDN_OK;
}

const tdn_ref_def tdn_refs_shape[] = {
    {"Shape", shape, NULL, NULL},
    {"Size", size, NULL, NULL},
    {"ConstantOfShape", constant_of_shape, NULL, NULL},
    {"Constant", constant, NULL, NULL},
    {"Range", range, NULL, NULL},
    {"NonZero", non_zero, NULL, NULL},
    {"RandomNormal", random_normal, NULL, NULL},
    {"RandomNormalLike", random_normal, NULL, NULL},
    {"RandomUniform", random_uniform, NULL, NULL},
    {"RandomUniformLike", random_uniform, NULL, NULL},
    {"Bernoulli", bernoulli, NULL, NULL},
    {"Multinomial", multinomial, NULL, NULL},
    {0},
};
