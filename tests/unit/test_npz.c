/* SPDX-License-Identifier: Apache-2.0 */
/* numpy's files: what is written is read back, hand-made .npy headers of all kinds, and damage of
 * every byte.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "cli/npz.h"

/* A .npy file in memory: version, header text and elements. */
typedef struct npy {
    uint8_t bytes[4096];
    size_t size;
} npy;

static npy make_npy(int version, const char *header, const void *elements, size_t size)
{
    npy f = {{0}, 0};
    size_t length = strlen(header), start = version == 1 ? 10 : 12;
    memcpy(f.bytes, "\x93NUMPY", 6);
    f.bytes[6] = (uint8_t)version;
    for (size_t i = 8; i < start; i++)
        f.bytes[i] = (uint8_t)(length >> (8 * (i - 8)));
    memcpy(f.bytes + start, header, length);
    memcpy(f.bytes + start + length, elements, size);
    f.size = start + length + size;
    return f;
}

static const char *temporary(const char *name)
{
    static char path[512];
    const char *folder = getenv("TDN_TEST_TMP");
    snprintf(path, sizeof path, "%s/%s.%d", folder ? folder : "/tmp", name, (int)getpid());
    return path;
}

static void reads_what_it_writes(void **state)
{
    (void)state;
    float x[2][3] = {{1, -2, 3}, {4, 5, 6.5f}};
    int64_t y[2] = {INT64_MIN, 7};
    uint8_t z = 1;
    const char *names[] = {"x", "layer/y:0", "z", "none"};
    const tdn_tensor tensors[] = {tdn_tensor_make(x, TDN_F32, 2, (int64_t[]){2, 3}),
                                  tdn_tensor_make(y, TDN_S64, 1, (int64_t[]){2}),
                                  tdn_tensor_make(&z, TDN_BOOL, 0, NULL),
                                  tdn_tensor_make(x, TDN_F16, 3, (int64_t[]){2, 0, 3})};
    const char *path = temporary("write.npz");
    tdn_error error;
    tdn_npz npz;
    assert_int_equal(tdn_npz_write(path, names, tensors, 4, &error), TDN_OK);
    /* Over an old file. */
    assert_int_equal(tdn_npz_write(path, names, tensors, 4, &error), TDN_OK);
    assert_int_equal(tdn_npz_read(&npz, path, &error), TDN_OK);
    assert_int_equal(npz.n, 4);
    for (int i = 0; i < 4; i++) {
        const tdn_array *array = tdn_npz_find(&npz, names[i]);
        assert_non_null(array);
        assert_null(array->why);
        assert_int_equal(array->tensor.dtype, tensors[i].dtype);
        assert_int_equal(array->tensor.rank, tensors[i].rank);
        assert_memory_equal(array->tensor.dims, tensors[i].dims, sizeof tensors[i].dims);
    }
    assert_memory_equal(tdn_npz_find(&npz, "x")->tensor.data, x, sizeof x);
    assert_memory_equal(tdn_npz_find(&npz, "layer/y:0")->tensor.data, y, sizeof y);
    assert_null(tdn_npz_find(&npz, "y"));
    tdn_npz_free(&npz);
    unlink(path);
}

static void refuses_to_write(void **state)
{
    (void)state;
    uint8_t nibbles[4] = {0};
    const char *names[] = {"a"};
    tdn_tensor t = tdn_tensor_make(nibbles, TDN_S4, 1, (int64_t[]){8});
    tdn_error error;
    assert_int_equal(tdn_npz_write(temporary("s4.npz"), names, &t, 1, &error), TDN_E_ARG);
    assert_int_not_equal(access(temporary("s4.npz"), F_OK), 0);
    t.dtype = TDN_U8;
    t.dims[0] = 4;
    assert_int_equal(tdn_npz_write("/nonexistent/folder/a.npz", names, &t, 1, &error), TDN_E_IO);
    assert_non_null(strstr(error.text, "/nonexistent/folder/a.npz"));
}

