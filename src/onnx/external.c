/* SPDX-License-Identifier: Apache-2.0 */
/*
 * External data: files beside the model that tensors point into.
 *
 * A model is somebody else's text, and a location in it may name any file. So a location that is
 * absolute or has a
 * ".." in it is refused as such, and what is left is resolved (symbolic links may lead anywhere)
 * and must lie below the resolved folder of the model. The resolved path is what is opened.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "onnx/model.h"

/* Each map takes one of the process's limited number of them. */
enum { MAX_FILES = 16384 };

static bool has_parent_part(const char *path)
{
    while (*path) {
        const size_t n = strcspn(path, "/");
        if (n == 2 && path[0] == '.' && path[1] == '.')
            return true;
        path += n + (path[n] == '/');
    }
    return false;
}

static tdn_status resolve(const char *path, char resolved[PATH_MAX], tdn_error *error)
{
    char words[128];
    if (realpath(path, resolved))
        return TDN_OK;
    return tdn_fail(error, TDN_E_IO, "cannot open '%s': %s", path,
                    strerror_r(errno, words, sizeof words));
}

static tdn_status resolve_folder(tdn_onnx *model, tdn_error *error)
{
    char resolved[PATH_MAX];
    if (model->real_folder)
        return TDN_OK;
    TDN_TRY(resolve(model->folder[0] ? model->folder : ".", resolved, error));
    model->real_folder = tdn_arena_strdup(model->arena, strcmp(resolved, "/") == 0 ? "" : resolved);
    return model->real_folder ? TDN_OK : tdn_fail_nomem(error, "a path");
}

static tdn_status resolve_inside(tdn_onnx *model, const char *location, char resolved[PATH_MAX],
                                 tdn_error *error)
{
    if (!model->folder)
        return tdn_fail(error, TDN_E_MODEL, "external data '%s' of a model without a folder",
                        location);
    if (!location[0] || location[0] == '/' || has_parent_part(location))
        return tdn_fail(error, TDN_E_MODEL, "external data '%s' leaves the model's folder",
                        location);
    TDN_TRY(resolve_folder(model, error));
    const char *path = tdn_arena_printf(model->arena, "%s/%s", model->real_folder, location);
    if (!path)
        return tdn_fail_nomem(error, "a path");
    TDN_TRY(resolve(path, resolved, error));
    const size_t n = strlen(model->real_folder);
    if (strncmp(resolved, model->real_folder, n) != 0 || resolved[n] != '/')
        return tdn_fail(error, TDN_E_MODEL, "external data '%s' leaves the model's folder, to '%s'",
                        location, resolved);
    return TDN_OK;
}

tdn_status tdn_onnx_map_external(tdn_onnx *model, const char *location, const onnx_file **out,
                                 tdn_error *error)
{
    onnx_file *file = tdn_names_find(model->file_names, location);
    if (!file) {
        char resolved[PATH_MAX];
        TDN_TRY(resolve_inside(model, location, resolved, error));
        if (model->n_files == MAX_FILES)
            return tdn_fail(error, TDN_E_MODEL, "more than %d files of external data", MAX_FILES);
        onnx_file **files =
            tdn_onnx_grow(model->arena, model->files, model->n_files, sizeof *files);
        file = tdn_arena_alloc(model->arena, 1, sizeof *file);
        if (!files || !file || !tdn_names_put(model->file_names, location, file))
            return tdn_fail_nomem(error, "external data");
        file->path = location;
        TDN_TRY(tdn_map_open(&file->map, resolved, error));
        model->files = files;
        model->files[model->n_files++] = file;
    }
    *out = file;
    return TDN_OK;
}

void tdn_onnx_unmap_all(tdn_onnx *model)
{
    for (int32_t i = 0; i < model->n_files; i++)
        tdn_map_close(&model->files[i]->map);
}
