/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where values lie. A place is a strided view of a storage; views of values are places in the same
 * storage, found here by arithmetic on strides alone.
 */
#include <string.h>

#include "base/status.h"
#include "lower/lowering.h"

void tdn_order_natural(int rank, int *order)
{
    for (int i = 0; i < rank; i++)
        order[i] = i;
}

void tdn_order_channels_last(int rank, int *order)
{
    tdn_order_natural(rank, order);
    if (rank < 3)
        return;
    for (int i = 1; i < rank; i++)
        order[i] = i + 1 < rank ? i + 1 : 1;
}

void tdn_order_of(const tdn_place *p, int *order)
{
    int rank = p->view.rank;
    tdn_order_natural(rank, order);
    for (int i = 1; i < rank; i++) /* insertion sort: stable, so equal strides keep their order */
        for (int k = i; k > 0; k--) {
            int a = order[k - 1], b = order[k];
            bool fixed =
                p->view.dims[a] == 1 || p->view.dims[b] == 1; /* their strides say nothing */
            if (fixed || p->view.strides[a] >= p->view.strides[b])
                break;
            order[k - 1] = b;
            order[k] = a;
        }
}

tdn_status tdn_storage_add(tdn_lowering *l, tdn_buffer_class cls, uint32_t index, size_t size,
                           const char *name, int32_t *storage)
{
    if (l->n_storages == l->storages_capacity) {
        int32_t capacity = l->storages_capacity ? l->storages_capacity * 2 : 256;
        tdn_storage *grown = tdn_arena_alloc(l->arena, (size_t)capacity, sizeof *grown);
        if (!grown)
            return tdn_fail_nomem(l->error, "buffers");
        if (l->n_storages)
            memcpy(grown, l->storages, (size_t)l->n_storages * sizeof *grown);
        l->storages = grown;
        l->storages_capacity = capacity;
    }
    l->storages[l->n_storages] = (tdn_storage){.cls = cls,
                                               .index = index,
                                               .size = size,
                                               .name = name ? name : "",
                                               .first = INT64_MAX,
                                               .last = -1};
    *storage = l->n_storages++;
    return TDN_OK;
}

/* Strides with the axes lying in `order`, the innermost a multiple of `pitch` apart. Returns how
 * many elements that spans. */
static int64_t set_strides(tdn_view *v, const int *order, int64_t pitch)
{
    int64_t stride = 1;
    for (int i = v->rank - 1; i >= 0; i--) {
        v->strides[order[i]] = stride;
        stride *= v->dims[order[i]];
        if (i == v->rank - 1)
            stride = (stride + pitch - 1) / pitch * pitch;
    }
    return stride;
}

static tdn_status new_pitched(tdn_lowering *l, tdn_dtype dtype, int rank, const int64_t *dims,
                              const int *order, int64_t pitch, tdn_place *place)
{
    *place = (tdn_place){.view = tdn_view_make(NULL, dtype, rank, dims)};
    int64_t count = tdn_view_count(&place->view);
    if (order && rank > 0)
        count = set_strides(&place->view, order, pitch);
    return tdn_storage_add(l, TDN_BUFFER_ARENA, 0, tdn_dtype_size(dtype, (size_t)count), NULL,
                           &place->storage);
}

tdn_status tdn_place_new(tdn_lowering *l, tdn_dtype dtype, int rank, const int64_t *dims,
                         const int *order, tdn_place *place)
{
    return new_pitched(l, dtype, rank, dims, order, 1, place);
}

/* ---- Rows of whole words, for products of integers ------------------------------------------- */

enum { WORD = 4 /* bytes */ };

static void order_with_last(int rank, int axis, int *order)
{
    int n = 0;
    for (int i = 0; i < rank; i++)
        if (i != axis)
            order[n++] = i;
    order[n] = axis;
}

void tdn_place_rows(tdn_lowering *l)
{
    for (const tdn_node *n = l->g->last; n; n = n->prev) {
        const tdn_value *x = tdn_in(n, 0);
        int rank;
        const int64_t *perm = tdn_attr_ints(&n->attrs, "perm", &rank);
        if (n->op->core == TDN_CORE_INTEGER_CONV || n->op->core == TDN_CORE_HALF_CONV)
            l->row_axis[x->id] = 1;
        else if (n->op->core == TDN_CORE_INTEGER_MATMUL || n->op->core == TDN_CORE_HALF_MATMUL)
            l->row_axis[x->id] = x->shape.rank - 1;
        else if (n->op->core == TDN_CORE_TRANSPOSE && perm && l->row_axis[n->out[0]->id] >= 0)
            l->row_axis[x->id] = (int32_t)perm[l->row_axis[n->out[0]->id]];
    }
}

