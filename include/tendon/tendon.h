/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tendon's run time: load a plan, create a context, bind tensors, run.
 *
 *     tdn_error err;
 *     tdn_engine *engine;
 *     tdn_context *context;
 *     if (tdn_engine_load(&engine, "emg.plan", NULL, &err)) ...err.text says why...
 *     if (tdn_context_create(&context, engine, NULL, &err)) ...
 *     tdn_tensor in = tdn_tensor_make(window, TDN_F32, 3, (int64_t[]){1, 200, 8});
 *     tdn_tensor out = tdn_tensor_make(logits, TDN_F32, 2, (int64_t[]){1, 8});
 *     tdn_context_bind(context, "emg", &in);
 *     tdn_context_bind(context, "logits", &out);
 *     tdn_context_run(context);
 *     tdn_context_free(context);
 *     tdn_engine_free(engine);
 *
 * Objects     An engine is a loaded plan: immutable, shared by any number of threads. A context is
 * one execution state over an engine: one thread at a time. A pool is a set of worker threads that
 * contexts share. Ownership   Whoever creates frees. Freeing takes NULL. A creation that fails
 * leaves nothing to undo and stores NULL. Tensors that are bound belong to the caller and must
 * outlive the runs that use them. Errors      Every fallible function returns TDN_OK (0) or a
 * negative tdn_status and writes one or two lines of text, cause first, to the tdn_error it is
 * given (may be NULL) or to the context's. Structs     Options carry struct_size, set by their
 * _init macro, so that fields can be added later.
 */
#ifndef TENDON_TENDON_H
#define TENDON_TENDON_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TDN_API __attribute__((visibility("default")))

#define TDN_VERSION_MAJOR 0
#define TDN_VERSION_MINOR 1
#define TDN_VERSION_PATCH 0

/* "0.1.0": the version of the library that is linked, which may differ from the header's. Never
 * fails. */
TDN_API const char *tdn_version(void);

/* ---- Status and error text ------------------------------------------------------------------- */

typedef enum tdn_status {
    TDN_OK = 0,
    TDN_E_ARG = -1,    /* the caller broke a rule of this header */
    TDN_E_NOMEM = -2,  /* an allocation failed */
    TDN_E_IO = -3,     /* the system refused a file: the text has its words */
    TDN_E_FORMAT = -4, /* a plan, npz or cache file is damaged, truncated or not of that kind */
    TDN_E_MODEL = -5,  /* the model breaks ONNX's rules */
    TDN_E_UNSUPPORTED =
        -6,           /* the model is valid, but uses what Tendon lacks: the text lists all of it */
    TDN_E_SHAPE = -7, /* no program for these shapes: the text lists those there are */
    TDN_E_TARGET =
        -8, /* no section of the plan runs on this CPU: the text has the command that builds one */
    TDN_E_DEVICE = -9,   /* a backend failed while running */
    TDN_E_CHECK = -10,   /* a comparison did not hold */
    TDN_E_INTERNAL = -11 /* a defect of Tendon: please report it with the text */
} tdn_status;

/* "TDN_E_SHAPE" and so on; "TDN_E_?" for other numbers. Never fails. */
TDN_API const char *tdn_status_name(tdn_status status);

/* Text of a failure; the caller owns it and need not initialise it. Meaningful after a negative
 * status only. */
typedef struct tdn_error {
    char text[2048];
} tdn_error;

typedef enum tdn_log_level {
    TDN_LOG_ERROR,
    TDN_LOG_WARNING,
    TDN_LOG_INFO,
    TDN_LOG_VERBOSE
} tdn_log_level;

/* Receives one line without a newline. Called from the thread that called into Tendon, never from a
 * worker and never from tdn_context_run. */
typedef void tdn_log_fn(void *user, tdn_log_level level, const char *line);

