/* SPDX-License-Identifier: Apache-2.0 */
/* The pipeline, top to bottom, and the runner. Each pass leaves a valid graph with shapes. */
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "passes/passes.h"

#define ALWAYS TDN_PASS_ALWAYS
#define BATCHES TDN_PASS_BATCHES
#define QUANTIZES TDN_PASS_QUANTIZES

const tdn_pass tdn_passes[] = {
    {"decompose", tdn_pass_decompose, ALWAYS},   /* composites into core operators */
    {"fold-constants", tdn_graph_infer, ALWAYS}, /* what the rewrite made constant */
    {"simplify", tdn_pass_simplify, ALWAYS}, /* drop what does nothing, join chains of transposes */
    {"drop-dead", tdn_pass_drop_dead, ALWAYS},         /* nobody reads it */
    {"expand-late", tdn_pass_expand_late, ALWAYS},     /* what does not vary along an axis, once */
    {"merge-equal", tdn_pass_merge_equal, ALWAYS},     /* the same work twice */
    {"map-constants", tdn_pass_map_constants, ALWAYS}, /* scalar constants into expressions */
    {"dequantize-late", tdn_pass_dequantize_late, ALWAYS}, /* behind what moves elements */
    {"reduce-early", tdn_pass_reduce_early, ALWAYS}, /* a mean before a product, not behind it */
    {"drop-dead", tdn_pass_drop_dead, ALWAYS},
    {"regroup-product", tdn_pass_regroup_product, ALWAYS}, /* a (x w) = (a x) w, where a is small */
    {"drop-dead", tdn_pass_drop_dead, ALWAYS},
    {"split-product", tdn_pass_split_product, ALWAYS}, /* of which only slices are read */
    {"drop-dead", tdn_pass_drop_dead, ALWAYS},
    {"pad-conv", tdn_pass_pad_conv, ALWAYS},             /* zeros around a convolution's input */
    {"narrow-conv", tdn_pass_narrow_conv, ALWAYS},       /* a slice of a convolution's result */
    {"space-to-depth", tdn_pass_space_to_depth, ALWAYS}, /* stride two over few channels */
    {"bias", tdn_pass_bias, ALWAYS}, /* a convolution's bias becomes a map, like everybody's */
    {"merge-equal", tdn_pass_merge_equal, ALWAYS},           /* their constants */
    {"integer-products", tdn_pass_integer_products, ALWAYS}, /* of dequantised operands */
    {"drop-dead", tdn_pass_drop_dead, ALWAYS},
    {"batch-equal", tdn_pass_batch_equal, BATCHES}, /* copies of a layer: one on all their inputs */
    {"sparse-product", tdn_pass_sparse_product, ALWAYS}, /* a matrix of mostly zeros */
    {"drop-dead", tdn_pass_drop_dead, ALWAYS},
    {"graph-conv", tdn_pass_graph_conv, ALWAYS}, /* and the convolution before it */
    {"simplify", tdn_pass_simplify, ALWAYS},
    {"merge-equal", tdn_pass_merge_equal, ALWAYS},
    {"drop-dead", tdn_pass_drop_dead, ALWAYS},
    {"spikes", tdn_pass_spikes, ALWAYS}, /* accumulated, or multiplied where there are many */
    {"drop-dead", tdn_pass_drop_dead, ALWAYS},
    {"map-early", tdn_pass_map_early, ALWAYS},         /* to what made it, before reshapes */
    {"fuse-scales", tdn_pass_fuse_scales, ALWAYS},     /* of a product's integers, into it */
    {"fuse-maps", tdn_pass_fuse_maps, ALWAYS},         /* joined expressions */
    {"compare-early", tdn_pass_compare_early, ALWAYS}, /* sigmoid(x) > 0.5 is x > 0 */
    {"fold-scale", tdn_pass_fold_scale,
     ALWAYS},                            /* a scale per channel into the weights before it */
    {"attend", tdn_pass_attend, ALWAYS}, /* a softmax between products, without storing it */
    {"drop-dead", tdn_pass_drop_dead, ALWAYS},
    {"quantize", tdn_pass_quantize, QUANTIZES}, /* what was marked, and its readers */
    {"dequantize-late", tdn_pass_dequantize_late, QUANTIZES},
    {"integer-products", tdn_pass_integer_products, QUANTIZES},
    {"half-products", tdn_pass_half_products, QUANTIZES}, /* of what was marked as halves */
    {"drop-dead", tdn_pass_drop_dead, QUANTIZES},
    {"fuse-scales", tdn_pass_fuse_scales, QUANTIZES},
    {"fuse-maps", tdn_pass_fuse_maps, QUANTIZES},
    {"fuse-epilogues", tdn_pass_fuse_epilogues,
     ALWAYS}, /* maps into the operator that feeds them */
    {"drop-dead", tdn_pass_drop_dead, ALWAYS},
    {NULL, NULL, ALWAYS},
};

static void dump_after(tdn_graph *g, const char *name, const tdn_pass_options *o)
{
    if (!o || !o->dump || !o->line || (strcmp(o->dump, name) && strcmp(o->dump, "all")))
        return;
    char head[96];
    snprintf(head, sizeof head, "graph after %s:", name);
    o->line(o->user, head);
    tdn_graph_dump(g, o->line, o->user);
}

