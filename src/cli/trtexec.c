/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tendon trtexec, and the binary under that name: builds or loads an engine, measures it, and
 * reports in trtexec's form. What can be checked without work (flags, whether inputs can be read
 * and outputs written) is checked before any work, so that minutes of measuring are not lost to a
 * misspelt path. The log is stdout's; only warnings and errors go to stderr.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/cmd.h"
#include "cli/describe.h"
#include "cli/trtexec.h"

#define SPIN_US 100000 /* of --useSpinWait */
#define MOST_PROFILED 1000

/* What a run of the command needs from its beginning to its end. */
typedef struct job {
    tdn_trtexec_args args;
    tdn_trtexec_results results;
    tdn_arena *arena;
    tdn_model *model;
    tdn_session session;
    tdn_feed feed;
    tdn_measurement m;
    tdn_term term; /* never a terminal: the log is the same everywhere */
    tdn_log_sink sink;
    tdn_compile_args compile;
    const char *lists[4]; /* the shapes in `compile` */
    const char *shapes;   /* to run; NULL: the smallest program's */
} job;

/* ---- Before any work ------------------------------------------------------------------------- */

/* Memory pools by name; only the workspace means something here: it is in GiB then. */
static tdn_status read_pools(const tdn_trtexec_args *args, double *workspace_gib, tdn_error *error)
{
    static const char *const names[] = {"workspace", "dlaSRAM", "dlaLocalDRAM", "dlaGlobalDRAM",
                                        "tacticSharedMem"};
    static const char units[] = "BKMG";
    *workspace_gib = args->workspace_mib / 1024;
    for (const char *at = args->memory_pools; at && *at; at += *at == ',') {
        size_t length = strcspn(at, ":,"), k = 0;
        while (k < 5 && (strlen(names[k]) != length || memcmp(names[k], at, length) != 0))
            k++;
        char *end = NULL;
        double size = at[length] == ':' ? strtod(at + length + 1, &end) : -1;
        const char *unit = end && *end && *end != ',' ? strchr(units, *end) : strchr(units, 'M');
        const char *after = end && unit ? end + (*end && *end != ',') : at;
        if (k == 5 || end == at + length + 1 || !(size >= 0 && size < 1e15) || !unit ||
            (*after && *after != ','))
            return tdn_fail(error, TDN_E_ARG,
                            "--memPoolSize=%s: expected POOL:SIZE,... with sizes as 4096, 512M or "
                            "4G; the pools are workspace, dlaSRAM, dlaLocalDRAM, dlaGlobalDRAM and "
                            "tacticSharedMem",
                            args->memory_pools);
        for (const char *u = units + 3; u > unit; u--)
            size /= 1024;
        if (k == 0)
            *workspace_gib = size;
        else
            tdn_trtexec_say('I', "--memPoolSize: %s changes nothing here: a CPU has none of it",
                            names[k]);
        at = after;
    }
    return TDN_OK;
}

static tdn_status check_calibration(const tdn_trtexec_args *a, tdn_error *error)
{
    if (!a->calib || a->load_engine)
        return TDN_OK;
    if (!a->int8)
        return tdn_fail(error, TDN_E_ARG, "--calib=%s: ranges are for --int8, which is not given",
                        a->calib);
    if (access(a->calib, R_OK) != 0)
        return tdn_fail(error, TDN_E_IO,
                        "--calib: cannot read '%s': %s\n  tendon calibrate makes it from samples",
                        a->calib, strerror(errno));
    return TDN_OK;
}

