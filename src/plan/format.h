/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plan file, byte by byte. Little-endian; every record has a fixed size and is used where it
 * lies.
 *
 *     0      header            a line of text ("tendon plan 1, built by tendon 0.1.0"), magic,
 * counts, the tables then   13 tables         in the order of tdn_format_id, each at the next
 * multiple of 64 then   the blobs         packed weights, each at the next multiple of 64
 *
 * There are no offsets to follow but those of strings: records belong to their owner in order
 * (program 0 owns the first n_buffers buffers, program 1 the next), and the arguments, attributes
 * and expressions of the steps follow each other in DATA. So every record has one owner, reading is
 * one pass, and memory is proportional to the file. Padding is zero and, like all else, covered by
 * a checksum: the header by its own, each table by its entry in the header, each blob by its
 * record, all CRC-32C over the bytes up to the next multiple of 64.
 *
 * A change that an older reader would misunderstand raises TDN_FORMAT_VERSION. The text, the magic,
 * the version and the byte order mark stay where they are for ever. Fields called `zero` are zero,
 * and checked to be, so that a later version can use them.
 */
#ifndef TDN_PLAN_FORMAT_H
#define TDN_PLAN_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

#define TDN_FORMAT_VERSION 1u
#define TDN_FORMAT_MAGIC                                                                           \
    "\x89tdnplan" /* 8 bytes without the NUL; the first is no text in any encoding */
#define TDN_FORMAT_ORDER 0x01020304u /* reads as this number where the byte order is the file's */
#define TDN_FORMAT_NONE UINT32_MAX   /* no string, no buffer */

enum {
    TDN_FORMAT_MAX_COUNT = 1 << 24, /* records of a table */
    TDN_FORMAT_MAX_DEPTH = 16,      /* of loops and branches in each other */
    TDN_FORMAT_MAX_NAME = 4095      /* bytes of a string, notes aside */
};
/* Elements of a tensor, an extent or a stride; an extent that a reference works on. So much that no
 * model comes near, and so little that sums of a few products of two of them do not overflow. */
#define TDN_FORMAT_MAX_ELEMENTS ((int64_t)1 << 40)
#define TDN_FORMAT_MAX_EXTENT ((int64_t)1 << 30)

typedef enum tdn_format_id {
    TDN_FORMAT_STRINGS,  /* NUL-terminated, each stored once; ends with a NUL */
    TDN_FORMAT_IO_NAMES, /* uint32_t: strings, inputs then outputs */
    TDN_FORMAT_NOTES,
    TDN_FORMAT_SECTIONS,
    TDN_FORMAT_PROGRAMS, /* n_programs a section */
    TDN_FORMAT_BUFFERS,
    TDN_FORMAT_IOS, /* n_inputs + n_outputs a program */
    TDN_FORMAT_STEPS,
    TDN_FORMAT_OPERANDS, /* n_in + n_out a step */
    TDN_FORMAT_VALUES,
    TDN_FORMAT_ATTRS,
    TDN_FORMAT_DATA, /* of each step: args, expression, then its attributes' values; each starts at
                        a multiple of 8 */
    TDN_FORMAT_BLOBS,
    TDN_FORMAT_N_TABLES
} tdn_format_id;

typedef struct tdn_format_table {
    uint64_t offset;
    uint64_t size; /* bytes, without padding */
    uint32_t record_size;
    uint32_t crc;
} tdn_format_table;
_Static_assert(sizeof(tdn_format_table) == 24, "part of the plan format");

typedef struct tdn_format_header {
    char text[64]; /* one line, then zeros: what `head -c 64` and file(1) show */
    char magic[8];
    uint32_t version;
    uint32_t order;
    uint64_t total_size;
    uint32_t header_size;
    uint32_t crc; /* of the header with this field 0 */
    uint32_t n_inputs, n_outputs, n_programs, n_sections;
    uint32_t n_tables;
    uint32_t zero;
    tdn_format_table tables[TDN_FORMAT_N_TABLES];
    uint8_t padding[16];
} tdn_format_header;
_Static_assert(offsetof(tdn_format_header, magic) == 64, "part of the plan format");
_Static_assert(offsetof(tdn_format_header, version) == 72, "part of the plan format");
_Static_assert(offsetof(tdn_format_header, order) == 76, "part of the plan format");
_Static_assert(offsetof(tdn_format_header, tables) == 120, "part of the plan format");
_Static_assert(sizeof(tdn_format_header) == 448, "part of the plan format");
_Static_assert(sizeof(tdn_format_header) % TDN_ALIGN == 0, "tables start aligned");

