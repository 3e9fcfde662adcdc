/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of indexed reads and writes. Indices are data, so each is checked before use: from the
 * end where it is negative, and a failure where it is outside. What is moved is moved by size; only
 * the reductions of a scatter look at values.
 */
#include <math.h>
#include <string.h>

#include "ref/ref_util.h"

/* Element number `at` of a view as an index into an axis of n. */
static tdn_status read_index(const tdn_ref_call *call, const tdn_view *indices, int64_t offset,
                             int64_t n, int64_t *i)
{
    *i = tdn_view_get_int(indices, offset);
    if (*i < -n || *i >= n)
        return tdn_fail(call->error, TDN_E_MODEL, "index %lld outside %lld..%lld", (long long)*i,
                        (long long)-n, (long long)n - 1);
    *i += *i < 0 ? n : 0;
    return TDN_OK;
}

static bool fits(const tdn_ref_call *call, int n_in)
{
    if (call->n_in < n_in || call->n_out < 1)
        return false;
    for (int i = 0; i < n_in; i++)
        if (call->in[i].dtype == TDN_DTYPE_NONE)
            return false;
    return call->in[0].dtype == call->out[0].dtype;
}

/* ---- Reads ----------------------------------------------------------------------------------- */

/* The data's extents, the indices' in the place of the axis. */
static tdn_status gather_fit(const tdn_ref_call *call, int axis)
{
    const tdn_view *x = &call->in[0], *indices = &call->in[1];
    int64_t dims[2 * TDN_MAX_RANK];
    int n = 0;
    for (int i = 0; i < x->rank; i++) {
        if (i != axis)
            dims[n++] = x->dims[i];
        for (int k = 0; i == axis && k < indices->rank; k++)
            dims[n++] = indices->dims[k];
    }
    TDN_REF_NEED(call, tdn_ref_fit(&call->out[0], n, dims));
    return TDN_OK;
}

static tdn_status gather(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, fits(call, 2));
    const tdn_view *x = &call->in[0], *indices = &call->in[1], *y = &call->out[0];
    int axis;
    TDN_REF_NEED(call, tdn_ref_axis(tdn_attr_int(call->attrs, "axis", 0), x->rank, &axis));
    TDN_REF_NEED(call, y->rank == x->rank - 1 + indices->rank);
    TDN_TRY(gather_fit(call, axis));
    /* the output without the indices' axes, then those alone */
    tdn_view rest = *x, picked = {.rank = indices->rank};
    rest.data = y->data;
    for (int i = 0, from = 0; i < x->rank; i++) {
        from += i == axis + 1 ? indices->rank - 1 : 0;
        rest.dims[i] = i == axis ? 1 : y->dims[from];
        rest.strides[i] = i == axis ? 0 : y->strides[from];
        TDN_REF_NEED(call, i == axis || rest.dims[i] == x->dims[i]);
        from++;
    }
    for (int i = 0; i < indices->rank; i++) {
        picked.dims[i] = y->dims[axis + i];
        picked.strides[i] = y->strides[axis + i];
        TDN_REF_NEED(call, picked.dims[i] == indices->dims[i]);
    }
    int64_t k, end, i;
    tdn_ref_share(tdn_view_count(indices), call->part, call->n_parts, &k, &end);
    for (; k < end; k++) {
        TDN_TRY(read_index(call, indices, tdn_view_offset(indices, k), x->dims[axis], &i));
        tdn_place from = tdn_place_of(x);
        tdn_place_narrow(&from, axis, i, 1, 1);
        const tdn_place to = {rest, tdn_view_offset(&picked, k)};
        tdn_ref_copy(&to, &from, 0, 1);
    }
    return TDN_OK;
}

static int gather_parts(const tdn_ref_call *call)
{
    if (call->n_in < 2 || call->n_out < 1)
        return 1;
    const int64_t n = tdn_view_count(&call->in[1]);
    const int parts = tdn_ref_parts_of(&call->out[0], 1);
    return n < parts ? (n < 1 ? 1 : (int)n) : parts;
}

/* A walk that begins at element number `first`. */
static tdn_walk walk_from(const tdn_view *v, int64_t first)
{
    tdn_walk w = tdn_walk_begin(v->rank, v->dims);
    for (int i = v->rank - 1; w.more && i >= 0; i--) {
        w.index[i] = first % v->dims[i];
        first /= v->dims[i];
    }
    return w;
}

