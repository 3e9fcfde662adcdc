/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of convolutions: direct sums in double, so that the judge of every fast path errs less
 * than any of them.
 *
 * Conv: up to four output channels share each row of the input, which is what makes it bearably
 * fast: the inner loop adds w * x to four rows of sums in scratch, and the widening of x to double
 * is paid once. A row is a piece of the innermost output axis; axes that the kernel does not look
 * along (extent 1, stride 1, no padding) are joined with the one before them first, so that a 1x1
 * or a 9x1 kernel has long rows. Sums run over kernel position, then channel, in order, whatever
 * the parts.
 */
#include "ref/ref_util.h"
#include "ref/window.h"

#include <math.h>
#include <string.h>

enum { CHANNELS = TDN_REF_ROWS, ROW = 512 };

/* Views as (n, c, d, h, w), with leading spatial axes of extent 1. */
typedef struct geometry {
    int64_t n, c, m, group;
    int64_t in[3], out[3], kernel[3], stride[3], dilation[3], before[3];
    int64_t x_stride[5], w_stride[5], y_stride[5];
} geometry;

/* The view's strides, spatial axes aligned to the right of three. */
static void align(const tdn_view *v, int64_t *strides, int64_t *extents)
{
    const int spatial = v->rank - 2;
    strides[0] = v->strides[0];
    strides[1] = v->strides[1];
    for (int i = 0; i < 3; i++) {
        const int from = i - (3 - spatial);
        strides[2 + i] = from < 0 ? 0 : v->strides[2 + from];
        extents[i] = from < 0 ? 1 : v->dims[2 + from];
    }
}

static bool fits(const tdn_ref_call *call)
{
    if (call->n_in < 2 || call->n_out < 1)
        return false;
    const tdn_view *x = &call->in[0], *w = &call->in[1], *y = &call->out[0],
                   *b = tdn_ref_in(call, 2);
    return x->rank >= 3 && x->rank <= 5 && w->rank == x->rank && y->rank == x->rank &&
           x->dims[0] == y->dims[0] && (!b || b->rank == 1);
}

static tdn_status read_geometry(const tdn_ref_call *call, geometry *g)
{
    TDN_REF_NEED(call, fits(call));
    const tdn_view *x = &call->in[0], *w = &call->in[1], *y = &call->out[0];
    *g = (geometry){.n = x->dims[0], .c = x->dims[1], .m = y->dims[1]};
    g->group = tdn_attr_int(call->attrs, "group", 1);
    TDN_REF_NEED(call, g->group > 0 && g->c % g->group == 0 && g->m % g->group == 0);
    align(x, g->x_stride, g->in);
    align(w, g->w_stride, g->kernel);
    align(y, g->y_stride, g->out);
    tdn_window window;
    const int spatial = x->rank - 2;
    const char *wrong = tdn_window_read(&window, call->attrs, spatial, x->dims + 2, w->dims + 2);
    if (wrong)
        return tdn_ref_misfit(call, wrong);
    for (int i = 0; i < 3; i++) {
        const int from = i - (3 - spatial);
        TDN_REF_NEED(call, g->out[i] < (int64_t)1 << 31);
        g->stride[i] = from < 0 ? 1 : window.stride[from];
        g->dilation[i] = from < 0 ? 1 : window.dilation[from];
        g->before[i] = from < 0 ? 0 : window.before[from];
    }
    return TDN_OK;
}

