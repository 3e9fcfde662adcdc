/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of Cast, CastLike and BitCast, over all pairs of dtypes.
 *
 * Between integers the low bits are kept; a float becomes an integer by cutting toward zero; what
 * is not 0 is true. Narrow floats are rounded once, to nearest even. ONNX leaves a float that is
 * out of the integer's range undefined: here integers of 32 and 64 bits saturate, and narrower ones
 * keep the low bits, as numpy does.
 */
#include "ref/ref_util.h"
#include "ref/row.h"

static bool is_narrow(tdn_dtype d)
{
    return d == TDN_S8 || d == TDN_U8 || d == TDN_S16 || d == TDN_U16 || d == TDN_S4 || d == TDN_U4;
}

/* Does this cast go through double, rather than through int64? */
static bool is_real(tdn_dtype from, tdn_dtype to)
{
    return tdn_ref_is_float(from) ? !is_narrow(to) : from == TDN_U64 && tdn_ref_is_float(to);
}

static tdn_status cast_run(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out == 1);
    tdn_ref_call one = *call; /* CastLike's second operand only lends its dtype */
    one.n_in = 1;
    tdn_view views[2];
    TDN_TRY(tdn_rows_of_call(&one, views));
    const bool real = is_real(views[1].dtype, views[0].dtype);
    int64_t begin, end;
    tdn_ref_share(tdn_view_count(&views[0]), call->part, call->n_parts, &begin, &end);
    double x[TDN_ROW];
    int64_t xi[TDN_ROW];
    tdn_rows rows = tdn_rows_begin(views, 2, begin, end);
    while (tdn_rows_next(&rows)) {
        const int64_t to = tdn_rows_offset(&rows, 0), at = tdn_rows_offset(&rows, 1);
        if (real) {
            tdn_row_load(&views[1], at, tdn_rows_stride(&rows, 1), rows.n, x);
            tdn_row_store(&views[0], to, tdn_rows_stride(&rows, 0), rows.n, x);
        } else {
            tdn_row_load_int(&views[1], at, tdn_rows_stride(&rows, 1), rows.n, xi);
            tdn_row_store_int(&views[0], to, tdn_rows_stride(&rows, 0), rows.n, xi);
        }
    }
    return TDN_OK;
}

/* The same bits under another dtype of the same width. */
static tdn_status bit_cast_run(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in == 1 && call->n_out == 1);
    tdn_view views[2];
    TDN_TRY(tdn_rows_of_call(call, views));
    TDN_REF_NEED(call, tdn_dtype_size(views[0].dtype, 2) == tdn_dtype_size(views[1].dtype, 2));
    views[1].dtype = views[0].dtype;
    const tdn_place to = tdn_place_of(&views[0]), from = tdn_place_of(&views[1]);
    tdn_ref_copy(&to, &from, call->part, call->n_parts);
    return TDN_OK;
}

static int parts(const tdn_ref_call *call)
{
    tdn_ref_call one = *call;
    one.n_in = call->n_in > 0;
    return tdn_rows_parts(&one, 1);
}

const tdn_ref_def tdn_refs_cast[] = {
    {"Cast", cast_run, NULL, parts},
    {"BitCast", bit_cast_run, NULL, parts},
    {NULL, NULL, NULL, NULL},
};
