/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tendon validate: an engine against the reference, which evaluates the same model plainly and
 * shares no code with it; and against expected outputs and labels where the data has them. Every
 * call of the engine is followed by the reference's on the same inputs, so memory does not grow
 * with the samples.
 */
#include <stdlib.h>
#include <string.h>

#include "base/difference.h"
#include "base/half.h"
#include "cli/cmd.h"
#include "cli/layers.h"
#include "cli/session.h"
#include "tendon/calibrate.h"

typedef struct validate_args {
    tdn_compile_args compile;
    const char *data;
    double atol, rtol, rms; /* negative: not given */
    int64_t samples, seed;  /* samples 0: all */
    bool layers, allow_nan;
} validate_args;

#define AT(field) offsetof(validate_args, field)
static const tdn_opt validate_opts[] = {
    {"data", 'd', TDN_OPT_TEXT, AT(data), "FILE.npz",
     "inputs, expected outputs, label (else seeded)", 0, 0},
    {"atol", 0, TDN_OPT_REAL, AT(atol), "X", "must hold: |a - b| <= atol + rtol |b| (1e-4)", 0,
     1e300},
    {"rtol", 0, TDN_OPT_REAL, AT(rtol), NULL, NULL, 0, 1e300},
    {"rms", 0, TDN_OPT_REAL, AT(rms), "X", "or: RMS by b's (int8 .1, fp16 .01, bf16 .05)", 0,
     1e300},
    {"samples", 0, TDN_OPT_INT, AT(samples), "N", "of which the reference evaluates N (all)", 1,
     1e12},
    {"layers", 0, TDN_OPT_FLAG, AT(layers), NULL, "compare every value inside, too", 0, 0},
    {"seed", 0, TDN_OPT_INT, AT(seed), NULL, NULL, 0, 1e15},
    {"allow-nan", 0, TDN_OPT_FLAG, AT(allow_nan), NULL, "let NaN in the inputs pass", 0, 0},
};

static const tdn_usage usage = {
    .synopsis = "validate MODEL.onnx [PLAN] [--data=FILE.npz] [options]",
    .about = "Compares an engine, compiled in memory or PLAN, with the reference, and with\n"
             "expected outputs where the data has them (by name, or out0, out1, ...);\n"
             "accuracy where it has 'label'. Exit code 0 only if all are near enough.",
    .example = "tendon validate emg.onnx emg.plan --data=test.npz --samples=50",
    .n_operands_min = 1,
    .n_operands_max = 2,
};

/* One output of all calls. */
typedef struct compared {
    const char *name;
    tdn_stack engine, reference; /* reference: of the evaluated calls only */
    int64_t rows;                /* of axis 0 in every call but the last, which may have fewer */
    tdn_difference difference;
} compared;

typedef struct validation {
    const validate_args *args;
    tdn_session *session;
    tdn_model *model;
    const tdn_arrays *arrays; /* NULL: none */
    tdn_feed feed;
    tdn_ports ports;       /* of the engine's program */
    tdn_ports model_ports; /* all of the model's, states included */
    tdn_state_spec *states;
    int n_states;
    tdn_tensor *state_values; /* of the reference */
    tdn_reference *reference;
    tdn_shape_spec *specs; /* that it was created for; one a model input */
    tdn_tensor *inputs;    /* one a model input */
    compared *outputs;
    bool *evaluated; /* calls that the reference saw */
    tdn_layers *layers;
    tdn_term *term;
    tdn_tolerance tolerance; /* of each element */
    double rms;              /* of all of an output instead; negative: elements count */
    bool holds;
} validation;

/* Each element, unless asked otherwise or rounded to few bits, which an element or two show more
 * than others. */
static void choose_rule(validation *v)
{
    const validate_args *a = v->args;
    tdn_engine_info info = {.struct_size = sizeof info};
    const bool known = tdn_engine_get_info(v->session->engine, &info) == TDN_OK;
    const bool asked = a->rms >= 0 || a->atol >= 0 || a->rtol >= 0;
    v->tolerance = (tdn_tolerance){a->atol < 0 ? 1e-4 : a->atol, a->rtol < 0 ? 1e-4 : a->rtol};
    v->rms = a->rms;
    if (asked)
        return;
    if ((known && !strcmp(info.precision, "int8")) || tdn_model_has_scales(v->model))
        v->rms = 0.1;
    else if (known && !strcmp(info.precision, "fp16"))
        v->rms = 0.01;
    else if (known && !strcmp(info.precision, "bf16"))
        v->rms = 0.05;
}

