/* SPDX-License-Identifier: Apache-2.0 */
/* Opening plans and models in one way. */
#include "cli/session.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "cli/calib.h"
#include "cli/cmd.h"
#include "cli/operators.h"

/* A plan's first bytes are a line of text, then eight that are no text, so that one damaged byte
 * does not hide it. */
#define PLAN_TEXT "tendon plan "
#define PLAN_MAGIC "\x89tdnplan"
#define PLAN_MAGIC_AT 64

tdn_status tdn_file_is_plan(const char *path, bool *is_plan, tdn_error *error)
{
    tdn_source file;
    const size_t text = strlen(PLAN_TEXT), magic = strlen(PLAN_MAGIC), all = PLAN_MAGIC_AT + magic;
    TDN_TRY(tdn_source_open(&file, path, error));
    const size_t size = file.map.size < all ? file.map.size : all;
    const tdn_status status = tdn_source_fill(&file, 0, size, error);
    *is_plan = status == TDN_OK &&
               ((size >= text && memcmp(file.map.data, PLAN_TEXT, text) == 0) ||
                (size == all && memcmp(file.map.data + PLAN_MAGIC_AT, PLAN_MAGIC, magic) == 0));
    tdn_source_close(&file);
    return status;
}

static bool is_named_onnx(const char *path)
{
    const char *suffix = strrchr(path, '.');
    return suffix && strcmp(suffix, ".onnx") == 0;
}

/* What a file that is no model most often is. */
static void hint_at_model(const char *path, tdn_error *error)
{
    static const struct {
        const char *begins, *hint;
    } rows[] = {
        {"version https://git-lfs", "it is a pointer of Git LFS: `git lfs pull` fetches the model"},
        {"PK\003\004", "it is a zip archive (.npz, .pt, ...): export the model as ONNX"},
        {"<", "it looks like a web page: was the page downloaded instead of the file?"},
    };
    tdn_source file;
    const bool damaged = strstr(error->text, "damaged") || strstr(error->text, "is empty");
    const char *hint = damaged ? "was it copied whole? fetch or export it again" : NULL;
    if (!is_named_onnx(path))
        hint = "the file does not begin as a plan does, so it was read as an ONNX model";
    if (tdn_source_open(&file, path, NULL) == TDN_OK) {
        const size_t size = file.map.size < 64 ? file.map.size : 64;
        const bool good = tdn_source_fill(&file, 0, size, NULL) == TDN_OK;
        for (size_t i = 0; good && i < sizeof rows / sizeof rows[0]; i++)
            if (size >= strlen(rows[i].begins) &&
                memcmp(file.map.data, rows[i].begins, strlen(rows[i].begins)) == 0)
                hint = rows[i].hint;
        tdn_source_close(&file);
    }
    if (hint)
        tdn_cmd_hint(error, hint);
}

tdn_status tdn_session_load_model(tdn_model **model, const char *path, const char *operators,
                                  tdn_log_sink *sink, tdn_error *error)
{
    tdn_model_options options = TDN_MODEL_OPTIONS_INIT;
    *model = NULL;
    TDN_TRY(tdn_operators_load(operators, &options.operators, &options.n_operators, error));
    options.log = tdn_log_line;
    options.log_user = sink;
    tdn_status status = tdn_model_load(model, path, &options, error);
    if (status == TDN_E_FORMAT || status == TDN_E_MODEL)
        hint_at_model(path, error);
    return status;
}

tdn_status tdn_session_name_file(tdn_status status, const char *path, tdn_error *error)
{
    const char *slash = strrchr(path, '/'), *name = slash && slash[1] ? slash + 1 : path;
    if (status == TDN_OK || strstr(error->text, name))
        return status;
    return tdn_fail_while(error, status, "compiling %s", path);
}

/* ---- Opening --------------------------------------------------------------------------------- */

static bool is_default(const tdn_compile_args *args)
{
    const tdn_compile_args plain = TDN_COMPILE_ARGS_INIT;
    return strcmp(args->precision, plain.precision) == 0 && args->level == plain.level &&
           args->targets.n == 0 && args->states.n == 0 && !args->dump && !args->calib &&
           !args->calib_data && !args->calib_method && args->layer_precisions.n == 0;
}

