/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What differs between a terminal and a pipe: colour and progress bars appear on a terminal only,
 * so that what scripts read is plain text. NO_COLOR and TERM=dumb are heeded.
 */
#ifndef TDN_CLI_TERM_H
#define TDN_CLI_TERM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "tendon/tendon.h"

typedef struct tdn_term {
    FILE *file;
    bool is_terminal;
    bool colour;
    bool line_open;      /* a bar stands on the last line */
    uint64_t last_draw;  /* ns; bars are redrawn at most 20 times a second */
    tdn_log_fn *on_line; /* prints the library's lines (user: NULL); NULL: as this command does */
} tdn_term;

typedef enum tdn_style { TDN_PLAIN, TDN_BOLD, TDN_DIM, TDN_GOOD, TDN_BAD, TDN_WARN } tdn_style;

tdn_term tdn_term_of(FILE *file);
/* Escape sequences, or "" where there is no colour. */
const char *tdn_term_on(const tdn_term *term, tdn_style style);
const char *tdn_term_off(const tdn_term *term);
/* Draws "title [####    ]  50 %" over the bar that stands there, on a terminal only. */
void tdn_term_bar(tdn_term *term, const char *title, double fraction);
/* Removes the bar, so that other text can be written. */
void tdn_term_clear(tdn_term *term);

#endif
