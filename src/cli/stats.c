/* SPDX-License-Identifier: Apache-2.0 */
/* Percentiles. */
#include "cli/stats.h"

#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

tdn_latency tdn_latency_of(double *values, size_t n)
{
    tdn_latency l = {.n = n, .sorted = values};
    if (n == 0)
        return l;
    qsort(values, n, sizeof *values, by_value);
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    l.mean = sum / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (values[i] - l.mean) * (values[i] - l.mean);
    l.deviation = sqrt(squares / (double)n);
    l.min = values[0];
    l.max = values[n - 1];
    l.median = n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    return l;
}

double tdn_latency_percentile(const tdn_latency *latency, double p)
{
    if (latency->n == 0)
        return 0;
    size_t above = (size_t)((1 - p / 100) * (double)latency->n);
    return latency->sorted[above < latency->n ? latency->n - 1 - above : 0];
}
