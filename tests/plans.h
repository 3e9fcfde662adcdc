/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Plans made by hand, for tests of the format and of the run time and as seeds of the plan fuzzer:
 * small, without a compiler, of reference steps only, so that what they compute is plain.
 *
 * A plan_maker holds everything in arrays of fixed size and points into itself: it is not to be
 * copied.
 */
#ifndef TESTS_PLANS_H
#define TESTS_PLANS_H

#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "plan/plan.h"

#if defined(__aarch64__)
#define PLAN_TARGET "armv8-a"
#define PLAN_ISA TDN_ISA_ARM
#else
#define PLAN_TARGET "x86-64"
#define PLAN_ISA TDN_ISA_X86
#endif

enum { MK_PROGRAMS = 4, MK_ITEMS = 32, MK_OPERANDS = 96 };

typedef struct plan_maker {
    tdn_plan plan;
    tdn_plan_section sections[3];
    tdn_plan_program programs[MK_PROGRAMS];
    tdn_plan_buffer buffers[MK_PROGRAMS][MK_ITEMS];
    tdn_plan_step steps[MK_PROGRAMS][MK_ITEMS];
    tdn_plan_io inputs[MK_PROGRAMS][4], outputs[MK_PROGRAMS][4];
    tdn_plan_operand operands[MK_PROGRAMS][MK_OPERANDS];
    tdn_plan_value values[MK_PROGRAMS][MK_ITEMS];
    uint32_t n_operands;
    tdn_plan_blob blobs[8];
    tdn_plan_note notes[4];
    const char *input_names[4], *output_names[4];
    uint32_t n_inputs, n_outputs; /* of the program in the making */
    tdn_expr exprs[4];
    uint32_t n_exprs;
} plan_maker;

static inline plan_maker *mk_new(void)
{
    plan_maker *m = calloc(1, sizeof *m);
    if (!m)
        abort();
    m->plan = (tdn_plan){
        .input_names = m->input_names,
        .output_names = m->output_names,
        .sections = m->sections,
        .blobs = m->blobs,
        .notes = m->notes,
    };
    return m;
}

static inline void mk_note(plan_maker *m, const char *key, const char *text)
{
    m->notes[m->plan.n_notes++] = (tdn_plan_note){key, text};
}

static inline void mk_section(plan_maker *m, const char *target, uint64_t isa)
{
    m->sections[m->plan.n_sections++] = (tdn_plan_section){target, isa, m->programs};
}

static inline uint32_t mk_blob(plan_maker *m, const void *data, size_t size)
{
    m->blobs[m->plan.n_blobs] = (tdn_plan_blob){data, size};
    return m->plan.n_blobs++;
}

/* The program that the following calls add to. */
static inline tdn_plan_program *mk_at(plan_maker *m)
{
    return &m->programs[m->plan.n_programs - 1];
}

static inline void mk_program(plan_maker *m)
{
    const uint32_t i = m->plan.n_programs++;
    m->programs[i] = (tdn_plan_program){
        .buffers = m->buffers[i],
        .steps = m->steps[i],
        .inputs = m->inputs[i],
        .outputs = m->outputs[i],
        .values = m->values[i],
    };
    m->n_operands = m->n_inputs = m->n_outputs = 0;
}

static inline uint32_t mk_buffer(plan_maker *m, tdn_buffer_class cls, uint32_t index, uint64_t size,
                                 const char *name)
{
    tdn_plan_program *p = mk_at(m);
    tdn_plan_buffer *b = &m->buffers[m->plan.n_programs - 1][p->n_buffers];
    *b = (tdn_plan_buffer){.cls = cls, .index = index, .size = size, .name = name};
    uint64_t *area = cls == TDN_BUFFER_ARENA   ? &p->arena_size
                     : cls == TDN_BUFFER_STATE ? &p->state_size
                                               : NULL;
    if (area) {
        b->offset = *area;
        *area += tdn_round_up(size, TDN_ALIGN);
    }
    return p->n_buffers++;
}

