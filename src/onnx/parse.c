/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of onnx.proto into the structures of model.h. One function a message; each walks the
 * fields it knows and lets the others pass. As protobuf has it, the last of a repeated single field
 * counts and repeated messages merge.
 *
 * Names are copied (the file has no NULs after them), tensors are not: they are remembered as
 * bytes. Bounds: messages nest MAX_DEPTH deep at most, and a model has MAX_PARTS parts at most,
 * since two bytes can ask for a hundred.
 */
#include <stdlib.h>

#include "onnx/model.h"
#include "onnx/wire.h"

enum {
    MAX_DEPTH = 64,
    MAX_PARTS = 4 << 20,
    MAX_TEXT = 1 << 20,
    MAX_OPERANDS = 1 << 13,
    MAX_NODES = 1 << 18,
    MAX_DIMS = 1 << 16,
    MAX_ATTRS = 256,
    MAX_OPSETS = 256
};

typedef struct parser {
    tdn_onnx *model;
    tdn_arena *arena;
    tdn_error *error;
    int depth;
    int32_t n_parts;
    bool has_named; /* the error names a node */
} parser;

#define FAIL(p, ...) tdn_fail((p)->error, TDN_E_MODEL, __VA_ARGS__)

static tdn_status nomem(parser *p) { return tdn_fail_nomem(p->error, "the model"); }

void *tdn_onnx_grow(tdn_arena *arena, void *items, int32_t n, size_t item_size)
{
    if (n & (n - 1))
        return items;
    if (n > INT32_MAX / 4)
        return NULL;
    void *more = tdn_arena_alloc(arena, n ? 2 * (size_t)n : 1, item_size);
    if (more && n)
        memcpy(more, items, (size_t)n * item_size);
    return more;
}

/* Appends a zeroed item to an array and points `item` at it. */
#define PUSH(p, array, n, item)                                                                    \
    do {                                                                                           \
        if (++(p)->n_parts > MAX_PARTS)                                                            \
            return FAIL(p, "the model has more than %d parts", MAX_PARTS);                         \
        void *grown_ = tdn_onnx_grow((p)->arena, (array), (n), sizeof *(array));                   \
        if (!grown_)                                                                               \
            return nomem(p);                                                                       \
        (array) = grown_;                                                                          \
        (item) = &(array)[(n)++];                                                                  \
    } while (0)

/* Walks a message: `on_field` for each field. */
typedef tdn_status field_fn(parser *p, const tdn_wire_field *f, void *into);

static tdn_status walk(parser *p, tdn_reader bytes, const char *message, field_fn *on_field,
                       void *into)
{
    if (p->depth == MAX_DEPTH)
        return FAIL(p, "messages nest more than %d deep", MAX_DEPTH);
    p->depth++;
    for (;;) {
        tdn_wire_field f;
        const ptrdiff_t at = bytes.at - p->model->data;
        const tdn_wire_result result = tdn_wire_next(&bytes, &f);
        if (result == TDN_WIRE_BROKEN)
            return FAIL(p, "damaged or cut off at byte %td, in a %s", at, message);
        if (result == TDN_WIRE_END)
            break;
        TDN_TRY(on_field(p, &f, into));
    }
    p->depth--;
    return TDN_OK;
}

static bool is_bytes(const tdn_wire_field *f) { return f->kind == TDN_WIRE_BYTES; }
static bool is_varint(const tdn_wire_field *f) { return f->kind == TDN_WIRE_VARINT; }

/* ---- Fields of simple kinds: they take what has the right kind and leave the rest ------------ */

static tdn_status text(parser *p, const tdn_wire_field *f, const char **out)
{
    if (!is_bytes(f))
        return TDN_OK;
    const size_t size = tdn_reader_left(&f->bytes);
    if (size > MAX_TEXT)
        return FAIL(p, "a name has %zu bytes", size);
    if (size && memchr(f->bytes.at, 0, size))
        return FAIL(p, "the name at byte %td holds a NUL", f->bytes.at - p->model->data);
    *out = tdn_arena_strndup(p->arena, (const char *)f->bytes.at, size);
    return *out ? TDN_OK : nomem(p);
}

