/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Strided views: making, broadcasting, walking, and element access that converts between all
 * dtypes.
 *
 * Reading as double is exact for all but the 64-bit integers, which is why there is an integer way
 * too. Writing rounds to nearest even; integers saturate, and NaN becomes 0 there. The dims of a
 * view are checked before it is made (tdn_dims_count), so counting does not check again.
 */
#include "base/view.h"

#include <math.h>
#include <string.h>

#include "base/half.h"

tdn_view tdn_view_make(void *data, tdn_dtype dtype, int rank, const int64_t *dims)
{
    tdn_view view = {.data = data, .dtype = dtype, .rank = rank};
    uint64_t stride =
        1; /* wraps where an axis of 0 stands before huge ones: no element is then ever addressed */
    for (int i = rank - 1; i >= 0; i--) {
        view.dims[i] = dims[i];
        view.strides[i] = (int64_t)stride;
        stride *= (uint64_t)dims[i];
    }
    return view;
}

int64_t tdn_view_count(const tdn_view *view)
{
    int64_t count = 0;
    return tdn_dims_count(view->dims, view->rank, &count) ? count : 0;
}

bool tdn_view_is_dense(const tdn_view *view)
{
    int64_t stride = 1;
    if (tdn_view_count(view) == 0)
        return true;
    for (int i = view->rank - 1; i >= 0; i--) {
        if (view->dims[i] != 1 && view->strides[i] != stride)
            return false;
        stride *= view->dims[i];
    }
    return true;
}

bool tdn_view_same_dims(const tdn_view *a, const tdn_view *b)
{
    return a->rank == b->rank &&
           (a->rank == 0 || memcmp(a->dims, b->dims, (size_t)a->rank * sizeof a->dims[0]) == 0);
}

int64_t tdn_view_offset(const tdn_view *view, int64_t index)
{
    int64_t offset = 0;
    for (int i = view->rank - 1; i >= 0; i--) {
        offset += index % view->dims[i] * view->strides[i];
        index /= view->dims[i];
    }
    return offset;
}

bool tdn_view_broadcast(const tdn_view *view, int rank, const int64_t *dims, tdn_view *out)
{
    const int lead = rank - view->rank;
    if (lead < 0 || rank > TDN_MAX_RANK)
        return false;
    tdn_view wide = {.data = view->data, .dtype = view->dtype, .rank = rank};
    for (int i = 0; i < rank; i++) {
        wide.dims[i] = dims[i];
        if (i < lead)
            continue;
        const int64_t own = view->dims[i - lead];
        if (own != dims[i] && own != 1)
            return false;
        wide.strides[i] = own == dims[i] ? view->strides[i - lead] : 0;
    }
    *out = wide;
    return true;
}

/* ---- Element access: one row a dtype --------------------------------------------------------- */

static double load_float(tdn_dtype dtype, const void *p)
{
    double d;
    float f;
    uint16_t h;
    if (dtype == TDN_F64) {
        memcpy(&d, p, sizeof d);
        return d;
    }
    if (dtype == TDN_F32) {
        memcpy(&f, p, sizeof f);
        return (double)f;
    }
    memcpy(&h, p, sizeof h);
    return (double)(dtype == TDN_F16 ? tdn_f16_to_f32(h) : tdn_bf16_to_f32(h));
}

static bool is_float(tdn_dtype dtype)
{
    return dtype == TDN_F32 || dtype == TDN_F16 || dtype == TDN_BF16 || dtype == TDN_F64;
}

/* x in fp32, rounded to odd: an inexact result has its last bit set, so that it never falls on a
 * tie of the second rounding, to half or bfloat16, which is then as right as one rounding from
 * double. */
