/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes a plan: one growing table a kind of record, filled in one walk over the description, then
 * laid out behind the header and sealed with checksums.
 *
 * The bytes depend on the description alone: strings and blobs are numbered by first use, padding
 * is zero, and what lies beyond a rank is written as zero. Equal strings and equal blobs are stored
 * once. The description comes from the compiler and is trusted to be well-formed; what the format
 * cannot hold is TDN_E_INTERNAL, and the reader judges the rest.
 */
#include "plan/format.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "plan/plan.h"

const uint32_t tdn_format_record_sizes[TDN_FORMAT_N_TABLES] = {
    [TDN_FORMAT_STRINGS] = 1,
    [TDN_FORMAT_IO_NAMES] = sizeof(uint32_t),
    [TDN_FORMAT_NOTES] = sizeof(tdn_format_note),
    [TDN_FORMAT_SECTIONS] = sizeof(tdn_format_section),
    [TDN_FORMAT_PROGRAMS] = sizeof(tdn_format_program),
    [TDN_FORMAT_BUFFERS] = sizeof(tdn_format_buffer),
    [TDN_FORMAT_IOS] = sizeof(tdn_format_io),
    [TDN_FORMAT_STEPS] = sizeof(tdn_format_step),
    [TDN_FORMAT_OPERANDS] = sizeof(tdn_format_operand),
    [TDN_FORMAT_VALUES] = sizeof(tdn_format_value),
    [TDN_FORMAT_ATTRS] = sizeof(tdn_format_attr),
    [TDN_FORMAT_DATA] = 1,
    [TDN_FORMAT_BLOBS] = sizeof(tdn_format_blob),
};

typedef struct table {
    uint8_t *bytes;
    size_t size, capacity;
} table;

/* An open hash table of numbers: string offsets or blob indexes plus 1, 0 where empty. */
typedef struct slots {
    uint32_t *items;
    size_t n, capacity; /* a power of two */
} slots;

typedef struct blob_key {
    uint32_t crc;
    uint32_t stored; /* the blob that has the content */
} blob_key;

/* Failing to grow is remembered and told once, at the end: adding a record then needs no check at
 * each place. */
typedef struct writer {
    const tdn_plan *plan;
    const tdn_allocator *allocator;
    table tables[TDN_FORMAT_N_TABLES];
    slots strings, contents;
    blob_key *blobs;        /* of each blob of the plan */
    const void **blob_data; /* of each stored blob */
    uint32_t n_stored;
    tdn_status status;
    const char *misfit; /* what the format cannot hold */
    tdn_error *error;
} writer;

static void *add(writer *w, tdn_format_id id, size_t size)
{
    table *t = &w->tables[id];
    size_t need;
    if (w->status != TDN_OK || !tdn_size_add(t->size, size, &need)) {
        w->status = TDN_E_NOMEM;
        return NULL;
    }
    if (need > t->capacity) {
        const size_t capacity = need + need / 2 + 256;
        uint8_t *bytes = tdn_alloc(w->allocator, capacity, TDN_ALIGN);
        if (!bytes) {
            w->status = TDN_E_NOMEM;
            return NULL;
        }
        if (t->size)
            memcpy(bytes, t->bytes, t->size);
        tdn_free(w->allocator, t->bytes);
        t->bytes = bytes;
        t->capacity = capacity;
    }
    if (!size)
        return t->bytes;
    uint8_t *at = t->bytes + t->size;
    t->size = need;
    return memset(at, 0, size);
}

static void append(writer *w, tdn_format_id id, const void *record, size_t size)
{
    void *at = add(w, id, size);
    if (at && size)
        memcpy(at, record, size);
}

/* Every value in DATA begins at a multiple of 8. */
static void append_data(writer *w, const void *bytes, size_t size)
{
    append(w, TDN_FORMAT_DATA, bytes, size);
    add(w, TDN_FORMAT_DATA, tdn_round_up(size, 8) - size);
}

static void misfit(writer *w, const char *what)
{
    if (!w->misfit)
        w->misfit = what;
}

/* ---- Strings --------------------------------------------------------------------------------- */

