/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operators that move elements: transposes, reshapes, slices, joins, pads.
 *
 * The core forms have everything in attributes and one operand a tensor: Reshape, Slice and Pad of
 * the domain "tendon", and ONNX's Transpose, Expand and Concat, whose shape rules set the
 * attributes that ONNX lets out. All others are rewritten into them where that says the same, which
 * is nearly always: then they are views.
 */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"
#include "ref/ref_util.h"

/* ---- Reshapes -------------------------------------------------------------------------------- */

/* Fills in 0 (copy the input's extent) and -1 (what is left over). Bounded extents go where those
 * do. */
static tdn_status resolve_shape(tdn_infer *io, const tdn_shape *x, bool allow_zero, tdn_shape *y)
{
    int open = -1;
    int64_t known = 1, count = tdn_shape_count(x);
    for (int i = 0; i < y->rank; i++) {
        if (y->dims[i] == 0 && !allow_zero) {
            TDN_NEED(io, i < x->rank, "shape has a 0 where the input has no axis");
            y->dims[i] = x->dims[i];
            y->bounded |= x->bounded & 1u << i;
        }
        if (y->dims[i] == -1) {
            TDN_NEED(io, open < 0, "shape has more than one -1");
            open = i;
            continue;
        }
        TDN_NEED(io, y->dims[i] >= 0 && !__builtin_mul_overflow(known, y->dims[i], &known),
                 "shape out of range");
    }
    if (open >= 0) {
        y->dims[open] = known ? count / known : 0;
        y->bounded |= x->bounded & ~y->bounded ? 1u << open : 0;
    } else if (x->bounded & ~y->bounded) {
        return tdn_fail(io->error, TDN_E_UNSUPPORTED,
                        "a fixed shape for an extent that is known at run time only");
    }
    if (open >= 0 ? known * y->dims[open] != count : known != count) {
        char a[96], b[96];
        return tdn_fail(io->error, TDN_E_MODEL, "%s has not as many elements as %s",
                        tdn_shape_print(x, a, sizeof a), tdn_shape_print(y, b, sizeof b));
    }
    return TDN_OK;
}

static tdn_status reshape_infer(tdn_infer *io)
{
    const tdn_value *x = tdn_in(io->node, 0);
    tdn_shape y = {0};
    int n;
    TDN_TRY(tdn_infer_rank_open(io, 0, 0, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_ints_either(io, "shape", 1, y.dims, TDN_MAX_RANK, &n));
    y.rank = n;
    TDN_TRY(resolve_shape(io, &x->shape, tdn_attr_int(&io->node->attrs, "allowzero", 0) != 0, &y));
    return tdn_infer_set(io, 0, x->dtype, &y);
}

/* The core form: the attribute says all extents as they are. */
static tdn_status core_reshape_infer(tdn_infer *io)
{
    const tdn_value *x = tdn_in(io->node, 0);
    tdn_shape y = {0};
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK));
    const tdn_attr *shape = tdn_attr_find(&io->node->attrs, "shape");
    TDN_NEED(io, shape && shape->kind == TDN_ATTR_INTS && shape->n <= TDN_MAX_RANK,
             "attribute 'shape' is missing");
    y.rank = shape->n;
    for (int i = 0; i < y.rank; i++)
        y.dims[i] = shape->ints[i];
    TDN_TRY(resolve_shape(io, &x->shape, true, &y));
    return tdn_infer_set(io, 0, x->dtype, &y);
}

static tdn_status flatten_infer(tdn_infer *io)
{
    const tdn_value *x = tdn_in(io->node, 0);
    TDN_TRY(tdn_infer_rank_open(io, 0, 0, TDN_MAX_RANK));
    int64_t axis = tdn_attr_int(&io->node->attrs, "axis", 1);
    TDN_NEED(io, axis >= -x->shape.rank && axis <= x->shape.rank,
             "axis outside of the input's rank");
    axis += axis < 0 ? x->shape.rank : 0;
    tdn_shape y = {.rank = 2, .dims = {1, 1}};
    for (int i = 0; i < x->shape.rank; i++) {
        y.dims[i >= axis] *= x->shape.dims[i];
        y.bounded |= x->shape.bounded >> i & 1 ? 1u << (i >= axis) : 0;
    }
    return tdn_infer_set(io, 0, x->dtype, &y);
}

