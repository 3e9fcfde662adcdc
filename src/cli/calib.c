/* SPDX-License-Identifier: Apache-2.0 */
/* Arrays into batches for tdn_calibrate, and where a build's ranges come from. */
#include "cli/calib.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/view.h"
#include "cli/cmd.h"
#include "cli/feed.h"
#include "cli/operators.h"

#define UNCALIBRATED "none: seeded random data"

enum { N_RANDOM = 8, MOST_CHANNELS = 4096, MOST_NAMED = 8 };

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

/* ---- Batches --------------------------------------------------------------------------------- */

/* Data, cut into batches. */
typedef struct samples {
    tdn_arena *arena;
    tdn_arrays arrays; /* path NULL: seeded values */
    tdn_ports ports;   /* with the shapes that the model is compiled for */
    tdn_feed feed;
    tdn_tensor *tensors; /* of the batch at hand */
    tdn_shape_set shapes;
    tdn_calibrate_options options;
} samples;

static tdn_status next_batch(void *user, int64_t batch, const tdn_tensor **inputs, tdn_error *error)
{
    samples *s = user;
    (void)error;
    for (int i = 0; i < s->feed.n_inputs; i++)
        s->tensors[i] = tdn_feed_tensor(&s->feed, i, batch);
    *inputs = s->tensors;
    return TDN_OK;
}

static tdn_array *array_of(samples *s, const char *name)
{
    for (int i = 0; i < s->arrays.npz.n; i++)
        if (strcmp(s->arrays.npz.arrays[i].name, name) == 0)
            return &s->arrays.npz.arrays[i];
    return NULL;
}

/* An axis in front of all of the input's: (64, 1, 200, 8) is (64, 200, 8). */
static void join_front(samples *s, const tdn_ports *model)
{
    for (int i = 0; i < model->n_inputs; i++) {
        tdn_array *a = array_of(s, model->inputs[i].name);
        tdn_tensor *t = a ? &a->tensor : NULL;
        int64_t n = 0;
        if (!t || a->why || model->inputs[i].rank < 1 || t->rank != model->inputs[i].rank + 1 ||
            !tdn_dims_count(t->dims, t->rank, &n) || n == 0)
            continue;
        t->dims[1] *= t->dims[0];
        memmove(t->dims, t->dims + 1, (size_t)--t->rank * sizeof *t->dims);
    }
}

static tdn_status check_filled(samples *s, tdn_error *error)
{
    for (int i = 0; i < s->ports.n_inputs; i++) {
        const tdn_array *a = array_of(s, s->ports.inputs[i].name);
        int64_t n = 0;
        if (tdn_dims_count(a->tensor.dims, a->tensor.rank, &n) && n == 0)
            return tdn_fail(error, TDN_E_FORMAT, "%s: '%s' is empty: there are no samples in it",
                            s->arrays.path, a->name);
    }
    return TDN_OK;
}

/* The shapes of a build's first program, or the optimum of its range. */
static const tdn_shape_set *shapes_of(const tdn_build_options *build)
{
    return build->n_shapes ? &build->shapes[0] : build->opt_shapes;
}

/* What the build will have: shapes given, else the model's, where a symbolic first axis is 1 and
 * others are as the arrays have them. */
static void set_dims(samples *s, tdn_io_info *info, const tdn_shape_set *given)
{
    const tdn_array *a = array_of(s, info->name);
    if (info->rank < 0 && a) {
        info->rank = a->tensor.rank;
        memset(info->dims, 0xff, sizeof info->dims);
    }
    for (int k = 0; k < info->rank; k++)
        if (info->dims[k] < 0)
            info->dims[k] = a && k > 0 && k < a->tensor.rank ? a->tensor.dims[k] : 1;
    for (int k = 0; k < given->n_specs; k++)
        if (strcmp(given->specs[k].input, info->name) == 0) {
            info->rank = given->specs[k].rank;
            memcpy(info->dims, given->specs[k].dims, sizeof info->dims);
        }
}

