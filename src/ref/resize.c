/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resizing an axis, by ONNX's formulas. Where ONNX's text leaves open whether the length of the
 * resized axis is the rounded or the real one (align_corners, crops), the rounded one is meant
 * here, as in PyTorch and ONNX Runtime.
 */
#include "ref/resize.h"

#include <math.h>
#include <string.h>

#include "ref/ref_util.h"

/* ---- Reading --------------------------------------------------------------------------------- */

static int find(const char *const *names, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], name))
            return i;
    return -1;
}

static const char *read_modes(tdn_resize *r, const tdn_resize_args *a)
{
    static const char *const modes[] = {"nearest", "linear", "cubic"};
    static const char *const transforms[] = {
        "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners",
        "asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize"};
    static const char *const nearests[] = {"round_prefer_floor", "round_prefer_ceil", "floor",
                                           "ceil"};
    const char *mode = tdn_attr_string(a->attrs, "mode", "nearest");
    if (!strcmp(mode, "bilinear"))
        mode = "linear";
    const char *given = tdn_attr_string(a->attrs, "coordinate_transformation_mode", "half_pixel");
    const int m = find(modes, 3, mode), t = find(transforms, 7, a->old ? "asymmetric" : given);
    const int n =
        find(nearests, 4, tdn_attr_string(a->attrs, "nearest_mode", "round_prefer_floor"));
    if (m < 0 || t < 0 || n < 0)
        return "mode, coordinate_transformation_mode or nearest_mode is unknown";
    r->mode = (tdn_resize_mode)m;
    r->transform = (tdn_resize_transform)t;
    r->nearest = a->old ? TDN_RESIZE_OLD : (tdn_resize_nearest)n;
    r->antialias = tdn_attr_int(a->attrs, "antialias", 0) != 0 && m != TDN_RESIZE_NEAREST;
    r->exclude_outside = tdn_attr_int(a->attrs, "exclude_outside", 0) != 0;
    r->cubic_a = (double)tdn_attr_float(a->attrs, "cubic_coeff_a", -0.75f);
    r->extrapolation = (double)tdn_attr_float(a->attrs, "extrapolation_value", 0);
    return NULL;
}

/* The axes that scales, sizes and roi speak of; all where the attribute is absent. */
static bool read_axes(const tdn_resize *r, const tdn_attrs *attrs, int *axes, int *n)
{
    const int64_t *given = tdn_attr_ints(attrs, "axes", n);
    if (!given)
        *n = r->rank;
    if (*n > r->rank)
        return false;
    for (int i = 0; i < *n; i++) {
        axes[i] = i;
        if (given && !tdn_ref_axis(given[i], r->rank, &axes[i]))
            return false;
    }
    return true;
}

static bool is_vector(const tdn_view *v, int64_t n)
{
    return v && v->rank == 1 && v->dims[0] == n && n > 0;
}

static const char *read_sizes(tdn_resize *r, const tdn_resize_args *a, const int *axes, int n)
{
    const char *policy = tdn_attr_string(a->attrs, "keep_aspect_ratio_policy", "stretch");
    const bool larger = !strcmp(policy, "not_smaller"),
               keep = larger || !strcmp(policy, "not_larger");
    double common = larger ? 0 : INFINITY;
    for (int i = 0; i < n; i++) {
        const int64_t size = tdn_view_get_int(a->sizes, i * a->sizes->strides[0]),
                      in = r->in[axes[i]];
        if (size < 0 || size > (int64_t)1 << 40 || (in == 0 && size > 0))
            return "a size is out of range";
        r->out[axes[i]] = size;
        r->scale[axes[i]] = in ? (double)size / (double)in : 1;
        common = larger ? fmax(common, r->scale[axes[i]]) : fmin(common, r->scale[axes[i]]);
    }
    for (int i = 0; keep && i < n; i++) {
        r->scale[axes[i]] = common;
        r->out[axes[i]] = (int64_t)floor(common * (double)r->in[axes[i]] + 0.5);
    }
    return NULL;
}

static const char *set_scale(tdn_resize *r, int axis, double scale)
{
    if (!(scale > 0) || !(scale * (double)r->in[axis] < 0x1p40))
        return "a scale is out of range";
    r->scale[axis] = scale;
    r->out[axis] = (int64_t)floor(scale * (double)r->in[axis]);
    return NULL;
}

static const char *read_scales(tdn_resize *r, const tdn_resize_args *a, const int *axes, int n)
{
    int n_attr;
    const char *wrong = NULL;
    const float *attr = tdn_attr_floats(a->attrs, "scales", &n_attr);
    if (attr ? n_attr != n : !is_vector(a->scales, n))
        return "scales or sizes have not one number an axis";
    for (int i = 0; i < n && !wrong; i++)
        wrong =
            set_scale(r, axes[i],
                      attr ? (double)attr[i] : tdn_view_get(a->scales, i * a->scales->strides[0]));
    return wrong;
}

