/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Jobs are the distinct works among the steps. A job is first looked up; what is missing is timed,
 * what promises most first. Candidates take turns, so that a disturbance meets all of them, and the
 * shortest of each one's runs counts; those that fall behind stop running, with the time they have.
 * A disturbance that lasts meets all candidates of some jobs, which makes these look slower beside
 * others: so there are several passes over all jobs.
 * All times that a decision is made from are in the cache's form (whole ns), so that a build that
 * finds them there decides the same.
 */
#include "lower/tune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/machine.h"
#include "base/pool.h"
#include "lower/trial.h"

enum {
    PASSES = 3,
    MIN_ROUNDS = 3, /* in each pass; also the others */
    MAX_ROUNDS = 50,
    MOMENT_NS = 500000,
    ENOUGH_NS = 2500000,    /* of runs of one candidate, beyond MIN_ROUNDS */
    LONG_NS = 8000000,      /* so long a run is hardly twice as slow by chance */
    LONG_BUDGET_MS = 15000, /* who has so much time takes PATIENCE times as many runs */
    PATIENCE = 4,
    MAX_SHAPE = 200
};
/* Behind the best by this factor, a candidate stops: after a long run, after MIN_ROUNDS, or before
 * a further pass. */
#define BEHIND_FIRST 2.0
#define BEHIND_LATER 1.15
#define BEHIND_PASS 1.4
#define BEHIND_PRESUMED 1.5

typedef struct state {
    int64_t spent;
    bool stopped;
} state;

typedef struct job {
    tdn_choice *step; /* the first of them */
    state *states;    /* by candidate; NULL: not begun */
    uint64_t work;
    uint64_t *keys; /* by candidate */
    double weight;  /* what may be gained, in cost, over all steps that are it */
    uint32_t n_steps;
    bool timed, left; /* left: a build that may not take longer did so */
} job;

/* A step with more than one candidate, and its job. */
typedef struct entry {
    uint64_t work;
    uint32_t step;
} entry;

typedef struct tuner {
    tdn_choices *c;
    const tdn_tune_options *o;
    tdn_tune_result *result;
    tdn_error *error;
    tdn_arena *arena;
    const char *cpu; /* the arena's, as the cache keeps it */
    entry *entries;
    job *jobs;
    uint32_t n_entries, n_jobs;
    tdn_bench bench;
    size_t *spans; /* by target */
    uint64_t begin, deadline;
} tuner;

/* ---- What a time depends on ------------------------------------------------------------------ */

static void add_view(tdn_sha256 *h, const tdn_view *v)
{
    const int32_t head[2] = {(int32_t)v->dtype, v->rank};
    tdn_sha256_add(h, head, sizeof head);
    tdn_sha256_add(h, v->dims, (size_t)v->rank * sizeof *v->dims);
    tdn_sha256_add(h, v->strides, (size_t)v->rank * sizeof *v->strides);
}

static uint64_t first_bytes(tdn_sha256 *h)
{
    uint8_t digest[32];
    uint64_t key = 0;
    tdn_sha256_end(h, digest);
    for (int i = 0; i < 8; i++)
        key = key << 8 | digest[i];
    return key;
}

/* The operands, the arguments, where weights come from, and this version's kernels. */
static uint64_t key_of(const tdn_choice *s, const tdn_candidate *k, size_t span)
{
    tdn_sha256 h;
    const uint64_t numbers[] = {
        (uint64_t)s->n_in, (uint64_t)s->n_out, k->args_size, k->packed_size, span, s->is_sparse};
    tdn_sha256_begin(&h);
    tdn_sha256_add(&h, tdn_version(), strlen(tdn_version()) + 1);
    tdn_sha256_add(&h, k->kernel->name, strlen(k->kernel->name) + 1);
    tdn_sha256_add(&h, numbers, sizeof numbers);
    tdn_sha256_add(&h, k->args, k->args_size);
    for (int32_t i = 0; i < s->n_in + s->n_out; i++)
        add_view(&h, &s->views[i]);
    return first_bytes(&h);
}

static uint64_t work_of(const uint64_t *keys, int32_t n)
{
    tdn_sha256 h;
    tdn_sha256_begin(&h);
    tdn_sha256_add(&h, keys, (size_t)n * sizeof *keys);
    return first_bytes(&h);
}