/* Of an output in halves the last bit may differ, which rounding decides. */
static tdn_tolerance tolerance_of(const validation *v, tdn_dtype dtype)
{
    const bool asked = v->args->atol >= 0 || v->args->rtol >= 0;
    tdn_tolerance t = v->tolerance;
    if (!asked && tdn_is_half(dtype))
        t.rtol = dtype == TDN_F16 ? 0x1p-10 : 0x1p-7;
    return t;
}

static tdn_view view_of(const tdn_tensor *t)
{
    return tdn_view_make(t->data, t->dtype, t->rank, t->dims);
}

/* ---- The reference's inputs and states ------------------------------------------------------- */

static int state_of(const validation *v, const char *input)
{
    for (int i = 0; i < v->n_states; i++)
        if (strcmp(v->states[i].input, input) == 0)
            return i;
    return -1;
}

/* A state begins as zeros, in the shape that the model declares (symbolic dims are 1). */
static tdn_status make_state(validation *v, int state, const tdn_io_info *info, tdn_error *error)
{
    tdn_tensor *t = &v->state_values[state];
    int64_t n;
    *t = tdn_tensor_make(NULL, info->dtype, info->rank, info->dims);
    for (int k = 0; k < t->rank; k++)
        t->dims[k] = t->dims[k] < 0 ? 1 : t->dims[k];
    if (info->rank < 0 || !tdn_dims_count(t->dims, t->rank, &n))
        return tdn_fail(error, TDN_E_ARG, "state '%s' has no shape in the model", info->name);
    t->data = tdn_arena_alloc_data(v->session->arena, tdn_dtype_size(t->dtype, (size_t)n));
    return t->data ? TDN_OK : tdn_fail_nomem(error, "the states");
}

static tdn_status find_states(validation *v, tdn_error *error)
{
    const tdn_opt_list *given = &v->args->compile.states;
    tdn_arena *arena = v->session->arena;
    v->n_states = given->n;
    v->states = tdn_arena_alloc(arena, (size_t)given->n + 1, sizeof *v->states);
    v->state_values = tdn_arena_alloc(arena, (size_t)given->n + 1, sizeof *v->state_values);
    if (!v->states || !v->state_values)
        return tdn_fail_nomem(error, "the states");
    for (int i = 0; i < given->n; i++)
        TDN_TRY(tdn_state_parse(given->items[i], v->model, arena, &v->states[i], error));
    for (int i = 0; i < v->model_ports.n_inputs; i++) {
        int state = state_of(v, v->model_ports.inputs[i].name);
        if (state >= 0)
            TDN_TRY(make_state(v, state, &v->model_ports.inputs[i], error));
    }
    return TDN_OK;
}

/* The model's input `index` in a call: from the feed or from a state. */
static tdn_status model_input(const validation *v, int index, int64_t call, tdn_tensor *t,
                              tdn_error *error)
{
    const char *name = v->model_ports.inputs[index].name;
    int state = state_of(v, name);
    if (state >= 0) {
        *t = v->state_values[state];
        return TDN_OK;
    }
    for (int i = 0; i < v->feed.n_inputs; i++)
        if (strcmp(v->feed.inputs[i].name, name) == 0) {
            *t = tdn_feed_tensor(&v->feed, i, call);
            return TDN_OK;
        }
    return tdn_fail(
        error, TDN_E_ARG,
        "the plan has no input '%s': is it the plan of another model?\n  if it is a state "
        "there, say --state=%s:OUTPUT",
        name, name);
}

/* The reference for the shapes of v->inputs: the last call of a batch may be shorter. */
static tdn_status prepare_reference(validation *v, tdn_error *error)
{
    int n = v->model_ports.n_inputs;
    bool same = v->reference != NULL;
    for (int i = 0; i < n; i++) {
        const tdn_tensor *t = &v->inputs[i];
        same = same && t->rank == v->specs[i].rank &&
               memcmp(t->dims, v->specs[i].dims, sizeof t->dims) == 0;
        v->specs[i].input = v->model_ports.inputs[i].name;
        v->specs[i].rank = t->rank;
        memcpy(v->specs[i].dims, t->dims, sizeof t->dims);
    }
    if (same)
        return TDN_OK;
    tdn_reference_free(v->reference);
    v->reference = NULL;
    tdn_shape_set set = {v->specs, n};
    return tdn_reference_create(&v->reference, v->model, &set, (int)v->args->compile.threads,
                                error);
}

