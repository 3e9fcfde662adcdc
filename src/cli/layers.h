/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing every value that an engine stores between its steps with the reference's value of the
 * same name.
 */
#ifndef TDN_CLI_LAYERS_H
#define TDN_CLI_LAYERS_H

#include "base/difference.h"
#include "tendon/build.h"

typedef struct tdn_layers tdn_layers;

tdn_status tdn_layers_create(tdn_layers **layers, tdn_tolerance tolerance, tdn_error *error);
void tdn_layers_free(tdn_layers *layers);
/* From the next run on compares with the reference's last evaluation; NULL: with nothing. */
void tdn_layers_watch(tdn_layers *layers, tdn_context *context, const tdn_reference *reference);
/* One line a value in the order in which they were written, then the first that differs. True if
 * none does.
 */
bool tdn_layers_print(const tdn_layers *layers);

#endif
