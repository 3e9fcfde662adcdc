/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The choice. Steps that pack the same values are a unit, since a blob is stored once: a unit's
 * bytes are those of the distinct blobs that its members use. It begins with variant 0, or with
 * fewer bytes where that is no slower (halves in place of floats). Then, move by move, the unit and
 * blob that save most time for each byte more, as long as the bytes suffice: the usual greedy way
 * for a knapsack whose items are chosen among (Sinha and Zoltners, "The multiple-choice knapsack
 * problem", 1979), each move judged by what it adds to the one before.
 *
 * Ties go to the lower step and variant. A variant must be faster by a margin, so that noise does
 * not decide between equals.
 */
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "lower/choose.h"

enum { MAX_SCALES = 64 };
#define MARGIN 0.98
#define NS_PER_COST 0.02 /* 50 multiply-adds a nanosecond; where nothing was timed */

/* The best that can be done to a unit now. */
typedef struct move {
    const tdn_candidate *blob; /* one that has the blob to go to; NULL: nothing saves time */
    double saved;              /* ns */
    int64_t bytes;             /* more than now */
} move;

typedef struct unit {
    uint32_t first, n; /* in the list of members */
    bool stale;
    move best;
} unit;

typedef struct decision {
    tdn_choices *c;
    uint32_t *members; /* steps by target and weights */
    unit *units;
    uint32_t n_units;
    int64_t bytes_left;
} decision;

/* ---- Times and bytes ------------------------------------------------------------------------- */

/* Nanoseconds of the cost of a family's variant, over the steps that are timed. */
typedef struct scale {
    const tdn_family *family; /* NULL: of all */
    int32_t variant;
    double ns, cost;
} scale;

static void add_to_scale(scale *scales, int *n, const tdn_family *family, const tdn_candidate *k)
{
    int i = 0;
    while (i < *n && (scales[i].family != family || scales[i].variant != k->variant))
        i++;
    if (i == MAX_SCALES || k->refused || k->cost <= 0)
        return;
    if (i == *n)
        scales[(*n)++] = (scale){.family = family, .variant = k->variant};
    scales[i].ns += (double)k->ns;
    scales[i].cost += (double)k->cost;
}

/* Its own scale, else variant 0's of the family, which what is alike is measured in, else all's. */
static double scale_of(const scale *scales, int n, const tdn_family *family, int32_t variant)
{
    double best = NS_PER_COST;
    int rank = 0;
    for (int i = 0; i < n; i++) {
        const int r = scales[i].family != family     ? 1
                      : scales[i].variant == variant ? 3
                      : scales[i].variant == 0       ? 2
                                                     : 0;
        if (r > rank) {
            rank = r;
            best = scales[i].ns / scales[i].cost;
        }
    }
    return best;
}

static void set_times(tdn_choices *c, int32_t target)
{
    scale scales[MAX_SCALES];
    int n = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        const tdn_choice *s = &c->items[i];
        for (int32_t k = 0; s->target == target && s->timed && k < s->n_candidates; k++)
            add_to_scale(scales, &n, s->family, &s->candidates[k]);
    }
    for (uint32_t i = 0; i < c->n; i++) {
        const tdn_choice *s = &c->items[i];
        for (int32_t k = 0; s->target == target && k < s->n_candidates; k++) {
            tdn_candidate *x = &s->candidates[k];
            x->time = s->timed ? (double)x->ns
                               : (double)x->cost * scale_of(scales, n, s->family, x->variant);
        }
    }
}

static int by_blob(const void *a, const void *b)
{
    const tdn_choice_blob *x = a, *y = b;
    if (x->target != y->target)
        return x->target < y->target ? -1 : 1;
    return x->id != y->id ? (x->id < y->id ? -1 : 1) : (x->size > y->size) - (x->size < y->size);
}

/* Sorts the blobs and drops those that are there twice. */
static void unite_blobs(tdn_choices *c)
{
    uint32_t n = 0;
    if (c->n_blobs)
        qsort(c->blobs, c->n_blobs, sizeof *c->blobs, by_blob);
    for (uint32_t i = 0; i < c->n_blobs; i++)
        if (n == 0 || by_blob(&c->blobs[n - 1], &c->blobs[i]) != 0)
            c->blobs[n++] = c->blobs[i];
    c->n_blobs = c->n_united = n;
}

