/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Family hconv: convolutions of halves, and products of matrices as those of one tap, on CPUs that
 * multiply them. They are planned and tiled as those of floats (conv.c), two channels being one
 * term of the sum. Variants are shapes of tiles. hconv.h has the layout of packed weights.
 */
#include "backend/cpu/hconv.h"

#include <string.h>

/* Kernels by what they multiply. */
static const char *stem_of(tdn_dtype dtype)
{
    return dtype == TDN_F16 ? "hconv_f16" : "hconv_bf16";
}

static tdn_status check_operands(const tdn_conv_desc *d, const int32_t kernel[3],
                                 const tdn_view *in, const tdn_view *out, tdn_error *error)
{
    if (!tdn_is_half(in[0].dtype) || (out->dtype != TDN_F32 && out->dtype != in[0].dtype))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "products of %s as %s",
                        tdn_dtype_name(in[0].dtype), tdn_dtype_name(out->dtype));
    TDN_TRY(tdn_conv_check_desc(d, kernel, &in[0], in[0].dtype, out, out->dtype, error));
    if (in[0].dims[4] / d->group % TDN_HALVES_IN_TERM != 0)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "products of halves over %lld channels, not even",
                        (long long)(in[0].dims[4] / d->group));
    return TDN_OK;
}

/* One word of nr columns, from `channel` of tap `tap` on. */
static uint16_t *pack_word(uint16_t *to, const uint16_t *group, const int64_t w[5], int64_t col,
                           int64_t cols, int64_t tap, int64_t channel, int64_t nr, tdn_dtype half)
{
    const int64_t volume = w[2] * w[3] * w[4];
    for (int i = 0; i < TDN_HALVES_IN_TERM; i++)
        for (int64_t j = 0; j < nr; j++) {
            const int64_t at = ((col + j) * w[1] + channel + i) * volume + tap;
            to[tdn_hconv_slot(half, i, j, nr)] = col + j < cols ? group[at] : 0;
        }
    return to + TDN_HALVES_IN_TERM * nr;
}

static tdn_status pack(tdn_made *made, const tdn_conv_args *a, const tdn_view *weights,
                       tdn_arena *arena, tdn_error *error)
{
    uint16_t *to = made->packed = tdn_arena_alloc_data(arena, made->packed_size);
    if (!to)
        return tdn_fail_nomem(error, "packed weights");
    const size_t padding = tdn_hconv_padding_offset(a);
    memset((char *)to + padding, 0, made->packed_size - padding);
    const int64_t *w = weights->dims;
    const int64_t volume = w[2] * w[3] * w[4], cols = w[0] / a->desc.group, nr = a->tiling.nr;
    for (int64_t g = 0; g < a->desc.group; g++) {
        const uint16_t *group = (const uint16_t *)weights->data + g * cols * w[1] * volume;
        for (int64_t panel = 0; panel < a->tiling.n_panels; panel++)
            for (int64_t tap = 0; tap < volume; tap++)
                for (int64_t c = 0; c < w[1]; c += TDN_HALVES_IN_TERM)
                    to = pack_word(to, group, w, panel * nr, cols, tap, c, nr, weights->dtype);
    }
    return TDN_OK;
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = 1;
    if (g->n_in != 2 || g->n_out != 1 || !g->desc || !tdn_is_half(g->in[0].dtype))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a convolution of %d inputs, or not of halves",
                        g->n_in);
    const tdn_view *x = &g->in[0], *w = &g->in[1], *out = &g->out[0];
    tdn_conv_args a = {.desc = *(const tdn_conv_desc *)g->desc};
    TDN_TRY(tdn_conv_check_weights(g, &a.desc, x->dtype, error));
    for (int i = 0; i < 3; i++)
        a.kernel[i] = (int32_t)w->dims[2 + i];
    TDN_TRY(check_operands(&a.desc, a.kernel, g->in, out, error));
    made->kernel = tdn_cpu_kernel(tdn_family_hconv.kernels, stem_of(x->dtype), isa);
    if (!made->kernel || w->dims[1] * a.desc.group != x->dims[4])
        return tdn_fail(error, TDN_E_UNSUPPORTED, "products of %s for no such CPU",
                        tdn_dtype_name(x->dtype));
    tdn_map_program *program;
    TDN_TRY(tdn_epilogue_make(&a.epilogue, &program, g, 2, arena, error));
    TDN_TRY(tdn_conv_plan(&a, made->kernel, x, out, TDN_HALVES_IN_TERM, error));
    const tdn_tiling plain = a.tiling, *t = &plain; /* all shapes have its cost: times may differ */
    if (g->variant > 0) {
        a.tiling.shape = g->variant;
        TDN_TRY(tdn_conv_plan(&a, made->kernel, x, out, TDN_HALVES_IN_TERM, error));
    }
    made->packed_size = tdn_hconv_packed_size(&a);
    made->cost = 2 * t->outer * t->rows * t->cols * t->n_taps * t->k +
                 tdn_weights_cost(made->kernel, made->packed_size, false) * t->n_row_tiles;
    if (!g->dry)
        TDN_TRY(pack(made, &a, w, arena, error));
    return tdn_epilogue_store(made, &a, sizeof a, program, arena, error);
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    const tdn_conv_args *a = args;
    if (args_size < sizeof *a || n_in < 2 || n_out != 1)
        return tdn_fail(error, TDN_E_FORMAT,
                        "a convolution of %d inputs and %zu bytes of arguments", n_in, args_size);
    const tdn_epilogue *ep = &a->epilogue;
    const tdn_tiling *t = &a->tiling;
    TDN_TRY(check_operands(&a->desc, a->kernel, in, out, error));
    if (ep->first != 2 || !tdn_cpu_kernel_is(kernel, stem_of(in[0].dtype)))
        return tdn_fail(error, TDN_E_FORMAT, "a damaged epilogue, or a kernel for other halves");
    TDN_TRY(tdn_epilogue_check(ep, a + 1, args_size - sizeof *a, in, n_in, out, error));
    TDN_TRY(tdn_conv_check_plan(a, kernel, &in[0], out, TDN_HALVES_IN_TERM, error));
    TDN_TRY(tdn_cpu_check_blob(&in[1], tdn_hconv_packed_size(a), error));
    work->n_tiles = (size_t)tdn_tiling_n_tiles(t);
    work->scratch_size =
        tdn_matrix_scratch_set(NULL, NULL, t, tdn_conv_sums(a) + tdn_conv_extra(a, false));
    work->flops = 2 * TDN_HALVES_IN_TERM * t->outer * t->rows * t->cols * t->n_taps * t->k;
    if (ep->has_program)
        work->scratch_size += tdn_map_scratch_size(tdn_epilogue_program(ep));
    return TDN_OK;
}

static const tdn_kernel kernels[] = {
    TDN_TILE_ROW("hconv_f16", tdn_hconv, armfp16, TDN_ON_ARM),
    TDN_TILE_ROW("hconv_f16", tdn_hconv, avx512fp16, TDN_ON_X86),
    TDN_TILE_ROW("hconv_bf16", tdn_hconv, avx512bf16, TDN_ON_X86),
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_hconv = {.name = "hconv",
                                     .n_variants = 1 + TDN_TILING_SHAPES,
                                     .kernels = kernels,
                                     .make = make,
                                     .check = check};