/* Can rows along `axis` be read in words, the last one to its end? */
static bool has_words(const tdn_lowering *l, const tdn_place *p, int axis)
{
    const tdn_view *v = &p->view;
    const int64_t row = (v->dims[axis] + WORD - 1) / WORD * WORD;
    int64_t end = p->offset + row;
    if (v->strides[axis] != 1 && v->dims[axis] != 1)
        return false;
    for (int i = 0; i < v->rank; i++)
        if (i != axis)
            end += (v->dims[i] - 1) * v->strides[i];
    return row == v->dims[axis] || (size_t)end <= l->storages[p->storage].size;
}

tdn_status tdn_place_words(tdn_lowering *l, const tdn_value *v, int axis, tdn_place *place)
{
    TDN_TRY(tdn_place_of(l, v, place));
    if (has_words(l, place, axis))
        return TDN_OK;
    tdn_place *copy = &l->copies[axis == v->shape.rank - 1 ? 0 : 1][v->id];
    if (copy->storage < 0 || !tdn_arm_is_done(l, copy->arm) || !has_words(l, copy, axis)) {
        int order[TDN_MAX_RANK];
        order_with_last(v->shape.rank, axis, order);
        TDN_TRY(new_pitched(l, v->dtype, v->shape.rank, v->shape.dims, order, WORD, copy));
        copy->arm = l->arm;
        TDN_TRY(tdn_step_copy(l, place, copy));
    }
    *place = *copy;
    return TDN_OK;
}

tdn_status tdn_place_of(tdn_lowering *l, const tdn_value *v, tdn_place *place)
{
    if (!v) {
        *place = (tdn_place){.storage = -1};
        return TDN_OK;
    }
    tdn_place *p = &l->places[v->id];
    if (p->storage < 0 && v->kind == TDN_VALUE_CONST) {
        p->view = tdn_value_view(v);
        size_t size = tdn_dtype_size(v->dtype, (size_t)tdn_view_count(&p->view));
        TDN_TRY(tdn_storage_add(l, TDN_BUFFER_WEIGHT, UINT32_MAX, size, v->name, &p->storage));
        l->storages[p->storage].data = v->data;
    }
    if (p->storage < 0)
        return tdn_fail(l->error, TDN_E_INTERNAL, "value '%s' is read before it is written",
                        v->name);
    *place = *p;
    return TDN_OK;
}

/* ---- Views ----------------------------------------------------------------------------------- */

void tdn_place_permute(tdn_place *p, const int64_t *perm)
{
    tdn_view old = p->view;
    for (int i = 0; i < old.rank; i++) {
        p->view.dims[i] = old.dims[perm[i]];
        p->view.strides[i] = old.strides[perm[i]];
    }
}

void tdn_place_slice(tdn_place *p, const int64_t *starts, const int64_t *steps, const int64_t *dims)
{
    for (int i = 0; i < p->view.rank; i++) {
        p->offset += starts[i] * p->view.strides[i];
        p->view.strides[i] *= steps[i];
        p->view.dims[i] = dims[i];
    }
}

bool tdn_place_broadcast(tdn_place *p, int rank, const int64_t *dims)
{
    tdn_view out;
    if (!tdn_view_broadcast(&p->view, rank, dims, &out))
        return false;
    p->view = out;
    return true;
}

bool tdn_place_reshape(tdn_place *p, int rank, const int64_t *dims)
{
    return tdn_view_reshape(&p->view, rank, dims);
}

/* ---- Results --------------------------------------------------------------------------------- */

static bool is_view_op(const tdn_node *n)
{
    return n->op->core == TDN_CORE_TRANSPOSE || n->op->core == TDN_CORE_RESHAPE;
}

/* Is the value made by a step, so that it can be written anywhere? */
static bool made_by_step(const tdn_value *v)
{
    if (v->kind != TDN_VALUE_NODE || v->shape.bounded)
        return false;
    switch (v->producer->op->core) {
    case TDN_CORE_TRANSPOSE:
    case TDN_CORE_RESHAPE:
        return v->producer->in[0]->kind == TDN_VALUE_NODE; /* decided by what it reads */
    case TDN_CORE_SLICE:
    case TDN_CORE_EXPAND: return false;
    default: return true;
    }
}

