/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tendon's compiler: an ONNX model in, a plan out; and the reference evaluation that plans are
 * judged by.
 *
 *     tdn_model *model;
 *     tdn_build_options options = TDN_BUILD_OPTIONS_INIT;
 *     if (tdn_model_load(&model, "emg.onnx", NULL, &err)) ...
 *     if (tdn_build_file(model, &options, "emg.plan", &err)) ...
 *     tdn_model_free(model);
 *
 * A device does not need this library: it links libtendon alone. The rules of tendon.h on
 * ownership, errors and struct_size hold here too. Nothing here is real-time. A model may be used
 * by one thread at a time.
 */
#ifndef TENDON_BUILD_H
#define TENDON_BUILD_H

#include "tendon/tendon.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tdn_model tdn_model;
typedef struct tdn_calibration tdn_calibration; /* calibrate.h */

typedef struct tdn_model_options {
    uint32_t struct_size;
    const tdn_allocator *allocator; /* NULL: the C library's */
    tdn_log_fn *log;                /* NULL: silent */
    void *log_user;
    const struct tdn_operator *operators; /* of the caller's own: operator.h */
    int32_t n_operators;
} tdn_model_options;
#define TDN_MODEL_OPTIONS_INIT                                                                     \
    {                                                                                              \
        .struct_size = sizeof(tdn_model_options)                                                   \
    }

/*
 * Reads and parses an ONNX file and its external data; weights are used where they lie in that
 * copy, so the files may change afterwards. External data must lie in the model's folder or below
 * it. Returns   TDN_OK; TDN_E_IO, also where a file changes while it is read; TDN_E_MODEL for what
 * is not a valid model; TDN_E_NOMEM. Unsupported operators are no error here: see
 * tdn_model_describe and the build.
 */
TDN_API tdn_status tdn_model_load(tdn_model **model, const char *path,
                                  const tdn_model_options *options, tdn_error *error);
/* The same from memory, which must outlive the model. `folder` is where external data lies; NULL:
 * there is none. */
TDN_API tdn_status tdn_model_load_memory(tdn_model **model, const void *data, size_t size,
                                         const char *folder, const tdn_model_options *options,
                                         tdn_error *error);
/* Takes NULL. */
TDN_API void tdn_model_free(tdn_model *model);

/* An input or output as the model declares it: dims -1 where they are symbolic, with the symbol's
 * name or NULL. */
typedef struct tdn_model_io {
    uint32_t struct_size;
    const char *name;
    tdn_dtype dtype;
    int32_t rank; /* -1: undeclared */
    int64_t dims[TDN_MAX_RANK];
    const char *symbols[TDN_MAX_RANK];
} tdn_model_io;
TDN_API int tdn_model_n_inputs(const tdn_model *model); /* without initializers */
TDN_API int tdn_model_n_outputs(const tdn_model *model);
TDN_API tdn_status tdn_model_input(const tdn_model *model, int index, tdn_model_io *io);
TDN_API tdn_status tdn_model_output(const tdn_model *model, int index, tdn_model_io *io);

/*
 * Makes an input a constant, as an initializer of that name would: what decides about shapes (the
 * shape of a Reshape, the axes of a ReduceSum) must be known to the build. The value is copied. The
 * input is then gone from the model's list, and those behind it move up. Returns   TDN_OK;
 * TDN_E_ARG where the model has no such input or the value no data; TDN_E_SHAPE where type or shape
 * are not as declared; TDN_E_NOMEM.
 */
TDN_API tdn_status tdn_model_fix_input(tdn_model *model, const char *input, const tdn_tensor *value,
                                       tdn_error *error);

/* The shape of one input: in one program, or as the bounds of a range of programs. */
typedef struct tdn_shape_spec {
    const char *input;
    int32_t rank;
    int64_t dims[TDN_MAX_RANK];
} tdn_shape_spec;

/* A set of shapes is one program. Inputs that are not named keep the model's shape, symbolic axes
 * taken as 1. */
typedef struct tdn_shape_set {
    const tdn_shape_spec *specs;
    int32_t n_specs;
} tdn_shape_set;

