# SPDX-License-Identifier: Apache-2.0
"""The command: options, exit codes, what it prints, and what it says about bad input."""

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.small

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
DONE, FAILED, USAGE, INPUT = 0, 1, 2, 3
F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
COMMANDS = ["build", "calibrate", "run", "bench", "validate", "inspect", "conform"]


def tendon(*args, code=DONE, **options):
    """Runs the command, checks its exit code, and returns what it wrote."""
    line = [TENDON, *map(str, args)]
    run = subprocess.run(line, capture_output=True, text=True, timeout=120, **options)
    assert run.returncode == code, f"{line}\n{run.stdout}{run.stderr}"
    if code in (USAGE, INPUT):
        assert run.stderr.startswith("tendon: ") and len(run.stderr.splitlines()) <= 4, run.stderr
    return run


def value(name, dtype, shape):
    return helper.make_tensor_value_info(name, dtype, shape)


def save(path, nodes, inputs, outputs, weights=()):
    weights = [numpy_helper.from_array(array, name) for name, array in dict(weights).items()]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=weights)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Small models by name: mlp (one dynamic axis), fixed, two (inputs), types, state, odd."""
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(5)
    w1, w2 = (rng.standard_normal((n, k)).astype(np.float32) for n, k in ((6, 5), (5, 3)))
    mlp = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], name="second"),
    ]
    weights = {"w1": w1, "w2": w2}
    save(folder / "mlp.onnx", mlp, [value("x", F32, ["batch", 6])], [value("y", F32, ["batch", 3])], weights)
    save(folder / "fixed.onnx", mlp, [value("x", F32, [2, 6])], [value("y", F32, [2, 3])], weights)
    two = [helper.make_node("Sub", ["p", "q:0"], ["d"]), helper.make_node("ReduceSum", ["d"], ["s"], keepdims=0)]
    save(
        folder / "two.onnx",
        two,
        [value("p", F32, [1, 4]), value("q:0", F32, [1, 4])],
        [value("d", F32, [1, 4]), value("s", F32, [])],
    )
    types = [
        helper.make_node("Cast", ["i"], ["f"], to=F32),
        helper.make_node("Cast", ["b"], ["g"], to=F32),
        helper.make_node("Add", ["f", "g"], ["y"]),
    ]
    save(
        folder / "types.onnx",
        types,
        [value("i", I64, [1, 2]), value("b", BOOL, [1, 2])],
        [value("y", F32, [1, 2])],
    )
    state = [
        helper.make_node("Add", ["x", "s"], ["next"]),
        helper.make_node("MatMul", ["next", "w"], ["y"]),
    ]
    save(
        folder / "state.onnx",
        state,
        [value("x", F32, [1, 3]), value("s", F32, [1, 3])],
        [value("y", F32, [1, 3]), value("next", F32, [1, 3])],
        {"w": np.eye(3, dtype=np.float32)},
    )
    odd = [
        helper.make_node("Wild", ["x"], ["a"], name="n1", domain="acme"),
        helper.make_node("Relu", ["a"], ["b"], name="n2"),
        helper.make_node("Wilder", ["b"], ["y"], name="n3", domain="acme"),
    ]
    save(folder / "odd.onnx", odd, [value("x", F32, [1, 3])], [value("y", F32, [1, 3])])
    return folder


@pytest.fixture(scope="module")
def plan(models):
    path = models / "fixed.plan"
    tendon("build", models / "fixed.onnx", "-o", path)
    return path


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def normal(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def expect(model, **feeds):
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)


# --- The command line


def test_version_is_a_line():
    assert re.fullmatch(r"tendon \d+\.\d+\.\d+\n", tendon("--version").stdout)


@pytest.mark.parametrize("command", [None, *COMMANDS, "trtexec"])
def test_help_fits_a_screen_and_has_an_example(command):
    text = tendon(*filter(None, [command]), "--help").stdout
    assert text == tendon("help", *filter(None, [command])).stdout
    assert len(text.splitlines()) <= 24 and max(map(len, text.splitlines())) <= 80
    assert "example:\n  tendon " in text
    if not command:
        assert all(re.search(rf"^  {c} ", text, re.M) for c in COMMANDS)


@pytest.mark.parametrize(
    "line, word",
    [
        ([], "usage"),
        (["bulid"], "build"),
        (["run", "--inptus=a.npz", "m.onnx"], "--inputs"),
        (["bench", "--durations", "3", "m.onnx"], "--duration"),
        (["build", "m.onnx", "-q"], "-q"),
        (["build", "m.onnx", "-o"], "needs a value"),
        (["build", "m.onnx", "--verbose=yes", "-o", "p"], "no value"),
        (["build", "m.onnx"], "-o"),
        (["build", "-o", "p"], "which model"),
        (["build", "a.onnx", "b.onnx", "-o", "p"], "b.onnx"),
        (["build", "a.onnx", "--onnx=b.onnx", "-o", "p"], "two models"),
        (["bench", "m.plan", "--threads=two"], "whole number"),
        (["bench", "m.plan", "--threads=2.5"], "whole number"),
        (["bench", "m.plan", "--rate=-1"], "--rate"),
        (["bench", "m.plan", "--duration=nan"], "--duration"),
        (["bench", "m.plan", "--times"], "--json"),
        (["build", "m.onnx", "-o", "p", "--optimization-level=6"], "0 to 5"),
        (["run"], "usage"),
        (["inspect", "a", "b"], "b"),
    ],
)
def test_wrong_usage(line, word):
    run = subprocess.run([TENDON, *line], capture_output=True, text=True, timeout=60)
    assert run.returncode == USAGE and word in run.stderr and run.stdout == ""


def test_usage_that_needs_the_model(models, tmp_path):
    model, out = models / "mlp.onnx", tmp_path / "p"
    for options, word in [
        (["--precision=fp15"], "fp32, fp16, bf16 or int8"),
        (["--shapes=x"], "NAME:1x3x8"),
        (["--shapes=x:1x"], "numbers"),
        (["--shapes=x:1,6"], "NAME"),
        (["--shapes=x:1x1x1x1x1x1x1x1x1"], "8 numbers"),
        (["--shapes=x:1x6", "--min-shapes=x:1x6"], "either"),
        (["--state=x"], "INPUT:OUTPUT"),
        (["--state=z:y"], "INPUT:OUTPUT"),
        (["--target=z80"], "native"),
    ]:
        assert word in tendon("build", model, "-o", out, *options, code=USAGE).stderr
        assert not out.exists()


def test_a_full_disk_behind_stdout_is_no_success(plan):
    with open("/dev/full", "w") as full:
        run = subprocess.run([TENDON, "inspect", plan], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert run.returncode == FAILED and b"standard output" in run.stderr


# --- build


@pytest.mark.parametrize("script", [False, True])
def test_build_shows_phases_and_engine(models, tmp_path, script):
    model, out = models / "fixed.onnx", tmp_path / "p.plan"
    flags = ["--precision", "fp32", "--workspace", "4", "--optimization-level", "3", "--verbose"]
    line = [f"--onnx={model}", f"--engine={out}", *flags] if script else [model, "-o", out]
    lines = tendon("build", *line).stdout.splitlines()
    phases = [line for line in lines if line.startswith("[")]
    assert [p[:5] for p in phases] == [f"[{i}/5]" for i in range(1, 6)]
    assert phases[0].startswith("[1/5] Parsing ONNX model... ") and phases[4] == "[5/5] Engine Information"
    assert all(re.search(r"\.\.\. [0-9.]+ ms$", p) for p in phases[:4])
    text = "\n".join(lines)
    assert re.search(r"x +float32 +2x6", text) and re.search(r"y +float32 +2x3", text)
    assert f"({out.stat().st_size} bytes)" in text and "\033" not in text
    assert re.search(r"^Built .*p\.plan in [0-9.]+ s$", lines[-1])


def test_two_builds_give_the_same_bytes(models, tmp_path):
    for name, options in [("mlp", ["--shapes=x:1x6", "--shapes=x:3x6"]), ("two", ["--target=native"])]:
        first, second = tmp_path / "1", tmp_path / "2"
        options = [*options, "--optimization-level=0"]  # test_tune.py has the other levels
        tendon("build", models / f"{name}.onnx", "-o", first, *options)
        tendon("build", f"--onnx={models / name}.onnx", f"--engine={second}", *options)
        assert first.read_bytes() == second.read_bytes()


def test_a_failed_build_keeps_the_old_plan(models, tmp_path):
    out = tmp_path / "p.plan"
    out.write_bytes(b"old")
    tendon("build", models / "odd.onnx", "-o", out, code=INPUT)
    assert out.read_bytes() == b"old" and os.listdir(tmp_path) == ["p.plan"]
    tendon("build", models / "fixed.onnx", "-o", tmp_path / "no" / "p.plan", code=INPUT)


def test_unsupported_nodes_are_all_named(models, tmp_path):
    for run in [
        tendon("build", models / "odd.onnx", "-o", tmp_path / "p", code=INPUT).stderr,
        tendon("inspect", models / "odd.onnx", code=FAILED).stdout,
    ]:
        assert "Wild" in run and "'n1'" in run and "Wilder" in run and "'n3'" in run and "'n2'" not in run


def test_a_plan_for_another_cpu(models, tmp_path):
    out = tmp_path / "p.plan"
    tendon("build", models / "fixed.onnx", "-o", out, "--target=x86-64", "--target=x86-64-v3")
    targets = [s["target"] for s in json.loads(tendon("inspect", out, "--json").stdout)["sections"]]
    assert sorted(targets) == ["x86-64", "x86-64-v3"]


# --- run


def test_run_agrees_with_onnxruntime(models, plan, tmp_path):
    x = normal(2, 6)
    data, out = npz(tmp_path / "in.npz", x=x), tmp_path / "out.npz"
    (want,) = expect(models / "fixed.onnx", x=x)
    for source in (plan, models / "fixed.onnx"):
        tendon("run", source, "--inputs", data, f"--outputs={out}", "--threads=2")
        got = np.load(out)
        assert got.files == ["y"] and got["y"].dtype == np.float32
        np.testing.assert_allclose(got["y"], want, rtol=1e-5, atol=1e-5)
    assert re.search(r"y float32 2x3: \S+", tendon("run", plan, "-i", data).stdout)


def test_suffixes_do_not_matter(models, plan, tmp_path):
    data = npz(tmp_path / "in.npz", x=normal(2, 6))
    (tmp_path / "a.onnx").write_bytes(plan.read_bytes())
    (tmp_path / "b").write_bytes((models / "fixed.onnx").read_bytes())
    for name in ("a.onnx", "b"):
        tendon("run", tmp_path / name, "--inputs", data)


def test_multiples_are_samples(models, plan, tmp_path):
    x = normal(10, 6)
    out = tmp_path / "out.npz"
    tendon("run", plan, "--inputs", npz(tmp_path / "in.npz", x=x), "--outputs", out)
    want = np.concatenate([expect(models / "fixed.onnx", x=x[i : i + 2])[0] for i in range(0, 10, 2)])
    np.testing.assert_allclose(np.load(out)["y"], want, rtol=1e-5, atol=1e-5)
    p, q = normal(3, 4), normal(3, 4) * 2
    tendon("run", models / "two.onnx", "--inputs", npz(tmp_path / "in.npz", **{"p": p, "q:0": q}), "--outputs", out)
    got = np.load(out)
    np.testing.assert_allclose(got["d"], p - q, rtol=1e-6)
    np.testing.assert_allclose(got["s"], (p - q).sum(1), rtol=1e-5, atol=1e-5)


def test_a_symbolic_dim_is_the_arrays(models, tmp_path):
    x, out = normal(7, 6), tmp_path / "out.npz"
    tendon("run", models / "mlp.onnx", "--inputs", npz(tmp_path / "in.npz", x=x), "--outputs", out)
    np.testing.assert_allclose(np.load(out)["y"], expect(models / "mlp.onnx", x=x)[0], rtol=1e-5, atol=1e-5)


def test_a_symbolic_dim_that_cannot_be_one_is_named(tmp_path):
    to = numpy_helper.from_array(np.array([2, 3], np.int64), "to")
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "to"], ["y"])], "g",
        [value("x", F32, ["n"])], [value("y", F32, [2, 3])], initializer=[to])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "m.onnx")
    run = tendon("inspect", tmp_path / "m.onnx", code=INPUT)
    assert "symbolic dims of input 'x'" in run.stderr and "--shapes=x:" in run.stderr
    run = tendon("inspect", tmp_path / "m.onnx", "--shapes=x:7", code=INPUT)
    assert "taking the symbolic" not in run.stderr
    tendon("inspect", tmp_path / "m.onnx", "--shapes=x:6")


def test_buckets_of_a_batch(models, tmp_path):
    plan, out = tmp_path / "p.plan", tmp_path / "out.npz"
    tendon("build", models / "mlp.onnx", "-o", plan, "--minShapes=x:1x6", "--optShapes=x:3x6", "--maxShapes=x:8x6")
    for n in (1, 2, 3, 5, 8, 13, 16):
        x = normal(n, 6)
        tendon("run", plan, "--inputs", npz(tmp_path / "in.npz", x=x), "--outputs", out)
        np.testing.assert_allclose(np.load(out)["y"], expect(models / "mlp.onnx", x=x)[0], rtol=1e-5, atol=1e-5)


def test_shapes_that_a_plan_lacks_are_listed(models, tmp_path):
    plan = tmp_path / "p.plan"
    tendon("build", models / "mlp.onnx", "-o", plan, "--shapes=x:4x6", "--shapes", "x:3x6")
    tendon("run", plan, "-i", npz(tmp_path / "in.npz", x=normal(6, 6)))
    for shape in ((5, 6), (4, 5)):
        run = tendon("run", plan, "-i", npz(tmp_path / "in.npz", x=normal(*shape)), code=INPUT)
        assert "x 4x6" in run.stderr and "x 3x6" in run.stderr and f"{shape[0]}x{shape[1]}" in run.stderr


def test_types_are_not_converted(models, tmp_path):
    i, b = np.array([[1, -2]]), np.array([[True, False]])
    assert "2 -2" in tendon("run", models / "types.onnx", "-i", npz(tmp_path / "a.npz", i=i, b=b)).stdout
    for arrays, is_, should in [
        ({"i": i.astype(np.int32), "b": b}, "int32", "int64"),
        ({"i": i, "b": b.astype(np.uint8)}, "uint8", "bool"),
        ({"i": i.astype(">i8"), "b": b}, ">i8", "big-endian"),
        ({"i": i.astype(np.complex64), "b": b}, "<c8", "complex"),
        ({"i": np.array([["a", "b"]]), "b": b}, "<U1", "text"),
    ]:
        run = tendon("run", models / "types.onnx", "-i", npz(tmp_path / "a.npz", **arrays), code=INPUT)
        assert is_ in run.stderr and should in run.stderr and "i int64 1x2, b bool 1x2" in run.stderr


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({}, ["no array 'p'"]),
        ({"p": normal(1, 4)}, ["no array 'q:0'"]),
        ({"p": normal(1, 4), "q:0": normal(1, 4), "r": normal(1)}, ["'r'"]),
        ({"p": normal(1, 4), "q:0": normal(1, 4), "out2": normal(1)}, ["'out2'"]),
        ({"p": normal(1, 4), "q:0": normal(4)}, ["'q:0'", "1 dim"]),
        ({"p": normal(1, 4), "q:0": normal(1, 5)}, ["1x5"]),
        ({"p": normal(2, 4), "q:0": normal(3, 4)}, ["2x4", "3x4"]),
        ({"p": normal(0, 4), "q:0": normal(0, 4)}, ["0x4"]),
    ],
)
def test_wrong_arrays(models, tmp_path, arrays, words):
    run = tendon("run", models / "two.onnx", "-i", npz(tmp_path / "in.npz", **arrays), code=INPUT)
    assert all(word in run.stderr for word in [*words, "1x4"])


def test_expected_outputs_and_labels_are_no_surplus(models, tmp_path):
    data = npz(tmp_path / "a.npz", p=normal(1, 4), d=0, out0=0, out1=0, label=0, **{"q:0": normal(1, 4)})
    tendon("run", models / "two.onnx", "-i", data)


def test_nan_is_an_error_unless_allowed(plan, tmp_path):
    x = normal(4, 6)
    x[2, 5] = np.nan
    data = npz(tmp_path / "in.npz", x=x)
    assert "'x' is NaN at [2, 5]" in tendon("run", plan, "-i", data, code=INPUT).stderr
    assert "nan" in tendon("run", plan, "-i", data, "--allow-nan").stdout


def test_a_npy_file_is_the_only_input(plan, tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(normal(2, 6)))
    npz(tmp_path / "x.npz", x=normal(2, 6))
    assert tendon("run", plan, "-i", tmp_path / "x.npy").stdout == tendon("run", plan, "-i", tmp_path / "x.npz").stdout


def test_states_live_from_sample_to_sample(models, tmp_path):
    x, plan, out = normal(5, 3), tmp_path / "p.plan", tmp_path / "out.npz"
    data = npz(tmp_path / "in.npz", x=x)
    tendon("build", models / "state.onnx", "-o", plan, "--state=s:next")
    tendon("run", plan, "-i", data, "-o", out)
    np.testing.assert_allclose(np.load(out)["y"], np.cumsum(x, 0), rtol=1e-5, atol=1e-5)
    assert np.load(out).files == ["y"]
    tendon("run", plan, "-i", data, "-o", out, "--reset-each")
    np.testing.assert_allclose(np.load(out)["y"], x, rtol=1e-5, atol=1e-5)
    tendon("validate", models / "state.onnx", "--data", data, "--state=s:next")
    tendon("validate", models / "state.onnx", plan, "--data", data, "--state=s:next")
    assert "--state=s:OUTPUT" in tendon("validate", models / "state.onnx", plan, "--data", data, code=USAGE).stderr


def test_outputs_that_cannot_be_written(plan, tmp_path):
    data = npz(tmp_path / "in.npz", x=normal(2, 6))
    assert "/no/o.npz" in tendon("run", plan, "-i", data, "-o", tmp_path / "no/o.npz", code=INPUT).stderr


# --- bench


def summary_of(text):
    """What a script around trtexec takes from its output."""
    block = text.split("=== Performance summary ===")[1]
    latency = re.search(r"^Latency: (.*)$", block, re.M).group(1)
    found = {k: float(v) for k, v in re.findall(r"([\w()%.]+) = ([0-9.e+-]+) ms", latency)}
    found["qps"] = float(re.search(r"^Throughput: ([0-9.e+-]+) qps$", block, re.M).group(1))
    found["s"] = float(re.search(r"^Total Host Walltime: ([0-9.e+-]+) s$", block, re.M).group(1))
    return found


def affinities(pid):
    """{name: cores} of a process's threads, the first called main; one that ends meanwhile is left out."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            name = "main" if int(task.name) == pid else (task / "comm").read_text().strip()
            found[name] = os.sched_getaffinity(int(task.name))
        except OSError:
            pass
    return found


