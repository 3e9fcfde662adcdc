/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Family conv, channels last: a matrix product whose rows are output pixels. No im2col: for every
 * tap a row is a pointer to c contiguous channels of the input, or to zeros for padding. Where c is
 * small (an image's first layer), the taps along w, contiguous in memory, are one longer tap.
 * Depthwise convolutions (group == c == m) have a kernel of their own. Winograd's
 * convolutions are in wino.h.
 *
 * Packed weights: [group][panel][tap][k][nr], floats or halves, then k zeros, floats. Depthwise:
 * [tap][c], floats.
 */
#include <string.h>

#include "backend/cpu/matrix.h"
#include "backend/cpu/wino.h"

static tdn_status check_desc(const tdn_conv_desc *d, const int32_t kernel[3], const tdn_view *x,
                             const tdn_view *out, tdn_error *error)
{
    return tdn_conv_check_desc(d, kernel, x, TDN_F32, out, TDN_F32, error);
}

static tdn_status check_weights(const tdn_group *g, tdn_error *error)
{
    if (g->n_in != 2 || g->n_out != 1 || !g->desc)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a convolution of %d inputs", g->n_in);
    const tdn_conv_desc *d = g->desc;
    TDN_TRY(tdn_conv_check_weights(g, d, TDN_F32, error));
    if (g->in[1].dims[1] * d->group != g->in[0].dims[4])
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a convolution of fewer channels than its input");
    return TDN_OK;
}

/* Variants: the plain way, Winograd's, other shapes of tiles; then all with weights in half
 * precision. */
enum { WAYS = 1 + TDN_WINO_VARIANTS + TDN_TILING_SHAPES };
static int32_t way_of(const tdn_group *g) { return g->variant % WAYS; }
static bool is_half(const tdn_group *g) { return g->variant >= WAYS; }

/* Gains of what is packed over the weights, as tdn_halves_check has them. */
static tdn_status check_halves(const tdn_group *g, double least, double most, tdn_error *error)
{
    const tdn_view *w = &g->in[1];
    if (!g->takes_halves)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "weights are to be kept in single precision");
    return tdn_halves_check(w->data, w->dims[0], w->strides[0], w->strides[0], 1, least, most,
                            error);
}

static size_t packed_size(const tdn_conv_args *a)
{
    const size_t zeros = tdn_round_up((size_t)a->tiling.k * sizeof(float), TDN_ALIGN);
    return (size_t)(a->desc.group * tdn_tiling_packed(&a->tiling) * tdn_weight_size(a->is_half)) +
           zeros;
}

static tdn_status pack(tdn_made *made, const tdn_conv_args *a, const tdn_view *weights,
                       tdn_arena *arena, tdn_error *error)
{
    made->packed = tdn_arena_alloc_data(arena, made->packed_size);
    if (!made->packed)
        return tdn_fail_nomem(error, "packed weights");
    memset(made->packed, 0, made->packed_size);
    const int64_t *w = weights->dims;
    const int64_t area = w[3] * w[4], volume = w[2] * area, cols = w[0] / a->desc.group;
    const int64_t dims[4] = {w[2], w[3], w[4], w[1]}, strides[4] = {area, w[4], 1, volume};
    const int64_t group_size = tdn_tiling_packed(&a->tiling) * tdn_weight_size(a->is_half);
    for (int64_t g = 0; g < a->desc.group; g++)
        tdn_pack_panels((char *)made->packed + g * group_size, a->is_half,
                        (const float *)weights->data + g * cols * w[1] * volume, cols,
                        w[1] * volume, dims, strides, a->tiling.nr);
    return TDN_OK;
}

static tdn_status pack_depthwise(tdn_made *made, const tdn_view *weights, tdn_arena *arena,
                                 tdn_error *error)
{
    const int64_t c = weights->dims[0],
                  taps = weights->dims[2] * weights->dims[3] * weights->dims[4];
    made->packed_size = (size_t)(c * taps) * sizeof(float);
    made->packed = tdn_arena_alloc_data(arena, made->packed_size);
    if (!made->packed)
        return tdn_fail_nomem(error, "packed weights");
    float *to = made->packed;
    const float *from = weights->data;
    for (int64_t i = 0; i < c; i++)
        for (int64_t tap = 0; tap < taps; tap++)
            to[tap * c + i] = from[i * taps + tap];
    return TDN_OK;
}

