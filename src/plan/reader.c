/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a plan that nobody vouches for. One pass in the order of the records; each is checked whole
 * before it is used, so what comes out is in range: strings end, dims and strides stay inside their
 * buffer, buffers inside arena, states or blob, loops and branches nest. What only a kernel or a
 * reference can judge (do these shapes fit this operation?) is theirs.
 *
 * Time and memory are proportional to the file: every record has one owner (src/plan/format.h), and
 * the one thing that many records may share, a string, counts against a budget. What is read points
 * into the file's bytes. The checksums of the blobs are not looked at here, but by
 * tdn_plan_check_blob: an engine reads the blobs of one section only.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/reader.h"
#include "plan/format.h"
#include "plan/plan.h"

/* Tables by name, for texts. */
static const char *const table_names[TDN_FORMAT_N_TABLES] = {
    "strings", "io names", "notes",  "sections",   "programs", "buffers", "ios",
    "steps",   "operands", "values", "attributes", "data",     "blobs",
};

typedef struct in {
    const uint8_t *bytes;
    size_t size;
    const tdn_format_header *h;
    size_t n[TDN_FORMAT_N_TABLES];  /* records */
    size_t at[TDN_FORMAT_N_TABLES]; /* the next record without an owner */
    tdn_reader data;
    uint64_t text_budget;
    tdn_plan *plan;
    const tdn_plan_operand *
        *open; /* of each buffer of a program: its first operand of open extents */
    tdn_arena *arena;
    tdn_error *error;
} in;

__attribute__((format(printf, 2, 3))) static tdn_status bad(const in *f, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return tdn_fail(f->error, TDN_E_FORMAT, "damaged plan: %s", text);
}

static const void *table(const in *f, tdn_format_id id)
{
    return f->bytes + f->h->tables[id].offset;
}

/* The next n records of a table that go to one owner; NULL where fewer are left. */
static const void *take(in *f, tdn_format_id id, size_t n)
{
    if (n > f->n[id] - f->at[id])
        return NULL;
    const uint8_t *p = (const uint8_t *)table(f, id) + f->at[id] * tdn_format_record_sizes[id];
    f->at[id] += n;
    return p;
}

static const void *take_data(in *f, uint64_t size)
{
    if (size > tdn_reader_left(&f->data))
        return NULL;
    return tdn_reader_take(&f->data, tdn_round_up((size_t)size, 8));
}

/* An array in the arena; never NULL for lack of elements. */
static tdn_status make(in *f, size_t n, size_t size, void *out)
{
    void *p = tdn_arena_alloc(f->arena, n, size);
    if (!p)
        return tdn_fail_nomem(f->error, "the plan's description");
    memcpy(out, &p, sizeof p);
    return TDN_OK;
}

/* The string at an offset that starts one: the table ends with a NUL, so every string ends. */
static tdn_status text_at(in *f, uint32_t offset, size_t max, const char **out)
{
    const char *strings = table(f, TDN_FORMAT_STRINGS);
    if (offset >= f->n[TDN_FORMAT_STRINGS] || (offset > 0 && strings[offset - 1] != '\0'))
        return bad(f, "no string starts at %u", offset);
    const size_t length = strnlen(strings + offset, max + 1);
    if (length > max)
        return bad(f, "a name is longer than %zu bytes", max);
    if (length > f->text_budget)
        return bad(f, "its names are too long in all");
    f->text_budget -= length;
    *out = strings + offset;
    return TDN_OK;
}

static tdn_status name_at(in *f, uint32_t offset, const char **out)
{
    return text_at(f, offset, TDN_FORMAT_MAX_NAME, out);
}

/* ---- Header and tables ----------------------------------------------------------------------- */

/* Who built it: the rest of the text line. The line is not yet trusted, so it is copied and
 * cleaned. */
static void builder(const tdn_format_header *h, char *text, size_t size)
{
    const char *by = memchr(h->text, ',', sizeof h->text);
    const char *from = by ? by + 1 : h->text;
    size_t n = 0;
    for (const char *p = from;
         p < h->text + sizeof h->text && *p >= ' ' && *p < 127 && n + 1 < size; p++)
        if (n > 0 || *p != ' ')
            text[n++] = *p;
    text[n] = '\0';
}

static tdn_status read_header(in *f)
{
    if (f->size < 80 ||
        memcmp(f->bytes + offsetof(tdn_format_header, magic), TDN_FORMAT_MAGIC, 8) != 0)
        return tdn_fail(f->error, TDN_E_FORMAT, "not a tendon plan (no magic in %zu bytes)",
                        f->size);
    const tdn_format_header *h = f->h;
    if (h->order != TDN_FORMAT_ORDER)
        return tdn_fail(f->error, TDN_E_FORMAT, "the plan has another byte order (mark %08x)",
                        h->order);
    if (h->version != TDN_FORMAT_VERSION) {
        char by[65];
        builder(h, by, sizeof by);
        return tdn_fail(f->error, TDN_E_FORMAT,
                        "plan format %u (%s), but this is tendon %s, which reads format %u: "
                        "build the plan again with this version, or update the run time",
                        h->version, by, tdn_version(), TDN_FORMAT_VERSION);
    }
    if (f->size < sizeof *h)
        return bad(f, "%zu bytes cut its header short", f->size);
    if (h->total_size != f->size)
        return bad(f, "%zu bytes, where its header says %llu", f->size,
                   (unsigned long long)h->total_size);
    tdn_format_header copy = *h;
    copy.crc = 0;
    if (tdn_crc32c(0, &copy, sizeof copy) != h->crc)
        return bad(f, "the header's checksum does not match");
    if (h->header_size != sizeof *h || h->n_tables != TDN_FORMAT_N_TABLES || h->zero != 0)
        return bad(f, "a header of another shape");
    return TDN_OK;
}

