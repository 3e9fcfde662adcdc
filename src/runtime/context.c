/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The context: all memory that a run touches, and the tensors that the caller bound.
 *
 * Memory is one arena for activations (of the program that needs most), the states, a scratch a
 * thread, and a staging area for tensors that are shorter than a program along its batch axis. All
 * of it is allocated and touched at creation: a run then takes no page fault, and never reads what
 * nobody wrote.
 *
 * A bound tensor is used where it lies: its address goes into the views that look into that input
 * or output.
 */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "runtime/runtime.h"

/* ---- Addresses ------------------------------------------------------------------------------- */

uint8_t *tdn_context_staging(const tdn_context *c, uint32_t program, uint32_t io)
{
    const tdn_plan_program *p = c->engine->programs[program].plan;
    size_t at = 0;
    for (uint32_t i = 0; i < io; i++) {
        const tdn_plan_io *info = tdn_program_io(c->engine, p, i);
        if (info->batch_axis >= 0)
            at += tdn_round_up(p->buffers[info->buffer].size, TDN_ALIGN);
    }
    return c->staging + at;
}

/* Where input or output `io` of the bound program lies. */
static uint8_t *io_address(const tdn_context *c, uint32_t io)
{
    const tdn_plan_program *p = c->engine->programs[c->program].plan;
    if (c->staged && tdn_program_io(c->engine, p, io)->batch_axis >= 0)
        return tdn_context_staging(c, (uint32_t)c->program, io);
    return c->is_bound[io] ? c->bound[io].data : NULL;
}

uint8_t *tdn_context_buffer(const tdn_context *c, uint32_t program, uint32_t buffer)
{
    const tdn_engine *e = c->engine;
    const tdn_engine_program *p = &e->programs[program];
    const tdn_plan_buffer *b = &p->plan->buffers[buffer];
    switch (b->cls) {
    case TDN_BUFFER_WEIGHT: return (uint8_t *)(uintptr_t)e->plan->blobs[b->index].data;
    case TDN_BUFFER_ARENA: return c->arena + b->offset;
    case TDN_BUFFER_STATE: return c->states + p->state_offset + b->offset;
    case TDN_BUFFER_INPUT: return io_address(c, b->index);
    default: return io_address(c, e->plan->n_inputs + b->index);
    }
}

static void patch_io(tdn_context *c, uint32_t io)
{
    const tdn_engine_program *p = &c->engine->programs[c->program];
    tdn_view *views = c->views[c->program];
    uint8_t *base = io_address(c, io);
    for (uint32_t i = p->io_fixups[io]; i < p->io_fixups[io + 1]; i++)
        views[p->fixups[i].view].data = base + p->fixups[i].offset;
}

void tdn_context_apply(tdn_context *c)
{
    for (uint32_t io = 0; io < c->engine->n_io; io++)
        patch_io(c, io);
    c->stale = false;
}

/* The addresses that never change: weights came with the template, arena and states are ours. */
static void place_views(tdn_context *c, uint32_t program)
{
    const tdn_engine_program *p = &c->engine->programs[program];
    if (p->n_views > 0)
        memcpy(c->views[program], p->views, p->n_views * sizeof *p->views);
    for (uint32_t s = 0; s < p->plan->n_steps; s++) {
        const tdn_plan_step *step = &p->plan->steps[s];
        for (uint32_t i = 0; i < step->n_in + step->n_out; i++) {
            const tdn_plan_operand *o = &step->operands[i];
            if (o->buffer == UINT32_MAX)
                continue;
            const tdn_buffer_class cls = p->plan->buffers[o->buffer].cls;
            if (cls == TDN_BUFFER_ARENA || cls == TDN_BUFFER_STATE)
                c->views[program][p->steps[s].first_view + i].data =
                    tdn_context_buffer(c, program, o->buffer) + o->offset;
        }
    }
}

/* ---- Life ------------------------------------------------------------------------------------ */

/* A plan may claim any size; the system would hand out more than it has and end the process when it
 * is touched. */
static tdn_status check_memory(const tdn_engine *e, int n_threads, size_t scratch_stride,
                               tdn_error *error)
{
    size_t scratch = 0, all = e->arena_size;
    const bool fits = tdn_size_mul(scratch_stride, (size_t)n_threads, &scratch) &&
                      tdn_size_add(all, scratch, &all) && tdn_size_add(all, e->state_size, &all) &&
                      tdn_size_add(all, e->staging_size, &all);
    const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (fits && (pages <= 0 || page <= 0 || all / (size_t)page < (size_t)pages))
        return TDN_OK;
    return tdn_fail(error, TDN_E_NOMEM, "out of memory for a context: the plan asks for %.1f GB",
                    (double)all / 1e9);
}

