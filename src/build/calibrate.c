/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calibration by the public way: the model is built in float32, loaded and run as an application
 * would, with a tap that looks at what each step wrote. So ranges are those of the very values that
 * an engine keeps, and no part of the compiler knows that it is being measured.
 */
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "base/view.h"
#include "build/probe.h"
#include "graph/names.h"
#include "quant/calibration.h"
#include "quant/threshold.h"

enum { N_PHASES = 3 };

typedef struct calibrator {
    tdn_model *model;
    const tdn_calibrate_options *o;
    tdn_batches batches;
    tdn_error *error;
    tdn_arena *arena;
    tdn_probe probe;
    tdn_observed **values; /* in the order in which they were first seen */
    int32_t n_values;
    tdn_names *by_name;
    bool counts; /* the second walk */
    bool out_of_memory;
} calibrator;

static void progress(const calibrator *c, int phase, const char *what, double fraction)
{
    if (c->o->progress)
        c->o->progress(c->o->progress_user, phase, N_PHASES, what, fraction);
}

/* ---- Observing ------------------------------------------------------------------------------- */

static tdn_observed *value_of(calibrator *c, const char *name)
{
    tdn_observed *v = tdn_names_find(c->by_name, name);
    if (v || c->counts)
        return v;
    v = tdn_arena_alloc(c->arena, 1, sizeof *v);
    if ((c->n_values & (c->n_values - 1)) == 0) { /* the room doubles */
        tdn_observed **more = tdn_arena_alloc(c->arena, (size_t)c->n_values * 2 + 1, sizeof *more);
        if (more && c->n_values)
            memcpy(more, c->values, (size_t)c->n_values * sizeof *more);
        c->values = more;
    }
    if (!v || !c->values)
        return NULL;
    v->name = tdn_arena_strdup(c->arena, name);
    if (!v->name || !tdn_names_put(c->by_name, v->name, v))
        return NULL;
    return c->values[c->n_values++] = v;
}

static void observe(calibrator *c, const char *name, const tdn_view *view)
{
    tdn_observed *v = c->out_of_memory ? NULL : value_of(c, name);
    if (v && c->counts)
        tdn_observe_bins(v, view);
    else if (v)
        tdn_observe_range(v, view);
    else
        c->out_of_memory = true;
}

/* Names that begin with '~' the compiler made up: the next version may give them to other values.
 */
static void on_tap(void *user, const tdn_tap *tap)
{
    tdn_view view = {.data = (void *)(uintptr_t)tap->data, .dtype = tap->dtype, .rank = tap->rank};
    if (tap->dtype != TDN_F32 || !tap->name || !*tap->name || *tap->name == '~')
        return;
    memcpy(view.dims, tap->dims, sizeof view.dims);
    memcpy(view.strides, tap->strides, sizeof view.strides);
    observe(user, tap->name, &view);
}

static tdn_status look_at_inputs(calibrator *c, int64_t batch, const tdn_tensor *inputs)
{
    const tdn_batches *b = &c->batches;
    for (int i = 0; i < b->n_inputs; i++) {
        const tdn_tensor *t = &inputs[i];
        const tdn_view view = tdn_view_make(t->data, t->dtype, t->rank, t->dims);
        if (!c->counts)
            TDN_TRY(tdn_batches_check(b, batch, i, t));
        if (t->dtype == TDN_F32)
            observe(c, b->inputs[i], &view);
    }
    if (!c->counts)
        tdn_batches_add(b, batch, inputs);
    return TDN_OK;
}

static tdn_status walk(calibrator *c, int phase, const char *what)
{
    tdn_context_reset(c->probe.context);
    for (int64_t batch = 0; batch < c->o->n_batches; batch++) {
        const tdn_tensor *inputs;
        progress(c, phase, what, (double)batch / (double)c->o->n_batches);
        TDN_TRY(tdn_batches_next(&c->batches, batch, &inputs));
        TDN_TRY(look_at_inputs(c, batch, inputs));
        TDN_TRY(tdn_probe_run(&c->probe, batch, inputs));
        if (c->out_of_memory)
            return tdn_fail_nomem(c->error, "the ranges of values");
    }
    progress(c, phase, what, 1);
    return TDN_OK;
}

static tdn_status begin_counting(calibrator *c)
{
    c->counts = true;
    for (int32_t i = 0; i < c->n_values; i++) {
        c->values[i]->bins = tdn_arena_alloc(c->arena, TDN_OBSERVED_BINS, sizeof(uint64_t));
        if (!c->values[i]->bins)
            return tdn_fail_nomem(c->error, "the ranges of values");
    }
    return TDN_OK;
}

/* ---- The result ------------------------------------------------------------------------------ */

