/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An .npz file is a zip archive of .npy members; a .npy member is a magic, a version, the length of
 * a header, the header (a Python dict literal with descr, fortran_order and shape) and the
 * elements. libzip does the archive; the header is read by a parser for just these dicts.
 *
 * All members together cannot be larger than DEFLATE can make of the file's bytes (1032:1), so a
 * small hostile file cannot ask for much memory; the header's shape must then match the member's
 * size to the byte before it is allocated.
 */
#include "cli/npz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

#include "base/file.h"
#include "base/reader.h"
#include "base/view.h"

#define MAX_ARRAYS 4096
#define MAX_HEADER 65536u
#define MAX_INFLATION 1032u
#define MAGIC "\223NUMPY"

typedef struct dtype_row {
    const char *descr; /* of little-endian machines; multi-byte ones also with '=' */
    tdn_dtype dtype;
} dtype_row;

/* V2 is what the ml_dtypes package writes for bfloat16. */
static const dtype_row dtypes[] = {
    {"<f4", TDN_F32}, {"<f2", TDN_F16},  {"<f8", TDN_F64},  {"|i1", TDN_S8},   {"|u1", TDN_U8},
    {"<i2", TDN_S16}, {"<u2", TDN_U16},  {"<i4", TDN_S32},  {"<u4", TDN_U32},  {"<i8", TDN_S64},
    {"<u8", TDN_U64}, {"|b1", TDN_BOOL}, {"<V2", TDN_BF16}, {"|V2", TDN_BF16},
};
#define N_DTYPES (sizeof dtypes / sizeof dtypes[0])

static tdn_dtype dtype_of(const char *descr)
{
    char first = descr[0] == '=' ? '<' : descr[0];
    for (size_t i = 0; i < N_DTYPES; i++) {
        bool one_byte = dtypes[i].descr[0] == '|' && dtypes[i].descr[2] == '1';
        if (strcmp(descr + 1, dtypes[i].descr + 1) == 0 &&
            (one_byte || first == dtypes[i].descr[0]))
            return dtypes[i].dtype;
    }
    return TDN_DTYPE_NONE;
}

/* Why a descr has no dtype here. */
static const char *refusal(const char *descr)
{
    char kind = descr[0] ? descr[1] : 0;
    if (descr[0] == '>')
        return "it is big-endian; save it with .astype(array.dtype.newbyteorder('<'))";
    if (kind == 'U' || kind == 'S')
        return "it holds text";
    if (kind == 'O')
        return "it holds Python objects";
    if (kind == 'c')
        return "it holds complex numbers";
    return "Tendon has no such type";
}

/* ---- The header's dict ----------------------------------------------------------------------- */

typedef struct npy_header {
    char descr[sizeof((tdn_array *)0)->descr];
    bool fortran, too_deep;
    bool has_descr, has_order, has_shape;
    int rank;
    int64_t dims[TDN_MAX_RANK];
} npy_header;

typedef struct text {
    const char *at, *end;
} text;

static void skip_space(text *t)
{
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\n' || *t->at == '\t' || *t->at == '\r'))
        t->at++;
}

static bool take(text *t, char c)
{
    skip_space(t);
    if (t->at == t->end || *t->at != c)
        return false;
    t->at++;
    return true;
}

static bool take_word(text *t, const char *word)
{
    skip_space(t);
    size_t n = strlen(word);
    if ((size_t)(t->end - t->at) < n || memcmp(t->at, word, n) != 0)
        return false;
    t->at += n;
    return true;
}

/* A quoted string without escapes; longer ones are cut to size. */
static bool take_string(text *t, char *out, size_t size)
{
    skip_space(t);
    if (t->at == t->end || (*t->at != '\'' && *t->at != '"'))
        return false;
    char quote = *t->at++;
    const char *end = memchr(t->at, quote, (size_t)(t->end - t->at));
    if (!end)
        return false;
    snprintf(out, size, "%.*s", (int)(end - t->at), t->at);
    t->at = end + 1;
    return true;
}

