# SPDX-License-Identifier: Apache-2.0
"""The Python package: sessions as onnxruntime has them, arrays in place, errors, threads, states, and who frees what."""

import gc
import os
import pickle
import platform
import subprocess
import sys
import threading
import time
import tomllib
import weakref
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.small

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("TENDON", ROOT / "build" / "tendon")).resolve().parent
if any(mark in (BUILD / "libtendon.so").read_bytes() for mark in (b"__asan_init", b"__tsan_init")):
    pytest.skip("libraries with sanitizers cannot be loaded into Python", allow_module_level=True)
os.environ["TENDON_LIBRARY_PATH"] = str(BUILD)
sys.path.insert(0, str(ROOT / "python"))

import tendon  # noqa: E402
from tendon import _c  # noqa: E402

NAMES = ["tcn", "snn", "spiking_tcn_step", "hybrid", "stgcn_M2", "policy", "sc2_bq", "ssd300"]
F32, F64, I64, BOOL = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL


def value(name, dtype, shape):
    return helper.make_tensor_value_info(name, dtype, shape)


def make(nodes, inputs, outputs, **weights):
    weights = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("acme", 1)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializer=weights)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def mlp(batch):
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("Tanh", ["a"], ["b"], name="squash"),
        helper.make_node("MatMul", ["b", "w2"], ["y"], name="second"),
    ]
    ends = [value("x", F32, [batch, 6])], [value("y", F32, [batch, 3])]
    return make(nodes, *ends, w1=normal(6, 5, seed=2), w2=normal(5, 3, seed=3))


FIXED, DYNAMIC = mlp(2), mlp("batch")
STATE = make(
    [helper.make_node("Add", ["x", "s"], ["next"]), helper.make_node("Mul", ["next", "two"], ["y"])],
    [value("x", F32, [1, 3]), value("s", F32, [1, 3])],
    [value("y", F32, [1, 3]), value("next", F32, [1, 3])],
    two=np.float32(2),
)
NONZERO = make(
    [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Neg", ["x"], ["n"])],
    [value("x", F32, [2, 4])],
    [value("i", I64, [2, None]), value("n", F32, [2, 4])],
)


def expect(model, **feeds):
    return ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)


