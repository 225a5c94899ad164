"""The child of tests/faults/test_interrupts.py: KeyboardInterrupt at any moment of any operation.

    python -m tests.support.faults_interrupts points DIRECTORY LIMIT CONTROL
    python -m tests.support.faults_interrupts storm DIRECTORY SECONDS

"points" raises it in a place of its choice: CPython handles signals when a function of Python begins, and
after a call into C, which is where a profile function is called. "storm" sends real signals.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import kvgit_hamt
from kvgit_hamt import Repo
from kvgit_hamt.backend import lmdb as lmdb_backend
from kvgit_hamt.backend.base import Batch
from kvgit_hamt.backend.lmdb import LmdbBackend
from tests.support.faults_calls import spread
from tests.support.faults_store import DEEDS, Stage, open_repo, small_steps

PACKAGE = str(Path(kvgit_hamt.__file__).parent)
BACKEND = str(Path(PACKAGE) / "backend" / "lmdb")


class Interrupter:
    """Raises KeyboardInterrupt at the n-th moment at which a signal could arrive in the library."""

    def __init__(self, nth: int, where: str) -> None:
        self.nth = nth
        self.where = where
        self.seen = 0
        self.place = ""

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "c_return") or not frame.f_code.co_filename.startswith(self.where):
            return
        self.seen += 1
        if self.seen == self.nth:
            sys.setprofile(None)
            self.place = f"{frame.f_code.co_name}:{frame.f_lineno} {event}"
            raise KeyboardInterrupt

    def run(self, call: Callable[[], None]) -> None:
        """Call under its eyes."""
        sys.setprofile(self)
        try:
            call()
        finally:
            sys.setprofile(None)


class Trial:
    """One operation, interrupted at one moment at a time."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []

    def moments_of(self, name: str, where: str) -> int:
        """How many such moments the operation has."""
        found = Interrupter(0, where)
        repo = self._begin(name)
        found.run(lambda: self._do(name, repo))
        return found.seen

    def _begin(self, name: str) -> list[Repo]:
        path = self.stage.fresh()
        return [] if name == "open" else [open_repo(path)]

    def _do(self, name: str, repo: list[Repo]) -> None:
        if not repo:
            repo.append(open_repo(self.stage.path))
        DEEDS[name](repo[0])

    def run(self, name: str, nth: int, where: str) -> None:
        """One case. The judge works while the exception, and so its frames, are alive."""
        repo = self._begin(name)
        interrupter = Interrupter(nth, where)
        try:
            interrupter.run(lambda: self._do(name, repo))
            outcome = "landed"
            self._judge(name, repo, outcome, interrupter)
        except KeyboardInterrupt:
            outcome = "unknown"
            self._judge(name, repo, outcome, interrupter)
        except kvgit_hamt.KvgitHamtError as error:
            outcome = "unknown"
            self.violations.append(f"{name} interrupted at {interrupter.place} became {error!r}")
        self.counts["cases"] += 1
        self.counts["interrupted" if outcome == "unknown" else "landed"] += 1

    def _judge(self, name: str, repo: list[Repo], outcome: str, interrupter: Interrupter) -> None:
        try:
            found = repo[0] if repo else open_repo(self.stage.path)
            faults = self.stage.judge(name, found, outcome)
        except Exception as error:
            faults = [f"{error!r}"]
            if repo:
                repo[0].close()
        self.violations += [f"{name} interrupted at {interrupter.place}: {fault}" for fault in faults]


def points(directory: Path, limit: int, control: bool) -> dict[str, Any]:
    with small_steps():
        trial = Trial(Stage(directory))
        if control:
            publish_in_two_steps()
        for name in ["commit"] if control else DEEDS:
            for where in (PACKAGE, BACKEND):
                for nth in spread(trial.moments_of(name, where), limit):
                    trial.run(name, nth, where)
    return {"counts": dict(trial.counts), "violations": trial.violations[:20], "bad": len(trial.violations)}


def publish_in_two_steps() -> None:
    """What a library would be whose refs move before what they name is stored."""
    publish = lmdb_backend.LmdbBackend.publish

    def two_steps(self: LmdbBackend, batch: Batch) -> int:
        if batch.is_reserved or not (batch.refs and batch.records):
            return publish(self, batch)
        publish(self, Batch(refs=batch.refs))
        return publish(self, replace(batch, refs=()))

    lmdb_backend.LmdbBackend.publish = two_steps  # type: ignore[method-assign]


# --- real signals


def storm(directory: Path, seconds: float) -> dict[str, Any]:
    """Do everything again and again under SIGINT every few milliseconds, several to an operation."""
    rng = random.Random(7)
    with small_steps():
        stage = Stage(directory)
        stop, armed = threading.Event(), threading.Event()

        def send() -> None:
            while not stop.is_set():
                time.sleep(rng.random() * 0.02)
                if armed.is_set():
                    os.kill(os.getpid(), signal.SIGINT)

        def interrupt(*_: object) -> None:
            if armed.is_set() and not stop.is_set():
                raise KeyboardInterrupt

        signal.signal(signal.SIGINT, interrupt)
        sender = threading.Thread(target=send)
        sender.start()
        counts: Counter[str] = Counter()
        violations: list[str] = []
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                name = rng.choice([deed for deed in DEEDS if deed != "open"])
                repo = open_repo(stage.fresh())
                outcome = _under_fire(armed, lambda name=name, repo=repo: DEEDS[name](repo), counts)  # type: ignore[misc]
                violations += stage.judge(name, repo, outcome)
        finally:
            stop.set()
            sender.join()
    return {"counts": dict(counts), "violations": violations[:20], "bad": len(violations)}


def _under_fire(armed: threading.Event, call: Callable[[], None], counts: Counter[str]) -> str:
    """Run a call, again after each interrupt, up to three times; how it ended."""
    for _ in range(3):
        try:
            armed.set()
            call()
            armed.clear()
            counts["landed"] += 1
            return "landed"
        except KeyboardInterrupt:
            armed.clear()
            counts["interrupted"] += 1
    return "unknown"


def main(arguments: list[str]) -> dict[str, Any]:
    directory, size = Path(arguments[1]), arguments[2]
    if arguments[0] == "storm":
        return storm(directory, float(size))
    return points(directory, int(size), arguments[3] == "1")


if __name__ == "__main__":
    result = json.dumps(main(sys.argv[1:]))
    os.write(1, result.encode() + b"\n")
