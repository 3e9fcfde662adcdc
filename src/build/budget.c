/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The choice of what is kept wide: in halves where these do, else in float32. All in 8 bits is
 * tried first, and mostly that is the end. Otherwise each product is measured alone, which orders
 * them: noise adds up, so the one whose noise buys least work is the first to go. How many must go
 * is a question of the whole network, and answered by trials of it.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "build/trial.h"
#include "graph/names.h"
#include "quant/layers.h"

enum { N_PHASES = 4 };

struct tdn_budget {
    tdn_arena *arena;
    tdn_budget_product *products; /* by index; names in the arena */
    tdn_layer_precision *layers;
    int32_t n_layers;
    tdn_budget_info info;
};

/* A layer that the compiler left in float32 of its own, as 8 bits would be slower. Times may say
 * otherwise in the build that follows, but what is chosen must be what was measured. */
typedef struct slower {
    const char *name;
    struct slower *next;
} slower;

typedef struct chooser {
    tdn_budget *b;
    tdn_trials trials;
    const tdn_budget_options *o;
    tdn_arena *arena; /* until the choice is made */
    tdn_names *by_name;
    tdn_budget_product **found; /* in the network's order, then the worst first */
    int32_t n, n_free;          /* n_free: that the options do not force */
    tdn_precision kept;         /* what those are in that are kept wide */
    slower *slower;
    int32_t n_slower;
    bool collects; /* the trial of all in 8 bits says which there are */
    bool out_of_memory;
} chooser;

static void progress(const chooser *c, int phase, const char *what, double fraction)
{
    const tdn_calibrate_options *o = c->trials.batches.o;
    if (o->progress)
        o->progress(o->progress_user, phase, N_PHASES, what, fraction);
}

/* ---- Trials ---------------------------------------------------------------------------------- */

/* Several products of one name are one: the model's node became several. */
static void add_product(chooser *c, const tdn_product_info *info)
{
    tdn_budget_product *p = tdn_arena_alloc(c->b->arena, 1, sizeof *p);
    if ((c->n & (c->n - 1)) == 0) { /* the room doubles */
        tdn_budget_product **more =
            tdn_arena_alloc(c->arena, (size_t)c->n * 2 + 1, sizeof(tdn_budget_product *));
        if (more && c->n)
            memcpy(more, c->found, (size_t)c->n * sizeof(tdn_budget_product *));
        c->found = more;
    }
    if (p)
        *p = (tdn_budget_product){.struct_size = sizeof *p,
                                  .name = tdn_arena_strdup(c->b->arena, info->name),
                                  .precision = TDN_PRECISION_INT8,
                                  .sqnr = NAN,
                                  .is_forced = info->is_forced};
    if (!p || !p->name || !c->found || !tdn_names_put(c->by_name, p->name, p)) {
        c->out_of_memory = true;
        return;
    }
    c->found[c->n++] = p;
    c->n_free += !p->is_forced;
}

static void add_slower(chooser *c, const char *name)
{
    slower *s = tdn_arena_alloc(c->arena, 1, sizeof *s);
    const char *pattern = tdn_layer_pattern(name, c->b->arena);
    c->out_of_memory = c->out_of_memory || !s || !pattern;
    if (c->out_of_memory)
        return;
    *s = (slower){pattern, c->slower};
    c->slower = s;
    c->n_slower++;
}

static void on_product(void *user, const tdn_product_info *info)
{
    chooser *c = user;
    const bool is_int8 = info->precision == TDN_PRECISION_INT8;
    if (c->collects && is_int8 && !c->out_of_memory && !tdn_names_find(c->by_name, info->name))
        add_product(c, info);
    if (c->collects && !is_int8 && info->is_forced && !c->out_of_memory)
        add_slower(c, info->name);
    tdn_budget_product *p = c->out_of_memory ? NULL : tdn_names_find(c->by_name, info->name);
    if (p && c->collects)
        p->work += info->work;
    if (p && (is_int8 || p->precision == TDN_PRECISION_FP32))
        p->precision = info->precision;
}

