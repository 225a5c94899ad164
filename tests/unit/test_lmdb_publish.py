"""The write transaction: places, growth, failing commits, reservations."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from kvgit_hamt.backend.base import Batch, NewRecord, RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.lmdb_state import NONCE_COUNT, Holder
from kvgit_hamt.errors import (
    BackendError,
    BranchMovedError,
    CorruptionError,
    OutcomeUnknownError,
    StoreFullError,
)
from kvgit_hamt.oid import oid_of
from kvgit_hamt.testing.steps import contents, move, publish, record
from kvgit_hamt.wire import place_of, unseal

ROOT = Path(__file__).parents[2]


@pytest.fixture
def backend(tmp_path):
    with LmdbBackend(tmp_path / "store") as backend:
        yield backend


def raw(backend):
    env, tables = backend._shared.open()
    return env, tables


# --- places


def test_places_start_at_one_and_follow_each_other(backend):
    assert backend.next_place() == 1
    assert publish(backend, record(b"a"), record(b"b")) == [place_of(1), place_of(2)]
    assert backend.next_place() == 3


def test_records_lie_in_the_order_of_their_places_past_two_bytes(backend):
    backend.reserve(70_000)
    locs = publish(backend, record(b"a"))
    assert locs == [place_of(70_001)]
    base = backend.reserve(1)
    publish(backend, record(b"b"))
    backend.publish(Batch([record(b"late")], base, is_reserved=True))
    assert [int.from_bytes(loc, "little") for loc, _ in backend.iterate_records()] == [70_001, base, base + 1]


def test_only_places_of_the_batch_itself_are_moved(backend):
    publish(backend, *(record(b"%d" % number) for number in range(9)))
    base = backend.next_place()
    publish(backend, record(b"other"), record(b"another"))
    parent = record(b"parent", [3, base, 9], "commit")
    assert backend.publish(Batch([record(b"child"), parent], base)) == 2
    stored = backend.read(parent.oid, place_of(base + 3))
    assert unseal(parent.oid, stored) == b"parent" + place_of(3) + place_of(base + 2) + place_of(9)


def test_a_place_that_is_taken_is_never_written_over(backend):
    publish(backend, *(record(b"%d" % number) for number in range(5)))
    env, tables = raw(backend)
    with env.begin(write=True) as txn:
        txn.put(place_of(6), b"stray", db=tables.records)
    before = contents(backend)
    with pytest.raises(CorruptionError, match="hold records already"):
        publish(backend, record(b"new"))
    assert contents(backend) == before


@pytest.mark.parametrize("shift", [-1, 3, 100])
def test_a_batch_outside_its_reservation_is_refused(backend, shift):
    publish(backend, record(b"a"))
    base = backend.reserve(3)
    publish(backend, record(b"b"))
    before = contents(backend)
    with pytest.raises(BackendError, match="not reserved"):
        backend.publish(Batch([record(b"x")], base + shift, is_reserved=True))
    with pytest.raises(BackendError, match="not reserved"):
        backend.publish(Batch([record(b"%d" % number) for number in range(4)], base, is_reserved=True))
    assert contents(backend) == before


def test_a_reservation_of_a_dead_process_is_cleared_at_open(tmp_path):
    code = """
