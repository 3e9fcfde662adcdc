/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Convolutions of spikes, and of spikes plus something. A product distributes over a sum: where the
 * summands are spikes (0 or 1, mostly 0), spikes that a 1x1 convolution has spread over channels,
 * and what is the same in all steps of an unrolled network, the spikes are accumulated, each with
 * the product of all weights on its way, and the rest is done once instead of in every step. So a
 * residual spiking block has no dense product left.
 *
 * That pays while spikes are rare. At high rates the convolution as written is faster, Winograd's
 * above all. So both are there, and each run takes one (Either) by the rate of a sample of the
 * spikes. A mean over positions goes to the summands as well.
 */
#include <string.h>

#include "base/status.h"
#include "passes/passes.h"
#include "passes/spike_form.h"

enum {
    MAX_CHANNELS_RATIO = 2,       /* of all spikes, by those of the convolution's input */
    MIN_FLOPS = 10 * 1000 * 1000, /* of a convolution: beside a branch's few microseconds */
    MIN_REDUCED = 8,
    SAMPLE = 1 << 14 /* spikes that are looked at, about */
};

/* Where so many of the terms are 1, additions of vectors take as long as the product: measured;
 * less by as much as Winograd's F(4) leaves out. RATE_MOST: the sparse kernel's own limit.
 * SUMS_TIME: what the convolution as written takes with the sums and 1x1 convolutions before it, by
 * itself. */
#define RATE_LIMIT 0.54f
#define RATE_MOST 0.35f
#define SUMS_TIME 1.2f

/* ---- The rate -------------------------------------------------------------------------------- */

/* The share of spikes that are 1, by a sample of positions; a scalar. */
static tdn_value *rate_of(tdn_spikes *s, tdn_spike_train *t)
{
    const tdn_shape *x = &t->spikes->shape;
    int64_t starts[TDN_MAX_RANK], steps[TDN_MAX_RANK], extents[TDN_MAX_RANK];
    int64_t axes[TDN_MAX_RANK], more = tdn_shape_count(x) / SAMPLE;
    if (t->rate)
        return t->rate;
    for (int i = x->rank - 1; i >= 0; i--) { /* positions are left out, channels are not */
        steps[i] = i == 1 || more < 2 ? 1 : more < x->dims[i] ? more : x->dims[i];
        extents[i] = (x->dims[i] + steps[i] - 1) / steps[i];
        starts[i] = (x->dims[i] - 1 - (extents[i] - 1) * steps[i]) / 2; /* not the border alone */
        more /= steps[i];
        axes[i] = i;
    }
    tdn_infer io = tdn_infer_at(s->g, t->spikes->producer->next, s->error);
    t->rate = tdn_emit_slice(&io, t->spikes, starts, steps, extents);
    t->rate = tdn_emit_reduce(&io, t->rate, "mean", axes, x->rank, false);
    if (!t->rate)
        tdn_spikes_give_up(s, "a rate");
    return t->rate;
}

static float rate_limit(const tdn_spikes *s, const tdn_node *conv)
{
    const tdn_shape *w = &conv->in[1]->shape;
    int n;
    const int64_t *strides = tdn_attr_ints(&conv->attrs, "strides", &n);
    float limit = RATE_LIMIT;
    for (int i = 0; i < n && i + 2 < w->rank; i++)
        if (w->dims[2 + i] > 1 && strides[i] == 1)
            limit *= (float)(w->dims[2 + i] + 3) / (float)(w->dims[2 + i] * 4);
    if (!tdn_spikes_is_binary(s, conv->in[0]))
        limit *= SUMS_TIME;
    return limit < RATE_MOST ? limit : RATE_MOST;
}

