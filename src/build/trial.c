/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs of builds over the same batches. Batches are spread evenly over the data; with states, where
 * a batch depends on those before, they are the first ones. Labels are counted over all batches.
 */
#include "build/trial.h"

#include <math.h>
#include <string.h>

#include "base/difference.h"
#include "base/status.h"

enum { MOST_BATCHES = 32 };

/* One walk over the data. */
typedef struct walker {
    tdn_trials *t;
    tdn_probe probe;
    bool is_float32;         /* its outputs are kept; others' are compared */
    bool has_labels;         /* to be counted: every batch is run */
    int classifier;          /* the output that decides */
    tdn_difference *outputs; /* of all batches that are compared */
    int64_t n_right;
} walker;

static tdn_view view_of(const tdn_tensor *t)
{
    return tdn_view_make(t->data, t->dtype, t->rank, t->dims);
}

static bool is_compared(const tdn_trials *t, int64_t batch)
{
    const int64_t of = t->batches.o->n_batches;
    return t->batches.o->n_states > 0 ? batch < t->n_runs
                                      : (batch + 1) * t->n_runs / of > batch * t->n_runs / of;
}

/* ---- Outputs --------------------------------------------------------------------------------- */

static tdn_status keep(const walker *w, int64_t run)
{
    tdn_trials *t = w->t;
    for (int i = 0; i < w->probe.n_outputs; i++) {
        const tdn_view v = view_of(&w->probe.outputs[i]);
        const size_t size = tdn_dtype_size(v.dtype, (size_t)tdn_view_count(&v));
        void *data = tdn_arena_alloc_data(t->arena, size + 1);
        if (!data)
            return tdn_fail_nomem(t->error, "the outputs of float32");
        memcpy(data, v.data, size);
        t->expected[run * t->n_outputs + i] = tdn_tensor_make(data, v.dtype, v.rank, v.dims);
    }
    return TDN_OK;
}

/* Outputs whose extents the data decides may have others in 8 bits: then they are wrong. */
static void compare(walker *w, int64_t run)
{
    for (int i = 0; i < w->probe.n_outputs; i++) {
        const tdn_view is = view_of(&w->probe.outputs[i]),
                       should = view_of(&w->t->expected[run * w->t->n_outputs + i]);
        if (tdn_view_same_dims(&is, &should))
            tdn_difference_add(&w->outputs[i], &is, &should, (tdn_tolerance){0, 0});
        else
            w->outputs[i] = (tdn_difference){.n = 1, .sum = INFINITY, .dd = INFINITY, .bb = 1};
    }
}

/* ---- Labels ---------------------------------------------------------------------------------- */

static tdn_status find_classifier(walker *w)
{
    const tdn_probe *p = &w->probe;
    const int64_t n_batches = w->t->batches.o->n_batches, n = w->t->o->n_labels;
    for (int i = 0; i < p->n_outputs; i++)
        if (p->outputs[i].rank > 0 && !p->bounded[i] && p->outputs[i].dims[0] * n_batches == n) {
            w->classifier = i;
            return TDN_OK;
        }
    return tdn_fail(w->t->error, TDN_E_FORMAT,
                    "%lld labels, but no output has a row for each over the %lld batches of %s",
                    (long long)n, (long long)n_batches, tdn_batches_name(&w->t->batches));
}

static void count_right(walker *w, int64_t batch)
{
    const tdn_view v = view_of(&w->probe.outputs[w->classifier]);
    const int64_t n = v.dims[0], *labels = w->t->o->labels + batch * n;
    for (int64_t row = 0; row < n; row++)
        w->n_right += tdn_decision(&v, row, n) == labels[row];
}

/* ---- Walks ----------------------------------------------------------------------------------- */

static tdn_status run_batch(walker *w, int64_t batch, int64_t run, bool is_one_of_runs)
{
    const tdn_batches *b = &w->t->batches;
    const tdn_tensor *inputs;
    TDN_TRY(tdn_batches_next(b, batch, &inputs));
    for (int i = 0; i < b->n_inputs && w->is_float32; i++)
        TDN_TRY(tdn_batches_check(b, batch, i, &inputs[i]));
    TDN_TRY(tdn_probe_run(&w->probe, batch, inputs));
    if (w->has_labels)
        count_right(w, batch);
    if (is_one_of_runs && w->is_float32)
        return keep(w, run);
    if (is_one_of_runs)
        compare(w, run);
    return TDN_OK;
}

static tdn_status walk(walker *w)
{
    int64_t run = 0;
    if (w->has_labels)
        TDN_TRY(find_classifier(w));
    for (int64_t batch = 0; batch < w->t->batches.o->n_batches; batch++) {
        const bool compared = is_compared(w->t, batch);
        if (compared || w->has_labels)
            TDN_TRY(run_batch(w, batch, run, compared));
        run += compared;
    }
    return TDN_OK;
}

static tdn_status walk_float32(walker *w)
{
    tdn_trials *t = w->t;
    const tdn_build_options build = TDN_BUILD_OPTIONS_INIT;
    TDN_TRY(tdn_probe_open(&w->probe, t->model, &build, &t->batches, t->error));
    t->n_outputs = w->probe.n_outputs;
    t->expected = tdn_arena_alloc(t->arena, (size_t)t->n_runs * (size_t)t->n_outputs + 1,
                                  sizeof *t->expected);
    if (!t->expected)
        return tdn_fail_nomem(t->error, "the outputs of float32");
    TDN_TRY(walk(w));
    t->n_right = w->n_right;
    return TDN_OK;
}

