/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a calibration runs on: the calls that `run` would make of the same file, where an axis in
 * front of all of an input's is one of samples, too; or seeded values.
 */
#ifndef TDN_CLI_SAMPLES_H
#define TDN_CLI_SAMPLES_H

#include "cli/feed.h"
#include "tendon/calibrate.h"

typedef struct tdn_samples {
    tdn_arena *arena;
    tdn_arrays arrays; /* path NULL: seeded values */
    tdn_ports ports;   /* with the shapes that the model is compiled for */
    tdn_shape_set shapes;
    tdn_feed feed;
    tdn_tensor *tensors; /* of the batch at hand */
} tdn_samples;

/* `path` NULL: seeded values. `build` has the shapes and states. TDN_E_IO, TDN_E_FORMAT and
 * TDN_E_SHAPE for data that is not the model's; after a failure, too, tdn_samples_close releases
 * all. */
tdn_status tdn_samples_open(tdn_samples *samples, const char *path, const tdn_model *model,
                            const tdn_build_options *build, tdn_error *error);
void tdn_samples_close(tdn_samples *samples);
/* Of a calibration's options; user: the samples. */
tdn_calibrate_next_fn tdn_samples_next;
/* Warns, by the build's log, of channels that have one value in all samples. */
tdn_status tdn_samples_check_channels(const tdn_samples *samples, const tdn_build_options *build,
                                      tdn_error *error);

#endif
