/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tendon conform: folders of ONNX's backend tests, each compiled, run and compared. It reports and
 * counts; case.c does the work.
 *
 * The last line is `N passed, N failed`, where what is not supported has failed, so that the two
 * add up to the cases and the exit code says the same as the line.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "cli/case.h"
#include "cli/cmd.h"
#include "cli/term.h"

/* Collections have folders of folders: data/node/test_add. */
enum { MAX_DEPTH = 4, MAX_WORDS = 300 };

typedef struct conform_args {
    double rtol, atol;
    int64_t level, threads;
    const char *json;
    bool list;
} conform_args;

#define AT(field) offsetof(conform_args, field)
static const tdn_opt conform_opts[] = {
    {"rtol", 0, TDN_OPT_REAL, AT(rtol), "X", "of floats: |a - b| <= atol + rtol |b| (1e-3)", 0,
     1e300},
    {"atol", 0, TDN_OPT_REAL, AT(atol), "X", "the same (1e-7)", 0, 1e300},
    {"list", 0, TDN_OPT_FLAG, AT(list), NULL, "print the cases that pass, too", 0, 0},
    {"json", 0, TDN_OPT_TEXT, AT(json), "FILE", "write the results for tools", 0, 0},
    {"threads", 0, TDN_OPT_INT, AT(threads), "N", "threads, the calling one included (1)", 0, 1024},
    {"optimization-level", 0, TDN_OPT_INT, AT(level), "0..5",
     "effort of the compiler (3); 0: no tuning", 0, 5},
};

static const tdn_usage usage = {
    .synopsis = "conform DIR... [options]",
    .about = "Runs ONNX's backend tests: DIR is a case (model.onnx, test_data_set_0 with\n"
             "input_0.pb, output_0.pb, ...) or a folder of cases. Models are compiled for\n"
             "their inputs' shapes; inputs that decide about shapes become constants. One\n"
             "line for each case that does not pass; the last is 'N passed, N failed', where\n"
             "those that need what Tendon lacks have failed. Exit code 0 only if all pass.",
    .example = "tendon conform onnx/backend/test/data/node --json=results.json",
    .n_operands_min = 1,
    .n_operands_max = 1 << 16,
};

typedef struct paths {
    char **items;
    int n;
} paths;

typedef struct report {
    const conform_args *args;
    tdn_term term, out;
    tdn_text json;
    int64_t n[3]; /* by verdict */
} report;

/* ---- Finding cases --------------------------------------------------------------------------- */

static void free_paths(paths *p)
{
    for (int i = 0; i < p->n; i++)
        free(p->items[i]);
    free(p->items);
    *p = (paths){NULL, 0};
}

static tdn_status add_path(paths *p, const char *folder, const char *name, tdn_error *error)
{
    char **more = realloc(p->items, ((size_t)p->n + 1) * sizeof *more);
    if (!more)
        return tdn_fail_nomem(error, "the cases");
    p->items = more;
    const size_t size = strlen(folder) + (name ? strlen(name) : 0) + 2;
    char *path = more[p->n] = malloc(size);
    if (!path)
        return tdn_fail_nomem(error, "the cases");
    p->n++;
    snprintf(path, size, "%s%s%s", folder, name ? "/" : "", name ? name : "");
    return TDN_OK;
}

static bool has_model(const char *folder)
{
    char path[4096];
    const int size = snprintf(path, sizeof path, "%s/model.onnx", folder);
    return size > 0 && (size_t)size < sizeof path && access(path, F_OK) == 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static tdn_status list_folder(paths *inside, const char *folder, tdn_error *error)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return tdn_fail(error, TDN_E_IO, "cannot open folder '%s': %s", folder, strerror(errno));
    tdn_status status = TDN_OK;
    for (const struct dirent *e; status == TDN_OK && (e = readdir(dir));)
        if (e->d_name[0] != '.' &&
            (e->d_type == DT_DIR || e->d_type == DT_LNK || e->d_type == DT_UNKNOWN))
            status = add_path(inside, folder, e->d_name, error);
    closedir(dir);
    if (inside->n > 0)
        qsort(inside->items, (size_t)inside->n, sizeof *inside->items, by_name);
    return status;
}

/* The folder itself, or the cases in it. What is no folder, and what lies deeper, is passed over;
 * the folders that were named must be ones. */
static tdn_status find_cases(paths *cases, const char *folder, int depth, tdn_error *error)
{
    paths inside = {NULL, 0};
    if (has_model(folder))
        return add_path(cases, folder, NULL, error);
    if (depth == MAX_DEPTH)
        return TDN_OK;
    tdn_status status = list_folder(&inside, folder, error);
    if (status == TDN_E_IO && depth > 0)
        status = TDN_OK;
    for (int i = 0; i < inside.n && status == TDN_OK; i++)
        status = find_cases(cases, inside.items[i], depth + 1, error);
    free_paths(&inside);
    return status;
}

static tdn_status find_all(paths *cases, const tdn_operands *operands, tdn_error *error)
{
    for (int i = 0; i < operands->n; i++) {
        const int before = cases->n;
        char folder[4096];
        snprintf(folder, sizeof folder, "%s", operands->items[i]);
        for (size_t n = strlen(folder); n > 1 && folder[n - 1] == '/'; n--)
            folder[n - 1] = 0;
        TDN_TRY(find_cases(cases, folder, 0, error));
        if (cases->n == before)
            return tdn_fail(error, TDN_E_IO,
                            "there is no case in %s: a case is a folder with model.onnx and "
                            "test_data_set_0",
                            operands->items[i]);
    }
    return TDN_OK;
}

