/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of the quantised operators: real = scale * (q - zero point).
 *
 * Quantising divides, rounds half to even, adds the zero point and saturates, in fp32 (or rounded
 * to the narrower float that the operator asks for). Integer products are summed in double, which
 * holds them exactly, four rows or output channels at a time; an int32 result takes the low bits.
 */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "ref/ref_util.h"
#include "ref/row.h"
#include "ref/window.h"

/* ---- Scales and zero points: per tensor, along an axis, or in blocks along an axis ----------- */

typedef struct grain {
    tdn_view view; /* absent: dtype NONE; then `absent` everywhere */
    double absent;
    int axis;
    int64_t block; /* elements of the tensor along `axis` that share one */
    int64_t strides[TDN_MAX_RANK];
} grain;

static bool grain_make(const tdn_view *param, const tdn_view *x, const tdn_attrs *attrs,
                       double absent, grain *g)
{
    *g = (grain){.absent = absent, .block = 1};
    if (!param)
        return true;
    g->view = *param;
    if (tdn_view_count(param) == 1)
        return true;
    const int64_t block = tdn_attr_int(attrs, "block_size", 0);
    if (block < 0 || !tdn_ref_axis(tdn_attr_int(attrs, "axis", 1), x->rank, &g->axis))
        return false;
    if (block == 0) {
        g->strides[g->axis] = param->rank == 1 ? param->strides[0] : 0;
        return param->rank == 1 && param->dims[0] == x->dims[g->axis];
    }
    g->block = block;
    for (int i = 0; i < x->rank && param->rank == x->rank; i++) {
        const int64_t wanted =
            i == g->axis ? x->dims[i] / block + (x->dims[i] % block != 0) : x->dims[i];
        if (param->dims[i] != wanted)
            return false;
        g->strides[i] = param->strides[i];
    }
    return param->rank == x->rank;
}

/* The parameters of n elements from `index` on along the last axis. */
static void grain_row(const grain *g, int rank, const int64_t *index, int n, double *out)
{
    const int last = rank - 1;
    int64_t base = 0;
    for (int i = 0; i < last; i++)
        base += (i == g->axis ? index[i] / g->block : index[i]) * g->strides[i];
    const int64_t block = last == g->axis ? g->block : 1, stride = rank ? g->strides[last] : 0;
    if (g->view.dtype == TDN_DTYPE_NONE || stride == 0) {
        const double x = g->view.dtype == TDN_DTYPE_NONE ? g->absent : tdn_view_get(&g->view, base);
        for (int i = 0; i < n; i++)
            out[i] = x;
        return;
    }
    for (int i = 0; i < n; i++)
        out[i] = tdn_view_get(&g->view, base + (index[last] + i) / block * stride);
}

/* ---- QuantizeLinear, DequantizeLinear -------------------------------------------------------- */

/* A walk in rows that knows its place: the axes are not joined, since scales go by them. */
typedef struct place_walk {
    int64_t dims[TDN_MAX_RANK], index[TDN_MAX_RANK];
    int rank, n;
    int64_t at, end;
} place_walk;

static place_walk walk_part(const tdn_view *x, int part, int n_parts)
{
    place_walk w = {.rank = x->rank};
    int64_t rest;
    memcpy(w.dims, x->dims, sizeof w.dims);
    tdn_ref_share(tdn_view_count(x), part, n_parts, &w.at, &w.end);
    rest = w.at;
    for (int i = w.rank - 1; i >= 0 && w.end > 0; i--) {
        w.index[i] = rest % w.dims[i];
        rest /= w.dims[i];
    }
    return w;
}

static bool walk_next(place_walk *w)
{
    const int last = w->rank - 1;
    w->at += w->n;
    if (w->n > 0 && last >= 0) {
        w->index[last] += w->n;
        for (int i = last; i > 0 && w->index[i] == w->dims[i]; i--) {
            w->index[i] = 0;
            w->index[i - 1]++;
        }
    }
    if (w->at >= w->end)
        return false;
    int64_t n = last < 0 ? 1 : w->dims[last] - w->index[last];
    n = n < TDN_ROW ? n : TDN_ROW;
    w->n = (int)(n < w->end - w->at ? n : w->end - w->at);
    return true;
}