/* Joins spatial axis `at` with the one before it. */
static bool join(geometry *g, int at)
{
    const int b = at - 1;
    const bool plain =
        g->kernel[at] == 1 && g->stride[at] == 1 && g->before[at] == 0 && g->in[at] == g->out[at];
    if (!plain || g->stride[b] != 1 || g->x_stride[2 + b] != g->in[at] * g->x_stride[2 + at] ||
        g->y_stride[2 + b] != g->out[at] * g->y_stride[2 + at])
        return false;
    const int64_t width = g->in[at];
    g->in[at] *= g->in[b];
    g->out[at] *= g->out[b];
    g->kernel[at] = g->kernel[b];
    g->dilation[at] = g->dilation[b] * width;
    g->before[at] = g->before[b] * width;
    g->w_stride[2 + at] = g->w_stride[2 + b];
    for (int i = b; i >= 0; i--) { /* the axes before move up */
        const bool first = i == 0;
        g->in[i] = first ? 1 : g->in[i - 1];
        g->out[i] = first ? 1 : g->out[i - 1];
        g->kernel[i] = first ? 1 : g->kernel[i - 1];
        g->stride[i] = first ? 1 : g->stride[i - 1];
        g->dilation[i] = first ? 1 : g->dilation[i - 1];
        g->before[i] = first ? 0 : g->before[i - 1];
        g->x_stride[2 + i] = first ? 0 : g->x_stride[1 + i];
        g->w_stride[2 + i] = first ? 0 : g->w_stride[1 + i];
        g->y_stride[2 + i] = first ? 0 : g->y_stride[1 + i];
    }
    return true;
}

/* Of the outputs [begin, end) those whose window position k lies inside of the input. */
static void inside(const geometry *g, int axis, int64_t k, int64_t *begin, int64_t *end)
{
    const int64_t shift = g->before[axis] - k * g->dilation[axis], s = g->stride[axis];
    const int64_t low = shift <= 0 ? 0 : (shift + s - 1) / s;
    const int64_t last = g->in[axis] - 1 + shift, high = last < 0 ? 0 : last / s + 1;
    *begin = *begin > low ? *begin : low;
    *end = *end < high ? *end : high;
}

/* Where output position o looks with kernel position k; false where that is padding. */
static bool look(const geometry *g, int axis, int64_t o, int64_t k, int64_t *i)
{
    *i = o * g->stride[axis] + k * g->dilation[axis] - g->before[axis];
    return *i >= 0 && *i < g->in[axis];
}

/* A piece of a row: `rows` output channels from m on, outputs [begin, end) of the last axis at (d,
 * h). */
typedef struct piece {
    int64_t n, m, d, h, begin, end;
    int rows;
} piece;

/* One kernel position: where its input row begins in channel 0 of the group, and its weights. */
typedef struct tap {
    int64_t x_at, x_step; /* of the row's elements */
    int64_t w_at;         /* of input channel 0 and output channel p->m */
    int64_t shift, n;     /* which outputs of the piece see it */
} tap;

/* Adds what input channels [c, c + n_c) give through one kernel position. */
static void add_channels(const tdn_ref_call *call, const geometry *g, const piece *p, const tap *t,
                         int64_t c, int n_c, double *acc)
{
    const tdn_view *x = &call->in[0], *w = &call->in[1];
    double weights[TDN_REF_TERMS][CHANNELS] = {{0}};
    const float *rows[TDN_REF_TERMS];
    for (int k = 0; k < n_c; k++)
        for (int r = 0; r < p->rows; r++)
            weights[k][r] = tdn_ref_get(w, t->w_at + r * g->w_stride[0] + (c + k) * g->w_stride[1]);
    if (x->dtype == TDN_F32 && p->rows > 1) {
        for (int k = 0; k < n_c; k++)
            rows[k] = (const float *)x->data + t->x_at + (c + k) * g->x_stride[1];
        tdn_ref_add_rows(acc + t->shift, ROW, rows, n_c, t->x_step,
                         (const double(*)[CHANNELS])weights, t->n);
        return;
    }
    for (int k = 0; k < n_c; k++)
        for (int64_t i = 0; i < t->n; i++) {
            const double v = tdn_ref_get(x, t->x_at + (c + k) * g->x_stride[1] + i * t->x_step);
            for (int r = 0; r < p->rows; r++)
                acc[r * ROW + t->shift + i] += weights[k][r] * v;
        }
}

