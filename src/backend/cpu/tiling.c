/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The split of a matrix product into tiles and blocks of its sum, and packing of the right operand:
 * a pure function of the shape and the kernel's register tile, so that results do not depend on
 * threads.
 *
 * A tile is a range of rows times a range of column panels. Its rows are few enough that a block of
 * them (rows x k_block) stays in L2 while all panels pass; a block of one panel (k_block x nr)
 * stays in L1 while all rows pass.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/matrix.h"

enum {
    SUM_BLOCK = 384,             /* terms of the sum in one pass: 48 KiB of a 32-column panel */
    ROW_BLOCK_FLOATS = 40 << 10, /* rows x k_block of one tile: 160 KiB */
    ROW_POINTERS = 4096,         /* rows x taps of one tile: 32 KiB */
    SET_FLOATS = 1024,           /* that far apart, data share a set of an L1 cache */
    SET_ROWS = 6,                /* that fit a set, with what else passes */
    GATHERED_COLUMNS = 128,      /* of a tile: below, copies cost too much of the product */
    JOINED_TILES = 8,            /* of rows with all columns: for some threads, and with so many */
    JOINED_ROWS = 48,            /* rows that it is worth to keep weights in L1 for them */
    TILE_FLOPS = 1 << 19,        /* a tile of less is not worth a worker's attention: some 5 us */
    WEIGHT_FLOPS = 8             /* as long as it takes to read a term of the right operand */
};

#define MAX_HALF 65504.0
#define MIN_NORMAL_HALF 0x1p-14

/* By shape. The first is enough to balance 8 threads; fewer tiles have less to set up and pack,
 * which pays on few threads. */
static const int64_t tiles_wanted[1 + TDN_TILING_SHAPES] = {32, 8, 2};

static void choose_blocks(tdn_tiling *t)
{
    t->tap_block = 1;
    t->k_block = (int32_t)t->k;
    if (t->k > SUM_BLOCK) {
        const int64_t n = tdn_cpu_div_up(t->k, SUM_BLOCK);
        t->k_block = (int32_t)tdn_cpu_div_up(t->k, n);
    } else {
        const int64_t most = tdn_cpu_max(1, SUM_BLOCK / t->k);
        const int64_t n = tdn_cpu_div_up(t->n_taps, most);
        t->tap_block = (int32_t)tdn_cpu_div_up(t->n_taps, n);
    }
}

/*
 * Few enough rows for L2, and about as many tiles as wanted. Splitting rows makes more tiles read
 * the right operand, splitting columns more tiles read the left one: of all splits, the one that
 * reads least.
 */
static void choose_tiles(tdn_tiling *t, int32_t shape)
{
    const int64_t of_row = t->outer * t->cols * t->n_taps * t->k;
    const int64_t flops = of_row * tdn_cpu_max(2 * t->rows, WEIGHT_FLOPS);
    const int64_t n_blocks = tdn_cpu_div_up(t->rows, t->mr);
    const int64_t sum = (int64_t)t->k_block * t->tap_block;
    const int64_t most = tdn_cpu_min(ROW_BLOCK_FLOATS / sum, ROW_POINTERS / t->n_taps) / t->mr;
    const int64_t wanted =
        tdn_cpu_max(1, tdn_cpu_min(tiles_wanted[shape], flops / TILE_FLOPS) / t->outer);
    const int64_t fewest = tdn_cpu_div_up(n_blocks, tdn_cpu_max(1, most));
    const int64_t first =
        tdn_cpu_max(fewest, tdn_cpu_min(n_blocks, tdn_cpu_div_up(wanted, t->n_panels)));
    int64_t best = INT64_MAX, by_rows = first, by_cols = 1;
    for (int64_t r = first; r == first || (r <= wanted && r <= n_blocks); r++) {
        const int64_t c = tdn_cpu_min(t->n_panels, tdn_cpu_div_up(wanted, r));
        const int64_t reads = r * t->n_taps * t->cols + c * t->rows;
        if (reads < best) {
            best = reads;
            by_rows = r;
            by_cols = c;
        }
    }
    t->n_row_tiles = (int32_t)by_rows;
    t->n_col_tiles = (int32_t)by_cols;
    t->max_rows = (int32_t)tdn_cpu_min(t->rows, tdn_cpu_div_up(n_blocks, by_rows) * t->mr);
    t->max_panels = (int32_t)tdn_cpu_div_up(t->n_panels, by_cols);
}

