/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded reader over bytes that nobody vouches for: check once here, then trust. */
#ifndef TDN_BASE_READER_H
#define TDN_BASE_READER_H

#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include <string.h>

typedef struct tdn_reader {
    const uint8_t *at, *end;
} tdn_reader;

static inline size_t tdn_reader_left(const tdn_reader *r) { return (size_t)(r->end - r->at); }
/* The next `size` bytes, or NULL when there are fewer. */
static inline const uint8_t *tdn_reader_take(tdn_reader *r, size_t size)
{
    if (size > tdn_reader_left(r))
        return NULL;
    const uint8_t *p = r->at;
    r->at += size;
    return p;
}
static inline bool tdn_reader_u32(tdn_reader *r, uint32_t *out)
{
    const uint8_t *p = tdn_reader_take(r, 4);
    if (p)
        memcpy(out, p, 4);
    return p != NULL;
}
static inline bool tdn_reader_u64(tdn_reader *r, uint64_t *out)
{
    const uint8_t *p = tdn_reader_take(r, 8);
    if (p)
        memcpy(out, p, 8);
    return p != NULL;
}

#endif