/* Is a's every extent within b's, but along `axis`? */
static bool within(const tdn_view *a, const tdn_view *b, int axis)
{
    if (a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (i != axis && a->dims[i] > b->dims[i])
            return false;
    return true;
}

static tdn_status gather_elements(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, fits(call, 2));
    const tdn_view *x = &call->in[0], *indices = &call->in[1], *y = &call->out[0];
    int axis;
    TDN_REF_NEED(call, tdn_ref_axis(tdn_attr_int(call->attrs, "axis", 0), x->rank, &axis));
    TDN_REF_NEED(call, within(indices, x, axis) && tdn_view_same_dims(indices, y));
    int64_t n, end, i;
    tdn_ref_share(tdn_view_count(y), call->part, call->n_parts, &n, &end);
    for (tdn_walk w = walk_from(y, n); n < end; tdn_walk_next(&w), n++) {
        TDN_TRY(read_index(call, indices, tdn_walk_offset(&w, indices), x->dims[axis], &i));
        const int64_t from = tdn_walk_offset(&w, x) + (i - w.index[axis]) * x->strides[axis];
        tdn_ref_copy_one(y, tdn_walk_offset(&w, y), x, from);
    }
    return TDN_OK;
}

static int element_parts(const tdn_ref_call *call)
{
    return call->n_out ? tdn_ref_parts_of(&call->out[0], 8) : 1;
}

/* The offset in data of index tuple number `at`; `batch` leading axes are indexed by the tuple's
 * own position. */
static tdn_status tuple_offset(const tdn_ref_call *call, const tdn_view *data,
                               const tdn_view *indices, int batch, const tdn_walk *w,
                               int64_t *offset)
{
    const int last = indices->rank - 1;
    int64_t i;
    *offset = 0;
    for (int k = 0; k < batch; k++)
        *offset += w->index[k] * data->strides[k];
    for (int64_t k = 0; k < indices->dims[last]; k++) {
        const int64_t at = tdn_walk_offset(w, indices) + k * indices->strides[last];
        TDN_TRY(read_index(call, indices, at, data->dims[batch + k], &i));
        *offset += i * data->strides[batch + k];
    }
    return TDN_OK;
}

/* The axes of v from `first` on. */
static tdn_view tail_of(const tdn_view *v, int first)
{
    tdn_view tail = {.data = v->data, .dtype = v->dtype, .rank = v->rank - first};
    memcpy(tail.dims, v->dims + first, (size_t)tail.rank * sizeof *tail.dims);
    memcpy(tail.strides, v->strides + first, (size_t)tail.rank * sizeof *tail.strides);
    return tail;
}

static tdn_status gather_nd(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, fits(call, 2));
    const tdn_view *x = &call->in[0], *indices = &call->in[1], *y = &call->out[0];
    const int64_t batch = tdn_attr_int(call->attrs, "batch_dims", 0);
    const int lead = indices->rank - 1;
    TDN_REF_NEED(call, lead >= 0 && batch >= 0 && batch <= lead && batch <= x->rank);
    const int64_t depth = indices->dims[lead];
    TDN_REF_NEED(call, depth <= x->rank - batch && y->rank == lead + x->rank - batch - depth);
    int64_t dims[TDN_MAX_RANK];
    memcpy(dims, indices->dims, (size_t)lead * sizeof *dims);
    memcpy(dims + lead, x->dims + batch + depth, (size_t)(y->rank - lead) * sizeof *dims);
    TDN_REF_NEED(call, tdn_ref_fit(&call->out[0], y->rank, dims));
    const tdn_view from = tail_of(x, (int)(batch + depth)), to = tail_of(y, lead);
    TDN_REF_NEED(call, tdn_view_same_dims(&from, &to) &&
                           !memcmp(y->dims, indices->dims, (size_t)lead * sizeof *y->dims));
    for (int64_t i = 0; i < batch; i++)
        TDN_REF_NEED(call, x->dims[i] == indices->dims[i]);
    for (tdn_walk w = tdn_walk_begin(lead, indices->dims); w.more; tdn_walk_next(&w)) {
        int64_t offset;
        TDN_TRY(tuple_offset(call, x, indices, (int)batch, &w, &offset));
        tdn_ref_copy(&(tdn_place){to, tdn_walk_offset(&w, y)}, &(tdn_place){from, offset}, 0, 1);
    }
    return TDN_OK;
}

