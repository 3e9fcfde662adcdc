/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The run time over plans made by hand: choice of section and program, binding in place and through
 * the staging area, states, branches and loops, extents known only after a run, taps, profile;
 * contexts in several threads over one engine and one pool; failures that leave the context usable,
 * and those that leave nothing behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <math.h>
#include <pthread.h>
#include <unistd.h>

#include <cmocka.h>

#include "../plans.h"
#include "base/file.h"
#include "plan/format.h"
#include "runtime/runtime.h"

/* A plan, its engine and a context: what most tests begin with. */
typedef struct rig {
    void *bytes;
    size_t size;
    tdn_engine *engine;
    tdn_context *context;
} rig;

static rig rig_new(plan_maker *m, tdn_pool *pool)
{
    rig r = {0};
    tdn_error error = {""};
    r.bytes = plan_bytes(m, &r.size);
    if (tdn_engine_load_memory(&r.engine, r.bytes, r.size, NULL, &error) != TDN_OK)
        fail_msg("%s", error.text);
    tdn_context_options options = TDN_CONTEXT_OPTIONS_INIT;
    options.pool = pool;
    options.profile = 1;
    if (tdn_context_create(&r.context, r.engine, &options, &error) != TDN_OK)
        fail_msg("%s", error.text);
    return r;
}

static void rig_free(rig *r)
{
    tdn_context_free(r->context);
    tdn_engine_free(r->engine);
    tdn_free(NULL, r->bytes);
}

static tdn_pool *pool_of(int n_threads)
{
    tdn_pool *pool;
    tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
    options.n_threads = n_threads;
    assert_int_equal(tdn_pool_create(&pool, &options, NULL), TDN_OK);
    return pool;
}

static tdn_status bind(tdn_context *c, const char *name, tdn_dtype dtype, void *data, int rank,
                       const int64_t *dims)
{
    const tdn_tensor t = tdn_tensor_make(data, dtype, rank, dims);
    return tdn_context_bind(c, name, &t);
}

static void run(tdn_context *c)
{
    if (tdn_context_run(c) != TDN_OK)
        fail_msg("%s", tdn_context_error(c));
}

/* ---- Control flow, states, open extents ------------------------------------------------------ */

/* What plan_everything computes, said once more in plain words. */
typedef struct everything {
    float x[4], s[4], y[4], z[4];
    uint8_t flag;
    int64_t trips, where[4], n_where, count;
} everything;

static void expect(everything *e)
{
    static const float w[4] = {1, -2, 3, 0.25f};
    e->n_where = 0;
    for (int i = 0; i < 4; i++) {
        const float t = e->x[i] * w[i] + 0.5f;
        e->s[i] += t;
        float u = e->flag ? -t : t;
        for (int64_t k = 0; k < e->trips; k++) {
            u += t;
            u = e->flag ? fabsf(u) : u;
        }
        e->y[i] = u + e->s[i];
        if (e->y[i] != 0)
            e->where[e->n_where++] = i;
    }
    for (int i = 0; i < 4; i++)
        e->z[i] = e->y[(i % 2) * 2 + i / 2];
    if (e->trips > 0)
        e->count = e->trips - 1;
}

static void bind_everything(tdn_context *c, everything *e)
{
    static const int64_t four[1] = {4}, one[1] = {1}, two[2] = {2, 2}, places[2] = {1, 4};
    assert_int_equal(bind(c, "x", TDN_F32, e->x, 1, four), TDN_OK);
    assert_int_equal(bind(c, "flag", TDN_BOOL, &e->flag, 1, one), TDN_OK);
    assert_int_equal(bind(c, "trips", TDN_S64, &e->trips, 1, one), TDN_OK);
    assert_int_equal(bind(c, "y", TDN_F32, e->y, 1, four), TDN_OK);
    assert_int_equal(bind(c, "where", TDN_S64, e->where, 2, places), TDN_OK);
    assert_int_equal(bind(c, "z", TDN_F32, e->z, 2, two), TDN_OK);
    assert_int_equal(bind(c, "count", TDN_S64, &e->count, 1, one), TDN_OK);
}

static void run_and_compare(tdn_context *c, everything *got, everything *want)
{
    run(c);
    expect(want);
    assert_memory_equal(got->y, want->y, sizeof want->y);
    assert_memory_equal(got->z, want->z, sizeof want->z);
    assert_memory_equal(got->where, want->where, (size_t)want->n_where * sizeof want->where[0]);
    assert_int_equal(got->count, want->count);
    int64_t dims[TDN_MAX_RANK];
    assert_int_equal(tdn_context_output_dims(c, "where", dims), TDN_OK);
    assert_int_equal(dims[0], 1);
    assert_int_equal(dims[1], want->n_where);
}

static void test_control_flow_and_states(void **state)
{
    (void)state;
    rig r = rig_new(plan_everything(), NULL);
    everything got = {.count = -7}, want;
    bind_everything(r.context, &got);
    for (int round = 0; round < 2; round++) {
        memcpy(want.s, (float[]){1, 2, 3, 4},
               sizeof want.s); /* the states' first value, and again after a reset */
        for (int i = 0; i < 12; i++) {
            memcpy(got.x, (float[]){-1 + (float)i, 0.5f * (float)i, -2, (float)(i * i)},
                   sizeof got.x);
            got.flag = i % 3 == 1;
            got.trips = i % 5 - 1;
            memcpy(want.x, got.x, sizeof got.x);
            want.flag = got.flag;
            want.trips = got.trips;
            want.count = got.count;
            run_and_compare(r.context, &got, &want);
        }
        tdn_context_reset(r.context);
    }
    rig_free(&r);
}

