/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Family attend: softmax(scale * queries * keys + mask) * values, whose weights are never stored: a
 * tile has some queries of one batch and makes the weights of a block of them at a time, which stay
 * in L1 or L2. Or the mean of the weights over the queries, for a value that is asked as a mean.
 */
#include "backend/cpu/attend.h"

#include <math.h>

enum {
    WEIGHT_FLOATS = 8 << 10, /* of a block: 32 KiB */
    TILES_WANTED = 32,
    TILE_FLOPS = 1 << 19,
    TILE_BLOCKS = 4 /* of mr queries, at least: each tile packs all keys and values */
};

static tdn_status check_dims(const tdn_view *v, const tdn_view *q, int64_t rows, int64_t cols,
                             const char *what, tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_view(v, 4, TDN_F32, what, error));
    if (v->dims[0] != q->dims[0] || v->dims[1] != q->dims[1] || v->dims[2] != rows ||
        v->dims[3] != cols)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "%s whose dims do not fit", what);
    return TDN_OK;
}

static bool is_packable(const tdn_view *v) { return v->strides[2] == 1 || v->strides[3] == 1; }
static bool has_rows(const tdn_view *v) { return v->strides[3] == 1 || v->dims[3] == 1; }

static tdn_status check_views(const tdn_attend_args *a, const tdn_view *in, int n_in,
                              const tdn_view *out, int n_out, tdn_error *error)
{
    const int mask = tdn_attend_mask(a);
    TDN_TRY(tdn_cpu_check_counts(n_in, n_in == mask + 1 ? mask + 1 : mask, n_out, 1, error));
    const tdn_view *q = &in[TDN_ATTEND_QUERIES], *k = &in[TDN_ATTEND_KEYS];
    TDN_TRY(tdn_cpu_check_view(q, 4, TDN_F32, "queries", error));
    TDN_TRY(tdn_cpu_check_view(k, 4, TDN_F32, "keys", error));
    TDN_TRY(tdn_cpu_check_view(out, 4, TDN_F32, "the result of attention", error));
    const int64_t rows = q->dims[2], keys = k->dims[3];
    TDN_TRY(check_dims(k, q, q->dims[3], keys, "keys", error));
    if (!has_rows(q) || !is_packable(k) || !has_rows(out))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "attention over rows with gaps");
    if (a->is_mean) {
        TDN_TRY(check_dims(out, q, 1, keys, "the mean of weights", error));
    } else {
        const tdn_view *v = &in[TDN_ATTEND_VALUES];
        TDN_TRY(check_dims(out, q, rows, out->dims[3], "the result of attention", error));
        TDN_TRY(check_dims(v, q, keys, out->dims[3], "values", error));
        if (!is_packable(v))
            return tdn_fail(error, TDN_E_UNSUPPORTED, "values with gaps");
    }
    if (n_in == mask)
        return TDN_OK;
    TDN_TRY(check_dims(&in[mask], q, rows, keys, "a mask", error));
    return in[mask].strides[3] == 0 || has_rows(&in[mask])
               ? TDN_OK
               : tdn_fail(error, TDN_E_UNSUPPORTED, "a mask with gaps");
}

/* Derives all from scale, is_mean and the operands. */
static tdn_status plan(tdn_attend_args *a, const tdn_kernel *kernel, const tdn_view *in, int n_in,
                       const tdn_view *out, int n_out, tdn_work *work, tdn_error *error)
{
    const float scale = a->scale;
    const int32_t is_mean = a->is_mean;
    if (!(scale > 0) || !(scale < INFINITY) || (is_mean != 0 && is_mean != 1))
        return tdn_fail(error, TDN_E_FORMAT, "attention scaled by what is not positive");
    TDN_TRY(check_views(a, in, n_in, out, n_out, error));
    const tdn_view *q = &in[TDN_ATTEND_QUERIES];
    const int64_t rows = q->dims[2], batches = q->dims[0] * q->dims[1];
    const int64_t keys = in[TDN_ATTEND_KEYS].dims[3], width = is_mean ? 0 : out->dims[3];
    *a = (tdn_attend_args){.scale = scale,
                           .is_mean = is_mean,
                           .n_keys = keys,
                           .depth = q->dims[3],
                           .width = width,
                           .mr = kernel->mr,
                           .nr = kernel->nr};
    const int64_t dims[] = {batches, rows, keys, a->depth + width};
    int64_t products;
    if (rows < 1 || keys < 1 || a->depth < 1 || (width < 1 && !is_mean) ||
        !tdn_dims_count(dims, 4, &products) || products > TDN_CPU_MAX_COUNT * 64 ||
        keys > INT32_MAX || rows > INT32_MAX || batches > INT32_MAX ||
        keys * (a->depth + width + kernel->nr) > TDN_CPU_MAX_COUNT / kernel->nr)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "attention that is too large, or over nothing");
    const int64_t blocks = tdn_cpu_div_up(rows, a->mr);
    const int64_t fit = WEIGHT_FLOATS / tdn_attend_step(a) / a->mr;
    a->block_rows = (int32_t)(tdn_cpu_max(1, tdn_cpu_min(fit, blocks)) * a->mr);
    const int64_t wanted = tdn_cpu_min(TILES_WANTED, 2 * products / TILE_FLOPS);
    const int64_t by_rows =
        tdn_cpu_min(tdn_cpu_div_up(wanted, tdn_cpu_max(1, batches)), blocks / TILE_BLOCKS);
    a->n_row_tiles = is_mean ? 1 : (int32_t)tdn_cpu_max(1, by_rows);
    if (work)
        *work = (tdn_work){.n_tiles = (size_t)(batches * a->n_row_tiles),
                           .scratch_size = tdn_attend_scratch_set(NULL, NULL, a),
                           .flops = 2 * products + 4 * batches * rows * keys};
    return TDN_OK;
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = -1;
    made->kernel = tdn_kernel_best(tdn_family_attend.kernels, isa);
    const tdn_attend_desc *desc = g->desc;
    if (!made->kernel || !desc || g->expr)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "attention with an epilogue, or for no such CPU");
    tdn_attend_args *a = made->args = tdn_arena_alloc(arena, 1, sizeof *a);
    made->args_size = sizeof *a;
    if (!a)
        return tdn_fail_nomem(error, "attention");
    *a = (tdn_attend_args){.scale = desc->scale, .is_mean = desc->is_mean};
    return plan(a, made->kernel, g->in, g->n_in, g->out, g->n_out, NULL, error);
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    const tdn_attend_args *a = args;
    if (args_size != sizeof *a)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of attention are cut");
    tdn_attend_args wanted = *a;
    TDN_TRY(plan(&wanted, kernel, in, n_in, out, n_out, work, error));
    if (memcmp(&wanted, a, sizeof wanted) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of attention do not fit its operands");
    return TDN_OK;
}

static const tdn_kernel kernels[] = {
    TDN_TILE_ROWS("attend_f32", tdn_attend_f32),
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_attend = {
    .name = "attend", .kernels = kernels, .make = make, .check = check};