static bool take_dim(text *t, int64_t *dim)
{
    skip_space(t);
    const char *begin = t->at;
    int64_t value = 0;
    for (; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++)
        if (__builtin_mul_overflow(value, (int64_t)10, &value) ||
            __builtin_add_overflow(value, (int64_t)(*t->at - '0'), &value))
            return false;
    *dim = value;
    if (t->at == begin)
        return false;
    if (t->at < t->end && *t->at == 'L') /* Python 2 wrote long integers so */
        t->at++;
    return true;
}

/* (), (3,), (1, 2): dims beyond TDN_MAX_RANK are read and only noted. */
static bool take_shape(text *t, npy_header *h)
{
    h->rank = 0;
    if (!take(t, '('))
        return false;
    while (!take(t, ')')) {
        int64_t dim;
        if (!take_dim(t, &dim))
            return false;
        if (h->rank < TDN_MAX_RANK)
            h->dims[h->rank++] = dim;
        else
            h->too_deep = true;
        if (!take(t, ',')) {
            if (!take(t, ')'))
                return false;
            break;
        }
    }
    return true;
}

/* A structured type is a list: skipped to its closing bracket, and known as "[...]". */
static bool take_descr(text *t, npy_header *h)
{
    skip_space(t);
    if (!take(t, '['))
        return take_string(t, h->descr, sizeof h->descr);
    int depth = 1;
    for (; t->at < t->end && depth > 0; t->at++)
        depth += (*t->at == '[') - (*t->at == ']');
    snprintf(h->descr, sizeof h->descr, "[...]");
    return depth == 0;
}

static bool take_entry(text *t, npy_header *h)
{
    char key[16];
    if (!take_string(t, key, sizeof key) || !take(t, ':'))
        return false;
    if (strcmp(key, "descr") == 0)
        return h->has_descr = take_descr(t, h);
    if (strcmp(key, "shape") == 0)
        return h->has_shape = take_shape(t, h);
    if (strcmp(key, "fortran_order") != 0)
        return false;
    h->fortran = take_word(t, "True");
    return h->has_order = h->fortran || take_word(t, "False");
}

static bool parse_header(text t, npy_header *h)
{
    *h = (npy_header){.rank = 0};
    if (!take(&t, '{'))
        return false;
    while (!take(&t, '}')) {
        if (!take_entry(&t, h))
            return false;
        if (!take(&t, ',')) {
            if (!take(&t, '}'))
                return false;
            break;
        }
    }
    skip_space(&t);
    return t.at == t.end && h->has_descr && h->has_order && h->has_shape;
}

/* ---- One array ------------------------------------------------------------------------------- */

/* Where the bytes of a member come from: memory, or libzip. */
typedef struct source {
    tdn_reader memory;
    zip_file_t *file; /* NULL: memory */
    uint64_t left;    /* bytes that the member still has */
} source;

static bool source_read(source *s, void *to, size_t size)
{
    if (size > s->left)
        return false;
    s->left -= size;
    if (!s->file) {
        const uint8_t *from = tdn_reader_take(&s->memory, size);
        if (from && size)
            memcpy(to, from, size);
        return from != NULL;
    }
    for (size_t done = 0; done < size;) {
        zip_int64_t n = zip_fread(s->file, (char *)to + done, size - done);
        if (n <= 0)
            return false;
        done += (size_t)n;
    }
    return true;
}

