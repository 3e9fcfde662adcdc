/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tensors from files of their own, and values for a model's inputs. What is handed out is one block
 * of its own, so that it outlives the file and whoever has it can write to it.
 */
#include <string.h>

#include "base/status.h"
#include "base/view.h"
#include "build/model.h"

static tdn_status own(tdn_tensor *tensor, const tdn_view *view, tdn_error *error)
{
    const size_t size = tdn_dtype_size(view->dtype, (size_t)tdn_view_count(view));
    void *data = tdn_alloc(NULL, size, TDN_ALIGN);
    if (!data)
        return tdn_fail_nomem(error, "a tensor");
    if (size)
        memcpy(data, view->data, size);
    *tensor = tdn_tensor_make(data, view->dtype, view->rank, view->dims);
    return TDN_OK;
}

tdn_status tdn_tensor_load_memory(tdn_tensor *tensor, const void *data, size_t size,
                                  tdn_error *error)
{
    tdn_view view;
    if (!tensor || (!data && size))
        return tdn_fail(error, TDN_E_ARG, "data, and where to put the tensor, are needed");
    *tensor = (tdn_tensor){.struct_size = sizeof *tensor};
    tdn_arena *arena = tdn_arena_create(NULL);
    if (!arena)
        return tdn_fail_nomem(error, "a tensor");
    tdn_status status = tdn_onnx_tensor_read(&view, data, size, arena, error);
    if (status == TDN_OK)
        status = own(tensor, &view, error);
    tdn_arena_free(arena);
    return status;
}

tdn_status tdn_tensor_load(tdn_tensor *tensor, const char *path, tdn_error *error)
{
    tdn_map map;
    if (!tensor || !path)
        return tdn_fail(error, TDN_E_ARG, "a path, and where to put the tensor, are needed");
    *tensor = (tdn_tensor){.struct_size = sizeof *tensor};
    TDN_TRY(tdn_map_open(&map, path, error));
    const tdn_status status = tdn_tensor_load_memory(tensor, map.data, map.size, error);
    tdn_map_close(&map);
    return status == TDN_OK ? TDN_OK : tdn_fail_while(error, status, "reading %s", path);
}

void tdn_tensor_free(tdn_tensor *tensor)
{
    if (!tensor)
        return;
    tdn_free(NULL, tensor->data);
    *tensor = (tdn_tensor){.struct_size = sizeof *tensor};
}

tdn_status tdn_model_fix_input(tdn_model *model, const char *input, const tdn_tensor *value,
                               tdn_error *error)
{
    int64_t count;
    if (!model || !input || !value || !value->data || value->memory != TDN_MEMORY_HOST ||
        value->rank < 0 || value->rank > TDN_MAX_RANK ||
        !tdn_dims_count(value->dims, value->rank, &count) || value->dtype == TDN_STRING ||
        value->dtype == TDN_DTYPE_NONE)
        return tdn_fail(error, TDN_E_ARG, "an input, and a dense value for it, are needed");
    const tdn_view view = tdn_view_make(value->data, value->dtype, value->rank, value->dims);
    return tdn_onnx_fix_input(model->onnx, input, &view, error);
}
