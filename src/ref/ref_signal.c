/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of Fourier transforms, windows and the mel scale.
 *
 * A transform is the sum that defines it, in double, with the n-th roots of one from a table: the
 * root number (k i mod n) is exact where an angle would have lost digits. Complex numbers are pairs
 * along the last axis; where its extent is 1 they are real.
 */
#include <math.h>

#include "ref/ref_util.h"

/* A length, step or axis in data. */
static bool is_one(const tdn_view *v)
{
    return v->dtype != TDN_DTYPE_NONE && tdn_view_count(v) == 1;
}

/* ---- One transform --------------------------------------------------------------------------- */

/* Scratch of a transform over n positions: samples and roots, real and imaginary. */
typedef struct transform {
    int64_t n, n_samples; /* n_samples: those behind are zeros */
    double *re, *im, *cos, *sin;
} transform;

static size_t transform_size(int64_t n)
{
    size_t size;
    return n >= 0 && tdn_size_mul((size_t)n, 4 * sizeof(double), &size) ? size : SIZE_MAX;
}

static transform transform_make(void *scratch, int64_t n)
{
    double *at = scratch;
    const transform t = {n, 0, at, at + n, at + 2 * n, at + 3 * n};
    for (int64_t i = 0; i < n; i++) {
        t.cos[i] = cos(2 * M_PI * (double)i / (double)n);
        t.sin[i] = sin(2 * M_PI * (double)i / (double)n);
    }
    return t;
}

/* Samples from a line of x, at most n of them. */
static void load(transform *t, const tdn_view *x, int64_t at, int64_t step, int64_t extent)
{
    const bool is_complex = x->dims[x->rank - 1] == 2;
    t->n_samples = extent < t->n ? extent : t->n;
    for (int64_t i = 0; i < t->n_samples; i++) {
        const int64_t from = at + i * step;
        t->re[i] = tdn_ref_get(x, from);
        t->im[i] = is_complex ? tdn_ref_get(x, from + x->strides[x->rank - 1]) : 0;
    }
}

/* The spectrum of real numbers has its other half mirrored and conjugated. */
static void mirror(transform *t)
{
    for (int64_t i = t->n_samples; i < t->n; i++)
        t->re[i] = t->im[i] = 0;
    t->n_samples = t->n;
    t->im[0] = 0;
    for (int64_t i = t->n / 2 + 1; i < t->n; i++) {
        t->re[i] = t->re[t->n - i];
        t->im[i] = -t->im[t->n - i];
    }
    if (t->n % 2 == 0)
        t->im[t->n / 2] = 0;
}

/* Result k: the sum of samples times roots, turning forwards (sign 1: inverse) or backwards. */
static void result(const transform *t, int64_t k, double sign, double *re, double *im)
{
    int64_t root = 0;
    *re = *im = 0;
    for (int64_t i = 0; i < t->n_samples; i++) {
        const double c = t->cos[root], s = sign * t->sin[root];
        *re += t->re[i] * c - t->im[i] * s;
        *im += t->re[i] * s + t->im[i] * c;
        root += k;
        root -= root >= t->n ? t->n : 0;
    }
}

static void put_results(const transform *t, const tdn_view *y, int64_t at, int64_t step, int64_t n,
                        bool inverse)
{
    const double scale = inverse ? 1 / (double)t->n : 1;
    for (int64_t k = 0; k < n; k++) {
        double re, im;
        result(t, k, inverse ? 1 : -1, &re, &im);
        tdn_ref_set(y, at + k * step, scale * re);
        if (y->dims[y->rank - 1] == 2)
            tdn_ref_set(y, at + k * step + y->strides[y->rank - 1], scale * im);
    }
}

/* ---- DFT ------------------------------------------------------------------------------------- */

typedef struct dft {
    const tdn_view *x, *y;
    int axis;
    int64_t n;
    bool inverse, onesided;
} dft;

static bool is_pairs(const tdn_view *v) /* numbers in the last axis */
{
    return v->rank >= 2 && (v->dims[v->rank - 1] == 1 || v->dims[v->rank - 1] == 2);
}

static bool fits_lines(const dft *d)
{
    bool fits = is_pairs(d->x) && is_pairs(d->y) && d->x->rank == d->y->rank;
    for (int i = 0; fits && i < d->x->rank - 1; i++)
        fits = i == d->axis || d->x->dims[i] == d->y->dims[i];
    return fits;
}

