/* SPDX-License-Identifier: Apache-2.0 */
/* From the words of the command line to tdn_build_options. */
#include "cli/compile.h"

#include <stdlib.h>
#include <string.h>

#define AT(field) offsetof(tdn_compile_args, field)
#define THREADS                                                                                    \
    {                                                                                              \
        "threads", 0, TDN_OPT_INT, AT(threads), "N",                                               \
            "threads, the calling one included (all cores)", 0, 1024                               \
    }
#define CORES                                                                                      \
    {                                                                                              \
        "cores", 0, TDN_OPT_TEXT, AT(cores), "0,1", "keep the threads on these cores: 0,1 or 2-5", \
            0, 0                                                                                   \
    }
#define SHAPES                                                                                     \
    {                                                                                              \
        "shapes", 0, TDN_OPT_LIST, AT(shapes), "NAME:1x3x8,...",                                   \
            "shapes of inputs; repeated: more programs", 0, 0                                      \
    }
#define STATE                                                                                      \
    {                                                                                              \
        "state", 0, TDN_OPT_LIST, AT(states), "IN:OUT",                                            \
            "after a run input IN takes output OUT's value", 0, 0                                  \
    }
#define PRECISION                                                                                  \
    {                                                                                              \
        "precision", 0, TDN_OPT_TEXT, AT(precision), "fp32|fp16|bf16|int8",                        \
            "(fp32); by layer: --layerPrecisions=NAME:fp32", 0, 0                                  \
    }
#define LEVEL                                                                                      \
    {                                                                                              \
        "optimization-level", 0, TDN_OPT_INT, AT(level), "0..5",                                   \
            "effort (3; 0: none); --build-budget=SECONDS", 0, 5                                    \
    }
#define VERBOSE                                                                                    \
    {                                                                                              \
        "verbose", 0, TDN_OPT_FLAG, AT(verbose), NULL, "print what the compiler does", 0, 0        \
    }

#define OPERATORS                                                                                  \
    {                                                                                              \
        "operators", 0, TDN_OPT_TEXT, AT(operators), "LIB.so",                                     \
            "operators of your own (operator.h)", 0, 0                                             \
    }

#define CALIBRATION                                                                                \
    {"calib-method", 0, TDN_OPT_TEXT, AT(calib_method), NULL, NULL, 0, 0},                         \
    {                                                                                              \
        "calib", 0, TDN_OPT_TEXT, AT(calib), NULL, NULL, 0, 0                                      \
    }
#define LAYER_PRECISIONS                                                                           \
    {                                                                                              \
        "layerPrecisions", 0, TDN_OPT_LIST, AT(layer_precisions), NULL, NULL, 0, 0                 \
    }
#define CALIB_DATA(help)                                                                           \
    {                                                                                              \
        "calib-data", 0, TDN_OPT_TEXT, AT(calib_data), "FILE.npz", help, 0, 0                      \
    }

const tdn_opt tdn_compile_opts[] = {
    PRECISION,
    CALIB_DATA("samples (int8, fp16); --calib, --calib-method"),
    CALIBRATION,
    LAYER_PRECISIONS,
    LEVEL,
    {"build-budget", 0, TDN_OPT_REAL, AT(build_budget), NULL, NULL, 0, 1000000},
    {"timingCacheFile", 0, TDN_OPT_TEXT, AT(timing_cache), "FILE",
     "keep the times of kernels for the next build", 0, 0},
    {"max-weights", 0, TDN_OPT_REAL, AT(max_weights), "RATIO",
     "let weights grow so much for speed (2)", 1, 1000},
    {"target", 0, TDN_OPT_LIST, AT(targets), "NAME", "a CPU to compile for (native); repeatable", 0,
     0},
    SHAPES,
    {"min-shapes", 0, TDN_OPT_LIST, AT(min_shapes), "NAME:1x8,...",
     "or a range: --opt-shapes, --max-shapes, too", 0, 0},
    {"max-shapes", 0, TDN_OPT_LIST, AT(max_shapes), NULL, NULL, 0, 0},
    {"opt-shapes", 0, TDN_OPT_LIST, AT(opt_shapes), NULL, NULL, 0, 0},
    {"minShapes", 0, TDN_OPT_LIST, AT(min_shapes), NULL, NULL, 0, 0},
    {"optShapes", 0, TDN_OPT_LIST, AT(opt_shapes), NULL, NULL, 0, 0},
    {"maxShapes", 0, TDN_OPT_LIST, AT(max_shapes), NULL, NULL, 0, 0},
    STATE,
    {"workspace", 0, TDN_OPT_REAL, AT(workspace), "GB", "limit of the memory for activations", 0,
     1 << 20},
    THREADS,
    CORES,
    OPERATORS,
    {"dump", 0, TDN_OPT_TEXT, AT(dump), "PASS", "print the graph after this pass, or all", 0, 0},
    VERBOSE,
};
const int tdn_n_compile_opts = sizeof tdn_compile_opts / sizeof tdn_compile_opts[0];

