/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What convolutions of floats and of integers share: the checks of their operands, and the plan of
 * a convolution as a matrix product. A term of its sum is a channel, or some channels of integers.
 */
#include <string.h>

#include "backend/cpu/matrix.h"

enum {
    MERGE_TERMS = 16, /* of a pixel: below, the taps along w are one */
    MAX_PARAMETER = 1 << 20,
    MAX_BORDER_TERMS = 1 << 18,
    DEPTHWISE_TILE_FLOPS = 1 << 17
};

bool tdn_conv_is_depthwise(const tdn_conv_desc *d, const tdn_view *x, const tdn_view *out)
{
    return d->group == x->dims[4] && d->group == out->dims[4] && d->group > 1;
}

tdn_status tdn_conv_check_desc(const tdn_conv_desc *d, const int32_t kernel[3], const tdn_view *x,
                               tdn_dtype x_dtype, const tdn_view *out, tdn_dtype out_dtype,
                               tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_view(x, 5, x_dtype, "the input of a convolution", error));
    TDN_TRY(tdn_cpu_check_view(out, 5, out_dtype, "the output of a convolution", error));
    if ((x->strides[4] != 1 && x->dims[4] != 1) || (out->strides[4] != 1 && out->dims[4] != 1))
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "a convolution over channels that are not contiguous");
    if (x->dims[0] != out->dims[0] || x->dims[4] < 1 || d->group < 1 || x->dims[4] % d->group ||
        out->dims[4] % d->group)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a convolution whose dims do not fit");
    for (int i = 0; i < 3; i++)
        if (kernel[i] < 1 || kernel[i] > MAX_PARAMETER || d->stride[i] < 1 ||
            d->stride[i] > MAX_PARAMETER || d->dilation[i] < 1 || d->dilation[i] > MAX_PARAMETER ||
            d->pad[i] < 0 || d->pad[i] > MAX_PARAMETER)
            return tdn_fail(error, TDN_E_UNSUPPORTED,
                            "a convolution's kernel, stride, dilation or pad is out of range");
    return TDN_OK;
}

tdn_status tdn_conv_check_weights(const tdn_group *g, const tdn_conv_desc *d, tdn_dtype dtype,
                                  tdn_error *error)
{
    const tdn_view *w = &g->in[1];
    TDN_TRY(tdn_cpu_check_view(w, 5, dtype, "the weights of a convolution", error));
    if (!w->data || !tdn_view_is_dense(w))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a convolution whose weights are not constant");
    if (g->in[0].rank != 5 || g->out[0].rank != 5 || d->group < 1 ||
        w->dims[0] != g->out[0].dims[4] || w->dims[1] < 1 ||
        w->dims[1] > g->in[0].dims[4] / d->group)
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "a convolution's weights do not fit its operands");
    for (int i = 2; i < 5; i++)
        if (w->dims[i] < 1 || w->dims[i] > MAX_PARAMETER)
            return tdn_fail(error, TDN_E_UNSUPPORTED, "a convolution's kernel is out of range");
    return TDN_OK;
}

/* How many of out's positions along w reach into the padding. */
static int64_t border_width(const tdn_conv_args *a, const tdn_view *x, const tdn_view *out)
{
    const int64_t stride = a->desc.stride[2], pad = a->desc.pad[2], width = out->dims[3];
    const int64_t left = tdn_cpu_min(width, tdn_cpu_div_up(pad, stride));
    const int64_t room = x->dims[3] - a->kernel[2] + pad;
    const int64_t right_from = room < 0 ? 0 : tdn_cpu_min(width, room / stride + 1);
    return left + width - tdn_cpu_max(left, right_from);
}

static bool try_tiling(tdn_conv_args *a, const tdn_kernel *kernel, const tdn_view *x,
                       const tdn_view *out, int n_in_term)
{
    const int64_t group = a->desc.group, terms = x->dims[4] / group / n_in_term;
    const int64_t n_outer_taps = (int64_t)a->kernel[0] * a->kernel[1], kw = a->kernel[2];
    int64_t rows;
    if (!tdn_dims_count(out->dims, 4, &rows) || n_outer_taps > MAX_PARAMETER)
        return false;
    return a->merged ? tdn_tiling_make(&a->tiling, group, rows, out->dims[4] / group, n_outer_taps,
                                       kw * terms, kernel)
                     : tdn_tiling_make(&a->tiling, group, rows, out->dims[4] / group,
                                       n_outer_taps * kw, terms, kernel);
}

