/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of operators that move elements without looking at them, for every dtype by its size.
 *
 * Most are one copy between two strided views of the operands: a transpose permutes strides, a
 * slice narrows a place, an expand has strides of 0, a depth-to-space splits axes on both sides.
 * The names with "tendon." are the core forms with all attributes set; the others take ONNX's
 * forms, "-since" where an older one differs.
 */
#include "ref/ref_util.h"

#include <string.h>

static int parts_one(const tdn_ref_call *call) { return tdn_ref_parts_of(&call->out[0], 1); }

/* ---- One input, one copy --------------------------------------------------------------------- */

/* Copies element by element once the output's dims are known. */
static tdn_status copy_flat(const tdn_ref_call *call)
{
    const tdn_place from = tdn_place_of(&call->in[0]), to = tdn_place_of(&call->out[0]);
    TDN_REF_NEED(call, from.view.dtype == to.view.dtype &&
                           tdn_view_count(&from.view) == tdn_view_count(&to.view));
    tdn_ref_copy_flat(&to, &from, call->part, call->n_parts);
    return TDN_OK;
}

/* Are the output's dims bounds, so that the true ones must be found? */
static bool is_open(const tdn_ref_call *call)
{
    return tdn_view_count(&call->in[0]) != tdn_view_count(&call->out[0]);
}

static tdn_status core_reshape(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    return copy_flat(call);
}

static tdn_status identity(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    TDN_REF_NEED(call, tdn_ref_fit(&call->out[0], call->in[0].rank, call->in[0].dims));
    return copy_flat(call);
}

static tdn_status reshape(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    const tdn_view *x = &call->in[0];
    int64_t dims[TDN_MAX_RANK], known = 1;
    int n, open = -1;
    if (!is_open(call))
        return copy_flat(call);
    TDN_REF_NEED(call, tdn_ref_ints(tdn_ref_in(call, 1), dims, TDN_MAX_RANK, &n));
    for (int i = 0; i < n; i++) {
        if (dims[i] == 0 && !tdn_attr_int(call->attrs, "allowzero", 0) && i < x->rank)
            dims[i] = x->dims[i];
        if (dims[i] == -1)
            open = i;
        else
            TDN_REF_NEED(call, dims[i] >= 0 && !__builtin_mul_overflow(known, dims[i], &known));
    }
    if (open >= 0)
        dims[open] = known ? tdn_view_count(x) / known : 0;
    TDN_REF_NEED(call, tdn_ref_fit(&call->out[0], n, dims));
    return copy_flat(call);
}

static tdn_status flatten(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    const tdn_view *x = &call->in[0];
    const int64_t given = tdn_attr_int(call->attrs, "axis", 1),
                  axis = given < 0 ? given + x->rank : given;
    TDN_REF_NEED(call, axis >= 0 && axis <= x->rank);
    const int64_t dims[2] = {tdn_ref_product(x, 0, (int)axis),
                             tdn_ref_product(x, (int)axis, x->rank)};
    TDN_REF_NEED(call, tdn_ref_fit(&call->out[0], 2, dims));
    return copy_flat(call);
}

/* Axes of extent 1 go or come; the others keep their order, so that they are matched one by one. */
static tdn_status squeeze(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    int64_t axes[TDN_MAX_RANK], dims[TDN_MAX_RANK];
    int n = 0, rank = 0;
    uint32_t mask = 0;
    const int64_t *given = tdn_attr_ints(call->attrs, "axes", &n);
    if (!is_open(call))
        return copy_flat(call);
    TDN_REF_NEED(call, n <= TDN_MAX_RANK);
    if (given)
        memcpy(axes, given, (size_t)n * sizeof *axes);
    else if (tdn_ref_in(call, 1))
        TDN_REF_NEED(call, tdn_ref_ints(&call->in[1], axes, TDN_MAX_RANK, &n));
    const bool adds = y->rank > x->rank;
    for (int i = 0; i < n; i++) {
        int axis;
        TDN_REF_NEED(call, tdn_ref_axis(axes[i], adds ? y->rank : x->rank, &axis));
        mask |= 1u << axis;
    }
    for (int i = 0, from = 0; i < (adds ? y->rank : x->rank); i++) {
        const bool listed = mask >> i & 1;
        if (adds) {
            TDN_REF_NEED(call, listed || from < x->rank);
            dims[rank++] = listed ? 1 : x->dims[from++];
        } else if (n ? !listed : x->dims[i] != 1) {
            dims[rank++] = x->dims[i];
        }
    }
    TDN_REF_NEED(call, tdn_ref_fit(&call->out[0], rank, dims));
    return copy_flat(call);
}

