/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Makes a program of a plan ready to run, once an engine: finds each step's kernel or reference by
 * name, has the kernel's family check arguments and operands, and lays out what contexts copy:
 * views, and which of them look into which input or output.
 *
 * The plan's reader has checked that views lie in their buffers. What a kernel computes on them is
 * its family's to check, here; a reference checks the few relations between dims that keep it
 * inside its views when it runs.
 */
#include <limits.h>
#include <string.h>

#include "plan/format.h"
#include "runtime/runtime.h"

enum { MAX_PARTS = 4096 };

tdn_view tdn_operand_view(const tdn_plan *plan, const tdn_plan_program *p,
                          const tdn_plan_operand *o)
{
    tdn_view v = {.dtype = TDN_DTYPE_NONE};
    if (o->buffer == UINT32_MAX)
        return v;
    v.dtype = o->dtype;
    v.rank = o->rank;
    memcpy(v.dims, o->dims, sizeof v.dims);
    memcpy(v.strides, o->strides, sizeof v.strides);
    const tdn_plan_buffer *b = &p->buffers[o->buffer];
    if (b->cls ==
        TDN_BUFFER_WEIGHT) /* nothing writes there: the reader has refused outputs in weights */
        v.data = (uint8_t *)(uintptr_t)plan->blobs[b->index].data + o->offset;
    return v;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* Bytes of an operand; an axis of stride 0 is read once. */
static int64_t operand_bytes(const tdn_plan_operand *o)
{
    if (o->buffer == UINT32_MAX)
        return 0;
    int64_t dims[TDN_MAX_RANK], count;
    for (int i = 0; i < o->rank; i++)
        dims[i] = o->strides[i] == 0 && o->dims[i] > 1 ? 1 : o->dims[i];
    if (!tdn_dims_count(dims, o->rank, &count))
        return 0;
    return (int64_t)tdn_dtype_size(o->dtype, (size_t)count);
}

int64_t tdn_step_bytes(const tdn_plan_step *s)
{
    int64_t bytes = 0;
    for (uint32_t i = 0; i < s->n_in + s->n_out; i++)
        if (__builtin_add_overflow(bytes, operand_bytes(&s->operands[i]), &bytes))
            return INT64_MAX;
    return bytes;
}

static tdn_status resolve_kernel(tdn_engine_step *s, const tdn_view *views, uint64_t isa,
                                 tdn_error *error)
{
    const tdn_plan_step *p = s->plan;
    const tdn_family *family;
    s->kernel = tdn_kernel_find(p->kernel, &family);
    s->shown = p->kernel;
    if (!s->kernel)
        return tdn_fail(error, TDN_E_FORMAT,
                        "no kernel '%s' in tendon %s: the plan was written by another version",
                        p->kernel, tdn_version());
    if ((s->kernel->isa & ~isa) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "kernel '%s' needs more than its section's target has",
                        p->kernel);
    tdn_work work = {0};
    TDN_TRY(family->check(s->kernel, p->args, p->args_size, views, (int)p->n_in, views + p->n_in,
                          (int)p->n_out, &work, error));
    s->n_tiles = work.n_tiles;
    s->scratch_size = work.scratch_size;
    s->flops = work.flops;
    return TDN_OK;
}

/* What a map costs is in its expression; other references do not tell. */
static int64_t reference_flops(const tdn_plan_step *p, const tdn_view *views)
{
    if (!p->expr || p->n_out == 0 || views[p->n_in].dtype == TDN_DTYPE_NONE)
        return 0;
    int64_t a_element = 0, flops;
    for (int i = 0; i < p->expr->n_instr; i++)
        a_element += p->expr->code[i].op > TDN_X_STORE;
    return __builtin_mul_overflow(a_element, tdn_view_count(&views[p->n_in]), &flops) ? INT64_MAX
                                                                                      : flops;
}

static tdn_status find_reference(tdn_engine_step *s, const tdn_customs *customs, tdn_error *error)
{
    const char *name = s->plan->kernel;
    const bool is_custom = strstr(name, "::") != NULL;
    const tdn_custom *custom = is_custom ? tdn_customs_find(customs, name) : NULL;
    s->ref = custom ? &custom->ref : is_custom ? NULL : tdn_ref_find(name);
    if (s->ref)
        return is_custom ? TDN_OK : tdn_plan_check_attrs(&s->plan->attrs, TDN_E_FORMAT, error);
    return is_custom
               ? tdn_fail(error, TDN_E_UNSUPPORTED,
                          "the plan needs the operator '%s', which the engine was not given", name)
               : tdn_fail(error, TDN_E_FORMAT,
                          "no reference '%s' in tendon %s: the plan was written by another version",
                          name, tdn_version());
}

static tdn_status resolve_reference(tdn_engine_step *s, const tdn_view *views,
                                    const tdn_customs *customs, tdn_error *error)
{
    const tdn_plan_step *p = s->plan;
    s->shown = p->kernel;
    TDN_TRY(find_reference(s, customs, error));
    tdn_ref_call call = {
        .in = views,
        .n_in = (int)p->n_in,
        .out = (tdn_view *)(uintptr_t)(views + p->n_in), /* dims are looked at; nothing is written
                                                            before it runs */
        .n_out = (int)p->n_out,
        .attrs = &p->attrs,
        .expr = p->expr,
        .n_parts = 1,
        .row = s->ref,
    };
    int n_parts = s->ref->n_parts && !s->open ? s->ref->n_parts(&call) : 1;
    n_parts = n_parts < 1 ? 1 : n_parts > MAX_PARTS ? MAX_PARTS : n_parts;
    call.n_parts = n_parts;
    s->n_tiles = (size_t)n_parts;
    s->scratch_size = s->ref->scratch_size ? s->ref->scratch_size(&call) : 0;
    if (s->scratch_size > PTRDIFF_MAX / 2)
        return tdn_fail(error, TDN_E_FORMAT,
                        "reference '%s' needs more scratch than there is memory", p->kernel);
    s->flops = reference_flops(p, views);
    return TDN_OK;
}

tdn_status tdn_step_resolve(tdn_engine_step *s, const tdn_view *views, uint64_t isa,
                            const tdn_customs *customs, tdn_error *error)
{
    s->bytes = tdn_step_bytes(s->plan);
    for (uint32_t i = 0; i < s->plan->n_in + s->plan->n_out; i++)
        s->open = s->open || s->plan->operands[i].bounded != 0;
    switch (s->plan->kind) {
    case TDN_STEP_KERNEL: return resolve_kernel(s, views, isa, error);
    case TDN_STEP_REFERENCE: return resolve_reference(s, views, customs, error);
    default:
        s->shown = s->plan->kind == TDN_STEP_BRANCH ? "branch" : "loop";
        s->bytes = 0;
        return TDN_OK;
    }
}

static tdn_status prepare_step(tdn_engine *e, tdn_engine_program *p, uint32_t index,
                               uint32_t first_view, tdn_error *error)
{
    tdn_engine_step *s = &p->steps[index];
    s->plan = &p->plan->steps[index];
    s->first_view = first_view;
    const uint32_t n = s->plan->n_in + s->plan->n_out;
    for (uint32_t i = 0; i < n; i++)
        p->views[first_view + i] = tdn_operand_view(e->plan, p->plan, &s->plan->operands[i]);
    TDN_TRY(tdn_step_resolve(s, p->views + first_view, e->section->isa, &e->customs, error));
    if (s->kernel && !s->kernel->run)
        return tdn_fail(error, TDN_E_FORMAT, "kernel '%s' is not in this build of tendon",
                        s->plan->kernel);
    if (s->ref) {
        s->shown = tdn_arena_printf(e->memory, "reference:%s", s->plan->kernel);
        if (!s->shown)
            return tdn_fail_nomem(error, "the engine's steps");
    }
    if (s->open && n > p->max_open_views)
        p->max_open_views = n;
    if (s->scratch_size > p->scratch_size)
        p->scratch_size = s->scratch_size;
    return TDN_OK;
}

static tdn_status prepare_steps(tdn_engine *e, tdn_engine_program *p, tdn_error *error)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < p->plan->n_steps; i++) {
        const tdn_plan_step *s = &p->plan->steps[i];
        const tdn_status status = prepare_step(e, p, i, at, error);
        if (status != TDN_OK)
            return tdn_fail_while(error, status, "preparing step %u '%s'", i, s->name);
        at += s->n_in + s->n_out;
    }
    return TDN_OK;
}

