#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the inner loops of the matrix kernels for NEON against the rate at which a core can multiply and add.

usage: check_neon.py BUILD_FOLDER OBJDUMP      e.g. build-aarch64 aarch64-linux-gnu-objdump

llvm-mca runs each innermost loop of k_block through models of two cores and counts the cycles; the ceiling is what the
same model reaches in a loop of nothing but independent multiply-adds. A tile of full height and width must come to
85 % of it; what is left of a matrix at its edges is printed. All matrix products, Winograd's and those of events among
them, run in these loops.

The models: `cortex-a78` is the core that is meant. LLVM 14 takes the schedule of the older A57 for it, which starts one
multiply-add of four lanes a cycle where the A78 starts two. So the loops are held against `tsv110`, too: two such pipes
and four instructions a cycle, the narrowest model with them.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from check_kernels import IS_JUMP, LEVELS, fits, functions, innermost_loops

CORES = ["cortex-a78", "tsv110"]
LEAST = 0.85
FULL_TILE = "multiply_8x2"  # rows x vectors: TDN_MR_neon, and TDN_NR_neon over 4
ITERATIONS = 200
FUSED = LEVELS["neon"][0][1]
CHAINS = 24  # independent sums: more than any model's latency times its pipes


def cycles(instructions, core):
    """Of one pass through a loop of these instructions, in the steady state."""
    text = "\n".join(["again:", *instructions, ""])
    totals = []
    for n in (ITERATIONS, 2 * ITERATIONS):  # the difference is free of the beginning and the end
        command = ["llvm-mca", "-march=aarch64", f"-mcpu={core}", f"-iterations={n}"]
        said = subprocess.run(command, input=text, capture_output=True, text=True)
        found = re.search(r"^Total Cycles:\s+(\d+)$", said.stdout, re.M)
        if said.returncode or "error:" in said.stderr or not found:
            sys.exit(f"check_neon.py: llvm-mca does not take the loop:\n{said.stderr}{text}")
        totals.append(int(found.group(1)))
    return (totals[1] - totals[0]) / ITERATIONS


def rate(core):
    """Multiply-adds of four lanes that the model starts in a cycle."""
    sums = [f"fmla v{i}.4s, v30.4s, v31.4s" for i in range(CHAINS)]
    return CHAINS / cycles(sums, core)


def assembly(loop):
    """The loop's text as an assembler takes it: its jump leads to its beginning."""
    for _, mnemonic, operands in loop:
        operands = re.sub(r"\s*(//.*|<.*)$", "", operands)
        if IS_JUMP.match(mnemonic):
            operands = ", ".join([*operands.split(",")[:-1], "again"])
        yield f"{mnemonic} {operands}"


def inner_loops(file, objdump):
    """(function, instructions, multiply-adds) of each loop that multiplies: of one piece, with the one jump."""
    for name, code in functions(file, objdump):
        for loop in innermost_loops(code):
            n_fused = sum(bool(fits(i, FUSED)) for i in loop)
            if n_fused > 0 and sum(bool(IS_JUMP.match(i[1])) for i in loop) == 1:
                yield name, loop, n_fused


def main():
    folder, objdump = Path(sys.argv[1]), sys.argv[2]
    if not shutil.which("llvm-mca"):
        print("llvm-mca is missing: tools/deps.sh aarch64 installs it")
        return 1
    files = list(folder.glob("src/CMakeFiles/tdn_kernels_neon.dir/**/k_block.c.o"))
    rates = {core: rate(core) for core in CORES}
    bad, held = [], 0
    for file in files:
        for name, loop, n_fused in inner_loops(file, objdump):
            text = list(assembly(loop))
            shares = {core: n_fused / cycles(text, core) / rates[core] for core in CORES}
            full = name == FULL_TILE and n_fused >= 16
            held += full
            print(f"{name}: {len(loop)} instructions, {n_fused} multiply-adds:",
                  ", ".join(f"{100 * share:.0f} % of {core}" for core, share in shares.items()))
            if full and min(shares.values()) < LEAST:
                bad.append(f"{name} is below {100 * LEAST:.0f} %")
    print("\n".join(bad) if bad else f"{held} inner loops of full tiles hold {100 * LEAST:.0f} % of the issue rate")
    return 1 if bad or not held or len(files) != 1 else 0


if __name__ == "__main__":
    sys.exit(main())
