/* SPDX-License-Identifier: Apache-2.0 */
/* tendon bench: latency of synchronous calls, a profile by step, and both as JSON. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "cli/cmd.h"
#include "cli/report.h"

typedef struct bench_args {
    tdn_compile_args compile;
    const char *inputs, *json, *report;
    const char *command;                    /* the line as typed */
    int64_t warmup, iterations, spin, seed; /* -1: not given */
    double duration, rate;                  /* 0 (duration: -1): not given */
    bool profile, times, allow_nan;
} bench_args;

#define AT(field) offsetof(bench_args, field)
static const tdn_opt bench_opts[] = {
    {"inputs", 'i', TDN_OPT_TEXT, AT(inputs), "FILE.npz", "samples to run on (else seeded values)",
     0, 0},
    {"warmup", 0, TDN_OPT_INT, AT(warmup), "N", "calls before measuring (10, 200 ms)", 0, 1e9},
    {"iterations", 0, TDN_OPT_INT, AT(iterations), "N", "measure at least N calls (10)", 1, 1e9},
    {"duration", 0, TDN_OPT_REAL, AT(duration), "SECONDS",
     "and at least so long (3; with --iterations 0)", 0, 1e6},
    {"rate", 0, TDN_OPT_REAL, AT(rate), "HZ", "pace the calls; late ones are counted", 1e-3, 1e7},
    {"spin", 0, TDN_OPT_INT, AT(spin), "US", "threads spin (100); 0: paced calls are cold", 0, 1e9},
    {"profile", 0, TDN_OPT_FLAG, AT(profile), NULL, "time the steps, too, in a run of its own", 0,
     0},
    {"json", 0, TDN_OPT_TEXT, AT(json), "FILE", "write the results for tools", 0, 0},
    {"report", 0, TDN_OPT_TEXT, AT(report), "FILE.html", "and as a page for people, with pictures",
     0, 0},
    {"times", 0, TDN_OPT_FLAG, AT(times), NULL, "with --json: the latency of every call", 0, 0},
    {"seed", 0, TDN_OPT_INT, AT(seed), NULL, NULL, 0, 1e15},
    {"allow-nan", 0, TDN_OPT_FLAG, AT(allow_nan), NULL, NULL, 0, 0},
};

static const tdn_usage usage = {
    .synopsis = "bench PLAN|MODEL.onnx [options]",
    .about = "Measures synchronous calls, host to host. Of a plan's programs --shapes chooses.",
    .example = "tendon bench emg.plan --rate=200 --duration=10 --report=emg.html",
    .n_operands_min = 1,
    .n_operands_max = 1,
};

static const double percents[] = {90, 95, 99, 99.9};
enum { N_PERCENTS = sizeof percents / sizeof percents[0] };

/* All that is known at the end. */
typedef struct results {
    const char *path;
    const bench_args *args;
    const tdn_session *session;
    const tdn_feed *feed;
    const tdn_measurement *m;
    tdn_engine_info engine;
    tdn_latency latency, response; /* response: from when a paced call was due */
    tdn_profile profile;
    char quote[512];
} results;

/* ---- Words ----------------------------------------------------------------------------------- */

static void print_setup(const results *r)
{
    char dims[128];
    printf("%s: %s, %d thread%s, loaded in %.3g ms", r->path, r->engine.target,
           tdn_pool_threads(r->session->pool), tdn_pool_threads(r->session->pool) == 1 ? "" : "s",
           r->session->load_s * 1e3);
    for (int i = 0; i < r->feed->n_inputs; i++) {
        tdn_tensor t = tdn_feed_tensor(r->feed, i, 0);
        printf(", %s %s", r->feed->inputs[i].name, tdn_tensor_text(&t, dims, sizeof dims));
    }
    printf("\nWarmup completed %lld queries over %g ms\n", (long long)r->m->n_warmup,
           r->m->warmup_s * 1e3);
    printf("Timing trace has %zu queries over %g s%s\n", r->m->n, r->m->wall_s,
           r->m->interrupted ? " (interrupted)" : "");
}

static int64_t n_missed(const tdn_measurement *m) { return m->n_late + m->n_skipped; }

/* The sentence names what a latency means nothing without: the threads, and on what. */
static void choose_quote(results *r)
{
    char circumstances[96];
    const int threads = tdn_pool_threads(r->session->pool);
    snprintf(circumstances, sizeof circumstances, "%d thread%s, %s", threads,
             threads == 1 ? "" : "s", r->engine.target);
    tdn_measurement_quote(r->m, r->args->rate > 0 ? &r->response : &r->latency, r->args->rate,
                          circumstances, r->quote, sizeof r->quote);
}

