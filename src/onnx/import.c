/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the parsed model to a graph with concrete shapes.
 *
 * Nodes are made in order and inferred at once, so a failure knows its node, constants are folded
 * when the next node asks for them, and an If whose condition has become constant is replaced by
 * the branch it takes. Names live in scopes: the main graph's, one for each branch taken, one for
 * each call of a function (which sees nothing outside).
 *
 * A scope's `targets` are values that somebody waits for, made before the body is: the graph's
 * outputs, the results of a call. A node that names one as its output produces it. Values that hang
 * on something unsupported are `unknown`; whoever reads one is left out.
 */
#include <limits.h>
#include <stdio.h>

#include "onnx/model.h"
#include "ops/op.h"

enum { MAX_NESTING = 48, MAX_NODES = 1 << 18 };

typedef struct bound_attr {
    const char *name;
    const onnx_attr *attr;
} bound_attr;

typedef struct scope {
    const struct scope *outer; /* where names that are not here are looked up; NULL: nowhere */
    const onnx_graph *graph;   /* whose initializers are seen; NULL: a function */
    tdn_names *values, *targets;
    const char *prefix; /* of the names of values and nodes made here */
    const tdn_onnx_opset *opsets;
    int32_t n_opsets;
    const bound_attr *attrs; /* of a call */
    int32_t n_attrs;
} scope;

typedef struct importer {
    tdn_onnx *model;
    tdn_graph *g;
    tdn_arena *arena;
    tdn_onnx_issues *issues;
    tdn_error *error;  /* never NULL: reasons of issues pass through it */
    tdn_value unknown; /* only its address matters */
    int nesting, n_nodes;
    bool has_named; /* the error names a node */
} importer;

static tdn_status nomem(const importer *im) { return tdn_fail_nomem(im->error, "the graph"); }

static tdn_status import_body(importer *im, const scope *s, const onnx_body *body);

/* ---- Issues ---------------------------------------------------------------------------------- */

static tdn_status add_issue(importer *im, const char *node, const char *op, const char *domain,
                            const char *reason)
{
    tdn_onnx_issue *items =
        tdn_onnx_grow(im->arena, im->issues->items, im->issues->n, sizeof *items);
    if (!items)
        return nomem(im);
    im->issues->items = items;
    tdn_onnx_issue *issue = &items[im->issues->n];
    *issue = (tdn_onnx_issue){
        .node = tdn_arena_strdup(im->arena, node),
        .op = tdn_arena_strdup(im->arena, op),
        .domain = tdn_arena_strdup(im->arena, domain),
        .reason = tdn_arena_strdup(im->arena, reason),
    };
    if (!issue->node || !issue->op || !issue->domain || !issue->reason)
        return nomem(im);
    im->issues->n++;
    return TDN_OK;
}

/* ---- Scopes ---------------------------------------------------------------------------------- */

static tdn_status open_scope(const importer *im, scope *s)
{
    s->values = tdn_names_create(im->arena);
    s->targets = tdn_names_create(im->arena);
    return s->values && s->targets ? TDN_OK : nomem(im);
}

static tdn_status bind(const importer *im, const scope *s, const char *name, tdn_value *v)
{
    return tdn_names_put(s->values, name, v) ? TDN_OK : nomem(im);
}

static tdn_status await(const importer *im, const scope *s, const char *name, tdn_value *v)
{
    return tdn_names_put(s->targets, name, v) ? TDN_OK : nomem(im);
}

static tdn_value *make_const(const importer *im, const char *name, const tdn_view *view)
{
    const tdn_shape shape = tdn_shape_make(view->rank, view->dims);
    return tdn_graph_const(im->g, name, view->dtype, &shape, view->data);
}

/* An initializer of the scope becomes a constant when it is first read; *v stays NULL where there
 * is none. */
