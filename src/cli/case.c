/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running one case. Everything of a data set lives in one arena or is listed in `data_set`, and
 * goes with it: a folder has thousands of cases.
 *
 * A model is loaded anew for each attempt, since an input that was made a constant stays one.
 */
#include "cli/case.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/status.h"
#include "cli/data.h"

/* What may be made a constant, attempt by attempt. */
typedef enum attempt { ALL_FREE, INTEGERS_FIXED, VECTORS_FIXED, N_ATTEMPTS } attempt;

typedef struct data_set {
    const tdn_case_options *options;
    const char *folder; /* of the case */
    int number;
    tdn_arena *arena;
    const char **names; /* of the model's inputs, all of them */
    tdn_tensor *inputs;
    bool *fixed;
    int n_inputs;
    void *plan;
    tdn_engine *engine;
    tdn_context *context;
    tdn_error *error;
} data_set;

static tdn_status nomem(const data_set *s) { return tdn_fail_nomem(s->error, "a test case"); }

static const char *file_path(const data_set *s, const char *what, int i)
{
    return tdn_arena_printf(s->arena, "%s/test_data_set_%d/%s_%d.pb", s->folder, s->number, what,
                            i);
}

/* ---- Inputs ---------------------------------------------------------------------------------- */

static bool is_plain(tdn_dtype dtype) { return dtype != TDN_DTYPE_NONE && dtype != TDN_STRING; }

/* Inputs of types that Tendon lacks are left to the compiler, which knows the words. */
static tdn_status load_input(data_set *s, const tdn_model *model, int i)
{
    tdn_model_io io = {.struct_size = sizeof io};
    tdn_model_input(model, i, &io);
    s->names[i] = tdn_arena_strdup(s->arena, io.name);
    const char *path = file_path(s, "input", i);
    if (!s->names[i] || !path)
        return nomem(s);
    return is_plain(io.dtype) ? tdn_tensor_load(&s->inputs[i], path, s->error) : TDN_OK;
}

static tdn_status load_inputs(data_set *s, const tdn_model *model)
{
    const int n = tdn_model_n_inputs(model);
    s->names = tdn_arena_alloc(s->arena, (size_t)n + 1, sizeof *s->names);
    s->inputs = tdn_arena_alloc(s->arena, (size_t)n + 1, sizeof *s->inputs);
    s->fixed = tdn_arena_alloc(s->arena, (size_t)n + 1, sizeof *s->fixed);
    const char *beyond = file_path(s, "input", n);
    if (!s->names || !s->inputs || !s->fixed || !beyond)
        return nomem(s);
    s->n_inputs = n;
    for (int i = 0; i < n; i++)
        TDN_TRY(load_input(s, model, i));
    if (access(beyond, F_OK) == 0)
        return tdn_fail(s->error, TDN_E_FORMAT, "%s is there, but the model has only %d inputs",
                        beyond, n);
    return TDN_OK;
}

/* Marks the inputs that are constants in this attempt; false where it would be the same as the one
 * before. */
static bool choose_fixed(data_set *s, attempt a)
{
    bool more = a == ALL_FREE;
    for (int i = 0; i < s->n_inputs; i++) {
        const tdn_tensor *t = &s->inputs[i];
        const bool may = t->data && t->rank <= 1;
        const bool is_integer = t->dtype == TDN_S64 || t->dtype == TDN_S32;
        const bool fix = may && (a == VECTORS_FIXED || (a == INTEGERS_FIXED && is_integer));
        more = more || (fix && !s->fixed[i]);
        s->fixed[i] = fix;
    }
    return more;
}

/* ---- Compiling ------------------------------------------------------------------------------- */

static tdn_status build(data_set *s, tdn_model *model, size_t *size)
{
    tdn_build_options options = *s->options->build;
    tdn_shape_spec *specs = tdn_arena_alloc(s->arena, (size_t)s->n_inputs + 1, sizeof *specs);
    if (!specs)
        return nomem(s);
    tdn_shape_set set = {specs, 0};
    for (int i = 0; i < s->n_inputs; i++) {
        const tdn_tensor *t = &s->inputs[i];
        if (s->fixed[i]) {
            TDN_TRY(tdn_model_fix_input(model, s->names[i], t, s->error));
        } else if (t->data) {
            tdn_shape_spec *spec = &specs[set.n_specs++];
            *spec = (tdn_shape_spec){.input = s->names[i], .rank = t->rank};
            memcpy(spec->dims, t->dims, sizeof spec->dims);
        }
    }
    options.shapes = &set;
    options.n_shapes = 1;
    return tdn_build(model, &options, &s->plan, size, s->error);
}

