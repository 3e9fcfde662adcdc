/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The report's steps: where a call's time goes, in the words of the model. A strip has them in the
 * order in which they run, as wide as they take time; a table has them by time, each with the
 * model's nodes that were fused into it, what it computed and moved, how close that comes to what
 * the machine can do (the dark part of its bar), and why a step runs by the reference where it
 * does.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/describe.h"
#include "cli/report_parts.h"

/* Rows that stand in the open; those in the fold; bytes of a step's names. */
enum { N_OPEN = 20, N_ROWS = 600, N_STRIP = 600, NAMES_SIZE = 600 };

typedef struct ranked {
    const tdn_step_info *step;
    double ns;
    int number;
} ranked;

static int by_time(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    return x->ns < y->ns ? 1 : x->ns > y->ns ? -1 : x->number - y->number;
}

static ranked *rank_steps(const tdn_profile *p)
{
    ranked *rows = calloc((size_t)p->n + 1, sizeof *rows);
    for (int i = 0; rows && i < p->n; i++)
        rows[i] = (ranked){&p->steps[i], tdn_step_ns(&p->steps[i]), i};
    if (rows)
        qsort(rows, (size_t)p->n, sizeof *rows, by_time);
    return rows;
}

static const char *per_second(double amount, double ns, char text[32])
{
    if (ns <= 0 || amount <= 0)
        return "&ndash;";
    const double giga = amount / ns;
    snprintf(text, 32, giga >= 99.95 ? "%.0f" : giga >= 9.995 ? "%.1f" : "%.2f", giga);
    return text;
}

/* ---- By kind --------------------------------------------------------------------------------- */

static void put_kinds(tdn_text *t, const tdn_kinds *kinds)
{
    char ms[32];
    tdn_text_put(t, "<ul class=\"kinds\">");
    for (int k = 0; k < kinds->n; k++) {
        tdn_text_put(t, "<li><i class=\"k%d\"></i><b>", k);
        tdn_html_put(t, kinds->rows[k].name, 0);
        tdn_text_put(t, "</b> ");
        if (kinds->total_ns > 0)
            tdn_text_put(t, "%.1f&nbsp;%%, %s in ", 100 * kinds->rows[k].ns / kinds->total_ns,
                         tdn_html_ms(kinds->rows[k].ns * 1e-6, ms));
        tdn_text_put(t, "%d step%s</li>", kinds->rows[k].n_steps,
                     kinds->rows[k].n_steps == 1 ? "" : "s");
    }
    tdn_text_put(t, "</ul>\n");
}

/* Neighbours too thin to be seen join into one piece while there are too many for a small page. */
static void put_strip(tdn_text *t, const tdn_profile *p, const tdn_kinds *kinds)
{
    double at = 0;
    char ms[32];
    const double least = p->n > N_STRIP ? kinds->total_ns / N_STRIP : 0;
    tdn_text_put(t, "<div class=\"strip\">");
    tdn_plot_begin(t, "Steps in the order in which they run, by time", 2.4, NULL, true);
    for (int i = 0; i < p->n;) {
        const int first = i;
        double ns = 0;
        do
            ns += tdn_step_ns(&p->steps[i++]);
        while (i < p->n && ns + tdn_step_ns(&p->steps[i]) < least);
        const double width = 1000 * ns / kinds->total_ns;
        tdn_text_put(t, "<rect class=\"k%d\" x=\"%.2f\" width=\"%.2f\" height=\"1000\"><title>",
                     tdn_kind_of(kinds, &p->steps[first]), at, width);
        tdn_html_ms(ns * 1e-6, ms);
        if (i - first > 1) {
            tdn_text_put(t, "steps %d to %d: %s", first, i - 1, ms);
        } else {
            tdn_text_put(t, "step %d: %s, %.1f %%: ", first, ms, 100 * ns / kinds->total_ns);
            tdn_html_put(t, p->steps[first].name, 120);
        }
        tdn_text_put(t, "</title></rect>\n");
        at += width;
    }
    tdn_plot_labels(t);
    tdn_plot_x_label(t, 0, "first step");
    tdn_plot_x_label(t, 1, "last step");
    tdn_plot_end(t);
    tdn_text_put(t, "</div>");
}

/* ---- Table ----------------------------------------------------------------------------------- */

/* Why the backend refused the step; "" where it did not. */
static const char *why_refused(const json_t *program, int step)
{
    const json_t *steps = json_object_get(program, "steps");
    return tdn_described_text(json_array_get(steps, (size_t)step), "refused");
}

/* As wide as the step takes time, dark for the time that it takes at best. */
static void put_bar(tdn_text *t, const ranked *row, double max_ns, int kind, tdn_ceiling ceiling)
{
    tdn_text_put(t, "<div class=\"track\"><i class=\"k%d\" style=\"width:%.2f%%\">", kind,
                 max_ns > 0 ? 100 * row->ns / max_ns : 0);
    if (ceiling.bound != TDN_BOUND_NONE)
        tdn_text_put(t, "<b style=\"width:%.1f%%\"></b>",
                     ceiling.share < 100 ? ceiling.share : 100);
    tdn_text_put(t, "</i></div></td>");
}