static tdn_status check_files(const tdn_trtexec_args *a, tdn_error *error)
{
    const struct {
        const char *flag, *path;
    } outputs[] = {{"saveEngine", a->save_engine},       {"timingCacheFile", a->timing_cache},
                   {"exportTimes", a->export_times},     {"exportOutput", a->export_output},
                   {"exportProfile", a->export_profile}, {"exportLayerInfo", a->export_layers}};
    const char *path = a->load_engine ? a->load_engine : a->onnx;
    enum { N = sizeof outputs / sizeof outputs[0] };
    for (int i = 0; i < N; i++) {
        if (outputs[i].path)
            TDN_TRY(tdn_cmd_check_output(outputs[i].path, path, error));
        for (int k = 0; k < i && outputs[i].path; k++)
            if (outputs[k].path && strcmp(outputs[i].path, outputs[k].path) == 0)
                return tdn_fail(error, TDN_E_ARG, "--%s and --%s name the same file: %s",
                                outputs[k].flag, outputs[i].flag, outputs[i].path);
    }
    bool is_plan;
    TDN_TRY(check_calibration(a, error));
    TDN_TRY(tdn_file_is_plan(path, &is_plan, error));
    if (a->load_engine && !is_plan)
        return tdn_fail(error, TDN_E_FORMAT, "--loadEngine: %s is no plan of Tendon%s", path,
                        "\n  engines of TensorRT do not load here: build one from the ONNX model");
    if (!a->load_engine && is_plan)
        return tdn_fail(error, TDN_E_FORMAT, "--onnx: %s is a plan: --loadEngine=%s runs it", path,
                        path);
    return tdn_trtexec_check_inputs(a->load_inputs, error);
}

static tdn_status check_layers(const job *j, tdn_error *error)
{
    const tdn_trtexec_args *a = &j->args;
    tdn_build_options parsed = TDN_BUILD_OPTIONS_INIT;
    if (!a->layer_precisions || a->load_engine)
        return TDN_OK;
    if (!a->int8)
        return tdn_fail(error, TDN_E_ARG,
                        "--layerPrecisions=%s: it goes with --int8, which is not given",
                        a->layer_precisions);
    const char *item = a->layer_precisions;
    return tdn_layers_parse(&(tdn_opt_list){&item, 1}, j->arena, &parsed, error);
}

/* ---- The engine ------------------------------------------------------------------------------ */

static void set_list(tdn_opt_list *list, const char **item)
{
    if (*item)
        *list = (tdn_opt_list){item, 1};
}

/* As `build` would have it. --shapes is for running where there is a range for building. */
static void prepare_compile(job *j, double workspace_gib)
{
    const tdn_trtexec_args *a = &j->args;
    const char **lists = j->lists;
    bool has_range = lists[1] || lists[2] || lists[3];
    j->compile = (tdn_compile_args)TDN_COMPILE_ARGS_INIT;
    j->compile.precision = a->int8 ? "int8" : a->fp16 ? "fp16" : "fp32";
    j->compile.calib = a->calib;
    j->compile.calib_random = a->int8;
    j->compile.default_level = a->level;
    j->compile.timing_cache = a->timing_cache;
    j->compile.threads = a->n_threads;
    j->compile.cores = a->cores;
    j->compile.workspace = workspace_gib;
    j->compile.verbose = a->verbose;
    if (!has_range)
        set_list(&j->compile.shapes, &lists[0]);
    set_list(&j->compile.min_shapes, &lists[1]);
    set_list(&j->compile.opt_shapes, &lists[2]);
    set_list(&j->compile.max_shapes, &lists[3]);
    set_list(&j->compile.layer_precisions, &j->args.layer_precisions);
}

static tdn_status expand_shapes(job *j, const tdn_ports *ports, tdn_error *error)
{
    const tdn_trtexec_args *a = &j->args;
    const char *given[] = {a->shapes, a->min_shapes, a->opt_shapes, a->max_shapes};
    for (int i = 0; i < 4; i++) {
        j->lists[i] = given[i];
        TDN_TRY(tdn_trtexec_expand(&j->lists[i], ports->inputs, ports->n_inputs, j->arena, error));
    }
    j->shapes = j->lists[0];
    /* A range given with the model is also what runs, at its optimum. */
    for (int i = 0; i < 3 && !j->shapes && !a->load_engine; i++)
        j->shapes = j->lists[(int[]){2, 3, 1}[i]];
    return TDN_OK;
}