/* Before anything is bound, between runs, with and without a pool, and while another has it: the
 * states and the values are those of a context that never was warmed. */
static void test_warming_changes_nothing(void **state)
{
    (void)state;
    tdn_pool *pools[2] = {NULL, pool_of(3)};
    for (int k = 0; k < 2; k++) {
        rig r = rig_new(plan_everything(), pools[k]);
        tdn_context_warm(r.context);
        everything got = {.count = -7}, want = {.s = {1, 2, 3, 4}};
        bind_everything(r.context, &got);
        for (int i = 0; i < 6; i++) {
            const bool busy = i % 2 && tdn_pool_acquire(pools[k]);
            tdn_context_warm(r.context);
            if (busy)
                tdn_pool_release(pools[k]);
            memcpy(got.x, (float[]){(float)i, 2, -3, 0.5f}, sizeof got.x);
            memcpy(want.x, got.x, sizeof got.x);
            want.flag = got.flag = i % 2;
            want.trips = got.trips = i;
            want.count = got.count;
            run_and_compare(r.context, &got, &want);
        }
        rig_free(&r);
    }
    tdn_pool_free(pools[1]);
}

static void test_extents_are_those_of_the_last_run(void **state)
{
    (void)state;
    rig r = rig_new(plan_everything(), NULL);
    everything e = {.x = {-1, 0.75f, 0, 0}};
    bind_everything(r.context, &e); /* y = 2 t + s, which is 0 in the first two places */
    run(r.context);
    everything want = {.x = {-1, 0.75f, 0, 0}, .s = {1, 2, 3, 4}};
    expect(&want);
    int64_t dims[TDN_MAX_RANK];
    assert_int_equal(tdn_context_output_dims(r.context, "where", dims), TDN_OK);
    assert_int_equal(dims[1], want.n_where);
    assert_int_equal(dims[1], 2);
    assert_int_equal(tdn_context_output_dims(r.context, "y", dims), TDN_OK);
    assert_int_equal(dims[0], 4);
    assert_int_equal(tdn_context_output_dims(r.context, "x", dims), TDN_E_ARG);
    assert_int_equal(tdn_context_output_dims(r.context, "nobody", dims), TDN_E_ARG);
    rig_free(&r);
}

static void test_a_loop_that_does_not_end(void **state)
{
    (void)state;
    plan_maker *m = mk_new();
    mk_section(m, PLAN_TARGET, PLAN_ISA);
    mk_program(m);
    const tdn_plan_operand flag = mk_io(m, true, "flag", TDN_BOOL, 1, (int64_t[]){1}, -1);
    MK_STEP(m, TDN_STEP_LOOP, "", "forever", 2, 0, mk_absent(), flag);
    rig r = rig_new(m, NULL);
    uint8_t on = 0;
    assert_int_equal(bind(r.context, "flag", TDN_BOOL, &on, 1, (int64_t[]){1}), TDN_OK);
    run(r.context);
    on = 1;
    tdn_context_limit_steps(r.context, 100000);
    assert_int_equal(tdn_context_run(r.context), TDN_E_MODEL);
    assert_non_null(strstr(tdn_context_error(r.context), "more than 100000 steps in one run"));
    on = 0;
    run(r.context);
    rig_free(&r);
}

/* Two programs with the same state: what one leaves the other finds. With other names they have one
 * each. */
static void test_programs_share_states(void **state)
{
    (void)state;
    for (int shared = 0; shared < 2; shared++) {
        plan_maker *m = mk_new();
        mk_section(m, PLAN_TARGET, PLAN_ISA);
        for (int i = 0; i < 2; i++) {
            mk_program(m);
            const tdn_plan_operand x = mk_io(m, true, "x", TDN_F32, 1, (int64_t[]){1 + i}, -1);
            const tdn_plan_operand y = mk_io(m, false, "y", TDN_F32, 1, (int64_t[]){1}, -1);
            const tdn_plan_operand s = mk_dense(
                mk_buffer(m, TDN_BUFFER_STATE, UINT32_MAX, 4, shared || i == 0 ? "s" : "other"),
                TDN_F32, 1, (int64_t[]){1});
            tdn_plan_operand first = x;
            first.dims[0] = 1;
            MK_STEP(m, TDN_STEP_REFERENCE, "Add", "add", 2, 1, s, first, s);
            MK_STEP(m, TDN_STEP_REFERENCE, "Identity", "out", 1, 1, s, y);
        }
        rig r = rig_new(m, NULL);
        float x[2] = {10, 0}, y;
        for (int i = 0; i < 3; i++) {
            tdn_context_unbind(r.context);
            assert_int_equal(bind(r.context, "x", TDN_F32, x, 1, (int64_t[]){1 + i % 2}), TDN_OK);
            assert_int_equal(bind(r.context, "y", TDN_F32, &y, 1, (int64_t[]){1}), TDN_OK);
            assert_int_equal(tdn_context_program(r.context), i % 2);
            run(r.context);
        }
        assert_true(y == (shared ? 30 : 20));
        rig_free(&r);
    }
}

