/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calls of an engine one after another: which tensors each takes, and what came of all. An array
 * whose leading dimension is a multiple of the input's is that many samples, one call each; along a
 * batch axis that may be short, the largest program takes as many as it can and the last call the
 * rest.
 */
#ifndef TDN_CLI_FEED_H
#define TDN_CLI_FEED_H

#include "cli/data.h"

/* One input over all calls. */
typedef struct tdn_feed_input {
    const char *name;
    tdn_tensor whole;
    int64_t step; /* of axis 0 a call; 0: every call takes all */
} tdn_feed_input;

typedef struct tdn_feed {
    tdn_feed_input *inputs; /* in the programs' order; they and random data live in the arena */
    int n_inputs;
    int program; /* that takes the calls */
    int64_t n_calls;
} tdn_feed;

/* Calls over arrays. TDN_E_SHAPE lists the shapes of the programs. */
tdn_status tdn_feed_arrays(tdn_feed *feed, const tdn_programs *programs, const tdn_arrays *arrays,
                           tdn_arena *arena, tdn_error *error);
/* One or more calls of seeded values: normal for floats, 0..3 for integers (all bytes for 8 bits),
 * either for bool. `shapes` (NULL: the smallest program's) chooses the program. */
tdn_status tdn_feed_random(tdn_feed *feed, const tdn_programs *programs,
                           const tdn_shape_set *shapes, int64_t n_calls, uint64_t seed,
                           tdn_arena *arena, tdn_error *error);
/* Input `index` of call `call`: a part of the whole. */
tdn_tensor tdn_feed_tensor(const tdn_feed *feed, int index, int64_t call);

/* Results of calls, one after another along axis 0; scalars become a vector when
 * there are several. */
typedef struct tdn_stack {
    tdn_tensor tensor;
    size_t size, capacity;
    int64_t n_added;
} tdn_stack;

/* TDN_E_SHAPE when the shapes differ in more than axis 0. */
tdn_status tdn_stack_add(tdn_stack *stack, const tdn_tensor *tensor, const char *name,
                         tdn_error *error);
void tdn_stack_free(tdn_stack *stack);

#endif
