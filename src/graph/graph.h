/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The graph: values and the nodes that make them, in topological order. All memory is in one arena.
 *
 * Invariants (tdn_graph_verify): every value has one producer, or is an input, a constant or a
 * state; a node's inputs are made before it; outputs have producers; shapes and dtypes are set once
 * shapes are inferred; names are unique.
 */
#ifndef TDN_GRAPH_GRAPH_H
#define TDN_GRAPH_GRAPH_H

#include <stdio.h>

#include "base/attr.h"
#include "base/expr.h"

typedef struct tdn_value tdn_value;
typedef struct tdn_node tdn_node;
typedef struct tdn_graph tdn_graph;
struct tdn_op_def;

typedef struct tdn_shape {
    int32_t rank;     /* -1: not inferred yet */
    uint32_t bounded; /* bit i: dims[i] is a bound, the true extent is known at run time */
    int64_t dims[TDN_MAX_RANK];
} tdn_shape;

/* How a float value is kept: in 8 bits, real = scale * (q - zero_point), per tensor (n == 1) or
 * along `axis`; or, where n is 0, as `half`. */
typedef struct tdn_quant {
    int32_t n, axis;
    const float *scale;
    const int32_t *zero_point;
    tdn_dtype half; /* TDN_F16 or TDN_BF16 */
} tdn_quant;

typedef enum tdn_value_kind { TDN_VALUE_NODE, TDN_VALUE_INPUT, TDN_VALUE_CONST } tdn_value_kind;

struct tdn_value {
    const char *name;
    int32_t id; /* unique in the graph */
    tdn_value_kind kind;
    tdn_dtype dtype;
    tdn_shape shape;
    const void *data; /* of a constant: dense, row-major */
    tdn_node *producer;
    int32_t n_uses;         /* by nodes and graph outputs; kept by the functions below */
    int32_t output;         /* index among the graph's outputs, or -1 */
    const tdn_quant *quant; /* NULL: not quantised */
    /* Which axis is time (-1: unknown) and how far an element looks along it: [-past, +future] of
     * the inputs' time. */
    int32_t time_axis;
    int64_t time_past, time_future;
    void *scratch; /* a pass's own, NULL between passes */
};

struct tdn_node {
    const struct tdn_op_def *op;
    const char *name;   /* as in the model; unique */
    const char *origin; /* the model's nodes in it: "conv1 + relu1"; equals name at import */
    tdn_value **in;     /* NULL entries: absent optional inputs */
    tdn_value **out;    /* NULL entries: outputs nobody named */
    int32_t n_in, n_out;
    int32_t n_own_in; /* inputs that are the operator's; the rest belong to the epilogue `expr` */
    tdn_attrs attrs;
    /* Of a map: the expression over all inputs. Of another core node: the epilogue, whose input 0
     * is the operator's result and input i is in[n_own_in + i - 1]; NULL: none. */
    tdn_expr *expr;
    tdn_node *prev, *next;
    int32_t mark; /* a pass's own */
};

/* A state: at the end of a run the output's value becomes the input's of the next. */
typedef struct tdn_state {
    tdn_value *input, *output;
} tdn_state;

struct tdn_graph {
    tdn_arena *arena;
    const char *name;
    tdn_node *first, *last;
    tdn_value **inputs, **outputs;
    int32_t n_inputs, n_outputs;
    tdn_state *states;
    int32_t n_states;
    int32_t n_values; /* ever made: ids are below it */
    int32_t n_nodes;  /* in the list */
    int32_t opset;    /* of the default domain */
    bool has_shapes;  /* tdn_graph_infer has run: every value has a dtype and a shape from now on */
    tdn_graph *outer; /* of a subgraph: where names it does not have are looked up */
    struct tdn_names *value_names, *node_names;
    int32_t n_suffixes; /* of names made up so far */
    /* What bounds constant folding: bytes of constants given, bytes and operations spent on folding
     * so far. */
    size_t const_size, fold_size;
    int64_t fold_flops;
};

/* All creators return NULL when out of memory. Strings are copied. A `name` that is taken gets a
 * suffix; NULL makes one that begins with '~'. */
tdn_graph *tdn_graph_create(tdn_arena *arena, const char *name);
tdn_value *tdn_graph_value(tdn_graph *g, const char *name);
tdn_value *tdn_graph_add_input(tdn_graph *g, const char *name, tdn_dtype dtype,
                               const tdn_shape *shape);
