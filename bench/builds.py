# SPDX-License-Identifier: Apache-2.0
"""What time and bytes spent at build buy: plans of the same network, built in several ways, measured in turns.

usage: python bench/builds.py [--models tcn,policy] [--threads 2] [--rounds 9] [--json FILE]   (`make bench-builds`)

Each network of the zoo is built at each setting below; then the plans run in turns, in rotating order, half a second
each. A figure is the median of a turn's p50 by that of the same turn of level 5, so drift of the machine meets all.
"""
import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = {
    "level 5": ["--optimization-level=5"],
    "10 s": ["--optimization-level=5", "--build-budget=10"],
    "level 3": [],
    "level 0": ["--optimization-level=0"],
    "weights x4": ["--optimization-level=5", "--max-weights=4"],
    "weights x1": ["--optimization-level=5", "--max-weights=1"],
}


def build(tendon, model, plan, options):
    begin = time.perf_counter()
    done = subprocess.run([tendon, "build", model, "-o", plan, *options], check=True, capture_output=True, text=True)
    return time.perf_counter() - begin, int(re.search(r"Weights .*\((\d+) bytes\)", done.stdout)[1])


def p50(tendon, plan, inputs, threads):
    command = [tendon, "bench", plan, "--inputs", inputs, "--threads", threads, "--duration", "0.5", "--warmup", "50"]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return float(re.search(r"median = ([\d.]+) ms", done.stdout)[1])


def measure(tendon, model, threads, rounds, folder):
    plans, found = {}, {}
    for name, options in SETTINGS.items():
        plans[name] = Path(folder) / f"{name.replace(' ', '-')}.plan"
        seconds, weights = build(tendon, model, plans[name], [*options, f"--threads={threads}"])
        found[name] = {"build_s": seconds, "weights_bytes": weights, "p50_ms": []}
    order = list(SETTINGS)
    for turn in range(rounds):
        for name in order[turn % len(order) :] + order[: turn % len(order)]:
            found[name]["p50_ms"].append(p50(tendon, plans[name], model.with_suffix(".npz"), threads))
    for values in found.values():
        values["by_level_5"] = statistics.median(a / b for a, b in zip(values["p50_ms"], found["level 5"]["p50_ms"]))
    return found


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--build", default="build")
    options.add_argument("--zoo", help="a folder that tools/zoo.py wrote; default: write one")
    options.add_argument("--models", help="of the zoo, separated by commas; default: all")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--json", help="write the figures here, too")
    args = options.parse_args()
    tendon, out = str((ROOT / args.build).resolve() / "tendon"), {}
    with tempfile.TemporaryDirectory() as scratch:
        zoo = Path(args.zoo or scratch)
        if not args.zoo:
            subprocess.run([sys.executable, ROOT / "tools/zoo.py", "--out", zoo], check=True, capture_output=True)
        models = [zoo / f"{name}.onnx" for name in args.models.split(",")] if args.models else sorted(zoo.glob("*.onnx"))
        print("p50 by that of level 5; in brackets build, s, and weights, MB\n")
        print("| network |", " | ".join(SETTINGS), "|\n| --- |", " | ".join("---:" for _ in SETTINGS), "|")
        for model in models:
            out[model.stem] = found = measure(tendon, model, args.threads, args.rounds, scratch)
            cells = [f"{v['by_level_5']:.2f} ({v['build_s']:.1f}, {v['weights_bytes'] / 1e6:.1f})" for v in found.values()]
            print("|", " | ".join([model.stem, *cells]), "|", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
