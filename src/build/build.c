/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The compiler's pipeline: for each set of shapes a graph, the passes, and for each target a
 * program; then one plan. Kernels are chosen between, for all programs at once. Nothing depends on
 * the clock, addresses or the number of threads but the times by which kernels are chosen: two
 * builds give the same bytes where none are taken, or all are found in a timing cache.
 */
#include "tendon/build.h"

#include "tendon/calibrate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/pool.h"
#include "base/status.h"
#include "build/model.h"
#include "build/slower.h"
#include "lower/lower.h"
#include "lower/tune.h"
#include "passes/passes.h"
#include "plan/plan.h"
#include "quant/annotate.h"
#include "tendon/calibrate.h"

/* Times the weights with each step made the plain way; of plans in 8 bits, which are to be small.
 */
#define MAX_WEIGHTS 2.0
#define MAX_WEIGHTS_INT8 1.25

enum { N_PHASES = 5, MAX_PROGRAMS = 64, MAX_TARGETS = 16, MAX_SPECS = 64 };

/* A set of shapes between the graph and its programs. */
typedef struct unit {
    tdn_graph *graph;
    tdn_lower_options lower;
    uint32_t first_choice[MAX_TARGETS], n_choices[MAX_TARGETS];
} unit;

typedef struct builder {
    tdn_model *model;
    const tdn_build_options *o;
    tdn_arena *arena;
    tdn_error *error;
    tdn_blobs blobs;
    tdn_choices choices;
    unit *units;        /* by set */
    const char *tuning; /* how kernels were chosen, for the plan's notes */
    const tdn_target *targets[MAX_TARGETS];
    tdn_shape_set sets[MAX_PROGRAMS];
    tdn_plan_program *programs;  /* [set * n_targets + target] */
    int64_t sizes[MAX_PROGRAMS]; /* input elements, by which programs are ordered */
    int32_t n_targets, n_sets;
    int32_t range_axis; /* of a min/opt/max range, or -1 */
    const char **input_names, **output_names;
    uint32_t n_inputs, n_outputs;
    bool narrows;            /* products become int8, or halves that all targets multiply */
    tdn_timing_cache *times; /* of kernels, of all attempts; NULL: they are not kept */
    tdn_products products;   /* and what becomes of them */
    const tdn_layer_precision *layers; /* the options', behind those of layers that are slower so */
    int32_t n_layers;
} builder;

static void progress(const builder *b, int phase, const char *what, double fraction)
{
    if (b->o->progress)
        b->o->progress(b->o->progress_user, phase, N_PHASES, what, fraction);
}

/* ---- Options --------------------------------------------------------------------------------- */

int tdn_target_multiplies(const char *name, tdn_precision precision)
{
    const tdn_target *t =
        !name || !strcmp(name, "native") ? tdn_target_detect() : tdn_target_find(name);
    switch (precision) {
    case TDN_PRECISION_FP16: return t && (t->isa & (TDN_ISA_AVX512FP16 | TDN_ISA_ARMFP16)) != 0;
    case TDN_PRECISION_BF16: return t && (t->isa & TDN_ISA_AVX512BF16) != 0;
    default: return t && tdn_precision_name(precision);
    }
}

static bool all_multiply(const builder *b, tdn_precision precision)
{
    bool all = true;
    for (int i = 0; i < b->n_targets; i++)
        all = all && tdn_target_multiplies(b->targets[i]->name, precision);
    return all;
}

/* Are there passes to make products narrow? All targets share a graph. */
static bool narrows(const builder *b)
{
    const tdn_precision p = b->o->precision;
    return p == TDN_PRECISION_INT8 ? b->o->calibration != NULL
                                   : p != TDN_PRECISION_FP32 && all_multiply(b, p);
}

/* What all targets multiply that graph convolutions may be made of in a narrow build. */
static tdn_dtype half_of(const builder *b)
{
    const tdn_precision p = b->o->precision;
    if (p != TDN_PRECISION_BF16 && all_multiply(b, TDN_PRECISION_FP16))
        return TDN_F16;
    return p != TDN_PRECISION_FP16 && all_multiply(b, TDN_PRECISION_BF16) ? TDN_BF16
                                                                          : TDN_DTYPE_NONE;
}

