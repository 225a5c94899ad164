"""Makes the pictures of the documents with `kvh`: `python -m tests.docs.pictures` writes them anew."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Final

from tests.support.cli import Kvh

PICTURES: Final = Path(__file__).parents[2] / "docs/pictures"
# Branch, key, value and message: the history of the tour, at times of its own.
HISTORY: Final = (
    ("main", "motd", "Good morning", "A first key"),
    ("main", "dish/soup", "Leek soup", "The menu of spring"),
    ("main", "dish/pie", "Fish pie", "Fish is dearer"),
    ("summer", "dish/tea", "Iced tea", "Cold in summer"),
    ("main", "dish/pie", "Apple pie", "Apples are cheaper"),
    ("summer", "motd", "Good morning, sunshine", "A word for summer"),
    ("main", "dish/cake", "Lemon cake", "A cake"),
)
DIRECTORIES: Final = {"order": 6_000, "user": 3_000, "item": 900, "setting": 40}  # name -> number of keys


def history(directory: Path) -> bytes:
    """What `kvh log --svg` draws of a merge."""
    kvh = Kvh(directory / "history")
    kvh("init", str(kvh.directory))
    for minute, (branch, key, value, message) in enumerate(HISTORY):
        if branch == "summer" and minute == 3:
            kvh("branch", "summer")
        kvh("set", "-b", branch, key, value, "-m", message, "--time", f"2026-05-01 09:{minute:02}")
    kvh("merge", "summer", "--time", "2026-05-01 09:30")
    kvh("tag", "menu")
    kvh("set", "dish/scone", "Scone", "-m", "Scones", "--time", "2026-05-01 09:40")
    path = directory / "history.svg"
    kvh("log", "--svg", str(path))
    return path.read_bytes()


def tree(directory: Path) -> bytes:
    """What `kvh stats --svg` draws of some ten thousand keys."""
    kvh = Kvh(directory / "tree")
    kvh("init", str(kvh.directory))
    rows = directory / "rows.jsonl"
    with rows.open("w", encoding="utf-8") as file:
        for name, count in DIRECTORIES.items():
            for number in range(count):
                row = {"key": f"{name}/{number:05}", "value": {"number": number, "note": "x" * (number % 40)}}
                file.write(json.dumps(row) + "\n")
    kvh("import", str(rows), "--time", "2026-05-01")
    path = directory / "tree.svg"
    kvh("stats", "--svg", str(path))
    return path.read_bytes()


MAKERS: Final = {"history": history, "tree": tree}


def main() -> None:
    for name, maker in MAKERS.items():
        with tempfile.TemporaryDirectory() as scratch:
            (PICTURES / f"{name}.svg").write_bytes(maker(Path(scratch)))


if __name__ == "__main__":
    main()