static tdn_status compile(data_set *s, const char *path)
{
    tdn_status status = TDN_E_UNSUPPORTED;
    size_t size = 0;
    for (attempt a = ALL_FREE; a < N_ATTEMPTS && status == TDN_E_UNSUPPORTED; a++) {
        tdn_model *model;
        if (a != ALL_FREE && !choose_fixed(s, a))
            continue;
        TDN_TRY(tdn_model_load(&model, path, NULL, s->error));
        status = a == ALL_FREE ? load_inputs(s, model) : TDN_OK;
        if (status == TDN_OK)
            status = build(s, model, &size);
        tdn_model_free(model);
    }
    TDN_TRY(status);
    return tdn_engine_load_memory(&s->engine, s->plan, size, NULL, s->error);
}

/* ---- Running --------------------------------------------------------------------------------- */

static tdn_status bind(const data_set *s, const char *name, const tdn_tensor *t)
{
    const tdn_status status = tdn_context_bind(s->context, name, t);
    return status == TDN_OK ? TDN_OK
                            : tdn_fail(s->error, status, "%s", tdn_context_error(s->context));
}

static tdn_status bind_inputs(const data_set *s)
{
    for (int i = 0; i < s->n_inputs; i++)
        if (!s->fixed[i])
            TDN_TRY(bind(s, s->names[i], &s->inputs[i]));
    return TDN_OK;
}

static tdn_status bind_outputs(const data_set *s, tdn_tensor *outputs, int n)
{
    for (int i = 0; i < n; i++) {
        tdn_io_info info = {.struct_size = sizeof info};
        int64_t count;
        TDN_TRY(tdn_engine_output(s->engine, 0, i, &info));
        outputs[i] = tdn_tensor_make(NULL, info.dtype, info.rank, info.dims);
        if (!tdn_dims_count(info.dims, info.rank, &count))
            return nomem(s);
        outputs[i].data = tdn_arena_alloc_data(s->arena, tdn_dtype_size(info.dtype, (size_t)count));
        if (!outputs[i].data)
            return nomem(s);
        TDN_TRY(bind(s, info.name, &outputs[i]));
    }
    return TDN_OK;
}

static tdn_status run(data_set *s, tdn_tensor **outputs, int *n)
{
    tdn_context_options options = TDN_CONTEXT_OPTIONS_INIT;
    options.pool = s->options->pool;
    TDN_TRY(tdn_context_create(&s->context, s->engine, &options, s->error));
    *n = tdn_engine_n_outputs(s->engine);
    *outputs = tdn_arena_alloc(s->arena, (size_t)*n + 1, sizeof **outputs);
    if (!*outputs)
        return nomem(s);
    TDN_TRY(bind_inputs(s));
    TDN_TRY(bind_outputs(s, *outputs, *n));
    const tdn_status status = tdn_context_run(s->context);
    if (status != TDN_OK)
        return tdn_fail(s->error, status, "%s", tdn_context_error(s->context));
    for (int i = 0; i < *n; i++) {
        tdn_io_info info = {.struct_size = sizeof info};
        TDN_TRY(tdn_engine_output(s->engine, 0, i, &info));
        if (info.bounded)
            TDN_TRY(tdn_context_output_dims(s->context, info.name, (*outputs)[i].dims));
    }
    return TDN_OK;
}

/* ---- Comparing ------------------------------------------------------------------------------- */

static tdn_view view_of(const tdn_tensor *t)
{
    return tdn_view_make(t->data, t->dtype, t->rank, t->dims);
}

static bool is_float(tdn_dtype d)
{
    return d == TDN_F32 || d == TDN_F64 || d == TDN_F16 || d == TDN_BF16;
}

