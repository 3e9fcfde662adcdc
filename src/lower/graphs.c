/* SPDX-License-Identifier: Apache-2.0 */
/* Canonical forms of operators over the edges of a constant graph. */
#include <string.h>

#include "base/status.h"
#include "lower/lowering.h"

/* ---- Mix ----------------------------------------------------------------------------------- */

/* Where the kept axis that is to be innermost is contiguous; else a copy with the longest one
 * innermost. */
static tdn_status mix_input(tdn_lowering *l, const tdn_node *n, int n_kept, tdn_place *x,
                            int *inner)
{
    TDN_TRY(tdn_place_of(l, n->in[0], x));
    *inner = 0;
    for (int i = 0; i < n_kept; i++) {
        if (x->view.strides[i] == 1 && x->view.dims[i] > 1) {
            *inner = i;
            return TDN_OK;
        }
        if (x->view.dims[i] > x->view.dims[*inner])
            *inner = i;
    }
    int order[TDN_MAX_RANK], rank = 0;
    for (int i = 0; i < x->view.rank; i++)
        if (i != *inner)
            order[rank++] = i;
    order[rank] = *inner;
    tdn_place from = *x;
    TDN_TRY(tdn_place_new(l, TDN_F32, from.view.rank, from.view.dims, order, x));
    return tdn_step_copy(l, &from, x);
}

/* Axes of extent 1 leave the list, and axes that lie together in all places are joined; false
 * where more than `most` are left. The places' views change, the list says which axes count. */
static bool shorten(tdn_place **places, int n_places, int *axes, int *n_axes, int most)
{
    int n = 0;
    for (int i = 0; i < *n_axes; i++) {
        const int a = axes[i], before = n ? axes[n - 1] : -1;
        if (places[0]->view.dims[a] == 1)
            continue;
        bool joins = n > 0;
        for (int k = 0; k < n_places && joins; k++) {
            const tdn_view *v = &places[k]->view;
            joins = v->strides[before] == v->strides[a] * v->dims[a];
        }
        for (int k = 0; k < n_places && joins; k++) {
            places[k]->view.strides[before] = places[k]->view.strides[a];
            places[k]->view.dims[before] *= places[k]->view.dims[a];
        }
        if (!joins)
            axes[n++] = a;
    }
    *n_axes = n;
    return n <= most;
}

/* A view of these axes; -1: one of extent 1. */
static void pick_axes(tdn_place *p, const int *axes, int rank)
{
    const tdn_view v = p->view;
    p->view.rank = rank;
    for (int i = 0; i < rank; i++) {
        p->view.dims[i] = axes[i] < 0 ? 1 : v.dims[axes[i]];
        p->view.strides[i] = axes[i] < 0 ? 0 : v.strides[axes[i]];
    }
}

/* The axes of a list at the end of `room` places, -1 before them. */
static void put_last(int *to, int room, const int *axes, int n)
{
    for (int i = 0; i < room; i++)
        to[i] = i < room - n ? -1 : axes[i - (room - n)];
}

