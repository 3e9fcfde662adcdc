/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Family graphconv: graph convolution (Kipf and Welling, "Semi-supervised classification with graph
 * convolutional networks", 2017), over several kinds of edges: each node's features are sums over
 * its neighbours, kind by kind, times a matrix of weights a kind. The sums are made tile by tile
 * where the product reads them; what has no neighbour of a kind takes no part in that kind's
 * product.
 */
#include "backend/cpu/graphconv.h"

#include <string.h>

#include "backend/cpu/epilogue.h"
#include "backend/cpu/hconv.h"

enum { MAX_ENTRIES = 1 << 20, TILES_WANTED = 16, SUM_FLOATS = 48 << 10 };

static tdn_status check_views(const tdn_view *in, const tdn_view *out, tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_view(&in[0], 5, TDN_F32, "the input of a graph convolution", error));
    TDN_TRY(tdn_cpu_check_view(out, 5, TDN_DTYPE_NONE, "the output of a graph convolution", error));
    TDN_TRY(tdn_cpu_check_view(&in[2], 2, TDN_F32, "the bias of a graph convolution", error));
    for (int i = 0; i < 3; i++)
        if (in[0].dims[i] != out->dims[i])
            return tdn_fail(error, TDN_E_UNSUPPORTED, "a graph convolution whose dims do not fit");
    if ((in[0].strides[4] != 1 && in[0].dims[4] != 1) ||
        (out->strides[4] != 1 && out->dims[4] != 1))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a graph convolution over channels with gaps");
    if (in[2].dims[0] != out->dims[3] || in[2].dims[1] != out->dims[4] ||
        !tdn_view_is_dense(&in[2]))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a graph convolution whose bias does not fit");
    return tdn_map_takes(out->dtype)
               ? TDN_OK
               : tdn_fail(error, TDN_E_UNSUPPORTED, "a graph convolution as %s",
                          tdn_dtype_name(out->dtype));
}

/* What a kernel's products are of. */
static tdn_dtype factor_of(const tdn_kernel *kernel)
{
    return tdn_cpu_kernel_is(kernel, "graphconv_f16")    ? TDN_F16
           : tdn_cpu_kernel_is(kernel, "graphconv_bf16") ? TDN_BF16
                                                         : TDN_F32;
}

/* Derives all that follows from n_kinds, n_entries, n_sums and operands. */
static tdn_status plan(tdn_graphconv_args *a, const tdn_kernel *kernel, const tdn_view *in,
                       const tdn_view *out, tdn_error *error)
{
    TDN_TRY(check_views(in, out, error));
    const int64_t nodes = out->dims[3], c = in[0].dims[4];
    const int n_in_term = factor_of(kernel) == TDN_F32 ? 1 : TDN_HALVES_IN_TERM;
    a->n_rows = out->dims[0] * out->dims[1] * out->dims[2];
    a->half = (int32_t)factor_of(kernel);
    if (c % n_in_term != 0)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "products of halves over odd channels");
    if (a->n_kinds < 1 || a->n_kinds > TDN_GRAPHCONV_MAX_KINDS || a->n_entries < 0 ||
        a->n_entries > MAX_ENTRIES || nodes * a->n_kinds > TDN_GRAPHCONV_MAX_COLUMNS ||
        a->n_sums < 0 || a->n_sums > nodes * a->n_kinds || c > 1 << 20 || nodes < 1 || c < 1 ||
        a->n_rows > INT32_MAX / nodes ||
        !tdn_tiling_make(&a->tiling, 1, a->n_rows * nodes, out->dims[4], a->n_kinds, c / n_in_term,
                         kernel))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a graph convolution that is too large");
    const int64_t a_row = tdn_cpu_max(1, a->n_sums * tdn_graphconv_sum_floats(a));
    const int64_t most = tdn_cpu_max(1, SUM_FLOATS / a_row);
    const int64_t wanted =
        tdn_cpu_max(tdn_cpu_div_up(a->n_rows, most), tdn_cpu_min(TILES_WANTED, a->n_rows));
    a->n_tiles = (int32_t)wanted;
    a->max_rows = wanted ? (int32_t)tdn_cpu_div_up(a->n_rows, wanted) : 0;
    return TDN_OK;
}

