#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the networks that tests and benches run, as ONNX files with seeded weights.

    python tools/zoo.py --out DIR [--small] [--only NAME,...] [--seed N] [--rates] [--check]

For each network DIR gets NAME.onnx and NAME.npz: the inputs by name and, where onnxruntime can be
imported, its outputs as out0, out1, ... by position. `--small` writes the same operators in the
same order with few channels, frames and pixels, for sanitizer builds. The same seed gives the same
bytes.

The graphs look as PyTorch's classic exporter leaves them in eval mode (opset 17): convolutions with
their BatchNorm folded in, attention, shape arithmetic and padding spelt out in small nodes, spiking
layers unrolled over ten steps.

Two kinds of value would make a comparison of engines a matter of luck, so both are settled here, by
simulating those layers in double precision while their weights are drawn:
  - A membrane within rounding error of its threshold spikes in one engine and not in another. Each
    spiking layer gets a gain that makes it fire in about 11 % of its steps, then each channel the
    smallest change of bias that keeps all its membranes MEMBRANE_MARGIN (relative) away from the
    threshold. Inputs stay clear of the encoder's threshold too.
  - A value half way between two levels of sc2_bq's 8-bit bottleneck: each channel takes, of many
    small changes of its bias, the one whose values stay farthest from a rounding boundary, at least
    LEVEL_MARGIN of a level.
