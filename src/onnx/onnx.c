/* SPDX-License-Identifier: Apache-2.0 */
/* A model's life, and what it says of itself. Parsing is complete when this returns: names are
 * checked, nodes sorted, external files read. Elements of tensors are looked at when a graph
 * needs them. */
#include "onnx/onnx.h"

#include "onnx/model.h"

/* The main graph's inputs that no initializer gives a value to. */
static tdn_status find_inputs(tdn_onnx *m, tdn_error *error)
{
    const onnx_graph *g = &m->graph;
    m->inputs = tdn_arena_alloc(m->arena, (size_t)g->n_inputs + 1, sizeof *m->inputs);
    if (!m->inputs)
        return tdn_fail_nomem(error, "the model");
    for (int32_t i = 0; i < g->n_inputs; i++)
        if (!tdn_names_find(g->initializer_names, g->inputs[i].name) &&
            !tdn_names_find(g->sparse_names, g->inputs[i].name))
            m->inputs[m->n_inputs++] = g->inputs[i];
    return TDN_OK;
}

static tdn_status order_functions(tdn_onnx *m, tdn_error *error)
{
    for (int32_t i = 0; i < m->n_functions; i++) {
        onnx_function *fn = &m->functions[i];
        const char *key =
            tdn_arena_printf(m->arena, "%s:%s:%s", fn->domain, fn->name, fn->overload);
        if (!key)
            return tdn_fail_nomem(error, "the model");
        if (tdn_names_find(m->function_names, key))
            return tdn_fail(error, TDN_E_MODEL, "two functions are named '%s'", key);
        if (!tdn_names_put(m->function_names, key, fn))
            return tdn_fail_nomem(error, "the model");
        const tdn_status status = tdn_onnx_order_function(m, fn, error);
        if (status != TDN_OK)
            return tdn_fail_while(error, status, "reading function '%s'", fn->name);
    }
    return TDN_OK;
}

static tdn_status parse(tdn_onnx *m, size_t size, tdn_error *error)
{
    TDN_TRY(tdn_onnx_parse_model(m, (tdn_reader){m->data, m->data + size}, error));
    TDN_TRY(tdn_onnx_order_graph(m, &m->graph, error));
    TDN_TRY(order_functions(m, error));
    return find_inputs(m, error);
}

tdn_status tdn_onnx_set_operators(tdn_onnx *m, const tdn_operator *operators, int32_t n,
                                  tdn_error *error)
{
    TDN_TRY(tdn_op_customs(&m->customs, operators, n, m->arena, error));
    m->n_customs = n;
    return TDN_OK;
}

tdn_status tdn_onnx_parse(tdn_onnx **model, const uint8_t *data, size_t size, const char *name,
                          const char *folder, const tdn_allocator *allocator, tdn_error *error)
{
    static const uint8_t nothing;
    *model = NULL;
    tdn_onnx *m = tdn_alloc_zero(allocator, sizeof *m, _Alignof(max_align_t));
    if (!m)
        return tdn_fail_nomem(error, "the model");
    m->allocator = allocator ? *allocator : tdn_allocator_libc;
    m->data = data ? data : &nothing;
    m->arena = tdn_arena_create(allocator);
    m->name = m->arena ? tdn_arena_strdup(m->arena, name ? name : "the model") : NULL;
    m->folder = folder && m->name ? tdn_arena_strdup(m->arena, folder) : NULL;
    m->file_names = m->name ? tdn_names_create(m->arena) : NULL;
    m->function_names = m->file_names ? tdn_names_create(m->arena) : NULL;
    tdn_status status = TDN_OK;
    if (!m->function_names || (folder && !m->folder))
        status = tdn_fail_nomem(error, "the model");
    if (status == TDN_OK)
        status = parse(m, data ? size : 0, error);
    if (status != TDN_OK) {
        tdn_fail_while(error, status, "reading %s", name ? name : "the model");
        tdn_onnx_free(m);
        return status;
    }
    *model = m;
    return TDN_OK;
}

void tdn_onnx_free(tdn_onnx *model)
{
    if (!model)
        return;
    tdn_onnx_unmap_all(model);
    tdn_arena_free(model->arena);
    const tdn_allocator allocator = model->allocator;
    tdn_free(&allocator, model);
}

int tdn_onnx_n_inputs(const tdn_onnx *model) { return model->n_inputs; }
int tdn_onnx_n_outputs(const tdn_onnx *model) { return model->graph.n_outputs; }
const tdn_onnx_io *tdn_onnx_input(const tdn_onnx *model, int i) { return &model->inputs[i]; }
const tdn_onnx_io *tdn_onnx_output(const tdn_onnx *model, int i)
{
    return &model->graph.outputs[i];
}

const tdn_map *tdn_onnx_file(const tdn_onnx *model, int i, const char **path)
{
    if (i < 0 || i >= model->n_files)
        return NULL;
    if (path)
        *path = model->files[i]->path;
    return &model->files[i]->map;
}

static bool is_parameter(tdn_dtype dtype)
{
    return dtype == TDN_F32 || dtype == TDN_F16 || dtype == TDN_BF16 || dtype == TDN_F64 ||
           dtype == TDN_S8 || dtype == TDN_U8 || dtype == TDN_S4 || dtype == TDN_U4;
}

tdn_onnx_info tdn_onnx_get_info(const tdn_onnx *model)
{
    tdn_onnx_info info = {
        .ir_version = model->ir_version,
        .producer = model->producer,
        .producer_version = model->producer_version,
        .graph_name = model->graph.name,
        .opsets = model->opsets,
        .n_opsets = model->n_opsets,
        .n_nodes = model->graph.body.n_nodes,
        .n_functions = model->n_functions,
        .n_initializers = model->graph.n_initializers + model->graph.n_sparse,
    };
    for (int32_t i = 0; i < model->graph.n_initializers; i++) {
        const onnx_tensor *t = &model->graph.initializers[i];
        int64_t count;
        if (is_parameter(t->type->dtype) && t->rank <= TDN_MAX_RANK &&
            tdn_dims_count(t->dims, t->rank, &count) &&
            __builtin_add_overflow(info.n_parameters, count, &info.n_parameters))
            info.n_parameters = INT64_MAX;
    }
    return info;
}
