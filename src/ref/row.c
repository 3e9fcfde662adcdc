/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading and storing rows of any dtype, and the walk over broadcast operands in rows.
 *
 * The dtypes that networks are made of have a loop of their own; the others go through tdn_view_get
 * and _set, which convert one element at a time. Sub-byte types are addressed by element, never by
 * pointer.
 */
#include "ref/row.h"

#include <math.h>

#include "ref/ref_util.h"

int64_t tdn_int_wrap(tdn_dtype dtype, int64_t x)
{
    switch (dtype) {
    case TDN_S8: return (int8_t)x;
    case TDN_U8: return (uint8_t)x;
    case TDN_S16: return (int16_t)x;
    case TDN_U16: return (uint16_t)x;
    case TDN_S32: return (int32_t)x;
    case TDN_U32: return (uint32_t)x;
    case TDN_BOOL: return x != 0;
    case TDN_U4: return x & 15;
    case TDN_S4: return ((x & 15) ^ 8) - 8;
    default: return x;
    }
}

void tdn_int_range(tdn_dtype dtype, int64_t *min, int64_t *max)
{
    static const struct {
        int64_t min, max;
    } rows[] = {
        [TDN_S8] = {INT8_MIN, INT8_MAX},
        [TDN_U8] = {0, UINT8_MAX},
        [TDN_S16] = {INT16_MIN, INT16_MAX},
        [TDN_U16] = {0, UINT16_MAX},
        [TDN_S32] = {INT32_MIN, INT32_MAX},
        [TDN_U32] = {0, UINT32_MAX},
        [TDN_S64] = {INT64_MIN, INT64_MAX},
        [TDN_U64] = {0, INT64_MAX},
        [TDN_BOOL] = {0, 1},
        [TDN_S4] = {-8, 7},
        [TDN_U4] = {0, 15},
    };
    const bool known = (size_t)dtype < sizeof rows / sizeof rows[0];
    *min = known ? rows[dtype].min : 0;
    *max = known ? rows[dtype].max : 0;
}

#define LOAD(type)                                                                                 \
    do {                                                                                           \
        const type *p = (const type *)view->data + offset;                                         \
        for (int i = 0; i < n; i++)                                                                \
            x[i] = p[i * stride];                                                                  \
        return;                                                                                    \
    } while (0)

/* Unit steps are told apart because the compiler then vectorises the conversion. */
static void load_f32(const float *p, int64_t stride, int n, double *x)
{
    if (stride == 1) {
        for (int i = 0; i < n; i++)
            x[i] = (double)p[i];
    } else {
        for (int i = 0; i < n; i++)
            x[i] = (double)p[i * stride];
    }
}

void tdn_row_load(const tdn_view *view, int64_t offset, int64_t stride, int n, double *x)
{
    switch (view->dtype) {
    case TDN_F32: load_f32((const float *)view->data + offset, stride, n, x); return;
    case TDN_F64: LOAD(double);
    case TDN_S32: LOAD(int32_t);
    case TDN_S8: LOAD(int8_t);
    case TDN_U8: LOAD(uint8_t);
    default:
        for (int i = 0; i < n; i++)
            x[i] = tdn_view_get(view, offset + i * stride);
    }
}

void tdn_row_load_int(const tdn_view *view, int64_t offset, int64_t stride, int n, int64_t *x)
{
    switch (view->dtype) {
    case TDN_S64: LOAD(int64_t);
    case TDN_S32: LOAD(int32_t);
    case TDN_S8: LOAD(int8_t);
    case TDN_U8: LOAD(uint8_t);
    default:
        for (int i = 0; i < n; i++)
            x[i] = tdn_view_get_int(view, offset + i * stride);
    }
}

static void store_f32(float *p, int64_t stride, int n, const double *x)
{
    if (stride == 1) {
        for (int i = 0; i < n; i++)
            p[i] = (float)x[i];
    } else {
        for (int i = 0; i < n; i++)
            p[i * stride] = (float)x[i];
    }
}