static tdn_status check_layers(const builder *b)
{
    const tdn_build_options *o = b->o;
    if (o->n_layer_precisions > 0 && !narrows(b))
        return tdn_fail(b->error, TDN_E_ARG,
                        "precisions of layers go with int8 and a calibration, or with fp16 or bf16 "
                        "where every target multiplies those: this build has %s",
                        o->precision == TDN_PRECISION_INT8 ? "no calibration" : "neither");
    for (int i = 0; i < o->n_layer_precisions; i++) {
        const tdn_layer_precision *l = &o->layer_precisions[i];
        if (!l->layer)
            return tdn_fail(b->error, TDN_E_ARG, "precision %d of a layer has no name", i);
        if (!tdn_precision_name(l->precision))
            return tdn_fail(b->error, TDN_E_ARG,
                            "layer '%s': precision %u is none of tdn_precision", l->layer,
                            (unsigned)l->precision);
        if (l->precision == TDN_PRECISION_INT8 && o->precision != TDN_PRECISION_INT8)
            return tdn_fail(b->error, TDN_E_ARG, "layer '%s': int8 is for builds in int8",
                            l->layer);
        if ((l->precision == TDN_PRECISION_FP16 || l->precision == TDN_PRECISION_BF16) &&
            !all_multiply(b, l->precision))
            return tdn_fail(b->error, TDN_E_ARG, "layer '%s': not every target multiplies %s",
                            l->layer, tdn_precision_name(l->precision));
    }
    return TDN_OK;
}

static tdn_status check_options(builder *b)
{
    const tdn_build_options *o = b->o;
    if (o->struct_size < sizeof *o)
        return tdn_fail(b->error, TDN_E_ARG, "options of size %u: use TDN_BUILD_OPTIONS_INIT",
                        o->struct_size);
    if (!tdn_precision_name(o->precision))
        return tdn_fail(b->error, TDN_E_ARG, "precision %u is none of tdn_precision",
                        (unsigned)o->precision);
    if (o->precision == TDN_PRECISION_INT8 && !o->calibration && !tdn_model_has_scales(b->model))
        return tdn_fail(
            b->error, TDN_E_ARG,
            "int8 needs sample data (--calib-data), a calibration cache (--calib), or a "
            "model that carries its own scales");
    if (o->optimization_level < 0 || o->optimization_level > 5)
        return tdn_fail(b->error, TDN_E_ARG, "optimization level %d is not in 0..5",
                        o->optimization_level);
    if (!(o->max_weights == 0 || (o->max_weights >= 1 && o->max_weights <= 1000)))
        return tdn_fail(b->error, TDN_E_ARG, "max weights %g: expected a ratio from 1 to 1000",
                        o->max_weights);
    if (!(o->build_budget >= 0))
        return tdn_fail(b->error, TDN_E_ARG, "a build budget of %g seconds", o->build_budget);
    TDN_TRY(tdn_cores_check(o->cores, o->n_cores, b->error));
    if (o->n_shapes > MAX_PROGRAMS || o->n_targets > MAX_TARGETS)
        return tdn_fail(b->error, TDN_E_ARG, "at most %d sets of shapes and %d targets",
                        MAX_PROGRAMS, MAX_TARGETS);
    if ((o->min_shapes || o->opt_shapes || o->max_shapes) &&
        !(o->min_shapes && o->opt_shapes && o->max_shapes))
        return tdn_fail(b->error, TDN_E_ARG, "a range of shapes needs min, opt and max");
    if (o->n_shapes > 0 && o->max_shapes)
        return tdn_fail(b->error, TDN_E_ARG, "give either shapes or a range of shapes");
    return TDN_OK;
}

