/* SPDX-License-Identifier: Apache-2.0 */
/* The choice among variants, the tuner and its timing cache, with a family whose variants spin for
 * as long as they are told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "lower/trial.h"
#include "lower/tune.h"

/* ---- A family -------------------------------------------------------------------------------- */

enum { N_VARIANTS = 4, N_TILES = 3 };

/* A step's variants, as its description: 0 us is a variant that does not take the step. */
typedef struct spec {
    int64_t us[N_VARIANTS]; /* of a run */
    int64_t cost[N_VARIANTS];
    size_t size[N_VARIANTS]; /* of the packed weights */
    int32_t odd;             /* a variant that `check` refuses, or -1 */
} spec;

typedef struct args {
    int64_t us;
    int32_t is_odd, variant;
} args;

static int n_runs[N_VARIANTS];

static void run_spin(const tdn_call *call, size_t tile)
{
    const args *a = call->args;
    const uint64_t end = tdn_now_ns() + (uint64_t)a->us * 1000 / N_TILES;
    float *out = call->out[0].data;
    const float *in = call->in[0].data;
    for (int64_t i = (int64_t)tile; i < call->out[0].dims[0]; i += N_TILES)
        out[i * call->out[0].strides[0]] = in[i * call->in[0].strides[0]];
    *(float *)call->scratch = 1;
    if (tile == 0)
        n_runs[a->variant]++;
    while (tdn_now_ns() < end)
        ;
}

static const tdn_kernel kernels[] = {{"spin_f32", 0, 0, 0, run_spin}, {NULL, 0, 0, 0, NULL}};

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    const spec *s = g->desc;
    (void)isa;
    assert_true(g->dry);
    if (s->us[g->variant] == 0)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "variant %d", g->variant);
    args *a = tdn_arena_alloc(arena, 1, sizeof *a);
    if (!a)
        return tdn_fail_nomem(error, "arguments");
    *a = (args){s->us[g->variant], s->odd == g->variant, g->variant};
    *made = (tdn_made){.kernel = kernels,
                       .args = a,
                       .args_size = sizeof *a,
                       .packed_input = 1,
                       .packed_size = s->size[g->variant],
                       .cost = s->cost[g->variant]};
    return TDN_OK;
}

static tdn_status check(const tdn_kernel *kernel, const void *bytes, size_t size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    const args *a = bytes;
    (void)kernel;
    if (a->is_odd || size != sizeof *a || n_in != 2 || n_out != 1 || in[1].dtype != TDN_U8 ||
        !in[0].data || !in[1].data || !out[0].data || (uintptr_t)in[1].data % TDN_ALIGN)
        return tdn_fail(error, TDN_E_FORMAT, "an odd step");
    for (int64_t i = 0; i < in[1].dims[0]; i += 64) /* readable */
        work->flops += ((const volatile uint8_t *)in[1].data)[i] & 1;
    *work = (tdn_work){.n_tiles = N_TILES, .scratch_size = 100, .flops = 1};
    return TDN_OK;
}

static const tdn_family family = {
    .name = "spin", .kernels = kernels, .n_variants = N_VARIANTS, .make = make, .check = check};

static float values[8][64];

/* Adds a step over `length` elements whose weights are values[weights]. */
static tdn_status add(tdn_choices *c, const spec *s, int weights, int64_t length, tdn_error *error)
{
    const int64_t n = 64;
    const tdn_view in[2] = {tdn_view_make(NULL, TDN_F32, 1, &length),
                            tdn_view_make(values[weights], TDN_F32, 1, &n)};
    const tdn_view out = tdn_view_make(NULL, TDN_F32, 1, &length);
    const tdn_group g = {.desc = s, .in = in, .n_in = 2, .out = &out, .n_out = 1};
    tdn_made made;
    TDN_TRY(tdn_choices_add(c, &made, &family, &g, 0, 0, "step", error));
    return tdn_choices_add_blob(c, 0, tdn_blob_name(&in[1], made.kernel, made.packed_size),
                                made.packed_size)
               ? TDN_OK
               : TDN_E_NOMEM;
}