This holds for the inputs in the npz; others may well meet a threshold.
"""

import argparse
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
# Of every spiking network: steps simulated, share of the membrane kept from step to step.
STEPS, BETA = 10, 0.9
RATE, MEMBRANE_MARGIN, LEVEL_MARGIN = 0.11, 3e-4, 1e-3
INT_MAX, INT_MIN = 2**63 - 1, -(2**63 - 1)
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def int64(values):
    return numpy_helper.from_array(np.array(values, np.int64))


class Builder:
    """A graph under construction. Methods add nodes and return the name of what they compute."""

    def __init__(self, name, seed):
        self.name = name
        self.rng = np.random.default_rng([seed, zlib.crc32(name.removesuffix("_step").encode())])
        self.nodes, self.weights, self.inputs, self.outputs, self.used = [], {}, [], [], {}
        self.feeds = {}  # the npz inputs
        self.rates = {}  # spiking layer -> share of its steps in which it fires
        self.margin = {}  # layer -> distance of its values from threshold or rounding boundary

    # --- nodes, constants, weights

    def node(self, op, *inputs, at="", out=None, **attributes):
        path = f"/{at}/{op}" if at else f"/{op}"
        k = self.used[path] = self.used.get(path, -1) + 1
        path += f"_{k}" if k else ""
        out = out or f"{path}_output_0"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=path, **attributes))
        return out

    def const(self, value, dtype=np.int64, at=""):
        return self.node("Constant", at=at, value=numpy_helper.from_array(np.asarray(value, dtype)))

    def weight(self, value, name=None):
        name = name or f"onnx::Weight_{len(self.weights)}"
        if name not in self.weights:
            self.weights[name] = np.ascontiguousarray(value, np.float32)
        return name

    def normal(self, *shape, std=1.0):
        return self.rng.standard_normal(shape, np.float32) * np.float32(std)

    def he(self, *shape, gain=2.0):
        return self.normal(*shape, std=(gain / np.prod(shape[1:])) ** 0.5)

    def input(self, name, value, dims=None):
        """A graph input with the value that goes into the npz; dims where an axis is dynamic."""
        self.inputs.append(helper.make_tensor_value_info(name, FLOAT, dims or value.shape))
        self.feeds[name] = np.ascontiguousarray(value, np.float32)
        return name

    def output(self, name, dims):
        self.outputs.append(helper.make_tensor_value_info(name, FLOAT, dims))

    def model(self):
        tensors = []
        for name, w in self.weights.items():
            tensors.append(
                TensorProto(name=name, dims=w.shape, data_type=FLOAT, raw_data=w.tobytes())
            )
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, tensors)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="tendon-zoo"
        )
        model.ir_version = IR_VERSION
        return model

    # --- layers

    def conv(
        self, x, cin, cout, k, at="", name=None, stride=1, pad=0, dilation=1, gain=2.0, value=None
    ):
        """A convolution; k is an int (square) or a tuple, pad and stride likewise.

        value=(weight, bias) takes weights already drawn; without a name they are named as folded
        ones are."""
        k = k if isinstance(k, tuple) else (k, k)
        rank = len(k)
        spread = lambda v: list(v) if isinstance(v, tuple) else [v] * rank
        w, b = value or (self.he(cout, cin, *k, gain=gain), self.normal(cout, std=0.05))
        w = self.weight(w, name and name + ".weight")
        b = self.weight(b, name and name + ".bias")
        return self.node(
            "Conv",
            x,
            w,
            b,
            at=at,
            dilations=spread(dilation),
            group=1,
            kernel_shape=list(k),
            pads=spread(pad) * 2,
            strides=spread(stride),
        )

    def relu(self, x, at=""):
        return self.node("Relu", x, at=at)

    def linear(self, x, cin, cout, name, gain=2.0, value=None, out=None):
        w, b = value or (self.he(cout, cin, gain=gain), self.normal(cout, std=0.05))
        return self.node(
            "Gemm",
            x,
            self.weight(w, name + ".weight"),
            self.weight(b, name + ".bias"),
            at=name,
            out=out,
            alpha=1.0,
            beta=1.0,
            transB=1,
        )

    def batch_norm(self, x, channels, name, mean=0.0, var=1.0):
        u = lambda lo, hi: self.rng.uniform(lo, hi, channels)
        if f"{name}.weight" not in self.weights:
            self.weight(u(0.8, 1.2), f"{name}.weight")
            self.weight(u(-0.2, 0.2), f"{name}.bias")
            self.weight(mean + u(-0.2, 0.2), f"{name}.running_mean")
            self.weight(var * u(0.5, 1.5), f"{name}.running_var")
        names = [f"{name}.{k}" for k in ("weight", "bias", "running_mean", "running_var")]
        return self.node(
            "BatchNormalization", x, *names, at=name, epsilon=1e-5, momentum=0.9, training_mode=0
        )

    def reshape(self, x, shape, at=""):
        return self.node(
            "Reshape",
            x,
            shape if isinstance(shape, str) else self.const(shape, at=at),
            at=at,
            allowzero=0,
        )

    def slice(self, x, axis, start, end, at="", step=1):
        c = lambda v: self.const([v], at=at)
        return self.node("Slice", x, c(start), c(end), c(axis), c(step), at=at)

    def gather(self, x, i, at=""):
        return self.node("Gather", x, self.const(i, at=at), at=at, axis=0)

    def transpose(self, x, *perm, at=""):
        return self.node("Transpose", x, at=at, perm=list(perm))

    def reduce_mean(self, x, axis, at=""):
        return self.node("ReduceMean", x, at=at, axes=[axis], keepdims=0)

    def dims(self, x, rank, at=""):
        """The dimensions of x as scalars computed in the graph, as traced x.size(i) are."""
        return [self.gather(self.node("Shape", x, at=at), i, at=at) for i in range(rank)]

    def join(self, parts, at=""):
        """A shape from ints and scalars computed in the graph."""
        scalar = lambda p: self.node("Unsqueeze", p, self.const([0], at=at), at=at)
        return self.node(
            "Concat",
            *[scalar(p) if isinstance(p, str) else self.const([p], at=at) for p in parts],
            at=at,
            axis=0,
        )

    def pad_left(self, x, n):
        """n zeros before the last axis of a rank 3 value, as F.pad(x, (n, 0)) is exported."""
        return self.pad(x, 3, [n, 0])

    def pad(self, x, rank, pads):
        """Zero padding; PyTorch's pads, last axis first, are rearranged in the graph."""
        zeros = self.const([2 * rank - len(pads)])
        zeros = self.node("ConstantOfShape", zeros, value=int64([0]))
        pads = self.node("Concat", self.const(pads), zeros, axis=0)
        pads = self.slice(self.reshape(pads, [-1, 2]), 0, -1, INT_MIN, step=-1)
        pads = self.reshape(self.transpose(pads, 1, 0), [-1])
        return self.node("Pad", x, self.node("Cast", pads, to=INT64), "", mode="constant")

    def attention(self, x, n, dim, heads, at="att"):
        """nn.MultiheadAttention: self-attention over (n, 1, dim), as its decomposition exports."""
        head = dim // heads
        c = lambda v, dtype=np.int64: self.const(v, dtype, at=at)
        f = lambda op, *ins, **kw: self.node(op, *ins, at=at, **kw)
        qkv = f("MatMul", x, self.weight(self.he(dim, 3 * dim, gain=3.0)))
        qkv = f("Add", self.weight(self.normal(3 * dim, std=0.1), f"{at}.in_proj_bias"), qkv)
        axis, shape = f("Mod", c([2]), c([3])), f("Shape", qkv)
        before = f("Slice", shape, c([0]), self.reshape(axis, [1], at))
        after = f("Slice", shape, self.reshape(f("Add", axis, c([1])), [1], at), c([INT_MAX]))
        qkv = self.reshape(qkv, f("Concat", before, c([3, dim]), after, axis=0), at)
        qkv = self.transpose(f("Unsqueeze", qkv, c([0])), 3, 1, 2, 0, 4, at=at)
        qkv = f("Squeeze", qkv, c([3]))

        def split(i):
            y = self.reshape(self.gather(qkv, i, at), [n, heads, head], at)
            return self.reshape(self.transpose(y, 1, 0, 2, at=at), [1, heads, n, head], at)

        q, k, v = split(0), split(1), split(2)
        size = f("Cast", f("Slice", f("Shape", q), c([-1]), c([INT_MAX])), to=FLOAT)
        scale = f("Cast", f("Div", c([1.0], np.float32), f("Sqrt", size)), to=FLOAT)
        k = self.transpose(k, 0, 1, 3, 2, at=at)
        score = f("MatMul", f("Mul", q, f("Sqrt", scale)), f("Mul", k, f("Sqrt", scale)))
        y = f("MatMul", f("Softmax", score, axis=-1), v)
        y = self.reshape(self.transpose(y, 2, 0, 1, 3, at=at), [n, dim], at)
        y = self.linear(y, dim, dim, f"{at}.out_proj", gain=1.0)
        return self.transpose(self.reshape(y, [n, 1, dim], at), 1, 0, 2, at=at)

    # --- spiking

    def encode(self, x, repeat=True):
        """Spikes where sigmoid(x) > 0.5; repeated for every step, (STEPS, *x.shape)."""
        half = self.const(0.5, np.float32)
        spike = self.node("Cast", self.node("Greater", self.node("Sigmoid", x), half), to=FLOAT)
        if not repeat:
            return spike
        spike = self.node("Unsqueeze", spike, self.const([0]))
        ones = self.node("ConstantOfShape", self.const([4]), value=int64([1]))
        return self.node("Tile", self.node("Expand", spike, ones), self.const([STEPS, 1, 1, 1]))

    def lif(self, current, state, threshold, shape):
        """One step of a leaky integrate-and-fire layer: its membrane and spike.

        state is (membrane, spike) of the step before, None at first. The reset takes the threshold
        off one step after the spike.
        """
        f32 = lambda v: self.const(v, np.float32)
        if state is None:
            v = self.node("Add", f32(np.zeros(shape)), current)
            v = self.node("Sub", v, f32(np.zeros(shape)))
        else:
            v = self.node("Add", self.node("Mul", state[0], f32(BETA)), current)
            v = self.node("Sub", v, self.node("Mul", state[1], f32(threshold)))
        spike = self.node("Cast", self.node("Greater", v, f32(threshold)), to=FLOAT)
        return v, spike

    def fit_spiking(self, layer, drive, w, threshold):
        """Weights, biases, membranes and spikes of a layer that fires at about RATE.

        drive(w) is its input current (STEPS, channels, ...), linear in w."""
        b = self.normal(w.shape[0], std=0.02)
        column = lambda b, cur: b.astype(float).reshape(-1, *[1] * (cur.ndim - 2))
        cur = drive(w)
        # The gain is 2 ** (grid / 8): coarse, so that it does not hang on the last bit.
        low, high = -40, 64
        while high - low > 1:
            mid = (low + high) // 2
            fires = simulate(cur * 2.0 ** (mid / 8) + column(b, cur), threshold)[1].mean() > RATE
            low, high = (low, mid) if fires else (mid, high)
        w = (w * 2.0 ** (high / 8)).astype(np.float32)
        cur = drive(w)
        todo = np.arange(len(b))
        for nudge in alternate(0.002, 400):
            trial = (b[todo] + nudge).astype(np.float32)
            v, _ = simulate(cur[:, todo] + column(trial, cur), threshold)
            gap = np.abs(v / threshold - 1).min(axis=(0, *range(2, v.ndim)))
            b[todo[gap > MEMBRANE_MARGIN]] = trial[gap > MEMBRANE_MARGIN]
            todo = todo[gap <= MEMBRANE_MARGIN]
            if not len(todo):
                break
        v, spikes = simulate(cur + column(b, cur), threshold)
        self.rates[layer], self.margin[layer] = spikes.mean(), np.abs(v / threshold - 1).min()
        if len(todo) or not 0.05 <= self.rates[layer] <= 0.2:
            raise SystemExit(f"{self.name}: no weights found for layer {layer}; try another --seed")
        return (w, b), v, spikes


