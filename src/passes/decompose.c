/* SPDX-License-Identifier: Apache-2.0 */
/* Rewrites composite operators into core ones, by the rule in each operator's row. What a rule
 * inserts stands before the node, and is visited in its turn, since a composite may be made of
 * composites. */
#include "base/status.h"
#include "passes/passes.h"

static bool is_dead(const tdn_node *n)
{
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i] && n->out[i]->n_uses > 0)
            return false;
    return true;
}

tdn_status tdn_pass_decompose(tdn_graph *g, tdn_error *error)
{
    tdn_node *n = g->first;
    while (n) {
        tdn_node *before = n->prev, *after = n->next;
        if (n->op->decompose) {
            tdn_infer io = {g, n, g->opset, error};
            tdn_status status = n->op->decompose(&io);
            if (status != TDN_OK)
                return tdn_fail_while(error, status, "rewriting node '%s' (%s)", n->name,
                                      n->op->name);
            tdn_node *first = before ? before->next : g->first;
            if (first !=
                n) { /* something was inserted: the node is done with, its parts are next */
                bool still = false;
                for (tdn_node *m = first; m != after; m = m->next)
                    still |= m == n;
                if (still && is_dead(n))
                    tdn_graph_remove(g, n);
                n = before ? before->next : g->first;
                continue;
            }
        }
        n = after;
    }
    return TDN_OK;
}
