/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The walk from graph to program: places for inputs and states, each node in turn, outputs that are
 * views of something else copied out, states carried over, then the memory plan and the tables.
 */
#include "lower/lower.h"

#include <string.h>

#include "base/status.h"
#include "lower/lowering.h"
#include "ops/signs.h"

static bool is_state_input(const tdn_graph *g, const tdn_value *v)
{
    for (int i = 0; i < g->n_states; i++)
        if (g->states[i].input == v)
            return true;
    return false;
}

static bool is_state_output(const tdn_graph *g, const tdn_value *v)
{
    for (int i = 0; i < g->n_states; i++)
        if (g->states[i].output == v)
            return true;
    return false;
}

static bool tables(tdn_lowering *l)
{
    size_t n = (size_t)l->g->n_values + 1;
    l->places = tdn_arena_alloc(l->arena, n, sizeof *l->places);
    l->copies[0] = tdn_arena_alloc(l->arena, n, sizeof **l->copies);
    l->copies[1] = tdn_arena_alloc(l->arena, n, sizeof **l->copies);
    l->target = tdn_arena_alloc(l->arena, n, sizeof *l->target);
    l->io_index = tdn_arena_alloc(l->arena, n, sizeof *l->io_index);
    l->row_axis = tdn_arena_alloc(l->arena, n, sizeof *l->row_axis);
    l->binary = tdn_binary_values(l->g, l->arena);
    if (!l->places || !l->binary || !l->copies[0] || !l->copies[1] || !l->target || !l->io_index ||
        !l->row_axis)
        return false;
    for (size_t i = 0; i < n; i++) {
        l->places[i].storage = l->copies[0][i].storage = l->copies[1][i].storage = -1;
        l->io_index[i] = l->row_axis[i] = -1;
    }
    return true;
}

static tdn_status place_inputs(tdn_lowering *l)
{
    uint32_t index = 0;
    for (int i = 0; i < l->g->n_inputs; i++) {
        const tdn_value *v = l->g->inputs[i];
        tdn_place *p = &l->places[v->id];
        p->view = tdn_value_view(v);
        bool state = is_state_input(l->g, v);
        size_t size = tdn_dtype_size(v->dtype, (size_t)tdn_view_count(&p->view));
        TDN_TRY(tdn_storage_add(l, state ? TDN_BUFFER_STATE : TDN_BUFFER_INPUT,
                                state ? UINT32_MAX : index++, size, v->name, &p->storage));
    }
    int32_t n_out = 0;
    for (int i = 0; i < l->g->n_outputs; i++)
        if (!is_state_output(l->g, l->g->outputs[i]))
            l->io_index[l->g->outputs[i]->id] = n_out++;
    return TDN_OK;
}

/* Outputs that are inputs, constants or views of other values get a copy. */
static tdn_status finish_outputs(tdn_lowering *l)
{
    for (int i = 0; i < l->g->n_outputs; i++) {
        const tdn_value *v = l->g->outputs[i];
        if (l->io_index[v->id] < 0)
            continue;
        tdn_place from;
        TDN_TRY(tdn_place_of(l, v, &from));
        if (l->storages[from.storage].cls == TDN_BUFFER_OUTPUT &&
            l->storages[from.storage].index == (uint32_t)l->io_index[v->id])
            continue;
        tdn_place to = {.view = tdn_view_make(NULL, v->dtype, v->shape.rank, v->shape.dims)};
        size_t size = tdn_dtype_size(v->dtype, (size_t)tdn_view_count(&to.view));
        TDN_TRY(tdn_storage_add(l, TDN_BUFFER_OUTPUT, (uint32_t)l->io_index[v->id], size, v->name,
                                &to.storage));
        l->step_name = v->name;
        TDN_TRY(tdn_step_copy(l, &from, &to));
        TDN_TRY(tdn_step_value(l, v, &to));
    }
    return TDN_OK;
}

/* The new states over the old ones, last of all. What is itself (a view of) an old state is saved
 * first. */