static tdn_status find_initializer(importer *im, const scope *s, const char *name, tdn_value **v)
{
    onnx_tensor *tensor = s->graph ? tdn_names_find(s->graph->initializer_names, name) : NULL;
    onnx_sparse *sparse = s->graph ? tdn_names_find(s->graph->sparse_names, name) : NULL;
    tdn_view view;
    if (!tensor && !sparse)
        return TDN_OK;
    const tdn_status status = tensor ? tdn_onnx_tensor_view(im->model, tensor, &view, im->error)
                                     : tdn_onnx_sparse_view(im->model, sparse, &view, im->error);
    if (status == TDN_E_UNSUPPORTED) {
        TDN_TRY(add_issue(im, name, "Initializer", "", im->error->text));
        *v = &im->unknown;
    } else {
        TDN_TRY(status);
        *v = make_const(im, name, &view);
        if (!*v)
            return nomem(im);
    }
    return bind(im, s, name, *v);
}

static tdn_status look_up(importer *im, const scope *s, const char *name, tdn_value **v)
{
    *v = NULL;
    if (!name[0])
        return TDN_OK;
    for (const scope *at = s; at; at = at->outer) {
        *v = tdn_names_find(at->values, name);
        if (!*v)
            TDN_TRY(find_initializer(im, at, name, v));
        if (*v)
            return TDN_OK;
    }
    return tdn_fail(im->error, TDN_E_MODEL, "'%s' is made by no node, input or initializer", name);
}

/* A node's result under the name the model gives it: a value that is waited for, or a new one. */
static tdn_value *make_result(const importer *im, const scope *s, const char *name)
{
    tdn_value *target = tdn_names_find(s->targets, name);
    if (target)
        return target;
    const char *full = s->prefix[0] ? tdn_arena_printf(im->arena, "%s%s", s->prefix, name) : name;
    return full ? tdn_graph_value(im->g, full) : NULL;
}

static tdn_status bind_unknown(importer *im, const scope *s, const onnx_node *node)
{
    for (int32_t i = 0; i < node->n_out; i++)
        if (node->out[i][0])
            TDN_TRY(bind(im, s, node->out[i], &im->unknown));
    return TDN_OK;
}

/* What could not be done for want of support becomes an issue with the reason that stands in the
 * error. */
static tdn_status or_issue(importer *im, const scope *s, const onnx_node *node, const char *name,
                           tdn_status status)
{
    if (status != TDN_E_UNSUPPORTED)
        return status;
    TDN_TRY(add_issue(im, name, node->op, node->domain, im->error->text));
    return bind_unknown(im, s, node);
}

static const char *node_name(const importer *im, const scope *s, const onnx_node *node,
                             int32_t number)
{
    if (node->name[0])
        return s->prefix[0] ? tdn_arena_printf(im->arena, "%s%s", s->prefix, node->name)
                            : node->name;
    return tdn_arena_printf(im->arena, "%s%s_%d", s->prefix, node->op, number);
}

static int opset_of(const scope *s, const char *domain)
{
    for (int32_t i = 0; i < s->n_opsets; i++)
        if (strcmp(s->opsets[i].domain, domain) == 0)
            return (int)s->opsets[i].version;
    return -1;
}

/* ---- Attributes ------------------------------------------------------------------------------ */

/* What an attribute of a function's body stands for: itself, or what the call
 * gave. NULL: nothing. */
static const onnx_attr *resolve_attr(const scope *s, const onnx_attr *a)
{
    if (!a->ref || !a->ref[0])
        return a;
    for (; s; s = s->outer)
        for (int32_t i = 0; i < s->n_attrs; i++)
            if (strcmp(s->attrs[i].name, a->ref) == 0)
                return s->attrs[i].attr;
    return NULL;
}

static tdn_status attr_tensor(importer *im, const onnx_attr *a, tdn_attr *out)
{
    tdn_view *view = tdn_arena_alloc(im->arena, 1, sizeof *view);
    if (!view)
        return nomem(im);
    if (!a->tensor && !a->sparse)
        return tdn_fail(im->error, TDN_E_MODEL, "attribute '%s' has no tensor", a->name);
    TDN_TRY(a->type == ONNX_TENSOR && a->tensor
                ? tdn_onnx_tensor_view(im->model, a->tensor, view, im->error)
            : a->sparse
                ? tdn_onnx_sparse_view(im->model, a->sparse, view, im->error)
                : tdn_fail(im->error, TDN_E_MODEL, "attribute '%s' has no sparse tensor", a->name));
    out->kind = TDN_ATTR_TENSOR;
    out->tensor = view;
    return TDN_OK;
}

