/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The step loop: what happens between the caller's tdn_context_run and its return. It walks the
 * steps of the bound program; each is done tile by tile, by the pool's threads or by this one, with
 * a barrier between steps.
 *
 * Nothing here allocates, locks or calls the system; the pool wakes its workers. Tiles and parts
 * are fixed when the engine is loaded, and where several parts of a step fail the lowest one's
 * words are kept, so results and errors depend neither on the number of threads nor on timing.
 */
#include <limits.h>
#include <string.h>

#include "base/clock.h"
#include "runtime/runtime.h"

/* One step on its way: what a tile needs besides its number. */
typedef struct job {
    tdn_context *c;
    tdn_pool *pool; /* acquired for this run, or NULL */
    const tdn_engine_program *program;
    uint32_t program_index;
} job;

/* ---- Kernels --------------------------------------------------------------------------------- */

typedef struct kernel_job {
    void (*run)(const tdn_call *call, size_t tile);
    tdn_call call;
    uint8_t *scratch;
    size_t scratch_stride;
} kernel_job;

static void kernel_tile(void *user, size_t tile, int thread)
{
    const kernel_job *k = user;
    tdn_call call = k->call;
    call.scratch = k->scratch + (size_t)thread * k->scratch_stride;
    k->run(&call, tile);
}

static tdn_status run_kernel(const job *j, const tdn_engine_step *s, tdn_view *views)
{
    const tdn_plan_step *p = s->plan;
    kernel_job k = {
        .run = s->kernel->run,
        .call = {.args = p->args,
                 .in = views,
                 .out = views + p->n_in,
                 .n_in = (int)p->n_in,
                 .n_out = (int)p->n_out},
        .scratch = j->c->scratch,
        .scratch_stride = j->c->scratch_stride,
    };
    tdn_pool_for(j->pool, s->n_tiles, kernel_tile, &k);
    return TDN_OK;
}

/* ---- References ------------------------------------------------------------------------------ */

typedef struct reference_job {
    const tdn_ref_def *ref;
    tdn_ref_call call;
    tdn_context *c;
} reference_job;

static void reference_part(void *user, size_t part, int thread)
{
    const reference_job *r = user;
    tdn_failure *failure = &r->c->failures[thread];
    tdn_ref_call call = r->call;
    call.part = (int)part;
    call.scratch = r->c->scratch + (size_t)thread * r->c->scratch_stride;
    call.error = &failure->now;
    failure->now.text[0] = '\0';
    const tdn_status status = r->ref->run(&call);
    if (status == TDN_OK || call.part > failure->part)
        return;
    failure->part = call.part;
    failure->status = status;
    failure->kept = failure->now;
}

/* The failure of the lowest part, whichever thread did it. */
static tdn_status first_failure(tdn_context *c)
{
    const tdn_failure *first = &c->failures[0];
    for (int i = 1; i < c->n_threads; i++)
        if (c->failures[i].part < first->part)
            first = &c->failures[i];
    if (first->part == INT_MAX)
        return TDN_OK;
    c->error = first->kept;
    return first->status;
}

static tdn_status run_parts(const job *j, const tdn_engine_step *s, tdn_view *views)
{
    tdn_context *c = j->c;
    for (int i = 0; i < c->n_threads; i++)
        c->failures[i].part = INT_MAX;
    reference_job r = {
        .ref = s->ref,
        .call =
            {
                .in = views,
                .n_in = (int)s->plan->n_in,
                .out = views + s->plan->n_in,
                .n_out = (int)s->plan->n_out,
                .attrs = &s->plan->attrs,
                .expr = s->plan->expr,
                .n_parts = (int)s->n_tiles,
                .row = s->ref,
            },
        .c = c,
    };
    tdn_pool_for(j->pool, s->n_tiles, reference_part, &r);
    return first_failure(c);
}

/* ---- Extents that are known only now --------------------------------------------------------- */

static void reset_extents(tdn_context *c, const tdn_engine_program *p)
{
    for (uint32_t i = 0; i < p->n_open; i++)
        memcpy(c->extents[i].dims, p->open_operands[i]->dims, sizeof c->extents[i].dims);
}

/* Gives an input the extents of the last write to its buffer. */
static void shrink(tdn_view *view, const tdn_extents *extents)
{
    int64_t stride = 1;
    for (int i = view->rank - 1; i >= 0; i--) {
        view->dims[i] = extents->dims[i];
        view->strides[i] = stride;
        stride *= extents->dims[i] > 0 ? extents->dims[i] : 1;
    }
}

/* Keeps what a step wrote into an output's dims; a reference that says more than the bounds is a
 * defect. */
static tdn_status record_extents(tdn_context *c, const tdn_plan_operand *o, const tdn_view *view,
                                 tdn_extents *extents)
{
    for (int i = 0; i < o->rank; i++) {
        const bool open = (o->bounded >> i & 1) != 0;
        if (view->dims[i] < 0 || view->dims[i] > o->dims[i] ||
            (!open && view->dims[i] != o->dims[i]))
            return tdn_fail(&c->error, TDN_E_INTERNAL, "axis %d came out with extent %lld of %lld",
                            i, (long long)view->dims[i], (long long)o->dims[i]);
        extents->dims[i] = view->dims[i];
    }
    return TDN_OK;
}

