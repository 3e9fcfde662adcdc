/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The report's pictures of latency: how often which latency came, and when. Both show the figure
 * that is to be quoted: the response of paced calls, the latency of calls back to back. However
 * many calls there were, the histogram has a hundred bars at most and the time line a thousand
 * columns, each from the least to the greatest of its calls, so that no outlier is lost.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/describe.h"
#include "cli/report_parts.h"

enum { N_COLUMNS = 1000, N_BINS = 96, N_SLOWEST = 24, N_LISTED = 5 };

/* What both pictures draw. */
typedef struct series {
    const tdn_report *r;
    const tdn_latency *latency;
    bool paced;
    double start, seconds; /* of the first call, in ns; until the end of the last */
} series;

static double call_ms(const series *s, size_t i)
{
    const tdn_call_time *c = &s->r->m->calls[i];
    return (double)(c->end - (s->paced ? c->due : c->begin)) * 1e-6;
}

static double call_s(const series *s, size_t i)
{
    return ((double)s->r->m->calls[i].begin - s->start) * 1e-9;
}

static bool is_late(const series *s, size_t i) { return call_ms(s, i) > 1e3 / s->r->rate; }

/* ---- Histogram ------------------------------------------------------------------------------- */

static const double marks[] = {50, 90, 99, 99.9};
enum { N_MARKS = sizeof marks / sizeof marks[0] };

/* Up to somewhat beyond p99, and logarithmic where that spans too much: calls beyond are counted in
 * words. */
static tdn_axis histogram_axis(const tdn_latency *l)
{
    const double p90 = tdn_latency_percentile(l, 90), p99 = tdn_latency_percentile(l, 99);
    const double lo = l->min, near = p99 + 0.3 * (p99 - lo), far = p90 + 2.5 * (p90 - lo);
    double hi = near > far ? near : far;
    hi = hi < l->max ? hi : l->max;
    if (lo > 0 && hi > 12 * lo)
        return (tdn_axis){0.97 * lo, 1.03 * hi, true};
    const double pad = 0.01 * (hi - lo) + 0.002 * lo + 1e-7;
    return (tdn_axis){lo > pad ? lo - pad : 0, hi + pad, false};
}

/* Returns the number of calls in the fullest bin; *n_beyond those right of the axis. */
static size_t fill_bins(const tdn_latency *l, const tdn_axis *axis, int n_bins, size_t *bins,
                        size_t *n_beyond)
{
    size_t most = 0;
    *n_beyond = 0;
    for (size_t i = 0; i < l->n; i++) {
        if (l->sorted[i] > axis->hi) {
            ++*n_beyond;
            continue;
        }
        int bin = (int)(tdn_axis_at(axis, l->sorted[i]) * n_bins);
        bin = bin < n_bins ? bin : n_bins - 1;
        most = ++bins[bin] > most ? bins[bin] : most;
    }
    return most;
}

static void put_bars(tdn_text *t, const tdn_axis *axis, int n_bins, const size_t *bins, size_t most)
{
    char lo[32], hi[32], n[32];
    const double width = 1000.0 / n_bins;
    const double ratio = axis->log ? pow(axis->hi / axis->lo, 1.0 / n_bins) : 0;
    for (int i = 0; i < n_bins; i++) {
        if (bins[i] == 0)
            continue;
        const double step = (axis->hi - axis->lo) / n_bins;
        const double from = axis->log ? axis->lo * pow(ratio, i) : axis->lo + i * step;
        const double height = 1000.0 * (double)bins[i] / (double)most;
        tdn_text_put(t,
                     "<rect class=\"bar\" x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\">"
                     "<title>%s calls from %s to %s</title></rect>\n",
                     i * width + 0.08 * width, 1000 - height, 0.84 * width, height,
                     tdn_html_count((double)bins[i], n), tdn_html_ms(from, lo),
                     tdn_html_ms(axis->log ? from * ratio : from + step, hi));
    }
}

/* Lines through the picture, each with its label on a line of its own above: none collide. */
static void put_marks(tdn_text *t, const tdn_latency *l, const tdn_axis *axis, bool labels)
{
    char text[32];
    for (int i = 0; i < N_MARKS; i++) {
        const double x = tdn_latency_percentile(l, marks[i]), at = tdn_axis_at(axis, x);
        if (x > axis->hi || !tdn_tells_percentile(l->n, marks[i]))
            continue;
        if (!labels) {
            tdn_text_put(t, "<path class=\"mark\" d=\"M%.1f -%dV1000\"/>\n", 1000 * at,
                         75 * (N_MARKS - i) - 20);
            continue;
        }
        tdn_text_put(t, "<span class=\"mark%s\" style=\"left:%.2f%%;top:%.1frem\">p%g <b>%s</b>",
                     at > 0.6 ? " left" : "", 100 * at, -1.05 * (N_MARKS - i) - 0.1, marks[i],
                     tdn_html_ms(x, text));
        tdn_text_put(t, "</span>\n");
    }
}

