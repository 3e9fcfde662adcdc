/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model in halves computes in float32: operators read their operands as floats and make floats,
 * and only what others see stays in halves, the inputs, outputs and states of the model, what a
 * Cast rounds, and what an operator insists on. Results are as exact as halves allow or more so,
 * and all kernels, and the precision that is asked for, are those of a model in float32.
 *
 * `scratch` of a value that became float32 is the half it was, without a producer until somebody
 * wants it; of a value in halves the float32 it is read as.
 */
#include <string.h>

#include "base/half.h"
#include "base/status.h"
#include "ops/dtype.h"
#include "passes/passes.h"

typedef struct widener {
    tdn_graph *g;
    tdn_error *error;
} widener;

static bool is_named(const tdn_node *n, const char *name)
{
    return !*n->op->domain && !strcmp(n->op->name, name);
}

/* Types of what it reads say what it means. */
static bool reads_types(const tdn_node *n)
{
    return n->op->custom || is_named(n, "CastLike") || is_named(n, "BitCast");
}

static bool has_halves(const tdn_node *n)
{
    bool some = false;
    for (int i = 0; i < n->n_in; i++)
        some |= n->in[i] && (tdn_is_half(n->in[i]->dtype) || n->in[i]->scratch);
    return some;
}

/* to = x in to's dtype. */
static tdn_status cast(widener *w, tdn_node *before, tdn_value *x, tdn_value *to,
                       const char *origin)
{
    tdn_node *n =
        tdn_graph_node(w->g, before, tdn_op_find("", "Cast", INT32_MAX), NULL, &x, 1, &to, 1);
    if (!n || !tdn_node_set_int(w->g, n, "to", tdn_dtype_to_onnx(to->dtype)))
        return tdn_fail_nomem(w->error, "a cast");
    n->origin = origin;
    return tdn_node_infer(w->g, n, w->error);
}

static tdn_value *new_value(widener *w, const tdn_value *like, tdn_dtype dtype)
{
    tdn_value *v = tdn_graph_value(w->g, NULL);
    if (v) {
        v->dtype = dtype;
        v->shape = like->shape;
    }
    return v;
}

/* Input i of n in float32. */
static tdn_status read_wide(widener *w, tdn_node *n, int i)
{
    tdn_value *v = n->in[i];
    if (!tdn_is_half(v->dtype))
        return TDN_OK;
    if (!v->scratch) {
        tdn_value *wide = new_value(w, v, TDN_F32);
        if (!wide)
            return tdn_fail_nomem(w->error, "a float32 value");
        TDN_TRY(cast(w, n, v, wide, n->origin));
        v->scratch = wide;
        wide->scratch = v;
    }
    tdn_node_set_input(n, i, v->scratch);
    return TDN_OK;
}

/* The inputs of n as they were in the model. */
static tdn_status read_halves(widener *w, tdn_node *n)
{
    for (int i = 0; i < n->n_in; i++) {
        tdn_value *v = n->in[i], *half = v ? v->scratch : NULL;
        if (!half || tdn_is_half(v->dtype))
            continue;
        if (half->kind == TDN_VALUE_NODE && !half->producer)
            TDN_TRY(cast(w, n, v, half, n->origin));
        tdn_node_set_input(n, i, half);
    }
    return TDN_OK;
}

/* An output that n makes in float32 now. */
static tdn_status follow(widener *w, tdn_node *n, tdn_value *v, tdn_dtype was)
{
    tdn_value *half = new_value(w, v, was);
    if (!half)
        return tdn_fail_nomem(w->error, "a value in halves");
    half->scratch = v;
    v->scratch = half;
    if (v->output < 0)
        return TDN_OK;
    TDN_TRY(cast(w, n->next, v, half, n->origin));
    tdn_node *reader = half->producer;
    tdn_graph_replace(w->g, v, half); /* the output; readers are set right as they are met */
    tdn_node_set_input(reader, 0, v);
    return TDN_OK;
}

/* Results whose extents are known at run time only are not computed with, nor cast. */
static bool is_bounded(const tdn_node *n)
{
    bool bounded = false;
    for (int i = 0; i < n->n_out; i++)
        bounded |= n->out[i] && n->out[i]->shape.bounded;
    return bounded;
}

/* It takes halves only: as it was in the model. */
static tdn_status leave(widener *w, tdn_node *n)
{
    TDN_TRY(read_halves(w, n));
    return tdn_node_infer(w->g, n, w->error);
}

static tdn_status widen(widener *w, tdn_node *n)
{
    enum { MAX_OUT = 64 };
    tdn_error refusal;
    tdn_dtype was[MAX_OUT];
    if (n->n_out > MAX_OUT || is_bounded(n))
        return read_halves(w, n);
    for (int i = 0; i < n->n_in; i++)
        if (n->in[i])
            TDN_TRY(read_wide(w, n, i));
    for (int i = 0; i < n->n_out; i++)
        was[i] = n->out[i] ? n->out[i]->dtype : TDN_DTYPE_NONE;
    tdn_infer io = tdn_infer_at(w->g, n, &refusal);
    const tdn_status status = n->op->infer ? n->op->infer(&io) : TDN_OK;
    if (status == TDN_E_NOMEM)
        return tdn_fail_nomem(w->error, "a widened node");
    if (status != TDN_OK)
        return leave(w, n);
    for (int i = 0; i < n->n_out; i++)
        if (n->out[i] && tdn_is_half(was[i]) && n->out[i]->dtype == TDN_F32)
            TDN_TRY(follow(w, n, n->out[i], was[i]));
    return TDN_OK;
}

/* Casts of what halves and floats hold alike: truths, as of spikes, and bytes. */
static bool is_exact(const tdn_node *n)
{
    const tdn_dtype from = n->in[0]->dtype;
    return n->out[0] && tdn_is_half(n->out[0]->dtype) &&
           (from == TDN_BOOL || from == TDN_U8 || from == TDN_S8);
}

static tdn_status widen_cast(widener *w, tdn_node *n)
{
    const tdn_dtype was = n->out[0]->dtype;
    if (!tdn_node_set_int(w->g, n, "to", tdn_dtype_to_onnx(TDN_F32)))
        return tdn_fail_nomem(w->error, "a cast");
    n->out[0]->dtype = TDN_F32;
    return follow(w, n, n->out[0], was);
}

static void clear(tdn_value *const *values, int n)
{
    for (int i = 0; i < n; i++)
        if (values[i])
            values[i]->scratch = NULL;
}

static void clear_all(const tdn_graph *g)
{
    clear(g->inputs, g->n_inputs);
    for (const tdn_node *n = g->first; n; n = n->next) {
        clear(n->in, n->n_in);
        clear(n->out, n->n_out);
    }
}

tdn_status tdn_pass_widen(tdn_graph *g, tdn_error *error)
{
    widener w = {g, error};
    tdn_status status = TDN_OK;
    if (tdn_graph_has_subgraph(g)) /* these read values by name */
        return TDN_OK;
    for (tdn_node *n = g->first, *next; n && status == TDN_OK; n = next) {
        next = n->next;
        if (is_named(n, "Cast"))
            status = is_exact(n) ? widen_cast(&w, n) : TDN_OK;
        else if (has_halves(n) && !reads_types(n))
            status = widen(&w, n);
        else if (has_halves(n))
            status = read_halves(&w, n);
    }
    clear_all(g);
    return status;
}
