"""Ten thousand keys forged to share their xxh3_64 and their xxh3_128: some levels more, no worse."""

from __future__ import annotations

from random import Random

import pytest
from xxhash import xxh3_64_intdigest, xxh3_128_intdigest

from kvgit_hamt import hamt, scan
from kvgit_hamt.diff import diff
from kvgit_hamt.merge import merge
from kvgit_hamt.path import PATH_BITS, Shape, path_of
from tests.support.forged import forged_keys
from tests.support.strategies import load
from tests.support.trees import change, contents, empty_tree, memory_store, naive_root

COUNT = 10_000
SHAPE = Shape()
LEVELS_MORE = -(-PATH_BITS // SHAPE.bits)  # inner nodes above the first bit that tells the keys apart


class Built:
    """A store with one tree of entries under keys of 300 bytes."""

    def __init__(self, keys: list[bytes]) -> None:
        self.keys = keys
        self.entries = {key: b"%d" % n for n, key in enumerate(keys)}
        self.store = memory_store(SHAPE, cache_bytes=0)
        self.tree = change(self.store, empty_tree(self.store), self.entries)
        self.node_count = self.store.counters.nodes_written
        self.leaf_count = self.store.counters.leaves_written

    def cost(self, action):
        """(result, counters) of an action."""
        before = self.store.counters.copy()
        result = action()
        return result, self.store.counters.since(before)

    @property
    def depth(self) -> int:
        return 1 + max(visited.level for visited in scan.nodes(self.store, self.tree))


@pytest.fixture(scope="module")
def forged() -> Built:
    return Built(forged_keys(COUNT, b"user/profile/"))


@pytest.fixture(scope="module")
def ordinary() -> Built:
    rng = Random(1)
    return Built([b"user/profile/" + rng.randbytes(143).hex().encode() + b"x" for _ in range(COUNT)])


def test_the_keys_are_distinct_text_and_share_both_hashes(forged):
    keys = forged_keys(17_576)
    for some in (keys, forged.keys):
        assert len(set(some)) == len(some)
        assert len({xxh3_64_intdigest(key) for key in some}) == 1
        assert len({xxh3_128_intdigest(key) for key in some}) == 1
        assert len({path_of(key) for key in some}) == 1
        assert all(key.decode().encode() == key for key in some)


def test_the_tree_is_that_of_the_definition(forged):
    assert forged.tree.oid == naive_root(SHAPE, forged.entries)
    assert contents(forged.store, forged.tree) == forged.entries
    assert contents(forged.store, forged.tree, b"user/") == forged.entries


def test_it_has_hardly_more_nodes_than_one_of_ordinary_keys(forged, ordinary):
    """The levels meet the keys at another bit, so inner nodes differ in number, not in order."""
    assert forged.leaf_count <= ordinary.leaf_count * 1.05
    assert forged.node_count <= ordinary.node_count * 1.5 + LEVELS_MORE
    assert forged.depth <= ordinary.depth + LEVELS_MORE


def test_a_load_with_little_memory_gives_the_same_tree(forged):
    items = list(forged.entries.items())
    for memory_bytes in (400_000, 64 << 20):
        loaded = load(forged.store, empty_tree(forged.store), items, memory_bytes, batch=500)
        assert loaded.oid == forged.tree.oid


def test_a_get_reads_a_way_longer_by_those_levels_only(forged, ordinary):
    for built in (forged, ordinary):
        for key in built.keys[::997]:
            value, used = built.cost(lambda b=built, k=key: hamt.get(b.store, SHAPE, b.tree, k))
            assert value == built.entries[key]
            assert used.nodes_read <= built.depth
    absent = forged_keys(COUNT + 5, b"user/profile/")[COUNT:]
    assert hamt.get_many(forged.store, SHAPE, forged.tree, absent) == {}


def test_one_change_writes_one_way(forged):
    key = forged.keys[1_234]
    changed, used = forged.cost(lambda: change(forged.store, forged.tree, {key: b"new"}))
    assert used.nodes_read <= forged.depth
    assert used.nodes_written <= forged.depth
    found, used = forged.cost(lambda: list(diff(forged.store, SHAPE, forged.tree, changed)))
    assert found == [(key, b"1234", b"new")]
    assert used.nodes_read <= 2 * forged.depth + 2  # without a cache the roots are read twice


def test_a_hundred_changes_cost_what_they_do_among_ordinary_keys(forged, ordinary):
    written = []
    for built in (forged, ordinary):
        made = dict.fromkeys(built.keys[::100], b"new")
        changed, used = built.cost(lambda b=built, m=made: change(b.store, b.tree, m))
        written.append(used.nodes_written)
        assert sorted(key for key, _, _ in diff(built.store, SHAPE, built.tree, changed)) == sorted(made)
    assert written[0] <= written[1] * 1.5 + LEVELS_MORE


def test_deletes_lead_back_to_one_leaf(forged):
    store = memory_store(SHAPE)
    few = dict(list(forged.entries.items())[:40])
    tree = change(store, empty_tree(store), few)
    kept = dict(list(few.items())[:3])
    left = change(store, tree, {key: None for key in few if key not in kept})
    assert left.oid == naive_root(SHAPE, kept)
    assert sum(1 for _ in scan.nodes(store, left)) == 1


def test_a_merge_takes_both_sides(forged):
    store, keys = forged.store, forged.keys
    ours = change(store, forged.tree, dict.fromkeys(keys[0:2000:40], b"ours"))
    theirs = change(store, forged.tree, dict.fromkeys(keys[20:2000:40], b"theirs") | {keys[0]: b"both"})
    asked = []

    def resolve(key, base, mine, other):
        asked.append((key, base, mine, other))
        return other

    def run():
        writer = store.writer()
        result = merge(writer, SHAPE, (forged.tree, ours, theirs), resolve)
        writer.publish()
        return result

    result, used = forged.cost(run)
    assert asked == [(keys[0], b"0", b"ours", b"both")]
    expected = dict(forged.entries)
    expected |= dict.fromkeys(keys[0:2000:40], b"ours")
    expected |= dict.fromkeys(keys[20:2000:40], b"theirs") | {keys[0]: b"both"}
    assert contents(store, result) == expected
    assert used.nodes_written <= 100 + 2 * forged.depth