static tdn_status push_text(parser *p, const tdn_wire_field *f, const char ***items, int32_t *n)
{
    if (!is_bytes(f))
        return TDN_OK;
    const char **item;
    PUSH(p, *items, *n, item);
    return text(p, f, item);
}

static void integer(const tdn_wire_field *f, int64_t *out)
{
    if (is_varint(f))
        *out = (int64_t)f->value;
}

static bool push_int(parser *p, int64_t **items, int32_t *n, uint64_t value)
{
    int64_t *more = tdn_onnx_grow(p->arena, *items, *n, sizeof *more);
    if (!more)
        return false;
    *items = more;
    more[(*n)++] = (int64_t)value;
    return true;
}

/* A repeated int64, packed or not. */
static tdn_status push_ints(parser *p, const tdn_wire_field *f, int64_t **items, int32_t *n)
{
    if (is_varint(f))
        return push_int(p, items, n, f->value) ? TDN_OK : nomem(p);
    if (!is_bytes(f))
        return TDN_OK;
    tdn_reader packed = f->bytes;
    while (tdn_reader_left(&packed) > 0) {
        uint64_t value;
        if (!tdn_wire_varint(&packed, &value))
            return FAIL(p, "damaged or cut off at byte %td, in packed integers",
                        packed.at - p->model->data);
        if (!push_int(p, items, n, value))
            return nomem(p);
    }
    return TDN_OK;
}

static tdn_status push_floats(parser *p, const tdn_wire_field *f, float **items, int32_t *n)
{
    if (f->kind != TDN_WIRE_FIXED32 && !is_bytes(f))
        return TDN_OK;
    tdn_reader packed = f->bytes;
    uint32_t bits;
    while (tdn_reader_u32(&packed, &bits)) {
        float *more = tdn_onnx_grow(p->arena, *items, *n, sizeof *more);
        if (!more)
            return nomem(p);
        *items = more;
        more[(*n)++] = tdn_wire_float(bits);
    }
    return tdn_reader_left(&packed) == 0 ? TDN_OK : FAIL(p, "packed floats have a broken length");
}

/* ---- Tensors --------------------------------------------------------------------------------- */

/* Dims into a fixed array; the rank counts on beyond it. */
typedef struct dims_out {
    int32_t *rank;
    int64_t *dims;
} dims_out;

static tdn_status push_dims(parser *p, const tdn_wire_field *f, dims_out out)
{
    tdn_reader packed = f->bytes;
    uint64_t value = f->value;
    if (!is_varint(f) && !is_bytes(f))
        return TDN_OK;
    while (is_varint(f) || tdn_reader_left(&packed) > 0) {
        if (is_bytes(f) && !tdn_wire_varint(&packed, &value))
            return FAIL(p, "damaged or cut off in a tensor's dims");
        if (*out.rank < TDN_MAX_RANK)
            out.dims[*out.rank] = (int64_t)value;
        if (++*out.rank > MAX_DIMS)
            return FAIL(p, "a tensor has more than %d dims", MAX_DIMS);
        if (is_varint(f))
            break;
    }
    return TDN_OK;
}

typedef struct pair {
    const char *key, *value;
} pair;

static tdn_status pair_field(parser *p, const tdn_wire_field *f, void *into)
{
    pair *kv = into;
    return f->number == 1 ? text(p, f, &kv->key) : f->number == 2 ? text(p, f, &kv->value) : TDN_OK;
}

typedef struct tensor_parts {
    onnx_tensor *tensor;
    const char *location, *offset, *length;
    int64_t is_external;
} tensor_parts;

static tdn_status external_entry(parser *p, const tdn_wire_field *f, tensor_parts *t)
{
    pair kv = {"", ""};
    if (!is_bytes(f))
        return TDN_OK;
    TDN_TRY(walk(p, f->bytes, "StringStringEntryProto", pair_field, &kv));
    if (strcmp(kv.key, "location") == 0)
        t->location = kv.value;
    else if (strcmp(kv.key, "offset") == 0)
        t->offset = kv.value;
    else if (strcmp(kv.key, "length") == 0)
        t->length = kv.value;
    return TDN_OK;
}

