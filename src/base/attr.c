/* SPDX-License-Identifier: Apache-2.0 */
/* Looking up attributes. Lists are short (rarely over ten), so a walk beats an index. */
#include "base/attr.h"

#include <string.h>

const tdn_attr *tdn_attr_find(const tdn_attrs *attrs, const char *name)
{
    if (!attrs)
        return NULL;
    for (int32_t i = 0; i < attrs->n; i++)
        if (strcmp(attrs->items[i].name, name) == 0)
            return &attrs->items[i];
    return NULL;
}

/* The attribute of that name and kind, or NULL. */
static const tdn_attr *find_kind(const tdn_attrs *attrs, const char *name, tdn_attr_kind kind)
{
    const tdn_attr *attr = tdn_attr_find(attrs, name);
    return attr && attr->kind == kind ? attr : NULL;
}

int64_t tdn_attr_int(const tdn_attrs *attrs, const char *name, int64_t absent)
{
    const tdn_attr *attr = find_kind(attrs, name, TDN_ATTR_INT);
    return attr ? attr->i : absent;
}

float tdn_attr_float(const tdn_attrs *attrs, const char *name, float absent)
{
    const tdn_attr *attr = find_kind(attrs, name, TDN_ATTR_FLOAT);
    return attr ? attr->f : absent;
}

const char *tdn_attr_string(const tdn_attrs *attrs, const char *name, const char *absent)
{
    const tdn_attr *attr = find_kind(attrs, name, TDN_ATTR_STRING);
    return attr ? attr->s : absent;
}

const int64_t *tdn_attr_ints(const tdn_attrs *attrs, const char *name, int *n)
{
    const tdn_attr *attr = find_kind(attrs, name, TDN_ATTR_INTS);
    *n = attr ? attr->n : 0;
    return attr ? attr->ints : NULL;
}

const float *tdn_attr_floats(const tdn_attrs *attrs, const char *name, int *n)
{
    const tdn_attr *attr = find_kind(attrs, name, TDN_ATTR_FLOATS);
    *n = attr ? attr->n : 0;
    return attr ? attr->floats : NULL;
}

bool tdn_attr_ints_are(const tdn_attrs *attrs, const char *name, int64_t wanted)
{
    int n;
    const int64_t *v = tdn_attr_ints(attrs, name, &n);
    for (int i = 0; i < n; i++)
        if (v[i] != wanted)
            return false;
    return n > 0;
}