/* The axes as a set of bits. */
static tdn_status axes_mask(tdn_infer *io, int rank, uint32_t *mask, int *n)
{
    int64_t axes[TDN_MAX_RANK];
    *mask = 0;
    TDN_TRY(tdn_infer_ints_either(io, "axes", 1, axes, TDN_MAX_RANK, n));
    for (int i = 0; i < *n; i++) {
        int axis;
        TDN_TRY(tdn_infer_axis(io, axes[i], rank, &axis));
        TDN_NEED(io, !(*mask >> axis & 1), "an axis stands twice in 'axes'");
        *mask |= 1u << axis;
    }
    return TDN_OK;
}

static tdn_status squeeze_infer(tdn_infer *io)
{
    const tdn_value *x = tdn_in(io->node, 0);
    uint32_t mask;
    int n;
    TDN_TRY(tdn_infer_rank_open(io, 0, 0, TDN_MAX_RANK));
    TDN_TRY(axes_mask(io, x->shape.rank, &mask, &n));
    tdn_shape y = {0};
    for (int i = 0; i < x->shape.rank; i++) {
        const int64_t dim = x->shape.dims[i];
        const uint32_t open = x->shape.bounded >> i & 1;
        TDN_NEED(io, !(mask >> i & 1) || (dim == 1 && !open),
                 "squeezes an axis whose extent is not 1");
        if (n ? mask >> i & 1 : dim == 1 && !open)
            continue;
        y.bounded |= open << y.rank;
        y.dims[y.rank++] = dim;
    }
    return tdn_infer_set(io, 0, x->dtype, &y);
}

static tdn_status unsqueeze_infer(tdn_infer *io)
{
    const tdn_value *x = tdn_in(io->node, 0);
    int64_t axes[TDN_MAX_RANK];
    uint32_t mask;
    int n;
    TDN_TRY(tdn_infer_rank_open(io, 0, 0, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_ints_either(io, "axes", 1, axes, TDN_MAX_RANK, &n));
    tdn_shape y = {.rank = x->shape.rank + n};
    TDN_NEED(io, y.rank <= TDN_MAX_RANK, "the result has too many axes");
    TDN_TRY(axes_mask(io, y.rank, &mask, &n));
    for (int i = 0, from = 0; i < y.rank; i++) {
        const bool added = mask >> i & 1;
        y.bounded |= added ? 0 : (x->shape.bounded >> from & 1) << i;
        y.dims[i] = added ? 1 : x->shape.dims[from++];
    }
    return tdn_infer_set(io, 0, x->dtype, &y);
}

/* Where an extent is known at run time only, the reference finds it by the
 * operator's own operands. */
static tdn_status reshape_decompose(tdn_infer *io)
{
    if (io->node->in[0]->shape.bounded)
        return TDN_OK;
    return tdn_emit_end(io, tdn_emit_reshape(io, io->node->in[0], &io->node->out[0]->shape));
}

/* ---- Transpose, expand ----------------------------------------------------------------------- */

static tdn_status transpose_infer(tdn_infer *io)
{
    const tdn_value *x = tdn_in(io->node, 0);
    TDN_TRY(tdn_infer_rank_open(io, 0, 0, TDN_MAX_RANK));
    const int rank = x->shape.rank;
    int64_t reversed[TDN_MAX_RANK];
    int n;
    const int64_t *perm = tdn_attr_ints(&io->node->attrs, "perm", &n);
    if (!perm || (n == 0 && rank > 0)) {
        for (int i = 0; i < rank; i++)
            reversed[i] = rank - 1 - i;
        if (!tdn_node_set_ints(io->graph, io->node, "perm", reversed, rank))
            return tdn_fail_nomem(io->error, "attributes");
        perm = reversed;
        n = rank;
    }
    TDN_NEED(io, n == rank, "attribute 'perm' has not as many integers as the input has axes");
    tdn_shape y = {.rank = rank};
    uint32_t seen = 0;
    for (int i = 0; i < rank; i++) {
        const bool fresh = perm[i] >= 0 && perm[i] < rank && !(seen >> perm[i] & 1);
        TDN_NEED(io, fresh, "attribute 'perm' is no permutation");
        seen |= 1u << perm[i];
        y.dims[i] = x->shape.dims[perm[i]];
        y.bounded |= (x->shape.bounded >> perm[i] & 1) << i;
    }
    return tdn_infer_set(io, 0, x->dtype, &y);
}

static tdn_status expand_infer(tdn_infer *io)
{
    const tdn_value *x = tdn_in(io->node, 0);
    tdn_shape to = {0}, y;
    int n;
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_ints(io, 1, to.dims, TDN_MAX_RANK, &n));
    to.rank = n;
    for (int i = 0; i < n; i++)
        TDN_NEED(io, to.dims[i] >= 0, "shape has a negative extent");
    TDN_TRY(tdn_infer_broadcast(io, &x->shape, &to, &y));
    return tdn_infer_set(io, 0, x->dtype, &y);
}

