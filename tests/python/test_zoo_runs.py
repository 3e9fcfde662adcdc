# SPDX-License-Identifier: Apache-2.0
"""The zoo's networks, run by Tendon, give onnxruntime's outputs; their small forms also in builds with sanitizers."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
NAMES = [
    "tcn",
    "snn",
    "spiking_tcn",
    "spiking_tcn_step",
    "hybrid",
    "stgcn_M1",
    "stgcn_M2",
    "stgcn_M5",
    "policy",
    "sc2_bq",
    "ssd300",
]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A function that writes a network once and tells where."""
    root = tmp_path_factory.mktemp("zoo")

    def write(name, form):
        folder = root / form
        if not (folder / f"{name}.onnx").exists():
            options = ["--small"] if form == "small" else []
            command = [sys.executable, ROOT / "tools" / "zoo.py", "--out", folder, "--only", name, *options]
            subprocess.run(command, check=True, capture_output=True)
        return folder / f"{name}.onnx"

    return write


def inputs_of(model):
    data = np.load(model.with_suffix(".npz"))
    return {name: data[name] for name in data.files if not name.startswith("out")}


def expected_of(model):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs_of(model))))


def tendon_run(model, folder, *options):
    np.savez(folder / "in.npz", **inputs_of(model))
    command = [TENDON, "run", model, "--inputs", folder / "in.npz", "--outputs", folder / "out.npz", *options]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout + run.stderr
    return dict(np.load(folder / "out.npz"))


def check(model, folder, threads):
    got, expected = tendon_run(model, folder, f"--threads={threads}"), expected_of(model)
    assert got.keys() == expected.keys()
    for name, want in expected.items():
        assert got[name].dtype == want.dtype
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.small
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_small_agrees_with_onnxruntime(zoo, tmp_path, name, threads):
    check(zoo(name, "small"), tmp_path, threads)


@pytest.mark.parametrize("name", NAMES)
def test_full_agrees_with_onnxruntime(zoo, tmp_path, name):
    check(zoo(name, "full"), tmp_path, 2)


@pytest.mark.small
@pytest.mark.parametrize("name", NAMES)
def test_any_number_of_threads_gives_the_same_bits(zoo, tmp_path, name):
    model = zoo(name, "small")
    first = tendon_run(model, tmp_path, "--threads=1")
    for threads in (2, 4):
        again = tendon_run(model, tmp_path, f"--threads={threads}")
        for key, value in first.items():
            assert np.array_equal(again[key], value, equal_nan=True), (key, threads)
