/* SPDX-License-Identifier: Apache-2.0 */
/* A graph of its own for each test of passes, and room for texts. Behind cmocka's headers. */
#ifndef TDN_TESTS_GRAPH_FIXTURE_H
#define TDN_TESTS_GRAPH_FIXTURE_H

#include "passes/passes.h"

typedef struct fixture {
    tdn_arena *arena;
    tdn_graph *g;
    tdn_error error;
    char text[8192];
} fixture;

static int setup(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->arena = tdn_arena_create(NULL);
    f->g = tdn_graph_create(f->arena, "test");
    f->g->opset = 17;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    fixture *f = *state;
    tdn_arena_free(f->arena);
    free(f);
    return 0;
}

#endif
