/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEAGER_H
#define TEAGER_H

#include <tendon/operator.h>

/* The rows that this example adds, by the name that the command looks for in a library. */
TDN_API const tdn_operator *tdn_operators(int32_t *n);

#endif
