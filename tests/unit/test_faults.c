/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each allocation of a build, a load, a context and a run fails, one after the other: TDN_E_NOMEM
 * or the whole result, nothing leaked, nothing written to what the caller gave. Once through the
 * allocator hook; once through the arenas, which ask the hook rarely (the linker puts our functions
 * around theirs); and once through the C library's functions, for which this program has its own.
 * Threads and pages that the system refuses, too. Sanitizers have their own of the C library's
 * functions: under them these are left alone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "protobuf.h"
#include "tendon/budget.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define PLAIN 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define PLAIN 0
#endif
#endif
#ifndef PLAIN
#define PLAIN 1
#endif

/* ---- What fails ------------------------------------------------------------------------------ */

typedef struct ration {
    long left; /* calls until one fails */
    long live; /* blocks that are out */
} ration;

static bool spend(ration *r) { return r->left-- != 0; }

typedef enum way { HOOK, ARENA, LIBC } way;

static void *hook_alloc(void *user, size_t size, size_t align)
{
    ration *r = user;
    void *memory = spend(r) ? tdn_alloc(NULL, size, align) : NULL;
    r->live += memory != NULL;
    return memory;
}

static void hook_free(void *user, void *memory)
{
    ((ration *)user)->live -= memory != NULL;
    tdn_free(NULL, memory);
}

static ration *rationed;   /* calls of the C library; NULL: all succeed */
static ration *arena_cuts; /* calls of arenas */
static atomic_int refused_threads, refused_maps;

#if PLAIN
void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *__libc_memalign(size_t align, size_t size);
void __libc_free(void *memory);

static bool refused(void)
{
    if (!rationed || spend(rationed))
        return false;
    errno = ENOMEM;
    return true;
}

static void *counted(void *memory)
{
    if (rationed)
        rationed->live += memory != NULL;
    return memory;
}

void *malloc(size_t size) { return refused() ? NULL : counted(__libc_malloc(size)); }

void *calloc(size_t n, size_t size) { return refused() ? NULL : counted(__libc_calloc(n, size)); }

void *realloc(void *memory, size_t size)
{
    if (refused())
        return NULL;
    void *moved = __libc_realloc(memory, size);
    return memory ? moved : counted(moved);
}

int posix_memalign(void **memory, size_t align, size_t size)
{
    void *made = refused() ? NULL : counted(__libc_memalign(align, size));
    if (made)
        *memory = made;
    return made ? 0 : ENOMEM;
}

void free(void *memory)
{
    if (rationed)
        rationed->live -= memory != NULL;
    __libc_free(memory);
}

typedef int create_fn(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *user)
{
    if (refused_threads > 0 && --refused_threads == 0)
        return EAGAIN;
    create_fn *real;
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return real(thread, attr, fn, user);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (refused_maps > 0 && --refused_maps == 0) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, at, size, protection, flags, fd, offset);
}
#endif

/* What no arena has: so it knows that it failed. */
static size_t asked(size_t size)
{
    return arena_cuts && !spend(arena_cuts) ? (size_t)PTRDIFF_MAX + 1 : size;
}

/* What the linker calls for tdn_arena_alloc and so on, and what it calls theirs. */
void *__real_tdn_arena_alloc(tdn_arena *arena, size_t count, size_t size);
void *__real_tdn_arena_alloc_data(tdn_arena *arena, size_t size);
char *__real_tdn_arena_strndup(tdn_arena *arena, const char *text, size_t size);
void *__wrap_tdn_arena_alloc(tdn_arena *arena, size_t count, size_t size);
void *__wrap_tdn_arena_alloc_data(tdn_arena *arena, size_t size);
char *__wrap_tdn_arena_strdup(tdn_arena *arena, const char *text);
char *__wrap_tdn_arena_strndup(tdn_arena *arena, const char *text, size_t size);

void *__wrap_tdn_arena_alloc(tdn_arena *arena, size_t count, size_t size)
{
    const size_t all = asked(1);
    return __real_tdn_arena_alloc(arena, all > 1 ? all : count, all > 1 ? 1 : size);
}

void *__wrap_tdn_arena_alloc_data(tdn_arena *arena, size_t size)
{
    return __real_tdn_arena_alloc_data(arena, asked(size));
}

char *__wrap_tdn_arena_strdup(tdn_arena *arena, const char *text)
{
    return __wrap_tdn_arena_strndup(arena, text, strlen(text));
}

