/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log of a run: options, trace, summary, profile, outputs. The wording is trtexec's, since
 * scripts match it; the numbers are those of synchronous runs on a CPU. So "GPU Compute Time" is
 * the computation, wherever it is done; it starts with the call and ends with it, and the calling
 * thread computes, too: enqueue time, compute time and host latency are one and the same, and the
 * times of transfers are 0.
 */
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "base/view.h"
#include "cli/trtexec.h"

#define MOST_TRACE_LINES 200 /* at the beginning, and as many at the end */
#define UNSTABLE_PERCENT 2.5

tdn_status tdn_trtexec_percents(tdn_trtexec_results *r, const char *text, tdn_error *error)
{
    r->n_percents = 0;
    for (const char *at = text;; at++) {
        char *end;
        double p = strtod(at, &end);
        bool good = end != at && (*end == ',' || !*end) && p >= 0 && p <= 100;
        if (!good || r->n_percents == TDN_TRTEXEC_MAX_PERCENTS)
            return tdn_fail(error, TDN_E_ARG,
                            "--percentile=%s: expected at most %d numbers from 0 to 100, as 90,99",
                            text, TDN_TRTEXEC_MAX_PERCENTS);
        r->percents[r->n_percents++] = p;
        at = end;
        if (!*at)
            return TDN_OK;
    }
}

/* ---- Options --------------------------------------------------------------------------------- */

static void title(const char *text)
{
    tdn_trtexec_say('I', "%s", "");
    tdn_trtexec_say('I', "=== %s ===", text);
}

static const char *or_none(const char *text, const char *none) { return text ? text : none; }
static const char *on(bool flag) { return flag ? "Enabled" : "Disabled"; }

static void print_build_options(const tdn_trtexec_args *a, double workspace_gib)
{
    title("Build Options");
    if (workspace_gib > 0)
        tdn_trtexec_say('I', "Memory Pools: workspace: %g MiB", workspace_gib * 1024);
    else
        tdn_trtexec_say('I', "Memory Pools: workspace: default");
    tdn_trtexec_say('I', "Precision: %s", a->int8 ? "INT8" : a->fp16 ? "FP16" : "FP32");
    tdn_trtexec_say('I', "Calibration: %s", a->calib ? a->calib : a->int8 ? "Dynamic" : "");
    tdn_trtexec_say('I', "builderOptimizationLevel: %lld", (long long)a->level);
    tdn_trtexec_say('I', "timingCacheMode: %s", a->timing_cache ? "global" : "local");
    tdn_trtexec_say('I', "timingCacheFile: %s", or_none(a->timing_cache, ""));
    tdn_trtexec_say('I', "Save engine: %s", or_none(a->save_engine, ""));
    tdn_trtexec_say('I', "Load engine: %s", or_none(a->load_engine, ""));
    tdn_trtexec_say('I', "Profiling verbosity: %s", a->verbosity);
    if (a->min_shapes || a->opt_shapes || a->max_shapes)
        tdn_trtexec_say('I', "Input build shapes (profile 0): min %s, opt %s, max %s",
                        or_none(a->min_shapes, "as opt"), or_none(a->opt_shapes, "as max"),
                        or_none(a->max_shapes, "as opt"));
    else
        tdn_trtexec_say('I', "Input build shapes: %s", or_none(a->shapes, "model"));
}

static void print_run_options(const tdn_trtexec_args *a)
{
    title("Inference Options");
    tdn_trtexec_say('I', "Batch: Explicit");
    tdn_trtexec_say('I', "Input inference shapes: %s",
                    or_none(a->shapes, or_none(a->opt_shapes, "model")));
    tdn_trtexec_say('I', "Iterations: %lld", (long long)a->iterations);
    tdn_trtexec_say('I', "Duration: %gs (+ %gms warm up)", a->duration_s, a->warm_up_ms);
    tdn_trtexec_say('I', "Sleep time: %gms", a->sleep_ms);
    tdn_trtexec_say('I', "Idle time: %gms", a->idle_ms);
    tdn_trtexec_say('I', "Inference Streams: 1");
    tdn_trtexec_say('I', "Spin-wait: %s", on(a->spin_wait));
    tdn_trtexec_say('I', "Skip inference: %s", on(a->skip_inference));
    tdn_trtexec_say('I', "Inputs: %s", or_none(a->load_inputs, "random values"));
}

