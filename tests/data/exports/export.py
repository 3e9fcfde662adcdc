"""Writes the models of this folder: small networks as PyTorch's two exporters write them, and PyTorch's outputs.
SPDX-License-Identifier: Apache-2.0

usage: python export.py [DIR]      (needs torch, onnx and onnxscript; written with torch 2.x on a CPU)

NAME_classic.onnx is the TorchScript exporter at opset 13 or 17, NAME_dynamo.onnx the dynamo exporter at its own opset, with
its weights beside it. NAME.npz holds the input `x` and PyTorch's outputs out0, out1, ... Weights are random, by seed.
"""
import sys
import warnings

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import nn

warnings.filterwarnings("ignore")


class Mobile(nn.Module):
    """Depthwise and pointwise convolutions, BatchNormalization, today's activations."""

    def __init__(self):
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 24, 3, 2, 1), nn.BatchNorm2d(24)
        self.d, self.p, self.fc = nn.Conv2d(24, 24, 3, 1, 1, groups=24), nn.Conv2d(24, 40, 1), nn.Linear(40, 10)
        self.bn.running_mean.normal_()
        self.bn.running_var.uniform_(0.5, 2)

    def forward(self, x):
        x = F.relu6(self.bn(self.a(x)))
        x = F.silu(self.p(F.hardswish(self.d(x))))
        return F.log_softmax(self.fc(x.mean((2, 3))), 1)


class UNet(nn.Module):
    """A skip connection, a transposed convolution, bilinear resizing."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.u, self.c = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(32, 5, 3, padding=1)

    def forward(self, x):
        a = F.leaky_relu(self.a(x))
        y = self.c(torch.cat([a, self.u(F.elu(self.b(a)))], 1))
        return y, F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)


class Encoder(nn.Module):
    """A transformer encoder over 37 positions."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(48, 4, 96, batch_first=True, activation="gelu", norm_first=True)
        self.e, self.h = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(48, 6)

    def forward(self, x):
        return self.h(self.e(x)[:, 0])


class Skeleton(nn.Module):
    """Graph convolution over 17 joints and 37 frames, two persons."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.rand(3, 17, 17))
        self.bn = nn.BatchNorm1d(51)
        self.g1, self.t1 = nn.Conv2d(3, 72, 1), nn.Conv2d(24, 24, (9, 1), padding=(4, 0))
        self.g2, self.t2 = nn.Conv2d(24, 120, 1), nn.Conv2d(40, 40, (9, 1), (2, 1), padding=(4, 0))
        self.r, self.f = nn.Conv2d(24, 40, 1, (2, 1)), nn.Linear(40, 5)

    def block(self, x, g, t):
        n, _, frames, joints = x.shape
        x = g(x).view(n, 3, -1, frames, joints)
        return t(F.relu(torch.einsum("nkctv,kvw->nctw", x, self.A)))

    def forward(self, x):
        n, c, t, v, m = x.shape
        x = self.bn(x.permute(0, 4, 3, 1, 2).reshape(n * m, v * c, t))
        x = x.reshape(n, m, v, c, t).permute(0, 1, 3, 4, 2).reshape(n * m, c, t, v)
        x = F.relu(self.block(x, self.g1, self.t1))
        x = F.relu(self.block(x, self.g2, self.t2) + self.r(x))
        x = F.avg_pool2d(x, x.shape[2:]).view(n, m, -1).mean(1)
        return self.f(x).softmax(1)


class Temporal(nn.Module):
    """Dilated causal convolutions and multi-head attention over 90 samples."""

    def __init__(self):
        super().__init__()
        self.c = nn.ModuleList(
            [nn.Conv1d(6 if i == 0 else 20, 20, 3, padding=2 * 2**i, dilation=2**i) for i in range(3)]
        )
        self.at, self.fc = nn.MultiheadAttention(20, 4, batch_first=True), nn.Linear(20, 4)

    def forward(self, x):
        x = x.transpose(1, 2)
        for i, c in enumerate(self.c):
            y = F.relu(c(x)[:, :, : -2 * 2**i])
            x = y if i == 0 else x + y
        x = x.transpose(1, 2)
        x, _ = self.at(x, x, x)
        return self.fc(x.mean(1))


class Recurrent(nn.Module):
    """A bidirectional LSTM of two layers, then a GRU."""

    def __init__(self):
        super().__init__()
        self.l = nn.LSTM(8, 12, 2, batch_first=True, bidirectional=True)
        self.g, self.f = nn.GRU(24, 10, batch_first=True), nn.Linear(10, 3)

    def forward(self, x):
        y, _ = self.g(self.l(x)[0])
        return self.f(y[:, -1])


class Spiking(nn.Module):
    """Leaky integrate-and-fire layers, four steps unrolled."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 30), nn.Linear(30, 5)

    def forward(self, x):
        m1, m2, out = torch.zeros(x.shape[0], 30), torch.zeros(x.shape[0], 5), []
        for _ in range(4):
            m1 = 0.9 * m1 + self.a(x)
            k = (m1 > 1).float()
            m1 = m1 - k
            m2 = 0.8 * m2 + self.b(k)
            m2 = m2 - (m2 > 0.5).float()
            out.append(m2)
        return torch.stack(out).mean(0)


