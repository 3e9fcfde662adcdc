/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a model is compiled: the options that `build` and every command that takes a MODEL.onnx
 * share, and what becomes of them: the compiler's own options.
 */
#ifndef TDN_CLI_COMPILE_H
#define TDN_CLI_COMPILE_H

#include "base/memory.h"
#include "cli/cores.h"
#include "cli/opts.h"
#include "cli/term.h"
#include "tendon/build.h"

/* As given on the command line. */
typedef struct tdn_compile_args {
    const char *precision;
    int64_t level, default_level; /* -1: not given, the default counts */
    int64_t threads;
    double workspace;                 /* GiB, 0: no limit */
    double max_weights, build_budget; /* 0: the compiler's default */
    const char *timing_cache;
    tdn_opt_list targets, shapes, min_shapes, opt_shapes, max_shapes, states, layer_precisions;
    const char *dump;
    const char *operators; /* a shared library of the user's own */
    const char *cores;     /* "0,1" */
    bool verbose;
    const char *calib_data, *calib_method, *calib; /* of builds in 8 bits; NULL: not given */
    bool calib_random;                             /* without these: on seeded values */
} tdn_compile_args;
#define TDN_COMPILE_ARGS_INIT                                                                      \
    {                                                                                              \
        .precision = "fp32", .level = -1, .default_level = 3                                       \
    }

static inline int64_t tdn_compile_level(const tdn_compile_args *args)
{
    return args->level < 0 ? args->default_level : args->level;
}

/* All rows, for `build`; and those of commands that compile in passing. */
extern const tdn_opt tdn_compile_opts[], tdn_compile_few_opts[];
extern const int tdn_n_compile_opts, tdn_n_compile_few_opts;

/* "name:1x3x8,other:4": names may be in single quotes, "name:" and "name:scalar" are scalars. Lives
 * in `arena`. */
tdn_status tdn_shapes_parse(const char *text, tdn_arena *arena, tdn_shape_set *set,
                            tdn_error *error);
/* "in:out", where either name may have colons: the model knows which. */
tdn_status tdn_state_parse(const char *text, const tdn_model *model, tdn_arena *arena,
                           tdn_state_spec *state, tdn_error *error);
/* "conv1:fp32,'a:b':int8,block?_*:fp32", each item of the list: into the options. */
tdn_status tdn_layers_parse(const tdn_opt_list *list, tdn_arena *arena, tdn_build_options *options,
                            tdn_error *error);
/* Fills the compiler's options, which live in `arena`. The log goes to `log`. With --cores the
 * thread is then kept to them. */
tdn_status tdn_compile_prepare(const tdn_compile_args *args, const tdn_model *model,
                               tdn_arena *arena, tdn_term *log, tdn_build_options *options,
                               tdn_error *error);

/* Where the library's lines go: warnings always, the rest when verbose. `user`
 * is a tdn_log_sink. */
typedef struct tdn_log_sink {
    tdn_term *term;
    bool verbose;
} tdn_log_sink;
tdn_log_fn tdn_log_line;

#endif