static tdn_status find_targets(builder *b)
{
    if (b->o->n_targets == 0 || !b->o->targets) {
        b->targets[b->n_targets++] = tdn_target_detect();
        return TDN_OK;
    }
    for (int i = 0; i < b->o->n_targets; i++) {
        const char *name = b->o->targets[i];
        const tdn_target *t = strcmp(name, "native") ? tdn_target_find(name) : tdn_target_detect();
        if (!t) {
            tdn_fail(b->error, TDN_E_ARG, "no target '%s'; there are: native", name);
            for (int k = 0; b->error && tdn_target_name(k); k++) {
                size_t used = strlen(b->error->text);
                snprintf(b->error->text + used, sizeof b->error->text - used, ", %s",
                         tdn_target_name(k));
            }
            return TDN_E_ARG;
        }
        bool twice = false;
        for (int k = 0; k < b->n_targets; k++)
            twice |= b->targets[k] == t;
        if (!twice)
            b->targets[b->n_targets++] = t;
    }
    return TDN_OK;
}

/* ---- Ranges: min, opt, max -> buckets -------------------------------------------------------- */

static const tdn_shape_spec *spec_of(const tdn_shape_set *set, const char *input)
{
    for (int i = 0; i < set->n_specs; i++)
        if (!strcmp(set->specs[i].input, input))
            return &set->specs[i];
    return NULL;
}

typedef struct range {
    int axis;
    int64_t min, opt, max;
} range;

/* The axis that differs between min and max of one input; all inputs must agree on it. */
static tdn_status range_of(builder *b, const tdn_shape_spec *max, range *r)
{
    const tdn_shape_spec *min = spec_of(b->o->min_shapes, max->input),
                         *opt = spec_of(b->o->opt_shapes, max->input);
    if (!min || !opt || min->rank != max->rank || opt->rank != max->rank)
        return tdn_fail(b->error, TDN_E_ARG, "input '%s' needs min, opt and max of one rank",
                        max->input);
    for (int i = 0; i < max->rank; i++) {
        int64_t lo = min->dims[i], mid = opt->dims[i], hi = max->dims[i];
        if (lo < 1 || lo > mid || mid > hi)
            return tdn_fail(b->error, TDN_E_ARG, "input '%s', axis %d: not 1 <= min <= opt <= max",
                            max->input, i);
        if (lo == hi)
            continue;
        bool agrees =
            r->axis < 0 || (r->axis == i && r->min == lo && r->opt == mid && r->max == hi);
        if (!agrees)
            return tdn_fail(b->error, TDN_E_ARG,
                            "input '%s', axis %d: one axis may range, the same on all inputs "
                            "(the batch); give each other shape by --shapes",
                            max->input, i);
        *r = (range){i, lo, mid, hi};
    }
    return TDN_OK;
}

static tdn_status add_bucket(builder *b, const range *r, int64_t size)
{
    const tdn_shape_set *max = b->o->max_shapes;
    if (b->n_sets == MAX_PROGRAMS)
        return tdn_fail(b->error, TDN_E_ARG, "a range of more than %d buckets", MAX_PROGRAMS);
    tdn_shape_spec *specs = tdn_arena_alloc(b->arena, (size_t)max->n_specs + 1, sizeof *specs);
    if (!specs)
        return tdn_fail_nomem(b->error, "shapes");
    for (int i = 0; i < max->n_specs; i++) {
        specs[i] = max->specs[i];
        if (r->axis >= 0)
            specs[i].dims[r->axis] = size;
    }
    b->sets[b->n_sets++] = (tdn_shape_set){specs, max->n_specs};
    return TDN_OK;
}

static tdn_status make_buckets(builder *b)
{
    range r = {-1, 1, 1, 1};
    for (int i = 0; i < b->o->max_shapes->n_specs; i++)
        TDN_TRY(range_of(b, &b->o->max_shapes->specs[i], &r));
    b->range_axis = r.axis;
    int64_t power = 1;
    for (int64_t size = r.min; size > 0;) {
        TDN_TRY(add_bucket(b, &r, size));
        while (power <= size && power < r.max)
            power *= 2;
        int64_t next = power > size && power <= r.max ? power : r.max;
        if (r.opt > size && r.opt < next)
            next = r.opt;
        size = next > size ? next : 0;
    }
    return TDN_OK;
}

