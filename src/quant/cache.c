/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TensorRT's calibration cache: a first line that says what it is, then "name: 3c010a14" a value,
 * the bits of the float amax / 127 as eight hexadecimal digits. Names hold colons and spaces: the
 * last ": " of a line counts. A file is data from outside: the first line that is not one ends the
 * reading, since a range that is missing or wrong costs accuracy and nothing else would say so.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/text.h"
#include "quant/calibration.h"

/* What trtexec --calib takes, of the version whose form this is. */
static const char title[] = "TRT-101601-EntropyCalibration2";
static const char *const kinds[] = {"EntropyCalibration2", "EntropyCalibration",
                                    "MinMaxCalibration", "LegacyCalibration"};

enum { N_KINDS = sizeof kinds / sizeof *kinds, MAX_FILE_SIZE = 64 << 20, N_DIGITS = 8 };

/* ---- Reading --------------------------------------------------------------------------------- */

typedef struct input {
    const char *at, *end; /* what is left */
    const char *path;
    int line; /* the last one taken, from 1 */
    tdn_error *error;
} input;

#define FAIL(in, ...) fail_line(in, tdn_fail((in)->error, TDN_E_FORMAT, __VA_ARGS__))

static tdn_status fail_line(const input *in, tdn_status status)
{
    return tdn_fail_while(in->error, status, "reading line %d of %s", in->line, in->path);
}

/* The next line without its end; false where there is none. */
static bool take_line(input *in, const char **line, size_t *size)
{
    if (in->at == in->end)
        return false;
    const char *stop = memchr(in->at, '\n', (size_t)(in->end - in->at));
    *line = in->at;
    *size = (size_t)((stop ? stop : in->end) - in->at);
    in->at = stop ? stop + 1 : in->end;
    if (*size > 0 && (*line)[*size - 1] == '\r')
        --*size;
    in->line++;
    return true;
}

/* "TRT-8601-MinMaxCalibration": the kind, or NULL. */
static const char *kind_of(const char *line, size_t size)
{
    if (size < 4 || memcmp(line, "TRT-", 4) != 0)
        return NULL;
    size_t at = 4;
    while (at < size && ((line[at] >= '0' && line[at] <= '9') || line[at] == '.'))
        at++;
    if (at == 4 || at == size || line[at++] != '-')
        return NULL;
    for (int i = 0; i < N_KINDS; i++)
        if (strlen(kinds[i]) == size - at && memcmp(kinds[i], line + at, size - at) == 0)
            return kinds[i];
    return NULL;
}

static tdn_status read_title(input *in, const char **kind)
{
    const char *line = "";
    size_t size = 0;
    take_line(in, &line, &size);
    *kind = kind_of(line, size);
    if (*kind)
        return TDN_OK;
    return tdn_fail(in->error, TDN_E_FORMAT,
                    "%s is no calibration cache: its first line is not TRT-<version>-<kind>, such "
                    "as '%s'",
                    in->path, title);
}

static int digit_of(char c)
{
    static const char digits[] = "0123456789abcdef";
    const char *at = c ? strchr(digits, c >= 'A' && c <= 'F' ? c + ('a' - 'A') : c) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* A positive finite float by its bits. */
static tdn_status read_scale(const input *in, const char *text, size_t size, float *scale)
{
    uint32_t bits = 0;
    for (size_t i = 0; i < size; i++) {
        const int digit = digit_of(text[i]);
        if (digit < 0 || size != N_DIGITS)
            break;
        bits = bits << 4 | (uint32_t)digit;
        if (i + 1 < N_DIGITS)
            continue;
        memcpy(scale, &bits, sizeof *scale);
        if (isfinite(*scale) && *scale > 0)
            return TDN_OK;
        return FAIL(in, "the scale %.8s is %g, not a positive number", text, (double)*scale);
    }
    return FAIL(in, "'%.*s' is not eight hexadecimal digits of a scale",
                (int)(size < 20 ? size : 20), text);
}

static tdn_status check_name(const input *in, const char *name, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 127)
            return FAIL(in, "byte %d in a value's name: is it a text file?",
                        (unsigned char)name[i]);
    return size > 0 ? TDN_OK : FAIL(in, "a value without a name");
}

static tdn_status add_scale(tdn_calibration *c, const input *in, const char *name, float scale)
{
    const double amax = 127 * (double)scale;
    const tdn_calibration_range *old = tdn_names_find(c->by_name, name);
    if (!old)
        return tdn_calibration_add(
            c,
            &(tdn_calibration_range){
                .name = name, .amax = amax, .min = -amax, .max = amax, .clipped = -1},
            in->error);
    if (old->amax == amax)
        return TDN_OK;
    return FAIL(in, "'%.200s' has two scales, %g and %g", name, old->amax / 127, (double)scale);
}

static tdn_status read_line(tdn_calibration *c, const input *in, const char *line, size_t size)
{
    float scale;
    size_t colon = size;
    while (colon > 0 && !(line[colon - 1] == ':' && colon < size && line[colon] == ' '))
        colon--;
    if (colon == 0)
        return FAIL(in, "expected 'name: 3c010a14'");
    TDN_TRY(check_name(in, line, colon - 1));
    TDN_TRY(read_scale(in, line + colon + 1, size - colon - 1, &scale));
    const char *name = tdn_arena_strndup(c->arena, line, colon - 1);
    if (!name)
        return tdn_fail_nomem(in->error, "a calibration");
    return add_scale(c, in, name, scale);
}

static int32_t count_lines(const input *in)
{
    int32_t n = 1;
    for (const char *at = in->at; at < in->end; at++)
        n += *at == '\n';
    return n;
}

