/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tendon build: a model in, a plan out, phase by phase. The compiler reports phases 2 to 4 of 5;
 * parsing before it and the summary after it are this file's. A line is printed for every phase,
 * with its time; on a terminal a bar shows what the phase is at.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cli/budget.h"
#include "cli/calib.h"
#include "cli/cmd.h"
#include "cli/describe.h"
#include "cli/operators.h"
#include "cli/session.h"

typedef struct build_args {
    tdn_compile_args compile;
    const char *onnx, *engine, *accuracy_budget, *json;
} build_args;

#define AT(field) offsetof(build_args, field)
static const tdn_opt build_opts[] = {
    {"output", 'o', TDN_OPT_TEXT, AT(engine), "PLAN",
     "the file to write; also --engine, for scripts", 0, 0},
    {"accuracy-budget", 0, TDN_OPT_TEXT, AT(accuracy_budget), "1%",
     "what int8 may cost, else layers wide; --json", 0, 0},
    {"json", 0, TDN_OPT_TEXT, AT(json), "FILE", NULL, 0, 0},
    {"engine", 0, TDN_OPT_TEXT, AT(engine), "PLAN", NULL, 0, 0},
    {"onnx", 0, TDN_OPT_TEXT, AT(onnx), "FILE", NULL, 0, 0},
};

static const tdn_usage usage = {
    .synopsis = "build MODEL.onnx -o PLAN [options]",
    .about = "Compiles an ONNX model to a plan, for this machine or for those of --target.",
    .example = "tendon build emg.onnx -o emg.plan --shapes=emg:1x200x8",
    .n_operands_min = 0,
    .n_operands_max = 1,
};

/* ---- Phases ---------------------------------------------------------------------------------- */

typedef struct phases {
    tdn_term *term; /* stderr: the bar */
    int current;    /* 0: none */
    int n;
    char title[96];
    uint64_t begin;
} phases;

static void phase_end(phases *p)
{
    if (p->current == 0)
        return;
    tdn_term_clear(p->term);
    if (p->term->is_terminal)
        printf("%s ", p->title);
    printf("%.1f ms\n", (double)(tdn_now_ns() - p->begin) * 1e-6);
    fflush(stdout);
    p->current = 0;
}

static void phase_begin(phases *p, int phase, const char *what)
{
    p->current = phase;
    p->begin = tdn_now_ns();
    snprintf(p->title, sizeof p->title, "[%d/%d] %s...", phase, p->n, what);
    if (!p->term->is_terminal)
        printf("%s ", p->title);
    fflush(stdout);
}

static void show_progress(void *user, int phase, int n_phases, const char *what, double fraction)
{
    phases *p = user;
    p->n = n_phases;
    if (phase != p->current) {
        phase_end(p);
        phase_begin(p, phase, what);
    }
    char title[96]; /* of what a phase is at; the phase's own is the one that it began with */
    snprintf(title, sizeof title, "[%d/%d] %s...", phase, p->n, what);
    tdn_term_bar(p->term, title, fraction);
}

/* After a failure the next line is stderr's. */
static void phase_break(const phases *p)
{
    tdn_term_clear(p->term);
    if (p->current && !p->term->is_terminal)
        printf("failed\n");
    fflush(stdout);
}

/* ---- Engine information ---------------------------------------------------------------------- */

static void print_size(const char *title, double bytes)
{
    printf("  %-12s %.3f MB (%.0f bytes)\n", title, bytes * 1e-6, bytes);
}

static void print_program(const json_t *program, size_t number, size_t n_programs)
{
    if (n_programs > 1)
        printf("  Program %zu of %zu\n", number + 1, n_programs);
    tdn_described_ios("  Inputs", 14, json_object_get(program, "inputs"));
    tdn_described_ios("  Outputs", 14, json_object_get(program, "outputs"));
    print_size("Activations", tdn_described_number(program, "arena_size"));
}

