"""Results are frozen values that say by their truth what a caller asks first."""

from __future__ import annotations

import dataclasses
import pickle
from datetime import datetime, timezone

import pytest

from kvgit_hamt.results import Change, Commit, Conflict, DiffStat, MergeResult, ReflogEntry, Status

EXAMPLES = [
    Change("k", None, 1, "added"),
    Conflict("k", 1, 2, None, absent=frozenset({"theirs"})),
    Status(frozenset({"a"}), frozenset({"b"})),
    MergeResult(True, "ab" * 32, "no_op"),
    Commit("ab" * 32, (), 0, None, {"a": 1}, "msgpack", "cd" * 32),
    DiffStat(1, 2, 3),
    ReflogEntry(None, "ab" * 32, datetime(2026, 1, 2, tzinfo=timezone.utc), "branch: created"),
]


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_results_are_frozen_and_equal_by_content(value):
    with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
        setattr(value, "key" if hasattr(value, "key") else next(iter(_fields(value))), "other")
    again = pickle.loads(pickle.dumps(value))
    assert again == value and again is not value


@pytest.mark.parametrize("value", EXAMPLES, ids=lambda value: type(value).__name__)
def test_the_repr_names_every_field(value):
    assert all(f"{name}=" in repr(value) for name in _fields(value))


def _fields(value):
    return (
        value._fields
        if isinstance(value, tuple)
        else [field.name for field in dataclasses.fields(value) if field.repr]
    )


def test_a_stored_none_is_told_from_absence_by_kind_and_absent():
    assert Change("k", None, None, "modified") != Change("k", None, None, "added")
    assert Conflict("k", 1, None, 2) != Conflict("k", 1, None, 2, absent=frozenset({"ours"}))


def test_a_status_is_true_when_something_is_pending():
    assert not Status()
    assert Status(updated=frozenset({"a"}))
    assert Status(removed=frozenset({"a"}))


def test_a_merge_result_is_true_when_merged_whatever_the_strategy():
    assert MergeResult(True, "c", "no_op")
    assert MergeResult(True, "c", "three_way", auto_merged_keys=frozenset({"a"}))
    assert not MergeResult(False, "c", "three_way", conflicts=(Conflict("k", 1, 2, 3),))


def test_a_diff_stat_counts_and_is_true_when_anything_differs():
    assert DiffStat(1, 2, 3).total == 6
    assert not DiffStat()
    assert DiffStat(removed=1)
