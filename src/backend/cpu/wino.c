/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Choice of patches, tiles and packing of Winograd convolutions; all of it follows from the shape,
 * the kernel's register tile and the variant.
 *
 * A tile's patches (rows) share one pass over the transformed weights, so the more rows the less is
 * read; its transformed inputs and products want to stay in L2, so the fewer rows the better.
 * choose_tiles weighs that in bytes.
 */
#include "backend/cpu/wino.h"

#include <math.h>
#include <string.h>

#include "backend/cpu/wino_tables.h"

#define WINO_SIZE(m, r, pairs, symmetric) {m, r, wino_g_##m##_##r},
static const double one[] = {1};
const tdn_wino_size tdn_wino_sizes[] = {{1, 1, one}, WINO_SIZES(WINO_SIZE){0, 0, NULL}};

/* Variants are sizes of patches, outputs along an axis, in the first shape of tiles, then in the
 * second. */
enum { SIZES = 3, SHAPES = TDN_WINO_VARIANTS / SIZES };
static const int32_t size_m[SIZES] = {4, 2, 6};

/* The first is for any number of threads. Few tiles transform less twice, and read weights less
 * often; their data may take all that an L2 of 2 MiB has room for. */
static const struct shape {
    int64_t tiles_wanted, l2_floats; /* that a tile's data may take */
} shapes[SHAPES] = {{8, 160 << 10}, {2, 320 << 10}};

/*
 * Of how many points transformed weights may be halves: along one axis, along each of two. More
 * points make more of their rounding. Measured, the error of a product of halves is 2.1e-4 of its
 * result as it is, 3e-4 and 5e-4 with these; 6 points along two axes have 1.2e-3, 8 have 3.5e-3.
 */
enum { HALF_POINTS = 6, HALF_POINTS_EACH = 4 };

enum {
    CALL_TERMS = 6, /* of the sum, in the time that a block of products takes to begin and end */
    BYTE_FLOPS = 12 /* operations in the time that a byte beyond L2 takes */
};
#define MAX_PRODUCTS ((int64_t)1 << 42) /* at a point: sums of bytes below never overflow */

/* ---- Patches --------------------------------------------------------------------------------- */

static int32_t find_size(int32_t m, int32_t taps)
{
    int32_t best = -1;
    for (int32_t i = 1; tdn_wino_sizes[i].m; i++)
        if (tdn_wino_sizes[i].m == m && tdn_wino_sizes[i].r >= taps &&
            (best < 0 || tdn_wino_sizes[i].r < tdn_wino_sizes[best].r))
            best = i;
    return best;
}

static bool plan_axis(tdn_wino_axis *t, const tdn_wino_args *a, int axis, int64_t extent)
{
    const int32_t kernel = a->kernel[axis], stride = a->desc.stride[axis];
    const int32_t dilation = a->desc.dilation[axis];
    *t = (tdn_wino_axis){.m = 1, .n_points = 1, .phases = 1, .dilation = 1};
    t->stride = stride;
    t->pad = a->desc.pad[axis];
    if (kernel > 1) {
        const int32_t taps = (kernel + stride - 1) / stride;
        if (taps < 2 || stride > 2 || (stride > 1 && dilation > 1))
            return false;
        t->size = find_size(size_m[(a->variant - 1) % SIZES], taps);
        if (t->size < 0)
            return false;
        t->m = tdn_wino_sizes[t->size].m;
        t->n_points = t->m + tdn_wino_sizes[t->size].r - 1;
        t->phases = stride;
        t->dilation = dilation;
    }
    const int64_t each = tdn_cpu_div_up(tdn_cpu_div_up(extent, t->dilation), t->m);
    if (each * t->dilation > INT32_MAX / 2)
        return false;
    t->a_residue = (int32_t)each;
    t->n_patches = (int32_t)(each * t->dilation);
    return true;
}

/* ---- Tiles ----------------------------------------------------------------------------------- */

