"""A hundred thousand commits in one line: nothing recurses, and nothing takes more memory than its share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kvgit_hamt import Repo
from kvgit_hamt.errors import CorruptionError
from tests.support.longline import EDIT_EVERY, EPOCH_US, grow
from tests.support.scale import pick, record

pytestmark = pytest.mark.slow

COMMITS = pick(100_000, 1_000_000)


def memory_kib() -> int:
    """Memory of this process that is not pages of a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    raise AssertionError("the system does not tell")


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    with Repo(tmp_path_factory.mktemp("deep") / "store") as repo:
        grow(repo, "main", COMMITS)
        repo.branches.create("side", at=repo.resolve_commit(f"main~{COMMITS // 2}").oid.hex())
        grow(repo, "side", 10)
        yield repo


@pytest.fixture(autouse=True)
def _shallow_stack() -> Iterator[None]:
    """Python allows some 50 more frames than the test has: nothing can follow history by recursion."""
    limit = sys.getrecursionlimit()
    depth = 0
    frame: Any = sys._getframe()
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    sys.setrecursionlimit(depth + 120)
    yield
    sys.setrecursionlimit(limit)


def test_a_walk_that_recurses_would_be_found(deep):
    """The control."""

    def count(oid: bytes, loc: bytes) -> int:
        commit = deep.store.read_commit(oid, loc)
        return 1 + sum(count(*parent) for parent in commit.parents)

    head = deep.resolve_commit("main")
    with pytest.raises((RecursionError, CorruptionError), match="recursion depth"):
        count(head.oid, head.loc)


def test_the_log_is_complete_and_in_order(deep):
    numbers = [commit.info["n"] for commit in deep.log() if commit.info]
    assert numbers == list(range(COMMITS - 1, -1, -1))
    assert sum(1 for _ in deep.log(key="key/7")) == COMMITS // (50 * EDIT_EVERY)
    assert deep.resolve_commit("main").generation == COMMITS + 1


def test_a_commit_far_back_is_found(deep):
    first = deep.get_commit(f"main~{COMMITS - 1}")
    assert first.info == {"n": 0}
    then = deep.snapshot(as_of=(EPOCH_US + 5) / 1e6)
    assert deep.get_commit(then.id).info == {"n": 5}


def test_the_merge_base_is_found_in_the_middle(deep):
    base = deep.merge_base("main", "side")
    assert deep.get_commit(base).info == {"n": COMMITS - COMMITS // 2 - 1}
    assert deep.merge_base("main", f"main~{COMMITS}") == deep.get_commit(f"main~{COMMITS}").id


def test_branches_that_parted_long_ago_merge(deep):
    deep.branches.create("merged", at="main")
    work = deep.worktree("merged")
    assert work.merge(branch="side", default_merge=lambda old, ours, theirs: ours)
    assert len(work) == 50
    deep.branches.delete("merged")


def test_a_commit_costs_what_it_costs_on_a_young_branch(deep):
    costs = []
    for repo in (Repo(), deep):
        repo.branches.create("cost", at="main")
        work = repo.worktree("cost")
        work["new"] = 1
        before = repo.store.counters.copy()
        work.commit()
        costs.append(repo.store.counters.since(before))
        repo.branches.delete("cost")
    assert costs[1].nodes_read <= costs[0].nodes_read + 4
    assert costs[1].nodes_written <= costs[0].nodes_written + 4


def test_gc_check_and_usage_walk_all_of_it(deep):
    assert deep.gc(dry_run=True, keep_reflog=timedelta(days=1)).freed_count <= 4
    assert [*deep.check()] == []
    usage = deep.usage()
    assert usage["heads/main"].shared_bytes > 0
    assert usage["heads/main"].exclusive_bytes > usage["heads/side"].exclusive_bytes > 0


def test_a_bundle_of_all_of_it(deep, tmp_path: Path):
    made = deep.bundle(tmp_path / "all")
    assert made.commit_count == COMMITS + 11
    held = [memory_kib()]

    def look(phase: str, done: int, total: int) -> None:
        if not done % 1_000:
            held.append(memory_kib())

    with Repo(tmp_path / "other") as other:
        loaded = other.load_bundle(tmp_path / "all", progress=look)
        assert loaded.commit_count == COMMITS + 10
        assert len(held) > 5
        assert max(held) - held[0] < 100_000 + COMMITS // 2, "some 300 bytes a commit, and what is bounded"
        assert dict(other.branches) == dict(deep.branches)
        assert sum(1 for _ in other.log("side")) == COMMITS // 2 + 11
    thin = deep.bundle(tmp_path / "thin", "main~20..main")
    assert (thin.commit_count, len(thin.prerequisites)) == (20, 1)
    record("LIM2 history", commits=COMMITS, bundle_bytes=made.byte_count)


def test_collecting_a_line_that_nothing_reaches(deep, tmp_path: Path):
    with Repo(tmp_path / "store") as repo:
        repo.branches.create("gone")
        grow(repo, "gone", 20_000)
        repo.branches.delete("gone")
        done = repo.gc(keep_reflog=0)
        assert done.freed_count > 20_000
        assert done.kept_count == 2
        assert [*repo.check()] == []