def test_threads_stay_on_the_cores_named(plan):
    usable = sorted(os.sched_getaffinity(0), reverse=True)[:2]
    listed = f"--cores={','.join(map(str, usable))}"
    bench = subprocess.Popen([TENDON, "bench", plan, listed, "--threads=2", "--duration=60"], stdout=subprocess.DEVNULL)
    wanted, found, end = {"main": {usable[0]}, "tendon-1": {usable[-1]}}, {}, time.monotonic() + 30
    while not wanted.items() <= found.items() and time.monotonic() < end and bench.poll() is None:
        time.sleep(0.01)
        found = affinities(bench.pid)
    bench.send_signal(signal.SIGINT)
    bench.wait(30)
    assert wanted.items() <= found.items()


@pytest.mark.parametrize("command", ["run", "validate", "build", "bench"])
def test_commands_take_cores(models, plan, tmp_path, command):
    core, data = min(os.sched_getaffinity(0)), npz(tmp_path / "in.npz", x=normal(2, 6))
    words = {
        "run": ["run", plan, "-i", data],
        "validate": ["validate", models / "fixed.onnx"],
        "build": ["build", models / "fixed.onnx", "-o", tmp_path / "p"],
        "bench": ["bench", plan, "--iterations=3"],
    }[command]
    out = tendon(*words, f"--cores={core}-{core}").stdout
    assert command != "bench" or ", 1 thread," in out


