# SPDX-License-Identifier: Apache-2.0
"""Engines that multiply halves and keep them between layers: where, which layers, and values that would overflow."""

import json
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
LAYERS = ["first", "second", "last"]


def tendon(*args, code=DONE):
    line = [TENDON, *map(str, args)]
    run = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert run.returncode == code, f"{line}\n{run.stdout}{run.stderr}"
    return run


def save(path, nodes, init, x, y):
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n, dims in (("x", x), ("y", y))]
    init = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in init.items()]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], initializer=init)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def convolutions(tmp_path_factory):
    """Two convolutions and a product, a pool and a transpose between."""
    rng = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["x", "u", "b"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "v"], ["d"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Transpose", ["d"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["t", "w"], ["y"], name="last"),
    ]
    init = {
        "u": rng.standard_normal((16, 8, 3, 3)) / 8,
        "b": rng.standard_normal(16),
        "v": rng.standard_normal((24, 16, 3, 3)) / 12,
        "w": rng.standard_normal((24, 10)) / 5,
    }
    return save(tmp_path_factory.mktemp("halves") / "m.onnx", nodes, init, [1, 8, 12, 12], [1, 6, 6, 10])


@pytest.fixture(scope="module")
def far(tmp_path_factory):
    """Two products, and a value far beyond binary16 between them, from data of about 1."""
    rng = np.random.default_rng(2)
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["m"], name="first"),
        helper.make_node("Relu", ["m"], ["between"]),
        helper.make_node("MatMul", ["between", "w"], ["y"], name="second"),
    ]
    init = {"v": rng.standard_normal((64, 64)) * 8e3, "w": rng.standard_normal((64, 64)) / 1e3}
    return save(tmp_path_factory.mktemp("halves") / "far.onnx", nodes, init, [16, 64], [16, 64])


def build(model, out, *options, code=DONE):
    return tendon("build", model, "-o", out, "--optimization-level=0", *options, code=code)


def sections(plan):
    """Kernels, by target."""
    found = json.loads(tendon("inspect", plan, "--json").stdout)["sections"]
    return {s["target"]: [step["kernel"] for step in s["programs"][0]["steps"]] for s in found}


def n_products(plan, target, stem):
    return sum(kernel.startswith(stem + "_") for kernel in sections(plan)[target])


@pytest.mark.parametrize(
    "precision, rms, stem, targets",
    [("fp16", 0.01, "hconv_f16", ["avx512-fp16", "armv8.2-fp16"]), ("bf16", 0.05, "hconv_bf16", ["avx512-bf16", "avx512-fp16"])],
)
def test_the_machine_s_own_engine_is_near_enough(convolutions, tmp_path, precision, rms, stem, targets):
    """By the tolerance that the command has for the precision; in halves where this CPU multiplies them."""
    plan = tmp_path / "p"
    build(convolutions, plan, f"--precision={precision}")
    said = tendon("validate", convolutions, plan).stdout
    assert f"RMS of a - b at most {rms} of b's" in said
    (target,) = sections(plan)
    assert n_products(plan, target, stem) == (3 if target in targets else 0)


@pytest.mark.parametrize(
    "precision, target, stem",
    [
        ("fp16", "avx512-fp16", "hconv_f16"),
        ("fp16", "armv8.2-fp16", "hconv_f16"),
        ("bf16", "avx512-fp16", "hconv_bf16"),
        ("bf16", "avx512-bf16", "hconv_bf16"),
    ],
)
def test_any_machine_builds_for_those_that_multiply_halves(convolutions, tmp_path, precision, target, stem):
    """The three products, and a pool of halves between; float32 goes in and comes out."""
    plan = tmp_path / "p"
    run = build(convolutions, plan, f"--precision={precision}", f"--target={target}", "--verbose")
    assert n_products(plan, target, stem) == 3
    assert n_products(plan, target, "pool_half") == 1
    rows = [line for line in (run.stdout + run.stderr).splitlines() if " % of the work, " in line]
    assert [row.split(", ")[1].split(" + ")[0] for row in rows] == LAYERS
    assert all(row.startswith(precision + ": ") for row in rows)