static tdn_status transpose(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    const tdn_view *x = &call->in[0];
    tdn_place from = tdn_place_of(x);
    int n;
    const int64_t *perm = tdn_attr_ints(call->attrs, "perm", &n);
    unsigned seen = 0; /* an axis that came twice would be read beyond its end */
    TDN_REF_NEED(call, !perm || n == x->rank);
    for (int i = 0; i < x->rank; i++) {
        const int64_t axis = perm ? perm[i] : x->rank - 1 - i;
        TDN_REF_NEED(call, axis >= 0 && axis < x->rank && !(seen >> axis & 1));
        seen |= 1u << axis;
        from.view.dims[i] = x->dims[axis];
        from.view.strides[i] = x->strides[axis];
    }
    TDN_REF_NEED(call, from.view.dtype == call->out[0].dtype);
    TDN_REF_NEED(call, tdn_ref_fit(&call->out[0], from.view.rank, from.view.dims));
    const tdn_place to = tdn_place_of(&call->out[0]);
    tdn_ref_copy(&to, &from, call->part, call->n_parts);
    return TDN_OK;
}

static tdn_status expand(const tdn_ref_call *call)
{
    TDN_REF_NEED(call,
                 call->n_in >= 1 && call->n_out >= 1 && call->in[0].dtype == call->out[0].dtype);
    tdn_place from = tdn_place_of(&call->in[0]);
    const tdn_place to = tdn_place_of(&call->out[0]);
    TDN_REF_NEED(call, tdn_view_broadcast(&call->in[0], to.view.rank, to.view.dims, &from.view));
    tdn_ref_copy(&to, &from, call->part, call->n_parts);
    return TDN_OK;
}

/* ---- Slice ----------------------------------------------------------------------------------- */

/* One range a listed axis; `steps` NULL: 1. */
static tdn_status slice_by(const tdn_ref_call *call, const int64_t *starts, const int64_t *ends,
                           const int64_t *axes, const int64_t *steps, int n)
{
    tdn_place from = tdn_place_of(&call->in[0]);
    for (int i = 0; i < n; i++) {
        int axis;
        TDN_REF_NEED(call, tdn_ref_axis(axes ? axes[i] : i, from.view.rank, &axis));
        int64_t start = starts[i], step = steps ? steps[i] : 1, extent;
        TDN_REF_NEED(call,
                     tdn_slice_resolve(from.view.dims[axis], &start, ends[i], &step, &extent));
        tdn_place_narrow(&from, axis, start, step, extent);
    }
    TDN_REF_NEED(call, from.view.dtype == call->out[0].dtype);
    TDN_REF_NEED(call, tdn_ref_fit(&call->out[0], from.view.rank, from.view.dims));
    const tdn_place to = tdn_place_of(&call->out[0]);
    tdn_ref_copy(&to, &from, call->part, call->n_parts);
    return TDN_OK;
}

static tdn_status slice(const tdn_ref_call *call)
{
    int64_t v[4][TDN_MAX_RANK]; /* starts, ends, axes, steps */
    int n[4] = {0};
    TDN_REF_NEED(call, call->n_in >= 3 && call->n_out >= 1);
    for (int i = 0; i < 4; i++)
        if (tdn_ref_in(call, i + 1))
            TDN_REF_NEED(call, tdn_ref_ints(tdn_ref_in(call, i + 1), v[i], TDN_MAX_RANK, &n[i]));
    TDN_REF_NEED(call, n[1] == n[0] && (!n[2] || n[2] == n[0]) && (!n[3] || n[3] == n[0]));
    return slice_by(call, v[0], v[1], n[2] ? v[2] : NULL, n[3] ? v[3] : NULL, n[0]);
}

static tdn_status slice_1(const tdn_ref_call *call)
{
    int n, n_ends, n_axes;
    const int64_t *starts = tdn_attr_ints(call->attrs, "starts", &n);
    const int64_t *ends = tdn_attr_ints(call->attrs, "ends", &n_ends);
    const int64_t *axes = tdn_attr_ints(call->attrs, "axes", &n_axes);
    TDN_REF_NEED(call,
                 call->n_in >= 1 && call->n_out >= 1 && n == n_ends && (!axes || n_axes == n));
    TDN_REF_NEED(call, n <= TDN_MAX_RANK);
    return slice_by(call, starts, ends, axes, NULL, n);
}

