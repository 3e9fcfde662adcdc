/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See annotate.h. Weights are symmetric, -127..127, one scale an output: of what that output's
 * weights reach. Values are unsigned where they cannot be negative, else on the zero 128.
 *
 * Halves need no ranges; where one is known that binary16 does not reach, what reads the value
 * stays float32.
 *
 * A product that is a small part of all work and of all weights stays float32, unless bytes of what
 * it reads are there already: it has nothing to gain, and the first and the last layers of a
 * network, which are such ones as a rule, lose most by bytes.
 */
#include "quant/annotate.h"

#include <math.h>
#include <string.h>

#include "base/status.h"
#include "ops/op.h"
#include "ops/signs.h"
#include "quant/layers.h"

enum {
    SMALL_PART = 256,   /* of the work: products of less stay float32 */
    SMALL_WEIGHTS = 32, /* of the weights: unless they have more of these */
    WEIGHT_FLOPS = 4    /* what reading a weight counts as */
};

/* Samples reach less far than what comes later, and ranges for bytes may be cut. */
#define LARGEST_HALF 65504.0
#define HEADROOM 2
#define HEADROOM_CUT 64
#define LEAST_NORMAL_HALF 0x1p-14f

typedef struct annotator {
    tdn_graph *g;
    const tdn_annotate_options *o;
    const bool *binary, *not_negative; /* by value id */
    double work, weights;              /* of all products */
    int n_products, n_narrow, n_small;
    char missing[256];   /* names of values without a range */
    char too_large[256]; /* names of values that halves do not hold */
} annotator;

static bool is_product(const tdn_node *n)
{
    const tdn_value *w = n->n_in > 1 ? n->in[1] : NULL;
    const bool conv = n->op->core == TDN_CORE_CONV;
    return (conv || (n->op->core == TDN_CORE_MATMUL && w->shape.rank == 2)) && !n->expr &&
           n->n_own_in == 2 && w->kind == TDN_VALUE_CONST && w->dtype == TDN_F32 &&
           n->in[0]->dtype == TDN_F32 && n->in[0]->kind != TDN_VALUE_CONST &&
           tdn_shape_count(&w->shape) > 0 && !n->out[0]->shape.bounded;
}

/* Kernels of integers read channels in fours, but of a depthwise convolution; those of halves in
 * pairs. */
static bool has_kernel(const tdn_node *n, bool of_halves)
{
    const bool is_conv = n->op->core == TDN_CORE_CONV;
    const int64_t group = tdn_attr_int(&n->attrs, "group", 1);
    const int64_t c = n->in[1]->shape.dims[is_conv ? 1 : 0];
    return of_halves ? c % 2 == 0 : !is_conv || group == 1 || c == 1 || c % 4 == 0;
}

static double work_of(const tdn_node *n)
{
    return (double)tdn_node_flops(n) + WEIGHT_FLOPS * (double)tdn_shape_count(&n->in[1]->shape);
}

/* What v's elements were moved from; of an input of the network that was only transposed v itself,
 * which is quantised as it is moved. */
static tdn_value *source_of(tdn_value *v)
{
    tdn_value *from = v;
    bool only_transposed = true;
    while (from->producer && tdn_node_moves_elements(from->producer)) {
        only_transposed &= from->producer->op->core == TDN_CORE_TRANSPOSE;
        from = from->producer->in[0];
    }
    return from->kind == TDN_VALUE_INPUT && only_transposed ? v : from;
}

/* By the name of the value, or of what its elements were moved from. */
static bool range_of(const annotator *a, const tdn_value *v, float *amax)
{
    if (!a->o->range)
        return false;
    for (;; v = v->producer->in[0]) {
        if (a->o->range(a->o->range_user, v->name, amax))
            return true;
        if (!v->producer || !tdn_node_moves_elements(v->producer))
            return false;
    }
}

static tdn_quant *new_quant(tdn_graph *g, int64_t n, int axis, float **scale, int32_t **zero)
{
    tdn_quant *q = tdn_arena_alloc(g->arena, 1, sizeof *q);
    *scale = tdn_arena_alloc(g->arena, (size_t)n, sizeof **scale);
    *zero = tdn_arena_alloc(g->arena, (size_t)n, sizeof **zero);
    if (!q || !*scale || !*zero)
        return NULL;
    *q = (tdn_quant){.n = (int32_t)n, .axis = axis, .scale = *scale, .zero_point = *zero};
    return q;
}

