/* SPDX-License-Identifier: Apache-2.0 */
/* Life of a calibration, and looking things up in it. */
#include "quant/calibration.h"

#include <float.h>
#include <string.h>

/* ---- Life ------------------------------------------------------------------------------------ */

tdn_status tdn_calibration_create(tdn_calibration **calibration, int32_t n_room,
                                  const tdn_allocator *allocator, tdn_error *error)
{
    tdn_arena *arena = tdn_arena_create(allocator);
    tdn_calibration *c = arena ? tdn_arena_alloc(arena, 1, sizeof *c) : NULL;
    *calibration = c;
    if (c) {
        *c = (tdn_calibration){.arena = arena, .n_room = n_room};
        c->by_name = tdn_names_create(arena);
        c->ranges = tdn_arena_alloc(arena, (size_t)n_room + 1, sizeof *c->ranges);
        c->info = (tdn_calibration_info){sizeof c->info, "", "", "", "", "", "", 0};
    }
    if (c && c->by_name && c->ranges)
        return TDN_OK;
    tdn_arena_free(arena);
    *calibration = NULL;
    return tdn_fail_nomem(error, "a calibration");
}

tdn_status tdn_calibration_add(tdn_calibration *c, const tdn_calibration_range *range,
                               tdn_error *error)
{
    tdn_calibration_range *r = &c->ranges[c->n];
    if (c->n == c->n_room)
        return tdn_fail(error, TDN_E_INTERNAL, "a calibration with more than %d ranges", c->n_room);
    *r = *range;
    r->struct_size = sizeof *r;
    r->name = tdn_arena_strdup(c->arena, range->name);
    if (!r->name || !tdn_names_put(c->by_name, r->name, r))
        return tdn_fail_nomem(error, "a calibration");
    c->n++;
    return TDN_OK;
}

void tdn_calibration_free(tdn_calibration *c)
{
    if (c)
        tdn_arena_free(c->arena);
}

/* ---- Looking up ------------------------------------------------------------------------------ */

static tdn_status hand_out(const tdn_calibration_range *from, tdn_calibration_range *range)
{
    if (!from || !range)
        return TDN_E_ARG;
    const uint32_t size = range->struct_size;
    memcpy(range, from, size < sizeof *from ? size : sizeof *from);
    range->struct_size = size;
    return TDN_OK;
}

tdn_status tdn_calibration_find(const tdn_calibration *c, const char *name,
                                tdn_calibration_range *range)
{
    return hand_out(c && name ? tdn_names_find(c->by_name, name) : NULL, range);
}

int tdn_calibration_n_ranges(const tdn_calibration *c) { return c ? c->n : 0; }

tdn_status tdn_calibration_range_at(const tdn_calibration *c, int index,
                                    tdn_calibration_range *range)
{
    return hand_out(index >= 0 && index < tdn_calibration_n_ranges(c) ? &c->ranges[index] : NULL,
                    range);
}

tdn_status tdn_calibration_get_info(const tdn_calibration *c, tdn_calibration_info *info)
{
    if (!c || !info)
        return TDN_E_ARG;
    const uint32_t size = info->struct_size;
    memcpy(info, &c->info, size < sizeof c->info ? size : sizeof c->info);
    info->struct_size = size;
    return TDN_OK;
}

/* ---- Methods and scales ---------------------------------------------------------------------- */

const char *tdn_calibration_method_text(tdn_calibration_method method, double percentile,
                                        tdn_arena *arena)
{
    switch (method) {
    case TDN_CALIBRATION_ENTROPY: return "entropy";
    case TDN_CALIBRATION_MINMAX: return "minmax";
    case TDN_CALIBRATION_PERCENTILE: break;
    }
    return tdn_arena_printf(arena, "percentile=%.10g", percentile);
}

float tdn_calibration_scale(double amax)
{
    const double scale = amax / 127;
    return scale < FLT_MIN ? FLT_MIN : scale > FLT_MAX ? FLT_MAX : (float)scale;
}

double tdn_calibration_round(double amax) { return 127 * (double)tdn_calibration_scale(amax); }
