/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels pool, reduce, softmax, norm and attend: every row of their lists that this CPU runs, on
 * random shapes, strides and parameters, against loops in double precision. */
#include "kernels.h"

#define EPS 5.96e-8

static double value(const tdn_view *v, int64_t offset) { return ((float *)v->data)[offset]; }

/* ---- pool ------------------------------------------------------------------------------------ */

static double pool_at(const tdn_pool_desc *d, const tdn_view *x, const tdn_walk *at)
{
    double sum = 0, largest = -INFINITY;
    int64_t n_inside = 0, n_padded = 0;
    const int64_t taps[3] = {d->kernel[0], d->kernel[1], d->kernel[2]};
    for (tdn_walk t = tdn_walk_begin(3, taps); t.more; tdn_walk_next(&t)) {
        int64_t offset = at->index[0] * x->strides[0] + at->index[4] * x->strides[4];
        bool inside = true, padded = true;
        for (int i = 0; i < 3; i++) {
            const int64_t p =
                at->index[i + 1] * d->stride[i] - d->pad[i] + t.index[i] * d->dilation[i];
            inside &= p >= 0 && p < x->dims[i + 1];
            padded &= p < x->dims[i + 1] + d->pad_end[i];
            offset += p * x->strides[i + 1];
        }
        n_padded += padded;
        if (!inside)
            continue;
        n_inside++;
        sum += tdn_view_get(x, offset);
        largest = fmax(largest, tdn_view_get(x, offset));
    }
    if (d->kind == TDN_POOL_MAX)
        return largest;
    return sum / (double)(d->count_include_pad ? n_padded : n_inside);
}

static void pool_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    const bool bytes = strncmp(k->name, "pool_u8", 7) == 0;
    const bool halves = strncmp(k->name, "pool_half", 9) == 0;
    const tdn_dtype dtype = bytes    ? TDN_U8
                            : halves ? (tdn_dtype)RANDOM_OF(TDN_F16, TDN_BF16)
                                     : TDN_F32;
    tdn_pool_desc d = {.kind =
                           bytes || halves || random_bits() % 2 ? TDN_POOL_MAX : TDN_POOL_AVERAGE,
                       .count_include_pad = random_bits() % 2};
    int64_t x[5] = {random_between(1, 2), 0, 0, 0, RANDOM_OF(1, 3, 8, 17, 64, 70, 130)},
            out[5] = {x[0]};
    for (int i = 0; i < 3; i++) {
        d.kernel[i] = (int32_t)random_between(1, i ? 4 : 2);
        d.stride[i] = (int32_t)random_between(1, 3);
        d.dilation[i] = (int32_t)RANDOM_OF(1, 1, 2);
        d.pad[i] = (int32_t)random_between(0, d.kernel[i] - 1);
        d.pad_end[i] = (int32_t)random_between(0, d.kernel[i] - 1);
        const int64_t span = (d.kernel[i] - 1) * d.dilation[i] + 1;
        x[i + 1] = span + random_between(0, i ? 9 : 2);
        const int64_t ceil_mode =
            random_bits() % 2 ? d.stride[i] - 1 : 0; /* a last window that ends beyond the pad */
        out[i + 1] = (x[i + 1] + d.pad[i] + d.pad_end[i] - span + ceil_mode) / d.stride[i] + 1;
        if ((out[i + 1] - 1) * d.stride[i] >= x[i + 1] + d.pad[i])
            out[i + 1]--;
    }
    out[4] = x[4];
    const tdn_view in =
        new_tensor(s, dtype, 5, x, random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE, 0)->view;
    tensor *to = new_output(s, dtype, 5, out, random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE);
    const tdn_group g = {.desc = &d, .in = &in, .n_in = 1, .out = &to->view, .n_out = 1};
    step st;
    assert_true(make_step(&st, family, k, &g, s->arena));
    run_step(&st);
    for (tdn_walk w = tdn_walk_begin(5, out); w.more; tdn_walk_next(&w)) {
        const int64_t at = tdn_walk_offset(&w, &to->view);
        const double largest = pool_at(&d, &in, &w), wanted = bytes ? fmax(0, largest) : largest;
        expect_near(k, tdn_view_get(&to->view, at), wanted, d.kind == TDN_POOL_MAX ? 0 : 36 * EPS,
                    at);
    }
    check_gaps(to, k->name);
    if (random_bits() % 8 == 0)
        expect_checked(family, &st);
    end_scene(s);
}

