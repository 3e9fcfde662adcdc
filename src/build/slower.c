/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes save on both sides of a layer, too, and times are noisy: float32 must be faster by a tenth.
 * Halves save little beside, and becoming such costs a pass where a neighbour stays float32: they
 * must be faster by a tenth. A step belongs to the product with whose name its own begins: what it
 * was fused with follows.
 */
#include "build/slower.h"

#include <string.h>

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

/* Of all its steps; 0 where there are none. */
static double time_of(const char *name, const tdn_choices *c)
{
    double time = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        const tdn_choice *step = &c->items[i];
        if (step->n_candidates > 0 && is_part(name, step->name))
            time += step->candidates[step->chosen].time;
    }
    return time;
}

static double margin_of(tdn_precision precision)
{
    return precision == TDN_PRECISION_INT8 ? BYTES_MARGIN : HALVES_MARGIN;
}

int32_t tdn_products_slower(const tdn_products *p, const tdn_choices *narrow,
                            const tdn_choices *floats, tdn_layer_precision *rows)
{
    int32_t n = 0;
    for (int32_t i = 0; i < p->n; i++) {
        const tdn_product_info *product = &p->items[i];
        const double as_narrow = time_of(product->name, narrow),
                     as_floats = time_of(product->name, floats);
        if (product->precision != TDN_PRECISION_FP32 && !product->is_forced && as_floats > 0 &&
            as_narrow > margin_of(product->precision) * as_floats)
            rows[n++] = (tdn_layer_precision){product->name, TDN_PRECISION_FP32};
    }
    return n;
}
