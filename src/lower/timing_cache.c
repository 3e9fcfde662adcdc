/* SPDX-License-Identifier: Apache-2.0 */
/* Reading, finding and writing. A file is data from outside: each field is checked, and a line that
 * fails is left out. */
#include "lower/timing_cache.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"

static const char title[] = "tendon timing cache 1";

enum { MAX_FILE_SIZE = 256 << 20, MAX_LINE = 1000, MAX_DIGITS = 16 };

/* ---- Order ----------------------------------------------------------------------------------- */

static int compare(const tdn_timing *a, const tdn_timing *b)
{
    if (a->key != b->key)
        return a->key < b->key ? -1 : 1;
    if (a->threads != b->threads)
        return a->threads < b->threads ? -1 : 1;
    if (a->variant != b->variant)
        return a->variant < b->variant ? -1 : 1;
    const int kernel = strcmp(a->kernel, b->kernel);
    return kernel ? kernel : strcmp(a->cpu, b->cpu);
}

/* Of two lines for the same, which only other hands write: a time before none, the shorter first.
 */
static int by_place(const void *a, const void *b)
{
    const tdn_timing *x = a, *y = b;
    const int order = compare(x, y);
    if (order || x->ns == y->ns)
        return order;
    return y->ns == 0 || (x->ns && x->ns < y->ns) ? -1 : 1;
}

