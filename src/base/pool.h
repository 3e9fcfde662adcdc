/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Work shared by threads: tdn_pool (public) and the loop over independent tiles that steps and
 * references use. Workers spin for spin_us after the last loop, then sleep on a futex. No lock, no
 * allocation after creation.
 */
#ifndef TDN_BASE_POOL_H
#define TDN_BASE_POOL_H

#include <stdbool.h>

#include "base/status.h"

/* Is this a list of cores that the machine has, none named twice? TDN_E_ARG. */
tdn_status tdn_cores_check(const int32_t *cores, int32_t n_cores, tdn_error *error);
/* Says that the system does not let this process use a core. Returns TDN_E_ARG. */
tdn_status tdn_cores_fail(int32_t core, tdn_error *error);

/* Does tile `tile`; `thread` in 0..n_threads-1 tells which scratch is the caller's own. */
typedef void tdn_tile_fn(void *user, size_t tile, int thread);

/* Takes the pool for a run; false when another run has it (then use no pool). NULL: false. */
bool tdn_pool_acquire(tdn_pool *pool);
void tdn_pool_release(tdn_pool *pool);
/* Does all tiles and returns when they are done. `pool` is acquired by this thread, or NULL: this
 * thread alone. One tile is done here without a word to the workers. */
void tdn_pool_for(tdn_pool *pool, size_t n_tiles, tdn_tile_fn *fn, void *user);

#endif
