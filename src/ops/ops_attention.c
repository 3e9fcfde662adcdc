/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Attention and RotaryEmbedding (ONNX's own, opset 23 on), rewritten in fp32 into products,
 * softmaxes, maps and views.
 *
 * Query heads that share a key head are joined with the positions, so that each key head is one
 * product. What a query may see by its place (causal, windows) is known now: a constant added to
 * the scores. A mask that comes as data may leave a query without any key; then the softmax of
 * nothing but -inf is replaced by zeros.
 */
#include <math.h>
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"

/* ---- Attention: the shapes ------------------------------------------------------------------- */

typedef struct sizes {
    int64_t batch, heads, kv_heads, n, n_new, n_past, n_keys, size, v_size;
    bool folded; /* heads are folded into the last axis */
} sizes;

/* Heads and elements of one operand. */
static tdn_status split_heads(tdn_infer *io, const tdn_shape *x, int64_t n, int64_t *heads,
                              int64_t *size)
{
    *heads = x->rank == 4 ? x->dims[1] : n;
    TDN_NEED(io, *heads > 0 && x->dims[x->rank - 1] % (x->rank == 4 ? 1 : *heads) == 0,
             "the number of heads is missing, or does not divide the elements");
    *size = x->rank == 4 ? x->dims[3] : x->dims[2] / *heads;
    return TDN_OK;
}

static tdn_status read_extents(tdn_infer *io, sizes *e)
{
    const tdn_node *node = io->node;
    int64_t k_size, v_heads;
    for (int i = 0; i < 3; i++) {
        TDN_TRY(tdn_infer_rank(io, i, 3, 4));
        TDN_TRY(tdn_infer_dtype(io, i, tdn_dtypes_floats));
        TDN_NEED(io,
                 node->in[i]->shape.rank == node->in[0]->shape.rank &&
                     node->in[i]->shape.dims[0] == node->in[0]->shape.dims[0],
                 "Q, K and V have different ranks or batches");
    }
    const tdn_shape *q = &node->in[0]->shape, *k = &node->in[1]->shape, *v = &node->in[2]->shape;
    const int64_t kv = tdn_attr_int(&node->attrs, "kv_num_heads", 0);
    TDN_TRY(split_heads(io, q, tdn_attr_int(&node->attrs, "q_num_heads", 0), &e->heads, &e->size));
    TDN_TRY(split_heads(io, k, kv, &e->kv_heads, &k_size));
    TDN_TRY(split_heads(io, v, kv, &v_heads, &e->v_size));
    e->folded = q->rank == 3;
    const int at = q->rank - 2;
    e->batch = q->dims[0];
    e->n = q->dims[at];
    e->n_new = k->dims[at];
    TDN_NEED(io,
             k_size == e->size && v_heads == e->kv_heads && e->heads % e->kv_heads == 0 &&
                 v->dims[at] == e->n_new,
             "Q, K and V do not fit together");
    TDN_NEED(io, !tdn_in(node, 4) == !tdn_in(node, 5),
             "a past key without a past value, or the other way round");
    if (tdn_in(node, 4)) {
        TDN_TRY(tdn_infer_rank(io, 4, 4, 4));
        TDN_TRY(tdn_infer_rank(io, 5, 4, 4));
        const int64_t *pk = node->in[4]->shape.dims, *pv = node->in[5]->shape.dims;
        e->n_past = pk[2];
        TDN_NEED(io,
                 pk[0] == e->batch && pk[1] == e->kv_heads && pk[3] == e->size &&
                     pv[0] == e->batch && pv[1] == e->kv_heads && pv[2] == e->n_past &&
                     pv[3] == e->v_size,
                 "the past does not fit the new keys and values");
    }
    e->n_keys = e->n_past + e->n_new;
    return TDN_OK;
}

static tdn_status attention_infer(tdn_infer *io)
{
    sizes e = {0};
    TDN_TRY(read_extents(io, &e));
    const tdn_node *node = io->node;
    const tdn_value *mask = tdn_in(node, 3), *lengths = tdn_in(node, 6);
    const tdn_shape scores = tdn_shape_make(4, (int64_t[]){e.batch, e.heads, e.n, e.n_keys});
    if (mask) {
        tdn_shape wide, own = scores;
        TDN_TRY(tdn_infer_rank(io, 3, 1, 4));
        own.dims[3] =
            mask->shape.dims[mask->shape.rank - 1]; /* a shorter mask hides the last keys */
        TDN_NEED(io, own.dims[3] <= e.n_keys, "the mask is longer than the keys");
        TDN_TRY(tdn_infer_broadcast(io, &own, &mask->shape, &wide));
        TDN_NEED(io, tdn_shape_equal(&own, &wide), "the mask is larger than the scores");
    }
    TDN_NEED(io, !lengths || (lengths->shape.rank == 1 && lengths->shape.dims[0] == e.batch),
             "nonpad_kv_seqlen has not one length a batch");
    const tdn_shape y = e.folded ? tdn_shape_make(3, (int64_t[]){e.batch, e.n, e.heads * e.v_size})
                                 : tdn_shape_make(4, (int64_t[]){e.batch, e.heads, e.n, e.v_size});
    const tdn_shape key = tdn_shape_make(4, (int64_t[]){e.batch, e.kv_heads, e.n_keys, e.size});
    const tdn_shape value = tdn_shape_make(4, (int64_t[]){e.batch, e.kv_heads, e.n_keys, e.v_size});
    TDN_TRY(tdn_infer_set(io, 0, node->in[0]->dtype, &y));
    TDN_TRY(tdn_infer_set(io, 1, node->in[1]->dtype, &key));
    TDN_TRY(tdn_infer_set(io, 2, node->in[2]->dtype, &value));
    return tdn_infer_set(io, 3, node->in[0]->dtype, &scores);
}

static int64_t attention_flops(const tdn_node *node)
{
    const tdn_shape *q = &node->in[0]->shape, *k = &node->in[1]->shape;
    const int64_t keys = k->dims[k->rank - 2] + (tdn_in(node, 4) ? node->in[4]->shape.dims[2] : 0);
    int64_t flops;
    return __builtin_mul_overflow(4 * tdn_shape_count(q), keys, &flops) ? INT64_MAX : flops;
}

/* ---- Attention: the rewrite ------------------------------------------------------------------ */

/* (batch, position, head * element) as (batch, head, position, element). */
static tdn_value *unfold(tdn_infer *io, tdn_value *x, int64_t heads)
{
    static const int64_t perm[4] = {0, 2, 1, 3};
    if (!x || x->shape.rank == 4)
        return x;
    const int64_t *d = x->shape.dims;
    const tdn_shape split = tdn_shape_make(4, (int64_t[]){d[0], d[1], heads, d[2] / heads});
    return tdn_emit_transpose(io, tdn_emit_reshape(io, x, &split), perm);
}

static tdn_value *with_past(tdn_infer *io, int past, tdn_value *x)
{
    tdn_value *before = tdn_in(io->node, past);
    return before ? tdn_emit_concat(io, (tdn_value *[]){before, x}, 2, 2) : x;
}

/* scale * x, through the cap where there is one. */
static tdn_value *scaled_scores(tdn_infer *io, tdn_value *x, float scale, float cap)
{
    tdn_expr e = {.n_in = 1, .n_out = 1};
    int t = tdn_expr_input(&e, 0);
    if (cap > 0) {
        t = tdn_expr_add(&e, TDN_X_MUL, t, tdn_expr_const(&e, scale / cap), 0);
        t = tdn_expr_add(&e, TDN_X_MUL, tdn_expr_add(&e, TDN_X_TANH, t, 0, 0),
                         tdn_expr_const(&e, cap), 0);
    } else {
        t = tdn_expr_add(&e, TDN_X_MUL, t, tdn_expr_const(&e, scale), 0);
    }
    tdn_expr_store(&e, t, 0);
    return x ? tdn_emit_map(io, &x, 1, &e, TDN_F32) : NULL;
}

/* The constant (queries, keys) of 0 and -inf that place alone decides; NULL with *none where it
 * hides nothing. */
static tdn_value *place_bias(tdn_infer *io, const sizes *e, bool *none)
{
    const tdn_attrs *attrs = &io->node->attrs;
    const bool causal = tdn_attr_int(attrs, "is_causal", 0) != 0;
    const int64_t left = tdn_attr_int(attrs, "left_window_size", -1);
    const int64_t right = tdn_attr_int(attrs, "right_window_size", -1);
    *none = !causal && left < 0 && right < 0;
    if (*none)
        return NULL;
    float *data = tdn_arena_alloc_data(io->graph->arena, (size_t)(e->n * e->n_keys) * sizeof *data);
    for (int64_t i = 0; data && i < e->n; i++)
        for (int64_t j = 0; j < e->n_keys; j++) {
            const int64_t distance = e->n_past + i - j;
            const bool hidden = (causal && distance < 0) || (left >= 0 && distance > left) ||
                                (right >= 0 && -distance > right);
            data[i * e->n_keys + j] = hidden ? -INFINITY : 0;
        }
    const tdn_shape shape = tdn_shape_make(2, (int64_t[]){e->n, e->n_keys});
    tdn_value *v = data ? tdn_graph_const(io->graph, NULL, TDN_F32, &shape, data) : NULL;
    if (!v)
        tdn_fail_nomem(io->error, "a constant");
    return v;
}

/* The mask as numbers to add. */
static tdn_value *mask_bias(tdn_infer *io, tdn_value *mask)
{
    if (mask->dtype != TDN_BOOL)
        return mask;
    tdn_expr e = {.n_in = 1, .n_out = 1};
    const int in = tdn_expr_input(&e, 0), zero = tdn_expr_const(&e, 0),
              hidden = tdn_expr_const(&e, -INFINITY);
    tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_SELECT, in, zero, hidden), 0);
    return tdn_emit_map(io, &mask, 1, &e, TDN_F32);
}

