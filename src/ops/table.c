/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The list of the families' rows, and the search in it. A family is one array here, in its own
 * file, ended by a row without a name. Rows of one operator that differ by `since` stand in any
 * order.
 *
 * The search is linear over a few hundred rows and compares the first letter before anything else:
 * some microseconds a node, which the import does not notice. A table that is built at start would
 * be a global that changes.
 */
#include <string.h>

#include "ops/op.h"

extern const tdn_op_def tdn_ops_elementwise[], tdn_ops_reduce[], tdn_ops_cast[], tdn_ops_quant[];
extern const tdn_op_def tdn_ops_conv[], tdn_ops_pool[], tdn_ops_matmul[], tdn_ops_norm[],
    tdn_ops_movement[];
extern const tdn_op_def tdn_ops_gather[], tdn_ops_sort[], tdn_ops_shape[], tdn_ops_rnn[],
    tdn_ops_resize[];
extern const tdn_op_def tdn_ops_control[], tdn_ops_detection[], tdn_ops_attention[];
extern const tdn_op_def tdn_ops_recurrent[], tdn_ops_signal[], tdn_ops_loss[], tdn_ops_qlinear[];

static const tdn_op_def *const families[] = {
    tdn_ops_elementwise, tdn_ops_reduce,    tdn_ops_cast,      tdn_ops_quant,    tdn_ops_conv,
    tdn_ops_pool,        tdn_ops_matmul,    tdn_ops_norm,      tdn_ops_movement, tdn_ops_gather,
    tdn_ops_sort,        tdn_ops_shape,     tdn_ops_rnn,       tdn_ops_resize,   tdn_ops_control,
    tdn_ops_detection,   tdn_ops_attention, tdn_ops_recurrent, tdn_ops_signal,   tdn_ops_loss,
    tdn_ops_qlinear,
};
enum { N_FAMILIES = sizeof families / sizeof *families };

const tdn_op_def *tdn_op_find(const char *domain, const char *name, int opset)
{
    const tdn_op_def *best = NULL;
    if (strcmp(domain, "ai.onnx") == 0)
        domain = "";
    for (int f = 0; f < N_FAMILIES; f++)
        for (const tdn_op_def *op = families[f]; op->name; op++)
            if (op->name[0] == name[0] && op->since <= opset &&
                (!best || op->since > best->since) && strcmp(op->name, name) == 0 &&
                strcmp(op->domain ? op->domain : "", domain) == 0)
                best = op;
    return best;
}

const tdn_op_def *tdn_op_row(int i)
{
    for (int f = 0; f < N_FAMILIES; f++)
        for (const tdn_op_def *op = families[f]; op->name; op++)
            if (i-- == 0)
                return op;
    return NULL;
}
