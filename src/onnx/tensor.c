/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tensors: elements as dense little-endian memory, whatever of ONNX's encodings they came in.
 *
 * raw_data, external data, and packed float_data or double_data are already that: they are used in
 * place when they lie aligned to their element, and copied otherwise. The others are decoded.
 * Memory is taken only after the bytes that are there have been held against the dims, so it is at
 * most eight times the file's.
 */
#include "onnx/model.h"
#include "onnx/wire.h"

/* A sparse tensor says nothing about how much of it is there. */
#define MAX_DENSE_SIZE ((size_t)256 << 20)

enum { FLOATS = 4, INT32S = 5, STRINGS = 6, INT64S = 7, DOUBLES = 10, UINT64S = 11 };

static const onnx_type types[] = {
    [0] = {"an unknown type", TDN_DTYPE_NONE, 0},
    [1] = {"float32", TDN_F32, FLOATS},
    [2] = {"uint8", TDN_U8, INT32S},
    [3] = {"int8", TDN_S8, INT32S},
    [4] = {"uint16", TDN_U16, INT32S},
    [5] = {"int16", TDN_S16, INT32S},
    [6] = {"int32", TDN_S32, INT32S},
    [7] = {"int64", TDN_S64, INT64S},
    [8] = {"string", TDN_STRING, STRINGS},
    [9] = {"bool", TDN_BOOL, INT32S},
    [10] = {"float16", TDN_F16, INT32S},
    [11] = {"float64", TDN_F64, DOUBLES},
    [12] = {"uint32", TDN_U32, UINT64S},
    [13] = {"uint64", TDN_U64, UINT64S},
    [14] = {"complex64", TDN_DTYPE_NONE, FLOATS},
    [15] = {"complex128", TDN_DTYPE_NONE, DOUBLES},
    [16] = {"bfloat16", TDN_BF16, INT32S},
    [17] = {"float8e4m3fn", TDN_DTYPE_NONE, INT32S},
    [18] = {"float8e4m3fnuz", TDN_DTYPE_NONE, INT32S},
    [19] = {"float8e5m2", TDN_DTYPE_NONE, INT32S},
    [20] = {"float8e5m2fnuz", TDN_DTYPE_NONE, INT32S},
    [21] = {"uint4", TDN_U4, INT32S},
    [22] = {"int4", TDN_S4, INT32S},
    [23] = {"float4e2m1", TDN_DTYPE_NONE, INT32S},
    [24] = {"float8e8m0", TDN_DTYPE_NONE, INT32S},
    [25] = {"uint2", TDN_DTYPE_NONE, INT32S},
    [26] = {"int2", TDN_DTYPE_NONE, INT32S},
};

const onnx_type *tdn_onnx_type(int64_t number)
{
    return &types[number > 0 && number < (int64_t)(sizeof types / sizeof *types) ? number : 0];
}

typedef struct decoder {
    tdn_onnx *model;
    onnx_tensor *tensor;
    size_t size; /* bytes that the dims ask for */
    size_t
        item_size; /* of what one entry of a typed field becomes: an element, or two of four bits */
    tdn_error *error;
} decoder;

static const char *shape_text(const onnx_tensor *t, char *text, size_t size)
{
    const tdn_shape shape =
        tdn_shape_make(t->rank < TDN_MAX_RANK ? t->rank : TDN_MAX_RANK, t->dims);
    return tdn_shape_print(&shape, text, size);
}

static tdn_status wrong_size(const decoder *d, size_t size)
{
    char text[192];
    return tdn_fail(d->error, TDN_E_MODEL,
                    "tensor '%s' of shape %s and type %s has %zu bytes, not %zu", d->tensor->name,
                    shape_text(d->tensor, text, sizeof text), d->tensor->type->name, size, d->size);
}

static tdn_status nomem(const decoder *d) { return tdn_fail_nomem(d->error, "a tensor"); }

/* ---- Bytes that are there as they are needed ------------------------------------------------- */

static bool has_wild_bools(const uint8_t *at, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (at[i] > 1)
            return true;
    return false;
}

/* In place where aligned (and, for bool, where all are 0 or 1, as the rest of Tendon may assume);
 * else copied. */
static tdn_status use_bytes(const decoder *d, const uint8_t *at)
{
    const bool is_bool = d->tensor->type->dtype == TDN_BOOL;
    if ((uintptr_t)at % d->item_size == 0 && !(is_bool && has_wild_bools(at, d->size))) {
        d->tensor->data = at;
        return TDN_OK;
    }
    uint8_t *copy = tdn_arena_alloc_data(d->model->arena, d->size);
    if (!copy)
        return nomem(d);
    if (d->size)
        memcpy(copy, at, d->size);
    for (size_t i = 0; is_bool && i < d->size; i++)
        copy[i] = copy[i] != 0;
    d->tensor->data = copy;
    return TDN_OK;
}