/* Softmax over the keys, but zeros for a query whose bias hides all of them. */
static tdn_value *guarded_softmax(tdn_infer *io, tdn_value *scores, tdn_value *bias)
{
    if (!scores)
        return NULL;
    tdn_value *p = tdn_emit_softmax(io, scores, scores->shape.rank - 1, false);
    if (!bias || !p)
        return p;
    const int64_t last = bias->shape.rank - 1;
    tdn_value *most = tdn_emit_reduce(io, bias, "max", &last, 1, true);
    tdn_expr e = {.n_in = 2, .n_out = 1};
    const int hidden =
        tdn_expr_add(&e, TDN_X_EQ, tdn_expr_input(&e, 1), tdn_expr_const(&e, -INFINITY), 0);
    tdn_expr_store(
        &e, tdn_expr_add(&e, TDN_X_SELECT, hidden, tdn_expr_const(&e, 0), tdn_expr_input(&e, 0)),
        0);
    return most ? tdn_emit_map(io, (tdn_value *[]){p, most}, 2, &e, TDN_F32) : NULL;
}

static bool can_rewrite(const tdn_node *node, const sizes *e)
{
    const tdn_value *mask = tdn_in(node, 3);
    for (int i = 0; i < 6; i++)
        if (i != 3 && tdn_in(node, i) && node->in[i]->dtype != TDN_F32)
            return false;
    if (mask && mask->dtype != TDN_F32 && mask->dtype != TDN_BOOL)
        return false;
    if (mask && mask->shape.dims[mask->shape.rank - 1] != e->n_keys)
        return false;
    return !tdn_in(node, 6) && !tdn_out(node, 3) && e->size > 0 && e->n > 0 && e->n_keys > 0 &&
           e->batch > 0;
}

