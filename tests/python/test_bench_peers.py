# SPDX-License-Identifier: Apache-2.0
"""bench/peers.py: its statistics, what it makes of a result that is given, and a short run beside onnxruntime alone."""

import argparse
import html.parser
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bench"))
import peers  # noqa: E402
import peers_engines  # noqa: E402
import peers_html  # noqa: E402
import peers_models  # noqa: E402
import peers_report as report  # noqa: E402


def test_percentile_is_a_value_that_was_measured():
    ordered = [10, 20, 30, 40]
    assert [report.percentile(ordered, p) for p in (0, 25, 26, 50, 75, 99.9, 100)] == [10, 10, 20, 20, 30, 40, 40]
    assert report.percentile(list(range(1, 1001)), 99.9) == 999
    assert report.percentile(list(range(1, 1001)), 95) == 950
    assert report.percentile([7], 50) == 7


def test_summary_pools_rounds_and_keeps_their_medians():
    s = report.summary([[3000, 1000, 2000], [5000, 4000, 6000]])
    assert s["calls"] == 6 and s["min"] == pytest.approx(1e-6)
    assert s["p50"] == pytest.approx(3e-6) and s["p99_9"] == pytest.approx(6e-6)
    assert s["rounds"] == pytest.approx([2e-6, 5e-6])


def test_geometric_mean():
    assert report.geometric_mean([1, 4]) == pytest.approx(2)
    assert report.geometric_mean([2, 2, 2]) == pytest.approx(2)
    assert report.geometric_mean([]) is None


def test_overhead_is_taken_off_but_no_call_takes_no_time():
    assert report.less_overhead(30e-6, 10e-6) == pytest.approx(20e-6)
    assert report.less_overhead(5e-6, 10e-6) > 0


def test_difference_counts_as_validate_does():
    a, b = np.array([1.0, 2.0002, np.nan], np.float32), np.array([1.0, 2.0, np.nan], np.float32)
    largest, share, rms = peers_engines.difference([a], [b])
    assert rms == pytest.approx(2e-4 / 5**0.5, rel=1e-2)
    assert largest == pytest.approx(2e-4, rel=1e-2) and share == pytest.approx(2e-4 / 3e-4, rel=1e-2)
    assert peers_engines.difference([np.array([np.nan])], [np.array([1.0])])[0] == math.inf
    assert peers_engines.difference([np.array([np.inf])], [np.array([1.0])])[0] == math.inf
    assert peers_engines.difference([np.array([np.inf])], [np.array([np.inf])])[0] == 0
    assert peers_engines.difference([np.zeros((1, 2))], [np.zeros(2)])[0] == math.inf


def cell(model, threads, engine, p50, **more):
    times = {"p50": p50, "p95": p50 * 1.1, "p99": p50 * 1.5, "p99_9": p50 * 2}
    base = {"model": model, "threads": threads, "engine": engine, "calls": 100, "rounds": [p50], "version": "1.0"}
    return base | times | {"error": 1e-6, "tolerance": 0.01, "build_s": 0.5, "load_s": 0.01, "resident": 9e6} | more


def canned():
    """Tendon needs 1 ms, less 0.1 of overhead; the peers 2.0 less 0.2 and, on one model, nothing."""
    failed = {"model": "snn", "threads": 1, "engine": "openvino", "failed": "no <such> operator & more"}
    return {
        "date": "2026-01-01 00:00", "cpu": "A CPU", "cores": 2, "level": None, "rounds": 1, "seconds": 1,
        "engines": ["tendon", "onnxruntime", "openvino"], "paced": 30.0, "tendon_options": {}, "precision": "fp32",
        "machine": {"fp32_gflops": {"1": 100.0}, "fp32_gflops_avx2": {"1": 50.0}, "l2_gbs": {"1": 90.0},
                    "memory_gbs": {"1": 20.0}, "fp32_p99": {"1": 3.5}},
        "overhead": {"tendon": {"1": 1e-4}, "onnxruntime": {"1": 2e-4}, "openvino": {"1": 2e-4}},
        "models": {"tcn": {"flops": 9e6, "bytes": 9e5, "kind": "zoo"},
                   "snn": {"flops": 1e6, "bytes": 1e5, "kind": "spiking"}},
        "cells": [
            cell("tcn", 1, "tendon", 1e-3, paced={"p50": 1.2e-3, "relative": 1.2, "cpu": 0.05}),
            cell("tcn", 1, "onnxruntime", 2e-3), cell("tcn", 1, "openvino", 4e-3),
            cell("snn", 1, "tendon", 1e-3), cell("snn", 1, "onnxruntime", 7.4e-3), failed,
        ],
        "quiet": {"stopped_cpu": 0.0, "others_cpu": 0.5},
    }  # fmt: skip


