/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tile of a Winograd convolution: patches of the input transformed channel by channel, a product
 * at each point, and the products transformed back, with the epilogue, into the output's pixels.
 * Along two axes a patch is transformed by the one, then by the other, some channels at a time.
 *
 * The transforms' matrices are constants of which the compiler keeps what is not zero. Rows at
 * opposite points p, -p share their even and their odd half.
 */
#include <math.h>

#include "backend/cpu/vec.h"
#include "backend/cpu/wino.h"
#include "backend/cpu/wino_tables.h"

/* ---- Transforms of one axis, over n channels ------------------------------------------------- */

/* Rows of input have room up to a whole vector unless they are pixels (`exact`). */
typedef void in_fn(const float *const *in, int64_t in_at, bool exact, float *const *out,
                   int64_t out_at, int64_t n);

/* What follows the last transform, and how many of its outputs are inside. */
typedef struct finish {
    const float *bias;
    const float *const *residual;
    float lo, hi;
    int n_valid;
} finish;
typedef void out_fn(const float *const *in, int64_t in_at, float *const *out, int64_t out_at,
                    int64_t n, const finish *f);

/* The sum over columns k = first, first + step ... of row[k] * x[k]. */
TDN_INLINE vf dot(const float *row, const vf *x, const int first, const int step, const int n)
{
    vf sum = {0};
    bool any = false;
    TDN_UNROLLED (int k = first; k < n; k += step) {
        if (row[k] == 0)
            continue;
        sum = any ? sum + vf_set(row[k]) * x[k] : vf_set(row[k]) * x[k];
        any = true;
    }
    return sum;
}

TDN_INLINE void apply_in(const float *bt, const vf *x, vf *y, const int n, const int pairs,
                         const int symmetric)
{
    const int shared = symmetric ? 2 * pairs : 0;
    y[0] = dot(bt, x, 0, 1, n);
    TDN_UNROLLED (int i = 1; i < shared; i += 2) {
        const vf even = dot(bt + i * n, x, 0, 2, n), odd = dot(bt + i * n, x, 1, 2, n);
        y[i] = even + odd;
        y[i + 1] = even - odd;
    }
    TDN_UNROLLED (int i = 1 + shared; i < n; i++)
        y[i] = dot(bt + i * n, x, 0, 1, n);
}

/* Columns at p and -p are equal in even rows, opposite in odd ones. */
TDN_INLINE void apply_out(const float *at, const vf *x, vf *y, const int m, const int n,
                          const int pairs)
{
    vf both[2][TDN_WINO_MAX_POINTS]; /* [odd row][column]: the pair's sum and difference */
    TDN_UNROLLED (int k = 0; k < n; k++)
        both[0][k] = both[1][k] = x[k];
    TDN_UNROLLED (int k = 1; k < 1 + 2 * pairs; k += 2) {
        both[0][k] = x[k] + x[k + 1];
        both[1][k] = x[k] - x[k + 1];
    }
    TDN_UNROLLED (int i = 0; i < m; i++) {
        vf sum = {0};
        bool any = false;
        TDN_UNROLLED (int k = 0; k < n; k++) {
            const bool second = k > 0 && k <= 2 * pairs && k % 2 == 0;
            if (second || at[i * n + k] == 0)
                continue;
            const vf term = vf_set(at[i * n + k]) * both[i % 2][k];
            sum = any ? sum + term : term;
            any = true;
        }
        y[i] = sum;
    }
}

TDN_INLINE void store_finished(const finish *f, const vf *y, float *const *out, int64_t out_at,
                               const int m, int lanes)
{
    const bool whole = lanes == TDN_LANES;
    const vf bias = !f->bias ? (vf){0}
                    : whole  ? vf_load(f->bias + out_at)
                             : vf_load_n(f->bias + out_at, lanes);
    TDN_UNROLLED (int i = 0; i < m; i++) {
        if (i >= f->n_valid)
            break;
        vf r = y[i] + bias;
        if (f->residual)
            r += whole ? vf_load(f->residual[i] + out_at)
                       : vf_load_n(f->residual[i] + out_at, lanes);
        r = vf_min(vf_set(f->hi), vf_max(vf_set(f->lo), r));
        if (whole)
            vf_store(out[i] + out_at, r);
        else
            vf_store_n(out[i] + out_at, r, lanes);
    }
}

