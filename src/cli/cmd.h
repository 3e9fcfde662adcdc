/* SPDX-License-Identifier: Apache-2.0 */
/* What commands have in common: exit codes, help, and how they fail. A command is one file and one
 * row in main.c. */
#ifndef TDN_CLI_CMD_H
#define TDN_CLI_CMD_H

#include "cli/opts.h"

enum {
    TDN_EXIT_DONE = 0,
    TDN_EXIT_FAILED = 1, /* the check did not hold, or running failed */
    TDN_EXIT_USAGE = 2,
    TDN_EXIT_INPUT = 3 /* a model, plan or data file is not usable */
};

/* argv[0] is the command's name. Returns the exit code. */
typedef int tdn_command_fn(int argc, char **argv);
tdn_command_fn tdn_cmd_build, tdn_cmd_run, tdn_cmd_bench, tdn_cmd_validate, tdn_cmd_inspect,
    tdn_cmd_conform, tdn_cmd_calibrate, tdn_cmd_trtexec;

typedef struct tdn_usage {
    const char *synopsis; /* "run PLAN|MODEL.onnx --inputs=IN.npz [options]" */
    const char *about;    /* one or two lines */
    const char *example;
    int n_operands_min, n_operands_max;
} tdn_usage;

/*
 * Parses a command's line. False when the command ends here: help was asked for and printed, or the
 * line is wrong and that was said; *exit_code is then set. The caller calls tdn_opts_free in any
 * case.
 */
bool tdn_cmd_begin(const tdn_usage *usage, const tdn_opt_set *sets, int n_sets, int argc,
                   char **argv, tdn_operands *operands, int *exit_code);
/* Whether a file can be written there, asked before much work is done for it. `source`: a file that
 * must not be overwritten, or NULL. TDN_E_IO, TDN_E_ARG. */
tdn_status tdn_cmd_check_output(const char *path, const char *source, tdn_error *error);
/* Appends a second line to an error's text: what to do. */
void tdn_cmd_hint(tdn_error *error, const char *hint);
/* The exit code for a status; what is not TDN_OK is printed to stderr: "tendon: ..." */
int tdn_cmd_end(tdn_status status, const tdn_error *error);

#endif
