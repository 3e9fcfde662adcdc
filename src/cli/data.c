/* SPDX-License-Identifier: Apache-2.0 */
/* Ports of engines and models in one form, and arrays checked against them. */
#include "cli/data.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Ports ----------------------------------------------------------------------------------- */

typedef tdn_status engine_port_fn(const tdn_engine *engine, int program, int index,
                                  tdn_io_info *info);

static tdn_io_info *engine_ports(const tdn_engine *engine, int program, int n, engine_port_fn *get,
                                 tdn_arena *arena)
{
    tdn_io_info *infos = tdn_arena_alloc(arena, (size_t)n + 1, sizeof *infos);
    for (int i = 0; i < n && infos; i++) {
        infos[i].struct_size = sizeof infos[i];
        get(engine, program, i, &infos[i]);
    }
    return infos;
}

tdn_status tdn_ports_of_engine(tdn_ports *ports, const tdn_engine *engine, int program,
                               tdn_arena *arena, tdn_error *error)
{
    ports->n_inputs = tdn_engine_n_inputs(engine);
    ports->n_outputs = tdn_engine_n_outputs(engine);
    ports->inputs = engine_ports(engine, program, ports->n_inputs, tdn_engine_input, arena);
    ports->outputs = engine_ports(engine, program, ports->n_outputs, tdn_engine_output, arena);
    return ports->inputs && ports->outputs ? TDN_OK : tdn_fail_nomem(error, "the inputs");
}

tdn_status tdn_programs_of_engine(tdn_programs *programs, const tdn_engine *engine,
                                  tdn_arena *arena, tdn_error *error)
{
    const int n = tdn_engine_n_programs(engine);
    tdn_ports *items = tdn_arena_alloc(arena, (size_t)n + 1, sizeof *items);
    if (!items)
        return tdn_fail_nomem(error, "the inputs");
    for (int i = 0; i < n; i++)
        TDN_TRY(tdn_ports_of_engine(&items[i], engine, i, arena, error));
    *programs = (tdn_programs){items, n};
    return TDN_OK;
}

typedef tdn_status model_port_fn(const tdn_model *model, int index, tdn_model_io *io);

static bool is_state(const tdn_state_spec *states, int n_states, const char *name)
{
    for (int i = 0; i < n_states; i++)
        if (strcmp(states[i].input, name) == 0 || strcmp(states[i].output, name) == 0)
            return true;
    return false;
}

static tdn_io_info *model_ports(const tdn_model *model, int *n, model_port_fn *get,
                                const tdn_state_spec *states, int n_states, tdn_arena *arena)
{
    tdn_io_info *infos = tdn_arena_alloc(arena, (size_t)*n + 1, sizeof *infos);
    int n_kept = 0;
    for (int i = 0; i < *n && infos; i++) {
        tdn_model_io io = {.struct_size = sizeof io};
        if (get(model, i, &io) != TDN_OK || is_state(states, n_states, io.name))
            continue;
        tdn_io_info *info = &infos[n_kept++];
        *info = (tdn_io_info){sizeof *info, io.name, io.dtype, io.rank, {0}, -1, 0};
        memcpy(info->dims, io.dims, sizeof info->dims);
    }
    *n = n_kept;
    return infos;
}

tdn_status tdn_ports_of_model(tdn_ports *ports, const tdn_model *model,
                              const tdn_state_spec *states, int n_states, tdn_arena *arena,
                              tdn_error *error)
{
    ports->n_inputs = tdn_model_n_inputs(model);
    ports->n_outputs = tdn_model_n_outputs(model);
    ports->inputs = model_ports(model, &ports->n_inputs, tdn_model_input, states, n_states, arena);
    ports->outputs =
        model_ports(model, &ports->n_outputs, tdn_model_output, states, n_states, arena);
    return ports->inputs && ports->outputs ? TDN_OK : tdn_fail_nomem(error, "the inputs");
}

/* ---- Words ----------------------------------------------------------------------------------- */

const char *tdn_dims_text(const tdn_io_info *info, char *text, size_t size)
{
    size_t at = 0;
    if (info->rank <= 0)
        snprintf(text, size, "%s", info->rank == 0 ? "scalar" : "of any shape");
    for (int i = 0; i < info->rank && at < size; i++) {
        const char *x = i ? "x" : "";
        int n;
        if (info->dims[i] < 0)
            n = snprintf(text + at, size - at, "%s?", x);
        else if ((i == info->batch_axis && info->dims[i] > 1) || (info->bounded >> i & 1))
            n = snprintf(text + at, size - at, "%s%d..%lld", x, i == info->batch_axis,
                         (long long)info->dims[i]);
        else
            n = snprintf(text + at, size - at, "%s%lld", x, (long long)info->dims[i]);
        at += (size_t)n;
    }
    return text;
}

