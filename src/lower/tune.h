/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tuner: takes the times of candidates on this machine, or from a timing cache. Steps that are
 * the same work are timed once; those that promise most come first, until the budget is spent. What
 * has no time then is chosen by its estimated cost.
 */
#ifndef TDN_LOWER_TUNE_H
#define TDN_LOWER_TUNE_H

#include "lower/choose.h"
#include "lower/timing_cache.h"

typedef struct tdn_tune_options {
    int64_t budget_ms;    /* for timing */
    int32_t n_threads;    /* 0: all cores */
    const int32_t *cores; /* as a pool takes them */
    int32_t n_cores;
    int32_t n_targets;
    const bool *is_present;  /* by target: can this machine run it? */
    tdn_timing_cache *cache; /* NULL: none. New times are put into it */
    const tdn_allocator *allocator;
    tdn_log_fn *log; /* a table of candidates as information; NULL: none */
    void *log_user;
    /* What is being timed: "Tuning 12 of 40 steps"; NULL: none. */
    void (*progress)(void *user, const char *what, double fraction);
    void *progress_user;
} tdn_tune_options;

#define TDN_TUNE_NO_LIMIT 1000000000 /* ms */

/* How it went, in steps that have more than one candidate. */
typedef struct tdn_tune_result {
    uint32_t n_steps, n_timed;
    int32_t n_threads;
    char cpu[160];
} tdn_tune_result;

/* Sets ns and timed where there are times. TDN_E_NOMEM; TDN_E_IO where the system refuses threads.
 */
tdn_status tdn_tune(tdn_choices *choices, const tdn_tune_options *options, tdn_tune_result *result,
                    tdn_error *error);
/* Logs each step with its candidates and what was chosen. */
void tdn_tune_log(const tdn_choices *choices, const tdn_tune_options *options);

#endif