static void put_row(tdn_text *t, const ranked *row, double max_ns, const tdn_report *r,
                    const tdn_kinds *kinds, const json_t *program)
{
    char ms[32], min[32], max[32], number[32];
    const tdn_step_info *s = row->step;
    const char *why = why_refused(program, row->number);
    const tdn_ceiling ceiling = tdn_ceiling_of(&r->profile->machine, s);
    const double share = kinds->total_ns > 0 ? 100 * row->ns / kinds->total_ns : 0;
    tdn_text_put(t, "<tr><td class=\"n\">%d</td><td class=\"what\"><div class=\"names\">",
                 row->number);
    tdn_html_put(t, *s->name ? s->name : "(no name)", NAMES_SIZE);
    tdn_text_put(t, "</div><div class=\"kernel\">");
    tdn_html_put(t, s->kernel, 80);
    tdn_text_put(t, " &middot; %s tile%s</div>", tdn_html_count((double)s->n_tiles, number),
                 s->n_tiles == 1 ? "" : "s");
    if (*why) {
        tdn_text_put(t, "<div class=\"warn\">by the reference: ");
        tdn_html_put(t, why, 200);
        tdn_text_put(t, "</div>");
    }
    put_bar(t, row, max_ns, tdn_kind_of(kinds, s), ceiling);
    if (s->n_runs)
        tdn_text_put(t, "<td title=\"%s to %s over %llu calls\">%s</td><td>%.1f&nbsp;%%</td>",
                     tdn_html_ms((double)s->min_ns * 1e-6, min),
                     tdn_html_ms((double)s->max_ns * 1e-6, max), (unsigned long long)s->n_runs,
                     tdn_html_ms(row->ns * 1e-6, ms), share);
    else
        tdn_text_put(t, "<td>&ndash;</td><td>&ndash;</td>");
    tdn_text_put(t, "<td class=\"flops\">%s</td>", per_second((double)s->flops, row->ns, number));
    tdn_text_put(t, "<td class=\"bytes\">%s</td>", per_second((double)s->bytes, row->ns, number));
    tdn_text_put(t, "<td class=\"ceiling\">%s</td></tr>\n",
                 ceiling.bound == TDN_BOUND_NONE ? "&ndash;" : tdn_ceiling_text(ceiling, number));
}

static void put_head(tdn_text *t)
{
    tdn_text_put(t, "<div class=\"wide\"><table class=\"steps\"><tr><th>step</th><th>nodes of the "
                    "model</th><th>time</th><th>share</th><th>GFLOP/s</th><th>GB/s</"
                    "th><th>ceiling</th></tr>\n");
}

static void put_table(tdn_text *t, const ranked *rows, const tdn_report *r, const tdn_kinds *kinds,
                      const json_t *program)
{
    const int n = r->profile->n;
    double rest = 0;
    for (int i = N_OPEN; i < n; i++)
        rest += rows[i].ns;
    put_head(t);
    for (int i = 0; i < n && i < N_ROWS; i++) {
        if (i == N_OPEN && n > N_OPEN + 3) {
            tdn_text_put(t, "</table></div>\n<details><summary>%d more steps", n - N_OPEN);
            if (kinds->total_ns > 0)
                tdn_text_put(t, ", %.1f&nbsp;%% of the time", 100 * rest / kinds->total_ns);
            tdn_text_put(t, "</summary>\n");
            put_head(t);
        }
        put_row(t, &rows[i], rows[0].ns, r, kinds, program);
    }
    tdn_text_put(t, "</table></div>\n");
    if (n > N_ROWS)
        tdn_text_put(t,
                     "<p class=\"note\">%d steps that take less are left out: --json has them "
                     "all.</p>\n",
                     n - N_ROWS);
    if (n > N_OPEN + 3)
        tdn_text_put(t, "</details>\n");
}

/* ---- The section ----------------------------------------------------------------------------- */

static void put_totals(tdn_text *t, const tdn_report *r, const tdn_kinds *kinds)
{
    char ms[32], median[32], flops_text[32], speed[32];
    double flops = 0;
    for (int i = 0; i < r->profile->n; i++)
        flops += (double)r->profile->steps[i].flops;
    tdn_scaled(flops, "FLOP", flops_text, sizeof flops_text);
    tdn_text_put(t, "<p>%d step%s, %s a call.", r->profile->n, r->profile->n == 1 ? "" : "s",
                 flops_text);
    if (kinds->total_ns > 0)
        tdn_text_put(
            t,
            " All steps together take %s, %s GFLOP/s, in a run of its own over %llu call%s "
            "that times them; the median of a call without timing is %s.</p>\n",
            tdn_html_ms(kinds->total_ns * 1e-6, ms), per_second(flops, kinds->total_ns, speed),
            (unsigned long long)r->profile->n_calls, r->profile->n_calls == 1 ? "" : "s",
            tdn_html_ms(r->latency->median, median));
    else
        tdn_text_put(t, " Measuring was interrupted, so the steps were not timed.</p>\n");
}

tdn_status tdn_report_steps(tdn_text *t, const tdn_report *r, const tdn_kinds *kinds,
                            const json_t *program, tdn_error *error)
{
    char machine[512];
    if (r->profile->n == 0)
        return TDN_OK;
    ranked *rows = rank_steps(r->profile);
    if (!rows)
        return tdn_fail_nomem(error, "the report");
    tdn_text_put(t, "<section><h2>Time by step</h2>\n");
    put_totals(t, r, kinds);
    if (kinds->total_ns > 0)
        put_strip(t, r->profile, kinds);
    put_kinds(t, kinds);
    if (r->profile->machine.n_threads)
        tdn_text_put(t, "<p class=\"note\">%s It is the dark part of a bar.</p>\n",
                     tdn_machine_text(&r->profile->machine, machine, sizeof machine));
    put_table(t, rows, r, kinds, program);
    tdn_text_put(t, "</section>\n");
    free(rows);
    return TDN_OK;
}
