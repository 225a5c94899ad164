"""Verified reads, the cache, and batches of writes with their places."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from random import Random

import pytest

from kvgit_hamt import bulk, diff, hamt, merge, node, scan, wire
from kvgit_hamt.backend.base import RefUpdate
from kvgit_hamt.backend.lmdb import LmdbBackend
from kvgit_hamt.backend.memory import MemoryBackend
from kvgit_hamt.errors import (
    AmbiguousCommitError,
    BranchMovedError,
    CommitNotFoundError,
    CorruptionError,
    InvalidInputError,
    StateError,
)
from kvgit_hamt.hamt import Editor, Tree
from kvgit_hamt.node import BlobRef
from kvgit_hamt.objects import encode_commit
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import Shape
from kvgit_hamt.run import make_run
from kvgit_hamt.store import NODE_OVERHEAD_BYTES, NodeCache, Store
from tests.support.damage import DamagedBackend
from tests.support.nodes import make_inner, make_leaf
from tests.support.placed import PlacedBackend, placed_store
from tests.support.trees import change, contents, empty_tree, memory_store

store_module = import_module("kvgit_hamt.store")  # the package exports a function of that name

SHAPE = Shape(bits=4, leaf_max=120, inline_max=64, index_min=12)
ENTRIES = {b"key-%d" % n: b"value-%d" % n for n in range(300)}
KEY = b"key-7"


def commit_of(store: Store, writer, tree: Tree, parents=(), info=None):
    """Put a commit; its oid."""
    payload = encode_commit(tree.oid, tuple(p.oid for p in parents), 1, None, info, "bytes")
    writer.put_commit(payload, tree, parents)
    return oid_of(payload)


# Damage is never absence


class Scene:
    """Three trees that differ at KEY, without a cache, over a backend that can be damaged."""

    def __init__(self) -> None:
        self.backend = DamagedBackend()
        self.store = Store(self.backend, SHAPE, 0)
        self.base = change(self.store, empty_tree(self.store), ENTRIES)
        self.tree = change(self.store, self.base, {KEY: b"ours"})
        self.other = change(self.store, self.base, {KEY: b"theirs"})

    def way(self) -> list[bytes]:
        """Oids of the nodes of ``tree`` on the way to KEY, the root first."""
        oids = [self.tree.oid]
        path = SHAPE.hash(KEY)
        for level in range(99):
            body = self.store.read(oids[-1], b"")
            if body[0] == node.LEAF:
                return oids
            oids.append(node.inner_step(body, SHAPE.slot(KEY, path, level))[0])
        raise AssertionError("too deep")


OPERATIONS = {
    "get": lambda s: hamt.get(s.store, SHAPE, s.tree, KEY),
    "get of an absent key": lambda s: [
        hamt.get(s.store, SHAPE, s.tree, b"absent-%d" % n) for n in range(2_000)
    ],
    "get_many": lambda s: hamt.get_many(s.store, SHAPE, s.tree, list(ENTRIES)),
    "items": lambda s: list(scan.items(s.store, SHAPE, s.tree)),
    "keys": lambda s: list(scan.keys(s.store, SHAPE, s.tree)),
    "nodes": lambda s: list(scan.nodes(s.store, s.tree)),
    "diff": lambda s: list(diff.diff(s.store, SHAPE, s.base, s.tree)),
    "diff back": lambda s: list(diff.diff(s.store, SHAPE, s.tree, s.base)),
    "diff from nothing": lambda s: list(diff.diff(s.store, SHAPE, empty_tree(s.store), s.tree)),
    "has_changed": lambda s: hamt.has_changed(s.store, SHAPE, s.base, s.tree, KEY),
    "merge": lambda s: merge.merge(s.store.writer(), SHAPE, (s.base, s.tree, s.other), lambda k, b, o, t: t),
    "apply": lambda s: change(s.store, s.tree, {KEY: b"new"}),
    "delete": lambda s: change(s.store, s.tree, {KEY: None}),
    "apply to all": lambda s: change(s.store, s.tree, dict.fromkeys(ENTRIES, b"new")),
    "load": lambda s: bulk.load(s.store.bulk_writer(), SHAPE, s.tree, [([KEY], [b"new"])]),
    "load in little memory": lambda s: bulk.load(
        s.store.bulk_writer(), SHAPE, s.tree, [([key], [b"new"]) for key in ENTRIES], 4_000
    ),
    "sample": lambda s: scan.sample(s.store, SHAPE, s.tree, 300, Random(1)),
}


def flipped(oid: bytes, record: bytes) -> bytes:
    return record[:9] + bytes((record[9] ^ 1,)) + record[10:]


DAMAGE = {
    "missing": lambda oid, record: None,
    "empty": lambda oid, record: b"",
    "cut": lambda oid, record: record[:-1],
    "altered": lambda oid, record: flipped(oid, record),
    "of another oid": lambda oid, record: wire.seal(oid_of(b"other"), record[:-8]),
    "nothing under a good check": lambda oid, record: wire.seal(oid, b""),
    "a blob under a good check": lambda oid, record: wire.seal(oid, b"\x04\x01" + record[2:-8]),
    "a commit under a good check": lambda oid, record: wire.seal(oid, b"\x03\x01" + record[2:-8]),
    "a cut inner node under a good check": lambda oid, record: wire.seal(oid, make_inner([4] * 4, 4)[:-1]),
    "an inner node of other slots under a good check": lambda oid, record: wire.seal(
        oid, make_inner([1, -1, 2], 2)
    ),
    "an inner node of more slots under a good check": lambda oid, record: wire.seal(
        oid, make_inner([16, 16, 32], 6)
    ),
    "child numbers outside under a good check": lambda oid, record: wire.seal(
        oid, make_inner([16], 4)[:8] + bytes((7,)) * 16 + make_inner([16], 4)[24:]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_damaged_node_raises_in_every_operation_that_needs_it(operation, damage):
    scene = Scene()
    way = scene.way()
    assert len(way) >= 3
    for oid in way:
        good = MemoryBackend.read(scene.backend, oid, b"")
        scene.backend.instead = {oid: DAMAGE[damage](oid, good)}
        with pytest.raises(CorruptionError):
            OPERATIONS[operation](scene)
    scene.backend.instead = {}
    OPERATIONS[operation](scene)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_forged_node_of_the_other_kind_raises_nothing_else(operation):
    """The check is no signature: what passes it on purpose is found by verifying oids, not by reading."""
    scene = Scene()
    way = scene.way()
    for oid in way:
        forged = make_leaf([(b"k", b"v")]) if oid != way[-1] else make_inner([8, 8], 4)
        scene.backend.instead = {oid: wire.seal(oid, forged)}
        with suppress(CorruptionError):
            OPERATIONS[operation](scene)


def test_every_altered_bit_of_a_stored_leaf_is_noticed():
    scene = Scene()
    leaf = scene.way()[-1]
    good = MemoryBackend.read(scene.backend, leaf, b"")
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        scene.backend.instead = {leaf: bytes(bad)}
        with pytest.raises(CorruptionError):
            hamt.get(scene.store, SHAPE, scene.tree, KEY)


def test_what_is_damaged_elsewhere_does_not_matter():
    scene = Scene()
    way = scene.way()
    for visited in scan.nodes(scene.store, scene.tree):
        if visited.oid not in way:
            scene.backend.instead[visited.oid] = None
    assert hamt.get(scene.store, SHAPE, scene.tree, KEY) == b"ours"
    assert list(diff.diff(scene.store, SHAPE, scene.base, scene.tree)) == [(KEY, b"value-7", b"ours")]


def test_a_damaged_blob_raises():
    backend = DamagedBackend()
    store = Store(backend, SHAPE, 0)
    tree = change(store, empty_tree(store), {b"k": b"x" * 100})
    ref = hamt.get(store, SHAPE, tree, b"k")
    assert isinstance(ref, BlobRef)
    good = MemoryBackend.read(backend, ref.oid, b"")
    for bad in (
        None,
        good[:-1],
        flipped(ref.oid, good),
        wire.seal(ref.oid, b""),
        wire.seal(ref.oid, b"\x04\x02" + b"x" * 100),
        wire.seal(ref.oid, b"\x04\x01" + b"x" * 99),
        wire.seal(ref.oid, b"\x01\x01" + b"x" * 100),
    ):
        backend.instead = {ref.oid: bad}
        with pytest.raises(CorruptionError):
            store.load_value(ref)
    backend.instead = {}
    assert store.load_value(ref) == b"x" * 100


def test_a_missing_or_damaged_commit_raises():
    backend = DamagedBackend()
    store = Store(backend, SHAPE, 0)
    writer = store.writer()
    tree = hamt.put_empty(writer)
    oid = commit_of(store, writer, tree)
    writer.publish()
    assert store.read_commit(oid).tree == (tree.oid, b"")
    good = MemoryBackend.read(backend, oid, b"")
    leaf, cut = wire.seal(oid, node.EMPTY_LEAF), wire.seal(oid, b"\x03\x01\0\0")
    for bad in (None, b"", flipped(oid, good), leaf, cut):
        backend.instead = {oid: bad}
        with pytest.raises(CorruptionError):
            store.read_commit(oid)
    with pytest.raises(CorruptionError, match="missing"):
        store.read_commit(oid_of(b"no such commit"))


# The cache


def test_the_cache_keeps_within_its_bytes():
    cache = NodeCache(10_000)
    rng = Random(1)
    for n in range(2_000):
        key = b"%d" % rng.randrange(60)
        if key not in cache.young and cache.get_old(key) is None:
            cache.put(key, bytes(rng.randrange(1_500)))
        held = {**cache.young, **cache.old}
        assert sum(len(body) + NODE_OVERHEAD_BYTES for body in held.values()) <= 10_000, n


@pytest.mark.parametrize("max_bytes", [0, 1, 300, 1_000])
def test_a_body_too_large_for_the_cache_is_not_kept(max_bytes):
    cache = NodeCache(max_bytes)
    for n in range(4):
        cache.put(b"%d" % n, bytes(2_000))
    assert not cache.young
    assert not cache.old


def test_a_body_too_large_for_the_cache_drives_nothing_out():
    cache = NodeCache(2_000)
    cache.put(b"a", bytes(500))
    cache.put(b"b", bytes(5_000))
    assert set(cache.young) == {b"a"}


def test_what_is_used_survives_a_change_of_generations():
    cache = NodeCache(2_000)
    cache.put(b"used", bytes(100))
    for n in range(50):
        cache.put(b"%d" % n, bytes(100))
        assert cache.young.get(b"used") or cache.get_old(b"used")
    assert b"0" not in cache.young
    assert cache.get_old(b"0") is None


def test_a_cleared_cache_is_empty():
    cache = NodeCache(2_000)
    cache.put(b"a", b"body")
    cache.clear()
    assert cache.young.get(b"a") is None
    assert cache.get_old(b"a") is None


def test_inner_nodes_are_read_once_and_leaves_each_time():
    store = memory_store(SHAPE)
    tree = change(store, empty_tree(store), ENTRIES)
    store.cache.clear()
    before = store.counters.copy()
    hamt.get(store, SHAPE, tree, KEY)
    cold = store.counters.since(before)
    before = store.counters.copy()
    hamt.get(store, SHAPE, tree, KEY)
    warm = store.counters.since(before)
    assert cold.leaves_read == warm.leaves_read == warm.nodes_read == 1
    assert cold.nodes_read >= 3


def test_new_inner_nodes_are_cached_once_stored():
    store = memory_store(SHAPE)
    tree = change(store, empty_tree(store), ENTRIES)
    before = store.counters.copy()
    hamt.get(store, SHAPE, tree, KEY)
    assert store.counters.since(before).nodes_read == 1


@pytest.mark.parametrize("make", [memory_store, placed_store])
def test_many_bodies_come_in_order_cached_or_not(make):
    store = make(SHAPE)
    tree = change(store, empty_tree(store), ENTRIES)
    visited = list(scan.nodes(store, tree))
    links = [(v.oid, v.loc) for v in visited]
    Random(1).shuffle(visited)
    for cached in (0, 5, len(visited)):
        store.cache.clear()
        for link in links[:cached]:
            store.read(*link)
        before = store.counters.copy()
        bodies = store.read_many([(v.oid, v.loc) for v in visited])
        assert bodies == [v.body for v in visited]
        assert store.counters.since(before).nodes_read <= len(visited)


# Commits by id


def some_commits(store: Store, count: int) -> list[bytes]:
    writer = store.writer()
    tree = hamt.put_empty(writer)
    oids = [commit_of(store, writer, tree, info={"n": n}) for n in range(count)]
    writer.publish()
    return oids


@pytest.mark.parametrize("make", [memory_store, placed_store])
def test_a_commit_is_found_by_any_unique_abbreviation(make):
    store = make(SHAPE)
    oids = some_commits(store, 3)
    for oid in oids:
        for length in (4, 5, 63, 64):
            assert store.resolve_commit(oid.hex()[:length]) == oid
        assert store.resolve_commit(oid.hex()[:9].upper()) == oid


def test_an_abbreviation_of_several_commits_is_ambiguous_and_shows_them():
    store = memory_store(SHAPE)
    oids = sorted(oid.hex() for oid in some_commits(store, 1_500))
    # the birthday paradox: among 1,500 ids some share four digits, with this data always the same
    one, other = next((a, b) for a, b in pairwise(oids) if a[:4] == b[:4])
    with pytest.raises(AmbiguousCommitError) as caught:
        store.resolve_commit(one[:4])
    assert one[:8] in str(caught.value)
    assert other[:8] in str(caught.value)
    assert store.resolve_commit(one).hex() == one


def test_an_id_of_no_commit_is_not_found_and_a_bad_one_refused():
    store = memory_store(SHAPE)
    tree = change(store, empty_tree(store), ENTRIES)
    with pytest.raises(CommitNotFoundError):
        store.resolve_commit("00000000")
    with pytest.raises(CommitNotFoundError):
        store.resolve_commit(tree.oid.hex())  # a node is no commit
    with pytest.raises(InvalidInputError):
        store.resolve_commit("abc")


# Batches


@pytest.fixture(params=["placed", "lmdb"])
def store(request, tmp_path):
    """A store whose records have places: in memory, and the embedded one."""
    if request.param == "placed":
        yield placed_store(SHAPE)
        return
    backend = LmdbBackend(tmp_path / "store", map_bytes=1 << 26, sync="no_meta")
    yield Store(backend, SHAPE, 1 << 20)
    backend.close()


def test_nothing_is_stored_before_a_batch_is_published_but_the_batch_reads_it():
    store = placed_store(SHAPE)
    base = empty_tree(store)
    writer = store.writer()
    value = writer.put_value(b"x" * 100)
    tree = Editor(writer, SHAPE).apply(base, make_run(SHAPE, [(KEY, value), (b"b", b"")]))
    assert hamt.get(writer, SHAPE, tree, KEY) == value
    assert writer.load_value(value) == b"x" * 100
    with pytest.raises(CorruptionError):
        store.read(tree.oid, tree.loc)
    writer.publish()
    assert contents(store, tree) == {KEY: b"x" * 100, b"b": b""}


def test_a_blob_is_stored_once_however_often_it_is_put():
    for make in (memory_store, placed_store):
        store = make(SHAPE)
        tree = change(store, empty_tree(store), {b"a": b"x" * 100, b"b": b"x" * 100})
        assert store.counters.blobs_written == 1
        again = change(store, tree, {b"c": b"x" * 100})
        assert store.counters.blobs_written == 1
        assert contents(store, again)[b"c"] == b"x" * 100


def test_a_ref_that_moved_leaves_nothing_of_the_batch():
    for make in (memory_store, placed_store):
        store = make(SHAPE)
        tree = empty_tree(store)
        writer = store.writer()
        new = Editor(writer, SHAPE).apply(tree, make_run(SHAPE, [(KEY, b"v")]))
        count = len(list(store.backend.iterate_records()))
        with pytest.raises(BranchMovedError):
            writer.publish([RefUpdate("heads/main", b"not there", b"new", None)])
        assert len(list(store.backend.iterate_records())) == count
        with pytest.raises(CorruptionError):
            store.read(new.oid, new.loc)


def test_places_move_when_another_writer_took_them(store):
    tree = change(store, empty_tree(store), ENTRIES)
    slow, fast = store.writer(), store.writer()
    mine = Editor(slow, SHAPE).apply(
        tree, make_run(SHAPE, [(KEY, slow.put_value(b"m" * 200)), (b"more", b"1")])
    )
    oid = commit_of(store, slow, mine)
    theirs = Editor(fast, SHAPE).apply(
        tree, make_run(SHAPE, [(b"key-%d" % n, fast.put_value(b"t" * 100)) for n in range(50)])
    )
    fast.publish()
    assert contents(store, theirs)[b"key-0"] == b"t" * 100
    slow.publish()
    commit = store.read_commit(oid)
    moved = Tree(*commit.tree)
    assert moved.oid == mine.oid
    assert moved.loc != mine.loc
    for _ in range(2):  # from the cache, too
        assert contents(store, moved) == {**ENTRIES, KEY: b"m" * 200, b"more": b"1"}
        assert contents(store, theirs)[b"key-1"] == b"t" * 100
        assert contents(store, tree) == ENTRIES
    for place, record in store.backend.iterate_records():
        if record[0] == node.INNER:  # children lie before their parents
            assert all(child[::-1] < place[::-1] for child in node.inner_children(record[:-8]).locs)


def test_a_batch_refuses_a_tree_that_was_stored_after_it_was_begun(store):
    tree = empty_tree(store)
    writer = store.writer()
    later = change(store, tree, ENTRIES)
    with pytest.raises(StateError, match="older than the tree"):
        Editor(writer, SHAPE).apply(later, make_run(SHAPE, [(KEY, b"v")]))
    with pytest.raises(StateError):
        writer.read_many([(later.oid, later.loc)])
    with pytest.raises(StateError):
        commit_of(store, writer, later)
    Editor(writer, SHAPE).apply(tree, make_run(SHAPE, [(KEY, b"v")]))
    with pytest.raises(StateError):
        writer.read_many([(later.oid, later.loc), (tree.oid, tree.loc)])


def test_a_batch_does_not_share_a_blob_that_was_stored_after_it_was_begun(store):
    tree = empty_tree(store)
    writer = store.writer()
    change(store, tree, {b"a": b"x" * 100})
    mine = Editor(writer, SHAPE).apply(tree, make_run(SHAPE, [(b"b", writer.put_value(b"x" * 100))]))
    oid = commit_of(store, writer, mine)
    writer.publish()
    assert contents(store, Tree(*store.read_commit(oid).tree)) == {b"b": b"x" * 100}


def test_an_inner_node_that_is_stored_already_is_shared_and_what_lies_below_is_dropped(store):
    empty = empty_tree(store)
    first = change(store, empty, ENTRIES)
    places = store.backend.next_place()
    before = store.counters.copy()
    again = change(store, empty, ENTRIES)
    used = store.counters.since(before)
    assert again == first
    assert used.nodes_shared >= 1
    assert used.nodes_written == 0
    assert store.backend.next_place() == places


def test_a_part_that_is_stored_already_is_shared():
    store = placed_store(SHAPE)
    empty = empty_tree(store)
    first = change(store, empty, ENTRIES)
    before = store.counters.copy()
    again = change(store, empty, {**ENTRIES, b"one more": b"v"})
    used = store.counters.since(before)
    assert used.nodes_shared >= 8
    assert used.nodes_written < sum(1 for _ in scan.nodes(store, first)) / 2
    assert contents(store, again) == {**ENTRIES, b"one more": b"v"}
    assert contents(store, first) == ENTRIES


def test_a_revert_finds_the_nodes_it_had(store):
    tree = change(store, empty_tree(store), ENTRIES)
    changed = change(store, tree, {KEY: b"other"})
    before = store.counters.copy()
    back = change(store, changed, {KEY: ENTRIES[KEY]})
    assert back == tree
    assert store.counters.since(before).nodes_written == 0


def test_a_blob_put_on_the_way_outlives_the_nodes_dropped_around_it(store):
    empty = empty_tree(store)
    first = change(store, empty, ENTRIES)
    writer = store.writer()
    mark = writer.mark()
    body = store.read(first.oid, first.loc)
    writer.put_leaf(make_leaf([(b"to be dropped", b"")]))
    ref = writer.put_blob(b"b" * 100)
    writer.put_leaf(make_leaf([(b"also", b"")]))
    assert writer.put_inner(body, len(ENTRIES), mark) == first
    tree = Tree(*writer.put_leaf(make_leaf([(b"k", ref)])))
    writer.publish()
    assert contents(store, tree) == {b"k": b"b" * 100}


def test_small_inner_nodes_are_stored_again():
    store = placed_store(Shape(bits=4, leaf_max=120, inline_max=64, index_min=10_000))
    empty = empty_tree(store)
    first = change(store, empty, ENTRIES)
    again = change(store, empty, ENTRIES)
    assert first.oid == again.oid
    assert first.loc != again.loc
    assert store.counters.nodes_shared == 0
    assert contents(store, again) == ENTRIES


# Batches of any size


@pytest.mark.parametrize("make", [memory_store, placed_store])
def test_a_bulk_batch_writes_now_and_then_and_its_refs_last(make, monkeypatch):
    monkeypatch.setattr(store_module, "FLUSH_BYTES", 2_000)
    store = make(SHAPE)
    empty = empty_tree(store)
    writer = store.bulk_writer()
    items = [(key, value * 10) for key, value in ENTRIES.items()]
    source = [([key], [writer.put_value(value)]) for key, value in items]
    assert (store.counters.blobs_written > 0) == store.backend.placed
    tree = bulk.load(writer, SHAPE, empty, source)
    # Without places gc could not tell what is written early from garbage.
    assert (store.counters.nodes_written > 50) == store.backend.placed
    oid = commit_of(store, writer, tree)
    assert store.backend.get_ref("heads/main") is None
    writer.publish([RefUpdate("heads/main", None, oid, None)])
    assert store.backend.get_ref("heads/main") == oid
    assert Tree(*store.read_commit(oid).tree) == tree
    assert contents(store, tree) == dict(items)


@pytest.mark.parametrize("flush_bytes", [500, 1 << 30])
def test_a_bulk_batch_takes_places_again_when_they_run_out(flush_bytes, monkeypatch):
    monkeypatch.setattr(store_module, "FLUSH_BYTES", flush_bytes)
    monkeypatch.setattr(store_module, "RESERVE_COUNT", 7)
    store = placed_store(SHAPE)
    empty = empty_tree(store)
    writer = store.bulk_writer()
    source = []
    for key, value in ENTRIES.items():
        if len(source) % 50 == 0:  # another writer between
            change(store, empty, {b"other": b"%d" % len(source)})
        source.append(([key], [writer.put_value(value * 10)]))
    tree = bulk.load(writer, SHAPE, empty, source)
    writer.publish()
    assert contents(store, tree) == {key: value * 10 for key, value in ENTRIES.items()}


def test_a_bulk_load_of_what_is_there_shares_it_also_across_flushes(store, monkeypatch):
    empty = empty_tree(store)
    first = change(store, empty, ENTRIES)
    for flush_bytes in (300, 3_000, 1 << 30):
        monkeypatch.setattr(store_module, "FLUSH_BYTES", flush_bytes)
        before = store.counters.copy()
        writer = store.bulk_writer()
        again = bulk.load(writer, SHAPE, empty, [(list(ENTRIES), list(ENTRIES.values()))])
        writer.publish()
        assert again == first
        assert store.counters.since(before).nodes_shared > 0
        assert contents(store, again) == ENTRIES


def test_a_bulk_batch_may_build_on_a_tree_stored_after_it_was_begun(store):
    writer = store.bulk_writer()
    later = change(store, empty_tree(store), ENTRIES)
    tree = bulk.load(writer, SHAPE, later, [([KEY, b"more"], [b"new", b"1"])])
    writer.publish()
    assert contents(store, tree) == {**ENTRIES, KEY: b"new", b"more": b"1"}


# Counters


def test_counters_count_what_was_done():
    store = placed_store(SHAPE)
    empty = empty_tree(store)
    before = store.counters.copy()
    tree = change(store, empty, {**ENTRIES, b"blob": b"x" * 100})
    used = store.counters.since(before)
    visited = list(scan.nodes(store, tree))
    assert used.nodes_written == len(visited)
    assert used.leaves_written == sum(v.body[0] == node.LEAF for v in visited)
    assert used.blobs_written == 1
    assert used.bytes_written == sum(len(v.body) + 8 for v in visited) + 2 + 100 + 8
    store.cache.clear()
    before = store.counters.copy()
    contents(store, tree)
    used = store.counters.since(before)
    assert used.nodes_read == len(visited)
    assert used.leaves_read == sum(v.body[0] == node.LEAF for v in visited)
    assert used.blobs_read == 1
    assert used.bytes_read == sum(len(v.body) for v in visited) + 2 + 100


def test_a_backend_of_places_keeps_what_the_store_hands_it():
    backend = PlacedBackend()
    store = Store(backend, SHAPE, 0)
    tree = change(store, empty_tree(store), {b"a": b"x" * 100, b"b": b""})
    body = store.read(tree.oid, tree.loc)
    assert node.place_count(body) == 1
    assert oid_of(body[:-8]) == tree.oid