/* ---- Programs and bindings ------------------------------------------------------------------- */

static float affine(float x, int column)
{
    static const float w[4] = {1, -2, 3, 0.25f};
    return x * w[column] + 0.5f;
}

/* Runs n samples through the buckets, checks each value and that nothing is written beyond. */
static void run_batch(tdn_context *c, int64_t n, int axis, int want_program)
{
    const int64_t dims[3] = {axis == 0 ? n : 3, axis == 0 ? 3 : n, 4};
    const size_t count = (size_t)(n * 12);
    float *x = malloc(count * sizeof *x), *y = malloc((count + 8) * sizeof *y);
    for (size_t i = 0; i < count; i++)
        x[i] = (float)i * 0.5f - 3;
    for (size_t i = 0; i < count + 8; i++)
        y[i] = 1234;
    tdn_context_unbind(c);
    assert_int_equal(bind(c, "x", TDN_F32, x, 3, dims), TDN_OK);
    assert_int_equal(bind(c, "y", TDN_F32, y, 3, dims), TDN_OK);
    assert_int_equal(tdn_context_program(c), want_program);
    run(c);
    for (size_t i = 0; i < count; i++)
        assert_true(y[i] == affine(x[i], (int)(i % 4)));
    for (size_t i = count; i < count + 8; i++)
        assert_true(y[i] == 1234);
    int64_t got[TDN_MAX_RANK];
    assert_int_equal(tdn_context_output_dims(c, "y", got), TDN_OK);
    assert_memory_equal(got, dims, sizeof dims);
    free(x);
    free(y);
}

static void test_batch_buckets(void **state)
{
    (void)state;
    for (int axis = 0; axis < 2; axis++) {
        rig r = rig_new(plan_affine((int64_t[]){1, 2, 8}, 3, axis), NULL);
        const int programs[9] = {-1, 0, 1, 2, 2, 2, 2, 2, 2};
        for (int n = 1; n <= 8; n++)
            run_batch(r.context, n, axis, programs[n]);
        run_batch(r.context, 5, axis, 2);
        run_batch(r.context, 1, axis, 0);
        rig_free(&r);
    }
}

static void test_shapes_that_no_program_takes(void **state)
{
    (void)state;
    rig r = rig_new(plan_affine((int64_t[]){1, 4}, 2, 0), NULL);
    float x[60] = {0}, y[60];
    assert_int_equal(tdn_context_program(r.context), -1);
    assert_int_equal(bind(r.context, "x", TDN_F32, x, 3, (int64_t[]){5, 3, 4}), TDN_E_SHAPE);
    assert_string_equal(tdn_context_error(r.context),
                        "no program of the plan takes 'x' as 5x3x4; it has 1..1x3x4, 1..4x3x4");
    assert_int_equal(bind(r.context, "x", TDN_F32, x, 3, (int64_t[]){0, 3, 4}), TDN_E_SHAPE);
    assert_int_equal(bind(r.context, "x", TDN_F32, x, 3, (int64_t[]){-1, 3, 4}), TDN_E_SHAPE);
    assert_int_equal(bind(r.context, "x", TDN_F32, x, 2, (int64_t[]){3, 4}), TDN_E_SHAPE);
    assert_int_equal(bind(r.context, "x", TDN_F32, x, 3, (int64_t[]){1, 3, 5}), TDN_E_SHAPE);
    assert_int_equal(tdn_context_program(r.context), -1);
    assert_int_equal(bind(r.context, "x", TDN_F32, x, 3, (int64_t[]){3, 3, 4}), TDN_OK);
    assert_int_equal(bind(r.context, "y", TDN_F32, y, 3, (int64_t[]){2, 3, 4}), TDN_E_SHAPE);
    assert_non_null(strstr(tdn_context_error(r.context), "together with the other bound tensors"));
    assert_int_equal(bind(r.context, "y", TDN_F32, y, 3, (int64_t[]){3, 3, 4}), TDN_OK);
    run(r.context);
    rig_free(&r);
}

static void test_rules_of_binding(void **state)
{
    (void)state;
    rig r = rig_new(plan_affine((int64_t[]){2}, 1, 0), NULL);
    static const int64_t dims[3] = {2, 3, 4};
    float x[24] = {0}, y[24], other[24];
    tdn_context *c = r.context;
    assert_int_equal(tdn_context_run(c), TDN_E_ARG);
    assert_string_equal(tdn_context_error(c), "input 'x' is not bound");
    assert_int_equal(bind(c, "nobody", TDN_F32, x, 3, dims), TDN_E_ARG);
    assert_int_equal(bind(c, "x", TDN_F64, x, 3, dims), TDN_E_ARG);
    assert_string_equal(tdn_context_error(c), "'x' is float32, not float64");
    assert_int_equal(bind(c, "x", TDN_F32, NULL, 3, dims), TDN_E_ARG);
    assert_int_equal(bind(c, "x", TDN_F32, (char *)x + 2, 3, dims), TDN_E_ARG);
    tdn_tensor t = tdn_tensor_make(x, TDN_F32, 3, dims);
    t.memory = TDN_MEMORY_DEVICE;
    assert_int_equal(tdn_context_bind(c, "x", &t), TDN_E_ARG);
    t = tdn_tensor_make(x, TDN_F32, 3, dims);
    t.struct_size = 0;
    assert_int_equal(tdn_context_bind(c, "x", &t), TDN_E_ARG);
    t = tdn_tensor_make(x, TDN_F32, 3, dims);
    t.rank = 1000;
    assert_int_equal(tdn_context_bind(c, "x", &t), TDN_E_ARG);
    assert_int_equal(tdn_context_bind(c, NULL, &t), TDN_E_ARG);
    assert_int_equal(tdn_context_bind(c, "x", NULL), TDN_E_ARG);
    assert_int_equal(bind(c, "x", TDN_F32, x, 3, dims), TDN_OK);
    assert_int_equal(tdn_context_run(c), TDN_E_ARG);
    assert_string_equal(tdn_context_error(c), "output 'y' is not bound");
    assert_int_equal(bind(c, "y", TDN_F32, y, 3, dims), TDN_OK);
    run(c);
    assert_true(y[5] == affine(0, 1));
    /* Another address for the same shape, after a run: used in place at once. */
    x[5] = 3;
    assert_int_equal(bind(c, "y", TDN_F32, other, 3, dims), TDN_OK);
    run(c);
    assert_true(other[5] == affine(3, 1) && y[5] == affine(0, 1));
    tdn_context_unbind(c);
    assert_int_equal(tdn_context_program(c), -1);
    assert_int_equal(tdn_context_run(c), TDN_E_ARG);
    rig_free(&r);
}

