/* SPDX-License-Identifier: Apache-2.0 */
/* Budgets from words, labels from arrays, and the report as a table and as JSON. */
#include "cli/budget.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "base/view.h"
#include "cli/calib.h"

enum { MOST_ROWS = 12 };

/* ---- The words ------------------------------------------------------------------------------- */

static tdn_status parse(const char *text, tdn_budget_options *o, tdn_error *error)
{
    char *end;
    o->budget = strtod(text, &end);
    const bool is_percent = end > text && strcmp(end, "%") == 0;
    if (end == text || (*end && !is_percent) || !(o->budget >= 0 && isfinite(o->budget)))
        return tdn_fail(error, TDN_E_ARG,
                        "--accuracy-budget=%s: expected a percentage, as 1%%, or a mean difference "
                        "of outputs, as 0.05",
                        text);
    o->measure = is_percent ? TDN_BUDGET_RELATIVE : TDN_BUDGET_ABSOLUTE;
    o->budget /= is_percent ? 100 : 1;
    return TDN_OK;
}

tdn_status tdn_budget_check(const char *text, const tdn_compile_args *args, tdn_error *error)
{
    tdn_budget_options o;
    if (!text)
        return TDN_OK;
    TDN_TRY(parse(text, &o, error));
    if (strcmp(args->precision, "int8") != 0)
        return tdn_fail(error, TDN_E_ARG, "--accuracy-budget is for --precision=int8");
    if (!args->calib_data)
        return tdn_fail(error, TDN_E_ARG,
                        "--accuracy-budget needs samples to measure on: add --calib-data=FILE.npz");
    return TDN_OK;
}

/* ---- Labels ---------------------------------------------------------------------------------- */

/* Of a percentage; without labels outputs are compared. */
static tdn_status use_labels(tdn_budget_options *o, const tdn_samples *s, tdn_error *error)
{
    const tdn_array *array = tdn_npz_find(&s->arrays.npz, "label");
    int64_t n;
    if (!array || o->measure != TDN_BUDGET_RELATIVE)
        return TDN_OK;
    if (array->why || !tdn_dims_count(array->tensor.dims, array->tensor.rank, &n))
        return tdn_fail(error, TDN_E_FORMAT, "%s: 'label' has type %s", s->arrays.path,
                        array->descr);
    int64_t *labels = tdn_arena_alloc(s->arena, (size_t)n + 1, sizeof *labels);
    if (!labels)
        return tdn_fail_nomem(error, "the labels");
    const tdn_view v = tdn_view_make(array->tensor.data, array->tensor.dtype, 1, &n);
    for (int64_t i = 0; i < n; i++)
        labels[i] = tdn_view_get_int(&v, i);
    o->measure = TDN_BUDGET_ACCURACY;
    o->labels = labels;
    o->n_labels = n;
    return TDN_OK;
}

/* ---- The table ------------------------------------------------------------------------------- */

static void print_products(const tdn_budget *budget, const tdn_budget_info *info)
{
    tdn_budget_product p = {.struct_size = sizeof p};
    if (tdn_budget_product_at(budget, 0, &p) != TDN_OK || isnan(p.sqnr))
        return; /* all in 8 bits held */
    printf("  %9s %8s             alone in int8\n", "SQNR dB", "work");
    for (int i = 0; i < MOST_ROWS && tdn_budget_product_at(budget, i, &p) == TDN_OK; i++)
        printf("  %9.1f %6.1f %%  %-9s  %s\n", p.sqnr, 100 * p.work,
               p.precision == TDN_PRECISION_INT8 ? "" : tdn_precision_name(p.precision), p.name);
    if (info->n_products > MOST_ROWS)
        printf("  ... and %d more: --json=FILE has all\n", info->n_products - MOST_ROWS);
}

/* Halves that this machine, which measures, and all targets multiply. */
static tdn_precision kept_precision(const tdn_build_options *build)
{
    static const tdn_precision halves[] = {TDN_PRECISION_FP16, TDN_PRECISION_BF16};
    for (size_t i = 0; i < sizeof halves / sizeof *halves; i++) {
        bool all = tdn_target_multiplies("native", halves[i]);
        for (int k = 0; k < (int)build->n_targets; k++)
            all = all && tdn_target_multiplies(build->targets[k], halves[i]);
        if (all)
            return halves[i];
    }
    return TDN_PRECISION_FP32;
}

