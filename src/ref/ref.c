/* SPDX-License-Identifier: Apache-2.0 */
/* The list of the families' reference kernels, and the search in it. A family is one array in its
 * own file, ended by a row without a name. */
#include "ref/ref.h"

#include <string.h>

extern const tdn_ref_def tdn_refs_elementwise[], tdn_refs_reduce[], tdn_refs_cast[],
    tdn_refs_quant[];
extern const tdn_ref_def tdn_refs_conv[], tdn_refs_pool[], tdn_refs_matmul[], tdn_refs_norm[],
    tdn_refs_movement[];
extern const tdn_ref_def tdn_refs_gather[], tdn_refs_sort[], tdn_refs_shape[], tdn_refs_rnn[],
    tdn_refs_resize[];
extern const tdn_ref_def tdn_refs_control[], tdn_refs_detection[], tdn_refs_attention[];
extern const tdn_ref_def tdn_refs_recurrent[], tdn_refs_signal[], tdn_refs_loss[];

static const tdn_ref_def *const families[] = {
    tdn_refs_elementwise, tdn_refs_reduce,    tdn_refs_cast,    tdn_refs_quant,
    tdn_refs_conv,        tdn_refs_pool,      tdn_refs_matmul,  tdn_refs_norm,
    tdn_refs_movement,    tdn_refs_gather,    tdn_refs_sort,    tdn_refs_shape,
    tdn_refs_rnn,         tdn_refs_resize,    tdn_refs_control, tdn_refs_detection,
    tdn_refs_attention,   tdn_refs_recurrent, tdn_refs_signal,  tdn_refs_loss,
};

const tdn_ref_def *tdn_ref_find(const char *name)
{
    for (size_t f = 0; f < sizeof families / sizeof *families; f++)
        for (const tdn_ref_def *ref = families[f]; ref->name; ref++)
            if (ref->name[0] == name[0] && strcmp(ref->name, name) == 0)
                return ref;
    return NULL;
}
