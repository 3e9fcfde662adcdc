/* SPDX-License-Identifier: Apache-2.0 */
/* Kernels copy and pad: random strides, also negative ones, all element sizes; exact. */
#include "kernels.h"

static const tdn_dtype dtypes[] = {TDN_F32, TDN_F16, TDN_BF16, TDN_F64, TDN_S8,  TDN_U8,  TDN_S16,
                                   TDN_U16, TDN_S32, TDN_U32,  TDN_S64, TDN_U64, TDN_BOOL};

static const char *element(const tdn_view *v, const tdn_walk *w)
{
    return (const char *)v->data + tdn_walk_offset(w, v) * (int64_t)element_size(v->dtype);
}

/* Turns an axis around: its last element comes first. */
static void reverse(tdn_view *v, int axis)
{
    v->data =
        (char *)v->data + v->strides[axis] * (v->dims[axis] - 1) * (int64_t)element_size(v->dtype);
    v->strides[axis] = -v->strides[axis];
}

static void copy_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    const tdn_dtype dtype = dtypes[random_bits() % (sizeof dtypes / sizeof *dtypes)];
    const int rank = (int)random_between(0, 5);
    int64_t dims[TDN_MAX_RANK];
    for (int i = 0; i < rank; i++)
        dims[i] = rank < 3 ? random_between(1, 150) : random_between(1, 20);
    if (rank && random_bits() % 30 == 0)
        dims[random_bits() % (unsigned)rank] = 0;
    if (rank == 2 && random_bits() % 16 == 0) { /* pixels of few channels, or the other way round */
        dims[0] = random_between(1, 4);
        dims[1] = random_between(8000, 30000);
    }
    tdn_view in =
        new_tensor(s, dtype, rank, dims, (layout)(random_bits() % 3),
                   rank && random_bits() % 4 == 0 ? 1u << random_bits() % (unsigned)rank : 0)
            ->view;
    if (rank && random_bits() % 4 == 0 && tdn_view_count(&in) > 0)
        reverse(&in, (int)(random_bits() % (unsigned)rank));
    tensor *out = new_output(s, dtype, rank, dims, (layout)(random_bits() % 3));
    const tdn_group g = {.in = &in, .n_in = 1, .out = &out->view, .n_out = 1};
    step st;
    assert_true(make_step(&st, family, k, &g, s->arena));
    run_step(&st);
    for (tdn_walk w = tdn_walk_begin(rank, dims); w.more; tdn_walk_next(&w))
        if (memcmp(element(&in, &w), element(&out->view, &w), element_size(dtype)) != 0)
            fail_msg("%s: an element of a copy of %s differs", k->name, tdn_dtype_name(dtype));
    check_gaps(out, k->name);
    if (random_bits() % 8 == 0)
        expect_checked(family, &st);
    end_scene(s);
}

static void pad_once(const tdn_family *family, const tdn_kernel *k)
{
    scene *s = new_scene();
    const int rank = (int)random_between(0, 5);
    int64_t dims[TDN_MAX_RANK], padded[TDN_MAX_RANK];
    tdn_pad_desc desc = {.value = random_float()};
    for (int i = 0; i < rank; i++) {
        dims[i] = rank < 3 ? random_between(1, 90) : random_between(1, 9);
        desc.before[i] = (int32_t)(random_bits() % 2 ? random_between(0, 3) : 0);
        padded[i] = dims[i] + desc.before[i] + (random_bits() % 2 ? random_between(0, 3) : 0);
    }
    const tdn_view in = new_tensor(s, TDN_F32, rank, dims, (layout)(random_bits() % 3), 0)->view;
    tensor *out = new_output(s, TDN_F32, rank, padded, (layout)(random_bits() % 3));
    const tdn_group g = {.desc = &desc, .in = &in, .n_in = 1, .out = &out->view, .n_out = 1};
    step st;
    assert_true(make_step(&st, family, k, &g, s->arena));
    run_step(&st);
    for (tdn_walk w = tdn_walk_begin(rank, padded); w.more; tdn_walk_next(&w)) {
        int64_t from = 0;
        bool inside = true;
        for (int i = 0; i < rank; i++) {
            const int64_t at = w.index[i] - desc.before[i];
            inside &= at >= 0 && at < dims[i];
            from += at * in.strides[i];
        }
        const int64_t to = tdn_walk_offset(&w, &out->view);
        expect_near(k, ((float *)out->view.data)[to],
                    inside ? ((float *)in.data)[from] : desc.value, 0, to);
    }
    check_gaps(out, k->name);
    if (random_bits() % 8 == 0)
        expect_checked(family, &st);
    end_scene(s);
}

