/* SPDX-License-Identifier: Apache-2.0 */
/* Layer normalisation of a row: mean, then variance about it (two passes: squares of what is left
 * cancel nothing), then (x - mean) / deviation * scale + bias. */
#include "backend/cpu/along.h"
#include "backend/cpu/vmath.h"

enum { VECTORS = 4 };

/* Sum of (x - shift), or of its square. */
TDN_INLINE float sum_of(const float *x, int64_t n, float shift, const bool square)
{
    vf sum[VECTORS] = {{0}};
    int64_t i = 0;
    for (; i + VECTORS * TDN_LANES <= n; i += VECTORS * TDN_LANES)
        TDN_UNROLLED (int v = 0; v < VECTORS; v++) {
            const vf d = vf_load(x + i + v * TDN_LANES) - vf_set(shift);
            sum[v] += square ? d * d : d;
        }
    for (; i < n; i += TDN_LANES) {
        const int left = (int)tdn_cpu_min(TDN_LANES, n - i);
        vf d = vf_load_n(x + i, left) - vf_set(shift);
        if (left < TDN_LANES)
            d = vf_first(d, left, 0);
        sum[0] += square ? d * d : d;
    }
    return vf_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

static void norm_row(float *y, const float *x, const float *scale, const float *bias, int64_t n,
                     float epsilon)
{
    const float mean = sum_of(x, n, 0, false) / (float)n;
    const float variance = sum_of(x, n, mean, true) / (float)n;
    const vf m = vf_set(mean), r = vf_set(1.0f / sqrtf(variance + epsilon));
    int64_t i = 0;
    for (; i + TDN_LANES <= n; i += TDN_LANES)
        vf_store(y + i, (vf_load(x + i) - m) * r * vf_load(scale + i) + vf_load(bias + i));
    if (i < n) {
        const int left = (int)(n - i);
        const vf z = (vf_load_n(x + i, left) - m) * r;
        vf_store_n(y + i, z * vf_load_n(scale + i, left) + vf_load_n(bias + i, left), left);
    }
}

static bool is_contiguous(const tdn_norm_args *a, int operand)
{
    return a->inner_rank == 1 && (a->inner_strides[operand][0] == 1 || a->length == 1);
}

static int64_t inner_offset(const tdn_norm_args *a, int operand, int64_t line)
{
    int64_t offset = 0;
    for (int i = a->inner_rank - 2; i >= 0; i--) {
        offset += line % a->inner[i] * a->inner_strides[operand][i];
        line /= a->inner[i];
    }
    return offset;
}

static void gather(const tdn_norm_args *a, int operand, const float *from, float *to)
{
    const int last = a->inner_rank - 1;
    const int64_t n = a->inner[last], step = a->inner_strides[operand][last];
    for (int64_t line = 0; line < a->length / n; line++, to += n) {
        const float *p = from + inner_offset(a, operand, line);
        for (int64_t i = 0; i < n; i++)
            to[i] = p[i * step];
    }
}

static void scatter(const tdn_norm_args *a, const float *from, float *to)
{
    const int last = a->inner_rank - 1;
    const int64_t n = a->inner[last], step = a->inner_strides[TDN_NORM_OUT][last];
    for (int64_t line = 0; line < a->length / n; line++, from += n) {
        float *p = to + inner_offset(a, TDN_NORM_OUT, line);
        for (int64_t i = 0; i < n; i++)
            p[i * step] = from[i];
    }
}

static void run_row(const tdn_call *call, int64_t row)
{
    const tdn_norm_args *a = call->args;
    const float *in[3];
    float *spare = call->scratch;
    int64_t offset[TDN_NORM_OPERANDS] = {0};
    for (int i = a->outer_rank - 1; i >= 0; i--) {
        for (int k = 0; k < TDN_NORM_OPERANDS; k++)
            offset[k] += row % a->outer[i] * a->outer_strides[k][i];
        row /= a->outer[i];
    }
    for (int k = 0; k < 3; k++) {
        in[k] = (const float *)call->in[k].data + offset[k];
        if (!is_contiguous(a, k)) {
            gather(a, k, in[k], spare + k * a->length);
            in[k] = spare + k * a->length;
        }
    }
    float *out = (float *)call->out[0].data + offset[TDN_NORM_OUT];
    const bool direct = is_contiguous(a, TDN_NORM_OUT);
    float *y = direct ? out : spare + 3 * a->length;
    norm_row(y, in[TDN_NORM_X], in[TDN_NORM_SCALE], in[TDN_NORM_BIAS], a->length, a->epsilon);
    if (!direct)
        scatter(a, y, out);
}

void TDN_KERNEL(tdn_norm_f32)(const tdn_call *call, size_t tile)
{
    const tdn_norm_args *a = call->args;
    int64_t row, end;
    tdn_cpu_share(a->n_rows, (int64_t)tile, a->n_tiles, &row, &end);
    for (; row < end; row++)
        run_row(call, row);
}
