/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References around detection: suppression of overlapping boxes, and sampling of images at real
 * positions.
 *
 * Positions come as data, so they may be anything, NaN included: they are bounded as numbers before
 * they become indices.
 */
#include <math.h>
#include <string.h>

#include "ref/ref_util.h"

/* ---- Non-maximum suppression ----------------------------------------------------------------- */

typedef struct box {
    double y1, x1, y2, x2;
} box;

static box box_of(const tdn_view *boxes, int64_t batch, int64_t i, bool centre)
{
    double v[4];
    for (int k = 0; k < 4; k++)
        v[k] = tdn_ref_get(boxes, batch * boxes->strides[0] + i * boxes->strides[1] +
                                      k * boxes->strides[2]);
    if (centre) /* x, y, width, height */
        return (box){v[1] - v[3] / 2, v[0] - v[2] / 2, v[1] + v[3] / 2, v[0] + v[2] / 2};
    return (box){fmin(v[0], v[2]), fmin(v[1], v[3]), fmax(v[0], v[2]), fmax(v[1], v[3])};
}

static double overlap(const box *a, const box *b)
{
    const double h = fmin(a->y2, b->y2) - fmax(a->y1, b->y1),
                 w = fmin(a->x2, b->x2) - fmax(a->x1, b->x1);
    const double both = h > 0 && w > 0 ? h * w : 0;
    const double all = (a->y2 - a->y1) * (a->x2 - a->x1) + (b->y2 - b->y1) * (b->x2 - b->x1) - both;
    return all > 0 ? both / all : 0;
}

typedef struct suppression {
    const tdn_view *boxes, *scores;
    tdn_view *y;
    double overlap_limit, score_limit;
    int64_t limit; /* of one class */
    int64_t n;     /* found so far */
    bool centre;
} suppression;

static double scalar_of(const tdn_ref_call *call, int input, double absent)
{
    const tdn_view *v = tdn_ref_in(call, input);
    return v && tdn_view_count(v) ? tdn_view_get(v, 0) : absent;
}

/* Takes the boxes of one class by falling score, but those that overlap one taken before. */
static void suppress_class(suppression *s, int64_t batch, int64_t c, tdn_ref_item *items)
{
    const int64_t all = s->scores->dims[2], first = s->n;
    int64_t n = 0;
    for (int64_t i = 0; i < all; i++) {
        const double score =
            tdn_ref_get(s->scores, batch * s->scores->strides[0] + c * s->scores->strides[1] +
                                       i * s->scores->strides[2]);
        if (score > s->score_limit)
            items[n++] = (tdn_ref_item){.f = score, .index = i};
    }
    tdn_ref_sort(items, items + all, n, true);
    for (int64_t i = 0; i < n && s->n - first < s->limit; i++) {
        const box candidate = box_of(s->boxes, batch, items[i].index, s->centre);
        bool keep = true;
        for (int64_t k = first; keep && k < s->n; k++) {
            const box taken = box_of(s->boxes, batch, tdn_view_get_int(s->y, k * 3 + 2), s->centre);
            keep = !(overlap(&candidate, &taken) > s->overlap_limit);
        }
        if (!keep)
            continue;
        tdn_view_set_int(s->y, s->n * 3, batch);
        tdn_view_set_int(s->y, s->n * 3 + 1, c);
        tdn_view_set_int(s->y, s->n++ * 3 + 2, items[i].index);
    }
}

static tdn_status non_max_suppression(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out >= 1);
    const double most = scalar_of(call, 2, 0);
    suppression s = {
        .boxes = &call->in[0],
        .scores = &call->in[1],
        .y = &call->out[0],
        .overlap_limit = scalar_of(call, 3, 0),
        .score_limit = scalar_of(call, 4, -INFINITY),
        .limit = most > 0 ? (most < 0x1p40 ? (int64_t)most : (int64_t)1 << 40) : 0,
        .centre = tdn_attr_int(call->attrs, "center_point_box", 0) != 0,
    };
    TDN_REF_NEED(call, s.boxes->rank == 3 && s.scores->rank == 3 && s.boxes->dims[2] == 4 &&
                           s.y->rank == 2);
    TDN_REF_NEED(call,
                 s.boxes->dims[0] == s.scores->dims[0] && s.boxes->dims[1] == s.scores->dims[2]);
    const int64_t classes = s.scores->dims[0] * s.scores->dims[1], a_class = s.scores->dims[2];
    TDN_REF_NEED(call, s.y->dims[1] == 3 &&
                           s.y->dims[0] >= classes * (s.limit < a_class ? s.limit : a_class));
    *s.y = tdn_view_make(s.y->data, s.y->dtype, 2, s.y->dims);
    for (int64_t i = 0; i < classes; i++)
        suppress_class(&s, i / s.scores->dims[1], i % s.scores->dims[1], call->scratch);
    s.y->dims[0] = s.n;
    return TDN_OK;
}

