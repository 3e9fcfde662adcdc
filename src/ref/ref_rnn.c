/* SPDX-License-Identifier: Apache-2.0 */
/*
 * References of RNN, GRU and LSTM, by ONNX's equations.
 *
 * Each pair of direction and batch element is a sequence of its own, and the unit that parts share:
 * its state lives in scratch, in double, with the gates of the current step. Both layouts are read
 * through permuted strides. Beyond a sequence's length the output is 0, and the last state is that
 * of its last step.
 */
#include <math.h>
#include <string.h>
#include <strings.h>

#include "ref/ref_util.h"

/* ---- Activations ----------------------------------------------------------------------------- */

typedef double activation_fn(double x, double alpha, double beta);

static double f_affine(double x, double a, double b) { return a * x + b; }
static double f_relu(double x, double a, double b) { return (void)a, (void)b, x > 0 ? x : 0; }
static double f_leaky_relu(double x, double a, double b) { return (void)b, x < 0 ? a * x : x; }
static double f_thresholded_relu(double x, double a, double b) { return (void)b, x >= a ? x : 0; }
static double f_tanh(double x, double a, double b) { return (void)a, (void)b, tanh(x); }
static double f_scaled_tanh(double x, double a, double b) { return a * tanh(b * x); }
static double f_sigmoid(double x, double a, double b)
{
    return (void)a, (void)b, 1 / (1 + exp(-x));
}
static double f_hard_sigmoid(double x, double a, double b) { return fmin(fmax(a * x + b, 0), 1); }
static double f_elu(double x, double a, double b) { return (void)b, x >= 0 ? x : a * (exp(x) - 1); }
static double f_softsign(double x, double a, double b)
{
    return (void)a, (void)b, x / (1 + fabs(x));
}
static double f_softplus(double x, double a, double b)
{
    return (void)a, (void)b, log1p(exp(-fabs(x))) + fmax(x, 0);
}

/* With ONNX's defaults, and whether the function takes one of the given alphas and betas. */
static const struct activation_row {
    const char *name;
    activation_fn *fn;
    double alpha, beta;
    bool takes_alpha, takes_beta;
} activation_rows[] = {
    {"Affine", f_affine, 1, 0, true, true},
    {"Relu", f_relu, 0, 0, false, false},
    {"LeakyRelu", f_leaky_relu, 0.01, 0, true, false},
    {"ThresholdedRelu", f_thresholded_relu, 1, 0, true, false},
    {"Tanh", f_tanh, 0, 0, false, false},
    {"ScaledTanh", f_scaled_tanh, 1, 1, true, true},
    {"Sigmoid", f_sigmoid, 0, 0, false, false},
    {"HardSigmoid", f_hard_sigmoid, 0.2, 0.5, true, true},
    {"Elu", f_elu, 1, 0, true, false},
    {"Softsign", f_softsign, 0, 0, false, false},
    {"Softplus", f_softplus, 0, 0, false, false},
};
enum {
    N_ACTIVATION_ROWS = sizeof activation_rows / sizeof activation_rows[0],
    MAX_ACTIVATIONS = 6
};

typedef struct activation {
    activation_fn *fn;
    double alpha, beta;
} activation;

/* n names, one direction after the other; the k-th function that takes an alpha gets the k-th
 * alpha. */
static bool read_activations(const tdn_attrs *attrs, const char *const *usual, int per_direction,
                             int n, activation *out)
{
    int n_alpha, n_beta, alpha_at = 0, beta_at = 0;
    const tdn_attr *names = tdn_attr_find(attrs, "activations");
    const float *alpha = tdn_attr_floats(attrs, "activation_alpha", &n_alpha);
    const float *beta = tdn_attr_floats(attrs, "activation_beta", &n_beta);
    if (names && (names->kind != TDN_ATTR_STRINGS || (names->n != n && names->n != per_direction)))
        return false;
    for (int i = 0; i < n; i++) {
        const char *name = names ? names->strings[i % names->n] : usual[i % per_direction];
        const struct activation_row *row = NULL;
        for (int k = 0; k < N_ACTIVATION_ROWS; k++)
            if (!strcasecmp(activation_rows[k].name, name))
                row = &activation_rows[k];
        if (!row)
            return false;
        out[i] = (activation){row->fn, row->alpha, row->beta};
        if (row->takes_alpha && alpha_at < n_alpha)
            out[i].alpha = (double)alpha[alpha_at++];
        if (row->takes_beta && beta_at < n_beta)
            out[i].beta = (double)beta[beta_at++];
    }
    return true;
}

