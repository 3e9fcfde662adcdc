# SPDX-License-Identifier: Apache-2.0
"""The page of bench/peers.py: plots and tables in one file that loads nothing, for light and dark screens."""
from html import escape

import peers_report as report

STYLE = """
:root{--bg:#f6f7f8;--card:#fff;--ink:#1c1e21;--dim:#62676e;--rule:#dfe2e6;--c0:#1769c4;--c1:#d07a1e;--c2:#4d8f5d;
--c3:#8e5bb5;--bad:#c0392b}
@media(prefers-color-scheme:dark){:root{--bg:#141517;--card:#1c1e21;--ink:#e8e9eb;--dim:#9aa0a8;--rule:#33373d;
--c0:#5aa5f5;--c1:#e9a14f;--c2:#79bd89;--c3:#bb93dd;--bad:#f0766a}}
body{background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif;margin:0 auto;max-width:1080px;
padding:24px}
h1{font-size:22px;margin:0}h2{font-size:16px;margin:0 0 8px}
section{background:var(--card);border:1px solid var(--rule);border-radius:8px;margin:16px 0;overflow-x:auto;
padding:16px}
.dim{color:var(--dim)}table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums}
td,th{border-bottom:1px solid var(--rule);padding:3px 10px;text-align:right;white-space:nowrap}
th{font-weight:600}td:first-child,th:first-child{text-align:left}
svg{display:block}svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .dim{fill:var(--dim)}
svg .end{text-anchor:end}
.rule{stroke:var(--rule)}.one{stroke:var(--dim);stroke-dasharray:3 3}.tail{stroke:var(--dim);stroke-width:1.5}
.f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}.bad{fill:var(--bad)}
.key{border-radius:2px;display:inline-block;height:10px;margin:0 6px 0 16px;width:10px}
.k0{background:var(--c0)}.k1{background:var(--c1)}.k2{background:var(--c2)}.k3{background:var(--c3)}
"""
LEFT, WIDTH, BAR, ROOM = 110, 700, 13, 190


def text(x, y, words, kind=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(str(words))}</text>'


def bar(x, y, width, height, kind, title=""):
    return (f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(1, width):.1f}" height="{height}" rx="2" class="{kind}">'
            f"<title>{escape(title)}</title></rect>")  # fmt: skip


def line(x1, y1, x2, y2, kind):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def svg(height, parts, label):
    width = LEFT + WIDTH + ROOM
    return (f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}">{"".join(parts)}</svg>')  # fmt: skip


def ratio_plot(result, threads):
    """A bar for each model: how many times as long the best peer takes; 1 is a dashed line."""
    found = [r for r in result["ratios"] if r["threads"] == threads]
    scale, y, parts = WIDTH / max([1.0, *(r["ratio"] for r in found)]), 4, []
    for r in found:
        kind = "f0" if r["ratio"] >= 1 else "bad"
        parts.append(text(LEFT - 8, y + 12, r["model"], "end"))
        parts.append(bar(LEFT, y, r["ratio"] * scale, 16, kind, f"{r['best']}: {r['ratio']:.3f}"))
        parts.append(text(LEFT + r["ratio"] * scale + 8, y + 12, f"{r['ratio']:.2f}  {r['best']}"))
        y += 24
    parts.append(line(LEFT + scale, 0, LEFT + scale, y, "one"))
    return svg(y + 4, parts, f"best peer by Tendon, {threads} threads")


def latency_plot(result, threads):
    """Each model on a scale of its own: bars to p50, whiskers to p99 (cut where it leaves the plot)."""
    y, parts = 4, []
    for (model, n), cells in report.cells_of(result).items():
        if n != threads:
            continue
        parts.append(text(LEFT - 8, y + 11, model, "end"))
        slowest = max((c["net"]["p50"] for c in cells.values() if "net" in c), default=1)
        scale = WIDTH / (1.25 * slowest)
        for i, engine in enumerate(result["engines"]):
            cell = cells.get(engine, {})
            if "net" not in cell:
                parts.append(text(LEFT + 4, y + 11, f"{engine} fails" if "failed" in cell else "", "dim"))
            else:
                p50, p99 = cell["net"]["p50"] * scale, min(cell["net"]["p99"] * scale, WIDTH)
                words = f"{report.milliseconds(cell['net']['p50'])} ms, p99 {report.milliseconds(cell['net']['p99'])}"
                parts.append(bar(LEFT, y, p50, BAR, f"f{i % 4}", f"{engine}: {words}"))
                parts.append(line(LEFT + p50, y + BAR / 2, LEFT + p99, y + BAR / 2, "tail"))
                parts.append(text(LEFT + max(p50, p99) + 8, y + 11, words, "dim"))
            y += BAR + 2
        y += 10
        parts.append(line(LEFT, y - 6, LEFT + WIDTH, y - 6, "rule"))
    return svg(y + 4, parts, f"latency, {threads} threads")


def html_tables(lines):
    """HTML of the tables and lines of Markdown that peers_report writes."""
    out, rows = [], []
    for words in [*lines, ""]:
        if words.startswith("|"):
            rows.append([c.strip() for c in words.strip("|").split("|")])
            continue
        if rows:
            body = ["<tr>" + "".join(f"<td>{escape(c)}</td>" for c in r) + "</tr>" for r in rows[2:]]
            head = "<tr>" + "".join(f"<th>{escape(c)}</th>" for c in rows[0]) + "</tr>"
            out.append(f"<table>{head}{''.join(body)}</table>")
            rows = []
        if words:
            out.append(f"<p class=dim>{escape(words.removeprefix('- '))}</p>")
    return "".join(out)


def section(title, *parts):
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def page(result):
    result = report.complete(result)
    keys = "".join(
        f'<span class="key k{i % 4}"></span>{escape(engine)}' for i, engine in enumerate(result["engines"])
    )
    parts = [f"<h1>Tendon beside its peers</h1><p class=dim>{escape(report.heading(result))}</p>"]
    if result["ratios"]:
        parts.append(section("Means", html_tables(report.mean_table(result) + report.worst_lines(result))))
    for threads in dict.fromkeys(c["threads"] for c in result["cells"]):
        parts.append(section(f"Best peer's median by Tendon's, threads: {threads}", ratio_plot(result, threads)))
        parts.append(section(f"Latency, threads: {threads}", f"<p>{keys}</p>", latency_plot(result, threads)))
    if paced := report.paced_table(result):
        parts.append(section("Paced calls", html_tables(paced)))
    parts.append(section("All figures, times in ms", html_tables(report.detail_table(result))))
    parts.append(section("Notes", html_tables([*report.machine_lines(result), *report.notes(result)])))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width"><meta name="color-scheme" content="light dark">'
        f"<title>Tendon beside its peers</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
