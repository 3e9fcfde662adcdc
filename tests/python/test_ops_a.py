# SPDX-License-Identifier: Apache-2.0
"""Element-wise, reducing, casting and quantised operators, each compiled and run by the command: ONNX's own cases of
the newest opsets, and the forms of older opsets against onnxruntime."""

import collections
import functools
import os
import subprocess
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))

OPERATORS = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh BatchNormalization BitCast BitShift BitwiseAnd BitwiseNot
BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip ConvInteger Cos Cosh CumProd CumSum DequantizeLinear Div Dropout
DynamicQuantizeLinear Elu Equal Erf Exp Floor Gelu GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid
HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual Log MatMulInteger Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow
QLinearConv QLinearMatMul QuantizeLinear Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub
Sum Swish Tan Tanh ThresholdedRelu Where Xor
""".split()
# What numpy's files can hold; the others are tested in C.
DTYPES = {
    getattr(TensorProto, name)
    for name in "FLOAT DOUBLE FLOAT16 INT8 UINT8 INT16 UINT16 INT32 UINT32 INT64 UINT64 BOOL".split()
}
# Inputs that change the shape must be constants, which ONNX's cases do not make them.
CONSTANT_INPUTS = {"axes"}


@functools.lru_cache(maxsize=1)
def onnx_cases():
    """ONNX's cases of one node, by operator."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    by_operator = collections.defaultdict(list)
    for case in cases:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].domain in ("", "ai.onnx") and not case.name.startswith("test_training_dropout"):
            by_operator[nodes[0].op_type].append(case)
    return by_operator


def as_array(x):
    return numpy_helper.to_array(x) if isinstance(x, TensorProto) else np.asarray(x)


def is_plain(values):
    kinds = [v.type.WhichOneof("value") for v in values]
    return all(k == "tensor_type" for k in kinds) and all(v.type.tensor_type.elem_type in DTYPES for v in values)