static tdn_status find_sets(builder *b)
{
    b->range_axis = -1;
    if (b->o->max_shapes)
        return make_buckets(b);
    for (int i = 0; i < b->o->n_shapes; i++)
        b->sets[b->n_sets++] = b->o->shapes[i];
    if (b->n_sets == 0)
        b->sets[b->n_sets++] = (tdn_shape_set){NULL, 0};
    return TDN_OK;
}

/* ---- States ---------------------------------------------------------------------------------- */

static tdn_value *find_named(tdn_value *const *values, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(values[i]->name, name))
            return values[i];
    return NULL;
}

static tdn_status declare_states(builder *b, tdn_graph *g)
{
    g->states = tdn_arena_alloc(b->arena, (size_t)b->o->n_states + 1, sizeof *g->states);
    if (!g->states)
        return tdn_fail_nomem(b->error, "states");
    for (int i = 0; i < b->o->n_states; i++) {
        const tdn_state_spec *s = &b->o->states[i];
        tdn_state *state = &g->states[g->n_states];
        state->input = find_named(g->inputs, g->n_inputs, s->input);
        state->output = find_named(g->outputs, g->n_outputs, s->output);
        if (!state->input || !state->output)
            return tdn_fail(b->error, TDN_E_ARG, "state '%s:%s': no %s of that name", s->input,
                            s->output, state->input ? "output" : "input");
        if (state->input->dtype != state->output->dtype ||
            !tdn_shape_equal(&state->input->shape, &state->output->shape))
            return tdn_fail(b->error, TDN_E_ARG,
                            "state '%s:%s': input and output differ in shape or type", s->input,
                            s->output);
        for (int k = 0; k < g->n_states; k++)
            if (g->states[k].input == state->input || g->states[k].output == state->output)
                return tdn_fail(b->error, TDN_E_ARG,
                                "state '%s:%s': one of them is in another state", s->input,
                                s->output);
        g->n_states++;
    }
    return TDN_OK;
}

/* ---- Programs -------------------------------------------------------------------------------- */

static bool is_state(const tdn_graph *g, const tdn_value *v)
{
    for (int i = 0; i < g->n_states; i++)
        if (g->states[i].input == v || g->states[i].output == v)
            return true;
    return false;
}

static uint32_t list_names(const tdn_graph *g, tdn_value *const *values, int n, const char **names)
{
    uint32_t count = 0;
    for (int i = 0; i < n; i++)
        if (!is_state(g, values[i]))
            names[count++] = values[i]->name;
    return count;
}

static tdn_status name_io(builder *b, const tdn_graph *g)
{
    b->input_names = tdn_arena_alloc(b->arena, (size_t)g->n_inputs + 1, sizeof *b->input_names);
    b->output_names = tdn_arena_alloc(b->arena, (size_t)g->n_outputs + 1, sizeof *b->output_names);
    if (!b->input_names || !b->output_names)
        return tdn_fail_nomem(b->error, "names");
    b->n_inputs = list_names(g, g->inputs, g->n_inputs, b->input_names);
    b->n_outputs = list_names(g, g->outputs, g->n_outputs, b->output_names);
    return TDN_OK;
}

static void dump_line(void *user, const char *text)
{
    const tdn_build_options *o = user;
    if (o->log)
        o->log(o->log_user, TDN_LOG_INFO, text);
}

/* The batch axes of a graph's inputs, then of its outputs. */
typedef struct proof {
    builder *b;
    int32_t *axes; /* NULL: no batch */
} proof;

/* Between the passes: later ones may put other things along the axis. */
static tdn_status prove_batch(void *user, const tdn_graph *g, tdn_error *error)
{
    proof *p = user;
    builder *b = p->b;
    const char *where = NULL;
    if (b->range_axis < 0)
        return TDN_OK;
    int32_t *axes = tdn_arena_alloc(b->arena, (size_t)g->n_values + 1, sizeof *axes);
    p->axes = tdn_arena_alloc(b->arena, (size_t)(g->n_inputs + g->n_outputs) + 1, sizeof *axes);
    if (!axes || !p->axes)
        return tdn_fail_nomem(error, "batch axes");
    if (!tdn_graph_batch_axes(g, b->range_axis, axes, &where))
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "axis %d is no independent batch: node or output '%s' mixes along "
                        "it or cannot be followed; give each shape by --shapes",
                        b->range_axis, where);
    for (int i = 0; i < g->n_inputs; i++)
        p->axes[i] = axes[g->inputs[i]->id];
    for (int i = 0; i < g->n_outputs; i++)
        p->axes[g->n_inputs + i] = axes[g->outputs[i]->id];
    return TDN_OK;
}

