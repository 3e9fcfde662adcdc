/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of reductions: ONNX's Reduce*, the global pools, the core operator Reduce, ArgMax and
 * ArgMin, running sums and products.
 *
 * A reduction splits the input's axes into those that stay, which number the outputs, and those
 * that go, which are walked in rows for each output. Sums run in double (in int64 for integers) in
 * the order of the input, so that the result does not depend on how outputs are shared between
 * threads.
 */
#include <math.h>
#include <string.h>

#include "ref/ref_util.h"
#include "ref/row.h"

typedef enum kind { SUM, MEAN, MAX, MIN, PROD, L1, L2, SUMSQ, LOGSUM, LOGSUMEXP } kind;

/* What a reduction has seen so far; logsumexp keeps the largest and the sum of exp(x - largest). */
typedef struct total {
    double x, largest;
    int64_t i;
} total;

/* ---- One row into a total -------------------------------------------------------------------- */

static void add_log_sum_exp(total *t, int n, const double *x)
{
    double top = t->largest;
    for (int i = 0; i < n; i++)
        top = x[i] > top || isnan(x[i]) ? x[i] : top;
    if (top != t->largest) {
        t->x *= t->largest == -INFINITY ? 0 : exp(t->largest - top);
        t->largest = top;
    }
    for (int i = 0; i < n; i++)
        t->x += x[i] == top ? 1 : exp(x[i] - top); /* equal also where both are infinite */
}

static void add_real(kind k, total *t, int n, const double *x)
{
    double a = t->x;
    switch (k) {
    case SUM:
    case MEAN:
    case LOGSUM:
        for (int i = 0; i < n; i++)
            a += x[i];
        break;
    case MAX:
        for (int i = 0; i < n; i++)
            a = x[i] > a || isnan(x[i]) ? x[i] : a;
        break;
    case MIN:
        for (int i = 0; i < n; i++)
            a = x[i] < a || isnan(x[i]) ? x[i] : a;
        break;
    case PROD:
        for (int i = 0; i < n; i++)
            a *= x[i];
        break;
    case L1:
        for (int i = 0; i < n; i++)
            a += fabs(x[i]);
        break;
    case L2:
    case SUMSQ:
        for (int i = 0; i < n; i++)
            a += x[i] * x[i];
        break;
    case LOGSUMEXP: add_log_sum_exp(t, n, x); return;
    }
    t->x = a;
}

static void add_whole(kind k, bool u64, total *t, int n, const int64_t *x)
{
    uint64_t a = (uint64_t)t->i;
    const uint64_t flip = u64 ? (uint64_t)1 << 63 : 0; /* makes unsigned order signed order */
    for (int i = 0; i < n; i++) {
        const uint64_t v = (uint64_t)x[i];
        switch (k) {
        case MAX: a = (int64_t)(v ^ flip) > (int64_t)(a ^ flip) ? v : a; break;
        case MIN: a = (int64_t)(v ^ flip) < (int64_t)(a ^ flip) ? v : a; break;
        case PROD: a *= v; break;
        case L1: a += !u64 && x[i] < 0 ? 0 - v : v; break;
        case SUMSQ: a += v * v; break;
        default: a += v;
        }
    }
    t->i = (int64_t)a;
}

static total begin_total(kind k, tdn_dtype dtype)
{
    int64_t low = 0, high = 0;
    const bool is_float = tdn_ref_is_float(dtype);
    if (!is_float)
        tdn_int_range(dtype, &low, &high);
    if (dtype == TDN_U64)
        high = -1; /* all ones */
    total t = {.x = 0, .largest = -INFINITY, .i = 0};
    if (k == MAX)
        t = (total){.x = -INFINITY, .i = low};
    else if (k == MIN)
        t = (total){.x = INFINITY, .i = high};
    else if (k == PROD)
        t = (total){.x = 1, .i = 1};
    return t;
}

static double end_real(kind k, const total *t, int64_t n)
{
    switch (k) {
    case MEAN: return t->x / (double)n;
    case L2: return sqrt(t->x);
    case LOGSUM: return log(t->x);
    case LOGSUMEXP:
        return isinf(t->largest) || isnan(t->largest) ? t->largest : t->largest + log(t->x);
    default: return t->x;
    }
}

/* ---- Which axes ------------------------------------------------------------------------------ */

/* The input's axes in two views: `stays` numbers the outputs, `goes` is what one of them sums.
 * `out` has stays' dims.
 */
typedef struct split {
    tdn_view stays, goes, out;
} split;

