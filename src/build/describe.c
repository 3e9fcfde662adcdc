/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model as JSON: what it declares, what it comes to for a set of shapes, and all that is not
 * supported.
 *
 * Nodes are those of the imported graph: constants are folded and functions written out, so their
 * counts and operations are what a build starts from.
 */
#include <string.h>

#include "base/status.h"
#include "base/text.h"
#include "build/model.h"
#include "ops/op.h"

static void put_io(tdn_text *t, const tdn_onnx_io *io, const tdn_value *v)
{
    tdn_json_begin(t, NULL, '{');
    tdn_json_string(t, "name", io->name);
    tdn_json_string(t, "dtype", io->type);
    if (io->rank >= 0 && io->rank <= TDN_MAX_RANK) {
        tdn_json_begin(t, "declared", '[');
        for (int i = 0; i < io->rank; i++) {
            if (io->dims[i] >= 0)
                tdn_json_int(t, NULL, io->dims[i]);
            else
                tdn_json_string(t, NULL, io->symbols[i]);
        }
        tdn_json_end(t, ']');
    } else {
        tdn_json_string(t, "declared", NULL);
    }
    if (v && v->shape.rank >= 0)
        tdn_json_dims(t, "shape", v->shape.dims, v->shape.rank);
    tdn_json_end(t, '}');
}

static void put_all_io(tdn_text *t, const tdn_model *model, const tdn_graph *g)
{
    tdn_json_begin(t, "inputs", '[');
    for (int i = 0; i < tdn_onnx_n_inputs(model->onnx); i++) {
        const tdn_onnx_io *io = tdn_onnx_input(model->onnx, i);
        put_io(t, io, tdn_graph_find(g, io->name));
    }
    tdn_json_end(t, ']');
    tdn_json_begin(t, "outputs", '[');
    for (int i = 0; i < tdn_onnx_n_outputs(model->onnx); i++)
        put_io(t, tdn_onnx_output(model->onnx, i), g->outputs[i]);
    tdn_json_end(t, ']');
}

static void put_values(tdn_text *t, const char *key, tdn_value *const *values, int n)
{
    tdn_json_begin(t, key, '[');
    for (int i = 0; i < n; i++) {
        const tdn_value *v = values[i];
        if (!v)
            continue;
        tdn_json_begin(t, NULL, '{');
        tdn_json_string(t, "name", v->name);
        tdn_json_string(t, "dtype", tdn_dtype_name(v->dtype));
        tdn_json_dims(t, "shape", v->shape.dims, v->shape.rank);
        tdn_json_bool(t, "constant", v->kind == TDN_VALUE_CONST);
        tdn_json_end(t, '}');
    }
    tdn_json_end(t, ']');
}

static void put_nodes(tdn_text *t, const tdn_graph *g)
{
    tdn_json_begin(t, "nodes", '[');
    for (const tdn_node *node = g->first; node; node = node->next) {
        tdn_json_begin(t, NULL, '{');
        tdn_json_string(t, "name", node->name);
        tdn_json_string(t, "op", node->op->name);
        tdn_json_string(t, "domain", node->op->domain ? node->op->domain : "");
        tdn_json_int(t, "flops", tdn_node_flops(node));
        put_values(t, "inputs", node->in, node->n_in);
        put_values(t, "outputs", node->out, node->n_out);
        tdn_json_end(t, '}');
    }
    tdn_json_end(t, ']');
}

/* Nodes and operations of one operator. */
typedef struct tally {
    const tdn_op_def *op;
    int64_t n, flops;
} tally;

static void add_saturated(int64_t *sum, int64_t x)
{
    if (__builtin_add_overflow(*sum, x, sum))
        *sum = INT64_MAX;
}

/* Fills in the operators of the graph, in the order they are met, and returns their count. A model
 * uses few. */
static int count_operators(const tdn_graph *g, tally *tallies)
{
    int n = 0;
    for (const tdn_node *node = g->first; node; node = node->next) {
        int i = 0;
        while (i < n && tallies[i].op != node->op)
            i++;
        if (i == n)
            tallies[n++] = (tally){.op = node->op};
        tallies[i].n++;
        add_saturated(&tallies[i].flops, tdn_node_flops(node));
    }
    return n;
}