static void put_ticks(tdn_text *t, const tdn_axis *axis, int want)
{
    double ticks[8];
    char text[32];
    const int n = tdn_axis_ticks(axis, want, ticks);
    for (int i = 0; i < n; i++)
        tdn_plot_x_label(t, tdn_axis_at(axis, ticks[i]), tdn_tick_ms(axis, ticks[i], text));
}

static void put_histogram(tdn_text *t, const series *s)
{
    char text[32], max[32];
    size_t bins[N_BINS] = {0}, n_beyond;
    const tdn_latency *l = s->latency;
    const int n_bins = l->n >= 2000 ? N_BINS : l->n >= 200 ? 64 : 32;
    const tdn_axis axis = histogram_axis(l);
    const size_t most = fill_bins(l, &axis, n_bins, bins, &n_beyond);
    tdn_text_put(t, "<h3>How often</h3>\n<div class=\"marks\">");
    tdn_plot_begin(t, "Histogram of latencies", 12, NULL, true);
    put_bars(t, &axis, n_bins, bins, most);
    put_marks(t, l, &axis, false);
    tdn_plot_labels(t);
    put_marks(t, l, &axis, true);
    tdn_text_put(t, "<span class=\"y\" style=\"bottom:100%%\">%s</span>",
                 tdn_html_count((double)most, text));
    tdn_text_put(t, "<span class=\"y\" style=\"bottom:0\">0</span>");
    put_ticks(t, &axis, 5);
    tdn_plot_end(t);
    tdn_text_put(t, "</div>\n<p class=\"note\">Calls by %s%s.",
                 s->paced ? "response, from when a call was due to its end" : "latency",
                 axis.log ? "; the scale is logarithmic" : "");
    if (n_beyond > 0)
        tdn_text_put(t, " %s call%s beyond the right end; the slowest took %s.",
                     tdn_html_count((double)n_beyond, text), n_beyond == 1 ? " lies" : "s lie",
                     tdn_html_ms(l->max, max));
    tdn_text_put(t, "</p>\n");
}

/* ---- Time line ------------------------------------------------------------------------------- */

/* From 0; logarithmic where the slowest call would flatten all others. */
static tdn_axis time_line_axis(const series *s)
{
    const tdn_latency *l = s->latency;
    const double deadline = s->paced ? 1e3 / s->r->rate : 0;
    double hi = 1.05 * l->max + 1e-7;
    if (deadline > hi && deadline < 4 * hi)
        hi = 1.05 * deadline;
    if (l->min > 0 && l->max > 6 * l->median)
        return (tdn_axis){0.8 * l->min, hi, true};
    return (tdn_axis){0, hi, false};
}

/* Columns hold calls by their number, which is nearly their time, and lie where their first call
 * does. */
static void put_columns(tdn_text *t, const series *s, const tdn_axis *y)
{
    const size_t n = s->r->m->n, n_columns = n < N_COLUMNS ? n : N_COLUMNS;
    tdn_text_put(t, "<path class=\"%s\" d=\"",
                 n > N_COLUMNS ? "calls"
                 : n > 100     ? "dots"
                               : "dots few");
    for (size_t c = 0; c < n_columns; c++) {
        const size_t begin = (size_t)((double)n * (double)c / (double)n_columns);
        const size_t end = (size_t)((double)n * (double)(c + 1) / (double)n_columns);
        double lo = call_ms(s, begin), hi = lo;
        for (size_t i = begin + 1; i < end && i < n; i++) {
            const double ms = call_ms(s, i);
            lo = ms < lo ? ms : lo;
            hi = ms > hi ? ms : hi;
        }
        tdn_text_put(t, "M%.1f %.1fV%.1f", 1000 * call_s(s, begin) / s->seconds,
                     1000 - 1000 * tdn_axis_at(y, lo), 1000 - 1000 * tdn_axis_at(y, hi));
    }
    tdn_text_put(t, "\"/>\n");
}

