"""The processes of the soak: writers that cut their history off, readers, and a collector.

Each sends a line of JSON now and then; whoever started it measures it from outside.
"""

from __future__ import annotations

import json
import random
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import kvgit_hamt as kvgit
from bench.gc_soak import cut_history

KEYS = 40_000  # pairs of keys on each branch
PER_COMMIT = 10
CUT_EVERY = 20  # commits after which what came before is let go
GARBAGE = 0.15  # collected when so much has come on top of what was kept
WATCHED = 2_000  # pairs whose values a writer remembers: few, since its own memory must stay flat
PAUSE_S = 0.01
REPORT_S = 1.0
CACHE_BYTES = 2 << 20


def branch_of(number: int) -> str:
    return f"w{number}"


def prepare(path: Path, writers: int = 2, keys: int = KEYS) -> None:
    """A store with a branch for each writer, all of them equal."""
    rng = random.Random(0)
    with kvgit.open(path, codec="bytes") as work:
        work.load(pair for number in range(keys) for pair in both(number, rng.randbytes(64)))
        for number in range(writers):
            work.repo.branches.create(branch_of(number))


def both(number: int, value: bytes) -> list[tuple[str, bytes]]:
    """The two keys that always hold the same."""
    return [(f"k{number}/a", value), (f"k{number}/b", value)]


class Writer:
    """Changes pairs at random on a branch of its own, and remembers what it wrote to some of them."""

    def __init__(self, repo: kvgit.Repo, number: int, seed: int, keys: int = KEYS) -> None:
        self.repo = repo
        self.keys = keys
        self.branch = branch_of(number)
        self.work = repo.worktree(self.branch)
        self.rng = random.Random(seed)
        self.written: dict[str, bytes] = {}
        self.commits = 0
        self.seconds: list[float] = []

    def step(self) -> None:
        """One commit; now and then the history before it is cut off, and what was written is looked at."""
        changes: dict[str, bytes] = {}
        for _ in range(PER_COMMIT // 2):
            number = self.rng.randrange(self.keys)
            pair = dict(both(number, self.rng.randbytes(64)))
            changes.update(pair)
            if number < WATCHED:
                self.written.update(pair)
        start = time.perf_counter()
        self.work.update(changes)
        self.work.commit()
        self.seconds.append(time.perf_counter() - start)
        del self.seconds[:-2_000]
        self.commits += 1
        if self.commits % CUT_EVERY == 0:
            cut_history(self.repo, self.branch)
            self.work.refresh()
            assert self.work.get_many(changes) == changes

    def verify(self) -> None:
        """All that it wrote is there."""
        assert len(self.work) == 2 * self.keys
        assert self.work.get_many(self.written) == self.written


class Reporter:
    """Sends figures about once a second; false when it is to stop."""

    def __init__(self, end: Connection) -> None:
        self.end = end
        self.due = 0.0

    def goes_on(self, figures: dict[str, Any]) -> bool:
        now = time.monotonic()
        if now >= self.due:
            self.due = now + REPORT_S
            self.end.send_bytes(json.dumps(figures).encode())
        return not self.end.poll()

    def last(self, figures: dict[str, Any]) -> None:
        self.end.send_bytes(json.dumps({**figures, "is_last": True}).encode())


def worst(seconds: list[float]) -> float:
    """The time that one in a hundred exceeds, in milliseconds."""
    return round(1_000 * sorted(seconds)[int(len(seconds) * 0.99)], 3) if seconds else 0.0


def write(path: Path, number: int, seed: int, end: Connection) -> None:
    reporter = Reporter(end)
    with kvgit.Repo(path, cache_bytes=CACHE_BYTES) as repo:
        writer = Writer(repo, number, seed)
        while reporter.goes_on({"commits": writer.commits, "p99_ms": worst(writer.seconds)}):
            writer.step()
            time.sleep(PAUSE_S)
        writer.verify()
        reporter.last({"commits": writer.commits, "p99_ms": worst(writer.seconds)})


def read(path: Path, leaks: bool, seed: int, end: Connection) -> None:
    """Pairs are equal in every snapshot. ``leaks``: keep what was read, as a fault would."""
    reporter = Reporter(end)
    rng = random.Random(seed)
    passes = 0
    kept: list[bytes] = []
    seconds: list[float] = []
    with kvgit.Repo(path, cache_bytes=CACHE_BYTES) as repo:
        while reporter.goes_on({"passes": passes, "p99_ms": worst(seconds)}):
            start = time.perf_counter()
            with repo.snapshot(branch=branch_of(passes % 2)) as snapshot:
                some = [rng.randrange(KEYS) for _ in range(50)]
                found = snapshot.get_many([f"k{number}/{side}" for number in some for side in "ab"])
                assert all(found[f"k{number}/a"] == found[f"k{number}/b"] for number in some)
                if passes % 100 == 0:
                    assert sum(1 for _ in snapshot) == len(snapshot) == 2 * KEYS
            seconds.append(time.perf_counter() - start)
            del seconds[:-2_000]
            passes += 1
            if leaks:
                kept.append(bytes(100_000))
            time.sleep(PAUSE_S)
        reporter.last({"passes": passes, "p99_ms": worst(seconds)})


def collect(path: Path, end: Connection) -> None:
    """gc whenever enough of what there is could be garbage."""
    reporter = Reporter(end)
    collections = kept = kept_bytes = 0
    with kvgit.Repo(path, cache_bytes=CACHE_BYTES) as repo:
        while reporter.goes_on({"collections": collections, "live_bytes": kept_bytes}):
            if repo.store.backend.stats()["record_count"] > (1 + GARBAGE) * kept:
                result = repo.gc(keep_reflog=0)
                kept, kept_bytes = result.kept_count, result.kept_bytes
                collections += 1
            time.sleep(5 * PAUSE_S)
        reporter.last({"collections": collections, "live_bytes": kept_bytes})
