/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The timing cache: a file of times that candidates took, so that a build need not take them again,
 * and two builds that find all they ask for make the same plan. Text: a first line that says what
 * it is, then a line a time, sorted. Lines that are none are left out, with a warning; what other
 * machines wrote stays.
 *
 * A line without a time says that a build of so many ms left the candidate out: a build that may
 * take no longer leaves it out as well, and so decides as that one did.
 */
#ifndef TDN_LOWER_TIMING_CACHE_H
#define TDN_LOWER_TIMING_CACHE_H

#include "base/memory.h"
#include "base/status.h"

typedef struct tdn_timing {
    uint64_t key;      /* of all that the time depends on, but for what follows */
    int64_t ns;        /* 0: left out */
    int64_t budget_ms; /* where left out: of the build that did so */
    int32_t threads, variant;
    const char *kernel, *shape, *cpu; /* printable; the first two without spaces */
} tdn_timing;

typedef struct tdn_timing_cache {
    tdn_arena *arena;
    tdn_timing *items;
    size_t n, n_sorted, capacity; /* the first n_sorted are in order */
    size_t n_damaged;             /* lines that were none */
    bool changed;
} tdn_timing_cache;

/* Adds what the file holds; no file, or an empty one, holds nothing. TDN_E_FORMAT where the file is
 * something else; TDN_E_IO, TDN_E_NOMEM. */
tdn_status tdn_timing_cache_read(tdn_timing_cache *cache, const char *path, tdn_error *error);
/* The same from memory, for `path` in errors. */
tdn_status tdn_timing_cache_parse(tdn_timing_cache *cache, const char *text, size_t size,
                                  const char *path, tdn_error *error);
/* The entry with key, threads, variant, kernel and cpu of `like`, or NULL. */
const tdn_timing *tdn_timing_cache_find(const tdn_timing_cache *cache, const tdn_timing *like);
/* Sets an entry; its strings are not copied. False: out of memory. */
bool tdn_timing_cache_put(tdn_timing_cache *cache, const tdn_timing *timing);
/* Writes the file aside and renames it, together with what another build has added meanwhile. */
tdn_status tdn_timing_cache_write(tdn_timing_cache *cache, const char *path, tdn_error *error);

#endif