/* Where it is or belongs among the first n_sorted. */
static size_t lower_bound(const tdn_timing_cache *c, const tdn_timing *like)
{
    size_t low = 0, high = c->n_sorted;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (compare(&c->items[middle], like) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

const tdn_timing *tdn_timing_cache_find(const tdn_timing_cache *c, const tdn_timing *like)
{
    const size_t at = lower_bound(c, like);
    if (at < c->n_sorted && compare(&c->items[at], like) == 0)
        return &c->items[at];
    for (size_t i = c->n_sorted; i < c->n; i++)
        if (compare(&c->items[i], like) == 0)
            return &c->items[i];
    return NULL;
}

static void sort(tdn_timing_cache *c)
{
    if (c->n)
        qsort(c->items, c->n, sizeof *c->items, by_place);
    size_t n = 0;
    for (size_t i = 0; i < c->n; i++)
        if (n == 0 || compare(&c->items[n - 1], &c->items[i]) != 0)
            c->items[n++] = c->items[i];
    c->n = c->n_sorted = n;
}

static bool append(tdn_timing_cache *c, const tdn_timing *timing)
{
    if (c->n == c->capacity) {
        const size_t capacity = c->capacity ? c->capacity * 2 : 256;
        tdn_timing *items = tdn_arena_alloc(c->arena, capacity, sizeof *items);
        if (!items)
            return false;
        if (c->n)
            memcpy(items, c->items, c->n * sizeof *items);
        c->items = items;
        c->capacity = capacity;
    }
    c->items[c->n++] = *timing;
    return true;
}

bool tdn_timing_cache_put(tdn_timing_cache *c, const tdn_timing *timing)
{
    tdn_timing *old = (tdn_timing *)tdn_timing_cache_find(c, timing);
    c->changed = true;
    if (!old)
        return append(c, timing);
    *old = *timing;
    return true;
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* The rest of a line. */
typedef struct line {
    const char *at, *end;
} line;

/* Steps over the word and a space behind it. */
static bool skip_word(line *l, const char *word)
{
    const size_t n = strlen(word);
    if ((size_t)(l->end - l->at) < n + 1 || memcmp(l->at, word, n) != 0 || l->at[n] != ' ')
        return false;
    l->at += n + 1;
    return true;
}

/* Digits up to a space. */
static bool read_number(line *l, int base, uint64_t *value)
{
    static const char digits[] = "0123456789abcdef";
    int n = 0;
    *value = 0;
    for (; l->at < l->end && *l->at != ' '; l->at++, n++) {
        const char *digit = memchr(digits, *l->at, (size_t)base);
        if (!digit || n == MAX_DIGITS)
            return false;
        *value = *value * (uint64_t)base + (uint64_t)(digit - digits);
    }
    if (n == 0 || l->at == l->end)
        return false;
    l->at++;
    return true;
}

static bool read_int(line *l, int64_t max, int64_t *value)
{
    uint64_t n;
    if (!read_number(l, 10, &n) || n > (uint64_t)max)
        return false;
    *value = (int64_t)n;
    return true;
}

/* Up to a space, or all that is left. NULL in *word: out of memory. */
static bool read_word(line *l, bool rest, tdn_arena *arena, const char **word)
{
    const char *begin = l->at;
    while (l->at < l->end && (rest || *l->at != ' ')) {
        if (*l->at < ' ' || *l->at > '~')
            return false;
        l->at++;
    }
    if (l->at == begin || (!rest && l->at == l->end))
        return false;
    *word = tdn_arena_strndup(arena, begin, (size_t)(l->at - begin));
    l->at += !rest;
    return true;
}

/* "time 81234 ..." or "left 3000 ..." */
static bool read_line(line l, tdn_arena *arena, tdn_timing *t)
{
    int64_t threads, variant;
    *t = (tdn_timing){0};
    if (skip_word(&l, "time")) {
        if (!read_int(&l, INT64_MAX / 2, &t->ns) || t->ns == 0)
            return false;
    } else if (!skip_word(&l, "left") || !read_int(&l, INT64_MAX / 2, &t->budget_ms)) {
        return false;
    }
    if (!skip_word(&l, "threads") || !read_int(&l, INT32_MAX, &threads) ||
        !skip_word(&l, "variant") || !read_int(&l, INT32_MAX, &variant) || !skip_word(&l, "key") ||
        !read_number(&l, 16, &t->key) || !skip_word(&l, "kernel") ||
        !read_word(&l, false, arena, &t->kernel) || !skip_word(&l, "shape") ||
        !read_word(&l, false, arena, &t->shape) || !skip_word(&l, "cpu"))
        return false;
    t->threads = (int32_t)threads;
    t->variant = (int32_t)variant;
    return read_word(&l, true, arena, &t->cpu);
}

static tdn_status parse_line(tdn_timing_cache *c, line l, tdn_error *error)
{
    tdn_timing t;
    if (l.at == l.end || *l.at == '#')
        return TDN_OK;
    if (l.end - l.at > MAX_LINE || !read_line(l, c->arena, &t)) {
        c->n_damaged++;
        return TDN_OK;
    }
    return t.kernel && t.shape && t.cpu && append(c, &t)
               ? TDN_OK
               : tdn_fail_nomem(error, "the timing cache");
}

tdn_status tdn_timing_cache_parse(tdn_timing_cache *c, const char *text, size_t size,
                                  const char *path, tdn_error *error)
{
    const size_t n = sizeof title - 1;
    if (size == 0)
        return TDN_OK;
    if (size > MAX_FILE_SIZE || size < n || memcmp(text, title, n) != 0 ||
        (size > n && text[n] != '\n'))
        return tdn_fail(error, TDN_E_FORMAT,
                        "%s is no timing cache of this version: its first line is not '%s'; name "
                        "another file, or delete it",
                        path, title);
    const char *end = text + size;
    for (const char *at = text + n; at < end;) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        const line l = {at, stop ? stop : end};
        TDN_TRY(parse_line(c, l, error));
        at = l.end + 1;
    }
    sort(c);
    return TDN_OK;
}

tdn_status tdn_timing_cache_read(tdn_timing_cache *c, const char *path, tdn_error *error)
{
    tdn_map map;
    if (access(path, F_OK) != 0)
        return TDN_OK;
    TDN_TRY(tdn_map_open(&map, path, error));
    const tdn_status status =
        tdn_timing_cache_parse(c, (const char *)map.data, map.size, path, error);
    tdn_map_close(&map);
    return status;
}

/* ---- Writing --------------------------------------------------------------------------------- */

static void put_line(tdn_text *text, const tdn_timing *t)
{
    tdn_text_put(text, t->ns ? "time %lld" : "left %lld",
                 (long long)(t->ns ? t->ns : t->budget_ms));
    tdn_text_put(text, " threads %d variant %d key %016llx kernel %s shape %s cpu %s\n", t->threads,
                 t->variant, (unsigned long long)t->key, t->kernel, t->shape, t->cpu);
}

/* Entries of the file that are not ours; the words for a damaged file were said when it was read,
 * and what is no cache by now is not overwritten. */
static tdn_status merge(tdn_timing_cache *c, const char *path, tdn_error *error)
{
    tdn_timing_cache others = {.arena = c->arena};
    TDN_TRY(tdn_timing_cache_read(&others, path, error));
    sort(c);
    for (size_t i = 0; i < others.n; i++)
        if (!tdn_timing_cache_find(c, &others.items[i]) && !append(c, &others.items[i]))
            return tdn_fail_nomem(error, "the timing cache");
    sort(c);
    return TDN_OK;
}

tdn_status tdn_timing_cache_write(tdn_timing_cache *c, const char *path, tdn_error *error)
{
    tdn_text text = {0};
    TDN_TRY(merge(c, path, error));
    tdn_text_put(&text, "%s\n", title);
    for (size_t i = 0; i < c->n; i++)
        put_line(&text, &c->items[i]);
    const tdn_status status = text.failed ? tdn_fail_nomem(error, "the timing cache")
                                          : tdn_file_write(path, text.data, text.n, error);
    tdn_text_discard(&text);
    if (status == TDN_OK)
        c->changed = false;
    return status;
}