static size_t suppression_scratch(const tdn_ref_call *call)
{
    size_t size;
    if (call->n_in < 2 || call->in[1].rank != 3)
        return 0;
    return tdn_size_mul((size_t)call->in[1].dims[2], 2 * sizeof(tdn_ref_item), &size) ? size
                                                                                      : SIZE_MAX;
}

/* ---- Regions of interest --------------------------------------------------------------------- */

/* The four pixels around (h, w), each times its weight; none where the position is more than a
 * pixel outside. */
static int corners(const tdn_view *x, int64_t plane, double h, double w, double *terms)
{
    const int64_t height = x->dims[2], width = x->dims[3];
    if (!(h >= -1 && h <= (double)height && w >= -1 && w <= (double)width) || height == 0 ||
        width == 0)
        return 0;
    h = fmin(fmax(h, 0), (double)(height - 1));
    w = fmin(fmax(w, 0), (double)(width - 1));
    const int64_t top = (int64_t)h, left = (int64_t)w;
    const int64_t bottom = top + 1 < height ? top + 1 : top,
                  right = left + 1 < width ? left + 1 : left;
    const double a = h - (double)top, b = w - (double)left;
    terms[0] =
        (1 - a) * (1 - b) * tdn_ref_get(x, plane + top * x->strides[2] + left * x->strides[3]);
    terms[1] = (1 - a) * b * tdn_ref_get(x, plane + top * x->strides[2] + right * x->strides[3]);
    terms[2] = a * (1 - b) * tdn_ref_get(x, plane + bottom * x->strides[2] + left * x->strides[3]);
    terms[3] = a * b * tdn_ref_get(x, plane + bottom * x->strides[2] + right * x->strides[3]);
    return 4;
}

/* One axis of one bin: where its samples lie. */
typedef struct bin {
    double start, step;
    int64_t n;
} bin;

static bin bin_of(double from, double to, bool half_pixel, int64_t i, int64_t n_bins, int64_t ratio)
{
    double extent = to - from;
    if (!half_pixel && !(extent >= 1))
        extent = 1;
    const double size = extent / (double)n_bins;
    bin b = {.n = ratio > 0 ? ratio : (int64_t)fmin(fmax(ceil(size), 0), 4096)};
    b.step = size / (double)(b.n ? b.n : 1);
    b.start = from + (double)i * size + b.step / 2;
    return b;
}

/* In "max" mode the largest of the weighted corners counts, as ONNX defines it. */
static double roi_value(const tdn_view *x, int64_t plane, const bin *h, const bin *w, bool max)
{
    double sum = 0, best = -INFINITY, terms[4];
    for (int64_t i = 0; i < h->n; i++)
        for (int64_t j = 0; j < w->n; j++) {
            const int n = corners(x, plane, h->start + (double)i * h->step,
                                  w->start + (double)j * w->step, terms);
            best = n ? best : fmax(best, 0);
            for (int k = 0; k < n; k++) {
                sum += terms[k];
                best = fmax(best, terms[k]);
            }
        }
    const int64_t count = h->n * w->n;
    if (max)
        return count ? best : 0;
    return sum / (double)(count > 1 ? count : 1);
}

static tdn_status roi_align_by(const tdn_ref_call *call, bool half_pixel)
{
    TDN_REF_NEED(call, call->n_in >= 3 && call->n_out >= 1);
    const tdn_view *x = &call->in[0], *rois = &call->in[1], *batches = &call->in[2],
                   *y = &call->out[0];
    TDN_REF_NEED(call, x->rank == 4 && rois->rank == 2 && rois->dims[1] == 4 &&
                           batches->rank == 1 && y->rank == 4);
    TDN_REF_NEED(call, rois->dims[0] == y->dims[0] && batches->dims[0] == y->dims[0] &&
                           x->dims[1] == y->dims[1]);
    const double scale = (double)tdn_attr_float(call->attrs, "spatial_scale", 1);
    const int64_t ratio = tdn_attr_int(call->attrs, "sampling_ratio", 0);
    const bool max = !strcmp(tdn_attr_string(call->attrs, "mode", "avg"), "max");
    TDN_REF_NEED(call, ratio < 1 << 20);
    for (tdn_walk o = tdn_walk_begin(4, y->dims); o.more; tdn_walk_next(&o)) {
        double roi[4];
        for (int k = 0; k < 4; k++)
            roi[k] =
                tdn_ref_get(rois, o.index[0] * rois->strides[0] + k * rois->strides[1]) * scale -
                (half_pixel ? 0.5 : 0);
        const int64_t batch = tdn_view_get_int(batches, o.index[0] * batches->strides[0]);
        if (batch < 0 || batch >= x->dims[0])
            return tdn_fail(call->error, TDN_E_MODEL,
                            "a region's batch %lld is outside of the input", (long long)batch);
        const bin h = bin_of(roi[1], roi[3], half_pixel, o.index[2], y->dims[2], ratio);
        const bin w = bin_of(roi[0], roi[2], half_pixel, o.index[3], y->dims[3], ratio);
        const int64_t plane = batch * x->strides[0] + o.index[1] * x->strides[1];
        tdn_ref_set(y, tdn_walk_offset(&o, y), roi_value(x, plane, &h, &w, max));
    }
    return TDN_OK;
}

