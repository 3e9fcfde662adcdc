/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reference kernels: the plain, obviously right evaluation of each operator over strided views.
 * They judge every fast path (and share no code with it), fold constants at build, and run what no
 * backend implements.
 *
 * A reference reads its inputs through their strides, and writes its outputs through theirs. It
 * trusts dims (the shape rule made them), never data: an index in the data that is out of range
 * fails with TDN_E_MODEL. It allocates nothing: what it needs comes as scratch. Where `bounded`
 * outputs are shorter than their dims, it writes the true extent into out[i].dims (row-major
 * strides then follow the new dims).
 */
#ifndef TDN_REF_REF_H
#define TDN_REF_REF_H

#include "base/attr.h"
#include "base/expr.h"

typedef struct tdn_ref_def tdn_ref_def;

typedef struct tdn_ref_call {
    const tdn_view *in;
    int n_in; /* trailing absent inputs are left out; others have dtype NONE */
    tdn_view *out;
    int n_out; /* an output that nobody reads may have dtype NONE */
    const tdn_attrs *attrs;
    const tdn_expr *expr; /* of map; else NULL */
    void *scratch;        /* scratch_size bytes for this part alone, aligned to 64 */
    int part, n_parts;
    const tdn_ref_def *row; /* that is called: custom.h has more in it */
    tdn_error *error;
} tdn_ref_call;

struct tdn_ref_def {
    const char
        *name; /* ONNX's operator name, with "-since" where the meaning changed: "Softmax-1" */
    tdn_status (*run)(const tdn_ref_call *call);
    /* Bytes of scratch a part needs, from dims, dtypes and attributes alone (data is NULL);
     * SIZE_MAX: too large. NULL: none. */
    size_t (*scratch_size)(const tdn_ref_call *call);
    /* How many parts the work may be split in, done in any order by any thread (part i of n covers
     * an equal share of the outer loop). NULL: one. */
    int (*n_parts)(const tdn_ref_call *call);
};

/* One array a family (ref_math.c, ref_nn.c, ...), ended by a row without a name; ref.c lists the
 * arrays. */
const tdn_ref_def *tdn_ref_find(const char *name);

/* The half-open share [begin, end) of n that part `part` of `n_parts` does. */
static inline void tdn_ref_share(int64_t n, int part, int n_parts, int64_t *begin, int64_t *end)
{
    *begin = n / n_parts * part + (part < n % n_parts ? part : n % n_parts);
    *end = *begin + n / n_parts + (part < n % n_parts);
}

#endif
