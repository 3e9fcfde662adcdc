/* SPDX-License-Identifier: Apache-2.0 */
/* Which values of a graph are 0 or 1 everywhere. */
#ifndef TDN_OPS_BINARY_H
#define TDN_OPS_BINARY_H

#include "ops/op.h"

/* By value id: is it the result of comparisons, or made of such alone? g->n_values entries. NULL: no
 * memory. */
bool *tdn_binary_values(const tdn_graph *g, tdn_arena *arena);

#endif