def close(got, want):
    assert len(got) == len(want)
    for g, w in zip(got, want):
        assert g.dtype == w.dtype
        np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    command = [sys.executable, ROOT / "tools" / "zoo.py", "--out", folder, "--small", "--only", ",".join(NAMES)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.fixture
def bound(monkeypatch):
    """Addresses by name, as the engine is given them."""
    addresses, bind = {}, _c.runtime.tdn_context_bind

    def spy(context, name, tensor):
        addresses[name.decode()] = tensor.data
        return bind(context, name, tensor)

    monkeypatch.setattr(_c.runtime, "tdn_context_bind", spy)
    return addresses


# --- As onnxruntime does


@pytest.mark.parametrize("name", NAMES)
def test_a_session_does_what_onnxruntime_does(zoo, name):
    path = zoo / f"{name}.onnx"
    data = np.load(path.with_suffix(".npz"))
    feed = {key: data[key] for key in data.files if not key.startswith("out")}
    theirs = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    ours = tendon.InferenceSession(path, providers=["CPUExecutionProvider"])
    for got, want in zip([*ours.get_inputs(), *ours.get_outputs()], [*theirs.get_inputs(), *theirs.get_outputs()]):
        assert (got.name, got.type) == (want.name, want.type)
    assert [i.shape for i in ours.get_inputs()] == [i.shape for i in theirs.get_inputs()]
    want = theirs.run(None, feed)
    close(ours.run(None, feed), want)
    close(tendon.reference(path, feed), want)
    last = ours.get_outputs()[-1].name
    close(ours.run([last], feed), want[-1:])


@pytest.mark.parametrize(
    "dtype", "float32 float64 float16 bfloat16 int8 uint8 int16 uint16 int32 uint32 int64 uint64 bool".split()
)
def test_every_element_type_goes_in_and_out(dtype):
    dtype = np.dtype(dtype)  # bfloat16 comes from ml_dtypes, which onnx has imported
    code = helper.np_dtype_to_tensor_dtype(dtype)
    model = make([helper.make_node("Identity", ["x"], ["y"])], [value("x", code, [5])], [value("y", code, [5])])
    session = tendon.InferenceSession(model)
    x = np.array([0, 1, 1, 0, 1], dtype)
    assert session.get_inputs()[0].type == ort.InferenceSession(model).get_inputs()[0].type
    (y,) = session.run(None, {"x": x})
    assert y.dtype == x.dtype and (y == x).all()


def test_a_model_and_a_plan_as_file_and_as_bytes(tmp_path):
    model, plan = tmp_path / "m.onnx", tmp_path / "m.plan"
    model.write_bytes(FIXED)
    assert tendon.build(model, plan) is None
    assert tendon.build(FIXED)[:12] == plan.read_bytes()[:12] == b"tendon plan "
    x = normal(2, 6)
    for source in (model, str(model), FIXED, bytearray(FIXED), plan, str(plan), plan.read_bytes()):
        session = tendon.InferenceSession(source, threads=1)
        assert [list(i)[:3] for i in session.get_inputs()] == [["x", [2, 6], "tensor(float)"]]
        close(session.run(None, {"x": x}), expect(FIXED, x=x))


def test_versions_agree():
    with open(ROOT / "python" / "pyproject.toml", "rb") as file:
        assert tomllib.load(file)["project"]["version"] == tendon.__version__


# --- Arrays in place


def test_arrays_are_bound_where_they_lie(bound):
    session, x = tendon.InferenceSession(FIXED), normal(2, 6)
    for _ in range(3):
        (y,) = session.run(None, {"x": x})
        assert bound == {"x": x.ctypes.data, "y": y.ctypes.data} and y.flags.owndata


def test_every_run_returns_new_arrays():
    session = tendon.InferenceSession(FIXED)
    first, second = (session.run(None, {"x": x})[0] for x in (normal(2, 6), normal(2, 6, seed=9)))
    assert not np.shares_memory(first, second) and (first != second).all()
    close([first], expect(FIXED, x=normal(2, 6)))


def test_out_is_written_in_place_and_nothing_beside_it(bound):
    session, x = tendon.InferenceSession(FIXED), normal(2, 6)
    room = np.full((4, 3), 7, np.float32)
    (y,) = session.run(None, {"x": x}, out={"y": room[1:3]})
    assert np.shares_memory(y, room) and bound["y"] == room[1:].ctypes.data
    close([room[1:3]], expect(FIXED, x=x))
    assert (room[[0, 3]] == 7).all()


@pytest.mark.parametrize("view", [lambda a: np.asfortranarray(a), lambda a: np.repeat(a, 2, 0)[::2], lambda a: a])
def test_an_input_that_is_not_contiguous_is_copied(bound, view):
    session, x = tendon.InferenceSession(FIXED), view(normal(2, 6))
    close(session.run(None, {"x": x}), expect(FIXED, x=normal(2, 6)))
    assert (bound["x"] == x.ctypes.data) == x.flags.c_contiguous


def test_inputs_may_be_unaligned_or_read_only():
    session, x = tendon.InferenceSession(FIXED), normal(2, 6)
    odd = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 6)
    assert not odd.flags.aligned and not odd.flags.writeable
    close(session.run(None, {"x": odd}), expect(FIXED, x=x))


