/* SPDX-License-Identifier: Apache-2.0 */
/* Sliding windows along an axis, for kernels that skip taps outside of their input. */
#ifndef TDN_BACKEND_CPU_WINDOW_H
#define TDN_BACKEND_CPU_WINDOW_H

#include "backend/cpu/cpu.h"

/* The range of taps [begin, end) that lie in 0..extent, for a window that begins at `first`; empty:
 * begin == end. */
static inline void tdn_taps_inside(int64_t first, int64_t kernel, int64_t dilation, int64_t extent,
                                   int64_t *begin, int64_t *end)
{
    *begin = first < 0 ? tdn_cpu_min(kernel, (-first + dilation - 1) / dilation) : 0;
    const int64_t room = extent - first;
    *end = room <= 0 ? *begin
                     : tdn_cpu_max(*begin, tdn_cpu_min(kernel, (room + dilation - 1) / dilation));
}

#endif
