/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of the element-wise operators, one line each where one line says it.
 *
 * An operator is a formula over doubles, and over int64 where its dtypes include integers: a double
 * cannot hold all of those. Floats are worked on in double and rounded once, so that a reference is
 * at least as exact as any kernel that it judges; a single + - * / or square root then gives the
 * very bits that fp32 arithmetic gives. Integers wrap, as in two's complement; U64 travels as its
 * bits, and the few operators that care ask `p->u64`.
 */
#include <math.h>

#include "ref/ref_util.h"
#include "ref/row.h"

/* What a formula may use beside its operands. */
typedef struct params {
    double a, b;    /* attributes, in the order of the operator's list */
    bool u64;       /* operand 0 is unsigned 64-bit */
    bool is_signed; /* operand 0 is a signed integer */
    int n_bits;     /* of operand 0 */
} params;

typedef struct attribute {
    const char *name;
    double absent;
} attribute;

typedef struct kernel {
    void (*real)(int n, const double *x, const double *y, const double *z, const params *p,
                 double *out);
    void (*whole)(int n, const int64_t *x, const int64_t *y, const int64_t *z, const params *p,
                  int64_t *out);
    attribute a, b;
    bool variadic; /* folds any number of inputs from the left */
    bool mean;     /* and divides by their number */
} kernel;

static double number_attr(const tdn_ref_call *call, const attribute *a)
{
    const tdn_attr *found = a->name ? tdn_attr_find(call->attrs, a->name) : NULL;
    if (found && found->kind == TDN_ATTR_FLOAT)
        return (double)found->f;
    if (found && found->kind == TDN_ATTR_INT)
        return (double)found->i;
    return a->absent;
}

static params params_of(const tdn_ref_call *call, const kernel *k)
{
    const tdn_dtype d = call->in[0].dtype;
    return (params){
        .a = number_attr(call, &k->a),
        .b = number_attr(call, &k->b),
        .u64 = d == TDN_U64,
        .is_signed = d == TDN_S8 || d == TDN_S16 || d == TDN_S32 || d == TDN_S64,
        .n_bits = (int)tdn_dtype_size(d, 1) * 8,
    };
}

/* Loads operand k of the row, or zeros where the operator has fewer. */
static void load(const tdn_rows *rows, const tdn_ref_call *call, int k, double *x)
{
    if (k < call->n_in && call->in[k].dtype != TDN_DTYPE_NONE)
        tdn_row_load(&rows->views[call->n_out + k], tdn_rows_offset(rows, call->n_out + k),
                     tdn_rows_stride(rows, call->n_out + k), rows->n, x);
}

static void load_int(const tdn_rows *rows, const tdn_ref_call *call, int k, int64_t *x)
{
    if (k < call->n_in && call->in[k].dtype != TDN_DTYPE_NONE)
        tdn_row_load_int(&rows->views[call->n_out + k], tdn_rows_offset(rows, call->n_out + k),
                         tdn_rows_stride(rows, call->n_out + k), rows->n, x);
}

static void row_real(const tdn_rows *rows, const tdn_ref_call *call, const kernel *k,
                     const params *p)
{
    double in[3][TDN_ROW] = {{0}}, out[TDN_ROW];
    for (int i = 0; i < 3 && i < call->n_in; i++)
        load(rows, call, i, in[i]);
    if (k->variadic && call->n_in == 1)
        load(rows, call, 0, out);
    else
        k->real(rows->n, in[0], in[1], in[2], p, out);
    for (int i = 2; k->variadic && i < call->n_in; i++) {
        load(rows, call, i, in[0]);
        k->real(rows->n, out, in[0], in[0], p, out);
    }
    for (int i = 0; k->mean && i < rows->n; i++)
        out[i] /= call->n_in;
    tdn_row_store(&rows->views[0], tdn_rows_offset(rows, 0), tdn_rows_stride(rows, 0), rows->n,
                  out);
}

