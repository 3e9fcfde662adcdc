# SPDX-License-Identifier: Apache-2.0
"""The engines that bench/peers.py measures, and the worker process in which one of them runs one model.

Every engine gets the best settings for latency that its documentation names, and is called in the same way: inputs and
outputs lie in host memory that is bound once, and a call is one synchronous run on them.

A worker reads commands as JSON, one a line, on standard input and answers on what was its standard output; engines may
print to what they take for it without harm. The first line is the worker's task: see Worker in bench/peers.py.
"""
import ctypes
import gc
import io
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import peers_int8

AVX2 = "avx2"
# What restricts an engine to AVX2: environment variables.
RESTRICTIONS = {"openvino": {"ONEDNN_MAX_CPU_ISA": "AVX2", "OV_CPU_MAX_ISA": "AVX2"}}
# Settings to try where an engine fails with the best ones: openvino 2026.4 crashes in the search for subgraphs to
# compile ("snippets") on some deep networks, with one thread.
FALLBACKS = {"openvino": {"SNIPPETS_MODE": "DISABLE"}}


class Tendon:
    """Plans of its Python module. A call is the C function that session.run ends in, on the arrays that it bound."""

    def __init__(self, task):
        import tendon

        self.tendon, self.task, self.version = tendon, task, tendon.__version__
        self.target = "x86-64-v3" if task["level"] == AVX2 else None

    def build(self):
        if self.task["precision"] == "int8":
            peers_int8.build_tendon(self.task)
            return
        shapes = {name: x.shape for name, x in self.task["feeds"].items()}
        targets = [self.target] if self.target else None
        options = dict(self.task["tendon_options"])
        self.tendon.build(self.task["model"], self.task["built"], shapes=shapes, targets=targets,
                          threads=self.task["threads"], **options)  # fmt: skip

    def load(self, built):
        """A plan is all that Tendon runs: there is no other way in."""
        from tendon import _c

        feeds, options = self.task["feeds"], {"max_target": self.target, "threads": self.task["threads"]}
        self.session = self.tendon.InferenceSession(self.task["built"], **options)
        outputs = self.session.run(None, feeds)
        self.ready = time.perf_counter()
        self.outputs = {o.name: np.zeros_like(a) for o, a in zip(self.session.get_outputs(), outputs)}
        self.session.run(None, feeds, out=self.outputs)
        context = self.session._of_thread.last
        context.check(_c.runtime.tdn_context_run(context))
        self.call = partial(_c.runtime.tdn_context_run, context)
        self.warm = self.session.warm

    def results(self):
        return list(self.outputs.values())

    def clear(self):
        for y in self.outputs.values():
            y.fill(0)


