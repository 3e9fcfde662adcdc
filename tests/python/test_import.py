# SPDX-License-Identifier: Apache-2.0
"""One network in every form that ONNX has for it: each is read to the same outputs. And the shapes that Tendon infers
for every value of the models in the tree, against onnx's own inference."""
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.small

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
FAILED, BAD_INPUT = 1, 3
MODELS = [*sorted((ROOT / "tests" / "data" / "exports").glob("*.onnx")), ROOT / "examples" / "emg" / "emg_tcn.onnx"]


def tendon(*args, code=0):
    """What the command says where its answer goes: stdout, or stderr where it refuses."""
    run = subprocess.run([TENDON, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert run.returncode == code, run.stdout + run.stderr
    return run.stderr if code == BAD_INPUT else run.stdout


# ---- Shapes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_shapes_are_onnx_s(path):
    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    want = {}
    for v in [*model.graph.value_info, *model.graph.output]:
        t = v.type.tensor_type
        if t.HasField("shape"):
            dims = [d.dim_value if d.HasField("dim_value") else None for d in t.shape.dim]
            want[v.name] = (helper.tensor_dtype_to_np_dtype(t.elem_type).name, dims)
    description = json.loads(tendon("inspect", path, "--json"))
    assert description["unsupported"] == []
    n_compared = 0
    for node in description["nodes"]:
        for out in node["outputs"]:
            if out["name"] not in want:
                continue
            dtype, dims = want[out["name"]]
            assert out["dtype"] == dtype, out["name"]
            assert len(dims) == len(out["shape"]), out["name"]
            assert all(d is None or d == e for d, e in zip(dims, out["shape"])), (out["name"], dims, out["shape"])
            n_compared += 1
    assert n_compared > len(description["nodes"]) / 2


# ---- One network in every form -----------------------------------------------------------------------------------


def network():
    """Convolution, BatchNormalization, ReLU, mean over time, Gemm, softmax; weights in raw_data."""
    r = np.random.default_rng(5)
    weights = {
        "w": r.normal(size=(6, 4, 3)) * 0.5, "b": r.normal(size=6), "scale": r.uniform(0.5, 2, 6), "shift": r.normal(size=6),
        "mean": r.normal(size=6), "var": r.uniform(0.5, 2, 6), "v": r.normal(size=(6, 5)), "c": r.normal(size=5),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"], name="conv", kernel_shape=[3], pads=[1, 1]),
        helper.make_node("BatchNormalization", ["h", "scale", "shift", "mean", "var"], ["n"], name="norm"),
        helper.make_node("Relu", ["n"], ["a"], name="relu"),
        helper.make_node("ReduceMean", ["a"], ["m"], name="mean", axes=[2], keepdims=0),
        helper.make_node("Gemm", ["m", "v", "c"], ["g"], name="gemm"),
        helper.make_node("Softmax", ["g"], ["y"], name="softmax", axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(a.astype(np.float32), k) for k, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def reverse_nodes(m):
    nodes = list(m.graph.node)[::-1]
    del m.graph.node[:]
    m.graph.node.extend(nodes)


def drop_node_names(m):
    for n in m.graph.node:
        n.name = ""


def equal_node_names(m):
    for n in m.graph.node:
        n.name = "node"


def strange_names(m):
    def rename(name):
        return f'/µ"{name}"\\ \n~1' if name not in ("x", "y", "") else name

    for n in m.graph.node:
        n.input[:] = [rename(i) for i in n.input]
        n.output[:] = [rename(o) for o in n.output]
    for t in m.graph.initializer:
        t.name = rename(t.name)


def weights_in_typed_fields(m):
    for t in m.graph.initializer:
        a = numpy_helper.to_array(t)
        t.ClearField("raw_data")
        t.float_data.extend(a.ravel().tolist())


def weights_as_constants(m):
    for t in m.graph.initializer:
        m.graph.node.add().CopyFrom(helper.make_node("Constant", [], [t.name], value=t))
    del m.graph.initializer[:]


def weights_as_inputs_too(m):
    m.ir_version = 3
    for t in m.graph.initializer:
        m.graph.input.add().CopyFrom(helper.make_tensor_value_info(t.name, t.data_type, t.dims))


def cast_weights(m, to, encode):
    for t in list(m.graph.initializer):
        a = numpy_helper.to_array(t)
        small = TensorProto(name=t.name + "_", data_type=to, dims=a.shape)
        encode(small, a)
        m.graph.initializer.remove(t)
        m.graph.initializer.add().CopyFrom(small)
        m.graph.node.insert(0, helper.make_node("Cast", [small.name], [t.name], to=TensorProto.FLOAT))


def half_weights(m):
    def encode(t, a):
        t.int32_data.extend(a.astype(np.float16).view(np.uint16).ravel().tolist())

    cast_weights(m, TensorProto.FLOAT16, encode)


def bfloat16_weights(m):
    def encode(t, a):
        t.raw_data = (a.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()

    cast_weights(m, TensorProto.BFLOAT16, encode)


def double_weights(m):
    def encode(t, a):
        t.double_data.extend(a.astype(np.float64).ravel().tolist())

    cast_weights(m, TensorProto.DOUBLE, encode)


def a_sparse_weight(m):
    t = next(t for t in m.graph.initializer if t.name == "v")
    a = numpy_helper.to_array(t).copy()
    a[np.abs(a) < 1] = 0
    places = np.flatnonzero(a)
    m.graph.initializer.remove(t)
    values = numpy_helper.from_array(a.ravel()[places], "v")
    m.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(places, "v_places"), a.shape)
    )


def as_a_function(m):
    weights = [t.name for t in m.graph.initializer]
    body = helper.make_function("own", "Net", ["x", *weights], ["y"], m.graph.node, [helper.make_opsetid("", 17)])
    del m.graph.node[:]
    m.graph.node.append(helper.make_node("Net", ["x", *weights], ["y"], domain="own"))
    m.functions.append(body)
    m.opset_import.append(helper.make_opsetid("own", 1))


def as_a_branch(m):
    body = helper.make_graph(m.graph.node, "body", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
    for n in body.node:  # names inside and outside must differ
        n.output[:] = ["r" if o == "y" else o for o in n.output]
    body.output[0].name = "r"
    other = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["s"])], "other", [],
        [helper.make_tensor_value_info("s", TensorProto.FLOAT, None)],
    )
    del m.graph.node[:]
    m.graph.node.append(helper.make_node("Not", ["no"], ["yes"]))
    m.graph.node.append(helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=other))
    m.graph.initializer.append(numpy_helper.from_array(np.array(False), "no"))