/* Each table is where it must be, whole, and as it was written. */
static tdn_status read_tables(in *f)
{
    uint64_t at = sizeof *f->h;
    for (int i = 0; i < TDN_FORMAT_N_TABLES; i++) {
        const tdn_format_table *t = &f->h->tables[i];
        if (t->offset != at || t->size > f->size - at || t->size > (uint64_t)1 << 40)
            return bad(f, "table '%s' is out of place", table_names[i]);
        const uint64_t padded = tdn_round_up(t->size, TDN_ALIGN);
        if (padded > f->size - at)
            return bad(f, "table '%s' is cut short", table_names[i]);
        if (t->record_size != tdn_format_record_sizes[i] || t->size % t->record_size != 0)
            return bad(f, "table '%s' has records of another size", table_names[i]);
        if (tdn_crc32c(0, f->bytes + at, (size_t)padded) != t->crc)
            return bad(f, "the checksum of table '%s' does not match", table_names[i]);
        f->n[i] = (size_t)(t->size / t->record_size);
        if (t->record_size > 1 && f->n[i] > TDN_FORMAT_MAX_COUNT)
            return bad(f, "table '%s' has %zu records", table_names[i], f->n[i]);
        at += padded;
    }
    const size_t n = f->n[TDN_FORMAT_STRINGS];
    if (n == 0 || n >= UINT32_MAX || ((const char *)table(f, TDN_FORMAT_STRINGS))[n - 1] != '\0')
        return bad(f, "the strings do not end");
    f->data.at = table(f, TDN_FORMAT_DATA);
    f->data.end = f->data.at + f->n[TDN_FORMAT_DATA];
    f->text_budget = (uint64_t)f->size * 32 + 4096;
    return TDN_OK;
}

/* Counts that the header tells twice: as a number and as a table. */
static tdn_status read_counts(in *f)
{
    const tdn_format_header *h = f->h;
    if (h->n_sections == 0 || h->n_programs == 0)
        return bad(f, "no program");
    if (h->n_sections != f->n[TDN_FORMAT_SECTIONS] ||
        (uint64_t)h->n_sections * h->n_programs != f->n[TDN_FORMAT_PROGRAMS])
        return bad(f, "%u sections of %u programs do not make %zu", h->n_sections, h->n_programs,
                   f->n[TDN_FORMAT_PROGRAMS]);
    const uint64_t n_io = (uint64_t)h->n_inputs + h->n_outputs;
    if (n_io != f->n[TDN_FORMAT_IO_NAMES] ||
        n_io * f->n[TDN_FORMAT_PROGRAMS] != f->n[TDN_FORMAT_IOS])
        return bad(f, "%u inputs and %u outputs do not match the tables", h->n_inputs,
                   h->n_outputs);
    return TDN_OK;
}

/* Blobs lie one after the other up to the end of the file. */
static tdn_status read_blobs(in *f)
{
    const tdn_format_blob *r = table(f, TDN_FORMAT_BLOBS);
    const tdn_format_table *last = &f->h->tables[TDN_FORMAT_N_TABLES - 1];
    uint64_t at = last->offset + tdn_round_up(last->size, TDN_ALIGN);
    tdn_plan_blob *blobs;
    TDN_TRY(make(f, f->n[TDN_FORMAT_BLOBS], sizeof *blobs, &blobs));
    for (size_t i = 0; i < f->n[TDN_FORMAT_BLOBS]; i++) {
        if (r[i].offset != at || r[i].size > f->size - at ||
            tdn_round_up(r[i].size, TDN_ALIGN) > f->size - at)
            return bad(f, "blob %zu is out of place", i);
        if (r[i].zero != 0)
            return bad(f, "blob %zu has bits of a later version", i);
        blobs[i] = (tdn_plan_blob){.data = f->bytes + at, .size = r[i].size};
        at += tdn_round_up(r[i].size, TDN_ALIGN);
    }
    if (at != f->size)
        return bad(f, "%llu bytes behind its last blob", (unsigned long long)(f->size - at));
    f->plan->blobs = blobs;
    f->plan->n_blobs = (uint32_t)f->n[TDN_FORMAT_BLOBS];
    return TDN_OK;
}

static tdn_status read_names(in *f)
{
    const uint32_t *r = table(f, TDN_FORMAT_IO_NAMES);
    const uint32_t n_inputs = f->h->n_inputs, n_outputs = f->h->n_outputs;
    const char **names;
    TDN_TRY(make(f, n_inputs + n_outputs, sizeof *names, &names));
    for (uint32_t i = 0; i < n_inputs + n_outputs; i++)
        TDN_TRY(name_at(f, r[i], &names[i]));
    f->plan->input_names = names;
    f->plan->output_names = names + n_inputs;
    f->plan->n_inputs = n_inputs;
    f->plan->n_outputs = n_outputs;
    return TDN_OK;
}

static tdn_status read_notes(in *f)
{
    const tdn_format_note *r = table(f, TDN_FORMAT_NOTES);
    tdn_plan_note *notes;
    TDN_TRY(make(f, f->n[TDN_FORMAT_NOTES], sizeof *notes, &notes));
    for (size_t i = 0; i < f->n[TDN_FORMAT_NOTES]; i++) {
        TDN_TRY(name_at(f, r[i].key, &notes[i].key));
        TDN_TRY(text_at(f, r[i].text, f->size, &notes[i].text));
    }
    f->plan->notes = notes;
    f->plan->n_notes = (uint32_t)f->n[TDN_FORMAT_NOTES];
    return TDN_OK;
}