#define TRANSFORMS(m, r, pairs, symmetric)                                                         \
    static void in_##m##_##r(const float *const *in, int64_t in_at, bool exact, float *const *out, \
                             int64_t out_at, int64_t n)                                            \
    {                                                                                              \
        enum { POINTS = m + r - 1 };                                                               \
        for (int64_t c = 0; c < n; c += TDN_LANES) {                                               \
            vf x[POINTS], y[POINTS];                                                               \
            if (exact && n - c < TDN_LANES)                                                        \
                for (int i = 0; i < POINTS; i++)                                                   \
                    x[i] = vf_load_n(in[i] + in_at + c, (int)(n - c));                             \
            else                                                                                   \
                TDN_UNROLLED (int i = 0; i < POINTS; i++)                                          \
                    x[i] = vf_load(in[i] + in_at + c);                                             \
            apply_in(wino_bt_##m##_##r, x, y, POINTS, pairs, symmetric);                           \
            TDN_UNROLLED (int i = 0; i < POINTS; i++)                                              \
                vf_store(out[i] + out_at + c, y[i]);                                               \
        }                                                                                          \
    }                                                                                              \
    static void out_##m##_##r(const float *const *in, int64_t in_at, float *const *out,            \
                              int64_t out_at, int64_t n, const finish *f)                          \
    {                                                                                              \
        enum { POINTS = m + r - 1 };                                                               \
        for (int64_t c = 0; c < n; c += TDN_LANES) {                                               \
            vf x[POINTS], y[m];                                                                    \
            TDN_UNROLLED (int i = 0; i < POINTS; i++)                                              \
                x[i] = vf_load(in[i] + in_at + c);                                                 \
            apply_out(wino_at_##m##_##r, x, y, m, POINTS, pairs);                                  \
            if (f)                                                                                 \
                store_finished(f, y, out, out_at + c, m, (int)tdn_cpu_min(TDN_LANES, n - c));      \
            else                                                                                   \
                TDN_UNROLLED (int i = 0; i < m; i++)                                               \
                    vf_store(out[i] + out_at + c, y[i]);                                           \
        }                                                                                          \
    }
WINO_SIZES(TRANSFORMS)

#define TRANSFORM_ROW(m, r, pairs, symmetric) {in_##m##_##r, out_##m##_##r},
static const struct {
    in_fn *in;
    out_fn *out;
} transforms[] = {{NULL, NULL}, WINO_SIZES(TRANSFORM_ROW)}; /* as tdn_wino_sizes */

/* ---- A tile ---------------------------------------------------------------------------------- */

enum { MAX_PATCH = TDN_WINO_MAX_POINTS * TDN_WINO_MAX_POINTS };

/* Where a patch's numbers lie: the same for all of a tile, but for an offset. */
typedef struct lists {
    float *half[MAX_PATCH];         /* [h][w]: between the two axes */
    const float *column[MAX_PATCH]; /* [w][h]: the same */
    float *v[MAX_PATCH];            /* [w][h], of the first row */
    const float *m[MAX_PATCH];      /* [w][h], of the first row */
    float *back[MAX_PATCH];         /* [w][m of h]: between the axes, on the way back */
    const float *line[MAX_PATCH];   /* [m of h][w]: the same */
} lists;

typedef struct work {
    const tdn_wino_args *args;
    const tdn_call *call;
    const tdn_tile *tile;
    tdn_wino_scratch s;
    float *v, *m, *patch;
    const float *zeros;
    lists lists;
} work;

static void set_lists(work *w)
{
    const tdn_wino_axis *axis = w->args->axis;
    const int n_h = axis[0].n_points, n_w = axis[1].n_points, m_h = axis[0].m;
    lists *l = &w->lists;
    for (int i = 0; i < n_h; i++)
        for (int k = 0; k < n_w; k++) {
            const int point = i * n_w + k;
            l->half[point] = w->patch + point * TDN_WINO_CHUNK;
            l->column[k * n_h + i] = l->half[point];
            l->v[k * n_h + i] = w->v + point * w->s.v_stride;
            l->m[k * n_h + i] = w->m + point * w->s.m_stride;
            if (i < m_h) {
                l->back[k * m_h + i] = l->half[point];
                l->line[point] = l->half[point];
            }
        }
}

/* A patch: image and depth, its number and its first output along h and w. */
typedef struct spot {
    int64_t image, depth, at[2], first[2];
} spot;

static void set_first(const work *w, spot *p, int i)
{
    const tdn_wino_axis *axis = &w->args->axis[i];
    p->first[i] =
        p->at[i] / axis->a_residue + p->at[i] % axis->a_residue * axis->m * axis->dilation;
}

static spot first_spot(const work *w)
{
    const tdn_wino_axis *axis = w->args->axis;
    int64_t row = w->tile->row0;
    spot p;
    for (int i = 1; i >= 0; i--) {
        p.at[i] = row % axis[i].n_patches;
        row /= axis[i].n_patches;
        set_first(w, &p, i);
    }
    p.depth = row % w->call->out[0].dims[1];
    p.image = row / w->call->out[0].dims[1];
    return p;
}

static void next_spot(const work *w, spot *p)
{
    const tdn_wino_axis *axis = w->args->axis;
    for (int i = 1; i >= 0; i--) {
        const bool wraps = ++p->at[i] == axis[i].n_patches;
        if (wraps)
            p->at[i] = 0;
        set_first(w, p, i);
        if (!wraps)
            return;
    }
    if (++p->depth == w->call->out[0].dims[1]) {
        p->depth = 0;
        p->image++;
    }
}

/* Pointers to the patch's inputs of one phase, or to zeros: [h][w]. */
static void locate_inputs(const work *w, const spot *p, int phase, const float **to)
{
    const tdn_wino_axis *axis = w->args->axis;
    const tdn_view *x = &w->call->in[0];
    const int at[2] = {phase / axis[1].phases, phase % axis[1].phases};
    int64_t begin[2], step[2];
    for (int i = 0; i < 2; i++) {
        begin[i] = p->first[i] * axis[i].stride + at[i] - axis[i].pad;
        step[i] = axis[i].phases * axis[i].dilation;
    }
    const float *image =
        (const float *)x->data + p->image * x->strides[0] + p->depth * x->strides[1];
    for (int i = 0; i < axis[0].n_points; i++) {
        const int64_t h = begin[0] + i * step[0];
        const bool inside = h >= 0 && h < x->dims[2];
        for (int k = 0; k < axis[1].n_points; k++) {
            const int64_t v = begin[1] + k * step[1];
            *to++ = inside && v >= 0 && v < x->dims[3]
                        ? image + h * x->strides[2] + v * x->strides[3]
                        : w->zeros;
        }
    }
}

/* `to`: where in each point's rows the patch goes. */
static void transform_patch(const work *w, const float *const *pixels, int64_t to)
{
    const tdn_wino_axis *axis = w->args->axis;
    const lists *l = &w->lists;
    const int n_h = axis[0].n_points, n_w = axis[1].n_points;
    const int64_t c = w->args->tiling.k;
    if (n_h == 1 || n_w == 1) {
        transforms[n_h == 1 ? axis[1].size : axis[0].size].in(pixels, 0, true, l->v, to, c);
        return;
    }
    for (int64_t at = 0; at < c; at += TDN_WINO_CHUNK) {
        const int64_t n = tdn_cpu_min(TDN_WINO_CHUNK, c - at);
        for (int i = 0; i < n_h; i++)
            transforms[axis[1].size].in(pixels + i * n_w, at, true, l->half + i * n_w, 0, n);
        for (int k = 0; k < n_w; k++)
            transforms[axis[0].size].in(l->column + k * n_h, 0, false, l->v + k * n_h, to + at, n);
    }
}

static void transform_inputs(const work *w)
{
    const int64_t rows = w->args->tiling.max_rows;
    const float *pixels[MAX_PATCH];
    spot p = first_spot(w);
    for (int64_t row = w->tile->row0; row < w->tile->row1; row++, next_spot(w, &p))
        for (int phase = 0; phase < w->args->tiling.n_taps; phase++) {
            locate_inputs(w, &p, phase, pixels);
            transform_patch(w, pixels, (phase * rows + row - w->tile->row0) * w->s.row_stride);
        }
}

/* The products at each point, for the block's panels, whose `weights` are the first point's; `next`
 * come after them, or NULL. */
static void multiply(const work *w, tdn_matrix_scratch *s, tdn_block *block, const char *weights,
                     const void *next)
{
    const tdn_tiling *t = &w->args->tiling;
    const int64_t n_rows = w->tile->row1 - w->tile->row0;
    const int64_t a_point = tdn_tiling_packed(t) * tdn_weight_size(w->args->is_half);
    const int n_points = tdn_wino_points(w->args);
    for (int point = 0; point < n_points; point++, weights += a_point) {
        const void **to = s->a;
        for (int64_t i = 0; i < w->tile->n_blocks; i++) {
            int64_t row0, row1;
            tdn_cpu_share(n_rows, i, w->tile->n_blocks, &row0, &row1);
            for (int64_t phase = 0; phase < t->n_taps; phase++)
                for (int64_t row = row0; row < row1; row++)
                    *to++ = w->v + point * w->s.v_stride +
                            (phase * t->max_rows + row) * w->s.row_stride;
        }
        for (int64_t row = 0; row < n_rows; row++)
            s->c[row] = w->m + point * w->s.m_stride + row * w->s.m_row_stride;
        tdn_run_blocks(t, block, s, TDN_KERNEL(tdn_block_f32), weights,
                       next && point + 1 < n_points ? weights + a_point : next);
    }
}

/* How many of a patch's outputs are inside. */
static void count_inside(const work *w, const spot *p, int valid[2])
{
    for (int i = 0; i < 2; i++) {
        const tdn_wino_axis *axis = &w->args->axis[i];
        const int64_t left = w->call->out[0].dims[2 + i] - p->first[i];
        const int64_t n = left > axis->m * axis->dilation ? axis->m
                          : left > 0                      ? tdn_cpu_div_up(left, axis->dilation)
                                                          : 0;
        valid[i] = (int)tdn_cpu_min(axis->m, n);
    }
}

/* A view's element of the patch's first pixel, column col. */
static int64_t first_pixel(const tdn_view *v, const spot *p, int64_t col)
{
    const int64_t at[4] = {p->image, p->depth, p->first[0], p->first[1]};
    return tdn_matrix_offset(v, at, col);
}

/* One patch's columns col0.. of n back to pixels; `from`: where its row begins in m. */
static void finish_patch(const work *w, const spot *p, int64_t from, int64_t col0, int64_t n)
{
    const tdn_wino_axis *axis = w->args->axis;
    const tdn_epilogue *ep = &w->args->epilogue;
    const lists *l = &w->lists;
    const tdn_view *out = &w->call->out[0];
    const tdn_view *res = ep->residual >= 0 ? &w->call->in[ep->residual] : NULL;
    const int n_h = axis[0].n_points, n_w = axis[1].n_points;
    const bool both = n_h > 1 && n_w > 1;
    const int line = both || n_h == 1; /* the axis of the last transform */
    const int64_t step = out->strides[2 + line] * axis[line].dilation;
    const int64_t res_step = res ? res->strides[2 + line] * axis[line].dilation : 0;
    int valid[2];
    count_inside(w, p, valid);
    if (valid[0] == 0 || valid[1] == 0)
        return;
    float *pixel = (float *)out->data + first_pixel(out, p, col0), *to[TDN_WINO_MAX_POINTS];
    const float *more[TDN_WINO_MAX_POINTS];
    const float *res_pixel = res ? (const float *)res->data + first_pixel(res, p, col0) : NULL;
    const float *bias = ep->bias >= 0 ? (const float *)w->call->in[ep->bias].data + col0 : NULL;
    finish f = {.lo = ep->lo, .hi = ep->hi, .n_valid = valid[line]};
    f.residual = res ? more : NULL;
    const int n_lines = both ? valid[0] : 1;
    const int64_t chunk = both ? TDN_WINO_CHUNK : n;
    for (int64_t at = 0; at < n; at += chunk) {
        const int64_t some = tdn_cpu_min(chunk, n - at);
        for (int k = 0; both && k < n_w; k++)
            transforms[axis[0].size].out(l->m + k * n_h, from + at, l->back + k * axis[0].m, 0,
                                         some, NULL);
        f.bias = bias ? bias + at : NULL;
        for (int i = 0; i < n_lines; i++) {
            const int64_t shift = i * axis[0].dilation;
            for (int k = 0; k < f.n_valid; k++) {
                to[k] = pixel + shift * out->strides[2] + k * step + at;
                if (res)
                    more[k] = res_pixel + shift * res->strides[2] + k * res_step + at;
            }
            if (both)
                transforms[axis[1].size].out(l->line + i * n_w, 0, to, 0, some, &f);
            else
                transforms[axis[line].size].out(l->m, from, to, 0, some, &f);
        }
    }
}

static void finish_patches(const work *w, int64_t col0, int64_t n)
{
    spot p = first_spot(w);
    for (int64_t row = 0; row < w->tile->row1 - w->tile->row0; row++, next_spot(w, &p))
        finish_patch(w, &p, row * w->s.m_row_stride, col0, n);
}

/* The epilogue's program over the tile's pixels, a patch's line at a time. */
static void run_program(const work *w, int64_t col0, int64_t n, void *scratch)
{
    const tdn_wino_axis *axis = w->args->axis;
    spot p = first_spot(w);
    for (int64_t row = w->tile->row0; row < w->tile->row1; row++, next_spot(w, &p)) {
        int valid[2];
        count_inside(w, &p, valid);
        const int64_t run = axis[1].dilation == 1 ? valid[1] : 1;
        for (int i = 0; i < valid[0]; i++)
            for (int64_t k = 0; k < valid[1]; k += run) {
                const int64_t at[4] = {p.image, p.depth, p.first[0] + i * axis[0].dilation,
                                       p.first[1] + k * axis[1].dilation};
                tdn_epilogue_run(w->call, &w->args->epilogue, at, run, col0, col0 + n,
                                 TDN_KERNEL(tdn_map_region), scratch);
            }
    }
}

static void run(const tdn_call *call, size_t number)
{
    const tdn_wino_args *args = call->args;
    const tdn_tiling *t = &args->tiling;
    const tdn_tile tile = tdn_tiling_tile(t, number);
    work w = {.args = args, .call = call, .tile = &tile};
    tdn_wino_scratch_set(&w.s, args);
    tdn_matrix_scratch s;
    const int64_t own = w.s.v_size + w.s.m_size + w.s.patch_size;
    tdn_matrix_scratch_set(&s, call->scratch, t, own + tdn_wide_floats(t, args->is_half));
    w.v = s.extra;
    w.m = w.v + w.s.v_size;
    w.patch = w.m + w.s.m_size;
    w.zeros = (const void *)((const char *)call->in[1].data + tdn_wino_points(args) *
                                                                  tdn_tiling_packed(t) *
                                                                  tdn_weight_size(args->is_half));
    set_lists(&w);
    transform_inputs(&w);
    tdn_block block = {.a = s.a,
                       .c = s.c,
                       .b_panel = t->n_taps * t->k * TDN_NR,
                       .rows = tile.row1 - tile.row0,
                       .n_blocks = tile.n_blocks,
                       .a_taps = t->n_taps,
                       .lo = -INFINITY,
                       .hi = INFINITY,
                       .spare = s.spare,
                       .wide = args->is_half ? s.extra + own : NULL};
    const int64_t size = block.b_panel * tdn_weight_size(args->is_half);
    const char *panels = (const char *)call->in[1].data + tile.panel0 * size;
    const void *after = tdn_next_panel(t, &tile, &block, panels, tdn_wino_points(args));
    for (int64_t panel = tile.panel0; panel < tile.panel1; panel += args->panel_block) {
        const int64_t col = panel * TDN_NR;
        const char *next = panels + args->panel_block * size;
        block.cols = tdn_cpu_min(args->panel_block * TDN_NR, tile.col1 - col);
        multiply(&w, &s, &block, panels,
                 after && panel + args->panel_block < tile.panel1 ? next : after);
        panels = next;
        finish_patches(&w, col, block.cols);
        if (args->epilogue.has_program)
            run_program(&w, col, block.cols, s.program);
    }
}

void TDN_KERNEL(tdn_wino_f32)(const tdn_call *call, size_t number) { run(call, number); }
void TDN_KERNEL(tdn_wino_f32h)(const tdn_call *call, size_t number) { run(call, number); }
