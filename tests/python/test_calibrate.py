# SPDX-License-Identifier: Apache-2.0
"""Calibration: thresholds against plain computations, the cache's form, what is stale, and what it says of bad data.

The model's values are sums of few multiples of 1/1024, exact in float32: what is compared has the same bits everywhere.
"""

import json
import os
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.small

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
DONE, FAILED, USAGE, INPUT = 0, 1, 2, 3
F32 = TensorProto.FLOAT
TITLE = "TRT-101601-EntropyCalibration2"
WEIGHTS = np.array([[1, -0.5, 0, 0.25], [0.5, 1, -1, 0], [0, 0.25, 2, -0.5]], np.float32)


def tendon(*args, code=DONE, **options):
    line = [TENDON, *map(str, args)]
    run = subprocess.run(line, capture_output=True, text=True, timeout=120, **options)
    assert code is None or run.returncode == code, f"{line}\n{run.stdout}{run.stderr}"
    if code in (USAGE, INPUT):
        assert "tendon: " in run.stderr and len(run.stderr.splitlines()) <= 4, run.stderr
    return run


def value(name, shape):
    return helper.make_tensor_value_info(name, F32, shape)


def save(path, nodes, inputs, outputs, weights):
    init = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=init)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def network(path, weights=WEIGHTS, op="Relu", batch=2):
    """r = max(x, 0) and p = x w: a value that is never negative and one that is."""
    nodes = [
        helper.make_node(op, ["x"], ["r"], name="first"),
        helper.make_node("MatMul", ["x", "w"], ["a:p"], name="p"),
    ]
    outputs = [value("r", [batch, 5, 3]), value("a:p", [batch, 5, 4])]
    return save(path, nodes, [value("x", [batch, 5, 3])], outputs, {"w": weights})