def test_bad_out_is_refused():
    session, x = tendon.InferenceSession(FIXED), normal(2, 6)
    fixed = normal(2, 3)
    fixed.flags.writeable = False
    for error, out in [
        (tendon.DtypeError, {"y": np.empty((2, 3))}),
        (tendon.DtypeError, {"y": [0.0] * 6}),
        (tendon.ShapeError, {"y": normal(3, 2)}),
        (tendon.ArgumentError, {"y": np.asfortranarray(normal(2, 3))}),
        (tendon.ArgumentError, {"y": fixed}),
        (tendon.ArgumentError, {"y": x.reshape(-1)[:6].reshape(2, 3)}),
        (tendon.ArgumentError, {"z": normal(2, 3)}),
    ]:
        with pytest.raises(error, match=r"'[yz]'"):
            session.run(None, {"x": x}, out=out)


def test_an_extent_that_depends_on_the_data():
    session = tendon.InferenceSession(NONZERO)
    assert [o.shape for o in session.get_outputs()] == [[2, None], [2, 4]]
    for n in (3, 0, 8, 1):
        x = np.zeros((2, 4), np.float32)
        x.reshape(-1)[:n] = 1
        close(session.run(None, {"x": x}), expect(NONZERO, x=x))
    room = np.empty((2, 8), np.int64)
    i, _ = session.run(None, {"x": x}, out={"i": room})
    assert i.tolist() == [[0], [0]] and np.shares_memory(i, room)


def test_scalars_stay_scalars():
    model = make([helper.make_node("Mul", ["x", "x"], ["y"])], [value("x", F32, [])], [value("y", F32, [])])
    (y,) = tendon.InferenceSession(model).run(None, {"x": np.float32(3)})
    assert y.shape == () and y == 9


# --- Shapes


def test_a_dynamic_model_is_built_once_for_each_shape(monkeypatch):
    builds, load = [], tendon._Engine.load
    monkeypatch.setattr(tendon._Engine, "load", lambda *a: builds.append(a) or load(*a))
    session = tendon.InferenceSession(DYNAMIC)
    assert session.get_inputs()[0].shape == ["batch", 6] and session.get_outputs()[0].shape == ["batch", 3]
    for batch, n_builds in [(4, 1), (4, 1), (2, 2), (4, 2)]:
        x = normal(batch, 6)
        close(session.run(None, {"x": x}), expect(DYNAMIC, x=x))
        assert len(builds) == n_builds
    with pytest.raises(tendon.Error, match="x"):
        session.run(None, {"x": normal(2, 7)})
    with pytest.raises(tendon.ShapeError, match="rank 9"):
        session.run(None, {"x": normal(*[1] * 9)})


def test_a_plan_with_several_programs_takes_their_shapes(tmp_path):
    plan = tmp_path / "m.plan"
    tendon.build(DYNAMIC, plan, shapes=[{"x": (1, 6)}, {"x": (5, 6)}])
    session = tendon.InferenceSession(plan)
    assert session.get_inputs()[0].shape == [None, 6]
    for batch in (1, 5, 1):
        x = normal(batch, 6)
        close(session.run(None, {"x": x}), expect(DYNAMIC, x=x))
    with pytest.raises(tendon.ShapeError, match="3x6.*1x6, 5x6"):
        session.run(None, {"x": normal(3, 6)})
    assert tendon.inspect(plan)["n_programs"] == 2


def test_a_range_takes_every_batch_in_it():
    options = {f"{end}_shapes": {"x": (n, 6)} for end, n in [("min", 1), ("opt", 3), ("max", 8)]}
    session = tendon.InferenceSession(tendon.build(DYNAMIC, **options))
    for batch in range(1, 9):
        x = normal(batch, 6)
        close(session.run(None, {"x": x}), expect(DYNAMIC, x=x))
    with pytest.raises(tendon.ShapeError):
        session.run(None, {"x": normal(9, 6)})


def test_shapes_given_to_a_session_are_the_only_ones():
    session = tendon.InferenceSession(DYNAMIC, shapes={"x": (4, 6)})
    assert session.get_inputs()[0].shape == [4, 6]
    assert session.run(None, {"x": normal(4, 6)})[0].shape == (4, 3)
    with pytest.raises(tendon.ShapeError):
        session.run(None, {"x": normal(2, 6)})