/* What lowering wants to know of it: by values, as they are now. */
static tdn_status set_batch(const proof *p, const tdn_graph *g, tdn_lower_options *lo)
{
    lo->batch_axis = -1;
    if (!p->axes)
        return TDN_OK;
    int32_t *axes = tdn_arena_alloc(p->b->arena, (size_t)g->n_values + 1, sizeof *axes);
    if (!axes)
        return tdn_fail_nomem(p->b->error, "batch axes");
    for (int i = 0; i < g->n_inputs; i++)
        axes[g->inputs[i]->id] = p->axes[i];
    for (int i = 0; i < g->n_outputs; i++)
        axes[g->outputs[i]->id] = p->axes[g->n_inputs + i];
    lo->batch_axis = p->b->range_axis;
    lo->batch_axes = axes;
    return TDN_OK;
}

static bool calibrated_range(void *user, const char *name, float *amax)
{
    tdn_calibration_range found = {.struct_size = sizeof found};
    if (tdn_calibration_find(user, name, &found) != TDN_OK)
        return false;
    *amax = (float)found.amax;
    return true;
}

static void note_product(void *user, const tdn_product_info *product)
{
    builder *b = user;
    tdn_products_add(&b->products, product);
}

/* Between the passes: what becomes int8 or halves. */
static tdn_status annotate(void *user, tdn_graph *g, tdn_error *error)
{
    const builder *b = user;
    const tdn_annotate_options options = {.precision = b->o->precision,
                                          .half = half_of(b),
                                          .range = b->o->calibration ? calibrated_range : NULL,
                                          .range_user = (void *)(uintptr_t)b->o->calibration,
                                          .layers = b->layers,
                                          .n_layers = b->n_layers,
                                          .product = note_product,
                                          .product_user = user,
                                          .log = b->o->log,
                                          .log_user = b->o->log_user};
    return tdn_quant_annotate(g, &options, error);
}

/* The graph of a set of shapes, with the passes run. */
static tdn_status optimize_set(builder *b, int set)
{
    unit *u = &b->units[set];
    tdn_graph *g;
    progress(b, 2, "Optimizing the graph", (double)set / b->n_sets);
    TDN_TRY(tdn_model_graph(&g, b->model, b->arena, &b->sets[set], b->error));
    for (int i = 0; i < g->n_inputs; i++)
        b->sizes[set] += tdn_shape_count(&g->inputs[i]->shape);
    TDN_TRY(declare_states(b, g));
    if (set == 0)
        TDN_TRY(name_io(b, g));
    proof p = {b, NULL};
    const tdn_pass_options po = {.dump = b->o->dump,
                                 .line = dump_line,
                                 .user = (void *)b->o,
                                 .before_batching = prove_batch,
                                 .batching_user = &p,
                                 .before_quantizing = b->narrows ? annotate : NULL,
                                 .quantizing_user = b};
    TDN_TRY(tdn_passes_run(g, &po, b->error));
    u->graph = g;
    u->lower = (tdn_lower_options){.takes_halves = b->o->precision == TDN_PRECISION_FP16,
                                   .log = b->o->log,
                                   .log_user = b->o->log_user};
    return set_batch(&p, g, &u->lower);
}

/* What can be chosen in the programs of a set. */
static tdn_status collect_set(builder *b, int set)
{
    unit *u = &b->units[set];
    for (int t = 0; t < b->n_targets; t++) {
        u->lower.isa = b->targets[t]->isa;
        u->lower.target = t;
        u->first_choice[t] = b->choices.n;
        TDN_TRY(tdn_lower_collect(&b->choices, u->graph, &u->lower, b->arena, b->error));
        u->n_choices[t] = b->choices.n - u->first_choice[t];
    }
    return TDN_OK;
}

