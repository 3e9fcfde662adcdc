/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decides what is kept in 8 bits or in halves, and says so in the graph alone: a product
 * (convolution, or product with a constant matrix) that is to be one of integers gets weights on a
 * grid, each output with its own scale, and the value that it reads a scale of its own; one of
 * halves, and the value that it reads, are marked as such.
 */
#ifndef TDN_QUANT_ANNOTATE_H
#define TDN_QUANT_ANNOTATE_H

#include "graph/graph.h"
#include "tendon/build.h"

/* The magnitude of a value, by its name, that becomes the largest integer; false where it is
 * unknown. */
typedef bool tdn_range_fn(void *user, const char *name, float *amax);

typedef struct tdn_annotate_options {
    tdn_precision precision; /* of products that are large enough; INT8, FP16, BF16 */
    tdn_dtype half;          /* what graph convolutions may multiply inside; NONE: float32 alone */
    tdn_range_fn *range;     /* NULL: no range is known */
    void *range_user;
    const tdn_layer_precision *layers; /* by name, before the annotator's own judgement */
    int32_t n_layers;
    tdn_product_fn *product; /* told of each product; NULL: nobody */
    void *product_user;
    tdn_log_fn *log;
    void *log_user;
} tdn_annotate_options;

/* TDN_E_ARG where a row of `layers` matches no product. */
tdn_status tdn_quant_annotate(tdn_graph *g, const tdn_annotate_options *options, tdn_error *error);

#endif
