/* SPDX-License-Identifier: Apache-2.0 */
/* ONNX's numbers of element types, and sets of dtypes. See dtype.h. */
#include "ops/dtype.h"

static const struct {
    const char *name;
    tdn_dtype dtype;
} rows[] = {
    [1] = {"float", TDN_F32},
    [2] = {"uint8", TDN_U8},
    [3] = {"int8", TDN_S8},
    [4] = {"uint16", TDN_U16},
    [5] = {"int16", TDN_S16},
    [6] = {"int32", TDN_S32},
    [7] = {"int64", TDN_S64},
    [8] = {"string", TDN_STRING},
    [9] = {"bool", TDN_BOOL},
    [10] = {"float16", TDN_F16},
    [11] = {"double", TDN_F64},
    [12] = {"uint32", TDN_U32},
    [13] = {"uint64", TDN_U64},
    [14] = {"complex64", TDN_DTYPE_NONE},
    [15] = {"complex128", TDN_DTYPE_NONE},
    [16] = {"bfloat16", TDN_BF16},
    [17] = {"float8e4m3fn", TDN_DTYPE_NONE},
    [18] = {"float8e4m3fnuz", TDN_DTYPE_NONE},
    [19] = {"float8e5m2", TDN_DTYPE_NONE},
    [20] = {"float8e5m2fnuz", TDN_DTYPE_NONE},
    [21] = {"uint4", TDN_U4},
    [22] = {"int4", TDN_S4},
    [23] = {"float4e2m1", TDN_DTYPE_NONE},
    [24] = {"float8e8m0", TDN_DTYPE_NONE},
    [25] = {"uint2", TDN_DTYPE_NONE},
    [26] = {"int2", TDN_DTYPE_NONE},
    [27] = {"float6e2m3", TDN_DTYPE_NONE},
    [28] = {"float6e3m2", TDN_DTYPE_NONE},
};
enum { N_ROWS = sizeof rows / sizeof rows[0] };

tdn_dtype tdn_dtype_of_onnx(int64_t number)
{
    return number > 0 && number < N_ROWS ? rows[number].dtype : TDN_DTYPE_NONE;
}

int64_t tdn_dtype_to_onnx(tdn_dtype dtype)
{
    int64_t number = 1;
    while (number < N_ROWS && rows[number].dtype != dtype)
        number++;
    return number < N_ROWS ? number : 0;
}

const char *tdn_dtype_onnx_name(int64_t number)
{
    return number > 0 && number < N_ROWS ? rows[number].name : "unknown";
}

tdn_status tdn_infer_dtype_named(tdn_infer *io, const char *name, tdn_dtype absent,
                                 tdn_dtype *dtype)
{
    const int64_t number = tdn_attr_int(&io->node->attrs, name, 0);
    *dtype = number == 0 ? absent : tdn_dtype_of_onnx(number);
    if (number == 0 && absent == TDN_DTYPE_NONE)
        return tdn_fail(io->error, TDN_E_MODEL, "attribute '%s' is missing", name);
    if (*dtype == TDN_DTYPE_NONE)
        return tdn_fail(io->error, TDN_E_UNSUPPORTED,
                        "attribute '%s' asks for element type %lld (%s)", name, (long long)number,
                        tdn_dtype_onnx_name(number));
    return TDN_OK;
}

#define FLOATS TDN_F32, TDN_F16, TDN_BF16, TDN_F64
#define INTEGERS TDN_S8, TDN_U8, TDN_S16, TDN_U16, TDN_S32, TDN_U32, TDN_S64, TDN_U64
const tdn_dtype tdn_dtypes_floats[] = {FLOATS, TDN_DTYPE_NONE};
const tdn_dtype tdn_dtypes_integers[] = {INTEGERS, TDN_DTYPE_NONE};
const tdn_dtype tdn_dtypes_numbers[] = {FLOATS, INTEGERS, TDN_DTYPE_NONE};
const tdn_dtype tdn_dtypes_all[] = {FLOATS, INTEGERS, TDN_BOOL, TDN_S4, TDN_U4, TDN_DTYPE_NONE};
const tdn_dtype tdn_dtypes_bool[] = {TDN_BOOL, TDN_DTYPE_NONE};
