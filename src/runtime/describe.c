/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a plan file holds, as JSON. Nothing is run and no CPU is asked: plans for other machines are
 * described alike. Where this build knows a step's kernel, its family tells tiles and operations;
 * where not, or where the family refuses the step, the step says so and the rest goes on.
 */
#include <string.h>

#include "base/text.h"
#include "runtime/runtime.h"

static const char *const class_names[] = {
    [TDN_BUFFER_WEIGHT] = "weight", [TDN_BUFFER_ARENA] = "arena", [TDN_BUFFER_INPUT] = "input",
    [TDN_BUFFER_OUTPUT] = "output", [TDN_BUFFER_STATE] = "state",
};
static const char *const kind_names[] = {
    [TDN_STEP_KERNEL] = "kernel", [TDN_STEP_REFERENCE] = "reference", [TDN_STEP_CALL] = "call",
    [TDN_STEP_BRANCH] = "branch", [TDN_STEP_LOOP] = "loop",
};

/* First and last step that touches a buffer; first > last: none. */
typedef struct life {
    uint32_t first, last;
} life;

static void describe_notes(tdn_text *t, const tdn_plan *plan)
{
    tdn_json_begin(t, "notes", '{');
    for (uint32_t i = 0; i < plan->n_notes; i++)
        tdn_json_string(t, plan->notes[i].key, plan->notes[i].text);
    tdn_json_end(t, '}');
}

static void describe_ios(tdn_text *t, const char *key, const tdn_plan_io *ios,
                         const char *const *names, uint32_t n)
{
    tdn_json_begin(t, key, '[');
    for (uint32_t i = 0; i < n; i++) {
        tdn_json_begin(t, NULL, '{');
        tdn_json_string(t, "name", names[i]);
        tdn_json_string(t, "dtype", tdn_dtype_name(ios[i].dtype));
        tdn_json_dims(t, "dims", ios[i].dims, ios[i].rank);
        if (ios[i].batch_axis >= 0)
            tdn_json_int(t, "batch_axis", ios[i].batch_axis);
        if (ios[i].bounded)
            tdn_json_uint(t, "bounded", ios[i].bounded);
        tdn_json_end(t, '}');
    }
    tdn_json_end(t, ']');
}

static void note_life(life *lives, const tdn_plan_step *s, uint32_t at, uint32_t end)
{
    for (uint32_t i = 0; i < s->n_in + s->n_out; i++) {
        const uint32_t b = s->operands[i].buffer;
        if (b == UINT32_MAX)
            continue;
        if (lives[b].first > at)
            lives[b].first = at;
        if (lives[b].last < end || lives[b].last == UINT32_MAX)
            lives[b].last = end;
    }
}

static void describe_buffers(tdn_text *t, const tdn_plan_program *p, const life *lives)
{
    tdn_json_begin(t, "buffers", '[');
    for (uint32_t i = 0; i < p->n_buffers; i++) {
        const tdn_plan_buffer *b = &p->buffers[i];
        tdn_json_begin(t, NULL, '{');
        tdn_json_string(t, "class", class_names[b->cls]);
        if (b->name[0])
            tdn_json_string(t, "name", b->name);
        tdn_json_uint(t, "size", b->size);
        if (b->cls == TDN_BUFFER_ARENA || b->cls == TDN_BUFFER_STATE)
            tdn_json_uint(t, "offset", b->offset);
        else
            tdn_json_uint(t, b->cls == TDN_BUFFER_WEIGHT ? "blob" : "index", b->index);
        if (b->scale != 0) {
            tdn_json_double(t, "scale", (double)b->scale);
            tdn_json_int(t, "zero_point", b->zero_point);
        }
        if (lives[i].first != UINT32_MAX) {
            tdn_json_uint(t, "first_step", lives[i].first);
            tdn_json_uint(t, "last_step", lives[i].last);
        }
        tdn_json_end(t, '}');
    }
    tdn_json_end(t, ']');
}

static void describe_operand(tdn_text *t, const tdn_plan_operand *o)
{
    tdn_json_begin(t, NULL, '{');
    if (o->buffer != UINT32_MAX) {
        tdn_json_uint(t, "buffer", o->buffer);
        tdn_json_string(t, "dtype", tdn_dtype_name(o->dtype));
        tdn_json_uint(t, "offset", o->offset);
        tdn_json_dims(t, "dims", o->dims, o->rank);
        tdn_json_dims(t, "strides", o->strides, o->rank);
        if (o->bounded)
            tdn_json_uint(t, "bounded", o->bounded);
    }
    tdn_json_end(t, '}');
}

static void describe_operands(tdn_text *t, const char *key, const tdn_plan_operand *operands,
                              uint32_t n)
{
    tdn_json_begin(t, key, '[');
    for (uint32_t i = 0; i < n; i++)
        describe_operand(t, &operands[i]);
    tdn_json_end(t, ']');
}

