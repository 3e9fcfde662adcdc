# SPDX-License-Identifier: Apache-2.0
"""tendon trtexec: flags, log and JSON files, read as scripts around NVIDIA's trtexec read them.

Numbers of the log are recomputed from the exported files, outputs are onnxruntime's, and layers must be connected, so
that a log of the right form alone does not pass.
"""

import json
import math
import os
import re
import signal
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.small

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
QUICK = ["--warmUp=0", "--duration=0"]

# What scripts look for.
LINE = re.compile(r"^\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[([VIWE])\] ?(.*)$")
MARK = re.compile(r"^&&&& (RUNNING|PASSED|FAILED) TensorRT\.trtexec \[.*\] # (.*)$")
NUMBER = r"([-+.\deE]+)"
STATISTICS = re.compile(
    rf"min = {NUMBER} ms, max = {NUMBER} ms, mean = {NUMBER} ms, median = {NUMBER} ms"
    r"((?:, percentile\(.*?%\) = .*? ms)*)$"
)
PERCENTILE = re.compile(rf"percentile\({NUMBER}%\) = {NUMBER} ms")
TRACE = re.compile(
    rf"Average on (\d+) runs - GPU latency: {NUMBER} ms - Host latency: {NUMBER} ms \(enqueue {NUMBER} ms\)"
)
TIMES = ["Latency", "Enqueue Time", "H2D Latency", "GPU Compute Time", "D2H Latency"]


class Log:
    """One run: its marks, the lines of each severity, and the summary block."""

    def __init__(self, run):
        self.code, self.text = run.returncode, run.stdout + run.stderr
        lines = run.stdout.splitlines()
        marks = [MARK.match(line) for line in (lines[0], lines[-1])]
        assert all(marks) and marks[0][1] == "RUNNING", self.text
        self.result = marks[1][1]
        assert self.result == ("FAILED" if run.returncode else "PASSED") and run.returncode in (0, 1), self.text
        matches = [LINE.match(line) for line in lines[1:-1]]
        assert all(matches), self.text
        assert {m[1] for m in matches} <= {"I", "V"}
        self.lines = [m[2] for m in matches]
        errors = [LINE.match(line) for line in run.stderr.splitlines()]
        assert all(errors) and {m[1] for m in errors} <= {"W", "E"}, run.stderr
        self.errors = [m[2] for m in errors if m[1] == "E"]
        self.warnings = [m[2] for m in errors if m[1] == "W"]

    def field(self, title):
        found = [line[len(title) + 2 :] for line in self.lines if line.startswith(title + ": ")]
        assert len(found) == 1, (title, self.text)
        return found[0]

    def statistics(self, title):
        match = STATISTICS.match(self.field(title))
        assert match, self.field(title)
        names = ["min", "max", "mean", "median"]
        return dict(zip(names, map(float, match.groups()))), {
            float(p): float(ms) for p, ms in PERCENTILE.findall(match[5])
        }

    def block(self, title):
        """The lines behind "=== title ===", up to the next title."""
        at = self.lines.index(f"=== {title} ===") + 1
        end = next((i for i in range(at, len(self.lines)) if self.lines[i].startswith("=== ")), len(self.lines))
        return self.lines[at:end]


def trtexec(*args, code=0, command=(TENDON, "trtexec"), **options):
    line = [*map(str, command), *map(str, args)]
    log = Log(subprocess.run(line, capture_output=True, text=True, timeout=120, **options))
    assert log.code == code, log.text
    return log


def value(name, dtype, shape):
    return helper.make_tensor_value_info(name, dtype, shape)


