/* SPDX-License-Identifier: Apache-2.0 */
/* Looks through reshapes, transposes and slices, by the strides that they make. */
#include "base/status.h"
#include "passes/passes.h"

enum { MAX_VIEWS = 32 };

static bool is_view(const tdn_node *n)
{
    return n && (n->op->core == TDN_CORE_RESHAPE || n->op->core == TDN_CORE_TRANSPOSE ||
                 n->op->core == TDN_CORE_SLICE);
}

static bool is_only_reader(const tdn_value *v) { return v->n_uses == 1 && v->output < 0; }

static void permute(tdn_traced *t, const tdn_node *n)
{
    const tdn_view from = t->view;
    int rank;
    const int64_t *perm = tdn_attr_ints(&n->attrs, "perm", &rank);
    for (int i = 0; i < from.rank; i++) {
        t->view.dims[i] = from.dims[perm[i]];
        t->view.strides[i] = from.strides[perm[i]];
    }
}

static void slice(tdn_traced *t, const tdn_node *n)
{
    int rank;
    const int64_t *starts = tdn_attr_ints(&n->attrs, "starts", &rank);
    const int64_t *steps = tdn_attr_ints(&n->attrs, "steps", &rank);
    for (int i = 0; i < t->view.rank; i++) {
        t->offset += starts[i] * t->view.strides[i];
        t->view.strides[i] *= steps[i];
        t->view.dims[i] = n->out[0]->shape.dims[i];
    }
    t->is_sliced = true;
    t->is_alone = true;
}

bool tdn_trace_views(tdn_value *v, tdn_traced *t)
{
    tdn_value *path[MAX_VIEWS];
    int n = 0;
    for (; is_view(v->producer); v = v->producer->in[0]) {
        if (n == MAX_VIEWS || v->shape.bounded)
            return false;
        path[n++] = v;
    }
    *t = (tdn_traced){.of = v, .is_alone = is_only_reader(v)};
    t->view = tdn_view_make(NULL, v->dtype, v->shape.rank, v->shape.dims);
    while (n-- > 0) {
        const tdn_value *w = path[n];
        const tdn_node *node = w->producer;
        if (node->op->core == TDN_CORE_TRANSPOSE)
            permute(t, node);
        else if (node->op->core == TDN_CORE_SLICE)
            slice(t, node);
        else if (!tdn_view_reshape(&t->view, w->shape.rank, w->shape.dims))
            return false;
        t->is_alone &= is_only_reader(w);
    }
    return !v->shape.bounded;
}

bool tdn_trace_slice(const tdn_value *v, int64_t axis, tdn_value **of, int64_t *start)
{
    const tdn_node *n = v->producer;
    int rank, rank_steps;
    if (!n || n->op->core != TDN_CORE_SLICE)
        return false;
    const int64_t *starts = tdn_attr_ints(&n->attrs, "starts", &rank);
    const int64_t *steps = tdn_attr_ints(&n->attrs, "steps", &rank_steps);
    const tdn_shape *x = &n->in[0]->shape;
    if (rank != x->rank || rank_steps != rank || axis >= rank || x->bounded)
        return false;
    for (int i = 0; i < rank; i++)
        if (steps[i] != 1 || (i != axis && (starts[i] != 0 || x->dims[i] != v->shape.dims[i])))
            return false;
    *of = n->in[0];
    *start = starts[axis];
    return true;
}
