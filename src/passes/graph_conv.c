/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pointwise convolution whose channels are split into kinds of edges, and a sparse product over
 * (kind, node) behind it, are one graph convolution: the neighbours are summed first and the
 * weights multiplied once a node. What lay between, kinds times the channels, never goes to memory,
 * and kinds of which a node has no neighbour cost nothing.
 *
 * sum over k, v of A[k, v, w] * (W[k, m] x[v] + b[k, m]) =
 * sum over k of W[k, m] (sum over v of A[k, v, w] x[v]) + sum over k, v of A[k, v, w] b[k, m].
 */
#include "base/status.h"
#include "ops/emit.h"
#include "passes/passes.h"

/* Axes of the product's operand, by what they are of the convolution's result (n, kinds x m, t, v).
 */
typedef struct match {
    tdn_node *mix, *conv;
    const tdn_value *bias;                /* a number a channel, or NULL */
    int batch, channel, time, kind, node; /* axes of mix's operand; -1: of extent 1, not there */
    int64_t n_kinds, n_channels;          /* of a kind */
    int64_t kind_step, channel_step;      /* of the convolution's channels */
} match;

static bool is_pointwise(const tdn_node *n)
{
    if (n->op->core != TDN_CORE_CONV || n->expr || n->in[1]->kind != TDN_VALUE_CONST ||
        n->out[0]->shape.rank != 4 || n->out[0]->dtype != TDN_F32)
        return false;
    return tdn_conv_is_pointwise(n) && tdn_attr_int(&n->attrs, "group", 1) == 1 &&
           (n->n_in < 3 || !n->in[2]);
}

/* The convolution under `v`, and the bias that a map may have added. */
static bool find_conv(tdn_value *v, match *m)
{
    tdn_node *n = v->producer;
    if (!n)
        return false;
    m->bias = NULL;
    if (n->op->core == TDN_CORE_MAP && n->n_in == 2 && n->n_out == 1) {
        const int c = n->in[1]->kind == TDN_VALUE_CONST;
        const tdn_value *b = n->in[c];
        const int64_t *d = b->shape.dims;
        const int rank = b->shape.rank;
        if (!tdn_expr_is_sum(n->expr) || b->kind != TDN_VALUE_CONST || b->dtype != TDN_F32 ||
            rank < 3 || tdn_shape_count(&b->shape) != d[rank - 3] ||
            d[rank - 3] != v->shape.dims[1] || n->in[!c]->n_uses != 1 || n->in[!c]->output >= 0)
            return false;
        m->bias = b;
        n = n->in[!c]->producer;
    }
    m->conv = n;
    return n && is_pointwise(n);
}

/* Which axis of the view has this stride and extent, among first .. end - 1; -1: extent 1. */
static bool find_axis(const tdn_view *v, int first, int end, int64_t stride, int64_t extent,
                      int *at)
{
    *at = -1;
    for (int i = first; i < end; i++)
        if (v->dims[i] != 1 && v->dims[i] == extent && v->strides[i] == stride)
            *at = i;
    return *at >= 0 || extent == 1;
}

static bool find(tdn_node *mix, match *m)
{
    tdn_traced t;
    if (mix->op->core != TDN_CORE_MIX || mix->expr || !tdn_trace_views(mix->in[0], &t) ||
        !t.is_alone || t.is_sliced || !find_conv(t.of, m) || mix->in[1]->kind != TDN_VALUE_CONST)
        return false;
    m->mix = mix;
    const tdn_view *v = &t.view;
    const int64_t *y = t.of->shape.dims, area = y[2] * y[3];
    const int kept = v->rank - (int)tdn_attr_int(&mix->attrs, "n_axes", 1);
    int n_used = 0;
    if (!find_axis(v, kept, v->rank, 1, y[3], &m->node) || m->node < 0 ||
        !find_axis(v, 0, kept, y[3], y[2], &m->time) ||
        !find_axis(v, 0, kept, y[1] * area, y[0], &m->batch))
        return false;
    m->kind = m->channel = -1; /* what is left, one axis on each side */
    for (int i = 0; i < v->rank; i++) {
        if (v->dims[i] == 1 || i == m->node || i == m->time || i == m->batch)
            continue;
        *(i < kept ? &m->channel : &m->kind) = i;
        n_used++;
        if (v->strides[i] % area)
            return false;
    }
    m->n_kinds = m->kind >= 0 ? v->dims[m->kind] : 1;
    m->n_channels = m->channel >= 0 ? v->dims[m->channel] : 1;
    m->kind_step = m->kind >= 0 ? v->strides[m->kind] / area : 0;
    m->channel_step = m->channel >= 0 ? v->strides[m->channel] / area : 0;
    return n_used == (m->kind >= 0) + (m->channel >= 0) && m->n_kinds * m->n_channels == y[1];
}

/* The sums are over the convolution's inputs now: not where those are many more than its results.
 */
static bool pays(const match *m)
{
    const tdn_shape *x = &m->conv->in[0]->shape;
    return x->dims[1] <= 2 * m->n_channels && m->mix->in[1]->shape.dims[1] <= 2 * x->dims[3];
}

