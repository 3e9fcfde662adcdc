/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strided copies and the other things that references share.
 *
 * A copy first drops axes of extent 1 and joins axes that lie one after the other in both places,
 * so that the loop over the innermost axis is long and, where both are contiguous, a memmove.
 * Elements are moved by size, not by type.
 */
#include "ref/ref_util.h"

#include <math.h>
#include <string.h>

tdn_status tdn_ref_misfit(const tdn_ref_call *call, const char *what)
{
    return tdn_fail(call->error, TDN_E_MODEL, "operands do not fit together (%s)", what);
}

/* ---- Copies ---------------------------------------------------------------------------------- */

/* Two places walked together: dims and both strides, joined. */
typedef struct pair {
    int rank;
    int64_t dims[TDN_MAX_RANK], to[TDN_MAX_RANK], from[TDN_MAX_RANK];
} pair;

static pair pair_make(const tdn_view *to, const tdn_view *from)
{
    pair p = {0};
    for (int i = 0; i < to->rank; i++) {
        if (to->dims[i] == 1)
            continue;
        const int last = p.rank - 1;
        if (last >= 0 && p.to[last] == to->strides[i] * to->dims[i] &&
            p.from[last] == from->strides[i] * to->dims[i]) {
            p.dims[last] *= to->dims[i];
            p.to[last] = to->strides[i];
            p.from[last] = from->strides[i];
            continue;
        }
        p.dims[p.rank] = to->dims[i];
        p.to[p.rank] = to->strides[i];
        p.from[p.rank++] = from->strides[i];
    }
    if (p.rank == 0) {
        p.dims[0] = 1;
        p.rank = 1;
    }
    return p;
}

/* Moves n elements of `size` bytes; strides in bytes. */
static void move_row(char *to, int64_t to_stride, const char *from, int64_t from_stride,
                     size_t size, int64_t n)
{
    if (to_stride == (int64_t)size && from_stride == (int64_t)size) {
        memmove(to, from, (size_t)n * size); /* a damaged plan's operands may overlap */
        return;
    }
    switch (size) {
    case 1:
        for (int64_t i = 0; i < n; i++)
            to[i * to_stride] = from[i * from_stride];
        break;
    case 2:
        for (int64_t i = 0; i < n; i++)
            memcpy(to + i * to_stride, from + i * from_stride, 2);
        break;
    case 4:
        for (int64_t i = 0; i < n; i++)
            memcpy(to + i * to_stride, from + i * from_stride, 4);
        break;
    default:
        for (int64_t i = 0; i < n; i++)
            memcpy(to + i * to_stride, from + i * from_stride, 8);
        break;
    }
}

static void copy_nibbles(const tdn_place *to, const tdn_place *from)
{
    for (tdn_walk w = tdn_walk_begin(to->view.rank, to->view.dims); w.more; tdn_walk_next(&w)) {
        const int64_t x =
            tdn_view_get_int(&from->view, from->offset + tdn_walk_offset(&w, &from->view));
        tdn_view_set_int(&to->view, to->offset + tdn_walk_offset(&w, &to->view), x);
    }
}

void tdn_ref_copy(const tdn_place *to, const tdn_place *from, int part, int n_parts)
{
    const int64_t count = tdn_view_count(&to->view);
    if (count == 0)
        return;
    if (tdn_ref_is_sub_byte(to->view.dtype)) {
        if (part == 0)
            copy_nibbles(to, from);
        return;
    }
    const int64_t size = (int64_t)tdn_dtype_size(to->view.dtype, 1);
    const pair p = pair_make(&to->view, &from->view);
    int64_t begin, end, index[TDN_MAX_RANK];
    tdn_ref_share(count, part, n_parts, &begin, &end);
    for (int64_t i = p.rank - 1, rest = begin; i >= 0; i--) {
        index[i] = rest % p.dims[i];
        rest /= p.dims[i];
    }
    const int last = p.rank - 1;
    while (begin < end) {
        int64_t a = to->offset, b = from->offset;
        for (int i = 0; i < p.rank; i++) {
            a += index[i] * p.to[i];
            b += index[i] * p.from[i];
        }
        int64_t n = p.dims[last] - index[last];
        n = n < end - begin ? n : end - begin;
        move_row((char *)to->view.data + a * size, p.to[last] * size,
                 (const char *)from->view.data + b * size, p.from[last] * size, (size_t)size, n);
        begin += n;
        index[last] = 0;
        for (int i = last - 1; i >= 0 && ++index[i] == p.dims[i]; i--)
            index[i] = 0;
    }
}

