/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The page of a benchmark: which figure to quote, the figures, and at the end all that somebody
 * needs who wants to measure the same again; the pictures between are in files of their own. Steps
 * and buffers are those that the plan's description has, read back from the plan that was measured.
 */
#include "cli/report.h"

#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "cli/data.h"
#include "cli/describe.h"
#include "cli/report_parts.h"

/* ---- What is there --------------------------------------------------------------------------- */

/* The plan that was measured, as the library describes it. */
static tdn_status describe_plan(json_t **plan, const tdn_report *r, tdn_error *error)
{
    char *text;
    TDN_TRY(r->session->plan
                ? tdn_plan_describe_memory(&text, r->session->plan, r->session->plan_size, error)
                : tdn_plan_describe(&text, r->path, error));
    *plan = json_loads(text, 0, NULL);
    tdn_text_free(text);
    return *plan ? TDN_OK
                 : tdn_fail(error, TDN_E_INTERNAL, "the description of %s is no JSON", r->path);
}

/* The program in use in the section in use; NULL where the description has none that fits. */
static const json_t *find_program(const tdn_report *r, const json_t *plan)
{
    size_t i;
    const json_t *section;
    json_array_foreach(json_object_get(plan, "sections"), i, section)
    {
        if (strcmp(tdn_described_text(section, "target"), r->engine->target) != 0)
            continue;
        const json_t *program = json_array_get(json_object_get(section, "programs"),
                                               (size_t)tdn_context_program(r->session->context));
        const json_t *steps = json_object_get(program, "steps");
        return json_array_size(steps) == (size_t)r->profile->n ? program : NULL;
    }
    return NULL;
}

/* What stands behind the first colon of the first line that begins with `key`; of no key, the first
 * line. */
static bool read_line(const char *path, const char *key, char *text, size_t size)
{
    FILE *file = fopen(path, "re");
    bool found = false;
    while (file && !found && fgets(text, (int)size, file)) {
        const char *colon = strchr(text, ':');
        found = strncmp(text, key, strlen(key)) == 0 && (!*key || colon);
        if (found && *key) {
            colon += 1 + strspn(colon + 1, " \t");
            memmove(text, colon, strlen(colon) + 1);
        }
        if (found)
            text[strcspn(text, "\n")] = 0;
    }
    if (file)
        fclose(file);
    return found && *text;
}

static void name_processor(char *text, size_t size)
{
    struct utsname system;
    if (!read_line("/proc/cpuinfo", "model name", text, size) &&
        !read_line("/proc/cpuinfo", "Model", text, size) &&
        !read_line("/proc/device-tree/model", "", text, size))
        snprintf(text, size, "%s", uname(&system) == 0 ? system.machine : "");
}

/* ---- Head and figures ------------------------------------------------------------------------ */

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static void put_inputs(tdn_text *t, const tdn_report *r)
{
    char dims[128];
    for (int i = 0; i < r->feed->n_inputs; i++) {
        const tdn_tensor x = tdn_feed_tensor(r->feed, i, 0);
        tdn_text_put(t, "%s", i ? ", " : "");
        tdn_html_put(t, r->feed->inputs[i].name, 60);
        tdn_text_put(t, " %s %s", tdn_tensor_text(&x, dims, sizeof dims), tdn_dtype_name(x.dtype));
        if (i == 7 && r->feed->n_inputs > 9) {
            tdn_text_put(t, " and %d more", r->feed->n_inputs - 8);
            break;
        }
    }
}

static void put_head(tdn_text *t, const tdn_report *r, const json_t *plan)
{
    const int threads = tdn_pool_threads(r->session->pool);
    const char *model = tdn_described_text(json_object_get(plan, "notes"), "model");
    tdn_text_put(t, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
                    "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
                    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                    "style-src 'unsafe-inline'\">\n<title>");
    tdn_html_put(t, file_name(r->path), 100);
    tdn_text_put(t, " &middot; tendon bench</title>\n<style>\n");
    tdn_text_put_bytes(t, tdn_report_style, strlen(tdn_report_style));
    tdn_text_put(t, "</style></head>\n<body><main>\n<header><h1>");
    tdn_html_put(t, file_name(r->path), 0);
    tdn_text_put(t, "</h1>\n<p class=\"sub\">");
    if (*model && strcmp(model, file_name(r->path)) != 0) {
        tdn_html_put(t, model, 100);
        tdn_text_put(t, " &middot; ");
    }
    put_inputs(t, r);
    tdn_text_put(t, " &middot; ");
    tdn_html_put(t, r->engine->target, 0);
    tdn_text_put(t, " &middot; %d thread%s</p></header>\n", threads, threads == 1 ? "" : "s");
}

static void put_tile(tdn_text *t, const char *class, const char *value, const char *what)
{
    tdn_text_put(t, "<div%s><b>%s</b><span>%s</span></div>\n", class, value, what);
}

static void put_deadlines(tdn_text *t, const tdn_report *r)
{
    char n[32], what[128];
    const double missed = (double)(r->m->n_late + r->m->n_skipped);
    const double due = (double)r->m->n + (double)r->m->n_skipped;
    snprintf(what, sizeof what, "of %.0f deadlines missed at %g&nbsp;Hz (%.3g&nbsp;%%)", due,
             r->rate, due > 0 ? 100 * missed / due : 0);
    put_tile(t, missed > 0 ? " class=\"bad\"" : "", tdn_html_count(missed, n), what);
}

