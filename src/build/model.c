/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading a model, and what it says of its inputs and outputs. The file's bytes stay while the
 * model lives, because weights are used where they lie; so does the caller's memory.
 */
#include "build/model.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/status.h"
#include "passes/passes.h"

/* ---- Life ------------------------------------------------------------------------------------ */

static char *copy_text(const tdn_allocator *allocator, const char *text, size_t size)
{
    char *copy = tdn_alloc(allocator, size + 1, 1);
    if (copy) {
        memcpy(copy, text, size);
        copy[size] = 0;
    }
    return copy;
}

static tdn_status create(tdn_model **out, const char *path, const char *folder,
                         const tdn_model_options *options, tdn_error *error)
{
    *out = NULL;
    if (options && options->struct_size < sizeof *options)
        return tdn_fail(error, TDN_E_ARG, "options of size %u: use TDN_MODEL_OPTIONS_INIT",
                        options->struct_size);
    const tdn_allocator *allocator =
        options && options->allocator ? options->allocator : &tdn_allocator_libc;
    tdn_model *m = tdn_alloc_zero(allocator, sizeof *m, _Alignof(max_align_t));
    if (!m)
        return tdn_fail_nomem(error, "a model");
    m->own = *allocator;
    m->allocator = &m->own;
    m->log = options ? options->log : NULL;
    m->log_user = options ? options->log_user : NULL;
    const char *slash = path ? strrchr(path, '/') : NULL;
    const char *name = !path ? "model" : slash ? slash + 1 : path;
    m->path = copy_text(m->allocator, path ? path : name, strlen(path ? path : name));
    m->name = copy_text(m->allocator, name, strlen(name));
    if (path) /* "/" keeps its slash, a name alone lies in "." */
        m->folder = slash
                        ? copy_text(m->allocator, path, slash == path ? 1 : (size_t)(slash - path))
                        : copy_text(m->allocator, ".", 1);
    else if (folder)
        m->folder = copy_text(m->allocator, folder, strlen(folder));
    if (!m->path || !m->name || (!m->folder && (path || folder))) {
        tdn_model_free(m);
        return tdn_fail_nomem(error, "a model");
    }
    *out = m;
    return TDN_OK;
}

static void warn_of_opset(const tdn_model *m)
{
    const tdn_onnx_info info = tdn_onnx_get_info(m->onnx);
    for (int i = 0; m->log && i < info.n_opsets; i++) {
        char line[256];
        if (info.opsets[i].domain[0] || info.opsets[i].version <= TDN_ONNX_NEWEST_OPSET)
            continue;
        snprintf(line, sizeof line, "%s has opset %lld, operators are read as of opset %d", m->name,
                 (long long)info.opsets[i].version, TDN_ONNX_NEWEST_OPSET);
        m->log(m->log_user, TDN_LOG_WARNING, line);
    }
}

static tdn_status parse(tdn_model **model, tdn_model *m, tdn_status status,
                        const tdn_model_options *options, tdn_error *error)
{
    if (status == TDN_OK)
        status =
            tdn_onnx_parse(&m->onnx, m->data, m->size, m->path, m->folder, m->allocator, error);
    if (status == TDN_OK && options)
        status = tdn_onnx_set_operators(m->onnx, options->operators, options->n_operators, error);
    if (status != TDN_OK) {
        tdn_model_free(m);
        return status;
    }
    warn_of_opset(m);
    *model = m;
    return TDN_OK;
}

tdn_status tdn_model_load(tdn_model **model, const char *path, const tdn_model_options *options,
                          tdn_error *error)
{
    tdn_model *m;
    if (!model || !path)
        return tdn_fail(error, TDN_E_ARG, "a path, and where to put the model, are needed");
    *model = NULL;
    TDN_TRY(create(&m, path, NULL, options, error));
    const tdn_status status = tdn_map_open(&m->map, path, error);
    m->data = m->map.data;
    m->size = m->map.size;
    return parse(model, m, status, options, error);
}

