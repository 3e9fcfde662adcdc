/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The epilogue of products of integers. What quantised networks have there is compiled into the
 * kernels: sum * scale + bias + a residual, clamped, and for bytes rounded to another scale and
 * zero point. It is recognised here, with any part missing; anything else becomes a program.
 */
#include <math.h>

#include "backend/cpu/epilogue.h"
#include "backend/cpu/iconv.h"

static const tdn_requant identity = {.scale = -1, .factor = 1, .r_scale = 1, .out_scale = 1};

typedef struct recogniser {
    const tdn_expr *e;
    const tdn_group *g;
    tdn_requant *q;
    tdn_epilogue *ep;
    bool has_sum;
} recogniser;

/* The extra behind register `at`; NULL where it is none. */
static const tdn_view *extra_at(const recogniser *r, int at)
{
    const tdn_instr *in = &r->e->code[at];
    return in->op == TDN_X_INPUT && in->index > 0 ? &r->g->extra[in->index - 1] : NULL;
}

static int32_t operand_of(const recogniser *r, const tdn_view *extra)
{
    return r->ep->first + (int32_t)(extra - r->g->extra);
}

static bool is_sum(const recogniser *r, int at)
{
    return r->e->code[at].op == TDN_X_INPUT && r->e->code[at].index == 0;
}

static bool take_sum(recogniser *r, float factor)
{
    const bool again = r->has_sum;
    r->has_sum = true;
    r->q->factor = factor;
    return !again;
}

/* The sum times a vector along the channels. */
static bool take_scaled_sum(recogniser *r, int at)
{
    const tdn_instr *in = &r->e->code[at];
    if (in->op != TDN_X_MUL || (!is_sum(r, in->a) && !is_sum(r, in->b)))
        return false;
    const tdn_view *scale = extra_at(r, is_sum(r, in->a) ? in->b : in->a);
    if (!scale || scale->dtype != TDN_F32 || !tdn_epilogue_is_bias(scale, &r->g->out[0]))
        return false;
    r->q->scale = operand_of(r, scale);
    return take_sum(r, 1);
}

/* A bias, or a residual (x + offset) * scale. */
static bool take_extra(recogniser *r, const tdn_view *x, float scale, float offset)
{
    const tdn_view *out = &r->g->out[0];
    if (x->dtype == TDN_F32 && scale == 1 && offset == 0 && r->ep->bias < 0 &&
        tdn_epilogue_is_bias(x, out)) {
        r->ep->bias = operand_of(r, x);
        return true;
    }
    if (x->dtype == TDN_BOOL || r->ep->residual >= 0 || !tdn_epilogue_is_residual(x, out))
        return false;
    r->ep->residual = operand_of(r, x);
    r->q->r_scale = scale;
    r->q->r_offset = offset * scale;
    return true;
}

static bool take_term(recogniser *r, int at)
{
    float scale = 1, offset = 0;
    const tdn_instr *in = &r->e->code[at];
    if (in->op == TDN_X_ADD)
        return take_term(r, in->a) && take_term(r, in->b);
    if (take_scaled_sum(r, at))
        return true;
    int below = tdn_epilogue_peel(r->e, at, TDN_X_MUL, &scale);
    if (below >= 0)
        at = below;
    if (is_sum(r, at))
        return take_sum(r, scale);
    if ((below = tdn_epilogue_peel(r->e, at, TDN_X_SUB, &offset)) >= 0) {
        at = below;
        offset = -offset;
    } else if ((below = tdn_epilogue_peel(r->e, at, TDN_X_ADD, &offset)) >= 0) {
        at = below;
    }
    const tdn_view *extra = extra_at(r, at);
    return extra && take_extra(r, extra, scale, offset);
}

/* How a byte is made of y: out_zero + round(y * scale), clamped; otherwise y is rounded as it is.
 */
typedef struct rounding {
    float scale, zero, lo, hi;
} rounding;

