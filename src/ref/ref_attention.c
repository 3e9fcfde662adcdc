/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of Attention and RotaryEmbedding, and of Attend, what the compiler makes of attention
 * written in small operators.
 *
 * The first two take heads as an axis (batch, head, position, element) or folded into the last one
 * (batch, position, element): the second is read as the first through its strides. Attention does
 * one query after the other: scores, bias, softmax and the weighted values in double, in scratch. A
 * query that may see no key at all gets zeros.
 */
#include <math.h>
#include <string.h>

#include "ref/ref_util.h"

/* As (batch, head, position, element); false where the heads do not divide the last axis. */
static bool by_heads(const tdn_view *v, int64_t heads, tdn_view *out)
{
    *out = *v;
    if (v->rank == 4)
        return true;
    if (v->rank != 3 || heads < 1 || v->dims[2] % heads)
        return false;
    const int64_t size = v->dims[2] / heads;
    out->rank = 4;
    out->dims[1] = heads;
    out->strides[1] = size * v->strides[2];
    out->dims[2] = v->dims[1];
    out->strides[2] = v->strides[1];
    out->dims[3] = size;
    out->strides[3] = v->strides[2];
    return true;
}

static int64_t at(const tdn_view *v, int64_t b, int64_t h, int64_t i, int64_t k)
{
    return b * v->strides[0] + h * v->strides[1] + i * v->strides[2] + k * v->strides[3];
}

/* ---- Attention ------------------------------------------------------------------------------- */

typedef struct attention {
    tdn_view q, k, v, y; /* (batch, head, position, element) */
    const tdn_view *past_k, *past_v;
    tdn_view mask;           /* broadcast over the scores, its own last extent; dtype NONE: none */
    const tdn_view *lengths; /* (batch): keys that count; NULL: all */
    const tdn_view *scores;  /* output 3, or NULL */
    int64_t n_past, n_keys, group; /* group: query heads a key head */
    int64_t left, right, mode;     /* window, -1: open; what output 3 holds */
    double scale, cap;
    bool causal;
} attention;

static bool read_operands(const tdn_ref_call *call, attention *a)
{
    if (call->n_in < 3 || !tdn_ref_out(call, 0))
        return false;
    const int64_t q_heads = tdn_attr_int(call->attrs, "q_num_heads", 0);
    const int64_t kv_heads = tdn_attr_int(call->attrs, "kv_num_heads", 0);
    if (!by_heads(&call->in[0], q_heads, &a->q) || !by_heads(&call->in[1], kv_heads, &a->k) ||
        !by_heads(&call->in[2], kv_heads, &a->v) || !by_heads(&call->out[0], q_heads, &a->y))
        return false;
    a->past_k = tdn_ref_in(call, 4);
    a->past_v = tdn_ref_in(call, 5);
    a->lengths = tdn_ref_in(call, 6);
    a->scores = tdn_ref_out(call, 3);
    return true;
}

/* (batch, heads, any, element) as the new keys or values have them. */
static bool fits_cache(const tdn_view *cache, const tdn_view *fresh, int64_t positions)
{
    return !cache || (cache->rank == 4 && cache->dims[0] == fresh->dims[0] &&
                      cache->dims[1] == fresh->dims[1] && cache->dims[2] == positions &&
                      cache->dims[3] == fresh->dims[3]);
}

static bool check_operands(const attention *a)
{
    const int64_t batch = a->q.dims[0], n = a->q.dims[2], heads = a->q.dims[1];
    return (a->past_k != NULL) == (a->past_v != NULL) && a->k.dims[0] == batch &&
           a->v.dims[0] == batch && a->k.dims[1] > 0 && heads % a->k.dims[1] == 0 &&
           a->v.dims[1] == a->k.dims[1] && a->k.dims[2] == a->v.dims[2] &&
           a->k.dims[3] == a->q.dims[3] && a->y.dims[0] == batch && a->y.dims[1] == heads &&
           a->y.dims[2] == n && a->y.dims[3] == a->v.dims[3] &&
           (!a->past_k || a->past_k->rank == 4) && fits_cache(a->past_k, &a->k, a->n_past) &&
           fits_cache(a->past_v, &a->v, a->n_past) &&
           (!a->lengths || (a->lengths->rank == 1 && a->lengths->dims[0] == batch)) &&
           (!a->scores ||
            (a->scores->rank == 4 && a->scores->dims[0] == batch && a->scores->dims[1] == heads &&
             a->scores->dims[2] == n && a->scores->dims[3] == a->n_keys));
}