# --- States


def test_a_state_is_kept_until_it_is_reset():
    session = tendon.InferenceSession(STATE, states={"s": "next"})
    assert [i.name for i in session.get_inputs()] == ["x"] and [o.name for o in session.get_outputs()] == ["y"]
    x = np.ones((1, 3), np.float32)
    assert [session.run(None, {"x": x})[0][0, 0] for _ in range(3)] == [2, 4, 6]
    session.reset()
    assert session.run(None, {"x": x})[0][0, 0] == 2


def test_each_thread_has_states_of_its_own():
    session = tendon.InferenceSession(tendon.build(STATE, states={"s": "next"}))
    x, seen = np.ones((1, 3), np.float32), []
    session.run(None, {"x": x})
    other = threading.Thread(target=lambda: seen.append(session.run(None, {"x": x})[0][0, 0]))
    other.start()
    other.join()
    assert seen == [2] and session.run(None, {"x": x})[0][0, 0] == 4


# --- Errors


@pytest.mark.parametrize(
    "feed, error, words",
    [
        ({"x": np.zeros((2, 6))}, tendon.DtypeError, "'x' is float32, not float64"),
        ({"x": np.zeros((2, 6), ">f4")}, tendon.DtypeError, "'x' is float32"),
        ({"x": np.zeros((3, 6), np.float32)}, tendon.ShapeError, "'x' as 3x6.* 2x6"),
        ({"x": np.zeros(12, np.float32)}, tendon.ShapeError, "'x' as 12"),
        ({}, tendon.ArgumentError, "no array for input 'x'"),
        ({"x": np.zeros((2, 6), np.float32), "q": 1}, tendon.ArgumentError, "no input 'q'; the inputs are x"),
    ],
)
def test_a_wrong_feed_is_refused_and_the_next_run_is_well(feed, error, words):
    session = tendon.InferenceSession(FIXED)
    with pytest.raises(error, match=words) as raised:
        session.run(None, feed)
    assert isinstance(raised.value, (tendon.Error, ValueError))
    assert isinstance(raised.value, TypeError) == (error is tendon.DtypeError)
    close(session.run(None, {"x": normal(2, 6)}), expect(FIXED, x=normal(2, 6)))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_precisions(tmp_path, precision):
    plan = tmp_path / "m.plan"
    tendon.build(FIXED, plan, precision=precision, targets=["avx512-fp16"], optimization_level=0)
    assert tendon.inspect(plan)["notes"]["precision"] == precision