char *__wrap_tdn_arena_strndup(tdn_arena *arena, const char *text, size_t size)
{
    return __real_tdn_arena_strndup(arena, text, asked(size));
}

/* ---- Models ---------------------------------------------------------------------------------- */

/* v = s + D s of spikes s = r > 1, c = a convolution of v: both ways of it, and the choice. */
static void put_spikes(pb *g)
{
    enum { CHANNELS = 64, TAPS = 3 };
    static const int64_t r[] = {1, CHANNELS, 420}, c[] = {1, CHANNELS, 420 - TAPS + 1};
    static const int64_t d[] = {CHANNELS, CHANNELS, 1}, w[] = {CHANNELS, CHANNELS, TAPS};
    static const float weights[CHANNELS * CHANNELS * TAPS];
    pb cast = onnx_node("Cast", "cast", "fired", "s");
    pb to = onnx_attr("to", 2);
    pb_int(&to, 3, FLOAT);
    pb_message(&cast, 5, to);
    pb_message(g, 1, onnx_node("Greater", "fire", "r one", "fired"));
    pb_message(g, 1, cast);
    pb_message(g, 1, onnx_node("Conv", "spread", "s d", "u"));
    pb_message(g, 1, onnx_node("Add", "sum", "s u", "v"));
    pb_message(g, 1, onnx_node("Conv", "conv", "v w", "c"));
    pb_message(g, 5, onnx_raw_tensor("d", FLOAT, 3, d, weights, sizeof weights / TAPS));
    pb_message(g, 5, onnx_raw_tensor("w", FLOAT, 3, w, weights, sizeof weights));
    pb_message(g, 11, onnx_io("r", FLOAT, 3, r));
    pb_message(g, 12, onnx_io("c", FLOAT, 3, c));
}

/* y = yes ? x + 1 : x, decided at build; z = the positions where y is not 0, known only after a
 * run; the extent N is given by shapes; and spikes, whose branch is decided at each run. */
static pb model_of_branches(void)
{
    static const int64_t dim[] = {-1}, one[] = {1};
    static const uint8_t yes[] = {1};
    static const float ones[] = {1};
    pb then = {0}, other = {0}, node = onnx_node("If", "if", "yes", "y"), g = {0};
    pb_message(&then, 1, onnx_node("Add", "add", "x one", "a"));
    pb_message(&then, 12, onnx_io("a", FLOAT, 1, dim));
    pb_message(&other, 1, onnx_node("Identity", "same", "x", "b"));
    pb_message(&other, 12, onnx_io("b", FLOAT, 1, dim));
    pb branch = onnx_attr("then_branch", 5);
    pb_message(&branch, 6, then);
    pb_message(&node, 5, branch);
    branch = onnx_attr("else_branch", 5);
    pb_message(&branch, 6, other);
    pb_message(&node, 5, branch);
    pb_message(&g, 1, node);
    pb_message(&g, 1, onnx_node("NonZero", "where", "y", "z"));
    pb_message(&g, 5, onnx_raw_tensor("yes", BOOL, 0, one, yes, sizeof yes));
    pb_message(&g, 5, onnx_raw_tensor("one", FLOAT, 1, one, ones, sizeof ones));
    pb_message(&g, 11, onnx_io("x", FLOAT, 1, dim));
    pb_message(&g, 12, onnx_io("y", FLOAT, 1, dim));
    pb_message(&g, 12, onnx_io("z", INT64, -1, NULL));
    put_spikes(&g);
    return onnx_model(g);
}

typedef struct subject {
    const char *path;     /* NULL: model_of_branches */
    int precision, level; /* of the build */
} subject;

static const subject subjects[] = {
    {NULL, TDN_PRECISION_FP32, 3},
    {"tests/data/exports/dw_classic.onnx", TDN_PRECISION_FP32, 3},
    {"tests/data/exports/rnn_dynamo.onnx", TDN_PRECISION_FP32, 0}, /* LSTM, external data */
    {"tests/data/exports/misc_dynamo.onnx", TDN_PRECISION_FP32, 1},
    {"tests/data/exports/stg_classic.onnx", TDN_PRECISION_FP32, 0},
    {"tests/data/exports/tcn_classic.onnx", TDN_PRECISION_FP32, 0},
    {"tests/data/exports/tr_dynamo.onnx", TDN_PRECISION_FP32, 0},
    {"tests/data/exports/lif_dynamo.onnx", TDN_PRECISION_FP32, 0},
    {"tests/data/exports/unet_dynamo.onnx", TDN_PRECISION_FP32, 0},
};
#define N_SUBJECTS (sizeof subjects / sizeof *subjects)