/* ---- Slice ----------------------------------------------------------------------------------- */

typedef struct range {
    int64_t starts[TDN_MAX_RANK], steps[TDN_MAX_RANK], extents[TDN_MAX_RANK];
} range;

static range range_all(const tdn_shape *x)
{
    range r = {0};
    for (int i = 0; i < x->rank; i++) {
        r.steps[i] = 1;
        r.extents[i] = x->dims[i];
    }
    return r;
}

static tdn_status slice_range(tdn_infer *io, range *r)
{
    int64_t starts[TDN_MAX_RANK], ends[TDN_MAX_RANK], axes[TDN_MAX_RANK], steps[TDN_MAX_RANK];
    int n, n_ends, n_axes, n_steps;
    TDN_TRY(tdn_infer_rank_open(io, 0, 0, TDN_MAX_RANK));
    const tdn_shape *x = &io->node->in[0]->shape;
    TDN_TRY(tdn_infer_ints_either(io, "starts", 1, starts, TDN_MAX_RANK, &n));
    TDN_TRY(tdn_infer_ints_either(io, "ends", 2, ends, TDN_MAX_RANK, &n_ends));
    TDN_TRY(tdn_infer_ints_either(io, "axes", 3, axes, TDN_MAX_RANK, &n_axes));
    TDN_TRY(tdn_infer_ints(io, 4, steps, TDN_MAX_RANK, &n_steps));
    const bool counts = n_ends == n && (!n_axes || n_axes == n) && (!n_steps || n_steps == n);
    TDN_NEED(io, counts, "starts, ends, axes and steps have different lengths");
    *r = range_all(x);
    uint32_t seen = 0;
    for (int i = 0; i < n; i++) {
        int axis;
        TDN_TRY(tdn_infer_axis(io, n_axes ? axes[i] : i, x->rank, &axis));
        TDN_NEED(io, !(seen >> axis & 1), "an axis stands twice in 'axes'");
        seen |= 1u << axis;
        r->starts[axis] = starts[i];
        r->steps[axis] = n_steps ? steps[i] : 1;
        TDN_NEED(io,
                 tdn_slice_resolve(x->dims[axis], &r->starts[axis], ends[i], &r->steps[axis],
                                   &r->extents[axis]),
                 "a step is 0");
    }
    return TDN_OK;
}

static tdn_status slice_infer(tdn_infer *io)
{
    range r;
    TDN_TRY(slice_range(io, &r));
    tdn_shape y = tdn_shape_make(io->node->in[0]->shape.rank, r.extents);
    y.bounded = io->node->in[0]->shape.bounded;
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

static tdn_status slice_decompose(tdn_infer *io)
{
    range r;
    if (io->node->in[0]->shape.bounded)
        return TDN_OK;
    TDN_TRY(slice_range(io, &r));
    return tdn_emit_end(io, tdn_emit_slice(io, io->node->in[0], r.starts, r.steps, r.extents));
}

static tdn_status core_slice_infer(tdn_infer *io)
{
    int n[3];
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK));
    const tdn_value *x = io->node->in[0];
    const int64_t *starts = tdn_attr_ints(&io->node->attrs, "starts", &n[0]);
    const int64_t *steps = tdn_attr_ints(&io->node->attrs, "steps", &n[1]);
    const int64_t *extents = tdn_attr_ints(&io->node->attrs, "extents", &n[2]);
    for (int i = 0; i < 3; i++)
        TDN_NEED(io, n[i] == x->shape.rank, "starts, steps and extents need one integer an axis");
    for (int i = 0; i < x->shape.rank; i++) {
        const int64_t dim = x->shape.dims[i];
        int64_t last;
        const bool inside = extents[i] >= 0 &&
                            !__builtin_mul_overflow(extents[i] - 1, steps[i], &last) &&
                            (extents[i] == 0 || (starts[i] >= 0 && starts[i] < dim)) &&
                            (extents[i] < 2 || (last >= -starts[i] && last < dim - starts[i]));
        TDN_NEED(io, inside, "the slice leaves its input");
    }
    const tdn_shape y = tdn_shape_make(x->shape.rank, extents);
    return tdn_infer_set(io, 0, x->dtype, &y);
}

