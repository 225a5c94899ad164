"""gc in one process beside writers and readers in others, and killed at any moment."""

from __future__ import annotations

import random
import time

import pytest

import kvgit_hamt as kvgit
from bench import gc_soak
from kvgit_hamt import gc
from kvgit_hamt.store import Store

SECONDS = [2.5, pytest.param(60, marks=pytest.mark.slow)]


@pytest.mark.parametrize("seconds", SECONDS)
def test_gc_beside_two_writers_and_a_reader_loses_nothing_and_fails_nobody(tmp_path, seconds):
    counts = gc_soak.race(tmp_path / "store", seconds, seed=round(seconds))
    assert counts["gc"] > 1
    assert counts["freed records"] > 0


@pytest.mark.parametrize("seconds", [1, *SECONDS[1:]])
def test_two_gcs_at_once_fail_nobody_either(tmp_path, seconds):
    counts = gc_soak.race(tmp_path / "store", seconds, collectors=2, seed=round(seconds) + 10)
    assert counts["freed records"] > 0


def collect_slowly(path, ready):
    """Collect in many small steps, again and again."""
    gc.STEP = 8
    with kvgit.Repo(path) as repo:
        ready.set()
        while True:
            repo.gc(keep_reflog=0)


def make_garbage(repo, rng, turn):
    """Half of it with commits of some history, half with a branch that is dropped."""
    name = f"side{turn % 3}"
    side = repo.worktree(name, create=True)
    for _ in range(4):
        side.update({f"{rng.randrange(3_000)}": rng.randrange(10) for _ in range(100)})
        side.commit(time=None)
    if turn % 2:
        repo.branches.delete(name)
    else:
        side.reset(repo.branches["main"])


def all_there(repo):
    """Every commit that a branch reaches can be read whole, and what indexes name is all there."""
    store = repo.store
    trees = {commit.tree: commit.id for name in repo.branches for commit in repo.log(name)}
    for commit in trees.values():
        assert all(value is not None for _, value in repo.snapshot(commit=commit).items())
    fresh = Store(store.backend, store.shape, 0)
    for oid, _ in store.backend.list_index("commit", b"", 10_000):
        gc.Marker(fresh, lambda count: None).mark_commit(oid)
    for link in store.backend.list_index("node", b"", 10_000):
        gc.Marker(fresh, lambda count: None).mark_tree(link)
    return True


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_a_gc_that_was_killed_leaves_a_store_that_is_whole(tmp_path, kills):
    path, rng = tmp_path / "store", random.Random(kills)
    with kvgit.open(path) as work:
        work.load({f"{n}": n % 10 for n in range(3_000)})
        content = dict(work)
    for turn in range(kills):
        with kvgit.Repo(path) as repo:
            make_garbage(repo, rng, turn)
        ready = gc_soak.SPAWN.Event()
        process = gc_soak.SPAWN.Process(target=collect_slowly, args=(path, ready), daemon=True)
        process.start()
        assert ready.wait(60)
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.join()
        with kvgit.Repo(path) as repo:
            assert all_there(repo)
            assert dict(repo.snapshot().items()) == content
            if turn % 5 == 4:
                repo.gc(keep_reflog=0)
                assert repo.gc(keep_reflog=0).freed_count == 0
                assert all_there(repo)
