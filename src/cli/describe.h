/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading the JSON by which the libraries describe plans and models. A key that is not there reads
 * as nothing, so that plans of other versions can be looked at.
 */
#ifndef TDN_CLI_DESCRIBE_H
#define TDN_CLI_DESCRIBE_H

#include <jansson.h>
#include <stddef.h>

/* The member as text, "" where there is none; as a number, 0 where there is none. */
const char *tdn_described_text(const json_t *o, const char *key);
double tdn_described_number(const json_t *o, const char *key);
/* [1, "batch", 8] as "1xbatchx8"; of an axis that may be bound shorter, "1..8"; batch_axis -1:
 * none. */
const char *tdn_described_dims(const json_t *dims, json_int_t batch_axis, char *text, size_t size);
/* "12.3 kB", "0.33 GFLOP": three digits and a prefix. */
const char *tdn_scaled(double x, const char *unit, char *text, size_t size);
/* Inputs or outputs, one a line; the first line begins with the title, `width` wide. */
void tdn_described_ios(const char *title, int width, const json_t *list);

#endif
