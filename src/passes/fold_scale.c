/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A map after a convolution or matmul with constant weights that begins with affine operations per
 * output channel (a bias, then a BatchNormalization: ((x + b) * s) + t) becomes x' + t' with x'
 * made by scaled weights. Coefficients are computed in double. Only where the map is the result's
 * only reader.
 */
#include <math.h>
#include <string.h>

#include "base/status.h"
#include "passes/passes.h"

typedef struct affine {
    int64_t n;         /* channels */
    double *mul, *add; /* the chain so far is mul[c] * x + add[c] */
    int reg;           /* the register that holds it */
} affine;

/* Value of register r for channel c, where r is a constant or an input that is constant per
 * channel. */
static bool per_channel(const tdn_node *map, int r, int channel_axis, int rank, int64_t n,
                        int64_t c, double *x)
{
    const tdn_instr *k = &map->expr->code[r];
    if (k->op == TDN_X_CONST) {
        *x = (double)k->imm;
        return true;
    }
    if (k->op != TDN_X_INPUT)
        return false;
    const tdn_value *v = map->in[k->index];
    if (v->kind != TDN_VALUE_CONST || v->dtype != TDN_F32)
        return false;
    int64_t count = tdn_shape_count(&v->shape);
    int axis = v->shape.rank - (rank - channel_axis); /* of v */
    if (count != 1 && (count != n || axis < 0 || v->shape.dims[axis] != n))
        return false;
    *x = (double)((const float *)v->data)[count == 1 ? 0 : c];
    return true;
}

static int count_uses(const tdn_expr *e, int r, int *at)
{
    int n = 0;
    for (int i = 0; i < e->n_instr; i++) {
        const tdn_instr *k = &e->code[i];
        int n_args = tdn_expr_ops[k->op].n_args;
        int uses =
            (n_args > 0 && k->a == r) + (n_args > 1 && k->b == r) + (n_args > 2 && k->c == r);
        if (uses)
            *at = i;
        n += uses;
    }
    return n;
}

/* Takes the next operation of the chain in, if it is affine per channel. */
static bool extend(const tdn_node *map, affine *f, int axis, int rank)
{
    int at = -1;
    if (count_uses(map->expr, f->reg, &at) != 1)
        return false;
    const tdn_instr *k = &map->expr->code[at];
    bool left = k->a == f->reg;
    int other = left ? k->b : k->a;
    double y = 0, z = 0;
    for (int pass = 0; pass < 2; pass++) /* first look, then do */
        for (int64_t c = 0; c < f->n; c++) {
            bool unary = k->op == TDN_X_NEG;
            if (!unary && !per_channel(map, other, axis, rank, f->n, c, &y))
                return false;
            if (k->op == TDN_X_FMA &&
                (k->c == f->reg || !per_channel(map, k->c, axis, rank, f->n, c, &z)))
                return false;
            double mul = f->mul[c], add = f->add[c];
            switch (k->op) {
            case TDN_X_ADD: add += y; break;
            case TDN_X_SUB:
                add = left ? add - y : y - add;
                mul = left ? mul : -mul;
                break;
            case TDN_X_MUL:
                add *= y;
                mul *= y;
                break;
            case TDN_X_DIV:
                if (!left)
                    return false;
                add /= y;
                mul /= y;
                break;
            case TDN_X_NEG:
                add = -add;
                mul = -mul;
                break;
            case TDN_X_FMA:
                add = add * y + z;
                mul *= y;
                break;
            default: return false;
            }
            if (!isfinite(mul) || !isfinite(add))
                return false;
            if (pass) {
                f->mul[c] = mul;
                f->add[c] = add;
            }
        }
    f->reg = at;
    return true;
}

static bool has_channels_second(const tdn_node *n)
{
    return n->op->core == TDN_CORE_CONV || n->op->core == TDN_CORE_GRAPHCONV;
}

static tdn_value *scaled_weights(tdn_graph *g, const tdn_node *n, const affine *f)
{
    const tdn_value *w = n->in[1];
    int64_t count = tdn_shape_count(&w->shape);
    float *data = tdn_arena_alloc_data(g->arena, (size_t)count * sizeof *data);
    if (!data)
        return NULL;
    const float *from = w->data;
    int64_t run = has_channels_second(n) ? count / f->n
                                         : 1; /* a channel's weights lie together, or n apart */
    for (int64_t i = 0; i < count; i++)
        data[i] = (float)((double)from[i] * f->mul[i / run % f->n]);
    return tdn_graph_const(g, NULL, TDN_F32, &w->shape, data);
}

