/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a run reads, brought back into the caches after a pause. A core that slept, or did other
 * work, has lost the weights, the activations' lines and the translations of their addresses from
 * its caches; fetching them step by step in the run costs more than reading them in one go before
 * it. Reading changes nothing, so this may be done at any time between two runs.
 *
 * Every thread reads all of it, since each has caches of its own: first the arena, then the
 * weights from the last step's to the first's, so that what is used first was read last.
 */
#include <stdatomic.h>

#include "base/clock.h"
#include "runtime/runtime.h"

#define LINE 64
/* What the last cache of a machine may hold: to read more would push out what was read first. */
#define MOST_WEIGHTS ((size_t)16 << 20)
#define MOST_ARENA ((size_t)8 << 20)
/* Threads wait for each other so long, so that none takes the tile of one that is still waking. */
#define WAKING_NS 200000u

typedef struct warming {
    const tdn_context *c;
    const tdn_plan_program *program;
    int n_threads;
    atomic_int n_here;
} warming;

static void read_lines(const void *data, size_t size)
{
    const volatile uint8_t *bytes = data;
    for (size_t i = 0; i < size; i += LINE)
        (void)bytes[i];
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static const tdn_plan_blob *weights_of(const warming *w, uint32_t buffer)
{
    const tdn_plan_buffer *b = &w->program->buffers[buffer];
    const tdn_plan *plan = w->c->engine->plan;
    return b->cls == TDN_BUFFER_WEIGHT && b->index < plan->n_blobs ? &plan->blobs[b->index] : NULL;
}

/* Buffers are numbered in the order of the steps. */
static void read_weights(const warming *w)
{
    uint32_t end = 0;
    for (size_t size = 0; end < w->program->n_buffers && size <= MOST_WEIGHTS; end++) {
        const tdn_plan_blob *blob = weights_of(w, end);
        size += blob ? blob->size : 0;
    }
    for (uint32_t i = end; i > 0; i--) {
        const tdn_plan_blob *blob = weights_of(w, i - 1);
        if (blob)
            read_lines(blob->data, least(blob->size, MOST_WEIGHTS));
    }
}

static void warm_thread(void *user, size_t tile, int thread)
{
    (void)tile;
    (void)thread;
    warming *w = user;
    const tdn_context *c = w->c;
    if (w->n_threads > 1) {
        const uint64_t begin = tdn_now_ns();
        atomic_fetch_add(&w->n_here, 1);
        while (atomic_load(&w->n_here) < w->n_threads && tdn_now_ns() - begin < WAKING_NS) {
        }
    }
    read_lines(c->arena, least(w->program->arena_size, MOST_ARENA));
    read_lines(c->states, least(c->engine->state_size, MOST_ARENA));
    read_weights(w);
}

void tdn_context_warm(tdn_context *c)
{
    warming w = {.c = c, .program = c->engine->programs[c->program].plan};
    tdn_pool *pool = tdn_pool_acquire(c->pool) ? c->pool : NULL;
    w.n_threads = pool ? c->n_threads : 1;
    tdn_pool_for(pool, (size_t)w.n_threads, warm_thread, &w);
    if (pool)
        tdn_pool_release(pool);
}
