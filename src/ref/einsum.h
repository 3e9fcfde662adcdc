/* SPDX-License-Identifier: Apache-2.0 */
/* Einstein summation: the equation as numbers, for the shape rule, the decomposition and the
 * reference. */
#ifndef TDN_REF_EINSUM_H
#define TDN_REF_EINSUM_H

#include "ref/ref.h"

#define TDN_EINSUM_IN 16      /* operands */
#define TDN_EINSUM_LETTERS 64 /* 52 letters, and one for each axis that an ellipsis stands for */

typedef struct tdn_einsum {
    int n_in, n_out, n_letters;
    int8_t in[TDN_EINSUM_IN][TDN_MAX_RANK]; /* letter of each axis, numbered from 0 */
    int rank[TDN_EINSUM_IN];
    int8_t out[TDN_MAX_RANK];
} tdn_einsum;

/* Parses; the ranks say how many axes each ellipsis stands for. NULL, or what is wrong. */
const char *tdn_einsum_parse(tdn_einsum *e, const char *equation, const int *ranks, int n);
/* Extent of each letter; an extent of 1 gives way to another. Dims of operand i are dims[i]. False:
 * they differ. */
bool tdn_einsum_extents(const tdn_einsum *e, const int64_t *const *dims, int64_t *extents);

tdn_status tdn_ref_einsum(const tdn_ref_call *call);
int tdn_ref_einsum_parts(const tdn_ref_call *call);

#endif