def a_symbolic_batch(m):
    m.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    m.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def nothing_about_the_output(m):
    m.graph.output[0].type.tensor_type.ClearField("shape")


def absent_operands(m):
    clip = helper.make_node("Clip", ["a", "", "most"], ["a_"], name="clip")
    m.graph.node.insert(3, clip)
    m.graph.node[4].input[0] = "a_"
    m.graph.initializer.append(numpy_helper.from_array(np.array(1.5, np.float32), "most"))


FORMS = [
    reverse_nodes, drop_node_names, equal_node_names, strange_names, weights_in_typed_fields, weights_as_constants,
    weights_as_inputs_too, half_weights, bfloat16_weights, double_weights, a_sparse_weight, as_a_function, as_a_branch,
    a_symbolic_batch, nothing_about_the_output, absent_operands,
]  # fmt: skip
# The others are the same network, and onnxruntime does not read all of them.
OTHER_NUMBERS = [half_weights, bfloat16_weights, a_sparse_weight, absent_operands]


def x_of(seed=1):
    return np.random.default_rng(seed).normal(size=(1, 4, 10)).astype(np.float32)


def run(model, tmp_path):
    np.savez(tmp_path / "in.npz", x=x_of())
    tendon("run", model, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz")
    return np.load(tmp_path / "out.npz")["y"]


def expected(model):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": x_of()})[0]


@pytest.mark.parametrize("change", FORMS, ids=lambda f: f.__name__)
def test_forms_of_one_network(change, tmp_path):
    model = network()
    change(model)
    onnx.save(model, tmp_path / "m.onnx")
    want = expected(model if change in OTHER_NUMBERS else network())
    np.testing.assert_allclose(run(tmp_path / "m.onnx", tmp_path), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("change", [a_sparse_weight, absent_operands], ids=lambda f: f.__name__)
def test_a_form_read_wrongly_would_show(change):
    changed = network()
    change(changed)
    assert np.abs(expected(changed) - expected(network())).max() > 1e-3


@pytest.mark.parametrize("one_file", [True, False])
def test_external_data(one_file, tmp_path):
    (tmp_path / "deep").mkdir()
    onnx.save(
        network(), tmp_path / "deep" / "m.onnx", save_as_external_data=True, all_tensors_to_one_file=one_file,
        location="weights.bin" if one_file else None, size_threshold=0,
    )
    np.testing.assert_allclose(run(tmp_path / "deep" / "m.onnx", tmp_path), expected(network()), rtol=1e-4, atol=1e-4)
    names = [p.name for p in (tmp_path / "deep").iterdir() if p.name != "m.onnx"]
    assert len(names) == (1 if one_file else 8)
    # From inside its folder a model's name has no folder in it.
    np.savez(tmp_path / "in.npz", x=x_of())
    command = [TENDON, "run", "m.onnx", "--inputs", "../in.npz", "--outputs", "../out.npz"]
    subprocess.run(command, cwd=tmp_path / "deep", check=True, capture_output=True, timeout=300)
    (tmp_path / "deep" / names[0]).unlink()
    assert names[0] in tendon("build", tmp_path / "deep" / "m.onnx", "-o", tmp_path / "p", code=BAD_INPUT)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/passwd", "link.bin", "sub/../../weights.bin"])
def test_external_data_outside_the_folder(location, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(4096))
    (folder / "link.bin").symlink_to(tmp_path / "weights.bin")
    model = network()
    t = model.graph.initializer[0]
    t.ClearField("raw_data")
    t.data_location = TensorProto.EXTERNAL
    entry = t.external_data.add()
    entry.key, entry.value = "location", location
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    text = tendon("build", folder / "m.onnx", "-o", tmp_path / "plan", code=BAD_INPUT)
    assert "leaves the model's folder" in text
    assert "tensor 'w'" in text


def test_a_failure_names_the_node_and_the_file(tmp_path):
    model = network()
    model.graph.node[4].input[1] = "c"
    onnx.save(model, tmp_path / "m.onnx")
    text = tendon("build", tmp_path / "m.onnx", "-o", tmp_path / "plan", code=BAD_INPUT)
    assert f"importing node 4 'gemm' (Gemm) of {tmp_path}/m.onnx" in text


def test_all_unsupported_nodes_with_reasons(tmp_path):
    model = network()
    model.graph.node[2].op_type = "Relu2"
    model.graph.node[5].op_type = "Softmax2"
    onnx.save(model, tmp_path / "m.onnx")
    found = json.loads(tendon("inspect", tmp_path / "m.onnx", "--json", code=FAILED))["unsupported"]
    assert [(u["node"], u["op"]) for u in found] == [("relu", "Relu2"), ("softmax", "Softmax2")]
    assert all(u["reason"] for u in found)
