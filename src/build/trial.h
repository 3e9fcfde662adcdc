/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a choice of precisions costs: the model is built with it, run on the samples, and its
 * outputs are held against those of the float32 build, which are kept.
 */
#ifndef TDN_BUILD_TRIAL_H
#define TDN_BUILD_TRIAL_H

#include "build/probe.h"
#include "tendon/budget.h"

typedef struct tdn_trials {
    tdn_model *model;
    const tdn_calibration *calibration;
    const tdn_budget_options *o;
    tdn_batches batches;
    tdn_arena *arena;
    tdn_error *error;
    int64_t n_runs;       /* batches whose outputs are compared */
    tdn_tensor *expected; /* [run * n_outputs + output]: of float32 */
    int n_outputs;
    int64_t n_right; /* decisions of float32 */
} tdn_trials;

typedef struct tdn_trial {
    double error; /* by the options' measure */
    double sqnr;  /* dB, of the worst output; infinite where nothing differs */
} tdn_trial;

/* Checks the options and runs the float32 build. TDN_E_ARG and what building and running return. */
tdn_status tdn_trials_begin(tdn_trials *trials, tdn_model *model,
                            const tdn_calibration *calibration,
                            const tdn_calibrate_options *samples, const tdn_budget_options *options,
                            tdn_arena *arena, tdn_error *error);
/* Builds in 8 bits with these precisions of layers; `product` is told of each. quick: without
 * labels, so that of TDN_BUDGET_ACCURACY there is no error. */
tdn_status tdn_trials_run(tdn_trials *trials, const tdn_layer_precision *layers, int32_t n_layers,
                          tdn_product_fn *product, void *user, bool quick, tdn_trial *trial);

#endif
