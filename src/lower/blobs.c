/* SPDX-License-Identifier: Apache-2.0 */
/* Weights by content. A linear look at the hashes is enough: there are a few hundred, and each is
 * compared with its like only. */
#include <string.h>

#include "lower/lower.h"

static uint64_t hash(const uint8_t *p, size_t size)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ size, w;
    for (; size >= 8; size -= 8, p += 8) {
        memcpy(&w, p, 8);
        h = (h ^ w) * 0xff51afd7ed558ccdu;
        h ^= h >> 32;
    }
    for (; size; size--)
        h = (h ^ *p++) * 0x100000001b3u;
    return h;
}

static bool grow(tdn_blobs *b)
{
    uint32_t capacity = b->capacity ? b->capacity * 2 : 64;
    tdn_plan_blob *items = tdn_arena_alloc(b->arena, capacity, sizeof *items);
    uint64_t *hashes = tdn_arena_alloc(b->arena, capacity, sizeof *hashes);
    if (!items || !hashes)
        return false;
    if (b->n) {
        memcpy(items, b->items, b->n * sizeof *items);
        memcpy(hashes, b->hashes, b->n * sizeof *hashes);
    }
    b->items = items;
    b->hashes = hashes;
    b->capacity = capacity;
    return true;
}

uint32_t tdn_blobs_add(tdn_blobs *b, const void *data, size_t size)
{
    uint64_t h = hash(data, size);
    for (uint32_t i = 0; i < b->n; i++)
        if (b->hashes[i] == h && b->items[i].size == size && !memcmp(b->items[i].data, data, size))
            return i;
    if (b->n == b->capacity && !grow(b))
        return UINT32_MAX;
    b->items[b->n] = (tdn_plan_blob){data, size};
    b->hashes[b->n] = h;
    return b->n++;
}