static bool split_axes(const tdn_view *x, const tdn_view *y, const bool *reduced, bool keep_dims,
                       split *s)
{
    *s = (split){.stays = {.data = x->data, .dtype = x->dtype},
                 .goes = {.data = x->data, .dtype = x->dtype},
                 .out = {.data = y->data, .dtype = y->dtype}};
    int axis = 0; /* of y */
    for (int i = 0; i < x->rank; i++) {
        tdn_view *to = reduced[i] ? &s->goes : &s->stays;
        to->dims[to->rank] = x->dims[i];
        to->strides[to->rank++] = x->strides[i];
        if (reduced[i] && !keep_dims)
            continue;
        if (axis >= y->rank || y->dims[axis] != (reduced[i] ? 1 : x->dims[i]))
            return false;
        if (!reduced[i]) {
            s->out.dims[s->out.rank] = y->dims[axis];
            s->out.strides[s->out.rank++] = y->strides[axis];
        }
        axis++;
    }
    return axis == y->rank;
}

static bool mark_axes(const int64_t *axes, int64_t n, int rank, bool *reduced)
{
    for (int64_t i = 0; i < n; i++) {
        int axis;
        if (!tdn_ref_axis(axes[i], rank, &axis))
            return false;
        reduced[axis] = true;
    }
    return true;
}

/* From input 1, else from the attribute; none means all, or with
 * noop_with_empty_axes really none. */
static bool axes_of_call(const tdn_ref_call *call, bool *reduced)
{
    const int rank = call->in[0].rank;
    const tdn_view *input = tdn_ref_in(call, 1);
    int64_t from_input[TDN_MAX_RANK];
    int n = 0;
    const int64_t *axes = tdn_attr_ints(call->attrs, "axes", &n);
    if (input && !tdn_ref_ints(input, from_input, TDN_MAX_RANK, &n))
        return false;
    if (n == 0 && tdn_attr_int(call->attrs, "noop_with_empty_axes", 0) == 0)
        for (int i = 0; i < rank; i++)
            reduced[i] = true;
    return mark_axes(input ? from_input : axes, n, rank, reduced);
}

/* ---- Reductions ------------------------------------------------------------------------------ */

/* Integers stay integers where the kind has no root or logarithm. */
static bool is_whole(kind k, tdn_dtype dtype)
{
    return !tdn_ref_is_float(dtype) && k != L2 && k != LOGSUM && k != LOGSUMEXP;
}

static total total_of(kind k, bool whole, const tdn_view *goes, int64_t base)
{
    double x[TDN_ROW];
    int64_t xi[TDN_ROW];
    tdn_view view = *goes;
    total t = begin_total(k, view.dtype);
    tdn_rows rows = tdn_rows_begin(&view, 1, 0, -1);
    while (tdn_rows_next(&rows)) {
        const int64_t offset = base + tdn_rows_offset(&rows, 0);
        if (whole) {
            tdn_row_load_int(&view, offset, tdn_rows_stride(&rows, 0), rows.n, xi);
            add_whole(k, view.dtype == TDN_U64, &t, rows.n, xi);
        } else {
            tdn_row_load(&view, offset, tdn_rows_stride(&rows, 0), rows.n, x);
            add_real(k, &t, rows.n, x);
        }
    }
    return t;
}

static int64_t end_whole(kind k, bool u64, const total *t, int64_t n)
{
    if (k != MEAN)
        return t->i;
    if (n == 0)
        return 0;
    return u64 ? (int64_t)((uint64_t)t->i / (uint64_t)n) : t->i / n;
}

static tdn_status reduce_axes(const tdn_ref_call *call, kind k, const bool *reduced, bool keep_dims)
{
    split s;
    if (!tdn_ref_out(call, 0))
        return TDN_OK;
    TDN_REF_NEED(call, split_axes(&call->in[0], &call->out[0], reduced, keep_dims, &s));
    const bool whole = is_whole(k, s.goes.dtype);
    const int64_t n = tdn_view_count(&s.goes);
    int64_t begin, end;
    tdn_ref_share(tdn_view_count(&s.out), call->part, call->n_parts, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        const total t = total_of(k, whole, &s.goes, tdn_view_offset(&s.stays, i));
        const int64_t to = tdn_view_offset(&s.out, i);
        const double x = whole ? 0 : end_real(k, &t, n);
        const int64_t whole_x = whole ? end_whole(k, s.goes.dtype == TDN_U64, &t, n) : 0;
        if (whole)
            tdn_row_store_int(&s.out, to, 1, 1, &whole_x);
        else
            tdn_row_store(&s.out, to, 1, 1, &x);
    }
    return TDN_OK;
}

static tdn_status reduce(const tdn_ref_call *call, kind k)
{
    bool reduced[TDN_MAX_RANK] = {false};
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out == 1);
    if (!axes_of_call(call, reduced))
        return tdn_fail(call->error, TDN_E_MODEL,
                        "an axis to reduce is outside of the input's rank");
    return reduce_axes(call, k, reduced, tdn_attr_int(call->attrs, "keepdims", 1) != 0);
}

