/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Help for tests of kernels: random tensors in buffers of exactly their size (so that a sanitizer
 * sees any access beyond), with gaps between rows that must stay as they were; a walk over a
 * family's list; a step made, checked and run tile by tile in any order. Each program prints its
 * seed and takes another as its first argument.
 */
#ifndef TDN_TESTS_UNIT_KERNELS_H
#define TDN_TESTS_UNIT_KERNELS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "backend/backend.h"

static uint64_t seed;

static uint32_t random_bits(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}
static int64_t random_between(int64_t low, int64_t high)
{
    return low + (int64_t)(random_bits() % (uint64_t)(high - low + 1));
}
static int64_t random_of(const int64_t *list, int n) { return list[random_bits() % (unsigned)n]; }
#define RANDOM_OF(...)                                                                             \
    random_of((const int64_t[]){__VA_ARGS__},                                                      \
              (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))
static float random_float(void) { return (float)((double)random_bits() / 1073741824.0 - 1.0); }
static void set_seed(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t)time(NULL) * 2654435761u;
    printf("seed %llu\n", (unsigned long long)seed);
}

/* How a tensor lies in its buffer. */
typedef enum layout {
    LAYOUT_ANY = 0,   /* axes in any order, gaps between */
    LAYOUT_INNER = 1, /* the last axis has stride 1, the others are in any order, gaps between */
    LAYOUT_DENSE = 2  /* row-major */
} layout;

typedef struct tensor {
    tdn_view view;
    unsigned char *buffer, *before;
    size_t size;
    bool is_output;
} tensor;

typedef struct scene {
    tdn_arena *arena;
    tensor *tensors[64];
    int n;
} scene;

static size_t element_size(tdn_dtype dtype) { return tdn_dtype_size(dtype, 1); }

/* Strides from the innermost axis out; axes in `broadcast` get 0. Returns the elements from first
 * to last. */
static int64_t lay_out(tdn_view *v, layout how, uint32_t broadcast)
{
    int order[TDN_MAX_RANK];
    for (int i = 0; i < v->rank; i++)
        order[i] = i;
    const int movable = how == LAYOUT_ANY ? v->rank : how == LAYOUT_INNER ? v->rank - 1 : 0;
    for (int i = movable - 1; i > 0 && random_bits() % 2; i--) {
        const int j = (int)(random_bits() % (unsigned)(i + 1)), t = order[i];
        order[i] = order[j];
        order[j] = t;
    }
    int64_t step = how == LAYOUT_ANY ? RANDOM_OF(1, 1, 1, 2, 3) : 1, reach = 1;
    for (int i = v->rank - 1; i >= 0; i--) {
        const int axis = order[i];
        v->strides[axis] = 0;
        if (broadcast >> axis & 1)
            continue;
        v->strides[axis] = step;
        reach += step * (v->dims[axis] - 1);
        step *= v->dims[axis] > 0 ? v->dims[axis] : 1;
        if (how != LAYOUT_DENSE && random_bits() % 2)
            step += random_between(0, 5);
    }
    return tdn_view_count(v) ? reach : 0;
}

static void fill_random(tensor *t)
{
    for (size_t i = 0; i < t->size; i++)
        t->buffer[i] =
            (unsigned char)(t->view.dtype == TDN_F32 ? 0xff
                                                     : random_bits()); /* F32: NaN in the gaps */
    for (tdn_walk w = tdn_walk_begin(t->view.rank, t->view.dims); w.more; tdn_walk_next(&w)) {
        const int64_t o = tdn_walk_offset(&w, &t->view);
        if (t->view.dtype == TDN_F32)
            ((float *)t->view.data)[o] = random_float();
        else if (t->view.dtype == TDN_F16 || t->view.dtype == TDN_BF16)
            tdn_view_set(&t->view, o, (double)random_float());
        else if (t->view.dtype == TDN_BOOL)
            ((uint8_t *)t->view.data)[o] = random_bits() & 1;
    }
}

static tensor *new_tensor(scene *s, tdn_dtype dtype, int rank, const int64_t *dims, layout how,
                          uint32_t broadcast)
{
    tensor *t = calloc(1, sizeof *t);
    assert_non_null(t);
    assert_true(s->n < 64);
    s->tensors[s->n++] = t;
    t->view = (tdn_view){.dtype = dtype, .rank = rank};
    for (int i = 0; i < rank; i++)
        t->view.dims[i] = dims[i];
    const int64_t reach = lay_out(&t->view, how, broadcast);
    const int64_t lead = how == LAYOUT_DENSE ? 0 : random_between(0, 3);
    t->size = (size_t)(reach + lead) * element_size(dtype);
    t->buffer = malloc(t->size ? t->size : 1);
    assert_non_null(t->buffer);
    t->view.data = t->buffer + (size_t)lead * element_size(dtype);
    fill_random(t);
    return t;
}

