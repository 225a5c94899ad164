"""Merges of trees: who is asked what, and what is taken unread."""

from __future__ import annotations

import pytest

from kvgit_hamt.merge import merge
from kvgit_hamt.node import BlobRef
from kvgit_hamt.path import Shape
from tests.support.placed import placed_store
from tests.support.trees import SHAPES, change, contents, empty_tree, memory_store, naive_root

SMALL = SHAPES["small_leaves"]
ENTRIES = {b"k%d" % n: b"v%d" % n for n in range(500)}


class Asked:
    """A resolver that records what it was asked and gives one answer."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.answer = answer
        self.calls: list[tuple] = []

    def __call__(self, key, base, ours, theirs):
        self.calls.append((key, base, ours, theirs))
        return self.answer


def merged(store, base, ours, theirs, resolve):
    writer = store.writer()
    result = merge(writer, store.shape, (base, ours, theirs), resolve)
    writer.publish()
    return result


@pytest.fixture(params=["one leaf", "many leaves"])
def built(request):
    """A store, a base that holds k1, and what else the base holds."""
    store = memory_store(SMALL)
    entries = {b"k1": b"old"} if request.param == "one leaf" else {**ENTRIES, b"k1": b"old"}
    return store, change(store, empty_tree(store), entries), entries


@pytest.mark.parametrize(
    ("ours", "theirs", "asked", "result"),
    [
        (b"old", b"new", False, b"new"),
        (b"new", b"old", False, b"new"),
        (b"new", b"new", False, b"new"),
        (None, b"old", False, None),
        (b"old", None, False, None),
        (None, None, False, None),
        (b"mine", b"yours", True, b"answer"),
        (b"mine", None, True, b"answer"),
        (None, b"yours", True, b"answer"),
    ],
)
def test_a_key_of_the_base_is_merged_by_the_rule(built, ours, theirs, asked, result):
    store, base, entries = built
    resolve = Asked(b"answer")
    tree = merged(
        store, base, change(store, base, {b"k1": ours}), change(store, base, {b"k1": theirs}), resolve
    )
    assert resolve.calls == ([(b"k1", b"old", ours, theirs)] if asked else [])
    expected = {**entries, b"k1": result}
    if result is None:
        del expected[b"k1"]
    assert contents(store, tree) == expected
    assert tree.oid == naive_root(SMALL, expected)


@pytest.mark.parametrize(
    ("ours", "theirs", "asked"),
    [(b"a", None, False), (None, b"a", False), (b"a", b"a", False), (b"a", b"b", True)],
)
def test_a_key_that_the_base_never_had_is_merged_by_the_rule(built, ours, theirs, asked):
    store, base, entries = built
    resolve = Asked(b"answer")
    tree = merged(
        store, base, change(store, base, {b"new": ours}), change(store, base, {b"new": theirs}), resolve
    )
    assert resolve.calls == ([(b"new", None, ours, theirs)] if asked else [])
    assert contents(store, tree) == {**entries, b"new": b"answer" if asked else b"a"}


def test_an_answer_of_none_deletes(built):
    store, base, entries = built
    tree = merged(
        store, base, change(store, base, {b"k1": b"a"}), change(store, base, {b"k1": b"b"}), Asked()
    )
    assert contents(store, tree) == {key: value for key, value in entries.items() if key != b"k1"}


def test_an_answer_that_is_one_side_gives_that_side(built):
    store, base, _ = built
    ours, theirs = change(store, base, {b"k1": b"a"}), change(store, base, {b"k1": b"b"})
    assert merged(store, base, ours, theirs, lambda k, b, o, t: o) == ours
    assert merged(store, base, ours, theirs, lambda k, b, o, t: t) == theirs


def test_a_resolver_that_raises_leaves_nothing_stored(built):
    store, base, _ = built
    ours, theirs = change(store, base, {b"k1": b"a"}), change(store, base, {b"k1": b"b"})
    count = len(list(store.backend.iterate_records()))

    def fail(*values):
        raise KeyError("no")

    with pytest.raises(KeyError):
        merged(store, base, ours, theirs, fail)
    assert len(list(store.backend.iterate_records())) == count


def test_out_of_line_values_are_compared_unread_and_keep_their_places():
    store = placed_store(Shape())
    base = change(store, empty_tree(store), {b"a": b"1" * 600, b"b": b"1" * 600, b"c": b"1" * 600})
    ours = change(store, base, {b"a": b"2" * 600, b"c": b"2" * 600})
    theirs = change(store, base, {b"b": b"3" * 600, b"c": b"3" * 600})
    resolve = Asked(b"answer")
    before = store.counters.copy()
    tree = merged(store, base, ours, theirs, resolve)
    assert store.counters.since(before).blobs_read == 0
    assert contents(store, tree) == {b"a": b"2" * 600, b"b": b"3" * 600, b"c": b"answer"}
    [(key, *values)] = resolve.calls
    assert key == b"c"
    assert all(isinstance(value, BlobRef) for value in values)
    assert [store.load_value(value) for value in values] == [b"1" * 600, b"2" * 600, b"3" * 600]


@pytest.mark.parametrize("make", [memory_store, placed_store])
def test_a_large_value_may_be_the_answer(make):
    store = make(SMALL)
    base = change(store, empty_tree(store), ENTRIES)
    ours, theirs = change(store, base, {b"k1": b"a"}), change(store, base, {b"k1": b"b"})
    writer = store.writer()
    tree = merge(writer, SMALL, (base, ours, theirs), lambda *_: writer.put_value(b"large" * 50))
    writer.publish()
    assert contents(store, tree) == {**ENTRIES, b"k1": b"large" * 50}


def test_a_side_that_emptied_the_tree_empties_what_the_other_left_alone():
    store = memory_store(SMALL)
    base = change(store, empty_tree(store), ENTRIES)
    ours = change(store, base, dict.fromkeys(ENTRIES))
    theirs = change(store, base, {b"new": b"n"})
    assert contents(store, merged(store, base, ours, theirs, Asked())) == {b"new": b"n"}
    assert contents(store, merged(store, base, theirs, ours, Asked())) == {b"new": b"n"}


def test_both_sides_shrinking_joins_what_neither_alone_would():
    store = memory_store(SMALL)
    base = change(store, empty_tree(store), ENTRIES)
    keys = list(ENTRIES)
    ours = change(store, base, dict.fromkeys(keys[0:498:2]))
    theirs = change(store, base, dict.fromkeys(keys[1:498:2]))
    left = {key: ENTRIES[key] for key in keys[498:]}
    tree = merged(store, base, ours, theirs, Asked())
    assert tree.oid == naive_root(SMALL, left)
