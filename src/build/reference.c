/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reference evaluation of a model: its imported graph, node by node, each by its operator's
 * plain reference. No pass touches the graph, but that a node without a reference is rewritten into
 * ones that have one; so values keep the model's names, and all of them stay readable after a run.
 *
 * A value whose extent is known only while running gets its true dims from the reference that makes
 * it; nodes behind it are inferred again with those dims. Buffers are as large as the bounds.
 */
#include <limits.h>
#include <string.h>

#include "base/pool.h"
#include "base/status.h"
#include "build/model.h"
#include "ops/op.h"

/* More parts than threads, so that uneven parts even out. */
enum { PARTS_A_THREAD = 4 };

struct tdn_reference {
    const tdn_allocator *allocator; /* the model's */
    tdn_arena *arena;
    tdn_graph *g;
    tdn_pool *pool;
    tdn_view *views;    /* by value id: what each holds now */
    void **buffers;     /* by value id: of what nodes make */
    size_t *sizes;      /* of the buffers */
    tdn_shape *shapes;  /* by value id, as inferred before any run */
    tdn_view *in, *out; /* operands of the node at hand */
    void *scratch;
    size_t scratch_size;
    tdn_error *part_errors;
    int32_t n_parts_max;
    bool has_run;
};

/* ---- Preparing ------------------------------------------------------------------------------- */

/* Removes a node that was rewritten, when nobody reads it any more. */
static void drop_if_unread(tdn_graph *g, tdn_node *node)
{
    for (int i = 0; i < node->n_out; i++)
        if (node->out[i] && node->out[i]->n_uses > 0)
            return;
    tdn_graph_remove(g, node);
}

static tdn_status rewrite(tdn_graph *g, tdn_node *node, tdn_error *error)
{
    tdn_infer io = tdn_infer_at(g, node, error);
    const tdn_node *before = node->prev;
    tdn_status status = TDN_E_UNSUPPORTED;
    if (node->op->decompose)
        status = node->op->decompose(&io);
    else
        tdn_fail(error, status, "there is no reference for it");
    if (status == TDN_OK && node->prev == before && tdn_out(node, 0) &&
        tdn_out(node, 0)->n_uses > 0)
        status =
            tdn_fail(error, TDN_E_UNSUPPORTED, "there is neither a reference nor a rewrite for it");
    if (status != TDN_OK)
        return tdn_fail_while(error, status, "preparing node '%s' (%s)", node->name,
                              node->op->name);
    drop_if_unread(g, node);
    return TDN_OK;
}

/* What a rewrite inserts stands where the node stood, and is looked at next. */
static tdn_status rewrite_all(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *node = g->first; node;) {
        if (tdn_op_reference(node->op)) {
            node = node->next;
            continue;
        }
        tdn_node *before = node->prev, *after = node->next;
        TDN_TRY(rewrite(g, node, error));
        const bool stays = (after ? after->prev : g->last) == node;
        tdn_node *next = before ? before->next : g->first;
        if (stays && next == node)
            return tdn_fail(error, TDN_E_INTERNAL, "node '%s' was not rewritten", node->name);
        if (stays)
            return tdn_fail(error, TDN_E_INTERNAL, "node '%s' is still read after its rewrite",
                            node->name);
        node = next;
    }
    return TDN_OK;
}

static tdn_status make_buffer(tdn_reference *r, const tdn_value *v, tdn_error *error)
{
    int64_t count;
    size_t size = SIZE_MAX;
    if (tdn_dims_count(v->shape.dims, v->shape.rank, &count))
        size = tdn_dtype_size(v->dtype, (size_t)count);
    r->buffers[v->id] = size == SIZE_MAX ? NULL : tdn_alloc(r->allocator, size, TDN_ALIGN);
    if (!r->buffers[v->id])
        return tdn_fail_nomem(error, v->name);
    r->sizes[v->id] = size;
    return TDN_OK;
}

