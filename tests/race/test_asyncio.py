"""Commits from an event loop, many of which are cancelled (L7)."""

from __future__ import annotations

import asyncio
import random

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt.backend.lmdb import LmdbBackend
from tests.support.scale import pick, record


async def commit_all(repo, count, cancel_share):
    """Commit from so many tasks at once; (keys told to be stored, keys whose task was cancelled)."""
    rng = random.Random(3)

    def commit(key):
        with repo.worktree() as work:
            work.update({f"{key}/a": key, f"{key}/b": key})
            work.commit()
        return key

    tasks = {key: asyncio.create_task(asyncio.to_thread(commit, key)) for key in range(count)}
    unlucky = [key for key in tasks if rng.random() < cancel_share]
    for key in unlucky:
        await asyncio.sleep(rng.random() * 0.004)
        tasks[key].cancel()
    done = await asyncio.gather(*tasks.values(), return_exceptions=True)
    stored = {key for key in done if isinstance(key, int)}
    assert all(isinstance(each, (int, asyncio.CancelledError)) for each in done), done
    return stored, set(tasks) - stored


def check(path, stored, cancelled):
    """Pairs are whole, what was acknowledged is there, and the lock is free."""
    with kvgit.Repo(LmdbBackend(path, lock_timeout_s=0)) as repo:
        found = dict(repo.snapshot().items())
        halves = [{int(key.split("/")[0]) for key in found if key.endswith(end)} for end in ("/a", "/b")]
        assert halves[0] == halves[1]
        assert stored <= halves[0] <= stored | cancelled
        repo.branches.create("after")


@pytest.mark.parametrize("tasks", [60, pytest.param(0, marks=pytest.mark.slow)])
def test_cancelled_commits_are_done_or_not_done_and_leave_no_lock(tmp_path, tasks):
    tasks = tasks or pick(200, 4_000)
    with kvgit.Repo(tmp_path / "store") as repo:
        stored, cancelled = asyncio.run(commit_all(repo, tasks, 0.4))
    assert stored
    assert cancelled
    check(tmp_path / "store", stored, cancelled)
    with pytest.raises(AssertionError):  # the control: a commit that was acknowledged and is not there
        check(tmp_path / "store", stored | {10**6}, cancelled)
    record("L7", tasks=tasks, cancelled=len(cancelled), violations=0, control_failed=1)
