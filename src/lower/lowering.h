/* SPDX-License-Identifier: Apache-2.0 */
/* Inside lowering: storages, places and the list of steps. */
#ifndef TDN_LOWER_LOWERING_H
#define TDN_LOWER_LOWERING_H

#include "lower/lower.h"

/* A buffer to be. Lifetimes are in steps; a storage that no step touches is dropped at the end. */
typedef struct tdn_storage {
    tdn_buffer_class cls;
    uint32_t index;   /* input or output; STATE: UINT32_MAX */
    const void *data; /* WEIGHT */
    size_t size, offset;
    int64_t first, last; /* steps; first > last: unused */
    const char *name;
} tdn_storage;

/* Where elements are: a view without a pointer (data only of constants) from `offset` elements on
 * in a storage. */
typedef struct tdn_place {
    int32_t storage; /* -1: not placed yet, or an absent operand */
    int32_t arm;     /* of a copy: where it is made, so that it is there */
    int64_t offset;
    uint32_t bounded;
    tdn_view view;
} tdn_place;

/* What one of an Either's two values alone needs. Arm 0 is the whole program; an arm's number is
 * larger than that of the arm that its Either is in. */
typedef struct tdn_arm {
    const tdn_node *either;
    int32_t outer;
    struct tdn_arm_node *first; /* its nodes, in the graph's order */
} tdn_arm;
typedef struct tdn_arm_node {
    const tdn_node *node;
    struct tdn_arm_node *next;
} tdn_arm_node;

typedef struct tdn_lowering {
    const tdn_graph *g;
    const tdn_lower_options *options;
    tdn_arena *arena;
    tdn_blobs *blobs;
    tdn_choices *collect; /* the walk that collects; NULL: the one that makes */
    uint32_t n_chosen;    /* of options->choices, by the walk that makes */
    tdn_error *error;
    tdn_storage *storages;
    int32_t n_storages, storages_capacity;
    tdn_plan_step *steps;
    tdn_plan_value *values;
    uint32_t n_steps, steps_capacity, n_values, values_capacity;
    tdn_place *places; /* by value id */
    tdn_place
        *copies[2]; /* by value id: the value copied with its last axis, or axis 1, innermost */
    const tdn_node *
        *target; /* by value id: the concat, view or Either whose place the value is written into */
    const bool *binary; /* by value id: 0 or 1 everywhere, as far as is known */
    int32_t *row_axis;  /* by value id: the axis to lie innermost, in whole words of bytes, or -1 */
    int32_t *io_index;  /* by value id: its number among the program's outputs, or -1 */
    tdn_arm *arms;      /* two of each Either, behind arm 0 */
    int32_t n_arms;
    int32_t *arm_of;      /* by value id: the arm that it is read in */
    int32_t *first_arm;   /* by value id: of the Either that makes it */
    int32_t arm;          /* being lowered */
    const tdn_node *node; /* being lowered */
    const char *step_name;
} tdn_lowering;

/* ---- place.c: storages and places ------------------------------------------------------------ */

/* The natural order of axes, 0 outermost. */
void tdn_order_natural(int rank, int *order);
/* Axes of a place from the largest stride to the smallest: the order its elements lie in. */
void tdn_order_of(const tdn_place *place, int *order);
/* Axis 1 moved to the end. */
void tdn_order_channels_last(int rank, int *order);

tdn_status tdn_storage_add(tdn_lowering *l, tdn_buffer_class cls, uint32_t index, size_t size,
                           const char *name, int32_t *storage);
/* A dense place in a new arena storage, axes lying in `order`. */
tdn_status tdn_place_new(tdn_lowering *l, tdn_dtype dtype, int rank, const int64_t *dims,
                         const int *order, tdn_place *place);
/* Where a value that is read lies: constants get their storage here. */
tdn_status tdn_place_of(tdn_lowering *l, const tdn_value *v, tdn_place *place);
/* Where a value that is written is to lie: in the output it is, in the concatenation it is part of,
 * through the view that reads it, or in a storage of its own in `order`. */
tdn_status tdn_place_result(tdn_lowering *l, const tdn_value *v, const int *order,
                            tdn_place *place);
/* Finds which values are written straight into another's place. */
void tdn_place_targets(tdn_lowering *l);

/* Finds which values products of integers and of halves read, and along which axis. */
void tdn_place_rows(tdn_lowering *l);
/* The place of bytes v with `axis` contiguous and rows that can be read in words of four to the
 * last one's end; copied where it is not so. */
tdn_status tdn_place_words(tdn_lowering *l, const tdn_value *v, int axis, tdn_place *place);

/* Views of places. */
void tdn_place_permute(tdn_place *p, const int64_t *perm);
void tdn_place_slice(tdn_place *p, const int64_t *starts, const int64_t *steps,
                     const int64_t *dims);
/* False where no strides say it. */
bool tdn_place_reshape(tdn_place *p, int rank, const int64_t *dims);
bool tdn_place_broadcast(tdn_place *p, int rank, const int64_t *dims);

/* ---- steps.c: the list of steps -------------------------------------------------------------- */