/* ---- Shapes ---------------------------------------------------------------------------------- */

static bool is_dtype(uint32_t dtype) { return dtype > TDN_DTYPE_NONE && dtype < TDN_STRING; }

static bool is_sub_byte(uint32_t dtype) { return dtype == TDN_S4 || dtype == TDN_U4; }

/* Is the rank in range, are dims counts, those beyond the rank zero, and does the
 * dense size fit? */
static bool dense_size(uint32_t dtype, int32_t rank, const int64_t *dims, uint64_t *size)
{
    if (!is_dtype(dtype) || rank < 0 || rank > TDN_MAX_RANK)
        return false;
    int64_t count;
    if (!tdn_dims_count(dims, rank, &count) || count > TDN_FORMAT_MAX_ELEMENTS)
        return false;
    for (int i = 0; i < TDN_MAX_RANK; i++)
        if (i < rank ? dims[i] > TDN_FORMAT_MAX_ELEMENTS : dims[i] != 0)
            return false;
    *size = tdn_dtype_size((tdn_dtype)dtype, (size_t)count);
    return true;
}

static bool is_empty(const tdn_format_operand *o)
{
    for (int i = 0; i < o->rank; i++)
        if (o->dims[i] == 0)
            return true;
    return false;
}

static bool is_dense(const tdn_format_operand *o)
{
    int64_t stride = 1;
    for (int i = o->rank - 1; i >= 0; i--) {
        if (o->dims[i] != 1 && o->strides[i] != stride)
            return false;
        stride *= o->dims[i]; /* fits: the dense size does, or an axis is empty */
    }
    return true;
}

/* Do all elements lie in 0..size of the buffer? Strides may be negative: the lowest element counts
 * too. */
static bool is_inside(const tdn_format_operand *o, uint64_t size)
{
    if (o->offset > size || o->offset > INT64_MAX)
        return false;
    if (is_empty(o))
        return true;
    if (is_sub_byte(o->dtype)) {
        uint64_t dense = 0;
        return is_dense(o) && dense_size(o->dtype, o->rank, o->dims, &dense) &&
               dense <= size - o->offset;
    }
    const int64_t element = (int64_t)tdn_dtype_size((tdn_dtype)o->dtype, 1);
    int64_t low = (int64_t)o->offset, high = (int64_t)o->offset;
    for (int i = 0; i < o->rank; i++) {
        int64_t span;
        if (__builtin_mul_overflow(o->dims[i] - 1, o->strides[i], &span) ||
            __builtin_mul_overflow(span, element, &span))
            return false;
        int64_t *end = span < 0 ? &low : &high;
        if (__builtin_add_overflow(*end, span, end))
            return false;
    }
    return low >= 0 && !__builtin_add_overflow(high, element, &high) && (uint64_t)high <= size;
}

/* Does each element have a place of its own? Axes sorted by stride must step over all that lies
 * within. */
static bool is_one_to_one(const tdn_format_operand *o)
{
    int64_t strides[TDN_MAX_RANK], dims[TDN_MAX_RANK];
    int n = 0;
    for (int i = 0; i < o->rank; i++) {
        if (o->dims[i] == 1)
            continue;
        const int64_t stride =
            o->strides[i] < 0 ? -o->strides[i] : o->strides[i]; /* in range: the view is inside */
        int at = n++;
        for (; at > 0 && strides[at - 1] > stride; at--) {
            strides[at] = strides[at - 1];
            dims[at] = dims[at - 1];
        }
        strides[at] = stride;
        dims[at] = o->dims[i];
    }
    int64_t span = 0;
    for (int i = 0; i < n; i++) {
        if (strides[i] <= span)
            return false;
        span += (dims[i] - 1) * strides[i];
    }
    return true;
}

/* ---- Buffers, inputs and outputs ------------------------------------------------------------- */

static tdn_status check_range(in *f, const tdn_format_buffer *r, const char *what, uint64_t all)
{
    if (r->offset % TDN_ALIGN != 0 || r->offset > all || r->size > all - r->offset)
        return bad(f, "bytes %llu + %llu of %s of %llu", (unsigned long long)r->offset,
                   (unsigned long long)r->size, what, (unsigned long long)all);
    return TDN_OK;
}

static tdn_status check_blob_size(in *f, const tdn_format_buffer *r)
{
    if (r->index >= f->plan->n_blobs || r->size > f->plan->blobs[r->index].size)
        return bad(f, "%llu bytes of blob %u of %u", (unsigned long long)r->size, r->index,
                   f->plan->n_blobs);
    return TDN_OK;
}

static tdn_status check_buffer(in *f, const tdn_format_buffer *r, const tdn_plan_program *p)
{
    const bool has_offset = r->cls == TDN_BUFFER_ARENA || r->cls == TDN_BUFFER_STATE;
    if (r->zero != 0 || (!has_offset && r->offset != 0) ||
        (r->cls == TDN_BUFFER_ARENA && r->index != 0))
        return bad(f, "bits of a later version");
    switch (r->cls) {
    case TDN_BUFFER_WEIGHT: return check_blob_size(f, r);
    case TDN_BUFFER_ARENA: return check_range(f, r, "an arena", p->arena_size);
    case TDN_BUFFER_INPUT:
        return r->index < f->plan->n_inputs ? TDN_OK
                                            : bad(f, "input %u of %u", r->index, f->plan->n_inputs);
    case TDN_BUFFER_OUTPUT:
        return r->index < f->plan->n_outputs
                   ? TDN_OK
                   : bad(f, "output %u of %u", r->index, f->plan->n_outputs);
    case TDN_BUFFER_STATE:
        TDN_TRY(check_range(f, r, "states", p->state_size));
        return r->index == TDN_FORMAT_NONE ? TDN_OK : check_blob_size(f, r);
    default: return bad(f, "class %u", r->cls);
    }
}

