/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the matrix kernels ask for while they multiply, so that weights from beyond L2 arrive in
 * time. Each of a panel's blocks of rows asks for its share of the next panel, evenly over its
 * terms: what comes from memory then has the time of all blocks, where the first one alone would
 * wait. A single block, or one of panels that L2 keeps, asks for its own panel some 300 ns early.
 */
#ifndef TDN_BACKEND_CPU_AHEAD_H
#define TDN_BACKEND_CPU_AHEAD_H

#include "backend/cpu/cpu.h"
#include "backend/cpu/vec.h"

typedef struct tdn_ahead {
    const char *at; /* asked for with the first term */
    int64_t rate;   /* bytes on, with each term */
} tdn_ahead;

/* Of the block'th block of rows with the panel at b, which begins at column col: so many terms,
 * `size` bytes of the panel each. */
static inline tdn_ahead tdn_ahead_of(const tdn_block *t, const void *b, int64_t col, int64_t block,
                                     int64_t terms, int64_t size)
{
    enum { TERMS = 64 };
    const int64_t n = t->n_blocks;
    if (!t->next || n == 1)
        return (tdn_ahead){(const char *)b + TERMS * size, size};
    const bool is_last = col + TDN_NR >= t->cols;
    const char *next = is_last ? t->next : (const char *)b + t->b_panel * tdn_weight_size(t->wide);
    return (tdn_ahead){next + terms * size / n * block, size / n};
}

/* The bytes of a term, into L2. */
TDN_INLINE void tdn_ahead_ask(const char *at, const int bytes)
{
    enum { LINE = 64 };
    TDN_UNROLLED (int i = 0; i < bytes; i += LINE)
        __builtin_prefetch(at + i, 0, 2);
}

#endif
