/* SPDX-License-Identifier: Apache-2.0 */
/* What the epilogues of floats and of integers share: how an expression is taken apart, and what is
 * asked of its operands. */
#ifndef TDN_BACKEND_CPU_EPILOGUE_H
#define TDN_BACKEND_CPU_EPILOGUE_H

#include "backend/cpu/cpu.h"

/* A vector along the last axis, the same for all else. */
bool tdn_epilogue_is_bias(const tdn_view *view, const tdn_view *out);
bool tdn_epilogue_is_residual(const tdn_view *view, const tdn_view *out);
/* The register that is the expression's result. */
int tdn_epilogue_root(const tdn_expr *expr);
/* Takes off an operation with a constant, which is its second argument, or either where they may
 * change places; returns the other argument, or -1. */
int tdn_epilogue_peel(const tdn_expr *expr, int at, tdn_expr_op op, float *constant);
/* Takes off up to one min and one max with constants. */
int tdn_epilogue_peel_clamps(const tdn_expr *expr, int at, float *lo, float *hi);

/* An epilogue of nothing; checks the group's extras and expression. */
tdn_status tdn_epilogue_begin(tdn_epilogue *epilogue, const tdn_group *group, int first,
                              tdn_error *error);
/* An epilogue that is a program. */
tdn_status tdn_epilogue_compile(tdn_epilogue *epilogue, tdn_map_program **program,
                                const tdn_group *group, int first, tdn_arena *arena,
                                tdn_error *error);
/* As tdn_epilogue_check; the residual may be bytes, too. */
tdn_status tdn_epilogue_check_bytes(const tdn_epilogue *epilogue, const void *rest,
                                    size_t rest_size, const tdn_view *in, int n_in,
                                    const tdn_view *out, tdn_error *error);

#endif