static tdn_status run_open(const job *j, const tdn_engine_step *s, const tdn_view *views)
{
    tdn_context *c = j->c;
    const tdn_plan_step *p = s->plan;
    const uint32_t n = p->n_in + p->n_out;
    memcpy(c->open_views, views, n * sizeof *views);
    for (uint32_t i = 0; i < p->n_in; i++)
        if (p->operands[i].bounded)
            shrink(&c->open_views[i], &c->extents[j->program->open_buffers[p->operands[i].buffer]]);
    TDN_TRY(run_parts(j, s, c->open_views));
    for (uint32_t i = p->n_in; i < n; i++) {
        const tdn_plan_operand *o = &p->operands[i];
        if (o->bounded)
            TDN_TRY(record_extents(c, o, &c->open_views[i],
                                   &c->extents[j->program->open_buffers[o->buffer]]));
    }
    return TDN_OK;
}

/* A write of known extents to a buffer that others write with open ones. */
static void close_extents(const job *j, const tdn_plan_step *p)
{
    for (uint32_t i = p->n_in; i < p->n_in + p->n_out; i++) {
        const tdn_plan_operand *o = &p->operands[i];
        const uint32_t open = o->buffer == UINT32_MAX || o->bounded
                                  ? UINT32_MAX
                                  : j->program->open_buffers[o->buffer];
        if (open != UINT32_MAX)
            memcpy(j->c->extents[open].dims, j->program->open_operands[open]->dims,
                   sizeof j->c->extents[open].dims);
    }
}

/* ---- Taps ------------------------------------------------------------------------------------ */

static void call_tap(const job *j, uint32_t step)
{
    const tdn_context *c = j->c;
    const tdn_engine_program *p = j->program;
    for (uint32_t i = p->first_value[step]; i < p->first_value[step + 1]; i++) {
        const tdn_plan_value *v = &p->plan->values[i];
        tdn_view view = tdn_operand_view(c->engine->plan, p->plan, &v->view);
        const uint32_t open = v->view.bounded ? p->open_buffers[v->view.buffer] : UINT32_MAX;
        if (open != UINT32_MAX)
            shrink(&view, &c->extents[open]);
        tdn_tap tap = {
            .struct_size = sizeof tap,
            .name = v->name,
            .step = (int32_t)step,
            .dtype = view.dtype,
            .rank = view.rank,
            .data = tdn_context_buffer(c, j->program_index, v->view.buffer) + v->view.offset,
        };
        memcpy(tap.dims, view.dims, sizeof tap.dims);
        memcpy(tap.strides, view.strides, sizeof tap.strides);
        c->tap(c->tap_user, &tap);
    }
}

/* ---- Steps ----------------------------------------------------------------------------------- */

static tdn_status run_range(const job *j, uint32_t from, uint32_t to);

static tdn_status count_step(tdn_context *c)
{
    if (c->steps_left-- > 0)
        return TDN_OK;
    c->steps_left = 0;
    return tdn_fail(&c->error, TDN_E_MODEL, "more than %llu steps in one run: a loop does not end",
                    (unsigned long long)c->step_limit);
}

static tdn_status run_branch(const job *j, uint32_t at, const tdn_view *views)
{
    const tdn_plan_step *p = &j->program->plan->steps[at];
    const uint32_t then_end = at + 1 + p->n_then;
    return *(const uint8_t *)views[0].data ? run_range(j, at + 1, then_end)
                                           : run_range(j, then_end, then_end + p->n_else);
}

static tdn_status run_loop(const job *j, uint32_t at, const tdn_view *views)
{
    const tdn_plan_step *p = &j->program->plan->steps[at];
    const int64_t *trips = views[0].data;
    const uint8_t *condition = views[1].data;
    int64_t *number = p->n_out > 0 ? views[2].data : NULL;
    const int64_t n = trips ? *trips : INT64_MAX; /* once: the body may use the place again */
    for (int64_t i = 0; i < n && (!condition || *condition); i++) {
        if (number)
            *number = i;
        TDN_TRY(count_step(j->c));
        TDN_TRY(run_range(j, at + 1, at + 1 + p->n_then));
    }
    return TDN_OK;
}

static tdn_status run_step(const job *j, uint32_t at)
{
    const tdn_engine_step *s = &j->program->steps[at];
    tdn_view *views = j->c->views[j->program_index] + s->first_view;
    switch (s->plan->kind) {
    case TDN_STEP_KERNEL: run_kernel(j, s, views); break;
    case TDN_STEP_REFERENCE:
        TDN_TRY(s->open ? run_open(j, s, views) : run_parts(j, s, views));
        break;
    case TDN_STEP_BRANCH: return run_branch(j, at, views);
    default: return run_loop(j, at, views);
    }
    if (j->program->n_open > 0)
        close_extents(j, s->plan);
    return TDN_OK;
}