static tdn_status convert_attr(importer *im, const char *name, const onnx_attr *a, tdn_attr *out)
{
    *out = (tdn_attr){.name = name};
    switch (a->type) {
    case ONNX_INT:
        out->kind = TDN_ATTR_INT;
        out->i = a->i;
        return TDN_OK;
    case ONNX_FLOAT:
        out->kind = TDN_ATTR_FLOAT;
        out->f = a->f;
        return TDN_OK;
    case ONNX_STRING:
        out->kind = TDN_ATTR_STRING;
        out->s = a->s;
        out->n = a->s_size;
        return TDN_OK;
    case ONNX_INTS:
        out->kind = TDN_ATTR_INTS;
        out->ints = a->ints;
        out->n = a->n_ints;
        return TDN_OK;
    case ONNX_FLOATS:
        out->kind = TDN_ATTR_FLOATS;
        out->floats = a->floats;
        out->n = a->n_floats;
        return TDN_OK;
    case ONNX_STRINGS:
        out->kind = TDN_ATTR_STRINGS;
        out->strings = a->strings;
        out->n = a->n_strings;
        return TDN_OK;
    case ONNX_TENSOR:
    case ONNX_SPARSE_TENSOR: return attr_tensor(im, a, out);
    default:
        return tdn_fail(im->error, TDN_E_UNSUPPORTED, "attribute '%s' of kind %d is not supported",
                        name, a->type);
    }
}

static tdn_status convert_attrs(importer *im, const scope *s, const onnx_node *node, tdn_attrs *out)
{
    tdn_attr *items = tdn_arena_alloc(im->arena, (size_t)node->n_attrs + 1, sizeof *items);
    if (!items)
        return nomem(im);
    *out = (tdn_attrs){items, 0};
    for (int32_t i = 0; i < node->n_attrs; i++) {
        const onnx_attr *a = resolve_attr(s, &node->attrs[i]);
        if (tdn_attr_find(out, node->attrs[i].name))
            return tdn_fail(im->error, TDN_E_MODEL, "two attributes are named '%s'",
                            node->attrs[i].name);
        if (!a || a->type == ONNX_GRAPH) /* no operator runs a graph: its shape rule says so */
            continue;
        TDN_TRY(convert_attr(im, node->attrs[i].name, a, &items[out->n]));
        out->n++;
    }
    return TDN_OK;
}

static const onnx_attr *find_attr(const scope *s, const onnx_node *node, const char *name)
{
    for (int32_t i = 0; i < node->n_attrs; i++)
        if (strcmp(node->attrs[i].name, name) == 0)
            return resolve_attr(s, &node->attrs[i]);
    return NULL;
}

/* ---- Operators ------------------------------------------------------------------------------- */

static tdn_status read_inputs(importer *im, const scope *s, const onnx_node *node, tdn_value ***out,
                              int *n, bool *known)
{
    tdn_value **in = tdn_arena_alloc(im->arena, (size_t)node->n_in + 1, sizeof *in);
    if (!in)
        return nomem(im);
    *n = 0;
    *known = true;
    for (int32_t i = 0; i < node->n_in; i++) {
        TDN_TRY(look_up(im, s, node->in[i], &in[i]));
        *known &= in[i] != &im->unknown;
        if (in[i])
            *n = i + 1;
    }
    *out = in;
    return TDN_OK;
}

static tdn_status make_results(importer *im, const scope *s, const onnx_node *node,
                               tdn_value ***out, int *n)
{
    tdn_value **results = tdn_arena_alloc(im->arena, (size_t)node->n_out + 1, sizeof *results);
    if (!results)
        return nomem(im);
    *n = 0;
    for (int32_t i = 0; i < node->n_out; i++) {
        if (!node->out[i][0])
            continue;
        results[i] = make_result(im, s, node->out[i]);
        if (!results[i])
            return nomem(im);
        *n = i + 1;
    }
    *out = results;
    return TDN_OK;
}

