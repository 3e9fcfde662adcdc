/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An expression of one value, behind reshapes and transposes of what another operator made, is
 * taken right behind that operator, where it becomes a part of it: the scale of queries and keys
 * of an attention, written after they were split into heads, goes into the weights that project
 * them. Not where a map reads the result, which may take it in itself.
 */
#include "base/status.h"
#include "passes/passes.h"

static bool takes_maps_in(const tdn_node *n)
{
    return n && n->n_out == 1 && (n->op->core == TDN_CORE_MAP || tdn_core_takes_epilogue(n));
}

/* Who reads the result is asked last: that walks the graph. */
static bool is_early(tdn_graph *g, const tdn_node *n, tdn_traced *from)
{
    if (n->op->core != TDN_CORE_MAP || n->n_in != 1 || n->n_out != 1 || n->out[0]->output >= 0 ||
        n->in[0]->dtype != TDN_F32 || n->out[0]->dtype != TDN_F32 ||
        !tdn_trace_views(n->in[0], from) || from->of == n->in[0] || from->is_sliced ||
        !from->is_alone || !takes_maps_in(from->of->producer))
        return false;
    const tdn_node *reader = tdn_value_only_user(g, n->out[0]);
    return reader && reader->op->core != TDN_CORE_MAP;
}

tdn_status tdn_pass_map_early(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        tdn_traced from;
        if (!is_early(g, n, &from))
            continue;
        tdn_node *maker = from.of->producer;
        tdn_value *made = tdn_value_follow(g, from.of);
        tdn_node *map =
            made ? tdn_graph_node(g, maker->next, n->op, NULL, &from.of, 1, &made, 1) : NULL;
        if (!map)
            return tdn_fail_nomem(error, "a map");
        map->expr = n->expr;
        map->origin = n->origin;
        tdn_graph_replace(g, n->out[0], n->in[0]);
        tdn_graph_remove(g, n);
    }
    return TDN_OK;
}
