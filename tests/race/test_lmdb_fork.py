"""Forks: before, during and after use, with threads in the middle of things."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from kvgit_hamt.backend import lmdb_env
from kvgit_hamt.backend.base import Batch, RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import BranchMovedError, ClosedError
from kvgit_hamt.testing.steps import move, publish, record
from kvgit_hamt.wire import unseal


def in_child(work):
    """Run in a forked child; returns its exit code, negative for a signal. A child that hangs is killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(60)
            work()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture
def backend(tmp_path):
    with LmdbBackend(tmp_path / "store") as backend:
        publish(backend, record(b"a"), refs=[RefUpdate("heads/main", None, b"1", b"log")])
        yield backend


def test_a_child_reads_and_writes_and_so_does_the_parent(backend):
    def work():
        assert backend.get_ref("heads/main") == b"1"
        move(backend, "heads/child", b"c")

    assert in_child(work) == 0
    assert backend.get_ref("heads/child") == b"c"
    move(backend, "heads/main", b"2")
    assert in_child(lambda: move(backend, "heads/child", None)) == 0
    assert backend.list_refs("") == [("heads/main", b"2")]


def test_an_iteration_that_began_before_the_fork_goes_on_in_both(backend):
    publish(backend, *(record(b"%d" % number) for number in range(900)))
    records = backend.iterate_records()
    next(records)

    def work():
        assert len(list(records)) == 900

    assert in_child(work) == 0
    assert len(list(records)) == 900


def test_a_child_that_closes_leaves_the_parent_alone(backend):
    def work():
        backend.close()
        with pytest.raises(ClosedError):
            backend.get_ref("heads/main")

    assert in_child(work) == 0
    assert backend.get_ref("heads/main") == b"1"


def test_a_grandchild_works_as_well(backend):
    def work():
        move(backend, "heads/child", b"c")
        assert in_child(lambda: move(backend, "heads/grandchild", b"g")) == 0

    assert in_child(work) == 0
    assert [name for name, _ in backend.list_refs("")] == ["heads/child", "heads/grandchild", "heads/main"]


def test_a_reservation_of_a_parent_is_alive_in_its_child_but_one_of_a_dead_child_nowhere(backend):
    first = backend.reserve(5)

    def work():
        assert backend.pending_floor() == first
        backend.reserve(5)

    assert in_child(work) == 0
    backend.release(first)
    assert backend.pending_floor() is None


def test_children_and_parent_increment_together(backend):
    move(backend, "heads/n", b"0")

    def increment(count):
        done = 0
        while done < count:
            old = backend.get_ref("heads/n")
            try:
                backend.publish(Batch(refs=[RefUpdate("heads/n", old, b"%d" % (int(old) + 1), None)]))
            except BranchMovedError:
                continue
            done += 1

    pids = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                increment(40)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    increment(40)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    assert backend.get_ref("heads/n") == b"160"


@pytest.mark.parametrize("rounds", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_a_fork_amid_reading_and_writing_threads_never_hangs(backend, rounds):
    stop = threading.Event()
    faults: list[BaseException] = []
    oid = record(b"a").oid
    loc = next(backend.iterate_records())[0]

    def guarded(call):
        try:
            while not stop.is_set():
                call()
        except BaseException as error:
            faults.append(error)

    def read():
        unseal(oid, backend.read(oid, loc))
        backend.get_ref("heads/main")

    def write():
        publish(backend, record(random.randbytes(2000)))

    threads = [threading.Thread(target=guarded, args=(call,)) for call in (read, read, write, write)]
    for thread in threads:
        thread.start()
    try:
        for number in range(rounds):

            def work(number=number):
                read()
                move(backend, "heads/child", b"%d" % number)

            assert in_child(work) == 0
            assert backend.get_ref("heads/child") == b"%d" % number
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not faults


def test_no_environment_is_open_while_the_process_forks(backend):
    lmdb_env._before_fork()  # what the registered hook runs; a real fork leaves no moment to look
    sessions = [shared._session for shared in lmdb_env._environments.values()]
    lmdb_env._after_fork_in_parent()
    assert backend._shared in lmdb_env._environments.values()
    assert set(sessions) == {None}
    assert backend.get_ref("heads/main") == b"1"


def test_a_fork_by_the_thread_that_is_writing_lets_the_parent_commit_once(backend):
    """As a signal handler would."""
    pids = []

    class Forking(list):
        def __iter__(self):
            if not pids:
                pids.append(os.fork())
                if not pids[0]:
                    os._exit(0)
            return super().__iter__()

    new = record(b"in the middle", kind="blob")
    backend.publish(Batch(Forking([new]), 2, refs=[RefUpdate("heads/main", b"1", b"2", None)]))
    assert os.waitpid(pids[0], 0)[1] == 0
    assert backend.get_ref("heads/main") == b"2"
    loc = backend.find("blob", new.oid)
    assert unseal(new.oid, backend.read(new.oid, loc)) == b"in the middle"


def test_a_program_started_by_the_process_does_not_hold_the_store(backend, tmp_path):
    code = "print('up', flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as child:
        assert child.stdout.readline()  # it has opened and closed what starting takes
        names = [os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")]
        child.communicate(b"\n")
    assert not [name for name in names if name.startswith(str(tmp_path))]
    assert backend.get_ref("heads/main") == b"1"


def test_a_fork_without_hooks_is_noticed_by_the_next_write(backend, monkeypatch):
    """Some servers fork in C."""
    backend.get_ref("heads/main")
    real = os.getpid()
    closed = []
    shared = backend._shared
    monkeypatch.setattr(lmdb_env.os, "getpid", lambda: real + 1)
    close = shared.close
    monkeypatch.setattr(shared, "close", lambda: (closed.append(1), close())[1])
    move(backend, "heads/main", b"2")
    assert closed
    monkeypatch.undo()
    assert backend.get_ref("heads/main") == b"2"