static tdn_status read_header(source *s, npy_header *h, tdn_error *error)
{
    uint8_t start[8], length[4] = {0};
    if (!source_read(s, start, sizeof start) || memcmp(start, MAGIC, 6) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "not numpy's .npy format");
    if (start[6] < 1 || start[6] > 3)
        return tdn_fail(error, TDN_E_FORMAT, ".npy version %d.%d is not known", start[6], start[7]);
    if (!source_read(s, length, start[6] == 1 ? 2 : 4))
        return tdn_fail(error, TDN_E_FORMAT, "the .npy header is cut short");
    uint32_t n = length[0] | (uint32_t)length[1] << 8 | (uint32_t)length[2] << 16 |
                 (uint32_t)length[3] << 24;
    if (n > MAX_HEADER || n > s->left)
        return tdn_fail(error, TDN_E_FORMAT, "the .npy header claims %u bytes", (unsigned)n);
    char *dict = malloc(n + 1u);
    if (!dict)
        return tdn_fail_nomem(error, "a .npy header");
    bool read = source_read(s, dict, n);
    bool parsed = read && parse_header((text){dict, dict + n}, h);
    free(dict);
    if (!read)
        return tdn_fail(error, TDN_E_FORMAT, "the .npy header is cut short");
    return parsed ? TDN_OK : tdn_fail(error, TDN_E_FORMAT, "the .npy header makes no sense");
}

/* Column-major elements of `from`, row-major in a new buffer. */
static void *transpose(const void *from, const tdn_tensor *t, size_t item)
{
    tdn_view view = tdn_view_make(NULL, t->dtype, t->rank, t->dims);
    int64_t stride = 1;
    for (int i = 0; i < t->rank; i++) {
        view.strides[i] = stride;
        stride *= t->dims[i];
    }
    char *to = tdn_alloc(NULL, (size_t)stride * item, TDN_ALIGN), *at = to;
    if (!to)
        return NULL;
    for (tdn_walk w = tdn_walk_begin(t->rank, t->dims); w.more; tdn_walk_next(&w), at += item)
        memcpy(at, (const char *)from + (size_t)tdn_walk_offset(&w, &view) * item, item);
    return to;
}

static tdn_status read_elements(source *s, const npy_header *h, tdn_tensor *tensor,
                                tdn_error *error)
{
    size_t item = tdn_dtype_size(tensor->dtype, 1), size;
    int64_t count;
    if (!tdn_dims_count(h->dims, h->rank, &count) || !tdn_size_mul((size_t)count, item, &size) ||
        size != s->left)
        return tdn_fail(error, TDN_E_FORMAT,
                        "%llu bytes of elements are not what the header's shape needs",
                        (unsigned long long)s->left);
    tensor->data = tdn_alloc(NULL, size, TDN_ALIGN);
    if (!tensor->data)
        return tdn_fail_nomem(error, "an array");
    if (!source_read(s, tensor->data, size))
        return tdn_fail(error, TDN_E_FORMAT, "the elements are damaged or cut short");
    /* Other programs may leave more than one bit in a truth value. */
    for (size_t i = 0; tensor->dtype == TDN_BOOL && i < size; i++)
        ((uint8_t *)tensor->data)[i] = ((uint8_t *)tensor->data)[i] != 0;
    if (!h->fortran || h->rank < 2 || size == 0) /* beside a zero, dims may be of any size */
        return TDN_OK;
    void *row_major = transpose(tensor->data, tensor, item);
    if (!row_major)
        return tdn_fail_nomem(error, "an array");
    tdn_free(NULL, tensor->data);
    tensor->data = row_major;
    return TDN_OK;
}

/* Reads one member into `array`, which has its name already. What is allocated stays with it. */
static tdn_status read_array(source *s, tdn_array *array, tdn_error *error)
{
    npy_header h;
    TDN_TRY(read_header(s, &h, error));
    memcpy(array->descr, h.descr, sizeof h.descr);
    array->tensor = tdn_tensor_make(NULL, dtype_of(h.descr), h.rank, h.dims);
    if (h.too_deep) {
        array->tensor.dtype = TDN_DTYPE_NONE;
        array->why = "it has more than 8 dimensions";
    } else if (array->tensor.dtype == TDN_DTYPE_NONE) {
        array->why = refusal(h.descr);
    } else {
        return read_elements(s, &h, &array->tensor, error);
    }
    return TDN_OK;
}

