/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A convolution or product of matrices whose operand is dequantised, (q - zero) * scale, and whose
 * constant weights lie on a grid of their own (tdn_quant) becomes a product of the integers, and a
 * map that scales its sums: x y = (x_scale y_scale) (qx - zx) (qy - zy).
 */
#include <math.h>

#include "base/status.h"
#include "ops/dequantized.h"
#include "ops/quant_rewrite.h"
#include "passes/passes.h"

static float scale_at(const tdn_quant *q, int64_t i) { return q->scale[q->n == 1 ? 0 : i]; }

/* The integers behind weights; NULL: no memory. Their scales and zero points are along the outputs.
 */
static tdn_value *integers_of(tdn_graph *g, const tdn_value *w, int axis)
{
    const int64_t n = tdn_shape_count(&w->shape), outputs = w->shape.dims[axis];
    const tdn_quant *grid = w->quant;
    int16_t *data = tdn_arena_alloc_data(g->arena, ((size_t)n + 1) * sizeof *data);
    for (int64_t i = 0; data && i < n; i++) {
        const int64_t at = axis == 0 ? i / (n / outputs) : i % outputs;
        const double q = rint((double)((const float *)w->data)[i] / (double)scale_at(grid, at)) +
                         grid->zero_point[grid->n == 1 ? 0 : at];
        data[i] = (int16_t)fmax(-1000, fmin(1000, q)); /* beyond a byte, it is refused */
    }
    return data ? tdn_graph_const(g, NULL, TDN_S16, &w->shape, data) : NULL;
}

/* Their zero points, or NULL where they are all 0. *failed: no memory. */
static tdn_value *zeros_of(tdn_graph *g, const tdn_quant *grid, bool *failed)
{
    const int64_t n = grid->n;
    const tdn_shape shape = tdn_shape_make(grid->n == 1 ? 0 : 1, &n);
    bool any = false;
    for (int64_t i = 0; i < n; i++)
        any |= grid->zero_point[i] != 0;
    tdn_value *v = any ? tdn_graph_const(g, NULL, TDN_S32, &shape, grid->zero_point) : NULL;
    *failed = any && !v;
    return v;
}

static tdn_value *scaled(tdn_infer *io, tdn_value *sum, float x_scale, const tdn_quant *q,
                         int64_t n, bool is_conv)
{
    float *scale = tdn_arena_alloc_data(io->graph->arena, ((size_t)n + 1) * sizeof *scale);
    int64_t dims[TDN_MAX_RANK] = {n, 1, 1, 1, 1, 1, 1, 1};
    const tdn_shape shape = tdn_shape_make(is_conv ? sum->shape.rank - 1 : 1, dims);
    for (int64_t i = 0; scale && i < n; i++)
        scale[i] = x_scale * scale_at(q, i);
    tdn_value *scales = scale ? tdn_graph_const(io->graph, NULL, TDN_F32, &shape, scale) : NULL;
    tdn_expr e = {.n_in = 2};
    const int r = tdn_expr_add(&e, TDN_X_MUL, tdn_expr_input(&e, 0), tdn_expr_input(&e, 1), 0);
    tdn_expr_store(&e, r, 0);
    return scales ? tdn_emit_map(io, (tdn_value *[]){sum, scales}, 2, &e, TDN_F32) : NULL;
}

static bool has_grid(const tdn_node *n, int axis)
{
    const tdn_value *w = n->in[1];
    const tdn_quant *q = w->quant;
    return n->n_own_in == 2 && !n->expr && n->out[0]->dtype == TDN_F32 && q && q->n > 0 &&
           w->kind == TDN_VALUE_CONST && w->dtype == TDN_F32 && tdn_shape_count(&w->shape) > 0 &&
           w->shape.rank >= 2 && (q->n == 1 || (q->axis == axis && q->n == w->shape.dims[axis]));
}

static tdn_status rewrite(tdn_graph *g, tdn_node *n, const tdn_dequantized *x, tdn_error *error)
{
    const bool is_conv = n->op->core == TDN_CORE_CONV;
    const int axis = is_conv ? 0 : 1;
    const tdn_quant *grid = n->in[1]->quant;
    const int64_t outputs = n->in[1]->shape.dims[axis];
    tdn_infer io = tdn_infer_at(g, n, error);
    bool failed;
    tdn_value *w_zero = zeros_of(g, grid, &failed);
    tdn_value *w = integers_of(g, n->in[1], axis), *zero = NULL, *sum;
    int8_t *z = tdn_arena_alloc(g->arena, 1, 1);
    if (!w || !z || failed)
        return tdn_fail_nomem(error, "weights");
    *z = (int8_t)x->zero;
    const tdn_shape scalar = tdn_shape_make(0, NULL);
    if (x->zero != 0)
        zero = tdn_graph_const(g, NULL, x->q->dtype, &scalar, z);
    TDN_TRY(tdn_emit_integer_sum(&io, is_conv, x->q, zero, w, w_zero, &sum));
    if (!sum)
        return TDN_OK;
    return tdn_emit_end(&io, scaled(&io, sum, x->scale, grid, outputs, is_conv));
}

tdn_status tdn_pass_integer_products(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        tdn_dequantized x;
        const bool is_conv = n->op->core == TDN_CORE_CONV;
        if ((is_conv || n->op->core == TDN_CORE_MATMUL) && has_grid(n, is_conv ? 0 : 1) &&
            tdn_value_is_dequantized(n->in[0], &x) && tdn_dequantized_is_bytes(&x))
            TDN_TRY(rewrite(g, n, &x, error));
    }
    return TDN_OK;
}
