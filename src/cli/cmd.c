/* SPDX-License-Identifier: Apache-2.0 */
/* How every command begins (options, help) and ends (status to exit code). */
#include "cli/cmd.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/term.h"

static void print_help(const tdn_usage *usage, const tdn_opt_set *sets, int n_sets)
{
    printf("usage: tendon %s\n\n%s\n\n", usage->synopsis, usage->about);
    tdn_opts_print(stdout, sets, n_sets);
    printf("\nexample:\n  %s\n", usage->example);
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

bool tdn_cmd_begin(const tdn_usage *usage, const tdn_opt_set *sets, int n_sets, int argc,
                   char **argv, tdn_operands *operands, int *exit_code)
{
    *operands = (tdn_operands){NULL, 0};
    if (asks_for_help(argc, argv)) {
        print_help(usage, sets, n_sets);
        *exit_code = TDN_EXIT_DONE;
        return false;
    }
    tdn_error error = {""};
    tdn_status status = tdn_opts_parse(sets, n_sets, argc - 1, argv + 1, operands, &error);
    if (status == TDN_OK && operands->n > usage->n_operands_max)
        status = tdn_fail(&error, TDN_E_ARG, "'%s' is one argument too many",
                          operands->items[usage->n_operands_max]);
    if (status == TDN_OK && operands->n < usage->n_operands_min)
        status = tdn_fail(&error, TDN_E_ARG, "which file? usage: tendon %s", usage->synopsis);
    if (status == TDN_OK)
        return true;
    *exit_code = tdn_cmd_end(status, &error);
    if (status == TDN_E_ARG)
        fprintf(stderr, "  tendon %s --help lists the options\n", argv[0]);
    return false;
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* "." of "report.html", "out" of "out/report.html", "/" of "/report.html". */
static void folder_of(const char *path, char folder[PATH_MAX])
{
    const char *slash = strrchr(path, '/');
    const int n = slash ? (int)(slash == path ? 1 : slash - path) : 0;
    snprintf(folder, PATH_MAX, "%.*s", n ? n : 1, n ? path : ".");
}

tdn_status tdn_cmd_check_output(const char *path, const char *source, tdn_error *error)
{
    struct stat info;
    char folder[PATH_MAX];
    if (!*path)
        return tdn_fail(error, TDN_E_ARG, "the name of the file to write is empty");
    if (source && is_same_file(path, source))
        return tdn_fail(error, TDN_E_ARG, "'%s' is the input: the output would overwrite it", path);
    folder_of(path, folder);
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return tdn_fail(error, TDN_E_IO, "cannot write '%s': it is a folder; add a file name",
                        path);
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return TDN_OK; /* a device or pipe: written to directly */
    if (stat(folder, &info) != 0 && errno == ENOENT)
        return tdn_fail(error, TDN_E_IO,
                        "cannot write '%s': there is no folder '%s'; make it first", path, folder);
    if (stat(folder, &info) == 0 && !S_ISDIR(info.st_mode))
        return tdn_fail(error, TDN_E_IO, "cannot write '%s': '%s' is no folder", path, folder);
    if (access(folder, W_OK | X_OK) != 0)
        return tdn_fail(error, TDN_E_IO, "cannot write '%s': folder '%s': %s", path, folder,
                        strerror(errno));
    return TDN_OK;
}

void tdn_cmd_hint(tdn_error *error, const char *hint)
{
    size_t at = strlen(error->text);
    snprintf(error->text + at, sizeof error->text - at, "\n  %s", hint);
}

static int exit_of(tdn_status status)
{
    switch (status) {
    case TDN_OK: return TDN_EXIT_DONE;
    case TDN_E_ARG: return TDN_EXIT_USAGE;
    case TDN_E_IO:
    case TDN_E_FORMAT:
    case TDN_E_MODEL:
    case TDN_E_UNSUPPORTED:
    case TDN_E_SHAPE:
    case TDN_E_TARGET: return TDN_EXIT_INPUT;
    case TDN_E_NOMEM:
    case TDN_E_DEVICE:
    case TDN_E_CHECK:
    case TDN_E_INTERNAL: break;
    }
    return TDN_EXIT_FAILED;
}

int tdn_cmd_end(tdn_status status, const tdn_error *error)
{
    if (status != TDN_OK) {
        tdn_term term = tdn_term_of(stderr);
        fflush(stdout);
        fprintf(stderr, "%stendon:%s %s\n", tdn_term_on(&term, TDN_BAD), tdn_term_off(&term),
                error->text);
    }
    return exit_of(status);
}
