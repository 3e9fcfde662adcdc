# SPDX-License-Identifier: Apache-2.0
"""What bench/peers.py makes of its measurements: percentiles, calls less their overhead, ratios, means, Markdown.

A cell is what one engine did on one model with so many threads; times are in seconds. `complete` adds to a session's
cells all that follows from what was measured; it may run again on what it completed.
"""
import math

PERCENTILES = {"p50": 50, "p95": 95, "p99": 99, "p99_9": 99.9}
RESTRICTED = ("openvino",)  # peers that --level restricts
INT8 = "-int8"  # ends the names of peers in 8 bits
FLOOR = 1e-7  # of a call less its overhead: no call takes no time


def percentile(ordered, p):
    """The smallest value that at least p percent are not above: always one that was measured."""
    return ordered[max(0, math.ceil(len(ordered) * p / 100 - 1e-9) - 1)]


def summary(rounds):
    """Of the nanoseconds of calls by round: percentiles over all, and each round's median, in seconds."""
    ordered = sorted(ns for one in rounds for ns in one)
    values = {name: percentile(ordered, p) * 1e-9 for name, p in PERCENTILES.items()}
    medians = [percentile(sorted(one), 50) * 1e-9 for one in rounds]
    return values | {"min": ordered[0] * 1e-9, "calls": len(ordered), "rounds": medians}


def less_overhead(seconds, overhead):
    return max(FLOOR, seconds - overhead)


def geometric_mean(values):
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def complete(result):
    """Adds to each cell what a call takes without its overhead, and its shares of the machine's peaks."""
    machine, fp32 = result.get("machine") or {}, "fp32_gflops"
    if f"{fp32}_{result.get('level')}" in machine:
        fp32 += f"_{result['level']}"
    for cell in result["cells"]:
        if "p50" not in cell:
            continue
        threads, model = str(cell["threads"]), result["models"][cell["model"]]
        engine = cell["engine"].removesuffix(INT8)
        overhead = result["overhead"].get(engine, {}).get(threads, cell.get("overhead", 0))
        cell["overhead"] = overhead
        cell["net"] = {name: less_overhead(cell[name], overhead) for name in PERCENTILES}
        for share, amount, peak in (("peak_share", "flops", fp32), ("memory_share", "bytes", "memory_gbs")):
            ceiling = machine.get(peak, {}).get(threads)
            if ceiling:
                cell[share] = model[amount] / cell["net"]["p50"] / (ceiling * 1e9)
    result["ratios"] = ratios(result)
    result["means"] = means(result)
    return result


def cells_of(result):
    """{(model, threads): {engine: cell}} in the order measured."""
    table = {}
    for cell in result["cells"]:
        table.setdefault((cell["model"], cell["threads"]), {})[cell["engine"]] = cell
    return table


def ratios(result):
    """The best peer's time by ours, of p50 and of p99, for each model and number of threads that both have."""
    found = []
    for (model, threads), cells in cells_of(result).items():
        ours = cells.get("tendon", {}).get("net")
        peers = {engine: c["net"] for engine, c in cells.items() if engine != "tendon" and "net" in c}
        if not ours or not peers:
            continue
        best = min(peers, key=lambda engine: peers[engine]["p50"])
        p99 = min(peer["p99"] for peer in peers.values()) / ours["p99"]
        found.append({"model": model, "threads": threads, "best": best, "ratio": peers[best]["p50"] / ours["p50"],
                      "p99": p99})  # fmt: skip
        restricted = [net["p50"] for engine, net in peers.items() if engine in RESTRICTED]
        if result.get("level") and restricted:
            found[-1]["restricted"] = min(restricted) / ours["p50"]
    return found


def means(result):
    """Geometric means of the ratios by number of threads."""
    groups = {"zoo": ("zoo", "spiking"), "without_spikes": ("zoo",), "all": ("zoo", "spiking", "other")}
    out = {}
    for threads in dict.fromkeys(r["threads"] for r in result["ratios"]):
        for group, kinds in groups.items():
            values = [
                r["ratio"] for r in result["ratios"]
                if r["threads"] == threads and result["models"][r["model"]]["kind"] in kinds
            ]  # fmt: skip
            if values:
                out.setdefault(group, {})[str(threads)] = {"mean": geometric_mean(values), "n": len(values)}
    return out


