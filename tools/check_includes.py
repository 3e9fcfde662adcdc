#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Holds the #include lines of src/ and include/ against the design's table of who may use whom.

Prints each line that breaks a rule and exits with 1. Every folder of src/ must have a row here, so a new one cannot
slip in unnoticed; src/CMakeLists.txt links by the same table.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

MAY_INCLUDE = {
    "base": {"tendon.h"},
    "ref": {"base", "tendon.h", "operator.h"},
    "graph": {"base", "tendon.h"},
    "ops": {"graph", "ref", "base", "tendon.h"},
    "onnx": {"ops", "graph", "base", "tendon.h"},
    "passes": {"ops", "graph", "base", "tendon.h"},
    "quant": {"ops", "graph", "base", "tendon.h", "build.h", "calibrate.h"},
    "lower": {"ops", "graph", "backend", "plan", "base", "tendon.h"},
    "backend": {"base", "tendon.h"},
    "plan": {"base", "tendon.h"},
    "runtime": {"plan", "backend", "ref", "base", "tendon.h"},
    "build": {"onnx", "passes", "quant", "lower", "plan", "backend", "ops", "graph", "ref", "base", "tendon.h",
              "build.h", "calibrate.h", "budget.h"},
    "cli": {"base", "tendon.h", "build.h", "calibrate.h", "budget.h", "operator.h"},
}
# Libraries beyond the C library: who may use them.
OUTSIDE = {"jansson.h": {"cli"}, "zip.h": {"cli"}}
SYSTEM = re.compile(
    r"^(assert|cpuid|ctype|dirent|dlfcn|errno|fcntl|fenv|float|fnmatch|getopt|immintrin|emmintrin|arm_neon|inttypes|limits|locale|"
    r"math|pthread|sched|setjmp|signal|stdalign|stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdlib|string|strings|"
    r"termios|time|unistd|linux/futex|sys/(auxv|ioctl|mman|random|resource|stat|syscall|time|types|utsname|wait))\.h$"
)
INCLUDE = re.compile(r"^\s*#\s*include\s*([<\"])([^>\"]+)[>\"]")


def complaint(folder, kind, name):
    """Why a file of `folder` may not include `name`, or None. `folder` None: a public header."""
    if kind == "<":
        if SYSTEM.match(name) or folder in OUTSIDE.get(name, ()):
            return None
        return f"<{name}> is not the C library's"
    part, _, rest = name.partition("/")
    if not rest:
        return f'"{name}" does not name its folder'
    if folder is None:
        return None if part == "tendon" else "a public header includes an internal one"
    if part == "tendon":
        return None if rest in MAY_INCLUDE[folder] else f"{folder} may not include {name}"
    return None if part == folder or part in MAY_INCLUDE[folder] else f"{folder} may not include {part}"


def check_file(path, folder):
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = INCLUDE.match(line)
        reason = match and complaint(folder, *match.groups())
        if reason:
            found.append(f"{path.relative_to(ROOT)}:{number}: {reason}")
    return found


def main():
    found, n_files = [], 0
    for path in sorted((ROOT / "src").rglob("*.[ch]")):
        folder = path.relative_to(ROOT / "src").parts[0]
        if folder not in MAY_INCLUDE:
            found.append(f"{path.relative_to(ROOT)}: src/{folder} has no row in {Path(__file__).name}")
            continue
        found += check_file(path, folder)
        n_files += 1
    for path in sorted((ROOT / "include").rglob("*.h")):
        found += check_file(path, None)
        n_files += 1
    print("\n".join(found) if found else f"{n_files} files keep to the table")
    return 1 if found or n_files == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
