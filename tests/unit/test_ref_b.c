/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of convolutions, pools, contractions, norms, moves, indexed reads and writes, sorts,
 * resizes, recurrent networks and detection: against plain loops and cases worked out by hand, over
 * strided views and in any number of parts. And decompositions: a graph of one node, evaluated by
 * the node's reference, before and after its rewrite.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/op.h"
#include "passes/passes.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof((array)[0])))
#define LIST(...)                                                                                  \
    ((int64_t[]){__VA_ARGS__}), ((int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))
#define FLOATS(...)                                                                                \
    ((float[]){__VA_ARGS__}), ((int)(sizeof((float[]){__VA_ARGS__}) / sizeof(float)))

static uint32_t random_state = 20240607;
static uint32_t random_bits(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}
static float random_float(void) { return (float)random_bits() / (float)(1 << 24) * 4 - 2; }
static int64_t random_between(int64_t low, int64_t high)
{
    return low + random_bits() % (high - low + 1);
}

/* ---- One reference on arrays ----------------------------------------------------------------- */

enum { MAX_OPERANDS = 8, MAX_ATTRS = 12 };

/* A call in the making: operands and attributes. */
typedef struct maker {
    const char *name;
    tdn_view in[MAX_OPERANDS], out[MAX_OPERANDS];
    int n_in, n_out;
    tdn_attr attrs[MAX_ATTRS];
    int n_attrs;
    tdn_error error;
} maker;

static void add_in(maker *m, tdn_dtype dtype, const void *data, const int64_t *dims, int rank)
{
    m->in[m->n_in++] = tdn_view_make((void *)(uintptr_t)data, dtype, rank, dims);
}
static void add_out(maker *m, tdn_dtype dtype, void *data, const int64_t *dims, int rank)
{
    m->out[m->n_out++] = tdn_view_make(data, dtype, rank, dims);
}
static void add_int(maker *m, const char *name, int64_t i)
{
    m->attrs[m->n_attrs++] = (tdn_attr){.name = name, .kind = TDN_ATTR_INT, .i = i};
}
static void add_ints(maker *m, const char *name, const int64_t *ints, int n)
{
    m->attrs[m->n_attrs++] = (tdn_attr){.name = name, .kind = TDN_ATTR_INTS, .n = n, .ints = ints};
}
static void add_string(maker *m, const char *name, const char *s)
{
    m->attrs[m->n_attrs++] =
        (tdn_attr){.name = name, .kind = TDN_ATTR_STRING, .n = (int)strlen(s), .s = s};
}

/* Runs in n_parts parts, last part first; 0: in as many as the reference wants. */
static tdn_status run_parts(maker *m, int n_parts)
{
    const tdn_ref_def *ref = tdn_ref_find(m->name);
    const tdn_attrs attrs = {m->attrs, m->n_attrs};
    if (!ref)
        fail_msg("there is no reference '%s'", m->name);
    tdn_ref_call call = {.in = m->in,
                         .n_in = m->n_in,
                         .out = m->out,
                         .n_out = m->n_out,
                         .attrs = &attrs,
                         .n_parts = n_parts,
                         .error = &m->error};
    const int wanted = ref->n_parts ? ref->n_parts(&call) : 1;
    call.n_parts = n_parts && ref->n_parts ? n_parts : wanted;
    const size_t size = ref->scratch_size ? ref->scratch_size(&call) : 0;
    tdn_status status = TDN_OK;
    for (call.part = call.n_parts - 1; call.part >= 0 && status == TDN_OK; call.part--) {
        call.scratch = tdn_alloc(NULL, size, 64);
        assert_non_null(call.scratch);
        status = ref->run(&call);
        tdn_free(NULL, call.scratch);
    }
    return status;
}

static void run(maker *m)
{
    if (run_parts(m, 0) != TDN_OK)
        fail_msg("%s: %s", m->name, m->error.text);
}

static void assert_near(const char *what, double a, double b)
{
    if (isnan(a) ? isnan(b) : a == b)
        return;
    if (!(fabs(a - b) <= 2e-5 + 2e-5 * fabs(b)))
        fail_msg("%s: %.9g, expected %.9g", what, a, b);
}

static void assert_floats(const char *what, const float *a, const float *b, int n)
{
    for (int i = 0; i < n; i++)
        assert_near(what, (double)a[i], (double)b[i]);
}
static void assert_ints(const char *what, const int64_t *a, const int64_t *b, int n)
{
    for (int i = 0; i < n; i++)
        if (a[i] != b[i])
            fail_msg("%s: element %d is %lld, expected %lld", what, i, (long long)a[i],
                     (long long)b[i]);
}

/* ---- Convolution against a plain loop -------------------------------------------------------- */

typedef struct conv_case {
    int64_t n, c, m, group, in[3], kernel[3], stride[3], dilation[3], before[3], after[3], out[3];
    int spatial;
} conv_case;

static conv_case random_conv(int spatial)
{
    conv_case k = {.spatial = spatial, .n = random_between(1, 2), .group = random_between(1, 3)};
    k.c = k.group * random_between(1, 3);
    k.m = k.group * random_between(1, 6);
    for (int i = 0; i < 3; i++) {
        const bool used = i >= 3 - spatial;
        k.kernel[i] = used ? random_between(1, 3) : 1;
        k.stride[i] = used ? random_between(1, 3) : 1;
        k.dilation[i] = used ? random_between(1, 2) : 1;
        k.before[i] = used ? random_between(0, 2) : 0;
        k.after[i] = used ? random_between(0, 2) : 0;
        k.in[i] = used ? (k.kernel[i] - 1) * k.dilation[i] + random_between(1, 6) : 1;
        k.out[i] = (k.in[i] + k.before[i] + k.after[i] - (k.kernel[i] - 1) * k.dilation[i] - 1) /
                       k.stride[i] +
                   1;
    }
    return k;
}

