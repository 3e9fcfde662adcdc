/* SPDX-License-Identifier: Apache-2.0 */
/* The parsed model, inside src/onnx: the messages of onnx.proto as far as they matter here, in one
 * arena. */
#ifndef TDN_ONNX_MODEL_H
#define TDN_ONNX_MODEL_H

#include "base/reader.h"
#include "base/status.h"
#include "graph/names.h"
#include "onnx/onnx.h"

typedef struct onnx_graph onnx_graph;

/* Element types by ONNX's number. */
typedef struct onnx_type {
    const char *name;
    tdn_dtype dtype; /* NONE: Tendon lacks it */
    uint32_t field;  /* of TensorProto, that holds the elements when raw_data does not */
} onnx_type;
/* Never NULL: the row of number 0 stands for all that are unknown. */
const onnx_type *tdn_onnx_type(int64_t number);

typedef struct onnx_file {
    const char *path;
    tdn_map map;
} onnx_file;

typedef struct onnx_tensor {
    const char *name;
    const onnx_type *type;
    int32_t rank; /* may be beyond TDN_MAX_RANK: then the first dims only */
    int64_t dims[TDN_MAX_RANK];
    tdn_reader message, raw; /* raw.at NULL: no raw_data */
    const onnx_file *file;   /* of external data, else NULL */
    uint64_t offset, length; /* in the file; length UINT64_MAX: not said */
    const void *data;        /* once decoded */
} onnx_tensor;

typedef struct onnx_sparse {
    onnx_tensor values, indices;
    int32_t rank;
    int64_t dims[TDN_MAX_RANK];
    const void *data; /* dense, once decoded */
} onnx_sparse;

/* AttributeProto.AttributeType */
typedef enum onnx_attr_type {
    ONNX_UNDEFINED = 0,
    ONNX_FLOAT = 1,
    ONNX_INT = 2,
    ONNX_STRING = 3,
    ONNX_TENSOR = 4,
    ONNX_GRAPH = 5,
    ONNX_FLOATS = 6,
    ONNX_INTS = 7,
    ONNX_STRINGS = 8,
    ONNX_TENSORS = 9,
    ONNX_GRAPHS = 10,
    ONNX_SPARSE_TENSOR = 11
} onnx_attr_type;

typedef struct onnx_attr {
    const char *name;
    const char *ref; /* inside a function: takes the caller's attribute of this name; else NULL */
    int32_t type;
    int32_t n_ints, n_floats, n_strings, s_size;
    float f;
    int64_t i;
    const char *s;
    onnx_tensor *tensor;
    onnx_sparse *sparse;
    onnx_graph *graph;
    int64_t *ints;
    float *floats;
    const char **strings;
} onnx_attr;

typedef struct onnx_node {
    const char *name, *op, *domain, *overload;
    const char **in, **out; /* "" where absent */
    onnx_attr *attrs;
    int32_t n_in, n_out, n_attrs;
} onnx_node;

typedef struct onnx_body {
    onnx_node *nodes;
    int32_t n_nodes;
    int32_t *order; /* numbers of nodes, each after what it reads */
} onnx_body;

struct onnx_graph {
    const char *name;
    onnx_body body;
    onnx_tensor *initializers;
    onnx_sparse *sparse;
    tdn_onnx_io *inputs, *outputs;
    int32_t n_initializers, n_sparse, n_inputs, n_outputs;
    tdn_names *initializer_names, *sparse_names; /* name -> onnx_tensor, onnx_sparse */
};

typedef struct onnx_function {
    const char *name, *domain, *overload;
    const char **in, **out;
    onnx_attr *defaults; /* attributes that have one */
    onnx_body body;
    tdn_onnx_opset *opsets;
    int32_t n_in, n_out, n_defaults, n_opsets;
} onnx_function;

struct tdn_onnx {
    tdn_allocator allocator;
    tdn_arena *arena;
    const uint8_t *data; /* where offsets in error texts count from */
    const char *name, *folder;
    char *real_folder; /* resolved, made when the first external file is met */
    int64_t ir_version;
    const char *producer, *producer_version;
    tdn_onnx_opset *opsets;
    int32_t n_opsets;
    onnx_graph graph;
    bool has_graph;
    tdn_onnx_io *inputs; /* the graph's without initializers */
    int32_t n_inputs;
    onnx_function *functions;
    int32_t n_functions;
    tdn_names *function_names; /* "domain:name:overload" -> onnx_function */
    const tdn_op_def *customs; /* operators of the caller's own */
    int32_t n_customs;
    onnx_file **files;
    int32_t n_files;
    tdn_names *file_names;
};

/* Room for one more item in an array that doubles: the array (maybe a new one), or NULL when out of
 * memory. */
void *tdn_onnx_grow(tdn_arena *arena, void *items, int32_t n, size_t item_size);

/* parse.c: fills the model from its bytes. */
tdn_status tdn_onnx_parse_model(tdn_onnx *model, tdn_reader bytes, tdn_error *error);
/* The same for a tensor alone: of the model only the arena, the data and what external files need
 * are used. */
tdn_status tdn_onnx_parse_tensor(tdn_onnx *model, tdn_reader bytes, onnx_tensor *tensor,
                                 tdn_error *error);

/* order.c: checks that every name is made once, and sorts the nodes of a graph and of the graphs in
 * it. */
tdn_status tdn_onnx_order_graph(tdn_onnx *model, onnx_graph *graph, tdn_error *error);
tdn_status tdn_onnx_order_function(tdn_onnx *model, onnx_function *function, tdn_error *error);

/* external.c: reads the file at `location` in the model's folder, once. */
tdn_status tdn_onnx_map_external(tdn_onnx *model, const char *location, const onnx_file **file,
                                 tdn_error *error);
void tdn_onnx_unmap_all(tdn_onnx *model);

/* tensor.c: dense elements, decoded where they must be and kept. TDN_E_UNSUPPORTED for types that
 * Tendon lacks. */
tdn_status tdn_onnx_tensor_view(tdn_onnx *model, onnx_tensor *tensor, tdn_view *view,
                                tdn_error *error);
tdn_status tdn_onnx_sparse_view(tdn_onnx *model, onnx_sparse *sparse, tdn_view *view,
                                tdn_error *error);

#endif
