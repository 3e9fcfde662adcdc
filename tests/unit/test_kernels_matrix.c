/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels conv, hconv and gemm: every row of their lists that this CPU runs, on random shapes,
 * strides and epilogues, against sums in double precision. An element may differ by (terms + 8) *
 * eps * sum |a
 * * b|.
 */
#include "backend/cpu/wino.h"
#include "matrix_cases.h"

/* Epilogues: those compiled in, in several forms, and those that are interpreted. Input 0 is the
 * sum. */
typedef struct epilogue_case {
    const char *name;
    int n_extra;
    uint32_t broadcast[2]; /* axes of extra i that are broadcast, by position from the last axis:
                              bit 0 the last */
    void (*build)(tdn_expr *e);
} epilogue_case;

static int in(tdn_expr *e, int i) { return tdn_expr_input(e, i); }
static void end(tdn_expr *e, int reg) { assert_true(tdn_expr_store(e, reg, 0)); }
static void build_bias(tdn_expr *e) { end(e, tdn_expr_add(e, TDN_X_ADD, in(e, 1), in(e, 0), 0)); }
static void build_relu(tdn_expr *e)
{
    const int sum = tdn_expr_add(e, TDN_X_ADD, in(e, 0), in(e, 1), 0);
    end(e, tdn_expr_add(e, TDN_X_MAX, sum, tdn_expr_const(e, 0), 0));
}
static void build_residual_relu6(tdn_expr *e)
{
    const int sum =
        tdn_expr_add(e, TDN_X_ADD, tdn_expr_add(e, TDN_X_ADD, in(e, 0), in(e, 1), 0), in(e, 2), 0);
    const int low = tdn_expr_add(e, TDN_X_MAX, sum, tdn_expr_const(e, 0), 0);
    end(e, tdn_expr_add(e, TDN_X_MIN, tdn_expr_const(e, 6), low, 0));
}
static void build_clamp_residual(tdn_expr *e)
{
    const int high = tdn_expr_add(e, TDN_X_MIN, in(e, 0), tdn_expr_const(e, 0.5f), 0);
    const int low = tdn_expr_add(e, TDN_X_MAX, high, tdn_expr_const(e, -0.25f), 0);
    end(e, tdn_expr_add(e, TDN_X_ADD, low, in(e, 1),
                        0)); /* not of the compiled form: the sum is after the clamp */
}
static void build_silu(tdn_expr *e)
{
    const int sum = tdn_expr_add(e, TDN_X_ADD, in(e, 0), in(e, 1), 0);
    end(e, tdn_expr_add(e, TDN_X_MUL, sum, tdn_expr_add(e, TDN_X_SIGMOID, sum, 0, 0), 0));
}
static void build_scale(tdn_expr *e)
{
    const int scaled = tdn_expr_add(e, TDN_X_MUL, in(e, 0), in(e, 1), 0);
    end(e, tdn_expr_add(e, TDN_X_SUB, scaled, in(e, 2), 0));
}
static void build_twice(tdn_expr *e) { end(e, tdn_expr_add(e, TDN_X_ADD, in(e, 0), in(e, 0), 0)); }

enum { VECTOR = 0xfe, FULL = 0, SCALAR = 0xff, COLUMN = 1 };

static const epilogue_case epilogues[] = {
    {"none", 0, {0}, NULL},
    {"bias", 1, {VECTOR}, build_bias},
    {"bias full", 1, {FULL}, build_bias},
    {"bias scalar", 1, {SCALAR}, build_bias},
    {"relu", 1, {VECTOR}, build_relu},
    {"relu6", 2, {VECTOR, FULL}, build_residual_relu6},
    {"residual first", 2, {FULL, VECTOR}, build_residual_relu6},
    {"two residuals", 2, {FULL, FULL}, build_residual_relu6},
    {"clamp", 1, {FULL}, build_clamp_residual},
    {"silu", 1, {VECTOR}, build_silu},
    {"scale", 2, {COLUMN, VECTOR}, build_scale},
    {"twice", 0, {0}, build_twice},
};
enum { N_EPILOGUES = sizeof epilogues / sizeof epilogues[0] };

