/* SPDX-License-Identifier: Apache-2.0 */
/* Family pool, channels last: largest or average over windows. What a window covers beyond the
 * padding counts for nothing, and padding counts for an average only where it is asked to. A tile
 * is some lines of output pixels. */
#include <string.h>

#include "backend/cpu/along.h"

enum { MAX_PARAMETER = 1 << 20, TILES_WANTED = 32, TILE_COST = 1 << 16 };

static tdn_status check_desc(const tdn_pool_desc *d, tdn_error *error)
{
    if (d->kind != TDN_POOL_MAX && d->kind != TDN_POOL_AVERAGE)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "pooling of kind %d", d->kind);
    for (int i = 0; i < 3; i++)
        if (d->kernel[i] < 1 || d->kernel[i] > MAX_PARAMETER || d->stride[i] < 1 ||
            d->stride[i] > MAX_PARAMETER || d->dilation[i] < 1 || d->dilation[i] > MAX_PARAMETER ||
            d->pad[i] < 0 || d->pad[i] > MAX_PARAMETER || d->pad_end[i] < 0 ||
            d->pad_end[i] > MAX_PARAMETER)
            return tdn_fail(error, TDN_E_UNSUPPORTED,
                            "pooling whose kernel, stride, dilation or pad is out of range");
    return TDN_OK;
}

static tdn_status plan(tdn_pool_args *a, const tdn_pool_desc *desc, tdn_dtype dtype,
                       const tdn_view *x, int n_in, const tdn_view *out, int n_out,
                       tdn_error *error)
{
    TDN_TRY(tdn_cpu_check_counts(n_in, 1, n_out, 1, error));
    TDN_TRY(check_desc(desc, error));
    TDN_TRY(tdn_cpu_check_view(x, 5, dtype, "the input of pooling", error));
    TDN_TRY(tdn_cpu_check_view(out, 5, dtype, "the output of pooling", error));
    if (dtype != TDN_F32 && desc->kind != TDN_POOL_MAX)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "the average of bytes or halves");
    if ((x->strides[4] != 1 && x->dims[4] != 1) || (out->strides[4] != 1 && out->dims[4] != 1))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "pooling over channels that are not contiguous");
    if (x->dims[0] != out->dims[0] || x->dims[4] != out->dims[4])
        return tdn_fail(error, TDN_E_UNSUPPORTED, "pooling whose dims do not fit");
    const int64_t dims[] = {out->dims[0], out->dims[1],    out->dims[2],    out->dims[3],
                            out->dims[4], desc->kernel[0], desc->kernel[1], desc->kernel[2]};
    int64_t cost;
    if (!tdn_dims_count(dims, 8, &cost))
        return tdn_fail(error, TDN_E_UNSUPPORTED, "pooling that is too large");
    memset(a, 0, sizeof *a);
    a->desc = *desc;
    a->n_lines = dims[0] * dims[1] * dims[2];
    a->n_tiles =
        cost ? (int32_t)tdn_cpu_min(a->n_lines, tdn_cpu_min(TILES_WANTED, cost / TILE_COST + 1))
             : 0;
    return TDN_OK;
}

/* A kernel for each size of elements. */
static const struct {
    tdn_dtype dtypes[2];
    const char *stem;
} stems[] = {{{TDN_F32, TDN_F32}, "pool_f32"},
             {{TDN_U8, TDN_U8}, "pool_u8"},
             {{TDN_F16, TDN_BF16}, "pool_half"}};

static const char *stem_of(tdn_dtype dtype)
{
    for (size_t i = 0; i < sizeof stems / sizeof *stems; i++)
        if (stems[i].dtypes[0] == dtype || stems[i].dtypes[1] == dtype)
            return stems[i].stem;
    return "";
}

static tdn_status make(tdn_made *made, const tdn_group *g, uint64_t isa, tdn_arena *arena,
                       tdn_error *error)
{
    memset(made, 0, sizeof *made);
    made->packed_input = -1;
    const tdn_dtype dtype = g->n_in > 0 ? g->in[0].dtype : TDN_DTYPE_NONE;
    made->kernel = tdn_cpu_kernel(tdn_family_pool.kernels, stem_of(dtype), isa);
    if (!made->kernel || !g->desc || g->expr)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "pooling with an epilogue, or for no such CPU");
    tdn_pool_args *a = made->args = tdn_arena_alloc(arena, 1, sizeof *a);
    made->args_size = sizeof *a;
    return a ? plan(a, g->desc, dtype, g->in, g->n_in, g->out, g->n_out, error)
             : tdn_fail_nomem(error, "pooling");
}

static tdn_status check(const tdn_kernel *kernel, const void *args, size_t args_size,
                        const tdn_view *in, int n_in, const tdn_view *out, int n_out,
                        tdn_work *work, tdn_error *error)
{
    const tdn_dtype dtype = n_in > 0 ? in[0].dtype : TDN_DTYPE_NONE;
    const tdn_pool_args *a = args;
    tdn_pool_args wanted;
    if (args_size != sizeof *a || !tdn_cpu_kernel_is(kernel, stem_of(dtype)))
        return tdn_fail(error, TDN_E_FORMAT,
                        "arguments of pooling are cut, or of elements of another type");
    TDN_TRY(plan(&wanted, &a->desc, dtype, in, n_in, out, n_out, error));
    if (memcmp(&wanted, a, sizeof wanted) != 0)
        return tdn_fail(error, TDN_E_FORMAT, "arguments of pooling do not fit its operands");
    const tdn_pool_desc *d = &a->desc;
    *work = (tdn_work){.n_tiles = (size_t)a->n_tiles};
    if (a->n_tiles)
        work->flops =
            a->n_lines * out->dims[3] * out->dims[4] * d->kernel[0] * d->kernel[1] * d->kernel[2];
    return TDN_OK;
}

static const tdn_kernel kernels[] = {
    TDN_LANE_ROWS("pool_u8", tdn_pool_u8),
    TDN_LANE_ROWS("pool_half", tdn_pool_half),
    TDN_LANE_ROWS("pool_f32", tdn_pool_f32),
    {NULL, 0, 0, 0, NULL},
};

const tdn_family tdn_family_pool = {
    .name = "pool", .kernels = kernels, .make = make, .check = check};
