"""Plays the tour in a terminal; as a program, `python -m tests.docs.tour`, writes its output anew.

The ```console blocks of docs/tour.md are one recording. What stands after ``$`` and ``>`` is typed, and what
stands after a question of ``kvh merge``; all else is what the terminal shows.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.support.terminal import Terminal

ROOT: Final = Path(__file__).parents[2]
TOUR: Final = ROOT / "docs/tour.md"
BLOCK: Final = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)
QUESTION: Final = "? for help: "
INPUT: Final = re.compile(rf"^(?:[$>] |.*{re.escape(QUESTION)})(.*)$")
# All that may differ between two runs: ids (by their order of appearance), times, sizes, durations.
ID: Final = re.compile(r"\b([0-9a-f]{8})(?:[0-9a-f]{56})?\b")
VOLATILE: Final = {
    "TIME": re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\b"),
    "SIZE": re.compile(r"\b\d[\d,.]* (?:B|kB|MB)(?!\w)"),
    "SECONDS": re.compile(r"\b\d+\.\d+ s\b"),
}


def blocks(text: str) -> list[str]:
    """The blocks of the recording."""
    return BLOCK.findall(text)


def stable(text: str) -> str:
    """A recording without what may differ. Equal ids become equal names."""
    names: dict[str, str] = {}

    def name(found: re.Match[str]) -> str:
        known = names.setdefault(found[1], f"ID{len(names) + 1}")
        return known if len(found[0]) == 8 else f"{known}-WHOLE"

    text = ID.sub(name, text)
    for word, pattern in VOLATILE.items():
        text = pattern.sub(word, text)
    return text


def play(terminal: Terminal, block: str, told: str) -> str:
    """Type the lines of a block.

    Args:
        told: what the document shows before the block, so that ids in typed lines find their like here.

    Returns:
        what the terminal shows of it.
    """
    terminal.wait()
    start = len(terminal.shown()) - len("$ ".rstrip())
    here = ""
    for line in block.splitlines(keepends=True):
        found = INPUT.match(line)
        if found is not None:
            is_question = terminal.wait(QUESTION)
            if is_question != (QUESTION in line):
                raise AssertionError(f"not the time to type {found[1]!r}:\n{terminal.shown()}")
            terminal.type(_with_own_ids(found[1], told + here, terminal.shown()))
        here += line
    if terminal.wait(QUESTION):
        raise AssertionError(f"a question without an answer:\n{terminal.shown()}")
    return terminal.shown()[start:].removesuffix("$").rstrip() + "\n"


def _with_own_ids(line: str, told: str, shown: str) -> str:
    own = dict(zip(ID.findall(told), ID.findall(shown), strict=False))
    return ID.sub(lambda found: own.get(found[1], found[1]), line)


def programs(directory: Path) -> dict[str, str]:
    """A directory with the programs of an installation, and the environment of a shell that finds them."""
    directory.mkdir()
    entry = "import sys; from kvgit_hamt.cli import entry; sys.argv[0] = '{}'; sys.exit(entry())"
    for name in ("kvh", "kvgit-hamt"):
        _script(directory / name, f'exec "{sys.executable}" -c "{entry.format(name)}" "$@"')
    _script(directory / "python", f'exec "{sys.executable}" "$@"')
    return {**surroundings(), "PATH": f"{directory}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def surroundings() -> dict[str, str]:
    """What a shell finds in its environment, wherever the tour is taken."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": "UTC", "VIRTUAL_ENV_DISABLE_PROMPT": "1"}


def _script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def take(text: str, scratch: Path) -> list[tuple[str, str]]:
    """Take the tour, without its first block, which installs: (block, what the terminal shows of it)."""
    home = scratch / "home"
    home.mkdir()
    told = ""
    out = []
    with Terminal(home, programs(scratch / "bin")) as terminal:
        for block in blocks(text)[1:]:
            out.append((block, play(terminal, block, told)))
            told += block
    return out


def main() -> None:
    text = TOUR.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as scratch:
        shown = iter([blocks(text)[0], *[after for _, after in take(text, Path(scratch))]])
    TOUR.write_text(BLOCK.sub(lambda _: f"```console\n{next(shown)}```", text), encoding="utf-8")


if __name__ == "__main__":
    main()