static tdn_status core_slice(const tdn_ref_call *call)
{
    int n, n_steps;
    const int64_t *starts = tdn_attr_ints(call->attrs, "starts", &n);
    const int64_t *steps = tdn_attr_ints(call->attrs, "steps", &n_steps);
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    tdn_place from = tdn_place_of(&call->in[0]);
    const tdn_place to = tdn_place_of(&call->out[0]);
    TDN_REF_NEED(call, from.view.dtype == to.view.dtype && from.view.rank == to.view.rank);
    TDN_REF_NEED(call, n == from.view.rank && n_steps == n);
    for (int i = 0; i < n; i++) {
        const int64_t dim = from.view.dims[i], extent = to.view.dims[i];
        int64_t last = 0;
        TDN_REF_NEED(call, extent == 0 || (starts[i] >= 0 && starts[i] < dim));
        TDN_REF_NEED(call, extent < 2 || (!__builtin_mul_overflow(extent - 1, steps[i], &last) &&
                                          last >= -starts[i] && last < dim - starts[i]));
        tdn_place_narrow(&from, i, extent ? starts[i] : 0, extent < 2 ? 1 : steps[i], extent);
    }
    tdn_ref_copy(&to, &from, call->part, call->n_parts);
    return TDN_OK;
}

/* ---- Split and join -------------------------------------------------------------------------- */

/* How much of the axis output i takes: as the input or attribute says, else equal shares, the last
 * one shorter. */
static int64_t split_extent(const tdn_ref_call *call, int i, int64_t dim, int64_t left)
{
    int n;
    const int64_t *split = tdn_attr_ints(call->attrs, "split", &n);
    const tdn_view *input = tdn_ref_in(call, 1);
    if (input)
        return input->rank == 1 && i < input->dims[0]
                   ? tdn_view_get_int(input, i * input->strides[0])
                   : -1;
    if (split)
        return i < n ? split[i] : -1;
    const int64_t share = (dim + call->n_out - 1) / call->n_out;
    return share < left ? share : left;
}

static tdn_status split(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1);
    int axis;
    const tdn_place whole = tdn_place_of(&call->in[0]);
    TDN_REF_NEED(call, tdn_ref_axis(tdn_attr_int(call->attrs, "axis", 0), whole.view.rank, &axis));
    int64_t at = 0, extent;
    for (int i = 0; i < call->n_out; i++, at += extent) {
        const int64_t dim = whole.view.dims[axis];
        extent = split_extent(call, i, dim, dim - at);
        TDN_REF_NEED(call, extent >= 0 && extent <= dim - at);
        if (!tdn_ref_out(call, i))
            continue;
        const tdn_place to = tdn_place_of(&call->out[i]);
        tdn_place from = whole;
        tdn_place_narrow(&from, axis, at, 1, extent);
        TDN_REF_NEED(call,
                     tdn_view_same_dims(&from.view, &to.view) && to.view.dtype == whole.view.dtype);
        tdn_ref_copy(&to, &from, call->part, call->n_parts);
    }
    return TDN_OK;
}

/* The extents that the inputs have together. */
static tdn_status concat_fit(const tdn_ref_call *call, int axis)
{
    int64_t dims[TDN_MAX_RANK];
    const tdn_view *first = &call->in[0];
    TDN_REF_NEED(call, first->rank == call->out[0].rank);
    memcpy(dims, first->dims, sizeof dims);
    for (int i = 1; i < call->n_in; i++) {
        TDN_REF_NEED(call, call->in[i].rank == first->rank);
        TDN_REF_NEED(call,
                     !__builtin_add_overflow(dims[axis], call->in[i].dims[axis], &dims[axis]));
    }
    TDN_REF_NEED(call, tdn_ref_fit(&call->out[0], first->rank, dims));
    return TDN_OK;
}

static tdn_status concat(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    int axis;
    TDN_REF_NEED(call,
                 tdn_ref_axis(tdn_attr_int(call->attrs, "axis", 1), call->out[0].rank, &axis));
    TDN_TRY(concat_fit(call, axis));
    const tdn_place whole = tdn_place_of(&call->out[0]);
    int64_t at = 0;
    for (int i = 0; i < call->n_in; i++) {
        const tdn_place from = tdn_place_of(&call->in[i]);
        tdn_place to = whole;
        const int64_t extent = from.view.dims[axis];
        TDN_REF_NEED(call, extent >= 0 && extent <= whole.view.dims[axis] - at &&
                               from.view.dtype == to.view.dtype);
        tdn_place_narrow(&to, axis, at, 1, extent);
        TDN_REF_NEED(call, tdn_view_same_dims(&from.view, &to.view));
        tdn_ref_copy(&to, &from, call->part, call->n_parts);
        at += extent;
    }
    return TDN_OK;
}

