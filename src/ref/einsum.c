/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Einstein summation: parsing, and the reference that sums over all letters which are not in the
 * output, one output at a time.
 *
 * Letters are numbered as they come; the axes of ellipses get the numbers after them, aligned to
 * the right. A letter twice in one operand walks its diagonal: its strides add up.
 */
#include "ref/einsum.h"

#include <ctype.h>
#include <string.h>

#include "ref/ref_util.h"

/* ---- Parsing --------------------------------------------------------------------------------- */

typedef struct term {
    char text[TDN_MAX_RANK + 1]; /* letters, '.' for an ellipsis */
    int n;
} term;

/* The letters up to ',', "->" or the end; moves *at behind them. */
static const char *read_term(const char **at, term *t)
{
    const char *s = *at;
    t->n = 0;
    bool ellipsis = false;
    for (; *s && *s != ',' && *s != '-'; s++) {
        char c = *s;
        if (c == ' ')
            continue;
        if (c == '.') {
            if (ellipsis || s[1] != '.' || s[2] != '.')
                return "the equation has a stray '.'";
            ellipsis = true;
            s += 2;
        } else if (!isalpha((unsigned char)c)) {
            return "the equation has a character that is no letter";
        }
        if (t->n == TDN_MAX_RANK)
            return "the equation has a term with too many letters";
        t->text[t->n++] = c;
    }
    t->text[t->n] = 0;
    *at = s;
    return NULL;
}

typedef struct numbering {
    int8_t of[128]; /* letter to number, -1: not seen */
    int8_t count[128];
    int n, first_dot, n_dots; /* numbers of the ellipsis's axes */
} numbering;

static int number_of(numbering *m, char c)
{
    if (m->of[(int)c] < 0)
        m->of[(int)c] = (int8_t)m->n++;
    return m->of[(int)c];
}

/* How many axes the ellipsis of a term stands for in an operand of that rank; -1: they
 * do not fit. */
static int dots_of(const term *t, int rank)
{
    const bool has = strchr(t->text, '.') != NULL;
    return has ? rank - (t->n - 1) : rank == t->n ? 0 : -1;
}

/* Axes of a term as numbers. */
static bool expand_term(numbering *m, const term *t, int n_dots, int8_t *axes, int *rank)
{
    *rank = 0;
    for (int i = 0; i < t->n; i++) {
        const int repeat = t->text[i] == '.' ? n_dots : 1;
        for (int k = 0; k < repeat; k++) {
            if (*rank == TDN_MAX_RANK)
                return false;
            const int dot = m->first_dot + m->n_dots - n_dots + k;
            axes[(*rank)++] = (int8_t)(t->text[i] == '.' ? dot : number_of(m, t->text[i]));
        }
    }
    return true;
}

/* Without "->": the ellipsis, then the letters that stand once, in alphabetical order. */
static void implied_output(const numbering *m, term *out)
{
    out->n = 0;
    if (m->n_dots)
        out->text[out->n++] = '.';
    for (int c = 'A'; c <= 'z' && out->n < TDN_MAX_RANK; c++)
        if (isalpha(c) && m->count[c] == 1)
            out->text[out->n++] = (char)c;
    out->text[out->n] = 0;
}

static const char *check_output(const tdn_einsum *e, const numbering *m, const term *out)
{
    uint64_t seen = 0;
    for (int i = 0; i < out->n; i++)
        if (out->text[i] != '.' && m->count[(int)out->text[i]] == 0)
            return "the output has a letter that no input has";
    for (int i = 0; i < e->n_out; i++) {
        if (seen >> e->out[i] & 1)
            return "the output has a letter twice";
        seen |= (uint64_t)1 << e->out[i];
    }
    return NULL;
}

static const char *read_inputs(const char **at, term *terms, const int *ranks, int n, numbering *m)
{
    for (int i = 0; i < n; i++) {
        const char *wrong = read_term(at, &terms[i]);
        if (wrong)
            return wrong;
        const int dots = dots_of(&terms[i], ranks[i]);
        if (dots < 0)
            return "a term has not as many letters as its operand has axes";
        m->n_dots = dots > m->n_dots ? dots : m->n_dots;
        for (int k = 0; k < terms[i].n; k++)
            m->count[(int)terms[i].text[k]]++;
        if (i + 1 < n && *(*at)++ != ',')
            return "the equation has fewer terms than there are inputs";
    }
    return **at == ',' ? "the equation has more terms than there are inputs" : NULL;
}

