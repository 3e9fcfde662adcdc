# SPDX-License-Identifier: Apache-2.0
"""Models in halves: they compute in float32, and only what others see of them is in halves."""

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


def tendon(*args):
    line = [TENDON, *map(str, args)]
    run = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, f"{line}\n{run.stdout}{run.stderr}"
    return run.stdout


def save(path, nodes, init, x, y, dtype):
    ports = [helper.make_tensor_value_info(n, dtype, dims) for n, dims in (("x", x), ("y", y))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], initializer=init)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


def network(path, dtype):
    """A convolution, a product and what is about them; weights are halves' in either type."""
    rng = np.random.default_rng(1)
    kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
    rounded = {k: v.astype(np.float16).astype(kind) for k, v in {
        "u": rng.standard_normal((16, 8, 3)) / 5, "b": rng.standard_normal(16),
        "w": rng.standard_normal((16, 10)) / 4, "two": np.array(2.0)}.items()}
    nodes = [
        helper.make_node("Conv", ["x", "u", "b"], ["c"], pads=[1, 1]),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["m"]),
        helper.make_node("Greater", ["m", "two"], ["over"]),
        helper.make_node("Cast", ["over"], ["spikes"], to=dtype),
        helper.make_node("Transpose", ["m"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "w"], ["p"]),
        helper.make_node("ReduceSum", ["spikes"], ["n"], keepdims=0),
        helper.make_node("CastLike", ["n", "two"], ["count"]),
        helper.make_node("Add", ["p", "count"], ["y"]),
    ]
    init = [numpy_helper.from_array(v, k) for k, v in rounded.items()]
    return save(path, nodes, init, [1, 8, 20], [1, 20, 10], dtype)


def steps(plan):
    found = json.loads(tendon("inspect", plan, "--json"))["sections"][0]["programs"][0]["steps"]
    return [step["kernel"] for step in found]


def test_halves_give_what_floats_give_rounded_once(tmp_path):
    half = network(tmp_path / "h.onnx", TensorProto.FLOAT16)
    network(tmp_path / "f.onnx", TensorProto.FLOAT)
    x = np.random.default_rng(2).standard_normal((1, 8, 20)).astype(np.float16)
    np.savez(tmp_path / "h.npz", x=x)
    np.savez(tmp_path / "f.npz", x=x.astype(np.float32))
    for name in "hf":
        tendon("run", tmp_path / f"{name}.onnx", "--inputs", tmp_path / f"{name}.npz", "--outputs", tmp_path / f"{name}.out.npz")
    a, b = (np.load(tmp_path / f"{name}.out.npz")["y"] for name in "hf")
    assert a.dtype == np.float16 and b.dtype == np.float32
    assert np.abs(a.astype(np.float32) - b).max() <= 2.0**-10 * np.abs(b).max()
    tendon("validate", half)


def test_kernels_of_floats_run(tmp_path):
    half = network(tmp_path / "h.onnx", TensorProto.FLOAT16)
    tendon("build", half, "-o", tmp_path / "h.plan", "--optimization-level=0")
    kernels = steps(tmp_path / "h.plan")
    assert all("_" in k for k in kernels), kernels  # names of kernels, not of operators
    assert any(k.startswith(("conv_", "wino_")) for k in kernels), kernels


def test_a_cast_rounds(tmp_path):
    """1 + 2^-12 is 1 in halves: the difference of what was cast and of what was not tells."""
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["h", "one"], ["g"]),
        helper.make_node("Cast", ["g"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["x", "f"], ["y"]),
    ]
    one = numpy_helper.from_array(np.array(1, np.float16), "one")
    path = save(tmp_path / "c.onnx", nodes, [one], [4], [4], TensorProto.FLOAT)
    np.savez(tmp_path / "x.npz", x=np.float32([1 + 2.0**-12, 1, 2 + 2.0**-11, 70000]))
    tendon("run", path, "--inputs", tmp_path / "x.npz", "--outputs", tmp_path / "y.npz")
    assert np.load(tmp_path / "y.npz")["y"].tolist() == [2.0**-12, 0, 2.0**-11, -np.inf]


def test_bfloat16_and_states_stay_what_they_are(tmp_path):
    """The state is of halves: it is rounded from call to call."""
    x, s, y, t = (helper.make_tensor_value_info(n, TensorProto.BFLOAT16, [3]) for n in ("x", "s", "y", "t"))
    nodes = [helper.make_node("Add", ["x", "s"], ["t"]), helper.make_node("Mul", ["t", "t"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x, s], [y, t])
    path = tmp_path / "s.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    tendon("build", path, "-o", tmp_path / "s.plan", "--state=s:t", "--optimization-level=0")
    found = json.loads(tendon("inspect", tmp_path / "s.plan", "--json"))
    assert {p["dtype"] for p in found["inputs"] + found["outputs"]} == {"bfloat16"}
    tendon("validate", path, tmp_path / "s.plan", "--state=s:t")


def test_int8_from_a_model_in_halves(tmp_path):
    half = network(tmp_path / "h.onnx", TensorProto.FLOAT16)
    x = np.random.default_rng(3).standard_normal((1, 8, 20)).astype(np.float16)
    np.savez(tmp_path / "x.npz", x=x)
    said = tendon("build", half, "-o", tmp_path / "q.plan", "--precision=int8", "--calib-data", tmp_path / "x.npz", "--optimization-level=0")
    assert "no range" not in said
    assert any(k.startswith("iconv_") for k in steps(tmp_path / "q.plan"))
    tendon("validate", half, tmp_path / "q.plan")