/* Appends a step that a family made. `in`: the group's inputs then extras, in order. */
tdn_status tdn_step_made(tdn_lowering *l, const tdn_made *made, const tdn_place *in, int n_in,
                         const tdn_place *out, int n_out);
/* Makes the group with the family and appends it. TDN_E_UNSUPPORTED as the family says, with
 * nothing appended. */
tdn_status tdn_step_make(tdn_lowering *l, const char *family, const void *desc, const tdn_place *in,
                         int n_in, const tdn_place *extra, int n_extra, const tdn_place *out,
                         int n_out, const tdn_expr *expr);
/* A reference step for the node being lowered, or by name. */
tdn_status tdn_step_reference(tdn_lowering *l, const char *name, const tdn_attrs *attrs,
                              const tdn_expr *expr, const tdn_place *in, int n_in,
                              const tdn_place *out, int n_out);
tdn_status tdn_step_copy(tdn_lowering *l, const tdn_place *from, const tdn_place *to);
/* A map step of `expr` over in (broadcast here). */
tdn_status tdn_step_map(tdn_lowering *l, const tdn_expr *expr, const tdn_place *in, int n_in,
                        const tdn_place *out, int n_out);
/* Records that value v is in memory after the last step. */
tdn_status tdn_step_value(tdn_lowering *l, const tdn_value *v, const tdn_place *place);
/* Appends a branch by a flag, whose arms' lengths are set later. */
tdn_status tdn_step_branch(tdn_lowering *l, const tdn_place *flag);
/* Records that v is in memory after a branch at `step`, before which there were n_values. */
tdn_status tdn_step_value_after(tdn_lowering *l, const tdn_value *v, const tdn_place *place,
                                uint32_t step, uint32_t n_values);
/* The place with its elements copied so that `axis` (1, or the last) has stride 1; as it is where
 * that is so already.
 */
tdn_status tdn_place_unit(tdn_lowering *l, const tdn_value *v, int axis, tdn_place *place);

/* ---- groups.c: canonical forms, one function a core operator --------------------------------- */

tdn_status tdn_lower_node(tdn_lowering *l, const tdn_node *n);

bool tdn_lower_is_f32(const tdn_node *n);
/* The operator's reference, its epilogue as a map after it. */
tdn_status tdn_lower_reference(tdn_lowering *l, const tdn_node *n, const char *why);
/* A step made by a family (`status`), or the reference where it said TDN_E_UNSUPPORTED. `result` is
 * where the value is to be; where the kernel wrote to `out`, a copy follows. */
tdn_status tdn_lower_finish(tdn_lowering *l, const tdn_node *n, tdn_status status,
                            const tdn_place *out, const tdn_place *result);
/* The epilogue's operands, broadcast to the result's own axes. */
tdn_status tdn_lower_extras(tdn_lowering *l, const tdn_node *n, tdn_place *extra, int *n_extra);

/* (n, c, spatial...) seen as (n, d, h, w, c). */
void tdn_lower_channels_last(tdn_place *p);
/* The window of a convolution or pool, from its attributes. */
void tdn_lower_window(const tdn_node *n, int32_t stride[3], int32_t dilation[3], int32_t pad[3]);
/* Where a channels-last kernel writes: into the result if its channels have stride 1, else aside.
 */
tdn_status tdn_lower_channels_result(tdn_lowering *l, const tdn_node *n, tdn_place *out,
                                     tdn_place *result);
/* Puts axes of extent 1 in front until the rank is `rank`. */
void tdn_place_lead(tdn_place *p, int rank);

/* ---- narrow.c: products of integers and of halves -------------------------------------------- */

tdn_status tdn_lower_narrow_conv(tdn_lowering *l, const tdn_node *n);
tdn_status tdn_lower_narrow_matmul(tdn_lowering *l, const tdn_node *n);

/* ---- graphs.c: operators over the edges of a constant graph ---------------------------------- */

tdn_status tdn_lower_mix(tdn_lowering *l, const tdn_node *n);
tdn_status tdn_lower_graphconv(tdn_lowering *l, const tdn_node *n);

/* ---- arms.c: values of which one is computed ------------------------------------------------- */

/* Finds which nodes are in which arm. */
tdn_status tdn_arms_find(tdn_lowering *l);
/* Is what was made in `arm` there in the one being lowered? */
bool tdn_arm_is_done(const tdn_lowering *l, int32_t arm);
/* Of all nodes; of an Either, those of its second arm. */
int64_t tdn_arms_flops(const tdn_lowering *l);

/* ---- either.c -------------------------------------------------------------------------------- */

/* All nodes of an arm, in order. */
tdn_status tdn_lower_arm(tdn_lowering *l, int32_t arm);
tdn_status tdn_lower_either(tdn_lowering *l, const tdn_node *n);

/* ---- memory.c -------------------------------------------------------------------------------- */

/* Gives arena storages their offsets, so that those that live at the same time do not overlap.
 * Returns the arena's size. Greedy by size, first fit (Pisarchyk and Lee, "Efficient memory
 * management for deep neural net inference", 2020, section 5). */
size_t tdn_memory_plan(tdn_storage *storages, int32_t n, tdn_arena *scratch);

#endif