/* Afterwards the precisions are those that the trial's build had. */
static tdn_status try_layers(chooser *c, const tdn_layer_precision *layers, int32_t n, bool quick,
                             tdn_trial *trial)
{
    for (int32_t i = 0; i < c->n; i++)
        c->found[i]->precision = TDN_PRECISION_FP32;
    c->b->info.n_builds++;
    TDN_TRY(tdn_trials_run(&c->trials, layers, n, on_product, c, quick, trial));
    return c->out_of_memory ? tdn_fail_nomem(c->trials.error, "the layers") : TDN_OK;
}

/* ---- The order ------------------------------------------------------------------------------- */

static tdn_status measure_alone(chooser *c)
{
    for (int32_t i = 0; i < c->n; i++) {
        tdn_trial trial;
        const tdn_layer_precision layers[] = {
            {"*", TDN_PRECISION_FP32},
            {tdn_layer_pattern(c->found[i]->name, c->arena), TDN_PRECISION_INT8}};
        progress(c, 3, "Measuring each layer alone", (double)i / c->n);
        if (!layers[1].layer)
            return tdn_fail_nomem(c->trials.error, "the layers");
        TDN_TRY(try_layers(c, layers, 2, true, &trial));
        c->found[i]->sqnr = trial.sqnr;
    }
    return TDN_OK;
}

/* Noise by the work that it saves. */
static double harm(const tdn_budget_product *p)
{
    return pow(10, -p->sqnr / 10) / fmax(p->work, 1e-12);
}

/* The most harmful first, of equals that which was first. */
static void sort_by_harm(chooser *c)
{
    for (int32_t i = 1; i < c->n; i++) {
        tdn_budget_product *p = c->found[i];
        int32_t k = i;
        for (; k > 0 && harm(c->found[k - 1]) < harm(p); k--)
            c->found[k] = c->found[k - 1];
        c->found[k] = p;
    }
}

/* ---- The choice ------------------------------------------------------------------------------ */

static void add_layer(tdn_budget *b, const char *layer, tdn_precision precision)
{
    b->layers[b->n_layers++] = (tdn_layer_precision){layer, precision};
}

static bool is_kept(const tdn_budget_product *p) { return p->precision != TDN_PRECISION_INT8; }

/* Of those that are slower, the options' rows, and of all that are kept. */
static tdn_status set_layers(chooser *c)
{
    tdn_budget *b = c->b;
    const int32_t n = c->o->n_layer_precisions;
    b->layers = tdn_arena_alloc(b->arena, (size_t)c->n_slower + (size_t)n + (size_t)c->n + 1,
                                sizeof *b->layers);
    if (!b->layers)
        return tdn_fail_nomem(c->trials.error, "the layers");
    b->n_layers = 0;
    for (const slower *s = c->slower; s; s = s->next)
        add_layer(b, s->name, TDN_PRECISION_FP32);
    for (int32_t i = 0; i < n; i++)
        add_layer(b, tdn_arena_strdup(b->arena, c->o->layer_precisions[i].layer),
                  c->o->layer_precisions[i].precision);
    for (int32_t i = 0; i < c->n; i++)
        if (is_kept(c->found[i]) && !c->found[i]->is_forced)
            add_layer(b, tdn_layer_pattern(c->found[i]->name, b->arena), c->kept);
    return tdn_arena_failed(b->arena) ? tdn_fail_nomem(c->trials.error, "the layers") : TDN_OK;
}

/* With n_kept of them wide: is the error within the budget? */
static tdn_status try_keeping(chooser *c, int32_t n_kept, bool *holds)
{
    tdn_trial trial;
    for (int32_t i = 0, k = 0; i < c->n; i++) {
        const bool kept = !c->found[i]->is_forced && k < n_kept;
        c->found[i]->precision = kept ? c->kept : TDN_PRECISION_INT8;
        k += kept;
    }
    TDN_TRY(set_layers(c));
    TDN_TRY(try_layers(c, c->b->layers, c->b->n_layers, false, &trial));
    c->b->info.error = trial.error;
    *holds = trial.error <= c->o->budget;
    return TDN_OK;
}

