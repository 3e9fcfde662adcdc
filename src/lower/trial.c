/* SPDX-License-Identifier: Apache-2.0 */
/* Memory for trials, and the run of one. Zones grow to the largest step and are filled then, so
 * their pages are there before anything is timed. */
#include "lower/trial.h"

#include <string.h>

#include "base/clock.h"
#include "base/pool.h"
#include "base/status.h"
#include "base/expr.h"

enum {
    MAX_VIEWS = 2 * TDN_EXPR_MAX_IN + TDN_EXPR_MAX_OUT + 16,
    MAX_SPAN = 64 << 20, /* beyond it nothing is left in a cache either */
    SPIKES_ONE_IN = 10,
    WAKE_TILES = 64,
    WAKE_ROUNDS = 10000
};

size_t tdn_bench_span(size_t weights_size)
{
    size_t span = 1 << 16; /* powers of two: it is part of what a time is valid for */
    while (span < weights_size && span < MAX_SPAN)
        span *= 2;
    return span;
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Sums of four uniform numbers of 16 bits: close enough to normal, with deviation 1. */
static void fill_normal(float *to, size_t n)
{
    uint64_t s = 0x2545f4914f6cdd1du;
    for (size_t i = 0; i < n; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        const uint64_t x = s ^ (s >> 29);
        const int sum =
            (int)(x & 0xffff) + (int)(x >> 16 & 0xffff) + (int)(x >> 32 & 0xffff) + (int)(x >> 48);
        to[i] = ((float)sum - 131070.f) * (1.f / 37837.f);
    }
}

/* Ones here and there among zeros. */
static void fill_spikes(float *to, size_t n)
{
    uint64_t s = 0x2545f4914f6cdd1du;
    for (size_t i = 0; i < n; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        to[i] = (s >> 33) % SPIKES_ONE_IN == 0;
    }
}

/* Of any form: the halves of these floats are ordinary halves. */
static void fill_weights(float *to, size_t n)
{
    fill_normal(to, n);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &to[i], sizeof bits);
        bits = (bits & 0xffff0000u) | bits >> 16;
        memcpy(&to[i], &bits, sizeof bits);
    }
}

static void fill_zeros(float *to, size_t n) { memset(to, 0, n * sizeof *to); }

typedef void fill_fn(float *to, size_t n);

static bool grow(tdn_bench *b, tdn_zone *z, size_t size, fill_fn *fill)
{
    if (size <= z->size)
        return true;
    tdn_free(b->allocator, z->data);
    size = tdn_round_up(size, TDN_ALIGN);
    *z = (tdn_zone){tdn_alloc(b->allocator, size, TDN_ALIGN), size};
    if (!z->data) {
        z->size = 0;
        return false;
    }
    fill(z->data, size / sizeof(float));
    return true;
}

void tdn_bench_end(tdn_bench *b)
{
    tdn_zone *const zones[] = {&b->normals, &b->spikes,  &b->zeros,
                               &b->written, &b->weights, &b->scratch};
    for (size_t i = 0; i < sizeof zones / sizeof *zones; i++) {
        tdn_free(b->allocator, zones[i]->data);
        *zones[i] = (tdn_zone){0};
    }
}

/* ---- Operands -------------------------------------------------------------------------------- */

/* Bytes that a view covers, and those of them before element (0, 0, ...). False: out of range. */
static bool extent_of(const tdn_view *v, size_t *size, size_t *before)
{
    int64_t low = 0, high = 0;
    for (int i = 0; i < v->rank; i++) {
        int64_t reach;
        if (v->dims[i] < 1 || __builtin_mul_overflow(v->dims[i] - 1, v->strides[i], &reach) ||
            reach > INT64_MAX / 16 || reach < -(INT64_MAX / 16))
            return false;
        *(reach < 0 ? &low : &high) += reach;
    }
    if (high - low > PTRDIFF_MAX / 16)
        return false;
    *size = tdn_dtype_size(v->dtype, (size_t)(high - low + 1));
    *before = tdn_dtype_size(v->dtype, (size_t)-low);
    return true;
}

typedef struct operands {
    tdn_view views[MAX_VIEWS];
    size_t normals, spikes, zeros, written; /* bytes used */
} operands;

static uint8_t *take(const tdn_zone *z, size_t *used, size_t size)
{
    uint8_t *at = z->data ? (uint8_t *)z->data + *used : NULL;
    *used += tdn_round_up(size, TDN_ALIGN);
    return at;
}

