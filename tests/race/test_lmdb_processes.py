"""Processes on one store: growth that others adopt, compare-and-set, kills, witnesses."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import struct

import pytest
from lmdb.verify import verify

from kvgit_hamt.backend.base import Batch, RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import BranchMovedError
from kvgit_hamt.testing.steps import contents, move, publish, record
from kvgit_hamt.wire import place_of, unseal

SPAWN = multiprocessing.get_context("spawn")


def increment(path, number, count, options):
    with LmdbBackend(path, **options) as backend:
        done = 0
        while done < count:
            old = backend.get_ref("heads/n")
            new = record(b"%d %d" % (number, done) + bytes(3000), kind="blob")
            update = RefUpdate("heads/n", old, b"%d" % (int(old or 0) + 1), b"%d %d" % (number, done))
            try:
                backend.publish(Batch([new], backend.next_place(), refs=[update]))
            except BranchMovedError:
                continue
            done += 1


def run_all(target, arguments):
    processes = [SPAWN.Process(target=target, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def check_increments(path, expected):
    with LmdbBackend(path) as backend:
        assert backend.get_ref("heads/n") == b"%d" % expected
        assert len(set(backend.read_reflog("heads/n"))) == expected
        assert backend.stats()["record_count"] == expected
    assert verify(path) == []


@pytest.mark.parametrize("options", [{"sync": "no_meta"}, {"map_bytes": 1}], ids=["wide", "growing"])
def test_processes_lose_no_update_and_make_the_store_together(tmp_path, options):
    path = str(tmp_path / "store")
    assert run_all(increment, [(path, number, 40, options) for number in range(3)]) == [0, 0, 0]
    check_increments(path, 120)


@pytest.mark.slow
def test_many_processes_lose_no_update(tmp_path):
    path = str(tmp_path / "store")
    options = [{"map_bytes": 1}, {"sync": "no_meta"}, {}, {"map_bytes": 1 << 22}]
    exits = run_all(increment, [(path, number, 500, options[number % 4]) for number in range(6)])
    assert exits == [0] * 6
    check_increments(path, 3000)


def grow(path):
    with LmdbBackend(path, map_bytes=1 << 23) as backend:
        publish(backend, record(b"big" + bytes(6 << 20), kind="blob"))


def test_a_reader_with_a_small_map_follows_a_file_that_another_process_grew(tmp_path):
    path = str(tmp_path / "store")
    with LmdbBackend(path, map_bytes=1) as backend:
        new = record(b"first")
        (loc,) = publish(backend, new)
        assert run_all(grow, [(path,)]) == [0]
        assert unseal(new.oid, backend.read(new.oid, loc)) == b"first"
        big = record(b"big" + bytes(6 << 20))
        assert unseal(big.oid, backend.read(big.oid, place_of(2))) == big.body
        assert run_all(grow, [(path,)]) == [0]
        move(backend, "heads/main", b"1")  # a writer that must adopt first
        assert backend.stats()["record_count"] == 3


# --- kills


def write_until_killed(path, pipe, map_bytes):
    """Publish commits and report each that returned."""
    backend = LmdbBackend(path, map_bytes=map_bytes, accept_rollback=False)
    number = int(backend.get_ref("heads/main") or 0)
    while True:
        number += 1
        rng = random.Random(number)
        new = [record(rng.randbytes(rng.randrange(3000))) for _ in range(rng.randrange(30))]
        first = None
        if number % 3 == 0:
            first = backend.reserve(len(new))
        backend.publish(
            Batch(
                new,
                first or backend.next_place(),
                is_reserved=first is not None,
                refs=[
                    RefUpdate("heads/main", b"%d" % (number - 1) if number > 1 else None, b"%d" % number, b"")
                ],
            )
        )
        os.write(pipe, struct.pack("<I", number))


def payloads_of(last):
    count = 0
    bodies = set()
    for number in range(1, last + 1):
        rng = random.Random(number)
        for body in [rng.randbytes(rng.randrange(3000)) for _ in range(rng.randrange(30))]:
            bodies.add(record(body).body)
            count += 1
    return bodies, count


def kill_rounds(path, rounds, seed):
    rng = random.Random(seed)
    acknowledged = 0
    for _ in range(rounds):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            try:
                write_until_killed(path, writer, rng.choice([None, 1]))
            finally:
                os._exit(1)
        os.close(writer)
        wanted = rng.randrange(1, 12)
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            for _ in range(wanted):
                acknowledged = struct.unpack("<I", pipe.read(4))[0]
            os.kill(pid, signal.SIGKILL)
            for part in iter(lambda pipe=pipe: pipe.read(4), b""):
                acknowledged = struct.unpack("<I", part)[0]
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        with LmdbBackend(path) as backend:
            tip = int(backend.get_ref("heads/main"))
            assert tip in (acknowledged, acknowledged + 1)
            assert backend.pending_floor() is None
            stored = [body[:-8] for _, body in backend.iterate_records()]
            bodies, count = payloads_of(tip)
            assert (len(stored), set(stored)) == (count, bodies)
            acknowledged = tip
    assert verify(path) == []


def test_a_killed_writer_loses_no_commit_that_was_acknowledged(tmp_path):
    kill_rounds(str(tmp_path / "store"), 8, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_killed_writers_lose_no_commit_that_was_acknowledged(tmp_path, seed):
    kill_rounds(str(tmp_path / "store"), 40, seed)


def test_slots_of_killed_readers_are_freed_at_open(tmp_path):
    path = str(tmp_path / "store")
    with LmdbBackend(path) as backend:
        publish(backend, record(b"a"))
    pid = os.fork()
    if pid == 0:
        env = LmdbBackend(path)._shared.open().env
        txn = env.begin()
        txn.get(b"x")
        os.kill(os.getpid(), signal.SIGKILL)
    with LmdbBackend(path) as keep:  # open across the death: the lock file is not made anew
        os.waitpid(pid, 0)
        assert keep.get_ref("heads/main") is None
        keep._shared.close()
        keep.get_ref("heads/main")
        assert str(pid) not in keep._shared.open().env.readers()


def witness_racer(path, number, count):
    with LmdbBackend(path, sync="no_meta" if number % 2 else "full") as backend:
        for step in range(count):
            move_own(backend, number, step)


def move_own(backend, number, step):
    name = f"heads/{number}"
    old = b"%d" % (step - 1) if step else None
    backend.publish(Batch(refs=[RefUpdate(name, old, b"%d" % step, None)]))


def test_a_witness_written_by_many_never_raises_a_false_alarm(tmp_path):
    path = str(tmp_path / "store")
    LmdbBackend(path).close()
    processes = [SPAWN.Process(target=witness_racer, args=(path, number, 150)) for number in range(3)]
    for process in processes:
        process.start()
    opened = 0
    while any(process.is_alive() for process in processes) or not opened:
        LmdbBackend(path).close()
        LmdbBackend(path, readonly=True).close()
        opened += 1
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    with LmdbBackend(path) as backend:
        assert backend.list_refs("") == [(f"heads/{number}", b"149") for number in range(3)]
        before = contents(backend)
    with LmdbBackend(path) as backend:
        assert contents(backend) == before