typedef struct plan_bytes {
    void *data;
    size_t size;
} plan_bytes;

/* A file that the first build fills. */
static const char *timing_cache(void)
{
    static char path[256];
    const char *tmp = getenv("TDN_TEST_TMP");
    snprintf(path, sizeof path, "%s/faults-%ld.cache", tmp ? tmp : "/tmp", (long)getpid());
    return path;
}

static tdn_status build(const subject *s, const pb *branches, const tdn_allocator *allocator,
                        plan_bytes *plan, tdn_error *error)
{
    const tdn_model_options options = {.struct_size = sizeof options, .allocator = allocator};
    const tdn_shape_spec n_is_5 = {"x", 1, {5}};
    const tdn_shape_set shapes = {&n_is_5, 1};
    tdn_build_options o = TDN_BUILD_OPTIONS_INIT;
    tdn_model *model;
    o.n_threads = 1;
    o.optimization_level = s->level;
    o.timing_cache = s->level > 0 ? timing_cache() : NULL; /* so that all builds are alike */
    o.precision = (tdn_precision)s->precision;
    o.shapes = s->path ? NULL : &shapes;
    o.n_shapes = s->path ? 0 : 1;
    tdn_status status =
        s->path ? tdn_model_load(&model, s->path, &options, error)
                : tdn_model_load_memory(&model, branches->data, branches->n, NULL, &options, error);
    if (status != TDN_OK) {
        assert_null(model);
        return status;
    }
    status = tdn_build(model, &o, &plan->data, &plan->size, error);
    tdn_model_free(model);
    return status;
}

static void arm(way how, ration *r)
{
    rationed = how == LIBC ? r : NULL;
    arena_cuts = how == ARENA ? r : NULL;
}

/* ---- Builds ---------------------------------------------------------------------------------- */

static void judge(tdn_status status, const tdn_error *error, const plan_bytes *plan,
                  const plan_bytes *good)
{
    if (status != TDN_OK) {
        if (status != TDN_E_NOMEM)
            fail_msg("%s: %s", tdn_status_name(status), error->text);
        assert_non_null(strstr(error->text, "memory"));
        assert_null(plan->data);
        assert_int_equal(plan->size, 0);
        return;
    }
    assert_int_equal(plan->size, good->size);
    assert_memory_equal(plan->data, good->data, good->size);
}

/* How many allocations there were. */
static long build_under(const subject *s, const pb *branches, way how)
{
    plan_bytes good = {0};
    tdn_error error;
    if (build(s, branches, NULL, &good, &error) != TDN_OK)
        fail_msg("%s", error.text);
    long n = 0;
    for (bool hit = true; hit; n++) {
        ration r = {.left = n};
        const tdn_allocator allocator = {hook_alloc, hook_free, &r};
        plan_bytes plan = {0};
        error.text[0] = 0;
        arm(how, &r);
        const tdn_status status =
            build(s, branches, how == HOOK ? &allocator : NULL, &plan, &error);
        arm(how, NULL);
        hit = r.left < 0;
        judge(status, &error, &plan, &good);
        assert_int_equal(r.live, how == LIBC && plan.data != NULL); /* the plan is ours */
        tdn_plan_free(plan.data);
    }
    tdn_plan_free(good.data);
    return n - 1;
}

static void each_allocation_of_a_build_fails(void **state)
{
    (void)state;
    const pb branches = model_of_branches();
    for (size_t i = 0; i < N_SUBJECTS; i++) {
        const long hook = build_under(&subjects[i], &branches, HOOK);
        const long arena = build_under(&subjects[i], &branches, ARENA);
        const long libc = PLAIN ? build_under(&subjects[i], &branches, LIBC) : 0;
        assert_true(hook > 5 && arena > 100 && (!PLAIN || libc > hook));
    }
    unlink(timing_cache());
    free(branches.data);
}

/* ---- Runs ------------------------------------------------------------------------------------ */

enum { MAX_IO = 8 };

typedef struct io_memory {
    void *data[MAX_IO];
    size_t size[MAX_IO];
    int n;
} io_memory;