static void walk(const char *name, void (*once)(const tdn_family *, const tdn_kernel *))
{
    const tdn_family *family = tdn_family_find(name);
    assert_non_null(family);
    for (const tdn_kernel *k = family->kernels; k->name; k++)
        for (int i = 0; runs_here(k) && i < 1500; i++)
            once(family, k);
}

static void test_copy(void **state)
{
    (void)state;
    walk("copy", copy_once);
}
static void test_pad(void **state)
{
    (void)state;
    walk("pad", pad_once);
}

/* What a copy cannot take is refused in words: other dims, another dtype, elements below a byte. */
static void test_copy_refuses(void **state)
{
    (void)state;
    const tdn_family *family = tdn_family_find("copy");
    tdn_error error;
    tdn_work work;
    tdn_made made;
    tdn_arena *arena = tdn_arena_create(NULL);
    const tdn_view a = tdn_view_make(NULL, TDN_F32, 2, (int64_t[]){4, 5}),
                   b = tdn_view_make(NULL, TDN_S32, 2, a.dims);
    const tdn_view c = tdn_view_make(NULL, TDN_F32, 2, (int64_t[]){5, 4}),
                   d = tdn_view_make(NULL, TDN_S4, 2, a.dims);
    const tdn_view e = tdn_view_make(NULL, TDN_F32, 1, (int64_t[]){20});
    const tdn_view f = tdn_view_make(NULL, TDN_F32, 2, (int64_t[]){4, 6});
    const tdn_view *pairs[][2] = {{&a, &b}, {&a, &c}, {&d, &d}, {&a, &e}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        const tdn_group g = {.in = pairs[i][0], .n_in = 1, .out = pairs[i][1], .n_out = 1};
        assert_int_equal(family->make(&made, &g, TDN_ISA_X86, arena, &error), TDN_E_UNSUPPORTED);
        assert_true(strlen(error.text) > 0);
    }
    const tdn_group g = {.in = &a, .n_in = 1, .out = &a, .n_out = 1};
    assert_int_equal(family->make(&made, &g, TDN_ISA_X86, arena, &error), TDN_OK);
    assert_int_equal(
        family->check(made.kernel, made.args, made.args_size, &a, 1, &a, 1, &work, &error), TDN_OK);
    assert_int_not_equal(
        family->check(made.kernel, made.args, made.args_size, &a, 1, &c, 1, &work, &error), TDN_OK);
    assert_int_not_equal(
        family->check(made.kernel, made.args, made.args_size, &f, 1, &f, 1, &work, &error), TDN_OK);
    assert_int_not_equal(
        family->check(made.kernel, made.args, made.args_size, &a, 2, &a, 1, &work, &error), TDN_OK);
    tdn_view huge = a;
    huge.dims[0] = huge.dims[1] = INT64_MAX / 2;
    assert_int_not_equal(
        family->check(made.kernel, made.args, made.args_size, &huge, 1, &huge, 1, &work, &error),
        TDN_OK);
    tdn_arena_free(arena);
}

int main(int argc, char **argv)
{
    set_seed(argc, argv);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_copy), cmocka_unit_test(test_pad),
                                       cmocka_unit_test(test_copy_refuses)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
