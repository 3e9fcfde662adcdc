/* SPDX-License-Identifier: Apache-2.0 */
/* Softmax of a row in three passes: the largest, the exponentials and their sum, the scaling. */
#include "backend/cpu/along.h"
#include "backend/cpu/softrow.h"
#include "backend/cpu/vmath.h"

/* y = exp(x - shift), where y is wanted; the sum. */
static float exponentials(float *y, const float *x, int64_t n, float shift)
{
    vf sum[2] = {{0}, {0}};
    int64_t i = 0;
    for (; i + 2 * TDN_LANES <= n; i += 2 * TDN_LANES)
        TDN_UNROLLED (int v = 0; v < 2; v++) {
            const vf e = vf_exp(vf_load(x + i + v * TDN_LANES) - vf_set(shift));
            sum[v] += e;
            if (y)
                vf_store(y + i + v * TDN_LANES, e);
        }
    for (; i < n; i += TDN_LANES) {
        const int left = (int)tdn_cpu_min(TDN_LANES, n - i);
        vf e = vf_exp(vf_load_n(x + i, left) - vf_set(shift));
        if (left < TDN_LANES)
            e = vf_first(e, left, 0);
        sum[0] += e;
        if (y)
            vf_store_n(y + i, e, left);
    }
    return vf_sum(sum[0] + sum[1]);
}

static void softmax_row(float *y, const float *x, int64_t n, bool log)
{
    const float m = tdn_row_largest(x, n);
    if (log) {
        const float log_sum = logf(exponentials(NULL, x, n, m));
        for (int64_t i = 0; i < n;
             i += TDN_LANES) { /* (x - m) first: it is small, and exact where it matters */
            const int left = (int)tdn_cpu_min(TDN_LANES, n - i);
            vf_store_n(y + i, vf_load_n(x + i, left) - vf_set(m) - vf_set(log_sum), left);
        }
        return;
    }
    const float sum = exponentials(y, x, n, m);
    tdn_row_scale(y, n, 1.0f / sum);
}

void TDN_KERNEL(tdn_softmax_f32)(const tdn_call *call, size_t tile)
{
    const tdn_softmax_args *a = call->args;
    int64_t row, end;
    tdn_cpu_share(a->n_rows, (int64_t)tile, a->n_tiles, &row, &end);
    for (; row < end; row++) {
        int64_t from = 0, to = 0, rest = row;
        for (int i = a->rank - 1; i >= 0; i--) {
            from += rest % a->dims[i] * a->in[i];
            to += rest % a->dims[i] * a->out[i];
            rest /= a->dims[i];
        }
        const float *x = (const float *)call->in[0].data + from;
        float *y = (float *)call->out[0].data + to, *spare = call->scratch;
        if (a->in_step != 1) {
            for (int64_t i = 0; i < a->length; i++)
                spare[i] = x[i * a->in_step];
            x = spare;
        }
        softmax_row(a->out_step == 1 ? y : spare, x, a->length, a->log);
        for (int64_t i = 0; a->out_step != 1 && i < a->length; i++)
            y[i * a->out_step] = spare[i];
    }
}