class OnnxRuntime:
    """All graph optimisations, one operator at a time, workers that spin between operators, values bound."""

    spin = "1"

    def __init__(self, task):
        import onnxruntime

        self.ort, self.task, self.version = onnxruntime, task, onnxruntime.__version__
        onnxruntime.set_default_logger_severity(3)

    def options(self, level):
        o = self.ort.SessionOptions()
        o.graph_optimization_level = level
        o.intra_op_num_threads = self.task["threads"]
        o.inter_op_num_threads = 1
        o.execution_mode = self.ort.ExecutionMode.ORT_SEQUENTIAL
        o.add_session_config_entry("session.intra_op.allow_spinning", self.spin)
        for symbol, extent in self.task["symbols"].items():
            o.add_free_dimension_override_by_name(symbol, extent)
        return o

    def build(self):
        options = self.options(self.ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
        options.optimized_model_filepath = self.task["built"]
        self.ort.InferenceSession(self.task["model"], options, providers=["CPUExecutionProvider"])

    def load(self, built):
        levels = self.ort.GraphOptimizationLevel
        options = self.options(levels.ORT_DISABLE_ALL if built else levels.ORT_ENABLE_ALL)
        session = self.ort.InferenceSession(
            self.task["built" if built else "model"], options, providers=["CPUExecutionProvider"]
        )
        binding = session.io_binding()
        self.inputs = {name: self.ort.OrtValue.ortvalue_from_numpy(x) for name, x in self.task["feeds"].items()}
        for name, value in self.inputs.items():
            binding.bind_ortvalue_input(name, value)
        names = [o.name for o in session.get_outputs()]
        first = session.run(names, self.task["feeds"])
        self.ready = time.perf_counter()
        self.outputs = [self.ort.OrtValue.ortvalue_from_numpy(np.zeros_like(y)) for y in first]
        for name, value in zip(names, self.outputs):
            binding.bind_ortvalue_output(name, value)
        self.call = partial(session.run_with_iobinding, binding)
        self.call()

    def results(self):
        return [value.numpy() for value in self.outputs]

    def clear(self):
        for value in self.outputs:
            value.update_inplace(np.zeros_like(value.numpy()))


class OnnxRuntimeInt8(OnnxRuntime):
    """The same, on the model that its quantiser made."""

    def __init__(self, task):
        super().__init__(quantized(task))


class OnnxRuntimeNoSpin(OnnxRuntime):
    """The same, but workers sleep as soon as there is nothing to do: for calls that are paced."""

    spin = "0"


class OpenVino:
    """The latency hint, one stream, float32, fixed shapes, tensors bound."""

    def __init__(self, task):
        # Its telemetry forks a process that waits for the network, with our pipes open. Without it a stub is used.
        sys.modules["openvino_telemetry"] = None
        import openvino

        self.ov, self.task, self.version = openvino, task, openvino.__version__.split("-")[0]
        self.core = openvino.Core()
        self.config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(task["threads"]),
            "INFERENCE_PRECISION_HINT": "f32",
        } | task["fallback"]

    def compile(self):
        model = self.core.read_model(self.task["model"])
        if self.task["symbols"]:
            model.reshape({name: list(x.shape) for name, x in self.task["feeds"].items()})
        return self.core.compile_model(model, "CPU", self.config)

    def build(self):
        Path(self.task["built"]).write_bytes(self.compile().export_model().getbuffer())

    def load(self, built):
        if built:
            with open(self.task["built"], "rb") as file:
                compiled = self.core.import_model(io.BytesIO(file.read()), "CPU", self.config)
        else:
            compiled = self.compile()
        request = compiled.create_infer_request()
        for name, x in self.task["feeds"].items():
            request.set_tensor(name, self.ov.Tensor(x, shared_memory=True))
        request.infer(share_outputs=True)
        self.ready = time.perf_counter()
        self.outputs = [np.zeros_like(request.get_tensor(port).data) for port in compiled.outputs]
        for port, y in zip(compiled.outputs, self.outputs):
            request.set_tensor(port, self.ov.Tensor(y, shared_memory=True))
        self.call = partial(request.infer, share_outputs=True)
        self.call()

    def results(self):
        return self.outputs

    def clear(self):
        for y in self.outputs:
            y.fill(0)


class OpenVinoInt8(OpenVino):
    """The same, on the model that onnxruntime's quantiser made, whose pairs it takes as its own."""

    def __init__(self, task):
        super().__init__(quantized(task))


def quantized(task):
    if not task["quantized"]:
        raise RuntimeError("onnxruntime's quantiser fails on the model")
    return task | {"model": task["quantized"]}


ENGINES = {
    "tendon": Tendon,
    "onnxruntime": OnnxRuntime,
    "onnxruntime-int8": OnnxRuntimeInt8,
    "onnxruntime-nospin": OnnxRuntimeNoSpin,
    "openvino": OpenVino,
    "openvino-int8": OpenVinoInt8,
}


# ---- In the worker


