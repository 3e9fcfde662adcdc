/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What makes a model the one it is: a hash of its nodes and one of its weights, so that what was
 * measured on it can be told to be stale. Names of nodes, documentation and metadata are left out,
 * and weights count by their elements, however they are stored: what computes the same in the same
 * words has the same hashes. Texts are hashed with their NUL, lists with their length, so that no
 * two models run together to the same bytes.
 */
#include "base/hash.h"
#include "onnx/model.h"

typedef struct digests {
    tdn_onnx *model;
    tdn_sha256 nodes, weights;
    tdn_error *error;
} digests;

static void add_text(digests *d, const char *text)
{
    tdn_sha256_add(&d->nodes, text ? text : "", strlen(text ? text : "") + 1);
}

static void add_int(digests *d, int64_t i) { tdn_sha256_add(&d->nodes, &i, sizeof i); }

static void add_ints(digests *d, const int64_t *items, int64_t n)
{
    add_int(d, n);
    if (n > 0)
        tdn_sha256_add(&d->nodes, items, (size_t)n * sizeof *items);
}

static void add_texts(digests *d, const char *const *items, int64_t n)
{
    add_int(d, n);
    for (int64_t i = 0; i < n; i++)
        add_text(d, items[i]);
}

/* Elements of types that Tendon lacks by their bytes as they stand. */
static tdn_status add_tensor(digests *d, onnx_tensor *t)
{
    tdn_view view;
    const tdn_status status = tdn_onnx_tensor_view(d->model, t, &view, d->error);
    add_text(d, t->name);
    add_text(d, t->type->name);
    add_ints(d, t->dims, t->rank < TDN_MAX_RANK ? t->rank : TDN_MAX_RANK);
    if (status == TDN_OK)
        tdn_sha256_add(&d->weights, view.data,
                       tdn_dtype_size(view.dtype, (size_t)tdn_view_count(&view)));
    else if (status == TDN_E_UNSUPPORTED)
        tdn_sha256_add(&d->weights, t->message.at, tdn_reader_left(&t->message));
    return status == TDN_E_UNSUPPORTED ? TDN_OK : status;
}

static tdn_status add_sparse(digests *d, onnx_sparse *s)
{
    add_ints(d, s->dims, s->rank < TDN_MAX_RANK ? s->rank : TDN_MAX_RANK);
    TDN_TRY(add_tensor(d, &s->values));
    return add_tensor(d, &s->indices);
}

static tdn_status add_graph(digests *d, const onnx_graph *g);

static tdn_status add_attr(digests *d, const onnx_attr *a)
{
    add_text(d, a->name);
    add_text(d, a->ref);
    add_int(d, a->type);
    add_int(d, a->i);
    tdn_sha256_add(&d->nodes, &a->f, sizeof a->f);
    add_int(d, a->s_size);
    if (a->s_size > 0)
        tdn_sha256_add(&d->nodes, a->s, (size_t)a->s_size);
    add_ints(d, a->ints, a->n_ints);
    add_int(d, a->n_floats);
    if (a->n_floats > 0)
        tdn_sha256_add(&d->nodes, a->floats, (size_t)a->n_floats * sizeof *a->floats);
    add_texts(d, a->strings, a->n_strings);
    if (a->tensor)
        TDN_TRY(add_tensor(d, a->tensor));
    if (a->sparse)
        TDN_TRY(add_sparse(d, a->sparse));
    return a->graph ? add_graph(d, a->graph) : TDN_OK;
}

static tdn_status add_body(digests *d, const onnx_body *body)
{
    add_int(d, body->n_nodes);
    for (int i = 0; i < body->n_nodes; i++) {
        const onnx_node *n = &body->nodes[i];
        add_text(d, n->domain);
        add_text(d, n->op);
        add_text(d, n->overload);
        add_texts(d, n->in, n->n_in);
        add_texts(d, n->out, n->n_out);
        add_int(d, n->n_attrs);
        for (int k = 0; k < n->n_attrs; k++)
            TDN_TRY(add_attr(d, &n->attrs[k]));
    }
    return TDN_OK;
}

static void add_ios(digests *d, const tdn_onnx_io *ios, int n)
{
    add_int(d, n);
    for (int i = 0; i < n; i++) {
        add_text(d, ios[i].name);
        add_text(d, ios[i].type);
        add_ints(d, ios[i].dims, ios[i].rank < TDN_MAX_RANK ? ios[i].rank : TDN_MAX_RANK);
    }
}

static tdn_status add_graph(digests *d, const onnx_graph *g)
{
    add_ios(d, g->inputs, g->n_inputs);
    add_ios(d, g->outputs, g->n_outputs);
    add_int(d, g->n_initializers);
    for (int i = 0; i < g->n_initializers; i++)
        TDN_TRY(add_tensor(d, &g->initializers[i]));
    add_int(d, g->n_sparse);
    for (int i = 0; i < g->n_sparse; i++)
        TDN_TRY(add_sparse(d, &g->sparse[i]));
    return add_body(d, &g->body);
}

static void add_opsets(digests *d, const tdn_onnx_opset *opsets, int n)
{
    add_int(d, n);
    for (int i = 0; i < n; i++) {
        add_text(d, opsets[i].domain);
        add_int(d, opsets[i].version);
    }
}

static tdn_status add_function(digests *d, const onnx_function *f)
{
    add_text(d, f->domain);
    add_text(d, f->name);
    add_text(d, f->overload);
    add_texts(d, f->in, f->n_in);
    add_texts(d, f->out, f->n_out);
    add_opsets(d, f->opsets, f->n_opsets);
    add_int(d, f->n_defaults);
    for (int i = 0; i < f->n_defaults; i++)
        TDN_TRY(add_attr(d, &f->defaults[i]));
    return add_body(d, &f->body);
}

tdn_status tdn_onnx_digest(tdn_onnx *model, uint8_t nodes[32], uint8_t weights[32],
                           tdn_error *error)
{
    digests d = {.model = model, .error = error};
    tdn_sha256_begin(&d.nodes);
    tdn_sha256_begin(&d.weights);
    add_opsets(&d, model->opsets, model->n_opsets);
    TDN_TRY(add_graph(&d, &model->graph));
    for (int i = 0; i < model->n_functions; i++)
        TDN_TRY(add_function(&d, &model->functions[i]));
    tdn_sha256_end(&d.nodes, nodes);
    tdn_sha256_end(&d.weights, weights);
    return TDN_OK;
}

/* ---- Looking for operators ------------------------------------------------------------------- */

static bool any_in_graph(const onnx_graph *g, tdn_onnx_is_fn *is);

static bool any_in_body(const onnx_body *body, tdn_onnx_is_fn *is)
{
    for (int i = 0; i < body->n_nodes; i++) {
        const onnx_node *n = &body->nodes[i];
        if (is(n->domain, n->op))
            return true;
        for (int k = 0; k < n->n_attrs; k++)
            if (n->attrs[k].graph && any_in_graph(n->attrs[k].graph, is))
                return true;
    }
    return false;
}

static bool any_in_graph(const onnx_graph *g, tdn_onnx_is_fn *is)
{
    return any_in_body(&g->body, is);
}

bool tdn_onnx_any_node(const tdn_onnx *model, tdn_onnx_is_fn *is)
{
    bool any = any_in_graph(&model->graph, is);
    for (int i = 0; i < model->n_functions && !any; i++)
        any = any_in_body(&model->functions[i].body, is);
    return any;
}