static size_t packed_size(const tdn_graphconv_args *a, int64_t nodes)
{
    return (size_t)tdn_tiling_packed(&a->tiling) * sizeof(float) +
           tdn_columns_size(nodes * a->n_kinds, a->n_entries);
}

/* Weights (m, kinds * c) as panels of halves. */
static void pack_halves(uint16_t *to, const tdn_graphconv_args *a, const float *weights)
{
    const tdn_tiling *t = &a->tiling;
    const int64_t terms = t->n_taps * t->k * TDN_HALVES_IN_TERM;
    const tdn_dtype half = (tdn_dtype)a->half;
    for (int64_t panel = 0; panel < t->n_panels; panel++)
        for (int64_t k = 0; k < terms; k++)
            for (int64_t j = 0; j < t->nr; j++) {
                const int64_t col = panel * t->nr + j;
                const int64_t word = (panel * terms + k) / TDN_HALVES_IN_TERM;
                const float x = col < t->cols ? weights[col * terms + k] : 0;
                to[word * TDN_HALVES_IN_TERM * t->nr +
                   tdn_hconv_slot(half, k % TDN_HALVES_IN_TERM, j, t->nr)] =
                    tdn_f32_to_half(x, half);
            }
}

static tdn_status pack(tdn_made *made, const tdn_graphconv_args *a, const tdn_group *g,
                       const tdn_stack *edges, tdn_arena *arena, tdn_error *error)
{
    made->packed = tdn_arena_alloc_data(arena, made->packed_size);
    if (!made->packed)
        return tdn_fail_nomem(error, "packed weights");
    memset(made->packed, 0, made->packed_size);
    const tdn_tiling *t = &a->tiling;
    const int64_t dims[4] = {1, 1, t->n_taps, t->k}, strides[4] = {0, 0, t->k, 1};
    if (a->half == TDN_F32)
        tdn_pack_panels(made->packed, false, g->in[1].data, t->cols, t->n_taps * t->k, dims,
                        strides, t->nr);
    else
        pack_halves(made->packed, a, g->in[1].data);
    tdn_columns_pack((float *)made->packed + tdn_tiling_packed(t), edges);
    return TDN_OK;
}

/* Another type than F32 is made by a program. */
static tdn_status make_epilogue(tdn_epilogue *ep, tdn_map_program **program, const tdn_group *g,
                                tdn_arena *arena, tdn_error *error)
{
    const int first = 3;
    if (g->out[0].dtype == TDN_F32)
        return tdn_epilogue_make(ep, program, g, first, arena, error);
    TDN_TRY(tdn_epilogue_begin(ep, g, first, error));
    if (!g->expr)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a graph convolution's sums as another type");
    return tdn_epilogue_compile(ep, program, g, first, arena, error);
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = 1;
    const char *stem = g->variant == 0         ? "graphconv_f32"
                       : g->halves == TDN_F16  ? "graphconv_f16"
                       : g->halves == TDN_BF16 ? "graphconv_bf16"
                                               : "none";
    made->kernel = tdn_cpu_kernel(tdn_family_graphconv.kernels, stem, isa);
    const tdn_graphconv_desc *d = g->desc;
    const tdn_view *w = &g->in[1];
    if (!made->kernel || g->n_in != 3 || g->n_out != 1 || !d || !w->data || w->rank != 2 ||
        w->dtype != TDN_F32 || !tdn_view_is_dense(w) || g->in[0].rank != 5 || g->out[0].rank != 5 ||
        w->dims[0] != g->out[0].dims[4] || w->dims[1] != d->n_kinds * g->in[0].dims[4] ||
        d->n_from != g->in[0].dims[3] || d->n_to != g->out[0].dims[3])
        return tdn_fail(error, TDN_E_UNSUPPORTED, "no graph convolution of constant weights");
    const tdn_stack edges = {d->adjacency, d->n_kinds, d->n_from, d->n_to};
    int64_t n_sums;
    const int64_t n_entries = tdn_columns_count(&edges, &n_sums);
    tdn_graphconv_args a = {.n_kinds = d->n_kinds,
                            .n_entries = (int32_t)tdn_cpu_min(n_entries, INT32_MAX),
                            .n_sums = (int32_t)tdn_cpu_min(n_sums, INT32_MAX)};
    TDN_TRY(plan(&a, made->kernel, g->in, &g->out[0], error));
    tdn_map_program *program;
    TDN_TRY(make_epilogue(&a.epilogue, &program, g, arena, error));
    made->packed_size = packed_size(&a, d->n_to);
    made->cost = 2 * a.n_rows * a.n_sums * a.tiling.k * a.tiling.cols;
    if (!g->dry)
        TDN_TRY(pack(made, &a, g, &edges, arena, error));
    return tdn_epilogue_store(made, &a, sizeof a, program, arena, error);
}