static tdn_status tile(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    const tdn_place from = tdn_place_of(&call->in[0]), whole = tdn_place_of(&call->out[0]);
    TDN_REF_NEED(call, from.view.rank == whole.view.rank && from.view.dtype == whole.view.dtype);
    int64_t repeats[TDN_MAX_RANK];
    if (tdn_view_count(&whole.view) == 0)
        return TDN_OK;
    for (int i = 0; i < from.view.rank; i++) {
        TDN_REF_NEED(call, from.view.dims[i] > 0 && whole.view.dims[i] % from.view.dims[i] == 0);
        repeats[i] = whole.view.dims[i] / from.view.dims[i];
    }
    for (tdn_walk w = tdn_walk_begin(from.view.rank, repeats); w.more; tdn_walk_next(&w)) {
        tdn_place to = whole;
        for (int i = 0; i < from.view.rank; i++)
            tdn_place_narrow(&to, i, w.index[i] * from.view.dims[i], 1, from.view.dims[i]);
        tdn_ref_copy(&to, &from, call->part, call->n_parts);
    }
    return TDN_OK;
}

/* ---- Pad ------------------------------------------------------------------------------------- */

/* Which element of an axis of n an index before, in or after it stands for; n > 0. */
static int64_t reflect(int64_t i, int64_t n)
{
    if (n == 1)
        return 0;
    const int64_t period = 2 * (n - 1);
    i %= period;
    if (i < 0)
        i += period;
    return i < n ? i : period - i;
}
static int64_t edge(int64_t i, int64_t n) { return i < 0 ? 0 : i < n ? i : n - 1; }
static int64_t wrap(int64_t i, int64_t n) { return i % n < 0 ? i % n + n : i % n; }

/* Fills, then copies what of the input lies inside. before[] may be negative. */
static void pad_constant(const tdn_place *to, const tdn_place *from, const int64_t *before,
                         double x, int64_t value)
{
    tdn_place a = *to, b = *from;
    tdn_ref_fill(to, x, value);
    for (int i = 0; i < a.view.rank; i++) {
        const int64_t skip = before[i] < 0 ? -before[i] : 0, lead = before[i] > 0 ? before[i] : 0;
        int64_t extent = b.view.dims[i] - skip;
        extent = extent < a.view.dims[i] - lead ? extent : a.view.dims[i] - lead;
        if (extent <= 0)
            return;
        tdn_place_narrow(&a, i, lead, 1, extent);
        tdn_place_narrow(&b, i, skip, 1, extent);
    }
    tdn_ref_copy(&a, &b, 0, 1);
}

static tdn_status pad_mapped(const tdn_ref_call *call, const int64_t *before,
                             int64_t (*map)(int64_t i, int64_t n))
{
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    for (int i = 0; i < x->rank; i++)
        TDN_REF_NEED(call, x->dims[i] > 0 || y->dims[i] == 0);
    for (tdn_walk w = tdn_walk_begin(y->rank, y->dims); w.more; tdn_walk_next(&w)) {
        int64_t from = 0;
        for (int i = 0; i < x->rank; i++)
            from += map(w.index[i] - before[i], x->dims[i]) * x->strides[i];
        tdn_ref_copy_one(y, tdn_walk_offset(&w, y), x, from);
    }
    return TDN_OK;
}

static tdn_status pad_any(const tdn_ref_call *call, const int64_t *before, double x, int64_t value)
{
    const char *mode = tdn_attr_string(call->attrs, "mode", "constant");
    const tdn_place from = tdn_place_of(&call->in[0]), to = tdn_place_of(&call->out[0]);
    TDN_REF_NEED(call, from.view.rank == to.view.rank && from.view.dtype == to.view.dtype);
    for (int i = 0; i < from.view.rank; i++)
        TDN_REF_NEED(call, before[i] > -(INT64_MAX / 4) && before[i] < INT64_MAX / 4);
    if (!strcmp(mode, "reflect"))
        return pad_mapped(call, before, reflect);
    if (!strcmp(mode, "edge"))
        return pad_mapped(call, before, edge);
    if (!strcmp(mode, "wrap"))
        return pad_mapped(call, before, wrap);
    pad_constant(&to, &from, before, x, value);
    return TDN_OK;
}