static bool allocate_areas(tdn_context *c)
{
    const tdn_engine *e = c->engine;
    const tdn_allocator *a = &e->allocator;
    c->arena = tdn_alloc_zero(a, e->arena_size, TDN_ALIGN);
    c->states = tdn_alloc_zero(a, e->state_size, TDN_ALIGN);
    c->staging = tdn_alloc_zero(a, e->staging_size, TDN_ALIGN);
    c->scratch = tdn_alloc_zero(a, c->scratch_stride * (size_t)c->n_threads, TDN_ALIGN);
    return c->arena && c->states && c->staging && c->scratch;
}

static bool allocate_times(tdn_context *c)
{
    const tdn_engine *e = c->engine;
    c->times = tdn_arena_alloc(c->memory, e->plan->n_programs, sizeof *c->times);
    for (uint32_t i = 0; c->times && i < e->plan->n_programs; i++) {
        c->times[i] = tdn_arena_alloc(c->memory, e->programs[i].plan->n_steps, sizeof **c->times);
        if (!c->times[i])
            return false;
    }
    return c->times != NULL;
}

static bool allocate_lists(tdn_context *c)
{
    const tdn_engine *e = c->engine;
    c->bound = tdn_arena_alloc(c->memory, e->n_io, sizeof *c->bound);
    c->is_bound = tdn_arena_alloc(c->memory, e->n_io, sizeof *c->is_bound);
    c->extents = tdn_arena_alloc(c->memory, e->max_open, sizeof *c->extents);
    c->open_views = tdn_arena_alloc(c->memory, e->max_open_views, sizeof *c->open_views);
    c->failures = tdn_arena_alloc(c->memory, (size_t)c->n_threads, sizeof *c->failures);
    c->views = tdn_arena_alloc(c->memory, e->plan->n_programs, sizeof *c->views);
    if (!c->bound || !c->is_bound || !c->extents || !c->open_views || !c->failures || !c->views)
        return false;
    for (uint32_t i = 0; i < e->plan->n_programs; i++) {
        c->views[i] = tdn_arena_alloc(c->memory, e->programs[i].n_views, sizeof **c->views);
        if (!c->views[i])
            return false;
    }
    return true;
}

static tdn_status read_options(tdn_context_options *out, const tdn_context_options *options,
                               tdn_error *error)
{
    *out = (tdn_context_options)TDN_CONTEXT_OPTIONS_INIT;
    if (!options)
        return TDN_OK;
    if (options->struct_size < sizeof options->struct_size)
        return tdn_fail(error, TDN_E_ARG,
                        "tdn_context_options is not initialised: struct_size is %u",
                        options->struct_size);
    memcpy(out, options, options->struct_size < sizeof *out ? options->struct_size : sizeof *out);
    return TDN_OK;
}

tdn_status tdn_context_create(tdn_context **context, tdn_engine *engine,
                              const tdn_context_options *options, tdn_error *error)
{
    if (!context || !engine)
        return tdn_fail(error, TDN_E_ARG, "no engine, or no place for the context");
    *context = NULL;
    tdn_context_options o;
    TDN_TRY(read_options(&o, options, error));
    const int n_threads = tdn_pool_threads(o.pool);
    const size_t scratch_stride = tdn_round_up(engine->scratch_size, TDN_ALIGN);
    TDN_TRY(check_memory(engine, n_threads, scratch_stride, error));
    tdn_arena *memory = tdn_arena_create(&engine->allocator);
    tdn_context *c = memory ? tdn_arena_alloc(memory, 1, sizeof *c) : NULL;
    if (!c) {
        tdn_arena_free(memory);
        return tdn_fail_nomem(error, "a context");
    }
    c->engine = engine;
    c->memory = memory;
    c->pool = o.pool;
    c->n_threads = n_threads;
    c->scratch_stride = scratch_stride;
    c->step_limit = TDN_STEP_LIMIT;
    if (!allocate_lists(c) || !allocate_areas(c) || (o.profile && !allocate_times(c))) {
        tdn_context_free(c);
        return tdn_fail_nomem(error, "a context");
    }
    for (uint32_t i = 0; i < engine->plan->n_programs; i++)
        place_views(c, i);
    tdn_context_unbind(c);
    tdn_context_reset(c);
    *context = c;
    return TDN_OK;
}