static tdn_status read_attention(const tdn_ref_call *call, attention *a)
{
    *a = (attention){0};
    TDN_REF_NEED(call, read_operands(call, a));
    a->n_past = a->past_k && a->past_k->rank == 4 ? a->past_k->dims[2] : 0;
    a->n_keys = a->n_past + a->k.dims[2];
    TDN_REF_NEED(call, check_operands(a));
    a->group = a->q.dims[1] / a->k.dims[1];
    const tdn_view *mask = tdn_ref_in(call, 3);
    if (mask) {
        TDN_REF_NEED(call, mask->rank >= 1 && mask->rank <= 4);
        const int64_t dims[4] = {a->q.dims[0], a->q.dims[1], a->q.dims[2],
                                 mask->dims[mask->rank - 1]};
        TDN_REF_NEED(call, tdn_view_broadcast(mask, 4, dims, &a->mask));
    }
    const double usual = 1 / sqrt((double)(a->q.dims[3] > 0 ? a->q.dims[3] : 1));
    const tdn_attr *scale = tdn_attr_find(call->attrs, "scale");
    a->scale = scale && scale->kind == TDN_ATTR_FLOAT ? (double)scale->f : usual;
    a->cap = (double)tdn_attr_float(call->attrs, "softcap", 0);
    a->causal = tdn_attr_int(call->attrs, "is_causal", 0) != 0;
    a->left = tdn_attr_int(call->attrs, "left_window_size", -1);
    a->right = tdn_attr_int(call->attrs, "right_window_size", -1);
    a->mode = tdn_attr_int(call->attrs, "qk_matmul_output_mode", 0);
    return TDN_OK;
}

/* What is added to the score of query i and key j: 0 or the mask's number, -INFINITY where i may
 * not see j. */
static double bias_of(const attention *a, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const int64_t length =
        a->lengths ? tdn_view_get_int(a->lengths, b * a->lengths->strides[0]) : a->n_keys;
    const int64_t before = a->past_k    ? a->n_past
                           : a->lengths ? length - a->q.dims[2]
                                        : 0; /* keys before the queries */
    const int64_t distance = before + i - j; /* how far back the key is */
    if (j >= length || (a->causal && distance < 0))
        return -INFINITY;
    if ((a->left >= 0 && distance > a->left) || (a->right >= 0 && -distance > a->right))
        return -INFINITY;
    if (a->mask.dtype == TDN_DTYPE_NONE)
        return 0;
    if (j >= a->mask.dims[3])
        return -INFINITY;
    const double m = tdn_ref_get(&a->mask, at(&a->mask, b, h, i, j));
    return a->mask.dtype == TDN_BOOL ? (m != 0 ? 0 : -INFINITY) : m;
}

/* Key or value j: from the past or from what is new. */
static const tdn_view *keyed(const tdn_view *past, const tdn_view *fresh, int64_t n_past,
                             int64_t *j)
{
    if (*j < n_past)
        return past;
    *j -= n_past;
    return fresh;
}

static double score_of(const attention *a, int64_t b, int64_t h, int64_t i, int64_t j)
{
    const tdn_view *k = keyed(a->past_k, &a->k, a->n_past, &j);
    double sum = 0;
    for (int64_t e = 0; e < a->q.dims[3]; e++)
        sum += tdn_ref_get(&a->q, at(&a->q, b, h, i, e)) *
               tdn_ref_get(k, at(k, b, h / a->group, j, e));
    sum *= a->scale;
    return a->cap > 0 ? a->cap * tanh(sum / a->cap) : sum;
}

static void softmax(double *p, int64_t n)
{
    double max = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++)
        max = fmax(max, p[j]);
    for (int64_t j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - max);
    for (int64_t j = 0; j < n; j++)
        p[j] /= sum;
}

static void put_scores(const attention *a, int64_t b, int64_t h, int64_t i, const double *p)
{
    for (int64_t j = 0; j < a->n_keys; j++)
        tdn_ref_set(a->scores, at(a->scores, b, h, i, j), p[j]);
}

