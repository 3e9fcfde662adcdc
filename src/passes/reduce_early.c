/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A sum or mean behind a matrix product, with only linear operators between them, is taken before
 * it: mean(A B) over rows of A is mean(A) B, so one row is multiplied instead of all. A convolution
 * over single positions is such a product. It goes through transposes, reshapes, affine maps and
 * sums of several values on the way, and through one product after another: a
 * classifier that averages over the positions of an attention layer needs neither the products with
 * the values nor the output projection at every position.
 *
 * Only where every value on the way is read by nothing else, so that no work is done twice.
 */
#include <string.h>

#include "base/status.h"
#include "ops/emit.h"
#include "passes/passes.h"

/* The axes that are summed away, all of an extent above 1. */
typedef struct axes {
    bool on[TDN_MAX_RANK];
} axes;

static bool is_empty(const axes *a, int rank)
{
    for (int i = 0; i < rank; i++)
        if (a->on[i])
            return false;
    return true;
}

/* ---- Through one operator -------------------------------------------------------------------- */

static axes through_transpose(const tdn_node *n, const axes *a)
{
    int rank;
    axes from = {{false}};
    const int64_t *perm = tdn_attr_ints(&n->attrs, "perm", &rank);
    for (int i = 0; i < rank; i++)
        from.on[perm[i]] = a->on[i];
    return from;
}

/* Groups of axes of equal extent on both sides, from the left: a group is summed away whole. */
static bool through_reshape(const tdn_node *n, const axes *a, axes *from)
{
    const tdn_shape *x = &n->in[0]->shape, *y = &n->out[0]->shape;
    *from = (axes){{false}};
    for (int i = 0, k = 0; i < x->rank || k < y->rank;) {
        const int i0 = i, k0 = k;
        if (!tdn_shape_group(x, y, &i, &k))
            return false;
        int n_on = 0, n_all = 0;
        for (int j = k0; j < k; j++) {
            n_on += a->on[j];
            n_all += y->dims[j] > 1;
        }
        if (n_on != 0 && n_on != n_all)
            return false;
        for (int j = i0; j < i; j++)
            from->on[j] = n_on != 0 && x->dims[j] > 1;
    }
    return true;
}

/* What a register is as a function of the inputs that vary, taken together. */
typedef enum degree { CONSTANT, LINEAR, AFFINE, OTHER } degree;

static degree sum_of(degree a, degree b)
{
    if (a == OTHER || b == OTHER)
        return OTHER;
    return a == b ? a : AFFINE;
}

static degree product_of(degree a, degree b)
{
    return a == CONSTANT ? b : b == CONSTANT ? a : OTHER;
}

static degree degree_of(const tdn_instr *in, const degree *regs, const bool *varies)
{
    const degree a = regs[in->a], b = regs[in->b], c = regs[in->c];
    const int n_args = tdn_expr_ops[in->op].n_args;
    switch (in->op) {
    case TDN_X_INPUT: return varies[in->index] ? LINEAR : CONSTANT;
    case TDN_X_STORE:
    case TDN_X_NEG: return a;
    case TDN_X_ADD:
    case TDN_X_SUB: return sum_of(a, b);
    case TDN_X_MUL: return product_of(a, b);
    case TDN_X_DIV: return b == CONSTANT ? a : OTHER;
    case TDN_X_FMA: return sum_of(product_of(a, b), c);
    default:
        return (n_args > 0 && a != CONSTANT) || (n_args > 1 && b != CONSTANT) ||
                       (n_args > 2 && c != CONSTANT)
                   ? OTHER
                   : CONSTANT;
    }
}

static degree degree_of_map(const tdn_expr *e, const bool *varies)
{
    degree regs[TDN_EXPR_MAX] = {CONSTANT}, result = OTHER;
    for (int i = 0; i < e->n_instr; i++) {
        regs[i] = degree_of(&e->code[i], regs, varies);
        if (e->code[i].op == TDN_X_STORE)
            result = regs[i];
    }
    return result;
}

/* Extent of an operand along axis i of the result it is broadcast to. */
static int64_t extent(const tdn_value *v, int i, int rank)
{
    const int k = i - (rank - v->shape.rank);
    return k < 0 ? 1 : v->shape.dims[k];
}

/* The map's inputs that vary along the axes, where the map is linear in all of them together
 * (affine will do for a mean): a sum of such is what it is, each by itself. */
