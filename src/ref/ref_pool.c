/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of pools: for each output the window is walked, what lies outside of the input is
 * skipped.
 *
 * An average divides by the positions inside of the input, or with count_include_pad by those
 * inside of the input and its padding; what overhangs the padding in ceil_mode never counts. Works
 * on (n, c) planes of one to three spatial axes, in double, or in int64 where a maximum over
 * integers asks for all bits.
 */
#include <math.h>
#include <string.h>

#include "ref/ref_util.h"
#include "ref/window.h"

typedef struct pool {
    const tdn_view *x;
    tdn_view *y;
    tdn_window window;
    int n; /* spatial axes */
} pool;

static tdn_status pool_make(const tdn_ref_call *call, pool *p)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    *p = (pool){.x = &call->in[0], .y = &call->out[0], .n = call->in[0].rank - 2};
    int n_kernel;
    const int64_t *kernel = tdn_attr_ints(call->attrs, "kernel_shape", &n_kernel);
    TDN_REF_NEED(call,
                 p->n >= 1 && n_kernel == p->n && p->y->rank == p->x->rank && p->x->rank <= 5);
    TDN_REF_NEED(call, p->x->dims[0] == p->y->dims[0] && p->x->dims[1] == p->y->dims[1]);
    const char *wrong = tdn_window_read(&p->window, call->attrs, p->n, p->x->dims + 2, kernel);
    for (int i = 0; i < p->n; i++)
        TDN_REF_NEED(call, p->y->dims[2 + i] < (int64_t)1 << 31);
    return wrong ? tdn_ref_misfit(call, wrong) : TDN_OK;
}

/* The kernel positions [begin, end) of an axis whose element lies in [low, high). */
static void reach(const pool *p, int axis, int64_t o, int64_t low, int64_t high, int64_t *begin,
                  int64_t *end)
{
    const int64_t first = o * p->window.stride[axis] - p->window.before[axis],
                  d = p->window.dilation[axis];
    const int64_t k = p->window.kernel[axis];
    *begin = first >= low ? 0 : (low - first + d - 1) / d;
    *end = high <= first ? 0 : (high - first + d - 1) / d;
    *end = *end < k ? *end : k;
}

/* A walk over the elements of the input that an output sees: like tdn_walk, over the positions that
 * are inside. */
typedef struct seen {
    tdn_walk walk;
    int64_t first[TDN_WINDOW_MAX]; /* index of the element at walk index 0 */
    int64_t count;
} seen;

static seen seen_from(const pool *p, const int64_t *o)
{
    seen s = {.count = 1};
    int64_t extents[TDN_WINDOW_MAX];
    for (int i = 0; i < p->n; i++) {
        int64_t begin, end;
        reach(p, i, o[i], 0, p->x->dims[2 + i], &begin, &end);
        extents[i] = end > begin ? end - begin : 0;
        s.first[i] =
            o[i] * p->window.stride[i] - p->window.before[i] + begin * p->window.dilation[i];
        s.count *= extents[i];
    }
    s.walk = tdn_walk_begin(p->n, extents);
    return s;
}

static int64_t seen_index(const pool *p, const seen *s, int axis)
{
    return s->first[axis] + s->walk.index[axis] * p->window.dilation[axis];
}

static int64_t seen_offset(const pool *p, const seen *s)
{
    int64_t offset = 0;
    for (int i = 0; i < p->n; i++)
        offset += seen_index(p, s, i) * p->x->strides[2 + i];
    return offset;
}

/* Positions inside of the input and its padding. */
static int64_t padded_count(const pool *p, const int64_t *o)
{
    int64_t count = 1;
    for (int i = 0; i < p->n; i++) {
        int64_t begin, end;
        reach(p, i, o[i], -p->window.before[i], p->x->dims[2 + i] + p->window.after[i], &begin,
              &end);
        count *= end > begin ? end - begin : 0;
    }
    return count;
}

/* ---- Kinds ----------------------------------------------------------------------------------- */

typedef struct plane {
    int64_t x, y;   /* offsets of its first elements */
    int64_t number; /* n * channels + c */
} plane;

typedef void pool_fn(const tdn_ref_call *call, const pool *p, const plane *at, const int64_t *o,
                     int64_t y_offset);

static bool is_int(tdn_dtype dtype) { return !tdn_ref_is_float(dtype); }