static tdn_status use_external(const decoder *d)
{
    const onnx_tensor *t = d->tensor;
    const tdn_map *map = &t->file->map;
    if (t->length != UINT64_MAX && t->length != d->size)
        return wrong_size(d, (size_t)t->length);
    if (t->offset > map->size || d->size > map->size - t->offset)
        return tdn_fail(d->error, TDN_E_MODEL,
                        "tensor '%s' lies at %llu + %zu in '%s' of %zu bytes", t->name,
                        (unsigned long long)t->offset, d->size, t->file->path, map->size);
    static const uint8_t nothing[8];
    return use_bytes(d, map->data ? map->data + t->offset : nothing);
}

/* ---- Typed fields ---------------------------------------------------------------------------- */

static void store(uint8_t *at, size_t item_size, tdn_dtype dtype, uint64_t bits)
{
    if (dtype == TDN_BOOL)
        bits = bits != 0;
    memcpy(at, &bits, item_size); /* little-endian: the low bytes come first */
}

/* Entries of the typed field, one after the other, into `out`; false when there are more than fit.
 * *n counts bytes. */
static bool decode_field(const decoder *d, const tdn_wire_field *f, uint8_t *out, size_t *n)
{
    const bool is_fixed = d->tensor->type->field == FLOATS || d->tensor->type->field == DOUBLES;
    tdn_reader packed = f->bytes;
    if (is_fixed) {
        const size_t size = tdn_reader_left(&packed);
        if (size > d->size - *n)
            return false;
        if (size)
            memcpy(out + *n, packed.at, size);
        *n += size;
        return true;
    }
    uint64_t value = f->value;
    bool more = f->kind == TDN_WIRE_VARINT || tdn_reader_left(&packed) > 0;
    while (more) {
        if (f->kind == TDN_WIRE_BYTES && !tdn_wire_varint(&packed, &value))
            return false;
        if (*n == d->size)
            return false;
        store(out + *n, d->item_size, d->tensor->type->dtype, value);
        *n += d->item_size;
        more = f->kind == TDN_WIRE_BYTES && tdn_reader_left(&packed) > 0;
    }
    return true;
}

static bool is_typed_field(const decoder *d, const tdn_wire_field *f)
{
    const uint32_t field = d->tensor->type->field;
    const tdn_wire_kind single = field == FLOATS    ? TDN_WIRE_FIXED32
                                 : field == DOUBLES ? TDN_WIRE_FIXED64
                                                    : TDN_WIRE_VARINT;
    return f->number == field && (f->kind == TDN_WIRE_BYTES || f->kind == single);
}

/* One packed field that holds all elements as they are: no need to copy. */
static bool find_whole(const decoder *d, const uint8_t **at)
{
    tdn_reader r = d->tensor->message;
    tdn_wire_field f;
    if (d->tensor->type->field != FLOATS && d->tensor->type->field != DOUBLES)
        return false;
    while (tdn_wire_next(&r, &f) == TDN_WIRE_FIELD)
        if (is_typed_field(d, &f)) {
            *at = f.bytes.at;
            return tdn_reader_left(&f.bytes) == d->size && d->size > 0;
        }
    return false;
}

static tdn_status use_typed(const decoder *d)
{
    const uint8_t *whole;
    if (find_whole(d, &whole))
        return use_bytes(d, whole);
    tdn_reader r = d->tensor->message;
    if (d->size / 8 >
        tdn_reader_left(&r)) /* an entry is at least a byte and becomes at most eight */
        return wrong_size(d, 0);
    uint8_t *out = tdn_arena_alloc_data(d->model->arena, d->size);
    if (!out)
        return nomem(d);
    size_t n = 0;
    for (tdn_wire_field f; tdn_wire_next(&r, &f) == TDN_WIRE_FIELD;)
        if (is_typed_field(d, &f) && !decode_field(d, &f, out, &n))
            return tdn_fail(d->error, TDN_E_MODEL, "tensor '%s' has more elements than its shape",
                            d->tensor->name);
    if (n != d->size)
        return wrong_size(d, n);
    d->tensor->data = out;
    return TDN_OK;
}

/* ---- Views ----------------------------------------------------------------------------------- */

