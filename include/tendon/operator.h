/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operators of the caller's own: what a model needs and Tendon lacks, or does another way.
 *
 *     static tdn_status infer(const tdn_operator_call *call, tdn_error *error) { ... }
 *     static tdn_status run(const tdn_operator_call *call, tdn_error *error) { ... }
 *     static const tdn_operator rows[] = {{
 *         .struct_size = sizeof(tdn_operator), .domain = "acme", .name = "Wild",
 *         .n_in_min = 1, .n_in_max = 1, .n_out_min = 1, .n_out_max = 1, .infer = infer, .run =
 * run}};
 *
 *     tdn_model_options model_options = TDN_MODEL_OPTIONS_INIT;      (to compile)
 *     model_options.operators = rows, model_options.n_operators = 1;
 *     tdn_engine_options engine_options = TDN_ENGINE_OPTIONS_INIT;   (to run)
 *     engine_options.operators = rows, engine_options.n_operators = 1;
 *
 * The command takes a shared library (--operators=LIB.so) that exports the rows:
 *     const tdn_operator *tdn_operators(int32_t *n);
 *
 * A plan names the operators that it needs, by domain and name; loading it without them is an error
 * that names the first. examples/operator/ is a whole one.
 */
#ifndef TENDON_OPERATOR_H
#define TENDON_OPERATOR_H

#include "tendon/tendon.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TDN_OPERATOR_MAX_IN 16
#define TDN_OPERATOR_MAX_OUT 8

/*
 * What the functions of an operator see: operands in host memory, dense and row-major whatever the
 * layout around them, data aligned to 64 bytes where Tendon owns it, else to the element's size.
 * Absent operands have the dtype TDN_DTYPE_NONE. All of it is valid during the call only.
 */
typedef struct tdn_operator_call {
    uint32_t struct_size;
    int32_t n_in, n_out;
    const tdn_tensor *in;
    tdn_tensor *out;
    const struct tdn_attrs *attrs; /* read by the functions below */
    void *scratch;                 /* what scratch_size asked for, aligned to 64 */
    void *user;                    /* the row's */
} tdn_operator_call;

/* An attribute's value, or `absent` where the node has none of that name and kind. */
TDN_API int64_t tdn_operator_int(const tdn_operator_call *call, const char *name, int64_t absent);
TDN_API float tdn_operator_float(const tdn_operator_call *call, const char *name, float absent);
TDN_API const char *tdn_operator_string(const tdn_operator_call *call, const char *name,
                                        const char *absent);
/* Lists: *n is their length, 0 with NULL where absent. */
TDN_API const int64_t *tdn_operator_ints(const tdn_operator_call *call, const char *name, int *n);
TDN_API const float *tdn_operator_floats(const tdn_operator_call *call, const char *name, int *n);
/* Fails with words, cut to fit; returns status: return tdn_operator_fail(error, TDN_E_MODEL, "axis
 * %d is too large", axis). */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
TDN_API tdn_status
tdn_operator_fail(tdn_error *error, tdn_status status, const char *format, ...);

/*
 * One operator. Rows and what they point to must outlive the model and the engine they are given
 * to. All functions may be called from several threads at once. A row whose domain and name are
 * those of one of Tendon's own operators, or of a function in the model, takes its place.
 */
typedef struct tdn_operator {
    uint32_t struct_size;
    const char *domain; /* "" or NULL: ONNX's own */
    const char *name;
    int32_t n_in_min, n_in_max;   /* at most TDN_OPERATOR_MAX_IN */
    int32_t n_out_min, n_out_max; /* at least 1, at most TDN_OPERATOR_MAX_OUT */
    /*
     * The shape rule, called while compiling: sets dtype, rank and dims of each output. Inputs have
     * data where they are constants, else NULL. An engine needs none, a model does. Returns
     * TDN_OK, or what is wrong with the node in words.
     */
    tdn_status (*infer)(const tdn_operator_call *call, tdn_error *error);
    /* Bytes of scratch, from dtypes and dims alone (data is NULL). NULL: none. */
    size_t (*scratch_size)(const tdn_operator_call *call);
    /*
     * Computes the outputs from the inputs and attributes, and from nothing else: equal nodes may
     * be merged. It is part of tdn_context_run, in the thread that called it: what shall be
     * real-time must not allocate, lock or call the system. Any status but TDN_OK ends the run.
     */
    tdn_status (*run)(const tdn_operator_call *call, tdn_error *error);
    void *user;
} tdn_operator;

#ifdef __cplusplus
}
#endif
#endif