def save(path, nodes, inputs, outputs, weights=()):
    weights = [numpy_helper.from_array(array, name) for name, array in dict(weights).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """emg: a window of 16 channels, batch free. joints: 1x3x150x33x5. mixed: two inputs, four outputs of three types.
    parts: two convolutions, concatenated. odd: an operator that nobody knows."""
    folder = tmp_path_factory.mktemp("trtexec")
    emg = [
        helper.make_node("Transpose", ["emg"], ["t"], name="channels first", perm=[0, 2, 1]),
        helper.make_node("Conv", ["t", "w"], ["c"], name='conv "one"', pads=[1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "v", "b"], ["logits"], name="head"),
    ]
    weights = {"w": normal(8, 16, 3, seed=1), "v": normal(8, 7, seed=2), "b": normal(7, seed=3)}
    save(
        folder / "emg.onnx",
        emg,
        [value("emg", F32, ["batch", 200, 16])],
        [value("logits", F32, ["batch", 7])],
        weights,
    )
    joints = [
        helper.make_node("ReduceMean", ["input"], ["m"], name="mean", axes=[2, 4], keepdims=0),
        helper.make_node("Softmax", ["m"], ["out"], name="softmax"),
    ]
    save(folder / "joints.onnx", joints, [value("input", F32, [1, 3, 150, 33, 5])], [value("out", F32, [1, 3, 33])])
    mixed = [
        helper.make_node("Add", ["x:0", "y"], ["sum"], name="add"),
        helper.make_node("ReduceSum", ["sum"], ["total"], name="total", keepdims=0),
        helper.make_node("ArgMax", ["sum"], ["best"], name="best", axis=1),
        helper.make_node("Greater", ["x:0", "y"], ["more"], name="more"),
    ]
    save(
        folder / "mixed.onnx",
        mixed,
        [value("x:0", F32, [2, 3]), value("y", F32, [2, 3])],
        [value("sum", F32, [2, 3]), value("total", F32, []), value("best", I64, [2, 1]), value("more", BOOL, [2, 3])],
    )
    parts = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="a", pads=[1, 1]),
        helper.make_node("Conv", ["x", "u"], ["b"], name="b"),
        helper.make_node("Concat", ["a", "b"], ["ab"], name="both", axis=1),
        helper.make_node("Conv", ["ab", "v"], ["y"], name="join"),
    ]
    weights = {"w": normal(8, 4, 3), "u": normal(16, 4, 1), "v": normal(2, 24, 1)}
    save(folder / "parts.onnx", parts, [value("x", F32, [1, 4, 30])], [value("y", F32, [1, 2, 30])], weights)
    wild = helper.make_node("Wild", ["x"], ["y"], name="n1", domain="acme")
    save(folder / "odd.onnx", [wild], [value("x", F32, [1, 3])], [value("y", F32, [1, 3])])
    return folder


@pytest.fixture(scope="module")
def plan(models):
    trtexec(f"--onnx={models}/emg.onnx", f"--saveEngine={models}/emg.plan", "--skipInference")
    return models / "emg.plan"


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


# ---- Commands as users have them -------------------------------------------------------------------------------------


def test_a_building_command(models, tmp_path):
    log = trtexec(
        f"--onnx={models}/emg.onnx",
        f"--saveEngine={tmp_path}/m.plan",
        "--memPoolSize=workspace:4096",
        "--minShapes=emg:1x200x16",
        "--optShapes=emg:2x200x16",
        "--maxShapes=emg:4x200x16",
        "--useCudaGraph",
        f"--timingCacheFile={tmp_path}/t.cache",
        *QUICK,
    )
    built = next(line for line in log.lines if line.startswith("Engine built in "))
    assert float(re.match(rf"Engine built in {NUMBER} sec\.$", built)[1]) > 0
    assert sum("--useCudaGraph" in line for line in log.lines) == 1
    assert "Input binding for emg with dimensions 2x200x16 is created." in log.lines  # the optimum runs
    for title in ["Model Options", "Build Options", "System Options", "Inference Options", "Reporting Options"]:
        assert len(log.block(title)) >= 1
    # The plan is the one that `tendon build` makes, and takes every batch of the range.
    shapes = [f"--{m}-shapes=emg:{n}x200x16" for m, n in (("min", 1), ("opt", 2), ("max", 4))]
    line = [TENDON, "build", f"{models}/emg.onnx", "-o", f"{tmp_path}/same.plan", "--workspace=4", *shapes]
    line += [f"--timingCacheFile={tmp_path}/t.cache"]
    subprocess.run(line, check=True, capture_output=True)
    assert (tmp_path / "m.plan").read_bytes() == (tmp_path / "same.plan").read_bytes()
    for n in (1, 3, 4):
        trtexec(f"--loadEngine={tmp_path}/m.plan", f"--shapes=emg:{n}x200x16", *QUICK)
    log = trtexec(f"--loadEngine={tmp_path}/m.plan", "--shapes=emg:5x200x16", *QUICK, code=1)
    assert "1..4x200x16" in log.text


