"""Diffs of trees: what is read, and what may stop them."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from kvgit_hamt import scan
from kvgit_hamt.diff import diff
from kvgit_hamt.node import BlobRef
from kvgit_hamt.path import Shape
from tests.support.placed import placed_store
from tests.support.trees import SHAPES, change, empty_tree, memory_store

SMALL = SHAPES["small_leaves"]
ENTRIES = {b"d%d/k%d" % (n % 7, n): b"v" * (n % 60) for n in range(700)}


@pytest.fixture
def built():
    store = memory_store(SMALL, cache_bytes=0)
    return store, change(store, empty_tree(store), ENTRIES)


def cost(store, action):
    before = store.counters.copy()
    return action(), store.counters.since(before)


def test_equal_trees_are_read_at_their_roots_at_most(built):
    store, tree = built
    found, used = cost(store, lambda: list(diff(store, SMALL, tree, tree)))
    assert found == []
    assert used.nodes_read <= 2


def test_one_change_reads_two_ways(built):
    store, tree = built
    depth = 1 + max(v.level for v in scan.nodes(store, tree))
    other = change(store, tree, {b"d1/k1": b"changed"})
    found, used = cost(store, lambda: list(diff(store, SMALL, tree, other)))
    assert found == [(b"d1/k1", b"v", b"changed")]
    assert used.nodes_read <= 2 * depth + 2  # without a cache the roots are read twice


def test_a_diff_is_a_stream_that_may_be_left(built):
    store, tree = built
    other = change(store, tree, dict.fromkeys(ENTRIES, b"changed"))
    some, used = cost(store, lambda: list(islice(diff(store, SMALL, tree, other), 3)))
    assert len(some) == 3
    assert used.nodes_read < sum(1 for _ in scan.nodes(store, tree)) / 4


def test_a_diff_of_a_prefix_reads_only_its_directory(built):
    store, tree = built
    other = change(store, tree, dict.fromkeys(ENTRIES, b"changed"))
    _, whole = cost(store, lambda: list(diff(store, SMALL, tree, other)))
    found, used = cost(store, lambda: list(diff(store, SMALL, tree, other, b"d3/")))
    assert {key for key, _, _ in found} == {key for key in ENTRIES if key.startswith(b"d3/")}
    assert used.nodes_read < whole.nodes_read / 4


def test_an_inner_node_against_a_leaf_against_nothing(built):
    store, _ = built
    empty = empty_tree(store)
    few = change(store, empty, dict(list(ENTRIES.items())[:2]))
    many = change(store, empty, ENTRIES)
    for one, one_count in ((empty, 0), (few, 2), (many, 700)):
        for other, other_count in ((empty, 0), (few, 2), (many, 700)):
            found = list(diff(store, SMALL, one, other))
            assert len(found) == abs(one_count - other_count)
            assert all((new is None) == (one_count > other_count) for _, _, new in found)


def test_values_may_be_references_and_are_not_read():
    store = placed_store(Shape())
    tree = change(store, empty_tree(store), {b"a": b"x" * 600, b"b": b"x" * 600})
    other = change(store, tree, {b"a": b"y" * 600})
    before = store.counters.copy()
    [(key, old, new)] = diff(store, store.shape, tree, other)
    assert key == b"a"
    assert isinstance(old, BlobRef)
    assert isinstance(new, BlobRef)
    assert store.counters.since(before).blobs_read == 0
    assert store.load_value(old) == b"x" * 600
    assert store.load_value(new) == b"y" * 600


def test_changes_come_in_the_order_of_the_tree(built):
    store, tree = built
    other = change(store, tree, dict.fromkeys(list(ENTRIES)[::9], b"changed"))
    found = [key for key, _, _ in diff(store, SMALL, tree, other)]
    paths = [SMALL.hash(key) >> 64 + 40 for key in found]  # leaf by leaf; not always within one
    assert len(set(found)) == len(found) == len(list(ENTRIES)[::9])
    assert sum(a > b for a, b in pairwise(paths)) < len(paths) / 4
