/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Winograd's minimal filtering (Lavin and Gray, "Fast algorithms for convolutional neural
 * networks", 2016) along h, w or both, for the family conv: inputs of a patch are transformed, at
 * each of its points there is a matrix product over channels, and the products are transformed
 * back. The three stages of some patches are one tile of the step, so that what lies between them
 * stays in cache.
 *
 * A stride along a transformed axis makes as many phases: every phase is a convolution of stride 1
 * over every s-th input, and since the transform back is linear, the phases are summed before it,
 * as longer products. A dilation makes as many residues, each with patches of its own.
 *
 * Packed weights: [point][panel][phase][c][nr], floats or halves, then c zeros, floats.
 */
#ifndef TDN_BACKEND_CPU_WINO_H
#define TDN_BACKEND_CPU_WINO_H

#include "backend/cpu/matrix.h"

enum { TDN_WINO_MAX_POINTS = 12 }; /* along one axis */

/* F(m, r): m outputs of r taps from m + r - 1 points. */
typedef struct tdn_wino_size {
    int32_t m, r;
    const double *g; /* points x r: transforms the taps */
} tdn_wino_size;
extern const tdn_wino_size tdn_wino_sizes[]; /* ended by m == 0; row 0 is F(1, 1): no transform */

typedef struct tdn_wino_axis {
    int32_t size; /* row of tdn_wino_sizes */
    int32_t m, n_points;
    int32_t phases;
    int32_t stride, dilation, pad; /* where size is 0, the dilation is 1 */
    int32_t a_residue;             /* patches */
    int32_t n_patches;
    int32_t zero;
} tdn_wino_axis;

/* Behind it: the epilogue's program, if any. */
typedef struct tdn_wino_args {
    tdn_conv_desc desc;
    int32_t kernel[3];
    int32_t variant;
    int32_t panel_block;   /* panels between the transform there and back */
    int32_t is_half;       /* the packed weights are */
    tdn_wino_axis axis[2]; /* h, w */
    tdn_tiling tiling;     /* of one point's product: rows are patches, taps are phases */
    tdn_epilogue epilogue;
} tdn_wino_args;
_Static_assert(sizeof(tdn_wino_args) == 64 + 80 + sizeof(tdn_tiling) + sizeof(tdn_epilogue),
               "no padding: compared as bytes");

TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_wino_f32);
TDN_DECLARE_LEVELS(tdn_kernel_fn, tdn_wino_f32h);

/* A scratch of floats, in this order; strides keep points out of each other's cache sets. */
typedef struct tdn_wino_scratch {
    int64_t row_stride;   /* of v: channels, rounded up */
    int64_t v_stride;     /* between points: v[point][phase][row][c] */
    int64_t m_row_stride; /* of m: columns of a block of panels */
    int64_t m_stride;     /* m[point][row][column] */
    int64_t v_size, m_size, patch_size;
} tdn_wino_scratch;
enum {
    TDN_WINO_CHUNK = 64
}; /* channels of a patch that are transformed at a time, along two axes */

static inline int32_t tdn_wino_points(const tdn_wino_args *a)
{
    return a->axis[0].n_points * a->axis[1].n_points;
}
static inline void tdn_wino_scratch_set(tdn_wino_scratch *s, const tdn_wino_args *a)
{
    const int64_t points = tdn_wino_points(a), rows = a->tiling.max_rows;
    s->row_stride = tdn_cpu_row_floats(a->tiling.k);
    s->v_stride = a->tiling.n_taps * rows * s->row_stride + 16;
    s->m_row_stride = tdn_cpu_row_floats((int64_t)a->panel_block * a->tiling.nr);
    s->m_stride = rows * s->m_row_stride + 16;
    s->v_size = points * s->v_stride;
    s->m_size = points * s->m_stride;
    s->patch_size = points * TDN_WINO_CHUNK;
}

/* Of variant 1 ..: derives all from desc, kernel, variant and operands. TDN_E_UNSUPPORTED: it does
 * not suit. */
enum { TDN_WINO_VARIANTS = 6 };
tdn_status tdn_wino_plan(tdn_wino_args *a, const tdn_kernel *kernel, const tdn_view *x,
                         const tdn_view *out, tdn_error *error);
size_t tdn_wino_packed_size(const tdn_wino_args *a);
/* How much larger than a filter's largest weight transformed ones come to be, by point. */
void tdn_wino_gains(const tdn_wino_args *a, double *least, double *most);
void tdn_wino_pack(void *to, const tdn_wino_args *a, const float *weights);
int64_t tdn_wino_cost(const tdn_wino_args *of, const tdn_kernel *kernel);
void tdn_wino_work(tdn_work *work, const tdn_wino_args *a);

#endif
