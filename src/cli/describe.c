/* SPDX-License-Identifier: Apache-2.0 */
/* What `build` and `inspect` print of the libraries' JSON. */
#include "cli/describe.h"

#include <stdio.h>
#include <string.h>

const char *tdn_described_text(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : "";
}

double tdn_described_number(const json_t *o, const char *key)
{
    return json_number_value(json_object_get(o, key));
}

const char *tdn_described_dims(const json_t *dims, json_int_t batch_axis, char *text, size_t size)
{
    size_t i, at = 0;
    const json_t *dim;
    snprintf(text, size, "%s", json_is_array(dims) ? "scalar" : "of any shape");
    json_array_foreach(dims, i, dim)
    {
        const char *x = i ? "x" : "";
        if (json_is_integer(dim))
            at += (size_t)snprintf(
                text + at, size - at, "%s%s%lld", x,
                (json_int_t)i == batch_axis && json_integer_value(dim) > 1 ? "1.." : "",
                (long long)json_integer_value(dim));
        else
            at += (size_t)snprintf(text + at, size - at, "%s%s", x,
                                   json_string_value(dim) ? json_string_value(dim) : "?");
        if (at >= size)
            break;
    }
    return text;
}

const char *tdn_scaled(double x, const char *unit, char *text, size_t size)
{
    static const char *const prefixes[] = {"", "k", "M", "G", "T"};
    int i = 0;
    for (; x >= 999.5 && i < 4; i++)
        x /= 1000;
    snprintf(text, size, "%.3g %s%s", x, prefixes[i], unit);
    return text;
}

void tdn_described_ios(const char *title, int width, const json_t *list)
{
    size_t i;
    const json_t *io;
    char dims[256], shape[256];
    json_array_foreach(list, i, io)
    {
        const json_t *axis = json_object_get(io, "batch_axis"),
                     *declared = json_object_get(io, "declared");
        const json_t *concrete = json_object_get(io, declared ? "shape" : "dims");
        printf("%-*s %-16s %-9s %s", width, i ? "" : title, tdn_described_text(io, "name"),
               tdn_described_text(io, "dtype"),
               tdn_described_dims(declared ? declared : concrete,
                                  axis ? json_integer_value(axis) : -1, dims, sizeof dims));
        if (declared && concrete &&
            strcmp(dims, tdn_described_dims(concrete, -1, shape, sizeof shape)) != 0)
            printf("  (here %s)", shape);
        printf("\n");
    }
}
