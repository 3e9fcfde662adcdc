/* SPDX-License-Identifier: Apache-2.0 */
/* A loaded model, as the parts of the compiler's front see it. */
#ifndef TDN_BUILD_MODEL_H
#define TDN_BUILD_MODEL_H

#include "base/file.h"
#include "base/memory.h"
#include "graph/graph.h"
#include "onnx/onnx.h"
#include "tendon/build.h"

struct tdn_model {
    tdn_onnx *onnx;
    tdn_map map;         /* of the file; size 0 where the model came from the caller's memory */
    const uint8_t *data; /* the model's bytes: the map's or the caller's */
    size_t size;
    char *path, *name, *folder; /* name: the path's last part; "model" for memory */
    tdn_log_fn *log;            /* may be NULL */
    void *log_user;
    const tdn_allocator *allocator; /* never NULL: own or the C library's */
    tdn_allocator own;
    char digest[65]; /* once asked for */
};

/* The file's name without its folder. */
const char *tdn_model_name(const tdn_model *model);
/* SHA-256 of the file and of its external data in the order of use, in hex. Computed at the first
 * call. */
const char *tdn_model_digest(tdn_model *model);

/* SHA-256 in hex of the graph and of its weights, as tdn_onnx_digest has them. */
tdn_status tdn_model_identity(tdn_model *model, char graph[65], char weights[65], tdn_error *error);

/* The graph for a set of shapes, as tdn_onnx_graph makes it, with the issues as they are. shapes
 * may be NULL. */
tdn_status tdn_model_import(tdn_graph **g, tdn_model *model, tdn_arena *arena,
                            const tdn_shape_set *shapes, tdn_onnx_issues *issues, tdn_error *error);
/* The same where nothing but a whole graph is of use: TDN_E_UNSUPPORTED lists all issues (as many
 * as fit; the log has all of them). */
tdn_status tdn_model_graph(tdn_graph **g, tdn_model *model, tdn_arena *arena,
                           const tdn_shape_set *shapes, tdn_error *error);

#endif
