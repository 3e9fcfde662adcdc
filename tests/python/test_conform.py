# SPDX-License-Identifier: Apache-2.0
"""ONNX's own node tests by `tendon conform`, against the list of those that do not pass; and the command itself.

`python tests/python/test_conform.py` writes the list anew (tests/data/conform.txt), for a change that makes cases pass.
"""

import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
LIST = ROOT / "tests" / "data" / "conform.txt"

# Why cases do not pass, by what is said of them: the headers of the list.
REASONS = [
    (r"^test_bernoulli", "Random numbers: other ones than NumPy's"),
    (r"^test_training_dropout", "Random numbers: dropout while training"),
    (r"^test_(attention\w*(bf16|fp16)|dft_inverse)\w* .*elements differ", "Rounded once, where ONNX's reference rounds after each step"),
    (r"^test_resize\w*_align_corners .*elements differ", "The rounded length, as in PyTorch and ONNX Runtime, not the real one"),
    (r"type string|STRING", "Text"),
    (r"sequence|optional|Optional|Sequence", "Sequences and optionals"),
    (r"float8|float4", "Floats of 8 and 4 bits"),
    (r"int2", "Integers of 2 bits"),
    (r"Scan|Loop|: If ", "Loops and branches while running"),
    (r"ImageDecoder", "Decoding of image files"),
    (r"preview\.training|Gradient", "Training"),
    (r"ai\.onnx\.ml", "Classical machine learning"),
    (r"the operator is not supported", "Other operators"),
]


def to_proto(x, value):
    """The message that an array is written as, by the kind of its value."""
    if not isinstance(x, (list, dict, type(None), np.ndarray, np.generic, int, float, bool)):
        return x
    write = {
        "sequence_type": numpy_helper.from_list,
        "optional_type": numpy_helper.from_optional,
        "map_type": numpy_helper.from_dict,
    }.get(value.type.WhichOneof("value"))
    return write(x, value.name) if write else numpy_helper.from_array(np.asarray(x), value.name)


def write_case(folder, model, data_sets):
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    for i, (inputs, outputs) in enumerate(data_sets):
        data = folder / f"test_data_set_{i}"
        data.mkdir()
        for what, arrays, values in ("input", inputs, model.graph.input), ("output", outputs, model.graph.output):
            for k, (x, value) in enumerate(zip(arrays, values)):
                (data / f"{what}_{k}.pb").write_bytes(to_proto(x, value).SerializeToString())


def write_node_cases(folder):
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    for case in cases:
        assert (case.rtol, case.atol) == (1e-3, 1e-7)  # the command's own
        write_case(folder / case.name, case.model, case.data_sets)
    return len(cases)


def conform(*arguments):
    return subprocess.run([TENDON, "conform", *map(str, arguments)], capture_output=True, text=True, timeout=120)


def results_of(folder):
    """Result and reason by case."""
    file = folder.parent / "results.json"
    done = conform(folder, f"--json={file}")
    cases = json.loads(file.read_text())["cases"]
    return done, {Path(c["case"]).name: (c["result"], c["reason"]) for c in cases}


def listed():
    lines = LIST.read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


# ---- ONNX's node tests


@pytest.fixture(scope="session")
def node_results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "node"
    n = write_node_cases(folder)
    return n, *results_of(folder)


def test_node_cases_pass_but_for_those_listed(node_results):
    _, _, results = node_results
    failing = {name for name, (result, _) in results.items() if result != "passed"}
    expected = listed()
    assert len(set(expected)) == len(expected), "a case is listed twice"
    new = {name: results[name] for name in sorted(failing - set(expected))}
    assert not new, f"these cases should pass: {new}"
    gone = sorted(set(expected) - set(results))
    assert not gone, f"listed, but no cases of this version of onnx: {gone}"
    passing = sorted(set(expected) - failing)
    assert not passing, f"these cases pass now, take them off {LIST.name}: {passing}"


