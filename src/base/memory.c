/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checked sizes, the allocator hook, and arenas.
 *
 * An arena is a list of chunks; an allocation is cut from the newest chunk, or gets a chunk of its
 * own when it is large. Chunks double from 16 KiB to 1 MiB, so a phase makes few calls to the
 * allocator, and freeing the phase is a walk over the list. Nothing is ever freed alone.
 */
#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define FIRST_CHUNK ((size_t)16 << 10)
#define LARGEST_CHUNK ((size_t)1 << 20)
#define LARGE ((size_t)16 << 20)

bool tdn_size_mul(size_t a, size_t b, size_t *out)
{
    size_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}

bool tdn_size_add(size_t a, size_t b, size_t *out)
{
    size_t sum;
    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}

bool tdn_dims_count(const int64_t *dims, int rank, int64_t *count)
{
    int64_t product = 1;
    bool empty = false;
    /* A zero may stand behind dims whose product overflows: all dims are looked at, zeros last. */
    for (int i = 0; i < rank; i++) {
        if (dims[i] < 0)
            return false;
        empty = empty || dims[i] == 0;
    }
    for (int i = 0; i < rank && !empty; i++)
        if (__builtin_mul_overflow(product, dims[i], &product))
            return false;
    *count = empty ? 0 : product;
    return true;
}

/* What small pages cannot cover in a CPU's table of addresses gets large ones, where there are any:
 * ssd300, with 46 MB of activations, is 3 % faster. */
static void *libc_alloc(void *user, size_t size, size_t align)
{
    (void)user;
    void *memory = NULL;
    const bool is_large = size >= LARGE;
    if (align < sizeof(void *))
        align = sizeof(void *);
    if (is_large && align < TDN_LARGE_PAGE)
        align = TDN_LARGE_PAGE;
    if (posix_memalign(&memory, align, size) != 0)
        return NULL;
    if (is_large)
        madvise(memory, size / TDN_LARGE_PAGE * TDN_LARGE_PAGE, MADV_HUGEPAGE);
    return memory;
}

static void libc_free(void *user, void *memory)
{
    (void)user;
    free(memory);
}

const tdn_allocator tdn_allocator_libc = {libc_alloc, libc_free, NULL};

void *tdn_alloc(const tdn_allocator *allocator, size_t size, size_t align)
{
    if (!allocator)
        allocator = &tdn_allocator_libc;
    /* Beyond PTRDIFF_MAX pointers cannot be subtracted; a hook need not think of it. */
    if (size > PTRDIFF_MAX)
        return NULL;
    return allocator->alloc(allocator->user, size ? size : 1, align);
}

void *tdn_alloc_zero(const tdn_allocator *allocator, size_t size, size_t align)
{
    void *memory = tdn_alloc(allocator, size, align);
    if (memory)
        memset(memory, 0, size);
    return memory;
}

void tdn_free(const tdn_allocator *allocator, void *memory)
{
    if (!allocator)
        allocator = &tdn_allocator_libc;
    if (memory)
        allocator->free(allocator->user, memory);
}

/* A header in front of its bytes; the header's size keeps them aligned to TDN_ALIGN. */
typedef struct chunk {
    struct chunk *next;
    size_t size, used; /* of the bytes behind the header */
} chunk;

#define HEADER_SIZE TDN_ALIGN
_Static_assert(sizeof(chunk) <= HEADER_SIZE, "the bytes of a chunk start aligned");

struct tdn_arena {
    tdn_allocator allocator;
    chunk *chunks; /* the one that small allocations are cut from is first */
    size_t next_size;
    bool failed;
};

tdn_arena *tdn_arena_create(const tdn_allocator *allocator)
{
    tdn_arena *arena = tdn_alloc(allocator, sizeof *arena, _Alignof(max_align_t));
    if (!arena)
        return NULL;
    *arena = (tdn_arena){
        .allocator = allocator ? *allocator : tdn_allocator_libc,
        .next_size = FIRST_CHUNK,
    };
    return arena;
}

void tdn_arena_free(tdn_arena *arena)
{
    if (!arena)
        return;
    const tdn_allocator allocator = arena->allocator;
    for (chunk *c = arena->chunks, *next; c; c = next) {
        next = c->next;
        tdn_free(&allocator, c);
    }
    tdn_free(&allocator, arena);
}

static chunk *new_chunk(tdn_arena *arena, size_t size)
{
    size_t whole;
    if (!tdn_size_add(size, HEADER_SIZE, &whole))
        return NULL;
    chunk *c = tdn_alloc(&arena->allocator, whole, TDN_ALIGN);
    if (c)
        *c = (chunk){.size = size};
    return c;
}

/* A chunk with `size` bytes left behind an aligned start, or NULL. */
static chunk *chunk_for(tdn_arena *arena, size_t size, size_t align)
{
    chunk *first = arena->chunks;
    if (first && tdn_round_up(first->used, align) <= first->size &&
        size <= first->size - tdn_round_up(first->used, align))
        return first;
    const bool own = size > arena->next_size / 4;
    chunk *c = new_chunk(arena, own ? size : arena->next_size);
    if (!c)
        return NULL;
    if (own && first) { /* behind the first, which still has room for small ones */
        c->next = first->next;
        first->next = c;
        return c;
    }
    c->next = first;
    arena->chunks = c;
    if (!own && arena->next_size < LARGEST_CHUNK)
        arena->next_size *= 2;
    return c;
}

static void *fail_cut(tdn_arena *arena)
{
    arena->failed = true;
    return NULL;
}

bool tdn_arena_failed(const tdn_arena *arena) { return arena->failed; }

static void *arena_cut(tdn_arena *arena, size_t size, size_t align)
{
    chunk *c = chunk_for(arena, size, align);
    if (!c)
        return fail_cut(arena);
    const size_t start = tdn_round_up(c->used, align);
    char *memory = (char *)c + HEADER_SIZE + start;
    c->used = start + size;
    return memset(memory, 0, size);
}

void *tdn_arena_alloc(tdn_arena *arena, size_t count, size_t size)
{
    size_t whole;
    if (!tdn_size_mul(count, size, &whole) || whole > PTRDIFF_MAX)
        return fail_cut(arena);
    return arena_cut(arena, whole ? whole : 1, 16);
}

void *tdn_arena_alloc_data(tdn_arena *arena, size_t size)
{
    if (size > PTRDIFF_MAX)
        return fail_cut(arena);
    return arena_cut(arena, size ? size : 1, TDN_ALIGN);
}

char *tdn_arena_strndup(tdn_arena *arena, const char *text, size_t size)
{
    size_t whole;
    if (!tdn_size_add(size, 1, &whole))
        return fail_cut(arena);
    char *copy = tdn_arena_alloc(arena, whole, 1);
    if (copy && size)
        memcpy(copy, text, size);
    return copy;
}

char *tdn_arena_strdup(tdn_arena *arena, const char *text)
{
    return tdn_arena_strndup(arena, text, strlen(text));
}

char *tdn_arena_printf(tdn_arena *arena, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = length < 0 ? NULL : tdn_arena_alloc(arena, (size_t)length + 1, 1);
    if (text)
        vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}
