/* SPDX-License-Identifier: Apache-2.0 */
/* The loops that show what a core can do at most, one row for each level of instructions. */
#ifndef TDN_BACKEND_CPU_PEAK_H
#define TDN_BACKEND_CPU_PEAK_H

#include "backend/cpu/levels.h"

typedef size_t tdn_peak_fn(const void *data, size_t size);
TDN_DECLARE_LEVELS(tdn_peak_fn, tdn_peak_flops);
TDN_DECLARE_LEVELS(tdn_peak_fn, tdn_peak_read);

extern const tdn_peak tdn_cpu_peaks[]; /* ended by a row without a level; best last */

#endif