static void add_ok(tdn_choices *c, const spec *s, int weights)
{
    tdn_error error;
    assert_int_equal(add(c, s, weights, 100 + (int64_t)c->n, &error), TDN_OK);
}

static int chosen(const tdn_choices *c, uint32_t i)
{
    return c->items[i].candidates[c->items[i].chosen].variant;
}

static void decide(tdn_choices *c, double ratio)
{
    tdn_error error;
    assert_int_equal(tdn_choices_decide(c, ratio, &error), TDN_OK);
}

static int setup(void **state)
{
    tdn_choices *c = calloc(1, sizeof *c);
    c->arena = tdn_arena_create(NULL);
    *state = c;
    memset(n_runs, 0, sizeof n_runs);
    for (int i = 0; i < 8; i++)
        for (int k = 0; k < 64; k++)
            values[i][k] = (float)(i * 64 + k);
    return 0;
}

static int teardown(void **state)
{
    tdn_choices *c = *state;
    tdn_arena_free(c->arena);
    free(c);
    return 0;
}

/* ---- The choice ------------------------------------------------------------------------------ */

static void test_bytes_go_where_they_save_most(void **state)
{
    tdn_choices *c = *state;
    const spec slow = {{1, 1, 1, 0}, {1000, 400, 300, 0}, {100, 200, 400, 0}, -1};
    const spec fast = {{1, 1, 0, 0}, {1000, 100, 0, 0}, {100, 200, 0, 0}, -1};
    add_ok(c, &slow, 0);
    add_ok(c, &fast, 1);
    assert_int_equal(tdn_choices_plain_size(c, 0), 200);
    decide(c, 1);
    assert_int_equal(chosen(c, 0), 0);
    assert_int_equal(chosen(c, 1), 0);
    decide(c, 1.5); /* 100 bytes more: 900 saved here, 600 there */
    assert_int_equal(chosen(c, 0), 0);
    assert_int_equal(chosen(c, 1), 1);
    decide(c, 2);
    assert_int_equal(chosen(c, 0), 1);
    decide(c, 2.99);
    assert_int_equal(chosen(c, 0), 1);
    decide(c, 3);
    assert_int_equal(chosen(c, 0), 2);
}

/* The bytes that may be added are counted from there. */
static void test_it_begins_with_fewer_bytes(void **state)
{
    tdn_choices *c = *state;
    const spec smaller = {{1, 1, 0, 0}, {1000, 900, 0, 0}, {300, 100, 0, 0}, -1};
    const spec larger = {{1, 1, 0, 0}, {1000, 100, 0, 0}, {100, 300, 0, 0}, -1};
    add_ok(c, &larger, 0);
    add_ok(c, &smaller, 1);
    decide(c, 1.99);
    assert_int_equal(chosen(c, 0), 0);
    assert_int_equal(chosen(c, 1), 1);
    decide(c, 2);
    assert_int_equal(chosen(c, 0), 1);
    assert_int_equal(chosen(c, 1), 1);
}

static void test_fewer_bytes_where_no_slower(void **state)
{
    tdn_choices *c = *state;
    const spec equal = {{1, 1, 1, 1}, {1000, 1010, 1015, 970}, {100, 50, 100, 100}, -1};
    const spec slower = {{1, 1, 0, 0}, {1000, 1030, 0, 0}, {100, 50, 0, 0}, -1};
    const spec faster = {{1, 1, 1, 1}, {1000, 1010, 900, 890}, {100, 50, 90, 180}, -1};
    add_ok(c, &equal, 0);
    add_ok(c, &slower, 1);
    add_ok(c, &faster, 2);
    decide(c, 3);
    assert_int_equal(chosen(c, 0), 3); /* faster than 1 by more than 2 % */
    assert_int_equal(chosen(c, 1), 0);
    assert_int_equal(chosen(c, 2), 2); /* 3 is hardly faster */
    c->items[0].candidates[3].cost = 1000;
    c->items[2].candidates[2].refused = c->items[2].candidates[3].refused = true;
    decide(c, 3);
    assert_int_equal(chosen(c, 0), 1);
    assert_int_equal(chosen(c, 2), 1);
    c->items[2].candidates[1].refused = true;
    decide(c, 3);
    assert_int_equal(chosen(c, 2), 0);
}

