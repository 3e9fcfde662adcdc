/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loops over strided operands: axes of extent 1 are dropped, the innermost is the one that most
 * operands have contiguous, the others go by the stride of the main operand, and axes that lie as
 * one for all operands are joined. Operands are views of the same dims that have passed
 * tdn_cpu_check_view.
 */
#include <string.h>

#include "backend/cpu/cpu.h"

static void swap_axes(tdn_layout *l, int a, int b)
{
    const int64_t d = l->dims[a];
    l->dims[a] = l->dims[b];
    l->dims[b] = d;
    for (int i = 0; i < l->n; i++) {
        const int64_t s = l->strides[i][a];
        l->strides[i][a] = l->strides[i][b];
        l->strides[i][b] = s;
    }
}

static int64_t length(int64_t stride) { return stride < 0 ? -stride : stride; }

/* Is axis a better innermost than b? By operands that are contiguous along it, then by those that
 * are at least broadcast; operand `out` counts twice. */
static int innermost_score(const tdn_layout *l, int axis, int out)
{
    int score = 0;
    for (int i = 0; i < l->n; i++) {
        const int64_t s = l->strides[i][axis];
        score += (s == 1 ? 4 : s == 0 ? 1 : 0) * (i >= out ? 2 : 1);
    }
    return score;
}

/* A longer axis that some operand has contiguous is better than a short one that more have. */
static bool is_better(const tdn_layout *l, int axis, int than, int out)
{
    enum { SHORT = 8, CONTIGUOUS = 4 };
    const int score = innermost_score(l, axis, out), other = innermost_score(l, than, out);
    if (l->dims[than] < SHORT && l->dims[axis] >= SHORT && score >= CONTIGUOUS)
        return true;
    if (l->dims[axis] < SHORT && l->dims[than] >= SHORT && other >= CONTIGUOUS)
        return false;
    return score > other;
}

/* Innermost last; the others by the stride of the first output, longest first. */
static void order_axes(tdn_layout *l, int out)
{
    if (l->rank < 2)
        return;
    int best = l->rank - 1;
    for (int i = l->rank - 2; i >= 0; i--)
        if (is_better(l, i, best, out))
            best = i;
    swap_axes(l, best, l->rank - 1);
    for (int i = 1; i < l->rank - 1; i++)
        for (int j = i; j > 0 && length(l->strides[out][j - 1]) < length(l->strides[out][j]); j--)
            swap_axes(l, j - 1, j);
}

static bool joins(const tdn_layout *l, int axis)
{
    for (int i = 0; i < l->n; i++)
        if (l->strides[i][axis] != l->strides[i][axis + 1] * l->dims[axis + 1])
            return false;
    return true;
}

static void join_axes(tdn_layout *l)
{
    for (int axis = l->rank - 2; axis >= 0; axis--) {
        if (!joins(l, axis))
            continue;
        l->dims[axis + 1] *= l->dims[axis];
        for (int j = axis; j + 1 < l->rank; j++) {
            l->dims[j] = l->dims[j + 1];
            for (int i = 0; i < l->n; i++)
                l->strides[i][j] = l->strides[i][j + 1];
        }
        l->rank--;
    }
}

void tdn_layout_collapse(tdn_layout *l, const tdn_view *const *views, int n, int main,
                         int first_axis, int n_axes)
{
    memset(l, 0, sizeof *l);
    l->n = n;
    for (int axis = first_axis; axis < first_axis + n_axes; axis++) {
        if (views[main]->dims[axis] == 1)
            continue;
        l->dims[l->rank] = views[main]->dims[axis];
        for (int i = 0; i < n; i++)
            l->strides[i][l->rank] = views[i]->strides[axis];
        l->rank++;
    }
    if (l->rank == 0) {
        l->rank = 1;
        l->dims[0] = 1;
        for (int i = 0; i < n; i++)
            l->strides[i][0] = 1;
    }
    order_axes(l, main);
    join_axes(l);
}

int64_t tdn_layout_rows(const tdn_layout *l)
{
    int64_t n = 1;
    for (int i = 0; i + 1 < l->rank; i++)
        n *= l->dims[i];
    return n;
}
