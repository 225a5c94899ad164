"""M4: clients of one store over storage that fails at random. One seed is one run; nothing is lost.

Three clients add to one branch, make and move branches, load and collect. Each knows what it was told: done,
not done, or that nobody knows, after which it looks. What the store holds must be what they were told, to the
last addition to a counter that all of them share. (Each adds another number: equal values are no conflict.)
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import Repo
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.memory import MemoryBackend
from kvgit_hamt.errors import BackendError, CorruptionError, OutcomeUnknownError
from tests.support.buggify import BlindBackend, BuggyBackend, LosingBackend
from tests.support.homes import SMALL
from tests.support.placed import PlacedBackend
from tests.support.scale import pick, record

CLIENTS = 3
STEPS = 40
ADDS = (1, 10_000, 10_000**2, 10_000**3)  # of each client, and of somebody else
RATES = (0.0, 0.01, 0.03, 0.1)


class Run:
    """One seed."""

    def __init__(self, seed: int, inner: Any, wrapper: type[BuggyBackend] = BuggyBackend) -> None:
        self.rng = random.Random(seed)
        self.inner = inner
        self.truth = Repo(inner, shape=SMALL, merge_fns={"hits": kvgit.counter()})
        self.backend = wrapper(inner, random.Random(seed + 1), 0.0)
        self.repo = Repo(
            self.backend, merge_fns={"hits": kvgit.counter()}, cache_bytes=self.rng.choice([0, 1 << 20])
        )
        self.clients = [self.repo.worktree() for _ in range(CLIENTS)]
        self.content: dict[str, Any] = {}
        self.branches = dict(self.truth.branches)
        self.outcomes: Counter[str] = Counter()
        self.number = 0
        self.is_nested = False
        self.backend.others = self.somebody_else
        self.backend.rate = self.rng.choice(RATES)
        self.is_whole = not isinstance(inner, PlacedBackend)  # that one cannot be listed, so neither swept

    def somebody_else(self) -> None:
        """A commit by a client of its own, between two steps of another; it always succeeds."""
        if self.is_nested:
            return
        self.is_nested = True
        work = self.truth.worktree()
        changes = self.changes(work, CLIENTS)
        work.update(changes)
        assert work.commit(info={"op": self.number}).merged
        self.note(changes, CLIENTS)
        self.is_nested = False

    def changes(self, work: kvgit.Worktree, who: int) -> dict[str, Any]:
        """A key of its own, and an addition to what the client sees."""
        self.number += 1
        value = "blob " * 30 if self.rng.random() < 0.2 else self.number
        return {f"op/{self.number % 7}/{self.number}": value, "hits": work.get("hits", 0) + ADDS[who]}

    def note(self, changes: dict[str, Any], who: int) -> None:
        hits = self.content.get("hits", 0) + ADDS[who]
        self.content.update(changes)
        self.content["hits"] = hits

    def run(self) -> None:
        """All steps, each followed by a comparison with the truth."""
        steps = [self.commit] * 6 + [self.make_branch, self.drop_branch, self.load, self.look]
        if self.is_whole:
            steps.append(self.collect)
        for _ in range(STEPS):
            self.rng.choice(steps)()
            self.verify()
        if self.is_whole:
            assert list(self.truth.check()) == []

    def verify(self) -> None:
        """What the storage holds is what the clients were told."""
        held = {name: commit for name, commit in self.truth.branches.items() if name != "main"}
        assert held == {name: commit for name, commit in self.branches.items() if name != "main"}
        assert dict(self.truth.snapshot()) == self.content

    def is_stored(self, number: int) -> bool:
        """What a client does that was told nothing: look whether its commit is in the history."""
        return any((commit.info or {}).get("op") == number for commit in self.truth.log())

    def attempt(self, call: Any) -> str:
        """Make a call that may meet faults: "done", "failed" or "unknown"."""
        try:
            call()
        except OutcomeUnknownError:
            outcome = "unknown"
        except (BackendError, CorruptionError):
            outcome = "failed"
        else:
            outcome = "done"
        self.outcomes[outcome] += 1
        return outcome

    def commit(self) -> None:
        who = self.rng.randrange(CLIENTS)
        work = self.clients[who]
        changes: dict[str, Any] = {}
        if self.attempt(lambda: changes.update(self.changes(work, who))) != "done":
            return
        number = self.number
        work.update(changes)
        for _ in range(10):
            outcome = self.attempt(lambda: self.push(work, number))
            if outcome == "unknown":
                outcome = "done" if self.is_stored(number) else "failed"
            if outcome == "done":
                self.note(changes, who)
                break
            assert not self.is_stored(number), "it was told that nothing was stored"
            assert work.status().updated == set(changes), "edits outlive a failed commit"
            if self.rng.random() < 0.3:
                break  # given up
        else:
            outcome = "failed"
        self.calm(lambda: (work.discard(), work.refresh()))

    def push(self, work: kvgit.Worktree, number: int) -> None:
        assert work.commit(info={"op": number}).merged

    def calm(self, call: Any) -> None:
        """Something without faults."""
        rate, self.backend.rate = self.backend.rate, 0.0
        call()
        self.backend.rate = rate

    def make_branch(self) -> None:
        name = f"b{self.rng.randrange(4)}"
        if name in self.branches:
            return
        made: list[str] = []
        outcome = self.attempt(lambda: made.append(self.repo.branches.create(name)))
        found = self.truth.branches.get(name)
        assert found == made[0] if outcome == "done" else found is None or outcome == "unknown"
        if found is not None:
            self.branches[name] = found

    def drop_branch(self) -> None:
        name = f"b{self.rng.randrange(4)}"
        if name not in self.branches:
            return

        def drop() -> None:
            try:
                self.repo.branches.delete(name)
            except (kvgit.BranchNotFoundError, kvgit.BranchMovedError):  # old news
                raise BackendError("it was not seen") from None

        outcome = self.attempt(drop)
        is_gone = name not in self.truth.branches
        assert outcome == "unknown" or is_gone is (outcome == "done")
        if is_gone:
            del self.branches[name]

    def load(self) -> None:
        """Many entries at once, on a branch of its own so that races are the others' alone."""
        items = {f"l/{number}": self.rng.randrange(9) for number in range(30)}
        name = next((name for name in sorted(self.branches) if name != "main"), None)
        if name is None:
            return
        before = self.truth.branches[name]
        result: list[kvgit.MergeResult] = []

        def load() -> None:
            try:
                result.append(self.repo.worktree(name).load(items))
            except (kvgit.BranchMovedError, kvgit.BranchNotFoundError):  # old news
                raise BackendError("it was not seen") from None

        outcome = self.attempt(load)
        now = self.truth.branches[name]
        if outcome == "done":
            assert now == result[0].commit
        elif outcome == "failed":
            assert now == before
        if now != before:
            found = dict(self.truth.snapshot(branch=name))
            assert found == {**dict(self.truth.snapshot(commit=before)), **items}
            self.branches[name] = now

    def look(self) -> None:
        """Reading gives the truth of some moment, or fails."""
        work = self.rng.choice(self.clients)
        seen: dict[str, Any] = {}
        if self.attempt(lambda: seen.update(work)) == "done":
            assert seen == dict(self.truth.snapshot(commit=work.base))

    def collect(self) -> None:
        """gc may be stopped by a fault; it takes nothing that is held. It is not given old news."""
        self.calm(lambda: [work.refresh() for work in self.clients])
        self.backend.may_be_stale = False
        self.attempt(lambda: self.repo.gc(keep_reflog=0))
        self.backend.may_be_stale = True


