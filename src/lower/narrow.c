/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products of integers and of halves as steps of the families iconv and hconv: a convolution as it
 * is, a product of matrices as one of a single tap, whose pixels are the rows. Rows of bytes are
 * read in words of four, so channels are filled up to that.
 */
#include <string.h>

#include "base/status.h"
#include "lower/lowering.h"

static int32_t zero_of(const tdn_node *n)
{
    if (n->n_own_in < 3)
        return 0;
    const tdn_view zero = tdn_value_view(n->in[2]);
    return (int32_t)tdn_view_get_int(&zero, 0);
}

static bool is_usual(const tdn_node *n)
{
    const tdn_value *w = n->in[1];
    if (tdn_node_is_of_halves(n))
        return w->dtype == n->in[0]->dtype && w->kind == TDN_VALUE_CONST;
    return n->in[0]->dtype == TDN_U8 && w->dtype == TDN_S8 && w->kind == TDN_VALUE_CONST &&
           (n->n_own_in < 3 || (n->in[2]->kind == TDN_VALUE_CONST && n->in[2]->dtype == TDN_U8));
}

/* The left operand, its rows along `axis`. */
static tdn_status place_rows(tdn_lowering *l, const tdn_node *n, int axis, tdn_place *x)
{
    return tdn_node_is_of_halves(n) ? tdn_place_unit(l, n->in[0], axis, x)
                                    : tdn_place_words(l, n->in[0], axis, x);
}

/* Channels that a kernel reads of a row of n. */
static int64_t whole_words(const tdn_node *node, int64_t n)
{
    return tdn_node_is_of_halves(node) ? n : (n + 3) / 4 * 4;
}

/* The group: `x` and the result as (n, d, h, w, channels) by now, weights to be shaped as dims say.
 */
static tdn_status make_step(tdn_lowering *l, const tdn_node *n, const tdn_iconv_desc *desc,
                            const tdn_place *x, const tdn_view *weights, const tdn_place *extra,
                            int n_extra, const tdn_place *canonical, const tdn_place *out,
                            const tdn_place *result)
{
    tdn_place in[2] = {*x};
    TDN_TRY(tdn_place_of(l, n->in[1], &in[1]));
    in[1].view = *weights;
    const bool halves = tdn_node_is_of_halves(n); /* their description is where the other begins */
    const tdn_status status = tdn_step_make(l, halves ? "hconv" : "iconv", desc, in, 2, extra,
                                            n_extra, canonical, 1, n->expr);
    return tdn_lower_finish(l, n, status, out, result);
}

tdn_status tdn_lower_narrow_conv(tdn_lowering *l, const tdn_node *n)
{
    const tdn_value *w = n->in[1];
    const int n_spatial = n->out[0]->shape.rank - 2;
    int n_extra = 0;
    if (!is_usual(n) || n_spatial < 1 || n_spatial > 3)
        return tdn_lower_reference(l, n, "it is of other types, or of more than three axes");
    tdn_place x, extra[TDN_EXPR_MAX_IN], out, result, canonical;
    TDN_TRY(place_rows(l, n, 1, &x));
    TDN_TRY(tdn_lower_channels_result(l, n, &out, &result));
    if (n->expr)
        TDN_TRY(tdn_lower_extras(l, n, extra, &n_extra));
    tdn_iconv_desc desc = {.conv.group = (int32_t)tdn_attr_int(&n->attrs, "group", 1),
                           .x_zero = zero_of(n)};
    tdn_lower_window(n, desc.conv.stride, desc.conv.dilation, desc.conv.pad);
    tdn_lower_channels_last(&x);
    if (desc.conv.group == 1)
        x.view.dims[4] = whole_words(n, x.view.dims[4]);
    canonical = out;
    tdn_lower_channels_last(&canonical);
    for (int i = 0; i < n_extra; i++)
        tdn_lower_channels_last(&extra[i]);
    int64_t dims[5] = {w->shape.dims[0], w->shape.dims[1], 1, 1, 1};
    for (int i = 0; i < n_spatial; i++)
        dims[5 - n_spatial + i] = w->shape.dims[2 + i];
    const tdn_view weights = tdn_view_make((void *)(uintptr_t)w->data, w->dtype, 5, dims);
    return make_step(l, n, &desc, &x, &weights, extra, n_extra, &canonical, &out, &result);
}

/* (k, n) as the weights (n, k, 1, 1, 1) of a convolution. */
static bool turned(tdn_lowering *l, const tdn_value *w, tdn_view *weights)
{
    const int64_t k = w->shape.dims[0], n = w->shape.dims[1];
    const int64_t dims[5] = {n, k, 1, 1, 1};
    const size_t size = tdn_dtype_size(w->dtype, 1);
    const char *from = w->data;
    char *to = tdn_arena_alloc_data(l->arena, (size_t)(k * n) * size + 1);
    for (int64_t i = 0; to && i < n; i++)
        for (int64_t j = 0; j < k; j++)
            memcpy(to + (size_t)(i * k + j) * size, from + (size_t)(j * n + i) * size, size);
    *weights = tdn_view_make(to, w->dtype, 5, dims);
    return to != NULL;
}

tdn_status tdn_lower_narrow_matmul(tdn_lowering *l, const tdn_node *n)
{
    enum { RANK = 5 };
    const tdn_shape *xs = &n->in[0]->shape, *s = &n->out[0]->shape;
    int n_extra = 0;
    if (!is_usual(n) || xs->rank > RANK || n->in[1]->shape.rank != 2)
        return tdn_lower_reference(l, n, "it is of other types, or of more than four axes of rows");
    tdn_place x, extra[TDN_EXPR_MAX_IN], out, result, canonical;
    tdn_view weights;
    TDN_TRY(place_rows(l, n, xs->rank - 1, &x));
    TDN_TRY(tdn_place_result(l, n->out[0], NULL, &result));
    out = result;
    const int last = s->rank - 1;
    if (out.view.strides[last] != 1 && s->dims[last] != 1)
        TDN_TRY(tdn_place_new(l, n->out[0]->dtype, s->rank, s->dims, NULL, &out));
    if (n->expr)
        TDN_TRY(tdn_lower_extras(l, n, extra, &n_extra));
    if (!turned(l, n->in[1], &weights))
        return tdn_fail_nomem(l->error, "weights");
    const tdn_iconv_desc desc = {.conv = {.stride = {1, 1, 1}, .dilation = {1, 1, 1}, .group = 1},
                                 .x_zero = zero_of(n)};
    tdn_place_lead(&x, RANK);
    x.view.strides[4] = 1;
    x.view.dims[4] = whole_words(n, x.view.dims[4]);
    canonical = out;
    tdn_place_lead(&canonical, RANK);
    canonical.view.strides[4] = 1;
    for (int i = 0; i < n_extra; i++)
        tdn_place_lead(&extra[i], RANK);
    return make_step(l, n, &desc, &x, &weights, extra, n_extra, &canonical, &out, &result);
}