static void add_tap(const tdn_ref_call *call, const geometry *g, const piece *p, const int64_t *k,
                    double *acc)
{
    const int64_t per_in = g->c / g->group, first = p->m / (g->m / g->group) * per_in;
    int64_t d, h, begin = p->begin, end = p->end;
    if (!look(g, 0, p->d, k[0], &d) || !look(g, 1, p->h, k[1], &h))
        return;
    inside(g, 2, k[2], &begin, &end);
    if (begin >= end)
        return;
    const int64_t at = begin * g->stride[2] + k[2] * g->dilation[2] - g->before[2];
    const tap t = {
        .x_at = p->n * g->x_stride[0] + first * g->x_stride[1] + d * g->x_stride[2] +
                h * g->x_stride[3] + at * g->x_stride[4],
        .x_step = g->stride[2] * g->x_stride[4],
        .w_at = p->m * g->w_stride[0] + k[0] * g->w_stride[2] + k[1] * g->w_stride[3] +
                k[2] * g->w_stride[4],
        .shift = begin - p->begin,
        .n = end - begin,
    };
    for (int64_t c = 0; c < per_in; c += TDN_REF_TERMS)
        add_channels(call, g, p, &t, c,
                     (int)(per_in - c < TDN_REF_TERMS ? per_in - c : TDN_REF_TERMS), acc);
}

static void do_piece(const tdn_ref_call *call, const geometry *g, const piece *p, double *acc)
{
    const tdn_view *b = tdn_ref_in(call, 2), *y = &call->out[0];
    const int64_t n = p->end - p->begin;
    for (int r = 0; r < CHANNELS; r++) {
        const double bias = b && r < p->rows ? tdn_ref_get(b, (p->m + r) * b->strides[0]) : 0;
        for (int64_t i = 0; i < n; i++)
            acc[r * ROW + i] = bias;
    }
    for (tdn_walk k = tdn_walk_begin(3, g->kernel); k.more; tdn_walk_next(&k))
        add_tap(call, g, p, k.index, acc);
    for (int r = 0; r < p->rows; r++) {
        const int64_t at = p->n * g->y_stride[0] + (p->m + r) * g->y_stride[1] +
                           p->d * g->y_stride[2] + p->h * g->y_stride[3] +
                           p->begin * g->y_stride[4];
        for (int64_t i = 0; i < n; i++)
            tdn_ref_set(y, at + i * g->y_stride[4], acc[r * ROW + i]);
    }
}

/* Blocks of up to CHANNELS output channels of one group. */
static int64_t n_blocks(int64_t n, int64_t m, int64_t group)
{
    return n * group * ((m / group + CHANNELS - 1) / CHANNELS);
}

static tdn_status conv(const tdn_ref_call *call)
{
    geometry g;
    TDN_TRY(read_geometry(call, &g));
    const tdn_view *w = &call->in[1], *b = tdn_ref_in(call, 2);
    TDN_REF_NEED(call,
                 w->dims[0] == g.m && w->dims[1] == g.c / g.group && (!b || b->dims[0] == g.m));
    if (join(&g, 2))
        join(&g, 2);
    const int64_t per_group = g.m / g.group, blocks = (per_group + CHANNELS - 1) / CHANNELS;
    int64_t unit, end;
    tdn_ref_share(n_blocks(g.n, g.m, g.group), call->part, call->n_parts, &unit, &end);
    for (; unit < end; unit++) {
        const int64_t in_group = unit % blocks * CHANNELS, left = per_group - in_group;
        piece p = {.n = unit / blocks / g.group, .rows = (int)(left < CHANNELS ? left : CHANNELS)};
        p.m = unit / blocks % g.group * per_group + in_group;
        for (p.d = 0; p.d < g.out[0]; p.d++)
            for (p.h = 0; p.h < g.out[1]; p.h++)
                for (p.begin = 0; p.begin < g.out[2]; p.begin = p.end) {
                    p.end = p.begin + ROW < g.out[2] ? p.begin + ROW : g.out[2];
                    do_piece(call, &g, &p, call->scratch);
                }
    }
    return TDN_OK;
}

