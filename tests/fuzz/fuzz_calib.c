/* SPDX-License-Identifier: Apache-2.0 */
/* Any bytes as a calibration cache, and behind the first NUL as what stands beside it: an error
 * that has words, or ranges that are all usable and found by their names; never a crash. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "tendon/calibrate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ranges(const tdn_calibration *c)
{
    tdn_calibration_range r = {.struct_size = sizeof r}, found = r;
    tdn_calibration_info info = {.struct_size = sizeof info};
    for (int i = 0; tdn_calibration_range_at(c, i, &r) == TDN_OK; i++)
        if (!(r.amax > 0) || !isfinite(r.amax) || !(r.min <= 0) || !(r.max == r.amax) ||
            tdn_calibration_find(c, r.name, &found) != TDN_OK || found.name != r.name)
            abort();
    if (tdn_calibration_n_ranges(c) < 1 || tdn_calibration_get_info(c, &info) != TDN_OK ||
        !info.origin || !info.method || !info.graph || !info.weights || !info.data)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    const size_t n = nul ? (size_t)(nul - data) : size;
    tdn_calibration *c;
    tdn_error error = {""};
    const tdn_status status = tdn_calibration_load_memory(&c, data, n, nul ? nul + 1 : NULL,
                                                          nul ? size - n - 1 : 0, "fuzz", &error);
    if ((status == TDN_OK) != (c != NULL) || (status != TDN_OK && !error.text[0]))
        abort();
    if (c)
        check_ranges(c);
    tdn_calibration_free(c);
    return 0;
}
