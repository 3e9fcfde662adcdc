/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --cores=0,1: the cores that a command and its worker threads stay on. While compiling and reading
 * the command is on any of them, so that all threads that it starts are, too; before it calls an
 * engine it moves to the first, where the pool has no worker.
 */
#ifndef TDN_CLI_CORES_H
#define TDN_CLI_CORES_H

#include "base/memory.h"

typedef struct tdn_cores {
    const int32_t *items; /* NULL: not given */
    int32_t n;
} tdn_cores;

/* "0,2-5": numbers and ranges. NULL text: none. Lives in `arena`. TDN_E_ARG for what is no list. */
tdn_status tdn_cores_parse(const char *text, tdn_arena *arena, tdn_cores *cores, tdn_error *error);
/* Keeps this thread, and those that it starts from now on, to the first n of the cores. TDN_E_ARG
 * for one that is not there, not allowed or named twice. Does nothing where none are given. */
tdn_status tdn_cores_keep(const tdn_cores *cores, int32_t n, tdn_error *error);

#endif