static tdn_status choose(tdn_budget **budget, tdn_budget_options *options, tdn_samples *s,
                         const tdn_compile_args *args, tdn_model *model, tdn_build_options *build,
                         tdn_term *term, tdn_error *error)
{
    tdn_calibrate_options samples;
    TDN_TRY(tdn_samples_open(s, args->calib_data, model, build, error));
    TDN_TRY(tdn_calib_options(&samples, s, args, build, term, error));
    TDN_TRY(use_labels(options, s, error));
    options->kept = kept_precision(build);
    options->layer_precisions = build->layer_precisions;
    options->n_layer_precisions = build->n_layer_precisions;
    const tdn_status status =
        tdn_budget_choose(budget, model, build->calibration, &samples, options, error);
    tdn_term_clear(term);
    return status;
}

tdn_status tdn_budget_prepare(tdn_budget **budget, const char *text, const tdn_compile_args *args,
                              tdn_model *model, tdn_build_options *build, tdn_term *term,
                              tdn_error *error)
{
    tdn_budget_options options = TDN_BUDGET_OPTIONS_INIT;
    tdn_budget_info info = {.struct_size = sizeof info};
    tdn_samples s;
    TDN_TRY(parse(text, &options, error));
    const tdn_status status = choose(budget, &options, &s, args, model, build, term, error);
    tdn_samples_close(&s);
    TDN_TRY(status);
    TDN_TRY(tdn_budget_get_info(*budget, &info));
    print_products(*budget, &info);
    printf("Accuracy: %s\n", info.text);
    build->layer_precisions = tdn_budget_layers(*budget, &build->n_layer_precisions);
    build->accuracy = info.text;
    return TDN_OK;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static const char *const measures[] = {[TDN_BUDGET_RELATIVE] = "relative RMS error",
                                       [TDN_BUDGET_ABSOLUTE] = "mean absolute error",
                                       [TDN_BUDGET_ACCURACY] = "share of right decisions lost"};

static void put_product(tdn_text *t, const tdn_budget_product *p)
{
    tdn_json_begin(t, NULL, '{');
    tdn_json_string(t, "name", p->name);
    tdn_json_double(t, "work", p->work);
    tdn_json_double(t, "sqnr_db", p->sqnr);
    tdn_json_string(t, "precision", tdn_precision_name(p->precision));
    tdn_json_bool(t, "forced", p->is_forced);
    tdn_json_end(t, '}');
}

tdn_status tdn_budget_write(const tdn_budget *budget, const char *path, tdn_error *error)
{
    tdn_budget_info info = {.struct_size = sizeof info};
    tdn_budget_product p = {.struct_size = sizeof p};
    tdn_text t = {0};
    TDN_TRY(tdn_budget_get_info(budget, &info));
    tdn_json_begin(&t, NULL, '{');
    tdn_json_string(&t, "measure", measures[info.measure]);
    tdn_json_double(&t, "budget", info.budget);
    tdn_json_double(&t, "error", info.error);
    tdn_json_double(&t, "error_int8", info.error_int8);
    tdn_json_int(&t, "n_products", info.n_products);
    tdn_json_int(&t, "n_int8", info.n_int8);
    tdn_json_int(&t, "n_builds", info.n_builds);
    tdn_json_string(&t, "text", info.text);
    tdn_json_begin(&t, "products", '[');
    for (int i = 0; tdn_budget_product_at(budget, i, &p) == TDN_OK; i++)
        put_product(&t, &p);
    tdn_json_end(&t, ']');
    tdn_json_end(&t, '}');
    tdn_text_put(&t, "\n");
    const tdn_status status =
        t.failed ? tdn_fail_nomem(error, "the report") : tdn_file_write(path, t.data, t.n, error);
    tdn_text_discard(&t);
    return status;
}