static bool grow_slots(writer *w, slots *s, size_t (*hash)(const writer *w, uint32_t item))
{
    if (s->n * 2 < s->capacity)
        return true;
    slots wider = {.n = s->n, .capacity = s->capacity ? s->capacity * 2 : 64};
    wider.items =
        tdn_alloc_zero(w->allocator, wider.capacity * sizeof *wider.items, sizeof *wider.items);
    if (!wider.items) {
        w->status = TDN_E_NOMEM;
        return false;
    }
    for (size_t i = 0; i < s->capacity; i++) {
        if (!s->items[i])
            continue;
        size_t at = hash(w, s->items[i] - 1) & (wider.capacity - 1);
        while (wider.items[at])
            at = (at + 1) & (wider.capacity - 1);
        wider.items[at] = s->items[i];
    }
    tdn_free(w->allocator, s->items);
    *s = wider;
    return true;
}

static size_t text_hash(const char *text)
{
    size_t h = 14695981039346656037u; /* FNV-1a, 64 bits */
    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 1099511628211u;
    return h ^ h >> 29;
}

static size_t string_hash(const writer *w, uint32_t offset)
{
    return text_hash((const char *)w->tables[TDN_FORMAT_STRINGS].bytes + offset);
}

/* The offset of a string in STRINGS. */
static uint32_t string(writer *w, const char *text)
{
    if (!text)
        return TDN_FORMAT_NONE;
    if (!grow_slots(w, &w->strings, string_hash))
        return TDN_FORMAT_NONE;
    const table *t = &w->tables[TDN_FORMAT_STRINGS];
    const size_t mask = w->strings.capacity - 1;
    size_t at = text_hash(text) & mask;
    for (; w->strings.items[at]; at = (at + 1) & mask)
        if (strcmp((const char *)t->bytes + w->strings.items[at] - 1, text) == 0)
            return w->strings.items[at] - 1;
    const size_t offset = t->size;
    if (offset >= UINT32_MAX - 1) {
        misfit(w, "4 GiB of names");
        return TDN_FORMAT_NONE;
    }
    append(w, TDN_FORMAT_STRINGS, text, strlen(text) + 1);
    if (w->status != TDN_OK)
        return TDN_FORMAT_NONE;
    w->strings.items[at] = (uint32_t)offset + 1;
    w->strings.n++;
    return (uint32_t)offset;
}

/* A name as the reader takes it: the fused names of very many nodes are cut. */
static uint32_t name(writer *w, const char *text)
{
    if (!text || strlen(text) <= TDN_FORMAT_MAX_NAME)
        return string(w, text);
    char cut[TDN_FORMAT_MAX_NAME + 1];
    snprintf(cut, sizeof cut, "%.*s...", (int)sizeof cut - 4, text);
    return string(w, cut);
}

/* ---- Blobs ----------------------------------------------------------------------------------- */

static size_t content_hash(const writer *w, uint32_t blob) { return w->blobs[blob].crc; }

/* Finds equal content among the blobs before this one, or stores it anew. */
static void add_blob(writer *w, uint32_t index)
{
    const tdn_plan_blob *blob = &w->plan->blobs[index];
    const uint32_t crc = tdn_crc32c(0, blob->data, blob->size);
    w->blobs[index] = (blob_key){crc, w->n_stored};
    if (!grow_slots(w, &w->contents, content_hash))
        return;
    const size_t mask = w->contents.capacity - 1;
    size_t at = content_hash(w, index) & mask;
    for (; w->contents.items[at]; at = (at + 1) & mask) {
        const uint32_t other = w->contents.items[at] - 1;
        const tdn_plan_blob *o = &w->plan->blobs[other];
        if (w->blobs[other].crc == crc && o->size == blob->size &&
            (blob->size == 0 || memcmp(o->data, blob->data, blob->size) == 0)) {
            w->blobs[index].stored = w->blobs[other].stored;
            return;
        }
    }
    w->contents.items[at] = index + 1;
    w->contents.n++;
    w->blob_data[w->n_stored++] = blob->data;
    append(w, TDN_FORMAT_BLOBS, &(tdn_format_blob){.size = blob->size}, sizeof(tdn_format_blob));
}

static void add_blobs(writer *w)
{
    const uint32_t n = w->plan->n_blobs;
    w->blobs = tdn_alloc(w->allocator, n * sizeof *w->blobs, sizeof(void *));
    w->blob_data = tdn_alloc(w->allocator, n * sizeof *w->blob_data, sizeof(void *));
    if (!w->blobs || !w->blob_data) {
        w->status = TDN_E_NOMEM;
        return;
    }
    for (uint32_t i = 0; i < n && w->status == TDN_OK; i++)
        add_blob(w, i);
}

static uint32_t stored_blob(writer *w, uint32_t index)
{
    if (index < w->plan->n_blobs && w->status == TDN_OK)
        return w->blobs[index].stored;
    misfit(w, "a buffer of a blob that is not there");
    return 0;
}

