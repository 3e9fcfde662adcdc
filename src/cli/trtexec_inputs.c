/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes into a run: shapes whose names have a wildcard, and values from raw files. Names may be
 * in single quotes, which lets them have a colon.
 */
#include "cli/trtexec.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

/* ---- Shapes ---------------------------------------------------------------------------------- */

/* One '*' stands for any text. */
static bool fits_pattern(const char *pattern, const char *name)
{
    const char *star = strchr(pattern, '*');
    if (!star)
        return strcmp(pattern, name) == 0;
    size_t before = (size_t)(star - pattern), after = strlen(star + 1), n = strlen(name);
    return n >= before + after && memcmp(pattern, name, before) == 0 &&
           strcmp(name + n - after, star + 1) == 0;
}

/* Appends "'name':1x3" to the text. */
static const char *add_spec(const char *text, const char *name, const tdn_shape_spec *spec,
                            tdn_arena *arena)
{
    char *out = tdn_arena_printf(arena, "%s%s'%s':", text, *text ? "," : "", name);
    for (int i = 0; i < spec->rank && out; i++)
        out = tdn_arena_printf(arena, "%s%s%lld", out, i ? "x" : "", (long long)spec->dims[i]);
    return out;
}

tdn_status tdn_trtexec_expand(const char **text, const tdn_io_info *inputs, int n_inputs,
                              tdn_arena *arena, tdn_error *error)
{
    if (!*text || !strchr(*text, '*'))
        return TDN_OK;
    tdn_shape_set set;
    const char *out = "";
    TDN_TRY(tdn_shapes_parse(*text, arena, &set, error));
    for (int k = 0; k < set.n_specs; k++) {
        const tdn_shape_spec *spec = &set.specs[k];
        int n = 0;
        for (int i = 0; i < n_inputs && out; i++)
            if (fits_pattern(spec->input, inputs[i].name)) {
                out = add_spec(out, inputs[i].name, spec, arena);
                n++;
            }
        char list[1024];
        if (n == 0)
            return tdn_fail(error, TDN_E_ARG, "shapes: no input fits '%s'\n  expected: %s",
                            spec->input, tdn_ports_text(inputs, n_inputs, list, sizeof list));
        if (!out)
            return tdn_fail_nomem(error, "the shapes");
    }
    *text = out;
    return TDN_OK;
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* "name:file" at the beginning of a list. */
typedef struct source {
    const char *name, *path;
    int name_size, path_size;
} source;

/* The first of the list; *list then begins at the next. */
static bool next_source(const char **list, source *s)
{
    const char *at = *list;
    const char *quote = *at == '\'' ? strchr(at + 1, '\'') : NULL;
    const char *colon = strchr(quote ? quote + 1 : at, ':');
    if (!colon || colon == at || (quote && colon != quote + 1))
        return false;
    s->name = quote ? at + 1 : at;
    s->name_size = (int)((quote ? quote : colon) - s->name);
    s->path = colon + 1;
    s->path_size = (int)strcspn(s->path, ",");
    *list = s->path + s->path_size + (s->path[s->path_size] == ',');
    return s->name_size > 0 && s->path_size > 0;
}

static tdn_status fail_source(const char *list, tdn_error *error)
{
    return tdn_fail(error, TDN_E_ARG, "--loadInputs=%s: expected NAME:FILE,NAME:FILE,...", list);
}

tdn_status tdn_trtexec_check_inputs(const char *load_inputs, tdn_error *error)
{
    char path[4096];
    source s;
    for (const char *list = load_inputs; list && *list;) {
        if (!next_source(&list, &s))
            return fail_source(load_inputs, error);
        snprintf(path, sizeof path, "%.*s", s.path_size, s.path);
        if (access(path, R_OK) != 0)
            return tdn_fail(error, TDN_E_IO, "--loadInputs: cannot read '%s': %s", path,
                            strerror(errno));
    }
    return TDN_OK;
}

static tdn_status read_values(tdn_tensor *t, const char *name, const char *path, tdn_error *error)
{
    int64_t n = 0;
    char dims[128];
    tdn_map map;
    tdn_dims_count(t->dims, t->rank, &n);
    size_t size = tdn_dtype_size(t->dtype, (size_t)n);
    TDN_TRY(tdn_map_open(&map, path, error));
    bool fits = map.size == size;
    if (fits && size > 0)
        memcpy(t->data, map.data, size);
    size_t found = map.size;
    tdn_map_close(&map);
    if (fits)
        return TDN_OK;
    return tdn_fail(error, TDN_E_FORMAT,
                    "%s has %zu bytes: input '%s' is %s %s and takes %zu, raw and little-endian",
                    path, found, name, tdn_dtype_name(t->dtype),
                    tdn_tensor_text(t, dims, sizeof dims), size);
}

static tdn_status load(tdn_feed *feed, const source *s, bool *is_loaded, tdn_arena *arena,
                       tdn_error *error)
{
    const char *path = tdn_arena_strndup(arena, s->path, (size_t)s->path_size);
    if (!path)
        return tdn_fail_nomem(error, "the inputs");
    for (int i = 0; i < feed->n_inputs; i++) {
        tdn_feed_input *input = &feed->inputs[i];
        if (strlen(input->name) != (size_t)s->name_size ||
            memcmp(input->name, s->name, (size_t)s->name_size) != 0)
            continue;
        is_loaded[i] = true;
        tdn_trtexec_say('I', "Using values loaded from %s for input %s", path, input->name);
        return read_values(&input->whole, input->name, path, error);
    }
    return tdn_fail(error, TDN_E_ARG, "--loadInputs: there is no input '%.*s'", s->name_size,
                    s->name);
}

tdn_status tdn_trtexec_feed(tdn_feed *feed, const tdn_session *session, const char *shapes,
                            const char *load_inputs, tdn_error *error)
{
    tdn_shape_set set;
    source s;
    if (shapes)
        TDN_TRY(tdn_shapes_parse(shapes, session->arena, &set, error));
    tdn_programs programs;
    TDN_TRY(tdn_programs_of_engine(&programs, session->engine, session->arena, error));
    TDN_TRY(tdn_feed_random(feed, &programs, shapes ? &set : NULL, 1, 1, session->arena, error));
    bool *is_loaded =
        tdn_arena_alloc(session->arena, (size_t)feed->n_inputs + 1, sizeof *is_loaded);
    if (!is_loaded)
        return tdn_fail_nomem(error, "the inputs");
    for (const char *list = load_inputs; list && *list;) {
        if (!next_source(&list, &s))
            return fail_source(load_inputs, error);
        TDN_TRY(load(feed, &s, is_loaded, session->arena, error));
    }
    for (int i = 0; i < feed->n_inputs; i++)
        if (!is_loaded[i])
            tdn_trtexec_say('I', "Using random values for input %s", feed->inputs[i].name);
    return TDN_OK;
}
