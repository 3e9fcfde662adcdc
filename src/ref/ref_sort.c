/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of what sorts. Elements are compared as doubles or, where they are integers, as
 * integers with all their bits; equal ones keep their order; NaN counts as the largest.
 */
#include <string.h>

#include "ref/ref_util.h"

static tdn_ref_item item_of(const tdn_view *x, int64_t offset, int64_t index)
{
    tdn_ref_item item = {.index = index};
    if (tdn_ref_is_float(x->dtype))
        item.f = tdn_ref_get(x, offset);
    else
        item.i = tdn_view_get_int(x, offset);
    return item;
}

/* Room for `each` items for each of the n elements. */
static size_t items_size(int64_t n, size_t each)
{
    size_t size;
    return tdn_size_mul((size_t)n, each * sizeof(tdn_ref_item), &size) ? size : SIZE_MAX;
}

/* ---- Top k ----------------------------------------------------------------------------------- */

static bool top_axis(const tdn_ref_call *call, int *axis)
{
    return call->n_in >= 1 &&
           tdn_ref_axis(tdn_attr_int(call->attrs, "axis", -1), call->in[0].rank, axis);
}

static tdn_status top_k(const tdn_ref_call *call)
{
    int axis;
    const tdn_view *x = &call->in[0], *values = tdn_ref_out(call, 0),
                   *indices = tdn_ref_out(call, 1);
    const tdn_view *y = values ? values : indices;
    TDN_REF_NEED(call, top_axis(call, &axis) && y && y->rank == x->rank &&
                           y->dims[axis] <= x->dims[axis]);
    TDN_REF_NEED(call, (!values || values->dtype == x->dtype) &&
                           (!values || !indices || tdn_view_same_dims(values, indices)));
    const bool largest = tdn_attr_int(call->attrs, "largest", 1) != 0;
    const int64_t n = x->dims[axis], k = y->dims[axis];
    tdn_ref_item *items = call->scratch;
    tdn_view lines = *x; /* one element a line */
    lines.dims[axis] = 1;
    for (int i = 0; i < x->rank; i++)
        TDN_REF_NEED(call, i == axis || x->dims[i] == y->dims[i]);
    for (tdn_walk w = tdn_walk_begin(lines.rank, lines.dims); w.more; tdn_walk_next(&w)) {
        const int64_t from = tdn_walk_offset(&w, x);
        for (int64_t i = 0; i < n; i++)
            items[i] = item_of(x, from + i * x->strides[axis], i);
        tdn_ref_sort(items, items + n, n, largest);
        for (int64_t i = 0; i < k; i++) {
            if (values)
                tdn_ref_copy_one(values, tdn_walk_offset(&w, values) + i * values->strides[axis], x,
                                 from + items[i].index * x->strides[axis]);
            if (indices)
                tdn_view_set_int(indices, tdn_walk_offset(&w, indices) + i * indices->strides[axis],
                                 items[i].index);
        }
    }
    return TDN_OK;
}

static size_t top_k_scratch(const tdn_ref_call *call)
{
    int axis;
    return top_axis(call, &axis) ? items_size(call->in[0].dims[axis], 2) : 0;
}

/* ---- Unique ---------------------------------------------------------------------------------- */

/* Slices of x along an axis, or its elements where there is no axis. */
typedef struct slices {
    tdn_view x, rest; /* rest: the other axes */
    int axis;         /* -1: elements */
    int64_t n;
} slices;

static bool slices_make(const tdn_ref_call *call, slices *s)
{
    const tdn_attr *attr = tdn_attr_find(call->attrs, "axis");
    if (call->n_in < 1)
        return false;
    *s = (slices){.x = call->in[0], .axis = -1, .n = tdn_view_count(&call->in[0])};
    if (!attr)
        return true;
    if (!tdn_ref_axis(attr->i, s->x.rank, &s->axis))
        return false;
    s->n = s->x.dims[s->axis];
    s->rest = s->x;
    s->rest.dims[s->axis] = 1;
    return true;
}

static int64_t slice_at(const slices *s, int64_t i)
{
    return s->axis < 0 ? tdn_view_offset(&s->x, i) : i * s->x.strides[s->axis];
}

/* Below 0, 0 or above: by the first element that differs. */
static int compare(const slices *s, int64_t a, int64_t b)
{
    for (tdn_walk w = tdn_walk_begin(s->rest.rank, s->rest.dims); w.more; tdn_walk_next(&w)) {
        const int64_t at = tdn_walk_offset(&w, &s->rest);
        const tdn_ref_item u = item_of(&s->x, slice_at(s, a) + at, 0),
                           v = item_of(&s->x, slice_at(s, b) + at, 0);
        if (u.f < v.f || u.i < v.i)
            return -1;
        if (u.f > v.f || u.i > v.i)
            return 1;
    }
    return 0;
}

