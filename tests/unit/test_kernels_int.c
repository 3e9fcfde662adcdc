/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels iconv: every row of their lists that this CPU runs, on random shapes, strides and
 * epilogues. Sums must be those of a loop over int64_t, also at the extremes of bytes; what an
 * epilogue makes of them may differ from its formula in double precision by roundings of fp32, and
 * a byte by one step where its value is that close to the middle between two.
 */
#include "matrix_cases.h"

enum { BYTES_APART = 4096 };

/* ---- Epilogues ------------------------------------------------------------------------------- */

typedef enum residual_kind { NO_RESIDUAL, FLOATS, BYTES } residual_kind;

/* y = sum * scale[m] * factor + bias[m] + (residual - r_zero) * r_scale, clamped; a program squares
 * it; a byte is clamp(round(y * out_scale) + out_zero). Parts may be missing. */
typedef struct epilogue {
    bool any, has_scale, has_bias, squares, rounds;
    residual_kind residual;
    float factor, r_zero, r_scale, lo, hi, out_scale, out_zero, byte_lo, byte_hi;
    tdn_view extra[3], *scale, *bias, *other;
    int n_extra;
    tdn_expr expr;
} epilogue;

static tdn_view *new_extra(epilogue *ep, scene *s, tdn_dtype dtype, const tdn_view *out,
                           uint32_t broadcast)
{
    tdn_view *v = &ep->extra[ep->n_extra++];
    *v = new_tensor(s, dtype, 5, out->dims, random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE,
                    broadcast)
             ->view;
    return v;
}

static int input_of(epilogue *ep, const tdn_view *extra)
{
    return tdn_expr_input(&ep->expr, 1 + (int)(extra - ep->extra));
}

/* a op b, or b op a. */
static int either(tdn_expr *e, tdn_expr_op op, int a, int b)
{
    return random_bits() % 2 ? tdn_expr_add(e, op, a, b, 0) : tdn_expr_add(e, op, b, a, 0);
}

static int with_constant(tdn_expr *e, tdn_expr_op op, int a, float c)
{
    return either(e, op, a, tdn_expr_const(e, c));
}

static int build_clamps(tdn_expr *e, int y, float lo, float hi)
{
    if (lo > -INFINITY)
        y = with_constant(e, TDN_X_MAX, y, lo);
    return hi < INFINITY ? with_constant(e, TDN_X_MIN, y, hi) : y;
}

static int build_y(epilogue *ep)
{
    tdn_expr *e = &ep->expr;
    int y = tdn_expr_input(e, 0);
    if (ep->has_scale)
        y = either(e, TDN_X_MUL, y, input_of(ep, ep->scale));
    else
        y = with_constant(e, TDN_X_MUL, y, ep->factor);
    if (ep->has_bias)
        y = either(e, TDN_X_ADD, y, input_of(ep, ep->bias));
    if (ep->residual) {
        int r = input_of(ep, ep->other);
        r = tdn_expr_add(e, TDN_X_SUB, r, tdn_expr_const(e, ep->r_zero), 0);
        y = either(e, TDN_X_ADD, y, with_constant(e, TDN_X_MUL, r, ep->r_scale));
    }
    return build_clamps(e, y, ep->lo, ep->hi);
}

static void build(epilogue *ep)
{
    tdn_expr *e = &ep->expr;
    int y = build_y(ep);
    if (ep->squares)
        y = tdn_expr_add(e, TDN_X_MUL, y, y, 0);
    if (ep->rounds) {
        y = with_constant(e, TDN_X_MUL, y, ep->out_scale);
        y = tdn_expr_add(e, TDN_X_ROUND, y, 0, 0);
        y = with_constant(e, TDN_X_ADD, y, ep->out_zero);
        y = build_clamps(e, y, ep->byte_lo, ep->byte_hi);
    }
    assert_true(tdn_expr_store(e, y, 0));
}