static void put_level(tdn_text *t, const tdn_axis *y, double x, const char *of, bool label)
{
    const double at = tdn_axis_at(y, x);
    if (x < y->lo || x > y->hi)
        return;
    if (label)
        tdn_text_put(t, "<span class=\"level %s\" style=\"bottom:%.2f%%\">%s</span>", of, 100 * at,
                     of);
    else
        tdn_text_put(t, "<path class=\"level %s\" d=\"M0 %.1fH1000\"/>\n", of, 1000 - 1000 * at);
}

/* The numbers of the slowest calls, slowest first: only those above p99.9 where there are enough
 * calls for it, else the slowest alone. */
static int find_slowest(const series *s, size_t slowest[N_SLOWEST])
{
    int n = 0;
    const double least =
        s->latency->n >= 1000 ? tdn_latency_percentile(s->latency, 99.9) : s->latency->max - 1e-9;
    for (size_t i = 0; i < s->r->m->n; i++) {
        const double ms = call_ms(s, i);
        if (ms <= least || (n == N_SLOWEST && ms <= call_ms(s, slowest[n - 1])))
            continue;
        int at = n < N_SLOWEST ? n++ : n - 1;
        for (; at > 0 && call_ms(s, slowest[at - 1]) < ms; at--)
            slowest[at] = slowest[at - 1];
        slowest[at] = i;
    }
    return n;
}

/* A line of no length with round ends is a dot that stretching leaves round. */
static void put_dot(tdn_text *t, const series *s, const tdn_axis *y, size_t i, const char *of)
{
    char ms[32], number[32];
    tdn_text_put(
        t, "<path class=\"%s\" d=\"M%.1f %.1fh.01\"><title>call %s at %.4g s: %s</title></path>\n",
        of, 1000 * call_s(s, i) / s->seconds, 1000 - 1000 * tdn_axis_at(y, call_ms(s, i)),
        tdn_html_count((double)i, number), call_s(s, i), tdn_html_ms(call_ms(s, i), ms));
}