void tdn_row_store(const tdn_view *view, int64_t offset, int64_t stride, int n, const double *x)
{
    if (view->dtype == TDN_F32) {
        store_f32((float *)view->data + offset, stride, n, x);
        return;
    }
    const bool cut = !tdn_ref_is_float(view->dtype) && view->dtype != TDN_BOOL;
    for (int i = 0; i < n; i++)
        tdn_view_set(view, offset + i * stride, cut ? trunc(x[i]) : x[i]);
}

#define STORE(type)                                                                                \
    do {                                                                                           \
        type *p = (type *)view->data + offset;                                                     \
        for (int i = 0; i < n; i++)                                                                \
            p[i * stride] = (type)x[i];                                                            \
        return;                                                                                    \
    } while (0)

static void store_u64(uint64_t *p, int64_t stride, int n, const int64_t *x)
{
    for (int i = 0; i < n; i++)
        p[i * stride] = (uint64_t)x[i];
}

void tdn_row_store_int(const tdn_view *view, int64_t offset, int64_t stride, int n,
                       const int64_t *x)
{
    switch (view->dtype) {
    case TDN_F32: STORE(float);
    case TDN_S64: STORE(int64_t);
    case TDN_S32: STORE(int32_t);
    case TDN_S8: STORE(int8_t);
    case TDN_U8: STORE(uint8_t);
    case TDN_U64: /* tdn_view_set_int would take the upper half for negative */
        store_u64((uint64_t *)view->data + offset, stride, n, x);
        return;
    default:
        for (int i = 0; i < n; i++)
            tdn_view_set_int(view, offset + i * stride, tdn_int_wrap(view->dtype, x[i]));
    }
}

/* Does every operand step through axis `inner` so that the axis before it, `outer`, only continues
 * it? */
static bool can_join(const tdn_view *views, int n_views, int outer, int inner)
{
    for (int k = 0; k < n_views; k++)
        if (views[k].strides[outer] != views[k].strides[inner] * views[k].dims[inner])
            return false;
    return true;
}

static void move_axis(tdn_view *views, int n_views, int to, int from, bool join)
{
    for (int k = 0; k < n_views; k++) {
        views[k].dims[to] = join ? views[k].dims[to] * views[k].dims[from] : views[k].dims[from];
        views[k].strides[to] = views[k].strides[from];
    }
}

static void join_axes(tdn_view *views, int n_views)
{
    int n = 0; /* axes kept so far */
    for (int i = 0; i < views[0].rank; i++) {
        if (views[0].dims[i] == 1)
            continue;
        const bool join = n > 0 && can_join(views, n_views, n - 1, i);
        if (!join)
            n++;
        move_axis(views, n_views, n - 1, i, join);
    }
    for (int k = 0; k < n_views; k++) {
        views[k].rank = n ? n : 1;
        if (n == 0) {
            views[k].dims[0] = 1;
            views[k].strides[0] = 0;
        }
    }
}

tdn_rows tdn_rows_begin(tdn_view *views, int n_views, int64_t begin, int64_t end)
{
    const int64_t count = tdn_view_count(&views[0]);
    tdn_rows rows = {.views = views};
    if (count == 0)
        return rows;
    join_axes(views, n_views);
    rows.at = begin;
    rows.end = end < 0 ? count : end;
    for (int i = views[0].rank - 1; i >= 0; i--) {
        rows.index[i] = begin % views[0].dims[i];
        begin /= views[0].dims[i];
    }
    return rows;
}

bool tdn_rows_next(tdn_rows *rows)
{
    if (rows->n > 0) { /* step over the row that was done */
        int i = rows->views[0].rank - 1;
        rows->at += rows->n;
        rows->index[i] += rows->n;
        for (; i > 0 && rows->index[i] == rows->views[0].dims[i]; i--) {
            rows->index[i] = 0;
            rows->index[i - 1]++;
        }
    }
    if (rows->at >= rows->end)
        return false;
    const int last = rows->views[0].rank - 1;
    int64_t n = rows->views[0].dims[last] - rows->index[last];
    n = n < TDN_ROW ? n : TDN_ROW;
    rows->n = (int)(n < rows->end - rows->at ? n : rows->end - rows->at);
    return true;
}