/* Sums of `terms` products become numbers around 1. */
static void choose_epilogue(epilogue *ep, scene *s, const tdn_view *out, int64_t terms)
{
    const float usual = (0.5f + fabsf(random_float())) / (5000 * sqrtf((float)terms));
    const uint32_t bits = random_bits();
    *ep = (epilogue){.any = out->dtype == TDN_U8 || bits % 4 != 0, .factor = 1, .r_scale = 1};
    ep->lo = ep->byte_lo = -INFINITY;
    ep->hi = ep->byte_hi = INFINITY;
    ep->out_scale = 1;
    ep->has_scale = bits >> 2 & 1;
    ep->has_bias = bits >> 3 & 1;
    ep->squares = (bits >> 4 & 7) == 0;
    ep->rounds = out->dtype == TDN_U8 && (bits >> 7 & 7) != 0;
    ep->residual = (residual_kind)RANDOM_OF(NO_RESIDUAL, NO_RESIDUAL, FLOATS, BYTES);
    if (!ep->any)
        return;
    if (ep->has_scale) {
        ep->scale = new_extra(ep, s, TDN_F32, out, 15);
        for (int64_t i = 0; i < out->dims[4]; i++)
            ((float *)ep->scale->data)[i] *= usual;
    } else {
        ep->factor = usual;
    }
    if (ep->has_bias)
        ep->bias = new_extra(ep, s, TDN_F32, out, 15);
    if (ep->residual) {
        ep->other = new_extra(ep, s, ep->residual == BYTES ? TDN_U8 : TDN_F32, out, 0);
        ep->r_scale = ep->residual == BYTES ? 0.02f : (float)RANDOM_OF(1, 1, 2);
        ep->r_zero = ep->residual == BYTES ? (float)RANDOM_OF(0, 100, 128) : 0;
    }
    if (bits >> 10 & 1)
        ep->lo = bits >> 11 & 1 ? 0 : -0.7f;
    if ((bits >> 12 & 3) == 0)
        ep->hi = 0.9f;
    if (ep->rounds) {
        ep->out_scale = (float)RANDOM_OF(1, 10, 60, 100);
        ep->out_zero = (float)RANDOM_OF(0, 0, 3, 128, 255);
        ep->byte_lo = bits >> 14 & 1 ? (float)RANDOM_OF(0, 0, 5, 128) : -INFINITY;
        ep->byte_hi = bits >> 15 & 1 ? (float)RANDOM_OF(255, 255, 200) : INFINITY;
    }
    build(ep);
}

static double between(double x, double lo, double hi) { return fmin(hi, fmax(lo, x)); }

static int byte_of(const epilogue *ep, double y)
{
    if (ep->rounds)
        y = between(nearbyint(y * (double)ep->out_scale) + (double)ep->out_zero,
                    (double)ep->byte_lo, (double)ep->byte_hi);
    return (int)nearbyint(between(y, 0, 255));
}

/* The epilogue of one element before it is rounded, and by how much fp32 may differ. */
static double formula(const epilogue *ep, int64_t sum, const tdn_walk *w, double *bound)
{
    double y = (double)sum * (double)ep->factor, size;
    if (ep->has_scale)
        y *= (double)((float *)ep->scale->data)[tdn_walk_offset(w, ep->scale)];
    size = fabs(y);
    if (ep->has_bias) {
        const double b = (double)((float *)ep->bias->data)[tdn_walk_offset(w, ep->bias)];
        y += b;
        size += fabs(b);
    }
    if (ep->residual) {
        const double r = tdn_view_get(ep->other, tdn_walk_offset(w, ep->other));
        y += (r - (double)ep->r_zero) * (double)ep->r_scale;
        size += (fabs(r) + (double)ep->r_zero) * (double)ep->r_scale;
    }
    y = between(y, (double)ep->lo, (double)ep->hi);
    *bound = 6 * EPS * size;
    if (ep->squares) {
        *bound = 2 * *bound * (fabs(y) + *bound) + 2 * EPS * y * y;
        y *= y;
    }
    return y;
}

static void expect_element(const tdn_kernel *k, const epilogue *ep, const tdn_view *out,
                           int64_t sum, const tdn_walk *w, int64_t number)
{
    const int64_t at = tdn_walk_offset(w, out);
    const double got = tdn_view_get(out, at);
    if (!ep->any) {
        const double wanted = out->dtype == TDN_F32 ? (double)(float)sum : (double)sum;
        expect_near(k, got, wanted, 0, number);
        return;
    }
    double bound;
    const double y = formula(ep, sum, w, &bound);
    if (out->dtype == TDN_F32) {
        expect_near(k, got, y, bound, number);
        return;
    }
    const double rounding = bound + 4 * EPS * fabs(y);
    const int low = byte_of(ep, y - rounding), high = byte_of(ep, y + rounding);
    if (got < low || got > high)
        fail_msg("%s: element %lld is %d, not %d to %d (%.9g)", k->name, (long long)number,
                 (int)got, low, high, y);
}

/* ---- iconv ----------------------------------------------------------------------------------- */