static void reads_headers(void **state)
{
    (void)state;
    static const struct {
        int version;
        const char *header;
        size_t size;
        tdn_dtype dtype;
        int rank;
        int64_t dims[3];
    } rows[] = {
        {1,
         "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n",
         24,
         TDN_F32,
         2,
         {2, 3}},
        {2, "{'shape': (3,), 'descr': '<i2', 'fortran_order': False}  \n", 6, TDN_S16, 1, {3}},
        {3, "{\"descr\": \"|b1\", \"fortran_order\": False, \"shape\": ()}", 1, TDN_BOOL, 0, {0}},
        {1, "{'descr':'<u8','fortran_order':True,'shape':(1L,2L)}", 16, TDN_U64, 2, {1, 2}},
        {1, "{'descr': '=f8', 'fortran_order': False, 'shape': (0, 5)}", 0, TDN_F64, 2, {0, 5}},
        {1, "{'descr': '<f2', 'fortran_order': False, 'shape': (4,)}", 8, TDN_F16, 1, {4}},
        {1, "{'descr': '<u1', 'fortran_order': False, 'shape': (4,)}", 4, TDN_U8, 1, {4}},
    };
    uint8_t elements[64] = {1, 1, 1, 1};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        npy f = make_npy(rows[i].version, rows[i].header, elements, rows[i].size);
        tdn_npz npz;
        tdn_error error = {""};
        assert_int_equal(tdn_npz_read_memory(&npz, f.bytes, f.size, &error), TDN_OK);
        assert_int_equal(npz.n, 1);
        assert_string_equal(npz.arrays[0].name, "");
        assert_int_equal(npz.arrays[0].tensor.dtype, rows[i].dtype);
        assert_int_equal(npz.arrays[0].tensor.rank, rows[i].rank);
        assert_memory_equal(npz.arrays[0].tensor.dims, rows[i].dims,
                            (size_t)rows[i].rank * sizeof(int64_t));
        tdn_npz_free(&npz);
    }
}

static void transposes_column_major(void **state)
{
    (void)state;
    const int16_t columns[6] = {1, 4, 2, 5, 3, 6}, rows[6] = {1, 2, 3, 4, 5, 6};
    npy f = make_npy(1, "{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3)}", columns,
                     sizeof columns);
    tdn_npz npz;
    assert_int_equal(tdn_npz_read_memory(&npz, f.bytes, f.size, NULL), TDN_OK);
    assert_memory_equal(npz.arrays[0].tensor.data, rows, sizeof rows);
    tdn_npz_free(&npz);
}

static void truth_is_one_bit(void **state)
{
    (void)state;
    const uint8_t given[3] = {0, 2, 255}, expected[3] = {0, 1, 1};
    npy f =
        make_npy(1, "{'descr': '|b1', 'fortran_order': False, 'shape': (3,)}", given, sizeof given);
    tdn_npz npz;
    assert_int_equal(tdn_npz_read_memory(&npz, f.bytes, f.size, NULL), TDN_OK);
    assert_memory_equal(npz.arrays[0].tensor.data, expected, sizeof expected);
    tdn_npz_free(&npz);
}

static void lists_what_is_no_tensor(void **state)
{
    (void)state;
    static const struct {
        const char *header, *word;
    } rows[] = {
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (1,)}", "big-endian"},
        {"{'descr': '<U5', 'fortran_order': False, 'shape': ()}", "text"},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", "objects"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}", "complex"},
        {"{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (1,)}", "no such type"},
        {"{'descr': [('a', '<f4'), ('b', '<i4', (2,))], 'fortran_order': False, 'shape': (1,)}",
         "no such type"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", "dimensions"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        npy f = make_npy(1, rows[i].header, "\0\0\0\0\0\0\0\0", 8);
        tdn_npz npz;
        assert_int_equal(tdn_npz_read_memory(&npz, f.bytes, f.size, NULL), TDN_OK);
        assert_int_equal(npz.arrays[0].tensor.dtype, TDN_DTYPE_NONE);
        assert_null(npz.arrays[0].tensor.data);
        assert_non_null(strstr(npz.arrays[0].why, rows[i].word));
        tdn_npz_free(&npz);
    }
}

