/* SPDX-License-Identifier: Apache-2.0 */
/* tendon calibrate: samples in, the ranges of values out, as a cache and as a table. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"
#include "cli/calib.h"
#include "cli/cmd.h"
#include "cli/session.h"

typedef struct calibrate_args {
    tdn_compile_args compile;
    const char *cache;
    bool json;
} calibrate_args;

#define AT(field) offsetof(calibrate_args, field)
static const tdn_opt calibrate_opts[] = {
    {"calib-data", 0, TDN_OPT_TEXT, AT(compile.calib_data), "FILE.npz",
     "samples: arrays by the names of the inputs", 0, 0},
    {"calib-method", 0, TDN_OPT_TEXT, AT(compile.calib_method), "METHOD",
     "entropy, minmax or percentile[=99.99]", 0, 0},
    {"output", 'o', TDN_OPT_TEXT, AT(cache), "CACHE", "the file to write, for build --calib", 0, 0},
    {"json", 0, TDN_OPT_FLAG, AT(json), NULL, "print the ranges for tools", 0, 0},
    {"shapes", 0, TDN_OPT_LIST, AT(compile.shapes), "NAME:1x3x8,...", "shapes of inputs", 0, 0},
    {"state", 0, TDN_OPT_LIST, AT(compile.states), "IN:OUT",
     "after a run input IN takes output OUT's value", 0, 0},
    {"threads", 0, TDN_OPT_INT, AT(compile.threads), "N",
     "threads, the calling one included (all cores)", 0, 1024},
    {"cores", 0, TDN_OPT_TEXT, AT(compile.cores), "0,1",
     "keep the threads on these cores: 0,1 or 2-5", 0, 0},
    {"operators", 0, TDN_OPT_TEXT, AT(compile.operators), "LIB.so",
     "operators of your own (operator.h)", 0, 0},
    {"verbose", 0, TDN_OPT_FLAG, AT(compile.verbose), NULL, "print what the compiler does", 0, 0},
};

static const tdn_usage usage = {
    .synopsis = "calibrate MODEL.onnx --calib-data=FILE.npz -o CACHE [options]",
    .about = "Runs the model in float32 on samples and chooses for each value inside the range\n"
             "that int8 keeps. CACHE is TensorRT's text form; CACHE.json says what it was made\n"
             "from, so that a stale one is refused.",
    .example = "tendon calibrate emg.onnx --calib-data=calib.npz -o emg.calib",
    .n_operands_min = 1,
    .n_operands_max = 1,
};

/* ---- What was found -------------------------------------------------------------------------- */

static void print_table(const tdn_calibration *c)
{
    tdn_calibration_range r = {.struct_size = sizeof r};
    printf("%12s %12s %12s %10s  %s\n", "min", "max", "range", "clipped", "value");
    for (int i = 0; tdn_calibration_range_at(c, i, &r) == TDN_OK; i++)
        printf("%12.5g %12.5g %s%11.5g %8.4f %%  %s\n", r.min, r.max, r.is_unsigned ? " " : "±",
               r.amax, 100 * r.clipped, r.name);
}

static void put_range(tdn_text *t, const tdn_calibration_range *r)
{
    tdn_json_begin(t, NULL, '{');
    tdn_json_string(t, "name", r->name);
    tdn_json_double(t, "min", r->min);
    tdn_json_double(t, "max", r->max);
    tdn_json_double(t, "amax", r->amax);
    tdn_json_bool(t, "unsigned", r->is_unsigned);
    tdn_json_double(t, "clipped", r->clipped);
    tdn_json_end(t, '}');
}

