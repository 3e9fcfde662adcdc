/* SPDX-License-Identifier: Apache-2.0 */
/* Tidies the inputs of maps: scalar constants move into the expression, an input that stands twice
 * is read once. */
#include <string.h>

#include "base/status.h"
#include "passes/passes.h"

static bool is_scalar_const(const tdn_value *v)
{
    return v->kind == TDN_VALUE_CONST && (v->dtype == TDN_F32 || v->dtype == TDN_BOOL) &&
           tdn_shape_count(&v->shape) == 1;
}

static bool tidy(tdn_graph *g, tdn_node *n)
{
    tdn_expr *e = tdn_arena_alloc(g->arena, 1, sizeof *e);
    tdn_value *kept[TDN_EXPR_MAX_IN];
    int map[TDN_EXPR_MAX_IN], results[TDN_EXPR_MAX_OUT], n_kept = 0;
    if (!e || n->n_in > TDN_EXPR_MAX_IN)
        return e != NULL;
    for (int i = 0; i < n->n_in; i++) {
        tdn_value *v = n->in[i];
        if (is_scalar_const(v)) {
            tdn_view view = tdn_value_view(v);
            map[i] = tdn_expr_const(e, (float)tdn_view_get(&view, 0));
            continue;
        }
        int k = 0;
        while (k < n_kept && kept[k] != v)
            k++;
        kept[k] = v;
        n_kept += k == n_kept;
        map[i] = tdn_expr_input(e, k);
    }
    if (!tdn_expr_inline(e, n->expr, map, results))
        return true; /* too long: leave it */
    for (int k = 0; k < n->expr->n_out; k++)
        if (!tdn_expr_store(e, results[k], k))
            return true;
    e->n_in = (uint16_t)n_kept;
    for (int i = 0; i < n->n_in; i++)
        tdn_node_set_input(n, i, i < n_kept ? kept[i] : NULL);
    n->n_in = n->n_own_in = n_kept;
    n->expr = e;
    return true;
}

tdn_status tdn_pass_map_constants(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first; n; n = n->next) {
        if (n->op->core != TDN_CORE_MAP)
            continue;
        bool needed = false;
        for (int i = 0; i < n->n_in; i++) {
            needed |= is_scalar_const(n->in[i]);
            for (int k = 0; k < i; k++)
                needed |= n->in[k] == n->in[i];
        }
        if (needed && !tidy(g, n))
            return tdn_fail_nomem(error, "an expression");
    }
    return TDN_OK;
}
