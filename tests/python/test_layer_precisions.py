# SPDX-License-Identifier: Apache-2.0
"""--layerPrecisions: which layers are kept in float32, by name and by pattern, and what is no such name."""

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.small

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
DONE, USAGE = 0, 2
LAYERS = ["first", "block/a", "block/b", "net:last"]


def tendon(*args, code=DONE):
    line = [TENDON, *map(str, args)]
    run = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert run.returncode == code, f"{line}\n{run.stdout}{run.stderr}"
    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Three products of 128 x 128 and a last one that is too small a part of the work for int8."""
    rng, path = np.random.default_rng(1), tmp_path_factory.mktemp("layers") / "m.onnx"
    nodes, init, x = [], [], "x"
    for i, name in enumerate(LAYERS):
        w = rng.standard_normal((128, 128) if i < 3 else (128, 1)).astype(np.float32)
        init.append(numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [f"m{i}"], name=name))
        nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"], name=f"relu{i}"))
        x = f"r{i}"
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [8, k]) for n, k in (("x", 128), (x, 1))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], initializer=init)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def cache(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layers")
    np.savez(folder / "x.npz", x=np.random.default_rng(2).standard_normal((32, 128)).astype(np.float32))
    tendon("calibrate", model, f"--calib-data={folder}/x.npz", "-o", folder / "c")
    return folder / "c"


def build(model, cache, out, *options, code=DONE):
    return tendon("build", model, "-o", out, "--precision=int8", f"--calib={cache}", "--optimization-level=0", *options, code=code)


def int8_layers(run):
    """Of the lines "int8: 33.21 % of the work, NAME"."""
    rows = [line.split(": ", 1) for line in (run.stdout + run.stderr).splitlines() if " % of the work, " in line]
    assert [row[1].split(", ")[1] for row in rows] == LAYERS
    return [row[1].split(", ")[1] for row in rows if row[0] == "int8"]


@pytest.mark.parametrize(
    "options, wanted",
    [
        ([], LAYERS[:3]),
        (["--layerPrecisions=first:fp32"], LAYERS[1:3]),
        (["--layerPrecisions=first:fp32,block/b:fp32"], LAYERS[1:2]),
        (["--layerPrecisions=first:fp32", "--layerPrecisions=block/b:fp32"], LAYERS[1:2]),
        (["--layerPrecisions=block/?:fp32"], LAYERS[:1]),
        (["--layerPrecisions=*:fp32"], []),
        (["--layerPrecisions=*:fp32,b*a:int8"], ["block/a"]),
        (["--layerPrecisions=block/a:int8,*:fp32"], []),  # the last that matches
        (["--layerPrecisions=net:last:int8"], LAYERS),
        (["--layerPrecisions='net:last':int8,first:fp32"], LAYERS[1:]),
    ],
)
def test_the_last_pattern_that_matches_decides(model, cache, tmp_path, options, wanted):
    assert int8_layers(build(model, cache, tmp_path / "p", "--verbose", *options)) == wanted
    said = tendon("inspect", tmp_path / "p", "--json").stdout
    assert all(option in said for option in options)  # recorded


def test_what_is_kept_is_computed_in_float32(model, cache, tmp_path):
    """The same bytes of weights as a build in float32."""
    run = build(model, cache, tmp_path / "p", "--layerPrecisions=*:fp32")
    plain = tendon("build", model, "-o", tmp_path / "q", "--optimization-level=0")
    weights = [next(line for line in r.stdout.splitlines() if "Weights" in line) for r in (run, plain)]
    assert weights[0] == weights[1]
    assert build(model, cache, tmp_path / "r").stdout.count(weights[0]) == 0


@pytest.mark.parametrize(
    "option, code, words",
    [
        ("none:fp32", USAGE, ["'none'", "first, block/a, block/b, net:last", "--verbose"]),
        ("first:fp32,relu?:fp32", USAGE, ["'relu?'"]),
        ("first:fp16", USAGE, ["'first'", "not every target multiplies fp16"]),
        ("first:int4", USAGE, ["NAME:fp32"]),
        ("first", USAGE, ["'first'", "NAME:fp32"]),
        (":fp32", USAGE, ["NAME:fp32"]),
    ],
)
def test_what_is_no_layer_is_refused(model, cache, tmp_path, option, code, words):
    run = build(model, cache, tmp_path / "p", "--target=x86-64-v3", f"--layerPrecisions={option}", code=code)
    assert all(w in run.stderr for w in words) and not any(tmp_path.iterdir()), run.stderr


def test_they_go_with_int8(model, tmp_path):
    run = tendon("build", model, "-o", tmp_path / "p", "--layerPrecisions=first:fp32", code=USAGE)
    assert "int8" in run.stderr and not any(tmp_path.iterdir())


def test_trtexec_has_the_flag(model, cache):
    line = [TENDON, "trtexec", f"--onnx={model}", "--skipInference", "--builderOptimizationLevel=0", "--verbose", f"--calib={cache}"]
    run = subprocess.run([*line, "--int8", "--layerPrecisions=*:fp32,block/?:int8"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0
    rows = [line for line in run.stdout.splitlines() if " % of the work, " in line]
    assert [row.split(", ")[-1] for row in rows if "int8: " in row] == LAYERS[1:3]
    for options, word in [
        (["--layerPrecisions=first:fp32"], "--int8"),
        (["--int8", "--layerPrecisions=none:fp32"], "'none'"),
    ]:
        run = subprocess.run([*line, *options], capture_output=True, text=True, timeout=120)
        assert run.returncode == 1 and word in run.stderr