static tdn_status attention_decompose(tdn_infer *io)
{
    static const int64_t turned[4] = {0, 1, 3, 2}, folded[4] = {0, 2, 1, 3};
    const tdn_node *node = io->node;
    sizes e = {0};
    bool no_place;
    TDN_TRY(read_extents(io, &e));
    if (!can_rewrite(node, &e))
        return TDN_OK;
    const tdn_shape y = node->out[0]->shape;
    const float scale = tdn_attr_float(&node->attrs, "scale", (float)(1 / sqrt((double)e.size)));
    const int64_t group = e.heads / e.kv_heads;
    const tdn_shape joined =
        tdn_shape_make(4, (int64_t[]){e.batch, e.kv_heads, group * e.n, e.size});
    const tdn_shape scores = tdn_shape_make(4, (int64_t[]){e.batch, e.heads, e.n, e.n_keys});
    const tdn_shape rows =
        tdn_shape_make(4, (int64_t[]){e.batch, e.kv_heads, group * e.n, e.n_keys});
    const tdn_shape heads = tdn_shape_make(4, (int64_t[]){e.batch, e.heads, e.n, e.v_size});
    tdn_value *q = tdn_emit_reshape(io, unfold(io, node->in[0], e.heads), &joined);
    tdn_value *k = with_past(io, 4, unfold(io, node->in[1], e.kv_heads));
    tdn_value *v = with_past(io, 5, unfold(io, node->in[2], e.kv_heads));
    tdn_value *s = tdn_emit_matmul(io, q, tdn_emit_transpose(io, k, turned));
    s = scaled_scores(io, tdn_emit_reshape(io, s, &scores), scale,
                      tdn_attr_float(&node->attrs, "softcap", 0));
    tdn_value *place = place_bias(io, &e, &no_place);
    tdn_value *bias = tdn_in(node, 3) ? mask_bias(io, node->in[3]) : NULL;
    if ((!place && !no_place) || (tdn_in(node, 3) && !bias))
        return TDN_E_NOMEM;
    if (place && bias)
        bias = tdn_emit_binary(io, TDN_X_ADD, bias, place);
    else if (place)
        bias = place;
    if (bias)
        s = tdn_emit_binary(io, TDN_X_ADD, s, bias);
    s = tdn_emit_reshape(io, guarded_softmax(io, s, bias), &rows);
    s = tdn_emit_reshape(io, tdn_emit_matmul(io, s, v), &heads);
    if (e.folded)
        s = tdn_emit_reshape(io, tdn_emit_transpose(io, s, folded), &y);
    if (!s)
        return TDN_E_NOMEM;
    tdn_emit_replace(io, 1, k);
    tdn_emit_replace(io, 2, v);
    return tdn_emit_end(io, s);
}