static bool through_map(const tdn_node *n, const axes *a, bool is_mean, bool *varies)
{
    const tdn_shape *y = &n->out[0]->shape;
    bool any = false;
    if (n->n_out != 1 || n->n_in > TDN_EXPR_MAX_IN)
        return false;
    for (int k = 0; k < n->n_in; k++) {
        int n_on = 0, n_full = 0;
        for (int i = 0; i < y->rank; i++) {
            n_on += a->on[i];
            n_full += a->on[i] && extent(n->in[k], i, y->rank) == y->dims[i];
        }
        varies[k] = n_full > 0;
        any |= varies[k];
        if (n_full != 0 && n_full != n_on)
            return false;
    }
    const degree d = any ? degree_of_map(n->expr, varies) : OTHER;
    return d == LINEAR || (d == AFFINE && is_mean);
}

/* Axes of the result as axes of input k, which varies along them. */
static axes axes_of_input(const tdn_node *n, int k, const axes *a)
{
    const int rank = n->in[k]->shape.rank;
    axes from = {{false}};
    for (int i = 0; i < rank; i++)
        from.on[i] = a->on[i + n->out[0]->shape.rank - rank];
    return from;
}

/* A convolution over single positions is a product of each position; whole axes of them. */
static bool through_conv(const tdn_node *n, const axes *a, bool is_mean)
{
    return !a->on[0] && !a->on[1] && tdn_conv_is_pointwise(n) &&
           (is_mean || n->n_in < 3 || !n->in[2]);
}

/* Each axis belongs to one of the two sides: rows to the left, columns to the right, a batch axis
 * to the side that has it. */
static bool through_matmul(const tdn_node *n, const axes *a, axes *left, axes *right)
{
    const tdn_shape *p = &n->in[0]->shape, *q = &n->in[1]->shape, *y = &n->out[0]->shape;
    *left = *right = (axes){{false}};
    if (p->rank < 2 || q->rank < 2)
        return false;
    for (int i = 0; i < y->rank; i++) {
        const bool row = i == y->rank - 2, column = i == y->rank - 1;
        const bool in_p = row || (!column && extent(n->in[0], i, y->rank) > 1);
        const bool in_q = column || (!row && extent(n->in[1], i, y->rank) > 1);
        if (!a->on[i])
            continue;
        if (in_p && in_q)
            return false;
        if (in_p)
            left->on[i - (y->rank - p->rank)] = true;
        else
            right->on[i - (y->rank - q->rank)] = true;
    }
    return true;
}

/* ---- The way up ------------------------------------------------------------------------------ */

static bool is_on_the_way(const tdn_value *v)
{
    const tdn_node *n = v->producer;
    return n && v->n_uses == 1 && v->output < 0 && v->dtype == TDN_F32 && !v->shape.bounded &&
           (n->op->core == TDN_CORE_MAP || !n->expr);
}

/* Is there a product to be reached from v by linear operators alone? */
static bool reaches(const tdn_value *v, const axes *a, bool is_mean)
{
    axes from, other;
    bool varies[TDN_EXPR_MAX_IN], found = false;
    if (!is_on_the_way(v) || is_empty(a, v->shape.rank))
        return false;
    const tdn_node *n = v->producer;
    switch (n->op->core) {
    case TDN_CORE_TRANSPOSE:
        from = through_transpose(n, a);
        return reaches(n->in[0], &from, is_mean);
    case TDN_CORE_RESHAPE: return through_reshape(n, a, &from) && reaches(n->in[0], &from, is_mean);
    case TDN_CORE_MAP:
        if (!through_map(n, a, is_mean, varies))
            return false;
        for (int k = 0; k < n->n_in && !found; k++) {
            from = axes_of_input(n, k, a);
            found = varies[k] && reaches(n->in[k], &from, is_mean);
        }
        return found;
    case TDN_CORE_CONV: return through_conv(n, a, is_mean);
    case TDN_CORE_MATMUL:
        return through_matmul(n, a, &from, &other) &&
               (!is_empty(&from, n->in[0]->shape.rank) || !is_empty(&other, n->in[1]->shape.rank));
    default: return false;
    }
}

/* The new producer of v says that it does n's work, too. */
static tdn_value *in_place_of(tdn_infer *io, const tdn_node *n, tdn_value *v)
{
    if (v && v->producer)
        v->producer->origin = tdn_origin_join(io->graph, n->origin, io->node->origin);
    return v;
}

static tdn_value *reduce(tdn_infer *io, tdn_value *v, const axes *a, const char *kind);

