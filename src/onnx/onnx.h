/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ONNX models: parsed once, then made into a graph for each set of input shapes.
 *
 * Only this folder knows ONNX's encoding, and it knows no operator beyond Constant and If, which
 * are encoding too: one holds a tensor, the other chooses a graph. Functions that a model defines
 * are written out where they are called.
 */
#ifndef TDN_ONNX_ONNX_H
#define TDN_ONNX_ONNX_H

#include "base/file.h"
#include "graph/graph.h"
#include "ops/op.h"

typedef struct tdn_onnx tdn_onnx;

/*
 * Parses `size` bytes, which stay the caller's and must outlive the model unchanged: weights are
 * used where they lie. `name` stands in error texts. External data must lie in `folder` or below it
 * (NULL: there is none) and is read. Returns   TDN_OK; TDN_E_MODEL; TDN_E_IO where a file of
 * external data cannot be read; TDN_E_NOMEM.
 */
tdn_status tdn_onnx_parse(tdn_onnx **model, const uint8_t *data, size_t size, const char *name,
                          const char *folder, const tdn_allocator *allocator, tdn_error *error);
/* Operators of the caller's own, which outlive the model. TDN_E_ARG, TDN_E_NOMEM. */
tdn_status tdn_onnx_set_operators(tdn_onnx *model, const tdn_operator *operators, int32_t n,
                                  tdn_error *error);
/* Takes NULL. Graphs made from the model must be gone. */
void tdn_onnx_free(tdn_onnx *model);

/* ---- What the model says of itself ----------------------------------------------------------- */

/* An input or output as declared. */
typedef struct tdn_onnx_io {
    const char *name;
    tdn_dtype dtype;  /* NONE: a type that Tendon lacks */
    const char *type; /* its name, for texts: "float32", "a sequence" */
    int32_t rank;     /* -1: undeclared; may be beyond TDN_MAX_RANK, then dims are missing */
    int64_t dims[TDN_MAX_RANK];        /* -1: symbolic */
    const char *symbols[TDN_MAX_RANK]; /* NULL where a dim has no symbol */
} tdn_onnx_io;

int tdn_onnx_n_inputs(const tdn_onnx *model); /* without initializers */
int tdn_onnx_n_outputs(const tdn_onnx *model);
const tdn_onnx_io *tdn_onnx_input(const tdn_onnx *model, int i);
const tdn_onnx_io *tdn_onnx_output(const tdn_onnx *model, int i);

/* The newest opset whose operators were looked at, one by one, when the table was written. */
enum { TDN_ONNX_NEWEST_OPSET = 28 };

typedef struct tdn_onnx_opset {
    const char *domain; /* "" is ONNX's own */
    int64_t version;
} tdn_onnx_opset;

typedef struct tdn_onnx_info {
    int64_t ir_version;
    const char *producer, *producer_version, *graph_name; /* never NULL */
    const tdn_onnx_opset *opsets;
    int n_opsets;
    int n_nodes; /* of the main graph */
    int n_functions;
    int n_initializers;
    int64_t n_parameters; /* elements of initializers of floating-point and 8- and 4-bit types */
} tdn_onnx_info;
tdn_onnx_info tdn_onnx_get_info(const tdn_onnx *model);

/* The files of external data, in the order of their first use: what a hash of the model must cover.
 * NULL past the last.
 */
const tdn_map *tdn_onnx_file(const tdn_onnx *model, int i, const char **path);

/*
 * From now on the input is an initializer with this value, which is copied: shape rules may read
 * it, and it is no input any more. Graphs made before are not touched. TDN_E_ARG where there is no
 * such input; TDN_E_SHAPE where type or shape are not what it declares; TDN_E_NOMEM.
 */
tdn_status tdn_onnx_fix_input(tdn_onnx *model, const char *input, const tdn_view *value,
                              tdn_error *error);

/* Hashes (SHA-256) of the model as it was parsed: of its nodes with the types and dims of weights,
 * and of the weights' elements. Equal where nothing but documentation, names of nodes and the way
 * weights are stored differ. TDN_E_MODEL for weights that cannot be read; TDN_E_NOMEM. */
tdn_status tdn_onnx_digest(tdn_onnx *model, uint8_t nodes[32], uint8_t weights[32],
                           tdn_error *error);
/* Is there a node, in any graph or function, of which this is true? */
typedef bool tdn_onnx_is_fn(const char *domain, const char *op);
bool tdn_onnx_any_node(const tdn_onnx *model, tdn_onnx_is_fn *is);

/* ---- Tensors alone --------------------------------------------------------------------------- */

/*
 * Reads a TensorProto by itself, as in the data sets of backend tests. The view points into `data`
 * or into the arena. TDN_E_UNSUPPORTED for element types that Tendon lacks, external data, and
 * where it is a sequence or an optional; TDN_E_MODEL for what is damaged; TDN_E_NOMEM.
 */
tdn_status tdn_onnx_tensor_read(tdn_view *view, const uint8_t *data, size_t size, tdn_arena *arena,
                                tdn_error *error);

/* ---- Graphs ---------------------------------------------------------------------------------- */

typedef struct tdn_onnx_shape {
    const char *input;
    tdn_shape shape;
} tdn_onnx_shape;

/* One node that Tendon cannot do; or an initializer (op "Initializer") or input (op "Input") that a
 * node needs. */
typedef struct tdn_onnx_issue {
    const char *node, *op, *domain, *reason;
} tdn_onnx_issue;

typedef struct tdn_onnx_issues {
    tdn_onnx_issue *items; /* in the arena */
    int n;
} tdn_onnx_issues;

/*
 * Makes the graph in `arena`, with shapes inferred and constants folded. An input that `shapes`
 * does not name has its declared shape, where a symbolic axis is what a named input has for that
 * symbol, else 1. A node that is not supported becomes an issue; nodes that depend on it are left
 * out, and so the graph is whole (and verified) only when there are no issues. Returns   TDN_OK,
 * also with issues; TDN_E_ARG for a shape of an input that there is not; TDN_E_SHAPE for one that
 *           contradicts the declaration; TDN_E_MODEL; TDN_E_NOMEM.
 */
tdn_status tdn_onnx_graph(tdn_graph **g, tdn_onnx *model, tdn_arena *arena,
                          const tdn_onnx_shape *shapes, int n_shapes, tdn_onnx_issues *issues,
                          tdn_error *error);

#endif
