/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a plan, with checksums made to match, so that damage reaches what lies behind them: an error in words,
 * or an engine that describes itself and runs, never a crash. What a hostile plan may take of time and memory by
 * right (large arenas, long loops) is not run.
 */
#include <stdlib.h>
#include <string.h>

#include "plan/format.h"
#include "runtime/runtime.h"

enum { MAX_FILE = 1 << 20, MAX_MEMORY = 16 << 20, MAX_ELEMENTS = 1 << 13, MAX_STEPS = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* An operand that reads one byte again and again costs no memory: elements are counted, not bytes. */
static bool is_small(const tdn_engine *e)
{
    if (e->arena_size > MAX_MEMORY || e->state_size > MAX_MEMORY || e->staging_size > MAX_MEMORY ||
        e->scratch_size > MAX_MEMORY)
        return false;
    for (uint32_t k = 0; k < e->plan->n_programs; k++)
        for (uint32_t i = 0; i < e->programs[k].n_views; i++)
            if (tdn_view_count(&e->programs[k].views[i]) > MAX_ELEMENTS)
                return false;
    return true;
}

/* Binds buffers of exactly the right size, of ones: a sanitizer sees the first byte beyond. */
static void run_program(tdn_engine *e, tdn_context *c, int program, int64_t shorter)
{
    void *data[16] = {0};
    int n = 0;
    tdn_io_info io = {.struct_size = sizeof io};
    tdn_context_unbind(c);
    for (int i = 0; i < (int)e->n_io && n < 16; i++) {
        const int n_inputs = tdn_engine_n_inputs(e);
        if ((i < n_inputs ? tdn_engine_input(e, program, i, &io) : tdn_engine_output(e, program, i - n_inputs, &io)) != 0)
            break;
        if (io.batch_axis >= 0 && io.dims[io.batch_axis] > shorter)
            io.dims[io.batch_axis] -= shorter;
        const tdn_tensor shape = tdn_tensor_make(NULL, io.dtype, io.rank, io.dims);
        int64_t count;
        if (!tdn_dims_count(shape.dims, shape.rank, &count) || count > MAX_MEMORY)
            break;
        const size_t bytes = tdn_dtype_size(io.dtype, (size_t)count);
        tdn_tensor t = shape;
        t.data = data[n++] = malloc(bytes ? bytes : 1);
        if (!t.data)
            break;
        memset(t.data, 1, bytes);
        if (tdn_context_bind(c, io.name, &t) != TDN_OK)
            break;
    }
    if (tdn_context_run(c) == TDN_OK)
        tdn_context_run(c); /* what the first left in states and arena */
    tdn_context_unbind(c);
    for (int i = 0; i < n; i++)
        free(data[i]);
}

static void run_engine(tdn_engine *e)
{
    tdn_context *c;
    tdn_context_options options = TDN_CONTEXT_OPTIONS_INIT;
    options.profile = 1;
    if (tdn_context_create(&c, e, &options, NULL) != TDN_OK)
        return;
    tdn_context_limit_steps(c, MAX_STEPS);
    for (int k = 0; k < tdn_engine_n_programs(e) && k < 4; k++)
        for (int shorter = 0; shorter < 2; shorter++)
            run_program(e, c, k, shorter);
    tdn_context_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > MAX_FILE)
        return 0;
    void *bytes = tdn_alloc(NULL, size, TDN_ALIGN);
    if (!bytes)
        return 0;
    if (size > 0)
        memcpy(bytes, data, size);
    tdn_plan_seal(bytes, size);
    tdn_error error;
    char *json;
    if (tdn_plan_describe_bytes(&json, bytes, size, &error) == TDN_OK)
        tdn_text_free(json);
    tdn_engine *engine;
    if (tdn_engine_load_memory(&engine, bytes, size, NULL, &error) == TDN_OK) {
        if (is_small(engine))
            run_engine(engine);
        tdn_engine_free(engine);
    }
    tdn_free(NULL, bytes);
    return 0;
}
