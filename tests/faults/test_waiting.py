"""A writer that is stopped, killed or told to end, and those who wait for it (E8)."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import time

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt.backend import lmdb_turn
from kvgit_hamt.backend.base import Batch
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import BackendError, LockTimeoutError
from kvgit_hamt.testing.steps import move, record
from tests.support.scale import pick
from tests.support.scale import record as count

SPAWN = multiprocessing.get_context("spawn")
PATIENCE_S = 60
SHORT_S = 0.2


def write_and_hang(path, pid_end, sign):
    """Stop in the middle of a write transaction, by a signal that it sends itself."""

    stopped = []

    class Hanging(list):
        def __iter__(self):
            if not stopped:
                stopped.append(True)
                pid_end.send(os.getpid())
                os.kill(os.getpid(), sign)
            return super().__iter__()

    with LmdbBackend(path) as backend:
        backend.publish(Batch(Hanging([record(b"slow", kind="blob")]), backend.next_place()))


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / "store")
    with LmdbBackend(path) as backend:
        move(backend, "heads/main", b"1")
    return path


@pytest.fixture
def hanging(path):
    """A process that holds the write lock and is stopped; it is ended afterwards."""
    process, _ = begin(path, signal.SIGSTOP)
    yield process
    process.kill()
    process.join()


def begin(path, sign):
    mine, theirs = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=write_and_hang, args=(path, theirs, sign))
    process.start()
    assert mine.poll(PATIENCE_S)
    pid = mine.recv()
    while sign == signal.SIGSTOP and state_of(pid) != "T":
        time.sleep(0.001)
    return process, pid


def state_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0]


def test_who_waits_for_a_stopped_writer_is_told_after_his_time_and_reads_go_on(path, hanging):
    with LmdbBackend(path, readonly=True) as reader:
        assert reader.get_ref("heads/main") == b"1"
        with pytest.raises(LockTimeoutError, match=f"pid {hanging.pid}"):
            LmdbBackend(path, lock_timeout_s=SHORT_S)  # opening for writing waits as well
        assert reader.get_ref("heads/main") == b"1"
    os.kill(hanging.pid, signal.SIGCONT)
    hanging.join(PATIENCE_S)
    assert hanging.exitcode == 0
    with LmdbBackend(path, lock_timeout_s=SHORT_S) as backend:
        assert backend.find("blob", record(b"slow").oid) is not None
        move(backend, "heads/main", b"2")


def test_edits_that_waited_in_vain_are_still_pending(tmp_path):
    path = tmp_path / "repo"
    with kvgit.Repo(LmdbBackend(path, lock_timeout_s=SHORT_S)) as repo:
        work = repo.worktree()
        work["a"] = 1
        process, pid = begin(str(path), signal.SIGSTOP)
        with pytest.raises(LockTimeoutError, match="nothing was stored"):
            work.commit()
        assert work.status().updated
        os.kill(pid, signal.SIGCONT)
        process.join(PATIENCE_S)
        assert work.commit().merged
        assert dict(repo.snapshot()) == {"a": 1}


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGTERM])
def test_a_writer_that_dies_lets_the_next_one_in_at_once(path, sign):
    rounds = pick(6, 200)
    for number in range(rounds):
        process, _ = begin(path, sign)
        process.join(PATIENCE_S)
        assert process.exitcode == -sign
        with LmdbBackend(path, lock_timeout_s=PATIENCE_S) as backend:
            move(backend, "heads/main", b"%d" % number)
            assert backend.find("blob", record(b"slow").oid) is None
    count("E8", deaths=rounds, violations=0)


def wait_for_ever(path, end, with_turn):
    if not with_turn:
        lmdb_turn.Turn.take = lambda self, timeout_s: None
    end.send(os.getpid())
    try:
        LmdbBackend(path, lock_timeout_s=None if with_turn else SHORT_S)
    except KeyboardInterrupt:
        os._exit(130)
    except LockTimeoutError:
        os._exit(3)
    os._exit(0)


def waiter(path, with_turn):
    mine, theirs = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=wait_for_ever, args=(path, theirs, with_turn))
    process.start()
    assert mine.poll(PATIENCE_S)
    mine.recv()
    return process


def is_waiting(process):
    """Until it sleeps in the lock."""
    for _ in range(100 * PATIENCE_S):
        time.sleep(0.01)
        if state_of(process.pid) == "S":
            return True
    return False


def test_an_interrupt_ends_the_waiting(path, hanging):
    process = waiter(path, with_turn=True)
    assert is_waiting(process)
    time.sleep(0.1)
    while process.is_alive():
        os.kill(process.pid, signal.SIGINT)
        process.join(0.05)
    assert process.exitcode == 130


def test_without_turns_there_is_no_end_to_the_waiting(path, hanging):
    """The control: LMDB's own lock knows no limit, and no interrupt."""
    process = waiter(path, with_turn=False)
    assert is_waiting(process)
    time.sleep(5 * SHORT_S)
    os.kill(process.pid, signal.SIGINT)
    process.join(2 * SHORT_S)
    assert process.is_alive()
    process.kill()
    process.join()


def test_one_who_waits_without_a_limit_goes_on_when_the_stopped_writer_is_killed(path):
    hanging, _ = begin(path, signal.SIGSTOP)
    process = waiter(path, with_turn=True)
    assert is_waiting(process)
    hanging.kill()
    process.join(PATIENCE_S)
    assert process.exitcode == 0
    hanging.join()


def test_where_there_is_no_such_lock_writers_go_on_without(path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with LmdbBackend(path, lock_timeout_s=SHORT_S) as backend:
        move(backend, "heads/main", b"2")
        assert backend.get_ref("heads/main") == b"2"


def test_the_smallest_limit_of_all_handles_counts(path):
    with (
        LmdbBackend(path) as backend,
        LmdbBackend(path, lock_timeout_s=5),
        LmdbBackend(path, lock_timeout_s=7),
    ):
        assert backend._shared._options.lock_timeout_s == 5


@pytest.mark.parametrize("limit", [-1, float("nan")])
def test_a_limit_that_is_none_is_refused(path, limit):
    with pytest.raises(BackendError, match="lock_timeout_s"):
        LmdbBackend(path, lock_timeout_s=limit)
