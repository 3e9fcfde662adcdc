/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lowering: from a graph with shapes to a program for one target. Each value gets a place (a
 * storage, an offset, strides), each operator a step made by a kernel family, or its reference.
 * Views cost nothing: a transpose, slice, reshape or expand is a place in its input's storage; the
 * parts of a concatenation are written where they belong. Activations lie channels-last wherever a
 * convolution or pool made them. The graph is not changed.
 */
#ifndef TDN_LOWER_LOWER_H
#define TDN_LOWER_LOWER_H

#include "lower/choose.h"
#include "ops/op.h"
#include "plan/plan.h"

/* Weights by content: what is added twice is stored once. */
typedef struct tdn_blobs {
    tdn_arena *arena;
    tdn_plan_blob *items;
    uint64_t *hashes;
    uint32_t n, capacity;
} tdn_blobs;
/* `data` is not copied. UINT32_MAX: out of memory. */
uint32_t tdn_blobs_add(tdn_blobs *blobs, const void *data, size_t size);

typedef struct tdn_lower_options {
    uint64_t isa;              /* of the target */
    int32_t batch_axis;        /* of all inputs and outputs, or -1: they are bound at full size */
    const int32_t *batch_axes; /* by value id, where batch_axis >= 0 */
    int32_t target;            /* the build's number of it, for choices */
    /* Of this program's steps, as tdn_lower_collect found and tdn_choices_decide decided them;
     * NULL: variant 0 everywhere. */
    const tdn_choice *choices;
    uint32_t n_choices;
    bool takes_halves; /* weights may be kept in half precision */
    tdn_log_fn *log;   /* for warnings: what falls back to a reference */
    void *log_user;
} tdn_lower_options;

/* Walks the graph as tdn_lower will, and appends the candidates of its steps. */
tdn_status tdn_lower_collect(tdn_choices *choices, const tdn_graph *g,
                             const tdn_lower_options *options, tdn_arena *arena, tdn_error *error);
/* Makes the program. Its memory is the arena's; inputs and outputs in the graph's order without
 * states. */
tdn_status tdn_lower(tdn_plan_program *program, const tdn_graph *g,
                     const tdn_lower_options *options, tdn_blobs *blobs, tdn_arena *arena,
                     tdn_error *error);

#endif
