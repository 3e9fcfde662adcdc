/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The accuracy budget of a build in 8 bits: what 8 bits cost is measured on samples, and as many
 * layers as need be, the worst ones, are kept in halves or in float32.
 *
 *     tdn_budget_options options = TDN_BUDGET_OPTIONS_INIT;
 *     options.budget = 0.01;
 *     if (tdn_budget_choose(&budget, model, calibration, &samples, &options, &err)) ...
 *     build_options.layer_precisions = tdn_budget_layers(budget,
 * &build_options.n_layer_precisions); if (tdn_build_file(model, &build_options, "emg.plan", &err))
 * ... tdn_budget_free(budget); // the build is over
 *
 * Part of libtendon-build; the rules of tendon.h on ownership, errors and struct_size hold.
 */
#ifndef TENDON_BUDGET_H
#define TENDON_BUDGET_H

#include "tendon/calibrate.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tdn_budget tdn_budget;

/* What an error is, of an engine in 8 bits beside the one in float32; of several outputs that of
 * the worst. */
typedef enum tdn_budget_measure {
    TDN_BUDGET_RELATIVE = 0, /* root mean square of the difference by that of the output */
    TDN_BUDGET_ABSOLUTE = 1, /* mean of |difference| */
    TDN_BUDGET_ACCURACY = 2  /* right decisions fewer, as a share of all labels */
} tdn_budget_measure;

typedef struct tdn_budget_options {
    uint32_t struct_size;
    tdn_budget_measure measure;
    double budget; /* the largest error that is allowed; of relative ones, 0.01 is 1 % */
    /* Of TDN_BUDGET_ACCURACY: the right class of each row of the first output that has a row for
     * each label, batch after batch. What an output decides is the number of its row's largest
     * element; where a row has one element, that element. */
    const int64_t *labels;
    int64_t n_labels;
    /* As tdn_build_options has them: these stay as they are said. */
    const tdn_layer_precision *layer_precisions;
    int32_t n_layer_precisions;
    int32_t max_batches; /* of data to run on, spread over all of it, but for labels; 0: 32 */
    /* What layers are kept in where the budget holds so, else float32: TDN_PRECISION_FP16 or BF16,
     * which this machine and every target of the build to come must multiply. */
    tdn_precision kept;
} tdn_budget_options;
#define TDN_BUDGET_OPTIONS_INIT                                                                    \
    {                                                                                              \
        .struct_size = sizeof(tdn_budget_options)                                                  \
    }

/*
 * Builds the model in float32 and in 8 bits, runs both and compares. Where all of it in 8 bits is
 * over the budget, each layer is measured alone in 8 bits, and the least number of those that cost
 * most accuracy for the work that they save is found by bisection with which the budget holds, kept
 * in options->kept, or in float32 where not even all would do so; the choice is always one that was
 * measured. `samples` is as tdn_calibrate takes it; its method,
 * percentile, origin and log do not count. The same model, calibration and samples give the same
 * choice. Returns   TDN_OK: *budget is the caller's, for tdn_budget_free; TDN_E_ARG for options
 * that break a rule; TDN_E_FORMAT for labels where no output has a row for each, and for inputs
 * that are not finite; TDN_E_CHECK with the numbers where the budget does not hold with all in
 * float32 that may be; what tdn_build, tdn_engine_load, tdn_context_run and `next` return. After a
 * failure *budget is NULL. Threads   as the model.
 */
TDN_API tdn_status tdn_budget_choose(tdn_budget **budget, tdn_model *model,
                                     const tdn_calibration *calibration,
                                     const tdn_calibrate_options *samples,
                                     const tdn_budget_options *options, tdn_error *error);
/* Takes NULL. */
TDN_API void tdn_budget_free(tdn_budget *budget);

/*
 * The rows for tdn_build_options: the options' own, and those that keep layers wide, also
 * layers that the compiler estimates to be slower in 8 bits. With them a build has no layer in 8
 * bits that the measured one has not. They live as long as the budget.
 */
TDN_API const tdn_layer_precision *tdn_budget_layers(const tdn_budget *budget, int32_t *n_layers);

typedef struct tdn_budget_info {
    uint32_t struct_size;
    tdn_budget_measure measure;
    double budget;
    double error;       /* of the choice */
    double error_int8;  /* of all in 8 bits that can be */
    int32_t n_products; /* convolutions and products by constants that can be in 8 bits */
    int32_t n_int8;     /* of these, those that the choice has in 8 bits */
    int32_t n_builds;   /* in 8 bits, that were tried */
    /* All that in words, for people and tdn_build_options.accuracy; the budget's. */
    const char *text;
} tdn_budget_info;
TDN_API tdn_status tdn_budget_get_info(const tdn_budget *budget, tdn_budget_info *info);

/* A convolution or product by constants that can be in 8 bits. */
typedef struct tdn_budget_product {
    uint32_t struct_size;
    tdn_precision precision; /* of the choice: TDN_PRECISION_INT8, or what it is kept in */
    const char *name;        /* as tdn_product_info has it; the budget's */
    double work;             /* its share, 0..1 */
    /* Signal to noise of the outputs in dB with this one alone in 8 bits, of the worst output;
     * infinite where nothing changes, NaN where all in 8 bits held and it was not measured. */
    double sqnr;
    int32_t is_forced; /* not 0: by the options */
} tdn_budget_product;
/* By index, those first that cost most accuracy for the work that they save, or, where none was
 * measured, in the network's order. TDN_E_ARG for an index out of range. */
TDN_API tdn_status tdn_budget_product_at(const tdn_budget *budget, int index,
                                         tdn_budget_product *product);

#ifdef __cplusplus
}
#endif
#endif
