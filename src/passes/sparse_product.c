/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A matrix product with a constant matrix of mostly zeros becomes a Mix: each output is a few
 * scaled inputs, and no operand is brought into rows. Einsums with the adjacency of a graph are
 * such: what they contract is several axes, which a transpose and a reshape have gathered; Mix
 * takes them as they are. Only products whose left operand would have to be gathered so: one whose
 * rows lie ready is faster as it is, until it is very sparse.
 */
#include "base/status.h"
#include "ops/emit.h"
#include "passes/passes.h"

enum { DENSITY_LIMIT = 5 }; /* at most a fifth is not zero */

static bool is_sparse(const tdn_value *w)
{
    if (w->kind != TDN_VALUE_CONST || w->dtype != TDN_F32 || w->shape.rank != 2)
        return false;
    const int64_t n = tdn_shape_count(&w->shape);
    int64_t n_entries = 0;
    for (int64_t i = 0; i < n; i++)
        n_entries += ((const float *)w->data)[i] != 0;
    return n > 0 && n_entries <= n / DENSITY_LIMIT;
}

/* How many of the last axes of x the reshape to rows of k gathers; 0: none do. */
static int gathered_axes(const tdn_shape *x, int64_t k)
{
    int64_t product = 1;
    for (int i = x->rank - 1; i > 0; i--) {
        product *= x->dims[i];
        if (product == k && (i == 1 || x->dims[i - 1] != 1))
            return x->rank - i;
        if (product > k)
            return 0;
    }
    return 0;
}

/* x, not yet gathered; NULL where the product's rows lie ready. */
static tdn_value *source_of(const tdn_node *n)
{
    tdn_node *reshape = n->in[0]->producer;
    if (!reshape || reshape->op->core != TDN_CORE_RESHAPE || reshape->in[0]->dtype != TDN_F32)
        return NULL;
    const tdn_node *transpose = reshape->in[0]->producer;
    return transpose && transpose->op->core == TDN_CORE_TRANSPOSE ? reshape->in[0] : NULL;
}

static tdn_status rewrite(tdn_graph *g, tdn_node *n, tdn_value *x, int n_axes, tdn_error *error)
{
    tdn_infer io = tdn_infer_at(g, n, error);
    tdn_value *in[2] = {x, n->in[1]};
    const tdn_attr attr = tdn_attr_of_int("n_axes", n_axes);
    tdn_value *mixed = tdn_emit(&io, "tendon", "Mix", in, 2, &attr, 1);
    const tdn_shape y = n->out[0]->shape;
    TDN_TRY(tdn_emit_end(&io, tdn_emit_reshape(&io, mixed, &y)));
    tdn_graph_remove(g, n);
    return TDN_OK;
}

tdn_status tdn_pass_sparse_product(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        if (n->op->core != TDN_CORE_MATMUL || n->expr || n->in[0]->shape.rank < 2 ||
            n->out[0]->dtype != TDN_F32 || !is_sparse(n->in[1]))
            continue;
        tdn_value *x = source_of(n);
        const int n_axes = x ? gathered_axes(&x->shape, n->in[1]->shape.dims[0]) : 0;
        if (n_axes > 0)
            TDN_TRY(rewrite(g, n, x, n_axes, error));
    }
    return TDN_OK;
}
