/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How quantised operators become core ones. Quantising and dequantising are maps, whose operands
 * may be integers. Products of integers are IntegerConv and IntegerMatMul (domain "tendon"): of an
 * U8 operand less one constant zero point, and constant S8 weights without one; the sums are S32,
 * and what follows them, scales included, is a map. What does not come to that form (products of
 * two activations by integers alone) stays as it is and runs by its reference.
 */
#ifndef TDN_OPS_QUANT_REWRITE_H
#define TDN_OPS_QUANT_REWRITE_H

#include "ops/emit.h"

tdn_status tdn_quantize_decompose(tdn_infer *io);
/* A constant is evaluated, and keeps scale and zero point as its tdn_quant where they are per
 * tensor or along an axis. */
tdn_status tdn_dequantize_decompose(tdn_infer *io);
tdn_status tdn_dynamic_quantize_decompose(tdn_infer *io);
tdn_status tdn_conv_integer_decompose(tdn_infer *io);
tdn_status tdn_matmul_integer_decompose(tdn_infer *io);
tdn_status tdn_qlinear_conv_decompose(tdn_infer *io);
tdn_status tdn_qlinear_matmul_decompose(tdn_infer *io);

/* clamp(round(x / scale) + zero) as U8, or S8. scale is F32; zero is of the result's type or NULL;
 * both broadcast to x. */
tdn_value *tdn_emit_quantize(tdn_infer *io, tdn_value *x, tdn_value *scale, tdn_value *zero,
                             tdn_dtype dtype);
/* (q - zero) * scale. */
tdn_value *tdn_emit_dequantize(tdn_infer *io, tdn_value *q, tdn_value *scale, tdn_value *zero);

/* Sums of (x - x_zero) * (w - w_zero) as S32, at the convolution or product of matrices io->node,
 * whose window is taken. Zero points may be NULL. *sum is NULL where it does not come to the core
 * form. */
tdn_status tdn_emit_integer_sum(tdn_infer *io, bool is_conv, tdn_value *x, tdn_value *x_zero,
                                tdn_value *w, tdn_value *w_zero, tdn_value **sum);

#endif