def test_bench_summary_and_json(plan, tmp_path):
    out = tmp_path / "b.json"
    run = tendon("bench", plan, "--warmup=3", "--iterations=200", "--json", out, "--times", "--profile", "--threads=2")
    printed, results = summary_of(run.stdout), json.loads(out.read_text())
    times = np.sort(results["latencies_ms"])
    assert results["iterations"] == 200 == len(times) and results["warmup_iterations"] == 3
    assert results["threads"] == 2 and results["inputs"] == [{"name": "x", "dtype": "float32", "dims": [2, 6]}]
    latency = results["latency_ms"]
    assert latency["median"] == pytest.approx((times[99] + times[100]) / 2)
    for p in (90, 95, 99, 99.9):
        want = times[max(200 - 1 - int((1 - p / 100) * 200), 0)]
        assert latency[f"p{p:g}"] == pytest.approx(want)
        assert printed[f"percentile({p:g}%)"] == pytest.approx(want, rel=1e-5)
    assert printed["median"] == pytest.approx(latency["median"], rel=1e-5)
    assert (printed["min"], printed["max"]) == (pytest.approx(times[0], rel=1e-5), pytest.approx(times[-1], rel=1e-5))
    assert printed["mean"] == pytest.approx(times.mean(), rel=1e-5)
    assert printed["qps"] == pytest.approx(200 / results["walltime_s"], rel=1e-4)
    assert "=== Profile by step" in run.stdout
    assert [s["runs"] for s in results["profile"]] == [200] * len(results["profile"])
    assert sum(s["flops"] for s in results["profile"]) >= 2 * 2 * (6 * 5 + 5 * 3)
    for step in results["profile"]:
        assert step["kernel"] in run.stdout and step["name"] in run.stdout