int64_t tdn_rows_offset(const tdn_rows *rows, int k)
{
    const tdn_view *view = &rows->views[k];
    int64_t offset = 0;
    for (int i = 0; i < view->rank; i++)
        offset += rows->index[i] * view->strides[i];
    return offset;
}

/* The dims that the inputs have together, by numpy's rule; those of output `like` where there are
 * no inputs. */
static bool joint_dims(const tdn_ref_call *call, const tdn_view *like, int64_t *dims)
{
    for (int i = 0; i < like->rank; i++)
        dims[i] = call->n_in ? 1 : like->dims[i];
    for (int k = 0; k < call->n_in; k++) {
        const tdn_view *in = &call->in[k];
        const int lead = like->rank - in->rank;
        if (in->dtype == TDN_DTYPE_NONE)
            continue;
        for (int i = 0; i < in->rank; i++) {
            if (lead < 0 ||
                (in->dims[i] != 1 && dims[lead + i] != 1 && dims[lead + i] != in->dims[i]))
                return false;
            if (in->dims[i] != 1)
                dims[lead + i] = in->dims[i];
        }
    }
    return true;
}

static bool fit_output(const tdn_ref_call *call, int k, int rank, const int64_t *dims,
                       tdn_view *view)
{
    tdn_view *out = &call->out[k];
    if (out->rank != rank)
        return false;
    bool shorter = false;
    for (int i = 0; i < rank; i++) {
        if (dims[i] > out->dims[i])
            return false;
        shorter = shorter || dims[i] < out->dims[i];
    }
    *view = shorter ? tdn_view_make(out->data, out->dtype, rank, dims) : *out;
    if (shorter && call->part == 0)
        *out = *view;
    return true;
}

tdn_status tdn_rows_of_call(const tdn_ref_call *call, tdn_view *views)
{
    const tdn_view *like = NULL;
    int64_t dims[TDN_MAX_RANK] = {0};
    for (int k = call->n_out - 1; k >= 0; k--)
        if (call->out[k].dtype != TDN_DTYPE_NONE)
            like = &call->out[k];
    if (!like) { /* nobody reads anything: a walk over no elements */
        for (int k = 0; k < call->n_out + call->n_in; k++)
            views[k] = tdn_view_make(NULL, TDN_DTYPE_NONE, 1, dims);
        return TDN_OK;
    }
    const int rank = like->rank;
    bool ok = joint_dims(call, like, dims);
    for (int k = 0; k < call->n_out && ok; k++) {
        views[k] = tdn_view_make(NULL, TDN_DTYPE_NONE, rank, dims);
        if (call->out[k].dtype != TDN_DTYPE_NONE)
            ok = fit_output(call, k, rank, dims, &views[k]);
    }
    for (int k = 0; k < call->n_in && ok; k++) {
        views[call->n_out + k] = tdn_view_make(NULL, TDN_DTYPE_NONE, rank, dims);
        if (call->in[k].dtype != TDN_DTYPE_NONE)
            ok = tdn_view_broadcast(&call->in[k], rank, dims, &views[call->n_out + k]);
    }
    return ok ? TDN_OK
              : tdn_fail(call->error, TDN_E_MODEL,
                         "the operands' shapes do not broadcast to the output's");
}

size_t tdn_rows_scratch(const tdn_ref_call *call)
{
    return ((size_t)call->n_in + (size_t)call->n_out) * sizeof(tdn_view);
}

/* Are output 0's dims only a bound of what the inputs' dims give? Then one part alone writes the
 * true ones. */
static bool is_shorter(const tdn_ref_call *call)
{
    const tdn_view *out = &call->out[0];
    int64_t dims[TDN_MAX_RANK];
    if (!joint_dims(call, out, dims))
        return true;
    for (int i = 0; i < out->rank; i++)
        if (dims[i] < out->dims[i])
            return true;
    return false;
}

int tdn_rows_parts(const tdn_ref_call *call, int64_t work)
{
    if (call->n_out == 0 || is_shorter(call))
        return 1;
    return tdn_ref_parts_of(&call->out[0], work);
}