/* ---- Operands -------------------------------------------------------------------------------- */

typedef enum cell { RNN, GRU, LSTM } cell;

static const struct cell_row {
    const char *names[3]; /* of the usual activations */
    int n_activations, n_gates;
} cells[] = {
    [RNN] = {{"Tanh"}, 1, 1},
    [GRU] = {{"Sigmoid", "Tanh"}, 2, 3},
    [LSTM] = {{"Sigmoid", "Tanh", "Tanh"}, 3, 4},
};

typedef struct rnn {
    cell cell;
    int64_t n_steps, n_batch, n_in, n_hidden, n_directions;
    tdn_view x;                  /* (step, batch, in) */
    tdn_view w, r;               /* (direction, gate * hidden, in or hidden) */
    const tdn_view *b, *lengths; /* (direction, 2 * gate * hidden), (batch); NULL: none */
    const tdn_view *p;           /* LSTM: (direction, 3 * hidden) */
    tdn_view h0, c0;             /* (direction, batch, hidden); dtype NONE: 0 */
    tdn_view y, y_h, y_c;        /* (step, direction, batch, hidden), (direction, batch, hidden) */
    double clip;                 /* INFINITY: none */
    bool reverse_first, linear_before_reset, input_forget;
    activation f[MAX_ACTIVATIONS];
} rnn;

/* The view with axis i taken from axis perm[i], where the batch comes first. */
static tdn_view laid_out(const tdn_view *v, bool batch_first, const int *perm)
{
    tdn_view out = *v;
    for (int i = 0; batch_first && i < v->rank; i++) {
        out.dims[i] = v->dims[perm[i]];
        out.strides[i] = v->strides[perm[i]];
    }
    return out;
}

static bool has_dims(const tdn_view *v, int rank, const int64_t *dims)
{
    return v->dtype == TDN_DTYPE_NONE ||
           (v->rank == rank && !memcmp(v->dims, dims, (size_t)rank * sizeof *dims));
}

/* Reads a state or output through the layout and checks its dims; NONE where it is absent. */
static bool read_state(const tdn_view *v, bool batch_first, const rnn *n, tdn_view *out)
{
    static const int perm[3] = {1, 0, 2};
    *out = (tdn_view){.dtype = TDN_DTYPE_NONE};
    if (!v)
        return true;
    if (v->rank != 3)
        return false;
    *out = laid_out(v, batch_first, perm);
    return has_dims(out, 3, (int64_t[]){n->n_directions, n->n_batch, n->n_hidden});
}

static bool read_sequences(const tdn_ref_call *call, bool batch_first, rnn *n)
{
    static const int perm_x[3] = {1, 0, 2}, perm_y[4] = {1, 2, 0, 3};
    if (call->n_in < 3 || call->in[0].rank != 3 || call->in[1].rank != 3 || call->in[2].rank != 3)
        return false;
    n->x = laid_out(&call->in[0], batch_first, perm_x);
    n->w = call->in[1];
    n->r = call->in[2];
    n->n_steps = n->x.dims[0];
    n->n_batch = n->x.dims[1];
    n->n_in = n->x.dims[2];
    n->n_directions = n->w.dims[0];
    n->n_hidden = n->r.dims[2];
    const int64_t rows = cells[n->cell].n_gates * n->n_hidden;
    n->y = (tdn_view){.dtype = TDN_DTYPE_NONE};
    const tdn_view *y = tdn_ref_out(call, 0);
    if (y && y->rank != 4)
        return false;
    if (y)
        n->y = laid_out(y, batch_first, perm_y);
    return n->n_directions >= 1 && n->n_directions <= 2 &&
           has_dims(&n->w, 3, (int64_t[]){n->n_directions, rows, n->n_in}) &&
           has_dims(&n->r, 3, (int64_t[]){n->n_directions, rows, n->n_hidden}) &&
           has_dims(&n->y, 4, (int64_t[]){n->n_steps, n->n_directions, n->n_batch, n->n_hidden});
}