/* Number of an element in its tensor: row-major, or with the first spatial axis the fastest. */
static int64_t element_number(const pool *p, const seen *s, int64_t plane_number, bool column_major)
{
    int64_t number = 0, count = 1;
    for (int i = 0; i < p->n; i++) {
        const int axis = column_major ? p->n - 1 - i : i;
        number = number * p->x->dims[2 + axis] + seen_index(p, s, axis);
        count *= p->x->dims[2 + axis];
    }
    return plane_number * count + number;
}

static void pool_max(const tdn_ref_call *call, const pool *p, const plane *at, const int64_t *o,
                     int64_t y_offset)
{
    const tdn_view *indices = tdn_ref_out(call, 1);
    double best = -INFINITY;
    int64_t best_int = INT64_MIN, best_offset = -1;
    seen s = seen_from(p, o), found = s;
    for (; s.walk.more; tdn_walk_next(&s.walk)) {
        const int64_t offset = at->x + seen_offset(p, &s);
        const double v = is_int(p->x->dtype) ? 0 : tdn_ref_get(p->x, offset);
        const int64_t i = is_int(p->x->dtype) ? tdn_view_get_int(p->x, offset) : 0;
        if (best_offset >= 0 && !(v > best || i > best_int || (isnan(v) && !isnan(best))))
            continue;
        best = v;
        best_int = i;
        best_offset = offset;
        found = s;
    }
    if (is_int(p->x->dtype))
        tdn_view_set_int(p->y, y_offset, best_int);
    else
        tdn_ref_set(p->y, y_offset, best);
    if (!indices)
        return;
    const bool column_major = tdn_attr_int(call->attrs, "storage_order", 0) == 1;
    const int64_t number =
        best_offset < 0 ? -1 : element_number(p, &found, at->number, column_major);
    int64_t offset = at->number / p->x->dims[1] * indices->strides[0] +
                     at->number % p->x->dims[1] * indices->strides[1];
    for (int i = 0; i < p->n; i++)
        offset += o[i] * indices->strides[2 + i];
    tdn_view_set_int(indices, offset, number);
}

static void pool_average(const tdn_ref_call *call, const pool *p, const plane *at, const int64_t *o,
                         int64_t y_offset)
{
    double sum = 0;
    seen s = seen_from(p, o);
    for (; s.walk.more; tdn_walk_next(&s.walk))
        sum += tdn_ref_get(p->x, at->x + seen_offset(p, &s));
    const bool padding = tdn_attr_int(call->attrs, "count_include_pad", 0) != 0;
    const int64_t count = padding ? padded_count(p, o) : s.count;
    tdn_ref_set(p->y, y_offset, count ? sum / (double)count : 0);
}

static void pool_lp(const tdn_ref_call *call, const pool *p, const plane *at, const int64_t *o,
                    int64_t y_offset)
{
    const double power = (double)tdn_attr_int(call->attrs, "p", 2);
    double sum = 0;
    for (seen s = seen_from(p, o); s.walk.more; tdn_walk_next(&s.walk))
        sum += pow(fabs(tdn_ref_get(p->x, at->x + seen_offset(p, &s))), power);
    tdn_ref_set(p->y, y_offset, pow(sum, 1 / power));
}

static tdn_status pool_by(const tdn_ref_call *call, pool_fn *fn)
{
    pool p;
    TDN_TRY(pool_make(call, &p));
    const tdn_view *indices = tdn_ref_out(call, 1);
    TDN_REF_NEED(call, !indices || tdn_view_same_dims(indices, p.y));
    plane at;
    int64_t end;
    tdn_ref_share(p.y->dims[0] * p.y->dims[1], call->part, call->n_parts, &at.number, &end);
    for (; at.number < end; at.number++) {
        const int64_t n = at.number / p.x->dims[1], c = at.number % p.x->dims[1];
        at.x = n * p.x->strides[0] + c * p.x->strides[1];
        at.y = n * p.y->strides[0] + c * p.y->strides[1];
        for (tdn_walk o = tdn_walk_begin(p.n, p.y->dims + 2); o.more; tdn_walk_next(&o)) {
            int64_t offset = at.y;
            for (int i = 0; i < p.n; i++)
                offset += o.index[i] * p.y->strides[2 + i];
            fn(call, &p, &at, o.index, offset);
        }
    }
    return TDN_OK;
}

static tdn_status max_pool(const tdn_ref_call *call) { return pool_by(call, pool_max); }
static tdn_status average_pool(const tdn_ref_call *call) { return pool_by(call, pool_average); }
static tdn_status lp_pool(const tdn_ref_call *call) { return pool_by(call, pool_lp); }

