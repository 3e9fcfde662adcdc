/* SPDX-License-Identifier: Apache-2.0 */
/* Both walks over strided views. The order of elements does not matter, so rows run along the axis
 * of the smallest stride, wherever a layout put it. */
#include "quant/observe.h"

#include <float.h>
#include <math.h>

typedef void row_fn(tdn_observed *o, const float *x, int64_t n, int64_t stride);

static void range_of_row(tdn_observed *o, const float *x, int64_t n, int64_t stride)
{
    float low = FLT_MAX, high = -FLT_MAX;
    int64_t n_finite = 0;
    for (int64_t i = 0; i < n; i++) {
        const float v = x[i * stride];
        const bool finite = fabsf(v) <= FLT_MAX;
        low = finite && v < low ? v : low;
        high = finite && v > high ? v : high;
        n_finite += finite;
    }
    o->n_odd += (uint64_t)(n - n_finite);
    if (n_finite == 0)
        return;
    o->min = o->n == 0 || low < o->min ? low : o->min;
    o->max = o->n == 0 || high > o->max ? high : o->max;
    o->n += (uint64_t)n_finite;
}

static void bins_of_row(tdn_observed *o, const float *x, int64_t n, int64_t stride)
{
    const double largest = tdn_observed_largest(o);
    const double scale = largest > 0 ? TDN_OBSERVED_BINS / largest : 0;
    for (int64_t i = 0; i < n; i++) {
        const double v = fabs((double)x[i * stride]);
        if (!(v <= FLT_MAX))
            continue;
        const double at = v * scale;
        o->bins[at < TDN_OBSERVED_BINS - 1 ? (int)at : TDN_OBSERVED_BINS - 1]++;
        o->n_binned++;
    }
}

static int smallest_stride(const tdn_view *v)
{
    int axis = v->rank - 1;
    for (int i = 0; i < v->rank; i++)
        if (v->dims[i] > 1 && (v->dims[axis] <= 1 || v->strides[i] < v->strides[axis]))
            axis = i;
    return axis;
}

static void each_row(tdn_observed *o, const tdn_view *view, row_fn *row)
{
    const float *data = view->data;
    if (tdn_view_count(view) == 0)
        return;
    if (tdn_view_is_dense(view)) {
        row(o, data, tdn_view_count(view), 1);
        return;
    }
    const int axis = smallest_stride(view);
    tdn_view outer = *view;
    outer.dims[axis] = 1;
    for (tdn_walk w = tdn_walk_begin(outer.rank, outer.dims); w.more; tdn_walk_next(&w))
        row(o, data + tdn_walk_offset(&w, &outer), view->dims[axis], view->strides[axis]);
}

double tdn_observed_largest(const tdn_observed *o) { return fmax(fabs(o->min), fabs(o->max)); }

void tdn_observe_range(tdn_observed *o, const tdn_view *view) { each_row(o, view, range_of_row); }
void tdn_observe_bins(tdn_observed *o, const tdn_view *view) { each_row(o, view, bins_of_row); }
