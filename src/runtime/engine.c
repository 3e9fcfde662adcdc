/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine: a plan that is read, checked, and resolved for this CPU.
 *
 * Loading reads the tables once (src/plan/reader.c), takes the section with the most instruction
 * sets among those this CPU has, brings the blobs which that section uses from the file and checks
 * their checksums (at 8 GB/s and more they cost less than reading them from a disk), and has every
 * kernel judge its step. What fails fails here, not in the first run. Afterwards the engine never
 * changes, whatever happens to the file, so threads share it without a lock.
 */
#include <stdio.h>
#include <string.h>

#include "runtime/runtime.h"

/* ---- The section ----------------------------------------------------------------------------- */

static uint64_t detect(void)
{
    uint64_t isa = 0;
    for (int i = 0; tdn_backends[i]; i++)
        isa |= tdn_backends[i]->detect();
    return isa;
}

static const char *note(const tdn_plan *plan, const char *key, const char *absent)
{
    for (uint32_t i = 0; i < plan->n_notes; i++)
        if (strcmp(plan->notes[i].key, key) == 0)
            return plan->notes[i].text;
    return absent;
}

static tdn_status fail_target(const tdn_plan *plan, const tdn_target *max, tdn_error *error)
{
    char sections[512] = "";
    for (uint32_t i = 0, used = 0; i < plan->n_sections && used < sizeof sections; i++)
        used += (uint32_t)snprintf(sections + used, sizeof sections - used, "%s%s", i ? ", " : "",
                                   plan->sections[i].target);
    const char *native = max ? max->name : tdn_target_native();
    return tdn_fail(error, TDN_E_TARGET,
                    "the plan has sections for %s, but %s is %s; this builds one: tendon build "
                    "%.400s --target=%s -o PLAN",
                    sections, max ? "the highest target allowed" : "this CPU", native,
                    note(plan, "model", "MODEL.onnx"), native);
}

static tdn_status choose_section(tdn_engine *e, const char *max_target, tdn_error *error)
{
    uint64_t isa = detect();
    const tdn_target *max = NULL;
    if (max_target) {
        max = tdn_target_find(max_target);
        if (!max)
            return tdn_fail(error, TDN_E_ARG, "no target '%s'", max_target);
        isa &= max->isa;
    }
    for (uint32_t i = 0; i < e->plan->n_sections; i++) {
        const tdn_plan_section *s = &e->plan->sections[i];
        if ((s->isa & ~isa) != 0 || s->isa == 0)
            continue;
        if (!e->section || __builtin_popcountll(s->isa) >= __builtin_popcountll(e->section->isa))
            e->section = s;
    }
    return e->section ? TDN_OK : fail_target(e->plan, max, error);
}

/* Where the plan lies: the caller's bytes, or those of a file, which are there once filled. */
typedef struct origin {
    const void *bytes;
    size_t size;
    tdn_source *file; /* NULL: all bytes are there */
} origin;

static tdn_status fetch(const origin *from, size_t offset, size_t size, tdn_error *error)
{
    return from->file ? tdn_source_fill(from->file, offset, size, error) : TDN_OK;
}

static tdn_status fetch_head(const origin *from, tdn_error *error)
{
    const size_t start = from->size < TDN_PLAN_START_SIZE ? from->size : TDN_PLAN_START_SIZE;
    TDN_TRY(fetch(from, 0, start, error));
    return fetch(from, 0, tdn_plan_head_size(from->bytes, from->size), error);
}

static tdn_status fetch_blob(const tdn_engine *e, const origin *from, uint32_t index,
                             tdn_error *error)
{
    const tdn_plan_blob *b = &e->plan->blobs[index];
    const size_t offset = (size_t)((const char *)b->data - (const char *)from->bytes);
    TDN_TRY(fetch(from, offset, tdn_round_up((size_t)b->size, TDN_ALIGN), error));
    return tdn_plan_check_blob(e->plan, from->bytes, index, error);
}