void tdn_place_targets(tdn_lowering *l)
{
    for (const tdn_node *n = l->g->last; n; n = n->prev) {
        if (n->op->core == TDN_CORE_CONCAT && n->out[0]->dtype != TDN_S4 &&
            n->out[0]->dtype != TDN_U4)
            for (int i = 0; i < n->n_in; i++) {
                const tdn_value *v = n->in[i];
                if (made_by_step(v) && !l->target[v->id] && l->io_index[v->id] < 0)
                    l->target[v->id] = n;
            }
        for (int i = 1; n->op->core == TDN_CORE_EITHER && i < 3; i++) {
            const tdn_value *v = n->in[i];
            if (made_by_step(v) && v->n_uses == 1 && l->arms[l->arm_of[v->id]].either == n)
                l->target[v->id] = n;
        }
        if (is_view_op(n)) {
            const tdn_value *u = n->in[0], *w = n->out[0];
            bool wanted = l->io_index[w->id] >= 0 || l->target[w->id];
            if (wanted && made_by_step(u) && u->n_uses == 1 && l->io_index[u->id] < 0 &&
                !l->target[u->id])
                l->target[u->id] = n;
        }
    }
}

/* The place of input v in the concatenation n. */
static void place_in_concat(const tdn_node *n, const tdn_value *v, tdn_place *p)
{
    int64_t axis = tdn_attr_int(&n->attrs, "axis", 0);
    for (int i = 0; i < n->n_in && n->in[i] != v; i++)
        p->offset += n->in[i]->shape.dims[axis] * p->view.strides[axis];
    p->view.dims[axis] = v->shape.dims[axis];
}

/* The place that makes v, seen through the view n, lie at p. */
static bool place_before_view(const tdn_node *n, const tdn_value *v, tdn_place *p)
{
    if (n->op->core == TDN_CORE_RESHAPE)
        return tdn_place_reshape(p, v->shape.rank, v->shape.dims);
    int rank;
    const int64_t *perm = tdn_attr_ints(&n->attrs, "perm", &rank);
    tdn_view to = p->view;
    for (int i = 0; i < rank; i++) {
        p->view.dims[perm[i]] = to.dims[i];
        p->view.strides[perm[i]] = to.strides[i];
    }
    return true;
}

static void order_before(const tdn_node *n, const int *order, int rank, int *out)
{
    tdn_order_natural(n->out[0]->shape.rank, out);
    if (order && (n->op->core == TDN_CORE_CONCAT || n->op->core == TDN_CORE_EITHER))
        memcpy(out, order, (size_t)rank * sizeof *out);
}

tdn_status tdn_place_result(tdn_lowering *l, const tdn_value *v, const int *order, tdn_place *place)
{
    tdn_place *p = &l->places[v->id];
    if (p->storage >= 0) {
        *place = *p;
        return TDN_OK;
    }
    const tdn_node *target = l->target[v->id];
    if (target) {
        int target_order[TDN_MAX_RANK];
        order_before(target, order, v->shape.rank, target_order);
        TDN_TRY(tdn_place_result(l, target->out[0], target_order, p));
        bool ok = true;
        if (target->op->core == TDN_CORE_CONCAT)
            place_in_concat(target, v, p);
        else if (target->op->core != TDN_CORE_EITHER)
            ok = place_before_view(target, v, p);
        if (ok) {
            *place = *p;
            return TDN_OK;
        }
        p->storage = -1;
    }
    if (l->io_index[v->id] >= 0) {
        *p = (tdn_place){.view = tdn_view_make(NULL, v->dtype, v->shape.rank, v->shape.dims),
                         .bounded = v->shape.bounded};
        size_t size = tdn_dtype_size(v->dtype, (size_t)tdn_view_count(&p->view));
        TDN_TRY(tdn_storage_add(l, TDN_BUFFER_OUTPUT, (uint32_t)l->io_index[v->id], size, v->name,
                                &p->storage));
    } else if (l->row_axis[v->id] >= 0 && !v->shape.bounded) {
        int row_order[TDN_MAX_RANK];
        order_with_last(v->shape.rank, l->row_axis[v->id], row_order);
        TDN_TRY(new_pitched(l, v->dtype, v->shape.rank, v->shape.dims, row_order, WORD, p));
    } else {
        TDN_TRY(tdn_place_new(l, v->dtype, v->shape.rank, v->shape.dims,
                              v->shape.bounded ? NULL : order, p));
        p->bounded = v->shape.bounded;
        l->storages[p->storage].name = v->name;
    }
    *place = *p;
    return TDN_OK;
}
