/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operators that make tensors from shapes, numbers or nothing. Shape and Size depend on shapes
 * alone, so they are constants once shapes are known; with constant operands the others fold like
 * any node, but for the random ones.
 */
#include <math.h>
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"

/* ---- Shapes ---------------------------------------------------------------------------------- */

static int64_t clamp(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

static tdn_status shape_infer(tdn_infer *io)
{
    const int64_t rank = io->node->in[0]->shape.rank;
    const int64_t start = tdn_attr_int(&io->node->attrs, "start", 0),
                  end = tdn_attr_int(&io->node->attrs, "end", rank);
    const int64_t first = clamp(start < 0 ? start + rank : start, 0, rank);
    const int64_t last = clamp(end < 0 ? end + rank : end, first, rank);
    const tdn_shape y = {.rank = 1, .dims = {last - first}};
    return tdn_infer_set(io, 0, TDN_S64, &y);
}

static tdn_status size_infer(tdn_infer *io)
{
    const tdn_shape y = {.rank = 0};
    return tdn_infer_set(io, 0, TDN_S64, &y);
}

/* ---- Constants ------------------------------------------------------------------------------- */

static tdn_status constant_of_shape_infer(tdn_infer *io)
{
    tdn_shape y = {0};
    int n;
    TDN_TRY(tdn_infer_ints(io, 0, y.dims, TDN_MAX_RANK, &n));
    y.rank = n;
    const tdn_attr *value = tdn_attr_find(&io->node->attrs, "value");
    TDN_NEED(io, !value || (value->kind == TDN_ATTR_TENSOR && tdn_view_count(value->tensor) == 1),
             "attribute 'value' is no tensor of one element");
    return tdn_infer_set(io, 0, value ? value->tensor->dtype : TDN_F32, &y);
}

static tdn_status constant_infer(tdn_infer *io)
{
    const tdn_attrs *attrs = &io->node->attrs;
    for (int i = 0; i < attrs->n; i++) {
        const tdn_attr *a = &attrs->items[i];
        const bool listed = a->kind == TDN_ATTR_INTS || a->kind == TDN_ATTR_FLOATS;
        const tdn_shape y = {.rank = listed, .dims = {listed ? a->n : 0}};
        if (!strcmp(a->name, "value") && a->kind == TDN_ATTR_TENSOR) {
            const tdn_shape shape = tdn_shape_make(a->tensor->rank, a->tensor->dims);
            return tdn_infer_set(io, 0, a->tensor->dtype, &shape);
        }
        if (!strcmp(a->name, "value_int") || !strcmp(a->name, "value_ints"))
            return tdn_infer_set(io, 0, TDN_S64, &y);
        if (!strcmp(a->name, "value_float") || !strcmp(a->name, "value_floats"))
            return tdn_infer_set(io, 0, TDN_F32, &y);
    }
    return tdn_fail(io->error, TDN_E_UNSUPPORTED, "a constant of strings or a sparse one");
}

/* How many steps of delta there are from start to before limit; -1: too many. */
static int64_t steps_float(double start, double limit, double delta)
{
    const double n = ceil((limit - start) / delta);
    return n > 0x1p40 ? -1 : n > 0 ? (int64_t)n : 0;
}

static int64_t steps_int(int64_t start, int64_t limit, int64_t delta)
{
    const bool up = delta > 0;
    if (up ? start >= limit : start <= limit)
        return 0;
    const uint64_t span =
        up ? (uint64_t)limit - (uint64_t)start : (uint64_t)start - (uint64_t)limit;
    const uint64_t step = up ? (uint64_t)delta : 0 - (uint64_t)delta, n = (span - 1) / step + 1;
    return n > (uint64_t)1 << 40 ? -1 : (int64_t)n;
}

static tdn_status range_infer(tdn_infer *io)
{
    double v[3];
    int64_t i[3];
    const tdn_dtype dtype = io->node->in[0]->dtype;
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    for (int k = 0; k < 3; k++) {
        TDN_TRY(tdn_infer_scalar(io, k, 0, &v[k]));
        TDN_NEED(io, io->node->in[k]->dtype == dtype,
                 "start, limit and delta have different types");
        const tdn_view view = tdn_value_view(io->node->in[k]);
        i[k] = tdn_view_get_int(&view, 0);
    }
    TDN_NEED(io, v[2] != 0, "delta is 0");
    const bool is_float =
        dtype == TDN_F32 || dtype == TDN_F64 || dtype == TDN_F16 || dtype == TDN_BF16;
    const tdn_shape y = {
        .rank = 1,
        .dims = {is_float ? steps_float(v[0], v[1], v[2]) : steps_int(i[0], i[1], i[2])}};
    return tdn_infer_set(io, 0, dtype, &y);
}

/* ---- What is not zero ------------------------------------------------------------------------ */

static tdn_status non_zero_infer(tdn_infer *io)
{
    const tdn_shape *x = &io->node->in[0]->shape;
    TDN_TRY(tdn_infer_rank_open(io, 0, 0, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_all));
    const tdn_shape y = {
        .rank = 2, .bounded = 1u << 1, .dims = {x->rank ? x->rank : 1, tdn_shape_count(x)}};
    return tdn_infer_set(io, 0, TDN_S64, &y);
}

/* ---- Random numbers -------------------------------------------------------------------------- */

/* Without a seed of its own a node gets one from its name, so that two nodes do not draw the same
 * numbers. */
static tdn_status set_seed(tdn_infer *io)
{
    if (tdn_attr_find(&io->node->attrs, "seed"))
        return TDN_OK;
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *c = io->node->name; *c; c++)
        hash = (hash ^ (uint8_t)*c) * 16777619u;
    const tdn_attr seed = tdn_attr_of_float("seed", (float)(hash >> 8));
    return tdn_node_set_attr(io->graph, io->node, &seed) ? TDN_OK
                                                         : tdn_fail_nomem(io->error, "attributes");
}

