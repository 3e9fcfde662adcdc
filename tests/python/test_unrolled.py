# SPDX-License-Identifier: Apache-2.0
"""Networks unrolled over time, and others that apply a layer more than once: the engine agrees with onnxruntime and with
the reference, and the copies of a layer are one step. Widths, steps, order of nodes and names are made at random."""
import json
import os
import pathlib
import subprocess

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

TENDON = os.environ.get("TENDON", str(pathlib.Path(__file__).resolve().parents[2] / "build" / "tendon"))


def tendon(*args):
    run = subprocess.run([TENDON, *map(str, args)], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


class Net:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights, self.inputs, self.outputs, self.feeds = [], [], [], [], {}

    def name(self):
        return "".join(self.rng.choice(list("abcdefghij"), 12))

    def input(self, *shape):
        name = self.name()
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self.feeds[name] = self.rng.standard_normal(shape).astype(np.float32)
        return name

    def constant(self, array):
        name = self.name()
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def scalar(self, x):
        return self.constant(np.float32(x))

    def add(self, op, *inputs, n_out=1, **attrs):
        names = [self.name() for _ in range(n_out)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=self.name(), **attrs))
        return names if n_out > 1 else names[0]

    def model(self, *outputs):
        outs = [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(self.shuffled(), "net", self.inputs, outs, initializer=self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)

    def shuffled(self):
        """The nodes in another order that is valid: layer by layer or step by step, whatever comes."""
        known = {i.name for i in self.inputs} | {w.name for w in self.weights}
        left, order = list(self.nodes), []
        while left:
            ready = [n for n in left if all(i in known for i in n.input)]
            node = ready[int(self.rng.integers(len(ready)))]
            left.remove(node)
            order.append(node)
            known |= set(node.output)
        return order

    def steps(self, x, n, axis):
        """x at each step: by Split, by Gather or by Slice."""
        way = self.rng.integers(3)
        if way == 0:
            parts = self.add("Split", x, n_out=n, axis=axis, num_outputs=n)
            axes = self.constant(np.array([axis]))
            return [self.add("Squeeze", p, axes) for p in parts]
        if way == 1:
            return [self.add("Gather", x, self.constant(np.int64(i)), axis=axis) for i in range(n)]
        at = [self.constant(np.array([i])) for i in [*range(n + 1), axis]]
        return [self.add("Squeeze", self.add("Slice", x, at[i], at[i + 1], at[-1]), at[-1]) for i in range(n)]

    def fires(self, u, v, s, decay, threshold):
        """A leaky integrator: (membrane, spike)."""
        if v is None:
            v = u
        else:
            v = self.add("Add", self.add("Mul", v, self.scalar(decay)), u)
            v = self.add("Sub", v, self.add("Mul", s, self.scalar(threshold)))
        return v, self.add("Cast", self.add("Greater", v, self.scalar(threshold)), to=TensorProto.FLOAT)


def gaussian(net, *shape):
    return (net.rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


def spiking_dense(net, static):
    """Layers of leaky integrators over a dense input, the same at each step or not; weights under a name a step."""
    n_steps, width = int(net.rng.integers(2, 14)), int(net.rng.integers(3, 40))
    if static:
        spikes = [net.input(1, width)] * n_steps
    else:
        spikes = net.steps(net.input(n_steps, 1, width), n_steps, 0)
    for _ in range(int(net.rng.integers(1, 4))):
        n = int(net.rng.integers(2, 70))
        w, b = 2 * gaussian(net, n, width), gaussian(net, n)
        own_names = net.rng.random() < 0.5
        shared = net.constant(w), net.constant(b)
        v = s = None
        for t in range(n_steps):
            copy = (net.constant(w), net.constant(b)) if own_names else shared
            u = net.add("Gemm", spikes[t], *copy, transB=1)
            v, s = net.fires(u, v, s, 0.75, 0.5)
            spikes[t] = s
        width = n
    axis = net.constant(np.array([0]))
    stacked = net.add("Concat", *[net.add("Unsqueeze", s, axis) for s in spikes], axis=0)
    return net.add("ReduceMean", stacked, axis, keepdims=0)


def spiking_conv(net, static):
    """Causal convolutions with residuals, as a temporal convolutional network of leaky integrators."""
    n_steps, width, length = int(net.rng.integers(2, 8)), int(net.rng.integers(2, 20)), int(net.rng.integers(5, 40))
    x = [net.input(1, width, length)] * n_steps if static else [net.input(1, width, length) for _ in range(n_steps)]
    for dilation in (1, 2, 4)[:int(net.rng.integers(1, 4))]:
        n = int(net.rng.integers(2, 40))
        w, d, b = gaussian(net, n, width, 3), gaussian(net, n, width, 1), gaussian(net, n)
        names = net.constant(w), net.constant(d), net.constant(b)
        pads = net.constant(np.array([0, 0, 2 * dilation, 0, 0, 0]))
        v = s = None
        for t in range(n_steps):
            u = net.add("Conv", net.add("Pad", x[t], pads), names[0], names[2], dilations=[dilation])
            v, s = net.fires(u, v, s, 0.5, 0.75)
            x[t] = net.add("Add", s, net.add("Conv", x[t], names[1], names[2]))
        width = n
    means = [net.add("ReduceMean", y, net.constant(np.array([2])), keepdims=0) for y in x]
    w = net.constant(gaussian(net, width, 5))
    return net.add("Mean", *[net.add("MatMul", m, w) for m in means])


def recurrent(net, _):
    """Two layers of h = tanh(W x + U h + b), unrolled."""
    n_steps, width = int(net.rng.integers(2, 10)), int(net.rng.integers(3, 30))
    x = net.steps(net.input(2, n_steps, width), n_steps, 1)
    for _ in range(2):
        n = int(net.rng.integers(3, 30))
        w, u, b = (net.constant(gaussian(net, *s)) for s in ((width, n), (n, n), (n,)))
        h = None
        for t in range(n_steps):
            a = net.add("Add", net.add("MatMul", x[t], w), b)
            h = x[t] = net.add("Tanh", a if h is None else net.add("Add", a, net.add("MatMul", h, u)))
        width = n
    return net.add("Concat", *x, axis=1)


def siamese(net, _):
    """Some inputs through the same layers, then their distances."""
    width = int(net.rng.integers(3, 30))
    n = int(net.rng.integers(3, 30))
    w, v, b = (net.constant(gaussian(net, *s)) for s in ((width, n), (n, 9), (n,)))
    ends = []
    for _ in range(int(net.rng.integers(2, 5))):
        x = net.add("Relu", net.add("Add", net.add("MatMul", net.input(3, width), w), b))
        x = net.add("Softmax", net.add("MatMul", x, v), axis=1)
        ends.append(net.add("Transpose", x, perm=[1, 0]))
    return net.add("Sub", ends[0], net.add("Mul", *ends[-2:]))


KINDS = [(spiking_dense, True), (spiking_dense, False), (spiking_conv, True), (spiking_conv, False),
         (recurrent, None), (siamese, None)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind,static", KINDS, ids=lambda p: getattr(p, "__name__", str(p)))
def test_agrees(tmp_path, kind, static, seed):
    net = Net(1000 * seed + KINDS.index((kind, static)))
    model = net.model(kind(net, static))
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "in.npz", **net.feeds)
    tendon("run", tmp_path / "m.onnx", "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, net.feeds)[0]
    got = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(got[got.files[0]], expected, rtol=1e-4, atol=1e-4)
    tendon("validate", tmp_path / "m.onnx", "--layers")


def kernels(folder):
    tendon("build", folder / "m.onnx", "-o", folder / "m.plan")
    plan = json.loads(tendon("inspect", folder / "m.plan", "--json"))
    return [step.get("kernel", step["kind"]).split("_")[0] for step in plan["sections"][0]["programs"][0]["steps"]]


def small(net, scale, *shape):
    """Multiples of 1/8, so that sums are exact in any order and no spike hangs on the last bit."""
    return (net.rng.integers(-scale, scale + 1, shape) / 8).astype(np.float32)


def residual_blocks(net, kernel, extents, drive, swapped):
    """Spiking blocks of two convolutions each; what they read is spikes plus a 1x1 convolution of what was read before.
    All currents have `drive` added, by which neurons fire more often or less."""
    n_steps, width, n_axes = int(net.rng.integers(4, 7)), 24, len(extents)
    dilations = [2 if n_axes == 1 else 1] * n_axes
    drive = np.round(8 * drive * np.sqrt(np.prod(kernel))) / 8
    pads = [(k - 1) * d for k, d in zip(kernel, dilations)] + [0] * n_axes
    x0 = net.input(1, width, *extents)
    net.feeds[x0] = np.round(net.feeds[x0])
    x = [x0] * n_steps
    for _ in range(2):
        n = int(net.rng.integers(40, 60))
        w, u = (net.constant(small(net, 1, n, c, *kernel)) for c in (width, n))
        b = net.constant(small(net, 2, n) + np.float32(drive))
        few = net.rng.random((n, width, *[1] * n_axes)) < 0.1
        d, e = net.constant(8 * small(net, 1, *few.shape) * few.astype(np.float32)), net.constant(small(net, 2, n))
        states = [(None, None), (None, None)]
        for t in range(n_steps):
            y = x[t]
            for i, weights in enumerate((w, u)):
                y = net.add("Conv", y, weights, b, dilations=dilations, pads=pads)
                states[i] = fires_exactly(net, y, *states[i])
                y = states[i][1]
            skip = net.add("Conv", x[t], d, e)
            x[t] = net.add("Add", *((skip, y) if swapped else (y, skip)))
        width = n
    axes = net.constant(np.arange(2, 2 + n_axes))
    means = [net.add("ReduceMean", y, axes, keepdims=1) for y in x]
    return net.add("Sum", *means)


def fires_exactly(net, u, v, s):
    if v is None:
        v = u
    else:
        v = net.add("Sub", net.add("Add", net.add("Mul", v, net.scalar(0.5)), u), s)
    return v, net.add("Cast", net.add("Greater", v, net.scalar(0.75 + 2**-12)), to=TensorProto.FLOAT)


def calls_by_kernel(folder):
    """Which kernels ran, inside of branches and out of them."""
    tendon("bench", folder / "m.plan", "--inputs", folder / "in.npz", "--profile", "--json", folder / "bench.json",
           "--duration=0", "--iterations=1")
    steps = json.loads((folder / "bench.json").read_text())["profile"]
    return [s["kernel"].split("_")[0] for s in steps if s.get("runs", 0)]


SHAPES = [((3,), (297,)), ((5,), (164,)), ((3, 3), (11, 13)), ((2, 2), (17, 15))]


@pytest.mark.parametrize("drive", [-1.5, 0, 40], ids=["rarely", "often", "always"])
@pytest.mark.parametrize("swapped", [False, True], ids=["spikes first", "spikes last"])
@pytest.mark.parametrize("kernel,extents", SHAPES, ids=str)
def test_spikes_are_accumulated_while_they_are_rare(tmp_path, kernel, extents, swapped, drive):
    net = Net(7)
    model = net.model(residual_blocks(net, kernel, extents, drive, swapped))
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "in.npz", **net.feeds)
    tendon("build", tmp_path / "m.onnx", "-o", tmp_path / "m.plan", "--optimization-level=0")
    tendon("run", tmp_path / "m.plan", "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    got = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(got[got.files[0]], session.run(None, net.feeds)[0], rtol=1e-4, atol=1e-4)
    ran = calls_by_kernel(tmp_path)
    assert ran.count("branch") >= 3
    assert ran.count("spconv") >= ran.count("branch") or drive >= 0, ran
    assert ran.count("spconv") < ran.count("branch") or drive < 40, ran


@pytest.mark.small
@pytest.mark.parametrize("seed", range(6))
def test_a_layer_is_a_product_and_a_map(tmp_path, seed):
    """Three dense layers of integrators over six steps: one product and one map each, nothing copied."""
    net = Net(seed)
    n_steps, width = 6, 24
    spikes = net.steps(net.input(n_steps, 1, width), n_steps, 0)
    for n in (32, 17, 40):
        w = 2 * gaussian(net, n, width)
        v = s = None
        for t in range(n_steps):
            u = net.add("Gemm", spikes[t], net.constant(w), transB=1)
            v, s = net.fires(u, v, s, 0.9, 0.6)
            spikes[t] = s
        width = n
    onnx.save(net.model(net.add("Concat", *spikes, axis=0)), tmp_path / "m.onnx")
    found = kernels(tmp_path)
    assert len([k for k in found if "gemm" in k]) == 3 and found.count("map") == 3 and len(found) == 6, found


@pytest.mark.small
def test_a_static_input_is_read_once(tmp_path):
    """What does not change from step to step is computed once: no product has more rows than its input."""
    net = Net(3)
    x = net.add("Expand", net.input(1, 16), net.constant(np.array([5, 16])))
    w = net.constant(gaussian(net, 16, 8))
    steps = [net.add("Tanh", net.add("MatMul", net.add("Gather", x, net.constant(np.array([i])), axis=0), w)) for i in range(5)]
    onnx.save(net.model(net.add("Sum", *steps)), tmp_path / "m.onnx")
    tendon("build", tmp_path / "m.onnx", "-o", tmp_path / "m.plan")
    plan = json.loads(tendon("inspect", tmp_path / "m.plan", "--json"))
    steps = plan["sections"][0]["programs"][0]["steps"]
    assert [s["flops"] for s in steps if "gemm" in s.get("kernel", "")] == [2 * 16 * 8]


def test_a_batch_stays_a_batch(tmp_path):
    """Copies of a layer are joined along the axis that samples lie along; a range of batches is served all the same."""
    net = Net(5)
    w, v = net.constant(gaussian(net, 16, 8)), net.constant(gaussian(net, 8, 8))
    net.inputs.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16]))
    h = net.add("Tanh", net.add("MatMul", "x", w))
    ends = []
    for _ in range(3):
        h = net.add("Sigmoid", net.add("Add", h, net.constant(gaussian(net, 8))))
        ends.append(net.add("Tanh", net.add("MatMul", h, v)))
    model = net.model(net.add("Sub", ends[0], net.add("Mul", *ends[1:])))
    onnx.save(model, tmp_path / "m.onnx")
    tendon("build", tmp_path / "m.onnx", "-o", tmp_path / "m.plan", "--minShapes=x:1x16", "--optShapes=x:3x16",
           "--maxShapes=x:4x16")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 2, 3, 4):
        x = net.rng.standard_normal((n, 16)).astype(np.float32)
        np.savez(tmp_path / "in.npz", x=x)
        tendon("run", tmp_path / "m.plan", "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
        got = np.load(tmp_path / "out.npz")
        np.testing.assert_allclose(got[got.files[0]], session.run(None, {"x": x})[0], rtol=1e-4, atol=1e-5)