static tdn_status make_node(importer *im, const scope *s, const onnx_node *node, const char *name,
                            const tdn_op_def *op, tdn_value **in, int n_in)
{
    tdn_attrs attrs;
    tdn_value **out;
    int n_out;
    TDN_TRY(convert_attrs(im, s, node, &attrs));
    TDN_TRY(make_results(im, s, node, &out, &n_out));
    tdn_node *made = tdn_graph_node(im->g, NULL, op, name, in, n_in, out, n_out);
    if (!made)
        return nomem(im);
    made->attrs = attrs;
    const tdn_status status = tdn_node_infer(im->g, made, im->error);
    if (status != TDN_OK) {
        for (int i = 0; i < n_out; i++)
            if (out[i]) {
                out[i]->shape.rank = -1;
                out[i]->dtype = TDN_DTYPE_NONE;
            }
        tdn_graph_remove(im->g, made);
        return status;
    }
    for (int i = 0; i < n_out; i++)
        if (out[i])
            TDN_TRY(bind(im, s, node->out[i], out[i]));
    return TDN_OK;
}

static const tdn_op_def *find_custom(const importer *im, const onnx_node *node)
{
    for (int32_t i = 0; i < im->model->n_customs; i++) {
        const tdn_op_def *op = &im->model->customs[i];
        if (strcmp(op->name, node->op) == 0 && strcmp(op->domain, node->domain) == 0)
            return op;
    }
    return NULL;
}

/* Why there is no row for an operator. */
static const char *reason_for(const importer *im, const char *domain, const char *op, int opset)
{
    const tdn_op_def *row = tdn_op_find(domain, op, INT_MAX);
    if (!row)
        return "the operator is not supported";
    return tdn_arena_printf(
        im->arena, "the operator is supported as it is from opset %d on, not as in opset %d",
        row->since, opset);
}

static tdn_status import_operator(importer *im, const scope *s, const onnx_node *node,
                                  const char *name)
{
    tdn_value **in;
    int n_in, opset = opset_of(s, node->domain);
    bool known;
    TDN_TRY(read_inputs(im, s, node, &in, &n_in, &known));
    if (opset < 0 && !node->domain[0])
        return tdn_fail(im->error, TDN_E_MODEL, "the model does not say which opset it uses");
    opset = opset < 0 ? 1 : opset;
    const tdn_op_def *op = find_custom(im, node);
    op = op ? op : tdn_op_find(node->domain, node->op, opset);
    if (!op) {
        const char *reason = reason_for(im, node->domain, node->op, opset);
        TDN_TRY(reason ? add_issue(im, name, node->op, node->domain, reason) : nomem(im));
        return bind_unknown(im, s, node);
    }
    if (!known)
        return bind_unknown(im, s, node);
    return or_issue(im, s, node, name, make_node(im, s, node, name, op, in, n_in));
}

/* ---- Constant: a tensor in an attribute, of many kinds --------------------------------------- */

static tdn_status constant_view(importer *im, const onnx_attr *a, tdn_view *view)
{
    const bool is_ints = a->type == ONNX_INT || a->type == ONNX_INTS;
    const int64_t n = a->type == ONNX_INTS ? a->n_ints : a->type == ONNX_FLOATS ? a->n_floats : 1;
    const int rank = a->type == ONNX_INTS || a->type == ONNX_FLOATS;
    tdn_attr converted;
    TDN_TRY(convert_attr(im, a->name, a, &converted));
    if (converted.kind == TDN_ATTR_TENSOR) {
        *view = *converted.tensor;
        return TDN_OK;
    }
    if (!is_ints && a->type != ONNX_FLOAT && a->type != ONNX_FLOATS)
        return tdn_fail(im->error, TDN_E_UNSUPPORTED, "constants of strings are not supported");
    const size_t size = (size_t)n * (is_ints ? sizeof(int64_t) : sizeof(float));
    void *data = tdn_arena_alloc_data(im->arena, size);
    if (!data)
        return nomem(im);
    const void *from = a->type == ONNX_INT     ? (const void *)&a->i
                       : a->type == ONNX_FLOAT ? (const void *)&a->f
                       : is_ints               ? (const void *)a->ints
                                               : (const void *)a->floats;
    if (size)
        memcpy(data, from, size);
    *view = tdn_view_make(data, is_ints ? TDN_S64 : TDN_F32, rank, &n);
    return TDN_OK;
}

