/* SPDX-License-Identifier: Apache-2.0 */
/* Methods by their names, and where a build's ranges come from. */
#include "cli/calib.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cmd.h"
#include "cli/operators.h"

#define UNCALIBRATED "none: seeded random data"

tdn_status tdn_calib_method_parse(const char *text, tdn_calibrate_options *o, tdn_error *error)
{
    static const char percentile[] = "percentile=";
    char *end = NULL;
    o->percentile = 0;
    if (!text || strcmp(text, "entropy") == 0) {
        o->method = TDN_CALIBRATION_ENTROPY;
        return TDN_OK;
    }
    if (strcmp(text, "minmax") == 0) {
        o->method = TDN_CALIBRATION_MINMAX;
        return TDN_OK;
    }
    o->method = TDN_CALIBRATION_PERCENTILE;
    if (strcmp(text, "percentile") == 0)
        return TDN_OK;
    if (strncmp(text, percentile, sizeof percentile - 1) == 0)
        o->percentile = strtod(text + sizeof percentile - 1, &end);
    if (end && end > text + sizeof percentile - 1 && !*end && o->percentile >= 50 &&
        o->percentile <= 100)
        return TDN_OK;
    return tdn_fail(
        error, TDN_E_ARG,
        "--calib-method=%s: expected entropy, minmax, percentile or percentile=P with P "
        "from 50 to 100",
        text);
}

/* ---- Making ---------------------------------------------------------------------------------- */

static void show_progress(void *user, int phase, int n_phases, const char *what, double fraction)
{
    char title[64];
    snprintf(title, sizeof title, "[%d/%d] %s", phase, n_phases, what);
    tdn_term_bar(user, title, fraction);
}

tdn_status tdn_calib_options(tdn_calibrate_options *o, tdn_samples *s, const tdn_compile_args *args,
                             const tdn_build_options *build, tdn_term *term, tdn_error *error)
{
    const char *slash = s->arrays.path ? strrchr(s->arrays.path, '/') : NULL;
    *o = (tdn_calibrate_options)TDN_CALIBRATE_OPTIONS_INIT;
    TDN_TRY(tdn_calib_method_parse(args->calib_method, o, error));
    TDN_TRY(tdn_operators_load(args->operators, &o->operators, &o->n_operators, error));
    o->n_threads = (int32_t)args->threads;
    o->shapes = &s->shapes;
    o->states = build->states;
    o->n_states = build->n_states;
    o->n_batches = s->feed.n_calls;
    o->next = tdn_samples_next;
    o->next_user = s;
    o->data_name = slash ? slash + 1 : s->arrays.path;
    o->origin = s->arrays.path ? NULL : UNCALIBRATED;
    o->log = build->log;
    o->log_user = build->log_user;
    o->progress = show_progress;
    o->progress_user = term;
    return TDN_OK;
}

static tdn_status make(tdn_calibration **calibration, tdn_samples *s, const tdn_compile_args *args,
                       tdn_model *model, const tdn_build_options *build, tdn_term *term,
                       tdn_error *error)
{
    tdn_calibrate_options options;
    TDN_TRY(tdn_samples_open(s, args->calib_data, model, build, error));
    TDN_TRY(tdn_calib_options(&options, s, args, build, term, error));
    if (args->calib_data)
        TDN_TRY(tdn_samples_check_channels(s, build, error));
    const tdn_status status = tdn_calibrate(calibration, model, &options, error);
    tdn_term_clear(term);
    return status;
}

tdn_status tdn_calib_make(tdn_calibration **calibration, const tdn_compile_args *args,
                          tdn_model *model, const tdn_build_options *build, tdn_term *term,
                          tdn_error *error)
{
    tdn_samples s;
    *calibration = NULL;
    const tdn_status status = make(calibration, &s, args, model, build, term, error);
    tdn_samples_close(&s);
    return status;
}

/* ---- Caches ---------------------------------------------------------------------------------- */

static void warn_of_origin(const char *path, const tdn_build_options *build)
{
    char line[900];
    snprintf(line, sizeof line,
             "%.400s is taken as it is: its origin is unknown, as no %.400s.json says what it was "
             "made from",
             path, path);
    build->log(build->log_user, TDN_LOG_WARNING, line);
}

/* Of what the command line says nothing about, anything passes. */
static tdn_status check_cache(const tdn_calibration *c, const tdn_compile_args *args,
                              tdn_model *model, const tdn_build_options *build, tdn_term *term,
                              tdn_error *error)
{
    tdn_calibration_info info = {.struct_size = sizeof info};
    tdn_calibrate_options options = TDN_CALIBRATE_OPTIONS_INIT;
    tdn_compile_args asked = *args;
    tdn_samples s;
    TDN_TRY(tdn_calibration_get_info(c, &info));
    if (!*info.graph) {
        warn_of_origin(args->calib, build);
        return TDN_OK;
    }
    if (!asked.calib_method)
        asked.calib_method = info.method;
    if (!asked.calib_data) {
        TDN_TRY(tdn_calib_method_parse(asked.calib_method, &options, error));
        return tdn_calibration_check(c, model, &options, error);
    }
    tdn_status status = tdn_samples_open(&s, asked.calib_data, model, build, error);
    if (status == TDN_OK)
        status = tdn_calib_options(&options, &s, &asked, build, term, error);
    if (status == TDN_OK)
        status = tdn_calibration_check(c, model, &options, error);
    tdn_samples_close(&s);
    return status;
}

