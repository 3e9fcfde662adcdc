/* SPDX-License-Identifier: Apache-2.0 */
/* The list of steps: what a family made, a copy, a map, a reference. Operands are places; their
 * storages' lifetimes are kept here, as steps are appended. */
#include <string.h>

#include "base/status.h"
#include "lower/lowering.h"

static void *grow(tdn_lowering *l, void *old, uint32_t n, uint32_t *capacity, size_t size)
{
    uint32_t grown = *capacity ? *capacity * 2 : 128;
    void *p = tdn_arena_alloc(l->arena, grown, size);
    if (!p)
        return NULL;
    if (n)
        memcpy(p, old, n * size);
    *capacity = grown;
    return p;
}

static tdn_plan_operand operand(tdn_lowering *l, const tdn_place *p, int64_t step)
{
    tdn_plan_operand o = {.buffer = UINT32_MAX};
    if (p->storage < 0)
        return o;
    tdn_storage *s = &l->storages[p->storage];
    if (step < s->first)
        s->first = step;
    if (step > s->last)
        s->last = step;
    o.buffer = (uint32_t)p->storage;
    o.dtype = p->view.dtype;
    o.offset = tdn_dtype_size(o.dtype, (size_t)p->offset);
    o.rank = p->view.rank;
    o.bounded = p->bounded;
    memcpy(o.dims, p->view.dims, sizeof o.dims);
    memcpy(o.strides, p->view.strides, sizeof o.strides);
    return o;
}

static tdn_status append(tdn_lowering *l, tdn_plan_step step, const tdn_place *in, int n_in,
                         const tdn_place *out, int n_out)
{
    if (l->n_steps == l->steps_capacity) {
        tdn_plan_step *grown = grow(l, l->steps, l->n_steps, &l->steps_capacity, sizeof *grown);
        if (!grown)
            return tdn_fail_nomem(l->error, "steps");
        l->steps = grown;
    }
    tdn_plan_operand *operands =
        tdn_arena_alloc(l->arena, (size_t)(n_in + n_out) + 1, sizeof *operands);
    if (!operands)
        return tdn_fail_nomem(l->error, "steps");
    for (int i = 0; i < n_in; i++)
        operands[i] = operand(l, &in[i], l->n_steps);
    for (int i = 0; i < n_out; i++)
        operands[n_in + i] = operand(l, &out[i], l->n_steps);
    step.name = l->step_name;
    step.operands = operands;
    step.n_in = (uint32_t)n_in;
    step.n_out = (uint32_t)n_out;
    l->steps[l->n_steps++] = step;
    return TDN_OK;
}

tdn_status tdn_step_branch(tdn_lowering *l, const tdn_place *flag)
{
    return append(l, (tdn_plan_step){.kind = TDN_STEP_BRANCH, .kernel = ""}, flag, 1, NULL, 0);
}

tdn_status tdn_step_value_after(tdn_lowering *l, const tdn_value *v, const tdn_place *place,
                                uint32_t step, uint32_t n_values)
{
    if (l->n_values == l->values_capacity) {
        tdn_plan_value *grown = grow(l, l->values, l->n_values, &l->values_capacity, sizeof *grown);
        if (!grown)
            return tdn_fail_nomem(l->error, "names of values");
        l->values = grown;
    }
    tdn_plan_value *at = &l->values[n_values];
    memmove(at + 1, at, (l->n_values++ - n_values) * sizeof *at);
    *at = (tdn_plan_value){v->name, step, operand(l, place, step)};
    return TDN_OK;
}

tdn_status tdn_step_value(tdn_lowering *l, const tdn_value *v, const tdn_place *place)
{
    return tdn_step_value_after(l, v, place, l->n_steps - 1, l->n_values);
}

enum { MAX_OPERANDS = TDN_EXPR_MAX_IN + 8 };

