/* SPDX-License-Identifier: Apache-2.0 */
/* Attributes of an operator: a short list of named values, the same in the graph, in a plan and for
 * a reference. */
#ifndef TDN_BASE_ATTR_H
#define TDN_BASE_ATTR_H

#include "base/view.h"

/* The numbers are part of the plan format. GRAPH never reaches a plan. */
typedef enum tdn_attr_kind {
    TDN_ATTR_INT = 1,
    TDN_ATTR_FLOAT = 2,
    TDN_ATTR_STRING = 3,
    TDN_ATTR_INTS = 4,
    TDN_ATTR_FLOATS = 5,
    TDN_ATTR_STRINGS = 6,
    TDN_ATTR_TENSOR = 7,
    TDN_ATTR_GRAPH = 8
} tdn_attr_kind;

typedef struct tdn_attr {
    const char *name;
    tdn_attr_kind kind;
    int32_t n; /* elements of INTS, FLOATS, STRINGS; bytes of STRING */
    union {
        int64_t i;
        float f;
        const char *s; /* NUL-terminated */
        const int64_t *ints;
        const float *floats;
        const char *const *strings;
        const tdn_view *tensor; /* dense */
        struct tdn_graph *graph;
    };
} tdn_attr;

typedef struct tdn_attrs {
    const tdn_attr *items;
    int32_t n;
} tdn_attrs;

const tdn_attr *tdn_attr_find(const tdn_attrs *attrs, const char *name);
/* The value, or the default where the attribute is absent or of another kind. */
int64_t tdn_attr_int(const tdn_attrs *attrs, const char *name, int64_t absent);
float tdn_attr_float(const tdn_attrs *attrs, const char *name, float absent);
const char *tdn_attr_string(const tdn_attrs *attrs, const char *name, const char *absent);
/* *n is the count, 0 and NULL where absent. */
const int64_t *tdn_attr_ints(const tdn_attrs *attrs, const char *name, int *n);
/* Are there numbers, and all of them `wanted`? */
bool tdn_attr_ints_are(const tdn_attrs *attrs, const char *name, int64_t wanted);
const float *tdn_attr_floats(const tdn_attrs *attrs, const char *name, int *n);

#endif
