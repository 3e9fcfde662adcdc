#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the machine code of the matrix kernels against what makes them fast.

usage: check_kernels.py BUILD_FOLDER OBJDUMP LEVEL...      e.g. build objdump avx2 avx512

A kernel for these levels must multiply and add in one instruction (of bytes: several products), on vectors of the full
width, and its innermost loops must not move vectors to and from the stack: a tile that does not fit the registers, or
a lost -ffp-contract=fast, costs half the speed and fails no other test.
"""

import re
import subprocess
import sys
from pathlib import Path

X86_STACK = r"\(%r[sb]p\)"
YMM_STACK = rf"%ymm.*{X86_STACK}|{X86_STACK}.*%ymm"
ZMM_STACK = rf"%zmm.*{X86_STACK}|{X86_STACK}.*%zmm"
ARM_STACK = r"\w+ [qv]\d.*\[(sp|x29)"
FLOATS, BYTES = ["k_block", "k_dwconv"], ["k_iblock"]  # where the multiply-adds are
HALVES, PAIRS = ["k_hblock"], ["k_bblock"]  # of binary16, of bfloat16
# Files, their fused multiply-adds, and moves of vectors to and from the stack. Bytes without an instruction for dot
# products take so many others that a move among them does not show: they have no rows.
LEVELS = {
    "avx2": [(FLOATS, r"vfm\w+ps .*%ymm", YMM_STACK)],
    "avx512": [(FLOATS, r"vfm\w+ps .*%zmm", ZMM_STACK)],
    "avxvnni": [(BYTES, r"(\{vex\}\s+)?vpdpbusd\s.*%ymm", YMM_STACK)],
    "avx512vnni": [(BYTES, r"vpdpbusd .*%zmm", ZMM_STACK)],
    "neon": [(FLOATS, r"fmla v\d+\.4s", ARM_STACK)],
    "avx512fp16": [(HALVES, r"vfm\w+ph .*%zmm", ZMM_STACK)],
    "avx512bf16": [(PAIRS, r"vdpbf16ps .*%zmm", ZMM_STACK)],
    "armfp16": [(HALVES, r"fmla v\d+\.8h", ARM_STACK)],
    "dotprod": [(BYTES, r"sdot v\d+\.4s", ARM_STACK)],
}
LOOP_MIN_FUSED = 12  # loops with fewer are tails
# Of halves, the last vector of columns alone: clang has two of its twelve sums on the stack.
EXEMPT = re.compile(r"widen_\d+x1$")
FUNCTION = re.compile(r"^[0-9a-f]+ <(\S+)>:$")
LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)\s*(.*)$")
JUMP = re.compile(r"(?:^|, )(?:0x)?([0-9a-f]+) <")  # some of AArch64's name a register first
IS_JUMP = re.compile(r"j|b\.|b$|[ct]bn?z")


def functions(file, objdump):
    """(name, [(address, mnemonic, operands)]) of each function of an object file."""
    command = [objdump, "-d", "--no-show-raw-insn", str(file)]
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
        target = JUMP.search(operands)
        if IS_JUMP.match(mnemonic) and target and int(target.group(1), 16) <= address:
            spans.append((int(target.group(1), 16), address))
    for begin, end in spans:
        if not any((b, e) != (begin, end) and begin <= b and e <= end for b, e in spans):
            yield [i for i in code if begin <= i[0] <= end]


def fits(instruction, pattern):
    return re.match(pattern, f"{instruction[1]} {instruction[2]}")


def spills(name, code, fused, stack):
    found = []
    for loop in innermost_loops(code):
        n_fused = sum(bool(fits(i, fused)) for i in loop)
        moves = [i for i in loop if re.search(stack, f"{i[1]} {i[2]}")]
        if n_fused >= LOOP_MIN_FUSED and moves and not EXEMPT.search(name):
            address, mnemonic, operands = moves[0]
            found.append(f"{name}: {len(moves)} of {len(loop)} instructions of an innermost loop ({n_fused} fused)"
                         f" use the stack, first at {address:#x}: {mnemonic} {operands}")
    return found


def check(file, level, fused, stack, objdump):
    found, n_fused = [], 0
    for name, code in functions(file, objdump):
        n_fused += sum(bool(fits(i, fused)) for i in code)
        found += spills(f"{level}/{file.name}: {name}", code, fused, stack)
    if n_fused < LOOP_MIN_FUSED:
        found.append(f"{level}/{file.name} has {n_fused} fused multiply-adds on whole vectors")
    return found


def main():
    folder, objdump, levels = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    found, n_files, n_wanted = [], 0, 0
    for level in levels:
        for names, fused, stack in LEVELS[level]:
            n_wanted += len(names)
            for name in names:
                for file in folder.glob(f"src/CMakeFiles/tdn_kernels_{level}.dir/**/{name}.c.o"):
                    found += check(file, level, fused, stack, objdump)
                    n_files += 1
    print("\n".join(found) if found else f"{n_files} kernel files fuse, and keep their tiles in registers")
    return 1 if found or not levels or n_files != n_wanted else 0


if __name__ == "__main__":
    sys.exit(main())
