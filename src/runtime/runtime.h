/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Engine and context from the inside. The engine holds what all contexts share: for each program
 * its steps with kernels resolved and checked, and a template of all operands' views. A context
 * copies the views and fills in addresses: those of arena and states once, those of bound tensors
 * when the binding changes, through lists of fix-ups. So a run only walks: nothing is looked up,
 * computed or allocated on the way.
 */
#ifndef TDN_RUNTIME_RUNTIME_H
#define TDN_RUNTIME_RUNTIME_H

#include "backend/backend.h"
#include "base/file.h"
#include "base/pool.h"
#include "plan/plan.h"
#include "ref/custom.h"

#define TDN_STEP_LIMIT                                                                             \
    ((uint64_t)1 << 32) /* steps a run may take: a loop that never ends becomes an error */

typedef struct tdn_engine_step {
    const tdn_plan_step *plan;
    const tdn_kernel *kernel; /* KERNEL */
    const tdn_ref_def *ref;   /* REFERENCE */
    const char *shown;        /* "conv_f32_avx512", "reference:TopK" */
    size_t n_tiles;           /* or parts */
    size_t scratch_size;      /* a thread */
    int64_t flops, bytes;
    uint32_t first_view;
    bool open; /* has operands whose extents are known only while running */
} tdn_engine_step;

/* View `view` looks into the buffer from `offset` on. */
typedef struct tdn_fixup {
    uint32_t view;
    uint64_t offset;
} tdn_fixup;

typedef struct tdn_engine_program {
    const tdn_plan_program *plan;
    tdn_engine_step *steps;
    tdn_view *views; /* of all steps; data is set where it is a weight */
    uint32_t n_views;
    tdn_fixup *fixups; /* of input or output i: io_fixups[i] .. io_fixups[i + 1] - 1 */
    uint32_t *io_fixups;
    uint32_t *first_value; /* of step i: values first_value[i] .. first_value[i + 1] - 1 */
    uint32_t
        *open_buffers; /* of each buffer: its number among those with open extents, or UINT32_MAX */
    const tdn_plan_operand *
        *open_operands; /* of each buffer with open extents: an operand that has its bounds */
    uint32_t n_open;
    uint32_t max_open_views; /* operands of the widest step with open extents */
    size_t scratch_size;     /* a thread */
    size_t staging_size;     /* of inputs and outputs with a batch axis */
    size_t state_offset;     /* programs with the same states share them */
} tdn_engine_program;

struct tdn_engine {
    tdn_arena *memory; /* all of this */
    tdn_allocator allocator;
    tdn_map map; /* empty where the caller holds the bytes */
    size_t plan_size;
    const tdn_plan *plan;
    const tdn_plan_section *section;
    tdn_customs customs;
    tdn_engine_program *programs;
    uint32_t n_io; /* inputs, then outputs: the numbering of bindings */
    size_t arena_size, state_size, scratch_size,
        staging_size; /* the most that a program needs; states: of all */
    uint32_t max_open, max_open_views;
    uint64_t weights_size;
};

/* The true extents of a buffer after its last write. */
typedef struct tdn_extents {
    int64_t dims[TDN_MAX_RANK];
} tdn_extents;

/* What a thread's parts of one reference step failed with: the lowest part's words are kept. */
typedef struct tdn_failure {
    tdn_error now, kept;
    tdn_status status;
    int part; /* INT_MAX: none */
} tdn_failure;

typedef struct tdn_step_times {
    uint64_t n, total, min, max;
} tdn_step_times;

struct tdn_context {
    tdn_engine *engine;
    tdn_arena *memory; /* all but the four areas below */
    tdn_pool *pool;
    int n_threads;
    uint8_t *arena, *states, *scratch, *staging;
    size_t scratch_stride;
    tdn_view **views; /* of each program */
    /* Bindings */
    tdn_tensor *bound; /* by io */
    bool *is_bound;
    int program;   /* that the bound tensors fit; 0 while none is bound */
    int64_t batch; /* extent of the batch axes; -1: no bound tensor has one */
    bool staged;   /* batch is shorter than the program's */
    bool stale;    /* addresses are not yet in the views */
    /* Running */
    tdn_extents *extents; /* by open buffer */
    tdn_view *open_views;
    tdn_failure *failures; /* by thread */
    uint64_t step_limit, steps_left;
    tdn_step_times **times; /* by program; NULL: no profile */
    uint64_t inside_ns;     /* of steps that were done inside of the one being run */
    tdn_tap_fn *tap;
    void *tap_user;
    tdn_error error;
};

static inline const tdn_plan_io *tdn_program_io(const tdn_engine *e, const tdn_plan_program *p,
                                                uint32_t io)
{
    return io < e->plan->n_inputs ? &p->inputs[io] : &p->outputs[io - e->plan->n_inputs];
}
static inline const char *tdn_io_name(const tdn_engine *e, uint32_t io)
{
    return io < e->plan->n_inputs ? e->plan->input_names[io]
                                  : e->plan->output_names[io - e->plan->n_inputs];
}

/* prepare.c: resolves and checks program `index` of the engine's section. */
tdn_status tdn_program_prepare(tdn_engine *e, uint32_t index, tdn_error *error);
/* prepare.c: the view of an operand, with data where its buffer is a weight. */
tdn_view tdn_operand_view(const tdn_plan *plan, const tdn_plan_program *p,
                          const tdn_plan_operand *o);
/* prepare.c: finds a step's kernel or reference, the caller's own among them, and asks it about
 * tiles, scratch and flops. */
tdn_status tdn_step_resolve(tdn_engine_step *s, const tdn_view *views, uint64_t isa,
                            const tdn_customs *customs, tdn_error *error);
/* prepare.c: bytes that a step reads and writes. */
int64_t tdn_step_bytes(const tdn_plan_step *s);
/* prepare.c: the layout of states is the same, so one can go on where the other stopped. */
bool tdn_same_states(const tdn_plan_program *a, const tdn_plan_program *b);

/* context.c: puts the addresses of what is bound into the views of the program. */
void tdn_context_apply(tdn_context *c);
/* context.c: where a buffer begins now; NULL for an input or output that is not bound. */
uint8_t *tdn_context_buffer(const tdn_context *c, uint32_t program, uint32_t buffer);
/* The bytes of input or output `io` in the staging area of the program. */
uint8_t *tdn_context_staging(const tdn_context *c, uint32_t program, uint32_t io);
/* For tests and servers: at most n steps in one run. */
void tdn_context_limit_steps(tdn_context *c, uint64_t n);

#endif