static tdn_status read_cache(tdn_calibration *c, input *in)
{
    const char *kind, *line;
    size_t size;
    TDN_TRY(read_title(in, &kind));
    while (take_line(in, &line, &size))
        if (size > 0)
            TDN_TRY(read_line(c, in, line, size));
    if (c->n == 0)
        return tdn_fail(in->error, TDN_E_FORMAT, "%s has no ranges: it ends after its first line",
                        in->path);
    c->info.origin = tdn_arena_printf(c->arena, "TensorRT's %s cache, of unknown origin", kind);
    return c->info.origin ? TDN_OK : tdn_fail_nomem(in->error, "a calibration");
}

static void hex_of(const void *data, size_t size, char hex[65])
{
    tdn_sha256 hash;
    uint8_t digest[32];
    tdn_sha256_begin(&hash);
    tdn_sha256_add(&hash, data, size);
    tdn_sha256_end(&hash, digest);
    tdn_sha256_text(digest, hex);
}

tdn_status tdn_calibration_load_memory(tdn_calibration **calibration, const void *cache,
                                       size_t size, const void *json, size_t json_size,
                                       const char *path, tdn_error *error)
{
    char hex[65];
    if (!calibration || !path || (!cache && size) || (!json && json_size))
        return tdn_fail(error, TDN_E_ARG, "a file, and where to put the calibration, are needed");
    *calibration = NULL;
    if (size > MAX_FILE_SIZE || json_size > MAX_FILE_SIZE)
        return tdn_fail(error, TDN_E_FORMAT, "%s is no calibration cache: it has more than %d MB",
                        path, MAX_FILE_SIZE >> 20);
    const char *text = size ? cache : "";
    input in = {text, text + size, path, 0, error};
    tdn_calibration *c;
    TDN_TRY(tdn_calibration_create(&c, count_lines(&in), NULL, error));
    tdn_status status = read_cache(c, &in);
    if (status == TDN_OK && json) {
        hex_of(text, size, hex);
        status = tdn_origin_parse(c, hex, json, json_size, path, error);
    }
    if (status == TDN_OK)
        *calibration = c;
    else
        tdn_calibration_free(c);
    return status;
}

/* ---- Files ----------------------------------------------------------------------------------- */

/* "<path>.json"; NULL when out of memory. */
static char *path_beside(const char *path)
{
    const size_t size = strlen(path);
    char *beside = tdn_alloc(NULL, size + 6, 1);
    if (beside) {
        memcpy(beside, path, size);
        memcpy(beside + size, ".json", 6);
    }
    return beside;
}

static tdn_status load(tdn_calibration **calibration, const char *path, const char *beside,
                       tdn_error *error)
{
    tdn_map cache, json = {NULL, 0};
    const bool has_origin = access(beside, F_OK) == 0;
    TDN_TRY(tdn_map_open(&cache, path, error));
    tdn_status status = has_origin ? tdn_map_open(&json, beside, error) : TDN_OK;
    if (status == TDN_OK)
        status = tdn_calibration_load_memory(
            calibration, cache.data, cache.size,
            has_origin && !json.size ? (const void *)"" : json.data, json.size, path, error);
    tdn_map_close(&json);
    tdn_map_close(&cache);
    return status;
}

tdn_status tdn_calibration_load(tdn_calibration **calibration, const char *path, tdn_error *error)
{
    if (!calibration || !path)
        return tdn_fail(error, TDN_E_ARG, "a path, and where to put the calibration, are needed");
    *calibration = NULL;
    char *beside = path_beside(path);
    const tdn_status status =
        beside ? load(calibration, path, beside, error) : tdn_fail_nomem(error, "a calibration");
    tdn_free(NULL, beside);
    return status;
}

static tdn_status put_lines(tdn_text *text, const tdn_calibration *c, tdn_error *error)
{
    tdn_text_put(text, "%s\n", title);
    for (int32_t i = 0; i < c->n; i++) {
        const tdn_calibration_range *r = &c->ranges[i];
        const float scale = tdn_calibration_scale(r->amax);
        uint32_t bits;
        memcpy(&bits, &scale, sizeof bits);
        for (const char *at = r->name; *at; at++)
            if ((unsigned char)*at < ' ' || *at == 127)
                return tdn_fail(error, TDN_E_ARG,
                                "the value '%s' cannot stand in a calibration cache: its name has "
                                "byte %d",
                                r->name, *at);
        tdn_text_put(text, "%s: %08x\n", r->name, bits);
    }
    return text->failed ? tdn_fail_nomem(error, "a calibration cache") : TDN_OK;
}

/* What goes beside it first: a cache without is taken for one of unknown origin. */
static tdn_status save(const tdn_calibration *c, const char *path, const char *beside,
                       tdn_error *error)
{
    tdn_text text = {0};
    char hex[65];
    const bool is_new = access(path, F_OK) != 0;
    tdn_status status = put_lines(&text, c, error);
    if (status == TDN_OK) {
        hex_of(text.data, text.n, hex);
        status = tdn_origin_write(c, hex, beside, error);
    }
    if (status == TDN_OK) {
        status = tdn_file_write(path, text.data, text.n, error);
        if (status != TDN_OK && is_new)
            unlink(beside);
    }
    tdn_text_discard(&text);
    return status;
}

tdn_status tdn_calibration_save(const tdn_calibration *c, const char *path, tdn_error *error)
{
    if (!c || !path)
        return tdn_fail(error, TDN_E_ARG, "a calibration and a path are needed");
    char *beside = path_beside(path);
    const tdn_status status =
        beside ? save(c, path, beside, error) : tdn_fail_nomem(error, "a calibration cache");
    tdn_free(NULL, beside);
    return status;
}
