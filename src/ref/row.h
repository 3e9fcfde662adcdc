/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows: how references walk broadcast operands without converting element by element. An iteration
 * space is cut into runs of at most TDN_ROW elements along its innermost axis; each operand's run
 * is loaded into doubles (exact for all but 64-bit integers) or into int64 (exact for all
 * integers), worked on in a plain loop, and stored.
 *
 * The dtype is looked at once a row, not once an element. Axes that all operands step through
 * evenly are joined first, so a dense tensor is one long row whatever its shape.
 */
#ifndef TDN_REF_ROW_H
#define TDN_REF_ROW_H

#include "ref/ref.h"

#define TDN_ROW 256 /* doubles: 2 KiB an operand, so that a handful stay in L1 */

/* n elements from `offset` on, `stride` apart. */
void tdn_row_load(const tdn_view *view, int64_t offset, int64_t stride, int n, double *x);
/* The same as integers; floats are cut toward zero, U64 comes as its bits. */
void tdn_row_load_int(const tdn_view *view, int64_t offset, int64_t stride, int n, int64_t *x);
/* Stores doubles. Integers take them cut toward zero and saturated, NaN as 0; booleans whether they
 * are not 0. */
void tdn_row_store(const tdn_view *view, int64_t offset, int64_t stride, int n, const double *x);
/* Stores integers. Narrower integers keep the low bits; booleans whether they are not 0. */
void tdn_row_store_int(const tdn_view *view, int64_t offset, int64_t stride, int n,
                       const int64_t *x);

/* The integer x in range for dtype, as its low bits say. */
int64_t tdn_int_wrap(tdn_dtype dtype, int64_t x);
/* The smallest and largest value of an integer dtype, as far as int64 reaches (U64's largest is
 * INT64_MAX). */
void tdn_int_range(tdn_dtype dtype, int64_t *min, int64_t *max);

typedef struct tdn_rows {
    const tdn_view *views;
    int64_t at, end; /* the next element, in row-major order of the joined axes */
    int64_t index[TDN_MAX_RANK];
    int n; /* of this row */
} tdn_rows;

/*
 * Begins a walk over the elements [begin, end) of `dims`, to which all views are broadcast. The
 * views' axes are joined in place. end -1: all.
 */
tdn_rows tdn_rows_begin(tdn_view *views, int n_views, int64_t begin, int64_t end);
/* Steps to the next row; false when there is none. */
bool tdn_rows_next(tdn_rows *rows);
/* Where operand k's row begins, and its step. */
int64_t tdn_rows_offset(const tdn_rows *rows, int k);
static inline int64_t tdn_rows_stride(const tdn_rows *rows, int k)
{
    return rows->views[k].strides[rows->views[k].rank - 1];
}

/*
 * The outputs and inputs of an element-wise call, broadcast to the shape that the inputs have
 * together, outputs first: views has n_out + n_in entries. Absent operands get dtype NONE. Where
 * the inputs are shorter than an output's dims (bounded extents), the output gets the true dims.
 */
tdn_status tdn_rows_of_call(const tdn_ref_call *call, tdn_view *views);
/* Bytes of scratch for those views. */
size_t tdn_rows_scratch(const tdn_ref_call *call);
/* Parts for an element-wise call of `work` units an element. One where an extent is
 * known only now. */
int tdn_rows_parts(const tdn_ref_call *call, int64_t work);

#endif
