/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Contractions. MatMul is core as it is. Gemm is a MatMul between turned operands and a map; Einsum
 * of two operands is one MatMul between transposes and reshapes, of more operands a chain of such.
 */
#include <string.h>

#include "ops/dtype.h"
#include "ops/emit.h"
#include "ref/einsum.h"

static int64_t sat_mul(int64_t a, int64_t b)
{
    int64_t product;
    return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

/* ---- MatMul ---------------------------------------------------------------------------------- */

static tdn_status product_infer(tdn_infer *io, tdn_dtype dtype)
{
    TDN_TRY(tdn_infer_rank(io, 0, 1, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_rank(io, 1, 1, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    const tdn_value *a = io->node->in[0], *b = io->node->in[1];
    const int ra = a->shape.rank, rb = b->shape.rank;
    TDN_NEED(io, a->dtype == b->dtype, "operands of different types");
    const int64_t k = a->shape.dims[ra - 1], k_b = b->shape.dims[rb == 1 ? 0 : rb - 2];
    if (k != k_b)
        return tdn_fail(io->error, TDN_E_MODEL, "rows of %lld meet columns of %lld", (long long)k,
                        (long long)k_b);
    const tdn_shape a_batch = tdn_shape_make(ra > 2 ? ra - 2 : 0, a->shape.dims);
    const tdn_shape b_batch = tdn_shape_make(rb > 2 ? rb - 2 : 0, b->shape.dims);
    tdn_shape y;
    TDN_TRY(tdn_infer_broadcast(io, &a_batch, &b_batch, &y));
    if (ra > 1)
        y.dims[y.rank++] = a->shape.dims[ra - 2];
    if (rb > 1)
        y.dims[y.rank++] = b->shape.dims[rb - 1];
    return tdn_infer_set(io, 0, dtype, &y);
}

static tdn_status matmul_infer(tdn_infer *io)
{
    return product_infer(io, tdn_in(io->node, 0) ? io->node->in[0]->dtype : TDN_F32);
}

/* Products of halves, whose sums are float32. */
static tdn_status half_matmul_infer(tdn_infer *io) { return product_infer(io, TDN_F32); }

static int64_t matmul_flops(const tdn_node *node)
{
    const tdn_shape *a = &node->in[0]->shape;
    return sat_mul(sat_mul(2, a->rank ? a->dims[a->rank - 1] : 1),
                   tdn_shape_count(&node->out[0]->shape));
}

/* ---- Mix ----------------------------------------------------------------------------------- */

static tdn_status mix_infer(tdn_infer *io)
{
    const tdn_shape *x = &io->node->in[0]->shape, *w = &io->node->in[1]->shape;
    const int64_t n_axes = tdn_attr_int(&io->node->attrs, "n_axes", 1);
    TDN_TRY(tdn_infer_rank(io, 0, 1, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_rank(io, 1, 2, 2));
    TDN_NEED(io, n_axes >= 1 && n_axes <= x->rank, "attribute n_axes is out of range");
    tdn_shape y = {.rank = x->rank - (int32_t)n_axes};
    int64_t k = 1;
    for (int i = 0; i < x->rank; i++)
        if (i < y.rank)
            y.dims[i] = x->dims[i];
        else
            k = sat_mul(k, x->dims[i]);
    TDN_NEED(io, k == w->dims[0], "a matrix of other rows than there are elements");
    y.dims[y.rank++] = w->dims[1];
    return tdn_infer_set(io, 0, TDN_F32, &y);
}

static int64_t mix_flops(const tdn_node *node)
{
    const tdn_value *w = node->in[1];
    const float *data = w->data;
    int64_t n = 0, rows = 1;
    for (int64_t i = 0; data && i < tdn_shape_count(&w->shape); i++)
        n += data[i] != 0;
    for (int i = 0; i + 1 < node->out[0]->shape.rank; i++)
        rows = sat_mul(rows, node->out[0]->shape.dims[i]);
    return sat_mul(2 * n, rows);
}

/* ---- GraphConv ------------------------------------------------------------------------------- */

static tdn_status graphconv_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 4, 4));
    TDN_TRY(tdn_infer_rank(io, 1, 2, 2));
    TDN_TRY(tdn_infer_rank(io, 2, 3, 3));
    TDN_TRY(tdn_infer_rank(io, 3, 2, 2));
    const tdn_shape *x = &io->node->in[0]->shape, *w = &io->node->in[1]->shape;
    const tdn_shape *a = &io->node->in[2]->shape, *b = &io->node->in[3]->shape;
    TDN_NEED(io,
             sat_mul(a->dims[0], x->dims[1]) == w->dims[1] && a->dims[1] == x->dims[3] &&
                 b->dims[0] == a->dims[2] && b->dims[1] == w->dims[0],
             "operands of a graph convolution that do not fit");
    tdn_shape y = *x;
    y.dims[1] = w->dims[0];
    y.dims[3] = a->dims[2];
    return tdn_infer_set(io, 0, TDN_F32, &y);
}

static int64_t graphconv_flops(const tdn_node *node)
{
    const tdn_shape *x = &node->in[0]->shape, *w = &node->in[1]->shape;
    const tdn_shape *a = &node->in[2]->shape;
    const int64_t rows = sat_mul(x->dims[0], x->dims[2]);
    return sat_mul(2 * rows, sat_mul(a->dims[2], sat_mul(w->dims[0], w->dims[1])));
}

/* ---- Attend ---------------------------------------------------------------------------------- */

static tdn_status attend_infer(tdn_infer *io)
{
    const bool is_mean = tdn_attr_int(&io->node->attrs, "mean", 0) != 0;
    tdn_shape y = {0};
    for (int i = 0; i < 3 - is_mean; i++) {
        TDN_TRY(tdn_infer_rank(io, i, 2, TDN_MAX_RANK));
        const tdn_shape *x = &io->node->in[i]->shape;
        const tdn_shape batch = tdn_shape_make(x->rank - 2, x->dims), all = y;
        TDN_TRY(tdn_infer_broadcast(io, &all, &batch, &y));
    }
    const tdn_shape *q = &io->node->in[0]->shape, *k = &io->node->in[1]->shape;
    const int64_t *queries = q->dims + q->rank - 2, *keys = k->dims + k->rank - 2;
    TDN_NEED(io, queries[1] == keys[0], "queries and keys of different lengths");
    y.dims[y.rank++] = is_mean ? 1 : queries[0];
    y.dims[y.rank++] = keys[1];
    if (is_mean)
        return tdn_infer_set(io, 0, TDN_F32, &y);
    const tdn_shape *v = &io->node->in[2]->shape;
    TDN_NEED(io, v->dims[v->rank - 2] == keys[1], "other numbers of keys and of values");
    y.dims[y.rank - 1] = v->dims[v->rank - 1];
    return tdn_infer_set(io, 0, TDN_F32, &y);
}

static int64_t attend_flops(const tdn_node *node)
{
    const tdn_shape *q = &node->in[0]->shape, *k = &node->in[1]->shape, *y = &node->out[0]->shape;
    const bool is_mean = tdn_attr_int(&node->attrs, "mean", 0) != 0;
    const int64_t n_keys = k->dims[k->rank - 1], n_values = is_mean ? 0 : y->dims[y->rank - 1];
    int64_t rows = q->dims[q->rank - 2];
    for (int i = 0; i + 2 < y->rank; i++)
        rows = sat_mul(rows, y->dims[i]);
    return sat_mul(2 * rows, sat_mul(n_keys, q->dims[q->rank - 1] + n_values));
}

/* ---- Gemm ------------------------------------------------------------------------------------ */

static tdn_status gemm_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 2, 2));
    TDN_TRY(tdn_infer_rank(io, 1, 2, 2));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_numbers));
    const tdn_value *a = io->node->in[0], *b = io->node->in[1], *c = tdn_in(io->node, 2);
    const int ta = tdn_attr_int(&io->node->attrs, "transA", 0) != 0;
    const int tb = tdn_attr_int(&io->node->attrs, "transB", 0) != 0;
    TDN_NEED(io, a->dtype == b->dtype && (!c || c->dtype == a->dtype),
             "operands of different types");
    TDN_NEED(io, a->shape.dims[!ta] == b->shape.dims[tb], "the inner extents of A and B differ");
    const tdn_shape y = tdn_shape_make(2, (int64_t[]){a->shape.dims[ta], b->shape.dims[!tb]});
    tdn_shape wide;
    if (c) {
        TDN_TRY(tdn_infer_rank(io, 2, 0, 2));
        TDN_TRY(tdn_infer_broadcast(io, &y, &c->shape, &wide));
        TDN_NEED(io, tdn_shape_equal(&y, &wide), "C is larger than the product");
    }
    return tdn_infer_set(io, 0, a->dtype, &y);
}

