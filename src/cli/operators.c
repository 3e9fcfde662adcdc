/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/operators.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "base/status.h"

tdn_status tdn_operators_load(const char *path, const tdn_operator **rows, int32_t *n,
                              tdn_error *error)
{
    const tdn_operator *(*give)(int32_t *);
    char here[4096];
    *rows = NULL;
    *n = 0;
    if (!path)
        return TDN_OK;
    /* A name without a slash would be looked for where the system keeps its libraries. */
    snprintf(here, sizeof here, "%s%s", strchr(path, '/') ? "" : "./", path);
    void *library = dlopen(here, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return tdn_fail(error, TDN_E_IO, "--operators: %s", dlerror());
    void *symbol = dlsym(library, "tdn_operators");
    if (!symbol)
        return tdn_fail(error, TDN_E_FORMAT,
                        "--operators: %s has no function tdn_operators: see tendon/operator.h",
                        path);
    memcpy(&give, &symbol, sizeof give); /* C has no conversion between the two */
    *rows = give(n);
    return TDN_OK;
}
