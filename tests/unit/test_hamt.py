"""The tree: where it divides and joins, what no-ops give, and what is the same as what."""

from __future__ import annotations

import pytest

from kvgit_hamt import hamt, node, scan
from kvgit_hamt.hamt import Editor, Segment, Tree, empty_segment
from kvgit_hamt.oid import oid_of
from kvgit_hamt.path import ENTRY_BYTES, Shape
from kvgit_hamt.run import EMPTY_RUN, make_run
from tests.support.placed import placed_store
from tests.support.trees import SHAPES, change, contents, empty_tree, memory_store, naive_root, no_window

LEAF_MAX = 120


def first_bits(key: bytes) -> int:
    """The path of a key such as b"0101..": its own digits, read as bits."""
    return int(key[:128].decode().ljust(128, "0"), 2)


OPEN = Shape(bits=2, leaf_max=LEAF_MAX, inline_max=64, hash=first_bits, prefix=no_window)


def weighing(key: bytes, weight: int) -> bytes:
    """A value with which an entry weighs as much as told."""
    return b"v" * (weight - len(key) - ENTRY_BYTES)


def layout(store, tree: Tree) -> list[tuple[int, int, int]]:
    """(start, width, entries) of the runs of a root."""
    body = store.read(tree.oid, tree.loc)
    if body[0] == node.LEAF:
        return [(0, OPEN.slots, node.leaf_count(body))]
    return [(s.start, s.width, s.entry_count) for s in hamt.segments_of(body)]


@pytest.fixture
def store():
    return memory_store(OPEN)


def build(store, weights: dict[bytes, int]) -> Tree:
    return change(store, empty_tree(store), {key: weighing(key, w) for key, w in weights.items()})


def test_the_empty_tree_is_the_empty_leaf(store):
    tree = empty_tree(store)
    assert tree.oid == oid_of(node.EMPTY_LEAF) == naive_root(OPEN, {})
    assert hamt.summary(store, tree) == (0, 0, 0)
    assert hamt.get(store, OPEN, tree, b"0") is None
    assert hamt.get_many(store, OPEN, tree, [b"0", b"1"]) == {}


def test_one_entry_is_a_leaf_whatever_its_weight(store):
    tree = change(store, empty_tree(store), {b"0" * 5_000: b""})
    assert layout(store, tree) == [(0, 4, 1)]


def test_a_leaf_of_exactly_the_largest_weight_stays_whole(store):
    assert layout(store, build(store, {b"00": 60, b"11": 60})) == [(0, 4, 2)]


def test_a_leaf_of_one_byte_more_divides(store):
    assert layout(store, build(store, {b"00": 60, b"11": 61})) == [(0, 2, 1), (2, 2, 1)]


def test_a_run_without_entries_is_empty_and_as_wide_as_can_be(store):
    tree = build(store, {b"10": 60, b"11": 61})
    assert layout(store, tree) == [(0, 2, 0), (2, 1, 1), (3, 1, 1)]
    assert hamt.get(store, OPEN, tree, b"00") is None


def test_what_is_too_heavy_for_one_slot_becomes_an_inner_node(store):
    tree = build(store, {b"0000": 60, b"0001": 61, b"11": 20})
    assert layout(store, tree) == [(0, 1, 2), (1, 1, 0), (2, 2, 1)]
    assert [v.level for v in scan.nodes(store, tree)] == [0, 1, 2, 2, 1]


def test_a_delete_joins_neighbours_up_to_the_root(store):
    tree = build(store, {b"0000": 60, b"0001": 61, b"11": 20})
    joined = change(store, tree, {b"0000": None})
    assert layout(store, joined) == [(0, 4, 2)]
    assert joined.oid == naive_root(OPEN, contents(store, joined))


def test_a_smaller_value_joins_neighbours(store):
    tree = build(store, {b"00": 60, b"11": 61})
    joined = change(store, tree, {b"11": weighing(b"11", 60)})
    assert layout(store, joined) == [(0, 4, 2)]