static double conv_at(const conv_case *k, const float *x, const float *w, int64_t n, int64_t m,
                      const int64_t *o)
{
    const int64_t per_in = k->c / k->group, group = m / (k->m / k->group);
    double sum = 0;
    for (int64_t c = 0; c < per_in; c++)
        for (tdn_walk t = tdn_walk_begin(3, k->kernel); t.more; tdn_walk_next(&t)) {
            int64_t xi = n * k->c + group * per_in + c, wi = m * per_in + c;
            bool inside = true;
            for (int i = 0; i < 3; i++) {
                const int64_t at = o[i] * k->stride[i] + t.index[i] * k->dilation[i] - k->before[i];
                inside = inside && at >= 0 && at < k->in[i];
                xi = xi * k->in[i] + at;
                wi = wi * k->kernel[i] + t.index[i];
            }
            if (inside)
                sum += (double)x[xi] * (double)w[wi];
        }
    return sum;
}

static float *random_array(int64_t n)
{
    float *x = malloc((size_t)(n ? n : 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = random_float();
    return x;
}

/* Makes the call for a case; attributes point into `lists`. */
static void make_conv(maker *m, const conv_case *k, const float *x, const float *w, const float *b,
                      float *y, int64_t lists[4][6])
{
    const int s = k->spatial, at = 3 - s;
    int64_t xd[5] = {k->n, k->c}, wd[5] = {k->m, k->c / k->group}, yd[5] = {k->n, k->m};
    for (int i = 0; i < s; i++) {
        xd[2 + i] = k->in[at + i];
        wd[2 + i] = k->kernel[at + i];
        yd[2 + i] = k->out[at + i];
        lists[0][i] = k->stride[at + i];
        lists[1][i] = k->dilation[at + i];
        lists[2][i] = k->before[at + i];
        lists[2][s + i] = k->after[at + i];
    }
    add_in(m, TDN_F32, x, xd, 2 + s);
    add_in(m, TDN_F32, w, wd, 2 + s);
    add_in(m, TDN_F32, b, LIST(k->m));
    add_out(m, TDN_F32, y, yd, 2 + s);
    add_ints(m, "strides", lists[0], s);
    add_ints(m, "dilations", lists[1], s);
    add_ints(m, "pads", lists[2], 2 * s);
    add_int(m, "group", k->group);
}

static void conv_is_a_plain_sum(void **state)
{
    (void)state;
    for (int round = 0; round < 120; round++) {
        const conv_case k = random_conv(1 + round % 3);
        const int64_t n_out = k.out[0] * k.out[1] * k.out[2];
        float *x = random_array(k.n * k.c * k.in[0] * k.in[1] * k.in[2]), *b = random_array(k.m);
        float *w = random_array(k.m * k.c / k.group * k.kernel[0] * k.kernel[1] * k.kernel[2]);
        float *y = random_array(k.n * k.m * n_out);
        int64_t lists[4][6];
        maker m = {.name = "Conv"};
        make_conv(&m, &k, x, w, b, y, lists);
        assert_int_equal(run_parts(&m, 1 + round % 4), TDN_OK);
        for (int64_t i = 0; i < k.n * k.m; i++)
            for (tdn_walk o = tdn_walk_begin(3, k.out); o.more; tdn_walk_next(&o)) {
                const int64_t at =
                    ((i * k.out[0] + o.index[0]) * k.out[1] + o.index[1]) * k.out[2] + o.index[2];
                const double sum =
                    conv_at(&k, x, w, i / k.m, i % k.m, o.index) + (double)b[i % k.m];
                assert_near("conv", (double)y[at], sum);
            }
        free(x);
        free(w);
        free(b);
        free(y);
    }
}

/* A transposed convolution is the adjoint of a convolution: <conv(x), y>
 * = <x, conv_transpose(y)>. */
static void conv_transpose_is_adjoint(void **state)
{
    (void)state;
    for (int round = 0; round < 60; round++) {
        conv_case k = random_conv(1 + round % 3);
        int64_t lists[4][6], extra[3] = {0};
        for (int i = 0; i < 3;
             i++) /* what the convolution's last window leaves over is output_padding */
            extra[i] =
                (k.in[i] + k.before[i] + k.after[i] - (k.kernel[i] - 1) * k.dilation[i] - 1) %
                k.stride[i];
        const int64_t n_x = k.n * k.c * k.in[0] * k.in[1] * k.in[2],
                      n_y = k.n * k.m * k.out[0] * k.out[1] * k.out[2];
        float *x = random_array(n_x), *back = random_array(n_x), *y = random_array(n_y),
              *conv = random_array(n_y);
        float *w = random_array(k.m * k.c / k.group * k.kernel[0] * k.kernel[1] * k.kernel[2]),
              *b = random_array(k.m);
        memset(b, 0, (size_t)k.m * sizeof *b);
        maker forth = {.name = "Conv"}, m = {.name = "ConvTranspose"};
        make_conv(&forth, &k, x, w, b, conv, lists);
        run(&forth);
        make_conv(&m, &k, back, w, b, y, lists);
        m.in[0] = forth.out[0];
        m.in[0].data = y;
        m.out[0] = forth.in[0];
        m.out[0].data = back;
        m.n_in = 2;
        add_ints(&m, "output_padding", extra + 3 - k.spatial, k.spatial);
        assert_int_equal(run_parts(&m, 1 + round % 3), TDN_OK);
        double left = 0, right = 0, size = 1;
        for (int64_t i = 0; i < n_y; i++)
            left += (double)conv[i] * (double)y[i];
        for (int64_t i = 0; i < n_x; i++) {
            right += (double)x[i] * (double)back[i];
            size += fabs((double)x[i] * (double)back[i]);
        }
        assert_near("adjoint", left / size, right / size);
        free(x);
        free(back);
        free(y);
        free(conv);
        free(w);
        free(b);
    }
}

/* ---- By hand --------------------------------------------------------------------------------- */

static void pools_by_hand(void **state)
{
    (void)state;
    const float x[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    float y[9];
    int64_t indices[4];
    maker m = {.name = "MaxPool"};
    add_in(&m, TDN_F32, x, LIST(1, 1, 3, 3));
    add_out(&m, TDN_F32, y, LIST(1, 1, 2, 2));
    add_out(&m, TDN_S64, indices, LIST(1, 1, 2, 2));
    add_ints(&m, "kernel_shape", LIST(2, 2));
    add_ints(&m, "strides", LIST(2, 2)); /* the last windows overhang: ceil_mode */
    run(&m);
    assert_floats("max", y, (float[]){5, 6, 8, 9}, 4);
    assert_ints("index", indices, (int64_t[]){4, 5, 7, 8}, 4);
    add_int(&m, "storage_order", 1);
    run(&m);
    assert_ints("column-major index", indices, (int64_t[]){4, 7, 5, 8}, 4);
    /* average of 1..4 by 2, padded by 1 before, overhanging by 1 behind: the padding counts, the
     * overhang does not */
    for (int include = 0; include < 2; include++) {
        maker a = {.name = "AveragePool"};
        add_in(&a, TDN_F32, x, LIST(1, 1, 4));
        add_out(&a, TDN_F32, y, LIST(1, 1, 3));
        add_ints(&a, "kernel_shape", LIST(3));
        add_ints(&a, "strides", LIST(2));
        add_ints(&a, "pads", LIST(1, 0));
        add_int(&a, "count_include_pad", include);
        run(&a);
        assert_floats("average", y, include ? (float[]){1, 3, 4} : (float[]){1.5f, 3, 4}, 3);
    }
}

static void slices_by_hand(void **state)
{
    (void)state;
    const int16_t x[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    static const struct {
        int64_t start, end, step, n, first, stride;
    } cases[] = {
        {1, 3, 1, 1, 1, 1},         {-1, -100, -1, 4, 3, -1}, {3, INT64_MIN, -2, 2, 3, -2},
        {0, INT64_MAX, 3, 2, 0, 3}, {5, 9, 1, 0, 0, 1},       {-9, INT64_MIN, -2, 1, 0, 1},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        int16_t y[8];
        const int64_t n = i == 0 ? 2 : cases[i].n;
        maker m = {.name = "Slice"};
        add_in(&m, TDN_S16, x, LIST(2, 4));
        add_in(&m, TDN_S64, &cases[i].start, LIST(1));
        add_in(&m, TDN_S64, &cases[i].end, LIST(1));
        add_in(&m, TDN_S64, (int64_t[]){-1}, LIST(1));
        add_in(&m, TDN_S64, &cases[i].step, LIST(1));
        add_out(&m, TDN_S16, y, LIST(2, n));
        run(&m);
        for (int64_t r = 0; r < 2; r++)
            for (int64_t k = 0; k < n; k++)
                assert_int_equal(y[r * n + k], r * 4 + cases[i].first + k * cases[i].stride);
    }
}

static void pads_by_hand(void **state)
{
    (void)state;
    static const struct {
        const char *mode;
        int64_t before, after, n;
        float want[9];
    } cases[] = {
        {"constant", 2, 1, 6, {-1, -1, 1, 2, 3, -1}},
        {"reflect", 2, 2, 7, {3, 2, 1, 2, 3, 2, 1}},
        {"edge", 1, 2, 6, {1, 1, 2, 3, 3, 3}},
        {"wrap", 2, 4, 9, {2, 3, 1, 2, 3, 1, 2, 3, 1}},
        {"constant", -1, 2, 4, {2, 3, -1, -1}},
        {"reflect", 3, 0, 6, {2, 3, 2, 1, 2, 3}},
    };
    const float x[3] = {1, 2, 3}, value = -1;
    for (int i = 0; i < COUNT(cases); i++) {
        float y[9];
        maker m = {.name = "Pad"};
        const int64_t pads[2] = {cases[i].before, cases[i].after};
        add_in(&m, TDN_F32, x, LIST(3));
        add_in(&m, TDN_S64, pads, LIST(2));
        add_in(&m, TDN_F32, &value, NULL, 0);
        add_out(&m, TDN_F32, y, LIST(cases[i].n));
        add_string(&m, "mode", cases[i].mode);
        run(&m);
        assert_floats(cases[i].mode, y, cases[i].want, (int)cases[i].n);
    }
}

static void nibbles_move(void **state)
{
    (void)state;
    const uint8_t x[3] = {0x21, 0x43, 0x65}; /* 1..6 as two rows of three */
    uint8_t y[3];
    maker m = {.name = "Transpose"};
    add_in(&m, TDN_U4, x, LIST(2, 3));
    add_out(&m, TDN_U4, y, LIST(3, 2));
    run(&m);
    assert_memory_equal(y, ((uint8_t[]){0x41, 0x52, 0x63}), 3);
}

static void gathers_by_hand(void **state)
{
    (void)state;
    const float x[6] = {1, 2, 3, 4, 5, 6};
    float y[12];
    maker g = {.name = "Gather"};
    add_in(&g, TDN_F32, x, LIST(2, 3));
    add_in(&g, TDN_S64, (int64_t[]){2, -3, 0, 1}, LIST(2, 2));
    add_out(&g, TDN_F32, y, LIST(2, 2, 2));
    add_int(&g, "axis", 1);
    for (int n_parts = 1; n_parts < 4; n_parts++) {
        memset(y, 0, sizeof y);
        assert_int_equal(run_parts(&g, n_parts), TDN_OK);
        assert_floats("gather", y, (float[]){3, 1, 1, 2, 6, 4, 4, 5}, 8);
    }
    ((int64_t *)g.in[1].data)[1] = -4;
    assert_int_equal(run_parts(&g, 1), TDN_E_MODEL);
    maker nd = {.name = "GatherND"};
    add_in(&nd, TDN_F32, x, LIST(2, 3));
    add_in(&nd, TDN_S64, (int64_t[]){1, 0}, LIST(2, 1));
    add_out(&nd, TDN_F32, y, LIST(2, 3));
    run(&nd);
    assert_floats("gather rows", y, (float[]){4, 5, 6, 1, 2, 3}, 6);
}

static void scatters_by_hand(void **state)
{
    (void)state;
    const float x[4] = {1, 1, 1, 1}, updates[3] = {2, 3, 4};
    const int64_t indices[3] = {1, 3, 1};
    static const struct {
        const char *reduction;
        float want[4];
    } cases[] = {{"none", {1, 4, 1, 3}},
                 {"add", {1, 7, 1, 4}},
                 {"mul", {1, 8, 1, 3}},
                 {"max", {1, 4, 1, 3}},
                 {"min", {1, 1, 1, 1}}};
    for (int i = 0; i < COUNT(cases); i++)
        for (int nd = 0; nd < 2; nd++) {
            float y[4];
            maker m = {.name = nd ? "ScatterND" : "ScatterElements"};
            add_in(&m, TDN_F32, x, LIST(4));
            add_in(&m, TDN_S64, indices, (int64_t[]){3, 1}, 1 + nd);
            add_in(&m, TDN_F32, updates, LIST(3));
            add_out(&m, TDN_F32, y, LIST(4));
            add_string(&m, "reduction", cases[i].reduction);
            run(&m);
            assert_floats(cases[i].reduction, y, cases[i].want, 4);
        }
}

static void sorts_by_hand(void **state)
{
    (void)state;
    const int64_t big = (int64_t)1 << 60; /* differs from its neighbour in no double */
    const int64_t x[6] = {3, big, 3, big + 1, -7, 3};
    int64_t values[4], indices[4];
    maker m = {.name = "TopK"};
    add_in(&m, TDN_S64, x, LIST(6));
    add_out(&m, TDN_S64, values, LIST(4));
    add_out(&m, TDN_S64, indices, LIST(4));
    run(&m);
    assert_ints("values", values, (int64_t[]){big + 1, big, 3, 3}, 4);
    assert_ints("indices", indices, (int64_t[]){3, 1, 0, 2}, 4);
    add_int(&m, "largest", 0);
    run(&m);
    assert_ints("smallest", indices, (int64_t[]){4, 0, 2, 5}, 4);
    int64_t y[6], first[6], inverse[6], count[6];
    for (int sorted = 0; sorted < 2; sorted++) {
        maker u = {.name = "Unique"};
        add_in(&u, TDN_S64, x, LIST(6));
        add_out(&u, TDN_S64, y, LIST(6));
        add_out(&u, TDN_S64, first, LIST(6));
        add_out(&u, TDN_S64, inverse, LIST(6));
        add_out(&u, TDN_S64, count, LIST(6));
        add_int(&u, "sorted", sorted);
        run(&u);
        assert_int_equal(u.out[0].dims[0], 4);
        assert_ints("unique", y,
                    sorted ? (int64_t[]){-7, 3, big, big + 1} : (int64_t[]){3, big, big + 1, -7},
                    4);
        assert_ints("first", first, sorted ? (int64_t[]){4, 0, 1, 3} : (int64_t[]){0, 1, 3, 4}, 4);
        assert_ints("inverse", inverse,
                    sorted ? (int64_t[]){1, 2, 1, 3, 0, 1} : (int64_t[]){0, 1, 0, 2, 3, 0}, 6);
        assert_ints("count", count, sorted ? (int64_t[]){1, 3, 1, 1} : (int64_t[]){3, 1, 1, 1}, 4);
    }
}

static void bounded_outputs_say_their_extent(void **state)
{
    (void)state;
    const float x[4] = {0, 2, 0, -1};
    int64_t where[8];
    maker m = {.name = "NonZero"};
    add_in(&m, TDN_F32, x, LIST(2, 2));
    add_out(&m, TDN_S64, where, LIST(2, 4));
    run(&m);
    assert_int_equal(m.out[0].dims[1], 2);
    assert_ints("where", where, (int64_t[]){0, 1, 1, 1}, 4);
    const float boxes[16] = {0, 0, 1, 1, 0, 0.1f, 1, 1.1f, 0, 10, 1, 11, 0, 0, 1, 0.9f};
    const float scores[4] = {0.9f, 0.75f, 0.6f, 0.1f}, overlap = 0.5f, least = 0.2f;
    const int64_t most = 3;
    int64_t found[12];
    maker s = {.name = "NonMaxSuppression"};
    add_in(&s, TDN_F32, boxes, LIST(1, 4, 4));
    add_in(&s, TDN_F32, scores, LIST(1, 1, 4));
    add_in(&s, TDN_S64, &most, LIST(1));
    add_in(&s, TDN_F32, &overlap, LIST(1));
    add_in(&s, TDN_F32, &least, LIST(1));
    add_out(&s, TDN_S64, found, LIST(3, 3));
    run(&s);
    assert_int_equal(s.out[0].dims[0], 2);
    assert_ints("boxes", found, (int64_t[]){0, 0, 0, 0, 0, 2}, 6);
}

static void resizes_by_hand(void **state)
{
    (void)state;
    static const struct {
        const char *mode, *transform;
        int64_t n;
        float want[8];
    } cases[] = {
        {"linear", "half_pixel", 8, {1, 1.25f, 1.75f, 2.25f, 2.75f, 3.25f, 3.75f, 4}},
        {"linear", "align_corners", 7, {1, 1.5f, 2, 2.5f, 3, 3.5f, 4}},
        {"linear", "asymmetric", 8, {1, 1.5f, 2, 2.5f, 3, 3.5f, 4, 4}},
        {"nearest", "half_pixel", 8, {1, 1, 2, 2, 3, 3, 4, 4}},
        {"nearest",
         "half_pixel",
         3,
         {1, 2, 4}}, /* positions 0.17, 1.5 and 2.83; the tie goes down */
    };
    const float x[4] = {1, 2, 3, 4};
    for (int i = 0; i < COUNT(cases); i++) {
        float y[8];
        maker m = {.name = "Resize"};
        add_in(&m, TDN_F32, x, LIST(4));
        add_in(&m, TDN_DTYPE_NONE, NULL, NULL, 0);
        add_in(&m, TDN_DTYPE_NONE, NULL, NULL, 0);
        add_in(&m, TDN_S64, &cases[i].n, LIST(1));
        add_out(&m, TDN_F32, y, LIST(cases[i].n));
        add_string(&m, "mode", cases[i].mode);
        add_string(&m, "coordinate_transformation_mode", cases[i].transform);
        run(&m);
        assert_floats(cases[i].transform, y, cases[i].want, (int)cases[i].n);
    }
}

/* One hidden unit: h' = tanh(x + h) forth and back, and a length that ends one sequence early. */
static void rnn_by_hand(void **state)
{
    (void)state;
    const float x[6] = {1, 5, 2, 6, 3, 7}, w[2] = {1, 1}; /* (step, batch, in) */
    const int32_t lengths[2] = {3, 2};
    float y[12], last[4], want[12] = {0}, want_last[4];
    for (int d = 0; d < 2; d++)
        for (int b = 0; b < 2; b++) {
            double h = 0;
            for (int t = 0; t < lengths[b]; t++) {
                const int step = d ? lengths[b] - 1 - t : t;
                h = tanh((double)x[step * 2 + b] + h);
                want[(step * 2 + d) * 2 + b] = (float)h;
            }
            want_last[d * 2 + b] = (float)h;
        }
    for (int n_parts = 1; n_parts < 5; n_parts++) {
        maker m = {.name = "RNN"};
        add_in(&m, TDN_F32, x, LIST(3, 2, 1));
        add_in(&m, TDN_F32, w, LIST(2, 1, 1));
        add_in(&m, TDN_F32, w, LIST(2, 1, 1));
        add_in(&m, TDN_DTYPE_NONE, NULL, NULL, 0);
        add_in(&m, TDN_S32, lengths, LIST(2));
        add_out(&m, TDN_F32, y, LIST(3, 2, 2, 1));
        add_out(&m, TDN_F32, last, LIST(2, 2, 1));
        add_string(&m, "direction", "bidirectional");
        assert_int_equal(run_parts(&m, n_parts), TDN_OK);
        assert_floats("y", y, want, 12);
        assert_floats("last", last, want_last, 4);
    }
}

/* With all weights 0 a gate is sigmoid(bias): the cell follows c' = f c + i tanh(g), h = o
 * tanh(c'). */
static void lstm_by_hand(void **state)
{
    (void)state;
    const float x[2] = {0, 0}, zero[4] = {0}, bias[8] = {0.5f, -0.5f, 1, 2},
                c0 = 3; /* gates i, o, f, c */
    float h, c;
    maker m = {.name = "LSTM"};
    add_in(&m, TDN_F32, x, LIST(2, 1, 1));
    add_in(&m, TDN_F32, zero, LIST(1, 4, 1));
    add_in(&m, TDN_F32, zero, LIST(1, 4, 1));
    add_in(&m, TDN_F32, bias, LIST(1, 8));
    add_in(&m, TDN_DTYPE_NONE, NULL, NULL, 0);
    add_in(&m, TDN_DTYPE_NONE, NULL, NULL, 0);
    add_in(&m, TDN_F32, &c0, LIST(1, 1, 1));
    add_out(&m, TDN_DTYPE_NONE, NULL, NULL, 0);
    add_out(&m, TDN_F32, &h, LIST(1, 1, 1));
    add_out(&m, TDN_F32, &c, LIST(1, 1, 1));
    run(&m);
    double want = 3;
    for (int t = 0; t < 2; t++)
        want = want / (1 + exp(-1)) + tanh(2) / (1 + exp(-0.5));
    assert_near("c", (double)c, want);
    assert_near("h", (double)h, tanh(want) / (1 + exp(0.5)));
}

/* ---- Decompositions -------------------------------------------------------------------------- */

typedef struct bench {
    tdn_arena *arena;
    tdn_graph *g;
    tdn_value *in[MAX_OPERANDS];
    int n_in, n_out;
    const char *op;
    tdn_attr attrs[MAX_ATTRS];
    int n_attrs, opset;
} bench;

static bench begin(const char *op, int opset)
{
    bench b = {.op = op, .opset = opset, .n_out = 1, .arena = tdn_arena_create(NULL)};
    b.g = tdn_graph_create(b.arena, op);
    assert_non_null(b.g);
    b.g->opset = opset;
    return b;
}

/* A random fp32 input. */
static void input(bench *b, const int64_t *dims, int rank)
{
    const tdn_shape shape = tdn_shape_make(rank, dims);
    b->in[b->n_in++] = tdn_graph_add_input(b->g, NULL, TDN_F32, &shape);
}
static void absent(bench *b) { b->in[b->n_in++] = NULL; }
static void ints(bench *b, const int64_t *v, int n)
{
    b->in[b->n_in++] = tdn_graph_const_ints(b->g, v, n);
}
static void floats(bench *b, const float *v, int n)
{
    float *copy = tdn_arena_alloc_data(b->arena, (size_t)n * sizeof *v);
    memcpy(copy, v, (size_t)n * sizeof *v);
    const tdn_shape shape = {.rank = n > 1, .dims = {n}};
    b->in[b->n_in++] = tdn_graph_const(b->g, NULL, TDN_F32, &shape, copy);
}
static void attr_int(bench *b, const char *name, int64_t i)
{
    b->attrs[b->n_attrs++] = (tdn_attr){.name = name, .kind = TDN_ATTR_INT, .i = i};
}
static void attr_float(bench *b, const char *name, float f)
{
    b->attrs[b->n_attrs++] = (tdn_attr){.name = name, .kind = TDN_ATTR_FLOAT, .f = f};
}
static void attr_string(bench *b, const char *name, const char *s)
{
    b->attrs[b->n_attrs++] =
        (tdn_attr){.name = name, .kind = TDN_ATTR_STRING, .n = (int)strlen(s), .s = s};
}
static void attr_ints(bench *b, const char *name, const int64_t *v, int n)
{
    int64_t *copy = tdn_arena_alloc(b->arena, (size_t)n + 1, sizeof *v);
    memcpy(copy, v, (size_t)n * sizeof *v);
    b->attrs[b->n_attrs++] = (tdn_attr){.name = name, .kind = TDN_ATTR_INTS, .n = n, .ints = copy};
}
static void attr_floats(bench *b, const char *name, const float *v, int n)
{
    float *copy = tdn_arena_alloc(b->arena, (size_t)n + 1, sizeof *v);
    memcpy(copy, v, (size_t)n * sizeof *v);
    b->attrs[b->n_attrs++] =
        (tdn_attr){.name = name, .kind = TDN_ATTR_FLOATS, .n = n, .floats = copy};
}

/* Evaluates all nodes by their references; views by value id. */
static void evaluate(bench *b, tdn_view *views)
{
    for (tdn_node *node = b->g->first; node; node = node->next) {
        tdn_view in[32] = {{0}}, out[32] = {{0}};
        tdn_error error = {""};
        const tdn_ref_def *ref = tdn_op_reference(node->op);
        if (!ref)
            fail_msg("%s has no reference", node->op->name);
        for (int i = 0; i < node->n_in; i++)
            if (node->in[i])
                in[i] = node->in[i]->kind == TDN_VALUE_CONST ? tdn_value_view(node->in[i])
                                                             : views[node->in[i]->id];
        for (int i = 0; i < node->n_out; i++)
            if (node->out[i]) {
                out[i] = tdn_value_view(node->out[i]);
                const size_t n = (size_t)tdn_view_count(&out[i]);
                out[i].data = tdn_arena_alloc_data(b->arena, tdn_dtype_size(out[i].dtype, n) + 8);
            }
        tdn_ref_call call = {.in = in,
                             .n_in = node->n_in,
                             .out = out,
                             .n_out = node->n_out,
                             .attrs = &node->attrs,
                             .expr = node->expr,
                             .n_parts = 1,
                             .error = &error};
        call.scratch = tdn_alloc(NULL, ref->scratch_size ? ref->scratch_size(&call) : 0, 64);
        if (ref->run(&call) != TDN_OK)
            fail_msg("%s: %s", node->op->name, error.text);
        tdn_free(NULL, call.scratch);
        for (int i = 0; i < node->n_out; i++)
            if (node->out[i])
                views[node->out[i]->id] = out[i];
    }
}

/*
 * Ends a case: the node's reference and its rewrite give the same, and the rewrite leaves only core
 * operators. Frees the case.
 */
static void check(bench *b)
{
    enum { MAX_VALUES = 512 };
    static tdn_view views[MAX_VALUES], want[MAX_OPERANDS];
    tdn_error error = {""};
    tdn_value *out[MAX_OPERANDS];
    memset(views, 0, sizeof views);
    const tdn_op_def *op = tdn_op_find("", b->op, b->opset);
    assert_non_null(op);
    for (int i = 0; i < b->n_out; i++)
        out[i] = tdn_graph_value(b->g, NULL);
    tdn_node *node = tdn_graph_node(b->g, NULL, op, "case", b->in, b->n_in, out, b->n_out);
    for (int i = 0; i < b->n_attrs; i++)
        assert_true(tdn_node_set_attr(b->g, node, &b->attrs[i]));
    for (int i = 0; i < b->n_out; i++)
        assert_true(tdn_graph_set_output(b->g, out[i]));
    if (tdn_graph_infer(b->g, &error) != TDN_OK)
        fail_msg("%s", error.text);
    for (int i = 0; i < b->g->n_inputs; i++) {
        const tdn_value *v = b->g->inputs[i];
        views[v->id] = tdn_value_view(v);
        const int64_t n = tdn_view_count(&views[v->id]);
        float *data = tdn_arena_alloc_data(b->arena, (size_t)n * sizeof *data);
        for (int64_t k = 0; k < n; k++)
            data[k] = random_float();
        views[v->id].data = data;
    }
    evaluate(b, views);
    for (int i = 0; i < b->n_out; i++)
        want[i] = views[b->g->outputs[i]->id];
    if (tdn_pass_decompose(b->g, &error) != TDN_OK || tdn_graph_verify(b->g, &error) != TDN_OK)
        fail_msg("%s", error.text);
    for (const tdn_node *n = b->g->first; n; n = n->next)
        if (n->op->core == TDN_CORE_NONE)
            fail_msg("%s is still there after the rewrite of %s", n->op->name, b->op);
    assert_true(b->g->n_values < MAX_VALUES);
    evaluate(b, views);
    for (int i = 0; i < b->n_out; i++) {
        const tdn_view *have = &views[b->g->outputs[i]->id];
        assert_true(tdn_view_same_dims(have, &want[i]) && have->dtype == want[i].dtype);
        for (int64_t k = 0; k < tdn_view_count(have); k++)
            assert_near(b->op, tdn_view_get(have, k), tdn_view_get(&want[i], k));
    }
    tdn_arena_free(b->arena);
}

static void moves_rewritten(void **state)
{
    (void)state;
    bench b = begin("Reshape", 13);
    input(&b, LIST(2, 3, 4));
    ints(&b, LIST(0, -1, 2));
    check(&b);
    b = begin("Flatten", 13);
    input(&b, LIST(2, 3, 4));
    attr_int(&b, "axis", -1);
    check(&b);
    b = begin("Squeeze", 11);
    input(&b, LIST(1, 3, 1));
    attr_ints(&b, "axes", LIST(-1));
    check(&b);
    b = begin("Unsqueeze", 13);
    input(&b, LIST(3, 4));
    ints(&b, LIST(0, -2));
    check(&b);
    b = begin("Slice", 9);
    input(&b, LIST(5, 6));
    attr_ints(&b, "starts", LIST(1, -4));
    attr_ints(&b, "ends", LIST(4, INT64_MAX));
    check(&b);
    b = begin("Slice", 13);
    input(&b, LIST(5, 6));
    ints(&b, LIST(-1, 1));
    ints(&b, LIST(INT64_MIN, 5));
    ints(&b, LIST(1, 0));
    ints(&b, LIST(-2, 3));
    check(&b);
    b = begin("Split", 18);
    input(&b, LIST(2, 7));
    b.n_out = 3;
    attr_int(&b, "axis", 1);
    attr_int(&b, "num_outputs", 3);
    check(&b);
    b = begin("Split", 13);
    input(&b, LIST(7, 2));
    ints(&b, LIST(2, 0, 5));
    b.n_out = 3;
    check(&b);
    b = begin("Tile", 13);
    input(&b, LIST(2, 1, 3));
    ints(&b, LIST(3, 4, 2));
    check(&b);
    b = begin("Pad", 18);
    input(&b, LIST(3, 4, 2));
    ints(&b, LIST(1, -1, 0, 2));
    floats(&b, FLOATS(0.5f));
    ints(&b, LIST(-1, 0));
    check(&b);
    b = begin("Pad", 2);
    input(&b, LIST(3, 4));
    attr_ints(&b, "pads", LIST(1, 0, 0, 2));
    attr_float(&b, "value", -3);
    check(&b);
    for (int crd = 0; crd < 2; crd++) {
        b = begin("DepthToSpace", 13);
        input(&b, LIST(2, 8, 3, 2));
        attr_int(&b, "blocksize", 2);
        attr_string(&b, "mode", crd ? "CRD" : "DCR");
        check(&b);
        b = begin("SpaceToDepth", 28);
        input(&b, LIST(2, 2, 4, 6));
        attr_int(&b, "blocksize", 2);
        attr_string(&b, "mode", crd ? "CRD" : "DCR");
        check(&b);
    }
}

static void gathers_rewritten(void **state)
{
    (void)state;
    static const struct {
        int64_t indices[3];
        int n; /* 0: a scalar */
    } cases[] = {{{-2}, 0}, {{1, 2, 3}, 3}, {{3, 1}, 2}, {{0, 2, 4}, 3}, {{-1, -2, -3}, 3}};
    for (int i = 0; i < COUNT(cases); i++) {
        bench b = begin("Gather", 13);
        input(&b, LIST(3, 5, 2));
        ints(&b, cases[i].indices, cases[i].n ? cases[i].n : 1);
        b.in[1]->shape.rank = cases[i].n > 0;
        attr_int(&b, "axis", 1);
        check(&b);
    }
}

static void convs_and_pools_rewritten(void **state)
{
    (void)state;
    static const char *const auto_pads[] = {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"};
    for (int i = 0; i < 4; i++) {
        bench b = begin("Conv", 11);
        input(&b, LIST(2, 4, 9, 8));
        input(&b, LIST(6, 2, 3, 2));
        if (i % 2)
            input(&b, LIST(6));
        attr_int(&b, "group", 2);
        attr_ints(&b, "strides", LIST(2, 1));
        attr_string(&b, "auto_pad", auto_pads[i]);
        check(&b);
        for (int k = 0; k < 4; k++) {
            b = begin(k % 2 ? "AveragePool" : "MaxPool", 19);
            input(&b, LIST(1, 3, 9, 10));
            attr_ints(&b, "kernel_shape", LIST(3, 2));
            attr_ints(&b, "strides", LIST(2, 3));
            attr_ints(&b, "dilations", LIST(1, 2));
            attr_string(&b, "auto_pad", auto_pads[i]);
            if (i == 0)
                attr_ints(&b, "pads", LIST(1, 0, 1, 1));
            if (i == 0)
                attr_int(&b, "ceil_mode", 1);
            if (k % 2)
                attr_int(&b, "count_include_pad", k / 2);
            check(&b);
        }
    }
}

static void contractions_rewritten(void **state)
{
    (void)state;
    for (int i = 0; i < 16; i++) {
        bench b = begin("Gemm", 13);
        input(&b, i & 1 ? (int64_t[]){4, 3} : (int64_t[]){3, 4}, 2);
        input(&b, i & 2 ? (int64_t[]){5, 4} : (int64_t[]){4, 5}, 2);
        if (i & 4)
            input(&b, LIST(5));
        attr_int(&b, "transA", i & 1);
        attr_int(&b, "transB", i >> 1 & 1);
        if (i & 8)
            attr_float(&b, "alpha", 0.5f);
        if (i & 8)
            attr_float(&b, "beta", -2);
        check(&b);
    }
    static const struct {
        const char *equation;
        int n;
        int64_t dims[3][5];
        int ranks[3];
    } cases[] = {
        {"nkctv,kvw->nctw", 2, {{1, 3, 4, 5, 6}, {3, 6, 7}}, {5, 3}},
        {"bij, bjk -> bik", 2, {{2, 3, 4}, {2, 4, 5}}, {3, 3}},
        {"bhqd,bhkd->bhqk", 2, {{2, 2, 3, 4}, {2, 2, 5, 4}}, {4, 4}},
        {"...ij,...jk->...ik", 2, {{2, 3, 4}, {2, 4, 5}}, {3, 3}},
        {"ij,kj", 2, {{2, 3}, {4, 3}}, {2, 2}},
        {"i,j->ji", 2, {{2}, {3}}, {1, 1}},
        {"ijk,il->kl", 2, {{2, 3, 4}, {2, 5}}, {3, 2}},
        {"ij,ij->", 2, {{2, 3}, {2, 3}}, {2, 2}},
        {"ijk->ki", 1, {{2, 3, 4}}, {3}},
        {"ij->ij", 1, {{2, 3}}, {2}},
        {"ab,bc,cd->ad", 3, {{2, 3}, {3, 4}, {4, 5}}, {2, 2, 2}},
        {"abc,cd,def->fa", 3, {{2, 3, 4}, {4, 5}, {5, 2, 3}}, {3, 2, 3}},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        bench b = begin("Einsum", 12);
        for (int k = 0; k < cases[i].n; k++)
            input(&b, cases[i].dims[k], cases[i].ranks[k]);
        attr_string(&b, "equation", cases[i].equation);
        check(&b);
    }
}

static void norms_rewritten(void **state)
{
    (void)state;
    static const char *const softmaxes[] = {"Softmax", "LogSoftmax"};
    for (int i = 0; i < 8; i++) {
        bench b = begin(softmaxes[i % 2], i < 4 ? 13 : 11);
        input(&b, LIST(2, 3, 4));
        attr_int(&b, "axis", i / 2 % 2 ? 1 : -1);
        check(&b);
    }
    for (int bias = 0; bias < 2; bias++) {
        bench b = begin("LayerNormalization", 17);
        input(&b, LIST(2, 3, 4));
        input(&b, LIST(3, 4));
        if (bias)
            input(&b, LIST(4));
        attr_int(&b, "axis", 1);
        check(&b);
    }
    bench b = begin("InstanceNormalization", 6);
    input(&b, LIST(2, 3, 4, 5));
    input(&b, LIST(3));
    input(&b, LIST(3));
    check(&b);
    for (int old = 0; old < 2; old++) {
        b = begin("GroupNormalization", old ? 18 : 21);
        input(&b, LIST(2, 6, 4, 5));
        input(&b, old ? (int64_t[]){2} : (int64_t[]){6}, 1);
        input(&b, old ? (int64_t[]){2} : (int64_t[]){6}, 1);
        attr_int(&b, "num_groups", 2);
        attr_float(&b, "epsilon", 0.01f);
        check(&b);
    }
    b = begin("RMSNormalization", 23);
    input(&b, LIST(2, 3, 4));
    input(&b, LIST(4));
    attr_int(&b, "axis", -2);
    check(&b);
    b = begin("MeanVarianceNormalization", 13);
    input(&b, LIST(2, 3, 4, 5));
    check(&b);
    for (int p = 1; p <= 2; p++) {
        b = begin("LpNormalization", 1);
        input(&b, LIST(2, 3, 4));
        attr_int(&b, "p", p);
        attr_int(&b, "axis", 1);
        check(&b);
    }
}

static void resizes_rewritten(void **state)
{
    (void)state;
    bench b = begin("Upsample", 7);
    input(&b, LIST(1, 2, 3, 4));
    attr_floats(&b, "scales", FLOATS(1, 1, 2, 3));
    check(&b);
    b = begin("Resize", 10);
    input(&b, LIST(1, 2, 3, 4));
    floats(&b, FLOATS(1, 1, 2.5f, 0.5f));
    attr_string(&b, "mode", "linear");
    check(&b);
    b = begin("Resize", 13);
    input(&b, LIST(1, 2, 3, 4));
    absent(&b);
    floats(&b, FLOATS(1, 1, 3, 2));
    check(&b);
    static const char *const modes[] = {"linear", "cubic"};
    static const char *const transforms[] = {"half_pixel", "pytorch_half_pixel", "align_corners",
                                             "asymmetric"};
    for (int i = 0; i < 16; i++) {
        b = begin("Resize", 18);
        input(&b, LIST(2, 1, 7, 5));
        absent(&b);
        absent(&b);
        ints(&b, LIST(2, 1, 4, 9));
        attr_string(&b, "mode", modes[i % 2]);
        attr_string(&b, "coordinate_transformation_mode", transforms[i / 2 % 4]);
        attr_int(&b, "antialias", i / 8);
        check(&b);
    }
}

/* ---- Attend ---------------------------------------------------------------------------------- */

/* Two queries of one batch, against the formula; the mean of their weights. */
static void attend_by_hand(void **state)
{
    (void)state;
    static const float q[4] = {1, 2, -1, 0.5f}, k[6] = {1, 0, 2, -1, 1, 0.5f};
    static const float v[3] = {1, 10, 100}, mask[3] = {0, 0.25f, -INFINITY};
    float y[2], mean[3];
    double wanted[2] = {0}, wanted_mean[3] = {0};
    for (int r = 0; r < 2; r++) {
        double w[3], sum = 0;
        for (int j = 0; j < 3; j++)
            sum += w[j] =
                exp(0.5 * (double)(q[2 * r] * k[j] + q[2 * r + 1] * k[3 + j]) + (double)mask[j]);
        for (int j = 0; j < 3; j++) {
            wanted[r] += w[j] / sum * (double)v[j];
            wanted_mean[j] += w[j] / sum / 2;
        }
    }
    for (int is_mean = 0; is_mean < 2; is_mean++) {
        maker m = {.name = "Attend"};
        m.attrs[m.n_attrs++] = (tdn_attr){.name = "scale", .kind = TDN_ATTR_FLOAT, .f = 0.5f};
        add_int(&m, "mean", is_mean);
        add_in(&m, TDN_F32, q, (int64_t[]){1, 2, 2}, 3);
        add_in(&m, TDN_F32, k, (int64_t[]){2, 3}, 2);
        if (!is_mean)
            add_in(&m, TDN_F32, v, (int64_t[]){3, 1}, 2);
        add_in(&m, TDN_F32, mask, (int64_t[]){3}, 1);
        add_out(&m, TDN_F32, is_mean ? mean : y,
                is_mean ? (int64_t[]){1, 1, 3} : (int64_t[]){1, 2, 1}, 3);
        run(&m);
    }
    for (int i = 0; i < 3; i++)
        assert_near("a mean weight", (double)mean[i], wanted_mean[i]);
    for (int i = 0; i < 2; i++)
        assert_near("attention", (double)y[i], wanted[i]);
}

/* ---- All rows -------------------------------------------------------------------------------- */

/* Every operator can be evaluated, or says why not; core operators have a reference. */
static void every_row_has_a_way(void **state)
{
    (void)state;
    for (int i = 0; tdn_op_row(i); i++) {
        const tdn_op_def *op = tdn_op_row(i);
        assert_non_null(op->infer);
        assert_true(op->n_in_max < 0 || op->n_in_min <= op->n_in_max);
        if (op->core != TDN_CORE_NONE)
            assert_non_null(tdn_op_reference(op));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conv_is_a_plain_sum),
        cmocka_unit_test(conv_transpose_is_adjoint),
        cmocka_unit_test(pools_by_hand),
        cmocka_unit_test(slices_by_hand),
        cmocka_unit_test(pads_by_hand),
        cmocka_unit_test(nibbles_move),
        cmocka_unit_test(gathers_by_hand),
        cmocka_unit_test(scatters_by_hand),
        cmocka_unit_test(sorts_by_hand),
        cmocka_unit_test(bounded_outputs_say_their_extent),
        cmocka_unit_test(resizes_by_hand),
        cmocka_unit_test(rnn_by_hand),
        cmocka_unit_test(lstm_by_hand),
        cmocka_unit_test(moves_rewritten),
        cmocka_unit_test(gathers_rewritten),
        cmocka_unit_test(convs_and_pools_rewritten),
        cmocka_unit_test(contractions_rewritten),
        cmocka_unit_test(norms_rewritten),
        cmocka_unit_test(resizes_rewritten),
        cmocka_unit_test(attend_by_hand),
        cmocka_unit_test(every_row_has_a_way),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