static inline tdn_plan_operand mk_dense(uint32_t buffer, tdn_dtype dtype, int rank,
                                        const int64_t *dims)
{
    tdn_plan_operand o = {.buffer = buffer, .dtype = dtype, .rank = rank};
    int64_t stride = 1;
    for (int i = rank - 1; i >= 0; i--) {
        o.dims[i] = dims[i];
        o.strides[i] = stride;
        stride *= dims[i];
    }
    return o;
}

static inline tdn_plan_operand mk_absent(void) { return (tdn_plan_operand){.buffer = UINT32_MAX}; }

/* An input or output and its buffer; returns the buffer's operand. */
static inline tdn_plan_operand mk_io(plan_maker *m, bool is_input, const char *name,
                                     tdn_dtype dtype, int rank, const int64_t *dims, int batch_axis)
{
    const uint32_t i = is_input ? m->n_inputs++ : m->n_outputs++;
    (is_input ? m->input_names : m->output_names)[i] = name;
    m->plan.n_inputs = m->n_inputs;
    m->plan.n_outputs = m->n_outputs;
    int64_t count = 1;
    for (int k = 0; k < rank; k++)
        count *= dims[k];
    const uint32_t b = mk_buffer(m, is_input ? TDN_BUFFER_INPUT : TDN_BUFFER_OUTPUT, i,
                                 tdn_dtype_size(dtype, (size_t)count), name);
    tdn_plan_io *io = &(is_input ? m->inputs : m->outputs)[m->plan.n_programs - 1][i];
    *io = (tdn_plan_io){.buffer = b, .dtype = dtype, .rank = rank, .batch_axis = batch_axis};
    memcpy(io->dims, dims, (size_t)rank * sizeof *dims);
    return mk_dense(b, dtype, rank, dims);
}

static inline tdn_plan_operand mk_arena(plan_maker *m, const char *name, tdn_dtype dtype, int rank,
                                        const int64_t *dims)
{
    int64_t count = 1;
    for (int k = 0; k < rank; k++)
        count *= dims[k];
    return mk_dense(mk_buffer(m, TDN_BUFFER_ARENA, 0, tdn_dtype_size(dtype, (size_t)count), name),
                    dtype, rank, dims);
}

static inline tdn_plan_step *mk_step(plan_maker *m, tdn_step_kind kind, const char *kernel,
                                     const char *name, uint32_t n_in, uint32_t n_out,
                                     const tdn_plan_operand *operands)
{
    tdn_plan_program *p = mk_at(m);
    tdn_plan_step *s = &m->steps[m->plan.n_programs - 1][p->n_steps++];
    tdn_plan_operand *to = &m->operands[m->plan.n_programs - 1][m->n_operands];
    if (n_in + n_out > 0)
        memcpy(to, operands, (n_in + n_out) * sizeof *to);
    m->n_operands += n_in + n_out;
    *s = (tdn_plan_step){
        .kind = kind, .name = name, .kernel = kernel, .operands = to, .n_in = n_in, .n_out = n_out};
    return s;
}

#define MK_STEP(m, kind, kernel, name, n_in, n_out, ...)                                           \
    mk_step(m, kind, kernel, name, n_in, n_out, (const tdn_plan_operand[]){__VA_ARGS__})

/* What the last step wrote, as a tap sees it. */
static inline void mk_value(plan_maker *m, const char *name, tdn_plan_operand view)
{
    tdn_plan_program *p = mk_at(m);
    m->values[m->plan.n_programs - 1][p->n_values++] =
        (tdn_plan_value){.name = name, .step = p->n_steps - 1, .view = view};
}

/* in0 * in1 + c */
static inline const tdn_expr *mk_expr(plan_maker *m, float c)
{
    tdn_expr *e = &m->exprs[m->n_exprs++];
    *e = (tdn_expr){0};
    const int product = tdn_expr_add(e, TDN_X_MUL, tdn_expr_input(e, 0), tdn_expr_input(e, 1), 0);
    tdn_expr_store(e, tdn_expr_add(e, TDN_X_ADD, product, tdn_expr_const(e, c), 0), 0);
    return e;
}

