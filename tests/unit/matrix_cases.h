/* SPDX-License-Identifier: Apache-2.0 */
/* What tests of matrix kernels over floats and over integers share: random convolutions, and the
 * walk over a family's list. */
#ifndef TDN_TESTS_UNIT_MATRIX_CASES_H
#define TDN_TESTS_UNIT_MATRIX_CASES_H

#include "kernels.h"

#define EPS 5.96e-8

typedef struct conv_case {
    tdn_conv_desc desc;
    int64_t x[5], w[5], out[5];
} conv_case;

static conv_case random_conv(void)
{
    conv_case c = {.desc.group = 1};
    const int n_axes = (int)random_between(1, 3);
    c.x[0] = random_between(1, 2);
    for (int i = 0; i < 3; i++) {
        const bool used = i >= 3 - n_axes;
        const int kernel = used ? (int)random_between(1, i == 0 ? 2 : 5) : 1;
        c.desc.stride[i] = used ? (int)random_between(1, 3) : 1;
        c.desc.dilation[i] = used ? (int)RANDOM_OF(1, 1, 2, 3) : 1;
        c.desc.pad[i] = used ? (int)random_between(0, kernel + 1) : 0;
        const int64_t span = (kernel - 1) * c.desc.dilation[i] + 1,
                      pad_end = used ? random_between(0, kernel) : 0;
        c.x[i + 1] = used ? random_between(1, n_axes == 1 ? 70 : 11) : 1;
        if (c.x[i + 1] + c.desc.pad[i] + pad_end < span)
            c.x[i + 1] = span;
        c.w[i + 2] = kernel;
        c.out[i + 1] = (c.x[i + 1] + c.desc.pad[i] + pad_end - span) / c.desc.stride[i] + 1;
    }
    int64_t in_group = RANDOM_OF(1, 2, 3, 5, 8, 16, 17, 33, 64, 130),
            out_group = RANDOM_OF(1, 2, 7, 8, 16, 31, 32, 33, 65);
    if (random_bits() % 3 == 0) {
        c.desc.group = (int)RANDOM_OF(2, 3, 5, 16, 37);
        in_group = RANDOM_OF(1, 1, 3, 8);
        out_group = in_group == 1 ? RANDOM_OF(1, 1, 2) : random_between(1, 9);
    }
    c.x[4] = in_group * c.desc.group;
    c.w[0] = out_group * c.desc.group;
    c.w[1] = in_group;
    c.out[0] = c.x[0];
    c.out[4] = c.w[0];
    return c;
}

/* Rows `distance` elements apart, 4 KiB, in some blocks of the sum: they are gathered. */
static conv_case far_apart_conv(int64_t distance)
{
    const int64_t taps = random_between(1, 2), stride = random_between(1, 2);
    const int64_t width = random_between(14, 20), cols = random_between(260, 300);
    return (conv_case){.desc = {.group = 1, .stride = {1, 1, (int)stride}, .dilation = {1, 1, 1}},
                       .x = {1, 1, 1, stride * (width - 1) + taps, distance / stride},
                       .w = {cols, distance / stride, 1, 1, taps},
                       .out = {1, 1, 1, width, cols}};
}

/* Kernels have no threads: the thread sanitizer, which is slow in them, gets a part of the runs. */
#ifdef __SANITIZE_THREAD__
enum { SHARE = 8, FEWEST_MADE = 0 };
#else
enum { SHARE = 1, FEWEST_MADE = 20 };
#endif

static void walk(const char *name, int (*once)(const tdn_family *, const tdn_kernel *), int n_runs)
{
    n_runs /= SHARE;
    const tdn_family *family = tdn_family_find(name);
    assert_non_null(family);
    for (const tdn_kernel *k = family->kernels; k->name; k++) {
        if (!runs_here(k))
            continue;
        int n_made = 0;
        for (int i = 0; i < n_runs; i++)
            n_made += once(family, k);
        assert_true(FEWEST_MADE == 0 || n_made > n_runs / FEWEST_MADE);
    }
}

#endif
