/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A model built in some precision, loaded and run over batches of data as an application would, by
 * the public interface: what calibrations and budgets look at. Nothing is timed, so a probe has the
 * same bits each time.
 */
#ifndef TDN_BUILD_PROBE_H
#define TDN_BUILD_PROBE_H

#include "build/batches.h"

typedef struct tdn_probe {
    const tdn_batches *batches;
    tdn_error *error;
    tdn_arena *arena;
    void *plan;
    tdn_engine *engine;
    tdn_pool *pool;
    tdn_context *context;
    const char **names; /* of the outputs */
    tdn_tensor *outputs;
    uint64_t *bounded; /* by output: not 0: a run decides about the dims */
    int n_outputs;
} tdn_probe;

/* Of `build` precision, calibration, layer precisions, product and log count; the rest is as the
 * batches' options have it. After a failure, too, tdn_probe_close releases all. */
tdn_status tdn_probe_open(tdn_probe *probe, tdn_model *model, const tdn_build_options *build,
                          const tdn_batches *batches, tdn_error *error);
void tdn_probe_close(tdn_probe *probe);
/* Runs once on these inputs; `outputs` then holds what came of it. */
tdn_status tdn_probe_run(tdn_probe *probe, int64_t batch, const tdn_tensor *inputs);

#endif
