/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The matrix kernel over bytes, in the image of k_block.c: a register tile of rows x 2 vectors of
 * int32 sums, to which each word of four bytes adds a dot product. A sum begins with what its
 * column starts with. Until it is complete it waits in spare memory, as the output may have no
 * room for it; from there it goes on (sums.h).
 */
#include "backend/cpu/ahead.h"
#include "backend/cpu/instances.h"
#include "backend/cpu/sums.h"

typedef struct micro {
    const void **a; /* [tap][row] */
    int64_t n_taps, k0, k;
    const int32_t *b;
    tdn_ahead ahead;
    const int32_t *from; /* what the sums of a row start with; from_step to the next row's */
    int64_t from_step;
    int32_t *to; /* where they go */
    int64_t to_step;
} micro;

#define EACH_ROW TDN_UNROLLED (int i = 0; i < rows; i++)
#define EACH_VECTOR TDN_UNROLLED (int j = 0; j < vectors; j++)

/* ---- The sum --------------------------------------------------------------------------------- */

/* One word of every row. */
TDN_INLINE void add_words(vi sum[][2], const word *const *a, int64_t k, const int32_t *b,
                          const int rows, const int vectors)
{
    TDN_UNROLLED (int half = 0; half < DOT_HALVES; half++) {
        if (DOT_HALVES > 1) /* both halves at once would need more registers than there are */
            __asm__ volatile("" ::: "memory");
        dot_w w[2];
        EACH_VECTOR
            w[j] = dot_load(b + j * TDN_LANES, half);
        EACH_ROW {
            const dot_x x = dot_set(a[i] + k, half);
            EACH_VECTOR
                sum[i][j] = dot_add(sum[i][j], x, w[j]);
        }
    }
}

/* Words k.. of every row up to the end, which is 0, while a level takes them by four; returns where
 * it stopped. */
#ifdef DOT_BY_LANE
TDN_INLINE int64_t add_fours(vi sum[][2], const word *const *a, int64_t k, const int32_t *b,
                             const int rows, const int vectors)
{
    for (; k + 4 <= 0; k += 4) {
        dot_x x[TDN_MR_MAX];
        EACH_ROW
            x[i] = dot_set_four(a[i] + k);
        TDN_UNROLLED (int lane = 0; lane < 4; lane++, b += TDN_NR) {
            dot_w w[2];
            EACH_VECTOR
                w[j] = dot_load(b + j * TDN_LANES, 0);
            EACH_ROW
                EACH_VECTOR
                    sum[i][j] = dot_add_lane(sum[i][j], x[i], lane, w[j]);
        }
    }
    return k;
}
#else
TDN_INLINE int64_t add_fours(vi sum[][2], const word *const *a, int64_t k, const int32_t *b,
                             const int rows, const int vectors)
{
    (void)sum, (void)a, (void)b, (void)rows, (void)vectors;
    return k;
}
#endif

/* rows <= TDN_MR, vectors 1 or 2, words `wide` side by side: constants. */
TDN_INLINE void multiply(const micro *m, const int rows, const int vectors, const int wide)
{
    vi acc[TDN_MR_MAX][2], more[TDN_MR_MAX][2];
    EACH_ROW
        EACH_VECTOR
            acc[i][j] = vi_load(m->from + i * m->from_step + j * TDN_LANES);
    TDN_UNROLLED (int i = 0; i < rows * (wide - 1); i++)
        EACH_VECTOR
            more[i][j] = (vi){0};
    const void **list = m->a;
    const int32_t *b = m->b;
    const char *ahead = m->ahead.at;
    const int64_t end = m->k0 + m->k;
    for (int64_t tap = 0; tap < m->n_taps; tap++, list += rows) {
        const word *a[TDN_MR_MAX];
        EACH_ROW
            a[i] = (const word *)list[i] + end;
        int64_t k = -m->k;
        for (; wide > 1 && k + wide <= 0; k += wide)
            TDN_UNROLLED (int w = 0; w < wide; w++, b += TDN_NR)
                add_words(w ? more + rows * (w - 1) : acc, a, k + w, b, rows, vectors);
        if (wide == 1) {
            k = add_fours(acc, a, k, b, rows, vectors);
            b += (k + m->k) * TDN_NR;
        }
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
            vi_store(m->to + i * m->to_step + j * TDN_LANES, acc[i][j]);
}

TDN_INSTANCES(instances, multiply);

void TDN_KERNEL(tdn_block_u8)(const tdn_block *t, int64_t tap0, int64_t n_taps, int64_t k0,
                              int64_t k, bool first, bool last)
{
    const tdn_sums *s = t->sums;
    micro m = {.n_taps = n_taps, .k0 = k0, .k = k, .from_step = first ? 0 : s->step};
    tdn_sums_to end = {.block = t, .from = (const int32_t *)(const void *)t->spare, .step = TDN_NR};
    m.to_step = last ? TDN_NR : s->step;
    for (int64_t panel = 0, col = 0; col < t->cols; panel++, col += TDN_NR) {
        const int64_t n_cols = tdn_cpu_min(TDN_NR, t->cols - col);
        m.b = (const int32_t *)t->b + panel * t->b_panel;
        end.col = col;
        end.n_cols = n_cols;
        for (int64_t block = 0, row0, row1; block < t->n_blocks; block++) {
            tdn_cpu_share(t->rows, block, t->n_blocks, &row0, &row1);
            int32_t *partial = (int32_t *)s->partial + row0 * s->step + col;
            m.a = t->a + row0 * t->a_taps + tap0 * (row1 - row0);
            m.from = first ? s->start + col : partial;
            m.to = last ? (int32_t *)(void *)t->spare : partial;
            m.ahead = tdn_ahead_of(t, m.b, col, block, n_taps * k, TDN_NR * TDN_TERM_SIZE);
            instances[row1 - row0 - 1][n_cols > TDN_LANES](&m);
            if (!last)
                continue;
            end.c = t->c + row0;
            end.residual = t->residual ? t->residual + row0 : NULL;
            end.n_rows = row1 - row0;
            tdn_sums_finish(&end);
        }
    }
}