const char *tdn_tensor_text(const tdn_tensor *tensor, char *text, size_t size)
{
    tdn_io_info info = {.rank = tensor->rank, .batch_axis = -1};
    memcpy(info.dims, tensor->dims, sizeof info.dims);
    return tdn_dims_text(&info, text, size);
}

const char *tdn_ports_text(const tdn_io_info *infos, int n, char *text, size_t size)
{
    size_t at = 0;
    snprintf(text, size, "no inputs");
    for (int i = 0; i < n && at < size; i++) {
        char dims[128];
        int k =
            snprintf(text + at, size - at, "%s%s %s %s", i ? ", " : "", infos[i].name,
                     tdn_dtype_name(infos[i].dtype), tdn_dims_text(&infos[i], dims, sizeof dims));
        at += (size_t)k;
    }
    return text;
}

const char *tdn_place_text(const tdn_tensor *t, int64_t index, char *text, size_t size)
{
    int64_t place[TDN_MAX_RANK];
    for (int i = t->rank - 1; i >= 0; i--) {
        place[i] = index % t->dims[i];
        index /= t->dims[i];
    }
    size_t at = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < t->rank && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%lld", i ? ", " : "", (long long)place[i]);
    if (at < size)
        snprintf(text + at, size - at, "]");
    return text;
}

