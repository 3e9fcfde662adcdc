/* SPDX-License-Identifier: Apache-2.0 */
#include "ref/custom.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "ref/ref_util.h"

enum { MAX_OPERANDS = TDN_OPERATOR_MAX_IN + TDN_OPERATOR_MAX_OUT };

/* ---- What an operator asks its call ---------------------------------------------------------- */

int64_t tdn_operator_int(const tdn_operator_call *call, const char *name, int64_t absent)
{
    return tdn_attr_int(call->attrs, name, absent);
}

float tdn_operator_float(const tdn_operator_call *call, const char *name, float absent)
{
    return tdn_attr_float(call->attrs, name, absent);
}

const char *tdn_operator_string(const tdn_operator_call *call, const char *name, const char *absent)
{
    return tdn_attr_string(call->attrs, name, absent);
}

const int64_t *tdn_operator_ints(const tdn_operator_call *call, const char *name, int *n)
{
    return tdn_attr_ints(call->attrs, name, n);
}

const float *tdn_operator_floats(const tdn_operator_call *call, const char *name, int *n)
{
    return tdn_attr_floats(call->attrs, name, n);
}

tdn_status tdn_operator_fail(tdn_error *error, tdn_status status, const char *format, ...)
{
    if (error) {
        va_list values;
        va_start(values, format);
        vsnprintf(error->text, sizeof error->text, format, values);
        va_end(values);
    }
    return status;
}

/* ---- Calls ----------------------------------------------------------------------------------- */

tdn_operator_call tdn_custom_call(const tdn_operator *op, const tdn_attrs *attrs,
                                  const tdn_tensor *in, int n_in, tdn_tensor *out, int n_out)
{
    return (tdn_operator_call){
        .struct_size = sizeof(tdn_operator_call),
        .n_in = n_in,
        .n_out = n_out,
        .in = in,
        .out = out,
        .attrs = attrs,
        .user = op->user,
    };
}

/* The operands of a reference's call as the operator sees them. */
typedef struct operands {
    tdn_tensor tensors[MAX_OPERANDS];
    size_t copy_at[MAX_OPERANDS]; /* offset of the dense copy in the scratch; SIZE_MAX: in place */
    size_t copies_size;           /* the operator's own scratch follows */
    tdn_operator_call call;
} operands;

static const tdn_operator *operator_of(const tdn_ref_call *call)
{
    return ((const tdn_custom *)call->row)->op;
}

static bool too_many(const tdn_ref_call *call)
{
    return call->n_in > TDN_OPERATOR_MAX_IN || call->n_out > TDN_OPERATOR_MAX_OUT;
}

static const tdn_view *operand(const tdn_ref_call *call, int i)
{
    return i < call->n_in ? &call->in[i] : &call->out[i - call->n_in];
}

static void fill(operands *o, const tdn_ref_call *call)
{
    o->copies_size = 0;
    for (int i = 0; i < call->n_in + call->n_out; i++) {
        const tdn_view *v = operand(call, i);
        o->tensors[i] = tdn_tensor_make(v->data, v->dtype, v->rank, v->dims);
        o->copy_at[i] = SIZE_MAX;
        if (v->dtype == TDN_DTYPE_NONE || tdn_view_is_dense(v))
            continue;
        o->copy_at[i] = o->copies_size;
        o->copies_size +=
            tdn_round_up(tdn_dtype_size(v->dtype, (size_t)tdn_view_count(v)), TDN_ALIGN);
    }
    o->call = tdn_custom_call(operator_of(call), call->attrs, o->tensors, call->n_in,
                              o->tensors + call->n_in, call->n_out);
}

static size_t custom_scratch(const tdn_ref_call *call)
{
    const tdn_operator *op = operator_of(call);
    operands o;
    if (too_many(call))
        return 0; /* running fails */
    fill(&o, call);
    for (int i = 0; i < MAX_OPERANDS; i++)
        o.tensors[i].data = NULL;
    const size_t own = op->scratch_size ? op->scratch_size(&o.call) : 0;
    return own > SIZE_MAX / 2 || o.copies_size > SIZE_MAX / 2 ? SIZE_MAX : own + o.copies_size;
}