static int64_t walk_offset(const place_walk *w, const tdn_view *view)
{
    int64_t offset = 0;
    for (int i = 0; i < w->rank; i++)
        offset += w->index[i] * view->strides[i];
    return offset;
}

static int64_t last_stride(const tdn_view *view)
{
    return view->rank ? view->strides[view->rank - 1] : 0;
}

static int64_t saturate(double q, int64_t low, int64_t high)
{
    return q >= (double)high ? high : q >= (double)low ? (int64_t)q : low; /* NaN gives low */
}

static float rounded_to(tdn_dtype precision, float x)
{
    if (precision == TDN_F16)
        return tdn_f16_to_f32(tdn_f32_to_f16(x));
    return precision == TDN_BF16 ? tdn_bf16_to_f32(tdn_f32_to_bf16(x)) : x;
}

/* The float that the division is rounded to: attribute "precision" (by ONNX's numbers), else the
 * scale's dtype. */
static tdn_dtype division_precision(const tdn_ref_call *call)
{
    switch (tdn_attr_int(call->attrs, "precision", 0)) {
    case 0: return call->in[1].dtype;
    case 10: return TDN_F16;
    case 16: return TDN_BF16;
    default: return TDN_F32;
    }
}

static tdn_status quantize_run(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out == 1);
    if (!tdn_ref_out(call, 0))
        return TDN_OK;
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    grain scale, zero;
    TDN_REF_NEED(call, tdn_view_same_dims(x, y));
    TDN_REF_NEED(call, tdn_ref_in(call, 1) && grain_make(&call->in[1], x, call->attrs, 1, &scale));
    TDN_REF_NEED(call, grain_make(tdn_ref_in(call, 2), x, call->attrs, 0, &zero));
    const tdn_dtype precision = division_precision(call);
    int64_t low, high;
    tdn_int_range(y->dtype, &low, &high);
    double v[TDN_ROW], s[TDN_ROW], z[TDN_ROW];
    int64_t q[TDN_ROW];
    place_walk w = walk_part(x, call->part, call->n_parts);
    while (walk_next(&w)) {
        tdn_row_load(x, walk_offset(&w, x), last_stride(x), w.n, v);
        grain_row(&scale, w.rank, w.index, w.n, s);
        grain_row(&zero, w.rank, w.index, w.n, z);
        for (int i = 0; i < w.n; i++)
            q[i] = saturate((double)nearbyintf(rounded_to(precision, (float)v[i] / (float)s[i])) +
                                z[i],
                            low, high);
        tdn_row_store_int(y, walk_offset(&w, y), last_stride(y), w.n, q);
    }
    return TDN_OK;
}

static tdn_status dequantize_run(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out == 1);
    if (!tdn_ref_out(call, 0))
        return TDN_OK;
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    grain scale, zero;
    TDN_REF_NEED(call, tdn_view_same_dims(x, y));
    TDN_REF_NEED(call, tdn_ref_in(call, 1) && grain_make(&call->in[1], x, call->attrs, 1, &scale));
    TDN_REF_NEED(call, grain_make(tdn_ref_in(call, 2), x, call->attrs, 0, &zero));
    double v[TDN_ROW], s[TDN_ROW], z[TDN_ROW];
    place_walk w = walk_part(x, call->part, call->n_parts);
    while (walk_next(&w)) {
        tdn_row_load(x, walk_offset(&w, x), last_stride(x), w.n, v);
        grain_row(&scale, w.rank, w.index, w.n, s);
        grain_row(&zero, w.rank, w.index, w.n, z);
        for (int i = 0; i < w.n; i++)
            v[i] = (double)((float)(v[i] - z[i]) * (float)s[i]);
        tdn_row_store(y, walk_offset(&w, y), last_stride(y), w.n, v);
    }
    return TDN_OK;
}