static int64_t put_operators(tdn_text *t, const tdn_graph *g)
{
    int n_rows = 0;
    while (tdn_op_row(n_rows))
        n_rows++;
    int64_t total = 0;
    tally *tallies = tdn_arena_alloc(g->arena, (size_t)n_rows, sizeof *tallies);
    if (!tallies) {
        t->failed = true;
        return 0;
    }
    const int n = count_operators(g, tallies);
    tdn_json_begin(t, "operators", '[');
    for (int i = 0; i < n; i++) {
        tdn_json_begin(t, NULL, '{');
        tdn_json_string(t, "op", tallies[i].op->name);
        tdn_json_string(t, "domain", tallies[i].op->domain ? tallies[i].op->domain : "");
        tdn_json_int(t, "nodes", tallies[i].n);
        tdn_json_int(t, "flops", tallies[i].flops);
        tdn_json_end(t, '}');
        add_saturated(&total, tallies[i].flops);
    }
    tdn_json_end(t, ']');
    return total;
}

static void put_issues(tdn_text *t, const tdn_onnx_issues *issues)
{
    tdn_json_begin(t, "unsupported", '[');
    for (int i = 0; i < issues->n; i++) {
        tdn_json_begin(t, NULL, '{');
        tdn_json_string(t, "node", issues->items[i].node);
        tdn_json_string(t, "op", issues->items[i].op);
        tdn_json_string(t, "domain", issues->items[i].domain);
        tdn_json_string(t, "reason", issues->items[i].reason);
        tdn_json_end(t, '}');
    }
    tdn_json_end(t, ']');
}

static void put_model(tdn_text *t, tdn_model *model, const tdn_graph *g,
                      const tdn_onnx_issues *issues)
{
    const tdn_onnx_info info = tdn_onnx_get_info(model->onnx);
    tdn_json_begin(t, NULL, '{');
    tdn_json_string(t, "kind", "model");
    tdn_json_string(t, "name", tdn_model_name(model));
    tdn_json_string(t, "sha256", tdn_model_digest(model));
    tdn_json_uint(t, "size", model->size);
    tdn_json_int(t, "ir_version", info.ir_version);
    tdn_json_string(t, "producer", info.producer);
    tdn_json_string(t, "producer_version", info.producer_version);
    tdn_json_string(t, "graph", info.graph_name);
    tdn_json_begin(t, "opsets", '[');
    for (int i = 0; i < info.n_opsets; i++) {
        tdn_json_begin(t, NULL, '{');
        tdn_json_string(t, "domain", info.opsets[i].domain);
        tdn_json_int(t, "version", info.opsets[i].version);
        tdn_json_end(t, '}');
    }
    tdn_json_end(t, ']');
    put_all_io(t, model, g);
    tdn_json_int(t, "initializers", info.n_initializers);
    tdn_json_int(t, "parameters", info.n_parameters);
    tdn_json_int(t, "functions", info.n_functions);
    tdn_json_int(t, "model_nodes", info.n_nodes);
    const int64_t flops = put_operators(t, g);
    tdn_json_int(t, "flops", flops);
    put_issues(t, issues);
    put_nodes(t, g);
    tdn_json_end(t, '}');
}

tdn_status tdn_model_describe(char **json, tdn_model *model, const tdn_shape_set *shapes,
                              tdn_error *error)
{
    if (!json || !model)
        return tdn_fail(error, TDN_E_ARG, "a model, and where to put the text, are needed");
    *json = NULL;
    tdn_arena *arena = tdn_arena_create(model->allocator);
    if (!arena)
        return tdn_fail_nomem(error, "the description");
    tdn_graph *g;
    tdn_onnx_issues issues;
    tdn_status status = tdn_model_import(&g, model, arena, shapes, &issues, error);
    if (status == TDN_OK) {
        tdn_text text = {0};
        put_model(&text, model, g, &issues);
        *json = tdn_text_take(&text);
        if (!*json)
            status = tdn_fail_nomem(error, "the description");
    }
    tdn_arena_free(arena);
    return status;
}