static size_t conv_scratch(const tdn_ref_call *call)
{
    (void)call;
    return CHANNELS * ROW * sizeof(double);
}

static int conv_parts(const tdn_ref_call *call)
{
    if (!fits(call))
        return 1;
    const int64_t group = tdn_attr_int(call->attrs, "group", 1);
    const int64_t n = group > 0 ? n_blocks(call->in[0].dims[0], call->out[0].dims[1], group) : 1;
    return n < 1 ? 1 : n > 256 ? 256 : (int)n;
}

/* ---- Transposed ------------------------------------------------------------------------------ */

/* The padding before each axis, where the shape of the output decides
 * it (auto_pad, output_shape). */
static void transposed_padding(const tdn_ref_call *call, geometry *g)
{
    int n_shape, n_extra;
    const int spatial = call->in[0].rank - 2;
    const char *mode = tdn_attr_string(call->attrs, "auto_pad", "NOTSET");
    const int64_t *extra = tdn_attr_ints(call->attrs, "output_padding", &n_extra);
    const bool same = !strncmp(mode, "SAME", 4);
    tdn_attr_ints(call->attrs, "output_shape", &n_shape);
    if (!same && !n_shape)
        return;
    for (int i = 3 - spatial; i < 3; i++) {
        const int from = i - (3 - spatial);
        int64_t total =
            (g->in[i] - 1) * g->stride[i] + (g->kernel[i] - 1) * g->dilation[i] + 1 - g->out[i];
        total += from < n_extra ? extra[from] : 0;
        total = total < 0 ? 0 : total;
        g->before[i] = !strcmp(mode, "SAME_UPPER") ? total / 2 : total - total / 2;
    }
}

/* The kernel positions first .. end through which an output position may see an input. */
static void look_range(const geometry *g, int axis, int64_t o, int64_t *first, int64_t *end)
{
    const int64_t at = o + g->before[axis], beyond = at - g->in[axis] * g->stride[axis];
    *first = beyond < 0 ? 0 : beyond / g->dilation[axis] + 1;
    *end = at < 0 ? 0 : at / g->dilation[axis] + 1;
    *end = *end < g->kernel[axis] ? *end : g->kernel[axis];
}

/* Which input an output position sees through kernel position k. */
static bool look_back(const geometry *g, int axis, int64_t o, int64_t k, int64_t *i)
{
    const int64_t at = o + g->before[axis] - k * g->dilation[axis];
    *i = at / g->stride[axis];
    return at >= 0 && at % g->stride[axis] == 0 && *i < g->in[axis];
}

static double transposed_sum(const tdn_ref_call *call, const geometry *g, int64_t n, int64_t m,
                             const int64_t o[3])
{
    const tdn_view *x = &call->in[0], *w = &call->in[1];
    const int64_t per_in = g->c / g->group, per_out = g->m / g->group, first = m / per_out * per_in;
    double sum = 0;
    int64_t d, h, i, k0[3], k1[3];
    for (int axis = 0; axis < 3; axis++)
        look_range(g, axis, o[axis], &k0[axis], &k1[axis]);
    for (int64_t kd = k0[0]; kd < k1[0]; kd++)
        for (int64_t kh = k0[1]; look_back(g, 0, o[0], kd, &d) && kh < k1[1]; kh++)
            for (int64_t kw = k0[2]; look_back(g, 1, o[1], kh, &h) && kw < k1[2]; kw++) {
                if (!look_back(g, 2, o[2], kw, &i))
                    continue;
                const int64_t x_at = n * g->x_stride[0] + d * g->x_stride[2] + h * g->x_stride[3] +
                                     i * g->x_stride[4];
                const int64_t w_at = m % per_out * g->w_stride[1] + kd * g->w_stride[2] +
                                     kh * g->w_stride[3] + kw * g->w_stride[4];
                for (int64_t c = first; c < first + per_in; c++)
                    sum += tdn_ref_get(x, x_at + c * g->x_stride[1]) *
                           tdn_ref_get(w, w_at + c * g->w_stride[0]);
            }
    return sum;
}