const tdn_opt tdn_compile_few_opts[] = {
    SHAPES,
    STATE,
    THREADS,
    CORES,
    PRECISION,
    OPERATORS,
    VERBOSE,
    CALIB_DATA(NULL),
    CALIBRATION,
    LAYER_PRECISIONS,
    {"target", 0, TDN_OPT_LIST, AT(targets), NULL, NULL, 0, 0},
    {"optimization-level", 0, TDN_OPT_INT, AT(level), NULL, NULL, 0, 5},
    {"timingCacheFile", 0, TDN_OPT_TEXT, AT(timing_cache), NULL, NULL, 0, 0},
    {"build-budget", 0, TDN_OPT_REAL, AT(build_budget), NULL, NULL, 0, 1000000},
    {"max-weights", 0, TDN_OPT_REAL, AT(max_weights), NULL, NULL, 1, 1000},
    {"dump", 0, TDN_OPT_TEXT, AT(dump), NULL, NULL, 0, 0},
};
const int tdn_n_compile_few_opts = sizeof tdn_compile_few_opts / sizeof tdn_compile_few_opts[0];

/* The dims behind the last colon of text[0..length-1], whose name comes before it. */
static tdn_status parse_spec(const char *text, size_t length, tdn_arena *arena,
                             tdn_shape_spec *spec, tdn_error *error)
{
    const char *colon = memrchr(text, ':', length), *end = text + length;
    if (!colon || colon == text)
        return tdn_fail(error, TDN_E_ARG,
                        "shape '%.*s': expected NAME:1x3x8, several with commas between",
                        (int)length, text);
    size_t name_size = (size_t)(colon - text);
    if (name_size > 2 && text[0] == '\'' && colon[-1] == '\'') {
        text++;
        name_size -= 2;
    }
    spec->input = tdn_arena_strndup(arena, text, name_size);
    if (!spec->input)
        return tdn_fail_nomem(error, "the shapes");
    const char *at = colon + 1;
    size_t left = (size_t)(end - at);
    spec->rank = 0;
    if (left == 0 || (left == 6 && memcmp(at, "scalar", 6) == 0))
        return TDN_OK;
    for (;; at++) {
        char *after;
        bool digit = at < end && *at >= '0' && *at <= '9';
        long long dim = digit ? strtoll(at, &after, 10) : -1;
        if (!digit || after > end || dim > INT32_MAX || spec->rank == TDN_MAX_RANK)
            return tdn_fail(error, TDN_E_ARG,
                            "shape '%s:%.*s': expected at most %d numbers, as 1x3x8", spec->input,
                            (int)left, colon + 1, TDN_MAX_RANK);
        spec->dims[spec->rank++] = dim;
        at = after;
        if (at == end)
            return TDN_OK;
        if (*at != 'x')
            return tdn_fail(error, TDN_E_ARG,
                            "shape '%s:%.*s': expected numbers with an x between, as 1x3x8",
                            spec->input, (int)left, colon + 1);
    }
}