/* Bytes at their extremes, in whole or in part, and any. */
static void fill_bytes(const tdn_view *v, int low, int high)
{
    const int how = (int)(random_bits() % 4);
    for (tdn_walk w = tdn_walk_begin(v->rank, v->dims); w.more; tdn_walk_next(&w)) {
        const int any = (int)random_between(low, high);
        tdn_view_set_int(v, tdn_walk_offset(&w, v),
                         how == 0                                      ? low
                         : how == 1 || (how == 2 && random_bits() % 2) ? high
                                                                       : any);
    }
}

/* Channels are filled up to whole words, and maybe further; none has weights for those. */
static conv_case any_conv(bool depthwise)
{
    conv_case c = random_bits() % 100 ? random_conv() : far_apart_conv(BYTES_APART);
    if (depthwise) {
        c.desc.group = (int)RANDOM_OF(2, 3, 8, 15, 16, 31, 64, 100);
        c.x[4] = c.w[0] = c.out[4] = c.desc.group;
        c.w[1] = 1;
    } else {
        const int64_t more = random_bits() % 8 ? 0 : 4;
        c.x[4] = ((c.w[1] + 3) / 4 * 4 + more) * c.desc.group;
    }
    return c;
}

static int64_t sum_at(const conv_case *c, int x_zero, const tdn_view *x, const tdn_view *w,
                      const tdn_walk *at)
{
    const tdn_conv_desc *d = &c->desc;
    const int64_t group = at->index[4] / (c->w[0] / d->group), in_group = c->x[4] / d->group;
    const int8_t *weight =
        (const int8_t *)w->data + at->index[4] * c->w[1] * c->w[2] * c->w[3] * c->w[4];
    int64_t sum = 0;
    for (tdn_walk t = tdn_walk_begin(4, &c->w[1]); t.more; tdn_walk_next(&t), weight++) {
        int64_t offset = at->index[0] * x->strides[0] + group * in_group + t.index[0];
        bool inside = true;
        for (int i = 0; i < 3; i++) {
            const int64_t p =
                at->index[i + 1] * d->stride[i] - d->pad[i] + t.index[i + 1] * d->dilation[i];
            inside &= p >= 0 && p < c->x[i + 1];
            offset += p * x->strides[i + 1];
        }
        if (inside)
            sum += (int64_t)(((const uint8_t *)x->data)[offset] - x_zero) * *weight;
    }
    return sum;
}

static bool make_any_tiles(step *st, const tdn_family *family, const tdn_kernel *k, tdn_group *g,
                           scene *s)
{
    g->variant = (int)random_between(1, family->n_variants - 1);
    if (random_bits() % 2 && make_step(st, family, k, g, s->arena))
        return true;
    g->variant = 0;
    return make_step(st, family, k, g, s->arena);
}

static int iconv_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    const conv_case c = any_conv(!strncmp(k->name, "idw", 3));
    const tdn_iconv_desc desc = {.conv = c.desc, .x_zero = (int)RANDOM_OF(0, 0, 1, 113, 128, 255)};
    const tdn_view operands[2] = {
        new_tensor(s, TDN_U8, 5, c.x, random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE, 0)->view,
        new_tensor(s, TDN_S8, 5, c.w, LAYOUT_DENSE, 0)->view};
    fill_bytes(&operands[0], 0, 255);
    fill_bytes(&operands[1], -128, 127);
    tensor *out = new_output(s, (tdn_dtype)RANDOM_OF(TDN_F32, TDN_S32, TDN_U8, TDN_U8), 5, c.out,
                             random_bits() % 2 ? LAYOUT_INNER : LAYOUT_DENSE);
    epilogue ep;
    choose_epilogue(&ep, s, &out->view, c.w[1] * c.w[2] * c.w[3] * c.w[4]);
    if (out->view.dtype == TDN_S32)
        ep.any = false;
    tdn_group g = {.desc = &desc, .in = operands, .n_in = 2, .out = &out->view, .n_out = 1};
    if (ep.any) {
        g.expr = &ep.expr;
        g.extra = ep.extra;
        g.n_extra = ep.n_extra;
    }
    step st;
    const bool made = make_any_tiles(&st, family, k, &g, s);
    if (made) {
        run_step(&st);
        int64_t number = 0;
        for (tdn_walk w = tdn_walk_begin(5, c.out); w.more; tdn_walk_next(&w), number++)
            expect_element(k, &ep, &out->view,
                           sum_at(&c, desc.x_zero, &operands[0], &operands[1], &w), &w, number);
        check_gaps(out, k->name);
        if (random_bits() % 8 == 0)
            expect_checked(family, &st);
    }
    end_scene(s);
    return made;
}