static void io_of(const tdn_engine *e, int i, tdn_io_info *info)
{
    const int n_inputs = tdn_engine_n_inputs(e);
    *info = (tdn_io_info){.struct_size = sizeof *info};
    assert_int_equal(i < n_inputs ? tdn_engine_input(e, 0, i, info)
                                  : tdn_engine_output(e, 0, i - n_inputs, info),
                     TDN_OK);
}

static io_memory make_io(const tdn_engine *e)
{
    io_memory m = {.n = tdn_engine_n_inputs(e) + tdn_engine_n_outputs(e)};
    assert_in_range(m.n, 2, MAX_IO);
    for (int i = 0; i < m.n; i++) {
        tdn_io_info info;
        int64_t count;
        io_of(e, i, &info);
        assert_true(tdn_dims_count(info.dims, info.rank, &count));
        m.size[i] = tdn_dtype_size(info.dtype, (size_t)count);
        m.data[i] = calloc(1, m.size[i] + 1);
    }
    return m;
}

static void free_io(io_memory *m)
{
    for (int i = 0; i < m->n; i++)
        free(m->data[i]);
}

static tdn_status load_and_run(const char *path, const tdn_allocator *allocator, const io_memory *m,
                               tdn_error *error)
{
    tdn_engine_options options = TDN_ENGINE_OPTIONS_INIT;
    tdn_context_options context_options = TDN_CONTEXT_OPTIONS_INIT;
    tdn_engine *engine;
    tdn_context *c;
    options.allocator = allocator;
    context_options.profile = 1;
    tdn_status status = tdn_engine_load(&engine, path, &options, error);
    if (status != TDN_OK) {
        assert_null(engine);
        return status;
    }
    status = tdn_context_create(&c, engine, &context_options, error);
    assert_true((status == TDN_OK) == (c != NULL));
    for (int i = 0; status == TDN_OK && i < m->n; i++) {
        tdn_io_info info;
        io_of(engine, i, &info);
        const tdn_tensor t = tdn_tensor_make(m->data[i], info.dtype, info.rank, info.dims);
        status = tdn_context_bind(c, info.name, &t);
    }
    if (status == TDN_OK)
        status = tdn_context_run(c);
    tdn_context_free(c);
    tdn_engine_free(engine);
    return status;
}

/* A failure before the run leaves the outputs alone. */
static long run_under(const char *path, int n_inputs, io_memory *m, way how)
{
    long n = 0;
    tdn_error error;
    for (bool hit = true; hit; n++) {
        ration r = {.left = n};
        const tdn_allocator allocator = {hook_alloc, hook_free, &r};
        for (int i = n_inputs; i < m->n; i++)
            memset(m->data[i], 0x5a, m->size[i]);
        error.text[0] = 0;
        arm(how, &r);
        const tdn_status status = load_and_run(path, how == HOOK ? &allocator : NULL, m, &error);
        arm(how, NULL);
        hit = r.left < 0;
        assert_int_equal(r.live, 0);
        assert_int_equal(status, hit ? TDN_E_NOMEM : TDN_OK);
        if (!hit)
            break;
        assert_non_null(strstr(error.text, "memory"));
        for (int i = n_inputs; i < m->n; i++)
            for (size_t k = 0; k < m->size[i]; k++)
                assert_int_equal(((uint8_t *)m->data[i])[k], 0x5a);
    }
    return n;
}

static void put_plan(const subject *s, const pb *branches, char *path, size_t size)
{
    plan_bytes plan = {0};
    const char *tmp = getenv("TDN_TEST_TMP");
    snprintf(path, size, "%s/faults-%ld.plan", tmp ? tmp : "/tmp", (long)getpid());
    assert_int_equal(build(s, branches, NULL, &plan, NULL), TDN_OK);
    assert_int_equal(tdn_file_write(path, plan.data, plan.size, NULL), TDN_OK);
    tdn_plan_free(plan.data);
    unlink(timing_cache());
}

static void each_allocation_of_a_run_fails(void **state)
{
    (void)state;
    const pb branches = model_of_branches();
    for (size_t i = 0; i < N_SUBJECTS; i++) {
        char path[256];
        tdn_engine *engine;
        put_plan(&subjects[i], &branches, path, sizeof path);
        assert_int_equal(tdn_engine_load(&engine, path, NULL, NULL), TDN_OK);
        io_memory m = make_io(engine);
        const int n_inputs = tdn_engine_n_inputs(engine);
        tdn_engine_free(engine);
        assert_true(run_under(path, n_inputs, &m, HOOK) > 3);
        assert_true(run_under(path, n_inputs, &m, ARENA) > 20);
        assert_true(!PLAIN || run_under(path, n_inputs, &m, LIBC) > 3);
        free_io(&m);
        unlink(path);
    }
    free(branches.data);
}