/* Bytes that move beyond L2 with this split, and what is transformed more than once. */
static int64_t traffic(const tdn_wino_args *a, int64_t rows_each, int64_t n_rows, int64_t n_cols,
                       int64_t panel_block)
{
    const tdn_tiling *t = &a->tiling;
    const int64_t points = tdn_wino_points(a), nr = t->nr, taps = t->n_taps;
    const int64_t room = shapes[t->shape].l2_floats;
    const int64_t v_row = points * taps * t->k, m_row = points * panel_block * nr;
    const int64_t weights = points * taps * t->k * t->n_panels * nr;
    const int64_t n_blocks = tdn_cpu_div_up(t->n_panels, n_cols * panel_block);
    const bool fits = rows_each * (v_row + m_row) <= room;
    const int64_t passes = weights > room / 2 ? n_rows : 1;
    int64_t floats =
        t->rows * points * t->n_taps * tdn_cpu_row_floats(t->k) * n_cols; /* transforms */
    if (!fits)
        floats +=
            t->rows * v_row * n_cols * (1 + n_blocks) + 2 * t->rows * points * t->n_panels * nr;
    return floats * (int64_t)sizeof(float) + passes * weights * tdn_weight_size(a->is_half);
}

static void choose_tiles(tdn_wino_args *a, int32_t shape)
{
    tdn_tiling *t = &a->tiling;
    t->shape = shape;
    const int64_t n_blocks = tdn_cpu_div_up(t->rows, t->mr), most = tdn_cpu_min(n_blocks, 256);
    int64_t most_cols = 1;
    while (most_cols < 8 && 2 * most_cols <= t->n_panels)
        most_cols *= 2;
    const int64_t wanted = tdn_cpu_min(shapes[shape].tiles_wanted, most * most_cols);
    int64_t best = INT64_MAX;
    for (int64_t n_rows = 1; n_rows <= most; n_rows++)
        for (int64_t n_cols = 1; n_cols <= most_cols; n_cols *= 2) {
            if (n_rows * n_cols < wanted)
                continue;
            const int64_t rows_each = tdn_cpu_div_up(n_blocks, n_rows) * t->mr;
            const int64_t panels = tdn_cpu_div_up(t->n_panels, n_cols);
            for (int64_t block = panels;; block = tdn_cpu_div_up(block, 2)) {
                const int64_t bytes = traffic(a, rows_each, n_rows, n_cols, block);
                if (bytes < best) {
                    best = bytes;
                    t->n_row_tiles = (int32_t)n_rows;
                    t->n_col_tiles = (int32_t)n_cols;
                    t->max_rows = (int32_t)tdn_cpu_min(t->rows, rows_each);
                    t->max_panels = (int32_t)panels;
                    a->panel_block = (int32_t)block;
                }
                if (block == 1)
                    break;
            }
        }
}

static bool have_same_tiles(const tdn_wino_args *a, const tdn_wino_args *b)
{
    return a->tiling.n_row_tiles == b->tiling.n_row_tiles &&
           a->tiling.n_col_tiles == b->tiling.n_col_tiles && a->panel_block == b->panel_block;
}

static int64_t n_products(const tdn_tiling *t) { return t->rows * t->cols * t->n_taps * t->k; }

static bool halves_suffice(const tdn_wino_args *a)
{
    const int n_h = a->axis[0].n_points, n_w = a->axis[1].n_points;
    const int most = n_h > 1 && n_w > 1 ? HALF_POINTS_EACH : HALF_POINTS;
    return n_h <= most && n_w <= most;
}

