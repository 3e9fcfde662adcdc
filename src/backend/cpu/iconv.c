/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Family iconv: convolutions of bytes, and products of matrices as those of one tap. They are
 * planned and tiled as those of floats (conv.c), four bytes being one term of the sum. Variants are
 * shapes of tiles. iconv.h has the layout of packed weights.
 *
 * Sums are exact: a step whose largest could leave int32 is refused.
 */
#include <string.h>

#include "backend/cpu/iconv.h"

enum { MAX_PRODUCT = 255 * 128, MAX_TERMS = INT32_MAX / MAX_PRODUCT, ARM_OFFSET = 128 };

static tdn_status check_operands(const tdn_conv_desc *d, const int32_t kernel[3], const tdn_view *x,
                                 const tdn_view *out, tdn_error *error)
{
    TDN_TRY(tdn_conv_check_desc(d, kernel, x, TDN_U8, out, TDN_DTYPE_NONE, error));
    if (out->dtype != TDN_F32 && out->dtype != TDN_U8 && out->dtype != TDN_S32)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "products of integers as %s",
                        tdn_dtype_name(out->dtype));
    return TDN_OK;
}

static tdn_status check_words(const tdn_conv_desc *d, const tdn_view *x, tdn_error *error)
{
    if (x->dims[4] / d->group % TDN_WORD != 0)
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "products of integers over %lld channels, no multiple of %d",
                        (long long)(x->dims[4] / d->group), TDN_WORD);
    return TDN_OK;
}

static tdn_status check_terms(int64_t n_terms, tdn_error *error)
{
    if (n_terms > MAX_TERMS)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "sums of more than %d products of integers",
                        (int)MAX_TERMS);
    return TDN_OK;
}

static tdn_status plan(tdn_conv_args *a, const tdn_kernel *kernel, const tdn_view *x,
                       const tdn_view *out, tdn_error *error)
{
    TDN_TRY(tdn_conv_plan(a, kernel, x, out, TDN_WORD, error));
    return check_terms(a->tiling.n_taps * a->tiling.k * TDN_WORD, error);
}

/* ---- Packing --------------------------------------------------------------------------------- */

/* Four channels' weights of one column and tap, 0 where there are none. */
static void pack_word(int8_t to[TDN_WORD], const int8_t *column, const int64_t dims[5], int64_t tap,
                      int64_t channel)
{
    const int64_t volume = dims[2] * dims[3] * dims[4];
    for (int i = 0; i < TDN_WORD; i++)
        to[i] = column && channel + i < dims[1] ? column[(channel + i) * volume + tap] : 0;
}

static void pack_panels(int8_t *to, const tdn_conv_args *a, const tdn_view *weights, int64_t x_dim)
{
    const int64_t *w = weights->dims;
    const int64_t volume = w[2] * w[3] * w[4], cols = w[0] / a->desc.group;
    const int64_t n_panels = a->tiling.n_panels, nr = a->tiling.nr;
    for (int64_t panel = 0; panel < a->desc.group * n_panels; panel++)
        for (int64_t tap = 0; tap < volume; tap++)
            for (int64_t c = 0; c < x_dim / a->desc.group; c += TDN_WORD)
                for (int64_t j = 0; j < nr; j++, to += TDN_WORD) {
                    const int64_t col = panel % n_panels * nr + j;
                    const int8_t *group =
                        (const int8_t *)weights->data + panel / n_panels * cols * w[1] * volume;
                    pack_word(to, col < cols ? group + col * w[1] * volume : NULL, w, tap, c);
                }
}

/* What a column's sum starts with: kernels sum (x - offset) * w, wanted is (x - x_zero) * w. */
static void pack_starts(int32_t *to, const tdn_conv_args *a, const tdn_view *weights,
                        int32_t difference)
{
    const int64_t *w = weights->dims;
    const int64_t cols = w[0] / a->desc.group, of_column = w[1] * w[2] * w[3] * w[4];
    const int64_t all = (int64_t)a->tiling.n_panels * a->tiling.nr;
    const int8_t *from = weights->data;
    for (int64_t i = 0; i < a->desc.group * all; i++) {
        int32_t sum = 0;
        for (int64_t k = 0; i % all < cols && k < of_column; k++)
            sum += *from++;
        to[i] = sum * difference;
    }
}

