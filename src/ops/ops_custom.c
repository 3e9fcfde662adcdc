/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operators of the caller's own (operator.h) as rows of the table: their shape rule is the
 * caller's, their reference too. Nothing is assumed of them but what the header says: they are not
 * folded, since nobody knows what that takes.
 */
#include <stdbool.h>
#include <string.h>

#include "base/status.h"
#include "ops/op.h"
#include "ref/custom.h"

/* A dtype that a plan may hold. */
static bool is_numbers(tdn_dtype dtype) { return dtype > TDN_DTYPE_NONE && dtype < TDN_STRING; }

static tdn_status take_output(tdn_infer *io, int i, const tdn_tensor *t)
{
    if (!is_numbers(t->dtype) || t->rank < 0 || t->rank > TDN_MAX_RANK)
        return tdn_fail(io->error, TDN_E_ARG,
                        "its shape rule left output %d without a dtype or a rank", i);
    const tdn_shape shape = tdn_shape_make(t->rank, t->dims);
    return tdn_infer_set(io, i, t->dtype, &shape);
}

static tdn_status custom_infer(tdn_infer *io)
{
    const tdn_node *node = io->node;
    const tdn_operator *op = node->op->custom->op;
    tdn_tensor in[TDN_OPERATOR_MAX_IN] = {0}, out[TDN_OPERATOR_MAX_OUT] = {0};
    for (int i = 0; i < node->n_in; i++) {
        const tdn_value *v = node->in[i];
        if (!v)
            continue;
        if (v->shape.bounded)
            return tdn_fail(io->error, TDN_E_UNSUPPORTED,
                            "input %d has an extent that is known only while running", i);
        in[i] = tdn_tensor_make(NULL, v->dtype, v->shape.rank, v->shape.dims);
        if (v->kind == TDN_VALUE_CONST)
            in[i].data = tdn_value_view(v).data;
    }
    for (int i = 0; i < node->n_out; i++)
        out[i] = (tdn_tensor){.struct_size = sizeof out[i], .rank = -1};
    const tdn_operator_call call =
        tdn_custom_call(op, &node->attrs, in, node->n_in, out, node->n_out);
    if (io->error)
        io->error->text[0] = '\0';
    const tdn_status status = op->infer(&call, io->error);
    if (status != TDN_OK)
        return io->error && io->error->text[0]
                   ? status
                   : tdn_fail(io->error, status, "its shape rule does not take it");
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i])
            TDN_TRY(take_output(io, i, &out[i]));
    return TDN_OK;
}

tdn_status tdn_op_customs(const tdn_op_def **rows, const tdn_operator *operators, int32_t n,
                          tdn_arena *arena, tdn_error *error)
{
    tdn_customs customs;
    TDN_TRY(tdn_customs_make(&customs, operators, n, arena, error));
    tdn_op_def *made = tdn_arena_alloc(arena, (size_t)n + 1, sizeof *made);
    if (!made)
        return tdn_fail_nomem(error, "operators");
    for (int32_t i = 0; i < n; i++) {
        const tdn_operator *op = &operators[i];
        if (!op->infer)
            return tdn_fail(error, TDN_E_ARG, "operator %d '%s' has no function infer", i,
                            op->name);
        made[i] = (tdn_op_def){
            .name = op->name,
            .domain = op->domain ? op->domain : "",
            .since = 1,
            .n_in_min = op->n_in_min,
            .n_in_max = op->n_in_max,
            .n_out_min = op->n_out_min,
            .n_out_max = op->n_out_max,
            .infer = custom_infer,
            .custom = &customs.rows[i],
            .unfolded = true,
        };
    }
    *rows = made;
    return TDN_OK;
}