def test_node_counts(node_results):
    n, done, results = node_results
    count = collections.Counter(result for result, _ in results.values())
    assert len(results) == n
    assert count["passed"] >= 1500
    assert done.returncode == 1 and not done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == f"{count['passed']} passed, {n - count['passed']} failed"
    assert lines[-2] == f"{count['unsupported']} of those that failed need what is not supported"
    assert len(lines) == n - count["passed"] + 2


# ---- The command


F32, I64 = TensorProto.FLOAT, TensorProto.INT64
X = np.arange(6, dtype=np.float32).reshape(2, 3)


def model_of(node, inputs, outputs, initializers=()):
    values = [helper.make_tensor_value_info(n, t, d) for n, t, d in inputs]
    results = [helper.make_tensor_value_info(n, t, d) for n, t, d in outputs]
    graph = helper.make_graph([node], "g", values, results, [numpy_helper.from_array(v, n) for n, v in initializers])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


NEG = model_of(helper.make_node("Neg", ["x"], ["y"]), [("x", F32, ["n", 3])], [("y", F32, ["n", 3])])
NEG_INT = model_of(helper.make_node("Neg", ["x"], ["y"]), [("x", I64, [2])], [("y", I64, [2])])
RESHAPE = model_of(
    helper.make_node("Reshape", ["x", "shape"], ["y"]),
    [("x", F32, [2, 3]), ("shape", I64, [2])],
    [("y", F32, [None, None])],
)
ODD = model_of(helper.make_node("Odd", ["x"], ["y"], domain="acme"), [("x", F32, [2, 3])], [("y", F32, [2, 3])])


def one(tmp_path, model, inputs, outputs, *options):
    write_case(tmp_path / "c", model, [(inputs, outputs)])
    return conform(tmp_path / "c", *options)


@pytest.mark.small
def test_one_case_with_sets_of_other_shapes(tmp_path):
    write_case(tmp_path / "neg", NEG, [([X], [-X]), ([X[:1]], [-X[:1]]), ([X[:0]], [-X[:0]])])
    done = conform(tmp_path / "neg" / "")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 passed, 0 failed\n", "")
    assert conform(tmp_path / "neg", "--list").stdout == "passed      neg\n1 passed, 0 failed\n"


@pytest.mark.small
def test_folders_in_order_and_json(tmp_path):
    write_case(tmp_path / "all" / "b", NEG, [([X], [-X])])
    write_case(tmp_path / "all" / "deep" / "a", NEG, [([X], [X])])
    write_case(tmp_path / "all" / "c", ODD, [([X], [X])])
    (tmp_path / "all" / "notes.txt").write_text("no case")
    file = tmp_path / "r.json"
    done = conform(tmp_path / "all", "--list", f"--json={file}")
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0] == "passed      b"
    assert lines[1].startswith("unsupported c: 1 node of ") and "acme.Odd" in lines[1]
    assert lines[2] == "FAILED      a: output 'y' at [1, 2] is -5, not 5; 5 of 6 elements differ"
    assert lines[3:] == ["1 of those that failed need what is not supported", "1 passed, 2 failed"]
    text = json.loads(file.read_text())
    assert [c["result"] for c in text["cases"]] == ["passed", "unsupported", "failed"]
    assert (text["passed"], text["failed"], text["unsupported"]) == (1, 1, 1)


@pytest.mark.small
def test_what_decides_about_shapes_becomes_a_constant(tmp_path):
    done = one(tmp_path, RESHAPE, [X, np.array([3, 2])], [X.reshape(3, 2)], "--list")
    assert done.stdout == "passed      c: constant: shape\n1 passed, 0 failed\n"


