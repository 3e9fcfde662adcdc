/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of Resize and Upsample: each output is the sum over the taps of all its axes. The taps
 * of each axis are computed once, into scratch; how many there are at most follows from the
 * extents, since a scale is not below what they say (the output's extent is rounded from scale
 * times the input's).
 */
#include <math.h>
#include <string.h>

#include "ref/ref_util.h"
#include "ref/resize.h"

/* Taps of one axis: `width` a position. */
typedef struct table {
    int64_t width;
    int64_t *n, *index;
    double *weight;
} table;

/* The most taps that dims allow. */
static int64_t widest(const tdn_ref_call *call, int64_t in, int64_t out)
{
    const char *mode = tdn_attr_string(call->attrs, "mode", "nearest");
    const int64_t plain = strstr(mode, "cubic") ? 2 : 1;
    if (strstr(mode, "nearest"))
        return 1;
    if (!tdn_attr_int(call->attrs, "antialias", 0) || out >= in || out == 0)
        return 2 * plain;
    const double scale =
        ((double)out - 0.5) / (double)in; /* rounding to the nearest may have added a half */
    return 2 * (int64_t)ceil((double)plain / scale);
}

/* Numbers of one axis: out * (1 + 2 * width). */
static bool table_size(const tdn_ref_call *call, int axis, size_t *n)
{
    const int64_t in = call->in[0].dims[axis], out = call->out[0].dims[axis];
    return tdn_size_mul((size_t)out, 2 * (size_t)widest(call, in, out) + 1, n);
}

static size_t resize_scratch(const tdn_ref_call *call)
{
    size_t total = 0, n;
    if (call->n_in < 1 || call->n_out < 1 || call->in[0].rank != call->out[0].rank)
        return 0;
    for (int i = 0; i < call->in[0].rank; i++)
        if (!table_size(call, i, &n) || !tdn_size_add(total, n, &total))
            return SIZE_MAX;
    return tdn_size_mul(total, sizeof(int64_t), &total) ? total : SIZE_MAX;
}

static tdn_status make_tables(const tdn_ref_call *call, const tdn_resize *r, table *tables)
{
    _Static_assert(sizeof(double) == sizeof(int64_t), "one table holds both");
    int64_t *at = call->scratch;
    for (int i = 0; i < r->rank; i++) {
        const int64_t out = r->out[i];
        table *t = &tables[i];
        *t = (table){.width = widest(call, r->in[i], out)};
        TDN_REF_NEED(call, out == 0 || tdn_resize_taps(r, i) <= t->width);
        t->n = at;
        t->index = t->n + out;
        t->weight = (double *)(void *)(t->index + out * t->width);
        at = t->index + 2 * out * t->width;
        for (int64_t o = 0; o < out; o++)
            t->n[o] =
                tdn_resize_weights(r, i, o, t->index + o * t->width, t->weight + o * t->width);
    }
    return TDN_OK;
}

static double value_at(const tdn_resize *r, const tdn_view *x, const table *tables,
                       const int64_t *o)
{
    int64_t taps[TDN_MAX_RANK];
    for (int i = 0; i < r->rank; i++) {
        taps[i] = tables[i].n[o[i]];
        if (taps[i] == 0)
            return r->extrapolation;
    }
    double sum = 0;
    for (tdn_walk w = tdn_walk_begin(r->rank, taps); w.more; tdn_walk_next(&w)) {
        double weight = 1;
        int64_t at = 0;
        for (int i = 0; i < r->rank; i++) {
            const int64_t k = o[i] * tables[i].width + w.index[i];
            weight *= tables[i].weight[k];
            at += tables[i].index[k] * x->strides[i];
        }
        if (weight != 0)
            sum += weight * tdn_ref_get(x, at);
    }
    return sum;
}

static tdn_status run(const tdn_ref_call *call, const tdn_resize_args *args)
{
    tdn_resize r;
    table tables[TDN_MAX_RANK];
    const tdn_view *x = args->x, *y = &call->out[0];
    const char *wrong = tdn_resize_read(&r, args);
    if (wrong)
        return tdn_ref_misfit(call, wrong);
    TDN_REF_NEED(call,
                 y->rank == x->rank && !memcmp(y->dims, r.out, (size_t)y->rank * sizeof *y->dims));
    TDN_TRY(make_tables(call, &r, tables));
    const bool by_value =
        r.mode == TDN_RESIZE_NEAREST && r.transform != TDN_RESIZE_TF_CROP && x->dtype == y->dtype;
    for (tdn_walk w = tdn_walk_begin(y->rank, y->dims); w.more; tdn_walk_next(&w)) {
        int64_t from = 0;
        if (!by_value) {
            tdn_view_set(y, tdn_walk_offset(&w, y), value_at(&r, x, tables, w.index));
            continue;
        }
        for (int i = 0; i < y->rank; i++)
            from += tables[i].index[w.index[i]] * x->strides[i];
        tdn_ref_copy_one(y, tdn_walk_offset(&w, y), x, from);
    }
    return TDN_OK;
}

static tdn_status resize(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    const tdn_resize_args args = {
        .attrs = call->attrs,
        .x = &call->in[0],
        .roi = tdn_ref_in(call, 1),
        .scales = tdn_ref_in(call, 2),
        .sizes = tdn_ref_in(call, 3),
    };
    return run(call, &args);
}

static tdn_status upsample(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    const tdn_resize_args args = {
        .attrs = call->attrs, .old = true, .x = &call->in[0], .scales = tdn_ref_in(call, 1)};
    return run(call, &args);
}

const tdn_ref_def tdn_refs_resize[] = {
    {"Resize", resize, resize_scratch, NULL},
    {"Resize-10", upsample, resize_scratch, NULL},
    {"Upsample", upsample, resize_scratch, NULL},
    {0},
};