/* Memory hook. alloc returns `size` bytes aligned to `align` (a power of two, at most 4096) or
 * NULL; free takes what alloc returned, or NULL. Both may be called from any thread. */
typedef struct tdn_allocator {
    void *(*alloc)(void *user, size_t size, size_t align);
    void (*free)(void *user, void *memory);
    void *user;
} tdn_allocator;

/* ---- Tensors --------------------------------------------------------------------------------- */

/* Element types. The numbers are part of the plan format. BOOL is one byte, 0 or 1. S4 and U4 hold
 * two elements a byte, the first in the low half. STRING appears in models only, never in a plan.
 */
typedef enum tdn_dtype {
    TDN_DTYPE_NONE = 0,
    TDN_F32 = 1,
    TDN_F16 = 2,
    TDN_BF16 = 3,
    TDN_F64 = 4,
    TDN_S8 = 5,
    TDN_U8 = 6,
    TDN_S16 = 7,
    TDN_U16 = 8,
    TDN_S32 = 9,
    TDN_U32 = 10,
    TDN_S64 = 11,
    TDN_U64 = 12,
    TDN_BOOL = 13,
    TDN_S4 = 14,
    TDN_U4 = 15,
    TDN_STRING = 16
} tdn_dtype;

/* "float32", "int8", ... as numpy says it. Never fails. */
TDN_API const char *tdn_dtype_name(tdn_dtype dtype);
/* Bytes that n dense elements take; 0 for NONE and STRING. */
TDN_API size_t tdn_dtype_size(tdn_dtype dtype, size_t n);

#define TDN_MAX_RANK 8

typedef enum tdn_memory { TDN_MEMORY_HOST = 0, TDN_MEMORY_DEVICE = 1 } tdn_memory;

/* A dense row-major tensor that the caller owns. dims are counts of elements; rank 0
 * is a scalar. */
typedef struct tdn_tensor {
    uint32_t struct_size;
    tdn_dtype dtype;
    tdn_memory memory;
    int32_t rank;
    int64_t dims[TDN_MAX_RANK];
    void *data;
} tdn_tensor;

static inline tdn_tensor tdn_tensor_make(void *data, tdn_dtype dtype, int rank, const int64_t *dims)
{
    tdn_tensor t = {sizeof t, dtype, TDN_MEMORY_HOST, rank, {0}, data};
    for (int i = 0; i < rank && i < TDN_MAX_RANK; i++)
        t.dims[i] = dims[i];
    return t;
}

/* ---- Worker threads -------------------------------------------------------------------------- */

typedef struct tdn_pool tdn_pool;

typedef struct tdn_pool_options {
    uint32_t struct_size;
    int32_t n_threads; /* with the calling thread; 0: one per core this process may use */
    int32_t spin_us;   /* how long an idle worker spins before it sleeps; -1: the default, 100 */
    const tdn_allocator *allocator; /* NULL: the C library's */
    /* Cores by the system's numbers: worker i stays on cores[i mod n_cores], and n_threads 0 means
     * as many as cores. cores[0] is the calling thread's, which is the application's to pin: no
     * function of Tendon moves a thread that calls it. NULL and 0: the system places them all. Read
     * while creating only. */
    const int32_t *cores;
    int32_t n_cores;
} tdn_pool_options;
#define TDN_POOL_OPTIONS_INIT                                                                      \
    {                                                                                              \
        sizeof(tdn_pool_options), 0, -1, NULL, NULL, 0                                             \
    }

/*
 * Starts n_threads - 1 workers. A pool serves one run at a time: a context that finds it busy runs
 * its tiles itself, so sharing one is always safe. options may be NULL. Returns   TDN_OK;
 * TDN_E_ARG, also for a core that is not there, that this process may not use, or that is named
 * twice; TDN_E_NOMEM; TDN_E_IO when the system refuses a thread.
 */
TDN_API tdn_status tdn_pool_create(tdn_pool **pool, const tdn_pool_options *options,
                                   tdn_error *error);