static int element_parts(const tdn_ref_call *call)
{
    return call->n_out ? tdn_ref_parts_of(&call->out[0], 2) : 1;
}

/* ---- DynamicQuantizeLinear: the scale comes from the data ------------------------------------ */

static tdn_status dynamic_quantize_run(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in == 1 && call->n_out == 3);
    const tdn_view *x = &call->in[0], *y = tdn_ref_out(call, 0);
    TDN_REF_NEED(call, !y || tdn_view_same_dims(x, y));
    float low = 0, high = 0; /* the range includes 0 */
    for (tdn_walk w = tdn_walk_begin(x->rank, x->dims); w.more; tdn_walk_next(&w)) {
        const float v = (float)tdn_ref_get(x, tdn_walk_offset(&w, x));
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    const float scale = high > low ? (high - low) / 255 : 1;
    const int64_t zero = saturate((double)nearbyintf(-low / scale), 0, 255);
    for (tdn_walk w = tdn_walk_begin(x->rank, x->dims); y && w.more; tdn_walk_next(&w)) {
        const float q = nearbyintf((float)tdn_ref_get(x, tdn_walk_offset(&w, x)) / scale);
        tdn_view_set_int(y, tdn_walk_offset(&w, y), saturate((double)q + (double)zero, 0, 255));
    }
    if (tdn_ref_out(call, 1))
        tdn_view_set(&call->out[1], 0, (double)scale);
    if (tdn_ref_out(call, 2))
        tdn_view_set_int(&call->out[2], 0, zero);
    return TDN_OK;
}

/* ---- Sums of 8-bit products ------------------------------------------------------------------ */

enum { LANES = 4 }; /* rows of a, or output channels, that are summed together */

typedef struct sums {
    double at[LANES * TDN_ROW]; /* lane-major */
} sums;

static int64_t get_8(const tdn_view *view, int64_t offset)
{
    return view->dtype == TDN_U8 ? ((const uint8_t *)view->data)[offset]
                                 : ((const int8_t *)view->data)[offset];
}

/* x[i] - zero[i] as floats: exact. */
static void load_8(const tdn_view *view, int64_t offset, int64_t stride, int n, const float *zero,
                   float *x)
{
    if (view->dtype == TDN_U8) {
        const uint8_t *p = (const uint8_t *)view->data + offset;
        for (int i = 0; i < n; i++)
            x[i] = (float)p[i * stride] - zero[i];
    } else {
        const int8_t *p = (const int8_t *)view->data + offset;
        for (int i = 0; i < n; i++)
            x[i] = (float)p[i * stride] - zero[i];
    }
}

static bool is_8(const tdn_view *view)
{
    return view && (view->dtype == TDN_S8 || view->dtype == TDN_U8);
}

/* What a sum becomes: itself, or a quantised value where the operator says how. */
typedef struct finish {
    bool quantise;
    int64_t low, high, zero;
} finish;

static void finish_row(const finish *f, const double *sum, const float *factor, double bias,
                       const tdn_view *y, int64_t offset, int64_t stride, int n)
{
    int64_t q[TDN_ROW];
    for (int i = 0; i < n; i++)
        q[i] = f->quantise ? saturate((double)(nearbyintf((float)(sum[i] + bias) * factor[i])) +
                                          (double)f->zero,
                                      f->low, f->high)
                           : (int64_t)(sum[i] + bias);
    tdn_row_store_int(y, offset, stride, n, q);
}

/* ---- Integer matrix products ----------------------------------------------------------------- */