static tdn_value *reduce_map(tdn_infer *io, const tdn_node *n, const axes *a, const char *kind)
{
    bool varies[TDN_EXPR_MAX_IN];
    tdn_value *in[TDN_EXPR_MAX_IN];
    through_map(n, a, !strcmp(kind, "mean"), varies);
    for (int k = 0; k < n->n_in; k++) {
        const axes from = axes_of_input(n, k, a);
        in[k] = varies[k] ? reduce(io, n->in[k], &from, kind) : n->in[k];
        if (!in[k])
            return NULL;
    }
    return in_place_of(io, n, tdn_emit_map(io, in, n->n_in, n->expr, TDN_F32));
}

static tdn_value *reduce_conv(tdn_infer *io, const tdn_node *n, const axes *a, const char *kind)
{
    tdn_value *in[3] = {reduce(io, n->in[0], a, kind), n->in[1], n->n_in > 2 ? n->in[2] : NULL};
    tdn_shape y = n->out[0]->shape;
    for (int i = 0; i < y.rank; i++)
        y.dims[i] = a->on[i] ? 1 : y.dims[i];
    return in[0] ? in_place_of(io, n, tdn_node_copy(io->graph, io->node, n, in, &y)) : NULL;
}

/* v summed away along the axes, which keep the extent 1. */
static tdn_value *reduce(tdn_infer *io, tdn_value *v, const axes *a, const char *kind)
{
    const tdn_node *n = v->producer;
    axes from, other;
    if (is_empty(a, v->shape.rank))
        return v;
    if (!reaches(v, a, !strcmp(kind, "mean"))) {
        int64_t list[TDN_MAX_RANK];
        int n_axes = 0;
        for (int i = 0; i < v->shape.rank; i++)
            if (a->on[i])
                list[n_axes++] = i;
        return tdn_emit_reduce(io, v, kind, list, n_axes, true);
    }
    if (n->op->core == TDN_CORE_TRANSPOSE) {
        int rank;
        from = through_transpose(n, a);
        tdn_value *x = reduce(io, n->in[0], &from, kind);
        x = tdn_emit_transpose(io, x, tdn_attr_ints(&n->attrs, "perm", &rank));
        return in_place_of(io, n, x);
    }
    if (n->op->core == TDN_CORE_RESHAPE) {
        tdn_shape y = v->shape;
        for (int i = 0; i < y.rank; i++)
            y.dims[i] = a->on[i] ? 1 : y.dims[i];
        through_reshape(n, a, &from);
        return in_place_of(io, n, tdn_emit_reshape(io, reduce(io, n->in[0], &from, kind), &y));
    }
    if (n->op->core == TDN_CORE_MAP)
        return reduce_map(io, n, a, kind);
    if (n->op->core == TDN_CORE_CONV)
        return reduce_conv(io, n, a, kind);
    through_matmul(n, a, &from, &other);
    tdn_value *left = reduce(io, n->in[0], &from, kind);
    tdn_value *right = left ? reduce(io, n->in[1], &other, kind) : NULL;
    return in_place_of(io, n, tdn_emit_matmul(io, left, right));
}

static bool is_linear_reduce(const tdn_node *n)
{
    const char *kind = tdn_attr_string(&n->attrs, "kind", "");
    return n->op->core == TDN_CORE_REDUCE && !n->expr &&
           (!strcmp(kind, "mean") || !strcmp(kind, "sum"));
}

static tdn_status rewrite(tdn_graph *g, tdn_node *n, tdn_error *error)
{
    int n_axes;
    axes a = {{false}};
    const int64_t *list = tdn_attr_ints(&n->attrs, "axes", &n_axes);
    const char *kind = tdn_attr_string(&n->attrs, "kind", "");
    for (int i = 0; i < n_axes; i++)
        a.on[list[i]] = n->in[0]->shape.dims[list[i]] > 1;
    if (!reaches(n->in[0], &a, !strcmp(kind, "mean")))
        return TDN_OK;
    tdn_infer io = tdn_infer_at(g, n, error);
    const tdn_shape y = n->out[0]->shape;
    TDN_TRY(tdn_emit_end(&io, tdn_emit_reshape(&io, reduce(&io, n->in[0], &a, kind), &y)));
    tdn_graph_remove(g, n);
    return TDN_OK;
}

tdn_status tdn_pass_reduce_early(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        if (!is_linear_reduce(n))
            continue;
        const tdn_status status = rewrite(g, n, error);
        if (status != TDN_OK)
            return tdn_fail_while(error, status, "at node '%s'", n->name);
    }
    return TDN_OK;
}
