# SPDX-License-Identifier: Apache-2.0
"""What PyTorch's two exporters write (tests/data/exports) runs here to PyTorch's outputs."""
import os
import pathlib
import subprocess

import numpy as np
import pytest

pytestmark = pytest.mark.small
ROOT = pathlib.Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
EXPORTS = sorted((ROOT / "tests" / "data" / "exports").glob("*.onnx"))
# A folder of further models NAME.onnx with NAME.npz (inputs by name, expected out0, out1, ...).
MORE = sorted(pathlib.Path(os.environ["TENDON_MODELS"]).glob("*.onnx")) if os.environ.get("TENDON_MODELS") else []


def data_of(path):
    plain = path.with_suffix(".npz")
    return plain if plain.exists() else path.with_name(path.name.rsplit("_", 1)[0] + ".npz")


def test_there_are_exports():
    assert len(EXPORTS) >= 15


@pytest.mark.parametrize("path", [p for p in EXPORTS + MORE if data_of(p).exists()], ids=lambda p: p.stem)
@pytest.mark.parametrize("threads", [1, 2])
def test_agrees_with_pytorch(path, threads, tmp_path):
    out = tmp_path / "out.npz"
    data = np.load(data_of(path))
    inputs = {k: data[k] for k in data.files if not k.startswith("out")}
    np.savez(tmp_path / "in.npz", **inputs)
    command = [TENDON, "run", str(path), "--inputs", str(tmp_path / "in.npz"), "--outputs", str(out)]
    subprocess.run([*command, f"--threads={threads}"], check=True, timeout=300)
    got = np.load(out)
    expected = [data[f"out{i}"] for i in range(len(data.files) - len(inputs))]
    assert len(got.files) == len(expected)
    for name, want in zip(got.files, expected):
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("path", EXPORTS, ids=lambda p: p.stem)
def test_every_layer_agrees_with_the_reference(path, tmp_path):
    data = np.load(data_of(path))
    np.savez(tmp_path / "in.npz", **{k: data[k] for k in data.files if not k.startswith("out")})
    command = [TENDON, "validate", str(path), "--data", str(tmp_path / "in.npz"), "--layers"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