/* "1x1x38x38x256,256x256x1x3x3>1x1x38x38x256", for who reads the file; the key counts. */
static const char *shape_of(const tuner *t, const tdn_choice *s)
{
    char text[MAX_SHAPE];
    size_t n = 0;
    text[0] = 0;
    for (int32_t i = 0; i < s->n_in + s->n_out; i++) {
        const tdn_view *v = &s->views[i];
        if (i > 1 && i < s->n_in)
            continue;
        if (i > 0 && n < sizeof text)
            n += (size_t)snprintf(text + n, sizeof text - n, "%c", i < s->n_in ? ',' : '>');
        for (int a = 0; a < v->rank && n < sizeof text; a++)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%lld", a ? "x" : "",
                                  (long long)v->dims[a]);
    }
    return tdn_arena_strdup(t->arena, text[0] ? text : "-");
}

static tdn_timing timing_of(const tuner *t, const job *j, int32_t candidate)
{
    const tdn_candidate *k = &j->step->candidates[candidate];
    return (tdn_timing){.key = j->keys[candidate],
                        .threads = t->result->n_threads,
                        .variant = k->variant,
                        .kernel = k->kernel->name,
                        .cpu = t->cpu};
}

/* ---- Jobs ------------------------------------------------------------------------------------ */

static int by_work(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->work != y->work)
        return x->work < y->work ? -1 : 1;
    return (x->step > y->step) - (x->step < y->step);
}

/* What promises most first; the step's place decides between equals. */
static int by_weight(const void *a, const void *b)
{
    const job *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return (x->step > y->step) - (x->step < y->step);
}

/* By the costs, which may be wrong: some of the whole is hoped for where they promise nothing. */
static double hoped_gain(const tdn_choice *s)
{
    int64_t least = s->candidates[0].cost;
    for (int32_t i = 1; i < s->n_candidates; i++)
        least = s->candidates[i].cost < least ? s->candidates[i].cost : least;
    return (double)(s->candidates[0].cost - least) + 0.1 * (double)s->candidates[0].cost;
}

static bool is_tunable(const tuner *t, const tdn_choice *s)
{
    return s->n_candidates > 1 && s->target < t->o->n_targets && t->o->is_present[s->target];
}

/* The keys of a step's candidates. */
static uint64_t *keys_of(const tuner *t, const tdn_choice *s)
{
    uint64_t *keys = tdn_arena_alloc(t->arena, (size_t)s->n_candidates, sizeof *keys);
    for (int32_t i = 0; keys && i < s->n_candidates; i++)
        keys[i] = key_of(s, &s->candidates[i], t->spans[s->target]);
    return keys;
}

static tdn_status find_jobs(tuner *t)
{
    uint64_t **keys = tdn_arena_alloc(t->arena, (size_t)t->c->n + 1, sizeof *keys);
    t->entries = tdn_arena_alloc(t->arena, (size_t)t->c->n + 1, sizeof *t->entries);
    t->jobs = tdn_arena_alloc(t->arena, (size_t)t->c->n + 1, sizeof *t->jobs);
    t->spans = tdn_arena_alloc(t->arena, (size_t)t->o->n_targets + 1, sizeof *t->spans);
    if (!keys || !t->entries || !t->jobs || !t->spans)
        return tdn_fail_nomem(t->error, "tuning");
    for (int32_t i = 0; i < t->o->n_targets; i++)
        t->spans[i] = tdn_bench_span(tdn_choices_plain_size(t->c, i));
    for (uint32_t i = 0; i < t->c->n; i++) {
        const tdn_choice *s = &t->c->items[i];
        if (!is_tunable(t, s))
            continue;
        keys[i] = keys_of(t, s);
        if (!keys[i])
            return tdn_fail_nomem(t->error, "tuning");
        t->entries[t->n_entries++] = (entry){work_of(keys[i], s->n_candidates), i};
    }
    if (t->n_entries)
        qsort(t->entries, t->n_entries, sizeof *t->entries, by_work);
    for (uint32_t i = 0; i < t->n_entries; i++) {
        tdn_choice *s = &t->c->items[t->entries[i].step];
        if (i == 0 || t->entries[i].work != t->entries[i - 1].work)
            t->jobs[t->n_jobs++] =
                (job){.step = s, .work = t->entries[i].work, .keys = keys[t->entries[i].step]};
        t->jobs[t->n_jobs - 1].weight += hoped_gain(s);
        t->jobs[t->n_jobs - 1].n_steps++;
    }
    if (t->n_jobs)
        qsort(t->jobs, t->n_jobs, sizeof *t->jobs, by_weight);
    return TDN_OK;
}