tdn_status tdn_wino_plan(tdn_wino_args *a, const tdn_kernel *kernel, const tdn_view *x,
                         const tdn_view *out, tdn_error *error)
{
    int64_t rows;
    if (a->variant < 1 || a->variant > TDN_WINO_VARIANTS || a->desc.group != 1 ||
        a->kernel[0] != 1 || a->desc.stride[0] != 1 || a->desc.pad[0] != 0 ||
        x->dims[1] != out->dims[1] || a->kernel[1] * a->kernel[2] == 1)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "no convolution for minimal filtering");
    for (int i = 0; i < 2; i++)
        if (a->kernel[1 + i] > 64 || !plan_axis(&a->axis[i], a, 1 + i, out->dims[2 + i]))
            return tdn_fail(error, TDN_E_UNSUPPORTED, "no minimal filter of %d taps, stride %d",
                            a->kernel[1 + i], a->desc.stride[1 + i]);
    a->tiling.shape = 0;
    a->is_half = tdn_cpu_kernel_is(kernel, "wino_f32h");
    if (a->is_half && !halves_suffice(a))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a filter of too many points for halves");
    const int64_t dims[] = {out->dims[0], out->dims[1], a->axis[0].n_patches, a->axis[1].n_patches};
    if (!tdn_dims_count(dims, 4, &rows) || rows == 0 ||
        !tdn_tiling_make(&a->tiling, 1, rows, out->dims[4], a->axis[0].phases * a->axis[1].phases,
                         x->dims[4], kernel) ||
        a->tiling.outer == 0 || n_products(&a->tiling) > MAX_PRODUCTS)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a convolution that is too large, or empty");
    choose_tiles(a, 0);
    const int32_t shape = (a->variant - 1) / SIZES;
    if (shape == 0)
        return TDN_OK;
    const tdn_wino_args first = *a;
    choose_tiles(a, shape);
    return have_same_tiles(&first, a)
               ? tdn_fail(error, TDN_E_UNSUPPORTED, "the tiles of another variant")
               : TDN_OK;
}

/* ---- Weights --------------------------------------------------------------------------------- */

size_t tdn_wino_packed_size(const tdn_wino_args *a)
{
    const size_t zeros = tdn_round_up((size_t)a->tiling.k * sizeof(float), TDN_ALIGN);
    return (size_t)(tdn_wino_points(a) * tdn_tiling_packed(&a->tiling) *
                    tdn_weight_size(a->is_half)) +
           zeros;
}

void tdn_wino_gains(const tdn_wino_args *a, double *least, double *most)
{
    *least = *most = 1;
    for (int i = 0; i < 2; i++) {
        const tdn_wino_size *size = &tdn_wino_sizes[a->axis[i].size];
        double low = INFINITY, high = 0;
        for (int p = 0; p < size->m + size->r - 1; p++) {
            double gain = 0;
            for (int k = 0; k < size->r; k++)
                gain += fabs(size->g[p * size->r + k]);
            low = fmin(low, gain);
            high = fmax(high, gain);
        }
        *least *= low;
        *most *= high;
    }
}

typedef struct columns {
    double x[TDN_NR_avx512]; /* the widest panel of floats */
} columns;

/* to[i] = sum over k of g[i][k] * from[k], n_rows x n_taps, `step` apart in both. */
static void transform(columns *to, const columns *from, const tdn_wino_size *size, int step, int nr)
{
    const int n_points = size->m + size->r - 1;
    for (int i = 0; i < n_points; i++) {
        columns *sum = &to[i * step];
        memset(sum, 0, sizeof *sum);
        for (int k = 0; k < size->r; k++)
            for (int j = 0; j < nr; j++)
                sum->x[j] += size->g[i * size->r + k] * from[k * step].x[j];
    }
}

/* The taps of one phase and channel, nr filters side by side; taps beyond the kernel are 0. */
static void gather(columns *taps, const tdn_wino_args *a, const float *weights, int64_t col,
                   int64_t c, int phase)
{
    const int r[2] = {tdn_wino_sizes[a->axis[0].size].r, tdn_wino_sizes[a->axis[1].size].r};
    const int at[2] = {phase / a->axis[1].phases, phase % a->axis[1].phases};
    const int64_t area = (int64_t)a->kernel[1] * a->kernel[2], n = a->tiling.cols;
    for (int i = 0; i < r[0]; i++)
        for (int k = 0; k < r[1]; k++) {
            const int h = i * a->axis[0].phases + at[0], w = k * a->axis[1].phases + at[1];
            const bool inside = h < a->kernel[1] && w < a->kernel[2];
            columns *tap = &taps[i * r[1] + k];
            memset(tap, 0, sizeof *tap);
            for (int j = 0; inside && j < a->tiling.nr && col + j < n; j++)
                tap->x[j] = weights[((col + j) * a->tiling.k + c) * area + h * a->kernel[2] + w];
        }
}

