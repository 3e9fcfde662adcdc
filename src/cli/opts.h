/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Command lines as tables: a command lists its options, one row each, and gets a filled struct. The
 * same rows print the help, so that the two cannot disagree. `--opt=value` and `--opt value` mean
 * the same; rows without help text are other spellings of a row that has one. Of an option given
 * twice the last holds, except for lists.
 */
#ifndef TDN_CLI_OPTS_H
#define TDN_CLI_OPTS_H

#include <stdbool.h>
#include <stdio.h>

#include "base/status.h"

typedef enum tdn_opt_kind {
    TDN_OPT_FLAG, /* bool, takes no value */
    TDN_OPT_TEXT, /* const char * */
    TDN_OPT_INT,  /* int64_t in min..max */
    TDN_OPT_REAL, /* double in min..max */
    TDN_OPT_LIST  /* tdn_opt_list: every value given */
} tdn_opt_kind;

typedef struct tdn_opt {
    const char *name; /* without dashes */
    char letter;      /* its short form, or 0 */
    tdn_opt_kind kind;
    size_t offset;     /* of the field in the struct of its set */
    const char *value; /* what the help calls the value */
    const char *help;  /* one line; NULL: not shown */
    double min, max;
} tdn_opt;

/* Values point into argv. */
typedef struct tdn_opt_list {
    const char **items;
    int n;
} tdn_opt_list;

/* Rows and the struct they fill. A command may use several, e.g. its own and one shared with
 * others. */
typedef struct tdn_opt_set {
    const tdn_opt *opts;
    int n;
    void *into;
} tdn_opt_set;

/* What stands beside the options. */
typedef struct tdn_operands {
    const char **items;
    int n;
} tdn_operands;

/*
 * Parses argv[0..argc-1] (without the command's name). "--" ends the options. Fields not named keep
 * their values. Returns   TDN_OK; TDN_E_ARG with words (an unknown option: with the nearest name);
 * TDN_E_NOMEM. tdn_opts_free releases lists and operands, also after a failure.
 */
tdn_status tdn_opts_parse(const tdn_opt_set *sets, int n_sets, int argc, char **argv,
                          tdn_operands *operands, tdn_error *error);
void tdn_opts_free(const tdn_opt_set *sets, int n_sets, tdn_operands *operands);
/* The rows with help text, aligned. */
void tdn_opts_print(FILE *out, const tdn_opt_set *sets, int n_sets);

/* The name nearest to `word` among n, or NULL when none is near. Names are `stride` bytes apart,
 * the first at names. */
const char *tdn_nearest(const char *word, const char *const *names, int n, size_t stride);

#endif