def test_bench_profile_has_the_share_of_the_ceiling(plan, tmp_path):
    out = tmp_path / "b.json"
    args = ("bench", plan, "--warmup=1", "--iterations=50", "--duration=0", "--threads=1", "--json", out)
    text, results = tendon(*args, "--profile").stdout, json.loads(out.read_text())
    machine = results["machine"]
    assert machine["threads"] == 1 and machine["l2_bytes"] > 0
    assert all(machine[key] > 0 for key in ("fp32_gflops", "l2_gbs", "memory_gbs"))
    table = text.split("=== Profile by step")[1].splitlines()[1:]
    assert max(map(len, table)) <= 110 and table[0].split()[6] == "ceiling"
    shares = re.findall(r"^ *\d+ .* ([\d.]+) % (fma|L2|mem) ", "\n".join(table), re.M)
    assert len(shares) == len(results["profile"]) > 0
    for (share, roof), step in zip(shares, results["profile"]):
        assert step["bound"] == ("compute" if roof == "fma" else "memory")
        assert 0 < step["ceiling_share"] < 400
        assert float(share) == pytest.approx(step["ceiling_share"], rel=0.06, abs=0.06)
        best = step["bytes"] / machine["l2_gbs"], step["flops"] / machine["fp32_gflops"]
        assert step["bytes"] <= machine["l2_bytes"]
        assert step["ceiling_share"] == pytest.approx(100 * max(best) / (1e6 * step["mean_ms"]), rel=1e-6)
    assert f"{machine['fp32_gflops']:.4g} GFLOP/s of\nmultiply-adds" in text
    tendon(*args)
    assert not {"machine", "profile"} & set(json.loads(out.read_text()))