/* ---- What contexts copy ---------------------------------------------------------------------- */

/* The number of the input or output that a buffer stands for, or UINT32_MAX. */
static uint32_t io_of(const tdn_engine *e, const tdn_plan_program *p, uint32_t buffer)
{
    if (buffer == UINT32_MAX)
        return UINT32_MAX;
    const tdn_plan_buffer *b = &p->buffers[buffer];
    if (b->cls == TDN_BUFFER_INPUT)
        return b->index;
    return b->cls == TDN_BUFFER_OUTPUT ? e->plan->n_inputs + b->index : UINT32_MAX;
}

/* Sorts the views that look into inputs and outputs by io: count, add up, place. */
static void list_fixups(const tdn_engine *e, tdn_engine_program *p)
{
    const tdn_plan_program *plan = p->plan;
    for (uint32_t s = 0; s < plan->n_steps; s++)
        for (uint32_t i = 0; i < plan->steps[s].n_in + plan->steps[s].n_out; i++) {
            const uint32_t io = io_of(e, plan, plan->steps[s].operands[i].buffer);
            if (io != UINT32_MAX)
                p->io_fixups[io + 1]++;
        }
    for (uint32_t io = 0; io < e->n_io; io++)
        p->io_fixups[io + 1] += p->io_fixups[io];
    const uint32_t all = p->io_fixups[e->n_io];
    for (uint32_t s = plan->n_steps; s-- > 0;)
        for (uint32_t i = plan->steps[s].n_in + plan->steps[s].n_out; i-- > 0;) {
            const tdn_plan_operand *o = &plan->steps[s].operands[i];
            const uint32_t io = io_of(e, plan, o->buffer);
            if (io != UINT32_MAX)
                p->fixups[--p->io_fixups[io + 1]] =
                    (tdn_fixup){p->steps[s].first_view + i, o->offset};
        }
    /* Placing moved the end of each list to its begin: io_fixups[io + 1] is now where io begins. */
    for (uint32_t io = 0; io < e->n_io; io++)
        p->io_fixups[io] = p->io_fixups[io + 1];
    p->io_fixups[e->n_io] = all;
}

