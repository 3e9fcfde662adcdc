/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of contractions.
 *
 * MatMul in fp32: four rows of a share each row of b, whose products are added to sums in double,
 * in blocks of columns that stay in L1; k runs in order, so the result does not depend on the
 * parts. Integers are summed modulo 2^64, other types in double. Gemm is the same over its
 * operands' views, turned where the attributes say so.
 */
#include <math.h>
#include <string.h>

#include "ref/einsum.h"
#include "ref/ref_util.h"

enum { ROWS = TDN_REF_ROWS, COLUMNS = 256 };

/* One matrix product: views of rank 2. */
typedef struct product {
    tdn_view a, b, y; /* (m, k), (k, n), (m, n) */
    int64_t a_at, b_at, y_at;
    tdn_view c; /* broadcast to (m, n); dtype NONE: none */
    double alpha, beta;
} product;

/* How a sum becomes an element: alpha * sum + beta * c; c of dtype NONE: none. */
static void finish(const product *p, int64_t i, int64_t j, double sum)
{
    sum *= p->alpha;
    if (p->c.dtype != TDN_DTYPE_NONE)
        sum += p->beta * tdn_ref_get(&p->c, i * p->c.strides[0] + j * p->c.strides[1]);
    tdn_ref_set(&p->y, p->y_at + i * p->y.strides[0] + j * p->y.strides[1], sum);
}

static void block_f32(const product *p, int64_t row, int rows, int64_t column, int64_t columns,
                      double *acc)
{
    const float *a = (const float *)p->a.data + p->a_at, *b = (const float *)p->b.data + p->b_at;
    const int64_t depth = p->a.dims[1];
    memset(acc, 0, ROWS * COLUMNS * sizeof *acc);
    for (int64_t k = 0; k < depth; k += TDN_REF_TERMS) {
        const int n = (int)(depth - k < TDN_REF_TERMS ? depth - k : TDN_REF_TERMS);
        double w[TDN_REF_TERMS][ROWS] = {{0}};
        const float *x[TDN_REF_TERMS];
        for (int t = 0; t < n; t++) {
            x[t] = b + (k + t) * p->b.strides[0] + column * p->b.strides[1];
            for (int r = 0; r < rows; r++)
                w[t][r] = (double)a[(row + r) * p->a.strides[0] + (k + t) * p->a.strides[1]];
        }
        tdn_ref_add_rows(acc, COLUMNS, x, n, p->b.strides[1], (const double(*)[ROWS])w, columns);
    }
    for (int r = 0; r < rows; r++)
        for (int64_t j = 0; j < columns; j++)
            finish(p, row + r, column + j, acc[r * COLUMNS + j]);
}

static void block_float(const product *p, int64_t row, int rows, int64_t column, int64_t columns)
{
    for (int64_t i = row; i < row + rows; i++)
        for (int64_t j = column; j < column + columns; j++) {
            double sum = 0;
            for (int64_t k = 0; k < p->a.dims[1]; k++)
                sum += tdn_ref_get(&p->a, p->a_at + i * p->a.strides[0] + k * p->a.strides[1]) *
                       tdn_ref_get(&p->b, p->b_at + k * p->b.strides[0] + j * p->b.strides[1]);
            finish(p, i, j, sum);
        }
}

static void block_int(const product *p, int64_t row, int rows, int64_t column, int64_t columns)
{
    const size_t size = tdn_dtype_size(p->y.dtype, 1);
    for (int64_t i = row; i < row + rows; i++)
        for (int64_t j = column; j < column + columns; j++) {
            uint64_t sum = 0;
            for (int64_t k = 0; k < p->a.dims[1]; k++)
                sum += (uint64_t)tdn_view_get_int(&p->a, p->a_at + i * p->a.strides[0] +
                                                             k * p->a.strides[1]) *
                       (uint64_t)tdn_view_get_int(&p->b, p->b_at + k * p->b.strides[0] +
                                                             j * p->b.strides[1]);
            const int64_t at = p->y_at + i * p->y.strides[0] + j * p->y.strides[1];
            memcpy((char *)p->y.data + at * (int64_t)size, &sum,
                   size); /* the low bytes: little-endian */
        }
}

static int64_t n_blocks(const tdn_view *y)
{
    return (y->dims[0] + ROWS - 1) / ROWS * ((y->dims[1] + COLUMNS - 1) / COLUMNS);
}

