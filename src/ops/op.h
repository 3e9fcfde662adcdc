/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the compiler knows of an operator: one row. To add one: its row in the family's array, its
 * shape rule, and its reference in src/ref (or a decomposition into operators that have one).
 *
 * Kinds: core operators are those that `lower` gives to a backend; composites are rewritten by
 * `decompose` before the passes; the rest run by their reference. A row's kind is told by its
 * fields: core != NONE; decompose != NULL; neither.
 */
#ifndef TDN_OPS_OP_H
#define TDN_OPS_OP_H

#include "graph/graph.h"
#include "ref/custom.h"

typedef enum tdn_core {
    TDN_CORE_NONE = 0,
    TDN_CORE_MAP,       /* expr over broadcast inputs; multi-output */
    TDN_CORE_CONV,      /* x (N,C,spatial), w (M,C/group,kernel), [bias]; attrs strides, dilations,
                           pads, group: all set; "dense" 1: spikes are multiplied like all else */
    TDN_CORE_MATMUL,    /* numpy's matmul */
    TDN_CORE_REDUCE,    /* attrs kind ("sum" "mean" "max" "min" "prod" "l1" "l2" "sumsq" ...), axes,
                           keepdims: all set */
    TDN_CORE_POOL,      /* attrs kind ("max" "average"), kernel_shape, strides, dilations, pads,
                           count_include_pad: all set */
    TDN_CORE_SOFTMAX,   /* attr axis (not negative), log (0/1) */
    TDN_CORE_ATTEND,    /* softmax(scale * q k + mask) v of q (..., m, d), k (..., d, n), v (..., n,
                           e), mask broadcast to (..., m, n) or absent; attrs scale (positive), mean
                           0. mean 1: without v, the mean of the softmax over m, (..., 1, n) */
    TDN_CORE_NORM,      /* LayerNormalization: attrs axis, epsilon; inputs x, scale, bias */
    TDN_CORE_TRANSPOSE, /* attr perm */
    TDN_CORE_SLICE,     /* attrs starts, steps, one a dim of the input; the output's shape gives the
                           extents */
    TDN_CORE_RESHAPE,   /* the output's shape says it all (Reshape, Flatten, Squeeze, Unsqueeze,
                           Identity) */
    TDN_CORE_EXPAND,    /* the same, broadcasting */
    TDN_CORE_CONCAT,    /* attr axis (not negative) */
    TDN_CORE_MIX,       /* x (..., axes that are contracted), w constant (their product, n), mostly
                           zeros; out (..., n). attr n_axes: how many are contracted */
    TDN_CORE_GRAPHCONV, /* x (n, c, time, from), w (m, kinds * c), adjacency (kinds, from, to), bias
                           (to, m), all but x constant; out (n, m, time, to) */
    TDN_CORE_PAD,       /* attrs pads (2 * rank, not negative), value (float); constant mode */
    TDN_CORE_INTEGER_CONV, /* x U8, w constant S8, [constant zero point of x]; attrs as of conv; the
                              sums are S32 */
    TDN_CORE_INTEGER_MATMUL, /* the same of matrices: w (k, n) */
    TDN_CORE_HALF_CONV,      /* conv of halves, x and w constant of one type, F16 or BF16; F32 */
    TDN_CORE_HALF_MATMUL,    /* the same of matrices: w (k, n) */
    TDN_CORE_EITHER          /* flag (one BOOL), a, b of one shape: a if the flag is true, else b;
                                what one of them alone needs is not done for the other */
} tdn_core;

typedef struct tdn_infer {
    tdn_graph *graph;
    tdn_node *node;
    int opset; /* of the operator's domain, in the model */
    tdn_error *error;
} tdn_infer;

typedef struct tdn_op_def {
    const char *name;   /* ONNX's, or "Map" and the like in the domain "tendon" */
    const char *domain; /* "" ONNX, "com.microsoft", "tendon" */
    int since; /* first opset with this meaning; the row with the largest since <= the model's opset
                  counts */
    int n_in_min, n_in_max; /* n_in_max -1: any number */
    int n_out_min, n_out_max;
    /* Sets dtype and shape of every output that is not NULL. Reads constant inputs through their
     * value's data. */
    tdn_status (*infer)(tdn_infer *io);
    /* Replaces the node by others that do the same, inserted before it (removing it, or leaving it
     * dead). NULL: none. It may decline by leaving the graph as it is. */
    tdn_status (*decompose)(tdn_infer *io);
    tdn_core core;
    const char *reference;    /* name in src/ref, NULL: the operator's own name */
    const tdn_custom *custom; /* of an operator of the caller's own */
    /* Multiply-adds count 2. NULL: one per output element. */
    int64_t (*flops)(const tdn_node *node);
    bool of_shape; /* the result depends on shapes alone, so it is a constant (Shape, Size) */
    bool random;   /* never folded, never merged */
    bool unfolded; /* never folded: sizes do not tell how long it takes, data and attributes do */
} tdn_op_def;

/* For a rule or a rewrite at the node: its row's meaning holds, whatever the model's opset. */
static inline tdn_infer tdn_infer_at(tdn_graph *g, tdn_node *node, tdn_error *error)
{
    return (tdn_infer){g, node, g->opset > node->op->since ? g->opset : node->op->since, error};
}

