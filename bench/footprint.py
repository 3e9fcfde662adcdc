# SPDX-License-Identifier: Apache-2.0
"""Sizes and times beside the speed of a step: the library, start to first result, memory, builds.

usage: python bench/footprint.py [--build build] [--zoo DIR] [--json FILE]      (what `make bench-footprint` runs)

- library: bytes of libtendon.so, stripped
- start: a program that loads the EMG plan, runs it once and prints the result, from exec to exit, median of 51 runs
- memory: the same program's resident memory at its end, beside the plan's packed weights
- build: `tendon build` at --optimization-level 0 for each network of the zoo, wall time, best of three
"""
import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def stripped_size(path, folder):
    copy = pathlib.Path(folder) / "stripped.so"
    shutil.copy(path, copy)
    subprocess.run(["strip", copy], check=True)
    return copy.stat().st_size


def start(folder, *command):
    """Median wall seconds from exec to exit of many runs, and the peak of resident bytes."""
    line = [folder / "bench" / "start", *command]
    seconds, peak = subprocess.run(line, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), int(peak)


def build(tendon, model, plan):
    command = [tendon, "build", str(model), "-o", str(plan), "--optimization-level", "0"]
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - begin)
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return min(times), int(re.search(r"Weights .*\((\d+) bytes\)", text)[1])


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--build", default="build")
    options.add_argument("--zoo", help="a folder that tools/zoo.py wrote; default: write one")
    options.add_argument("--json", help="write the figures here, too")
    args = options.parse_args()
    folder, out = (ROOT / args.build).resolve(), {}
    tendon, example = str(folder / "tendon"), str(folder / "examples" / "minimal")
    with tempfile.TemporaryDirectory() as scratch:
        out["library_bytes"] = stripped_size(folder / "libtendon.so", scratch)
        plan = pathlib.Path(scratch) / "emg.plan"
        _, weights = build(tendon, ROOT / "examples/emg/emg_tcn.onnx", plan)
        seconds, peak = start(folder, example, str(plan))
        out["start_ms"] = seconds * 1e3
        out["start_resident_bytes"], out["start_weights_bytes"] = peak, weights
        print(f"libtendon, stripped                  {out['library_bytes'] / 1e6:9.2f} MB")
        print(f"exec to first result, EMG plan       {out['start_ms']:9.2f} ms")
        print(f"resident memory, EMG plan            {out['start_resident_bytes'] / 1e6:9.2f} MB"
              f"  (packed weights {weights / 1e6:.2f} MB)")
        zoo = pathlib.Path(args.zoo or scratch)
        if not args.zoo:
            subprocess.run([sys.executable, ROOT / "tools/zoo.py", "--out", zoo], check=True, capture_output=True)
        out["build_s"] = {}
        for model in sorted(zoo.glob("*.onnx")):
            seconds, size = build(tendon, model, pathlib.Path(scratch) / "zoo.plan")
            out["build_s"][model.stem] = seconds
            print(f"build {model.stem:20s}           {seconds:9.3f} s   (weights {size / 1e6:.1f} MB)")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
