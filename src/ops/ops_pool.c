/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pools. The core form is Pool of the domain "tendon", with kind, kernel_shape, strides, dilations,
 * pads and count_include_pad all set; output_shape holds the spatial extents, which say what
 * ceil_mode and auto_pad came to. The pads are the true ones: a window that overhangs them, by
 * ceil_mode, sees nothing there and counts nothing.
 */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"
#include "ref/window.h"

static tdn_status pool_shape(tdn_infer *io, tdn_window *window, tdn_shape *y)
{
    TDN_TRY(tdn_infer_rank(io, 0, 3, 2 + TDN_WINDOW_MAX));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    const tdn_shape *x = &io->node->in[0]->shape;
    int n, n_out;
    const int64_t *kernel = tdn_attr_ints(&io->node->attrs, "kernel_shape", &n);
    const int64_t *out = tdn_attr_ints(&io->node->attrs, "output_shape", &n_out);
    TDN_NEED(io, n == x->rank - 2, "attribute 'kernel_shape' has not one integer a spatial axis");
    TDN_NEED(io, !out || n_out == n, "attribute 'output_shape' has not one integer a spatial axis");
    const char *wrong = tdn_window_read(window, &io->node->attrs, n, x->dims + 2, kernel);
    TDN_NEED(io, !wrong, wrong);
    const bool ceil_mode = tdn_attr_int(&io->node->attrs, "ceil_mode", 0) != 0;
    *y = *x;
    for (int i = 0; i < n; i++) {
        y->dims[2 + i] = out ? out[i] : tdn_window_positions(window, i, x->dims[2 + i], ceil_mode);
        TDN_NEED(io, y->dims[2 + i] >= 0 && y->dims[2 + i] < (int64_t)1 << 31,
                 "the window is longer than the padded input");
    }
    return TDN_OK;
}

static tdn_status pool_infer(tdn_infer *io)
{
    tdn_window window;
    tdn_shape y;
    TDN_TRY(pool_shape(io, &window, &y));
    TDN_TRY(tdn_infer_set(io, 0, io->node->in[0]->dtype, &y));
    return tdn_out(io->node, 1) ? tdn_infer_set(io, 1, TDN_S64, &y) : TDN_OK;
}

/* In fp32 and without indices. */
static tdn_status pool_decompose(tdn_infer *io)
{
    const tdn_node *node = io->node;
    tdn_window window;
    tdn_shape y;
    int64_t pads[2 * TDN_WINDOW_MAX];
    if (node->in[0]->dtype != TDN_F32 || tdn_out(node, 1))
        return TDN_OK;
    TDN_TRY(pool_shape(io, &window, &y));
    memcpy(pads, window.before, (size_t)window.n * sizeof *pads);
    memcpy(pads + window.n, window.after, (size_t)window.n * sizeof *pads);
    const tdn_attr attrs[7] = {
        tdn_attr_of_string("kind", strcmp(node->op->name, "MaxPool") ? "average" : "max"),
        tdn_attr_of_ints("kernel_shape", window.kernel, window.n),
        tdn_attr_of_ints("strides", window.stride, window.n),
        tdn_attr_of_ints("dilations", window.dilation, window.n),
        tdn_attr_of_ints("pads", pads, 2 * window.n),
        tdn_attr_of_ints("output_shape", y.dims + 2, window.n),
        tdn_attr_of_int("count_include_pad",
                        tdn_attr_int(&node->attrs, "count_include_pad", 0) != 0),
    };
    return tdn_emit_end(io, tdn_emit(io, "tendon", "Pool", node->in, 1, attrs, 7));
}

static int64_t pool_flops(const tdn_node *node)
{
    int n;
    const int64_t *kernel = tdn_attr_ints(&node->attrs, "kernel_shape", &n);
    const tdn_value *y = tdn_out(node, 0);
    int64_t flops = y ? tdn_shape_count(&y->shape) : 0;
    for (int i = 0; i < n; i++)
        if (__builtin_mul_overflow(flops, kernel[i], &flops))
            return INT64_MAX;
    return flops;
}

static tdn_status global_lp_pool_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 3, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    tdn_shape y = io->node->in[0]->shape;
    for (int i = 2; i < y.rank; i++)
        y.dims[i] = 1;
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

