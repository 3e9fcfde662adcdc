/* SPDX-License-Identifier: Apache-2.0 */
/* Tidies the inputs of maps: scalar constants move into the expression, as do constants of one
 * repeated number that the others broadcast without (the zeros that a recurrence begins with); an
 * input that stands twice is read once. */
#include <string.h>

#include "base/status.h"
#include "passes/passes.h"

static bool is_scalar_const(const tdn_value *v)
{
    const bool fits =
        v->dtype == TDN_F32 || v->dtype == TDN_BOOL || v->dtype == TDN_U8 || v->dtype == TDN_S8;
    return v->kind == TDN_VALUE_CONST && fits && tdn_shape_count(&v->shape) == 1;
}

static bool repeats_one_number(const tdn_value *v)
{
    if (v->kind != TDN_VALUE_CONST || v->dtype != TDN_F32 || v->shape.bounded)
        return false;
    const float *data = v->data;
    const int64_t n = tdn_shape_count(&v->shape);
    for (int64_t i = 1; i < n; i++)
        if (memcmp(&data[i], &data[0], sizeof *data) != 0)
            return false;
    return n > 0;
}

/* Do the inputs but number `but` have the result's extents? */
static bool broadcasts_without(const tdn_node *n, int but)
{
    const tdn_shape *y = &n->out[0]->shape;
    for (int i = 0; i < y->rank; i++) {
        bool found = y->dims[i] == 1;
        for (int k = 0; k < n->n_in && !found; k++) {
            const tdn_shape *s = &n->in[k]->shape;
            const int at = s->rank - (y->rank - i);
            found = k != but && at >= 0 && s->dims[at] == y->dims[i] &&
                    n->in[k]->kind != TDN_VALUE_CONST;
        }
        if (!found)
            return false;
    }
    return !y->bounded;
}

static bool is_number(const tdn_node *n, int i)
{
    const tdn_value *v = n->in[i];
    return is_scalar_const(v) || (repeats_one_number(v) && n->n_in > 1 && broadcasts_without(n, i));
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
        if (is_number(n, i)) {
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
            needed |= is_number(n, i);
            for (int k = 0; k < i; k++)
                needed |= n->in[k] == n->in[i];
        }
        if (needed && !tidy(g, n))
            return tdn_fail_nomem(error, "an expression");
    }
    return TDN_OK;
}