def test_a_delete_joins_a_neighbour_that_is_an_inner_node_no_more(store):
    tree = build(store, {b"00": 40, b"0100": 40, b"0101": 60, b"0110": 30, b"11": 90})
    assert layout(store, tree) == [(0, 1, 1), (1, 1, 3), (2, 2, 1)]
    joined = change(store, tree, {b"0101": None})
    assert layout(store, joined) == [(0, 2, 3), (2, 2, 1)]


def test_a_run_whose_last_entry_goes_is_empty_and_joins_others(store):
    tree = build(store, {b"00": 60, b"01": 61, b"10": 60, b"11": 61})
    assert layout(store, change(store, tree, {b"10": None})) == [(0, 1, 1), (1, 1, 1), (2, 2, 1)]
    assert layout(store, change(store, tree, {b"10": None, b"11": None})) == [(0, 1, 1), (1, 1, 1), (2, 2, 0)]


def test_a_tree_whose_entries_all_go_is_the_empty_tree(store):
    tree = build(store, {b"00": 60, b"01": 61, b"10": 60, b"11": 61})
    gone = change(store, tree, dict.fromkeys([b"00", b"01", b"10", b"11"]))
    assert gone.oid == empty_tree(store).oid


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("make", [memory_store, placed_store])
def test_changes_that_change_nothing_give_the_same_tree(name, make):
    shape = SHAPES[name]
    store = make(shape)
    entries = {b"%d" % n: b"v" * (n % 90) for n in range(120)}
    tree = change(store, empty_tree(store), entries)
    before = store.counters.copy()
    assert change(store, tree, {}) is tree
    assert change(store, tree, {b"absent": None, b"absent too": None}) is tree
    assert change(store, tree, dict(list(entries.items())[:5])) is tree
    assert change(store, tree, {**entries, b"absent": None}) is tree
    assert store.counters.since(before).nodes_written == 0


def test_no_changes_read_nothing(store):
    tree = build(store, {b"00": 60, b"11": 61})
    before = store.counters.copy()
    assert Editor(store.writer(), OPEN).apply(tree, EMPTY_RUN) is tree
    assert store.counters.since(before).nodes_read == 0


def test_more_changes_of_one_leaf_than_are_spliced_give_the_same_tree():
    shape = Shape(leaf_max=32_768)
    store = memory_store(shape)
    entries = {b"%d" % n: b"x" * 9 for n in range(900)}
    tree = change(store, empty_tree(store), entries)
    changes: dict[bytes, bytes | None] = {b"%d" % n: b"y" * 9 for n in range(0, 900, 3)}
    changes.update({b"%d" % n: None for n in range(1, 900, 3)})
    changes.update({b"absent %d" % n: None for n in range(50)})
    changed = change(store, tree, changes)
    expected = {k: v for k, v in {**entries, **changes}.items() if v is not None}
    assert changed.oid == naive_root(shape, expected)
    assert change(store, tree, entries) is tree
    assert change(store, changed, {**entries, **dict.fromkeys(set(expected) - set(entries))}).oid == tree.oid


@pytest.mark.parametrize("name", SHAPES)
def test_a_change_of_a_key_is_seen_wherever_it_lies(name):
    shape = SHAPES[name]
    store = memory_store(shape)
    entries = {b"%d" % n: b"v%d" % n for n in range(60)}
    tree = change(store, empty_tree(store), entries)
    other = change(store, tree, {b"7": b"other", b"8": None, b"new": b"", b"9": entries[b"9"]})
    for key in (*entries, b"new", b"absent"):
        expected = key in (b"7", b"8", b"new")
        assert hamt.has_changed(store, shape, tree, other, key) is expected
        assert hamt.has_changed(store, shape, other, tree, key) is expected
    empty = empty_tree(store)
    assert hamt.has_changed(store, shape, empty, tree, b"7")
    assert not hamt.has_changed(store, shape, empty, tree, b"absent")