tdn_status tdn_lower_mix(tdn_lowering *l, const tdn_node *n)
{
    const tdn_shape *s = &n->out[0]->shape;
    const int kept = s->rank - 1;
    const tdn_value *w = n->in[1];
    if (!tdn_lower_is_f32(n) || w->kind != TDN_VALUE_CONST || kept < 1 ||
        n->in[0]->shape.rank == kept)
        return tdn_lower_reference(l, n, "a sparse product needs float32 and a constant matrix");
    tdn_place in[2], extra[TDN_EXPR_MAX_IN], out, result;
    int inner, n_extra = 0, order_in[TDN_MAX_RANK], order[TDN_MAX_RANK], n_order = 0;
    bool placed = false;
    TDN_TRY(mix_input(l, n, kept, &in[0], &inner));
    TDN_TRY(tdn_place_of(l, w, &in[1]));
    in[1].view.data = (void *)w->data;
    tdn_order_of(&in[0], order_in);
    for (int i = 0; i < in[0].view.rank; i++) { /* the result lies as the input does */
        if (order_in[i] < kept)
            order[n_order++] = order_in[i];
        else if (!placed)
            order[n_order++] = kept;
        placed |= order_in[i] >= kept;
    }
    TDN_TRY(tdn_place_result(l, n->out[0], order, &result));
    out = result;
    if (out.view.strides[inner] != 1 && out.view.dims[inner] != 1)
        TDN_TRY(tdn_place_new(l, TDN_F32, s->rank, s->dims, order, &out));
    if (n->expr)
        TDN_TRY(tdn_lower_extras(l, n, extra, &n_extra));
    tdn_place canonical = out, *all[TDN_EXPR_MAX_IN + 2] = {&in[0], &canonical};
    for (int i = 0; i < n_extra; i++)
        all[2 + i] = &extra[i];
    int outer[TDN_MAX_RANK], sums[TDN_MAX_RANK], n_outer = 0, n_sums = 0;
    for (int i = 0; i < in[0].view.rank; i++)
        if (i >= kept)
            sums[n_sums++] = i;
        else if (i != inner)
            outer[n_outer++] = i;
    tdn_place *x = &in[0];
    if (!shorten(all, 2 + n_extra, outer, &n_outer, 3) || !shorten(&x, 1, sums, &n_sums, 2))
        return tdn_lower_reference(l, n, "its axes do not join");
    int of_in[6] = {[5] = inner}, of_out[5] = {[3] = kept, [4] = inner};
    put_last(of_in, 3, outer, n_outer);
    put_last(of_in + 3, 2, sums, n_sums);
    put_last(of_out, 3, outer, n_outer);
    pick_axes(&in[0], of_in, 6);
    for (int i = 1; i < 2 + n_extra; i++)
        pick_axes(all[i], of_out, 5);
    tdn_status status =
        tdn_step_make(l, "mix", NULL, in, 2, extra, n_extra, &canonical, 1, n->expr);
    return tdn_lower_finish(l, n, status, &out, &result);
}

/* ---- Graph convolution ----------------------------------------------------------------------- */

tdn_status tdn_lower_graphconv(tdn_lowering *l, const tdn_node *n)
{
    const tdn_shape *s = &n->out[0]->shape, *a = &n->in[2]->shape;
    for (int i = 1; i < 4; i++)
        if (n->in[i]->kind != TDN_VALUE_CONST)
            return tdn_lower_reference(l, n, "its weights and its graph must be constants");
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i]->dtype != TDN_F32)
            return tdn_lower_reference(l, n, "a graph convolution needs float32");
    tdn_place in[3], extra[TDN_EXPR_MAX_IN], out, result;
    int n_extra = 0, order[4];
    TDN_TRY(tdn_place_unit(l, n->in[0], 1, &in[0]));
    TDN_TRY(tdn_place_of(l, n->in[1], &in[1]));
    TDN_TRY(tdn_place_of(l, n->in[3], &in[2]));
    in[1].view.data = (void *)n->in[1]->data;
    in[2].view.data = (void *)n->in[3]->data;
    tdn_order_channels_last(4, order);
    TDN_TRY(tdn_place_result(l, n->out[0], order, &result));
    out = result;
    if (out.view.strides[1] != 1 && s->dims[1] != 1)
        TDN_TRY(tdn_place_new(l, n->out[0]->dtype, 4, s->dims, order, &out));
    if (n->expr)
        TDN_TRY(tdn_lower_extras(l, n, extra, &n_extra));
    tdn_place canonical = out;
    static const int nodes_last[5] = {0, -1, 2, 3, 1}; /* (n, 1, time, node, c) */
    pick_axes(&in[0], nodes_last, 5);
    pick_axes(&canonical, nodes_last, 5);
    for (int i = 0; i < n_extra; i++)
        pick_axes(&extra[i], nodes_last, 5);
    const tdn_graphconv_desc desc = {.adjacency = n->in[2]->data,
                                     .n_kinds = (int32_t)a->dims[0],
                                     .n_from = (int32_t)a->dims[1],
                                     .n_to = (int32_t)a->dims[2]};
    const tdn_status status =
        tdn_step_make(l, "graphconv", &desc, in, 3, extra, n_extra, &canonical, 1, n->expr);
    return tdn_lower_finish(l, n, status, &out, &result);
}