typedef struct epilogue_set {
    const epilogue_case *c;
    tdn_expr expr;
    tdn_view extra[2];
} epilogue_set;

/* Operands as large as the result are of `dtype`. */
static void choose_epilogue_of(epilogue_set *set, scene *s, tdn_group *g, tdn_dtype dtype)
{
    memset(set, 0, sizeof *set);
    set->c = &epilogues[random_bits() % N_EPILOGUES];
    const tdn_view *out = &g->out[0];
    for (int i = 0; i < set->c->n_extra; i++) {
        uint32_t broadcast = 0;
        for (int axis = 0; axis < out->rank; axis++)
            broadcast |= (set->c->broadcast[i] >> (out->rank - 1 - axis) & 1) << axis;
        set->extra[i] = new_tensor(s, broadcast ? TDN_F32 : dtype, out->rank, out->dims,
                                   random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE, broadcast)
                            ->view;
    }
    g->extra = set->extra;
    g->n_extra = set->c->n_extra;
    g->expr = NULL;
    if (set->c->build) {
        set->c->build(&set->expr);
        g->expr = &set->expr;
    }
}

static void choose_epilogue(epilogue_set *set, scene *s, tdn_group *g)
{
    choose_epilogue_of(set, s, g, TDN_F32);
}

/* The epilogue of one element, and what it makes of the sum's error. No epilogue here is steeper
 * than 2. */
static double finish(const epilogue_set *set, double sum, const tdn_walk *w, double *bound)
{
    *bound = 2 * *bound + 4 * EPS * (fabs(sum) + 4);
    if (!set->c->build)
        return sum;
    float args[3] = {(float)sum}, result;
    for (int i = 0; i < set->c->n_extra; i++)
        args[i + 1] = (float)tdn_view_get(&set->extra[i], tdn_walk_offset(w, &set->extra[i]));
    tdn_expr_eval(&set->expr, args, &result);
    return result;
}

/* ---- conv ------------------------------------------------------------------------------------ */

enum { FLOATS_APART = 1024 }; /* 4 KiB */

static conv_case any_conv(void)
{
    return random_bits() % 40 ? random_conv() : far_apart_conv(FLOATS_APART);
}

/* Of floats, and of halves by a table: under an emulator each conversion tells. */
static double number_at(const tdn_view *v, int64_t offset)
{
    static float tables[2][1 << 16];
    static bool is_set;
    for (int i = 0; !is_set && i < 1 << 16; i++) {
        tables[0][i] = tdn_f16_to_f32((uint16_t)i);
        tables[1][i] = tdn_bf16_to_f32((uint16_t)i);
    }
    is_set = true;
    return v->dtype == TDN_F32
               ? (double)((float *)v->data)[offset]
               : (double)tables[v->dtype == TDN_BF16][((uint16_t *)v->data)[offset]];
}

static double conv_at(const conv_case *c, const tdn_view *x, const tdn_view *w, const tdn_walk *at,
                      double *absolute)
{
    const tdn_conv_desc *d = &c->desc;
    const int64_t group = at->index[4] / (c->w[0] / d->group);
    double sum = 0;
    *absolute = 0;
    for (tdn_walk t = tdn_walk_begin(4, &c->w[1]); t.more; tdn_walk_next(&t)) {
        int64_t offset =
            at->index[0] * x->strides[0] + (group * c->w[1] + t.index[0]) * x->strides[4];
        bool inside = true;
        for (int i = 0; i < 3; i++) {
            const int64_t p =
                at->index[i + 1] * d->stride[i] - d->pad[i] + t.index[i + 1] * d->dilation[i];
            inside &= p >= 0 && p < c->x[i + 1];
            offset += p * x->strides[i + 1];
        }
        if (!inside)
            continue;
        const int64_t tap =
            ((at->index[4] * c->w[1] + t.index[0]) * c->w[2] + t.index[1]) * c->w[3] + t.index[2];
        const double product = number_at(x, offset) * number_at(w, tap * c->w[4] + t.index[3]);
        sum += product;
        *absolute += fabs(product);
    }
    return sum;
}

static bool is_half(const tdn_kernel *k) { return strstr(k->name, "_f32h_") != NULL; }