void tdn_context_free(tdn_context *c)
{
    if (!c)
        return;
    const tdn_allocator *a = &c->engine->allocator;
    tdn_free(a, c->arena);
    tdn_free(a, c->states);
    tdn_free(a, c->staging);
    tdn_free(a, c->scratch);
    tdn_arena_free(c->memory); /* the context lies in it */
}

void tdn_context_reset(tdn_context *c)
{
    const tdn_engine *e = c->engine;
    for (uint32_t k = 0; k < e->plan->n_programs; k++) {
        const tdn_engine_program *p = &e->programs[k];
        for (uint32_t i = 0; i < p->plan->n_buffers; i++) {
            const tdn_plan_buffer *b = &p->plan->buffers[i];
            if (b->cls != TDN_BUFFER_STATE || b->size == 0)
                continue;
            uint8_t *state = c->states + p->state_offset + b->offset;
            if (b->index == UINT32_MAX)
                memset(state, 0, b->size);
            else
                memcpy(state, e->plan->blobs[b->index].data, b->size);
        }
    }
}

/* ---- Binding --------------------------------------------------------------------------------- */

static tdn_status fail_text(tdn_context *c, tdn_status status, const char *name, const char *what)
{
    return tdn_fail(&c->error, status, "'%.200s': %s", name, what);
}

static int find_io(const tdn_engine *e, const char *name)
{
    for (uint32_t io = 0; io < e->n_io; io++)
        if (strcmp(tdn_io_name(e, io), name) == 0)
            return (int)io;
    return -1;
}

/* Does the tensor fit the program? *exact is cleared where it is shorter; *batch is the extent they
 * must agree on. */
static bool fits(const tdn_plan_io *io, const tdn_tensor *t, int64_t *batch, bool *exact)
{
    if (t->rank != io->rank)
        return false;
    for (int i = 0; i < io->rank; i++) {
        if (i != io->batch_axis) {
            if (t->dims[i] != io->dims[i])
                return false;
            continue;
        }
        if (t->dims[i] < 1 || t->dims[i] > io->dims[i] || (*batch >= 0 && *batch != t->dims[i]))
            return false;
        *batch = t->dims[i];
        *exact = *exact && t->dims[i] == io->dims[i];
    }
    return true;
}

static bool program_fits(const tdn_context *c, uint32_t program, int64_t *batch, bool *exact)
{
    const tdn_plan_program *p = c->engine->programs[program].plan;
    *batch = -1;
    *exact = true;
    for (uint32_t io = 0; io < c->engine->n_io; io++)
        if (c->is_bound[io] && !fits(tdn_program_io(c->engine, p, io), &c->bound[io], batch, exact))
            return false;
    return true;
}

/* The first program that all bound tensors fill; else the first, which is the smallest, that holds
 * them. */
static bool choose_program(tdn_context *c)
{
    int first = -1;
    int64_t batch, first_batch = -1;
    bool exact;
    for (uint32_t i = 0; i < c->engine->plan->n_programs; i++) {
        if (!program_fits(c, i, &batch, &exact) || (first >= 0 && !exact))
            continue;
        first = (int)i;
        first_batch = batch;
        if (exact)
            break;
    }
    if (first < 0)
        return false;
    program_fits(c, (uint32_t)first, &batch, &exact);
    c->program = first;
    c->batch = first_batch;
    c->staged = !exact;
    c->stale = true;
    return true;
}

static size_t print_dims(char *text, size_t size, int rank, const int64_t *dims, int batch_axis)
{
    size_t used = 0;
    text[0] = '\0';
    for (int i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%s%lld", i ? "x" : "",
                                 i == batch_axis ? "1.." : "", (long long)dims[i]);
    if (rank == 0)
        used = (size_t)snprintf(text, size, "a scalar");
    return used < size ? used : size - 1;
}

static tdn_status fail_shape(tdn_context *c, uint32_t io, const tdn_tensor *t)
{
    const tdn_engine *e = c->engine;
    char given[160], have[1024] = "";
    print_dims(given, sizeof given, t->rank, t->dims, -1);
    size_t used = 0;
    for (uint32_t i = 0; i < e->plan->n_programs && used + 200 < sizeof have; i++) {
        const tdn_plan_io *info = tdn_program_io(e, e->programs[i].plan, io);
        if (i > 0)
            used += (size_t)snprintf(have + used, sizeof have - used, ", ");
        used +=
            print_dims(have + used, sizeof have - used, info->rank, info->dims, info->batch_axis);
    }
    bool others = false;
    for (uint32_t i = 0; i < e->n_io; i++)
        others = others || (i != io && c->is_bound[i]);
    return tdn_fail(&c->error, TDN_E_SHAPE,
                    "no program of the plan takes '%.200s' as %s%s; it has %s", tdn_io_name(e, io),
                    given, others ? " together with the other bound tensors" : "", have);
}