/* ---- The cache ------------------------------------------------------------------------------- */

static void look_up(tuner *t, job *j)
{
    bool all = true;
    for (int32_t i = 0; i < j->step->n_candidates; i++) {
        const tdn_timing like = timing_of(t, j, i);
        const tdn_timing *found = tdn_timing_cache_find(t->o->cache, &like);
        j->step->candidates[i].ns = found ? found->ns : 0;
        all = all && found && found->ns > 0;
        j->left |= found && found->ns == 0 && found->budget_ms >= t->o->budget_ms;
    }
    j->timed = all;
}

/* Times of a job that was timed; else, that what is missing was left out. */
static tdn_status remember(const tuner *t, const job *j)
{
    if (!t->o->cache)
        return TDN_OK;
    const char *shape = shape_of(t, j->step);
    for (int32_t i = 0; i < j->step->n_candidates; i++) {
        tdn_timing timing = timing_of(t, j, i);
        const tdn_timing *old = tdn_timing_cache_find(t->o->cache, &timing);
        timing.ns = j->timed ? j->step->candidates[i].ns : 0;
        timing.budget_ms = j->timed ? 0 : t->o->budget_ms;
        timing.shape = shape;
        if (!j->timed && old && old->ns > 0)
            continue;
        if (!shape || !tdn_timing_cache_put(t->o->cache, &timing))
            return tdn_fail_nomem(t->error, "the timing cache");
    }
    return TDN_OK;
}

/* ---- Timing ---------------------------------------------------------------------------------- */

/* A time that no candidate comes near: of one that could not be run. The cache knows it as such. */
#define REFUSED_NS ((int64_t)1 << 50)

static int64_t best_of(const tdn_choice *s)
{
    int64_t best = INT64_MAX;
    for (int32_t i = 0; i < s->n_candidates; i++)
        if (s->candidates[i].ns > 0 && s->candidates[i].ns < best)
            best = s->candidates[i].ns;
    return best;
}

/* Stops who is behind, and who has run enough; false when nobody runs any more. Short runs are
 * easily disturbed: what has run but for a moment is not judged. */
static bool thin_out(const tdn_choice *s, state *states, int round, int patience)
{
    const double best = (double)best_of(s);
    int n = 0, n_near = 0;
    for (int32_t i = 0; i < s->n_candidates; i++) {
        const tdn_candidate *k = &s->candidates[i];
        state *st = &states[i];
        const bool early = round + 1 < MIN_ROUNDS * patience || st->spent < MOMENT_NS * patience;
        const bool behind = early ? k->ns > LONG_NS && (double)k->ns > best * BEHIND_FIRST
                                  : (double)k->ns > best * BEHIND_LATER;
        st->stopped |= k->refused || behind || (!early && st->spent > ENOUGH_NS * patience);
        n += !st->stopped;
        n_near += !k->refused && !behind;
    }
    return n > 0 && n_near > 1; /* one alone needs no second look */
}

/* The time of one that runs variant 0's kernel on its weights where variant 0 is far behind: a
 * matter of tiles, which makes no such difference. 0: it is to be run. */
static int64_t presumed(const tdn_choice *s, int32_t index)
{
    const tdn_candidate *plain = &s->candidates[0], *k = &s->candidates[index];
    const bool is_like =
        index > 0 && k->kernel == plain->kernel && k->packed_size == plain->packed_size;
    return is_like && (double)plain->ns > BEHIND_PRESUMED * (double)best_of(s) ? plain->ns : 0;
}