def test_a_measuring_command(models, tmp_path):
    trtexec(f"--onnx={models}/joints.onnx", f"--saveEngine={tmp_path}/j.plan", "--buildOnly")
    log = trtexec(
        f"--loadEngine={tmp_path}/j.plan",
        "--shapes=input:1x3x150x33x5",
        "--iterations=200",
        "--warmUp=500",
        "--avgRuns=50",
        "--profilingVerbosity=detailed",
        "--dumpLayerInfo",
        "--dumpProfile",
        "--separateProfileRun",
        "--useCudaGraph",
        "--useSpinWait",
        "--duration=1",
    )
    warm = re.match(rf"(\d+) queries over {NUMBER} ms", next(x for x in log.lines if "Warmup completed" in x)[17:])
    assert int(warm[1]) >= 1 and 500 <= float(warm[2]) < 5000
    trace = re.match(rf"Timing trace has (\d+) queries over {NUMBER} s$", next(x for x in log.lines if "Timing" in x))
    n, seconds = int(trace[1]), float(trace[2])
    assert n >= 200 and 1 <= seconds < 30
    averages = [TRACE.match(line) for line in log.lines if line.startswith("Average on")]
    assert all(averages) and {m[1] for m in averages} == {"50"}
    assert len(averages) == min(n // 50, 400)
    assert float(log.field("Throughput").split()[0]) == pytest.approx(n / seconds, rel=1e-4)
    layer = re.compile(r"Name: .*softmax.*, LayerType: SoftMax, Inputs: \[ .*\], Outputs: \[ out")
    assert any(map(layer.match, log.lines))
    assert any(x.startswith("=== Profile (") for x in log.lines)


def test_called_by_its_own_name(models, tmp_path):
    link = tmp_path / "trtexec"
    link.symlink_to(Path(TENDON).resolve())
    args = [f"--onnx={models}/emg.onnx", *QUICK]
    log = trtexec(*args, command=[link])
    assert MARK.match(log.text.splitlines()[0])[2] == " ".join([str(link), *args])
    assert log.field("Throughput").endswith(" qps")


# ---- Numbers ---------------------------------------------------------------------------------------------------------


def percentile(ascending, p):
    n = len(ascending)
    return ascending[max(n - 1 - int((1 - p / 100) * n), 0)]


def test_the_summary_is_that_of_the_exported_times(models, plan, tmp_path):
    log = trtexec(
        f"--loadEngine={plan}",
        "--iterations=137",
        "--avgRuns=25",
        "--percentile=50,90,99.5",
        f"--exportTimes={tmp_path}/t.json",
        *QUICK,
    )
    times = read(tmp_path / "t.json")
    assert len(times) == 137
    keys = ["startEnqMs", "endEnqMs", "startH2dMs", "endH2dMs", "startComputeMs", "endComputeMs", "startD2hMs"]
    keys += ["endD2hMs", "h2dMs", "computeMs", "d2hMs", "latencyMs"]
    assert all(list(row) == keys for row in times)
    for row, after in zip(times, [*times[1:], None]):
        assert row["latencyMs"] == pytest.approx(row["h2dMs"] + row["computeMs"] + row["d2hMs"], abs=1e-6)
        assert row["computeMs"] == pytest.approx(row["endComputeMs"] - row["startComputeMs"], abs=1e-5)
        assert row["endH2dMs"] <= row["startComputeMs"] < row["endComputeMs"] <= row["startD2hMs"] <= row["endD2hMs"]
        assert not after or row["endD2hMs"] <= after["startH2dMs"]
    latencies = [row["latencyMs"] for row in times]
    for title, key in zip(TIMES, ["latencyMs", "computeMs", "h2dMs", "computeMs", "d2hMs"]):
        ms = [row[key] for row in times]
        summary, percentiles = log.statistics(title)
        right = dict(min=min(ms), max=max(ms), mean=statistics.fmean(ms), median=statistics.median(ms))
        assert summary == pytest.approx(right, rel=1e-4, abs=1e-12), title
        ascending = sorted(ms)
        right = {p: percentile(ascending, p) for p in (50, 90, 99.5)}
        assert percentiles == pytest.approx(right, rel=1e-4, abs=1e-12), title
    assert min(latencies) > 0
    wall = float(log.field("Total Host Walltime").split()[0])
    assert wall >= sum(latencies) * 1e-3 * 0.999
    assert float(log.field("Throughput").split()[0]) == pytest.approx(137 / wall, rel=1e-4)
    assert float(log.field("Total GPU Compute Time").split()[0]) == pytest.approx(sum(latencies) * 1e-3, rel=1e-4)
    averages = [[float(x) for x in m.groups()] for m in map(TRACE.match, log.lines) if m]
    right = [[25] + [statistics.fmean(latencies[i : i + 25])] * 3 for i in range(0, 125, 25)]
    assert np.allclose(averages, right, rtol=1e-4)
    variance = statistics.pstdev(latencies) / statistics.fmean(latencies) * 100
    unstable = re.search(rf"GPU compute time is unstable, with coefficient of variance = {NUMBER}%\.", log.text)
    assert bool(unstable) == (variance > 2.5)
    assert not unstable or float(unstable[1]) == pytest.approx(variance, rel=1e-3)


def test_long_traces_keep_their_ends(plan, tmp_path):
    log = trtexec(f"--loadEngine={plan}", "--iterations=450", "--avgRuns=1", f"--exportTimes={tmp_path}/t.json", *QUICK)
    shown = [float(m[2]) for m in map(TRACE.match, log.lines) if m]
    latencies = [row["latencyMs"] for row in read(tmp_path / "t.json")]
    assert np.allclose(shown, latencies[:200] + latencies[250:], rtol=1e-4)
    assert "... Omitting 50 lines" in log.lines


def test_idle_and_sleep_times(plan, tmp_path):
    log = trtexec(
        f"--loadEngine={plan}",
        "--iterations=6",
        "--idleTime=20",
        "--useSpinWait",
        f"--exportTimes={tmp_path}/t.json",
        *QUICK,
    )
    times = read(tmp_path / "t.json")
    assert all(b["startComputeMs"] - a["endComputeMs"] >= 20 for a, b in zip(times, times[1:]))
    assert float(log.field("Total Host Walltime").split()[0]) >= 0.1
    log = trtexec(f"--loadEngine={plan}", "--iterations=0", "--avgRuns=0", *QUICK)
    assert any(line.startswith("Timing trace has 1 queries over ") for line in log.lines)
    begin = time.monotonic()
    trtexec(f"--loadEngine={plan}", "--iterations=1", "--sleepTime=1300", "--noSpinWait", *QUICK)
    assert time.monotonic() - begin >= 1.3


def test_until_it_is_interrupted(plan):
    process = subprocess.Popen(
        [TENDON, "trtexec", f"--loadEngine={plan}", "--duration=-1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    while not lines or "Starting inference" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], "it ended"
    time.sleep(1.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    log = Log(subprocess.CompletedProcess([], process.returncode, "".join(lines) + out, err))
    assert log.result == "PASSED" and float(log.field("Throughput").split()[0]) > 0
    assert any("interrupted" in line for line in log.warnings)


# ---- Values ----------------------------------------------------------------------------------------------------------


def raw(path, array):
    Path(path).write_bytes(np.ascontiguousarray(array).tobytes())
    return path


def test_loaded_inputs_give_the_right_outputs(models, tmp_path):
    x, y = normal(2, 3, seed=7), normal(2, 3, seed=8)
    x[0, 0] = np.nan
    log = trtexec(
        f"--onnx={models}/mixed.onnx",
        f"--loadInputs='x:0':{raw(tmp_path / 'x.bin', x)},y:{raw(tmp_path / 'y.bin', y)}",
        f"--exportOutput={tmp_path}/o.json",
        "--dumpOutput",
        "--iterations=3",
        *QUICK,
    )
    session = ort.InferenceSession(f"{models}/mixed.onnx")
    right = dict(zip([o.name for o in session.get_outputs()], session.run(None, {"x:0": x, "y": y})))
    outputs = read(tmp_path / "o.json")
    assert [(o["name"], o["dimensions"]) for o in outputs] == [
        ("sum", "2x3"),
        ("total", ""),
        ("best", "2x1"),
        ("more", "2x3"),
    ]
    for output in outputs:
        expected = right[output["name"]].ravel()
        assert len(output["values"]) == expected.size
        values = np.array([math.nan if v is None else v for v in output["values"]], dtype=np.float64)
        assert np.allclose(values, expected.astype(np.float64), rtol=1e-5, equal_nan=True), output["name"]
        at = log.lines.index(f"{output['name']}: ({output['dimensions'] or 'scalar'})")
        assert np.allclose([float(v) for v in log.lines[at + 1].split()], values, rtol=1e-5, equal_nan=True)
    assert all(isinstance(v, int) and not isinstance(v, bool) for o in outputs[2:] for v in o["values"])


def test_inputs_that_are_not_given_are_seeded(models, plan, tmp_path):
    y = raw(tmp_path / "y.bin", normal(2, 3))
    log = trtexec(f"--onnx={models}/mixed.onnx", f"--loadInputs=y:{y}", *QUICK)
    assert "Using random values for input x:0" in log.lines and "Using random values for input y" not in log.lines
    for k in (1, 2):
        trtexec(f"--loadEngine={plan}", f"--exportOutput={tmp_path}/{k}.json", *QUICK)
    assert read(tmp_path / "1.json") == read(tmp_path / "2.json")
    assert np.ptp(read(tmp_path / "1.json")[0]["values"]) > 0


# ---- Layers ----------------------------------------------------------------------------------------------------------


def test_profile_and_layer_information_agree(models, tmp_path):
    log = trtexec(
        f"--onnx={models}/emg.onnx",
        "--shapes=emg:2x200x16",
        "--iterations=40",
        "--profilingVerbosity=detailed",
        "--dumpProfile",
        "--dumpLayerInfo",
        f"--exportProfile={tmp_path}/p.json",
        f"--exportLayerInfo={tmp_path}/l.json",
        *QUICK,
    )
    count, *layers = read(tmp_path / "p.json")
    assert count == {"count": 40}
    assert all(list(layer) == ["name", "timeMs", "averageMs", "medianMs", "percentage"] for layer in layers)
    total = sum(layer["timeMs"] for layer in layers)
    for layer in layers:
        assert layer["timeMs"] > 0 and 0 < layer["medianMs"] <= layer["timeMs"]
        assert layer["averageMs"] == pytest.approx(layer["timeMs"] / 40, rel=1e-6)
        assert layer["percentage"] == pytest.approx(100 * layer["timeMs"] / total, rel=1e-6)
    names = [layer["name"] for layer in layers]
    assert len(set(names)) == len(names) and any('conv "one"' in name for name in names)
    # The console has the same, rounded.
    at = log.lines.index("=== Profile (40 iterations ) ===")
    assert log.lines[at + 1].split() == ["Time(ms)", "Avg.(ms)", "Median(ms)", "Time(%)", "Layer"]
    for line, layer in zip(log.lines[at + 2 :], layers):
        ms, average, median, percentage, name = line.split(maxsplit=4)
        assert name == layer["name"]
        assert float(ms) == pytest.approx(layer["timeMs"], abs=0.006)
        assert float(average) == pytest.approx(layer["averageMs"], abs=6e-5)
        assert float(median) == pytest.approx(layer["medianMs"], abs=6e-5)
        assert float(percentage) == pytest.approx(layer["percentage"], abs=0.06)
    assert re.match(r"\s*[\d.]+\s+[\d.]+\s+[\d.]+\s+100\.0\s+Total$", log.lines[at + 2 + len(layers)])
    check_layers(read(tmp_path / "l.json"), names, [2, 200, 16], [2, 7])


def test_medians_are_of_single_runs(plan, tmp_path):
    for n in (1, 2):  # where the median is the mean, whatever the times were
        trtexec(f"--loadEngine={plan}", f"--iterations={n}", f"--exportProfile={tmp_path}/p.json", *QUICK)
        count, *layers = read(tmp_path / "p.json")
        assert count == {"count": n} and len(layers) > 1
        for layer in layers:
            assert layer["medianMs"] == pytest.approx(layer["averageMs"], rel=1e-6)
            assert layer["averageMs"] * n == pytest.approx(layer["timeMs"], rel=1e-6)


def check_layers(info, names, input_dims, output_dims):
    assert [layer["Name"] for layer in info["Layers"]] == names
    assert info["Bindings"] == ["emg", "logits"]
    tensors = info["I/O Tensors"]
    assert [(t["Name"], t["IOMode"], t["DataType"], t["Dimensions"]) for t in tensors] == [
        ("emg", "Input", "FP32", input_dims),
        ("logits", "Output", "FP32", output_dims),
    ]
    assert all(set(t["ProfileInfo"][0]) == {"MinShape", "OptShape", "MaxShape", "Format"} for t in tensors)
    check_connected(info, ["emg"], ["logits"])
    types = [layer["LayerType"] for layer in info["Layers"]]
    assert "Convolution" in types and "MatrixMultiply" in types
    last = info["Layers"][-1]["Outputs"][0]
    assert last["Dimensions"] == output_dims and last["Format/Datatype"] == "Row major linear FP32"


def check_connected(info, inputs, outputs):
    """Every tensor that a layer reads is an input, or was written by a layer before."""
    known = set(inputs)
    for layer in info["Layers"]:
        for key in ["Name", "LayerType", "ParameterType", "Origin", "TacticName", "TacticValue"]:
            assert layer[key] and isinstance(layer[key], str), layer
        for tensor in layer["Inputs"] + layer["Outputs"]:
            assert set(tensor) == {"Name", "Location", "Dimensions", "Format/Datatype"}
            assert re.match(r"(Row major linear|Strided) \w+$", tensor["Format/Datatype"])
        assert layer["Inputs"] and layer["Outputs"]
        assert {t["Name"] for t in layer["Inputs"]} <= known, layer
        known |= {t["Name"] for t in layer["Outputs"]}
    assert set(outputs) <= known


def test_parts_of_a_concatenation(models, tmp_path):
    detailed = ["--profilingVerbosity=detailed", f"--exportLayerInfo={tmp_path}/l.json"]
    trtexec(f"--onnx={models}/parts.onnx", "--buildOnly", *detailed)
    info = read(tmp_path / "l.json")
    check_connected(info, ["x"], ["y"])
    convolutions = [layer for layer in info["Layers"] if layer["LayerType"] == "Convolution"]
    assert [[math.prod(t["Dimensions"]) for t in layer["Outputs"]] for layer in convolutions] == [[240], [480], [60]]
    assert math.prod(convolutions[2]["Inputs"][0]["Dimensions"]) == 720


def test_layer_names_and_none(models, plan, tmp_path):
    log = trtexec(f"--loadEngine={plan}", "--skipInference", "--dumpLayerInfo", f"--exportLayerInfo={tmp_path}/l.json")
    info = read(tmp_path / "l.json")
    assert all(isinstance(layer, str) for layer in info["Layers"]) and any("head" in x for x in info["Layers"])
    at = log.lines.index("Layer Information:")
    assert log.lines[at + 1 : at + 1 + len(info["Layers"])] == info["Layers"]
    trtexec(f"--onnx={models}/emg.onnx", "--buildOnly", f"--exportLayerInfo={tmp_path}/built.json")
    assert read(tmp_path / "built.json") == info  # from memory as from the file
    none = ["--skipInference", "--profilingVerbosity=none", f"--exportLayerInfo={tmp_path}/none.json"]
    trtexec(f"--loadEngine={plan}", *none)
    assert read(tmp_path / "none.json")["Layers"] == []


# ---- Flags -----------------------------------------------------------------------------------------------------------

ACCEPTED = """
    --noTF32 --avgTiming=8 --maxTactics=3 --tilingOptimizationLevel=1 --l2LimitForTiling=1 --maxAuxStreams=2
    --tacticSources=+EDGE_MASK_CONVOLUTIONS,-JIT_CONVOLUTIONS --heuristic --directIO --sparsity=enable
    --inputIOFormats=fp32:chw,fp32:chw --outputIOFormats=chw --stronglyTyped --explicitBatch --precisionConstraints=obey
    --noBuilderCache --noCompilationCache --allowWeightStreaming --weightStreamingBudget=-1
    --excludeLeanRuntime --useRuntime=lean --leanDLLPath=x --hardwareCompatibilityLevel=none
    --runtimePlatform=SameAsBuild --profile=0 --useProfile=0 --dumpOptimizationProfile --preview=+x
    --decomposableAttentions=a --distributiveIndependence --tempdir=/tmp --tempfileControls=in_memory:allow
    --monitorMemory --nvtxMode=verbose --tuningSearch=fast --tuningCacheFile=f --tuningTimeOut=-1 --allowGPUFallback
    --streams=1 --infStreams=1 --threads --useCudaGraph --noCudaGraph --noDataTransfers --includeDataTransfers
    --exposeDMA --useManagedMemory --persistentCacheRatio=0.5 --allocationStrategy=profile --accuracyAlgorithm=l1
    --atol=1 --rtol=1 --accuracyThreshold=1 --refPair=0 --separateProfileRun --device=0 --ignoreParsedPluginLibs
    --calibProfile=0
""".split()
REFUSED = """
    --bf16 --fp8 --int4 --best --minShapesCalib=a:1 --optShapesCalib=a:1 --maxShapesCalib=a:1
    --layerOutputTypes=a:fp16 --errorOnTimingCacheMiss --refit --refitFromOnnx=m
    --stripWeights --stripAllWeights --weightless --dumpRefit --timeRefit --versionCompatible --vc
    --hardwareCompatibilityLevel=ampere+ --runtimePlatform=WindowsAMD64 --profile=1 --useProfile=1 --restricted --safe
    --consistency --markDebug=t --maxBatch=2 --batch=2 --model=m --deploy=d --output=o --uff=u --uffInput=a --uffNHWC
    --tuneBuildRoutes=r --tuneBuildRouteFile=f --setBuildRoute=r --helpBuildRoute --saveAllEngines --dryRun --continue
    --useDLACore=0 --layerDeviceTypes=a:DLA --buildDLAStandalone --adjustForDLA --reportCapabilityDLA --streams=2
    --infStreams=4 --saveDebugTensors=t --saveAllDebugTensors=raw --loadRefOutputs=a:f --dumpRawBindingsToFile
    --plugins=p --staticPlugins=p --dynamicPlugins=p --setPluginsToSerialize=p --sparsity=force
    --inputIOFormats=fp16:chw --outputIOFormats=fp32:chw,int8:chw --calibProfile=1
""".split()
ACTED_ON = """
    --onnx --saveEngine --loadEngine --minShapes --optShapes --maxShapes --shapes --memPoolSize --workspace
    --builderOptimizationLevel --timingCacheFile --fp16 --int8 --calib --layerPrecisions --profilingVerbosity --loadInputs --iterations --warmUp
    --duration --sleepTime --idleTime --useSpinWait --noSpinWait --skipInference --buildOnly --timeDeserialize
    --getPlanVersionOnly --cpuThreads --cores --avgRuns --percentile --dumpOutput --dumpProfile --dumpLayerInfo --exportTimes
    --exportOutput --exportProfile --exportLayerInfo --verbose
""".split()


def name_of(flag):
    return flag.split("=")[0]


def test_flags_that_change_nothing_are_accepted_and_said(models, tmp_path):
    line = [f"--onnx={models}/emg.onnx", "--builderOptimizationLevel=0", *QUICK]  # the same kernels each time
    log = trtexec(*line, *ACCEPTED, f"--exportOutput={tmp_path}/o.json", cwd=tmp_path)
    for flag in ACCEPTED:
        said = [line for line in log.lines if line.startswith(flag + ": accepted, changes nothing here: ")]
        assert len(said) == 1 and len(said[0]) > len(flag) + 45, flag
    trtexec(*line, f"--exportOutput={tmp_path}/plain.json")
    assert read(tmp_path / "o.json") == read(tmp_path / "plain.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.json", "plain.json"]


@pytest.mark.parametrize("flag", REFUSED)
def test_flags_that_would_change_the_result_are_refused(models, flag, tmp_path):
    log = trtexec(f"--onnx={models}/emg.onnx", f"--saveEngine={tmp_path}/x.plan", flag, code=1)
    assert len(log.errors) == 1 and log.errors[0].startswith(flag + ": ") and len(log.errors[0]) > len(flag) + 15
    assert not log.lines and not any(tmp_path.iterdir())  # before any work


def test_half_precision(models):
    log = trtexec(f"--onnx={models}/emg.onnx", "--fp16", *QUICK)
    assert any("Precision: FP16" in line for line in log.lines)


@pytest.mark.parametrize(
    "flag, near",
    [
        ("--onx=m.onnx", "--onnx"),
        ("--useCudaGrap", "--useCudaGraph"),
        ("--exportTime=f", "--exportTimes"),
        ("--warmup=5", "--warmUp"),
        ("--minShape=a:1", "--minShapes"),
        ("--fp61", "--fp16"),
        ("m.onnx", "--onnx="),
    ],
)
def test_unknown_flags(flag, near):
    log = trtexec(flag, code=1)
    assert len(log.errors) == 1 and log.errors[0].startswith("Unknown option: ")
    assert near in log.errors[0] and name_of(flag) in log.errors[0]


def test_flags_are_documented_and_in_the_help():
    run = subprocess.run([TENDON, "trtexec", "--help=all"], capture_output=True, text=True)
    assert run.returncode == 0 and max(map(len, run.stdout.splitlines())) <= 100
    helped = set(re.findall(r"--\w+", run.stdout)) - {"--help"}
    every = {name_of(flag) for flag in ACCEPTED + REFUSED + ACTED_ON}
    # Second spellings are not in the help.
    assert helped == every - {"--maxShapes", "--workspace", "--buildOnly", "--timeDeserialize", "--int8"}
    table = (ROOT / "docs" / "trtexec.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(--\w+)", "".join(x for x in table.splitlines(True) if x.startswith("| `--"))))
    assert documented == every


# ---- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, words",
    [
        ([], ["--onnx", "--loadEngine"]),
        (["--onnx=/nowhere/m.onnx"], ["/nowhere/m.onnx", "No such file"]),
        (["--loadEngine=/nowhere/m.plan"], ["/nowhere/m.plan", "No such file"]),
        (["--loadEngine={models}/emg.onnx"], ["emg.onnx", "no plan"]),
        (["--onnx={plan}"], ["emg.plan", "--loadEngine"]),
        (["--onnx={models}/odd.onnx"], ["Wild", "tendon inspect"]),
        (["--onnx={models}/emg.onnx", "--shapes=emg:1x2"], ["emg"]),
        (["--onnx={models}/emg.onnx", "--shapes=emg"], ["emg", "NAME:1x3x8"]),
        (["--onnx={models}/emg.onnx", "--shapes=*x:1x2"], ["*x", "emg float32"]),
        (["--onnx={models}/emg.onnx", "--memPoolSize=workspace:1K"], ["workspace", "--memPoolSize"]),
        (["--onnx={models}/emg.onnx", "--memPoolSize=heap:1"], ["--memPoolSize=heap:1", "tacticSharedMem"]),
        (["--onnx={models}/emg.onnx", "--memPoolSize=workspace:4X"], ["--memPoolSize=workspace:4X"]),
        (["--onnx={models}/emg.onnx", "--percentile=101"], ["--percentile=101"]),
        (["--onnx={models}/emg.onnx", "--percentile=a"], ["--percentile=a"]),
        (["--onnx={models}/emg.onnx", "--duration=-2"], ["--duration=-2"]),
        (["--onnx={models}/emg.onnx", "--iterations=x"], ["--iterations=x", "whole number"]),
        (["--onnx={models}/emg.onnx", "--profilingVerbosity=loud"], ["--profilingVerbosity=loud", "detailed"]),
        (["--onnx={models}/emg.onnx", "--loadInputs=emg"], ["--loadInputs=emg", "NAME:FILE"]),
        (["--onnx={models}/emg.onnx", "--loadInputs=emg:/nowhere/x"], ["/nowhere/x", "No such file"]),
        (["--onnx={models}/emg.onnx", "--loadInputs=emg:{models}/emg.onnx"], ["emg.onnx", "12800", "1x200x16"]),
        (["--onnx={models}/emg.onnx", "--loadInputs=eeg:{models}/emg.onnx"], ["eeg"]),
        (["--loadEngine={plan}", "--saveEngine={tmp}/x.plan"], ["--saveEngine", "--onnx"]),
        (["--onnx={models}/emg.onnx", "--exportTimes={tmp}/a", "--exportOutput={tmp}/a"], ["same file"]),
    ],
)
def test_errors_have_words_and_leave_nothing(models, plan, tmp_path, args, words):
    args = [arg.format(models=models, plan=plan, tmp=tmp_path) for arg in args]
    log = trtexec(*args, *QUICK, code=1)
    assert 1 <= len(log.errors) <= 3 and all(word in "\n".join(log.errors) for word in words), log.errors
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "flag",
    """
    --shapes=: --shapes=* --shapes=*: --shapes=emg:x --shapes='emg:1x200x16 --shapes=emg:1x --shapes=,
    --minShapes=emg:-1x200x16 --maxShapes=emg:99999999999x200x16 --loadInputs=: --loadInputs=' --loadInputs='emg'
    --loadInputs=emg: --loadInputs=,,, --loadInputs='':x --memPoolSize=: --memPoolSize=workspace
    --memPoolSize=workspace: --memPoolSize=workspace:-1 --memPoolSize=workspace:nan --memPoolSize=workspace:1MM
    --memPoolSize=, --percentile=, --percentile=90, --percentile=nan --sparsity=, --sparsity= --onnx= --helpBuildRoute=x
    --useCudaGraph=1 --iterations=1e3 --duration=inf
    """.split(),
)
def test_damaged_flags_are_errors(models, tmp_path, flag):
    log = trtexec(f"--onnx={models}/emg.onnx", f"--saveEngine={tmp_path}/x.plan", flag, *QUICK[:1], code=1)
    assert log.errors and all(len(line) > 10 for line in log.errors[:1])
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["saveEngine", "exportTimes", "exportOutput", "exportProfile", "exportLayerInfo"])
@pytest.mark.parametrize("place", ["none/x.json", "folder", "file/x.json"])
def test_paths_are_checked_before_any_work(models, tmp_path, flag, place):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    begin = time.monotonic()
    log = trtexec(f"--onnx={models}/emg.onnx", f"--{flag}={tmp_path / place}", "--duration=60", code=1)
    assert time.monotonic() - begin < 20
    assert place in log.errors[0] and not any("Engine built" in line for line in log.lines)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_failed_build_leaves_the_old_engine(models, tmp_path):
    (tmp_path / "x.plan").write_text("old")
    trtexec(f"--onnx={models}/odd.onnx", f"--saveEngine={tmp_path}/x.plan", code=1)
    assert (tmp_path / "x.plan").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