tdn_status tdn_model_load_memory(tdn_model **model, const void *data, size_t size,
                                 const char *folder, const tdn_model_options *options,
                                 tdn_error *error)
{
    tdn_model *m;
    if (!model || (!data && size))
        return tdn_fail(error, TDN_E_ARG, "data, and where to put the model, are needed");
    *model = NULL;
    TDN_TRY(create(&m, NULL, folder, options, error));
    m->data = data;
    m->size = size;
    return parse(model, m, TDN_OK, options, error);
}

void tdn_model_free(tdn_model *m)
{
    if (!m)
        return;
    tdn_onnx_free(m->onnx);
    tdn_map_close(&m->map);
    const tdn_allocator allocator = m->own;
    tdn_free(&allocator, m->path);
    tdn_free(&allocator, m->name);
    tdn_free(&allocator, m->folder);
    tdn_free(&allocator, m);
}

/* ---- Identity -------------------------------------------------------------------------------- */

const char *tdn_model_name(const tdn_model *model) { return model->name; }

const char *tdn_model_digest(tdn_model *model)
{
    if (model->digest[0])
        return model->digest;
    tdn_sha256 hash;
    uint8_t digest[32];
    tdn_sha256_begin(&hash);
    tdn_sha256_add(&hash, model->data, model->size);
    const tdn_map *file;
    for (int i = 0; (file = tdn_onnx_file(model->onnx, i, NULL)) != NULL; i++)
        tdn_sha256_add(&hash, file->data, file->size);
    tdn_sha256_end(&hash, digest);
    tdn_sha256_text(digest, model->digest);
    return model->digest;
}

tdn_status tdn_model_identity(tdn_model *model, char graph[65], char weights[65], tdn_error *error)
{
    uint8_t nodes[32], elements[32];
    TDN_TRY(tdn_onnx_digest(model->onnx, nodes, elements, error));
    tdn_sha256_text(nodes, graph);
    tdn_sha256_text(elements, weights);
    return TDN_OK;
}

/* ---- Inputs and outputs ---------------------------------------------------------------------- */

int tdn_model_n_inputs(const tdn_model *model)
{
    return model ? tdn_onnx_n_inputs(model->onnx) : 0;
}
int tdn_model_n_outputs(const tdn_model *model)
{
    return model ? tdn_onnx_n_outputs(model->onnx) : 0;
}

static void describe_io(const tdn_onnx_io *from, tdn_model_io *io)
{
    io->name = from->name;
    io->dtype = from->dtype;
    io->rank = from->rank > TDN_MAX_RANK ? -1 : from->rank;
    for (int i = 0; i < TDN_MAX_RANK; i++) {
        io->dims[i] = i < io->rank ? from->dims[i] : 0;
        io->symbols[i] = i < io->rank ? from->symbols[i] : NULL;
    }
}

tdn_status tdn_model_input(const tdn_model *model, int index, tdn_model_io *io)
{
    if (!io || io->struct_size < sizeof *io || index < 0 || index >= tdn_model_n_inputs(model))
        return TDN_E_ARG;
    describe_io(tdn_onnx_input(model->onnx, index), io);
    return TDN_OK;
}

tdn_status tdn_model_output(const tdn_model *model, int index, tdn_model_io *io)
{
    if (!io || io->struct_size < sizeof *io || index < 0 || index >= tdn_model_n_outputs(model))
        return TDN_E_ARG;
    describe_io(tdn_onnx_output(model->onnx, index), io);
    return TDN_OK;
}

/* ---- Graphs ---------------------------------------------------------------------------------- */

