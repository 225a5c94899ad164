"""Loads of bundles that were interrupted: nothing to be seen of them, and nothing done twice."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kvgit_hamt import Repo, bundle_load, verify_bundle
from kvgit_hamt.backend import lmdb_pending
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.lmdb_state import Holder
from kvgit_hamt.errors import (
    BackendError,
    CorruptionError,
    LockedError,
    NotFastForwardError,
    StateError,
)
from kvgit_hamt.objects import RefValue
from tests.support.homes import SMALL
from tests.support.scale import pick, record

ROOT = Path(__file__).parents[2]


class Stop(Exception):
    pass


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    repo = Repo(shape=SMALL, clock=lambda: 1_700_000_000_000_000)
    work = repo.worktree()
    for number in range(30):
        work.update({f"user/{number}/{n}": "x" * (n * 7 % 120) for n in range(20)})
        work.commit(info={"n": number})
    repo.bundle(tmp_path / "b")
    return tmp_path / "b"


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_load, "FLUSH_BYTES", 2_000)
    monkeypatch.setattr(bundle_load, "RESERVE_COUNT", 64)


def opened(path: Path) -> Repo:
    return Repo(path / "store", shape=SMALL)


def stop_after(share: float, total: int) -> Any:
    def progress(phase: str, done: int, of: int) -> None:
        if done >= share * total:
            raise Stop

    return progress


def interrupt(repo: Repo, bundle: Path, share: float = 0.6) -> None:
    with pytest.raises(Stop):
        repo.load_bundle(bundle, progress=stop_after(share, bundle.stat().st_size))


def complete(repo: Repo, bundle: Path, garbage: bool = False) -> None:
    made = verify_bundle(bundle)
    assert {f"heads/{name}": commit for name, commit in repo.branches.items()} == dict(made.refs)
    assert len([*repo.log()]) == made.commit_count
    assert len(repo.snapshot()) == 600
    assert [*repo.check()] == []
    assert repo.store.backend.pending_floor() is None
    assert (repo.gc(keep_reflog=0).freed_count > 0) == garbage
    assert len(repo.snapshot()) == 600


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_an_interrupted_load_goes_on_where_it_stopped(share, bundle, tmp_path):
    repo = opened(tmp_path)
    before = dict(repo.branches), repo.reflog()
    interrupt(repo, bundle, min(share, 0.99))
    assert (dict(repo.branches), repo.reflog()) == before
    assert [*repo.check()] == []
    stored = repo.stats()["record_count"] - 2
    again = repo.load_bundle(bundle)
    assert again.resumed_count + again.written_count >= verify_bundle(bundle).object_count - 2
    assert stored - 2 <= again.resumed_count <= stored
    assert (again.resumed_count > 0) == (share > 0.05)
    complete(repo, bundle)
    repo.close()


def test_commits_are_not_to_be_seen_before_all_is_there(bundle, tmp_path):
    repo = opened(tmp_path)
    interrupt(repo, bundle, 0.95)
    assert repo.stats()["commit_count"] == 1
    assert repo.stats()["node_count"] == 0
    assert repo.stats()["record_count"] > 100
    repo.close()


def test_gc_spares_an_interrupted_load(bundle, tmp_path):
    repo = opened(tmp_path)
    interrupt(repo, bundle)
    stored = repo.stats()["record_count"]
    assert repo.gc(keep_reflog=0).freed_count == 0
    assert repo.stats()["record_count"] == stored
    again = repo.load_bundle(bundle)
    assert again.resumed_count >= stored - 4
    complete(repo, bundle)
    repo.close()


def test_gc_takes_what_no_reservation_holds(bundle, tmp_path, monkeypatch):
    """The control: with reservations of the ordinary kind, given back at the error, nothing would be left."""
    monkeypatch.delattr(LmdbBackend, "claim")
    repo = opened(tmp_path)
    interrupt(repo, bundle)
    backend = repo.store.backend
    assert isinstance(backend, LmdbBackend)
    for first, _ in backend._view(lmdb_pending.rows):
        backend.release(first)
    assert repo.gc(keep_reflog=0).freed_count > 100
    again = repo.load_bundle(bundle)
    assert again.resumed_count == 0
    complete(repo, bundle)
    repo.close()


DYING = """
import os, sys
from kvgit_hamt import Repo, bundle_load
from tests.support.homes import SMALL
bundle_load.FLUSH_BYTES, bundle_load.RESERVE_COUNT = 2_000, 64
where, bundle, share = sys.argv[1], sys.argv[2], float(sys.argv[3])
total = os.path.getsize(bundle)
def progress(phase, done, of):
    if done >= share * total:
        os._exit(9)