static void refuses_headers(void **state)
{
    (void)state;
    static const struct {
        int version;
        const char *header;
        size_t size;
    } rows[] = {
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", 23},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}", 25},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 4)}", 16},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387905,)}", 4},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", 4},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", 4},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1", 4},
        {1, "{'descr': '<f4', 'fortran_order': False}", 4},
        {1, "{'descr': '<f4', 'fortran_order': Perhaps, 'shape': (1,)}", 4},
        {1, "{'descr': '<f4, 'fortran_order': False, 'shape': (1,)}", 4},
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} more", 4},
        {1, "{'descr': '<f4', 'else': 1, 'fortran_order': False, 'shape': (1,)}", 4},
        {1, "{'descr': [[[, 'fortran_order': False, 'shape': (1,)}", 4},
        {1, "", 4},
        {4, "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 4},
    };
    uint8_t elements[64] = {0};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        npy f = make_npy(rows[i].version, rows[i].header, elements, rows[i].size);
        tdn_npz npz;
        tdn_error error;
        assert_int_equal(tdn_npz_read_memory(&npz, f.bytes, f.size, &error), TDN_E_FORMAT);
        assert_int_equal(npz.n, 0);
    }
}

/* The bytes of an .npz with one float array of 40 numbers and one int64. */
static tdn_map make_archive(const char *path)
{
    float x[40];
    for (int i = 0; i < 40; i++)
        x[i] = (float)i;
    int64_t y = 3;
    const char *names[] = {"x", "y"};
    const tdn_tensor tensors[] = {tdn_tensor_make(x, TDN_F32, 2, (int64_t[]){8, 5}),
                                  tdn_tensor_make(&y, TDN_S64, 0, NULL)};
    tdn_map map;
    assert_int_equal(tdn_npz_write(path, names, tensors, 2, NULL), TDN_OK);
    assert_int_equal(tdn_map_open(&map, path, NULL), TDN_OK);
    return map;
}

static void truncation_is_an_error(void **state)
{
    (void)state;
    const char *path = temporary("cut.npz");
    tdn_map map = make_archive(path);
    for (size_t size = 0; size < map.size; size++) {
        uint8_t *copy =
            malloc(size + 1); /* its own block, so that a sanitizer sees reads beyond it */
        memcpy(copy, map.data, size);
        tdn_npz npz;
        assert_int_equal(tdn_npz_read_memory(&npz, copy, size, NULL), TDN_E_FORMAT);
        free(copy);
    }
    tdn_map_close(&map);
    unlink(path);
}

/* A flipped bit is either an error or in a place that does not matter (a date); never other
 * elements. */
static void flipped_bits_never_change_elements(void **state)
{
    (void)state;
    const char *path = temporary("flip.npz");
    tdn_map map = make_archive(path);
    uint8_t *copy = malloc(map.size);
    memcpy(copy, map.data, map.size);
    int n_refused = 0;
    for (size_t bit = 0; bit < 8 * map.size; bit++) {
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
        tdn_npz npz;
        tdn_status status = tdn_npz_read_memory(&npz, copy, map.size, NULL);
        const tdn_array *x = status == TDN_OK ? tdn_npz_find(&npz, "x") : NULL;
        for (int i = 0; x && x->tensor.data && i < 40; i++)
            assert_true(((float *)x->tensor.data)[i] == (float)i);
        n_refused += status != TDN_OK;
        tdn_npz_free(&npz);
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_true(n_refused > (int)map.size);
    free(copy);
    tdn_map_close(&map);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_what_it_writes),
        cmocka_unit_test(refuses_to_write),
        cmocka_unit_test(reads_headers),
        cmocka_unit_test(transposes_column_major),
        cmocka_unit_test(truth_is_one_bit),
        cmocka_unit_test(lists_what_is_no_tensor),
        cmocka_unit_test(refuses_headers),
        cmocka_unit_test(truncation_is_an_error),
        cmocka_unit_test(flipped_bits_never_change_elements),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
