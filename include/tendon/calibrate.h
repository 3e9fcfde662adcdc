/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Calibration: which numbers a model's values take on sample data, and so by which scale each is
 * kept in 8 bits. For tdn_build with TDN_PRECISION_INT8.
 *
 *     tdn_calibrate_options options = TDN_CALIBRATE_OPTIONS_INIT;
 *     options.n_batches = 256;
 *     options.next = next_window; // hands out inputs
 *     options.data_name = "calib.npz";
 *     if (tdn_calibrate(&calibration, model, &options, &err)) ...
 *     if (tdn_calibration_save(calibration, "emg.calib", &err)) ... // for the next build
 *     build_options.precision = TDN_PRECISION_INT8;
 *     build_options.calibration = calibration;
 *     if (tdn_build_file(model, &build_options, "emg.plan", &err)) ...
 *     tdn_calibration_free(calibration);
 *
 * Part of libtendon-build; the rules of tendon.h on ownership, errors and struct_size hold. Nothing
 * here is real-time. A calibration does not change once it is made: any number of threads may read
 * it.
 */
#ifndef TENDON_CALIBRATE_H
#define TENDON_CALIBRATE_H

#include "tendon/build.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How the largest magnitude that stays exact enough is chosen; what lies beyond is clipped to it.
 */
typedef enum tdn_calibration_method {
    /* Where the 8-bit distribution has least Kullback-Leibler divergence from the observed one. */
    TDN_CALIBRATION_ENTROPY = 0,
    TDN_CALIBRATION_MINMAX = 1,    /* the largest observed: nothing is clipped */
    TDN_CALIBRATION_PERCENTILE = 2 /* what so many percent of the observed do not exceed */
} tdn_calibration_method;

/* ---- Ranges ---------------------------------------------------------------------------------- */

/*
 * The range of one value, by its name in the model (of an input, too). A value q in 8 bits stands
 * for q * amax / 127 in -127..127, or for q * amax / 255 in 0..255 where is_unsigned.
 */
typedef struct tdn_calibration_range {
    uint32_t struct_size; /* set by the caller */
    int32_t is_unsigned;  /* not 0: no observed number is negative */
    const char *name;     /* the calibration's */
    double amax;          /* > 0; amax / 127 is a float exactly, so that files keep it whole */
    double min, max;      /* observed, NaN and infinities aside; of a file: what amax covers */
    double clipped;       /* share of the observed beyond amax, 0..1; of a file: -1 */
} tdn_calibration_range;

/* Fills *range. TDN_E_ARG where no value of that name was observed. */
TDN_API tdn_status tdn_calibration_find(const tdn_calibration *calibration, const char *name,
                                        tdn_calibration_range *range);
TDN_API int tdn_calibration_n_ranges(const tdn_calibration *calibration);
/* By index, in the order in which the network makes them; of a file: as they stand there. TDN_E_ARG
 * for an index out of range. */
TDN_API tdn_status tdn_calibration_range_at(const tdn_calibration *calibration, int index,
                                            tdn_calibration_range *range);

/* What a calibration was made from. Texts are the calibration's; "" where unknown. */
typedef struct tdn_calibration_info {
    uint32_t struct_size;
    const char *origin; /* in words, for plans: "entropy, 256 batches of calib.npz, sha256 1f..." */
    const char *method; /* "entropy", "minmax", "percentile=99.99" */
    const char *graph;  /* SHA-256 in hex: of the model's nodes, of its weights, of the data */
    const char *weights;
    const char *data;
    const char *version; /* of Tendon */
    int64_t n_batches;
} tdn_calibration_info;
TDN_API tdn_status tdn_calibration_get_info(const tdn_calibration *calibration,
                                            tdn_calibration_info *info);

/* Takes NULL. */
TDN_API void tdn_calibration_free(tdn_calibration *calibration);

/* ---- Calibrating ----------------------------------------------------------------------------- */

/*
 * Points *inputs at the tensors of batch `batch`: one for each input of the model, in its order and
 * without states, of the shapes that the model was compiled for. They stay the callee's and valid
 * until the next call. The data is walked several times, each time from batch 0 on. A failure ends
 * the calibration with that status and text.
 */
typedef tdn_status tdn_calibrate_next_fn(void *user, int64_t batch, const tdn_tensor **inputs,
                                         tdn_error *error);