def test_bench_lasts_as_long_as_asked(plan):
    start = time.monotonic()
    assert summary_of(tendon("bench", plan, "--duration=0.5", "--warmup=0").stdout)["s"] >= 0.5
    assert 0.5 <= time.monotonic() - start < 20


def test_bench_is_paced(plan, tmp_path):
    out = tmp_path / "b.json"
    text = tendon("bench", plan, "--rate=100", "--iterations=50", "--warmup=1", "--json", out).stdout
    results = json.loads(out.read_text())
    assert results["walltime_s"] >= 0.49 and re.search(r"Deadlines: \d+ of \d+ missed", text)
    assert results["deadlines"]["late"] <= 50 and results["deadlines"]["rate_hz"] == 100
    assert 0 < results["deadlines"]["cpu_s"] and re.search(r"^CPU time: [0-9.]+ % of a core$", text, re.M)
    assert results["response_ms"]["median"] >= results["latency_ms"]["median"]
    # No call ends within a tenth of a microsecond.
    tendon("bench", plan, "--rate=1e7", "--iterations=50", "--warmup=1", "--json", out)
    deadlines = json.loads(out.read_text())["deadlines"]
    assert deadlines["late"] == 50 and deadlines["skipped"] > 0
    assert deadlines["missed"] == deadlines["late"] + deadlines["skipped"]


