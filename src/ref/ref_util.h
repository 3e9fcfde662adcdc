/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What references share: element access with a short way for fp32, strided copies, and small
 * checks.
 *
 * References trust dims in the sense that a shape rule made them, but a damaged plan can bring any:
 * so each checks the few relations between dims that keep it inside its views (TDN_REF_NEED) before
 * it touches data.
 */
#ifndef TDN_REF_REF_UTIL_H
#define TDN_REF_REF_UTIL_H

#include "ref/ref.h"

/* Fails the reference when the operands do not fit together. */
tdn_status tdn_ref_misfit(const tdn_ref_call *call, const char *what);
#define TDN_REF_NEED(call, condition)                                                              \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return tdn_ref_misfit(call, #condition);                                               \
    } while (0)

/* Operand i, or NULL where it is absent. */
static inline const tdn_view *tdn_ref_in(const tdn_ref_call *call, int i)
{
    return i < call->n_in && call->in[i].dtype != TDN_DTYPE_NONE ? &call->in[i] : NULL;
}
static inline tdn_view *tdn_ref_out(const tdn_ref_call *call, int i)
{
    return i < call->n_out && call->out[i].dtype != TDN_DTYPE_NONE ? &call->out[i] : NULL;
}

static inline double tdn_ref_get(const tdn_view *view, int64_t offset)
{
    return view->dtype == TDN_F32 ? (double)((const float *)view->data)[offset]
                                  : tdn_view_get(view, offset);
}
static inline void tdn_ref_set(const tdn_view *view, int64_t offset, double x)
{
    if (view->dtype == TDN_F32)
        ((float *)view->data)[offset] = (float)x;
    else
        tdn_view_set(view, offset, x);
}

static inline bool tdn_ref_is_float(tdn_dtype d)
{
    return d == TDN_F32 || d == TDN_F16 || d == TDN_BF16 || d == TDN_F64;
}
static inline bool tdn_ref_is_sub_byte(tdn_dtype d) { return d == TDN_S4 || d == TDN_U4; }

/* A place in a tensor: a view from element `offset` of its data on (sub-byte elements have no
 * address). */
typedef struct tdn_place {
    tdn_view view;
    int64_t offset;
} tdn_place;
static inline tdn_place tdn_place_of(const tdn_view *view) { return (tdn_place){*view, 0}; }
/* Narrows axis to `extent` elements from `start` with a step (which may be negative). */
static inline void tdn_place_narrow(tdn_place *p, int axis, int64_t start, int64_t step,
                                    int64_t extent)
{
    p->offset += start * p->view.strides[axis];
    p->view.strides[axis] *= step;
    p->view.dims[axis] = extent;
}

/* Copies elements between places of the same dims and dtype: the share `part` of `n_parts` of the
 * elements. */
void tdn_ref_copy(const tdn_place *to, const tdn_place *from, int part, int n_parts);
/* The same, element by element in row-major order where only the counts agree. */
void tdn_ref_copy_flat(const tdn_place *to, const tdn_place *from, int part, int n_parts);
/* Copies one element. */
void tdn_ref_copy_one(const tdn_view *to, int64_t to_offset, const tdn_view *from,
                      int64_t from_offset);
/* Sets all elements of a place: by the integer for integer types, else by the number. */
void tdn_ref_fill(const tdn_place *to, double x, int64_t i);

/* A sensible number of parts for work of one unit an output element; 1 where parts would share a
 * byte. */
int tdn_ref_parts_of(const tdn_view *out, int64_t work_per_element);

/* The integers of a 0-D or 1-D tensor; false when there are more than max or none is there. */
bool tdn_ref_ints(const tdn_view *view, int64_t *v, int max, int *n);
/* Makes an axis not negative; false when it is outside of the rank. */
bool tdn_ref_axis(int64_t axis, int rank, int *out);
/* Product of dims[from..to). Dims are checked. */
int64_t tdn_ref_product(const tdn_view *view, int from, int to);

/* ONNX's rule for a slice of an axis: *start and *step become those of the first element and of the
 * walk (step 1 where there are fewer than two), *extent the number of elements. False for step 0.
 */
bool tdn_slice_resolve(int64_t dim, int64_t *start, int64_t end, int64_t *step, int64_t *extent);

/* Gives an output its true dims: as they are, or none longer, where its own were bounds. False
 * where they differ otherwise. Parts may all say the same: what is right already is not written. */
bool tdn_ref_fit(tdn_view *y, int rank, const int64_t *dims);

/* A number to sort by, as float or integer (the other one is 0), and where it came from. */
typedef struct tdn_ref_item {
    double f;
    int64_t i, index;
} tdn_ref_item;
/* Stable; NaN counts as the largest. temp has room for n items too. */
void tdn_ref_sort(tdn_ref_item *items, tdn_ref_item *temp, int64_t n, bool descending);

/* Sum of x[i * dx] * y[i * dy], in double. */
double tdn_ref_dot(const float *x, int64_t dx, const float *y, int64_t dy, int64_t n);

/* acc[r * ld + i] += sum over t of w[t][r] * x[t][i * step], r in 0..3, t in 0..n_x-1: the inner
 * loop of conv and matmul. Products are added one by one in the order of t, in double. */
enum { TDN_REF_TERMS = 4, TDN_REF_ROWS = 4 };
void tdn_ref_add_rows(double *acc, int64_t ld, const float *const *x, int n_x, int64_t step,
                      const double (*w)[TDN_REF_ROWS], int64_t n);
/* The same for one term. */
static inline void tdn_ref_axpy4(double *acc, int64_t ld, const float *x, int64_t step,
                                 const double w[4], int64_t n)
{
    tdn_ref_add_rows(acc, ld, &x, 1, step, (const double(*)[TDN_REF_ROWS])w, n);
}

#endif