static void print_summary(const results *r)
{
    tdn_term out = tdn_term_of(stdout);
    printf("\n=== Performance summary ===\n");
    printf("Throughput: %g qps\n", r->m->wall_s > 0 ? (double)r->m->n / r->m->wall_s : 0);
    tdn_latency_print(stdout, "Latency", &r->latency, percents, N_PERCENTS);
    if (r->args->rate > 0) {
        tdn_latency_print(stdout, "Response", &r->response, percents, N_PERCENTS);
        double n_due = (double)r->m->n + (double)r->m->n_skipped;
        printf(
            "Deadlines: %lld of %.0f missed (%.3g %%) at %g Hz; %lld of these calls were skipped\n",
            (long long)n_missed(r->m), n_due, n_due > 0 ? 100 * (double)n_missed(r->m) / n_due : 0,
            r->args->rate, (long long)r->m->n_skipped);
        printf("CPU time: %.3g %% of a core\n",
               r->m->wall_s > 0 ? 100 * r->m->cpu_s / r->m->wall_s : 0);
    }
    printf("Total Host Walltime: %g s\n", r->m->wall_s);
    printf("%s%s%s\n", tdn_term_on(&out, TDN_BOLD), r->quote, tdn_term_off(&out));
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* A name from a file may not be UTF-8, which JSON must be. */
static json_t *json_text(const char *text)
{
    json_t *o = json_string(text);
    if (o)
        return o;
    char copy[256];
    snprintf(copy, sizeof copy, "%s", text);
    for (char *c = copy; *c; c++)
        *c = (unsigned char)*c < 0x80 ? *c : '?';
    return json_string(copy);
}

static json_t *json_latency(const tdn_latency *l)
{
    json_t *o = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "min", l->min, "max", l->max, "mean",
                          l->mean, "median", l->median, "deviation", l->deviation, "p50",
                          tdn_latency_percentile(l, 50));
    for (int i = 0; i < N_PERCENTS; i++) {
        char key[16];
        snprintf(key, sizeof key, "p%g", percents[i]);
        json_object_set_new(o, key, json_real(tdn_latency_percentile(l, percents[i])));
    }
    return o;
}

static json_t *json_inputs(const tdn_feed *feed)
{
    json_t *list = json_array();
    for (int i = 0; i < feed->n_inputs; i++) {
        tdn_tensor t = tdn_feed_tensor(feed, i, 0);
        json_t *dims = json_array();
        for (int k = 0; k < t.rank; k++)
            json_array_append_new(dims, json_integer(t.dims[k]));
        json_array_append_new(list,
                              json_pack("{s:o, s:s, s:o}", "name", json_text(feed->inputs[i].name),
                                        "dtype", tdn_dtype_name(t.dtype), "dims", dims));
    }
    return list;
}

static json_t *json_machine(const tdn_machine *m)
{
    return json_pack("{s:i, s:f, s:f, s:f, s:I}", "threads", m->n_threads, "fp32_gflops",
                     m->fp32_gflops, "l2_gbs", m->l2_gbs, "memory_gbs", m->memory_gbs, "l2_bytes",
                     (json_int_t)m->l2_size);
}

/* A step of which nothing is counted has neither of the two. */
static void set_ceiling(json_t *step, tdn_ceiling ceiling)
{
    if (ceiling.bound == TDN_BOUND_NONE)
        return;
    json_object_set_new(step, "ceiling_share", json_real(ceiling.share));
    json_object_set_new(step, "bound", json_string(tdn_bound_name(ceiling.bound)));
}

static json_t *json_profile(const tdn_profile *p)
{
    json_t *list = json_array();
    for (int i = 0; i < p->n; i++) {
        const tdn_step_info *s = &p->steps[i];
        double mean = s->n_runs ? (double)s->total_ns / (double)s->n_runs * 1e-6 : 0;
        json_t *step = json_pack(
            "{s:o, s:o, s:f, s:f, s:f, s:I, s:I, s:I, s:I}", "name", json_text(s->name), "kernel",
            json_text(s->kernel), "mean_ms", mean, "min_ms", (double)s->min_ns * 1e-6, "max_ms",
            (double)s->max_ns * 1e-6, "runs", (json_int_t)s->n_runs, "flops", (json_int_t)s->flops,
            "bytes", (json_int_t)s->bytes, "tiles", (json_int_t)s->n_tiles);
        set_ceiling(step, tdn_ceiling_of(&p->machine, s));
        json_array_append_new(list, step);
    }
    return list;
}

