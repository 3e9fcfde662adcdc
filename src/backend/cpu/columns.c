/* SPDX-License-Identifier: Apache-2.0 */
/* Packing and checking of sparse constant matrices. */
#include "backend/cpu/columns.h"

static const float *column_of(const tdn_stack *s, int64_t column)
{
    return s->data + column / s->n_columns * s->n_rows * s->n_columns + column % s->n_columns;
}

int64_t tdn_columns_count(const tdn_stack *s, int64_t *n_filled)
{
    int64_t n_entries = 0;
    *n_filled = 0;
    for (int64_t column = 0; column < s->n_kinds * s->n_columns; column++) {
        const float *from = column_of(s, column);
        const int64_t before = n_entries;
        for (int64_t row = 0; row < s->n_rows; row++)
            n_entries += from[row * s->n_columns] != 0;
        *n_filled += n_entries > before;
    }
    return n_entries;
}

void tdn_columns_pack(void *packed, const tdn_stack *s)
{
    const int64_t n = s->n_kinds * s->n_columns;
    int32_t *begins = packed, at = 0;
    tdn_entry *entries = (tdn_entry *)(void *)((char *)packed + tdn_columns_begins_size(n));
    for (int64_t column = 0; column < n; column++) {
        const float *from = column_of(s, column);
        begins[column] = at;
        for (int64_t row = 0; row < s->n_rows; row++)
            if (from[row * s->n_columns] != 0)
                entries[at++] = (tdn_entry){(int32_t)row, from[row * s->n_columns]};
    }
    begins[n] = at;
}

bool tdn_columns_check(const void *packed, int64_t n_columns, int64_t n_rows, int64_t n_entries,
                       int64_t *n_filled)
{
    *n_filled = 0;
    if (!packed)
        return false;
    const tdn_columns c = tdn_columns_at(packed, n_columns);
    bool good = c.begins[0] == 0 && c.begins[n_columns] == n_entries;
    for (int64_t i = 0; i < n_columns && good; i++) {
        good = c.begins[i] <= c.begins[i + 1];
        *n_filled += c.begins[i] < c.begins[i + 1];
    }
    for (int64_t i = 0; i < n_entries && good; i++)
        good = c.entries[i].row >= 0 && c.entries[i].row < n_rows;
    return good;
}
