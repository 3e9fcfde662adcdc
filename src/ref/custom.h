/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operators of the caller's own as reference kernels: all that runs a reference (the engine, the
 * reference evaluation) runs them too. They are called with dense tensors; where an operand lies
 * otherwise, a copy of it goes through the scratch.
 */
#ifndef TDN_REF_CUSTOM_H
#define TDN_REF_CUSTOM_H

#include "ref/ref.h"
#include "tendon/operator.h"

typedef struct tdn_custom {
    tdn_ref_def ref; /* named "domain::Name"; the first, so that a call's row leads here */
    const tdn_operator *op;
} tdn_custom;

typedef struct tdn_customs {
    const tdn_custom *rows;
    int32_t n;
} tdn_customs;

/* Checks the caller's rows, and makes references of them in the arena. TDN_E_ARG, TDN_E_NOMEM. */
tdn_status tdn_customs_make(tdn_customs *customs, const tdn_operator *operators, int32_t n,
                            tdn_arena *arena, tdn_error *error);
/* NULL: there is none. */
const tdn_custom *tdn_customs_find(const tdn_customs *customs, const char *name);

/* A call without data, for shape rules: tensors that the caller fills. */
tdn_operator_call tdn_custom_call(const tdn_operator *op, const tdn_attrs *attrs,
                                  const tdn_tensor *in, int n_in, tdn_tensor *out, int n_out);

#endif