/* Until opset 15 there were no half pixels; afterwards they are the default. */
static tdn_status roi_align(const tdn_ref_call *call)
{
    const char *mode = tdn_attr_string(call->attrs, "coordinate_transformation_mode", "half_pixel");
    return roi_align_by(call, !strcmp(mode, "half_pixel"));
}
static tdn_status roi_align_10(const tdn_ref_call *call) { return roi_align_by(call, false); }

/* ---- Sampling on a grid ---------------------------------------------------------------------- */

enum { LINEAR, NEAREST, CUBIC };
enum { ZEROS, BORDER, REFLECTION };

typedef struct sampler {
    const tdn_view *x;
    int n, mode, padding; /* n: spatial axes */
    bool align;
} sampler;

/* Reflects at the borders until it is between them. */
static double reflect(double v, double low, double high)
{
    const double range = high - low;
    if (range <= 0)
        return low;
    const double distance = fmod(fabs(v < low ? low - v : v > high ? v - high : 0), 2 * range);
    if (v < low)
        return distance < range ? low + distance : high - (distance - range);
    if (v > high)
        return distance < range ? high - distance : low + (distance - range);
    return v;
}

static void borders(const sampler *s, int axis, double *low, double *high)
{
    *low = s->align ? 0 : -0.5;
    *high = (double)s->x->dims[2 + axis] - (s->align ? 1 : 0.5);
}

/* The element of an index that may lie outside; -1: it is padding. */
static int64_t pick(const sampler *s, int axis, int64_t i)
{
    const int64_t dim = s->x->dims[2 + axis];
    double low, high;
    if (i >= 0 && i < dim)
        return i;
    if (s->padding == ZEROS || dim == 0)
        return -1;
    if (s->padding == REFLECTION) {
        borders(s, axis, &low, &high);
        i = (int64_t)reflect((double)i, low, high);
    }
    return i < 0 ? 0 : i >= dim ? dim - 1 : i;
}

/* Weights of the elements from *first on that an axis's position looks at; returns how many. */
static int axis_weights(const sampler *s, double v, int64_t *first, double *weights)
{
    const double below = floor(v), t = v - below, a = -0.75;
    *first = (int64_t)below;
    if (s->mode == NEAREST) {
        *first = (int64_t)nearbyint(v);
        weights[0] = 1;
        return 1;
    }
    if (s->mode == LINEAR) {
        weights[0] = 1 - t;
        weights[1] = t;
        return 2;
    }
    *first -= 1;
    for (int k = 0; k < 4; k++) { /* Keys's cubic, a = -0.75 */
        const double d = fabs(t - (double)(k - 1));
        weights[k] = d <= 1  ? ((a + 2) * d - (a + 3)) * d * d + 1
                     : d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
                             : 0;
    }
    return 4;
}

/* From [-1, 1] to elements; outside of the borders as the padding says. */
static double position(const sampler *s, int axis, double g)
{
    const double dim = (double)s->x->dims[2 + axis];
    double low, high, v = s->align ? (g + 1) / 2 * (dim - 1) : ((g + 1) * dim - 1) / 2;
    if (isnan(v))
        v = -1e9;
    if (s->mode == NEAREST)
        v = nearbyint(v);
    borders(s, axis, &low, &high);
    if (v >= low && v <= high)
        return v;
    if (s->padding == BORDER)
        return fmin(fmax(v, 0), dim - 1);
    if (s->padding == REFLECTION)
        v = reflect(v, low, high);
    return fmin(fmax(v, -1e9), 1e9);
}

