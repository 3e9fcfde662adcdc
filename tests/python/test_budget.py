# SPDX-License-Identifier: Apache-2.0
"""--accuracy-budget: which layers are kept in halves or float32, on a network where it is known which one 8 bits hurt.

The first layer reads a channel that is a thousand times as large as the others and that its weights leave out: on the
scale that holds it, the others are next to nothing. The layers behind it read ordinary values.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.small

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
DONE, FAILED, USAGE, INPUT = 0, 1, 2, 3
LAYERS = ["net/hurt", "net/middle", "net/last"]
WIDE = {"fp16", "bf16", "fp32"}  # halves, where this CPU multiplies them
N = 64


def tendon(*args, code=DONE):
    line = [TENDON, *map(str, args)]
    run = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert run.returncode == code, f"{line}\n{run.stdout}{run.stderr}"
    return run


def weights():
    rng = np.random.default_rng(4)
    w = [rng.standard_normal(shape).astype(np.float32) / 8 for shape in ((N, N), (N, N), (N, 16))]
    w[0][5] = 0
    return w


def samples(n=80, outlier=1000):
    x = np.random.default_rng(5).standard_normal((n, N)).astype(np.float32)
    x[:, 5] *= outlier
    return x


def plain(x):
    w = weights()
    for i, matrix in enumerate(w):
        x = np.maximum(x @ matrix, 0) if i < 2 else x @ matrix
    return x


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("budget") / "m.onnx"
    nodes, x = [], "x"
    for i, name in enumerate(LAYERS):
        nodes.append(helper.make_node("MatMul", [x, f"w{i}"], ["y" if i == 2 else f"m{i}"], name=name))
        if i < 2:
            nodes.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"], name=f"relu{i}"))
        x = f"r{i}"
    init = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights())]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, k]) for name, k in (("x", N), ("y", 16))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], initializer=init)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("budget") / "calib.npz"
    np.savez(path, x=samples())
    return path


def build(model, data, out, *options, code=DONE):
    line = ["build", model, "-o", out, "--precision=int8", f"--calib-data={data}", "--optimization-level=0"]
    return tendon(*line, *options, code=code)


def choose(model, data, folder, *options):
    """The report, and the table's rows by layer."""
    run = build(model, data, folder / "p", f"--json={folder}/report.json", *options)
    report = json.loads((folder / "report.json").read_text())
    assert f"Accuracy: {report['text']}\n" in run.stdout
    return report, run.stdout


def precisions(report):
    return {p["name"]: p["precision"] for p in report["products"]}


def outputs(plan, data, folder):
    tendon("run", plan, f"--inputs={data}", f"--outputs={folder}/y.npz")
    return np.load(folder / "y.npz")["y"]


def relative(a, b):
    return np.sqrt(((a - b) ** 2).sum() / (b**2).sum())


# ---- The choice ------------------------------------------------------------------------------------------------------


def test_the_layer_that_is_hurt_is_kept(model, data, tmp_path):
    report, text = choose(model, data, tmp_path, "--accuracy-budget=2%")
    kept = precisions(report)["net/hurt"]
    assert kept in WIDE and precisions(report) == {"net/hurt": kept, "net/middle": "int8", "net/last": "int8"}
    hurt, *others = report["products"]
    assert hurt["name"] == "net/hurt" and hurt["sqnr_db"] < 10 < 30 < min(p["sqnr_db"] for p in others)
    assert report["error_int8"] > 0.3 and 0 < report["error"] <= report["budget"] == 0.02
    assert (report["n_products"], report["n_int8"]) == (3, 2) and report["measure"] == "relative RMS error"
    assert 1 + 3 + 1 <= report["n_builds"] <= 1 + 3 + 3
    table = [line.split() for line in text.splitlines() if "net/" in line and "%" in line][:3]
    assert [(row[-1], bool(WIDE & set(row))) for row in table] == [(p["name"], p["precision"] in WIDE) for p in report["products"]]
    for p, work in zip(sorted(report["products"], key=lambda p: LAYERS.index(p["name"])), (4, 4, 1)):
        assert p["work"] == pytest.approx(work / 9, rel=0.05)


