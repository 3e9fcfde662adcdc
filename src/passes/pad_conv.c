/* SPDX-License-Identifier: Apache-2.0 */
/* Zeros put around the spatial axes of a convolution's input become its own padding: nothing is
 * copied. Causal convolutions are exported as a Pad on the left and a convolution without. */
#include "base/status.h"
#include "passes/passes.h"

static bool pads_space_with_zeros(const tdn_node *n)
{
    int count;
    const int64_t *pads = tdn_attr_ints(&n->attrs, "pads", &count);
    const int rank = n->out[0]->shape.rank;
    return n->op->core == TDN_CORE_PAD && count == 2 * rank && rank > 2 &&
           tdn_attr_float(&n->attrs, "value", 0) == 0 && n->in[0]->dtype == TDN_F32 &&
           pads[0] == 0 && pads[1] == 0 && pads[rank] == 0 && pads[rank + 1] == 0;
}

tdn_status tdn_pass_pad_conv(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first; n; n = n->next) {
        const tdn_node *pad = n->op->core == TDN_CORE_CONV ? n->in[0]->producer : NULL;
        if (!pad || !pads_space_with_zeros(pad))
            continue;
        int count, n_own;
        const int rank = n->out[0]->shape.rank, n_spatial = rank - 2;
        const int64_t *more = tdn_attr_ints(&pad->attrs, "pads", &count);
        const int64_t *own = tdn_attr_ints(&n->attrs, "pads", &n_own);
        int64_t pads[2 * TDN_MAX_RANK];
        if (n_own != 2 * n_spatial)
            continue;
        for (int i = 0; i < n_spatial; i++) {
            pads[i] = own[i] + more[2 + i];
            pads[n_spatial + i] = own[n_spatial + i] + more[rank + 2 + i];
        }
        if (!tdn_node_set_ints(g, n, "pads", pads, 2 * n_spatial))
            return tdn_fail_nomem(error, "a convolution");
        n->origin = tdn_origin_join(g, pad->origin, n->origin);
        tdn_node_set_input(n, 0, pad->in[0]);
    }
    return TDN_OK;
}
