"""What gc and usage cost, by counters: reads, steps under the write lock, marks."""

from __future__ import annotations

import pytest

from kvgit_hamt import gc
from kvgit_hamt.backend.memory import MemoryBackend
from kvgit_hamt.store import Store
from tests.support.homes import Home

COUNT = 20_000


class Counting(MemoryBackend):
    """Counts records read and sweep steps, and the deletions of the largest step."""

    def __init__(self):
        super().__init__()
        self.reads = 0
        self.steps = []

    def read(self, oid, loc):
        self.reads += 1
        return super().read(oid, loc)

    def sweep(self, action):
        def counted(sweep):
            before = len(sweep.records)
            result = action(sweep)
            self.steps.append(len(sweep.records) - before)
            return result

        return super().sweep(counted)


@pytest.fixture
def home(tmp_path):
    home = Home("memory", tmp_path)
    home._inner = Counting()
    yield home
    home.close()


def loaded(home):
    repo = home.open(clock=home.clock)
    repo.worktree().load({f"key {number}": f"value {number}" * 4 for number in range(COUNT)})
    return repo


def test_leaves_without_blobs_are_marked_unread(home):
    repo = loaded(home)
    home._inner.reads = 0
    result = repo.gc()
    assert result.kept_count > 700
    assert home._inner.reads < result.kept_count / 3


def test_shared_subtrees_are_read_once_for_all_of_a_history(home):
    repo = loaded(home)
    home._inner.reads = 0
    repo.gc()
    once = home._inner.reads
    worktree = repo.worktree()
    for number in range(50):
        worktree["one key"] = number
        worktree.commit()
    home._inner.reads = 0
    repo.gc()
    # each commit: itself, its root, and the inner nodes on one way
    assert home._inner.reads - once <= 50 * 4


def test_no_step_under_the_lock_deletes_more_than_its_share(home, monkeypatch):
    monkeypatch.setattr(gc, "STEP", 100)
    repo = loaded(home)
    side = repo.worktree("side", create=True)
    side.load({f"other {number}": "x" * 60 for number in range(COUNT)})
    repo.branches.delete("side")
    del side
    home._inner.steps.clear()
    result = repo.gc(keep_reflog=0)
    assert result.freed_count > 700
    assert max(home._inner.steps) <= 100
    assert sum(home._inner.steps) == result.freed_count


def test_a_gc_with_nothing_to_free_takes_no_write_lock(home):
    repo = loaded(home)
    repo.gc(keep_reflog=0)
    home._inner.steps.clear()
    assert repo.gc(keep_reflog=0).freed_count == 0
    assert home._inner.steps == []


def test_marks_take_a_bit_a_record(tmp_path):
    home = Home("lmdb", tmp_path)
    repo = home.open(clock=home.clock)
    worktree = repo.worktree()
    for start in range(0, 20_000, 1_000):
        worktree.update({f"key {number}": "v" * 60 for number in range(start, start + 1_000)})
        worktree.commit()
    marker = gc.Marker(Store(repo.store.backend, repo.store.shape, 0), lambda count: None)
    marker.mark_commit(repo.branches.head("main").oid)
    blocks = marker.marks._blocks
    assert marker.marks.count > 1_000
    assert sum(map(len, blocks.values())) <= 1_024 + repo.store.backend.next_place() // 8
    home.close()


def test_usage_reads_no_leaves_without_blobs(home):
    repo = loaded(home)
    repo.branches.create("same")
    home._inner.reads = 0
    repo.usage()
    assert home._inner.reads < repo.stats()["record_count"] / 2
