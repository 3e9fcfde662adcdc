/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which of a family's ways makes a step. Lowering first walks the graph to collect, for each step
 * of a family with variants, the candidates with their sizes and costs (nothing is packed); then
 * the choice is made for all programs of a build at once, since weights are shared between them and
 * bounded together; then lowering walks again and makes what was chosen.
 *
 *     tdn_lower_collect, once a program and target      candidates.c
 *     tdn_tune (tune.h), where times are wanted         tune.c
 *     tdn_choices_decide                                choose.c
 *     tdn_lower, once a program and target              lower.c
 *
 * Both walks see the same steps in the same order: what a variant decides is inside its step.
 */
#ifndef TDN_LOWER_CHOOSE_H
#define TDN_LOWER_CHOOSE_H

#include "backend/backend.h"

/* One way to make a step. */
typedef struct tdn_candidate {
    int32_t variant;
    bool refused; /* not to be chosen: it could not be run, or its result was not good enough.
                     Variant 0 never is */
    int32_t packed_input;
    const tdn_kernel *kernel;
    const void *args;
    size_t args_size;
    size_t packed_size;
    int64_t cost; /* estimated, as the family says */
    int64_t ns;   /* measured; 0: not */
    double time; /* ns that the choice goes by: measured, or the cost on the measured ones' scale */
} tdn_candidate;

/* A step and its candidates, variant 0 first. No candidates: the family does not take the step. */
typedef struct tdn_choice {
    const char *name; /* the step's */
    const tdn_family *family;
    tdn_candidate *candidates;
    int32_t n_candidates;
    int32_t chosen; /* index of a candidate */
    int32_t target; /* the build's number of it */
    int32_t n_in, n_out;
    const tdn_view *views; /* inputs, extras, outputs; data only of constants */
    bool is_sparse;        /* the group is */
    uint64_t weights;      /* which values variant 0 packs; 0: none */
    bool timed;            /* all candidates that are not refused have a time */
} tdn_choice;

/* A blob that the plan holds, with variant 0 everywhere. */
typedef struct tdn_choice_blob {
    uint64_t id;
    size_t size;
    int32_t target;
} tdn_choice_blob;

typedef struct tdn_choices {
    tdn_arena *arena;
    tdn_choice *items; /* in the order of the walks */
    tdn_choice_blob *blobs;
    uint32_t n, capacity, n_blobs, blobs_capacity;
    uint32_t n_united; /* the first blobs are sorted, each there once */
} tdn_choices;

/* Collects the step of this group. *made is variant 0, dry. As the family's make; of variants other
 * than 0 TDN_E_UNSUPPORTED is no failure. */
tdn_status tdn_choices_add(tdn_choices *choices, tdn_made *made, const tdn_family *family,
                           const tdn_group *group, uint64_t isa, int32_t target, const char *name,
                           tdn_error *error);
/* Counts a blob of the plan with variant 0 everywhere. False: out of memory. */
bool tdn_choices_add_blob(tdn_choices *choices, int32_t target, uint64_t id, size_t size);
/* Names a blob by what is packed into it: a sample of the values, so two blobs may rarely take each
 * other's name, which only miscounts bytes. */
uint64_t tdn_blob_name(const tdn_view *weights, const tdn_kernel *kernel, size_t packed_size);

/*
 * Chooses for all steps: by times where a step is timed, by costs elsewhere. It begins with variant
 * 0, or with fewer bytes where that is no slower. From there a target's weights may grow to
 * `max_ratio` times their bytes, which are spent where a byte saves most time. The same candidates,
 * times and ratio give the same choices.
 */
tdn_status tdn_choices_decide(tdn_choices *choices, double max_ratio, tdn_error *error);
/* Bytes of a target's weights with variant 0 everywhere. */
size_t tdn_choices_plain_size(tdn_choices *choices, int32_t target);

#endif
