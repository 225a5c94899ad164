"""Threads that read while the map moves, the environment closes, and others write."""

from __future__ import annotations

import random
import threading

import pytest

from kvgit_hamt.backend.base import Batch, RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.errors import BranchMovedError, ClosedError
from kvgit_hamt.testing.steps import publish, record, run_threads
from kvgit_hamt.wire import place_of, unseal

THREADS = 4


def filled(path, count=400, **options):
    backend = LmdbBackend(path, **options)
    new = [record(random.Random(number).randbytes(1400)) for number in range(count)]
    publish(backend, *new, refs=[RefUpdate("heads/main", None, b"1", b"log")])
    return backend, [each.oid for each in new]


def read_until(stop, backend, oids, seed):
    """Every read is right whatever happens around it."""
    rng = random.Random(seed)
    links = [(oid, place_of(place)) for place, oid in enumerate(oids, 1)]
    rounds = 0
    while not stop.is_set() or not rounds:
        rounds += 1
        for _ in range(50):
            oid, loc = rng.choice(links)
            unseal(oid, backend.read(oid, loc))
        some = rng.sample(links, 20)
        for (oid, _), stored in zip(some, backend.read_many(some), strict=True):
            unseal(oid, stored)
        assert backend.get_ref("heads/main") is not None
        assert [name for name, _ in backend.list_refs("heads/m")] == ["heads/main"]
        if rounds % 8 == 0:
            places = [int.from_bytes(loc, "little") for loc, _ in backend.iterate_records()]
            assert places[: len(oids)] == list(range(1, len(oids) + 1))


def disturb(backend, oids, act, *, times):
    """Run ``act`` again and again while threads read; what they found wrong is raised."""
    stop = threading.Event()
    faults: list[BaseException] = []

    def disturber():
        try:
            for number in range(times):
                act(number)
        finally:
            stop.set()

    readers = [lambda seed=seed: read_until(stop, backend, oids, seed) for seed in range(THREADS)]
    run_threads([disturber, *readers], faults)
    if faults:
        raise faults[0]


def test_readers_survive_a_map_that_moves_under_them(tmp_path):
    backend, oids = filled(tmp_path / "store", map_bytes=1)

    def act(number):
        with backend._shared.lock:
            backend._shared.open().env.set_mapsize((1 << 24) + number * 65536)

    disturb(backend, oids, act, times=300)
    backend.close()


def test_readers_survive_an_environment_that_is_reopened(tmp_path):
    backend, oids = filled(tmp_path / "store")

    def act(number):
        with backend._shared.lock:
            backend._shared.close()

    disturb(backend, oids, act, times=150)
    backend.close()


def test_readers_survive_growth_by_commits(tmp_path):
    backend, oids = filled(tmp_path / "store", map_bytes=1, sync="no_meta")

    def act(number):
        new = [record(b"%d" % number + bytes(60_000)) for _ in range(5)]
        publish(backend, *new, refs=[RefUpdate("heads/x", backend.get_ref("heads/x"), b"%d" % number, None)])

    disturb(backend, oids, act, times=80)
    assert backend.stats()["map_bytes"] >= 1 << 25
    backend.close()


def test_a_refused_commit_gets_away_from_readers_that_never_pause(tmp_path):
    backend, oids = filled(tmp_path / "store")

    def act(number):
        with pytest.raises(BranchMovedError):
            backend.publish(Batch([record(b"x")], 1, refs=[RefUpdate("heads/main", b"0", b"2", None)]))

    disturb(backend, oids, act, times=200)
    backend.close()


def test_readers_survive_handles_that_come_and_go(tmp_path):
    backend, oids = filled(tmp_path / "store", sync="no_meta")

    def act(number):
        # A stronger wish reopens the shared environment the first time, later ones join it.
        with LmdbBackend(tmp_path / "store", readonly=bool(number % 2)) as other:
            assert other.get_ref("heads/main") == b"1"

    disturb(backend, oids, act, times=150)
    backend.close()


def test_closing_during_use_is_a_closed_error_and_nothing_else(tmp_path):
    for _ in range(10):
        backend, oids = filled(tmp_path / "store", count=20)
        stop = threading.Event()
        faults: list[BaseException] = []
        started = threading.Barrier(THREADS + 2)

        def read(seed, backend=backend, oids=oids, stop=stop, started=started):
            started.wait()
            read_until(stop, backend, oids, seed)

        def write(backend=backend, started=started):
            started.wait()
            number = 0
            while True:
                number += 1
                backend.publish(Batch(meta={"m": b"%d" % number}))

        def close(backend=backend, stop=stop, started=started):
            started.wait()
            backend.close()
            stop.set()

        run_threads([lambda s=s: read(s) for s in range(THREADS)] + [write, close], faults)
        assert all(isinstance(fault, ClosedError) for fault in faults), faults
        LmdbBackend(tmp_path / "store").close()
        (tmp_path / "store" / "data.mdb").unlink()
        (tmp_path / "store" / "FORMAT").unlink()
        (tmp_path / "store" / "WITNESS").unlink()


@pytest.mark.parametrize("map_bytes", [None, 1])
def test_threads_with_handles_of_their_own_lose_no_update(tmp_path, map_bytes):
    LmdbBackend(tmp_path / "store", map_bytes=map_bytes).close()
    faults: list[BaseException] = []

    def work(number):
        with LmdbBackend(tmp_path / "store", map_bytes=map_bytes, sync="no_meta") as backend:
            done = 0
            while done < 30:
                old = backend.get_ref("heads/n")
                new = record(b"%d %d" % (number, done) + bytes(4000))
                update = RefUpdate("heads/n", old, b"%d" % (int(old or 0) + 1), b"%d %d" % (number, done))
                try:
                    backend.publish(Batch([new], backend.next_place(), refs=[update]))
                except BranchMovedError:
                    continue
                done += 1

    run_threads([lambda number=number: work(number) for number in range(THREADS)], faults)
    assert not faults
    with LmdbBackend(tmp_path / "store") as backend:
        assert backend.get_ref("heads/n") == b"%d" % (30 * THREADS)
        assert len(set(backend.read_reflog("heads/n"))) == 30 * THREADS
        assert backend.stats()["record_count"] == 30 * THREADS