static tdn_status core_pool(const tdn_ref_call *call)
{
    const bool average = !strcmp(tdn_attr_string(call->attrs, "kind", "max"), "average");
    return pool_by(call, average ? pool_average : pool_max);
}

static int planes(const tdn_ref_call *call)
{
    const int64_t n =
        call->n_out && call->out[0].rank >= 2 ? call->out[0].dims[0] * call->out[0].dims[1] : 1;
    return n < 1 ? 1 : n > 64 ? 64 : (int)n;
}

static tdn_status global_lp_pool(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 && call->in[0].rank >= 2);
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    TDN_REF_NEED(call, y->rank == x->rank && y->dims[0] == x->dims[0] && y->dims[1] == x->dims[1]);
    for (int i = 2; i < y->rank; i++)
        TDN_REF_NEED(call, y->dims[i] == 1);
    const double power = (double)tdn_attr_int(call->attrs, "p", 2);
    for (tdn_walk o = tdn_walk_begin(2, x->dims); o.more; tdn_walk_next(&o)) {
        double sum = 0;
        for (tdn_walk w = tdn_walk_begin(x->rank - 2, x->dims + 2); w.more; tdn_walk_next(&w)) {
            int64_t offset = o.index[0] * x->strides[0] + o.index[1] * x->strides[1];
            for (int i = 2; i < x->rank; i++)
                offset += w.index[i - 2] * x->strides[i];
            sum += pow(fabs(tdn_ref_get(x, offset)), power);
        }
        tdn_ref_set(y, o.index[0] * y->strides[0] + o.index[1] * y->strides[1],
                    pow(sum, 1 / power));
    }
    return TDN_OK;
}

/* ---- Local response normalisation ------------------------------------------------------------ */

static tdn_status lrn(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 && call->in[0].rank >= 2);
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    TDN_REF_NEED(call, tdn_view_same_dims(x, y));
    const double alpha = (double)tdn_attr_float(call->attrs, "alpha", 1e-4f);
    const double beta = (double)tdn_attr_float(call->attrs, "beta", 0.75f);
    const double bias = (double)tdn_attr_float(call->attrs, "bias", 1);
    const int64_t size = tdn_attr_int(call->attrs, "size", 1);
    TDN_REF_NEED(call, size > 0);
    for (tdn_walk w = tdn_walk_begin(x->rank, x->dims); w.more; tdn_walk_next(&w)) {
        const int64_t c = w.index[1], at = tdn_walk_offset(&w, x) - c * x->strides[1];
        const int64_t low = c - (size - 1) / 2,
                      high = c + size / 2; /* of an even size the longer half is above */
        double sum = 0;
        for (int64_t k = low < 0 ? 0 : low; k <= high && k < x->dims[1]; k++)
            sum += pow(tdn_ref_get(x, at + k * x->strides[1]), 2);
        const double scale = pow(bias + alpha / (double)size * sum, beta);
        tdn_ref_set(y, tdn_walk_offset(&w, y), tdn_ref_get(x, at + c * x->strides[1]) / scale);
    }
    return TDN_OK;
}

/* ---- Unpooling ------------------------------------------------------------------------------- */

/* Indices count in the tensor that the pool's input was by its attributes; output_shape may be
 * larger, which adds zeros at the end of each axis. */
static tdn_status max_unpool(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out >= 1 && call->in[0].rank >= 3);
    const tdn_view *x = &call->in[0], *indices = &call->in[1], *y = &call->out[0];
    TDN_REF_NEED(call,
                 tdn_view_same_dims(x, indices) && y->rank == x->rank && x->dtype == y->dtype);
    tdn_view natural = {.rank = x->rank, .dims = {x->dims[0], x->dims[1]}};
    int n, n_strides, n_pads;
    const int64_t *kernel = tdn_attr_ints(call->attrs, "kernel_shape", &n);
    const int64_t *strides = tdn_attr_ints(call->attrs, "strides", &n_strides);
    const int64_t *pads = tdn_attr_ints(call->attrs, "pads", &n_pads);
    const int spatial = x->rank - 2;
    TDN_REF_NEED(call, n == spatial && (!strides || n_strides == n) && (!pads || n_pads == 2 * n));
    for (int i = 0; i < n; i++) {
        const int64_t stride = strides ? strides[i] : 1, pad = pads ? pads[i] + pads[n + i] : 0;
        natural.dims[2 + i] = (x->dims[2 + i] - 1) * stride - pad + kernel[i];
    }
    int64_t count;
    TDN_REF_NEED(call, tdn_dims_count(natural.dims, natural.rank, &count));
    const tdn_place whole = tdn_place_of(y);
    tdn_ref_fill(&whole, 0, 0);
    for (tdn_walk w = tdn_walk_begin(x->rank, x->dims); w.more; tdn_walk_next(&w)) {
        int64_t at = tdn_view_get_int(indices, tdn_walk_offset(&w, indices)), offset = 0;
        bool inside = at >= 0 && at < count;
        for (int i = x->rank - 1; inside && i >= 0; i--) {
            inside = at % natural.dims[i] < y->dims[i];
            offset += at % natural.dims[i] * y->strides[i];
            at /= natural.dims[i];
        }
        if (!inside)
            return tdn_fail(call->error, TDN_E_MODEL, "an index lies outside of the output");
        tdn_ref_copy_one(y, offset, x, tdn_walk_offset(&w, x));
    }
    return TDN_OK;
}