static tdn_status tensor_field(parser *p, const tdn_wire_field *f, void *into)
{
    tensor_parts *t = into;
    switch (f->number) {
    case 1: return push_dims(p, f, (dims_out){&t->tensor->rank, t->tensor->dims});
    case 2:
        if (is_varint(f))
            t->tensor->type = tdn_onnx_type((int64_t)f->value);
        return TDN_OK;
    case 8: return text(p, f, &t->tensor->name);
    case 9:
        if (is_bytes(f))
            t->tensor->raw = f->bytes;
        return TDN_OK;
    case 13: return external_entry(p, f, t);
    case 14: integer(f, &t->is_external); return TDN_OK;
    default: return TDN_OK;
    }
}

/* A count in decimal digits and nothing else. */
static bool parse_count(const char *digits, uint64_t *out)
{
    uint64_t value = 0;
    if (!*digits)
        return false;
    for (; *digits; digits++)
        if (*digits < '0' || *digits > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*digits - '0'), &value))
            return false;
    *out = value;
    return true;
}

static tdn_status external(parser *p, const tensor_parts *t)
{
    onnx_tensor *tensor = t->tensor;
    tensor->length = UINT64_MAX;
    if (!t->location)
        return FAIL(p, "tensor '%s' has external data without a location", tensor->name);
    if (t->offset && !parse_count(t->offset, &tensor->offset))
        return FAIL(p, "tensor '%s' has the external offset '%.64s'", tensor->name, t->offset);
    if (t->length && !parse_count(t->length, &tensor->length))
        return FAIL(p, "tensor '%s' has the external length '%.64s'", tensor->name, t->length);
    const tdn_status status = tdn_onnx_map_external(p->model, t->location, &tensor->file, p->error);
    return status == TDN_OK ? TDN_OK
                            : tdn_fail_while(p->error, status, "reading tensor '%s'", tensor->name);
}

static tdn_status tensor(parser *p, tdn_reader bytes, onnx_tensor *out)
{
    *out = (onnx_tensor){.name = "", .type = tdn_onnx_type(0), .message = bytes};
    tensor_parts t = {.tensor = out};
    TDN_TRY(walk(p, bytes, "TensorProto", tensor_field, &t));
    return t.is_external == 1 ? external(p, &t) : TDN_OK;
}

static tdn_status sparse_field(parser *p, const tdn_wire_field *f, void *into)
{
    onnx_sparse *s = into;
    if (f->number == 1 && is_bytes(f))
        return tensor(p, f->bytes, &s->values);
    if (f->number == 2 && is_bytes(f))
        return tensor(p, f->bytes, &s->indices);
    return f->number == 3 ? push_dims(p, f, (dims_out){&s->rank, s->dims}) : TDN_OK;
}

static tdn_status sparse(parser *p, tdn_reader bytes, onnx_sparse *out)
{
    const onnx_tensor none = {.name = "", .type = tdn_onnx_type(0)};
    *out = (onnx_sparse){.values = none, .indices = none};
    return walk(p, bytes, "SparseTensorProto", sparse_field, out);
}

/* ---- Types of inputs and outputs ------------------------------------------------------------- */

static tdn_status dim_field(parser *p, const tdn_wire_field *f, void *into)
{
    tdn_onnx_io *io = into;
    const int i = io->rank - 1;
    if (i >= TDN_MAX_RANK)
        return TDN_OK;
    /* Old exporters write 0 or -1 for an extent they do not know. */
    if (f->number == 1 && is_varint(f))
        io->dims[i] = (int64_t)f->value > 0 ? (int64_t)f->value : -1;
    if (f->number == 2 && is_bytes(f) && tdn_reader_left(&f->bytes) > 0)
        return text(p, f, &io->symbols[i]);
    return TDN_OK;
}

static tdn_status shape_field(parser *p, const tdn_wire_field *f, void *into)
{
    tdn_onnx_io *io = into;
    if (f->number != 1 || !is_bytes(f))
        return TDN_OK;
    if (io->rank == MAX_DIMS)
        return FAIL(p, "'%s' has more than %d dims", io->name, MAX_DIMS);
    if (io->rank++ < TDN_MAX_RANK)
        io->dims[io->rank - 1] = -1;
    return walk(p, f->bytes, "TensorShapeProto.Dimension", dim_field, io);
}

