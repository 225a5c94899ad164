"""Loads in bounded memory."""

from __future__ import annotations

from random import Random

import pytest

from kvgit_hamt import bulk
from kvgit_hamt.bulk import Spill
from tests.support.placed import placed_store
from tests.support.strategies import load
from tests.support.trees import SHAPES, change, contents, empty_tree, memory_store, naive_root

SMALL = SHAPES["small_leaves"]
ITEMS = [(b"d%d/k%d" % (n % 5, n), b"v" * (n % 90)) for n in range(600)]


@pytest.fixture
def spilled(monkeypatch):
    """How many entries each spill held."""
    counts: list[int] = []
    write = Spill.write

    def counted(self, run):
        counts.append(len(run.hi))
        write(self, run)

    monkeypatch.setattr(Spill, "write", counted)
    return counts


def test_nothing_loaded_is_the_same_tree():
    store = memory_store(SMALL)
    tree = change(store, empty_tree(store), dict(ITEMS))
    assert load(store, tree, [], 1 << 20) is tree
    assert bulk.load(store.bulk_writer(), SMALL, tree, [([], []), ([], [])]) is tree


def test_what_fits_in_memory_is_not_spilled(spilled):
    store = memory_store(SMALL)
    assert contents(store, load(store, empty_tree(store), ITEMS, 1 << 20)) == dict(ITEMS)
    assert spilled == []


@pytest.mark.parametrize("make", [memory_store, placed_store])
def test_what_does_not_fit_is_spilled_as_often_as_it_must(make, spilled):
    store = make(SMALL)
    items = list(ITEMS)
    Random(1).shuffle(items)
    tree = load(store, empty_tree(store), items, 20_000)
    assert len(spilled) >= 5
    assert all(count * 220 <= 20_000 + 7 * 400 for count in spilled)
    assert tree.oid == naive_root(SMALL, dict(ITEMS))
    assert contents(store, tree) == dict(ITEMS)


@pytest.mark.parametrize("memory_bytes", [3_000, 1 << 20])
def test_each_node_is_written_once(memory_bytes):
    store = placed_store(SMALL)
    base = change(store, empty_tree(store), dict(ITEMS[::2]))
    before = store.counters.copy()
    load(store, base, ITEMS[1::2], memory_bytes)
    once = store.counters.since(before)
    again = placed_store(SMALL)
    before = again.counters.copy()
    change(again, empty_tree(again), dict(ITEMS))
    assert once.nodes_written <= again.counters.since(before).nodes_written
    assert once.leaves_read <= len(ITEMS)


def test_the_last_of_equal_keys_counts_across_spills(spilled):
    store = memory_store(SMALL)
    items = [(b"k%d" % (n % 10), b"%d" % n) for n in range(900)]
    tree = load(store, empty_tree(store), items, 8_000)
    assert len(spilled) > 3
    assert contents(store, tree) == dict(items)
    assert tree.oid == naive_root(SMALL, dict(items))


def test_one_key_more_often_than_memory_holds_is_one_entry():
    store = memory_store(SMALL)
    items = [(b"key", b"%d" % n) for n in range(600)]
    assert contents(store, load(store, empty_tree(store), items, 2_000)) == {b"key": b"599"}


def test_a_load_of_what_is_there_writes_nothing():
    store = placed_store(SMALL)
    tree = change(store, empty_tree(store), dict(ITEMS))
    for memory_bytes in (2_000, 1 << 20):
        before = store.counters.copy()
        assert load(store, tree, ITEMS, memory_bytes) == tree
        assert store.counters.since(before).nodes_written == 0


def test_blobs_go_through_spills_with_their_places(spilled):
    store = placed_store(SMALL)
    items = [(b"k%d" % n, b"%d" % (n % 9) * 100 if n % 3 else b"inline") for n in range(300)]
    tree = load(store, empty_tree(store), items, 9_000)
    assert spilled
    assert contents(store, tree) == dict(items)
    assert tree.oid == naive_root(SMALL, dict(items))
    assert store.counters.blobs_written == len({value for _, value in items if len(value) > 64})


@pytest.mark.parametrize("memory_bytes", [3_000, 1 << 20])
def test_progress_counts_up_to_what_there_is(memory_bytes):
    store = memory_store(SMALL)
    base = change(store, empty_tree(store), dict(ITEMS[::3]))
    for tree in (empty_tree(store), base):
        told: list[tuple[str, int, int]] = []
        source = [([key], [value]) for key, value in ITEMS]
        writer = store.bulk_writer()
        bulk.load(writer, SMALL, tree, source, memory_bytes, lambda *args, t=told: t.append(args))
        read = [done for phase, done, _ in told if phase == "read"]
        built = [(done, known) for phase, done, known in told if phase == "build"]
        assert read[-1] == len(ITEMS)
        assert read == sorted(read)
        assert built == sorted(built)
        assert {known for _, known in built} <= {len(ITEMS)}
        assert all(done <= known for done, known in built)


def test_a_source_that_raises_leaves_no_file_open(monkeypatch):
    closed = []
    close = Spill.close
    monkeypatch.setattr(Spill, "close", lambda self: (closed.append(self), close(self))[1])
    store = memory_store(SMALL)

    def source():
        yield [key for key, _ in ITEMS], [value for _, value in ITEMS]
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        bulk.load(store.bulk_writer(), SMALL, empty_tree(store), source(), 1_000)
    assert closed[0]._file is None
