/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The report's picture of the memory plan: a rectangle a buffer, as wide as the steps that it lives
 * through and as high as its size, at its place in the arena. Two rectangles that share a place
 * share no step. The colour is that of the step that writes the buffer first.
 */
#include <stdlib.h>
#include <string.h>

#include "cli/describe.h"
#include "cli/report_parts.h"

/* A page with more rectangles than this is slow and shows no more; labels need some room. */
enum { N_RECTANGLES = 3000, N_LABELS = 60 };

typedef struct block {
    const char *name;
    double size, offset, first, last;
} block;

typedef struct memory {
    block *blocks; /* of the arena, the largest first */
    int n, n_steps;
    double arena, state, inputs, outputs, scratch;
    double peak; /* most bytes that live at once, */
    int peak_step;
} memory;

static int by_size(const void *a, const void *b)
{
    const block *x = a, *y = b;
    return x->size < y->size   ? 1
           : x->size > y->size ? -1
                               : (x->offset > y->offset) - (x->offset < y->offset);
}

static void read_buffer(memory *m, const json_t *buffer)
{
    const char *class = tdn_described_text(buffer, "class");
    const double size = tdn_described_number(buffer, "size");
    if (strcmp(class, "input") == 0)
        m->inputs += size;
    else if (strcmp(class, "output") == 0)
        m->outputs += size;
    if (strcmp(class, "arena") != 0 || !json_object_get(buffer, "first_step"))
        return;
    m->blocks[m->n++] = (block){
        tdn_described_text(buffer, "name"), size, tdn_described_number(buffer, "offset"),
        tdn_described_number(buffer, "first_step"), tdn_described_number(buffer, "last_step")};
}

/* What begins adds, what ended takes away: linear in buffers and steps. */
static tdn_status find_peak(memory *m, tdn_error *error)
{
    double *change = calloc((size_t)m->n_steps + 2, sizeof *change), live = 0;
    if (!change)
        return tdn_fail_nomem(error, "the report");
    for (int i = 0; i < m->n; i++) {
        const block *b = &m->blocks[i];
        if (b->first < 0 || b->last < b->first || b->last >= m->n_steps)
            continue;
        change[(size_t)b->first] += b->size;
        change[(size_t)b->last + 1] -= b->size;
    }
    for (int i = 0; i < m->n_steps; i++) {
        live += change[i];
        if (live > m->peak) {
            m->peak = live;
            m->peak_step = i;
        }
    }
    free(change);
    return TDN_OK;
}