import os, sys
from kvgit_hamt.backend.lmdb import LmdbBackend
backend = LmdbBackend(sys.argv[1])
backend.reserve(10)
assert backend.pending_floor() == 1
os._exit(0)
"""
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    with LmdbBackend(tmp_path / "store", readonly=True) as backend:
        assert backend.pending_floor() is None
        assert backend.stats()["pending_count"] == 1
    with LmdbBackend(tmp_path / "store") as backend:
        assert backend.stats()["pending_count"] == 0
        assert backend.next_place() == 11


def test_a_reservation_of_a_live_process_survives_other_opens(tmp_path):
    backend = LmdbBackend(tmp_path / "store")
    first = backend.reserve(10)
    other = LmdbBackend(tmp_path / "store", accept_rollback=True)  # opens anew
    assert other.pending_floor() == first
    assert other.publish(Batch([record(b"x")], first, is_reserved=True)) == 0
    backend.close()
    other.close()


def test_a_process_is_told_apart_from_a_later_one_with_its_number():
    me = Holder.me(1)
    assert me.is_alive()
    assert Holder.decode(me.encode()) == me
    assert not me._replace(start=me.start + 1).is_alive()
    assert not me._replace(boot=me.boot ^ 1).is_alive()
    assert not me._replace(pid=2**22 + 1).is_alive()
    assert me._replace(namespace=1, start=me.start + 1).is_alive(), "another container's: not ours to judge"
    assert me._replace(start=0).is_alive(), "a system that does not tell the start"
    with pytest.raises(CorruptionError):
        Holder.decode(b"short")


def test_a_zombie_holds_nothing():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    holder = Holder.me(1)._replace(pid=pid, start=0)
    assert not holder.is_alive()
    os.waitpid(pid, 0)


# --- growth


def test_a_map_that_is_full_grows_and_the_commit_is_made(tmp_path):
    with LmdbBackend(tmp_path / "store", map_bytes=1) as backend:
        small = backend.stats()["map_bytes"]
        new = [record(os.urandom(1900), kind="blob") for _ in range(4000)]
        locs = publish(backend, *new, refs=[RefUpdate("heads/main", None, b"1", b"log")])
        assert backend.stats()["map_bytes"] >= 8 * small
        links = list(zip((each.oid for each in new), locs, strict=True))
        assert all(stored is not None for stored in backend.read_many(links))
        assert backend.read_reflog("heads/main") == [b"log"]
        assert backend.next_place() == 4001
    with LmdbBackend(tmp_path / "store", map_bytes=1) as backend:
        assert backend.stats()["record_count"] == 4000


def test_the_batch_is_read_again_when_the_map_grows(tmp_path):
    """Records come as a sequence, not an iterator, because of this."""
    with LmdbBackend(tmp_path / "store", map_bytes=1) as backend:
        new = [record(bytes([number]) * (1 << 20)) for number in range(16)]
        locs = publish(backend, *new)
        for each, loc in zip(new, locs, strict=True):
            assert unseal(each.oid, backend.read(each.oid, loc)) == each.body


# --- failing batches


class FailingRecords(list):
    """A sequence that raises when its records are taken."""

    def __init__(self, error, *records):
        super().__init__(records)
        self.error = error

    def __iter__(self):
        yield from list.__iter__(self)
        raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("x"), MemoryError()])
def test_an_exception_in_the_middle_leaves_nothing_and_no_lock(backend, error):
    publish(backend, record(b"a"))
    before = contents(backend)
    with pytest.raises(type(error)):
        backend.publish(Batch(FailingRecords(error, record(b"b", kind="blob")), 2))
    assert contents(backend) == before
    assert backend.find("blob", oid_of(b"b")) is None
    publish(backend, record(b"c"))


def test_the_same_ref_twice_in_a_batch_is_taken_in_order(backend):
    steps = [RefUpdate("heads/a", None, b"1", b"l1"), RefUpdate("heads/a", b"1", b"2", b"l2")]
    backend.publish(Batch(refs=steps))
    assert backend.get_ref("heads/a") == b"2"
    assert backend.read_reflog("heads/a") == [b"l2", b"l1"]
    assert backend.list_refs("") == [("heads/a", b"2")]


# --- failing commits


class CodedError(lmdb.Error):
    def __init__(self, code):
        super().__init__("made to fail", code)
        self.code = code


def failing_commit(backend, monkeypatch, error, *, lands, then=lambda: None):
    """Make the next commit raise, after it was made (``lands``) or aborted."""

    def commit(txn):
        monkeypatch.undo()
        if lands:
            txn.commit()
        else:
            txn.abort()
        backend._shared.turn.give()  # as closing the environment does, which comes next
        then()
        raise error

    monkeypatch.setattr(backend, "_commit", commit)


BATCH = Batch([record(b"x", kind="blob")], 1, refs=[RefUpdate("heads/main", None, b"1", b"log")])


@pytest.mark.parametrize("error", [CodedError(errno.EIO), lmdb.PanicError("x")])
def test_a_commit_that_failed_but_landed_is_a_success(backend, monkeypatch, error):
    failing_commit(backend, monkeypatch, error, lands=True)
    assert backend.publish(BATCH) == 0
    assert backend.get_ref("heads/main") == b"1"
    assert backend.read_reflog("heads/main") == [b"log"]
    move(backend, "heads/main", b"2")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CodedError(errno.EIO), BackendError),
        (lmdb.PanicError("x"), BackendError),
        (CodedError(errno.ENOSPC), StoreFullError),
        (lmdb.DiskError("x"), StoreFullError),
    ],
)
def test_a_commit_that_failed_and_did_not_land_is_reported_as_not_stored(backend, monkeypatch, error, kind):
    before = contents(backend)
    failing_commit(backend, monkeypatch, error, lands=False)
    with pytest.raises(BackendError, match="nothing was stored") as caught:
        backend.publish(BATCH)
    assert type(caught.value) is kind
    assert contents(backend) == before
    backend.publish(BATCH)
    assert backend.get_ref("heads/main") == b"1"


def test_a_full_map_at_commit_grows_like_any_other(backend, monkeypatch):
    failing_commit(backend, monkeypatch, lmdb.MapFullError("x"), lands=False)
    backend.publish(BATCH)
    assert backend.get_ref("heads/main") == b"1"
    assert backend.stats()["map_bytes"] == 1 << 41


def others(path, count):
    """As many commits of another process."""
    code = """