/* At most 200 marks, spread over all that were late. */
static void put_late(tdn_text *t, const series *s, const tdn_axis *y)
{
    const size_t n_late = s->r->m->n_late > 0 ? (size_t)s->r->m->n_late : 0;
    const size_t every = n_late / 200 + 1;
    size_t found = 0;
    for (size_t i = 0; s->paced && i < s->r->m->n; i++)
        if (is_late(s, i) && found++ % every == 0)
            put_dot(t, s, y, i, "late");
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Machines that grow hot grow slow: the medians of the first and the last tenth tell. */
static tdn_status put_drift(tdn_text *t, const series *s, tdn_error *error)
{
    char first[32], last[32];
    const size_t n = s->r->m->n / 10;
    if (n < 10)
        return TDN_OK;
    double *ms = calloc(2 * n, sizeof *ms);
    if (!ms)
        return tdn_fail_nomem(error, "the report");
    for (size_t i = 0; i < n; i++) {
        ms[i] = call_ms(s, i);
        ms[n + i] = call_ms(s, s->r->m->n - n + i);
    }
    qsort(ms, n, sizeof *ms, ascending);
    qsort(ms + n, n, sizeof *ms, ascending);
    const double a = ms[n / 2], b = ms[n + n / 2];
    free(ms);
    tdn_text_put(t, " Median of the first tenth %s, of the last %s (%+.1f&nbsp;%%).",
                 tdn_html_ms(a, first), tdn_html_ms(b, last), a > 0 ? 100 * (b - a) / a : 0);
    return TDN_OK;
}

static void put_slowest(tdn_text *t, const series *s, const size_t *slowest, int n)
{
    char ms[32], number[32];
    tdn_text_put(t, n > 1 ? " The slowest:" : " The slowest call:");
    for (int i = 0; i < n && i < N_LISTED; i++)
        tdn_text_put(t, "%s %s (call %s, at %.4g&nbsp;s)", i ? "," : "",
                     tdn_html_ms(call_ms(s, slowest[i]), ms),
                     tdn_html_count((double)slowest[i], number), call_s(s, slowest[i]));
    tdn_text_put(t, ".");
}

static void put_seconds(tdn_text *t, const series *s)
{
    double ticks[8];
    char text[32];
    const tdn_axis axis = {0, s->seconds, false};
    const int n = tdn_axis_ticks(&axis, 5, ticks);
    for (int i = 0; i < n; i++) {
        snprintf(text, sizeof text, s->seconds < 1 ? "%.4g ms" : "%.4g s",
                 s->seconds < 1 ? ticks[i] * 1e3 : ticks[i]);
        tdn_plot_x_label(t, tdn_axis_at(&axis, ticks[i]), text);
    }
}

static tdn_status put_time_line(tdn_text *t, const series *s, tdn_error *error)
{
    char text[32];
    size_t slowest[N_SLOWEST];
    const int n_slowest = find_slowest(s, slowest);
    const tdn_axis y = time_line_axis(s);
    const double p99 = tdn_latency_percentile(s->latency, 99);
    const double deadline = s->paced ? 1e3 / s->r->rate : y.hi + 1;
    tdn_text_put(t, "<h3>When</h3>\n");
    tdn_plot_begin(t, "Latency of each call over time", 12, &y, true);
    put_columns(t, s, &y);
    put_level(t, &y, s->latency->median, "median", false);
    if (tdn_tells_percentile(s->latency->n, 99))
        put_level(t, &y, p99, "p99", false);
    put_level(t, &y, deadline, "deadline", false);
    for (int i = 0; i < n_slowest; i++)
        put_dot(t, s, &y, slowest[i], "outlier");
    put_late(t, s, &y);
    tdn_plot_labels(t);
    put_level(t, &y, s->latency->median, "median", true);
    if (tdn_tells_percentile(s->latency->n, 99))
        put_level(t, &y, p99, "p99", true);
    put_level(t, &y, deadline, "deadline", true);
    put_seconds(t, s);
    tdn_plot_end(t);
    tdn_text_put(t, "<p class=\"note\">All %s calls", tdn_html_count((double)s->r->m->n, text));
    if (s->r->m->n > N_COLUMNS)
        tdn_text_put(t, ", in columns from the fastest to the slowest of about %.0f",
                     (double)s->r->m->n / N_COLUMNS);
    tdn_text_put(t, "%s.", y.log ? "; the scale is logarithmic" : "");
    if (s->paced && s->r->m->n_late > 0)
        tdn_text_put(t, " Red: ended after the next call was due.");
    if (n_slowest > 0)
        put_slowest(t, s, slowest, n_slowest);
    TDN_TRY(put_drift(t, s, error));
    tdn_text_put(t, "</p>\n");
    return TDN_OK;
}

/* ---- Table ----------------------------------------------------------------------------------- */

static void put_row(tdn_text *t, const char *title, const tdn_latency *l)
{
    static const double percents[] = {50, 90, 95, 99, 99.9};
    char text[32];
    tdn_text_put(t, "<tr><th>%s</th><td>%s</td>", title, tdn_html_ms(l->min, text));
    for (size_t i = 0; i < sizeof percents / sizeof percents[0]; i++) {
        const double p = percents[i];
        tdn_html_ms(p == 50 ? l->median : tdn_latency_percentile(l, p), text);
        tdn_text_put(t, "<td%s>%s</td>", p == 50 || p == 99 ? " class=\"key\"" : "",
                     tdn_tells_percentile(l->n, p) ? text : "&ndash;");
    }
    tdn_text_put(t, "<td>%s</td>", tdn_html_ms(l->max, text));
    tdn_text_put(t, "<td>%s</td>", tdn_html_ms(l->mean, text));
    tdn_text_put(t, "<td>%s</td></tr>\n", tdn_html_ms(l->deviation, text));
}

tdn_status tdn_report_latency(tdn_text *t, const tdn_report *r, tdn_error *error)
{
    const bool paced = r->rate > 0;
    series s = {r, paced ? r->response : r->latency, paced, 0, 0};
    if (r->m->n == 0)
        return TDN_OK;
    s.start = (double)r->m->calls[0].begin;
    s.seconds = ((double)r->m->calls[r->m->n - 1].end - s.start) * 1e-9;
    s.seconds = s.seconds > 1e-9 ? s.seconds : 1e-9;
    tdn_text_put(t, "<section><h2>Latency</h2>\n<div class=\"wide\"><table class=\"numbers\">"
                    "<tr><th></th><th>min</th><th>p50</th><th>p90</th><th>p95</th><th>p99</th>"
                    "<th>p99.9</th><th>max</th><th>mean</th><th>deviation</th></tr>\n");
    if (paced)
        put_row(t, "Response", r->response);
    put_row(t, "Latency", r->latency);
    tdn_text_put(t, "</table></div>\n");
    put_histogram(t, &s);
    TDN_TRY(put_time_line(t, &s, error));
    tdn_text_put(t, "</section>\n");
    return TDN_OK;
}