/* The ports' shapes, and behind them those given for what is no port: states, or a wrong name,
 * which the compiler refuses. */
static tdn_status set_shapes(samples *s, const tdn_ports *model, const tdn_build_options *build,
                             tdn_error *error)
{
    const size_t n = (size_t)model->n_inputs;
    const tdn_shape_set none = {NULL, 0}, *given = shapes_of(build) ? shapes_of(build) : &none;
    tdn_io_info *infos = tdn_arena_alloc(s->arena, n + 1, sizeof *infos);
    tdn_shape_spec *specs =
        tdn_arena_alloc(s->arena, n + (size_t)given->n_specs + 1, sizeof *specs);
    s->tensors = tdn_arena_alloc(s->arena, n + 1, sizeof *s->tensors);
    if (!infos || !specs || !s->tensors)
        return tdn_fail_nomem(error, "the samples");
    for (size_t i = 0; i < n; i++) {
        infos[i] = model->inputs[i];
        set_dims(s, &infos[i], given);
        specs[i] = (tdn_shape_spec){.input = infos[i].name, .rank = infos[i].rank};
        memcpy(specs[i].dims, infos[i].dims, sizeof specs[i].dims);
    }
    s->ports = (tdn_ports){.inputs = infos, .n_inputs = model->n_inputs};
    s->shapes = (tdn_shape_set){specs, model->n_inputs};
    for (int k = 0; k < given->n_specs; k++) {
        bool is_port = false;
        for (size_t i = 0; i < n; i++)
            is_port = is_port || strcmp(infos[i].name, given->specs[k].input) == 0;
        if (!is_port)
            specs[s->shapes.n_specs++] = given->specs[k];
    }
    return TDN_OK;
}

static tdn_status read_arrays(samples *s, const tdn_ports *model, tdn_error *error)
{
    TDN_TRY(tdn_npz_read(&s->arrays.npz, s->arrays.path, error));
    join_front(s, model);
    return tdn_arrays_check(&s->arrays, model, true, error); /* what is NaN, calibrating finds */
}

static tdn_status open_samples(samples *s, const tdn_compile_args *args, tdn_model *model,
                               const tdn_build_options *build, tdn_error *error)
{
    tdn_ports ports;
    const tdn_programs programs = {&s->ports, 1};
    s->arrays.path = args->calib_data;
    TDN_TRY(tdn_ports_of_model(&ports, model, build->states, build->n_states, s->arena, error));
    if (s->arrays.path)
        TDN_TRY(read_arrays(s, &ports, error));
    TDN_TRY(set_shapes(s, &ports, build, error));
    if (!s->arrays.path)
        return tdn_feed_random(&s->feed, &programs, NULL, N_RANDOM, 1, s->arena, error);
    TDN_TRY(check_filled(s, error));
    return tdn_feed_arrays(&s->feed, &programs, &s->arrays, s->arena, error);
}

static void show_progress(void *user, int phase, int n_phases, const char *what, double fraction)
{
    char title[64];
    snprintf(title, sizeof title, "[%d/%d] %s", phase, n_phases, what);
    tdn_term_bar(user, title, fraction);
}

static tdn_status set_options(samples *s, const tdn_compile_args *args,
                              const tdn_build_options *build, tdn_term *term, tdn_error *error)
{
    tdn_calibrate_options *o = &s->options;
    const char *slash = args->calib_data ? strrchr(args->calib_data, '/') : NULL;
    *o = (tdn_calibrate_options)TDN_CALIBRATE_OPTIONS_INIT;
    TDN_TRY(tdn_calib_method_parse(args->calib_method, o, error));
    TDN_TRY(tdn_operators_load(args->operators, &o->operators, &o->n_operators, error));
    o->n_threads = (int32_t)args->threads;
    o->shapes = &s->shapes;
    o->states = build->states;
    o->n_states = build->n_states;
    o->n_batches = s->feed.n_calls;
    o->next = next_batch;
    o->next_user = s;
    o->data_name = slash ? slash + 1 : args->calib_data;
    o->origin = args->calib_data ? NULL : UNCALIBRATED;
    o->log = build->log;
    o->log_user = build->log_user;
    o->progress = show_progress;
    o->progress_user = term;
    return TDN_OK;
}

