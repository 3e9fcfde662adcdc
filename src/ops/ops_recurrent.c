/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layers of recurrent sequence models, which take a state in and give one out: linear attention, by
 * reference, and the short causal convolution before it, as the convolution that it is.
 */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"

enum { MAX_HEADS = 1 << 20 };

/* ---- Linear attention ------------------------------------------------------------------------ */

/* Which of decay (bit 0) and beta (bit 1) a rule takes; -1: there is no such rule. */
static int rule_takes(const char *rule)
{
    static const char *const rules[] = {"linear", "gated", "delta", "gated_delta"};
    for (int i = 0; i < 4; i++)
        if (strcmp(rules[i], rule) == 0)
            return i;
    return -1;
}

static tdn_status check_gates(tdn_infer *io, int64_t heads, int64_t key_size)
{
    const tdn_node *node = io->node;
    const int takes = rule_takes(tdn_attr_string(&node->attrs, "update_rule", "gated_delta"));
    const tdn_shape *q = &node->in[0]->shape;
    TDN_NEED(io, takes >= 0, "attribute 'update_rule' is unknown");
    for (int i = 0; i < 2; i++) {
        const tdn_value *gate = tdn_in(node, 4 + i);
        TDN_NEED(io, (gate != NULL) == (takes >> i & 1),
                 "decay and beta are not those that the update rule takes");
        if (!gate)
            continue;
        TDN_TRY(tdn_infer_rank(io, 4 + i, 3, 3));
        const int64_t last = gate->shape.dims[2];
        TDN_NEED(io,
                 gate->dtype == node->in[0]->dtype && gate->shape.dims[0] == q->dims[0] &&
                     gate->shape.dims[1] == q->dims[1] &&
                     (last == heads || last == (i ? 1 : heads * key_size)),
                 "decay or beta do not fit the keys");
    }
    return TDN_OK;
}

static tdn_status linear_attention_infer(tdn_infer *io)
{
    const tdn_node *node = io->node;
    for (int i = 0; i < 3; i++) {
        TDN_TRY(tdn_infer_rank(io, i, 3, 3));
        TDN_TRY(tdn_infer_dtype(io, i, tdn_dtypes_floats));
    }
    const tdn_shape *q = &node->in[0]->shape, *k = &node->in[1]->shape, *v = &node->in[2]->shape;
    const int64_t q_heads = tdn_attr_int(&node->attrs, "q_num_heads", 0);
    const int64_t heads = tdn_attr_int(&node->attrs, "kv_num_heads", 0);
    TDN_NEED(io,
             heads > 0 && q_heads > 0 && q_heads <= MAX_HEADS && q_heads % heads == 0 &&
                 q->dims[2] % q_heads == 0 && k->dims[2] % heads == 0 && v->dims[2] % heads == 0,
             "the number of heads is missing, or does not divide the elements");
    const int64_t key_size = k->dims[2] / heads, value_size = v->dims[2] / heads;
    bool fits = q->dims[2] / q_heads == key_size;
    for (int i = 0; i < 2; i++)
        fits = fits && k->dims[i] == q->dims[i] && v->dims[i] == q->dims[i];
    TDN_NEED(io, fits, "Q, K and V do not fit together");
    TDN_TRY(check_gates(io, heads, key_size));
    const tdn_shape state = tdn_shape_make(4, (int64_t[]){q->dims[0], heads, key_size, value_size});
    const tdn_value *past = tdn_in(node, 3);
    TDN_NEED(io, !past || tdn_shape_equal(&past->shape, &state), "the state does not fit K and V");
    tdn_shape y = *q;
    TDN_NEED(io, !__builtin_mul_overflow(q_heads, value_size, &y.dims[2]), "too many elements");
    TDN_TRY(tdn_infer_set(io, 1, past ? past->dtype : node->in[0]->dtype, &state));
    return tdn_infer_set(io, 0, node->in[0]->dtype, &y);
}

/* At each position each state is written, and read for each query head: some eight operations an
 * element. */
static int64_t linear_attention_flops(const tdn_node *node)
{
    const int64_t heads = tdn_attr_int(&node->attrs, "kv_num_heads", 1);
    const tdn_shape *k = &node->in[1]->shape;
    int64_t flops;
    return __builtin_mul_overflow(tdn_shape_count(&node->out[0]->shape),
                                  8 * (heads > 0 ? k->dims[2] / heads : 1), &flops)
               ? INT64_MAX
               : flops;
}

/* ---- Causal convolution ---------------------------------------------------------------------- */

