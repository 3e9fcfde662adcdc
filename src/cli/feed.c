/* SPDX-License-Identifier: Apache-2.0 */
/* Cutting arrays into calls, seeded values where there are no arrays, and stacking results. */
#include "cli/feed.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/view.h"

/* ---- Feeds ----------------------------------------------------------------------------------- */

/* Do tensors of these dims fit the program in one call? Along batch axes all have one count, up to
 * the program's. */
static bool fits_once(const tdn_ports *program, const tdn_feed_input *inputs)
{
    int64_t batch = -1;
    for (int i = 0; i < program->n_inputs; i++) {
        const tdn_io_info *want = &program->inputs[i];
        const tdn_tensor *t = &inputs[i].whole;
        if (t->rank != want->rank)
            return false;
        for (int k = 0; k < t->rank; k++) {
            if (k != want->batch_axis && t->dims[k] != want->dims[k])
                return false;
            if (k != want->batch_axis)
                continue;
            if (t->dims[k] < 1 || t->dims[k] > want->dims[k] || (batch >= 0 && batch != t->dims[k]))
                return false;
            batch = t->dims[k];
        }
    }
    return true;
}

/* Calls that the program needs when axis 0 is cut into samples; 0: it does not fit. Fills the
 * inputs' steps.
 */
static int64_t fits_samples(const tdn_ports *program, tdn_feed_input *inputs)
{
    int64_t n_calls = 0;
    for (int i = 0; i < program->n_inputs; i++) {
        const tdn_io_info *want = &program->inputs[i];
        const tdn_tensor *t = &inputs[i].whole;
        if (t->rank != want->rank || t->rank == 0 || want->dims[0] <= 0 ||
            memcmp(t->dims + 1, want->dims + 1, ((size_t)t->rank - 1) * sizeof t->dims[0]) != 0)
            return 0;
        int64_t rest = t->dims[0] % want->dims[0], n = t->dims[0] / want->dims[0] + (rest > 0);
        if ((rest && want->batch_axis != 0) || n == 0 || (i > 0 && n != n_calls))
            return 0;
        /* The last calls must be equally short. */
        if (i > 0 && want->batch_axis == 0 && program->inputs[0].batch_axis == 0 &&
            t->dims[0] != inputs[0].whole.dims[0])
            return 0;
        n_calls = n;
        inputs[i].step = want->dims[0];
    }
    return n_calls;
}

static tdn_status fail_shapes(const tdn_programs *programs, const tdn_feed *feed, tdn_error *error)
{
    char given[512], held[1024], dims[128];
    size_t at = 0;
    for (int i = 0; i < feed->n_inputs && at < sizeof given; i++)
        at += (size_t)snprintf(given + at, sizeof given - at, "%s%s %s", i ? ", " : "",
                               feed->inputs[i].name,
                               tdn_tensor_text(&feed->inputs[i].whole, dims, sizeof dims));
    at = 0;
    for (int p = 0; p < programs->n && at < sizeof held; p++) {
        const tdn_ports *ports = &programs->items[p];
        at += (size_t)snprintf(held + at, sizeof held - at, "%s", p ? "; " : "");
        for (int i = 0; i < ports->n_inputs && at < sizeof held; i++)
            at += (size_t)snprintf(held + at, sizeof held - at, "%s%s %s", i ? ", " : "",
                                   ports->inputs[i].name,
                                   tdn_dims_text(&ports->inputs[i], dims, sizeof dims));
    }
    return tdn_fail(error, TDN_E_SHAPE,
                    "no program takes %s, nor that as samples along axis 0\n  there are: %s", given,
                    held);
}

/* Chooses the program, and how the wholes are cut. */
static tdn_status feed_cut(tdn_feed *feed, const tdn_programs *programs, tdn_error *error)
{
    feed->n_calls = 1;
    for (feed->program = 0; feed->program < programs->n; feed->program++)
        if (fits_once(&programs->items[feed->program], feed->inputs))
            return TDN_OK;
    for (feed->program = programs->n - 1; feed->program >= 0; feed->program--) {
        feed->n_calls = fits_samples(&programs->items[feed->program], feed->inputs);
        if (feed->n_calls > 0)
            return TDN_OK;
    }
    return fail_shapes(programs, feed, error);
}