def alternate(step, n):
    """0, step, -step, 2 step, -2 step, ...: n values."""
    return [((i + 1) // 2) * step * (1 if i % 2 else -1) for i in range(n)]


def simulate(current, threshold):
    """Membranes and spikes of Builder.lif over axis 0 of the current, in double precision."""
    v, spikes = np.empty_like(current), np.empty_like(current)
    beta, threshold = float(np.float32(BETA)), float(np.float32(threshold))
    for t, i in enumerate(current):
        v[t] = beta * v[t - 1] + i - spikes[t - 1] * threshold if t else i
        spikes[t] = v[t] > threshold
    return v, spikes


def causal_conv(x, w, dilation=1):
    """conv1d of (steps, channels, time) with zeros on the left, in double precision."""
    n, taps = x.shape[-1], w.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (dilation * (taps - 1), 0)))
    return sum(
        w[:, :, k].astype(float) @ x[:, :, k * dilation : k * dilation + n] for k in range(taps)
    )


def conv2d(x, w, b, stride=1, pad=0):
    """conv2d of (channels, height, width), in double precision."""
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    view = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (1, 2))[:, ::stride, ::stride]
    return (
        np.tensordot(w.astype(float), view, ([1, 2, 3], [0, 3, 4])) + b.astype(float)[:, None, None]
    )


# --- networks: each takes a builder and its sizes, small or full


def emg_input(g, frames, channels):
    """Standard normal EMG windows, kept clear of zero, where the spike encoder decides."""
    x = g.normal(1, frames, channels)
    x[np.abs(x) < 0.01] = 0.01
    return g.input("input", x), x