/* ---- Plans ----------------------------------------------------------------------------------- */

/* y = x * w + 0.5 over x (n, 3, 4), with a tap "t" of x * w + 0.5 before it is copied to y. One
 * program an entry of `sizes`; the batch axis is `axis`, 0 or 1 (x is then (3, n, 4)). */
static inline plan_maker *plan_affine(const int64_t *sizes, int n_sizes, int axis)
{
    static const _Alignas(64) float w[4] = {1, -2, 3, 0.25f};
    plan_maker *m = mk_new();
    mk_note(m, "model", "affine.onnx");
    mk_section(m, PLAN_TARGET, PLAN_ISA);
    const uint32_t blob = mk_blob(m, w, sizeof w);
    const tdn_expr *expr = mk_expr(m, 0.5f);
    for (int i = 0; i < n_sizes; i++) {
        const int64_t dims[3] = {axis == 0 ? sizes[i] : 3, axis == 0 ? 3 : sizes[i], 4};
        mk_program(m);
        const tdn_plan_operand x = mk_io(m, true, "x", TDN_F32, 3, dims, axis);
        const tdn_plan_operand y = mk_io(m, false, "y", TDN_F32, 3, dims, axis);
        const tdn_plan_operand weight = mk_dense(
            mk_buffer(m, TDN_BUFFER_WEIGHT, blob, sizeof w, "w"), TDN_F32, 1, (int64_t[]){4});
        const tdn_plan_operand t = mk_arena(m, "t", TDN_F32, 3, dims);
        MK_STEP(m, TDN_STEP_REFERENCE, "Map", "scale", 2, 1, x, weight, t)->expr = expr;
        mk_value(m, "t", t);
        MK_STEP(m, TDN_STEP_REFERENCE, "Identity", "copy", 1, 1, t, y);
        mk_at(m)->flops = 2 * 12 * sizes[i];
    }
    return m;
}

/* A bit of everything that the format holds:
 *     t = x * w + 0.5;  s = s + t (a state that starts at 1, 2, 3, 4);  u = flag ? -t : t;
 *     trips times: u = u + t, and where flag u = |u|;
 *     y = u + s;  where = NonZero(y);  z = y as (2, 2), transposed;  count = number of the last
 * trip (or what it was)
 */
