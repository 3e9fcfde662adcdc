/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is seen of one value while a network runs: first the range of its numbers, then how their
 * magnitudes are distributed over that range. Two walks, because only a range that is known before
 * makes counts that do not depend on the order in which numbers come.
 */
#ifndef TDN_QUANT_OBSERVE_H
#define TDN_QUANT_OBSERVE_H

#include "base/view.h"

/* Bins of |x| over 0..max |x|, of equal width: a 32nd of a step of 8 bits over the whole range. */
enum { TDN_OBSERVED_BINS = 8192 };

typedef struct tdn_observed {
    const char *name;
    double min, max;   /* of the finite numbers; 0 and 0 before any */
    uint64_t n, n_odd; /* finite numbers; NaN and infinities */
    uint64_t *bins;    /* TDN_OBSERVED_BINS; NULL during the first walk */
    uint64_t n_binned; /* in the second walk, which sees what the first saw */
} tdn_observed;

/* max |x|. */
double tdn_observed_largest(const tdn_observed *o);
/* The first walk: adds the float32 elements of a view. */
void tdn_observe_range(tdn_observed *o, const tdn_view *view);
/* The second. Numbers beyond the range count as its end. */
void tdn_observe_bins(tdn_observed *o, const tdn_view *view);

#endif