/* ---- Split and concat ------------------------------------------------------------------------ */

static tdn_status split_extents(tdn_infer *io, int *axis, int64_t *extents, int max)
{
    const tdn_node *node = io->node;
    int n;
    TDN_TRY(tdn_infer_rank(io, 0, 1, TDN_MAX_RANK));
    TDN_TRY(
        tdn_infer_axis(io, tdn_attr_int(&node->attrs, "axis", 0), node->in[0]->shape.rank, axis));
    TDN_NEED(io, node->n_out <= max, "too many outputs");
    TDN_TRY(tdn_infer_ints_either(io, "split", 1, extents, max, &n));
    const int64_t dim = node->in[0]->shape.dims[*axis], n_out = node->n_out;
    const int64_t asked = tdn_attr_int(&node->attrs, "num_outputs", n_out);
    TDN_NEED(io, (n == 0 || n == n_out) && asked == n_out,
             "split into a different number of parts than outputs");
    int64_t left = dim;
    for (int i = 0; i < n_out; i++) {
        if (n == 0) /* equal shares, the last one shorter */
            extents[i] = (dim + n_out - 1) / n_out < left ? (dim + n_out - 1) / n_out : left;
        TDN_NEED(io, extents[i] >= 0 && extents[i] <= left, "the parts are longer than the axis");
        left -= extents[i];
    }
    return tdn_infer_need(io, left == 0, "the parts are shorter than the axis");
}

enum { MAX_SPLIT = 1024 };

static tdn_status split_infer(tdn_infer *io)
{
    int axis;
    int64_t extents[MAX_SPLIT];
    TDN_TRY(split_extents(io, &axis, extents, MAX_SPLIT));
    for (int i = 0; i < io->node->n_out; i++) {
        tdn_shape y = io->node->in[0]->shape;
        y.dims[axis] = extents[i];
        TDN_TRY(tdn_infer_set(io, i, io->node->in[0]->dtype, &y));
    }
    return TDN_OK;
}

static tdn_status split_decompose(tdn_infer *io)
{
    int axis;
    int64_t extents[MAX_SPLIT];
    TDN_TRY(split_extents(io, &axis, extents, MAX_SPLIT));
    range r = range_all(&io->node->in[0]->shape);
    int64_t at = 0;
    for (int i = 0; i < io->node->n_out; i++) {
        r.extents[axis] = extents[i];
        r.starts[axis] = extents[i] ? at : 0;
        if (tdn_out(io->node, i)) {
            tdn_value *part = tdn_emit_slice(io, io->node->in[0], r.starts, r.steps, r.extents);
            if (!part)
                return TDN_E_NOMEM;
            tdn_emit_replace(io, i, part);
        }
        at += extents[i];
    }
    return TDN_OK;
}

static tdn_status concat_infer(tdn_infer *io)
{
    const tdn_node *node = io->node;
    int axis;
    for (int i = 0; i < node->n_in; i++)
        TDN_TRY(tdn_infer_rank_open(io, i, 1, TDN_MAX_RANK));
    tdn_shape y = node->in[0]->shape;
    const tdn_attr *attr = tdn_attr_find(&node->attrs, "axis");
    TDN_TRY(tdn_infer_axis(io, attr ? attr->i : 1, y.rank, &axis));
    y.dims[axis] = 0;
    for (int i = 0; i < node->n_in; i++) {
        const tdn_shape *x = &node->in[i]->shape;
        TDN_NEED(io, x->rank == y.rank && node->in[i]->dtype == node->in[0]->dtype,
                 "inputs of different rank or type");
        y.bounded |= x->bounded;
        for (int k = 0; k < y.rank; k++)
            TDN_NEED(io, k == axis || x->dims[k] == y.dims[k], "inputs whose other extents differ");
        TDN_NEED(io, !__builtin_add_overflow(y.dims[axis], x->dims[axis], &y.dims[axis]),
                 "result too large");
    }
    if ((!attr || attr->i != axis) && !tdn_node_set_int(io->graph, io->node, "axis", axis))
        return tdn_fail_nomem(io->error, "attributes");
    return tdn_infer_set(io, 0, node->in[0]->dtype, &y);
}

/* ---- Tile ------------------------------------------------------------------------------------ */

