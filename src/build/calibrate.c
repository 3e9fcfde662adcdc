/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calibration by the public way: the model is built in float32, loaded and run as an application
 * would, with a tap that looks at what each step wrote. So ranges are those of the very values that
 * an engine keeps, and no part of the compiler knows that it is being measured.
 *
 * The order of batches leaves no trace: ranges and counts do not depend on it, and the data's hash
 * is one of the batches' sorted hashes. With states batches depend on those before, and it is one
 * of their hashes in order.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/status.h"
#include "base/view.h"
#include "build/model.h"
#include "graph/names.h"
#include "quant/calibration.h"
#include "quant/threshold.h"

#define DEFAULT_PERCENTILE 99.99

enum { N_PHASES = 3, DIGEST_SIZE = 32, MAX_BATCHES = 1 << 26 };

typedef struct calibrator {
    tdn_model *model;
    const tdn_calibrate_options *o;
    double percentile;
    tdn_error *error;
    tdn_arena *arena;
    void *plan;
    tdn_engine *engine;
    tdn_pool *pool;
    tdn_context *context;
    const char **inputs; /* names, as `next` hands them out */
    int n_inputs;
    uint8_t *digests;      /* one a batch */
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

static const char *data_name(const calibrator *c)
{
    return c->o->data_name ? c->o->data_name : "data";
}

/* ---- Options --------------------------------------------------------------------------------- */

static tdn_status check_options(calibrator *c)
{
    const tdn_calibrate_options *o = c->o;
    c->percentile = o->percentile == 0 ? DEFAULT_PERCENTILE : o->percentile;
    if (o->struct_size < sizeof *o)
        return tdn_fail(c->error, TDN_E_ARG, "options of size %u: use TDN_CALIBRATE_OPTIONS_INIT",
                        o->struct_size);
    if (o->method != TDN_CALIBRATION_ENTROPY && o->method != TDN_CALIBRATION_MINMAX &&
        o->method != TDN_CALIBRATION_PERCENTILE)
        return tdn_fail(c->error, TDN_E_ARG, "there is no calibration method %d", (int)o->method);
    if (!(c->percentile >= 50 && c->percentile <= 100))
        return tdn_fail(c->error, TDN_E_ARG, "a percentile of %g: expected 50 to 100",
                        c->percentile);
    if (o->next && (o->n_batches < 1 || o->n_batches > MAX_BATCHES))
        return tdn_fail(c->error, TDN_E_ARG, "%lld batches of data: expected 1 to %d",
                        (long long)o->n_batches, MAX_BATCHES);
    return TDN_OK;
}

static bool is_state(const tdn_calibrate_options *o, const char *input)
{
    for (int i = 0; i < o->n_states; i++)
        if (strcmp(o->states[i].input, input) == 0)
            return true;
    return false;
}

static tdn_status list_inputs(calibrator *c)
{
    const int n = tdn_model_n_inputs(c->model);
    c->inputs = tdn_arena_alloc(c->arena, (size_t)n + 1, sizeof *c->inputs);
    for (int i = 0; i < n && c->inputs; i++) {
        tdn_model_io io = {.struct_size = sizeof io};
        TDN_TRY(tdn_model_input(c->model, i, &io));
        if (!is_state(c->o, io.name))
            c->inputs[c->n_inputs++] = io.name;
    }
    return c->inputs ? TDN_OK : tdn_fail_nomem(c->error, "the inputs");
}

/* ---- Identity of the data -------------------------------------------------------------------- */

static void digest_batch(const calibrator *c, const tdn_tensor *inputs, uint8_t *digest)
{
    tdn_sha256 hash;
    tdn_sha256_begin(&hash);
    for (int i = 0; i < c->n_inputs; i++) {
        const tdn_tensor *t = &inputs[i];
        const tdn_view view = tdn_view_make(t->data, t->dtype, t->rank, t->dims);
        const int64_t head[] = {t->dtype, t->rank};
        tdn_sha256_add(&hash, c->inputs[i], strlen(c->inputs[i]) + 1);
        tdn_sha256_add(&hash, head, sizeof head);
        tdn_sha256_add(&hash, t->dims, (size_t)t->rank * sizeof *t->dims);
        tdn_sha256_add(&hash, t->data, tdn_dtype_size(t->dtype, (size_t)tdn_view_count(&view)));
    }
    tdn_sha256_end(&hash, digest);
}

static int by_bytes(const void *a, const void *b) { return memcmp(a, b, DIGEST_SIZE); }

static void digest_data(const calibrator *c, char text[65])
{
    tdn_sha256 hash;
    uint8_t digest[DIGEST_SIZE];
    const size_t n = (size_t)c->o->n_batches;
    if (c->o->n_states == 0)
        qsort(c->digests, n, DIGEST_SIZE, by_bytes);
    tdn_sha256_begin(&hash);
    tdn_sha256_add(&hash, c->digests, n * DIGEST_SIZE);
    tdn_sha256_end(&hash, digest);
    tdn_sha256_text(digest, text);
}

/* The tensors of a batch, once they are what they should be. */
static tdn_status next_batch(const calibrator *c, int64_t batch, const tdn_tensor **inputs)
{
    *inputs = NULL;
    TDN_TRY(c->o->next(c->o->next_user, batch, inputs, c->error));
    for (int i = 0; i < c->n_inputs; i++) {
        const tdn_tensor *t = *inputs ? &(*inputs)[i] : NULL;
        int64_t n;
        if (!t || t->rank < 0 || t->rank > TDN_MAX_RANK || !tdn_dims_count(t->dims, t->rank, &n) ||
            (!t->data && n > 0))
            return tdn_fail(c->error, TDN_E_ARG, "batch %lld has no tensor for input '%s'",
                            (long long)batch, c->inputs[i]);
    }
    return TDN_OK;
}

static tdn_status make_room(calibrator *c)
{
    c->digests = tdn_arena_alloc(c->arena, (size_t)c->o->n_batches, DIGEST_SIZE);
    return c->digests ? TDN_OK : tdn_fail_nomem(c->error, "the data");
}

/* ---- Engine ---------------------------------------------------------------------------------- */

static tdn_status open_engine(calibrator *c)
{
    size_t size;
    tdn_build_options build = TDN_BUILD_OPTIONS_INIT;
    tdn_engine_options engine = TDN_ENGINE_OPTIONS_INIT;
    tdn_pool_options pool = TDN_POOL_OPTIONS_INIT;
    tdn_context_options context = TDN_CONTEXT_OPTIONS_INIT;
    build.optimization_level = 0;
    build.n_threads = pool.n_threads = c->o->n_threads;
    build.shapes = c->o->shapes;
    build.n_shapes = c->o->shapes ? 1 : 0;
    build.states = c->o->states;
    build.n_states = c->o->n_states;
    build.log = engine.log = c->o->log;
    build.log_user = engine.log_user = c->o->log_user;
    engine.allocator = pool.allocator = c->model->allocator;
    engine.operators = c->o->operators;
    engine.n_operators = c->o->n_operators;
    TDN_TRY(tdn_build(c->model, &build, &c->plan, &size, c->error));
    TDN_TRY(tdn_engine_load_memory(&c->engine, c->plan, size, &engine, c->error));
    TDN_TRY(tdn_pool_create(&c->pool, &pool, c->error));
    context.pool = c->pool;
    return tdn_context_create(&c->context, c->engine, &context, c->error);
}

static tdn_status fail_context(const calibrator *c, tdn_status status)
{
    return tdn_fail(c->error, status, "%s", tdn_context_error(c->context));
}

static tdn_status bind(const calibrator *c, const char *name, const tdn_tensor *t)
{
    const tdn_status status = tdn_context_bind(c->context, name, t);
    return status == TDN_OK ? TDN_OK : fail_context(c, status);
}

static tdn_status bind_outputs(const calibrator *c)
{
    for (int i = 0; i < tdn_engine_n_outputs(c->engine); i++) {
        tdn_io_info info = {.struct_size = sizeof info};
        int64_t n;
        TDN_TRY(tdn_engine_output(c->engine, 0, i, &info));
        if (!tdn_dims_count(info.dims, info.rank, &n))
            return tdn_fail_nomem(c->error, "the outputs");
        void *data = tdn_arena_alloc_data(c->arena, tdn_dtype_size(info.dtype, (size_t)n));
        if (!data)
            return tdn_fail_nomem(c->error, "the outputs");
        const tdn_tensor t = tdn_tensor_make(data, info.dtype, info.rank, info.dims);
        TDN_TRY(bind(c, info.name, &t));
    }
    return TDN_OK;
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

static bool is_float(tdn_dtype dtype)
{
    return dtype == TDN_F32 || dtype == TDN_F64 || dtype == TDN_F16 || dtype == TDN_BF16;
}

/* Of an input every number counts: one that is none is a defect of the data. */
static tdn_status check_finite(const calibrator *c, int input, int64_t batch, const tdn_view *view)
{
    const int64_t n = is_float(view->dtype) ? tdn_view_count(view) : 0;
    for (int64_t i = 0; i < n; i++) {
        const double x = tdn_view_get(view, i);
        if (isfinite(x))
            continue;
        return tdn_fail(c->error, TDN_E_FORMAT,
                        "%s: input '%s' is %s at element %lld of batch %lld: calibration needs "
                        "finite numbers",
                        data_name(c), c->inputs[input], isnan(x) ? "NaN" : "infinite", (long long)i,
                        (long long)batch);
    }
    return TDN_OK;
}

static tdn_status take_inputs(calibrator *c, int64_t batch)
{
    const tdn_tensor *inputs;
    TDN_TRY(next_batch(c, batch, &inputs));
    for (int i = 0; i < c->n_inputs; i++) {
        const tdn_tensor *t = &inputs[i];
        const tdn_view view = tdn_view_make(t->data, t->dtype, t->rank, t->dims);
        TDN_TRY(bind(c, c->inputs[i], t));
        if (!c->counts)
            TDN_TRY(check_finite(c, i, batch, &view));
        if (t->dtype == TDN_F32)
            observe(c, c->inputs[i], &view);
    }
    if (!c->counts)
        digest_batch(c, inputs, c->digests + batch * DIGEST_SIZE);
    return TDN_OK;
}

static tdn_status walk(calibrator *c, int phase, const char *what)
{
    tdn_context_reset(c->context);
    for (int64_t batch = 0; batch < c->o->n_batches; batch++) {
        progress(c, phase, what, (double)batch / (double)c->o->n_batches);
        TDN_TRY(take_inputs(c, batch));
        const tdn_status status = tdn_context_run(c->context);
        if (status != TDN_OK)
            return tdn_fail_while(c->error, fail_context(c, status), "running batch %lld",
                                  (long long)batch);
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
    const double amax = tdn_threshold(v, c->o->method, c->percentile);
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

static tdn_status digest_model(tdn_model *model, char graph[65], char weights[65], tdn_error *error)
{
    uint8_t nodes[DIGEST_SIZE], elements[DIGEST_SIZE];
    TDN_TRY(tdn_onnx_digest(model->onnx, nodes, elements, error));
    tdn_sha256_text(nodes, graph);
    tdn_sha256_text(elements, weights);
    return TDN_OK;
}

static tdn_status add_info(const calibrator *c, tdn_calibration *into)
{
    char graph[65], weights[65], data[65];
    tdn_calibration_info *info = &into->info;
    TDN_TRY(digest_model(c->model, graph, weights, c->error));
    digest_data(c, data);
    const char *method = tdn_calibration_method_text(c->o->method, c->percentile, into->arena);
    info->method = method ? method : "";
    info->graph = tdn_arena_strdup(into->arena, graph);
    info->weights = tdn_arena_strdup(into->arena, weights);
    info->data = tdn_arena_strdup(into->arena, data);
    info->version = tdn_arena_strdup(into->arena, tdn_version());
    info->n_batches = c->o->n_batches;
    info->origin = c->o->origin
                       ? tdn_arena_strdup(into->arena, c->o->origin)
                       : tdn_arena_printf(into->arena, "%s, %lld batch%s of %s, sha256 %.12s",
                                          info->method, (long long)c->o->n_batches,
                                          c->o->n_batches == 1 ? "" : "es", data_name(c), data);
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
    TDN_TRY(check_options(c));
    if (!c->o->next)
        return tdn_fail(c->error, TDN_E_ARG, "calibration needs data: options.next");
    TDN_TRY(list_inputs(c));
    TDN_TRY(make_room(c));
    c->by_name = tdn_names_create(c->arena);
    if (!c->by_name)
        return tdn_fail_nomem(c->error, "the ranges of values");
    progress(c, 1, "Compiling in float32", 0);
    TDN_TRY(open_engine(c));
    TDN_TRY(bind_outputs(c));
    tdn_context_set_tap(c->context, on_tap, c);
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
    tdn_context_free(c.context);
    tdn_pool_free(c.pool);
    tdn_engine_free(c.engine);
    tdn_plan_free(c.plan);
    tdn_arena_free(c.arena);
    return status;
}

/* ---- Is it stale? ---------------------------------------------------------------------------- */

/* Two texts of which one may be unknown. */
static bool differs(const char *a, const char *b) { return *a && *b && strcmp(a, b) != 0; }

/* The data's hash, from one walk. */
static tdn_status hash_data(calibrator *c, char text[65])
{
    TDN_TRY(list_inputs(c));
    TDN_TRY(make_room(c));
    for (int64_t batch = 0; batch < c->o->n_batches; batch++) {
        const tdn_tensor *inputs;
        TDN_TRY(next_batch(c, batch, &inputs));
        digest_batch(c, inputs, c->digests + batch * DIGEST_SIZE);
    }
    digest_data(c, text);
    return TDN_OK;
}

static tdn_status compare(const calibrator *c, const tdn_calibration_info *info, const char *data,
                          const char *method)
{
    char graph[65], weights[65], list[200] = "";
    TDN_TRY(digest_model(c->model, graph, weights, c->error));
    const struct {
        const char *what, *is, *was;
    } rows[] = {{"the graph", graph, info->graph},
                {"the weights", weights, info->weights},
                {"the data", data, info->data},
                {"the method", method, info->method}};
    int n = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (differs(rows[i].is, rows[i].was)) {
            const size_t used = strlen(list);
            snprintf(list + used, sizeof list - used, "%s%s", n++ ? " and " : "", rows[i].what);
        }
    if (n == 0)
        return TDN_OK;
    return tdn_fail(c->error, TDN_E_FORMAT,
                    "the calibration is stale: %s changed since it was made (%s); calibrate again",
                    list, info->origin);
}

static tdn_status check(calibrator *c, const tdn_calibration_info *info)
{
    char data[65] = "";
    const char *method = "";
    if (c->o) {
        TDN_TRY(check_options(c));
        method = tdn_calibration_method_text(c->o->method, c->percentile, c->arena);
        if (!method)
            return tdn_fail_nomem(c->error, "a calibration");
        if (c->o->next && *info->data)
            TDN_TRY(hash_data(c, data));
    }
    return compare(c, info, data, method);
}

tdn_status tdn_calibration_check(const tdn_calibration *calibration, tdn_model *model,
                                 const tdn_calibrate_options *options, tdn_error *error)
{
    tdn_error own;
    if (!calibration || !model)
        return tdn_fail(error, TDN_E_ARG, "a calibration and a model are needed");
    calibrator c = {.model = model, .o = options, .error = error ? error : &own};
    c.arena = tdn_arena_create(model->allocator);
    const tdn_status status =
        c.arena ? check(&c, &calibration->info) : tdn_fail_nomem(error, "a calibration");
    tdn_arena_free(c.arena);
    return status;
}

/* ---- Models with scales ---------------------------------------------------------------------- */

static bool holds_scales(const char *domain, const char *op)
{
    static const char *const names[] = {"QuantizeLinear", "DequantizeLinear",
                                        "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"};
    (void)domain;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(op, names[i]) == 0)
            return true;
    return strncmp(op, "QLinear", 7) == 0;
}

int tdn_model_has_scales(const tdn_model *model)
{
    return model && tdn_onnx_any_node(model->onnx, holds_scales);
}