static void add_time(tdn_step_times *t, uint64_t ns)
{
    t->min = t->n == 0 || ns < t->min ? ns : t->min;
    t->max = ns > t->max ? ns : t->max;
    t->total += ns;
    t->n++;
}

/* The next step at the same level: loops and branches own the steps behind them. */
static uint32_t next_step(const tdn_plan_step *p, uint32_t at)
{
    return at + 1 + p->n_then + p->n_else;
}

static tdn_status run_range(const job *j, uint32_t from, uint32_t to)
{
    tdn_context *c = j->c;
    const tdn_plan_step *steps = j->program->plan->steps;
    for (uint32_t at = from; at < to; at = next_step(&steps[at], at)) {
        TDN_TRY(count_step(c));
        const uint64_t begin = c->times ? tdn_now_ns() : 0, before = c->inside_ns;
        const tdn_status status = run_step(j, at);
        if (status != TDN_OK) {
            if (steps[at].kind == TDN_STEP_KERNEL || steps[at].kind == TDN_STEP_REFERENCE)
                tdn_fail_while(&c->error, status, "running step %u '%s'", at, steps[at].name);
            return status;
        }
        if (c->times) {
            const uint64_t ns = tdn_now_ns() - begin;
            add_time(&c->times[j->program_index][at], ns - (c->inside_ns - before));
            c->inside_ns = before + ns;
        }
        if (c->tap)
            call_tap(j, at);
    }
    return TDN_OK;
}

/* ---- Staging --------------------------------------------------------------------------------- */

/* The bytes of a tensor as rows: each holds what lies behind one index of the axes before the batch
 * axis. */
typedef struct rows {
    size_t n, size; /* of the program's tensor */
    size_t used;    /* of the caller's, at the begin of each row */
} rows;

static rows rows_of(const tdn_plan_io *io, int64_t batch)
{
    rows r = {.n = 1, .size = tdn_dtype_size(io->dtype, 1)};
    for (int i = 0; i < io->batch_axis; i++)
        r.n *= (size_t)io->dims[i];
    for (int i = io->batch_axis + 1; i < io->rank; i++)
        r.size *= (size_t)io->dims[i];
    r.used = r.size * (size_t)batch;
    r.size *= (size_t)io->dims[io->batch_axis];
    return r;
}

static void stage_inputs(const job *j)
{
    const tdn_context *c = j->c;
    for (uint32_t io = 0; io < c->engine->plan->n_inputs; io++) {
        const tdn_plan_io *info = &j->program->plan->inputs[io];
        if (info->batch_axis < 0)
            continue;
        const rows r = rows_of(info, c->batch);
        uint8_t *to = tdn_context_staging(c, j->program_index, io);
        const uint8_t *from = c->bound[io].data;
        for (size_t i = 0; i < r.n && r.size > 0; i++, to += r.size, from += r.used) {
            memcpy(to, from, r.used);
            memset(to + r.used, 0, r.size - r.used);
        }
    }
}

static void unstage_outputs(const job *j)
{
    const tdn_context *c = j->c;
    const uint32_t n_inputs = c->engine->plan->n_inputs;
    for (uint32_t i = 0; i < c->engine->plan->n_outputs; i++) {
        const tdn_plan_io *info = &j->program->plan->outputs[i];
        if (info->batch_axis < 0)
            continue;
        const rows r = rows_of(info, c->batch);
        const uint8_t *from = tdn_context_staging(c, j->program_index, n_inputs + i);
        uint8_t *to = c->bound[n_inputs + i].data;
        for (size_t k = 0; k < r.n && r.size > 0; k++, to += r.used, from += r.size)
            memcpy(to, from, r.used);
    }
}

/* ---- A run ----------------------------------------------------------------------------------- */

static tdn_status check_bound(tdn_context *c)
{
    for (uint32_t io = 0; io < c->engine->n_io; io++)
        if (!c->is_bound[io])
            return tdn_fail(&c->error, TDN_E_ARG, "%s '%.200s' is not bound",
                            io < c->engine->plan->n_inputs ? "input" : "output",
                            tdn_io_name(c->engine, io));
    return TDN_OK;
}

tdn_status tdn_context_run(tdn_context *c)
{
    TDN_TRY(check_bound(c));
    if (c->stale)
        tdn_context_apply(c);
    job j = {
        .c = c,
        .program = &c->engine->programs[c->program],
        .program_index = (uint32_t)c->program,
    };
    if (c->staged)
        stage_inputs(&j);
    reset_extents(c, j.program);
    c->steps_left = c->step_limit;
    j.pool = tdn_pool_acquire(c->pool) ? c->pool : NULL;
    const tdn_status status = run_range(&j, 0, j.program->plan->n_steps);
    if (j.pool)
        tdn_pool_release(j.pool);
    if (status == TDN_OK && c->staged)
        unstage_outputs(&j);
    return status;
}
