/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tile of a convolution: a list of pointers, for every row (output pixel) and tap, to the
 * channels it reads, or to zeros. Then it is a matrix product. Where the taps along w are merged
 * into one, a pixel at the border has its taps copied together with the zeros beside them.
 */
#include "backend/cpu/matrix.h"
#include "backend/cpu/vec.h"

typedef struct window {
    const tdn_conv_args *args;
    const tdn_view *x, *out;
    const float *data; /* of the group */
    const float *zeros;
    int64_t *offsets; /* of the taps, from a pixel's first */
    float *border;    /* the next free row for a padded pixel */
} window;

static void locate(const tdn_view *out, int64_t row, int64_t at[4])
{
    for (int i = 3; i >= 0; i--) {
        at[i] = row % out->dims[i];
        row /= out->dims[i];
    }
}

static void advance(const tdn_view *out, int64_t at[4])
{
    for (int i = 3; i >= 0; i--) {
        if (++at[i] < out->dims[i])
            return;
        at[i] = 0;
    }
}

/* Offsets of taps wrap where the tap lies outside of x; they are then not used. */
static void set_offsets(const window *w)
{
    const tdn_conv_args *a = w->args;
    const int64_t *s = w->x->strides;
    const int32_t *d = a->desc.dilation;
    int64_t *to = w->offsets;
    for (int i = 0; i < a->kernel[0]; i++)
        for (int j = 0; j < a->kernel[1]; j++)
            for (int k = 0; k < (a->merged ? 1 : a->kernel[2]); k++)
                *to++ = (int64_t)((uint64_t)i * (uint64_t)d[0] * (uint64_t)s[1] +
                                  (uint64_t)j * (uint64_t)d[1] * (uint64_t)s[2] +
                                  (uint64_t)k * (uint64_t)d[2] * (uint64_t)s[3]);
}

static bool is_inside(const window *w, const int64_t first[3])
{
    for (int i = 0; i < 3; i++)
        if (first[i] < 0 ||
            first[i] + (int64_t)(w->args->kernel[i] - 1) * w->args->desc.dilation[i] >=
                w->x->dims[i + 1])
            return false;
    return true;
}

/* One line of merged taps, from column w0 of the line at p: copied, as some of it is padding. */
static const float *pad_line(window *w, const float *line, int64_t w0)
{
    const int64_t kw = w->args->kernel[2], c = w->x->dims[4], width = w->x->dims[3];
    float *to = w->border;
    w->border += kw * c;
    const int64_t begin = tdn_cpu_min(kw, tdn_cpu_max(0, -w0));
    const int64_t end = tdn_cpu_max(begin, tdn_cpu_min(kw, width - w0));
    memset(to, 0, (size_t)(begin * c) * sizeof *to);
    if (end > begin)
        memcpy(to + begin * c, line + (w0 + begin) * c, (size_t)((end - begin) * c) * sizeof *to);
    memset(to + end * c, 0, (size_t)((kw - end) * c) * sizeof *to);
    return to;
}

/* The taps of a pixel that touches the padding, `step` pointers apart. */
static void set_border_row(window *w, const float **to, int64_t step, const float *image,
                           const int64_t first[3])
{
    const tdn_conv_args *a = w->args;
    const int64_t *s = w->x->strides, *dims = w->x->dims;
    for (int i = 0; i < a->kernel[0]; i++)
        for (int j = 0; j < a->kernel[1]; j++) {
            const int64_t z = first[0] + (int64_t)i * a->desc.dilation[0];
            const int64_t y = first[1] + (int64_t)j * a->desc.dilation[1];
            const bool inside = z >= 0 && z < dims[1] && y >= 0 && y < dims[2];
            const float *line = inside ? image + z * s[1] + y * s[2] : NULL;
            if (a->merged) {
                *to = !inside ? w->zeros
                      : first[2] >= 0 && first[2] + a->kernel[2] <= dims[3]
                          ? line + first[2] * s[3]
                          : pad_line(w, line, first[2]);
                to += step;
                continue;
            }
            for (int k = 0; k < a->kernel[2]; k++, to += step) {
                const int64_t x = first[2] + (int64_t)k * a->desc.dilation[2];
                *to = inside && x >= 0 && x < dims[3] ? line + x * s[3] : w->zeros;
            }
        }
}