static void put_error(const chooser *c, double error, char *text, size_t size)
{
    switch (c->o->measure) {
    case TDN_BUDGET_RELATIVE: snprintf(text, size, "error %.3g %%", 100 * error); return;
    case TDN_BUDGET_ABSOLUTE: snprintf(text, size, "mean error %.3g", error); return;
    case TDN_BUDGET_ACCURACY: break;
    }
    snprintf(text, size, "%+.2f points of accuracy", error == 0 ? 0 : -100 * error);
}

static tdn_status fail_budget(const chooser *c)
{
    char error[64], all[64], forced[300] = "";
    for (int32_t i = 0; i < c->n; i++) {
        const size_t used = strlen(forced);
        if (c->found[i]->is_forced)
            snprintf(forced + used, sizeof forced - used, "%s'%s'", used ? ", " : "",
                     c->found[i]->name);
    }
    put_error(c, c->b->info.error, error, sizeof error);
    put_error(c, c->b->info.error_int8, all, sizeof all);
    return tdn_fail(
        c->trials.error, TDN_E_CHECK,
        "the accuracy budget of %g %s cannot be met: with all in float32 that may be it "
        "is %s, with all in int8 %s; in int8 by --layerPrecisions: %s",
        c->o->measure == TDN_BUDGET_ABSOLUTE ? c->o->budget : 100 * c->o->budget,
        c->o->measure == TDN_BUDGET_ABSOLUTE ? "as mean error" : "%", error, all,
        *forced ? forced : "none");
}

/* The least number that holds: `low` does not, `high` does, or is all there are. */
static tdn_status bisect(chooser *c, bool *holds)
{
    int32_t low = 0, high = c->n_free, tried = 0;
    *holds = false;
    while (high - low > 1) {
        tried = low + (high - low) / 2;
        progress(c, 4, "Keeping the worst wide", (double)(c->n_free - (high - low)) / c->n);
        TDN_TRY(try_keeping(c, tried, holds));
        *(*holds ? &high : &low) = tried;
    }
    return tried == high && *holds ? TDN_OK /* the choice is the trial that was last */
                                   : try_keeping(c, high, holds);
}

/* In halves where all in halves would do. */
static tdn_status keep_worst(chooser *c)
{
    bool holds = false;
    c->kept = c->o->kept;
    if (c->kept != TDN_PRECISION_FP32)
        TDN_TRY(try_keeping(c, c->n_free, &holds));
    if (holds)
        return bisect(c, &holds);
    c->kept = TDN_PRECISION_FP32;
    TDN_TRY(bisect(c, &holds));
    return holds ? TDN_OK : fail_budget(c);
}

static tdn_status search(chooser *c)
{
    bool holds;
    progress(c, 2, "Measuring int8", 0);
    c->collects = true;
    TDN_TRY(try_keeping(c, 0, &holds));
    c->collects = false;
    c->b->info.error_int8 = c->b->info.error;
    if (holds)
        return TDN_OK;
    TDN_TRY(measure_alone(c));
    sort_by_harm(c);
    return keep_worst(c);
}

/* ---- The report ------------------------------------------------------------------------------ */

/* "; bf16: conv1, conv2" behind the text, where some have that precision. */
static const char *put_kept(const chooser *c, const char *text, tdn_precision precision)
{
    const char *end = "";
    for (int32_t i = 0; i < c->n && text; i++) {
        if (c->found[i]->precision != precision)
            continue;
        text = *end ? tdn_arena_printf(c->b->arena, "%s, %s", text, c->found[i]->name)
                    : tdn_arena_printf(c->b->arena, "%s; %s: %s", text,
                                       tdn_precision_name(precision), c->found[i]->name);
        end = ",";
    }
    return text;
}

