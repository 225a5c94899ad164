"""Copies of stores in use: whole, or not there."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import lmdb
import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import Repo
from kvgit_hamt.backend import lmdb_copy
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.lmdb_files import MARKER_NAME, WITNESS_NAME, read_witness
from kvgit_hamt.errors import (
    BackendError,
    ClosedError,
    CorruptionError,
    ExistsError,
    InvalidInputError,
    StoreFullError,
)
from tests.support.homes import SMALL
from tests.support.verify import assert_sound_structure

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repo(tmp_path: Path) -> Any:
    with kvgit.open(tmp_path / "store") as work:
        work.update({f"user/{n}": "x" * (n % 700) for n in range(2_000)})
        work.commit()
        work.repo.tags.create("v1")
        yield work.repo


def assert_equal(one: Repo, other: Repo) -> None:
    assert dict(one.branches) == dict(other.branches)
    assert dict(one.tags) == dict(other.tags)
    assert one.reflog() == other.reflog()
    assert dict(one.snapshot().items()) == dict(other.snapshot().items())
    assert [*other.check()] == []


@pytest.mark.parametrize("compact", [False, True])
def test_a_copy_is_the_store(compact, repo, tmp_path):
    repo.copy(tmp_path / "copy", compact=compact)
    assert {each.name for each in (tmp_path / "copy").iterdir()} == {"data.mdb", MARKER_NAME, WITNESS_NAME}
    assert_sound_structure(tmp_path / "copy")
    with Repo(tmp_path / "copy") as copy:
        assert_equal(repo, copy)
        work = copy.worktree()
        work["new"] = 1
        work.commit()
    assert "new" not in repo.snapshot()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy", "store"]


def test_a_compact_copy_is_smaller(repo, tmp_path):
    scratch = repo.worktree("scratch", create=True)
    scratch.update({f"k{n}": f"{n:04}" * 700 for n in range(2_000)})
    scratch.commit()
    scratch.close()
    repo.branches.delete("scratch")
    assert repo.gc(keep_reflog=0).freed_bytes > 4_000_000
    repo.copy(tmp_path / "plain")
    repo.copy(tmp_path / "small", compact=True)
    sizes = [(tmp_path / name / "data.mdb").stat().st_size for name in ("plain", "small")]
    assert sizes[1] < sizes[0] / 4


def test_the_copy_has_a_witness_of_its_own(repo, tmp_path):
    repo.copy(tmp_path / "copy")
    witness = read_witness(str(tmp_path / "copy"))
    assert witness is not None
    assert witness.counter == repo.stats()["write_count"]
    with Repo(tmp_path / "copy") as copy:
        work = copy.worktree()
        work["x"] = 1
        work.commit()
    assert (read_witness(str(tmp_path / "copy")) or witness).counter > witness.counter
    work = repo.worktree()  # and ours is not disturbed
    work["y"] = 1
    work.commit()


def test_an_empty_directory_will_do_as_a_target(repo, tmp_path):
    (tmp_path / "copy").mkdir()
    repo.copy(tmp_path / "copy")
    with Repo(tmp_path / "copy") as copy:
        assert_equal(repo, copy)


def test_directories_above_the_target_are_made(repo, tmp_path):
    repo.copy(tmp_path / "a" / "b" / "copy")
    assert (tmp_path / "a" / "b" / "copy" / "data.mdb").exists()


@pytest.mark.parametrize("kind", ["store", "file", "directory", "link"])
def test_what_is_there_is_left_alone(kind, repo, tmp_path):
    target = tmp_path / "copy"
    if kind == "store":
        repo.copy(target)
    elif kind == "file":
        target.write_text("mine")
    elif kind == "directory":
        target.mkdir()
        (target / "mine").write_text("mine")
    else:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "mine").write_text("mine")
        target.symlink_to("full")
    before = sorted(str(each) for each in tmp_path.rglob("*"))
    with pytest.raises(ExistsError, match="name a new directory"):
        repo.copy(target)
    assert sorted(str(each) for each in tmp_path.rglob("*")) == before


def test_the_store_itself_is_no_target(repo, tmp_path):
    with pytest.raises(ExistsError):
        repo.copy(tmp_path / "store")
    assert len(repo.snapshot()) == 2_000


def test_a_target_that_comes_to_be_meanwhile_is_left_alone(repo, tmp_path, monkeypatch):
    real = lmdb_copy._sync

    def sync(directory: str) -> None:
        (tmp_path / "copy").mkdir()
        (tmp_path / "copy" / "theirs").write_text("theirs")
        real(directory)

    monkeypatch.setattr(lmdb_copy, "_sync", sync)
    with pytest.raises(ExistsError, match="come to be"):
        repo.copy(tmp_path / "copy")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy", "store"]
    assert [each.name for each in (tmp_path / "copy").iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(28, "No space left on device"), StoreFullError),
        (OSError(5, "Input/output error"), BackendError),
        (lmdb.DiskError("no space"), StoreFullError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_copy_that_fails_leaves_nothing(error, kind, repo, tmp_path, monkeypatch):
    def fail(self: Any, compact: bool, file: int) -> None:
        os.write(file, b"part of it")
        raise error

    monkeypatch.setattr(LmdbBackend, "_copy_to", fail)
    with pytest.raises(kind):
        repo.copy(tmp_path / "copy")
    assert [each.name for each in tmp_path.iterdir()] == ["store"]
    assert len(repo.snapshot()) == 2_000


def test_a_copy_that_was_cut_is_found_and_thrown_away(repo, tmp_path, monkeypatch):
    """The control: the copy is verified before it gets its name."""
    real = LmdbBackend._copy_to

    def cut(self: Any, compact: bool, file: int) -> None:
        real(self, compact, file)
        os.ftruncate(file, os.fstat(file).st_size // 2)

    monkeypatch.setattr(LmdbBackend, "_copy_to", cut)
    with pytest.raises(CorruptionError):
        repo.copy(tmp_path / "copy")
    assert [each.name for each in tmp_path.iterdir()] == ["store"]


def test_a_copy_with_a_damaged_page_is_found_and_thrown_away(repo, tmp_path, monkeypatch):
    real = LmdbBackend._copy_to

    def damage(self: Any, compact: bool, file: int) -> None:
        real(self, compact, file)
        for page in range(2, os.fstat(file).st_size // 4096):
            os.pwrite(file, b"\xff" * 24, page * 4096)

    monkeypatch.setattr(LmdbBackend, "_copy_to", damage)
    with pytest.raises((CorruptionError, BackendError)):
        repo.copy(tmp_path / "copy")
    assert [each.name for each in tmp_path.iterdir()] == ["store"]


def test_a_store_opened_read_only_can_be_copied(tmp_path, repo):
    code = (
        "import sys; from kvgit_hamt import Repo; from kvgit_hamt.backend.lmdb import LmdbBackend\n"
        "Repo(LmdbBackend(sys.argv[1], readonly=True)).copy(sys.argv[2])"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store"), str(tmp_path / "copy")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=60,
    )
    with Repo(tmp_path / "copy") as copy:
        assert_equal(repo, copy)


def test_only_stores_in_files_can_be_copied(tmp_path):
    with pytest.raises(InvalidInputError, match="bundle"):
        Repo().copy(tmp_path / "copy")


def test_a_closed_store_is_not_copied(repo, tmp_path):
    repo.close()
    with pytest.raises(ClosedError):
        repo.copy(tmp_path / "copy")


WRITER = """
import sys
import kvgit_hamt as kvgit
with kvgit.open(sys.argv[1]) as work:
    name = sys.argv[2]
    for number in range(100_000):
        work[f"{name}/count"] = number
        work[f"{name}/{number % 50}"] = "y" * (number % 3_000)
        work.commit()
        if number == 5:
            print("there", flush=True)
        if number > 5 and number % 20 == 0:
            work.repo.gc(keep_reflog=0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("compact", [False, True])
def test_writers_in_other_processes_go_on_while_a_copy_is_made(compact, repo, tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "store"), name],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "there\n"
        counts = []
        for number in range(8):
            before = len([*repo.log()])
            repo.copy(tmp_path / f"copy{number}", compact=compact)
            after = len([*repo.log()])
            with Repo(tmp_path / f"copy{number}") as copy:
                found = copy.snapshot()
                counts.append(found["one/count"] + found["two/count"])
                assert before <= len([*copy.log()]) <= after
                assert sum(1 for key in found if key.startswith("user/")) == 2_000
                assert [*copy.check()] == []
            assert_sound_structure(tmp_path / f"copy{number}")
        assert counts == sorted(counts)
        assert counts[-1] > counts[0], "the writers went on"
        assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()


