/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Family pad: fp32 with a constant around it. Inner axes without padding that lie as one are
 * joined, so that a line is long; a line is filled, or filled, copied and filled. Limited by
 * memory, so it is built once, without levels.
 */
#include <string.h>

#include "backend/cpu/cpu.h"

typedef struct pad_args {
    int32_t rank, n_tiles;
    float value;
    int32_t zero;
    int64_t n_lines; /* of out: product of all dims but the last */
    int64_t before[TDN_MAX_RANK];
    int64_t in[TDN_MAX_RANK], out[TDN_MAX_RANK];  /* dims */
    int64_t from[TDN_MAX_RANK], to[TDN_MAX_RANK]; /* strides */
} pad_args;

enum { TILE_ELEMENTS = 1 << 15, TILES_WANTED = 32 };

/* Can axis i + 1, which is not padded, be a part of axis i? */
static bool joins(const pad_args *a, int i)
{
    return a->before[i + 1] == 0 && a->in[i + 1] == a->out[i + 1] &&
           a->from[i] == a->from[i + 1] * a->in[i + 1] && a->to[i] == a->to[i + 1] * a->out[i + 1];
}

static void swap(int64_t *x, int64_t *y)
{
    const int64_t t = *x;
    *x = *y;
    *y = t;
}

/* In the order of the target's memory, so that the last axis makes the longest lines. */
static void sort_axes(pad_args *a)
{
    for (int i = 1; i < a->rank; i++)
        for (int j = i; j > 0 && a->to[j - 1] < a->to[j]; j--) {
            swap(&a->before[j - 1], &a->before[j]);
            swap(&a->in[j - 1], &a->in[j]);
            swap(&a->out[j - 1], &a->out[j]);
            swap(&a->from[j - 1], &a->from[j]);
            swap(&a->to[j - 1], &a->to[j]);
        }
}

static void join_axes(pad_args *a)
{
    for (int i = a->rank - 2; i >= 0; i--) {
        if (!joins(a, i))
            continue;
        const int64_t n = a->in[i + 1];
        a->before[i] *= n;
        a->in[i] *= n;
        a->out[i] *= n;
        a->from[i] = a->from[i + 1];
        a->to[i] = a->to[i + 1];
        for (int j = i + 1; j + 1 < a->rank; j++) {
            a->before[j] = a->before[j + 1];
            a->in[j] = a->in[j + 1];
            a->out[j] = a->out[j + 1];
            a->from[j] = a->from[j + 1];
            a->to[j] = a->to[j + 1];
        }
        a->rank--;
    }
}

static tdn_status plan(pad_args *a, const int64_t *before, float value, const tdn_view *in,
                       int n_in, const tdn_view *out, int n_out, tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_counts(n_in, 1, n_out, 1, error));
    TDN_TRY(tdn_cpu_check_view(out, out->rank, TDN_F32, "the target of a padding", error));
    TDN_TRY(tdn_cpu_check_view(in, out->rank, TDN_F32, "the source of a padding", error));
    memset(a, 0, sizeof *a);
    a->rank = out->rank > 0 ? out->rank : 1;
    a->in[0] = a->out[0] = a->n_lines = 1;
    a->value = value;
    for (int i = 0; i < out->rank; i++) {
        if (before[i] < 0 || before[i] > out->dims[i] || in->dims[i] > out->dims[i] - before[i])
            return tdn_fail(error, TDN_E_UNSUPPORTED, "a padding that cuts axis %d", i);
        a->before[i] = before[i];
        a->in[i] = in->dims[i];
        a->out[i] = out->dims[i];
        a->from[i] = in->strides[i];
        a->to[i] = out->strides[i];
    }
    if (tdn_view_count(out) > 0) {
        sort_axes(a);
        join_axes(a);
    }
    for (int i = 0; i + 1 < a->rank; i++)
        a->n_lines *= a->out[i];
    const int64_t wanted = tdn_cpu_min(TILES_WANTED, tdn_view_count(out) / TILE_ELEMENTS + 1);
    a->n_tiles = tdn_view_count(out) > 0 ? (int32_t)tdn_cpu_min(a->n_lines, wanted) : 0;
    return TDN_OK;
}

/* The number of padded elements before axis i is kept in front of the derived ones, for check. */
typedef struct stored_args {
    int64_t before[TDN_MAX_RANK];
    pad_args derived;
} stored_args;

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = -1;
    made->kernel = tdn_kernel_best(tdn_family_pad.kernels, isa);
    const tdn_pad_desc *desc = g->desc;
    if (!desc || g->expr)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a padding with an epilogue");
    stored_args *a = tdn_arena_alloc(arena, 1, sizeof *a);
    if (!a)
        return tdn_fail_nomem(error, "a padding");
    for (int i = 0; i < TDN_MAX_RANK; i++)
        a->before[i] = desc->before[i];
    TDN_TRY(plan(&a->derived, a->before, desc->value, g->in, g->n_in, g->out, g->n_out, error));
    made->args = a;
    made->args_size = sizeof *a;
    return TDN_OK;
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    (void)kernel;
    const stored_args *a = args;
    pad_args wanted;
    if (args_size != sizeof *a)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a padding are cut");
    TDN_TRY(plan(&wanted, a->before, a->derived.value, in, n_in, out, n_out, error));
    if (memcmp(&wanted, &a->derived, sizeof wanted) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a padding do not fit its operands");
    *work = (tdn_work){.n_tiles = (size_t)wanted.n_tiles};
    return TDN_OK;
}

static void fill_line(float *to, int64_t stride, int64_t n, float value)
{
    for (int64_t i = 0; i < n; i++)
        to[i * stride] = value;
}

static void copy_line(float *to, int64_t to_stride, const float *from, int64_t from_stride,
                      int64_t n)
{
    if (to_stride == 1 && from_stride == 1) {
        memcpy(to, from, (size_t)n * sizeof *to);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        to[i * to_stride] = from[i * from_stride];
}

static void pad_f32(const tdn_call *call, size_t tile)
{
    const pad_args *a = &((const stored_args *)call->args)->derived;
    const int last = a->rank - 1;
    int64_t line, end;
    tdn_cpu_share(a->n_lines, (int64_t)tile, a->n_tiles, &line, &end);
    for (; line < end; line++) {
        int64_t rest = line, from = 0, to = 0;
        bool inside = true;
        for (int i = last - 1; i >= 0; i--) {
            const int64_t at = rest % a->out[i], source = at - a->before[i];
            rest /= a->out[i];
            to += at * a->to[i];
            inside &= source >= 0 && source < a->in[i];
            from += inside ? source * a->from[i] : 0;
        }
        float *p = (float *)call->out[0].data + to;
        if (!inside) {
            fill_line(p, a->to[last], a->out[last], a->value);
            continue;
        }
        const int64_t n = a->in[last], before = a->before[last];
        fill_line(p, a->to[last], before, a->value);
        copy_line(p + before * a->to[last], a->to[last], (const float *)call->in[0].data + from,
                  a->from[last], n);
        fill_line(p + (before + n) * a->to[last], a->to[last], a->out[last] - before - n, a->value);
    }
}

static const tdn_kernel kernels[] = {
    {"pad_f32", 0, 0, 0, pad_f32},
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_pad = {.name = "pad", .kernels = kernels, .make = make, .check = check};