# ---- The rest --------------------------------------------------------------------------------------------------------


def test_wildcards_in_shapes(models, tmp_path):
    log = trtexec(f"--onnx={models}/emg.onnx", "--shapes=e*g:3x200x16", f"--saveEngine={tmp_path}/w.plan", *QUICK)
    assert "Input binding for emg with dimensions 3x200x16 is created." in log.lines
    log = trtexec(f"--loadEngine={tmp_path}/w.plan", "--shapes=*:3x200x16", *QUICK)
    assert "Input binding for emg with dimensions 3x200x16 is created." in log.lines


def test_skipping_and_versions(models, plan, tmp_path):
    log = trtexec(f"--loadEngine={plan}", "--skipInference", f"--exportTimes={tmp_path}/t.json")
    assert not any(line.startswith("Throughput") for line in log.lines)
    assert any("nothing ran" in line for line in log.warnings) and not any(tmp_path.iterdir())
    log = trtexec(f"--loadEngine={plan}", "--getPlanVersionOnly")
    version = subprocess.run([TENDON, "--version"], capture_output=True, text=True).stdout.split()[1]
    assert any(version in line and "built by" in line for line in log.lines)
    log = trtexec(f"--loadEngine={plan}", f"--onnx={models}/emg.onnx", "--fp16", *QUICK)
    assert len(log.warnings) >= 2 and "--onnx" in log.warnings[0] and "built already" in log.warnings[1]


def test_verbose_has_the_librarys_lines_and_explains(models):
    quiet = trtexec(f"--onnx={models}/emg.onnx", *QUICK)
    log = trtexec(f"--onnx={models}/emg.onnx", "--verbose", *QUICK)
    assert any(line.startswith("[Tendon] ") for line in log.lines)
    assert not any(line.startswith("[Tendon] ") for line in quiet.lines)
    assert any(line.startswith("Enqueue Time, GPU Compute Time: ") for line in log.lines)


def test_memory_pools(models):
    for text, mib in (("workspace:64", 64), ("workspace:2G,dlaSRAM:1M", 2048), ("workspace:4096K", 4)):
        log = trtexec(f"--onnx={models}/emg.onnx", f"--memPoolSize={text}", *QUICK)
        assert f"Memory Pools: workspace: {mib} MiB" in log.lines
        assert any("dlaSRAM" in line and "changes nothing" in line for line in log.lines) == ("dla" in text)
    assert "Memory Pools: workspace: 512 MiB" in trtexec(f"--onnx={models}/emg.onnx", "--workspace=512", *QUICK).lines