/* Two steps with the same weights: the larger blob is paid for once, and the plain one is gone. */
static void test_shared_weights_count_once(void **state)
{
    tdn_choices *c = *state;
    const spec s = {{1, 1, 0, 0}, {1000, 500, 0, 0}, {100, 200, 0, 0}, -1};
    const spec alone = {{1, 1, 0, 0}, {1000, 100, 0, 0}, {100, 300, 0, 0}, -1};
    add_ok(c, &s, 0);
    add_ok(c, &alone, 1);
    add_ok(c, &s, 0);
    assert_int_equal(tdn_choices_plain_size(c, 0), 200);
    decide(c, 1.5); /* 1000 saved for 100 bytes against 900 for 200 */
    assert_int_equal(chosen(c, 0), 1);
    assert_int_equal(chosen(c, 2), 1);
    assert_int_equal(chosen(c, 1), 0);
}

/* One of those that share has no such variant: both blobs are paid for. */
static void test_shared_weights_in_two_forms(void **state)
{
    tdn_choices *c = *state;
    const spec s = {{1, 1, 0, 0}, {1000, 500, 0, 0}, {100, 200, 0, 0}, -1};
    const spec plain = {{1, 0, 0, 0}, {1000, 0, 0, 0}, {100, 0, 0, 0}, -1};
    add_ok(c, &s, 0);
    add_ok(c, &plain, 0);
    decide(c, 2.99);
    assert_int_equal(chosen(c, 0), 0);
    decide(c, 3);
    assert_int_equal(chosen(c, 0), 1);
    assert_int_equal(chosen(c, 1), 0);
}

static void test_equals_and_the_refused_are_not_chosen(void **state)
{
    tdn_choices *c = *state;
    const spec s = {{1, 1, 1, 1}, {1000, 990, 1000, 100}, {100, 100, 100, 100}, -1};
    add_ok(c, &s, 0);
    c->items[0].candidates[3].refused = true;
    decide(c, 2);
    assert_int_equal(chosen(c, 0), 0);
    c->items[0].candidates[3].refused = false;
    decide(c, 2);
    assert_int_equal(chosen(c, 0), 3);
}

/* Times count where they are; the costs of what is not timed are put on their scale, by variant. */
static void test_times_over_costs(void **state)
{
    tdn_choices *c = *state;
    const spec s = {{1, 1, 0, 0}, {1000, 500, 0, 0}, {100, 100, 0, 0}, -1};
    add_ok(c, &s, 0);
    add_ok(c, &s, 1);
    decide(c, 2);
    assert_int_equal(chosen(c, 0), 1);
    assert_int_equal(chosen(c, 1), 1);
    c->items[0].timed = true;
    c->items[0].candidates[0].ns = 100;
    c->items[0].candidates[1].ns = 200;
    decide(c, 2);
    assert_int_equal(chosen(c, 0), 0);
    assert_int_equal(chosen(c, 1), 0);
}

static void test_a_step_that_no_variant_takes(void **state)
{
    tdn_choices *c = *state;
    tdn_error error;
    const spec none = {{0}, {0}, {0}, -1};
    const spec s = {{1, 1, 0, 0}, {1000, 500, 0, 0}, {100, 100, 0, 0}, -1};
    assert_int_equal(add(c, &none, 0, 100, &error), TDN_E_UNSUPPORTED);
    add_ok(c, &s, 0);
    assert_int_equal(c->n, 2);
    assert_int_equal(c->items[0].n_candidates, 0);
    decide(c, 2);
    assert_int_equal(chosen(c, 1), 1);
}

/* ---- The tuner ------------------------------------------------------------------------------- */

static const bool present[] = {true};

