/* SPDX-License-Identifier: Apache-2.0 */
/* Collecting candidates: each variant is made dry, and what was made is kept with the step's views.
 * Weights are named by a sample of their values, so that steps that share them are found without
 * reading all of a network. */
#include <string.h>

#include "base/status.h"
#include "lower/choose.h"

enum { SAMPLES = 256 };

static uint64_t mix(uint64_t h, uint64_t x)
{
    h = (h ^ x) * 0xff51afd7ed558ccdu;
    return h ^ (h >> 32);
}

static uint64_t name_of_values(const tdn_view *v)
{
    uint64_t h = 0x9e3779b97f4a7c15u ^ (uint64_t)v->dtype;
    for (int i = 0; i < v->rank; i++)
        h = mix(mix(h, (uint64_t)v->dims[i]), (uint64_t)v->strides[i]);
    const int64_t n = tdn_view_count(v), step = n / SAMPLES + 1;
    const size_t size = tdn_dtype_size(v->dtype, 1);
    for (int64_t i = 0; v->data && i < n; i += step) {
        uint64_t bits = 0;
        const size_t at = tdn_dtype_size(v->dtype, (size_t)tdn_view_offset(v, i));
        memcpy(&bits, (const char *)v->data + at, size < sizeof bits ? size : sizeof bits);
        h = mix(h, bits);
    }
    return h ? h : 1;
}

uint64_t tdn_blob_name(const tdn_view *weights, const tdn_kernel *kernel, size_t packed_size)
{
    uint64_t h = mix(name_of_values(weights), packed_size);
    for (const char *c = kernel ? kernel->name : ""; *c; c++)
        h = mix(h, (uint64_t)(unsigned char)*c);
    return h;
}

/* Room for one more in an array of the arena's. */
static void *room(tdn_arena *arena, void *items, uint32_t n, uint32_t *capacity, size_t size)
{
    if (n < *capacity)
        return items;
    const uint32_t grown = *capacity ? *capacity * 2 : 128;
    void *p = tdn_arena_alloc(arena, grown, size);
    if (!p)
        return NULL;
    if (n)
        memcpy(p, items, n * size);
    *capacity = grown;
    return p;
}

bool tdn_choices_add_blob(tdn_choices *c, int32_t target, uint64_t id, size_t size)
{
    tdn_choice_blob *blobs =
        room(c->arena, c->blobs, c->n_blobs, &c->blobs_capacity, sizeof *blobs);
    if (!blobs)
        return false;
    c->blobs = blobs;
    blobs[c->n_blobs++] = (tdn_choice_blob){id, size, target};
    return true;
}

static tdn_status copy_views(tdn_choices *c, tdn_choice *choice, const tdn_group *g)
{
    choice->n_in = g->n_in + g->n_extra;
    choice->n_out = g->n_out;
    tdn_view *views =
        tdn_arena_alloc(c->arena, (size_t)(choice->n_in + choice->n_out) + 1, sizeof *views);
    if (!views)
        return TDN_E_NOMEM;
    if (g->n_in)
        memcpy(views, g->in, (size_t)g->n_in * sizeof *views);
    if (g->n_extra)
        memcpy(views + g->n_in, g->extra, (size_t)g->n_extra * sizeof *views);
    memcpy(views + choice->n_in, g->out, (size_t)g->n_out * sizeof *views);
    choice->views = views;
    return TDN_OK;
}

static tdn_candidate candidate_of(const tdn_made *made, int32_t variant)
{
    return (tdn_candidate){.variant = variant,
                           .packed_input = made->packed_input,
                           .kernel = made->kernel,
                           .args = made->args,
                           .args_size = made->args_size,
                           .packed_size = made->packed_input >= 0 ? made->packed_size : 0,
                           .cost = made->cost};
}

/* Variants behind 0, which is there already. */
static tdn_status add_variants(tdn_choices *c, tdn_choice *choice, tdn_group *group, uint64_t isa,
                               tdn_error *error)
{
    for (int32_t v = 1; v < choice->family->n_variants; v++) {
        tdn_made made = {.packed_input = -1};
        tdn_error own = {""};
        group->variant = v;
        const tdn_status status = choice->family->make(&made, group, isa, c->arena, &own);
        if (status == TDN_E_UNSUPPORTED)
            continue;
        if (status != TDN_OK)
            return tdn_fail(error, status, "%s; variant %d of family %s", own.text, v,
                            choice->family->name);
        choice->candidates[choice->n_candidates++] = candidate_of(&made, v);
    }
    return TDN_OK;
}

tdn_status tdn_choices_add(tdn_choices *c, tdn_made *made, const tdn_family *family,
                           const tdn_group *group, uint64_t isa, int32_t target, const char *name,
                           tdn_error *error)
{
    tdn_choice *items = room(c->arena, c->items, c->n, &c->capacity, sizeof *items);
    tdn_candidate *candidates =
        tdn_arena_alloc(c->arena, (size_t)family->n_variants, sizeof *candidates);
    if (!items || !candidates)
        return tdn_fail_nomem(error, "the choice of kernels");
    c->items = items;
    tdn_choice *choice = &items[c->n++];
    *choice = (tdn_choice){.name = name,
                           .family = family,
                           .target = target,
                           .is_sparse = group->is_sparse,
                           .candidates = candidates};
    tdn_group dry = *group;
    dry.dry = true;
    dry.variant = 0;
    TDN_TRY(family->make(made, &dry, isa, c->arena, error));
    candidates[choice->n_candidates++] = candidate_of(made, 0);
    if (made->packed_input >= 0 && made->packed_input < group->n_in)
        choice->weights = name_of_values(&group->in[made->packed_input]);
    if (copy_views(c, choice, group) != TDN_OK)
        return tdn_fail_nomem(error, "the choice of kernels");
    return add_variants(c, choice, &dry, isa, error);
}
