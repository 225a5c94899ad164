"""Write what the harnesses counted into docs/durability.md.

    python -m tests.support.counts ci-counts.jsonl soak-counts.jsonl

reads files of JSON lines (`tests/support/scale.py` writes them; the name before the first `-` heads the
column of the file) and replaces what stands between the markers of the document by a table of them.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TypeAlias

DOCUMENT = Path(__file__).parents[2] / "docs" / "durability.md"
START, END = "<!-- counts:start -->", "<!-- counts:end -->"

Counts: TypeAlias = dict[str, object]


def read_counts(path: Path) -> dict[str, Counts]:
    """The lines of a file, those of one harness added up: numbers are summed, unless their name begins with
    `max_` or `min_`; of truth values all must hold; of anything else the last counts."""
    found: dict[str, Counts] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        counts = json.loads(line)
        into = found.setdefault(counts.pop("harness"), {})
        for name, value in counts.items():
            into[name] = _joined(name, into[name], value) if name in into else value
    return found


def _joined(name: str, one: object, other: object) -> object:
    if isinstance(one, bool) and isinstance(other, bool):
        return one and other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        if name.startswith("max_"):
            return max(one, other)
        return min(one, other) if name.startswith("min_") else one + other
    return other


def table(columns: dict[str, dict[str, Counts]]) -> str:
    """A row for each harness, in the order of their ids; a column for each file."""
    names = sorted({name for column in columns.values() for name in column}, key=_order)
    lines = [f"| id | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        cells = (_cell(column.get(name)) for column in columns.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _order(name: str) -> tuple[str, int, str]:
    letters, digits, rest = re.fullmatch(r"([^\d]*)(\d*)(.*)", name, re.S).groups()  # type: ignore[union-attr]
    return letters, int(digits or 0), rest


def _cell(counts: Counts | None) -> str:
    if counts is None:
        return "-"
    return ", ".join(f"{name.replace('_', ' ')} {_shown(value)}" for name, value in counts.items())


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).replace("|", "\\|")


def replace(document: str, new: str) -> str:
    """The document with other text between the markers."""
    before, _, rest = document.partition(START)
    _, marker, after = rest.partition(END)
    if not marker:
        raise ValueError(f"the document lacks {START} or {END}")
    return f"{before}{START}\n\n{new}\n\n{END}{after}"


def main(names: list[str]) -> None:
    """Read the files named, write the document."""
    columns = {Path(name).name.partition("-")[0]: read_counts(Path(name)) for name in names}
    DOCUMENT.write_text(replace(DOCUMENT.read_text(encoding="utf-8"), table(columns)), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