const char *tdn_einsum_parse(tdn_einsum *e, const char *equation, const int *ranks, int n)
{
    term terms[TDN_EINSUM_IN], out;
    numbering m = {0};
    memset(m.of, -1, sizeof m.of);
    *e = (tdn_einsum){.n_in = n};
    if (n < 1 || n > TDN_EINSUM_IN)
        return "too many operands";
    const char *at = equation, *wrong = read_inputs(&at, terms, ranks, n, &m);
    if (wrong)
        return wrong;
    if (*at == '-' && at[1] != '>')
        return "the equation has a stray '-'";
    if (*at == '-') {
        at += 2;
        wrong = read_term(&at, &out);
        if (wrong || *at)
            return wrong ? wrong : "the equation goes on after its output";
    } else {
        implied_output(&m, &out);
    }
    m.first_dot = 52;
    for (int i = 0; i < n; i++)
        if (!expand_term(&m, &terms[i], dots_of(&terms[i], ranks[i]), e->in[i], &e->rank[i]))
            return "an operand has too many axes";
    if (!expand_term(&m, &out, m.n_dots, e->out, &e->n_out))
        return "the output has too many axes";
    wrong = check_output(e, &m, &out);
    /* close the gap between the letters and the ellipsis's axes */
    for (int i = 0; i < n; i++)
        for (int k = 0; k < e->rank[i]; k++)
            e->in[i][k] = (int8_t)(e->in[i][k] >= 52 ? e->in[i][k] - 52 + m.n : e->in[i][k]);
    for (int k = 0; k < e->n_out; k++)
        e->out[k] = (int8_t)(e->out[k] >= 52 ? e->out[k] - 52 + m.n : e->out[k]);
    e->n_letters = m.n + m.n_dots;
    return wrong;
}

bool tdn_einsum_extents(const tdn_einsum *e, const int64_t *const *dims, int64_t *extents)
{
    for (int l = 0; l < TDN_EINSUM_LETTERS; l++)
        extents[l] = 1;
    for (int i = 0; i < e->n_in; i++)
        for (int k = 0; k < e->rank[i]; k++) {
            int64_t *extent = &extents[e->in[i][k]];
            if (*extent != 1 && dims[i][k] != 1 && *extent != dims[i][k])
                return false;
            *extent = *extent == 1 ? dims[i][k] : *extent;
        }
    return true;
}

/* ---- Reference ------------------------------------------------------------------------------- */

/* The loops: outer axes are the output's, inner ones are summed over. */
typedef struct loops {
    int n_in, n_outer, n_inner;
    int64_t outer[TDN_MAX_RANK], inner[TDN_MAX_RANK];
    int64_t outer_stride[TDN_EINSUM_IN][TDN_MAX_RANK], inner_stride[TDN_EINSUM_IN][TDN_MAX_RANK];
} loops;

static void set_strides(const tdn_ref_call *call, const tdn_einsum *e, int letter, int64_t extent,
                        int axis, int64_t (*strides)[TDN_MAX_RANK])
{
    for (int i = 0; i < e->n_in; i++)
        for (int k = 0; k < e->rank[i]; k++)
            if (e->in[i][k] == letter && (call->in[i].dims[k] == extent || extent == 0))
                strides[i][axis] += call->in[i].strides[k];
}