typedef enum tdn_precision {
    TDN_PRECISION_FP32 = 0,
    TDN_PRECISION_FP16 = 1,
    TDN_PRECISION_INT8 = 2,
    TDN_PRECISION_BF16 = 3
} tdn_precision;
/* "fp32", "fp16", "int8", "bf16"; NULL for any other number. */
TDN_API const char *tdn_precision_name(tdn_precision precision);
/* Do CPUs of this target (NULL or "native": this one) multiply numbers of that precision? Without,
 * fp16 is a matter of storage, of weights alone, and bf16 does nothing. 0: no, or no such target.
 */
TDN_API int tdn_target_multiplies(const char *target, tdn_precision precision);

/* The precision of one layer, or of several, beside that of the build. */
typedef struct tdn_layer_precision {
    const char *layer; /* a node's name in the model; or, with * ? and [], a pattern of names */
    tdn_precision precision; /* any that all targets multiply, or TDN_PRECISION_FP32 */
} tdn_layer_precision;

/* What a build in 8 bits or halves makes of a convolution or product by constants. */
typedef struct tdn_product_info {
    uint32_t struct_size;
    const char *name; /* of the model's nodes in it, joined by " + "; valid during the call */
    double work;      /* its share of the work of all of them, 0..1 */
    tdn_precision precision;
    int32_t is_forced; /* not 0: by tdn_build_options.layer_precisions, or in float32 because that
                          is faster */
} tdn_product_info;
typedef void tdn_product_fn(void *user, const tdn_product_info *product);

/* A state: after each run the output's value becomes the input's. Neither is bound by the caller;
 * it starts at 0. */
typedef struct tdn_state_spec {
    const char *input;
    const char *output;
} tdn_state_spec;

/* phase counts from 1 to n_phases; fraction is how much of the phase is done, 0..1; what is its
 * title. */
typedef void tdn_progress_fn(void *user, int phase, int n_phases, const char *what,
                             double fraction);

typedef struct tdn_build_options {
    uint32_t struct_size;
    tdn_precision precision;
    int32_t optimization_level; /* 0..5; 3 is the default. 0: nothing is timed; 1, 2, 3 and 4:
                                   timing takes half a second, 1, 3 and 15 at most; 5: no limit */
    int32_t n_threads; /* for which the plan is made and with which it is built; 0: all cores */
    const char *const *targets; /* names; NULL: the native one */
    int32_t n_targets;
    const tdn_shape_set *shapes; /* one program each; NULL: the model's own */
    int32_t n_shapes;
    /* Instead of `shapes`: a range. Axes that differ must be the batch axis: programs for powers of
     * two and opt. */
    const tdn_shape_set *min_shapes, *opt_shapes, *max_shapes;
    const tdn_state_spec *states;
    int32_t n_states;
    uint64_t workspace; /* bytes of arena a context may use; 0: no limit */
    const char *dump;   /* log the graph after this pass ("import", ..., "all"); NULL: never */
    const char *flags;  /* recorded as provenance, e.g. the command line; NULL: none */
    tdn_log_fn *log;
    void *log_user;
    tdn_progress_fn *progress;
    void *progress_user;
    /* Faster kernels may need larger weights: those of a plan may have this many times the bytes
     * that they would have with the plain ones, and are spent where they save most time. 1: none
     * more; 0: 2, and 1.25 of plans in 8 bits. */
    double max_weights;
    /* Kernels are chosen by their times on this machine, taken during the build: for so many
     * seconds at most, the costliest steps first; 0: as optimization_level says. Level 0 takes no
     * times and chooses by estimates; so do targets that this machine cannot run. */
    double build_budget;
    /* A file to find times in and to add new ones to, so that builds need not take them again; made
     * where there is none. NULL: none. */
    const char *timing_cache;
    /* The cores to time kernels on, as a pool takes them. NULL and 0: the system places threads. */
    const int32_t *cores;
    int32_t n_cores;
    /* Of this model: for TDN_PRECISION_INT8 the ranges by which values are kept in 8 bits
     * (calibrate.h); NULL: none, which a model with scales of its own needs not. For
     * TDN_PRECISION_FP16 what tells values that would overflow, which then stay float32; NULL: they
     * are not known. */
    const tdn_calibration *calibration;
    /* In 8 bits with a calibration, or in halves that all targets multiply: layers to keep in
     * float32 or another precision, and layers to keep in that of the build though they are too
     * small to gain by it. A row holds for a convolution or product by constants where its
     * pattern matches one of the nodes in it (or their names as a tdn_product_info has them); of
     * several rows the last. One that matches none is an error. */
    const tdn_layer_precision *layer_precisions;
    int32_t n_layer_precisions;
    /* Called for each convolution and product by constants of each program. NULL: never. */
    tdn_product_fn *product;
    void *product_user;
    /* Recorded as provenance: what 8 bits cost, as it was measured. NULL: unknown. */
    const char *accuracy;
} tdn_build_options;
#define TDN_BUILD_OPTIONS_INIT                                                                     \
    {                                                                                              \
        .struct_size = sizeof(tdn_build_options), .optimization_level = 3                          \
    }

