/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A window that slides over up to TDN_WINDOW_MAX spatial axes: what convolutions and pools have in
 * common. Shape rules and references read it from the same attributes by the same rule, auto_pad
 * included.
 */
#ifndef TDN_REF_WINDOW_H
#define TDN_REF_WINDOW_H

#include "base/attr.h"

#define TDN_WINDOW_MAX 3

typedef struct tdn_window {
    int n;     /* spatial axes */
    bool same; /* auto_pad SAME_*: the output has ceil(in / stride) elements */
    int64_t kernel[TDN_WINDOW_MAX], stride[TDN_WINDOW_MAX], dilation[TDN_WINDOW_MAX];
    int64_t before[TDN_WINDOW_MAX], after[TDN_WINDOW_MAX]; /* padding */
} tdn_window;

/* Reads strides, dilations, pads and auto_pad for a kernel over n axes of extents `in`. NULL, or
 * what is wrong. */
const char *tdn_window_read(tdn_window *w, const tdn_attrs *attrs, int n, const int64_t *in,
                            const int64_t *kernel);
/* Positions of the window along an axis; negative where the kernel is longer than the padded axis.
 * ceil_mode counts a last one that overhangs, where it begins inside of the input or the padding
 * before it. */
int64_t tdn_window_positions(const tdn_window *w, int axis, int64_t in, bool ceil_mode);

#endif
