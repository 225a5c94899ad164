"""M8: large stores: loading, a diff of a thousand changes, a check. What is read follows the changes."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable, Iterator

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt.store import Counters
from tests.support.scale import pick, record

CHANGES = 1_000
SIZES = sorted({100_000, pick(100_000, 1_000_000), pick(100_000, 10_000_000)})


def items(count: int) -> Iterator[tuple[str, bytes]]:
    rng = random.Random(1)
    return ((f"user:{number:09d}", rng.randbytes(64)) for number in range(count))


def changed(count: int, changes: int) -> dict[str, bytes]:
    """New values for keys all over the store."""
    step = count // changes
    return {f"user:{number:09d}": b"new %d" % number for number in range(0, step * changes, step)}


class Clock:
    """Seconds of each phase, and the counters of a store."""

    def __init__(self, repo: kvgit.Repo) -> None:
        self.repo = repo
        self.seconds: dict[str, float] = {}

    def time(self, name: str, action: Callable[[], object]) -> tuple[object, Counters]:
        before, start = self.repo.store.counters.copy(), time.perf_counter()
        result = action()
        self.seconds[f"{name}_s"] = round(time.perf_counter() - start, 3)
        return result, self.repo.store.counters.since(before)


def depth_bound(count: int) -> int:
    """Inner levels that so many keys can need, one to spare: each level divides by 32 at least."""
    levels = 2
    while count > 20:
        count //= 32
        levels += 1
    return levels


@pytest.mark.slow
@pytest.mark.parametrize("count", SIZES)
def test_a_large_store_is_loaded_compared_and_checked(count, tmp_path):
    with kvgit.open(tmp_path / "store", codec="bytes", cache_bytes=8 << 20) as work:
        repo = work.repo
        clock = Clock(repo)
        clock.time("load", lambda: work.load(items(count)))
        assert len(work) == count
        before = work.base
        changes = changed(count, CHANGES)
        _, commit = clock.time("commit", lambda: (work.update(changes), work.commit()))
        bound = CHANGES * depth_bound(count)
        assert commit.nodes_written <= bound
        found, diff = clock.time(
            "diff", lambda: {change.key: change.new for change in repo.diff(before, "main")}
        )
        assert found == changes
        assert diff.nodes_read <= 2 * bound
        _, get = clock.time("get", lambda: [work[key] for key in list(changes)[:100]])
        assert get.nodes_read <= 100 * depth_bound(count)
        checking = repo.check(deep=True)
        assert clock.time("check", lambda: list(checking))[0] == []
        result = checking.result()
        assert result.key_count >= count
        record(
            f"M8 {count:,} keys", violations=0, file_bytes=repo.stats()["file_bytes"], **clock.seconds,
            diff_nodes=diff.nodes_read, commit_nodes=commit.nodes_written, get_nodes=get.nodes_read,
            process_rss_kib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        )  # fmt: skip


@pytest.mark.slow
def test_control_a_walk_over_all_keys_does_not_keep_the_bound(tmp_path):
    """The bounds are far below what a comparison key by key reads, even of the smallest store."""
    count = SIZES[0]
    with kvgit.open(tmp_path / "store", codec="bytes", cache_bytes=0) as work:
        work.load(items(count))
        clock = Clock(work.repo)
        _, scan = clock.time("scan", lambda: sum(1 for _ in work.items()))
        some = list(changed(count, 10))
        _, get = clock.time("get", lambda: [work[key] for key in some])
    assert scan.nodes_read > 10 * depth_bound(count) * 2
    assert get.nodes_read <= 10 * depth_bound(count)
