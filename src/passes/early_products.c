/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Products with constant weights, as attention has them before it.
 *
 * regroup-product: a (x w) = (a x) w. Where a has few rows (a mean over all positions was pushed
 * into it, or one query is asked), x w is never made for all rows of x; the heads of w are a batch
 * then. A bias of x w is added as often as a's rows sum to.
 *
 * split-product: where one product made queries, keys and values, and some of its columns are not
 * read any more, each slice that is becomes a product of its own.
 *
 * Both look through reshapes, transposes and slices by the strides that they make.
 */
#include <string.h>

#include "base/status.h"
#include "ops/emit.h"
#include "passes/passes.h"

/* A value as a view of what a product with constant weights (and a bias) made. */
typedef struct source {
    tdn_node *product; /* right operand constant, rank 2 */
    tdn_node *bias;    /* the map that adds a constant a column; NULL: none */
    tdn_view view;     /* of the product's dense result */
    int64_t offset;
    bool is_sliced;
    bool is_alone; /* nothing behind the last slice is read by others */
} source;

enum { MAX_DEPTH = 32 }; /* of readers that are looked through */

static bool is_product(const tdn_node *n)
{
    const tdn_value *w = n->op->core == TDN_CORE_MATMUL ? n->in[1] : NULL;
    return w && !n->expr && w->kind == TDN_VALUE_CONST && w->shape.rank == 2 &&
           w->dtype == TDN_F32 && n->in[0]->shape.rank >= 2 && !n->out[0]->shape.bounded;
}

/* A map x + c, c one number a column; which of the inputs is x, or -1. */
static int biased_input(const tdn_node *n)
{
    if (n->op->core != TDN_CORE_MAP || n->n_in != 2 || n->n_out != 1 ||
        n->out[0]->dtype != TDN_F32 || !tdn_expr_is_sum(n->expr))
        return -1;
    for (int x = 0; x < 2; x++) {
        const tdn_value *c = n->in[1 - x];
        const tdn_shape *y = &n->out[0]->shape;
        if (c->kind == TDN_VALUE_CONST && c->shape.rank >= 1 &&
            tdn_shape_equal(&n->in[x]->shape, y) &&
            tdn_shape_count(&c->shape) == y->dims[y->rank - 1] &&
            c->shape.dims[c->shape.rank - 1] == y->dims[y->rank - 1])
            return x;
    }
    return -1;
}

static bool trace(tdn_value *v, source *s)
{
    tdn_traced t;
    if (v->dtype != TDN_F32 || !tdn_trace_views(v, &t) || !t.of->producer)
        return false;
    tdn_node *n = t.of->producer;
    const int x = biased_input(n);
    tdn_node *product = x >= 0 ? n->in[x]->producer : n;
    if (!product || !is_product(product))
        return false;
    const bool is_alone = x < 0 || t.is_sliced || (n->in[x]->n_uses == 1 && n->in[x]->output < 0);
    *s = (source){.product = product,
                  .bias = x >= 0 ? n : NULL,
                  .view = t.view,
                  .offset = t.offset,
                  .is_sliced = t.is_sliced,
                  .is_alone = t.is_alone && is_alone};
    return true;
}

static int64_t columns_of(const source *s) { return s->product->in[1]->shape.dims[1]; }
static int64_t rows_of(const source *s)
{
    return tdn_shape_count(&s->product->out[0]->shape) / columns_of(s);
}

/* Some of w's columns, or of the bias: those at offset + the view's elements in order, [head][c][d]
 * of rows x columns w. */
static tdn_value *gather(tdn_infer *io, const tdn_value *w, int64_t rows, int64_t columns,
                         const tdn_view *at, int64_t offset, const tdn_shape *shape)
{
    float *data =
        tdn_arena_alloc_data(io->graph->arena, (size_t)tdn_shape_count(shape) * sizeof *data);
    if (!data)
        return NULL;
    const int64_t d = at->dims[at->rank - 1];
    int64_t k = 0;
    for (tdn_walk h = tdn_walk_begin(at->rank - 1, at->dims); h.more; tdn_walk_next(&h)) {
        const int64_t first = offset + tdn_walk_offset(&h, at);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < d; i++)
                data[k++] =
                    ((const float *)w->data)[r * columns + first + i * at->strides[at->rank - 1]];
    }
    return tdn_graph_const(io->graph, NULL, TDN_F32, shape, data);
}