def test_bench_takes_models_data_and_shapes(models, plan, tmp_path):
    quick = ["--iterations=5", "--warmup=0"]
    data = npz(tmp_path / "in.npz", x=normal(6, 6))
    assert "x 2x6" in tendon("bench", plan, *quick, "--inputs", data).stdout
    assert "x 6x6" in tendon("bench", models / "mlp.onnx", *quick, "--inputs", data).stdout
    assert "x 1x6" in tendon("bench", models / "mlp.onnx", *quick).stdout
    assert "x 9x6" in tendon("bench", models / "mlp.onnx", *quick, "--shapes=x:9x6").stdout
    tendon("bench", models / "types.onnx", *quick)
    several = tmp_path / "p.plan"
    tendon("build", models / "mlp.onnx", "-o", several, "--shapes=x:4x6", "--shapes=x:3x6")
    assert "x 3x6" in tendon("bench", several, *quick).stdout
    assert "x 4x6" in tendon("bench", several, *quick, "--shapes=x:4x6").stdout
    assert "x 3x6" in tendon("bench", several, *quick, "--shapes=x:5x6", code=INPUT).stderr
    assert "'z'" in tendon("bench", several, *quick, "--shapes=z:5x6", code=USAGE).stderr


def test_interrupted_bench_prints_what_there_is(plan):
    run = subprocess.Popen([TENDON, "bench", plan, "--duration=60", "--rate=200"], stdout=subprocess.PIPE, text=True)
    time.sleep(1.5)
    run.send_signal(signal.SIGINT)
    text = run.communicate(timeout=20)[0]
    assert run.returncode == DONE and "interrupted" in text and summary_of(text)["median"] > 0


# --- validate


def test_validate_without_data(models, plan):
    for name in ("mlp", "fixed", "two", "types"):
        assert re.search(r"reference +ok ", tendon("validate", models / f"{name}.onnx", "--samples=3").stdout)
    tendon("validate", models / "fixed.onnx", plan, "--layers")


def test_validate_expected_and_labels(models, plan, tmp_path):
    x = normal(20, 6)
    want = np.concatenate([expect(models / "fixed.onnx", x=x[i : i + 2])[0] for i in range(0, 20, 2)])
    label = want.argmax(1)
    label[:5] = (label[:5] + 1) % 3
    data = npz(tmp_path / "in.npz", x=x, out0=want, label=label)
    text = tendon("validate", models / "fixed.onnx", plan, "--data", data).stdout
    assert re.search(r"^y +reference +ok .*cosine 1\.0", text, re.M) and re.search(r"^y +expected +ok ", text, re.M)
    assert re.search(r"accuracy of the engine +75\.00 %", text)
    assert re.search(r"accuracy of the reference +75\.00 %", text)
    assert re.search(r"same decisions +100\.00 %  \(20 of 20\)", text)
    some = tendon("validate", models / "fixed.onnx", plan, "--data", data, "--samples=4").stdout
    assert "10 calls of the engine, 4 of the reference" in some and "(8 of 8)" in some


def test_validate_finds_a_difference(models, plan, tmp_path):
    x = normal(6, 6)
    want = np.concatenate([expect(models / "fixed.onnx", x=x[i : i + 2])[0] for i in range(0, 6, 2)])
    want[4, 1] += 0.25
    data = npz(tmp_path / "in.npz", x=x, y=want)
    text = tendon("validate", models / "fixed.onnx", plan, "--data", data, code=FAILED).stdout
    assert re.search(r"^y +expected +DIFFERS +max 0\.25 ", text, re.M) and "worst [4, 1]:" in text
    assert "1 of 18 elements" in text
    tendon("validate", models / "fixed.onnx", plan, "--data", data, "--atol=0.26")
    bad = npz(tmp_path / "in.npz", x=x, y=want[:5])
    assert "5x3" in tendon("validate", models / "fixed.onnx", plan, "--data", bad, code=INPUT).stderr


def test_validate_compares_nan_and_infinity(models, plan, tmp_path):
    x = normal(2, 6)
    (want,) = expect(models / "fixed.onnx", x=x)
    for odd in (np.nan, np.inf, -np.inf):
        y = want.copy()
        y[1, 2] = odd
        data = npz(tmp_path / "in.npz", x=x, y=y)
        text = tendon("validate", models / "fixed.onnx", plan, "--data", data, "--rtol=1e300", code=FAILED).stdout
        assert "worst [1, 2]" in text


def test_layers_name_the_first_that_differs(models, tmp_path):
    """The plan of another model with the same names: its first weights differ."""
    other = onnx.load(models / "fixed.onnx")
    (w1,) = [w for w in other.graph.initializer if w.name == "w1"]
    w1.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(w1) * 1.5, "w1"))
    onnx.save(other, tmp_path / "other.onnx")
    tendon("build", tmp_path / "other.onnx", "-o", tmp_path / "other.plan")
    run = tendon("validate", models / "fixed.onnx", tmp_path / "other.plan", "--layers", code=FAILED)
    assert re.search(r"first that differs: [ab] \(step 0\)", run.stdout)


# --- inspect


