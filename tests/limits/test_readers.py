"""More readers than LMDB has slots: an error that says what to do, and no harm once they are gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import pytest

from kvgit_hamt import Repo
from kvgit_hamt.backend.lmdb_env import MAX_READERS
from kvgit_hamt.errors import LockedError
from tests.support.scale import pick, record

ROOT = Path(__file__).parents[2]
THREADS = pick(MAX_READERS + 200, 5_000)

HOLDER = """
import sys, lmdb
env = lmdb.open(sys.argv[1], readonly=True, max_dbs=9, map_size=1 << 30, lib_version=0)
held = []
try:
    while True:
        held.append(env.begin())
except lmdb.ReadersFullError:
    pass
print(len(held), flush=True)
del held[:int(sys.argv[2])]
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def readers(path: Path, left: int) -> Iterator[int]:
    """Another process that takes all reader slots that are free, and gives some back; how many it took."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(left)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert holder.stdout is not None
        taken = int(holder.stdout.readline())
        assert holder.stdout.readline() == "held\n"
        yield taken
    finally:
        holder.kill()
        holder.wait()


@pytest.fixture
def repo(tmp_path: Path) -> Iterator[Repo]:
    with Repo(tmp_path / "store", cache_bytes=0) as repo:
        work = repo.worktree()
        work.update({f"k/{number}": number for number in range(500)})
        work.commit()
        yield repo


@contextmanager
def last_slots(repo: Repo) -> Iterator[int]:
    """Take the slots that this process keeps for itself between reads; how many."""
    backend: Any = repo.store.backend
    held: list[Any] = []
    with pytest.raises(lmdb.ReadersFullError):
        while True:
            held.append(backend._begin())
    yield len(held)
    for txn in held:
        txn.abort()


def test_with_all_slots_taken_the_error_says_what_to_do(repo, tmp_path):
    with readers(tmp_path / "store", left=0) as taken, last_slots(repo) as ours:
        assert MAX_READERS - 8 <= taken < taken + ours <= MAX_READERS + 8
        for call in (
            lambda: repo.snapshot()["k/7"],
            lambda: repo.branches["main"],
            lambda: list(repo.log()),
            lambda: repo.worktree().commit(info={"x": 1}),
        ):
            with pytest.raises(LockedError, match=rf"all {MAX_READERS} reader slots .* close some") as raised:
                call()
            assert str(tmp_path / "store") in str(raised.value)
        with pytest.raises(LockedError, match="reader slots"):
            subprocess_open(tmp_path / "store")
    assert repo.snapshot()["k/7"] == 7, "the slots of a process that died are taken back"
    work = repo.worktree()
    work["new"] = 1
    assert work.commit()
    assert [*repo.check()] == []
    record("LIM4 readers", slots=MAX_READERS)


def subprocess_open(path: Path) -> None:
    """Open the store in another process and read from it; what it says is raised here."""
    code = (
        "import sys\nfrom kvgit_hamt import Repo, LockedError\n"
        "try:\n    Repo(sys.argv[1]).snapshot()['k/7']\n"
        "except LockedError as error:\n    print(error); sys.exit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 3:
        raise LockedError(done.stdout)
    assert done.returncode == 0, done.stderr


def test_with_one_slot_left_all_is_well(repo, tmp_path):
    """The control: it was the slots."""
    with readers(tmp_path / "store", left=8):
        assert repo.snapshot()["k/7"] == 7
        subprocess_open(tmp_path / "store")


@pytest.mark.slow
def test_more_threads_than_slots_may_read_one_store(repo):
    """A slot is taken for the moment of a read, not for a thread's life."""
    start = threading.Event()
    wrong: list[object] = []

    def read(number: int) -> None:
        start.wait(120)
        try:
            snapshot = repo.snapshot()
            for step in range(5):
                key = (number * 31 + step * 7) % 500
                if snapshot[f"k/{key}"] != key:
                    wrong.append(key)
        except BaseException as error:
            wrong.append(error)

    size = threading.stack_size(256 << 10)
    try:
        threads = [threading.Thread(target=read, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
    finally:
        threading.stack_size(size)
    start.set()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert repo.store.backend.stats()["reader_count"] <= MAX_READERS


@pytest.mark.slow
def test_more_snapshots_and_iterators_than_slots_may_be_open(repo):
    """None of them holds a slot between two steps."""
    snapshots = [repo.snapshot() for _ in range(MAX_READERS + 50)]
    walks = [iter(snapshot.items()) for snapshot in snapshots]
    for _ in range(3):
        for walk in walks:
            key, value = next(walk)
            assert key == f"k/{value}"