/* Each blob that a buffer of the section is filled from, once. */
static tdn_status fetch_blobs(tdn_engine *e, const origin *from, tdn_error *error)
{
    bool *seen = tdn_arena_alloc(e->memory, e->plan->n_blobs, sizeof *seen);
    if (!seen)
        return tdn_fail_nomem(error, "the engine");
    for (uint32_t k = 0; k < e->plan->n_programs; k++) {
        const tdn_plan_program *p = &e->section->programs[k];
        for (uint32_t i = 0; i < p->n_buffers; i++) {
            const tdn_plan_buffer *b = &p->buffers[i];
            if ((b->cls != TDN_BUFFER_WEIGHT && b->cls != TDN_BUFFER_STATE) ||
                b->index >= e->plan->n_blobs || seen[b->index])
                continue;
            seen[b->index] = true;
            e->weights_size += e->plan->blobs[b->index].size;
            TDN_TRY(fetch_blob(e, from, b->index, error));
        }
    }
    return TDN_OK;
}

/* ---- Life ------------------------------------------------------------------------------------ */

static tdn_status read_options(tdn_engine_options *out, const tdn_engine_options *options,
                               tdn_error *error)
{
    *out = (tdn_engine_options)TDN_ENGINE_OPTIONS_INIT;
    if (!options)
        return TDN_OK;
    if (options->struct_size < sizeof options->struct_size)
        return tdn_fail(error, TDN_E_ARG,
                        "tdn_engine_options is not initialised: struct_size is %u",
                        options->struct_size);
    memcpy(out, options, options->struct_size < sizeof *out ? options->struct_size : sizeof *out);
    return TDN_OK;
}

static tdn_status prepare(tdn_engine *e, const origin *from, const tdn_engine_options *o,
                          tdn_error *error)
{
    TDN_TRY(fetch_head(from, error));
    TDN_TRY(tdn_plan_read(&e->plan, from->bytes, from->size, e->memory, error));
    e->plan_size = from->size;
    e->n_io = e->plan->n_inputs + e->plan->n_outputs;
    TDN_TRY(tdn_customs_make(&e->customs, o->operators, o->n_operators, e->memory, error));
    TDN_TRY(choose_section(e, o->max_target, error));
    TDN_TRY(fetch_blobs(e, from, error));
    if (from->file)
        TDN_TRY(tdn_source_take(from->file, &e->map, error));
    e->programs = tdn_arena_alloc(e->memory, e->plan->n_programs, sizeof *e->programs);
    if (!e->programs)
        return tdn_fail_nomem(error, "the engine's programs");
    for (uint32_t i = 0; i < e->plan->n_programs; i++) {
        const tdn_status status = tdn_program_prepare(e, i, error);
        if (status != TDN_OK)
            return tdn_fail_while(error, status, "preparing program %u of section '%s'", i,
                                  e->section->target);
    }
    return TDN_OK;
}

static void log_loaded(const tdn_engine *e, const char *path, const tdn_engine_options *o)
{
    if (!o->log)
        return;
    char line[512];
    snprintf(line, sizeof line,
             "loaded %.300s: section %.60s, %u program%s, %.1f MB of weights, %.1f MB of arena",
             path ? path : "a plan from memory", e->section->target, e->plan->n_programs,
             e->plan->n_programs == 1 ? "" : "s", (double)e->weights_size / 1e6,
             (double)e->arena_size / 1e6);
    o->log(o->log_user, TDN_LOG_VERBOSE, line);
}

static tdn_status create(tdn_engine **engine, const origin *from, const tdn_engine_options *options,
                         tdn_error *error)
{
    tdn_engine_options o;
    tdn_status status = read_options(&o, options, error);
    tdn_arena *memory = status == TDN_OK ? tdn_arena_create(o.allocator) : NULL;
    tdn_engine *e = memory ? tdn_arena_alloc(memory, 1, sizeof *e) : NULL;
    if (!e) {
        tdn_arena_free(memory);
        return status != TDN_OK ? status : tdn_fail_nomem(error, "an engine");
    }
    e->memory = memory;
    e->allocator = o.allocator ? *o.allocator : tdn_allocator_libc;
    status = prepare(e, from, &o, error);
    if (status != TDN_OK) {
        tdn_engine_free(e);
        return status;
    }
    log_loaded(e, from->file ? from->file->path : NULL, &o);
    *engine = e;
    return TDN_OK;
}