static void print_report_options(const tdn_trtexec_args *a)
{
    title("Reporting Options");
    tdn_trtexec_say('I', "Verbose: %s", on(a->verbose));
    tdn_trtexec_say('I', "Averages: %lld inferences", (long long)a->average_runs);
    tdn_trtexec_say('I', "Percentiles: %s", a->percentiles);
    tdn_trtexec_say('I', "Dump output: %s", on(a->dump_output));
    tdn_trtexec_say('I', "Profile: %s", on(a->dump_profile));
    tdn_trtexec_say('I', "Export timing to JSON file: %s", or_none(a->export_times, ""));
    tdn_trtexec_say('I', "Export output to JSON file: %s", or_none(a->export_output, ""));
    tdn_trtexec_say('I', "Export profile to JSON file: %s", or_none(a->export_profile, ""));
    tdn_trtexec_say('I', "Export layer information to JSON file: %s",
                    or_none(a->export_layers, ""));
}

void tdn_trtexec_print_options(const tdn_trtexec_args *a, double workspace_gib)
{
    title("Model Options");
    tdn_trtexec_say('I', "Format: %s", a->load_engine ? "Plan" : "ONNX");
    tdn_trtexec_say('I', "Model: %s", a->load_engine ? a->load_engine : a->onnx);
    print_build_options(a, workspace_gib);
    title("System Options");
    tdn_trtexec_say('I', "Device: CPU");
    print_run_options(a);
    print_report_options(a);
}

/* ---- Times ----------------------------------------------------------------------------------- */

static double call_ms(const tdn_call_time *call)
{
    return (double)(call->end - call->begin) * 1e-6;
}

static void print_trace(const tdn_measurement *m, size_t n_each)
{
    size_t n_lines = n_each ? m->n / n_each : 0;
    title("Trace details");
    tdn_trtexec_say('I', "Trace averages of %zu runs:", n_each);
    for (size_t line = 0; line < n_lines; line++) {
        double sum = 0;
        if (line == MOST_TRACE_LINES && n_lines > 2 * MOST_TRACE_LINES) {
            tdn_trtexec_say('I', "... Omitting %zu lines", n_lines - 2 * MOST_TRACE_LINES);
            line = n_lines - MOST_TRACE_LINES;
        }
        for (size_t i = 0; i < n_each; i++)
            sum += call_ms(&m->calls[line * n_each + i]);
        double mean = sum / (double)n_each;
        tdn_trtexec_say('I',
                        "Average on %zu runs - GPU latency: %g ms - Host latency: %g ms (enqueue "
                        "%g ms)",
                        n_each, mean, mean, mean);
    }
}

static void print_latency(const char *name, const tdn_latency *l, const tdn_trtexec_results *r)
{
    tdn_latency_print(tdn_trtexec_prefix('I'), name, l, r->percents, r->n_percents);
}

static void print_summary(const tdn_trtexec_results *r, const tdn_latency *l)
{
    const tdn_latency none = {.n = 0};
    double n = (double)r->m->n;
    title("Performance summary");
    tdn_trtexec_say('I', "Throughput: %g qps", r->m->wall_s > 0 ? n / r->m->wall_s : 0);
    print_latency("Latency", l, r);
    print_latency("Enqueue Time", l, r);
    print_latency("H2D Latency", &none, r);
    print_latency("GPU Compute Time", l, r);
    print_latency("D2H Latency", &none, r);
    tdn_trtexec_say('I', "Total Host Walltime: %g s", r->m->wall_s);
    tdn_trtexec_say('I', "Total GPU Compute Time: %g s", l->mean * n * 1e-3);
    double variance = l->mean > 0 ? 100 * l->deviation / l->mean : 0;
    if (variance > UNSTABLE_PERCENT)
        tdn_trtexec_say('W', "* GPU compute time is unstable, with coefficient of variance = %g%%.",
                        variance);
}