void tdn_wino_pack(void *to, const tdn_wino_args *a, const float *weights)
{
    const tdn_tiling *t = &a->tiling;
    const tdn_wino_size *h = &tdn_wino_sizes[a->axis[0].size],
                        *w = &tdn_wino_sizes[a->axis[1].size];
    const int n_h = a->axis[0].n_points, n_w = a->axis[1].n_points, nr = t->nr;
    const int64_t a_point = tdn_tiling_packed(t);
    columns taps[TDN_WINO_MAX_POINTS * TDN_WINO_MAX_POINTS];
    columns half[TDN_WINO_MAX_POINTS * TDN_WINO_MAX_POINTS];
    columns points[TDN_WINO_MAX_POINTS * TDN_WINO_MAX_POINTS];
    for (int64_t panel = 0; panel < t->n_panels; panel++)
        for (int phase = 0; phase < t->n_taps; phase++)
            for (int64_t c = 0; c < t->k; c++) {
                gather(taps, a, weights, panel * nr, c, phase);
                for (int k = 0; k < w->r; k++) /* along h: [point][tap of w] */
                    transform(half + k, taps + k, h, w->r, nr);
                for (int i = 0; i < n_h; i++)
                    transform(points + i * n_w, half + i * w->r, w, 1, nr);
                const int64_t row = ((panel * t->n_taps + phase) * t->k + c) * nr;
                for (int p = 0; p < n_h * n_w; p++)
                    for (int j = 0; j < nr; j++)
                        tdn_weight_put(to, row + p * a_point + j, (float)points[p].x[j],
                                       a->is_half);
            }
    memset((char *)to + tdn_wino_points(a) * a_point * tdn_weight_size(a->is_half), 0,
           (size_t)t->k * sizeof(float));
}

/* ---- Work ------------------------------------------------------------------------------------ */

static int64_t flops(const tdn_wino_args *a)
{
    const tdn_tiling *t = &a->tiling;
    return 2 * tdn_wino_points(a) * t->rows * t->cols * t->n_taps * t->k;
}

int64_t tdn_wino_cost(const tdn_wino_args *of, const tdn_kernel *kernel)
{
    tdn_wino_args plain = *of, *a = &plain; /* all shapes have its cost: times may differ */
    choose_tiles(a, 0);
    const tdn_tiling *t = &a->tiling;
    const int64_t points = tdn_wino_points(a), n_axes = (a->axis[0].m > 1) + (a->axis[1].m > 1);
    const int64_t rows_each =
        tdn_cpu_div_up(tdn_cpu_div_up(t->rows, t->mr), t->n_row_tiles) * t->mr;
    const int64_t transforms = /* a multiply-add and a half an element and axis */
        8 * n_axes * points * t->rows *
        (t->n_taps * tdn_cpu_row_floats(t->k) * t->n_col_tiles + tdn_cpu_row_floats(t->cols));
    const size_t size = tdn_wino_packed_size(a);
    const int64_t widening =
        tdn_weights_cost(kernel, size, a->is_half) - (int64_t)size * TDN_WEIGHT_BYTE_COST;
    return flops(a) / t->k * (t->k + CALL_TERMS) + transforms + t->n_row_tiles * widening +
           BYTE_FLOPS / 2 * traffic(a, rows_each, t->n_row_tiles, t->n_col_tiles, a->panel_block);
}

void tdn_wino_work(tdn_work *work, const tdn_wino_args *a)
{
    tdn_wino_scratch s;
    tdn_wino_scratch_set(&s, a);
    work->n_tiles = (size_t)tdn_tiling_n_tiles(&a->tiling);
    work->scratch_size = tdn_matrix_scratch_set(NULL, NULL, &a->tiling,
                                                s.v_size + s.m_size + s.patch_size +
                                                    tdn_wide_floats(&a->tiling, a->is_half));
    work->flops = flops(a);
}
