/* SPDX-License-Identifier: Apache-2.0 */
/* Values that stand for others by one scale and zero point: maps that dequantise, made and found.
 */
#ifndef TDN_OPS_DEQUANTIZED_H
#define TDN_OPS_DEQUANTIZED_H

#include "graph/graph.h"

/* A value that is (q - zero) * scale, by one scale and zero point. */
typedef struct tdn_dequantized {
    tdn_value *q; /* U8, S8; or F16, BF16, with scale 1 and zero 0 */
    float scale;
    int32_t zero;
} tdn_dequantized;
/* Is v made by such a map? An S8 that is an U8 less 128 is taken as that U8. */
bool tdn_value_is_dequantized(const tdn_value *v, tdn_dequantized *d);
/* The U8 that the S8 q is, less 128; NULL where a map does not say so. */
tdn_value *tdn_value_unsigned(const tdn_value *q);
/* Is it kept in bytes? Otherwise it is in halves. */
static inline bool tdn_dequantized_is_bytes(const tdn_dequantized *d)
{
    return d->q->dtype == TDN_U8 || d->q->dtype == TDN_S8;
}
/* (in0 - zero) * scale, into an empty expression; without what changes nothing. */
void tdn_expr_dequantize(tdn_expr *e, float scale, float zero);

#endif