/* The bias of a graph convolution, (node, channel), is scaled, too. */
static bool scale_bias(tdn_graph *g, tdn_node *n, const affine *f)
{
    const tdn_value *b = n->in[3];
    const int64_t count = tdn_shape_count(&b->shape);
    float *data = tdn_arena_alloc_data(g->arena, (size_t)count * sizeof *data);
    for (int64_t i = 0; data && i < count; i++)
        data[i] = (float)((double)((const float *)b->data)[i] * f->mul[i % f->n]);
    tdn_value *scaled = data ? tdn_graph_const(g, NULL, TDN_F32, &b->shape, data) : NULL;
    if (scaled)
        tdn_node_set_input(n, 3, scaled);
    return scaled != NULL;
}

/* The map with its chain replaced by input 0 + t, where t is a new last input. */
static bool rewrite(tdn_graph *g, tdn_node *map, int x, const affine *f, int axis, int rank)
{
    tdn_expr *e = tdn_arena_alloc(g->arena, 1, sizeof *e);
    float *shift = tdn_arena_alloc_data(g->arena, (size_t)f->n * sizeof *shift);
    if (!e || !shift)
        return false;
    int64_t dims[TDN_MAX_RANK];
    for (int i = axis; i < rank; i++)
        dims[i - axis] = i == axis ? f->n : 1;
    for (int64_t c = 0; c < f->n; c++)
        shift[c] = (float)f->add[c];
    tdn_shape shape = tdn_shape_make(rank - axis, dims);
    tdn_value *t = tdn_graph_const(g, NULL, TDN_F32, &shape, shift);
    int regs[TDN_EXPR_MAX];
    for (int i = 0; i < map->expr->n_instr; i++) {
        const tdn_instr *k = &map->expr->code[i];
        if (i == f->reg)
            regs[i] =
                tdn_expr_add(e, TDN_X_ADD, tdn_expr_input(e, x), tdn_expr_input(e, map->n_in), 0);
        else if (k->op == TDN_X_INPUT)
            regs[i] = tdn_expr_input(e, k->index);
        else if (k->op == TDN_X_CONST)
            regs[i] = tdn_expr_const(e, k->imm);
        else if (k->op == TDN_X_STORE) {
            regs[i] = regs[k->a];
            if (!tdn_expr_store(e, regs[k->a], k->index))
                return false;
        } else
            regs[i] = tdn_expr_add(e, k->op, regs[k->a], regs[k->b], regs[k->c]);
        if (regs[i] < 0)
            return false;
    }
    e->n_in = (uint16_t)(map->n_in + 1);
    if (!t || !tdn_node_append_input(g, map, t))
        return false;
    map->n_own_in = map->n_in;
    map->expr = e;
    return true;
}

static bool fold(tdn_graph *g, tdn_node *n, tdn_node *map)
{
    int rank = n->out[0]->shape.rank, axis = has_channels_second(n) ? 1 : rank - 1;
    int x = 0;
    while (map->in[x] != n->out[0])
        x++;
    affine f = {.n = n->out[0]->shape.dims[axis], .reg = -1};
    f.mul = tdn_arena_alloc(g->arena, (size_t)f.n, sizeof *f.mul);
    f.add = tdn_arena_alloc(g->arena, (size_t)f.n, sizeof *f.add);
    if (!f.mul || !f.add)
        return false;
    for (int64_t c = 0; c < f.n; c++)
        f.mul[c] = 1;
    for (int i = 0; i < map->expr->n_instr; i++)
        if (map->expr->code[i].op == TDN_X_INPUT && map->expr->code[i].index == x) {
            if (f.reg >= 0)
                return true;
            f.reg = i;
        }
    while (f.reg >= 0 && extend(map, &f, axis, rank))
        ;
    bool scales = false;
    for (int64_t c = 0; c < f.n; c++)
        scales |= f.mul[c] != 1;
    if (!scales)
        return true;
    tdn_value *w = scaled_weights(g, n, &f);
    if (!w || !rewrite(g, map, x, &f, axis, rank))
        return w != NULL;
    tdn_node_set_input(n, 1, w);
    return n->op->core != TDN_CORE_GRAPHCONV || scale_bias(g, n, &f);
}

static bool has_const_weights(const tdn_node *n)
{
    bool conv = has_channels_second(n), matmul = n->op->core == TDN_CORE_MATMUL;
    if ((!conv && !matmul) || n->expr || n->n_out != 1 || n->out[0]->n_uses != 1 ||
        n->out[0]->output >= 0)
        return false;
    const tdn_value *w = n->in[1];
    return w->kind == TDN_VALUE_CONST && w->dtype == TDN_F32 && (conv || w->shape.rank == 2) &&
           n->out[0]->shape.rank > 0;
}

tdn_status tdn_pass_fold_scale(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first; n; n = n->next) {
        if (!has_const_weights(n))
            continue;
        tdn_node *map = tdn_value_only_user(g, n->out[0]);
        if (map && map->op->core == TDN_CORE_MAP &&
            tdn_shape_equal(&map->out[0]->shape, &n->out[0]->shape) && !fold(g, n, map))
            return tdn_fail_nomem(error, "scaled weights");
    }
    return TDN_OK;
}
