"""The repository: opening, codecs, snapshots, commits, diffs, reflog, figures."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta, timezone

import pytest

import kvgit_hamt as kvgit
from kvgit_hamt.codec import Codec
from kvgit_hamt.results import Change, DiffStat
from tests.support.dags import grow
from tests.support.history import changed_keys
from tests.support.homes import KINDS, SMALL, Home


@pytest.fixture(params=KINDS)
def home(request, tmp_path):
    home = Home(request.param, tmp_path)
    yield home
    home.close()


@pytest.fixture
def repo(home):
    return home.open(shape=SMALL, clock=home.clock)


def put(repo, changes, branch="main", **options):
    worktree = repo.worktree(branch, create=True)
    for key, value in changes.items():
        if value is None:
            del worktree[key]
        else:
            worktree[key] = value
    return worktree.commit(**options).commit


# --- opening


def test_a_new_store_has_main_at_an_empty_commit(repo):
    assert dict(repo.branches) == {"main": repo.branches["main"]}
    assert dict(repo.tags) == {}
    initial = repo.get_commit("main")
    assert (initial.parents, initial.generation, initial.time, initial.info) == ((), 1, None, None)
    assert [entry.why for entry in repo.reflog()] == ["store created"]
    assert len(repo.snapshot()) == 0
    assert repo.worktree() == {}


def test_the_initial_commit_is_the_same_in_every_store_of_a_codec(tmp_path):
    ids = {
        (codec, Home(kind, tmp_path / kind / codec).open(codec=codec).branches["main"])
        for kind in KINDS
        for codec in ("msgpack", "pickle", "bytes")
    }
    assert len(ids) == 3


def test_what_was_stored_is_there_when_it_is_opened_again(home, repo):
    want = {f"k{i}": "x" * i for i in range(200)}
    commit = put(repo, want, info={"n": 1})
    repo.branches.create("side")
    repo.tags.create("v1", info={"by": "me"})
    log, reflog = list(repo.log()), repo.reflog()
    repo.close()
    again = home.open()
    assert again.store.shape == SMALL, "the shape is the store's, whatever is asked for"
    assert dict(again.snapshot()) == want
    assert dict(again.branches) == {"main": commit, "side": commit}
    assert (dict(again.tags), again.tags.info("v1")) == ({"v1": commit}, {"by": "me"})
    assert (list(again.log()), again.reflog()) == (log, reflog)


def test_a_store_that_another_makes_at_the_same_moment_is_taken_up(home, monkeypatch):
    def create(backend, config, clock, original=kvgit.repo.create_store):
        monkeypatch.undo()
        other = home.open()
        put(other, {"a": 1})
        return original(backend, config, clock)

    monkeypatch.setattr("kvgit_hamt.repo.create_store", create)
    assert home.open().snapshot()["a"] == 1

    def commit(writer, *args, original=kvgit.repo.history.put_commit):
        monkeypatch.undo()
        put(home.open(), {"b": 1})
        return original(writer, *args)

    home.__init__(home.kind, home.path.parent / "second")
    monkeypatch.setattr("kvgit_hamt.history.put_commit", commit)
    assert home.open().snapshot()["b"] == 1


def test_open_gives_a_worktree_of_any_branch_in_one_call(tmp_path):
    with kvgit.open(tmp_path / "s") as worktree:
        worktree["a"] = 1
        worktree.commit()
    with kvgit.open(tmp_path / "s", branch="dev/new") as worktree:
        assert dict(worktree) == {}
        assert list(worktree.repo.branches) == ["dev/new", "main"]
    with kvgit.open(str(tmp_path / "s")) as worktree:
        assert dict(worktree) == {"a": 1}
    memory = kvgit.open()
    memory["a"] = 2
    assert kvgit.open() == {}


def test_a_worktree_of_a_new_branch_starts_at_the_empty_commit(repo):
    first = repo.branches["main"]
    put(repo, {"a": 1})
    worktree = repo.worktree("new", create=True)
    assert (worktree.base, dict(worktree)) == (first, {})
    assert repo.worktree("new", create=True).base == first
    with pytest.raises(kvgit.BranchNotFoundError):
        repo.worktree("other")


def test_deleting_main_is_allowed_and_the_store_opens_again(home, repo):
    put(repo, {"a": 1})
    repo.branches.create("trunk")
    repo.branches.delete("main")
    repo.close()
    again = home.open()
    assert dict(again.snapshot(branch="trunk")) == {"a": 1}
    with pytest.raises(kvgit.BranchNotFoundError):
        again.snapshot()
    again.branches.create("main", at="trunk")
    assert dict(again.snapshot()) == {"a": 1}


# --- codecs


@pytest.mark.parametrize(
    ("codec", "value"),
    [
        ("msgpack", {"a": [1, 2.5, None, True, b"x", "é"], "b": {"c": -1}}),
        ("pickle", {1, 2, (3, 4)}),
        ("bytes", b"\0\xff"),
    ],
)
def test_the_codec_is_recorded_and_taken_up_again(home, codec, value):
    repo = home.open(codec=codec)
    put(repo, {"a": value})
    assert repo.get_commit("main").codec == codec
    repo.close()
    again = home.open(codec="pickle" if codec == "pickle" else None)
    assert again.codec.name == codec
    assert again.snapshot()["a"] == value


def test_a_store_of_pickles_is_opened_only_when_pickle_is_asked_for(home):
    repo = home.open(codec="pickle")
    put(repo, {"a": {1, 2}})
    repo.close()
    with pytest.raises(kvgit.InvalidInputError, match="codec='pickle'"):
        home.open()


def test_a_pair_of_ones_own_reads_what_it_wrote(home):
    pair = (lambda value: json.dumps(value, sort_keys=True).encode(), json.loads)
    repo = home.open(codec=pair)
    put(repo, {"a": {"x": [1]}, "big": ["y"] * 300})
    assert repo.snapshot().raw["a"] == b'{"x": [1]}'
    again = home.open(codec=pair)
    assert dict(again.snapshot()) == {"a": {"x": [1]}, "big": ["y"] * 300}
    assert again.get_commit("main").codec == "custom"


def test_a_codec_with_a_name_is_checked_by_it(home):
    mine = Codec("json", lambda value: json.dumps(value).encode(), json.loads)
    put(home.open(codec=mine), {"a": [1]})
    assert home.open(codec=mine).snapshot()["a"] == [1]
    with pytest.raises(kvgit.InvalidInputError, match="'json'"):
        home.open(codec=Codec("other", bytes, bytes))
    with pytest.raises(kvgit.InvalidInputError, match="'json'"):
        home.open()


def test_stored_bytes_that_the_codec_cannot_read_are_a_decode_error(home):
    repo = home.open(codec="bytes")
    put(repo, {"good": b"\x01", "bad": b"\xc1"})
    repo.codec = kvgit.Repo().codec
    snapshot = repo.snapshot()
    assert snapshot["good"] == 1
    for call in (lambda: snapshot["bad"], lambda: dict(snapshot), lambda: snapshot.get_many(["bad"])):
        with pytest.raises(kvgit.DecodeError, match="'bad'"):
            call()
    assert issubclass(kvgit.DecodeError, kvgit.CorruptionError)


# --- snapshots


def test_a_snapshot_is_of_a_commit_a_branch_or_a_tag_and_stays(repo):
    one = put(repo, {"a": 1})
    repo.tags.create("v1")
    by_branch = repo.snapshot(branch="main")
    two = put(repo, {"a": 2, "b": 2})
    assert repo.snapshot(commit=one)["a"] == 1
    assert repo.snapshot(commit=one[:9]).id == one
    assert repo.snapshot(tag="v1").id == one
    assert repo.snapshot().id == two
    assert (by_branch.id, dict(by_branch)) == (one, {"a": 1})
    repo.branches.delete("main")
    assert dict(by_branch) == {"a": 1}


def test_as_of_finds_the_newest_commit_made_by_then(repo):
    times = [10, 20, 20.5, 40]
    ids = [put(repo, {"t": when}, time=when) for when in times]
    put(repo, {"t": "no time"}, time=None)
    for when, want in ((10, 0), (19.9, 0), (20, 1), (20.4, 1), (39, 2), (40, 3), (10**9, 3)):
        assert repo.snapshot(as_of=when).id == ids[want]
    moment = datetime(1970, 1, 1, 0, 0, 20, tzinfo=timezone.utc)
    assert repo.snapshot(as_of=moment).id == ids[1]
    assert repo.snapshot(as_of=moment.replace(tzinfo=None)).id == ids[1]
    assert repo.snapshot(as_of=moment.astimezone(timezone(timedelta(hours=5)))).id == ids[1]
    assert repo.snapshot(commit=ids[2], as_of=30).id == ids[2]
    with pytest.raises(kvgit.CommitNotFoundError):
        repo.snapshot(as_of=9)


def test_as_of_follows_the_branch_and_not_what_was_merged_into_it(repo):
    one = put(repo, {"a": 1}, time=10)
    repo.branches.create("side")
    put(repo, {"b": 1}, branch="side", time=20)
    put(repo, {"c": 1}, time=15)
    repo.worktree().merge(branch="side", time=30)
    assert dict(repo.snapshot(as_of=25)) == {"a": 1, "c": 1}
    assert repo.snapshot(as_of=12).id == one


# --- commits


def test_a_commit_is_found_by_branch_tag_id_and_abbreviation(repo):
    commit = put(repo, {"a": 1})
    repo.tags.create("v1")
    for name in ("main", "v1", commit, commit[:4], commit[:20].upper()):
        assert repo.get_commit(name).id == commit
    repo.branches.create(commit[:6], at=repo.get_commit(commit).parents[0])
    assert repo.get_commit(commit[:6]).id != commit, "a branch of that name comes first"
    assert repo.snapshot(commit=commit[:6]).id == commit


def test_equal_contents_have_equal_trees(repo):
    put(repo, {"a": 1, "b": "x" * 100})
    tree = repo.get_commit("main").tree
    put(repo, {"a": 2})
    put(repo, {"a": 1})
    assert repo.get_commit("main").tree == tree


def test_commits_take_the_clock_they_are_given(repo, home):
    commits = [repo.get_commit(put(repo, {"a": n})) for n in range(3)]
    times = [commit.time for commit in commits]
    assert times == sorted(times)
    assert times[-1].timestamp() <= home.ticks


# --- diffs


@pytest.mark.parametrize("seed", [1, 2])
def test_diffs_of_any_two_commits_are_what_dicts_say(repo, seed):
    rng = random.Random(seed)
    keys = [f"{d}{i}" for d in ("", "dir/", "dir/sub/") for i in range(30)]
    model = grow(repo, rng, 40, keys)
    names = list(model.nodes)
    for _ in range(80):
        one, other = rng.choice(names), rng.choice(names)
        old, new = model.nodes[one].content, model.nodes[other].content
        for prefix in ("", "dir/", "d", "dir/sub/", "none"):
            keys_there = {key for key in changed_keys(old, new) if key.startswith(prefix)}
            found = list(repo.diff(one, other, prefix))
            assert {change.key for change in found} == keys_there
            assert len(found) == len(keys_there)
            for change in found:
                assert (change.old, change.new) == (old.get(change.key), new.get(change.key))
            bare = list(repo.diff(one, other, prefix=prefix, values=False))
            assert bare == [Change(change.key, None, None, change.kind) for change in found]
            kinds = [change.kind for change in found]
            stat = repo.diff_stat(one, other, prefix)
            assert stat == DiffStat(kinds.count("added"), kinds.count("removed"), kinds.count("modified"))
            assert stat.total == len(found)
            assert bool(stat) == bool(found)


def test_a_diff_without_values_reads_no_blob(repo):
    first = repo.branches["main"]
    put(repo, {f"k{i}": "x" * 5000 + str(i) for i in range(20)})
    before = repo.store.counters.copy()
    assert len(list(repo.diff(first, "main", values=False))) == 20
    assert repo.diff_stat(first, "main") == DiffStat(added=20)
    assert repo.store.counters.since(before).blobs_read == 0
    assert len(list(repo.diff(first, "main"))) == 20
    assert repo.store.counters.since(before).blobs_read == 20


def test_a_diff_and_a_log_take_none_for_no_prefix(repo):
    first = repo.branches["main"]
    put(repo, {"a": 1})
    assert len(list(repo.diff(first, "main", prefix=None))) == 1
    assert repo.diff_stat(first, "main", prefix=None).total == 1
    assert len(list(repo.log(prefix=None))) == 2


# --- reflog and figures


def test_the_reflog_tells_every_move_of_a_branch(repo):
    first = repo.branches["main"]
    one = put(repo, {"a": 1})
    two = put(repo, {"a": 2})
    repo.worktree().reset(one)
    found = [(entry.old, entry.new, entry.why) for entry in repo.reflog()]
    assert found == [
        (two, one, f"reset: to {one[:8]}"),
        (one, two, "commit"),
        (first, one, "commit"),
        (None, first, "store created"),
    ]
    times = [entry.time for entry in repo.reflog()]
    assert times == sorted(times, reverse=True)
    assert repo.reflog(limit=2) == repo.reflog()[:2]
    assert repo.reflog(limit=0) == []
    assert repo.reflog("none") == []


def test_the_reflog_outlives_its_branch(repo):
    repo.branches.create("side")
    put(repo, {"a": 1}, branch="side")
    head = repo.branches.delete("side")
    entry = repo.reflog("side")[0]
    assert (entry.old, entry.new, entry.why) == (head, None, "branch: deleted")
    repo.branches.create("side", at=entry.old)
    assert len(repo.reflog("side")) == 4


def test_the_reflogs_of_names_that_begin_alike_are_apart(repo):
    for name in ("a", "a/b", "ab", "a.b"):
        repo.branches.create(name)
    for name in ("a", "a/b", "ab", "a.b"):
        assert len(repo.reflog(name)) == 1


def test_figures_count_what_there_is(repo):
    before = repo.stats()
    put(repo, {"a": 1, "big": "x" * 1000})
    repo.branches.create("side")
    repo.tags.create("v1")
    after = repo.stats()
    assert after["branch_count"] == 2
    assert after["tag_count"] == 1
    assert after["commit_count"] == before["commit_count"] + 1
    assert after["record_count"] > before["record_count"]
    assert all(isinstance(value, int) for value in after.values())


# --- the end


def test_a_repository_is_a_context_manager_and_close_may_be_called_twice(home):
    with home.open() as repo:
        put(repo, {"a": 1})
        assert "1 branches" in repr(repo)
    assert repo.is_closed
    repo.close()
    with pytest.raises(kvgit.ClosedError, match="open it again"):
        repo.snapshot()


def test_closing_one_handle_leaves_the_others_open(home, repo):
    other = home.open()
    put(repo, {"a": 1})
    repo.close()
    assert other.snapshot()["a"] == 1
    put(other, {"b": 1})


def test_the_log_of_a_key_names_a_commit_without_parents_that_holds_it():
    work = kvgit.GCVersioned(high_water_bytes=10_000)
    work.commit({"a/kept": b"1", "dropped": b"2" * 10})
    done = work.rebase(keep_keys={"a/kept"})
    assert done.performed
    repo = work.repo
    assert [commit.id for commit in repo.log(key="a/kept")] == [repo.branches["main"]]
    assert [commit.id for commit in repo.log(prefix="a/")] == [repo.branches["main"]]
    assert list(repo.log(key="dropped")) == []


def test_a_short_name_that_is_nothing_is_told_as_such():
    with kvgit.open() as work, pytest.raises(kvgit.InvalidInputError, match="no branch or tag"):
        work.repo.get_commit("dev")


def test_a_log_may_start_at_several_commits():
    with kvgit.open() as work:
        repo = work.repo
        work["a"] = 1
        work.commit()
        dev = repo.worktree("dev", create=True)
        dev["b"] = 2
        dev.commit()
        both = [commit.id for commit in repo.log(["main", "dev"])]
        assert set(both) == {commit.id for name in ("main", "dev") for commit in repo.log(name)}
        assert len(both) == 3
        assert [commit.id for commit in repo.log(["main", "dev", "main"], key="b")] == [repo.branches["dev"]]