static bool mark_value(annotator *a, tdn_value *v, float amax)
{
    float *scale;
    int32_t *zero;
    tdn_quant *q = new_quant(a->g, 1, 0, &scale, &zero);
    if (!q)
        return false;
    const bool is_unsigned = a->not_negative[v->id];
    *scale = amax / (is_unsigned ? 255 : 127);
    *zero = is_unsigned ? 0 : 128;
    v->quant = q;
    return true;
}

static int64_t output_of(int64_t i, int64_t run, int64_t outputs) { return i / run % outputs; }

/* The largest magnitude of each output's weights as scales; false where one is not finite. */
static bool find_scales(const tdn_value *w, int64_t run, int64_t outputs, float *scale)
{
    const float *data = w->data;
    const int64_t n = tdn_shape_count(&w->shape);
    for (int64_t i = 0; i < n; i++) {
        float *s = &scale[output_of(i, run, outputs)];
        if (!isfinite(data[i]))
            return false;
        *s = fmaxf(*s, fabsf(data[i]));
    }
    for (int64_t i = 0; i < outputs; i++)
        scale[i] = scale[i] >= 127 * 1e-30f ? scale[i] / 127 : 1;
    return true;
}

/* The node's weights on a grid of their own; *done is false where they are not finite. */
static tdn_status mark_weights(annotator *a, tdn_node *n, bool *done, tdn_error *error)
{
    const tdn_value *w = n->in[1];
    const bool conv = n->op->core == TDN_CORE_CONV;
    const int axis = conv ? 0 : 1;
    const int64_t count = tdn_shape_count(&w->shape), outputs = w->shape.dims[axis],
                  run = conv ? count / outputs : 1;
    float *scale, *data = tdn_arena_alloc_data(a->g->arena, (size_t)count * sizeof *data);
    int32_t *zero;
    tdn_quant *q = new_quant(a->g, outputs, axis, &scale, &zero);
    if (!q || !data)
        return tdn_fail_nomem(error, "weights");
    *done = find_scales(w, run, outputs, scale);
    if (!*done)
        return TDN_OK;
    for (int64_t i = 0; i < count; i++) {
        const float s = scale[output_of(i, run, outputs)];
        data[i] = rintf(((const float *)w->data)[i] / s) * s;
    }
    tdn_value *v = tdn_graph_const(a->g, w->name, TDN_F32, &w->shape, data);
    if (!v)
        return tdn_fail_nomem(error, "weights");
    v->quant = q;
    tdn_node_set_input(n, 1, v);
    return TDN_OK;
}

/* Names that the compiler made up are in no calibration: what they name may change. */
static void note_name(char list[256], const char *name)
{
    if (*name == '~')
        return;
    char quoted[256];
    const size_t used = strlen(list);
    snprintf(quoted, sizeof quoted, "'%s'", name);
    if (!strstr(list, quoted))
        snprintf(list + used, 256 - used, "%s%s", used ? ", " : "", quoted);
}

static bool is_small(const annotator *a, const tdn_node *n)
{
    return work_of(n) < a->work / SMALL_PART &&
           (double)tdn_shape_count(&n->in[1]->shape) < a->weights / SMALL_WEIGHTS;
}

static tdn_status quantize_product(annotator *a, tdn_node *n, bool is_forced, bool *done,
                                   tdn_error *error)
{
    tdn_value *x = n->in[0], *v = source_of(x);
    float amax = 0;
    *done = false;
    if (a->binary[x->id] || !has_kernel(n, false) || v->kind == TDN_VALUE_CONST)
        return TDN_OK; /* spikes are added up, not multiplied */
    if (!is_forced && !v->quant && is_small(a, n)) {
        a->n_small++;
        return TDN_OK;
    }
    if (!v->quant && !range_of(a, v, &amax) && !range_of(a, x, &amax)) {
        note_name(a->missing, v->name);
        return TDN_OK;
    }
    TDN_TRY(mark_weights(a, n, done, error));
    if (!*done)
        return TDN_OK;
    a->n_narrow++;
    return v->quant || mark_value(a, v, amax) ? TDN_OK : tdn_fail_nomem(error, "a scale");
}

