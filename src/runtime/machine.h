/* SPDX-License-Identifier: Apache-2.0 */
/* Single figures of the machine, at a level of instructions and for as long as one likes:
 * tdn_machine_measure takes the best level and little time. */
#ifndef TDN_RUNTIME_MACHINE_H
#define TDN_RUNTIME_MACHINE_H

#include "backend/backend.h"

typedef enum tdn_rate { TDN_RATE_FP32, TDN_RATE_L2, TDN_RATE_MEMORY } tdn_rate;

/* 10^9 operations or bytes a second of the pool's threads together, each measuring for `ns`.
 * TDN_E_ARG when a run has the pool; TDN_E_NOMEM. */
tdn_status tdn_machine_rate(double *giga, tdn_rate rate, const tdn_peak *peak, tdn_pool *pool,
                            uint64_t ns, tdn_error *error);
/* The best row that this machine runs. */
const tdn_peak *tdn_machine_peak(void);

#endif
