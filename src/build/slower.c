/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes save on both sides of a layer, too, and times are noisy: float32 must be faster by a tenth.
 * Halves save little beside, and becoming such costs a pass where a neighbour stays float32: they
 * must be faster by a tenth. A step belongs to the product with whose name its own begins: what it
 * was fused with follows.
 */
#include "build/slower.h"

#include <string.h>

#include "quant/layers.h"

#define BYTES_MARGIN 1.1
#define HALVES_MARGIN 0.9

void tdn_products_add(tdn_products *p, const tdn_product_info *product)
{
    if (p->n == p->capacity) {
        const int32_t capacity = p->capacity ? 2 * p->capacity : 64;
        tdn_product_info *grown = tdn_arena_alloc(p->arena, (size_t)capacity, sizeof *grown);
        p->failed |= !grown;
        if (!grown)
            return;
        if (p->n)
            memcpy(grown, p->items, (size_t)p->n * sizeof *grown);
        p->items = grown;
        p->capacity = capacity;
    }
    p->items[p->n] = *product;
    p->items[p->n].name = tdn_arena_strdup(p->arena, product->name);
    p->failed |= !p->items[p->n].name;
    p->n += p->items[p->n].name != NULL;
}

static bool is_part(const char *name, const char *step)
{
    const size_t size = strlen(name);
    return strncmp(name, step, size) == 0 &&
           (step[size] == 0 || strncmp(step + size, " + ", 3) == 0);
}

/* Of all its steps. */
typedef struct effort {
    double time; /* 0: not all were timed, or there are none */
    double cost;
} effort;

static effort effort_of(const char *name, const tdn_choices *c)
{
    effort e = {0};
    bool all_timed = true;
    for (uint32_t i = 0; i < c->n; i++) {
        const tdn_choice *step = &c->items[i];
        if (step->n_candidates == 0 || !is_part(name, step->name))
            continue;
        const tdn_candidate *chosen = &step->candidates[step->chosen];
        e.time += chosen->time;
        e.cost += (double)chosen->cost;
        all_timed = all_timed && chosen->time > 0;
    }
    e.time = all_timed ? e.time : 0;
    return e;
}

static double margin_of(tdn_precision precision)
{
    return precision == TDN_PRECISION_INT8 ? BYTES_MARGIN : HALVES_MARGIN;
}

/* By times, or by estimates where not all were taken. */
static bool is_slower(const tdn_product_info *p, effort narrow, effort floats)
{
    const double margin = margin_of(p->precision);
    return narrow.time > 0 && floats.time > 0
               ? narrow.time > margin * floats.time
               : floats.cost > 0 && narrow.cost > margin * floats.cost;
}

int32_t tdn_products_slower(const tdn_products *p, const tdn_choices *narrow,
                            const tdn_choices *floats, tdn_layer_precision *rows)
{
    int32_t n = 0;
    for (int32_t i = 0; i < p->n; i++) {
        const tdn_product_info *product = &p->items[i];
        if (product->precision != TDN_PRECISION_FP32 && !product->is_forced &&
            is_slower(product, effort_of(product->name, narrow), effort_of(product->name, floats)))
            rows[n++] = (tdn_layer_precision){tdn_layer_pattern(product->name, p->arena),
                                              TDN_PRECISION_FP32};
    }
    return tdn_arena_failed(p->arena) ? -1 : n;
}