/* Parameters of rows (of a) or columns (of b) as a view over the product's dims. */
static bool over_product(const tdn_view *param, bool rows, const tdn_view *y, tdn_view *out)
{
    static const uint8_t zero[8] = {0};
    tdn_view v = param ? *param : tdn_view_make((void *)(uintptr_t)zero, TDN_S8, 0, NULL);
    if (v.rank == 1 && v.dims[0] != 1) {
        const int64_t n = v.dims[0], s = v.strides[0];
        v.rank = 2;
        v.dims[0] = rows ? n : 1;
        v.dims[1] = rows ? 1 : n;
        v.strides[0] = rows ? s : 0;
        v.strides[1] = rows ? 0 : s;
    } else if (v.rank == 1) {
        v.rank = 0;
    }
    return tdn_view_broadcast(&v, y->rank, y->dims, out);
}

typedef struct product {
    tdn_view a, b, y; /* a, b over y's batch axes, then (m, k) and (k, n) */
    tdn_view a_zero, b_zero, a_scale, b_scale; /* over y's dims */
    int64_t m, k, n;
    float y_scale;
    finish finish;
} product;

static void insert_axis(tdn_view *v, int at)
{
    for (int i = v->rank; i > at; i--) {
        v->dims[i] = v->dims[i - 1];
        v->strides[i] = v->strides[i - 1];
    }
    v->dims[at] = 1;
    v->strides[at] = 0;
    v->rank++;
}

/* numpy's rules: a vector is a row or a column, batch axes broadcast. */
static bool product_make(const tdn_view *a, const tdn_view *b, const tdn_view *y, product *p)
{
    p->a = *a;
    p->b = *b;
    p->y = *y;
    if (a->rank < 1 || b->rank < 1 || y->rank + (a->rank == 1) + (b->rank == 1) > TDN_MAX_RANK)
        return false;
    if (a->rank == 1) {
        insert_axis(&p->a, 0);
        insert_axis(&p->y, b->rank == 1 ? p->y.rank : p->y.rank - 1);
    }
    if (b->rank == 1) {
        insert_axis(&p->b, 1);
        insert_axis(&p->y, p->y.rank);
    }
    const int r = p->y.rank;
    p->m = p->a.dims[p->a.rank - 2];
    p->k = p->a.dims[p->a.rank - 1];
    p->n = p->b.dims[p->b.rank - 1];
    if (r < 2 || p->b.dims[p->b.rank - 2] != p->k || p->y.dims[r - 2] != p->m ||
        p->y.dims[r - 1] != p->n)
        return false;
    int64_t dims[TDN_MAX_RANK];
    memcpy(dims, p->y.dims, sizeof dims);
    dims[r - 1] = p->k;
    if (!tdn_view_broadcast(&p->a, r, dims, &p->a))
        return false;
    dims[r - 2] = p->k;
    dims[r - 1] = p->n;
    return tdn_view_broadcast(&p->b, r, dims, &p->b);
}

/* Offset of the batch that `index` counts, in a view over y's batch axes. */
static int64_t batch_offset(const product *p, const tdn_view *v, int64_t index)
{
    int64_t offset = 0;
    for (int i = p->y.rank - 3; i >= 0; i--) {
        offset += index % p->y.dims[i] * v->strides[i];
        index /= p->y.dims[i];
    }
    return offset;
}

