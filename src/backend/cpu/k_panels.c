/* SPDX-License-Identifier: Apache-2.0 */
/* Panels of a right operand that is not constant, packed as it runs. */
#include "backend/cpu/matrix.h"
#include "backend/cpu/vec.h"

/* n contiguous columns at each of k rows. */
static void pack_rows(float *to, const float *from, int64_t k_stride, int64_t k, int n)
{
    for (; k > 0; k--, from += k_stride, to += TDN_NR)
        for (int j = 0; j < TDN_NR; j += TDN_LANES) {
            const int left = n - j < 0 ? 0 : n - j;
            vf_store(to + j, left >= TDN_LANES ? vf_load(from + j) : vf_load_n(from + j, left));
        }
}

typedef float vf4_unaligned __attribute__((vector_size(16), aligned(4), may_alias));

/* Each column is contiguous along k: 4 x 4 squares are turned in registers. */
static void pack_columns(float *to, const float *from, int64_t n_stride, int64_t k, int n)
{
    int j = 0;
    for (; j + 4 <= n; j += 4) {
        const float *p = from + j * n_stride;
        int64_t i = 0;
        for (; i + 4 <= k; i += 4) {
            const vf4 r0 = *(const vf4_unaligned *)(p + i),
                      r1 = *(const vf4_unaligned *)(p + n_stride + i);
            const vf4 r2 = *(const vf4_unaligned *)(p + 2 * n_stride + i);
            const vf4 r3 = *(const vf4_unaligned *)(p + 3 * n_stride + i);
            const vf4 a = __builtin_shufflevector(r0, r1, 0, 4, 1, 5),
                      b = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
            const vf4 c = __builtin_shufflevector(r0, r1, 2, 6, 3, 7),
                      d = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
            float *q = to + i * TDN_NR + j;
            *(vf4_unaligned *)q = __builtin_shufflevector(a, b, 0, 1, 4, 5);
            *(vf4_unaligned *)(q + TDN_NR) = __builtin_shufflevector(a, b, 2, 3, 6, 7);
            *(vf4_unaligned *)(q + 2 * TDN_NR) = __builtin_shufflevector(c, d, 0, 1, 4, 5);
            *(vf4_unaligned *)(q + 3 * TDN_NR) = __builtin_shufflevector(c, d, 2, 3, 6, 7);
        }
        for (; i < k; i++)
            for (int jj = 0; jj < 4; jj++)
                to[i * TDN_NR + j + jj] = p[jj * n_stride + i];
    }
    for (; j < TDN_NR; j++)
        for (int64_t i = 0; i < k; i++)
            to[i * TDN_NR + j] = j < n ? from[j * n_stride + i] : 0;
}

void TDN_KERNEL(tdn_panels_pack)(float *to, const float *from, int64_t k_stride, int64_t col_stride,
                                 int64_t k, int64_t cols)
{
    for (int64_t col = 0; col < cols; col += TDN_NR, to += k * TDN_NR) {
        const int n = (int)tdn_cpu_min(TDN_NR, cols - col);
        if (col_stride == 1)
            pack_rows(to, from + col, k_stride, k, n);
        else
            pack_columns(to, from + col * col_stride, col_stride, k, n);
    }
}
