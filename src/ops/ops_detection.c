/* SPDX-License-Identifier: Apache-2.0 */
/* Suppression of overlapping boxes, and sampling of images at real positions. By reference. */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"

/* At most so many boxes a class as asked for, or as there are; how many there will be is known at
 * run time. */
static tdn_status non_max_suppression_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 3, 3));
    TDN_TRY(tdn_infer_rank(io, 1, 3, 3));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    TDN_TRY(tdn_infer_dtype(io, 1, tdn_dtypes_floats));
    const tdn_shape *boxes = &io->node->in[0]->shape, *scores = &io->node->in[1]->shape;
    TDN_NEED(io,
             boxes->dims[2] == 4 && boxes->dims[0] == scores->dims[0] &&
                 boxes->dims[1] == scores->dims[2],
             "boxes and scores do not fit together");
    double most = (double)boxes->dims[1];
    const tdn_value *limit = tdn_in(io->node, 2);
    if (!limit)
        most = 0;
    else if (limit->kind == TDN_VALUE_CONST)
        TDN_TRY(tdn_infer_scalar(io, 2, 0, &most));
    for (int i = 2; i < 5; i++)
        if (tdn_in(io->node, i))
            TDN_NEED(io, tdn_shape_count(&io->node->in[i]->shape) == 1, "a limit is no scalar");
    most = most < 0 ? 0 : most > (double)boxes->dims[1] ? (double)boxes->dims[1] : most;
    tdn_shape y = {.rank = 2, .bounded = 1, .dims = {0, 3}};
    TDN_NEED(io,
             !__builtin_mul_overflow(scores->dims[0], scores->dims[1], &y.dims[0]) &&
                 !__builtin_mul_overflow(y.dims[0], (int64_t)most, &y.dims[0]),
             "too many boxes");
    return tdn_infer_set(io, 0, TDN_S64, &y);
}

static tdn_status roi_align_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 4, 4));
    TDN_TRY(tdn_infer_rank(io, 1, 2, 2));
    TDN_TRY(tdn_infer_rank(io, 2, 1, 1));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    TDN_TRY(tdn_infer_dtype(io, 1, tdn_dtypes_floats));
    TDN_TRY(tdn_infer_dtype(io, 2, tdn_dtypes_integers));
    const tdn_shape *x = &io->node->in[0]->shape, *rois = &io->node->in[1]->shape;
    TDN_NEED(io, rois->dims[1] == 4 && io->node->in[2]->shape.dims[0] == rois->dims[0],
             "regions and their batches do not fit together");
    const int64_t h = tdn_attr_int(&io->node->attrs, "output_height", 1);
    const int64_t w = tdn_attr_int(&io->node->attrs, "output_width", 1);
    const int64_t ratio = tdn_attr_int(&io->node->attrs, "sampling_ratio", 0);
    TDN_NEED(io, h > 0 && w > 0 && ratio >= 0 && ratio < 1 << 20,
             "output_height, output_width or sampling_ratio");
    const tdn_shape y = tdn_shape_make(4, (int64_t[]){rois->dims[0], x->dims[1], h, w});
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

static tdn_status grid_sample_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 3, 5));
    TDN_TRY(tdn_infer_rank(io, 1, 3, 5));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    TDN_TRY(tdn_infer_dtype(io, 1, tdn_dtypes_floats));
    const tdn_shape *x = &io->node->in[0]->shape, *grid = &io->node->in[1]->shape;
    const int n = x->rank - 2;
    TDN_NEED(io, grid->rank == x->rank && grid->dims[0] == x->dims[0] && grid->dims[n + 1] == n,
             "the grid has not one position an output");
    tdn_shape y = *x;
    for (int i = 0; i < n; i++)
        y.dims[2 + i] = grid->dims[1 + i];
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

static tdn_status affine_grid_infer(tdn_infer *io)
{
    int64_t size[5];
    int n;
    TDN_TRY(tdn_infer_rank(io, 0, 3, 3));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    TDN_TRY(tdn_infer_ints(io, 1, size, 5, &n));
    const tdn_shape *theta = &io->node->in[0]->shape;
    TDN_NEED(io, n == 4 || n == 5, "size needs four or five integers");
    TDN_NEED(io, theta->dims[1] == n - 2 && theta->dims[2] == n - 1 && theta->dims[0] == size[0],
             "the matrices do not fit the size");
    tdn_shape y = {.rank = n, .dims = {size[0]}};
    for (int i = 2; i < n; i++)
        y.dims[i - 1] = size[i];
    y.dims[n - 1] = n - 2;
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

#define ROW(name_, since_, min_in_, max_in_, infer_, reference_)                                   \
    {                                                                                              \
        .name = name_, .domain = "", .since = since_, .n_in_min = min_in_, .n_in_max = max_in_,    \
        .n_out_min = 1, .n_out_max = 1, .infer = infer_, .reference = reference_, .unfolded = true \
    }

const tdn_op_def tdn_ops_detection[] = {
    ROW("NonMaxSuppression", 10, 2, 5, non_max_suppression_infer, NULL),
    ROW("RoiAlign", 10, 3, 3, roi_align_infer, "RoiAlign-10"),
    ROW("RoiAlign", 16, 3, 3, roi_align_infer, NULL),
    ROW("GridSample", 16, 2, 2, grid_sample_infer, NULL),
    ROW("AffineGrid", 20, 2, 2, affine_grid_infer, NULL),
    {0},
};