/* Do binary16 hold an output's weights well? As packed halves are asked (tdn_halves_check). */
static bool weights_fit(const tdn_node *n)
{
    const tdn_value *w = n->in[1];
    const bool conv = n->op->core != TDN_CORE_MATMUL;
    const int64_t count = tdn_shape_count(&w->shape), outputs = w->shape.dims[conv ? 0 : 1],
                  terms = count / outputs;
    const float *data = w->data;
    for (int64_t i = 0; i < outputs; i++) {
        float largest = 0;
        for (int64_t k = 0; k < terms; k++) {
            const float x = fabsf(data[conv ? i * terms + k : k * outputs + i]);
            if (!(x <= (float)LARGEST_HALF))
                return false;
            largest = fmaxf(largest, x);
        }
        if (largest > 0 && largest < LEAST_NORMAL_HALF)
            return false;
    }
    return true;
}

/* `gain`: how much larger than its operand what is multiplied may be. */
static bool value_fits(annotator *a, const tdn_value *v, const tdn_value *x, double gain)
{
    const bool is_cut = a->o->precision == TDN_PRECISION_INT8;
    float amax = 0;
    if (!range_of(a, v, &amax) && !range_of(a, x, &amax))
        return !is_cut;
    const bool fits = (double)amax * gain * (is_cut ? HEADROOM_CUT : HEADROOM) <= LARGEST_HALF;
    if (!fits)
        note_name(a->too_large, v->name);
    return fits;
}

static bool mark_halves(annotator *a, tdn_node *n, tdn_dtype half)
{
    tdn_quant *q = tdn_arena_alloc(a->g->arena, 1, sizeof *q);
    tdn_value *w = tdn_graph_const(a->g, n->in[1]->name, TDN_F32, &n->in[1]->shape, n->in[1]->data);
    if (!q || !w)
        return false;
    q->half = half;
    w->quant = q;
    tdn_node_set_input(n, 1, w);
    return true;
}

static tdn_status halve_product(annotator *a, tdn_node *n, tdn_dtype half, bool is_forced,
                                bool *done, tdn_error *error)
{
    tdn_value *x = n->in[0], *v = source_of(x);
    *done = false;
    if (a->binary[x->id] || !has_kernel(n, true) || v->kind == TDN_VALUE_CONST ||
        (v->quant && v->quant->half != half))
        return TDN_OK;
    if (!is_forced && !v->quant && is_small(a, n)) {
        a->n_small++;
        return TDN_OK;
    }
    if (half == TDN_F16 && (!weights_fit(n) || !value_fits(a, v, x, 1)))
        return TDN_OK;
    *done = mark_halves(a, n, half);
    if (*done)
        v->quant = n->in[1]->quant;
    a->n_narrow += *done;
    return *done ? TDN_OK : tdn_fail_nomem(error, "a mark of halves");
}

/* Graph convolutions read and write floats, and multiply halves inside. */
static bool is_graph(const tdn_node *n)
{
    return n->op->core == TDN_CORE_GRAPHCONV && n->in[1]->kind == TDN_VALUE_CONST &&
           n->in[2]->kind == TDN_VALUE_CONST && n->in[1]->dtype == TDN_F32 &&
           n->in[0]->shape.dims[1] % 2 == 0;
}

/* The most that the graph (kinds, from, to) makes of a value: sums over neighbours. */
static double gain_of(const tdn_value *graph)
{
    const int64_t *dims = graph->shape.dims;
    const float *weight = graph->data;
    double most = 1;
    for (int64_t i = 0; i < dims[0] * dims[2]; i++) {
        double sum = 0;
        for (int64_t from = 0; from < dims[1]; from++)
            sum += fabs((double)weight[(i / dims[2] * dims[1] + from) * dims[2] + i % dims[2]]);
        most = fmax(most, sum);
    }
    return most;
}

static tdn_status halve_graph(annotator *a, tdn_node *n, tdn_dtype half, bool *done,
                              tdn_error *error)
{
    *done = false;
    if (half == TDN_F16 &&
        (!weights_fit(n) || !value_fits(a, source_of(n->in[0]), n->in[0], gain_of(n->in[2]))))
        return TDN_OK;
    *done = mark_halves(a, n, half);
    return *done ? TDN_OK : tdn_fail_nomem(error, "a mark of halves");
}

static void log_line(const annotator *a, tdn_log_level level, const char *line)
{
    if (a->o->log)
        a->o->log(a->o->log_user, level, line);
}