static void row_whole(const tdn_rows *rows, const tdn_ref_call *call, const kernel *k,
                      const params *p)
{
    int64_t in[3][TDN_ROW] = {{0}}, out[TDN_ROW];
    for (int i = 0; i < 3 && i < call->n_in; i++)
        load_int(rows, call, i, in[i]);
    if (k->variadic && call->n_in == 1)
        load_int(rows, call, 0, out);
    else
        k->whole(rows->n, in[0], in[1], in[2], p, out);
    for (int i = 2; k->variadic && i < call->n_in; i++) {
        load_int(rows, call, i, in[0]);
        k->whole(rows->n, out, in[0], in[0], p, out);
    }
    tdn_row_store_int(&rows->views[0], tdn_rows_offset(rows, 0), tdn_rows_stride(rows, 0), rows->n,
                      out);
}

static bool any_float(const tdn_ref_call *call)
{
    for (int i = 0; i < call->n_in; i++)
        if (tdn_ref_is_float(call->in[i].dtype))
            return true;
    return false;
}

/* The walk over this part's share of the elements. */
static tdn_rows rows_of_part(const tdn_ref_call *call, tdn_view *views, int n_views)
{
    int64_t begin, end;
    tdn_ref_share(tdn_view_count(&views[0]), call->part, call->n_parts, &begin, &end);
    return tdn_rows_begin(views, n_views, begin, end);
}

static tdn_status each(const tdn_ref_call *call, const kernel *k)
{
    tdn_view *views = call->scratch;
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out == 1);
    TDN_TRY(tdn_rows_of_call(call, views));
    const params p = params_of(call, k);
    const bool real = !k->whole || any_float(call);
    TDN_REF_NEED(call, !real || k->real);
    tdn_rows rows = rows_of_part(call, views, 1 + call->n_in);
    while (tdn_rows_next(&rows)) {
        if (real)
            row_real(&rows, call, k, &p);
        else
            row_whole(&rows, call, k, &p);
    }
    return TDN_OK;
}

/* ---- Formulas: x, y, z are the operands' elements, p what the attributes say ----------------- */

#define LOOP(type, value)                                                                          \
    {                                                                                              \
        for (int i = 0; i < n; i++) {                                                              \
            const type x = xs[i], y = ys[i], z = zs[i];                                            \
            (void)x, (void)y, (void)z, (void)p;                                                    \
            out[i] = (value);                                                                      \
        }                                                                                          \
    }
#define REAL_FN(name, value)                                                                       \
    static void name##_real(int n, const double *xs, const double *ys, const double *zs,           \
                            const params *p, double *out) LOOP(double, value)
#define WHOLE_FN(name, value)                                                                      \
    static void name##_whole(int n, const int64_t *xs, const int64_t *ys, const int64_t *zs,       \
                             const params *p, int64_t *out) LOOP(int64_t, value)
#define RUN_FN(name, ...)                                                                          \
    static tdn_status name##_run(const tdn_ref_call *call)                                         \
    {                                                                                              \
        return each(call, &(const kernel){__VA_ARGS__});                                           \
    }