static tdn_status gemm_decompose(tdn_infer *io)
{
    static const int64_t perm[2] = {1, 0};
    tdn_value *a = io->node->in[0], *b = io->node->in[1], *c = tdn_in(io->node, 2);
    const float alpha = tdn_attr_float(&io->node->attrs, "alpha", 1),
                beta = tdn_attr_float(&io->node->attrs, "beta", 1);
    if (a->dtype != TDN_F32)
        return TDN_OK; /* a map computes in fp32 */
    if (tdn_attr_int(&io->node->attrs, "transA", 0))
        a = tdn_emit_transpose(io, a, perm);
    if (tdn_attr_int(&io->node->attrs, "transB", 0))
        b = tdn_emit_transpose(io, b, perm);
    tdn_value *y = tdn_emit_matmul(io, a, b);
    if (alpha != 1)
        y = tdn_emit_scaled(io, y, alpha);
    if (c && beta != 1)
        c = tdn_emit_scaled(io, c, beta);
    if (tdn_in(io->node, 2))
        y = tdn_emit_binary(io, TDN_X_ADD, y, c);
    return tdn_emit_end(io, y);
}

static int64_t gemm_flops(const tdn_node *node)
{
    const int64_t k = node->in[0]->shape.dims[!tdn_attr_int(&node->attrs, "transA", 0)];
    return sat_mul(sat_mul(2, k), tdn_shape_count(&node->out[0]->shape));
}

