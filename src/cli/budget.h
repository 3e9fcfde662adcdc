/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --accuracy-budget: what 8 bits may cost, as the command line says it, and what was chosen for it.
 * The samples are those of --calib-data; where they have labels and the budget is a percentage,
 * decisions count.
 */
#ifndef TDN_CLI_BUDGET_H
#define TDN_CLI_BUDGET_H

#include "cli/compile.h"
#include "tendon/budget.h"

/* Does the text say a budget ("1%", "0.05"), and do the other arguments go with it? text NULL: none
 * is asked for. TDN_E_ARG. */
tdn_status tdn_budget_check(const char *text, const tdn_compile_args *args, tdn_error *error);
/*
 * Chooses, and prints what was found. `build` has the calibration, and takes the choice: precisions
 * of layers, and words for the plan. *budget is the caller's and must outlive the build.
 */
tdn_status tdn_budget_prepare(tdn_budget **budget, const char *text, const tdn_compile_args *args,
                              tdn_model *model, tdn_build_options *build, tdn_term *term,
                              tdn_error *error);
/* Writes the choice as JSON. */
tdn_status tdn_budget_write(const tdn_budget *budget, const char *path, tdn_error *error);

#endif