static tdn_status pack(tdn_made *made, const tdn_iconv_args *args, const tdn_view *weights,
                       int64_t x_dim, tdn_arena *arena, tdn_error *error)
{
    const tdn_conv_args *a = &args->conv;
    char *to = made->packed = tdn_arena_alloc_data(arena, made->packed_size);
    if (!to)
        return tdn_fail_nomem(error, "packed weights");
    const int32_t offset = made->kernel->isa & TDN_ISA_ARM ? ARM_OFFSET : 0;
    const size_t padding = tdn_iconv_padding_offset(a);
    pack_panels((int8_t *)to, a, weights, x_dim);
    pack_starts((int32_t *)(void *)(to + tdn_iconv_start_offset(a)), a, weights,
                offset - args->requant.x_zero);
    memset(to + padding, args->requant.x_zero, made->packed_size - padding);
    return TDN_OK;
}

/* ---- The family ------------------------------------------------------------------------------ */

/* Terms of four products cost as one of floats where there is an instruction for them. */
static int64_t cost_of(const tdn_made *made, const tdn_tiling *t)
{
    const bool whole =
        (made->kernel->isa & (TDN_ISA_VNNI | TDN_ISA_AVXVNNI | TDN_ISA_DOTPROD)) != 0;
    return (whole ? 2 : 4) * t->outer * t->rows * t->cols * t->n_taps * t->k +
           tdn_weights_cost(made->kernel, made->packed_size, false) * t->n_row_tiles;
}

static tdn_status pack_depthwise(tdn_made *made, const tdn_view *weights, tdn_arena *arena,
                                 tdn_error *error)
{
    const int64_t c = weights->dims[0],
                  taps = weights->dims[2] * weights->dims[3] * weights->dims[4];
    const int8_t *from = weights->data;
    made->packed_size = (size_t)(c * taps) * sizeof(int32_t);
    int32_t *to = made->packed = tdn_arena_alloc_data(arena, made->packed_size);
    if (!to)
        return tdn_fail_nomem(error, "packed weights");
    for (int64_t i = 0; i < c * taps; i++)
        to[i % taps * c + i / taps] = from[i];
    return TDN_OK;
}

static tdn_status make_depthwise(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                                 tdn_error *error)
{
    const tdn_iconv_desc *d = g->desc;
    const int64_t *w = g->in[1].dims;
    made->kernel = tdn_cpu_kernel(tdn_family_iconv.kernels, "idwconv_u8", isa);
    if (!made->kernel || g->variant > 0)
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "a depthwise convolution has one way, and none for such a CPU");
    tdn_idwconv_args a = {.requant.x_zero = d->x_zero, .conv.desc = d->conv};
    for (int i = 0; i < 3; i++)
        a.conv.kernel[i] = (int32_t)w[2 + i];
    TDN_TRY(check_operands(&a.conv.desc, a.conv.kernel, &g->in[0], &g->out[0], error));
    tdn_map_program *program;
    TDN_TRY(tdn_requant_make(&a.requant, &a.conv.epilogue, &program, g, arena, error));
    TDN_TRY(tdn_dwconv_plan(&a.conv, &g->out[0], error));
    TDN_TRY(check_terms(w[2] * w[3] * w[4], error));
    TDN_TRY(pack_depthwise(made, &g->in[1], arena, error)); /* small: dry or not */
    return tdn_epilogue_store(made, &a, sizeof a, program, arena, error);
}

static tdn_status make_dense(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                             tdn_error *error)
{
    const tdn_iconv_desc *d = g->desc;
    const tdn_view *x = &g->in[0], *w = &g->in[1], *out = &g->out[0];
    made->kernel = tdn_cpu_kernel(tdn_family_iconv.kernels, "iconv_u8", isa);
    if (!made->kernel)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a convolution for no such CPU");
    tdn_iconv_args a = {.requant.x_zero = d->x_zero, .conv.desc = d->conv};
    for (int i = 0; i < 3; i++)
        a.conv.kernel[i] = (int32_t)w->dims[2 + i];
    TDN_TRY(check_operands(&a.conv.desc, a.conv.kernel, x, out, error));
    TDN_TRY(check_words(&a.conv.desc, x, error));
    tdn_map_program *program;
    TDN_TRY(tdn_requant_make(&a.requant, &a.conv.epilogue, &program, g, arena, error));
    TDN_TRY(plan(&a.conv, made->kernel, x, out, error));
    const tdn_tiling plain = a.conv.tiling; /* all shapes have its cost: times may differ */
    if (g->variant > 0) {
        a.conv.tiling.shape = g->variant;
        TDN_TRY(plan(&a.conv, made->kernel, x, out, error));
    }
    made->packed_size = tdn_iconv_packed_size(&a.conv);
    made->cost = cost_of(made, &plain);
    if (!g->dry)
        TDN_TRY(pack(made, &a, w, x->dims[4], arena, error));
    return tdn_epilogue_store(made, &a, sizeof a, program, arena, error);
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    const tdn_iconv_desc *d = g->desc;
    memset(made, 0, sizeof *made);
    made->packed_input = 1;
    if (g->n_in != 2 || g->n_out != 1 || !d || d->x_zero < 0 || d->x_zero > 255)
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "a convolution of %d inputs, or of another zero point than a byte's",
                        g->n_in);
    TDN_TRY(tdn_conv_check_weights(g, &d->conv, TDN_S8, error));
    return tdn_conv_is_depthwise(&d->conv, &g->in[0], &g->out[0])
               ? make_depthwise(made, g, isa, arena, error)
               : make_dense(made, g, isa, arena, error);
}