/* ---- Files ----------------------------------------------------------------------------------- */

/* The new, empty array, named after a member. */
static tdn_array *add_array(tdn_npz *npz, const char *member, tdn_error *error)
{
    size_t length = strlen(member);
    if (length >= 4 && strcmp(member + length - 4, ".npy") == 0)
        length -= 4;
    tdn_array *more = realloc(npz->arrays, ((size_t)npz->n + 1) * sizeof *more);
    char *name = strndup(member, length);
    if (more)
        npz->arrays = more;
    if (!more || !name) {
        free(name);
        tdn_fail_nomem(error, "an array");
        return NULL;
    }
    npz->arrays[npz->n] = (tdn_array){.name = name};
    return &npz->arrays[npz->n++];
}

static tdn_status fail_zip(zip_t *zip, const char *what, tdn_error *error)
{
    return tdn_fail(error, TDN_E_FORMAT, "%s: %s", what, zip_strerror(zip));
}

/* budget: how many bytes this and all further members may still claim; several may share the same
 * compressed bytes. */
static tdn_status read_member(tdn_npz *npz, zip_t *zip, zip_uint64_t index, uint64_t *budget,
                              tdn_error *error)
{
    zip_stat_t stat;
    if (zip_stat_index(zip, index, 0, &stat) != 0 || !(stat.valid & ZIP_STAT_NAME) ||
        !(stat.valid & ZIP_STAT_SIZE))
        return fail_zip(zip, "a member of the archive is damaged", error);
    if (stat.size > *budget)
        return tdn_fail(error, TDN_E_FORMAT,
                        "member '%s' claims %llu bytes, more than the file can hold", stat.name,
                        (unsigned long long)stat.size);
    *budget -= stat.size;
    if (tdn_npz_find(npz, stat.name))
        return tdn_fail(error, TDN_E_FORMAT, "member '%s' appears twice", stat.name);
    tdn_array *array = add_array(npz, stat.name, error);
    if (!array)
        return TDN_E_NOMEM;
    zip_file_t *file = zip_fopen_index(zip, index, 0);
    if (!file)
        return fail_zip(zip, array->name, error);
    source s = {.file = file, .left = stat.size};
    tdn_status status = read_array(&s, array, error);
    /* One more byte makes libzip compare the checksum; only what was read to its end has one to
     * compare. */
    char beyond;
    if (status == TDN_OK && !array->why && zip_fread(file, &beyond, 1) != 0)
        status = tdn_fail(error, TDN_E_FORMAT, "the elements are damaged (checksum)");
    zip_fclose(file);
    return status == TDN_OK ? TDN_OK
                            : tdn_fail_while(error, status, "reading array '%s'", array->name);
}

static tdn_status read_members(tdn_npz *npz, zip_t *zip, size_t file_size, tdn_error *error)
{
    zip_int64_t n = zip_get_num_entries(zip, 0);
    if (n > MAX_ARRAYS)
        return tdn_fail(error, TDN_E_FORMAT, "%lld members; at most %d are read", (long long)n,
                        MAX_ARRAYS);
    uint64_t budget = (uint64_t)file_size * MAX_INFLATION;
    for (zip_int64_t i = 0; i < n; i++)
        TDN_TRY(read_member(npz, zip, (zip_uint64_t)i, &budget, error));
    return TDN_OK;
}

static tdn_status read_archive(tdn_npz *npz, const void *data, size_t size, tdn_error *error)
{
    if (size == 0) /* to libzip an archive without members */
        return tdn_fail(error, TDN_E_FORMAT, "the file is empty");
    zip_error_t why;
    zip_error_init(&why);
    tdn_status status = TDN_OK;
    zip_source_t *bytes = zip_source_buffer_create(data, size, 0, &why);
    zip_t *zip = bytes ? zip_open_from_source(bytes, ZIP_RDONLY, &why) : NULL;
    if (zip) {
        status = read_members(npz, zip, size, error);
        zip_discard(zip);
    } else {
        status = tdn_fail(error, TDN_E_FORMAT, "neither an .npz nor an .npy file, or damaged (%s)",
                          zip_error_strerror(&why));
        zip_source_free(bytes);
    }
    zip_error_fini(&why);
    return status;
}

