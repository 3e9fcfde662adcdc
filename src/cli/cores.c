/* SPDX-License-Identifier: Apache-2.0 */
/* Lists of cores: from the command line, and kept to. */
#include "cli/cores.h"

#include <sched.h>
#include <stdlib.h>

#include "base/pool.h"

#define MAX_CORES 1024

static tdn_status fail_list(const char *text, tdn_error *error)
{
    return tdn_fail(error, TDN_E_ARG,
                    "--cores=%s: expected numbers from 0 to %d and ranges, as 0,1 or 0,2-5", text,
                    MAX_CORES - 1);
}

/* A number at *at, which then points behind it; -1: there is none. */
static int32_t read_number(const char **at)
{
    if (**at < '0' || **at > '9')
        return -1;
    char *end;
    const unsigned long long n = strtoull(*at, &end, 10);
    *at = end;
    return n < MAX_CORES ? (int32_t)n : -1;
}

tdn_status tdn_cores_parse(const char *text, tdn_arena *arena, tdn_cores *cores, tdn_error *error)
{
    *cores = (tdn_cores){NULL, 0};
    if (!text)
        return TDN_OK;
    int32_t *items = tdn_arena_alloc(arena, MAX_CORES, sizeof *items), n = 0;
    if (!items)
        return tdn_fail_nomem(error, "the cores");
    for (const char *at = text;; at++) {
        const int32_t first = read_number(&at);
        int32_t last = first;
        if (first >= 0 && *at == '-') {
            at++;
            last = read_number(&at);
        }
        if (first < 0 || last < first || (*at && *at != ',') || last - first >= MAX_CORES - n)
            return fail_list(text, error);
        for (int32_t core = first; core <= last; core++)
            items[n++] = core;
        if (!*at)
            break;
    }
    *cores = (tdn_cores){items, n};
    return TDN_OK;
}

tdn_status tdn_cores_keep(const tdn_cores *cores, int32_t n, tdn_error *error)
{
    if (cores->n == 0)
        return TDN_OK;
    TDN_TRY(tdn_cores_check(cores->items, cores->n, error));
    cpu_set_t wanted, got;
    CPU_ZERO(&wanted);
    for (int32_t i = 0; i < n && i < cores->n; i++)
        CPU_SET((size_t)cores->items[i], &wanted);
    if (sched_setaffinity(0, sizeof wanted, &wanted) != 0)
        return tdn_cores_fail(cores->items[0], error);
    /* The system takes what it allows of a set and is silent about the rest. */
    if (sched_getaffinity(0, sizeof got, &got) != 0)
        return tdn_fail(error, TDN_E_IO, "the system does not say on which cores this runs");
    for (int32_t i = 0; i < n && i < cores->n; i++)
        if (!CPU_ISSET((size_t)cores->items[i], &got))
            return tdn_cores_fail(cores->items[i], error);
    return TDN_OK;
}