static tdn_status tensor_type_field(parser *p, const tdn_wire_field *f, void *into)
{
    tdn_onnx_io *io = into;
    if (f->number == 1 && is_varint(f)) {
        const onnx_type *type = tdn_onnx_type((int64_t)f->value);
        io->type = type->name;
        io->dtype = type->dtype;
    }
    if (f->number == 2 && is_bytes(f)) {
        io->rank = 0;
        return walk(p, f->bytes, "TensorShapeProto", shape_field, io);
    }
    return TDN_OK;
}

static tdn_status type_field(parser *p, const tdn_wire_field *f, void *into)
{
    static const char *const others[] = {
        [4] = "a sequence",       [5] = "a map", [7] = "an opaque type", [8] = "a sparse tensor",
        [9] = "an optional type",
    };
    tdn_onnx_io *io = into;
    if (f->number == 1 && is_bytes(f))
        return walk(p, f->bytes, "TypeProto.Tensor", tensor_type_field, io);
    if (f->number < sizeof others / sizeof *others && others[f->number])
        io->type = others[f->number];
    return TDN_OK;
}

static tdn_status io_field(parser *p, const tdn_wire_field *f, void *into)
{
    tdn_onnx_io *io = into;
    if (f->number == 1)
        return text(p, f, &io->name);
    return f->number == 2 && is_bytes(f) ? walk(p, f->bytes, "TypeProto", type_field, io) : TDN_OK;
}

static tdn_status push_io(parser *p, const tdn_wire_field *f, tdn_onnx_io **items, int32_t *n)
{
    tdn_onnx_io *io;
    if (!is_bytes(f))
        return TDN_OK;
    PUSH(p, *items, *n, io);
    *io = (tdn_onnx_io){.name = "", .type = "nothing", .rank = -1};
    return walk(p, f->bytes, "ValueInfoProto", io_field, io);
}

/* ---- Nodes and graphs ------------------------------------------------------------------------ */

static field_fn graph_field;

static tdn_status attr_message(parser *p, const tdn_wire_field *f, onnx_attr *a)
{
    if (!is_bytes(f))
        return TDN_OK;
    if (f->number == 5) {
        a->tensor = tdn_arena_alloc(p->arena, 1, sizeof *a->tensor);
        return a->tensor ? tensor(p, f->bytes, a->tensor) : nomem(p);
    }
    if (f->number == 22) {
        a->sparse = tdn_arena_alloc(p->arena, 1, sizeof *a->sparse);
        return a->sparse ? sparse(p, f->bytes, a->sparse) : nomem(p);
    }
    a->graph = tdn_arena_alloc(p->arena, 1, sizeof *a->graph);
    if (!a->graph)
        return nomem(p);
    a->graph->name = "";
    return walk(p, f->bytes, "GraphProto", graph_field, a->graph);
}

/* Text of an attribute may hold anything, NULs too: it has a size. */
static tdn_status attr_bytes(parser *p, const tdn_wire_field *f, onnx_attr *a)
{
    const size_t size = tdn_reader_left(&f->bytes);
    if (!is_bytes(f))
        return TDN_OK;
    if (size > INT32_MAX)
        return FAIL(p, "attribute '%s' has %zu bytes", a->name, size);
    char *copy = tdn_arena_alloc(p->arena, size + 1, 1);
    if (!copy)
        return nomem(p);
    if (size)
        memcpy(copy, f->bytes.at, size);
    a->s = copy;
    a->s_size = (int32_t)size;
    return TDN_OK;
}

static tdn_status attr_field(parser *p, const tdn_wire_field *f, void *into)
{
    onnx_attr *a = into;
    int64_t type = a->type;
    switch (f->number) {
    case 1: return text(p, f, &a->name);
    case 21: return text(p, f, &a->ref);
    case 20:
        integer(f, &type);
        a->type = type < 0 || type > 99 ? 99 : (int32_t)type;
        return TDN_OK;
    case 2:
        if (f->kind == TDN_WIRE_FIXED32)
            a->f = tdn_wire_float(f->value);
        return TDN_OK;
    case 3: integer(f, &a->i); return TDN_OK;
    case 4: return attr_bytes(p, f, a);
    case 5:
    case 6:
    case 22: return attr_message(p, f, a);
    case 7: return push_floats(p, f, &a->floats, &a->n_floats);
    case 8: return push_ints(p, f, &a->ints, &a->n_ints);
    case 9: return push_text(p, f, &a->strings, &a->n_strings);
    default: return TDN_OK;
    }
}

