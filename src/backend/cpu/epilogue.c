/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The epilogue of conv and gemm. clamp(x + bias + residual) is compiled into their kernels; it is
 * recognised here, in any order of its additions. Anything else becomes a program.
 */
#include <math.h>
#include <string.h>

#include "backend/cpu/epilogue.h"

bool tdn_epilogue_is_bias(const tdn_view *v, const tdn_view *out)
{
    const int last = out->rank - 1;
    for (int i = 0; i < last; i++)
        if (v->dims[i] != 1 && v->strides[i] != 0)
            return false;
    return v->strides[last] == 1 || v->dims[last] == 1;
}

bool tdn_epilogue_is_residual(const tdn_view *v, const tdn_view *out)
{
    const int last = out->rank - 1;
    return v->strides[last] == 1 || v->dims[last] == 1;
}

static tdn_status check_extra(const tdn_view *v, const tdn_view *out, tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_view(v, out->rank, TDN_DTYPE_NONE, "an operand of an epilogue", error));
    if ((v->dtype != TDN_F32 && v->dtype != TDN_BOOL && v->dtype != TDN_U8 &&
         !tdn_is_half(v->dtype)) ||
        !tdn_view_same_dims(v, out))
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "an operand of an epilogue that is not like its result");
    return TDN_OK;
}

int tdn_epilogue_peel(const tdn_expr *e, int at, tdn_expr_op op, float *constant)
{
    const tdn_instr *in = &e->code[at];
    if (in->op != op)
        return -1;
    const bool second = e->code[in->b].op == TDN_X_CONST;
    const bool ordered = op == TDN_X_SUB || op == TDN_X_DIV;
    if (!second && (ordered || e->code[in->a].op != TDN_X_CONST))
        return -1;
    *constant = e->code[second ? in->b : in->a].imm;
    return isnan(*constant) ? -1 : second ? in->a : in->b;
}

int tdn_epilogue_peel_clamps(const tdn_expr *e, int at, float *lo, float *hi)
{
    for (int turn = 0; turn < 2; turn++) {
        int below;
        if (*hi == INFINITY && (below = tdn_epilogue_peel(e, at, TDN_X_MIN, hi)) >= 0)
            at = below;
        else if (*lo == -INFINITY && (below = tdn_epilogue_peel(e, at, TDN_X_MAX, lo)) >= 0)
            at = below;
    }
    return at;
}

/* Collects the inputs that are added up; false where there is anything else. */
static bool collect_terms(const tdn_expr *e, int at, int terms[3], int *n_terms)
{
    const tdn_instr *in = &e->code[at];
    if (in->op == TDN_X_ADD)
        return collect_terms(e, in->a, terms, n_terms) && collect_terms(e, in->b, terms, n_terms);
    if (in->op != TDN_X_INPUT || *n_terms == 3)
        return false;
    terms[(*n_terms)++] = in->index;
    return true;
}

int tdn_epilogue_root(const tdn_expr *e)
{
    for (int i = e->n_instr - 1; i >= 0; i--)
        if (e->code[i].op == TDN_X_STORE)
            return e->code[i].a;
    return 0;
}

static bool is_compiled_in(tdn_epilogue *ep, const tdn_group *g)
{
    const tdn_expr *e = g->expr;
    int terms[3], n_terms = 0;
    const int at = tdn_epilogue_peel_clamps(e, tdn_epilogue_root(e), &ep->lo, &ep->hi);
    if (ep->lo > ep->hi || !collect_terms(e, at, terms, &n_terms))
        return false;
    bool has_result = false;
    for (int i = 0; i < n_terms; i++) {
        const tdn_view *v = terms[i] ? &g->extra[terms[i] - 1] : NULL;
        if (!v) {
            if (has_result)
                return false;
            has_result = true;
        } else if (v->dtype != TDN_F32 && v->dtype != g->in[0].dtype) {
            return false;
        } else if (ep->bias < 0 && v->dtype == TDN_F32 && tdn_epilogue_is_bias(v, &g->out[0])) {
            ep->bias = ep->first + terms[i] - 1;
        } else if (ep->residual < 0 && tdn_epilogue_is_residual(v, &g->out[0])) {
            ep->residual = ep->first + terms[i] - 1;
        } else {
            return false;
        }
    }
    return has_result;
}

static tdn_epilogue nothing(int first, int n_extra)
{
    return (tdn_epilogue){.first = first,
                          .n_extra = n_extra,
                          .bias = -1,
                          .residual = -1,
                          .lo = -INFINITY,
                          .hi = INFINITY};
}

