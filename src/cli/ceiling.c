/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ceiling of a step is the longer of two times: that of its operations at the measured peak,
 * and that of its bytes at the measured bandwidth of second-level caches, where those hold all of
 * its operands, or else of memory. Nothing is capped: a share that is too good says something.
 */
#include "cli/ceiling.h"

#include <stdbool.h>
#include <stdio.h>

tdn_ceiling tdn_ceiling_of(const tdn_machine *machine, const tdn_step_info *step)
{
    const double ns = step->n_runs ? (double)step->total_ns / (double)step->n_runs : 0;
    const bool in_l2 = step->bytes >= 0 && (uint64_t)step->bytes <= machine->l2_size;
    const double giga = in_l2 ? machine->l2_gbs : machine->memory_gbs;
    const double compute =
        machine->fp32_gflops > 0 ? (double)step->flops / machine->fp32_gflops : 0;
    const double memory = giga > 0 ? (double)step->bytes / giga : 0;
    const double best = compute > memory ? compute : memory;
    if (ns <= 0 || best <= 0)
        return (tdn_ceiling){0, TDN_BOUND_NONE};
    return (tdn_ceiling){100 * best / ns, compute > memory ? TDN_BOUND_COMPUTE
                                          : in_l2          ? TDN_BOUND_L2
                                                           : TDN_BOUND_MEMORY};
}

const char *tdn_bound_name(tdn_bound bound)
{
    static const char *const names[] = {"", "compute", "memory", "memory"};
    return names[bound];
}

const char *tdn_ceiling_text(tdn_ceiling ceiling, char text[32])
{
    static const char *const roofs[] = {"", "fma", "L2", "mem"};
    if (ceiling.bound == TDN_BOUND_NONE)
        snprintf(text, 32, "-");
    else
        snprintf(text, 32, ceiling.share < 9.95 ? "%.1f %% %s" : "%.0f %% %s", ceiling.share,
                 roofs[ceiling.bound]);
    return text;
}

const char *tdn_machine_text(const tdn_machine *machine, char *text, size_t size)
{
    snprintf(
        text, size,
        "Ceiling: the share of what %d thread%s of this machine can do, measured after the "
        "steps: %.4g GFLOP/s of\nmultiply-adds (fma), or %.3g GB/s read from the L2 caches (L2: "
        "steps of up to %.3g MB) or %.3g GB/s from\nmemory (mem), whichever takes longer.",
        machine->n_threads, machine->n_threads == 1 ? "" : "s", machine->fp32_gflops,
        machine->l2_gbs, (double)machine->l2_size * 1e-6, machine->memory_gbs);
    return text;
}
