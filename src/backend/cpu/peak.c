/* SPDX-License-Identifier: Apache-2.0 */
/* The list of the loops that show what a core can do at most. Like a list of kernels it has rows
 * for other architectures, which this machine's instructions never cover. */
#include "backend/cpu/peak.h"

#define ROW(level, on)                                                                             \
    {                                                                                              \
#level, TDN_ISA_BITS_##level, on(tdn_peak_flops_##level), on(tdn_peak_read_##level)        \
    }

const tdn_peak tdn_cpu_peaks[] = {
    ROW(neon, TDN_ON_ARM),   ROW(base, TDN_ON_X86), ROW(avx2, TDN_ON_X86),
    ROW(avx512, TDN_ON_X86), {NULL, 0, NULL, NULL},
};