/* One query. p and bias have n_keys places each; sum has one an element of the values. */
static void attend(const attention *a, int64_t b, int64_t h, int64_t i, double *p, double *bias,
                   double *sum)
{
    const int64_t n = a->n_keys, size = a->v.dims[3];
    bool sees = false;
    for (int64_t j = 0; j < n; j++) {
        p[j] = score_of(a, b, h, i, j);
        bias[j] = bias_of(a, b, h, i, j);
        sees = sees || bias[j] != -INFINITY;
    }
    if (a->scores && a->mode < 2)
        put_scores(a, b, h, i, p);
    for (int64_t j = 0; j < n; j++)
        p[j] = bias[j] == -INFINITY ? -INFINITY : p[j] + bias[j];
    if (a->scores && a->mode == 2)
        put_scores(a, b, h, i, p);
    if (sees)
        softmax(p, n);
    else
        memset(p, 0, (size_t)n * sizeof *p);
    if (a->scores && a->mode == 3)
        put_scores(a, b, h, i, p);
    memset(sum, 0, (size_t)size * sizeof *sum);
    for (int64_t key = 0; key < n; key++) {
        int64_t j = key;
        const tdn_view *v = keyed(a->past_v, &a->v, a->n_past, &j);
        for (int64_t e = 0; p[key] != 0 && e < size; e++)
            sum[e] += p[key] * tdn_ref_get(v, at(v, b, h / a->group, j, e));
    }
    for (int64_t e = 0; e < size; e++)
        tdn_ref_set(&a->y, at(&a->y, b, h, i, e), sum[e]);
}

/* Outputs 1 and 2: the past and what is new, one behind the other. */
static tdn_status put_present(const tdn_ref_call *call, int out, const tdn_view *past,
                              const tdn_view *fresh, int64_t n_past)
{
    const tdn_view *y = tdn_ref_out(call, out);
    if (!y)
        return TDN_OK;
    TDN_REF_NEED(call, y->dtype == fresh->dtype && (!past || past->dtype == y->dtype) &&
                           fits_cache(y, fresh, n_past + fresh->dims[2]));
    for (int k = 0; k < 2; k++) {
        if (k == 0 && !past)
            continue;
        tdn_place to = tdn_place_of(y);
        const tdn_place from = tdn_place_of(k ? fresh : past);
        tdn_place_narrow(&to, 2, k ? n_past : 0, 1, from.view.dims[2]);
        tdn_ref_copy(&to, &from, 0, 1);
    }
    return TDN_OK;
}

static tdn_status attention_run(const tdn_ref_call *call)
{
    attention a;
    TDN_TRY(read_attention(call, &a));
    if (call->part == 0) {
        TDN_TRY(put_present(call, 1, a.past_k, &a.k, a.n_past));
        TDN_TRY(put_present(call, 2, a.past_v, &a.v, a.n_past));
    }
    double *p = call->scratch, *bias = p + a.n_keys, *sum = bias + a.n_keys;
    const int64_t heads = a.q.dims[1], n = a.q.dims[2];
    int64_t unit, end;
    tdn_ref_share(a.q.dims[0] * heads * n, call->part, call->n_parts, &unit, &end);
    for (; unit < end; unit++)
        attend(&a, unit / n / heads, unit / n % heads, unit % n, p, bias, sum);
    return TDN_OK;
}

static size_t attention_scratch(const tdn_ref_call *call)
{
    attention a;
    size_t size;
    tdn_ref_call quiet = *call;
    quiet.error = NULL;
    if (read_attention(&quiet, &a) != TDN_OK)
        return 0;
    const bool fits = tdn_size_mul((size_t)a.n_keys, 2, &size) &&
                      tdn_size_add(size, (size_t)a.v.dims[3], &size) &&
                      tdn_size_mul(size, sizeof(double), &size);
    return fits ? size : SIZE_MAX;
}

static int attention_parts(const tdn_ref_call *call)
{
    attention a;
    tdn_ref_call quiet = *call;
    quiet.error = NULL;
    if (read_attention(&quiet, &a) != TDN_OK)
        return 1;
    const int64_t n = a.q.dims[0] * a.q.dims[1] * a.q.dims[2];
    const int work = tdn_ref_parts_of(&call->out[0], a.n_keys);
    return n < work ? (n < 1 ? 1 : (int)n) : work;
}

/* ---- Rotary embedding ------------------------------------------------------------------------ */

typedef struct rotary {
    tdn_view x, y; /* (batch, head, position, element) */
    const tdn_view *cos, *sin, *ids;
    int64_t half; /* pairs that turn */
    bool interleaved;
} rotary;

/* Where the angles of a position are in a cache: (positions, half) by id, or (batch, position,
 * half). */
