/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Open addressing with linear probing; at most half full; old tables stay in the arena (a geometric
 * series: at most as much again). The hash is seeded by the table's address, so that a model file
 * cannot choose names that collide. Names are never removed: a name that was used once stays taken.
 */
#include "graph/names.h"

#include <string.h>

typedef struct slot {
    const char *name;
    void *what;
    uint64_t hash;
} slot;

struct tdn_names {
    tdn_arena *arena;
    slot *slots;
    size_t n_slots, n_used; /* n_slots is a power of two */
    uint64_t seed;
};

static uint64_t mix(uint64_t x)
{
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    return x ^ x >> 32;
}

static uint64_t hash_of(const tdn_names *names, const char *name)
{
    uint64_t h = names->seed;
    size_t left = strlen(name);
    for (; left >= 8; left -= 8, name += 8) {
        uint64_t word;
        memcpy(&word, name, 8);
        h = mix(h ^ word) + names->seed;
    }
    uint64_t word = 0;
    memcpy(&word, name, left);
    return mix(h ^ word ^ (uint64_t)left << 56);
}

static slot *find_slot(const tdn_names *names, const char *name, uint64_t hash)
{
    for (size_t i = hash & (names->n_slots - 1);; i = (i + 1) & (names->n_slots - 1)) {
        slot *s = &names->slots[i];
        if (!s->name || (s->hash == hash && strcmp(s->name, name) == 0))
            return s;
    }
}

static bool resize(tdn_names *names, size_t n_slots)
{
    slot *old = names->slots;
    const size_t n_old = names->n_slots;
    slot *fresh = tdn_arena_alloc(names->arena, n_slots, sizeof *fresh);
    if (!fresh)
        return false;
    names->slots = fresh;
    names->n_slots = n_slots;
    for (size_t i = 0; i < n_old; i++)
        if (old[i].name)
            *find_slot(names, old[i].name, old[i].hash) = old[i];
    return true;
}

tdn_names *tdn_names_create(tdn_arena *arena)
{
    tdn_names *names = tdn_arena_alloc(arena, 1, sizeof *names);
    if (!names)
        return NULL;
    names->arena = arena;
    names->seed = mix((uint64_t)(uintptr_t)names ^ 0x9e3779b97f4a7c15u);
    return resize(names, 32) ? names : NULL;
}

void *tdn_names_find(const tdn_names *names, const char *name)
{
    return find_slot(names, name, hash_of(names, name))->what;
}

bool tdn_names_put(tdn_names *names, const char *name, void *what)
{
    if (2 * (names->n_used + 1) > names->n_slots && !resize(names, 2 * names->n_slots))
        return false;
    const uint64_t hash = hash_of(names, name);
    slot *s = find_slot(names, name, hash);
    names->n_used += !s->name;
    *s = (slot){name, what, hash};
    return true;
}