static void put_figures(tdn_text *t, const tdn_report *r)
{
    char text[32], what[64];
    const tdn_latency *l = r->rate > 0 ? r->response : r->latency;
    const double qps = r->m->wall_s > 0 ? (double)r->m->n / r->m->wall_s : 0;
    tdn_text_put(t, "<div class=\"quote\"><p>");
    tdn_html_put(t, r->quote, 0);
    tdn_text_put(t, "</p></div>\n<div class=\"tiles\">\n");
    put_tile(t, "", tdn_html_ms(l->median, text), r->rate > 0 ? "median response" : "median");
    if (tdn_tells_percentile(l->n, 99))
        put_tile(t, "", tdn_html_ms(tdn_latency_percentile(l, 99), text), "p99");
    if (tdn_tells_percentile(l->n, 99.9))
        put_tile(t, "", tdn_html_ms(tdn_latency_percentile(l, 99.9), text), "p99.9");
    put_tile(t, "", tdn_html_ms(l->max, text), "slowest call");
    if (r->rate > 0)
        put_deadlines(t, r);
    snprintf(what, sizeof what, "calls a second, %s in %.3g&nbsp;s%s",
             tdn_html_count((double)r->m->n, text), r->m->wall_s,
             r->m->interrupted ? ", interrupted" : "");
    if (qps < 99.95)
        snprintf(text, sizeof text, qps < 9.995 ? "%.2f" : "%.1f", qps);
    else
        tdn_html_count(qps, text);
    put_tile(t, "", text, what);
    tdn_text_put(t, "</div>\n");
}

/* ---- Provenance ------------------------------------------------------------------------------ */

static void put_fact(tdn_text *t, const char *what, const char *value, bool code)
{
    if (!value || !*value)
        return;
    tdn_text_put(t, "<tr><th>");
    tdn_html_put(t, what, 60);
    tdn_text_put(t, code ? "</th><td><code>" : "</th><td>");
    tdn_html_put(t, value, 2000);
    tdn_text_put(t, code ? "</code></td></tr>\n" : "</td></tr>\n");
}

static void put_machine(tdn_text *t)
{
    char text[512], processor[256];
    struct utsname system;
    double load;
    name_processor(processor, sizeof processor);
    snprintf(text, sizeof text, "%s, %ld processors online", processor,
             sysconf(_SC_NPROCESSORS_ONLN));
    put_fact(t, "Processor", text, false);
    if (read_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "", text, sizeof text))
        put_fact(t, "Frequency governor", text, false);
    if (uname(&system) == 0) {
        snprintf(text, sizeof text, "%s %s, %s", system.sysname, system.release, system.machine);
        put_fact(t, "System", text, false);
    }
    if (getloadavg(&load, 1) == 1) {
        snprintf(text, sizeof text, "%.2f over the last minute, this run included", load);
        put_fact(t, "Load", text, false);
    }
}

static void put_run(tdn_text *t, const tdn_report *r)
{
    char text[256];
    struct tm utc;
    const time_t now = time(NULL);
    put_fact(t, "Command", r->command, true);
    if (gmtime_r(&now, &utc) && strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &utc))
        put_fact(t, "Date", text, false);
    put_fact(t, "Tendon", tdn_version(), false);
    put_machine(t);
    snprintf(text, sizeof text, "%lld calls over %.3g s, then %zu over %.3g s, %s%s",
             (long long)r->m->n_warmup, r->m->warmup_s, r->m->n, r->m->wall_s,
             r->rate > 0 ? "paced" : "back to back", r->m->interrupted ? ", interrupted" : "");
    put_fact(t, "Warm-up and calls", text, false);
    put_fact(t, "Data", r->inputs ? r->inputs : "seeded values", r->inputs != NULL);
}

static void put_provenance(tdn_text *t, const tdn_report *r, const json_t *plan)
{
    char text[128], size[32];
    const char *key;
    json_t *note;
    tdn_text_put(t, "<section><h2>Where these figures come from</h2>\n<table class=\"facts\">\n");
    put_run(t, r);
    put_fact(t, r->session->plan ? "Model, compiled here" : "Plan", r->path, true);
    snprintf(text, sizeof text, "%s, loaded in %.3g ms",
             tdn_scaled((double)r->engine->plan_size, "B", size, sizeof size),
             r->session->load_s * 1e3);
    put_fact(t, "Plan size", text, false);
    put_fact(t, "Built by", tdn_described_text(plan, "plan"), false);
    json_object_foreach(json_object_get(plan, "notes"), key, note)
        put_fact(t, key, json_string_value(note), true);
    tdn_text_put(t, "</table></section>\n");
}

/* ---- The page -------------------------------------------------------------------------------- */

static tdn_status put_page(tdn_text *t, const tdn_report *r, const json_t *plan, tdn_error *error)
{
    tdn_kinds kinds;
    const json_t *program = find_program(r, plan);
    TDN_TRY(tdn_kinds_of(&kinds, r->profile, error));
    put_head(t, r, plan);
    put_figures(t, r);
    TDN_TRY(tdn_report_latency(t, r, error));
    TDN_TRY(tdn_report_steps(t, r, &kinds, program, error));
    TDN_TRY(tdn_report_memory(t, r, &kinds, program, error));
    put_provenance(t, r, plan);
    tdn_text_put(t, "</main></body></html>\n");
    return TDN_OK;
}

tdn_status tdn_report_write(const tdn_report *report, const char *path, tdn_error *error)
{
    json_t *plan;
    tdn_text t = {0};
    TDN_TRY(describe_plan(&plan, report, error));
    tdn_status status = put_page(&t, report, plan, error);
    json_decref(plan);
    if (status == TDN_OK && t.failed)
        status = tdn_fail_nomem(error, "the report");
    if (status == TDN_OK)
        status = tdn_file_write(path, t.data, t.n, error);
    tdn_text_discard(&t);
    return status;
}
