/* SPDX-License-Identifier: Apache-2.0 */
/*
 * numpy's files: .npz archives and single .npy arrays, read into memory and written. Stored and
 * deflated members, zip64, format versions 1 to 3, row- and column-major order (arrays are
 * row-major here, always). Files are not trusted: every length is checked against the file before
 * anything of that length is allocated.
 */
#ifndef TDN_CLI_NPZ_H
#define TDN_CLI_NPZ_H

#include "base/status.h"

typedef struct tdn_array {
    char *name;      /* without ".npy"; "" for the array of a .npy file */
    char descr[16];  /* numpy's words for the type: "<f4" */
    const char *why; /* why the tensor is empty (text, big-endian, ...); NULL: it is not */
    tdn_tensor tensor;
} tdn_array;

typedef struct tdn_npz {
    tdn_array *arrays;
    int n;
} tdn_npz;

/*
 * Reads all arrays. Arrays of types that a tensor cannot have are listed, with `why` and without
 * data: a file may hold text or dates beside what is wanted. Returns   TDN_OK; TDN_E_IO;
 * TDN_E_FORMAT; TDN_E_NOMEM. After a failure *npz is empty.
 */
tdn_status tdn_npz_read(tdn_npz *npz, const char *path, tdn_error *error);
tdn_status tdn_npz_read_memory(tdn_npz *npz, const void *data, size_t size, tdn_error *error);
void tdn_npz_free(tdn_npz *npz);
/* NULL when there is none. */
const tdn_array *tdn_npz_find(const tdn_npz *npz, const char *name);

/* Writes the named tensors, stored, always with the same bytes for the same data. The file appears
 * whole or not at all. Returns TDN_OK; TDN_E_IO; TDN_E_ARG for a type that numpy has not;
 * TDN_E_NOMEM. */
tdn_status tdn_npz_write(const char *path, const char *const *names, const tdn_tensor *tensors,
                         int n, tdn_error *error);

#endif