static tdn_status run_dft(const tdn_ref_call *call, int64_t axis)
{
    TDN_REF_NEED(call, call->n_in >= 1 && tdn_ref_out(call, 0));
    dft d = {.x = &call->in[0],
             .y = &call->out[0],
             .inverse = tdn_attr_int(call->attrs, "inverse", 0) != 0,
             .onesided = tdn_attr_int(call->attrs, "onesided", 0) != 0};
    TDN_REF_NEED(call, tdn_ref_axis(axis, d.x->rank, &d.axis) && d.axis < d.x->rank - 1);
    TDN_REF_NEED(call, fits_lines(&d));
    const bool half_in = d.inverse && d.onesided, half_out = !d.inverse && d.onesided;
    const int64_t extent = d.x->dims[d.axis], n_out = d.y->dims[d.axis];
    const tdn_view *length = tdn_ref_in(call, 1);
    TDN_REF_NEED(call, !length || is_one(length));
    d.n = length ? tdn_view_get_int(length, 0) : half_in ? 2 * (extent - 1) : extent;
    TDN_REF_NEED(call, d.n > 0 && n_out == (half_out ? d.n / 2 + 1 : d.n));
    transform t = transform_make(call->scratch, d.n);
    tdn_view lines = *d.y;
    lines.dims[d.axis] = lines.dims[lines.rank - 1] = 1;
    for (tdn_walk w = tdn_walk_begin(lines.rank, lines.dims); w.more; tdn_walk_next(&w)) {
        load(&t, d.x, tdn_walk_offset(&w, d.x), d.x->strides[d.axis], extent);
        if (half_in)
            mirror(&t);
        put_results(&t, d.y, tdn_walk_offset(&w, d.y), d.y->strides[d.axis], n_out, d.inverse);
    }
    return TDN_OK;
}

static tdn_status dft_17_run(const tdn_ref_call *call)
{
    return run_dft(call, tdn_attr_int(call->attrs, "axis", 1));
}
static tdn_status dft_run(const tdn_ref_call *call)
{
    const tdn_view *axis = tdn_ref_in(call, 2);
    TDN_REF_NEED(call, !axis || is_one(axis));
    return run_dft(call, axis ? tdn_view_get_int(axis, 0) : -2);
}

/* The axis may stand in data, which is not there yet: room for the longest one. Half a spectrum of
 * m results has at most 2 m - 1 positions. */
static size_t dft_scratch(const tdn_ref_call *call)
{
    int64_t longest = 1;
    for (int i = 0; call->n_out >= 1 && i < call->out[0].rank; i++)
        longest = call->out[0].dims[i] > longest ? call->out[0].dims[i] : longest;
    return longest > INT64_MAX / 2 ? SIZE_MAX : transform_size(2 * longest);
}

/* ---- STFT ------------------------------------------------------------------------------------ */

static tdn_status stft_run(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 2 && tdn_ref_out(call, 0));
    const tdn_view *x = &call->in[0], *window = tdn_ref_in(call, 2), *length = tdn_ref_in(call, 3),
                   *y = &call->out[0];
    TDN_REF_NEED(call, x->rank == 3 && is_pairs(x) && y->rank == 4 && y->dims[3] == 2 &&
                           y->dims[0] == x->dims[0] && (!window || window->rank == 1));
    TDN_REF_NEED(call, is_one(&call->in[1]) && (!length || is_one(length)));
    const int64_t step = tdn_view_get_int(&call->in[1], 0);
    const int64_t n = length ? tdn_view_get_int(length, 0) : window ? window->dims[0] : x->dims[1];
    const bool onesided = tdn_attr_int(call->attrs, "onesided", 1) != 0;
    TDN_REF_NEED(call, n > 0 && n <= x->dims[1] && step > 0 && step <= x->dims[1] + 1 &&
                           (!window || window->dims[0] == n));
    TDN_REF_NEED(call, y->dims[1] == (x->dims[1] - n) / step + 1 &&
                           y->dims[2] == (onesided ? n / 2 + 1 : n));
    transform t = transform_make(call->scratch, n);
    for (tdn_walk w = tdn_walk_begin(2, y->dims); w.more; tdn_walk_next(&w)) {
        const int64_t first = w.index[1] * step;
        load(&t, x, w.index[0] * x->strides[0] + first * x->strides[1], x->strides[1], n);
        for (int64_t i = 0; window && i < n; i++) {
            const double factor = tdn_ref_get(window, i * window->strides[0]);
            t.re[i] *= factor;
            t.im[i] *= factor;
        }
        put_results(&t, y, w.index[0] * y->strides[0] + w.index[1] * y->strides[1], y->strides[2],
                    y->dims[2], false);
    }
    return TDN_OK;
}

