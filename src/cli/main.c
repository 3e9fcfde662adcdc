/* SPDX-License-Identifier: Apache-2.0 */
/* The command `tendon`: a table of commands, each in its own file. */
#include <stdio.h>
#include <string.h>

#include "cli/cmd.h"
#include "cli/term.h"

typedef struct command {
    const char *name;
    tdn_command_fn *run;
    const char *summary;
} command;

static const command commands[] = {
    {"build", tdn_cmd_build, "compile an ONNX model to a plan"},
    {"calibrate", tdn_cmd_calibrate, "find the ranges of values for a build in int8"},
    {"run", tdn_cmd_run, "run a plan or a model on arrays from an .npz file"},
    {"bench", tdn_cmd_bench, "measure latency, with a profile by step"},
    {"validate", tdn_cmd_validate, "compare an engine with the reference, value by value"},
    {"inspect", tdn_cmd_inspect, "show what is in a plan or a model"},
    {"conform", tdn_cmd_conform, "run ONNX's backend tests"},
    {"trtexec", tdn_cmd_trtexec, "the same work by trtexec's flags, log and files"},
};
#define N_COMMANDS (int)(sizeof commands / sizeof commands[0])

static void print_help(FILE *out)
{
    fputs("Compiles ONNX models to plans, and runs, measures and validates them.\n\n"
          "usage: tendon COMMAND ...\n\n",
          out);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", commands[i].name, commands[i].summary);
    fputs("\n  tendon COMMAND --help   the command's options and an example\n"
          "  tendon --version        the version\n\n"
          "exit code: 0 done, 1 the check did not hold, 2 usage, 3 bad model, plan or data\n\n"
          "example:\n"
          "  tendon build emg.onnx -o emg.plan && tendon bench emg.plan --duration=5\n",
          out);
}

static bool asks_for(const char *arg, const char *word, char letter)
{
    return (strncmp(arg, "--", 2) == 0 && strcmp(arg + 2, word) == 0) || strcmp(arg, word) == 0 ||
           (letter && arg[0] == '-' && arg[1] == letter && !arg[2]);
}

static int fail_command(const char *name)
{
    const char *near = tdn_nearest(name, &commands[0].name, N_COMMANDS, sizeof commands[0]);
    fprintf(stderr, "tendon: there is no command '%s'%s%s%s (tendon --help lists them)\n", name,
            near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
    return TDN_EXIT_USAGE;
}

/* The command's other name: a link to it that scripts call. */
static bool is_called_trtexec(const char *path)
{
    const char *slash = strrchr(path, '/');
    return strcmp(slash ? slash + 1 : path, "trtexec") == 0;
}

static int run(int argc, char **argv)
{
    if (argc > 0 && is_called_trtexec(argv[0]))
        return tdn_cmd_trtexec(argc, argv);
    if (argc < 2) {
        print_help(stderr);
        return TDN_EXIT_USAGE;
    }
    char help[] = "--help", *help_argv[] = {argv[2], help, NULL};
    bool help_of = asks_for(argv[1], "help", 'h') && argc > 2;
    if (asks_for(argv[1], "help", 'h') && !help_of) {
        print_help(stdout);
        return TDN_EXIT_DONE;
    }
    if (asks_for(argv[1], "version", 'V')) {
        printf("tendon %s\n", tdn_version());
        return TDN_EXIT_DONE;
    }
    const char *name = argv[help_of ? 2 : 1];
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0)
            return help_of ? commands[i].run(2, help_argv) : commands[i].run(argc - 1, argv + 1);
    return fail_command(name);
}

int main(int argc, char **argv)
{
    int code = run(argc, argv);
    /* A full disk behind stdout must not look like success. */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("tendon: writing to standard output");
        return code ? code : TDN_EXIT_FAILED;
    }
    return code;
}