/* ---- Calibrations ---------------------------------------------------------------------------- */

/* Ones, of the shape that the model declares. */
static tdn_status next_ones(void *user, int64_t batch, const tdn_tensor **inputs, tdn_error *error)
{
    static float ones[1 << 16];
    static tdn_tensor t;
    (void)error;
    const tdn_model_io *io = user;
    for (size_t i = 0; i < sizeof ones / sizeof *ones; i++)
        ones[i] = (float)batch + 1;
    t = tdn_tensor_make(ones, io->dtype, io->rank, io->dims);
    *inputs = &t;
    return TDN_OK;
}

/* Makes one, writes and reads it. */
static tdn_status calibrate(const char *model_path, const char *cache,
                            const tdn_allocator *allocator, tdn_error *error)
{
    const tdn_model_options options = {.struct_size = sizeof options, .allocator = allocator};
    tdn_calibrate_options o = TDN_CALIBRATE_OPTIONS_INIT;
    tdn_model_io io = {.struct_size = sizeof io};
    tdn_model *model;
    tdn_calibration *made, *read = NULL;
    tdn_status status = tdn_model_load(&model, model_path, &options, error);
    if (status != TDN_OK)
        return status;
    assert_int_equal(tdn_model_input(model, 0, &io), TDN_OK);
    o.n_threads = 1;
    o.n_batches = 2;
    o.next = next_ones;
    o.next_user = &io;
    status = tdn_calibrate(&made, model, &o, error);
    assert_true((status == TDN_OK) == (made != NULL));
    if (status == TDN_OK)
        status = tdn_calibration_save(made, cache, error);
    if (status == TDN_OK)
        status = tdn_calibration_load(&read, cache, error);
    assert_true((status == TDN_OK) == (read != NULL));
    if (status == TDN_OK)
        status = tdn_calibration_check(read, model, &o, error);
    if (status == TDN_OK)
        assert_int_equal(tdn_calibration_n_ranges(read), tdn_calibration_n_ranges(made));
    tdn_calibration_free(read);
    tdn_calibration_free(made);
    tdn_model_free(model);
    return status;
}

typedef tdn_status attempt_fn(const char *model, const char *cache, const tdn_allocator *allocator,
                              tdn_error *error);

static long attempts_under(attempt_fn *attempt, const char *model, const char *cache, way how)
{
    long n = 0;
    tdn_error error;
    for (bool hit = true; hit; n++) {
        ration r = {.left = n};
        const tdn_allocator allocator = {hook_alloc, hook_free, &r};
        error.text[0] = 0;
        arm(how, &r);
        const tdn_status status = attempt(model, cache, how == HOOK ? &allocator : NULL, &error);
        arm(how, NULL);
        hit = r.left < 0;
        if (status != (hit ? TDN_E_NOMEM : TDN_OK))
            fail_msg("%s: %s", tdn_status_name(status), error.text);
        assert_true(!hit || strstr(error.text, "memory"));
        assert_int_equal(r.live, 0);
    }
    return n - 1;
}

static void each_allocation_of_a_calibration_fails(void **state)
{
    (void)state;
    static const char model[] = "tests/data/exports/dw_classic.onnx";
    char cache[256], beside[300];
    const char *tmp = getenv("TDN_TEST_TMP");
    snprintf(cache, sizeof cache, "%s/faults-%ld.calib", tmp ? tmp : "/tmp", (long)getpid());
    snprintf(beside, sizeof beside, "%s.json", cache);
    assert_true(attempts_under(calibrate, model, cache, HOOK) > 10);
    assert_true(attempts_under(calibrate, model, cache, ARENA) > 100);
    assert_true(!PLAIN || attempts_under(calibrate, model, cache, LIBC) > 20);
    unlink(cache);
    unlink(beside);
}

/* Calibrates, then keeps all in float32 that there is. */
static tdn_status choose(tdn_model *model, const tdn_calibrate_options *samples, tdn_error *error)
{
    tdn_budget_options o = TDN_BUDGET_OPTIONS_INIT;
    tdn_calibration *calibration;
    tdn_budget *budget;
    tdn_status status = tdn_calibrate(&calibration, model, samples, error);
    if (status != TDN_OK)
        return status;
    status = tdn_budget_choose(&budget, model, calibration, samples, &o, error);
    assert_true((status == TDN_OK) == (budget != NULL));
    int32_t n;
    assert_non_null(status != TDN_OK ? &o : (const void *)tdn_budget_layers(budget, &n));
    assert_true(status != TDN_OK || n == 2);
    tdn_budget_free(budget);
    tdn_calibration_free(calibration);
    return status;
}

