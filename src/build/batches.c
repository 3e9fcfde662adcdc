/* SPDX-License-Identifier: Apache-2.0 */
/* Batches of data: options, tensors, hashes. */
#include "build/batches.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/status.h"
#include "base/view.h"

#define DEFAULT_PERCENTILE 99.99

enum { DIGEST_SIZE = 32, MAX_BATCHES = 1 << 26 };

/* ---- Options --------------------------------------------------------------------------------- */

static tdn_status check_options(tdn_batches *b)
{
    const tdn_calibrate_options *o = b->o;
    if (o->struct_size < sizeof *o)
        return tdn_fail(b->error, TDN_E_ARG, "options of size %u: use TDN_CALIBRATE_OPTIONS_INIT",
                        o->struct_size);
    b->percentile = o->percentile == 0 ? DEFAULT_PERCENTILE : o->percentile;
    if (o->method != TDN_CALIBRATION_ENTROPY && o->method != TDN_CALIBRATION_MINMAX &&
        o->method != TDN_CALIBRATION_PERCENTILE)
        return tdn_fail(b->error, TDN_E_ARG, "there is no calibration method %d", (int)o->method);
    if (!(b->percentile >= 50 && b->percentile <= 100))
        return tdn_fail(b->error, TDN_E_ARG, "a percentile of %g: expected 50 to 100",
                        b->percentile);
    if (o->next && (o->n_batches < 1 || o->n_batches > MAX_BATCHES))
        return tdn_fail(b->error, TDN_E_ARG, "%lld batches of data: expected 1 to %d",
                        (long long)o->n_batches, MAX_BATCHES);
    return TDN_OK;
}

static bool is_state(const tdn_calibrate_options *o, const char *input)
{
    for (int i = 0; i < o->n_states; i++)
        if (strcmp(o->states[i].input, input) == 0)
            return true;
    return false;
}

tdn_status tdn_batches_open(tdn_batches *b, tdn_model *model, const tdn_calibrate_options *options,
                            tdn_arena *arena, tdn_error *error)
{
    const int n = tdn_model_n_inputs(model);
    *b = (tdn_batches){.o = options, .error = error};
    TDN_TRY(check_options(b));
    b->inputs = tdn_arena_alloc(arena, (size_t)n + 1, sizeof *b->inputs);
    b->digests =
        tdn_arena_alloc(arena, options->next ? (size_t)options->n_batches : 0, DIGEST_SIZE);
    if (!b->inputs || !b->digests)
        return tdn_fail_nomem(error, "the data");
    for (int i = 0; i < n; i++) {
        tdn_model_io io = {.struct_size = sizeof io};
        TDN_TRY(tdn_model_input(model, i, &io));
        if (!is_state(options, io.name))
            b->inputs[b->n_inputs++] = io.name;
    }
    return TDN_OK;
}

/* ---- Batches --------------------------------------------------------------------------------- */

const char *tdn_batches_name(const tdn_batches *b)
{
    return b->o->data_name ? b->o->data_name : "data";
}

tdn_status tdn_batches_next(const tdn_batches *b, int64_t batch, const tdn_tensor **inputs)
{
    *inputs = NULL;
    TDN_TRY(b->o->next(b->o->next_user, batch, inputs, b->error));
    for (int i = 0; i < b->n_inputs; i++) {
        const tdn_tensor *t = *inputs ? &(*inputs)[i] : NULL;
        int64_t n;
        if (!t || t->rank < 0 || t->rank > TDN_MAX_RANK || !tdn_dims_count(t->dims, t->rank, &n) ||
            (!t->data && n > 0))
            return tdn_fail(b->error, TDN_E_ARG, "batch %lld has no tensor for input '%s'",
                            (long long)batch, b->inputs[i]);
    }
    return TDN_OK;
}

static bool is_float(tdn_dtype dtype)
{
    return dtype == TDN_F32 || dtype == TDN_F64 || dtype == TDN_F16 || dtype == TDN_BF16;
}

tdn_status tdn_batches_check(const tdn_batches *b, int64_t batch, int input, const tdn_tensor *t)
{
    const tdn_view view = tdn_view_make(t->data, t->dtype, t->rank, t->dims);
    const int64_t n = is_float(t->dtype) ? tdn_view_count(&view) : 0;
    for (int64_t i = 0; i < n; i++) {
        const double x = tdn_view_get(&view, i);
        if (isfinite(x))
            continue;
        return tdn_fail(b->error, TDN_E_FORMAT,
                        "%s: input '%s' is %s at element %lld of batch %lld: calibration needs "
                        "finite numbers",
                        tdn_batches_name(b), b->inputs[input], isnan(x) ? "NaN" : "infinite",
                        (long long)i, (long long)batch);
    }
    return TDN_OK;
}

/* ---- Hashes ---------------------------------------------------------------------------------- */

void tdn_batches_add(const tdn_batches *b, int64_t batch, const tdn_tensor *inputs)
{
    tdn_sha256 hash;
    tdn_sha256_begin(&hash);
    for (int i = 0; i < b->n_inputs; i++) {
        const tdn_tensor *t = &inputs[i];
        const tdn_view view = tdn_view_make(t->data, t->dtype, t->rank, t->dims);
        const int64_t head[] = {t->dtype, t->rank};
        tdn_sha256_add(&hash, b->inputs[i], strlen(b->inputs[i]) + 1);
        tdn_sha256_add(&hash, head, sizeof head);
        tdn_sha256_add(&hash, t->dims, (size_t)t->rank * sizeof *t->dims);
        tdn_sha256_add(&hash, t->data, tdn_dtype_size(t->dtype, (size_t)tdn_view_count(&view)));
    }
    tdn_sha256_end(&hash, b->digests + batch * DIGEST_SIZE);
}

static int by_bytes(const void *a, const void *b) { return memcmp(a, b, DIGEST_SIZE); }

void tdn_batches_digest(const tdn_batches *b, char text[65])
{
    tdn_sha256 hash;
    uint8_t digest[DIGEST_SIZE];
    const size_t n = (size_t)b->o->n_batches;
    if (b->o->n_states == 0)
        qsort(b->digests, n, DIGEST_SIZE, by_bytes);
    tdn_sha256_begin(&hash);
    tdn_sha256_add(&hash, b->digests, n * DIGEST_SIZE);
    tdn_sha256_end(&hash, digest);
    tdn_sha256_text(digest, text);
}