static tdn_status feed_begin(tdn_feed *feed, const tdn_programs *programs, tdn_arena *arena,
                             tdn_error *error)
{
    *feed = (tdn_feed){.n_calls = 1, .n_inputs = programs->items[0].n_inputs};
    feed->inputs = tdn_arena_alloc(arena, (size_t)feed->n_inputs + 1, sizeof *feed->inputs);
    return feed->inputs ? TDN_OK : tdn_fail_nomem(error, "the inputs");
}

tdn_status tdn_feed_arrays(tdn_feed *feed, const tdn_programs *programs, const tdn_arrays *arrays,
                           tdn_arena *arena, tdn_error *error)
{
    const tdn_ports *ports = &programs->items[0];
    TDN_TRY(feed_begin(feed, programs, arena, error));
    for (int i = 0; i < ports->n_inputs; i++)
        feed->inputs[i] =
            (tdn_feed_input){.name = ports->inputs[i].name,
                             .whole = tdn_npz_find(&arrays->npz, ports->inputs[i].name)->tensor};
    tdn_status status = feed_cut(feed, programs, error);
    if (status == TDN_OK || !error)
        return status;
    /* In front: the text may end with a second line. */
    const tdn_error why = *error;
    return tdn_fail(error, status, "%s: %.1900s", arrays->path, why.text);
}

/* ---- Seeded values --------------------------------------------------------------------------- */