/* Rows m0 .. m0 + lanes of one batch, columns n0 .. n0 + width. */
static void product_block(const product *p, int64_t batch, int64_t m0, int lanes, int64_t n0,
                          int width)
{
    const int row = p->y.rank - 2, col = p->y.rank - 1;
    const int64_t a = batch_offset(p, &p->a, batch), b = batch_offset(p, &p->b, batch);
    const int64_t az = batch_offset(p, &p->a_zero, batch), bz = batch_offset(p, &p->b_zero, batch);
    float zero[TDN_ROW], x[TDN_ROW], factor[TDN_ROW];
    double a_zero[LANES], w[LANES] = {0};
    sums s = {{0}};
    for (int i = 0; i < width; i++)
        zero[i] = (float)get_8(&p->b_zero, bz + (n0 + i) * p->b_zero.strides[col]);
    for (int l = 0; l < lanes; l++)
        a_zero[l] = (double)get_8(&p->a_zero, az + (m0 + l) * p->a_zero.strides[row]);
    for (int64_t k = 0; k < p->k; k++) {
        for (int l = 0; l < lanes; l++)
            w[l] = (double)get_8(&p->a, a + (m0 + l) * p->a.strides[row] + k * p->a.strides[col]) -
                   a_zero[l];
        load_8(&p->b, b + k * p->b.strides[row] + n0 * p->b.strides[col], p->b.strides[col], width,
               zero, x);
        tdn_ref_axpy4(s.at, TDN_ROW, x, 1, w, width);
    }
    for (int l = 0; l < lanes; l++) {
        for (int i = 0; i < width && p->finish.quantise; i++) {
            const int64_t as =
                batch_offset(p, &p->a_scale, batch) + (m0 + l) * p->a_scale.strides[row];
            const int64_t bs =
                batch_offset(p, &p->b_scale, batch) + (n0 + i) * p->b_scale.strides[col];
            factor[i] = (float)tdn_view_get(&p->a_scale, as) *
                        (float)tdn_view_get(&p->b_scale, bs) / p->y_scale;
        }
        finish_row(&p->finish, s.at + l * TDN_ROW, factor, 0, &p->y,
                   batch_offset(p, &p->y, batch) + (m0 + l) * p->y.strides[row] +
                       n0 * p->y.strides[col],
                   p->y.strides[col], width);
    }
}

static void product_run(const tdn_ref_call *call, const product *p)
{
    const int64_t blocks = p->m / LANES + (p->m % LANES != 0);
    int64_t begin, end;
    if (p->m == 0 || p->n == 0)
        return;
    tdn_ref_share(tdn_view_count(&p->y) / (p->m * p->n) * blocks, call->part, call->n_parts, &begin,
                  &end);
    for (int64_t i = begin; i < end; i++) {
        const int64_t m0 = i % blocks * LANES;
        const int lanes = (int)(p->m - m0 < LANES ? p->m - m0 : LANES);
        for (int64_t n0 = 0; n0 < p->n; n0 += TDN_ROW)
            product_block(p, i / blocks, m0, lanes, n0,
                          (int)(p->n - n0 < TDN_ROW ? p->n - n0 : TDN_ROW));
    }
}

static tdn_status matmul_integer_run(const tdn_ref_call *call)
{
    product p = {0};
    TDN_REF_NEED(call,
                 call->n_in >= 2 && call->n_out == 1 && is_8(&call->in[0]) && is_8(&call->in[1]));
    if (!tdn_ref_out(call, 0))
        return TDN_OK;
    const tdn_view *az = tdn_ref_in(call, 2), *bz = tdn_ref_in(call, 3);
    TDN_REF_NEED(call, product_make(&call->in[0], &call->in[1], &call->out[0], &p));
    TDN_REF_NEED(call, (!az || is_8(az)) && over_product(az, true, &p.y, &p.a_zero));
    TDN_REF_NEED(call, (!bz || is_8(bz)) && over_product(bz, false, &p.y, &p.b_zero));
    product_run(call, &p);
    return TDN_OK;
}

/* A scalar operand, or false. */
static bool scalar_of(const tdn_view *v, double *x)
{
    if (!v || tdn_view_count(v) != 1)
        return false;
    *x = tdn_view_get(v, 0);
    return true;
}

static bool finish_make(const tdn_view *y, const tdn_view *zero, finish *f)
{
    double z;
    if (!scalar_of(zero, &z))
        return false;
    *f = (finish){.quantise = true, .zero = (int64_t)z};
    tdn_int_range(y->dtype, &f->low, &f->high);
    return is_8(y);
}