static tdn_status make_wino(tdn_made *made, const tdn_group *g, tdn_arena *arena, tdn_error *error)
{
    const tdn_view *w = &g->in[1];
    tdn_wino_args a = {.desc = *(const tdn_conv_desc *)g->desc, .variant = way_of(g)};
    for (int i = 0; i < 3; i++)
        a.kernel[i] = (int32_t)w->dims[2 + i];
    TDN_TRY(check_desc(&a.desc, a.kernel, &g->in[0], &g->out[0], error));
    TDN_TRY(tdn_wino_plan(&a, made->kernel, &g->in[0], &g->out[0], error));
    tdn_map_program *program;
    TDN_TRY(tdn_epilogue_make(&a.epilogue, &program, g, 2, arena, error));
    made->packed_size = tdn_wino_packed_size(&a);
    made->cost = tdn_wino_cost(&a, made->kernel);
    if (is_half(g)) {
        double least, most;
        tdn_wino_gains(&a, &least, &most);
        TDN_TRY(check_halves(g, least, most, error));
    }
    if (!g->dry) {
        made->packed = tdn_arena_alloc_data(arena, made->packed_size);
        if (!made->packed)
            return tdn_fail_nomem(error, "packed weights");
        tdn_wino_pack(made->packed, &a, w->data);
    }
    return tdn_epilogue_store(made, &a, sizeof a, program, arena, error);
}

/* Desc, kernel and epilogue of a convolution that is not Winograd's. */
static tdn_status begin(tdn_conv_args *a, tdn_map_program **program, const tdn_group *g,
                        tdn_arena *arena, tdn_error *error)
{
    *a = (tdn_conv_args){.desc = *(const tdn_conv_desc *)g->desc};
    for (int i = 0; i < 3; i++)
        a->kernel[i] = (int32_t)g->in[1].dims[2 + i];
    TDN_TRY(check_desc(&a->desc, a->kernel, &g->in[0], &g->out[0], error));
    return tdn_epilogue_make(&a->epilogue, program, g, 2, arena, error);
}

static tdn_status make_depthwise(tdn_made *made, const tdn_group *g, tdn_arena *arena,
                                 tdn_error *error)
{
    tdn_conv_args a;
    tdn_map_program *program;
    if (g->variant > 0)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a depthwise convolution has one way");
    TDN_TRY(begin(&a, &program, g, arena, error));
    tdn_dwconv_args dw = {.desc = a.desc, .epilogue = a.epilogue};
    memcpy(dw.kernel, a.kernel, sizeof dw.kernel);
    TDN_TRY(tdn_dwconv_plan(&dw, &g->out[0], error));
    TDN_TRY(pack_depthwise(made, &g->in[1], arena, error)); /* small: dry or not */
    return tdn_epilogue_store(made, &dw, sizeof dw, program, arena, error);
}

static tdn_status make_dense(tdn_made *made, const tdn_group *g, tdn_arena *arena, tdn_error *error)
{
    const tdn_view *x = &g->in[0], *out = &g->out[0];
    tdn_conv_args a;
    tdn_map_program *program;
    TDN_TRY(begin(&a, &program, g, arena, error));
    TDN_TRY(tdn_conv_plan(&a, made->kernel, x, out, 1, error));
    const tdn_tiling plain = a.tiling, *t = &plain; /* all shapes have its cost: times may differ */
    if (way_of(g) > 0) {
        a.tiling.shape = way_of(g) - TDN_WINO_VARIANTS;
        TDN_TRY(tdn_conv_plan(&a, made->kernel, x, out, 1, error));
    }
    if (is_half(g))
        TDN_TRY(check_halves(g, 1, 1, error));
    made->packed_size = packed_size(&a);
    made->cost = 2 * t->outer * t->rows * t->cols * t->n_taps * t->k +
                 tdn_weights_cost(made->kernel, made->packed_size, is_half(g)) * t->n_row_tiles;
    if (!g->dry)
        TDN_TRY(pack(made, &a, &g->in[1], arena, error));
    return tdn_epilogue_store(made, &a, sizeof a, program, arena, error);
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    TDN_TRY(check_weights(g, error));
    const bool depthwise = tdn_conv_is_depthwise(g->desc, &g->in[0], &g->out[0]);
    const bool sparse = g->is_sparse && !depthwise && tdn_sparse_suits(&g->in[1]);
    const int32_t way = way_of(g);
    const bool wino = way > 0 && way <= TDN_WINO_VARIANTS;
    const char *stem = depthwise            ? "dwconv_f32"
                       : sparse             ? "spconv_f32"
                       : wino && is_half(g) ? "wino_f32h"
                       : wino               ? "wino_f32"
                       : is_half(g)         ? "conv_f32h"
                                            : "conv_f32";
    memset(made, 0, sizeof *made);
    made->packed_input = 1;
    made->kernel = tdn_cpu_kernel(tdn_family_conv.kernels, stem, isa);
    if (!made->kernel)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a convolution for no such CPU");
    if (g->variant > 0 && sparse)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "zeros are left out in the plain way only");
    return depthwise ? make_depthwise(made, g, arena, error)
           : wino    ? make_wino(made, g, arena, error)
                     : make_dense(made, g, arena, error);
}