__attribute__((format(printf, 4, 5))) static tdn_status fail_arrays(const tdn_arrays *arrays,
                                                                    const tdn_ports *ports,
                                                                    tdn_error *error,
                                                                    const char *format, ...)
{
    char what[512], list[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (!arrays->path)
        return tdn_fail(error, TDN_E_ARG, "give the inputs as an .npz file\n  expected: %s",
                        tdn_ports_text(ports->inputs, ports->n_inputs, list, sizeof list));
    return tdn_fail(error, TDN_E_FORMAT, "%s: %s\n  expected: %s", arrays->path, what,
                    tdn_ports_text(ports->inputs, ports->n_inputs, list, sizeof list));
}

/* "'emg', 'label'": at most 8. */
static const char *names_text(const tdn_npz *npz, char *text, size_t size)
{
    size_t at = 0;
    snprintf(text, size, "nothing");
    for (int i = 0; i < npz->n && i < 8 && at < size; i++) {
        const char *name = npz->arrays[i].name;
        at += (size_t)snprintf(text + at, size - at, "%s'%.60s'", i ? ", " : "",
                               *name ? name : "(no name)");
    }
    if (npz->n > 8 && at < size)
        snprintf(text + at, size - at, " and %d more", npz->n - 8);
    return text;
}

/* ---- Checking arrays ------------------------------------------------------------------------- */

/* N of "outN", or -1. */
static int output_number(const char *name)
{
    int number, length = 0;
    if (sscanf(name, "out%d%n", &number, &length) != 1 || name[length] || name[3] < '0' ||
        name[3] > '9')
        return -1;
    return number;
}

static bool is_known(const tdn_ports *ports, const char *name)
{
    for (int i = 0; i < ports->n_inputs; i++)
        if (strcmp(ports->inputs[i].name, name) == 0)
            return true;
    for (int i = 0; i < ports->n_outputs; i++)
        if (strcmp(ports->outputs[i].name, name) == 0)
            return true;
    int number = output_number(name);
    return strcmp(name, "label") == 0 || (number >= 0 && number < ports->n_outputs);
}

/* The number of the first NaN, or -1. */
static int64_t find_nan(const tdn_tensor *t)
{
    int64_t n;
    if (!tdn_dims_count(t->dims, t->rank, &n))
        return -1;
    const float *f32 = t->data;
    const double *f64 = t->data;
    const uint16_t *u16 = t->data;
    for (int64_t i = 0; i < n; i++)
        switch (t->dtype) {
        case TDN_F32:
            if (isnan(f32[i]))
                return i;
            break;
        case TDN_F64:
            if (isnan(f64[i]))
                return i;
            break;
        case TDN_F16:
            if ((u16[i] & 0x7fff) > 0x7c00)
                return i;
            break;
        case TDN_BF16:
            if ((u16[i] & 0x7fff) > 0x7f80)
                return i;
            break;
        default: return -1;
        }
    return -1;
}

static tdn_status check_array(const tdn_arrays *arrays, const tdn_array *array,
                              const tdn_io_info *want, const tdn_ports *ports, bool allow_nan,
                              tdn_error *error)
{
    const tdn_tensor *t = &array->tensor;
    char text[128];
    if (array->why)
        return fail_arrays(arrays, ports, error, "'%s' has type %s: %s", want->name, array->descr,
                           array->why);
    if (t->dtype != want->dtype)
        return fail_arrays(arrays, ports, error,
                           "'%s' is %s, the model wants %s: save it with .astype('%s')", want->name,
                           tdn_dtype_name(t->dtype), tdn_dtype_name(want->dtype),
                           tdn_dtype_name(want->dtype));
    if (want->rank >= 0 && t->rank != want->rank)
        return fail_arrays(
            arrays, ports, error, "'%s' has shape %s, which has %d dimension%s, not %d", want->name,
            tdn_tensor_text(t, text, sizeof text), t->rank, t->rank == 1 ? "" : "s", want->rank);
    int64_t nan = allow_nan ? -1 : find_nan(t);
    if (nan >= 0)
        return tdn_fail(error, TDN_E_FORMAT, "%s: '%s' is NaN at %s\n  --allow-nan lets NaN pass",
                        arrays->path, want->name, tdn_place_text(t, nan, text, sizeof text));
    return TDN_OK;
}

/* The array of a .npy file has no name: it is the only input. */
static tdn_status name_single(tdn_arrays *arrays, const tdn_ports *ports, tdn_error *error)
{
    tdn_npz *npz = &arrays->npz;
    if (npz->n != 1 || *npz->arrays[0].name || ports->n_inputs != 1)
        return TDN_OK;
    char *name = strdup(ports->inputs[0].name);
    if (!name)
        return tdn_fail_nomem(error, "a name");
    free(npz->arrays[0].name);
    npz->arrays[0].name = name;
    return TDN_OK;
}

tdn_status tdn_arrays_check(tdn_arrays *arrays, const tdn_ports *ports, bool allow_nan,
                            tdn_error *error)
{
    char names[400];
    TDN_TRY(name_single(arrays, ports, error));
    for (int i = 0; i < ports->n_inputs; i++)
        if (!tdn_npz_find(&arrays->npz, ports->inputs[i].name))
            return fail_arrays(arrays, ports, error, "there is no array '%s', it has %s",
                               ports->inputs[i].name,
                               names_text(&arrays->npz, names, sizeof names));
    for (int i = 0; i < arrays->npz.n; i++)
        if (!is_known(ports, arrays->npz.arrays[i].name))
            return fail_arrays(arrays, ports, error,
                               "array '%s' is no input, output or label of the model",
                               arrays->npz.arrays[i].name);
    for (int i = 0; i < ports->n_inputs; i++) {
        const tdn_array *array = tdn_npz_find(&arrays->npz, ports->inputs[i].name);
        TDN_TRY(check_array(arrays, array, &ports->inputs[i], ports, allow_nan, error));
    }
    return TDN_OK;
}

tdn_status tdn_arrays_shapes(const tdn_arrays *arrays, const tdn_ports *model, tdn_arena *arena,
                             tdn_shape_set *set, tdn_error *error)
{
    tdn_shape_spec *specs = tdn_arena_alloc(arena, (size_t)model->n_inputs + 1, sizeof *specs);
    if (!specs)
        return tdn_fail_nomem(error, "the shapes");
    *set = (tdn_shape_set){specs, model->n_inputs};
    for (int i = 0; i < model->n_inputs; i++) {
        const tdn_io_info *want = &model->inputs[i];
        const tdn_tensor *t = &tdn_npz_find(&arrays->npz, want->name)->tensor;
        specs[i].input = want->name;
        specs[i].rank = t->rank;
        for (int k = 0; k < t->rank; k++)
            specs[i].dims[k] = want->rank < 0 || want->dims[k] < 0 ? t->dims[k] : want->dims[k];
    }
    return TDN_OK;
}

const tdn_array *tdn_arrays_expected(const tdn_arrays *arrays, const tdn_ports *ports, int output)
{
    char name[32];
    snprintf(name, sizeof name, "out%d", output);
    const tdn_array *named = tdn_npz_find(&arrays->npz, ports->outputs[output].name);
    return named ? named : tdn_npz_find(&arrays->npz, name);
}