def test_the_error_is_that_of_the_plan(model, data, tmp_path):
    """40 batches, of which 32 are measured: samples of one distribution."""
    few = tmp_path / "few.npz"
    np.savez(few, x=samples(64))
    report, _ = choose(model, few, tmp_path, "--accuracy-budget=2%")
    is_, should = outputs(tmp_path / "p", few, tmp_path), plain(samples(64))
    assert report["error"] == pytest.approx(relative(is_, should), rel=1e-3)
    build(model, few, tmp_path / "q")
    assert report["error_int8"] == pytest.approx(relative(outputs(tmp_path / "q", few, tmp_path), should), rel=1e-3)
    report, _ = choose(model, few, tmp_path, "--accuracy-budget=0.02")
    assert report["measure"] == "mean absolute error" and report["budget"] == 0.02
    is_ = outputs(tmp_path / "p", few, tmp_path)
    assert report["error"] == pytest.approx(np.abs(is_ - should).mean(), rel=1e-3)
    many, _ = choose(model, data, tmp_path, "--accuracy-budget=2%")
    assert many["error"] == pytest.approx(relative(outputs(tmp_path / "p", data, tmp_path), plain(samples())), rel=0.1)


def test_a_budget_that_holds_takes_one_build(model, data, tmp_path):
    tame = tmp_path / "tame.npz"
    np.savez(tame, x=samples(outlier=1))
    report, text = choose(model, tame, tmp_path, "--accuracy-budget=3%")
    assert report["n_builds"] == 1 and set(precisions(report).values()) == {"int8"}
    assert report["error"] == report["error_int8"] <= 0.03 and "SQNR" not in text and "3 of 3 products" in report["text"]
    assert [p["name"] for p in report["products"]] == LAYERS and all(p["sqnr_db"] is None for p in report["products"])
    build(model, tame, tmp_path / "q")
    assert (outputs(tmp_path / "p", tame, tmp_path) == outputs(tmp_path / "q", tame, tmp_path)).all()


def test_a_narrow_budget_keeps_more(model, data, tmp_path):
    report, _ = choose(model, data, tmp_path, "--accuracy-budget=0%")
    assert set(precisions(report).values()) == {"fp32"} and report["error"] == 0
    assert "0 of 3 products" in report["text"]


def test_float32_where_a_target_multiplies_no_halves(model, data, tmp_path):
    report, _ = choose(model, data, tmp_path, "--accuracy-budget=2%", "--target=x86-64-v3")
    assert precisions(report) == {"net/hurt": "fp32", "net/middle": "int8", "net/last": "int8"}


def test_what_is_asked_for_by_layer_stays(model, data, tmp_path):
    report, _ = choose(model, data, tmp_path, "--accuracy-budget=2%", "--layerPrecisions=*/last:fp32")
    kept = precisions(report)["net/hurt"]
    assert kept in WIDE and precisions(report) == {"net/hurt": kept, "net/middle": "int8"}
    report, _ = choose(model, data, tmp_path, "--accuracy-budget=2%", "--layerPrecisions=*/hurt:fp32")
    assert report["n_builds"] == 1 and precisions(report) == {"net/middle": "int8", "net/last": "int8"}
    report, _ = choose(model, data, tmp_path, "--accuracy-budget=1%", "--layerPrecisions=net/middle:int8")
    assert {p["name"]: p["forced"] for p in report["products"]} == {"net/hurt": False, "net/middle": True, "net/last": False}
    assert precisions(report)["net/middle"] == "int8"


def test_a_budget_that_cannot_be_met(model, data, tmp_path):
    options = ["--accuracy-budget=2%", "--layerPrecisions=net/h*:int8", f"--json={tmp_path}/report.json"]
    run = build(model, data, tmp_path / "p", *options, code=FAILED)
    assert "budget of 2 % cannot be met" in run.stderr and "'net/hurt'" in run.stderr
    assert run.stderr.count("error ") == 2 and not any(tmp_path.iterdir())


def test_two_runs_give_the_same_bytes(model, data, tmp_path):
    made = set()
    for folder, threads in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        choose(model, data, tmp_path / folder, "--accuracy-budget=2%", f"--threads={threads}")
        made.add(tuple((tmp_path / folder / name).read_bytes() for name in ("p", "report.json")))
    assert len(made) == 1