static void describe_work(tdn_text *t, const tdn_engine_step *s, tdn_status status,
                          const tdn_error *why)
{
    if (status != TDN_OK) {
        tdn_json_string(t, "refused", why->text);
        return;
    }
    tdn_json_uint(t, s->kernel ? "tiles" : "parts", s->n_tiles);
    tdn_json_uint(t, "scratch_size", s->scratch_size);
    tdn_json_int(t, "flops", s->flops);
    if (s->kernel && s->kernel->nr > 0) {
        tdn_json_int(t, "tile_rows", s->kernel->mr);
        tdn_json_int(t, "tile_columns", s->kernel->nr);
    }
}

static tdn_status describe_step(tdn_text *t, const tdn_plan *plan, const tdn_plan_section *section,
                                const tdn_plan_program *p, uint32_t at, tdn_error *error)
{
    const tdn_plan_step *s = &p->steps[at];
    const uint32_t n = s->n_in + s->n_out;
    tdn_view *views = tdn_alloc(NULL, n * sizeof *views, _Alignof(tdn_view));
    if (!views)
        return tdn_fail_nomem(error, "the description of a plan");
    for (uint32_t i = 0; i < n; i++)
        views[i] = tdn_operand_view(plan, p, &s->operands[i]);
    tdn_engine_step resolved = {.plan = s};
    tdn_error why = {""};
    const tdn_status status = tdn_step_resolve(&resolved, views, section->isa, &(tdn_customs){NULL, 0}, &why);
    tdn_free(NULL, views);

    tdn_json_begin(t, NULL, '{');
    tdn_json_string(t, "name", s->name);
    tdn_json_string(t, "kind", kind_names[s->kind]);
    if (s->kernel[0])
        tdn_json_string(t, "kernel", s->kernel);
    if (s->kind == TDN_STEP_KERNEL || s->kind == TDN_STEP_REFERENCE)
        describe_work(t, &resolved, status, &why);
    else {
        tdn_json_uint(t, "n_then", s->n_then);
        tdn_json_uint(t, "n_else", s->n_else);
    }
    tdn_json_int(t, "bytes", tdn_step_bytes(s));
    describe_operands(t, "in", s->operands, s->n_in);
    describe_operands(t, "out", s->operands + s->n_in, s->n_out);
    tdn_json_end(t, '}');
    return TDN_OK;
}

static void describe_values(tdn_text *t, const tdn_plan_program *p)
{
    tdn_json_begin(t, "values", '[');
    for (uint32_t i = 0; i < p->n_values; i++) {
        const tdn_plan_value *v = &p->values[i];
        tdn_json_begin(t, NULL, '{');
        tdn_json_string(t, "name", v->name);
        tdn_json_uint(t, "step", v->step);
        tdn_json_uint(t, "buffer", v->view.buffer);
        tdn_json_string(t, "dtype", tdn_dtype_name(v->view.dtype));
        tdn_json_dims(t, "dims", v->view.dims, v->view.rank);
        tdn_json_end(t, '}');
    }
    tdn_json_end(t, ']');
}

static tdn_status describe_program(tdn_text *t, const tdn_plan *plan,
                                   const tdn_plan_section *section, const tdn_plan_program *p,
                                   tdn_error *error)
{
    life *lives = tdn_alloc(NULL, p->n_buffers * sizeof *lives, _Alignof(life));
    if (!lives)
        return tdn_fail_nomem(error, "the description of a plan");
    for (uint32_t i = 0; i < p->n_buffers; i++)
        lives[i] = (life){UINT32_MAX, UINT32_MAX};
    for (uint32_t i = 0; i < p->n_steps; i++)
        note_life(lives, &p->steps[i], i, i);

    tdn_json_begin(t, NULL, '{');
    tdn_json_int(t, "flops", p->flops);
    tdn_json_uint(t, "arena_size", p->arena_size);
    tdn_json_uint(t, "state_size", p->state_size);
    describe_ios(t, "inputs", p->inputs, plan->input_names, plan->n_inputs);
    describe_ios(t, "outputs", p->outputs, plan->output_names, plan->n_outputs);
    tdn_json_begin(t, "steps", '[');
    tdn_status status = TDN_OK;
    for (uint32_t i = 0; i < p->n_steps && status == TDN_OK; i++)
        status = describe_step(t, plan, section, p, i, error);
    tdn_json_end(t, ']');
    describe_buffers(t, p, lives);
    describe_values(t, p);
    tdn_json_end(t, '}');
    tdn_free(NULL, lives);
    return status;
}