def test_failures_have_a_status_and_the_engines_words(tmp_path):
    wild = make([helper.make_node("Wild", ["x"], ["y"], domain="acme")], [value("x", F32, [1])], [value("y", F32, [1])])
    text, cut = tmp_path / "text.onnx", tmp_path / "cut.plan"
    text.write_text("no model")
    cut.write_bytes(tendon.build(FIXED)[:-100])
    for status, words, act in [
        (tendon.Status.IO, "absent.onnx", lambda: tendon.InferenceSession(tmp_path / "absent.onnx")),
        (tendon.Status.IO, "nowhere", lambda: tendon.build(FIXED, tmp_path / "nowhere" / "m.plan")),
        (tendon.Status.MODEL, "text.onnx", lambda: tendon.InferenceSession(text)),
        (tendon.Status.FORMAT, "cut.plan", lambda: tendon.InferenceSession(cut)),
        (tendon.Status.FORMAT, "cut.plan", lambda: tendon.inspect(cut)),
        (tendon.Status.UNSUPPORTED, "Wild", lambda: tendon.build(wild)),
        (tendon.Status.ARG, "z80.*native", lambda: tendon.build(FIXED, targets=["z80"])),
        (tendon.Status.ARG, "fp15", lambda: tendon.build(FIXED, precision="fp15")),
        (tendon.Status.ARG, "0..5", lambda: tendon.build(FIXED, optimization_level=6)),
        (tendon.Status.ARG, "a ratio from 1", lambda: tendon.build(FIXED, max_weights=0.5)),
        (tendon.Status.ARG, "build budget", lambda: tendon.build(FIXED, build_budget=-1)),
        (tendon.Status.FORMAT, "no timing cache", lambda: tendon.build(FIXED, timing_cache=__file__)),
        (tendon.Status.ARG, "zero byte", lambda: tendon.build(FIXED, shapes={"x\0": (1, 6)})),
        (tendon.Status.ARG, "compiled already", lambda: tendon.InferenceSession(tendon.build(FIXED), states={})),
        (tendon.Status.ARG, "threads", lambda: tendon.InferenceSession(FIXED, threads=0)),
        (tendon.Status.ARG, "not a list", lambda: tendon.InferenceSession(FIXED, cores=[])),
        (tendon.Status.ARG, "not a list", lambda: tendon.build(FIXED, cores=[-1])),
        (tendon.Status.ARG, "named twice", lambda: tendon.InferenceSession(FIXED, cores=[0, 0])),
        (tendon.Status.ARG, "core 99999 is not there", lambda: tendon.build(FIXED, cores=[99999])),
        (tendon.Status.ARG, "no output 'q'", lambda: tendon.InferenceSession(FIXED).run(["q"], {"x": normal(2, 6)})),
    ]:
        with pytest.raises(tendon.Error, match=words) as raised:
            act()
        assert raised.value.status is status
        again = pickle.loads(pickle.dumps(raised.value))
        assert (type(again), str(again), again.status) == (type(raised.value), str(raised.value), status)
        assert isinstance(raised.value, OSError) == (status is tendon.Status.IO)


def test_a_failing_run_leaves_the_session_usable():
    model = make(
        [helper.make_node("Gather", ["t", "i"], ["y"])], [value("i", I64, [1])], [value("y", F32, [1])], t=normal(4)
    )
    session = tendon.InferenceSession(model)
    for _ in range(2):
        with pytest.raises(tendon.Error) as raised:
            session.run(None, {"i": np.array([4])})
        assert raised.value.status is tendon.Status.MODEL
        assert session.run(None, {"i": np.array([3])})[0] == normal(4)[3]


def test_what_a_callback_raises_comes_out():
    def stop(*_):
        raise KeyError("stop")

    session = tendon.InferenceSession(FIXED)
    with pytest.raises(KeyError):
        tendon.build(FIXED, progress=stop)
    with pytest.raises(KeyError):
        session.run(None, {"x": normal(2, 6)}, tap=stop)
    close(session.run(None, {"x": normal(2, 6)}), expect(FIXED, x=normal(2, 6)))


# --- What a build and a run tell


def test_progress_and_log():
    progress, lines = [], []
    tendon.build(FIXED, progress=lambda *a: progress.append(a), log=lambda *a: lines.append(a), dump="all")
    assert progress and all(1 <= phase <= n and 0 <= f <= 1 and what for phase, n, what, f in progress)
    assert any("first" in line for level, line in lines if level == "info")


def test_inspect(tmp_path):
    model = tmp_path / "m.onnx"
    model.write_bytes(DYNAMIC)
    tendon.build(model, tmp_path / "m.plan", targets=["x86-64-v3", "x86-64-v4"])
    assert tendon.inspect(model, shapes={"x": (7, 6)})["inputs"][0]["name"] == "x"
    sections = tendon.inspect(tmp_path / "m.plan")["sections"]
    assert [section["target"] for section in sections] == ["x86-64-v3", "x86-64-v4"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="targets of x86-64")
def test_max_target_bounds_the_section():
    plan = tendon.build(FIXED, targets=["x86-64-v3", "x86-64"])
    kernels = {}
    for target in ("x86-64-v3", "x86-64"):
        session = tendon.InferenceSession(plan, max_target=target)
        close(session.run(None, {"x": normal(2, 6)}), expect(FIXED, x=normal(2, 6)))
        kernels[target] = [step["kernel"] for step in session.profile()]
    assert kernels["x86-64-v3"] != kernels["x86-64"]