static tdn_status pad(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out >= 1);
    const int rank = call->in[0].rank;
    int64_t pads[2 * TDN_MAX_RANK], axes[TDN_MAX_RANK], before[TDN_MAX_RANK] = {0};
    int n, n_axes = rank;
    TDN_REF_NEED(call, tdn_ref_ints(tdn_ref_in(call, 1), pads, 2 * TDN_MAX_RANK, &n));
    for (int i = 0; i < rank; i++)
        axes[i] = i;
    if (tdn_ref_in(call, 3))
        TDN_REF_NEED(call, tdn_ref_ints(tdn_ref_in(call, 3), axes, TDN_MAX_RANK, &n_axes));
    TDN_REF_NEED(call, n == 2 * n_axes);
    for (int i = 0; i < n_axes; i++) {
        int axis;
        TDN_REF_NEED(call, tdn_ref_axis(axes[i], rank, &axis));
        before[axis] = pads[i];
    }
    const tdn_view *value = tdn_ref_in(call, 2);
    if (!value || tdn_view_count(value) == 0)
        return pad_any(call, before, 0, 0);
    return pad_any(call, before, tdn_view_get(value, 0), tdn_view_get_int(value, 0));
}

/* Pads and value in attributes: ONNX's old form and the core one. */
static tdn_status pad_2(const tdn_ref_call *call)
{
    int n;
    const int64_t *pads = tdn_attr_ints(call->attrs, "pads", &n);
    const float value = tdn_attr_float(call->attrs, "value", 0);
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 && n == 2 * call->in[0].rank);
    const int64_t whole = value >= -0x1p62f && value <= 0x1p62f ? (int64_t)value : 0;
    return pad_any(call, pads, (double)value, whole);
}

static tdn_status center_crop_pad(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1);
    const tdn_place from = tdn_place_of(&call->in[0]), to = tdn_place_of(&call->out[0]);
    TDN_REF_NEED(call, from.view.rank == to.view.rank && from.view.dtype == to.view.dtype);
    int64_t before[TDN_MAX_RANK];
    for (int i = 0; i < from.view.rank; i++) {
        const int64_t in = from.view.dims[i], out = to.view.dims[i];
        before[i] = in > out ? -((in - out) / 2) : (out - in) / 2;
    }
    pad_constant(&to, &from, before, 0, 0);
    return TDN_OK;
}

/* ---- Space and depth ------------------------------------------------------------------------- */

/* Axis `at` of extent a * b as two axes. */
static void split_axis(tdn_view *v, int at, int64_t b)
{
    memmove(&v->dims[at + 1], &v->dims[at], (size_t)(v->rank - at) * sizeof v->dims[0]);
    memmove(&v->strides[at + 1], &v->strides[at], (size_t)(v->rank - at) * sizeof v->strides[0]);
    v->rank++;
    v->dims[at] /= b;
    v->dims[at + 1] = b;
    v->strides[at] *= b;
}

/* The side with the blocks in space, as (n, c, h, bh, w, bw). */
static tdn_place space_side(const tdn_view *v, int64_t b)
{
    tdn_place p = tdn_place_of(v);
    split_axis(&p.view, 3, b);
    split_axis(&p.view, 2, b);
    return p;
}

/* The side with the blocks in the channels, as (n, c, h, bh, w, bw). */
static tdn_place depth_side(const tdn_view *v, int64_t b, bool depth_first)
{
    tdn_view split = *v;
    if (depth_first) { /* DCR: channels are (bh, bw, c) */
        split.dims[1] /= b * b;
        const int64_t c = split.dims[1];
        split.dims[1] *= b * b;
        split_axis(&split, 1, c);
        split_axis(&split, 1, b);
    } else { /* CRD: (c, bh, bw) */
        split_axis(&split, 1, b);
        split_axis(&split, 1, b);
    }
    static const int dcr[6] = {0, 3, 4, 1, 5, 2}, crd[6] = {0, 1, 4, 2, 5, 3};
    tdn_place p = {.view = {.data = v->data, .dtype = v->dtype, .rank = 6}};
    for (int i = 0; i < 6; i++) {
        const int from = depth_first ? dcr[i] : crd[i];
        p.view.dims[i] = split.dims[from];
        p.view.strides[i] = split.strides[from];
    }
    return p;
}