/* Is it a product of integers, whose own result, before an epilogue, is S32? */
static inline bool tdn_node_is_of_integers(const tdn_node *node)
{
    return node->op->core == TDN_CORE_INTEGER_CONV || node->op->core == TDN_CORE_INTEGER_MATMUL;
}
/* Is it a product of halves? */
static inline bool tdn_node_is_of_halves(const tdn_node *node)
{
    return node->op->core == TDN_CORE_HALF_CONV || node->op->core == TDN_CORE_HALF_MATMUL;
}
/* Is every element of the result one of input 0's: moved, or the largest of some? */
bool tdn_node_moves_elements(const tdn_node *node);
/* The row for a name, or NULL; domain "ai.onnx" is "". table.c lists the families' arrays. */
const tdn_op_def *tdn_op_find(const char *domain, const char *name, int opset);
/* Rows for operators of the caller's own, n of them, in the arena. TDN_E_ARG, TDN_E_NOMEM. */
tdn_status tdn_op_customs(const tdn_op_def **rows, const tdn_operator *operators, int32_t n,
                          tdn_arena *arena, tdn_error *error);
/* All rows, for listings and tests: row i, or NULL past the last. */
const tdn_op_def *tdn_op_row(int i);
const tdn_ref_def *tdn_op_reference(const tdn_op_def *op);
int64_t tdn_node_flops(const tdn_node *node);
/* Evaluates a node whose inputs are constants, even where its row says unfolded: its outputs become
 * constants and the node goes, within the budget of folding; else it stays. */
tdn_status tdn_node_fold(tdn_graph *g, tdn_node *node, tdn_error *error);
/* A row's flops where elements are moved and nothing is computed: 0. */
int64_t tdn_flops_none(const tdn_node *node);

/*
 * Infers shapes and dtypes of all nodes in order, and folds what is constant: a node with constant
 * inputs only (or of_shape) is evaluated by its reference and replaced by a constant. Used at
 * import and after passes that rewrite.
 */
tdn_status tdn_graph_infer(tdn_graph *g, tdn_error *error);
/* The same for one node whose inputs have shapes; it may be gone afterwards. A value that folds
 * becomes a constant in place: pointers to it stay good. Values that are graph outputs are never
 * folded: an output has a node. */
tdn_status tdn_node_infer(tdn_graph *g, tdn_node *node, tdn_error *error);

/* ---- Help for shape rules -------------------------------------------------------------------- */

/* Input i, or NULL where it is absent. */
static inline tdn_value *tdn_in(const tdn_node *n, int i) { return i < n->n_in ? n->in[i] : NULL; }
static inline tdn_value *tdn_out(const tdn_node *n, int i)
{
    return i < n->n_out ? n->out[i] : NULL;
}
/* Sets an output, checking that the count of elements fits; a NULL output is fine. */
tdn_status tdn_infer_set(tdn_infer *io, int out, tdn_dtype dtype, const tdn_shape *shape);
/* The input's constant integers (int64 or int32), at most `max`; fails in words when it is not a
 * constant
 * ("input 1 'shape' must be a constant"). Absent: *n = 0 and OK. */
tdn_status tdn_infer_ints(tdn_infer *io, int input, int64_t *v, int max, int *n);
/* The constant scalar of input, or `absent`. Fails when it is there but not constant. */
tdn_status tdn_infer_scalar(tdn_infer *io, int input, double absent, double *x);
/* Makes an axis not negative and checks it. */
tdn_status tdn_infer_axis(tdn_infer *io, int64_t axis, int rank, int *out);
/* numpy's broadcast of two shapes. */
tdn_status tdn_infer_broadcast(tdn_infer *io, const tdn_shape *a, const tdn_shape *b,
                               tdn_shape *out);
/* Requires input i to be there and to have one of the dtypes (ended by TDN_DTYPE_NONE). */
tdn_status tdn_infer_dtype(tdn_infer *io, int input, const tdn_dtype *allowed);
/* Common rules. */
tdn_status tdn_infer_same(tdn_infer *io); /* output 0 like input 0 */
tdn_status tdn_infer_broadcast_all(
    tdn_infer *io); /* output 0: broadcast of all inputs, dtype of input 0 */

/* ---- Help for decompositions and passes ------------------------------------------------------ */

/* Inserts a node before io->node and infers it; its single output is returned, NULL on failure
 * (text is set). `op` is meant as its newest row says, whatever the model's opset. `attrs` may be
 * NULL; they are copied. The new node's origin is io->node's. Where all inputs are constants the
 * result is one. */
tdn_value *tdn_emit(tdn_infer *io, const char *domain, const char *op, tdn_value *const *in,
                    int n_in, const tdn_attr *attrs, int n_attrs);
/* A map over inputs with an expression (copied); dtype of output 0. */
tdn_value *tdn_emit_map(tdn_infer *io, tdn_value *const *in, int n_in, const tdn_expr *expr,
                        tdn_dtype dtype);
/* Ends a decomposition: readers of output `out` read v from now on. A constant v turns the output
 * itself into one. */
void tdn_emit_replace(tdn_infer *io, int out, tdn_value *v);

#endif
