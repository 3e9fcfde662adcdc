/* SPDX-License-Identifier: Apache-2.0 */
/* tendon run: arrays in, arrays out. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/view.h"
#include "cli/cmd.h"
#include "cli/session.h"

typedef struct run_args {
    tdn_compile_args compile;
    const char *inputs, *outputs;
    bool allow_nan, reset_each;
    int64_t spin;
} run_args;

#define AT(field) offsetof(run_args, field)
static const tdn_opt run_opts[] = {
    {"inputs", 'i', TDN_OPT_TEXT, AT(inputs), "FILE.npz", "arrays by the names of the inputs", 0,
     0},
    {"outputs", 'o', TDN_OPT_TEXT, AT(outputs), "FILE.npz", "where the outputs go (else: printed)",
     0, 0},
    {"allow-nan", 0, TDN_OPT_FLAG, AT(allow_nan), NULL, "let NaN in the inputs pass", 0, 0},
    {"reset-each", 0, TDN_OPT_FLAG, AT(reset_each), NULL, "set states back before each sample", 0,
     0},
    {"spin", 0, TDN_OPT_INT, AT(spin), "US", "idle threads spin so long, then sleep (100)", 0, 1e9},
};

static const tdn_usage usage = {
    .synopsis = "run PLAN|MODEL.onnx --inputs=IN.npz [--outputs=OUT.npz] [options]",
    .about = "Runs on the arrays of an .npz file. An array whose leading dimension is a\n"
             "multiple of the input's is that many samples, run in turn; outputs are stacked.\n"
             "A model is compiled in memory, symbolic dimensions as the arrays have them.",
    .example = "tendon run emg.plan --inputs=windows.npz --outputs=logits.npz",
    .n_operands_min = 1,
    .n_operands_max = 1,
};

/* All outputs of all calls. */
static tdn_status run_all(tdn_session *s, const tdn_feed *feed, const run_args *args,
                          tdn_stack *stacks, tdn_term *term, tdn_error *error)
{
    for (int64_t call = 0; call < feed->n_calls; call++) {
        TDN_TRY(tdn_session_bind(s, feed, call, error));
        if (args->reset_each)
            tdn_context_reset(s->context);
        TDN_TRY(tdn_session_run(s, error));
        for (int i = 0; i < s->n_outputs; i++)
            TDN_TRY(tdn_stack_add(&stacks[i], &s->outputs[i].tensor, s->outputs[i].name, error));
        tdn_term_bar(term, "running", (double)(call + 1) / (double)feed->n_calls);
    }
    tdn_term_clear(term);
    return TDN_OK;
}

/* "logits float32 1x8: 0.5 -1.2 ...", at most 16 elements. */
static void print_output(const char *name, const tdn_tensor *t)
{
    char dims[128];
    int64_t n = 0;
    tdn_dims_count(t->dims, t->rank, &n);
    tdn_view view = tdn_view_make(t->data, t->dtype, 1, &n);
    printf("%s %s %s:", name, tdn_dtype_name(t->dtype), tdn_tensor_text(t, dims, sizeof dims));
    for (int64_t i = 0; i < n && i < 16; i++)
        printf(" %.6g", tdn_view_get(&view, i));
    printf("%s\n", n > 16 ? " ..." : "");
}

static tdn_status write_outputs(const tdn_session *s, const tdn_stack *stacks, const char *path,
                                tdn_error *error)
{
    const char **names = tdn_arena_alloc(s->arena, (size_t)s->n_outputs + 1, sizeof *names);
    tdn_tensor *tensors = tdn_arena_alloc(s->arena, (size_t)s->n_outputs + 1, sizeof *tensors);
    if (!names || !tensors)
        return tdn_fail_nomem(error, "the outputs");
    for (int i = 0; i < s->n_outputs; i++) {
        names[i] = s->outputs[i].name;
        tensors[i] = stacks[i].tensor;
    }
    return tdn_npz_write(path, names, tensors, s->n_outputs, error);
}

static tdn_status report(const tdn_session *s, const tdn_feed *feed, const tdn_stack *stacks,
                         const run_args *args, double seconds, tdn_error *error)
{
    if (!args->outputs) {
        for (int i = 0; i < s->n_outputs; i++)
            print_output(s->outputs[i].name, &stacks[i].tensor);
        return TDN_OK;
    }
    TDN_TRY(write_outputs(s, stacks, args->outputs, error));
    printf("%lld %s in %.3g s; wrote", (long long)feed->n_calls,
           feed->n_calls == 1 ? "call" : "calls", seconds);
    for (int i = 0; i < s->n_outputs; i++) {
        char dims[128];
        printf("%s %s %s", i ? "," : "", s->outputs[i].name,
               tdn_tensor_text(&stacks[i].tensor, dims, sizeof dims));
    }
    printf(" to %s\n", args->outputs);
    return TDN_OK;
}

static tdn_status run_session(tdn_session *s, const char *path, const run_args *args,
                              tdn_arrays *arrays, tdn_error *error)
{
    tdn_term term = tdn_term_of(stderr);
    tdn_session_options options = {.compile = &args->compile,
                                   .arrays = arrays,
                                   .allow_nan = args->allow_nan,
                                   .spin_us = (int)args->spin,
                                   .log = &term};
    TDN_TRY(tdn_session_open(s, path, &options, error));
    tdn_feed feed;
    TDN_TRY(tdn_session_feed(s, &feed, &options, 1, 0, error));
    tdn_stack *stacks = tdn_arena_alloc(s->arena, (size_t)s->n_outputs + 1, sizeof *stacks);
    if (!stacks)
        return tdn_fail_nomem(error, "the outputs");
    TDN_TRY(tdn_session_pin(s, error));
    uint64_t begin = tdn_now_ns();
    tdn_status status = run_all(s, &feed, args, stacks, &term, error);
    double seconds = (double)(tdn_now_ns() - begin) * 1e-9;
    if (status == TDN_OK)
        status = report(s, &feed, stacks, args, seconds, error);
    for (int i = 0; i < s->n_outputs; i++)
        tdn_stack_free(&stacks[i]);
    return status;
}

static tdn_status run_file(const char *path, const run_args *args, tdn_error *error)
{
    tdn_arrays arrays = {.path = args->inputs};
    if (args->outputs)
        TDN_TRY(tdn_cmd_check_output(args->outputs, path, error));
    if (args->outputs && args->inputs)
        TDN_TRY(tdn_cmd_check_output(args->outputs, args->inputs, error));
    if (args->inputs)
        TDN_TRY(tdn_npz_read(&arrays.npz, args->inputs, error));
    tdn_session session;
    tdn_status status = run_session(&session, path, args, &arrays, error);
    tdn_session_close(&session);
    tdn_npz_free(&arrays.npz);
    return status;
}

int tdn_cmd_run(int argc, char **argv)
{
    run_args args = {.compile = TDN_COMPILE_ARGS_INIT, .spin = -1};
    args.compile.default_level = 0; /* not tuned for one run: the same bits each time */
    tdn_opt_set sets[] = {{run_opts, sizeof run_opts / sizeof run_opts[0], &args},
                          {tdn_compile_few_opts, tdn_n_compile_few_opts, &args.compile}};
    tdn_operands operands;
    tdn_error error = {""};
    int code;
    if (tdn_cmd_begin(&usage, sets, 2, argc, argv, &operands, &code))
        code = tdn_cmd_end(run_file(operands.items[0], &args, &error), &error);
    tdn_opts_free(sets, 2, &operands);
    return code;
}
