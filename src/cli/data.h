/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a model or an engine takes and gives, in words; and whether the arrays of a file are that.
 * What does not fit is refused with the list of what would: nothing is converted, and no array is
 * left unread without a word.
 */
#ifndef TDN_CLI_DATA_H
#define TDN_CLI_DATA_H

#include "base/memory.h"
#include "cli/npz.h"
#include "tendon/build.h"

/* What an engine's program or a model takes and gives. Of a model: dims -1 where symbolic, rank -1
 * where unknown. */
typedef struct tdn_ports {
    const tdn_io_info *inputs, *outputs;
    int n_inputs, n_outputs;
} tdn_ports;

tdn_status tdn_ports_of_engine(tdn_ports *ports, const tdn_engine *engine, int program,
                               tdn_arena *arena, tdn_error *error);
/* Without those that are states. */
tdn_status tdn_ports_of_model(tdn_ports *ports, const tdn_model *model,
                              const tdn_state_spec *states, int n_states, tdn_arena *arena,
                              tdn_error *error);
/* Programs to choose from, smallest first. */
typedef struct tdn_programs {
    const tdn_ports *items;
    int n;
} tdn_programs;
tdn_status tdn_programs_of_engine(tdn_programs *programs, const tdn_engine *engine,
                                  tdn_arena *arena, tdn_error *error);
/* "1x200x8", "1..8x3", "scalar", "batchx3" without its name, "?" for what is unknown. */
const char *tdn_dims_text(const tdn_io_info *info, char *text, size_t size);
const char *tdn_tensor_text(const tdn_tensor *tensor, char *text, size_t size);
/* "emg float32 1x200x8, state float32 1x64". */
const char *tdn_ports_text(const tdn_io_info *infos, int n, char *text, size_t size);
/* "[3, 0, 17]": the place of row-major element `index`. */
const char *tdn_place_text(const tdn_tensor *tensor, int64_t index, char *text, size_t size);

/* Arrays and the file they came from. */
typedef struct tdn_arrays {
    tdn_npz npz;
    const char *path; /* NULL: no file was given */
} tdn_arrays;

/*
 * Is there an array for each input, of its type and rank, and none that is no input, output, outN
 * or label? Unless allow_nan, is none of the inputs' numbers a NaN? The array of a .npy file takes
 * the name of the only input. Returns   TDN_OK; TDN_E_FORMAT with words that list what is expected;
 * TDN_E_NOMEM.
 */
tdn_status tdn_arrays_check(tdn_arrays *arrays, const tdn_ports *ports, bool allow_nan,
                            tdn_error *error);
/* The shapes that a model with symbolic dims takes for these (checked) arrays;
 * concrete dims stay. */
tdn_status tdn_arrays_shapes(const tdn_arrays *arrays, const tdn_ports *model, tdn_arena *arena,
                             tdn_shape_set *set, tdn_error *error);
/* The expected value of an output: by its name, or "out0" by position. NULL: there is none. */
const tdn_array *tdn_arrays_expected(const tdn_arrays *arrays, const tdn_ports *ports, int output);

#endif