@pytest.mark.small
def test_tolerances(tmp_path):
    near = -X * np.float32(1.0009)
    write_case(tmp_path / "near", NEG, [([X], [near])])
    assert conform(tmp_path / "near").returncode == 0
    assert conform(tmp_path / "near", "--rtol=1e-4").returncode == 1
    assert conform(tmp_path / "near", "--rtol=1e-4", "--atol=0.1").returncode == 0
    nan = np.array([[np.nan, np.inf, 1]], np.float32)
    write_case(tmp_path / "nan", NEG, [([nan], [-nan])])
    assert conform(tmp_path / "nan").returncode == 0
    write_case(tmp_path / "no_nan", NEG, [([nan], [np.array([[0, -np.inf, -1]], np.float32)])])
    assert conform(tmp_path / "no_nan").returncode == 1
    big = np.array([10**6, 1])
    write_case(tmp_path / "exact", NEG_INT, [([big], [-big - 1])])
    assert conform(tmp_path / "exact", "--rtol=1", "--atol=9").returncode == 1


@pytest.mark.small
@pytest.mark.parametrize(
    "expected, words",
    [
        (-X.astype(np.float64), "output 'y' is float32 2x3, not float64 2x3"),
        (-X[:1], "output 'y' is float32 2x3, not float32 1x3"),
        (-X.reshape(6), "output 'y' is float32 2x3, not float32 6"),
    ],
)
def test_type_and_shape_must_be_equal(tmp_path, expected, words):
    assert f"FAILED      c: {words}\n" in one(tmp_path, NEG, [X], [expected]).stdout


def damage_input(folder):
    (folder / "test_data_set_0" / "input_0.pb").write_bytes(b"\x08\x02\x10\x01")


def remove_output(folder):
    (folder / "test_data_set_0" / "output_0.pb").unlink()


def add_input(folder):
    (folder / "test_data_set_0" / "input_1.pb").write_bytes(b"")


def remove_data(folder):
    (folder / "test_data_set_0").rename(folder / "data")


def damage_model(folder):
    (folder / "model.onnx").write_bytes(b"\xff")


def sequence_input(folder):
    (folder / "test_data_set_0" / "input_0.pb").write_bytes(numpy_helper.from_list([X], "x").SerializeToString())


@pytest.mark.small
@pytest.mark.parametrize(
    "change, words",
    [
        (damage_input, "FAILED      c: tensor '' of shape .* has 0 bytes, not 8; while reading .*input_0.pb"),
        (remove_output, "FAILED      c: .*output_0.pb"),
        (add_input, "FAILED      c: .*input_1.pb is there, but the model has only 1 input"),
        (remove_data, "FAILED      c: there is no .*/c/test_data_set_0"),
        (damage_model, "FAILED      c: .*model.onnx"),
        (sequence_input, "unsupported c: a sequence or an optional is not supported; while reading .*input_0.pb"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, change, words):
    write_case(tmp_path / "c", NEG, [([X], [-X])])
    change(tmp_path / "c")
    done = conform(tmp_path / "c")
    assert done.returncode == 1 and re.match(words, done.stdout), done.stdout
    assert done.stdout.endswith("\n0 passed, 1 failed\n")


@pytest.mark.small
def test_where_there_is_no_case(tmp_path):
    done = conform(tmp_path)
    assert done.returncode == 3 and "there is no case in" in done.stderr and not done.stdout
    done = conform(tmp_path / "nowhere")
    assert done.returncode == 3 and "No such file" in done.stderr
    assert conform().returncode == 2


# ---- The list


def write_list():
    with tempfile.TemporaryDirectory() as folder:
        write_node_cases(Path(folder) / "node")
        _, results = results_of(Path(folder) / "node")
    groups = collections.defaultdict(list)
    for name, (result, reason) in sorted(results.items()):
        if result != "passed":
            line = f"{name} {reason}"
            header = next((h for pattern, h in REASONS if re.search(pattern, line)), "Not understood")
            groups[header].append(name)
    lines = [
        f"# The node tests of onnx {onnx.__version__} that do not pass, by what is missing: {sum(map(len, groups.values()))} of",
        f"# {len(results)}. tests/python/test_conform.py holds this list against a run, both ways, and writes it.",
    ]
    for header, names in groups.items():
        lines += ["", f"# {header}: {len(names)}", *names]
    LIST.write_text("\n".join(lines) + "\n")
    print(*(f"{len(names):5}  {header}" for header, names in groups.items()), sep="\n")


if __name__ == "__main__":
    sys.exit(write_list())