tdn_status tdn_epilogue_begin(tdn_epilogue *ep, const tdn_group *g, int first, tdn_error *error)
{
    *ep = nothing(first, g->n_extra);
    if (g->n_extra < 0 || g->n_extra >= TDN_EXPR_MAX_IN)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "%d operands of an epilogue", g->n_extra);
    for (int i = 0; i < g->n_extra; i++)
        TDN_TRY(check_extra(&g->extra[i], &g->out[0], error));
    if (!g->expr)
        return TDN_OK;
    if (g->expr->n_out != 1 || g->expr->n_in > g->n_extra + 1)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "an epilogue of other operands than its group's");
    return tdn_expr_check(g->expr, tdn_expr_size(g->expr), error);
}

tdn_status tdn_epilogue_compile(tdn_epilogue *ep, tdn_map_program **program, const tdn_group *g,
                                int first, tdn_arena *arena, tdn_error *error)
{
    *ep = nothing(first, g->n_extra);
    ep->has_program = 1;
    TDN_TRY(tdn_map_compile(program, g->expr, arena, error));
    (*program)->n_in = (uint16_t)(g->n_extra + 1);
    return TDN_OK;
}

tdn_status tdn_epilogue_make(tdn_epilogue *ep, tdn_map_program **program, const tdn_group *g,
                             int first, tdn_arena *arena, tdn_error *error)
{
    *program = NULL;
    TDN_TRY(tdn_epilogue_begin(ep, g, first, error));
    if (!g->expr || is_compiled_in(ep, g))
        return TDN_OK;
    return tdn_epilogue_compile(ep, program, g, first, arena, error);
}

tdn_status tdn_epilogue_store(tdn_made *made, const void *fixed, size_t fixed_size,
                              const tdn_map_program *program, tdn_arena *arena, tdn_error *error)
{
    const size_t size = program ? tdn_map_program_size(program) : 0;
    made->args_size = fixed_size + size;
    made->args = tdn_arena_alloc(arena, 1, made->args_size);
    if (!made->args)
        return tdn_fail_nomem(error, "arguments of a step");
    memcpy(made->args, fixed, fixed_size);
    if (program)
        memcpy((char *)made->args + fixed_size, program, size);
    return TDN_OK;
}

static bool is_index(int32_t i, const tdn_epilogue *ep)
{
    return i == -1 || (i >= ep->first && i < ep->first + ep->n_extra);
}

tdn_status tdn_epilogue_check_bytes(const tdn_epilogue *ep, const void *rest, size_t rest_size,
                                    const tdn_view *in, int n_in, const tdn_view *out,
                                    tdn_error *error)
{
    if (ep->first < 0 || ep->n_extra < 0 || ep->n_extra >= TDN_EXPR_MAX_IN ||
        ep->n_extra != n_in - ep->first || !is_index(ep->bias, ep) || !is_index(ep->residual, ep))
        return tdn_fail(error, TDN_E_FORMAT, "a damaged epilogue");
    for (int i = ep->first; i < n_in; i++)
        TDN_TRY(check_extra(&in[i], out, error));
    if (ep->bias >= 0 &&
        (in[ep->bias].dtype != TDN_F32 || !tdn_epilogue_is_bias(&in[ep->bias], out)))
        return tdn_fail(error, TDN_E_FORMAT, "the bias of an epilogue is none");
    if (ep->residual >= 0 &&
        (in[ep->residual].dtype == TDN_BOOL || !tdn_epilogue_is_residual(&in[ep->residual], out)))
        return tdn_fail(error, TDN_E_FORMAT, "the residual of an epilogue is none");
    if (!ep->has_program)
        return rest_size == 0 ? TDN_OK
                              : tdn_fail(error, TDN_E_FORMAT, "arguments of the wrong size");
    TDN_TRY(tdn_map_program_check(rest, rest_size, error));
    const tdn_map_program *p = rest;
    if (p->n_in != ep->n_extra + 1 || p->n_out != 1)
        return tdn_fail(error, TDN_E_FORMAT, "a program of other operands than its epilogue");
    return TDN_OK;
}

tdn_status tdn_epilogue_check(const tdn_epilogue *ep, const void *rest, size_t rest_size,
                              const tdn_view *in, int n_in, const tdn_view *out, tdn_error *error)
{
    TDN_TRY(tdn_epilogue_check_bytes(ep, rest, rest_size, in, n_in, out, error));
    if (ep->residual >= 0 && in[ep->residual].dtype != TDN_F32 &&
        in[ep->residual].dtype != in[0].dtype)
        return tdn_fail(error, TDN_E_FORMAT,
                        "the residual of an epilogue is of another type than its operands");
    return TDN_OK;
}
