/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Conversions of dtype. A cast that a Map makes by itself is one, one to the same dtype is
 * nothing, all others run by the reference. Strings, complex numbers and floats of 8 bits and fewer
 * are refused by name.
 */
#include "base/half.h"
#include "ops/dtype.h"
#include "ops/emit.h"

static tdn_status cast_infer(tdn_infer *io)
{
    tdn_dtype to;
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_all));
    TDN_TRY(tdn_infer_dtype_named(io, "to", TDN_DTYPE_NONE, &to));
    if (to == TDN_STRING)
        return tdn_fail(io->error, TDN_E_UNSUPPORTED, "casting to string is not supported");
    return tdn_infer_set(io, 0, to, &io->node->in[0]->shape);
}

static tdn_status cast_like_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_all));
    TDN_TRY(tdn_infer_dtype(io, 1, tdn_dtypes_all));
    return tdn_infer_set(io, 0, io->node->in[1]->dtype, &io->node->in[0]->shape);
}

/* Is it a change of type that a map makes by itself? Booleans are 0 and 1 there. Integers from
 * floats are cut off, which stores of maps are not. */
static bool is_mappable(tdn_dtype from, tdn_dtype to)
{
    if (from == TDN_F32)
        return to == TDN_BOOL || tdn_is_half(to);
    return to == TDN_F32 && (from == TDN_BOOL || from == TDN_U8 || from == TDN_S8 ||
                             from == TDN_S32 || tdn_is_half(from));
}

static tdn_status cast_decompose(tdn_infer *io)
{
    tdn_value *x = io->node->in[0];
    const tdn_dtype to = io->node->out[0] ? io->node->out[0]->dtype : x->dtype;
    if (x->dtype == to) {
        tdn_emit_replace(io, 0, x);
        return TDN_OK;
    }
    if (!is_mappable(x->dtype, to))
        return TDN_OK;
    tdn_expr e = {0};
    int reg = tdn_expr_input(&e, 0);
    if (to == TDN_BOOL)
        reg = tdn_expr_add(&e, TDN_X_NOT, tdn_expr_add(&e, TDN_X_EQ, reg, tdn_expr_const(&e, 0), 0),
                           0, 0);
    tdn_expr_store(&e, reg, 0);
    return tdn_emit_end(io, tdn_emit_map(io, &x, 1, &e, to));
}

static tdn_status bit_cast_infer(tdn_infer *io)
{
    tdn_dtype to;
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_all));
    TDN_TRY(tdn_infer_dtype_named(io, "to", TDN_DTYPE_NONE, &to));
    const tdn_value *x = io->node->in[0];
    if (to == TDN_STRING || tdn_dtype_size(to, 2) != tdn_dtype_size(x->dtype, 2))
        return tdn_fail(io->error, TDN_E_MODEL, "%s has not as many bits as %s", tdn_dtype_name(to),
                        tdn_dtype_name(x->dtype));
    return tdn_infer_set(io, 0, to, &x->shape);
}

const tdn_op_def tdn_ops_cast[] = {
    {.name = "Cast",
     .domain = "",
     .since = 6,
     .n_in_min = 1,
     .n_in_max = 1,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = cast_infer,
     .decompose = cast_decompose},
    {.name = "CastLike",
     .domain = "",
     .since = 15,
     .n_in_min = 2,
     .n_in_max = 2,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = cast_like_infer,
     .decompose = cast_decompose,
     .reference = "Cast"},
    {.name = "BitCast",
     .domain = "",
     .since = 26,
     .n_in_min = 1,
     .n_in_max = 1,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = bit_cast_infer},
    {.name = NULL},
};
