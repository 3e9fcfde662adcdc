# SPDX-License-Identifier: Apache-2.0
"""Models that carry their own scales, in each form: integer kernels compute them, and the results are the operators'.

What a model gives is held against onnx's reference evaluator. Where a sum lies beside a tie of rounding, one step of
the last scale is allowed, for few elements.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

pytestmark = pytest.mark.small

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
F32 = TensorProto.FLOAT
RANDOM = np.random.default_rng(11)


class Net:
    """Nodes one by one; constants by value."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def const(self, value, dtype=None):
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def op(self, kind, *inputs, n_out=1, **attributes):
        names = [i if isinstance(i, str) else self.const(i) for i in inputs]
        out = [f"v{len(self.nodes)}_{k}" for k in range(n_out)]
        self.nodes.append(helper.make_node(kind, names, out, name=f"n{len(self.nodes)}", **attributes))
        return out[0] if n_out == 1 else out

    def quantize(self, x, scale, zero, **attributes):
        return self.op("QuantizeLinear", x, np.float32(scale), zero, **attributes)

    def dequantize(self, x, scale, zero, **attributes):
        return self.op("DequantizeLinear", x, np.asarray(scale, np.float32), zero, **attributes)

    def pair(self, x, scale, zero):
        return self.dequantize(self.quantize(x, scale, zero), scale, zero)

    def save(self, path, x_shape, y, dtype=F32):
        info = [helper.make_tensor_value_info("x", F32, x_shape)]
        out = [helper.make_tensor_value_info(y, dtype, None)]
        graph = helper.make_graph(self.nodes, "g", info, out, self.constants)
        domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=domains, ir_version=10)
        onnx.save(model, path)
        return model


def s8(*shape):
    return RANDOM.integers(-127, 128, shape).astype(np.int8)


