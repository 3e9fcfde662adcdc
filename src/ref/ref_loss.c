/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of losses. Scores are (batch, classes, ...), the target names a class for each of the
 * other positions. A position whose target is `ignore_index` has no loss and no weight in the mean,
 * and only there the target may be no class.
 */
#include <math.h>
#include <string.h>

#include "ref/ref_util.h"

typedef struct loss {
    const tdn_view *x, *target, *weight; /* weight: NULL, all 1 */
    const tdn_view *y, *log_prob;        /* log_prob: NULL, not asked for */
    int64_t n_classes, ignored;
    bool has_ignored, is_log; /* is_log: the scores are logarithms of probabilities already */
    double sum, weights;
} loss;

static bool fits_target(const loss *l)
{
    bool fits = l->target->rank == l->x->rank - 1;
    for (int i = 0; fits && i < l->target->rank; i++)
        fits = l->target->dims[i] == l->x->dims[i ? i + 1 : 0];
    return fits;
}

/* Of the first class at the position that the walk over the target stands at. */
static int64_t first_class(const loss *l, const tdn_walk *w)
{
    int64_t at = w->index[0] * l->x->strides[0];
    for (int i = 1; i < w->rank; i++)
        at += w->index[i] * l->x->strides[i + 1];
    return at;
}

/* The logarithm of the sum of exponentials over the classes. */
static double log_sum(const loss *l, int64_t at)
{
    const int64_t step = l->x->strides[1];
    double max = -INFINITY, sum = 0;
    for (int64_t c = 0; c < l->n_classes; c++)
        max = fmax(max, tdn_ref_get(l->x, at + c * step));
    if (!isfinite(max))
        return max;
    for (int64_t c = 0; c < l->n_classes; c++)
        sum += exp(tdn_ref_get(l->x, at + c * step) - max);
    return max + log(sum);
}

static void put_log_prob(const loss *l, const tdn_walk *w, int64_t at, double norm)
{
    int64_t to = w->index[0] * l->log_prob->strides[0];
    for (int i = 1; i < w->rank; i++)
        to += w->index[i] * l->log_prob->strides[i + 1];
    for (int64_t c = 0; c < l->n_classes; c++)
        tdn_ref_set(l->log_prob, to + c * l->log_prob->strides[1],
                    tdn_ref_get(l->x, at + c * l->x->strides[1]) - norm);
}

static tdn_status add_position(const tdn_ref_call *call, loss *l, const tdn_walk *w)
{
    const int64_t class = tdn_view_get_int(l->target, tdn_walk_offset(w, l->target));
    const int64_t at = first_class(l, w);
    const double norm = l->is_log ? 0 : log_sum(l, at);
    double one = 0;
    if (l->log_prob)
        put_log_prob(l, w, at, norm);
    if (!l->has_ignored || class != l->ignored) {
        if (class < 0 || class >= l->n_classes)
            return tdn_fail(call->error, TDN_E_MODEL, "target %lld outside of %lld classes",
                            (long long)class, (long long)l->n_classes);
        const double weight = l->weight ? tdn_ref_get(l->weight, class * l->weight->strides[0]) : 1;
        one = weight * (norm - tdn_ref_get(l->x, at + class * l->x->strides[1]));
        l->weights += weight;
    }
    l->sum += one;
    if (l->y->rank > 0)
        tdn_ref_set(l->y, tdn_walk_offset(w, l->y), one);
    return TDN_OK;
}

static tdn_status run(const tdn_ref_call *call, bool is_log)
{
    TDN_REF_NEED(call, call->n_in >= 2 && tdn_ref_out(call, 0) && call->in[0].rank >= 2);
    loss l = {.x = &call->in[0],
              .target = &call->in[1],
              .weight = tdn_ref_in(call, 2),
              .y = &call->out[0],
              .log_prob = tdn_ref_out(call, 1),
              .n_classes = call->in[0].dims[1],
              .is_log = is_log,
              .ignored = tdn_attr_int(call->attrs, "ignore_index", 0),
              .has_ignored = tdn_attr_find(call->attrs, "ignore_index") != NULL};
    TDN_REF_NEED(call, fits_target(&l));
    TDN_REF_NEED(call, l.y->rank == 0 || tdn_view_same_dims(l.y, l.target));
    TDN_REF_NEED(call, !l.log_prob || tdn_view_same_dims(l.log_prob, l.x));
    TDN_REF_NEED(call, !l.weight || (l.weight->rank == 1 && l.weight->dims[0] == l.n_classes));
    for (tdn_walk w = tdn_walk_begin(l.target->rank, l.target->dims); w.more; tdn_walk_next(&w))
        TDN_TRY(add_position(call, &l, &w));
    const bool mean = strcmp(tdn_attr_string(call->attrs, "reduction", "mean"), "mean") == 0;
    if (l.y->rank == 0)
        tdn_ref_set(l.y, 0, mean ? l.sum / l.weights : l.sum);
    return TDN_OK;
}

static tdn_status nll_run(const tdn_ref_call *call) { return run(call, true); }
static tdn_status cross_entropy_run(const tdn_ref_call *call) { return run(call, false); }

const tdn_ref_def tdn_refs_loss[] = {
    {.name = "NegativeLogLikelihoodLoss", .run = nll_run},
    {.name = "SoftmaxCrossEntropyLoss", .run = cross_entropy_run},
    {0},
};
