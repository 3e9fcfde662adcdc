/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments of attend steps, and the scratch of their tiles. */
#ifndef TDN_BACKEND_CPU_ATTEND_H
#define TDN_BACKEND_CPU_ATTEND_H

#include "backend/cpu/matrix.h"

enum { TDN_ATTEND_QUERIES, TDN_ATTEND_KEYS, TDN_ATTEND_VALUES };

typedef struct tdn_attend_args {
    float scale;
    int32_t is_mean;
    int64_t n_keys, depth;
    int64_t width;       /* of a value; is_mean: 0 */
    int32_t n_row_tiles; /* of the queries of one batch */
    int32_t block_rows;  /* queries whose weights are there at a time */
    int32_t mr, nr;      /* the kernel's */
} tdn_attend_args;
_Static_assert(sizeof(tdn_attend_args) == 48, "no padding: compared as bytes");

TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_attend_f32);

/* The number of the mask among a step's inputs, where it has one more than these. */
static inline int tdn_attend_mask(const tdn_attend_args *args)
{
    return args->is_mean ? TDN_ATTEND_VALUES : TDN_ATTEND_VALUES + 1;
}

/* Scratch of a tile, in this order. */
typedef struct tdn_attend_scratch {
    const void **queries; /* pointers to a block's rows */
    void **weights_at, **out;
    float *sums;    /* of each row's exponentials, inverted */
    float *keys;    /* panels: [panel][depth][nr] */
    float *values;  /* [panel][n_keys][nr] */
    float *weights; /* rows of a block, `step` apart */
    float *mean;
    float *spare;
} tdn_attend_scratch;

/* Floats from one row of weights to the next: whole panels, and an odd number of cache lines,
 * mostly. */
static inline int64_t tdn_attend_step(const tdn_attend_args *a)
{
    return tdn_cpu_row_floats(tdn_cpu_div_up(a->n_keys, a->nr) * a->nr) + 16;
}

static inline size_t tdn_attend_scratch_set(tdn_attend_scratch *s, void *memory,
                                            const tdn_attend_args *a)
{
    enum { POINTERS, SUMS = 3, KEYS, VALUES, WEIGHTS, MEAN, SPARE, PARTS };
    const size_t pointers = (size_t)a->block_rows * sizeof(void *);
    const int64_t floats[PARTS - SUMS] = {
        a->block_rows,
        tdn_cpu_div_up(a->n_keys, a->nr) * a->depth * a->nr,
        tdn_cpu_div_up(a->width, a->nr) * a->n_keys * a->nr,
        a->block_rows * tdn_attend_step(a),
        a->is_mean ? tdn_attend_step(a) : 0,
        a->mr * a->nr,
    };
    size_t at[PARTS + 1] = {0};
    for (int i = 0; i < PARTS; i++)
        at[i + 1] =
            at[i] +
            tdn_round_up(i < SUMS ? pointers : (size_t)floats[i - SUMS] * sizeof(float), TDN_ALIGN);
    if (s) {
        char *p = memory;
        s->queries = (const void **)(void *)(p + at[POINTERS]);
        s->weights_at = (void **)(void *)(p + at[POINTERS + 1]);
        s->out = (void **)(void *)(p + at[POINTERS + 2]);
        s->sums = (float *)(void *)(p + at[SUMS]);
        s->keys = (float *)(void *)(p + at[KEYS]);
        s->values = (float *)(void *)(p + at[VALUES]);
        s->weights = (float *)(void *)(p + at[WEIGHTS]);
        s->mean = (float *)(void *)(p + at[MEAN]);
        s->spare = (float *)(void *)(p + at[SPARE]);
    }
    return at[PARTS];
}

#endif