static void close_samples(samples *s)
{
    tdn_npz_free(&s->arrays.npz);
    tdn_arena_free(s->arena);
}

/* ---- Channels that never change -------------------------------------------------------------- */

/* The axis of channels: the shorter one of the second and the last. */
static int channel_axis(const tdn_tensor *t)
{
    return t->rank < 2 ? -1 : t->dims[1] <= t->dims[t->rank - 1] ? 1 : t->rank - 1;
}

/* Marks the channels that have one value all over; the first values are in `first`. */
static void find_constant(const tdn_view *v, int axis, double *first, bool *is_constant)
{
    int64_t inner = 1;
    const int64_t n = tdn_view_count(v), n_channels = v->dims[axis];
    for (int k = axis + 1; k < v->rank; k++)
        inner *= v->dims[k];
    for (int64_t c = 0; c < n_channels; c++) {
        first[c] = tdn_view_get(v, c * inner);
        is_constant[c] = n > n_channels;
    }
    for (int64_t i = 0; i < n; i++) {
        const int64_t c = i / inner % n_channels;
        is_constant[c] = is_constant[c] && tdn_view_get(v, i) == first[c];
    }
}

static void warn_of_channels(const tdn_tensor *t, const char *name, int axis,
                             const bool *is_constant, const tdn_build_options *build)
{
    char list[128] = "", line[512];
    int n = 0;
    for (int64_t c = 0; c < t->dims[axis]; c++) {
        const size_t used = strlen(list);
        if (is_constant[c] && n++ < MOST_NAMED)
            snprintf(list + used, sizeof list - used, "%s%lld", used ? ", " : "", (long long)c);
    }
    if (n == 0)
        return;
    snprintf(line, sizeof line,
             "input '%.200s' never changes in %d of %lld channels (axis %d, number %s%s): are the "
             "samples whole?",
             name, n, (long long)t->dims[axis], axis, list, n > MOST_NAMED ? ", ..." : "");
    build->log(build->log_user, TDN_LOG_WARNING, line);
}

static tdn_status look_at_channels(const samples *s, const tdn_build_options *build,
                                   tdn_error *error)
{
    for (int i = 0; i < s->feed.n_inputs; i++) {
        const tdn_tensor *t = &s->feed.inputs[i].whole;
        const int axis = channel_axis(t);
        if (axis < 0 || t->dims[axis] > MOST_CHANNELS || t->dtype != TDN_F32)
            continue;
        const size_t n = (size_t)t->dims[axis];
        double *first = tdn_arena_alloc(s->arena, n, sizeof *first);
        bool *is_constant = tdn_arena_alloc(s->arena, n, sizeof *is_constant);
        if (!first || !is_constant)
            return tdn_fail_nomem(error, "the samples");
        const tdn_view view = tdn_view_make(t->data, t->dtype, t->rank, t->dims);
        find_constant(&view, axis, first, is_constant);
        warn_of_channels(t, s->feed.inputs[i].name, axis, is_constant, build);
    }
    return TDN_OK;
}

/* ---- Making ---------------------------------------------------------------------------------- */

static tdn_status make(samples *s, tdn_calibration **calibration, const tdn_compile_args *args,
                       tdn_model *model, const tdn_build_options *build, tdn_term *term,
                       tdn_error *error)
{
    TDN_TRY(open_samples(s, args, model, build, error));
    TDN_TRY(set_options(s, args, build, term, error));
    if (args->calib_data)
        TDN_TRY(look_at_channels(s, build, error));
    const tdn_status status = tdn_calibrate(calibration, model, &s->options, error);
    tdn_term_clear(term);
    return status;
}

