# SPDX-License-Identifier: Apache-2.0
"""The zoo's networks load, cost and spike as they should, and are the same every time.

Rates and margins are read from onnxruntime's intermediate values, not from the zoo's simulation.
"""

import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

TOOL = Path(__file__).resolve().parents[2] / "tools" / "zoo.py"
STEPS = 10
# name -> 1e9 floating-point operations of one run, those of the matrix products
GFLOP = {
    "tcn": 0.34,
    "snn": 0.0008,
    "spiking_tcn": 1.7,
    "spiking_tcn_step": 0.17,
    "hybrid": 0.18,
    "stgcn_M1": 23.1,
    "stgcn_M2": 46.2,
    "stgcn_M5": 115.4,
    "policy": 3.63,
    "sc2_bq": 10.3,
    "ssd300": 69.7,
}
SPIKING = {"snn": 3, "hybrid": 3, "spiking_tcn": 6, "spiking_tcn_step": 6}  # name -> spiking layers
FORMS = ["full", "small"]


def write(folder, *options):
    subprocess.run([sys.executable, str(TOOL), "--out", str(folder), *options], check=True)
    return folder


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    root = tmp_path_factory.mktemp("zoo")
    return {
        "full": write(root / "full", "--check"),
        "small": write(root / "small", "--small", "--check"),
    }


def session(model):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def load(folder, name):
    model, data = onnx.load(folder / f"{name}.onnx"), dict(np.load(folder / f"{name}.npz"))
    return model, {i.name: data[i.name] for i in model.graph.input}, data


def tap(model, feeds, names):
    """The values of the named tensors inside the model."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    del tapped.graph.output[:]
    tapped.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in names)
    inferred = {v.name: v for v in onnx.shape_inference.infer_shapes(tapped).graph.value_info}
    for o in tapped.graph.output:
        o.type.tensor_type.elem_type = (
            inferred[o.name].type.tensor_type.elem_type if o.name in inferred else 1
        )
    return dict(zip(names, session(tapped.SerializeToString()).run(names, feeds)))


def spiking_layers(model):
    """(weight, membrane, threshold, spike) of each spiking step, found by structure.

    That is Cast(Greater(v, constant)), v computed by additions and subtractions from a convolution
    or Gemm, whose weight names the layer. The encoder's spikes have no such weight: None."""
    made = {o: n for n in model.graph.node for o in n.output}
    for node in model.graph.node:
        compare = made.get(node.input[0]) if node.op_type == "Cast" else None
        if not compare or compare.op_type != "Greater":
            continue
        look, weight = [compare.input[0]], None
        while look and not weight:
            source = made.get(look.pop())
            if source is not None and source.op_type in ("Conv", "Gemm"):
                weight = source.input[1]
            elif source is not None and source.op_type in ("Add", "Sub"):
                look += source.input
        threshold = onnx.numpy_helper.to_array(made[compare.input[1]].attribute[0].t)
        yield weight, compare.input[0], float(threshold), node.output[0]


def rates_and_margins(model, calls):
    """weight -> (share of steps with a spike, least relative distance of membrane to threshold),
    over the feeds of all calls."""
    spikes, gaps = defaultdict(list), defaultdict(list)
    layers = [l for l in spiking_layers(model) if l[1] not in {i.name for i in model.graph.input}]
    for feeds in calls:
        values = tap(model, feeds, sorted({n for _, v, _, s in layers for n in (v, s)}))
        for weight, membrane, threshold, spike in layers:
            spikes[weight].append(values[spike].mean())
            gaps[weight].append(np.abs(values[membrane] / threshold - 1).min())
    return {w: (np.mean(spikes[w]), min(gaps[w])) for w in spikes}


def replay(model, feeds):
    """STEPS calls of a single-step network from zero state: each call's feeds and its outputs."""
    run, state = session(model.SerializeToString()), {
        k: v * 0 for k, v in feeds.items() if k.startswith("mem")
    }
    calls, outputs = [], []
    for _ in range(STEPS):
        calls.append(feeds | state)
        outputs.append(run.run(None, calls[-1]))
        state = dict(zip(state, outputs[-1][1:]))
    return calls, outputs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", GFLOP)
