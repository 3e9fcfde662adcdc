/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Running a candidate on this machine, to time it. Operands are the step's views over memory of the
 * bench's own: inputs hold normal values (or one 1 in ten, where the group is sparse), outputs lie
 * elsewhere, so that what a run writes is never read and values stay normal. Packed weights are not
 * packed: their content does not matter to the speed of a kernel whose `check` accepts any. They
 * are taken from a region as large as all weights of the network, each run from where the last one
 * ended, so that they come from that level of the memory from which the network's own will come,
 * while activations may stay in the caches.
 */
#ifndef TDN_LOWER_TRIAL_H
#define TDN_LOWER_TRIAL_H

#include "lower/choose.h"

typedef struct tdn_zone {
    void *data;
    size_t size;
} tdn_zone;

typedef struct tdn_bench {
    const tdn_allocator *allocator;
    tdn_pool *pool; /* acquired by the bench's user; NULL: this thread alone */
    int n_threads;
    size_t span; /* of the region that weights are taken from: tdn_bench_span */
    size_t next; /* where in it */
    tdn_zone normals, spikes, zeros, written, weights, scratch;
} tdn_bench;

/* The region for a network with this many bytes of weights. */
size_t tdn_bench_span(size_t weights_size);
/* Makes room for all candidates of the step. A candidate that cannot be run is refused; *can_run
 * tells whether variant 0 can. TDN_E_NOMEM. */
tdn_status tdn_bench_prepare(tdn_bench *bench, tdn_choice *choice, bool *can_run, tdn_error *error);
/* Runs a candidate once and returns the time in ns, at least 1. The step is prepared. */
int64_t tdn_bench_run(tdn_bench *bench, const tdn_choice *choice, const tdn_candidate *candidate);
/* Runs something for a moment, since workers may be asleep. */
void tdn_bench_wake(tdn_bench *bench);
/* Frees the memory; the pool is the user's. */
void tdn_bench_end(tdn_bench *bench);

#endif