/* Blocks [begin, end) of a product. */
static void do_blocks(const product *p, int64_t begin, int64_t end, double *acc)
{
    const int64_t across = (p->y.dims[1] + COLUMNS - 1) / COLUMNS;
    for (int64_t i = begin; i < end; i++) {
        const int64_t row = i / across * ROWS, column = i % across * COLUMNS;
        const int64_t rows_left = p->y.dims[0] - row, columns_left = p->y.dims[1] - column;
        const int rows = (int)(rows_left < ROWS ? rows_left : ROWS);
        const int64_t columns = columns_left < COLUMNS ? columns_left : COLUMNS;
        if (p->y.dtype == TDN_F32 && p->a.dtype == TDN_F32 && p->b.dtype == TDN_F32)
            block_f32(p, row, rows, column, columns, acc);
        else if (tdn_ref_is_float(p->y.dtype) || p->c.dtype != TDN_DTYPE_NONE || p->alpha != 1)
            block_float(p, row, rows, column, columns);
        else
            block_int(p, row, rows, column, columns);
    }
}

static size_t scratch(const tdn_ref_call *call)
{
    (void)call;
    return ROWS * COLUMNS * sizeof(double);
}

/* ---- MatMul ---------------------------------------------------------------------------------- */

/* A vector as a matrix: axis `at` of extent 1 comes in. */
static tdn_view as_matrix(const tdn_view *v, bool is_row)
{
    tdn_view m = *v;
    if (m.rank != 1)
        return m;
    m.rank = 2;
    m.dims[is_row] = v->dims[0];
    m.strides[is_row] = v->strides[0];
    m.dims[!is_row] = 1;
    m.strides[!is_row] = 0;
    return m;
}

/* The output with the axes that vectors lost, so that its last two are (m, n). */
static bool output_matrix(const tdn_view *y, bool a_vector, bool b_vector, tdn_view *m)
{
    *m = *y;
    if (y->rank < !a_vector + !b_vector || y->rank + a_vector + b_vector > TDN_MAX_RANK)
        return false;
    if (b_vector) {
        m->dims[m->rank] = 1;
        m->strides[m->rank++] = 0;
    }
    if (a_vector) {
        m->dims[m->rank] = m->dims[m->rank - 1];
        m->strides[m->rank] = m->strides[m->rank - 1];
        m->dims[m->rank - 1] = 1;
        m->strides[m->rank - 1] = 0;
        m->rank++;
    }
    return true;
}

/* Views with the same batch axes before the last two. */
static bool matmul_views(const tdn_ref_call *call, tdn_view *a, tdn_view *b, tdn_view *y)
{
    if (call->n_in < 2 || call->n_out < 1 || call->in[0].rank < 1 || call->in[1].rank < 1)
        return false;
    const tdn_view am = as_matrix(&call->in[0], true), bm = as_matrix(&call->in[1], false);
    int64_t dims[TDN_MAX_RANK];
    if (!output_matrix(&call->out[0], call->in[0].rank == 1, call->in[1].rank == 1, y) ||
        y->rank < 2)
        return false;
    const int r = y->rank;
    if (am.dims[am.rank - 2] != y->dims[r - 2] || bm.dims[bm.rank - 1] != y->dims[r - 1] ||
        am.dims[am.rank - 1] != bm.dims[bm.rank - 2])
        return false;
    memcpy(dims, y->dims, sizeof dims);
    dims[r - 1] = am.dims[am.rank - 1];
    if (!tdn_view_broadcast(&am, r, dims, a))
        return false;
    dims[r - 2] = am.dims[am.rank - 1];
    dims[r - 1] = y->dims[r - 1];
    return tdn_view_broadcast(&bm, r, dims, b);
}

/* The last two axes. */
static tdn_view matrix_of(const tdn_view *v)
{
    const int r = v->rank;
    return (tdn_view){.data = v->data,
                      .dtype = v->dtype,
                      .rank = 2,
                      .dims = {v->dims[r - 2], v->dims[r - 1]},
                      .strides = {v->strides[r - 2], v->strides[r - 1]}};
}

static tdn_status matmul(const tdn_ref_call *call)
{
    tdn_view a, b, y;
    TDN_REF_NEED(call, matmul_views(call, &a, &b, &y));
    product p = {.a = matrix_of(&a), .b = matrix_of(&b), .y = matrix_of(&y), .alpha = 1};
    const int64_t per_matrix = n_blocks(&p.y), n_batch = tdn_ref_product(&y, 0, y.rank - 2);
    int64_t begin, end;
    tdn_ref_share(n_batch * per_matrix, call->part, call->n_parts, &begin, &end);
    while (begin < end) {
        const int64_t batch = begin / per_matrix, first = begin % per_matrix;
        const int64_t last =
            per_matrix < end - batch * per_matrix ? per_matrix : end - batch * per_matrix;
        p.a_at = p.b_at = p.y_at = 0;
        for (int64_t i = y.rank - 3, rest = batch; i >= 0; i--) {
            const int64_t index = rest % y.dims[i];
            p.a_at += index * a.strides[i];
            p.b_at += index * b.strides[i];
            p.y_at += index * y.strides[i];
            rest /= y.dims[i];
        }
        do_blocks(&p, first, last, call->scratch);
        begin += last - first;
    }
    return TDN_OK;
}