def worst(results):
    """One result of several sessions: each model and number of threads as in the session with the worst ratio."""
    chosen = {}
    for result in map(complete, results):
        found = {(r["model"], r["threads"]): r["ratio"] for r in result["ratios"]}
        for key, cells in cells_of(result).items():
            ratio = found.get(key, math.inf)
            if key not in chosen or ratio < chosen[key][0]:
                chosen[key] = ratio, list(cells.values())
    cells = [cell for _, group in chosen.values() for cell in group]
    models = {name: model for result in results for name, model in result["models"].items()}
    overhead = {} if len(results) > 1 else results[0]["overhead"]
    merged = dict(results[0], cells=cells, models=models, sessions=len(results), overhead=overhead)
    return complete(merged)


# ---- Words


def number(value, digits=3):
    """So many significant digits, never as a power of ten."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return str(value)
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def milliseconds(value):
    return number(None if value is None else value * 1e3)


def percent(value):
    return "-" if value is None else f"{100 * value:.0f} %"


def share_text(value):
    return "-" if value is None else f"{value:.1e}"


def megabytes(value):
    return "-" if value is None else f"{value / 1e6:.0f}"


def row(cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def table(head, rows):
    return [row(head), row(["---", *["---:"] * (len(head) - 1)]), *map(row, rows), ""]


def latency_table(result, threads):
    engines, level = result["engines"], result.get("level")
    found = {r["model"]: r for r in result["ratios"] if r["threads"] == threads}
    rows = []
    for (model, n), cells in cells_of(result).items():
        if n != threads:
            continue
        ratio = found.get(model)
        times = [milliseconds(cells.get(e, {}).get("net", {}).get("p50")) for e in engines]
        times = [t if t != "-" else "fails" if "failed" in cells.get(e, {}) else "-" for e, t in zip(engines, times)]
        shown = [ratio.get(what) if ratio else None for what in ("ratio", "p99", "restricted")]
        rows.append([model, *times, *["-" if r is None else f"{r:.2f}" for r in shown[: 3 if level else 2]]])
    head = [f"p50, ms, threads: {threads}", *engines, "best peer / Tendon", "p99, the same"]
    return table(head + ["restricted peer / Tendon"] * bool(level), rows)


GROUPS = {
    "zoo": "the zoo's networks", "without_spikes": "those without spikes (neither snn nor spiking_tcn)",
    "all": "all measured",
}  # fmt: skip


def mean_table(result):
    threads = list(dict.fromkeys(r["threads"] for r in result["ratios"]))
    rows = []
    for group, values in result["means"].items():
        texts = [f"{v['mean']:.2f} (of {v['n']})" if (v := values.get(str(n))) else "-" for n in threads]
        rows.append([GROUPS[group], *texts])
    return table(["geometric mean of best peer / Tendon", *[f"threads: {n}" for n in threads]], rows)


def worst_lines(result):
    lines = []
    for what, name in (("ratio", "p50"), ("p99", "p99")):
        r = min(result["ratios"], key=lambda r: r[what], default=None)
        if r:
            lines.append(f"Worst of {name}: {r[what]:.2f}, {r['model']}, threads: {r['threads']}.")
    return [*lines, ""]


def detail_table(result):
    head = ["model", "threads", "engine", "p50", "p95", "p99", "p99.9", "calls", "error", "of tolerance", "RMS",
            "build s", "load s", "MB", "fp32 peak", "memory"]  # fmt: skip
    rows = []
    for cell in result["cells"]:
        start = [cell["model"], cell["threads"], cell["engine"]]
        if "net" not in cell:
            rows.append([*start, cell.get("failed", "-"), *[""] * (len(head) - 4)])
            continue
        error = cell.get("error")
        rows.append([
            *start, *[milliseconds(cell["net"][p]) for p in PERCENTILES], cell["calls"],
            "-" if error is None else f"{error:.1e}", percent(cell.get("tolerance")), share_text(cell.get("rms")),
            number(cell.get("build_s"), 2),
            number(cell.get("load_s"), 2), megabytes(cell.get("resident")), percent(cell.get("peak_share")),
            percent(cell.get("memory_share")),
        ])  # fmt: skip
    return table(head, rows)


def paced_table(result):
    if not result.get("paced"):
        return []
    rows = [
        [c["model"], c["threads"], c["engine"], milliseconds(c["paced"]["p50"]), f"{c['paced']['relative']:.2f}",
         percent(c["paced"]["cpu"])]
        for c in result["cells"] if "paced" in c
    ]  # fmt: skip
    head = [f"calls at {result['paced']:g} Hz", "threads", "engine", "p50, ms", "by back to back", "of a core"]
    return table(head, rows) if rows else []


def machine_lines(result):
    machine = result.get("machine")
    if not machine:
        return []
    parts = []
    for name, what, form, unit in (
        ("fp32_gflops", "fp32 peak", ".0f", " GFLOP/s"), ("l2_gbs", "reads from L2", ".0f", " GB/s"),
        ("memory_gbs", "reads from memory", ".0f", " GB/s"),
        ("fp32_p99", "p99 / p50 of 4 ms of multiply-adds alone", ".2f", ""),
    ):  # fmt: skip
        if name in machine:
            values = ", ".join(f"{v:{form}} (threads: {n})" for n, v in machine[name].items())
            parts.append(f"{what} {values}{unit}")
    return ["Machine: " + "; ".join(parts) + ".", ""]


def notes(result):
    """What a reader must know to trust the figures."""
    lines = []
    overhead = [
        f"{engine} " + ", ".join(f"{s * 1e6:.1f} us (threads: {n})" for n, s in by.items())
        for engine, by in result["overhead"].items()
    ]
    if overhead:
        lines.append(f"Overhead of a call (a model of one operator), taken off all times: {'; '.join(overhead)}.")
    lines.append(
        "The error is the largest difference from `tendon`'s plain reference evaluation; the tolerance is 1e-4 + 1e-4 "
        "|value|; RMS is that of the differences by that of the values. Shares are of the operations of the model as written, and of its weights, inputs and outputs moved "
        "once: an engine that does less work can exceed 100 %. MB are resident after the load of what was built, the "
        "interpreter taken off."
    )
    if any(c.get("calls", 1000) < 1000 for c in result["cells"]):
        lines.append("With fewer than 1,000 calls p99.9 is the longest call; with fewer than 100, so is p99.")
    if result.get("level") == "avx2":
        lines.append(
            "Level AVX2: Tendon by --target=x86-64-v3, openvino by ONEDNN_MAX_CPU_ISA and OV_CPU_MAX_ISA, but for the "
            "matrix products that it leaves to MLAS. onnxruntime has no such switch: it ran all that this CPU has."
        )
    if result.get("tendon_options"):
        lines.append(f"Tendon was built with {result['tendon_options']}.")
    if "quiet" in result:
        q = result["quiet"]
        lines.append(
            f"While one engine was measured, the stopped ones took {100 * q['stopped_cpu']:.1f} % of the machine and "
            f"all else {100 * q['others_cpu']:.1f} %" + ("." if q["others_cpu"] < 0.03 else ": NOT a quiet machine.")
        )
    for cell in result["cells"]:
        if "failed" in cell:
            lines.append(f"{cell['engine']} fails on {cell['model']}, threads: {cell['threads']}: {cell['failed']}")
        if "fallback" in cell:
            lines.append(f"{cell['engine']} on {cell['model']}, threads: {cell['threads']}: {cell['fallback']}")
    return [f"- {line}" for line in lines]


def heading(result):
    versions = dict((c["engine"], c["version"]) for c in result["cells"] if "version" in c)
    of = f"the worst of {result['sessions']} sessions" if result.get("sessions", 1) > 1 else "one session"
    engines = ", ".join(f"{engine} {version}" for engine, version in versions.items())
    return f"{result['cpu']}, {result['cores']} cores, {result['date']}, {of}, {result['precision']}; {engines}."


def markdown(result):
    result = complete(result)
    lines = [heading(result), "", *machine_lines(result)]
    for threads in dict.fromkeys(c["threads"] for c in result["cells"]):
        lines += latency_table(result, threads)
    if result["ratios"]:
        lines += mean_table(result) + worst_lines(result)
    lines += paced_table(result)
    return "\n".join([*lines, *detail_table(result), *notes(result)])
