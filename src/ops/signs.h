/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of the numbers of a graph's values without running it. */
#ifndef TDN_OPS_SIGNS_H
#define TDN_OPS_SIGNS_H

#include "ops/op.h"

/* By value id: is it 0 or 1 everywhere, as the result of comparisons, or made of such alone?
 * g->n_values entries. NULL: no memory. */
bool *tdn_binary_values(const tdn_graph *g, tdn_arena *arena);
/* The same: is it never negative? NaN counts as not negative. */
bool *tdn_not_negative_values(const tdn_graph *g, tdn_arena *arena);

#endif
