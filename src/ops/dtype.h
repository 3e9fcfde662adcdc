/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Dtypes in attributes ("to", "dtype", "output_dtype"): ONNX numbers them by TensorProto.DataType.
 * And the sets of dtypes that shape rules allow.
 */
#ifndef TDN_OPS_DTYPE_H
#define TDN_OPS_DTYPE_H

#include "ops/op.h"

/* NONE for what is unknown or not supported: complex numbers, 8-bit floats and smaller, 2-bit
 * integers. */
tdn_dtype tdn_dtype_of_onnx(int64_t number);
/* 0 for what it has no number of. */
int64_t tdn_dtype_to_onnx(tdn_dtype dtype);
/* The name that ONNX gives the number ("float8e4m3fn"), for messages; "unknown" where
 * it has none. */
const char *tdn_dtype_onnx_name(int64_t number);
/* The dtype that integer attribute `name` says, `absent` where it is not there; fails where it is
 * not supported. */
tdn_status tdn_infer_dtype_named(tdn_infer *io, const char *name, tdn_dtype absent,
                                 tdn_dtype *dtype);

/* Each ended by TDN_DTYPE_NONE, for tdn_infer_dtype. ALL is all but STRING; NUMBERS has no BOOL and
 * nothing sub-byte.
 */
extern const tdn_dtype tdn_dtypes_all[], tdn_dtypes_numbers[], tdn_dtypes_floats[],
    tdn_dtypes_integers[];
extern const tdn_dtype tdn_dtypes_bool[];

#endif
