"""Staged, Live and store(): a mapping with pending edits."""

from __future__ import annotations

import json
from collections.abc import MutableMapping

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import Live, Memory, MergeConflict, Staged, Versioned


def staged(store=None, **more):
    return Staged(Versioned(store), **more)


def test_pending_edits_lie_over_the_commit_and_reset_drops_them():
    s = staged()
    s.update({"a": 1, "b": None, "c": [1]})
    s.commit()
    s["d"] = 4
    del s["a"]
    s["b"] = 2
    assert s.keys() == set(s) == {"b", "c", "d"} and len(s) == 3
    assert dict(s.items()) == {"b": 2, "c": [1], "d": 4} and sorted(map(str, s.values())) == ["2", "4", "[1]"]
    assert s.get_many("a", "b", "c", "none") == {"b": 2, "c": [1]}
    assert s.get("a", 9) == 9 and s.get("a") is None and "a" not in s and 5 not in s
    assert [s.is_staged(key) for key in "abcd"] == [True, True, False, True]
    s.reset()
    assert not s.has_changes and dict(s) == {"a": 1, "b": None, "c": [1]}


def test_a_stored_none_is_a_value():
    s = staged()
    s["k"] = None
    s.commit()
    assert "k" in s and s["k"] is None and s.get("k", 5) is None


def test_a_value_may_change_until_it_is_committed_and_no_longer():
    s = staged()
    value = [1]
    s["k"] = value
    value.append(2)
    s.commit()
    assert s["k"] == [1, 2]
    s["k"].append(3)
    assert s["k"] == [1, 2, 3] and not s.has_changes
    s.refresh()
    assert s["k"] == [1, 2]


def test_editing_while_iterating_is_allowed():
    s = staged()
    s.update({f"k{number}": number for number in range(500)})
    s.commit()
    s["extra"] = 1
    for key in s:
        del s[key]
    assert len(s) == 0 and s.keys() == set()
    s.commit()
    assert len(s) == 0
    s["x"] = 1
    s.clear()
    assert not list(s.items())


def test_a_value_that_cannot_be_encoded_names_its_key_and_loses_nothing():
    s = staged()
    s["good"] = 1
    s["bad"] = lambda: 0
    with pytest.raises(TypeError, match="'bad'"):
        s.commit()
    assert s.has_changes and s["good"] == 1
    del s["bad"]
    assert s.commit() and s["good"] == 1


def test_a_refused_commit_keeps_the_edits_and_tells_the_values_of_all_sides():
    store = Memory()
    one = staged(store)
    one["k"] = {"n": 0}
    one.commit()
    two = staged(store)
    one["k"] = {"n": 1}
    one.commit()
    two["k"] = {"n": 2}
    two["other"] = 5
    before = two.current_commit
    with pytest.raises(MergeConflict) as caught:
        two.commit(on_conflict="abandon")
    (conflict,) = caught.value.conflicts
    assert (conflict.base, conflict.ours, conflict.theirs) == ({"n": 0}, {"n": 2}, {"n": 1})
    assert two.current_commit == before and two["k"] == {"n": 2} and two.is_staged("other")
    resolved = {each.key: {"n": each.ours["n"] + each.theirs["n"]} for each in caught.value.conflicts}
    assert two.commit(merge_fns={key: lambda *sides, value=value: value for key, value in resolved.items()})
    assert dict(two) == {"k": {"n": 3}, "other": 5} and not two.has_changes


def test_merge_functions_see_values_and_may_choose_a_side_or_deletion():
    for answer, expected in ((kvgit.OURS, 2), (kvgit.THEIRS, 1), (kvgit.DELETE, None), (77, 77)):
        store = Memory()
        one, two = staged(store), staged(store)
        one["k"] = 1
        one.commit()
        two["k"] = 2
        two.set_default_merge(lambda old, ours, theirs, answer=answer: answer)
        two.commit()
        assert two.get("k") == expected and ("k" in two) == (expected is not None)


def test_counter_and_last_writer_wins():
    assert kvgit.counter()(5, 8, 7) == 10 and kvgit.counter()(None, 3, 5) == 8
    assert kvgit.last_writer_wins()("old", "ours", "theirs") == "theirs"


def test_branches_keep_encoder_and_decoder_and_leave_edits_behind():
    s = staged(encoder=lambda value: json.dumps(value).encode(), decoder=json.loads)
    s["k"] = {"a": [1]}
    s.commit()
    s["pending"] = 1
    dev = s.create_branch("dev")
    assert dict(dev) == {"k": {"a": [1]}}
    dev["k"] = 2
    dev.commit()
    assert dev.versioned.get("k") == b"2"
    old = dev.checkout(s.current_commit)
    assert old["k"] == {"a": [1]} and old.versioned.branch == "dev"
    assert s.list_branches() == ["dev", "main"] and s.checkout("nonexistent") is None


def test_prefixes_are_listed_with_pending_edits():
    s = staged()
    s.update({"a/1": 1, "a/2": 2, "b/1": 3})
    s.commit()
    s["a/3"] = 4
    del s["a/1"]
    assert s.keys("a/") == {"a/2", "a/3"}
    assert dict(s.items("a/")) == {"a/2": 2, "a/3": 4} and len(s.items("a/")) == 2
    assert sorted(s.values("a/")) == [2, 4] and len(s.values()) == 3


def test_live_is_a_plain_mapping():
    live = Live()
    live.update({"a": 1, "b/c": 2})
    assert isinstance(live, MutableMapping) and live.get_many("a", "x") == {"a": 1}
    assert live.keys() == {"a", "b/c"} and live.keys("b/") == {"b/c"}
    del live["a"]
    assert len(live) == 1 and live.get("a", 7) == 7
    with pytest.raises(KeyError):
        del live["a"]


def test_store_makes_what_it_is_asked_for(tmp_path):
    assert isinstance(kvgit.store().versioned, Versioned)
    gc = kvgit.store(high_water_bytes=1000, low_water_bytes=500, is_protected=lambda key: key == "p")
    assert isinstance(gc.versioned, kvgit.GCVersioned) and gc.versioned.low_water == 500
    with pytest.raises(ValueError, match="Unknown kind"):
        kvgit.store(kind="redis")
    for path in (None, ""):
        with pytest.raises(ValueError, match="path is required"):
            kvgit.store(kind="disk", path=path)
    with pytest.raises(ValueError):
        kvgit.store(high_water_bytes=0)
    s = kvgit.store("disk", path=tmp_path / "s", branch="dev")
    s["k"] = {1, 2}
    s.commit()
    s.close()
    again = kvgit.store("disk", path=str(tmp_path / "s"), branch="dev")
    assert again["k"] == {1, 2}
    again.close()
