/* SPDX-License-Identifier: Apache-2.0 */
/* What an element-wise operator computes, as an expression. */
#ifndef TDN_OPS_ELEMENTWISE_EXPR_H
#define TDN_OPS_ELEMENTWISE_EXPR_H

#include "ops/op.h"

/*
 * Writes the expression of the node over `in` (TDN_EXPR_MAX_IN entries; those of its inputs that it
 * reads). False where there is none: an operand that is neither F32 nor BOOL, too many operands, an
 * attribute without a form.
 */
bool tdn_elementwise_expr(const tdn_node *node, tdn_expr *expr, tdn_value **in, int *n_in);

#endif