/* Symbolic dims that nobody gave are 1, which may be what the model cannot be. */
static tdn_status blame_symbols(const tdn_model *model, const tdn_onnx_shape *given, int n_given,
                                tdn_error *error)
{
    for (int i = 0; i < tdn_onnx_n_inputs(model->onnx); i++) {
        const tdn_onnx_io *io = tdn_onnx_input(model->onnx, i);
        bool is_open = false;
        for (int k = 0; k < io->rank && k < TDN_MAX_RANK; k++)
            is_open |= io->dims[k] < 0;
        for (int k = 0; k < n_given; k++)
            is_open &= strcmp(given[k].input, io->name) != 0;
        if (is_open)
            return tdn_fail_while(error, TDN_E_MODEL,
                                  "taking the symbolic dims of input '%s' as 1: give its shape "
                                  "(--shapes=%s:...)",
                                  io->name, io->name);
    }
    return TDN_E_MODEL;
}

tdn_status tdn_model_import(tdn_graph **g, tdn_model *model, tdn_arena *arena,
                            const tdn_shape_set *shapes, tdn_onnx_issues *issues, tdn_error *error)
{
    const int n = shapes && shapes->specs ? shapes->n_specs : 0;
    tdn_onnx_shape *given = tdn_arena_alloc(arena, (size_t)(n > 0 ? n : 0) + 1, sizeof *given);
    if (!given)
        return tdn_fail_nomem(error, "shapes");
    for (int i = 0; i < n; i++) {
        const tdn_shape_spec *spec = &shapes->specs[i];
        if (!spec->input || spec->rank < 0 || spec->rank > TDN_MAX_RANK)
            return tdn_fail(error, TDN_E_ARG,
                            "a shape needs the name of an input and at most %d dims", TDN_MAX_RANK);
        given[i] = (tdn_onnx_shape){spec->input, tdn_shape_make(spec->rank, spec->dims)};
    }
    const tdn_status status = tdn_onnx_graph(g, model->onnx, arena, given, n, issues, error);
    return status == TDN_E_MODEL ? blame_symbols(model, given, n, error) : status;
}

static void log_issue(const tdn_model *model, const tdn_onnx_issue *issue)
{
    char line[1024];
    if (!model->log)
        return;
    snprintf(line, sizeof line, "unsupported: %s%s%s '%s': %s", issue->domain,
             issue->domain[0] ? "." : "", issue->op, issue->node, issue->reason);
    model->log(model->log_user, TDN_LOG_ERROR, line);
}

/* "3 nodes of m.onnx are not supported: Foo 'a' (why); Bar 'b' (why)", as many as fit. */
static tdn_status fail_issues(const tdn_model *model, const tdn_onnx_issues *issues,
                              tdn_error *error)
{
    tdn_error own;
    char *text = (error ? error : &own)->text;
    const size_t room = sizeof own.text;
    size_t n = (size_t)snprintf(text, room, "%d %s of %.512s not supported: ", issues->n,
                                issues->n == 1 ? "node" : "nodes", model->path);
    for (int i = 0; i < issues->n; i++) {
        const tdn_onnx_issue *issue = &issues->items[i];
        char one[700];
        const int size = snprintf(one, sizeof one, "%s%.100s%s%.100s '%.160s' (%.200s)",
                                  i ? "; " : "", issue->domain, issue->domain[0] ? "." : "",
                                  issue->op, issue->node, issue->reason);
        if (n + (size_t)size + 40 > room) {
            snprintf(text + n, room - n, "; and %d more", issues->n - i);
            break;
        }
        memcpy(text + n, one, (size_t)size + 1);
        n += (size_t)size;
    }
    for (int i = 0; i < issues->n; i++)
        log_issue(model, &issues->items[i]);
    return TDN_E_UNSUPPORTED;
}

tdn_status tdn_model_graph(tdn_graph **g, tdn_model *model, tdn_arena *arena,
                           const tdn_shape_set *shapes, tdn_error *error)
{
    tdn_onnx_issues issues;
    TDN_TRY(tdn_model_import(g, model, arena, shapes, &issues, error));
    return issues.n == 0 ? tdn_pass_widen(*g, error) : fail_issues(model, &issues, error);
}