/* Aligned to the element and no more. */
static void test_tensors_need_no_more_than_their_own_alignment(void **state)
{
    (void)state;
    rig r = rig_new(plan_affine((int64_t[]){2}, 1, 0), NULL);
    static const int64_t dims[3] = {2, 3, 4};
    _Alignas(64) float x[32], y[32];
    for (int shift = 0; shift < 4; shift++) {
        for (int i = 0; i < 32; i++)
            x[i] = (float)i;
        assert_int_equal(bind(r.context, "x", TDN_F32, x + shift, 3, dims), TDN_OK);
        assert_int_equal(bind(r.context, "y", TDN_F32, y + 3 - shift, 3, dims), TDN_OK);
        run(r.context);
        for (int i = 0; i < 24; i++)
            assert_true(y[3 - shift + i] == affine(x[shift + i], i % 4));
    }
    rig_free(&r);
}

/* ---- Threads --------------------------------------------------------------------------------- */

enum { BIG = 1500, N_WORKERS = 3 };

/* One engine, one pool; each thread its own context and data. */
typedef struct worker {
    tdn_engine *engine;
    tdn_pool *pool;
    float seed;
    int n_wrong;
} worker;

static void *work(void *user)
{
    worker *w = user;
    tdn_context *c;
    tdn_context_options options = TDN_CONTEXT_OPTIONS_INIT;
    options.pool = w->pool;
    static const int64_t dims[3] = {BIG, 3, 4};
    float *x = malloc(BIG * 12 * sizeof *x), *y = malloc(BIG * 12 * sizeof *y);
    w->n_wrong += tdn_context_create(&c, w->engine, &options, NULL) != TDN_OK;
    w->n_wrong += bind(c, "x", TDN_F32, x, 3, dims) != TDN_OK;
    w->n_wrong += bind(c, "y", TDN_F32, y, 3, dims) != TDN_OK;
    for (int i = 0; i < 20 && !w->n_wrong; i++) {
        for (int k = 0; k < BIG * 12; k++)
            x[k] = w->seed + (float)(k + i) * 0.01f;
        w->n_wrong += tdn_context_run(c) != TDN_OK;
        for (int k = 0; k < BIG * 12; k++)
            w->n_wrong += y[k] != affine(x[k], k % 4);
    }
    tdn_context_free(c);
    free(x);
    free(y);
    return NULL;
}

static void test_contexts_in_threads(void **state)
{
    (void)state;
    rig r = rig_new(plan_affine((int64_t[]){BIG}, 1, 0), NULL);
    tdn_pool *pool = pool_of(3);
    worker workers[N_WORKERS];
    pthread_t threads[N_WORKERS];
    for (int i = 0; i < N_WORKERS; i++) {
        workers[i] = (worker){r.engine, pool, (float)i, 0};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &workers[i]), 0);
    }
    for (int i = 0; i < N_WORKERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].n_wrong, 0);
    }
    tdn_pool_free(pool);
    rig_free(&r);
}

/* Softmax and a mean over rows sum in an order; it must be the same for any number of threads. */
static plan_maker *plan_sums(void)
{
    static const int64_t dims[2] = {600, 257};
    static tdn_attr axis[1];
    axis[0] = (tdn_attr){.name = "axis", .kind = TDN_ATTR_INT, .i = 1};
    plan_maker *m = mk_new();
    mk_section(m, PLAN_TARGET, PLAN_ISA);
    mk_program(m);
    const tdn_plan_operand x = mk_io(m, true, "x", TDN_F32, 2, dims, -1);
    const tdn_plan_operand y = mk_io(m, false, "y", TDN_F32, 2, dims, -1);
    MK_STEP(m, TDN_STEP_REFERENCE, "Softmax", "softmax", 1, 1, x, y)->attrs = (tdn_attrs){axis, 1};
    return m;
}