static tdn_status check_tensor(tdn_context *c, uint32_t io, const tdn_tensor *t)
{
    const char *name = tdn_io_name(c->engine, io);
    const tdn_dtype dtype = tdn_program_io(c->engine, c->engine->programs[0].plan, io)->dtype;
    if (t->struct_size < sizeof *t)
        return fail_text(c, TDN_E_ARG, name, "the tensor is not initialised (struct_size)");
    if (t->dtype != dtype)
        return tdn_fail(&c->error, TDN_E_ARG, "'%.200s' is %s, not %s", name, tdn_dtype_name(dtype),
                        tdn_dtype_name(t->dtype));
    if (t->memory != TDN_MEMORY_HOST)
        return fail_text(c, TDN_E_ARG, name, "device memory, but this engine runs on the host");
    if (!t->data)
        return fail_text(c, TDN_E_ARG, name, "no data");
    if ((uintptr_t)t->data % tdn_dtype_size(dtype, 1) != 0)
        return fail_text(c, TDN_E_ARG, name, "the data is not aligned to its elements");
    if (t->rank < 0 || t->rank > TDN_MAX_RANK)
        return tdn_fail(&c->error, TDN_E_ARG, "'%.200s': rank %d is not in 0..%d", name, t->rank,
                        TDN_MAX_RANK);
    return TDN_OK;
}

/* Another address for what is bound already: the usual call in a loop, and all it costs is the
 * fix-ups. */
static bool rebind(tdn_context *c, uint32_t io, const tdn_tensor *t)
{
    if (!c->is_bound[io] || c->bound[io].rank != t->rank ||
        memcmp(c->bound[io].dims, t->dims, (size_t)t->rank * sizeof t->dims[0]) != 0)
        return false;
    c->bound[io].data = t->data;
    if (!c->stale)
        patch_io(c, io);
    return true;
}

tdn_status tdn_context_bind(tdn_context *c, const char *name, const tdn_tensor *tensor)
{
    if (!name || !tensor)
        return tdn_fail(&c->error, TDN_E_ARG, "no name or no tensor to bind");
    const int found = find_io(c->engine, name);
    if (found < 0)
        return fail_text(c, TDN_E_ARG, name, "the plan has no input or output of this name");
    const uint32_t io = (uint32_t)found;
    TDN_TRY(check_tensor(c, io, tensor));
    if (rebind(c, io, tensor))
        return TDN_OK;
    const tdn_tensor old = c->bound[io];
    const bool was_bound = c->is_bound[io];
    c->bound[io] = *tensor;
    c->is_bound[io] = true;
    if (choose_program(c))
        return TDN_OK;
    c->bound[io] = old;
    c->is_bound[io] = was_bound;
    return fail_shape(c, io, tensor);
}

void tdn_context_unbind(tdn_context *c)
{
    for (uint32_t io = 0; io < c->engine->n_io; io++)
        c->is_bound[io] = false;
    c->program = 0;
    c->batch = -1;
    c->staged = false;
    c->stale = true;
}

int tdn_context_program(const tdn_context *c)
{
    for (uint32_t io = 0; io < c->engine->n_io; io++)
        if (c->is_bound[io])
            return c->program;
    return -1;
}

tdn_status tdn_context_output_dims(const tdn_context *c, const char *name,
                                   int64_t dims[TDN_MAX_RANK])
{
    const int found = name ? find_io(c->engine, name) : -1;
    if (found < 0 || (uint32_t)found < c->engine->plan->n_inputs || tdn_context_program(c) < 0)
        return TDN_E_ARG;
    const tdn_engine_program *p = &c->engine->programs[c->program];
    const tdn_plan_io *io = tdn_program_io(c->engine, p->plan, (uint32_t)found);
    memcpy(dims, io->dims, sizeof io->dims);
    if (p->open_buffers[io->buffer] != UINT32_MAX)
        memcpy(dims, c->extents[p->open_buffers[io->buffer]].dims, sizeof io->dims);
    if (io->batch_axis >= 0 && c->batch >= 0)
        dims[io->batch_axis] = c->batch;
    return TDN_OK;
}

const char *tdn_context_error(const tdn_context *c) { return c->error.text; }

void tdn_context_set_tap(tdn_context *c, tdn_tap_fn *fn, void *user)
{
    c->tap = fn;
    c->tap_user = user;
}

void tdn_context_limit_steps(tdn_context *c, uint64_t n) { c->step_limit = n; }