/* ---- reduce ---------------------------------------------------------------------------------- */

static double reduce_at(int kind, const tdn_view *x, const tdn_view *out, const tdn_walk *at,
                        double *bound)
{
    int64_t dims[TDN_MAX_RANK], base = 0;
    for (int i = 0; i < x->rank; i++) {
        dims[i] = out->dims[i] == x->dims[i] ? 1 : x->dims[i];
        base += at->index[i] * x->strides[i];
    }
    double sum = 0, absolute = 0, squares = 0, exps = 0, product = 1, low = INFINITY,
           high = -INFINITY, n = 0;
    for (tdn_walk w = tdn_walk_begin(x->rank, dims); w.more; tdn_walk_next(&w), n++) {
        const double v = value(x, base + tdn_walk_offset(&w, x));
        sum += v;
        absolute += fabs(v);
        squares += v * v;
        exps += exp(v);
        product *= v;
        low = fmin(low, v);
        high = fmax(high, v);
    }
    *bound = (n + 4) * EPS * absolute;
    switch (kind) {
    case TDN_REDUCE_SUM: return sum;
    case TDN_REDUCE_MEAN: *bound = (n + 4) * EPS * absolute / n; return sum / n;
    case TDN_REDUCE_MAX: *bound = 0; return high;
    case TDN_REDUCE_MIN: *bound = 0; return low;
    case TDN_REDUCE_PROD: *bound = (n + 4) * EPS * fabs(product) + 1e-37; return product;
    case TDN_REDUCE_L1: return absolute;
    case TDN_REDUCE_L2: *bound = (n + 4) * EPS * sqrt(squares); return sqrt(squares);
    case TDN_REDUCE_SUMSQ: *bound = (n + 4) * EPS * squares; return squares;
    case TDN_REDUCE_LOGSUM:
        *bound = sum > 0 ? (n + 4) * EPS * absolute / sum + 4 * EPS * fabs(log(sum)) + 4 * EPS : 0;
        return log(sum);
    default: *bound = (n + 8) * EPS + 4 * EPS * fabs(log(exps)); return log(exps);
    }
}

static void reduce_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    tdn_reduce_desc d = {.kind = (int32_t)random_between(0, TDN_REDUCE_LOGSUMEXP)};
    const int rank = (int)random_between(0, 5);
    int64_t x[TDN_MAX_RANK], out[TDN_MAX_RANK];
    for (int i = 0; i < rank; i++) {
        x[i] = rank < 3 ? random_between(1, 300) : random_between(1, 12);
        out[i] = random_bits() % 2 ? 1 : x[i];
    }
    tensor *in = new_tensor(s, TDN_F32, rank, x, (layout)(random_bits() % 3), 0);
    if (d.kind == TDN_REDUCE_LOGSUM) /* the logarithm of a sum near 0 has no digits */
        for (tdn_walk w = tdn_walk_begin(rank, x); w.more; tdn_walk_next(&w))
            ((float *)in->view.data)[tdn_walk_offset(&w, &in->view)] += 1.5f;
    tensor *to = new_output(s, TDN_F32, rank, out, (layout)(random_bits() % 3));
    const tdn_group g = {.desc = &d, .in = &in->view, .n_in = 1, .out = &to->view, .n_out = 1};
    step st;
    assert_true(make_step(&st, family, k, &g, s->arena));
    run_step(&st);
    for (tdn_walk w = tdn_walk_begin(rank, out); w.more; tdn_walk_next(&w)) {
        const int64_t at = tdn_walk_offset(&w, &to->view);
        double bound;
        const double wanted = reduce_at(d.kind, &in->view, &to->view, &w, &bound);
        expect_near(k, value(&to->view, at), wanted, bound, at);
    }
    check_gaps(to, k->name);
    if (random_bits() % 8 == 0)
        expect_checked(family, &st);
    end_scene(s);
}

/* ---- softmax --------------------------------------------------------------------------------- */