static uint64_t section_weights(const tdn_plan *plan, const tdn_plan_section *s, bool *seen)
{
    uint64_t size = 0;
    memset(seen, 0, plan->n_blobs * sizeof *seen);
    for (uint32_t k = 0; k < plan->n_programs; k++)
        for (uint32_t i = 0; i < s->programs[k].n_buffers; i++) {
            const tdn_plan_buffer *b = &s->programs[k].buffers[i];
            if ((b->cls != TDN_BUFFER_WEIGHT && b->cls != TDN_BUFFER_STATE) ||
                b->index >= plan->n_blobs || seen[b->index])
                continue;
            seen[b->index] = true;
            size += plan->blobs[b->index].size;
        }
    return size;
}

static tdn_status describe_section(tdn_text *t, const tdn_plan *plan, const tdn_plan_section *s,
                                   bool *seen, tdn_error *error)
{
    const tdn_target *target = tdn_target_find(s->target);
    tdn_json_begin(t, NULL, '{');
    tdn_json_string(t, "target", s->target);
    tdn_json_string(t, "arch", target ? target->arch : NULL);
    tdn_json_uint(t, "weights_size", section_weights(plan, s, seen));
    tdn_json_begin(t, "programs", '[');
    tdn_status status = TDN_OK;
    for (uint32_t i = 0; i < plan->n_programs && status == TDN_OK; i++)
        status = describe_program(t, plan, s, &s->programs[i], error);
    tdn_json_end(t, ']');
    tdn_json_end(t, '}');
    return status;
}

static tdn_status describe_sections(tdn_text *t, const tdn_plan *plan, tdn_error *error)
{
    bool *seen = tdn_alloc(NULL, plan->n_blobs * sizeof *seen, 1);
    if (!seen)
        return tdn_fail_nomem(error, "the description of a plan");
    tdn_json_begin(t, "sections", '[');
    tdn_status status = TDN_OK;
    for (uint32_t i = 0; i < plan->n_sections && status == TDN_OK; i++)
        status = describe_section(t, plan, &plan->sections[i], seen, error);
    tdn_json_end(t, ']');
    tdn_free(NULL, seen);
    return status;
}

/* All checksums were right, or the plan would not be described. */
static tdn_status describe(tdn_text *t, const tdn_plan *plan, const void *bytes, size_t size,
                           tdn_error *error)
{
    uint64_t weights_size = 0;
    for (uint32_t i = 0; i < plan->n_blobs; i++) {
        TDN_TRY(tdn_plan_check_blob(plan, bytes, i, error));
        weights_size += plan->blobs[i].size;
    }
    const char *line_end = memchr(bytes, '\n', 64);
    tdn_text line = {0};
    tdn_text_put_bytes(&line, bytes, line_end ? (size_t)(line_end - (const char *)bytes) : 0);
    tdn_json_begin(t, NULL, '{');
    tdn_json_string(t, "plan", line.data);
    tdn_text_discard(&line);
    tdn_json_uint(t, "size", size);
    tdn_json_uint(t, "weights_size", weights_size);
    tdn_json_uint(t, "n_blobs", plan->n_blobs);
    tdn_json_uint(t, "n_programs", plan->n_programs);
    describe_notes(t, plan);
    describe_ios(t, "inputs", plan->sections[0].programs[0].inputs, plan->input_names,
                 plan->n_inputs);
    describe_ios(t, "outputs", plan->sections[0].programs[0].outputs, plan->output_names,
                 plan->n_outputs);
    const tdn_status status = describe_sections(t, plan, error);
    tdn_json_end(t, '}');
    return status;
}

tdn_status tdn_plan_describe_memory(char **json, const void *bytes, size_t size, tdn_error *error)
{
    if (!json || (!bytes && size > 0))
        return tdn_fail(error, TDN_E_ARG, "no plan, or no place for its description");
    *json = NULL;
    tdn_arena *arena = tdn_arena_create(NULL);
    if (!arena)
        return tdn_fail_nomem(error, "the description of a plan");
    const tdn_plan *plan;
    tdn_text t = {0};
    tdn_status status = tdn_plan_read(&plan, bytes, size, arena, error);
    if (status == TDN_OK)
        status = describe(&t, plan, bytes, size, error);
    if (status == TDN_OK)
        *json = tdn_text_take(&t);
    if (status == TDN_OK && !*json)
        status = tdn_fail_nomem(error, "the description of a plan");
    tdn_text_discard(&t);
    tdn_arena_free(arena);
    return status;
}

tdn_status tdn_plan_describe(char **json, const char *path, tdn_error *error)
{
    if (!json || !path)
        return tdn_fail(error, TDN_E_ARG, "no path of a plan, or no place for its description");
    *json = NULL;
    tdn_map map;
    TDN_TRY(tdn_map_open(&map, path, error));
    const tdn_status status = tdn_plan_describe_memory(json, map.data, map.size, error);
    tdn_map_close(&map);
    return status == TDN_OK ? TDN_OK : tdn_fail_while(error, status, "describing '%.200s'", path);
}