static tdn_status conv_transpose(const tdn_ref_call *call)
{
    geometry g;
    TDN_TRY(read_geometry(call, &g));
    const tdn_view *w = &call->in[1], *y = &call->out[0], *b = tdn_ref_in(call, 2);
    TDN_REF_NEED(call,
                 w->dims[0] == g.c && w->dims[1] == g.m / g.group && (!b || b->dims[0] == g.m));
    transposed_padding(call, &g);
    int64_t unit, end;
    tdn_ref_share(g.n * g.m, call->part, call->n_parts, &unit, &end);
    for (; unit < end; unit++) {
        const int64_t n = unit / g.m, m = unit % g.m;
        const double bias = b ? tdn_ref_get(b, m * b->strides[0]) : 0;
        for (tdn_walk o = tdn_walk_begin(3, g.out); o.more; tdn_walk_next(&o)) {
            const int64_t at = n * g.y_stride[0] + m * g.y_stride[1] + o.index[0] * g.y_stride[2] +
                               o.index[1] * g.y_stride[3] + o.index[2] * g.y_stride[4];
            tdn_ref_set(y, at, bias + transposed_sum(call, &g, n, m, o.index));
        }
    }
    return TDN_OK;
}

static int planes(const tdn_ref_call *call)
{
    const int64_t n = fits(call) ? call->out[0].dims[0] * call->out[0].dims[1] : 1;
    return n < 1 ? 1 : n > 256 ? 256 : (int)n;
}

/* ---- Deformable ------------------------------------------------------------------------------ */

/* x at a real position (h, w) of a plane, by bilinear interpolation; 0 outside. */
static double bilinear(const tdn_view *x, int64_t plane, double h, double w)
{
    const double top = floor(h), left = floor(w);
    double sum = 0;
    if (!(h > -1 && w > -1 && h < (double)x->dims[2] && w < (double)x->dims[3]))
        return 0;
    for (int k = 0; k < 4; k++) {
        const int64_t i = (int64_t)top + (k >> 1), j = (int64_t)left + (k & 1);
        const double a = k >> 1 ? h - top : 1 - (h - top), b = k & 1 ? w - left : 1 - (w - left);
        if (i >= 0 && j >= 0 && i < x->dims[2] && j < x->dims[3])
            sum += a * b * tdn_ref_get(x, plane + i * x->strides[2] + j * x->strides[3]);
    }
    return sum;
}

/* The offsets (2 a kernel position) and the mask of one output position. */
static double deformed_sum(const tdn_ref_call *call, const geometry *g, int64_t n, int64_t m,
                           int64_t oh, int64_t ow)
{
    const tdn_view *x = &call->in[0], *w = &call->in[1], *offset = &call->in[2],
                   *mask = tdn_ref_in(call, 4);
    const int64_t per_in = g->c / g->group, first = m / (g->m / g->group) * per_in;
    const int64_t groups = tdn_attr_int(call->attrs, "offset_group", 1),
                  taps = g->kernel[1] * g->kernel[2];
    const int64_t o_at = n * offset->strides[0] + oh * offset->strides[2] + ow * offset->strides[3];
    const int64_t m_at =
        mask ? n * mask->strides[0] + oh * mask->strides[2] + ow * mask->strides[3] : 0;
    double sum = 0;
    for (int64_t c = 0; c < per_in; c++) {
        const int64_t og = (first + c) / (g->c / groups);
        for (int64_t k = 0; k < taps; k++) {
            const int64_t kh = k / g->kernel[2], kw = k % g->kernel[2], at = og * taps + k;
            const double dh = tdn_ref_get(offset, o_at + 2 * at * offset->strides[1]);
            const double dw = tdn_ref_get(offset, o_at + (2 * at + 1) * offset->strides[1]);
            const double h = (double)(oh * g->stride[1] + kh * g->dilation[1] - g->before[1]) + dh;
            const double v = (double)(ow * g->stride[2] + kw * g->dilation[2] - g->before[2]) + dw;
            const double scale = mask ? tdn_ref_get(mask, m_at + at * mask->strides[1]) : 1;
            const double weight = tdn_ref_get(w, m * w->strides[0] + c * w->strides[1] +
                                                     kh * w->strides[2] + kw * w->strides[3]);
            sum +=
                weight * scale * bilinear(x, n * x->strides[0] + (first + c) * x->strides[1], h, v);
        }
    }
    return sum;
}