/* ---- Einsum ---------------------------------------------------------------------------------- */

static tdn_status einsum_parse(tdn_infer *io, tdn_einsum *e, int64_t *extents)
{
    int ranks[TDN_EINSUM_IN];
    const int64_t *dims[TDN_EINSUM_IN];
    const tdn_node *node = io->node;
    TDN_NEED(io, node->n_in >= 1 && node->n_in <= TDN_EINSUM_IN, "too many operands");
    for (int i = 0; i < node->n_in; i++) {
        TDN_TRY(tdn_infer_rank(io, i, 0, TDN_MAX_RANK));
        TDN_TRY(tdn_infer_dtype(io, i, tdn_dtypes_numbers));
        TDN_NEED(io, node->in[i]->dtype == node->in[0]->dtype, "operands of different types");
        ranks[i] = node->in[i]->shape.rank;
        dims[i] = node->in[i]->shape.dims;
    }
    const char *wrong =
        tdn_einsum_parse(e, tdn_attr_string(&node->attrs, "equation", ""), ranks, node->n_in);
    TDN_NEED(io, !wrong, wrong);
    TDN_NEED(io, tdn_einsum_extents(e, dims, extents), "a letter stands for different extents");
    return TDN_OK;
}

static tdn_status einsum_infer(tdn_infer *io)
{
    tdn_einsum e;
    int64_t extents[TDN_EINSUM_LETTERS];
    TDN_TRY(einsum_parse(io, &e, extents));
    tdn_shape y = {.rank = e.n_out};
    for (int i = 0; i < e.n_out; i++)
        y.dims[i] = extents[e.out[i]];
    int n_summed = 0;
    for (int l = 0; l < e.n_letters; l++)
        n_summed += !memchr(e.out, l, (size_t)e.n_out);
    if (n_summed > TDN_MAX_RANK)
        return tdn_fail(io->error, TDN_E_UNSUPPORTED, "it sums over more than %d letters",
                        TDN_MAX_RANK);
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

static int64_t einsum_flops(const tdn_node *node)
{
    tdn_einsum e;
    int ranks[TDN_EINSUM_IN];
    const int64_t *dims[TDN_EINSUM_IN];
    int64_t extents[TDN_EINSUM_LETTERS], flops = node->n_in;
    for (int i = 0; i < node->n_in && i < TDN_EINSUM_IN; i++) {
        ranks[i] = node->in[i]->shape.rank;
        dims[i] = node->in[i]->shape.dims;
    }
    if (tdn_einsum_parse(&e, tdn_attr_string(&node->attrs, "equation", ""), ranks, node->n_in) ||
        !tdn_einsum_extents(&e, dims, extents))
        return 0;
    for (int l = 0; l < e.n_letters; l++)
        flops = sat_mul(flops, extents[l]);
    return flops;
}

/* Sets of letters, as bits. */
typedef uint64_t letters;
static letters letters_of(const int8_t *axes, int n)
{
    letters set = 0;
    for (int i = 0; i < n; i++)
        set |= (letters)1 << axes[i];
    return set;
}

/* A value and the letters of its axes. */
typedef struct labelled {
    tdn_value *v;
    int n;
    int8_t axes[TDN_MAX_RANK];
} labelled;

/* Sums over the letters in `set`. */
static void sum_out(tdn_infer *io, labelled *x, letters set)
{
    int64_t axes[TDN_MAX_RANK];
    int n = 0, kept = 0;
    for (int i = 0; i < x->n; i++)
        if (set >> x->axes[i] & 1)
            axes[n++] = i;
        else
            x->axes[kept++] = x->axes[i];
    if (n)
        x->v = tdn_emit_reduce(io, x->v, "sum", axes, n, false);
    x->n = kept;
}

/* Puts axes into the given order, which has the same letters. */
static void arrange(tdn_infer *io, labelled *x, const int8_t *order)
{
    int64_t perm[TDN_MAX_RANK];
    bool same = true;
    for (int i = 0; i < x->n; i++) {
        perm[i] = (const int8_t *)memchr(x->axes, order[i], (size_t)x->n) - x->axes;
        same = same && perm[i] == i;
    }
    if (!same)
        x->v = tdn_emit_transpose(io, x->v, perm);
    memcpy(x->axes, order, (size_t)x->n);
}

/* Appends the axes of `from` that are in the set, in from's order. */
static int append(int8_t *order, int n, const labelled *from, letters set)
{
    for (int i = 0; i < from->n; i++)
        if (set >> from->axes[i] & 1)
            order[n++] = from->axes[i];
    return n;
}

static int64_t extent_of(const labelled *x, letters set, const int64_t *extents)
{
    int64_t n = 1;
    for (int i = 0; i < x->n; i++)
        n *= set >> x->axes[i] & 1 ? extents[x->axes[i]] : 1;
    return n;
}

/* a and b as matrices with a joint batch axis, multiplied: axes are then batch, a's
 * own, b's own. */
static labelled contract(tdn_infer *io, labelled *a, labelled *b, letters out,
                         const int64_t *extents)
{
    const letters in_a = letters_of(a->axes, a->n), in_b = letters_of(b->axes, b->n);
    sum_out(io, a, in_a & ~in_b & ~out);
    sum_out(io, b, in_b & ~in_a & ~out);
    const letters batch = in_a & in_b & out, k = in_a & in_b & ~out;
    const letters m = in_a & ~in_b & out, n = in_b & ~in_a & out;
    int8_t order[2 * TDN_MAX_RANK];
    append(order, append(order, append(order, 0, a, batch), a, m), a, k);
    arrange(io, a, order);
    append(order, append(order, append(order, 0, a, batch), a, k), b,
           n); /* a's order of the shared letters */
    arrange(io, b, order);
    labelled y = {0};
    y.n = append(y.axes, append(y.axes, append(y.axes, 0, a, batch), a, m), b, n);
    const int64_t bx = extent_of(a, batch, extents), mx = extent_of(a, m, extents);
    const int64_t kx = extent_of(a, k, extents), nx = extent_of(b, n, extents);
    const int at = batch == 0; /* without a batch: matrices */
    const tdn_shape sa = tdn_shape_make(3 - at, &(int64_t[]){bx, mx, kx}[at]);
    const tdn_shape sb = tdn_shape_make(3 - at, &(int64_t[]){bx, kx, nx}[at]);
    tdn_shape sy = {.rank = y.n};
    for (int i = 0; i < y.n; i++)
        sy.dims[i] = extents[y.axes[i]];
    y.v = tdn_emit_matmul(io, tdn_emit_reshape(io, a->v, &sa), tdn_emit_reshape(io, b->v, &sb));
    y.v = tdn_emit_reshape(io, y.v, &sy);
    return y;
}

/* Has no letter twice in an operand, and every axis its letter's full extent? */
static bool is_plain(const tdn_einsum *e, const tdn_node *node, const int64_t *extents)
{
    for (int i = 0; i < e->n_in; i++) {
        letters seen = 0;
        for (int k = 0; k < e->rank[i]; k++) {
            const letters bit = (letters)1 << e->in[i][k];
            if ((seen & bit) || node->in[i]->shape.dims[k] != extents[e->in[i][k]])
                return false;
            seen |= bit;
        }
    }
    return true;
}

static labelled operand(const tdn_infer *io, const tdn_einsum *e, int i)
{
    labelled x = {.v = io->node->in[i], .n = e->rank[i]};
    memcpy(x.axes, e->in[i], sizeof x.axes);
    return x;
}

/* The output's letters of a chain's first step: those of a and b that something later reads. */
static letters needed_later(const tdn_einsum *e, int from)
{
    letters set = letters_of(e->out, e->n_out);
    for (int i = from; i < e->n_in; i++)
        set |= letters_of(e->in[i], e->rank[i]);
    return set;
}

static tdn_status einsum_decompose(tdn_infer *io)
{
    tdn_einsum e;
    int64_t extents[TDN_EINSUM_LETTERS];
    if (io->node->in[0]->dtype != TDN_F32)
        return TDN_OK;
    TDN_TRY(einsum_parse(io, &e, extents));
    if (!is_plain(&e, io->node, extents))
        return TDN_OK;
    for (int i = 2; i < e.n_in; i++) { /* no step may have a result of too high a rank */
        letters made = 0;
        for (int k = 0; k < i; k++)
            made |= letters_of(e.in[k], e.rank[k]);
        if (__builtin_popcountll(made & needed_later(&e, i)) > TDN_MAX_RANK)
            return TDN_OK;
    }
    labelled x = operand(io, &e, 0);
    const tdn_value *input = x.v;
    for (int i = 1; i < e.n_in; i++) {
        labelled b = operand(io, &e, i);
        x = contract(io, &x, &b, needed_later(&e, i + 1), extents);
        if (!x.v)
            return TDN_E_NOMEM;
    }
    sum_out(io, &x, ~letters_of(e.out, e.n_out));
    if (x.v)
        arrange(io, &x, e.out);
    if (x.v == input) /* nothing to do but to have a node */
        x.v = tdn_emit_reshape(io, x.v, &x.v->shape);
    return tdn_emit_end(io, x.v);
}

/* ---- Determinant ----------------------------------------------------------------------------- */

static tdn_status det_infer(tdn_infer *io)
{
    TDN_TRY(tdn_infer_rank(io, 0, 2, TDN_MAX_RANK));
    TDN_TRY(tdn_infer_dtype(io, 0, tdn_dtypes_floats));
    tdn_shape y = io->node->in[0]->shape;
    TDN_NEED(io, y.dims[y.rank - 1] == y.dims[y.rank - 2], "the matrices are not square");
    y.rank -= 2;
    return tdn_infer_set(io, 0, io->node->in[0]->dtype, &y);
}

static int64_t det_flops(const tdn_node *node)
{
    const tdn_shape *x = &node->in[0]->shape;
    return sat_mul(tdn_shape_count(x), x->dims[x->rank - 1]);
}

#define ROW(name_, since_, min_in_, max_in_)                                                       \
    .name = name_, .domain = "", .since = since_, .n_in_min = min_in_, .n_in_max = max_in_,        \
    .n_out_min = 1, .n_out_max = 1

const tdn_op_def tdn_ops_matmul[] = {
    {ROW("MatMul", 1, 2, 2), .infer = matmul_infer, .core = TDN_CORE_MATMUL, .flops = matmul_flops},
    {.name = "HalfMatMul",
     .domain = "tendon",
     .since = 1,
     .n_in_min = 2,
     .n_in_max = 2,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = half_matmul_infer,
     .core = TDN_CORE_HALF_MATMUL,
     .reference = "MatMul",
     .flops = matmul_flops},
    {.name = "Mix",
     .domain = "tendon",
     .since = 1,
     .n_in_min = 2,
     .n_in_max = 2,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = mix_infer,
     .core = TDN_CORE_MIX,
     .flops = mix_flops},
    {.name = "GraphConv",
     .domain = "tendon",
     .since = 1,
     .n_in_min = 4,
     .n_in_max = 4,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = graphconv_infer,
     .core = TDN_CORE_GRAPHCONV,
     .flops = graphconv_flops},
    {.name = "Attend",
     .domain = "tendon",
     .since = 1,
     .n_in_min = 2,
     .n_in_max = 4,
     .n_out_min = 1,
     .n_out_max = 1,
     .infer = attend_infer,
     .core = TDN_CORE_ATTEND,
     .flops = attend_flops},
    {ROW("Gemm", 7, 2, 3), .infer = gemm_infer, .decompose = gemm_decompose, .flops = gemm_flops},
    {ROW("Einsum", 12, 1, -1), .infer = einsum_infer, .decompose = einsum_decompose,
     .flops = einsum_flops},
    {ROW("Det", 11, 1, 1), .infer = det_infer, .flops = det_flops},
    {0},
};
