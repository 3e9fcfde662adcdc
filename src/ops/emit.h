/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Short forms of tdn_emit for the core operators that decompositions are made of. They emit the
 * core form with all attributes set, whatever the model's opset, and return NULL with the error's
 * text set when that fails; a NULL operand gives NULL, so that calls can be chained and checked
 * once at the end (tdn_emit_end).
 */
#ifndef TDN_OPS_EMIT_H
#define TDN_OPS_EMIT_H

#include "ops/op.h"
#include "ref/window.h"

tdn_value *tdn_emit_reshape(tdn_infer *io, tdn_value *x, const tdn_shape *shape);
/* perm has x's rank. */
tdn_value *tdn_emit_transpose(tdn_infer *io, tdn_value *x, const int64_t *perm);
/* All have x's rank; starts and extents inside of x. */
tdn_value *tdn_emit_slice(tdn_infer *io, tdn_value *x, const int64_t *starts, const int64_t *steps,
                          const int64_t *extents);
tdn_value *tdn_emit_expand(tdn_infer *io, tdn_value *x, const tdn_shape *shape);
tdn_value *tdn_emit_concat(tdn_infer *io, tdn_value *const *x, int n, int axis);
tdn_value *tdn_emit_matmul(tdn_infer *io, tdn_value *a, tdn_value *b);
/* kind "sum", "mean", ...; axes not negative, at least one. */
tdn_value *tdn_emit_reduce(tdn_infer *io, tdn_value *x, const char *kind, const int64_t *axes,
                           int n, bool keepdims);
tdn_value *tdn_emit_softmax(tdn_infer *io, tdn_value *x, int axis, bool log);
/* One instruction over two inputs. */
tdn_value *tdn_emit_binary(tdn_infer *io, tdn_expr_op op, tdn_value *a, tdn_value *b);
/* A core convolution `op` (domain "tendon") of in, by this window and io->node's groups. */
tdn_value *tdn_emit_conv(tdn_infer *io, const char *op, tdn_value *const *in, int n_in,
                         const tdn_window *window);
/* x * scale. */
tdn_value *tdn_emit_scaled(tdn_infer *io, tdn_value *x, float scale);
/* A constant of one repeated number, F32. */
tdn_value *tdn_emit_full(tdn_infer *io, const tdn_shape *shape, float x);

/* Attributes to emit with; what they point to is copied then. */
static inline tdn_attr tdn_attr_of_ints(const char *name, const int64_t *v, int n)
{
    return (tdn_attr){.name = name, .kind = TDN_ATTR_INTS, .n = n, .ints = v};
}
static inline tdn_attr tdn_attr_of_int(const char *name, int64_t i)
{
    return (tdn_attr){.name = name, .kind = TDN_ATTR_INT, .i = i};
}
static inline tdn_attr tdn_attr_of_float(const char *name, float f)
{
    return (tdn_attr){.name = name, .kind = TDN_ATTR_FLOAT, .f = f};
}
tdn_attr tdn_attr_of_string(const char *name, const char *s);

/* Ends a decomposition with v as output 0. A NULL v is a failure whose text is set. */
tdn_status tdn_emit_end(tdn_infer *io, tdn_value *v);

/* Shape rules: the attribute's integers where it is there, else those of input (see
 * tdn_infer_ints). */
tdn_status tdn_infer_ints_either(tdn_infer *io, const char *attr, int input, int64_t *v, int max,
                                 int *n);
/* Fails with "what" in words where the model does not hold. */
tdn_status tdn_infer_need(tdn_infer *io, bool holds, const char *what);
#define TDN_NEED(io, holds, what) TDN_TRY(tdn_infer_need(io, holds, what))
/* Requires input i with a known shape of a rank in [min, max] and no bounded extent. */
tdn_status tdn_infer_rank(tdn_infer *io, int input, int min, int max);
/* The same, bounded extents allowed: the rule says which extents of the result they bound, and the
 * reference the true ones. */
tdn_status tdn_infer_rank_open(tdn_infer *io, int input, int min, int max);

#endif
