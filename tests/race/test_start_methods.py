"""Every way in which Python starts processes, before and after a store is opened (L6)."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt.backend import lmdb_env
from tests.support.racers import PATIENCE_S
from tests.support.scale import pick, record

METHODS = multiprocessing.get_all_start_methods()
WORKERS, COMMITS = 3, 5
PRELOADED: dict[str, kvgit.Repo] = {}  # what a server opened before it forked its workers


def commit_some(path, number):
    with kvgit.open(path) as work:
        for step in range(COMMITS):
            work[f"{number}/{step}"] = step
            work.commit()
        return len(work)


def commit_by_the_preloaded(number):
    with PRELOADED["repo"].worktree() as work:
        for step in range(COMMITS):
            work[f"{number}/{step}"] = step
            work.commit()
    return PRELOADED["repo"].snapshot()["before"]


@pytest.fixture
def path(tmp_path):
    with kvgit.open(tmp_path / "store") as work:
        work["before"] = 1
        work.commit()
    return tmp_path / "store"


def assert_all_landed(path, numbers=WORKERS):
    with kvgit.open(path) as work:
        wanted = {f"{number}/{step}": step for number in range(numbers) for step in range(COMMITS)}
        assert dict(work) == {"before": 1, **wanted}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("is_open", [False, True], ids=["closed", "open"])
def test_workers_of_a_pool_write_to_the_store_that_their_parent_uses(path, method, is_open):
    parent = kvgit.open(path) if is_open else None
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context(method)) as pool:
        jobs = [pool.submit(commit_some, path, number) for number in range(WORKERS)]
        if parent is not None:
            parent["before"] = 1
            parent.commit(info={"by": "the parent"})
        assert all(job.result(PATIENCE_S) > COMMITS for job in jobs)
    if parent is not None:
        parent.refresh()
        assert len(parent) == 1 + WORKERS * COMMITS
        parent.close()
    assert_all_landed(path)


def test_workers_that_were_forked_from_a_server_share_its_repo(path):
    PRELOADED["repo"] = kvgit.Repo(path)
    try:
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(WORKERS, mp_context=fork) as pool:
            jobs = [pool.submit(commit_by_the_preloaded, number) for number in range(WORKERS)]
            assert [job.result(PATIENCE_S) for job in jobs] == [1] * WORKERS
        assert len(PRELOADED["repo"].snapshot()) == 1 + WORKERS * COMMITS
    finally:
        PRELOADED.pop("repo").close()
    assert_all_landed(path)


def in_child(work):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(PATIENCE_S)
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_amid_commits(repo, rounds):
    """Fork again and again while a thread commits; how often it did, and how the children ended."""
    stop, commits, ends = threading.Event(), 0, []

    def write():
        nonlocal commits
        with repo.worktree() as work:
            while not stop.is_set():
                work["counter"] = commits
                work.commit()
                commits += 1

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(rounds):

            def work(number=number):
                with repo.worktree(f"child{number}", create=True) as mine:
                    mine["number"] = number
                    mine.commit()
                repo.close()

            ends.append(in_child(work))
            assert repo.snapshot(branch=f"child{number}")["number"] == number
    finally:
        stop.set()
        thread.join()
    return commits, ends


@pytest.mark.slow
def test_forks_while_another_thread_is_in_a_commit_leave_both_sides_whole(path):
    rounds = pick(40, 2_000)
    with kvgit.Repo(path) as repo:
        commits, ends = fork_amid_commits(repo, rounds)
        assert ends == [0] * rounds
        assert repo.snapshot()["counter"] == commits - 1
    record("L6", forks=rounds, commits=commits, violations=0)


def test_without_the_hooks_a_child_cannot_use_what_its_parent_opened(path, monkeypatch):
    """The control: LMDB's environment crosses the fork, and the child is told so or works on its parent's."""
    with kvgit.Repo(path) as repo:
        env = repo.store.backend._shared.open().env
        monkeypatch.setattr(lmdb_env, "_environments", {})  # what the hooks close

        def work():
            os._exit(7 if repo.store.backend._shared._session.env is env else 0)

        assert in_child(work) == 7
        monkeypatch.undo()
        assert repo.snapshot()["before"] == 1