/* What rounding weights to halves makes of a sum of that many products with factors up to 1. */
static double half_bound(const tdn_kernel *k, double terms, double absolute)
{
    return is_half(k) ? 0x1p-11 * absolute + 0x1p-25 * terms : 0;
}

/*
 * Minimal filtering rounds by the size of a patch's inputs, not only of those under the taps, times
 * the gain of its transforms: of F(6x6, 3x3) some hundred roundings, of smaller ones less. Where
 * transformed weights are halves, which they are of few points only, some eight roundings to them.
 */
static double patch_bound(const tdn_kernel *k, const tdn_group *g, const conv_case *c, int64_t m)
{
    const int64_t n = c->w[1] * c->w[2] * c->w[3] * c->w[4];
    double most = 0, sum = 0;
    for (tdn_walk w = tdn_walk_begin(5, c->x); w.more; tdn_walk_next(&w))
        most = fmax(most, fabsf(((float *)g->in[0].data)[tdn_walk_offset(&w, &g->in[0])]));
    for (int64_t i = 0; i < n; i++)
        sum += fabsf(((float *)g->in[1].data)[m * n + i]);
    return (100 * EPS + (is_half(k) ? 8 * 0x1p-11 : 0)) * most * sum;
}

static void compare_conv(const conv_case *c, const tdn_kernel *k, const tdn_group *g,
                         const epilogue_set *set)
{
    const double terms = (double)(c->w[1] * c->w[2] * c->w[3] * c->w[4]);
    int64_t number = 0;
    for (tdn_walk w = tdn_walk_begin(5, c->out); w.more; tdn_walk_next(&w), number++) {
        double absolute;
        const double sum = conv_at(c, &g->in[0], &g->in[1], &w, &absolute);
        double bound = (terms + 8) * EPS * absolute + half_bound(k, terms, absolute);
        if (!strncmp(k->name, "wino", 4))
            bound += patch_bound(k, g, c, w.index[4]);
        const double wanted = finish(set, sum, &w, &bound);
        expect_near(k, ((float *)g->out[0].data)[tdn_walk_offset(&w, &g->out[0])], wanted, bound,
                    number);
    }
}

/* Of a kernel of spikes: a left operand of zeros and ones, hardly any of either, or one kind
 * alone. */
static void thin_out(const tdn_view *v)
{
    const int64_t percent = RANDOM_OF(0, 3, 20, 60, 100);
    for (tdn_walk w = tdn_walk_begin(v->rank, v->dims); w.more; tdn_walk_next(&w))
        ((float *)v->data)[tdn_walk_offset(&w, v)] = random_between(0, 99) < percent;
}

/* Other tiles, where there are any, than those of variant 0. The second half of the variants has
 * weights in half precision. */
static bool make_any_tiles(step *st, const tdn_family *family, const tdn_kernel *k, tdn_group *g,
                           int first_variant, scene *s)
{
    const int plain = is_half(k) ? family->n_variants / 2 : 0;
    g->takes_halves = is_half(k);
    g->variant = plain + first_variant + (int)random_between(0, TDN_TILING_SHAPES - 1);
    if (random_bits() % 2 && make_step(st, family, k, g, s->arena))
        return true;
    g->variant = plain;
    return make_step(st, family, k, g, s->arena);
}

static int conv_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    const bool is_wino = !strncmp(k->name, "wino", 4);
    conv_case c = any_conv();
    while (is_wino && (c.desc.group > 1 || c.w[2] > 1 || c.desc.stride[0] > 1 || c.desc.pad[0]))
        c = any_conv();
    const tdn_view operands[2] = {
        new_tensor(s, TDN_F32, 5, c.x, random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE, 0)->view,
        new_tensor(s, TDN_F32, 5, c.w, LAYOUT_DENSE, 0)->view};
    tensor *out = new_output(s, TDN_F32, 5, c.out, random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE);
    tdn_group g = {.desc = &c.desc, .in = operands, .n_in = 2, .out = &out->view, .n_out = 1};
    g.is_sparse = !strncmp(k->name, "sp", 2);
    if (g.is_sparse)
        thin_out(&operands[0]);
    if (is_wino)
        g.variant = (int)random_between(1, TDN_WINO_VARIANTS);
    if (is_wino && is_half(k)) {
        g.variant += family->n_variants / 2;
        g.takes_halves = true;
    }
    epilogue_set set;
    choose_epilogue(&set, s, &g);
    step st;
    const bool made = is_wino ? make_step(&st, family, k, &g, s->arena)
                              : make_any_tiles(&st, family, k, &g, 1 + TDN_WINO_VARIANTS, s);
    if (made) {
        run_step(&st);
        compare_conv(&c, k, &g, &set);
        check_gaps(out, k->name);
        if (random_bits() % 8 == 0)
            expect_checked(family, &st);
    }
    end_scene(s);
    return made;
}

