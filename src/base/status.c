/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Error text, status names and dtypes: the small public facts that every layer needs.
 *
 * Text never overflows: what does not fit tdn_error is cut, and the cut text stays NUL-terminated.
 * The cause comes first, so cutting loses the circumstances and keeps the reason.
 */
#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define TEXT(x) #x
#define VERSION_TEXT(a, b, c) TEXT(a) "." TEXT(b) "." TEXT(c)

const char *tdn_version(void)
{
    return VERSION_TEXT(TDN_VERSION_MAJOR, TDN_VERSION_MINOR, TDN_VERSION_PATCH);
}

const char *tdn_status_name(tdn_status status)
{
    static const struct {
        tdn_status status;
        const char *name;
    } rows[] = {
        {TDN_OK, "TDN_OK"},
        {TDN_E_ARG, "TDN_E_ARG"},
        {TDN_E_NOMEM, "TDN_E_NOMEM"},
        {TDN_E_IO, "TDN_E_IO"},
        {TDN_E_FORMAT, "TDN_E_FORMAT"},
        {TDN_E_MODEL, "TDN_E_MODEL"},
        {TDN_E_UNSUPPORTED, "TDN_E_UNSUPPORTED"},
        {TDN_E_SHAPE, "TDN_E_SHAPE"},
        {TDN_E_TARGET, "TDN_E_TARGET"},
        {TDN_E_DEVICE, "TDN_E_DEVICE"},
        {TDN_E_CHECK, "TDN_E_CHECK"},
        {TDN_E_INTERNAL, "TDN_E_INTERNAL"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].status == status)
            return rows[i].name;
    return "TDN_E_?";
}

/* bits is the size of one element; 0 where elements have no fixed size. The
 * order is tdn_dtype's. */
static const struct {
    const char *name;
    unsigned bits;
} dtypes[] = {
    [TDN_DTYPE_NONE] = {"none", 0}, [TDN_F32] = {"float32", 32},  [TDN_F16] = {"float16", 16},
    [TDN_BF16] = {"bfloat16", 16},  [TDN_F64] = {"float64", 64},  [TDN_S8] = {"int8", 8},
    [TDN_U8] = {"uint8", 8},        [TDN_S16] = {"int16", 16},    [TDN_U16] = {"uint16", 16},
    [TDN_S32] = {"int32", 32},      [TDN_U32] = {"uint32", 32},   [TDN_S64] = {"int64", 64},
    [TDN_U64] = {"uint64", 64},     [TDN_BOOL] = {"bool", 8},     [TDN_S4] = {"int4", 4},
    [TDN_U4] = {"uint4", 4},        [TDN_STRING] = {"string", 0},
};

const char *tdn_dtype_name(tdn_dtype dtype)
{
    return (size_t)dtype < sizeof dtypes / sizeof dtypes[0] ? dtypes[dtype].name : "unknown";
}

size_t tdn_dtype_size(tdn_dtype dtype, size_t n)
{
    if ((size_t)dtype >= sizeof dtypes / sizeof dtypes[0])
        return 0;
    const unsigned bits = dtypes[dtype].bits;
    if (bits == 4)
        return n / 2 + n % 2;
    size_t size = 0;
    /* A count too large to address saturates: no allocation of SIZE_MAX succeeds. */
    if (__builtin_mul_overflow(n, (size_t)bits / 8, &size))
        return SIZE_MAX;
    return size;
}

__attribute__((format(printf, 3, 0))) static void write_text(tdn_error *error, size_t at,
                                                             const char *format, va_list args)
{
    vsnprintf(error->text + at, sizeof error->text - at, format, args);
}

tdn_status tdn_fail(tdn_error *error, tdn_status status, const char *format, ...)
{
    if (!error)
        return status;
    va_list args;
    va_start(args, format);
    write_text(error, 0, format, args);
    va_end(args);
    return status;
}

tdn_status tdn_fail_while(tdn_error *error, tdn_status status, const char *format, ...)
{
    if (!error)
        return status;
    static const char join[] = "; while ";
    size_t used = strnlen(error->text, sizeof error->text);
    if (used + sizeof join >= sizeof error->text)
        return status;
    memcpy(error->text + used, join, sizeof join);
    used += sizeof join - 1;
    va_list args;
    va_start(args, format);
    write_text(error, used, format, args);
    va_end(args);
    return status;
}

tdn_status tdn_fail_nomem(tdn_error *error, const char *what)
{
    return tdn_fail(error, TDN_E_NOMEM, "out of memory for %s", what);
}