static void report_product(const annotator *a, const tdn_node *n, const tdn_layer_precision *asked,
                           tdn_precision precision)
{
    char line[512];
    const tdn_product_info info = {.struct_size = sizeof info,
                                   .name = tdn_layer_name(n),
                                   .work = a->work > 0 ? work_of(n) / a->work : 0,
                                   .precision = precision,
                                   .is_forced = asked && asked->precision == precision};
    snprintf(line, sizeof line, "%s: %5.2f %% of the work, %.400s", tdn_precision_name(precision),
             100 * info.work, info.name);
    log_line(a, TDN_LOG_INFO, line);
    if (asked && asked->precision != info.precision) {
        snprintf(line, sizeof line,
                 "layer '%.400s' stays float32: its operand or shape is none of %s", info.name,
                 tdn_precision_name(asked->precision));
        log_line(a, TDN_LOG_WARNING, line);
    }
    if (a->o->product)
        a->o->product(a->o->product_user, &info);
}

static tdn_status annotate_product(annotator *a, tdn_node *n, tdn_error *error)
{
    const tdn_layer_precision *asked = tdn_layer_find(a->o->layers, a->o->n_layers, n);
    const tdn_precision wanted = asked ? asked->precision : a->o->precision;
    bool done = false;
    if (wanted == TDN_PRECISION_INT8)
        TDN_TRY(quantize_product(a, n, asked != NULL, &done, error));
    else if (wanted != TDN_PRECISION_FP32)
        TDN_TRY(halve_product(a, n, wanted == TDN_PRECISION_FP16 ? TDN_F16 : TDN_BF16,
                              asked != NULL, &done, error));
    report_product(a, n, asked, done ? wanted : TDN_PRECISION_FP32);
    return TDN_OK;
}

/* There is a choice where it is to be narrow; kernels in bytes there are none. */
static tdn_status annotate_graph(annotator *a, tdn_node *n, tdn_error *error)
{
    const tdn_layer_precision *asked = tdn_layer_find(a->o->layers, a->o->n_layers, n);
    bool done = false;
    char line[512];
    if (a->o->half != TDN_DTYPE_NONE && (!asked || asked->precision != TDN_PRECISION_FP32))
        TDN_TRY(halve_graph(a, n, a->o->half, &done, error));
    if (done) {
        snprintf(line, sizeof line, "%s: graph convolution %.400s", tdn_dtype_name(a->o->half),
                 tdn_layer_name(n));
        log_line(a, TDN_LOG_INFO, line);
    }
    return TDN_OK;
}

static void report(const annotator *a)
{
    char line[512];
    snprintf(line, sizeof line,
             "%s: %d of %d convolutions and products by constants; %d are too small to gain by it",
             tdn_precision_name(a->o->precision), a->n_narrow, a->n_products, a->n_small);
    log_line(a, TDN_LOG_INFO, line);
    if (a->too_large[0]) {
        snprintf(line, sizeof line,
                 "fp16 would overflow, or nearly so, in %s: what reads them stays float32",
                 a->too_large);
        log_line(a, TDN_LOG_WARNING, line);
    }
    if (!a->missing[0])
        return;
    snprintf(line, sizeof line,
             "no range is known of %s: what reads it stays float32; calibrate this model anew",
             a->missing);
    log_line(a, TDN_LOG_WARNING, line);
}

static bool has_choice(const tdn_node *n) { return is_product(n) || is_graph(n); }

tdn_status tdn_quant_annotate(tdn_graph *g, const tdn_annotate_options *options, tdn_error *error)
{
    annotator a = {.g = g, .o = options};
    a.binary = tdn_binary_values(g, g->arena);
    a.not_negative = tdn_not_negative_values(g, g->arena);
    if (!a.binary || !a.not_negative)
        return tdn_fail_nomem(error, "the choice of what is quantised");
    for (tdn_node *n = g->first; n; n = n->next)
        if (is_product(n)) {
            a.n_products++;
            a.work += work_of(n);
            a.weights += (double)tdn_shape_count(&n->in[1]->shape);
        }
    TDN_TRY(tdn_layers_check(options->layers, options->n_layers, g, has_choice, error));
    for (tdn_node *n = g->first; n; n = n->next)
        if (is_graph(n))
            TDN_TRY(annotate_graph(&a, n, error));
    for (int small = 0; small < 2; small++) /* these follow what others made of their operands */
        for (tdn_node *n = g->first; n; n = n->next)
            if (is_product(n) && is_small(&a, n) == (small != 0))
                TDN_TRY(annotate_product(&a, n, error));
    report(&a);
    return TDN_OK;
}