static tdn_status compare_output(const data_set *s, const char *name, const tdn_tensor *is,
                                 const tdn_tensor *should)
{
    char a[128], b[128];
    const tdn_view va = view_of(is), vb = view_of(should);
    if (is->dtype != should->dtype || !tdn_view_same_dims(&va, &vb))
        return tdn_fail(s->error, TDN_E_CHECK, "output '%s' is %s %s, not %s %s", name,
                        tdn_dtype_name(is->dtype), tdn_tensor_text(is, a, sizeof a),
                        tdn_dtype_name(should->dtype), tdn_tensor_text(should, b, sizeof b));
    const tdn_tolerance exact = {0, 0};
    tdn_difference d = {0};
    tdn_difference_add(&d, &va, &vb, is_float(is->dtype) ? s->options->tolerance : exact);
    if (d.n_outside == 0)
        return TDN_OK;
    return tdn_fail(s->error, TDN_E_CHECK,
                    "output '%s' at %s is %.9g, not %.9g; %lld of %lld elements differ", name,
                    tdn_place_text(is, d.worst, a, sizeof a), d.worst_a, d.worst_b,
                    (long long)d.n_outside, (long long)d.n);
}

static tdn_status compare(const data_set *s, const tdn_tensor *outputs, int n)
{
    for (int i = 0; i < n; i++) {
        tdn_io_info info = {.struct_size = sizeof info};
        tdn_tensor should;
        const char *path = file_path(s, "output", i);
        if (!path)
            return nomem(s);
        TDN_TRY(tdn_engine_output(s->engine, 0, i, &info));
        TDN_TRY(tdn_tensor_load(&should, path, s->error));
        const tdn_status status = compare_output(s, info.name, &outputs[i], &should);
        tdn_tensor_free(&should);
        TDN_TRY(status);
    }
    return TDN_OK;
}

/* ---- A case ---------------------------------------------------------------------------------- */

static tdn_status run_data_set(data_set *s)
{
    tdn_tensor *outputs;
    int n;
    const char *path = tdn_arena_printf(s->arena, "%s/model.onnx", s->folder);
    if (!path)
        return nomem(s);
    TDN_TRY(compile(s, path));
    TDN_TRY(run(s, &outputs, &n));
    return compare(s, outputs, n);
}

static void note_fixed(const data_set *s, tdn_error *note)
{
    size_t at = 0;
    note->text[0] = 0;
    for (int i = 0; i < s->n_inputs && at < sizeof note->text; i++)
        if (s->fixed[i])
            at += (size_t)snprintf(note->text + at, sizeof note->text - at, "%s%s",
                                   at ? ", " : "constant: ", s->names[i]);
}

static void release(data_set *s)
{
    for (int i = 0; i < s->n_inputs; i++)
        tdn_tensor_free(&s->inputs[i]);
    tdn_context_free(s->context);
    tdn_engine_free(s->engine);
    tdn_plan_free(s->plan);
    tdn_arena_free(s->arena);
}

static bool has_data_set(const char *folder, int number, tdn_error *why)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/test_data_set_%d", folder, number);
    if (access(path, F_OK) == 0)
        return true;
    tdn_fail(why, TDN_E_FORMAT, "there is no %s", path);
    return false;
}

tdn_verdict tdn_case_run(const char *folder, const tdn_case_options *options, tdn_error *why)
{
    tdn_status status = TDN_OK;
    tdn_error note = {""};
    int number = 0;
    for (; status == TDN_OK && has_data_set(folder, number, why); number++) {
        data_set s = {.options = options,
                      .folder = folder,
                      .number = number,
                      .arena = tdn_arena_create(NULL),
                      .error = why};
        status = s.arena ? run_data_set(&s) : nomem(&s);
        if (status == TDN_OK)
            note_fixed(&s, &note);
        release(&s);
    }
    if (number == 0)
        return TDN_CASE_FAILED;
    if (status != TDN_OK && number > 1)
        tdn_fail_while(why, status, "running test_data_set_%d", number - 1);
    if (status == TDN_OK)
        *why = note;
    return status == TDN_OK              ? TDN_CASE_PASSED
           : status == TDN_E_UNSUPPORTED ? TDN_CASE_UNSUPPORTED
                                         : TDN_CASE_FAILED;
}
