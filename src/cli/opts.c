/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Parsing of table-driven options. getopt_long is not used: it cannot say which option was nearly
 * meant, accepts abbreviations that break when an option is added, and leaves numbers and their
 * ranges to each command.
 */
#include "cli/opts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_NAME 40
#define MOST_SETS 8 /* of one command, where nearest names are looked for */

/* Edits (insert, delete, change one) that turn a into b. */
static int edit_distance(const char *a, const char *b)
{
    size_t n = strlen(b);
    if (n > LONGEST_NAME || strlen(a) > LONGEST_NAME)
        return LONGEST_NAME;
    int row[LONGEST_NAME + 1];
    for (size_t j = 0; j <= n; j++)
        row[j] = (int)j;
    for (size_t i = 0; a[i]; i++) {
        int diagonal = row[0];
        row[0] = (int)i + 1;
        for (size_t j = 0; j < n; j++) {
            int change = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            int shorter = 1 + (row[j] < row[j + 1] ? row[j] : row[j + 1]);
            row[j + 1] = change < shorter ? change : shorter;
        }
    }
    return row[n];
}

const char *tdn_nearest(const char *word, const char *const *names, int n, size_t stride)
{
    const char *best = NULL;
    int best_distance = 1 + (int)strlen(word) / 3;
    for (int i = 0; i < n; i++) {
        const char *name =
            *(const char *const *)(const void *)((const char *)names + (size_t)i * stride);
        int distance = edit_distance(word, name);
        if (distance <= best_distance && (!best || distance < best_distance)) {
            best = name;
            best_distance = distance;
        }
    }
    return best;
}

typedef struct found {
    const tdn_opt *opt;
    const tdn_opt_set *set;
} found;

static found find(const tdn_opt_set *sets, int n_sets, const char *name, size_t length)
{
    for (int s = 0; s < n_sets; s++)
        for (int i = 0; i < sets[s].n; i++)
            if (strncmp(sets[s].opts[i].name, name, length) == 0 && !sets[s].opts[i].name[length])
                return (found){&sets[s].opts[i], &sets[s]};
    return (found){NULL, NULL};
}

static found find_letter(const tdn_opt_set *sets, int n_sets, char letter)
{
    for (int s = 0; s < n_sets; s++)
        for (int i = 0; i < sets[s].n; i++)
            if (letter && sets[s].opts[i].letter == letter)
                return (found){&sets[s].opts[i], &sets[s]};
    return (found){NULL, NULL};
}

static tdn_status fail_unknown(const tdn_opt_set *sets, int n_sets, const char *arg,
                               tdn_error *error)
{
    char name[LONGEST_NAME];
    size_t length = strcspn(arg + 2, "=");
    snprintf(name, sizeof name, "%.*s", (int)(length < sizeof name ? length : sizeof name - 1),
             arg + 2);
    const char *of_sets[MOST_SETS];
    int n = 0;
    for (int s = 0; s < n_sets && s < MOST_SETS; s++) {
        of_sets[n] = tdn_nearest(name, &sets[s].opts[0].name, sets[s].n, sizeof sets[s].opts[0]);
        n += of_sets[n] != NULL;
    }
    const char *near = tdn_nearest(name, of_sets, n, sizeof of_sets[0]);
    if (near)
        return tdn_fail(error, TDN_E_ARG, "unknown option --%s; did you mean --%s?", name, near);
    return tdn_fail(error, TDN_E_ARG, "unknown option %s", arg);
}

static tdn_status store_number(const tdn_opt *opt, void *field, const char *value, tdn_error *error)
{
    char *end;
    errno = 0;
    bool whole = opt->kind == TDN_OPT_INT;
    long long i = whole ? strtoll(value, &end, 10) : 0;
    double x = whole ? (double)i : strtod(value, &end);
    if (end == value || *end || errno || !(x >= opt->min && x <= opt->max))
        return tdn_fail(error, TDN_E_ARG, "--%s=%s: expected a %snumber from %.10g to %.10g",
                        opt->name, value, whole ? "whole " : "", opt->min, opt->max);
    if (whole)
        *(int64_t *)field = i;
    else
        *(double *)field = x;
    return TDN_OK;
}

static tdn_status append(const char ***items, int *n, const char *value, tdn_error *error)
{
    const char **more = realloc(*items, ((size_t)*n + 1) * sizeof *more);
    if (!more)
        return tdn_fail_nomem(error, "the command line");
    more[(*n)++] = value;
    *items = more;
    return TDN_OK;
}