static bool deform_fits(const tdn_ref_call *call, const geometry *g)
{
    const tdn_view *w = &call->in[1], *y = &call->out[0], *offset = &call->in[2],
                   *b = tdn_ref_in(call, 3);
    const tdn_view *mask = tdn_ref_in(call, 4);
    const int64_t groups = tdn_attr_int(call->attrs, "offset_group", 1),
                  taps = g->kernel[1] * g->kernel[2];
    if (groups < 1 || groups > g->c || g->c % groups || w->dims[0] != g->m ||
        w->dims[1] != g->c / g->group)
        return false;
    for (int i = 0; i < 2; i++) { /* offset, then mask */
        const tdn_view *v = i ? mask : offset;
        const int64_t channels = groups * taps * (i ? 1 : 2);
        if (v && (v->rank != 4 || v->dims[0] != g->n || v->dims[1] != channels ||
                  v->dims[2] != y->dims[2] || v->dims[3] != y->dims[3]))
            return false;
    }
    return !b || (b->rank == 1 && b->dims[0] == g->m);
}

static tdn_status deform_conv(const tdn_ref_call *call)
{
    geometry g;
    TDN_REF_NEED(call, call->n_in >= 3 && call->in[0].rank == 4);
    tdn_ref_call plain = *call; /* input 2 is not the bias here */
    plain.n_in = 2;
    TDN_TRY(read_geometry(&plain, &g));
    TDN_REF_NEED(call, deform_fits(call, &g));
    const tdn_view *y = &call->out[0], *b = tdn_ref_in(call, 3);
    const tdn_view plane = {.rank = 2, .strides = {y->strides[2], y->strides[3]}};
    int64_t unit, end;
    tdn_ref_share(g.n * g.m, call->part, call->n_parts, &unit, &end);
    for (; unit < end; unit++) {
        const int64_t n = unit / g.m, m = unit % g.m;
        for (tdn_walk o = tdn_walk_begin(2, y->dims + 2); o.more; tdn_walk_next(&o)) {
            const double sum = deformed_sum(call, &g, n, m, o.index[0], o.index[1]);
            const int64_t at = n * y->strides[0] + m * y->strides[1] + tdn_walk_offset(&o, &plane);
            tdn_ref_set(y, at, sum + (b ? tdn_ref_get(b, m * b->strides[0]) : 0));
        }
    }
    return TDN_OK;
}

static int deform_parts(const tdn_ref_call *call)
{
    const int64_t n =
        call->n_out && call->out[0].rank == 4 ? call->out[0].dims[0] * call->out[0].dims[1] : 1;
    return n < 1 ? 1 : n > 256 ? 256 : (int)n;
}

const tdn_ref_def tdn_refs_conv[] = {
    {"Conv", conv, conv_scratch, conv_parts},
    {"ConvTranspose", conv_transpose, NULL, planes},
    {"DeformConv", deform_conv, NULL, deform_parts},
    {0},
};
