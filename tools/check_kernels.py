#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the machine code of the matrix kernels against what makes them fast. usage: check_kernels.py BUILD_FOLDER

A kernel for AVX2 or AVX-512 must multiply and add in one instruction, on vectors of the full width, and its innermost
loops must not move vectors to and from the stack: a tile that does not fit the registers, or a lost
-ffp-contract=fast, costs half the speed and fails no other test.
"""

import re
import subprocess
import sys
from pathlib import Path

MATRIX_FILES = ["k_block", "k_dwconv"]  # where the multiply-adds are
REGISTER = {"avx2": "%ymm", "avx512": "%zmm"}
LOOP_MIN_FUSED = 12  # loops with fewer are tails
FUNCTION = re.compile(r"^[0-9a-f]+ <(\S+)>:$")
LINE = re.compile(r"^\s*([0-9a-f]+):\t(\S+)\s*(.*)$")
JUMP = re.compile(r"^([0-9a-f]+) <")


def functions(file):
    """(name, [(address, mnemonic, operands)]) of each function of an object file."""
    command = ["objdump", "-d", "--no-show-raw-insn", str(file)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = []
    for line in text.splitlines():
        start, instruction = FUNCTION.match(line), LINE.match(line)
        if start:
            found.append((start.group(1), []))
        elif instruction:
            found[-1][1].append((int(instruction.group(1), 16), instruction.group(2), instruction.group(3)))
    return found


def innermost_loops(code):
    """The instructions of each loop that holds no other loop: what lies between a backward jump and its target."""
    spans = []
    for address, mnemonic, operands in code:
        target = JUMP.match(operands)
        if mnemonic.startswith("j") and target and int(target.group(1), 16) <= address:
            spans.append((int(target.group(1), 16), address))
    for begin, end in spans:
        if not any((b, e) != (begin, end) and begin <= b and e <= end for b, e in spans):
            yield [i for i in code if begin <= i[0] <= end]


def is_fused(instruction, vector):
    return instruction[1].startswith("vfm") and instruction[1].endswith("ps") and vector in instruction[2]


def spills(name, code, vector):
    found = []
    for loop in innermost_loops(code):
        n_fused = sum(is_fused(i, vector) for i in loop)
        moves = [i for i in loop if vector in i[2] and re.search(r"\(%r[sb]p\)", i[2])]
        if n_fused >= LOOP_MIN_FUSED and moves:
            address, mnemonic, operands = moves[0]
            found.append(f"{name}: {len(moves)} of {len(loop)} instructions of an innermost loop ({n_fused} fused)"
                         f" use the stack, first at {address:#x}: {mnemonic} {operands}")
    return found


def check(file, level):
    found, n_fused = [], 0
    for name, code in functions(file):
        n_fused += sum(is_fused(i, REGISTER[level]) for i in code)
        found += spills(f"{level}/{file.name}: {name}", code, REGISTER[level])
    if n_fused < LOOP_MIN_FUSED:
        found.append(f"{level}/{file.name} has {n_fused} fused multiply-adds on {REGISTER[level]}")
    return found


def main():
    found, n_files = [], 0
    for level in REGISTER:
        for name in MATRIX_FILES:
            for file in Path(sys.argv[1]).glob(f"src/CMakeFiles/tdn_kernels_{level}.dir/**/{name}.c.o"):
                found += check(file, level)
                n_files += 1
    print("\n".join(found) if found else f"{n_files} kernel files fuse, and keep their tiles in registers")
    return 1 if found or n_files != len(REGISTER) * len(MATRIX_FILES) else 0


if __name__ == "__main__":
    sys.exit(main())