static tdn_status store(found f, const char *value, tdn_error *error)
{
    void *field = (char *)f.set->into + f.opt->offset;
    switch (f.opt->kind) {
    case TDN_OPT_FLAG: *(bool *)field = true; return TDN_OK;
    case TDN_OPT_TEXT: *(const char **)field = value; return TDN_OK;
    case TDN_OPT_LIST: {
        tdn_opt_list *list = field;
        return append(&list->items, &list->n, value, error);
    }
    case TDN_OPT_INT:
    case TDN_OPT_REAL: return store_number(f.opt, field, value, error);
    }
    return TDN_E_INTERNAL;
}

/* One option at argv[*at], with its value, which may be the next word. */
static tdn_status parse_option(const tdn_opt_set *sets, int n_sets, int argc, char **argv, int *at,
                               tdn_error *error)
{
    const char *arg = argv[*at], *value = NULL;
    found f;
    if (arg[1] == '-') {
        size_t length = strcspn(arg + 2, "=");
        f = find(sets, n_sets, arg + 2, length);
        if (arg[2 + length] == '=')
            value = arg + 2 + length + 1;
    } else {
        f = find_letter(sets, n_sets, arg[1]);
        if (arg[2])
            value = arg + 2 + (arg[2] == '=');
    }
    if (!f.opt)
        return arg[1] == '-' ? fail_unknown(sets, n_sets, arg, error)
                             : tdn_fail(error, TDN_E_ARG, "unknown option %s", arg);
    if (f.opt->kind == TDN_OPT_FLAG) {
        if (value)
            return tdn_fail(error, TDN_E_ARG, "%s: --%s takes no value", arg, f.opt->name);
    } else if (!value) {
        if (*at + 1 >= argc)
            return tdn_fail(error, TDN_E_ARG, "%s needs a value: %s=%s", arg, arg,
                            f.opt->value ? f.opt->value : "...");
        value = argv[++*at];
    }
    if (f.opt->kind != TDN_OPT_FLAG && !*value)
        return tdn_fail(error, TDN_E_ARG, "%s: the value is empty", arg);
    return store(f, value, error);
}

tdn_status tdn_opts_parse(const tdn_opt_set *sets, int n_sets, int argc, char **argv,
                          tdn_operands *operands, tdn_error *error)
{
    *operands = (tdn_operands){NULL, 0};
    bool options = true;
    for (int at = 0; at < argc; at++) {
        if (options && strcmp(argv[at], "--") == 0)
            options = false;
        else if (options && argv[at][0] == '-' && argv[at][1])
            TDN_TRY(parse_option(sets, n_sets, argc, argv, &at, error));
        else
            TDN_TRY(append(&operands->items, &operands->n, argv[at], error));
    }
    return TDN_OK;
}

void tdn_opts_free(const tdn_opt_set *sets, int n_sets, tdn_operands *operands)
{
    for (int s = 0; s < n_sets; s++)
        for (int i = 0; i < sets[s].n; i++) {
            if (sets[s].opts[i].kind != TDN_OPT_LIST)
                continue;
            /* Other spellings share the field. */
            tdn_opt_list *list =
                (tdn_opt_list *)(void *)((char *)sets[s].into + sets[s].opts[i].offset);
            free(list->items);
            *list = (tdn_opt_list){NULL, 0};
        }
    free(operands->items);
    *operands = (tdn_operands){NULL, 0};
}

/* "-o, --output=FILE": what the help's first column says. */
static int row_title(const tdn_opt *opt, char *text, size_t size)
{
    char letter[8] = "";
    if (opt->letter)
        snprintf(letter, sizeof letter, "-%c, ", opt->letter);
    return snprintf(text, size, "%s--%s%s%s", letter, opt->name, opt->value ? "=" : "",
                    opt->value ? opt->value : "");
}

void tdn_opts_print(FILE *out, const tdn_opt_set *sets, int n_sets)
{
    char title[80];
    int width = 0;
    for (int s = 0; s < n_sets; s++)
        for (int i = 0; i < sets[s].n; i++) {
            int w = sets[s].opts[i].help ? row_title(&sets[s].opts[i], title, sizeof title) : 0;
            width = w > width ? w : width;
        }
    for (int s = 0; s < n_sets; s++)
        for (int i = 0; i < sets[s].n; i++) {
            if (!sets[s].opts[i].help)
                continue;
            row_title(&sets[s].opts[i], title, sizeof title);
            fprintf(out, "  %-*s  %s\n", width, title, sets[s].opts[i].help);
        }
}
