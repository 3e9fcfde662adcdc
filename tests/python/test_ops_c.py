# SPDX-License-Identifier: Apache-2.0
"""Losses, spectra and recurrent layers on shapes beyond those of ONNX's own cases, by `tendon conform`: against
onnxruntime where it has the operator, else against ONNX's reference."""

import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

pytestmark = pytest.mark.small
ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
RNG = np.random.default_rng(5)


def normal(*shape, dtype=np.float32):
    return RNG.standard_normal(shape).astype(dtype)


def classes(n, *shape):
    return RNG.integers(0, n, shape)


def i64(x):
    return np.array(x, np.int64)


def log_probabilities(*shape):
    x = normal(*shape)
    return (x - np.log(np.exp(x).sum(1, keepdims=True))).astype(np.float32)


def attention(rule, q_heads, heads, key, value, length, past=False):
    """Inputs of LinearAttention: keys of length 1, decays below 0, rates in 0..1."""
    k = normal(2, length, heads, key)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    q, v = normal(2, length, q_heads * key), normal(2, length, heads * value)
    decay = -np.abs(normal(2, length, heads * key)) if "gated" in rule else None
    beta = RNG.uniform(0, 1, (2, length, heads)).astype(np.float32) if "delta" in rule else None
    return [q, k.reshape(2, length, -1), v, normal(2, heads, key, value) if past else None, decay, beta]


ANY_TARGET = classes(7, 4, 5)
IGNORED = np.where(RNG.uniform(size=(4, 5)) < 0.4, -1, ANY_TARGET)

# name, operator, opset, inputs (None: absent), number of outputs, attributes
FORMS = [
    ("nll-mean", "NegativeLogLikelihoodLoss", 13, [log_probabilities(4, 7), classes(7, 4)], 1, {}),
    ("nll-none", "NegativeLogLikelihoodLoss", 13, [log_probabilities(4, 7, 5), ANY_TARGET], 1, {"reduction": "none"}),
    ("nll-weight", "NegativeLogLikelihoodLoss", 13, [log_probabilities(4, 7, 5), ANY_TARGET, np.abs(normal(7))], 1, {}),
    ("nll-ignored", "NegativeLogLikelihoodLoss", 13, [log_probabilities(4, 7, 5), IGNORED], 1, {"ignore_index": -1}),
    ("nll-int32", "NegativeLogLikelihoodLoss", 13, [log_probabilities(4, 7, 5), ANY_TARGET.astype(np.int32)], 1, {}),
    ("sce-log-prob", "SoftmaxCrossEntropyLoss", 13, [9 * normal(4, 7, 5), ANY_TARGET], 2, {"reduction": "sum"}),
    ("sce-large", "SoftmaxCrossEntropyLoss", 13, [500 * normal(4, 7, 5), ANY_TARGET], 2, {"reduction": "none"}),
    (
        "sce-weight-ignored",
        "SoftmaxCrossEntropyLoss",
        13,
        [normal(4, 7, 5), IGNORED, np.abs(normal(7))],
        1,
        {"ignore_index": -1},
    ),
    ("dft-short", "DFT", 20, [normal(2, 12, 1), i64(7), i64(1)], 1, {}),
    ("dft-padded", "DFT", 20, [normal(2, 12, 2), i64(20), i64(-2)], 1, {}),
    ("dft-onesided-odd", "DFT", 17, [normal(2, 3, 15, 1)], 1, {"onesided": 1, "axis": 2}),
    ("dft-onesided-first-axis", "DFT", 17, [normal(8, 3, 1)], 1, {"onesided": 1, "axis": 0}),
    ("dft-inverse", "DFT", 20, [normal(2, 9, 2), None, i64(1)], 1, {"inverse": 1}),
    ("dft-inverse-onesided-even", "DFT", 20, [normal(2, 9, 2), None, i64(1)], 1, {"inverse": 1, "onesided": 1}),
    ("dft-inverse-onesided-odd", "DFT", 20, [normal(2, 9, 2), i64(17), i64(1)], 1, {"inverse": 1, "onesided": 1}),
    ("stft-window", "STFT", 17, [normal(2, 100, 1), i64(7), np.abs(normal(15)), i64(15)], 1, {}),
    ("stft-both-sides", "STFT", 17, [normal(1, 64, 1), i64(10), None, i64(16)], 1, {"onesided": 0}),
    ("hann", "HannWindow", 17, [i64(33)], 1, {"periodic": 0}),
    ("hamming-double", "HammingWindow", 17, [i64(20)], 1, {"output_datatype": TensorProto.DOUBLE}),
    ("blackman", "BlackmanWindow", 17, [i64(21)], 1, {}),
    ("mel", "MelWeightMatrix", 17, [i64(20), i64(256), i64(8000), np.float32(80), np.float32(3600)], 1, {}),
    ("conv", "CausalConvWithState", 27, [normal(2, 6, 40), normal(6, 1, 4), normal(6)], 2, {"activation": "silu"}),
    ("conv-past", "CausalConvWithState", 27, [normal(2, 6, 3), normal(6, 1, 8), None, normal(2, 6, 7)], 2, {}),
    ("conv-one", "CausalConvWithState", 27, [normal(2, 6, 9), normal(6, 1, 1)], 2, {"activation": "swish"}),
    ("swiglu", "SwiGLU", 28, [4 * normal(3, 50), normal(3, 50)], 1, {"alpha": 1.7}),
    ("swiglu-double", "SwiGLU", 28, [normal(3, 50, dtype="f8"), normal(3, 50, dtype="f8")], 1, {}),
] + [
    (
        f"attention-{rule}-{q_heads}-{heads}",
        "LinearAttention",
        27,
        attention(rule, q_heads, heads, 5, 7, 11, past),
        2,
        {"update_rule": rule, "q_num_heads": q_heads, "kv_num_heads": heads},
    )
    for rule, q_heads, heads, past in [
        ("linear", 3, 3, False),
        ("gated", 6, 2, True),
        ("delta", 2, 1, False),
        ("gated_delta", 4, 4, True),
    ]
]