static void print_section(const json_t *section)
{
    const json_t *programs = json_object_get(section, "programs"), *program;
    size_t i;
    printf("  %-12s %s\n", "Target", tdn_described_text(section, "target"));
    print_size("Weights", tdn_described_number(section, "weights_size"));
    json_array_foreach(programs, i, program) print_program(program, i, json_array_size(programs));
}

static tdn_status print_plan(const char *path, tdn_error *error)
{
    char *text;
    size_t i;
    const json_t *section;
    TDN_TRY(tdn_plan_describe(&text, path, error));
    json_t *plan = json_loads(text, 0, NULL);
    tdn_text_free(text);
    if (!plan)
        return tdn_fail(error, TDN_E_INTERNAL, "the description of %s is no JSON", path);
    print_size("Engine size", tdn_described_number(plan, "size"));
    json_array_foreach(json_object_get(plan, "sections"), i, section) print_section(section);
    json_decref(plan);
    return TDN_OK;
}

/* Loads what was written, as a device would: a plan that does not load is no success, unless it is
 * for another CPU. */
static tdn_status print_information(const char *path, const char *operators, tdn_error *error)
{
    tdn_engine *engine;
    tdn_engine_options options = TDN_ENGINE_OPTIONS_INIT;
    TDN_TRY(tdn_operators_load(operators, &options.operators, &options.n_operators, error));
    tdn_status status = tdn_engine_load(&engine, path, &options, error);
    tdn_engine_free(engine);
    if (status != TDN_OK && status != TDN_E_TARGET)
        return status;
    printf("[5/5] Engine Information\n");
    TDN_TRY(print_plan(path, error));
    if (status == TDN_E_TARGET)
        printf("  (not for this machine)\n");
    return TDN_OK;
}

/* ---- The command ----------------------------------------------------------------------------- */

static void print_calibration(const tdn_calibration *calibration)
{
    tdn_calibration_info info = {.struct_size = sizeof info};
    if (tdn_calibration_get_info(calibration, &info) == TDN_OK)
        printf("Calibration: %s\n", info.origin);
}

/* In the plan's notes, as the other flags are that decide its bytes. */
static tdn_status note_budget(tdn_build_options *options, const build_args *args, tdn_arena *arena,
                              tdn_error *error)
{
    options->flags =
        tdn_arena_printf(arena, "%s --accuracy-budget=%s", options->flags, args->accuracy_budget);
    return options->flags ? TDN_OK : tdn_fail_nomem(error, "the options");
}

static tdn_status build_within(tdn_model *model, const build_args *args, phases *p,
                               tdn_build_options *options, tdn_arena *arena, tdn_error *error)
{
    tdn_budget *budget = NULL;
    if (args->accuracy_budget) {
        TDN_TRY(note_budget(options, args, arena, error));
        TDN_TRY(tdn_budget_prepare(&budget, args->accuracy_budget, &args->compile, model, options,
                                   p->term, error));
    }
    options->progress = show_progress;
    options->progress_user = p;
    tdn_status status = tdn_build_file(model, options, args->engine, error);
    if (status == TDN_OK && args->json)
        status = tdn_budget_write(budget, args->json, error);
    tdn_budget_free(budget);
    return status;
}

static tdn_status compile(tdn_model *model, const build_args *args, phases *p, tdn_arena *arena,
                          tdn_error *error)
{
    tdn_build_options options;
    TDN_TRY(tdn_compile_prepare(&args->compile, model, arena, p->term, &options, error));
    tdn_calibration *calibration;
    TDN_TRY(tdn_calib_prepare(&calibration, &args->compile, model, &options, p->term, error));
    print_calibration(calibration);
    options.calibration = calibration;
    tdn_status status = build_within(model, args, p, &options, arena, error);
    tdn_calibration_free(calibration);
    if (status != TDN_OK && status != TDN_E_IO && status != TDN_E_ARG)
        return tdn_session_name_file(status, args->onnx, error);
    TDN_TRY(status);
    phase_end(p);
    return print_information(args->engine, args->compile.operators, error);
}

