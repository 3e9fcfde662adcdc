/* SPDX-License-Identifier: Apache-2.0 */
/* Values that stand for others by one scale and zero point: maps that dequantise, made and found.
 */
#ifndef TDN_OPS_DEQUANTIZED_H
#define TDN_OPS_DEQUANTIZED_H

#include "graph/graph.h"

/* A value that is (q - zero) * scale, by one scale and zero point. */
typedef struct tdn_dequantized {
    tdn_value *q; /* U8, or S8 */
    float scale;
    int32_t zero;
} tdn_dequantized;
/* Is v made by such a map? An S8 that is an U8 less 128 is taken as that U8. */
bool tdn_value_is_dequantized(const tdn_value *v, tdn_dequantized *d);
/* The U8 that the S8 q is, less 128; NULL where a map does not say so. */
tdn_value *tdn_value_unsigned(const tdn_value *q);
/* (in0 - zero) * scale, into an empty expression. */
void tdn_expr_dequantize(tdn_expr *e, float scale, float zero);

#endif