static tdn_status compile_set(builder *b, int set)
{
    unit *u = &b->units[set];
    for (int t = 0; t < b->n_targets; t++) {
        progress(b, 3, "Compiling", (set + (double)t / b->n_targets) / b->n_sets);
        u->lower.isa = b->targets[t]->isa;
        u->lower.target = t;
        u->lower.choices = b->choices.n ? b->choices.items + u->first_choice[t] : NULL;
        u->lower.n_choices = u->n_choices[t];
        tdn_plan_program *p = &b->programs[set * b->n_targets + t];
        TDN_TRY(tdn_lower(p, u->graph, &u->lower, &b->blobs, b->arena, b->error));
        if (b->o->workspace && p->arena_size > b->o->workspace)
            return tdn_fail(b->error, TDN_E_ARG,
                            "the engine needs a workspace of %.1f MB, %.1f MB are allowed: raise "
                            "--workspace",
                            (double)p->arena_size / 1e6, (double)b->o->workspace / 1e6);
    }
    return TDN_OK;
}

/* ---- The plan -------------------------------------------------------------------------------- */

/* Numbers of the sets, smallest first. */
static void order_sets(const builder *b, int *order)
{
    for (int i = 0; i < b->n_sets; i++) {
        int k = i;
        for (; k > 0 && b->sizes[order[k - 1]] > b->sizes[i]; k--)
            order[k] = order[k - 1];
        order[k] = i;
    }
}

static tdn_status make_sections(builder *b, tdn_plan *plan)
{
    int order[MAX_PROGRAMS];
    order_sets(b, order);
    tdn_plan_section *sections = tdn_arena_alloc(b->arena, (size_t)b->n_targets, sizeof *sections);
    if (!sections)
        return tdn_fail_nomem(b->error, "sections");
    for (int t = 0; t < b->n_targets; t++) {
        tdn_plan_program *programs = tdn_arena_alloc(b->arena, (size_t)b->n_sets, sizeof *programs);
        if (!programs)
            return tdn_fail_nomem(b->error, "programs");
        for (int i = 0; i < b->n_sets; i++)
            programs[i] = b->programs[order[i] * b->n_targets + t];
        sections[t] = (tdn_plan_section){b->targets[t]->name, b->targets[t]->isa, programs};
    }
    plan->sections = sections;
    plan->n_sections = (uint32_t)b->n_targets;
    plan->n_programs = (uint32_t)b->n_sets;
    return TDN_OK;
}

/* ---- The choice of kernels ------------------------------------------------------------------- */

/* Where narrow layers are held against float32, each has half of it. */
static int64_t budget_ms(const builder *b)
{
    static const int64_t by_level[] = {0, 500, 1000, 3000, 15000, TDN_TUNE_NO_LIMIT};
    const tdn_build_options *o = b->o;
    int64_t budget = by_level[o->optimization_level];
    if (o->optimization_level > 0 && o->build_budget > 0)
        budget = o->build_budget < 1e6 ? (int64_t)(o->build_budget * 1e3) + 1 : TDN_TUNE_NO_LIMIT;
    return budget != TDN_TUNE_NO_LIMIT && narrows(b) ? budget / 2 : budget;
}

static void tune_progress(void *user, const char *what, double fraction)
{
    const builder *b = user;
    progress(b, 3, what, fraction);
}

/* Which targets can be timed; the log says which cannot. */
static void find_present(const builder *b, bool *is_present)
{
    char line[160];
    const uint64_t isa = tdn_backends[0]->detect();
    for (int t = 0; t < b->n_targets; t++) {
        is_present[t] = (b->targets[t]->isa & ~isa) == 0;
        if (is_present[t] || !b->o->log)
            continue;
        snprintf(line, sizeof line,
                 "target %s: this machine cannot run it, so kernels are chosen by estimate",
                 b->targets[t]->name);
        b->o->log(b->o->log_user, TDN_LOG_INFO, line);
    }
}