/* Operand i and its dense copy: from there to here, or back. */
static void copy(const tdn_ref_call *call, operands *o, int i, bool back)
{
    const tdn_view *v = operand(call, i);
    const tdn_view dense = tdn_view_make(o->tensors[i].data, v->dtype, v->rank, v->dims);
    const tdn_place there = tdn_place_of(v), here = tdn_place_of(&dense);
    tdn_ref_copy(back ? &there : &here, back ? &here : &there, 0, 1);
}

static tdn_status custom_run(const tdn_ref_call *call)
{
    const tdn_operator *op = operator_of(call);
    operands o;
    if (too_many(call))
        return tdn_fail(call->error, TDN_E_FORMAT, "operator '%s' with %d inputs and %d outputs",
                        op->name, call->n_in, call->n_out);
    fill(&o, call);
    o.call.scratch = (char *)call->scratch + o.copies_size;
    for (int i = 0; i < call->n_in + call->n_out; i++) {
        if (o.copy_at[i] == SIZE_MAX)
            continue;
        o.tensors[i].data = (char *)call->scratch + o.copy_at[i];
        if (i < call->n_in)
            copy(call, &o, i, false);
    }
    const tdn_status status = op->run(&o.call, call->error);
    for (int i = call->n_in; status == TDN_OK && i < call->n_in + call->n_out; i++)
        if (o.copy_at[i] != SIZE_MAX)
            copy(call, &o, i, true);
    return status;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static tdn_status check(const tdn_operator *op, int32_t index, tdn_error *error)
{
    const char *wrong = NULL;
    if (op->struct_size != sizeof *op)
        wrong = "is of another version: struct_size is not sizeof(tdn_operator)";
    else if (!op->name || !op->name[0])
        wrong = "has no name";
    else if (!op->run)
        wrong = "has no function run";
    else if (op->n_in_min < 0 || op->n_in_max < op->n_in_min || op->n_in_max > TDN_OPERATOR_MAX_IN)
        wrong = "has a number of inputs out of range";
    else if (op->n_out_min < 1 || op->n_out_max < op->n_out_min ||
             op->n_out_max > TDN_OPERATOR_MAX_OUT)
        wrong = "has a number of outputs out of range";
    return wrong ? tdn_fail(error, TDN_E_ARG, "operator %d %s", index, wrong) : TDN_OK;
}

tdn_status tdn_customs_make(tdn_customs *customs, const tdn_operator *operators, int32_t n,
                            tdn_arena *arena, tdn_error *error)
{
    *customs = (tdn_customs){NULL, 0};
    if (n < 0 || (n > 0 && !operators))
        return tdn_fail(error, TDN_E_ARG, "%d operators, and no rows of them", n);
    tdn_custom *rows = tdn_arena_alloc(arena, (size_t)n + 1, sizeof *rows);
    if (!rows)
        return tdn_fail_nomem(error, "operators");
    for (int32_t i = 0; i < n; i++) {
        const tdn_operator *op = &operators[i];
        TDN_TRY(check(op, i, error));
        rows[i].op = op;
        rows[i].ref.name =
            tdn_arena_printf(arena, "%s::%s", op->domain ? op->domain : "", op->name);
        rows[i].ref.run = custom_run;
        rows[i].ref.scratch_size = custom_scratch;
        if (!rows[i].ref.name)
            return tdn_fail_nomem(error, "operators");
    }
    *customs = (tdn_customs){rows, n};
    return TDN_OK;
}

const tdn_custom *tdn_customs_find(const tdn_customs *customs, const char *name)
{
    for (int32_t i = 0; i < customs->n; i++)
        if (strcmp(customs->rows[i].ref.name, name) == 0)
            return &customs->rows[i];
    return NULL;
}