def test_taps_see_the_values_of_the_reference():
    session, seen, x = tendon.InferenceSession(FIXED), {}, normal(2, 6)
    session.run(None, {"x": x}, tap=seen.__setitem__)
    assert "y" in seen
    close(list(seen.values()), tendon.reference(FIXED, {"x": x}, list(seen)))
    seen.clear()
    session.run(None, {"x": x})
    assert not seen


def test_the_reference_tells_inner_values():
    x = normal(2, 6)
    (b,) = tendon.reference(FIXED, {"x": x}, ["b"], threads=1)
    np.testing.assert_allclose(b, np.tanh(x @ normal(6, 5, seed=2)), rtol=1e-5)
    with pytest.raises(tendon.ArgumentError, match="'nothing'"):
        tendon.reference(FIXED, {"x": x}, ["nothing"])


def test_the_profile_counts_runs():
    session = tendon.InferenceSession(FIXED, profile=True)
    assert session.profile() == []
    for _ in range(3):
        session.run(None, {"x": normal(2, 6)})
    steps = session.profile(reset=True)
    assert "first" in steps[0]["name"] and steps[0]["kernel"]
    assert all(s["n_runs"] == 3 and s["min_ns"] <= s["max_ns"] <= s["total_ns"] for s in steps)
    assert all(s["n_runs"] == 0 for s in session.profile())


# --- Threads


def test_warming_changes_nothing():
    session, x = tendon.InferenceSession(FIXED, threads=2), normal(2, 6)
    session.warm()  # before this thread has run: there is nothing to warm
    (before,) = session.run(None, {"x": x})
    session.warm()
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], before)


def test_workers_stay_on_cores():
    before, mine = os.sched_getaffinity(0), {int(t) for t in os.listdir("/proc/self/task")}
    core = max(before)
    session, x = tendon.InferenceSession(FIXED, threads=3, cores=[core]), normal(2, 6)
    workers = {int(t) for t in os.listdir("/proc/self/task")} - mine
    assert len(workers) == 2 and all(os.sched_getaffinity(w) == {core} for w in workers)
    assert os.sched_getaffinity(0) == before
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], tendon.InferenceSession(FIXED).run(None, {"x": x})[0])


def test_threads_share_a_session_and_get_their_own_results():
    session, n = tendon.InferenceSession(DYNAMIC, threads=2), 4
    feeds = [normal(1 + k, 6, seed=k) for k in range(n)]
    wanted, failures, start = [expect(DYNAMIC, x=x)[0] for x in feeds], [], threading.Barrier(n)

    def work(k):
        start.wait()
        for _ in range(100):
            (y,) = session.run(None, {"x": feeds[k]})
            if not np.allclose(y, wanted[k], rtol=1e-4, atol=1e-4):
                failures.append(k)

    threads = [threading.Thread(target=work, args=[k]) for k in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_a_run_does_not_wait_for_another_threads():
    session, x = tendon.InferenceSession(FIXED, threads=2), normal(2, 6)
    inside, over = threading.Event(), threading.Event()

    def hold(*_):
        inside.set()
        assert over.wait(60)

    holder = threading.Thread(target=session.run, args=[None, {"x": x}], kwargs={"tap": hold})
    holder.start()
    try:
        assert inside.wait(60)
        close(session.run(None, {"x": x}), expect(FIXED, x=x))
        assert holder.is_alive()
    finally:
        over.set()
        holder.join()


def test_a_tap_may_not_run_its_own_session():
    session, x = tendon.InferenceSession(FIXED), normal(2, 6)
    with pytest.raises(tendon.ArgumentError, match="inside of a run"):
        session.run(None, {"x": x}, tap=lambda *_: session.run(None, {"x": x}))
    close(session.run(None, {"x": x}), expect(FIXED, x=x))


def test_python_goes_on_while_the_engine_runs():
    n = 768
    nodes = [helper.make_node("MatMul", [f"v{k}", "w"], [f"v{k + 1}"]) for k in range(16)]
    model = make(nodes, [value("v0", F32, [n, n])], [value("v16", F32, [n, n])], w=normal(n, n) / n)
    session, x, span = tendon.InferenceSession(model, threads=1), normal(n, n), []

    def work():
        begin = time.perf_counter()
        _c.runtime.tdn_context_run(context)
        span.extend([begin, time.perf_counter()])

    session.run(None, {"v0": x})
    context = session._of_thread.last
    y = np.empty((n, n), np.float32)
    context.bind(context.inputs, [x])
    context.bind(context.outputs, [y])
    thread, ticks = threading.Thread(target=work), []
    thread.start()
    while thread.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.001)
    begin, end = span
    margin = (end - begin) / 5
    assert any(begin + margin < tick < end - margin for tick in ticks), end - begin