def test_inspect_a_model(models):
    text = tendon("inspect", models / "fixed.onnx").stdout
    for word in ("ai.onnx 17", "2x6", "2x3", "MatMul", "Relu", "45  in 2 initializers"):
        assert word in text
    about = json.loads(tendon("inspect", models / "fixed.onnx", "--json").stdout)
    assert about["parameters"] == 45 and about["unsupported"] == []
    assert {o["op"]: o["nodes"] for o in about["operators"]} == {"MatMul": 2, "Relu": 1}
    assert "(here 4x6)" in tendon("inspect", models / "mlp.onnx", "--shapes=x:4x6").stdout
    odd = json.loads(tendon("inspect", models / "odd.onnx", "--json", code=FAILED).stdout)
    assert [(u["node"], u["op"]) for u in odd["unsupported"]] == [("n1", "Wild"), ("n3", "Wilder")]


def test_inspect_a_plan(plan):
    text = tendon("inspect", plan).stdout
    for word in ("model_sha256", "--precision=fp32", "target ", "program 0: x 2x6", "steps", "buffers", "first"):
        assert word in text
    about = json.loads(tendon("inspect", plan, "--json").stdout)
    assert about["size"] == plan.stat().st_size and about["notes"]["model"] == "fixed.onnx"
    assert len(tendon("inspect", plan, "--all").stdout) > len(text)


# --- Bad files


def is_refused(*args):
    """Ends with words and an exit code that is not success, within a limit of memory, not by a signal."""
    run = subprocess.run([TENDON, *map(str, args)], capture_output=True, text=True, errors="replace", timeout=60)
    assert run.returncode in (FAILED, USAGE, INPUT), (args, run.returncode, run.stderr[-2000:])
    assert "tendon: " in run.stderr
    return run.stderr


def test_files_that_are_not_there_or_not_files(models, plan, tmp_path):
    data = npz(tmp_path / "in.npz", x=normal(2, 6))
    for bad in (tmp_path / "none", tmp_path, "/dev/null", "/dev/zero"):
        for line in (
            ["build", bad, "-o", tmp_path / "p"],
            ["run", bad, "-i", data],
            ["run", plan, "-i", bad],
            ["bench", bad],
            ["inspect", bad],
            ["validate", bad],
            ["validate", models / "fixed.onnx", bad],
        ):
            assert str(bad) in is_refused(*line)


def test_a_model_is_no_plan_and_a_plan_no_model(models, plan, tmp_path):
    assert "plan" in is_refused("build", plan, "-o", tmp_path / "p")
    assert "plan" in is_refused("validate", plan)
    is_refused("validate", models / "fixed.onnx", models / "fixed.onnx")
    for rubbish in (b"", b"x", b"rubbish" * 100, bytes(1000), os.urandom(3000)):
        (tmp_path / "r").write_bytes(rubbish)
        assert "ONNX" in is_refused("inspect", tmp_path / "r")