static void test_iconv(void **state)
{
    (void)state;
    walk("iconv", iconv_once, 400);
}

/* A 1x1 step of `c` channels for the best row of this machine; `out` may be all there is to it. */
static tdn_status make_one(int64_t c, tdn_dtype dtype, const tdn_expr *e, int x_zero,
                           const char *stem, tdn_made *made, tdn_arena *arena)
{
    const int64_t x[5] = {1, 1, 1, 1, c}, w[5] = {1, c, 1, 1, 1}, y[5] = {1, 1, 1, 1, 1};
    int8_t *weights = tdn_arena_alloc(arena, (size_t)c, 1);
    assert_non_null(weights);
    const tdn_view in[2] = {tdn_view_make(NULL, TDN_U8, 5, x),
                            tdn_view_make(weights, TDN_S8, 5, w)};
    const tdn_view out = tdn_view_make(NULL, dtype, 5, y);
    const tdn_iconv_desc d = {.conv = {{1, 1, 1}, {1, 1, 1}, {0, 0, 0}, 1}, .x_zero = x_zero};
    const tdn_group g = {.desc = &d, .in = in, .n_in = 2, .out = &out, .n_out = 1, .expr = e};
    const tdn_family *family = tdn_family_find("iconv");
    const tdn_status status = family->make(made, &g, tdn_target_detect()->isa, arena, NULL);
    if (status == TDN_OK)
        assert_memory_equal(made->kernel->name, stem, strlen(stem));
    return status;
}

/* What could leave int32, has a zero point that is no byte, or channels that are no whole words. */
static void test_refusals(void **state)
{
    (void)state;
    tdn_arena *arena = tdn_arena_create(NULL);
    tdn_made made;
    const char *stem = "iconv_u8";
    assert_int_equal(make_one(65792, TDN_S32, NULL, 0, stem, &made, arena), TDN_OK);
    assert_int_equal(make_one(65796, TDN_S32, NULL, 0, stem, &made, arena), TDN_E_UNSUPPORTED);
    assert_int_equal(make_one(64, TDN_S32, NULL, 256, stem, &made, arena), TDN_E_UNSUPPORTED);
    assert_int_equal(make_one(64, TDN_S32, NULL, -1, stem, &made, arena), TDN_E_UNSUPPORTED);
    assert_int_equal(make_one(62, TDN_S32, NULL, 0, stem, &made, arena), TDN_E_UNSUPPORTED);
    assert_int_equal(make_one(64, TDN_U8, NULL, 0, stem, &made, arena), TDN_E_UNSUPPORTED);
    assert_int_equal(make_one(64, TDN_BOOL, NULL, 0, stem, &made, arena), TDN_E_UNSUPPORTED);
    tdn_arena_free(arena);
}

/* What quantised networks have is compiled in: a program would be as long as its expression. */
static void test_usual_epilogues_are_compiled_in(void **state)
{
    (void)state;
    tdn_arena *arena = tdn_arena_create(NULL);
    tdn_made plain, made;
    for (int part = 0; part < 16; part++) {
        tdn_expr e = {.n_in = 1, .n_out = 1};
        int y = with_constant(&e, TDN_X_MUL, tdn_expr_input(&e, 0), 0.01f);
        y = part & 1 ? with_constant(&e, TDN_X_MAX, y, 0) : y;
        y = part & 2 ? with_constant(&e, TDN_X_MUL, y, 20)
                     : tdn_expr_add(&e, TDN_X_DIV, y, tdn_expr_const(&e, 0.05f), 0);
        y = tdn_expr_add(&e, TDN_X_ROUND, y, 0, 0);
        y = part & 4 ? with_constant(&e, TDN_X_ADD, y, 12) : y;
        y = part & 8 ? build_clamps(&e, y, 0, 255) : y;
        tdn_expr_store(&e, y, 0);
        assert_int_equal(make_one(64, TDN_S32, NULL, 0, "iconv_u8", &plain, arena), TDN_OK);
        assert_int_equal(make_one(64, TDN_U8, &e, 0, "iconv_u8", &made, arena), TDN_OK);
        assert_int_equal(made.args_size, plain.args_size);
    }
    tdn_arena_free(arena);
}

int main(int argc, char **argv)
{
    set_seed(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_iconv),
                                       cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_usual_epilogues_are_compiled_in)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