/* ---- Writes ---------------------------------------------------------------------------------- */

typedef enum reduction { SET, ADD, MUL, MIN, MAX } reduction;

static reduction reduction_of(const tdn_ref_call *call)
{
    static const char *const names[] = {"none", "add", "mul", "min", "max"};
    const char *name = tdn_attr_string(call->attrs, "reduction", "none");
    for (int i = 0; i < 5; i++)
        if (!strcmp(names[i], name))
            return (reduction)i;
    return SET;
}

static double reduce_float(reduction r, double a, double b)
{
    switch (r) {
    case ADD: return a + b;
    case MUL: return a * b;
    case MIN: return isnan(a) || a < b ? a : b;
    case MAX: return isnan(a) || a > b ? a : b;
    default: return b;
    }
}

static int64_t reduce_int(reduction r, int64_t a, int64_t b)
{
    switch (r) {
    case ADD: return (int64_t)((uint64_t)a + (uint64_t)b);
    case MUL: return (int64_t)((uint64_t)a * (uint64_t)b);
    case MIN: return a < b ? a : b;
    case MAX: return a > b ? a : b;
    default: return b;
    }
}

/* One element of the updates into the output. */
static void put(reduction r, const tdn_view *y, int64_t at, const tdn_view *updates, int64_t from)
{
    if (r == SET)
        tdn_ref_copy_one(y, at, updates, from);
    else if (tdn_ref_is_float(y->dtype))
        tdn_ref_set(y, at, reduce_float(r, tdn_ref_get(y, at), tdn_ref_get(updates, from)));
    else
        tdn_view_set_int(y, at,
                         reduce_int(r, tdn_view_get_int(y, at), tdn_view_get_int(updates, from)));
}

static tdn_status copy_data(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, tdn_view_same_dims(&call->in[0], &call->out[0]));
    const tdn_place from = tdn_place_of(&call->in[0]), to = tdn_place_of(&call->out[0]);
    tdn_ref_copy(&to, &from, 0, 1);
    return TDN_OK;
}

static tdn_status scatter_elements(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, fits(call, 3) && call->in[2].dtype == call->out[0].dtype);
    TDN_TRY(copy_data(call));
    const tdn_view *indices = &call->in[1], *updates = &call->in[2], *y = &call->out[0];
    int axis;
    TDN_REF_NEED(call, tdn_ref_axis(tdn_attr_int(call->attrs, "axis", 0), y->rank, &axis));
    TDN_REF_NEED(call, within(indices, y, axis) && tdn_view_same_dims(indices, updates));
    const reduction r = reduction_of(call);
    for (tdn_walk w = tdn_walk_begin(indices->rank, indices->dims); w.more; tdn_walk_next(&w)) {
        int64_t i;
        TDN_TRY(read_index(call, indices, tdn_walk_offset(&w, indices), y->dims[axis], &i));
        const int64_t at = tdn_walk_offset(&w, y) + (i - w.index[axis]) * y->strides[axis];
        put(r, y, at, updates, tdn_walk_offset(&w, updates));
    }
    return TDN_OK;
}

static tdn_status scatter_nd(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, fits(call, 3) && call->in[2].dtype == call->out[0].dtype);
    TDN_TRY(copy_data(call));
    const tdn_view *indices = &call->in[1], *updates = &call->in[2], *y = &call->out[0];
    const int lead = indices->rank - 1;
    TDN_REF_NEED(call, lead >= 0 && indices->dims[lead] <= y->rank);
    const int depth = (int)indices->dims[lead];
    TDN_REF_NEED(call, updates->rank == lead + y->rank - depth);
    const tdn_view to = tail_of(y, depth), from = tail_of(updates, lead);
    TDN_REF_NEED(call,
                 tdn_view_same_dims(&from, &to) &&
                     !memcmp(updates->dims, indices->dims, (size_t)lead * sizeof *updates->dims));
    const reduction r = reduction_of(call);
    for (tdn_walk w = tdn_walk_begin(lead, indices->dims); w.more; tdn_walk_next(&w)) {
        int64_t offset;
        TDN_TRY(tuple_offset(call, y, indices, 0, &w, &offset));
        const int64_t first = tdn_walk_offset(&w, updates);
        for (tdn_walk e = tdn_walk_begin(to.rank, to.dims); e.more; tdn_walk_next(&e))
            put(r, y, offset + tdn_walk_offset(&e, &to), updates,
                first + tdn_walk_offset(&e, &from));
    }
    return TDN_OK;
}

