/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A calibration inside the compiler: ranges by name, and what they were made from. It is filled
 * once by whoever makes it, and read only from then on. All memory is in one arena.
 */
#ifndef TDN_QUANT_CALIBRATION_H
#define TDN_QUANT_CALIBRATION_H

#include "base/memory.h"
#include "base/status.h"
#include "graph/names.h"
#include "tendon/calibrate.h"

struct tdn_calibration {
    tdn_arena *arena;
    tdn_names *by_name; /* -> the range */
    tdn_calibration_range *ranges;
    int32_t n, n_room;
    tdn_calibration_info info; /* texts in the arena, never NULL */
};

/* Room for n_room ranges. allocator NULL: the C library's. TDN_E_NOMEM. */
tdn_status tdn_calibration_create(tdn_calibration **calibration, int32_t n_room,
                                  const tdn_allocator *allocator, tdn_error *error);
/* Adds a range, whose name is copied, and which there is not yet and room for. TDN_E_NOMEM. */
tdn_status tdn_calibration_add(tdn_calibration *calibration, const tdn_calibration_range *range,
                               tdn_error *error);

/* "entropy", "minmax", "percentile=99.99"; lives in the arena, NULL when out of memory. */
const char *tdn_calibration_method_text(tdn_calibration_method method, double percentile,
                                        tdn_arena *arena);
/* The nearest amax that a file keeps whole: 127 times a float that is neither 0 nor infinite. */
double tdn_calibration_round(double amax);
/* That float. */
float tdn_calibration_scale(double amax);

/* The file beside the cache, as JSON (origin.c). `cache_sha256` of the cache's bytes, in hex. */
tdn_status tdn_origin_write(const tdn_calibration *calibration, const char *cache_sha256,
                            const char *path, tdn_error *error);
/* Reads it into a calibration that has its ranges. TDN_E_FORMAT, also where it is of another
 * cache; `path` is the cache's. */
tdn_status tdn_origin_parse(tdn_calibration *calibration, const char *cache_sha256,
                            const char *json, size_t size, const char *path, tdn_error *error);

#endif