static int peel_rounding(const tdn_expr *e, int at, rounding *b)
{
    rounding found = {.scale = 1, .lo = -INFINITY, .hi = INFINITY};
    int top = tdn_epilogue_peel_clamps(e, at, &found.lo, &found.hi);
    int below = tdn_epilogue_peel(e, top, TDN_X_ADD, &found.zero);
    top = below >= 0 ? below : top;
    *b = (rounding){.scale = 1, .lo = -INFINITY, .hi = INFINITY};
    if (e->code[top].op != TDN_X_ROUND)
        return at;
    *b = found;
    top = e->code[top].a;
    if ((below = tdn_epilogue_peel(e, top, TDN_X_MUL, &b->scale)) >= 0)
        return below;
    if ((below = tdn_epilogue_peel(e, top, TDN_X_DIV, &b->scale)) >= 0)
        b->scale = 1 / b->scale;
    return below >= 0 ? below : top;
}

/* Clamps to lo..hi, then to a..b, are one clamp. */
static void clamp_again(float *lo, float *hi, float a, float b)
{
    *lo = fminf(b, fmaxf(a, *lo));
    *hi = fminf(b, fmaxf(a, *hi));
}

/* Rounding keeps order, and integers as they are: what is clamped behind it can be before. */
static bool take_rounding(recogniser *r, const rounding *b)
{
    tdn_epilogue *ep = r->ep;
    const bool whole = b->zero == floorf(b->zero) && b->zero >= 0 && b->zero <= 255 &&
                       b->lo == floorf(b->lo) && b->hi == floorf(b->hi) && b->lo <= b->hi;
    if (!whole || !(b->scale > 0) || !isfinite(b->scale))
        return false;
    r->q->out_scale = b->scale;
    r->q->out_zero = (int32_t)b->zero;
    ep->lo *= b->scale;
    ep->hi *= b->scale;
    clamp_again(&ep->lo, &ep->hi, b->lo - b->zero, b->hi - b->zero);
    clamp_again(&ep->lo, &ep->hi, -b->zero, 255 - b->zero);
    return true;
}

static bool is_compiled_in(recogniser *r)
{
    rounding b;
    int at = tdn_epilogue_root(r->e);
    const tdn_dtype dtype = r->g->out[0].dtype;
    if (dtype == TDN_U8)
        at = peel_rounding(r->e, at, &b);
    at = tdn_epilogue_peel_clamps(r->e, at, &r->ep->lo, &r->ep->hi);
    return dtype != TDN_S32 && r->ep->lo <= r->ep->hi && take_term(r, at) && r->has_sum &&
           (dtype != TDN_U8 || take_rounding(r, &b));
}

tdn_status tdn_requant_make(tdn_requant *q, tdn_epilogue *ep, tdn_map_program **program,
                            const tdn_group *g, tdn_arena *arena, tdn_error *error)
{
    recogniser r = {.e = g->expr, .g = g, .q = q, .ep = ep};
    const int32_t x_zero = q->x_zero;
    const int first = 2;
    *program = NULL;
    *q = identity;
    q->x_zero = x_zero;
    TDN_TRY(tdn_epilogue_begin(ep, g, first, error));
    if (!g->expr && g->out[0].dtype == TDN_U8)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "bytes of sums that nothing scales");
    if (!g->expr || is_compiled_in(&r))
        return TDN_OK;
    *q = identity;
    q->x_zero = x_zero;
    return tdn_epilogue_compile(ep, program, g, first, arena, error);
}

tdn_status tdn_requant_check(const tdn_requant *q, const tdn_epilogue *ep, const void *rest,
                             size_t rest_size, const tdn_view *in, int n_in, const tdn_view *out,
                             tdn_error *error)
{
    if (ep->first != 2 || q->scale < -1 || (q->scale >= 0 && q->scale < 2) || q->scale >= n_in ||
        q->x_zero < 0 || q->x_zero > 255 || q->out_zero < 0 || q->out_zero > 255)
        return tdn_fail(error, TDN_E_FORMAT, "a damaged epilogue");
    TDN_TRY(tdn_epilogue_check_bytes(ep, rest, rest_size, in, n_in, out, error));
    if (q->scale >= 0 &&
        (in[q->scale].dtype != TDN_F32 || !tdn_epilogue_is_bias(&in[q->scale], out)))
        return tdn_fail(error, TDN_E_FORMAT, "the scale of an epilogue is none");
    return TDN_OK;
}