/* Times the candidates in turns. False when the time was over before each had run once. */
static bool take_times(tuner *t, tdn_choice *s, state *states)
{
    const int patience = t->o->budget_ms >= LONG_BUDGET_MS ? PATIENCE : 1;
    tdn_bench_wake(&t->bench);
    for (int round = 0; round < MAX_ROUNDS * patience; round++) {
        for (int32_t i = 0; i < s->n_candidates; i++) {
            tdn_candidate *k = &s->candidates[i];
            if (states[i].stopped || k->refused)
                continue;
            if (tdn_now_ns() > t->deadline)
                return round > 0;
            const int64_t known = round == 0 ? presumed(s, i) : 0;
            const int64_t ns = known ? known : tdn_bench_run(&t->bench, s, k);
            states[i].stopped = known > 0;
            states[i].spent += ns;
            k->ns = k->ns == 0 || ns < k->ns ? ns : k->ns;
        }
        if (!thin_out(s, states, round, patience))
            break;
    }
    return true;
}

/* In a further pass, candidates that are far behind do not run. */
static void begin_pass(job *j, int pass)
{
    const tdn_choice *s = j->step;
    const double best = (double)best_of(s);
    for (int32_t i = 0; i < s->n_candidates; i++)
        j->states[i] =
            (state){.stopped = pass > 0 && (double)s->candidates[i].ns > BEHIND_PASS * best};
}

static tdn_status time_job(tuner *t, job *j, int pass)
{
    tdn_choice *s = j->step;
    bool can_run;
    if (pass == 0) {
        j->states = tdn_arena_alloc(t->arena, (size_t)s->n_candidates, sizeof *j->states);
        if (!j->states)
            return tdn_fail_nomem(t->error, "tuning");
        for (int32_t i = 0; i < s->n_candidates; i++)
            s->candidates[i].ns = 0;
    }
    TDN_TRY(tdn_bench_prepare(&t->bench, s, &can_run, t->error));
    begin_pass(j, pass);
    const bool done = can_run && take_times(t, s, j->states);
    j->timed = pass > 0 || done;
    return TDN_OK;
}

/* The cache knows who could not run by a time, and so do all steps that are this work. */
static void end_job(const job *j)
{
    for (int32_t i = 0; i < j->step->n_candidates; i++) {
        tdn_candidate *k = &j->step->candidates[i];
        k->ns = !j->timed ? 0 : k->refused ? REFUSED_NS : k->ns;
        k->refused = false;
    }
}

static void show_progress(const tuner *t, uint32_t n, double fraction)
{
    char what[64];
    if (!t->o->progress)
        return;
    snprintf(what, sizeof what, "Tuning %u of %u steps", n, t->result->n_steps);
    t->o->progress(t->o->progress_user, what, fraction);
}

/* Jobs without times, as long as there is time; in further passes those that have begun. */
static tdn_status time_pass(tuner *t, int pass)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_jobs; i++) {
        job *j = &t->jobs[i];
        n += j->n_steps;
        const bool is_due = pass == 0 ? !j->timed && !j->left : j->states && j->timed;
        const uint64_t now = tdn_now_ns();
        if (!is_due || now >= t->deadline)
            continue;
        t->bench.span = t->spans[j->step->target];
        const double part = (pass + (double)i / t->n_jobs) / PASSES;
        const double time = (double)(now - t->begin) / (double)(t->deadline - t->begin);
        show_progress(t, n, part > time ? part : time);
        TDN_TRY(time_job(t, j, pass));
    }
    return TDN_OK;
}

static tdn_status time_jobs(tuner *t)
{
    for (int pass = 0; pass < PASSES; pass++)
        TDN_TRY(time_pass(t, pass));
    for (uint32_t i = 0; i < t->n_jobs; i++) {
        job *j = &t->jobs[i];
        if (j->states)
            end_job(j);
        if (j->states || (!j->timed && !j->left))
            TDN_TRY(remember(t, j));
    }
    return TDN_OK;
}

static tdn_status time_or_look_up(tuner *t)
{
    bool is_any = false;
    for (uint32_t i = 0; i < t->n_jobs; i++) {
        if (t->o->cache)
            look_up(t, &t->jobs[i]);
        is_any |= !t->jobs[i].timed && !t->jobs[i].left;
    }
    if (!is_any)
        return TDN_OK;
    t->begin = tdn_now_ns();
    t->deadline = t->begin + (uint64_t)t->o->budget_ms * 1000000u;
    const tdn_status status = time_jobs(t);
    tdn_bench_end(&t->bench);
    return status;
}