static tdn_status make_buffers(tdn_reference *r, tdn_error *error)
{
    int n_in = 1, n_out = 1;
    for (const tdn_node *node = r->g->first; node; node = node->next) {
        n_in = node->n_in > n_in ? node->n_in : n_in;
        n_out = node->n_out > n_out ? node->n_out : n_out;
        for (int i = 0; i < node->n_in; i++)
            if (node->in[i] && node->in[i]->kind == TDN_VALUE_CONST)
                r->views[node->in[i]->id] = tdn_value_view(node->in[i]);
        for (int i = 0; i < node->n_out; i++)
            if (node->out[i]) {
                r->shapes[node->out[i]->id] = node->out[i]->shape;
                TDN_TRY(make_buffer(r, node->out[i], error));
            }
    }
    r->in = tdn_arena_alloc(r->arena, (size_t)n_in, sizeof *r->in);
    r->out = tdn_arena_alloc(r->arena, (size_t)n_out, sizeof *r->out);
    return r->in && r->out ? TDN_OK : tdn_fail_nomem(error, "the reference");
}

static tdn_status prepare(tdn_reference *r, tdn_model *model, const tdn_shape_set *shapes,
                          int n_threads, tdn_error *error)
{
    tdn_pool_options pool = TDN_POOL_OPTIONS_INIT;
    pool.n_threads = n_threads;
    pool.spin_us = 0;
    pool.allocator = r->allocator;
    TDN_TRY(tdn_model_graph(&r->g, model, r->arena, shapes, error));
    TDN_TRY(rewrite_all(r->g, error));
    TDN_TRY(tdn_graph_verify(r->g, error));
    TDN_TRY(tdn_pool_create(&r->pool, &pool, error));
    const size_t n = (size_t)r->g->n_values + 1;
    r->n_parts_max = PARTS_A_THREAD * tdn_pool_threads(r->pool);
    r->views = tdn_arena_alloc(r->arena, n, sizeof *r->views);
    r->buffers = tdn_arena_alloc(r->arena, n, sizeof *r->buffers);
    r->sizes = tdn_arena_alloc(r->arena, n, sizeof *r->sizes);
    r->shapes = tdn_arena_alloc(r->arena, n, sizeof *r->shapes);
    r->part_errors = tdn_arena_alloc(r->arena, (size_t)r->n_parts_max, sizeof *r->part_errors);
    if (!r->views || !r->buffers || !r->sizes || !r->shapes || !r->part_errors)
        return tdn_fail_nomem(error, "the reference");
    return make_buffers(r, error);
}

tdn_status tdn_reference_create(tdn_reference **reference, tdn_model *model,
                                const tdn_shape_set *shapes, int n_threads, tdn_error *error)
{
    if (!reference || !model || n_threads < 0)
        return tdn_fail(error, TDN_E_ARG,
                        "a model, where to put the reference, and a count of threads are needed");
    *reference = NULL;
    tdn_reference *r = tdn_alloc_zero(model->allocator, sizeof *r, _Alignof(max_align_t));
    if (!r)
        return tdn_fail_nomem(error, "the reference");
    r->allocator = model->allocator;
    r->arena = tdn_arena_create(r->allocator);
    const tdn_status status = r->arena ? prepare(r, model, shapes, n_threads, error)
                                       : tdn_fail_nomem(error, "the reference");
    if (status != TDN_OK) {
        tdn_reference_free(r);
        return status;
    }
    *reference = r;
    return TDN_OK;
}

void tdn_reference_free(tdn_reference *r)
{
    if (!r)
        return;
    tdn_pool_free(r->pool);
    for (int i = 0; r->buffers && i < r->g->n_values; i++)
        tdn_free(r->allocator, r->buffers[i]);
    tdn_free(r->allocator, r->scratch);
    tdn_arena_free(r->arena);
    tdn_free(r->allocator, r);
}

/* ---- Running --------------------------------------------------------------------------------- */