/* A tensor that kernels write: filled with a pattern, of which all but the view's elements must
 * stay. */
static tensor *new_output(scene *s, tdn_dtype dtype, int rank, const int64_t *dims, layout how)
{
    tensor *t = new_tensor(s, dtype, rank, dims, how, 0);
    memset(t->buffer, 0xa5, t->size);
    t->before = malloc(t->size ? t->size : 1);
    assert_non_null(t->before);
    memcpy(t->before, t->buffer, t->size);
    t->is_output = true;
    return t;
}

/* Fails where a byte outside of the view has changed. */
static void check_gaps(const tensor *t, const char *name)
{
    unsigned char *mine = calloc(1, t->size ? t->size : 1);
    assert_non_null(mine);
    const size_t n = element_size(t->view.dtype);
    const size_t lead = (size_t)((unsigned char *)t->view.data - t->buffer);
    for (tdn_walk w = tdn_walk_begin(t->view.rank, t->view.dims); w.more; tdn_walk_next(&w))
        memset(mine + lead + (size_t)tdn_walk_offset(&w, &t->view) * n, 1, n);
    for (size_t i = 0; i < t->size; i++)
        if (!mine[i] && t->buffer[i] != t->before[i])
            fail_msg("%s wrote byte %zu of %zu, outside of its output", name, i, t->size);
    free(mine);
}

static scene *new_scene(void)
{
    scene *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->arena = tdn_arena_create(NULL);
    assert_non_null(s->arena);
    return s;
}
static void end_scene(scene *s)
{
    for (int i = 0; i < s->n; i++) {
        free(s->tensors[i]->buffer);
        free(s->tensors[i]->before);
        free(s->tensors[i]);
    }
    tdn_arena_free(s->arena);
    free(s);
}

static bool runs_here(const tdn_kernel *k)
{
    return k->run && !(k->isa & ~tdn_backends[0]->detect());
}

/* A step as the run time has it. */
typedef struct step {
    tdn_made made;
    tdn_view in[40], out[24];
    int n_in, n_out;
    tdn_work work;
} step;

/* Makes the group for exactly this row; false where the family takes another for it (a depthwise
 * convolution), or does not take it. */
static bool make_step(step *st, const tdn_family *family, const tdn_kernel *kernel,
                      const tdn_group *group, tdn_arena *arena)
{
    tdn_error error;
    memset(st, 0, sizeof *st);
    const tdn_status status = family->make(&st->made, group, kernel->isa, arena, &error);
    if (status == TDN_E_UNSUPPORTED)
        return false;
    if (status)
        fail_msg("%s: %s", kernel->name, error.text);
    if (st->made.kernel != kernel)
        return false;
    for (int i = 0; i < group->n_in; i++)
        st->in[st->n_in++] = group->in[i];
    for (int i = 0; i < group->n_extra; i++)
        st->in[st->n_in++] = group->extra[i];
    for (int i = 0; i < group->n_out; i++)
        st->out[st->n_out++] = group->out[i];
    if (st->made.packed_input >= 0) {
        const int64_t size = (int64_t)st->made.packed_size;
        st->in[st->made.packed_input] = tdn_view_make(st->made.packed, TDN_U8, 1, &size);
    }
    const tdn_status checked = family->check(kernel, st->made.args, st->made.args_size, st->in,
                                             st->n_in, st->out, st->n_out, &st->work, &error);
    if (checked)
        fail_msg("%s does not pass its own check: %s", kernel->name, error.text);
    return true;
}

static void run_step(const step *st)
{
    unsigned char *scratch = tdn_alloc(NULL, st->work.scratch_size, TDN_ALIGN);
    assert_non_null(scratch);
    const size_t first = st->work.n_tiles ? random_bits() % st->work.n_tiles : 0; /* in any order */
    for (size_t n = 0; n < st->work.n_tiles; n++) {
        const size_t i = (first + n) % st->work.n_tiles;
        memset(scratch, 0xff, st->work.scratch_size); /* nothing may be left from another tile */
        const tdn_call call = {st->made.args, st->in, st->out, st->n_in, st->n_out, scratch};
        st->made.kernel->run(&call, i);
    }
    tdn_free(NULL, scratch);
}

