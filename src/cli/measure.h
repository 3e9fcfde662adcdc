/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Timing synchronous calls, host to host, back to back or paced by a clock, and the summary of it
 * in the form that scripts around trtexec parse. Nothing is printed, allocated or bound between a
 * call's two time stamps.
 */
#ifndef TDN_CLI_MEASURE_H
#define TDN_CLI_MEASURE_H

#include "cli/ceiling.h"
#include "cli/session.h"
#include "cli/stats.h"

/* Measuring ends when both the calls and the time are reached, or at Ctrl-C. */
typedef struct tdn_measure_options {
    int64_t warmup_calls, n_calls;
    uint64_t warmup_ns, duration_ns;
    double rate;      /* calls a second; 0: back to back */
    uint64_t spin_ns; /* before a paced call: sleep until this long before it, then spin */
    bool warm;        /* a paced call after a pause: tdn_context_warm before it */
    uint64_t idle_ns; /* between the end of a call and the next; not paced */
    tdn_term *term;
} tdn_measure_options;

/* In ns of the monotonic clock. due: when a paced call should have begun; begin otherwise. */
typedef struct tdn_call_time {
    uint64_t due, begin, end;
} tdn_call_time;

typedef struct tdn_measurement {
    tdn_call_time *calls;
    size_t n, capacity;
    int64_t n_warmup, n_late,
        n_skipped; /* paced: calls that ended after the next was due; dues that passed meanwhile */
    double warmup_s, wall_s, cpu_s; /* cpu_s: of all threads, in wall_s */
    bool interrupted;
} tdn_measurement;

/* Calls the session with the calls of the feed, over and over. */
tdn_status tdn_measure(tdn_measurement *m, tdn_session *session, const tdn_feed *feed,
                       const tdn_measure_options *options, tdn_error *error);
void tdn_measurement_free(tdn_measurement *m);

/* Milliseconds from begin (or due) to end. The values behind it are malloc'ed:
 * free(latency.sorted). */
tdn_status tdn_measurement_latency(const tdn_measurement *m, bool from_due, tdn_latency *latency,
                                   tdn_error *error);
/* "Latency: min = 1.2 ms, max = ..., percentile(99%) = 1.5 ms" */
void tdn_latency_print(FILE *out, const char *title, const tdn_latency *latency,
                       const double *percents, int n);

/* One or two sentences: which figure to quote, of how many calls, and whether they were too few or
 * too uneven for it. `latency` is that of the response where rate > 0. */
const char *tdn_measurement_quote(const tdn_measurement *m, const tdn_latency *latency, double rate,
                                  const char *circumstances, char *text, size_t size);

/* What a profile says about the steps of a program: it lives in the session's arena. */
typedef struct tdn_profile {
    tdn_step_info *steps;
    double *median_ms; /* of each step */
    int n;
    int64_t n_calls;
    double mean_ms;      /* of all steps together */
    tdn_machine machine; /* n_threads 0: not measured */
} tdn_profile;
/* Runs up to n_calls calls, for about a second at most, in a context that times steps; the session
 * has a plain one again afterwards. */
tdn_status tdn_profile_run(tdn_profile *profile, tdn_session *session, const tdn_feed *feed,
                           int64_t n_calls, tdn_error *error);
/* Measures the machine, with the threads that ran the steps. */
tdn_status tdn_profile_measure_machine(tdn_profile *profile, const tdn_session *session,
                                       tdn_error *error);
/* The steps of the program in use without running: no times where the context does not time. */
tdn_status tdn_profile_read(tdn_profile *profile, tdn_session *session, tdn_error *error);
/* At most 110 columns. */
void tdn_profile_print(FILE *out, const tdn_profile *profile);

#endif
