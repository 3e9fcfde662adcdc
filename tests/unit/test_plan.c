/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan format: what is written is read again, byte for byte; and no bytes, whatever they are,
 * get further than an error in words. Damage comes in three kinds: as it happens to files (any cut,
 * any flipped byte: the checksums find all), the same with checksums made to match (nothing is out
 * of range in what the reader lets pass), and field by field with the words that the reader must
 * say.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "../plans.h"
#include "base/file.h"
#include "plan/format.h"

/* Reads a copy that has exactly this size, so that a sanitizer sees the first byte beyond it. */
static tdn_status read_copy(const void *bytes, size_t size, tdn_error *error)
{
    void *copy = tdn_alloc(NULL, size, TDN_ALIGN);
    tdn_arena *arena = tdn_arena_create(NULL);
    assert_non_null(copy);
    assert_non_null(arena);
    if (size > 0)
        memcpy(copy, bytes, size);
    const tdn_plan *plan;
    const tdn_status status = tdn_plan_read(&plan, copy, size, arena, error);
    assert_true(status == TDN_OK ? plan != NULL : plan == NULL);
    tdn_arena_free(arena);
    tdn_free(NULL, copy);
    return status;
}

/* ---- Writing and reading --------------------------------------------------------------------- */

static void same_after_round_trip(plan_maker *m)
{
    size_t size, again_size;
    void *bytes = plan_bytes(m, &size), *again;
    tdn_arena *arena = tdn_arena_create(NULL);
    const tdn_plan *plan;
    tdn_error error;
    assert_int_equal(tdn_plan_read(&plan, bytes, size, arena, &error), TDN_OK);
    assert_int_equal(tdn_plan_write(plan, NULL, &again, &again_size, &error), TDN_OK);
    assert_int_equal(size, again_size);
    assert_memory_equal(bytes, again, size);
    tdn_free(NULL, again);
    tdn_arena_free(arena);
    tdn_free(NULL, bytes);
}

static void test_round_trip(void **state)
{
    (void)state;
    same_after_round_trip(plan_everything());
    same_after_round_trip(plan_affine((int64_t[]){1, 2, 4, 8}, 4, 0));
}

static void test_what_is_read(void **state)
{
    (void)state;
    size_t size;
    plan_maker *m = plan_everything();
    void *bytes;
    tdn_arena *arena = tdn_arena_create(NULL);
    const tdn_plan *plan;
    assert_int_equal(tdn_plan_write(&m->plan, NULL, &bytes, &size, NULL), TDN_OK);
    assert_int_equal(tdn_plan_read(&plan, bytes, size, arena, NULL), TDN_OK);
    assert_int_equal(plan->n_inputs, 3);
    assert_string_equal(plan->input_names[1], "flag");
    assert_string_equal(plan->output_names[2], "z");
    assert_string_equal(plan->notes[1].text, "--target=native --shapes=x:4");
    assert_string_equal(plan->sections[0].target, PLAN_TARGET);
    const tdn_plan_program *p = &plan->sections[0].programs[0];
    assert_int_equal(p->n_steps, 12);
    assert_int_equal(p->n_values, 3);
    assert_string_equal(p->values[1].name, "u");
    assert_int_equal(p->values[1].step, 6);
    assert_int_equal(p->steps[5].operands[1].buffer, UINT32_MAX);
    assert_int_equal(p->steps[5].n_then, 3);
    for (uint32_t i = 0; i < p->n_buffers; i++) {
        assert_int_equal(p->buffers[i].offset, m->buffers[0][i].offset);
        assert_int_equal(p->buffers[i].size, m->buffers[0][i].size);
        assert_true(p->buffers[i].scale == m->buffers[0][i].scale);
        assert_int_equal(p->buffers[i].zero_point, m->buffers[0][i].zero_point);
    }
    const tdn_attrs *attrs = &p->steps[11].attrs;
    int n;
    assert_true(tdn_attr_float(attrs, "alpha", 0) == 0.75f);
    assert_int_equal(tdn_attr_int(attrs, "axis", 0), -1);
    assert_string_equal(tdn_attr_string(attrs, "mode", ""), "linear");
    assert_int_equal(tdn_attr_ints(attrs, "perm", &n)[0], 1);
    assert_int_equal(n, 2);
    assert_true(tdn_attr_floats(attrs, "weights", &n)[2] == 2);
    assert_string_equal(tdn_attr_find(attrs, "words")->strings[1], "UPPER");
    const tdn_view *tensor = tdn_attr_find(attrs, "value")->tensor;
    assert_int_equal(tensor->dims[1], 3);
    assert_int_equal(((const int32_t *)tensor->data)[5], 6);
    assert_memory_equal(p->steps[0].expr, m->steps[0][0].expr, tdn_expr_size(p->steps[0].expr));
    assert_int_equal((uintptr_t)plan->blobs[1].data % TDN_ALIGN, 0);
    assert_true(((const float *)plan->blobs[1].data)[3] == 4);
    tdn_arena_free(arena);
    tdn_free(NULL, bytes);
    free(m);
}

