/* SPDX-License-Identifier: Apache-2.0 */
/* Files: private copies to read, and writes that are whole or not at all. */
#ifndef TDN_BASE_FILE_H
#define TDN_BASE_FILE_H

#include <time.h>

#include "base/status.h"

/* Bytes in pages of their own, aligned to a page, read-only: no later change of the file reaches
 * them. */
typedef struct tdn_map {
    const uint8_t *data;
    size_t size;
} tdn_map;

/* Reads a regular file. An empty file gives size 0. TDN_E_IO with path and the system's words, also
 * where the file changes meanwhile; TDN_E_NOMEM. */
tdn_status tdn_map_open(tdn_map *map, const char *path, tdn_error *error);
void tdn_map_close(tdn_map *map);

/* The same by parts, for files of which not all is needed: what was not filled is zero and costs
 * address space alone. */
typedef struct tdn_source {
    tdn_map map;
    const char *path;
    int fd;
    struct timespec changed;
} tdn_source;

/* `path` must outlive the source. */
tdn_status tdn_source_open(tdn_source *source, const char *path, tdn_error *error);
/* Reads this range to its place in the map. */
tdn_status tdn_source_fill(tdn_source *source, size_t offset, size_t size, tdn_error *error);
/* Hands the map out. TDN_E_IO where the file has changed since it was opened. */
tdn_status tdn_source_take(tdn_source *source, tdn_map *map, tdn_error *error);
/* Ends the source, and its map where nobody took it. */
void tdn_source_close(tdn_source *source);

/* Writes aside (path + ".tmp" + pid), flushes, renames. On failure nothing is left and the old file
 * is untouched. A symbolic link stays, and the file that it leads to is replaced. */
tdn_status tdn_file_write(const char *path, const void *data, size_t size, tdn_error *error);

#endif