def samples(n=600, seed=3):
    x = np.random.default_rng(seed).laplace(0, 1.5, (n, 5, 3))
    x[n // 2, 2, 1] = 40  # far out
    return (np.round(x * 1024) / 1024).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return network(tmp_path_factory.mktemp("calibrate") / "m.onnx")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibrate") / "calib.npz"
    np.savez(path, x=samples())
    return path


@pytest.fixture
def cache(model, data, tmp_path):
    path = tmp_path / "made.calib"
    tendon("calibrate", model, f"--calib-data={data}", "-o", path)
    return path


def calibrate(model, data, out, *options):
    run = tendon("calibrate", model, f"--calib-data={data}", "-o", out, "--json", *options)
    return {r["name"]: r for r in json.loads(run.stdout)["ranges"]}


def build(model, out, *options, code=None):
    """In 8 bits. What comes after the ranges are there is not looked at here."""
    return tendon("build", model, "-o", out, "--precision=int8", "--optimization-level=0", *options, code=code)


# ---- Thresholds ------------------------------------------------------------------------------------------------------


def values(x):
    return {"x": x, "r": np.maximum(x, 0), "a:p": x @ WEIGHTS}


def bins_of(v, n):
    largest = np.abs(v).max()
    at = np.minimum((np.abs(v.astype(np.float64)).ravel() * (n / largest)).astype(int), n - 1)
    return np.bincount(at, minlength=n).astype(np.float64), float(largest)


def percentile(v, p):
    counts, largest = bins_of(v, 8192)
    return largest * (np.searchsorted(np.cumsum(counts), p / 100 * counts.sum()) + 1) / 8192


def entropy(v):
    """Migacz, "8-bit inference with TensorRT", GTC 2017, step by step."""
    counts, largest = bins_of(v, 2048)
    levels = 256 if v.min() >= 0 else 128
    counts[0] = counts[1]
    best = (np.inf, 2048)
    for i in range(levels, 2049):
        if counts[:i].sum() < 0.9999 * counts.sum():
            continue
        p = counts[:i].copy()
        p[-1] += counts[i:].sum()
        q = np.zeros(i)
        for level in range(levels):
            inside = np.arange(i) * levels // i == level
            filled = inside & (counts[:i] > 0)
            if filled.any():
                q[filled] = counts[:i][inside].sum() / filled.sum()
        if (q[p > 0] == 0).any():
            continue
        p, q = p / p.sum(), q / q.sum()
        divergence = (p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()
        if divergence <= best[0] + 1e-15:
            best = (divergence, i)
    return largest * best[1] / 2048


def rounded(amax):
    """To what a cache can hold, and JSON's digits."""
    return pytest.approx(float(np.float32(amax / 127)) * 127, rel=1e-8)


METHODS = {
    "entropy": entropy,
    "minmax": lambda v: float(np.abs(v).max()),
    "percentile": lambda v: percentile(v, 99.99),
    "percentile=99.5": lambda v: percentile(v, 99.5),
    "percentile=100": lambda v: float(np.abs(v).max()),
}


@pytest.mark.parametrize("method", METHODS)
def test_thresholds_are_those_of_a_plain_computation(model, data, tmp_path, method):
    found = calibrate(model, data, tmp_path / "c", f"--calib-method={method}")
    should = values(samples())
    assert set(found) == set(should)
    for name, v in should.items():
        r = found[name]
        assert (r["min"], r["max"]) == (v.min(), v.max()) and r["unsigned"] == (v.min() >= 0)
        wanted = METHODS[method](v)
        assert r["amax"] == rounded(wanted), name
        beyond = (np.abs(v) > wanted).mean()
        assert abs(r["clipped"] - beyond) < 2e-4 and (r["clipped"] == 0) == (wanted >= np.abs(v).max())
    if method in ("entropy", "percentile=99.5"):
        assert any(r["clipped"] > 0 for r in found.values())


def test_distributions_of_every_kind(tmp_path):
    rng = np.random.default_rng(8)
    kinds = {
        "uniform": rng.uniform(-1, 1, 4000),
        "normal": rng.standard_normal(4000),
        "sparse": np.where(rng.random(4000) < 0.97, 0, rng.exponential(2, 4000)),
        "two": np.concatenate([rng.normal(-9, 0.1, 2000), rng.normal(3, 0.1, 2000)]),
        "one": np.full(4000, 0.75),
        "outlier": np.concatenate([rng.normal(0, 0.01, 3999), [100]]),
    }
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    out = save(tmp_path / "i.onnx", nodes, [value("x", [1, 40])], [value("y", [1, 40])], {})
    for name, x in kinds.items():
        x = x.astype(np.float32).reshape(-1, 40)
        np.savez(tmp_path / "x.npz", x=x)
        found = calibrate(out, tmp_path / "x.npz", tmp_path / "c")
        for key, v in (("x", x), ("y", -x)):
            assert found[key]["amax"] == rounded(entropy(v)), name


def test_zeros_have_a_range(tmp_path, model):
    np.savez(tmp_path / "x.npz", x=np.zeros((4, 5, 3), np.float32))
    for method in METHODS:
        for r in calibrate(model, tmp_path / "x.npz", tmp_path / "c", f"--calib-method={method}").values():
            assert r["amax"] > 0 and r["clipped"] == 0


def test_neither_order_nor_threads_change_a_bit(model, data, tmp_path):
    x = samples().reshape(300, 2, 5, 3)
    np.savez(tmp_path / "calib.npz", x=x[np.random.default_rng(1).permutation(300)].reshape(600, 5, 3))
    wanted = None
    sources = [(data, ["--threads=1"]), (data, ["--threads=3"]), (tmp_path / "calib.npz", [])]
    for number, (source, options) in enumerate(sources):
        out = tmp_path / f"{number}.calib"
        tendon("calibrate", model, f"--calib-data={source}", "-o", out, *options)
        made = out.read_bytes(), Path(f"{out}.json").read_bytes()
        wanted = wanted or made
        assert made == wanted


def test_an_axis_of_samples_in_front(tmp_path, model, data):
    first = calibrate(model, data, tmp_path / "a")
    np.savez(tmp_path / "x.npz", x=samples().reshape(300, 2, 5, 3))
    assert calibrate(model, tmp_path / "x.npz", tmp_path / "b") == first
    open_batch = network(tmp_path / "n.onnx", batch="n")  # one sample a call
    assert calibrate(open_batch, data, tmp_path / "c") == first


def test_states_go_on_from_sample_to_sample(tmp_path):
    nodes = [helper.make_node("Add", ["x", "s"], ["next"])]
    path = save(tmp_path / "s.onnx", nodes, [value("x", [1, 2]), value("s", [1, 2])], [value("next", [1, 2])], {})
    x = np.array([[1, 2], [-3, 4], [5, -6]], np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    for options in ([], ["--shapes=s:1x2"]):
        found = calibrate(path, tmp_path / "x.npz", tmp_path / "c", "--state=s:next", "--calib-method=minmax", *options)
        assert (found["next"]["min"], found["next"]["max"]) == (np.cumsum(x, 0).min(), np.cumsum(x, 0).max())


# ---- The cache -------------------------------------------------------------------------------------------------------


def test_the_cache_is_tensorrts_bit_for_bit(model, data, tmp_path):
    found = calibrate(model, data, tmp_path / "c")
    lines = [TITLE] + [f"{n}: {struct.pack('>f', np.float32(r['amax'] / 127)).hex()}" for n, r in found.items()]
    assert (tmp_path / "c").read_text() == "\n".join(lines) + "\n"
    beside = json.loads((tmp_path / "c.json").read_text())
    assert beside["method"] == "entropy" and beside["n_batches"] == 300 and "calib.npz" in beside["origin"]
    assert [lines[i - 1].rsplit(": ", 1)[0] for i in beside["unsigned_lines"]] == ["r"]
    assert all(re.fullmatch("[0-9a-f]{64}", beside[k]) for k in ("graph_sha256", "weights_sha256", "data_sha256"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "c.json"]


def test_the_table(model, data, tmp_path):
    run = tendon("calibrate", model, f"--calib-data={data}", "-o", tmp_path / "c")
    lines = run.stdout.splitlines()
    assert lines[0].split() == ["min", "max", "range", "clipped", "value"] and run.stderr == ""
    assert sorted(line.split()[-1] for line in lines[1:4]) == ["a:p", "r", "x"]
    assert "300 batches of calib.npz" in lines[4] and "ranges of 3 values" in lines[5]


def test_a_build_writes_the_cache_and_the_next_one_reads_it(model, data, tmp_path):
    cache = tmp_path / "made.calib"
    first = build(model, tmp_path / "p", f"--calib={cache}", f"--calib-data={data}", "--calib-method=minmax")
    made = cache.read_bytes()
    assert made.startswith(TITLE.encode()) and "minmax, 300 batches of calib.npz" in first.stdout
    for options in ([], [f"--calib-data={data}"], ["--calib-method=minmax"]):
        assert "minmax, 300 batches" in build(model, tmp_path / "p", f"--calib={cache}", *options).stdout
    assert cache.read_bytes() == made


TENSORRT = (
    "TRT-8601-EntropyCalibration2\nx: 3e000000\r\nr: 3D1FFFFF\na:p: 3e800000\n"
    "(Unnamed Layer* 3) [Shuffle]: 3c010a14"
)
KINDS = ["EntropyCalibration2", "EntropyCalibration", "MinMaxCalibration", "LegacyCalibration"]


@pytest.mark.parametrize("kind", KINDS)
def test_caches_of_tensorrt_are_taken(model, tmp_path, kind):
    (tmp_path / "trt").write_bytes(TENSORRT.replace("EntropyCalibration2", kind).encode())
    run = build(model, tmp_path / "p", f"--calib={tmp_path}/trt")
    assert f"Calibration: TensorRT's {kind} cache, of unknown origin" in run.stdout
    assert "warning" in run.stderr and "origin is unknown" in run.stderr


def changed_weights(folder):
    w = WEIGHTS.copy()
    w[1, 2] += 1
    return network(folder / "m.onnx", w)


@pytest.mark.parametrize(
    "what, change",
    [
        ("the weights changed", changed_weights),
        ("the graph changed", lambda folder: network(folder / "m.onnx", op="Abs")),
    ],
)
def test_a_cache_of_another_model_is_stale(cache, tmp_path, what, change):
    plan = tmp_path / "p"
    run = build(change(tmp_path), plan, f"--calib={cache}", code=INPUT)
    assert "stale" in run.stderr and what in run.stderr and "calibrate" in run.stderr and not plan.exists()


def test_what_computes_the_same_is_not_stale(model, cache, tmp_path):
    """Names of nodes, documentation, and the form in which weights are stored."""
    m = onnx.load(model)
    m.doc_string, m.producer_name = "words", "another"
    m.graph.node[0].name = "renamed"
    w = m.graph.initializer[0]
    w.ClearField("raw_data")
    w.float_data.extend(WEIGHTS.ravel())
    onnx.save(m, tmp_path / "same.onnx")
    assert "stale" not in build(tmp_path / "same.onnx", tmp_path / "p", f"--calib={cache}").stderr


def test_other_data_or_another_method_is_stale(model, cache, data, tmp_path):
    other = samples()
    other[5, 1, 1] += 0.5
    np.savez(tmp_path / "calib.npz", x=other)
    before = cache.read_bytes()
    for options, what in [
        ([f"--calib-data={tmp_path}/calib.npz"], "the data changed"),
        (["--calib-method=minmax"], "the method changed"),
        ([f"--calib-data={tmp_path}/calib.npz", "--calib-method=percentile"], "the data and the method changed"),
    ]:
        run = build(model, tmp_path / "p", f"--calib={cache}", *options, code=INPUT)
        assert "stale" in run.stderr and what in run.stderr and not (tmp_path / "p").exists()
    assert cache.read_bytes() == before


DAMAGED = [
    (b"", "first line"),
    (b"\x89tdnplan\0\1\2\3", "first line"),
    (b"TRT-8601-Calibration\nx: 3c010a14\n", "first line"),
    (b"TRT--EntropyCalibration2\nx: 3c010a14\n", "first line"),
    (b"EntropyCalibration2\nx: 3c010a14\n", "first line"),
    (f"{TITLE}\n".encode(), "no ranges"),
    (f"{TITLE}\nx: 3c010a14\nr: 3c01".encode(), "line 3"),
    (f"{TITLE}\nx: 3c010a14\nr".encode(), "line 3"),
    (f"{TITLE}\nx: 3c010a1g\n".encode(), "line 2"),
    (f"{TITLE}\nx: 3c010a14 \n".encode(), "line 2"),
    (f"{TITLE}\nx: 0x3c010a\n".encode(), "line 2"),
    (f"{TITLE}\nx: 7fc00000\n".encode(), "line 2"),
    (f"{TITLE}\nx: 7f800000\n".encode(), "line 2"),
    (f"{TITLE}\nx: bc010a14\n".encode(), "line 2"),
    (f"{TITLE}\nx: 00000000\n".encode(), "line 2"),
    (f"{TITLE}\n: 3c010a14\n".encode(), "line 2"),
    (f"{TITLE}\nx:3c010a14\n".encode(), "line 2"),
    (f"{TITLE}\nx: 3c010a14\nr: 3c010a14\nx: 3c010a15\n".encode(), "two scales"),
    (f"{TITLE}\nx\0y: 3c010a14\n".encode(), "line 2"),
    (f"{TITLE}\n".encode() + bytes(range(128, 256)) + b"\x01: 3c010a14\n", "line 2"),
]


@pytest.mark.parametrize("bytes_, word", DAMAGED)
def test_damaged_caches(model, tmp_path, bytes_, word):
    (tmp_path / "c").write_bytes(bytes_)
    run = build(model, tmp_path / "p", f"--calib={tmp_path}/c", code=INPUT)
    assert word in run.stderr and f"{tmp_path}/c" in run.stderr
    assert os.listdir(tmp_path) == ["c"]


def test_a_huge_cache(model, tmp_path):
    with open(tmp_path / "c", "wb") as f:
        f.truncate(1 << 30)
    assert "64 MB" in build(model, tmp_path / "p", f"--calib={tmp_path}/c", code=INPUT).stderr


def test_the_same_line_twice_is_no_damage(model, tmp_path):
    (tmp_path / "c").write_text(f"{TITLE}\nx: 3c010a14\n\nx: 3c010a14\n")
    assert "unknown origin" in build(model, tmp_path / "p", f"--calib={tmp_path}/c").stdout


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda c, j: (c[: c.rindex(b"\n", 0, -1) + 1], j), "is not the cache"),  # cut at a line's end
        (lambda c, j: (c, b""), "damaged"),
        (lambda c, j: (c, j[:-20]), "damaged"),
        (lambda c, j: (c, b"[]"), "damaged"),
        (lambda c, j: (c, j.replace(b'"unsigned_lines": [', b'"unsigned_lines": [1, ')), "damaged"),
        (lambda c, j: (c, j.replace(b'"unsigned_lines": [', b'"unsigned_lines": [99, ')), "damaged"),
        (lambda c, j: (c, b"{}"), "damaged"),
    ],
)
def test_what_stands_beside_the_cache_is_checked(model, cache, tmp_path, change, word):
    beside = Path(f"{cache}.json")
    new = change(cache.read_bytes(), beside.read_bytes())
    cache.write_bytes(new[0])
    beside.write_bytes(new[1])
    assert word in build(model, tmp_path / "p", f"--calib={cache}", code=INPUT).stderr


def test_keys_of_later_versions_pass(model, cache, tmp_path):
    beside = Path(f"{cache}.json")
    beside.write_text(beside.read_text().replace("{", '{"later": "a \\u0041 \\"b\\"", "more": [1, 2], "n": 3,', 1))
    assert "Calibration: entropy" in build(model, tmp_path / "p", f"--calib={cache}").stdout


# ---- Bad data --------------------------------------------------------------------------------------------------------


def with_(index, x):
    a = samples(8)
    a[index] = x
    return a


BAD_DATA = [
    ({"y": samples(8)}, "'x'"),
    ({"x": samples(8), "z": samples(8)}, "'z'"),
    ({"x": samples(8).astype(np.float64)}, "float32"),
    ({"x": samples(8)[:, :4]}, "2x5x3"),
    ({"x": samples(7)}, "2x5x3"),
    ({"x": samples(8)[0]}, "dimensions"),
    ({"x": samples(8)[:0]}, "no samples"),
    ({"x": with_((5, 1, 2), np.nan)}, "input 'x' is NaN at element 20 of batch 2"),
    ({"x": with_((6, 0, 0), -np.inf)}, "input 'x' is infinite at element 0 of batch 3"),
]


@pytest.mark.parametrize("arrays, word", BAD_DATA)
def test_bad_data_is_refused_in_words(model, tmp_path, arrays, word):
    np.savez(tmp_path / "x.npz", **arrays)
    for run in (
        tendon("calibrate", model, f"--calib-data={tmp_path}/x.npz", "-o", tmp_path / "c", code=INPUT),
        build(model, tmp_path / "p", f"--calib-data={tmp_path}/x.npz", code=INPUT),
    ):
        assert word in run.stderr and "x.npz" in run.stderr
    assert os.listdir(tmp_path) == ["x.npz"]


def test_files_that_are_no_arrays(model, tmp_path):
    for path, word in [(tmp_path / "none.npz", "none.npz"), (model, "m.onnx")]:
        assert word in tendon("calibrate", model, f"--calib-data={path}", "-o", tmp_path / "c", code=INPUT).stderr
    assert not any(tmp_path.iterdir())


def test_channels_that_never_change_are_named(model, tmp_path):
    x = samples(8)
    x[:, :, 1] = 0.5
    np.savez(tmp_path / "x.npz", x=x)
    run = tendon("calibrate", model, f"--calib-data={tmp_path}/x.npz", "-o", tmp_path / "c")
    assert re.search(r"warning: input 'x' never changes in 1 of 3 channels \(axis 2, number 1\)", run.stderr)


def test_values_inside_that_are_not_finite_are_left_out(tmp_path):
    nodes = [helper.make_node("Log", ["x"], ["y"])]
    path = save(tmp_path / "l.onnx", nodes, [value("x", [1, 3])], [value("y", [1, 3])], {})
    np.savez(tmp_path / "x.npz", x=np.array([[0, 1, 4], [-1, 2, 8]], np.float32))
    run = tendon("calibrate", path, f"--calib-data={tmp_path}/x.npz", "-o", tmp_path / "c", "--json")
    r = {r["name"]: r for r in json.loads(run.stdout)["ranges"]}["y"]
    assert r["min"] == 0 and abs(r["max"] - np.log(8)) < 1e-6
    assert "warning: value 'y': 2 of 6 numbers are NaN or infinite" in run.stderr


# ---- The command line ------------------------------------------------------------------------------------------------


def test_int8_needs_samples(model, tmp_path):
    run = build(model, tmp_path / "p", code=USAGE)
    assert "int8 needs sample data: --calib-data" in run.stderr and not any(tmp_path.iterdir())


def test_a_model_with_scales_needs_none(tmp_path):
    scale, zero = np.array(0.1, np.float32), np.array(0, np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    path = save(tmp_path / "q.onnx", nodes, [value("x", [1, 3])], [value("y", [1, 3])], {"s": scale, "z": zero})
    assert "needs sample data" not in build(path, tmp_path / "p").stderr


@pytest.mark.parametrize(
    "options, code, word",
    [
        (["-o", "c"], USAGE, "--calib-data"),
        (["--calib-data={data}"], USAGE, "-o"),
        (["--calib-data={data}", "-o", "{model}"], USAGE, "overwrite"),
        (["--calib-data={data}", "-o", "{data}"], USAGE, "overwrite"),
        (["--calib-data={data}", "-o", "no/c"], INPUT, "folder"),
        (["--calib-data={data}", "-o", "c", "--calib-method=mean"], USAGE, "entropy, minmax, percentile"),
        (["--calib-data={data}", "-o", "c", "--calib-method=percentile=101"], USAGE, "50 to 100"),
        (["--calib-data={data}", "-o", "c", "--calib-method=percentile=x"], USAGE, "50 to 100"),
        (["--calib-data={data}", "-o", "c", "--shapes=z:1x2"], USAGE, "'z'"),
    ],
)
def test_wrong_usage_of_calibrate(model, data, tmp_path, options, code, word):
    options = [o.format(data=data, model=model) for o in options]
    before = model.read_bytes(), data.read_bytes()
    assert word in tendon("calibrate", model, *options, code=code, cwd=tmp_path).stderr
    assert not any(tmp_path.iterdir()) and (model.read_bytes(), data.read_bytes()) == before


def test_wrong_usage_of_build(model, data, tmp_path):
    plan = tmp_path / "p"
    for options, code, word in [
        ([f"--calib={tmp_path}/none"], INPUT, "there is no file"),
        ([f"--calib={plan}", f"--calib-data={data}"], USAGE, "another file"),
        ([f"--calib={data}", f"--calib-data={data}"], INPUT, "first line"),
        ([f"--calib-data={data}", "--calib-method=best"], USAGE, "entropy"),
        ([f"--calib-data={data}", "--precision=fp32"], USAGE, "--precision=int8"),
    ]:
        assert word in build(model, plan, *options, code=code).stderr
    assert not any(tmp_path.iterdir())


def test_a_failed_calibration_keeps_the_old_cache(model, cache, tmp_path):
    before = cache.read_bytes(), Path(f"{cache}.json").read_bytes()
    np.savez(tmp_path / "x.npz", x=with_((5, 1, 2), np.nan))
    tendon("calibrate", model, f"--calib-data={tmp_path}/x.npz", "-o", cache, code=INPUT)
    assert (cache.read_bytes(), Path(f"{cache}.json").read_bytes()) == before


# ---- trtexec ---------------------------------------------------------------------------------------------------------


def trtexec(model, *options):
    line = [TENDON, "trtexec", f"--onnx={model}", "--skipInference", "--builderOptimizationLevel=0", *map(str, options)]
    return subprocess.run(line, capture_output=True, text=True, timeout=120)


def test_trtexec_without_ranges_warns(model):
    run = trtexec(model, "--int8")
    assert "int8 without calibration: ranges come from random data" in run.stderr
    assert "Calibration: Dynamic" in run.stdout


def test_trtexec_reads_a_cache(model, cache, tmp_path):
    run = trtexec(model, "--int8", f"--calib={cache}")
    assert f"Calibration: {cache}" in run.stdout and "random data" not in run.stderr and "stale" not in run.stderr
    run = trtexec(changed_weights(tmp_path), "--int8", f"--calib={cache}")
    assert run.returncode == 1 and "the weights changed" in run.stderr
    for options, word in [(["--int8", f"--calib={tmp_path}/none"], "No such file"), ([f"--calib={cache}"], "--int8")]:
        run = trtexec(model, *options)
        assert run.returncode == 1 and word in run.stderr and "Device" not in run.stdout


# ---- Plans -----------------------------------------------------------------------------------------------------------


def conv_network(path):
    """Wide enough for arithmetic in 8 bits."""
    rng = np.random.default_rng(6)
    nodes, weights, at = [], {}, "x"
    for i in range(3):
        weights[f"w{i}"] = (rng.standard_normal((64, 64, 3)) / 14).astype(np.float32)
        nodes.append(helper.make_node("Conv", [at, f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=[1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}"))
        at = f"r{i}"
    return save(path, nodes, [value("x", [1, 64, 50])], [value(at, [1, 64, 50])], weights)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide")
    np.savez(folder / "calib.npz", x=np.random.default_rng(7).standard_normal((16, 64, 50)).astype(np.float32))
    return conv_network(folder / "wide.onnx"), folder / "calib.npz"


def test_a_plan_from_the_cache_is_that_from_the_samples(wide, tmp_path):
    model, data = wide
    plans = [tmp_path / name for name in ("samples", "writes", "reads")]
    cache = tmp_path / "c"
    build(model, plans[0], f"--calib-data={data}", code=DONE)
    build(model, plans[1], f"--calib-data={data}", f"--calib={cache}", code=DONE)
    build(model, plans[2], f"--calib={cache}", code=DONE)
    assert len({plan.read_bytes() for plan in plans}) == 1
    notes = json.loads(tendon("inspect", plans[0], "--json").stdout)["notes"]
    assert re.fullmatch(r"entropy, 16 batches of calib.npz, sha256 [0-9a-f]{12}", notes["calibration"])
    assert f"calibration  {notes['calibration']}\n" in tendon("inspect", plans[0]).stdout
    out = tendon("validate", model, plans[0], f"--data={data}", "--atol=1", "--rtol=1")
    assert f"calibration: {notes['calibration']}\n" in out.stdout and out.stderr == ""
    for command in ("run", "bench"):
        assert "--calib" in tendon(command, plans[0], "--calib=c", code=USAGE).stderr


def test_a_model_is_compiled_in_8_bits_in_passing(wide, tmp_path):
    model, data = wide
    build(model, tmp_path / "p", f"--calib-data={data}", code=DONE)
    results = []
    for source in ([tmp_path / "p"], [model, "--precision=int8", f"--calib-data={data}"], [model]):
        tendon("run", *source, f"--inputs={data}", f"--outputs={tmp_path}/o.npz")
        results.append(np.load(tmp_path / "o.npz")["r2"])
    assert np.array_equal(results[0], results[1]) and not np.array_equal(results[0], results[2])
    error = results[0] - results[2]
    assert np.sqrt((error**2).mean() / (results[2] ** 2).mean()) < 0.05
    assert "int8 needs sample data" in tendon("run", model, "--precision=int8", f"--inputs={data}", code=USAGE).stderr


def test_a_plan_that_is_not_calibrated_says_so(wide, tmp_path):
    model, data = wide
    plan = tmp_path / "p"
    assert trtexec(model, "--int8", f"--saveEngine={plan}").returncode == 0
    assert "calibration  none: seeded random data\n" in tendon("inspect", plan).stdout
    validate = ["validate", model, plan, "--atol=9", "--rtol=9"]
    for line in (["run", plan, f"--inputs={data}"], validate, ["bench", plan, "--duration=0.1"]):
        assert "warning: the engine's 8-bit ranges were not calibrated" in tendon(*line).stderr


# ---- A trained network -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["entropy", "minmax", "percentile"])
def test_the_emg_network(tmp_path, method):
    """Every convolution's input has a range, whose ends are onnxruntime's."""
    import onnxruntime as ort

    path, windows = ROOT / "examples/emg/emg_tcn.onnx", np.load(ROOT / "examples/emg/calib.npz")["emg"][::16]
    np.savez(tmp_path / "calib.npz", emg=windows)
    found = calibrate(path, tmp_path / "calib.npz", tmp_path / "c", f"--calib-method={method}")
    m = onnx.load(path)
    inputs = {n.input[0] for n in m.graph.node if n.op_type == "Conv"} - {"/Transpose_output_0"}
    assert inputs | {"emg"} <= set(found) and len(inputs) == 5
    for name in inputs:
        m.graph.output.append(value(name, None))
    session = ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"])
    values = [session.run(sorted(inputs), {"emg": w[None]}) for w in windows]
    for i, name in enumerate(sorted(inputs)):
        v, r = np.stack([row[i] for row in values]), found[name]
        assert r["unsigned"] and r["min"] == 0 and r["max"] == pytest.approx(v.max(), rel=1e-4)
        assert r["clipped"] <= 1.1e-4 and (method != "minmax" or r["amax"] == pytest.approx(v.max(), rel=1e-4))
