/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Text that grows, and JSON in it. An allocation that fails is remembered, not reported at each
 * step: ask once at the end. Strings are escaped, and bytes that are not UTF-8 replaced, so that
 * the JSON is valid whatever a file held.
 */
#ifndef TDN_BASE_TEXT_H
#define TDN_BASE_TEXT_H

#include "base/memory.h"

typedef struct tdn_text {
    char *data; /* NUL-terminated once something was put; NULL before */
    size_t n, room;
    bool failed;
    int depth;        /* of open JSON objects and arrays */
    uint64_t started; /* bit i: the object or array at depth i has an item */
} tdn_text;

__attribute__((format(printf, 2, 3))) void tdn_text_put(tdn_text *t, const char *format, ...);
void tdn_text_put_bytes(tdn_text *t, const char *bytes, size_t size);

/* JSON: values in order, commas and line breaks by themselves. `key` is NULL in arrays and at the
 * top. At most 60 deep.
 */
void tdn_json_begin(tdn_text *t, const char *key, char open);          /* '{' or '[' */
void tdn_json_end(tdn_text *t, char close);                            /* '}' or ']' */
void tdn_json_string(tdn_text *t, const char *key, const char *value); /* NULL: null */
void tdn_json_int(tdn_text *t, const char *key, int64_t value);
void tdn_json_uint(tdn_text *t, const char *key, uint64_t value);
void tdn_json_double(tdn_text *t, const char *key, double value); /* null where it is not finite */
void tdn_json_bool(tdn_text *t, const char *key, bool value);
void tdn_json_dims(tdn_text *t, const char *key, const int64_t *dims,
                   int rank); /* "[1, 3, 8]" in one line */

/* Hands the text out, for tdn_text_free; NULL when an allocation failed. *t is empty afterwards. */
char *tdn_text_take(tdn_text *t);
void tdn_text_discard(tdn_text *t);

#endif
