/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a cache was made from, in the file beside it: JSON, one object of texts and whole numbers.
 * The cache's own form has no place for it, and TensorRT's reader would refuse a cache with more in
 * it. The reader here takes such objects and no other JSON; keys that it does not know are passed
 * over, so that later versions can add some.
 *
 * Values that are never negative are named by their lines in the cache, which begin at 2.
 */
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "quant/calibration.h"

enum { FIRST_LINE = 2, MAX_TEXT = 4096 };

/* ---- Writing --------------------------------------------------------------------------------- */

tdn_status tdn_origin_write(const tdn_calibration *c, const char *cache_sha256, const char *path,
                            tdn_error *error)
{
    const tdn_calibration_info *info = &c->info;
    tdn_text t = {0};
    tdn_json_begin(&t, NULL, '{');
    tdn_json_string(&t, "cache_sha256", cache_sha256);
    tdn_json_string(&t, "origin", info->origin);
    tdn_json_string(&t, "method", info->method);
    tdn_json_int(&t, "n_batches", info->n_batches);
    tdn_json_string(&t, "graph_sha256", info->graph);
    tdn_json_string(&t, "weights_sha256", info->weights);
    tdn_json_string(&t, "data_sha256", info->data);
    tdn_json_string(&t, "version", info->version);
    tdn_json_begin(&t, "unsigned_lines", '[');
    for (int32_t i = 0; i < c->n; i++)
        if (c->ranges[i].is_unsigned)
            tdn_json_int(&t, NULL, i + FIRST_LINE);
    tdn_json_end(&t, ']');
    tdn_json_end(&t, '}');
    tdn_text_put(&t, "\n");
    const tdn_status status = t.failed ? tdn_fail_nomem(error, "a calibration cache")
                                       : tdn_file_write(path, t.data, t.n, error);
    tdn_text_discard(&t);
    return status;
}

/* ---- Reading --------------------------------------------------------------------------------- */

typedef struct input {
    const char *at, *end;
    tdn_calibration *calibration;
    char cache_sha256[65];
    bool out_of_memory;
} input;

static void skip_space(input *in)
{
    while (in->at < in->end && strchr(" \t\r\n", *in->at) && *in->at)
        in->at++;
}

static bool take(input *in, char c)
{
    skip_space(in);
    if (in->at == in->end || *in->at != c)
        return false;
    in->at++;
    return true;
}

/* Four digits of \uXXXX; beyond ASCII, which the writer never escapes, a '?'. */
static bool take_code(input *in, char *c)
{
    unsigned code = 0;
    for (int i = 0; i < 4; i++, in->at++) {
        static const char digits[] = "0123456789abcdefABCDEF";
        const char *at = in->at < in->end && *in->at ? strchr(digits, *in->at) : NULL;
        if (!at)
            return false;
        const unsigned digit = (unsigned)(at - digits);
        code = code * 16 + (digit < 16 ? digit : digit - 6);
    }
    *c = code > 0 && code < 128 ? (char)code : '?';
    return true;
}

static bool take_escaped(input *in, char *c)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (in->at == in->end)
        return false;
    const char escape = *in->at++;
    if (escape == 'u')
        return take_code(in, c);
    const char *at = escape ? strchr(from, escape) : NULL;
    *c = at ? to[at - from] : '?';
    return at != NULL;
}

static bool take_text(input *in, char text[MAX_TEXT])
{
    int n = 0;
    if (!take(in, '"'))
        return false;
    while (in->at < in->end && *in->at != '"') {
        char c = *in->at++;
        if (n == MAX_TEXT - 1 || !c || (c == '\\' && !take_escaped(in, &c)))
            return false;
        text[n++] = c;
    }
    text[n] = 0;
    return take(in, '"');
}

static bool take_int(input *in, int64_t *value)
{
    skip_space(in);
    const char *begin = in->at;
    *value = 0;
    for (; in->at < in->end && *in->at >= '0' && *in->at <= '9'; in->at++)
        if (*value > INT64_MAX / 10 - 1)
            return false;
        else
            *value = *value * 10 + (*in->at - '0');
    return in->at > begin;
}

/* Where a text belongs, or NULL. */
static const char **text_of(tdn_calibration_info *info, const char *key)
{
    const struct {
        const char *key, **text;
    } rows[] = {{"origin", &info->origin},      {"method", &info->method},
                {"graph_sha256", &info->graph}, {"weights_sha256", &info->weights},
                {"data_sha256", &info->data},   {"version", &info->version}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (strcmp(rows[i].key, key) == 0)
            return rows[i].text;
    return NULL;
}

static bool read_text(input *in, const char *key)
{
    char text[MAX_TEXT];
    const char **into = text_of(&in->calibration->info, key);
    if (!take_text(in, text))
        return false;
    if (strcmp(key, "cache_sha256") == 0 && strlen(text) == 64)
        memcpy(in->cache_sha256, text, 65);
    if (!into)
        return true;
    char *copy = tdn_arena_strdup(in->calibration->arena, text);
    in->out_of_memory = in->out_of_memory || !copy;
    *into = copy ? copy : "";
    return true;
}

static bool read_lines(input *in, bool are_unsigned)
{
    int64_t line;
    if (!take(in, '['))
        return false;
    if (take(in, ']'))
        return true;
    do {
        if (!take_int(in, &line))
            return false;
        if (!are_unsigned)
            continue;
        if (line < FIRST_LINE || line - FIRST_LINE >= in->calibration->n)
            return false;
        tdn_calibration_range *r = &in->calibration->ranges[line - FIRST_LINE];
        r->is_unsigned = 1;
        r->min = 0;
    } while (take(in, ','));
    return take(in, ']');
}

static bool read_member(input *in)
{
    char key[MAX_TEXT];
    int64_t value;
    if (!take_text(in, key) || !take(in, ':'))
        return false;
    skip_space(in);
    if (in->at < in->end && *in->at == '"')
        return read_text(in, key);
    if (in->at < in->end && *in->at == '[')
        return read_lines(in, strcmp(key, "unsigned_lines") == 0);
    if (!take_int(in, &value))
        return false;
    if (strcmp(key, "n_batches") == 0)
        in->calibration->info.n_batches = value;
    return true;
}

static bool read_object(input *in)
{
    if (!take(in, '{'))
        return false;
    do {
        if (!read_member(in))
            return false;
    } while (take(in, ','));
    if (!take(in, '}'))
        return false;
    skip_space(in);
    return in->at == in->end;
}

tdn_status tdn_origin_parse(tdn_calibration *c, const char *cache_sha256, const char *json,
                            size_t size, const char *path, tdn_error *error)
{
    input in = {.at = json, .end = json + size, .calibration = c};
    if (!read_object(&in) || !in.cache_sha256[0])
        return tdn_fail(error, TDN_E_FORMAT,
                        "%s.json is damaged at byte %td: it should say what %s was made from; "
                        "calibrate again, or delete it, and the origin is unknown",
                        path, in.at - json, path);
    if (in.out_of_memory)
        return tdn_fail_nomem(error, "a calibration");
    if (strcmp(in.cache_sha256, cache_sha256) != 0)
        return tdn_fail(error, TDN_E_FORMAT,
                        "%s is not the cache that %s.json was written for: one of them was "
                        "changed, cut short or exchanged; calibrate again",
                        path, path);
    return TDN_OK;
}