static float to_float_odd(double x)
{
    float f = (float)x;
    if (isnan(x) || isinf(f) || (double)f == x)
        return f;
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if (u & 1)
        return f;
    /* f is even: the odd one of x's two neighbours lies on its other side. */
    const bool away = fabs(x) > fabs((double)f);
    u = away ? u + 1 : u - 1;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void store_float(tdn_dtype dtype, void *p, double x)
{
    if (dtype == TDN_F64) {
        memcpy(p, &x, sizeof x);
    } else if (dtype == TDN_F32) {
        const float f = (float)x;
        memcpy(p, &f, sizeof f);
    } else {
        const float f = to_float_odd(x);
        const uint16_t h = tdn_f32_to_half(f, dtype);
        memcpy(p, &h, sizeof h);
    }
}

static int64_t load_nibble(const tdn_view *view, int64_t offset)
{
    const uint8_t byte = ((const uint8_t *)view->data)[offset / 2];
    const int nibble = offset % 2 ? byte >> 4 : byte & 15;
    return view->dtype == TDN_S4 && nibble >= 8 ? nibble - 16 : nibble;
}

static void store_nibble(const tdn_view *view, int64_t offset, int64_t x)
{
    uint8_t *byte = (uint8_t *)view->data + offset / 2;
    const unsigned nibble = (unsigned)x & 15u;
    *byte = (uint8_t)(offset % 2 ? (*byte & 15u) | nibble << 4 : (*byte & 0xf0u) | nibble);
}

/* Smallest and largest value of an integer dtype, as far as int64_t reaches. */
static void int_range(tdn_dtype dtype, int64_t *min, int64_t *max)
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
    *min = rows[dtype].min;
    *max = rows[dtype].max;
}

static void *element(const tdn_view *view, int64_t offset)
{
    return (char *)view->data + offset * (int64_t)tdn_dtype_size(view->dtype, 1);
}

#define LOAD_INT(type)                                                                             \
    do {                                                                                           \
        type value;                                                                                \
        memcpy(&value, p, sizeof value);                                                           \
        return (int64_t)value;                                                                     \
    } while (0)

/* U64 comes as its bits. */
static int64_t load_int(const tdn_view *view, int64_t offset)
{
    const void *p = element(view, offset);
    switch (view->dtype) {
    case TDN_S8: LOAD_INT(int8_t);
    case TDN_U8: LOAD_INT(uint8_t);
    case TDN_S16: LOAD_INT(int16_t);
    case TDN_U16: LOAD_INT(uint16_t);
    case TDN_S32: LOAD_INT(int32_t);
    case TDN_U32: LOAD_INT(uint32_t);
    case TDN_S64:
    case TDN_U64: LOAD_INT(int64_t);
    case TDN_BOOL: return *(const uint8_t *)p != 0;
    default: return 0;
    }
}

static void store_int(const tdn_view *view, int64_t offset, int64_t x)
{
    if (view->dtype == TDN_S4 || view->dtype == TDN_U4) {
        store_nibble(view, offset, x);
        return;
    }
    /* Two's complement and little-endian (the only byte order that is built): the low bytes are the
     * narrower value. */
    memcpy(element(view, offset), &x, tdn_dtype_size(view->dtype, 1));
}

static bool is_int(tdn_dtype dtype)
{
    return (dtype >= TDN_S8 && dtype <= TDN_BOOL) || dtype == TDN_S4 || dtype == TDN_U4;
}

double tdn_view_get(const tdn_view *view, int64_t offset)
{
    if (is_float(view->dtype))
        return load_float(view->dtype, element(view, offset));
    if (view->dtype == TDN_U64)
        return (double)(uint64_t)load_int(view, offset);
    return (double)tdn_view_get_int(view, offset);
}

/* Toward zero, as C's cast, where that is defined; saturated elsewhere. */
static int64_t int_of(double x)
{
    if (isnan(x))
        return 0;
    if (x >= 0x1p63)
        return INT64_MAX;
    return x < -0x1p63 ? INT64_MIN : (int64_t)x;
}