/* ---- Records --------------------------------------------------------------------------------- */

static void copy_dims(int64_t *to, const int64_t *from, int rank)
{
    for (int i = 0; i < rank && i < TDN_MAX_RANK; i++)
        to[i] = from[i];
}

static void add_buffer(writer *w, const tdn_plan_buffer *b)
{
    tdn_format_buffer r = {
        .offset = b->offset,
        .size = b->size,
        .cls = (uint32_t)b->cls,
        .index = b->index,
        .name = name(w, b->name ? b->name : ""),
        .scale = b->scale,
        .zero_point = b->zero_point,
    };
    if (b->cls == TDN_BUFFER_WEIGHT || (b->cls == TDN_BUFFER_STATE && b->index != TDN_FORMAT_NONE))
        r.index = stored_blob(w, b->index);
    if (b->cls == TDN_BUFFER_ARENA)
        r.index = 0;
    else if (b->cls != TDN_BUFFER_STATE)
        r.offset = 0;
    append(w, TDN_FORMAT_BUFFERS, &r, sizeof r);
}

static void add_io(writer *w, const tdn_plan_io *io)
{
    tdn_format_io r = {
        .buffer = io->buffer,
        .dtype = (uint32_t)io->dtype,
        .rank = io->rank,
        .batch_axis = io->batch_axis,
        .bounded = io->bounded,
    };
    copy_dims(r.dims, io->dims, io->rank);
    append(w, TDN_FORMAT_IOS, &r, sizeof r);
}

static tdn_format_operand operand(const tdn_plan_operand *o)
{
    if (o->buffer == UINT32_MAX)
        return (tdn_format_operand){.buffer = TDN_FORMAT_NONE};
    tdn_format_operand r = {
        .offset = o->offset,
        .buffer = o->buffer,
        .dtype = (uint32_t)o->dtype,
        .rank = o->rank,
        .bounded = o->bounded,
    };
    copy_dims(r.dims, o->dims, o->rank);
    copy_dims(r.strides, o->strides, o->rank);
    return r;
}

static void add_operand(writer *w, const tdn_plan_operand *o)
{
    const tdn_format_operand r = operand(o);
    append(w, TDN_FORMAT_OPERANDS, &r, sizeof r);
}

static void add_value(writer *w, const tdn_plan_value *v)
{
    const tdn_format_value r = {
        .view = operand(&v->view), .name = name(w, v->name), .step = v->step};
    append(w, TDN_FORMAT_VALUES, &r, sizeof r);
}

static void add_tensor(writer *w, const tdn_view *view)
{
    const size_t size = tdn_dtype_size(view->dtype, (size_t)tdn_view_count(view));
    tdn_format_tensor r = {.dtype = (uint32_t)view->dtype, .rank = view->rank};
    copy_dims(r.dims, view->dims, view->rank);
    append_data(w, &r, sizeof r);
    append_data(w, view->data, size);
}

static void add_strings(writer *w, const tdn_attr *a)
{
    for (int32_t i = 0; i < a->n; i++) {
        const uint32_t s = name(w, a->strings[i]);
        append(w, TDN_FORMAT_DATA, &s, sizeof s);
    }
    add(w, TDN_FORMAT_DATA, (size_t)(a->n % 2) * sizeof(uint32_t));
}

static void add_attr(writer *w, const tdn_attr *a)
{
    tdn_format_attr r = {.name = name(w, a->name), .kind = (uint32_t)a->kind, .n = a->n};
    const size_t n = a->n > 0 ? (size_t)a->n : 0;
    switch (a->kind) {
    case TDN_ATTR_INT:
        memcpy(&r.value, &a->i, sizeof a->i);
        r.n = 0;
        break;
    case TDN_ATTR_FLOAT:
        memcpy(&r.value, &a->f, sizeof a->f);
        r.n = 0;
        break;
    case TDN_ATTR_STRING:
        r.n = (int32_t)strlen(a->s);
        append_data(w, a->s, strlen(a->s) + 1);
        break;
    case TDN_ATTR_INTS: append_data(w, a->ints, n * sizeof(int64_t)); break;
    case TDN_ATTR_FLOATS: append_data(w, a->floats, n * sizeof(float)); break;
    case TDN_ATTR_STRINGS: add_strings(w, a); break;
    case TDN_ATTR_TENSOR:
        r.n = 0;
        add_tensor(w, a->tensor);
        break;
    default: misfit(w, "an attribute that is a graph"); break;
    }
    append(w, TDN_FORMAT_ATTRS, &r, sizeof r);
}

