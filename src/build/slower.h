/* SPDX-License-Identifier: Apache-2.0 */
/* Which products are slower when narrow than in float32, by what the choice of kernels knows of
 * both.
 */
#ifndef TDN_BUILD_SLOWER_H
#define TDN_BUILD_SLOWER_H

#include "lower/choose.h"
#include "tendon/build.h"

/* What a build heard of its products; their names are those of the graph's nodes, before epilogues.
 */
typedef struct tdn_products {
    tdn_arena *arena;
    tdn_product_info *items; /* with names of their own */
    int32_t n, capacity;
    bool failed; /* out of memory */
} tdn_products;
void tdn_products_add(tdn_products *products, const tdn_product_info *product);

/* Appends rows for those that are narrow, not by force, and whose steps take longer in `narrow`
 * than in `floats`: the choices of two builds that differ in precision alone, decided. Returns how
 * many, or -1: out of memory. */
int32_t tdn_products_slower(const tdn_products *products, const tdn_choices *narrow,
                            const tdn_choices *floats, tdn_layer_precision *rows);

#endif