#define REDUCE(name, k)                                                                            \
    static tdn_status name##_run(const tdn_ref_call *call) { return reduce(call, k); }
REDUCE(reduce_sum, SUM)
REDUCE(reduce_mean, MEAN)
REDUCE(reduce_max, MAX)
REDUCE(reduce_min, MIN)
REDUCE(reduce_prod, PROD)
REDUCE(reduce_l1, L1)
REDUCE(reduce_l2, L2)
REDUCE(reduce_sum_square, SUMSQ)
REDUCE(reduce_log_sum, LOGSUM)
REDUCE(reduce_log_sum_exp, LOGSUMEXP)

/* The core operator: its axes are always said, and none means none. */
static tdn_status core_reduce_run(const tdn_ref_call *call)
{
    static const char *const names[] = {"sum", "mean", "max",   "min",    "prod",
                                        "l1",  "l2",   "sumsq", "logsum", "logsumexp"};
    const char *name = tdn_attr_string(call->attrs, "kind", "");
    int n = 0;
    const int64_t *axes = tdn_attr_ints(call->attrs, "axes", &n);
    bool reduced[TDN_MAX_RANK] = {false};
    TDN_REF_NEED(call, call->n_in == 1 && call->n_out == 1 &&
                           mark_axes(axes, n, call->in[0].rank, reduced));
    for (int k = SUM; k <= LOGSUMEXP; k++)
        if (strcmp(name, names[k]) == 0)
            return reduce_axes(call, (kind)k, reduced,
                               tdn_attr_int(call->attrs, "keepdims", 0) != 0);
    return tdn_fail(call->error, TDN_E_MODEL, "there is no reduction '%s'", name);
}

static tdn_status global_pool(const tdn_ref_call *call, kind k)
{
    bool reduced[TDN_MAX_RANK] = {false};
    TDN_REF_NEED(call, call->n_in == 1 && call->n_out == 1);
    for (int i = 2; i < call->in[0].rank; i++)
        reduced[i] = true;
    return reduce_axes(call, k, reduced, true);
}

static tdn_status global_average_run(const tdn_ref_call *call) { return global_pool(call, MEAN); }
static tdn_status global_max_run(const tdn_ref_call *call) { return global_pool(call, MAX); }

static int reduce_parts(const tdn_ref_call *call)
{
    const int64_t outputs = call->n_out ? tdn_view_count(&call->out[0]) : 0;
    return outputs < 1 ? 1
                       : tdn_ref_parts_of(&call->out[0], tdn_view_count(&call->in[0]) / outputs);
}

/* ---- ArgMax, ArgMin -------------------------------------------------------------------------- */

/* Is element i a better choice than the one at `best`? A NaN, once met, stays. */
static bool is_better(const tdn_view *x, int64_t i, int64_t best, bool max, bool last)
{
    if (tdn_ref_is_float(x->dtype)) {
        const double a = tdn_ref_get(x, i), b = tdn_ref_get(x, best);
        if (isnan(a) || isnan(b))
            return !isnan(b);
        return (max ? a > b : a < b) || (last && a == b);
    }
    const uint64_t flip = x->dtype == TDN_U64 ? (uint64_t)1 << 63 : 0;
    const int64_t a = (int64_t)((uint64_t)tdn_view_get_int(x, i) ^ flip);
    const int64_t b = (int64_t)((uint64_t)tdn_view_get_int(x, best) ^ flip);
    return (max ? a > b : a < b) || (last && a == b);
}

static tdn_status arg(const tdn_ref_call *call, bool max)
{
    TDN_REF_NEED(call, call->n_in == 1 && call->n_out == 1);
    if (!tdn_ref_out(call, 0))
        return TDN_OK;
    const tdn_view *x = &call->in[0];
    int axis;
    bool reduced[TDN_MAX_RANK] = {false};
    TDN_REF_NEED(call, tdn_ref_axis(tdn_attr_int(call->attrs, "axis", 0), x->rank, &axis));
    reduced[axis] = true;
    split s;
    TDN_REF_NEED(call, split_axes(x, &call->out[0], reduced,
                                  tdn_attr_int(call->attrs, "keepdims", 1) != 0, &s));
    const bool last = tdn_attr_int(call->attrs, "select_last_index", 0) != 0;
    int64_t begin, end;
    tdn_ref_share(tdn_view_count(&s.out), call->part, call->n_parts, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        const int64_t base = tdn_view_offset(&s.stays, i), stride = s.goes.strides[0];
        int64_t best = 0;
        for (int64_t k = 1; k < s.goes.dims[0]; k++)
            if (is_better(x, base + k * stride, base + best * stride, max, last))
                best = k;
        tdn_view_set_int(&s.out, tdn_view_offset(&s.out, i), best);
    }
    return TDN_OK;
}

