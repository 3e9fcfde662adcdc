/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sparse constant matrices, column by column: where each column's entries begin (n + 1 numbers),
 * then, aligned, the entries. A stack of matrices (kind, row, column) has its columns one kind
 * after the other.
 */
#ifndef TDN_BACKEND_CPU_COLUMNS_H
#define TDN_BACKEND_CPU_COLUMNS_H

#include "backend/cpu/cpu.h"

typedef struct tdn_entry {
    int32_t row;
    float weight;
} tdn_entry;

typedef struct tdn_columns {
    const int32_t *begins;
    const tdn_entry *entries;
} tdn_columns;

static inline size_t tdn_columns_begins_size(int64_t n_columns)
{
    return tdn_round_up((size_t)(n_columns + 1) * sizeof(int32_t), TDN_ALIGN);
}
static inline size_t tdn_columns_size(int64_t n_columns, int64_t n_entries)
{
    return tdn_columns_begins_size(n_columns) + (size_t)n_entries * sizeof(tdn_entry);
}
static inline tdn_columns tdn_columns_at(const void *packed, int64_t n_columns)
{
    return (tdn_columns){packed,
                         (const tdn_entry *)(const void *)((const char *)packed +
                                                           tdn_columns_begins_size(n_columns))};
}

/* A dense stack of matrices. */
typedef struct tdn_stack {
    const float *data;
    int64_t n_kinds, n_rows, n_columns;
} tdn_stack;

/* How many numbers are not 0; *n_filled: columns that have one. */
int64_t tdn_columns_count(const tdn_stack *stack, int64_t *n_filled);
/* tdn_columns_size bytes at `packed`, aligned. */
void tdn_columns_pack(void *packed, const tdn_stack *stack);
/* Every number of a packed matrix is used as it is: looks at all of them. Anything may be at
 * `packed`, whose size is right; NULL is damage, too. *n_filled as above. */
bool tdn_columns_check(const void *packed, int64_t n_columns, int64_t n_rows, int64_t n_entries,
                       int64_t *n_filled);

#endif
