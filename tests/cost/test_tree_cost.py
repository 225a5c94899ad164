"""What operations on trees cost, by counters: it grows with the change and the depth, not with the tree."""

from __future__ import annotations

from random import Random

import pytest

from kvgit_hamt import bulk, hamt, scan
from kvgit_hamt.diff import diff
from kvgit_hamt.hamt import Tree
from kvgit_hamt.merge import merge
from kvgit_hamt.path import Shape
from kvgit_hamt.store import Counters, Store
from tests.support.placed import placed_store
from tests.support.trees import change, contents, empty_tree, memory_store

SHAPE = Shape()
SIZES = (1_000, 10_000, 100_000)
DIRECTORY = {b"users/42/item-%d" % n: b"value %d" % n for n in range(100)}


class Built:
    """A store with one loaded tree and an empty cache."""

    def __init__(self, count: int, store: Store, more: dict[bytes, bytes] | None = None) -> None:
        self.store = store
        keys = [b"key-%d" % n for n in range(count)]
        values = [b"value-%d" % n * 3 for n in range(count)]
        self.entries = {**dict(zip(keys, values, strict=True)), **(more or {})}
        self.keys = keys
        self.empty = empty_tree(store)
        self.tree = self.load()

    def load(self) -> Tree:
        """The entries loaded into an empty tree."""
        writer = self.store.bulk_writer()
        source = [(list(self.entries), list(self.entries.values()))]
        tree = bulk.load(writer, SHAPE, self.empty, source)
        writer.publish()
        return tree

    def cost(self, action) -> Counters:
        """What an action costs with nothing in the cache."""
        self.store.cache.clear()
        before = self.store.counters.copy()
        action()
        return self.store.counters.since(before)

    @property
    def depth(self) -> int:
        return 1 + max(visited.level for visited in scan.nodes(self.store, self.tree))

    def change(self, made: dict[bytes, bytes | None], tree: Tree | None = None) -> Tree:
        return change(self.store, tree or self.tree, made)


@pytest.fixture(scope="module")
def trees() -> dict[int, Built]:
    return {count: Built(count, memory_store(SHAPE)) for count in SIZES}


@pytest.fixture(scope="module")
def with_directory() -> Built:
    return Built(100_000, memory_store(SHAPE), DIRECTORY)


def test_trees_are_flat(trees):
    assert [trees[count].depth for count in SIZES] == [3, 4, 5]