static void test_equal_content_is_stored_once(void **state)
{
    (void)state;
    static const _Alignas(64) uint8_t same[512] = {7}, twin[512] = {7}, other[512] = {8};
    plan_maker *m = plan_affine((int64_t[]){1}, 1, 0);
    size_t size, more_size;
    void *bytes, *more;
    mk_blob(m, same, sizeof same);
    mk_blob(m, other, sizeof other);
    assert_int_equal(tdn_plan_write(&m->plan, NULL, &bytes, &size, NULL), TDN_OK);
    const uint32_t third = mk_blob(m, twin, sizeof twin);
    m->buffers[0][2].index = third; /* w: read through the index that the twin got */
    assert_int_equal(tdn_plan_write(&m->plan, NULL, &more, &more_size, NULL), TDN_OK);
    assert_int_equal(size, more_size);
    tdn_arena *arena = tdn_arena_create(NULL);
    const tdn_plan *plan;
    assert_int_equal(tdn_plan_read(&plan, more, more_size, arena, NULL), TDN_OK);
    assert_int_equal(plan->n_blobs, 3);
    assert_int_equal(plan->sections[0].programs[0].buffers[2].index, 1);
    tdn_arena_free(arena);
    tdn_free(NULL, bytes);
    tdn_free(NULL, more);
    free(m);
}

static void test_first_line_is_text(void **state)
{
    (void)state;
    size_t size;
    char *bytes = plan_bytes(plan_everything(), &size), line[64];
    snprintf(line, sizeof line, "tendon plan 1, built by tendon %s\n", tdn_version());
    assert_memory_equal(bytes, line, strlen(line));
    tdn_free(NULL, bytes);
}

static void test_a_name_beyond_measure_is_cut(void **state)
{
    (void)state;
    char *name = malloc(10001);
    memset(name, 'n', 10000);
    name[10000] = '\0';
    plan_maker *m = plan_everything();
    m->steps[0][0].name = name;
    same_after_round_trip(m);
    free(name);
}

/* ---- Damage that checksums find -------------------------------------------------------------- */

static void test_every_cut(void **state)
{
    (void)state;
    size_t size;
    void *bytes = plan_bytes(plan_everything(), &size);
    for (size_t n = 0; n < size; n++) {
        tdn_error error = {""};
        assert_int_equal(read_copy(bytes, n, &error), TDN_E_FORMAT);
        assert_true(strlen(error.text) > 10);
    }
    tdn_free(NULL, bytes);
}

/* Blobs are the engine's to check, all others the reader's; every byte of the file belongs to one
 * of them. */
static tdn_status read_all(void *bytes, size_t size)
{
    tdn_arena *arena = tdn_arena_create(NULL);
    const tdn_plan *plan;
    tdn_status status = tdn_plan_read(&plan, bytes, size, arena, NULL);
    for (uint32_t i = 0; status == TDN_OK && i < plan->n_blobs; i++)
        status = tdn_plan_check_blob(plan, bytes, i, NULL);
    tdn_arena_free(arena);
    return status;
}

static void test_every_flipped_byte(void **state)
{
    (void)state;
    size_t size;
    uint8_t *bytes = plan_bytes(plan_everything(), &size);
    assert_int_equal(read_all(bytes, size), TDN_OK);
    for (size_t i = 0; i < size; i++)
        for (int bit = 0; bit < 8; bit += 7) {
            bytes[i] ^= (uint8_t)(1 << bit);
            assert_int_equal(read_all(bytes, size), TDN_E_FORMAT);
            bytes[i] ^= (uint8_t)(1 << bit);
        }
    tdn_free(NULL, bytes);
}

/* ---- Damage with checksums that match -------------------------------------------------------- */

