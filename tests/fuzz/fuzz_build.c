/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a model, all the way: import, passes, lowering, the plan, its reader, every kernel's
 * check, and a run on zeros. What the compiler writes, the run time must take, within CAP bytes.
 * Models that would compute much are left out.
 */
#include <stdint.h>
#include <stdlib.h>

#include "capped.h"
#include "tendon/build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CAP = 64 << 20, MAX_IO = 64 };

static void run(tdn_engine *engine)
{
    void *memory[2 * MAX_IO] = {0};
    tdn_context *context;
    const int n_in = tdn_engine_n_inputs(engine), n_out = tdn_engine_n_outputs(engine);
    if (n_in + n_out > 2 * MAX_IO || tdn_context_create(&context, engine, NULL, NULL) != TDN_OK)
        return;
    bool ok = true;
    for (int i = 0; i < n_in + n_out && ok; i++) {
        tdn_io_info io = {.struct_size = sizeof io};
        if (i < n_in)
            tdn_engine_input(engine, 0, i, &io);
        else
            tdn_engine_output(engine, 0, i - n_in, &io);
        size_t n = 1;
        for (int k = 0; k < io.rank; k++)
            n *= (size_t)io.dims[k];
        n = tdn_dtype_size(io.dtype, n);
        memory[i] = n < CAP ? calloc(n + 1, 1) : NULL;
        const tdn_tensor t = tdn_tensor_make(memory[i], io.dtype, io.rank, io.dims);
        ok = memory[i] && tdn_context_bind(context, io.name, &t) == TDN_OK;
    }
    tdn_step_info step = {.struct_size = sizeof step};
    int64_t flops = 0;
    for (int i = 0; ok && i < tdn_context_n_steps(context, 0); i++)
        if (tdn_context_step(context, 0, i, &step) == TDN_OK)
            flops += step.flops + step.bytes;
    if (ok && flops < 20 << 20 && tdn_context_run(context) == TDN_E_INTERNAL)
        abort();
    for (int i = 0; i < n_in + n_out; i++)
        free(memory[i]);
    tdn_context_free(context);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    capped memory = {.cap = CAP};
    const tdn_allocator allocator = {capped_alloc, capped_free, &memory};
    const tdn_model_options options = {.struct_size = sizeof options, .allocator = &allocator};
    tdn_build_options build = TDN_BUILD_OPTIONS_INIT;
    tdn_model *model;
    tdn_error error;
    void *plan;
    size_t plan_size;
    build.workspace = CAP;
    build.optimization_level = 0; /* the same way each time */
    if (tdn_model_load_memory(&model, data, size, NULL, &options, &error) != TDN_OK)
        return 0;
    const tdn_status status = tdn_build(model, &build, &plan, &plan_size, &error);
    if (status == TDN_E_INTERNAL)
        abort(); /* a pass broke the graph, or lowering lost a value */
    if (status == TDN_OK) {
        const tdn_engine_options few = {.struct_size = sizeof few, .allocator = &allocator};
        tdn_engine *engine;
        const tdn_status loaded = tdn_engine_load_memory(&engine, plan, plan_size, &few, &error);
        if (loaded != TDN_OK && loaded != TDN_E_NOMEM)
            abort(); /* the reader refuses what the compiler wrote */
        if (loaded == TDN_OK)
            run(engine);
        tdn_engine_free(engine);
        tdn_plan_free(plan);
    }
    tdn_model_free(model);
    if (memory.used != 0)
        abort(); /* a leak */
    return 0;
}