static tdn_tune_options tune_options(int64_t budget_ms, tdn_timing_cache *cache)
{
    return (tdn_tune_options){.budget_ms = budget_ms,
                              .n_threads = 1,
                              .n_targets = 1,
                              .is_present = present,
                              .cache = cache};
}

static tdn_tune_result tune(tdn_choices *c, int64_t budget_ms, tdn_timing_cache *cache)
{
    const tdn_tune_options options = tune_options(budget_ms, cache);
    tdn_tune_result result;
    tdn_error error;
    assert_int_equal(tdn_tune(c, &options, &result, &error), TDN_OK);
    return result;
}

/* What costs say is wrong: variant 2 is the fast one. Variant 1 is far behind, variant 3 odd. */
static const spec misjudged = {
    {20000, 100000, 9000, 10}, {1000, 100, 900, 50}, {5000, 5000, 5000, 5000}, 3};

static void test_the_fastest_is_found(void **state)
{
    tdn_choices *c = *state;
    add_ok(c, &misjudged, 0);
    const tdn_tune_result r = tune(c, 60000, NULL);
    assert_int_equal(r.n_steps, 1);
    assert_int_equal(r.n_timed, 1);
    assert_int_equal(r.n_threads, 1);
    const tdn_candidate *k = c->items[0].candidates;
    assert_true(c->items[0].timed && k[0].ns >= 19000000 && k[1].ns >= 90000000 &&
                k[2].ns >= 8000000);
    assert_true(k[3].refused && !k[0].refused);
    assert_int_equal(n_runs[3], 0);
    assert_int_equal(n_runs[1], 1); /* far behind: not again */
    assert_true(n_runs[2] >= 1);
    decide(c, 1);
    assert_int_equal(chosen(c, 0), 2);
}

static void test_equal_steps_are_timed_once(void **state)
{
    tdn_choices *c = *state;
    tdn_error error;
    const spec s = {{200, 100, 0, 0}, {1000, 1000, 0, 0}, {100, 100, 0, 0}, -1};
    assert_int_equal(add(c, &s, 0, 100, &error), TDN_OK);
    tune(c, 60000, NULL);
    const int once = n_runs[0];
    assert_int_equal(add(c, &s, 1, 100, &error), TDN_OK); /* other weights, the same work */
    memset(n_runs, 0, sizeof n_runs);
    assert_int_equal(tune(c, 60000, NULL).n_timed, 2);
    assert_true(once > 0 && n_runs[0] > 0 && n_runs[0] < once + once / 2 + 20);
    assert_int_equal(c->items[0].candidates[0].ns, c->items[1].candidates[0].ns);
    assert_int_equal(c->items[0].candidates[1].ns, c->items[1].candidates[1].ns);
}

static void test_what_cannot_run_here_is_not_timed(void **state)
{
    tdn_choices *c = *state;
    const bool absent[] = {false};
    tdn_tune_options options = tune_options(60000, NULL);
    tdn_tune_result r;
    tdn_error error;
    add_ok(c, &misjudged, 0);
    options.is_present = absent;
    assert_int_equal(tdn_tune(c, &options, &r, &error), TDN_OK);
    assert_int_equal(r.n_timed, 0);
    assert_int_equal(n_runs[0], 0);
    decide(c, 1);
    assert_int_equal(chosen(c, 0), 3); /* by its cost */
}

/* Nothing is run again, and the decisions are those of the build that took the times. */
static void test_times_come_from_the_cache(void **state)
{
    tdn_choices *c = *state;
    tdn_timing_cache cache = {.arena = c->arena};
    add_ok(c, &misjudged, 0);
    tune(c, 60000, &cache);
    assert_int_equal(cache.n, N_VARIANTS);
    assert_true(cache.changed);
    cache.changed = false;
    memset(n_runs, 0, sizeof n_runs);
    const int64_t ns = c->items[0].candidates[0].ns;
    assert_int_equal(tune(c, 1, &cache).n_timed, 1);
    assert_int_equal(n_runs[0], 0);
    assert_int_equal(c->items[0].candidates[0].ns, ns);
    assert_true(c->items[0].candidates[3].refused);
    assert_false(cache.changed);
}