/* ---- hconv ----------------------------------------------------------------------------------- */

static tdn_dtype factor_of(const tdn_kernel *k)
{
    return strstr(k->name, "_bf16_") ? TDN_BF16 : strstr(k->name, "_f16_") ? TDN_F16 : TDN_F32;
}

enum { HALVES_APART = 2048, SHORT = 64 /* products that are summed up in binary16 */ };

static void fill_small(const tdn_view *v)
{
    for (tdn_walk w = tdn_walk_begin(v->rank, v->dims); w.more; tdn_walk_next(&w))
        tdn_view_set(v, tdn_walk_offset(&w, v), (double)random_between(-2, 2));
}

/* Sums of small integers are exact in either type, however they are added up; of other numbers, a
 * sum of products in binary16 loses up to half a unit of it with each. */
static double halves_bound(tdn_dtype dtype, double terms, double absolute, bool exact)
{
    const double each = exact ? 0 : dtype == TDN_F16 ? 0x1p-11 * fmin(terms, SHORT + 1) : 2 * EPS;
    return absolute * (each + (exact ? 0 : (terms + 8) * EPS)) + (exact ? 0 : terms * 0x1p-24);
}

static void compare_halves(const conv_case *c, const tdn_kernel *k, const tdn_group *g,
                           const epilogue_set *set, bool exact)
{
    const tdn_view *out = &g->out[0];
    const double terms = (double)(c->w[1] * c->w[2] * c->w[3] * c->w[4]);
    const double unit = out->dtype == TDN_F16 ? 0x1p-11 : out->dtype == TDN_BF16 ? 0x1p-8 : 0;
    int64_t number = 0;
    for (tdn_walk w = tdn_walk_begin(5, c->out); w.more; tdn_walk_next(&w), number++) {
        double absolute;
        const double sum = conv_at(c, &g->in[0], &g->in[1], &w, &absolute);
        double bound = halves_bound(g->in[0].dtype, terms, absolute, exact);
        const double wanted = finish(set, sum, &w, &bound);
        bound += unit * (fabs(wanted) + bound) + (unit > 0 ? 0x1p-25 : 0);
        expect_near(k, tdn_view_get(out, tdn_walk_offset(&w, out)), wanted, bound, number);
    }
}

static int hconv_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    const tdn_dtype half = factor_of(k);
    conv_case c = random_bits() % 40 ? random_conv() : far_apart_conv(HALVES_APART);
    while (c.w[1] % 2)
        c = random_conv();
    const bool exact = random_bits() % 2;
    const tdn_view operands[2] = {
        new_tensor(s, half, 5, c.x, random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE, 0)->view,
        new_tensor(s, half, 5, c.w, LAYOUT_DENSE, 0)->view};
    for (int i = 0; exact && i < 2; i++)
        fill_small(&operands[i]);
    tensor *out = new_output(s, random_bits() % 3 ? half : TDN_F32, 5, c.out,
                             random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE);
    tdn_group g = {.desc = &c.desc, .in = operands, .n_in = 2, .out = &out->view, .n_out = 1};
    epilogue_set set;
    choose_epilogue_of(&set, s, &g, random_bits() % 2 ? half : TDN_F32);
    g.variant = (int)random_between(0, family->n_variants - 1);
    step st;
    bool made = make_step(&st, family, k, &g, s->arena);
    if (!made && g.variant > 0) {
        g.variant = 0;
        made = make_step(&st, family, k, &g, s->arena);
    }
    if (made) {
        run_step(&st);
        compare_halves(&c, k, &g, &set, exact);
        check_gaps(out, k->name);
        if (random_bits() % 8 == 0)
            expect_checked(family, &st);
    }
    end_scene(s);
    return made;
}

