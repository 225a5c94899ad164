"""Branches and tags: live mappings, names, and moves that are refused."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kvgit_hamt as kvgit
from kvgit_hamt.objects import RefValue
from kvgit_hamt.refs import HEADS, check_name, to_datetime, to_us
from tests.support.homes import KINDS, Home, state_of


@pytest.fixture(params=KINDS)
def home(request, tmp_path):
    home = Home(request.param, tmp_path)
    yield home
    home.close()


@pytest.fixture
def repo(home):
    repo = home.open()
    repo.worktree().commit(info={"n": 1})
    return repo


def test_branches_are_a_mapping_of_names_to_commit_ids(repo):
    head = repo.branches["main"]
    for name in ("b", "a/x", "é", "a"):
        assert repo.branches.create(name) == head
    assert list(repo.branches) == ["a", "a/x", "b", "main", "é"]
    assert dict(repo.branches) == dict.fromkeys(repo.branches, head)
    assert dict(repo.branches.items()) == dict(repo.branches)
    assert list(repo.branches.values()) == [head] * 5
    assert len(repo.branches) == 5
    assert "a/x" in repo.branches
    assert "a/" not in repo.branches
    assert 5 not in repo.branches
    assert repo.branches.get("none") is None
    assert repo.branches.get("none", "x") == "x"
    assert repo.branches == dict(repo.branches)


def test_what_other_handles_do_is_seen_at_once(home, repo):
    other = home.open()
    other.branches.create("side")
    assert "side" in repo.branches
    commit = other.worktree("side").commit(info={}).commit
    assert repo.branches["side"] == commit
    other.branches.delete("side")
    assert list(repo.branches) == ["main"]


def test_a_branch_is_created_at_any_name_of_a_commit(repo):
    first, head = (commit.id for commit in reversed(list(repo.log())))
    repo.tags.create("v1", at=first)
    assert repo.branches.create("by-tag", at="v1") == first
    assert repo.branches.create("by-branch", at="by-tag") == first
    assert repo.branches.create("by-id", at=head) == head
    assert repo.branches.create("by-abbreviation", at=first[:8]) == first
    assert repo.branches.create("by-default") == head


def test_creating_what_exists_changes_nothing(repo):
    first = list(repo.log())[-1].id
    repo.branches.create("side", at=first)
    repo.tags.create("v1", at=first, info={"n": 1})
    before = state_of(repo)
    with pytest.raises(kvgit.BranchExistsError):
        repo.branches.create("side")
    with pytest.raises(kvgit.TagExistsError):
        repo.tags.create("v1", info={"n": 2})
    with pytest.raises(kvgit.BranchExistsError):
        repo.branches.rename("main", "side")
    with pytest.raises(kvgit.BranchExistsError):
        repo.branches.rename("main", "main")
    assert state_of(repo) == before
    assert repo.tags.info("v1") == {"n": 1}


def test_a_rename_moves_the_branch_in_one_step(repo):
    head = repo.branches["main"]
    repo.branches.rename("main", "trunk")
    assert dict(repo.branches) == {"trunk": head}
    assert repo.reflog("main")[0].why == "branch: renamed to trunk"
    assert repo.reflog("trunk")[0].why == "branch: renamed from main"
    assert (repo.reflog("trunk")[0].old, repo.reflog("trunk")[0].new) == (None, head)


def test_a_rename_that_loses_a_race_changes_nothing(repo, monkeypatch):
    def head_and_move(name, original=repo.branches.head):
        value = original(name)
        monkeypatch.undo()
        repo.worktree(name).commit(info={"late": 1})
        return value

    monkeypatch.setattr(repo.branches, "head", head_and_move)
    with pytest.raises(kvgit.BranchMovedError):
        repo.branches.rename("main", "trunk")
    assert list(repo.branches) == ["main"]
    assert repo.get_commit("main").info == {"late": 1}


def test_tags_are_a_mapping_that_never_moves_and_carries_info(repo):
    head = repo.branches["main"]
    repo.tags.create("v1", info={"by": "me", "n": [1, None]})
    repo.tags.create("v2")
    repo.worktree().commit(info={"n": 2})
    assert dict(repo.tags) == {"v1": head, "v2": head}
    assert repo.tags.info("v1") == {"by": "me", "n": [1, None]}
    assert repo.tags.info("v2") is None
    assert (repo.tags.get("v1"), repo.tags.get("none", 0)) == (head, 0)
    assert ("v1" in repo.tags, "none" in repo.tags, len(repo.tags)) == (True, False, 2)
    assert repo.tags.delete("v1") == head
    assert list(repo.tags) == ["v2"]
    with pytest.raises(kvgit.TagNotFoundError):
        repo.tags.info("v1")


def test_a_tag_and_a_branch_may_share_a_name_and_the_branch_comes_first(repo):
    first, head = (commit.id for commit in reversed(list(repo.log())))
    repo.branches.create("same", at=first)
    repo.tags.create("same", at=head)
    assert repo.get_commit("same").id == first
    assert repo.snapshot(tag="same").id == head


def test_a_ref_cannot_be_set_to_a_commit_that_is_not_there(repo):
    before = state_of(repo)
    with pytest.raises(kvgit.CommitNotFoundError):
        repo.refs.move(HEADS + "side", None, RefValue(b"\1" * 32), "test")
    assert state_of(repo) == before


@given(st.text(max_size=12))
def test_a_name_that_is_accepted_can_be_used(name):
    try:
        check_name(name)
    except kvgit.InvalidNameError:
        return
    repo = kvgit.Repo()
    repo.worktree(name, create=True)
    assert set(repo.branches) == {"main", name}
    assert repo.get_commit(name).id == repo.branches[name]


@given(st.datetimes(timezones=st.none() | st.just(timezone.utc) | st.just(timezone(timedelta(hours=3)))))
def test_times_come_back_as_they_were(when):
    aware = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    try:
        expected = aware.astimezone(timezone.utc)
    except OverflowError:
        with pytest.raises(kvgit.InvalidInputError):
            to_us(when)
    else:
        assert to_datetime(to_us(when)) == expected


def test_seconds_are_rounded_to_microseconds():
    assert to_us(1.0000005) in (1_000_000, 1_000_001)
    assert to_us(-1) == -1_000_000
    assert to_datetime(1) == datetime(1970, 1, 1, 0, 0, 0, 1, timezone.utc)


def test_a_tag_is_renamed_and_keeps_its_commit_and_info():
    with kvgit.open() as work:
        tags = work.repo.tags
        tags.create("v1", info={"by": "me"})
        tags.create("taken")
        with pytest.raises(kvgit.TagExistsError):
            tags.rename("v1", "taken")
        with pytest.raises(kvgit.TagNotFoundError):
            tags.rename("none", "v2")
        tags.rename("v1", "v2")
        assert sorted(tags) == ["taken", "v2"]
        assert tags["v2"] == work.base
        assert tags.info("v2") == {"by": "me"}