/* The times of a job's first step are those of all. */
static void settle(tuner *t)
{
    for (uint32_t e = 0; e < t->n_entries; e++) {
        tdn_choice *s = &t->c->items[t->entries[e].step];
        const job *j = t->jobs;
        while (j->work != t->entries[e].work)
            j++;
        s->timed = j->timed;
        for (int32_t i = 0; i < s->n_candidates; i++) {
            s->candidates[i].ns = j->timed ? j->step->candidates[i].ns : 0;
            s->candidates[i].refused = s->candidates[i].ns >= REFUSED_NS;
        }
        t->result->n_timed += j->timed;
    }
}

static tdn_status tune_on_pool(tuner *t)
{
    tdn_pool *pool;
    tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
    options.n_threads = t->o->n_threads;
    options.allocator = t->o->allocator;
    options.cores = t->o->cores;
    options.n_cores = t->o->n_cores;
    TDN_TRY(tdn_pool_create(&pool, &options, t->error));
    t->result->n_threads = tdn_pool_threads(pool);
    t->bench = (tdn_bench){.allocator = t->o->allocator,
                           .pool = tdn_pool_acquire(pool) ? pool : NULL,
                           .n_threads = t->result->n_threads};
    const tdn_status status = time_or_look_up(t);
    if (t->bench.pool)
        tdn_pool_release(pool);
    tdn_pool_free(pool);
    if (status == TDN_OK)
        settle(t);
    return status;
}

static void name_machine(tdn_tune_result *r)
{
    char name[100];
    tdn_machine_name(name, sizeof name);
    snprintf(r->cpu, sizeof r->cpu, "%s, isa %llx", name,
             (unsigned long long)tdn_backends[0]->detect());
}

tdn_status tdn_tune(tdn_choices *choices, const tdn_tune_options *options, tdn_tune_result *result,
                    tdn_error *error)
{
    tuner t = {.c = choices, .o = options, .result = result, .error = error};
    *result = (tdn_tune_result){0};
    for (uint32_t i = 0; i < choices->n; i++)
        result->n_steps += choices->items[i].n_candidates > 1;
    t.arena = choices->arena;
    TDN_TRY(find_jobs(&t));
    if (t.n_jobs == 0 || options->budget_ms == 0)
        return TDN_OK;
    name_machine(result);
    t.cpu = tdn_arena_strdup(t.arena, result->cpu);
    return t.cpu ? tune_on_pool(&t) : tdn_fail_nomem(error, "tuning");
}

/* ---- The table ------------------------------------------------------------------------------- */

static void log_step(const tdn_choice *s, const tdn_tune_options *o)
{
    char line[1024];
    size_t n =
        (size_t)snprintf(line, sizeof line, "%.80s: %s", s->name, s->timed ? "" : "by estimate: ");
    for (int32_t i = 0; i < s->n_candidates && n < sizeof line; i++) {
        const tdn_candidate *k = &s->candidates[i];
        n += (size_t)snprintf(line + n, sizeof line - n, "%s%s/%d ", i ? ", " : "", k->kernel->name,
                              k->variant);
        if (n >= sizeof line)
            break;
        if (k->refused)
            n += (size_t)snprintf(line + n, sizeof line - n, "refused");
        else if (s->timed)
            n += (size_t)snprintf(line + n, sizeof line - n, "%.1f us", (double)k->ns * 1e-3);
        else
            n += (size_t)snprintf(line + n, sizeof line - n, "%.1f Mflop", (double)k->cost * 1e-6);
    }
    const tdn_candidate *chosen = &s->candidates[s->chosen];
    if (n < sizeof line)
        snprintf(line + n, sizeof line - n, "; chosen: %s/%d", chosen->kernel->name,
                 chosen->variant);
    o->log(o->log_user, TDN_LOG_INFO, line);
}

void tdn_tune_log(const tdn_choices *c, const tdn_tune_options *o)
{
    for (uint32_t i = 0; o->log && i < c->n; i++)
        if (c->items[i].n_candidates > 1)
            log_step(&c->items[i], o);
}