/* What the reader lets pass is as the contract says: the loop below would leave memory where it is
 * not. */
static void touch(const tdn_plan *plan)
{
    volatile uint64_t sum = 0;
    for (uint32_t i = 0; i < plan->n_blobs; i++)
        for (uint64_t k = 0; k < plan->blobs[i].size; k += 16)
            sum += ((const uint8_t *)plan->blobs[i].data)[k];
    const tdn_plan_program *p = plan->sections[0].programs;
    for (uint32_t i = 0; i < p->n_steps; i++) {
        const tdn_plan_step *s = &p->steps[i];
        sum += strlen(s->name) + strlen(s->kernel);
        for (int32_t k = 0; k < s->attrs.n; k++)
            sum += strlen(s->attrs.items[k].name);
        for (uint32_t k = 0; k < s->n_in + s->n_out; k++)
            assert_true(s->operands[k].buffer == UINT32_MAX ||
                        s->operands[k].buffer < p->n_buffers);
        if (s->args_size)
            sum += ((const uint8_t *)s->args)[s->args_size - 1];
    }
    for (uint32_t i = 0; i < p->n_buffers; i++)
        sum += strlen(p->buffers[i].name);
    (void)sum;
}

static void test_every_byte_with_a_right_checksum(void **state)
{
    (void)state;
    static const uint8_t masks[] = {0x01, 0x02, 0x10, 0x80, 0xff};
    size_t size, n_good = 0, n_bad = 0;
    uint8_t *bytes = plan_bytes(plan_everything(), &size), *copy = tdn_alloc(NULL, size, TDN_ALIGN);
    for (size_t i = 0; i < size; i++)
        for (size_t k = 0; k < sizeof masks; k++) {
            memcpy(copy, bytes, size);
            copy[i] ^= masks[k];
            tdn_plan_seal(copy, size);
            tdn_arena *arena = tdn_arena_create(NULL);
            const tdn_plan *plan;
            tdn_error error;
            const tdn_status status = tdn_plan_read(&plan, copy, size, arena, &error);
            assert_true(status == TDN_OK || status == TDN_E_FORMAT);
            if (status == TDN_OK)
                touch(plan);
            *(status == TDN_OK ? &n_good : &n_bad) += 1;
            tdn_arena_free(arena);
        }
    assert_true(
        n_bad >
        n_good); /* names, weights and offsets of no consequence may change; most must not */
    assert_true(n_good > 0);
    tdn_free(NULL, copy);
    tdn_free(NULL, bytes);
}

/* ---- Field by field -------------------------------------------------------------------------- */

typedef struct tables {
    tdn_format_header *h;
    tdn_format_section *sections;
    tdn_format_program *programs;
    tdn_format_buffer *buffers;
    tdn_format_io *ios;
    tdn_format_step *steps;
    tdn_format_operand *operands;
    tdn_format_value *values;
    tdn_format_attr *attrs;
    tdn_format_blob *blobs;
    uint32_t *io_names;
    uint8_t *data;
    char *strings;
} tables;

static tables tables_of(void *bytes)
{
    tdn_format_header *h = bytes;
#define AT(id) (void *)((uint8_t *)bytes + h->tables[id].offset)
    return (tables){
        .h = h,
        .sections = AT(TDN_FORMAT_SECTIONS),
        .programs = AT(TDN_FORMAT_PROGRAMS),
        .buffers = AT(TDN_FORMAT_BUFFERS),
        .ios = AT(TDN_FORMAT_IOS),
        .steps = AT(TDN_FORMAT_STEPS),
        .operands = AT(TDN_FORMAT_OPERANDS),
        .values = AT(TDN_FORMAT_VALUES),
        .attrs = AT(TDN_FORMAT_ATTRS),
        .blobs = AT(TDN_FORMAT_BLOBS),
        .io_names = AT(TDN_FORMAT_IO_NAMES),
        .data = AT(TDN_FORMAT_DATA),
        .strings = AT(TDN_FORMAT_STRINGS),
    };
#undef AT
}

/* Of plan_everything: buffers 0..2 inputs, 3..6 outputs, 7 w, 8 s, 9 t, 10 u; operands in the order
 * of steps: 0..2 the map (x, w, t), 3..5 s + t, 6 the condition, 7..10 the branch's arms, 11..13
 * the loop. */
