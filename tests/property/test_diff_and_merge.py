"""Laws of diff and merge, against dicts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgit_hamt.diff import diff
from kvgit_hamt.merge import merge
from tests.support.strategies import changes, entries, makers, updated
from tests.support.trees import SHAPES, change, contents, empty_tree, memory_store, naive_root

every_shape = pytest.mark.parametrize("name", SHAPES)
PREFIXES = [b"", b"a/", b"a", b"b/c/", b"a/b/c/d/e/", b"1", b"none/"]


def differences(store, old, new, prefix=b""):
    """A diff as a dict of pairs of bytes; a key that comes twice is an error."""
    out = {}
    for key, before, after in diff(store, store.shape, old, new, prefix):
        assert key not in out
        out[key] = tuple(None if value is None else store.load_value(value) for value in (before, after))
    return out


def expected_differences(old, new, prefix=b""):
    return {
        key: (old.get(key), new.get(key))
        for key in old.keys() | new.keys()
        if old.get(key) != new.get(key) and key.startswith(prefix)
    }


@every_shape
@settings(max_examples=12)
@given(make=makers, old=entries, made=changes)
def test_a_diff_is_that_of_dicts_its_own_reverse_and_undoes_itself(name, make, old, made):
    store = make(SHAPES[name])
    one = change(store, empty_tree(store), old)
    new = updated(old, made)
    other = change(store, one, made)
    found = differences(store, one, other)
    assert found == expected_differences(old, new)
    assert differences(store, other, one) == {key: (after, before) for key, (before, after) in found.items()}
    assert change(store, one, {key: after for key, (_, after) in found.items()}).oid == other.oid
    assert change(store, other, {key: before for key, (before, _) in found.items()}).oid == one.oid
    assert differences(store, one, one) == {}


@every_shape
@settings(max_examples=10)
@given(old=entries, new=entries)
def test_a_diff_of_strangers_is_that_of_dicts_under_any_prefix(name, old, new):
    store = memory_store(SHAPES[name])
    one = change(store, empty_tree(store), old)
    other = change(store, empty_tree(store), new)
    for prefix in PREFIXES:
        assert differences(store, one, other, prefix) == expected_differences(old, new, prefix)


def merge_of_dicts(base, ours, theirs, resolve):
    out = {}
    for key in ours.keys() | theirs.keys() | base.keys():
        old, mine, other = base.get(key), ours.get(key), theirs.get(key)
        if mine == other or other == old:
            value = mine
        elif mine == old:
            value = other
        else:
            value = resolve(key, old, mine, other)
        if value is not None:
            out[key] = value
    return out


def larger(key, old, mine, other):
    """A resolver that treats both sides alike and deletes some."""
    sides = sorted(value for value in (mine, other) if value is not None)
    return None if key.endswith(b"3") else sides[-1]


def merged(store, base, ours, theirs, resolve=larger):
    """Merge by a resolver of bytes; the tree and the keys that were asked for."""
    asked = []
    writer = store.writer()

    def by_value(key, *values):
        asked.append(key)
        plain = [None if value is None else writer.load_value(value) for value in values]
        answer = resolve(key, *plain)
        return None if answer is None else writer.put_value(answer)

    tree = merge(writer, store.shape, (base, ours, theirs), by_value)
    writer.publish()
    return tree, asked


@every_shape
@settings(max_examples=15)
@given(make=makers, base=entries, ours=changes, theirs=changes, unrelated=st.booleans())
def test_a_merge_is_that_of_dicts_and_commutes(name, make, base, ours, theirs, unrelated):
    shape = SHAPES[name]
    store = make(shape)
    tree = change(store, empty_tree(store), base)
    trees = change(store, tree, ours), change(store, tree, theirs)
    sides = updated(base, ours), updated(base, theirs)
    if unrelated:  # both sides hold what the base never had
        tree, base = empty_tree(store), {}
    contested = [
        key
        for key in sides[0].keys() | sides[1].keys() | base.keys()
        if len({base.get(key), sides[0].get(key), sides[1].get(key)}) == 3
    ]
    result, asked = merged(store, tree, *trees)
    expected = merge_of_dicts(base, *sides, larger)
    assert contents(store, result) == expected
    assert result.oid == naive_root(shape, expected)
    assert sorted(asked) == sorted(contested)
    again, _ = merged(store, tree, *reversed(trees))
    assert again.oid == result.oid


def never(key, *values):
    raise AssertionError(f"asked for {key!r}")


@every_shape
@settings(max_examples=8)
@given(make=makers, base=entries, made=changes)
def test_a_merge_with_one_side_unchanged_is_the_other(name, make, base, made):
    store = make(SHAPES[name])
    one = change(store, empty_tree(store), base)
    other = change(store, one, made)
    before = store.counters.copy()
    assert merged(store, one, one, one, never)[0] is one
    assert merged(store, other, one, other, never)[0] == one
    assert merged(store, other, other, one, never)[0] == one
    assert merged(store, one, other, other, never)[0] == other
    assert store.counters.since(before).nodes_read == store.counters.since(before).nodes_written == 0


@every_shape
@settings(max_examples=8)
@given(base=entries, ours=changes, theirs=changes)
def test_a_merge_of_a_merge_changes_nothing(name, base, ours, theirs):
    store = memory_store(SHAPES[name])
    tree = change(store, empty_tree(store), base)
    mine, other = change(store, tree, ours), change(store, tree, theirs)
    result, _ = merged(store, tree, mine, other)
    assert merged(store, other, result, other, never)[0].oid == result.oid
    assert merged(store, mine, result, mine, never)[0].oid == result.oid


@every_shape
@settings(max_examples=8)
@given(base=entries, ours=changes, theirs=changes)
def test_changes_of_different_keys_never_contest(name, base, ours, theirs):
    store = memory_store(SHAPES[name])
    theirs = {key: value for key, value in theirs.items() if key not in ours}
    tree = change(store, empty_tree(store), base)
    mine, other = change(store, tree, ours), change(store, tree, theirs)
    result, _ = merged(store, tree, mine, other, never)
    assert result.oid == change(store, mine, theirs).oid == change(store, other, ours).oid
