/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The backends, and look-ups over their tables: families and kernels by name, targets by name or by
 * this machine. All is constant data; a look-up compares names, which happens while loading or
 * building only.
 */
#include <string.h>

#include "backend/backend.h"
#include "backend/cpu/cpu.h"

const tdn_backend *const tdn_backends[] = {
    &tdn_backend_cpu,
    NULL,
};

const tdn_family *tdn_family_find(const char *name)
{
    for (const tdn_backend *const *b = tdn_backends; *b; b++)
        for (const tdn_family *const *f = (*b)->families; *f; f++)
            if (!strcmp((*f)->name, name))
                return *f;
    return NULL;
}

const tdn_kernel *tdn_kernel_find(const char *name, const tdn_family **family)
{
    for (const tdn_backend *const *b = tdn_backends; *b; b++)
        for (const tdn_family *const *f = (*b)->families; *f; f++)
            for (const tdn_kernel *k = (*f)->kernels; k->name; k++)
                if (!strcmp(k->name, name)) {
                    *family = *f;
                    return k;
                }
    return NULL;
}

const tdn_kernel *tdn_kernel_best(const tdn_kernel *kernels, uint64_t isa)
{
    const tdn_kernel *best = NULL;
    for (const tdn_kernel *k = kernels; k->name; k++)
        if (!(k->isa & ~isa))
            best = k;
    return best;
}

const tdn_target *tdn_target_find(const char *name)
{
    for (const tdn_backend *const *b = tdn_backends; *b; b++)
        for (const tdn_target *t = (*b)->targets; t->name; t++)
            if (!strcmp(t->name, name))
                return t;
    return NULL;
}

const tdn_target *tdn_target_detect(void)
{
    const tdn_target *best = NULL;
    for (const tdn_backend *const *b = tdn_backends; *b; b++) {
        const uint64_t isa = (*b)->detect();
        for (const tdn_target *t = (*b)->targets; t->name; t++)
            if (!(t->isa & ~isa))
                best = t;
    }
    return best;
}

const char *tdn_target_native(void)
{
    const tdn_target *t = tdn_target_detect();
    return t ? t->name : "none";
}

const char *tdn_target_name(int index)
{
    if (index < 0)
        return NULL;
    for (const tdn_backend *const *b = tdn_backends; *b; b++)
        for (const tdn_target *t = (*b)->targets; t->name; t++)
            if (index-- == 0)
                return t->name;
    return NULL;
}
