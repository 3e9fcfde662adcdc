/* SPDX-License-Identifier: Apache-2.0 */
/* A strided view of elements: what kernels and references read and write. Owns nothing. */
#ifndef TDN_BASE_VIEW_H
#define TDN_BASE_VIEW_H

#include <stdbool.h>

#include "base/memory.h"

typedef struct tdn_view {
    void *data; /* of element (0, 0, ...); NULL for an absent optional operand (dtype NONE) */
    tdn_dtype dtype;
    int32_t rank;
    int64_t dims[TDN_MAX_RANK];
    int64_t strides[TDN_MAX_RANK]; /* in elements; 0 broadcasts; sub-byte types are always dense */
} tdn_view;

/* A dense row-major view. */
tdn_view tdn_view_make(void *data, tdn_dtype dtype, int rank, const int64_t *dims);
/* Elements; the dims are known to be checked. */
int64_t tdn_view_count(const tdn_view *view);
bool tdn_view_is_dense(const tdn_view *view);
/* Do two views have the same rank and dims? */
bool tdn_view_same_dims(const tdn_view *a, const tdn_view *b);
/* Offset in elements of the row-major element number `index`. */
int64_t tdn_view_offset(const tdn_view *view, int64_t index);
/* Aligns `view` to the right of rank/dims by numpy's rule: stride 0 on broadcast axes. False if it
 * does not fit. */
bool tdn_view_broadcast(const tdn_view *view, int rank, const int64_t *dims, tdn_view *out);

/* The same elements in other dims of the same count; false, and nothing changed, where no strides say
 * it. */
bool tdn_view_reshape(tdn_view *view, int rank, const int64_t *dims);

/* Element access by any dtype, converting: for references and tools, not for speed. `offset` in
 * elements. */
double tdn_view_get(const tdn_view *view, int64_t offset);
int64_t tdn_view_get_int(const tdn_view *view, int64_t offset);
/* Rounds to nearest even and saturates for integers; NaN becomes 0 there. U64 passes through
 * int64_t by its bits. */
void tdn_view_set(const tdn_view *view, int64_t offset, double x);
void tdn_view_set_int(const tdn_view *view, int64_t offset, int64_t x);

/* Row-major walk over dims: for (tdn_walk w = tdn_walk_begin(rank, dims); w.more;
 * tdn_walk_next(&w)) w.index[...] */
typedef struct tdn_walk {
    int rank;
    bool more;
    int64_t dims[TDN_MAX_RANK];
    int64_t index[TDN_MAX_RANK];
} tdn_walk;
tdn_walk tdn_walk_begin(int rank, const int64_t *dims);
void tdn_walk_next(tdn_walk *walk);
static inline int64_t tdn_walk_offset(const tdn_walk *w, const tdn_view *view)
{
    int64_t offset = 0;
    for (int i = 0; i < w->rank; i++)
        offset += w->index[i] * view->strides[i];
    return offset;
}

#endif