static tdn_status angle_row(const tdn_ref_call *call, const rotary *r, const tdn_view *cache,
                            int64_t b, int64_t i, int64_t *row)
{
    if (!r->ids) {
        *row = b * cache->strides[0] + i * cache->strides[1];
        return TDN_OK;
    }
    const int64_t id = tdn_view_get_int(r->ids, b * r->ids->strides[0] + i * r->ids->strides[1]);
    if (id < 0 || id >= cache->dims[0])
        return tdn_fail(call->error, TDN_E_MODEL, "position %lld outside of a cache of %lld",
                        (long long)id, (long long)cache->dims[0]);
    *row = id * cache->strides[0];
    return TDN_OK;
}

static tdn_status turn(const tdn_ref_call *call, const rotary *r, int64_t b, int64_t h, int64_t i)
{
    int64_t cos_row, sin_row;
    TDN_TRY(angle_row(call, r, r->cos, b, i, &cos_row));
    TDN_TRY(angle_row(call, r, r->sin, b, i, &sin_row));
    const int last = r->cos->rank - 1;
    for (int64_t k = 0; k < r->half; k++) {
        const int64_t first = r->interleaved ? 2 * k : k,
                      second = r->interleaved ? 2 * k + 1 : k + r->half;
        const double c = tdn_ref_get(r->cos, cos_row + k * r->cos->strides[last]);
        const double s = tdn_ref_get(r->sin, sin_row + k * r->sin->strides[last]);
        const double u = tdn_ref_get(&r->x, at(&r->x, b, h, i, first));
        const double v = tdn_ref_get(&r->x, at(&r->x, b, h, i, second));
        tdn_ref_set(&r->y, at(&r->y, b, h, i, first), c * u - s * v);
        tdn_ref_set(&r->y, at(&r->y, b, h, i, second), s * u + c * v);
    }
    for (int64_t k = 2 * r->half; k < r->x.dims[3]; k++)
        tdn_ref_set(&r->y, at(&r->y, b, h, i, k), tdn_ref_get(&r->x, at(&r->x, b, h, i, k)));
    return TDN_OK;
}

static bool fits_angles(const rotary *r, const tdn_view *cache)
{
    if (r->ids)
        return cache->rank == 2 && cache->dims[1] == r->half;
    return cache->rank == 3 && cache->dims[0] == r->x.dims[0] && cache->dims[1] == r->x.dims[2] &&
           cache->dims[2] == r->half;
}

static tdn_status rotary_run(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 3 && call->n_out >= 1);
    const int64_t heads = tdn_attr_int(call->attrs, "num_heads", 0);
    const int64_t size = tdn_attr_int(call->attrs, "rotary_embedding_dim", 0);
    rotary r = {.cos = &call->in[1], .sin = &call->in[2], .ids = tdn_ref_in(call, 3)};
    TDN_REF_NEED(call, by_heads(&call->in[0], heads, &r.x) && by_heads(&call->out[0], heads, &r.y));
    r.half = (size ? size : r.x.dims[3]) / 2;
    r.interleaved = tdn_attr_int(call->attrs, "interleaved", 0) != 0;
    TDN_REF_NEED(call, tdn_view_same_dims(&r.x, &r.y) && r.half >= 0 && 2 * r.half <= r.x.dims[3]);
    TDN_REF_NEED(call, !r.ids || (r.ids->rank == 2 && r.ids->dims[0] == r.x.dims[0] &&
                                  r.ids->dims[1] == r.x.dims[2]));
    TDN_REF_NEED(call, fits_angles(&r, r.cos) && fits_angles(&r, r.sin));
    for (tdn_walk w = tdn_walk_begin(3, r.x.dims); w.more; tdn_walk_next(&w))
        TDN_TRY(turn(call, &r, w.index[0], w.index[1], w.index[2]));
    return TDN_OK;
}

/* ---- Attend ---------------------------------------------------------------------------------- */

typedef struct weighing {
    tdn_view q, k, v, mask, y; /* of the result's batches; v or mask of dtype NONE: none */
    double scale, *weights, *mean;
} weighing;

/* As (batches of the result..., rows, cols). */
static bool of_batches(const tdn_view *x, const tdn_view *y, int64_t rows, int64_t cols,
                       tdn_view *out)
{
    int64_t dims[TDN_MAX_RANK];
    memcpy(dims, y->dims, sizeof dims);
    dims[y->rank - 2] = rows;
    dims[y->rank - 1] = cols;
    return tdn_view_broadcast(x, y->rank, dims, out);
}