def test_a_plain_copy_of_the_file_may_be_torn_where_ours_is_not(tmp_path, monkeypatch):
    """The control: pages copied one by one while somebody commits are of two states; check tells."""
    with kvgit.open(tmp_path / "store") as work:
        work.update({f"k{n}": "x" * 300 for n in range(300)})
        work.commit()
        data = (tmp_path / "store" / "data.mdb").read_bytes()
        for number in range(40):
            work.update({f"k{n}": f"{number}" * 99 for n in range(0, 300, 3)})
            work.commit()
            work.repo.gc(keep_reflog=0)
        torn = data[:8192] + (tmp_path / "store" / "data.mdb").read_bytes()[8192:]
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "data.mdb").write_bytes(torn)
    (tmp_path / "torn" / MARKER_NAME).write_bytes((tmp_path / "store" / MARKER_NAME).read_bytes())
    with pytest.raises((kvgit.KvgitHamtError, AssertionError)):
        assert_sound_structure(tmp_path / "torn")
        with Repo(tmp_path / "torn") as copy:
            assert [*copy.check()] == []


def test_threads_go_on_while_a_copy_is_made(repo, tmp_path):
    stop = threading.Event()
    errors: list[BaseException] = []

    def commit() -> None:
        work = repo.worktree()
        number = 0
        try:
            while not stop.is_set():
                number += 1
                work["thread"] = number
                work.commit()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        for number in range(5):
            repo.copy(tmp_path / f"copy{number}", compact=bool(number % 2))
            with Repo(tmp_path / f"copy{number}") as copy:
                assert [*copy.check()] == []
    finally:
        stop.set()
        thread.join(60)
    assert errors == []


def test_a_copy_goes_on_with_a_bundle(repo, tmp_path):
    """The weekly copy, the daily bundle."""
    repo.copy(tmp_path / "copy")
    repo.tags.create("copied")
    work = repo.worktree()
    work["later"] = 1
    work.commit()
    repo.bundle(tmp_path / "day", "main", since=["copied"])
    with Repo(tmp_path / "copy") as copy:
        copy.load_bundle(tmp_path / "day")
        assert dict(copy.snapshot().items()) == dict(repo.snapshot().items())
        assert [*copy.check()] == []


def test_small_trees_are_copied_too(tmp_path):
    with Repo(tmp_path / "store", shape=SMALL) as repo:
        repo.copy(tmp_path / "copy")
        with Repo(tmp_path / "copy") as copy:
            assert copy.store.shape == SMALL
