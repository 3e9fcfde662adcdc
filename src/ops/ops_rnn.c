/* SPDX-License-Identifier: Apache-2.0 */
/* RNN, GRU and LSTM: one rule, by reference. */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"

static const struct {
    const char *name;
    int n_gates;
} cells[] = {{"RNN", 1}, {"GRU", 3}, {"LSTM", 4}};

static int64_t gates_of(const tdn_node *node)
{
    for (int i = 0; i < 3; i++)
        if (!strcmp(cells[i].name, node->op->name))
            return cells[i].n_gates;
    return 0;
}

/* An operand that may be absent: rank and dims. */
static tdn_status check(tdn_infer *io, int input, int rank, const int64_t *dims, const char *what)
{
    const tdn_value *v = tdn_in(io->node, input);
    if (!v)
        return TDN_OK;
    TDN_TRY(tdn_infer_rank(io, input, rank, rank));
    for (int i = 0; i < rank; i++)
        TDN_NEED(io, v->shape.dims[i] == dims[i], what);
    return TDN_OK;
}

typedef struct extents {
    int64_t steps, batch, in, hidden, directions, rows;
    bool batch_first;
} extents;

static tdn_status read_extents(tdn_infer *io, extents *e)
{
    const tdn_node *node = io->node;
    for (int i = 0; i < 3; i++)
        TDN_TRY(tdn_infer_rank(io, i, 3, 3));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    const tdn_shape *x = &node->in[0]->shape, *w = &node->in[1]->shape, *r = &node->in[2]->shape;
    e->batch_first = tdn_attr_int(&node->attrs, "layout", 0) == 1;
    e->steps = x->dims[e->batch_first];
    e->batch = x->dims[!e->batch_first];
    e->in = x->dims[2];
    e->hidden = r->dims[2];
    e->directions = w->dims[0];
    TDN_NEED(io, e->hidden < (int64_t)1 << 31, "the hidden size is out of range");
    e->rows = gates_of(node) * e->hidden;
    const char *direction = tdn_attr_string(&node->attrs, "direction", "forward");
    const bool both = !strcmp(direction, "bidirectional");
    TDN_NEED(io, both || !strcmp(direction, "forward") || !strcmp(direction, "reverse"),
             "attribute 'direction' is unknown");
    TDN_NEED(io, e->directions == 1 + both, "weights for another number of directions");
    TDN_NEED(io, tdn_attr_int(&node->attrs, "hidden_size", e->hidden) == e->hidden,
             "attribute 'hidden_size' is not the weights'");
    return TDN_OK;
}

static tdn_status rnn_infer(tdn_infer *io)
{
    extents e;
    TDN_TRY(read_extents(io, &e));
    const int64_t d = e.directions, b = e.batch, h = e.hidden;
    const int64_t state[3] = {e.batch_first ? b : d, e.batch_first ? d : b, h};
    TDN_TRY(check(io, 1, 3, (int64_t[]){d, e.rows, e.in}, "W has the wrong shape"));
    TDN_TRY(check(io, 2, 3, (int64_t[]){d, e.rows, h}, "R has the wrong shape"));
    TDN_TRY(check(io, 3, 2, (int64_t[]){d, 2 * e.rows}, "B has the wrong shape"));
    TDN_TRY(check(io, 4, 1, &b, "sequence_lens has not one length a batch"));
    TDN_TRY(check(io, 5, 3, state, "initial_h has the wrong shape"));
    TDN_TRY(check(io, 6, 3, state, "initial_c has the wrong shape"));
    TDN_TRY(check(io, 7, 2, (int64_t[]){d, 3 * h}, "P has the wrong shape"));
    const tdn_shape y = e.batch_first ? tdn_shape_make(4, (int64_t[]){b, e.steps, d, h})
                                      : tdn_shape_make(4, (int64_t[]){e.steps, d, b, h});
    const tdn_shape last = tdn_shape_make(3, state);
    TDN_TRY(tdn_infer_set(io, 0, io->node->in[0]->dtype, &y));
    TDN_TRY(tdn_infer_set(io, 1, io->node->in[0]->dtype, &last));
    return tdn_infer_set(io, 2, io->node->in[0]->dtype, &last);
}

static int64_t rnn_flops(const tdn_node *node)
{
    const tdn_shape *x = &node->in[0]->shape;
    int64_t flops = tdn_shape_count(&node->in[1]->shape) + tdn_shape_count(&node->in[2]->shape);
    for (int i = 0; i < 2; i++)
        if (__builtin_mul_overflow(flops, x->dims[i], &flops))
            return INT64_MAX;
    return __builtin_mul_overflow(flops, 2, &flops) ? INT64_MAX : flops;
}

#define ROW(name_, max_in_, max_out_)                                                              \
    {                                                                                              \
        .name = name_, .domain = "", .since = 1, .n_in_min = 3, .n_in_max = max_in_,               \
        .n_out_min = 1, .n_out_max = max_out_, .infer = rnn_infer, .flops = rnn_flops              \
    }

const tdn_op_def tdn_ops_rnn[] = {
    ROW("RNN", 6, 2),
    ROW("GRU", 6, 2),
    ROW("LSTM", 8, 3),
    {0},
};