typedef struct tdn_format_note {
    uint32_t key, text;
} tdn_format_note;
_Static_assert(sizeof(tdn_format_note) == 8, "part of the plan format");

typedef struct tdn_format_section {
    uint64_t isa;
    uint32_t target;
    uint32_t zero;
} tdn_format_section;
_Static_assert(sizeof(tdn_format_section) == 16, "part of the plan format");

typedef struct tdn_format_program {
    uint64_t arena_size, state_size;
    int64_t flops;
    uint32_t n_buffers, n_steps, n_values;
    uint32_t zero;
} tdn_format_program;
_Static_assert(sizeof(tdn_format_program) == 40, "part of the plan format");

typedef struct tdn_format_buffer {
    uint64_t offset, size;
    uint32_t cls, index;
    uint32_t name;
    float scale;
    int32_t zero_point;
    uint32_t zero;
} tdn_format_buffer;
_Static_assert(sizeof(tdn_format_buffer) == 40, "part of the plan format");

typedef struct tdn_format_io {
    uint32_t buffer, dtype;
    int32_t rank, batch_axis;
    uint32_t bounded, zero;
    int64_t dims[TDN_MAX_RANK];
} tdn_format_io;
_Static_assert(sizeof(tdn_format_io) == 88, "part of the plan format");

typedef struct tdn_format_step {
    uint64_t args_size;
    uint32_t kind;
    uint32_t name, kernel;
    uint32_t n_in, n_out;
    uint32_t n_attrs;
    uint32_t expr_size; /* 0: none */
    uint32_t n_then, n_else;
    uint32_t zero;
} tdn_format_step;
_Static_assert(sizeof(tdn_format_step) == 48, "part of the plan format");

typedef struct tdn_format_operand {
    uint64_t offset;
    uint32_t buffer, dtype;
    int32_t rank;
    uint32_t bounded;
    int64_t dims[TDN_MAX_RANK];
    int64_t strides[TDN_MAX_RANK];
} tdn_format_operand;
_Static_assert(sizeof(tdn_format_operand) == 152, "part of the plan format");

typedef struct tdn_format_value {
    tdn_format_operand view;
    uint32_t name, step;
} tdn_format_value;
_Static_assert(sizeof(tdn_format_value) == 160, "part of the plan format");

/* INT: the value; FLOAT: its bits. The others' values are in DATA: STRING n bytes and a NUL, INTS,
 * FLOATS, STRINGS n uint32_t strings, TENSOR a tdn_format_tensor and its elements. */
typedef struct tdn_format_attr {
    uint64_t value;
    uint32_t name, kind;
    int32_t n;
    uint32_t zero;
} tdn_format_attr;
_Static_assert(sizeof(tdn_format_attr) == 24, "part of the plan format");

typedef struct tdn_format_tensor {
    uint32_t dtype;
    int32_t rank;
    int64_t dims[TDN_MAX_RANK];
} tdn_format_tensor;
_Static_assert(sizeof(tdn_format_tensor) == 72, "part of the plan format");

typedef struct tdn_format_blob {
    uint64_t offset, size;
    uint32_t crc;
    uint32_t zero;
} tdn_format_blob;
_Static_assert(sizeof(tdn_format_blob) == 24, "part of the plan format");

/* Record size of each table, in the order of tdn_format_id. */
extern const uint32_t tdn_format_record_sizes[TDN_FORMAT_N_TABLES];

/* Computes all checksums anew, as far as tables and blobs lie inside the bytes: the writer's last
 * act. Tests and the fuzzer use it to get damaged plans past the checksums. */
void tdn_plan_seal(void *bytes, size_t size);

#endif