static tdn_status check_dense(const tdn_kernel *kernel, const tdn_conv_args *args,
                              const tdn_view *in, const tdn_view *out, tdn_work *work,
                              tdn_error *error)
{
    const tdn_tiling *t = &args->tiling;
    TDN_TRY(check_words(&args->desc, &in[0], error));
    TDN_TRY(tdn_conv_check_plan(args, kernel, &in[0], out, TDN_WORD, error));
    TDN_TRY(check_terms(t->n_taps * t->k * TDN_WORD, error));
    TDN_TRY(tdn_cpu_check_blob(&in[1], tdn_iconv_packed_size(args), error));
    work->n_tiles = (size_t)tdn_tiling_n_tiles(t);
    work->scratch_size =
        tdn_matrix_scratch_set(NULL, NULL, t, tdn_conv_sums(args) + tdn_conv_extra(args, false));
    work->flops = 2 * TDN_WORD * t->outer * t->rows * t->cols * t->n_taps * t->k;
    return TDN_OK;
}

static tdn_status check_depthwise(const tdn_dwconv_args *args, const tdn_view *in,
                                  const tdn_view *out, tdn_work *work, tdn_error *error)
{
    int64_t n_weights;
    TDN_TRY(tdn_dwconv_check_plan(args, &in[0], out, &n_weights, error));
    TDN_TRY(check_terms(n_weights / out->dims[4], error));
    TDN_TRY(tdn_cpu_check_blob(&in[1], (size_t)n_weights * sizeof(int32_t), error));
    work->n_tiles = (size_t)args->n_row_tiles;
    work->scratch_size = (size_t)tdn_idwconv_sums(args, out) * sizeof(float);
    work->flops = args->n_rows ? 2 * args->n_rows * out->dims[3] * n_weights : 0;
    return TDN_OK;
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    const bool depthwise = tdn_cpu_kernel_is(kernel, "idwconv_u8");
    const size_t fixed = depthwise ? sizeof(tdn_idwconv_args) : sizeof(tdn_iconv_args);
    if (args_size < fixed || n_in < 2 || n_out != 1)
        return tdn_fail(error, TDN_E_FORMAT,
                        "a convolution of %d inputs and %zu bytes of arguments", n_in, args_size);
    const tdn_iconv_args *a = args; /* both begin with requant, desc and kernel */
    const tdn_epilogue *ep = (const void *)((const char *)args + fixed - sizeof(tdn_epilogue));
    TDN_TRY(check_operands(&a->conv.desc, a->conv.kernel, &in[0], out, error));
    TDN_TRY(tdn_requant_check(&a->requant, ep, (const char *)args + fixed, args_size - fixed, in,
                              n_in, out, error));
    TDN_TRY(depthwise
                ? check_depthwise(&((const tdn_idwconv_args *)args)->conv, in, out, work, error)
                : check_dense(kernel, &a->conv, in, out, work, error));
    if (ep->has_program)
        work->scratch_size += tdn_map_scratch_size(tdn_epilogue_program(ep));
    return TDN_OK;
}

static const tdn_kernel kernels[] = {
    TDN_LANE_ROWS("idwconv_u8", tdn_idwconv_u8),
    TDN_DOT_TILE_ROWS("iconv_u8", tdn_iconv_u8),
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_iconv = {.name = "iconv",
                                     .n_variants = 1 + TDN_TILING_SHAPES,
                                     .kernels = kernels,
                                     .make = make,
                                     .check = check};
