/* SPDX-License-Identifier: Apache-2.0 */
/* An allocator with a cap, so that a small input which asks for much shows, and so that the ways
 * out of failing allocations are walked. A block remembers its size in front of itself. */
#ifndef TDN_TESTS_FUZZ_CAPPED_H
#define TDN_TESTS_FUZZ_CAPPED_H

#include <string.h>

#include "base/memory.h"

enum { CAPPED_HEADER = 4096 };

typedef struct capped {
    size_t used, cap;
} capped;

static inline void *capped_alloc(void *user, size_t size, size_t align)
{
    capped *m = user;
    const size_t header = align > 64 ? CAPPED_HEADER : 64;
    if (size > m->cap - m->used)
        return NULL;
    char *memory = tdn_alloc(NULL, size + header, align > 64 ? align : 64);
    if (!memory)
        return NULL;
    m->used += size;
    memory += header;
    memcpy(memory - 16, &size, sizeof size);
    memcpy(memory - 8, &header, sizeof header);
    return memory;
}

static inline void capped_free(void *user, void *memory)
{
    capped *m = user;
    size_t size, header;
    if (!memory)
        return;
    memcpy(&size, (char *)memory - 16, sizeof size);
    memcpy(&header, (char *)memory - 8, sizeof header);
    m->used -= size;
    tdn_free(NULL, (char *)memory - header);
}

#endif