static tdn_status check_shape(const char *name, int32_t rank, const int64_t *dims, int64_t *count,
                              tdn_error *error)
{
    if (rank > TDN_MAX_RANK)
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "tensor '%s' has rank %d; at most %d is supported", name, rank,
                        TDN_MAX_RANK);
    for (int i = 0; i < rank; i++)
        if (dims[i] < 0)
            return tdn_fail(error, TDN_E_MODEL, "tensor '%s' has extent %lld", name,
                            (long long)dims[i]);
    const tdn_shape shape = tdn_shape_make(rank, dims);
    if (!tdn_shape_fits(&shape))
        return tdn_fail(error, TDN_E_MODEL, "tensor '%s' is too large", name);
    *count = tdn_shape_count(&shape);
    return TDN_OK;
}

tdn_status tdn_onnx_tensor_view(tdn_onnx *model, onnx_tensor *t, tdn_view *view, tdn_error *error)
{
    int64_t count;
    const tdn_dtype dtype = t->type->dtype;
    if (dtype == TDN_DTYPE_NONE || dtype == TDN_STRING)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "tensor '%s' of type %s is not supported",
                        t->name, t->type->name);
    TDN_TRY(check_shape(t->name, t->rank, t->dims, &count, error));
    if (!t->data) {
        const bool is_half_byte = dtype == TDN_S4 || dtype == TDN_U4;
        const decoder d = {
            .model = model,
            .tensor = t,
            .size = tdn_dtype_size(dtype, (size_t)count),
            .item_size = tdn_dtype_size(dtype, is_half_byte ? 2 : 1),
            .error = error,
        };
        if (t->file)
            TDN_TRY(use_external(&d));
        else if (t->raw.at && tdn_reader_left(&t->raw) != d.size)
            return wrong_size(&d, tdn_reader_left(&t->raw));
        else
            TDN_TRY(t->raw.at ? use_bytes(&d, t->raw.at) : use_typed(&d));
    }
    *view = tdn_view_make((void *)(uintptr_t)t->data, dtype, t->rank, t->dims);
    return TDN_OK;
}

/* Place of the value number k: an index into the flat tensor, or one index an
 * axis. False: outside. */
static bool sparse_place(const onnx_sparse *s, const tdn_view *indices, int64_t k, int64_t count,
                         int64_t *place)
{
    if (indices->rank == 1) {
        *place = tdn_view_get_int(indices, k);
        return *place >= 0 && *place < count;
    }
    *place = 0;
    for (int axis = 0; axis < s->rank; axis++) {
        const int64_t i = tdn_view_get_int(indices, k * s->rank + axis);
        if (i < 0 || i >= s->dims[axis])
            return false;
        *place = *place * s->dims[axis] + i;
    }
    return true;
}

static tdn_status scatter(tdn_onnx *model, onnx_sparse *s, int64_t count, tdn_error *error)
{
    tdn_view values, indices;
    TDN_TRY(tdn_onnx_tensor_view(model, &s->values, &values, error));
    TDN_TRY(tdn_onnx_tensor_view(model, &s->indices, &indices, error));
    const int64_t n = tdn_view_count(&values);
    const bool is_flat = indices.rank == 1,
               is_full = indices.rank == 2 && indices.dims[1] == s->rank;
    if (values.rank != 1 || indices.dtype != TDN_S64 || (!is_flat && !is_full) ||
        indices.dims[0] != n)
        return tdn_fail(error, TDN_E_MODEL,
                        "the indices of sparse tensor '%s' do not fit its values", s->values.name);
    const size_t item_size = tdn_dtype_size(values.dtype, 1),
                 size = tdn_dtype_size(values.dtype, (size_t)count);
    if (values.dtype == TDN_S4 || values.dtype == TDN_U4 || size > MAX_DENSE_SIZE)
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "sparse tensor '%s' of %zu bytes of %s is not supported", s->values.name,
                        size, tdn_dtype_name(values.dtype));
    uint8_t *dense = tdn_arena_alloc_data(model->arena, size);
    if (!dense)
        return tdn_fail_nomem(error, "a sparse tensor");
    memset(dense, 0, size);
    for (int64_t k = 0; k < n; k++) {
        int64_t place;
        if (!sparse_place(s, &indices, k, count, &place))
            return tdn_fail(error, TDN_E_MODEL, "an index of sparse tensor '%s' is out of range",
                            s->values.name);
        memcpy(dense + (size_t)place * item_size,
               (const uint8_t *)values.data + (size_t)k * item_size, item_size);
    }
    s->data = dense;
    return TDN_OK;
}

tdn_status tdn_onnx_sparse_view(tdn_onnx *model, onnx_sparse *s, tdn_view *view, tdn_error *error)
{
    int64_t count;
    TDN_TRY(check_shape(s->values.name, s->rank, s->dims, &count, error));
    if (!s->data)
        TDN_TRY(scatter(model, s, count, error));
    *view = tdn_view_make((void *)(uintptr_t)s->data, s->values.type->dtype, s->rank, s->dims);
    return TDN_OK;
}
