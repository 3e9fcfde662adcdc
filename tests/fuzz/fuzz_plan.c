/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Any bytes as a plan, with checksums made to match, so that damage reaches what lies behind them:
 * an error in words, or an engine that describes itself and runs, never a crash. What a hostile
 * plan may take of time and memory by right (large arenas, long loops) is not run.
 *
 * The layout of a plan is strict, so a byte inserted or lost is no more than one error. Most
 * mutations therefore change numbers where they are, and names of references to those of others.
 */
#include <stdlib.h>
#include <string.h>

#include "ops/op.h"
#include "plan/format.h"
#include "runtime/runtime.h"

enum { MAX_FILE = 1 << 20, MAX_MEMORY = 16 << 20, MAX_ELEMENTS = 1 << 13, MAX_STEPS = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
__attribute__((weak)) size_t LLVMFuzzerMutate(uint8_t *data, size_t size,
                                              size_t max_size); /* libFuzzer's */

/* ---- Mutation -------------------------------------------------------------------------------- */

static uint32_t next(uint64_t *state) /* Knuth's MMIX generator; the high bits are the good ones */
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Another number in place of one of 1, 4 or 8 bytes. */
static void change_number(uint8_t *table, size_t size, uint64_t *random)
{
    static const int64_t telling[] = {0,         1,         2,          3,
                                      4,         5,         7,          8,
                                      16,        64,        255,        4096,
                                      -1,        -2,        INT32_MAX,  INT32_MIN,
                                      INT64_MAX, INT64_MIN, UINT32_MAX, (int64_t)1 << 40};
    static const size_t widths[] = {1, 4, 4, 8, 8, 8};
    const size_t width = widths[next(random) % 6];
    if (size < width)
        return;
    uint8_t *at = table + next(random) % (size / width) * width;
    int64_t value = 0;
    memcpy(&value, at, width);
    switch (next(random) % 4) {
    case 0: value = telling[next(random) % (sizeof telling / sizeof *telling)]; break;
    case 1: value = (int64_t)((uint64_t)value + next(random) % 9 - 4); break;
    case 2: value ^= (int64_t)((uint64_t)1 << next(random) % 64); break;
    default:
        memcpy(&value, table + next(random) % (size / width) * width, width);
        break; /* a neighbour's */
    }
    memcpy(at, &value, width);
}

/* Another reference in a step, where the old name has the room. */
static void change_reference(uint8_t *data, size_t size, uint64_t *random)
{
    const tdn_format_header *h = (const tdn_format_header *)data;
    const tdn_format_table *steps = &h->tables[TDN_FORMAT_STEPS],
                           *strings = &h->tables[TDN_FORMAT_STRINGS];
    const size_t n = steps->size / sizeof(tdn_format_step);
    tdn_format_step step;
    if (n == 0)
        return;
    memcpy(&step, data + steps->offset + next(random) % n * sizeof step, sizeof step);
    if (step.kind != TDN_STEP_REFERENCE || step.kernel >= strings->size)
        return;
    int n_rows = 0;
    while (tdn_op_row(n_rows))
        n_rows++;
    const tdn_op_def *op = tdn_op_row((int)(next(random) % (unsigned)n_rows));
    const char *name = op->reference ? op->reference : op->name;
    char *at = (char *)data + strings->offset + step.kernel;
    size_t room = 0; /* up to the next string: a shorter name before left zeros */
    const size_t left = size - (size_t)(strings->offset + step.kernel);
    while (room < left && (at[room] != '\0' || (room + 1 < left && at[room + 1] == '\0')))
        room++;
    if (strlen(name) > room)
        return;
    memset(at, 0, room);
    memcpy(at, name, strlen(name));
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    static const int often[] = {TDN_FORMAT_OPERANDS, TDN_FORMAT_OPERANDS, TDN_FORMAT_OPERANDS,
                                TDN_FORMAT_DATA,     TDN_FORMAT_DATA,     TDN_FORMAT_ATTRS,
                                TDN_FORMAT_STEPS,    TDN_FORMAT_BUFFERS,  TDN_FORMAT_IOS,
                                TDN_FORMAT_VALUES,   TDN_FORMAT_BLOBS,    TDN_FORMAT_PROGRAMS};
    uint64_t random = seed * (uint64_t)0x9e3779b97f4a7c15u + 1;
    const tdn_format_header *h = (const tdn_format_header *)data;
    bool whole = size >= sizeof *h;
    for (int i = 0; whole && i < TDN_FORMAT_N_TABLES; i++)
        whole = h->tables[i].offset <= size && h->tables[i].size <= size - h->tables[i].offset;
    if (!whole || next(&random) % 32 == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    for (uint32_t n = 1 + next(&random) % 4; n > 0; n--) {
        const tdn_format_table *t =
            &h->tables[often[next(&random) % (sizeof often / sizeof *often)]];
        if (next(&random) % 6 == 0)
            change_reference(data, size, &random);
        else
            change_number(data + t->offset, t->size, &random);
    }
    return size;
}

/* ---- The target ------------------------------------------------------------------------------ */

/* An operand that reads one byte again and again costs no memory: elements are
 * counted, not bytes. */
static bool is_small(const tdn_engine *e)
{
    if (e->arena_size > MAX_MEMORY || e->state_size > MAX_MEMORY || e->staging_size > MAX_MEMORY ||
        e->scratch_size > MAX_MEMORY)
        return false;
    for (uint32_t k = 0; k < e->plan->n_programs; k++)
        for (uint32_t i = 0; i < e->programs[k].n_views; i++)
            if (tdn_view_count(&e->programs[k].views[i]) > MAX_ELEMENTS)
                return false;
    return true;
}

/* Binds buffers of exactly the right size, of ones: a sanitizer sees the first byte beyond. */
static void run_program(tdn_engine *e, tdn_context *c, int program, int64_t shorter)
{
    void *data[16] = {0};
    int n = 0;
    tdn_io_info io = {.struct_size = sizeof io};
    tdn_context_unbind(c);
    for (int i = 0; i < (int)e->n_io && n < 16; i++) {
        const int n_inputs = tdn_engine_n_inputs(e);
        if ((i < n_inputs ? tdn_engine_input(e, program, i, &io)
                          : tdn_engine_output(e, program, i - n_inputs, &io)) != 0)
            break;
        if (io.batch_axis >= 0 && io.dims[io.batch_axis] > shorter)
            io.dims[io.batch_axis] -= shorter;
        const tdn_tensor shape = tdn_tensor_make(NULL, io.dtype, io.rank, io.dims);
        int64_t count;
        if (!tdn_dims_count(shape.dims, shape.rank, &count) || count > MAX_MEMORY)
            break;
        const size_t bytes = tdn_dtype_size(io.dtype, (size_t)count);
        tdn_tensor t = shape;
        t.data = data[n++] = malloc(bytes ? bytes : 1);
        if (!t.data)
            break;
        memset(t.data, 1, bytes);
        if (tdn_context_bind(c, io.name, &t) != TDN_OK)
            break;
    }
    if (tdn_context_run(c) == TDN_OK)
        tdn_context_run(c); /* what the first left in states and arena */
    tdn_context_unbind(c);
    for (int i = 0; i < n; i++)
        free(data[i]);
}

static void run_engine(tdn_engine *e)
{
    tdn_context *c;
    tdn_context_options options = TDN_CONTEXT_OPTIONS_INIT;
    options.profile = 1;
    if (tdn_context_create(&c, e, &options, NULL) != TDN_OK)
        return;
    tdn_context_limit_steps(c, MAX_STEPS);
    for (int k = 0; k < tdn_engine_n_programs(e) && k < 4; k++)
        for (int shorter = 0; shorter < 2; shorter++)
            run_program(e, c, k, shorter);
    tdn_context_free(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > MAX_FILE)
        return 0;
    void *bytes = tdn_alloc(NULL, size, TDN_ALIGN);
    if (!bytes)
        return 0;
    if (size > 0)
        memcpy(bytes, data, size);
    tdn_plan_seal(bytes, size);
    tdn_error error;
    char *json;
    if (tdn_plan_describe_memory(&json, bytes, size, &error) == TDN_OK)
        tdn_text_free(json);
    tdn_engine *engine;
    if (tdn_engine_load_memory(&engine, bytes, size, NULL, &error) == TDN_OK) {
        if (is_small(engine))
            run_engine(engine);
        tdn_engine_free(engine);
    }
    tdn_free(NULL, bytes);
    return 0;
}