void tdn_ref_copy_flat(const tdn_place *to, const tdn_place *from, int part, int n_parts)
{
    const int64_t count = tdn_view_count(&to->view);
    tdn_place a = *to, b = *from;
    if (tdn_view_is_dense(&a.view) && tdn_view_is_dense(&b.view)) {
        a.view = tdn_view_make(a.view.data, a.view.dtype, 1, &count);
        b.view = tdn_view_make(b.view.data, b.view.dtype, 1, &count);
        tdn_ref_copy(&a, &b, part, n_parts);
        return;
    }
    int64_t begin, end;
    tdn_ref_share(count, part, n_parts, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        tdn_ref_copy_one(&to->view, to->offset + tdn_view_offset(&to->view, i), &from->view,
                         from->offset + tdn_view_offset(&from->view, i));
}

void tdn_ref_copy_one(const tdn_view *to, int64_t to_offset, const tdn_view *from,
                      int64_t from_offset)
{
    if (tdn_ref_is_sub_byte(to->dtype)) {
        tdn_view_set_int(to, to_offset, tdn_view_get_int(from, from_offset));
        return;
    }
    const int64_t size = (int64_t)tdn_dtype_size(to->dtype, 1);
    memmove((char *)to->data + to_offset * size, (const char *)from->data + from_offset * size,
           (size_t)size);
}

void tdn_ref_fill(const tdn_place *to, double x, int64_t i)
{
    uint64_t element = 0; /* one element, broadcast over the place */
    tdn_place one = {.view = to->view};
    one.view.data = &element;
    for (int k = 0; k < one.view.rank; k++)
        one.view.strides[k] = 0;
    if (tdn_ref_is_float(to->view.dtype))
        tdn_view_set(&one.view, 0, x);
    else
        tdn_view_set_int(&one.view, 0, i);
    tdn_ref_copy(to, &one, 0, 1);
}

/* ---- Small help ------------------------------------------------------------------------------ */

int tdn_ref_parts_of(const tdn_view *out, int64_t work_per_element)
{
    if (tdn_ref_is_sub_byte(out->dtype))
        return 1;
    const int64_t count = tdn_view_count(out);
    const int64_t unit = 16384; /* below this a part costs more to hand out than to do */
    int64_t work;
    if (__builtin_mul_overflow(count, work_per_element > 0 ? work_per_element : 1, &work))
        work = INT64_MAX;
    const int64_t parts = work / unit < count ? work / unit : count;
    return parts < 1 ? 1 : parts > 64 ? 64 : (int)parts;
}

bool tdn_ref_fit(tdn_view *y, int rank, const int64_t *dims)
{
    bool same = y->rank == rank;
    for (int i = 0; i < rank && y->rank == rank; i++) {
        same = same && y->dims[i] == dims[i];
        if (dims[i] < 0 || dims[i] > y->dims[i])
            return false;
    }
    if (!same && y->rank == rank)
        *y = tdn_view_make(y->data, y->dtype, rank, dims);
    return y->rank == rank;
}

bool tdn_ref_ints(const tdn_view *view, int64_t *v, int max, int *n)
{
    *n = 0;
    if (!view || view->rank > 1)
        return false;
    const int64_t count = view->rank == 0 ? 1 : view->dims[0];
    if (count > max)
        return false;
    for (int64_t i = 0; i < count; i++)
        v[i] = tdn_view_get_int(view, view->rank == 0 ? 0 : i * view->strides[0]);
    *n = (int)count;
    return true;
}

bool tdn_ref_axis(int64_t axis, int rank, int *out)
{
    if (axis < -rank || axis >= rank)
        return false;
    *out = (int)(axis < 0 ? axis + rank : axis);
    return true;
}

int64_t tdn_ref_product(const tdn_view *view, int from, int to)
{
    int64_t count = 1;
    for (int i = from; i < to; i++)
        count *= view->dims[i];
    return count;
}

static int64_t clamp(int64_t x, int64_t low, int64_t high)
{
    return x < low ? low : x > high ? high : x;
}

bool tdn_slice_resolve(int64_t dim, int64_t *start, int64_t end, int64_t *step, int64_t *extent)
{
    if (*step == 0)
        return false;
    const bool up = *step > 0;
    const int64_t high = up ? dim : dim - 1;
    const int64_t first = clamp(*start < 0 ? *start + dim : *start, 0, high);
    const int64_t stop = clamp(end < 0 ? end + dim : end, up ? 0 : -1, high);
    if (dim == 0)
        *extent = 0;
    else if (up)
        *extent = stop > first ? (stop - first - 1) / *step + 1 : 0;
    else
        *extent =
            first > stop ? (first - stop - 1) / (*step == INT64_MIN ? INT64_MAX : -*step) + 1 : 0;
    if (*extent < 2)
        *step = 1;
    *start = *extent ? first : 0;
    return true;
}

static bool less(const tdn_ref_item *a, const tdn_ref_item *b)
{
    if (isnan(b->f))
        return !isnan(a->f);
    return a->f < b->f || (a->f == b->f && a->i < b->i);
}

void tdn_ref_sort(tdn_ref_item *items, tdn_ref_item *temp, int64_t n, bool descending)
{
    tdn_ref_item *from = items, *to = temp;
    for (int64_t run = 1; run < n; run *= 2) {
        for (int64_t begin = 0; begin < n; begin += 2 * run) {
            const int64_t middle = begin + run < n ? begin + run : n,
                          end = middle + run < n ? middle + run : n;
            int64_t a = begin, b = middle;
            for (int64_t at = begin; at < end; at++) {
                const bool second =
                    a == middle ||
                    (b < end && (descending ? less(&from[a], &from[b]) : less(&from[b], &from[a])));
                to[at] = from[second ? b++ : a++];
            }
        }
        tdn_ref_item *swap = from;
        from = to;
        to = swap;
    }
    if (from != items)
        memcpy(items, from, (size_t)n * sizeof *items);
}

double tdn_ref_dot(const float *x, int64_t dx, const float *y, int64_t dy, int64_t n)
{
    double sum[4] = {0}; /* four chains, or the loop waits for each addition */
    int64_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (int64_t k = 0; k < 4; k++)
            sum[k] += (double)x[(i + k) * dx] * (double)y[(i + k) * dy];
    for (; i < n; i++)
        sum[0] += (double)x[i * dx] * (double)y[i * dy];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Two doubles, in any level of instructions: with vectors spelled out, the loop does not depend on
 * what the compiler's vectoriser thinks of it. */
typedef double pair_of_doubles __attribute__((vector_size(16)));
typedef float pair_of_floats __attribute__((vector_size(8)));

static pair_of_doubles widen(const float *x, int64_t step)
{
    pair_of_floats f = {x[0], x[step]};
    if (step == 1)
        memcpy(&f, x, sizeof f);
    return __builtin_convertvector(f, pair_of_doubles);
}

static void add_pair(double *acc, const pair_of_doubles *x, int n_x,
                     const double (*w)[TDN_REF_ROWS], int row)
{
    pair_of_doubles sum;
    memcpy(&sum, acc, sizeof sum);
    for (int t = 0; t < n_x; t++)
        sum += x[t] * w[t][row];
    memcpy(acc, &sum, sizeof sum);
}

/* Four terms: the sums are read and written once for all of them. */
static int64_t add_four(double *acc, int64_t ld, const float *const *x, int64_t step,
                        const double (*w)[TDN_REF_ROWS], int64_t n)
{
    int64_t i = 0;
    for (; i + 2 <= n; i += 2) {
        const pair_of_doubles v[TDN_REF_TERMS] = {
            widen(x[0] + i * step, step), widen(x[1] + i * step, step),
            widen(x[2] + i * step, step), widen(x[3] + i * step, step)};
        for (int r = 0; r < TDN_REF_ROWS; r++)
            add_pair(acc + r * ld + i, v, TDN_REF_TERMS, w, r);
    }
    return i;
}

void tdn_ref_add_rows(double *acc, int64_t ld, const float *const *x, int n_x, int64_t step,
                      const double (*w)[TDN_REF_ROWS], int64_t n)
{
    int64_t i = 0;
    if (n_x == TDN_REF_TERMS)
        i = step == 1 ? add_four(acc, ld, x, 1, w, n) : add_four(acc, ld, x, step, w, n);
    for (; i < n; i++)
        for (int r = 0; r < TDN_REF_ROWS; r++)
            for (int t = 0; t < n_x; t++)
                acc[r * ld + i] += w[t][r] * (double)x[t][i * step];
}