static bool read_rest(const tdn_ref_call *call, bool batch_first, rnn *n)
{
    const struct cell_row *row = &cells[n->cell];
    const int64_t rows = row->n_gates * n->n_hidden;
    const bool lstm = n->cell == LSTM;
    n->b = tdn_ref_in(call, 3);
    n->lengths = tdn_ref_in(call, 4);
    n->p = lstm ? tdn_ref_in(call, 7) : NULL;
    return (!n->b || has_dims(n->b, 2, (int64_t[]){n->n_directions, 2 * rows})) &&
           (!n->lengths || has_dims(n->lengths, 1, &n->n_batch)) &&
           (!n->p || has_dims(n->p, 2, (int64_t[]){n->n_directions, 3 * n->n_hidden})) &&
           read_state(tdn_ref_in(call, 5), batch_first, n, &n->h0) &&
           read_state(lstm ? tdn_ref_in(call, 6) : NULL, batch_first, n, &n->c0) &&
           read_state(tdn_ref_out(call, 1), batch_first, n, &n->y_h) &&
           read_state(lstm ? tdn_ref_out(call, 2) : NULL, batch_first, n, &n->y_c);
}

static tdn_status read_rnn(const tdn_ref_call *call, cell cell_kind, rnn *n)
{
    *n = (rnn){.cell = cell_kind};
    const struct cell_row *row = &cells[cell_kind];
    const bool batch_first = tdn_attr_int(call->attrs, "layout", 0) == 1;
    TDN_REF_NEED(call, read_sequences(call, batch_first, n) && read_rest(call, batch_first, n));
    const tdn_attr *clip = tdn_attr_find(call->attrs, "clip");
    n->clip = clip && clip->kind == TDN_ATTR_FLOAT && clip->f > 0 ? (double)clip->f : INFINITY;
    n->reverse_first = !strcmp(tdn_attr_string(call->attrs, "direction", "forward"), "reverse");
    n->linear_before_reset = tdn_attr_int(call->attrs, "linear_before_reset", 0) != 0;
    n->input_forget = tdn_attr_int(call->attrs, "input_forget", 0) != 0;
    const int n_functions = row->n_activations * (int)n->n_directions;
    if (!read_activations(call->attrs, row->names, row->n_activations, n_functions, n->f))
        return tdn_fail(call->error, TDN_E_MODEL,
                        "activations are unknown, or not as many as the gates need");
    return TDN_OK;
}

/* ---- Steps ----------------------------------------------------------------------------------- */

/* One sequence: its direction and batch, and its state in scratch. */
typedef struct sequence {
    const rnn *n;
    int64_t direction, batch;
    double *h, *c; /* hidden and cell state */
    double *gates; /* from x and bias; then with the recurrent part */
    double *again; /* the recurrent part alone, or a new state */
} sequence;

static double activate(const sequence *s, int which, double x)
{
    const activation *f = &s->n->f[s->direction * cells[s->n->cell].n_activations + which];
    return f->fn(fmin(fmax(x, -s->n->clip), s->n->clip), f->alpha, f->beta);
}

static double bias_of(const sequence *s, int64_t i)
{
    const tdn_view *b = s->n->b;
    return b ? tdn_ref_get(b, s->direction * b->strides[0] + i * b->strides[1]) : 0;
}

/* gates = W x + Wb + Rb, but the recurrent bias of a GRU's last gate, which is added under the
 * reset. */
