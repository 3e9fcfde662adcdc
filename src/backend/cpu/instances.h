/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The counts of rows that a matrix kernel has instances for, up to its level's register tile: a
 * remainder of rows wastes nothing. Beside each how many terms of k it sums side by side: few rows
 * have too few chains of additions to hide their latency.
 */
#ifndef TDN_BACKEND_CPU_INSTANCES_H
#define TDN_BACKEND_CPU_INSTANCES_H

#include "backend/cpu/levels.h"

#define TDN_COUNTS_TO_4(X, f) X(f, 1, 4) X(f, 2, 2) X(f, 3, 1) X(f, 4, 1)
#if TDN_MR == 4
#define TDN_EACH_COUNT(X, f) TDN_COUNTS_TO_4(X, f)
#elif TDN_MR == 6
#define TDN_EACH_COUNT(X, f) TDN_COUNTS_TO_4(X, f) X(f, 5, 1) X(f, 6, 1)
#elif TDN_MR == 8
#define TDN_EACH_COUNT(X, f) TDN_COUNTS_TO_4(X, f) X(f, 5, 1) X(f, 6, 1) X(f, 7, 1) X(f, 8, 1)
#elif TDN_MR == 12
#define TDN_EACH_COUNT(X, f)                                                                       \
    TDN_COUNTS_TO_4(X, f)                                                                          \
    X(f, 5, 1) X(f, 6, 1) X(f, 7, 1) X(f, 8, 1) X(f, 9, 1) X(f, 10, 1) X(f, 11, 1) X(f, 12, 1)
#endif

/* Of `f(m, rows, vectors, wide)`, which is inlined: functions of a `micro`, and their table by
 * rows - 1 and vectors - 1. */
#define TDN_INSTANCE(f, rows, wide)                                                                \
    static void f##_##rows##x1(const micro *m) { f(m, rows, 1, wide); }                            \
    static void f##_##rows##x2(const micro *m) { f(m, rows, 2, wide); }
#define TDN_INSTANCE_ROW(f, rows, wide) {f##_##rows##x1, f##_##rows##x2},
#define TDN_INSTANCES(table, f)                                                                    \
    TDN_EACH_COUNT(TDN_INSTANCE, f)                                                                \
    static void (*const table[TDN_MR][2])(const micro *m) = {TDN_EACH_COUNT(TDN_INSTANCE_ROW, f)}

#endif