static tdn_status read_cache(builder *b, tdn_timing_cache *cache)
{
    char line[300];
    TDN_TRY(tdn_timing_cache_read(cache, b->o->timing_cache, b->error));
    if (cache->n_damaged && b->o->log) {
        snprintf(line, sizeof line, "%.200s: %zu lines that are no times are left out",
                 b->o->timing_cache, cache->n_damaged);
        b->o->log(b->o->log_user, TDN_LOG_WARNING, line);
    }
    return TDN_OK;
}

static tdn_status tune(builder *b, const tdn_tune_options *to)
{
    tdn_tune_result r;
    TDN_TRY(tdn_tune(&b->choices, to, &r, b->error));
    if (b->o->timing_cache && to->cache->changed)
        TDN_TRY(tdn_timing_cache_write(to->cache, b->o->timing_cache, b->error));
    if (r.n_timed)
        b->tuning = tdn_arena_printf(b->arena, "%u of %u steps by time, %d threads on %s",
                                     r.n_timed, r.n_steps, r.n_threads, r.cpu);
    return b->tuning ? TDN_OK : tdn_fail_nomem(b->error, "tuning");
}

static double most_weights(const tdn_build_options *o)
{
    if (o->max_weights > 0)
        return o->max_weights;
    return o->precision == TDN_PRECISION_INT8 ? MAX_WEIGHTS_INT8 : MAX_WEIGHTS;
}

static tdn_status choose(builder *b)
{
    bool is_present[MAX_TARGETS];
    const tdn_tune_options to = {.budget_ms = budget_ms(b),
                                 .n_threads = b->o->n_threads,
                                 .cores = b->o->cores,
                                 .n_cores = b->o->n_cores,
                                 .n_targets = b->n_targets,
                                 .is_present = is_present,
                                 .cache = b->times,
                                 .allocator = b->model->allocator,
                                 .log = b->o->log,
                                 .log_user = b->o->log_user,
                                 .progress = tune_progress,
                                 .progress_user = b};
    b->tuning = "by estimate";
    if (to.budget_ms > 0) {
        find_present(b, is_present);
        TDN_TRY(tune(b, &to));
    }
    TDN_TRY(tdn_choices_decide(&b->choices, most_weights(b->o), b->error));
    tdn_tune_log(&b->choices, &to);
    return TDN_OK;
}

/* ---- All of it ------------------------------------------------------------------------------- */

/* All graphs, and which kernels make their steps. */
static tdn_status prepare(builder *b)
{
    b->units = tdn_arena_alloc(b->arena, (size_t)b->n_sets, sizeof *b->units);
    if (!b->units)
        return tdn_fail_nomem(b->error, "programs");
    b->choices = (tdn_choices){.arena = b->arena};
    b->products = (tdn_products){.arena = b->arena};
    memset(b->sizes, 0, sizeof b->sizes);
    for (int i = 0; i < b->n_sets; i++)
        TDN_TRY(optimize_set(b, i));
    for (int i = 0; i < b->n_sets; i++)
        TDN_TRY(collect_set(b, i));
    progress(b, 3, "Compiling", 0);
    TDN_TRY(choose(b));
    return b->products.failed ? tdn_fail_nomem(b->error, "names of layers") : TDN_OK;
}

/* Layers that are slower when narrow than in float32, where fewer multiplications may do, go back.
 * The options' rows come last, and so count. */
static tdn_status undo_slower(builder *b)
{
    builder floats = *b;
    char line[160];
    const int32_t n_given = b->o->n_layer_precisions;
    tdn_layer_precision *rows =
        tdn_arena_alloc(b->arena, (size_t)(b->products.n + n_given) + 1, sizeof *rows);
    if (!rows)
        return tdn_fail_nomem(b->error, "precisions of layers");
    floats.narrows = false;
    TDN_TRY(prepare(&floats));
    const int32_t n = tdn_products_slower(&b->products, &b->choices, &floats.choices, rows);
    if (n <= 0)
        return n == 0 ? TDN_OK : tdn_fail_nomem(b->error, "precisions of layers");
    snprintf(line, sizeof line, "%d of %d layers are faster in float32 here, and stay so", n,
             b->products.n);
    if (b->o->log)
        b->o->log(b->o->log_user, TDN_LOG_INFO, line);
    if (n_given)
        memcpy(rows + n, b->o->layer_precisions, (size_t)n_given * sizeof *rows);
    b->layers = rows;
    b->n_layers = n + n_given;
    return prepare(b);
}