/* a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero. */
static tdn_status qlinear_matmul_run(const tdn_ref_call *call)
{
    product p = {0};
    double y_scale;
    const tdn_view *in = call->in;
    TDN_REF_NEED(call, call->n_in == 8 && call->n_out == 1);
    if (!tdn_ref_out(call, 0))
        return TDN_OK;
    for (int i = 0; i < 8; i++)
        TDN_REF_NEED(call, tdn_ref_in(call, i));
    TDN_REF_NEED(call, is_8(&in[0]) && is_8(&in[2]) && is_8(&in[3]) && is_8(&in[5]));
    TDN_REF_NEED(call, product_make(&in[0], &in[3], &call->out[0], &p));
    TDN_REF_NEED(call, over_product(&in[1], true, &p.y, &p.a_scale) &&
                           over_product(&in[2], true, &p.y, &p.a_zero));
    TDN_REF_NEED(call, over_product(&in[4], false, &p.y, &p.b_scale) &&
                           over_product(&in[5], false, &p.y, &p.b_zero));
    TDN_REF_NEED(call,
                 scalar_of(&in[6], &y_scale) && finish_make(&call->out[0], &in[7], &p.finish));
    p.y_scale = (float)y_scale;
    product_run(call, &p);
    return TDN_OK;
}

static int product_parts(const tdn_ref_call *call)
{
    return call->n_out && call->n_in && call->in[0].rank
               ? tdn_ref_parts_of(&call->out[0], call->in[0].dims[call->in[0].rank - 1])
               : 1;
}

/* ---- Integer convolutions -------------------------------------------------------------------- */

typedef struct conv {
    tdn_view x, w, y;
    tdn_view w_zero; /* along the output channels: one axis; stride 0 where one holds for all */
    double x_zero;
    tdn_window window;
    int64_t group, channels, outputs; /* of x and of y, in a group */
    const tdn_view *bias;             /* or NULL */
    tdn_view w_scale;                 /* as w_zero */
    float x_scale, y_scale;
    finish finish;
} conv;

/* One number for all output channels, or one for each. */
static bool over_outputs(const tdn_view *param, int64_t outputs, tdn_view *out)
{
    const tdn_view scalar = {.data = param->data, .dtype = param->dtype};
    const int64_t dims[1] = {outputs};
    return tdn_view_broadcast(tdn_view_count(param) == 1 ? &scalar : param, 1, dims, out);
}

static bool conv_make(const tdn_ref_call *call, const tdn_view *x, const tdn_view *w,
                      const tdn_view *x_zero, const tdn_view *w_zero, conv *c)
{
    static const uint8_t zero[8] = {0};
    const tdn_view none = tdn_view_make((void *)(uintptr_t)zero, TDN_S8, 0, NULL);
    const tdn_view *y = &call->out[0];
    c->x = *x;
    c->w = *w;
    c->y = *y;
    c->group = tdn_attr_int(call->attrs, "group", 1);
    if (!is_8(x) || !is_8(w) || x->rank < 3 || w->rank != x->rank || y->rank != x->rank ||
        c->group < 1 ||
        tdn_window_read(&c->window, call->attrs, x->rank - 2, x->dims + 2, w->dims + 2))
        return false;
    for (int i = 0; i < c->window.n; i++)
        if (y->dims[2 + i] != tdn_window_positions(&c->window, i, x->dims[2 + i], false))
            return false;
    c->channels = w->dims[1];
    c->outputs = w->dims[0] / c->group;
    if (w->dims[0] % c->group || x->dims[1] % c->group || x->dims[1] / c->group != w->dims[1])
        return false;
    if (y->dims[0] != x->dims[0] || y->dims[1] != w->dims[0])
        return false;
    if (x_zero && !scalar_of(x_zero, &c->x_zero))
        return false;
    if (w_zero && !is_8(w_zero))
        return false;
    return over_outputs(w_zero ? w_zero : &none, w->dims[0], &c->w_zero);
}

/* Adds what tap `tap` of input channel `channel` gives to a row of outputs from ox on. `o` has the
 * outer axes' place.
 */
