/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers about numbers: percentiles of latencies. */
#ifndef TDN_CLI_STATS_H
#define TDN_CLI_STATS_H

#include <stddef.h>

typedef struct tdn_latency {
    size_t n;
    double min, max, mean, median, deviation; /* of the population */
    double *sorted;                           /* ascending, n of them */
} tdn_latency;

/* Sorts `values` in place and keeps pointing at them. All numbers are 0 where n is 0. */
tdn_latency tdn_latency_of(double *values, size_t n);
/* The value that p percent do not exceed: number max(n - 1 - floor((1 - p/100) n), 0) of the sorted
 * values.
 */
double tdn_latency_percentile(const tdn_latency *latency, double p);

#endif