static double sample(const sampler *s, int64_t plane, const double *at)
{
    int64_t first[3], taps[3] = {1, 1, 1};
    double weights[3][4], sum = 0;
    for (int i = 0; i < s->n; i++)
        taps[i] = axis_weights(s, at[i], &first[i], weights[i]);
    for (tdn_walk w = tdn_walk_begin(s->n, taps); w.more; tdn_walk_next(&w)) {
        double weight = 1;
        int64_t offset = plane;
        bool inside = true;
        for (int i = 0; i < s->n; i++) {
            const int64_t k = pick(s, i, first[i] + w.index[i]);
            inside = inside && k >= 0;
            weight *= weights[i][w.index[i]];
            offset += k * s->x->strides[2 + i];
        }
        if (inside)
            sum += weight * tdn_ref_get(s->x, offset);
    }
    return sum;
}

static void sampler_modes(const tdn_ref_call *call, sampler *s)
{
    const char *mode = tdn_attr_string(call->attrs, "mode", "linear");
    const char *padding = tdn_attr_string(call->attrs, "padding_mode", "zeros");
    s->mode = strstr(mode, "cubic") ? CUBIC : strstr(mode, "linear") ? LINEAR : NEAREST;
    s->padding = !strcmp(padding, "border")       ? BORDER
                 : !strcmp(padding, "reflection") ? REFLECTION
                                                  : ZEROS;
    s->align = tdn_attr_int(call->attrs, "align_corners", 0) != 0;
}

static tdn_status grid_sample(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out >= 1);
    const tdn_view *grid = &call->in[1], *y = &call->out[0];
    sampler s = {.x = &call->in[0], .n = call->in[0].rank - 2};
    TDN_REF_NEED(call, s.n >= 1 && s.n <= 3 && grid->rank == s.x->rank && y->rank == s.x->rank);
    TDN_REF_NEED(call, grid->dims[0] == y->dims[0] && s.x->dims[0] == y->dims[0] &&
                           s.x->dims[1] == y->dims[1]);
    TDN_REF_NEED(call, grid->dims[s.n + 1] == s.n);
    for (int i = 0; i < s.n; i++)
        TDN_REF_NEED(call, grid->dims[1 + i] == y->dims[2 + i]);
    sampler_modes(call, &s);
    for (tdn_walk o = tdn_walk_begin(y->rank, y->dims); o.more; tdn_walk_next(&o)) {
        double at[3];
        int64_t from = o.index[0] * grid->strides[0];
        for (int i = 0; i < s.n; i++)
            from += o.index[2 + i] * grid->strides[1 + i];
        for (int i = 0; i < s.n; i++) /* the grid's last axis has x before y before z */
            at[i] =
                position(&s, i, tdn_ref_get(grid, from + (s.n - 1 - i) * grid->strides[s.n + 1]));
        const int64_t plane = o.index[0] * s.x->strides[0] + o.index[1] * s.x->strides[1];
        tdn_ref_set(y, tdn_walk_offset(&o, y), sample(&s, plane, at));
    }
    return TDN_OK;
}

static tdn_status affine_grid(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 && call->in[0].rank == 3);
    const tdn_view *theta = &call->in[0], *y = &call->out[0];
    const int n = y->rank - 2;
    const bool align = tdn_attr_int(call->attrs, "align_corners", 0) != 0;
    TDN_REF_NEED(call, (n == 2 || n == 3) && y->dims[n + 1] == n && theta->dims[0] == y->dims[0]);
    TDN_REF_NEED(call, theta->dims[1] == n && theta->dims[2] == n + 1);
    for (tdn_walk o = tdn_walk_begin(y->rank, y->dims); o.more; tdn_walk_next(&o)) {
        const int64_t row = o.index[0] * theta->strides[0] + o.index[n + 1] * theta->strides[1];
        double sum = tdn_ref_get(theta, row + n * theta->strides[2]);
        for (int i = 0; i < n; i++) { /* x, y, z: the last spatial axis first */
            const double dim = (double)y->dims[n - i], k = (double)o.index[n - i];
            const double v = !align ? (2 * k + 1) / dim - 1 : dim > 1 ? 2 * k / (dim - 1) - 1 : 0;
            sum += v * tdn_ref_get(theta, row + i * theta->strides[2]);
        }
        tdn_ref_set(y, tdn_walk_offset(&o, y), sum);
    }
    return TDN_OK;
}

const tdn_ref_def tdn_refs_detection[] = {
    {"NonMaxSuppression", non_max_suppression, suppression_scratch, NULL},
    {"RoiAlign", roi_align, NULL, NULL},
    {"RoiAlign-10", roi_align_10, NULL, NULL},
    {"GridSample", grid_sample, NULL, NULL},
    {"AffineGrid", affine_grid, NULL, NULL},
    {0},
};
