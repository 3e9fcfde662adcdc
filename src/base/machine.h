/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine's processor calls itself. */
#ifndef TDN_BASE_MACHINE_H
#define TDN_BASE_MACHINE_H
#include <stddef.h>
/* "AMD EPYC 9B14"; on ARM the main ID register, "midr 0x410fd421"; else the architecture. Printable
 * text. */
void tdn_machine_name(char *text, size_t size);
#endif