tdn_status tdn_step_made(tdn_lowering *l, const tdn_made *made, const tdn_place *in, int n_in,
                         const tdn_place *out, int n_out)
{
    tdn_place places[MAX_OPERANDS];
    memcpy(places, in, (size_t)n_in * sizeof *in);
    if (made->packed_input >= 0) {
        tdn_place *p = &places[made->packed_input];
        const char *name = p->storage >= 0 ? l->storages[p->storage].name : "";
        int64_t size = (int64_t)made->packed_size;
        *p = (tdn_place){.view = tdn_view_make(NULL, TDN_U8, 1, &size)};
        TDN_TRY(tdn_storage_add(l, TDN_BUFFER_WEIGHT, UINT32_MAX, made->packed_size, name,
                                &p->storage));
        l->storages[p->storage].data = made->packed;
    }
    tdn_plan_step step = {.kind = TDN_STEP_KERNEL,
                          .kernel = made->kernel->name,
                          .args = made->args,
                          .args_size = made->args_size};
    return append(l, step, places, n_in, out, n_out);
}

/* Variant 0, dry; its packed weights are counted here, other constants where their storage is. */
static tdn_status collect(tdn_lowering *l, tdn_made *made, const tdn_family *family,
                          tdn_group *group)
{
    const uint64_t isa = l->options->isa;
    const int32_t target = l->options->target;
    group->dry = true;
    if (family->n_variants > 1)
        TDN_TRY(
            tdn_choices_add(l->collect, made, family, group, isa, target, l->step_name, l->error));
    else
        TDN_TRY(family->make(made, group, isa, l->arena, l->error));
    made->packed = NULL;
    if (made->packed_input < 0 || made->packed_input >= group->n_in)
        return TDN_OK;
    const tdn_view *weights = &group->in[made->packed_input];
    return tdn_choices_add_blob(l->collect, target,
                                tdn_blob_name(weights, made->kernel, made->packed_size),
                                made->packed_size)
               ? TDN_OK
               : tdn_fail_nomem(l->error, "the choice of kernels");
}

/* The variant that was chosen for this step, which is the next of its family's in both walks. */
static tdn_status make_chosen(tdn_lowering *l, tdn_made *made, const tdn_family *family,
                              tdn_group *group)
{
    if (family->n_variants > 1 && l->options->choices) {
        if (l->n_chosen == l->options->n_choices)
            return tdn_fail(l->error, TDN_E_INTERNAL, "a step that has no choice");
        const tdn_choice *choice = &l->options->choices[l->n_chosen++];
        if (choice->family != family)
            return tdn_fail(l->error, TDN_E_INTERNAL, "a choice for another step");
        if (choice->n_candidates > 0)
            group->variant = choice->candidates[choice->chosen].variant;
    }
    return family->make(made, group, l->options->isa, l->arena, l->error);
}

tdn_status tdn_step_make(tdn_lowering *l, const char *name, const void *desc, const tdn_place *in,
                         int n_in, const tdn_place *extra, int n_extra, const tdn_place *out,
                         int n_out, const tdn_expr *expr)
{
    const tdn_family *family = tdn_family_find(name);
    tdn_place places[MAX_OPERANDS];
    tdn_view views[MAX_OPERANDS], out_views[TDN_EXPR_MAX_OUT];
    if (!family || n_in + n_extra > MAX_OPERANDS || n_out > TDN_EXPR_MAX_OUT)
        return tdn_fail(l->error, TDN_E_UNSUPPORTED, "no kernel family '%s' for %d operands", name,
                        n_in + n_extra);
    for (int i = 0; i < n_in + n_extra; i++) {
        places[i] = i < n_in ? in[i] : extra[i - n_in];
        if (places[i].bounded)
            return tdn_fail(l->error, TDN_E_UNSUPPORTED, "an extent is known at run time only");
        views[i] = places[i].view;
    }
    for (int i = 0; i < n_out; i++)
        out_views[i] = out[i].view;
    tdn_group group = {.desc = desc,
                       .in = views,
                       .n_in = n_in,
                       .out = out_views,
                       .n_out = n_out,
                       .expr = expr,
                       .extra = views + n_in,
                       .n_extra = n_extra,
                       .takes_halves = l->options->takes_halves};
    const tdn_node *n = l->node; /* its first input is the group's, whatever was copied */
    if (n && n->n_in > 0 && n->in[0])
        group.is_sparse = l->binary[n->in[0]->id] && !tdn_attr_int(&n->attrs, "dense", 0);
    if (n && n->n_own_in > 1 && n->in[1] && n->in[1]->quant && n->in[1]->quant->n == 0)
        group.halves = n->in[1]->quant->half;
    tdn_made made = {.packed_input = -1};
    TDN_TRY(l->collect ? collect(l, &made, family, &group) : make_chosen(l, &made, family, &group));
    return tdn_step_made(l, &made, places, n_in + n_extra, out, n_out);
}

