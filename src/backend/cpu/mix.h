/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments of mix steps. */
#ifndef TDN_BACKEND_CPU_MIX_H
#define TDN_BACKEND_CPU_MIX_H

#include "backend/cpu/columns.h"
#include "backend/cpu/matrix.h"

/* Behind it: the epilogue's program, if any. */
typedef struct tdn_mix_args {
    int64_t n_rows; /* of outer axes together */
    int32_t n_tiles, n_entries;
    tdn_epilogue epilogue;
} tdn_mix_args;
_Static_assert(sizeof(tdn_mix_args) == 16 + sizeof(tdn_epilogue), "no padding: compared as bytes");

TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_mix_f32);

#endif