/* Ends the workers. No context that uses the pool may be running. Takes NULL. */
TDN_API void tdn_pool_free(tdn_pool *pool);
/* Threads that work on a run, the calling one included. */
TDN_API int tdn_pool_threads(const tdn_pool *pool);

/* ---- Engine ---------------------------------------------------------------------------------- */

typedef struct tdn_engine tdn_engine;

typedef struct tdn_engine_options {
    uint32_t struct_size;
    const tdn_allocator *allocator; /* NULL: the C library's; must outlive the engine */
    tdn_log_fn *log;                /* NULL: silent */
    void *log_user;
    const char *max_target; /* use no target section above this one ("x86-64-v3"); NULL: the best
                               this CPU runs */
    const struct tdn_operator *operators; /* of the caller's own: operator.h */
    int32_t n_operators;
} tdn_engine_options;
#define TDN_ENGINE_OPTIONS_INIT                                                                    \
    {                                                                                              \
        .struct_size = sizeof(tdn_engine_options)                                                  \
    }

/*
 * Reads the plan file, checks what it reads, and takes the best target section that this CPU runs.
 * The tables and that section's weights are copied to pages of the engine's own (not from the
 * allocator), and used where they lie: once loaded, the file may be changed, cut short or deleted
 * and the engine does not notice. A change while it loads is TDN_E_IO or TDN_E_FORMAT.
 * Returns   TDN_OK; TDN_E_IO; TDN_E_FORMAT; TDN_E_TARGET; TDN_E_UNSUPPORTED where the plan needs an
 * operator that `operators` lacks; TDN_E_ARG for rows that are none; TDN_E_NOMEM.
 */
TDN_API tdn_status tdn_engine_load(tdn_engine **engine, const char *path,
                                   const tdn_engine_options *options, tdn_error *error);
/* The same from memory: `plan` is aligned to 64 bytes, stays the caller's, and must outlive the
 * engine unchanged. */
TDN_API tdn_status tdn_engine_load_memory(tdn_engine **engine, const void *plan, size_t size,
                                          const tdn_engine_options *options, tdn_error *error);
/* Frees the engine; its contexts must be gone. Takes NULL. */
TDN_API void tdn_engine_free(tdn_engine *engine);

/* What an input or output looks like in one program. dims are the largest it takes; where
 * batch_axis >= 0 that axis may be bound shorter, by the same count on all of the program's inputs
 * and outputs. */
typedef struct tdn_io_info {
    uint32_t struct_size;
    const char *name; /* the engine's */
    tdn_dtype dtype;
    int32_t rank;
    int64_t dims[TDN_MAX_RANK];
    int32_t batch_axis;
    uint64_t
        bounded; /* bit i: the extent of axis i is known only after a run (dims[i] is its bound) */
} tdn_io_info;

/* A plan holds one or more programs: the same network for different shapes, ordered by size. */
TDN_API int tdn_engine_n_programs(const tdn_engine *engine);
TDN_API int tdn_engine_n_inputs(const tdn_engine *engine);
TDN_API int tdn_engine_n_outputs(const tdn_engine *engine);
/* Fills *info (struct_size set by the caller). TDN_E_ARG for an index out of range. */
TDN_API tdn_status tdn_engine_input(const tdn_engine *engine, int program, int index,
                                    tdn_io_info *info);
TDN_API tdn_status tdn_engine_output(const tdn_engine *engine, int program, int index,
                                     tdn_io_info *info);

/* Numbers and names about the loaded section. */
typedef struct tdn_engine_info {
    uint32_t struct_size;
    const char *target;    /* the section in use, e.g. "x86-64-v4" */
    uint64_t plan_size;    /* bytes of the file */
    uint64_t weights_size; /* bytes of packed weights in the section in use */
    uint64_t arena_size;   /* bytes of activations a context allocates */
    /* How the ranges of a plan in 8 bits were found, e.g. "entropy, 256 batches of calib.npz, ...";
     * begins with "none" where the outputs mean nothing; "" where it has none. */
    const char *calibration;
    const char *precision; /* that it was built with: "fp32", "int8" */
} tdn_engine_info;
TDN_API tdn_status tdn_engine_get_info(const tdn_engine *engine, tdn_engine_info *info);

