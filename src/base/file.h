/* SPDX-License-Identifier: Apache-2.0 */
/* Files: read-only maps, and writes that are whole or not at all. */
#ifndef TDN_BASE_FILE_H
#define TDN_BASE_FILE_H

#include "base/status.h"

typedef struct tdn_map {
    const uint8_t *data;
    size_t size;
} tdn_map;

/* Maps a regular file read-only. An empty file gives size 0. TDN_E_IO with path and the system's
 * words. */
tdn_status tdn_map_open(tdn_map *map, const char *path, tdn_error *error);
void tdn_map_close(tdn_map *map);
/* Writes aside (path + ".tmp" + pid), flushes, renames. On failure nothing is left and the old file
 * is untouched. */
tdn_status tdn_file_write(const char *path, const void *data, size_t size, tdn_error *error);

#endif