static void print_explanations(void)
{
    title("Explanations of the performance metrics");
    tdn_trtexec_say(
        'V', "Runs are synchronous: one begins when the one before it has ended.\n"
             "Throughput: runs by the time from the start of the first to the end of the last.\n"
             "Latency: from the call of a run to its return, host to host.\n"
             "Enqueue Time, GPU Compute Time: the same; the calling thread is one of those that "
             "compute.\n"
             "H2D Latency, D2H Latency: 0, inputs and outputs are used in place.\n"
             "coefficient of variance: standard deviation by mean; other work on the machine and "
             "changes of its clock raise it.");
}

tdn_status tdn_trtexec_print_times(const tdn_trtexec_results *r, tdn_error *error)
{
    const tdn_measurement *m = r->m;
    tdn_latency latency;
    tdn_trtexec_say('I', "Warmup completed %lld queries over %g ms", (long long)m->n_warmup,
                    m->warmup_s * 1e3);
    tdn_trtexec_say('I', "Timing trace has %zu queries over %g s", m->n, m->wall_s);
    if (m->interrupted)
        tdn_trtexec_say('W', "interrupted: the times up to then");
    if (m->n == 0)
        return tdn_fail(error, TDN_E_CHECK, "interrupted before the first measured run");
    TDN_TRY(tdn_measurement_latency(m, false, &latency, error));
    print_trace(m, (size_t)r->args->average_runs);
    print_summary(r, &latency);
    if (r->args->verbose)
        print_explanations();
    fflush(stdout);
    free(latency.sorted);
    return TDN_OK;
}

/* ---- Profile and outputs --------------------------------------------------------------------- */

const char *tdn_trtexec_layer_name(tdn_trtexec_name_fn *name, const void *steps, int index,
                                   char *text, size_t size)
{
    const char *own = name(steps, index);
    int n = 1;
    for (int i = 0; i < index; i++)
        n += strcmp(name(steps, i), own) == 0;
    if (n > 1)
        snprintf(text, size, "%s [%d]", own, n);
    else
        snprintf(text, size, "%s", own);
    return text;
}

static const char *profiled_name(const void *steps, int index)
{
    return ((const tdn_step_info *)steps)[index].name;
}

const char *tdn_trtexec_profile_name(const tdn_profile *profile, int index, char *text, size_t size)
{
    return tdn_trtexec_layer_name(profiled_name, profile->steps, index, text, size);
}

void tdn_trtexec_print_profile(const tdn_profile *p)
{
    double total = 0, medians = 0;
    char name[4096];
    for (int i = 0; i < p->n; i++) {
        total += (double)p->steps[i].total_ns * 1e-6;
        medians += p->median_ms[i];
    }
    tdn_trtexec_say('I', "%s", "");
    tdn_trtexec_say('I', "=== Profile (%lld iterations ) ===", (long long)p->n_calls);
    tdn_trtexec_say('I', "%12s %12s %12s %9s   %s", "Time(ms)", "Avg.(ms)", "Median(ms)", "Time(%)",
                    "Layer");
    for (int i = 0; i < p->n; i++) {
        double ms = (double)p->steps[i].total_ns * 1e-6;
        tdn_trtexec_say('I', "%12.2f %12.4f %12.4f %9.1f   %s", ms, ms / (double)p->n_calls,
                        p->median_ms[i], total > 0 ? 100 * ms / total : 0,
                        tdn_trtexec_profile_name(p, i, name, sizeof name));
    }
    tdn_trtexec_say('I', "%12.2f %12.4f %12.4f %9.1f   Total", total, total / (double)p->n_calls,
                    medians, p->n > 0 ? 100.0 : 0.0);
}

void tdn_trtexec_print_outputs(const tdn_session *s)
{
    char dims[128];
    tdn_trtexec_say('I', "Output Tensors:");
    for (int k = 0; k < s->n_outputs; k++) {
        const tdn_tensor *t = &s->outputs[k].tensor;
        int64_t n = 0;
        tdn_dims_count(t->dims, t->rank, &n);
        tdn_view view = tdn_view_make(t->data, t->dtype, 1, &n);
        tdn_trtexec_say('I', "%s: (%s)", s->outputs[k].name, tdn_tensor_text(t, dims, sizeof dims));
        FILE *out = tdn_trtexec_prefix('I');
        for (int64_t i = 0; i < n; i++)
            fprintf(out, "%s%.9g", i ? " " : "", tdn_view_get(&view, i));
        fputc('\n', out);
    }
}