tdn_status tdn_engine_load_memory(tdn_engine **engine, const void *plan, size_t size,
                                  const tdn_engine_options *options, tdn_error *error)
{
    if (!engine)
        return tdn_fail(error, TDN_E_ARG, "no place for the engine");
    *engine = NULL;
    if (!plan)
        return tdn_fail(error, TDN_E_ARG, "no plan");
    return create(engine, &(origin){plan, size, NULL}, options, error);
}

tdn_status tdn_engine_load(tdn_engine **engine, const char *path, const tdn_engine_options *options,
                           tdn_error *error)
{
    if (!engine)
        return tdn_fail(error, TDN_E_ARG, "no place for the engine");
    *engine = NULL;
    if (!path)
        return tdn_fail(error, TDN_E_ARG, "no path of a plan");
    tdn_source file;
    TDN_TRY(tdn_source_open(&file, path, error));
    const tdn_status status =
        create(engine, &(origin){file.map.data, file.map.size, &file}, options, error);
    tdn_source_close(&file);
    return status == TDN_OK ? TDN_OK : tdn_fail_while(error, status, "loading '%.200s'", path);
}

void tdn_engine_free(tdn_engine *e)
{
    if (!e)
        return;
    tdn_map_close(&e->map);
    tdn_arena_free(e->memory); /* the engine lies in it */
}

/* ---- What there is --------------------------------------------------------------------------- */

int tdn_engine_n_programs(const tdn_engine *e) { return (int)e->plan->n_programs; }

int tdn_engine_n_inputs(const tdn_engine *e) { return (int)e->plan->n_inputs; }

int tdn_engine_n_outputs(const tdn_engine *e) { return (int)e->plan->n_outputs; }

static void fill_io(tdn_io_info *info, const char *name, const tdn_plan_io *io)
{
    tdn_io_info all = {
        .struct_size = info->struct_size,
        .name = name,
        .dtype = io->dtype,
        .rank = io->rank,
        .batch_axis = io->batch_axis,
        .bounded = io->bounded,
    };
    memcpy(all.dims, io->dims, sizeof all.dims);
    memcpy(info, &all, info->struct_size < sizeof all ? info->struct_size : sizeof all);
}

static bool in_range(const tdn_engine *e, int program, int index, uint32_t n)
{
    return program >= 0 && (uint32_t)program < e->plan->n_programs && index >= 0 &&
           (uint32_t)index < n;
}

tdn_status tdn_engine_input(const tdn_engine *e, int program, int index, tdn_io_info *info)
{
    if (!e || !info || !in_range(e, program, index, e->plan->n_inputs))
        return TDN_E_ARG;
    fill_io(info, e->plan->input_names[index], &e->section->programs[program].inputs[index]);
    return TDN_OK;
}

tdn_status tdn_engine_output(const tdn_engine *e, int program, int index, tdn_io_info *info)
{
    if (!e || !info || !in_range(e, program, index, e->plan->n_outputs))
        return TDN_E_ARG;
    fill_io(info, e->plan->output_names[index], &e->section->programs[program].outputs[index]);
    return TDN_OK;
}

tdn_status tdn_engine_get_info(const tdn_engine *e, tdn_engine_info *info)
{
    if (!e || !info)
        return TDN_E_ARG;
    const tdn_engine_info all = {
        .struct_size = info->struct_size,
        .target = e->section->target,
        .plan_size = e->plan_size,
        .weights_size = e->weights_size,
        .arena_size = e->arena_size,
        .calibration = note(e->plan, "calibration", ""),
        .precision = note(e->plan, "precision", "fp32"),
    };
    memcpy(info, &all, info->struct_size < sizeof all ? info->struct_size : sizeof all);
    return TDN_OK;
}