Repo(where, shape=SMALL).load_bundle(bundle, progress=progress)
"""


def die(path: Path, bundle: Path, share: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(path / "store"), str(bundle), str(share)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )
    assert done.returncode == 9


@pytest.mark.parametrize("collect", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_load_outlives_its_process(collect, bundle, tmp_path):
    opened(tmp_path).close()
    for share in (0.3, 0.6, 0.8):
        die(tmp_path, bundle, share)
        if collect:
            with opened(tmp_path) as repo:
                repo.gc(keep_reflog=0)
    repo = opened(tmp_path)
    stored = repo.stats()["record_count"]
    again = repo.load_bundle(bundle)
    assert again.resumed_count >= stored - 4 > 100
    complete(repo, bundle)
    repo.close()


def test_what_is_kept_is_kept_for_some_days_only(bundle, tmp_path, monkeypatch):
    opened(tmp_path).close()
    die(tmp_path, bundle, 0.6)
    later = time.time() + lmdb_pending.KEEP_S + 60
    monkeypatch.setattr("kvgit_hamt.backend.lmdb_state.time.time", lambda: later)
    repo = opened(tmp_path)
    assert repo.store.backend.pending_floor() is None
    assert repo.gc(keep_reflog=0).freed_count > 100
    assert repo.load_bundle(bundle).resumed_count == 0
    complete(repo, bundle)
    repo.close()


def test_what_is_kept_can_be_given_up(bundle, tmp_path):
    opened(tmp_path).close()
    die(tmp_path, bundle, 0.6)
    repo = opened(tmp_path)
    assert repo.gc(keep_reflog=0).freed_count == 0
    assert bundle_load.discard(repo.store) >= 1
    assert repo.gc(keep_reflog=0).freed_count > 100
    assert bundle_load.discard(Repo().store) == 0
    repo.close()


def test_a_reservation_judged_dead_is_gone_for_good(bundle, tmp_path, monkeypatch):
    """gc that begins when it has expired, and a load that goes on right then with an earlier clock."""
    repo = opened(tmp_path)
    die(tmp_path, bundle, 0.6)
    now = time.time()
    monkeypatch.setattr("kvgit_hamt.backend.lmdb_state.time.time", lambda: now + lmdb_pending.KEEP_S + 60)
    assert repo.store.backend.pending_floor() is None
    monkeypatch.undo()
    backend = repo.store.backend
    assert isinstance(backend, LmdbBackend)
    assert backend._view(lmdb_pending.rows) == []
    assert repo.load_bundle(bundle).resumed_count == 0
    complete(repo, bundle, garbage=True)
    repo.close()


def test_what_the_first_run_shared_is_looked_up_again(tmp_path):
    """A value that was in the store, then collected, and that the first run's records refer to by place."""
    source = Repo(shape=SMALL, clock=lambda: 1_700_000_000_000_000)
    work = source.worktree()
    work["big"] = "b" * 500
    work.update({f"user/{n}": "x" * (n % 100) for n in range(600)})
    work.commit()
    source.bundle(tmp_path / "b")
    repo = opened(tmp_path)
    mine = repo.worktree("mine", create=True)
    mine["other"] = "b" * 500
    mine.commit()
    interrupt(repo, tmp_path / "b", 0.95)
    mine.close()
    repo.branches.delete("mine")
    assert repo.gc(keep_reflog=0).freed_count >= 3
    again = repo.load_bundle(tmp_path / "b")
    assert again.written_count > 0
    assert again.resumed_count > 10
    assert repo.snapshot()["big"] == "b" * 500
    assert [*repo.check()] == []
    repo.close()


def test_without_the_comparison_a_stale_place_would_be_believed(tmp_path, monkeypatch):
    """The control of the test above: records of the first run taken as they are."""
    real = bundle_load._Sink.put

    def put(self: Any, oid: bytes, payload: bytes, places: list[bytes], kind: Any) -> bytes:
        loc = self.stored.get(oid) if self.has_stored else None
        return loc if loc is not None else real(self, oid, payload, places, kind)

    monkeypatch.setattr(bundle_load._Sink, "put", put)
    with pytest.raises((AssertionError, CorruptionError)):
        test_what_the_first_run_shared_is_looked_up_again(tmp_path)


