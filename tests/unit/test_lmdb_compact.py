"""Compaction: the file shrinks, nothing changes, and it refuses where it would not be safe."""

from __future__ import annotations

import multiprocessing
import os
import threading

import pytest

import kvgit_hamt as kvgit


def fill_and_free(path):
    """A worktree of a store most of whose file is free pages."""
    work = kvgit.open(path)
    first = work.base
    work.load({f"k{number:05d}": os.urandom(700) for number in range(3_000)})
    work.reset(first)
    work["kept"] = "value"
    work.commit()
    assert work.repo.gc(keep_reflog=0).freed_count > 3_000
    return work


def hold_open(path, is_open, may_end):
    """Hold a store open in another process, without a read transaction."""
    with kvgit.open(path):
        is_open.set()
        may_end.wait(60)


def test_the_file_shrinks_and_everything_stays(tmp_path):
    path = tmp_path / "store"
    with fill_and_free(path) as work:
        before, after = work.repo.compact()
        assert before > 2_000_000
        assert after < 100_000
        assert os.path.getsize(path / "data.mdb") == after
        assert dict(work) == {"kept": "value"}
        work["more"] = 1
        work.commit()
    with kvgit.open(path) as work:
        assert dict(work) == {"kept": "value", "more": 1}
    assert "compact.tmp" not in os.listdir(path)


def test_it_refuses_while_another_process_has_the_store_open(tmp_path):
    path = tmp_path / "store"
    context = multiprocessing.get_context("spawn")
    is_open, may_end = context.Event(), context.Event()
    with fill_and_free(path) as work:
        other = context.Process(target=hold_open, args=(path, is_open, may_end))
        other.start()
        try:
            assert is_open.wait(60)
            size = os.path.getsize(path / "data.mdb")
            with pytest.raises(kvgit.LockedError, match="another process"):
                work.repo.compact()
            assert os.path.getsize(path / "data.mdb") == size
            assert dict(work) == {"kept": "value"}
        finally:
            may_end.set()
            other.join()
        assert other.exitcode == 0
        assert work.repo.compact()[1] < 100_000


def test_a_copy_left_by_a_killed_run_is_no_hindrance(tmp_path):
    path = tmp_path / "store"
    with fill_and_free(path) as work:
        (path / "compact.tmp").write_bytes(b"half a copy")
        work.repo.compact()
        assert dict(work) == {"kept": "value"}
    assert "compact.tmp" not in os.listdir(path)


def test_readers_in_other_threads_do_not_notice(tmp_path):
    with fill_and_free(tmp_path / "store") as work:
        stop = threading.Event()
        seen = []

        def read():
            view = work.repo.snapshot()
            while not stop.is_set():
                seen.append(view["kept"])

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        try:
            for _ in range(5):
                work.repo.compact()
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        assert set(seen) == {"value"}


def test_a_store_in_memory_has_nothing_to_give_back():
    with kvgit.open() as work:
        assert work.repo.compact() == (0, 0)