/* Steele, Lea and Flood's SplitMix64: one addition and a mix, good for any seed. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Box and Muller's transform, one of its two results. */
static double next_normal(uint64_t *state)
{
    double u = (double)((next_random(state) >> 11) + 1) * 0x1p-53;
    double v = (double)(next_random(state) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

static void fill(tdn_tensor *t, int64_t n, uint64_t *state)
{
    tdn_view view = tdn_view_make(t->data, t->dtype, 1, &n);
    for (int64_t i = 0; i < n; i++)
        switch (t->dtype) {
        case TDN_F32:
        case TDN_F16:
        case TDN_BF16:
        case TDN_F64: tdn_view_set(&view, i, next_normal(state)); break;
        case TDN_BOOL: tdn_view_set_int(&view, i, (int64_t)(next_random(state) >> 63)); break;
        case TDN_S8: tdn_view_set_int(&view, i, (int64_t)(next_random(state) >> 56) - 128); break;
        case TDN_U8: tdn_view_set_int(&view, i, (int64_t)(next_random(state) >> 56)); break;
        default: tdn_view_set_int(&view, i, (int64_t)(next_random(state) >> 62)); break;
        }
}

/* Memory and values for n_calls times what one call takes. */
static tdn_status make_random(tdn_feed_input *input, int64_t n_calls, uint64_t *state,
                              tdn_arena *arena, tdn_error *error)
{
    tdn_tensor *t = &input->whole;
    int64_t n;
    input->step = 0;
    if (t->rank > 0 && n_calls > 1) {
        input->step = t->dims[0];
        if (__builtin_mul_overflow(t->dims[0], n_calls, &t->dims[0]))
            return tdn_fail_nomem(error, "the inputs");
    }
    if (!tdn_dims_count(t->dims, t->rank, &n))
        return tdn_fail_nomem(error, "the inputs");
    t->data = tdn_arena_alloc_data(arena, tdn_dtype_size(t->dtype, (size_t)n));
    if (!t->data)
        return tdn_fail_nomem(error, "the inputs");
    fill(t, n, state);
    return TDN_OK;
}

/* The first program whose inputs the given shapes fit: those that are not given
 * take the program's. */
static tdn_status choose_program(tdn_feed *feed, const tdn_programs *programs,
                                 const tdn_shape_set *shapes, tdn_error *error)
{
    for (feed->program = 0; feed->program < programs->n; feed->program++) {
        const tdn_ports *ports = &programs->items[feed->program];
        for (int i = 0; i < ports->n_inputs; i++) {
            const tdn_io_info *info = &ports->inputs[i];
            feed->inputs[i].name = info->name;
            feed->inputs[i].whole = tdn_tensor_make(NULL, info->dtype, info->rank, info->dims);
            for (int k = 0; shapes && k < shapes->n_specs; k++)
                if (strcmp(shapes->specs[k].input, info->name) == 0)
                    feed->inputs[i].whole = tdn_tensor_make(
                        NULL, info->dtype, shapes->specs[k].rank, shapes->specs[k].dims);
        }
        if (fits_once(ports, feed->inputs))
            return TDN_OK;
    }
    return fail_shapes(programs, feed, error);
}

static tdn_status check_spec_names(const tdn_shape_set *shapes, const tdn_ports *ports,
                                   tdn_error *error)
{
    char list[1024];
    for (int k = 0; shapes && k < shapes->n_specs; k++) {
        int i = 0;
        while (i < ports->n_inputs && strcmp(ports->inputs[i].name, shapes->specs[k].input) != 0)
            i++;
        if (i == ports->n_inputs)
            return tdn_fail(error, TDN_E_ARG, "--shapes: there is no input '%s'\n  expected: %s",
                            shapes->specs[k].input,
                            tdn_ports_text(ports->inputs, ports->n_inputs, list, sizeof list));
    }
    return TDN_OK;
}

tdn_status tdn_feed_random(tdn_feed *feed, const tdn_programs *programs,
                           const tdn_shape_set *shapes, int64_t n_calls, uint64_t seed,
                           tdn_arena *arena, tdn_error *error)
{
    TDN_TRY(feed_begin(feed, programs, arena, error));
    TDN_TRY(check_spec_names(shapes, &programs->items[0], error));
    TDN_TRY(choose_program(feed, programs, shapes, error));
    feed->n_calls = n_calls;
    for (int i = 0; i < feed->n_inputs; i++)
        TDN_TRY(make_random(&feed->inputs[i], n_calls, &seed, arena, error));
    return TDN_OK;
}

tdn_tensor tdn_feed_tensor(const tdn_feed *feed, int index, int64_t call)
{
    const tdn_feed_input *input = &feed->inputs[index];
    tdn_tensor t = input->whole;
    if (input->step == 0 || feed->n_calls == 1)
        return t;
    int64_t left = t.dims[0] - call * input->step, row = 1;
    t.dims[0] = left < input->step ? left : input->step;
    tdn_dims_count(t.dims + 1, t.rank - 1, &row);
    t.data = (char *)t.data + (size_t)(call * input->step * row) * tdn_dtype_size(t.dtype, 1);
    return t;
}

/* ---- Stacks ---------------------------------------------------------------------------------- */

static bool stackable(const tdn_tensor *a, const tdn_tensor *b)
{
    return a->rank == b->rank &&
           (a->rank == 0 ||
            memcmp(a->dims + 1, b->dims + 1, ((size_t)a->rank - 1) * sizeof a->dims[0]) == 0);
}

/* Dims after one more. A second scalar makes a vector of both. */
static tdn_status stack_dims(tdn_stack *stack, const tdn_tensor *tensor, const char *name,
                             tdn_error *error)
{
    tdn_tensor *s = &stack->tensor, element = *tensor;
    if (stack->n_added == 0) {
        void *data = s->data;
        *s = *tensor;
        s->data = data;
        return TDN_OK;
    }
    if (s->rank == 0) {
        s->rank = 1;
        s->dims[0] = 1;
    }
    if (element.rank == 0) {
        element.rank = 1;
        element.dims[0] = 1;
    }
    char was[128], is[128];
    if (!stackable(s, &element))
        return tdn_fail(
            error, TDN_E_SHAPE,
            "output '%s' has shape %s for one sample and %s for another: run them apart", name,
            tdn_tensor_text(s, was, sizeof was), tdn_tensor_text(tensor, is, sizeof is));
    s->dims[0] += element.dims[0];
    return TDN_OK;
}

tdn_status tdn_stack_add(tdn_stack *stack, const tdn_tensor *tensor, const char *name,
                         tdn_error *error)
{
    int64_t n;
    size_t size;
    if (!tdn_dims_count(tensor->dims, tensor->rank, &n) ||
        !tdn_size_add(stack->size, tdn_dtype_size(tensor->dtype, (size_t)n), &size))
        return tdn_fail_nomem(error, "the outputs");
    if (size > stack->capacity || !stack->tensor.data) {
        size_t capacity = size > 2 * stack->capacity ? size : 2 * stack->capacity;
        void *more = realloc(stack->tensor.data, capacity ? capacity : 1);
        if (!more)
            return tdn_fail_nomem(error, "the outputs");
        stack->tensor.data = more;
        stack->capacity = capacity;
    }
    TDN_TRY(stack_dims(stack, tensor, name, error));
    if (size > stack->size)
        memcpy((char *)stack->tensor.data + stack->size, tensor->data, size - stack->size);
    stack->size = size;
    stack->n_added++;
    return TDN_OK;
}

void tdn_stack_free(tdn_stack *stack)
{
    free(stack->tensor.data);
    *stack = (tdn_stack){.size = 0};
}
