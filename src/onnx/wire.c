/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wire format. Every read is bounded by the message that holds it, and a nested message by the
 * bytes field it came in, so a wrong length can hide fields from us but never lead outside.
 * Skipping groups counts their depth instead of recursing.
 */
#include "onnx/wire.h"

enum { GROUP_BEGIN = 3, GROUP_END = 4, MAX_GROUP_DEPTH = 100 };

bool tdn_wire_varint(tdn_reader *r, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        const uint8_t *byte = tdn_reader_take(r, 1);
        if (!byte)
            return false;
        if (shift < 64)
            value |= (uint64_t)(*byte & 0x7f) << shift;
        if (!(*byte & 0x80)) {
            *out = value;
            return true;
        }
    }
    return false;
}

static bool read_value(tdn_reader *r, unsigned kind, tdn_wire_field *field)
{
    const uint8_t *start;
    size_t size;
    if (kind == TDN_WIRE_VARINT)
        return tdn_wire_varint(r, &field->value);
    if (kind == TDN_WIRE_BYTES) {
        uint64_t length;
        if (!tdn_wire_varint(r, &length) || length > tdn_reader_left(r))
            return false;
        size = (size_t)length;
    } else if (kind == TDN_WIRE_FIXED32 || kind == TDN_WIRE_FIXED64) {
        size = kind == TDN_WIRE_FIXED32 ? 4 : 8;
    } else {
        return false;
    }
    start = tdn_reader_take(r, size);
    if (!start)
        return false;
    field->bytes = (tdn_reader){start, start + size};
    field->value = 0;
    if (kind != TDN_WIRE_BYTES)
        memcpy(&field->value, start, size);
    return true;
}

tdn_wire_result tdn_wire_next(tdn_reader *r, tdn_wire_field *field)
{
    unsigned depth = 0; /* of open groups */
    while (tdn_reader_left(r) > 0) {
        uint64_t tag;
        if (!tdn_wire_varint(r, &tag) || tag >> 32 || tag >> 3 == 0)
            return TDN_WIRE_BROKEN;
        const unsigned kind = tag & 7;
        if (kind == GROUP_BEGIN || kind == GROUP_END) {
            if (kind == GROUP_BEGIN ? depth == MAX_GROUP_DEPTH : depth == 0)
                return TDN_WIRE_BROKEN;
            depth += kind == GROUP_BEGIN ? 1 : -1u;
            continue;
        }
        *field = (tdn_wire_field){.number = (uint32_t)(tag >> 3), .kind = (tdn_wire_kind)kind};
        if (!read_value(r, kind, field))
            return TDN_WIRE_BROKEN;
        if (depth == 0)
            return TDN_WIRE_FIELD;
    }
    return depth == 0 ? TDN_WIRE_END : TDN_WIRE_BROKEN;
}