/* ---- gemm ------------------------------------------------------------------------------------ */

typedef struct gemm_case {
    int64_t a[4], b[4], out[4];
    uint32_t a_broadcast, b_broadcast;
    bool constant, turned;
} gemm_case;

static gemm_case random_gemm(void)
{
    gemm_case c = {.constant = random_bits() % 2, .turned = random_bits() % 2};
    const int64_t m = random_bits() % 3 ? random_between(1, 40) : RANDOM_OF(1, 1, 2, 3, 200);
    const int64_t n = random_bits() % 3 ? random_between(1, 100) : RANDOM_OF(1, 16, 32, 64, 300);
    const int64_t k = random_bits() % 3 ? random_between(1, 70) : RANDOM_OF(1, 4, 256, 500, 1024);
    for (int i = 0; i < 2; i++) {
        c.out[i] = RANDOM_OF(1, 1, 2, 3);
        c.a[i] = c.b[i] = c.out[i];
        c.a_broadcast |= (random_bits() % 4 == 0 ? 1u : 0u) << i;
        c.b_broadcast |= (random_bits() % 2 == 0 ? 1u : 0u) << i;
    }
    c.a[2] = c.out[2] = m;
    c.a[3] = c.b[2] = k;
    c.b[3] = c.out[3] = n;
    return c;
}

/* The right operand, stored (.., k, n) or (.., n, k). */
static tdn_view right_operand(scene *s, const gemm_case *c)
{
    int64_t dims[4];
    memcpy(dims, c->b, sizeof dims);
    if (c->turned) {
        dims[2] = c->b[3];
        dims[3] = c->b[2];
    }
    tdn_view v = new_tensor(s, TDN_F32, 4, dims, random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE,
                            c->b_broadcast)
                     ->view;
    if (c->turned) {
        const int64_t stride = v.strides[2];
        memcpy(v.dims, c->b, sizeof c->b);
        v.strides[2] = v.strides[3];
        v.strides[3] = stride;
    }
    return v;
}

static void compare_gemm(const gemm_case *c, const tdn_kernel *kernel, const tdn_view *a,
                         const tdn_view *b, const tdn_view *out, const epilogue_set *set)
{
    int64_t number = 0;
    for (tdn_walk w = tdn_walk_begin(4, c->out); w.more; tdn_walk_next(&w), number++) {
        double sum = 0, absolute = 0;
        const float *pa = (float *)a->data + w.index[0] * a->strides[0] +
                          w.index[1] * a->strides[1] + w.index[2] * a->strides[2];
        const float *pb = (float *)b->data + w.index[0] * b->strides[0] +
                          w.index[1] * b->strides[1] + w.index[3] * b->strides[3];
        for (int64_t k = 0; k < c->a[3]; k++) {
            const double product = (double)pa[k * a->strides[3]] * pb[k * b->strides[2]];
            sum += product;
            absolute += fabs(product);
        }
        double bound =
            ((double)c->a[3] + 8) * EPS * absolute + half_bound(kernel, (double)c->a[3], absolute);
        const double wanted = finish(set, sum, &w, &bound);
        expect_near(kernel, ((float *)out->data)[tdn_walk_offset(&w, out)], wanted, bound, number);
    }
}

static int gemm_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    const gemm_case c = random_gemm();
    tdn_view operands[2] = {new_tensor(s, TDN_F32, 4, c.a,
                                       random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE,
                                       c.a_broadcast)
                                ->view,
                            right_operand(s, &c)};
    const tdn_view right = operands[1];
    tensor *out = new_output(s, TDN_F32, 4, c.out, random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE);
    tdn_group g = {.in = operands, .n_in = 2, .out = &out->view, .n_out = 1};
    epilogue_set set;
    choose_epilogue(&set, s, &g);
    g.is_sparse = !strncmp(k->name, "sp", 2);
    if (g.is_sparse)
        thin_out(&operands[0]);
    if (!c.constant)
        operands[1].data = NULL;
    step st;
    const bool made = make_any_tiles(&st, family, k, &g, 1, s);
    if (made) {
        if (!c.constant)
            st.in[1] = right;
        run_step(&st);
        compare_gemm(&c, k, &operands[0], &right, &out->view, &set);
        check_gaps(out, k->name);
        if (random_bits() % 8 == 0)
            expect_checked(family, &st);
    }
    end_scene(s);
    return made;
}