def test_truncated_plans_and_models(models, plan, tmp_path):
    cut, data = tmp_path / "cut", npz(tmp_path / "in.npz", x=normal(2, 6))
    for source in (plan, models / "fixed.onnx"):
        whole = source.read_bytes()
        for size in sorted({0, 1, 7, 11, 12, 64, 100, len(whole) // 2, len(whole) - 64, len(whole) - 1}):
            cut.write_bytes(whole[:size])
            is_refused("run", cut, "-i", data)


def test_flipped_bits_in_plans(models, plan, tmp_path):
    """Every byte of a plan is covered by a checksum, so each flip is found."""
    whole, flipped = plan.read_bytes(), tmp_path / "flipped"
    data, rng = npz(tmp_path / "in.npz", x=normal(2, 6)), random.Random(1)
    for bit in [rng.randrange(8 * len(whole)) for _ in range(60)]:
        bytes_ = bytearray(whole)
        bytes_[bit // 8] ^= 1 << bit % 8
        flipped.write_bytes(bytes_)
        is_refused("run", flipped, "-i", data)


def test_flipped_bits_in_models(models, tmp_path):
    """Models have no checksum: a flip may give another valid model, but never a crash."""
    whole, rng = (models / "fixed.onnx").read_bytes(), random.Random(2)
    data, flipped = npz(tmp_path / "in.npz", x=normal(2, 6)), tmp_path / "flipped.onnx"
    codes = set()
    for bit in [rng.randrange(8 * len(whole)) for _ in range(80)]:
        bytes_ = bytearray(whole)
        bytes_[bit // 8] ^= 1 << bit % 8
        flipped.write_bytes(bytes_)
        run = subprocess.run([TENDON, "run", flipped, "-i", data], capture_output=True, timeout=60)
        assert run.returncode in (DONE, INPUT), (bit, run.returncode, run.stderr)
        codes.add(run.returncode)
    assert codes == {DONE, INPUT}


def hostile_models(folder):
    """(name, nodes, inputs, outputs, weights) that break rules, each in one way."""
    x, y, relu = value("x", F32, [1, 4]), value("y", F32, [1, 4]), "Relu"
    node = helper.make_node
    tensor = {"name": "w", "data_type": F32}
    huge = TensorProto(**tensor, dims=[2**31, 2**31, 2**31], raw_data=b"")
    negative = TensorProto(**tensor, dims=[-4], raw_data=b"")
    short = TensorProto(**tensor, dims=[1, 4], raw_data=bytes(15))
    external = {**tensor, "dims": [1, 4], "data_location": TensorProto.EXTERNAL}
    outside, missing, offset = (TensorProto(**external) for _ in range(3))
    for tensor, entries in [
        (outside, {"location": "../secret.bin"}),
        (missing, {"location": "missing.bin"}),
        (offset, {"location": "weights.bin", "offset": "-8", "length": "16"}),
    ]:
        for key, text in entries.items():
            tensor.external_data.add(key=key, value=text)
    (folder.parent / "secret.bin").write_bytes(bytes(16))
    (folder / "weights.bin").write_bytes(bytes(16))
    add = [node("Add", ["x", "w"], ["y"])]
    yield "cycle", [node(relu, ["b"], ["a"]), node(relu, ["a"], ["b"]), node(relu, ["b"], ["y"])], [x], [y], []
    yield "undefined", [node(relu, ["nothing"], ["y"])], [x], [y], []
    yield "twice", [node(relu, ["x"], ["y"]), node(relu, ["x"], ["y"])], [x], [y], []
    yield "no_output", [node(relu, ["x"], ["z"])], [x], [y], []
    yield "huge_input", [node(relu, ["x"], ["y"])], [value("x", F32, [2**40, 2**40])], [value("y", F32, None)], []
    yield "huge_weight", add, [x], [y], [huge]
    yield "negative_weight", add, [x], [y], [negative]
    yield "short_weight", add, [x], [y], [short]
    yield "outside", add, [x], [y], [outside]
    yield "missing", add, [x], [y], [missing]
    yield "offset", add, [x], [y], [offset]
    yield "axis", [node("Softmax", ["x"], ["y"], axis=7)], [x], [y], []
    yield "count", [node("Add", ["x"], ["y"])], [x], [y], []
    expand = numpy_helper.from_array(np.array([2**31, 2**31, 4]), "w")
    yield "expand", [node("Expand", ["x", "w"], ["y"])], [x], [value("y", F32, None)], [expand]


def test_hostile_models(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for name, nodes, inputs, outputs, weights in hostile_models(folder):
        path = folder / f"{name}.onnx"
        graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path.write_bytes(model.SerializeToString())
        start = time.monotonic()
        words = is_refused("build", path, "-o", tmp_path / "p")
        assert time.monotonic() - start < 30 and path.name in words, (name, words)
        assert not (tmp_path / "p").exists()


def test_damaged_data(plan, tmp_path):
    good = npz(tmp_path / "good.npz", x=normal(2, 6)).read_bytes()
    bad = tmp_path / "bad.npz"
    for size in range(0, len(good), 17):
        bad.write_bytes(good[:size])
        assert "bad.npz" in is_refused("run", plan, "-i", bad)
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("x.npy", b"not an array")
    assert "'x'" in is_refused("run", plan, "-i", bad)


# --- Terminals


def on_a_terminal(*args):
    """Everything that the command writes to a terminal."""
    try:
        master, slave = pty.openpty()
    except OSError as error:
        pytest.skip(f"no terminal to be had: {error}")
    env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"}
    run = subprocess.Popen([TENDON, *map(str, args)], stdout=slave, stderr=slave, env=env)
    os.close(slave)
    text = b""
    while select.select([master], [], [], 60)[0]:
        try:
            more = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        text += more
    os.close(master)
    run.wait(timeout=60)
    return text.decode()


def test_colour_and_progress_on_a_terminal_only(models, plan, tmp_path):
    bars = on_a_terminal("build", models / "fixed.onnx", "-o", tmp_path / "p")
    assert "[2/5]" in bars and " %" in bars and "\033[K" in bars
    line = ["bench", plan, "--duration=0.3", "--warmup=0"]
    assert "measuring [" in on_a_terminal(*line)
    assert "\033[" in on_a_terminal("inspect", models / "odd.onnx")
    for run in (tendon(*line), tendon("inspect", models / "odd.onnx", code=FAILED)):
        assert "\033" not in run.stdout + run.stderr and "\r" not in run.stdout + run.stderr


# --- Operators of the user's own


@pytest.mark.small
def test_operators_from_a_library(tmp_path):
    library = Path(TENDON).parent / "examples" / "teager.so"
    model = ROOT / "examples" / "operator" / "teager.onnx"
    plan, out = tmp_path / "p.plan", tmp_path / "out.npz"
    tendon("build", model, "-o", plan, code=INPUT)
    tendon("build", model, "-o", plan, "--operators", library)
    x = normal(1, 200, 4)
    inputs = npz(tmp_path / "in.npz", emg=x)
    run = tendon("run", plan, "-i", inputs, "-o", out, code=INPUT)
    assert "'emg::TeagerKaiser'" in run.stderr
    tendon("run", plan, "-i", inputs, "-o", out, "--operators", library)
    inner = x[:, 1:-1] ** 2 - x[:, :-2] * x[:, 2:]
    want = np.concatenate([inner[:, :1], inner, inner[:, -1:]], 1).mean(1)
    np.testing.assert_allclose(np.load(out)["energy"], want, rtol=1e-4, atol=1e-4)
    tendon("validate", model, plan, "--operators", library)
    tendon("inspect", model, "--operators", library)
    for wrong in ("nothing.so", library.with_name("minimal"), library.parents[1] / "libtendon.so"):
        tendon("inspect", model, "--operators", wrong, code=INPUT)