static tdn_session_options session_options(job *j)
{
    const tdn_trtexec_args *a = &j->args;
    return (tdn_session_options){.compile = &j->compile,
                                 .spin_us = a->spin_wait      ? SPIN_US
                                            : a->no_spin_wait ? 0
                                                              : -1,
                                 .log = &j->term};
}

static tdn_status build_engine(job *j, double workspace_gib, tdn_error *error)
{
    const tdn_trtexec_args *a = &j->args;
    tdn_ports ports;
    uint64_t begin = tdn_now_ns();
    TDN_TRY(tdn_session_load_model(&j->model, a->onnx, NULL, &j->sink, error));
    TDN_TRY(tdn_ports_of_model(&ports, j->model, NULL, 0, j->arena, error));
    TDN_TRY(expand_shapes(j, &ports, error));
    prepare_compile(j, workspace_gib);
    tdn_session_options options = session_options(j);
    tdn_status status =
        tdn_session_open_model(&j->session, j->model, a->onnx, NULL, &options, error);
    if (status == TDN_E_UNSUPPORTED)
        tdn_cmd_hint(error, "tendon inspect MODEL.onnx lists all that is not supported");
    else if (status != TDN_OK && strstr(error->text, "--workspace"))
        tdn_cmd_hint(error, "here that is --memPoolSize=workspace:N, in MiB, or with K, M or G");
    TDN_TRY(status);
    double built_s = (double)(tdn_now_ns() - begin) * 1e-9 - j->session.load_s;
    tdn_trtexec_say('I', "Engine built in %g sec.", built_s);
    tdn_trtexec_say('I', "Created engine with size: %g MiB",
                    (double)j->session.plan_size / (1 << 20));
    if (a->save_engine)
        TDN_TRY(tdn_file_write(a->save_engine, j->session.plan, j->session.plan_size, error));
    if (a->save_engine)
        tdn_trtexec_say('I', "Engine written to %s", a->save_engine);
    return TDN_OK;
}

static tdn_status load_engine(job *j, tdn_error *error)
{
    const tdn_trtexec_args *a = &j->args;
    tdn_ports ports;
    if (a->onnx)
        tdn_trtexec_say('W', "--onnx=%s is not used: the engine is loaded", a->onnx);
    if (a->fp16 || a->int8 || a->calib || a->layer_precisions || a->min_shapes || a->opt_shapes ||
        a->max_shapes || a->memory_pools || a->workspace_mib > 0 || a->timing_cache ||
        a->level != 3)
        tdn_trtexec_say('W', "flags for building change nothing: the engine is built already");
    j->compile = (tdn_compile_args)TDN_COMPILE_ARGS_INIT;
    j->compile.threads = a->n_threads;
    j->compile.cores = a->cores;
    j->compile.verbose = a->verbose;
    tdn_session_options options = session_options(j);
    TDN_TRY(tdn_session_open(&j->session, a->load_engine, &options, error));
    TDN_TRY(tdn_ports_of_engine(&ports, j->session.engine, 0, j->arena, error));
    return expand_shapes(j, &ports, error);
}

static tdn_status describe_plan(const job *j, char **text, tdn_error *error)
{
    return j->args.load_engine
               ? tdn_plan_describe(text, j->args.load_engine, error)
               : tdn_plan_describe_memory(text, j->session.plan, j->session.plan_size, error);
}

static tdn_status say_plan_version(const char *path, tdn_error *error)
{
    char *text;
    TDN_TRY(tdn_plan_describe(&text, path, error));
    json_t *plan = json_loads(text, 0, NULL);
    tdn_text_free(text);
    tdn_trtexec_say('I', "%s", tdn_described_text(plan, "plan"));
    json_decref(plan);
    return TDN_OK;
}

