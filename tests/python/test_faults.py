# SPDX-License-Identifier: Apache-2.0
"""The command under hostile files, full disks and signals: an error in words and the right exit code, within seconds
and a gigabyte; the files that were there stay whole, and no temporary one is left."""
import os
import resource
import signal
import subprocess
import time
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

TENDON = os.environ.get("TENDON", "build/tendon")
MEMORY = 1 << 30
pytestmark = pytest.mark.skipif(not os.path.exists(TENDON), reason="no command")


def limits(size=None):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def tendon(*args, size=None, seconds=10, stdout=subprocess.PIPE):
    """Ten seconds, not one: tests share their machine. A hostile size that is walked takes minutes."""
    return subprocess.run([TENDON, *map(str, args)], stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=seconds,
                          preexec_fn=lambda: limits(size))


def info(name, dims, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, dims)


def model(path, nodes, inits=(), inputs=None):
    graph = helper.make_graph(nodes, "g", inputs or [info("x", [1, 4])], [info("y", None)], list(inits))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(made.SerializeToString())
    return path


def ints(name, values):
    return numpy_helper.from_array(np.array(values, np.int64), name)


def claimed(*dims):
    """An initializer that says it has these dims, and has four bytes."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, raw_data=b"1234")
    tensor.dims.extend(dims)
    return tensor


ones = numpy_helper.from_array(np.ones((1, 4), np.float32), "c")
node = helper.make_node
add_r = [node("ReduceMax", ["e"], ["r"], keepdims=0), node("Cast", ["r"], ["f"], to=1), node("Add", ["x", "f"], ["y"])]
add_w = [node("Add", ["x", "w"], ["y"])]
relu = [node("Relu", ["x"], ["y"])]


def chain(n, op, first="x", last="y"):
    """n nodes that each read the one before twice."""
    names = [first, *(f"v{i}" for i in range(n - 1)), last]
    return [node(op, [a, a], [b], **({"axis": 0} if op == "Concat" else {})) for a, b in zip(names, names[1:])]


HOSTILE = {
    "an initializer of 2^40 elements": (lambda p: model(p, add_w, [claimed(1 << 40)]), "too large"),
    "an initializer whose dims overflow": (lambda p: model(p, add_w, [claimed(1 << 62, 4, 1 << 40)]), "too large"),
    "an initializer with a negative dim": (lambda p: model(p, add_w, [claimed(-4)]), "-4"),
    "an input whose dims overflow": (lambda p: model(p, relu, inputs=[info("x", [1 << 32] * 3)]), "too large"),
    "dims that overflow beside a zero": (
        lambda p: model(p, relu, inputs=[info("x", [0, 1 << 40, 1 << 40])]), "too large"),
    "Expand": (lambda p: model(p, [node("Expand", ["c", "s"], ["e"]), *add_r], [ones, ints("s", [1 << 34, 4])]),
               "too large"),
    "ConstantOfShape": (lambda p: model(p, [node("ConstantOfShape", ["s"], ["e"]), *add_r], [ints("s", [1 << 36])]),
                        "too large"),
    "Range": (lambda p: model(p, [node("Range", ["a", "b", "d"], ["e"]), *add_r],
                              [ints("a", 0), ints("b", 1 << 40), ints("d", 1)]), "too large"),
    "Pad": (lambda p: model(p, [node("Pad", ["x", "s"], ["y"])], [ints("s", [0, 0, 1 << 40, 1 << 40])]), "too large"),
    "OneHot": (lambda p: model(p, [node("OneHot", ["s", "d", "v"], ["y"])],
                               [ints("s", [1]), ints("d", [1 << 40]), ints("v", [0, 1])]), "out of range"),
    "Resize": (lambda p: model(p, [node("Resize", ["x", "", "s"], ["y"])],
                               [numpy_helper.from_array(np.array([1, 1e9], np.float32), "s")]), "too large"),
    "Einsum": (lambda p: model(p, [node("Einsum", ["x"] * 4, ["y"], equation="ab,cd,ef,gh->abcdefgh")],
                               inputs=[info("x", [1000, 1000])]), "too large"),
    "forty doublings": (lambda p: model(p, chain(40, "Concat")), "too large"),
    "forty doublings of a constant": (
        lambda p: model(p, chain(40, "Concat", "c", "e") + add_r, [ones]), "too large"),
    "a dilation of 2^40": (
        lambda p: model(p, [node("MaxPool", ["x"], ["y"], kernel_shape=[2], dilations=[1 << 40])],
                        inputs=[info("x", [1, 1, 9])]), "node 0"),
    "a million inputs": (lambda p: model(p, [node("Concat", ["x"] * 1000000, ["y"], axis=0)]), "more than 8192 inputs"),
    "half a million nodes": (lambda p: model(p, chain(500000, "Add")), "more than"),
    "a name of a hundred megabytes": (lambda p: model(p, [node("Relu", ["x"], ["y"], name="n" * (100 << 20))]),
                                      "a name has 104857600 bytes"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_sizes_in_a_model(tmp_path, what):
    write, words = HOSTILE[what]
    write(tmp_path / "m.onnx")
    result = tendon("build", tmp_path / "m.onnx", "-o", tmp_path / "m.plan")
    assert (result.returncode, os.listdir(tmp_path)) == (3, ["m.onnx"]), result.stderr
    assert words in result.stderr and "m.onnx" in result.stderr


def field(number, payload):
    size, length = bytearray(), len(payload)
    while length > 127:
        size.append(length & 127 | 128)
        length >>= 7
    return bytes([number << 3 | 2, *size, length]) + payload


def test_subgraphs_ten_thousand_deep(tmp_path):
    """Written by hand: protobuf itself refuses."""
    graph = field(1, node("Identity", ["x"], ["o"]).SerializeToString())
    kind = bytes([0xA0, 0x01, 5])
    for _ in range(10000):
        attribute = field(1, b"then_branch") + field(6, graph) + kind
        graph = field(1, field(1, b"c") + field(2, b"o") + field(4, b"If") + field(5, attribute))
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08" + field(7, graph))
    result = tendon("build", tmp_path / "m.onnx", "-o", tmp_path / "m.plan")
    assert result.returncode == 3 and "nest more than" in result.stderr


def test_2_to_31_claimed_bytes(tmp_path):
    """A graph that claims to be longer than the file."""
    (tmp_path / "m.onnx").write_bytes(b"\x08\x08\x3a\xff\xff\xff\xff\x07" + b"\x0a\x00" * 1000)
    result = tendon("build", tmp_path / "m.onnx", "-o", tmp_path / "m.plan")
    assert result.returncode == 3 and "m.onnx" in result.stderr


def test_a_hundred_thousand_nodes_are_built(tmp_path):
    """A valid model, if an odd one: time grows with the nodes, not with their square."""
    names = ["x", *(f"v{i}" for i in range(99999)), "y"]
    path = model(tmp_path / "m.onnx", [node("Add", [a, "x"], [b]) for a, b in zip(names, names[1:])])
    result = tendon("build", path, "-o", tmp_path / "m.plan", "--optimization-level", 0, seconds=60)
    assert result.returncode == 0, result.stderr


def small_plan(tmp_path):
    path = model(tmp_path / "s.onnx", relu, inputs=[info("x", ["N", 4])])
    assert tendon("build", path, "-o", tmp_path / "s.plan").returncode == 0
    return tmp_path / "s.plan"


@pytest.mark.parametrize("dims", ["1073741825x4", "1073741824x1073741824", "9223372036854775807x4", "-1x4"])
def test_huge_shapes(tmp_path, dims):
    path = model(tmp_path / "m.onnx", relu, inputs=[info("x", ["N", 4])])
    result = tendon("build", path, "-o", tmp_path / "m.plan", f"--shapes=x:{dims}")
    assert result.returncode in (2, 3) and "x" in result.stderr
    assert os.listdir(tmp_path) == ["m.onnx"]


def test_a_plan_that_needs_more_memory_than_there_is(tmp_path):
    path = model(tmp_path / "m.onnx", [node("Softmax", ["x"], ["v"]), node("Softmax", ["v"], ["y"])],
                 inputs=[info("x", ["N", 4])])
    tendon("build", path, "-o", tmp_path / "m.plan", "--shapes=x:500000000x4")
    result = tendon("bench", tmp_path / "m.plan", "--iterations=1", seconds=30)
    assert result.returncode == 1 and "memory" in result.stderr


def bad_npz(path, what):
    def header(text):
        text = text.ljust(118).encode()
        return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text

    shapes = {"a huge shape": "(1099511627776,)", "an overflow": "(4611686018427387904, 4, 4)", "a negative dim": "(-4,)",
              "a shape without end": "(" + "1," * 30}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        if what in shapes:
            data = header("{'descr': '<f4', 'fortran_order': False, 'shape': %s, }" % shapes[what]) + bytes(16)
        else:
            data = header("{'descr': '<f4', 'fortran_order': False, 'shape': (16777216,), }") + bytes(64 << 20)
        archive.writestr("x.npy", data)
        if what == "an object":
            archive.writestr("y.npy", header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + bytes(8))
    raw = bytearray(path.read_bytes())
    if what == "a wrong checksum":
        at = raw.rindex(b"PK\1\2") + 16
        raw[at] ^= 255
    if what == "a size beyond the file":
        at = raw.rindex(b"PK\1\2") + 24
        raw[at:at + 4] = b"\xf0\xff\xff\xff"
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("what", ["a huge shape", "an overflow", "a negative dim", "a shape without end",
                                  "a wrong checksum", "a size beyond the file"])
def test_hostile_npz(tmp_path, what):
    plan = small_plan(tmp_path)
    bad_npz(tmp_path / "d.npz", what)
    result = tendon("run", plan, "--inputs", tmp_path / "d.npz")
    assert result.returncode == 3 and "d.npz" in result.stderr


# ---- Disks and signals ------------------------------------------------------------------------------------------------


def test_no_room_for_a_plan(tmp_path):
    path = model(tmp_path / "m.onnx", add_w, [numpy_helper.from_array(np.ones((500, 4), np.float32), "w")])
    plan = tmp_path / "m.plan"
    plan.write_text("old")
    for size in (0, 1, 512, 4096):
        result = tendon("build", path, "-o", plan, size=size)
        assert result.returncode == 3 and f"cannot write '{plan}': File too large" in result.stderr
        assert plan.read_text() == "old" and sorted(os.listdir(tmp_path)) == ["m.onnx", "m.plan"]


def test_no_room_for_outputs_and_reports(tmp_path):
    plan = small_plan(tmp_path)
    np.savez(tmp_path / "d.npz", x=np.ones((1, 4), np.float32))
    for args in (["run", plan, "--inputs", tmp_path / "d.npz", "--outputs"], ["bench", plan, "--iterations=1", "--json"]):
        out = tmp_path / "out"
        out.write_text("old")
        before = sorted(os.listdir(tmp_path))
        result = tendon(*args, out, size=16)
        assert result.returncode == 3 and f"cannot write '{out}': File too large" in result.stderr
        assert out.read_text() == "old" and sorted(os.listdir(tmp_path)) == before
        for place, words in ((tmp_path, "it is a folder"), ("/dev/full", "No space left")):
            result = tendon(*args, place)
            assert result.returncode == 3 and words in result.stderr


def test_a_full_disk_behind_standard_output(tmp_path):
    plan = small_plan(tmp_path)
    with open("/dev/full", "w") as full:
        result = tendon("inspect", plan, stdout=full)
    assert result.returncode == 1 and "standard output" in result.stderr


def test_a_link_stays_and_its_file_is_replaced(tmp_path):
    path = model(tmp_path / "m.onnx", relu)
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    assert tendon("build", path, "-o", tmp_path / "link").returncode == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes().startswith(b"tendon plan")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_build(tmp_path, number):
    """At any time: the old plan or the new one, and no other file."""
    weights = numpy_helper.from_array(np.ones((1500, 1500), np.float32), "w")
    path = model(tmp_path / "m.onnx", [node("MatMul", ["x", "w"], ["y"])], [weights], [info("x", [1, 1500])])
    plan = tmp_path / "m.plan"
    assert tendon("build", path, "-o", plan, "--optimization-level", 0).returncode == 0
    whole = plan.read_bytes()
    for i in range(25):
        process = subprocess.Popen([TENDON, "build", path, "-o", plan, "--optimization-level", "0"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.004 * i)
        process.send_signal(number)
        process.wait(20)
        assert plan.read_bytes() == whole and sorted(os.listdir(tmp_path)) == ["m.onnx", "m.plan"]
