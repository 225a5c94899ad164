"""Versioned: commits, merges, handles that stay as they were, and errors."""

from __future__ import annotations

import threading

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt import ConcurrencyError, Disk, Memory, MergeConflict, Versioned


def two_handles(store=None):
    """Two handles at one commit, and the branch moved on by the first."""
    store = Memory() if store is None else store
    one = Versioned(store)
    one.commit({"k": b"base", "other": b"0"})
    two = Versioned(store)
    one.commit({"k": b"theirs", "new": b"1"})
    return one, two


def state_of(handle):
    return (
        handle.current_commit,
        handle.base_commit,
        dict(handle.items()),
        handle.latest_head,
        list(handle.history()),
        handle.last_merge_result,
    )


def test_the_same_change_on_the_same_parent_is_the_same_commit_and_info_is_not():
    ids = {Versioned().commit({"k": b"v"}).commit for _ in range(2)}
    assert len(ids) == 1
    ids.add(Versioned().commit({"k": b"v"}, info={"a": 1}).commit)
    ids.add(Versioned().commit({"k": b"v"}, info={"a": 2}).commit)
    assert len(ids) == 3


def test_info_alone_commits_and_nothing_at_all_does_not():
    handle = Versioned()
    first = handle.current_commit
    assert handle.commit().strategy == "no_op"
    assert handle.current_commit == first
    result = handle.commit(info={"msg": "é", "n": [1, None]})
    assert result.commit != first and handle.commit_info() == {"msg": "é", "n": [1, None]}
    assert handle.repo.get_commit(result.commit).time is None


def test_a_merge_has_their_head_and_ours_as_parents_and_the_info():
    one, two = two_handles()
    result = two.commit({"mine": b"2"}, info={"by": "two"})
    theirs, ours = two.parents()
    assert (result.strategy, theirs) == ("three_way", one.current_commit)
    assert two.parents(ours) == (one.parents()[0],)
    assert two.commit_info() == {"by": "two"} and two.commit_info(ours) is None
    assert dict(two.items()) == {"k": b"theirs", "other": b"0", "new": b"1", "mine": b"2"}
    assert result.auto_merged_keys == {"mine"}
    assert result.carried_keys == {"k", "other", "new"}


def test_equal_values_do_not_conflict():
    _, two = two_handles()
    assert two.commit({"k": b"theirs"}).merged
    assert two.get("k") == b"theirs"


@pytest.mark.parametrize("on_conflict", ["raise", "abandon"])
@pytest.mark.parametrize("change", [({"k": b"ours"}, None), (None, {"k"})], ids=["set", "removed"])
def test_a_conflict_leaves_the_handle_and_the_store_as_they_were(on_conflict, change):
    store = Memory()
    _, two = two_handles(store)
    before, stored = state_of(two), dict(store.items())
    with pytest.raises(MergeConflict) as caught:
        two.commit(*change, on_conflict=on_conflict)
    assert caught.value.conflicting_keys == {"k"}
    (conflict,) = caught.value.conflicts
    assert (conflict.base, conflict.theirs) == (b"base", b"theirs")
    assert state_of(two) == before
    assert dict(store.items()) == stored
    assert two.commit(*change, default_merge=lambda old, ours, theirs: kvgit.THEIRS).merged


def test_what_a_merge_function_raises_or_returns_wrongly_is_a_conflict_that_carries_it():
    def fails(old, ours, theirs):
        raise ZeroDivisionError("no")

    _, two = two_handles()
    for function, kind in ((fails, ZeroDivisionError), (lambda *sides: "text", TypeError)):
        with pytest.raises(MergeConflict) as caught:
            two.commit({"k": b"ours"}, merge_fns={"k": function})
        assert isinstance(caught.value.merge_errors["k"], kind)


def test_functions_of_the_call_stand_before_those_of_the_handle_and_keys_before_the_default():
    for options, expected in (
        ({}, b"handle"),
        ({"merge_fns": {"k": lambda *sides: b"call"}}, b"call"),
        ({"default_merge": lambda *sides: b"default"}, b"handle"),
    ):
        _, two = two_handles()
        two.set_merge_fn("k", lambda *sides: b"handle")
        two.set_default_merge(lambda *sides: b"handle's default")
        two.commit({"k": b"ours"}, **options)
        assert two.get("k") == expected


def test_a_lost_race_raises_or_abandons_and_leaves_the_handle_as_it_was(monkeypatch):
    for is_merge in (False, True):
        one, two = two_handles()
        if not is_merge:
            two.refresh()
        before = state_of(two)
        publish = type(two.repo.store.writer()).publish

        def racing(writer, *args, one=one, publish=publish, **more):
            monkeypatch.undo()
            one.refresh()
            one.commit({"race": b"won"})
            return publish(writer, *args, **more)

        monkeypatch.setattr(type(two.repo.store.writer()), "publish", racing)
        with pytest.raises(ConcurrencyError):
            two.commit({"mine": b"1"})
        assert state_of(two)[:3] == before[:3] and two.last_merge_result == before[5]
        two.refresh()
        before = state_of(two)
        monkeypatch.setattr(type(two.repo.store.writer()), "publish", racing)
        result = two.commit({"mine": b"1"}, on_conflict="abandon")
        assert not result and result.commit is None and two.last_merge_result is result
        assert state_of(two)[:3] == before[:3]
        assert two.commit({"mine": b"1"})


