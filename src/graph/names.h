/* SPDX-License-Identifier: Apache-2.0 */
/* A map from names to pointers in an arena: what keeps names unique and finds values by name. Never
 * walked, so that its order (which differs from run to run, against chosen collisions) is never
 * seen. */
#ifndef TDN_GRAPH_NAMES_H
#define TDN_GRAPH_NAMES_H

#include "base/memory.h"

typedef struct tdn_names tdn_names;

tdn_names *tdn_names_create(tdn_arena *arena);
/* The pointer stored for a name, or NULL. */
void *tdn_names_find(const tdn_names *names, const char *name);
/* Stores `what` (not NULL) for a name, replacing what was there. The text is not copied. False when
 * out of memory. */
bool tdn_names_put(tdn_names *names, const char *name, void *what);

#endif
