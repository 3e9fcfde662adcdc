/* SPDX-License-Identifier: Apache-2.0 */
/* Is a calibration of this model and this data, and does the model need one at all? */
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "build/batches.h"
#include "quant/calibration.h"

/* Two texts of which one may be unknown. */
static bool differs(const char *a, const char *b) { return *a && *b && strcmp(a, b) != 0; }

/* What is known of the present. */
typedef struct present {
    char graph[65], weights[65], data[65];
    const char *method;
} present;

static tdn_status hash_data(const tdn_batches *b, char text[65])
{
    for (int64_t batch = 0; batch < b->o->n_batches; batch++) {
        const tdn_tensor *inputs;
        TDN_TRY(tdn_batches_next(b, batch, &inputs));
        tdn_batches_add(b, batch, inputs);
    }
    tdn_batches_digest(b, text);
    return TDN_OK;
}

static tdn_status find_present(present *now, const tdn_calibration_info *info, tdn_model *model,
                               const tdn_calibrate_options *options, tdn_arena *arena,
                               tdn_error *error)
{
    tdn_batches batches;
    *now = (present){.method = ""};
    TDN_TRY(tdn_model_identity(model, now->graph, now->weights, error));
    if (!options)
        return TDN_OK;
    TDN_TRY(tdn_batches_open(&batches, model, options, arena, error));
    now->method = tdn_calibration_method_text(options->method, batches.percentile, arena);
    if (!now->method)
        return tdn_fail_nomem(error, "a calibration");
    return options->next && *info->data ? hash_data(&batches, now->data) : TDN_OK;
}

static tdn_status compare(const present *now, const tdn_calibration_info *info, tdn_error *error)
{
    const struct {
        const char *what, *is, *was;
    } rows[] = {{"the graph", now->graph, info->graph},
                {"the weights", now->weights, info->weights},
                {"the data", now->data, info->data},
                {"the method", now->method, info->method}};
    char list[200] = "";
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const size_t used = strlen(list);
        if (differs(rows[i].is, rows[i].was))
            snprintf(list + used, sizeof list - used, "%s%s", used ? " and " : "", rows[i].what);
    }
    if (!*list)
        return TDN_OK;
    return tdn_fail(error, TDN_E_FORMAT,
                    "the calibration is stale: %s changed since it was made (%s); calibrate again",
                    list, info->origin);
}

tdn_status tdn_calibration_check(const tdn_calibration *calibration, tdn_model *model,
                                 const tdn_calibrate_options *options, tdn_error *error)
{
    present now;
    if (!calibration || !model)
        return tdn_fail(error, TDN_E_ARG, "a calibration and a model are needed");
    tdn_arena *arena = tdn_arena_create(model->allocator);
    tdn_status status = arena ? find_present(&now, &calibration->info, model, options, arena, error)
                              : tdn_fail_nomem(error, "a calibration");
    if (status == TDN_OK)
        status = compare(&now, &calibration->info, error);
    tdn_arena_free(arena);
    return status;
}

/* ---- Models with scales ---------------------------------------------------------------------- */

static bool holds_scales(const char *domain, const char *op)
{
    static const char *const names[] = {"QuantizeLinear", "DequantizeLinear",
                                        "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"};
    (void)domain;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(op, names[i]) == 0)
            return true;
    return strncmp(op, "QLinear", 7) == 0;
}

int tdn_model_has_scales(const tdn_model *model)
{
    return model && tdn_onnx_any_node(model->onnx, holds_scales);
}