class Mixed(nn.Module):
    """Many operators in one: norms, padding modes, ceil mode, 3-D convolution, top-k, cumulative sum."""

    def __init__(self):
        super().__init__()
        self.gn, self.i, self.pr = nn.GroupNorm(4, 16), nn.InstanceNorm2d(16, affine=True), nn.PReLU(16)
        self.c, self.c3 = nn.Conv2d(4, 16, 5, padding=2, padding_mode="reflect"), nn.Conv3d(1, 4, 3, padding=1)
        self.ln = nn.LayerNorm([8])

    def forward(self, x):
        x = self.pr(self.i(self.gn(self.c(x))))
        y = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        z = F.adaptive_avg_pool2d(x, (4, 4))
        v = self.c3(z.unsqueeze(1))
        v = self.ln(v.reshape(v.shape[0], -1, 8))
        top, _ = torch.topk(v, 3, -1)
        steps = torch.where(v > 0, v, v.exp()).cumsum(1)[:, ::3]
        edge = F.pad(x, (1, 2, 0, 1), value=0.5).amax((2, 3))
        return y, torch.tanh(F.pixel_shuffle(y, 2)), top.sum(1), steps, edge


MODELS = {
    "dw": (Mobile, (1, 3, 64, 64)),
    "unet": (UNet, (1, 3, 32, 48)),
    "tr": (Encoder, (1, 37, 48)),
    "stg": (Skeleton, (1, 3, 37, 17, 2)),
    "tcn": (Temporal, (1, 90, 6)),
    "rnn": (Recurrent, (2, 15, 8)),
    "lif": (Spiking, (1, 12)),
    "misc": (Mixed, (1, 4, 16, 16)),
}


def drop_paths(path):
    """Removes the stack traces of this machine from the metadata of a dynamo export."""
    model = onnx.load(path, load_external_data=False)
    for node in [model.graph, *model.graph.node, *(n for f in model.functions for n in f.node)]:
        for p in getattr(node, "metadata_props", []):
            if "stack_trace" in p.key:
                p.value = ""
    onnx.save(model, path)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else "."
    torch.manual_seed(0)
    for name, (make, shape) in MODELS.items():
        model, x = make().eval(), torch.randn(*shape)
        with torch.no_grad():
            y = model(x)
        outputs = {f"out{i}": v.numpy() for i, v in enumerate(y if isinstance(y, tuple) else (y,))}
        np.savez(f"{folder}/{name}.npz", x=x.numpy(), **outputs)
        torch.onnx.export(model, (x,), f"{folder}/{name}_dynamo.onnx", dynamo=True, input_names=["x"], verbose=False)
        drop_paths(f"{folder}/{name}_dynamo.onnx")
        if name != "misc":  # the classic exporter has no adaptive pooling to a fixed size
            opset = 17 if name == "tr" else 13
            path = f"{folder}/{name}_classic.onnx"
            torch.onnx.export(model, (x,), path, dynamo=False, input_names=["x"], opset_version=opset)


if __name__ == "__main__":
    main()