static tdn_status lrn_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 2, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    TDN_NEED(io, tdn_attr_int(&io->node->attrs, "size", 0) > 0,
             "attribute 'size' is missing or not positive");
    return tdn_infer_same(io);
}

static int64_t lrn_flops(const tdn_node *node)
{
    int64_t flops;
    const int64_t size = tdn_attr_int(&node->attrs, "size", 1);
    return __builtin_mul_overflow(tdn_shape_count(&node->in[0]->shape), size, &flops) ? INT64_MAX
                                                                                      : flops;
}

static tdn_status max_unpool_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 3, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_rank(io, 1, 3, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    tdn_shape y = io->node->in[0]->shape;
    TDN_NEED(io, tdn_shape_equal(&y, &io->node->in[1]->shape),
             "the indices have another shape than the input");
    int n, n_strides, n_pads, n_out;
    const int64_t *kernel = tdn_attr_ints(&io->node->attrs, "kernel_shape", &n);
    const int64_t *strides = tdn_attr_ints(&io->node->attrs, "strides", &n_strides);
    const int64_t *pads = tdn_attr_ints(&io->node->attrs, "pads", &n_pads);
    TDN_NEED(io, n == y.rank - 2 && (!strides || n_strides == n) && (!pads || n_pads == 2 * n),
             "kernel_shape, strides or pads have not one integer a spatial axis");
    const int64_t limit = (int64_t)1 << 31;
    for (int i = 0; i < n; i++) {
        const int64_t stride = strides ? strides[i] : 1, before = pads ? pads[i] : 0,
                      after = pads ? pads[n + i] : 0;
        TDN_NEED(io,
                 kernel[i] > 0 && kernel[i] < limit && stride > 0 && stride < limit &&
                     before >= 0 && before < limit && after >= 0 && after < limit &&
                     y.dims[2 + i] < limit,
                 "kernel_shape, strides or pads out of range");
        y.dims[2 + i] = (y.dims[2 + i] - 1) * stride - before - after + kernel[i];
    }
    if (tdn_in(io->node, 2)) {
        TDN_TRY(tdn_infer_ints(io, 2, y.dims, TDN_MAX_RANK, &n_out));
        TDN_NEED(io, n_out == y.rank, "output_shape has not one integer an axis");
    }
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

static tdn_status max_roi_pool_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 4, 4));
    TDN_TRY(tdn_infer_rank(io, 1, 2, 2));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    int n;
    const int64_t *pooled = tdn_attr_ints(&io->node->attrs, "pooled_shape", &n);
    TDN_NEED(io, n == 2 && pooled[0] > 0 && pooled[1] > 0,
             "attribute 'pooled_shape' needs two positive integers");
    TDN_NEED(io, io->node->in[1]->shape.dims[1] == 5, "regions need five numbers");
    const tdn_shape *x = &io->node->in[0]->shape;
    const int64_t dims[4] = {io->node->in[1]->shape.dims[0], x->dims[1], pooled[0], pooled[1]};
    const tdn_shape y = tdn_shape_make(4, dims);
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

#define ROW(name_, domain_, since_, min_in_, max_in_, max_out_)                                    \
    .name = name_, .domain = domain_, .since = since_, .n_in_min = min_in_, .n_in_max = max_in_,   \
    .n_out_min = 1, .n_out_max = max_out_

const tdn_op_def tdn_ops_pool[] = {
    {ROW("MaxPool", "", 1, 1, 1, 2), .infer = pool_infer, .decompose = pool_decompose,
     .flops = pool_flops},
    {ROW("AveragePool", "", 1, 1, 1, 1), .infer = pool_infer, .decompose = pool_decompose,
     .flops = pool_flops},
    {ROW("Pool", "tendon", 1, 1, 1, 1), .infer = pool_infer, .core = TDN_CORE_POOL,
     .reference = "tendon.Pool", .flops = pool_flops},
    {ROW("LpPool", "", 1, 1, 1, 1), .infer = pool_infer, .flops = pool_flops},
    {ROW("GlobalLpPool", "", 1, 1, 1, 1), .infer = global_lp_pool_infer},
    {ROW("LRN", "", 1, 1, 1, 1), .infer = lrn_infer, .flops = lrn_flops},
    {ROW("MaxUnpool", "", 9, 2, 3, 1), .infer = max_unpool_infer},
    {ROW("MaxRoiPool", "", 1, 2, 2, 1), .infer = max_roi_pool_infer},
    {0},
};