/* Are few enough of the terms of a convolution not 0? */
static tdn_value *are_rare(tdn_spikes *s, tdn_infer *io, const tdn_spike_form *x,
                           const tdn_node *conv)
{
    const tdn_shape *in = &conv->in[0]->shape;
    tdn_expr e = {0};
    tdn_value *rates[TDN_SPIKE_MAX_TERMS];
    int sum = -1, n = 0;
    for (int i = 0; i < x->n; i++) {
        if (!tdn_spike_varies(&x->terms[i], in->dims[0]))
            continue;
        tdn_spike_train *t = x->terms[i].train;
        rates[n] = rate_of(s, t);
        if (!rates[n])
            return NULL;
        const float share = (float)t->spikes->shape.dims[1] / (float)in->dims[1];
        const int part =
            tdn_expr_add(&e, TDN_X_MUL, tdn_expr_input(&e, n), tdn_expr_const(&e, share), 0);
        sum = n++ == 0 ? part : tdn_expr_add(&e, TDN_X_ADD, sum, part, 0);
    }
    tdn_expr_store(&e, tdn_expr_add(&e, TDN_X_LE, sum, tdn_expr_const(&e, rate_limit(s, conv)), 0),
                   0);
    return tdn_emit_map(io, rates, n, &e, TDN_BOOL);
}

/* ---- Both ways ------------------------------------------------------------------------------- */

/* The map right behind a convolution that reads nothing else but constants, or NULL. */
static tdn_node *map_behind(const tdn_spikes *s, const tdn_node *conv)
{
    tdn_node *n = tdn_value_only_user(s->g, conv->out[0]);
    if (!n || n->op->core != TDN_CORE_MAP || n->n_out != 1 || n->out[0]->dtype != TDN_F32 ||
        !tdn_shape_equal(&n->out[0]->shape, &conv->out[0]->shape))
        return NULL;
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i] != conv->out[0] && n->in[i]->kind != TDN_VALUE_CONST)
            return NULL;
    return n;
}

/* What the map makes of v instead. */
static tdn_value *mapped(tdn_spikes *s, tdn_infer *io, const tdn_node *map, const tdn_value *from,
                         tdn_value *v)
{
    tdn_value *in[TDN_EXPR_MAX_IN];
    if (!v || !map)
        return v;
    for (int i = 0; i < map->n_in; i++)
        in[i] = map->in[i] == from ? v : map->in[i];
    v = tdn_node_copy(s->g, io->node, map, in, &map->out[0]->shape);
    if (!v)
        tdn_spikes_give_up(s, "a map");
    return v;
}

/* Copies (m, k, taps) to the channels from `at` on of (m, all, taps). */
static void put_channels(float *to, const float *from, int64_t m, int64_t k, int64_t all,
                         int64_t at, int64_t taps)
{
    for (int64_t row = 0; row < m; row++)
        memcpy(to + (row * all + at) * taps, from + row * k * taps,
               (size_t)(k * taps) * sizeof *to);
}

/* The convolution's weights for the spikes of n terms, side by side. */
static tdn_value *weights_of(tdn_spikes *s, const tdn_node *conv, const tdn_spike_term *terms,
                             int n)
{
    tdn_shape shape = conv->in[1]->shape;
    if (n == 1 && !terms[0].weights)
        return conv->in[1];
    shape.dims[1] = 0;
    for (int i = 0; i < n; i++)
        shape.dims[1] += terms[i].train->spikes->shape.dims[1];
    float *w = tdn_arena_alloc_data(s->g->arena, (size_t)tdn_shape_count(&shape) * sizeof *w);
    for (int64_t i = 0, at = 0; w && i < n; i++) {
        const int64_t k = terms[i].train->spikes->shape.dims[1];
        const float *part = tdn_spike_weights(s, conv->in[1], terms[i].weights, k);
        if (!part)
            return NULL;
        put_channels(w, part, shape.dims[0], k, shape.dims[1], at, tdn_spike_taps(conv));
        at += k;
    }
    return w ? tdn_graph_const(s->g, NULL, TDN_F32, &shape, w) : NULL;
}