static void softmax_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    const int rank = (int)random_between(1, 4);
    int64_t dims[TDN_MAX_RANK];
    for (int i = 0; i < rank; i++)
        dims[i] = rank == 1   ? random_between(1, 600)
                  : rank == 2 ? random_between(1, 80)
                              : random_between(1, 12);
    tdn_softmax_desc d = {.axis = (int32_t)random_between(0, rank - 1), .log = random_bits() % 2};
    tensor *in = new_tensor(s, TDN_F32, rank, dims, (layout)(random_bits() % 3), 0);
    const float reach = (float)RANDOM_OF(1, 10, 1000);
    for (tdn_walk w = tdn_walk_begin(rank, dims); w.more; tdn_walk_next(&w))
        ((float *)in->view.data)[tdn_walk_offset(&w, &in->view)] *= reach;
    tensor *to = new_output(s, TDN_F32, rank, dims, (layout)(random_bits() % 3));
    const tdn_group g = {.desc = &d, .in = &in->view, .n_in = 1, .out = &to->view, .n_out = 1};
    step st;
    assert_true(make_step(&st, family, k, &g, s->arena));
    run_step(&st);
    for (tdn_walk w = tdn_walk_begin(rank, dims); w.more; tdn_walk_next(&w)) {
        const int64_t stride = in->view.strides[d.axis], n = dims[d.axis],
                      own = tdn_walk_offset(&w, &in->view);
        const int64_t base = own - w.index[d.axis] * stride;
        double largest = -INFINITY, sum = 0;
        for (int64_t i = 0; i < n; i++)
            largest = fmax(largest, value(&in->view, base + i * stride));
        for (int64_t i = 0; i < n; i++)
            sum += exp(value(&in->view, base + i * stride) - largest);
        const double x = value(&in->view, own) - largest;
        const int64_t at = tdn_walk_offset(&w, &to->view);
        const double wanted = d.log ? x - log(sum) : exp(x) / sum;
        const double bound = d.log ? ((double)n + 8) * EPS + 4 * EPS * fabs(wanted)
                                   : ((double)n + 8 + fabs(x)) * EPS * wanted + 1e-44;
        expect_near(k, value(&to->view, at), wanted, bound, at);
    }
    check_gaps(to, k->name);
    if (random_bits() % 8 == 0)
        expect_checked(family, &st);
    end_scene(s);
}

/* ---- norm ------------------------------------------------------------------------------------ */

static void norm_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    const int rank = (int)random_between(1, 4);
    int64_t dims[TDN_MAX_RANK], row[TDN_MAX_RANK];
    tdn_norm_desc d = {.axis = (int32_t)random_between(0, rank - 1), .epsilon = 1e-3f};
    uint32_t outer = 0;
    double n = 1;
    for (int i = 0; i < rank; i++) {
        dims[i] = rank == 1   ? random_between(1, 400)
                  : rank == 2 ? random_between(1, 60)
                              : random_between(1, 9);
        row[i] = i < d.axis ? 1 : dims[i];
        outer |= i < d.axis ? 1u << i : 0;
        n *= (double)row[i];
    }
    const tdn_view in[3] = {
        new_tensor(s, TDN_F32, rank, dims, (layout)(random_bits() % 3), 0)->view,
        new_tensor(s, TDN_F32, rank, dims, (layout)(random_bits() % 3), outer)->view,
        new_tensor(s, TDN_F32, rank, dims, (layout)(random_bits() % 3), outer)->view};
    tensor *to = new_output(s, TDN_F32, rank, dims, (layout)(random_bits() % 3));
    const tdn_group g = {.desc = &d, .in = in, .n_in = 3, .out = &to->view, .n_out = 1};
    step st;
    assert_true(make_step(&st, family, k, &g, s->arena));
    run_step(&st);
    for (tdn_walk w = tdn_walk_begin(rank, dims); w.more; tdn_walk_next(&w)) {
        int64_t base = 0;
        for (int i = 0; i < d.axis; i++)
            base += w.index[i] * in[0].strides[i];
        double mean = 0, variance = 0;
        for (tdn_walk r = tdn_walk_begin(rank, row); r.more; tdn_walk_next(&r))
            mean += value(&in[0], base + tdn_walk_offset(&r, &in[0])) / n;
        for (tdn_walk r = tdn_walk_begin(rank, row); r.more; tdn_walk_next(&r))
            variance += pow(value(&in[0], base + tdn_walk_offset(&r, &in[0])) - mean, 2) / n;
        const double z =
            (value(&in[0], tdn_walk_offset(&w, &in[0])) - mean) / sqrt(variance + d.epsilon);
        const double scale = value(&in[1], tdn_walk_offset(&w, &in[1]));
        const double wanted = z * scale + value(&in[2], tdn_walk_offset(&w, &in[2]));
        const double bound =
            (n + 16) * EPS * (1 + fabs(z)) * fabs(scale) / sqrt(variance + d.epsilon) + 2 * EPS;
        const int64_t at = tdn_walk_offset(&w, &to->view);
        expect_near(k, value(&to->view, at), wanted, bound, at);
    }
    check_gaps(to, k->name);
    if (random_bits() % 8 == 0)
        expect_checked(family, &st);
    end_scene(s);
}