static tdn_status depth_space(const tdn_ref_call *call, bool to_space)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 && call->in[0].rank == 4 &&
                           call->out[0].rank == 4);
    const int64_t b = tdn_attr_int(call->attrs, "blocksize", 0);
    const bool depth_first = !!strcmp(tdn_attr_string(call->attrs, "mode", "DCR"), "CRD");
    const tdn_view *space = to_space ? &call->out[0] : &call->in[0],
                   *depth = to_space ? &call->in[0] : &call->out[0];
    TDN_REF_NEED(call, b > 0 && b < 1 << 15 && space->dtype == depth->dtype);
    TDN_REF_NEED(call, space->dims[2] % b == 0 && space->dims[3] % b == 0 &&
                           depth->dims[1] % (b * b) == 0);
    if (tdn_view_count(space) == 0)
        return TDN_OK;
    const tdn_place s = space_side(space, b), d = depth_side(depth, b, depth_first);
    TDN_REF_NEED(call, tdn_view_same_dims(&s.view, &d.view));
    tdn_ref_copy(to_space ? &s : &d, to_space ? &d : &s, call->part, call->n_parts);
    return TDN_OK;
}

static tdn_status depth_to_space(const tdn_ref_call *call) { return depth_space(call, true); }
static tdn_status space_to_depth(const tdn_ref_call *call) { return depth_space(call, false); }

/* ---- By content of small inputs -------------------------------------------------------------- */

static tdn_status reverse_sequence(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out >= 1);
    const tdn_place x = tdn_place_of(&call->in[0]), y = tdn_place_of(&call->out[0]);
    const tdn_view *lens = &call->in[1];
    int batch, time;
    TDN_REF_NEED(call,
                 tdn_ref_axis(tdn_attr_int(call->attrs, "batch_axis", 1), x.view.rank, &batch));
    TDN_REF_NEED(call, tdn_ref_axis(tdn_attr_int(call->attrs, "time_axis", 0), x.view.rank, &time));
    TDN_REF_NEED(call, batch != time && tdn_view_same_dims(&x.view, &y.view) &&
                           x.view.dtype == y.view.dtype);
    TDN_REF_NEED(call, lens->rank == 1 && lens->dims[0] == x.view.dims[batch]);
    for (int64_t i = 0; i < lens->dims[0]; i++) {
        const int64_t len = tdn_view_get_int(lens, i * lens->strides[0]), all = x.view.dims[time];
        if (len < 0 || len > all)
            return tdn_fail(call->error, TDN_E_MODEL, "sequence length %lld outside 0..%lld",
                            (long long)len, (long long)all);
        tdn_place from = x, to = y;
        tdn_place_narrow(&from, batch, i, 1, 1);
        tdn_place_narrow(&to, batch, i, 1, 1);
        tdn_place tail_from = from, tail_to = to;
        if (len > 0) {
            tdn_place_narrow(&from, time, len - 1, -1, len);
            tdn_place_narrow(&to, time, 0, 1, len);
            tdn_ref_copy(&to, &from, 0, 1);
        }
        tdn_place_narrow(&tail_from, time, len, 1, all - len);
        tdn_place_narrow(&tail_to, time, len, 1, all - len);
        tdn_ref_copy(&tail_to, &tail_from, 0, 1);
    }
    return TDN_OK;
}

static tdn_status trilu(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 && call->in[0].rank >= 2);
    const tdn_place x = tdn_place_of(&call->in[0]), y = tdn_place_of(&call->out[0]);
    TDN_REF_NEED(call, tdn_view_same_dims(&x.view, &y.view) && x.view.dtype == y.view.dtype);
    const bool upper = tdn_attr_int(call->attrs, "upper", 1) != 0;
    const tdn_view *k_view = tdn_ref_in(call, 1);
    const int row_axis = x.view.rank - 2, column_axis = x.view.rank - 1;
    const int64_t rows = x.view.dims[row_axis], columns = x.view.dims[column_axis];
    int64_t k = k_view && tdn_view_count(k_view) ? tdn_view_get_int(k_view, 0) : 0;
    k = k < -rows ? -rows : k > columns ? columns : k;
    tdn_ref_fill(&y, 0, 0);
    for (int64_t i = 0; i < rows; i++) {
        int64_t begin = upper ? i + k : 0, end = upper ? columns : i + k + 1;
        begin = begin < 0 ? 0 : begin;
        end = end > columns ? columns : end;
        if (begin >= end)
            continue;
        tdn_place from = x, to = y;
        tdn_place_narrow(&from, row_axis, i, 1, 1);
        tdn_place_narrow(&to, row_axis, i, 1, 1);
        tdn_place_narrow(&from, column_axis, begin, 1, end - begin);
        tdn_place_narrow(&to, column_axis, begin, 1, end - begin);
        tdn_ref_copy(&to, &from, 0, 1);
    }
    return TDN_OK;
}