static void from_input(sequence *s, int64_t step)
{
    const rnn *n = s->n;
    const int64_t rows = cells[n->cell].n_gates * n->n_hidden;
    const int64_t x_at = step * n->x.strides[0] + s->batch * n->x.strides[1];
    for (int64_t g = 0; g < rows; g++) {
        const int64_t w_at = s->direction * n->w.strides[0] + g * n->w.strides[1];
        double sum = bias_of(s, g);
        if (!(n->cell == GRU && g >= 2 * n->n_hidden))
            sum += bias_of(s, rows + g);
        for (int64_t i = 0; i < n->n_in; i++)
            sum += tdn_ref_get(&n->x, x_at + i * n->x.strides[2]) *
                   tdn_ref_get(&n->w, w_at + i * n->w.strides[2]);
        s->gates[g] = sum;
    }
}

/* Row g of R times a vector. */
static double recurrent(const sequence *s, int64_t g, const double *v)
{
    const rnn *n = s->n;
    const int64_t at = s->direction * n->r.strides[0] + g * n->r.strides[1];
    double sum = 0;
    for (int64_t i = 0; i < n->n_hidden; i++)
        sum += tdn_ref_get(&n->r, at + i * n->r.strides[2]) * v[i];
    return sum;
}

static void step_rnn(sequence *s)
{
    const int64_t m = s->n->n_hidden;
    for (int64_t i = 0; i < m; i++)
        s->again[i] = activate(s, 0, s->gates[i] + recurrent(s, i, s->h));
    memcpy(s->h, s->again, (size_t)m * sizeof *s->h);
}

/* Gates z, r, h. */
static void step_gru(sequence *s)
{
    const int64_t m = s->n->n_hidden, rows = 3 * m;
    double *z = s->gates, *r = z + m, *h = r + m;
    for (int64_t i = 0; i < 2 * m; i++)
        z[i] = activate(s, 0, z[i] + recurrent(s, i, s->h));
    for (int64_t i = 0; i < m; i++)
        s->again[i] = r[i] * s->h[i];
    for (int64_t i = 0; i < m; i++) {
        const double bias = bias_of(s, rows + 2 * m + i);
        const double part = s->n->linear_before_reset
                                ? r[i] * (recurrent(s, 2 * m + i, s->h) + bias)
                                : recurrent(s, 2 * m + i, s->again) + bias;
        h[i] = activate(s, 1, h[i] + part);
    }
    for (int64_t i = 0; i < m; i++)
        s->h[i] = (1 - z[i]) * h[i] + z[i] * s->h[i];
}

static double peephole(const sequence *s, int gate, int64_t i, double c)
{
    const tdn_view *p = s->n->p;
    return p ? c * tdn_ref_get(p, s->direction * p->strides[0] +
                                      (gate * s->n->n_hidden + i) * p->strides[1])
             : 0;
}

/* Gates i, o, f, c; peepholes in the order i, o, f. */
static void step_lstm(sequence *s)
{
    const int64_t m = s->n->n_hidden;
    for (int64_t g = 0; g < 4 * m; g++)
        s->again[g] = s->gates[g] + recurrent(s, g, s->h);
    const double *in = s->again, *out = in + m, *forget = out + m, *cell_in = forget + m;
    for (int64_t i = 0; i < m; i++) {
        const double a = activate(s, 0, in[i] + peephole(s, 0, i, s->c[i]));
        const double b =
            s->n->input_forget ? 1 - a : activate(s, 0, forget[i] + peephole(s, 2, i, s->c[i]));
        s->c[i] = b * s->c[i] + a * activate(s, 1, cell_in[i]);
        const double o = activate(s, 0, out[i] + peephole(s, 1, i, s->c[i]));
        const activation *f = &s->n->f[s->direction * 3 + 2];
        s->h[i] =
            o * f->fn(s->c[i], f->alpha, f->beta); /* the clip is for what the gates take in */
    }
}

static void read_vector(const sequence *s, const tdn_view *v, double *out)
{
    for (int64_t i = 0; i < s->n->n_hidden; i++)
        out[i] = v->dtype == TDN_DTYPE_NONE
                     ? 0
                     : tdn_ref_get(v, s->direction * v->strides[0] + s->batch * v->strides[1] +
                                          i * v->strides[2]);
}

