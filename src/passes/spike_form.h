/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Values as sums of spikes (0 or 1, mostly 0), each spread over channels, and of what is the same
 * in all steps: what a product distributes over. A step is an index of axis 0: batch-equal has
 * gathered an unrolled network's steps there. Forms are of the graph as it was when they were
 * begun; what they need is put beside what it is made of, and is dead where nobody takes it.
 */
#ifndef TDN_PASSES_SPIKE_FORM_H
#define TDN_PASSES_SPIKE_FORM_H

#include "ops/emit.h"

enum { TDN_SPIKE_MAX_TERMS = 8 };

/* Spikes (steps, c, ...), or (1, c, ...) where all steps have the same, and their rate where it was
 * asked for. */
typedef struct tdn_spike_train {
    tdn_value *spikes, *rate;
} tdn_spike_train;

/* Spikes spread over channels: weights (channels, c), or NULL: each its own. */
typedef struct tdn_spike_term {
    tdn_spike_train *train;
    const float *weights;
} tdn_spike_term;

/* A value as a sum; once: (1, channels, ...), what else is the same in all steps, or NULL. A number
 * for each channel is a weight of spikes that are 1 everywhere. */
typedef struct tdn_spike_form {
    bool holds; /* the value is such a sum */
    int64_t channels;
    int n;
    tdn_spike_term terms[TDN_SPIKE_MAX_TERMS];
    tdn_value *once;
} tdn_spike_form;

/* The forms of a graph. */
typedef struct tdn_spikes {
    tdn_graph *g;
    tdn_error *error;
    const bool *binary;
    int32_t n_ids;
    tdn_spike_form **forms; /* by value id: what was looked for */
    tdn_spike_train *ones;  /* of the shape that was asked for last */
    tdn_status status;      /* once it fails, all is given up */
} tdn_spikes;

tdn_status tdn_spikes_begin(tdn_spikes *s, tdn_graph *g, tdn_error *error);
/* Out of memory for `what`; false. */
bool tdn_spikes_give_up(tdn_spikes *s, const char *what);
bool tdn_spikes_is_binary(const tdn_spikes *s, const tdn_value *v);

/* NULL: v is no such sum. */
const tdn_spike_form *tdn_spike_form_of(tdn_spikes *s, tdn_value *v);
/* Does the term differ from step to step? */
bool tdn_spike_varies(const tdn_spike_term *t, int64_t steps);
/* Channels of the spikes that do, or of the others. */
int64_t tdn_spike_channels(const tdn_spike_form *x, int64_t steps, bool varying);
/* A value that has a form, computed anew before io->node from spikes and what is the same in all
 * steps, so that nobody else reads what is between. */
tdn_value *tdn_spike_rebuild(tdn_spikes *s, tdn_infer *io, tdn_value *v);

/* A convolution of float32 by constant weights, without groups, bias and epilogue. */
bool tdn_spike_takes_conv(const tdn_node *n);
int64_t tdn_spike_taps(const tdn_node *conv);
bool tdn_spike_is_finite(const tdn_value *w);
/* Do all products of its weights with those of the terms take little time to make? */
bool tdn_spike_products_suit(const tdn_node *conv, const tdn_spike_form *x);
/* w (m, c, taps), u (c, k) or NULL: their product (m, k, taps); w's own where u is NULL. */
const float *tdn_spike_weights(tdn_spikes *s, const tdn_value *w, const float *u, int64_t k);
/* A convolution as conv, of x with the weights w, before `where`. NULL, all being given up, where x
 * or w is, and when out of memory. */
tdn_value *tdn_spike_conv(tdn_spikes *s, tdn_node *where, const tdn_node *conv, tdn_value *x,
                          tdn_value *w);

#endif