/* ---- Rotary embedding ------------------------------------------------------------------------ */

static tdn_status rotary_sizes(tdn_infer *io, int64_t *heads, int64_t *size, int64_t *half)
{
    TDN_TRY(tdn_infer_rank(io, 0, 3, 4));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    const int64_t given = tdn_attr_int(&io->node->attrs, "rotary_embedding_dim", 0);
    TDN_TRY(split_heads(io, &io->node->in[0]->shape, tdn_attr_int(&io->node->attrs, "num_heads", 0),
                        heads, size));
    TDN_NEED(io, given >= 0 && given <= *size,
             "attribute 'rotary_embedding_dim' is longer than a head");
    *half = (given ? given : *size) / 2;
    return TDN_OK;
}

static tdn_status rotary_infer(tdn_infer *io)
{
    int64_t heads, size, half;
    TDN_TRY(rotary_sizes(io, &heads, &size, &half));
    const tdn_shape *x = &io->node->in[0]->shape;
    const tdn_value *ids = tdn_in(io->node, 3);
    const int64_t n = x->dims[x->rank - 2];
    if (ids)
        TDN_NEED(
            io, ids->shape.rank == 2 && ids->shape.dims[0] == x->dims[0] && ids->shape.dims[1] == n,
            "position_ids has not one position an element");
    for (int i = 1; i < 3; i++) {
        TDN_TRY(tdn_infer_rank(io, i, ids ? 2 : 3, ids ? 2 : 3));
        const tdn_shape *c = &io->node->in[i]->shape;
        TDN_NEED(io,
                 c->dims[c->rank - 1] == half &&
                     (ids || (c->dims[0] == x->dims[0] && c->dims[1] == n)),
                 "a cache of angles does not fit");
    }
    return tdn_infer_same(io);
}

/* The angles of each position, (batch, 1, position, half) or with the head behind the position
 * where it is folded. */
static tdn_value *angles(tdn_infer *io, int input, bool folded, int64_t half)
{
    tdn_value *v = io->node->in[input], *ids = tdn_in(io->node, 3);
    const tdn_shape *x = &io->node->in[0]->shape;
    const int64_t b = x->dims[0], n = x->dims[x->rank - 2];
    const tdn_shape shape = folded ? tdn_shape_make(4, (int64_t[]){b, n, 1, half})
                                   : tdn_shape_make(4, (int64_t[]){b, 1, n, half});
    const tdn_attr axis = tdn_attr_of_int("axis", 0);
    if (ids)
        v = tdn_emit(io, "", "Gather", (tdn_value *[]){v, ids}, 2, &axis, 1);
    return tdn_emit_reshape(io, v, &shape);
}