enum {
    W = 7,
    S = 8,
    T = 9,
    OUT_T = 2,
    CONDITION = 6,
    TRIPS = 11,
    WHILE = 12,
    STEP_LOOP = 5,
    STEP_IF = 2
};

#define DAMAGE(name, change)                                                                       \
    static void name(const tables *p) { change; }
DAMAGE(no_magic, p->h->magic[3] = 'x')
DAMAGE(newer, p->h->version = 7)
DAMAGE(other_order, p->h->order = 0x04030201)
DAMAGE(wrong_size, p->h->total_size += 64)
DAMAGE(wrong_header, p->h->n_tables = 12)
DAMAGE(table_moved, p->h->tables[3].offset += 64)
DAMAGE(table_grown, p->h->tables[TDN_FORMAT_BLOBS].size = UINT64_MAX - 200)
DAMAGE(table_records, p->h->tables[TDN_FORMAT_STEPS].record_size = 24)
DAMAGE(table_part, p->h->tables[TDN_FORMAT_STEPS].size -= 8)
DAMAGE(no_program, p->h->n_programs = 0)
DAMAGE(many_programs, p->h->n_programs = 1u << 31)
DAMAGE(many_inputs, p->h->n_inputs = UINT32_MAX - 2)
DAMAGE(strings_open, p->strings[p->h->tables[TDN_FORMAT_STRINGS].size - 1] = 'x')
DAMAGE(string_outside, p->io_names[0] = 1u << 30)
DAMAGE(string_inside, p->io_names[0] = p->io_names[1] + 1)
DAMAGE(blob_moved, p->blobs[1].offset += 64)
DAMAGE(blob_grown, p->blobs[0].size = UINT64_MAX - 63)
DAMAGE(blob_short, p->blobs[1].size = 0)
DAMAGE(section_zero, p->sections[0].zero = 1)
DAMAGE(program_buffers, p->programs[0].n_buffers++)
DAMAGE(program_fewer_steps, p->programs[0].n_steps--)
DAMAGE(program_values, p->programs[0].n_values = UINT32_MAX)
DAMAGE(program_arena, p->programs[0].arena_size = UINT64_MAX)
DAMAGE(program_flops, p->programs[0].flops = -1)
DAMAGE(buffer_class, p->buffers[T].cls = 9)
DAMAGE(buffer_outside, p->buffers[T].offset = 128)
DAMAGE(buffer_crooked, p->buffers[T].offset = 8)
DAMAGE(buffer_huge, p->buffers[T].size = UINT64_MAX)
DAMAGE(buffer_blob, p->buffers[W].index = 2)
DAMAGE(buffer_blob_size, p->buffers[W].size = 17)
DAMAGE(buffer_state, p->buffers[S].offset = 64)
DAMAGE(buffer_state_blob, p->buffers[S].index = 5)
DAMAGE(buffer_input, p->buffers[0].index = 3)
DAMAGE(buffer_output, p->buffers[3].index = UINT32_MAX)
DAMAGE(buffer_io_size, p->buffers[0].size = 12)
DAMAGE(buffer_zero, p->buffers[0].zero = 4)
DAMAGE(io_buffer, p->ios[0].buffer = 1)
DAMAGE(io_buffer_class, p->ios[0].buffer = 3)
DAMAGE(io_dtype, p->ios[0].dtype = TDN_STRING)
DAMAGE(io_rank, p->ios[0].rank = 9)
DAMAGE(io_dims, p->ios[0].dims[0] = -4)
DAMAGE(io_batch, p->ios[0].batch_axis = 1)
DAMAGE(io_bounded, p->ios[0].bounded = 1)
DAMAGE(io_bounded_beyond, p->ios[4].bounded = 4)
DAMAGE(step_call, p->steps[0].kind = TDN_STEP_CALL)
DAMAGE(step_kind, p->steps[0].kind = 77)
DAMAGE(step_no_kernel, p->steps[0].kernel = 0)
DAMAGE(step_owns, p->steps[0].n_then = 1)
DAMAGE(step_args, p->steps[0].args_size = UINT64_MAX)
DAMAGE(step_args_left, p->steps[0].args_size = 8)
DAMAGE(step_operands, p->steps[0].n_in = UINT32_MAX)
DAMAGE(step_attrs, p->steps[11].n_attrs = 8)
DAMAGE(step_expr, p->steps[0].expr_size = 4)
DAMAGE(step_expr_op, p->data[8] = 200)
DAMAGE(step_expr_arity, p->steps[0].n_in = 1; p->steps[0].n_out = 2)
DAMAGE(step_then, p->steps[STEP_IF].n_then = 11)
DAMAGE(step_else, p->steps[STEP_IF].n_else = UINT32_MAX)
DAMAGE(step_nest, p->steps[7].n_then = 2)
DAMAGE(step_across, p->steps[STEP_IF].n_then = 0; p->steps[STEP_IF].n_else = 4)
DAMAGE(condition_dtype, p->operands[CONDITION].dtype = TDN_U8)
DAMAGE(condition_absent, p->operands[CONDITION] = (tdn_format_operand){.buffer = UINT32_MAX})
DAMAGE(trips_absent, p->operands[TRIPS] = (tdn_format_operand){.buffer = UINT32_MAX})
DAMAGE(trips_float, p->operands[TRIPS].dtype = TDN_F64)
DAMAGE(absent_says, p->operands[WHILE].rank = 1)
DAMAGE(operand_buffer, p->operands[0].buffer = 11)
DAMAGE(operand_dtype, p->operands[0].dtype = 0)
DAMAGE(operand_wider, p->operands[0].dtype = TDN_F64; p->operands[0].dims[0] = 2)
DAMAGE(operand_rank, p->operands[0].rank = -1)
DAMAGE(operand_dims, p->operands[0].dims[0] = 5)
DAMAGE(operand_dims_huge, p->operands[0].dims[0] = INT64_MAX)
DAMAGE(operand_dims_beyond, p->operands[0].dims[3] = 1)
DAMAGE(operand_offset, p->operands[0].offset = 4)
DAMAGE(operand_offset_huge, p->operands[0].offset = UINT64_MAX - 3)
DAMAGE(operand_crooked, p->operands[0].offset = 2; p->operands[0].dims[0] = 3)
DAMAGE(operand_stride, p->operands[0].strides[0] = 2)
DAMAGE(operand_stride_huge, p->operands[0].strides[0] = INT64_MAX / 2)
DAMAGE(operand_stride_below, p->operands[0].strides[0] = -1)
DAMAGE(operand_stride_beyond, p->operands[0].strides[1] = 1)
DAMAGE(operand_writes_weight, p->operands[OUT_T].buffer = W)
DAMAGE(operand_writes_input, p->operands[OUT_T].buffer = 0)
DAMAGE(operand_writes_twice, p->operands[OUT_T].strides[0] = 0)
DAMAGE(operand_open_kernel, p->steps[0].kind = TDN_STEP_KERNEL; p->operands[OUT_T].bounded = 1)
DAMAGE(operand_open_beyond, p->operands[OUT_T].bounded = 2)
DAMAGE(operand_open_output, p->operands[OUT_T] = p->operands[0]; p->operands[OUT_T].buffer = 3;
       p->operands[OUT_T].bounded = 1)