/* Sorts slice numbers by content, by merging; equal ones keep their order. */
static void sort_slices(const slices *s, int64_t *order, int64_t *temp)
{
    for (int64_t i = 0; i < s->n; i++)
        order[i] = i;
    for (int64_t run = 1; run < s->n; run *= 2) {
        for (int64_t begin = 0; begin < s->n; begin += 2 * run) {
            const int64_t middle = begin + run < s->n ? begin + run : s->n;
            const int64_t end = middle + run < s->n ? middle + run : s->n;
            int64_t a = begin, b = middle;
            for (int64_t at = begin; at < end; at++) {
                const bool second = a == middle || (b < end && compare(s, order[b], order[a]) < 0);
                temp[at] = order[second ? b++ : a++];
            }
        }
        memcpy(order, temp, (size_t)s->n * sizeof *order);
    }
}

/* Of each slice the number of its group, and of each group its first slice and its count; groups
 * are in the order of content, or of first appearance. Returns how many there are. */
static int64_t group_slices(const slices *s, bool sorted, int64_t *order, int64_t *group,
                            int64_t *first, int64_t *count)
{
    int64_t n = 0;
    sort_slices(s, order, group);
    for (int64_t i = 0; i < s->n; i++) {
        if (i == 0 || compare(s, order[i - 1], order[i]) != 0) {
            first[n] = order[i];
            count[n++] = 0;
        }
        group[order[i]] = n - 1;
        count[n - 1]++;
    }
    if (sorted)
        return n;
    for (int64_t i = 0; i < n; i++) /* old number to new, by appearance */
        order[i] = -1;
    int64_t seen = 0;
    for (int64_t i = 0; i < s->n; i++) {
        if (order[group[i]] < 0) {
            order[group[i]] = seen;
            first[seen++] = i;
        }
        group[i] = order[group[i]];
    }
    for (int64_t i = 0; i < n; i++)
        count[i] = 0;
    for (int64_t i = 0; i < s->n; i++)
        count[group[i]]++;
    return n;
}

/* Writes n numbers into an output of that true extent. */
static tdn_status put_numbers(const tdn_ref_call *call, int out, const int64_t *v, int64_t n)
{
    tdn_view *y = tdn_ref_out(call, out);
    if (!y)
        return TDN_OK;
    TDN_REF_NEED(call, y->rank == 1 && n <= y->dims[0]);
    y->dims[0] = n;
    *y = tdn_view_make(y->data, y->dtype, 1, y->dims);
    for (int64_t i = 0; i < n; i++)
        tdn_view_set_int(y, i, v[i]);
    return TDN_OK;
}

static tdn_status put_slices(const tdn_ref_call *call, const slices *s, const int64_t *first,
                             int64_t n)
{
    tdn_view *y = tdn_ref_out(call, 0);
    const int axis = s->axis < 0 ? 0 : s->axis;
    if (!y)
        return TDN_OK;
    TDN_REF_NEED(call, y->rank == (s->axis < 0 ? 1 : s->x.rank) && y->dtype == s->x.dtype &&
                           n <= y->dims[axis]);
    for (int i = 0; i < y->rank; i++)
        TDN_REF_NEED(call, i == axis || y->dims[i] == s->x.dims[i]);
    y->dims[axis] = n;
    *y = tdn_view_make(y->data, y->dtype, y->rank, y->dims);
    for (int64_t i = 0; i < n; i++) {
        tdn_place to = tdn_place_of(y), from = {s->rest, slice_at(s, first[i])};
        if (s->axis < 0) {
            tdn_ref_copy_one(y, i, &s->x, from.offset);
            continue;
        }
        tdn_place_narrow(&to, axis, i, 1, 1);
        tdn_ref_copy(&to, &from, 0, 1);
    }
    return TDN_OK;
}

static tdn_status unique(const tdn_ref_call *call)
{
    slices s;
    TDN_REF_NEED(call, slices_make(call, &s));
    int64_t *order = call->scratch, *group = order + s.n, *first = group + s.n,
            *count = first + s.n;
    const int64_t n =
        group_slices(&s, tdn_attr_int(call->attrs, "sorted", 1) != 0, order, group, first, count);
    TDN_TRY(put_slices(call, &s, first, n));
    TDN_TRY(put_numbers(call, 1, first, n));
    TDN_TRY(put_numbers(call, 2, group, s.n));
    return put_numbers(call, 3, count, n);
}

static size_t unique_scratch(const tdn_ref_call *call)
{
    slices s;
    size_t size;
    if (!slices_make(call, &s))
        return 0;
    return tdn_size_mul((size_t)s.n, 4 * sizeof(int64_t), &size) ? size : SIZE_MAX;
}

const tdn_ref_def tdn_refs_sort[] = {
    {"TopK", top_k, top_k_scratch, NULL},
    {"Unique", unique, unique_scratch, NULL},
    {0},
};