const char *tdn_resize_read(tdn_resize *r, const tdn_resize_args *a)
{
    int axes[TDN_MAX_RANK], n;
    *r = (tdn_resize){.rank = a->x->rank};
    const char *wrong = read_modes(r, a);
    if (wrong)
        return wrong;
    for (int i = 0; i < r->rank; i++) {
        r->in[i] = r->out[i] = a->x->dims[i];
        r->scale[i] = r->end[i] = 1;
    }
    if (!read_axes(r, a->attrs, axes, &n))
        return "attribute 'axes' is wrong";
    const bool sizes = is_vector(a->sizes, n);
    wrong = sizes ? read_sizes(r, a, axes, n) : read_scales(r, a, axes, n);
    if (wrong || r->transform != TDN_RESIZE_TF_CROP)
        return wrong;
    if (!is_vector(a->roi, 2 * n))
        return "roi has not two numbers an axis";
    for (int i = 0; i < n; i++) {
        r->start[axes[i]] = tdn_view_get(a->roi, i * a->roi->strides[0]);
        r->end[axes[i]] = tdn_view_get(a->roi, (n + i) * a->roi->strides[0]);
    }
    return NULL;
}

/* ---- Taps ------------------------------------------------------------------------------------ */

/* Half of the elements around a position that the filter of an axis reaches, at least 1. */
static int64_t half_reach(const tdn_resize *r, int axis)
{
    const int64_t plain = r->mode == TDN_RESIZE_CUBIC ? 2 : 1;
    if (!r->antialias || r->scale[axis] >= 1)
        return plain;
    const double wide = ceil((double)plain / r->scale[axis]);
    return wide < 0x1p40 ? (int64_t)wide : (int64_t)1 << 40;
}

int64_t tdn_resize_taps(const tdn_resize *r, int axis)
{
    return r->mode == TDN_RESIZE_NEAREST ? 1 : 2 * half_reach(r, axis);
}

static double original(const tdn_resize *r, int axis, double x)
{
    const double in = (double)r->in[axis], out = (double)r->out[axis], scale = r->scale[axis];
    const double half = (x + 0.5) / scale - 0.5;
    switch (r->transform) {
    case TDN_RESIZE_HALF_PIXEL_SYMMETRIC: return in / 2 * (1 - out / (scale * in)) + half;
    case TDN_RESIZE_PYTORCH_HALF_PIXEL: return out > 1 ? half : 0;
    case TDN_RESIZE_ALIGN_CORNERS: return out > 1 ? x * (in - 1) / (out - 1) : 0;
    case TDN_RESIZE_ASYMMETRIC: return x / scale;
    case TDN_RESIZE_TF_HALF_PIXEL_FOR_NN: return (x + 0.5) / scale;
    case TDN_RESIZE_TF_CROP: {
        const double from = r->start[axis], to = r->end[axis];
        return out > 1 ? from * (in - 1) + x * (to - from) * (in - 1) / (out - 1)
                       : 0.5 * (from + to) * (in - 1);
    }
    default: return half;
    }
}

static double nearest(const tdn_resize *r, int axis, double x)
{
    switch (r->nearest) {
    case TDN_RESIZE_ROUND_CEIL: return floor(x + 0.5);
    case TDN_RESIZE_FLOOR: return floor(x);
    case TDN_RESIZE_CEIL: return ceil(x);
    case TDN_RESIZE_OLD: return r->scale[axis] < 1 ? ceil(x) : floor(x);
    default: return ceil(x - 0.5);
    }
}

static double kernel(const tdn_resize *r, double distance)
{
    const double d = fabs(distance), a = r->cubic_a;
    if (r->mode == TDN_RESIZE_LINEAR)
        return d < 1 ? 1 - d : 0;
    if (d <= 1)
        return ((a + 2) * d - (a + 3)) * d * d + 1;
    return d < 2 ? ((a * d - 5 * a) * d + 8 * a) * d - 4 * a : 0;
}

int64_t tdn_resize_weights(const tdn_resize *r, int axis, int64_t o, int64_t *index, double *weight)
{
    const int64_t in = r->in[axis], half = half_reach(r, axis);
    const double last = (double)(in - 1);
    double x = original(r, axis, (double)o);
    if (in == 0 || (r->transform == TDN_RESIZE_TF_CROP && !(x >= 0 && x <= last)))
        return 0;
    x = x > -1e12 && x < 1e12 ? x : 0;
    if (r->mode == TDN_RESIZE_NEAREST) {
        index[0] = (int64_t)fmin(fmax(nearest(r, axis, x), 0), last);
        weight[0] = 1;
        return 1;
    }
    const double stretch = r->antialias && r->scale[axis] < 1 ? r->scale[axis] : 1;
    const int64_t first = (int64_t)ceil(x) - half;
    double sum = 0;
    for (int64_t k = 0; k < 2 * half; k++) {
        const int64_t at = first + k;
        const bool inside = at >= 0 && at < in;
        weight[k] = inside || !r->exclude_outside ? kernel(r, ((double)at - x) * stretch) : 0;
        index[k] = at < 0 ? 0 : at >= in ? in - 1 : at;
        sum += weight[k];
    }
    for (int64_t k = 0; (r->antialias || r->exclude_outside) && sum != 0 && k < 2 * half; k++)
        weight[k] /= sum;
    return 2 * half;
}