/* Writes runs of a sequence axis into a cache, for each batch from its own position on. */
static tdn_status tensor_scatter(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, fits(call, 2) && call->in[1].dtype == call->out[0].dtype);
    TDN_TRY(copy_data(call));
    const tdn_view *updates = &call->in[1], *first = tdn_ref_in(call, 2), *y = &call->out[0];
    int axis;
    TDN_REF_NEED(call, tdn_ref_axis(tdn_attr_int(call->attrs, "axis", -2), y->rank, &axis));
    TDN_REF_NEED(call, axis > 0 && within(updates, y, axis) && updates->dims[0] == y->dims[0]);
    TDN_REF_NEED(call, !first || (first->rank == 1 && first->dims[0] == y->dims[0]));
    const bool circular = !strcmp(tdn_attr_string(call->attrs, "mode", "linear"), "circular");
    const int64_t n = y->dims[axis];
    for (int64_t b = 0; b < y->dims[0]; b++)
        for (int64_t s = 0; s < updates->dims[axis]; s++) {
            const int64_t start = first ? tdn_view_get_int(first, b * first->strides[0]) : 0;
            int64_t at = start;
            if (start >= 0 && !__builtin_add_overflow(start, s, &at) && circular && n > 0)
                at %= n;
            if (at < 0 || at >= n)
                return tdn_fail(call->error, TDN_E_MODEL,
                                "position %lld outside of a cache of %lld", (long long)at,
                                (long long)n);
            tdn_place from = tdn_place_of(updates), to = tdn_place_of(y);
            tdn_place_narrow(&from, 0, b, 1, 1);
            tdn_place_narrow(&to, 0, b, 1, 1);
            tdn_place_narrow(&from, axis, s, 1, 1);
            tdn_place_narrow(&to, axis, at, 1, 1);
            TDN_REF_NEED(call, tdn_view_same_dims(&from.view, &to.view));
            tdn_ref_copy(&to, &from, 0, 1);
        }
    return TDN_OK;
}

/* ---- One-hot --------------------------------------------------------------------------------- */

/* Indices outside of the depth leave all off. */
static tdn_status one_hot(const tdn_ref_call *call)
{
    TDN_REF_NEED(call,
                 call->n_in >= 3 && call->n_out >= 1 && call->in[2].dtype == call->out[0].dtype);
    const tdn_view *indices = &call->in[0], *values = &call->in[2], *y = &call->out[0];
    int axis;
    TDN_REF_NEED(call, values->rank == 1 && values->dims[0] == 2 && y->rank == indices->rank + 1);
    TDN_REF_NEED(call, tdn_ref_axis(tdn_attr_int(call->attrs, "axis", -1), y->rank, &axis));
    for (int i = 0; i < indices->rank; i++)
        TDN_REF_NEED(call, indices->dims[i] == y->dims[i + (i >= axis)]);
    const int64_t depth = y->dims[axis];
    for (tdn_walk w = tdn_walk_begin(y->rank, y->dims); w.more; tdn_walk_next(&w)) {
        int64_t at = 0;
        for (int i = 0; i < indices->rank; i++)
            at += w.index[i + (i >= axis)] * indices->strides[i];
        const int64_t given = tdn_view_get_int(indices, at),
                      index = given < 0 ? given + depth : given;
        tdn_ref_copy_one(y, tdn_walk_offset(&w, y), values,
                         index == w.index[axis] ? values->strides[0] : 0);
    }
    return TDN_OK;
}

const tdn_ref_def tdn_refs_gather[] = {
    {"Gather", gather, NULL, gather_parts},
    {"GatherElements", gather_elements, NULL, element_parts},
    {"GatherND", gather_nd, NULL, NULL},
    {"Scatter", scatter_elements, NULL, NULL},
    {"ScatterElements", scatter_elements, NULL, NULL},
    {"ScatterND", scatter_nd, NULL, NULL},
    {"TensorScatter", tensor_scatter, NULL, NULL},
    {"OneHot", one_hot, NULL, NULL},
    {0},
};