def mlp_head(g, x, cin, hidden, classes, out=None):
    """The head of the EMG classifiers: Linear, ReLU, BatchNorm, Linear, ReLU, Linear. Called again,
    it uses the same weights."""
    a, b = hidden
    if "head.0.weight" not in g.weights:
        for i, (m, n) in {0: (cin, a), 3: (a, b), 5: (b, classes)}.items():
            g.weight(g.he(n, m), f"head.{i}.weight")
            g.weight(g.normal(n, std=0.05), f"head.{i}.bias")
    have = lambda i: (g.weights[f"head.{i}.weight"], g.weights[f"head.{i}.bias"])
    x = g.relu(g.linear(x, cin, a, "head.0", value=have(0)), "head.1")
    x = g.batch_norm(x, a, "head.2", mean=0.4, var=0.4)
    x = g.relu(g.linear(x, a, b, "head.3", value=have(3)), "head.4")
    return g.linear(x, b, classes, "head.5", value=have(5), out=out)


def tcn_blocks(g, x, cin, widths, frames, prefix):
    """Dilated residual blocks. Convolutions pad on both sides; the sum keeps the first frames."""
    for i, c in enumerate(widths):
        at, d = f"{prefix}.{i}", 2**i
        y = g.relu(g.conv(x, cin, c, (3,), f"{at}.conv1", pad=2 * d, dilation=d), at)
        y = g.relu(g.conv(y, c, c, (3,), f"{at}.conv2", pad=2 * d, dilation=d, gain=1.0), at)
        down = g.conv(x, cin, c, (1,), f"{at}.down", f"{at}.down", gain=1.0)
        x = g.node("Add", g.slice(y, 2, 0, frames, at), g.slice(down, 2, 0, frames, at), at=at)
        x, cin = g.relu(x, at), c
    return x


def tcn(g, frames, cin, widths, heads, hidden, classes):
    x, _ = emg_input(g, frames, cin)
    x = tcn_blocks(g, g.transpose(x, 0, 2, 1), cin, widths, frames, "net")
    x = g.attention(g.transpose(x, 2, 0, 1), frames, widths[-1], heads)
    mlp_head(g, g.reduce_mean(x, 1), widths[-1], hidden, classes, "out0")
    g.output("out0", [1, classes])


def snn_layers(g, spikes, x, cin, widths, prefix=""):
    """Spiking linear layers over each channel's mean spike; gives the last one's mean spike."""
    seq, threshold = g.reduce_mean(spikes, 2), 0.9
    s = np.repeat((x > 0).mean(1).astype(float), STEPS, 0)
    for i, c in enumerate(widths):
        name, state, out = f"{prefix}fc.{i}", None, []
        value, _, s = g.fit_spiking(name, lambda w: s @ w.T.astype(float), g.he(c, cin), threshold)
        for t in range(STEPS):
            state = g.lif(
                g.linear(g.gather(seq, t), cin, c, name, value=value), state, threshold, (1, c)
            )
            out.append(state[1])
        out = [g.node("Unsqueeze", o, g.const([0])) for o in out]
        seq, cin = g.node("Concat", *out, axis=0), c
    return g.reduce_mean(seq, 0)


def snn(g, frames, cin, widths, classes):
    name, x = emg_input(g, frames, cin)
    y = snn_layers(g, g.encode(name), x, cin, widths)
    g.linear(y, widths[-1], classes, "out", out="out0")
    g.output("out0", [1, classes])


def hybrid(g, frames, cin, widths, hidden, classes):
    name, x = emg_input(g, frames, cin)
    a = tcn_blocks(g, g.transpose(name, 0, 2, 1), cin, widths, frames, "tcn")
    a = g.reduce_mean(a, 2)
    b = snn_layers(g, g.encode(name), x, cin, widths, "snn.")
    mlp_head(g, g.node("Concat", a, b, axis=1), 2 * widths[-1], hidden, classes, "out0")
    g.output("out0", [1, classes])


def spiking_tcn(g, frames, cin, widths, hidden, classes, single_step=False):
    """Spiking dilated residual blocks, STEPS steps unrolled, the head's outputs averaged.

    The single-step form has the same weights; it takes each layer's membrane (mem0, mem1, ...) and
    hands out the next one, so STEPS calls from zero membranes, outputs averaged, are the unrolled
    network. Its npz holds one step in the middle of that."""
    name, x = emg_input(g, frames, cin)
    threshold, layers, mem, spike = 1.0, {}, [], []
    s = np.repeat((x > 0).astype(float), STEPS, 0).transpose(0, 2, 1)
    for i, c in enumerate(widths):
        d, cprev = 2**i, widths[i - 1] if i else cin
        down = g.he(c, cprev, 1, gain=0.5), g.normal(c, std=0.05)
        skip = causal_conv(s, down[0]) + down[1].astype(float)[:, None]
        for layer, width in (f"c1.{i}", cprev), (f"c2.{i}", c):
            w = g.he(c, width, 3)
            layers[layer], v, s = g.fit_spiking(layer, lambda w: causal_conv(s, w, d), w, threshold)
            mem.append(v)
            spike.append(s)
        layers[f"dn.{i}"], s = down, s + skip

    def step(x, state):
        """The network of one step; state holds (membrane, spike) per layer and is replaced."""
        for i, c in enumerate(widths):
            cprev, skip = widths[i - 1] if i else cin, x
            for k, width in (0, cprev), (1, c):
                at = f"c{k + 1}.{i}"
                y = g.conv(
                    g.pad_left(x, 2 * 2**i), width, c, (3,), at, at, dilation=2**i, value=layers[at]
                )
                state[2 * i + k] = g.lif(y, state[2 * i + k], threshold, (1, c, frames))
                x = state[2 * i + k][1]
            at = f"dn.{i}"
            x = g.node("Add", x, g.conv(skip, cprev, c, (1,), at, at, value=layers[at]))
        return g.reduce_mean(x, 2)

    spikes, n = g.encode(name, repeat=not single_step), len(mem)
    if single_step:
        inside = [t for t in range(1, STEPS) if all(0.05 <= s[t].mean() <= 0.2 for s in spike)]
        t = inside[0] if inside else STEPS // 2
        state = []
        for i in range(n):
            v = g.input(f"mem{i}", mem[i][t - 1][None])
            fired = g.node("Greater", v, g.const(threshold, np.float32))
            state.append((v, g.node("Cast", fired, to=FLOAT)))
        y = step(g.transpose(spikes, 0, 2, 1), state)
        mlp_head(g, y, widths[-1], hidden, classes, "out0")
        g.output("out0", [1, classes])
        for i, (v, _) in enumerate(state):
            g.node("Identity", v, out=f"mem{i}_out")
            g.output(f"mem{i}_out", [1, *mem[i].shape[1:]])
        return
    state, total = [None] * n, None
    for t in range(STEPS):
        y = step(g.transpose(g.gather(spikes, t), 0, 2, 1), state)
        y = mlp_head(g, y, widths[-1], hidden, classes)
        total = g.node("Add", total, y) if total else y
    g.node("Div", total, g.const(STEPS, np.float32), out="out0")
    g.output("out0", ["Divout0_dim_0", classes])