static tdn_status print_json(const tdn_calibration *c, tdn_error *error)
{
    tdn_calibration_info info = {.struct_size = sizeof info};
    tdn_calibration_range r = {.struct_size = sizeof r};
    tdn_text t = {0};
    TDN_TRY(tdn_calibration_get_info(c, &info));
    tdn_json_begin(&t, NULL, '{');
    tdn_json_string(&t, "origin", info.origin);
    tdn_json_string(&t, "method", info.method);
    tdn_json_int(&t, "n_batches", info.n_batches);
    tdn_json_string(&t, "graph_sha256", info.graph);
    tdn_json_string(&t, "weights_sha256", info.weights);
    tdn_json_string(&t, "data_sha256", info.data);
    tdn_json_begin(&t, "ranges", '[');
    for (int i = 0; tdn_calibration_range_at(c, i, &r) == TDN_OK; i++)
        put_range(&t, &r);
    tdn_json_end(&t, ']');
    tdn_json_end(&t, '}');
    const bool failed = t.failed;
    if (!failed)
        printf("%s\n", t.data);
    tdn_text_discard(&t);
    return failed ? tdn_fail_nomem(error, "the ranges") : TDN_OK;
}

static tdn_status report(const tdn_calibration *c, const calibrate_args *args, double seconds,
                         tdn_error *error)
{
    tdn_calibration_info info = {.struct_size = sizeof info};
    if (args->json)
        return print_json(c, error);
    TDN_TRY(tdn_calibration_get_info(c, &info));
    print_table(c);
    printf("%s\nWrote the ranges of %d values to %s in %.3g s\n", info.origin,
           tdn_calibration_n_ranges(c), args->cache, seconds);
    return TDN_OK;
}

/* ---- The command ----------------------------------------------------------------------------- */

static tdn_status calibrate(tdn_model *model, const calibrate_args *args, tdn_arena *arena,
                            tdn_term *term, tdn_error *error)
{
    tdn_build_options build;
    tdn_calibration *c;
    const uint64_t begin = tdn_now_ns();
    TDN_TRY(tdn_compile_prepare(&args->compile, model, arena, term, &build, error));
    TDN_TRY(tdn_calib_make(&c, &args->compile, model, &build, term, error));
    tdn_status status = tdn_calibration_save(c, args->cache, error);
    if (status == TDN_OK)
        status = report(c, args, (double)(tdn_now_ns() - begin) * 1e-9, error);
    tdn_calibration_free(c);
    return status;
}

static tdn_status calibrate_file(const char *path, const calibrate_args *args, tdn_error *error)
{
    tdn_term term = tdn_term_of(stderr);
    tdn_log_sink sink = {&term, args->compile.verbose};
    tdn_model *model;
    bool is_plan;
    tdn_calibrate_options method;
    if (!args->compile.calib_data)
        return tdn_fail(error, TDN_E_ARG, "which samples? add --calib-data=FILE.npz");
    if (!args->cache)
        return tdn_fail(error, TDN_E_ARG, "where do the ranges go? add -o CACHE");
    TDN_TRY(tdn_calib_method_parse(args->compile.calib_method, &method, error));
    TDN_TRY(tdn_cmd_check_output(args->cache, path, error));
    TDN_TRY(tdn_cmd_check_output(args->cache, args->compile.calib_data, error));
    TDN_TRY(tdn_file_is_plan(path, &is_plan, error));
    if (is_plan)
        return tdn_fail(error, TDN_E_FORMAT, "%s is a plan: calibrate takes an ONNX model", path);
    tdn_arena *arena = tdn_arena_create(NULL);
    if (!arena)
        return tdn_fail_nomem(error, "the command");
    tdn_status status = tdn_session_load_model(&model, path, args->compile.operators, &sink, error);
    if (status == TDN_OK)
        status = calibrate(model, args, arena, &term, error);
    tdn_model_free(model);
    tdn_arena_free(arena);
    return status;
}

int tdn_cmd_calibrate(int argc, char **argv)
{
    calibrate_args args = {.compile = TDN_COMPILE_ARGS_INIT};
    tdn_opt_set sets[] = {
        {calibrate_opts, sizeof calibrate_opts / sizeof calibrate_opts[0], &args}};
    tdn_operands operands;
    tdn_error error = {""};
    int code;
    if (tdn_cmd_begin(&usage, sets, 1, argc, argv, &operands, &code))
        code = tdn_cmd_end(calibrate_file(operands.items[0], &args, &error), &error);
    tdn_opts_free(sets, 1, &operands);
    return code;
}