static tdn_status report_layers(job *j, tdn_error *error)
{
    char *text;
    tdn_engine_info info = {.struct_size = sizeof info};
    if (!j->args.dump_layers && !j->args.export_layers)
        return TDN_OK;
    TDN_TRY(tdn_engine_get_info(j->session.engine, &info));
    TDN_TRY(describe_plan(j, &text, error));
    tdn_status status = tdn_trtexec_layers(text, info.target, j->feed.program, j->args.verbosity,
                                           j->args.dump_layers, j->args.export_layers, error);
    tdn_text_free(text);
    return status;
}

/* ---- Running --------------------------------------------------------------------------------- */

static tdn_status say_bindings(job *j, tdn_error *error)
{
    char dims[128];
    tdn_ports ports;
    TDN_TRY(tdn_ports_of_engine(&ports, j->session.engine, j->feed.program, j->arena, error));
    for (int i = 0; i < j->feed.n_inputs; i++)
        tdn_trtexec_say('I', "Input binding for %s with dimensions %s is created.",
                        j->feed.inputs[i].name,
                        tdn_tensor_text(&j->feed.inputs[i].whole, dims, sizeof dims));
    for (int i = 0; i < ports.n_outputs; i++)
        tdn_trtexec_say('I', "Output binding for %s with dimensions %s is created.",
                        ports.outputs[i].name, tdn_dims_text(&ports.outputs[i], dims, sizeof dims));
    return TDN_OK;
}

static void sleep_ms(double ms)
{
    struct timespec t = {.tv_sec = (time_t)(ms / 1e3), .tv_nsec = (long)(1e6 * ms) % 1000000000};
    nanosleep(&t, NULL);
}

static tdn_measure_options measure_options(job *j)
{
    const tdn_trtexec_args *a = &j->args;
    return (tdn_measure_options){
        .n_calls = a->iterations > 0 ? a->iterations : 1,
        .warmup_ns = (uint64_t)(1e6 * a->warm_up_ms),
        .duration_ns = a->duration_s < 0 ? UINT64_MAX : (uint64_t)(1e9 * a->duration_s),
        .idle_ns = (uint64_t)(1e6 * a->idle_ms),
        .term = &j->term,
    };
}

/* Those of the last measured run: only the extents that it decided about are still to be asked. */
static tdn_status report_outputs(job *j, tdn_error *error)
{
    const tdn_trtexec_args *a = &j->args;
    if (!a->dump_output && !a->export_output)
        return TDN_OK;
    for (int i = 0; i < j->session.n_outputs; i++) {
        tdn_session_output *out = &j->session.outputs[i];
        if (out->bounded)
            TDN_TRY(tdn_context_output_dims(j->session.context, out->name, out->tensor.dims));
    }
    if (a->dump_output)
        tdn_trtexec_print_outputs(&j->session);
    return a->export_output ? tdn_trtexec_write_outputs(&j->session, a->export_output, error)
                            : TDN_OK;
}

static tdn_status report_profile(job *j, tdn_error *error)
{
    const tdn_trtexec_args *a = &j->args;
    tdn_profile *p = &j->results.profile;
    if ((!a->dump_profile && !a->export_profile) || j->m.interrupted)
        return TDN_OK;
    int64_t n = j->m.n < MOST_PROFILED ? (int64_t)j->m.n : MOST_PROFILED;
    TDN_TRY(tdn_profile_run(p, &j->session, &j->feed, n, error));
    if (a->dump_profile)
        tdn_trtexec_print_profile(p);
    return a->export_profile ? tdn_trtexec_write_profile(p, a->export_profile, error) : TDN_OK;
}

static tdn_status infer(job *j, tdn_error *error)
{
    const tdn_trtexec_args *a = &j->args;
    tdn_measure_options options = measure_options(j);
    TDN_TRY(say_bindings(j, error));
    tdn_trtexec_say('I', "Starting inference");
    fflush(stdout);
    TDN_TRY(tdn_session_pin(&j->session, error));
    sleep_ms(a->sleep_ms);
    TDN_TRY(tdn_measure(&j->m, &j->session, &j->feed, &options, error));
    TDN_TRY(tdn_trtexec_print_times(&j->results, error));
    if (a->export_times)
        TDN_TRY(tdn_trtexec_write_times(&j->m, a->export_times, error));
    TDN_TRY(report_outputs(j, error));
    return report_profile(j, error);
}