static tdn_status check_dense(const tdn_kernel *kernel, const tdn_conv_args *args,
                              const tdn_view *in, const tdn_view *out, tdn_work *work,
                              tdn_error *error)
{
    TDN_TRY(tdn_conv_check_plan(args, kernel, &in[0], &out[0], 1, error));
    TDN_TRY(tdn_cpu_check_blob(&in[1], packed_size(args), error));
    const tdn_tiling *t = &args->tiling;
    work->n_tiles = (size_t)tdn_tiling_n_tiles(t);
    work->scratch_size = tdn_matrix_scratch_set(
        NULL, NULL, t, tdn_conv_extra(args, tdn_cpu_kernel_is(kernel, "spconv_f32")));
    work->flops = 2 * t->outer * t->rows * t->cols * t->n_taps * t->k;
    return TDN_OK;
}

static tdn_status check_wino(const tdn_kernel *kernel, const tdn_wino_args *args,
                             const tdn_view *in, const tdn_view *out, tdn_work *work,
                             tdn_error *error)
{
    tdn_wino_args wanted = *args;
    TDN_TRY(tdn_wino_plan(&wanted, kernel, &in[0], &out[0], error));
    if (memcmp(&wanted, args, sizeof wanted) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a convolution do not fit its operands");
    TDN_TRY(tdn_cpu_check_blob(&in[1], tdn_wino_packed_size(args), error));
    tdn_wino_work(work, args);
    return TDN_OK;
}

static tdn_status check_depthwise(const tdn_dwconv_args *args, const tdn_view *in,
                                  const tdn_view *out, tdn_work *work, tdn_error *error)
{
    int64_t n_weights;
    TDN_TRY(tdn_dwconv_check_plan(args, &in[0], out, &n_weights, error));
    TDN_TRY(tdn_cpu_check_blob(&in[1], (size_t)n_weights * sizeof(float), error));
    work->n_tiles = (size_t)args->n_row_tiles;
    work->scratch_size = 0;
    work->flops = args->n_rows ? 2 * args->n_rows * out->dims[3] * n_weights : 0;
    return TDN_OK;
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    const bool depthwise = tdn_cpu_kernel_is(kernel, "dwconv_f32");
    const bool wino =
        tdn_cpu_kernel_is(kernel, "wino_f32") || tdn_cpu_kernel_is(kernel, "wino_f32h");
    const size_t fixed = depthwise ? sizeof(tdn_dwconv_args)
                         : wino    ? sizeof(tdn_wino_args)
                                   : sizeof(tdn_conv_args);
    if (args_size < fixed || n_in < 2 || n_out != 1)
        return tdn_fail(error, TDN_E_FORMAT,
                        "a convolution of %d inputs and %zu bytes of arguments", n_in, args_size);
    const tdn_conv_args *a = args; /* all three begin with desc and kernel */
    const tdn_epilogue *epilogue =
        (const void *)((const char *)args + fixed - sizeof(tdn_epilogue));
    TDN_TRY(check_desc(&a->desc, a->kernel, &in[0], &out[0], error));
    if (epilogue->first != 2)
        return tdn_fail(error, TDN_E_FORMAT, "a damaged epilogue");
    TDN_TRY(tdn_epilogue_check(epilogue, (const char *)args + fixed, args_size - fixed, in, n_in,
                               out, error));
    TDN_TRY(depthwise ? check_depthwise(args, in, out, work, error)
            : wino    ? check_wino(kernel, args, in, out, work, error)
                      : check_dense(kernel, args, in, out, work, error));
    if (epilogue->has_program)
        work->scratch_size += tdn_map_scratch_size(tdn_epilogue_program(epilogue));
    return TDN_OK;
}

static const tdn_kernel kernels[] = {
    TDN_LANE_ROWS("dwconv_f32", tdn_dwconv_f32),
    TDN_TILE_ROWS("spconv_f32", tdn_spconv_f32),
    TDN_TILE_ROWS("conv_f32", tdn_conv_f32),
    TDN_TILE_ROWS("conv_f32h", tdn_conv_f32h),
    TDN_TILE_ROWS("wino_f32", tdn_wino_f32),
    TDN_TILE_ROWS("wino_f32h", tdn_wino_f32h),
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_conv = {
    .name = "conv", .n_variants = 2 * WAYS, .kernels = kernels, .make = make, .check = check};