/* The convolution of those spikes that vary from step to step, or of the others. */
static tdn_value *conv_of_spikes(tdn_spikes *s, tdn_infer *io, const tdn_node *conv,
                                 const tdn_spike_form *x, bool varying)
{
    const int64_t steps = conv->in[0]->shape.dims[0];
    tdn_value *spikes[TDN_SPIKE_MAX_TERMS];
    tdn_spike_term terms[TDN_SPIKE_MAX_TERMS];
    int n = 0;
    for (int i = 0; i < x->n; i++)
        if (tdn_spike_varies(&x->terms[i], steps) == varying) {
            terms[n] = x->terms[i];
            spikes[n++] = x->terms[i].train->spikes;
        }
    tdn_value *x_all = n == 1 ? spikes[0] : tdn_emit_concat(io, spikes, n, 1);
    return tdn_spike_conv(s, io->node, conv, x_all, weights_of(s, conv, terms, n));
}

/* The convolution of the spikes and of the rest. */
static tdn_value *accumulated(tdn_spikes *s, tdn_infer *io, tdn_node *conv, const tdn_spike_form *x)
{
    const int64_t steps = conv->in[0]->shape.dims[0];
    tdn_value *once = x->once ? tdn_spike_conv(s, conv, conv, x->once, conv->in[1]) : NULL;
    tdn_value *same =
        tdn_spike_channels(x, steps, false) > 0 ? conv_of_spikes(s, io, conv, x, false) : NULL;
    tdn_value *rest = same && once ? tdn_emit_binary(io, TDN_X_ADD, same, once)
                      : same       ? same
                                   : once;
    tdn_value *sum = conv_of_spikes(s, io, conv, x, true);
    if (sum && rest)
        sum = tdn_emit_binary(io, TDN_X_ADD, sum, rest);
    if (!sum || (same && once && !rest))
        tdn_spikes_give_up(s, "a sum");
    return s->status == TDN_OK ? sum : NULL;
}

/* The convolution as it is written. */
static tdn_value *written(tdn_spikes *s, tdn_infer *io, const tdn_node *conv)
{
    tdn_value *x = tdn_spike_rebuild(s, io, conv->in[0]);
    tdn_value *v = tdn_spike_conv(s, io->node, conv, x, conv->in[1]);
    if (v && !tdn_node_set_int(s->g, v->producer, "dense", 1))
        tdn_spikes_give_up(s, "a convolution");
    return s->status == TDN_OK ? v : NULL;
}

static tdn_status split_conv(tdn_spikes *s, tdn_node *conv, const tdn_spike_form *x)
{
    tdn_node *map = map_behind(s, conv), *last = map ? map : conv;
    tdn_infer io = tdn_infer_at(s->g, last, s->error);
    tdn_value *in[3] = {are_rare(s, &io, x, conv)};
    in[1] = in[0] ? mapped(s, &io, map, conv->out[0], accumulated(s, &io, conv, x)) : NULL;
    in[2] = in[1] ? mapped(s, &io, map, conv->out[0], written(s, &io, conv)) : NULL;
    tdn_value *v = in[2] ? tdn_emit(&io, "tendon", "Either", in, 3, NULL, 0) : NULL;
    if (!v)
        tdn_spikes_give_up(s, "a choice");
    else
        tdn_emit_replace(&io, 0, v);
    return s->status;
}

static bool suits_conv(tdn_spikes *s, const tdn_node *n, const tdn_spike_form **x)
{
    if (!tdn_spike_takes_conv(n) || tdn_node_flops(n) < MIN_FLOPS)
        return false;
    *x = tdn_spike_form_of(s, n->in[0]);
    if (!*x || !tdn_spike_products_suit(n, *x) || !tdn_spike_is_finite(n->in[1]))
        return false;
    const tdn_shape *in = &n->in[0]->shape;
    const int64_t channels = tdn_spike_channels(*x, in->dims[0], true);
    const bool is_split = !tdn_spikes_is_binary(s, n->in[0]);
    return channels > 0 && channels <= MAX_CHANNELS_RATIO * in->dims[1] &&
           (is_split || tdn_spike_taps(n) > 1); /* else the sparse kernel has both ways itself */
}