int64_t tdn_view_get_int(const tdn_view *view, int64_t offset)
{
    if (is_float(view->dtype))
        return int_of(load_float(view->dtype, element(view, offset)));
    if (view->dtype == TDN_S4 || view->dtype == TDN_U4)
        return load_nibble(view, offset);
    return load_int(view, offset);
}

void tdn_view_set(const tdn_view *view, int64_t offset, double x)
{
    if (is_float(view->dtype)) {
        store_float(view->dtype, element(view, offset), x);
    } else if (view->dtype == TDN_BOOL) {
        store_int(view, offset, x != 0);
    } else if (view->dtype == TDN_U64) {
        const double even = nearbyint(x);
        store_int(view, offset,
                  (int64_t)(even >= 0x1p64 ? UINT64_MAX
                            : even > 0     ? (uint64_t)even
                                           : 0));
    } else {
        tdn_view_set_int(view, offset, int_of(nearbyint(x)));
    }
}

void tdn_view_set_int(const tdn_view *view, int64_t offset, int64_t x)
{
    if (view->dtype == TDN_F32) { /* at once: through double it would round twice */
        const float f = (float)x;
        memcpy(element(view, offset), &f, sizeof f);
        return;
    }
    if (is_float(view->dtype)) {
        store_float(view->dtype, element(view, offset), (double)x);
        return;
    }
    if (!is_int(view->dtype))
        return;
    int64_t min, max;
    int_range(view->dtype, &min, &max);
    if (view->dtype == TDN_BOOL)
        x = x != 0;
    if (view->dtype != TDN_U64) /* its bits, as tdn_view_get_int gave them */
        x = x < min ? min : x > max ? max : x;
    store_int(view, offset, x);
}

tdn_walk tdn_walk_begin(int rank, const int64_t *dims)
{
    tdn_walk walk = {.rank = rank, .more = true};
    for (int i = 0; i < rank; i++) {
        walk.dims[i] = dims[i];
        walk.more = walk.more && dims[i] > 0;
    }
    return walk;
}

void tdn_walk_next(tdn_walk *walk)
{
    for (int i = walk->rank - 1; i >= 0; i--) {
        if (++walk->index[i] < walk->dims[i])
            return;
        walk->index[i] = 0;
    }
    walk->more = false;
}

/* Splits both shapes into the shortest runs of axes with equal products; a run of the old axes must
 * lie as one (stride of each = stride * extent of the next) to be cut anew. */
bool tdn_view_reshape(tdn_view *view, int rank, const int64_t *dims)
{
    tdn_view old = {.dtype = view->dtype, .data = view->data};
    for (int i = 0; i < view->rank; i++) /* extents of 1 say nothing */
        if (view->dims[i] != 1) {
            old.dims[old.rank] = view->dims[i];
            old.strides[old.rank++] = view->strides[i];
        }
    tdn_view v = tdn_view_make(view->data, view->dtype, rank, dims);
    int i = 0, k = 0;
    while (i < old.rank) {
        int64_t a = old.dims[i], b = 1;
        int i_end = i + 1, k_end = k;
        while (a != b || k_end == k) {
            if (b < a || k_end == k) {
                if (k_end == rank)
                    return false;
                b *= dims[k_end++];
            } else {
                if (i_end == old.rank)
                    return false;
                a *= old.dims[i_end++];
            }
            if (a == 0 || b == 0)
                return false;
        }
        for (int j = i; j + 1 < i_end; j++)
            if (old.strides[j] != old.strides[j + 1] * old.dims[j + 1])
                return false;
        int64_t stride = old.strides[i_end - 1];
        for (int j = k_end - 1; j >= k; j--) {
            v.strides[j] = stride;
            stride *= dims[j];
        }
        i = i_end;
        k = k_end;
    }
    for (; k < rank; k++) /* what is left has extent 1 */
        v.strides[k] = 1;
    *view = v;
    return true;
}