def test_a_concurrency_error_is_an_error_of_the_library():
    assert issubclass(ConcurrencyError, kvgit.ConflictError)
    assert issubclass(ConcurrencyError, kvgit.KvgitHamtError)


def test_opening_makes_only_the_branch_that_is_asked_for():
    store = Memory()
    assert Versioned.branches(store) == []
    assert list(store.keys()) == []
    dev = Versioned(store, branch="dev")
    assert dev.list_branches() == ["dev"] and list(dev.keys()) == []
    assert Versioned(store).current_commit == dev.current_commit
    assert Versioned.branches(store) == ["dev", "main"]


def test_handles_move_by_refresh_reset_and_checkout():
    one, two = two_handles()
    first = list(one.history())[1]
    old = two.checkout(first, branch="review")
    assert (old.branch, old.get("k"), old.latest_head) == ("review", b"base", None)
    with pytest.raises(ValueError):
        old.commit({"x": b"1"})
    assert two.checkout("nonexistent") is None and two.checkout("ab" * 32) is None
    assert two.checkout(first[:12]).current_commit == first
    assert not two.reset_to("nonexistent")
    assert one.reset_to(first) and one.get("new") is None
    assert one.repo.reflog("main")[0].why == f"reset: to {first[:8]}"
    assert two.latest_head == first
    two.refresh()
    assert two.current_commit == first


def test_a_branch_that_exists_is_a_value_error_and_names_are_checked():
    handle = Versioned()
    with pytest.raises(ValueError, match="already exists"):
        handle.create_branch("main")
    for name in ("", "a b", "x..y", 7):
        with pytest.raises(ValueError):
            handle.create_branch(name)
        with pytest.raises(ValueError):
            Versioned(branch=name)


@pytest.mark.parametrize("key", [5, None, b"k", ("a",)])
def test_a_key_that_is_no_str_is_refused_and_nothing_happens(key):
    handle = Versioned()
    before = state_of(handle)
    for call in (lambda: handle.get(key), lambda: handle.commit({key: b"v"}), lambda: handle.get_many(key)):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(TypeError):
        handle.commit(removals=[key])
    assert key not in handle
    assert state_of(handle) == before


def test_wrong_arguments_are_refused():
    handle = Versioned()
    for wrong in ({"k": "text"}, {"k": None}, {"k": bytearray(b"x")}):
        with pytest.raises(TypeError, match="Expected bytes"):
            handle.commit(wrong)
    with pytest.raises(ValueError, match="on_conflict"):
        handle.commit(on_conflict="bogus")
    with pytest.raises(ValueError):
        handle.commit(removals="abc")
    with pytest.raises(ValueError):
        handle.commit(info="text")
    with pytest.raises(ValueError):
        handle.commit(info={"f": object()})
    with pytest.raises(TypeError):
        Versioned(commit_hash=5)
    with pytest.raises(TypeError, match="cas"):
        Versioned({})
    with pytest.raises(kvgit.CommitNotFoundError):
        Versioned(commit_hash="ab" * 32)
    for ask in (handle.parents, handle.commit_info, handle.history, lambda id: handle.diff(id, id)):
        with pytest.raises(kvgit.CommitNotFoundError):
            ask("cd" * 32)
    assert handle.list_branches() == ["main"] and len(list(handle.history())) == 1


def test_a_branch_that_is_gone_is_a_value_error():
    handle = Versioned()
    handle.repo.branches.delete("main")
    for call in (handle.refresh, lambda: handle.commit({"k": b"v"})):
        with pytest.raises(ValueError):
            call()
    assert handle.latest_head is None


def test_threads_with_handles_of_their_own_lose_nothing():
    store = Memory()
    Versioned(store)
    faults = []

    def work(number):
        handle = Versioned(store)
        for step in range(20):
            while True:
                try:
                    handle.commit({f"{number}/{step}": b"%d" % step})
                    break
                except ConcurrencyError:
                    handle.refresh()
                except BaseException as error:
                    faults.append(error)
                    return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(Versioned(store).keys()) == 80


def test_a_disk_store_is_shared_with_the_main_api_and_opened_again(tmp_path):
    with Disk(tmp_path / "s") as disk:
        handle = Versioned(disk, branch="dev")
        handle.commit({"k": b"v", "big": b"x" * 100_000})
        commit = handle.current_commit
        with kvgit.Repo(tmp_path / "s") as repo:
            assert repo.snapshot(branch="dev")["k"] == b"v"
            repo.worktree("dev").update({"k": b"w"})
            tree = repo.worktree("dev")
            tree["k"] = b"w"
            tree.commit()
        handle.refresh()
        assert handle.get("k") == b"w"
    with pytest.raises(kvgit.ClosedError):
        handle.get("k")
    with Disk(tmp_path / "s") as disk:
        assert Versioned(disk, commit_hash=commit).get("big") == b"x" * 100_000
        assert Versioned.branches(disk) == ["dev"]


def test_a_store_of_the_main_api_with_another_codec_is_refused(tmp_path):
    kvgit.open(tmp_path / "s").close()
    with pytest.raises(ValueError, match="msgpack"):
        kvgit.store("disk", path=tmp_path / "s")
