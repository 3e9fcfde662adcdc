/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reductions. Along the reduced axis: four vectors of partial results, joined at the end. Along the
 * kept axis: a few vectors of columns, each its own chain over all that is reduced, in blocks whose
 * results are joined, so that the error of a long sum grows with its square root at most.
 */
#include "backend/cpu/along.h"
#include "backend/cpu/vmath.h"

enum { VECTORS = 4, BLOCK = 64 };

/* How elements are joined. Kinds of reductions differ besides in what is done at the end. */
typedef enum join { SUM, SUM_ABS, SUM_SQUARE, SUM_EXP, MAX, MIN, PROD } join;

TDN_INLINE vf start(const join j)
{
    return vf_set(j == MAX ? -INFINITY : j == MIN ? INFINITY : j == PROD ? 1 : 0);
}

/* acc with x in it; `shift` is subtracted before exp. */
TDN_INLINE vf take(const join j, vf acc, vf x, vf shift)
{
    switch (j) {
    case SUM_ABS: return acc + vf_abs(x);
    case SUM_SQUARE: return acc + x * x;
    case SUM_EXP: return acc + vf_exp(x - shift);
    case MAX: return vf_max_nan(acc, x);
    case MIN: return vf_min_nan(acc, x);
    case PROD: return acc * x;
    default: return acc + x;
    }
}

/* Two partial results. */
TDN_INLINE vf both(const join j, vf a, vf b)
{
    return j == MAX ? vf_max_nan(a, b) : j == MIN ? vf_min_nan(a, b) : j == PROD ? a * b : a + b;
}

/* What leaves a result as it is. */
TDN_INLINE float neutral(const join j)
{
    return j == SUM_EXP || j == MAX ? -INFINITY : j == MIN ? INFINITY : j == PROD ? 1 : 0;
}

TDN_INLINE float over_lanes(const join j, vf x)
{
    return j == MAX    ? vf_max_of(x)
           : j == MIN  ? vf_min_of(x)
           : j == PROD ? vf_product_of(x)
                       : vf_sum(x);
}

/* Row number `row` of the reduced axes but the last: its offset in the input. */
static int64_t row_offset(int64_t row, int rank, const int64_t *dims, const int64_t *strides)
{
    int64_t offset = 0;
    for (int i = rank - 2; i >= 0; i--) {
        offset += row % dims[i] * strides[i];
        row /= dims[i];
    }
    return offset;
}

static vf gather(const float *p, int64_t step, int n)
{
    float lane[TDN_LANES] = {0};
    for (int i = 0; i < n; i++)
        lane[i] = p[i * step];
    return vf_load(lane);
}

/* ---- Along the reduced axis ------------------------------------------------------------------ */

TDN_INLINE void take_line(const join j, vf acc[VECTORS], const float *p, int64_t step, int64_t n,
                          vf shift)
{
    int64_t i = 0;
    if (step == 1)
        for (; i + VECTORS * TDN_LANES <= n; i += VECTORS * TDN_LANES)
            TDN_UNROLLED (int v = 0; v < VECTORS; v++)
                acc[v] = take(j, acc[v], vf_load(p + i + v * TDN_LANES), shift);
    for (int v = 0; i < n; i += TDN_LANES, v = (v + 1) % VECTORS) {
        const int m = (int)tdn_cpu_min(TDN_LANES, n - i);
        vf x = step == 1 ? vf_load_n(p + i, m) : gather(p + i * step, step, m);
        if (m < TDN_LANES)
            x = vf_first(x, m, neutral(j));
        acc[v] = take(j, acc[v], x, shift);
    }
}

TDN_INLINE float reduce_element(const join j, const tdn_reduce_args *a, const float *p, float shift)
{
    const int last = a->n_reduced - 1;
    const int64_t n_rows = a->count / a->reduced[last];
    vf acc[VECTORS];
    TDN_UNROLLED (int v = 0; v < VECTORS; v++)
        acc[v] = start(j);
    for (int64_t row = 0; row < n_rows; row++)
        take_line(j, acc, p + row_offset(row, a->n_reduced, a->reduced, a->reduced_in),
                  a->reduced_in[last], a->reduced[last], vf_set(shift));
    return over_lanes(j, both(j, both(j, acc[0], acc[1]), both(j, acc[2], acc[3])));
}

/* ---- Along the kept axis --------------------------------------------------------------------- */

TDN_INLINE void take_block(const join j, vf acc[VECTORS], const float *p, int64_t step, int64_t n,
                           int lanes, const int vectors, const vf *shift)
{
    for (int64_t i = 0; i < n; i++, p += step)
        TDN_UNROLLED (int v = 0; v < vectors; v++) {
            const vf x = lanes == TDN_LANES ? vf_load(p + v * TDN_LANES) : vf_load_n(p, lanes);
            acc[v] = take(j, acc[v], x, shift[v]);
        }
}

TDN_INLINE void reduce_columns(const join j, const tdn_reduce_args *a, const float *p, int lanes,
                               const int vectors, const vf *shift, vf total[VECTORS])
{
    const int last = a->n_reduced - 1;
    const int64_t n = a->reduced[last], n_rows = a->count / n, step = a->reduced_in[last];
    TDN_UNROLLED (int v = 0; v < vectors; v++)
        total[v] = start(j);
    for (int64_t row = 0; row < n_rows; row++) {
        const float *line = p + row_offset(row, a->n_reduced, a->reduced, a->reduced_in);
        for (int64_t i = 0; i < n; i += BLOCK) {
            vf acc[VECTORS];
            TDN_UNROLLED (int v = 0; v < vectors; v++)
                acc[v] = start(j);
            take_block(j, acc, line + i * step, step, tdn_cpu_min(BLOCK, n - i), lanes, vectors,
                       shift);
            TDN_UNROLLED (int v = 0; v < vectors; v++)
                total[v] = both(j, total[v], acc[v]);
        }
    }
}