/* Elements start, start + step, ... of the last axis. */
static tdn_value *elements(tdn_infer *io, tdn_value *x, int64_t start, int64_t step, int64_t n)
{
    int64_t starts[TDN_MAX_RANK] = {0}, steps[TDN_MAX_RANK], extents[TDN_MAX_RANK];
    if (!x)
        return NULL;
    const int last = x->shape.rank - 1;
    for (int i = 0; i <= last; i++) {
        steps[i] = 1;
        extents[i] = x->shape.dims[i];
    }
    starts[last] = n ? start : 0;
    steps[last] = n > 1 ? step : 1;
    extents[last] = n;
    return tdn_emit_slice(io, x, starts, steps, extents);
}

/* a * c - b * s, or a * s + b * c. */
static tdn_value *turned_part(tdn_infer *io, tdn_value *const *abcs, bool second)
{
    tdn_expr e = {.n_in = 4, .n_out = 1};
    const int a = tdn_expr_input(&e, 0), b = tdn_expr_input(&e, 1), c = tdn_expr_input(&e, 2),
              s = tdn_expr_input(&e, 3);
    const int left = tdn_expr_add(&e, TDN_X_MUL, a, second ? s : c, 0);
    const int right = tdn_expr_add(&e, TDN_X_MUL, b, second ? c : s, 0);
    tdn_expr_store(&e, tdn_expr_add(&e, second ? TDN_X_ADD : TDN_X_SUB, left, right, 0), 0);
    for (int i = 0; i < 4; i++)
        if (!abcs[i])
            return NULL;
    return tdn_emit_map(io, abcs, 4, &e, TDN_F32);
}

static tdn_status rotary_decompose(tdn_infer *io)
{
    const tdn_node *node = io->node;
    int64_t heads, size, half;
    TDN_TRY(rotary_sizes(io, &heads, &size, &half));
    for (int i = 0; i < 3; i++)
        if (node->in[i]->dtype != TDN_F32 || tdn_shape_count(&node->in[i]->shape) == 0)
            return TDN_OK;
    const tdn_shape y = node->in[0]->shape;
    const bool pairs = tdn_attr_int(&node->attrs, "interleaved", 0) != 0, folded = y.rank == 3;
    const tdn_shape split = tdn_shape_make(4, (int64_t[]){y.dims[0], y.dims[1], heads, size});
    tdn_value *x = folded ? tdn_emit_reshape(io, node->in[0], &split) : node->in[0];
    tdn_value *const abcs[4] = {
        elements(io, x, 0, pairs ? 2 : 1, half),
        elements(io, x, pairs ? 1 : half, pairs ? 2 : 1, half),
        angles(io, 1, folded, half),
        angles(io, 2, folded, half),
    };
    tdn_value *parts[3] = {turned_part(io, abcs, false), turned_part(io, abcs, true), NULL};
    if (!parts[0] || !parts[1])
        return TDN_E_NOMEM;
    int n = 2;
    if (pairs) { /* the two of a pair side by side */
        tdn_shape one = parts[0]->shape, two = one;
        one.dims[one.rank++] = 1;
        two.dims[3] = 2 * half;
        for (int i = 0; i < 2; i++)
            parts[i] = tdn_emit_reshape(io, parts[i], &one);
        parts[0] = tdn_emit_reshape(io, tdn_emit_concat(io, parts, 2, 4), &two);
        n = 1;
    }
    if (2 * half < size)
        parts[n++] = elements(io, x, 2 * half, 1, size - 2 * half);
    x = n > 1 ? tdn_emit_concat(io, parts, n, 3) : parts[0];
    return tdn_emit_end(io, folded ? tdn_emit_reshape(io, x, &y) : x);
}

const tdn_op_def tdn_ops_attention[] = {
    {.name = "Attention",
     .domain = "",
     .since = 23,
     .n_in_min = 3,
     .n_in_max = 7,
     .n_out_min = 1,
     .n_out_max = 4,
     .infer = attention_infer,
     .decompose = attention_decompose,
     .flops = attention_flops},
    {.name = "RotaryEmbedding",
     .domain = "",
     .since = 23,
     .n_in_min = 3,
     .n_in_max = 4,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = rotary_infer,
     .decompose = rotary_decompose},
    {0},
};
