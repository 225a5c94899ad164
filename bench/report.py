"""Tables and plots of a run: ``python -m bench.report [FILE]`` (by default the newest in bench/results/).

Writes table.md (what the README shows between its markers), all.md (every size), compare.svg and growth.svg
beside the samples, and prints table.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.plan import WORKLOADS, Workload
from bench.plot import compare_svg, growth_svg
from bench.results_file import UNVERSIONED, Results, figure_text, newest, size_text

RESULTS = Path(__file__).parent / "results"
START, END = "<!-- bench:start -->", "<!-- bench:end -->"
README_ROWS = [name for name in WORKLOADS if name not in ("import", "open_memory")]


def ratio_text(ratio: float | None, rival: str | None = None) -> str:
    """How we compare; a loss is in bold and called one."""
    if ratio is None:
        return "-"
    text = f"{ratio:.2g} x" if ratio < 0.1 else f"{ratio:.2f} x" if ratio < 10 else f"{ratio:,.0f} x"
    if rival is not None:
        text += f" {rival}"
    return text if ratio >= 1 else f"**{text} (loss)**"


def row_of(results: Results, keys: int, workload: Workload, rivals: list[str]) -> list[str] | None:
    """One row: a figure a rival, our ratio to raw LMDB, and to the best rival that has versions."""
    medians = [results.median(rival, keys, workload.name) for rival in rivals]
    if all(value is None for value in medians):
        return None
    cells = ["-" if value is None else figure_text(value, workload.unit) for value in medians]
    if results.ours is None:
        return [workload.title, *cells]
    tough = results.toughest(keys, workload.name)
    beside = [ratio_text(results.ratio("lmdb", keys, workload.name))] if "lmdb" in rivals else []
    beside.append("-" if tough is None else ratio_text(tough[1], tough[0]))
    return [workload.title, *cells, *beside]


def table(results: Results, keys: int, names: list[str]) -> Iterator[str]:
    """The lines of a table in Markdown."""
    rivals = [name for name in results.rivals if results.median(name, keys, "load") is not None]
    head = [f"{size_text(keys)} keys", *map(results.title, rivals)]
    if results.ours is not None:
        head += ["ours / raw LMDB"] if "lmdb" in rivals else []
        head.append("ours / best with versions")
    yield "| " + " | ".join(head) + " |"
    yield "|---|" + "---:|" * (len(head) - 1)
    for name in names:
        if row := row_of(results, keys, WORKLOADS[name], rivals):
            yield "| " + " | ".join(row) + " |"


def growth_table(results: Results) -> Iterator[str]:
    """Our own figures at each size."""
    if results.ours is None or len(results.sizes) < 2:
        return
    yield (
        f"| {results.title(results.ours)} | "
        + " | ".join(f"{size_text(n)} keys" for n in results.sizes)
        + " |"
    )
    yield "|---|" + "---:|" * len(results.sizes)
    for name in README_ROWS:
        workload = WORKLOADS[name]
        medians = [results.median(results.ours, keys, name) for keys in results.sizes]
        if any(value is not None for value in medians):
            cells = ["-" if value is None else figure_text(value, workload.unit) for value in medians]
            yield f"| {workload.title} | " + " | ".join(cells) + " |"


def conditions(results: Results) -> str:
    """On what it was measured, in a sentence or two."""
    data = results.data
    machine = data["machine"]
    where = f"{machine['cpus']} x {machine['cpu']}, {machine['system'].split()[0]}, {machine['file_system']}"
    text = (
        f"Measured on {data['started'][:10]} at {data['revision']}: {where}, {machine['python']}; "
        f"keys of 14 bytes, 64 random bytes each; medians of {data['repeats']} turns, in each of which all "
        "rivals run one after the other. A ratio over 1 means that this library is better; it is the median "
        "of the turns' ratios."
    )
    return text + (f" Note: {machine['note']}." if machine["note"] else "")


def notes(results: Results) -> Iterator[str]:
    """How each was run, and what is missing and why."""
    data = results.data
    for rival in results.rivals:
        versions = ", ".join(f"{name} {version}" for name, version in data["versions"][rival].items())
        yield f"- **{results.title(rival)}** ({versions}): {data['how'][rival]}."
    for rival, reason in data["skipped"].items():
        yield f"- Not measured: {rival} ({reason})."
    for rival, limit in data["limits"].items():
        if rival in results.rivals and limit < max(results.sizes):
            yield f"- {results.title(rival)}: up to {limit:,} keys only."
    for place, reason in data["once"].items():
        yield f"- {place}: one turn only, since {reason}."
    for failure in data["failures"]:
        yield "- Failed: {rival} at {keys:,} keys, {phase}: {reason}.".format(**failure)
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    for rival, lacks in data["unsupported"].items():
        for place, reason in lacks.items():
            if rival not in UNVERSIONED and not place.startswith(("load_sorted", "disk_sorted")):
                name = place.partition(" at ")[0]
                reasons.setdefault((rival, reason), {})[name] = None
    for (rival, reason), names in reasons.items():
        yield f"- {results.title(rival)} lacks {', '.join(names)}: {reason}."


def readme_part(results: Results) -> str:
    """What stands between the README's markers."""
    parts = [conditions(results), "\n".join(table(results, results.main_size, README_ROWS))]
    return "\n\n".join([START, *parts, END]) + "\n"


def everything(results: Results) -> str:
    """All tables, and how they came about."""
    parts = ["# Measured side by side", conditions(results)]
    for keys in reversed(results.sizes):
        names = [name for name in WORKLOADS if name != "import"]
        parts += [f"## {size_text(keys)} keys", "\n".join(table(results, keys, names))]
    if growth := "\n".join(growth_table(results)):
        parts += ["## Growth", growth]
    imports = [(rival, results.median(rival, 0, "import")) for rival in results.rivals]
    lines = [f"- {results.title(rival)}: {value:.3g} ms" for rival, value in imports if value is not None]
    parts += ["## Import, in a new process", "\n".join(lines)]
    parts += ["## How each is run, and what is missing", "\n".join(notes(results))]
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Write tables and plots."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument(
        "files",
        type=Path,
        nargs="*",
        help="samples (default: the newest in bench/results/); several runs of one machine are put together, "
        "the first of which tells the conditions",
    )
    parser.add_argument("--out", type=Path, help="the directory to write to (default: that of the samples)")
    options = parser.parse_args(argv)
    sources: list[Path] = options.files or [newest(RESULTS)]
    source = sources[0]
    results = Results.read(*sources)
    if not results.sizes:
        raise SystemExit(f"{source.name} holds no samples")
    out: Path = options.out or source.parent
    out.mkdir(parents=True, exist_ok=True)
    part = readme_part(results)
    (out / "table.md").write_text(part, encoding="utf-8")
    (out / "all.md").write_text(everything(results), encoding="utf-8")
    (out / "compare.svg").write_text(compare_svg(results), encoding="utf-8")
    (out / "growth.svg").write_text(growth_svg(results), encoding="utf-8")
    sys.stdout.write(part)
    return 0


if __name__ == "__main__":
    sys.exit(main())
