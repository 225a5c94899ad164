"""Pending edits by themselves: what they hide, count and cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvgit_hamt as kvgit
from kvgit_hamt.results import Status
from kvgit_hamt.stage import Stage
from tests.support.homes import SMALL


@pytest.fixture
def stage():
    worktree = kvgit.Repo(shape=SMALL).worktree()
    worktree.update({"a": 1, "b": 2, "d/c": "x" * 100})
    worktree.commit()
    return worktree


def test_a_worktree_is_a_stage_over_its_base(stage):
    assert isinstance(stage, Stage)
    assert not stage.has_changes


@pytest.mark.parametrize(
    "bad", [[("x",)], [("x", 1, 2)], [5], 5, None, [("x", 1), ("y", object())], {"x": 1, 5: 1}]
)
def test_an_update_that_fails_changes_nothing(stage, bad):
    stage["p"] = 1
    with pytest.raises((TypeError, ValueError)):
        stage.update(bad)
    assert stage.status() == Status(frozenset({"p"}))


def test_an_update_takes_what_dict_takes(stage):
    stage.update({"a": 2}, x=1)
    stage.update([("b", 3), ("b", 4)])
    stage.update(iter([("c", 5)]))
    stage.update()
    stage.update(self=1, other=2)
    want = {"a": 2, "x": 1, "b": 4, "c": 5, "self": 1, "other": 2, "d/c": "x" * 100}
    assert dict(stage) == want
    stage.update(stage.repo.snapshot())
    assert dict(stage) == {**want, "a": 1, "b": 2}


def test_an_update_takes_an_object_with_keys_as_dict_does(stage):
    class Lookup:
        def keys(self):
            return ["a", "z"]

        def __getitem__(self, key):
            return key * 2

    stage.update(Lookup())
    assert (stage["a"], stage["z"]) == ("aa", "zz")


def test_a_failed_edit_of_one_key_leaves_its_pending_value(stage):
    stage["a"] = 5
    with pytest.raises(kvgit.EncodeError):
        stage["a"] = object()
    assert stage["a"] == 5
    with pytest.raises(KeyError):
        del stage["none"]
    assert stage.status().updated == {"a"}


def test_reads_decode_a_fresh_value_each_time(stage):
    stage["list"] = [1]
    stage["list"].append(2)
    assert stage["list"] == [1]


def test_pending_edits_show_in_every_way_of_reading(stage):
    stage["d/new"] = 3
    del stage["d/c"]
    stage["a"] = None
    want = {"a": None, "b": 2, "d/new": 3}
    assert dict(stage) == dict(stage.items()) == stage.get_many(["a", "b", "d/new", "d/c"]) == want
    assert dict(stage.items("d/")) == {"d/new": 3}
    assert list(stage.keys("d/")) == ["d/new"]
    assert list(stage.values("d/")) == [3]
    assert set(stage.raw) == set(want)
    assert len(stage.raw) == 3
    assert stage.raw["d/new"] == b"\x03"
    with pytest.raises(KeyError):
        stage.raw["d/c"]


def test_len_looks_each_edited_key_up_once(stage):
    stage["a"] = 5
    stage["new"] = 5
    counters = stage.repo.store.counters
    assert len(stage) == 4
    before = counters.copy()
    assert len(stage) == 4
    assert counters.since(before).nodes_read <= 1


def test_status_and_diff_of_no_edit_are_empty(stage):
    assert stage.status() == Status()
    assert not stage.status()
    assert list(stage.diff()) == []
    stage["a"] = 1
    assert stage.status().updated == {"a"}
    assert list(stage.diff()) == [], "set to what it was"


def test_a_stage_has_no_hash(stage):
    with pytest.raises(TypeError):
        hash(stage)


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d/c"]), st.none() | st.integers(0, 2))))
def test_edits_and_their_diff_lead_to_the_same_state(edits):
    repo = kvgit.Repo()
    stage = repo.worktree()
    stage.update({"a": 1, "b": 2, "d/c": 0})
    stage.commit()
    repo.branches.create("replayed")
    replayed = repo.worktree("replayed")
    for key, value in edits:
        if value is None:
            stage.pop(key, None)
        else:
            stage[key] = value
    for change in stage.diff():
        if change.kind == "removed":
            del replayed[change.key]
        else:
            replayed[change.key] = change.new
    assert dict(replayed) == dict(stage)
    assert stage.commit(time=None).commit == replayed.commit(time=None).commit