def test_many_keys_are_read_at_once_each_node_once():
    store = memory_store(SHAPES["small_leaves"], cache_bytes=0)
    entries = {b"%d" % n: b"v" * (n % 90) for n in range(500)}
    tree = change(store, empty_tree(store), entries)
    before = store.counters.copy()
    found = hamt.get_many(store, store.shape, tree, [*entries, b"absent", b"7", b"7"])
    assert {key: store.load_value(value) for key, value in found.items()} == entries
    assert store.counters.since(before).nodes_read == sum(1 for _ in scan.nodes(store, tree))


def test_the_summary_counts_entries_bytes_and_blobs():
    store = memory_store(SHAPES["small_leaves"])
    entries = {b"%d" % n: b"v" * (n % 200) for n in range(300)}
    tree = change(store, empty_tree(store), entries)
    count, size, extra = hamt.summary(store, tree)
    assert count == 300
    assert size + extra == sum(len(key) + len(value) for key, value in entries.items())
    assert extra == sum(len(value) - 40 for value in entries.values() if len(value) > 64)


def test_segments_join_in_order_into_the_widest_leaves():
    store = memory_store(OPEN)
    editor = Editor(store.writer(), OPEN)

    def leaf(start: int, weight: int) -> Segment:
        key = f"{start:02b}".encode()
        return hamt.leaf_segment(start, 1, make_run(OPEN, [(key, weighing(key, weight))]).leaf(0, 1))

    joined = editor.join([leaf(0, 30), leaf(1, 30), leaf(2, 30), leaf(3, 30)])
    assert [(s.start, s.width, s.entry_count) for s in joined] == [(0, 4, 4)]
    joined = editor.join([leaf(0, 60), leaf(1, 60), leaf(2, 60), leaf(3, 61)])
    assert [(s.start, s.width, s.entry_count) for s in joined] == [(0, 2, 2), (2, 1, 1), (3, 1, 1)]
    joined = editor.join([leaf(0, 61), leaf(1, 60), leaf(2, 60), empty_segment(3, 1)])
    assert [(s.start, s.width, s.entry_count) for s in joined] == [(0, 1, 1), (1, 1, 1), (2, 2, 1)]


def test_keys_equal_in_every_bit_lie_in_one_leaf_at_the_deepest_level():
    shape = Shape(bits=6, leaf_max=64, hash=lambda key: 0, tail=lambda key: 0, prefix=no_window)
    store = memory_store(shape)
    entries = {b"%04d" % n: b"v" * 20 for n in range(500)}
    tree = change(store, empty_tree(store), entries)
    assert tree.oid == naive_root(shape, entries)
    assert contents(store, tree) == entries
    visited = list(scan.nodes(store, tree))
    assert len(visited) == shape.max_level + 2
    changed = change(store, tree, {b"0007": None, b"0008": b"new", b"0500": b""})
    expected = {**entries, b"0008": b"new", b"0500": b""}
    del expected[b"0007"]
    assert changed.oid == naive_root(shape, expected)
    assert hamt.get(store, shape, changed, b"0008") == b"new"
    assert hamt.get(store, shape, changed, b"0007") is None


def test_keys_of_every_length_are_kept_apart():
    store = memory_store(Shape())
    keys = [b"", b"\0", b"\0\0", b"/", b"//", b"a", b"a/", b"a//", b"/a", "é".encode(), "e\u0301".encode()]
    keys += [b"k" * n for n in (255, 256, 510, 511, 512, 4_096, 65_535)]
    entries = {key: b"%d" % n for n, key in enumerate(keys)}
    tree = change(store, empty_tree(store), entries)
    assert contents(store, tree) == entries
    assert tree.oid == naive_root(Shape(), entries)
    for key, value in entries.items():
        assert hamt.get(store, Shape(), tree, key) == value


def test_a_value_is_a_blob_only_beyond_the_limit():
    store = memory_store(Shape())
    entries = {b"%d" % n: b"v" * n for n in (0, 1, 511, 512, 513, 2_000, 4_080, 70_000)}
    tree = change(store, empty_tree(store), entries)
    assert contents(store, tree) == entries
    assert store.counters.blobs_written == 4
    assert tree.oid == naive_root(Shape(), entries)
