/* SPDX-License-Identifier: Apache-2.0 */
/* Growing text and the JSON writer. The room doubles. Memory is the C library's: what is handed out
 * outlives whatever allocator the objects it describes came from. */
#include "base/text.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Room for `more` bytes and a NUL. */
static bool reserve(tdn_text *t, size_t more)
{
    size_t need;
    if (t->failed || !tdn_size_add(t->n, more, &need) || !tdn_size_add(need, 1, &need)) {
        t->failed = true;
        return false;
    }
    if (need <= t->room)
        return true;
    const size_t doubled = t->room > SIZE_MAX / 2 ? SIZE_MAX : 2 * t->room;
    const size_t room = need > doubled ? need + 256 : doubled;
    char *data = tdn_alloc(NULL, room, 16);
    if (!data) {
        t->failed = true;
        return false;
    }
    if (t->n)
        memcpy(data, t->data, t->n);
    tdn_free(NULL, t->data);
    t->data = data;
    t->room = room;
    return true;
}

void tdn_text_put_bytes(tdn_text *t, const char *bytes, size_t size)
{
    if (!reserve(t, size))
        return;
    if (size)
        memcpy(t->data + t->n, bytes, size);
    t->n += size;
    t->data[t->n] = 0;
}

void tdn_text_put(tdn_text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    if (reserve(t, 64)) { /* most pieces fit: one pass */
        const size_t room = t->room - t->n;
        const int n = vsnprintf(t->data + t->n, room, format, args);
        t->data[t->n] = n < 0 ? 0 : t->data[t->n];
        if (n >= 0 && (size_t)n >= room && reserve(t, (size_t)n))
            vsnprintf(t->data + t->n, (size_t)n + 1, format, again);
        t->n += n < 0 || t->failed ? 0 : (size_t)n;
    }
    va_end(args);
    va_end(again);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

/* Length of the UTF-8 sequence at s (Unicode, table 3-7), or 0 where there is none. */
static size_t sequence(const unsigned char *s)
{
    if (s[0] < 0x80)
        return 1;
    if (s[0] < 0xc2 || s[0] > 0xf4)
        return 0;
    const size_t n = s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    const unsigned low = s[0] == 0xe0 ? 0xa0 : s[0] == 0xf0 ? 0x90 : 0x80;
    const unsigned high = s[0] == 0xed ? 0x9f : s[0] == 0xf4 ? 0x8f : 0xbf;
    if (s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if (s[i] < 0x80 || s[i] > 0xbf)
            return 0;
    return n;
}

/* How many bytes from s on stand for themselves. */
static size_t plain_run(const unsigned char *s)
{
    size_t n = 0;
    while (s[n] >= 0x20 && s[n] < 0x7f && s[n] != '"' && s[n] != '\\')
        n++;
    return n;
}

static void put_escaped(tdn_text *t, const char *string)
{
    const unsigned char *s = (const unsigned char *)string;
    tdn_text_put_bytes(t, "\"", 1);
    while (*s) {
        const size_t plain = plain_run(s);
        tdn_text_put_bytes(t, (const char *)s, plain);
        s += plain;
        if (!*s)
            break;
        const size_t n = sequence(s);
        if (n == 0)
            tdn_text_put(t, "\\ufffd");
        else if (*s == '"' || *s == '\\')
            tdn_text_put(t, "\\%c", *s);
        else if (*s < 0x20 || *s == 0x7f)
            tdn_text_put(t, "\\u%04x", *s);
        else
            tdn_text_put_bytes(t, (const char *)s, n);
        s += n ? n : 1;
    }
    tdn_text_put_bytes(t, "\"", 1);
}

static void put_indent(tdn_text *t)
{
    static const char blanks[] =
        "                                                                                "
        "                                                ";
    _Static_assert(sizeof blanks > 2 * 60, "as deep as it goes");
    tdn_text_put_bytes(t, blanks, 2 * (size_t)t->depth);
}

/* What stands before a value: comma, new line, indent, key. */
static void lead(tdn_text *t, const char *key)
{
    if (t->depth > 0) {
        const uint64_t bit = (uint64_t)1 << t->depth;
        const bool is_first = !(t->started & bit);
        tdn_text_put_bytes(t, is_first ? "\n" : ",\n", is_first ? 1 : 2);
        put_indent(t);
        t->started |= bit;
    }
    if (key) {
        put_escaped(t, key);
        tdn_text_put_bytes(t, ": ", 2);
    }
}

void tdn_json_begin(tdn_text *t, const char *key, char open)
{
    lead(t, key);
    tdn_text_put(t, "%c", open);
    if (t->depth == 60)
        t->failed = true;
    else
        t->depth++;
    t->started &= ~((uint64_t)1 << t->depth);
}

void tdn_json_end(tdn_text *t, char close)
{
    const bool empty = !(t->started >> t->depth & 1);
    t->depth -= t->depth > 0;
    if (empty) {
        tdn_text_put(t, "%c", close);
    } else {
        tdn_text_put_bytes(t, "\n", 1);
        put_indent(t);
        tdn_text_put(t, "%c", close);
    }
    if (t->depth == 0)
        tdn_text_put(t, "\n");
}

void tdn_json_string(tdn_text *t, const char *key, const char *value)
{
    lead(t, key);
    if (value)
        put_escaped(t, value);
    else
        tdn_text_put(t, "null");
}

void tdn_json_int(tdn_text *t, const char *key, int64_t value)
{
    lead(t, key);
    tdn_text_put(t, "%lld", (long long)value);
}

void tdn_json_uint(tdn_text *t, const char *key, uint64_t value)
{
    lead(t, key);
    tdn_text_put(t, "%llu", (unsigned long long)value);
}

void tdn_json_double(tdn_text *t, const char *key, double value)
{
    lead(t, key);
    if (isfinite(value))
        tdn_text_put(t, "%.9g", value);
    else
        tdn_text_put(t, "null");
}

void tdn_json_bool(tdn_text *t, const char *key, bool value)
{
    lead(t, key);
    tdn_text_put(t, value ? "true" : "false");
}

void tdn_json_dims(tdn_text *t, const char *key, const int64_t *dims, int rank)
{
    lead(t, key);
    tdn_text_put(t, "[");
    for (int i = 0; i < rank; i++)
        tdn_text_put(t, "%s%lld", i ? ", " : "", (long long)dims[i]);
    tdn_text_put(t, "]");
}

char *tdn_text_take(tdn_text *t)
{
    if (!t->data)
        tdn_text_put_bytes(t, "", 0);
    char *data = t->failed ? NULL : t->data;
    if (t->failed)
        tdn_free(NULL, t->data);
    *t = (tdn_text){0};
    return data;
}

void tdn_text_discard(tdn_text *t)
{
    tdn_free(NULL, t->data);
    *t = (tdn_text){0};
}

void tdn_text_free(char *text) { tdn_free(NULL, text); }
