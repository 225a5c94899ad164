"""M7: two writers, two readers and a collector, some of which are killed: nothing grows or is lost."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kvgit_hamt as kvgit
from tests.soak import workers
from tests.support.scale import pick, record

SPAWN = multiprocessing.get_context("spawn")
PATIENCE_S = 60  # a process that says nothing for so long hangs
FILE_BOUND = 2.5  # times the live data
SAMPLE_S = 0.25
KILL_S = 2.0
GROWTH_KIB = 4_096  # of memory over the run, beyond a tenth of what it is
FDS_MORE = 3
FEW_KEYS = 8_000

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="measures through /proc")


class Worker:
    """A process, what it says, and what it looks like from outside."""

    def __init__(self, target: Callable[..., None], *given: object) -> None:
        self.target, self.given = target, given
        self.said: list[dict[str, Any]] = []
        self.resident: list[int] = []
        self.fds: list[int] = []
        self.kills = 0
        self.start()

    def start(self) -> None:
        self.end, other = SPAWN.Pipe()
        self.process = SPAWN.Process(target=self.target, args=(*self.given, other), daemon=True)
        self.process.start()
        other.close()
        self.heard = time.monotonic()

    def listen(self) -> None:
        """Take what it said; it must not have died by itself, nor fallen silent."""
        try:
            while not self.is_over and self.end.poll():
                self.said.append(json.loads(self.end.recv_bytes()))
                self.heard = time.monotonic()
        except (EOFError, OSError):
            self.process.join(PATIENCE_S)
            raise AssertionError(f"{self.target.__name__} ended with {self.process.exitcode}") from None
        assert time.monotonic() - self.heard < PATIENCE_S, f"{self.target.__name__} hangs"

    @property
    def is_over(self) -> bool:
        """Whether it has said its last word."""
        return bool(self.said) and "is_last" in self.said[-1]

    def measure(self) -> None:
        if not self.said:  # it is still starting
            return
        place = Path(f"/proc/{self.process.pid}")
        status = (place / "status").read_text()
        self.resident.append(int(status.partition("RssAnon:")[2].split()[0]))
        self.fds.append(len(os.listdir(place / "fd")))

    def kill_and_start_again(self) -> None:
        self.process.kill()
        self.process.join(PATIENCE_S)
        self.end.close()
        self.process.close()
        self.kills += 1
        self.start()

    def stop(self) -> dict[str, Any]:
        """Ask it to end; its last figures."""
        self.end.send_bytes(b"stop")
        until = time.monotonic() + PATIENCE_S
        while not self.is_over:
            assert time.monotonic() < until, f"{self.target.__name__} does not end"
            self.end.poll(SAMPLE_S)
            self.listen()
        self.process.join(PATIENCE_S)
        assert self.process.exitcode == 0
        return self.said[-1]


def growth(samples: list[int]) -> float:
    """By how much samples grew from their first third on: the slope of the best line, times its length."""
    rest = samples[len(samples) // 3 :]
    if len(rest) < 2:
        return 0.0
    return statistics.linear_regression(range(len(rest)), rest).slope * (len(rest) - 1)


def is_flat(samples: list[int]) -> bool:
    return growth(samples) <= 0.1 * statistics.mean(samples) + GROWTH_KIB


def total(counts: list[int]) -> int:
    """The sum of a count that begins anew with each life of a process."""
    return sum(new - old if new >= old else new for old, new in itertools.pairwise([0, *counts]))


class Soak:
    """The whole scene."""

    def __init__(self, path: Path, seed: int = 1) -> None:
        self.path = path
        self.rng = random.Random(seed)
        workers.prepare(path)
        self.workers = {
            "writer": Worker(workers.write, path, 0, 10),
            "mortal writer": Worker(workers.write, path, 1, 11),
            "reader": Worker(workers.read, path, False, 20),
            "mortal reader": Worker(workers.read, path, False, 21),
            "leaking reader": Worker(workers.read, path, True, 22),
            "collector": Worker(workers.collect, path),
        }
        self.files: list[int] = []
        self.live: list[int] = []

    def run(self, seconds: float) -> None:
        """Sample and kill; the first kill comes when everybody works."""
        until = time.monotonic() + seconds
        kill = time.monotonic() + 2 * KILL_S
        while time.monotonic() < until:
            time.sleep(SAMPLE_S)
            for worker in self.workers.values():
                worker.listen()
                worker.measure()
            self.files.append((self.path / "data.mdb").stat().st_size)
            said = self.workers["collector"].said
            if said and said[-1]["live_bytes"]:
                self.live.append(said[-1]["live_bytes"])
            if time.monotonic() > kill:
                kill += KILL_S
                name = self.rng.choice(["mortal writer", "mortal reader", "collector"])
                if self.workers[name].process.is_alive():
                    self.workers[name].kill_and_start_again()

    def stop(self) -> dict[str, dict[str, Any]]:
        return {name: worker.stop() for name, worker in self.workers.items()}

    def close(self) -> None:
        for worker in self.workers.values():
            worker.process.kill()


@pytest.mark.slow
def test_nothing_grows_and_nothing_is_lost_in_a_long_run(tmp_path):
    seconds = pick(20, 2_700)
    soak = Soak(tmp_path / "store")
    try:
        soak.run(seconds)
        last = soak.stop()
    finally:
        soak.close()
    flat = {name: is_flat(worker.resident) for name, worker in soak.workers.items() if worker.kills == 0}
    leaks = not flat.pop("leaking reader")
    ratio = max(soak.files) / max(soak.live)
    with kvgit.Repo(tmp_path / "store") as repo:
        assert list(repo.check()) == []
        assert all(
            len(repo.snapshot(branch=workers.branch_of(number))) == 2 * workers.KEYS for number in (0, 1)
        )
    figures = defaultdict(list)
    for name in flat:
        figures["growth_kib"].append(round(growth(soak.workers[name].resident)))
        figures["p99_ms"].append(last[name]["p99_ms"])
    commits = last["writer"]["commits"]
    collections = total([each["collections"] for each in soak.workers["collector"].said])
    record(
        "M7", seconds=seconds, commits=commits, collections=collections,
        kills=sum(worker.kills for worker in soak.workers.values()), max_file_to_live=round(ratio, 2),
        control_failed=leaks, **figures,
    )  # fmt: skip
    assert commits > 100 and collections > 3
    assert all(flat.values()), {name: soak.workers[name].resident for name in flat}
    assert leaks, "negative control: a reader that keeps what it reads must be seen to grow"
    for name in flat:
        fds = soak.workers[name].fds
        assert max(fds) <= fds[0] + FDS_MORE, (name, fds)
    assert ratio <= FILE_BOUND


def largest_ratio(path: Path, commits: int, collects: bool) -> float:
    """One writer alone: the largest ratio of the file to the live data, until it has made its commits."""
    workers.prepare(path, 1, FEW_KEYS)
    worst = 0.0
    with kvgit.Repo(path, cache_bytes=workers.CACHE_BYTES) as repo:
        writer = workers.Writer(repo, 0, 1, FEW_KEYS)
        first = repo.gc(keep_reflog=0)
        kept, live = first.kept_count, first.kept_bytes
        for _ in range(commits):
            writer.step()
            stats = repo.store.backend.stats()
            worst = max(worst, stats["file_bytes"] / live)
            if collects and stats["record_count"] > (1 + workers.GARBAGE) * kept:
                result = repo.gc(keep_reflog=0)
                kept, live = result.kept_count, max(live, result.kept_bytes)
        writer.verify()
    return worst


@pytest.mark.slow
def test_control_without_gc_the_file_outgrows_its_bound(tmp_path):
    assert largest_ratio(tmp_path / "with", 400, collects=True) <= FILE_BOUND
    assert largest_ratio(tmp_path / "without", 400, collects=False) > FILE_BOUND
