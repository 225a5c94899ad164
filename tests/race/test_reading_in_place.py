"""Leaves are read where they lie in LMDB's map: what moves or re-uses a page must be noticed.

On the plain kernel, and on stores without a cache, the same programs run over ordinary reads.
"""

from __future__ import annotations

import gc
import multiprocessing
import random
import threading
from pathlib import Path

import pytest

from kvgit_hamt import ClosedError, CorruptionError, InvalidKeyError, KeyTypeError, Repo, Shape, kernel
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.hamt import Tree
from kvgit_hamt.node import INNER, Children, inner_encode
from kvgit_hamt.store import NodeCache

needs_ways = pytest.mark.skipif(kernel.NAME != "compiled", reason="only the compiled kernel reads in place")
COUNT = 3_000


def value_of(number: int, version: int) -> bytes:
    return b"%d:%d:" % (number, version) + bytes([version % 256]) * 60


def key_of(number: int) -> str:
    return f"k{number:06}"


def filled(path: Path, **options: object) -> Repo:
    repo = Repo(path, codec="bytes", **options)  # type: ignore[arg-type]
    with repo.worktree() as work:
        work.load((key_of(number), value_of(number, 0)) for number in range(COUNT))
    return repo


@pytest.fixture
def repo(tmp_path):
    with filled(tmp_path / "store") as repo:
        yield repo


def check_all(snapshot, versions):
    """Each key by get, all together by get_many."""
    for number, version in versions.items():
        assert snapshot.get(key_of(number)) == value_of(number, version)
    found = snapshot.get_many([key_of(number) for number in versions])
    assert found == {key_of(number): value_of(number, version) for number, version in versions.items()}


@pytest.mark.parametrize("cache_bytes", [64 << 20, 20_000, 0])
def test_old_and_new_snapshots_hold_while_pages_are_used_again(tmp_path, cache_bytes):
    """Commits, gc and compaction between reads: LMDB writes into pages that were pointed into."""
    rng = random.Random(7)
    with filled(tmp_path / "store", cache_bytes=cache_bytes) as repo:
        versions = dict.fromkeys(range(COUNT), 0)
        work = repo.worktree()
        held = repo.snapshot(), dict(versions)
        check_all(*held)
        for version in range(1, 25):
            for number in rng.sample(range(COUNT), rng.choice([1, 30, 600])):
                work[key_of(number)] = value_of(number, version)
                versions[number] = version
            work.commit()
            if version % 4 == 0:
                repo.gc(keep_reflog=0)
            if version % 10 == 0:
                repo.compact()
            check_all(*held)
            with repo.snapshot() as now:
                check_all(now, versions)
            if version % 6 == 0:
                held = repo.snapshot(), dict(versions)


def test_a_map_that_grows_moves(tmp_path):
    backend = LmdbBackend(tmp_path / "store", map_bytes=1 << 20)
    with filled(backend) as repo:  # type: ignore[arg-type]
        held = repo.snapshot()
        versions = dict.fromkeys(range(COUNT), 0)
        check_all(held, versions)
        before = backend.stats()["map_bytes"]
        work = repo.worktree()
        for round_ in range(6):
            work.update({f"new{round_}/{number}": bytes(400) for number in range(4_000)})
            work.commit()
            check_all(held, versions)
        assert backend.stats()["map_bytes"] > before
    backend.close()


def _commit_elsewhere(path, rounds):
    with Repo(path) as repo:
        work = repo.worktree()
        for version in range(1, rounds + 1):
            work.update({key_of(number): value_of(number, version) for number in range(0, COUNT, 3)})
            work.commit()
            repo.gc(keep_reflog=0)


def test_another_process_writes(tmp_path):
    repo = filled(tmp_path / "store")
    repo.close()
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=_commit_elsewhere, args=(tmp_path / "store", 30))
    with Repo(tmp_path / "store") as repo:
        untouched = dict.fromkeys([number for number in range(COUNT) if number % 3], 0)
        keys = [key_of(number) for number in range(0, COUNT, 3)]
        writer.start()
        while writer.is_alive():
            with repo.snapshot() as now:
                check_all(now, untouched)
                versions = {data.split(b":")[1] for data in map(now.get, keys)}
                assert len(versions) == 1  # of one commit, each
        writer.join()
        assert writer.exitcode == 0