@pytest.mark.parametrize("count", SIZES)
def test_a_get_reads_one_node_a_level_and_then_one_leaf(trees, count):
    built = trees[count]
    for key in (*built.keys[:: count // 20], b"absent"):
        used = built.cost(lambda b=built, k=key: hamt.get(b.store, SHAPE, b.tree, k))
        assert used.nodes_read <= built.depth
        assert used.leaves_read <= 1
        before = built.store.counters.copy()
        hamt.get(built.store, SHAPE, built.tree, key)
        assert built.store.counters.since(before).nodes_read <= 1


@pytest.mark.parametrize("count", SIZES)
def test_a_change_of_one_key_reads_and_writes_one_way(trees, count):
    built = trees[count]
    for key in (*built.keys[:: count // 10], b"new key"):
        used = built.cost(lambda b=built, k=key: b.change({k: b"changed"}))
        assert used.nodes_read <= built.depth
        assert used.nodes_written <= built.depth + 1  # a leaf may divide
        used = built.cost(lambda b=built, k=key: b.change({k: None}))
        assert used.nodes_read <= built.depth + 1  # a delete may read the neighbour it joins
        assert used.nodes_written <= built.depth


@pytest.mark.parametrize("count", SIZES)
def test_a_diff_of_one_change_reads_two_ways(trees, count):
    built = trees[count]
    for key in built.keys[:: count // 10]:
        other = built.change({key: b"changed"})
        used = built.cost(lambda b=built, o=other: list(diff(b.store, SHAPE, b.tree, o)))
        assert used.nodes_read <= 2 * built.depth
        assert used.leaves_read == 2
        assert used.nodes_written == 0


@pytest.mark.parametrize("count", SIZES)
def test_a_summary_is_one_read(trees, count):
    built = trees[count]
    assert hamt.summary(built.store, built.tree)[0] == count
    assert built.cost(lambda: hamt.summary(built.store, built.tree)).nodes_read == 1


def test_a_thousand_changes_write_each_touched_node_once(trees):
    built = trees[100_000]
    made = dict.fromkeys(built.keys[::100], b"changed")
    used = built.cost(lambda: built.change(made))
    assert used.leaves_written <= 1_000 + 50  # some divide
    assert used.leaves_read <= 1_000
    assert used.nodes_written <= 1_000 * (built.depth - 1)
    one_by_one = 1_000 * built.depth
    assert used.nodes_written < one_by_one / 2


def test_sampling_reads_a_way_a_draw(trees):
    built = trees[100_000]
    used = built.cost(lambda: scan.sample(built.store, SHAPE, built.tree, 10, Random(1)))
    assert used.nodes_read <= 10 * built.depth


def leaf_of(built: Built, tree: Tree, key: bytes) -> bytes:
    """Oid of the leaf in which a key lies."""
    oid, path = tree.oid, SHAPE.hash(key)
    level = 0
    while (body := built.store.read(oid, b""))[0] == hamt.INNER:
        oid = hamt.node.inner_step(body, SHAPE.slot(key, path, level))[0]
        level += 1
    return oid


def test_a_merge_of_disjoint_changes_reads_no_leaf_that_one_side_changed_alone(trees):
    """100 keys a side of 100,000, in different leaves: only inner nodes are read and written."""
    built = trees[100_000]
    rng = Random(5)
    taken: set[bytes] = set()
    sides: tuple[dict, dict] = ({}, {})
    while len(sides[1]) < 100:
        key = rng.choice(built.keys)
        leaf = leaf_of(built, built.tree, key)
        if leaf not in taken:
            taken.add(leaf)
            sides[len(sides[0]) >= 100][key] = built.entries[key][::-1]  # of the same size: nothing divides
    trees_ = built.tree, built.change(sides[0]), built.change(sides[1])

    def run(resolve=None):
        writer = built.store.writer()
        result = merge(writer, SHAPE, trees_, resolve)
        writer.publish()
        return result

    used = built.cost(run)
    assert run().oid == built.change({**sides[0], **sides[1]}).oid
    assert used.leaves_read == 0
    assert used.leaves_written == 0
    inner = [v for v in scan.nodes(built.store, built.tree) if v.body[0] == hamt.INNER]
    assert used.nodes_written <= min(len(inner), 100 * (built.depth - 2) + 1)
    assert used.nodes_read <= 3 * used.nodes_written


@pytest.mark.parametrize("count", [10_000, 100_000])
def test_a_merge_reads_and_writes_only_leaves_that_both_sides_changed(trees, count):
    """A side changes a hundredth of the keys at random; leaves that both meet are read, no others."""
    built = trees[count]
    rng = Random(6)
    keys = rng.sample(built.keys, count // 50)
    half = count // 100
    ours = {key: built.entries[key][::-1] for key in keys[:half]}
    theirs = {key: built.entries[key][::-1] for key in keys[half:]}
    both = {leaf_of(built, built.tree, k) for k in ours} & {leaf_of(built, built.tree, k) for k in theirs}
    trees_ = built.tree, built.change(ours), built.change(theirs)

    def run():
        writer = built.store.writer()
        result = merge(writer, SHAPE, trees_, lambda *_: None)
        writer.publish()
        return result

    used = built.cost(run)
    assert used.leaves_read <= 3 * len(both)
    assert used.leaves_written == len(both)
    assert used.nodes_written <= len(both) + half * (built.depth - 1)
    replayed = built.cost(lambda: built.change(theirs, trees_[1]))
    assert used.nodes_written < replayed.nodes_written
    assert run().oid == built.change({**ours, **theirs}).oid


def test_a_directory_of_a_hundred_keys_is_listed_and_diffed_in_under_forty_reads(with_directory):
    built = with_directory
    store, tree = built.store, built.tree
    used = built.cost(lambda: contents(store, tree, b"users/42/"))
    assert contents(store, tree, b"users/42/") == DIRECTORY
    assert used.nodes_read < 40
    other = built.change(dict.fromkeys([*DIRECTORY, *built.keys[::50]], b"changed"))
    found = list(diff(store, SHAPE, tree, other, b"users/42/"))
    assert {key for key, _, _ in found} == set(DIRECTORY)
    assert built.cost(lambda: list(diff(store, SHAPE, tree, other, b"users/42/"))).nodes_read < 40
    gone = built.cost(lambda: built.change(dict.fromkeys(DIRECTORY)))
    assert gone.nodes_read < 40
    assert gone.nodes_written < 10


def test_an_equal_data_set_loaded_again_is_shared_whole():
    built = Built(30_000, placed_store(SHAPE))
    used = built.cost(lambda: built.load())
    assert built.load() == built.tree
    assert used.nodes_shared > 0
    assert used.nodes_written == 0


def test_a_data_set_that_differs_in_one_key_shares_what_is_large():
    """Subtrees of at least ``index_min`` entries are found again; only the way to the new key is not."""
    shape = Shape(index_min=32)
    store = placed_store(shape)
    entries = {b"key-%d" % n: b"value-%d" % n for n in range(30_000)}
    empty = empty_tree(store)
    change(store, empty, entries)
    first = store.counters.copy()
    writer = store.bulk_writer()
    more = {**entries, b"one more": b""}
    tree = bulk.load(writer, shape, empty, [(list(more), list(more.values()))])
    writer.publish()
    used = store.counters.since(first)
    assert used.nodes_shared >= 15
    assert used.nodes_written < first.nodes_written / 20
    assert contents(store, tree) == more
