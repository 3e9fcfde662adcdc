/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The data of a calibration: batches as the caller hands them out, checked, and hashed so that a
 * calibration can be told to be of other data. The hash is one of the batches' sorted hashes, so
 * their order leaves no trace; with states, where batches depend on those before, of their hashes
 * in order.
 */
#ifndef TDN_BUILD_BATCHES_H
#define TDN_BUILD_BATCHES_H

#include "build/model.h"
#include "tendon/calibrate.h"

typedef struct tdn_batches {
    const tdn_calibrate_options *o;
    double percentile;   /* of the options, or the default */
    const char **inputs; /* names, as `next` hands them out */
    int n_inputs;
    uint8_t *digests; /* one a batch */
    tdn_error *error;
} tdn_batches;

/* Checks the options. `arena` holds what is made. TDN_E_ARG, TDN_E_NOMEM. */
tdn_status tdn_batches_open(tdn_batches *batches, tdn_model *model,
                            const tdn_calibrate_options *options, tdn_arena *arena,
                            tdn_error *error);
/* The file's name, or so. */
const char *tdn_batches_name(const tdn_batches *batches);
/* The tensors of a batch, once they are some. */
tdn_status tdn_batches_next(const tdn_batches *batches, int64_t batch, const tdn_tensor **inputs);
/* Are all numbers of this input finite? One that is not is a defect of the data: TDN_E_FORMAT. */
tdn_status tdn_batches_check(const tdn_batches *batches, int64_t batch, int input,
                             const tdn_tensor *tensor);
/* Each batch is to be added once; then the hash of all, in hex. */
void tdn_batches_add(const tdn_batches *batches, int64_t batch, const tdn_tensor *inputs);
void tdn_batches_digest(const tdn_batches *batches, char text[65]);

#endif