/* Floats only; with attributes; with integers too. */
#define REAL(name, value) REAL_FN(name, value) RUN_FN(name, .real = name##_real)
#define REAL_WITH(name, attr_a, attr_b, value)                                                     \
    REAL_FN(name, value) RUN_FN(name, .real = name##_real, .a = attr_a, .b = attr_b)
#define BOTH(name, value, integer_value)                                                           \
    REAL_FN(name, value)                                                                           \
    WHOLE_FN(name, integer_value) RUN_FN(name, .real = name##_real, .whole = name##_whole)
#define BOTH_FOLD(name, value, integer_value)                                                      \
    REAL_FN(name, value)                                                                           \
    WHOLE_FN(name, integer_value)                                                                  \
    RUN_FN(name, .real = name##_real, .whole = name##_whole, .variadic = true)
#define WHOLE(name, integer_value) WHOLE_FN(name, integer_value) RUN_FN(name, .whole = name##_whole)
#define ATTR(name, absent)                                                                         \
    {                                                                                              \
        name, absent                                                                               \
    }
#define NO_ATTR                                                                                    \
    {                                                                                              \
        NULL, 0                                                                                    \
    }

static int64_t less_int(int64_t x, int64_t y, const params *p)
{
    return p->u64 ? (uint64_t)x < (uint64_t)y : x < y;
}
static int64_t mul_int(int64_t x, int64_t y) { return (int64_t)((uint64_t)x * (uint64_t)y); }
static int64_t neg_int(int64_t x) { return (int64_t)(0 - (uint64_t)x); }

/* C's truncating division; by zero there is no right answer, and 0 does no harm. */
static int64_t div_int(int64_t x, int64_t y, const params *p)
{
    if (y == 0)
        return 0;
    if (p->u64)
        return (int64_t)((uint64_t)x / (uint64_t)y);
    return y == -1 ? neg_int(x) : x / y;
}

/* Sign of x (truncating), or sign of y (flooring). */
static int64_t mod_int(int64_t x, int64_t y, const params *p)
{
    if (y == 0)
        return 0;
    if (p->u64)
        return (int64_t)((uint64_t)x % (uint64_t)y);
    const int64_t r = y == -1 ? 0 : x % y;
    return p->a == 0 && r != 0 && (r < 0) != (y < 0) ? r + y : r;
}

static double mod_real_of(double x, double y, const params *p)
{
    const double r = fmod(x, y);
    if (p->a != 0 || isnan(r))
        return r;
    if (r == 0)
        return copysign(0, y);
    return (r < 0) != (y < 0) ? r + y : r;
}

static int64_t pow_int(int64_t x, int64_t y)
{
    if (y < 0)
        return x == 1 ? 1 : x == -1 ? (y % 2 ? -1 : 1) : 0;
    int64_t result = 1;
    for (; y; y >>= 1) {
        if (y & 1)
            result = mul_int(result, x);
        x = mul_int(x, x);
    }
    return result;
}

static int64_t shift_right(int64_t x, int64_t y, const params *p)
{
    if (!p->is_signed)
        return y < 0 || y >= p->n_bits ? 0 : (int64_t)((uint64_t)x >> y);
    return x >> (y < 0 || y >= p->n_bits ? 63 : y); /* gcc and clang shift the sign in */
}
static int64_t shift_left(int64_t x, int64_t y, const params *p)
{
    return y < 0 || y >= p->n_bits ? 0 : (int64_t)((uint64_t)x << y);
}

static double larger(double x, double y)
{
    return x > y || isnan(x) ? x : y;
} /* NaN if either is */
static double smaller(double x, double y) { return x < y || isnan(x) ? x : y; }
static double sigmoid_of(double x) { return 1 / (1 + exp(-x)); }
static double softplus_of(double x) { return larger(x, 0) + log1p(exp(-fabs(x))); }
static double unit(double x) { return smaller(larger(x, 0), 1); }

BOTH(add, x + y, (int64_t)((uint64_t)x + (uint64_t)y))
BOTH(sub, x - y, (int64_t)((uint64_t)x - (uint64_t)y))
BOTH(mul, x *y, mul_int(x, y))
BOTH(div, x / y, div_int(x, y, p))
BOTH(pow, pow(x, y), pow_int(x, y))
REAL_FN(mod, mod_real_of(x, y, p))
WHOLE_FN(mod, mod_int(x, y, p))
RUN_FN(mod, .real = mod_real, .whole = mod_whole, .a = ATTR("fmod", 0))
BOTH_FOLD(max, larger(x, y), less_int(x, y, p) ? y : x)
BOTH_FOLD(min, smaller(x, y), less_int(y, x, p) ? y : x)
BOTH_FOLD(sum, x + y, (int64_t)((uint64_t)x + (uint64_t)y))
RUN_FN(mean, .real = sum_real, .variadic = true, .mean = true)

WHOLE(and, x &y)
WHOLE(or, x | y)
WHOLE(xor, x ^ y)
WHOLE(not, !x)
WHOLE(bitwise_not, ~x)
WHOLE(right, shift_right(x, y, p))
WHOLE(left, shift_left(x, y, p))

BOTH(equal, x == y, x == y)
BOTH(greater, x > y, less_int(y, x, p))
BOTH(less, x < y, less_int(x, y, p))
BOTH(greater_or_equal, x >= y, !less_int(x, y, p))
BOTH(less_or_equal, x <= y, !less_int(y, x, p))
REAL(is_nan, isnan(x))
REAL_WITH(is_inf, ATTR("detect_negative", 1), ATTR("detect_positive", 1),
          isinf(x) && (x < 0 ? p->a : p->b) != 0)
BOTH(where, x != 0 ? y : z, x ? y : z)

BOTH(abs, fabs(x), p->u64 || x >= 0 ? x : neg_int(x))
BOTH(neg, -x, neg_int(x))
BOTH(sign, x > 0 ? 1 : x < 0 ? -1 : x, x == 0 ? 0 : p->u64 || x > 0 ? 1 : -1)
REAL(reciprocal, 1 / x)
REAL(sqrt, sqrt(x))
REAL(exp, exp(x))
REAL(log, log(x))
REAL(sin, sin(x))
REAL(cos, cos(x))
REAL(tan, tan(x))
REAL(asin, asin(x))
REAL(acos, acos(x))
REAL(atan, atan(x))
REAL(sinh, sinh(x))
REAL(cosh, cosh(x))
REAL(asinh, asinh(x))
REAL(acosh, acosh(x))
REAL(atanh, atanh(x))
REAL(erf, erf(x))
REAL(floor, floor(x))
REAL(ceil, ceil(x))
REAL(round, nearbyint(x)) /* half to even */

BOTH(relu, larger(x, 0), x > 0 ? x : 0)
BOTH(prelu, x < 0 ? x * y : x, p->is_signed &&x < 0 ? mul_int(x, y) : x)
REAL_WITH(leaky_relu, ATTR("alpha", 0.01f), NO_ATTR, x < 0 ? p->a * x : x)
REAL_WITH(elu, ATTR("alpha", 1), NO_ATTR, x < 0 ? p->a * expm1(x) : x)
REAL_WITH(selu, ATTR("alpha", 1.67326319217681884765625), ATTR("gamma", 1.05070102214813232421875),
          p->b *(x <= 0 ? p->a * expm1(x) : x))
REAL_WITH(celu, ATTR("alpha", 1), NO_ATTR, larger(x, 0) + smaller(p->a * expm1(x / p->a), 0))
REAL_WITH(thresholded_relu, ATTR("alpha", 1), NO_ATTR, x > p->a || isnan(x) ? x : 0)
REAL_WITH(hard_sigmoid, ATTR("alpha", 0.2f), ATTR("beta", 0.5f), unit(p->a *x + p->b))
REAL_WITH(swish, ATTR("alpha", 1), NO_ATTR, x *sigmoid_of(p->a *x))
REAL_WITH(swiglu, ATTR("alpha", 1), NO_ATTR, x *sigmoid_of(p->a *x) * y)
REAL_WITH(shrink, ATTR("lambd", 0.5f), ATTR("bias", 0), x<-p->a ? x + p->b : x> p->a ? x - p->b : 0)
REAL(sigmoid, sigmoid_of(x))
REAL(hard_swish, x *unit(x / 6 + 0.5))
REAL(tanh, tanh(x))
REAL(softplus, softplus_of(x))
REAL(softsign, x / (1 + fabs(x)))
REAL(mish, x *tanh(softplus_of(x)))
REAL(gelu_exact, 0.5 * x * (1 + erf(x * M_SQRT1_2)))
REAL(gelu_tanh, 0.5 * x * (1 + tanh(M_2_SQRTPI * M_SQRT1_2 * (x + 0.044715 * x * x * x))))

static tdn_status gelu_run(const tdn_ref_call *call)
{
    const char *approximate = tdn_attr_string(call->attrs, "approximate", "none");
    return approximate[0] == 't' ? gelu_tanh_run(call) : gelu_exact_run(call);
}

static tdn_status bit_shift_run(const tdn_ref_call *call)
{
    const char *direction = tdn_attr_string(call->attrs, "direction", "");
    return direction[0] == 'R' ? right_run(call) : left_run(call);
}

/* ---- Clip: bounds from inputs, or from attributes in old models ------------------------------ */

static tdn_status clip_run(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_in <= 3 && call->n_out == 1);
    tdn_view views[4];
    TDN_TRY(tdn_rows_of_call(call, views));
    const bool real = any_float(call), u64 = call->in[0].dtype == TDN_U64;
    const double low = (double)tdn_attr_float(call->attrs, "min", -INFINITY);
    const double high = (double)tdn_attr_float(call->attrs, "max", INFINITY);
    double x[TDN_ROW], lo[TDN_ROW], hi[TDN_ROW];
    int64_t xi[TDN_ROW], lo_i[TDN_ROW], hi_i[TDN_ROW];
    const params p = {.u64 = u64};
    for (int i = 0; i < TDN_ROW; i++) {
        lo[i] = low;
        hi[i] = high;
        lo_i[i] = u64 ? 0 : INT64_MIN;
        hi_i[i] = u64 ? -1 : INT64_MAX;
    }
    tdn_rows rows = rows_of_part(call, views, 1 + call->n_in);
    while (tdn_rows_next(&rows)) {
        const int64_t offset = tdn_rows_offset(&rows, 0), stride = tdn_rows_stride(&rows, 0);
        if (real) {
            load(&rows, call, 0, x);
            load(&rows, call, 1, lo);
            load(&rows, call, 2, hi);
            for (int i = 0; i < rows.n; i++)
                x[i] = smaller(larger(x[i], lo[i]), hi[i]);
            tdn_row_store(&views[0], offset, stride, rows.n, x);
            continue;
        }
        load_int(&rows, call, 0, xi);
        load_int(&rows, call, 1, lo_i);
        load_int(&rows, call, 2, hi_i);
        for (int i = 0; i < rows.n; i++) {
            const int64_t v = less_int(xi[i], lo_i[i], &p) ? lo_i[i] : xi[i];
            xi[i] = less_int(hi_i[i], v, &p) ? hi_i[i] : v;
        }
        tdn_row_store_int(&views[0], offset, stride, rows.n, xi);
    }
    return TDN_OK;
}

/* ---- Dropout --------------------------------------------------------------------------------- */

static tdn_status copy_run(const tdn_ref_call *call)
{
    TDN_REF_NEED(call,
                 call->n_in == 1 && call->n_out == 1 && call->in[0].dtype == call->out[0].dtype);
    tdn_view views[2];
    TDN_TRY(tdn_rows_of_call(call, views));
    const tdn_place to = tdn_place_of(&views[0]), from = tdn_place_of(&views[1]);
    tdn_ref_copy(&to, &from, call->part, call->n_parts);
    return TDN_OK;
}

/* Inference: a copy, and a mask that keeps everything. */
static tdn_status dropout_run(const tdn_ref_call *call)
{
    tdn_ref_call copy = *call;
    copy.n_in = copy.n_out = 1;
    const tdn_view *x = tdn_ref_in(call, 0), *mask = tdn_ref_out(call, 1);
    TDN_REF_NEED(call, x != NULL);
    if (mask && call->part == 0) {
        TDN_REF_NEED(call, tdn_view_same_dims(mask, x));
        const tdn_place place = tdn_place_of(mask);
        tdn_ref_fill(&place, 1, 1);
    }
    return tdn_ref_out(call, 0) ? copy_run(&copy) : TDN_OK;
}

/* ---- BatchNormalization ---------------------------------------------------------------------- */

/* A parameter of one element a channel, as a view over x's dims; false when it is not that. */
static bool over_channels(const tdn_view *param, const tdn_view *x, tdn_view *out)
{
    const int64_t channels = x->rank > 1 ? x->dims[1] : 1;
    if (!param || param->rank != 1 || param->dims[0] != channels)
        return false;
    tdn_view wide = {.data = param->data, .dtype = param->dtype, .rank = x->rank};
    for (int i = 0; i < x->rank; i++)
        wide.dims[i] = x->dims[i];
    if (x->rank > 1)
        wide.strides[1] = param->strides[0];
    *out = wide;
    return true;
}

/* Mean and population variance of each channel. */
static void channel_statistics(const tdn_view *x, double *mean, double *variance)
{
    const int64_t channels = x->rank > 1 ? x->dims[1] : 1;
    for (int64_t c = 0; c < channels; c++) {
        tdn_place place = tdn_place_of(x);
        if (x->rank > 1)
            tdn_place_narrow(&place, 1, c, 1, 1);
        const double count = (double)tdn_view_count(&place.view);
        double sum = 0, squares = 0;
        for (tdn_walk w = tdn_walk_begin(place.view.rank, place.view.dims); w.more;
             tdn_walk_next(&w))
            sum += tdn_ref_get(&place.view, place.offset + tdn_walk_offset(&w, &place.view));
        mean[c] = sum / count;
        for (tdn_walk w = tdn_walk_begin(place.view.rank, place.view.dims); w.more;
             tdn_walk_next(&w)) {
            const double d =
                tdn_ref_get(&place.view, place.offset + tdn_walk_offset(&w, &place.view)) - mean[c];
            squares += d * d;
        }
        variance[c] = squares / count;
    }
}

static bool is_training(const tdn_ref_call *call)
{
    return tdn_attr_int(call->attrs, "training_mode", 0) != 0;
}

static int64_t channels_of(const tdn_ref_call *call)
{
    return call->n_in > 0 && call->in[0].rank > 1 ? call->in[0].dims[1] : 1;
}

static size_t batch_norm_scratch(const tdn_ref_call *call)
{
    size_t size = 0;
    if (!is_training(call))
        return 0;
    return tdn_size_mul((size_t)channels_of(call), 2 * sizeof(double), &size) ? size : SIZE_MAX;
}

/* Writes running statistics: old * momentum + new * (1 - momentum). */
static void running(const tdn_ref_call *call, int out, const tdn_view *old, const double *now)
{
    const double momentum = (double)tdn_attr_float(call->attrs, "momentum", 0.9f);
    const tdn_view *to = tdn_ref_out(call, out);
    if (!to || to->rank != 1 || to->dims[0] != old->dims[0])
        return;
    for (int64_t c = 0; c < to->dims[0]; c++)
        tdn_view_set(to, c * to->strides[0],
                     tdn_view_get(old, c * old->strides[0]) * momentum + now[c] * (1 - momentum));
}

/* views: y, x, scale, bias, mean, variance. */
static void normalise(const tdn_ref_call *call, tdn_view *views)
{
    const double epsilon = (double)tdn_attr_float(call->attrs, "epsilon", 1e-5f);
    double in[6][TDN_ROW];
    tdn_rows rows = rows_of_part(call, views, 6);
    while (tdn_rows_next(&rows)) {
        for (int k = 1; k < 6; k++)
            tdn_row_load(&views[k], tdn_rows_offset(&rows, k), tdn_rows_stride(&rows, k), rows.n,
                         in[k]);
        for (int i = 0; i < rows.n; i++)
            in[0][i] = (in[1][i] - in[4][i]) / sqrt(in[5][i] + epsilon) * in[2][i] + in[3][i];
        tdn_row_store(&views[0], tdn_rows_offset(&rows, 0), tdn_rows_stride(&rows, 0), rows.n,
                      in[0]);
    }
}

static tdn_status batch_norm_run(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in == 5 && call->n_out >= 1 && call->in[0].rank >= 1);
    tdn_view views[6] = {call->out[0], call->in[0]};
    const bool wanted = tdn_ref_out(call, 0) != NULL;
    for (int k = 1; k < 5; k++)
        TDN_REF_NEED(call, over_channels(tdn_ref_in(call, k), &call->in[0], &views[1 + k]));
    TDN_REF_NEED(call, !wanted || tdn_view_same_dims(&call->in[0], &call->out[0]));
    if (is_training(call)) {
        const int64_t channels = channels_of(call);
        double *mean = call->scratch, *variance = mean + channels;
        const tdn_view mean_view = tdn_view_make(mean, TDN_F64, 1, &channels);
        const tdn_view variance_view = tdn_view_make(variance, TDN_F64, 1, &channels);
        channel_statistics(&call->in[0], mean, variance);
        running(call, 1, &call->in[3], mean);
        running(call, 2, &call->in[4], variance);
        over_channels(&mean_view, &call->in[0], &views[4]);
        over_channels(&variance_view, &call->in[0], &views[5]);
    }
    if (wanted)
        normalise(call, views);
    return TDN_OK;
}

static int batch_norm_parts(const tdn_ref_call *call)
{
    return is_training(call) || call->n_out == 0 ? 1 : tdn_ref_parts_of(&call->out[0], 1);
}

/* ---- Map: an expression ---------------------------------------------------------------------- */

static tdn_status map_run(const tdn_ref_call *call)
{
    const tdn_expr *e = call->expr;
    TDN_REF_NEED(call, e && e->n_in == call->n_in && e->n_out == call->n_out);
    TDN_REF_NEED(call, e->n_in <= TDN_EXPR_MAX_IN && e->n_out <= TDN_EXPR_MAX_OUT);
    const int n_out = call->n_out, n_views = n_out + call->n_in;
    tdn_view views[TDN_EXPR_MAX_IN + TDN_EXPR_MAX_OUT];
    float in[TDN_ROW][TDN_EXPR_MAX_IN], out[TDN_EXPR_MAX_OUT];
    double row[TDN_ROW], results[TDN_EXPR_MAX_OUT][TDN_ROW];
    TDN_TRY(tdn_rows_of_call(call, views));
    tdn_rows rows = rows_of_part(call, views, n_views);
    while (tdn_rows_next(&rows)) {
        for (int k = 0; k < call->n_in; k++) {
            load(&rows, call, k, row);
            for (int i = 0; i < rows.n; i++)
                in[i][k] = (float)row[i];
        }
        for (int i = 0; i < rows.n; i++) {
            tdn_expr_eval(e, in[i], out);
            for (int k = 0; k < n_out; k++)
                results[k][i] = (double)out[k];
        }
        for (int k = 0; k < n_out; k++)
            if (views[k].dtype != TDN_DTYPE_NONE)
                tdn_row_store(&views[k], tdn_rows_offset(&rows, k), tdn_rows_stride(&rows, k),
                              rows.n, results[k]);
    }
    return TDN_OK;
}

static int parts(const tdn_ref_call *call) { return tdn_rows_parts(call, 2); }
static int map_parts(const tdn_ref_call *call)
{
    return tdn_rows_parts(call, call->expr ? call->expr->n_instr : 1);
}

#define ROW(name, stem)                                                                            \
    {                                                                                              \
        name, stem##_run, tdn_rows_scratch, parts                                                  \
    }
const tdn_ref_def tdn_refs_elementwise[] = {
    ROW("Add", add),
    ROW("Sub", sub),
    ROW("Mul", mul),
    ROW("Div", div),
    ROW("Pow", pow),
    ROW("Mod", mod),
    ROW("Max", max),
    ROW("Min", min),
    ROW("Sum", sum),
    ROW("Mean", mean),
    ROW("And", and),
    ROW("Or", or),
    ROW("Xor", xor),
    ROW("Not", not ),
    ROW("BitwiseAnd", and),
    ROW("BitwiseOr", or),
    ROW("BitwiseXor", xor),
    ROW("BitwiseNot", bitwise_not),
    ROW("BitShift", bit_shift),
    ROW("Equal", equal),
    ROW("Greater", greater),
    ROW("Less", less),
    ROW("GreaterOrEqual", greater_or_equal),
    ROW("LessOrEqual", less_or_equal),
    ROW("IsNaN", is_nan),
    ROW("IsInf", is_inf),
    ROW("Where", where),
    ROW("Abs", abs),
    ROW("Neg", neg),
    ROW("Sign", sign),
    ROW("Reciprocal", reciprocal),
    ROW("Sqrt", sqrt),
    ROW("Exp", exp),
    ROW("Log", log),
    ROW("Sin", sin),
    ROW("Cos", cos),
    ROW("Tan", tan),
    ROW("Asin", asin),
    ROW("Acos", acos),
    ROW("Atan", atan),
    ROW("Sinh", sinh),
    ROW("Cosh", cosh),
    ROW("Asinh", asinh),
    ROW("Acosh", acosh),
    ROW("Atanh", atanh),
    ROW("Erf", erf),
    ROW("Floor", floor),
    ROW("Ceil", ceil),
    ROW("Round", round),
    ROW("Relu", relu),
    ROW("PRelu", prelu),
    ROW("LeakyRelu", leaky_relu),
    ROW("Elu", elu),
    ROW("Selu", selu),
    ROW("Celu", celu),
    ROW("ThresholdedRelu", thresholded_relu),
    ROW("Sigmoid", sigmoid),
    ROW("HardSigmoid", hard_sigmoid),
    ROW("HardSwish", hard_swish),
    ROW("Tanh", tanh),
    ROW("Softplus", softplus),
    ROW("Softsign", softsign),
    ROW("Gelu", gelu),
    ROW("Mish", mish),
    ROW("Swish", swish),
    ROW("SwiGLU", swiglu),
    ROW("Shrink", shrink),
    ROW("Clip", clip),
    {"Dropout", dropout_run, NULL, NULL},
    {"BatchNormalization", batch_norm_run, batch_norm_scratch, batch_norm_parts},
    {"Map", map_run, NULL, map_parts},
    {NULL, NULL, NULL, NULL},
};
