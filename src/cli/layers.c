/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Taps hand out what a step wrote, in the layout it chose; the reference has the dense value by the
 * model's name. A value that the compiler made up has no such name and is passed over: its
 * consumers are compared. A value may be stored in another shape than the model's (a reshape that
 * vanished): equal counts are compared in row-major order.
 */
#include "cli/layers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "cli/term.h"

typedef struct layer {
    char *name;
    int step;
    tdn_difference difference;
    tdn_tensor shape; /* the reference's dims: for the worst element's place */
    bool comparable;
} layer;

struct tdn_layers {
    tdn_tolerance tolerance;
    const tdn_reference *reference;
    layer *items;
    int n, n_unnamed;
    bool out_of_memory;
};

tdn_status tdn_layers_create(tdn_layers **layers, tdn_tolerance tolerance, tdn_error *error)
{
    *layers = calloc(1, sizeof **layers);
    if (!*layers)
        return tdn_fail_nomem(error, "the layers");
    (*layers)->tolerance = tolerance;
    return TDN_OK;
}

void tdn_layers_free(tdn_layers *layers)
{
    for (int i = 0; layers && i < layers->n; i++)
        free(layers->items[i].name);
    if (layers)
        free(layers->items);
    free(layers);
}

/* The entry for this value of this step, new if need be; NULL: out of memory. */
static layer *entry(tdn_layers *l, const tdn_tap *tap)
{
    for (int i = l->n - 1; i >= 0; i--)
        if (l->items[i].step == tap->step && strcmp(l->items[i].name, tap->name) == 0)
            return &l->items[i];
    layer *more = realloc(l->items, ((size_t)l->n + 1) * sizeof *more);
    char *name = strdup(tap->name);
    if (more)
        l->items = more;
    if (!more || !name) {
        free(name);
        l->out_of_memory = true;
        return NULL;
    }
    l->items[l->n] = (layer){.name = name, .step = tap->step, .comparable = true};
    return &l->items[l->n++];
}

/* The reference's value with the tap's dims, if the count is the same. */
static bool reshape_like(tdn_view *reference, const tdn_view *tap)
{
    if (tdn_view_same_dims(reference, tap))
        return true;
    if (tdn_view_count(reference) != tdn_view_count(tap))
        return false;
    *reference = tdn_view_make(reference->data, reference->dtype, tap->rank, tap->dims);
    return true;
}

static void compare(void *user, const tdn_tap *tap)
{
    tdn_layers *l = user;
    tdn_tensor should = {.struct_size = sizeof should};
    if (!l->reference)
        return;
    if (!tap->name || !*tap->name ||
        tdn_reference_value(l->reference, tap->name, &should) != TDN_OK) {
        l->n_unnamed++;
        return;
    }
    layer *at = entry(l, tap);
    if (!at)
        return;
    tdn_view b = tdn_view_make(should.data, should.dtype, should.rank, should.dims), a = b;
    a.data = (void *)(uintptr_t)tap->data;
    a.dtype = tap->dtype;
    a.rank = tap->rank;
    memcpy(a.dims, tap->dims, sizeof a.dims);
    memcpy(a.strides, tap->strides, sizeof a.strides);
    at->comparable = at->comparable && reshape_like(&b, &a);
    at->shape = tdn_tensor_make(NULL, b.dtype, b.rank, b.dims);
    if (at->comparable)
        tdn_difference_add(&at->difference, &a, &b, l->tolerance);
}

void tdn_layers_watch(tdn_layers *layers, tdn_context *context, const tdn_reference *reference)
{
    layers->reference = reference;
    tdn_context_set_tap(context, compare, layers);
}

static void print_layer(const layer *l, const tdn_term *out)
{
    const tdn_difference *d = &l->difference;
    bool holds = d->n_outside == 0;
    if (!l->comparable) {
        printf("%5d  %-7s  %9s %9s %9s  %s\n", l->step, "-", "", "", "", l->name);
        return;
    }
    printf("%5d  %s%-7s%s  %9.3g %9.3g %9.1f  %s\n", l->step,
           tdn_term_on(out, holds ? TDN_GOOD : TDN_BAD), holds ? "ok" : "DIFFERS",
           tdn_term_off(out), d->max, tdn_difference_mean(d), tdn_difference_sqnr(d), l->name);
}

bool tdn_layers_print(const tdn_layers *layers)
{
    tdn_term out = tdn_term_of(stdout);
    const layer *first = NULL;
    printf("%5s  %-7s  %9s %9s %9s  %s\n", "step", "", "max", "mean", "SQNR dB", "value");
    for (int i = 0; i < layers->n; i++) {
        print_layer(&layers->items[i], &out);
        if (!first && layers->items[i].difference.n_outside > 0)
            first = &layers->items[i];
    }
    if (layers->n_unnamed > 0)
        printf("%d values have no name in the model and were not compared\n", layers->n_unnamed);
    if (first) {
        const tdn_difference *d = &first->difference;
        printf("first that differs: %s (step %d), element %lld: %.9g, not %.9g\n", first->name,
               first->step, (long long)d->worst, d->worst_a, d->worst_b);
    }
    return !first && !layers->out_of_memory;
}