tdn_status tdn_npz_read_memory(tdn_npz *npz, const void *data, size_t size, tdn_error *error)
{
    *npz = (tdn_npz){NULL, 0};
    tdn_status status;
    if (size >= 6 && memcmp(data, MAGIC, 6) == 0) {
        source s = {.memory = {data, (const uint8_t *)data + size}, .left = size};
        tdn_array *array = add_array(npz, "", error);
        status = array ? read_array(&s, array, error) : TDN_E_NOMEM;
    } else {
        status = read_archive(npz, data, size, error);
    }
    if (status != TDN_OK)
        tdn_npz_free(npz);
    return status;
}

tdn_status tdn_npz_read(tdn_npz *npz, const char *path, tdn_error *error)
{
    *npz = (tdn_npz){NULL, 0};
    tdn_map map;
    TDN_TRY(tdn_map_open(&map, path, error));
    tdn_status status = tdn_npz_read_memory(npz, map.data, map.size, error);
    tdn_map_close(&map);
    return status == TDN_OK ? TDN_OK : tdn_fail_while(error, status, "reading %s", path);
}

void tdn_npz_free(tdn_npz *npz)
{
    for (int i = 0; i < npz->n; i++) {
        free(npz->arrays[i].name);
        tdn_free(NULL, npz->arrays[i].tensor.data);
    }
    free(npz->arrays);
    *npz = (tdn_npz){NULL, 0};
}

const tdn_array *tdn_npz_find(const tdn_npz *npz, const char *name)
{
    for (int i = 0; i < npz->n; i++)
        if (strcmp(npz->arrays[i].name, name) == 0)
            return &npz->arrays[i];
    return NULL;
}

/* ---- Writing --------------------------------------------------------------------------------- */

static const char *descr_of(tdn_dtype dtype)
{
    for (size_t i = 0; i < N_DTYPES; i++)
        if (dtypes[i].dtype == dtype)
            return dtypes[i].descr;
    return NULL;
}

/* A version 1 header for the tensor, padded so that elements begin at a multiple of 64. malloc'ed;
 * NULL: no memory. */
static char *make_header(const tdn_tensor *t, const char *descr, size_t *size)
{
    char dict[512];
    int n =
        snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (int i = 0; i < t->rank; i++)
        n += snprintf(dict + n, sizeof dict - (size_t)n, "%s%lld", i ? ", " : "",
                      (long long)t->dims[i]);
    n += snprintf(dict + n, sizeof dict - (size_t)n, "%s), }", t->rank == 1 ? "," : "");
    *size = tdn_round_up(10 + (size_t)n + 1, 64);
    size_t length = *size - 10;
    char *header = malloc(*size);
    if (!header)
        return NULL;
    memset(header, ' ', *size);
    memcpy(header, MAGIC "\1\0", 8);
    header[8] = (char)(length & 255);
    header[9] = (char)(length >> 8);
    memcpy(header + 10, dict, (size_t)n);
    header[*size - 1] = '\n';
    return header;
}

