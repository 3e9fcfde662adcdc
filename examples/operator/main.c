/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Compiles a model that uses the operator of teager.c, and runs it: teager MODEL.onnx. The model's
 * output is the mean energy of each channel of a window; that of A sin(w t) is (A sin w)^2, which
 * the last column shows.
 */
#include <math.h>
#include <stdio.h>

#include <tendon/build.h>

#include "teager.h"

enum { TIMES = 200, CHANNELS = 4 };

static tdn_status compile(const char *path, void **plan, size_t *size, tdn_error *error)
{
    tdn_model_options options = TDN_MODEL_OPTIONS_INIT;
    options.operators = tdn_operators(&options.n_operators);
    tdn_model *model;
    tdn_status status = tdn_model_load(&model, path, &options, error);
    if (status != TDN_OK)
        return status;
    status = tdn_build(model, NULL, plan, size, error);
    tdn_model_free(model);
    return status;
}

static tdn_status run(const void *plan, size_t size, float *window, float *energy, tdn_error *error)
{
    tdn_engine_options options = TDN_ENGINE_OPTIONS_INIT;
    options.operators = tdn_operators(&options.n_operators);
    tdn_engine *engine;
    tdn_context *context;
    tdn_status status = tdn_engine_load_memory(&engine, plan, size, &options, error);
    if (status != TDN_OK)
        return status;
    status = tdn_context_create(&context, engine, NULL, error);
    if (status == TDN_OK) {
        const tdn_tensor x =
            tdn_tensor_make(window, TDN_F32, 3, (const int64_t[]){1, TIMES, CHANNELS});
        const tdn_tensor y = tdn_tensor_make(energy, TDN_F32, 2, (const int64_t[]){1, CHANNELS});
        status = tdn_context_bind(context, "emg", &x);
        if (status == TDN_OK)
            status = tdn_context_bind(context, "energy", &y);
        if (status == TDN_OK)
            status = tdn_context_run(context);
        if (status != TDN_OK)
            snprintf(error->text, sizeof error->text, "%s", tdn_context_error(context));
        tdn_context_free(context);
    }
    tdn_engine_free(engine);
    return status;
}

int main(int argc, char **argv)
{
    static float window[TIMES * CHANNELS], energy[CHANNELS];
    tdn_error error;
    void *plan;
    size_t size;
    if (argc != 2) {
        fprintf(stderr, "usage: teager MODEL.onnx\n");
        return 2;
    }
    for (int t = 0; t < TIMES; t++)
        for (int c = 0; c < CHANNELS; c++)
            window[t * CHANNELS + c] = (float)((c + 1) * sin(0.1 * (c + 1) * t));
    tdn_status status = compile(argv[1], &plan, &size, &error);
    if (status == TDN_OK) {
        status = run(plan, size, window, energy, &error);
        tdn_plan_free(plan);
    }
    if (status != TDN_OK) {
        fprintf(stderr, "teager: %s\n", error.text);
        return 1;
    }
    for (int c = 0; c < CHANNELS; c++)
        printf("channel %d: %.4f (%.4f)\n", c, energy[c], pow((c + 1) * sin(0.1 * (c + 1)), 2));
    return 0;
}