/* Before IR version 2 attributes did not say their type: the field that is there tells it. */
typedef struct untyped {
    uint32_t fields; /* bit i: field i has been seen */
    onnx_attr *attr;
} untyped;

static tdn_status attr_field_noting(parser *p, const tdn_wire_field *f, void *into)
{
    untyped *u = into;
    if (f->number < 32)
        u->fields |= 1u << f->number;
    return attr_field(p, f, u->attr);
}

static tdn_status push_attr(parser *p, const tdn_wire_field *f, onnx_attr **items, int32_t *n)
{
    static const int32_t type_of_field[] = {
        [2] = ONNX_FLOAT,    [3] = ONNX_INT,     [4] = ONNX_STRING, [5] = ONNX_TENSOR,
        [6] = ONNX_GRAPH,    [7] = ONNX_FLOATS,  [8] = ONNX_INTS,   [9] = ONNX_STRINGS,
        [10] = ONNX_TENSORS, [11] = ONNX_GRAPHS,
    };
    onnx_attr *a;
    if (!is_bytes(f))
        return TDN_OK;
    if (*n == MAX_ATTRS)
        return FAIL(p, "more than %d attributes", MAX_ATTRS);
    PUSH(p, *items, *n, a);
    *a = (onnx_attr){.name = "", .s = ""};
    untyped u = {0, a};
    TDN_TRY(walk(p, f->bytes, "AttributeProto", attr_field_noting, &u));
    for (uint32_t i = 2; i < 12 && a->type == ONNX_UNDEFINED; i++)
        if (u.fields >> i & 1)
            a->type = type_of_field[i];
    return TDN_OK;
}

static tdn_status node_field(parser *p, const tdn_wire_field *f, void *into)
{
    onnx_node *node = into;
    switch (f->number) {
    case 1:
        return node->n_in < MAX_OPERANDS ? push_text(p, f, &node->in, &node->n_in)
                                         : FAIL(p, "more than %d inputs", MAX_OPERANDS);
    case 2:
        return node->n_out < MAX_OPERANDS ? push_text(p, f, &node->out, &node->n_out)
                                          : FAIL(p, "more than %d outputs", MAX_OPERANDS);
    case 3: return text(p, f, &node->name);
    case 4: return text(p, f, &node->op);
    case 5: return push_attr(p, f, &node->attrs, &node->n_attrs);
    case 7: return text(p, f, &node->domain);
    case 8: return text(p, f, &node->overload);
    default: return TDN_OK;
    }
}

static const char *plain_domain(const char *domain)
{
    return strcmp(domain, "ai.onnx") == 0 ? "" : domain;
}

static tdn_status push_node(parser *p, const tdn_wire_field *f, onnx_body *body)
{
    onnx_node *node;
    if (!is_bytes(f))
        return TDN_OK;
    if (body->n_nodes == MAX_NODES)
        return FAIL(p, "a graph has more than %d nodes", MAX_NODES);
    PUSH(p, body->nodes, body->n_nodes, node);
    *node = (onnx_node){.name = "", .op = "", .domain = "", .overload = ""};
    const tdn_status status = walk(p, f->bytes, "NodeProto", node_field, node);
    if (status != TDN_OK && !p->has_named) {
        p->has_named =
            true; /* the innermost is enough: a hundred would leave no room for the file */
        tdn_fail_while(p->error, status, "reading node %d '%s' (%s)", body->n_nodes - 1, node->name,
                       node->op);
    }
    TDN_TRY(status);
    node->domain = plain_domain(node->domain);
    return TDN_OK;
}

static tdn_status graph_field(parser *p, const tdn_wire_field *f, void *into)
{
    onnx_graph *g = into;
    if (f->number == 2)
        return text(p, f, &g->name);
    if (!is_bytes(f))
        return TDN_OK;
    switch (f->number) {
    case 1: return push_node(p, f, &g->body);
    case 5: {
        onnx_tensor *item;
        PUSH(p, g->initializers, g->n_initializers, item);
        return tensor(p, f->bytes, item);
    }
    case 15: {
        onnx_sparse *item;
        PUSH(p, g->sparse, g->n_sparse, item);
        return sparse(p, f->bytes, item);
    }
    case 11: return push_io(p, f, &g->inputs, &g->n_inputs);
    case 12: return push_io(p, f, &g->outputs, &g->n_outputs);
    default: return TDN_OK;
    }
}