static tdn_status eye_like(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_out >= 1 && call->out[0].rank == 2);
    const tdn_place y = tdn_place_of(&call->out[0]);
    const int64_t k = tdn_attr_int(call->attrs, "k", 0);
    tdn_ref_fill(&y, 0, 0);
    for (int64_t i = 0; i < y.view.dims[0]; i++) {
        if (k < -i || k >= y.view.dims[1] - i)
            continue;
        const int64_t at = i * y.view.strides[0] + (i + k) * y.view.strides[1];
        if (tdn_ref_is_float(y.view.dtype))
            tdn_view_set(&y.view, at, 1);
        else
            tdn_view_set_int(&y.view, at, 1);
    }
    return TDN_OK;
}

/* The extent along `axis` is how many are true; without axis the input counts as flat. */
static tdn_status compress(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out >= 1 && call->in[1].rank == 1);
    const tdn_attr *attr = tdn_attr_find(call->attrs, "axis");
    const tdn_view *condition = &call->in[1];
    tdn_view *y = &call->out[0];
    tdn_view x = call->in[0];
    const int64_t count = tdn_view_count(&x);
    int axis = 0;
    if (attr)
        TDN_REF_NEED(call, tdn_ref_axis(attr->i, x.rank, &axis) && x.rank == y->rank &&
                               x.dtype == y->dtype);
    TDN_REF_NEED(call, attr || (y->rank == 1 && x.dtype == y->dtype));
    const int64_t extent = attr ? x.dims[axis] : count;
    const int64_t n = condition->dims[0] < extent ? condition->dims[0] : extent;
    int64_t n_true = 0;
    for (int64_t i = 0; i < n; i++)
        n_true += tdn_view_get_int(condition, i * condition->strides[0]) != 0;
    TDN_REF_NEED(call, n_true <= y->dims[axis]);
    for (int i = 0; i < y->rank; i++)
        TDN_REF_NEED(call, i == axis || y->dims[i] == x.dims[i]);
    y->dims[axis] = n_true;
    *y = tdn_view_make(y->data, y->dtype, y->rank, y->dims);
    for (int64_t i = 0, at = 0; i < n; i++) {
        if (tdn_view_get_int(condition, i * condition->strides[0]) == 0)
            continue;
        if (!attr) {
            tdn_ref_copy_one(y, at++, &x, tdn_view_offset(&x, i));
            continue;
        }
        tdn_place from = tdn_place_of(&x), to = tdn_place_of(y);
        tdn_place_narrow(&from, axis, i, 1, 1);
        tdn_place_narrow(&to, axis, at++, 1, 1);
        tdn_ref_copy(&to, &from, 0, 1);
    }
    return TDN_OK;
}

/* ---- Blocks back into an image --------------------------------------------------------------- */

typedef struct blocks {
    int n;                                            /* spatial axes */
    int64_t block[TDN_MAX_RANK], count[TDN_MAX_RANK]; /* of a block; of positions, each an axis */
    int64_t stride[TDN_MAX_RANK], dilation[TDN_MAX_RANK], before[TDN_MAX_RANK];
    int64_t channels, columns;
} blocks;

