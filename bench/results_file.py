"""The samples of one run, read back: medians, ratios, and how figures are written."""

from __future__ import annotations

import itertools
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench.plan import BYTES, KIB, MS, RATE, WORKLOADS

OURS = ("compiled", "plain")
UNVERSIONED = ("lmdb", "sqlite3")


class Results:
    """One JSON file that ``python -m bench`` wrote."""

    def __init__(self, data: dict[str, Any]) -> None:
        if data.get("format") != 1:
            raise SystemExit("not a file of samples that this program knows")
        self.data = data
        self._turns: dict[tuple[str, int, str], dict[int, list[float]]] = defaultdict(dict)
        for row in data["samples"]:
            turns = self._turns[row["rival"], row["keys"], row["workload"]]
            turns.setdefault(row["turn"], []).extend(row["samples"])
        self.sizes = sorted({keys for _, keys, _ in self._turns} - {0})
        self.rivals = [name for name in data["titles"] if any(name == rival for rival, _, _ in self._turns)]
        self.ours = next((name for name in OURS if name in self.rivals), None)

    @classmethod
    def read(cls, *paths: Path) -> Results:
        """From files, of which the first tells the conditions; no two may hold the same rival and size."""
        first, *others = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
        seen = {(row["rival"], row["keys"]) for row in first["samples"] if row["keys"]}
        for other in others:
            more = {(row["rival"], row["keys"]) for row in other["samples"] if row["keys"]}
            if seen & more:
                raise SystemExit(f"measured twice: {sorted(seen & more)}")
            seen |= more
            known = {row["rival"] for row in first["samples"] if not row["keys"]}
            first["samples"] += [row for row in other["samples"] if row["keys"] or row["rival"] not in known]
            first["failures"] += other["failures"]
            for field in ("titles", "versions", "how", "once", "limits"):
                first[field] = other[field] | first[field]
            for rival, lacks in other["unsupported"].items():
                first["unsupported"][rival] = lacks | first["unsupported"].get(rival, {})
        return cls(first)

    @property
    def main_size(self) -> int:
        """A million keys, or else the largest size."""
        return 1_000_000 if 1_000_000 in self.sizes else self.sizes[-1]

    def title(self, rival: str) -> str:
        """The head of a rival's column."""
        found: str = self.data["titles"][rival]
        return found

    def median(self, rival: str, keys: int, workload: str) -> float | None:
        """Of all samples of all turns."""
        turns = self._turns.get((rival, keys, workload))
        return statistics.median(itertools.chain.from_iterable(turns.values())) if turns else None

    def ratio(self, rival: str, keys: int, workload: str) -> float | None:
        """How many times better we are than a rival: the median of the turns' ratios, over 1 if we are.

        Only turns that both were measured in count, since the machine's load changes between them.
        """
        ours = self._turns.get((self.ours or "", keys, workload))
        theirs = self._turns.get((rival, keys, workload))
        if not ours or not theirs:
            return None
        pairs = [
            (statistics.median(ours[t]), statistics.median(theirs[t])) for t in ours.keys() & theirs.keys()
        ]
        if not WORKLOADS[workload].larger_is_better:
            pairs = [(b, a) for a, b in pairs]
        ratios = [a / b for a, b in pairs if a > 0 and b > 0]
        return statistics.median(ratios) if ratios else None

    def toughest(self, keys: int, workload: str) -> tuple[str, float] | None:
        """The rival with versions that comes closest to us or is furthest ahead, and our ratio to it."""
        found = [
            (ratio, rival)
            for rival in self.rivals
            if rival not in (*OURS, *UNVERSIONED) and (ratio := self.ratio(rival, keys, workload)) is not None
        ]
        return (min(found)[1], min(found)[0]) if found else None


def newest(folder: Path) -> Path:
    """The run that was begun last."""
    found = [
        (json.loads(path.read_text(encoding="utf-8"))["started"], path) for path in folder.glob("*.json")
    ]
    if not found:
        raise SystemExit(f"no samples in {folder.name}/; `python -m bench` makes them")
    return max(found)[1]


def size_text(keys: int) -> str:
    """10,000 -> 10 k."""
    if keys >= 1_000_000:
        return f"{keys / 1e6:g} M"
    return f"{keys / 1e3:g} k"


def _three(value: float) -> str:
    """Three figures, plainly written."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def figure_text(value: float, unit: str) -> str:
    """A figure with its unit, to three figures."""
    steps = {
        RATE: ((1e6, " M/s"), (1e3, " k/s"), (1, " /s")),
        MS: ((1e3, " s"), (1, " ms"), (1e-3, " µs")),
        BYTES: ((1e6, " MB"), (1e3, " kB"), (1, " B")),
        KIB: ((1024**2, " GiB"), (1024, " MiB"), (1, " KiB")),
    }[unit]
    for scale, name in steps:
        if value >= scale:
            return _three(value / scale) + name
    return "0" if value <= 0 else _three(value / steps[-1][0]) + steps[-1][1]
