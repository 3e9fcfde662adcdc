/* SPDX-License-Identifier: Apache-2.0 */
/* Writes protobuf messages by hand, for tests: what an exporter would never write can be written
 * too. */
#ifndef TESTS_PROTOBUF_H
#define TESTS_PROTOBUF_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct pb {
    uint8_t *data; /* exact in size, so that a sanitizer sees the first byte beyond */
    size_t n;
} pb;

static inline void pb_put(pb *m, const void *bytes, size_t size)
{
    uint8_t *data = malloc(m->n + size + 1);
    if (m->n)
        memcpy(data, m->data, m->n);
    if (size)
        memcpy(data + m->n, bytes, size);
    free(m->data);
    m->data = data;
    m->n += size;
}

static inline void pb_varint(pb *m, uint64_t v)
{
    uint8_t bytes[10];
    size_t n = 0;
    for (; v >= 0x80; v >>= 7)
        bytes[n++] = (uint8_t)(v | 0x80);
    bytes[n++] = (uint8_t)v;
    pb_put(m, bytes, n);
}

static inline void pb_int(pb *m, uint32_t field, int64_t v)
{
    pb_varint(m, (uint64_t)field << 3);
    pb_varint(m, (uint64_t)v);
}

static inline void pb_float(pb *m, uint32_t field, float v)
{
    pb_varint(m, (uint64_t)field << 3 | 5);
    pb_put(m, &v, sizeof v);
}

static inline void pb_double(pb *m, uint32_t field, double v)
{
    pb_varint(m, (uint64_t)field << 3 | 1);
    pb_put(m, &v, sizeof v);
}

static inline void pb_bytes(pb *m, uint32_t field, const void *bytes, size_t size)
{
    pb_varint(m, (uint64_t)field << 3 | 2);
    pb_varint(m, size);
    pb_put(m, bytes, size);
}

static inline void pb_text(pb *m, uint32_t field, const char *text)
{
    pb_bytes(m, field, text, strlen(text));
}

/* Appends a message and frees it. */
static inline void pb_message(pb *m, uint32_t field, pb inner)
{
    pb_bytes(m, field, inner.data, inner.n);
    free(inner.data);
}

static inline void pb_packed(pb *m, uint32_t field, const int64_t *v, int n)
{
    pb packed = {0};
    for (int i = 0; i < n; i++)
        pb_varint(&packed, (uint64_t)v[i]);
    pb_message(m, field, packed);
}

/* ---- Messages of onnx.proto ------------------------------------------------------------------ */

enum {
    FLOAT = 1,
    UINT8 = 2,
    INT8 = 3,
    INT16 = 5,
    INT32 = 6,
    INT64 = 7,
    STRING = 8,
    BOOL = 9,
    FLOAT16 = 10,
    DOUBLE = 11,
    UINT32 = 12,
    UINT64 = 13,
    BFLOAT16 = 16,
    FLOAT8 = 17,
    UINT4 = 21,
    INT4 = 22
};

/* Names separated by blanks; "-" is an absent one. */
static inline void pb_names(pb *m, uint32_t field, const char *names)
{
    while (*names) {
        const size_t n = strcspn(names, " ");
        pb_bytes(m, field, names, n == 1 && *names == '-' ? 0 : n);
        names += n + (names[n] == ' ');
    }
}

static inline pb onnx_node(const char *op, const char *name, const char *in, const char *out)
{
    pb m = {0};
    pb_names(&m, 1, in);
    pb_names(&m, 2, out);
    pb_text(&m, 3, name);
    pb_text(&m, 4, op);
    return m;
}

/* A value's name, type and shape; rank -1: no shape. A dim of -1 is the symbol "N". */
static inline pb onnx_io(const char *name, int type, int rank, const int64_t *dims)
{
    pb m = {0}, kind = {0}, tensor = {0}, shape = {0};
    for (int i = 0; i < rank; i++) {
        pb dim = {0};
        if (dims[i] == -1)
            pb_text(&dim, 2, "N");
        else
            pb_int(&dim, 1, dims[i]);
        pb_message(&shape, 1, dim);
    }
    pb_int(&tensor, 1, type);
    if (rank >= 0)
        pb_message(&tensor, 2, shape);
    pb_message(&kind, 1, tensor);
    pb_text(&m, 1, name);
    pb_message(&m, 2, kind);
    return m;
}

/* A tensor without its elements. */
static inline pb onnx_tensor(const char *name, int type, int rank, const int64_t *dims)
{
    pb m = {0};
    pb_packed(&m, 1, dims, rank);
    pb_int(&m, 2, type);
    pb_text(&m, 8, name);
    return m;
}

static inline pb onnx_raw_tensor(const char *name, int type, int rank, const int64_t *dims,
                                 const void *data, size_t size)
{
    pb m = onnx_tensor(name, type, rank, dims);
    pb_bytes(&m, 9, data, size);
    return m;
}

static inline pb onnx_attr(const char *name, int type)
{
    pb m = {0};
    pb_text(&m, 1, name);
    pb_int(&m, 20, type);
    return m;
}

static inline pb onnx_opset(const char *domain, int64_t version)
{
    pb m = {0};
    pb_text(&m, 1, domain);
    pb_int(&m, 2, version);
    return m;
}

/* A model with opset 17 around a graph, which is freed. */
static inline pb onnx_model(pb graph)
{
    pb m = {0};
    pb_int(&m, 1, 8);
    pb_message(&m, 8, onnx_opset("", 17));
    pb_message(&m, 7, graph);
    return m;
}

/* y = relu(x w0) w1, of 16 x 16 numbers each; the products are "first" and "second". */
static inline pb onnx_two_products(void)
{
    static const int64_t dims[] = {16, 16};
    float w[2][256];
    pb g = {0};
    for (int i = 0; i < 512; i++)
        w[i / 256][i % 256] = (float)(i * 7919 % 257 - 128) / 128;
    pb_message(&g, 1, onnx_node("MatMul", "first", "x w0", "a"));
    pb_message(&g, 1, onnx_node("Relu", "relu", "a", "b"));
    pb_message(&g, 1, onnx_node("MatMul", "second", "b w1", "y"));
    pb_message(&g, 5, onnx_raw_tensor("w0", 1, 2, dims, w[0], sizeof w[0]));
    pb_message(&g, 5, onnx_raw_tensor("w1", 1, 2, dims, w[1], sizeof w[1]));
    pb_message(&g, 11, onnx_io("x", 1, 2, dims));
    pb_message(&g, 12, onnx_io("y", 1, 2, dims));
    return onnx_model(g);
}

#endif