typedef struct tdn_calibrate_options {
    uint32_t struct_size;
    tdn_calibration_method method;
    double percentile;           /* of TDN_CALIBRATION_PERCENTILE, 50..100; 0: 99.99 */
    int32_t n_threads;           /* 0: all cores. Nothing but the time depends on it */
    const tdn_shape_set *shapes; /* NULL: the model's own */
    const tdn_state_spec *states;
    int32_t n_states;
    const struct tdn_operator *operators; /* of the caller's own: operator.h */
    int32_t n_operators;
    int64_t n_batches; /* at least 1 */
    tdn_calibrate_next_fn *next;
    void *next_user;
    const char *data_name; /* recorded, e.g. the file's name; NULL: "data" */
    const char *origin;    /* recorded in plans instead of method and data; NULL: those */
    tdn_log_fn *log;
    void *log_user;
    tdn_progress_fn *progress;
    void *progress_user;
} tdn_calibrate_options;
#define TDN_CALIBRATE_OPTIONS_INIT                                                                 \
    {                                                                                              \
        .struct_size = sizeof(tdn_calibrate_options)                                               \
    }

/*
 * Compiles the model in float32, runs it twice over the data and looks at each float32 value that
 * it keeps in memory: first for the range, then for the distribution within it. Counts are exact,
 * so neither the order of batches nor the number of threads changes a bit of the result. NaN and
 * infinities inside the network are left out, with a warning; in an input they are an error.
 * Returns   TDN_OK: *calibration is the caller's, for tdn_calibration_free; TDN_E_ARG for options
 * that break a rule; TDN_E_FORMAT for inputs that are not finite; what tdn_build, tdn_engine_load,
 * tdn_context_run and `next` return. After a failure *calibration is NULL. Threads   as the model.
 */
TDN_API tdn_status tdn_calibrate(tdn_calibration **calibration, tdn_model *model,
                                 const tdn_calibrate_options *options, tdn_error *error);

/*
 * Is the calibration of this model; and, where options are given, of this method and this data
 * (which is walked once, without running the model)? Of options only method, percentile, states,
 * n_batches and next count; next NULL: any data. What is unknown of a calibration passes.
 * Returns   TDN_OK; TDN_E_FORMAT with what has changed; TDN_E_NOMEM; what `next` returns.
 */
TDN_API tdn_status tdn_calibration_check(const tdn_calibration *calibration, tdn_model *model,
                                         const tdn_calibrate_options *options, tdn_error *error);

/* Does the graph have operators that hold their own scales, such as QuantizeLinear? Then int8 needs
 * no calibration. Never fails. */
TDN_API int tdn_model_has_scales(const tdn_model *model);

/* ---- Files ----------------------------------------------------------------------------------- */

/*
 * Writes TensorRT's calibration cache: text, a first line "TRT-...-EntropyCalibration2", then a
 * line "name: 3c010a14" a value, which are the bits of the float amax / 127. Beside it,
 * `<path>.json` says what it was made from. Each is written aside, then renamed. TDN_E_ARG for a
 * name that the format cannot hold (a line break); TDN_E_IO; TDN_E_NOMEM.
 */
TDN_API tdn_status tdn_calibration_save(const tdn_calibration *calibration, const char *path,
                                        tdn_error *error);
/*
 * Reads such a file, Tendon's or TensorRT's own (of any version; EntropyCalibration2,
 * EntropyCalibration, MinMaxCalibration or LegacyCalibration), and `<path>.json` where there is
 * one. Without it the origin is unknown: info.graph is "". Returns   TDN_OK: *calibration is the
 * caller's; TDN_E_IO; TDN_E_FORMAT with the line that is damaged, or where the two files are not of
 * one calibration; TDN_E_NOMEM. After a failure *calibration is NULL.
 */
TDN_API tdn_status tdn_calibration_load(tdn_calibration **calibration, const char *path,
                                        tdn_error *error);
/* The same from memory, which may go afterwards; `path` for errors. json NULL: there is none. */
TDN_API tdn_status tdn_calibration_load_memory(tdn_calibration **calibration, const void *cache,
                                               size_t size, const void *json, size_t json_size,
                                               const char *path, tdn_error *error);

#ifdef __cplusplus
}
#endif
#endif