/* ---- Options --------------------------------------------------------------------------------- */

static tdn_status check_options(const tdn_trials *t, const tdn_calibrate_options *samples)
{
    const tdn_budget_options *o = t->o;
    if (o->struct_size < sizeof *o)
        return tdn_fail(t->error, TDN_E_ARG, "options of size %u: use TDN_BUDGET_OPTIONS_INIT",
                        o->struct_size);
    if (o->measure != TDN_BUDGET_RELATIVE && o->measure != TDN_BUDGET_ABSOLUTE &&
        o->measure != TDN_BUDGET_ACCURACY)
        return tdn_fail(t->error, TDN_E_ARG, "there is no measure %d", (int)o->measure);
    if (!(o->budget >= 0 && isfinite(o->budget)))
        return tdn_fail(t->error, TDN_E_ARG, "an accuracy budget of %g: expected 0 or more",
                        o->budget);
    if (o->measure == TDN_BUDGET_ACCURACY && (!o->labels || o->n_labels < 1))
        return tdn_fail(t->error, TDN_E_ARG, "a budget of accuracy needs labels");
    if (o->kept == TDN_PRECISION_INT8 || !tdn_target_multiplies("native", o->kept))
        return tdn_fail(t->error, TDN_E_ARG,
                        "layers are kept in float32, or in halves that this machine multiplies");
    if (!samples->next)
        return tdn_fail(t->error, TDN_E_ARG, "an accuracy budget needs data: samples.next");
    return TDN_OK;
}

tdn_status tdn_trials_begin(tdn_trials *t, tdn_model *model, const tdn_calibration *calibration,
                            const tdn_calibrate_options *samples, const tdn_budget_options *options,
                            tdn_arena *arena, tdn_error *error)
{
    *t = (tdn_trials){
        .model = model, .calibration = calibration, .o = options, .arena = arena, .error = error};
    TDN_TRY(check_options(t, samples));
    TDN_TRY(tdn_batches_open(&t->batches, model, samples, arena, error));
    const int64_t most = options->max_batches > 0 ? options->max_batches : MOST_BATCHES;
    t->n_runs = samples->n_batches < most ? samples->n_batches : most;
    walker w = {.t = t, .is_float32 = true, .has_labels = options->measure == TDN_BUDGET_ACCURACY};
    const tdn_status status = walk_float32(&w);
    tdn_probe_close(&w.probe);
    return status;
}

/* ---- What came of it ------------------------------------------------------------------------- */

static bool is_float(tdn_dtype dtype)
{
    return dtype == TDN_F32 || dtype == TDN_F64 || dtype == TDN_F16 || dtype == TDN_BF16;
}

/* Numbers of classes and the like have no distance: they count where there is nothing else. */
static bool is_judged(const walker *w, int output)
{
    bool any_float = false;
    for (int i = 0; i < w->probe.n_outputs; i++)
        any_float = any_float || is_float(w->probe.outputs[i].dtype);
    return !any_float || is_float(w->probe.outputs[output].dtype);
}

static void judge(const walker *w, tdn_trial *trial)
{
    const tdn_budget_options *o = w->t->o;
    *trial = (tdn_trial){.sqnr = INFINITY};
    for (int i = 0; i < w->probe.n_outputs; i++) {
        const tdn_difference *d = &w->outputs[i];
        if (!is_judged(w, i))
            continue;
        trial->sqnr = fmin(trial->sqnr, tdn_difference_sqnr(d));
        trial->error =
            fmax(trial->error, o->measure == TDN_BUDGET_ABSOLUTE ? tdn_difference_mean(d)
                                                                 : tdn_difference_rms(d));
    }
    if (o->measure == TDN_BUDGET_ACCURACY)
        trial->error =
            w->has_labels ? (double)(w->t->n_right - w->n_right) / (double)o->n_labels : NAN;
}

static tdn_status run(walker *w, const tdn_build_options *build, tdn_trial *trial)
{
    tdn_trials *t = w->t;
    TDN_TRY(tdn_probe_open(&w->probe, t->model, build, &t->batches, t->error));
    w->outputs =
        tdn_arena_alloc(w->probe.arena, (size_t)w->probe.n_outputs + 1, sizeof *w->outputs);
    if (!w->outputs)
        return tdn_fail_nomem(t->error, "the outputs");
    TDN_TRY(walk(w));
    judge(w, trial);
    return TDN_OK;
}

tdn_status tdn_trials_run(tdn_trials *t, const tdn_layer_precision *layers, int32_t n_layers,
                          tdn_product_fn *product, void *user, bool quick, tdn_trial *trial)
{
    tdn_build_options build = TDN_BUILD_OPTIONS_INIT;
    build.precision = TDN_PRECISION_INT8;
    build.calibration = t->calibration;
    build.layer_precisions = layers;
    build.n_layer_precisions = n_layers;
    build.product = product;
    build.product_user = user;
    walker w = {.t = t, .has_labels = t->o->measure == TDN_BUDGET_ACCURACY && !quick};
    const tdn_status status = run(&w, &build, trial);
    tdn_probe_close(&w.probe);
    return status;
}
