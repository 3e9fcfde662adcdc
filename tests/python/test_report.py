# SPDX-License-Identifier: Apache-2.0
"""The page of a benchmark: it needs nothing else, says what --json says, and holds any name."""

import json
import os
import re
import signal
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytestmark = pytest.mark.small

ROOT = Path(__file__).resolve().parents[2]
TENDON = os.environ.get("TENDON", str(ROOT / "build" / "tendon"))
DONE, USAGE, INPUT = 0, 2, 3
ODD_NAME = "a<b>&\"c\"'d'</title><script>alert(1)</script>\u202e\u00e9\u4e2d"


def tendon(*args, code=DONE):
    line = [TENDON, *map(str, args)]
    run = subprocess.run(line, capture_output=True, text=True, errors="replace", timeout=120)
    assert run.returncode == code, f"{line}\n{run.stdout}{run.stderr}"
    return run


def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def save(path, n_layers=3, name=lambda i: f"layer{i}", size=8):
    """A chain of MatMul and Softmax, which do not fuse into one step."""
    rng = np.random.default_rng(3)
    nodes, weights, x = [], [], "x"
    for i in range(n_layers):
        weights.append(numpy_helper.from_array(rng.standard_normal((size, size)).astype(np.float32), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [x, f"w{i}"], [f"m{i}"], name=name(i)))
        nodes.append(helper.make_node("Softmax", [f"m{i}"], [f"s{i}"], name=f"softmax{i}"))
        x = f"s{i}"
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(nodes, "g", [value("x", [4, size])], [value("y", [4, size])], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


class Page(HTMLParser):
    """Text, tags with their attributes, and whether every tag that must be closed is."""

    VOID = {"meta", "path", "rect", "br"}

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.text, self.styles = [], [], "", ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID or tag in ("path", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.styles += data
        else:
            self.text += data

    def of_class(self, tag, name):
        return [a for t, a in self.tags if t == tag and name in (a.get("class") or "").split()]


def report(tmp_path, *args, name="r.html"):
    out = tmp_path / name
    run = tendon("bench", *args, "--report", out)
    assert f"Report: {out}\n" in run.stdout
    return run, out.read_text(encoding="utf-8"), Page(out.read_text(encoding="utf-8"))


def assert_stands_alone(text, page):
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [a for _, a in page.tags if {"src", "href", "onload", "onclick"} & set(a)]
    assert not re.search(r"url\(|@import|https?:|//[a-z]", page.styles)
    policy = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "prefers-color-scheme:dark" in page.styles and "max-width:40rem" in page.styles
    assert any(a.get("name") == "viewport" for t, a in page.tags if t == "meta")
    for attrs in (a for _, a in page.tags):
        for key in ("x", "y", "width", "height"):
            assert re.fullmatch(r"-?[0-9.]+", attrs.get(key, "0")), attrs
        assert "nan" not in str(attrs.get("d", "")) and "inf" not in str(attrs.get("d", ""))


def test_the_page_says_what_the_json_says(tmp_path):
    plan = tmp_path / "m.plan"
    tendon("build", save(tmp_path / "m.onnx"), "-o", plan)
    run, text, page = report(tmp_path, plan, "--iterations=300", "--threads=1", "--json", tmp_path / "r.json")
    assert_stands_alone(text, page)
    results = json.loads((tmp_path / "r.json").read_text())
    quote = re.search(r"^Quote: latency p99 = (\S+) ms .*$", run.stdout, re.M)
    assert float(quote.group(1)) == pytest.approx(results["latency_ms"]["p99"], rel=1e-3)
    assert quote.group(0) in page.text
    assert "=== Profile by step" not in run.stdout  # only --profile prints it
    described = json.loads(tendon("inspect", "--json", plan).stdout)
    program = described["sections"][0]["programs"][0]
    for step in program["steps"]:
        assert step["name"] in page.text and step["kernel"] in page.text
    assert len(page.of_class("div", "track")) == len(program["steps"])
    shares = page.of_class("td", "ceiling")
    assert len(shares) == len(program["steps"])
    dark = [float(a["style"][len("width:") : -1]) for t, a in page.tags if t == "b" and "style" in a]
    assert len(dark) == len(shares) and all(0 <= width <= 100 for width in dark)
    assert re.search(r"Ceiling: the share of what 1 thread of this machine can do.* [\d.]+ GFLOP/s", page.text)
    arena = [b for b in program["buffers"] if b["class"] == "arena" and "first_step" in b]
    blocks = page.of_class("rect", "block")
    assert len(blocks) == len(arena) > 0
    n, size = len(program["steps"]), program["arena_size"]
    want = {
        (
            round(1000 * b["first_step"] / n, 1),
            round(1000 * (1 - (b["offset"] + b["size"]) / size), 1),
            round(1000 * (b["last_step"] + 1 - b["first_step"]) / n, 1),
            round(1000 * b["size"] / size, 1),
        )
        for b in arena
    }
    got = {tuple(round(float(b[k]), 1) for k in ("x", "y", "width", "height")) for b in blocks}
    assert all(any(np.allclose(a, b, atol=0.11) for b in got) for a in want)
    assert described["notes"]["model_sha256"] in page.text and "m.onnx" in page.text
    assert f"tendon bench {plan} --iterations=300" in page.text
    dots = [a["d"] for a in page.of_class("path", "dots")]
    assert len(dots) == 1 and dots[0].count("M") == 300
    calls = [int(c.replace(",", "")) for c in re.findall(r"<title>([\d,]+) calls from", text)]
    beyond = re.search(r"([\d,]+) calls? lies? beyond", page.text)
    assert sum(calls) + (int(beyond.group(1).replace(",", "")) if beyond else 0) == 300


def test_names_are_text(tmp_path):
    folder = tmp_path / os.fsdecode(b"<i>&\xff\xf9\x90\x80\x80\xed\xa0\x80")  # the tail is no UTF-8
    folder.mkdir()
    model = save(folder / "a'\"<b>.onnx", name=lambda i: ODD_NAME)
    _, text, page = report(tmp_path, model, "--iterations=20")
    assert_stands_alone(text, page)
    assert "<script" not in text and "\u202e" not in text
    assert ODD_NAME.replace("\u202e", "\ufffd") in page.text
    assert "a'\"<b>.onnx" in page.text
    assert "<i>&" + 8 * "\ufffd" + "/a'" in page.text


def test_a_model_compiled_here_has_steps_and_memory_too(tmp_path):
    _, text, page = report(tmp_path, save(tmp_path / "m.onnx"), "--iterations=5", "--warmup=0")
    assert_stands_alone(text, page)
    assert page.of_class("div", "track") and page.of_class("rect", "block")
    assert "Quote: median" in page.text and "So few calls have no p99" in page.text


def test_paced_calls_and_their_deadlines(tmp_path):
    run, text, page = report(tmp_path, save(tmp_path / "m.onnx"), "--rate=500", "--iterations=150")
    assert_stands_alone(text, page)
    missed = re.search(r"Deadlines: (\d+) of (\d+) missed", run.stdout)
    assert re.search(rf"Quote: response p99 = \S+ ms at 500 Hz .* {missed[1]} of {missed[2]} deadlines", page.text)
    assert page.of_class("path", "deadline") or float(re.search(r"Response.*max = (\S+) ms", run.stdout)[1]) < 0.5
    assert re.search(rf"{int(missed[1]):,}of {missed[2]} deadlines missed at 500", page.text)


def test_many_calls_and_many_steps_make_no_giant(tmp_path):
    """A million calls and hundreds of steps: the page stays one that a phone opens."""
    model = save(tmp_path / "many.onnx", n_layers=350, size=4)
    _, text, page = report(tmp_path, model, "--duration=2", "--warmup=1")
    assert_stands_alone(text, page)
    assert len(text) < 1_000_000
    assert len(page.of_class("div", "track")) <= 700 and "more steps" in page.text
    small = save(tmp_path / "small.onnx", n_layers=1)
    _, text, page = report(tmp_path, small, "--duration=2", "--warmup=1", name="s.html")
    assert len(text) < 150_000
    columns = page.of_class("path", "calls") + page.of_class("path", "dots")
    assert columns[0]["d"].count("M") <= 1000


def test_an_interrupted_run_has_a_page(tmp_path):
    out = tmp_path / "r.html"
    line = [TENDON, "bench", str(save(tmp_path / "m.onnx")), "--duration=60", "--warmup=0", f"--report={out}"]
    run = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    time.sleep(2.5)
    run.send_signal(signal.SIGINT)
    printed = run.communicate(timeout=60)[0]
    assert run.returncode == DONE and "(interrupted)" in printed
    page = Page(out.read_text(encoding="utf-8"))
    assert "the steps were not timed" in page.text and page.of_class("div", "track")


def test_the_path_is_checked_before_measuring(tmp_path):
    model = save(tmp_path / "m.onnx")
    start = time.monotonic()
    for path, words, code in [
        (tmp_path / "no" / "r.html", "there is no folder", INPUT),
        (tmp_path, "it is a folder", INPUT),
        (model, "would overwrite it", USAGE),
    ]:
        for option in ("--report", "--json"):
            run = tendon("bench", model, "--duration=60", option, path, code=code)
            assert words in run.stderr and str(path) in run.stderr and run.stdout == ""
    run = tendon("bench", model, "--report=r", "--json=r", code=USAGE)
    assert "both go to 'r'" in run.stderr
    assert time.monotonic() - start < 30
    onnx.load(model)


def test_a_report_is_written_whole_or_not_at_all(tmp_path):
    out = tmp_path / "r.html"
    out.write_text("old")
    model = save(tmp_path / "m.onnx")
    limit = ["bash", "-c", f"ulimit -f 4; trap '' XFSZ; exec {TENDON} bench {model} --iterations=5 --report={out}"]
    run = subprocess.run(limit, capture_output=True, text=True, timeout=60)
    assert run.returncode == INPUT and str(out) in run.stderr
    assert out.read_text() == "old"
    assert set(os.listdir(tmp_path)) == {"r.html", "m.onnx"}
    report(tmp_path, model, "--iterations=5")
    assert out.read_text().startswith("<!doctype html>")