/* `data` is not copied: it lives in the arena or in the model's map. */
tdn_value *tdn_graph_const(tdn_graph *g, const char *name, tdn_dtype dtype, const tdn_shape *shape,
                           const void *data);
tdn_value *tdn_graph_const_f32(tdn_graph *g, float x);
tdn_value *tdn_graph_const_ints(tdn_graph *g, const int64_t *x, int n); /* 1-D int64, copied */
/* A node before `before` (NULL: at the end). in/out arrays are copied; inputs' uses counted;
 * outputs may not have a producer. */
tdn_node *tdn_graph_node(tdn_graph *g, tdn_node *before, const struct tdn_op_def *op,
                         const char *name, tdn_value *const *in, int n_in, tdn_value *const *out,
                         int n_out);
bool tdn_graph_set_output(tdn_graph *g,
                          tdn_value *v); /* false: out of memory, or it is an output already */
/* The value of that name, or NULL. */
tdn_value *tdn_graph_find(const tdn_graph *g, const char *name);
/* Unlinks the node; its outputs must be unused (or have been replaced). */
void tdn_graph_remove(tdn_graph *g, tdn_node *node);
/* All readers of `from` (but the node that makes `to`), the graph's outputs included, read `to`
 * from now on. `to` takes `from`'s name where `from` is a graph output or `to`'s own name was made
 * up, so that the model's names stay. Where `to` cannot be an output (it is one already, or no node
 * makes it), `from` stays the output. */
void tdn_graph_replace(tdn_graph *g, tdn_value *from, tdn_value *to);
/* Sets node->in[i], keeping counts. */
void tdn_node_set_input(tdn_node *node, int i, tdn_value *v);
bool tdn_node_append_input(tdn_graph *g, tdn_node *node, tdn_value *v);
/* Adds or replaces an attribute; false when out of memory. */
bool tdn_node_set_attr(tdn_graph *g, tdn_node *node, const tdn_attr *attr);
bool tdn_node_set_int(tdn_graph *g, tdn_node *node, const char *name, int64_t i);
bool tdn_node_set_ints(tdn_graph *g, tdn_node *node, const char *name, const int64_t *v, int n);
bool tdn_node_set_string(tdn_graph *g, tdn_node *node, const char *name, const char *s);
/* Does the node, or one of the graph's, hold a graph as an attribute? It reads values by name then,
 * more than its inputs. */
bool tdn_node_has_subgraph(const tdn_node *node);
bool tdn_graph_has_subgraph(const tdn_graph *g);
/* The only node that reads v (and v is no graph output), or NULL. Linear in the graph. */
tdn_node *tdn_value_only_user(const tdn_graph *g, const tdn_value *v);

/* Elements of one value: 2^40 is four terabytes of fp32, beyond any machine this is for. */
#define TDN_MAX_ELEMENTS ((int64_t)1 << 40)
#define TDN_MAX_EXTENT ((int64_t)1 << 30) /* as in a plan */
/* Is the rank in 0..TDN_MAX_RANK, no extent negative, and the product of those that are not 0 at
 * most TDN_MAX_ELEMENTS, each at most TDN_MAX_EXTENT? Every shape from outside is held against
 * this, so that products of its dims cannot overflow. */
bool tdn_shape_fits(const tdn_shape *shape);
int64_t tdn_shape_count(const tdn_shape *shape); /* of a shape that fits */
bool tdn_shape_equal(const tdn_shape *a, const tdn_shape *b);
/* The next shortest groups of axes of equal products, x's from *i and y's from *k on: moves both
 * behind them. One may be empty at the end, the other's extents are 1 then. False where there are
 * none. */
bool tdn_shape_group(const tdn_shape *x, const tdn_shape *y, int *i, int *k);
tdn_shape tdn_shape_make(int rank, const int64_t *dims);
/* "1x3x224x224", "scalar", "?x3"; returns text. */
const char *tdn_shape_print(const tdn_shape *shape, char *text, size_t size);
tdn_view tdn_value_view(const tdn_value *v); /* dense; data of a constant, else NULL */

/* Checks the invariants; TDN_E_INTERNAL names the broken one. */
tdn_status tdn_graph_verify(const tdn_graph *g, tdn_error *error);
/* The operator's name: the first field of a row (op.c asserts it), so that the graph need not know
 * the rows. */
static inline const char *tdn_node_op_name(const tdn_node *node)
{
    return *(const char *const *)(const void *)node->op;
}

/* One line a node, through `line`. */
void tdn_graph_dump(const tdn_graph *g, void (*line)(void *user, const char *text), void *user);

#endif
