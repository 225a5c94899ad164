"""Whole directories dropped, copied and restored, at the cost of the directory."""

from __future__ import annotations

import pytest

import kvgit_hamt as kvgit


@pytest.fixture(params=["memory", "lmdb"])
def work(request, tmp_path):
    """A branch with 3,000 keys in 30 directories, committed."""
    with kvgit.open(None if request.param == "memory" else tmp_path / "store") as worktree:
        worktree.update({f"d{n % 30}/{n}": [n, "x" * (900 if n % 7 == 0 else 9)] for n in range(3_000)})
        worktree.commit()
        yield worktree


def directory(view, prefix):
    return dict(view.items(prefix))


def test_a_directory_is_dropped_and_nothing_else(work):
    before = dict(work)
    assert work.delete_prefix("d3/") == 100
    assert work.delete_prefix("d3/") == 0
    work.commit()
    assert dict(work) == {key: value for key, value in before.items() if not key.startswith("d3/")}


def test_a_copied_directory_replaces_what_was_there(work):
    work["d5/extra"] = "goes"
    wanted = {"d5/" + key[3:]: value for key, value in directory(work, "d4/").items()}
    work.copy_prefix("d4/", "d5/")
    assert directory(work, "d5/") == wanted
    work.commit()
    assert directory(work.repo.snapshot(), "d5/") == wanted
    assert len(directory(work, "d4/")) == 100


def test_a_directory_is_copied_from_an_older_state(work):
    with work.repo.snapshot() as old:
        work.delete_prefix("d6/")
        work["d7/0"] = "kept"
        work.commit()
        assert work.copy_prefix("d6/", "e/", of=old) == 100
        assert {key[2:]: v for key, v in work.items("e/")} == {key[3:]: v for key, v in old.items("d6/")}


@pytest.mark.parametrize("has_pending", [False, True])
def test_a_directory_is_restored_and_only_what_differs_is_edited(work, has_pending):
    with work.repo.snapshot() as old:
        work["d8/8"] = "changed"
        work["d8/new"] = "goes"
        del work["d8/38"]
        work["d9/9"] = "kept"
        work.commit()
        if has_pending:
            work["d9/39"] = "pending"
        assert work.copy_prefix("d8/", "d8/", of=old) == 3
        assert directory(work, "d8/") == directory(old, "d8/")
        work.commit()
    assert directory(work.repo.snapshot(), "d8/") == directory(work, "d8/")
    assert work["d9/9"] == "kept"


def test_a_restored_directory_reads_only_what_differs(work):
    repo = work.repo
    with repo.snapshot() as old:
        work["d8/8"] = "changed"
        work.commit()
        list(work.keys("d8/"))
        before = repo.store.counters.copy()
        work.copy_prefix("d8/", "d8/", of=old)
        assert repo.store.counters.since(before).leaves_read <= 2


def test_a_key_that_is_only_pending_is_dropped_without_a_trace(work):
    work["new/1"] = 1
    work["new/2"] = 2
    assert work.delete_prefix("new/") == 2
    assert not work.has_changes


def test_prefixes_inside_one_another_and_other_stores_are_refused(work):
    with pytest.raises(kvgit.InvalidInputError):
        work.copy_prefix("d1/", "d1/sub/")
    with kvgit.open() as other, pytest.raises(kvgit.InvalidInputError):
        work.copy_prefix("d1/", "d1/", of=other)
    with pytest.raises(kvgit.InvalidKeyError):
        work.copy_prefix("d1/", "x" * 65_534 + "/")
    assert not work.has_changes
