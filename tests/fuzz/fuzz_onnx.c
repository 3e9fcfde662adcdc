/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a model: an error, or a graph that verifies, with a description in JSON. The model's
 * memory is capped, so that a small file which asks for much shows, and so that the ways out of
 * failing allocations are walked.
 */
#include <stdint.h>
#include <stdlib.h>

#include "build/model.h"
#include "capped.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CAP = 512 << 20 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    capped memory = {.cap = CAP};
    const tdn_allocator allocator = {capped_alloc, capped_free, &memory};
    const tdn_model_options options = {.struct_size = sizeof options, .allocator = &allocator};
    tdn_model *model;
    tdn_error error;
    char *json;
    if (tdn_model_load_memory(&model, data, size, NULL, &options, &error) == TDN_OK) {
        const tdn_status status = tdn_model_describe(&json, model, NULL, &error);
        if (status == TDN_E_INTERNAL)
            abort(); /* the verifier found a broken graph, or a rule broke its promise */
        if (status == TDN_OK)
            tdn_text_free(json);
        tdn_model_free(model);
    }
    if (memory.used != 0)
        abort(); /* a leak */
    return 0;
}
