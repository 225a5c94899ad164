"""The tree against its definition: one set of entries, one tree, however it came about."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgit_hamt import hamt, node, scan
from kvgit_hamt.oid import oid_of
from tests.support.strategies import changes, entries, keys, load, makers, updated
from tests.support.trees import SHAPES, change, contents, empty_tree, memory_store, naive_root

PREFIXES = [b"a/", b"a", b"b/", b"b/c/", b"a/b/c/d/e/", b"a/b/c/d/e/1", b"/", b"1", b"none/"]
every_shape = pytest.mark.parametrize("name", SHAPES)


@every_shape
@settings(max_examples=12)
@given(make=makers, steps=st.lists(changes, max_size=5))
def test_any_edits_end_in_the_tree_of_the_definition(name, make, steps):
    shape = SHAPES[name]
    store = make(shape)
    tree = empty_tree(store)
    expected: dict[bytes, bytes] = {}
    for made in steps:
        tree = change(store, tree, made)
        expected = updated(expected, made)
        assert tree.oid == naive_root(shape, expected)
    assert contents(store, tree) == expected
    count, size, extra = hamt.summary(store, tree)
    assert count == len(expected)
    assert size + extra == sum(len(key) + len(value) for key, value in expected.items())


@every_shape
@settings(max_examples=8)
@given(entries=entries, extra=changes, rng=st.randoms(use_true_random=False))
def test_history_leaves_no_trace(name, entries, extra, rng: Random):
    """Any order of single edits, with detours that are undone, gives the tree made at one stroke."""
    shape = SHAPES[name]
    store = memory_store(shape)
    whole = change(store, empty_tree(store), entries)
    tree = empty_tree(store)
    detour = {key: value for key, value in extra.items() if value is not None}
    tree = change(store, tree, detour)
    order = list(entries.items())
    rng.shuffle(order)
    for at in range(0, len(order), 5):
        tree = change(store, tree, dict(order[at : at + 5]))
    back = [key for key in detour if key not in entries]
    rng.shuffle(back)
    for at in range(0, len(back), 5):
        tree = change(store, tree, dict.fromkeys(back[at : at + 5]))
    assert tree.oid == whole.oid


@every_shape
@settings(max_examples=10)
@given(
    make=makers,
    before=entries,
    items=st.lists(st.tuples(keys, st.binary(max_size=2) | st.just(b"x" * 130)), max_size=60),
    memory_bytes=st.sampled_from([1, 2_000, 6_000, 1 << 20]),
)
def test_a_load_equals_the_same_changes_applied_and_the_definition(name, make, before, items, memory_bytes):
    shape = SHAPES[name]
    store = make(shape)
    empty = empty_tree(store)
    base = change(store, empty, before)
    for start, held in ((base, before), (empty, {})):
        loaded = load(store, start, items, memory_bytes)
        assert loaded.oid == naive_root(shape, {**held, **dict(items)})
        assert loaded.oid == change(store, start, dict(items)).oid
        assert contents(store, loaded) == {**held, **dict(items)}
        assert load(store, loaded, list(dict(items).items()), memory_bytes) == loaded


@every_shape
@settings(max_examples=10)
@given(make=makers, entries=entries)
def test_every_key_is_found_and_no_other(name, make, entries):
    shape = SHAPES[name]
    store = make(shape)
    tree = change(store, empty_tree(store), entries)
    asked = [*entries, b"absent", b"a/absent", b"a/b/c/d/e/f"]
    found = hamt.get_many(store, shape, tree, asked)
    for key in asked:
        value = hamt.get(store, shape, tree, key)
        assert value == found.get(key)
        assert (None if value is None else store.load_value(value)) == entries.get(key)
    assert set(scan.keys(store, shape, tree)) == set(entries)


@every_shape
@settings(max_examples=8)
@given(make=makers, entries=entries)
def test_every_node_is_canonical_and_named_by_its_payload(name, make, entries):
    shape = SHAPES[name]
    store = make(shape)
    tree = change(store, empty_tree(store), entries)
    for visited in scan.nodes(store, tree):
        payload = visited.body[: node.payload_length(visited.body)]
        node.check_node(payload)
        assert oid_of(payload) == visited.oid
        if payload[0] == node.INNER:
            assert node.is_sound_inner(visited.body)
            for segment in hamt.segments_of(visited.body):
                if segment.entry_count:
                    below = store.read(segment.oid, segment.loc)
                    assert hamt.stats_of(below) == (segment.entry_count, segment.size, segment.extra)
                    is_leaf = visited.level >= shape.max_level or shape.is_leaf(
                        segment.entry_count, segment.size
                    )
                    assert is_leaf is (below[0] == node.LEAF)


@every_shape
@settings(max_examples=10)
@given(entries=entries, prefix=st.sampled_from(PREFIXES))
def test_a_scan_of_a_prefix_is_a_filter(name, entries, prefix):
    shape = SHAPES[name]
    store = memory_store(shape)
    tree = change(store, empty_tree(store), entries)
    expected = {key: value for key, value in entries.items() if key.startswith(prefix)}
    assert contents(store, tree, prefix) == expected
    listed = list(scan.keys(store, shape, tree, prefix))
    assert len(listed) == len(expected)
    assert set(listed) == set(expected)


@every_shape
@settings(max_examples=8)
@given(entries=entries, count=st.integers(0, 50), rng=st.randoms(use_true_random=False))
def test_a_sample_is_of_the_tree_and_distinct(name, entries, count, rng):
    shape = SHAPES[name]
    store = memory_store(shape)
    tree = change(store, empty_tree(store), entries)
    drawn = scan.sample(store, shape, tree, count, rng)
    assert len(drawn) == min(count, len(entries))
    assert len(dict(drawn)) == len(drawn)
    for key, value in drawn:
        assert store.load_value(value) == entries[key]