def resident():
    """Resident bytes of this process: now, and at most so far."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))


def difference(results, reference):
    """The largest difference, the largest share of the tolerance 1e-4 + 1e-4 |b| that one takes, and the root mean
    square of differences by that of what is right."""
    largest = share = 0.0
    errors = values = 0.0
    for a, b in zip(results, reference, strict=True):
        if a.shape != b.shape:
            return float("inf"), float("inf"), float("inf")
        a, b = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(invalid="ignore"):
            d = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
            d = np.where(np.isnan(d), np.inf, d)
            finite = np.where(np.isfinite(b), b, 0)
            errors, values = errors + float((d * d).sum()), values + float((finite * finite).sum())
            largest = max(largest, float(d.max(initial=0)))
            share = max(share, float((d / (1e-4 + 1e-4 * np.abs(finite))).max(initial=0)))
    rms = (errors / values) ** 0.5 if values else float("inf") if errors else 0.0
    return largest, share, rms


def measure(call, seconds, calls):
    """Nanoseconds of each of at least so many calls back to back for so long, after some that do not count."""
    clock, ns = time.perf_counter_ns, []
    end = clock() + int(seconds * 1e8)
    call()
    while clock() < end:
        call()
    end = clock() + int(seconds * 1e9)
    while True:
        before = clock()
        call()
        after = clock()
        ns.append(after - before)
        if after >= end and len(ns) >= calls:
            return ns


def pace(call, seconds, hz, warm=None):
    """
    The same for calls that start at a fixed rate; the process's CPU time, as a share of one core. An engine that can
    be told of a call shortly before it is due is told so early that it can be ready.
    """
    clock, ns, period, lead = time.perf_counter_ns, [], int(1e9 / hz), 0
    call()
    begin, cpu = clock(), time.process_time_ns()
    for i in range(1, max(2, int(seconds * hz)) + 1):
        due = begin + i * period
        rest = due - clock() - lead
        if rest > 0:
            time.sleep(rest * 1e-9)
        if warm:
            before = clock()
            warm()
            lead = min((clock() - before) * 5 // 4 + 100000, period // 4)
            while clock() < due:
                pass
        before = clock()
        call()
        ns.append(clock() - before)
    return {"ns": ns, "cpu": (time.process_time_ns() - cpu) / (clock() - begin)}


class Session:
    """What the commands of one worker do."""

    def __init__(self, task):
        self.task = task
        with np.load(task["inputs"]) as file:
            task["feeds"] = {name: np.ascontiguousarray(file[name]) for name in task["names"]}
        self.base = resident()[0]
        self.engine = ENGINES[task["engine"]](task)

    def build(self):
        start = time.perf_counter()
        self.engine.build()
        return {"seconds": time.perf_counter() - start}

    def load(self, built):
        start = time.perf_counter()
        self.engine.load(built)
        now, peak = resident()
        reply = {"seconds": self.engine.ready - start, "resident": now - self.base, "peak": peak - self.base}
        self.first = self.compute()
        if self.task["reference"]:
            with np.load(self.task["reference"]) as file:
                reference = [file[f"out{i}"] for i in range(len(file.files))]
            reply["error"], reply["tolerance"], reply["rms"] = difference(self.first, reference)
        return reply | {"version": self.engine.version}

    def compute(self):
        """What one of the calls that are timed writes where there was nothing."""
        self.engine.clear()
        self.engine.call()
        return [y.copy() for y in self.engine.results()]

    def measure(self, seconds, calls):
        ns = measure(self.engine.call, seconds, calls)
        if difference(self.compute(), self.first)[1] > 1:
            raise RuntimeError("the calls that were timed do not give the results of the first")
        return {"ns": ns}

    def pace(self, seconds, hz):
        return pace(self.engine.call, seconds, hz, getattr(self.engine, "warm", None))


def main():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a stopped worker would outlive its driver
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    gc.disable()
    session = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            if session is None:
                session, reply = Session(command), {}
            else:
                reply = getattr(session, command.pop("do"))(**command)
        except Exception as error:
            reply = {"failed": f"{type(error).__name__}: {error}"}
        out.write(json.dumps(reply) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
