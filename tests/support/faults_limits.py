"""The child of tests/faults/test_limits.py: every operation under a limit of the process.

python -m tests.support.faults_limits memory|files|size DIRECTORY ROUNDS
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvgit_hamt import Repo
from kvgit_hamt.errors import BackendError, KvgitHamtError, OutcomeUnknownError
from tests.support.faults_store import DEEDS, Stage, open_repo, small_steps

MIB = 1 << 20


@contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    """A soft limit that ends with the block."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def size_bytes() -> int:
    """Address space of this process."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def lowest_free() -> int:
    """The file descriptor that the next file would get."""
    fd = os.open(os.devnull, os.O_RDONLY)
    os.close(fd)
    return fd


def greedy(call: Any, spare: int) -> None:
    """Run with so many bytes of address space left, and nothing held back in the allocator's own stock."""
    hoard: list[Any] = []
    with limited(resource.RLIMIT_AS, size_bytes() + spare):
        try:
            while True:
                hoard.append(bytearray(MIB))
        except MemoryError:
            hoard = hoard[: max(0, len(hoard) - spare // MIB)]
        call(hoard)


class Trial:
    """One operation under one limit at a time."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []

    def run(self, name: str, what: str, value: int) -> None:
        """One case; the operation "open" opens under the limit too."""
        repo = [] if name == "open" else [open_repo(self.stage.fresh())]
        if not repo:
            self.stage.fresh()
        outcome = "landed"
        try:
            self._limited(name, repo, what, value)
        except (MemoryError, OutcomeUnknownError):
            outcome = "unknown"
        except BackendError:
            outcome = "refused"
        except OSError as error:
            outcome = "refused"
            if name != "load":  # what a caller hands over may need files of its own; so does sorting
                self.violations.append(f"{name} under {what} {value}: {error!r}")
        except KvgitHamtError as error:
            outcome = "unknown"
            self.violations.append(f"{name} under {what} {value}: {error!r}")
        self.counts["cases"] += 1
        self.counts[outcome] += 1
        found = repo[0] if repo else open_repo(self.stage.path)
        told = f"{name} under {what} {value}: "
        self.violations += [told + fault for fault in self.stage.judge(name, found, outcome)]

    def _limited(self, name: str, repo: list[Repo], what: str, value: int) -> None:
        def act(_: object = None) -> None:
            if not repo:
                repo.append(open_repo(self.stage.path))
            DEEDS[name](repo[0])

        if what == "memory":
            greedy(act, value)
        elif what == "files":
            with limited(resource.RLIMIT_NOFILE, lowest_free() + value):
                act()
        else:
            size = (self.stage.path / "data.mdb").stat().st_size
            with limited(resource.RLIMIT_FSIZE, size + value):
                act()


VALUES = {
    "memory": [0, MIB // 4, MIB, 2 * MIB, 4 * MIB, 16 * MIB],
    "files": [0, 1, 2, 3, 4, 8],
    "size": [0, 4096, 8192, 20_000, 60_000],
}


def main(arguments: list[str]) -> dict[str, Any]:
    what, directory, rounds = arguments[0], Path(arguments[1]), int(arguments[2])
    tempfile.gettempdir()  # found once, while files can be opened
    with small_steps():
        trial = Trial(Stage(directory))
        for turn in range(rounds):
            for name in DEEDS:
                for value in VALUES[what]:
                    trial.run(name, what, value + turn * 1_000 if value else 0)
    return {"counts": dict(trial.counts), "violations": trial.violations[:20], "bad": len(trial.violations)}


if __name__ == "__main__":
    result = json.dumps(main(sys.argv[1:]))
    os.write(1, result.encode() + b"\n")