static int matmul_parts(const tdn_ref_call *call)
{
    tdn_view a, b, y;
    if (!matmul_views(call, &a, &b, &y))
        return 1;
    const tdn_view m = matrix_of(&y);
    const int64_t n = n_blocks(&m) * tdn_ref_product(&y, 0, y.rank - 2),
                  work = tdn_ref_parts_of(&y, a.dims[a.rank - 1]);
    return (int)(n < work ? (n < 1 ? 1 : n) : work);
}

/* ---- Gemm ------------------------------------------------------------------------------------ */

static void turn(tdn_view *v)
{
    const int64_t dim = v->dims[0], stride = v->strides[0];
    v->dims[0] = v->dims[1];
    v->strides[0] = v->strides[1];
    v->dims[1] = dim;
    v->strides[1] = stride;
}

static tdn_status gemm(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out >= 1);
    product p = {.a = call->in[0], .b = call->in[1], .y = call->out[0]};
    TDN_REF_NEED(call, p.a.rank == 2 && p.b.rank == 2 && p.y.rank == 2);
    if (tdn_attr_int(call->attrs, "transA", 0))
        turn(&p.a);
    if (tdn_attr_int(call->attrs, "transB", 0))
        turn(&p.b);
    TDN_REF_NEED(call, p.a.dims[1] == p.b.dims[0] && p.a.dims[0] == p.y.dims[0] &&
                           p.b.dims[1] == p.y.dims[1]);
    p.alpha = (double)tdn_attr_float(call->attrs, "alpha", 1);
    p.beta = (double)tdn_attr_float(call->attrs, "beta", 1);
    if (tdn_ref_in(call, 2))
        TDN_REF_NEED(call, tdn_view_broadcast(&call->in[2], 2, p.y.dims, &p.c));
    int64_t begin, end;
    tdn_ref_share(n_blocks(&p.y), call->part, call->n_parts, &begin, &end);
    do_blocks(&p, begin, end, call->scratch);
    return TDN_OK;
}

static int gemm_parts(const tdn_ref_call *call)
{
    if (call->n_in < 2 || call->n_out < 1 || call->in[0].rank != 2 || call->out[0].rank != 2)
        return 1;
    const int64_t k = call->in[0].dims[!tdn_attr_int(call->attrs, "transA", 0)],
                  n = n_blocks(&call->out[0]);
    const int work = tdn_ref_parts_of(&call->out[0], k);
    return n < work ? (n < 1 ? 1 : (int)n) : work;
}

/* ---- Determinant ----------------------------------------------------------------------------- */

/* By elimination with row pivoting, in a copy. */
static double determinant(double *m, int64_t n)
{
    double det = 1;
    for (int64_t c = 0; c < n; c++) {
        int64_t pivot = c;
        for (int64_t r = c + 1; r < n; r++)
            if (fabs(m[r * n + c]) > fabs(m[pivot * n + c]))
                pivot = r;
        if (m[pivot * n + c] == 0)
            return 0;
        for (int64_t k = 0; pivot != c && k < n; k++) {
            const double x = m[c * n + k];
            m[c * n + k] = m[pivot * n + k];
            m[pivot * n + k] = x;
        }
        det *= pivot != c ? -m[c * n + c] : m[c * n + c];
        for (int64_t r = c + 1; r < n; r++) {
            const double factor = m[r * n + c] / m[c * n + c];
            for (int64_t k = c; k < n; k++)
                m[r * n + k] -= factor * m[c * n + k];
        }
    }
    return det;
}

static tdn_status det(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_out >= 1 && call->in[0].rank >= 2);
    const tdn_view *x = &call->in[0], *y = &call->out[0];
    const int r = x->rank;
    TDN_REF_NEED(call, x->dims[r - 1] == x->dims[r - 2] && y->rank == r - 2 &&
                           !memcmp(x->dims, y->dims, (size_t)y->rank * sizeof x->dims[0]));
    const int64_t n = x->dims[r - 1];
    double *m = call->scratch;
    for (tdn_walk w = tdn_walk_begin(y->rank, y->dims); w.more; tdn_walk_next(&w)) {
        const int64_t at = tdn_walk_offset(&w, x);
        for (int64_t i = 0; i < n * n; i++)
            m[i] = tdn_ref_get(x, at + i / n * x->strides[r - 2] + i % n * x->strides[r - 1]);
        tdn_ref_set(y, tdn_walk_offset(&w, y), determinant(m, n));
    }
    return TDN_OK;
}

