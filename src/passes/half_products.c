/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A convolution or product of matrices that reads halves as floats, and whose constant weights are
 * marked to be kept as the same type, becomes a product of these.
 */
#include "base/half.h"
#include "base/status.h"
#include "ops/dequantized.h"
#include "passes/passes.h"

static bool is_marked(const tdn_node *n)
{
    const tdn_value *w = n->n_in > 1 ? n->in[1] : NULL;
    return (n->op->core == TDN_CORE_CONV || n->op->core == TDN_CORE_MATMUL) && n->n_own_in == 2 &&
           !n->expr && w->quant && w->quant->n == 0 && w->kind == TDN_VALUE_CONST &&
           w->dtype == TDN_F32;
}

static tdn_value *halves_of(tdn_graph *g, const tdn_value *w, tdn_dtype half)
{
    const int64_t n = tdn_shape_count(&w->shape);
    const float *from = w->data;
    uint16_t *to = tdn_arena_alloc_data(g->arena, ((size_t)n + 1) * sizeof *to);
    for (int64_t i = 0; to && i < n; i++)
        to[i] = tdn_f32_to_half(from[i], half);
    return to ? tdn_graph_const(g, w->name, half, &w->shape, to) : NULL;
}

tdn_status tdn_pass_half_products(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first; n; n = n->next) {
        tdn_dequantized x;
        if (!is_marked(n) || !tdn_value_is_dequantized(n->in[0], &x) ||
            x.q->dtype != n->in[1]->quant->half)
            continue;
        tdn_value *w = halves_of(g, n->in[1], x.q->dtype);
        if (!w)
            return tdn_fail_nomem(error, "weights");
        const bool is_conv = n->op->core == TDN_CORE_CONV;
        tdn_node_set_input(n, 0, x.q);
        tdn_node_set_input(n, 1, w);
        n->op = tdn_op_find("tendon", is_conv ? "HalfConv" : "HalfMatMul", 1);
    }
    return TDN_OK;
}