static void test_same_bits_for_any_number_of_threads(void **state)
{
    (void)state;
    enum { N = 600 * 257 };
    static const int64_t dims[2] = {600, 257};
    float *x = malloc(N * sizeof *x), *first = malloc(N * sizeof *x), *y = malloc(N * sizeof *x);
    for (int i = 0; i < N; i++)
        x[i] = sinf((float)i) * 8;
    for (int n_threads = 1; n_threads <= 5; n_threads++) {
        tdn_pool *pool = pool_of(n_threads);
        rig r = rig_new(plan_sums(), pool);
        assert_int_equal(bind(r.context, "x", TDN_F32, x, 2, dims), TDN_OK);
        assert_int_equal(bind(r.context, "y", TDN_F32, n_threads == 1 ? first : y, 2, dims),
                         TDN_OK);
        tdn_step_info info = {.struct_size = sizeof info};
        assert_int_equal(tdn_context_step(r.context, 0, 0, &info), TDN_OK);
        assert_true(info.n_tiles > 1); /* or threads would have nothing to share */
        run(r.context);
        if (n_threads > 1)
            assert_memory_equal(first, y, N * sizeof *y);
        rig_free(&r);
        tdn_pool_free(pool);
    }
    free(x);
    free(y);
    free(first);
}

static void test_busy_pool(void **state)
{
    (void)state;
    tdn_pool *pool = pool_of(3);
    rig r = rig_new(plan_affine((int64_t[]){1, BIG}, 2, 0), pool);
    assert_true(tdn_pool_acquire(pool));
    run_batch(r.context, BIG, 0, 1);
    tdn_pool_release(pool);
    run_batch(r.context, BIG, 0, 1);
    assert_true(tdn_pool_acquire(pool)); /* each run gave it back */
    tdn_pool_release(pool);
    rig_free(&r);
    tdn_pool_free(pool);
}

/* ---- Failures of a step ---------------------------------------------------------------------- */

static plan_maker *plan_gather(void)
{
    plan_maker *m = mk_new();
    mk_section(m, PLAN_TARGET, PLAN_ISA);
    mk_program(m);
    const tdn_plan_operand x = mk_io(m, true, "x", TDN_F32, 1, (int64_t[]){4}, -1);
    const tdn_plan_operand index = mk_io(m, true, "index", TDN_S64, 1, (int64_t[]){2}, -1);
    const tdn_plan_operand y = mk_io(m, false, "y", TDN_F32, 1, (int64_t[]){2}, -1);
    MK_STEP(m, TDN_STEP_REFERENCE, "Gather", "head/pick", 2, 1, x, index, y);
    return m;
}

static void test_an_index_out_of_range(void **state)
{
    (void)state;
    rig r = rig_new(plan_gather(), NULL);
    float x[4] = {0, 10, 20, 30}, y[2];
    int64_t index[2] = {3, 1};
    assert_int_equal(bind(r.context, "x", TDN_F32, x, 1, (int64_t[]){4}), TDN_OK);
    assert_int_equal(bind(r.context, "index", TDN_S64, index, 1, (int64_t[]){2}), TDN_OK);
    assert_int_equal(bind(r.context, "y", TDN_F32, y, 1, (int64_t[]){2}), TDN_OK);
    run(r.context);
    assert_true(y[0] == 30 && y[1] == 10);
    index[1] = 4;
    assert_int_equal(tdn_context_run(r.context), TDN_E_MODEL);
    assert_non_null(strstr(tdn_context_error(r.context), "while running step 0 'head/pick'"));
    index[1] = -1;
    run(r.context);
    assert_true(y[1] == 30);
    rig_free(&r);
}

/* Operands that do not fit together must end in words when the step runs, at the latest. */
static void test_a_misfit(void **state)
{
    (void)state;
    plan_maker *m = plan_affine((int64_t[]){2}, 1, 0);
    m->operands[0][1].dims[0] = 3; /* w has three columns, x four */
    rig r = rig_new(m, NULL);
    float x[24] = {0}, y[24];
    static const int64_t dims[3] = {2, 3, 4};
    assert_int_equal(bind(r.context, "x", TDN_F32, x, 3, dims), TDN_OK);
    assert_int_equal(bind(r.context, "y", TDN_F32, y, 3, dims), TDN_OK);
    assert_true(tdn_context_run(r.context) < 0);
    assert_non_null(strstr(tdn_context_error(r.context), "while running step 0 'scale'"));
    rig_free(&r);
}

/* ---- Taps and profile ------------------------------------------------------------------------ */

typedef struct tapped {
    char names[256];
    float t[4];
    int64_t where_dims[2];
    int n_where;
} tapped;

static void keep_tap(void *user, const tdn_tap *tap)
{
    tapped *k = user;
    assert_int_equal(tap->struct_size, sizeof *tap);
    const size_t used = strlen(k->names);
    snprintf(k->names + used, sizeof k->names - used, "%s@%d ", tap->name, tap->step);
    if (strcmp(tap->name, "t") == 0)
        memcpy(k->t, tap->data, sizeof k->t);
    if (strcmp(tap->name, "where") == 0) {
        k->n_where++;
        memcpy(k->where_dims, tap->dims, sizeof k->where_dims);
    }
}

