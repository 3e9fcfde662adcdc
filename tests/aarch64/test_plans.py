# SPDX-License-Identifier: Apache-2.0
"""Plans that this machine builds for AArch64 run there, to the values that this machine computes.

TENDON is the command of this machine, TENDON_AARCH64 the words that run the other one: "qemu-aarch64 -L ROOT COMMAND".
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = [os.environ["TENDON"]]
THERE = shlex.split(os.environ["TENDON_AARCH64"])
NETWORKS = ["tcn", "snn", "spiking_tcn_step", "hybrid", "stgcn_M1", "policy", "sc2_bq", "ssd300"]
EMG = ROOT / "examples" / "emg"


def run(command, *arguments):
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def run_well(command, *arguments):
    done = run(command, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(model, plan, *targets):
    run_well(HERE, "build", model, "-o", plan, *(f"--target={target}" for target in targets))


def outputs(command, program, data, folder):
    """What `tendon run` writes. Two threads, so that the workers run, too."""
    run_well(command, "run", program, "--inputs", data, "--outputs", folder / "out.npz", "--threads=2")
    return dict(np.load(folder / "out.npz"))


def compare(got, want):
    assert got.keys() == want.keys() and want
    for name, expected in want.items():
        assert got[name].dtype == expected.dtype
        np.testing.assert_allclose(got[name], expected, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    command = [sys.executable, ROOT / "tools" / "zoo.py", "--out", folder, "--small", "--only", ",".join(NETWORKS)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_it_is_another_machine(tmp_path):
    """Nothing here passes because both commands are the same: this machine refuses what is built for the other."""
    plan = tmp_path / "emg.plan"
    build(EMG / "emg_tcn.onnx", plan, "armv8-a")
    refused = run(HERE, "run", plan, "--inputs", EMG / "stream.npz")
    assert refused.returncode != 0 and "armv8-a" in refused.stderr


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(zoo, tmp_path, name):
    model, plan, data = zoo / f"{name}.onnx", tmp_path / "a.plan", tmp_path / "in.npz"
    inputs = {key: value for key, value in np.load(zoo / f"{name}.npz").items() if not key.startswith("out")}
    np.savez(data, **inputs)
    build(model, plan, "armv8-a")
    compare(outputs(THERE, plan, data, tmp_path), outputs(HERE, model, data, tmp_path))


def test_recorded_emg(tmp_path):
    """The trained classifier on recorded windows: the same values, hence the same gestures."""
    plan, data = tmp_path / "emg.plan", tmp_path / "in.npz"
    build(EMG / "emg_tcn.onnx", plan, "armv8-a")
    np.savez(data, emg=np.load(EMG / "test.npz")["emg"][:4])
    compare(outputs(THERE, plan, data, tmp_path), outputs(HERE, EMG / "emg_tcn.onnx", data, tmp_path))


def test_one_plan_for_both(tmp_path):
    """Each machine takes its own section of a plan with several; the emulated CPU has dot products and half precision."""
    plan, data = tmp_path / "emg.plan", tmp_path / "in.npz"
    build(EMG / "emg_tcn.onnx", plan, "x86-64", "armv8-a", "armv8.2-dotprod")
    np.savez(data, emg=np.load(EMG / "test.npz")["emg"][:1])
    compare(outputs(THERE, plan, data, tmp_path), outputs(HERE, plan, data, tmp_path))


def test_built_there_is_built_here(tmp_path):
    """The compiler cross-built makes a plan that it validates against its own reference."""
    plan = tmp_path / "emg.plan"
    run_well(THERE, "build", EMG / "emg_tcn.onnx", "-o", plan, "--target=armv8-a")
    run_well(THERE, "validate", EMG / "emg_tcn.onnx", plan, "--samples=1")