bool tdn_tiling_make(tdn_tiling *t, int64_t outer, int64_t rows, int64_t cols, int64_t n_taps,
                     int64_t k, const tdn_kernel *kernel)
{
    const int64_t dims[] = {outer, rows, cols, n_taps, k};
    const int32_t shape = t->shape;
    int64_t count;
    if (shape < 0 || shape > TDN_TILING_SHAPES || !tdn_dims_count(dims, 5, &count) ||
        count > INT64_MAX / 4 || outer > INT32_MAX || rows > INT32_MAX - 64 ||
        cols > INT32_MAX - 64 || n_taps > ROW_POINTERS || n_taps < 1 || k < 1 ||
        n_taps * k > INT32_MAX)
        return false;
    memset(t, 0, sizeof *t);
    t->shape = shape;
    t->outer = outer;
    t->rows = rows;
    t->cols = cols;
    t->k = k;
    t->n_taps = (int32_t)n_taps;
    t->mr = kernel->mr;
    t->nr = kernel->nr;
    t->n_panels = (int32_t)tdn_cpu_div_up(cols, kernel->nr);
    if (outer * t->n_panels > TDN_CPU_MAX_COUNT / (n_taps * k * kernel->nr))
        return false;
    choose_blocks(t);
    t->n_row_tiles = t->n_col_tiles = 1;
    if (count == 0) {
        t->outer = 0; /* nothing to do: no tiles */
        return shape == 0;
    }
    choose_tiles(t, 0);
    if (shape == 0)
        return true;
    const int32_t by_rows = t->n_row_tiles, by_cols = t->n_col_tiles;
    choose_tiles(t, shape);
    return t->n_row_tiles != by_rows || t->n_col_tiles != by_cols;
}

void tdn_tiling_set_stride(tdn_tiling *t, int64_t row_stride)
{
    t->gathers = t->mr > SET_ROWS && t->rows > SET_ROWS &&
                 t->max_panels * t->nr >= GATHERED_COLUMNS && row_stride != 0 &&
                 row_stride % SET_FLOATS == 0;
}

void tdn_tiling_join_columns(tdn_tiling *t)
{
    const int64_t n_blocks = tdn_cpu_div_up(t->rows, t->mr);
    const int64_t shares = tdn_cpu_max(JOINED_TILES, t->rows / JOINED_ROWS);
    const int64_t wanted = tdn_cpu_min((int64_t)t->n_row_tiles * t->n_col_tiles, shares);
    t->n_row_tiles = (int32_t)tdn_cpu_max(1, tdn_cpu_min(n_blocks, wanted));
    t->n_col_tiles = 1;
    t->max_rows = (int32_t)tdn_cpu_min(t->rows, tdn_cpu_div_up(n_blocks, t->n_row_tiles) * t->mr);
    t->max_panels = t->n_panels;
}

bool tdn_sparse_suits(const tdn_view *weights)
{
    for (tdn_walk w = tdn_walk_begin(weights->rank, weights->dims); w.more; tdn_walk_next(&w))
        if (!isfinite(((const float *)weights->data)[tdn_walk_offset(&w, weights)]))
            return false;
    return true;
}

/* [panel][d0][d1][d2][d3][nr]; columns beyond the last are 0. */
void tdn_pack_panels(void *to, bool is_half, const float *from, int64_t cols, int64_t col_stride,
                     const int64_t dims[4], const int64_t strides[4], int nr)
{
    int64_t at = 0;
    for (int64_t col = 0; col < cols; col += nr)
        for (int64_t i0 = 0; i0 < dims[0]; i0++)
            for (int64_t i1 = 0; i1 < dims[1]; i1++)
                for (int64_t i2 = 0; i2 < dims[2]; i2++)
                    for (int64_t i3 = 0; i3 < dims[3]; i3++) {
                        const float *p = from + i0 * strides[0] + i1 * strides[1] +
                                         i2 * strides[2] + i3 * strides[3];
                        for (int j = 0; j < nr; j++, at++)
                            tdn_weight_put(to, at, col + j < cols ? p[(col + j) * col_stride] : 0,
                                           is_half);
                    }
}

tdn_status tdn_halves_check(const float *weights, int64_t cols, int64_t col_stride, int64_t n,
                            int64_t stride, double least, double most, tdn_error *error)
{
    for (int64_t col = 0; col < cols; col++) {
        double largest = 0;
        bool fits = true; /* NaN does not */
        for (int64_t i = 0; i < n; i++) {
            const double w = fabs((double)weights[col * col_stride + i * stride]);
            fits = fits && w * most <= MAX_HALF;
            largest = w > largest ? w : largest;
        }
        if (!fits || (largest > 0 && largest * least < MIN_NORMAL_HALF))
            return tdn_fail(error, TDN_E_UNSUPPORTED,
                            "weights of up to %g in column %lld, which halves do not hold well",
                            largest, (long long)col);
    }
    return TDN_OK;
}