static void number_open_buffers(tdn_engine_program *p)
{
    for (uint32_t i = 0; i < p->plan->n_buffers; i++)
        p->open_buffers[i] = UINT32_MAX;
    for (uint32_t s = 0; s < p->plan->n_steps; s++) {
        const tdn_plan_step *step = &p->plan->steps[s];
        for (uint32_t i = 0; i < step->n_in + step->n_out; i++) {
            const tdn_plan_operand *o = &step->operands[i];
            if (o->bounded == 0 || p->open_buffers[o->buffer] != UINT32_MAX)
                continue;
            p->open_operands[p->n_open] = o;
            p->open_buffers[o->buffer] = p->n_open++;
        }
    }
}

static void index_values(tdn_engine_program *p)
{
    uint32_t v = 0;
    for (uint32_t s = 0; s < p->plan->n_steps; s++) {
        p->first_value[s] = v;
        while (v < p->plan->n_values && p->plan->values[v].step == s)
            v++;
    }
    p->first_value[p->plan->n_steps] = v;
}

bool tdn_same_states(const tdn_plan_program *a, const tdn_plan_program *b)
{
    if (a->state_size != b->state_size)
        return false;
    uint32_t i = 0, k = 0;
    for (;; i++, k++) {
        while (i < a->n_buffers && a->buffers[i].cls != TDN_BUFFER_STATE)
            i++;
        while (k < b->n_buffers && b->buffers[k].cls != TDN_BUFFER_STATE)
            k++;
        if (i == a->n_buffers || k == b->n_buffers)
            return i == a->n_buffers && k == b->n_buffers;
        const tdn_plan_buffer *x = &a->buffers[i], *y = &b->buffers[k];
        if (x->offset != y->offset || x->size != y->size || x->index != y->index ||
            strcmp(x->name, y->name) != 0)
            return false;
    }
}