/* From the file, or from the plan in memory. */
static tdn_status load_engine(tdn_session *s, const char *path, const tdn_session_options *options,
                              tdn_error *error)
{
    tdn_engine_options engine_options = TDN_ENGINE_OPTIONS_INIT;
    tdn_log_sink *sink = tdn_arena_alloc(s->arena, 1, sizeof *sink);
    if (!sink)
        return tdn_fail_nomem(error, "the engine");
    *sink = (tdn_log_sink){options->log, options->compile->verbose};
    engine_options.log = tdn_log_line;
    engine_options.log_user = sink;
    TDN_TRY(tdn_operators_load(options->compile->operators, &engine_options.operators,
                               &engine_options.n_operators, error));
    uint64_t begin = tdn_now_ns();
    tdn_status status =
        path ? tdn_engine_load(&s->engine, path, &engine_options, error)
             : tdn_engine_load_memory(&s->engine, s->plan, s->plan_size, &engine_options, error);
    s->load_s = (double)(tdn_now_ns() - begin) * 1e-9;
    return status;
}

/* The model's own shapes where they are concrete or given, else those of the arrays. */
static tdn_status use_array_shapes(tdn_session *s, const tdn_ports *ports,
                                   const tdn_session_options *options, tdn_build_options *build,
                                   tdn_error *error)
{
    if (build->n_shapes || build->max_shapes || !options->arrays)
        return TDN_OK;
    tdn_shape_set *set = tdn_arena_alloc(s->arena, 1, sizeof *set);
    if (!set)
        return tdn_fail_nomem(error, "the shapes");
    TDN_TRY(tdn_arrays_shapes(options->arrays, ports, s->arena, set, error));
    build->shapes = set;
    build->n_shapes = 1;
    return TDN_OK;
}

static void show_progress(void *user, int phase, int n_phases, const char *what, double fraction)
{
    (void)phase;
    (void)n_phases;
    tdn_term_bar(user, what, fraction);
}

static tdn_status compile(tdn_session *s, tdn_model *model, const char *path,
                          const tdn_session_options *options, tdn_error *error)
{
    tdn_build_options build;
    TDN_TRY(tdn_compile_prepare(options->compile, model, s->arena, options->log, &build, error));
    tdn_ports ports;
    TDN_TRY(tdn_ports_of_model(&ports, model, build.states, build.n_states, s->arena, error));
    if (options->arrays)
        TDN_TRY(tdn_arrays_check(options->arrays, &ports, options->allow_nan, error));
    TDN_TRY(use_array_shapes(s, &ports, options, &build, error));
    tdn_calibration *calibration;
    TDN_TRY(tdn_calib_prepare(&calibration, options->compile, model, &build, options->log, error));
    build.calibration = calibration;
    build.progress = show_progress;
    build.progress_user = options->log;
    uint64_t begin = tdn_now_ns();
    tdn_status status = tdn_build(model, &build, &s->plan, &s->plan_size, error);
    tdn_calibration_free(calibration);
    s->build_s = (double)(tdn_now_ns() - begin) * 1e-9;
    tdn_term_clear(options->log);
    if (status == TDN_OK)
        status = load_engine(s, NULL, options, error);
    return tdn_session_name_file(status, path, error);
}

static void hint_at_plan(const char *path, tdn_error *error)
{
    bool is_plan;
    if (tdn_file_is_plan(path, &is_plan, NULL) != TDN_OK)
        return;
    tdn_cmd_hint(error, is_plan ? "copy it again, or build it again with this version"
                                : "a plan is wanted here: tendon build MODEL.onnx -o FILE.plan");
}

static tdn_status load_plan(tdn_session *s, const char *path, const tdn_session_options *options,
                            tdn_error *error)
{
    if (!is_default(options->compile))
        return tdn_fail(error, TDN_E_ARG,
                        "%s is compiled already: --precision, --optimization-level, --target, "
                        "--state, --calib, --layerPrecisions and --dump are for models",
                        path);
    if (options->arrays && options->compile->shapes.n)
        return tdn_fail(error, TDN_E_ARG,
                        "%s is compiled already, and the arrays have their shapes: drop --shapes",
                        path);
    const tdn_status status = load_engine(s, path, options, error);
    if (status == TDN_E_FORMAT)
        hint_at_plan(path, error);
    TDN_TRY(status);
    tdn_ports ports;
    /* The last program is the largest, so that words about it tell the most. */
    TDN_TRY(tdn_ports_of_engine(&ports, s->engine, tdn_engine_n_programs(s->engine) - 1, s->arena,
                                error));
    return options->arrays ? tdn_arrays_check(options->arrays, &ports, options->allow_nan, error)
                           : TDN_OK;
}