static json_t *json_times(const tdn_measurement *m)
{
    json_t *list = json_array();
    for (size_t i = 0; i < m->n; i++)
        json_array_append_new(list,
                              json_real((double)(m->calls[i].end - m->calls[i].begin) * 1e-6));
    return list;
}

static json_t *json_results(const results *r)
{
    json_t *o = json_pack("{s:s, s:o, s:s, s:i, s:o, s:I, s:f, s:I, s:f, s:f, s:b, s:o}", "tendon",
                          tdn_version(), "file", json_text(r->path), "target", r->engine.target,
                          "threads", tdn_pool_threads(r->session->pool), "inputs",
                          json_inputs(r->feed), "warmup_iterations", (json_int_t)r->m->n_warmup,
                          "load_ms", r->session->load_s * 1e3, "iterations", (json_int_t)r->m->n,
                          "walltime_s", r->m->wall_s, "throughput_qps",
                          r->m->wall_s > 0 ? (double)r->m->n / r->m->wall_s : 0.0, "interrupted",
                          r->m->interrupted, "latency_ms", json_latency(&r->latency));
    if (!o)
        return NULL;
    json_object_set_new(o, "plan_bytes", json_integer((json_int_t)r->engine.plan_size));
    json_object_set_new(o, "weights_bytes", json_integer((json_int_t)r->engine.weights_size));
    json_object_set_new(o, "arena_bytes", json_integer((json_int_t)r->engine.arena_size));
    if (r->args->rate > 0) {
        json_object_set_new(o, "response_ms", json_latency(&r->response));
        json_object_set_new(o, "deadlines",
                            json_pack("{s:f, s:f, s:I, s:I, s:I}", "rate_hz", r->args->rate,
                                      "cpu_s", r->m->cpu_s, "missed", (json_int_t)n_missed(r->m),
                                      "late", (json_int_t)r->m->n_late, "skipped",
                                      (json_int_t)r->m->n_skipped));
    }
    if (r->args->profile)
        json_object_set_new(o, "profile", json_profile(&r->profile));
    if (r->args->profile && r->profile.machine.n_threads)
        json_object_set_new(o, "machine", json_machine(&r->profile.machine));
    if (r->args->times)
        json_object_set_new(o, "latencies_ms", json_times(r->m));
    return o;
}

