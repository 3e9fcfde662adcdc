/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An engine ready to be called, from a plan or from a model that is compiled in memory: what `run`,
 * `bench` and `validate` begin with. Everything is owned by the session and ends with it.
 */
#ifndef TDN_CLI_SESSION_H
#define TDN_CLI_SESSION_H

#include "cli/compile.h"
#include "cli/feed.h"

typedef struct tdn_session_output {
    const char *name;  /* the engine's */
    tdn_tensor tensor; /* of the last call; data belongs to the session */
    size_t capacity;
    bool bounded; /* the run decides about the dims */
} tdn_session_output;

typedef struct tdn_session {
    tdn_arena *arena;
    tdn_model *model; /* NULL: the file was a plan */
    void *plan;       /* NULL: it came from a file */
    size_t plan_size;
    tdn_engine *engine;
    tdn_pool *pool;
    tdn_context *context;
    tdn_session_output *outputs;
    int n_outputs;
    double build_s, load_s; /* compiling, loading the engine */
    tdn_cores cores;        /* of --cores */
} tdn_session;

typedef struct tdn_session_options {
    const tdn_compile_args
        *compile;       /* how, if it is a model; its threads and verbosity hold for plans, too */
    tdn_arrays *arrays; /* NULL: none. Checked, and the shapes of a model with symbolic dims */
    bool allow_nan;
    int spin_us; /* -1: the default */
    tdn_term *log;
} tdn_session_options;

/* Does the file begin as a plan does? Anything else is taken for a model. TDN_E_IO. */
tdn_status tdn_file_is_plan(const char *path, bool *is_plan, tdn_error *error);
/* Loads a model with the library's lines going to `sink`, which must outlive it; words for what is
 * no model.
 */
tdn_status tdn_session_load_model(tdn_model **model, const char *path, const char *operators,
                                  tdn_log_sink *sink, tdn_error *error);

/* Appends the file's name to an error that does not name it yet. Returns status. */
tdn_status tdn_session_name_file(tdn_status status, const char *path, tdn_error *error);

/*
 * Opens a plan or model; after a failure, too, tdn_session_close releases all. Plans do not take
 * options that only compiling uses: they are an error rather than ignored.
 */
tdn_status tdn_session_open(tdn_session *session, const char *path,
                            const tdn_session_options *options, tdn_error *error);
/* The same with a model that is loaded already and stays the caller's; plan_path NULL: it is
 * compiled. */
tdn_status tdn_session_open_model(tdn_session *session, tdn_model *model, const char *model_path,
                                  const char *plan_path, const tdn_session_options *options,
                                  tdn_error *error);
void tdn_session_close(tdn_session *session);

/* The arrays' calls; or, where there are none, n_calls of seeded values, in the first shapes that
 * --shapes gives. */
tdn_status tdn_session_feed(tdn_session *session, tdn_feed *feed,
                            const tdn_session_options *options, int64_t n_calls, uint64_t seed,
                            tdn_error *error);
/* Moves this thread to the first of the cores given, where the pool has no worker: before calls
 * that are to be fast. Threads started later would be there, too. */
tdn_status tdn_session_pin(const tdn_session *session, tdn_error *error);
/* Makes a new context over the engine, e.g. one that profiles. The old one is freed. */
tdn_status tdn_session_new_context(tdn_session *session, bool profile, tdn_error *error);
/* Binds call `call` of the feed and outputs of the right size. */
tdn_status tdn_session_bind(tdn_session *session, const tdn_feed *feed, int64_t call,
                            tdn_error *error);
/* Runs what is bound; the outputs' dims are then what the run made them. */
tdn_status tdn_session_run(tdn_session *session, tdn_error *error);

#endif