static tdn_status tile_infer(tdn_infer *io)
{
    int64_t repeats[TDN_MAX_RANK];
    int n;
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_ints(io, 1, repeats, TDN_MAX_RANK, &n));
    tdn_shape y = io->node->in[0]->shape;
    TDN_NEED(io, n == y.rank, "repeats has not as many integers as the input has axes");
    for (int i = 0; i < n; i++)
        TDN_NEED(io, repeats[i] >= 0 && !__builtin_mul_overflow(y.dims[i], repeats[i], &y.dims[i]),
                 "repeats out of range");
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

/* Each repeated axis d becomes (1, d), is expanded to (r, d), and joined again; declines where the
 * rank is too high. */
static tdn_status tile_decompose(tdn_infer *io)
{
    tdn_value *x = io->node->in[0];
    const tdn_shape *y = &io->node->out[0]->shape;
    tdn_shape split = {0}, wide = {0};
    for (int i = 0; i < y->rank; i++) {
        const int64_t dim = x->shape.dims[i];
        if (dim == 0)
            return TDN_OK;
        const bool repeated = y->dims[i] != dim && dim != 1;
        if (split.rank + repeated >= TDN_MAX_RANK)
            return TDN_OK;
        if (repeated) {
            split.dims[split.rank++] = 1;
            wide.dims[wide.rank++] = y->dims[i] / dim;
        }
        split.dims[split.rank++] = dim;
        wide.dims[wide.rank++] = repeated ? dim : y->dims[i];
    }
    tdn_value *v = tdn_emit_reshape(io, x, &split);
    return tdn_emit_end(io, tdn_emit_reshape(io, tdn_emit_expand(io, v, &wide), y));
}

/* ---- Pad ------------------------------------------------------------------------------------- */

/* Pads of all axes: before, then after. */
static tdn_status pad_amounts(tdn_infer *io, int64_t *pads)
{
    int64_t given[2 * TDN_MAX_RANK], axes[TDN_MAX_RANK];
    int n, n_axes;
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK));
    const int rank = io->node->in[0]->shape.rank;
    TDN_TRY(tdn_infer_ints_either(io, "pads", 1, given, 2 * TDN_MAX_RANK, &n));
    TDN_TRY(tdn_infer_ints(io, 3, axes, TDN_MAX_RANK, &n_axes));
    memset(pads, 0, 2 * TDN_MAX_RANK * sizeof *pads);
    if (!tdn_in(io->node, 3))
        n_axes = rank;
    TDN_NEED(io, n == 2 * n_axes, "pads has not two integers an axis");
    for (int i = 0; i < n_axes; i++) {
        int axis;
        TDN_TRY(tdn_infer_axis(io, tdn_in(io->node, 3) ? axes[i] : i, rank, &axis));
        pads[axis] = given[i];
        pads[rank + axis] = given[n_axes + i];
    }
    return TDN_OK;
}