/* ---- mix ------------------------------------------------------------------------------------- */

static tdn_view sparse_matrix(scene *s, int64_t k, int64_t n)
{
    const tdn_view w = new_tensor(s, TDN_F32, 2, (int64_t[]){k, n}, LAYOUT_DENSE, 0)->view;
    for (int64_t i = 0; i < k * n; i++)
        if (random_bits() % 5)
            ((float *)w.data)[i] = 0;
    return w;
}

static void compare_mix(const tdn_kernel *kernel, const tdn_group *g, const epilogue_set *set)
{
    const tdn_view *x = &g->in[0], *w = &g->in[1], *y = &g->out[0];
    int64_t number = 0;
    for (tdn_walk o = tdn_walk_begin(5, y->dims); o.more; tdn_walk_next(&o), number++) {
        double sum = 0, absolute = 0;
        for (int64_t k = 0; k < w->dims[0]; k++) {
            const int64_t at = o.index[0] * x->strides[0] + o.index[1] * x->strides[1] +
                               o.index[2] * x->strides[2] + k / x->dims[4] * x->strides[3] +
                               k % x->dims[4] * x->strides[4] + o.index[4] * x->strides[5];
            const double product =
                (double)((float *)x->data)[at] * ((float *)w->data)[k * w->dims[1] + o.index[3]];
            sum += product;
            absolute += fabs(product);
        }
        double bound = ((double)w->dims[0] + 8) * EPS * absolute;
        const double wanted = finish(set, sum, &o, &bound);
        expect_near(kernel, ((float *)y->data)[tdn_walk_offset(&o, y)], wanted, bound, number);
    }
}

static int mix_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    int64_t x[6], y[5];
    for (int i = 0; i < 3; i++)
        x[i] = y[i] = random_between(1, 3);
    x[3] = random_between(1, 3);
    x[4] = random_between(1, 12);
    x[5] = y[4] = random_bits() % 2 ? random_between(1, 40) : RANDOM_OF(64, 65, 128, 150);
    y[3] = random_between(1, 12);
    const tdn_view operands[2] = {
        new_tensor(s, TDN_F32, 6, x, random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE, 0)->view,
        sparse_matrix(s, x[3] * x[4], y[3])};
    tensor *out = new_output(s, TDN_F32, 5, y, random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE);
    tdn_group g = {.in = operands, .n_in = 2, .out = &out->view, .n_out = 1};
    epilogue_set set;
    choose_epilogue(&set, s, &g);
    step st;
    const bool made = make_step(&st, family, k, &g, s->arena);
    if (made) {
        run_step(&st);
        compare_mix(k, &g, &set);
        check_gaps(out, k->name);
        if (random_bits() % 8 == 0)
            expect_checked(family, &st);
    }
    end_scene(s);
    return made;
}

/* ---- graphconv ------------------------------------------------------------------------------- */

static double graphconv_at(const tdn_group *g, const tdn_walk *o, double *absolute)
{
    const tdn_graphconv_desc *d = g->desc;
    const tdn_view *x = &g->in[0], *w = &g->in[1], *b = &g->in[2];
    const int64_t c = x->dims[4];
    double sum = ((float *)b->data)[o->index[3] * b->strides[0] + o->index[4]];
    *absolute = fabs(sum);
    for (int64_t i = 0; i < w->dims[1]; i++)
        for (int64_t from = 0; from < d->n_from; from++) {
            const float edge = d->adjacency[(i / c * d->n_from + from) * d->n_to + o->index[3]];
            const int64_t at = o->index[0] * x->strides[0] + o->index[1] * x->strides[1] +
                               o->index[2] * x->strides[2] + from * x->strides[3] +
                               i % c * x->strides[4];
            const double product = (double)((float *)w->data)[o->index[4] * w->dims[1] + i] *
                                   (double)edge * (double)((float *)x->data)[at];
            sum += product;
            *absolute += fabs(product);
        }
    return sum;
}