static tdn_status arg_max_run(const tdn_ref_call *call) { return arg(call, true); }
static tdn_status arg_min_run(const tdn_ref_call *call) { return arg(call, false); }

/* ---- CumSum, CumProd ------------------------------------------------------------------------- */

/* One line of n elements from offset a of x to offset b of y. */
static void run_along(const tdn_view *x, int64_t a, int64_t step_a, const tdn_view *y, int64_t b,
                      int64_t step_b, int64_t n, bool product, bool exclusive)
{
    const bool real = tdn_ref_is_float(x->dtype);
    double total_real = product ? 1 : 0;
    int64_t total_whole = product ? 1 : 0;
    for (int64_t i = 0; i < n; i++) {
        const double before = total_real;
        const int64_t before_whole = total_whole;
        if (real) {
            const double v = tdn_ref_get(x, a + i * step_a);
            total_real = product ? total_real * v : total_real + v;
            tdn_ref_set(y, b + i * step_b, exclusive ? before : total_real);
        } else {
            const uint64_t v = (uint64_t)tdn_view_get_int(x, a + i * step_a);
            total_whole =
                (int64_t)(product ? (uint64_t)total_whole * v : (uint64_t)total_whole + v);
            tdn_row_store_int(y, b + i * step_b, 1, 1, exclusive ? &before_whole : &total_whole);
        }
    }
}

static tdn_status cumulate(const tdn_ref_call *call, bool product)
{
    TDN_REF_NEED(call, call->n_in == 2 && call->n_out == 1);
    if (!tdn_ref_out(call, 0))
        return TDN_OK;
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    int64_t wanted;
    int axis, n;
    if (!tdn_ref_ints(tdn_ref_in(call, 1), &wanted, 1, &n) || n != 1 ||
        !tdn_ref_axis(wanted, x->rank, &axis))
        return tdn_fail(call->error, TDN_E_MODEL, "the axis is outside of the input's rank %d",
                        x->rank);
    TDN_REF_NEED(call, tdn_view_same_dims(x, y));
    const bool reverse = tdn_attr_int(call->attrs, "reverse", 0) != 0;
    const bool exclusive = tdn_attr_int(call->attrs, "exclusive", 0) != 0;
    tdn_view from = *x, to = *y;
    from.dims[axis] = to.dims[axis] = 1;
    const int64_t count = x->dims[axis], lines = count ? tdn_view_count(&from) : 0;
    const int64_t start = reverse ? count - 1 : 0, sign = reverse ? -1 : 1;
    int64_t begin, end;
    tdn_ref_share(lines, call->part, call->n_parts, &begin, &end);
    for (int64_t i = begin; i < end; i++)
        run_along(x, tdn_view_offset(&from, i) + start * x->strides[axis], sign * x->strides[axis],
                  y, tdn_view_offset(&to, i) + start * y->strides[axis], sign * y->strides[axis],
                  count, product, exclusive);
    return TDN_OK;
}

static tdn_status cum_sum_run(const tdn_ref_call *call) { return cumulate(call, false); }
static tdn_status cum_prod_run(const tdn_ref_call *call) { return cumulate(call, true); }
static int line_parts(const tdn_ref_call *call)
{
    return call->n_out ? tdn_ref_parts_of(&call->out[0], 2) : 1;
}

#define ROW(name, stem)                                                                            \
    {                                                                                              \
        name, stem##_run, NULL, reduce_parts                                                       \
    }
const tdn_ref_def tdn_refs_reduce[] = {
    ROW("ReduceSum", reduce_sum),
    ROW("ReduceMean", reduce_mean),
    ROW("ReduceMax", reduce_max),
    ROW("ReduceMin", reduce_min),
    ROW("ReduceProd", reduce_prod),
    ROW("ReduceL1", reduce_l1),
    ROW("ReduceL2", reduce_l2),
    ROW("ReduceSumSquare", reduce_sum_square),
    ROW("ReduceLogSum", reduce_log_sum),
    ROW("ReduceLogSumExp", reduce_log_sum_exp),
    ROW("Reduce", core_reduce),
    ROW("GlobalAveragePool", global_average),
    ROW("GlobalMaxPool", global_max),
    ROW("ArgMax", arg_max),
    ROW("ArgMin", arg_min),
    {"CumSum", cum_sum_run, NULL, line_parts},
    {"CumProd", cum_prod_run, NULL, line_parts},
    {NULL, NULL, NULL, NULL},
};
