"""A commit that is read stays what it is beside writers and gc (L4); threads that share a Repo (L5)."""

from __future__ import annotations

import random
import sys
import threading
import time

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import Repo
from kvgit_hamt.backend import lmdb_write
from tests.support import isolation
from tests.support.homes import SMALL
from tests.support.linear_workers import put_blindly
from tests.support.racers import call, run_all
from tests.support.scale import SOAK, pick, record

# --- L4


def isolated(path, keys, seconds):
    """(passes of the readers, contents that the commit had, heads that were seen, commits, records freed)."""
    isolation.make(path, keys)
    races = [(isolation.read, path, seconds)] * 2 + [
        (isolation.write, path, 1, seconds),
        (isolation.collect, path, seconds),
    ]
    *readers, commits, freed = run_all(call, races)
    passes, contents, heads = zip(*readers, strict=True)
    return sum(passes), max(contents), min(heads), commits, freed


@pytest.mark.slow
def test_a_commit_that_is_read_again_and_again_never_changes_beside_writers_and_gc(tmp_path):
    keys, seconds = pick(100_000, 1_000_000), pick(12, 600)
    passes, contents, heads, commits, freed = isolated(tmp_path / "store", keys, seconds)
    assert contents == 1
    assert heads > 1  # the control: one who reads the head sees what the writers do
    assert freed > 0
    assert passes >= 2
    record("L4", keys=keys, passes=passes, commits=commits, freed=freed, violations=contents - 1,
           control_failed=heads - 1)  # fmt: skip


def test_a_small_commit_never_changes_beside_writers_and_gc(tmp_path):
    _, contents, heads, commits, _ = isolated(tmp_path / "store", 3_000, 1.5)
    assert (contents, heads > 1, commits > 0) == (1, True, True)


# --- L5

EXPECTED = (
    kvgit.ClosedError,
    kvgit.MergeConflict,
    kvgit.NotFoundError,
    kvgit.ExistsError,
    kvgit.BranchMovedError,
)


class Worker:
    """A thread that does everything on a Repo that it shares with others."""

    def __init__(self, repo, number):
        self.repo = repo
        self.rng = random.Random(number)
        self.name = f"t{number}"
        self.mine = {}
        self.faults = []
        self.done = 0

    def commit(self):
        with self.repo.worktree() as work:
            key, value = f"{self.name}/{self.rng.randrange(40)}", self.rng.randrange(10**6)
            work[key] = value
            work.commit()
            self.mine[key] = value

    def read(self):
        snapshot = self.repo.snapshot()
        found = dict(snapshot.items(prefix=self.name + "/"))
        assert found == self.mine, "a thread does not see its own commits"
        assert len(list(snapshot)) == len(snapshot)

    def look_back(self):
        commits = list(self.repo.log(limit=20))
        list(self.repo.diff(commits[-1].id, commits[0].id))
        self.repo.stats()

    def branch(self):
        name = f"b{self.rng.randrange(6)}"
        if self.rng.random() < 0.5:
            self.repo.branches.create(name)
        else:
            self.repo.branches.delete(name)

    def collect(self):
        self.repo.gc()

    def run(self, end):
        steps = [self.commit] * 6 + [self.read] * 6 + [self.look_back, self.branch, self.branch, self.collect]
        while time.monotonic() < end:
            try:
                self.rng.choice(steps)()
                self.done += 1
            except EXPECTED as error:
                if isinstance(error, kvgit.ClosedError):
                    return
            except BaseException as error:
                self.faults.append(error)
                return


def threads_on(repo, seconds, *, close_after=None):
    workers = [Worker(repo, number) for number in range(8)]
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=worker.run, args=(end,)) for worker in workers]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        for thread in threads:
            thread.start()
        if close_after is not None:
            time.sleep(close_after)
            repo.close()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(usual)
    return workers


@pytest.mark.parametrize("where", ["memory", "lmdb"])
def test_eight_threads_on_one_repo_see_their_own_commits(tmp_path, where):
    seconds = 30 * SOAK + 1.5
    with Repo(tmp_path / "store" if where == "lmdb" else None, shape=SMALL) as repo:
        workers = threads_on(repo, seconds)
        assert [fault for worker in workers for fault in worker.faults] == []
        assert dict(repo.snapshot().items()) == {
            key: n for worker in workers for key, n in worker.mine.items()
        }
    assert all(worker.done for worker in workers)


@pytest.mark.slow
def test_eight_threads_for_long_and_repos_that_are_closed_under_them(tmp_path):
    done = 0
    with Repo(tmp_path / "store", shape=SMALL) as repo:
        workers = threads_on(repo, pick(4, 120))
        assert [fault for worker in workers for fault in worker.faults] == []
        assert dict(repo.snapshot().items()) == {
            key: n for worker in workers for key, n in worker.mine.items()
        }
        done += sum(worker.done for worker in workers)
    rounds = pick(15, 300)
    for number in range(rounds):
        path = tmp_path / f"store{number}"
        workers = threads_on(Repo(path, shape=SMALL), 60, close_after=0.02 + number % 7 * 0.02)
        assert [fault for worker in workers for fault in worker.faults] == []
        with Repo(path) as repo:
            found = dict(repo.snapshot().items())
        for worker in workers:
            lost = {key for key, value in worker.mine.items() if found.get(key) != value}
            assert len(lost) <= 1  # one that was set anew by the commit that was told of the closing
            assert worker.mine.keys() <= found.keys()
        done += sum(worker.done for worker in workers)
    record("L5", threads=8, operations=done, closed=rounds, violations=0)


def test_threads_whose_refs_move_blindly_lose_commits(tmp_path, monkeypatch):
    """The control."""
    monkeypatch.setattr(lmdb_write, "_move_ref", lmdb_write._move_ref)  # put back at the end
    put_blindly()
    with Repo(tmp_path / "store", shape=SMALL) as repo:
        workers = threads_on(repo, 1.5)
        found = dict(repo.snapshot().items())
    faults = [fault for worker in workers for fault in worker.faults]
    assert faults or found != {key: n for worker in workers for key, n in worker.mine.items()}