static void write_vector(const sequence *s, const tdn_view *v, int64_t at, int64_t stride,
                         const double *x)
{
    for (int64_t i = 0; v->dtype != TDN_DTYPE_NONE && i < s->n->n_hidden; i++)
        tdn_ref_set(v, at + i * stride, x ? x[i] : 0);
}

static void write_state(const sequence *s, const tdn_view *v, const double *x)
{
    write_vector(s, v, s->direction * v->strides[0] + s->batch * v->strides[1], v->strides[2], x);
}

static tdn_status run_sequence(const tdn_ref_call *call, sequence *s)
{
    const rnn *n = s->n;
    const tdn_view *y = &n->y;
    int64_t length = n->n_steps;
    if (n->lengths)
        length = tdn_view_get_int(n->lengths, s->batch * n->lengths->strides[0]);
    if (length < 0 || length > n->n_steps)
        return tdn_fail(call->error, TDN_E_MODEL, "sequence length %lld outside 0..%lld",
                        (long long)length, (long long)n->n_steps);
    const bool reverse = n->reverse_first || s->direction == 1;
    read_vector(s, &n->h0, s->h);
    read_vector(s, &n->c0, s->c);
    for (int64_t t = 0; t < n->n_steps; t++) {
        const int64_t step = reverse && t < length ? length - 1 - t : t;
        const int64_t y_at =
            step * y->strides[0] + s->direction * y->strides[1] + s->batch * y->strides[2];
        if (t < length) {
            from_input(s, step);
            n->cell == RNN ? step_rnn(s) : n->cell == GRU ? step_gru(s) : step_lstm(s);
        }
        write_vector(s, y, y_at, y->strides[3], t < length ? s->h : NULL);
    }
    write_state(s, &n->y_h, s->h);
    write_state(s, &n->y_c, s->c);
    return TDN_OK;
}

static tdn_status run(const tdn_ref_call *call, cell cell_kind)
{
    rnn n;
    TDN_TRY(read_rnn(call, cell_kind, &n));
    const int64_t rows = cells[cell_kind].n_gates * n.n_hidden;
    int64_t i, end;
    tdn_ref_share(n.n_directions * n.n_batch, call->part, call->n_parts, &i, &end);
    for (; i < end; i++) {
        sequence s = {
            .n = &n, .direction = i / n.n_batch, .batch = i % n.n_batch, .h = call->scratch};
        s.c = s.h + n.n_hidden;
        s.gates = s.c + n.n_hidden;
        s.again = s.gates + rows;
        TDN_TRY(run_sequence(call, &s));
    }
    return TDN_OK;
}

static tdn_status run_rnn(const tdn_ref_call *call) { return run(call, RNN); }
static tdn_status run_gru(const tdn_ref_call *call) { return run(call, GRU); }
static tdn_status run_lstm(const tdn_ref_call *call) { return run(call, LSTM); }

/* Two states, and gates twice: at most ten times the hidden size. */
static size_t rnn_scratch(const tdn_ref_call *call)
{
    size_t size;
    if (call->n_in < 3 || call->in[2].rank != 3)
        return 0;
    return tdn_size_mul((size_t)call->in[2].dims[2], 10 * sizeof(double), &size) ? size : SIZE_MAX;
}

static int rnn_parts(const tdn_ref_call *call)
{
    if (call->n_in < 3 || call->in[0].rank != 3 || call->in[1].rank != 3)
        return 1;
    const bool batch_first = tdn_attr_int(call->attrs, "layout", 0) == 1;
    const int64_t n = call->in[0].dims[!batch_first] * call->in[1].dims[0];
    return n < 1 ? 1 : n > 64 ? 64 : (int)n;
}

const tdn_ref_def tdn_refs_rnn[] = {
    {"RNN", run_rnn, rnn_scratch, rnn_parts},
    {"GRU", run_gru, rnn_scratch, rnn_parts},
    {"LSTM", run_lstm, rnn_scratch, rnn_parts},
    {0},
};
