/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Family gemm: batched matrix products. A constant right operand is packed at build; any other is
 * packed tile by tile, one block of the sum at a time, which costs little beside the product. Where
 * all batches share the right operand, their rows are one long list. Variants are shapes of tiles.
 */
#include <string.h>

#include "backend/cpu/matrix.h"

static tdn_status check_views(const tdn_view *a, const tdn_view *out, tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_view(a, 4, TDN_F32, "the left operand of a product", error));
    TDN_TRY(tdn_cpu_check_view(out, 4, TDN_F32, "the result of a product", error));
    if ((a->strides[3] != 1 && a->dims[3] != 1) || (out->strides[3] != 1 && out->dims[3] != 1))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a product over rows that are not contiguous");
    for (int i = 0; i < 3; i++)
        if (a->dims[i] != out->dims[i])
            return tdn_fail(error, TDN_E_UNSUPPORTED, "a product whose dims do not fit");
    return TDN_OK;
}

static tdn_status check_right(const tdn_view *b, const tdn_view *a, const tdn_view *out,
                              tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_view(b, 4, TDN_F32, "the right operand of a product", error));
    if (b->dims[0] != out->dims[0] || b->dims[1] != out->dims[1] || b->dims[2] != a->dims[3] ||
        b->dims[3] != out->dims[3])
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a product whose dims do not fit");
    return TDN_OK;
}

/* Batch axes along which the right operand differs. */
static void right_dims(tdn_gemm_args *args, const tdn_view *b)
{
    for (int i = 0; i < 2; i++)
        args->b_dims[i] = b->strides[i] == 0 ? 1 : b->dims[i];
}

/* Variants: shapes of tiles, then all with weights in half precision. */
enum { WAYS = 1 + TDN_TILING_SHAPES };

static tdn_status check_halves(const tdn_group *g, const tdn_gemm_args *args, tdn_error *error)
{
    const tdn_view *b = &g->in[1];
    if (!g->takes_halves || !args->packed)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a right operand to be kept in single precision");
    for (int64_t i = 0; i < args->b_dims[0]; i++)
        for (int64_t j = 0; j < args->b_dims[1]; j++)
            TDN_TRY(tdn_halves_check((const float *)b->data + i * b->strides[0] + j * b->strides[1],
                                     b->dims[3], b->strides[3], b->dims[2], b->strides[2], 1, 1,
                                     error));
    return TDN_OK;
}

/* Derives all that follows from packed, b_dims and operands. */
static tdn_status plan(tdn_gemm_args *args, const tdn_kernel *kernel, const tdn_view *a,
                       const tdn_view *out, tdn_error *error)
{
    const bool is_half = tdn_cpu_kernel_is(kernel, "gemm_f32h");
    int64_t n_batches, rows;
    if (is_half && !args->packed)
        return tdn_fail(error, TDN_E_FORMAT, "a product whose halves are not packed");
    args->packed = args->packed ? 1 + is_half : 0;
    for (int i = 0; i < 2; i++)
        if (args->b_dims[i] != 1 && args->b_dims[i] != out->dims[i])
            return tdn_fail(error, TDN_E_FORMAT, "a product whose right operand has other batches");
    if (!tdn_dims_count(out->dims, 2, &n_batches) || !tdn_dims_count(out->dims, 3, &rows))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a product that is too large");
    args->shared = args->b_dims[0] == 1 && args->b_dims[1] == 1;
    if (!tdn_tiling_make(&args->tiling, args->shared ? 1 : n_batches,
                         args->shared ? rows : out->dims[2], out->dims[3], 1, a->dims[3], kernel))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a product that is too large, or over nothing");
    tdn_tiling_set_stride(&args->tiling, a->strides[2]);
    if (tdn_cpu_kernel_is(kernel, "spgemm_f32"))
        tdn_tiling_join_columns(&args->tiling);
    return TDN_OK;
}

static bool packed_size(const tdn_gemm_args *args, size_t *size)
{
    const int64_t dims[] = {args->b_dims[0], args->b_dims[1], tdn_tiling_packed(&args->tiling),
                            tdn_weight_size(args->packed == 2)};
    int64_t n;
    if (!tdn_dims_count(dims, 4, &n) || n > TDN_CPU_MAX_COUNT * 8)
        return false;
    *size = (size_t)n;
    return true;
}

