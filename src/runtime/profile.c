/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a step is and how long it took. Times are taken by the step loop where the context was
 * created to profile: two looks at the clock a step. A loop's or branch's time leaves out that of
 * the steps inside.
 */
#include <string.h>

#include "runtime/runtime.h"

static const tdn_engine_program *program_at(const tdn_context *c, int program)
{
    return c && program >= 0 && (uint32_t)program < c->engine->plan->n_programs
               ? &c->engine->programs[program]
               : NULL;
}

int tdn_context_n_steps(const tdn_context *c, int program)
{
    const tdn_engine_program *p = program_at(c, program);
    return p ? (int)p->plan->n_steps : 0;
}

tdn_status tdn_context_step(const tdn_context *c, int program, int step, tdn_step_info *info)
{
    const tdn_engine_program *p = program_at(c, program);
    if (!p || !info || step < 0 || (uint32_t)step >= p->plan->n_steps)
        return TDN_E_ARG;
    const tdn_engine_step *s = &p->steps[step];
    const tdn_step_times times = c->times ? c->times[program][step] : (tdn_step_times){0};
    const tdn_step_info all = {
        .struct_size = info->struct_size,
        .name = s->plan->name,
        .kernel = s->shown,
        .flops = s->flops,
        .bytes = s->bytes,
        .n_tiles = (int64_t)s->n_tiles,
        .n_runs = times.n,
        .total_ns = times.total,
        .min_ns = times.min,
        .max_ns = times.max,
    };
    memcpy(info, &all, info->struct_size < sizeof all ? info->struct_size : sizeof all);
    return TDN_OK;
}

void tdn_context_profile_reset(tdn_context *c)
{
    for (uint32_t i = 0; c->times && i < c->engine->plan->n_programs; i++)
        memset(c->times[i], 0, c->engine->programs[i].plan->n_steps * sizeof **c->times);
}
