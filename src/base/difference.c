/* SPDX-License-Identifier: Apache-2.0 */
/* Sums are in double; the largest tensors here have some 10^9 elements. */
#include "base/difference.h"

#include <math.h>

static bool is_integer(tdn_dtype dtype)
{
    return dtype != TDN_F32 && dtype != TDN_F16 && dtype != TDN_BF16 && dtype != TDN_F64;
}

static double distance(double a, double b)
{
    if (a == b || (isnan(a) && isnan(b)))
        return 0;
    double d = fabs(a - b);
    return isnan(d) ? INFINITY : d; /* one is NaN */
}

static void add(tdn_difference *d, double a, double b, double distance_ab, tdn_tolerance t)
{
    /* An infinite b would allow anything. */
    double allowed = isfinite(b) ? t.atol + t.rtol * fabs(b) : 0;
    double excess = distance_ab - allowed;
    if (d->n == 0 || excess > d->worst_excess) {
        d->worst = d->n;
        d->worst_excess = excess;
        d->worst_a = a;
        d->worst_b = b;
    }
    d->n++;
    d->n_outside += !(distance_ab <= allowed);
    d->max = distance_ab > d->max ? distance_ab : d->max;
    d->sum += distance_ab;
    if (!isfinite(a) || !isfinite(b)) {
        d->dd += distance_ab; /* infinite, or 0 */
        return;
    }
    d->aa += a * a;
    d->bb += b * b;
    d->ab += a * b;
    d->dd += distance_ab * distance_ab;
}

/* The common case, a tenth of the time of the general one. */
static void add_f32(tdn_difference *d, const float *a, const float *b, int64_t n, tdn_tolerance t)
{
    for (int64_t i = 0; i < n; i++)
        add(d, (double)a[i], (double)b[i], distance((double)a[i], (double)b[i]), t);
}

void tdn_difference_add(tdn_difference *d, const tdn_view *a, const tdn_view *b,
                        tdn_tolerance tolerance)
{
    if (a->dtype == TDN_F32 && b->dtype == TDN_F32 && tdn_view_is_dense(a) &&
        tdn_view_is_dense(b)) {
        add_f32(d, a->data, b->data, tdn_view_count(a), tolerance);
        return;
    }
    bool integers = is_integer(a->dtype) && is_integer(b->dtype);
    for (tdn_walk w = tdn_walk_begin(b->rank, b->dims); w.more; tdn_walk_next(&w)) {
        int64_t at_a = tdn_walk_offset(&w, a), at_b = tdn_walk_offset(&w, b);
        double x = tdn_view_get(a, at_a), y = tdn_view_get(b, at_b), between = distance(x, y);
        /* Large integers may differ by less than a double tells apart. */
        if (integers && between == 0 && tdn_view_get_int(a, at_a) != tdn_view_get_int(b, at_b))
            between = 1;
        add(d, x, y, between, tolerance);
    }
}

double tdn_difference_mean(const tdn_difference *d) { return d->n ? d->sum / (double)d->n : 0; }

double tdn_difference_cosine(const tdn_difference *d)
{
    if (d->aa == 0 || d->bb == 0)
        return d->aa == d->bb;
    return d->ab / (sqrt(d->aa) * sqrt(d->bb));
}

double tdn_difference_sqnr(const tdn_difference *d)
{
    return d->dd == 0 ? INFINITY : 10 * log10(d->bb / d->dd);
}

double tdn_difference_rms(const tdn_difference *d) { return d->dd == 0 ? 0 : sqrt(d->dd / d->bb); }

int64_t tdn_argmax(const tdn_view *view, int64_t begin, int64_t n)
{
    int64_t best = n > 0 ? 0 : -1;
    double largest = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        double x = tdn_view_get(view, tdn_view_offset(view, begin + i));
        if (x > largest) {
            largest = x;
            best = i;
        }
    }
    return best;
}

int64_t tdn_decision(const tdn_view *view, int64_t row, int64_t n_rows)
{
    const int64_t width = tdn_view_count(view) / n_rows;
    return width == 1 ? tdn_view_get_int(view, tdn_view_offset(view, row))
                      : tdn_argmax(view, row * width, width);
}