/* ---- Reporting ------------------------------------------------------------------------------- */

static const struct {
    const char *name, *word;
    tdn_style style;
} verdicts[] = {
    [TDN_CASE_PASSED] = {"passed", "passed     ", TDN_GOOD},
    [TDN_CASE_FAILED] = {"failed", "FAILED     ", TDN_BAD},
    [TDN_CASE_UNSUPPORTED] = {"unsupported", "unsupported", TDN_WARN},
};

static void report_case(report *r, const char *path, tdn_verdict verdict, const char *why)
{
    r->n[verdict]++;
    tdn_json_begin(&r->json, NULL, '{');
    tdn_json_string(&r->json, "case", path);
    tdn_json_string(&r->json, "result", verdicts[verdict].name);
    tdn_json_string(&r->json, "reason", why);
    tdn_json_end(&r->json, '}');
    if (verdict == TDN_CASE_PASSED && !r->args->list)
        return;
    const char *slash = strrchr(path, '/');
    tdn_term_clear(&r->term);
    printf("%s%s%s %s%s", tdn_term_on(&r->out, verdicts[verdict].style), verdicts[verdict].word,
           tdn_term_off(&r->out), slash ? slash + 1 : path, *why ? ": " : "");
    /* A line a case: what is long is cut here, and whole in the JSON. */
    for (int i = 0; why[i] && i < MAX_WORDS; i++)
        putchar(why[i] == '\n' ? ' ' : why[i]);
    puts(strlen(why) > MAX_WORDS ? " ..." : "");
}

static void print_summary(const report *r)
{
    const int64_t unsupported = r->n[TDN_CASE_UNSUPPORTED];
    if (unsupported)
        printf("%lld of those that failed need what is not supported\n", (long long)unsupported);
    printf("%lld passed, %lld failed\n", (long long)r->n[TDN_CASE_PASSED],
           (long long)(r->n[TDN_CASE_FAILED] + unsupported));
}

static tdn_status write_json(report *r, tdn_error *error)
{
    tdn_json_end(&r->json, ']');
    tdn_json_int(&r->json, "passed", r->n[TDN_CASE_PASSED]);
    tdn_json_int(&r->json, "failed", r->n[TDN_CASE_FAILED]);
    tdn_json_int(&r->json, "unsupported", r->n[TDN_CASE_UNSUPPORTED]);
    tdn_json_end(&r->json, '}');
    char *text = tdn_text_take(&r->json);
    if (!text)
        return tdn_fail_nomem(error, "the JSON text");
    const tdn_status status =
        r->args->json ? tdn_file_write(r->args->json, text, strlen(text), error) : TDN_OK;
    tdn_text_free(text);
    return status;
}

/* ---- The command ----------------------------------------------------------------------------- */

static tdn_status run_cases(report *r, const paths *cases, tdn_error *error)
{
    tdn_build_options build = TDN_BUILD_OPTIONS_INIT;
    tdn_pool_options pool = TDN_POOL_OPTIONS_INIT;
    build.optimization_level = (int32_t)r->args->level;
    build.n_threads = pool.n_threads = (int32_t)r->args->threads;
    tdn_case_options options = {.tolerance = {r->args->atol, r->args->rtol}, .build = &build};
    TDN_TRY(tdn_pool_create(&options.pool, &pool, error));
    for (int i = 0; i < cases->n; i++) {
        tdn_error why = {""};
        const tdn_verdict verdict = tdn_case_run(cases->items[i], &options, &why);
        report_case(r, cases->items[i], verdict, why.text);
        tdn_term_bar(&r->term, "running", (double)(i + 1) / cases->n);
    }
    tdn_term_clear(&r->term);
    tdn_pool_free(options.pool);
    return TDN_OK;
}

static tdn_status conform(const tdn_operands *operands, const conform_args *args, int *code,
                          tdn_error *error)
{
    report r = {.args = args, .term = tdn_term_of(stderr), .out = tdn_term_of(stdout)};
    paths cases = {NULL, 0};
    tdn_json_begin(&r.json, NULL, '{');
    tdn_json_string(&r.json, "tendon", tdn_version());
    tdn_json_begin(&r.json, "cases", '[');
    tdn_status status = find_all(&cases, operands, error);
    if (status == TDN_OK)
        status = run_cases(&r, &cases, error);
    if (status == TDN_OK)
        status = write_json(&r, error);
    if (status == TDN_OK)
        print_summary(&r);
    *code = r.n[TDN_CASE_FAILED] + r.n[TDN_CASE_UNSUPPORTED] ? TDN_EXIT_FAILED : TDN_EXIT_DONE;
    tdn_text_discard(&r.json);
    free_paths(&cases);
    return status;
}

int tdn_cmd_conform(int argc, char **argv)
{
    conform_args args = {.rtol = 1e-3, .atol = 1e-7, .level = 3, .threads = 1};
    tdn_opt_set set = {conform_opts, sizeof conform_opts / sizeof conform_opts[0], &args};
    tdn_operands operands;
    tdn_error error = {""};
    int code;
    if (tdn_cmd_begin(&usage, &set, 1, argc, argv, &operands, &code)) {
        const tdn_status status = conform(&operands, &args, &code, &error);
        if (status != TDN_OK)
            code = tdn_cmd_end(status, &error);
    }
    tdn_opts_free(&set, 1, &operands);
    return code;
}
