/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments of mix steps. */
#ifndef TDN_BACKEND_CPU_MIX_H
#define TDN_BACKEND_CPU_MIX_H

#include "backend/cpu/matrix.h"

/* The packed matrix, column by column: where each column's entries begin (n + 1 numbers), then the
 * entries. */
typedef struct tdn_mix_entry {
    int32_t k;
    float weight;
} tdn_mix_entry;

/* Behind it: the epilogue's program, if any. */
typedef struct tdn_mix_args {
    int64_t n_rows; /* of outer axes together */
    int32_t n_tiles, n_entries;
    tdn_epilogue epilogue;
} tdn_mix_args;
_Static_assert(sizeof(tdn_mix_args) == 16 + sizeof(tdn_epilogue), "no padding: compared as bytes");

TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_mix_f32);

static inline const int32_t *tdn_mix_begins(const tdn_view *packed) { return packed->data; }
static inline const tdn_mix_entry *tdn_mix_entries(const tdn_view *packed, int64_t n)
{
    return (const tdn_mix_entry *)((const char *)packed->data +
                                   tdn_round_up((size_t)(n + 1) * sizeof(int32_t), TDN_ALIGN));
}

#endif