typedef struct job {
    tdn_reference *r;
    const tdn_ref_def *ref;
    tdn_ref_call call;
    size_t scratch_size;
    tdn_status *statuses; /* a part each */
} job;

static void run_part(void *user, size_t part, int thread)
{
    const job *j = user;
    tdn_ref_call call = j->call;
    call.part = (int)part;
    call.scratch = (char *)j->r->scratch + (size_t)thread * j->scratch_size;
    call.error = &j->r->part_errors[part];
    j->statuses[part] = j->ref->run(&call);
}

static tdn_status reserve_scratch(tdn_reference *r, size_t size, tdn_error *error)
{
    if (r->scratch && size <= r->scratch_size)
        return TDN_OK;
    tdn_free(r->allocator, r->scratch);
    r->scratch_size = size;
    r->scratch = tdn_alloc(r->allocator, size, TDN_ALIGN);
    return r->scratch ? TDN_OK : tdn_fail_nomem(error, "scratch");
}

static tdn_status evaluate(tdn_reference *r, const tdn_node *node, tdn_error *error)
{
    tdn_status statuses[PARTS_A_THREAD * 256];
    const int most = r->n_parts_max < PARTS_A_THREAD * 256 ? r->n_parts_max : PARTS_A_THREAD * 256;
    job j = {
        .r = r,
        .ref = tdn_op_reference(node->op),
        .call = {.in = r->in,
                 .n_in = node->n_in,
                 .out = r->out,
                 .n_out = node->n_out,
                 .attrs = &node->attrs,
                 .expr = node->expr,
                 .n_parts = 1,
                 .error = error},
        .statuses = statuses,
    };
    j.call.row = j.ref;
    if (j.ref->n_parts) {
        const int parts = j.ref->n_parts(&j.call);
        j.call.n_parts = parts < 1 ? 1 : parts < most ? parts : most;
    }
    size_t whole;
    j.scratch_size = j.ref->scratch_size ? j.ref->scratch_size(&j.call) : 0;
    if (j.scratch_size > SIZE_MAX / 2 ||
        !tdn_size_mul(j.scratch_size = tdn_round_up(j.scratch_size, TDN_ALIGN),
                      (size_t)tdn_pool_threads(r->pool), &whole))
        return tdn_fail_nomem(error, "scratch");
    TDN_TRY(reserve_scratch(r, whole, error));
    const bool acquired = j.call.n_parts > 1 && tdn_pool_acquire(r->pool);
    tdn_pool_for(acquired ? r->pool : NULL, (size_t)j.call.n_parts, run_part, &j);
    if (acquired)
        tdn_pool_release(r->pool);
    for (int i = 0; i < j.call.n_parts; i++)
        if (statuses[i] != TDN_OK)
            return tdn_fail(error, statuses[i], "%s", r->part_errors[i].text);
    return TDN_OK;
}

/* Where an input turned out shorter than its bound, the node's results do too. */
static tdn_status infer_again(tdn_reference *r, tdn_node *node, tdn_error *error)
{
    bool needed = false;
    for (int i = 0; i < node->n_in; i++) {
        tdn_value *v = node->in[i];
        if (!v || v->kind != TDN_VALUE_NODE || tdn_shape_equal(&v->shape, &r->shapes[v->id]))
            continue;
        needed = true;
    }
    if (!needed)
        return TDN_OK;
    tdn_infer io = tdn_infer_at(r->g, node, error);
    return node->op->infer ? node->op->infer(&io) : TDN_OK;
}

static tdn_status bind_operands(tdn_reference *r, const tdn_node *node, tdn_error *error)
{
    for (int i = 0; i < node->n_in; i++)
        r->in[i] = node->in[i] ? r->views[node->in[i]->id] : (tdn_view){0};
    for (int i = 0; i < node->n_out; i++) {
        const tdn_value *v = node->out[i];
        r->out[i] = (tdn_view){0};
        if (!v)
            continue;
        if (tdn_dtype_size(v->dtype, (size_t)tdn_shape_count(&v->shape)) > r->sizes[v->id])
            return tdn_fail(error, TDN_E_INTERNAL, "'%s' has outgrown its bound", v->name);
        r->out[i] = tdn_view_make(r->buffers[v->id], v->dtype, v->shape.rank, v->shape.dims);
    }
    return TDN_OK;
}