static int graphconv_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    int64_t x[5], y[5];
    for (int i = 0; i < 3; i++)
        x[i] = y[i] = random_between(1, 3);
    x[3] = random_between(1, 9);
    y[3] = random_between(1, 9);
    x[4] = random_bits() % 2 ? random_between(1, 40) : RANDOM_OF(16, 64, 65, 150);
    y[4] = random_bits() % 2 ? random_between(1, 40) : RANDOM_OF(32, 64, 65, 100);
    const int64_t kinds = random_between(1, 4);
    const tdn_view adjacency = sparse_matrix(s, kinds * x[3], y[3]);
    if (random_bits() % 2)
        for (int64_t i = 0; i < x[3] && i < y[3]; i++) /* itself, alone or not */
            ((float *)adjacency.data)[i * y[3] + i] = 1;
    const tdn_graphconv_desc desc = {.adjacency = adjacency.data,
                                     .n_kinds = (int32_t)kinds,
                                     .n_from = (int32_t)x[3],
                                     .n_to = (int32_t)y[3]};
    const tdn_dtype factor = factor_of(k);
    const bool exact = factor != TDN_F32 && random_bits() % 2;
    const tdn_view operands[3] = {
        new_tensor(s, TDN_F32, 5, x, random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE, 0)->view,
        new_tensor(s, TDN_F32, 2, (int64_t[]){y[4], kinds * x[4]}, LAYOUT_DENSE, 0)->view,
        new_tensor(s, TDN_F32, 2, (int64_t[]){y[3], y[4]}, LAYOUT_DENSE, 0)->view};
    tensor *out = new_output(s, random_bits() % 4 ? TDN_F32 : TDN_F16, 5, y,
                             random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE);
    for (int64_t i = 0; exact && i < kinds * x[3] * y[3]; i++)
        ((float *)adjacency.data)[i] = ((float *)adjacency.data)[i] != 0;
    for (int i = 0; exact && i < 2; i++)
        fill_small(&operands[i]);
    tdn_group g = {.desc = &desc, .in = operands, .n_in = 3, .out = &out->view, .n_out = 1};
    g.variant = factor != TDN_F32;
    g.halves = factor != TDN_F32 ? factor : TDN_DTYPE_NONE;
    epilogue_set set;
    choose_epilogue(&set, s, &g);
    step st;
    const bool made = make_step(&st, family, k, &g, s->arena);
    if (made) {
        int64_t number = 0;
        run_step(&st);
        for (tdn_walk o = tdn_walk_begin(5, y); o.more; tdn_walk_next(&o), number++) {
            double absolute;
            const double sum = graphconv_at(&g, &o, &absolute);
            double bound = ((double)(kinds * x[3] * x[4]) + 8) * EPS * absolute;
            if (factor != TDN_F32)
                bound += halves_bound(factor, (double)(kinds * x[4]), absolute, exact) +
                         (exact ? 0 : (factor == TDN_F16 ? 0x1p-10 : 0x1p-7) * absolute);
            const double wanted = finish(&set, sum, &o, &bound);
            if (out->view.dtype == TDN_F16)
                bound += 0x1p-11 * (fabs(wanted) + bound) + 0x1p-25;
            expect_near(k, tdn_view_get(&out->view, tdn_walk_offset(&o, &out->view)), wanted, bound,
                        number);
        }
        check_gaps(out, k->name);
        if (random_bits() % 8 == 0)
            expect_checked(family, &st);
    }
    end_scene(s);
    return made;
}

/* ---- Walks ----------------------------------------------------------------------------------- */

static void test_conv(void **state)
{
    (void)state;
    walk("conv", conv_once, 400);
}
/* Rows are of CPUs with such instructions: on others there is nothing to walk. */
static void test_hconv(void **state)
{
    (void)state;
    walk("hconv", hconv_once, 200);
}

static void test_gemm(void **state)
{
    (void)state;
    walk("gemm", gemm_once, 400);
}

static void test_mix(void **state)
{
    (void)state;
    walk("mix", mix_once, 200);
}

static void test_graphconv(void **state)
{
    (void)state;
    walk("graphconv", graphconv_once, 200);
}