static tdn_status reference_value(const validation *v, const char *name, tdn_tensor *t,
                                  tdn_error *error)
{
    tdn_status status = tdn_reference_value(v->reference, name, t);
    if (status == TDN_OK)
        return TDN_OK;
    return tdn_fail(error, status, "the model has no value '%s': is the plan of another model?",
                    name);
}

static tdn_status run_reference(validation *v, int64_t call, tdn_error *error)
{
    for (int i = 0; i < v->model_ports.n_inputs; i++)
        TDN_TRY(model_input(v, i, call, &v->inputs[i], error));
    TDN_TRY(prepare_reference(v, error));
    TDN_TRY(tdn_reference_run(v->reference, v->inputs, v->model_ports.n_inputs, error));
    for (int i = 0; i < v->n_states; i++) {
        tdn_tensor t = {.struct_size = sizeof t};
        tdn_view from, to = view_of(&v->state_values[i]);
        TDN_TRY(reference_value(v, v->states[i].output, &t, error));
        from = view_of(&t);
        if (!tdn_view_same_dims(&from, &to) || from.dtype != to.dtype)
            return tdn_fail(error, TDN_E_SHAPE,
                            "state '%s' and output '%s' differ in shape or type",
                            v->states[i].input, v->states[i].output);
        memcpy(to.data, from.data, tdn_dtype_size(to.dtype, (size_t)tdn_view_count(&to)));
    }
    return TDN_OK;
}

/* ---- Comparing ------------------------------------------------------------------------------- */

static tdn_status compare_outputs(validation *v, tdn_error *error)
{
    for (int i = 0; i < v->session->n_outputs; i++) {
        compared *c = &v->outputs[i];
        const tdn_tensor *a = &v->session->outputs[i].tensor;
        tdn_tensor b = {.struct_size = sizeof b};
        TDN_TRY(reference_value(v, c->name, &b, error));
        tdn_view va = view_of(a), vb = view_of(&b);
        char is[128], should[128];
        if (!tdn_view_same_dims(&va, &vb))
            return tdn_fail(error, TDN_E_CHECK, "output '%s' is %s, the reference has %s", c->name,
                            tdn_tensor_text(a, is, sizeof is),
                            tdn_tensor_text(&b, should, sizeof should));
        tdn_difference_add(&c->difference, &va, &vb, tolerance_of(v, va.dtype));
        TDN_TRY(tdn_stack_add(&c->reference, &b, c->name, error));
    }
    return TDN_OK;
}

/* Is this one of the n of n_calls that the reference evaluates, spread evenly? With states all must
 * be. */
static bool is_sampled(const validation *v, int64_t call)
{
    int64_t n = v->args->samples, of = v->feed.n_calls;
    if (n <= 0 || n >= of)
        return true;
    if (v->n_states > 0)
        return call < n;
    return (call + 1) * n / of > call * n / of;
}

static tdn_status compare_call(validation *v, int64_t call, tdn_error *error)
{
    tdn_session *s = v->session;
    v->evaluated[call] = is_sampled(v, call);
    if (v->evaluated[call])
        TDN_TRY(run_reference(v, call, error));
    TDN_TRY(tdn_session_bind(s, &v->feed, call, error));
    if (v->layers)
        tdn_layers_watch(v->layers, s->context, v->evaluated[call] ? v->reference : NULL);
    TDN_TRY(tdn_session_run(s, error));
    for (int i = 0; i < s->n_outputs; i++) {
        const tdn_tensor *t = &s->outputs[i].tensor;
        TDN_TRY(tdn_stack_add(&v->outputs[i].engine, t, v->outputs[i].name, error));
        if (call == 0)
            v->outputs[i].rows = t->rank > 0 ? t->dims[0] : 1;
    }
    return v->evaluated[call] ? compare_outputs(v, error) : TDN_OK;
}

/* ---- Report ---------------------------------------------------------------------------------- */

/* The element among all calls that is number `element` among the evaluated ones. */
static int64_t element_of_all(const validation *v, const compared *c, int64_t element)
{
    int64_t n_rows = c->reference.tensor.rank > 0 ? c->reference.tensor.dims[0] : 1, call = 0;
    int64_t width = n_rows > 0 ? c->difference.n / n_rows : 0, size = width * c->rows;
    if (size == 0)
        return element;
    /* The call that is number `element / size` of those evaluated. */
    for (int64_t left = element / size; call < v->feed.n_calls; call++)
        if (v->evaluated[call] && left-- == 0)
            break;
    return call * size + element % size;
}