static tdn_status place_states(tdn_engine *e, uint32_t index, tdn_error *error)
{
    tdn_engine_program *p = &e->programs[index];
    for (uint32_t k = 0; k < index; k++)
        if (tdn_same_states(e->programs[k].plan, p->plan)) {
            p->state_offset = e->programs[k].state_offset;
            return TDN_OK;
        }
    p->state_offset = e->state_size;
    if (!tdn_size_add(e->state_size, tdn_round_up(p->plan->state_size, TDN_ALIGN), &e->state_size))
        return tdn_fail_nomem(error, "the states");
    return TDN_OK;
}

static tdn_status measure_staging(const tdn_engine *e, tdn_engine_program *p, tdn_error *error)
{
    for (uint32_t io = 0; io < e->n_io; io++) {
        const tdn_plan_io *info = tdn_program_io(e, p->plan, io);
        const size_t size = info->batch_axis >= 0 ? p->plan->buffers[info->buffer].size : 0;
        if (!tdn_size_add(p->staging_size, tdn_round_up(size, TDN_ALIGN), &p->staging_size))
            return tdn_fail_nomem(error, "the staging area");
    }
    return TDN_OK;
}

static bool allocate(tdn_engine *e, tdn_engine_program *p)
{
    const tdn_plan_program *plan = p->plan;
    for (uint32_t i = 0; i < plan->n_steps; i++)
        p->n_views += plan->steps[i].n_in + plan->steps[i].n_out;
    p->steps = tdn_arena_alloc(e->memory, plan->n_steps, sizeof *p->steps);
    p->views = tdn_arena_alloc(e->memory, p->n_views, sizeof *p->views);
    p->fixups = tdn_arena_alloc(e->memory, p->n_views, sizeof *p->fixups);
    p->io_fixups = tdn_arena_alloc(e->memory, (size_t)e->n_io + 1, sizeof *p->io_fixups);
    p->first_value = tdn_arena_alloc(e->memory, (size_t)plan->n_steps + 1, sizeof *p->first_value);
    p->open_buffers = tdn_arena_alloc(e->memory, plan->n_buffers, sizeof *p->open_buffers);
    p->open_operands = tdn_arena_alloc(e->memory, plan->n_buffers, sizeof *p->open_operands);
    return p->steps && p->views && p->fixups && p->io_fixups && p->first_value && p->open_buffers &&
           p->open_operands;
}

static void keep_largest(size_t *largest, size_t size)
{
    if (size > *largest)
        *largest = size;
}

tdn_status tdn_program_prepare(tdn_engine *e, uint32_t index, tdn_error *error)
{
    tdn_engine_program *p = &e->programs[index];
    p->plan = &e->section->programs[index];
    if (!allocate(e, p))
        return tdn_fail_nomem(error, "the engine's steps");
    TDN_TRY(prepare_steps(e, p, error));
    list_fixups(e, p);
    number_open_buffers(p);
    index_values(p);
    TDN_TRY(place_states(e, index, error));
    TDN_TRY(measure_staging(e, p, error));
    keep_largest(&e->arena_size, p->plan->arena_size);
    keep_largest(&e->scratch_size, p->scratch_size);
    keep_largest(&e->staging_size, p->staging_size);
    e->max_open = p->n_open > e->max_open ? p->n_open : e->max_open;
    e->max_open_views =
        p->max_open_views > e->max_open_views ? p->max_open_views : e->max_open_views;
    return TDN_OK;
}
