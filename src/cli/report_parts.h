/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the parts of the report share: escaped text, numbers with units, axes, and the colours by
 * kind of kernel that join the picture of the steps with that of the memory.
 */
#ifndef TDN_CLI_REPORT_PARTS_H
#define TDN_CLI_REPORT_PARTS_H

#include "base/text.h"
#include "cli/report.h"

/* ---- Text and numbers ------------------------------------------------------------------------ */

/* Escapes for HTML, attributes included. Bytes that are not UTF-8, control characters and those
 * that turn the direction of writing become U+FFFD. At most `most` bytes of it (0: all), cut
 * between characters with an ellipsis. */
void tdn_html_put(tdn_text *t, const char *text, size_t most);
/* "1.23 ms", "45.6 us" with the right letter, "2.1 s". */
const char *tdn_html_ms(double ms, char text[32]);
/* "12,345" */
const char *tdn_html_count(double n, char text[32]);

/* Whether so many calls tell this percentile from the slowest call. */
bool tdn_tells_percentile(size_t n_calls, double percent);

/* ---- Axes ------------------------------------------------------------------------------------ */

typedef struct tdn_axis {
    double lo, hi; /* lo < hi; both > 0 where log */
    bool log;
} tdn_axis;

/* 0 at lo, 1 at hi, nothing outside. */
double tdn_axis_at(const tdn_axis *axis, double x);
/* Round values inside the axis, ascending; how many, at most 8, for about `want`. */
int tdn_axis_ticks(const tdn_axis *axis, int want, double ticks[8]);
/* A tick in the unit that suits the whole axis. */
const char *tdn_tick_ms(const tdn_axis *axis, double ms, char text[32]);

/* A plot: a box `height` rem high with an SVG of 1000 x 1000 units, stretched. Grid lines and
 * labels of y, in milliseconds where `ms`, else in bytes. */
void tdn_plot_begin(tdn_text *t, const char *what, double height, const tdn_axis *y, bool ms);
/* Ends the SVG: what follows are labels. */
void tdn_plot_labels(tdn_text *t);
/* A label under the plot at 0..1 of its width. */
void tdn_plot_x_label(tdn_text *t, double at, const char *text);
void tdn_plot_end(tdn_text *t);

/* ---- Kinds of kernels ------------------------------------------------------------------------ */

enum { TDN_N_KINDS = 7 }; /* the last is all others */

/* "conv" of conv_f32_avx512: the kinds that take the most time have a colour each. */
typedef struct tdn_kinds {
    struct {
        char name[24];
        double ns;
        int n_steps;
    } rows[TDN_N_KINDS];
    int n;
    double total_ns;
} tdn_kinds;

tdn_status tdn_kinds_of(tdn_kinds *kinds, const tdn_profile *profile, tdn_error *error);
/* The number of the step's kind, which is the number of its colour. */
int tdn_kind_of(const tdn_kinds *kinds, const tdn_step_info *step);
/* Nanoseconds of a call; 0 where it was not timed. */
double tdn_step_ns(const tdn_step_info *step);

/* ---- Parts ----------------------------------------------------------------------------------- */

extern const char tdn_report_style[];

tdn_status tdn_report_latency(tdn_text *t, const tdn_report *r, tdn_error *error);
/* `program` and `section`: what describes the plan; NULL where nothing fits. */
tdn_status tdn_report_steps(tdn_text *t, const tdn_report *r, const tdn_kinds *kinds,
                            const json_t *program, tdn_error *error);
tdn_status tdn_report_memory(tdn_text *t, const tdn_report *r, const tdn_kinds *kinds,
                             const json_t *program, tdn_error *error);

#endif