static void test_taps(void **state)
{
    (void)state;
    rig r = rig_new(plan_everything(), NULL);
    everything e = {.x = {-1.5f, 1, 2, 3}, .trips = 2, .flag = 1};
    bind_everything(r.context, &e);
    tapped k = {.names = ""};
    tdn_context_set_tap(r.context, keep_tap, &k);
    run(r.context);
    assert_string_equal(k.names, "t@0 u@6 u@6 where@10 ");
    for (int i = 0; i < 4; i++)
        assert_true(k.t[i] == affine(e.x[i], i));
    everything want = {.x = {-1.5f, 1, 2, 3}, .trips = 2, .flag = 1, .s = {1, 2, 3, 4}};
    expect(&want);
    assert_int_equal(k.where_dims[0], 1);
    assert_int_equal(k.where_dims[1], want.n_where);
    tdn_context_set_tap(r.context, NULL, NULL);
    run(r.context);
    assert_int_equal(k.n_where, 1);
    rig_free(&r);
}

static void test_profile(void **state)
{
    (void)state;
    rig r = rig_new(plan_everything(), NULL);
    everything e = {.trips = 3};
    bind_everything(r.context, &e);
    run(r.context);
    run(r.context);
    assert_int_equal(tdn_context_n_steps(r.context, 0), 12);
    assert_int_equal(tdn_context_n_steps(r.context, 1), 0);
    tdn_step_info info = {.struct_size = sizeof info};
    const uint64_t n_runs[12] = {2, 2, 2, 0, 2, 2, 6, 6, 0, 2, 2, 2};
    for (int i = 0; i < 12; i++) {
        assert_int_equal(tdn_context_step(r.context, 0, i, &info), TDN_OK);
        assert_int_equal(info.n_runs, n_runs[i]);
        assert_true(info.min_ns <= info.max_ns && info.total_ns >= info.max_ns);
    }
    assert_int_equal(tdn_context_step(r.context, 0, 0, &info), TDN_OK);
    assert_string_equal(info.name, "mul + add");
    assert_string_equal(info.kernel, "reference:Map");
    assert_int_equal(info.flops, 8);  /* a product and a sum of 4 */
    assert_int_equal(info.bytes, 48); /* three times 4 floats */
    assert_int_equal(tdn_context_step(r.context, 0, 5, &info), TDN_OK);
    assert_string_equal(info.kernel, "loop");
    assert_int_equal(tdn_context_step(r.context, 0, 12, &info), TDN_E_ARG);
    assert_int_equal(tdn_context_step(r.context, 1, 0, &info), TDN_E_ARG);
    tdn_context_profile_reset(r.context);
    assert_int_equal(tdn_context_step(r.context, 0, 0, &info), TDN_OK);
    assert_int_equal(info.n_runs, 0);
    rig_free(&r);
}

static void test_a_context_without_profile(void **state)
{
    (void)state;
    rig r = rig_new(plan_affine((int64_t[]){1}, 1, 0), NULL);
    tdn_context *c;
    tdn_step_info info = {.struct_size = sizeof info};
    assert_int_equal(tdn_context_create(&c, r.engine, NULL, NULL), TDN_OK);
    run_batch(c, 1, 0, 0);
    assert_int_equal(tdn_context_step(c, 0, 0, &info), TDN_OK);
    assert_int_equal(info.n_runs, 0);
    tdn_context_profile_reset(c);
    tdn_context_free(c);
    rig_free(&r);
}

/* ---- Engine ---------------------------------------------------------------------------------- */

static void test_engine_tells_its_programs(void **state)
{
    (void)state;
    rig r = rig_new(plan_affine((int64_t[]){1, 4}, 2, 0), NULL);
    assert_int_equal(tdn_engine_n_programs(r.engine), 2);
    assert_int_equal(tdn_engine_n_inputs(r.engine), 1);
    assert_int_equal(tdn_engine_n_outputs(r.engine), 1);
    tdn_io_info io = {.struct_size = sizeof io};
    assert_int_equal(tdn_engine_input(r.engine, 1, 0, &io), TDN_OK);
    assert_string_equal(io.name, "x");
    assert_int_equal(io.dtype, TDN_F32);
    assert_int_equal(io.rank, 3);
    assert_int_equal(io.dims[0], 4);
    assert_int_equal(io.batch_axis, 0);
    assert_int_equal(tdn_engine_output(r.engine, 0, 0, &io), TDN_OK);
    assert_string_equal(io.name, "y");
    assert_int_equal(tdn_engine_input(r.engine, 2, 0, &io), TDN_E_ARG);
    assert_int_equal(tdn_engine_input(r.engine, 0, 1, &io), TDN_E_ARG);
    assert_int_equal(tdn_engine_output(r.engine, -1, 0, &io), TDN_E_ARG);
    tdn_engine_info info = {.struct_size = sizeof info};
    assert_int_equal(tdn_engine_get_info(r.engine, &info), TDN_OK);
    assert_string_equal(info.target, PLAN_TARGET);
    assert_int_equal(info.plan_size, r.size);
    assert_int_equal(info.weights_size, 16); /* one blob, though two programs use it */
    assert_int_equal(info.arena_size, 192);  /* of the larger program: 4 x 3 x 4 floats */
    rig_free(&r);
}

static tdn_status load(tdn_engine **engine, plan_maker *m, const char *max_target, tdn_error *error,
                       void **bytes)
{
    size_t size;
    *bytes = plan_bytes(m, &size);
    tdn_engine_options options = TDN_ENGINE_OPTIONS_INIT;
    options.max_target = max_target;
    const tdn_status status = tdn_engine_load_memory(engine, *bytes, size, &options, error);
    assert_true(status == TDN_OK ? *engine != NULL : *engine == NULL);
    return status;
}