static tdn_status causal_conv_infer(tdn_infer *io)
{
    const tdn_node *node = io->node;
    for (int i = 0; i < 2; i++) {
        TDN_TRY(tdn_infer_rank(io, i, 3, 3));
        TDN_TRY(tdn_infer_dtype(io, i, tdn_dtypes_floats));
    }
    const tdn_shape *x = &node->in[0]->shape, *w = &node->in[1]->shape;
    const char *activation = tdn_attr_string(&node->attrs, "activation", "none");
    TDN_NEED(io, w->dims[0] == x->dims[1] && w->dims[1] == 1 && w->dims[2] > 0,
             "the weights are not (channels, 1, k)");
    TDN_NEED(io,
             strcmp(activation, "none") == 0 || strcmp(activation, "silu") == 0 ||
                 strcmp(activation, "swish") == 0,
             "attribute 'activation' is neither none, silu nor swish");
    tdn_shape state = *x;
    state.dims[2] = w->dims[2] - 1;
    const tdn_value *bias = tdn_in(node, 2), *past = tdn_in(node, 3);
    TDN_NEED(io, !bias || (bias->shape.rank == 1 && bias->shape.dims[0] == x->dims[1]),
             "the bias has not one number a channel");
    TDN_NEED(io, !past || tdn_shape_equal(&past->shape, &state),
             "the state is not (batch, channels, k - 1)");
    for (int i = 1; i < node->n_in; i++)
        TDN_NEED(io, !node->in[i] || node->in[i]->dtype == node->in[0]->dtype,
                 "inputs of different types");
    TDN_TRY(tdn_infer_set(io, 1, node->in[0]->dtype, &state));
    return tdn_infer_same(io);
}

static tdn_value *zeros(tdn_infer *io, tdn_dtype dtype, const tdn_shape *shape)
{
    const size_t size = tdn_dtype_size(dtype, (size_t)tdn_shape_count(shape));
    void *data = tdn_arena_alloc_data(io->graph->arena, size);
    tdn_value *v = NULL;
    if (data) {
        memset(data, 0, size);
        v = tdn_graph_const(io->graph, NULL, dtype, shape, data);
    }
    if (!v)
        tdn_fail_nomem(io->error, "a constant");
    return v;
}

/* x * sigmoid(x) */
static tdn_value *silu(tdn_infer *io, tdn_value *x)
{
    return x ? tdn_emit(io, "", "Swish", &x, 1, NULL, 0) : NULL;
}

/* The state, or zeros, before the input; a convolution of each channel by itself; and the last
 * k - 1 positions for the next time. */
static tdn_status causal_conv_decompose(tdn_infer *io)
{
    const tdn_node *node = io->node;
    const tdn_shape *x = &node->in[0]->shape;
    const int64_t k = node->in[1]->shape.dims[2], one = 1, none[2] = {0, 0};
    tdn_shape state = *x;
    state.dims[2] = k - 1;
    tdn_value *past = tdn_in(node, 3);
    if (!past)
        past = zeros(io, node->in[0]->dtype, &state);
    if (!past)
        return TDN_E_NOMEM;
    tdn_value *padded =
        k == 1 ? node->in[0] : tdn_emit_concat(io, (tdn_value *[]){past, node->in[0]}, 2, 2);
    if (!padded)
        return TDN_E_NOMEM;
    const tdn_attr attrs[] = {
        tdn_attr_of_int("group", x->dims[1]),   tdn_attr_of_ints("kernel_shape", &k, 1),
        tdn_attr_of_ints("strides", &one, 1),   tdn_attr_of_ints("pads", none, 2),
        tdn_attr_of_ints("dilations", &one, 1),
    };
    tdn_value *in[3] = {padded, node->in[1], tdn_in(node, 2)};
    tdn_value *y = tdn_emit(io, "", "Conv", in, in[2] ? 3 : 2, attrs, 5);
    const bool plain = strcmp(tdn_attr_string(&node->attrs, "activation", "none"), "none") == 0;
    y = plain ? y : silu(io, y);
    if (!y)
        return TDN_E_NOMEM;
    if (tdn_out(node, 1)) {
        const int64_t starts[3] = {0, 0, x->dims[2]}, steps[3] = {1, 1, 1};
        tdn_value *next = k == 1 ? past : tdn_emit_slice(io, padded, starts, steps, state.dims);
        if (!next)
            return TDN_E_NOMEM;
        tdn_emit_replace(io, 1, next);
    }
    return tdn_emit_end(io, y);
}

const tdn_op_def tdn_ops_recurrent[] = {
    {.name = "LinearAttention",
     .domain = "",
     .since = 27,
     .n_in_min = 3,
     .n_in_max = 6,
     .n_out_min = 1,
     .n_out_max = 2,
     .infer = linear_attention_infer,
     .flops = linear_attention_flops},
    {.name = "CausalConvWithState",
     .domain = "",
     .since = 27,
     .n_in_min = 2,
     .n_in_max = 4,
     .n_out_min = 1,
     .n_out_max = 2,
     .infer = causal_conv_infer,
     .decompose = causal_conv_decompose},
    {0},
};
