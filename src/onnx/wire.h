/* SPDX-License-Identifier: Apache-2.0 */
/* Protobuf's wire format: a message is a row of fields, each with a number and one of four kinds of
 * value. */
#ifndef TDN_ONNX_WIRE_H
#define TDN_ONNX_WIRE_H

#include "base/reader.h"

typedef enum tdn_wire_kind {
    TDN_WIRE_VARINT = 0,
    TDN_WIRE_FIXED64 = 1,
    TDN_WIRE_BYTES = 2,
    TDN_WIRE_FIXED32 = 5
} tdn_wire_kind;

typedef struct tdn_wire_field {
    uint32_t number;
    tdn_wire_kind kind;
    uint64_t value;   /* of VARINT, FIXED64, FIXED32 (bits) */
    tdn_reader bytes; /* of BYTES; of the fixed kinds their encoding */
} tdn_wire_field;

typedef enum tdn_wire_result { TDN_WIRE_END, TDN_WIRE_FIELD, TDN_WIRE_BROKEN } tdn_wire_result;

bool tdn_wire_varint(tdn_reader *r, uint64_t *out);
/* The next field. Groups (a form that ONNX never used) are skipped whole. */
tdn_wire_result tdn_wire_next(tdn_reader *r, tdn_wire_field *field);

static inline float tdn_wire_float(uint64_t bits)
{
    const uint32_t low = (uint32_t)bits;
    float f;
    memcpy(&f, &low, sizeof f);
    return f;
}

#endif