def spiking_tcn_step(g, **sizes):
    spiking_tcn(g, single_step=True, **sizes)


# The 33 body landmarks: 0 the nose, 1-10 the face, 11-22 shoulders to fingers, 23-32 hips to toes.
JOINTS = 33
BONES = """
    0-1 1-2 2-3 3-7 0-4 4-5 5-6 6-8 0-9 0-10 9-10 0-11 0-12 11-12 11-13 13-15 15-17 15-19 15-21
    17-19 12-14 14-16 16-18 16-20 16-22 18-20 11-23 12-24 23-24 23-25 25-27 27-29 27-31 29-31 24-26
    26-28 28-30 28-32 30-32"""


def adjacency():
    """ST-GCN's spatial partition (3, 33, 33): neighbours as far from the nose, farther, nearer;
    columns of the whole normalised by degree."""
    near = np.eye(JOINTS)
    for bone in BONES.split():
        i, j = map(int, bone.split("-"))
        near[i, j] = near[j, i] = 1
    hops, reach = np.full(JOINTS, -1), np.eye(JOINTS)[0]
    for h in range(JOINTS):
        hops[(reach > 0) & (hops < 0)] = h
        reach = reach @ near
    farther = hops[None, :] - hops[:, None]
    return np.stack([np.where(farther == k, near, 0) for k in (0, 1, -1)]) / near.sum(0)


def stgcn_stream(g, x, frames, persons, widths, classes, at, part, dynamic):
    """One stream: 10 graph convolution blocks. `dynamic` computes every shape in the graph, as
    tracing does once a value's shape is no longer known."""
    n, c, t, v, m = g.dims(x, 5, at) if dynamic else (1, 3, frames, JOINTS, persons)
    mul = lambda a, b: g.node("Mul", a, b, at=at) if dynamic else a * b
    shape = lambda parts, at=at: g.join(parts, at) if dynamic else list(parts)
    nm, vc = mul(n, m), mul(v, c)
    x = g.reshape(g.transpose(x, 0, 4, 3, 1, 2, at=at), shape([nm, vc, t]), at)
    x = g.batch_norm(x, 3 * JOINTS, f"{at}.bn", mean=0.5 if not dynamic else 0.0, var=0.1)
    x = g.transpose(g.reshape(x, shape([n, m, v, c, t]), at), 0, 1, 3, 4, 2, at=at)
    x = g.reshape(x, shape([nm, c, t, v]), at)
    a, b, c = widths
    cin = 3
    blocks = [(a, 1)] * 4 + [(b, 2)] + [(b, 1)] * 2 + [(c, 2)] + [(c, 1)] * 2
    for i, (cout, stride) in enumerate(blocks):
        here = f"{at}.blocks.{i}"
        y = g.conv(x, cin, 3 * cout, 1, f"{here}.gcn", f"{here}.gcn")
        if dynamic:
            d = g.dims(y, 4, here)
            part_c = g.node("Div", d[1], g.const(3, at=here), at=here)
            part_c = g.node("Cast", g.node("Cast", part_c, at=here, to=7), at=here, to=7)
            y = g.reshape(y, g.join([d[0], 3, part_c, d[2], d[3]], here), here)
        else:
            y = g.reshape(y, [persons, 3, cout, frames, JOINTS], here)
        y = g.node("Einsum", y, part(), at=here, equation="nkctv,kvw->nctw")
        y = g.relu(g.batch_norm(y, cout, f"{here}.bn1"), here)
        y = g.conv(y, cout, cout, (9, 1), f"{here}.tcn", stride=(stride, 1), pad=(4, 0), gain=1.0)
        if i and (cin, stride) == (cout, 1):
            y = g.node("Add", y, x, at=here)
        elif i:
            res = g.conv(x, cin, cout, 1, f"{here}.res.res.0", stride=(stride, 1), gain=1.0)
            y = g.node("Add", y, res, at=here)
        x, cin, frames = g.relu(y, here), cout, (frames - 1) // stride + 1
    x = g.node("GlobalAveragePool", x, at=at)
    x = g.reduce_mean(g.reshape(x, shape([n, m, cin]), at), 1, at)
    x = g.conv(
        g.reshape(x, shape([n, cin, 1, 1]), at), cin, classes, 1, f"{at}.fcn", f"{at}.fcn", gain=0.1
    )
    return g.node("Flatten", x, at=at, axis=1)


