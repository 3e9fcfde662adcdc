/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan: what the compiler hands to the run time. One description in memory, used by the writer
 * (from the compiler's arena) and by the reader (pointing into the file's bytes). The reader trusts
 * nothing: what it returns is in range, and kernels are checked by their family before use.
 * src/plan/format.h has the bytes.
 */
#ifndef TDN_PLAN_PLAN_H
#define TDN_PLAN_PLAN_H

#include "base/attr.h"
#include "base/expr.h"

/* Storage. The numbers are part of the format. */
typedef enum tdn_buffer_class {
    TDN_BUFFER_WEIGHT = 1, /* in the plan's blob `index` */
    TDN_BUFFER_ARENA = 2,  /* at `offset` in the context's arena */
    TDN_BUFFER_INPUT = 3,  /* the engine's input `index` */
    TDN_BUFFER_OUTPUT = 4, /* the engine's output `index` */
    TDN_BUFFER_STATE = 5   /* at `offset` in the context's states, which survive runs; reset sets it
                              to blob `index` or 0 */
} tdn_buffer_class;

typedef struct tdn_plan_buffer {
    tdn_buffer_class cls;
    uint32_t index;   /* blob, input or output; STATE: blob of the initial value or UINT32_MAX */
    uint64_t offset;  /* ARENA, STATE: aligned to 64 */
    uint64_t size;    /* bytes */
    const char *name; /* of the value in the model, or "" */
    /* quantisation of its elements; 0 and 0: none */
    float scale;
    int32_t zero_point;
} tdn_plan_buffer;

/* A view into a buffer. BOUNDED: dims are bounds, the extents of the last write to the buffer hold;
 * dense then. */
typedef struct tdn_plan_operand {
    uint32_t buffer; /* UINT32_MAX: an absent optional operand */
    tdn_dtype dtype;
    uint64_t offset; /* bytes to element (0, 0, ...) */
    int32_t rank;
    uint32_t bounded; /* bit i: dims[i] is a bound */
    int64_t dims[TDN_MAX_RANK];
    int64_t strides[TDN_MAX_RANK];
} tdn_plan_operand;

/* A value of the model that exists in memory right after step `step`: what taps hand out. The view
 * is in the model's own axes (a convolution's operand need not be). Ordered by step. */
typedef struct tdn_plan_value {
    const char *name;
    uint32_t step;
    tdn_plan_operand view;
} tdn_plan_value;

typedef enum tdn_step_kind {
    TDN_STEP_KERNEL = 1,
    TDN_STEP_REFERENCE = 2, /* a host reference, by name with attributes */
    TDN_STEP_CALL = 3,      /* runs program `n_then` of the section; not written by this version */
    TDN_STEP_BRANCH =
        4, /* in[0] is a BOOL: the next n_then steps when true, the n_else after them when not */
    TDN_STEP_LOOP = 5 /* in[0] S64 trip count or absent, in[1] BOOL condition or absent (read before
                         each iteration): repeats the next n_then. out[0], where there is one: S64,
                         the iteration's number */
} tdn_step_kind;

typedef struct tdn_plan_step {
    tdn_step_kind kind;
    const char *name;                 /* the model's nodes in it: "conv1 + relu1" */
    const char *kernel;               /* of KERNEL or REFERENCE */
    const tdn_plan_operand *operands; /* inputs, then outputs */
    uint32_t n_in, n_out;
    const void *args; /* KERNEL; aligned to 8 */
    uint64_t args_size;
    tdn_attrs attrs;      /* REFERENCE */
    const tdn_expr *expr; /* REFERENCE of map; NULL: none */
    uint32_t n_then, n_else;
} tdn_plan_step;

/* An input or output of a program. */
typedef struct tdn_plan_io {
    uint32_t buffer; /* of class INPUT or OUTPUT */
    tdn_dtype dtype;
    int32_t rank;
    int32_t batch_axis; /* -1: must be bound at full size */
    uint32_t bounded;
    int64_t dims[TDN_MAX_RANK];
} tdn_plan_io;

typedef struct tdn_plan_program {
    const tdn_plan_buffer *buffers;
    const tdn_plan_step *steps;
    const tdn_plan_io *inputs, *outputs; /* in the plan's order of names */
    const tdn_plan_value *values;
    uint32_t n_buffers, n_steps, n_values;
    uint64_t arena_size, state_size;
    int64_t flops;
} tdn_plan_program;

/* Packed weights, shared by programs and sections; equal content is stored once. */
typedef struct tdn_plan_blob {
    const void *data; /* aligned to 64 */
    uint64_t size;
} tdn_plan_blob;

/* The programs as compiled for one target: layouts, fusions and kernels may
 * differ from another's. */
typedef struct tdn_plan_section {
    const char *target;               /* "x86-64-v4" */
    uint64_t isa;                     /* TDN_ISA_ bits that it needs */
    const tdn_plan_program *programs; /* n_programs of the plan */
} tdn_plan_section;

/* Where the plan came from: "model" path, "model_sha256", "version", "flags", "precision", ... */
typedef struct tdn_plan_note {
    const char *key, *text;
} tdn_plan_note;

typedef struct tdn_plan {
    const char *const *input_names, *const *output_names;
    uint32_t n_inputs, n_outputs;
    uint32_t n_programs; /* ordered by size, smallest first */
    uint32_t n_sections;
    uint32_t n_blobs;
    uint32_t n_notes;
    const tdn_plan_section *sections;
    const tdn_plan_blob *blobs;
    const tdn_plan_note *notes;
} tdn_plan;

/* May a reference step have these attributes? Those of a caller's own operator are its own affair.
 * Fails with `status`: the model's fault while building, the plan's while loading. */
tdn_status tdn_plan_check_attrs(const tdn_attrs *attrs, tdn_status status, tdn_error *error);
/* Writes the bytes (aligned to 64, from `allocator`, tdn_free'd by the caller). The same plan gives
 * the same bytes. */
tdn_status tdn_plan_write(const tdn_plan *plan, const tdn_allocator *allocator, void **bytes,
                          size_t *size, tdn_error *error);
/* How many bytes of a plan of `size` tdn_plan_read looks at: all but the blobs. `start` is its
 * first TDN_PLAN_START_SIZE bytes, or all where there are fewer, and may say anything. */
#define TDN_PLAN_START_SIZE 512
size_t tdn_plan_head_size(const void *start, size_t size);
/* Reads and validates; the description lives in `arena` and points into `bytes` (aligned to 64),
 * which must outlive it. TDN_E_FORMAT says what is wrong and where. */
tdn_status tdn_plan_read(const tdn_plan **plan, const void *bytes, size_t size, tdn_arena *arena,
                         tdn_error *error);
/* Is the blob as it was written? `plan` was read from `bytes`; reading does not look into blobs.
 * TDN_E_FORMAT. */
tdn_status tdn_plan_check_blob(const tdn_plan *plan, const void *bytes, uint32_t blob,
                               tdn_error *error);

#endif