static void warn_of_calibration(const tdn_session *s, const tdn_session_options *options)
{
    tdn_engine_info info = {.struct_size = sizeof info};
    char line[400];
    tdn_log_sink sink = {options->log, false};
    if (tdn_engine_get_info(s->engine, &info) != TDN_OK ||
        strncmp(info.calibration, "none", 4) != 0)
        return;
    snprintf(line, sizeof line,
             "the engine's 8-bit ranges were not calibrated (%.200s): its outputs mean nothing",
             info.calibration);
    tdn_log_line(&sink, TDN_LOG_WARNING, line);
}

/* What is the same for both once there is an engine. */
static tdn_status make_ready(tdn_session *s, const tdn_session_options *options, tdn_error *error)
{
    tdn_pool_options pool = TDN_POOL_OPTIONS_INIT;
    warn_of_calibration(s, options);
    pool.n_threads = (int32_t)options->compile->threads;
    pool.spin_us = options->spin_us;
    TDN_TRY(tdn_cores_parse(options->compile->cores, s->arena, &s->cores, error));
    TDN_TRY(tdn_cores_keep(&s->cores, s->cores.n, error));
    pool.cores = s->cores.items;
    pool.n_cores = s->cores.n;
    TDN_TRY(tdn_pool_create(&s->pool, &pool, error));
    s->n_outputs = tdn_engine_n_outputs(s->engine);
    s->outputs = tdn_arena_alloc(s->arena, (size_t)s->n_outputs + 1, sizeof *s->outputs);
    if (!s->outputs)
        return tdn_fail_nomem(error, "the outputs");
    return tdn_session_new_context(s, false, error);
}

static tdn_status begin(tdn_session *s, tdn_error *error)
{
    *s = (tdn_session){.arena = tdn_arena_create(NULL)};
    return s->arena ? TDN_OK : tdn_fail_nomem(error, "the session");
}

tdn_status tdn_session_open(tdn_session *session, const char *path,
                            const tdn_session_options *options, tdn_error *error)
{
    bool is_plan;
    TDN_TRY(begin(session, error));
    TDN_TRY(tdn_file_is_plan(path, &is_plan, error));
    if (is_plan) {
        TDN_TRY(load_plan(session, path, options, error));
    } else {
        tdn_log_sink *sink = tdn_arena_alloc(session->arena, 1, sizeof *sink);
        if (!sink)
            return tdn_fail_nomem(error, "the session");
        *sink = (tdn_log_sink){options->log, options->compile->verbose};
        TDN_TRY(tdn_session_load_model(&session->model, path, options->compile->operators, sink,
                                       error));
        TDN_TRY(compile(session, session->model, path, options, error));
    }
    return make_ready(session, options, error);
}

tdn_status tdn_session_open_model(tdn_session *session, tdn_model *model, const char *model_path,
                                  const char *plan_path, const tdn_session_options *options,
                                  tdn_error *error)
{
    TDN_TRY(begin(session, error));
    TDN_TRY(plan_path ? load_plan(session, plan_path, options, error)
                      : compile(session, model, model_path, options, error));
    return make_ready(session, options, error);
}

void tdn_session_close(tdn_session *session)
{
    for (int i = 0; session->outputs && i < session->n_outputs; i++)
        free(session->outputs[i].tensor.data);
    tdn_context_free(session->context);
    tdn_pool_free(session->pool);
    tdn_engine_free(session->engine);
    tdn_plan_free(session->plan);
    tdn_model_free(session->model);
    tdn_arena_free(session->arena);
    *session = (tdn_session){.arena = NULL};
}