static tdn_value *bias_of(const source *s)
{
    return s->bias ? s->bias->in[1 - biased_input(s->bias)] : NULL;
}

/* ---- split-product --------------------------------------------------------------------------- */

/* Is the slice all rows of some neighbouring columns? */
static bool is_columns(tdn_node *slice, source *s)
{
    if (slice->op->core != TDN_CORE_SLICE || !trace(slice->out[0], s))
        return false;
    const int64_t rows = rows_of(s), columns = columns_of(s);
    const int64_t count = tdn_shape_count(&slice->out[0]->shape), dims[2] = {rows, count / rows};
    return count > 0 && count % rows == 0 && tdn_view_reshape(&s->view, 2, dims) &&
           (rows == 1 || s->view.strides[0] == columns) &&
           (dims[1] == 1 || s->view.strides[1] == 1) && s->offset + dims[1] <= columns;
}

/* Is the value read by such slices alone, through views? *n_columns: how many they read together.
 */
static bool only_columns_read(tdn_value *v, int64_t *n_columns, int depth)
{
    source s;
    int n_left = v->n_uses;
    if (v->output >= 0 || depth == MAX_DEPTH)
        return false;
    for (tdn_node *u = v->producer->next; u && n_left > 0; u = u->next)
        for (int i = 0; i < u->n_in; i++) {
            if (u->in[i] != v)
                continue;
            n_left--;
            if (is_columns(u, &s)) {
                *n_columns += s.view.dims[1];
                continue;
            }
            const bool passes = u->op->core == TDN_CORE_RESHAPE ||
                                u->op->core == TDN_CORE_TRANSPOSE || biased_input(u) == i;
            if (!passes || !only_columns_read(u->out[0], n_columns, depth + 1))
                return false;
        }
    return true;
}

static tdn_status split(tdn_graph *g, tdn_node *slice, const source *s, tdn_error *error)
{
    tdn_infer io = tdn_infer_at(g, slice, error);
    const tdn_value *w = s->product->in[1];
    const int64_t n = s->view.dims[1];
    const tdn_shape part = tdn_shape_make(2, (int64_t[]){w->shape.dims[0], n});
    const tdn_shape line = tdn_shape_make(1, &n), y = slice->out[0]->shape;
    const tdn_view at = tdn_view_make(NULL, TDN_F32, 1, &n);
    tdn_value *v = gather(&io, w, w->shape.dims[0], columns_of(s), &at, s->offset, &part);
    v = v ? tdn_emit_matmul(&io, s->product->in[0], v) : NULL;
    if (v && s->bias) {
        tdn_value *b = gather(&io, bias_of(s), 1, columns_of(s), &at, s->offset, &line);
        v = b ? tdn_emit_binary(&io, TDN_X_ADD, v, b) : NULL;
    }
    if (v)
        v->producer->origin = tdn_origin_join(g, s->product->origin, slice->origin);
    TDN_TRY(tdn_emit_end(&io, tdn_emit_reshape(&io, v, &y)));
    tdn_graph_remove(g, slice);
    return TDN_OK;
}

tdn_status tdn_pass_split_product(tdn_graph *g, tdn_error *error)
{
    enum { UNKNOWN, SPLIT, WHOLE };
    for (tdn_node *n = g->first; n; n = n->next)
        n->mark = UNKNOWN;
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        source s;
        if (!is_columns(n, &s))
            continue;
        int64_t n_columns = 0;
        if (s.product->mark == UNKNOWN)
            s.product->mark =
                only_columns_read(s.product->out[0], &n_columns, 0) && n_columns < columns_of(&s)
                    ? SPLIT
                    : WHOLE;
        if (s.product->mark == SPLIT)
            TDN_TRY(split(g, n, &s, error));
    }
    return TDN_OK;
}

