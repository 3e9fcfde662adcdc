/* SPDX-License-Identifier: Apache-2.0 */
/* Checks that all CPU families share. Views may come from a hostile file, except that each lies in
 * its buffer. */
#include <string.h>

#include "backend/cpu/cpu.h"

tdn_status tdn_cpu_check_view(const tdn_view *view, int rank, tdn_dtype dtype, const char *what,
                              tdn_error *error)
{
    if (view->rank != rank || rank < 0 || rank > TDN_MAX_RANK)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "%s has rank %d, not %d", what, view->rank, rank);
    if (dtype != TDN_DTYPE_NONE && view->dtype != dtype)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "%s is %s, not %s", what,
                        tdn_dtype_name(view->dtype), tdn_dtype_name(dtype));
    int64_t count;
    if (!tdn_dims_count(view->dims, rank, &count) || count > TDN_CPU_MAX_COUNT)
        return tdn_fail(error, TDN_E_UNSUPPORTED, "%s has too many elements", what);
    /* An empty view may have any numbers. Where they fit here, later arithmetic over them fits as
     * well. */
    for (int i = 0; i < rank; i++) {
        int64_t reach;
        if (view->dims[i] > TDN_CPU_MAX_COUNT ||
            __builtin_mul_overflow(view->dims[i] + 1, view->strides[i], &reach) ||
            reach > INT64_MAX / 256 || reach < INT64_MIN / 256)
            return tdn_fail(error, TDN_E_UNSUPPORTED, "axis %d of %s is too long", i, what);
    }
    return TDN_OK;
}

tdn_status tdn_cpu_check_blob(const tdn_view *view, size_t size, tdn_error *error)
{
    if (view->dtype != TDN_U8 || view->rank != 1 || view->strides[0] != 1 || view->dims[0] < 0 ||
        (uint64_t)view->dims[0] < size)
        return tdn_fail(error, TDN_E_FORMAT, "packed weights are not %zu bytes", size);
    return TDN_OK;
}

tdn_status tdn_cpu_check_counts(int n_in, int n_in_wanted, int n_out, int n_out_wanted,
                                tdn_error *error)
{
    if (n_in != n_in_wanted || n_out != n_out_wanted)
        return tdn_fail(error, TDN_E_FORMAT, "%d inputs and %d outputs, not %d and %d", n_in, n_out,
                        n_in_wanted, n_out_wanted);
    return TDN_OK;
}

bool tdn_cpu_kernel_is(const tdn_kernel *kernel, const char *stem)
{
    const size_t n = strlen(stem);
    return !strncmp(kernel->name, stem, n) && kernel->name[n] == '_';
}

const tdn_kernel *tdn_cpu_kernel(const tdn_kernel *kernels, const char *stem, uint64_t isa)
{
    const tdn_kernel *best = NULL;
    for (const tdn_kernel *k = kernels; k->name; k++)
        if (!(k->isa & ~isa) && tdn_cpu_kernel_is(k, stem))
            best = k;
    return best;
}