def test_the_plan_says_what_was_kept(model, data, tmp_path):
    report, _ = choose(model, data, tmp_path, "--accuracy-budget=2%")
    said, precision = tendon("inspect", tmp_path / "p").stdout, precisions(report)["net/hurt"]
    assert report["text"] in said and report["text"].endswith(f"; {precision}: net/hurt") and "--accuracy-budget=2%" in said
    kept = build(model, data, tmp_path / "q", f"--layerPrecisions=net/hurt:{precision}")
    weights_of = [line for line in (kept.stdout + said).splitlines() if "eights" in line and "bytes" in line]
    assert weights_of and "Accuracy" not in kept.stdout
    assert (outputs(tmp_path / "p", data, tmp_path) == outputs(tmp_path / "q", data, tmp_path)).all()


# ---- Labels ----------------------------------------------------------------------------------------------------------


def test_labels(model, tmp_path):
    """float32 is always right, so what is lost is what int8 decides otherwise."""
    x = samples(400)
    data, label = tmp_path / "calib.npz", plain(x).argmax(1)
    np.savez(data, x=x, label=label)
    report, _ = choose(model, data, tmp_path, "--accuracy-budget=5%")
    assert report["measure"] == "share of right decisions lost" and precisions(report)["net/hurt"] in WIDE
    right = outputs(tmp_path / "p", data, tmp_path).argmax(1) == label
    assert report["error"] == pytest.approx(1 - right.mean()) and report["error"] <= 0.05
    build(model, data, tmp_path / "q")
    right = outputs(tmp_path / "q", data, tmp_path).argmax(1) == label
    assert report["error_int8"] == pytest.approx(1 - right.mean()) and report["error_int8"] > 0.05
    assert "points of accuracy" in report["text"]
    report, _ = choose(model, data, tmp_path, "--accuracy-budget=0.02")  # no percentage: of outputs
    assert report["measure"] == "mean absolute error"


@pytest.mark.parametrize("label, word", [(np.zeros(79, int), "79 labels"), (np.array(["a"] * 80), "type <U1")])
def test_labels_that_are_not_those_of_the_samples(model, tmp_path, label, word):
    np.savez(tmp_path / "calib.npz", x=samples(), label=label)
    run = build(model, tmp_path / "calib.npz", tmp_path / "p", "--accuracy-budget=1%", code=INPUT)
    assert word in run.stderr and "calib.npz" in run.stderr and os.listdir(tmp_path) == ["calib.npz"]


# ---- The command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["x", "-1%", "1%%", "1 %", "nan", "inf%", "%"])
def test_what_is_no_budget(model, data, tmp_path, text):
    run = build(model, data, tmp_path / "p", f"--accuracy-budget={text}", code=USAGE)
    assert f"--accuracy-budget={text}: expected a percentage, as 1%" in run.stderr and not any(tmp_path.iterdir())


def test_wrong_usage(model, data, tmp_path):
    plan, cache = tmp_path / "p", tmp_path / "c"
    tendon("calibrate", model, f"--calib-data={data}", "-o", cache)
    before = sorted(os.listdir(tmp_path))
    for options, word in [
        (["--precision=int8", "--accuracy-budget=1%"], "--calib-data"),
        (["--precision=int8", "--accuracy-budget=1%", f"--calib={cache}"], "--calib-data"),
        (["--accuracy-budget=1%"], "--precision=int8"),
        (["--precision=int8", f"--calib-data={data}", f"--json={tmp_path}/j"], "--accuracy-budget"),
        (["--precision=int8", f"--calib-data={data}", "--accuracy-budget=1%", f"--json={plan}"], "the plan and the report"),
        (["--precision=int8", f"--calib-data={data}", "--accuracy-budget=1%", f"--json={model}"], "overwrite"),
        (["--precision=int8", f"--calib-data={data}", "--accuracy-budget=1%", f"--json={data}"], "overwrite"),
    ]:
        assert word in tendon("build", model, "-o", plan, *options, code=USAGE).stderr
    assert sorted(os.listdir(tmp_path)) == before
    build(model, data, plan, "--accuracy-budget=2%", f"--calib={cache}")
    assert plan.exists()
