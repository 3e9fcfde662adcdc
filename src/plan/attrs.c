/* SPDX-License-Identifier: Apache-2.0 */
/* Which attributes a reference may meet: the compiler and the run time ask the same question, so
 * that no plan is written which is then refused. */
#include <string.h>

#include "base/status.h"
#include "plan/format.h"
#include "plan/plan.h"

/* Numbers that count elements must not overflow when multiplied with extents. Others are checked,
 * or clamped to the extents, or only compared, by the references that read them. */
static bool may_be_large(const char *name)
{
    static const char *const names[] = {"starts",    "ends",       "shape",
                                        "value_int", "value_ints", "ignore_index"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

tdn_status tdn_plan_check_attrs(const tdn_attrs *attrs, tdn_status status, tdn_error *error)
{
    for (int32_t i = 0; i < attrs->n; i++) {
        const tdn_attr *a = &attrs->items[i];
        const int64_t *v = a->kind == TDN_ATTR_INT    ? &a->i
                           : a->kind == TDN_ATTR_INTS ? a->ints
                                                      : NULL;
        const int32_t n = a->kind == TDN_ATTR_INT ? 1 : a->n;
        for (int32_t k = 0; v && k < n && !may_be_large(a->name); k++)
            if (v[k] > TDN_FORMAT_MAX_EXTENT || v[k] < -TDN_FORMAT_MAX_EXTENT)
                return tdn_fail(error, status, "attribute '%s' is %lld, which is out of range",
                                a->name, (long long)v[k]);
    }
    return TDN_OK;
}
