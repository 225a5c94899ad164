"""Walks: windows of prefixes, iteration, samples."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from random import Random

import pytest

from kvgit_hamt import scan
from kvgit_hamt.path import Shape
from kvgit_hamt.scan import Window, window_of
from tests.support.placed import placed_store
from tests.support.trees import SHAPES, change, contents, empty_tree, memory_store

SMALL = SHAPES["small_leaves"]
ENTRIES = {b"d%d/k%d" % (n % 7, n): b"v" * (n % 90) for n in range(400)} | {
    b"k%d" % n: b"v" for n in range(300)
}


@pytest.fixture(scope="module")
def built():
    store = memory_store(SMALL)
    return store, change(store, empty_tree(store), ENTRIES)


@pytest.mark.parametrize(
    ("window", "level", "slots"),
    [
        (Window(0, 0), 0, (0, 16)),
        (Window(0b1011_0111, 8), 0, (0b1011, 0b1100)),
        (Window(0b1011_0111, 8), 1, (0b0111, 0b1000)),
        (Window(0b1011_0111, 8), 2, (0, 16)),
        (Window(0b1011_0111, 8), 50, (0, 16)),
        (Window(0b1, 1), 0, (8, 16)),
        (Window(0b0, 1), 0, (0, 8)),
        (Window(0b1111_10, 6), 1, (0b1000, 0b1100)),
    ],
)
def test_a_window_is_a_run_of_slots_at_each_level(window, level, slots):
    assert window.slots(Shape(), level) == slots


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_every_key_of_a_directory_lies_in_its_window_at_every_level(bits):
    shape = Shape(bits=bits)
    for prefix in (b"a/", b"a/b/", b"a/b/c/d/", b"a/b/c/d/e/f/"):
        window = window_of(shape, prefix)
        assert window.taken == 16 * min(4, prefix.count(b"/"))
        for n in range(50):
            key = prefix + b"%d" % n
            path = shape.hash(key)
            for level in range(12):
                first, end = window.slots(shape, level)
                assert first <= shape.slot(key, path, level) < end


def test_a_prefix_inside_a_name_has_the_window_of_its_directory():
    assert window_of(Shape(), b"a/b/nam") == window_of(Shape(), b"a/b/")
    assert window_of(Shape(), b"nam") == Window(0, 0)


def test_a_directory_is_read_without_its_neighbours(built):
    store, tree = built
    store.cache.clear()
    before = store.counters.copy()
    listed = contents(store, tree, b"d3/")
    used = store.counters.since(before)
    assert listed == {key: value for key, value in ENTRIES.items() if key.startswith(b"d3/")}
    assert used.nodes_read < sum(1 for _ in scan.nodes(store, tree)) / 4


def test_two_directories_of_one_window_are_told_apart_by_the_key():
    shape = Shape(bits=2, leaf_max=64, hash=lambda key: 5 << 116, prefix=lambda prefix: (5, 12))
    store = memory_store(shape)
    tree = change(store, empty_tree(store), {b"a/%d" % n: b"" for n in range(9)} | {b"b/1": b""})
    assert list(scan.keys(store, shape, tree, b"b/")) == [b"b/1"]


def test_items_and_keys_come_in_one_order_whatever_the_history(built):
    store, tree = built
    order = [key for key, _ in scan.items(store, SMALL, tree)]
    assert order == list(scan.keys(store, SMALL, tree))
    assert order == sorted(ENTRIES, key=lambda key: (SMALL.hash(key), key))


def test_a_walk_can_stop_early_without_reading_the_rest(built):
    store, tree = built
    store.cache.clear()
    before = store.counters.copy()
    next(scan.items(store, SMALL, tree))
    assert store.counters.since(before).leaves_read <= scan.READ_AHEAD


def test_nodes_come_parents_first_each_once():
    store = placed_store(SMALL)
    tree = change(store, empty_tree(store), ENTRIES)
    visited = list(scan.nodes(store, tree))
    assert visited[0].oid == tree.oid
    assert visited[0].level == 0
    assert len({v.loc for v in visited}) == len(visited)
    for before, after in pairwise(visited):
        assert after.level <= before.level + 1


def test_a_sample_of_all_is_the_tree(built):
    store, tree = built
    drawn = scan.sample(store, SMALL, tree, 10_000, Random(1))
    assert dict(drawn) == dict(scan.items(store, SMALL, tree))
    assert scan.sample(store, SMALL, tree, 0, Random(1)) == []
    assert scan.sample(store, SMALL, empty_tree(store), 5, Random(1)) == []


def test_the_same_randomness_draws_the_same_sample(built):
    store, tree = built
    assert scan.sample(store, SMALL, tree, 20, Random(7)) == scan.sample(store, SMALL, tree, 20, Random(7))
    assert scan.sample(store, SMALL, tree, 20, Random(7)) != scan.sample(store, SMALL, tree, 20, Random(8))


def test_samples_are_uniform(built):
    """Chi-square over all entries: 699 degrees of freedom, 99.9 % below 820."""
    store, tree = built
    rng = Random(20)
    drawn: Counter[bytes] = Counter()
    rounds, size = 200, 70
    for _ in range(rounds):
        drawn.update(key for key, _ in scan.sample(store, SMALL, tree, size, rng))
    expected = rounds * size / len(ENTRIES)
    chi_square = sum((drawn[key] - expected) ** 2 / expected for key in ENTRIES)
    assert set(drawn) == set(ENTRIES)
    assert 560 < chi_square < 820


def test_a_sample_reads_one_way_an_entry_at_most(built):
    store, tree = built
    depth = 1 + max(v.level for v in scan.nodes(store, tree))
    store.cache.clear()
    before = store.counters.copy()
    scan.sample(store, SMALL, tree, 5, Random(1))
    assert store.counters.since(before).nodes_read <= 5 * depth
