/* SPDX-License-Identifier: Apache-2.0 */
/* Checked sizes, the allocator hook, and arenas: one arena per phase, freed as a whole. */
#ifndef TDN_BASE_MEMORY_H
#define TDN_BASE_MEMORY_H

#include <stdbool.h>

#include "tendon/tendon.h"

#define TDN_LARGE_PAGE ((size_t)2 << 20)
#define TDN_ALIGN 64 /* of buffers and plan sections: a cache line, the widest vector */

/* The one place where sizes are multiplied and added. False when the result does not fit; *out is
 * then untouched. */
bool tdn_size_mul(size_t a, size_t b, size_t *out);
bool tdn_size_add(size_t a, size_t b, size_t *out);
/* Product of non-negative dims, false on overflow of int64_t or a negative dim. */
bool tdn_dims_count(const int64_t *dims, int rank, int64_t *count);
static inline size_t tdn_round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* The C library's allocator. */
extern const tdn_allocator tdn_allocator_libc;
/* allocator NULL: libc's. Memory is not cleared. NULL when out of memory; size 0 gives a valid
 * pointer. */
void *tdn_alloc(const tdn_allocator *allocator, size_t size, size_t align);
void *tdn_alloc_zero(const tdn_allocator *allocator, size_t size, size_t align);
void tdn_free(const tdn_allocator *allocator, void *memory);

typedef struct tdn_arena tdn_arena;
/* NULL when out of memory. */
tdn_arena *tdn_arena_create(const tdn_allocator *allocator);
void tdn_arena_free(tdn_arena *arena);
/* Has an allocation from it failed? So a phase that could go on without one, or has no way to say
 * it, need not: whoever runs the phase asks at its end. */
bool tdn_arena_failed(const tdn_arena *arena);
/* Zeroed memory aligned to 16, NULL when out of memory (or count*size overflows). */
void *tdn_arena_alloc(tdn_arena *arena, size_t count, size_t size);
/* The same aligned to TDN_ALIGN: tensor data. */
void *tdn_arena_alloc_data(tdn_arena *arena, size_t size);
char *tdn_arena_strdup(tdn_arena *arena, const char *text);
char *tdn_arena_strndup(tdn_arena *arena, const char *text, size_t size);
__attribute__((format(printf, 2, 3))) char *tdn_arena_printf(tdn_arena *arena, const char *format,
                                                             ...);

#endif