static const char *worst_text(const tdn_difference *d, int64_t element, const tdn_tensor *stack,
                              char *text, size_t size)
{
    char place[128];
    snprintf(text, size, "%s: %.9g, not %.9g", tdn_place_text(stack, element, place, sizeof place),
             d->worst_a, d->worst_b);
    return text;
}

/* `element`: the worst one's number in `stack`. */
static void print_difference(validation *v, const char *what, const char *name,
                             const tdn_difference *d, int64_t element, const tdn_tensor *stack)
{
    char worst[256] = "";
    tdn_term out = tdn_term_of(stdout);
    const bool by_rms = v->rms >= 0;
    bool holds = by_rms ? tdn_difference_rms(d) <= v->rms : d->n_outside == 0;
    v->holds = v->holds && holds;
    if (d->n > 0)
        worst_text(d, element, stack, worst, sizeof worst);
    printf("%-20s %-9s  %s%-7s%s  max %.3g  mean %.3g  cosine %.9f  SQNR %.1f dB\n", name, what,
           tdn_term_on(&out, holds ? TDN_GOOD : TDN_BAD), holds ? "ok" : "DIFFERS",
           tdn_term_off(&out), d->max, tdn_difference_mean(d), tdn_difference_cosine(d),
           tdn_difference_sqnr(d));
    if (by_rms)
        printf("%-20s %-9s           RMS of a - b by that of b: %.4f\n", "", "",
               tdn_difference_rms(d));
    printf("%-20s %-9s           %s %s", "", "",
           holds && !by_rms ? "nearest to the limit" : "worst", worst);
    if (!holds && !by_rms)
        printf("; %lld of %lld elements differ", (long long)d->n_outside, (long long)d->n);
    printf("\n");
}

static tdn_status compare_expected(validation *v, tdn_error *error)
{
    for (int i = 0; v->arrays && i < v->session->n_outputs; i++) {
        const tdn_array *array = tdn_arrays_expected(v->arrays, &v->ports, i);
        if (!array)
            continue;
        const tdn_tensor *is = &v->outputs[i].engine.tensor, *should = &array->tensor;
        tdn_view a = view_of(is), b = view_of(should);
        char text_is[128], text_should[128];
        if (array->why)
            return tdn_fail(error, TDN_E_FORMAT, "%s: expected output '%s' has type %s: %s",
                            v->arrays->path, array->name, array->descr, array->why);
        if (!tdn_view_same_dims(&a, &b))
            return tdn_fail(error, TDN_E_FORMAT,
                            "%s: expected output '%s' has shape %s; the engine gives %s",
                            v->arrays->path, array->name,
                            tdn_tensor_text(should, text_should, sizeof text_should),
                            tdn_tensor_text(is, text_is, sizeof text_is));
        tdn_difference d = {0};
        tdn_difference_add(&d, &a, &b, tolerance_of(v, a.dtype));
        print_difference(v, "expected", v->outputs[i].name, &d, d.worst, should);
    }
    return TDN_OK;
}

/* The first output with a row for each label. */
static const compared *classifier(const validation *v, int64_t n_labels)
{
    for (int i = 0; i < v->session->n_outputs; i++) {
        const tdn_tensor *t = &v->outputs[i].engine.tensor;
        if (t->rank > 0 && n_labels > 0 && t->dims[0] == n_labels)
            return &v->outputs[i];
    }
    return NULL;
}

