# SPDX-License-Identifier: Apache-2.0
"""The 8-bit forms of the models that bench/peers.py measures with --precision int8.

Peers run what onnxruntime's `quantize_static` makes: pairs of QuantizeLinear and DequantizeLinear, weights by channel,
values as uint8, ranges by min-max: the form that both turn into integer kernels. Tendon calibrates by itself, by the
same method, from the same samples: seeded normal values with the mean and deviation of the inputs.
"""
import hashlib
import subprocess
from pathlib import Path

import numpy as np

from peers_models import say

N_SAMPLES = 8


def samples_of(model, path):
    rng, samples = np.random.default_rng(1), {}
    with np.load(model.inputs) as feeds:
        for name, x in feeds.items():
            many = rng.standard_normal((N_SAMPLES, *x.shape)) * x.std() + x.mean()
            samples[name] = many.astype(x.dtype).reshape(N_SAMPLES * x.shape[0], *x.shape[1:])
    np.savez(path, **samples)


class Reader:
    """One sample a time, as quantize_static asks for it."""

    def __init__(self, path):
        with np.load(path) as file:
            self.samples = [dict(zip(file, parts)) for parts in zip(*(np.split(x, N_SAMPLES) for x in file.values()))]

    def get_next(self):
        return self.samples.pop(0) if self.samples else None


def quantize(model, cache):
    """Sets model.samples and model.quantized, made once and kept; None where the quantiser fails."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    key = hashlib.sha256(model.path.read_bytes() + model.inputs.read_bytes()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    model.samples = cache / f"{model.name}.{key}.npz"
    model.quantized = cache / f"{model.name}.{key}.onnx"
    if not model.samples.exists():
        samples_of(model, model.samples)
    if model.quantized.exists():
        return
    say(f"{model.name}: onnxruntime's quantiser (kept in {cache})")
    prepared, part = cache / "prepared.onnx", cache / "part.onnx"
    try:
        quant_pre_process(str(model.path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            prepared, part, Reader(model.samples), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax,
        )  # fmt: skip
        part.rename(model.quantized)
    except Exception as error:  # its own, of many kinds
        say(f"    the quantiser fails: {error}")
        model.quantized = None
    finally:
        prepared.unlink(missing_ok=True)


def build_tendon(task):
    """A plan by the command, which calibrates."""
    command = [Path(task["folder"]) / "tendon", "build", task["model"], "-o", task["built"], "--precision=int8",
               f"--calib-data={task['samples']}", "--calib-method=minmax", f"--threads={task['threads']}"]  # fmt: skip
    if task["level"]:
        command.append("--target=x86-64-v3")
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
