/* SPDX-License-Identifier: Apache-2.0 */
/* Building, loading and running by the public interface. */
#include "build/probe.h"

#include "base/status.h"
#include "base/view.h"

static tdn_status build_engine(tdn_probe *p, tdn_model *model, const tdn_build_options *given)
{
    size_t size;
    const tdn_calibrate_options *o = p->batches->o;
    tdn_build_options build = *given;
    tdn_engine_options engine = TDN_ENGINE_OPTIONS_INIT;
    build.optimization_level = 0;
    build.n_threads = o->n_threads;
    build.shapes = o->shapes;
    build.n_shapes = o->shapes ? 1 : 0;
    build.states = o->states;
    build.n_states = o->n_states;
    engine.log = build.log;
    engine.log_user = build.log_user;
    engine.allocator = model->allocator;
    engine.operators = o->operators;
    engine.n_operators = o->n_operators;
    TDN_TRY(tdn_build(model, &build, &p->plan, &size, p->error));
    return tdn_engine_load_memory(&p->engine, p->plan, size, &engine, p->error);
}

static tdn_status make_context(tdn_probe *p, const tdn_allocator *allocator)
{
    tdn_pool_options pool = TDN_POOL_OPTIONS_INIT;
    tdn_context_options context = TDN_CONTEXT_OPTIONS_INIT;
    pool.n_threads = p->batches->o->n_threads;
    pool.allocator = allocator;
    TDN_TRY(tdn_pool_create(&p->pool, &pool, p->error));
    context.pool = p->pool;
    return tdn_context_create(&p->context, p->engine, &context, p->error);
}

static tdn_status fail_context(const tdn_probe *p, tdn_status status)
{
    return tdn_fail(p->error, status, "%s", tdn_context_error(p->context));
}

static tdn_status bind(const tdn_probe *p, const char *name, const tdn_tensor *t)
{
    const tdn_status status = tdn_context_bind(p->context, name, t);
    return status == TDN_OK ? TDN_OK : fail_context(p, status);
}

static tdn_status bind_output(tdn_probe *p, int index)
{
    tdn_io_info info = {.struct_size = sizeof info};
    int64_t n;
    TDN_TRY(tdn_engine_output(p->engine, 0, index, &info));
    if (!tdn_dims_count(info.dims, info.rank, &n))
        return tdn_fail_nomem(p->error, "the outputs");
    void *data = tdn_arena_alloc_data(p->arena, tdn_dtype_size(info.dtype, (size_t)n));
    if (!data)
        return tdn_fail_nomem(p->error, "the outputs");
    p->names[index] = info.name;
    p->bounded[index] = info.bounded;
    p->outputs[index] = tdn_tensor_make(data, info.dtype, info.rank, info.dims);
    return bind(p, info.name, &p->outputs[index]);
}

static tdn_status bind_outputs(tdn_probe *p)
{
    const int n = tdn_engine_n_outputs(p->engine);
    p->names = tdn_arena_alloc(p->arena, (size_t)n + 1, sizeof *p->names);
    p->bounded = tdn_arena_alloc(p->arena, (size_t)n + 1, sizeof *p->bounded);
    p->outputs = tdn_arena_alloc(p->arena, (size_t)n + 1, sizeof *p->outputs);
    if (!p->names || !p->bounded || !p->outputs)
        return tdn_fail_nomem(p->error, "the outputs");
    p->n_outputs = n;
    for (int i = 0; i < n; i++)
        TDN_TRY(bind_output(p, i));
    return TDN_OK;
}

tdn_status tdn_probe_open(tdn_probe *p, tdn_model *model, const tdn_build_options *build,
                          const tdn_batches *batches, tdn_error *error)
{
    *p = (tdn_probe){.batches = batches, .error = error};
    p->arena = tdn_arena_create(model->allocator);
    if (!p->arena)
        return tdn_fail_nomem(error, "the outputs");
    TDN_TRY(build_engine(p, model, build));
    TDN_TRY(make_context(p, model->allocator));
    return bind_outputs(p);
}

void tdn_probe_close(tdn_probe *p)
{
    tdn_context_free(p->context);
    tdn_pool_free(p->pool);
    tdn_engine_free(p->engine);
    tdn_plan_free(p->plan);
    tdn_arena_free(p->arena);
}

static tdn_status run(tdn_probe *p)
{
    const tdn_status status = tdn_context_run(p->context);
    if (status != TDN_OK)
        return fail_context(p, status);
    for (int i = 0; i < p->n_outputs; i++)
        if (p->bounded[i])
            TDN_TRY(tdn_context_output_dims(p->context, p->names[i], p->outputs[i].dims));
    return TDN_OK;
}

tdn_status tdn_probe_run(tdn_probe *p, int64_t batch, const tdn_tensor *inputs)
{
    for (int i = 0; i < p->batches->n_inputs; i++)
        TDN_TRY(bind(p, p->batches->inputs[i], &inputs[i]));
    const tdn_status status = run(p);
    return status == TDN_OK
               ? TDN_OK
               : tdn_fail_while(p->error, status, "running batch %lld", (long long)batch);
}