/* Length of the first spec: up to a comma outside of quotes. */
static size_t spec_length(const char *text)
{
    bool quoted = false;
    size_t i = 0;
    for (; text[i] && (quoted || text[i] != ','); i++)
        quoted ^= text[i] == '\'';
    return i;
}

/* At most so many. */
static size_t n_specs(const char *text)
{
    size_t n = 1;
    for (; *text; text++)
        n += *text == ',';
    return n;
}

tdn_status tdn_shapes_parse(const char *text, tdn_arena *arena, tdn_shape_set *set,
                            tdn_error *error)
{
    tdn_shape_spec *specs = tdn_arena_alloc(arena, n_specs(text), sizeof *specs);
    if (!specs)
        return tdn_fail_nomem(error, "the shapes");
    *set = (tdn_shape_set){specs, 0};
    for (const char *at = text; *at;) {
        size_t length = spec_length(at);
        TDN_TRY(parse_spec(at, length, arena, &specs[set->n_specs++], error));
        at += length + (at[length] == ',');
    }
    return TDN_OK;
}

/* Several options that name different inputs of one set: "--min-shapes=a:1 --min-shapes=b:1". */
static tdn_status parse_bound(const tdn_opt_list *list, tdn_arena *arena, const tdn_shape_set **out,
                              tdn_error *error)
{
    if (list->n == 0)
        return TDN_OK;
    size_t size = 1;
    for (int i = 0; i < list->n; i++)
        size += strlen(list->items[i]) + 1;
    char *joined = tdn_arena_alloc(arena, size, 1);
    tdn_shape_set *set = tdn_arena_alloc(arena, 1, sizeof *set);
    if (!joined || !set)
        return tdn_fail_nomem(error, "the shapes");
    for (int i = 0; i < list->n; i++) {
        strcat(joined, i ? "," : "");
        strcat(joined, list->items[i]);
    }
    *out = set;
    return tdn_shapes_parse(joined, arena, set, error);
}

static tdn_status prepare_shapes(const tdn_compile_args *args, tdn_arena *arena,
                                 tdn_build_options *o, tdn_error *error)
{
    TDN_TRY(parse_bound(&args->min_shapes, arena, &o->min_shapes, error));
    TDN_TRY(parse_bound(&args->opt_shapes, arena, &o->opt_shapes, error));
    TDN_TRY(parse_bound(&args->max_shapes, arena, &o->max_shapes, error));
    const tdn_shape_set *any = o->opt_shapes   ? o->opt_shapes
                               : o->max_shapes ? o->max_shapes
                                               : o->min_shapes;
    if (any && args->shapes.n)
        return tdn_fail(error, TDN_E_ARG,
                        "give either --shapes or --min-shapes, --opt-shapes and --max-shapes");
    o->max_shapes = o->max_shapes ? o->max_shapes : any;
    o->min_shapes = o->min_shapes ? o->min_shapes : any;
    o->opt_shapes = o->opt_shapes ? o->opt_shapes : o->max_shapes;
    if (args->shapes.n == 0)
        return TDN_OK;
    tdn_shape_set *sets = tdn_arena_alloc(arena, (size_t)args->shapes.n, sizeof *sets);
    if (!sets)
        return tdn_fail_nomem(error, "the shapes");
    for (int i = 0; i < args->shapes.n; i++)
        TDN_TRY(tdn_shapes_parse(args->shapes.items[i], arena, &sets[i], error));
    o->shapes = sets;
    o->n_shapes = args->shapes.n;
    return TDN_OK;
}

typedef tdn_status io_fn(const tdn_model *model, int index, tdn_model_io *io);

static bool is_among(const tdn_model *model, io_fn *get, const char *name)
{
    tdn_model_io io = {.struct_size = sizeof io};
    for (int i = 0; get(model, i, &io) == TDN_OK; i++)
        if (strcmp(io.name, name) == 0)
            return true;
    return false;
}

/* "a, b": cut where there are many. */
static const char *io_names(const tdn_model *model, io_fn *get, char *text, size_t size)
{
    tdn_model_io io = {.struct_size = sizeof io};
    size_t at = 0;
    snprintf(text, size, "none");
    for (int i = 0; at < size && get(model, i, &io) == TDN_OK; i++)
        at += (size_t)snprintf(text + at, size - at, "%s%s", i ? ", " : "", io.name);
    return text;
}