static tdn_status pad_infer(tdn_infer *io)
{
    int64_t pads[2 * TDN_MAX_RANK];
    TDN_TRY(pad_amounts(io, pads));
    tdn_shape y = io->node->in[0]->shape;
    const bool constant =
        !strcmp(tdn_attr_string(&io->node->attrs, "mode", "constant"), "constant");
    for (int i = 0; i < y.rank; i++) {
        const bool fits = !__builtin_add_overflow(y.dims[i], pads[i], &y.dims[i]) &&
                          !__builtin_add_overflow(y.dims[i], pads[y.rank + i], &y.dims[i]) &&
                          y.dims[i] >= 0;
        TDN_NEED(io, fits, "pads out of range");
        const bool has = constant || y.dims[i] == 0 || io->node->in[0]->shape.dims[i] > 0;
        TDN_NEED(io, has, "pads an axis without elements from its elements");
    }
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

/* Constant mode in fp32: a slice where pads are negative, and the core pad. */
static tdn_status pad_decompose(tdn_infer *io)
{
    tdn_value *x = io->node->in[0];
    const int rank = x->shape.rank;
    int64_t pads[2 * TDN_MAX_RANK];
    double value;
    const tdn_value *given = tdn_in(io->node, 2);
    if (x->dtype != TDN_F32 ||
        strcmp(tdn_attr_string(&io->node->attrs, "mode", "constant"), "constant"))
        return TDN_OK;
    if (given && (given->kind != TDN_VALUE_CONST || tdn_shape_count(&given->shape) != 1))
        return TDN_OK;
    TDN_TRY(pad_amounts(io, pads));
    TDN_TRY(tdn_infer_scalar(io, 2, (double)tdn_attr_float(&io->node->attrs, "value", 0), &value));
    range r = range_all(&x->shape);
    bool cut = false;
    for (int i = 0; i < 2 * rank; i++) {
        if (pads[i] >= 0)
            continue;
        if (-pads[i] > r.extents[i % rank])
            return TDN_OK; /* takes more than there is: only the reference's way makes sense of it
                            */
        r.starts[i % rank] += i < rank ? -pads[i] : 0;
        r.extents[i % rank] += pads[i];
        pads[i] = 0;
        cut = true;
    }
    for (int i = 0; i < rank; i++)
        r.starts[i] = r.extents[i] ? r.starts[i] : 0;
    if (cut)
        x = tdn_emit_slice(io, x, r.starts, r.steps, r.extents);
    const tdn_attr attrs[2] = {tdn_attr_of_ints("pads", pads, 2 * rank),
                               tdn_attr_of_float("value", (float)value)};
    return tdn_emit_end(io, x ? tdn_emit(io, "tendon", "Pad", &x, 1, attrs, 2) : NULL);
}

static tdn_status center_crop_pad_infer(tdn_infer *io)
{
    int64_t to[TDN_MAX_RANK];
    int n, n_axes;
    TDN_TRY(tdn_infer_rank(io, 0, 0, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_ints(io, 1, to, TDN_MAX_RANK, &n));
    tdn_shape y = io->node->in[0]->shape;
    const int64_t *axes = tdn_attr_ints(&io->node->attrs, "axes", &n_axes);
    TDN_NEED(io, n == (axes ? n_axes : y.rank), "shape has not one integer an axis");
    for (int i = 0; i < n; i++) {
        int axis;
        TDN_TRY(tdn_infer_axis(io, axes ? axes[i] : i, y.rank, &axis));
        TDN_NEED(io, to[i] >= 0, "shape has a negative extent");
        y.dims[axis] = to[i];
    }
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

/* ---- Space and depth ------------------------------------------------------------------------- */

static tdn_status blocks_infer(tdn_infer *io, bool to_space)
{
    TDN_TRY(tdn_infer_rank(io, 0, 4, 4));
    const int64_t b = tdn_attr_int(&io->node->attrs, "blocksize", 0);
    tdn_shape y = io->node->in[0]->shape;
    TDN_NEED(io, b > 0 && b < 1 << 15, "attribute 'blocksize' out of range");
    const char *mode = tdn_attr_string(&io->node->attrs, "mode", "DCR");
    TDN_NEED(io, !strcmp(mode, "DCR") || !strcmp(mode, "CRD"),
             "attribute 'mode' is neither DCR nor CRD");
    if (to_space) {
        TDN_NEED(io, y.dims[1] % (b * b) == 0, "channels are no multiple of blocksize squared");
        y.dims[1] /= b * b;
        TDN_NEED(io, y.dims[2] <= INT64_MAX / b && y.dims[3] <= INT64_MAX / b, "result too large");
        y.dims[2] *= b;
        y.dims[3] *= b;
    } else {
        TDN_NEED(io, y.dims[2] % b == 0 && y.dims[3] % b == 0,
                 "height or width are no multiple of blocksize");
        TDN_NEED(io, y.dims[1] <= INT64_MAX / (b * b), "result too large");
        y.dims[1] *= b * b;
        y.dims[2] /= b;
        y.dims[3] /= b;
    }
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

static tdn_status depth_to_space_infer(tdn_infer *io) { return blocks_infer(io, true); }
static tdn_status space_to_depth_infer(tdn_infer *io) { return blocks_infer(io, false); }

static tdn_status depth_to_space_decompose(tdn_infer *io)
{
    const tdn_shape *x = &io->node->in[0]->shape, *y = &io->node->out[0]->shape;
    const int64_t b = tdn_attr_int(&io->node->attrs, "blocksize", 1);
    const bool dcr = !strcmp(tdn_attr_string(&io->node->attrs, "mode", "DCR"), "DCR");
    const tdn_shape split =
        dcr ? (tdn_shape){.rank = 6, .dims = {x->dims[0], b, b, y->dims[1], x->dims[2], x->dims[3]}}
            : (tdn_shape){.rank = 6,
                          .dims = {x->dims[0], y->dims[1], b, b, x->dims[2], x->dims[3]}};
    static const int64_t perm_dcr[6] = {0, 3, 4, 1, 5, 2}, perm_crd[6] = {0, 1, 4, 2, 5, 3};
    tdn_value *v = tdn_emit_reshape(io, io->node->in[0], &split);
    v = tdn_emit_transpose(io, v, dcr ? perm_dcr : perm_crd);
    return tdn_emit_end(io, tdn_emit_reshape(io, v, y));
}

static tdn_status space_to_depth_decompose(tdn_infer *io)
{
    const tdn_shape *x = &io->node->in[0]->shape, *y = &io->node->out[0]->shape;
    const int64_t b = tdn_attr_int(&io->node->attrs, "blocksize", 1);
    const bool dcr = !strcmp(tdn_attr_string(&io->node->attrs, "mode", "DCR"), "DCR");
    const tdn_shape split = {.rank = 6,
                             .dims = {x->dims[0], x->dims[1], y->dims[2], b, y->dims[3], b}};
    static const int64_t perm_dcr[6] = {0, 3, 5, 1, 2, 4}, perm_crd[6] = {0, 1, 3, 5, 2, 4};
    tdn_value *v = tdn_emit_reshape(io, io->node->in[0], &split);
    v = tdn_emit_transpose(io, v, dcr ? perm_dcr : perm_crd);
    return tdn_emit_end(io, tdn_emit_reshape(io, v, y));
}

/* ---- The rest: by reference ------------------------------------------------------------------ */

static tdn_status reverse_sequence_infer(tdn_infer *io)
{
    int batch, time;
    TDN_TRY(tdn_infer_rank(io, 0, 2, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_rank(io, 1, 1, 1));
    const tdn_shape *x = &io->node->in[0]->shape;
    TDN_TRY(tdn_infer_axis(io, tdn_attr_int(&io->node->attrs, "batch_axis", 1), x->rank, &batch));
    TDN_TRY(tdn_infer_axis(io, tdn_attr_int(&io->node->attrs, "time_axis", 0), x->rank, &time));
    TDN_NEED(io, batch != time, "batch_axis and time_axis are the same");
    TDN_NEED(io, io->node->in[1]->shape.dims[0] == x->dims[batch],
             "sequence_lens has not one length a batch");
    return tdn_infer_same(io);
}

static tdn_status trilu_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 2, TDN_MAX_RANK));
    return tdn_infer_same(io);
}

static tdn_status eye_like_infer(tdn_infer *io)
{
    tdn_dtype dtype;
    TDN_TRY(tdn_infer_rank(io, 0, 2, 2));
    TDN_TRY(tdn_infer_dtype_named(io, "dtype", io->node->in[0]->dtype, &dtype));
    return tdn_infer_set(io, 0, dtype, &io->node->in[0]->shape);
}

static tdn_status compress_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 1, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_rank(io, 1, 1, 1));
    const tdn_value *x = io->node->in[0], *condition = io->node->in[1];
    const tdn_attr *attr = tdn_attr_find(&io->node->attrs, "axis");
    tdn_shape y = x->shape;
    int axis = 0;
    if (attr)
        TDN_TRY(tdn_infer_axis(io, attr->i, y.rank, &axis));
    else
        y = (tdn_shape){.rank = 1, .dims = {tdn_shape_count(&x->shape)}};
    const int64_t n =
        condition->shape.dims[0] < y.dims[axis] ? condition->shape.dims[0] : y.dims[axis];
    y.dims[axis] = n;
    if (condition->kind == TDN_VALUE_CONST) {
        const tdn_view c = tdn_value_view(condition);
        y.dims[axis] = 0;
        for (int64_t i = 0; i < n; i++)
            y.dims[axis] += tdn_view_get_int(&c, i) != 0;
    } else {
        y.bounded = 1u << axis;
    }
    return tdn_infer_set(io, 0, x->dtype, &y);
}