/* ---- The command ----------------------------------------------------------------------------- */

static void say_device(const job *j)
{
    tdn_trtexec_say('I', "%s", "");
    tdn_trtexec_say('I', "=== Device Information ===");
    tdn_trtexec_say('I', "Selected Device: CPU, %s", tdn_target_native());
    if (j->args.n_threads > 0)
        tdn_trtexec_say('I', "Threads: %lld", (long long)j->args.n_threads);
    else
        tdn_trtexec_say('I', "Threads: all cores");
    tdn_trtexec_say('I', "%s", "");
    tdn_trtexec_say('I', "Tendon version: %s", tdn_version());
}

static tdn_status run(job *j, tdn_error *error)
{
    const tdn_trtexec_args *a = &j->args;
    double workspace_gib;
    TDN_TRY(tdn_trtexec_percents(&j->results, a->percentiles, error));
    TDN_TRY(read_pools(a, &workspace_gib, error));
    TDN_TRY(check_files(a, error));
    TDN_TRY(check_layers(j, error));
    tdn_trtexec_print_options(a, workspace_gib);
    say_device(j);
    fflush(stdout);
    if (a->version_only && a->load_engine)
        return say_plan_version(a->load_engine, error);
    TDN_TRY(a->load_engine ? load_engine(j, error) : build_engine(j, workspace_gib, error));
    tdn_trtexec_say('I', "Engine deserialized in %g sec.", j->session.load_s);
    TDN_TRY(tdn_trtexec_feed(&j->feed, &j->session, j->shapes, a->load_inputs, error));
    TDN_TRY(report_layers(j, error));
    if (!a->skip_inference)
        return infer(j, error);
    tdn_trtexec_say('I', "Skipped inference phase since --skipInference is added.");
    if (a->export_times || a->export_output || a->export_profile)
        tdn_trtexec_say('W', "no times, outputs or profile are written: nothing ran");
    return TDN_OK;
}

static tdn_status run_flags(job *j, int argc, char **argv, tdn_error *error)
{
    TDN_TRY(tdn_trtexec_parse(&j->args, argc, argv, error));
    j->sink = (tdn_log_sink){&j->term, j->args.verbose};
    j->arena = tdn_arena_create(NULL);
    return j->arena ? run(j, error) : tdn_fail_nomem(error, "the command");
}

static bool is_given(int argc, char **argv, const char *flag)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], flag) == 0)
            return true;
    return false;
}

int tdn_cmd_trtexec(int argc, char **argv)
{
    if (is_given(argc, argv, "--help=all")) {
        tdn_trtexec_help(stdout);
        return TDN_EXIT_DONE;
    }
    if (is_given(argc, argv, "--help") || is_given(argc, argv, "-h")) {
        tdn_trtexec_help_short(stdout);
        return TDN_EXIT_DONE;
    }
    job j = {.args = TDN_TRTEXEC_ARGS_INIT,
             .term = {.file = stderr, .on_line = tdn_trtexec_library_line}};
    j.results =
        (tdn_trtexec_results){.args = &j.args, .session = &j.session, .feed = &j.feed, .m = &j.m};
    tdn_error error = {""};
    tdn_trtexec_mark("RUNNING", argc, argv);
    tdn_status status = run_flags(&j, argc, argv, &error);
    tdn_measurement_free(&j.m);
    tdn_session_close(&j.session);
    tdn_model_free(j.model);
    tdn_arena_free(j.arena);
    if (status != TDN_OK)
        tdn_trtexec_say('E', "%s", error.text);
    tdn_trtexec_mark(status == TDN_OK ? "PASSED" : "FAILED", argc, argv);
    return status == TDN_OK ? TDN_EXIT_DONE : TDN_EXIT_FAILED;
}