static inline plan_maker *plan_everything(void)
{
    static const _Alignas(64) float w[4] = {1, -2, 3, 0.25f}, start[4] = {1, 2, 3, 4};
    static const int64_t perm[2] = {1, 0};
    static const float floats[3] = {0.5f, -1, 2};
    static const char *const texts[3] = {"same", "UPPER", ""};
    static int32_t numbers[6] = {1, 2, 3, 4, 5, 6};
    static tdn_view tensor = {.dtype = TDN_S32, .rank = 2, .dims = {2, 3}, .strides = {3, 1}};
    tensor.data = numbers;
    static tdn_attr attrs[7];
    const tdn_attr filled[7] = {
        {.name = "perm", .kind = TDN_ATTR_INTS, .n = 2, .ints = perm},
        {.name = "alpha", .kind = TDN_ATTR_FLOAT, .f = 0.75f},
        {.name = "axis", .kind = TDN_ATTR_INT, .i = -1},
        {.name = "mode", .kind = TDN_ATTR_STRING, .n = 6, .s = "linear"},
        {.name = "weights", .kind = TDN_ATTR_FLOATS, .n = 3, .floats = floats},
        {.name = "words", .kind = TDN_ATTR_STRINGS, .n = 3, .strings = texts},
        {.name = "value", .kind = TDN_ATTR_TENSOR, .tensor = &tensor},
    };
    memcpy(attrs, filled, sizeof attrs);
    static const int64_t four[1] = {4}, one[1] = {1}, two[2] = {2, 2}, places[2] = {1, 4};

    plan_maker *m = mk_new();
    mk_note(m, "model", "everything.onnx");
    mk_note(m, "flags", "--target=native --shapes=x:4");
    mk_section(m, PLAN_TARGET, PLAN_ISA);
    const uint32_t w_blob = mk_blob(m, w, sizeof w), start_blob = mk_blob(m, start, sizeof start);
    mk_program(m);
    const tdn_plan_operand x = mk_io(m, true, "x", TDN_F32, 1, four, -1);
    const tdn_plan_operand flag = mk_io(m, true, "flag", TDN_BOOL, 1, one, -1);
    const tdn_plan_operand trips = mk_io(m, true, "trips", TDN_S64, 1, one, -1);
    const tdn_plan_operand y = mk_io(m, false, "y", TDN_F32, 1, four, -1);
    tdn_plan_operand where = mk_io(m, false, "where", TDN_S64, 2, places, -1);
    const tdn_plan_operand z = mk_io(m, false, "z", TDN_F32, 2, two, -1);
    const tdn_plan_operand count = mk_io(m, false, "count", TDN_S64, 1, one, -1);
    where.bounded = m->outputs[0][1].bounded = 1 << 1;
    const tdn_plan_operand weight =
        mk_dense(mk_buffer(m, TDN_BUFFER_WEIGHT, w_blob, sizeof w, "w"), TDN_F32, 1, four);
    const tdn_plan_operand s =
        mk_dense(mk_buffer(m, TDN_BUFFER_STATE, start_blob, sizeof start, "s"), TDN_F32, 1, four);
    const tdn_plan_operand t = mk_arena(m, "t", TDN_F32, 1, four),
                           u = mk_arena(m, "", TDN_F32, 1, four);
    m->buffers[0][t.buffer].scale = 0.125f;
    m->buffers[0][t.buffer].zero_point = -3;

    MK_STEP(m, TDN_STEP_REFERENCE, "Map", "mul + add", 2, 1, x, weight, t)->expr = mk_expr(m, 0.5f);
    mk_value(m, "t", t);
    MK_STEP(m, TDN_STEP_REFERENCE, "Add", "integrate", 2, 1, s, t, s);
    tdn_plan_step *branch = MK_STEP(m, TDN_STEP_BRANCH, "", "if", 1, 0, flag);
    branch->n_then = branch->n_else = 1;
    MK_STEP(m, TDN_STEP_REFERENCE, "Neg", "if/neg", 1, 1, t, u);
    MK_STEP(m, TDN_STEP_REFERENCE, "Identity", "if/same", 1, 1, t, u);
    MK_STEP(m, TDN_STEP_LOOP, "", "loop", 2, 1, trips, mk_absent(), count)->n_then = 3;
    MK_STEP(m, TDN_STEP_REFERENCE, "Add", "loop/add", 2, 1, u, t, u);
    mk_value(m, "u", u);
    MK_STEP(m, TDN_STEP_BRANCH, "", "loop/if", 1, 0, flag)->n_then = 1;
    MK_STEP(m, TDN_STEP_REFERENCE, "Abs", "loop/if/abs", 1, 1, u, u);
    MK_STEP(m, TDN_STEP_REFERENCE, "Add", "sum", 2, 1, u, s, y);
    MK_STEP(m, TDN_STEP_REFERENCE, "NonZero", "where", 1, 1, y, where);
    mk_value(m, "where", where);
    tdn_plan_operand square = mk_dense(y.buffer, TDN_F32, 2, two);
    tdn_plan_step *last = MK_STEP(m, TDN_STEP_REFERENCE, "Transpose", "turn", 1, 1, square, z);
    last->attrs = (tdn_attrs){attrs, 7};
    mk_at(m)->flops = 8;
    return m;
}

/* The bytes of a plan made by hand, which is freed; tdn_free takes them. Aborts where that fails:
 * tests of writing itself call tdn_plan_write. */
static inline void *plan_bytes(plan_maker *m, size_t *size)
{
    void *bytes;
    if (tdn_plan_write(&m->plan, NULL, &bytes, size, NULL) != TDN_OK)
        abort();
    free(m);
    return bytes;
}

#endif