static void add_step(writer *w, const tdn_plan_step *s)
{
    const tdn_format_step r = {
        .args_size = s->args_size,
        .kind = (uint32_t)s->kind,
        .name = name(w, s->name ? s->name : ""),
        .kernel = name(w, s->kernel ? s->kernel : ""),
        .n_in = s->n_in,
        .n_out = s->n_out,
        .n_attrs = (uint32_t)s->attrs.n,
        .expr_size = s->expr ? (uint32_t)tdn_expr_size(s->expr) : 0,
        .n_then = s->n_then,
        .n_else = s->n_else,
    };
    append(w, TDN_FORMAT_STEPS, &r, sizeof r);
    for (uint32_t i = 0; i < s->n_in + s->n_out; i++)
        add_operand(w, &s->operands[i]);
    append_data(w, s->args, s->args_size);
    append_data(w, s->expr, r.expr_size);
    for (int32_t i = 0; i < s->attrs.n; i++)
        add_attr(w, &s->attrs.items[i]);
}

static void add_program(writer *w, const tdn_plan_program *p)
{
    const tdn_format_program r = {
        .arena_size = p->arena_size,
        .state_size = p->state_size,
        .flops = p->flops,
        .n_buffers = p->n_buffers,
        .n_steps = p->n_steps,
        .n_values = p->n_values,
    };
    append(w, TDN_FORMAT_PROGRAMS, &r, sizeof r);
    for (uint32_t i = 0; i < p->n_buffers; i++)
        add_buffer(w, &p->buffers[i]);
    for (uint32_t i = 0; i < w->plan->n_inputs; i++)
        add_io(w, &p->inputs[i]);
    for (uint32_t i = 0; i < w->plan->n_outputs; i++)
        add_io(w, &p->outputs[i]);
    for (uint32_t i = 0; i < p->n_steps; i++)
        add_step(w, &p->steps[i]);
    for (uint32_t i = 0; i < p->n_values; i++)
        add_value(w, &p->values[i]);
}

static void add_records(writer *w)
{
    const tdn_plan *plan = w->plan;
    string(w, ""); /* so that the table is never empty */
    for (uint32_t i = 0; i < plan->n_inputs + plan->n_outputs; i++) {
        const uint32_t s = name(w, i < plan->n_inputs ? plan->input_names[i]
                                                      : plan->output_names[i - plan->n_inputs]);
        append(w, TDN_FORMAT_IO_NAMES, &s, sizeof s);
    }
    for (uint32_t i = 0; i < plan->n_notes; i++) {
        const tdn_format_note r = {.key = name(w, plan->notes[i].key),
                                   .text = string(w, plan->notes[i].text)};
        append(w, TDN_FORMAT_NOTES, &r, sizeof r);
    }
    add_blobs(w);
    for (uint32_t i = 0; i < plan->n_sections; i++) {
        const tdn_plan_section *s = &plan->sections[i];
        const tdn_format_section r = {.isa = s->isa, .target = name(w, s->target)};
        append(w, TDN_FORMAT_SECTIONS, &r, sizeof r);
        for (uint32_t k = 0; k < plan->n_programs; k++)
            add_program(w, &s->programs[k]);
    }
}

/* ---- Layout ---------------------------------------------------------------------------------- */

/* Gives each table and blob its place; returns the file's size, or 0 where it does not fit a
 * size_t. */
static size_t place(writer *w, tdn_format_header *h)
{
    size_t at = sizeof *h;
    for (int i = 0; i < TDN_FORMAT_N_TABLES; i++) {
        h->tables[i].offset = at;
        h->tables[i].size = w->tables[i].size;
        h->tables[i].record_size = tdn_format_record_sizes[i];
        if (!tdn_size_add(at, tdn_round_up(w->tables[i].size, TDN_ALIGN), &at))
            return 0;
    }
    tdn_format_blob *blobs = (tdn_format_blob *)w->tables[TDN_FORMAT_BLOBS].bytes;
    for (uint32_t i = 0; i < w->n_stored; i++) {
        blobs[i].offset = at;
        if (!tdn_size_add(at, tdn_round_up(blobs[i].size, TDN_ALIGN), &at))
            return 0;
    }
    return at;
}

