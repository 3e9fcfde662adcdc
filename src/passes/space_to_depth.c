/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A convolution with stride two over an image of few channels, as networks begin: the image's
 * pixels are taken two by two as one pixel of four times the channels, and the convolution has
 * stride one and half the kernel. The sums are the same, with a zero tap where the kernel's size or
 * padding is odd; but there are vectors of channels now, and what is fast for stride one is fast
 * for it (a 7x7 kernel becomes 4x4, which Winograd's F(4x4, 4x4) does in a quarter of the
 * products).
 */
#include <string.h>

#include "base/status.h"
#include "ops/emit.h"
#include "passes/passes.h"

enum { MAX_CHANNELS = 4, MIN_KERNEL = 5 };

typedef struct halved {
    int64_t pad[2], pad_end[2], kernel[2];
    int64_t lead[2]; /* zero taps in front */
} halved;

static bool is_taken(const tdn_node *n, halved *h)
{
    int count;
    if (n->op->core != TDN_CORE_CONV || n->expr || n->out[0]->shape.rank != 4 ||
        n->in[1]->kind != TDN_VALUE_CONST || n->in[1]->dtype != TDN_F32 ||
        n->in[0]->shape.bounded || n->in[1]->quant || !tdn_attr_ints_are(&n->attrs, "strides", 2) ||
        !tdn_attr_ints_are(&n->attrs, "dilations", 1))
        return false;
    const tdn_shape *x = &n->in[0]->shape, *w = &n->in[1]->shape, *y = &n->out[0]->shape;
    const int64_t *pads = tdn_attr_ints(&n->attrs, "pads", &count);
    if (w->dims[1] != x->dims[1] || x->dims[1] > MAX_CHANNELS || count != 4)
        return false;
    for (int i = 0; i < 2; i++) {
        h->lead[i] = pads[i] % 2;
        h->pad[i] = (pads[i] + h->lead[i]) / 2;
        h->kernel[i] = (w->dims[2 + i] + h->lead[i] + 1) / 2;
        h->pad_end[i] = y->dims[2 + i] - 1 + h->kernel[i] - x->dims[2 + i] / 2 - h->pad[i];
        if (x->dims[2 + i] % 2 || w->dims[2 + i] < MIN_KERNEL || h->pad_end[i] < 0)
            return false;
    }
    return true;
}

/* (n, c, h, w) -> (n, 4 c, h / 2, w / 2), made channels last: all axes are split, then moved at
 * once. */
static tdn_value *halve_image(tdn_infer *io, tdn_value *x)
{
    const int64_t *d = x->shape.dims, c = d[1], h = d[2] / 2, w = d[3] / 2;
    const tdn_shape split = tdn_shape_make(6, (int64_t[]){d[0], c, h, 2, w, 2});
    const tdn_shape fours = tdn_shape_make(4, (int64_t[]){d[0], h, w, 4 * c});
    x = tdn_emit_reshape(io, x, &split);
    x = tdn_emit_transpose(io, x, (int64_t[]){0, 2, 4, 3, 5, 1});
    x = tdn_emit_reshape(io, x, &fours);
    return tdn_emit_transpose(io, x, (int64_t[]){0, 3, 1, 2});
}

/* Weights of channel (parity of h, parity of w, c). */
static tdn_value *halve_kernel(tdn_infer *io, const tdn_value *w, const halved *h)
{
    const int64_t *d = w->shape.dims;
    const tdn_shape shape =
        tdn_shape_make(4, (int64_t[]){d[0], 4 * d[1], h->kernel[0], h->kernel[1]});
    const size_t size = (size_t)tdn_shape_count(&shape) * sizeof(float);
    float *to = tdn_arena_alloc_data(io->graph->arena, size);
    if (!to)
        return NULL;
    const float *from = w->data;
    int64_t k = 0;
    for (tdn_walk at = tdn_walk_begin(4, shape.dims); at.more; tdn_walk_next(&at), k++) {
        const int64_t parity = at.index[1] / d[1], c = at.index[1] % d[1];
        const int64_t y = 2 * at.index[2] + parity / 2 - h->lead[0];
        const int64_t x = 2 * at.index[3] + parity % 2 - h->lead[1];
        const bool inside = y >= 0 && y < d[2] && x >= 0 && x < d[3];
        to[k] = inside ? from[((at.index[0] * d[1] + c) * d[2] + y) * d[3] + x] : 0;
    }
    return tdn_graph_const(io->graph, NULL, TDN_F32, &shape, to);
}

static tdn_status rewrite(tdn_graph *g, tdn_node *n, const halved *h, tdn_error *error)
{
    tdn_infer io = tdn_infer_at(g, n, error);
    tdn_value *x = halve_image(&io, n->in[0]), *w = halve_kernel(&io, n->in[1], h);
    if (!x || !w)
        return tdn_emit_end(&io, NULL);
    const int64_t pads[4] = {h->pad[0], h->pad[1], h->pad_end[0], h->pad_end[1]};
    if (!tdn_node_set_ints(g, n, "pads", pads, 4) ||
        !tdn_node_set_ints(g, n, "strides", (int64_t[]){1, 1}, 2))
        return tdn_fail_nomem(error, "a convolution");
    tdn_node_set_input(n, 0, x);
    tdn_node_set_input(n, 1, w);
    return TDN_OK;
}

tdn_status tdn_pass_space_to_depth(tdn_graph *g, tdn_error *error)
{
    for (tdn_node *n = g->first; n; n = n->next) {
        halved h;
        if (is_taken(n, &h))
            TDN_TRY(rewrite(g, n, &h, error));
    }
    return TDN_OK;
}