def test_ratios_shares_and_means():
    result = report.complete(canned())
    found = {r["model"]: r for r in result["ratios"]}
    assert found["tcn"]["best"] == "onnxruntime" and found["tcn"]["ratio"] == pytest.approx(1.8 / 0.9)
    assert found["tcn"]["p99"] == pytest.approx((3.0 - 0.2) / (1.5 - 0.1))
    assert found["snn"]["ratio"] == pytest.approx(7.2 / 0.9)
    assert result["cells"][0]["peak_share"] == pytest.approx(9e6 / 0.9e-3 / 100e9)
    assert result["cells"][0]["memory_share"] == pytest.approx(9e5 / 0.9e-3 / 20e9)
    assert result["means"]["zoo"]["1"]["mean"] == pytest.approx(4) and result["means"]["zoo"]["1"]["n"] == 2
    assert result["means"]["without_spikes"]["1"]["mean"] == pytest.approx(2)
    again = json.dumps(result)
    assert json.dumps(report.complete(result)) == again


def test_a_restricted_level_is_held_against_its_own_peak():
    result = report.complete(canned() | {"level": "avx2"})
    assert result["cells"][0]["peak_share"] == pytest.approx(9e6 / 0.9e-3 / 50e9)
    assert result["ratios"][0]["restricted"] == pytest.approx(3.8 / 0.9) and "restricted" not in result["ratios"][1]
    text = report.markdown(result)
    assert "onnxruntime has no such switch" in text
    assert "| tcn | 0.900 | 1.80 | 3.80 | 2.00 | 2.00 | 4.22 |" in text and "| 8.00 | 7.79 | - |" in text


def test_worst_of_sessions_is_taken_by_model():
    a, b = canned(), canned()
    b["cells"][1] = cell("tcn", 1, "onnxruntime", 1.55e-3)  # ratio 1.5, the worse one
    b["cells"][4] = cell("snn", 1, "onnxruntime", 9.2e-3)  # ratio 10, the better one
    found = {r["model"]: r["ratio"] for r in report.worst([a, b])["ratios"]}
    assert found == {"tcn": pytest.approx(1.5), "snn": pytest.approx(8)}


def test_markdown_tables_are_whole():
    text = report.markdown(canned())
    assert "| tcn | 0.900 | 1.80 | 3.80 | 2.00 | 2.00 |" in text
    assert "| snn | 0.900 | 7.20 | fails | 8.00 | 7.79 |" in text
    assert "| the zoo's networks | 4.00 (of 2) |" in text
    assert "p99 / p50 of 4 ms of multiply-adds alone 3.50 (threads: 1)" in text
    assert "Worst of p50: 2.00, tcn" in text and "NOT a quiet machine" in text
    assert "openvino fails on snn, threads: 1: no <such> operator & more" in text
    widths = None
    for line in text.splitlines():
        if not line.startswith("|"):
            widths = None
        elif widths is None:
            widths = line.count("|")
        else:
            assert line.count("|") == widths, line