static tdn_status import_constant(importer *im, const scope *s, const onnx_node *node,
                                  const char *name)
{
    tdn_view view;
    if (node->n_attrs != 1 || node->n_out != 1 || node->n_in != 0)
        return tdn_fail(im->error, TDN_E_MODEL, "a Constant has one attribute and one output");
    const onnx_attr *a = resolve_attr(s, &node->attrs[0]);
    if (!a)
        return tdn_fail(im->error, TDN_E_MODEL, "the Constant's value is not given");
    const tdn_status status = constant_view(im, a, &view);
    if (status != TDN_OK)
        return or_issue(im, s, node, name, status);
    if (!node->out[0][0])
        return TDN_OK;
    const char *full =
        s->prefix[0] ? tdn_arena_printf(im->arena, "%s%s", s->prefix, node->out[0]) : node->out[0];
    tdn_value *v = full ? make_const(im, full, &view) : NULL;
    return v ? bind(im, s, node->out[0], v) : nomem(im);
}

/* ---- Bodies inside of a node: functions and branches ----------------------------------------- */

/* The node's results become what the inner scope waits for. Those of graph outputs stay what they
 * are. */
static tdn_status await_results(importer *im, const scope *s, const onnx_node *node,
                                const scope *inner, const char *inner_name, int32_t i)
{
    if (i >= node->n_out || !node->out[i][0])
        return TDN_OK;
    tdn_value *v = make_result(im, s, node->out[i]);
    return v ? await(im, inner, inner_name, v) : nomem(im);
}

/* What the body has made under inner_name is the node's output i. */
static tdn_status hand_out(importer *im, const scope *s, const onnx_node *node, const scope *inner,
                           const char *inner_name, int32_t i)
{
    tdn_value *v;
    if (i >= node->n_out || !node->out[i][0])
        return TDN_OK;
    TDN_TRY(look_up(im, inner, inner_name, &v));
    return v ? bind(im, s, node->out[i], v)
             : tdn_fail(im->error, TDN_E_MODEL, "output %d of the body has no name", i);
}

static tdn_status enter(importer *im, const char *what)
{
    if (im->nesting == MAX_NESTING)
        return tdn_fail(im->error, TDN_E_MODEL, "%s nests more than %d deep: does it call itself?",
                        what, MAX_NESTING);
    im->nesting++;
    return TDN_OK;
}

static tdn_status bind_call(importer *im, const scope *s, const onnx_node *node,
                            const onnx_function *fn, scope *inner)
{
    const size_t n = (size_t)node->n_attrs + (size_t)fn->n_defaults;
    bound_attr *attrs = tdn_arena_alloc(im->arena, n + 1, sizeof *attrs);
    if (!attrs)
        return nomem(im);
    inner->attrs = attrs;
    for (int32_t i = 0; i < node->n_attrs; i++) {
        const onnx_attr *a = resolve_attr(s, &node->attrs[i]);
        if (a)
            attrs[inner->n_attrs++] = (bound_attr){node->attrs[i].name, a};
    }
    for (int32_t i = 0; i < fn->n_defaults; i++) /* behind the given ones, which are found first */
        attrs[inner->n_attrs++] = (bound_attr){fn->defaults[i].name, &fn->defaults[i]};
    for (int32_t i = 0; i < fn->n_in; i++) {
        tdn_value *v = NULL;
        if (i < node->n_in)
            TDN_TRY(look_up(im, s, node->in[i], &v));
        if (v)
            TDN_TRY(bind(im, inner, fn->in[i], v));
    }
    for (int32_t i = 0; i < fn->n_out; i++)
        TDN_TRY(await_results(im, s, node, inner, fn->out[i], i));
    return TDN_OK;
}

static tdn_status import_call(importer *im, const scope *s, const onnx_node *node, const char *name,
                              const onnx_function *fn)
{
    scope inner = {
        .prefix = tdn_arena_printf(im->arena, "%s/", name),
        .opsets = fn->n_opsets ? fn->opsets : im->model->opsets,
        .n_opsets = fn->n_opsets ? fn->n_opsets : im->model->n_opsets,
    };
    if (!inner.prefix)
        return nomem(im);
    if (node->n_in > fn->n_in || node->n_out > fn->n_out)
        return tdn_fail(im->error, TDN_E_MODEL,
                        "%d inputs and %d outputs, where function '%s' has %d and %d", node->n_in,
                        node->n_out, fn->name, fn->n_in, fn->n_out);
    TDN_TRY(enter(im, "a function"));
    TDN_TRY(open_scope(im, &inner));
    TDN_TRY(bind_call(im, s, node, fn, &inner));
    const tdn_status status = import_body(im, &inner, &fn->body);
    im->nesting--;
    TDN_TRY(status);
    for (int32_t i = 0; i < fn->n_out; i++)
        TDN_TRY(hand_out(im, s, node, &inner, fn->out[i], i));
    return TDN_OK;
}