/*
 * Compiles to memory: *plan is `*size` bytes, aligned to 64, that tdn_plan_free takes. The same
 * model, options and version give the same bytes at optimization level 0, and at others with a
 * timing cache that has all times asked for; times taken anew may lead to other kernels. Returns
 * TDN_OK; TDN_E_ARG; TDN_E_MODEL; TDN_E_UNSUPPORTED with all unsupported nodes; TDN_E_SHAPE;
 * TDN_E_NOMEM.
 */
TDN_API tdn_status tdn_build(tdn_model *model, const tdn_build_options *options, void **plan,
                             size_t *size, tdn_error *error);
TDN_API void tdn_plan_free(void *plan);
/* Compiles and writes the file aside, then renames it: the old file stays until the new one is
 * whole. TDN_E_IO too. */
TDN_API tdn_status tdn_build_file(tdn_model *model, const tdn_build_options *options,
                                  const char *path, tdn_error *error);

/*
 * Describes the model as JSON text: inputs, outputs, opsets, nodes by operator with shapes,
 * parameters, FLOPs, and every unsupported node with its reason. shapes may be NULL. tdn_text_free
 * takes *json. Returns   TDN_OK (also where nodes are unsupported); TDN_E_MODEL; TDN_E_SHAPE;
 * TDN_E_NOMEM.
 */
TDN_API tdn_status tdn_model_describe(char **json, tdn_model *model, const tdn_shape_set *shapes,
                                      tdn_error *error);

/* ---- Tensors in files ------------------------------------------------------------------------ */

/*
 * Reads one tensor from a file in the form of ONNX's TensorProto, as the data sets of its backend
 * tests have them (`input_0.pb`). The data is the caller's, aligned to 64; tdn_tensor_free takes
 * it. Returns   TDN_OK; TDN_E_IO; TDN_E_MODEL for what is damaged or no tensor; TDN_E_UNSUPPORTED
 * for sequences, optionals, text, external data and element types that tdn_dtype lacks;
 * TDN_E_NOMEM. After a failure tensor->data is NULL. Threads   any number at a time.
 */
TDN_API tdn_status tdn_tensor_load(tdn_tensor *tensor, const char *path, tdn_error *error);
/* The same from memory, which may go afterwards. */
TDN_API tdn_status tdn_tensor_load_memory(tdn_tensor *tensor, const void *data, size_t size,
                                          tdn_error *error);
/* Frees the data and empties the tensor. Takes NULL, and a tensor that is empty. */
TDN_API void tdn_tensor_free(tdn_tensor *tensor);

/* ---- Reference evaluation -------------------------------------------------------------------- */

typedef struct tdn_reference tdn_reference;

/* Prepares the plain evaluation of the model for one set of shapes (NULL: the model's). The model
 * must outlive it. */
TDN_API tdn_status tdn_reference_create(tdn_reference **reference, tdn_model *model,
                                        const tdn_shape_set *shapes, int n_threads,
                                        tdn_error *error);
TDN_API void tdn_reference_free(tdn_reference *reference);
/* Evaluates. `inputs` in the order of the model's inputs. Values stay valid until the next
 * evaluation. */
TDN_API tdn_status tdn_reference_run(tdn_reference *reference, const tdn_tensor *inputs,
                                     int n_inputs, tdn_error *error);
/* Finds any value by its name in the model, outputs included. TDN_E_ARG when there is none of that
 * name. */
TDN_API tdn_status tdn_reference_value(const tdn_reference *reference, const char *name,
                                       tdn_tensor *value);

#ifdef __cplusplus
}
#endif
#endif