def stgcn(g, frames, persons, widths, classes):
    """Two-stream ST-GCN: joint positions and their motion (the difference to the frame before,
    and a last frame of zeros)."""
    x = g.input("input", g.rng.random((1, 3, frames, JOINTS, persons)))
    g.weight(adjacency(), "onnx::Einsum_A")
    copies = iter(["onnx::Einsum_A"] + [g.node("Identity", "onnx::Einsum_A") for _ in range(19)])
    motion = g.node("Sub", g.slice(x, 2, 1, INT_MAX), g.slice(x, 2, 0, -1))
    motion = g.pad(motion, 5, [0, 0, 0, 0, 1, 0])
    a = stgcn_stream(g, x, frames, persons, widths, classes, "a", lambda: next(copies), False)
    b = stgcn_stream(g, motion, frames, persons, widths, classes, "b", lambda: next(copies), True)
    g.node("Softmax", g.node("Add", a, b), out="out0", axis=1)
    g.output("out0", ["Softmaxout0_dim_0", classes])


def max_pool(g, x, k, stride, pad=0, ceil=0, at=""):
    return g.node(
        "MaxPool",
        x,
        at=at,
        ceil_mode=ceil,
        dilations=[1, 1],
        kernel_shape=[k, k],
        pads=[pad] * 4,
        strides=[stride, stride],
    )