static tdn_status import_branch(importer *im, const scope *s, const onnx_node *node,
                                const onnx_graph *branch)
{
    scope inner = {.outer = s,
                   .graph = branch,
                   .prefix = s->prefix,
                   .opsets = s->opsets,
                   .n_opsets = s->n_opsets};
    if (branch->n_outputs < node->n_out)
        return tdn_fail(im->error, TDN_E_MODEL, "the branch has %d outputs, not %d",
                        branch->n_outputs, node->n_out);
    TDN_TRY(enter(im, "a graph"));
    TDN_TRY(open_scope(im, &inner));
    for (int32_t i = 0; i < branch->n_outputs; i++)
        TDN_TRY(await_results(im, s, node, &inner, branch->outputs[i].name, i));
    const tdn_status status = import_body(im, &inner, &branch->body);
    im->nesting--;
    TDN_TRY(status);
    for (int32_t i = 0; i < branch->n_outputs; i++)
        TDN_TRY(hand_out(im, s, node, &inner, branch->outputs[i].name, i));
    return TDN_OK;
}

static tdn_status import_if(importer *im, const scope *s, const onnx_node *node, const char *name)
{
    tdn_value *condition;
    if (node->n_in != 1)
        return tdn_fail(im->error, TDN_E_MODEL, "an If has one input");
    TDN_TRY(look_up(im, s, node->in[0], &condition));
    if (!condition)
        return tdn_fail(im->error, TDN_E_MODEL, "input 0 is missing");
    if (condition == &im->unknown)
        return bind_unknown(im, s, node);
    if (condition->kind != TDN_VALUE_CONST)
        return import_operator(im, s, node, name);
    if (condition->dtype != TDN_BOOL || tdn_shape_count(&condition->shape) != 1)
        return tdn_fail(im->error, TDN_E_MODEL, "the condition '%s' is not one bool",
                        condition->name);
    const char *which = *(const uint8_t *)condition->data ? "then_branch" : "else_branch";
    const onnx_attr *branch = find_attr(s, node, which);
    if (!branch || !branch->graph)
        return tdn_fail(im->error, TDN_E_MODEL, "attribute '%s' is missing", which);
    return import_branch(im, s, node, branch->graph);
}

/* ---- The walk -------------------------------------------------------------------------------- */

static tdn_status find_function(const importer *im, const onnx_node *node, const onnx_function **fn)
{
    *fn = NULL;
    if (im->model->n_functions == 0)
        return TDN_OK;
    const char *key =
        tdn_arena_printf(im->arena, "%s:%s:%s", node->domain, node->op, node->overload);
    if (!key)
        return nomem(im);
    *fn = tdn_names_find(im->model->function_names, key);
    return TDN_OK;
}

static tdn_status import_node(importer *im, const scope *s, const onnx_node *node, int32_t number)
{
    const onnx_function *fn;
    const char *name = node_name(im, s, node, number);
    if (!name)
        return nomem(im);
    if (++im->n_nodes > MAX_NODES)
        return tdn_fail(im->error, TDN_E_MODEL, "the model comes to more than %d nodes", MAX_NODES);
    if (find_custom(im, node))
        return import_operator(im, s, node, name);
    TDN_TRY(find_function(im, node, &fn));
    if (fn)
        return import_call(im, s, node, name, fn);
    if (!node->domain[0] && strcmp(node->op, "Constant") == 0)
        return import_constant(im, s, node, name);
    if (!node->domain[0] && strcmp(node->op, "If") == 0)
        return import_if(im, s, node, name);
    return import_operator(im, s, node, name);
}

/* Names the node itself and the outermost ones around it: a chain of calls may be long, the text is
 * not. */
static tdn_status fail_in_node(importer *im, tdn_status status, const onnx_node *node,
                               int32_t number)
{
    const bool worth_it = im->nesting < 2 || !im->has_named;
    im->has_named = true;
    if (!worth_it)
        return status;
    return tdn_fail_while(im->error, status, "importing node %d '%s' (%s)%s%s", number, node->name,
                          node->op, im->nesting ? "" : " of ", im->nesting ? "" : im->model->name);
}