static tdn_status fail_state(const char *text, const tdn_model *model, tdn_error *error)
{
    char inputs[400], outputs[400];
    return tdn_fail(error, TDN_E_ARG,
                    "--state=%s: expected INPUT:OUTPUT with the model's names\n  inputs: %s; "
                    "outputs: %s",
                    text, io_names(model, tdn_model_input, inputs, sizeof inputs),
                    io_names(model, tdn_model_output, outputs, sizeof outputs));
}

tdn_status tdn_state_parse(const char *text, const tdn_model *model, tdn_arena *arena,
                           tdn_state_spec *state, tdn_error *error)
{
    for (const char *colon = strchr(text, ':'); colon; colon = strchr(colon + 1, ':')) {
        state->input = tdn_arena_strndup(arena, text, (size_t)(colon - text));
        state->output = colon + 1;
        if (!state->input)
            return tdn_fail_nomem(error, "the states");
        if (is_among(model, tdn_model_input, state->input) &&
            is_among(model, tdn_model_output, state->output))
            return TDN_OK;
    }
    return fail_state(text, model, error);
}

static tdn_status prepare_states(const tdn_compile_args *args, const tdn_model *model,
                                 tdn_arena *arena, tdn_build_options *o, tdn_error *error)
{
    if (args->states.n == 0)
        return TDN_OK;
    tdn_state_spec *states = tdn_arena_alloc(arena, (size_t)args->states.n, sizeof *states);
    if (!states)
        return tdn_fail_nomem(error, "the states");
    for (int i = 0; i < args->states.n; i++)
        TDN_TRY(tdn_state_parse(args->states.items[i], model, arena, &states[i], error));
    o->states = states;
    o->n_states = args->states.n;
    return TDN_OK;
}

/* What decides the plan's bytes, in one order and spelling: it is stored in the plan. */
static const char *flags_text(const tdn_compile_args *args, tdn_arena *arena)
{
    const struct {
        const char *name;
        const tdn_opt_list *list;
    } lists[] = {{"target", &args->targets},
                 {"shapes", &args->shapes},
                 {"min-shapes", &args->min_shapes},
                 {"opt-shapes", &args->opt_shapes},
                 {"max-shapes", &args->max_shapes},
                 {"state", &args->states},
                 {"layerPrecisions", &args->layer_precisions}};
    char *text = tdn_arena_printf(arena, "--precision=%s --optimization-level=%lld",
                                  args->precision, (long long)tdn_compile_level(args));
    if (args->workspace > 0 && text)
        text = tdn_arena_printf(arena, "%s --workspace=%g", text, args->workspace);
    if (args->max_weights > 0 && text)
        text = tdn_arena_printf(arena, "%s --max-weights=%g", text, args->max_weights);
    if (args->build_budget > 0 && text)
        text = tdn_arena_printf(arena, "%s --build-budget=%g", text, args->build_budget);
    for (size_t k = 0; k < sizeof lists / sizeof lists[0]; k++)
        for (int i = 0; i < lists[k].list->n && text; i++)
            text =
                tdn_arena_printf(arena, "%s --%s=%s", text, lists[k].name, lists[k].list->items[i]);
    return text;
}

void tdn_log_line(void *user, tdn_log_level level, const char *line)
{
    tdn_log_sink *sink = user;
    /* Errors come back as such, too. */
    if (level != TDN_LOG_WARNING && !sink->verbose)
        return;
    tdn_term *term = sink->term;
    tdn_term_clear(term);
    if (term->on_line)
        term->on_line(NULL, level, line);
    else if (level == TDN_LOG_WARNING)
        fprintf(term->file, "tendon: %swarning:%s %s\n", tdn_term_on(term, TDN_WARN),
                tdn_term_off(term), line);
    else
        fprintf(term->file, "%s\n", line);
}

/* ---- Precisions ------------------------------------------------------------------------------ */

