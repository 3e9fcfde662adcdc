# SPDX-License-Identifier: Apache-2.0
"""Choosing kernels while building: levels, budgets, timing caches and the bytes that weights may take."""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.small

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
DONE, USAGE, INPUT = 0, 2, 3
F32 = TensorProto.FLOAT
TITLE = "tendon timing cache 1"


def tendon(*args, code=DONE, **options):
    line = [TENDON, *map(str, args)]
    run = subprocess.run(line, capture_output=True, text=True, timeout=300, **options)
    assert run.returncode == code, f"{line}\n{run.stdout}{run.stderr}"
    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Convolutions of 3x3, two of them alike, behind one of 1x1; a product; the batch is free."""
    rng = np.random.default_rng(3)
    path = tmp_path_factory.mktemp("tune") / "m.onnx"
    channels = [(8, 24, 1), (24, 32, 3), (32, 32, 3), (32, 32, 3), (32, 48, 3)]
    weights, nodes, at = {}, [], "x"
    for i, (c, m, k) in enumerate(channels):
        weights[f"w{i}"] = (rng.standard_normal((m, c, k, k)) / np.sqrt(c * k * k)).astype(np.float32)
        pads = [k // 2] * 4
        nodes.append(helper.make_node("Conv", [at, f"w{i}"], [f"c{i}"], name=f"conv{i}", pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], name=f"relu{i}"))
        at = f"r{i}"
    nodes.append(helper.make_node("GlobalAveragePool", [at], ["p"], name="pool"))
    nodes.append(helper.make_node("Flatten", ["p"], ["f"], name="flatten"))
    weights["v"] = rng.standard_normal((48, 5)).astype(np.float32)
    nodes.append(helper.make_node("MatMul", ["f", "v"], ["y"], name="head"))
    x = helper.make_tensor_value_info("x", F32, ["n", 8, 20, 20])
    y = helper.make_tensor_value_info("y", F32, ["n", 5])
    init = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], initializer=init)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def build(model, plan, *options, **more):
    return tendon("build", model, "-o", plan, *options, **more)


def described(plan):
    return json.loads(tendon("inspect", plan, "--json").stdout)


def kernels(plan):
    return described(plan)["notes"]["kernels"]


def weights_size(plan):
    return described(plan)["sections"][0]["weights_size"]


def table(run):
    """The lines of --verbose that say what was chosen, by step: (by time?, {kernel/variant: figure}, chosen)."""
    rows = {}
    for line in run.stderr.splitlines():
        if found := re.match(r"(.*?): (by estimate: )?((?:\w+/\d+ [^;]+))?; chosen: (\w+/\d+)$", line):
            items = dict(item.split(" ", 1) for item in found[3].split(", "))
            rows[found[1]] = (not found[2], items, found[4])
    return rows


# ---- Levels and budgets ----------------------------------------------------------------------------------------------


def test_level_0_takes_no_times(model, tmp_path):
    cache = tmp_path / "t.cache"
    runs = [build(model, tmp_path / n, "--optimization-level=0", "--verbose", f"--timingCacheFile={cache}") for n in "ab"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert kernels(tmp_path / "a") == "by estimate" and not cache.exists()
    rows = table(runs[0])
    assert any("conv1" in name for name in rows)
    for by_time, items, chosen in rows.values():
        assert not by_time and chosen in items and len(items) > 1


def test_times_are_taken_and_shown(model, tmp_path):
    run = build(model, tmp_path / "p", "--optimization-level=5", "--verbose", "--threads=1")
    rows = table(run)
    found = re.fullmatch(r"(\d+) of (\d+) steps by time, 1 threads on .+", kernels(tmp_path / "p"))
    assert found and found[1] == found[2] and int(found[1]) == len(rows) >= 4
    for by_time, items, chosen in rows.values():
        times = {k: float(re.fullmatch(r"([0-9.]+) us", figure)[1]) for k, figure in items.items()}
        assert by_time and all(us > 0 for us in times.values()) and chosen in times
    run = build(model, tmp_path / "q", "--optimization-level=5", "--verbose", "--max-weights=1000", "--threads=1")
    for _, items, chosen in table(run).values():  # no bounds: what is fastest, but for a margin against noise
        times = {k: float(figure.split()[0]) for k, figure in items.items()}
        assert times[chosen] * 0.979 <= min(times.values())


def test_results_are_right_whatever_is_chosen(model, tmp_path):
    for options in (["--optimization-level=0"], ["--optimization-level=5", "--max-weights=1000"], ["--max-weights=1"]):
        build(model, tmp_path / "p", *options)
        tendon("validate", model, tmp_path / "p")


def test_the_budget_is_kept_to(model, tmp_path):
    begin = time.monotonic()
    build(model, tmp_path / "p", "--optimization-level=5", "--build-budget=0.001")
    assert time.monotonic() - begin < 20
    found = re.match(r"(\d+) of (\d+) steps by time", kernels(tmp_path / "p"))
    assert not found or int(found[1]) < int(found[2])


def test_a_target_that_cannot_run_here_is_built_by_estimate(model, tmp_path):
    other = "armv8-a" if os.uname().machine == "x86_64" else "x86-64-v3"
    run = build(model, tmp_path / "p", f"--target={other}", "--verbose")
    assert run.stderr.count(f"target {other}: this machine cannot run it, so kernels are chosen by estimate") == 1
    assert kernels(tmp_path / "p") == "by estimate"
    build(model, tmp_path / "q", f"--target={other}", "--optimization-level=0")
    sections = [described(tmp_path / n)["sections"] for n in "pq"]
    assert sections[0] == sections[1]


# ---- Weights ---------------------------------------------------------------------------------------------------------


def test_weights_are_bounded(model, tmp_path):
    sizes = {}
    for ratio in (1, 1.5, 2, 3, 1000):
        build(model, tmp_path / "p", "--optimization-level=0", f"--max-weights={ratio}")
        sizes[ratio] = weights_size(tmp_path / "p")
    plain = sizes[1]
    assert all(size <= plain * ratio * 1.01 + 4096 for ratio, size in sizes.items()), sizes
    assert sizes[1000] > plain
    build(model, tmp_path / "p", "--optimization-level=0")
    assert weights_size(tmp_path / "p") == sizes[2]


def test_programs_share_what_is_chosen(model, tmp_path):
    """Two shapes with the same weights: larger blobs are stored once."""
    shapes = ["--shapes=x:1x8x20x20", "--shapes=x:2x8x20x20"]
    build(model, tmp_path / "one", "--optimization-level=0", shapes[1])
    build(model, tmp_path / "two", "--optimization-level=0", *shapes)
    assert weights_size(tmp_path / "two") < 1.5 * weights_size(tmp_path / "one")
    tendon("validate", model, tmp_path / "two", "--shapes=x:2x8x20x20")


# ---- Timing caches ---------------------------------------------------------------------------------------------------


def test_builds_from_one_cache_give_the_same_bytes(model, tmp_path):
    cache = tmp_path / "t.cache"
    for name in "abc":
        build(model, tmp_path / name, "--shapes=x:1x8x20x20", "--shapes=x:3x8x20x20", f"--timingCacheFile={cache}")
        if name == "a":
            first = cache.read_text()
    lines = first.splitlines()
    assert lines[0] == TITLE and len(lines) > 8
    assert all(line.startswith(("time ", "left ")) for line in lines[1:])
    assert cache.read_text() == first
    plans = [(tmp_path / name).read_bytes() for name in "abc"]
    assert plans[0] == plans[1] == plans[2]


def test_times_in_the_cache_decide(model, tmp_path):
    """The slowest candidate is made the fastest in the file, and chosen."""
    cache = tmp_path / "t.cache"
    run = build(model, tmp_path / "a", f"--timingCacheFile={cache}", "--max-weights=1000", "--verbose")
    before = {name: chosen for name, (_, _, chosen) in table(run).items()}
    lines = cache.read_text().splitlines()
    for i, line in enumerate(lines[1:], 1):
        ns = int(line.split()[1])
        lines[i] = line.replace(f"time {ns} ", f"time {10**10 // ns} ", 1)
    cache.write_text("\n".join(lines) + "\n")
    run = build(model, tmp_path / "b", f"--timingCacheFile={cache}", "--max-weights=1000", "--verbose")
    after = {name: chosen for name, (_, _, chosen) in table(run).items()}
    assert before.keys() == after.keys() and any(before[name] != after[name] for name in before)
    tendon("validate", model, tmp_path / "b")


def test_a_larger_budget_times_what_was_left_out(model, tmp_path):
    cache, options = tmp_path / "t.cache", ["--optimization-level=5"]
    build(model, tmp_path / "a", *options, f"--timingCacheFile={cache}", "--build-budget=0.0001")
    assert "\nleft " in cache.read_text()
    build(model, tmp_path / "b", *options, f"--timingCacheFile={cache}", "--build-budget=0.0001")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    build(model, tmp_path / "c", *options, f"--timingCacheFile={cache}")
    assert "\nleft " not in cache.read_text()
    assert re.match(r"(\d+) of \1 steps by time", kernels(tmp_path / "c"))


def test_trtexec_and_build_share_a_cache(model, tmp_path):
    cache = tmp_path / "t.cache"
    run = tendon("trtexec", f"--onnx={model}", f"--saveEngine={tmp_path}/a", "--buildOnly", f"--timingCacheFile={cache}")
    assert f"timingCacheFile: {cache}\n" in run.stdout and "changes nothing" not in run.stdout
    before = cache.read_text()
    build(model, tmp_path / "b", f"--timingCacheFile={cache}")
    assert cache.read_text() == before
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_damaged_lines_are_left_out(model, tmp_path):
    cache = tmp_path / "t.cache"
    build(model, tmp_path / "a", f"--timingCacheFile={cache}")
    whole = cache.read_bytes()
    cache.write_bytes(whole + b"time soon\n\xff\xfe\x00 what is this\n")
    run = build(model, tmp_path / "b", f"--timingCacheFile={cache}")
    assert f"warning: {cache}: 2 lines that are no times are left out" in run.stderr
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    cache.write_bytes(whole[: len(whole) // 2])  # cut short: the rest is timed again
    build(model, tmp_path / "c", f"--timingCacheFile={cache}")
    assert len(cache.read_bytes().splitlines()) >= len(whole.splitlines())


def test_what_is_no_cache_is_refused_and_kept(model, tmp_path):
    other = tmp_path / "notes.txt"
    other.write_text("dear diary\n")
    run = build(model, tmp_path / "p", f"--timingCacheFile={other}", code=INPUT)
    assert "notes.txt is no timing cache of this version" in run.stderr and TITLE in run.stderr
    assert other.read_text() == "dear diary\n" and not (tmp_path / "p").exists()
    before = model.read_bytes()
    run = build(model, tmp_path / "p", f"--timingCacheFile={model}", code=USAGE)
    assert "the output would overwrite it" in run.stderr and model.read_bytes() == before
    run = build(model, tmp_path / "p", f"--timingCacheFile={tmp_path}/p", code=USAGE)
    assert "to be the plan and the timing cache" in run.stderr
    run = build(model, tmp_path / "p", f"--timingCacheFile={tmp_path}/no/t", code=INPUT)
    assert "there is no folder" in run.stderr


def test_options_out_of_range(model, tmp_path):
    for option in ("--max-weights=0.5", "--max-weights=-1", "--max-weights=nan", "--build-budget=-1"):
        run = build(model, tmp_path / "p", option, code=USAGE)
        assert option.split("=")[0] in run.stderr