static tdn_status import_body(importer *im, const scope *s, const onnx_body *body)
{
    for (int32_t k = 0; k < body->n_nodes; k++) {
        const int32_t i = body->order[k];
        const onnx_node *node = &body->nodes[i];
        const tdn_status status = import_node(im, s, node, i);
        if (status != TDN_OK)
            return fail_in_node(im, status, node, i);
    }
    return TDN_OK;
}

/* ---- Inputs ---------------------------------------------------------------------------------- */

static const tdn_onnx_shape *shape_given(const tdn_onnx_shape *shapes, int n, const char *input)
{
    for (int i = 0; i < n; i++)
        if (strcmp(shapes[i].input, input) == 0)
            return &shapes[i];
    return NULL;
}

/* With the names that there are. */
static tdn_status fail_given(const importer *im, const char *input)
{
    char names[400] = "";
    size_t at = 0;
    for (int32_t k = 0; k < im->model->n_inputs && at < sizeof names; k++)
        at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", k ? ", " : "",
                               im->model->inputs[k].name);
    return tdn_fail(im->error, TDN_E_ARG, "%s has no input '%s'; its inputs: %s", im->model->name,
                    input, names);
}

static tdn_status check_given(const importer *im, const tdn_onnx_shape *shapes, int n_shapes)
{
    for (int i = 0; i < n_shapes; i++) {
        bool found = false;
        for (int32_t k = 0; k < im->model->n_inputs; k++)
            found |= strcmp(im->model->inputs[k].name, shapes[i].input) == 0;
        if (!found)
            return fail_given(im, shapes[i].input);
    }
    return TDN_OK;
}

static const char *declared_text(const tdn_onnx_io *io, char *text, size_t size)
{
    const tdn_shape shape = tdn_shape_make(io->rank, io->dims);
    return tdn_shape_print(&shape, text, size);
}

static tdn_status check_shape(const importer *im, const tdn_onnx_io *io, const tdn_shape *shape)
{
    char want[192], have[192];
    bool fits = io->rank < 0 || io->rank == shape->rank;
    for (int i = 0; fits && i < shape->rank; i++)
        fits = shape->dims[i] >= 0 &&
               (io->rank < 0 || io->dims[i] < 0 || io->dims[i] == shape->dims[i]);
    if (fits)
        return TDN_OK;
    return tdn_fail(im->error, TDN_E_SHAPE, "input '%s' of %s takes the shape %s, not %s", io->name,
                    im->model->name, declared_text(io, want, sizeof want),
                    tdn_shape_print(shape, have, sizeof have));
}

/* What a named input has where its declaration has this symbol, else 1. */
static int64_t extent_of_symbol(const importer *im, const tdn_onnx_shape *shapes, int n_shapes,
                                const char *symbol)
{
    for (int32_t k = 0; symbol && n_shapes > 0 && k < im->model->n_inputs; k++) {
        const tdn_onnx_io *io = &im->model->inputs[k];
        const tdn_onnx_shape *given = shape_given(shapes, n_shapes, io->name);
        for (int i = 0; given && i < io->rank && i < given->shape.rank; i++)
            if (io->symbols[i] && strcmp(io->symbols[i], symbol) == 0)
                return given->shape.dims[i];
    }
    return 1;
}

static tdn_status input_shape(const importer *im, const tdn_onnx_io *io,
                              const tdn_onnx_shape *shapes, int n_shapes, tdn_shape *shape)
{
    const tdn_onnx_shape *given = shape_given(shapes, n_shapes, io->name);
    if (given) {
        *shape = given->shape;
        return check_shape(im, io, shape);
    }
    if (io->rank < 0)
        return tdn_fail(im->error, TDN_E_SHAPE,
                        "input '%s' of %s has no declared shape: one must be given", io->name,
                        im->model->name);
    *shape = tdn_shape_make(io->rank, io->dims);
    for (int i = 0; i < shape->rank; i++)
        if (shape->dims[i] < 0)
            shape->dims[i] = extent_of_symbol(im, shapes, n_shapes, io->symbols[i]);
    return TDN_OK;
}

