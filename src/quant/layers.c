/* SPDX-License-Identifier: Apache-2.0 */
/* Names of layers against patterns, by fnmatch(3) without its rules for paths: '/' is a letter. */
#include "quant/layers.h"

#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"

const char *tdn_layer_name(const tdn_node *n) { return n->origin ? n->origin : n->name; }

static bool matches_name(const char *pattern, const char *name)
{
    return strcmp(pattern, name) == 0 || fnmatch(pattern, name, 0) == 0;
}

/* The next of the names "a + b + c" into `part`; false where there are no more. */
static bool next_name(const char **at, char *part, size_t size)
{
    const char *end = strstr(*at, " + ");
    const size_t length = end ? (size_t)(end - *at) : strlen(*at);
    if (length == 0)
        return false;
    snprintf(part, size, "%.*s", (int)length, *at);
    *at += end ? length + 3 : length;
    return true;
}

static bool matches(const char *pattern, const tdn_node *n)
{
    char part[1024];
    const char *names = tdn_layer_name(n);
    bool found = matches_name(pattern, names);
    while (!found && next_name(&names, part, sizeof part))
        found = matches_name(pattern, part);
    return found;
}

const char *tdn_layer_pattern(const char *name, tdn_arena *arena)
{
    char *text = tdn_arena_alloc(arena, 2 * strlen(name) + 1, 1), *at = text;
    for (; text && *name; name++) {
        if (strchr("*?[\\", *name))
            *at++ = '\\';
        *at++ = *name;
    }
    return text;
}

const tdn_layer_precision *tdn_layer_find(const tdn_layer_precision *rows, int32_t n_rows,
                                          const tdn_node *n)
{
    for (int32_t i = n_rows; i-- > 0;)
        if (matches(rows[i].layer, n))
            return &rows[i];
    return NULL;
}

/* The names of nodes that have a choice, as many as fit; the rest the log of a build has. */
static void list_names(const tdn_graph *g, bool (*has_choice)(const tdn_node *), char *list,
                       size_t size)
{
    size_t at = (size_t)snprintf(list, size, "none");
    bool first = true;
    for (const tdn_node *n = g->first; n; n = n->next) {
        const char *name = has_choice(n) ? tdn_layer_name(n) : NULL;
        if (!name)
            continue;
        at = first ? 0 : at;
        if (at + strlen(name) + sizeof ", ..." > size) {
            snprintf(list + at, size - at, ", ...");
            return;
        }
        at += (size_t)snprintf(list + at, size - at, "%s%s", first ? "" : ", ", name);
        first = false;
    }
}

tdn_status tdn_layers_check(const tdn_layer_precision *rows, int32_t n_rows, const tdn_graph *g,
                            bool (*has_choice)(const tdn_node *), tdn_error *error)
{
    char list[600];
    for (int32_t i = 0; i < n_rows; i++) {
        bool found = false;
        for (const tdn_node *n = g->first; n && !found; n = n->next)
            found = has_choice(n) && matches(rows[i].layer, n);
        if (found)
            continue;
        list_names(g, has_choice, list, sizeof list);
        return tdn_fail(error, TDN_E_ARG,
                        "no convolution or product by constants is named '%.300s'; there are: %s "
                        "(--verbose lists all)",
                        rows[i].layer, list);
    }
    return TDN_OK;
}