/* Places the views in the zones; where these are not there yet, it counts what they need. */
static bool place(const tdn_bench *b, const tdn_choice *s, const tdn_candidate *k, operands *o)
{
    o->normals = o->spikes = o->zeros = o->written = 0;
    if (s->n_in + s->n_out > MAX_VIEWS)
        return false;
    for (int32_t i = 0; i < s->n_in + s->n_out; i++) {
        tdn_view *v = &o->views[i];
        *v = s->views[i];
        if (i == k->packed_input) {
            const int64_t size = (int64_t)k->packed_size;
            uint8_t *at = b->weights.data;
            *v = tdn_view_make(at ? at + b->next : NULL, TDN_U8, 1, &size);
            continue;
        }
        size_t size, before;
        if (v->dtype == TDN_DTYPE_NONE)
            continue;
        if (!extent_of(v, &size, &before))
            return false;
        uint8_t *at = i >= s->n_in             ? take(&b->written, &o->written, size)
                      : v->dtype != TDN_F32    ? take(&b->zeros, &o->zeros, size)
                      : i == 0 && s->is_sparse ? take(&b->spikes, &o->spikes, size)
                                               : take(&b->normals, &o->normals, size);
        v->data = at ? at + before : NULL;
    }
    return true;
}

static tdn_status check(const tdn_choice *s, const tdn_candidate *k, const operands *o,
                        tdn_work *work, tdn_error *error)
{
    *work = (tdn_work){0};
    return s->family->check(k->kernel, k->args, k->args_size, o->views, s->n_in, o->views + s->n_in,
                            s->n_out, work, error);
}

/* Room for the operands of one candidate, then, since only `check` knows it, for its scratch. */
static bool make_room(tdn_bench *b, const tdn_choice *s, const tdn_candidate *k, bool *can_run)
{
    operands o;
    tdn_work work;
    tdn_error own;
    size_t weights, scratch;
    *can_run = k->kernel->run && place(b, s, k, &o);
    if (!*can_run)
        return true;
    if (!tdn_size_add(b->span, k->packed_size, &weights) ||
        !grow(b, &b->normals, o.normals, fill_normal) ||
        !grow(b, &b->spikes, o.spikes, fill_spikes) || !grow(b, &b->zeros, o.zeros, fill_zeros) ||
        !grow(b, &b->written, o.written, fill_zeros) ||
        !grow(b, &b->weights, weights, fill_weights))
        return false;
    place(b, s, k, &o);
    *can_run = check(s, k, &o, &work, &own) == TDN_OK;
    return !*can_run || (tdn_size_mul(tdn_round_up(work.scratch_size, TDN_ALIGN),
                                      (size_t)b->n_threads, &scratch) &&
                         grow(b, &b->scratch, scratch, fill_zeros));
}

tdn_status tdn_bench_prepare(tdn_bench *b, tdn_choice *s, bool *can_run, tdn_error *error)
{
    b->next = 0;
    for (int32_t i = s->n_candidates - 1; i >= 0; i--) { /* variant 0 last: *can_run is its */
        tdn_candidate *k = &s->candidates[i];
        if (!make_room(b, s, k, can_run))
            return tdn_fail_nomem(error, "timing kernels");
        k->refused = !*can_run && i > 0;
    }
    return TDN_OK;
}

/* ---- Runs ------------------------------------------------------------------------------------ */

typedef struct run {
    const tdn_kernel *kernel;
    tdn_call call;
    uint8_t *scratch;
    size_t stride;
} run;

static void run_tile(void *user, size_t tile, int thread)
{
    const run *r = user;
    tdn_call call = r->call;
    call.scratch = r->scratch + (size_t)thread * r->stride;
    r->kernel->run(&call, tile);
}

int64_t tdn_bench_run(tdn_bench *b, const tdn_choice *s, const tdn_candidate *k)
{
    operands o;
    tdn_work work;
    tdn_error own;
    const size_t size = tdn_round_up(k->packed_size, TDN_ALIGN);
    b->next = b->next + size <= b->span ? b->next : 0;
    if (!place(b, s, k, &o) || check(s, k, &o, &work, &own) != TDN_OK)
        return INT64_MAX; /* it was prepared: not reached */
    run r = {.kernel = k->kernel,
             .call = {.args = k->args,
                      .in = o.views,
                      .out = o.views + s->n_in,
                      .n_in = s->n_in,
                      .n_out = s->n_out},
             .scratch = b->scratch.data,
             .stride = tdn_round_up(work.scratch_size, TDN_ALIGN)};
    const uint64_t begin = tdn_now_ns();
    tdn_pool_for(b->pool, work.n_tiles, run_tile, &r);
    const int64_t ns = (int64_t)(tdn_now_ns() - begin);
    b->next += size;
    return ns > 0 ? ns : 1;
}

static void spin(void *user, size_t tile, int thread)
{
    (void)user;
    (void)thread;
    for (volatile size_t i = tile; i < tile + WAKE_ROUNDS; i++)
        ;
}

void tdn_bench_wake(tdn_bench *b) { tdn_pool_for(b->pool, WAKE_TILES, spin, NULL); }
