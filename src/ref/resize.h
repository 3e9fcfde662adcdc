/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Resizing an axis: which elements an output looks at, and how much of each. Every mode but the
 * extrapolation of a crop is a sum over such taps, axis by axis, so this is all that the shape
 * rule, the decomposition and the reference need to know.
 */
#ifndef TDN_REF_RESIZE_H
#define TDN_REF_RESIZE_H

#include "ref/ref.h"

typedef enum tdn_resize_mode {
    TDN_RESIZE_NEAREST,
    TDN_RESIZE_LINEAR,
    TDN_RESIZE_CUBIC
} tdn_resize_mode;

typedef enum tdn_resize_transform {
    TDN_RESIZE_HALF_PIXEL,
    TDN_RESIZE_HALF_PIXEL_SYMMETRIC,
    TDN_RESIZE_PYTORCH_HALF_PIXEL,
    TDN_RESIZE_ALIGN_CORNERS,
    TDN_RESIZE_ASYMMETRIC,
    TDN_RESIZE_TF_HALF_PIXEL_FOR_NN,
    TDN_RESIZE_TF_CROP
} tdn_resize_transform;

typedef enum tdn_resize_nearest {
    TDN_RESIZE_ROUND_FLOOR, /* ties down */
    TDN_RESIZE_ROUND_CEIL,  /* ties up */
    TDN_RESIZE_FLOOR,
    TDN_RESIZE_CEIL,
    TDN_RESIZE_OLD /* of opset 10: down when it grows, up when it shrinks */
} tdn_resize_nearest;

typedef struct tdn_resize {
    tdn_resize_mode mode;
    tdn_resize_transform transform;
    tdn_resize_nearest nearest;
    bool antialias, exclude_outside;
    double cubic_a, extrapolation;
    int rank;
    int64_t in[TDN_MAX_RANK], out[TDN_MAX_RANK];
    double scale[TDN_MAX_RANK];                    /* out / in, as given or by the sizes */
    double start[TDN_MAX_RANK], end[TDN_MAX_RANK]; /* the crop, as shares of the axis */
} tdn_resize;

/* The operands; NULL where absent. Upsample's and the old Resize's scales are `scales`. */
typedef struct tdn_resize_args {
    const tdn_attrs *attrs;
    bool old; /* Upsample, and Resize of opset 10 */
    const tdn_view *x, *roi, *scales, *sizes;
} tdn_resize_args;

/* Reads everything and computes the output's extents. NULL, or what is wrong. */
const char *tdn_resize_read(tdn_resize *r, const tdn_resize_args *args);
/* The most taps an output has along an axis, for the scale that r has. */
int64_t tdn_resize_taps(const tdn_resize *r, int axis);
/* The taps of output o along an axis: indices inside of the input, and weights. Returns how many;
 * 0: it lies outside of the input and takes the extrapolation's value. */
int64_t tdn_resize_weights(const tdn_resize *r, int axis, int64_t o, int64_t *index,
                           double *weight);

#endif