DAMAGE(value_step, p->values[2].step = 12)
DAMAGE(value_order, p->values[2].step = 1)
DAMAGE(value_absent, p->values[0].view = (tdn_format_operand){.buffer = UINT32_MAX})
DAMAGE(attr_kind, p->attrs[0].kind = TDN_ATTR_GRAPH)
DAMAGE(attr_count, p->attrs[0].n = INT32_MAX)
DAMAGE(attr_negative, p->attrs[0].n = -1)
DAMAGE(attr_text, p->attrs[3].n = 4)

static const struct {
    const char *name;
    void (*damage)(const tables *);
    const char *words;
} damages[] = {
#define ROW(name, words)                                                                           \
    {                                                                                              \
#name, name, words                                                                         \
    }
    ROW(no_magic, "not a tendon plan"),
    ROW(newer, "plan format 7 (built by tendon "),
    ROW(other_order, "byte order"),
    ROW(wrong_size, "where its header says"),
    ROW(wrong_header, "another shape"),
    ROW(table_moved, "'sections' is out of place"),
    ROW(table_grown, "'blobs' is out of place"),
    ROW(table_records, "'steps' has records of another size"),
    ROW(table_part, "'steps' has records of another size"),
    ROW(no_program, "no program"),
    ROW(many_programs, "do not make 1"),
    ROW(many_inputs, "do not match the tables"),
    ROW(strings_open, "strings do not end"),
    ROW(string_outside, "no string starts"),
    ROW(string_inside, "no string starts"),
    ROW(blob_moved, "blob 1 is out of place"),
    ROW(blob_grown, "blob 0 is out of place"),
    ROW(blob_short, "behind its last blob"),
    ROW(section_zero, "later version"),
    ROW(program_buffers, "buffers are not there"),
    ROW(program_fewer_steps, "belong to nobody"),
    ROW(program_values, "values are not there"),
    ROW(program_arena, "an arena of"),
    ROW(program_flops, "an arena of"),
    ROW(buffer_class,
        "class 9; while reading buffer 9; while reading program 0 of section '" PLAN_TARGET "'"),
    ROW(buffer_outside, "bytes 128 + 16 of an arena of 128"),
    ROW(buffer_crooked, "bytes 8 + 16"),
    ROW(buffer_huge, "of an arena of 128"),
    ROW(buffer_blob, "of blob 2 of 2"),
    ROW(buffer_blob_size, "17 bytes of blob 0"),
    ROW(buffer_state, "of states of 64"),
    ROW(buffer_state_blob, "of blob 5 of 2"),
    ROW(buffer_input, "input 3 of 3"),
    ROW(buffer_output, "of 4; while reading buffer 3"),
    ROW(buffer_io_size, "is not that of its input or output"),
    ROW(buffer_zero, "later version"),
    ROW(io_buffer, "buffer 1 is not its own"),
    ROW(io_buffer_class, "buffer 3 is not its own"),
    ROW(io_dtype, "dtype 16"),
    ROW(io_rank, "rank 9"),
    ROW(io_dims, "dims out of range"),
    ROW(io_batch, "batch axis 1 of rank 1"),
    ROW(io_bounded, "open extents"),
    ROW(io_bounded_beyond, "open extents"),
    ROW(step_call, "newer version"),
    ROW(step_kind, "kind 77"),
    ROW(step_no_kernel, "without a kernel"),
    ROW(step_owns, "with steps inside"),
    ROW(step_args, "arguments are not there"),
    ROW(step_args_left, "while reading step 0 'mul + add'"),
    ROW(step_operands, "operands are not there"),
    ROW(step_attrs, "attributes are not there"),
    ROW(step_expr, "an expression"),
    ROW(step_expr_op, "an expression"),
    ROW(step_expr_arity, "while reading step 0"),
    ROW(step_then, "more steps inside"),
    ROW(step_else, "more steps inside"),
    ROW(step_nest, "step 7 has more steps inside"),
    ROW(step_across, "more steps inside"),
    ROW(condition_dtype, "a branch without a condition"),
    ROW(condition_absent, "a branch without a condition"),
    ROW(trips_absent, "a loop without an end"),
    ROW(trips_float, "a loop with other operands"),
    ROW(absent_says, "an absent operand that says more"),
    ROW(operand_buffer, "buffer 11 of 11"),
    ROW(operand_dtype, "dtype 0"),
    ROW(operand_wider, "larger than the input's"),
    ROW(operand_rank, "rank -1"),
    ROW(operand_dims, "leaves buffer 0"),
    ROW(operand_dims_huge, "out of range"),
    ROW(operand_dims_beyond, "out of range"),
    ROW(operand_offset, "leaves buffer 0"),
    ROW(operand_offset_huge, "leaves buffer 0"),
    ROW(operand_crooked, "leaves buffer 0"),
    ROW(operand_stride, "leaves buffer 0"),
    ROW(operand_stride_huge, "a stride or extent out of range"),
    ROW(operand_stride_below, "leaves buffer 0"),
    ROW(operand_stride_beyond, "a stride beyond its rank"),
    ROW(operand_writes_weight, "write to a weight"),
    ROW(operand_writes_input, "write to a weight or an input"),
    ROW(operand_writes_twice, "the same place twice"),
    ROW(operand_open_kernel, "open extents where there can be none"),
    ROW(operand_open_beyond, "open extents where there can be none"),
    ROW(operand_open_output, "open extents that its output does not have"),
    ROW(value_step, "step 12 of 12"),
    ROW(value_order, "out of order"),
    ROW(value_absent, "while reading value 0"),
    ROW(attr_kind, "attribute 'perm' has kind 8"),
    ROW(attr_count, "attribute 'perm' is cut short"),
    ROW(attr_negative, "attribute 'perm' has -1 values"),
    ROW(attr_text, "does not end where it says"),
#undef ROW
};

