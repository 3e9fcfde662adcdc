/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A text that grows, and JSON written into it. Running out of memory is remembered and told once, by tdn_text_take,
 * so that a description is a plain sequence of calls.
 *
 *     tdn_text t = {0};
 *     tdn_json_object(&t, NULL);
 *     tdn_json_int(&t, "n", 3);
 *     tdn_json_array(&t, "dims");
 *     tdn_json_int(&t, NULL, 7);      // in an array values have no key
 *     tdn_json_end(&t);
 *     tdn_json_end(&t);               // {"n": 3, "dims": [7]}
 */
#ifndef TDN_BASE_TEXT_H
#define TDN_BASE_TEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

#define TDN_TEXT_MAX_DEPTH 32 /* of objects and arrays in each other; deeper ones are a defect of the caller */

typedef struct tdn_text {
    char *bytes; /* NUL-terminated once anything was added */
    size_t size, capacity;
    bool failed;
    /* of JSON */
    int depth;
    char ends[TDN_TEXT_MAX_DEPTH];
    bool has_items[TDN_TEXT_MAX_DEPTH];
} tdn_text;

void tdn_text_add(tdn_text *t, const char *bytes, size_t size);
__attribute__((format(printf, 2, 3))) void tdn_text_printf(tdn_text *t, const char *format, ...);
/* Hands the text over to tdn_text_free, and leaves `t` empty. TDN_E_NOMEM, with nothing to free. */
tdn_status tdn_text_take(tdn_text *t, char **text, tdn_error *error);
/* Gives up what is there. */
void tdn_text_drop(tdn_text *t);

/* Opens an object or array, as the value of `key` (NULL: in an array, or outermost). */
void tdn_json_object(tdn_text *t, const char *key);
void tdn_json_array(tdn_text *t, const char *key);
/* Closes the innermost. */
void tdn_json_end(tdn_text *t);
/* Strings are escaped; what is not UTF-8 comes out as U+FFFD. NULL is null. */
void tdn_json_string(tdn_text *t, const char *key, const char *value);
void tdn_json_int(tdn_text *t, const char *key, int64_t value);
void tdn_json_uint(tdn_text *t, const char *key, uint64_t value);
/* Infinite and NaN, which JSON lacks, are null. */
void tdn_json_float(tdn_text *t, const char *key, double value);
void tdn_json_bool(tdn_text *t, const char *key, bool value);
void tdn_json_ints(tdn_text *t, const char *key, const int64_t *values, int n);

#endif