static float *new_floats(tdn_graph *g, const tdn_shape *s)
{
    return tdn_arena_alloc_data(g->arena, (size_t)tdn_shape_count(s) * sizeof(float));
}

static tdn_value *weights_of(tdn_graph *g, const match *m)
{
    const int64_t c = m->conv->in[0]->shape.dims[1];
    const tdn_shape s = tdn_shape_make(2, (int64_t[]){m->n_channels, m->n_kinds * c});
    float *to = new_floats(g, &s);
    const float *from = m->conv->in[1]->data;
    for (int64_t i = 0; to && i < m->n_channels; i++)
        for (int64_t k = 0; k < m->n_kinds; k++)
            for (int64_t j = 0; j < c; j++)
                to[(i * m->n_kinds + k) * c + j] =
                    from[(i * m->channel_step + k * m->kind_step) * c + j];
    return to ? tdn_graph_const(g, NULL, TDN_F32, &s, to) : NULL;
}

/* Row of the mix's matrix for (kind, node): its operand's axes in their order. */
static int64_t row_of(const match *m, int64_t kind, int64_t node, int64_t n_nodes)
{
    return m->kind < m->node ? kind * n_nodes + node : node * m->n_kinds + kind;
}

static tdn_value *adjacency_of(tdn_graph *g, const match *m)
{
    const int64_t n = m->conv->in[0]->shape.dims[3], n_to = m->mix->in[1]->shape.dims[1];
    const tdn_shape s = tdn_shape_make(3, (int64_t[]){m->n_kinds, n, n_to});
    float *to = new_floats(g, &s);
    const float *from = m->mix->in[1]->data;
    for (int64_t k = 0; to && k < m->n_kinds; k++)
        for (int64_t v = 0; v < n; v++)
            for (int64_t w = 0; w < n_to; w++)
                to[(k * n + v) * n_to + w] = from[row_of(m, k, v, n) * n_to + w];
    return to ? tdn_graph_const(g, NULL, TDN_F32, &s, to) : NULL;
}

static tdn_value *bias_of(tdn_graph *g, const match *m)
{
    const int64_t n = m->conv->in[0]->shape.dims[3], n_to = m->mix->in[1]->shape.dims[1];
    const tdn_shape s = tdn_shape_make(2, (int64_t[]){n_to, m->n_channels});
    float *to = new_floats(g, &s);
    const float *edges = m->mix->in[1]->data, *b = m->bias ? m->bias->data : NULL;
    for (int64_t w = 0; to && w < n_to; w++)
        for (int64_t i = 0; i < m->n_channels; i++) {
            double sum = 0;
            for (int64_t k = 0; b && k < m->n_kinds; k++)
                for (int64_t v = 0; v < n; v++)
                    sum += (double)edges[row_of(m, k, v, n) * n_to + w] *
                           (double)b[i * m->channel_step + k * m->kind_step];
            to[w * m->n_channels + i] = (float)sum;
        }
    return to ? tdn_graph_const(g, NULL, TDN_F32, &s, to) : NULL;
}

/* The result (n, m, t, w) in the order of the mix's axes. */
static tdn_value *arrange(tdn_infer *io, const match *m, tdn_value *y)
{
    const tdn_shape *s = &m->mix->out[0]->shape;
    const int axes[3] = {m->batch, m->channel, m->time};
    int64_t perm[4], n = 0;
    bool taken[4] = {false};
    for (int i = 0; i + 1 < s->rank; i++)
        for (int k = 0; k < 3; k++)
            if (axes[k] == i) {
                perm[n++] = k;
                taken[k] = true;
            }
    for (int k = 2; k >= 0; k--) /* axes of extent 1 that are not there: in front */
        if (!taken[k]) {
            for (int64_t i = n++; i > 0; i--)
                perm[i] = perm[i - 1];
            perm[0] = k;
        }
    perm[3] = 3;
    return tdn_emit_reshape(io, tdn_emit_transpose(io, y, perm), s);
}

static tdn_status rewrite(tdn_graph *g, const match *m, tdn_error *error)
{
    tdn_node *n = m->mix;
    tdn_infer io = tdn_infer_at(g, n, error);
    tdn_value *in[4] = {m->conv->in[0], weights_of(g, m), adjacency_of(g, m), bias_of(g, m)};
    tdn_value *y =
        in[1] && in[2] && in[3] ? tdn_emit(&io, "tendon", "GraphConv", in, 4, NULL, 0) : NULL;
    if (y && y->producer)
        y->producer->origin = tdn_origin_join(g, m->conv->origin, n->origin);
    TDN_TRY(tdn_emit_end(&io, arrange(&io, m, y)));
    tdn_graph_remove(g, n);
    return TDN_OK;
}

tdn_status tdn_pass_graph_conv(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        match m;
        if (find(n, &m) && pays(&m))
            TDN_TRY(rewrite(g, &m, error));
    }
    return TDN_OK;
}
