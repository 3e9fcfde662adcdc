/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leaky integrate-and-fire neurons over a chunk of a map, several steps at a time: the potential
 * stays in a register, as a neuron's does. All inputs of some neurons are read before the first
 * result is written: buffers that lie a multiple of 4 KiB apart would make loads wait for stores.
 * The model as snntorch and spikingjelly have it, with a reset by subtraction (Eshraghian et al.,
 * "Training spiking neural networks using lessons from deep learning", 2023, section 3).
 */
#ifndef TDN_BACKEND_CPU_LIF_H
#define TDN_BACKEND_CPU_LIF_H

#include "backend/cpu/cpu.h"
#include "backend/cpu/vec.h"

enum { TDN_LIF_STEPS = 16 };

/* Element i of row r at p[r * row + (i & mask)]: mask -1, or 0 where a vector of equal lanes stands
 * for all. */
typedef struct tdn_lif_rows {
    float *p;
    int64_t row;
    intptr_t mask;
} tdn_lif_rows;

typedef struct tdn_lif {
    int n_steps;
    tdn_lif_rows before, after; /* the potentials */
    tdn_lif_rows x[TDN_LIF_STEPS], fires[TDN_LIF_STEPS];
    float threshold, leak, reset;
} tdn_lif;

TDN_INLINE vf tdn_lif_load(const tdn_lif_rows *r, int64_t row, int i, int n, const bool whole)
{
    const float *p = r->p + row * r->row + (i & r->mask);
    return whole ? vf_load(p) : r->mask ? vf_load_n(p, n) : vf_set(*p);
}

TDN_INLINE void tdn_lif_store(const tdn_lif_rows *r, int64_t row, int i, vf x, int n,
                              const bool whole)
{
    float *p = r->p + row * r->row + i;
    if (whole)
        vf_store(p, x);
    else
        vf_store_n(p, x, n);
}

TDN_INLINE void tdn_lif_lanes(const tdn_lif *l, int64_t row, int i, int n, const bool whole)
{
    const vf threshold = vf_set(l->threshold), leak = vf_set(l->leak), reset = vf_set(l->reset);
    const int n_steps = l->n_steps;
    vf u = tdn_lif_load(&l->before, row, i, n, whole), x[TDN_LIF_STEPS];
    TDN_ROLLED (int k = 0; k < n_steps; k++)
        x[k] = tdn_lif_load(&l->x[k], row, i, n, whole);
    TDN_ROLLED (int k = 0; k < n_steps; k++) {
        const vf fires = vf_from_mask(vm_lt(threshold, u));
        tdn_lif_store(&l->fires[k], row, i, fires, n, whole);
        u = u * leak + x[k];
        u = fires * reset + u;
    }
    tdn_lif_store(&l->after, row, i, u, n, whole);
}

static void tdn_lif_run(const tdn_lif *l, int64_t rows, int cols)
{
    for (int64_t row = 0; row < rows; row++) {
        int i = 0;
        for (; i + TDN_LANES <= cols; i += TDN_LANES)
            tdn_lif_lanes(l, row, i, TDN_LANES, true);
        if (i < cols)
            tdn_lif_lanes(l, row, i, cols - i, false);
    }
}

#endif