static tdn_status carry_states(tdn_lowering *l)
{
    const tdn_graph *g = l->g;
    tdn_place *saved = tdn_arena_alloc(l->arena, (size_t)g->n_states + 1, sizeof *saved);
    if (!saved)
        return tdn_fail_nomem(l->error, "states");
    for (int i = 0; i < g->n_states; i++) {
        TDN_TRY(tdn_place_of(l, g->states[i].output, &saved[i]));
        if (l->storages[saved[i].storage].cls != TDN_BUFFER_STATE)
            continue;
        tdn_place copy;
        l->step_name = g->states[i].output->name;
        TDN_TRY(tdn_place_new(l, saved[i].view.dtype, saved[i].view.rank, saved[i].view.dims, NULL,
                              &copy));
        TDN_TRY(tdn_step_copy(l, &saved[i], &copy));
        saved[i] = copy;
    }
    for (int i = 0; i < g->n_states; i++) {
        tdn_place to;
        l->step_name = g->states[i].output->name;
        TDN_TRY(tdn_place_of(l, g->states[i].input, &to));
        TDN_TRY(tdn_step_copy(l, &saved[i], &to));
    }
    return TDN_OK;
}

/* Storages that steps touch, and those of inputs, outputs and states, become
 * the program's buffers. */
static tdn_status make_buffers(tdn_lowering *l, tdn_plan_program *p)
{
    tdn_plan_buffer *buffers =
        tdn_arena_alloc(l->arena, (size_t)l->n_storages + 1, sizeof *buffers);
    uint32_t *number = tdn_arena_alloc(l->arena, (size_t)l->n_storages + 1, sizeof *number);
    if (!buffers || !number)
        return tdn_fail_nomem(l->error, "buffers");
    size_t arena_size = tdn_memory_plan(l->storages, l->n_storages, l->arena);
    if (arena_size == SIZE_MAX)
        return tdn_fail_nomem(l->error, "the memory plan");
    p->arena_size = arena_size;
    for (int32_t i = 0; i < l->n_storages; i++) {
        tdn_storage *s = &l->storages[i];
        bool used = s->first <= s->last;
        if (!used && (s->cls == TDN_BUFFER_ARENA || s->cls == TDN_BUFFER_WEIGHT))
            continue;
        if (s->cls == TDN_BUFFER_WEIGHT) {
            s->index = tdn_blobs_add(l->blobs, s->data, s->size);
            if (s->index == UINT32_MAX)
                return tdn_fail_nomem(l->error, "weights");
        }
        if (s->cls == TDN_BUFFER_STATE) {
            s->offset = p->state_size;
            p->state_size += tdn_round_up(s->size, TDN_ALIGN);
        }
        number[i] = p->n_buffers;
        buffers[p->n_buffers++] = (tdn_plan_buffer){.cls = s->cls,
                                                    .index = s->index,
                                                    .offset = s->offset,
                                                    .size = s->size,
                                                    .name = s->name};
    }
    p->buffers = buffers;
    for (uint32_t i = 0; i < l->n_steps; i++) {
        tdn_plan_operand *operands = (tdn_plan_operand *)l->steps[i].operands;
        for (uint32_t k = 0; k < l->steps[i].n_in + l->steps[i].n_out; k++)
            if (operands[k].buffer != UINT32_MAX)
                operands[k].buffer = number[operands[k].buffer];
    }
    for (uint32_t i = 0; i < l->n_values; i++)
        l->values[i].view.buffer = number[l->values[i].view.buffer];
    return TDN_OK;
}

static tdn_plan_io io_of(const tdn_lowering *l, const tdn_plan_program *p, const tdn_value *v,
                         tdn_buffer_class cls, uint32_t index)
{
    tdn_plan_io io = {
        .dtype = v->dtype, .rank = v->shape.rank, .batch_axis = -1, .bounded = v->shape.bounded};
    memcpy(io.dims, v->shape.dims, sizeof io.dims);
    if (l->options->batch_axis >= 0)
        io.batch_axis = l->options->batch_axes[v->id];
    while (p->buffers[io.buffer].cls != cls || p->buffers[io.buffer].index != index)
        io.buffer++;
    return io;
}