/* Frees what did not hold. */
static tdn_status keep(tdn_calibration **calibration, tdn_status status)
{
    if (status != TDN_OK) {
        tdn_calibration_free(*calibration);
        *calibration = NULL;
    }
    return status;
}

static tdn_status read_cache(tdn_calibration **calibration, const tdn_compile_args *args,
                             tdn_model *model, const tdn_build_options *build, tdn_term *term,
                             tdn_error *error)
{
    TDN_TRY(tdn_calibration_load(calibration, args->calib, error));
    const tdn_status status = check_cache(*calibration, args, model, build, term, error);
    if (status == TDN_E_FORMAT && strstr(error->text, "is stale")) {
        const tdn_error why = *error;
        tdn_fail(error, status, "%s: %.1900s", args->calib, why.text);
        tdn_cmd_hint(error, "tendon calibrate writes it anew; so does a build with --calib-data "
                            "once it is deleted");
    }
    return keep(calibration, status);
}

static tdn_status make_cache(tdn_calibration **calibration, const tdn_compile_args *args,
                             tdn_model *model, const tdn_build_options *build, tdn_term *term,
                             tdn_error *error)
{
    TDN_TRY(tdn_cmd_check_output(args->calib, args->calib_data, error));
    TDN_TRY(tdn_calib_make(calibration, args, model, build, term, error));
    return keep(calibration, tdn_calibration_save(*calibration, args->calib, error));
}

static tdn_status check_given(const tdn_compile_args *args, const tdn_build_options *build,
                              tdn_error *error)
{
    tdn_calibrate_options options;
    const bool of_halves = build->precision == TDN_PRECISION_FP16;
    if (build->precision != TDN_PRECISION_INT8)
        return args->calib || args->calib_method || (args->calib_data && !of_halves)
                   ? tdn_fail(error, TDN_E_ARG,
                              "--calib, --calib-data and --calib-method are for --precision=int8; "
                              "--calib-data for fp16 too")
                   : TDN_OK;
    return tdn_calib_method_parse(args->calib_method, &options, error);
}

/* How far values reach, where fp16 would overflow; on random data where there are no samples. */
static tdn_status find_ranges(tdn_calibration **calibration, const tdn_compile_args *args,
                              tdn_model *model, const tdn_build_options *build, tdn_term *term,
                              tdn_error *error)
{
    bool multiplies = build->n_targets > 0 || tdn_target_multiplies(NULL, build->precision);
    for (int i = 0; i < build->n_targets; i++)
        multiplies = multiplies && tdn_target_multiplies(build->targets[i], build->precision);
    if (!multiplies && !args->calib_data)
        return TDN_OK; /* weights alone are halves then */
    tdn_compile_args asked = *args;
    asked.calib_method = "minmax";
    return tdn_calib_make(calibration, &asked, model, build, term, error);
}

tdn_status tdn_calib_prepare(tdn_calibration **calibration, const tdn_compile_args *args,
                             tdn_model *model, const tdn_build_options *build, tdn_term *term,
                             tdn_error *error)
{
    *calibration = NULL;
    TDN_TRY(check_given(args, build, error));
    if (build->precision == TDN_PRECISION_FP16)
        return find_ranges(calibration, args, model, build, term, error);
    if (build->precision != TDN_PRECISION_INT8)
        return TDN_OK;
    if (args->calib && access(args->calib, F_OK) == 0)
        return read_cache(calibration, args, model, build, term, error);
    if (args->calib && args->calib_data)
        return make_cache(calibration, args, model, build, term, error);
    if (args->calib)
        return tdn_fail(error, TDN_E_IO,
                        "there is no file '%s': --calib-data=FILE.npz makes it from samples",
                        args->calib);
    if (args->calib_data)
        return tdn_calib_make(calibration, args, model, build, term, error);
    if (tdn_model_has_scales(model))
        return TDN_OK;
    if (!args->calib_random)
        return tdn_fail(error, TDN_E_ARG,
                        "int8 needs sample data: --calib-data=FILE.npz, a cache made from it: "
                        "--calib=FILE, or a model that carries its own scales");
    build->log(build->log_user, TDN_LOG_WARNING,
               "int8 without calibration: ranges come from random data, so times are right and "
               "outputs mean nothing; tendon calibrate makes a cache from samples");
    return tdn_calib_make(calibration, args, model, build, term, error);
}
