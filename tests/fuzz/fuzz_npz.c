/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as an .npz or .npy file: an error or arrays whose every element can be read, never a
 * crash. */
#include <stddef.h>
#include <stdint.h>

#include "base/view.h"
#include "cli/npz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tdn_npz npz;
    if (tdn_npz_read_memory(&npz, data, size, NULL) != TDN_OK)
        return 0;
    volatile uint8_t sum = 0;
    for (int i = 0; i < npz.n; i++) {
        const tdn_tensor *t = &npz.arrays[i].tensor;
        int64_t n = 0;
        if (npz.arrays[i].why || !tdn_dims_count(t->dims, t->rank, &n))
            continue;
        for (size_t k = 0; k < tdn_dtype_size(t->dtype, (size_t)n); k++)
            sum = (uint8_t)(sum + ((const uint8_t *)t->data)[k]);
    }
    tdn_npz_free(&npz);
    return 0;
}