/* ---- attend ---------------------------------------------------------------------------------- */

/* (b0, b1, rows, cols) with stride 1 along either of the last two. */
static tdn_view either_way(scene *s, const int64_t dims[4], uint32_t broadcast)
{
    if (random_bits() % 2)
        return new_tensor(s, TDN_F32, 4, dims, LAYOUT_INNER, broadcast)->view;
    const int64_t turned[4] = {dims[0], dims[1], dims[3], dims[2]};
    tdn_view v = new_tensor(s, TDN_F32, 4, turned, LAYOUT_INNER, broadcast)->view;
    const int64_t stride = v.strides[2];
    v.strides[2] = v.strides[3];
    v.strides[3] = stride;
    memcpy(v.dims, dims, 4 * sizeof *dims);
    return v;
}

static double at4(const tdn_view *v, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return value(v, a * v->strides[0] + b * v->strides[1] + c * v->strides[2] + d * v->strides[3]);
}

/* The weights of one query in double precision; how far rounding may change one, relatively. */
static double weights_of(double *w, const tdn_attend_desc *d, const tdn_view *in,
                         const tdn_view *mask, const int64_t at[3])
{
    const tdn_view *q = &in[0], *k = &in[1];
    const int64_t n = k->dims[3], depth = q->dims[3];
    double largest = -INFINITY, sum = 0, error = 0;
    for (int64_t j = 0; j < n; j++) {
        double absolute = 0;
        w[j] = 0;
        for (int64_t i = 0; i < depth; i++) {
            const double p = at4(q, at[0], at[1], at[2], i) * at4(k, at[0], at[1], i, j);
            w[j] += p;
            absolute += fabs(p);
        }
        const double m = mask ? at4(mask, at[0], at[1], at[2], j) : 0;
        w[j] = (double)d->scale * w[j] + m;
        largest = fmax(largest, w[j]);
        error = fmax(error, (double)d->scale * absolute * (double)(depth + 3) +
                                (isfinite(m) ? 4 * fabs(m) : 0));
    }
    for (int64_t j = 0; j < n; j++)
        sum += w[j] = exp(w[j] - largest);
    for (int64_t j = 0; j < n; j++)
        w[j] /= sum;
    return (2 * error + (double)(2 * n) + 16) * EPS;
}

static void expect_attention(const tdn_kernel *k, const tdn_attend_desc *d, const tdn_view *in,
                             const tdn_view *mask, const tdn_view *out, int64_t b0, int64_t b1)
{
    const int64_t n = in[1].dims[3], m = in[0].dims[2], width = d->is_mean ? n : out->dims[3];
    double *w = calloc((size_t)n, sizeof *w);
    double *sums = calloc((size_t)width, sizeof *sums),
           *bounds = calloc((size_t)width, sizeof *sums);
    assert_true(w && sums && bounds);
    for (int64_t row = 0; row < m; row++) {
        const double error = weights_of(w, d, in, mask, (int64_t[]){b0, b1, row});
        for (int64_t e = 0; e < width; e++) {
            double sum = 0, bound = 0;
            for (int64_t j = 0; j < n; j++) {
                const double x = d->is_mean ? j == e : at4(&in[2], b0, b1, j, e);
                sum += w[j] * x;
                bound += error * w[j] * fabs(x);
            }
            sums[e] = d->is_mean ? sums[e] + sum / (double)m : sum;
            bounds[e] = d->is_mean ? bounds[e] + (bound + 4 * EPS * sum) : bound + 1e-36;
        }
        for (int64_t e = 0; (!d->is_mean || row + 1 == m) && e < width; e++) {
            const int64_t at = d->is_mean ? 0 : row;
            expect_near(k, at4(out, b0, b1, at, e), sums[e], bounds[e] + 1e-36, e);
        }
    }
    free(w);
    free(sums);
    free(bounds);
}