/* The budget is kept to, the costliest step comes first, and a build that may take no longer leaves
 * out the same steps. */
static void test_the_budget(void **state)
{
    tdn_choices *c = *state;
    tdn_timing_cache cache = {.arena = c->arena};
    const spec small = {{30000, 30000, 0, 0}, {100, 100, 0, 0}, {100, 100, 0, 0}, -1};
    const spec large = {{30000, 30000, 0, 0}, {9000, 9000, 0, 0}, {100, 100, 0, 0}, -1};
    for (int i = 0; i < 6; i++)
        add_ok(c, i == 3 ? &large : &small, i);
    const uint64_t begin = tdn_now_ns();
    const tdn_tune_result r = tune(c, 400, &cache);
    assert_true(tdn_now_ns() - begin < 3000000000);
    assert_true(r.n_timed < 6 && c->items[3].timed && !c->items[5].timed);
    cache.changed = false;
    memset(n_runs, 0, sizeof n_runs);
    assert_int_equal(tune(c, 400, &cache).n_timed, r.n_timed);
    assert_int_equal(n_runs[0], 0);
    assert_false(cache.changed);
    assert_int_equal(tune(c, 60000, &cache).n_timed, 6);
    assert_true(n_runs[0] > 0 && cache.changed);
}

static void test_other_threads_or_kernels_are_other_times(void **state)
{
    tdn_choices *c = *state;
    tdn_timing_cache cache = {.arena = c->arena};
    const spec s = {{20, 10, 0, 0}, {1000, 1000, 0, 0}, {100, 100, 0, 0}, -1};
    add_ok(c, &s, 0);
    tune(c, 60000, &cache);
    tdn_timing like = cache.items[0];
    like.cpu = strcmp(like.cpu, "other") ? "other" : "another";
    assert_null(tdn_timing_cache_find(&cache, &like));
    tdn_tune_options options = tune_options(60000, &cache);
    options.n_threads = 2;
    tdn_tune_result r;
    tdn_error error;
    assert_int_equal(tdn_tune(c, &options, &r, &error), TDN_OK);
    assert_int_equal(r.n_threads, 2);
    assert_int_equal(cache.n, 4);
}

/* ---- Failing allocations --------------------------------------------------------------------- */

typedef struct failing {
    long left; /* allocations until one fails */
    long n_live;
} failing;

static void *failing_alloc(void *user, size_t size, size_t align)
{
    failing *f = user;
    if (f->left-- <= 0)
        return NULL;
    f->n_live++;
    return aligned_alloc(align, tdn_round_up(size ? size : 1, align));
}

static void failing_free(void *user, void *memory)
{
    failing *f = user;
    f->n_live -= memory != NULL;
    free(memory);
}

static tdn_status try_all(const tdn_allocator *allocator)
{
    static const spec s = {{2, 1, 0, 0}, {1000, 1000, 0, 0}, {100, 200, 0, 0}, -1};
    tdn_error error;
    tdn_choices c = {.arena = tdn_arena_create(allocator)};
    tdn_timing_cache cache = {.arena = c.arena};
    tdn_tune_options options = tune_options(60000, &cache);
    tdn_tune_result r;
    options.allocator = allocator;
    options.n_threads = 2;
    tdn_status status = c.arena ? TDN_OK : TDN_E_NOMEM;
    for (int i = 0; i < 40 && status == TDN_OK; i++)
        status = add(&c, &s, i % 8, 100 + i * 1000, &error);
    status = status == TDN_OK ? tdn_tune(&c, &options, &r, &error) : status;
    status = status == TDN_OK ? tdn_choices_decide(&c, 2, &error) : status;
    tdn_arena_free(c.arena);
    return status;
}

