"""The tail: newest commits and reflog entries inside the state, and in their tables afterwards."""

from __future__ import annotations

import random

import pytest

from kvgit_hamt.backend.base import Batch, NewRecord, RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.lmdb_state import read_state
from kvgit_hamt.backend.lmdb_tail import TAIL_MAX_BYTES, Tail
from kvgit_hamt.errors import CorruptionError, StaleBatchError
from kvgit_hamt.oid import oid_of
from kvgit_hamt.wire import place_of
from tests.support.verify import assert_sound_structure


def commit(backend, number, ref="heads/main", log=None):
    payload = b"commit %d" % number
    update = RefUpdate(ref, backend.get_ref(ref), b"%d" % number, log or b"log %d" % number)
    new = NewRecord(oid_of(payload), payload, 0, "commit")
    backend.publish(Batch([new], backend.next_place(), refs=[update]))
    return new.oid


def tail_of(backend):
    return backend._view(read_state).tail


def test_a_tail_is_read_back_as_it_was():
    tail = Tail()
    assert Tail.decode(tail.encode()) == tail
    for number in range(5):
        tail = tail.with_commit(bytes([number]) * 32, place_of(number)).with_log(
            b"n%d" % number, b"e" * number
        )
    assert Tail.decode(tail.encode()) == tail
    assert tail.find(b"\3" * 32) == place_of(3)
    assert tail.log_of(b"n4") == [b"eeee"]
    keys = [key for key, _ in tail.rows(9)]
    assert keys == [b"n%d\0" % number + (4 + number).to_bytes(8, "big") for number in range(5)]


def test_an_oid_is_found_only_where_an_entry_begins():
    inner = bytes(range(8, 40))
    tail = Tail().with_commit(bytes(range(40))[:32], bytes(range(32, 40)))
    assert inner in tail.commits
    assert tail.find(inner) is None


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\0\0\0" + bytes(39), b"\xff\xff\0\0"])
def test_a_tail_that_is_cut_is_damage(data):
    with pytest.raises(CorruptionError):
        Tail.decode(data)


@pytest.mark.parametrize("log", [b"\1\0\1\0a", b"\1\0\1\0abc", b"\1", b"\xff\xff\0\0a"])
def test_reflog_entries_of_a_tail_that_are_cut_are_damage(log):
    with pytest.raises(CorruptionError):
        Tail(b"", log, 1).entries()


def test_what_was_stored_is_seen_wherever_it_lies(tmp_path):
    rng = random.Random(3)
    refs = ["heads/main", "heads/other", "tags/t"]
    logs = {ref: [] for ref in refs}
    oids = []
    has_flushed = False
    with LmdbBackend(tmp_path / "store") as backend:
        for number in range(120):
            ref = rng.choice(refs)
            log = rng.randbytes(rng.choice([0, 1, 90, TAIL_MAX_BYTES + 1]))
            before = tail_of(backend).size
            oids.append(commit(backend, number, ref, log or b"log"))
            logs[ref].insert(0, log or b"log")
            has_flushed = has_flushed or tail_of(backend).size < before
            assert tail_of(backend).size <= TAIL_MAX_BYTES
            assert all(backend.read_reflog(name) == logs[name] for name in refs)
        assert has_flushed and tail_of(backend).size
        assert backend.read_reflog("heads/main", 3) == logs["heads/main"][:3]
        assert backend.reflog_names() == sorted(refs)
        assert backend.stats()["commit_count"] == len(oids)
        places = [int.from_bytes(backend.find("commit", oid), "little") for oid in oids]
        assert places == sorted(places)
        assert [oid for oid, _ in backend.list_index("commit", b"", 1_000)] == sorted(oids)
        listed, after = [], b""
        while chunk := backend.list_index("commit", after, 7):
            listed += chunk
            after = chunk[-1][0]
        assert [oid for oid, _ in listed] == sorted(oids)
        for oid in oids:
            assert backend.find_abbreviated(oid.hex()[:10]) == [oid]
        first = sorted(oid for oid in oids if oid.hex()[0] == oids[-1].hex()[0])
        assert backend.find_abbreviated(oids[-1].hex()[0], 3) == first[:3]
    assert_sound_structure(tmp_path / "store")


@pytest.mark.parametrize("more", [0, 40])
def test_a_commit_is_never_stored_twice(tmp_path, more):
    """Neither while the first is in the tail, nor after it has left it."""
    with LmdbBackend(tmp_path / "store") as backend:
        oid = commit(backend, 0)
        for number in range(1, more):
            commit(backend, number)
        assert (tail_of(backend).find(oid) is None) is bool(more)
        with pytest.raises(StaleBatchError):
            commit(backend, 0)


def test_a_sweep_finds_all_in_the_tables(tmp_path):
    with LmdbBackend(tmp_path / "store") as backend:
        oids = [commit(backend, number) for number in range(5)]
        loc = backend.find("commit", oids[1])

        def drop(sweep):
            sweep.delete_index("commit", oids[1], loc)
            sweep.trim_reflog("heads/main", 2)

        backend.sweep(drop)
        assert not tail_of(backend).size
        assert backend.find("commit", oids[1]) is None
        assert backend.find("commit", oids[2]) is not None
        assert backend.read_reflog("heads/main") == [b"log 4", b"log 3"]


def test_many_commits_of_one_batch_pass_the_tail(tmp_path):
    with LmdbBackend(tmp_path / "store") as backend:
        new = [NewRecord(oid_of(b"c%d" % n), b"c%d" % n, 0, "commit") for n in range(500)]
        backend.publish(Batch(new, backend.next_place()))
        assert tail_of(backend).size <= TAIL_MAX_BYTES
        assert all(backend.find("commit", record.oid) for record in new)
        assert backend.stats()["commit_count"] == 500
