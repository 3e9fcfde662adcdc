/* SPDX-License-Identifier: Apache-2.0 */
/* Operators that hold subgraphs have no references: what they hold is evaluated node by node. The
 * family's list is empty so that every family of operators has one. */
#include "ref/ref.h"

extern const tdn_ref_def tdn_refs_control[];
const tdn_ref_def tdn_refs_control[] = {{0}};
