/* SPDX-License-Identifier: Apache-2.0 */
/* Operators of the user's own, from a shared library. */
#ifndef TDN_CLI_OPERATORS_H
#define TDN_CLI_OPERATORS_H

#include "tendon/operator.h"

/* The rows that the library's `tdn_operators` gives; it stays loaded. path NULL: no rows. TDN_E_IO
 * where it cannot be loaded, TDN_E_FORMAT where it has no such function. */
tdn_status tdn_operators_load(const char *path, const tdn_operator **rows, int32_t *n,
                              tdn_error *error);

#endif