/* Accuracy over all rows, and of both over those that the reference evaluated. */
static void print_accuracy(const validation *v, const compared *c, const tdn_view *labels,
                           int64_t n_labels)
{
    int64_t right = 0, n_both = 0, right_engine = 0, right_reference = 0, agree = 0;
    int64_t n_evaluated = c->reference.tensor.rank > 0 ? c->reference.tensor.dims[0] : 0;
    const tdn_view of_engine = view_of(&c->engine.tensor),
                   of_reference = view_of(&c->reference.tensor);
    for (int64_t row = 0; row < n_labels; row++) {
        int64_t label = tdn_view_get_int(labels, row),
                engine = tdn_decision(&of_engine, row, n_labels);
        right += engine == label;
        if (!v->evaluated[row / c->rows] || n_both >= n_evaluated)
            continue;
        int64_t reference = tdn_decision(&of_reference, n_both++, n_evaluated);
        right_engine += engine == label;
        right_reference += reference == label;
        agree += engine == reference;
    }
    printf("accuracy of the engine     %6.2f %%  (%lld of %lld)\n",
           100.0 * (double)right / (double)n_labels, (long long)right, (long long)n_labels);
    if (n_both == 0)
        return;
    if (n_both < n_labels)
        printf("  on the reference's       %6.2f %%  (%lld of %lld)\n",
               100.0 * (double)right_engine / (double)n_both, (long long)right_engine,
               (long long)n_both);
    printf("accuracy of the reference  %6.2f %%  (%lld of %lld)\n",
           100.0 * (double)right_reference / (double)n_both, (long long)right_reference,
           (long long)n_both);
    printf("same decisions             %6.2f %%  (%lld of %lld)\n",
           100.0 * (double)agree / (double)n_both, (long long)agree, (long long)n_both);
}

static tdn_status report_labels(const validation *v, tdn_error *error)
{
    const tdn_array *label = v->arrays ? tdn_npz_find(&v->arrays->npz, "label") : NULL;
    if (!label)
        return TDN_OK;
    int64_t n = 0;
    if (label->why || !tdn_dims_count(label->tensor.dims, label->tensor.rank, &n))
        return tdn_fail(error, TDN_E_FORMAT, "%s: 'label' has type %s", v->arrays->path,
                        label->descr);
    const compared *c = classifier(v, n);
    if (!c)
        return tdn_fail(error, TDN_E_FORMAT, "%s: no output has a row for each of the %lld labels",
                        v->arrays->path, (long long)n);
    tdn_view labels = tdn_view_make(label->tensor.data, label->tensor.dtype, 1, &n);
    print_accuracy(v, c, &labels, n);
    return TDN_OK;
}

static tdn_status report(validation *v, tdn_error *error)
{
    int64_t n = 0;
    for (int64_t call = 0; call < v->feed.n_calls; call++)
        n += v->evaluated[call];
    char rule[128];
    if (v->rms >= 0)
        snprintf(rule, sizeof rule, "RMS of a - b at most %g of b's", v->rms);
    else
        snprintf(rule, sizeof rule, "|a - b| <= %g + %g |b|", v->tolerance.atol, v->tolerance.rtol);
    printf("%lld call%s of the engine, %lld of the reference; %s\n", (long long)v->feed.n_calls,
           v->feed.n_calls == 1 ? "" : "s", (long long)n, rule);
    tdn_engine_info info = {.struct_size = sizeof info};
    if (tdn_engine_get_info(v->session->engine, &info) == TDN_OK && *info.calibration)
        printf("calibration: %s\n", info.calibration);
    if (v->layers) /* what is inside of an engine that rounds is looked at, not judged */
        v->holds = (tdn_layers_print(v->layers) || v->rms >= 0) && v->holds;
    for (int i = 0; i < v->session->n_outputs; i++) {
        const compared *c = &v->outputs[i];
        print_difference(v, "reference", c->name, &c->difference,
                         element_of_all(v, c, c->difference.worst), &c->engine.tensor);
    }
    TDN_TRY(compare_expected(v, error));
    TDN_TRY(report_labels(v, error));
    if (!v->holds && v->rms >= 0)
        return tdn_fail(error, TDN_E_CHECK, "the engine differs by more than --rms=%g", v->rms);
    if (!v->holds)
        return tdn_fail(error, TDN_E_CHECK, "the engine differs by more than atol %g + rtol %g",
                        v->tolerance.atol, v->tolerance.rtol);
    return TDN_OK;
}

/* ---- The command ----------------------------------------------------------------------------- */