static tdn_status read_buffers(in *f, tdn_plan_program *p)
{
    const tdn_format_buffer *r = take(f, TDN_FORMAT_BUFFERS, p->n_buffers);
    if (!r)
        return bad(f, "%u buffers are not there", p->n_buffers);
    tdn_plan_buffer *buffers;
    TDN_TRY(make(f, p->n_buffers, sizeof *buffers, &buffers));
    for (uint32_t i = 0; i < p->n_buffers; i++) {
        tdn_status status = check_buffer(f, &r[i], p);
        if (status != TDN_OK)
            return tdn_fail_while(f->error, status, "reading buffer %u", i);
        buffers[i] = (tdn_plan_buffer){
            .cls = (tdn_buffer_class)r[i].cls,
            .index = r[i].index,
            .offset = r[i].offset,
            .size = r[i].size,
            .scale = r[i].scale,
            .zero_point = r[i].zero_point,
        };
        TDN_TRY(name_at(f, r[i].name, &buffers[i].name));
    }
    p->buffers = buffers;
    return TDN_OK;
}

static tdn_status check_io(in *f, const tdn_format_io *r, const tdn_plan_program *p, bool is_input,
                           uint32_t index)
{
    uint64_t size;
    if (!dense_size(r->dtype, r->rank, r->dims, &size))
        return bad(f, "dtype %u, rank %d or dims out of range", r->dtype, r->rank);
    const tdn_plan_buffer *b = r->buffer < p->n_buffers ? &p->buffers[r->buffer] : NULL;
    if (!b || b->cls != (is_input ? TDN_BUFFER_INPUT : TDN_BUFFER_OUTPUT) || b->index != index)
        return bad(f, "buffer %u is not its own", r->buffer);
    if (r->zero != 0 || r->bounded >> r->rank != 0 || (r->bounded != 0 && is_input))
        return bad(f, "open extents %x", r->bounded);
    if (r->batch_axis < -1 || r->batch_axis >= r->rank)
        return bad(f, "batch axis %d of rank %d", r->batch_axis, r->rank);
    if (r->batch_axis >= 0 &&
        (r->bounded != 0 || is_sub_byte(r->dtype) || r->dims[r->batch_axis] == 0))
        return bad(f, "a batch axis that cannot be bound shorter");
    return TDN_OK;
}

/* The same network in each program: dtypes and ranks agree everywhere, dims across sections. */
static tdn_status check_io_alike(in *f, const tdn_format_io *r, uint32_t program, uint32_t io)
{
    const tdn_format_io *all = table(f, TDN_FORMAT_IOS);
    const uint32_t n_io = f->h->n_inputs + f->h->n_outputs;
    const tdn_format_io *first = &all[(size_t)program * n_io + io];
    if (all[io].dtype != r->dtype || all[io].rank != r->rank)
        return bad(f, "its dtype or rank is not that of the other programs");
    if (first->batch_axis != r->batch_axis || first->bounded != r->bounded ||
        memcmp(first->dims, r->dims, sizeof r->dims) != 0)
        return bad(f, "its dims are not those of the first section");
    return TDN_OK;
}

static tdn_status read_ios(in *f, tdn_plan_program *p, uint32_t program)
{
    const uint32_t n_inputs = f->plan->n_inputs, n = n_inputs + f->plan->n_outputs;
    const tdn_format_io *r = take(f, TDN_FORMAT_IOS, n);
    if (!r)
        return bad(f, "its inputs are not there");
    tdn_plan_io *ios;
    TDN_TRY(make(f, n, sizeof *ios, &ios));
    int64_t batch = 0;
    for (uint32_t i = 0; i < n; i++) {
        tdn_status status = check_io(f, &r[i], p, i < n_inputs, i < n_inputs ? i : i - n_inputs);
        if (status == TDN_OK)
            status = check_io_alike(f, &r[i], program, i);
        if (status == TDN_OK && r[i].batch_axis >= 0) {
            const int64_t extent = r[i].dims[r[i].batch_axis];
            if (batch != 0 && extent != batch)
                status = bad(f, "a batch of %lld, another has %lld", (long long)extent,
                             (long long)batch);
            batch = extent;
        }
        if (status != TDN_OK)
            return tdn_fail_while(f->error, status, "reading input or output %u", i);
        ios[i] = (tdn_plan_io){
            .buffer = r[i].buffer,
            .dtype = (tdn_dtype)r[i].dtype,
            .rank = r[i].rank,
            .batch_axis = r[i].batch_axis,
            .bounded = r[i].bounded,
        };
        memcpy(ios[i].dims, r[i].dims, sizeof ios[i].dims);
    }
    p->inputs = ios;
    p->outputs = ios + n_inputs;
    return TDN_OK;
}

/* An input or output has one buffer, of its own size: what the caller binds takes that buffer's
 * place. */
