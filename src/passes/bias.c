/* SPDX-License-Identifier: Apache-2.0 */
/* A convolution's bias becomes a map after it: one form for all that follows a convolution. The
 * epilogue pass brings it back, together with whatever else follows. */
#include "base/status.h"
#include "ops/emit.h"
#include "passes/passes.h"

/* The bias as (M, 1, 1): a constant over the same data, or a reshape. */
static tdn_value *as_column(tdn_infer *io, tdn_value *bias, int n_spatial)
{
    int64_t dims[TDN_MAX_RANK] = {bias->shape.dims[0], 1, 1, 1, 1, 1, 1, 1};
    tdn_shape shape = tdn_shape_make(1 + n_spatial, dims);
    if (bias->kind == TDN_VALUE_CONST)
        return tdn_graph_const(io->graph, NULL, bias->dtype, &shape, bias->data);
    return tdn_emit_reshape(io, bias, &shape);
}

static tdn_status split(tdn_graph *g, tdn_node *conv, tdn_error *error)
{
    tdn_infer io = {g, conv, g->opset, error};
    tdn_value *y = conv->out[0];
    tdn_value *bias = as_column(&io, conv->in[2], y->shape.rank - 2);
    if (!bias)
        return tdn_fail_nomem(error, "a bias");
    tdn_node_set_input(conv, 2, NULL);
    conv->n_in = conv->n_own_in = 2;
    tdn_expr add = {0};
    tdn_expr_store(
        &add, tdn_expr_add(&add, TDN_X_ADD, tdn_expr_input(&add, 0), tdn_expr_input(&add, 1), 0),
        0);
    tdn_value *sum = tdn_value_follow(g, y);
    if (!sum)
        return tdn_fail_nomem(error, "a bias");
    tdn_node *map = tdn_graph_node(g, conv->next, tdn_op_find("tendon", "Map", 1), NULL,
                                   (tdn_value *[]){y, bias}, 2, &sum, 1);
    tdn_expr *expr = tdn_arena_alloc(g->arena, 1, sizeof *expr);
    if (!map || !expr)
        return tdn_fail_nomem(error, "a bias");
    *expr = add;
    map->expr = expr;
    map->origin = conv->origin;
    return TDN_OK;
}

tdn_status tdn_pass_bias(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first; n; n = n->next)
        if (n->op->core == TDN_CORE_CONV && n->n_in > 2 && n->in[2] && n->out[0]->dtype == TDN_F32)
            TDN_TRY(split(g, n, error));
    return TDN_OK;
}
