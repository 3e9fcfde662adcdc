# SPDX-License-Identifier: Apache-2.0
"""Rewrites that leave out work: networks made at random, on which the engine must agree with the reference, and ones
on which the work must be gone."""
import json
import os
import pathlib
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

TENDON = os.environ.get("TENDON", str(pathlib.Path(__file__).resolve().parents[2] / "build" / "tendon"))


def tendon(*args, code=0):
    run = subprocess.run([TENDON, *map(str, args)], capture_output=True, text=True, timeout=120)
    assert run.returncode == code, run.stdout + run.stderr
    return run.stdout


class Net:
    """A chain of nodes; `shape` is that of its end."""

    def __init__(self, shape, seed):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights, self.inputs = [], [], []
        self.end = self.input(shape)
        self.shape = tuple(shape)

    def input(self, shape):
        name = f"x{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return name

    def constant(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def normal(self, *shape):
        return self.constant(self.rng.standard_normal(shape).astype(np.float32))

    def add(self, op, *inputs, shape, **attrs):
        self.end, name = f"v{len(self.nodes)}", self.end
        names = [name if i is None else i for i in inputs]
        self.nodes.append(helper.make_node(op, names, [self.end], name=f"n{len(self.nodes)}", **attrs))
        self.shape = tuple(shape)

    def product(self):
        n = int(self.rng.integers(1, 9))
        self.add("MatMul", None, self.normal(self.shape[-1], n), shape=self.shape[:-1] + (n,))

    def product_from_the_left(self):
        n = int(self.rng.integers(1, 9))
        self.add("MatMul", self.normal(n, self.shape[-2]), None, shape=self.shape[:-2] + (n, self.shape[-1]))

    def map(self):
        op = self.rng.choice(["Add", "Sub", "Mul", "Div"])
        shape = [d if self.rng.random() < 0.6 else 1 for d in self.shape]
        other = self.constant(self.rng.uniform(0.5, 2, shape).astype(np.float32))
        swap = op != "Div" and self.rng.random() < 0.3
        self.add(op, *((other, None) if swap else (None, other)), shape=self.shape)

    def square(self):
        self.add("Mul", None, None, shape=self.shape)

    def softmax(self):
        self.add("Softmax", None, axis=int(self.rng.integers(len(self.shape))), shape=self.shape)

    def transpose(self):
        perm = [int(i) for i in self.rng.permutation(len(self.shape))]
        self.add("Transpose", None, perm=perm, shape=[self.shape[i] for i in perm])

    def reshape(self):
        shape = list(self.shape)
        i = int(self.rng.integers(len(shape)))
        if self.rng.random() < 0.5 and i + 1 < len(shape):
            shape[i:i + 2] = [shape[i] * shape[i + 1]]
        elif shape[i] % 2 == 0 and len(shape) < 6:
            shape[i:i + 1] = [2, shape[i] // 2]
        else:
            shape.insert(i, 1)
        if len(shape) >= 2:
            self.add("Reshape", None, self.constant(np.array(shape, np.int64)), shape=shape)

    def reduce(self):
        op = self.rng.choice(["ReduceMean", "ReduceSum"])
        n = int(self.rng.integers(1, len(self.shape)))
        axes = sorted(int(i) for i in self.rng.choice(len(self.shape), n, replace=False))
        keep = len(self.shape) - n < 2 or bool(self.rng.random() < 0.5)
        shape = [1 if i in axes else d for i, d in enumerate(self.shape) if keep or i not in axes]
        self.add(op, None, self.constant(np.array(axes, np.int64)), keepdims=int(keep), shape=shape)

    def save(self, path):
        out = helper.make_tensor_value_info(self.end, TensorProto.FLOAT, self.shape)
        graph = helper.make_graph(self.nodes, "net", self.inputs, [out], initializer=self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)


@pytest.mark.parametrize("seed", range(60))
def test_chains_of_linear_operators(tmp_path, seed):
    net = Net((2, 6, 4), seed)
    steps = [net.product, net.product, net.product_from_the_left, net.map, net.map, net.transpose, net.transpose,
             net.reshape, net.reshape, net.reduce, net.square, net.softmax]
    for i in net.rng.choice(len(steps), 9):
        steps[i]()
        if net.rng.random() < 0.5:
            net.map()
    net.reduce()
    net.save(tmp_path / "m.onnx")
    tendon("validate", tmp_path / "m.onnx", "--rtol=1e-3", "--atol=1e-4")


def steps(folder):
    tendon("build", folder / "m.onnx", "-o", folder / "m.plan", "--optimization-level=0")
    return json.loads(tendon("inspect", folder / "m.plan", "--json"))["sections"][0]["programs"][0]["steps"]


def work(folder):
    return sum(step.get("flops", 0) for step in steps(folder))


def attention(n_heads, reduced, between=lambda net: None):
    """Self attention without projections of its own, an output projection, then a mean over its positions."""
    net = Net((n_heads, 64, 64), 0)
    net.softmax()
    net.add("MatMul", None, net.input((n_heads, 64, 32)), shape=(n_heads, 64, 32))
    net.add("Transpose", None, perm=[1, 0, 2], shape=(64, n_heads, 32))
    net.add("Reshape", None, net.constant(np.array([64, n_heads * 32])), shape=(64, n_heads * 32))
    net.add("MatMul", None, net.normal(n_heads * 32, 128), shape=(64, 128))
    net.add("Add", None, net.normal(128), shape=(64, 128))
    between(net)
    if reduced:
        net.add("ReduceMean", None, net.constant(np.array([0])), keepdims=0, shape=(128,))
    return net


@pytest.mark.small
def test_a_mean_over_positions_is_taken_before_the_products(tmp_path):
    attention(4, reduced=False).save(tmp_path / "m.onnx")
    all_positions = work(tmp_path)
    attention(4, reduced=True).save(tmp_path / "m.onnx")
    assert work(tmp_path) < all_positions / 10
    tendon("validate", tmp_path / "m.onnx")


def block(reduced, kernel=1):
    """Two convolutions over the positions of a sequence, added up; then a mean over them."""
    net = Net((1, 24, 80), 1)
    x = net.end
    net.add("Sigmoid", x, shape=(1, 24, 80))
    s = net.end
    conv = dict(kernel_shape=[kernel], pads=[kernel // 2] * 2, shape=(1, 40, 80))
    net.add("Conv", s, net.normal(40, 24, kernel), net.normal(40), **conv)
    a = net.end
    net.add("Conv", x, net.normal(40, 24, kernel), **conv)
    net.add("Sub", a, None, shape=(1, 40, 80))
    net.add("Mul", None, net.normal(40, 1), shape=(1, 40, 80))
    if reduced:
        net.add("ReduceMean", None, net.constant(np.array([2])), keepdims=0, shape=(1, 40))
    return net


@pytest.mark.small
def test_a_mean_of_a_sum_of_convolutions_over_single_positions(tmp_path):
    block(reduced=False).save(tmp_path / "m.onnx")
    all_positions = work(tmp_path)
    block(reduced=True).save(tmp_path / "m.onnx")
    assert work(tmp_path) < all_positions / 5
    tendon("validate", tmp_path / "m.onnx")
    block(reduced=True, kernel=3).save(tmp_path / "m.onnx")  # what lies beyond the border counts in some positions only
    tendon("validate", tmp_path / "m.onnx")


@pytest.mark.small
def test_a_mean_behind_what_is_not_linear_stays(tmp_path):
    attention(4, reduced=False, between=lambda net: net.square()).save(tmp_path / "m.onnx")
    all_positions = work(tmp_path)
    attention(4, reduced=True, between=lambda net: net.square()).save(tmp_path / "m.onnx")
    assert work(tmp_path) >= all_positions
    tendon("validate", tmp_path / "m.onnx")


def skeleton(n_parts, n_joints, channels, frames, persons, density, seed=0):
    """Features of joints, spread by 1x1 convolutions over parts of a body whose adjacency is sparse."""
    net = Net((persons, 4, frames, n_joints), seed)
    edges = np.where(net.rng.random((n_parts, n_joints, n_joints)) < density,
                     net.rng.standard_normal((n_parts, n_joints, n_joints)), 0).astype(np.float32)
    shape = (persons, channels, frames, n_joints)
    for _ in range(2):
        net.add("Conv", None, net.normal(n_parts * channels, net.shape[1], 1, 1), net.normal(n_parts * channels),
                shape=(persons, n_parts * channels, frames, n_joints))
        parts = (persons, n_parts, channels, frames, n_joints)
        net.add("Reshape", None, net.constant(np.array(parts)), shape=parts)
        net.add("Einsum", None, net.constant(edges), equation="nkctv,kvw->nctw", shape=shape)
        net.add("Mul", None, net.normal(channels, 1, 1), shape=shape)
        net.add("Relu", None, shape=shape)
    return net


@pytest.mark.small
@pytest.mark.parametrize("persons,channels,frames", [(1, 24, 37), (2, 19, 5), (1, 1, 3)])
def test_a_sparse_adjacency_costs_its_edges(tmp_path, persons, channels, frames):
    skeleton(3, 17, channels, frames, persons, density=1).save(tmp_path / "m.onnx")
    dense = work(tmp_path)
    tendon("validate", tmp_path / "m.onnx", "--rtol=1e-3", "--atol=1e-3")
    skeleton(3, 17, channels, frames, persons, density=0.04).save(tmp_path / "m.onnx")
    assert work(tmp_path) < dense
    tendon("validate", tmp_path / "m.onnx", "--rtol=1e-3", "--atol=1e-3")
    kernels = {step["kernel"] for step in steps(tmp_path)}
    assert any(name.startswith("graphconv") for name in kernels), kernels


def plain_attention(path, batch, queries, keys, depth, width, scaled="scores", mask=None, end="values", seed=0):
    """Attention of inputs q (batch, queries, depth), k (batch, depth, keys) and v (batch, keys, width), scaled at the
    scores or at queries and keys; a mask of that shape, of which a third hides its key. What reads the weights: the
    product with the values, its mean over the queries, or that product and an output."""
    rng, f32, node = np.random.default_rng(seed), np.float32, helper.make_node
    shapes = {"q": (*batch, queries, depth), "k": (*batch, depth, keys), "v": (*batch, keys, width)}
    weights, q, k, scores = {"axis": np.array([len(batch)])}, "q", "k", "s"
    nodes = []
    if scaled == "operands":
        weights["root"] = np.array(depth**-0.25, f32)
        nodes += [node("Mul", ["q", "root"], ["q1"]), node("Mul", ["root", "k"], ["k1"])]
        q, k = "q1", "k1"
    nodes.append(node("MatMul", [q, k], ["s"]))
    if scaled == "scores":
        weights["root"] = np.array(depth**0.5, f32)
        nodes.append(node("Div", ["s", "root"], ["s1"]))
        scores = "s1"
    if mask is not None:
        hides = rng.random(mask) < 1 / 3
        hides[..., 0] = False
        weights["mask"] = np.where(hides, -np.inf, rng.standard_normal(mask)).astype(f32)
        nodes.append(node("Add", ["mask", scores], ["s2"]))
        scores = "s2"
    nodes.append(node("Softmax", [scores], ["p"], axis=-1))
    outputs = {"y": (*batch, queries, width)}
    nodes.append(node("MatMul", ["p", "v"], ["y" if end != "mean" else "y0"]))
    if end == "mean":
        nodes.append(node("ReduceMean", ["y0", "axis"], ["y"], keepdims=0))
        outputs = {"y": (*batch, width)}
    if end == "both":
        nodes.append(node("Neg", ["p"], ["p1"]))
        outputs["p1"] = (*batch, queries, keys)
    infos = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in of.items()] for of in (shapes, outputs)]
    graph = helper.make_graph(nodes, "net", *infos, initializer=[numpy_helper.from_array(w, name) for name, w in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


@pytest.mark.small
@pytest.mark.parametrize("batch,queries,keys,depth,width", [((2, 3), 37, 50, 16, 24), ((4,), 1, 70, 8, 8), ((), 30, 17, 5, 3),
                                                            ((1, 4), 130, 400, 32, 40)])
@pytest.mark.parametrize("scaled", ["scores", "operands", "nothing"])
def test_the_weights_of_an_attention_are_not_stored(tmp_path, batch, queries, keys, depth, width, scaled):
    masks = [None, (keys,), (queries, keys), (*batch, 1, keys), (*batch[:1], *(1 for _ in batch[1:]), queries, 1)]
    for seed, mask in enumerate(masks):
        plain_attention(tmp_path / "m.onnx", batch, queries, keys, depth, width, scaled, mask, seed=seed)
        tendon("validate", tmp_path / "m.onnx")
        assert [step["kernel"].split("_")[0] for step in steps(tmp_path)] == ["attend"]


@pytest.mark.small
@pytest.mark.parametrize("batch,mask", [((2, 4), None), ((5,), (60, 70)), ((2, 2), (2, 1, 1, 70))])
def test_nor_are_those_whose_mean_is_asked(tmp_path, batch, mask):
    plain_attention(tmp_path / "m.onnx", batch, 60, 70, 16, 24, mask=mask, end="mean")
    tendon("validate", tmp_path / "m.onnx")
    assert [step["kernel"].split("_")[0] for step in steps(tmp_path)] == ["attend", "gemm"]


@pytest.mark.small
@pytest.mark.parametrize("batch,end", [((2, 4), "both"), ((2, 2, 3), "values"), ((1,), "mean")])
def test_weights_that_are_asked_for_stay(tmp_path, batch, end):
    plain_attention(tmp_path / "m.onnx", batch, 20, 30, 16, 24, end=end)
    tendon("validate", tmp_path / "m.onnx")
    kernels = [step["kernel"].split("_")[0] for step in steps(tmp_path)]
    assert "softmax" in kernels and "attend" not in kernels, kernels


def self_attention(path, n_heads, width, positions, pooled, biased=True, seed=0):
    """Queries, keys and values by one product, as PyTorch's MultiheadAttention exports them; then a mean."""
    rng = np.random.default_rng(seed)
    depth, f32 = width // n_heads, np.float32
    weights = {"w": rng.standard_normal((width, 3 * width)).astype(f32) / 4, "b": rng.standard_normal(3 * width).astype(f32) * (biased != "zeros"),
               "parts": np.array([positions, 1, 3, width]), "heads": np.array([positions, n_heads, depth]),
               "zero": np.array(0), "one": np.array(1), "two": np.array(2), "flat": np.array([positions, width]),
               "wo": rng.standard_normal((width, 5)).astype(f32), "axis": np.array([0])}
    node = helper.make_node
    nodes = [node("MatMul", ["x", "w"], ["y0"]), node("Add", ["b", "y0"], ["y"]) if biased else node("Identity", ["y0"], ["y"]),
             node("Reshape", ["y", "parts"], ["y3"]), node("Transpose", ["y3"], ["yt"], perm=[2, 0, 1, 3])]
    for i, (name, index) in enumerate([("q", "zero"), ("k", "one"), ("v", "two")]):
        nodes += [node("Gather", ["yt", index], [name + "0"], axis=0), node("Reshape", [name + "0", "heads"], [name + "1"]),
                  node("Transpose", [name + "1"], [name], perm=[1, 2, 0] if name == "k" else [1, 0, 2])]
    nodes += [node("MatMul", ["q", "k"], ["s"]), node("Softmax", ["s"], ["p"], axis=-1), node("MatMul", ["p", "v"], ["o"]),
              node("Transpose", ["o"], ["ot"], perm=[1, 0, 2]), node("Reshape", ["ot", "flat"], ["of"]),
              node("MatMul", ["of", "wo"], ["z" if pooled else "out"])]
    if pooled:
        nodes.append(node("ReduceMean", ["z", "axis"], ["out"], keepdims=0))
    graph = helper.make_graph(nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (positions, 1, width))],
                              [helper.make_tensor_value_info("out", TensorProto.FLOAT, (5,) if pooled else (positions, 5))],
                              initializer=[numpy_helper.from_array(w, name) for name, w in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


@pytest.mark.small
@pytest.mark.parametrize("n_heads,width,positions,biased", [(4, 64, 37, True), (1, 32, 80, True), (3, 48, 50, False),
                                                               (4, 64, 37, "zeros")])
def test_values_are_projected_once_where_their_mean_is_asked(tmp_path, n_heads, width, positions, biased):
    self_attention(tmp_path / "m.onnx", n_heads, width, positions, pooled=True, biased=biased)
    tendon("validate", tmp_path / "m.onnx", "--rtol=1e-3", "--atol=1e-4")
    two_thirds = 2 * positions * width * 2 * width  # queries and keys
    scores = 2 * n_heads * positions * positions * (width // n_heads)
    assert work(tmp_path) < 1.35 * (two_thirds + scores)
    self_attention(tmp_path / "m.onnx", n_heads, width, positions, pooled=False, biased=biased)
    tendon("validate", tmp_path / "m.onnx", "--rtol=1e-3", "--atol=1e-4")
    assert work(tmp_path) > 1.35 * (two_thirds + scores)


def scaled_scores(path, n_heads, width, positions, scales):
    """Scores of an attention; queries and keys are scaled once they are split into heads."""
    rng, f32, node = np.random.default_rng(0), np.float32, helper.make_node
    weights = {"heads": np.array([positions, n_heads, width // n_heads])}
    nodes = []
    for name, scale in zip("qk", scales):
        weights |= {"w" + name: rng.standard_normal((width, width)).astype(f32) / 4,
                    "b" + name: rng.standard_normal(width).astype(f32), "s" + name: np.array(scale, f32)}
        nodes += [node("MatMul", ["x", "w" + name], [name + "0"]), node("Add", [name + "0", "b" + name], [name + "1"]),
                  node("Reshape", [name + "1", "heads"], [name + "2"]),
                  node("Transpose", [name + "2"], [name + "3"], perm=[1, 2, 0] if name == "k" else [1, 0, 2]),
                  node("Mul", [name + "3", "s" + name], [name])]
    nodes += [node("MatMul", ["q", "k"], ["s"]), node("Softmax", ["s"], ["out"], axis=-1)]
    graph = helper.make_graph(nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, (positions, width))],
                              [helper.make_tensor_value_info("out", TensorProto.FLOAT, (n_heads, positions, positions))],
                              initializer=[numpy_helper.from_array(w, name) for name, w in weights.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)


@pytest.mark.small
@pytest.mark.parametrize("n_heads,width,positions,scales", [(4, 64, 37, (0.42, 0.42)), (1, 32, 80, (-3.0, 1.0)), (3, 48, 50, (0.25, 2.0))])
def test_scales_of_queries_and_keys_go_into_their_weights(tmp_path, n_heads, width, positions, scales):
    scaled_scores(tmp_path / "m.onnx", n_heads, width, positions, scales)
    tendon("validate", tmp_path / "m.onnx", "--rtol=1e-3", "--atol=1e-4")
    kernels = [step["kernel"].split("_")[0] for step in steps(tmp_path)]
    assert sorted(kernels) == ["gemm", "gemm", "gemm", "softmax"], kernels


@pytest.mark.small
@pytest.mark.parametrize("image,channels,kernel,pads", [((32, 32), 3, (7, 7), (3, 3, 3, 3)), ((18, 26), 1, (5, 6), (2, 1, 2, 2)),
                                                        ((20, 20), 4, (6, 5), (0, 0, 0, 0)), ((33, 20), 3, (7, 7), (3, 3, 3, 3)),
                                                        ((16, 16), 3, (5, 5), (1, 2, 0, 1))])
def test_stride_two_over_an_image(tmp_path, image, channels, kernel, pads):
    net = Net((2, channels, *image), 1)
    shape = tuple((n + pads[i] + pads[2 + i] - kernel[i]) // 2 + 1 for i, n in enumerate(image))
    net.add("Conv", None, net.normal(24, channels, *kernel), net.normal(24), shape=(2, 24, *shape), strides=[2, 2], pads=pads)
    net.add("Relu", None, shape=net.shape)
    net.save(tmp_path / "m.onnx")
    tendon("validate", tmp_path / "m.onnx", "--rtol=1e-4", "--atol=2e-4")