static tdn_status make_io(tdn_lowering *l, tdn_plan_program *p)
{
    tdn_plan_io *in = tdn_arena_alloc(l->arena, (size_t)l->g->n_inputs + 1, sizeof *in);
    tdn_plan_io *out = tdn_arena_alloc(l->arena, (size_t)l->g->n_outputs + 1, sizeof *out);
    if (!in || !out)
        return tdn_fail_nomem(l->error, "inputs and outputs");
    uint32_t n_in = 0, n_out = 0;
    for (int i = 0; i < l->g->n_inputs; i++)
        if (!is_state_input(l->g, l->g->inputs[i])) {
            in[n_in] = io_of(l, p, l->g->inputs[i], TDN_BUFFER_INPUT, n_in);
            n_in++;
        }
    for (int i = 0; i < l->g->n_outputs; i++)
        if (l->io_index[l->g->outputs[i]->id] >= 0) {
            out[n_out] = io_of(l, p, l->g->outputs[i], TDN_BUFFER_OUTPUT, n_out);
            n_out++;
        }
    p->inputs = in;
    p->outputs = out;
    return TDN_OK;
}

/* Each node in turn, then what follows the last. */
static tdn_status walk(tdn_lowering *l)
{
    if (!tables(l))
        return tdn_fail_nomem(l->error, "lowering");
    TDN_TRY(place_inputs(l));
    TDN_TRY(tdn_arms_find(l));
    tdn_place_targets(l);
    tdn_place_rows(l);
    TDN_TRY(tdn_lower_arm(l, 0));
    TDN_TRY(finish_outputs(l));
    return carry_states(l);
}

/* Constants that steps read as they are; what is packed was counted with its step. */
static tdn_status count_constants(const tdn_lowering *l)
{
    for (int32_t i = 0; i < l->n_storages; i++) {
        const tdn_storage *s = &l->storages[i];
        if (s->cls != TDN_BUFFER_WEIGHT || s->first > s->last || !s->data)
            continue;
        const int64_t size = (int64_t)s->size;
        const tdn_view bytes = tdn_view_make((void *)(uintptr_t)s->data, TDN_U8, 1, &size);
        if (!tdn_choices_add_blob(l->collect, l->options->target,
                                  tdn_blob_name(&bytes, NULL, s->size), s->size))
            return tdn_fail_nomem(l->error, "the choice of kernels");
    }
    return TDN_OK;
}

tdn_status tdn_lower_collect(tdn_choices *choices, const tdn_graph *g,
                             const tdn_lower_options *options, tdn_arena *arena, tdn_error *error)
{
    tdn_lower_options silent = *options; /* the walk that makes will warn */
    silent.log = NULL;
    tdn_lowering l = {
        .g = g, .options = &silent, .arena = arena, .collect = choices, .error = error};
    TDN_TRY(walk(&l));
    return count_constants(&l);
}

tdn_status tdn_lower(tdn_plan_program *program, const tdn_graph *g,
                     const tdn_lower_options *options, tdn_blobs *blobs, tdn_arena *arena,
                     tdn_error *error)
{
    tdn_lowering l = {.g = g, .options = options, .arena = arena, .blobs = blobs, .error = error};
    *program = (tdn_plan_program){0};
    TDN_TRY(walk(&l));
    if (options->choices && l.n_chosen != options->n_choices)
        return tdn_fail(error, TDN_E_INTERNAL, "%u choices for %u steps", options->n_choices,
                        l.n_chosen);
    program->flops = tdn_arms_flops(&l);
    program->steps = l.steps;
    program->n_steps = l.n_steps;
    program->values = l.values;
    program->n_values = l.n_values;
    TDN_TRY(make_buffers(&l, program));
    return make_io(&l, program);
}
