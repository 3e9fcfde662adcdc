/* SPDX-License-Identifier: Apache-2.0 */
/* Passes over a row that softmax and attention share. */
#ifndef TDN_BACKEND_CPU_SOFTROW_H
#define TDN_BACKEND_CPU_SOFTROW_H

#include <math.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/vec.h"

/* NaN where any is. */
static float tdn_row_largest(const float *x, int64_t n)
{
    enum { VECTORS = 4 };
    vf m[VECTORS];
    for (int v = 0; v < VECTORS; v++)
        m[v] = vf_set(-INFINITY);
    int64_t i = 0;
    for (; i + VECTORS * TDN_LANES <= n; i += VECTORS * TDN_LANES)
        TDN_UNROLLED (int v = 0; v < VECTORS; v++)
            m[v] = vf_max(m[v], vf_load(x + i + v * TDN_LANES));
    for (; i < n; i += TDN_LANES) {
        const int left = (int)tdn_cpu_min(TDN_LANES, n - i);
        const vf y = vf_load_n(x + i, left);
        m[0] = vf_max(m[0], left < TDN_LANES ? vf_first(y, left, -INFINITY) : y);
    }
    return vf_max_of(vf_max(vf_max(m[0], m[1]), vf_max(m[2], m[3])));
}

static void tdn_row_scale(float *y, int64_t n, float scale)
{
    int64_t i = 0;
    for (; i + TDN_LANES <= n; i += TDN_LANES)
        vf_store(y + i, vf_load(y + i) * vf_set(scale));
    if (i < n)
        vf_store_n(y + i, vf_load_n(y + i, (int)(n - i)) * vf_set(scale), (int)(n - i));
}

#endif
