# SPDX-License-Identifier: Apache-2.0
"""Builds in 8 bits from Python: the same ranges and plans as the command's, samples in every form, what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.small

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
BUILD = Path(TENDON).resolve().parent
if any(mark in (BUILD / "libtendon.so").read_bytes() for mark in (b"__asan_init", b"__tsan_init")):
    pytest.skip("libraries with sanitizers cannot be loaded into Python", allow_module_level=True)
os.environ["TENDON_LIBRARY_PATH"] = str(BUILD)
sys.path.insert(0, str(ROOT / "python"))

import tendon  # noqa: E402
from tendon import _c  # noqa: E402

FLAGS = b"--precision=int8 --optimization-level=0"  # as the command notes them in its plans
METHODS = ["entropy", "minmax", "percentile", "percentile=99.5"]


def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def save(path, nodes, inputs, outputs, weights):
    init = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=init)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def network(path, batch=2):
    """Wide enough for arithmetic in 8 bits; two inputs."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "v"], ["d"], pads=[1, 1]),
        helper.make_node("Add", ["d", "b"], ["y"]),
    ]
    weights = {"w": normal(64, 64, 3, seed=2) / 14, "v": normal(64, 64, 3, seed=3) / 14}
    inputs = [value("x", [batch, 64, 40]), value("b", [batch, 64, 1])]
    return save(path, nodes, inputs, [value("y", [batch, 64, 40])], weights)