/* Zeros are not left out where a weight is not finite: 0 times it is no zero. */
static void test_sparse_and_infinite_weights(void **state)
{
    (void)state;
    float x[4] = {0, 1, 0, 0}, w[4] = {1, 2, INFINITY, 4};
    const int64_t left[] = {1, 1, 1, 4}, right[] = {1, 1, 4, 1}, one[] = {1, 1, 1, 1};
    const tdn_view in[2] = {tdn_view_make(x, TDN_F32, 4, left),
                            tdn_view_make(w, TDN_F32, 4, right)};
    const tdn_view out = tdn_view_make(NULL, TDN_F32, 4, one);
    const tdn_family *family = tdn_family_find("gemm");
    tdn_group g = {.in = in, .n_in = 2, .out = &out, .n_out = 1, .is_sparse = true};
    tdn_arena *arena = tdn_arena_create(NULL);
    const uint64_t isa = tdn_target_detect()->isa;
    tdn_made made;
    assert_int_equal(family->make(&made, &g, isa, arena, NULL), TDN_OK);
    assert_memory_equal(made.kernel->name, "gemm", 4);
    w[2] = 3;
    assert_int_equal(family->make(&made, &g, isa, arena, NULL), TDN_OK);
    assert_memory_equal(made.kernel->name, "spgemm", 6);
    tdn_arena_free(arena);
}

/* Weights that halves do not hold well, and groups that do not allow them, are refused. */
static void test_weights_in_halves(void **state)
{
    (void)state;
    static const struct {
        float w[2]; /* of a column that follows one of ones */
        bool fits;
    } cases[] = {{{65504, -1e-7f}, true}, {{65505, 1}, false}, {{-INFINITY, 1}, false},
                 {{NAN, 1}, false},       {{0, 0}, true},      {{0x1p-14f, 0x1p-26f}, true},
                 {{0, 0x1p-15f}, false},  {{-6e-5f, 0}, false}};
    float x[2] = {1, 1}, w[4] = {1, 1, 0, 0}, y[2];
    const int64_t left[] = {1, 1, 1, 2}, right[] = {1, 1, 2, 2}, pixel[] = {1, 1, 1, 1, 2};
    const tdn_view out[2] = {tdn_view_make(y, TDN_F32, 4, left),
                             tdn_view_make(y, TDN_F32, 5, pixel)};
    tdn_view in[2][2] = {{tdn_view_make(x, TDN_F32, 4, left), tdn_view_make(w, TDN_F32, 4, right)},
                         {tdn_view_make(x, TDN_F32, 5, pixel),
                          tdn_view_make(w, TDN_F32, 5, (const int64_t[]){2, 2, 1, 1, 1})}};
    in[0][1].strides[2] = 1;
    in[0][1].strides[3] = 2; /* columns are contiguous, as a convolution's filters */
    const tdn_conv_desc desc = {.stride = {1, 1, 1}, .dilation = {1, 1, 1}, .group = 1};
    tdn_arena *arena = tdn_arena_create(NULL);
    for (int f = 0; f < 2; f++) {
        const tdn_family *family = tdn_family_find(f ? "conv" : "gemm");
        tdn_group g = {.desc = f ? &desc : NULL,
                       .in = in[f],
                       .n_in = 2,
                       .out = &out[f],
                       .n_out = 1,
                       .variant = family->n_variants / 2};
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
            for (int takes = 0; takes < 2; takes++) {
                tdn_made made;
                memcpy(w + 2, cases[i].w, sizeof cases[i].w);
                g.takes_halves = takes;
                const tdn_status status =
                    family->make(&made, &g, tdn_target_detect()->isa, arena, NULL);
                assert_int_equal(status, takes && cases[i].fits ? TDN_OK : TDN_E_UNSUPPORTED);
            }
    }
    tdn_arena_free(arena);
}

int main(int argc, char **argv)
{
    set_seed(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_conv),
                                       cmocka_unit_test(test_hconv),
                                       cmocka_unit_test(test_gemm),
                                       cmocka_unit_test(test_mix),
                                       cmocka_unit_test(test_graphconv),
                                       cmocka_unit_test(test_sparse_and_infinite_weights),
                                       cmocka_unit_test(test_weights_in_halves)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