static tdn_status col_to_image_infer(tdn_infer *io)
{
    int64_t image[TDN_MAX_RANK], block[TDN_MAX_RANK], elements = 1;
    int n, n_block;
    TDN_TRY(tdn_infer_rank(io, 0, 3, 3));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    TDN_TRY(tdn_infer_ints(io, 1, image, TDN_MAX_RANK - 2, &n));
    TDN_TRY(tdn_infer_ints(io, 2, block, TDN_MAX_RANK - 2, &n_block));
    const tdn_shape *x = &io->node->in[0]->shape;
    TDN_NEED(io, n == n_block && n > 0, "image_shape and block_shape have different lengths");
    for (int i = 0; i < n; i++)
        TDN_NEED(io, block[i] > 0 && !__builtin_mul_overflow(elements, block[i], &elements),
                 "block_shape out of range");
    TDN_NEED(io, x->dims[1] % elements == 0, "the elements of a block do not divide the channels");
    tdn_shape y = {.rank = 2 + n, .dims = {x->dims[0], x->dims[1] / elements}};
    memcpy(y.dims + 2, image, (size_t)n * sizeof *image);
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

#define RESHAPE(name_, since_, max_in_, rule_)                                                     \
    {                                                                                              \
        .name = name_, .domain = "", .since = since_, .n_in_min = 1, .n_in_max = max_in_,          \
        .n_out_min = 1, .n_out_max = 1, .infer = rule_, .decompose = reshape_decompose,            \
        .flops = tdn_flops_none                                                                    \
    }
#define ONE_OUT(name_, domain_, since_, min_in_, max_in_)                                          \
    .name = name_, .domain = domain_, .since = since_, .n_in_min = min_in_, .n_in_max = max_in_,   \
    .n_out_min = 1, .n_out_max = 1, .flops = tdn_flops_none

const tdn_op_def tdn_ops_movement[] = {
    RESHAPE("Reshape", 1, 2, reshape_infer),
    RESHAPE("Flatten", 1, 1, flatten_infer),
    RESHAPE("Squeeze", 1, 2, squeeze_infer),
    RESHAPE("Unsqueeze", 1, 2, unsqueeze_infer),
    {ONE_OUT("Identity", "", 1, 1, 1), .infer = tdn_infer_same, .core = TDN_CORE_RESHAPE},
    {ONE_OUT("Reshape", "tendon", 1, 1, 1), .infer = core_reshape_infer, .core = TDN_CORE_RESHAPE,
     .reference = "tendon.Reshape"},
    {ONE_OUT("Transpose", "", 1, 1, 1), .infer = transpose_infer, .core = TDN_CORE_TRANSPOSE},
    {ONE_OUT("Expand", "", 1, 2, 2), .infer = expand_infer, .core = TDN_CORE_EXPAND},
    {ONE_OUT("Concat", "", 1, 1, -1), .infer = concat_infer, .core = TDN_CORE_CONCAT},
    {ONE_OUT("Slice", "", 1, 1, 1), .infer = slice_infer, .decompose = slice_decompose,
     .reference = "Slice-1"},
    {ONE_OUT("Slice", "", 10, 3, 5), .infer = slice_infer, .decompose = slice_decompose},
    {ONE_OUT("Slice", "tendon", 1, 1, 1), .infer = core_slice_infer, .core = TDN_CORE_SLICE,
     .reference = "tendon.Slice"},
    {.name = "Split",
     .domain = "",
     .since = 1,
     .n_in_min = 1,
     .n_in_max = 2,
     .n_out_min = 1,
     .n_out_max = MAX_SPLIT,
     .flops = tdn_flops_none,
     .infer = split_infer,
     .decompose = split_decompose},
    {ONE_OUT("Tile", "", 6, 2, 2), .infer = tile_infer, .decompose = tile_decompose},
    {ONE_OUT("Pad", "", 2, 1, 1), .infer = pad_infer, .decompose = pad_decompose,
     .reference = "Pad-2"},
    {ONE_OUT("Pad", "", 11, 2, 4), .infer = pad_infer, .decompose = pad_decompose},
    {ONE_OUT("Pad", "tendon", 1, 1, 1), .infer = pad_infer, .core = TDN_CORE_PAD,
     .reference = "Pad-2"},
    {ONE_OUT("CenterCropPad", "", 18, 2, 2), .infer = center_crop_pad_infer},
    {ONE_OUT("DepthToSpace", "", 1, 1, 1), .infer = depth_to_space_infer,
     .decompose = depth_to_space_decompose},
    {ONE_OUT("SpaceToDepth", "", 1, 1, 1), .infer = space_to_depth_infer,
     .decompose = space_to_depth_decompose},
    {ONE_OUT("ReverseSequence", "", 10, 2, 2), .infer = reverse_sequence_infer},
    {ONE_OUT("Trilu", "", 14, 1, 2), .infer = trilu_infer},
    {ONE_OUT("EyeLike", "", 9, 1, 1), .infer = eye_like_infer},
    {ONE_OUT("Compress", "", 9, 2, 2), .infer = compress_infer},
    {ONE_OUT("Col2Im", "", 18, 3, 3), .infer = col_to_image_infer},
    {0},
};