/* libzip reads tensor and header only when the archive is closed: both must live until then. */
static tdn_status add_member(zip_t *zip, const char *name, const tdn_tensor *t, char **header,
                             tdn_error *error)
{
    const char *descr = descr_of(t->dtype);
    int64_t count;
    if (!descr || !tdn_dims_count(t->dims, t->rank, &count))
        return tdn_fail(error, TDN_E_ARG, "'%s' is %s, which numpy has not", name,
                        tdn_dtype_name(t->dtype));
    size_t header_size, size = (size_t)count * tdn_dtype_size(t->dtype, 1);
    char member[4096];
    snprintf(member, sizeof member, "%s.npy", name);
    *header = make_header(t, descr, &header_size);
    if (!*header)
        return tdn_fail_nomem(error, "an array");
    zip_buffer_fragment_t parts[] = {{(zip_uint8_t *)*header, header_size}, {t->data, size}};
    zip_source_t *bytes = zip_source_buffer_fragment(zip, parts, size ? 2 : 1, 0);
    zip_int64_t index = bytes ? zip_file_add(zip, member, bytes, ZIP_FL_ENC_UTF_8) : -1;
    if (index < 0) {
        zip_source_free(bytes);
        return tdn_fail(error, TDN_E_IO, "%s: %s", name, zip_strerror(zip));
    }
    zip_set_file_compression(zip, (zip_uint64_t)index, ZIP_CM_STORE, 0);
    zip_file_set_dostime(zip, (zip_uint64_t)index, 0, 0x21, 0); /* 1980-01-01, as numpy does */
    return TDN_OK;
}

/* Archives `bytes`, which stay the caller's. */
static tdn_status write_members(zip_source_t *bytes, const char *const *names,
                                const tdn_tensor *tensors, int n, char **headers, tdn_error *error)
{
    zip_error_t why;
    zip_error_init(&why);
    zip_source_keep(bytes);
    zip_t *zip = zip_open_from_source(bytes, ZIP_TRUNCATE, &why);
    if (!zip) {
        zip_source_free(bytes);
        tdn_fail_nomem(error, zip_error_strerror(&why));
        zip_error_fini(&why);
        return TDN_E_NOMEM;
    }
    tdn_status status = TDN_OK;
    for (int i = 0; i < n && status == TDN_OK; i++)
        status = add_member(zip, names[i], &tensors[i], &headers[i], error);
    if (status == TDN_OK && zip_close(zip) == 0)
        return TDN_OK;
    if (status == TDN_OK)
        status = tdn_fail(error, TDN_E_NOMEM, "%s", zip_strerror(zip));
    zip_discard(zip);
    return status;
}

/* malloc'ed; NULL: no memory, or none to be read. */
static void *take_bytes(zip_source_t *bytes, size_t *size)
{
    zip_stat_t stat;
    if (zip_source_stat(bytes, &stat) != 0 || !(stat.valid & ZIP_STAT_SIZE) ||
        zip_source_open(bytes) != 0)
        return NULL;
    *size = (size_t)stat.size;
    void *data = malloc(*size + 1);
    if (data && zip_source_read(bytes, data, *size) != (zip_int64_t)*size) {
        free(data);
        data = NULL;
    }
    zip_source_close(bytes);
    return data;
}

/* The archive is made in memory, so that it reaches the disk by the one way that is whole or not at
 * all. */
tdn_status tdn_npz_write(const char *path, const char *const *names, const tdn_tensor *tensors,
                         int n, tdn_error *error)
{
    char **headers = calloc((size_t)n + 1, sizeof *headers);
    zip_source_t *bytes = zip_source_buffer_create(NULL, 0, 0, NULL);
    tdn_status status = headers && bytes ? TDN_OK : tdn_fail_nomem(error, "an array");
    if (status == TDN_OK)
        status = write_members(bytes, names, tensors, n, headers, error);
    for (int i = 0; headers && i < n; i++)
        free(headers[i]);
    free(headers);
    size_t size;
    void *data = status == TDN_OK ? take_bytes(bytes, &size) : NULL;
    zip_source_free(bytes);
    if (status == TDN_OK && !data)
        status = tdn_fail_nomem(error, "the arrays as a file");
    if (status != TDN_OK)
        return tdn_fail_while(error, status, "writing %s", path);
    status = tdn_file_write(path, data, size, error);
    free(data);
    return status;
}
