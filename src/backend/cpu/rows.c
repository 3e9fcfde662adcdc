/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rows of a convolution's tile: a list of pointers, for every output pixel and tap, to the
 * channels it reads, or to padding. Then it is a matrix product. Where the taps along w are merged
 * into one, a pixel at the border has its taps copied together with the padding beside them.
 */
#include "backend/cpu/rows.h"

typedef struct rows {
    const tdn_conv_args *args;
    const tdn_view *x, *out;
    int64_t x_size;      /* of an element */
    const char *data;    /* of the group */
    const char *padding; /* a tap of it */
    int64_t *offsets;    /* of the taps, in bytes from a pixel's first */
    char *border;        /* the next free row for a padded pixel */
    int64_t begin, end;  /* of the columns whose windows lie inside of x along w */
    /* Of the line of pixels at hand: */
    const char *image;
    int64_t first[2]; /* where its windows begin in x along d and h */
    int64_t start;    /* there, in bytes from the image's first; wraps where that is outside */
    bool is_inside;   /* along d and h */
} rows;

static void locate(const tdn_view *out, int64_t row, int64_t at[4])
{
    for (int i = 3; i >= 0; i--) {
        at[i] = row % out->dims[i];
        row /= out->dims[i];
    }
}

/* n pixels on, to the end of a line at most: true where that was reached. */
static bool advance(const tdn_view *out, int64_t at[4], int64_t n)
{
    at[3] += n;
    if (at[3] < out->dims[3])
        return false;
    at[3] = 0;
    for (int i = 2; i >= 0; i--) {
        if (++at[i] < out->dims[i])
            break;
        at[i] = 0;
    }
    return true;
}

/* Offsets of taps wrap where the tap lies outside of x; they are then not used. */
static void set_offsets(const rows *r)
{
    const tdn_conv_args *a = r->args;
    const int64_t *s = r->x->strides;
    const int32_t *d = a->desc.dilation;
    int64_t *to = r->offsets;
    for (int i = 0; i < a->kernel[0]; i++)
        for (int j = 0; j < a->kernel[1]; j++)
            for (int k = 0; k < (a->merged ? 1 : a->kernel[2]); k++)
                *to++ = (int64_t)(((uint64_t)i * (uint64_t)d[0] * (uint64_t)s[1] +
                                   (uint64_t)j * (uint64_t)d[1] * (uint64_t)s[2] +
                                   (uint64_t)k * (uint64_t)d[2] * (uint64_t)s[3]) *
                                  (uint64_t)r->x_size);
}

static bool are_inside(const rows *r, int axis, int64_t first)
{
    const int64_t span = (int64_t)(r->args->kernel[axis] - 1) * r->args->desc.dilation[axis];
    return first >= 0 && first + span < r->x->dims[axis + 1];
}

static void begin_line(rows *r, const int64_t at[4])
{
    const tdn_conv_desc *d = &r->args->desc;
    const int64_t *s = r->x->strides;
    r->image = r->data + at[0] * s[0] * r->x_size;
    r->is_inside = true;
    for (int i = 0; i < 2; i++) {
        r->first[i] = at[i + 1] * d->stride[i] - d->pad[i];
        r->is_inside = r->is_inside && are_inside(r, i, r->first[i]);
    }
    r->start = (int64_t)(((uint64_t)r->first[0] * (uint64_t)s[1] +
                          (uint64_t)r->first[1] * (uint64_t)s[2]) *
                         (uint64_t)r->x_size);
}

/* One line of merged taps, from column w0 of the line at p: copied, as some of it is padding. */
static const char *pad_line(rows *r, const char *line, int64_t w0)
{
    const int64_t kw = r->args->kernel[2], width = r->x->dims[3];
    const int64_t size = r->x->dims[4] * r->x_size; /* of a pixel */
    char *to = r->border;
    r->border += kw * size;
    const int64_t begin = tdn_cpu_min(kw, tdn_cpu_max(0, -w0));
    const int64_t end = tdn_cpu_max(begin, tdn_cpu_min(kw, width - w0));
    memcpy(to, r->padding, (size_t)(begin * size));
    if (end > begin)
        memcpy(to + begin * size, line + (w0 + begin) * size, (size_t)((end - begin) * size));
    memcpy(to + end * size, r->padding, (size_t)((kw - end) * size));
    return to;
}

/* The taps of a pixel that touches the padding, `step` pointers apart; its window begins at column
 * `first` of x. */
static void set_border(rows *r, const void **to, int64_t step, int64_t first)
{
    const tdn_conv_args *a = r->args;
    const int64_t *s = r->x->strides, *dims = r->x->dims;
    for (int i = 0; i < a->kernel[0]; i++)
        for (int j = 0; j < a->kernel[1]; j++) {
            const int64_t z = r->first[0] + (int64_t)i * a->desc.dilation[0];
            const int64_t y = r->first[1] + (int64_t)j * a->desc.dilation[1];
            const bool inside = z >= 0 && z < dims[1] && y >= 0 && y < dims[2];
            const char *line = inside ? r->image + (z * s[1] + y * s[2]) * r->x_size : NULL;
            if (a->merged) {
                *to = !inside ? r->padding
                      : first >= 0 && first + a->kernel[2] <= dims[3]
                          ? line + first * s[3] * r->x_size
                          : pad_line(r, line, first);
                to += step;
                continue;
            }
            for (int k = 0; k < a->kernel[2]; k++, to += step) {
                const int64_t x = first + (int64_t)k * a->desc.dilation[2];
                *to = inside && x >= 0 && x < dims[3] ? line + x * s[3] * r->x_size : r->padding;
            }
        }
}