/* ---- regroup-product ------------------------------------------------------------------------- */

/* Is the right operand of n (batch..., rows of x, d) with batch and d among the columns? */
static bool is_regroupable(const tdn_node *n, source *s)
{
    if (n->op->core != TDN_CORE_MATMUL || n->expr || n->out[0]->dtype != TDN_F32 ||
        n->in[0]->shape.rank < 2 || n->in[1]->shape.rank < 2 || n->in[0]->shape.bounded ||
        !trace(n->in[1], s) || !s->is_alone)
        return false;
    const tdn_view *v = &s->view;
    const int64_t rows = rows_of(s), columns = columns_of(s);
    int64_t last = s->offset;
    for (int i = 0; i < v->rank; i++)
        if (i != v->rank - 2)
            last += (v->dims[i] - 1) * v->strides[i];
    return v->dims[v->rank - 2] == rows && rows > 1 && v->strides[v->rank - 2] == columns &&
           last < columns;
}

static bool pays(const tdn_node *n, const source *s)
{
    const tdn_shape *a = &n->in[0]->shape, *y = &n->out[0]->shape, *w = &s->product->in[1]->shape;
    const int64_t n_a = tdn_shape_batches(a) * a->dims[a->rank - 2], n_y = tdn_shape_count(y);
    const int64_t n_columns = tdn_view_count(&s->view) / rows_of(s);
    const int64_t now = rows_of(s) * w->dims[0] * n_columns + n_y * rows_of(s);
    const int64_t then = n_a * rows_of(s) * w->dims[0] + n_y * w->dims[0];
    return then < now / 2;
}

static tdn_status regroup(tdn_graph *g, tdn_node *n, const source *s, tdn_error *error)
{
    tdn_infer io = tdn_infer_at(g, n, error);
    tdn_value *a = n->in[0], *x = s->product->in[0], *w = s->product->in[1];
    const tdn_view *v = &s->view;
    const int64_t c = w->shape.dims[0], last_axis = a->shape.rank - 1;
    const tdn_shape dense = tdn_shape_make(2, (int64_t[]){rows_of(s), c});
    tdn_view at = *v; /* without the axis of rows */
    at.rank--;
    at.dims[at.rank - 1] = v->dims[v->rank - 1];
    at.strides[at.rank - 1] = v->strides[v->rank - 1];
    tdn_shape heads = tdn_shape_make(v->rank, v->dims), line = heads;
    heads.dims[v->rank - 2] = c;
    line.dims[v->rank - 2] = 1;
    tdn_value *ax = tdn_emit_matmul(&io, a, tdn_emit_reshape(&io, x, &dense));
    tdn_value *part = gather(&io, w, c, columns_of(s), &at, s->offset, &heads);
    tdn_value *y = ax && part ? tdn_emit_matmul(&io, ax, part) : NULL;
    if (y && s->bias) {
        tdn_value *b = gather(&io, bias_of(s), 1, columns_of(s), &at, s->offset, &line);
        tdn_value *sum = tdn_emit_reduce(&io, a, "sum", &last_axis, 1, true);
        tdn_value *more = b && sum ? tdn_emit_binary(&io, TDN_X_MUL, sum, b) : NULL;
        y = more ? tdn_emit_binary(&io, TDN_X_ADD, y, more) : NULL;
    }
    if (y)
        y->producer->origin = tdn_origin_join(g, s->product->origin, n->origin);
    const tdn_shape shape = n->out[0]->shape;
    TDN_TRY(tdn_emit_end(&io, tdn_emit_reshape(&io, y, &shape)));
    tdn_graph_remove(g, n);
    return TDN_OK;
}

tdn_status tdn_pass_regroup_product(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first, *next; n; n = next) {
        next = n->next;
        source s;
        int64_t n_columns = 0;
        if (is_regroupable(n, &s) && pays(n, &s) &&
            (!s.is_sliced || only_columns_read(s.product->out[0], &n_columns, 0)))
            TDN_TRY(regroup(g, n, &s, error));
    }
    return TDN_OK;
}