static tdn_status run_node(tdn_reference *r, tdn_node *node, tdn_error *error)
{
    TDN_TRY(infer_again(r, node, error));
    TDN_TRY(bind_operands(r, node, error));
    TDN_TRY(evaluate(r, node, error));
    for (int i = 0; i < node->n_out; i++) {
        tdn_value *v = node->out[i];
        if (!v)
            continue;
        r->views[v->id] = r->out[i];
        if (v->shape.bounded) /* the true extents are known now */
            v->shape = tdn_shape_make(r->out[i].rank, r->out[i].dims);
    }
    return TDN_OK;
}

static tdn_status bind_inputs(tdn_reference *r, const tdn_tensor *inputs, int n_inputs,
                              tdn_error *error)
{
    if (n_inputs != r->g->n_inputs)
        return tdn_fail(error, TDN_E_ARG, "%d inputs, where the model has %d", n_inputs,
                        r->g->n_inputs);
    for (int i = 0; i < n_inputs; i++) {
        const tdn_value *v = r->g->inputs[i];
        const tdn_tensor *t = &inputs[i];
        char want[192], have[192];
        if (t->dtype != v->dtype || !t->data || t->memory != TDN_MEMORY_HOST)
            return tdn_fail(error, TDN_E_ARG, "input '%s' takes %s in host memory", v->name,
                            tdn_dtype_name(v->dtype));
        if (t->rank < 0 || t->rank > TDN_MAX_RANK)
            return tdn_fail(error, TDN_E_ARG, "input '%s' has rank %d", v->name, t->rank);
        const tdn_shape shape = tdn_shape_make(t->rank, t->dims);
        if (!tdn_shape_equal(&shape, &v->shape))
            return tdn_fail(error, TDN_E_SHAPE, "input '%s' takes the shape %s, not %s", v->name,
                            tdn_shape_print(&v->shape, want, sizeof want),
                            tdn_shape_print(&shape, have, sizeof have));
        r->views[v->id] = tdn_view_make(t->data, t->dtype, t->rank, t->dims);
    }
    return TDN_OK;
}

tdn_status tdn_reference_run(tdn_reference *r, const tdn_tensor *inputs, int n_inputs,
                             tdn_error *error)
{
    if (!r || (!inputs && n_inputs))
        return tdn_fail(error, TDN_E_ARG, "a reference and its inputs are needed");
    r->has_run = false;
    TDN_TRY(bind_inputs(r, inputs, n_inputs, error));
    for (const tdn_node *node = r->g->first; node; node = node->next)
        for (int i = 0; i < node->n_out; i++)
            if (node->out[i])
                node->out[i]->shape = r->shapes[node->out[i]->id];
    for (tdn_node *node = r->g->first; node; node = node->next) {
        const tdn_status status = run_node(r, node, error);
        if (status != TDN_OK)
            return tdn_fail_while(error, status, "evaluating node '%s' (%s)", node->name,
                                  node->op->name);
    }
    r->has_run = true;
    return TDN_OK;
}

tdn_status tdn_reference_value(const tdn_reference *r, const char *name, tdn_tensor *value)
{
    const tdn_value *v = r && name && value ? tdn_graph_find(r->g, name) : NULL;
    if (!v || (v->kind != TDN_VALUE_CONST && !r->has_run))
        return TDN_E_ARG;
    const tdn_view view = v->kind == TDN_VALUE_CONST ? tdn_value_view(v) : r->views[v->id];
    if (view.dtype == TDN_DTYPE_NONE)
        return TDN_E_ARG; /* a value that is gone: nobody made it */
    *value = tdn_tensor_make(view.data, view.dtype, view.rank, view.dims);
    return TDN_OK;
}