static tdn_status prepare(validation *v, const tdn_session_options *options, tdn_error *error)
{
    tdn_session *s = v->session;
    int n = tdn_model_n_inputs(v->model);
    choose_rule(v);
    TDN_TRY(tdn_ports_of_engine(&v->ports, s->engine, 0, s->arena, error));
    TDN_TRY(tdn_ports_of_model(&v->model_ports, v->model, NULL, 0, s->arena, error));
    TDN_TRY(find_states(v, error));
    TDN_TRY(tdn_session_feed(s, &v->feed, options, v->args->samples > 0 ? v->args->samples : 1,
                             (uint64_t)v->args->seed, error));
    v->specs = tdn_arena_alloc(s->arena, (size_t)n + 1, sizeof *v->specs);
    v->inputs = tdn_arena_alloc(s->arena, (size_t)n + 1, sizeof *v->inputs);
    v->outputs = tdn_arena_alloc(s->arena, (size_t)s->n_outputs + 1, sizeof *v->outputs);
    v->evaluated = tdn_arena_alloc(s->arena, (size_t)v->feed.n_calls + 1, sizeof *v->evaluated);
    if (!v->specs || !v->inputs || !v->outputs || !v->evaluated)
        return tdn_fail_nomem(error, "the comparison");
    for (int i = 0; i < s->n_outputs; i++)
        v->outputs[i].name = v->ports.outputs[i].name;
    return v->args->layers ? tdn_layers_create(&v->layers, v->tolerance, error) : TDN_OK;
}

static tdn_status compare_all(validation *v, const tdn_session_options *options, tdn_error *error)
{
    TDN_TRY(prepare(v, options, error));
    for (int64_t call = 0; call < v->feed.n_calls; call++) {
        TDN_TRY(compare_call(v, call, error));
        tdn_term_bar(v->term, "comparing", (double)(call + 1) / (double)v->feed.n_calls);
    }
    tdn_term_clear(v->term);
    return report(v, error);
}

static tdn_status validate(validation *v, const char *path, const char *plan, tdn_arrays *arrays,
                           tdn_error *error)
{
    tdn_compile_args compile = v->args->compile;
    /* Of a plan's states only the reference must be told. */
    if (plan)
        compile.states = (tdn_opt_list){NULL, 0};
    tdn_session_options options = {.compile = &compile,
                                   .arrays = arrays,
                                   .allow_nan = v->args->allow_nan,
                                   .spin_us = -1,
                                   .log = v->term};
    TDN_TRY(tdn_session_open_model(v->session, v->model, path, plan, &options, error));
    tdn_status status = compare_all(v, &options, error);
    for (int i = 0; v->outputs && i < v->session->n_outputs; i++) {
        tdn_stack_free(&v->outputs[i].engine);
        tdn_stack_free(&v->outputs[i].reference);
    }
    tdn_layers_free(v->layers);
    tdn_reference_free(v->reference);
    return status;
}

static tdn_status validate_files(const tdn_operands *operands, const validate_args *args,
                                 tdn_error *error)
{
    tdn_arrays arrays = {.path = args->data};
    tdn_term term = tdn_term_of(stderr);
    tdn_log_sink sink = {&term, args->compile.verbose};
    tdn_session session = {.arena = NULL};
    const char *path = operands->items[0];
    bool is_plan;
    TDN_TRY(tdn_file_is_plan(path, &is_plan, error));
    if (is_plan)
        return tdn_fail(error, TDN_E_ARG, "%s is a plan; the model comes first: tendon %s", path,
                        usage.synopsis);
    if (args->data)
        TDN_TRY(tdn_npz_read(&arrays.npz, args->data, error));
    validation v = {.args = args,
                    .session = &session,
                    .arrays = args->data ? &arrays : NULL,
                    .term = &term,
                    .holds = true};
    tdn_status status =
        tdn_session_load_model(&v.model, path, args->compile.operators, &sink, error);
    if (status == TDN_OK)
        status = validate(&v, path, operands->n > 1 ? operands->items[1] : NULL,
                          args->data ? &arrays : NULL, error);
    tdn_session_close(&session);
    tdn_model_free(v.model);
    tdn_npz_free(&arrays.npz);
    return status;
}

int tdn_cmd_validate(int argc, char **argv)
{
    validate_args args = {
        .compile = TDN_COMPILE_ARGS_INIT, .atol = -1, .rtol = -1, .rms = -1, .seed = 1};
    tdn_opt_set sets[] = {{validate_opts, sizeof validate_opts / sizeof validate_opts[0], &args},
                          {tdn_compile_few_opts, tdn_n_compile_few_opts, &args.compile}};
    tdn_operands operands;
    tdn_error error = {""};
    int code;
    if (tdn_cmd_begin(&usage, sets, 2, argc, argv, &operands, &code))
        code = tdn_cmd_end(validate_files(&operands, &args, &error), &error);
    tdn_opts_free(sets, 2, &operands);
    return code;
}