def test_outputs_are_sane(zoo, form, name):
    """Finite, varied, and the same with onnxruntime's graph optimisations off."""
    model, feeds, data = load(zoo[form], name)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    plain = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    for i, y in enumerate(plain.run(None, feeds)):
        expected = data[f"out{i}"]
        assert np.isfinite(expected).all() and 1e-3 < expected.std() < 100
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GFLOP)
def test_work(zoo, name):
    model, feeds, _ = load(zoo["full"], name)
    weights = {t.name: t.dims for t in model.graph.initializer}
    products = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul", "Einsum")]
    names = {v for n in products for v in (n.output[0], n.input[1])} - set(weights)
    shapes = {k: v.shape for k, v in tap(model, feeds, sorted(names)).items()} | weights
    macs = 0
    for n in products:
        second = shapes[n.input[1]]
        inner = {"MatMul": second[-2], "Einsum": 3 * 33}.get(n.op_type, np.prod(second[1:]))
        macs += np.prod(shapes[n.output[0]]) * inner
    assert 2e-9 * macs == pytest.approx(GFLOP[name], rel=0.06)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SPIKING)
def test_spiking_layers_fire(zoo, form, name):
    model, feeds, _ = load(zoo[form], name)
    calls = replay(model, feeds)[0] if name.endswith("_step") else [feeds]
    found = rates_and_margins(model, calls)
    assert len([w for w in found if w]) == SPIKING[name]
    for weight, (rate, margin) in found.items():
        assert margin > 1e-4, weight or "encoder"
        assert not weight or 0.05 <= rate <= 0.20, weight


@pytest.mark.parametrize("form", FORMS)
def test_single_step_is_one_step_of_the_unrolled_network(zoo, form):
    model, feeds, data = load(zoo[form], "spiking_tcn_step")
    calls, outputs = replay(model, feeds)
    mean = np.mean([o[0] for o in outputs], axis=0)
    np.testing.assert_allclose(
        mean, load(zoo[form], "spiking_tcn")[2]["out0"], rtol=1e-4, atol=1e-4
    )
    step = [np.allclose(c["mem0"], feeds["mem0"], atol=1e-4) for c in calls].index(True)
    np.testing.assert_allclose(data["out0"], outputs[step][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_bottleneck_is_clear_of_rounding_boundaries(zoo, form):
    model, feeds, _ = load(zoo[form], "sc2_bq")
    made = {n.output[0]: n for n in model.graph.node}
    (quantise,) = [n for n in model.graph.node if n.op_type == "QuantizeLinear"]
    scale = onnx.numpy_helper.to_array(made[quantise.input[1]].attribute[0].t)
    values = tap(model, feeds, [quantise.input[0], quantise.output[0]])
    level = values[quantise.input[0]].astype(float) / float(scale)
    assert np.abs(level - np.floor(level) - 0.5).min() > 9e-4
    codes = values[quantise.output[0]]
    assert codes.dtype == np.uint8 and 128 < codes.max() and 0.1 < (codes > 0).mean() < 0.9


@pytest.mark.parametrize("batch", [1, 3])
def test_policy_takes_any_batch(zoo, batch):
    model, feeds, data = load(zoo["small"], "policy")
    ends = [*model.graph.input, *model.graph.output]
    assert {i.type.tensor_type.shape.dim[0].dim_param for i in ends} == {"batch"}
    feeds = {k: np.repeat(v, batch, 0) for k, v in feeds.items()}
    (y,) = session(model.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(y, np.repeat(data["out0"], batch, 0), rtol=1e-4, atol=1e-5)


def test_small_has_the_same_operators(zoo):
    for name in GFLOP:
        full, small = [[n.op_type for n in load(zoo[f], name)[0].graph.node] for f in FORMS]
        assert full == small, name


def test_same_seed_same_bytes(zoo, tmp_path):
    again, other = write(tmp_path / "again", "--small"), write(
        tmp_path / "other", "--small", "--seed", "1"
    )
    files = sorted(p.name for p in zoo["small"].iterdir())
    assert len(files) == 2 * len(GFLOP)
    for name in files:
        before = (zoo["small"] / name).read_bytes()
        assert (again / name).read_bytes() == before and (other / name).read_bytes() != before
