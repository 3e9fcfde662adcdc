/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layer information in the words of TensorRT's engine inspector, from Tendon's description of the
 * plan: a step is a layer. What an engine holds differs, so attributes by type of layer (kernel
 * size, stride, ...) are not there; Flops, Bytes and Tiles are Tendon's own. Inputs and outputs of
 * the engine are listed as generation 10 does ("Bindings") and as generation 11 does ("I/O
 * Tensors").
 */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "cli/describe.h"
#include "cli/trtexec.h"

/* Of one program. */
typedef struct layers {
    const json_t *program, *steps, *buffers, *values;
    bool detailed;
} layers;

/* ---- Words ----------------------------------------------------------------------------------- */

static const char *type_of(const char *kernel, const char *kind)
{
    static const struct {
        const char *stem, *type;
    } rows[] = {
        {"conv_", "Convolution"},      {"dwconv_", "Convolution"},    {"spconv_", "Convolution"},
        {"graphconv_", "Convolution"}, {"wino_", "Convolution"},      {"gemm_", "MatrixMultiply"},
        {"mix_", "MatrixMultiply"},    {"spgemm_", "MatrixMultiply"}, {"map_", "PointWise"},
        {"pool_", "Pooling"},          {"reduce_", "Reduce"},         {"softmax_", "SoftMax"},
        {"norm_", "Normalization"},    {"copy_", "Reformat"},         {"pad_", "Padding"},
        {"iconv_", "Convolution"},     {"idwconv_", "Convolution"},   {"hconv_", "Convolution"},
        {"attend_", "Attention"},      {"reference:", NULL}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t n = strlen(rows[i].stem);
        if (strncmp(kernel, rows[i].stem, n) == 0)
            return rows[i].type ? rows[i].type : kernel + n; /* the ONNX operator */
    }
    return *kernel ? kernel : kind;
}

static const char *datatype_of(const json_t *o)
{
    static const struct {
        const char *ours, *theirs;
    } rows[] = {{"float32", "FP32"}, {"float16", "FP16"}, {"bfloat16", "BF16"},
                {"float64", "FP64"}, {"int8", "Int8"},    {"uint8", "UInt8"},
                {"int32", "Int32"},  {"int64", "Int64"},  {"bool", "Bool"}};
    const char *dtype = tdn_described_text(o, "dtype");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (strcmp(rows[i].ours, dtype) == 0)
            return rows[i].theirs;
    return dtype;
}

/* ---- A step's tensors ------------------------------------------------------------------------ */

static void put_dims(tdn_text *t, const char *key, const json_t *dims, json_int_t batch_axis)
{
    int64_t numbers[TDN_MAX_RANK];
    int n = 0;
    for (size_t i = 0; i < json_array_size(dims) && n < TDN_MAX_RANK; i++)
        numbers[n++] =
            (json_int_t)i == batch_axis ? 1 : json_integer_value(json_array_get(dims, i));
    tdn_json_dims(t, key, numbers, n);
}

static const json_t *find_io(const layers *l, const char *list, const char *name)
{
    size_t i;
    const json_t *io;
    json_array_foreach(json_object_get(l->program, list), i,
                       io) if (strcmp(tdn_described_text(io, "name"), name) == 0) return io;
    return NULL;
}

/* The value that a buffer is there for; NULL where it holds several, as that of a concatenation. */
static const json_t *find_value(const layers *l, json_int_t buffer)
{
    size_t i;
    const json_t *value, *found = NULL;
    json_array_foreach(l->values, i, value)
    {
        if (json_integer_value(json_object_get(value, "buffer")) != buffer)
            continue;
        if (found)
            return NULL;
        found = value;
    }
    return found;
}

static double count_of(const json_t *dims)
{
    size_t i;
    const json_t *dim;
    double n = 1;
    json_array_foreach(dims, i, dim) n *= json_number_value(dim);
    return n;
}

/* Are the elements laid out as the model's dims say? Steps see axes of their own. */
static bool is_row_major(const json_t *operand, const json_t *dims)
{
    const json_t *own = json_object_get(operand, "dims"),
                 *strides = json_object_get(operand, "strides");
    size_t k = json_array_size(dims);
    json_int_t dense = 1;
    for (size_t i = json_array_size(own); i-- > 0;) {
        json_int_t dim = json_integer_value(json_array_get(own, i));
        if (dim == 1)
            continue;
        while (k > 0 && json_integer_value(json_array_get(dims, k - 1)) == 1)
            k--;
        if (k == 0 || json_integer_value(json_array_get(dims, --k)) != dim ||
            json_integer_value(json_array_get(strides, i)) != dense)
            return false;
        dense *= dim;
    }
    while (k > 0 && json_integer_value(json_array_get(dims, k - 1)) == 1)
        k--;
    return k == 0;
}

/* The dims as the model has them, if the step takes all of the tensor; else the step's own. */
static const json_t *dims_of(const layers *l, const json_t *operand, const json_t *buffer)
{
    const char *class = tdn_described_text(buffer, "class"),
               *name = tdn_described_text(buffer, "name");
    json_int_t number = json_integer_value(json_object_get(operand, "buffer"));
    const json_t *tensor = strcmp(class, "input") == 0    ? find_io(l, "inputs", name)
                           : strcmp(class, "output") == 0 ? find_io(l, "outputs", name)
                                                          : find_value(l, number);
    const json_t *own = json_object_get(operand, "dims"), *dims = json_object_get(tensor, "dims");
    return dims && count_of(dims) == count_of(own) ? dims : own;
}

/* Tensors have the names of their buffers, so that who writes and who reads agree. Weights are part
 * of a layer, not its input. */
static void put_operand(tdn_text *t, const layers *l, const json_t *operand)
{
    const json_t *number = json_object_get(operand, "buffer");
    const json_t *buffer = json_array_get(l->buffers, (size_t)json_integer_value(number));
    const char *name = tdn_described_text(buffer, "name");
    if (!number || strcmp(tdn_described_text(buffer, "class"), "weight") == 0)
        return;
    const json_t *dims = dims_of(l, operand, buffer);
    char format[64], unnamed[32];
    snprintf(unnamed, sizeof unnamed, "buffer %lld", (long long)json_integer_value(number));
    snprintf(format, sizeof format, "%s %s",
             is_row_major(operand, dims) ? "Row major linear" : "Strided", datatype_of(operand));
    tdn_json_begin(t, NULL, '{');
    tdn_json_string(t, "Name", *name ? name : unnamed);
    tdn_json_string(t, "Location", "Host");
    put_dims(t, "Dimensions", dims, -1);
    tdn_json_string(t, "Format/Datatype", format);
    tdn_json_end(t, '}');
}

static void put_operands(tdn_text *t, const layers *l, const char *key, const json_t *list)
{
    size_t i;
    const json_t *operand;
    tdn_json_begin(t, key, '[');
    json_array_foreach(list, i, operand) put_operand(t, l, operand);
    tdn_json_end(t, ']');
}

static const char *described_name(const void *steps, int index)
{
    return tdn_described_text(json_array_get(steps, (size_t)index), "name");
}

static void put_layer(tdn_text *t, const layers *l, const json_t *step, const char *name)
{
    const char *kernel = tdn_described_text(step, "kernel"),
               *kind = tdn_described_text(step, "kind");
    const char *type = type_of(kernel, kind);
    tdn_json_begin(t, NULL, '{');
    tdn_json_string(t, "Name", name);
    tdn_json_string(t, "LayerType", type);
    put_operands(t, l, "Inputs", json_object_get(step, "in"));
    put_operands(t, l, "Outputs", json_object_get(step, "out"));
    tdn_json_string(t, "ParameterType", type);
    tdn_json_string(t, "Origin", "ONNX");
    tdn_json_string(t, "TacticName", *kernel ? kernel : kind);
    tdn_json_string(t, "TacticValue", "0x0000000000000000");
    tdn_json_int(t, "StreamId", 0);
    tdn_json_string(t, "Metadata", "");
    tdn_json_int(t, "Flops", (int64_t)tdn_described_number(step, "flops"));
    tdn_json_int(t, "Bytes", (int64_t)tdn_described_number(step, "bytes"));
    tdn_json_int(t, "Tiles", (int64_t)tdn_described_number(step, "tiles"));
    tdn_json_end(t, '}');
}

/* ---- All of it ------------------------------------------------------------------------------- */

static void put_bindings(tdn_text *t, const layers *l)
{
    static const char *const lists[] = {"inputs", "outputs"};
    size_t i;
    const json_t *io;
    tdn_json_begin(t, "Bindings", '[');
    for (int k = 0; k < 2; k++)
        json_array_foreach(json_object_get(l->program, lists[k]), i, io)
            tdn_json_string(t, NULL, tdn_described_text(io, "name"));
    tdn_json_end(t, ']');
}

static void put_io_tensor(tdn_text *t, const json_t *io, const char *mode)
{
    const json_t *dims = json_object_get(io, "dims"), *axis = json_object_get(io, "batch_axis");
    tdn_json_begin(t, NULL, '{');
    tdn_json_string(t, "Name", tdn_described_text(io, "name"));
    tdn_json_string(t, "IOMode", mode);
    tdn_json_string(t, "DataType", datatype_of(io));
    put_dims(t, "Dimensions", dims, -1);
    tdn_json_string(t, "Location", "Host");
    tdn_json_bool(t, "IsShapeInferenceIO", false);
    tdn_json_begin(t, "ProfileInfo", '[');
    tdn_json_begin(t, NULL, '{');
    put_dims(t, "MinShape", dims, axis ? json_integer_value(axis) : -1);
    put_dims(t, "OptShape", dims, -1);
    put_dims(t, "MaxShape", dims, -1);
    tdn_json_string(t, "Format", "Row major linear");
    tdn_json_end(t, '}');
    tdn_json_end(t, ']');
    tdn_json_end(t, '}');
}

static void put_io_tensors(tdn_text *t, const layers *l)
{
    size_t i;
    const json_t *io;
    tdn_json_begin(t, "I/O Tensors", '[');
    json_array_foreach(json_object_get(l->program, "inputs"), i, io) put_io_tensor(t, io, "Input");
    json_array_foreach(json_object_get(l->program, "outputs"), i, io)
        put_io_tensor(t, io, "Output");
    tdn_json_end(t, ']');
}

static char *make_json(const layers *l)
{
    tdn_text t = {0};
    size_t i;
    char name[4096];
    const json_t *step;
    tdn_json_begin(&t, NULL, '{');
    tdn_json_begin(&t, "Layers", '[');
    json_array_foreach(l->steps, i, step)
    {
        tdn_trtexec_layer_name(described_name, l->steps, (int)i, name, sizeof name);
        if (l->detailed)
            put_layer(&t, l, step, name);
        else
            tdn_json_string(&t, NULL, name);
    }
    tdn_json_end(&t, ']');
    put_bindings(&t, l);
    put_io_tensors(&t, l);
    tdn_json_end(&t, '}');
    return tdn_text_take(&t);
}

/* ", Inputs: [ emg [1x200x8] Row major linear FP32 ]" of a layer of the JSON. */
static void print_tensors(FILE *out, const char *key, const json_t *layer)
{
    size_t i;
    const json_t *tensor;
    char dims[256];
    fprintf(out, ", %s: [", key);
    json_array_foreach(json_object_get(layer, key), i, tensor)
        fprintf(out, "%s %s [%s] %s", i ? "," : "", tdn_described_text(tensor, "Name"),
                tdn_described_dims(json_object_get(tensor, "Dimensions"), -1, dims, sizeof dims),
                tdn_described_text(tensor, "Format/Datatype"));
    fputs(" ]", out);
}

static tdn_status print_layers(const char *text, tdn_error *error)
{
    size_t i;
    const json_t *layer;
    json_t *all = json_loads(text, 0, NULL);
    if (!all)
        return tdn_fail_nomem(error, "the layer information");
    tdn_trtexec_say('I', "Layer Information:");
    json_array_foreach(json_object_get(all, "Layers"), i, layer)
    {
        FILE *out = tdn_trtexec_prefix('I');
        if (json_is_string(layer)) {
            fprintf(out, "%s\n", json_string_value(layer));
            continue;
        }
        fprintf(out, "Name: %s, LayerType: %s", tdn_described_text(layer, "Name"),
                tdn_described_text(layer, "LayerType"));
        print_tensors(out, "Inputs", layer);
        print_tensors(out, "Outputs", layer);
        fprintf(out, ", TacticName: %s\n", tdn_described_text(layer, "TacticName"));
    }
    tdn_trtexec_say('I', "Bindings:");
    json_array_foreach(json_object_get(all, "Bindings"), i, layer)
        tdn_trtexec_say('I', "%s", json_string_value(layer));
    json_decref(all);
    return TDN_OK;
}

/* The program of the section for `target`. */
static const json_t *find_program(const json_t *plan, const char *target, int program)
{
    size_t i;
    const json_t *section;
    json_array_foreach(json_object_get(plan, "sections"), i,
                       section) if (strcmp(tdn_described_text(section, "target"), target) ==
                                    0) return json_array_get(json_object_get(section, "programs"),
                                                             (size_t)program);
    return NULL;
}

tdn_status tdn_trtexec_layers(const char *description, const char *target, int program,
                              const char *verbosity, bool print, const char *path, tdn_error *error)
{
    json_t *plan = json_loads(description, 0, NULL);
    const json_t *found = find_program(plan, target, program);
    const json_t *steps = json_object_get(found, "steps");
    const layers l = {found, strcmp(verbosity, "none") == 0 ? NULL : steps,
                      json_object_get(found, "buffers"), json_object_get(found, "values"),
                      strcmp(verbosity, "detailed") == 0};
    char *text = steps ? make_json(&l) : NULL;
    tdn_status status = TDN_OK;
    if (!steps)
        status = tdn_fail(error, TDN_E_INTERNAL, "the plan's description lacks its steps");
    else if (!text)
        status = tdn_fail_nomem(error, "the layer information");
    if (status == TDN_OK && print)
        status = print_layers(text, error);
    if (status == TDN_OK && path)
        status = tdn_file_write(path, text, strlen(text), error);
    tdn_text_free(text);
    json_decref(plan);
    return status;
}
