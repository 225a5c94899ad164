"""Files of a store that are removed, moved or exchanged while it is open (L8)."""

from __future__ import annotations

import multiprocessing
import os

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt.backend.lmdb_env import SharedEnvironment
from kvgit_hamt.errors import StoreReplacedError
from tests.support.racers import PATIENCE_S

SPAWN = multiprocessing.get_context("spawn")


def commit_elsewhere(path, key):
    with kvgit.open(path) as work:
        work[key] = 1
        work.commit()


def elsewhere(path, key):
    process = SPAWN.Process(target=commit_elsewhere, args=(path, key))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == 0


@pytest.fixture
def path(tmp_path):
    commit_elsewhere(tmp_path / "store", "first")
    return tmp_path / "store"


def test_a_removed_lock_file_is_noticed_by_the_next_write(path):
    """Else two writers would not know of each other, and one would write over what the other stored."""
    with kvgit.open(path) as work:
        (path / "lock.mdb").unlink()
        elsewhere(path, "second")
        work["third"] = 1
        with pytest.raises(StoreReplacedError, match=r"lock\.mdb"):
            work.commit()
        assert work.status().updated
    with kvgit.open(path) as work:
        assert dict(work) == {"first": 1, "second": 1}
        work["third"] = 1
        work.commit()
    with kvgit.open(path) as work:
        assert dict(work) == {"first": 1, "second": 1, "third": 1}


def test_without_the_guard_a_removed_lock_file_costs_a_commit(path, monkeypatch):
    """The control."""
    monkeypatch.setattr(
        SharedEnvironment,
        "_lock_identity",
        property(lambda self: None, lambda self, value: None),
        raising=False,
    )
    with kvgit.open(path) as work:
        (path / "lock.mdb").unlink()
        elsewhere(path, "second")
        work["third"] = 1
        try:
            work.commit()
            found = dict(work.repo.snapshot())
        except kvgit.KvgitHamtError:
            found = {}
    assert found != {"first": 1, "second": 1, "third": 1}


def test_a_directory_that_was_moved_is_noticed_by_the_next_write(path, tmp_path):
    with kvgit.open(path) as work:
        path.rename(tmp_path / "moved")
        work["second"] = 1
        with pytest.raises(StoreReplacedError):
            work.commit()
        with kvgit.open(tmp_path / "moved") as there:
            assert dict(there) == {"first": 1}
            there["second"] = 2
            there.commit()
    with kvgit.open(tmp_path / "moved") as work:
        assert dict(work) == {"first": 1, "second": 2}


def test_a_symlink_that_points_elsewhere_now_does_not_change_where_an_open_store_writes(path, tmp_path):
    commit_elsewhere(tmp_path / "other", "other")
    (tmp_path / "link").symlink_to(path)
    with kvgit.open(tmp_path / "link") as work:
        (tmp_path / "link").unlink()
        (tmp_path / "link").symlink_to(tmp_path / "other")
        work["second"] = 1
        work.commit()
        with kvgit.open(tmp_path / "link") as other:
            assert dict(other) == {"other": 1}
    with kvgit.open(path) as work:
        assert dict(work) == {"first": 1, "second": 1}


def test_a_working_directory_that_changes_does_not_change_the_store(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with kvgit.open("store") as work:
        monkeypatch.chdir(os.sep)
        work["second"] = 1
        work.commit()
        work.repo.store.backend._shared.close()  # the next call opens it anew
        assert dict(work.repo.snapshot()) == {"first": 1, "second": 1}
