/* SPDX-License-Identifier: Apache-2.0 */
/* How far one tensor is from another, and what class a row of one says: what engines, expected
 * outputs and precisions are judged by. */
#ifndef TDN_BASE_DIFFERENCE_H
#define TDN_BASE_DIFFERENCE_H

#include "base/view.h"

typedef struct tdn_tolerance {
    double atol, rtol;
} tdn_tolerance;

/* Sums over pairs a (judged) and b (right). Zeroed to begin with. */
typedef struct tdn_difference {
    int64_t n, n_outside;  /* elements; those where not |a - b| <= atol + rtol |b| */
    double max, sum;       /* of |a - b| */
    double aa, bb, ab, dd; /* sums of products; dd of (a - b)^2 */
    /* The element that is farthest outside, or nearest to it: its number among the n, and both
     * values. */
    int64_t worst;
    double worst_excess, worst_a, worst_b;
} tdn_difference;

/*
 * Adds all elements of two tensors of equal dims, in row-major order. Equal infinities are equal; a
 * NaN equals a NaN and nothing else. Integers are compared as such.
 */
void tdn_difference_add(tdn_difference *d, const tdn_view *a, const tdn_view *b,
                        tdn_tolerance tolerance);
double tdn_difference_mean(const tdn_difference *d);
/* 1 where both are zero, 0 where one is. */
double tdn_difference_cosine(const tdn_difference *d);
/* 10 log10(sum b^2 / sum (a - b)^2) in dB: infinite where a is b. */
double tdn_difference_sqnr(const tdn_difference *d);
/* Root mean square of a - b by that of b: 0 where a is b, infinite where only b is 0. */
double tdn_difference_rms(const tdn_difference *d);
/* The number of the largest element, the first of equals; -1 where n is 0. NaN is never the
 * largest. */
int64_t tdn_argmax(const tdn_view *view, int64_t begin, int64_t n);
/* The class that row `row` of n_rows says: the number of its largest element, or its only element
 * itself. */
int64_t tdn_decision(const tdn_view *view, int64_t row, int64_t n_rows);

#endif
