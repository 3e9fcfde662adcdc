/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The matrix kernel over binary16, in the image of k_block.c: a register tile of rows x 2 vectors
 * of sums, each with twice the lanes of floats. Sums in half precision are short: after SHORT
 * products they are added to floats, in spare memory, and begin anew. What a sum loses by that is
 * of the size of what its operands lost when they became halves.
 */
#include "backend/cpu/hsums.h"
#include "backend/cpu/instances.h"

enum { SHORT = 64 };

typedef tdn_hmicro micro;

#define EACH_ROW TDN_UNROLLED (int i = 0; i < rows; i++)
#define EACH_VECTOR TDN_UNROLLED (int j = 0; j < vectors; j++)

TDN_INLINE void begin(const micro *m, const int rows, const int vectors)
{
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < vectors * TDN_HALF_LANES; j += TDN_LANES)
            vf_store(m->to + i * m->to_step + j,
                     m->from ? vf_load(m->from + i * m->from_step + j) : (vf){0});
}

/* Adds the lower or upper lanes of the short sums to the floats. */
TDN_INLINE void add_lanes(const micro *m, vh acc[][2], const int rows, const int vectors,
                          const int upper)
{
    float *to = m->to + upper * TDN_LANES;
    EACH_ROW {
        EACH_VECTOR
            vf_store(to + j * TDN_HALF_LANES,
                     vf_load(to + j * TDN_HALF_LANES) + vf_from_halves(acc[i][j], upper));
        to += m->to_step;
    }
}

TDN_INLINE void hand_over(const micro *m, vh acc[][2], const int rows, const int vectors)
{
    add_lanes(m, acc, rows, vectors, 0);
    add_lanes(m, acc, rows, vectors, 1);
}

/* The last -k products before `a` of every row; `wide` of them side by side where rows are few. As
 * in k_block.c, counting up to zero leaves a register for each pointer. */
TDN_INLINE const f16 *add(vh acc[][2], vh more[][2], const f16 *const *a, int64_t k, const f16 *b,
                          tdn_ahead ahead, const int rows, const int vectors, const int wide)
{
    for (; wide > 1 && k + wide <= 0; k += wide) {
        TDN_UNROLLED (int w = 0; w < wide; w++, b += TDN_NR)
            EACH_ROW
                EACH_VECTOR {
                    vh *sum = w ? &more[(w - 1) * rows + i][j] : &acc[i][j];
                    *sum = vh_add_product(*sum, a[i] + w, k, vh_load(b + j * TDN_HALF_LANES));
                }
    }
    for (; TDN_BY_LANE && wide == 1 && k + TDN_HALF_LANES <= 0; k += TDN_HALF_LANES) {
        vh av[TDN_MR_MAX];
        EACH_ROW
            av[i] = vh_load(a[i] + k);
        TDN_UNROLLED (int w = 0; w < TDN_HALF_LANES; w++, b += TDN_NR) {
            vh bv[2];
            EACH_VECTOR
                bv[j] = vh_load(b + j * TDN_HALF_LANES);
            EACH_ROW
                EACH_VECTOR
                    acc[i][j] += vh_set(av[i][w]) * bv[j];
        }
    }
    for (; k != 0; k++, b += TDN_NR, ahead.at += ahead.rate) {
        tdn_ahead_ask(ahead.at, TDN_BY_LANE ? 0 : vectors * 2 * TDN_HALF_LANES);
        vh bv[2];
        EACH_VECTOR
            bv[j] = vh_load(b + j * TDN_HALF_LANES);
        EACH_ROW
            EACH_VECTOR
                acc[i][j] = vh_add_product(acc[i][j], a[i], k, bv[j]);
    }
    return b;
}

/* rows <= TDN_MR, vectors 1 or 2, products `wide` side by side: constants. */
TDN_INLINE void multiply(const micro *m, const int rows, const int vectors, const int wide)
{
    const void **list = m->a;
    const f16 *b = (const f16 *)m->b;
    tdn_ahead ahead = m->ahead;
    begin(m, rows, vectors);
    for (int64_t tap = 0, k = 0; tap < m->n_taps;) {
        vh acc[TDN_MR_MAX][2], more[TDN_MR_MAX][2];
        EACH_ROW
            EACH_VECTOR
                acc[i][j] = (vh){0};
        TDN_UNROLLED (int i = 0; i < rows * (wide - 1); i++)
            EACH_VECTOR
                more[i][j] = (vh){0};
        for (int64_t left = SHORT; left > 0 && tap < m->n_taps;) {
            const int64_t n = left < m->k - k ? left : m->k - k;
            const f16 *a[TDN_MR_MAX];
            EACH_ROW
                a[i] = (const f16 *)list[i] + m->k0 + k + n;
            b = add(acc, more, a, -n, b, ahead, rows, vectors, wide);
            ahead.at += n * ahead.rate;
            left -= n;
            k += n;
            if (k < m->k)
                continue;
            k = 0;
            tap++;
            list += rows;
        }
        hand_over(m, acc, rows, vectors);
        TDN_UNROLLED (int w = 0; w < wide - 1; w++)
            hand_over(m, more + w * rows, rows, vectors);
    }
}

TDN_INSTANCES(instances, multiply);

void TDN_KERNEL(tdn_block_half)(const tdn_block *t, int64_t tap0, int64_t n_taps, int64_t k0,
                                int64_t k, bool first, bool last)
{
    const micro m = {.n_taps = n_taps, .k0 = k0 * TDN_HALVES_IN_TERM, .k = k * TDN_HALVES_IN_TERM};
    tdn_hsums_block(t, m, tap0, first, last, instances, TDN_HALF_LANES, TDN_F16);
}