static tdn_status write_json(const results *r, tdn_error *error)
{
    json_t *o = json_results(r);
    char *text = o ? json_dumps(o, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(o);
    if (!text)
        return tdn_fail_nomem(error, "the JSON text");
    tdn_status status = tdn_file_write(r->args->json, text, strlen(text), error);
    free(text);
    return status;
}

/* ---- The command ----------------------------------------------------------------------------- */

static tdn_measure_options measure_options(const bench_args *args, tdn_term *term)
{
    bool calls = args->iterations >= 0, time = args->duration >= 0;
    int64_t default_calls = time ? 1 : 10;
    double default_seconds = calls ? 0 : 3;
    return (tdn_measure_options){
        .warmup_calls = args->warmup >= 0 ? args->warmup : 10,
        .warmup_ns = args->warmup >= 0 ? 0 : 200000000u,
        .n_calls = calls ? args->iterations : default_calls,
        .duration_ns = (uint64_t)(1e9 * (time ? args->duration : default_seconds)),
        .rate = args->rate,
        .spin_ns = args->spin > 0 ? (uint64_t)args->spin * 1000 : 0,
        .warm = args->spin != 0,
        .term = term,
    };
}

static tdn_status write_report(results *r, tdn_session *session, tdn_error *error)
{
    if (r->m->interrupted)
        TDN_TRY(tdn_profile_read(&r->profile, session, error));
    const tdn_report report = {.path = r->path,
                               .command = r->args->command,
                               .inputs = r->args->inputs,
                               .session = session,
                               .feed = r->feed,
                               .m = r->m,
                               .engine = &r->engine,
                               .latency = &r->latency,
                               .response = &r->response,
                               .rate = r->args->rate,
                               .profile = &r->profile,
                               .quote = r->quote};
    TDN_TRY(tdn_report_write(&report, r->args->report, error));
    printf("Report: %s\n", r->args->report);
    return TDN_OK;
}

static tdn_status summarise(results *r, tdn_session *session, tdn_error *error)
{
    print_setup(r);
    if (r->m->n == 0)
        return tdn_fail(error, TDN_E_CHECK, "interrupted before the first measured call");
    choose_quote(r);
    print_summary(r);
    const bool profile = (r->args->profile || r->args->report) && !r->m->interrupted;
    if (profile) {
        int64_t n_calls = r->m->n < 1000 ? (int64_t)r->m->n : 1000;
        tdn_term term = tdn_term_of(stderr);
        tdn_term_bar(&term, "timing the steps", 0);
        tdn_status status = tdn_profile_run(&r->profile, session, r->feed, n_calls, error);
        if (status == TDN_OK)
            status = tdn_profile_measure_machine(&r->profile, session, error);
        tdn_term_clear(&term);
        TDN_TRY(status);
    }
    if (profile && r->args->profile)
        tdn_profile_print(stdout, &r->profile);
    if (r->args->json)
        TDN_TRY(write_json(r, error));
    return r->args->report ? write_report(r, session, error) : TDN_OK;
}

static tdn_status bench(tdn_session *s, const char *path, const bench_args *args,
                        tdn_arrays *arrays, tdn_error *error)
{
    tdn_term term = tdn_term_of(stderr);
    tdn_session_options options = {.compile = &args->compile,
                                   .arrays = arrays,
                                   .allow_nan = args->allow_nan,
                                   .spin_us = (int)args->spin,
                                   .log = &term};
    TDN_TRY(tdn_session_open(s, path, &options, error));
    tdn_feed feed;
    TDN_TRY(tdn_session_feed(s, &feed, &options, 1, (uint64_t)args->seed, error));
    TDN_TRY(tdn_session_pin(s, error));
    tdn_measurement m;
    tdn_measure_options how = measure_options(args, &term);
    tdn_status status = tdn_measure(&m, s, &feed, &how, error);
    results r = {path,     args,     s,        &feed, &m, {.struct_size = sizeof r.engine},
                 {.n = 0}, {.n = 0}, {.n = 0}, ""};
    tdn_engine_get_info(s->engine, &r.engine);
    if (status == TDN_OK)
        status = tdn_measurement_latency(&m, false, &r.latency, error);
    if (status == TDN_OK)
        status = tdn_measurement_latency(&m, true, &r.response, error);
    if (status == TDN_OK)
        status = summarise(&r, s, error);
    free(r.latency.sorted);
    free(r.response.sorted);
    tdn_measurement_free(&m);
    return status;
}

static tdn_status bench_file(const char *path, const bench_args *args, tdn_error *error)
{
    tdn_arrays arrays = {.path = args->inputs};
    if (args->times && !args->json)
        return tdn_fail(error, TDN_E_ARG, "--times goes with --json=FILE");
    if (args->json)
        TDN_TRY(tdn_cmd_check_output(args->json, path, error));
    if (args->report)
        TDN_TRY(tdn_cmd_check_output(args->report, path, error));
    if (args->json && args->report && strcmp(args->json, args->report) == 0)
        return tdn_fail(error, TDN_E_ARG, "--json and --report both go to '%s'", args->json);
    if (args->inputs)
        TDN_TRY(tdn_npz_read(&arrays.npz, args->inputs, error));
    tdn_session session;
    tdn_status status = bench(&session, path, args, args->inputs ? &arrays : NULL, error);
    tdn_session_close(&session);
    tdn_npz_free(&arrays.npz);
    return status;
}

/* "tendon bench a.plan '--inputs=my data.npz'": what a shell would take again. NULL: no memory. */
static char *command_line(int argc, char **argv)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "-_=+./:,@%";
    tdn_text t = {0};
    tdn_text_put(&t, "tendon");
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        const bool is_plain = *arg && !arg[strspn(arg, plain)];
        tdn_text_put(&t, is_plain ? " " : " '");
        for (; *arg; arg++)
            tdn_text_put(&t, *arg == '\'' ? "'\\''" : "%c", *arg);
        tdn_text_put(&t, is_plain ? "" : "'");
    }
    return tdn_text_take(&t);
}

int tdn_cmd_bench(int argc, char **argv)
{
    bench_args args = {.compile = TDN_COMPILE_ARGS_INIT,
                       .warmup = -1,
                       .iterations = -1,
                       .spin = -1,
                       .seed = 1,
                       .duration = -1};
    tdn_opt_set sets[] = {{bench_opts, sizeof bench_opts / sizeof bench_opts[0], &args},
                          {tdn_compile_few_opts, tdn_n_compile_few_opts, &args.compile}};
    tdn_operands operands;
    tdn_error error = {""};
    int code;
    char *command = command_line(argc, argv);
    args.command = command;
    if (tdn_cmd_begin(&usage, sets, 2, argc, argv, &operands, &code))
        code = tdn_cmd_end(bench_file(operands.items[0], &args, &error), &error);
    tdn_text_free(command);
    tdn_opts_free(sets, 2, &operands);
    return code;
}