SAMPLES = {"x": normal(12, 64, 40, seed=4), "b": normal(12, 64, 1, seed=5)}
CALLS = [{name: array[k : k + 2] for name, array in SAMPLES.items()} for k in range(0, 12, 2)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return network(tmp_path_factory.mktemp("model") / "m.onnx")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Named as the package names its samples in plans and caches."""
    path = tmp_path_factory.mktemp("data") / "calib_data"
    with open(path, "wb") as file:
        np.savez(file, **SAMPLES, label=np.zeros(12), y=normal(12, 64, 40))
    return path


@pytest.fixture(autouse=True)
def flags(monkeypatch):
    """The package notes no flags in plans: with the command's its plans can be compared with the command's."""
    c = _c.compiler()
    for name in ("tdn_build", "tdn_build_file"):

        def spy(model, o, *rest, build=getattr(c, name)):
            o.flags = FLAGS
            return build(model, o, *rest)

        monkeypatch.setattr(c, name, spy)


def build(model, plan=None, **options):
    return tendon.build(model, plan, optimization_level=0, **{"precision": "int8", **options})


def command(model, plan, *options):
    line = [TENDON, "build", model, "-o", plan, "--precision=int8", "--optimization-level=0", *options]
    run = subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    return Path(plan).read_bytes()


# ---- The command's plans and caches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_plan_and_cache_are_the_commands(model, data, tmp_path, method):
    wanted = command(model, tmp_path / "p", f"--calib-data={data}", f"--calib-method={method}", f"--calib={tmp_path}/c")
    plan, cache = tmp_path / "mine.p", tmp_path / "mine.c"
    build(model, plan, calib_data=SAMPLES, calib_method=method, calib=cache)
    assert plan.read_bytes() == wanted
    for mine, theirs in ((cache, tmp_path / "c"), (f"{cache}.json", f"{tmp_path}/c.json")):
        assert Path(mine).read_bytes() == Path(theirs).read_bytes()


def refilled():
    """Fills one buffer again and again."""
    feed = {name: np.empty_like(array) for name, array in CALLS[0].items()}
    for call in CALLS:
        for name, array in call.items():
            feed[name][:] = array
        yield feed


@pytest.mark.parametrize(
    "samples",
    [
        lambda data: np.load(data),
        lambda data: {name: array.reshape(-1, 2, *array.shape[1:]) for name, array in SAMPLES.items()},
        lambda data: {"x": np.asfortranarray(SAMPLES["x"]), "b": SAMPLES["b"]},
        lambda data: CALLS,
        lambda data: iter(CALLS[::-1]),
        lambda data: refilled(),
    ],
    ids=["npz", "axis in front", "not contiguous", "list", "iterator", "one buffer"],
)
def test_samples_in_every_form(model, data, samples):
    assert build(model, calib_data=samples(data)) == build(model, calib_data=SAMPLES)


@pytest.mark.parametrize(
    "options, flags",
    [
        ({}, []),
        ({"shapes": {"x": (4, 64, 40), "b": (4, 64, 1)}}, ["--shapes=x:4x64x40,b:4x64x1"]),
        ({"opt_shapes": {"x": (3, 64, 40), "b": (3, 64, 1)}}, ["--opt-shapes=x:3x64x40,b:3x64x1"]),
    ],
)
def test_an_open_batch_is_cut_as_the_command_does(data, tmp_path, options, flags):
    model = network(tmp_path / "m.onnx", "n")
    command(model, tmp_path / "p", f"--calib-data={data}", f"--calib={tmp_path}/c", *flags)
    build(model, calib_data=SAMPLES, calib=tmp_path / "mine", **options)
    assert (tmp_path / "mine.json").read_text() == (tmp_path / "c.json").read_text()


def test_states_go_on_from_call_to_call(tmp_path):
    nodes = [helper.make_node("Add", ["x", "s"], ["next"])]
    model = save(tmp_path / "m", nodes, [value("x", [1, 2]), value("s", [1, 2])], [value("next", [1, 2])], {})
    x = np.array([[1, 2], [-3, 4], [5, -6]], np.float32)
    for name, samples in (("a", {"x": x}), ("b", [{"x": x[k : k + 1]} for k in range(3)])):
        build(model, calib_data=samples, calib=tmp_path / name, calib_method="minmax", states={"s": "next"})
    ranges = dict(line.split(": ") for line in (tmp_path / "a").read_text().splitlines()[1:])
    assert np.array(int(ranges["next"], 16), np.uint32).view(np.float32) == np.float32(np.cumsum(x, 0).max() / 127)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()


def test_a_session_in_8_bits(model):
    session = tendon.InferenceSession(model, precision="int8", calib_data=iter(CALLS), optimization_level=0)
    (got,), (exact,) = session.run(None, CALLS[0]), tendon.reference(model, CALLS[0])
    assert 0 < np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2)) < 0.05


def test_a_session_of_open_shapes_takes_a_cache(tmp_path):
    model = network(tmp_path / "m.onnx", "n")
    build(model, calib_data=SAMPLES, calib=tmp_path / "c")
    session = tendon.InferenceSession(model, precision="int8", calib=tmp_path / "c", optimization_level=0)
    for n in (1, 3):
        feed = {name: array[:n] for name, array in SAMPLES.items()}
        assert (session.run(None, feed)[0] != tendon.reference(model, feed)[0]).any()


def test_open_axes_and_scalars_are_as_the_arrays_have_them(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "s"], ["y"])]
    model = save(tmp_path / "m", nodes, [value("x", ["n", "t"]), value("s", [])], [value("y", ["n", "t"])], {})
    x, s = normal(1, 7), np.float32(2)
    for name, samples in (("a", {"x": x, "s": s}), ("b", [{"x": x, "s": s}])):
        build(model, calib_data=samples, calib=tmp_path / name)
    assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text()
    with pytest.raises(tendon.ShapeError, match="'x' as 3x7, 's' as scalar"):
        build(model, calib_data={"x": normal(3, 7), "s": s})


def test_progress_tells_of_calibrating(model):
    seen = []
    build(model, calib_data=SAMPLES, progress=lambda *a: seen.append(a))
    assert "Counting" in [what for _, _, what, _ in seen]
    assert all(1 <= phase <= n and 0 <= fraction <= 1 for phase, n, _, fraction in seen)


def test_halves_that_overflow_are_named(tmp_path):
    nodes = [helper.make_node("Mul", ["x", "k"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    weights = {"k": np.full(1, 30000, np.float32), "w": normal(64, 64)}
    model = save(tmp_path / "m", nodes, [value("x", [64, 64])], [value("y", [64, 64])], weights)
    lines = []
    options = {"precision": "fp16", "targets": ["avx512-fp16"], "log": lambda level, line: lines.append((level, line))}
    build(model, calib_data={"x": normal(64, 64)}, **options)
    assert any(level == "warning" and "'a'" in line for level, line in lines), lines


# ---- The cache -------------------------------------------------------------------------------------------------------


def test_a_cache_is_written_once_and_read_then(model, tmp_path):
    cache = tmp_path / "c"
    wanted = build(model, calib_data=SAMPLES, calib_method="percentile=99.5", calib=cache)
    made = cache.stat().st_mtime_ns
    for options in ({}, {"calib_data": CALLS}, {"calib_method": "percentile=99.5"}):
        assert build(model, calib=cache, **options) == wanted
    assert cache.stat().st_mtime_ns == made
    assert command(model, tmp_path / "p", f"--calib={cache}") == wanted


@pytest.mark.parametrize(
    "options, what",
    [
        ({"calib_method": "minmax"}, "the method changed"),
        ({"calib_data": CALLS[1:]}, "the data changed"),
        ({"calib_data": {"x": -SAMPLES["x"], "b": SAMPLES["b"]}}, "the data changed"),
    ],
)
def test_a_stale_cache_is_refused(model, tmp_path, options, what):
    build(model, calib_data=SAMPLES, calib=tmp_path / "c")
    with pytest.raises(tendon.Error, match=f"stale: {what}") as raised:
        build(model, tmp_path / "p", calib=tmp_path / "c", **options)
    assert raised.value.status is tendon.Status.FORMAT and not (tmp_path / "p").exists()


def test_a_cache_of_another_model_is_refused(model, tmp_path):
    build(model, calib_data=SAMPLES, calib=tmp_path / "c")
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    other = save(tmp_path / "m", nodes, [value("x", [1])], [value("y", [1])], {})
    with pytest.raises(tendon.Error, match="stale: the graph"):
        build(other, calib=tmp_path / "c")


def test_a_cache_of_tensorrt_is_taken(model, tmp_path):
    (tmp_path / "c").write_text("TRT-8601-EntropyCalibration2\nx: 3d000000\nr: 3d000000\n")
    for options in ({}, {"calib_data": SAMPLES, "calib_method": "minmax"}):
        plan = tmp_path / "p"
        build(model, plan, calib=tmp_path / "c", **options)
        assert "TensorRT's EntropyCalibration2 cache" in tendon.inspect(plan)["notes"]["calibration"]


# ---- What is refused -------------------------------------------------------------------------------------------------


def with_(index, x):
    changed = SAMPLES["x"].copy()
    changed[index] = x
    return {**SAMPLES, "x": changed}


FEW = {name: array[:4] for name, array in SAMPLES.items()}
REFUSED = [
    (tendon.ArgumentError, "no array for input 'b'; the inputs are x, b", {"x": SAMPLES["x"]}),
    (tendon.ArgumentError, "no array for input 'b'", [*CALLS, {"x": CALLS[0]["x"]}]),
    (tendon.ArgumentError, "no input 'z'", {**SAMPLES, "z": SAMPLES["b"]}),
    (tendon.ArgumentError, "0 batches of data", []),
    (tendon.DtypeError, "'x' is float32, not float64", {**SAMPLES, "x": SAMPLES["x"].astype(float)}),
    (tendon.ShapeError, "'x' as 12x63x40, 'b' as 12x64x1: no .* 'x' as 2x64x40", {**SAMPLES, "x": SAMPLES["x"][:, 1:]}),
    (tendon.ShapeError, "'x' as 4x64x40, 'b' as 12x64x1", {**SAMPLES, "x": FEW["x"]}),
    (tendon.ShapeError, "'x' as 3x64x40", {name: array[:3] for name, array in SAMPLES.items()}),
    (tendon.ShapeError, "'x' as 0x64x40", {name: array[:0] for name, array in SAMPLES.items()}),
    (tendon.ShapeError, "'x' as 64x40", {**SAMPLES, "x": SAMPLES["x"][0]}),
    (tendon.ShapeError, "'x' as 4x64x40.* it has 2x64x40", [*CALLS, FEW]),
    (tendon.Error, "calib_data: input 'x' is NaN at element 2570 of batch 2", with_((5, 0, 10), np.nan)),
    (tendon.Error, "input 'x' is infinite at element 0 of batch 3", with_((6, 0, 0), -np.inf)),
]


@pytest.mark.parametrize("error, words, samples", REFUSED)
def test_bad_samples(model, tmp_path, error, words, samples):
    with pytest.raises(error, match=words):
        build(model, tmp_path / "p", calib_data=samples, calib=tmp_path / "c")
    assert not any(tmp_path.iterdir())


def test_samples_of_another_shape_than_the_models(model):
    with pytest.raises(tendon.Error) as raised:
        build(model, calib_data=[{"x": call["x"][:, 1:], "b": call["b"]} for call in CALLS])
    assert raised.value.status in (tendon.Status.SHAPE, tendon.Status.MODEL)


@pytest.mark.parametrize(
    "error, words, options",
    [
        (tendon.ArgumentError, "int8 needs sample data", {}),
        (tendon.ArgumentError, "int8 needs sample data", {"calib_method": "minmax"}),
        (tendon.FileError, "none", {"calib": "none"}),
        (tendon.ArgumentError, "for precision='int8'", {"precision": "fp32", "calib_data": SAMPLES}),
        (tendon.ArgumentError, "for precision='int8'", {"precision": "bf16", "calib_data": SAMPLES}),
        (tendon.ArgumentError, "for precision='int8'", {"precision": "fp16", "calib_method": "minmax"}),
        (tendon.ArgumentError, "for precision='int8'", {"precision": "fp16", "calib": "none"}),
        *[
            (tendon.ArgumentError, "entropy, minmax, percentile", {"calib_data": SAMPLES, "calib_method": method})
            for method in ("mean", "minmax=1", "percentile=", "percentile=x", "percentile=0", "percentile=101")
        ],
        (tendon.FileError, "nowhere", {"calib_data": SAMPLES, "calib": "nowhere/c"}),
    ],
)
def test_wrong_options(model, tmp_path, monkeypatch, error, words, options):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        build(model, "p", **options)
    assert not any(tmp_path.iterdir())


def test_a_model_with_scales_needs_no_samples(tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s"], ["y"]),
    ]
    model = save(tmp_path / "m", nodes, [value("x", [1, 3])], [value("y", [1, 3])], {"s": np.array(0.1, np.float32)})
    assert build(model)


@pytest.mark.parametrize("kind", [KeyError, KeyboardInterrupt, tendon.Error])
def test_what_the_samples_raise_comes_out(model, tmp_path, kind):
    def samples():
        yield from CALLS
        raise kind("cable", -7)

    with pytest.raises(kind) as raised:
        build(model, tmp_path / "p", calib_data=samples(), calib=tmp_path / "c")
    assert raised.value.args in (("cable", -7), ("cable",)) and not any(tmp_path.iterdir())


def test_what_a_signal_raises_ends_calibrating(model, tmp_path, monkeypatch):
    """A handler runs in whatever Python code is next: that which hands out the samples."""
    asked = []

    def next_of(batches):
        def interrupted(*_):
            asked.append(1)
            raise KeyboardInterrupt

        return interrupted

    monkeypatch.setattr(tendon, "_next_of", next_of)
    with pytest.raises(KeyboardInterrupt):
        build(model, tmp_path / "p", calib_data=SAMPLES, calib=tmp_path / "c")
    assert asked == [1] and not any(tmp_path.iterdir())
    monkeypatch.undo()
    assert build(model, calib_data=SAMPLES)


def test_ranges_are_freed(model, monkeypatch):
    freed, free = [], _c.compiler().tdn_calibration_free
    monkeypatch.setattr(_c.compiler(), "tdn_calibration_free", lambda pointer: (freed.append(1), free(pointer)))
    build(model, calib_data=SAMPLES)
    assert freed == [1]