def backend_of(kind: str, directory: Path) -> Any:
    if kind == "lmdb":
        return LmdbBackend(directory / "store", sync="no_meta")
    return MemoryBackend() if kind == "memory" else PlacedBackend()


def seeds(
    kind: str, numbers: range, directory: Path, wrapper: type[BuggyBackend] = BuggyBackend
) -> Counter[str]:
    """Run seeds; outcomes and faults."""
    total: Counter[str] = Counter()
    for seed in numbers:
        inner = backend_of(kind, directory / str(seed))
        run = Run(seed, inner, wrapper)
        try:
            run.run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        finally:
            inner.close()
        total.update(run.outcomes)
        total.update(run.backend.faults)
    return total


KINDS = ("memory", "placed", "lmdb")


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost_over_faulty_storage(kind, tmp_path):
    total = seeds(kind, range(12), tmp_path)
    assert total["done"] > 100 and total["failed"] > 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "ci", "soak"), [("memory", 200, 10_000), ("placed", 150, 6_000), ("lmdb", 50, 4_000)]
)
def test_nothing_is_lost_over_faulty_storage_for_long(kind, ci, soak, tmp_path):
    count = pick(ci, soak)
    total = seeds(kind, range(1_000, 1_000 + count), tmp_path)
    assert all(
        total[each]
        for each in ("done", "failed", "unknown", "old news", "stored, then lost", "second refused")
    )
    record("M4", seeds=count, violations=0, control_failed=True, **total)


@pytest.mark.parametrize("wrapper", [LosingBackend, BlindBackend])
def test_control_storage_that_lies_is_found_out(wrapper, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "RATES", (0.1,))
    found = 0
    for seed in range(20):
        try:
            seeds("memory", range(seed, seed + 1), tmp_path, wrapper)
        except (AssertionError, CorruptionError):
            found += 1
    assert found >= 10  # in some runs nothing is lost, and then nothing is found


def test_one_seed_is_one_run(tmp_path):
    for kind in ("memory", "placed"):
        assert seeds(kind, range(7, 9), tmp_path) == seeds(kind, range(7, 9), tmp_path)