def test_threads_read_while_others_write(repo):
    stop = threading.Event()
    failed: list[BaseException] = []
    untouched = dict.fromkeys(range(1, COUNT, 2), 0)

    def read() -> None:
        try:
            while not stop.is_set():
                with repo.snapshot() as now:
                    check_all(now, untouched)
        except BaseException as error:
            failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    work = repo.worktree()
    for version in range(1, 60):
        work.update({key_of(number): value_of(number, version) for number in range(0, COUNT, 20)})
        work.commit()
        if version % 5 == 0:
            repo.gc(keep_reflog=0)
        if version % 20 == 0:
            repo.compact()
    stop.set()
    for reader in readers:
        reader.join()
    assert not failed


def test_what_was_closed_refuses(repo):
    one, other = repo.snapshot(), repo.snapshot()
    get = one.get
    one.close()
    with pytest.raises(ClosedError, match="snapshot was closed"):
        get("k000001")
    with pytest.raises(ClosedError, match="snapshot was closed"):
        one.get_many(["k000001"])
    assert other.get("k000001") == value_of(1, 0)
    get = other.get
    repo.close()
    with pytest.raises(ClosedError, match="repository was closed"):
        get("k000001")
    with pytest.raises(ClosedError, match="repository was closed"):
        other.get_many(["k000001"])


def test_another_handle_on_the_store_goes_on(tmp_path):
    first, second = filled(tmp_path / "store"), Repo(tmp_path / "store")
    versions = dict.fromkeys(range(COUNT), 0)
    check_all(first.snapshot(), versions)
    first.close()
    check_all(second.snapshot(), versions)
    second.close()


def test_keys_out_of_the_ordinary(repo):
    with repo.worktree() as work:
        work.update({"": b"empty", "é": b"e", "a/b/c/d/e/f": b"deep", "x" * 65_535: b"long", "\0": b"nul"})
        work.commit()
    now = repo.snapshot()
    assert now.get("") == b"empty"
    assert now.get("é") == b"e"
    assert now.get("e\u0301") is None  # never normalised
    assert now.get("a/b/c/d/e/f") == b"deep"
    assert now.get("x" * 65_535) == b"long"
    assert now.get("\0") == b"nul"
    assert now.get("k", 5) == 5
    assert now.get(key="k", default=6) == 6
    assert now.get_many(["é", "", "nothing", "é"]) == {"é": b"e", "": b"empty"}
    for call in (now.get, lambda key: now.get_many([key])):
        with pytest.raises(InvalidKeyError):
            call("x" * 65_536)
        with pytest.raises(InvalidKeyError):
            call("\ud800")
        with pytest.raises(KeyTypeError):
            call(b"k000001")


def test_values_are_decoded_and_blobs_read(tmp_path):
    with Repo(tmp_path / "store") as repo:
        work = repo.worktree()
        work.update({"small": {"a": [1, 2]}, "large": "x" * 5_000, **{str(n): n for n in range(1_000)}})
        work.commit()
        now = repo.snapshot()
        for _ in range(2):
            assert now.get("small") == {"a": [1, 2]}
            assert now.get("large") == "x" * 5_000
            assert now.get_many(["large", "7", "no"]) == {"large": "x" * 5_000, "7": 7}


@needs_ways
def test_a_snapshot_that_is_dropped_is_gone(repo):
    """No cycle holds it, so that gc in the same process need not wait for the collector of Python."""
    gc.disable()
    try:
        now = repo.snapshot()
        now.get("k000001")
        assert len(repo._views) == 1
        del now
        assert len(repo._views) == 0
    finally:
        gc.enable()


def test_leaves_are_counted(repo):
    now = repo.snapshot()
    now.get("k000001")
    before = repo.store.counters.copy()
    for _ in range(10):
        now.get("k000001")
    assert repo.store.counters.since(before).leaves_read == 10
    assert repo.store.counters.since(before).nodes_read == 10


def test_damage_is_found_by_the_next_reader(repo):
    """A record that is exchanged in a later transaction is verified anew."""
    now = repo.snapshot()
    assert now.get("k000001") == value_of(1, 0)
    backend = repo.store.backend
    records = list(backend.iterate_records())
    with backend._shared.lock:
        env, tables = backend._bind()
        with env.begin(write=True) as txn:
            for place, record in records:
                if record[0] == 1 and value_of(1, 0) in record:
                    flipped = bytearray(record)
                    flipped[flipped.index(value_of(1, 0))] ^= 1
                    txn.put(place, bytes(flipped), db=tables.records)
    with pytest.raises(CorruptionError):
        now.get("k000001")
    with pytest.raises(CorruptionError):
        now.get_many(["k000001"])


