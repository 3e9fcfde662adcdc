/* SPDX-License-Identifier: Apache-2.0 */
/* Escaping, numbers, axes and plots of the report. */
#include "cli/report_parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/describe.h"

/* ---- Text ------------------------------------------------------------------------------------ */

/* Decodes one character and returns its length; 1 and 0xfffd where it is no UTF-8. */
static size_t decode(const unsigned char *s, unsigned *code)
{
    static const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    const size_t n = s[0] < 0x80   ? 1
                     : s[0] < 0xc2 ? 0
                     : s[0] < 0xe0 ? 2
                     : s[0] < 0xf0 ? 3
                     : s[0] < 0xf5 ? 4
                                   : 0;
    *code = n == 1 ? s[0] : n ? s[0] & (0x7fu >> n) : 0;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80) { /* the NUL, too */
            *code = 0xfffd;
            return 1;
        }
        *code = *code << 6 | (s[i] & 0x3fu);
    }
    if (n == 0 || *code < least[n] || *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000)) {
        *code = 0xfffd;
        return 1;
    }
    return n;
}

static bool is_visible(unsigned code)
{
    return code >= 0x20 && (code < 0x7f || code > 0x9f) && !(code >= 0x200e && code <= 0x200f) &&
           !(code >= 0x2028 && code <= 0x202e) && !(code >= 0x2066 && code <= 0x2069) &&
           code != 0xfffd;
}

static void put_character(tdn_text *t, const unsigned char *s, size_t n, unsigned code)
{
    switch (code) {
    case '&': tdn_text_put(t, "&amp;"); break;
    case '<': tdn_text_put(t, "&lt;"); break;
    case '>': tdn_text_put(t, "&gt;"); break;
    case '"': tdn_text_put(t, "&quot;"); break;
    case '\'': tdn_text_put(t, "&#39;"); break;
    default:
        if (is_visible(code))
            tdn_text_put_bytes(t, (const char *)s, n);
        else
            tdn_text_put(t, "\xef\xbf\xbd");
    }
}

void tdn_html_put(tdn_text *t, const char *text, size_t most)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t at = 0; s[at];) {
        unsigned code;
        const size_t n = decode(s + at, &code);
        if (most && at + n > most) {
            tdn_text_put(t, "&hellip;");
            return;
        }
        put_character(t, s + at, n, code);
        at += n;
    }
}

/* Three digits, never an exponent. */
static const char *put_number(double x, const char *unit, char text[32])
{
    snprintf(text, 32, x >= 99.95 ? "%.0f%s" : x >= 9.995 ? "%.1f%s" : "%.2f%s", x, unit);
    return text;
}

const char *tdn_html_ms(double ms, char text[32])
{
    if (ms >= 999.5)
        return put_number(ms * 1e-3, "\xc2\xa0s", text);
    return ms >= 0.9995 || ms <= 0 ? put_number(ms, "\xc2\xa0ms", text)
                                   : put_number(ms * 1e3, "\xc2\xa0\xc2\xb5s", text);
}

const char *tdn_html_count(double n, char text[32])
{
    char digits[32];
    const size_t length = (size_t)snprintf(digits, sizeof digits, "%.0f", n);
    size_t at = 0;
    for (size_t i = 0; i < length && at < 30; i++) {
        text[at++] = digits[i];
        if ((length - i) % 3 == 1 && i + 1 < length)
            text[at++] = ',';
    }
    text[at] = 0;
    return text;
}

bool tdn_tells_percentile(size_t n_calls, double percent)
{
    return (double)n_calls * (100 - percent) >= 100 - 1e-6;
}

/* ---- Axes ------------------------------------------------------------------------------------ */

double tdn_axis_at(const tdn_axis *axis, double x)
{
    const double at = axis->log ? log(x > axis->lo ? x / axis->lo : 1) / log(axis->hi / axis->lo)
                                : (x - axis->lo) / (axis->hi - axis->lo);
    return at < 0 ? 0 : at > 1 ? 1 : at;
}

/* 1, 2 and 5 times powers of ten: all of them where few fit, else the powers alone. */
static int log_ticks(const tdn_axis *axis, double ticks[8])
{
    static const double steps[] = {1, 2, 5};
    const double decades = log10(axis->hi / axis->lo);
    const int every = decades > 2.6 ? 3 : 1;
    int n = 0;
    for (int e = (int)floor(log10(axis->lo)); n < 8 && e <= (int)ceil(log10(axis->hi)); e++)
        for (int i = 0; n < 8 && i < 3; i += every) {
            const double x = steps[i] * pow(10, e);
            if (x >= axis->lo && x <= axis->hi)
                ticks[n++] = x;
        }
    return n;
}

int tdn_axis_ticks(const tdn_axis *axis, int want, double ticks[8])
{
    if (axis->log)
        return log_ticks(axis, ticks);
    const double rough = (axis->hi - axis->lo) / want, unit = pow(10, floor(log10(rough)));
    const double factor = rough / unit;
    const double step = unit * (factor < 1.5 ? 1 : factor < 3.5 ? 2 : factor < 7.5 ? 5 : 10);
    int n = 0;
    for (double k = ceil(axis->lo / step - 1e-9); n < 8 && k * step <= axis->hi * (1 + 1e-9); k++)
        ticks[n++] = k * step + 0.0; /* no negative zero */
    return n;
}