/* ---- The model ------------------------------------------------------------------------------- */

static tdn_status opset_field(parser *p, const tdn_wire_field *f, void *into)
{
    tdn_onnx_opset *opset = into;
    if (f->number == 1)
        return text(p, f, &opset->domain);
    if (f->number == 2)
        integer(f, &opset->version);
    return TDN_OK;
}

static tdn_status push_opset(parser *p, const tdn_wire_field *f, tdn_onnx_opset **items, int32_t *n)
{
    tdn_onnx_opset *opset;
    if (!is_bytes(f))
        return TDN_OK;
    if (*n == MAX_OPSETS)
        return FAIL(p, "more than %d opsets", MAX_OPSETS);
    PUSH(p, *items, *n, opset);
    *opset = (tdn_onnx_opset){.domain = ""};
    TDN_TRY(walk(p, f->bytes, "OperatorSetIdProto", opset_field, opset));
    opset->domain = plain_domain(opset->domain);
    if (opset->version < 0 || opset->version > INT32_MAX)
        return FAIL(p, "opset version %lld of domain '%s'", (long long)opset->version,
                    opset->domain);
    return TDN_OK;
}

static tdn_status function_field(parser *p, const tdn_wire_field *f, void *into)
{
    onnx_function *fn = into;
    switch (f->number) {
    case 1: return text(p, f, &fn->name);
    case 4: return push_text(p, f, &fn->in, &fn->n_in);
    case 5: return push_text(p, f, &fn->out, &fn->n_out);
    case 7: return push_node(p, f, &fn->body);
    case 9: return push_opset(p, f, &fn->opsets, &fn->n_opsets);
    case 10: return text(p, f, &fn->domain);
    case 11: return push_attr(p, f, &fn->defaults, &fn->n_defaults);
    case 13: return text(p, f, &fn->overload);
    default: return TDN_OK;
    }
}

static tdn_status push_function(parser *p, const tdn_wire_field *f)
{
    tdn_onnx *m = p->model;
    onnx_function *fn;
    if (!is_bytes(f))
        return TDN_OK;
    PUSH(p, m->functions, m->n_functions, fn);
    *fn = (onnx_function){.name = "", .domain = "", .overload = ""};
    const tdn_status status = walk(p, f->bytes, "FunctionProto", function_field, fn);
    if (status != TDN_OK)
        return tdn_fail_while(p->error, status, "reading function '%s'", fn->name);
    fn->domain = plain_domain(fn->domain);
    return TDN_OK;
}

static tdn_status model_field(parser *p, const tdn_wire_field *f, void *into)
{
    tdn_onnx *m = into;
    switch (f->number) {
    case 1: integer(f, &m->ir_version); return TDN_OK;
    case 2: return text(p, f, &m->producer);
    case 3: return text(p, f, &m->producer_version);
    case 7:
        if (!is_bytes(f))
            return TDN_OK;
        m->has_graph = true;
        return walk(p, f->bytes, "GraphProto", graph_field, &m->graph);
    case 8: return push_opset(p, f, &m->opsets, &m->n_opsets);
    case 25: return push_function(p, f);
    default: return TDN_OK;
    }
}

tdn_status tdn_onnx_parse_model(tdn_onnx *model, tdn_reader bytes, tdn_error *error)
{
    parser p = {.model = model, .arena = model->arena, .error = error};
    model->graph.name = "";
    model->producer = model->producer_version = "";
    if (tdn_reader_left(&bytes) == 0)
        return FAIL(&p, "the file is empty");
    TDN_TRY(walk(&p, bytes, "ModelProto", model_field, model));
    return model->has_graph ? TDN_OK : FAIL(&p, "there is no graph in it: is it an ONNX model?");
}

tdn_status tdn_onnx_parse_tensor(tdn_onnx *model, tdn_reader bytes, onnx_tensor *out,
                                 tdn_error *error)
{
    parser p = {.model = model, .arena = model->arena, .error = error};
    return tensor(&p, bytes, out);
}