/* Terms from one row of the left operand to the next; 1 where they are no whole number. */
static int64_t row_stride(const tdn_conv_args *a, const tdn_view *x, int n_in_term)
{
    const int64_t stride = a->desc.stride[2] * x->strides[3];
    return stride % n_in_term ? 1 : stride / n_in_term;
}

tdn_status tdn_conv_plan(tdn_conv_args *a, const tdn_kernel *kernel, const tdn_view *x,
                         const tdn_view *out, int n_in_term, tdn_error *error)
{
    a->merged = a->desc.group == 1 && a->desc.dilation[2] == 1 && a->kernel[2] > 1 &&
                x->dims[4] <= MERGE_TERMS * n_in_term && x->strides[3] == x->dims[4];
    a->n_border = 0;
    if (a->merged && try_tiling(a, kernel, x, out, n_in_term) && a->tiling.outer > 0) {
        const int64_t max_rows = a->tiling.max_rows,
                      lines = (max_rows + out->dims[3] - 2) / out->dims[3] + 1;
        const int64_t n = tdn_cpu_min(max_rows, lines * border_width(a, x, out));
        a->merged = n * a->tiling.n_taps * a->tiling.k <= MAX_BORDER_TERMS;
        a->n_border = a->merged ? (int32_t)n : 0;
    }
    a->is_half = tdn_cpu_kernel_is(kernel, "conv_f32h");
    if (!try_tiling(a, kernel, x, out, n_in_term))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a convolution that is too large");
    tdn_tiling_set_stride(&a->tiling, row_stride(a, x, n_in_term));
    if (tdn_cpu_kernel_is(kernel, "spconv_f32"))
        tdn_tiling_join_columns(&a->tiling);
    return TDN_OK;
}

tdn_status tdn_conv_check_plan(const tdn_conv_args *args, const tdn_kernel *kernel,
                               const tdn_view *x, const tdn_view *out, int n_in_term,
                               tdn_error *error)
{
    tdn_conv_args wanted = *args;
    TDN_TRY(tdn_conv_plan(&wanted, kernel, x, out, n_in_term, error));
    if (memcmp(&wanted, args, sizeof wanted) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a convolution do not fit its operands");
    return TDN_OK;
}

/* A tile is some lines of output pixels. */
tdn_status tdn_dwconv_plan(tdn_dwconv_args *a, const tdn_view *out, tdn_error *error)
{
    const int64_t dims[] = {out->dims[0], out->dims[1], out->dims[2], out->dims[3],
                            out->dims[4], a->kernel[0], a->kernel[1], a->kernel[2]};
    int64_t products;
    if (!tdn_dims_count(dims, 8, &products) || products > INT64_MAX / 4)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a convolution that is too large");
    a->n_rows = dims[0] * dims[1] * dims[2];
    const int64_t wanted = tdn_cpu_min(32, 2 * products / DEPTHWISE_TILE_FLOPS + 1);
    a->n_row_tiles = products ? (int32_t)tdn_cpu_min(a->n_rows, wanted) : 0;
    return TDN_OK;
}

tdn_status tdn_dwconv_check_plan(const tdn_dwconv_args *args, const tdn_view *x,
                                 const tdn_view *out, int64_t *n_weights, tdn_error *error)
{
    tdn_dwconv_args wanted = *args;
    if (!tdn_conv_is_depthwise(&args->desc, x, out))
        return tdn_fail(error, TDN_E_FORMAT, "a depthwise convolution that is none");
    TDN_TRY(tdn_dwconv_plan(&wanted, out, error));
    if (memcmp(&wanted, args, sizeof wanted) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a convolution do not fit its operands");
    const int64_t dims[] = {out->dims[4], args->kernel[0], args->kernel[1], args->kernel[2]};
    if (!tdn_dims_count(dims, 4, n_weights) || *n_weights > TDN_CPU_MAX_COUNT)
        return tdn_fail(error, TDN_E_FORMAT, "a convolution that is too large");
    return TDN_OK;
}
