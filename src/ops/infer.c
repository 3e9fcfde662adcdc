/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shape inference and constant folding, node by node in order.
 *
 * A node with constant inputs is evaluated by its reference (or rewritten, when it has none), and
 * its outputs become constants in place. What a model may make us spend on that is bounded: a fold
 * is skipped, and the node left to run time, when its output is much larger than its inputs, when
 * it takes too many operations, or when all folds together have taken too much of either.
 */
#include <string.h>

#include "base/status.h"
#include "ops/op.h"

/* One output may take FOLD_MIN bytes, or FOLD_GROWTH times the bytes of its inputs. */
#define FOLD_MIN ((size_t)16 << 20)
#define FOLD_GROWTH 4
/* All folds of a graph: this and FOLD_GROWTH times the model's constants. */
#define FOLD_TOTAL ((size_t)256 << 20)
#define FOLD_SCRATCH ((size_t)64 << 20)
/* Operations of one fold: these, or FOLD_PASSES for each element it reads; and of all folds. An
 * operation of what is not core counts FOLD_SLOW times: such references go through a conversion for
 * each element. */
#define FOLD_FLOPS ((int64_t)500 * 1000 * 1000)
#define FOLD_FLOPS_TOTAL (10 * FOLD_FLOPS)
#define FOLD_PASSES 64
#define FOLD_SLOW 16

static size_t value_size(const tdn_value *v)
{
    return tdn_dtype_size(v->dtype, (size_t)tdn_shape_count(&v->shape));
}

/* ---- Inference ------------------------------------------------------------------------------- */

static tdn_status check_counts(const tdn_node *node, tdn_error *error)
{
    const tdn_op_def *op = node->op;
    if (node->n_in < op->n_in_min || (op->n_in_max >= 0 && node->n_in > op->n_in_max))
        return tdn_fail(error, TDN_E_MODEL, "%d inputs, where %s takes %d to %d", node->n_in,
                        op->name, op->n_in_min, op->n_in_max);
    if (node->n_out < op->n_out_min || (op->n_out_max >= 0 && node->n_out > op->n_out_max))
        return tdn_fail(error, TDN_E_MODEL, "%d outputs, where %s gives %d to %d", node->n_out,
                        op->name, op->n_out_min, op->n_out_max);
    for (int i = 0; i < op->n_in_min; i++)
        if (!node->in[i])
            return tdn_fail(error, TDN_E_MODEL, "input %d is missing", i);
    return TDN_OK;
}

static tdn_status check_results(const tdn_node *node, tdn_error *error)
{
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i] && (node->out[i]->shape.rank < 0 || node->out[i]->dtype == TDN_DTYPE_NONE))
            return tdn_fail(error, TDN_E_INTERNAL, "the rule of %s set no shape for output %d",
                            node->op->name, i);
    return TDN_OK;
}

/* ---- Folding --------------------------------------------------------------------------------- */

static bool is_foldable(const tdn_node *node)
{
    if (node->op->random)
        return false;
    for (int i = 0; i < node->n_in; i++) {
        const tdn_value *v = node->in[i];
        if (v && v->dtype == TDN_STRING)
            return false;
        if (v && v->kind != TDN_VALUE_CONST && !node->op->of_shape)
            return false;
        if (v && node->op->of_shape && v->shape.bounded)
            return false;
    }
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i] && (node->out[i]->output >= 0 || node->out[i]->dtype == TDN_STRING))
            return false;
    return !tdn_node_has_subgraph(node);
}

/* Is there budget for this fold? Takes it when there is. */
static bool take_budget(tdn_graph *g, const tdn_node *node)
{
    size_t in_size = 0, out_size = 0;
    int64_t n_in = 0, n_out = 0, flops = 0;
    for (int i = 0; i < node->n_in; i++)
        if (node->in[i] && !node->op->of_shape) {
            in_size += value_size(node->in[i]);
            n_in += tdn_shape_count(&node->in[i]->shape);
        }
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i]) {
            out_size += value_size(node->out[i]);
            n_out += tdn_shape_count(&node->out[i]->shape);
        }
    if (out_size > FOLD_MIN && out_size / FOLD_GROWTH > in_size)
        return false;
    if (out_size > FOLD_TOTAL + FOLD_GROWTH * g->const_size - g->fold_size)
        return false;
    if (__builtin_add_overflow(node->op->flops ? node->op->flops(node) : 0, n_in + n_out, &flops) ||
        flops < 0)
        return false;
    if (node->op->core == TDN_CORE_NONE && __builtin_mul_overflow(flops, FOLD_SLOW, &flops))
        return false;
    const int64_t total = FOLD_FLOPS_TOTAL + FOLD_PASSES * (int64_t)g->const_size;
    if (flops > (n_in > FOLD_FLOPS / FOLD_PASSES ? FOLD_PASSES * n_in : FOLD_FLOPS) ||
        flops > total - g->fold_flops)
        return false;
    g->fold_size += out_size;
    g->fold_flops += flops;
    return true;
}

