/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An operator from outside of Tendon: the Teager-Kaiser energy of each channel,
 *     y[t] = x[t] * x[t] - x[t - 1] * x[t + 1]
 * (J. F. Kaiser, "On a simple algorithm to calculate the 'energy' of a signal", ICASSP 1990), which
 * finds the onset of muscle activity. x and y are (samples, time, channels); attribute `boundary`
 * says what the first and last sample are: 0, or the neighbour's ("copy").
 *
 * Built into the program beside it, and as a library that the command loads.
 */
#include "teager.h"

#include <string.h>

static tdn_status infer(const tdn_operator_call *call, tdn_error *error)
{
    const tdn_tensor *x = &call->in[0];
    const char *boundary = tdn_operator_string(call, "boundary", "zero");
    if (x->dtype != TDN_F32 || x->rank != 3)
        return tdn_operator_fail(error, TDN_E_MODEL, "takes float32 of rank 3, not %s of rank %d",
                                 tdn_dtype_name(x->dtype), x->rank);
    if (strcmp(boundary, "zero") != 0 && strcmp(boundary, "copy") != 0)
        return tdn_operator_fail(error, TDN_E_MODEL, "boundary '%s' is neither zero nor copy",
                                 boundary);
    call->out[0].dtype = TDN_F32;
    call->out[0].rank = x->rank;
    memcpy(call->out[0].dims, x->dims, sizeof x->dims);
    return TDN_OK;
}

static void energy(const float *x, float *y, int64_t n_times, int64_t n_channels, int copy)
{
    for (int64_t c = 0; c < n_channels; c++) {
        for (int64_t t = 1; t + 1 < n_times; t++) {
            const float *at = x + t * n_channels + c;
            y[t * n_channels + c] = at[0] * at[0] - at[-n_channels] * at[n_channels];
        }
        const int64_t last = (n_times - 1) * n_channels + c;
        y[c] = copy && n_times > 2 ? y[n_channels + c] : 0;
        y[last] = copy && n_times > 2 ? y[last - n_channels] : 0;
    }
}

static tdn_status run(const tdn_operator_call *call, tdn_error *error)
{
    (void)error;
    const tdn_tensor *x = &call->in[0];
    const int copy = strcmp(tdn_operator_string(call, "boundary", "zero"), "copy") == 0;
    const int64_t n_times = x->dims[1], n_channels = x->dims[2], size = n_times * n_channels;
    for (int64_t i = 0; i < x->dims[0]; i++)
        energy((const float *)x->data + i * size, (float *)call->out[0].data + i * size, n_times,
               n_channels, copy);
    return TDN_OK;
}

const tdn_operator *tdn_operators(int32_t *n)
{
    static const tdn_operator rows[] = {{
        .struct_size = sizeof(tdn_operator),
        .domain = "emg",
        .name = "TeagerKaiser",
        .n_in_min = 1,
        .n_in_max = 1,
        .n_out_min = 1,
        .n_out_max = 1,
        .infer = infer,
        .run = run,
    }};
    *n = sizeof rows / sizeof rows[0];
    return rows;
}
