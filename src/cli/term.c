/* SPDX-License-Identifier: Apache-2.0 */
/* Colour and bars, by the few ANSI sequences that every terminal since the VT100 knows. */
#include "cli/term.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

#define BAR_WIDTH 28
#define REDRAW_NS 50000000u

tdn_term tdn_term_of(FILE *file)
{
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    bool able = isatty(fileno(file)) && term && strcmp(term, "dumb") != 0;
    return (tdn_term){
        .file = file, .is_terminal = able, .colour = able && !(no_color && *no_color)};
}

const char *tdn_term_on(const tdn_term *term, tdn_style style)
{
    static const char *const codes[] = {
        [TDN_PLAIN] = "",        [TDN_BOLD] = "\033[1m", [TDN_DIM] = "\033[2m",
        [TDN_GOOD] = "\033[32m", [TDN_BAD] = "\033[31m", [TDN_WARN] = "\033[33m",
    };
    return term->colour ? codes[style] : "";
}

const char *tdn_term_off(const tdn_term *term) { return term->colour ? "\033[0m" : ""; }

void tdn_term_bar(tdn_term *term, const char *title, double fraction)
{
    if (!term->is_terminal)
        return;
    uint64_t now = tdn_now_ns();
    if (term->line_open && now - term->last_draw < REDRAW_NS)
        return;
    double f = fraction < 0 ? 0 : fraction > 1 ? 1 : fraction;
    char bar[BAR_WIDTH + 1];
    int n_full = (int)(f * BAR_WIDTH);
    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < n_full ? '#' : ' ';
    bar[BAR_WIDTH] = 0;
    fprintf(term->file, "\r\033[K%s [%s] %3.0f %%", title, bar, 100 * f);
    fflush(term->file);
    term->line_open = true;
    term->last_draw = now;
}

void tdn_term_clear(tdn_term *term)
{
    if (term->line_open)
        fputs("\r\033[K", term->file);
    term->line_open = false;
}