def tendon(*args):
    run = subprocess.run([TENDON, *map(str, args)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def kernels(folder, plan):
    tendon("bench", plan, "--duration", 0, "--iterations", 1, "--warmup", 0, "--exportProfile", folder / "profile.json")
    steps = json.loads((folder / "profile.json").read_text())
    return json.dumps(steps)


def check(folder, net, x_shape, y, step, dtype=F32, n_products=1, plain=None):
    """
    Runs the model on random numbers; `step` is that of the last scale. `plain` is a network that says the same in
    operators of ONNX alone, and its result.
    """
    path = folder / "m.onnx"
    model = net.save(path, x_shape, y, dtype)
    x = RANDOM.normal(size=x_shape).astype(np.float32) * 3
    np.savez(folder / "x.npz", x=x)
    plan = folder / "m.plan"
    said = tendon("build", path, "-o", plan, "--optimization-level", 0)
    assert "runs by its reference" not in said
    tendon("run", plan, "--inputs", folder / "x.npz", "--outputs", folder / "y.npz")
    got = np.load(folder / "y.npz")[y]
    if plain:
        model = plain[0].save(folder / "plain.onnx", x_shape, plain[1], dtype)
    wanted = ReferenceEvaluator(model).run(None, {"x": x})[0]
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    error = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
    assert error.max() <= step * 1.001 + 1e-4
    assert (error > step * 1e-3 + 1e-4).mean() <= 0.03
    described = tendon("inspect", plan, "--json")
    assert described.count('"iconv_u8_') + described.count('"idwconv_u8_') == n_products
    return said


ZEROS = [np.uint8(0), np.uint8(131), np.int8(0), np.int8(-7)]


@pytest.mark.parametrize("zero", ZEROS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_pairs_around_a_convolution(tmp_path, zero, per_channel):
    n = Net()
    scale = RANDOM.uniform(0.01, 0.05, 10 if per_channel else ()).astype(np.float32)
    w_zero = np.zeros(scale.shape, np.int8)
    w = n.dequantize(n.const(s8(10, 6, 3, 3)), scale, w_zero, **({"axis": 0} if per_channel else {}))
    bias = n.dequantize(n.const(RANDOM.integers(-900, 900, 10).astype(np.int32)), np.float32(0.002), np.int32(0))
    x = n.pair("x", 0.06, zero)
    y = n.op("Relu", n.op("Conv", x, w, bias, pads=[1, 1, 1, 1], strides=[2, 1]))
    check(tmp_path, n, [2, 6, 9, 11], n.pair(y, 0.2, zero), 0.2)


def test_residual_and_pool_of_bytes(tmp_path):
    n = Net()
    a = n.pair("x", 0.05, np.uint8(120))
    w1 = n.dequantize(n.const(s8(8, 8, 3, 3)), 0.01, np.int8(0))
    w2 = n.dequantize(n.const(s8(8, 8, 1, 1)), 0.02, np.int8(0))
    b = n.pair(n.op("Relu", n.op("Conv", a, w1, pads=[1, 1, 1, 1])), 0.25, np.uint8(0))
    c = n.pair(n.op("Conv", b, w2), 0.5, np.uint8(128))
    d = n.pair(n.op("Relu", n.op("Add", c, b)), 0.5, np.uint8(0))
    e = n.pair(n.op("MaxPool", d, kernel_shape=[2, 2], strides=[2, 2]), 0.5, np.uint8(0))
    w3 = n.dequantize(n.const(s8(4, 8, 2, 2)), 0.02, np.int8(0))
    # a step of a middle scale grows on its way
    check(tmp_path, n, [1, 8, 8, 8], n.pair(n.op("Conv", e, w3), 2.0, np.int8(3)), 4.0, n_products=3)


@pytest.mark.parametrize("group, channels", [(3, 12), (7, 7)])
def test_groups(tmp_path, group, channels):
    n = Net()
    w = n.dequantize(n.const(s8(channels, channels // group, 3)), 0.02, np.int8(0))
    y = n.op("Conv", n.pair("x", 0.05, np.int8(5)), w, group=group, dilations=[2])
    check(tmp_path, n, [1, channels, 40], n.pair(y, 0.1, np.int8(0)), 0.1)


@pytest.mark.parametrize("turned", [False, True])
def test_products_of_matrices(tmp_path, turned):
    n = Net()
    scale = RANDOM.uniform(0.005, 0.02, 9)
    q = s8(9, 13) if turned else s8(13, 9)
    w = n.dequantize(n.const(q), scale, np.zeros(9, np.int8), axis=0 if turned else 1)
    x = n.pair("x", 0.05, np.uint8(128))
    y = n.op("Gemm", x, w, RANDOM.normal(size=9).astype(np.float32), transB=1) if turned else n.op("MatMul", x, w)
    check(tmp_path, n, [5, 13] if turned else [2, 5, 13], n.pair(y, 0.1, np.int8(0)), 0.1)


@pytest.mark.parametrize("x_type, w_type", [(np.uint8, np.int8), (np.int8, np.int8), (np.uint8, np.uint8)])
def test_qlinear_conv(tmp_path, x_type, w_type):
    n = Net()
    w_zero = w_type(128 if w_type == np.uint8 else 0)
    w = (s8(6, 4, 3).astype(np.int16) + int(w_zero)).clip(0 if w_type == np.uint8 else -128, 255).astype(w_type)
    q = n.quantize("x", 0.05, x_type(3))
    inputs = [q, np.float32(0.05), x_type(3), w, np.float32(0.02), w_zero, np.float32(0.3), x_type(9)]
    y = n.op("QLinearConv", *inputs, np.arange(6, dtype=np.int32) * 50, pads=[2, 1])
    check(tmp_path, n, [2, 4, 17], n.dequantize(y, 0.3, x_type(9)), 0.3)


def test_qlinear_matmul(tmp_path):
    n = Net()
    q = n.quantize("x", 0.05, np.uint8(100))
    inputs = [q, np.float32(0.05), np.uint8(100), s8(20, 7), np.float32(0.02), np.int8(0), np.float32(0.3), np.uint8(7)]
    check(tmp_path, n, [3, 4, 20], n.dequantize(n.op("QLinearMatMul", *inputs), 0.3, np.uint8(7)), 0.3)


def test_scales_found_at_run_time(tmp_path):
    n = Net()
    q, scale, zero = n.op("DynamicQuantizeLinear", "x", n_out=3)
    sums = n.op("MatMulInteger", q, s8(24, 10), zero)
    y = n.op("Mul", n.op("Cast", sums, to=F32), n.op("Mul", scale, np.float32(0.01)))
    check(tmp_path, n, [6, 24], y, 0.2)


@pytest.mark.parametrize("w_zero", [np.uint8(128), np.uint8(77)])
def test_scales_found_at_run_time_for_a_padded_convolution(tmp_path, w_zero):
    n = Net()
    q, scale, zero = n.op("DynamicQuantizeLinear", "x", n_out=3)
    w = RANDOM.integers(0, 256, (6, 4, 3, 3)).astype(np.uint8)
    sums = n.op("ConvInteger", q, w, zero, w_zero, pads=[1, 2, 1, 0])
    y = n.op("Mul", n.op("Cast", sums, to=F32), n.op("Mul", scale, np.float32(0.01)))
    check(tmp_path, n, [2, 4, 7, 8], y, 0.3, n_products=1 if w_zero == 128 else 2)


@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_with_zero_points(tmp_path, per_channel):
    n = Net()
    shape = (9,) if per_channel else ()
    zeros = RANDOM.integers(60, 200, shape).astype(np.uint8)
    q = RANDOM.integers(0, 256, (9, 6, 3)).astype(np.uint8)
    w = n.dequantize(n.const(q), RANDOM.uniform(0.01, 0.02, shape), zeros, **({"axis": 0} if per_channel else {}))
    y = n.op("Conv", n.pair("x", 0.05, np.uint8(131)), w, pads=[1, 1])
    check(tmp_path, n, [2, 6, 15], n.pair(y, 0.2, np.uint8(120)), 0.2, n_products=2)


def test_conv_integer(tmp_path):
    n = Net()
    y = n.op("ConvInteger", n.quantize("x", 0.05, np.uint8(7)), s8(5, 4, 3, 3), np.uint8(7), pads=[1, 1, 1, 1])
    check(tmp_path, n, [1, 4, 6, 5], y, 127 * 9, dtype=TensorProto.INT32)


def test_weights_of_four_bits(tmp_path):
    n = Net()
    values = RANDOM.integers(-8, 8, 8 * 12)
    n.constants.append(helper.make_tensor("w4", TensorProto.INT4, [8, 12], values))
    w = n.dequantize("w4", RANDOM.uniform(0.1, 0.2, 12), helper_zero(n, 12), axis=1)
    check(tmp_path, n, [3, 8], n.op("MatMul", n.pair("x", 0.05, np.uint8(128)), w), 0.05)


A, B, Y = (0.05, np.uint8(120)), (0.03, np.uint8(7)), (0.04, np.uint8(90))
FORMS = {
    "QLinearAdd": ("Add", 2, {}),
    "QLinearMul": ("Mul", 2, {}),
    "QLinearSigmoid": ("Sigmoid", 1, {}),
    "QLinearLeakyRelu": ("LeakyRelu", 1, {"alpha": 0.25}),
    "QLinearSoftmax": ("Softmax", 1, {"axis": 1}),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", 1, {}),
    "QLinearAveragePool": ("AveragePool", 1, {"kernel_shape": [2, 3], "strides": [2, 1]}),
}


@pytest.mark.parametrize("name", FORMS)
def test_quantised_operators_of_onnxruntime(tmp_path, name):
    kind, n_operands, attributes = FORMS[name]
    n, plain = Net(), Net()
    operands, reals = [], []
    for scale, zero in [A, B][:n_operands]:
        operands += [n.quantize("x", scale, zero), np.float32(scale), zero]
        reals.append(plain.pair("x", scale, zero))
    more = {"opset": 13} if kind == "Softmax" else {}
    q = n.op(name, *operands, np.float32(Y[0]), Y[1], domain="com.microsoft", **attributes, **more)
    wanted = plain, plain.pair(plain.op(kind, *reals, **attributes), *Y)
    check(tmp_path, n, [2, 5, 6, 7], n.dequantize(q, *Y), Y[0], n_products=0, plain=wanted)


def test_concatenation_of_onnxruntime(tmp_path):
    n, plain = Net(), Net()
    inputs = [np.float32(Y[0]), Y[1]]
    for scale, zero in (A, B):
        inputs += [n.quantize("x", scale, zero), np.float32(scale), zero]
    q = n.op("QLinearConcat", *inputs, domain="com.microsoft", axis=1)
    y = plain.pair(plain.op("Concat", plain.pair("x", *A), plain.pair("x", *B), axis=1), *Y)
    check(tmp_path, n, [2, 3, 4], n.dequantize(q, *Y), Y[0], n_products=0, plain=(plain, y))


@pytest.mark.parametrize("quantises", [False, True])
def test_gemm_of_onnxruntime(tmp_path, quantises):
    n, plain = Net(), Net()
    w, scale = s8(6, 9), RANDOM.uniform(0.01, 0.02, 6).astype(np.float32)
    bias = RANDOM.integers(-500, 500, 6).astype(np.int32)
    end = [np.float32(Y[0]), Y[1]] if quantises else []
    zero = np.zeros(6, np.int8)
    y = n.op("QGemm", n.quantize("x", *A), np.float32(A[0]), A[1], w, scale, zero, bias, *end, domain="com.microsoft",
             transB=1)  # fmt: skip
    real = (bias * scale * np.float32(A[0])).astype(np.float32)
    p = plain.op("Gemm", plain.pair("x", *A), plain.dequantize(plain.const(w), scale, zero, axis=0), real, transB=1)
    y, p = (n.dequantize(y, *Y), plain.pair(p, *Y)) if quantises else (y, p)
    check(tmp_path, n, [4, 9], y, Y[0] if quantises else 0.0, plain=(plain, p))


def helper_zero(n, count):
    n.constants.append(helper.make_tensor("z4", TensorProto.INT4, [count], np.zeros(count, int)))
    return "z4"
