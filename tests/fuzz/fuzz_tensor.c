/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a tensor's file (input_0.pb): an error, or a tensor whose every element can be read,
 * with a bool that is 0 or 1, in memory that stands in a proportion to the file. */
#include <stdint.h>
#include <stdlib.h>

#include "base/view.h"
#include "tendon/build.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    tdn_tensor t;
    tdn_error error;
    if (tdn_tensor_load_memory(&t, data, size, &error) != TDN_OK) {
        if (t.data)
            abort();
        return 0;
    }
    int64_t n;
    if (t.rank < 0 || t.rank > TDN_MAX_RANK || !tdn_dims_count(t.dims, t.rank, &n))
        abort();
    const size_t n_bytes = tdn_dtype_size(t.dtype, (size_t)n);
    if (n_bytes / 8 > size)
        abort();
    volatile uint8_t sum = 0;
    for (size_t k = 0; k < n_bytes; k++) {
        const uint8_t byte = ((const uint8_t *)t.data)[k];
        if (t.dtype == TDN_BOOL && byte > 1)
            abort();
        sum = (uint8_t)(sum + byte);
    }
    tdn_tensor_free(&t);
    return 0;
}