static void add_tap(const conv *c, int64_t n, int64_t channel, const int64_t *o, const int64_t *tap,
                    int64_t ox, int width, const double *w, sums *s)
{
    const int last = c->window.n - 1;
    int64_t at = n * c->x.strides[0] + channel * c->x.strides[1];
    for (int i = 0; i < last; i++) {
        const int64_t in =
            o[i] * c->window.stride[i] - c->window.before[i] + tap[i] * c->window.dilation[i];
        if (in < 0 || in >= c->x.dims[2 + i])
            return;
        at += in * c->x.strides[2 + i];
    }
    const int64_t step = c->window.stride[last],
                  first = ox * step - c->window.before[last] + tap[last] * c->window.dilation[last];
    int begin = 0, end = width; /* outputs whose input lies inside; outside is the zero point, which
                                   adds nothing */
    while (begin < end && first + begin * step < 0)
        begin++;
    while (end > begin && first + (end - 1) * step >= c->x.dims[2 + last])
        end--;
    if (begin == end)
        return;
    float zero[TDN_ROW], x[TDN_ROW];
    for (int i = 0; i < end - begin; i++)
        zero[i] = (float)c->x_zero;
    load_8(&c->x, at + (first + begin * step) * c->x.strides[2 + last],
           step * c->x.strides[2 + last], end - begin, zero, x);
    tdn_ref_axpy4(s->at + begin, TDN_ROW, x, 1, w, end - begin);
}

/* Output channels m0 .. m0 + lanes of one row of outputs, ox .. ox + width. */
static void conv_block(const conv *c, int64_t n, int64_t m0, int lanes, const int64_t *o,
                       int64_t ox, int width, sums *s)
{
    int64_t n_taps = 1;
    const int64_t group = m0 / c->outputs;
    memset(s, 0, sizeof *s);
    for (int i = 0; i < c->window.n; i++)
        n_taps *= c->w.dims[2 + i];
    for (int64_t k = 0; k < c->channels; k++)
        for (int64_t t = 0; t < n_taps; t++) {
            int64_t tap[TDN_WINDOW_MAX], rest = t, at = k * c->w.strides[1];
            double w[LANES] = {0};
            for (int i = c->window.n - 1; i >= 0; i--) {
                tap[i] = rest % c->w.dims[2 + i];
                rest /= c->w.dims[2 + i];
                at += tap[i] * c->w.strides[2 + i];
            }
            for (int l = 0; l < lanes; l++)
                w[l] = (double)(get_8(&c->w, at + (m0 + l) * c->w.strides[0]) -
                                get_8(&c->w_zero, (m0 + l) * c->w_zero.strides[0]));
            add_tap(c, n, group * c->channels + k, o, tap, ox, width, w, s);
        }
}

static void conv_store(const conv *c, int64_t n, int64_t m, const int64_t *o, int64_t ox, int width,
                       const double *sum)
{
    const int last = c->window.n - 1;
    float factor[TDN_ROW];
    int64_t at = n * c->y.strides[0] + m * c->y.strides[1] + ox * c->y.strides[2 + last];
    for (int i = 0; i < last; i++)
        at += o[i] * c->y.strides[2 + i];
    if (c->finish.quantise)
        for (int i = 0; i < width; i++)
            factor[i] = c->x_scale * (float)tdn_view_get(&c->w_scale, m * c->w_scale.strides[0]) /
                        c->y_scale;
    const double bias = c->bias ? tdn_view_get(c->bias, m * c->bias->strides[0]) : 0;
    finish_row(&c->finish, sum, factor, bias, &c->y, at, c->y.strides[2 + last], width);
}