static void warn_of_odd(const calibrator *c, const tdn_observed *v)
{
    char line[400];
    if (v->n_odd == 0 || !c->o->log)
        return;
    snprintf(line, sizeof line,
             "value '%.200s': %llu of %llu numbers are NaN or infinite; the range leaves them out",
             v->name, (unsigned long long)v->n_odd, (unsigned long long)(v->n + v->n_odd));
    c->o->log(c->o->log_user, TDN_LOG_WARNING, line);
}

/* Of nothing but zeros any range is right. */
static tdn_status add_range(const calibrator *c, tdn_calibration *into, const tdn_observed *v)
{
    warn_of_odd(c, v);
    if (v->n == 0)
        return TDN_OK;
    const double amax = tdn_threshold(v, c->o->method, c->batches.percentile);
    return tdn_calibration_add(
        into,
        &(tdn_calibration_range){.name = v->name,
                                 .is_unsigned = v->min >= 0,
                                 .amax = tdn_calibration_round(amax > 0 ? amax : 1),
                                 .min = v->min,
                                 .max = v->max,
                                 .clipped = tdn_threshold_clipped(v, amax)},
        c->error);
}

static tdn_status add_info(const calibrator *c, tdn_calibration *into)
{
    char graph[65], weights[65], data[65];
    tdn_calibration_info *info = &into->info;
    TDN_TRY(tdn_model_identity(c->model, graph, weights, c->error));
    tdn_batches_digest(&c->batches, data);
    const char *method =
        tdn_calibration_method_text(c->o->method, c->batches.percentile, into->arena);
    info->method = method ? method : "";
    info->graph = tdn_arena_strdup(into->arena, graph);
    info->weights = tdn_arena_strdup(into->arena, weights);
    info->data = tdn_arena_strdup(into->arena, data);
    info->version = tdn_arena_strdup(into->arena, tdn_version());
    info->n_batches = c->o->n_batches;
    info->origin =
        c->o->origin
            ? tdn_arena_strdup(into->arena, c->o->origin)
            : tdn_arena_printf(into->arena, "%s, %lld batch%s of %s, sha256 %.12s", info->method,
                               (long long)c->o->n_batches, c->o->n_batches == 1 ? "" : "es",
                               tdn_batches_name(&c->batches), data);
    return tdn_arena_failed(into->arena) ? tdn_fail_nomem(c->error, "a calibration") : TDN_OK;
}

static tdn_status finish(const calibrator *c, tdn_calibration **calibration)
{
    tdn_calibration *made;
    TDN_TRY(tdn_calibration_create(&made, c->n_values, c->model->allocator, c->error));
    tdn_status status = add_info(c, made);
    for (int32_t i = 0; i < c->n_values && status == TDN_OK; i++)
        status = add_range(c, made, c->values[i]);
    if (status == TDN_OK)
        *calibration = made;
    else
        tdn_calibration_free(made);
    return status;
}

static tdn_status calibrate(calibrator *c, tdn_calibration **calibration)
{
    TDN_TRY(tdn_batches_open(&c->batches, c->model, c->o, c->arena, c->error));
    if (!c->o->next)
        return tdn_fail(c->error, TDN_E_ARG, "calibration needs data: options.next");
    c->by_name = tdn_names_create(c->arena);
    if (!c->by_name)
        return tdn_fail_nomem(c->error, "the ranges of values");
    progress(c, 1, "Compiling in float32", 0);
    tdn_build_options build = TDN_BUILD_OPTIONS_INIT;
    build.log = c->o->log;
    build.log_user = c->o->log_user;
    TDN_TRY(tdn_probe_open(&c->probe, c->model, &build, &c->batches, c->error));
    tdn_context_set_tap(c->probe.context, on_tap, c);
    TDN_TRY(walk(c, 2, "Finding ranges"));
    TDN_TRY(begin_counting(c));
    TDN_TRY(walk(c, 3, "Counting"));
    return finish(c, calibration);
}

tdn_status tdn_calibrate(tdn_calibration **calibration, tdn_model *model,
                         const tdn_calibrate_options *options, tdn_error *error)
{
    tdn_error own;
    if (!calibration || !model || !options)
        return tdn_fail(error, TDN_E_ARG,
                        "a model, options, and where to put the calibration, are needed");
    *calibration = NULL;
    calibrator c = {.model = model, .o = options, .error = error ? error : &own};
    c.arena = tdn_arena_create(model->allocator);
    const tdn_status status =
        c.arena ? calibrate(&c, calibration) : tdn_fail_nomem(error, "a calibration");
    tdn_probe_close(&c.probe);
    tdn_arena_free(c.arena);
    return status;
}