static tdn_status random_infer(tdn_infer *io)
{
    int n;
    tdn_dtype dtype;
    const int64_t *dims = tdn_attr_ints(&io->node->attrs, "shape", &n);
    TDN_TRY(set_seed(io));
    TDN_NEED(io, n <= TDN_MAX_RANK, "attribute 'shape' has too many integers");
    TDN_TRY(tdn_infer_dtype_named(io, "dtype", TDN_F32, &dtype));
    const tdn_shape y = tdn_shape_make(n, dims);
    return tdn_infer_set(io, 0, dtype, &y);
}

static tdn_status random_like_infer(tdn_infer *io)
{
    tdn_dtype dtype;
    TDN_TRY(set_seed(io));
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype_named(io, "dtype", io->node->in[0]->dtype, &dtype));
    return tdn_infer_set(io, 0, dtype, &io->node->in[0]->shape);
}

static tdn_status multinomial_infer(tdn_infer *io)
{
    tdn_dtype dtype;
    TDN_TRY(set_seed(io));
    TDN_TRY(tdn_infer_rank(io, 0, 2, 2));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    TDN_TRY(tdn_infer_dtype_named(io, "dtype", TDN_S32, &dtype));
    TDN_NEED(io, io->node->in[0]->shape.dims[1] > 0, "there are no classes to draw");
    const int64_t dims[2] = {io->node->in[0]->shape.dims[0],
                             tdn_attr_int(&io->node->attrs, "sample_size", 1)};
    const tdn_shape y = tdn_shape_make(2, dims);
    return tdn_infer_set(io, 0, dtype, &y);
}

#define ROW(name_, since_, n_in_)                                                                  \
    .name = name_, .domain = "", .since = since_, .n_in_min = n_in_, .n_in_max = n_in_,            \
    .n_out_min = 1, .n_out_max = 1, .flops = tdn_flops_none

const tdn_op_def tdn_ops_shape[] = {
    {ROW("Shape", 1, 1), .infer = shape_infer, .of_shape = true},
    {ROW("Size", 1, 1), .infer = size_infer, .of_shape = true},
    {ROW("ConstantOfShape", 9, 1), .infer = constant_of_shape_infer},
    {ROW("Constant", 1, 0), .infer = constant_infer},
    {ROW("Range", 11, 3), .infer = range_infer},
    {ROW("NonZero", 9, 1), .infer = non_zero_infer},
    {ROW("RandomNormal", 1, 0), .infer = random_infer, .random = true},
    {ROW("RandomUniform", 1, 0), .infer = random_infer, .random = true},
    {ROW("RandomNormalLike", 1, 1), .infer = random_like_infer, .random = true},
    {ROW("RandomUniformLike", 1, 1), .infer = random_like_infer, .random = true},
    {ROW("Bernoulli", 15, 1), .infer = random_like_infer, .random = true},
    {ROW("Multinomial", 7, 1), .infer = multinomial_infer, .random = true},
    {0},
};
