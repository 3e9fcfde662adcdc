/* SPDX-License-Identifier: Apache-2.0 */
/* Removes nodes whose results nobody reads; from the end, so that one walk is enough. */
#include "base/status.h"
#include "passes/passes.h"

tdn_status tdn_pass_drop_dead(tdn_graph *g, tdn_error *error)
{
    (void)error;
    for (tdn_node *n = g->last, *prev; n; n = prev) {
        prev = n->prev;
        bool used = false;
        for (int i = 0; i < n->n_out; i++)
            used |= n->out[i] && n->out[i]->n_uses > 0;
        if (!used)
            tdn_graph_remove(g, n);
    }
    return TDN_OK;
}
