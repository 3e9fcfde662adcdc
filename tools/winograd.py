#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prints src/backend/cpu/wino_tables.h: the matrices of Winograd's minimal filtering algorithms F(m, r).

usage: winograd.py > src/backend/cpu/wino_tables.h

m outputs of a filter of r taps take a = m + r - 1 products: y = A^T ((G g) * (B^T d)), by the Toom-Cook construction at a - 1
finite points and infinity (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016, section 4; Blahut,
"Fast algorithms for signal processing", 2010, chapter 5). The points decide about rounding: these are small, of both
signs, and in reciprocal pairs. Rows of B^T are scaled by powers of two to a largest entry near 1, rows of G to a sum of
magnitudes near 1, and A^T takes the rest.
"""

from fractions import Fraction as F
from math import floor, log2

POINTS = [F(0), F(1), F(-1), F(2), F(-2), F(1, 2), F(-1, 2), F(3, 4), F(-3, 4), F(4, 3), F(-4, 3)]
BEST_FIVE = [F(0), F(1), F(-1), F(2), F(-1, 2)]  # a third of the error of 0, 1, -1, 2, -2
SIZES = [(2, 2), (2, 3), (2, 5), (4, 2), (4, 3), (4, 4), (4, 5), (6, 3), (4, 7), (2, 9), (4, 9)]  # (m, r)


def points_of(m, r):
    n = m + r - 2
    return BEST_FIVE if n == 5 else POINTS[:n]


def multiply(p, q):
    """Of polynomials, lowest power first."""
    product = [F(0)] * (len(p) + len(q) - 1)
    for i, x in enumerate(p):
        for j, y in enumerate(q):
            product[i + j] += x * y
    return product


def power_of_two(x):
    """The one nearest to x, in the logarithm."""
    return F(2) ** floor(log2(x) + F(1, 2))


def matrices(m, r):
    """A^T (m x a), G (a x r), B^T (a x a), exact."""
    points, a = points_of(m, r), m + r - 1
    bt, g = [], []
    for j, p in enumerate(points):
        others = [q for k, q in enumerate(points) if k != j]
        row, scale = [F(1)], F(1)
        for q in others:
            row = multiply(row, [-q, F(1)])
            scale *= p - q
        bt.append(row + [F(0)])
        g.append([p**k / scale for k in range(r)])
    row = [F(1)]
    for q in points:
        row = multiply(row, [-q, F(1)])
    bt.append(row)
    g.append([F(0)] * (r - 1) + [F(1)])
    at = [[p**i for p in points] + [F(int(i == m - 1))] for i in range(m)]
    scales = [(power_of_two(max(abs(x) for x in b)), power_of_two(sum(abs(x) for x in s))) for b, s in zip(bt, g)]
    for i in range(n_pairs(points)):  # one scale for both, so that their columns of A^T differ by signs alone
        p, q = scales[2 * i + 1], scales[2 * i + 2]
        scales[2 * i + 1] = scales[2 * i + 2] = (max(p[0], q[0]), max(p[1], q[1]))
    for j, (b, s) in enumerate(scales):
        bt[j] = [x / b for x in bt[j]]
        g[j] = [x / s for x in g[j]]
        for i in range(m):
            at[i][j] *= b * s
    return at, g, bt


def n_pairs(points):
    """Pairs p, -p that follow the point 0."""
    n = 0
    while 2 * n + 2 < len(points) and points[2 * n + 1] == -points[2 * n + 2]:
        n += 1
    return n


def number(x, suffix):
    text = repr(float(x))
    return (text[:-2] + ".0" if text.endswith(".0") else text) + suffix


def print_matrix(kind, name, rows, suffix):
    print(f"static const {kind} {name}[] = {{")
    for row in rows:
        line = "    "
        for x in row:
            item = number(x, suffix) + ", "
            if len(line) + len(item) > 101:
                print(line.rstrip())
                line = "    "
            line += item
        print(line.rstrip())
    print("};")


def main():
    print("/* SPDX-License-Identifier: Apache-2.0 */")
    print("/*\n * Matrices of Winograd's algorithms, row by row; made by tools/winograd.py, which says how.\n"
          " * WINO_SIZES(X): X(m, r, pairs, symmetric) for each. `pairs` pairs of points p, -p follow the point 0;\n"
          " * their columns of A^T differ by the sign of odd rows. Where there are no other points, `symmetric` is 1\n"
          " * and their rows of B^T differ by the sign of odd columns.\n */")
    print("#ifndef TDN_BACKEND_CPU_WINO_TABLES_H\n#define TDN_BACKEND_CPU_WINO_TABLES_H\n")
    print("/* clang-format off */")
    print("#define WINO_SIZES(X) \\")
    items = []
    for m, r in SIZES:
        points = points_of(m, r)
        pairs = n_pairs(points)
        items.append(f"    X({m}, {r}, {pairs}, {int(2 * pairs + 1 == len(points))})")
    print(" \\\n".join(items) + "\n")
    for m, r in SIZES:
        at, g, bt = matrices(m, r)
        print_matrix("float", f"wino_at_{m}_{r}", at, "f")
        print_matrix("double", f"wino_g_{m}_{r}", g, "")
        print_matrix("float", f"wino_bt_{m}_{r}", bt, "f")
    print("/* clang-format on */\n\n#endif")


if __name__ == "__main__":
    main()
