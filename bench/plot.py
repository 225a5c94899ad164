"""Plots as SVG, written by hand: no library, and legible on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from html import escape

from bench.plan import WORKLOADS, Workload
from bench.results_file import Results, figure_text, size_text

COLOURS = {
    "plain": "#6f8fd8",
    "compiled": "#2f6fe0",
    "lmdb": "#8a8a8a",
    "sqlite3": "#b39b4a",
    "doltlite": "#d9822b",
    "kvgit": "#c2559b",
    "prollytree": "#3f9c6b",
    "git": "#d04a3a",
}
STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #222 }
.head { font-size: 14px; font-weight: 600 } .small { font-size: 10.5px } .right { text-anchor: end }
.middle { text-anchor: middle } .loss { fill: #d04a3a; fill-opacity: 0.12 }
.grid { stroke: #000; stroke-opacity: 0.13 } .axis { stroke: #000; stroke-opacity: 0.55 }
@media (prefers-color-scheme: dark) {
text { fill: #ddd } .grid, .axis { stroke: #fff } .loss { fill: #ff6a5a; fill-opacity: 0.16 } }
</style>"""
NOT_COMPARED = ("import", "open_memory", "load_sorted", "disk_sorted")
GROWING = [
    *("load", "get_warm", "get_cold", "get_many", "commit_1", "commit_1000", "diff_1_keys", "diff_100_keys"),
    *("diff_10000_keys", "merge", "branch", "open_get", "iterate", "list_100", "log_1000", "growth_1"),
]


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _svg(width: float, height: float, title: str, parts: Iterable[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", STYLE, *parts, "</svg>"]) + "\n"


def _legend(results: Results, rivals: list[str], x: float, y: float) -> Iterator[str]:
    for rival in rivals:
        yield f'<circle cx="{x:.1f}" cy="{y - 4:.1f}" r="5" fill="{COLOURS[rival]}"/>'
        title = results.title(rival)
        yield _text(x + 9, y, title)
        x += 26 + 6.6 * len(title)


# every rival beside us


def compare_svg(results: Results) -> str:
    """At the main size: how many times better (left) or worse (right) than ours each rival is."""
    keys = results.main_size
    rivals = [r for r in results.rivals if r != results.ours and results.median(r, keys, "load") is not None]
    rows: list[tuple[Workload, dict[str, float]]] = []
    for name, workload in WORKLOADS.items():
        ratios = {r: ratio for r in rivals if (ratio := results.ratio(r, keys, name)) is not None}
        if ratios and name not in NOT_COMPARED:
            rows.append((workload, ratios))
    left, right, top, step = 275.0, 885.0, 74.0, 22.0
    bottom = top + step * len(rows)
    ends = [value for _, ratios in rows for value in ratios.values()] or [1.0]
    low, high = math.floor(math.log10(min([*ends, 0.5]))), math.ceil(math.log10(max([*ends, 2.0])))

    def place(ratio: float) -> float:
        """Where a ratio lies: rivals that are better than we are to the right."""
        return right - (math.log10(ratio) - low) / (high - low) * (right - left)

    head = f"{size_text(keys)} keys: rivals beside {results.title(results.ours or 'plain')} (= 1)"
    parts = [
        _text(10, 20, head, "head"),
        *_legend(results, rivals, 16, 44),
        f'<rect x="{place(1):.1f}" y="{top - 8:.1f}" width="{right - place(1):.1f}" '
        f'height="{bottom - top + 8:.1f}" class="loss"/>',
        _text(right, top - 14, "the rival is better: a loss", "small right"),
        _text(left, top - 14, "the rival is worse", "small"),
    ]
    for power in range(low, high + 1):
        x = place(10.0**power)
        parts.append(_line(x, top - 8, x, bottom, "axis" if power == 0 else "grid"))
        label = "1" if power == 0 else f"{10.0 ** abs(power):,.0f} x {'worse' if power > 0 else 'better'}"
        parts.append(_text(x, bottom + 16, label, "small middle"))
    for number, (workload, ratios) in enumerate(rows):
        y = top + step * number + step / 2
        parts += [_text(left - 10, y + 4, workload.title, "right"), _line(left, y, right, y, "grid")]
        for rival, ratio in ratios.items():
            tip = f"<title>{escape(results.title(rival))}: ours is {ratio:.2g} x as good</title>"
            spot = f'cx="{place(ratio):.1f}" cy="{y:.1f}" r="5" fill="{COLOURS[rival]}"'
            parts.append(f"<circle {spot}>{tip}</circle>")
    return _svg(right + 45, bottom + 28, head, parts)


# costs over the number of keys


def growth_svg(results: Results) -> str:
    """Small plots, one a workload: the figure at each size, for every rival."""
    names = [
        name
        for name in GROWING
        if any(results.median(r, n, name) for r in results.rivals for n in results.sizes)
    ]
    columns, width, height, top = 4, 262.0, 165.0, 62.0
    head = "Growth: each figure over the number of keys (both axes logarithmic)"
    parts = [_text(10, 20, head, "head"), *_legend(results, results.rivals, 16, 44)]
    for number, name in enumerate(names):
        x = 12 + width * (number % columns)
        y = top + height * (number // columns)
        parts += _panel(results, WORKLOADS[name], (x, y, width - 16, height - 14))
    rows = -(-len(names) // columns)
    return _svg(24 + width * columns, top + height * rows + 6, head, parts)


def _panel(results: Results, workload: Workload, box: tuple[float, float, float, float]) -> Iterator[str]:
    x, y, width, height = box
    series = {
        rival: [(n, v) for n in results.sizes if (v := results.median(rival, n, workload.name))]
        for rival in results.rivals
    }
    values = [value for points in series.values() for _, value in points]
    low, high = math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1
    first, last = math.log10(results.sizes[0]), math.log10(results.sizes[-1])
    inner_top, inner_bottom = y + 30, y + height - 16

    def at(keys: float, value: float) -> tuple[float, float]:
        across = (math.log10(keys) - first) / (last - first) if last > first else 0.5
        up = (math.log10(value) - low) / (high - low)
        return x + 8 + across * (width - 16), inner_bottom - up * (inner_bottom - inner_top)

    better = "up" if workload.larger_is_better else "down"
    yield _text(x, y + 12, workload.title)
    yield _text(x, y + 25, f"{figure_text(10**high / 1.26, workload.unit)}; better is {better}", "small")
    yield _line(x, inner_bottom, x + width, inner_bottom, "axis")
    yield _line(x, inner_top, x + width, inner_top, "grid")
    lowest = figure_text(10**low * 1.26, workload.unit)
    yield _text(x + width, inner_bottom - 3, lowest, "small right")
    for keys in results.sizes:
        yield _text(at(keys, values[0])[0], inner_bottom + 13, size_text(keys), "small middle")
    for rival, points in series.items():
        colour = COLOURS[rival]
        spots = [at(*point) for point in points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in spots)
        thick = 2.4 if rival == results.ours else 1.3
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{thick}"/>'
        for a, b in spots:
            yield f'<circle cx="{a:.1f}" cy="{b:.1f}" r="{thick + 0.6:.1f}" fill="{colour}"/>'
