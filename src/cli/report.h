/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A benchmark as one HTML page that needs nothing else: no script, no font, no network. Charts are
 * SVG stretched to the page, with their words beside them as HTML, so that a phone shows the same
 * page in letters of the same size. All text from files is escaped, and the page forbids by its
 * content policy whatever it does not hold itself.
 */
#ifndef TDN_CLI_REPORT_H
#define TDN_CLI_REPORT_H

#include <jansson.h>

#include "cli/measure.h"

/* What a report is made of; nothing is owned. */
typedef struct tdn_report {
    const char *path;    /* of the plan or model */
    const char *command; /* line, as typed */
    const char *inputs;  /* file of samples; NULL: seeded values */
    const tdn_session *session;
    const tdn_feed *feed;
    const tdn_measurement *m;
    const tdn_engine_info *engine;
    const tdn_latency *latency, *response; /* response: from when a paced call was due */
    double rate;                           /* calls a second; 0: back to back */
    const tdn_profile *profile;            /* its steps have no runs where there was no profile */
    const char *quote;                     /* which figure to quote */
} tdn_report;

/* Writes the page whole or not at all. */
tdn_status tdn_report_write(const tdn_report *report, const char *path, tdn_error *error);

#endif
