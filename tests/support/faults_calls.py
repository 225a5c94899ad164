"""The child of tests/faults/test_failing_calls.py: every operation, every kind of call, the n-th fails.

    python -m tests.support.faults_calls DIRECTORY NTH_LIMIT CONTROL

CONTROL 1 lets the library take a failed commit for done, which the judge must notice.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb

from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import BackendError, CorruptionError, OutcomeUnknownError
from tests.support.faults import Calls, Faults
from tests.support.faults_store import DEEDS, Stage, open_repo, small_steps

Fault = tuple[Calls, int, bool]  # what fails, how (0: a write is cut short), and whether it goes on failing

FILES = (Calls.DATA, Calls.META, Calls.SYNC)
BAD = (errno.EIO, errno.ENOSPC)
KINDS: list[Fault] = [
    *((calls, code, stays) for calls in FILES for code in BAD for stays in (False, True)),
    (Calls.DATA, 0, False),
    (Calls.META, 0, False),
    (Calls.SIDE, errno.EIO, True),
    (Calls.GROW, errno.ENOSPC, True),
]
COMPACTING: list[Fault] = [
    (Calls.COPY, errno.EIO, False),
    (Calls.COPY, errno.ENOSPC, True),
    (Calls.COPY, 0, False),
]


def spread(count: int, limit: int) -> list[int]:
    """Up to ``limit`` of 1..count: the first ones, the last, and some between."""
    if count <= limit:
        return list(range(1, count + 1))
    first = limit // 2
    step = (count - first) / (limit - first)
    return [*range(1, first + 1), *(round(first + step * turn) for turn in range(1, limit - first + 1))]


class Trial:
    """One operation under one fault at a time."""

    def __init__(self, stage: Stage, faults: Faults) -> None:
        self.stage = stage
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []

    def calls_of(self, name: str, calls: Calls) -> int:
        """How many such calls the operation makes when all is well."""
        path = self.stage.fresh()
        repo = None if name == "open" else open_repo(path)
        self.faults.count(calls)
        repo = repo or open_repo(path)
        DEEDS[name](repo)
        seen, _ = self.faults.disarm()
        repo.close()
        return seen

    def run(self, name: str, fault: Fault, nth: int) -> None:
        """One case."""
        calls, code, stays = fault
        path = self.stage.fresh()
        repo = None if name == "open" else open_repo(path)
        self.faults.arm(calls, nth, code, stays=stays)
        outcome = "landed"
        try:
            repo = repo or open_repo(path)
            DEEDS[name](repo)
        except OutcomeUnknownError:
            outcome = "unknown"
        except BackendError:
            outcome = "refused"
        except CorruptionError as error:
            outcome = "unknown"
            self.violations.append(f"{name}, call {nth} of {calls!r} ({code}): {error!r}")
        _, failed = self.faults.disarm()
        self.counts["cases"] += 1
        self.counts["failed calls"] += failed
        self.counts[outcome] += 1
        told = f"{name}, call {nth} of {calls!r} with {code}, {stays=}: "
        if repo is None:
            repo = open_repo(path)  # now that nothing fails any more
        self.violations += [told + each for each in self.stage.judge(name, repo, outcome)]

    def all_of(self, limit: int) -> None:
        """Every operation and kind of fault."""
        for name in DEEDS:
            for fault in [*KINDS, *(COMPACTING if name == "compact" else ())]:
                for nth in spread(self.calls_of(name, fault[0]), limit):
                    self.run(name, fault, nth)


def ignore_failed_commits() -> None:
    """What a library would be that does not look at what a commit returns."""

    def commit(self: LmdbBackend, txn: Any) -> None:
        try:
            txn.commit()
        except lmdb.Error:
            self._shared.close()

    LmdbBackend._commit = commit  # type: ignore[method-assign]


def main(arguments: list[str]) -> dict[str, Any]:
    directory, limit, control = Path(arguments[0]), int(arguments[1]), arguments[2] == "1"
    with small_steps():
        trial = Trial(Stage(directory), Faults())
        if control:
            ignore_failed_commits()
            for fault in controlled():
                trial.run("commit", fault, 1)
        else:
            trial.all_of(limit)
    return {"counts": dict(trial.counts), "violations": trial.violations[:20], "bad": len(trial.violations)}


def controlled() -> Iterator[Fault]:
    yield from ((calls, errno.EIO, False) for calls in FILES)


if __name__ == "__main__":
    result = json.dumps(main(sys.argv[1:]))
    os.write(1, result.encode() + b"\n")
