/* SPDX-License-Identifier: Apache-2.0 */
/* How close a step comes to what the machine can do at best: the roofline of Williams, Waterman and
 * Patterson (2009), with one roof for each place that the step's data can be in. */
#ifndef TDN_CLI_CEILING_H
#define TDN_CLI_CEILING_H

#include <stddef.h>

#include "tendon/tendon.h"

/* What the step cannot be faster than: arithmetic, or moving its operands. */
typedef enum tdn_bound {
    TDN_BOUND_NONE,
    TDN_BOUND_COMPUTE,
    TDN_BOUND_L2,
    TDN_BOUND_MEMORY
} tdn_bound;

/* share: percent, the time that the machine needs at best by the time that the step takes; above
 * 100 where the step does less than its count says, or its data are nearer than was assumed. 0 and
 * NONE where nothing is to be said: no measurement, no time, nothing counted. */
typedef struct tdn_ceiling {
    double share;
    tdn_bound bound;
} tdn_ceiling;

/* `machine`: as measured, or zeros. */
tdn_ceiling tdn_ceiling_of(const tdn_machine *machine, const tdn_step_info *step);
/* "84 % fma", "61 % L2", "40 % mem"; "-" where nothing is to be said. */
const char *tdn_ceiling_text(tdn_ceiling ceiling, char text[32]);
/* "compute", "memory", or "". */
const char *tdn_bound_name(tdn_bound bound);
/* What the shares are of, as a sentence of three lines. */
const char *tdn_machine_text(const tdn_machine *machine, char *text, size_t size);

#endif