static tdn_status check_io_buffers(in *f, const tdn_plan_program *p)
{
    for (uint32_t i = 0; i < p->n_buffers; i++) {
        const tdn_plan_buffer *b = &p->buffers[i];
        if (b->cls != TDN_BUFFER_INPUT && b->cls != TDN_BUFFER_OUTPUT)
            continue;
        const tdn_plan_io *io =
            b->cls == TDN_BUFFER_INPUT ? &p->inputs[b->index] : &p->outputs[b->index];
        uint64_t size = 0;
        if (io->buffer != i || !dense_size((uint32_t)io->dtype, io->rank, io->dims, &size) ||
            b->size != size)
            return bad(f, "buffer %u of %llu bytes is not that of its input or output", i,
                       (unsigned long long)b->size);
    }
    return TDN_OK;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* Extents that are known only after a run belong to the buffer: all that read or write them must
 * mean the same. */
static tdn_status check_open(in *f, const tdn_format_operand *r, const tdn_plan_buffer *b,
                             const tdn_plan_program *p, tdn_step_kind kind)
{
    if (r->bounded >> r->rank != 0 || kind != TDN_STEP_REFERENCE || r->offset != 0 || !is_dense(r))
        return bad(f, "open extents where there can be none");
    const tdn_plan_operand *first = f->open[r->buffer];
    if (first && (first->rank != r->rank || (uint32_t)first->dtype != r->dtype ||
                  memcmp(first->dims, r->dims, sizeof r->dims) != 0))
        return bad(f, "open extents that differ from another operand's");
    if (b->cls != TDN_BUFFER_OUTPUT)
        return TDN_OK;
    const tdn_plan_io *io = &p->outputs[b->index];
    if ((r->bounded & ~io->bounded) != 0 || io->rank != r->rank ||
        memcmp(io->dims, r->dims, sizeof r->dims) != 0)
        return bad(f, "open extents that its output does not have");
    return TDN_OK;
}

static tdn_status check_operand(in *f, const tdn_format_operand *r, const tdn_plan_program *p,
                                tdn_step_kind kind, bool is_out)
{
    uint64_t size;
    if (!dense_size(r->dtype, r->rank, r->dims, &size))
        return bad(f, "dtype %u, rank %d or dims out of range", r->dtype, r->rank);
    for (int i = 0; i < TDN_MAX_RANK; i++) {
        if (r->strides[i] != 0 && i >= r->rank)
            return bad(f, "a stride beyond its rank");
        if (r->strides[i] > TDN_FORMAT_MAX_ELEMENTS || r->strides[i] < -TDN_FORMAT_MAX_ELEMENTS ||
            (kind == TDN_STEP_REFERENCE && r->dims[i] > TDN_FORMAT_MAX_EXTENT))
            return bad(f, "a stride or extent out of range");
    }
    if (r->buffer >= p->n_buffers)
        return bad(f, "buffer %u of %u", r->buffer, p->n_buffers);
    const tdn_plan_buffer *b = &p->buffers[r->buffer];
    const size_t element = tdn_dtype_size((tdn_dtype)r->dtype, 1);
    if (r->offset % element != 0 || !is_inside(r, b->size))
        return bad(f, "it leaves buffer %u of %llu bytes", r->buffer, (unsigned long long)b->size);
    if (is_out && (b->cls == TDN_BUFFER_WEIGHT || b->cls == TDN_BUFFER_INPUT))
        return bad(f, "it would write to a weight or an input");
    if (is_out && !is_empty(r) && !is_one_to_one(r))
        return bad(f, "it would write to the same place twice");
    if (b->cls == TDN_BUFFER_INPUT || b->cls == TDN_BUFFER_OUTPUT) {
        const tdn_plan_io *io =
            b->cls == TDN_BUFFER_INPUT ? &p->inputs[b->index] : &p->outputs[b->index];
        if (element > tdn_dtype_size(io->dtype, 1))
            return bad(f, "its elements are larger than the input's or output's");
    }
    return r->bounded ? check_open(f, r, b, p, kind) : TDN_OK;
}

static tdn_status read_operand(in *f, const tdn_format_operand *r, const tdn_plan_program *p,
                               tdn_step_kind kind, bool is_out, tdn_plan_operand *o)
{
    if (r->buffer == TDN_FORMAT_NONE) {
        const tdn_format_operand absent = {.buffer = TDN_FORMAT_NONE};
        *o = (tdn_plan_operand){.buffer = UINT32_MAX};
        return memcmp(r, &absent, sizeof absent) == 0 ? TDN_OK
                                                      : bad(f, "an absent operand that says more");
    }
    TDN_TRY(check_operand(f, r, p, kind, is_out));
    *o = (tdn_plan_operand){
        .buffer = r->buffer,
        .dtype = (tdn_dtype)r->dtype,
        .offset = r->offset,
        .rank = r->rank,
        .bounded = r->bounded,
    };
    memcpy(o->dims, r->dims, sizeof o->dims);
    memcpy(o->strides, r->strides, sizeof o->strides);
    if (o->bounded && !f->open[o->buffer])
        f->open[o->buffer] = o;
    return TDN_OK;
}

static tdn_status read_operands(in *f, const tdn_plan_program *p, tdn_plan_step *s)
{
    const size_t n = (size_t)s->n_in + s->n_out;
    const tdn_format_operand *r = take(f, TDN_FORMAT_OPERANDS, n);
    if (!r)
        return bad(f, "%zu operands are not there", n);
    tdn_plan_operand *operands;
    TDN_TRY(make(f, n, sizeof *operands, &operands));
    for (size_t i = 0; i < n; i++) {
        const tdn_status status = read_operand(f, &r[i], p, s->kind, i >= s->n_in, &operands[i]);
        if (status != TDN_OK)
            return tdn_fail_while(f->error, status, "reading operand %zu", i);
    }
    s->operands = operands;
    return TDN_OK;
}

static tdn_status read_tensor(in *f, tdn_attr *a)
{
    uint64_t size = 0;
    const tdn_format_tensor *r = take_data(f, sizeof *r);
    if (!r || !dense_size(r->dtype, r->rank, r->dims, &size))
        return bad(f, "a tensor out of range");
    const void *data = take_data(f, size);
    if (!data)
        return bad(f, "a tensor of %llu bytes is cut short", (unsigned long long)size);
    tdn_view *view;
    TDN_TRY(make(f, 1, sizeof *view, &view));
    *view = tdn_view_make((void *)data, (tdn_dtype)r->dtype, r->rank,
                          r->dims); /* read only, by its consumers' word */
    a->tensor = view;
    return TDN_OK;
}

static tdn_status read_text(in *f, tdn_attr *a)
{
    a->s = take_data(f, (uint64_t)a->n + 1);
    if (!a->s || a->s[a->n] != '\0' || memchr(a->s, '\0', (size_t)a->n))
        return bad(f, "a text that does not end where it says");
    return TDN_OK;
}

static tdn_status read_texts(in *f, tdn_attr *a)
{
    const uint32_t *r = take_data(f, (uint64_t)a->n * sizeof *r);
    if (!r)
        return bad(f, "%d texts are not there", a->n);
    const char **texts;
    TDN_TRY(make(f, (size_t)a->n, sizeof *texts, &texts));
    for (int32_t i = 0; i < a->n; i++)
        TDN_TRY(name_at(f, r[i], &texts[i]));
    a->strings = texts;
    return TDN_OK;
}

static tdn_status read_attr(in *f, const tdn_format_attr *r, tdn_attr *a)
{
    *a = (tdn_attr){.kind = (tdn_attr_kind)r->kind, .n = r->n};
    TDN_TRY(name_at(f, r->name, &a->name));
    if (r->n < 0 || r->zero != 0)
        return bad(f, "attribute '%s' has %d values", a->name, r->n);
    switch (r->kind) {
    case TDN_ATTR_INT: memcpy(&a->i, &r->value, sizeof a->i); return TDN_OK;
    case TDN_ATTR_FLOAT: memcpy(&a->f, &r->value, sizeof a->f); return TDN_OK;
    case TDN_ATTR_STRING: return read_text(f, a);
    case TDN_ATTR_STRINGS: return read_texts(f, a);
    case TDN_ATTR_TENSOR: return read_tensor(f, a);
    case TDN_ATTR_INTS:
        a->ints = take_data(f, (uint64_t)r->n * sizeof *a->ints);
        return a->ints ? TDN_OK : bad(f, "attribute '%s' is cut short", a->name);
    case TDN_ATTR_FLOATS:
        a->floats = take_data(f, (uint64_t)r->n * sizeof *a->floats);
        return a->floats ? TDN_OK : bad(f, "attribute '%s' is cut short", a->name);
    default: return bad(f, "attribute '%s' has kind %u", a->name, r->kind);
    }
}

static tdn_status read_attrs(in *f, uint32_t n, tdn_attrs *attrs)
{
    const tdn_format_attr *r = n <= INT32_MAX ? take(f, TDN_FORMAT_ATTRS, n) : NULL;
    if (!r)
        return bad(f, "%u attributes are not there", n);
    tdn_attr *items;
    TDN_TRY(make(f, n, sizeof *items, &items));
    for (uint32_t i = 0; i < n; i++)
        TDN_TRY(read_attr(f, &r[i], &items[i]));
    *attrs = (tdn_attrs){items, (int32_t)n};
    return TDN_OK;
}

static bool is_one(const tdn_plan_operand *o, tdn_dtype dtype)
{
    int64_t count;
    return o->buffer != UINT32_MAX && o->dtype == dtype && !o->bounded &&
           tdn_dims_count(o->dims, o->rank, &count) && count == 1;
}

static bool is_one_or_absent(const tdn_plan_operand *o, tdn_dtype dtype)
{
    return o->buffer == UINT32_MAX || is_one(o, dtype);
}

/* What each kind of step must and must not have. */
static tdn_status check_kind(in *f, const tdn_plan_step *s)
{
    const bool computes = s->kind == TDN_STEP_KERNEL || s->kind == TDN_STEP_REFERENCE;
    if (computes && (s->kernel[0] == '\0' || s->n_then != 0 || s->n_else != 0))
        return bad(f, "a step without a kernel, or with steps inside");
    if (s->kind != TDN_STEP_KERNEL && s->args_size != 0)
        return bad(f, "arguments that nobody takes");
    if (s->kind != TDN_STEP_REFERENCE && (s->expr || s->attrs.n != 0))
        return bad(f, "attributes that nobody takes");
    if (computes)
        return s->n_in + s->n_out <= INT32_MAX ? TDN_OK : bad(f, "too many operands");
    if (s->kind == TDN_STEP_BRANCH)
        return s->n_in == 1 && s->n_out == 0 && is_one(&s->operands[0], TDN_BOOL)
                   ? TDN_OK
                   : bad(f, "a branch without a condition");
    const tdn_plan_operand *o = s->operands;
    if (s->n_in != 2 || s->n_out > 1 || s->n_else != 0 || !is_one_or_absent(&o[0], TDN_S64) ||
        !is_one_or_absent(&o[1], TDN_BOOL) || (s->n_out == 1 && !is_one_or_absent(&o[2], TDN_S64)))
        return bad(f, "a loop with other operands than a count and a condition");
    if (o[0].buffer == UINT32_MAX && o[1].buffer == UINT32_MAX)
        return bad(f, "a loop without an end");
    return TDN_OK;
}

static tdn_status read_expr(in *f, uint32_t size, tdn_plan_step *s)
{
    if (size == 0)
        return TDN_OK;
    const tdn_expr *expr = take_data(f, size);
    if (!expr)
        return bad(f, "an expression is cut short");
    tdn_error why;
    if (tdn_expr_check(expr, size, &why) != TDN_OK)
        return bad(f, "an expression: %.300s", why.text);
    if (tdn_expr_size(expr) != size || expr->n_in != s->n_in || expr->n_out != s->n_out)
        return bad(f, "an expression of %u inputs and %u outputs for %u and %u operands",
                   expr->n_in, expr->n_out, s->n_in, s->n_out);
    s->expr = expr;
    return TDN_OK;
}

static tdn_status read_step(in *f, const tdn_format_step *r, const tdn_plan_program *p,
                            tdn_plan_step *s)
{
    if (r->kind == TDN_STEP_CALL)
        return tdn_fail(f->error, TDN_E_FORMAT,
                        "a step of kind call: the plan was written by a newer version than %s",
                        tdn_version());
    if (r->kind < TDN_STEP_KERNEL || r->kind > TDN_STEP_LOOP || r->zero != 0)
        return bad(f, "a step of kind %u", r->kind);
    *s = (tdn_plan_step){
        .kind = (tdn_step_kind)r->kind,
        .n_in = r->n_in,
        .n_out = r->n_out,
        .args_size = r->args_size,
        .n_then = r->n_then,
        .n_else = r->n_else,
    };
    TDN_TRY(name_at(f, r->name, &s->name));
    TDN_TRY(name_at(f, r->kernel, &s->kernel));
    TDN_TRY(read_operands(f, p, s));
    s->args = take_data(f, r->args_size);
    if (!s->args)
        return bad(f, "%llu bytes of arguments are not there", (unsigned long long)r->args_size);
    TDN_TRY(read_expr(f, r->expr_size, s));
    TDN_TRY(read_attrs(f, r->n_attrs, &s->attrs));
    return check_kind(f, s);
}

/* Loops and branches own the steps behind them: their ranges must nest, and not too deep to run by
 * recursion. */
static tdn_status check_nesting(in *f, const tdn_plan_program *p)
{
    uint64_t ends[TDN_FORMAT_MAX_DEPTH + 1] = {p->n_steps};
    int depth = 0;
    for (uint32_t i = 0; i < p->n_steps; i++) {
        while (depth > 0 && ends[depth] == i)
            depth--;
        const tdn_plan_step *s = &p->steps[i];
        if (s->kind != TDN_STEP_BRANCH && s->kind != TDN_STEP_LOOP)
            continue;
        const uint64_t then_end = (uint64_t)i + 1 + s->n_then, all_end = then_end + s->n_else;
        if (all_end > ends[depth])
            return bad(f, "step %u has more steps inside than there are", i);
        if (depth + 2 > TDN_FORMAT_MAX_DEPTH)
            return bad(f, "step %u is too many levels deep", i);
        /* Both arms of a branch are levels, so that no step of the first reaches
         * into the second. */
        if (s->n_else > 0)
            ends[++depth] = all_end;
        if (s->n_then > 0)
            ends[++depth] = then_end;
    }
    return TDN_OK;
}

static tdn_status read_steps(in *f, tdn_plan_program *p)
{
    const tdn_format_step *r = take(f, TDN_FORMAT_STEPS, p->n_steps);
    if (!r)
        return bad(f, "%u steps are not there", p->n_steps);
    tdn_plan_step *steps;
    TDN_TRY(make(f, p->n_steps, sizeof *steps, &steps));
    TDN_TRY(make(f, p->n_buffers, sizeof *f->open, &f->open));
    for (uint32_t i = 0; i < p->n_steps; i++) {
        const tdn_status status = read_step(f, &r[i], p, &steps[i]);
        if (status != TDN_OK)
            return tdn_fail_while(f->error, status, "reading step %u '%s'", i,
                                  steps[i].name ? steps[i].name : "");
    }
    p->steps = steps;
    return check_nesting(f, p);
}

static tdn_status read_value(in *f, const tdn_format_value *r, const tdn_plan_program *p,
                             tdn_plan_value *v)
{
    TDN_TRY(name_at(f, r->name, &v->name));
    if (r->step >= p->n_steps || r->view.buffer == TDN_FORMAT_NONE)
        return bad(f, "it is that of step %u of %u", r->step, p->n_steps);
    v->step = r->step;
    return read_operand(f, &r->view, p, TDN_STEP_REFERENCE, false, &v->view);
}

static tdn_status read_values(in *f, tdn_plan_program *p)
{
    const tdn_format_value *r = take(f, TDN_FORMAT_VALUES, p->n_values);
    if (!r)
        return bad(f, "%u values are not there", p->n_values);
    tdn_plan_value *values;
    TDN_TRY(make(f, p->n_values, sizeof *values, &values));
    for (uint32_t i = 0; i < p->n_values; i++) {
        tdn_status status = read_value(f, &r[i], p, &values[i]);
        if (status == TDN_OK && i > 0 && r[i].step < r[i - 1].step)
            status = bad(f, "it is out of order");
        if (status != TDN_OK)
            return tdn_fail_while(f->error, status, "reading value %u", i);
    }
    p->values = values;
    return TDN_OK;
}

/* ---- Programs and sections ------------------------------------------------------------------- */

static tdn_status read_program(in *f, const tdn_format_program *r, uint32_t index,
                               tdn_plan_program *p)
{
    *p = (tdn_plan_program){
        .n_buffers = r->n_buffers,
        .n_steps = r->n_steps,
        .n_values = r->n_values,
        .arena_size = r->arena_size,
        .state_size = r->state_size,
        .flops = r->flops,
    };
    if (r->arena_size > INT64_MAX / 16 || r->state_size > INT64_MAX / 16 || r->flops < 0 ||
        r->zero != 0)
        return bad(f, "an arena of %llu bytes", (unsigned long long)r->arena_size);
    TDN_TRY(read_buffers(f, p));
    TDN_TRY(read_ios(f, p, index));
    TDN_TRY(check_io_buffers(f, p));
    TDN_TRY(read_steps(f, p));
    return read_values(f, p);
}

static tdn_status read_section(in *f, const tdn_format_section *r, tdn_plan_section *s)
{
    if (r->zero != 0)
        return bad(f, "bits of a later version");
    TDN_TRY(name_at(f, r->target, &s->target));
    s->isa = r->isa;
    const uint32_t n = f->h->n_programs;
    const tdn_format_program *records = take(f, TDN_FORMAT_PROGRAMS, n);
    tdn_plan_program *programs;
    TDN_TRY(make(f, n, sizeof *programs, &programs));
    for (uint32_t i = 0; i < n; i++) {
        const tdn_status status = read_program(f, &records[i], i, &programs[i]);
        if (status != TDN_OK)
            return tdn_fail_while(f->error, status, "reading program %u of section '%s'", i,
                                  s->target);
    }
    s->programs = programs;
    return TDN_OK;
}

static tdn_status read_sections(in *f)
{
    const tdn_format_section *r = take(f, TDN_FORMAT_SECTIONS, f->h->n_sections);
    tdn_plan_section *sections;
    TDN_TRY(make(f, f->h->n_sections, sizeof *sections, &sections));
    for (uint32_t i = 0; i < f->h->n_sections; i++)
        TDN_TRY(read_section(f, &r[i], &sections[i]));
    static const tdn_format_id owned[] = {TDN_FORMAT_BUFFERS, TDN_FORMAT_STEPS, TDN_FORMAT_OPERANDS,
                                          TDN_FORMAT_VALUES, TDN_FORMAT_ATTRS};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        if (f->at[owned[i]] != f->n[owned[i]])
            return bad(f, "table '%s' has records that belong to nobody", table_names[owned[i]]);
    if (tdn_reader_left(&f->data) != 0)
        return bad(f, "%zu bytes of data belong to nobody", tdn_reader_left(&f->data));
    f->plan->sections = sections;
    f->plan->n_sections = f->h->n_sections;
    f->plan->n_programs = f->h->n_programs;
    return TDN_OK;
}

_Static_assert(sizeof(tdn_format_header) <= TDN_PLAN_START_SIZE, "the start holds the header");

size_t tdn_plan_head_size(const void *start, size_t size)
{
    const tdn_format_header *h = start;
    if (size < sizeof *h)
        return size;
    /* The tables follow each other; where they do not, the reader says so from what is there. */
    const tdn_format_table *last = &h->tables[TDN_FORMAT_N_TABLES - 1];
    if (last->offset > size || last->size > size - last->offset)
        return size;
    const size_t end = tdn_round_up((size_t)(last->offset + last->size), TDN_ALIGN);
    return end < sizeof *h ? sizeof *h : end < size ? end : size;
}

tdn_status tdn_plan_read(const tdn_plan **plan, const void *bytes, size_t size, tdn_arena *arena,
                         tdn_error *error)
{
    *plan = NULL;
    in f = {.bytes = bytes, .size = size, .h = bytes, .arena = arena, .error = error};
    if ((uintptr_t)bytes % TDN_ALIGN != 0)
        return tdn_fail(error, TDN_E_ARG, "the plan's bytes are not aligned to %d", TDN_ALIGN);
    TDN_TRY(read_header(&f));
    TDN_TRY(read_tables(&f));
    TDN_TRY(read_counts(&f));
    TDN_TRY(make(&f, 1, sizeof *f.plan, &f.plan));
    TDN_TRY(read_blobs(&f));
    TDN_TRY(read_names(&f));
    TDN_TRY(read_notes(&f));
    TDN_TRY(read_sections(&f));
    *plan = f.plan;
    return TDN_OK;
}

tdn_status tdn_plan_check_blob(const tdn_plan *plan, const void *bytes, uint32_t blob,
                               tdn_error *error)
{
    const tdn_format_header *h = bytes;
    const tdn_format_blob *r =
        (const tdn_format_blob *)((const uint8_t *)bytes + h->tables[TDN_FORMAT_BLOBS].offset);
    const tdn_plan_blob *b = &plan->blobs[blob];
    if (tdn_crc32c(0, b->data, tdn_round_up(b->size, TDN_ALIGN)) != r[blob].crc)
        return tdn_fail(error, TDN_E_FORMAT,
                        "damaged plan: the checksum of blob %u (%llu bytes) does not match", blob,
                        (unsigned long long)b->size);
    return TDN_OK;
}