static tdn_status choose_for(const char *bytes, const char *end, const tdn_allocator *allocator,
                             tdn_error *error)
{
    const tdn_model_options options = {.struct_size = sizeof options, .allocator = allocator};
    tdn_calibrate_options samples = TDN_CALIBRATE_OPTIONS_INIT;
    tdn_model_io io = {.struct_size = sizeof io};
    tdn_model *model;
    tdn_status status =
        tdn_model_load_memory(&model, bytes, (size_t)(end - bytes), NULL, &options, error);
    if (status != TDN_OK)
        return status;
    assert_int_equal(tdn_model_input(model, 0, &io), TDN_OK);
    samples.n_threads = 1;
    samples.n_batches = 2;
    samples.next = next_ones;
    samples.next_user = &io;
    status = choose(model, &samples, error);
    tdn_model_free(model);
    return status;
}

static void each_allocation_of_a_budget_fails(void **state)
{
    (void)state;
    pb model = onnx_two_products();
    const char *bytes = (const char *)model.data, *end = bytes + model.n;
    assert_true(attempts_under(choose_for, bytes, end, HOOK) > 10);
    assert_true(attempts_under(choose_for, bytes, end, ARENA) > 100);
    free(model.data);
}

/* ---- What the system refuses ----------------------------------------------------------------- */

static void pages_that_the_system_refuses(void **state)
{
    (void)state;
    if (!PLAIN)
        skip();
    char path[256];
    const pb branches = model_of_branches();
    tdn_error error;
    tdn_engine *engine;
    tdn_model *model;
    char *json;
    put_plan(&subjects[0], &branches, path, sizeof path);
    refused_maps = 1;
    assert_int_equal(tdn_engine_load(&engine, path, NULL, &error), TDN_E_NOMEM);
    assert_non_null(strstr(error.text, path));
    assert_null(engine);
    refused_maps = 1;
    assert_int_equal(tdn_plan_describe(&json, path, &error), TDN_E_NOMEM);
    assert_null(json);
    for (int i = 1; i <= 2; i++) { /* the model, its external data */
        refused_maps = i;
        assert_int_equal(tdn_model_load(&model, "tests/data/exports/rnn_dynamo.onnx", NULL, &error),
                         TDN_E_NOMEM);
        assert_non_null(strstr(error.text, "rnn_dynamo.onnx"));
        assert_null(model);
    }
    assert_int_equal(refused_maps, 0);
    unlink(path);
    free(branches.data);
}

static void threads_that_the_system_refuses(void **state)
{
    (void)state;
    if (!PLAIN)
        skip();
    tdn_pool_options options = TDN_POOL_OPTIONS_INIT;
    options.n_threads = 4;
    tdn_pool *pool;
    tdn_error error;
    for (int i = 1; i <= 3; i++) {
        refused_threads = i;
        assert_int_equal(tdn_pool_create(&pool, &options, &error), TDN_E_IO);
        assert_null(pool);
        assert_non_null(strstr(error.text, strerror(EAGAIN)));
    }
    tdn_build_options build_options = TDN_BUILD_OPTIONS_INIT;
    tdn_model *model;
    void *plan;
    size_t size;
    build_options.n_threads = 3;
    assert_int_equal(tdn_model_load(&model, subjects[1].path, NULL, NULL), TDN_OK);
    for (int i = 1; i <= 2; i++) {
        refused_threads = i;
        const tdn_status status = tdn_build(model, &build_options, &plan, &size, &error);
        if (refused_threads == 0) { /* otherwise the build needed no threads */
            assert_int_equal(status, TDN_E_IO);
            assert_null(plan);
        }
        refused_threads = 0;
        tdn_plan_free(plan);
    }
    tdn_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_allocation_of_a_build_fails),
        cmocka_unit_test(each_allocation_of_a_run_fails),
        cmocka_unit_test(each_allocation_of_a_calibration_fails),
        cmocka_unit_test(each_allocation_of_a_budget_fails),
        cmocka_unit_test(pages_that_the_system_refuses),
        cmocka_unit_test(threads_that_the_system_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
