/* SPDX-License-Identifier: Apache-2.0 */
/* Short forms for decompositions: each makes one core node. See emit.h. */
#include "ops/emit.h"

#include <string.h>

tdn_attr tdn_attr_of_string(const char *name, const char *s)
{
    return (tdn_attr){.name = name, .kind = TDN_ATTR_STRING, .n = (int32_t)strlen(s), .s = s};
}

tdn_value *tdn_emit_reshape(tdn_infer *io, tdn_value *x, const tdn_shape *shape)
{
    const tdn_attr attr = tdn_attr_of_ints("shape", shape->dims, shape->rank);
    return x ? tdn_emit(io, "tendon", "Reshape", &x, 1, &attr, 1) : NULL;
}

tdn_value *tdn_emit_transpose(tdn_infer *io, tdn_value *x, const int64_t *perm)
{
    if (!x)
        return NULL;
    const tdn_attr attr = tdn_attr_of_ints("perm", perm, x->shape.rank);
    return tdn_emit(io, "", "Transpose", &x, 1, &attr, 1);
}

tdn_value *tdn_emit_slice(tdn_infer *io, tdn_value *x, const int64_t *starts, const int64_t *steps,
                          const int64_t *extents)
{
    if (!x)
        return NULL;
    const tdn_attr attrs[3] = {
        tdn_attr_of_ints("starts", starts, x->shape.rank),
        tdn_attr_of_ints("steps", steps, x->shape.rank),
        tdn_attr_of_ints("extents", extents, x->shape.rank),
    };
    return tdn_emit(io, "tendon", "Slice", &x, 1, attrs, 3);
}

tdn_value *tdn_emit_expand(tdn_infer *io, tdn_value *x, const tdn_shape *shape)
{
    tdn_value *dims = tdn_graph_const_ints(io->graph, shape->dims, shape->rank);
    if (!dims)
        tdn_fail_nomem(io->error, "a shape");
    return x && dims ? tdn_emit(io, "", "Expand", (tdn_value *[]){x, dims}, 2, NULL, 0) : NULL;
}

tdn_value *tdn_emit_concat(tdn_infer *io, tdn_value *const *x, int n, int axis)
{
    for (int i = 0; i < n; i++)
        if (!x[i])
            return NULL;
    const tdn_attr attr = tdn_attr_of_int("axis", axis);
    return tdn_emit(io, "", "Concat", x, n, &attr, 1);
}

tdn_value *tdn_emit_matmul(tdn_infer *io, tdn_value *a, tdn_value *b)
{
    return a && b ? tdn_emit(io, "", "MatMul", (tdn_value *[]){a, b}, 2, NULL, 0) : NULL;
}

tdn_value *tdn_emit_reduce(tdn_infer *io, tdn_value *x, const char *kind, const int64_t *axes,
                           int n, bool keepdims)
{
    const tdn_attr attrs[3] = {
        tdn_attr_of_string("kind", kind),
        tdn_attr_of_ints("axes", axes, n),
        tdn_attr_of_int("keepdims", keepdims),
    };
    return x ? tdn_emit(io, "tendon", "Reduce", &x, 1, attrs, 3) : NULL;
}

tdn_value *tdn_emit_softmax(tdn_infer *io, tdn_value *x, int axis, bool log)
{
    const tdn_attr attrs[2] = {tdn_attr_of_int("axis", axis), tdn_attr_of_int("log", log)};
    return x ? tdn_emit(io, "tendon", "Softmax", &x, 1, attrs, 2) : NULL;
}

tdn_value *tdn_emit_binary(tdn_infer *io, tdn_expr_op op, tdn_value *a, tdn_value *b)
{
    tdn_expr e = {.n_in = 2, .n_out = 1};
    tdn_expr_store(&e, tdn_expr_add(&e, op, tdn_expr_input(&e, 0), tdn_expr_input(&e, 1), 0), 0);
    return a && b ? tdn_emit_map(io, (tdn_value *[]){a, b}, 2, &e, a->dtype) : NULL;
}

tdn_value *tdn_emit_conv(tdn_infer *io, const char *op, tdn_value *const *in, int n_in,
                         const tdn_window *window)
{
    int64_t pads[2 * TDN_WINDOW_MAX];
    memcpy(pads, window->before, (size_t)window->n * sizeof *pads);
    memcpy(pads + window->n, window->after, (size_t)window->n * sizeof *pads);
    const tdn_attr attrs[4] = {
        tdn_attr_of_ints("strides", window->stride, window->n),
        tdn_attr_of_ints("dilations", window->dilation, window->n),
        tdn_attr_of_ints("pads", pads, 2 * window->n),
        tdn_attr_of_int("group", tdn_attr_int(&io->node->attrs, "group", 1)),
    };
    return tdn_emit(io, "tendon", op, in, n_in, attrs, 4);
}

tdn_value *tdn_emit_scaled(tdn_infer *io, tdn_value *x, float scale)
{
    tdn_expr e = {.n_in = 1, .n_out = 1};
    tdn_expr_store(
        &e, tdn_expr_add(&e, TDN_X_MUL, tdn_expr_input(&e, 0), tdn_expr_const(&e, scale), 0), 0);
    return x ? tdn_emit_map(io, &x, 1, &e, x->dtype) : NULL;
}

tdn_value *tdn_emit_full(tdn_infer *io, const tdn_shape *shape, float x)
{
    const size_t n = (size_t)tdn_shape_count(shape);
    float *data = tdn_arena_alloc_data(io->graph->arena, n * sizeof *data);
    for (size_t i = 0; data && i < n; i++)
        data[i] = x;
    tdn_value *v = data ? tdn_graph_const(io->graph, NULL, TDN_F32, shape, data) : NULL;
    if (!v)
        tdn_fail_nomem(io->error, "a constant");
    return v;
}

tdn_status tdn_emit_end(tdn_infer *io, tdn_value *v)
{
    if (!v)
        return TDN_E_NOMEM;
    tdn_emit_replace(io, 0, v);
    return TDN_OK;
}

tdn_status tdn_infer_ints_either(tdn_infer *io, const char *attr, int input, int64_t *v, int max,
                                 int *n)
{
    const int64_t *ints = tdn_attr_ints(&io->node->attrs, attr, n);
    if (!ints)
        return tdn_infer_ints(io, input, v, max, n);
    if (*n > max)
        return tdn_fail(io->error, TDN_E_MODEL,
                        "attribute '%s' has %d integers, at most %d make sense", attr, *n, max);
    memcpy(v, ints, (size_t)*n * sizeof *v);
    return TDN_OK;
}

tdn_status tdn_infer_need(tdn_infer *io, bool holds, const char *what)
{
    return holds ? TDN_OK : tdn_fail(io->error, TDN_E_MODEL, "%s", what);
}

tdn_status tdn_infer_rank_open(tdn_infer *io, int input, int min, int max)
{
    const tdn_value *v = tdn_in(io->node, input);
    if (!v)
        return tdn_fail(io->error, TDN_E_MODEL, "input %d is missing", input);
    if (v->shape.rank < min || v->shape.rank > max)
        return tdn_fail(io->error, TDN_E_MODEL, "input %d has rank %d, outside %d..%d", input,
                        v->shape.rank, min, max);
    return TDN_OK;
}

tdn_status tdn_infer_rank(tdn_infer *io, int input, int min, int max)
{
    TDN_TRY(tdn_infer_rank_open(io, input, min, max));
    if (io->node->in[input]->shape.bounded)
        return tdn_fail(io->error, TDN_E_UNSUPPORTED,
                        "input %d has an extent that is known at run time only", input);
    return TDN_OK;
}