def run(folder, model, feeds):
    """The model's outputs by the command: shapes are the arrays'."""
    onnx.save(model, folder / "m.onnx")
    np.savez(folder / "in.npz", **feeds)
    line = [TENDON, "run", folder / "m.onnx", f"--inputs={folder / 'in.npz'}", f"--outputs={folder / 'out.npz'}"]
    line = [*map(str, line), "--allow-nan", "--optimization-level=0"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{model.graph.name}: {done.stderr}"
    with np.load(folder / "out.npz") as out:
        return [out[v.name] for v in model.graph.output]


def prepare(case, inputs):
    """The case's model with fixed shapes and constant axes, and what is left to feed. Empty arrays become constants,
    since a run has nothing to bind for them."""
    model, feeds = onnx.ModelProto(), {}
    model.CopyFrom(case.model)
    for v, array in zip(list(model.graph.input), inputs):
        array = as_array(array)
        if v.name in CONSTANT_INPUTS or array.size == 0:
            model.graph.initializer.append(numpy_helper.from_array(array, v.name))
            model.graph.input.remove(v)
            continue
        v.CopyFrom(helper.make_tensor_value_info(v.name, v.type.tensor_type.elem_type, array.shape))
        feeds[v.name] = array
    return model, feeds


def assert_same(got, want, what, rtol=1e-3, atol=1e-5):
    want = as_array(want)
    assert got.dtype == want.dtype and got.shape == want.shape, f"{what}: {got.dtype} {got.shape}"
    if want.dtype.kind == "f":
        np.testing.assert_allclose(got.astype("f8"), want.astype("f8"), rtol=rtol, atol=atol, err_msg=what)
    else:
        np.testing.assert_array_equal(got, want, err_msg=what)


@pytest.mark.parametrize("operator", OPERATORS)
def test_cases_of_onnx(operator, tmp_path):
    n_done = 0
    for case in onnx_cases()[operator]:
        if not is_plain(case.model.graph.input) or not is_plain(case.model.graph.output):
            continue
        for inputs, outputs in case.data_sets:
            model, feeds = prepare(case, inputs)
            for got, want in zip(run(tmp_path, model, feeds), outputs, strict=True):
                assert_same(got, want, case.name, case.rtol, max(case.atol, 1e-6))
            n_done += 1
    assert n_done > 0


RNG = np.random.default_rng(11)
X = RNG.standard_normal((2, 3, 4, 5)).astype(np.float32)
I = RNG.integers(-9, 9, (2, 3, 4)).astype(np.int64)
CHANNELS = [RNG.uniform(0.5, 2, 3).astype(np.float32) for _ in range(4)]

# name, operator, opset, inputs, constants by input number, attributes
OLD_FORMS = [
    ("clip-6", "Clip", 7, [X], {}, {"min": -0.5, "max": 0.7}),
    ("clip-11", "Clip", 11, [X, np.float32(-0.5), np.float32(0.7)], {1, 2}, {}),
    ("clip-bound-fed", "Clip", 13, [X, np.float32(-0.5)], {}, {}),
    ("dropout-7", "Dropout", 7, [X], {}, {"ratio": 0.3}),
    ("dropout-10", "Dropout", 10, [X], {}, {"ratio": 0.3}),
    ("dropout-13", "Dropout", 13, [X, np.float32(0.3)], {1}, {}),
    ("batchnorm-7", "BatchNormalization", 7, [X, *CHANNELS], {1, 2, 3, 4}, {"epsilon": 1e-3}),
    ("batchnorm-9-fed", "BatchNormalization", 9, [X, *CHANNELS], {}, {}),
    ("sum-11", "ReduceSum", 11, [X], {}, {"axes": [1, -1], "keepdims": 0}),
    ("sum-13-all", "ReduceSum", 13, [X], {}, {"keepdims": 0}),
    ("mean-1", "ReduceMean", 9, [X], {}, {"axes": [0, 2]}),
    ("mean-18", "ReduceMean", 18, [X, np.array([-2, 0])], {1}, {}),
    ("max-int", "ReduceMax", 13, [I], {}, {"axes": [1]}),
    ("l2-11", "ReduceL2", 11, [X], {}, {"axes": [3]}),
    ("logsumexp-11", "ReduceLogSumExp", 11, [X], {}, {"axes": [2]}),
    ("argmax-7", "ArgMax", 7, [X], {}, {"axis": 1, "keepdims": 0}),
    ("prelu-7", "PRelu", 7, [X, CHANNELS[0].reshape(3, 1, 1)], {1}, {}),
    ("pow-7-int", "Pow", 12, [X, np.int64(2)], {1}, {}),
    ("div-int", "Div", 7, [I, np.array([3], np.int64)], {}, {}),
    ("mod-10", "Mod", 10, [I, np.array([-4], np.int64)], {}, {}),
    ("cast-9", "Cast", 9, [X], {}, {"to": TensorProto.INT32}),
    ("max-8", "Max", 8, [X, X[:, :1], X[0]], {}, {}),
    ("mean-variadic-8", "Mean", 8, [X, X[:, :1], X[0]], {}, {}),
    ("quantize-10", "QuantizeLinear", 10, [X, np.float32(0.02), np.uint8(120)], {1, 2}, {}),
    ("quantize-13-axis", "QuantizeLinear", 13, [X, CHANNELS[0], np.zeros(3, np.int8)], {1, 2}, {"axis": 1}),
    ("dequantize-10", "DequantizeLinear", 10, [I.astype(np.uint8), np.float32(0.02), np.uint8(120)], {1, 2}, {}),
    ("gelu-exact", "Gelu", 20, [X], {}, {}),
    ("gelu-tanh", "Gelu", 20, [X], {}, {"approximate": "tanh"}),
]


@pytest.mark.small
@pytest.mark.parametrize("form", OLD_FORMS, ids=[f[0] for f in OLD_FORMS])
def test_forms_of_older_opsets(form, tmp_path):
    name, operator, opset, inputs, constants, attributes = form
    inputs = [np.asarray(x) for x in inputs]
    names = [f"x{i}" for i in range(len(inputs))]
    dtypes = [helper.np_dtype_to_tensor_dtype(x.dtype) for x in inputs]
    values = [helper.make_tensor_value_info(n, t, x.shape) for n, t, x in zip(names, dtypes, inputs)]
    node = helper.make_node(operator, names, ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        name,
        [v for i, v in enumerate(values) if i not in constants],
        [helper.make_empty_tensor_value_info("y")],
        initializer=[numpy_helper.from_array(x, n) for i, (n, x) in enumerate(zip(names, inputs)) if i in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    feeds = {n: x for i, (n, x) in enumerate(zip(names, inputs)) if i not in constants}
    want = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)
    assert_same(run(tmp_path, model, feeds)[0], want[0], name, 1e-5, 1e-5)
