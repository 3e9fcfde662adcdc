/* SPDX-License-Identifier: Apache-2.0 */
/* Arrays in the shapes that a model will be compiled for, and channels in them that say nothing. */
#include "cli/samples.h"

#include <stdio.h>
#include <string.h>

#include "base/view.h"

enum { N_RANDOM = 8, MOST_CHANNELS = 4096, MOST_NAMED = 8 };

/* ---- Batches --------------------------------------------------------------------------------- */

tdn_status tdn_samples_next(void *user, int64_t batch, const tdn_tensor **inputs, tdn_error *error)
{
    tdn_samples *s = user;
    (void)error;
    for (int i = 0; i < s->feed.n_inputs; i++)
        s->tensors[i] = tdn_feed_tensor(&s->feed, i, batch);
    *inputs = s->tensors;
    return TDN_OK;
}

static tdn_array *array_of(tdn_samples *s, const char *name)
{
    for (int i = 0; i < s->arrays.npz.n; i++)
        if (strcmp(s->arrays.npz.arrays[i].name, name) == 0)
            return &s->arrays.npz.arrays[i];
    return NULL;
}

/* An axis in front of all of the input's: (64, 1, 200, 8) is (64, 200, 8). */
static void join_front(tdn_samples *s, const tdn_ports *model)
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

static tdn_status check_filled(tdn_samples *s, tdn_error *error)
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
static void set_dims(tdn_samples *s, tdn_io_info *info, const tdn_shape_set *given)
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
static tdn_status set_shapes(tdn_samples *s, const tdn_ports *model, const tdn_build_options *build,
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

static tdn_status read_arrays(tdn_samples *s, const tdn_ports *model, tdn_error *error)
{
    TDN_TRY(tdn_npz_read(&s->arrays.npz, s->arrays.path, error));
    join_front(s, model);
    return tdn_arrays_check(&s->arrays, model, true, error); /* what is NaN, calibrating finds */
}

tdn_status tdn_samples_open(tdn_samples *s, const char *path, const tdn_model *model,
                            const tdn_build_options *build, tdn_error *error)
{
    tdn_ports ports;
    const tdn_programs programs = {&s->ports, 1};
    *s = (tdn_samples){.arena = tdn_arena_create(NULL), .arrays = {.path = path}};
    if (!s->arena)
        return tdn_fail_nomem(error, "the samples");
    TDN_TRY(tdn_ports_of_model(&ports, model, build->states, build->n_states, s->arena, error));
    if (path)
        TDN_TRY(read_arrays(s, &ports, error));
    TDN_TRY(set_shapes(s, &ports, build, error));
    if (!path)
        return tdn_feed_random(&s->feed, &programs, NULL, N_RANDOM, 1, s->arena, error);
    TDN_TRY(check_filled(s, error));
    return tdn_feed_arrays(&s->feed, &programs, &s->arrays, s->arena, error);
}

void tdn_samples_close(tdn_samples *s)
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

tdn_status tdn_samples_check_channels(const tdn_samples *s, const tdn_build_options *build,
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