/* Columns whose windows lie inside of x along w. */
static void find_inside(rows *r)
{
    const tdn_conv_desc *d = &r->args->desc;
    const int64_t span = (int64_t)(r->args->kernel[2] - 1) * d->dilation[2];
    const int64_t last = r->x->dims[3] - 1 - span + d->pad[2]; /* where a window may begin */
    r->begin = tdn_cpu_div_up(tdn_cpu_max(0, d->pad[2]), d->stride[2]);
    r->end = last >= 0 ? last / d->stride[2] + 1 : 0;
}

/* Columns w .. w + n of the line at hand, all inside. */
static void set_run(const rows *r, const void **to, int64_t step, int64_t w, int64_t n)
{
    const int64_t pixel = r->x->strides[3] * r->x_size, by = r->args->desc.stride[2] * pixel;
    const int n_taps = r->args->tiling.n_taps;
    const char *first = r->image + r->start + w * by - r->args->desc.pad[2] * pixel;
    for (int tap = 0; tap < n_taps; tap++, to += step) {
        const char *p = first + r->offsets[tap];
        for (int64_t i = 0; i < n; i++)
            to[i] = p + i * by;
    }
}

/* Columns w .. w + n of the line at hand: those that touch the padding one by one. */
static void set_line(rows *r, const void **to, int64_t step, int64_t w, int64_t n)
{
    const tdn_conv_desc *d = &r->args->desc;
    for (int64_t i = 0; i < n;) {
        const int64_t inside = tdn_cpu_min(r->end, w + n) - (w + i);
        if (r->is_inside && w + i >= r->begin && inside > 0) {
            set_run(r, to + i, step, w + i, inside);
            i += inside;
        } else {
            set_border(r, to + i, step, (w + i) * d->stride[2] - d->pad[2]);
            i++;
        }
    }
}

static void set_pointers(void **to, char *first, int64_t by, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = first + i * by;
}

void tdn_rows_set(const tdn_call *call, const tdn_conv_args *args, const tdn_tile *tile,
                  const tdn_matrix_scratch *s, const void *padding, float *own)
{
    const tdn_tiling *t = &args->tiling;
    const tdn_view *x = &call->in[0], *out = &call->out[0];
    rows r = {.args = args,
              .x = x,
              .out = out,
              .x_size = tdn_map_dtype_size(x->dtype),
              .data = (const char *)x->data + tile->outer * t->k * TDN_TERM_SIZE,
              .padding = padding,
              .offsets = (int64_t *)(void *)own,
              .border = (char *)(own + t->n_taps * 2)};
    const int index = args->epilogue.residual;
    const tdn_view *residual = index >= 0 ? &call->in[index] : NULL;
    const int64_t col = tile->outer * t->cols + tile->col0;
    const int64_t c_step = out->strides[3] * tdn_map_dtype_size(out->dtype);
    const int64_t more_step =
        residual ? residual->strides[3] * tdn_map_dtype_size(residual->dtype) : 0;
    int64_t at[4];
    set_offsets(&r);
    find_inside(&r);
    locate(out, tile->row0, at);
    begin_line(&r, at);
    for (int64_t block = 0; block < tile->n_blocks; block++) {
        int64_t row0, row1, n;
        tdn_cpu_share(tile->row1 - tile->row0, block, tile->n_blocks, &row0, &row1);
        for (int64_t row = row0; row < row1; row += n) {
            n = tdn_cpu_min(row1 - row, out->dims[3] - at[3]);
            set_line(&r, s->a + row0 * t->n_taps + (row - row0), row1 - row0, at[3], n);
            set_pointers(s->c + row, tdn_matrix_at(out, at, col), c_step, n);
            if (residual)
                set_pointers((void **)s->residual + row, tdn_matrix_at(residual, at, col),
                             more_step, n);
            if (advance(out, at, n))
                begin_line(&r, at);
        }
    }
}

void tdn_rows_run_epilogue(const tdn_call *call, const tdn_conv_args *args, const tdn_tile *tile,
                           float *sums, int64_t step, tdn_map_region_fn *region_fn, void *scratch)
{
    const tdn_view *out = &call->out[0];
    const int64_t col = tile->outer * args->tiling.cols;
    for (int64_t row = tile->row0; row < tile->row1;) {
        int64_t at[4];
        locate(out, row, at);
        const int64_t n = tdn_cpu_min(tile->row1 - row, out->dims[3] - at[3]);
        tdn_epilogue_run_from(call, &args->epilogue, at, n, col + tile->col0, col + tile->col1,
                              sums ? sums + (row - tile->row0) * step : NULL, step, region_fn,
                              scratch);
        row += n;
    }
}