static void test_each_field(void **state)
{
    (void)state;
    size_t size;
    int n_failed = 0;
    uint8_t *bytes = plan_bytes(plan_everything(), &size), *copy = tdn_alloc(NULL, size, TDN_ALIGN);
    for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
        memcpy(copy, bytes, size);
        const tables t = tables_of(copy);
        damages[i].damage(&t);
        tdn_plan_seal(copy, size);
        tdn_error error = {""};
        const tdn_status status = read_copy(copy, size, &error);
        if (status == TDN_E_FORMAT && strstr(error.text, damages[i].words))
            continue;
        print_error("%s: %s, '%s', not '%s'\n", damages[i].name, tdn_status_name(status),
                    error.text, damages[i].words);
        n_failed++;
    }
    assert_int_equal(n_failed, 0);
    tdn_free(NULL, copy);
    tdn_free(NULL, bytes);
}

/* Steps inside steps, as deep as they go. */
static void test_depth(void **state)
{
    (void)state;
    for (int depth = 10; depth <= 28; depth += 18) {
        plan_maker *m = mk_new();
        mk_section(m, PLAN_TARGET, PLAN_ISA);
        mk_program(m);
        const tdn_plan_operand flag = mk_io(m, true, "flag", TDN_BOOL, 1, (int64_t[]){1}, -1);
        for (int i = 0; i < depth; i++)
            MK_STEP(m, TDN_STEP_BRANCH, "", "if", 1, 0, flag)->n_then = (uint32_t)(depth - 1 - i);
        size_t size;
        void *bytes = plan_bytes(m, &size);
        tdn_error error;
        assert_int_equal(read_copy(bytes, size, &error),
                         depth < TDN_FORMAT_MAX_DEPTH ? TDN_OK : TDN_E_FORMAT);
        if (depth >= TDN_FORMAT_MAX_DEPTH)
            assert_non_null(strstr(error.text, "too many levels deep"));
        tdn_free(NULL, bytes);
    }
}

