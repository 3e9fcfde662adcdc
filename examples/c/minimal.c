/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The smallest program around Tendon's run time: loads a plan of examples/emg/emg_tcn.onnx,
 * classifies one second of EMG, and prints the gesture. It links libtendon alone, as a device does.
 * Here the muscles are silent.
 *
 *     tendon build examples/emg/emg_tcn.onnx -o emg.plan && cc examples/c/minimal.c -ltendon &&
 * ./a.out emg.plan
 */
#include <stdio.h>

#include <tendon/tendon.h>

int main(int argc, char **argv)
{
    static const char *const gestures[8] = {"rest",
                                            "wrist flexion",
                                            "wrist extension",
                                            "radial deviation",
                                            "ulnar deviation",
                                            "pronation",
                                            "supination",
                                            "fist"};
    static float window[200][8],
        logits[8]; /* 200 samples of 8 channels, scaled; one number a gesture */
    tdn_error error = {{0}};
    tdn_engine *engine = NULL;
    tdn_context *context = NULL;
    if (argc != 2) {
        fprintf(stderr, "usage: minimal PLAN\n");
        return 2;
    }
    if (tdn_engine_load(&engine, argv[1], NULL, &error) ||
        tdn_context_create(&context, engine, NULL, &error)) {
        fprintf(stderr, "%s\n", error.text);
        tdn_engine_free(engine);
        return 1;
    }
    const tdn_tensor in = tdn_tensor_make(window, TDN_F32, 3, (int64_t[]){1, 200, 8});
    const tdn_tensor out = tdn_tensor_make(logits, TDN_F32, 2, (int64_t[]){1, 8});
    const int failed = tdn_context_bind(context, "emg", &in) ||
                       tdn_context_bind(context, "logits", &out) || tdn_context_run(context);
    int best = 0;
    for (int i = 1; i < 8; i++)
        best = logits[i] > logits[best] ? i : best;
    puts(failed ? tdn_context_error(context) : gestures[best]);
    tdn_context_free(context);
    tdn_engine_free(engine);
    return failed ? 1 : 0;
}