static void test_choice_of_section(void **state)
{
    (void)state;
    tdn_error error = {""};
    tdn_engine *engine;
    void *bytes;
    tdn_engine_info info = {.struct_size = sizeof info};
    const tdn_target *native = tdn_target_detect();
    for (int limited = 0; limited < 2; limited++) {
        plan_maker *m = plan_affine((int64_t[]){1}, 1, 0);
        mk_section(m, native->name, native->isa);
        mk_section(m, "of-tomorrow", native->isa | (uint64_t)1 << 60);
        if (limited)
            mk_note(m, "calibration", "minmax, 3 batches of x.npz");
        assert_int_equal(load(&engine, m, limited ? PLAN_TARGET : NULL, &error, &bytes), TDN_OK);
        assert_int_equal(tdn_engine_get_info(engine, &info), TDN_OK);
        assert_string_equal(info.target, limited ? PLAN_TARGET : native->name);
        assert_string_equal(info.calibration, limited ? "minmax, 3 batches of x.npz" : "");
        tdn_engine_free(engine);
        tdn_free(NULL, bytes);
    }
    plan_maker *m = plan_affine((int64_t[]){1}, 1, 0);
    assert_int_equal(load(&engine, m, "pdp-11", &error, &bytes), TDN_E_ARG);
    tdn_free(NULL, bytes);
    m = plan_affine((int64_t[]){1}, 1, 0);
    m->sections[0] = (tdn_plan_section){"of-tomorrow", (uint64_t)1 << 60, m->programs};
    assert_int_equal(load(&engine, m, NULL, &error, &bytes), TDN_E_TARGET);
    char words[256];
    snprintf(words, sizeof words,
             "the plan has sections for of-tomorrow, but this CPU is %s; this builds one: "
             "tendon build affine.onnx --target=%s -o PLAN",
             native->name, native->name);
    assert_string_equal(error.text, words);
    tdn_free(NULL, bytes);
}

static void test_steps_that_this_build_lacks(void **state)
{
    (void)state;
    tdn_error error = {""};
    tdn_engine *engine;
    void *bytes;
    plan_maker *m = plan_affine((int64_t[]){1}, 1, 0);
    m->steps[0][0].kernel = "Telepathy";
    assert_int_equal(load(&engine, m, NULL, &error, &bytes), TDN_E_FORMAT);
    assert_non_null(strstr(error.text, "no reference 'Telepathy'"));
    assert_non_null(
        strstr(error.text, "while preparing step 0 'scale'; while preparing program 0"));
    tdn_free(NULL, bytes);
    m = plan_affine((int64_t[]){1}, 1, 0);
    m->steps[0][0].kind = TDN_STEP_KERNEL;
    m->steps[0][0].kernel = "telepathy_f32";
    m->steps[0][0].expr = NULL;
    assert_int_equal(load(&engine, m, NULL, &error, &bytes), TDN_E_FORMAT);
    assert_non_null(strstr(error.text, "no kernel 'telepathy_f32'"));
    tdn_free(NULL, bytes);
}

static void test_damaged_weights(void **state)
{
    (void)state;
    size_t size;
    tdn_engine *engine;
    tdn_error error = {""};
    uint8_t *bytes = plan_bytes(plan_affine((int64_t[]){1}, 1, 0), &size);
    bytes[size - 60] ^= 1; /* the one blob is the file's last 64 bytes */
    assert_int_equal(tdn_engine_load_memory(&engine, bytes, size, NULL, &error), TDN_E_FORMAT);
    assert_non_null(strstr(error.text, "checksum of blob 0"));
    tdn_free(NULL, bytes);
}

static void test_more_memory_than_there_is(void **state)
{
    (void)state;
    tdn_error error = {""};
    tdn_engine *engine;
    tdn_context *context;
    void *bytes;
    plan_maker *m = plan_affine((int64_t[]){1}, 1, 0);
    m->programs[0].arena_size = (uint64_t)1 << 55;
    assert_int_equal(load(&engine, m, NULL, &error, &bytes), TDN_OK);
    assert_int_equal(tdn_context_create(&context, engine, NULL, &error), TDN_E_NOMEM);
    assert_null(context);
    assert_non_null(strstr(error.text, "the plan asks for"));
    tdn_engine_free(engine);
    tdn_free(NULL, bytes);
}

static void test_files(void **state)
{
    (void)state;
    char path[512];
    const char *folder = getenv("TDN_TEST_TMP");
    snprintf(path, sizeof path, "%s/test_runtime-%d.plan", folder ? folder : "/tmp", (int)getpid());
    tdn_engine *engine;
    tdn_error error = {""};
    assert_int_equal(tdn_engine_load(&engine, path, NULL, &error), TDN_E_IO);
    assert_null(engine);
    assert_int_equal(tdn_file_write(path, "tendon? no", 10, &error), TDN_OK);
    assert_int_equal(tdn_engine_load(&engine, path, NULL, &error), TDN_E_FORMAT);
    assert_non_null(strstr(error.text, "not a tendon plan"));
    assert_non_null(strstr(error.text, path));
    assert_int_equal(tdn_file_write(path, "", 0, &error), TDN_OK);
    assert_int_equal(tdn_engine_load(&engine, path, NULL, &error), TDN_E_FORMAT);
    size_t size;
    void *bytes = plan_bytes(plan_affine((int64_t[]){1, 2}, 2, 0), &size);
    assert_int_equal(tdn_file_write(path, bytes, size, &error), TDN_OK);
    tdn_free(NULL, bytes);
    assert_int_equal(tdn_engine_load(&engine, path, NULL, &error), TDN_OK);
    unlink(path); /* the map holds it */
    tdn_context *c;
    assert_int_equal(tdn_context_create(&c, engine, NULL, &error), TDN_OK);
    run_batch(c, 2, 0, 1);
    tdn_context_free(c);
    tdn_engine_free(engine);
}