const char *tdn_tick_ms(const tdn_axis *axis, double ms, char text[32])
{
    const double scale =
        axis->log ? ms : axis->hi; /* one unit for all where they are evenly spaced */
    const bool s = scale >= 1000, us = scale < 1;
    snprintf(text, 32, "%.4g\xc2\xa0%s",
             s    ? ms * 1e-3
             : us ? ms * 1e3
                  : ms,
             s    ? "s"
             : us ? "\xc2\xb5s"
                  : "ms");
    return text;
}

/* ---- Plots ----------------------------------------------------------------------------------- */

void tdn_plot_begin(tdn_text *t, const char *what, double height, const tdn_axis *y, bool ms)
{
    double ticks[8];
    char text[32];
    const int n = y ? tdn_axis_ticks(y, 4, ticks) : 0;
    tdn_text_put(t, "<div class=\"plot\" style=\"height:%grem\">", height);
    for (int i = 0; i < n; i++)
        tdn_text_put(t, "<span class=\"y\" style=\"bottom:%.2f%%\">%s</span>",
                     100 * tdn_axis_at(y, ticks[i]),
                     ticks[i] <= 0 ? "0"
                     : ms          ? tdn_tick_ms(y, ticks[i], text)
                                   : tdn_scaled(ticks[i], "B", text, sizeof text));
    tdn_text_put(t,
                 "<svg viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" role=\"img\" "
                 "aria-label=\"%s\"><path class=\"grid\" d=\"",
                 what);
    for (int i = 0; i < n; i++)
        tdn_text_put(t, "M0 %.1fH1000", 1000 - 1000 * tdn_axis_at(y, ticks[i]));
    tdn_text_put(t, "M0 1000H1000\"/>\n");
}

void tdn_plot_labels(tdn_text *t) { tdn_text_put(t, "</svg>"); }

void tdn_plot_x_label(tdn_text *t, double at, const char *text)
{
    tdn_text_put(t, "<span class=\"x%s\" style=\"left:%.2f%%\">%s</span>",
                 at < 0.02   ? " first"
                 : at > 0.94 ? " last"
                             : "",
                 100 * at, text);
}

void tdn_plot_end(tdn_text *t) { tdn_text_put(t, "</div>\n"); }

/* ---- Kinds of kernels ------------------------------------------------------------------------ */

double tdn_step_ns(const tdn_step_info *step)
{
    return step->n_runs ? (double)step->total_ns / (double)step->n_runs : 0;
}

static void kind_name(const tdn_step_info *step, char name[24])
{
    const size_t n = strcspn(step->kernel, "_:");
    snprintf(name, 24, "%.*s", n < 23 ? (int)n : 23, n ? step->kernel : "control");
}

typedef struct kind_sum {
    char name[24];
    double ns;
    int n_steps;
} kind_sum;

/* By time, then by steps, then by name: the colours are the same from run to run where they can. */
static int by_time(const void *a, const void *b)
{
    const kind_sum *x = a, *y = b;
    if (x->ns != y->ns)
        return x->ns < y->ns ? 1 : -1;
    return x->n_steps != y->n_steps ? y->n_steps - x->n_steps : strcmp(x->name, y->name);
}

static int sum_kinds(kind_sum *sums, const tdn_profile *profile)
{
    int n = 0;
    for (int i = 0; i < profile->n; i++) {
        char name[24];
        int k = 0;
        kind_name(&profile->steps[i], name);
        while (k < n && strcmp(sums[k].name, name) != 0)
            k++;
        if (k == n)
            memcpy(sums[n++].name, name, sizeof name);
        sums[k].ns += tdn_step_ns(&profile->steps[i]);
        sums[k].n_steps++;
    }
    return n;
}

tdn_status tdn_kinds_of(tdn_kinds *kinds, const tdn_profile *profile, tdn_error *error)
{
    *kinds = (tdn_kinds){.n = 0};
    kind_sum *sums = calloc((size_t)profile->n + 1, sizeof *sums);
    if (!sums)
        return tdn_fail_nomem(error, "the report");
    const int n = sum_kinds(sums, profile);
    qsort(sums, (size_t)n, sizeof *sums, by_time);
    for (int i = 0; i < n; i++) {
        const int k = i < TDN_N_KINDS - 1 || n == TDN_N_KINDS ? i : TDN_N_KINDS - 1;
        snprintf(kinds->rows[k].name, sizeof kinds->rows[k].name, "%s",
                 k == i ? sums[i].name : "others");
        kinds->rows[k].ns += sums[i].ns;
        kinds->rows[k].n_steps += sums[i].n_steps;
        kinds->total_ns += sums[i].ns;
        kinds->n = k + 1;
    }
    if (n > TDN_N_KINDS)
        snprintf(kinds->rows[TDN_N_KINDS - 1].name, sizeof kinds->rows[0].name, "others");
    free(sums);
    return TDN_OK;
}

int tdn_kind_of(const tdn_kinds *kinds, const tdn_step_info *step)
{
    char name[24];
    kind_name(step, name);
    for (int k = 0; k < kinds->n; k++)
        if (strcmp(kinds->rows[k].name, name) == 0)
            return k;
    return kinds->n > 0 ? kinds->n - 1 : 0;
}