static size_t stft_scratch(const tdn_ref_call *call)
{
    const int64_t bins = call->n_out >= 1 && call->out[0].rank == 4 ? call->out[0].dims[2] : 0;
    return bins > INT64_MAX / 2 ? SIZE_MAX : transform_size(2 * bins);
}

/* ---- Windows --------------------------------------------------------------------------------- */

/* a + b cos(2 pi i / n) + c cos(4 pi i / n); n is one less where the last number equals the
 * first. */
static tdn_status window(const tdn_ref_call *call, double a, double b, double c)
{
    TDN_REF_NEED(call, tdn_ref_out(call, 0) && call->out[0].rank == 1);
    const tdn_view *y = &call->out[0];
    const bool periodic = tdn_attr_int(call->attrs, "periodic", 1) != 0;
    const int64_t n = periodic ? y->dims[0] : y->dims[0] - 1;
    for (int64_t i = 0; i < y->dims[0]; i++) {
        const double angle = n > 0 ? 2 * M_PI * (double)i / (double)n : M_PI;
        tdn_ref_set(y, i * y->strides[0], a + b * cos(angle) + c * cos(2 * angle));
    }
    return TDN_OK;
}

static tdn_status hann_run(const tdn_ref_call *call) { return window(call, 0.5, -0.5, 0); }
static tdn_status hamming_run(const tdn_ref_call *call)
{
    return window(call, 25.0 / 46, -21.0 / 46, 0);
}
static tdn_status blackman_run(const tdn_ref_call *call) { return window(call, 0.42, -0.5, 0.08); }

/* ---- The mel scale --------------------------------------------------------------------------- */

static double mel_of(double hertz) { return 2595 * log10(1 + hertz / 700); }
static double hertz_of(double mel) { return 700 * (pow(10, mel / 2595) - 1); }

typedef struct mel {
    double length, rate, low, step; /* low and step in mel */
    int64_t n_rows;
} mel;

/* The row of the spectrum that edge i falls in. */
static int64_t row_of(const mel *m, int64_t i)
{
    const double row = floor((m->length + 1) * hertz_of(m->low + (double)i * m->step) / m->rate);
    return row >= 0 && row < (double)m->n_rows ? (int64_t)row : m->n_rows - 1;
}

/* A triangle: up to its middle, which has 1, and down to its end. */
static void put_triangle(const tdn_view *y, const mel *m, int64_t bin)
{
    const int64_t from = row_of(m, bin), middle = row_of(m, bin + 1), to = row_of(m, bin + 2);
    for (int64_t row = 0; row < m->n_rows; row++) {
        double x = 0;
        if (row >= from && row < middle)
            x = (double)(row - from) / (double)(middle - from);
        else if (row >= middle && row < to)
            x = (double)(to - row) / (double)(to - middle);
        if (row == middle)
            x = 1;
        tdn_ref_set(y, row * y->strides[0] + bin * y->strides[1], x);
    }
}

static tdn_status mel_run(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in == 5 && tdn_ref_out(call, 0) && call->out[0].rank == 2);
    const tdn_view *y = &call->out[0];
    for (int i = 0; i < 5; i++)
        TDN_REF_NEED(call, is_one(&call->in[i]));
    mel m = {.length = tdn_ref_get(&call->in[1], 0),
             .rate = tdn_ref_get(&call->in[2], 0),
             .low = mel_of(tdn_ref_get(&call->in[3], 0)),
             .n_rows = y->dims[0]};
    m.step = (mel_of(tdn_ref_get(&call->in[4], 0)) - m.low) / (double)(y->dims[1] + 2);
    for (int64_t bin = 0; bin < y->dims[1]; bin++)
        put_triangle(y, &m, bin);
    return TDN_OK;
}

const tdn_ref_def tdn_refs_signal[] = {
    {.name = "DFT-17", .run = dft_17_run, .scratch_size = dft_scratch},
    {.name = "DFT", .run = dft_run, .scratch_size = dft_scratch},
    {.name = "STFT", .run = stft_run, .scratch_size = stft_scratch},
    {.name = "HannWindow", .run = hann_run},
    {.name = "HammingWindow", .run = hamming_run},
    {.name = "BlackmanWindow", .run = blackman_run},
    {.name = "MelWeightMatrix", .run = mel_run},
    {0},
};
