/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reference of LinearAttention, position by position as its formulas say. Heads are folded into the
 * last axis. The state of a (batch, key head), key_size x value_size, is kept in double in scratch,
 * and a part does whole states.
 *
 *     S = exp(decay) S;  v' = beta (v - S^T k), or v;  S = S + k v'^T;  y = scale S^T q
 */
#include <math.h>
#include <string.h>

#include "ref/ref_util.h"

enum { MAX_HEADS = 1 << 20 };

typedef struct linear {
    const tdn_view *q, *k, *v, *past, *decay, *beta, *y, *present;
    int64_t batch, length, heads, group, key_size, value_size; /* group: query heads a key head */
    double scale;
    double *state, *update; /* update: value_size */
} linear;

static bool fits(const tdn_view *v, int64_t batch, int64_t length, int64_t last)
{
    return v && v->rank == 3 && v->dims[0] == batch && v->dims[1] == length && v->dims[2] == last;
}

static bool fits_state(const tdn_view *s, const linear *l)
{
    return !s || (s->rank == 4 && s->dims[0] == l->batch && s->dims[1] == l->heads &&
                  s->dims[2] == l->key_size && s->dims[3] == l->value_size);
}

/* Sizes from dims and attributes alone. */
static bool read_sizes(const tdn_ref_call *call, linear *l)
{
    const int64_t q_heads = tdn_attr_int(call->attrs, "q_num_heads", 0);
    *l = (linear){.heads = tdn_attr_int(call->attrs, "kv_num_heads", 0)};
    if (call->n_in < 3 || l->heads < 1 || q_heads < 1 || q_heads > MAX_HEADS || q_heads % l->heads)
        return false;
    l->q = &call->in[0];
    l->k = &call->in[1];
    l->v = &call->in[2];
    l->group = q_heads / l->heads;
    if (l->q->rank != 3 || l->k->rank != 3 || l->v->rank != 3)
        return false;
    l->batch = l->q->dims[0];
    l->length = l->q->dims[1];
    l->key_size = l->k->dims[2] / l->heads;
    l->value_size = l->v->dims[2] / l->heads;
    return true;
}

static bool read_operands(const tdn_ref_call *call, linear *l)
{
    l->past = tdn_ref_in(call, 3);
    l->decay = tdn_ref_in(call, 4);
    l->beta = tdn_ref_in(call, 5);
    l->y = tdn_ref_out(call, 0);
    l->present = tdn_ref_out(call, 1);
    const int64_t q_heads = l->heads * l->group, b = l->batch, n = l->length;
    int64_t units, q_size, y_size;
    if (__builtin_mul_overflow(b, l->heads, &units) ||
        __builtin_mul_overflow(q_heads, l->key_size, &q_size) ||
        __builtin_mul_overflow(q_heads, l->value_size, &y_size))
        return false;
    const double scale = (double)tdn_attr_float(call->attrs, "scale", 0);
    l->scale = scale != 0 ? scale : 1 / sqrt((double)(l->key_size > 0 ? l->key_size : 1));
    return fits(l->q, b, n, q_size) && fits(l->k, b, n, l->heads * l->key_size) &&
           fits(l->v, b, n, l->heads * l->value_size) && (!l->y || fits(l->y, b, n, y_size)) &&
           (!l->decay || fits(l->decay, b, n, l->heads) ||
            fits(l->decay, b, n, l->heads * l->key_size)) &&
           (!l->beta || fits(l->beta, b, n, l->heads) || fits(l->beta, b, n, 1)) &&
           fits_state(l->past, l) && fits_state(l->present, l);
}

static double at(const tdn_view *v, int64_t b, int64_t t, int64_t i)
{
    return tdn_ref_get(v, b * v->strides[0] + t * v->strides[1] + i * v->strides[2]);
}

static int64_t state_offset(const tdn_view *s, int64_t b, int64_t h, int64_t d, int64_t m)
{
    return b * s->strides[0] + h * s->strides[1] + d * s->strides[2] + m * s->strides[3];
}