static tdn_status pack(tdn_made *made, const tdn_gemm_args *args, const tdn_view *b, bool dry,
                       tdn_arena *arena, tdn_error *error)
{
    if (!packed_size(args, &made->packed_size))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a product that is too large");
    made->packed_input = 1;
    if (dry)
        return TDN_OK;
    made->packed = tdn_arena_alloc_data(arena, made->packed_size);
    if (!made->packed)
        return tdn_fail_nomem(error, "packed weights");
    const int64_t dims[4] = {1, 1, 1, b->dims[2]}, strides[4] = {0, 0, 0, b->strides[2]};
    const bool is_half = args->packed == 2;
    const int64_t step = tdn_tiling_packed(&args->tiling) * tdn_weight_size(is_half);
    char *to = made->packed;
    for (int64_t i = 0; i < args->b_dims[0]; i++)
        for (int64_t j = 0; j < args->b_dims[1]; j++, to += step)
            tdn_pack_panels(to, is_half,
                            (const float *)b->data + i * b->strides[0] + j * b->strides[1],
                            b->dims[3], b->strides[3], dims, strides, args->tiling.nr);
    return TDN_OK;
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = -1;
    const bool is_half = g->variant >= WAYS;
    const bool sparse =
        g->is_sparse && g->n_in == 2 && g->in[1].data && tdn_sparse_suits(&g->in[1]);
    made->kernel = tdn_cpu_kernel(tdn_family_gemm.kernels,
                                  sparse    ? "spgemm_f32"
                                  : is_half ? "gemm_f32h"
                                            : "gemm_f32",
                                  isa);
    if (g->n_in != 2 || g->n_out != 1 || !made->kernel)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "a product of %d operands, or for no such CPU",
                        g->n_in);
    const tdn_view *a = &g->in[0], *b = &g->in[1], *out = &g->out[0];
    TDN_TRY(check_views(a, out, error));
    TDN_TRY(check_right(b, a, out, error));
    if (sparse && g->variant > 0)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "zeros are left out in the plain way only");
    tdn_gemm_args args = {.packed = b->data != NULL, .tiling = {.shape = g->variant % WAYS}};
    if (!args.packed && b->strides[2] != 1 && b->strides[3] != 1)
        return tdn_fail(error, TDN_E_UNSUPPORTED,
                        "a product whose right operand has no contiguous axis");
    right_dims(&args, b);
    if (is_half)
        TDN_TRY(check_halves(g, &args, error));
    TDN_TRY(plan(&args, made->kernel, a, out, error));
    const tdn_tiling *t = &args.tiling;
    made->cost = 2 * t->outer * t->rows * t->cols * t->k; /* of any shape: it is for times to say */
    tdn_map_program *program;
    TDN_TRY(tdn_epilogue_make(&args.epilogue, &program, g, 2, arena, error));
    if (args.packed) {
        TDN_TRY(pack(made, &args, b, g->dry, arena, error));
        made->cost += tdn_weights_cost(made->kernel, made->packed_size, is_half);
    }
    return tdn_epilogue_store(made, &args, sizeof args, program, arena, error);
}

static tdn_status check_operands(const tdn_kernel *kernel, const tdn_gemm_args *args,
                                 const tdn_view *in, const tdn_view *out, tdn_error *error)
{
    TDN_TRY(check_views(&in[0], out, error));
    tdn_gemm_args wanted = *args;
    wanted.packed = args->packed != 0;
    if (!wanted.packed) {
        TDN_TRY(check_right(&in[1], &in[0], out, error));
        if (in[1].strides[2] != 1 && in[1].strides[3] != 1)
            return tdn_fail(error, TDN_E_FORMAT,
                            "a product whose right operand has no contiguous axis");
        right_dims(&wanted, &in[1]);
    }
    TDN_TRY(plan(&wanted, kernel, &in[0], out, error));
    if (memcmp(&wanted, args, sizeof wanted) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of a product do not fit its operands");
    size_t size;
    if (!packed_size(args, &size))
        return tdn_fail(error, TDN_E_FORMAT, "a product that is too large");
    return args->packed ? tdn_cpu_check_blob(&in[1], size, error) : TDN_OK;
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    const tdn_gemm_args *a = args;
    if (args_size < sizeof *a || n_in < 2 || n_out != 1 || a->epilogue.first != 2)
        return tdn_fail(error, TDN_E_FORMAT, "a product of %d inputs and %zu bytes of arguments",
                        n_in, args_size);
    TDN_TRY(check_operands(kernel, a, in, out, error));
    TDN_TRY(tdn_epilogue_check(&a->epilogue, a + 1, args_size - sizeof *a, in, n_in, out, error));
    const tdn_tiling *t = &a->tiling;
    const bool sparse = tdn_cpu_kernel_is(kernel, "spgemm_f32");
    if (sparse && !a->packed)
        return tdn_fail(error, TDN_E_FORMAT,
                        "a product that leaves zeros out of what is not packed");
    const int64_t own = sparse      ? tdn_sparse_floats(t)
                        : a->packed ? tdn_wide_floats(t, a->packed == 2)
                                    : (int64_t)t->max_panels * t->k_block * t->nr;
    work->n_tiles = (size_t)tdn_tiling_n_tiles(t);
    work->scratch_size = tdn_matrix_scratch_set(NULL, NULL, t, own);
    if (a->epilogue.has_program)
        work->scratch_size += tdn_map_scratch_size(tdn_epilogue_program(&a->epilogue));
    work->flops = 2 * t->outer * t->rows * t->cols * t->k;
    return TDN_OK;
}

static const tdn_kernel kernels[] = {
    TDN_TILE_ROWS("spgemm_f32", tdn_spgemm_f32),
    TDN_TILE_ROWS("gemm_f32", tdn_gemm_f32),
    TDN_TILE_ROWS("gemm_f32h", tdn_gemm_f32h),
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_gemm = {
    .name = "gemm", .n_variants = 2 * WAYS, .kernels = kernels, .make = make, .check = check};