static void test_programs_must_agree(void **state)
{
    (void)state;
    size_t size;
    uint8_t *bytes = plan_bytes(plan_affine((int64_t[]){2, 4}, 2, 0), &size);
    const tables t = tables_of(bytes);
    tdn_error error;
    t.ios[3].dims[0] = 3; /* the output's batch, where the input's is 4 */
    tdn_plan_seal(bytes, size);
    assert_int_equal(read_copy(bytes, size, &error), TDN_E_FORMAT);
    assert_non_null(strstr(error.text, "a batch of 3, another has 4"));
    t.ios[3].dims[0] = 4;
    t.ios[2].dtype = TDN_S32;
    tdn_plan_seal(bytes, size);
    assert_int_equal(read_copy(bytes, size, &error), TDN_E_FORMAT);
    assert_non_null(strstr(error.text, "is not that of the other programs"));
    tdn_free(NULL, bytes);
}

static void test_unaligned_bytes(void **state)
{
    (void)state;
    static _Alignas(64) uint8_t bytes[256];
    tdn_arena *arena = tdn_arena_create(NULL);
    const tdn_plan *plan;
    assert_int_equal(tdn_plan_read(&plan, bytes + 8, 128, arena, NULL), TDN_E_ARG);
    tdn_arena_free(arena);
}

/* ---- Memory that runs out -------------------------------------------------------------------- */

typedef struct rationed {
    int left, live;
} rationed;

static void *rationed_alloc(void *user, size_t size, size_t align)
{
    rationed *r = user;
    if (r->left-- <= 0)
        return NULL;
    r->live++;
    return tdn_alloc(NULL, size, align);
}

static void rationed_free(void *user, void *memory)
{
    rationed *r = user;
    r->live--;
    tdn_free(NULL, memory);
}

static tdn_status write_and_read(const plan_maker *m, const tdn_allocator *allocator)
{
    void *bytes;
    size_t size;
    tdn_error error;
    tdn_status status = tdn_plan_write(&m->plan, allocator, &bytes, &size, &error);
    if (status != TDN_OK) {
        assert_null(bytes);
        return status;
    }
    tdn_arena *arena = tdn_arena_create(allocator);
    const tdn_plan *plan;
    status = arena ? tdn_plan_read(&plan, bytes, size, arena, &error) : TDN_E_NOMEM;
    tdn_arena_free(arena);
    tdn_free(allocator, bytes);
    return status;
}

