/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decides what is kept in 8 bits, and says so in the graph alone: a product (convolution, or
 * product with a constant matrix) that is to be one of integers gets weights on a grid, each output
 * with its own scale, and the value that it reads a scale of its own.
 */
#ifndef TDN_QUANT_ANNOTATE_H
#define TDN_QUANT_ANNOTATE_H

#include "graph/graph.h"

/* The magnitude of a value, by its name, that becomes the largest integer; false where it is
 * unknown. */
typedef bool tdn_range_fn(void *user, const char *name, float *amax);

typedef struct tdn_annotate_options {
    tdn_range_fn *range;
    void *range_user;
    tdn_log_fn *log;
    void *log_user;
} tdn_annotate_options;

tdn_status tdn_quant_annotate(tdn_graph *g, const tdn_annotate_options *options, tdn_error *error);

#endif