/* ---- Regions of interest --------------------------------------------------------------------- */

/* Of a region of `extent` elements from `start` on, the elements of bin i of n, clipped to the
 * input. */
static void roi_bin(int64_t start, int64_t extent, int64_t i, int64_t n, int64_t in, int64_t *begin,
                    int64_t *end)
{
    const double size = (double)extent / (double)n;
    *begin = (int64_t)floor((double)i * size) + start;
    *end = (int64_t)ceil((double)(i + 1) * size) + start;
    *begin = *begin < 0 ? 0 : *begin > in ? in : *begin;
    *end = *end < 0 ? 0 : *end > in ? in : *end;
}

static int64_t to_pixel(double x)
{
    const double limit = 1e9;
    return (int64_t)(x > limit ? limit : x < -limit ? -limit : isnan(x) ? 0 : round(x));
}

static tdn_status max_roi_pool(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out >= 1 && call->in[0].rank == 4 &&
                           call->in[1].rank == 2);
    const tdn_view *x = &call->in[0], *rois = &call->in[1], *y = &call->out[0];
    TDN_REF_NEED(call, y->rank == 4 && rois->dims[1] == 5 && y->dims[0] == rois->dims[0] &&
                           y->dims[1] == x->dims[1]);
    const double scale = (double)tdn_attr_float(call->attrs, "spatial_scale", 1);
    for (tdn_walk w = tdn_walk_begin(4, y->dims); w.more; tdn_walk_next(&w)) {
        int64_t roi[5], h[2], v[2];
        for (int i = 0; i < 5; i++) {
            const double r =
                tdn_ref_get(rois, w.index[0] * rois->strides[0] + i * rois->strides[1]);
            roi[i] = to_pixel(i ? r * scale : r);
        }
        if (roi[0] < 0 || roi[0] >= x->dims[0])
            return tdn_fail(call->error, TDN_E_MODEL, "a region's batch is outside of the input");
        const int64_t width = roi[3] - roi[1] + 1, height = roi[4] - roi[2] + 1;
        roi_bin(roi[2], height > 1 ? height : 1, w.index[2], y->dims[2], x->dims[2], &h[0], &h[1]);
        roi_bin(roi[1], width > 1 ? width : 1, w.index[3], y->dims[3], x->dims[3], &v[0], &v[1]);
        double best = h[0] < h[1] && v[0] < v[1] ? -INFINITY : 0;
        const int64_t base = roi[0] * x->strides[0] + w.index[1] * x->strides[1];
        for (int64_t i = h[0]; i < h[1]; i++)
            for (int64_t j = v[0]; j < v[1]; j++)
                best = fmax(best, tdn_ref_get(x, base + i * x->strides[2] + j * x->strides[3]));
        tdn_ref_set(y, tdn_walk_offset(&w, y), best);
    }
    return TDN_OK;
}

const tdn_ref_def tdn_refs_pool[] = {
    {"MaxPool", max_pool, NULL, planes},
    {"AveragePool", average_pool, NULL, planes},
    {"LpPool", lp_pool, NULL, planes},
    {"tendon.Pool", core_pool, NULL, planes},
    {"GlobalLpPool", global_lp_pool, NULL, NULL},
    {"LRN", lrn, NULL, NULL},
    {"MaxUnpool", max_unpool, NULL, NULL},
    {"MaxRoiPool", max_roi_pool, NULL, NULL},
    {0},
};
