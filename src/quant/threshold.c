/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Entropy is TensorRT's way: S. Migacz, "8-bit Inference with TensorRT", GTC 2017. Of a histogram
 * of 2,048 bins the first i are kept, for each i; what lies beyond joins bin i - 1, as clipping
 * will have it. These are merged into as many levels as 8 bits have on one side of 0, each level is
 * spread evenly over those of its bins that are not empty, and the i with the least
 * Kullback-Leibler divergence of the spread from the kept distribution is taken.
 *
 * The talk leaves open what to do with the first bin, which holds the zeros of ReLU and padding and
 * outweighs all others: zero is exact in any scale, so it says nothing about one. As in NVIDIA's
 * pytorch-quantization, it counts as its neighbour does. Of equal divergences the largest i wins.
 *
 * The divergence does not weigh how far a clipped number is moved, and of long tails it cuts too
 * much: of the EMG network's softmax and normalised features three quarters of the range. So those
 * i alone are tried that keep KEPT of the numbers in bins other than the first. On that network,
 * with inputs of all inner convolutions and products in 8 bits, the error of the logits falls by
 * this from 0.11 to 0.036 (min-max 0.045, percentile 0.045).
 */
#include "quant/threshold.h"

#include <math.h>

enum {
    N_BINS = 2048, /* of the histogram that entropy looks at */
    SIGNED_LEVELS = 128,
    UNSIGNED_LEVELS = 256
};
#define KEPT 0.9999
_Static_assert(TDN_OBSERVED_BINS % N_BINS == 0, "bins are merged by whole numbers");

/* ---- Percentile ------------------------------------------------------------------------------ */

/* The upper edge of the bin in which so many are reached. */
static double by_percentile(const tdn_observed *o, double percentile)
{
    const double wanted = percentile / 100 * (double)o->n_binned;
    uint64_t n = 0;
    int bin = 0;
    for (; bin < TDN_OBSERVED_BINS; bin++) {
        n += o->bins[bin];
        if ((double)n >= wanted)
            break;
    }
    return tdn_observed_largest(o) * fmin(bin + 1, TDN_OBSERVED_BINS) / TDN_OBSERVED_BINS;
}

/* ---- Entropy --------------------------------------------------------------------------------- */

/* Sums over the bins before each: of counts p, of p log p, of bins that are not empty. */
typedef struct sums {
    double p[N_BINS + 1], plogp[N_BINS + 1];
    int filled[N_BINS + 1];
} sums;

static double plogp(double p) { return p > 0 ? p * log(p) : 0; }

static void make_sums(sums *s, const tdn_observed *o)
{
    enum { MERGED = TDN_OBSERVED_BINS / N_BINS };
    double p[N_BINS] = {0};
    for (int i = 0; i < TDN_OBSERVED_BINS; i++)
        p[i / MERGED] += (double)o->bins[i];
    p[0] = p[1];
    s->p[0] = s->plogp[0] = s->filled[0] = 0;
    for (int i = 0; i < N_BINS; i++) {
        s->p[i + 1] = s->p[i] + p[i];
        s->plogp[i + 1] = s->plogp[i] + plogp(p[i]);
        s->filled[i + 1] = s->filled[i] + (p[i] > 0);
    }
}

/*
 * The divergence of the first n bins, times the total count: sum of p log((p / P) / (q / Q)) over
 * them, where p are counts, the last with what lies beyond, q = (sum of p in its level) / (filled
 * bins in its level), P and Q the sums of p and q.
 */
static double divergence(const sums *s, int n, int n_levels)
{
    const double total = s->p[N_BINS], kept = s->p[n], last = s->p[n] - s->p[n - 1];
    const double beyond = total - kept;
    if (kept <= 0 || (beyond > 0 && last <= 0))
        return INFINITY; /* something where the spread has nothing */
    double sum = s->plogp[n] - plogp(last) + plogp(last + beyond);
    double q = 0;
    for (int level = 0, begin = 0; level < n_levels; level++) {
        const int end = ((level + 1) * n + n_levels - 1) / n_levels; /* bins j: j * levels / n */
        const double p = s->p[end] - s->p[begin];
        const int filled = s->filled[end] - s->filled[begin];
        if (filled > 0) {
            q = p / filled;
            sum -= p * log(q);
        }
        begin = end;
    }
    sum -= beyond * log(q); /* the last level is filled where something lies beyond */
    return sum + total * (log(kept) - log(total));
}

static double by_entropy(const tdn_observed *o)
{
    const int n_levels = o->min >= 0 ? UNSIGNED_LEVELS : SIGNED_LEVELS;
    sums s;
    make_sums(&s, o);
    if (s.p[N_BINS] <= 0)
        return tdn_observed_largest(o);
    int best = N_BINS;
    double least = divergence(&s, N_BINS, n_levels);
    for (int n = N_BINS - 1; n >= n_levels && s.p[n] >= KEPT * s.p[N_BINS]; n--) {
        const double d = divergence(&s, n, n_levels);
        if (d < least) {
            least = d;
            best = n;
        }
    }
    return tdn_observed_largest(o) * best / N_BINS;
}

/* ---- Both ------------------------------------------------------------------------------------ */

double tdn_threshold(const tdn_observed *o, tdn_calibration_method method, double percentile)
{
    const double largest = tdn_observed_largest(o);
    if (largest <= 0 || method == TDN_CALIBRATION_MINMAX)
        return largest;
    return method == TDN_CALIBRATION_ENTROPY ? by_entropy(o) : by_percentile(o, percentile);
}

double tdn_threshold_clipped(const tdn_observed *o, double amax)
{
    const double largest = tdn_observed_largest(o);
    const int first = largest > 0 ? (int)lround(amax / largest * TDN_OBSERVED_BINS) : 0;
    uint64_t n = 0;
    for (int i = first; largest > 0 && i < TDN_OBSERVED_BINS; i++)
        n += o->bins[i];
    return o->n_binned ? (double)n / (double)o->n_binned : 0;
}