static bool read_attend(const tdn_ref_call *call, weighing *a)
{
    const bool is_mean = tdn_attr_int(call->attrs, "mean", 0) != 0;
    const int n_own = is_mean ? 2 : 3;
    if (call->n_in < n_own || call->n_out < 1 || call->out[0].rank < 2)
        return false;
    for (int i = 0; i < n_own; i++)
        if (call->in[i].rank < 2)
            return false;
    const tdn_view *q = &call->in[0], *k = &call->in[1], *y = &call->out[0];
    const int64_t rows = q->dims[q->rank - 2], depth = q->dims[q->rank - 1];
    const int64_t n_keys = k->dims[k->rank - 1], width = y->dims[y->rank - 1];
    *a = (weighing){.y = *y, .scale = (double)tdn_attr_float(call->attrs, "scale", 1)};
    a->weights = call->scratch;
    a->mean = is_mean ? a->weights + n_keys : NULL;
    return y->dims[y->rank - 2] == (is_mean ? 1 : rows) && (!is_mean || width == n_keys) &&
           of_batches(q, y, rows, depth, &a->q) && of_batches(k, y, depth, n_keys, &a->k) &&
           (is_mean || of_batches(&call->in[2], y, n_keys, width, &a->v)) &&
           (!tdn_ref_in(call, n_own) || of_batches(&call->in[n_own], y, rows, n_keys, &a->mask));
}

static double element(const tdn_view *v, int64_t batch, int64_t i, int64_t k)
{
    return tdn_ref_get(v, batch + i * v->strides[v->rank - 2] + k * v->strides[v->rank - 1]);
}

static void weigh_keys(const weighing *a, const tdn_walk *w, int64_t row)
{
    const int64_t n = a->k.dims[a->k.rank - 1], q = tdn_walk_offset(w, &a->q);
    const int64_t k = tdn_walk_offset(w, &a->k), mask = tdn_walk_offset(w, &a->mask);
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++) {
        double score = 0;
        for (int64_t i = 0; i < a->q.dims[a->q.rank - 1]; i++)
            score += element(&a->q, q, row, i) * element(&a->k, k, i, j);
        a->weights[j] = score * a->scale;
        if (a->mask.dtype != TDN_DTYPE_NONE)
            a->weights[j] += element(&a->mask, mask, row, j);
        largest = a->weights[j] > largest ? a->weights[j] : largest;
    }
    for (int64_t j = 0; j < n; j++)
        sum += a->weights[j] = exp(a->weights[j] - largest);
    for (int64_t j = 0; j < n; j++)
        a->weights[j] /= sum;
}

static tdn_status attend_run(const tdn_ref_call *call)
{
    weighing a;
    TDN_REF_NEED(call, read_attend(call, &a));
    const int64_t rows = a.q.dims[a.q.rank - 2], n = a.k.dims[a.k.rank - 1];
    const int64_t *strides = a.y.strides + a.y.rank - 2, width = a.y.dims[a.y.rank - 1];
    for (tdn_walk w = tdn_walk_begin(a.y.rank - 2, a.y.dims); w.more; tdn_walk_next(&w)) {
        const int64_t y = tdn_walk_offset(&w, &a.y), v = tdn_walk_offset(&w, &a.v);
        if (a.mean)
            memset(a.mean, 0, (size_t)n * sizeof *a.mean);
        for (int64_t row = 0; row < rows; row++) {
            weigh_keys(&a, &w, row);
            for (int64_t j = 0; a.mean && j < n; j++)
                a.mean[j] += a.weights[j] / (double)rows;
            for (int64_t e = 0; !a.mean && e < width; e++) {
                double sum = 0;
                for (int64_t j = 0; j < n; j++)
                    sum += a.weights[j] * element(&a.v, v, j, e);
                tdn_ref_set(&a.y, y + row * strides[0] + e * strides[1], sum);
            }
        }
        for (int64_t j = 0; a.mean && j < n; j++)
            tdn_ref_set(&a.y, y + j * strides[1], a.mean[j]);
    }
    return TDN_OK;
}

static size_t attend_scratch(const tdn_ref_call *call)
{
    size_t size = 0;
    if (call->n_in < 2 || call->in[1].rank < 2)
        return 0;
    const int64_t n_keys = call->in[1].dims[call->in[1].rank - 1];
    return tdn_size_mul((size_t)n_keys, 2 * sizeof(double), &size) ? size : SIZE_MAX;
}

const tdn_ref_def tdn_refs_attention[] = {
    {"Attend", attend_run, attend_scratch, NULL},
    {"Attention", attention_run, attention_scratch, attention_parts},
    {"RotaryEmbedding", rotary_run, NULL, NULL},
    {0},
};