static void forget(const linear *l, int64_t b, int64_t h, int64_t t)
{
    const bool a_head = l->decay->dims[2] == l->heads;
    for (int64_t d = 0; d < l->key_size; d++) {
        const double keep = exp(at(l->decay, b, t, a_head ? h : h * l->key_size + d));
        for (int64_t m = 0; m < l->value_size; m++)
            l->state[d * l->value_size + m] *= keep;
    }
}

static void write_state(const linear *l, int64_t b, int64_t h, int64_t t)
{
    for (int64_t m = 0; m < l->value_size; m++) {
        double known = 0;
        for (int64_t d = 0; l->beta && d < l->key_size; d++)
            known += l->state[d * l->value_size + m] * at(l->k, b, t, h * l->key_size + d);
        l->update[m] = at(l->v, b, t, h * l->value_size + m) - known;
        if (l->beta)
            l->update[m] *= at(l->beta, b, t, l->beta->dims[2] == 1 ? 0 : h);
    }
    for (int64_t d = 0; d < l->key_size; d++) {
        const double key = at(l->k, b, t, h * l->key_size + d);
        for (int64_t m = 0; m < l->value_size; m++)
            l->state[d * l->value_size + m] += key * l->update[m];
    }
}

static void read_state(const linear *l, int64_t b, int64_t q_head, int64_t t)
{
    for (int64_t m = 0; m < l->value_size; m++) {
        double sum = 0;
        for (int64_t d = 0; d < l->key_size; d++)
            sum += l->state[d * l->value_size + m] * at(l->q, b, t, q_head * l->key_size + d);
        tdn_ref_set(l->y,
                    b * l->y->strides[0] + t * l->y->strides[1] +
                        (q_head * l->value_size + m) * l->y->strides[2],
                    l->scale * sum);
    }
}

static void run_head(const linear *l, int64_t b, int64_t h)
{
    for (int64_t d = 0; d < l->key_size; d++)
        for (int64_t m = 0; m < l->value_size; m++)
            l->state[d * l->value_size + m] =
                l->past ? tdn_ref_get(l->past, state_offset(l->past, b, h, d, m)) : 0;
    for (int64_t t = 0; t < l->length; t++) {
        if (l->decay)
            forget(l, b, h, t);
        write_state(l, b, h, t);
        for (int64_t g = 0; l->y && g < l->group; g++)
            read_state(l, b, h * l->group + g, t);
    }
    for (int64_t d = 0; l->present && d < l->key_size; d++)
        for (int64_t m = 0; m < l->value_size; m++)
            tdn_ref_set(l->present, state_offset(l->present, b, h, d, m),
                        l->state[d * l->value_size + m]);
}

static size_t linear_scratch(const tdn_ref_call *call)
{
    linear l;
    size_t size;
    if (!read_sizes(call, &l))
        return 0;
    return tdn_size_mul((size_t)l.key_size + 1, (size_t)l.value_size, &size) &&
                   tdn_size_mul(size, sizeof(double), &size)
               ? size
               : SIZE_MAX;
}

static tdn_status linear_run(const tdn_ref_call *call)
{
    linear l;
    int64_t begin, end;
    TDN_REF_NEED(call, read_sizes(call, &l) && read_operands(call, &l));
    l.update = call->scratch;
    l.state = l.update + l.value_size;
    tdn_ref_share(l.batch * l.heads, call->part, call->n_parts, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        run_head(&l, i / l.heads, i % l.heads);
    return TDN_OK;
}

static int linear_parts(const tdn_ref_call *call)
{
    linear l;
    int64_t n;
    if (!read_sizes(call, &l) || __builtin_mul_overflow(l.batch, l.heads, &n) || n < 1)
        return 1;
    return n < 64 ? (int)n : 64;
}

const tdn_ref_def tdn_refs_recurrent[] = {
    {.name = "LinearAttention",
     .run = linear_run,
     .scratch_size = linear_scratch,
     .n_parts = linear_parts},
    {0},
};
