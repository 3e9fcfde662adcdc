/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slice along spatial axes that is the only reader of a convolution's result narrows the
 * convolution instead: what would be cut off is not computed. Causal convolutions are exported as
 * padding on both sides and a slice.
 */
#include <string.h>

#include "base/status.h"
#include "passes/passes.h"

/* New pads of the convolution (begins then ends), or false where the slice cannot be
 * said by them. */
static bool narrowed_pads(const tdn_node *conv, const tdn_node *slice, int64_t *pads)
{
    int n_pads, n_strides, n_dilations, rank;
    const int64_t *old = tdn_attr_ints(&conv->attrs, "pads", &n_pads);
    const int64_t *strides = tdn_attr_ints(&conv->attrs, "strides", &n_strides);
    const int64_t *dilations = tdn_attr_ints(&conv->attrs, "dilations", &n_dilations);
    const int64_t *starts = tdn_attr_ints(&slice->attrs, "starts", &rank);
    const tdn_shape *x = &conv->in[0]->shape, *w = &conv->in[1]->shape;
    const tdn_shape *y = &conv->out[0]->shape, *z = &slice->out[0]->shape;
    int n = x->rank - 2;
    if (n_pads != 2 * n || n_strides != n || n_dilations != n || rank != x->rank)
        return false;
    if (y->dims[0] != z->dims[0] || y->dims[1] != z->dims[1])
        return false;
    for (int i = 0; i < n; i++) {
        int64_t extent = z->dims[2 + i];
        if (extent < 1)
            return false;
        pads[i] = old[i] - starts[2 + i] * strides[i];
        int64_t reach = (extent - 1) * strides[i] + dilations[i] * (w->dims[2 + i] - 1) + 1;
        int64_t end = reach - pads[i] - x->dims[2 + i];
        pads[n + i] = end > 0 ? end : 0; /* input at the end may stay unread */
        if (pads[i] < 0)
            return false;
    }
    return true;
}

static bool is_forward_slice(const tdn_node *n)
{
    int rank;
    const int64_t *steps = tdn_attr_ints(&n->attrs, "steps", &rank);
    for (int i = 0; i < rank; i++)
        if (steps[i] != 1)
            return false;
    return n->op->core == TDN_CORE_SLICE;
}

tdn_status tdn_pass_narrow_conv(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        tdn_node *conv = n->n_in ? n->in[0] ? n->in[0]->producer : NULL : NULL;
        int64_t pads[2 * TDN_MAX_RANK];
        if (!is_forward_slice(n) || !conv || conv->op->core != TDN_CORE_CONV ||
            n->in[0]->n_uses != 1 || n->in[0]->output >= 0 || !narrowed_pads(conv, n, pads))
            continue;
        if (!tdn_node_set_ints(g, conv, "pads", pads, 2 * (conv->in[0]->shape.rank - 2)))
            return tdn_fail_nomem(error, "a convolution");
        conv->origin = tdn_origin_join(g, conv->origin, n->origin);
        conv->out[0] = n->out[0]; /* the slice's value is the convolution's now */
        conv->out[0]->producer = conv;
        n->out[0] = NULL;
        tdn_graph_remove(g, n);
    }
    return TDN_OK;
}