def _grow_in_the_middle(path):
    """While one lookup waits for an inner node, another thread grows the map and looks something up."""
    backend = LmdbBackend(path, map_bytes=1 << 24)
    with filled(backend) as repo:  # type: ignore[arg-type]
        old = repo.snapshot()
        work = repo.worktree()
        work["new"] = b"1"
        work.commit()
        new = repo.snapshot()
        store = repo.store
        store.forget()
        keys = [key_of(number) for number in range(COUNT)]
        expected = old.get_many(keys)
        assert len(expected) == COUNT  # and all of it is linked: only the way from the new root is not
        store.cache.clear()
        read, is_grown = store.read, []

        def read_slowly(oid: bytes, loc: bytes) -> bytes:
            body = read(oid, loc)
            if body[0] == INNER and not is_grown:
                is_grown.append(True)
                with backend._shared.lock:
                    backend._shared.grow()
                old.get(key_of(7))
            return body

        store.read = read_slowly  # type: ignore[method-assign]
        for key in keys:
            assert new.get(key) == expected[key]
        assert is_grown


def _unmap_at_each_collection(path):
    """A finaliser may do anything: here, whatever Python collects, the map goes away."""
    backend = LmdbBackend(path)
    with filled(backend) as repo:  # type: ignore[arg-type]
        now = repo.snapshot()
        unmapped = []

        def unmap(phase: str, info: object) -> None:
            if not backend._shared.lock._is_owned():  # type: ignore[attr-defined]  # not while it is mapped
                unmapped.append(phase)
                with backend._shared.lock:
                    backend._shared.close()

        gc.callbacks.append(unmap)
        for number in range(1_000):
            gc.set_threshold(1 + number % 9)
            assert now.get(key_of(number)) == value_of(number, 0)
        gc.callbacks.remove(unmap)
        gc.set_threshold(700)
        assert unmapped


@needs_ways
@pytest.mark.parametrize("program", [_grow_in_the_middle, _unmap_at_each_collection])
def test_what_is_unmapped_in_the_middle_of_a_lookup_is_not_followed(tmp_path, program):
    """In a process of its own: the mistake would be a segmentation fault."""
    process = multiprocessing.get_context("spawn").Process(target=program, args=(tmp_path / "store",))
    process.start()
    process.join()
    assert process.exitcode == 0


def _give_up_a_long_chain(count):
    """Nodes of which each is the child of the one before, linked piece by piece from the end."""
    shape = Shape()

    class Chain:
        cache = NodeCache(0)

        def __init__(self) -> None:
            self.shape = shape
            self.ways = kernel.Ways(self, None, 1 << 32)

        def read(self, oid: bytes, loc: bytes) -> bytes:
            number = int.from_bytes(oid, "big") + 1
            oids, locs = [number.to_bytes(32, "big")], [number.to_bytes(8, "little")]
            return inner_encode(Children(bytes(shape.slots), oids, locs, [1 << 20], [1 << 30], [0]))

    chain = Chain()
    for number in range(count, 0, -100):
        with pytest.raises(CorruptionError):
            kernel.get(chain, shape, Tree(number.to_bytes(32, "big"), number.to_bytes(8, "little")), b"key")
    chain.ways.clear()


@needs_ways
def test_forged_nodes_in_a_long_chain_are_given_up_one_by_one():
    """Not by a recursion, which would end in a segmentation fault."""
    process = multiprocessing.get_context("spawn").Process(target=_give_up_a_long_chain, args=(250_000,))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_who_reads_otherwise_is_asked(tmp_path):
    """A wrapper, or a subclass, with a ``read`` of its own: no leaf is read around it."""
    asked: list[bytes] = []

    class Own(LmdbBackend):
        def read(self, oid: bytes, loc: bytes) -> bytes | None:
            asked.append(oid)
            return super().read(oid, loc)

        def read_many(self, links: object) -> list[bytes | None]:
            return [self.read(*link) for link in links]  # type: ignore[attr-defined]

    class Wrapper:
        def __init__(self, inner: LmdbBackend) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def read(self, oid: bytes, loc: bytes) -> bytes | None:
            asked.append(oid)
            return self.inner.read(oid, loc)

    filled(tmp_path / "store").close()
    for backend in (Own(tmp_path / "store"), Wrapper(LmdbBackend(tmp_path / "store"))):
        with Repo(backend) as repo:  # type: ignore[arg-type]
            now = repo.snapshot()
            for _ in range(2):
                asked.clear()
                assert now.get(key_of(1)) == value_of(1, 0)
                assert asked
