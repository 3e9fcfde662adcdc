/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The matrix kernel over bfloat16, in the image of k_iblock.c: a register tile of rows x 2 vectors
 * of floats, to which each word of two channels adds a dot product.
 */
#include "backend/cpu/hsums.h"
#include "backend/cpu/instances.h"

typedef tdn_hmicro micro;

#define EACH_ROW TDN_UNROLLED (int i = 0; i < rows; i++)
#define EACH_VECTOR TDN_UNROLLED (int j = 0; j < vectors; j++)

/* sum + x[0] w[0] + x[1] w[1] in each lane. */
TDN_INLINE vf dot_add(vf sum, vi x, vi w)
{
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)(__m512i)x, (__m512bh)(__m512i)w);
}

TDN_INLINE void add_words(vf sum[][2], const tdn_word *const *a, int64_t k, const tdn_word *b,
                          const int rows, const int vectors)
{
    vi w[2];
    EACH_VECTOR
        w[j] = vi_load((const int32_t *)b + j * TDN_LANES);
    EACH_ROW {
        const vi x = vi_set(a[i][k]);
        EACH_VECTOR
            sum[i][j] = dot_add(sum[i][j], x, w[j]);
    }
}

/* rows <= TDN_MR, vectors 1 or 2, words `wide` side by side: constants. */
TDN_INLINE void multiply(const micro *m, const int rows, const int vectors, const int wide)
{
    vf acc[TDN_MR_MAX][2], more[TDN_MR_MAX][2];
    EACH_ROW
        EACH_VECTOR
            acc[i][j] = m->from ? vf_load(m->from + i * m->from_step + j * TDN_LANES) : (vf){0};
    TDN_UNROLLED (int i = 0; i < rows * (wide - 1); i++)
        EACH_VECTOR
            more[i][j] = (vf){0};
    const void **list = m->a;
    const tdn_word *b = m->b;
    const char *ahead = m->ahead.at;
    const int64_t end = m->k0 + m->k;
    for (int64_t tap = 0; tap < m->n_taps; tap++, list += rows) {
        const tdn_word *a[TDN_MR_MAX];
        EACH_ROW
            a[i] = (const tdn_word *)list[i] + end;
        int64_t k = -m->k;
        for (; wide > 1 && k + wide <= 0; k += wide)
            TDN_UNROLLED (int w = 0; w < wide; w++, b += TDN_NR)
                add_words(w ? more + rows * (w - 1) : acc, a, k + w, b, rows, vectors);
        for (; k != 0; k++, b += TDN_NR, ahead += m->ahead.rate) {
            tdn_ahead_ask(ahead, vectors * TDN_LANES * TDN_TERM_SIZE);
            add_words(acc, a, k, b, rows, vectors);
        }
    }
    TDN_UNROLLED (int i = 0; i < rows * (wide - 1); i++)
        EACH_VECTOR
            acc[i % rows][j] += more[i][j];
    EACH_ROW
        EACH_VECTOR
            vf_store(m->to + i * m->to_step + j * TDN_LANES, acc[i][j]);
}

TDN_INSTANCES(instances, multiply);

void TDN_KERNEL(tdn_block_half)(const tdn_block *t, int64_t tap0, int64_t n_taps, int64_t k0,
                                int64_t k, bool first, bool last)
{
    const micro m = {.n_taps = n_taps, .k0 = k0, .k = k};
    tdn_hsums_block(t, m, tap0, first, last, instances, TDN_LANES, TDN_BF16);
}