static void test_failing_allocations(void **state)
{
    (void)state;
    tdn_status status = TDN_E_NOMEM;
    long n = 0;
    for (; status != TDN_OK && n < 1000; n++) {
        failing f = {n, 0};
        const tdn_allocator allocator = {failing_alloc, failing_free, &f};
        status = try_all(&allocator);
        assert_true(status == TDN_OK || status == TDN_E_NOMEM);
        assert_int_equal(f.n_live, 0);
    }
    assert_true(n > 5 && status == TDN_OK);
}

/* ---- The file -------------------------------------------------------------------------------- */

static const char good[] =
    "tendon timing cache 1\n"
    "# a comment\n"
    "time 81234 threads 2 variant 1 key 00000000000000ff kernel k_f32 shape 1x2>3 cpu A B, isa 7\n"
    "left 3000 threads 2 variant 0 key 0000000000000001 kernel k_f32 shape 1x2>3 cpu A B, isa 7\n";

static tdn_timing timing(uint64_t key, int32_t variant, int64_t ns)
{
    return (tdn_timing){.key = key,
                        .ns = ns,
                        .threads = 2,
                        .variant = variant,
                        .kernel = "k_f32",
                        .shape = "1x2>3",
                        .cpu = "A B, isa 7"};
}

static void test_the_file_is_read(void **state)
{
    tdn_choices *c = *state;
    tdn_timing_cache cache = {.arena = c->arena};
    tdn_error error;
    assert_int_equal(tdn_timing_cache_parse(&cache, good, sizeof good - 1, "f", &error), TDN_OK);
    assert_int_equal(cache.n, 2);
    assert_int_equal(cache.n_damaged, 0);
    tdn_timing like = timing(0xff, 1, 0);
    const tdn_timing *t = tdn_timing_cache_find(&cache, &like);
    assert_non_null(t);
    assert_int_equal(t->ns, 81234);
    assert_string_equal(t->shape, "1x2>3");
    like = timing(1, 0, 0);
    t = tdn_timing_cache_find(&cache, &like);
    assert_true(t && t->ns == 0 && t->budget_ms == 3000);
    assert_false(cache.changed);
}

static void test_damaged_lines_are_left_out(void **state)
{
    static const char *const lines[] = {
        "time 0 threads 2 variant 1 key ff kernel k shape s cpu A",
        "time -5 threads 2 variant 1 key ff kernel k shape s cpu A",
        "time 99999999999999999999 threads 2 variant 1 key ff kernel k shape s cpu A",
        "time 5 threads 99999999999 variant 1 key ff kernel k shape s cpu A",
        "time 5 threads 2 variant 1 key xyz kernel k shape s cpu A",
        "time 5 threads 2 variant 1 key ff kernel  shape s cpu A",
        "time 5 threads 2 variant 1 key ff kernel k shape s cpu ",
        "time 5 threads 2 variant 1 key ff kernel k shape s cpu \x01",
        "time 5 threads 2 variant 1 key ff kernel k shape s",
        "time 5",
        "soon",
        " ",
    };
    tdn_choices *c = *state;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        char text[1000];
        tdn_error error;
        tdn_timing_cache cache = {.arena = c->arena};
        const int n = snprintf(text, sizeof text, "tendon timing cache 1\n%s\n%s", lines[i],
                               strchr(good, '#'));
        assert_int_equal(tdn_timing_cache_parse(&cache, text, (size_t)n, "f", &error), TDN_OK);
        assert_int_equal(cache.n, 2);
        assert_int_equal(cache.n_damaged, 1);
    }
}

static void test_another_file_is_refused(void **state)
{
    tdn_choices *c = *state;
    tdn_timing_cache cache = {.arena = c->arena};
    tdn_error error;
    static const char *const texts[] = {"tendon timing cache 2\n", "tendon timing cache 11\n",
                                        "tendon timing", "\x08\x07 an onnx model", "\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_int_equal(
            tdn_timing_cache_parse(&cache, texts[i], strlen(texts[i]), "f.cache", &error),
            TDN_E_FORMAT);
        assert_non_null(strstr(error.text, "f.cache is no timing cache"));
    }
    assert_int_equal(tdn_timing_cache_parse(&cache, "", 0, "f", &error), TDN_OK);
}