static tdn_status add_input(importer *im, const scope *s, const tdn_onnx_io *io,
                            const tdn_onnx_shape *shapes, int n_shapes)
{
    tdn_shape shape;
    const bool has_type = io->dtype != TDN_DTYPE_NONE && io->dtype != TDN_STRING;
    if (!has_type || io->rank > TDN_MAX_RANK) {
        const char *reason =
            has_type ? tdn_arena_printf(im->arena, "rank %d is not supported", io->rank)
                     : tdn_arena_printf(im->arena, "type %s is not supported", io->type);
        TDN_TRY(reason ? add_issue(im, io->name, "Input", "", reason) : nomem(im));
        return bind(im, s, io->name, &im->unknown);
    }
    TDN_TRY(input_shape(im, io, shapes, n_shapes, &shape));
    if (!tdn_shape_fits(&shape))
        return tdn_fail(im->error, TDN_E_MODEL, "input '%s' is too large", io->name);
    tdn_value *v = tdn_graph_add_input(im->g, io->name, io->dtype, &shape);
    return v ? bind(im, s, io->name, v) : nomem(im);
}

/* ---- Outputs --------------------------------------------------------------------------------- */

static tdn_status await_outputs(importer *im, const scope *s)
{
    for (int32_t i = 0; i < im->model->graph.n_outputs; i++) {
        tdn_value *v = tdn_graph_value(im->g, im->model->graph.outputs[i].name);
        if (!v || !tdn_graph_set_output(im->g, v))
            return nomem(im);
        TDN_TRY(await(im, s, im->model->graph.outputs[i].name, v));
    }
    return TDN_OK;
}

/* An output that is an input, a constant or another output gets a node that copies it. */
static tdn_status finish_output(importer *im, const scope *s, int32_t i)
{
    const char *name = im->model->graph.outputs[i].name;
    tdn_value *made, *wanted = im->g->outputs[i];
    TDN_TRY(look_up(im, s, name, &made));
    if (made == wanted || made == &im->unknown)
        return TDN_OK;
    const tdn_op_def *identity = tdn_op_find("", "Identity", INT_MAX);
    if (!identity)
        return tdn_fail(im->error, TDN_E_INTERNAL, "there is no operator 'Identity'");
    tdn_node *node = tdn_graph_node(im->g, NULL, identity, NULL, &made, 1, &wanted, 1);
    if (!node)
        return nomem(im);
    return tdn_node_infer(im->g, node, im->error);
}

static tdn_status import_graph(importer *im, const tdn_onnx_shape *shapes, int n_shapes)
{
    scope main = {
        .graph = &im->model->graph,
        .prefix = "",
        .opsets = im->model->opsets,
        .n_opsets = im->model->n_opsets,
    };
    const int opset = opset_of(&main, "");
    im->g->opset = opset < 0 ? 0 : opset;
    TDN_TRY(check_given(im, shapes, n_shapes));
    TDN_TRY(open_scope(im, &main));
    for (int32_t i = 0; i < im->model->n_inputs; i++)
        TDN_TRY(add_input(im, &main, &im->model->inputs[i], shapes, n_shapes));
    TDN_TRY(await_outputs(im, &main));
    TDN_TRY(import_body(im, &main, &im->model->graph.body));
    for (int32_t i = 0; i < im->model->graph.n_outputs; i++)
        TDN_TRY(finish_output(im, &main, i));
    if (im->issues->n > 0)
        return TDN_OK;
    im->g->has_shapes = true;
    return tdn_graph_verify(im->g, im->error);
}

tdn_status tdn_onnx_graph(tdn_graph **g, tdn_onnx *model, tdn_arena *arena,
                          const tdn_onnx_shape *shapes, int n_shapes, tdn_onnx_issues *issues,
                          tdn_error *error)
{
    *g = NULL;
    *issues = (tdn_onnx_issues){NULL, 0};
    tdn_error local;
    importer im = {
        .model = model,
        .g = tdn_graph_create(arena, model->graph.name),
        .arena = arena,
        .issues = issues,
        .error = error ? error : &local,
    };
    if (!im.g)
        return nomem(&im);
    TDN_TRY(import_graph(&im, shapes, n_shapes));
    *g = im.g;
    return TDN_OK;
}