static size_t det_scratch(const tdn_ref_call *call)
{
    size_t size = 0;
    if (call->n_in < 1 || call->in[0].rank < 2)
        return 0;
    const size_t n = (size_t)call->in[0].dims[call->in[0].rank - 1];
    return tdn_size_mul(n, n, &size) && tdn_size_mul(size, sizeof(double), &size) ? size : SIZE_MAX;
}

/* ---- Mix: x (..., k axes) times w (k, n) ---- */

static tdn_status mix(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 2 && call->n_out >= 1 && call->in[1].rank == 2);
    const tdn_view *x = &call->in[0], *w = &call->in[1], *y = &call->out[0];
    const int kept = y->rank - 1, n_axes = x->rank - kept;
    int64_t k = 1;
    TDN_REF_NEED(call, kept >= 0 && n_axes >= 1 && x->dtype == TDN_F32 && w->dtype == TDN_F32 &&
                           y->dtype == TDN_F32 && y->dims[kept] == w->dims[1] &&
                           !memcmp(x->dims, y->dims, (size_t)kept * sizeof x->dims[0]) &&
                           tdn_dims_count(x->dims + kept, n_axes, &k) && k == w->dims[0]);
    for (tdn_walk o = tdn_walk_begin(y->rank, y->dims); o.more; tdn_walk_next(&o)) {
        const int64_t column = o.index[kept] * w->strides[1];
        int64_t from = 0, row = 0;
        for (int i = 0; i < kept; i++)
            from += o.index[i] * x->strides[i];
        double sum = 0;
        for (tdn_walk t = tdn_walk_begin(n_axes, x->dims + kept); t.more;
             tdn_walk_next(&t), row++) {
            int64_t at = from;
            for (int i = 0; i < n_axes; i++)
                at += t.index[i] * x->strides[kept + i];
            sum += tdn_ref_get(x, at) * tdn_ref_get(w, row * w->strides[0] + column);
        }
        tdn_ref_set(y, tdn_walk_offset(&o, y), sum);
    }
    return TDN_OK;
}

/* ---- GraphConv: y[n, m, t, to] = bias[to, m] + the sum over kinds and c of w[m, kind, c] times the
 * sum over from of adjacency[kind, from, to] * x[n, c, t, from] ---- */

static double neighbours(const tdn_view *x, int64_t at, const tdn_view *a, int64_t kind, int64_t to)
{
    double sum = 0;
    for (int64_t from = 0; from < a->dims[1]; from++)
        sum += tdn_ref_get(x, at + from * x->strides[3]) *
               tdn_ref_get(a, kind * a->strides[0] + from * a->strides[1] + to * a->strides[2]);
    return sum;
}

static tdn_status graphconv(const tdn_ref_call *call)
{
    TDN_REF_NEED(call, call->n_in >= 4 && call->n_out >= 1);
    const tdn_view *x = &call->in[0], *w = &call->in[1], *a = &call->in[2], *b = &call->in[3];
    const tdn_view *y = &call->out[0];
    TDN_REF_NEED(call, x->rank == 4 && w->rank == 2 && a->rank == 3 && b->rank == 2 &&
                           y->rank == 4 && x->dtype == TDN_F32 && y->dtype == TDN_F32 &&
                           a->dims[0] > 0 && w->dims[1] / a->dims[0] == x->dims[1] &&
                           w->dims[1] % a->dims[0] == 0 && a->dims[1] == x->dims[3] &&
                           y->dims[0] == x->dims[0] && y->dims[1] == w->dims[0] &&
                           y->dims[2] == x->dims[2] && y->dims[3] == a->dims[2] &&
                           b->dims[0] == a->dims[2] && b->dims[1] == w->dims[0]);
    for (tdn_walk o = tdn_walk_begin(4, y->dims); o.more; tdn_walk_next(&o)) {
        const int64_t m = o.index[1], to = o.index[3];
        double sum = tdn_ref_get(b, to * b->strides[0] + m * b->strides[1]);
        for (int64_t i = 0; i < w->dims[1]; i++) {
            const int64_t at = o.index[0] * x->strides[0] + i % x->dims[1] * x->strides[1] +
                               o.index[2] * x->strides[2];
            sum += tdn_ref_get(w, m * w->strides[0] + i * w->strides[1]) *
                   neighbours(x, at, a, i / x->dims[1], to);
        }
        tdn_ref_set(y, tdn_walk_offset(&o, y), sum);
    }
    return TDN_OK;
}

const tdn_ref_def tdn_refs_matmul[] = {
    {"GraphConv", graphconv, NULL, NULL},
    {"Mix", mix, NULL, NULL},
    {"MatMul", matmul, scratch, matmul_parts},
    {"Gemm", gemm, scratch, gemm_parts},
    {"Einsum", tdn_ref_einsum, NULL, tdn_ref_einsum_parts},
    {"Det", det, det_scratch, NULL},
    {0},
};
