/* SPDX-License-Identifier: Apache-2.0 */
/* The memory plan: offsets in the arena by lifetime. Largest first, each at the lowest offset that
 * no storage alive at the same time occupies. Ties are broken by number, so the plan is the same
 * each time. */
#include <stdlib.h>

#include "lower/lowering.h"

typedef struct item {
    tdn_storage *s;
    int32_t number;
} item;

static int by_size(const void *a, const void *b)
{
    const item *x = a, *y = b;
    if (x->s->size != y->s->size)
        return x->s->size < y->s->size ? 1 : -1;
    return (x->number > y->number) - (x->number < y->number);
}

static int by_offset(const void *a, const void *b)
{
    const item *x = a, *y = b;
    if (x->s->offset != y->s->offset)
        return x->s->offset > y->s->offset ? 1 : -1;
    return (x->number > y->number) - (x->number < y->number);
}

static size_t first_fit(const item *placed, int32_t n, const tdn_storage *s)
{
    size_t at = 0;
    for (int32_t i = 0; i < n; i++) { /* in order of offset */
        const tdn_storage *other = placed[i].s;
        if (other->first > s->last || other->last < s->first)
            continue;
        if (at + s->size <= other->offset)
            break;
        size_t end = tdn_round_up(other->offset + other->size, TDN_ALIGN);
        at = end > at ? end : at;
    }
    return at;
}

size_t tdn_memory_plan(tdn_storage *storages, int32_t n, tdn_arena *scratch)
{
    item *items = tdn_arena_alloc(scratch, (size_t)n + 1, sizeof *items);
    item *placed = tdn_arena_alloc(scratch, (size_t)n + 1, sizeof *placed);
    int32_t n_items = 0;
    size_t arena_size = 0;
    if (!items || !placed)
        return SIZE_MAX;
    for (int32_t i = 0; i < n; i++)
        if (storages[i].cls == TDN_BUFFER_ARENA && storages[i].first <= storages[i].last)
            items[n_items++] = (item){&storages[i], i};
    qsort(items, (size_t)n_items, sizeof *items, by_size);
    for (int32_t i = 0; i < n_items; i++) {
        tdn_storage *s = items[i].s;
        s->offset = first_fit(placed, i, s);
        int32_t k = i; /* insert by offset */
        for (; k > 0 && by_offset(&placed[k - 1], &items[i]) > 0; k--)
            placed[k] = placed[k - 1];
        placed[k] = items[i];
        if (s->offset + s->size > arena_size)
            arena_size = s->offset + s->size;
    }
    return tdn_round_up(arena_size, TDN_ALIGN);
}