tdn_status tdn_step_reference(tdn_lowering *l, const char *name, const tdn_attrs *attrs,
                              const tdn_expr *expr, const tdn_place *in, int n_in,
                              const tdn_place *out, int n_out)
{
    for (int i = 0; i < n_in; i++)
        if (in[i].bounded)
            return tdn_fail(l->error, TDN_E_UNSUPPORTED,
                            "input %d has an extent that is known at run time only; such values "
                            "can be outputs, "
                            "but not be computed with yet",
                            i);
    tdn_plan_step step = {.kind = TDN_STEP_REFERENCE, .kernel = name, .expr = expr};
    if (attrs) {
        if (!strstr(name, "::")) /* a caller's own */
            TDN_TRY(tdn_plan_check_attrs(attrs, TDN_E_MODEL, l->error));
        step.attrs = *attrs;
    }
    return append(l, step, in, n_in, out, n_out);
}

tdn_status tdn_step_copy(tdn_lowering *l, const tdn_place *from, const tdn_place *to)
{
    tdn_status status = tdn_step_make(l, "copy", NULL, from, 1, NULL, 0, to, 1, NULL);
    return status == TDN_E_UNSUPPORTED
               ? tdn_step_reference(l, "Identity", NULL, NULL, from, 1, to, 1)
               : status;
}

tdn_status tdn_step_map(tdn_lowering *l, const tdn_expr *expr, const tdn_place *in, int n_in,
                        const tdn_place *out, int n_out)
{
    tdn_place wide[MAX_OPERANDS];
    if (n_in > MAX_OPERANDS)
        return tdn_fail(l->error, TDN_E_UNSUPPORTED, "an expression of %d inputs", n_in);
    for (int i = 0; i < n_in; i++) {
        wide[i] = in[i];
        if (!tdn_place_broadcast(&wide[i], out[0].view.rank, out[0].view.dims))
            return tdn_fail(l->error, TDN_E_INTERNAL,
                            "input %d of an expression does not broadcast", i);
    }
    tdn_status status = tdn_step_make(l, "map", NULL, wide, n_in, NULL, 0, out, n_out, expr);
    return status == TDN_E_UNSUPPORTED
               ? tdn_step_reference(l, "Map", NULL, expr, wide, n_in, out, n_out)
               : status;
}

tdn_status tdn_place_unit(tdn_lowering *l, const tdn_value *v, int axis, tdn_place *place)
{
    TDN_TRY(tdn_place_of(l, v, place));
    if (place->view.strides[axis] == 1 || place->view.dims[axis] == 1)
        return TDN_OK;
    bool last = axis == place->view.rank - 1;
    tdn_place *copy = &l->copies[last ? 0 : 1][v->id];
    if (copy->storage < 0 || !tdn_arm_is_done(l, copy->arm)) {
        int order[TDN_MAX_RANK];
        if (last)
            tdn_order_natural(place->view.rank, order);
        else
            tdn_order_channels_last(place->view.rank, order);
        TDN_TRY(
            tdn_place_new(l, place->view.dtype, place->view.rank, place->view.dims, order, copy));
        copy->arm = l->arm;
        TDN_TRY(tdn_step_copy(l, place, copy));
    }
    *place = *copy;
    return TDN_OK;
}
