"""Namespaced over every mapping, at the cost of the namespace."""

from __future__ import annotations

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import Live, Namespaced

KEYS = {"a": 1, "app/x": 2, "app/y": 3, "app/sub/z": 4, "app/sub/deep/w": 5, "apple/x": 6, "other/x": 7}


def over(kind):
    """A mapping of some kind that holds KEYS, half of them committed."""
    if kind == "dict":
        return dict(KEYS)
    mapping = {"staged": kvgit.store, "worktree": kvgit.open, "live": Live}[kind]()
    mapping.update(dict(list(KEYS.items())[::2]))
    if kind != "live":
        mapping.commit()
    mapping.update(KEYS)
    return mapping


@pytest.fixture(params=["staged", "worktree", "live", "dict"])
def mapping(request):
    return over(request.param)


def test_a_namespace_shows_its_direct_children(mapping):
    ns = Namespaced(mapping, "app")
    assert ns.keys() == set(ns) == {"x", "y"} and len(ns) == 2
    assert dict(ns.items()) == {"x": 2, "y": 3} and sorted(ns.values()) == [2, 3]
    assert set(ns.descendant_keys()) == {"x", "y", "sub/z", "sub/deep/w"}
    assert ns["sub/z"] == 4 and "sub/z" in ns and ns.get("none", 9) == 9 and 5 not in ns
    assert ns.get_many("x", "sub/z", "none") == {"x": 2, "sub/z": 4}
    with pytest.raises(KeyError):
        ns["none"]


def test_namespaces_nest_flat(mapping):
    ns = Namespaced(Namespaced(mapping, "app"), "sub")
    assert ns.namespace == "app/sub" and ns.keys() == {"z"} and ns["deep/w"] == 5
    ns["new"] = 8
    assert mapping["app/sub/new"] == 8


def test_edits_stay_in_the_namespace(mapping):
    ns = Namespaced(mapping, "app")
    ns["x"] = 20
    del ns["y"]
    ns.setdefault("v", 9)
    assert mapping["app/x"] == 20 and "app/y" not in mapping and ns.pop("v") == 9
    ns.clear()
    assert len(ns) == 0 and set(ns.descendant_keys()) == {"sub/z", "sub/deep/w"}
    assert mapping["apple/x"] == 6 and mapping["other/x"] == 7
    with pytest.raises(KeyError):
        del ns["x"]


def test_a_snapshot_has_namespaces_that_are_read_only():
    tree = over("worktree")
    tree.commit()
    ns = Namespaced(tree.repo.snapshot(), "app")
    assert dict(ns.items()) == {"x": 2, "y": 3} and ns.get_many("x") == {"x": 2}
    with pytest.raises(TypeError):
        ns["x"] = 1


def test_names_and_mappings_are_checked():
    with pytest.raises(ValueError, match="cannot contain '/'"):
        Namespaced({}, "bad/name")
    for wrong in (42, ["a"], None):
        with pytest.raises(TypeError):
            Namespaced(wrong, "ns")
    with pytest.raises(TypeError):
        Namespaced({}, 5)


@pytest.mark.parametrize("kind", ["staged", "worktree"])
def test_a_namespace_of_100_keys_among_100_000_costs_tens_of_nodes(kind):
    mapping = kvgit.store() if kind == "staged" else kvgit.open()
    mapping.update({f"user{number // 100}/k{number % 100}": number for number in range(100_000)})
    mapping.commit()
    repo = mapping.versioned.repo if kind == "staged" else mapping.repo
    for call in (
        lambda ns: sorted(ns.keys()),
        lambda ns: sorted(ns.descendant_keys()),
        len,
        lambda ns: dict(ns.items()),
        lambda ns: ns.clear(),
    ):
        ns = Namespaced(mapping, "user500")
        repo.store.cache.clear()
        before = repo.store.counters.copy()
        result = call(ns)
        assert repo.store.counters.since(before).nodes_read <= 40
        assert result is None or result == 100 or len(result) == 100
    assert len(ns) == 0
    mapping.commit()
    assert len(mapping) == 99_900