/* "int8 9 of 12 products, error 0.8 %, all int8 would have error 3.1 %; fp32: conv1, conv2". */
static tdn_status put_text(chooser *c)
{
    static const tdn_precision wide[] = {TDN_PRECISION_FP16, TDN_PRECISION_BF16,
                                         TDN_PRECISION_FP32};
    tdn_budget_info *info = &c->b->info;
    char error[64], all[64];
    put_error(c, info->error, error, sizeof error);
    put_error(c, info->error_int8, all, sizeof all);
    const char *text = tdn_arena_printf(c->b->arena, "int8 %d of %d products, %s", info->n_int8,
                                        info->n_products, error);
    if (text && info->n_int8 < info->n_products)
        text = tdn_arena_printf(c->b->arena, "%s, all int8 would have %s", text, all);
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++)
        text = put_kept(c, text, wide[i]);
    info->text = text;
    return text ? TDN_OK : tdn_fail_nomem(c->trials.error, "the report");
}

static tdn_status put_report(chooser *c)
{
    tdn_budget *b = c->b;
    b->info.struct_size = sizeof b->info;
    b->info.measure = c->o->measure;
    b->info.budget = c->o->budget;
    b->info.n_products = c->n;
    b->products = tdn_arena_alloc(b->arena, (size_t)c->n + 1, sizeof *b->products);
    if (!b->products)
        return tdn_fail_nomem(c->trials.error, "the report");
    for (int32_t i = 0; i < c->n; i++) {
        b->products[i] = *c->found[i];
        b->info.n_int8 += !is_kept(c->found[i]);
    }
    return put_text(c);
}

static tdn_status choose(chooser *c, tdn_model *model, const tdn_calibration *calibration,
                         const tdn_calibrate_options *samples, tdn_error *error)
{
    if (samples->progress)
        samples->progress(samples->progress_user, 1, N_PHASES, "Measuring float32", 0);
    TDN_TRY(tdn_trials_begin(&c->trials, model, calibration, samples, c->o, c->arena, error));
    c->by_name = tdn_names_create(c->arena);
    if (!c->by_name)
        return tdn_fail_nomem(error, "the layers");
    TDN_TRY(search(c));
    TDN_TRY(set_layers(c)); /* what is slower, too */
    return put_report(c);
}

tdn_status tdn_budget_choose(tdn_budget **budget, tdn_model *model,
                             const tdn_calibration *calibration,
                             const tdn_calibrate_options *samples,
                             const tdn_budget_options *options, tdn_error *error)
{
    tdn_error own;
    if (!budget || !model || !calibration || !samples || !options)
        return tdn_fail(error, TDN_E_ARG,
                        "a model, a calibration, samples, options, and where to put the choice, "
                        "are needed");
    *budget = NULL;
    tdn_arena *kept = tdn_arena_create(model->allocator);
    chooser c = {.o = options, .arena = tdn_arena_create(model->allocator)};
    c.b = kept ? tdn_arena_alloc(kept, 1, sizeof *c.b) : NULL;
    tdn_status status = c.b && c.arena ? TDN_OK : tdn_fail_nomem(error, "a budget");
    if (status == TDN_OK) {
        c.b->arena = kept;
        status = choose(&c, model, calibration, samples, error ? error : &own);
    }
    tdn_arena_free(c.arena);
    if (status == TDN_OK)
        *budget = c.b;
    else
        tdn_arena_free(kept);
    return status;
}

void tdn_budget_free(tdn_budget *b)
{
    if (b)
        tdn_arena_free(b->arena);
}

/* ---- Looking at it --------------------------------------------------------------------------- */

const tdn_layer_precision *tdn_budget_layers(const tdn_budget *b, int32_t *n_layers)
{
    if (n_layers)
        *n_layers = b ? b->n_layers : 0;
    return b ? b->layers : NULL;
}

tdn_status tdn_budget_get_info(const tdn_budget *b, tdn_budget_info *info)
{
    if (!b || !info)
        return TDN_E_ARG;
    const uint32_t size = info->struct_size;
    memcpy(info, &b->info, size < sizeof b->info ? size : sizeof b->info);
    info->struct_size = size;
    return TDN_OK;
}

tdn_status tdn_budget_product_at(const tdn_budget *b, int index, tdn_budget_product *product)
{
    if (!b || !product || index < 0 || index >= b->info.n_products)
        return TDN_E_ARG;
    const uint32_t size = product->struct_size;
    memcpy(product, &b->products[index], size < sizeof *b->products ? size : sizeof *b->products);
    product->struct_size = size;
    return TDN_OK;
}