static tdn_status read_blocks(const tdn_ref_call *call, blocks *b)
{
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    const int64_t limit = (int64_t)1 << 31;
    int n_strides, n_dilations, n_pads;
    TDN_REF_NEED(call, tdn_ref_ints(tdn_ref_in(call, 2), b->block, TDN_MAX_RANK - 2, &b->n) &&
                           b->n == y->rank - 2);
    const int64_t *strides = tdn_attr_ints(call->attrs, "strides", &n_strides);
    const int64_t *dilations = tdn_attr_ints(call->attrs, "dilations", &n_dilations);
    const int64_t *pads = tdn_attr_ints(call->attrs, "pads", &n_pads);
    TDN_REF_NEED(call, (!strides || n_strides == b->n) && (!dilations || n_dilations == b->n) &&
                           (!pads || n_pads == 2 * b->n));
    int64_t elements = 1;
    b->columns = 1;
    for (int i = 0; i < b->n; i++) {
        const int64_t after = pads ? pads[b->n + i] : 0, in = y->dims[2 + i], k = b->block[i];
        b->stride[i] = strides ? strides[i] : 1;
        b->dilation[i] = dilations ? dilations[i] : 1;
        b->before[i] = pads ? pads[i] : 0;
        TDN_REF_NEED(call,
                     k > 0 && k < limit && in < limit && b->stride[i] > 0 && b->dilation[i] > 0);
        TDN_REF_NEED(call, b->stride[i] < limit && b->dilation[i] < limit && b->before[i] >= 0 &&
                               after >= 0);
        TDN_REF_NEED(call, b->before[i] < limit && after < limit);
        const int64_t room = in + b->before[i] + after - (k - 1) * b->dilation[i] - 1;
        TDN_REF_NEED(call, room >= 0 && !__builtin_mul_overflow(elements, k, &elements));
        b->count[i] = room / b->stride[i] + 1;
        TDN_REF_NEED(call, !__builtin_mul_overflow(b->columns, b->count[i], &b->columns));
    }
    b->channels = y->dims[1];
    TDN_REF_NEED(call, x->dims[1] / elements == b->channels && x->dims[1] % elements == 0);
    TDN_REF_NEED(call, x->dims[0] == y->dims[0] && x->dims[2] == b->columns);
    return TDN_OK;
}

/* Adds up what all blocks have for one element. */
static double block_sum(const tdn_view *x, const blocks *b, int64_t image, int64_t channel,
                        const int64_t *at)
{
    double sum = 0;
    int64_t element = 0;
    for (tdn_walk k = tdn_walk_begin(b->n, b->block); k.more; tdn_walk_next(&k), element++) {
        int64_t column = 0;
        bool inside = true;
        for (int i = 0; inside && i < b->n; i++) {
            const int64_t from = at[i] + b->before[i] - k.index[i] * b->dilation[i];
            inside = from >= 0 && from % b->stride[i] == 0 && from / b->stride[i] < b->count[i];
            column = column * b->count[i] + from / b->stride[i];
        }
        const int64_t n_elements = x->dims[1] / b->channels;
        if (inside)
            sum += tdn_ref_get(x, image * x->strides[0] +
                                      (channel * n_elements + element) * x->strides[1] +
                                      column * x->strides[2]);
    }
    return sum;
}

static tdn_status col_to_image(const tdn_ref_call *call)
{
    blocks b = {0};
    TDN_REF_NEED(call, call->n_in >= 3 && call->n_out >= 1 && call->in[0].rank == 3 &&
                           call->out[0].rank >= 3);
    TDN_TRY(read_blocks(call, &b));
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    for (tdn_walk w = tdn_walk_begin(y->rank, y->dims); w.more; tdn_walk_next(&w))
        tdn_view_set(y, tdn_walk_offset(&w, y),
                     block_sum(x, &b, w.index[0], w.index[1], w.index + 2));
    return TDN_OK;
}

const tdn_ref_def tdn_refs_movement[] = {
    {"Identity", identity, NULL, parts_one},
    {"Reshape", reshape, NULL, parts_one},
    {"tendon.Reshape", core_reshape, NULL, parts_one},
    {"Flatten", flatten, NULL, parts_one},
    {"Squeeze", squeeze, NULL, parts_one},
    {"Unsqueeze", squeeze, NULL, parts_one},
    {"Transpose", transpose, NULL, parts_one},
    {"Expand", expand, NULL, parts_one},
    {"Slice", slice, NULL, parts_one},
    {"Slice-1", slice_1, NULL, parts_one},
    {"tendon.Slice", core_slice, NULL, parts_one},
    {"Split", split, NULL, NULL},
    {"Concat", concat, NULL, parts_one},
    {"Tile", tile, NULL, parts_one},
    {"Pad", pad, NULL, NULL},
    {"Pad-2", pad_2, NULL, NULL},
    {"CenterCropPad", center_crop_pad, NULL, NULL},
    {"DepthToSpace", depth_to_space, NULL, parts_one},
    {"SpaceToDepth", space_to_depth, NULL, parts_one},
    {"ReverseSequence", reverse_sequence, NULL, NULL},
    {"Trilu", trilu, NULL, NULL},
    {"EyeLike", eye_like, NULL, NULL},
    {"Compress", compress, NULL, NULL},
    {"Col2Im", col_to_image, NULL, NULL},
    {0},
};