/* ---- Kinds ----------------------------------------------------------------------------------- */

typedef float element_fn(const tdn_reduce_args *a, const float *p, float shift);
typedef void columns_fn(const tdn_reduce_args *a, const float *p, int lanes, const vf *shift,
                        vf *total);

#define JOIN(name, j)                                                                              \
    static float element_##name(const tdn_reduce_args *a, const float *p, float shift)             \
    {                                                                                              \
        return reduce_element(j, a, p, shift);                                                     \
    }                                                                                              \
    static void columns_##name(const tdn_reduce_args *a, const float *p, int lanes,                \
                               const vf *shift, vf *total)                                         \
    {                                                                                              \
        if (lanes == VECTORS * TDN_LANES)                                                          \
            reduce_columns(j, a, p, TDN_LANES, VECTORS, shift, total);                             \
        else                                                                                       \
            reduce_columns(j, a, p, lanes, 1, shift, total);                                       \
    }
JOIN(sum, SUM)
JOIN(abs, SUM_ABS)
JOIN(square, SUM_SQUARE)
JOIN(exp, SUM_EXP)
JOIN(max, MAX)
JOIN(min, MIN)
JOIN(prod, PROD)

typedef struct kind_row {
    element_fn *element;
    columns_fn *columns;
} kind_row;

static const kind_row kinds[] = {
    [TDN_REDUCE_SUM] = {element_sum, columns_sum},
    [TDN_REDUCE_MEAN] = {element_sum, columns_sum},
    [TDN_REDUCE_MAX] = {element_max, columns_max},
    [TDN_REDUCE_MIN] = {element_min, columns_min},
    [TDN_REDUCE_PROD] = {element_prod, columns_prod},
    [TDN_REDUCE_L1] = {element_abs, columns_abs},
    [TDN_REDUCE_L2] = {element_square, columns_square},
    [TDN_REDUCE_SUMSQ] = {element_square, columns_square},
    [TDN_REDUCE_LOGSUM] = {element_sum, columns_sum},
    [TDN_REDUCE_LOGSUMEXP] = {element_exp, columns_exp},
};

/* From the joined elements to the result. */
static vf finish(const tdn_reduce_args *a, vf x, vf shift)
{
    switch (a->kind) {
    case TDN_REDUCE_MEAN: return x / vf_set((float)a->count);
    case TDN_REDUCE_L2: return vf_sqrt(x);
    case TDN_REDUCE_LOGSUM: return vf_log(x);
    case TDN_REDUCE_LOGSUMEXP: return vf_log(x) + shift;
    default: return x;
    }
}

/* The largest of what goes into LOGSUMEXP, so that exp does not overflow; 0 where
 * that is infinite. */
static vf finite_or_0(vf x) { return vf_select(vm_lt(vf_abs(x), vf_set(INFINITY)), x, vf_set(0)); }

static void run_elements(const tdn_reduce_args *a, const float *p, float *to, int64_t n)
{
    const int last = a->n_kept - 1;
    for (int64_t i = 0; i < n; i++, p += a->kept_in[last], to += a->kept_out[last]) {
        vf shift = vf_set(0);
        if (a->kind == TDN_REDUCE_LOGSUMEXP)
            shift = finite_or_0(vf_set(element_max(a, p, 0)));
        *to = finish(a, vf_set(kinds[a->kind].element(a, p, shift[0])), shift)[0];
    }
}

static void run_columns(const tdn_reduce_args *a, const float *p, float *to, int64_t n)
{
    const int64_t out_step = a->kept_out[a->n_kept - 1];
    for (int64_t i = 0; i < n;) {
        const int lanes =
            n - i >= VECTORS * TDN_LANES ? VECTORS * TDN_LANES : (int)tdn_cpu_min(TDN_LANES, n - i);
        vf total[VECTORS], shift[VECTORS] = {{0}};
        if (a->kind == TDN_REDUCE_LOGSUMEXP) {
            columns_max(a, p + i, lanes, shift, total);
            for (int v = 0; v * TDN_LANES < lanes; v++)
                shift[v] = finite_or_0(total[v]);
        }
        kinds[a->kind].columns(a, p + i, lanes, shift, total);
        for (int v = 0; v * TDN_LANES < lanes; v++) {
            const int m = lanes < TDN_LANES ? lanes : TDN_LANES;
            const vf y = finish(a, total[v], shift[v]);
            if (out_step == 1)
                vf_store_n(to + i + v * TDN_LANES, y, m);
            else
                for (int k = 0; k < m; k++)
                    to[(i + v * TDN_LANES + k) * out_step] = y[k];
        }
        i += lanes;
    }
}

void TDN_KERNEL(tdn_reduce_f32)(const tdn_call *call, size_t tile)
{
    const tdn_reduce_args *a = call->args;
    const int last = a->n_kept - 1;
    int64_t row, end, col, col_end;
    tdn_cpu_share(a->n_rows, (int64_t)tile / a->col_tiles, a->row_tiles, &row, &end);
    tdn_cpu_share(a->kept[last], (int64_t)tile % a->col_tiles, a->col_tiles, &col, &col_end);
    for (; row < end; row++) {
        const float *p = (const float *)call->in[0].data +
                         row_offset(row, a->n_kept, a->kept, a->kept_in) + col * a->kept_in[last];
        float *to = (float *)call->out[0].data + row_offset(row, a->n_kept, a->kept, a->kept_out) +
                    col * a->kept_out[last];
        if (a->along)
            run_elements(a, p, to, col_end - col);
        else
            run_columns(a, p, to, col_end - col);
    }
}