static tdn_status read_memory(memory *m, const json_t *program, tdn_error *error)
{
    size_t i;
    const json_t *buffers = json_object_get(program, "buffers"), *buffer, *step;
    m->n_steps = (int)json_array_size(json_object_get(program, "steps"));
    m->arena = tdn_described_number(program, "arena_size");
    m->state = tdn_described_number(program, "state_size");
    m->blocks = calloc(json_array_size(buffers) + 1, sizeof *m->blocks);
    if (!m->blocks)
        return tdn_fail_nomem(error, "the report");
    json_array_foreach(buffers, i, buffer) read_buffer(m, buffer);
    json_array_foreach(json_object_get(program, "steps"), i, step)
    {
        const double scratch = tdn_described_number(step, "scratch_size");
        m->scratch = scratch > m->scratch ? scratch : m->scratch;
    }
    qsort(m->blocks, (size_t)m->n, sizeof *m->blocks, by_size);
    return find_peak(m, error);
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

static void put_size(tdn_text *t, const char *what, double size, const char *note)
{
    char text[32];
    if (size > 0)
        tdn_text_put(t, "<tr><th>%s</th><td>%s</td><td class=\"note\">%s</td></tr>\n", what,
                     tdn_scaled(size, "B", text, sizeof text), note);
}

static void put_sizes(tdn_text *t, const tdn_report *r, const memory *m)
{
    char scratch[64], arena[96], live[32];
    const int threads = tdn_pool_threads(r->session->pool);
    snprintf(scratch, sizeof scratch, "at most, for each of %d thread%s", threads,
             threads == 1 ? "" : "s");
    snprintf(arena, sizeof arena, "a context; at most %s live at once, at step %d",
             tdn_scaled(m->peak, "B", live, sizeof live), m->peak_step);
    tdn_text_put(t, "<div class=\"wide\"><table class=\"sizes\">\n");
    put_size(t, "Weights, packed", (double)r->engine->weights_size,
             "once, shared by all contexts, used where the plan lies");
    put_size(t, "Arena", m->arena, m->n ? arena : "a context");
    put_size(t, "States", m->state, "a context");
    put_size(t, "Scratch", m->scratch, scratch);
    put_size(t, "Inputs", m->inputs, "the caller's");
    put_size(t, "Outputs", m->outputs, "the caller's");
    tdn_text_put(t, "</table></div>\n");
}

/* ---- The picture ----------------------------------------------------------------------------- */

static int kind_of_block(const memory *m, const block *b, const tdn_report *r,
                         const tdn_kinds *kinds)
{
    if (b->first < 0 || b->first >= r->profile->n || m->n_steps != r->profile->n)
        return kinds->n > 0 ? kinds->n - 1 : 0;
    return tdn_kind_of(kinds, &r->profile->steps[(int)b->first]);
}

static void put_block(tdn_text *t, const memory *m, const block *b, int kind)
{
    char size[32], offset[32];
    tdn_text_put(t,
                 "<rect class=\"block k%d\" x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" "
                 "height=\"%.2f\"><title>",
                 kind, 1000 * b->first / m->n_steps, 1000 * (1 - (b->offset + b->size) / m->arena),
                 1000 * (b->last + 1 - b->first) / m->n_steps, 1000 * b->size / m->arena);
    tdn_html_put(t, *b->name ? b->name : "(scratch of a step)", 120);
    tdn_text_put(t, ": %s at %s, steps %.0f to %.0f</title></rect>\n",
                 tdn_scaled(b->size, "B", size, sizeof size),
                 tdn_scaled(b->offset, "B", offset, sizeof offset), b->first, b->last);
}

/* In the box of its rectangle, cut to it; a rectangle too low for a line has none. */
static bool put_label(tdn_text *t, const memory *m, const block *b, double height_rem)
{
    char size[32];
    const double width = 100 * (b->last + 1 - b->first) / m->n_steps;
    if (b->size / m->arena * height_rem < 1.1 || width < 3)
        return false;
    tdn_text_put(t, "<span class=\"block\" style=\"left:%.2f%%;bottom:%.2f%%;width:%.2f%%\">",
                 100 * b->first / m->n_steps, 100 * b->offset / m->arena, width);
    tdn_text_put(t, "<b>%s ", tdn_scaled(b->size, "B", size, sizeof size));
    tdn_html_put(t, b->name, 80);
    tdn_text_put(t, "</b></span>\n");
    return true;
}

static void put_step_numbers(tdn_text *t, const memory *m)
{
    double ticks[8];
    char text[32];
    const tdn_axis axis = {0, m->n_steps > 1 ? m->n_steps : 2, false};
    const int n = tdn_axis_ticks(&axis, 5, ticks);
    for (int i = 0; i < n; i++) {
        snprintf(text, sizeof text, "step %.0f", ticks[i]);
        if (ticks[i] < m->n_steps && ticks[i] == (double)(int)ticks[i])
            tdn_plot_x_label(t, (ticks[i] + 0.5) / m->n_steps, text);
    }
}

static void put_picture(tdn_text *t, const tdn_report *r, const memory *m, const tdn_kinds *kinds)
{
    const double height = m->n > 40 ? 24 : 16;
    const tdn_axis y = {0, m->arena, false};
    int n_labels = 0;
    tdn_plot_begin(t, "Buffers by their place in the arena and the steps they live through", height,
                   &y, false);
    for (int i = 0; i < m->n && i < N_RECTANGLES; i++)
        put_block(t, m, &m->blocks[i], kind_of_block(m, &m->blocks[i], r, kinds));
    tdn_plot_labels(t);
    for (int i = 0; i < m->n && n_labels < N_LABELS; i++)
        n_labels += put_label(t, m, &m->blocks[i], height);
    put_step_numbers(t, m);
    tdn_plot_end(t);
    tdn_text_put(t,
                 "<p class=\"note\">%d buffers of the arena: across, the steps through which a "
                 "buffer lives; upwards, its place. Colours are those of the steps that write "
                 "them.",
                 m->n);
    if (m->n > N_RECTANGLES)
        tdn_text_put(t, " The %d smallest are left out.", m->n - N_RECTANGLES);
    if (m->peak > 0 && m->arena <= 1.005 * m->peak)
        tdn_text_put(t, " The arena is no larger than what must live at once.");
    else if (m->peak > 0)
        tdn_text_put(t, " The arena is %.0f&nbsp;%% larger than the most that lives at once.",
                     100 * (m->arena / m->peak - 1));
    tdn_text_put(t, "</p>\n");
}

tdn_status tdn_report_memory(tdn_text *t, const tdn_report *r, const tdn_kinds *kinds,
                             const json_t *program, tdn_error *error)
{
    memory m = {.n = 0};
    const tdn_status status = read_memory(&m, program, error);
    if (status == TDN_OK) {
        tdn_text_put(t, "<section><h2>Memory</h2>\n");
        put_sizes(t, r, &m);
        if (m.n > 0 && m.arena > 0 && m.n_steps > 0)
            put_picture(t, r, &m, kinds);
        tdn_text_put(t, "</section>\n");
    }
    free(m.blocks);
    return status;
}
