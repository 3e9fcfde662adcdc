/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a model: an error, or a graph that verifies, with a description in JSON. The model's memory is capped,
 * so that a small file which asks for much shows, and so that the ways out of failing allocations are walked.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "build/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CAP = 512 << 20, HEADER = 4096 };

typedef struct meter {
    size_t used;
} meter;

static void *capped_alloc(void *user, size_t size, size_t align)
{
    meter *m = user;
    const size_t header = align > 64 ? HEADER : 64;
    if (size > CAP - m->used)
        return NULL;
    char *memory = tdn_alloc(NULL, size + header, align > 64 ? align : 64);
    if (!memory)
        return NULL;
    m->used += size;
    memory += header;
    memcpy(memory - 16, &size, sizeof size);
    memcpy(memory - 8, &header, sizeof header);
    return memory;
}

static void capped_free(void *user, void *memory)
{
    meter *m = user;
    size_t size, header;
    if (!memory)
        return;
    memcpy(&size, (char *)memory - 16, sizeof size);
    memcpy(&header, (char *)memory - 8, sizeof header);
    m->used -= size;
    tdn_free(NULL, (char *)memory - header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    meter used = {0};
    const tdn_allocator allocator = {capped_alloc, capped_free, &used};
    const tdn_model_options options = {sizeof options, &allocator, NULL, NULL};
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
    if (used.used != 0)
        abort(); /* a leak */
    return 0;
}