/* A unit of work: one image, one block of output channels, one row of outputs. */
static void conv_run(const tdn_ref_call *call, const conv *c)
{
    const int last = c->window.n - 1;
    const int64_t width = c->y.dims[2 + last],
                  blocks = c->outputs / LANES + (c->outputs % LANES != 0);
    int64_t rows = 1, begin, end;
    if (tdn_view_count(&c->y) == 0)
        return;
    for (int i = 0; i < last; i++)
        rows *= c->y.dims[2 + i];
    tdn_ref_share(c->y.dims[0] * c->group * blocks * rows, call->part, call->n_parts, &begin, &end);
    for (int64_t u = begin; u < end; u++) {
        int64_t o[TDN_WINDOW_MAX], rest = u % rows;
        for (int i = last - 1; i >= 0; i--) {
            o[i] = rest % c->y.dims[2 + i];
            rest /= c->y.dims[2 + i];
        }
        const int64_t block = u / rows % blocks, group = u / rows / blocks % c->group,
                      n = u / rows / blocks / c->group;
        const int64_t m0 = group * c->outputs + block * LANES, left = c->outputs - block * LANES;
        const int lanes = (int)(left < LANES ? left : LANES);
        for (int64_t ox = 0; ox < width; ox += TDN_ROW) {
            const int part = (int)(width - ox < TDN_ROW ? width - ox : TDN_ROW);
            sums s;
            conv_block(c, n, m0, lanes, o, ox, part, &s);
            for (int l = 0; l < lanes; l++)
                conv_store(c, n, m0 + l, o, ox, part, s.at + l * TDN_ROW);
        }
    }
}

static tdn_status conv_integer_run(const tdn_ref_call *call)
{
    conv c = {0};
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out == 1);
    if (!tdn_ref_out(call, 0))
        return TDN_OK;
    TDN_REF_NEED(call, conv_make(call, &call->in[0], &call->in[1], tdn_ref_in(call, 2),
                                 tdn_ref_in(call, 3), &c));
    conv_run(call, &c);
    return TDN_OK;
}

/* x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias. */
static tdn_status qlinear_conv_run(const tdn_ref_call *call)
{
    conv c = {0};
    const tdn_view *in = call->in;
    double x_scale, y_scale;
    TDN_REF_NEED(call, call->n_in >= 8 && call->n_out == 1);
    if (!tdn_ref_out(call, 0))
        return TDN_OK;
    for (int i = 0; i < 8; i++)
        TDN_REF_NEED(call, tdn_ref_in(call, i));
    TDN_REF_NEED(call, conv_make(call, &in[0], &in[3], &in[2], &in[5], &c));
    TDN_REF_NEED(call, scalar_of(&in[1], &x_scale) && scalar_of(&in[6], &y_scale));
    TDN_REF_NEED(call, over_outputs(&in[4], in[3].dims[0], &c.w_scale));
    TDN_REF_NEED(call, finish_make(&call->out[0], &in[7], &c.finish));
    c.bias = tdn_ref_in(call, 8);
    TDN_REF_NEED(call, !c.bias || (c.bias->rank == 1 && c.bias->dims[0] == in[3].dims[0]));
    c.x_scale = (float)x_scale;
    c.y_scale = (float)y_scale;
    conv_run(call, &c);
    return TDN_OK;
}

static int conv_parts_of(const tdn_ref_call *call, const tdn_view *w)
{
    int64_t count = tdn_view_count(w);
    return w->rank && w->dims[0] > 0 ? tdn_ref_parts_of(&call->out[0], count / w->dims[0]) : 1;
}

static int conv_integer_parts(const tdn_ref_call *call)
{
    return call->n_out && call->n_in > 1 ? conv_parts_of(call, &call->in[1]) : 1;
}

static int qlinear_conv_parts(const tdn_ref_call *call)
{
    return call->n_out && call->n_in > 3 ? conv_parts_of(call, &call->in[3]) : 1;
}

const tdn_ref_def tdn_refs_quant[] = {
    {"QuantizeLinear", quantize_run, NULL, element_parts},
    {"DequantizeLinear", dequantize_run, NULL, element_parts},
    {"DynamicQuantizeLinear", dynamic_quantize_run, NULL, NULL},
    {"MatMulInteger", matmul_integer_run, NULL, product_parts},
    {"QLinearMatMul", qlinear_matmul_run, NULL, product_parts},
    {"ConvInteger", conv_integer_run, NULL, conv_integer_parts},
    {"QLinearConv", qlinear_conv_run, NULL, qlinear_conv_parts},
    {NULL, NULL, NULL, NULL},
};