static void set_row(window *w, const float **to, int64_t step, const int64_t at[4])
{
    const tdn_conv_desc *d = &w->args->desc;
    const int64_t *s = w->x->strides;
    const int64_t first[3] = {at[1] * d->stride[0] - d->pad[0], at[2] * d->stride[1] - d->pad[1],
                              at[3] * d->stride[2] - d->pad[2]};
    const float *image = w->data + at[0] * s[0];
    if (!is_inside(w, first)) {
        set_border_row(w, to, step, image, first);
        return;
    }
    const float *p = image + first[0] * s[1] + first[1] * s[2] + first[2] * s[3];
    for (int tap = 0; tap < w->args->tiling.n_taps; tap++)
        to[tap * step] = p + w->offsets[tap];
}

static void set_rows(window *w, const tdn_call *call, const tdn_tile *tile,
                     const tdn_matrix_scratch *s)
{
    const int residual = w->args->epilogue.residual;
    const int64_t n_rows = tile->row1 - tile->row0, n_taps = w->args->tiling.n_taps;
    const int64_t col = tile->outer * w->args->tiling.cols + tile->col0;
    int64_t at[4];
    locate(w->out, tile->row0, at);
    for (int64_t block = 0; block < tile->n_blocks; block++) {
        int64_t row0, row1;
        tdn_cpu_share(n_rows, block, tile->n_blocks, &row0, &row1);
        for (int64_t row = row0; row < row1; row++, advance(w->out, at)) {
            set_row(w, s->a + row0 * n_taps + (row - row0), row1 - row0, at);
            s->c[row] = (float *)w->out->data + tdn_matrix_offset(w->out, at, col);
            if (residual >= 0)
                s->residual[row] = (const float *)call->in[residual].data +
                                   tdn_matrix_offset(&call->in[residual], at, col);
        }
    }
}

static void run_epilogue(const tdn_call *call, const tdn_tile *tile, void *scratch)
{
    const tdn_conv_args *args = call->args;
    const tdn_view *out = &call->out[0];
    const int64_t col = tile->outer * args->tiling.cols;
    for (int64_t row = tile->row0; row < tile->row1;) {
        int64_t at[4];
        locate(out, row, at);
        const int64_t n = tdn_cpu_min(tile->row1 - row, out->dims[3] - at[3]);
        tdn_epilogue_run(call, &args->epilogue, at, n, col + tile->col0, col + tile->col1,
                         TDN_KERNEL(tdn_map_region), scratch);
        row += n;
    }
}

TDN_INLINE void run(const tdn_call *call, size_t number, const bool sparse)
{
    const tdn_conv_args *args = call->args;
    const tdn_tiling *t = &args->tiling;
    const tdn_epilogue *ep = &args->epilogue;
    const tdn_tile tile = tdn_tiling_tile(t, number);
    const float *packed = call->in[1].data;
    tdn_matrix_scratch s;
    tdn_matrix_scratch_set(&s, call->scratch, t, tdn_conv_extra(args, sparse));
    float *terms = s.extra, *own = s.extra + (sparse ? tdn_sparse_floats(t) : 0);
    window w = {.args = args,
                .x = &call->in[0],
                .out = &call->out[0],
                .data =
                    (const float *)call->in[0].data + tile.outer * t->k * (args->merged ? 0 : 1),
                .zeros = packed + args->desc.group * tdn_tiling_packed(t),
                .offsets = (int64_t *)(void *)own,
                .border = own + t->n_taps * 2};
    set_offsets(&w);
    set_rows(&w, call, &tile, &s);
    const int64_t col = tile.outer * t->cols + tile.col0;
    tdn_block block = {.a = s.a,
                       .c = s.c,
                       .residual = ep->residual >= 0 ? s.residual : NULL,
                       .bias = ep->bias >= 0 ? (const float *)call->in[ep->bias].data + col : NULL,
                       .b_panel = t->n_taps * t->k * TDN_NR,
                       .rows = tile.row1 - tile.row0,
                       .cols = tile.col1 - tile.col0,
                       .n_blocks = tile.n_blocks,
                       .a_taps = t->n_taps,
                       .lo = ep->lo,
                       .hi = ep->hi,
                       .spare = s.spare};
    const float *panels = packed + tile.outer * tdn_tiling_packed(t) + tile.panel0 * block.b_panel;
    if (!sparse || !TDN_KERNEL(tdn_sparse_f32)(&block, t, panels, terms))
        tdn_run_blocks(t, &block, &s, TDN_KERNEL(tdn_block_f32), panels);
    if (ep->has_program)
        run_epilogue(call, &tile, s.program);
}

void TDN_KERNEL(tdn_conv_f32)(const tdn_call *call, size_t number) { run(call, number, false); }
void TDN_KERNEL(tdn_spconv_f32)(const tdn_call *call, size_t number) { run(call, number, true); }