static bool is_dump(const char *name)
{
    bool found = strcmp(name, "import") == 0 || strcmp(name, "all") == 0;
    for (const tdn_pass *p = tdn_passes; p->name && !found; p++)
        found = strcmp(p->name, name) == 0;
    return found;
}

static tdn_status fail_dump(const char *name, tdn_error *error)
{
    char names[512] = "all, import";
    size_t at = strlen(names);
    for (const tdn_pass *p = tdn_passes; p->name && at < sizeof names; p++)
        if (!strstr(names, p->name))
            at += (size_t)snprintf(names + at, sizeof names - at, ", %s", p->name);
    return tdn_fail(error, TDN_E_ARG, "--dump=%s: no pass has that name\n  expected: %s", name,
                    names);
}

tdn_status tdn_passes_run(tdn_graph *g, const tdn_pass_options *options, tdn_error *error)
{
    if (options && options->dump && !is_dump(options->dump))
        return fail_dump(options->dump, error);
    dump_after(g, "import", options);
    bool asked = !options || !options->before_batching, marked = false;
    const bool quantizes = options && options->before_quantizing;
    for (const tdn_pass *p = tdn_passes; p->name; p++) {
        if (p->when == QUANTIZES && !quantizes)
            continue;
        if (p->when == QUANTIZES && !marked) {
            TDN_TRY(options->before_quantizing(options->quantizing_user, g, error));
            marked = true;
        }
        if (p->when == BATCHES && !asked) {
            TDN_TRY(options->before_batching(options->batching_user, g, error));
            asked = true;
        }
        tdn_status status = p->run(g, error);
        if ((status == TDN_OK || status == TDN_E_NOMEM) && tdn_arena_failed(g->arena))
            status = tdn_fail_nomem(error, "a pass"); /* not all that fails so says so */
        if (status == TDN_OK)
            status = tdn_graph_verify(g, error);
        if (status != TDN_OK)
            return tdn_fail_while(error, status, "in pass '%s'", p->name);
        dump_after(g, p->name, options);
    }
    return TDN_OK;
}

int64_t tdn_shape_batches(const tdn_shape *s)
{
    int64_t n = 1;
    for (int i = 0; i + 2 < s->rank; i++)
        n *= s->dims[i];
    return n;
}

bool tdn_conv_is_pointwise(const tdn_node *conv)
{
    const tdn_shape *w = &conv->in[1]->shape;
    bool is_one =
        tdn_attr_ints_are(&conv->attrs, "strides", 1) && tdn_attr_ints_are(&conv->attrs, "pads", 0);
    for (int i = 2; i < w->rank; i++)
        is_one &= w->dims[i] == 1;
    return is_one;
}

/* Is the part in the list "a + b + c"? */
static bool has_part(const char *list, const char *part, size_t size)
{
    for (const char *at = list; (at = strstr(at, part)); at++) {
        bool begins = at == list || at[-1] == ' ';
        if (begins && (at[size] == 0 || at[size] == ' '))
            return true;
    }
    return false;
}

const char *tdn_origin_join(tdn_graph *g, const char *a, const char *b)
{
    enum { LONG = 160 };
    if (!a || !*a)
        return b;
    const char *joined = a;
    while (b && *b) {
        const char *end = strstr(b, " + ");
        size_t size = end ? (size_t)(end - b) : strlen(b);
        const char *part = tdn_arena_strndup(g->arena, b, size);
        b = end ? end + 3 : NULL;
        if (!part || has_part(joined, part, size))
            continue;
        bool full = strlen(joined) + size > LONG;
        if (full && strstr(joined, " + ..."))
            return joined;
        const char *more = tdn_arena_printf(g->arena, "%s + %s", joined, full ? "..." : part);
        joined = more ? more : joined;
    }
    return joined;
}

void tdn_graph_number(tdn_graph *g)
{
    int32_t i = 0;
    for (tdn_node *n = g->first; n; n = n->next)
        n->mark = i++;
}

tdn_value *tdn_value_follow(tdn_graph *g, tdn_value *v)
{
    tdn_value *after = tdn_graph_value(g, NULL);
    if (!after)
        return NULL;
    after->dtype = v->dtype;
    after->shape = v->shape;
    tdn_graph_replace(g, v, after); /* the name goes with the readers */
    return after;
}

tdn_value *tdn_node_copy(tdn_graph *g, tdn_node *before, const tdn_node *n, tdn_value *const *in,
                         const tdn_shape *shape)
{
    tdn_value *v = tdn_graph_value(g, NULL);
    tdn_node *copy = v ? tdn_graph_node(g, before, n->op, n->name, in, n->n_in, &v, 1) : NULL;
    if (!copy)
        return NULL;
    copy->n_own_in = n->n_own_in;
    copy->attrs = n->attrs;
    copy->expr = n->expr;
    copy->origin = n->origin;
    v->dtype = n->out[0]->dtype;
    v->shape = *shape;
    return v;
}

bool tdn_node_before(const tdn_node *a, const tdn_node *b)
{
    for (const tdn_node *n = a->next; n; n = n->next)
        if (n == b)
            return true;
    return false;
}
