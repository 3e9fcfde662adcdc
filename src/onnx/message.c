/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tensors that come without a model: read from a file of their own, or put in an input's place.
 *
 * A file does not say which message it holds. SequenceProto and OptionalProto have messages in the
 * field where a TensorProto has a Segment, which no version of ONNX ever wrote: so that field tells
 * them apart.
 */
#include "onnx/model.h"
#include "onnx/wire.h"

enum { SEGMENT = 3, DATA_LOCATION = 14, EXTERNAL = 1, LAST_TYPE = 64 };

static tdn_status check_message(tdn_reader r, tdn_error *error)
{
    for (tdn_wire_field f; tdn_wire_next(&r, &f) == TDN_WIRE_FIELD;) {
        if (f.number == SEGMENT && f.kind == TDN_WIRE_BYTES)
            return tdn_fail(error, TDN_E_UNSUPPORTED, "a sequence or an optional is not supported");
        if (f.number == DATA_LOCATION && f.kind == TDN_WIRE_VARINT && f.value == EXTERNAL)
            return tdn_fail(error, TDN_E_UNSUPPORTED, "external data is not supported here");
    }
    return TDN_OK;
}

tdn_status tdn_onnx_tensor_read(tdn_view *view, const uint8_t *data, size_t size, tdn_arena *arena,
                                tdn_error *error)
{
    static const uint8_t nothing;
    tdn_onnx alone = {.arena = arena, .data = data ? data : &nothing};
    const tdn_reader bytes = {alone.data, alone.data + (data ? size : 0)};
    onnx_tensor tensor;
    alone.file_names = tdn_names_create(arena);
    if (!alone.file_names)
        return tdn_fail_nomem(error, "a tensor");
    TDN_TRY(check_message(bytes, error));
    TDN_TRY(tdn_onnx_parse_tensor(&alone, bytes, &tensor, error));
    return tdn_onnx_tensor_view(&alone, &tensor, view, error);
}

static const tdn_onnx_io *find_input(const tdn_onnx *model, const char *name)
{
    for (int32_t i = 0; i < model->n_inputs; i++)
        if (strcmp(model->inputs[i].name, name) == 0)
            return &model->inputs[i];
    return NULL;
}

static bool fits_declaration(const tdn_onnx_io *io, const tdn_view *value)
{
    bool fits = io->dtype == value->dtype && (io->rank < 0 || io->rank == value->rank);
    for (int i = 0; fits && i < io->rank; i++)
        fits = io->dims[i] < 0 || io->dims[i] == value->dims[i];
    return fits;
}

static const onnx_type *type_of(tdn_dtype dtype)
{
    for (int64_t i = 1; i < LAST_TYPE; i++)
        if (tdn_onnx_type(i)->dtype == dtype)
            return tdn_onnx_type(i);
    return tdn_onnx_type(0);
}

static onnx_tensor *copy_value(tdn_onnx *model, const char *name, const tdn_view *value)
{
    const size_t size = tdn_dtype_size(value->dtype, (size_t)tdn_view_count(value));
    onnx_tensor *t = tdn_arena_alloc(model->arena, 1, sizeof *t);
    uint8_t *data = tdn_arena_alloc_data(model->arena, size);
    if (!t || !data)
        return NULL;
    if (size)
        memcpy(data, value->data, size);
    for (size_t i = 0; value->dtype == TDN_BOOL && i < size; i++)
        data[i] = data[i] != 0;
    *t = (onnx_tensor){
        .name = name, .type = type_of(value->dtype), .rank = value->rank, .data = data};
    memcpy(t->dims, value->dims, sizeof t->dims);
    return t;
}

tdn_status tdn_onnx_fix_input(tdn_onnx *model, const char *input, const tdn_view *value,
                              tdn_error *error)
{
    const tdn_onnx_io *io = find_input(model, input);
    if (!io)
        return tdn_fail(error, TDN_E_ARG, "%s has no input '%s'", model->name, input);
    if (!fits_declaration(io, value))
        return tdn_fail(error, TDN_E_SHAPE,
                        "the value for input '%s' of %s has another type or shape than it declares",
                        input, model->name);
    onnx_tensor *t = copy_value(model, io->name, value);
    if (!t || !tdn_names_put(model->graph.initializer_names, io->name, t))
        return tdn_fail_nomem(error, "the value of an input");
    const ptrdiff_t at = io - model->inputs;
    model->n_inputs--;
    memmove(&model->inputs[at], &model->inputs[at + 1],
            (size_t)(model->n_inputs - at) * sizeof *model->inputs);
    return TDN_OK;
}
