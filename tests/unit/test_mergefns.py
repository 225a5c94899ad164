"""The ready merge functions, asked as a merge asks them: for keys both sides changed differently."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvgit_hamt.mergefns import (
    append_only_list,
    counter,
    last_writer_wins,
    maximum,
    minimum,
    nested_dict,
    ours,
    set_union,
    text_merge,
    theirs,
)
from kvgit_hamt.policy import DELETE, OURS, THEIRS, MergePolicy

FACTORIES = [
    append_only_list,
    counter,
    last_writer_wins,
    maximum,
    minimum,
    nested_dict,
    ours,
    set_union,
    text_merge,
    theirs,
]

numbers = st.integers(-1000, 1000)
items = st.lists(st.integers(0, 6), unique=True, max_size=6)
leaves = st.none() | st.integers(0, 2)
dicts = st.recursive(
    st.dictionaries(st.sampled_from("abc"), leaves, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), leaves | inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("factory", FACTORIES, ids=lambda factory: factory.__name__)
def test_every_factory_makes_a_rule_and_is_none_itself(factory):
    assert MergePolicy(default=factory()).rule_for("k")
    with pytest.raises(ValueError, match="call it"):
        MergePolicy(default=factory)


# --- numbers and sides


@given(numbers, numbers, numbers)
def test_a_counter_keeps_what_both_sides_added(old, added_by_ours, added_by_theirs):
    merged = counter()(old, old + added_by_ours, old + added_by_theirs)
    assert merged == old + added_by_ours + added_by_theirs


def test_a_counter_takes_a_missing_side_as_zero():
    assert counter()(None, 3, 4) == 7
    assert counter()(10, None, 12) == 2
    assert counter()(10, 13, None) == 3


def test_a_counter_of_other_things_fails_and_so_conflicts():
    with pytest.raises(TypeError):
        counter()("a", "b", "c")


def test_last_writer_wins_takes_theirs_and_its_deletion():
    assert last_writer_wins()(1, 2, 3) == 3
    assert last_writer_wins()(1, 2, None) is THEIRS
    assert last_writer_wins()(1, None, 0) == 0


def test_ours_and_theirs_name_the_side_whatever_it_holds():
    assert ours()(1, None, 3) is OURS
    assert theirs()(1, 2, None) is THEIRS


@given(numbers, numbers, numbers)
def test_maximum_and_minimum_agree_with_pythons(old, a, b):
    assert maximum()(old, a, b) == max(a, b)
    assert minimum()(old, a, b) == min(a, b)


@pytest.mark.parametrize("factory", [maximum, minimum])
def test_the_value_goes_before_a_deletion_in_maximum_and_minimum(factory):
    assert factory()(1, None, 2) is THEIRS
    assert factory()(1, 2, None) is OURS


# --- sets and lists


@given(items, items, items)
def test_a_set_union_has_what_was_added_and_lacks_what_was_removed(old, a, b):
    base, left, right = set(old), set(a), set(b)
    expected = (left & right) | (left - base) | (right - base)
    assert set_union()(base, left, right) == expected
    as_list = set_union()(old, a, b)
    assert isinstance(as_list, list) and len(as_list) == len(set(as_list)) and set(as_list) == expected


@given(items, items, items)
def test_a_set_union_does_not_depend_on_the_side(old, a, b):
    assert set_union()(set(old), set(a), set(b)) == set_union()(set(old), set(b), set(a))


def test_a_list_as_set_keeps_our_order_then_theirs():
    assert set_union()(["a", "b"], ["c", "b", "a"], ["a", "d"]) == ["c", "a", "d"]


def test_items_that_cannot_be_hashed_are_compared():
    assert set_union()([{"id": 1}], [{"id": 1}, {"id": 2}], [{"id": 3}]) == [{"id": 2}, {"id": 3}]


def test_a_deleted_set_counts_as_emptied():
    assert set_union()({1, 2}, None, {1, 2, 3}) == {3}
    assert set_union()({1, 2}, {1}, None) is DELETE
    assert set_union()(None, (1,), (2,)) == (1, 2)


@pytest.mark.parametrize(("a", "b"), [({1}, [1]), (1, 2), ("ab", "bc"), ({"a": 1}, {"b": 1})])
def test_a_set_union_of_other_things_fails(a, b):
    with pytest.raises(TypeError, match="set_union"):
        set_union()(None, a, b)


@given(items, items, items)
def test_an_append_only_list_has_the_old_items_then_both_sides_new_ones(old, a, b):
    assert append_only_list()(old, old + a, old + b) == old + a + b
    assert append_only_list(first="theirs")(old, old + a, old + b) == old + b + a


def test_an_append_only_list_made_on_both_sides_is_joined():
    assert append_only_list()(None, [1], [2]) == [1, 2]


@pytest.mark.parametrize(
    ("old", "a", "b", "named"),
    [
        ([1, 2], [1], [1, 2, 3], "ours"),
        ([1, 2], [1, 2, 3], [9, 2], "theirs"),
        ([1, 2], None, [1, 2, 3], "deleted"),
    ],
)
def test_an_append_only_list_that_lost_an_item_conflicts(old, a, b, named):
    with pytest.raises(ValueError, match=named):
        append_only_list()(old, a, b)


# --- nested dicts


@given(dicts, dicts, dicts)
def test_a_nested_dict_with_a_leaf_rule_always_merges_and_keeps_one_sided_changes(old, a, b):
    merged = nested_dict(leaf=OURS)(old, a, b)
    assert merged == _plain_merge(old, a, b)


def _plain_merge(old, a, b):
    merged = {}
    for key in a.keys() | b.keys():
        before, left, right = old.get(key, ...), a.get(key, ...), b.get(key, ...)
        if left == before:
            item = right
        elif right != before and isinstance(left, dict) and isinstance(right, dict):
            item = _plain_merge(before if isinstance(before, dict) else {}, left, right)
        else:
            item = left
        if item is not ...:
            merged[key] = item
    return merged


@given(dicts, dicts)
def test_a_nested_dict_changed_on_one_side_is_that_side(old, changed):
    assert nested_dict()(old, changed, old) == changed
    assert nested_dict()(old, old, changed) == changed


def test_disjoint_changes_deep_inside_merge_and_our_order_comes_first():
    old = {"a": {"x": 1, "y": 1}, "b": 1}
    mine = {"c": 3, "a": {"x": 2, "y": 1}, "b": 1}
    other = {"a": {"x": 1, "y": 2, "z": 0}, "d": 4}
    merged = nested_dict()(old, mine, other)
    assert merged == {"c": 3, "a": {"x": 2, "y": 2, "z": 0}, "d": 4}
    assert list(merged) == ["c", "a", "d"]


def test_conflicting_leaves_are_all_named_by_path():
    with pytest.raises(ValueError, match=r"\['a'\]\['x'\], \['b'\]"):
        nested_dict()({"a": {"x": 1}, "b": 1}, {"a": {"x": 2}, "b": 2}, {"a": {"x": 3}})


def test_a_leaf_function_settles_conflicting_leaves_and_may_delete():
    assert nested_dict(leaf=counter())({"n": 1}, {"n": 3}, {"n": 6}) == {"n": 8}
    assert nested_dict(leaf=lambda old, ours, theirs: DELETE)({"n": 1}, {"n": 3}, {"n": 6}) == {}
    assert nested_dict(leaf=THEIRS)({"n": 1, "m": 1}, {"n": 3}, {"m": 1}) == {}


def test_a_stored_none_is_a_value_inside_a_nested_dict():
    assert nested_dict()({"a": 1}, {"a": None}, {"a": 1, "b": None}) == {"a": None, "b": None}


def test_a_nested_dict_deleted_on_one_side_goes_to_the_leaf_rule():
    with pytest.raises(ValueError, match="whole value"):
        nested_dict()({"a": 1}, None, {"a": 2})
    assert nested_dict(leaf=OURS)({"a": 1}, None, {"a": 2}) is DELETE
    assert nested_dict(leaf=THEIRS)({"a": 1}, None, {"a": 2}) == {"a": 2}


# --- text


def test_text_changed_in_two_places_merges():
    assert text_merge()("a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n") == "A\nb\nC\n"
    assert text_merge()(b"a\nb\nc\n", b"\xff\nb\nc\n", b"a\nb\nC\n") == b"\xff\nb\nC\n"


def test_contested_lines_stand_between_markers_with_the_labels():
    merged = text_merge(labels=("main", "dev"))("a\nb\n", "a\nx\n", "a\ny\n")
    assert merged == "a\n<<<<<<< main\nx\n=======\ny\n>>>>>>> dev\n"


def test_contested_lines_are_a_conflict_when_asked():
    with pytest.raises(ValueError, match="1 place"):
        text_merge(on_conflict="raise")("a\n", "b\n", "c\n")


@pytest.mark.parametrize(
    ("a", "b", "error"), [(None, "x", ValueError), (1, 2, TypeError), ("x", b"y", TypeError)]
)
def test_what_is_no_text_on_both_sides_conflicts(a, b, error):
    with pytest.raises(error, match="text_merge"):
        text_merge()("old", a, b)


@pytest.mark.parametrize(
    "make", [lambda: text_merge(on_conflict="x"), lambda: append_only_list(first="x")], ids=["text", "list"]
)
def test_an_unknown_option_is_refused_when_the_function_is_made(make):
    with pytest.raises(ValueError, match="'x'"):
        make()