static void attend_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    tdn_attend_desc d = {.scale = (float)RANDOM_OF(1, 4, 30) / 4,
                         .is_mean = random_bits() % 3 == 0};
    const int64_t b0 = random_between(1, 2), b1 = random_between(1, 3), m = random_between(1, 70);
    const int64_t depth = RANDOM_OF(1, 3, 8, 16, 33, 64), n = RANDOM_OF(1, 5, 16, 31, 64, 100, 400),
                  width = RANDOM_OF(1, 7, 16, 32, 40);
    tdn_view in[4] = {
        new_tensor(s, TDN_F32, 4, (int64_t[]){b0, b1, m, depth}, LAYOUT_INNER, 0)->view,
        either_way(s, (int64_t[]){b0, b1, depth, n}, random_bits() % 4)};
    int n_in = 2;
    if (!d.is_mean)
        in[n_in++] = either_way(s, (int64_t[]){b0, b1, n, width}, random_bits() % 4);
    const tdn_view *mask = NULL;
    if (random_bits() % 2) {
        const uint32_t broadcast = random_bits() % 16;
        tensor *t = new_tensor(s, TDN_F32, 4, (int64_t[]){b0, b1, m, n}, LAYOUT_INNER, broadcast);
        for (tdn_walk w = tdn_walk_begin(4, t->view.dims); w.more; tdn_walk_next(&w))
            if (!(broadcast & 8) && w.index[3] > 0 && random_bits() % 3 == 0)
                ((float *)t->view.data)[tdn_walk_offset(&w, &t->view)] = -INFINITY;
        in[n_in] = t->view;
        mask = &in[n_in++];
    }
    const int64_t out[4] = {b0, b1, d.is_mean ? 1 : m, d.is_mean ? n : width};
    tensor *to = new_output(s, TDN_F32, 4, out, LAYOUT_INNER);
    const tdn_group g = {.desc = &d, .in = in, .n_in = n_in, .out = &to->view, .n_out = 1};
    step st;
    assert_true(make_step(&st, family, k, &g, s->arena));
    run_step(&st);
    for (int64_t i = 0; i < b0; i++)
        for (int64_t j = 0; j < b1; j++)
            expect_attention(k, &d, in, mask, &to->view, i, j);
    check_gaps(to, k->name);
    if (random_bits() % 8 == 0)
        expect_checked(family, &st);
    end_scene(s);
}

static void walk(const char *name, void (*once)(const tdn_family *, const tdn_kernel *), int n_runs)
{
    const tdn_family *family = tdn_family_find(name);
    assert_non_null(family);
    for (const tdn_kernel *k = family->kernels; k->name; k++)
        for (int i = 0; runs_here(k) && i < n_runs; i++)
            once(family, k);
}

static void test_pool(void **state)
{
    (void)state;
    walk("pool", pool_once, 200);
}
static void test_reduce(void **state)
{
    (void)state;
    walk("reduce", reduce_once, 600);
}
static void test_softmax(void **state)
{
    (void)state;
    walk("softmax", softmax_once, 80);
}
static void test_norm(void **state)
{
    (void)state;
    walk("norm", norm_once, 60);
}

static void test_attend(void **state)
{
    (void)state;
    walk("attend", attend_once, 120);
}

int main(int argc, char **argv)
{
    set_seed(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pool), cmocka_unit_test(test_reduce),
                                       cmocka_unit_test(test_softmax), cmocka_unit_test(test_norm),
                                       cmocka_unit_test(test_attend)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