static bool make_operands(tdn_graph *g, const tdn_node *node, tdn_view *in, tdn_view *out)
{
    for (int i = 0; i < node->n_in; i++)
        in[i] = node->in[i] ? tdn_value_view(node->in[i]) : (tdn_view){0};
    for (int i = 0; i < node->n_out; i++) {
        out[i] = (tdn_view){0};
        if (!node->out[i])
            continue;
        out[i] = tdn_value_view(node->out[i]);
        out[i].data = tdn_arena_alloc_data(g->arena, value_size(node->out[i]));
        if (!out[i].data)
            return false;
    }
    return true;
}

/* A transposed constant keeps its scales: along the axis that theirs has become. */
static const tdn_quant *turned_quant(tdn_graph *g, const tdn_node *node)
{
    const tdn_quant *from = node->op->core == TDN_CORE_TRANSPOSE ? node->in[0]->quant : NULL;
    int rank;
    const int64_t *perm = tdn_attr_ints(&node->attrs, "perm", &rank);
    tdn_quant *q = from && perm ? tdn_arena_alloc(g->arena, 1, sizeof *q) : NULL;
    if (!q)
        return NULL;
    *q = *from;
    for (int i = 0; i < rank && q->n > 1; i++)
        if (perm[i] == from->axis)
            q->axis = i;
    return q;
}

static void become_constants(tdn_graph *g, tdn_node *node, const tdn_view *out)
{
    const tdn_quant *quant = turned_quant(g, node);
    for (int i = 0; i < node->n_out; i++) {
        tdn_value *v = node->out[i];
        if (!v)
            continue;
        v->kind = TDN_VALUE_CONST;
        v->shape =
            tdn_shape_make(out[i].rank, out[i].dims); /* the true extents, no longer bounds */
        v->data = out[i].data;
        v->quant = quant;
        node->out[i] = NULL;
        v->producer = NULL;
    }
    tdn_graph_remove(g, node);
}

static tdn_status evaluate_on(tdn_graph *g, tdn_node *node, const tdn_ref_def *ref, tdn_view *views,
                              tdn_error *error)
{
    tdn_view *out = views + node->n_in;
    if (!make_operands(g, node, views, out))
        return tdn_fail_nomem(error, "a folded constant");
    tdn_ref_call call = {
        .in = views,
        .n_in = node->n_in,
        .out = out,
        .n_out = node->n_out,
        .attrs = &node->attrs,
        .expr = node->expr,
        .n_parts = 1,
        .row = ref,
        .error = error,
    };
    const size_t scratch_size = ref->scratch_size ? ref->scratch_size(&call) : 0;
    if (scratch_size > FOLD_SCRATCH)
        return TDN_OK;
    call.scratch = tdn_alloc(NULL, scratch_size, TDN_ALIGN);
    if (!call.scratch)
        return tdn_fail_nomem(error, "folding a constant");
    const tdn_status status = ref->run(&call);
    tdn_free(NULL, call.scratch);
    if (status == TDN_OK)
        become_constants(g, node, out);
    return status;
}

static tdn_status evaluate(tdn_graph *g, tdn_node *node, const tdn_ref_def *ref, tdn_error *error)
{
    tdn_view *views =
        tdn_alloc(NULL, ((size_t)node->n_in + (size_t)node->n_out) * sizeof *views, TDN_ALIGN);
    if (!views)
        return tdn_fail_nomem(error, "folding a constant");
    const tdn_status status = evaluate_on(g, node, ref, views, error);
    tdn_free(NULL, views);
    return status;
}

static void drop_if_dead(tdn_graph *g, tdn_node *node)
{
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i])
            return;
    tdn_graph_remove(g, node);
}

tdn_status tdn_node_fold(tdn_graph *g, tdn_node *node, tdn_error *error)
{
    const tdn_ref_def *ref = tdn_op_reference(node->op);
    if (!is_foldable(node) || (!ref && !node->op->decompose) || !take_budget(g, node))
        return TDN_OK;
    if (ref)
        return evaluate(g, node, ref, error);
    /* Its parts are inferred as they are inserted, so they fold; outputs that are constants leave
     * the node. */
    tdn_infer io = tdn_infer_at(g, node, error);
    TDN_TRY(node->op->decompose(&io));
    drop_if_dead(g, node);
    return TDN_OK;
}

tdn_status tdn_node_infer(tdn_graph *g, tdn_node *node, tdn_error *error)
{
    tdn_infer io = tdn_infer_at(g, node, error);
    TDN_TRY(check_counts(node, error));
    if (node->op->infer)
        TDN_TRY(node->op->infer(&io));
    TDN_TRY(check_results(node, error));
    return node->op->unfolded ? TDN_OK : tdn_node_fold(g, node, error);
}

tdn_status tdn_graph_infer(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *node = g->first, *next; node; node = next) {
        next = node->next;
        const char *name = node->name, *op = node->op->name;
        const tdn_status status = tdn_node_infer(g, node, error);
        if (status != TDN_OK)
            return tdn_fail_while(error, status, "inferring node '%s' (%s)", name, op);
    }
    g->has_shapes = true;
    return TDN_OK;
}