static void fill(const writer *w, const tdn_format_header *h, uint8_t *bytes)
{
    memset(bytes, 0, h->total_size);
    memcpy(bytes, h, sizeof *h);
    for (int i = 0; i < TDN_FORMAT_N_TABLES; i++)
        if (h->tables[i].size)
            memcpy(bytes + h->tables[i].offset, w->tables[i].bytes, h->tables[i].size);
    const tdn_format_blob *blobs = (const tdn_format_blob *)w->tables[TDN_FORMAT_BLOBS].bytes;
    for (uint32_t i = 0; i < w->n_stored; i++)
        if (blobs[i].size)
            memcpy(bytes + blobs[i].offset, w->blob_data[i], blobs[i].size);
}

static tdn_status lay_out(writer *w, void **bytes, size_t *size)
{
    tdn_format_header h = {
        .version = TDN_FORMAT_VERSION,
        .order = TDN_FORMAT_ORDER,
        .header_size = sizeof h,
        .n_inputs = w->plan->n_inputs,
        .n_outputs = w->plan->n_outputs,
        .n_programs = w->plan->n_programs,
        .n_sections = w->plan->n_sections,
        .n_tables = TDN_FORMAT_N_TABLES,
    };
    snprintf(h.text, sizeof h.text, "tendon plan %u, built by tendon %s\n", TDN_FORMAT_VERSION,
             tdn_version());
    memcpy(h.magic, TDN_FORMAT_MAGIC, sizeof h.magic);
    const size_t total = place(w, &h);
    h.total_size = total;
    uint8_t *file = total ? tdn_alloc(w->allocator, total, TDN_ALIGN) : NULL;
    if (!file)
        return tdn_fail_nomem(w->error, "the plan's bytes");
    fill(w, &h, file);
    tdn_plan_seal(file, total);
    *bytes = file;
    *size = total;
    return TDN_OK;
}

tdn_status tdn_plan_write(const tdn_plan *plan, const tdn_allocator *allocator, void **bytes,
                          size_t *size, tdn_error *error)
{
    *bytes = NULL;
    *size = 0;
    writer w = {.plan = plan, .allocator = allocator, .error = error};
    add_records(&w);
    for (int i = 0; i < TDN_FORMAT_N_TABLES; i++)
        if (i != TDN_FORMAT_STRINGS && i != TDN_FORMAT_DATA &&
            w.tables[i].size / tdn_format_record_sizes[i] > TDN_FORMAT_MAX_COUNT)
            misfit(&w, "more records than the format counts");
    tdn_status status;
    if (w.status != TDN_OK)
        status = tdn_fail_nomem(error, "the plan's tables");
    else if (w.misfit)
        status = tdn_fail(error, TDN_E_INTERNAL, "a plan cannot hold %s", w.misfit);
    else
        status = lay_out(&w, bytes, size);
    for (int i = 0; i < TDN_FORMAT_N_TABLES; i++)
        tdn_free(allocator, w.tables[i].bytes);
    tdn_free(allocator, w.strings.items);
    tdn_free(allocator, w.contents.items);
    tdn_free(allocator, w.blobs);
    tdn_free(allocator, w.blob_data);
    return status;
}

/* ---- Seal ------------------------------------------------------------------------------------ */

/* The checksum of a range and its padding, where it lies in the file. */
static bool crc_of(const uint8_t *bytes, size_t size, uint64_t offset, uint64_t length,
                   uint32_t *crc)
{
    if (offset > size || length > size - offset)
        return false;
    const uint64_t padded = (length + TDN_ALIGN - 1) / TDN_ALIGN * TDN_ALIGN;
    *crc = tdn_crc32c(0, bytes + offset, (size_t)(padded < size - offset ? padded : size - offset));
    return true;
}

void tdn_plan_seal(void *bytes, size_t size)
{
    tdn_format_header *h = bytes;
    uint8_t *base = bytes;
    if (size < sizeof *h)
        return;
    const tdn_format_table t =
        h->tables[TDN_FORMAT_BLOBS]; /* a copy: damaged, it may lie over the header */
    if (t.offset <= size && t.size <= size - t.offset &&
        t.offset % _Alignof(tdn_format_blob) == 0) {
        tdn_format_blob *blobs = (tdn_format_blob *)(base + t.offset);
        for (size_t i = 0; i < t.size / sizeof *blobs; i++)
            crc_of(base, size, blobs[i].offset, blobs[i].size, &blobs[i].crc);
    }
    for (int i = 0; i < TDN_FORMAT_N_TABLES; i++)
        crc_of(base, size, h->tables[i].offset, h->tables[i].size, &h->tables[i].crc);
    h->crc = 0;
    h->crc = tdn_crc32c(0, h, sizeof *h);
}
