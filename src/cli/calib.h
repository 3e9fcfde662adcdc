/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ranges for builds in 8 bits, as the command line asks for them: from the arrays of a file, from a
 * cache, or, where only times are wanted, from seeded values.
 */
#ifndef TDN_CLI_CALIB_H
#define TDN_CLI_CALIB_H

#include "cli/compile.h"
#include "cli/samples.h"
#include "tendon/calibrate.h"

/* "entropy", "minmax", "percentile", "percentile=99.9". TDN_E_ARG. */
tdn_status tdn_calib_method_parse(const char *text, tdn_calibrate_options *options,
                                  tdn_error *error);
/* What runs over these samples, which are open; `build` has the states and the log. */
tdn_status tdn_calib_options(tdn_calibrate_options *options, tdn_samples *samples,
                             const tdn_compile_args *args, const tdn_build_options *build,
                             tdn_term *term, tdn_error *error);
/*
 * Calibrates on args->calib_data, or on seeded values where that is NULL (samples.h); `build` has
 * the shapes and states. *calibration is the caller's. Progress goes to `term`.
 */
tdn_status tdn_calib_make(tdn_calibration **calibration, const tdn_compile_args *args,
                          tdn_model *model, const tdn_build_options *build, tdn_term *term,
                          tdn_error *error);
/*
 * What a build with these arguments needs: NULL where it is neither in 8 bits nor in fp16 that its
 * targets multiply, or the model has scales of its own. A cache that is there is read, and refused
 * where it is stale; one that is not is written. TDN_E_ARG in words where there is nothing to
 * calibrate on.
 */
tdn_status tdn_calib_prepare(tdn_calibration **calibration, const tdn_compile_args *args,
                             tdn_model *model, const tdn_build_options *build, tdn_term *term,
                             tdn_error *error);

#endif