/* |got - wanted| <= bound, NaN like NaN. */
static void expect_near(const tdn_kernel *k, double got, double wanted, double bound, int64_t at)
{
    if (isnan(wanted) ? isnan(got) : got == wanted || fabs(got - wanted) <= bound)
        return;
    fail_msg("%s: element %lld is %.9g, not %.9g (bound %.3g)", k->name, (long long)at, got, wanted,
             bound);
}

/* Runs a damaged step where its check lets it pass: whatever it computes, it must stay within its
 * buffers, which the address sanitizer sees. What only takes long (an extent of millions with a
 * stride of 0) is left out. */
static void run_if_checked(const tdn_family *family, step *st)
{
    tdn_error error;
    bool short_enough = true;
    for (int i = 0; i < st->n_in + st->n_out; i++) {
        const tdn_view *v = i < st->n_in ? &st->in[i] : &st->out[i - st->n_in];
        for (int k = 0; k < v->rank; k++)
            short_enough = short_enough && v->dims[k] <= 1 << 14;
    }
    if (family->check(st->made.kernel, st->made.args, st->made.args_size, st->in, st->n_in, st->out,
                      st->n_out, &st->work, &error) == TDN_OK &&
        short_enough)
        run_step(st);
}

/* One number of an operand, such that it still lies in its buffer. */
static void damage_view(tdn_view *v)
{
    const int axis = v->rank > 0 ? (int)(random_bits() % (unsigned)v->rank) : 0;
    const tdn_dtype dtype = v->dtype;
    const size_t size = tdn_dtype_size(dtype, 1);
    switch (random_bits() % 5) {
    case 0: v->dims[axis] /= 2; break;
    case 1: v->strides[axis] = 0; break;
    case 2: v->rank = (int32_t)random_between(0, v->rank); break;
    case 3: v->dtype = (tdn_dtype)random_between(TDN_F32, TDN_STRING); break;
    default:
        v->dims[axis] = random_bits() % 2 ? INT64_MAX >> random_between(0, 40) : -1;
        v->strides[axis] = 0;
        break;
    }
    if (tdn_dtype_size(v->dtype, 1) > size)
        v->dtype = dtype;
}

/* Arguments cut short and packed weights a byte too short are refused; damaged bytes and operands
 * are refused or harmless. */
static void expect_checked(const tdn_family *family, const step *good)
{
    tdn_error error;
    tdn_work work;
    step bad = *good;
    unsigned char *args = bad.made.args = malloc(good->made.args_size);
    assert_non_null(args);
    memcpy(args, good->made.args, good->made.args_size);
    for (size_t size = 0; size < good->made.args_size; size++)
        if (family->check(good->made.kernel, args, size, good->in, good->n_in, good->out,
                          good->n_out, &work, &error) == TDN_OK)
            fail_msg("%s takes %zu of %zu bytes of arguments", good->made.kernel->name, size,
                     good->made.args_size);
    if (good->made.packed_input >= 0) {
        bad.in[good->made.packed_input].dims[0]--;
        if (family->check(bad.made.kernel, args, bad.made.args_size, bad.in, bad.n_in, bad.out,
                          bad.n_out, &work, &error) == TDN_OK)
            fail_msg("%s takes weights that are too short", good->made.kernel->name);
        bad.in[good->made.packed_input].dims[0]++;
    }
    for (int i = 0; i < 60; i++) {
        const size_t at = random_bits() % good->made.args_size;
        args[at] ^= (unsigned char)(1u << random_bits() % 8);
        run_if_checked(family, &bad);
        args[at] = ((const unsigned char *)good->made.args)[at];
    }
    for (int i = 0; i < 60; i++) {
        const int at = (int)(random_bits() % (unsigned)(good->n_in + good->n_out));
        damage_view(at < good->n_in ? &bad.in[at] : &bad.out[at - good->n_in]);
        if (random_bits() % 4 == 0) /* the same in another operand may fit again */
            damage_view(&bad.out[0]);
        run_if_checked(family, &bad);
        memcpy(bad.in, good->in, sizeof bad.in);
        memcpy(bad.out, good->out, sizeof bad.out);
    }
    free(args);
}

#endif
