# SPDX-License-Identifier: Apache-2.0
"""Engines whose weights are kept in half precision: results, sizes, and weights that halves do not hold."""

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
EMG = ROOT / "examples" / "emg"
TARGETS = {"x86_64": "x86-64-v3", "aarch64": "armv8-a"}


def tendon(*args):
    run = subprocess.run([TENDON, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def build(model, plan, *options):
    tendon("build", model, "-o", plan, *options)
    described = json.loads(tendon("inspect", plan, "--json"))
    return described, [step["kernel"] for step in described["sections"][0]["programs"][0]["steps"]]


def outputs(plan, data, folder):
    tendon("run", plan, "--inputs", data, "--outputs", folder / "out.npz")
    found = np.load(folder / "out.npz")
    return found[found.files[0]]


@pytest.fixture(scope="module")
def floats(tmp_path_factory):
    """The EMG network as floats: the plan's size, inputs and logits."""
    folder = tmp_path_factory.mktemp("floats")
    data, plan = folder / "in.npz", folder / "p"
    np.savez(data, emg=np.load(EMG / "test.npz")["emg"][:200])
    described, _ = build(EMG / "emg_tcn.onnx", plan, "--optimization-level=0", "--max-weights=1")
    assert described["notes"]["precision"] == "fp32"
    return plan.stat().st_size, data, outputs(plan, data, folder)


@pytest.mark.parametrize("level", [0, 3])
def test_a_network_in_halves_decides_the_same(floats, tmp_path, level):
    size, data, wanted = floats
    plan = tmp_path / "p"
    options = [f"--optimization-level={level}", "--max-weights=1", "--precision=fp16"]
    if level == 0:  # with arithmetic in floats, on any CPU
        options += [f"--target={TARGETS.get(os.uname().machine, 'native')}"]
    described, kernels = build(EMG / "emg_tcn.onnx", plan, *options)
    got = outputs(plan, data, tmp_path)
    rms = np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2))
    assert 1e-7 < rms < 2e-3
    assert (got.argmax(-1) == wanted.argmax(-1)).all()
    assert described["notes"]["precision"] == "fp16"
    if level == 0 and os.uname().machine in TARGETS:
        assert 0.4 * size < plan.stat().st_size < 0.6 * size
        assert any("conv_f32h" in k for k in kernels) and any("gemm_f32h" in k for k in kernels)


def network(path, scale):
    """A convolution and a product, with weights of about that size."""
    rng = np.random.default_rng(5)
    w = (rng.uniform(1, 2, (64, 64, 1, 1)) * scale).astype(np.float32)
    v = (rng.uniform(1, 2, (64, 64)) * scale).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("GlobalAveragePool", ["c"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 4, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])
    init = [numpy_helper.from_array(array, name) for name, array in (("w", w), ("v", v))]
    graph = helper.make_graph(nodes, "g", [x], [y], initializer=init)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize("scale, fits", [(1, True), (1e-3, True), (1e5, False), (1e-6, False)])
def test_weights_that_halves_do_not_hold_stay_floats(tmp_path, scale, fits):
    model, data = tmp_path / "m.onnx", tmp_path / "in.npz"
    target = f"--target={TARGETS.get(os.uname().machine, 'native')}"
    network(model, scale)
    np.savez(data, x=np.random.default_rng(6).standard_normal((1, 64, 4, 4)).astype(np.float32))
    results = []
    for precision in "fp32", "fp16":
        options = [f"--precision={precision}", "--optimization-level=0", target]
        _, kernels = build(model, tmp_path / precision, *options)
        assert any("f32h" in k for k in kernels) == (fits and precision == "fp16")
        results.append(outputs(tmp_path / precision, data, tmp_path))
    assert np.array_equal(*results) != fits
    np.testing.assert_allclose(results[1], results[0], rtol=0, atol=2e-3 * np.abs(results[0]).max())


def test_halves_need_no_other_target(tmp_path):
    """A plan for other CPUs holds the same halves; one for any x86-64 is made as well."""
    model = tmp_path / "m.onnx"
    network(model, 1)
    for target in "x86-64", "x86-64-v3", "x86-64-v4", "armv8-a":
        build(model, tmp_path / target, "--precision=fp16", "--optimization-level=0", f"--target={target}")
    sizes = [(tmp_path / t).stat().st_size for t in ("x86-64-v3", "x86-64-v4", "armv8-a")]
    assert max(sizes) < (tmp_path / "x86-64").stat().st_size * 0.75