# --- Who frees what


@pytest.fixture
def freed(monkeypatch):
    """Names of what the engine is told to free, in order."""
    names = []
    for library in (_c.runtime, _c.compiler()):
        for function in ("context", "engine", "pool", "plan", "model"):
            free = getattr(library, f"tdn_{function}_free", None)
            if free:
                spy = lambda pointer, name=function, free=free: (names.append(name), free(pointer))  # noqa: E731
                monkeypatch.setattr(library, f"tdn_{function}_free", spy)
    gc.collect()
    names.clear()
    return names


def check_order(freed):
    assert sorted(freed) == ["context", "engine", "model", "plan", "pool"]
    assert freed.index("context") < freed.index("engine") < freed.index("plan")
    assert freed.index("context") < freed.index("pool")


def test_a_session_frees_all_in_order(freed):
    session = tendon.InferenceSession(FIXED)
    (y,) = session.run(None, {"x": normal(2, 6)})
    del session
    check_order(freed)
    close([y], expect(FIXED, x=normal(2, 6)))


def test_a_cycle_is_freed_in_order(freed):
    class Node:
        pass

    for _ in range(10):
        node = Node()
        node.session, node.self = tendon.InferenceSession(FIXED), node
        node.session.run(None, {"x": normal(2, 6)})
        node.context, node.engine = node.session._of_thread.last, node.session._engine
        node.engine.cycle = node.context.cycle = node.session._pool.cycle = node
        gone = weakref.ref(node)
        del node
        assert not freed and gone()
        gc.collect()
        assert not gone()
        check_order(freed)
        freed.clear()


def test_a_threads_contexts_end_with_it(freed):
    session = tendon.InferenceSession(FIXED)
    thread = threading.Thread(target=session.run, args=[None, {"x": normal(2, 6)}])
    thread.start()
    thread.join()
    gc.collect()
    assert freed == ["context"]


def test_failures_free_what_was_made(freed):
    for source in (tendon.build(FIXED)[:-100], DYNAMIC[:-50], b"", b"tendon plan "):
        freed.clear()
        with pytest.raises(tendon.Error):
            tendon.InferenceSession(source)
        gc.collect()
        assert freed == ["pool"]


def test_exit_with_a_run_in_progress_is_quiet():
    script = """
import threading, numpy as np, tendon
session = tendon.InferenceSession("m.onnx")
x = np.zeros((2, 6), np.float32)
begun = threading.Event()
def loop():
    while True:
        session.run(None, {"x": x})
        begun.set()
threading.Thread(target=loop, daemon=True).start()
begun.wait()
"""
    line = [sys.executable, "-X", "dev", "-c", script.replace('"m.onnx"', repr(FIXED))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    run = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_a_library_that_is_not_there_is_said_so(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python"), "TENDON_LIBRARY_PATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", "import tendon"], env=environment, capture_output=True, text=True)
    assert run.returncode == 1 and f"TENDON_LIBRARY_PATH is {tmp_path}" in run.stderr
