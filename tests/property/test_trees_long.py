"""Long random histories over every shape and both kinds of backend: everything against a dict."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from random import Random

import pytest

from kvgit_hamt import hamt, scan
from kvgit_hamt.diff import diff
from kvgit_hamt.merge import merge
from tests.support.placed import placed_store
from tests.support.strategies import KEYS, load
from tests.support.trees import SHAPES, change, contents, empty_tree, memory_store, naive_root

MORE_KEYS = [*KEYS, *(b"%d" % n for n in range(12, 150)), *(b"a/%d" % n for n in range(12, 150))]


def some_changes(rng: Random) -> dict[bytes, bytes | None]:
    made: dict[bytes, bytes | None] = {}
    for _ in range(rng.choice([1, 3, 20, 100])):
        value = rng.randbytes(rng.choice([0, 1, 10, 10, 30, 30, 70, 200, 600]))
        made[rng.choice(MORE_KEYS)] = None if rng.random() < 0.4 else value
    return made


@pytest.fixture
def deep_stack() -> Iterator[None]:
    """Room for merges of trees of 160 levels, which takes tails that agree in 600 bits to build."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(5_000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.slow
@pytest.mark.parametrize("make", [memory_store, placed_store])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", SHAPES)
def test_a_long_history_agrees_with_a_dict_in_everything(name, seed, make, deep_stack):
    shape = SHAPES[name]
    rng = Random(seed)
    store = make(shape, rng.choice([0, 5_000, 1 << 20]))
    tree = empty_tree(store)
    model: dict[bytes, bytes] = {}
    history = [(tree, model)]
    for _ in range(10):
        made = some_changes(rng)
        if rng.random() < 0.3:
            items = [(key, value) for key, value in made.items() if value is not None]
            tree = load(store, tree, items, rng.choice([1, 3_000, 1 << 20]))
            model = {**model, **dict(items)}
        else:
            tree = change(store, tree, made)
            model = {key: value for key, value in {**model, **made}.items() if value is not None}
        assert tree.oid == naive_root(shape, model)
        assert contents(store, tree) == model
        found = hamt.get_many(store, shape, tree, [*model, b"absent"])
        assert {key: store.load_value(value) for key, value in found.items()} == model
        for prefix in (b"a/", b"b/c/", b"a", b"b/"):
            expected = {key: value for key, value in model.items() if key.startswith(prefix)}
            assert contents(store, tree, prefix) == expected
        assert len(dict(scan.sample(store, shape, tree, 20, rng))) == min(20, len(model))
        history.append((tree, model))
    for _ in range(10):
        check_diff_and_merge(store, [rng.choice(history) for _ in range(3)])


def check_diff_and_merge(store, chosen):
    (base, old), (ours, mine), (theirs, other) = chosen
    found = {key: new for key, _, new in diff(store, store.shape, ours, theirs)}
    assert set(found) == {key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key)}
    asked = set()

    def resolve(key, *values):
        asked.add(key)
        return values[2]

    writer = store.writer()
    merged = merge(writer, store.shape, (base, ours, theirs), resolve)
    writer.publish()
    expected = {}
    contested = set()
    for key in old.keys() | mine.keys() | other.keys():
        values = old.get(key), mine.get(key), other.get(key)
        if len(set(values)) == 3:
            contested.add(key)
        value = values[1] if values[2] in values[:2] else values[2]
        if value is not None:
            expected[key] = value
    assert asked == contested
    assert contents(store, merged) == expected
    assert merged.oid == naive_root(store.shape, expected)
