# SPDX-License-Identifier: Apache-2.0
"""Measures Tendon and its peers side by side: latency, error, build, load and memory, on the zoo, EMG and other models.

usage: python bench/peers.py [--models snn,tcn | MODEL.onnx...] [--threads 1,2] [--quick] ...   (`make bench-peers`)

Each engine runs each model in a process of its own that is stopped (SIGSTOP) while another is measured, so that no
engine's threads disturb another's. Engines take turns, a round each, so that drift of the machine hits all alike.
"""
import argparse
import json
import math
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import peers_int8
import peers_report as report
from peers_engines import ENGINES, FALLBACKS, RESTRICTIONS
from peers_models import OTHERS, ROOT, SPIKING, TEN, Model, find_models, say, write_one_operator


# ---- Workers


class Failed(Exception):
    pass


class Worker:
    """
    A process that runs one engine on one model; stopped but for the time of a command. It has a group of its own, so
    that what it starts is stopped and ended with it, and an interrupt is for the driver alone.
    """

    def __init__(self, engine, model, threads, args, fallback=None):
        task = {
            "engine": engine, "model": str(model.path), "inputs": str(model.inputs), "names": model.names,
            "symbols": model.symbols, "threads": threads, "level": args.level,
            "reference": model.reference and str(model.reference), "tendon_options": args.tendon_options,
            "fallback": fallback or {}, "built": str(model.folder / f"{model.name}.{engine}.{threads}"),
            "precision": args.precision, "folder": args.build,
            "samples": str(model.samples), "quantized": model.quantized and str(model.quantized),
        }  # fmt: skip
        extra = RESTRICTIONS.get(engine, {}) if args.level else {}
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("peers_engines.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True, env=os.environ | extra,
            start_new_session=True,
        )  # fmt: skip
        try:
            self.ask(task)
        except BaseException:
            self.end()
            raise

    def ask(self, command):
        os.killpg(self.process.pid, signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        while self.alive() and not select.select([self.process.stdout], [], [], 1)[0]:
            pass
        line = self.process.stdout.readline() if self.alive() else ""
        if not line:
            self.log.seek(0)
            words = self.log.read().decode(errors="replace").strip().splitlines()
            raise Failed(f"the process ended: {words[-1] if words else self.reason()}")
        os.killpg(self.process.pid, signal.SIGSTOP)
        reply = json.loads(line)
        if "failed" in reply:
            raise Failed(" ".join(reply["failed"].split())[:200])
        return reply

    def alive(self):
        """Leaves a process that ended as it is, so that its number is not another's before end()."""
        found = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return found is None

    def reason(self):
        found = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        signalled = found.si_code != os.CLD_EXITED
        return signal.strsignal(found.si_status) if signalled else f"exit code {found.si_status}"

    def do(self, what, **values):
        return self.ask({"do": what, **values})

    def cpu_ticks(self):
        return process_ticks(self.process.pid)

    def end(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


def process_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def machine_ticks():
    """Busy ticks of all cores: all but idle and waiting, time stolen by other guests included."""
    values = [int(v) for v in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(values) - values[3] - values[4]


class Quiet:
    """Keeps watch that nothing but the worker whose turn it is has the cores."""

    def __init__(self):
        self.stopped = self.others = self.total = 0

    def turn(self, worker, workers, act):
        def ticks(which):
            return sum(w.cpu_ticks() for w in which)

        idle = [w for w in workers if w is not worker]
        start, stopped, own, busy = time.monotonic(), ticks(idle), worker.cpu_ticks(), machine_ticks()
        reply = act()
        own, busy, stopped = worker.cpu_ticks() - own, machine_ticks() - busy, ticks(idle) - stopped
        self.stopped += stopped
        self.others += max(0, busy - own - stopped)
        self.total += (time.monotonic() - start) * os.sysconf("SC_CLK_TCK") * os.cpu_count()
        return reply

    def shares(self):
        """Of the machine's time while something was measured: what stopped workers took, and all else."""
        total = max(self.total, 1)
        return {"stopped_cpu": self.stopped / total, "others_cpu": self.others / total}


# ---- Measuring


def prepare(engine, model, threads, args, cell, fallback):
    """Build time, then load time and memory, of what was built, each in a process of its own."""
    worker = Worker(engine, model, threads, args, fallback)
    try:
        cell["build_s"] = worker.do("build")["seconds"]
    finally:
        worker.end()
    worker = Worker(engine, model, threads, args, fallback)
    try:
        reply = worker.do("load", built=True)
        cell.update(load_s=reply["seconds"], resident=reply["resident"], peak=reply["peak"])
    finally:
        worker.end()


def open_worker(engine, model, threads, args, cell, fallback=None):
    """A loaded worker, and in the cell what building and loading took."""
    try:
        prepare(engine, model, threads, args, cell, fallback)
    except Failed as failure:  # a peer that cannot keep what it built may still run
        if engine == "tendon":
            raise
        cell["not_kept"] = str(failure)
    worker = Worker(engine, model, threads, args, fallback)
    try:
        reply = worker.do("load", built=False)
    except BaseException:
        worker.end()
        raise
    cell.update({k: reply[k] for k in ("error", "tolerance", "rms", "version") if k in reply})
    return worker


def open_cells(model, threads, args):
    """A cell and a loaded, stopped worker for each engine; a cell alone where that fails."""
    cells, workers = [], {}
    for engine in args.engines:
        cell = {"model": model.name, "threads": threads, "engine": engine}
        cells.append(cell)
        say(f"{model.name}, threads: {threads}: {engine} builds and loads")
        for fallback in [None, *([FALLBACKS[engine]] if engine in FALLBACKS else [])]:
            took = {}
            try:
                workers[engine] = open_worker(engine, model, threads, args, took, fallback)
            except Failed as failure:
                cell.setdefault("failed", str(failure))
                say(f"    {engine}: {failure}")
                continue
            cell.update(took)
            if fallback:
                cell["fallback"] = f"{cell.pop('failed')}; ran with {' '.join(map('='.join, fallback.items()))}"
            break
    return cells, workers


def take_rounds(workers, args, quiet):
    """Nanoseconds of calls by engine and round, engines taking turns, each round in another order; what failed."""
    times, failed = {engine: [] for engine in workers}, {}
    order, calls = list(workers), math.ceil(args.calls / args.rounds)
    for _ in range(args.rounds):
        for engine in [e for e in order if e not in failed]:
            act = partial(workers[engine].do, "measure", seconds=args.seconds, calls=calls)
            try:
                times[engine].append(quiet.turn(workers[engine], workers.values(), act)["ns"])
            except Failed as failure:
                failed[engine] = str(failure)
                say(f"    {engine}: {failure}")
        order = order[1:] + order[:1]
    return times, failed


def take_paced(cells, workers, args, quiet):
    for cell in cells:
        if "p50" not in cell or cell["p50"] > 0.8 / args.paced:
            continue
        worker, seconds = workers[cell["engine"]], max(2, args.rounds * args.seconds)
        reply = quiet.turn(worker, workers.values(), partial(worker.do, "pace", seconds=seconds, hz=args.paced))
        p50 = report.percentile(sorted(reply["ns"]), 50) * 1e-9
        cell["paced"] = {"p50": p50, "relative": p50 / cell["p50"], "cpu": reply["cpu"]}


def measure(model, threads, args, quiet):
    cells, workers = open_cells(model, threads, args)
    try:
        if not workers:
            return cells
        times, failed = take_rounds(workers, args, quiet)
        for cell in cells:
            if cell["engine"] in failed:
                cell["failed"] = failed[cell["engine"]]
            elif cell["engine"] in times:
                cell.update(report.summary(times[cell["engine"]]))
        if args.paced:
            take_paced(cells, workers, args, quiet)
    finally:
        for worker in workers.values():
            worker.end()
    return cells


def measure_machine(args):
    """Peaks of this machine, as build/bench/bench_machine prints them."""
    program = Path(args.build) / "bench" / "bench_machine"
    if not program.exists():
        say(f"no {program}: peaks and shares are left out")
        return {}
    say("the machine: peak of arithmetic, read bandwidth")
    command = [program, *map(str, args.thread_counts)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def measure_overhead(args, folder, quiet):
    """What a call takes by engine and number of threads: the median on a model of one operator."""
    path, overhead = folder / "one.onnx", {}
    write_one_operator(path)
    model = Model("one", path, None, folder)
    engines = [e for e in args.engines if not e.endswith(report.INT8)]  # a call is as long in either precision
    plain = argparse.Namespace(**vars(args) | {"precision": "fp32", "engines": engines})
    for threads in args.thread_counts:
        for cell in measure(model, threads, plain, quiet):
            if "p50" in cell:
                overhead.setdefault(cell["engine"], {})[str(threads)] = cell["p50"]
    return overhead


def measure_models(args, folder, quiet, result):
    """Adds to the result; what is there when this ends or is interrupted is whole."""
    for model in find_models(args, folder):
        model.refer(Path(args.zoo) / "reference")
        if args.precision == "int8":
            peers_int8.quantize(model, Path(args.zoo) / "int8")
        kind = "spiking" if model.name in SPIKING else "zoo" if model.name in TEN else "other"
        result["models"][model.name] = {"flops": model.flops, "bytes": model.bytes, "kind": kind}
        for threads in args.thread_counts:
            result["cells"] += measure(model, threads, args, quiet)
            result["quiet"] = quiet.shares()
            write(args, report.complete(result))


def session(args):
    result = {
        "date": time.strftime("%Y-%m-%d %H:%M"), "cpu": cpu_name(), "cores": os.cpu_count(), "level": args.level,
        "engines": args.engines, "rounds": args.rounds, "seconds": args.seconds, "paced": args.paced,
        "tendon_options": args.tendon_options, "precision": args.precision, "models": {}, "cells": [],
        "machine": measure_machine(args),
    }  # fmt: skip
    quiet, begin = Quiet(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="peers-") as scratch:
        result["overhead"] = measure_overhead(args, Path(scratch), quiet)
        try:
            measure_models(args, Path(scratch), quiet, result)
        except KeyboardInterrupt:
            say("interrupted: this is what there is")
    result["took_s"] = time.monotonic() - begin
    return result


def tendon_option(text):
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("NAME=VALUE")
    try:
        return name.replace("-", "_"), json.loads(value)
    except ValueError:
        return name.replace("-", "_"), value


def parse(arguments):
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("files", nargs="*", metavar="MODEL.onnx", help="measure these (alone, but for --models)")
    p.add_argument("--models", metavar="NAME,...", help=f"of {', '.join((*TEN, *OTHERS))}; stgcn: all three (all)")
    p.add_argument("--inputs", metavar="FILE.npz", help="of the files named (seeded normal values)")
    p.add_argument("--threads", default="1,2", help="(1,2)")
    p.add_argument("--peers", help=f"of {', '.join(list(ENGINES)[1:])} (both; with int8 in both precisions)")
    p.add_argument("--precision", choices=["fp32", "int8"], default="fp32", help="of Tendon; peers: the better one")
    p.add_argument("--rounds", type=int, help="turns of each engine (20)")
    p.add_argument("--seconds", type=float, help="of a turn (0.1)")
    p.add_argument("--calls", type=int, help="at least so many a model and engine (20)")
    p.add_argument("--quick", action="store_true", help="3 rounds of 0.1 s, at least 3 calls: a rough look")
    p.add_argument("--level", choices=["avx2"], help="restrict Tendon, and peers as far as they can be")
    p.add_argument("--paced", type=float, metavar="HZ", help="calls at this rate, too, where they fit in it")
    p.add_argument("--tendon-option", type=tendon_option, action="append", default=[], metavar="NAME=VALUE",
                   help="of tendon.build, e.g. optimization_level=5; repeatable")  # fmt: skip
    p.add_argument("--build", default=str(ROOT / "build"), help="folder of Tendon's libraries (build)")
    p.add_argument("--zoo", default=str(ROOT / "build" / "zoo"), help="of the zoo's models, written where missing")
    p.add_argument("--json", metavar="FILE", help="write the figures for tools")
    p.add_argument("--html", metavar="FILE", help="write a page with plots")
    p.add_argument("--from", dest="read", nargs="+", metavar="FILE.json",
                   help="measure nothing: show what was measured; of several sessions the worst ratios")  # fmt: skip
    args = p.parse_args(arguments)
    args.thread_counts = [int(n) for n in args.threads.split(",")]
    both = "onnxruntime,openvino" + (",onnxruntime-int8,openvino-int8" if args.precision == "int8" else "")
    args.engines = ["tendon", *(n for n in (both if args.peers is None else args.peers).split(",") if n)]
    if unknown := [n for n in args.engines if n not in ENGINES]:
        p.error(f"no engine {', '.join(unknown)}; there are {', '.join(ENGINES)}")
    args.tendon_options = dict(args.tendon_option)
    defaults = {"rounds": 3, "seconds": 0.1, "calls": 3} if args.quick else {"rounds": 20, "seconds": 0.1, "calls": 20}
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def write(args, result):
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")
    if args.html:
        import peers_html

        Path(args.html).write_text(peers_html.page(result))


def main(arguments=None):
    args = parse(arguments)
    if args.read:
        result = report.worst([json.loads(Path(f).read_text()) for f in args.read])
        write(args, result)
    else:
        os.environ["TENDON_LIBRARY_PATH"] = str(Path(args.build).resolve())
        if not (Path(args.build) / "libtendon.so").exists():
            raise SystemExit(f"peers: no libtendon.so in {args.build}: run make, or name the folder by --build")
        os.environ["PYTHONPATH"] = str(ROOT / "python")
        sys.path.insert(0, str(ROOT / "python"))
        result = session(args)
        write(args, report.complete(result))
    print(report.markdown(result))


if __name__ == "__main__":
    main()