static tdn_status compile(builder *b, void **bytes, size_t *size)
{
    TDN_TRY(check_options(b));
    TDN_TRY(find_targets(b));
    TDN_TRY(check_layers(b));
    TDN_TRY(find_sets(b));
    b->programs =
        tdn_arena_alloc(b->arena, (size_t)(b->n_sets * b->n_targets), sizeof *b->programs);
    if (!b->programs)
        return tdn_fail_nomem(b->error, "programs");
    tdn_timing_cache times = {.arena = b->arena};
    b->narrows = narrows(b);
    b->times = b->o->timing_cache || b->narrows ? &times : NULL;
    if (b->o->timing_cache && b->o->optimization_level > 0)
        TDN_TRY(read_cache(b, &times));
    b->layers = b->o->layer_precisions;
    b->n_layers = b->o->n_layer_precisions;
    TDN_TRY(prepare(b));
    if (b->narrows)
        TDN_TRY(undo_slower(b));
    for (int32_t i = 0; b->o->product && i < b->products.n; i++)
        b->o->product(b->o->product_user, &b->products.items[i]);
    for (int i = 0; i < b->n_sets; i++)
        TDN_TRY(compile_set(b, i));
    progress(b, 4, "Writing the plan", 0);
    tdn_calibration_info calibration = {.struct_size = sizeof calibration};
    const bool is_calibrated = b->o->precision == TDN_PRECISION_INT8 && b->o->calibration;
    const bool has_accuracy = is_calibrated && b->o->accuracy;
    if (is_calibrated)
        TDN_TRY(tdn_calibration_get_info(b->o->calibration, &calibration));
    const tdn_plan_note notes[] = {
        {"model", tdn_model_name(b->model)},
        {"model_sha256", tdn_model_digest(b->model)},
        {"version", tdn_version()},
        {"precision", tdn_precision_name(b->o->precision)},
        {"kernels", b->tuning},
        {"flags", b->o->flags ? b->o->flags : ""},
        {"calibration", calibration.origin}, /* the last two: not in all plans */
        {"accuracy", b->o->accuracy},
    };
    tdn_plan plan = {.input_names = b->input_names,
                     .output_names = b->output_names,
                     .n_inputs = b->n_inputs,
                     .n_outputs = b->n_outputs,
                     .blobs = b->blobs.items,
                     .n_blobs = b->blobs.n,
                     .notes = notes,
                     .n_notes = sizeof notes / sizeof *notes - !is_calibrated - !has_accuracy};
    TDN_TRY(make_sections(b, &plan));
    TDN_TRY(tdn_plan_write(&plan, NULL, bytes, size, b->error));
    progress(b, 4, "Writing the plan", 1);
    return TDN_OK;
}

tdn_status tdn_build(tdn_model *model, const tdn_build_options *options, void **plan, size_t *size,
                     tdn_error *error)
{
    static const tdn_build_options defaults = TDN_BUILD_OPTIONS_INIT;
    tdn_error own;
    if (!model || !plan || !size)
        return tdn_fail(error, TDN_E_ARG, "a model, and where to put the plan, are needed");
    *plan = NULL;
    *size = 0;
    builder b = {.model = model, .o = options ? options : &defaults, .error = error ? error : &own};
    b.arena = tdn_arena_create(model->allocator);
    b.blobs.arena = b.choices.arena = b.arena;
    tdn_status status = b.arena ? compile(&b, plan, size) : tdn_fail_nomem(error, "the build");
    tdn_arena_free(b.arena);
    return status;
}

void tdn_plan_free(void *plan) { tdn_free(NULL, plan); }

tdn_status tdn_build_file(tdn_model *model, const tdn_build_options *options, const char *path,
                          tdn_error *error)
{
    void *plan;
    size_t size;
    TDN_TRY(tdn_build(model, options, &plan, &size, error));
    tdn_status status = tdn_file_write(path, plan, size, error);
    tdn_plan_free(plan);
    return status;
}
