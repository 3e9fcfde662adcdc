/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of `tendon trtexec` share. The command speaks the flags, the log and the JSON of
 * NVIDIA's trtexec, so that scripts around it go on working; what is measured and written is
 * Tendon's. Exit codes are trtexec's too: 0 passed, 1 failed.
 */
#ifndef TDN_CLI_TRTEXEC_H
#define TDN_CLI_TRTEXEC_H

#include "cli/measure.h"

/* ---- Flags (trtexec_flags.c) ----------------------------------------------------------------- */

/* As given. Texts are NULL where the flag was not. */
typedef struct tdn_trtexec_args {
    const char *onnx, *save_engine, *load_engine;
    const char *shapes, *min_shapes, *opt_shapes, *max_shapes, *load_inputs;
    const char *memory_pools, *percentiles, *verbosity, *timing_cache, *cores, *calib;
    const char *layer_precisions;
    const char *export_times, *export_output, *export_profile, *export_layers;
    int64_t level, iterations, average_runs, n_threads;
    double workspace_mib, warm_up_ms, duration_s, sleep_ms, idle_ms;
    bool fp16, int8, spin_wait, no_spin_wait;
    bool skip_inference, version_only, verbose;
    bool dump_output, dump_profile, dump_layers;
} tdn_trtexec_args;
#define TDN_TRTEXEC_ARGS_INIT                                                                      \
    {                                                                                              \
        .percentiles = "90,95,99", .verbosity = "layer_names_only", .level = 3, .iterations = 10,  \
        .average_runs = 10, .warm_up_ms = 200, .duration_s = 3                                     \
    }

/*
 * Reads the flags. Those that mean nothing on a CPU are said so, one line each. Returns   TDN_OK;
 * TDN_E_ARG for an unknown flag (with the nearest), and for one that asks for what Tendon does not
 * do (with what to do instead); TDN_E_NOMEM.
 */
tdn_status tdn_trtexec_parse(tdn_trtexec_args *args, int argc, char **argv, tdn_error *error);
void tdn_trtexec_help_short(FILE *out); /* a screen */
void tdn_trtexec_help(FILE *out);

/* ---- Log (trtexec_log.c) --------------------------------------------------------------------- */

/* "[11/21/2026-15:04:05] [I] " before the rest of a line; 'W' and 'E' go to stderr, all else to
 * stdout. Returns where. */
FILE *tdn_trtexec_prefix(char severity);
/* A line of the log; a text of several lines has the prefix on each. */
__attribute__((format(printf, 2, 3))) void tdn_trtexec_say(char severity, const char *format, ...);
/* "&&&& RUNNING TensorRT.trtexec [Tendon v0.1.0] # trtexec --onnx=m.onnx" */
void tdn_trtexec_mark(const char *what, int argc, char **argv);
/* Where the library's lines go. */
tdn_log_fn tdn_trtexec_library_line;

/* ---- What goes in (trtexec_inputs.c) --------------------------------------------------------- */

/* "*:1x3" with the names of the inputs that fit in place of names with a '*'; other text as it
 * is. NULL stays NULL. Lives in `arena`. */
tdn_status tdn_trtexec_expand(const char **text, const tdn_io_info *inputs, int n_inputs,
                              tdn_arena *arena, tdn_error *error);
/* One call of seeded values, and of --loadInputs' files. shapes NULL: the smallest program's. */
tdn_status tdn_trtexec_feed(tdn_feed *feed, const tdn_session *session, const char *shapes,
                            const char *load_inputs, tdn_error *error);
/* Can the files of --loadInputs be read? */
tdn_status tdn_trtexec_check_inputs(const char *load_inputs, tdn_error *error);

/* ---- What comes out -------------------------------------------------------------------------- */

enum { TDN_TRTEXEC_MAX_PERCENTS = 16 };

/* All that is known at the end. */
typedef struct tdn_trtexec_results {
    const tdn_trtexec_args *args;
    const tdn_session *session;
    const tdn_feed *feed;
    const tdn_measurement *m;
    double percents[TDN_TRTEXEC_MAX_PERCENTS];
    int n_percents;
    tdn_profile profile; /* n_calls 0: there is none */
} tdn_trtexec_results;

/* trtexec_report.c: "90,95,99" */
tdn_status tdn_trtexec_percents(tdn_trtexec_results *r, const char *text, tdn_error *error);
void tdn_trtexec_print_options(const tdn_trtexec_args *args, double workspace_gib);
tdn_status tdn_trtexec_print_times(const tdn_trtexec_results *r, tdn_error *error);
void tdn_trtexec_print_profile(const tdn_profile *profile);
void tdn_trtexec_print_outputs(const tdn_session *session);

/* trtexec_json.c: each writes a file, whole or not at all. */
tdn_status tdn_trtexec_write_times(const tdn_measurement *m, const char *path, tdn_error *error);
tdn_status tdn_trtexec_write_outputs(const tdn_session *session, const char *path,
                                     tdn_error *error);
tdn_status tdn_trtexec_write_profile(const tdn_profile *profile, const char *path,
                                     tdn_error *error);

/* The name of layer `index`: that of its step, with " [2]" and so on where earlier ones have it,
 * too: tools join layers and profiles by their names. `name` gives the step's. Lives in `text`. */
typedef const char *tdn_trtexec_name_fn(const void *steps, int index);
const char *tdn_trtexec_layer_name(tdn_trtexec_name_fn *name, const void *steps, int index,
                                   char *text, size_t size);
/* The same over a profile. */
const char *tdn_trtexec_profile_name(const tdn_profile *profile, int index, char *text,
                                     size_t size);

/* trtexec_layers.c: the steps of the program that the feed takes, from a plan's description (which
 * tdn_plan_describe made). `path` NULL: no file; `print`: to the log, too. */
tdn_status tdn_trtexec_layers(const char *description, const char *target, int program,
                              const char *verbosity, bool print, const char *path,
                              tdn_error *error);

#endif