static tdn_status check_edges(const tdn_graphconv_args *a, const tdn_view *packed, int64_t n_from,
                              int64_t n_to, tdn_error *error)
{
    int64_t n_sums;
    TDN_TRY(tdn_cpu_check_blob(packed, packed_size(a, n_to), error));
    const float *at = packed->data;
    return at &&
                   tdn_columns_check(at + tdn_tiling_packed(&a->tiling), a->n_kinds * n_to, n_from,
                                     a->n_entries, &n_sums) &&
                   n_sums == a->n_sums
               ? TDN_OK
               : tdn_fail(error, TDN_E_FORMAT, "a damaged table of edges");
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    const tdn_graphconv_args *a = args;
    if (args_size < sizeof *a || n_in < 3 || n_out != 1)
        return tdn_fail(error, TDN_E_FORMAT,
                        "a graph convolution of %d inputs and %zu bytes of arguments", n_in,
                        args_size);
    tdn_graphconv_args wanted = *a;
    TDN_TRY(plan(&wanted, kernel, in, out, error));
    if (memcmp(&wanted, a, sizeof wanted) != 0 || a->epilogue.first != 3)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a graph convolution do not fit");
    TDN_TRY(tdn_epilogue_check(&a->epilogue, a + 1, args_size - sizeof *a, in, n_in, out, error));
    if (out->dtype != TDN_F32 && !a->epilogue.has_program)
        return tdn_fail(error, TDN_E_FORMAT, "nothing makes another type of a graph convolution");
    TDN_TRY(check_edges(a, &in[1], in[0].dims[3], out->dims[3], error));
    work->n_tiles = (size_t)a->n_tiles;
    work->scratch_size = tdn_graphconv_scratch_at(a, out, NULL).size;
    work->flops =
        2 * a->n_rows * in[0].dims[4] * (a->n_entries + (int64_t)a->n_sums * out->dims[4]);
    if (a->epilogue.has_program)
        work->scratch_size += tdn_map_scratch_size(tdn_epilogue_program(&a->epilogue));
    return TDN_OK;
}

static const tdn_kernel kernels[] = {
    TDN_TILE_ROWS("graphconv_f32", tdn_graphconv),
    TDN_TILE_ROW("graphconv_f16", tdn_graphconv, armfp16, TDN_ON_ARM),
    TDN_TILE_ROW("graphconv_f16", tdn_graphconv, avx512fp16, TDN_ON_X86),
    TDN_TILE_ROW("graphconv_bf16", tdn_graphconv, avx512bf16, TDN_ON_X86),
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_graphconv = {
    .name = "graphconv", .n_variants = 2, .kernels = kernels, .make = make, .check = check};