static bool find_precision(const char *name, size_t length, tdn_precision *precision)
{
    for (int i = 0; tdn_precision_name((tdn_precision)i); i++) {
        const char *known = tdn_precision_name((tdn_precision)i);
        if (strlen(known) == length && memcmp(known, name, length) == 0) {
            *precision = (tdn_precision)i;
            return true;
        }
    }
    return false;
}

static tdn_status prepare_precision(const char *name, tdn_build_options *o, tdn_error *error)
{
    if (find_precision(name, strlen(name), &o->precision))
        return TDN_OK;
    return tdn_fail(error, TDN_E_ARG, "--precision=%s: expected fp32, fp16, bf16 or int8", name);
}

/* text[0..length-1] is NAME:PRECISION, and the name may have colons. */
static tdn_status parse_layer(const char *text, size_t length, tdn_arena *arena,
                              tdn_layer_precision *row, tdn_error *error)
{
    const char *colon = memrchr(text, ':', length), *end = text + length;
    if (!colon || colon == text ||
        !find_precision(colon + 1, (size_t)(end - colon - 1), &row->precision))
        return tdn_fail(
            error, TDN_E_ARG,
            "--layerPrecisions: '%.*s': expected NAME:fp32, or int8, fp16, bf16, several "
            "with commas between",
            (int)length, text);
    const size_t quotes = colon - text > 2 && text[0] == '\'' && colon[-1] == '\'';
    row->layer = tdn_arena_strndup(arena, text + quotes, (size_t)(colon - text) - 2 * quotes);
    return row->layer ? TDN_OK : tdn_fail_nomem(error, "the layers");
}

tdn_status tdn_layers_parse(const tdn_opt_list *list, tdn_arena *arena, tdn_build_options *o,
                            tdn_error *error)
{
    size_t n = 0;
    for (int i = 0; i < list->n; i++)
        n += n_specs(list->items[i]);
    tdn_layer_precision *rows = tdn_arena_alloc(arena, n + 1, sizeof *rows);
    if (!rows)
        return tdn_fail_nomem(error, "the layers");
    o->layer_precisions = rows;
    for (int i = 0; i < list->n; i++)
        for (const char *at = list->items[i]; *at;) {
            const size_t length = spec_length(at);
            TDN_TRY(parse_layer(at, length, arena, &rows[o->n_layer_precisions++], error));
            at += length + (at[length] == ',');
        }
    return TDN_OK;
}

tdn_status tdn_compile_prepare(const tdn_compile_args *args, const tdn_model *model,
                               tdn_arena *arena, tdn_term *log, tdn_build_options *options,
                               tdn_error *error)
{
    *options = (tdn_build_options)TDN_BUILD_OPTIONS_INIT;
    TDN_TRY(prepare_precision(args->precision, options, error));
    TDN_TRY(tdn_layers_parse(&args->layer_precisions, arena, options, error));
    TDN_TRY(prepare_shapes(args, arena, options, error));
    TDN_TRY(prepare_states(args, model, arena, options, error));
    tdn_cores cores;
    TDN_TRY(tdn_cores_parse(args->cores, arena, &cores, error));
    TDN_TRY(tdn_cores_keep(&cores, cores.n, error));
    tdn_log_sink *sink = tdn_arena_alloc(arena, 1, sizeof *sink);
    options->flags = flags_text(args, arena);
    if (!sink || !options->flags)
        return tdn_fail_nomem(error, "the options");
    *sink = (tdn_log_sink){log, args->verbose || args->dump};
    options->optimization_level = (int32_t)tdn_compile_level(args);
    options->n_threads = (int32_t)args->threads;
    options->cores = cores.items;
    options->n_cores = cores.n;
    options->targets = args->targets.items;
    options->n_targets = args->targets.n;
    options->workspace = (uint64_t)(args->workspace * (double)(1 << 30));
    options->max_weights = args->max_weights;
    options->build_budget = args->build_budget;
    options->timing_cache = args->timing_cache;
    options->dump = args->dump;
    options->log = tdn_log_line;
    options->log_user = sink;
    return TDN_OK;
}