def model_of(operator, opset, inputs, n_outputs, attributes):
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    values = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
        for n, x in zip(names, inputs)
        if n
    ]
    outputs = [f"y{i}" for i in range(n_outputs)]
    node = helper.make_node(operator, names, outputs, **attributes)
    graph = helper.make_graph([node], "g", values, [helper.make_empty_tensor_value_info(n) for n in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def expected(model, feeds, opset):
    if opset <= 20:
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, feeds)
    return ReferenceEvaluator(model).run(None, feeds)


def conform(folder, model, inputs, outputs, *options):
    data = folder / "case" / "test_data_set_0"
    data.mkdir(parents=True)
    (folder / "case" / "model.onnx").write_bytes(model.SerializeToString())
    for what, arrays in ("input", inputs), ("output", outputs):
        for k, x in enumerate(arrays):
            (data / f"{what}_{k}.pb").write_bytes(numpy_helper.from_array(np.asarray(x)).SerializeToString())
    return subprocess.run([TENDON, "conform", folder / "case", *options], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("form", FORMS, ids=[f[0] for f in FORMS])
def test_as_others_compute_it(form, tmp_path):
    _, operator, opset, inputs, n_outputs, attributes = form
    inputs = [None if x is None else np.asarray(x) for x in inputs]
    model = model_of(operator, opset, inputs, n_outputs, attributes)
    feeds = {f"x{i}": x for i, x in enumerate(inputs) if x is not None}
    done = conform(tmp_path, model, list(feeds.values()), expected(model, feeds, opset), "--rtol=1e-4", "--atol=2e-5")
    assert done.stdout == "1 passed, 0 failed\n", done.stdout


WRONG = [
    ("NegativeLogLikelihoodLoss", 13, [log_probabilities(4, 7), i64([0, 1, 7, 2])], {}, "target 7 outside of 7 classes"),
    ("SoftmaxCrossEntropyLoss", 13, [normal(4, 7), i64([0, 1])], {}, "the target has not one class an element"),
    ("DFT", 20, [normal(2, 12, 3)], {}, "the last extent is neither 1"),
    ("STFT", 17, [normal(2, 12, 1), i64(0)], {}, "a length, step or number is out of range"),
    ("STFT", 17, [normal(2, 12, 1), i64(1), None, i64(13)], {}, "a frame is longer than the signal"),
    ("SwiGLU", 28, [normal(3, 5), normal(1, 5)], {}, "the two inputs have different shapes"),
    ("CausalConvWithState", 27, [normal(2, 6, 4), normal(5, 1, 4)], {}, "the weights are not (channels, 1, k)"),
    (
        "LinearAttention",
        27,
        attention("linear", 2, 2, 4, 4, 3),
        {"q_num_heads": 2, "kv_num_heads": 2},
        "decay and beta are not those that the update rule takes",
    ),
]


@pytest.mark.parametrize("form", WRONG, ids=[f"{f[0]}-{i}" for i, f in enumerate(WRONG)])
def test_what_is_wrong_is_said(form, tmp_path):
    operator, opset, inputs, attributes, words = form
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    given = [(n, x) for n, x in zip(names, inputs) if n]
    values = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for n, x in given]
    node = helper.make_node(operator, names, ["y"], **attributes)
    graph = helper.make_graph([node], "g", values, [helper.make_empty_tensor_value_info("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    done = conform(tmp_path, model, [x for _, x in given], [np.zeros(1, np.float32)])
    assert done.returncode == 1 and words in done.stdout, done.stdout