class Checker(html.parser.HTMLParser):
    """Sees that tags nest, and collects what a page would load."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_loads_nothing():
    text = peers_html.page(canned())
    checker = Checker()
    checker.feed(text)
    assert not checker.open and not checker.loads
    assert "http" not in text and "url(" not in text and "@import" not in text
    assert checker.tags.count("svg") == 2 and checker.tags.count("rect") == 2 + 5
    assert "no &lt;such&gt; operator &amp; more" in text and "<such>" not in text
    assert "prefers-color-scheme:dark" in text


def test_options_of_builds():
    assert peers.tendon_option("optimization-level=5") == ("optimization_level", 5)
    assert peers.tendon_option("dump=all") == ("dump", "all")


def run(tmp_path, *arguments):
    folder = Path(os.environ.get("TENDON", ROOT / "build" / "tendon")).parent
    command = [sys.executable, ROOT / "bench" / "peers.py", "--build", folder, "--zoo", tmp_path / "zoo"]
    return subprocess.run([*command, *arguments], capture_output=True, text=True)


def test_runs_beside_onnxruntime(tmp_path):
    """On the smallest network, for a fraction of a second."""
    files = ["--json", tmp_path / "r.json", "--html", tmp_path / "r.html"]
    short = ["--peers", "onnxruntime", "--threads", "1", "--rounds", "2", "--seconds", "0.02", "--paced", "100"]
    done = run(tmp_path, "--models", "snn", *short, *files)
    assert done.returncode == 0, done.stderr
    assert "| snn | " in done.stdout and "calls at 100 Hz" in done.stdout
    result = json.loads((tmp_path / "r.json").read_text())
    assert set(result["overhead"]) == {"tendon", "onnxruntime"}
    for c in result["cells"]:
        assert "failed" not in c, c
        assert c["tolerance"] < 1 and c["calls"] >= 10 and len(c["rounds"]) == 2
        assert 0 < c["p50"] <= c["p95"] <= c["p99"] <= c["p99_9"] and c["net"]["p50"] < c["p50"]
        assert c["build_s"] > 0 and c["load_s"] > 0 and c["resident"] > 0 and c["paced"]["cpu"] < 1
    assert [c["engine"] for c in result["cells"]] == ["tendon", "onnxruntime"]
    assert len(result["ratios"]) == 1 and result["quiet"]["stopped_cpu"] < 0.02
    assert "<svg" in (tmp_path / "r.html").read_text()


def test_what_a_peer_cannot_run_is_said(tmp_path):
    """Here a peer that is not installed stands for it; a file named is measured with seeded inputs."""
    peers_model = tmp_path / "tiny.onnx"
    peers_models.write_one_operator(peers_model)
    try:
        import openvino  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("openvino is installed here")
    done = run(tmp_path, peers_model, "--peers", "openvino", "--threads", "1", "--quick", "--seconds", "0.01")
    assert done.returncode == 0, done.stderr
    assert "fails | - | - |" in done.stdout and "No module named 'openvino'" in done.stdout


def test_a_peer_that_dies_while_it_is_measured_fails_alone():
    class Stub:
        def __init__(self, dies):
            self.dies = dies

        def do(self, what, seconds, calls):
            if self.dies:
                raise peers.Failed("the process ended (-9)")
            return {"ns": [1000] * calls}

        def cpu_ticks(self):
            return 0

    args = peers.parse(["--rounds", "3", "--calls", "7"])
    times, failed = peers.take_rounds({"tendon": Stub(False), "openvino": Stub(True)}, args, peers.Quiet())
    assert times["tendon"] == [[1000] * 3] * 3 and failed == {"openvino": "the process ended (-9)"}


def test_an_engine_that_fails_is_tried_with_its_fallback(monkeypatch):
    def open_worker(engine, model, threads, args, took, fallback):
        if not fallback:
            took["not_kept"] = "of the first try"
            raise peers.Failed("Segmentation fault")
        took["build_s"] = 1.0
        return "worker"

    monkeypatch.setattr(peers, "open_worker", open_worker)
    args = peers.parse(["--peers", "openvino,onnxruntime"])
    cells, workers = peers.open_cells(argparse.Namespace(name="deep"), 1, args)
    assert workers == {"openvino": "worker"}
    by = {c["engine"]: c for c in cells}
    assert by["openvino"]["fallback"] == "Segmentation fault; ran with SNIPPETS_MODE=DISABLE"
    assert by["openvino"]["build_s"] == 1 and not {"failed", "not_kept"} & set(by["openvino"])
    assert by["onnxruntime"]["failed"] == "Segmentation fault" == by["tendon"]["failed"]


def test_a_worker_that_dies_says_why(monkeypatch, tmp_path):
    script = tmp_path / "peers_engines.py"
    script.write_text("import os, sys\nsys.stdin.readline()\nif os.fork():\n    os.kill(os.getpid(), 11)\n"
                      "import time\ntime.sleep(60)\n")  # fmt: skip
    monkeypatch.setattr(peers, "__file__", str(tmp_path / "peers.py"))
    model = argparse.Namespace(path="m", inputs="i", names=[], symbols={}, reference=None, folder=tmp_path, name="m",
                               samples=None, quantized=None)  # fmt: skip
    with pytest.raises(peers.Failed, match="Segmentation fault"):
        peers.Worker("openvino", model, 1, peers.parse([]))


def test_calls_that_do_not_compute_are_found(tmp_path):
    class Engine:
        version, ready = "1", 0.0

        def load(self, built):
            self.y, self.works = np.ones(3, np.float32), True

        def clear(self):
            self.y.fill(0)

        def call(self):
            if self.works:
                self.y.fill(1)

        def results(self):
            return [self.y]

    session = peers_engines.Session.__new__(peers_engines.Session)
    session.engine, session.task, session.base = Engine(), {"reference": None}, 0
    session.load(built=False)
    assert session.measure(0.001, 2)["ns"]
    session.engine.works = False
    with pytest.raises(RuntimeError, match="do not give the results"):
        session.measure(0.001, 2)