size_t tdn_choices_plain_size(tdn_choices *c, int32_t target)
{
    size_t size = 0;
    if (c->n_united != c->n_blobs)
        unite_blobs(c);
    for (uint32_t i = 0; i < c->n_blobs; i++)
        size += c->blobs[i].target == target ? c->blobs[i].size : 0;
    return size;
}

static bool same_blob(const tdn_candidate *a, const tdn_candidate *b)
{
    return a->packed_size == b->packed_size && (a->kernel == b->kernel || a->packed_size == 0);
}

/* ---- Units ----------------------------------------------------------------------------------- */

static tdn_choice *member(const decision *d, const unit *u, uint32_t i)
{
    return &d->c->items[d->members[u->first + i]];
}

/* The fastest candidate with the blob of `like`, or NULL; the first of equals. */
static const tdn_candidate *fastest(const tdn_choice *s, const tdn_candidate *like)
{
    const tdn_candidate *best = NULL;
    for (int32_t i = 0; i < s->n_candidates; i++) {
        const tdn_candidate *k = &s->candidates[i];
        if (k->refused || !same_blob(k, like))
            continue;
        if (!best || k->time < MARGIN * best->time)
            best = k;
    }
    return best;
}

/* What member s would use when its unit goes to the blob of `to`. */
static const tdn_candidate *would_use(const tdn_choice *s, const tdn_candidate *to)
{
    const tdn_candidate *now = &s->candidates[s->chosen], *then = fastest(s, to);
    return then && then->time < MARGIN * now->time ? then : now;
}

/* Bytes of the distinct blobs that a unit uses, now or after a move. */
static int64_t unit_bytes(const decision *d, const unit *u, const tdn_candidate *to)
{
    int64_t bytes = 0;
    for (uint32_t i = 0; i < u->n; i++) {
        const tdn_choice *s = member(d, u, i);
        const tdn_candidate *k = to ? would_use(s, to) : &s->candidates[s->chosen];
        bool again = false;
        for (uint32_t j = 0; j < i && !again; j++) {
            const tdn_choice *other = member(d, u, j);
            again = same_blob(k, to ? would_use(other, to) : &other->candidates[other->chosen]);
        }
        bytes += again ? 0 : (int64_t)k->packed_size;
    }
    return bytes;
}

static double unit_saves(const decision *d, const unit *u, const tdn_candidate *to)
{
    double saved = 0;
    for (uint32_t i = 0; i < u->n; i++) {
        const tdn_choice *s = member(d, u, i);
        saved += s->candidates[s->chosen].time - would_use(s, to)->time;
    }
    return saved;
}

/* Time saved for each byte; a move that costs none comes first. */
static bool is_better(const move *a, const move *b)
{
    if (!a->blob || !b->blob)
        return a->blob != NULL;
    if (a->bytes <= 0 || b->bytes <= 0)
        return a->bytes <= 0 && (b->bytes > 0 || a->saved > b->saved);
    return a->saved * (double)b->bytes > b->saved * (double)a->bytes;
}

static bool is_seen(const decision *d, const unit *u, uint32_t at, int32_t index)
{
    const tdn_candidate *k = &member(d, u, at)->candidates[index];
    for (uint32_t i = 0; i <= at; i++) {
        const tdn_choice *s = member(d, u, i);
        for (int32_t j = 0; j < (i < at ? s->n_candidates : index); j++)
            if (same_blob(&s->candidates[j], k))
                return true;
    }
    return false;
}

static void find_best(const decision *d, unit *u)
{
    const int64_t now = unit_bytes(d, u, NULL);
    u->best = (move){0};
    u->stale = false;
    for (uint32_t i = 0; i < u->n; i++) {
        const tdn_choice *s = member(d, u, i);
        for (int32_t j = 0; j < s->n_candidates; j++) {
            move m = {.blob = &s->candidates[j]};
            if (m.blob->refused || is_seen(d, u, i, j))
                continue;
            m.saved = unit_saves(d, u, m.blob);
            if (m.saved <= 0)
                continue;
            m.bytes = unit_bytes(d, u, m.blob) - now;
            if (m.bytes <= d->bytes_left && is_better(&m, &u->best))
                u->best = m;
        }
    }
}

static void apply(const decision *d, unit *u)
{
    for (uint32_t i = 0; i < u->n; i++) {
        tdn_choice *s = member(d, u, i);
        s->chosen = (int32_t)(would_use(s, u->best.blob) - s->candidates);
    }
    u->stale = true;
}

/* ---- The search ------------------------------------------------------------------------------ */