static tdn_status build(const build_args *args, phases *p, tdn_arena *arena, tdn_error *error)
{
    tdn_log_sink sink = {p->term, args->compile.verbose};
    tdn_model *model;
    bool is_plan;
    uint64_t begin = tdn_now_ns();
    phase_begin(p, 1, "Parsing ONNX model");
    TDN_TRY(tdn_file_is_plan(args->onnx, &is_plan, error));
    if (is_plan)
        return tdn_fail(error, TDN_E_FORMAT, "%s is a plan already: build takes an ONNX model",
                        args->onnx);
    TDN_TRY(tdn_session_load_model(&model, args->onnx, args->compile.operators, &sink, error));
    phase_end(p);
    tdn_status status = compile(model, args, p, arena, error);
    tdn_model_free(model);
    if (status == TDN_OK)
        printf("Built %s in %.3f s\n", args->engine, (double)(tdn_now_ns() - begin) * 1e-9);
    return status;
}

static tdn_status check_budget(const build_args *args, tdn_error *error)
{
    TDN_TRY(tdn_budget_check(args->accuracy_budget, &args->compile, error));
    if (!args->json)
        return TDN_OK;
    if (!args->accuracy_budget)
        return tdn_fail(error, TDN_E_ARG, "--json=%s is the report of an --accuracy-budget",
                        args->json);
    if (strcmp(args->json, args->engine) == 0)
        return tdn_fail(error, TDN_E_ARG, "'%s' is to be the plan and the report", args->json);
    TDN_TRY(tdn_cmd_check_output(args->json, args->compile.calib_data, error));
    return tdn_cmd_check_output(args->json, args->onnx, error);
}

static tdn_status build_checked(build_args *args, const tdn_operands *operands, tdn_error *error)
{
    if (operands->n > 0 && args->onnx)
        return tdn_fail(error, TDN_E_ARG, "two models: %s and --onnx=%s", operands->items[0],
                        args->onnx);
    if (operands->n > 0)
        args->onnx = operands->items[0];
    if (!args->onnx)
        return tdn_fail(error, TDN_E_ARG, "which model? usage: tendon %s", usage.synopsis);
    if (!args->engine)
        return tdn_fail(error, TDN_E_ARG, "where does the plan go? add -o FILE.plan");
    TDN_TRY(tdn_cmd_check_output(args->engine, args->onnx, error));
    const char *cache = args->compile.timing_cache;
    if (cache && strcmp(cache, args->engine) == 0)
        return tdn_fail(error, TDN_E_ARG, "'%s' is to be the plan and the timing cache", cache);
    if (cache)
        TDN_TRY(tdn_cmd_check_output(cache, args->onnx, error));
    const char *calib = args->compile.calib;
    if (calib && (strcmp(calib, args->engine) == 0 || (cache && strcmp(calib, cache) == 0)))
        return tdn_fail(error, TDN_E_ARG, "'%s' is to be the calibration and another file", calib);
    TDN_TRY(check_budget(args, error));
    tdn_term term = tdn_term_of(stderr);
    phases p = {.term = &term, .n = 5};
    tdn_arena *arena = tdn_arena_create(NULL);
    if (!arena)
        return tdn_fail_nomem(error, "the build");
    tdn_status status = build(args, &p, arena, error);
    if (status != TDN_OK)
        phase_break(&p);
    if (status == TDN_E_UNSUPPORTED && strstr(error->text, "not supported"))
        tdn_cmd_hint(error, "tendon inspect MODEL.onnx lists all that is not supported");
    tdn_arena_free(arena);
    return status;
}

int tdn_cmd_build(int argc, char **argv)
{
    build_args args = {.compile = TDN_COMPILE_ARGS_INIT};
    tdn_opt_set sets[] = {{build_opts, sizeof build_opts / sizeof build_opts[0], &args},
                          {tdn_compile_opts, tdn_n_compile_opts, &args.compile}};
    tdn_operands operands;
    tdn_error error = {""};
    int code;
    if (tdn_cmd_begin(&usage, sets, 2, argc, argv, &operands, &code))
        code = tdn_cmd_end(build_checked(&args, &operands, &error), &error);
    tdn_opts_free(sets, 2, &operands);
    return code;
}
