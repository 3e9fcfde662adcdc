#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the shared libraries export, hold, need and weigh. usage: check_exports.py BUILD_FOLDER COMPILER

libtendon exports the functions of tendon.h and operator.h, libtendon-build those of build.h, calibrate.h and budget.h,
no more and no less; libtendon holds nothing of the compiler's; both need the C library alone; libtendon is under 1 MB
when stripped, as gcc compiles it.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMPILER = ["graph", "ops", "onnx", "passes", "quant", "lower", "build"]
NEEDED = re.compile(r"^(libc\.so\.6|libm\.so\.6|ld-linux-[\w-]+\.so\.\d|libtendon\.so\.\d+)$")
MAX_SIZE = {"GNU": 1_250_000, "Clang": 1_500_000}  # gcc's is what is shipped; clang unrolls more


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def declared(header):
    """Names of the functions that a public header marks with TDN_API."""
    text = re.sub(r"/\*.*?\*/", "", (ROOT / "include" / "tendon" / header).read_text(), flags=re.S)
    return set(re.findall(r"^TDN_API\b[^;(]*?\b(tdn_\w+)\s*\(", text, flags=re.M))


def defined(file, *options):
    lines = output("nm", "--defined-only", *options, str(file)).splitlines()
    return {line.split()[-1].split("@")[0] for line in lines if len(line.split()) == 3}


def compare(library, *headers):
    exported, public = defined(library, "-D"), set().union(*map(declared, headers))
    where = " and ".join(headers)
    found = [f"{library.name} exports {name}, which {where} does not declare" for name in exported - public]
    return found + [f"{library.name} lacks {name} of {where}" for name in public - exported]


def foreign(library, folder):
    """Compiler functions inside the run time."""
    inside = defined(library)
    found = []
    for part in COMPILER:
        archive = folder / "lib" / f"libtdn_{part}.a"
        if archive.exists():
            theirs = {name for name in defined(archive, "-g") if name.startswith("tdn_")}
            found += [f"{library.name} holds {name} of src/{part}" for name in inside & theirs]
    return found


def needs(library):
    names = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", str(library)))
    return [f"{library.name} needs {name}" for name in names if not NEEDED.match(name)]


def weigh(library, compiler):
    with tempfile.TemporaryDirectory() as folder:
        stripped = Path(folder) / library.name
        subprocess.run(["strip", "-o", str(stripped), str(library)], check=True)
        size = stripped.stat().st_size
    print(f"{library.name}: {size:,} bytes stripped")
    most = MAX_SIZE[compiler]
    return [f"{library.name} is {size:,} bytes, over {most:,}"] if size > most else []


def main():
    folder, tool = Path(sys.argv[1]), sys.argv[2]
    runtime, compiler = folder / "libtendon.so", folder / "libtendon-build.so"
    found = compare(runtime, "tendon.h", "operator.h") + compare(compiler, "build.h", "calibrate.h", "budget.h")
    found += foreign(runtime, folder)
    found += needs(runtime) + needs(compiler) + weigh(runtime, tool)
    print("\n".join(sorted(found)))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
