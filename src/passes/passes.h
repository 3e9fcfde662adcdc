/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Passes: rewrites of the graph that keep its meaning. A pass is one file and one row in passes.c;
 * the runner verifies the graph after each one (debug and test builds), names the pass in a
 * failure, and dumps the graph where asked.
 */
#ifndef TDN_PASSES_PASSES_H
#define TDN_PASSES_PASSES_H

#include "ops/op.h"

/* What must have happened before a pass. */
typedef enum tdn_pass_when {
    TDN_PASS_ALWAYS = 0,
    TDN_PASS_BATCHES,  /* it may put more along a sample's axes: batch axes are proven before it */
    TDN_PASS_QUANTIZES /* what is to be kept in 8 bits is marked before it; left out where nothing
                          is */
} tdn_pass_when;

typedef struct tdn_pass {
    const char *name;
    tdn_status (*run)(tdn_graph *g, tdn_error *error);
    tdn_pass_when when;
} tdn_pass;

typedef struct tdn_pass_options {
    const char *dump; /* a pass's name, "import" or "all": dump the graph after it; NULL: never */
    void (*line)(void *user, const char *text);
    void *user;
    /* Called once, before the first pass that batches; NULL: never. */
    tdn_status (*before_batching)(void *user, const tdn_graph *g, tdn_error *error);
    void *batching_user;
    /* Called before the first pass that quantises; NULL: these passes are left out. It sets the
     * quant of float values that products read, and gives products weights with one. */
    tdn_status (*before_quantizing)(void *user, tdn_graph *g, tdn_error *error);
    void *quantizing_user;
} tdn_pass_options;

/* The pipeline, in order; ended by a row without a name. */
extern const tdn_pass tdn_passes[];
/* Runs all of them. options may be NULL. */
tdn_status tdn_passes_run(tdn_graph *g, const tdn_pass_options *options, tdn_error *error);

/* Of every model before all others, for its reference, too: see widen.c. */
tdn_status tdn_pass_widen(tdn_graph *g, tdn_error *error);

tdn_status tdn_pass_decompose(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_simplify(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_merge_equal(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_drop_dead(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_expand_late(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_map_constants(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_fold_scale(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_reduce_early(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_narrow_conv(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_pad_conv(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_batch_equal(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_sparse_product(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_regroup_product(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_split_product(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_space_to_depth(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_spikes(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_graph_conv(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_integer_products(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_half_products(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_bias(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_attend(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_map_early(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_fuse_maps(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_compare_early(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_fuse_scales(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_fuse_epilogues(tdn_graph *g, tdn_error *error);

tdn_status tdn_pass_dequantize_late(tdn_graph *g, tdn_error *error);
tdn_status tdn_pass_quantize(tdn_graph *g, tdn_error *error);

/* ---- Shared by passes ------------------------------------------------------------------------ */

/* "a + b" where b is not in a yet; the text stays short. Returns a when out of memory. */
const char *tdn_origin_join(tdn_graph *g, const char *a, const char *b);
/* Is the node's operator one that has an expression as its epilogue? */
bool tdn_core_takes_epilogue(const tdn_node *n);
/* Does a stand before b in the graph's order? */
bool tdn_node_before(const tdn_node *a, const tdn_node *b);
/* Do two nodes do the same to whatever they read: operator, attributes, expression, results'
 * shapes? Nodes that do have the same hash. */
bool tdn_node_alike(const tdn_node *a, const tdn_node *b);
uint64_t tdn_node_alike_hash(const tdn_node *n);
/* The value that a node like n makes of `in` (as many as n has), before `before`: n has one result,
 * whose dtype the new one has; its shape is for the caller to know. NULL: no memory. */
tdn_value *tdn_node_copy(tdn_graph *g, tdn_node *before, const tdn_node *n, tdn_value *const *in,
                         const tdn_shape *shape);
/* Numbers the nodes in order, in `mark`. */
void tdn_graph_number(tdn_graph *g);
/* A new value after v, to be given a producer that reads v: it takes v's readers, shape and name.
 * NULL: no memory. */
tdn_value *tdn_value_follow(tdn_graph *g, tdn_value *v);

/* A value as a strided view of another's dense elements. */
typedef struct tdn_traced {
    tdn_value *of; /* what no view op made */
    tdn_view view; /* without data */
    int64_t offset;
    bool is_sliced;
    bool is_alone; /* nothing behind the last slice is read by others, v included */
} tdn_traced;
/* False where a reshape's strides do not say it. */
bool tdn_trace_views(tdn_value *v, tdn_traced *traced);

/* Is v a slice along the axis alone, forwards, of *of from *start on? */
bool tdn_trace_slice(const tdn_value *v, int64_t axis, tdn_value **of, int64_t *start);
/* Product of all dims but the last two. */
int64_t tdn_shape_batches(const tdn_shape *s);
/* Is every window of the convolution a single position? */
bool tdn_conv_is_pointwise(const tdn_node *conv);

/*
 * Which axis of each value is the batch, when axis `axis` of the inputs is and no element of one
 * sample depends on another sample: axes[value id], or -1 for what does not depend on the inputs.
 * False (with the node's name in *where) when it cannot be proven. axes has g->n_values entries.
 */
bool tdn_graph_batch_axes(const tdn_graph *g, int axis, int32_t *axes, const char **where);

#endif