def test_damaged_records_of_the_first_run_are_written_again(bundle, tmp_path):
    repo = opened(tmp_path)
    interrupt(repo, bundle)
    backend: Any = repo.store.backend
    places = [place for place, _ in backend.list_records(b"", 1_000)][50:60]

    def damage(txn: Any, tables: Any, state: Any) -> tuple[Any, None]:
        for place in places:
            stored = bytearray(txn.get(place, db=tables.records))
            stored[len(stored) // 2] ^= 0x20
            txn.put(place, bytes(stored), db=tables.records)
        return state, None

    backend._write(damage)
    repo.load_bundle(bundle)
    assert len(repo.snapshot()) == 600
    assert [*repo.check()] == []
    repo.close()


def test_a_damaged_bundle_leaves_no_reservation(bundle, tmp_path):
    data = bytearray(bundle.read_bytes())
    data[-20] ^= 1
    bundle.write_bytes(data)
    repo = opened(tmp_path)
    with pytest.raises(CorruptionError):
        repo.load_bundle(bundle)
    assert repo.store.backend.pending_floor() is None
    assert repo.gc(keep_reflog=0).freed_count > 100
    repo.close()


def test_a_refused_move_can_be_tried_again_with_force(bundle, tmp_path):
    repo = opened(tmp_path)
    work = repo.worktree()
    work["mine"] = 1
    work.commit()
    with pytest.raises(NotFastForwardError):
        repo.load_bundle(bundle)
    forced = repo.load_bundle(bundle, force=True)
    assert forced.written_count <= 1
    assert len(repo.snapshot()) == 600
    assert [*repo.check()] == []
    repo.close()


def test_two_threads_do_not_load_one_bundle_at_once(bundle, tmp_path):
    repo = opened(tmp_path)
    inside, go_on = threading.Event(), threading.Event()

    def wait(phase: str, done: int, of: int) -> None:
        inside.set()
        assert go_on.wait(60)

    thread = threading.Thread(target=lambda: repo.load_bundle(bundle, progress=wait))
    thread.start()
    assert inside.wait(60)
    with pytest.raises(StateError, match="another thread"):
        repo.load_bundle(bundle)
    go_on.set()
    thread.join(60)
    complete(repo, bundle)
    repo.close()


WAITING = """
import sys
from kvgit_hamt import Repo, bundle_load
from tests.support.homes import SMALL
bundle_load.FLUSH_BYTES, bundle_load.RESERVE_COUNT = 2_000, 64
seen = []
def progress(phase, done, of):
    seen.append(done)
    if len(seen) == 100:
        print("there", flush=True)
        sys.stdin.read()
Repo(sys.argv[1], shape=SMALL).load_bundle(sys.argv[2], progress=progress)
"""


def test_two_processes_do_not_load_one_bundle_at_once(bundle, tmp_path):
    repo = opened(tmp_path)
    other = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(tmp_path / "store"), str(bundle)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "there\n"
    with pytest.raises(LockedError, match=str(other.pid)):
        repo.load_bundle(bundle)
    assert repo.gc(keep_reflog=0).freed_count == 0
    other.communicate("", timeout=120)
    assert other.returncode == 0
    complete(repo, bundle)
    repo.close()


def test_a_commit_that_others_store_meanwhile_is_not_stored_twice(bundle, tmp_path):
    repo, other = opened(tmp_path), opened(tmp_path)
    done: list[int] = []

    def load_it_first(phase: str, position: int, of: int) -> None:
        if not done and position > of // 2:
            done.append(1)
            part = io.BytesIO(bundle.read_bytes())
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(bundle_load, "_busy", set())
                patch.setattr(bundle_load.FrameReader, "id", property(lambda self: b"another name 123"))
                other.load_bundle(part, {"main": "first"})

    result = repo.load_bundle(bundle, progress=load_it_first)
    assert result.commit_count == 0, "the second attempt found them"
    assert repo.branches["main"] == repo.branches["first"]
    assert [*repo.check()] == []
    repo.gc(keep_reflog=0)
    assert len(repo.snapshot()) == 600
    assert [*repo.check()] == []
    other.close()
    repo.close()


def test_a_branch_that_moves_meanwhile_is_looked_at_again(bundle, tmp_path):
    repo = opened(tmp_path)
    done: list[int] = []
    real = bundle_load._Sink.publish

    def publish(self: Any, *arguments: Any) -> None:
        if not done:
            done.append(1)
            repo.branches.delete("main")
        real(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle_load._Sink, "publish", publish)
        repo.load_bundle(bundle)
    assert repo.reflog()[0].why == "bundle: created"
    complete(repo, bundle)
    repo.close()


def test_an_error_of_the_storage_keeps_what_there_is(bundle, tmp_path):
    repo = opened(tmp_path)
    backend: Any = repo.store.backend
    real, calls = backend.publish, []

    def publish(batch: Any) -> int:
        calls.append(1)
        if len(calls) == 20:
            raise BackendError("the disk has had enough")
        return int(real(batch))

    backend.publish = publish
    with pytest.raises(BackendError, match="enough"):
        repo.load_bundle(bundle)
    del backend.publish
    assert repo.load_bundle(bundle).resumed_count > 50
    complete(repo, bundle)
    repo.close()


ENDLESS = """
import sys
from kvgit_hamt import Repo, bundle_load
from tests.support.homes import SMALL
bundle_load.FLUSH_BYTES, bundle_load.RESERVE_COUNT = 1_000, 64
print("go", flush=True)
Repo(sys.argv[1], shape=SMALL).load_bundle(sys.argv[2])
print("done", flush=True)
"""


@pytest.mark.slow
def test_killed_again_and_again_it_comes_to_its_end(bundle, tmp_path):
    """K2 for bundles: SIGKILL at any moment, gc in between; all refs are old, then all are new."""
    rng = random.Random(7)
    made = verify_bundle(bundle)
    kills = ends = resumed = 0
    for number in range(pick(6, 100)):
        path = tmp_path / str(number)
        path.mkdir()
        opened(path).close()
        while True:
            loader = subprocess.Popen(
                [sys.executable, "-c", ENDLESS, str(path / "store"), str(bundle)],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                text=True,
            )
            assert loader.stdout is not None
            assert loader.stdout.readline() == "go\n"
            time.sleep(rng.uniform(0, 0.25))
            loader.kill()
            is_done = "done" in loader.stdout.read()
            loader.wait()
            kills += not is_done
            with opened(path) as repo:
                assert [*repo.check()] == []
                is_there = {f"heads/{name}": c for name, c in repo.branches.items()} == dict(made.refs)
                assert is_there or len([*repo.log()]) == 1, "some refs moved before all was there"
                resumed += not is_there and repo.stats()["record_count"] > 2
                if rng.randrange(2):
                    repo.gc(keep_reflog=0)
            if is_done or is_there:
                break
        with opened(path) as repo:
            repo.load_bundle(bundle)
            complete(repo, bundle)
        ends += 1
    assert kills > 0
    assert resumed > 0
    record("K2 bundle", loads=ends, kills=kills, violations=0)


def test_refs_that_move_first_would_be_found(bundle, tmp_path, monkeypatch):
    """The control of the test above: a loader that moves refs with the first commit, and is stopped."""
    repo = opened(tmp_path)
    real = bundle_load._Sink.put

    def put(self: Any, oid: bytes, payload: bytes, places: list[bytes], kind: Any) -> bytes:
        loc = real(self, oid, payload, places, kind)
        if kind == "commit" and repo.branches.get("early") is None:
            move = repo.refs.update("heads/early", None, RefValue(oid), "too early")
            self.publish([move], [])
            self.entries = []
            raise Stop
        return loc

    monkeypatch.setattr(bundle_load._Sink, "put", put)
    with pytest.raises(Stop):
        repo.load_bundle(bundle)
    is_there = {f"heads/{name}": c for name, c in repo.branches.items()} == dict(verify_bundle(bundle).refs)
    assert not (is_there or len(repo.branches) == 1)
    repo.close()


def test_the_reservation_of_a_load_has_two_more_fields():
    plain = Holder.me(5)
    kept = plain._replace(until_s=1_700_000_000, name=bytes(range(16)))
    assert len(plain.encode()) == 40
    assert kept.encode() == plain.encode() + (1_700_000_000).to_bytes(8, "little") + bytes(range(16))
    assert Holder.decode(plain.encode()) == plain
    assert Holder.decode(kept.encode()) == kept
    dead = kept._replace(pid=2**22 + 1)
    assert not dead.is_alive()
    assert dead._replace(until_s=int(time.time()) + 60).is_alive()
    assert not dead._replace(until_s=int(time.time()) + 60).is_running()
    with pytest.raises(CorruptionError):
        Holder.decode(kept.encode()[:-1])