static void test_failing_allocations(void **state)
{
    (void)state;
    plan_maker *m = plan_everything();
    tdn_status status = TDN_E_NOMEM;
    int n = 0;
    for (; status != TDN_OK && n < 1000; n++) {
        rationed r = {.left = n};
        status = write_and_read(m, &(tdn_allocator){rationed_alloc, rationed_free, &r});
        assert_true(status == TDN_OK || status == TDN_E_NOMEM);
        assert_int_equal(r.live, 0);
    }
    assert_int_equal(status, TDN_OK);
    assert_true(n > 10);
    free(m);
}

/* ---- Description ----------------------------------------------------------------------------- */

static const char *plan_path(void)
{
    static char path[512];
    const char *folder = getenv("TDN_TEST_TMP");
    snprintf(path, sizeof path, "%s/test_plan-%d.plan", folder ? folder : "/tmp", (int)getpid());
    return path;
}

static tdn_status describe(const void *bytes, size_t size, char **json, tdn_error *error)
{
    assert_int_equal(tdn_file_write(plan_path(), bytes, size, error), TDN_OK);
    const tdn_status status = tdn_plan_describe(json, plan_path(), error);
    unlink(plan_path());
    return status;
}

static void test_description(void **state)
{
    (void)state;
    size_t size;
    void *bytes = plan_bytes(plan_everything(), &size);
    char *json;
    tdn_error error;
    assert_int_equal(describe(bytes, size, &json, &error), TDN_OK);
    static const char *const parts[] = {
        "\"plan\": \"tendon plan 1, built by tendon",
        "\"model\": \"everything.onnx\"",
        "\"target\": \"" PLAN_TARGET "\"",
        "\"name\": \"mul + add\"",
        "\"kernel\": \"NonZero\"",
        "\"class\": \"state\"",
        "\"n_then\": 3",
        "\"zero_point\": -3",
        "\"last_step\": 11",
    };
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (!strstr(json, parts[i]))
            fail_msg("no %s in %s", parts[i], json);
    tdn_text_free(json);

    const tables t = tables_of(bytes);
    t.h->version = 2;
    assert_int_equal(describe(bytes, size, &json, &error), TDN_E_FORMAT);
    assert_null(json);
    assert_non_null(strstr(error.text, "plan format 2 (built by tendon "));
    assert_non_null(
        strstr(error.text, "build the plan again with this version, or update the run time"));
    tdn_free(NULL, bytes);
}

static void test_description_of_another_machine(void **state)
{
    (void)state;
    plan_maker *m = plan_affine((int64_t[]){2}, 1, 0);
    m->sections[0].target = "riscv-v";
    m->sections[0].isa = (uint64_t)1 << 40;
    m->steps[0][0].kind = TDN_STEP_KERNEL;
    m->steps[0][0].kernel = "map_f32_rvv";
    m->steps[0][0].expr = NULL;
    m->notes[0].text = "a \"b\" \\ \xff \n";
    size_t size;
    void *bytes = plan_bytes(m, &size);
    char *json;
    tdn_error error;
    assert_int_equal(describe(bytes, size, &json, &error), TDN_OK);
    assert_non_null(strstr(json, "\"arch\": null"));
    assert_non_null(strstr(json, "no kernel 'map_f32_rvv'"));
    assert_non_null(strstr(json, "a \\\"b\\\" \\\\ \\ufffd \\u000a"));
    tdn_text_free(json);
    ((uint8_t *)bytes)[size - 1] ^= 1;
    assert_int_equal(describe(bytes, size, &json, &error), TDN_E_FORMAT);
    assert_non_null(strstr(error.text, "checksum of blob 0"));
    tdn_free(NULL, bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_what_is_read),
        cmocka_unit_test(test_equal_content_is_stored_once),
        cmocka_unit_test(test_first_line_is_text),
        cmocka_unit_test(test_a_name_beyond_measure_is_cut),
        cmocka_unit_test(test_every_cut),
        cmocka_unit_test(test_every_flipped_byte),
        cmocka_unit_test(test_every_byte_with_a_right_checksum),
        cmocka_unit_test(test_each_field),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_programs_must_agree),
        cmocka_unit_test(test_unaligned_bytes),
        cmocka_unit_test(test_failing_allocations),
        cmocka_unit_test(test_description),
        cmocka_unit_test(test_description_of_another_machine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