static tdn_status loops_make(const tdn_ref_call *call, loops *p)
{
    tdn_einsum e;
    int ranks[TDN_EINSUM_IN];
    const int64_t *dims[TDN_EINSUM_IN];
    int64_t extents[TDN_EINSUM_LETTERS];
    TDN_REF_NEED(call, call->n_in >= 1 && call->n_in <= TDN_EINSUM_IN && call->n_out >= 1);
    for (int i = 0; i < call->n_in; i++) {
        ranks[i] = call->in[i].rank;
        dims[i] = call->in[i].dims;
    }
    const char *wrong =
        tdn_einsum_parse(&e, tdn_attr_string(call->attrs, "equation", ""), ranks, call->n_in);
    if (wrong)
        return tdn_ref_misfit(call, wrong);
    TDN_REF_NEED(call, tdn_einsum_extents(&e, dims, extents) && call->out[0].rank == e.n_out);
    *p = (loops){.n_in = call->n_in, .n_outer = e.n_out};
    uint64_t kept = 0;
    for (int k = 0; k < e.n_out; k++) {
        kept |= (uint64_t)1 << e.out[k];
        p->outer[k] = extents[e.out[k]];
        TDN_REF_NEED(call, p->outer[k] == call->out[0].dims[k]);
        set_strides(call, &e, e.out[k], p->outer[k], k, p->outer_stride);
    }
    for (int l = 0; l < e.n_letters; l++) {
        if (kept >> l & 1)
            continue;
        TDN_REF_NEED(call, p->n_inner < TDN_MAX_RANK);
        p->inner[p->n_inner] = extents[l];
        set_strides(call, &e, l, extents[l], p->n_inner++, p->inner_stride);
    }
    if (p->n_inner == 0) /* one term a sum */
        p->inner[p->n_inner++] = 1;
    return TDN_OK;
}

static void add_terms(const tdn_ref_call *call, const loops *p, const int64_t *at, double *sum,
                      uint64_t *sum_int)
{
    const int last = p->n_inner - 1;
    const bool is_float = tdn_ref_is_float(call->out[0].dtype);
    /* two fp32 operands: the common case, in a plain loop */
    if (p->n_in == 2 && call->in[0].dtype == TDN_F32 && call->in[1].dtype == TDN_F32) {
        *sum += tdn_ref_dot((const float *)call->in[0].data + at[0], p->inner_stride[0][last],
                            (const float *)call->in[1].data + at[1], p->inner_stride[1][last],
                            p->inner[last]);
        return;
    }
    for (int64_t k = 0; k < p->inner[last]; k++) {
        double product = 1;
        uint64_t product_int = 1;
        for (int i = 0; i < p->n_in; i++) {
            const int64_t offset = at[i] + k * p->inner_stride[i][last];
            if (is_float)
                product *= tdn_ref_get(&call->in[i], offset);
            else
                product_int *= (uint64_t)tdn_view_get_int(&call->in[i], offset);
        }
        *sum += product;
        *sum_int += product_int;
    }
}

static void do_output(const tdn_ref_call *call, const loops *p, const int64_t *index,
                      int64_t y_offset)
{
    double sum = 0;
    uint64_t sum_int = 0;
    for (tdn_walk w = tdn_walk_begin(p->n_inner - 1, p->inner); w.more; tdn_walk_next(&w)) {
        int64_t at[TDN_EINSUM_IN] = {0};
        for (int i = 0; i < p->n_in; i++) {
            for (int k = 0; k < p->n_outer; k++)
                at[i] += index[k] * p->outer_stride[i][k];
            for (int k = 0; k < p->n_inner - 1; k++)
                at[i] += w.index[k] * p->inner_stride[i][k];
        }
        add_terms(call, p, at, &sum, &sum_int);
    }
    if (tdn_ref_is_float(call->out[0].dtype))
        tdn_ref_set(&call->out[0], y_offset, sum);
    else
        tdn_view_set_int(&call->out[0], y_offset, (int64_t)sum_int);
}

tdn_status tdn_ref_einsum(const tdn_ref_call *call)
{
    loops p;
    TDN_TRY(loops_make(call, &p));
    int64_t i, end, index[TDN_MAX_RANK];
    tdn_ref_share(tdn_view_count(&call->out[0]), call->part, call->n_parts, &i, &end);
    for (; i < end; i++) {
        for (int64_t k = p.n_outer - 1, rest = i; k >= 0; k--) {
            index[k] = rest % p.outer[k];
            rest /= p.outer[k];
        }
        do_output(call, &p, index, tdn_view_offset(&call->out[0], i));
    }
    return TDN_OK;
}

int tdn_ref_einsum_parts(const tdn_ref_call *call)
{
    loops p;
    tdn_ref_call quiet = *call;
    quiet.error = NULL;
    if (loops_make(&quiet, &p) != TDN_OK)
        return 1;
    int64_t terms = 1;
    for (int k = 0; k < p.n_inner; k++)
        if (__builtin_mul_overflow(terms, p.inner[k], &terms))
            terms = INT64_MAX;
    return tdn_ref_parts_of(&call->out[0], terms);
}