tdn_status tdn_calib_make(tdn_calibration **calibration, const tdn_compile_args *args,
                          tdn_model *model, const tdn_build_options *build, tdn_term *term,
                          tdn_error *error)
{
    samples s = {.arena = tdn_arena_create(NULL)};
    *calibration = NULL;
    const tdn_status status = s.arena ? make(&s, calibration, args, model, build, term, error)
                                      : tdn_fail_nomem(error, "the samples");
    close_samples(&s);
    return status;
}

/* ---- Caches ---------------------------------------------------------------------------------- */

/* Of what the command line says nothing about, anything passes. */
static tdn_status check_cache(samples *s, const tdn_calibration *c, const tdn_compile_args *args,
                              tdn_model *model, const tdn_build_options *build, tdn_term *term,
                              tdn_error *error)
{
    tdn_calibration_info info = {.struct_size = sizeof info};
    tdn_compile_args asked = *args;
    TDN_TRY(tdn_calibration_get_info(c, &info));
    if (!*info.graph) {
        char line[900];
        snprintf(line, sizeof line,
                 "%.400s is taken as it is: its origin is unknown, as no %.400s.json says what it "
                 "was made from",
                 args->calib, args->calib);
        build->log(build->log_user, TDN_LOG_WARNING, line);
        return TDN_OK;
    }
    if (!asked.calib_method)
        asked.calib_method = info.method;
    if (asked.calib_data)
        TDN_TRY(open_samples(s, &asked, model, build, error));
    TDN_TRY(set_options(s, &asked, build, term, error));
    if (!asked.calib_data)
        s->options.next = NULL;
    return tdn_calibration_check(c, model, &s->options, error);
}

static tdn_status read_cache(tdn_calibration **calibration, const tdn_compile_args *args,
                             tdn_model *model, const tdn_build_options *build, tdn_term *term,
                             tdn_error *error)
{
    samples s = {.arena = tdn_arena_create(NULL)};
    tdn_status status = s.arena ? tdn_calibration_load(calibration, args->calib, error)
                                : tdn_fail_nomem(error, "the samples");
    if (status == TDN_OK)
        status = check_cache(&s, *calibration, args, model, build, term, error);
    close_samples(&s);
    if (status == TDN_E_FORMAT && strstr(error->text, "is stale")) {
        const tdn_error why = *error;
        tdn_fail(error, status, "%s: %.1900s", args->calib, why.text);
        tdn_cmd_hint(error, "tendon calibrate writes it anew; so does a build with --calib-data "
                            "once it is deleted");
    }
    if (status != TDN_OK) {
        tdn_calibration_free(*calibration);
        *calibration = NULL;
    }
    return status;
}

static tdn_status make_cache(tdn_calibration **calibration, const tdn_compile_args *args,
                             tdn_model *model, const tdn_build_options *build, tdn_term *term,
                             tdn_error *error)
{
    TDN_TRY(tdn_cmd_check_output(args->calib, args->calib_data, error));
    TDN_TRY(tdn_calib_make(calibration, args, model, build, term, error));
    const tdn_status status = tdn_calibration_save(*calibration, args->calib, error);
    if (status != TDN_OK) {
        tdn_calibration_free(*calibration);
        *calibration = NULL;
    }
    return status;
}

static tdn_status check_given(const tdn_compile_args *args, const tdn_build_options *build,
                              tdn_error *error)
{
    tdn_calibrate_options options;
    if (build->precision != TDN_PRECISION_INT8)
        return args->calib || args->calib_data || args->calib_method
                   ? tdn_fail(error, TDN_E_ARG,
                              "--calib, --calib-data and --calib-method are for --precision=int8")
                   : TDN_OK;
    return tdn_calib_method_parse(args->calib_method, &options, error);
}

tdn_status tdn_calib_prepare(tdn_calibration **calibration, const tdn_compile_args *args,
                             tdn_model *model, const tdn_build_options *build, tdn_term *term,
                             tdn_error *error)
{
    *calibration = NULL;
    TDN_TRY(check_given(args, build, error));
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