/* Any bytes: no crash, no read beyond the end, and what is read is written as text again. */
static void test_flipped_bytes(void **state)
{
    tdn_choices *c = *state;
    uint64_t seed = 7;
    for (int turn = 0; turn < 3000; turn++) {
        const size_t size = sizeof good - 1 - (size_t)turn % 40;
        char *text = malloc(size);
        memcpy(text, good, size);
        for (int i = 0; i <= turn % 3; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[22 + (seed >> 33) % (size - 22)] = (char)(seed >> 20);
        }
        tdn_timing_cache cache = {.arena = c->arena};
        tdn_error error;
        assert_int_equal(tdn_timing_cache_parse(&cache, text, size, "f", &error), TDN_OK);
        assert_true(cache.n <= 3);
        for (size_t i = 0; i < cache.n; i++)
            for (const char *t = cache.items[i].cpu; *t; t++)
                assert_true(*t >= ' ' && *t <= '~');
        free(text);
    }
}

static char *read_all(const char *path)
{
    static char text[4096];
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

/* Ours, what another build has written meanwhile, and other machines' lines; sorted, so that the
 * order of builds does not show. */
static void test_the_file_is_merged(void **state)
{
    tdn_choices *c = *state;
    char path[] = "/tmp/tendon-cache-XXXXXX";
    tdn_error error;
    close(mkstemp(path));
    tdn_timing_cache a = {.arena = c->arena}, b = {.arena = c->arena}, all = {.arena = c->arena};
    tdn_timing foreign = timing(2, 0, 5);
    foreign.cpu = "another machine";
    const tdn_timing first[] = {timing(3, 0, 30), foreign}, second = timing(1, 0, 10);
    assert_true(tdn_timing_cache_put(&a, &first[0]) && tdn_timing_cache_put(&a, &first[1]));
    assert_true(tdn_timing_cache_put(&b, &second));
    assert_int_equal(tdn_timing_cache_write(&a, path, &error), TDN_OK);
    assert_int_equal(tdn_timing_cache_write(&b, path, &error), TDN_OK);
    assert_false(b.changed);
    assert_int_equal(tdn_timing_cache_read(&all, path, &error), TDN_OK);
    assert_int_equal(all.n, 3);
    assert_int_equal(all.items[0].ns, 10);
    assert_int_equal(all.items[1].ns, 5);
    assert_string_equal(all.items[1].cpu, "another machine");
    assert_int_equal(all.items[2].ns, 30);
    char *before = strdup(read_all(path));
    assert_int_equal(tdn_timing_cache_write(&a, path, &error), TDN_OK);
    assert_string_equal(before, read_all(path));
    free(before);
    unlink(path);
    assert_int_equal(tdn_timing_cache_read(&all, path, &error), TDN_OK); /* none: nothing */
    assert_int_equal(tdn_timing_cache_write(&a, "/nonexistent/f", &error), TDN_E_IO);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_bytes_go_where_they_save_most),
        TEST(test_it_begins_with_fewer_bytes),
        TEST(test_fewer_bytes_where_no_slower),
        TEST(test_shared_weights_count_once),
        TEST(test_shared_weights_in_two_forms),
        TEST(test_equals_and_the_refused_are_not_chosen),
        TEST(test_times_over_costs),
        TEST(test_a_step_that_no_variant_takes),
        TEST(test_the_fastest_is_found),
        TEST(test_equal_steps_are_timed_once),
        TEST(test_what_cannot_run_here_is_not_timed),
        TEST(test_times_come_from_the_cache),
        TEST(test_the_budget),
        TEST(test_other_threads_or_kernels_are_other_times),
        TEST(test_failing_allocations),
        TEST(test_the_file_is_read),
        TEST(test_damaged_lines_are_left_out),
        TEST(test_another_file_is_refused),
        TEST(test_flipped_bytes),
        TEST(test_the_file_is_merged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