static void keep_line(void *user, tdn_log_level level, const char *line)
{
    assert_int_equal(level, TDN_LOG_VERBOSE);
    snprintf(user, 256, "%s", line);
}

static void test_log_and_options(void **state)
{
    (void)state;
    size_t size;
    char line[256] = "";
    tdn_engine *engine;
    void *bytes = plan_bytes(plan_affine((int64_t[]){1, 2}, 2, 0), &size);
    tdn_engine_options options = TDN_ENGINE_OPTIONS_INIT;
    options.log = keep_line;
    options.log_user = line;
    assert_int_equal(tdn_engine_load_memory(&engine, bytes, size, &options, NULL), TDN_OK);
    assert_non_null(strstr(line, "section " PLAN_TARGET ", 2 programs"));
    tdn_engine_free(engine);
    options.struct_size = 0;
    assert_int_equal(tdn_engine_load_memory(&engine, bytes, size, &options, NULL), TDN_E_ARG);
    assert_null(engine);
    assert_int_equal(tdn_engine_load_memory(&engine, NULL, 0, NULL, NULL), TDN_E_ARG);
    assert_int_equal(tdn_engine_load(&engine, NULL, NULL, NULL), TDN_E_ARG);
    tdn_engine_free(NULL);
    tdn_context_free(NULL);
    tdn_free(NULL, bytes);
}

/* ---- Memory that runs out -------------------------------------------------------------------- */

typedef struct rationed {
    int left, live;
} rationed;

static void *rationed_alloc(void *user, size_t size, size_t align)
{
    rationed *r = user;
    if (r->left-- <= 0)
        return NULL;
    r->live++;
    return tdn_alloc(NULL, size, align);
}

static void rationed_free(void *user, void *memory)
{
    rationed *r = user;
    r->live--;
    tdn_free(NULL, memory);
}

static tdn_status load_and_run(const void *bytes, size_t size, const tdn_allocator *allocator)
{
    tdn_engine *engine;
    tdn_context *c;
    tdn_engine_options options = TDN_ENGINE_OPTIONS_INIT;
    options.allocator = allocator;
    tdn_status status = tdn_engine_load_memory(&engine, bytes, size, &options, NULL);
    if (status != TDN_OK)
        return status;
    tdn_context_options context_options = TDN_CONTEXT_OPTIONS_INIT;
    context_options.profile = 1;
    status = tdn_context_create(&c, engine, &context_options, NULL);
    if (status == TDN_OK) {
        ((rationed *)allocator->user)->left = 0; /* running needs none */
        everything e = {.trips = 1};
        bind_everything(c, &e);
        status = tdn_context_run(c);
        tdn_context_free(c);
    }
    tdn_engine_free(engine);
    return status;
}

static void test_failing_allocations(void **state)
{
    (void)state;
    size_t size;
    void *bytes = plan_bytes(plan_everything(), &size);
    tdn_status status = TDN_E_NOMEM;
    int n = 0;
    for (; status != TDN_OK && n < 1000; n++) {
        rationed r = {.left = n};
        status = load_and_run(bytes, size, &(tdn_allocator){rationed_alloc, rationed_free, &r});
        assert_true(status == TDN_OK || status == TDN_E_NOMEM);
        assert_int_equal(r.live, 0);
    }
    assert_int_equal(status, TDN_OK);
    assert_true(n > 5);
    tdn_free(NULL, bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_control_flow_and_states),
        cmocka_unit_test(test_warming_changes_nothing),
        cmocka_unit_test(test_extents_are_those_of_the_last_run),
        cmocka_unit_test(test_a_loop_that_does_not_end),
        cmocka_unit_test(test_programs_share_states),
        cmocka_unit_test(test_batch_buckets),
        cmocka_unit_test(test_shapes_that_no_program_takes),
        cmocka_unit_test(test_rules_of_binding),
        cmocka_unit_test(test_tensors_need_no_more_than_their_own_alignment),
        cmocka_unit_test(test_contexts_in_threads),
        cmocka_unit_test(test_same_bits_for_any_number_of_threads),
        cmocka_unit_test(test_busy_pool),
        cmocka_unit_test(test_an_index_out_of_range),
        cmocka_unit_test(test_a_misfit),
        cmocka_unit_test(test_taps),
        cmocka_unit_test(test_profile),
        cmocka_unit_test(test_a_context_without_profile),
        cmocka_unit_test(test_engine_tells_its_programs),
        cmocka_unit_test(test_choice_of_section),
        cmocka_unit_test(test_steps_that_this_build_lacks),
        cmocka_unit_test(test_damaged_weights),
        cmocka_unit_test(test_more_memory_than_there_is),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_log_and_options),
        cmocka_unit_test(test_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
