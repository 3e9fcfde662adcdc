/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measuring. A paced call is due at a fixed time, start + k / rate, not some time after the last
 * one: a late call does not shift those after it, and dues that pass while a call runs are counted
 * as missed and skipped, as a sensor's samples would be.
 */
#include "cli/measure.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"

/* Ctrl-C ends the measurement, which is then reported: a signal handler has no other place to say
 * so. */
static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

static struct sigaction catch_interrupt(void)
{
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND}, old;
    interrupted = 0;
    sigaction(SIGINT, &action, &old);
    return old;
}

static void wait_until(uint64_t due, uint64_t spin_ns)
{
    uint64_t wake = due - spin_ns;
    struct timespec t = {.tv_sec = (time_t)(wake / 1000000000u),
                         .tv_nsec = (long)(wake % 1000000000u)};
    if (spin_ns < due)
        while (!interrupted && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
        }
    while (!interrupted && tdn_now_ns() < due) {
    }
}

#define WARM_SLACK_NS 50000u /* waking up late is common, and must not shift the call */
#define WARM_SHARE 4         /* warm where it takes at most this part of the pause */

/* Before a paced call, as an application that knows its clock would: sleep, warm, spin for what is
 * left. `took` is how long warming takes, learned from the times before. */
static void await(const tdn_session *s, uint64_t due, const tdn_measure_options *o, uint64_t *took)
{
    uint64_t spin_ns = o->spin_ns;
    const uint64_t lead = o->spin_ns + *took + *took / 4 + WARM_SLACK_NS;
    if (o->warm && tdn_now_ns() + WARM_SHARE * lead < due) {
        wait_until(due - lead, 0);
        const uint64_t begin = tdn_now_ns();
        tdn_context_warm(s->context);
        *took = tdn_now_ns() - begin;
        spin_ns = lead;
    }
    wait_until(due, spin_ns);
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static tdn_status add_call(tdn_measurement *m, tdn_call_time time, tdn_error *error)
{
    if (m->n == m->capacity) {
        size_t capacity = m->capacity ? 2 * m->capacity : 1 << 16;
        tdn_call_time *more = realloc(m->calls, capacity * sizeof *more);
        if (!more)
            return tdn_fail_nomem(error, "the times");
        m->calls = more;
        m->capacity = capacity;
    }
    m->calls[m->n++] = time;
    return TDN_OK;
}

/* One call; with a feed of one call nothing needs to be bound again. */
static tdn_status timed_call(tdn_session *s, const tdn_feed *feed, int64_t call,
                             tdn_call_time *time, tdn_error *error)
{
    if (feed->n_calls > 1)
        TDN_TRY(tdn_session_bind(s, feed, call % feed->n_calls, error));
    time->begin = tdn_now_ns();
    tdn_status status = tdn_context_run(s->context);
    time->end = tdn_now_ns();
    return status == TDN_OK ? TDN_OK : tdn_fail(error, status, "%s", tdn_context_error(s->context));
}

/* Where `n_calls` calls and `ns` of time are both wanted. */
static double share_of(double calls, double n_calls, double elapsed, double ns)
{
    const double by_calls = n_calls > 0 ? calls / n_calls : 1, by_time = ns > 0 ? elapsed / ns : 1;
    return by_calls < by_time ? by_calls : by_time;
}

static tdn_status warm_up(tdn_measurement *m, tdn_session *s, const tdn_feed *feed,
                          const tdn_measure_options *o, tdn_error *error)
{
    uint64_t begin = tdn_now_ns(), now = begin;
    while (!interrupted && (m->n_warmup < o->warmup_calls || now - begin < o->warmup_ns)) {
        tdn_call_time time;
        TDN_TRY(timed_call(s, feed, m->n_warmup++, &time, error));
        now = time.end;
        if (o->term->is_terminal)
            tdn_term_bar(o->term, "warming up",
                         share_of((double)m->n_warmup, (double)o->warmup_calls,
                                  (double)(now - begin), (double)o->warmup_ns));
    }
    m->warmup_s = (double)(now - begin) * 1e-9;
    return TDN_OK;
}

/* When the next call is due, after one that was due at `due` and ended at `now`. */
static uint64_t next_due(tdn_measurement *m, uint64_t start, uint64_t *k, double period,
                         uint64_t now)
{
    uint64_t due = start + (uint64_t)((double)++*k * period);
    m->n_late += now > due;
    while (now > start + (uint64_t)((double)(*k + 1) * period)) {
        ++*k;
        m->n_skipped++;
    }
    return start + (uint64_t)((double)*k * period);
}

static tdn_status measure(tdn_measurement *m, tdn_session *s, const tdn_feed *feed,
                          const tdn_measure_options *o, tdn_error *error)
{
    double period = o->rate > 0 ? 1e9 / o->rate : 0;
    uint64_t start = tdn_now_ns() + (uint64_t)period, due = start, now = start, k = 0, took = 0;
    const double cpu_s = cpu_seconds();
    while (!interrupted && (m->n < (size_t)o->n_calls || now - start < o->duration_ns)) {
        tdn_call_time time = {0};
        if (period > 0)
            await(s, due, o, &took);
        else if (o->idle_ns > 0 && m->n > 0)
            wait_until(now + o->idle_ns, 0);
        if (interrupted)
            break;
        TDN_TRY(timed_call(s, feed, (int64_t)m->n, &time, error));
        time.due = period > 0 ? due : time.begin;
        TDN_TRY(add_call(m, time, error));
        now = time.end;
        if (period > 0)
            due = next_due(m, start, &k, period, now);
        if (o->term->is_terminal)
            tdn_term_bar(o->term, "measuring",
                         share_of((double)m->n, (double)o->n_calls, (double)(now - start),
                                  (double)o->duration_ns));
    }
    m->wall_s = (double)(now - start) * 1e-9;
    m->cpu_s = cpu_seconds() - cpu_s;
    return TDN_OK;
}

tdn_status tdn_measure(tdn_measurement *m, tdn_session *session, const tdn_feed *feed,
                       const tdn_measure_options *options, tdn_error *error)
{
    *m = (tdn_measurement){.n = 0};
    struct sigaction old = catch_interrupt();
    tdn_status status = tdn_session_bind(session, feed, 0, error);
    if (status == TDN_OK)
        status = warm_up(m, session, feed, options, error);
    if (status == TDN_OK)
        status = measure(m, session, feed, options, error);
    tdn_term_clear(options->term);
    m->interrupted = interrupted;
    sigaction(SIGINT, &old, NULL);
    return status;
}

void tdn_measurement_free(tdn_measurement *m)
{
    free(m->calls);
    *m = (tdn_measurement){.n = 0};
}

tdn_status tdn_measurement_latency(const tdn_measurement *m, bool from_due, tdn_latency *latency,
                                   tdn_error *error)
{
    double *ms = calloc(m->n + 1, sizeof *ms);
    if (!ms)
        return tdn_fail_nomem(error, "the times");
    for (size_t i = 0; i < m->n; i++)
        ms[i] = (double)(m->calls[i].end - (from_due ? m->calls[i].due : m->calls[i].begin)) * 1e-6;
    *latency = tdn_latency_of(ms, m->n);
    return TDN_OK;
}

void tdn_latency_print(FILE *out, const char *title, const tdn_latency *latency,
                       const double *percents, int n)
{
    fprintf(out, "%s: min = %g ms, max = %g ms, mean = %g ms, median = %g ms", title, latency->min,
            latency->max, latency->mean, latency->median);
    for (int i = 0; i < n; i++)
        fprintf(out, ", percentile(%g%%) = %g ms", percents[i],
                tdn_latency_percentile(latency, percents[i]));
    fputc('\n', out);
}

/* ---- Which figure to quote ------------------------------------------------------------------- */

/* What spoils a p99: too few calls for it to be more than the slowest, or a machine that does other
 * things, too. */
static void add_doubt(const tdn_measurement *m, const tdn_latency *l, char *text, size_t size)
{
    const size_t at = strlen(text);
    const double p99 = tdn_latency_percentile(l, 99);
    if (m->n < 100)
        snprintf(text + at, size - at,
                 " So few calls have no p99 (100 or more do): use --iterations or --duration.");
    else if (p99 > 2 * l->median)
        snprintf(text + at, size - at,
                 " The p99 is %.1f times the median: is the machine busy with something else?",
                 p99 / l->median);
}

const char *tdn_measurement_quote(const tdn_measurement *m, const tdn_latency *latency, double rate,
                                  const char *circumstances, char *text, size_t size)
{
    const double p99 = tdn_latency_percentile(latency, 99);
    if (rate > 0) {
        const long long n_missed = (long long)(m->n_late + m->n_skipped);
        snprintf(text, size,
                 "Quote: response p99 = %.4g ms at %g Hz (median %.4g ms), %lld of %lld deadlines "
                 "missed, %s.",
                 p99, rate, latency->median, n_missed, (long long)m->n + (long long)m->n_skipped,
                 circumstances);
    } else if (m->n < 100) {
        snprintf(text, size, "Quote: median = %.4g ms of %zu call%s back to back, %s.",
                 latency->median, m->n, m->n == 1 ? "" : "s", circumstances);
    } else {
        snprintf(text, size,
                 "Quote: latency p99 = %.4g ms (median %.4g ms) of %zu calls back to "
                 "back, %s.",
                 p99, latency->median, m->n, circumstances);
    }
    add_doubt(m, latency, text, size);
    return text;
}

/* ---- Profile --------------------------------------------------------------------------------- */

/* What each step took in each call: medians need them all. */
typedef struct samples {
    double *ms; /* step by step, n_calls each */
    uint64_t *total_ns;
    int n_steps;
    int64_t n_calls, n;
} samples;

static tdn_status begin_samples(samples *t, tdn_session *s, int64_t n_calls, tdn_error *error)
{
    int n_steps = tdn_context_n_steps(s->context, tdn_context_program(s->context));
    *t = (samples){.n_steps = n_steps > 0 ? n_steps : 0, .n_calls = n_calls};
    size_t n_samples;
    if (!tdn_size_mul((size_t)t->n_steps, (size_t)n_calls, &n_samples))
        return tdn_fail_nomem(error, "the profile");
    t->ms = tdn_arena_alloc(s->arena, n_samples + 1, sizeof *t->ms);
    t->total_ns = tdn_arena_alloc(s->arena, (size_t)t->n_steps + 1, sizeof *t->total_ns);
    return t->ms && t->total_ns ? TDN_OK : tdn_fail_nomem(error, "the profile");
}

static tdn_status add_samples(samples *t, const tdn_session *s)
{
    int program = tdn_context_program(s->context);
    for (int i = 0; i < t->n_steps; i++) {
        tdn_step_info step = {.struct_size = sizeof step};
        TDN_TRY(tdn_context_step(s->context, program, i, &step));
        t->ms[i * t->n_calls + t->n] = (double)(step.total_ns - t->total_ns[i]) * 1e-6;
        t->total_ns[i] = step.total_ns;
    }
    t->n++;
    return TDN_OK;
}

static tdn_status profile_calls(tdn_session *s, const tdn_feed *feed, samples *t, tdn_error *error)
{
    const int64_t n_warmup = 3;
    uint64_t begin = 0;
    for (int64_t i = 0; i < n_warmup + t->n_calls; i++) {
        tdn_call_time time;
        if (i == n_warmup) {
            tdn_context_profile_reset(s->context);
            begin = tdn_now_ns();
        }
        TDN_TRY(timed_call(s, feed, i, &time, error));
        if (i >= n_warmup)
            TDN_TRY(add_samples(t, s));
        if (i >= n_warmup && time.end - begin > 1000000000u)
            break;
    }
    return TDN_OK;
}

static tdn_status read_profile(tdn_profile *p, tdn_session *s, const samples *t, tdn_error *error)
{
    int program = tdn_context_program(s->context);
    *p = (tdn_profile){.n = t->n_steps, .n_calls = t->n};
    p->steps = tdn_arena_alloc(s->arena, (size_t)p->n + 1, sizeof *p->steps);
    p->median_ms = tdn_arena_alloc(s->arena, (size_t)p->n + 1, sizeof *p->median_ms);
    if (!p->steps || !p->median_ms)
        return tdn_fail_nomem(error, "the profile");
    for (int i = 0; i < p->n; i++) {
        p->steps[i].struct_size = sizeof p->steps[i];
        TDN_TRY(tdn_context_step(s->context, program, i, &p->steps[i]));
        p->median_ms[i] = tdn_latency_of(t->ms + i * t->n_calls, (size_t)t->n).median;
        if (p->steps[i].n_runs)
            p->mean_ms += (double)p->steps[i].total_ns / (double)p->steps[i].n_runs * 1e-6;
    }
    return TDN_OK;
}

tdn_status tdn_profile_run(tdn_profile *profile, tdn_session *session, const tdn_feed *feed,
                           int64_t n_calls, tdn_error *error)
{
    TDN_TRY(tdn_session_new_context(session, true, error));
    TDN_TRY(tdn_session_bind(session, feed, 0, error));
    samples t;
    TDN_TRY(begin_samples(&t, session, n_calls, error));
    TDN_TRY(profile_calls(session, feed, &t, error));
    return read_profile(profile, session, &t, error);
}

tdn_status tdn_profile_read(tdn_profile *profile, tdn_session *session, tdn_error *error)
{
    samples t;
    TDN_TRY(begin_samples(&t, session, 0, error));
    return read_profile(profile, session, &t, error);
}

tdn_status tdn_profile_measure_machine(tdn_profile *profile, const tdn_session *session,
                                       tdn_error *error)
{
    profile->machine = (tdn_machine){.struct_size = sizeof profile->machine};
    return tdn_machine_measure(&profile->machine, session->pool, error);
}

enum { KERNEL_WIDTH = 22, NAME_WIDTH = 31 };

/* Cut to `width` bytes, not within a character of UTF-8. */
static const char *cut(const char *name, int width, char *text, size_t size)
{
    size_t n = strlen(name);
    if (n <= (size_t)width || size < (size_t)width + 1) {
        snprintf(text, size, "%s", name);
        return text;
    }
    size_t keep = (size_t)width - 3;
    while (keep > 0 && ((unsigned char)name[keep] & 0xc0) == 0x80)
        keep--;
    snprintf(text, size, "%.*s...", (int)keep, name);
    return text;
}

static void print_step(FILE *out, const tdn_profile *profile, int number)
{
    char kernel[32], name[64], ceiling[32];
    const tdn_step_info *step = &profile->steps[number];
    const double ns = step->n_runs ? (double)step->total_ns / (double)step->n_runs : 0;
    const double per_ns = ns > 0 ? 1 / ns : 0;
    fprintf(out, "%4d %9.4f %5.1f %8.2f %7.2f %9s %5lld  %-*s %s\n", number, ns * 1e-6,
            profile->mean_ms > 0 ? ns * 1e-4 / profile->mean_ms : 0, (double)step->flops * per_ns,
            (double)step->bytes * per_ns,
            tdn_ceiling_text(tdn_ceiling_of(&profile->machine, step), ceiling),
            (long long)step->n_tiles, KERNEL_WIDTH,
            cut(step->kernel, KERNEL_WIDTH, kernel, sizeof kernel),
            cut(step->name, NAME_WIDTH, name, sizeof name));
}

void tdn_profile_print(FILE *out, const tdn_profile *profile)
{
    char text[512];
    fprintf(out, "\n=== Profile by step (separate run, %llu calls) ===\n",
            (unsigned long long)profile->n_calls);
    fprintf(out, "%4s %9s %5s %8s %7s %9s %5s  %-*s %s\n", "step", "time (ms)", "%", "GFLOP/s",
            "GB/s", "ceiling", "tiles", KERNEL_WIDTH, "kernel", "nodes");
    for (int i = 0; i < profile->n; i++)
        print_step(out, profile, i);
    fprintf(out, "%4s %9.4f %5.1f\n", "all", profile->mean_ms, profile->n > 0 ? 100.0 : 0.0);
    if (profile->machine.n_threads)
        fprintf(out, "%s\n", tdn_machine_text(&profile->machine, text, sizeof text));
}