def residual(g, x, cin, cout, stride, at, convs):
    """A ResNet block: convs lists (channels out, kernel, stride); the skip is a 1x1 convolution
    where shapes change."""
    y, c = x, cin
    for i, (n, k, s) in enumerate(convs):
        last = i == len(convs) - 1
        y = g.conv(y, c, n, k, f"{at}.conv{i + 1}", stride=s, pad=k // 2, gain=0.4 if last else 2.0)
        y, c = y if last else g.relu(y, at), n
    if stride > 1 or cin != cout:
        x = g.conv(x, cin, cout, 1, f"{at}.downsample.0", stride=stride, gain=1.0)
    return g.relu(g.node("Add", y, x, at=at), at)


def policy(g, size, width, state, hidden, actions):
    """A robot policy, any batch: ResNet-18 over the camera and an MLP over the robot's state,
    joined, give an action."""
    x = g.input("image", g.normal(1, 3, size, size), ["batch", 3, size, size])
    s = g.input("robot_state", g.normal(1, state), ["batch", state])
    x = g.relu(g.conv(x, 3, width, 7, "encoder.conv1", stride=2, pad=3), "encoder")
    x, cin = max_pool(g, x, 3, 2, 1, at="encoder"), width
    for layer in range(4):
        c = width << layer
        for i in range(2):
            stride = 2 if layer and not i else 1
            x = residual(
                g, x, cin, c, stride, f"encoder.layer{layer + 1}.{i}", [(c, 3, stride), (c, 3, 1)]
            )
            cin = c
    x = g.node("Flatten", g.node("GlobalAveragePool", x, at="encoder"), at="encoder", axis=1)
    for i in range(2):
        s = g.relu(
            g.linear(s, hidden if i else state, hidden, f"state.{2 * i}"), f"state.{2 * i + 1}"
        )
    x = g.node("Concat", x, s, axis=1)
    x = g.relu(g.linear(x, cin + hidden, 2 * hidden, "head.0"), "head.1")
    x = g.linear(x, 2 * hidden, actions, "head.2", gain=0.5)
    g.node("Tanh", x, out="action")
    g.output("action", ["batch", actions])


def fit_levels(g, y):
    """Biases and scale of an 8-bit bottleneck over relu(y + bias): about a third of each channel is
    positive, and no value lies near a rounding boundary."""
    wide = lambda v: v.astype(float)[:, None, None]
    b = np.round(-y.mean((1, 2)) - 0.5 * y.std((1, 2)), 2)
    top = (y + wide(b)).max() / 250
    digit = 10.0 ** (np.floor(np.log10(top)) - 1)
    scale = np.float32(np.ceil(top / digit) * digit)
    best, chosen = np.full(len(b), -1.0), b.astype(np.float32)
    for nudge in alternate(0.0061803 * scale, 400):
        trial = (b + nudge).astype(np.float32)
        level = np.maximum(y + wide(trial), 0) / float(scale)
        gap = np.abs(level - np.floor(level) - 0.5).min(axis=(1, 2))
        better = gap > best
        best[better], chosen[better] = gap[better], trial[better]
    g.margin["bottleneck"] = best.min()
    if best.min() < LEVEL_MARGIN:
        raise SystemExit(f"{g.name}: values too near a rounding boundary; try another --seed")
    return chosen, scale


def sc2_bq(g, size, encoder, width, classes):
    """ResNet-50 split for a slow link: an encoder to a few channels of 8 bits, a decoder of 2x2
    convolutions in the place of the first stage, then layer2 to fc."""
    image = g.normal(1, 3, size, size)
    x = g.input("input", image)
    c1, c2, c3 = encoder
    # channels in and out, kernel, stride, pad
    layers = [(3, c1, 5, 2, 2), (c1, c2, 5, 2, 2), (c2, c3, 2, 1, 0)]
    drawn = [[g.he(cout, cin, k, k), g.normal(cout, std=0.05)] for cin, cout, k, _, _ in layers]
    y = image[0].astype(float)
    for (w, b), (*_, stride, pad) in zip(drawn[:2], layers):
        y = np.maximum(conv2d(y, w, b, stride, pad), 0)
    drawn[2][1], scale = fit_levels(g, conv2d(y, drawn[2][0], 0 * drawn[2][1]))
    for i, (cin, cout, k, stride, pad) in enumerate(layers):
        at = f"bottleneck_layer/encoder.{i}"
        x = g.relu(g.conv(x, cin, cout, k, at, stride=stride, pad=pad, value=drawn[i]), at)
    q = g.const(scale, np.float32), g.const(0, np.uint8)
    x = g.node("DequantizeLinear", g.node("QuantizeLinear", x, *q), *q)
    c = 4 * width
    for i, (cin, pad) in enumerate([(c3, 1), (c, 0), (c, 1)]):
        at = f"bottleneck_layer/decoder.{i}"
        x = g.conv(x, cin, c, 2, at, pad=pad, gain=2.0 if i < 2 else 1.0)
        x = g.relu(x, at) if i < 2 else x
    cin = c
    for layer, blocks in (2, 4), (3, 6), (4, 3):
        c = width << (layer - 1)
        for i in range(blocks):
            stride = 1 if i else 2
            x = residual(
                g,
                x,
                cin,
                4 * c,
                stride,
                f"layer{layer}.{i}",
                [(c, 1, 1), (c, 3, stride), (4 * c, 1, 1)],
            )
            cin = 4 * c
    x = g.node("Flatten", g.node("GlobalAveragePool", x, at="avgpool"), axis=1)
    g.linear(x, cin, classes, "fc", gain=0.2, out="logits")
    g.output("logits", [1, classes])


def l2_norm(g, x, channels, at):
    """x / |x| along the channels, scaled by a learnt weight: F.normalize as exported."""
    norm = g.node("ReduceL2", x, at=at, axes=[1], keepdims=1)
    norm = g.node("Clip", norm, g.const(1e-12, np.float32, at), at=at)
    x = g.node("Div", x, g.node("Expand", norm, g.node("Shape", x, at=at), at=at), at=at)
    scale = 20 * g.rng.uniform(0.8, 1.2, (1, channels, 1, 1)) * (channels / 512) ** 0.5
    return g.node("Mul", g.weight(scale, f"{at}.weight"), x, at=at)


def ssd300(g, size, widths, extra, classes):
    """SSD300 on VGG-16: boxes (offsets from the priors) and class probabilities of every prior."""
    x, cin, n = g.input("input", g.normal(1, 3, size, size)), 3, size
    maps = []  # (value, channels, rows)
    for stage, (c, convs) in enumerate(zip(widths, (2, 2, 3, 3, 3))):
        for i in range(convs):
            at = f"backbone.conv{stage + 1}_{i + 1}"
            x, cin = g.relu(g.conv(x, cin, c, 3, at, pad=1), at), c
        if stage == 3:
            maps.append((l2_norm(g, x, c, "l2_norm"), c, n))
        k, stride, pad, ceil = (2, 2, 0, int(stage == 2)) if stage < 4 else (3, 1, 1, 0)
        x, n = max_pool(g, x, k, stride, pad, ceil, "backbone"), n if pad else (n + ceil) // 2
    fc, half, quarter = 2 * cin, extra // 2, extra // 4
    # channels inside and out, stride, pad
    tail = [
        (half, extra, 2, 1),
        (quarter, half, 2, 1),
        (quarter, half, 1, 0),
        (quarter, half, 1, 0),
    ]
    x = g.relu(g.conv(x, cin, fc, 3, "backbone.conv6", pad=6, dilation=6), "backbone.conv6")
    x, cin = g.relu(g.conv(x, fc, fc, 1, "backbone.conv7"), "backbone.conv7"), fc
    maps.append((x, cin, n))
    for i, (c, cout, stride, pad) in enumerate(tail):
        at = f"extra.{i}"
        pad = 1 if n < 3 else pad  # a small image has no room for the last unpadded ones
        x = g.relu(g.conv(x, cin, c, 1, f"{at}.0"), f"{at}.0")
        x = g.relu(g.conv(x, c, cout, 3, f"{at}.1", stride=stride, pad=pad), f"{at}.1")
        cin, n = cout, (n + 2 * pad - 3) // stride + 1
        maps.append((x, cin, n))
    heads = []
    for what, k, gain in ("regression", 4, 0.3), ("classification", classes, 1.0):
        parts = []
        for i, ((x, c, n), priors) in enumerate(zip(maps, (4, 6, 6, 6, 4, 4))):
            at = f"head.{what}.{i}"
            y = g.conv(x, c, priors * k, 3, at, at, pad=1, gain=gain)
            y = g.transpose(g.reshape(y, [1, priors, k, n, n], at), 0, 3, 4, 1, 2, at=at)
            parts.append(g.reshape(y, [1, -1, k], at))
        out = "boxes" if what == "regression" else None
        heads.append(g.node("Concat", *parts, at=f"head.{what}", axis=1, out=out))
    g.node("Softmax", heads[1], out="scores", axis=-1)
    total = sum(p * n * n for (_, _, n), p in zip(maps, (4, 6, 6, 6, 4, 4)))
    g.output("boxes", [1, total, 4])
    g.output("scores", [1, total, classes])


# --- the zoo: network, sizes in full, sizes in small

EMG = dict(frames=200, cin=16, widths=(64, 128, 256), classes=7)
EMG_SMALL = dict(frames=24, cin=6, widths=(8, 12, 16), classes=5)
HEAD, HEAD_SMALL = dict(hidden=(128, 64)), dict(hidden=(12, 8))
BODY = dict(frames=150, widths=(64, 128, 256), classes=2)
BODY_SMALL = dict(frames=11, widths=(4, 6, 8), classes=2)
ZOO = {
    "tcn": (tcn, EMG | HEAD | dict(heads=8), EMG_SMALL | HEAD_SMALL | dict(heads=8)),
    "snn": (snn, EMG, EMG_SMALL),
    "spiking_tcn": (spiking_tcn, EMG | HEAD, EMG_SMALL | HEAD_SMALL),
    "spiking_tcn_step": (spiking_tcn_step, EMG | HEAD, EMG_SMALL | HEAD_SMALL),
    "hybrid": (hybrid, EMG | HEAD, EMG_SMALL | HEAD_SMALL),
    "stgcn_M1": (stgcn, BODY | dict(persons=1), BODY_SMALL | dict(persons=1)),
    "stgcn_M2": (stgcn, BODY | dict(persons=2), BODY_SMALL | dict(persons=2)),
    "stgcn_M5": (stgcn, BODY | dict(persons=5), BODY_SMALL | dict(persons=5)),
    "policy": (
        policy,
        dict(size=224, width=64, state=48, hidden=128, actions=7),
        dict(size=64, width=4, state=48, hidden=8, actions=7),
    ),
    "sc2_bq": (
        sc2_bq,
        dict(size=224, encoder=(64, 24, 12), width=64, classes=1000),
        dict(size=64, encoder=(6, 5, 4), width=4, classes=10),
    ),
    "ssd300": (
        ssd300,
        dict(size=300, widths=(64, 128, 256, 512, 512), extra=512, classes=91),
        dict(size=100, widths=(4, 4, 6, 8, 8), extra=8, classes=5),
    ),
}


def build(name, small=False, seed=0):
    """The builder of one network, finished."""
    network, full, tiny = ZOO[name]
    g = Builder(name, seed)
    network(g, **(tiny if small else full))
    return g


def expected(path, feeds):
    """onnxruntime's outputs by position; nothing where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the same bits on any number of cores
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return {f"out{i}": y for i, y in enumerate(session.run(None, feeds))}


def main():
    parser = argparse.ArgumentParser(description="Writes the networks that tests and benches run.")
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME.onnx and NAME.npz")
    parser.add_argument("--small", action="store_true", help="the same operators at tiny sizes")
    parser.add_argument(
        "--only", metavar="NAME,...", default=",".join(ZOO), help="of " + ", ".join(ZOO)
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rates", action="store_true", help="print firing rates and margins")
    parser.add_argument("--check", action="store_true", help="onnx's checker, finite outputs")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := [n for n in names if n not in ZOO]:
        parser.error(f"no network {', '.join(unknown)}; there are {', '.join(ZOO)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in names:
        start, path = time.monotonic(), args.out / f"{name}.onnx"
        g = build(name, args.small, args.seed)
        path.write_bytes(g.model().SerializeToString(deterministic=True))
        wrote = time.monotonic()
        outputs = expected(path, g.feeds)
        np.savez(path.with_suffix(".npz"), **g.feeds, **outputs)
        print(
            f"{name:17} {len(g.nodes):5} nodes  {path.stat().st_size / 1e6:7.2f} MB  written in "
            f"{wrote - start:.1f} s, run in {time.monotonic() - wrote:.1f} s"
        )
        if args.rates:
            for layer, margin in g.margin.items():
                rate = f"fires in {100 * g.rates[layer]:4.1f} %" if layer in g.rates else " " * 15
                print(f"    {layer:12} {rate}  margin {margin:.1e}")
        if args.check:
            onnx.checker.check_model(str(path), full_check=True)
            if not outputs:
                parser.exit(1, "zoo: --check needs onnxruntime\n")
            if not all(np.isfinite(y).all() for y in outputs.values()):
                parser.exit(1, f"zoo: {name} gives values that are not finite\n")


if __name__ == "__main__":
    main()
