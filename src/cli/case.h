/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One case of ONNX's backend tests: a folder with model.onnx and test_data_set_0, 1, ..., each with
 * input_K.pb and output_K.pb. The model is compiled for the inputs' shapes and run by the engine.
 *
 * Inputs are matched by position. An input whose value the compiler must know (the shape of a
 * Reshape) is made a constant: only when the model does not compile without, first the integers of
 * rank 0 or 1, then all inputs of rank 0 or 1.
 */
#ifndef TDN_CLI_CASE_H
#define TDN_CLI_CASE_H

#include "base/difference.h"
#include "tendon/build.h"

typedef enum tdn_verdict {
    TDN_CASE_PASSED,
    TDN_CASE_FAILED,
    TDN_CASE_UNSUPPORTED /* the model or a file is valid, but uses what Tendon lacks */
} tdn_verdict;

typedef struct tdn_case_options {
    tdn_tolerance tolerance;        /* of floating-point outputs; integers must be equal */
    const tdn_build_options *build; /* without shapes */
    tdn_pool *pool;
} tdn_case_options;

/* Runs all data sets, up to the first that does not pass. *why: the reason; of a case that passed,
 * which inputs had to be constants, or "". */
tdn_verdict tdn_case_run(const char *folder, const tdn_case_options *options, tdn_error *why);

#endif