/* ---- Context --------------------------------------------------------------------------------- */

typedef struct tdn_context tdn_context;

/*
 * What a tap sees: one value right after the step that wrote it. The layout is whatever the step
 * wrote: element (i0, i1, ...) is at data + dtype size * sum(i * strides). Valid during the call
 * only.
 */
typedef struct tdn_tap {
    uint32_t struct_size;
    const char *name; /* of the value in the model */
    int32_t step;
    tdn_dtype dtype;
    int32_t rank;
    int64_t dims[TDN_MAX_RANK];
    int64_t strides[TDN_MAX_RANK]; /* in elements */
    const void *data;
} tdn_tap;
typedef void tdn_tap_fn(void *user, const tdn_tap *tap);

typedef struct tdn_context_options {
    uint32_t struct_size;
    tdn_pool *pool;  /* NULL: the calling thread alone; must outlive the context */
    int32_t profile; /* not 0: time every step */
} tdn_context_options;
#define TDN_CONTEXT_OPTIONS_INIT                                                                   \
    {                                                                                              \
        sizeof(tdn_context_options), NULL, 0                                                       \
    }

/* Allocates all that running needs. options may be NULL. Returns TDN_OK; TDN_E_ARG; TDN_E_NOMEM. */
TDN_API tdn_status tdn_context_create(tdn_context **context, tdn_engine *engine,
                                      const tdn_context_options *options, tdn_error *error);
/* Takes NULL. */
TDN_API void tdn_context_free(tdn_context *context);

/*
 * Binds an input or output by name. The tensor struct is copied, its data is not. A tensor that is
 * as large as the program's is used in place; one that is shorter along the batch axis is copied
 * through the arena. The program is chosen among those that fit all tensors bound so far; when none
 * is left, nothing is bound. Returns   TDN_OK; TDN_E_ARG for an unknown name, another dtype, NULL
 * data or device memory; TDN_E_SHAPE. Cost      allocates nothing.
 */
TDN_API tdn_status tdn_context_bind(tdn_context *context, const char *name,
                                    const tdn_tensor *tensor);
/* Forgets all bindings, so that other shapes can be bound. */
TDN_API void tdn_context_unbind(tdn_context *context);

/*
 * Runs the engine once on the bound tensors, with the smallest program that holds them.
 * Returns   TDN_OK; TDN_E_ARG when an input or output is not bound (nothing ran); TDN_E_MODEL when
 * the data makes an operator's index run out of its range; TDN_E_DEVICE when the backend failed.
 * After a failure the outputs are undefined and the context stays usable. tdn_context_error has the
 * words. Threads   one call at a time per context; contexts of one engine are independent. Cost
 * allocates nothing, takes no lock; its only system call wakes a sleeping worker.
 */
TDN_API tdn_status tdn_context_run(tdn_context *context);

/*
 * For calls with pauses between them: brings what a run reads into the caches of the pool's threads
 * and wakes them, so that a run that follows soon, while they spin, takes no longer than one of many
 * back to back. An application that knows when its next input is due calls this shortly before: by
 * as much as reading the weights takes, a millisecond for 10 MB. It changes nothing that a run
 * computes. Never fails. Threads   as tdn_context_run. Cost as of it: allocates nothing, takes no
 * lock.
 */
TDN_API void tdn_context_warm(tdn_context *context);

/* Extents of an output after a run, where `bounded` said they were unknown before. TDN_E_ARG: no
 * such output. */