tdn_status tdn_session_feed(tdn_session *session, tdn_feed *feed,
                            const tdn_session_options *options, int64_t n_calls, uint64_t seed,
                            tdn_error *error)
{
    tdn_programs programs;
    TDN_TRY(tdn_programs_of_engine(&programs, session->engine, session->arena, error));
    if (options->arrays)
        return tdn_feed_arrays(feed, &programs, options->arrays, session->arena, error);
    const tdn_opt_list *given = &options->compile->shapes;
    tdn_shape_set shapes;
    if (given->n > 0)
        TDN_TRY(tdn_shapes_parse(given->items[0], session->arena, &shapes, error));
    return tdn_feed_random(feed, &programs, given->n > 0 ? &shapes : NULL, n_calls, seed,
                           session->arena, error);
}

/* ---- Calling --------------------------------------------------------------------------------- */

tdn_status tdn_session_new_context(tdn_session *session, bool profile, tdn_error *error)
{
    tdn_context_options options = TDN_CONTEXT_OPTIONS_INIT;
    options.pool = session->pool;
    options.profile = profile;
    tdn_context_free(session->context);
    session->context = NULL;
    return tdn_context_create(&session->context, session->engine, &options, error);
}

tdn_status tdn_session_pin(const tdn_session *session, tdn_error *error)
{
    return tdn_cores_keep(&session->cores, 1, error);
}

static tdn_status fail_context(const tdn_session *s, tdn_status status, tdn_error *error)
{
    return tdn_fail(error, status, "%s", tdn_context_error(s->context));
}

/* The tensor for an output of the program in use, in memory that grows when it must. */
static tdn_status size_output(tdn_session_output *out, const tdn_io_info *info, int64_t batch,
                              tdn_error *error)
{
    void *data = out->tensor.data;
    out->name = info->name;
    out->bounded = info->bounded != 0;
    out->tensor = tdn_tensor_make(data, info->dtype, info->rank, info->dims);
    if (info->batch_axis >= 0 && batch > 0)
        out->tensor.dims[info->batch_axis] = batch;
    int64_t n;
    if (!tdn_dims_count(out->tensor.dims, info->rank, &n))
        return tdn_fail_nomem(error, "the outputs");
    size_t size = tdn_round_up(tdn_dtype_size(info->dtype, (size_t)n) + 1, TDN_ALIGN);
    if (size <= out->capacity)
        return TDN_OK;
    free(data);
    out->capacity = 0;
    out->tensor.data = aligned_alloc(TDN_ALIGN, size);
    if (!out->tensor.data)
        return tdn_fail_nomem(error, "the outputs");
    memset(out->tensor.data, 0, size);
    out->capacity = size;
    return TDN_OK;
}

static tdn_status bind_outputs(tdn_session *s, int64_t batch, tdn_error *error)
{
    int program = tdn_context_program(s->context);
    for (int i = 0; i < s->n_outputs; i++) {
        tdn_io_info info = {.struct_size = sizeof info};
        TDN_TRY(tdn_engine_output(s->engine, program < 0 ? 0 : program, i, &info));
        TDN_TRY(size_output(&s->outputs[i], &info, batch, error));
        tdn_status status = tdn_context_bind(s->context, info.name, &s->outputs[i].tensor);
        if (status != TDN_OK)
            return fail_context(s, status, error);
    }
    return TDN_OK;
}

tdn_status tdn_session_bind(tdn_session *session, const tdn_feed *feed, int64_t call,
                            tdn_error *error)
{
    int64_t batch = 0;
    tdn_context_unbind(session->context);
    for (int i = 0; i < feed->n_inputs; i++) {
        tdn_tensor t = tdn_feed_tensor(feed, i, call);
        tdn_io_info info = {.struct_size = sizeof info};
        TDN_TRY(tdn_engine_input(session->engine, feed->program, i, &info));
        if (info.batch_axis >= 0)
            batch = t.dims[info.batch_axis];
        tdn_status status = tdn_context_bind(session->context, info.name, &t);
        if (status != TDN_OK)
            return fail_context(session, status, error);
    }
    return bind_outputs(session, batch, error);
}

tdn_status tdn_session_run(tdn_session *session, tdn_error *error)
{
    tdn_status status = tdn_context_run(session->context);
    if (status != TDN_OK)
        return fail_context(session, status, error);
    for (int i = 0; i < session->n_outputs; i++) {
        tdn_session_output *out = &session->outputs[i];
        if (out->bounded)
            TDN_TRY(tdn_context_output_dims(session->context, out->name, out->tensor.dims));
    }
    return TDN_OK;
}
