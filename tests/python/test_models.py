# SPDX-License-Identifier: Apache-2.0
"""Whole networks through the command: the trained EMG model's decisions, states, every value inside."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
EMG = ROOT / "examples" / "emg"
STEPS = 10
NAMES = [
    *("tcn", "snn", "spiking_tcn", "spiking_tcn_step", "hybrid", "stgcn_M1", "stgcn_M2", "stgcn_M5"),
    *("policy", "sc2_bq", "ssd300"),
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    subprocess.run([sys.executable, ROOT / "tools" / "zoo.py", "--out", folder, "--small"], check=True)
    return folder


def tendon(*args):
    run = subprocess.run([TENDON, *map(str, args)], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.small
@pytest.mark.parametrize("name", NAMES)
def test_every_value_agrees_with_the_reference(zoo, name):
    """And the outputs with those that onnxruntime gave, which the zoo stores."""
    text = tendon("validate", zoo / f"{name}.onnx", "--data", zoo / f"{name}.npz", "--layers", "--threads=2")
    assert len(re.findall(r"^ +\d+  ok ", text, re.M)) >= 3 and re.search(r"expected +ok ", text)


@pytest.mark.small
def test_states_carry_a_spiking_network_from_step_to_step(zoo, tmp_path):
    """The single-step form, called for each step, is the unrolled network."""
    unrolled = np.load(zoo / "spiking_tcn.npz")
    states = [f"--state=mem{i}:mem{i}_out" for i in range(6)]
    plan, data, out = tmp_path / "step.plan", tmp_path / "in.npz", tmp_path / "out.npz"
    tendon("build", zoo / "spiking_tcn_step.onnx", "-o", plan, *states)
    np.savez(data, input=np.repeat(unrolled["input"], STEPS, 0))
    tendon("run", plan, "--inputs", data, "--outputs", out)
    got = np.load(out)
    assert got.files == ["out0"]
    np.testing.assert_allclose(got["out0"].mean(0, keepdims=True), unrolled["out0"], rtol=1e-4, atol=1e-4)
    assert np.ptp(got["out0"], axis=0).max() > 0
    tendon("validate", zoo / "spiking_tcn_step.onnx", plan, "--data", data, *states)


def test_emg_decisions_are_onnxruntimes(tmp_path):
    test, out = np.load(EMG / "test.npz"), tmp_path / "out.npz"
    plan = tmp_path / "emg.plan"
    tendon("build", EMG / "emg_tcn.onnx", "-o", plan)
    tendon("run", plan, "--inputs", EMG / "test.npz", "--outputs", out, "--threads=1")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(EMG / "emg_tcn.onnx", options, providers=["CPUExecutionProvider"])
    want = np.concatenate([session.run(None, {"emg": window[None]})[0] for window in test["emg"]])
    got = np.load(out)["logits"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    assert (got.argmax(1) == want.argmax(1)).all()
    some, right = tmp_path / "some.npz", (got.argmax(1) == test["label"])[::20]
    np.savez(some, **{name: test[name][::20] for name in test.files})
    text = tendon("validate", EMG / "emg_tcn.onnx", plan, "--data", some, "--samples=10")
    assert f"accuracy of the engine      {100 * right.mean():.2f} %  ({right.sum()} of 50)" in text