import sys
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.base import Batch
with LmdbBackend(sys.argv[1]) as backend:
    for number in range(int(sys.argv[2])):
        backend.publish(Batch(meta={"other": b"%d" % number}))
"""
    subprocess.run(
        [sys.executable, "-c", code, path, str(count)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )


@pytest.mark.parametrize("lands", [True, False])
@pytest.mark.parametrize("count", [1, NONCE_COUNT - 1])
def test_the_outcome_is_found_behind_commits_of_others(backend, monkeypatch, lands, count):
    failing_commit(
        backend, monkeypatch, CodedError(errno.EIO), lands=lands, then=lambda: others(backend.path, count)
    )
    if lands:
        backend.publish(BATCH)
    else:
        with pytest.raises(BackendError, match="nothing was stored"):
            backend.publish(BATCH)
    assert backend.get_ref("heads/main") == (b"1" if lands else None)


def test_an_outcome_behind_too_many_commits_of_others_is_unknown(backend, monkeypatch):
    failing_commit(
        backend,
        monkeypatch,
        CodedError(errno.EIO),
        lands=False,
        then=lambda: others(backend.path, NONCE_COUNT + 1),
    )
    with pytest.raises(OutcomeUnknownError):
        backend.publish(BATCH)


def test_an_outcome_that_cannot_be_read_back_is_unknown(backend, monkeypatch):
    path = Path(backend.path)
    failing_commit(
        backend,
        monkeypatch,
        CodedError(errno.EIO),
        lands=True,
        then=lambda: (path / "data.mdb").rename(path / "away"),
    )
    with pytest.raises(OutcomeUnknownError):
        backend.publish(BATCH)
    (path / "away").rename(path / "data.mdb")
    assert backend.get_ref("heads/main") == b"1"


def test_a_file_size_limit_is_a_full_store_that_keeps_what_it_has(tmp_path):
    code = """
import os, resource, sys
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.base import Batch, NewRecord, RefUpdate
from kvgit_hamt.errors import StoreFullError
from kvgit_hamt.oid import oid_of
backend = LmdbBackend(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
old = None
count = 0
while True:
    body = os.urandom(50_000)
    new = b"%d" % (count + 1)
    try:
        backend.publish(
            Batch([NewRecord(oid_of(body), body, 0, "blob")], backend.next_place(),
                  refs=[RefUpdate("heads/main", old, new, None)])
        )
    except StoreFullError:
        break
    old, count = new, count + 1
assert backend.get_ref("heads/main") == old
assert backend.stats()["record_count"] == count
print(count)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count = int(done.stdout)
    assert count > 5
    with LmdbBackend(tmp_path / "store") as backend:
        assert backend.get_ref("heads/main") == b"%d" % count
        assert len(list(backend.iterate_records())) == count
        move(backend, "heads/main", b"more")


def test_a_lost_race_costs_no_reading_of_the_batch(backend):
    with pytest.raises(BranchMovedError):
        backend.publish(
            Batch(
                FailingRecords(AssertionError("read"), NewRecord(b"", b"", 0, None)),
                1,
                refs=[RefUpdate("heads/main", b"old", b"new", None)],
            )
        )