TDN_API tdn_status tdn_context_output_dims(const tdn_context *context, const char *name,
                                           int64_t dims[TDN_MAX_RANK]);
/* Sets every state back to its initial value. Never fails. */
TDN_API void tdn_context_reset(tdn_context *context);
/* The program that the bound tensors use, or -1. */
TDN_API int tdn_context_program(const tdn_context *context);
/* Text of the context's last failure. Valid until its next call. */
TDN_API const char *tdn_context_error(const tdn_context *context);
/* Calls fn after each step with what the step wrote; NULL ends it. For calibration and debugging:
 * not real-time. */
TDN_API void tdn_context_set_tap(tdn_context *context, tdn_tap_fn *fn, void *user);

/* One step of a program, and its time where the context profiles. */
typedef struct tdn_step_info {
    uint32_t struct_size;
    const char *name;   /* the model's nodes in it: "conv1 + relu1" */
    const char *kernel; /* "conv_f32_avx512", or "reference:TopK" */
    int64_t flops;      /* of one run */
    int64_t bytes;      /* read and written by one run, weights included */
    int64_t n_tiles;
    uint64_t n_runs;   /* 0, too, where a branch went the other way in all runs */
    uint64_t total_ns; /* over n_runs; a branch or loop without the steps inside */
    uint64_t min_ns;
    uint64_t max_ns;
} tdn_step_info;
TDN_API int tdn_context_n_steps(const tdn_context *context, int program);
/* TDN_E_ARG for an index out of range. */
TDN_API tdn_status tdn_context_step(const tdn_context *context, int program, int step,
                                    tdn_step_info *info);
/* Forgets the times so far. */
TDN_API void tdn_context_profile_reset(tdn_context *context);

/* ---- The machine ----------------------------------------------------------------------------- */

/* What threads of this machine reach together at best. A step takes no less time than flops /
 * fp32_gflops and bytes / the bandwidth of where its data are, in nanoseconds. */
typedef struct tdn_machine {
    uint32_t struct_size;
    int32_t n_threads;
    double fp32_gflops; /* 10^9 operations a second, a multiply-add being two */
    double l2_gbs;      /* 10^9 bytes a second, read from second-level caches */
    double memory_gbs;  /* read from memory */
    uint64_t l2_size;   /* bytes of the second-level caches of all these threads */
} tdn_machine;

/*
 * Measures with all threads of the pool at once (NULL: the calling thread alone), where they are
 * placed, with the best instructions that this CPU has. Fills *machine (struct_size set by the
 * caller). Returns   TDN_OK; TDN_E_ARG for no struct, or when a run has the pool; TDN_E_NOMEM.
 * Threads   one call at a time per pool. Cost   some 0.2 s of all its threads and up to 256 MiB, or
 * four times the second-level caches, for that time: for reports, never between runs that matter.
 */
TDN_API tdn_status tdn_machine_measure(tdn_machine *machine, tdn_pool *pool, tdn_error *error);

/* ---- Description ----------------------------------------------------------------------------- */

/*
 * Describes a plan file as JSON text: programs, steps, buffers, targets, provenance. Works on plans
 * for other CPUs. On success *json is NUL-terminated text that tdn_text_free takes. Returns TDN_OK;
 * TDN_E_IO; TDN_E_FORMAT; TDN_E_NOMEM.
 */
TDN_API tdn_status tdn_plan_describe(char **json, const char *path, tdn_error *error);
/* The same of a plan in memory, aligned to 64 bytes, which stays the caller's. */
TDN_API tdn_status tdn_plan_describe_memory(char **json, const void *plan, size_t size,
                                            tdn_error *error);
TDN_API void tdn_text_free(char *text);

/* The best target of this CPU ("x86-64-v4"). Never fails. */
TDN_API const char *tdn_target_native(void);
/* The name of target `index`, or NULL past the last. */
TDN_API const char *tdn_target_name(int index);

#ifdef __cplusplus
}
#endif
#endif
