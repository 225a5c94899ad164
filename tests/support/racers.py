"""What the processes of race tests run. Each opens the store itself; a barrier starts them together."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import kvgit_hamt as kvgit
from kvgit_hamt import Snapshot, counter

SPAWN = multiprocessing.get_context("spawn")
PATIENCE_S = 120  # a test that waits longer has hung


def run_all(work: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
    """Run ``work(*arguments, barrier)`` in a process each; their results in order, or what one raised."""
    barrier = SPAWN.Barrier(len(arguments))
    ends = []
    for each in arguments:
        mine, other = SPAWN.Pipe(duplex=False)
        process = SPAWN.Process(target=_report, args=(other, work, (*each, barrier)), daemon=True)
        process.start()
        other.close()
        ends.append((process, mine))
    results = [mine.recv() if mine.poll(PATIENCE_S) else TimeoutError("hung") for _, mine in ends]
    for process, _ in ends:
        process.join(PATIENCE_S)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _report(end: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        end.send(work(*arguments))
    except BaseException as error:
        arguments[-1].abort()
        end.send(error)


def content_hash(snapshot: Snapshot) -> str:
    """A hash over all a snapshot holds, and its number of keys."""
    items = sorted(snapshot.items())
    assert len(items) == len(snapshot)
    return sha256(repr(items).encode()).hexdigest()


def write_keys(path: Path, name: str, count: int, barrier: Any) -> list[str]:
    """Commit ``count`` keys of its own, one commit each; the ids of the commits."""
    with kvgit.open(path) as worktree:
        barrier.wait(PATIENCE_S)
        return commit_keys(worktree, name, count)


def commit_keys(worktree: kvgit.Worktree, name: str, count: int) -> list[str]:
    out = []
    for number in range(count):
        worktree[f"{name}/{number}"] = "x" * (number * 7 % 90) if number % 10 else "blob" * 300
        result = worktree.commit(info={"by": name, "n": number})
        assert result.merged
        assert f"{name}/{number}" in worktree
        out.append(result.commit)
    return out


def count_up(path: Path, step: int, count: int, barrier: Any) -> None:
    """Add ``step`` to a contested counter ``count`` times, by merging."""
    with kvgit.open(path, merge_fns={"hits": counter()}) as worktree:
        barrier.wait(PATIENCE_S)
        add_merging(worktree, step, count)


def add_merging(worktree: kvgit.Worktree, step: int, count: int) -> None:
    for _ in range(count):
        worktree["hits"] = worktree.get("hits", 0) + step
        assert worktree.commit().merged


def count_up_alone(path: Path, count: int, barrier: Any) -> None:
    """Add one to a contested counter ``count`` times, each time over the newest head."""
    with kvgit.open(path) as worktree:
        barrier.wait(PATIENCE_S)
        add_retrying(worktree, count)


def add_retrying(worktree: kvgit.Worktree, count: int) -> None:
    done = 0
    while done < count:
        worktree["hits"] = worktree.get("hits", 0) + 1
        try:
            worktree.commit(on_moved="raise")
            done += 1
        except kvgit.BranchMovedError:
            worktree.discard()
            worktree.refresh()


def create(path: Path, name: str, barrier: Any) -> str:
    """Open a store that is not there yet, together with others; the initial commit it found."""
    barrier.wait(PATIENCE_S)
    with kvgit.open(path) as worktree:
        worktree[name] = 1
        worktree.commit()
        return list(worktree.repo.log())[-1].id


def rewrite(path: Path, count: int, barrier: Any) -> int:
    """Change, delete and add keys under readers' eyes."""
    with kvgit.open(path) as worktree:
        barrier.wait(PATIENCE_S)
        for number in range(count):
            worktree.update({f"k/{i}": f"{number}" * (i % 50) for i in range(number % 7, 400, 7)})
            worktree.pop(f"k/{number}", None)
            worktree.commit()
        return len(worktree)


def read_pinned(path: Path, passes: int, barrier: Any) -> bool:
    """Read one snapshot again and again, and each new head twice, while others write."""
    with kvgit.Repo(path) as repo:
        pinned = repo.snapshot()
        first = content_hash(pinned)
        barrier.wait(PATIENCE_S)
        for _ in range(passes):
            assert content_hash(pinned) == first
            head = repo.snapshot()
            assert content_hash(head) == content_hash(repo.snapshot(commit=head.id))
            assert [commit.id for commit in repo.log(pinned.id, limit=1)] == [pinned.id]
        return True


def call(work: Callable[..., Any], *arguments: Any) -> Any:
    """So that processes of one race may do different work."""
    return work(*arguments)