/* Of the candidates that are no slower than variant 0, the first of the smallest. */
static int32_t smallest(const tdn_choice *s)
{
    const tdn_candidate *plain = &s->candidates[0];
    int32_t best = 0;
    for (int32_t i = 1; i < s->n_candidates; i++) {
        const tdn_candidate *k = &s->candidates[i];
        if (!k->refused && MARGIN * k->time <= plain->time &&
            k->packed_size < s->candidates[best].packed_size)
            best = i;
    }
    return best;
}

/* What the units begin with. Returns the bytes that they take less than with variant 0. */
static int64_t choose_first(decision *d)
{
    int64_t less = 0;
    for (uint32_t i = 0; i < d->n_units; i++) {
        const unit *u = &d->units[i];
        for (uint32_t k = 0; k < u->n; k++)
            member(d, u, k)->chosen = 0;
        less += unit_bytes(d, u, NULL);
        for (uint32_t k = 0; k < u->n; k++) {
            tdn_choice *s = member(d, u, k);
            s->chosen = smallest(s);
        }
        less -= unit_bytes(d, u, NULL);
    }
    return less;
}

static void spend(decision *d)
{
    for (;;) {
        unit *best = NULL;
        for (uint32_t i = 0; i < d->n_units; i++) {
            unit *u = &d->units[i];
            if (u->stale || (u->best.blob && u->best.bytes > d->bytes_left))
                find_best(d, u);
            if (u->best.blob && (!best || is_better(&u->best, &best->best)))
                best = u;
        }
        if (!best)
            return;
        const int64_t bytes = best->best.bytes;
        apply(d, best);
        d->bytes_left -= bytes;
        for (uint32_t i = 0; bytes < 0 && i < d->n_units; i++)
            d->units[i].stale = true;
    }
}

typedef struct item {
    uint64_t weights;
    uint32_t step;
} item;

static int by_weights(const void *a, const void *b)
{
    const item *x = a, *y = b;
    if (x->weights != y->weights)
        return x->weights < y->weights ? -1 : 1;
    return (x->step > y->step) - (x->step < y->step);
}

static int by_step(const void *a, const void *b)
{
    const unit *x = a, *y = b;
    return (x->best.bytes > y->best.bytes) - (x->best.bytes < y->best.bytes);
}

/* Units of a target, by their first step; `best.bytes` is its number until the search begins. */
static void make_units(decision *d, item *items, uint32_t n)
{
    d->n_units = 0;
    if (n)
        qsort(items, n, sizeof *items, by_weights);
    for (uint32_t i = 0; i < n; i++) {
        d->members[i] = items[i].step;
        if (i == 0 || items[i].weights == 0 || items[i].weights != items[i - 1].weights)
            d->units[d->n_units++] =
                (unit){.first = i, .stale = true, .best = {.bytes = items[i].step}};
        d->units[d->n_units - 1].n++;
    }
    if (d->n_units)
        qsort(d->units, d->n_units, sizeof *d->units, by_step);
    for (uint32_t i = 0; i < d->n_units; i++)
        d->units[i].best = (move){0};
}

static void decide_target(decision *d, item *items, int32_t target, double max_ratio)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->c->n; i++)
        if (d->c->items[i].target == target && d->c->items[i].n_candidates > 0)
            items[n++] = (item){d->c->items[i].weights, i};
    make_units(d, items, n);
    set_times(d->c, target);
    const double first = (double)tdn_choices_plain_size(d->c, target) - (double)choose_first(d);
    const double more = first * (max_ratio - 1);
    d->bytes_left = more > 0 ? (more < 1e18 ? (int64_t)more : (int64_t)1e18) : 0;
    spend(d);
}

tdn_status tdn_choices_decide(tdn_choices *c, double max_ratio, tdn_error *error)
{
    decision d = {.c = c};
    item *items = tdn_arena_alloc(c->arena, (size_t)c->n + 1, sizeof *items);
    d.members = tdn_arena_alloc(c->arena, (size_t)c->n + 1, sizeof *d.members);
    d.units = tdn_arena_alloc(c->arena, (size_t)c->n + 1, sizeof *d.units);
    if (!items || !d.members || !d.units)
        return tdn_fail_nomem(error, "the choice of kernels");
    int32_t n_targets = 0;
    for (uint32_t i = 0; i < c->n; i++)
        n_targets = c->items[i].target >= n_targets ? c->items[i].target + 1 : n_targets;
    for (int32_t t = 0; t < n_targets; t++)
        decide_target(&d, items, t, max_ratio);
    return TDN_OK;
}
