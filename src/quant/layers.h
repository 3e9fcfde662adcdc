/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layers by name: which rows of a table of precisions hold for a node of the graph. A node may be
 * several of the model's by now; a pattern that matches one of their names matches the node.
 */
#ifndef TDN_QUANT_LAYERS_H
#define TDN_QUANT_LAYERS_H

#include "graph/graph.h"
#include "tendon/build.h"

/* The names of the model's nodes in n, joined by " + ". */
const char *tdn_layer_name(const tdn_node *n);
/* The pattern that matches the name alone, in the arena; NULL: out of memory. */
const char *tdn_layer_pattern(const char *name, tdn_arena *arena);
/* The last of the rows that hold for n, or NULL. */
const tdn_layer_precision *tdn_layer_find(const tdn_layer_precision *rows, int32_t n_rows,
                                          const tdn_node *n);
/* Does each row hold for some node that has a choice? TDN_E_ARG names the first that does not, and
 * nodes. */
tdn_status tdn_layers_check(const tdn_layer_precision *rows, int32_t n_rows, const tdn_graph *g,
                            bool (*has_choice)(const tdn_node *), tdn_error *error);

#endif