@pytest.mark.parametrize(
    "options",
    [
        ["--precision=fp16", "--target=x86-64-v3", "--target=avx512-fp16"],
        ["--precision=fp16", "--target=avx512-bf16"],
        ["--precision=bf16", "--target=avx512-vnni", "--target=avx512-bf16"],
        ["--precision=bf16", "--target=armv8.2-fp16"],
    ],
)
def test_one_target_that_does_not_multiply_them_is_enough(convolutions, tmp_path, options):
    """Programs are the same for all: weights alone are halves in fp16, and bf16 is float32."""
    build(convolutions, tmp_path / "p", *options)
    kernels = [k for section in sections(tmp_path / "p").values() for k in section]
    assert not any("hconv" in k for k in kernels)
    assert not any("pool_half" in k for k in kernels)
    if "--precision=bf16" in options:
        assert not any("f32h" in k for k in kernels)


FP16 = ["--precision=fp16", "--target=avx512-fp16"]


def test_what_reads_values_that_overflow_stays_float32(far, tmp_path):
    plan = tmp_path / "p"
    run = build(far, plan, *FP16)
    assert "'between'" in run.stderr and "overflow" in run.stderr and "'x'" not in run.stderr
    assert n_products(plan, "avx512-fp16", "hconv_f16") == 1
    run = build(far, plan, "--precision=bf16", "--target=avx512-fp16")  # which reaches as far as float32
    assert "overflow" not in run.stderr
    assert n_products(plan, "avx512-fp16", "hconv_bf16") == 2


@pytest.mark.parametrize("scale, n_halves", [(1, 1), (1e-3, 2)])
def test_samples_tell_how_far_values_reach(far, tmp_path, scale, n_halves):
    data = tmp_path / "x.npz"
    np.savez(data, x=(np.random.default_rng(3).standard_normal((32, 64)) * scale).astype(np.float32))
    run = build(far, tmp_path / "p", *FP16, f"--calib-data={data}")
    assert ("'between'" in run.stderr) == (n_halves == 1)
    assert n_products(tmp_path / "p", "avx512-fp16", "hconv_f16") == n_halves


@pytest.mark.parametrize(
    "option, n_bf16, n_f16",
    [
        ("second:fp32", 2, 0),
        ("*:fp32", 0, 0),
        ("*:fp32,last:bf16", 1, 0),
        ("last:fp16", 2, 1),
    ],
)
def test_layers_by_name(convolutions, tmp_path, option, n_bf16, n_f16):
    plan = tmp_path / "p"
    build(convolutions, plan, "--precision=bf16", "--target=avx512-fp16", f"--layerPrecisions={option}")
    counts = [n_products(plan, "avx512-fp16", f"hconv_{stem}") for stem in ("bf16", "f16")]
    assert counts == [n_bf16, n_f16]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--precision=bf16", "--target=avx512-bf16", "--layerPrecisions=first:int8"], ["'first'", "int8 is for builds in int8"]),
        (["--precision=bf16", "--target=avx512-bf16", "--layerPrecisions=first:fp16"], ["'first'", "target multiplies fp16"]),
        (["--precision=fp16", "--target=armv8.2-fp16", "--layerPrecisions=first:bf16"], ["'first'", "target multiplies bf16"]),
        (["--precision=bf16", "--target=avx512-bf16", "--layerPrecisions=none:fp32"], ["'none'", "first"]),
        (["--precision=bf16", "--target=x86-64-v3", "--layerPrecisions=first:fp32"], ["every target multiplies"]),
        (["--precision=bf16", "--target=avx512-bf16", "--calib-data={data}"], ["--precision=int8"]),
        (["--precision=fp16", "--target=avx512-fp16", "--calib={data}"], ["--precision=int8"]),
    ],
)
def test_what_does_not_go_together_is_refused(convolutions, tmp_path, options, words):
    data, plan = tmp_path / "x.npz", tmp_path / "p"
    np.savez(data, x=np.zeros((1, 8, 12, 12), np.float32))
    run = build(convolutions, plan, *(option.format(data=data) for option in options), code=USAGE)
    assert all(word in run.stderr for word in words) and not plan.exists(), run.stderr
