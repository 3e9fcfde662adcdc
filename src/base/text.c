/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A growing text and a JSON writer over it. The writer knows where commas go and indents objects by two spaces an
 * object or array that holds one, so that the result reads well without a tool; arrays of numbers stay on a line.
 */
#include "base/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"

static bool grow(tdn_text *t, size_t size)
{
    size_t need;
    if (t->failed || !tdn_size_add(t->size, size, &need) || !tdn_size_add(need, 1, &need)) {
        t->failed = true;
        return false;
    }
    if (need <= t->capacity)
        return true;
    const size_t capacity = need + need / 2 + 256;
    char *bytes = tdn_alloc(NULL, capacity, 1);
    if (!bytes) {
        t->failed = true;
        return false;
    }
    if (t->size > 0)
        memcpy(bytes, t->bytes, t->size);
    tdn_free(NULL, t->bytes);
    t->bytes = bytes;
    t->capacity = capacity;
    return true;
}

void tdn_text_add(tdn_text *t, const char *bytes, size_t size)
{
    if (!grow(t, size))
        return;
    if (size > 0)
        memcpy(t->bytes + t->size, bytes, size);
    t->size += size;
    t->bytes[t->size] = '\0';
}

static void add(tdn_text *t, const char *text)
{
    tdn_text_add(t, text, strlen(text));
}

void tdn_text_printf(tdn_text *t, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    const int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n >= 0 && grow(t, (size_t)n)) {
        vsnprintf(t->bytes + t->size, (size_t)n + 1, format, again);
        t->size += (size_t)n;
    }
    va_end(again);
}

void tdn_text_drop(tdn_text *t)
{
    tdn_free(NULL, t->bytes);
    *t = (tdn_text){0};
}

tdn_status tdn_text_take(tdn_text *t, char **text, tdn_error *error)
{
    add(t, "");
    *text = NULL;
    if (t->failed) {
        tdn_text_drop(t);
        return tdn_fail_nomem(error, "a text");
    }
    *text = t->bytes;
    *t = (tdn_text){0};
    return TDN_OK;
}

void tdn_text_free(char *text)
{
    tdn_free(NULL, text);
}

/* ---- JSON ------------------------------------------------------------------------------------------------ */

/* Length of the UTF-8 sequence at p, or 0 where there is none (surrogates and overlong forms are none). */
static int utf8_length(const unsigned char *p)
{
    if (p[0] < 0x80)
        return 1;
    const int n = p[0] >= 0xc2 && p[0] < 0xe0 ? 2 : p[0] >= 0xe0 && p[0] < 0xf0 ? 3 : p[0] >= 0xf0 && p[0] < 0xf5 ? 4 : 0;
    for (int i = 1; i < n; i++)
        if ((p[i] & 0xc0) != 0x80) /* a NUL is none either, so this stays inside the string */
            return 0;
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] >= 0xa0) || (p[0] == 0xf0 && p[1] < 0x90) ||
        (p[0] == 0xf4 && p[1] >= 0x90))
        return 0;
    return n;
}

static void add_quoted(tdn_text *t, const char *text)
{
    add(t, "\"");
    for (const unsigned char *p = (const unsigned char *)text; *p;) {
        const int n = utf8_length(p);
        if (n == 0)
            add(t, "\\ufffd");
        else if (*p == '"' || *p == '\\')
            tdn_text_printf(t, "\\%c", *p);
        else if (*p < 0x20 || *p == 0x7f)
            tdn_text_printf(t, "\\u%04x", *p);
        else
            tdn_text_add(t, (const char *)p, (size_t)n);
        p += n > 0 ? n : 1;
    }
    add(t, "\"");
}

static void new_line(tdn_text *t)
{
    tdn_text_printf(t, "\n%*s", t->depth * 2, "");
}

/* Comma, line and key: what comes before a value. Numbers in an array stay on its line. */
static void begin_value(tdn_text *t, const char *key, bool on_line)
{
    if (t->depth > 0) {
        bool *has_items = &t->has_items[t->depth - 1];
        if (*has_items)
            add(t, on_line && !key ? ", " : ",");
        *has_items = true;
        if (!on_line || key)
            new_line(t);
    }
    if (key) {
        add_quoted(t, key);
        add(t, ": ");
    }
}

static void open_level(tdn_text *t, const char *key, const char *begin, char end)
{
    begin_value(t, key, false);
    add(t, begin);
    if (t->depth == TDN_TEXT_MAX_DEPTH) {
        t->failed = true;
        return;
    }
    t->ends[t->depth] = end;
    t->has_items[t->depth++] = false;
}

void tdn_json_object(tdn_text *t, const char *key)
{
    open_level(t, key, "{", '}');
}

void tdn_json_array(tdn_text *t, const char *key)
{
    open_level(t, key, "[", ']');
}

void tdn_json_end(tdn_text *t)
{
    if (t->depth == 0) {
        t->failed = true;
        return;
    }
    const bool has_items = t->has_items[--t->depth];
    const char last = t->size > 0 && !t->failed ? t->bytes[t->size - 1] : 0;
    if (has_items && (t->ends[t->depth] == '}' || last == '}' || last == ']'))
        new_line(t);
    tdn_text_add(t, &t->ends[t->depth], 1);
}

void tdn_json_string(tdn_text *t, const char *key, const char *value)
{
    begin_value(t, key, true);
    if (value)
        add_quoted(t, value);
    else
        add(t, "null");
}

void tdn_json_int(tdn_text *t, const char *key, int64_t value)
{
    begin_value(t, key, true);
    tdn_text_printf(t, "%lld", (long long)value);
}

void tdn_json_uint(tdn_text *t, const char *key, uint64_t value)
{
    begin_value(t, key, true);
    tdn_text_printf(t, "%llu", (unsigned long long)value);
}

void tdn_json_float(tdn_text *t, const char *key, double value)
{
    begin_value(t, key, true);
    if (isfinite(value))
        tdn_text_printf(t, "%.9g", value);
    else
        add(t, "null");
}

void tdn_json_bool(tdn_text *t, const char *key, bool value)
{
    begin_value(t, key, true);
    add(t, value ? "true" : "false");
}

void tdn_json_ints(tdn_text *t, const char *key, const int64_t *values, int n)
{
    tdn_json_array(t, key);
    for (int i = 0; i < n; i++)
        tdn_json_int(t, NULL, values[i]);
    tdn_json_end(t);
}