/* ---- Means ----------------------------------------------------------------------------------- */

static bool suits_reduce(tdn_spikes *s, const tdn_node *n, const tdn_spike_form **x)
{
    const char *kind = tdn_attr_string(&n->attrs, "kind", "");
    int n_axes;
    const int64_t *axes = tdn_attr_ints(&n->attrs, "axes", &n_axes);
    if (n->op->core != TDN_CORE_REDUCE || n->expr || n->in[0]->dtype != TDN_F32 ||
        strcmp(kind, "mean") != 0 || tdn_attr_int(&n->attrs, "keepdims", 1) == 0 ||
        tdn_spikes_is_binary(s, n->in[0]))
        return false;
    for (int i = 0; i < n_axes; i++)
        if (axes[i] < 2)
            return false;
    if (tdn_shape_count(&n->in[0]->shape) < MIN_REDUCED * tdn_shape_count(&n->out[0]->shape))
        return false;
    *x = tdn_spike_form_of(s, n->in[0]);
    return *x && tdn_spike_channels(*x, n->in[0]->shape.dims[0], true) > 0;
}

static tdn_value *reduced(tdn_infer *io, tdn_value *x)
{
    int n_axes;
    const int64_t *axes = tdn_attr_ints(&io->node->attrs, "axes", &n_axes);
    return tdn_emit_reduce(io, x, "mean", axes, n_axes, true);
}

/* The channels of t.weights from those of the spikes, of a reduced term. */
static tdn_value *spread(tdn_spikes *s, tdn_infer *io, const tdn_spike_term *t, tdn_value *x,
                         int64_t channels)
{
    const int rank = x->shape.rank, n = rank - 2;
    tdn_window window = {.n = n};
    tdn_shape shape = {.rank = rank, .dims = {channels, x->shape.dims[1]}};
    for (int i = 0; i < n; i++)
        shape.dims[2 + i] = window.stride[i] = window.dilation[i] = 1;
    tdn_value *in[2] = {x, tdn_graph_const(s->g, NULL, TDN_F32, &shape, t->weights)};
    return in[1] ? tdn_emit_conv(io, "Conv", in, 2, &window) : NULL;
}

static tdn_status split_reduce(tdn_spikes *s, tdn_node *n, const tdn_spike_form *x)
{
    tdn_infer io = tdn_infer_at(s->g, n, s->error);
    tdn_value *sum = x->once ? reduced(&io, x->once) : NULL;
    for (int i = 0; i < x->n; i++) {
        const tdn_spike_term *t = &x->terms[i];
        tdn_value *v = reduced(&io, t->train->spikes);
        if (v && t->weights)
            v = spread(s, &io, t, v, n->out[0]->shape.dims[1]);
        sum = v && sum ? tdn_emit_binary(&io, TDN_X_ADD, v, sum) : v;
        if (!sum) {
            tdn_spikes_give_up(s, "a mean");
            return s->status;
        }
    }
    tdn_emit_replace(&io, 0, sum);
    return TDN_OK;
}

/* Last first: what is found of a value is of the graph as it was. */
tdn_status tdn_pass_spikes(tdn_graph *g, tdn_error *error)
{
    tdn_spikes s;
    TDN_TRY(tdn_spikes_begin(&s, g, error));
    for (tdn_node *n = g->last, *prev; n && s.status == TDN_OK; n = prev) {
        const tdn_spike_form *x = NULL;
        prev = n->prev;
        if (n->n_out != 1 || n->out[0]->id >= s.n_ids)
            continue;
        if (suits_conv(&s, n, &x))
            TDN_TRY(split_conv(&s, n, x));
        else if (suits_reduce(&s, n, &x))
            TDN_TRY(split_reduce(&s, n, x));
    }
    return s.status;
}
